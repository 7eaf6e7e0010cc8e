"""Labelled clips of UCF-101, HMDB-51, Kinetics, a folder of one's own, or TFDS: one list for each split.

The order of the clips is that of the official lists, or sorted; it never depends on the file system.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import tempfile

import numpy as np

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf.data import annotations as annotations_lib
from i3d_tf.data import tfds_videos
from i3d_tf.video import decode

SPECS = ("ucf101:1|2|3", "hmdb51:1|2|3", "kinetics400", "kinetics600", "kinetics700", "folder", "tfds:NAME[/CONFIG]")
SPLITS = annotations_lib.SPLITS

_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # in a list of one clip a line, in UTF-8


@dataclasses.dataclass(frozen=True)
class Clip:
  """One video, or part of it, and its label.

  Attributes:
    id: differs from that of all other clips of the dataset.
    path: a file, or an example of a TFDS dataset (`tfds_videos`).
    start: seconds into the file; None: from its beginning.
    end: seconds into the file; None: to its end.
    label: one of the dataset's classes; None: unlabelled.
  """

  id: str
  path: str
  start: float | None = None
  end: float | None = None
  label: str | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What a dataset lists: `splits[name]` and `missing[name]` together.

  Attributes:
    name: the spec that was loaded.
    classes: names in the order of their indices.
    splits: split -> the clips whose files are there.
    missing: split -> those whose files are not, each with the path where it was expected; the same keys.
  """

  name: str
  classes: tuple[str, ...]
  splits: Mapping[str, tuple[Clip, ...]]
  missing: Mapping[str, tuple[Clip, ...]]


@dataclasses.dataclass(frozen=True)
class FolderSplit:
  """How a folder without train/, val/ and test/ is split: by a hash of each clip's id, whatever else is there.

  Attributes:
    train: fraction of the clips.
    val: fraction of the clips.
    test: fraction of the clips.
    seed: another seed gives another split.
    group: a regular expression; clips in whose ids it finds the same text stay together. An id is the path below the
      folder without the file name's ending; `v_.*_g\\d+` keeps what UCF-101 cut from one video together. None: each
      clip by itself.
  """

  train: float = 0.8
  val: float = 0.1
  test: float = 0.1
  seed: int = 0
  group: str | None = None

  def __post_init__(self):
    fractions = (self.train, self.val, self.test)
    if not all(0 <= fraction <= 1 for fraction in fractions) or abs(sum(fractions) - 1) > 1e-6:
      raise errors.I3dError(f"the fractions of train, val and test are {fractions}; they must add up to 1")
    try:
      re.compile("" if self.group is None else self.group)
    except re.error as error:
      raise errors.I3dError(f"the group {self.group!r} is not a regular expression: {error}") from None

  def split_of(self, clip_id: str) -> str:
    """The split of a clip; I3dError if the group is not found in its id."""
    key = clip_id
    if self.group is not None:
      found = re.search(self.group, clip_id)
      if found is None:
        raise errors.I3dError(f"the group {self.group!r} is not found in the clip {clip_id}")
      key = found[0]
    digest = hashlib.sha256(f"{self.seed}/{key}".encode()).digest()
    place = int.from_bytes(digest[:6], "big") / 2**48  # exact, below 1
    bounds = itertools.accumulate((self.train, self.val))
    return next((split for split, bound in zip(SPLITS, bounds) if place < bound), "test")


def load(
  spec: str,
  root: str | os.PathLike,
  *,
  annotations: str | os.PathLike | None = None,
  folder_split: FolderSplit | None = None,
) -> Dataset:
  """Lists the clips of a dataset and finds their files.

  Args:
    spec: one of `SPECS`.
    root: the folder of the videos, which may be at any depth below it; for TFDS the data_dir.
    annotations: the folder of the official lists, for Kinetics also one CSV file; see `annotations.read_ucf101` and
      `read_kinetics` for where they are found by default.
    folder_split: only for 'folder' without sub-folders train, val and test; the default is `FolderSplit()`.

  Raises:
    I3dError: if there is no such dataset, an option is not for it, a list is missing or a line of it is wrong, two
      files could be one clip, or no clip has a file.
  """
  root = pathlib.Path(root)
  kind, colon, rest = spec.partition(":")
  if folder_split is not None and spec != "folder":
    raise errors.I3dError(f"the dataset {spec} has splits of its own; fractions, seed and group are for 'folder'")
  if annotations is not None and kind in ("folder", "tfds"):
    raise errors.I3dError(f"annotations are given, but the dataset {spec} has none")
  match kind, colon, rest:
    case "ucf101", ":", "1" | "2" | "3":
      return _load_ucf101(spec, root, annotations_lib.read_ucf101(int(rest), root, annotations))
    case "hmdb51", ":", "1" | "2" | "3":
      return _load_hmdb51(spec, root, annotations_lib.read_hmdb51(int(rest), root, annotations))
    case "kinetics400" | "kinetics600" | "kinetics700", "", "":
      return _load_kinetics(spec, root, annotations_lib.read_kinetics(int(kind[-3:]), root, annotations))
    case "folder", "", "":
      return _load_folder(root, folder_split)
    case "tfds", ":", name if name:
      return _load_tfds(spec, name, root)
  raise errors.I3dError(f"there is no dataset {spec!r}; there are {', '.join(SPECS)}")


def relative_path(clip: Clip, root: str | os.PathLike) -> str:
  """The clip's path below `root`, with slashes; that of a TFDS example as it is."""
  if clip.path.startswith(tfds_videos.PREFIX):
    return clip.path
  return pathlib.PurePath(os.path.relpath(clip.path, root)).as_posix()


def iter_frames(
  clip: Clip, *, fps: float = decode.FRAME_RATE, short_side: int | None = decode.SHORT_SIDE
) -> Iterator[np.ndarray]:
  """Yields the clip's RGB frames, uint8 `[H, W, 3]`, as `decode.iter_frames` does, from `start` to `end` only.

  What comes before `start` is decoded as well, what follows `end` is not. Where TFDS keeps frames in place of a video
  file, it keeps no times: they are yielded as they are, whatever `fps`.

  Raises:
    VideoError: as `decode.iter_frames`, or if the video ends before `start`.
  """
  first = 0 if clip.start is None else round(clip.start * fps)
  last = None if clip.end is None else round(clip.end * fps)
  is_empty = True
  with contextlib.closing(_whole_video(clip.path, fps, short_side)) as frames:
    for frame in itertools.islice(frames, first, last):
      is_empty = False
      yield frame
  if is_empty:
    raise errors.VideoError(f"{clip.path}: the video has no frames from {clip.start} to {clip.end} seconds")


def _whole_video(path: str, fps: float, short_side: int | None) -> Iterator[np.ndarray]:
  if not path.startswith(tfds_videos.PREFIX):
    yield from decode.iter_frames(path, fps=fps, short_side=short_side)
    return
  video = tfds_videos.read_example(path)
  if isinstance(video, np.ndarray):
    yield from (decode.resize(frame, short_side) for frame in video)
    return
  with tempfile.NamedTemporaryFile() as file:
    file.write(video)
    file.flush()
    try:
      yield from decode.iter_frames(file.name, fps=fps, short_side=short_side)
    except errors.VideoError as error:
      raise errors.VideoError(str(error).replace(file.name, path)) from None


def _load_ucf101(spec: str, root: pathlib.Path, rows: list[annotations_lib.Row]) -> Dataset:
  """File names are compared without case: copies of the videos spell HandStandPushups in two ways."""
  files = _Files(root, str.casefold)
  return _collect(spec, resources.class_list("ucf101"), rows, root, lambda clip: files.locate(clip, clip.id))


def _load_hmdb51(spec: str, root: pathlib.Path, rows: list[annotations_lib.Row]) -> Dataset:
  files = _Files(root)
  return _collect(spec, resources.class_list("hmdb51"), rows, root, lambda clip: files.locate(clip, clip.id))


def _load_kinetics(spec: str, root: pathlib.Path, rows: list[annotations_lib.Row]) -> Dataset:
  """A trimmed file, named after id, start and end, is preferred to a whole video, named after the id."""
  files = _Files(root)

  def locate(clip: Clip) -> Clip | None:
    trimmed = files.locate(dataclasses.replace(clip, start=None, end=None), clip.id)
    return files.locate(clip, clip.id.rsplit("_", 2)[0]) if trimmed is None else trimmed

  classes = resources.class_list(spec.replace("kinetics", "kinetics_"))
  return _collect(spec, classes, rows, root, locate)


def _load_folder(root: pathlib.Path, options: FolderSplit | None) -> Dataset:
  videos = _find_videos(root)
  folders = _subfolders(root)
  own = [split for split in SPLITS if split in folders]
  if own and len(folders) > len(own):
    stray = next(folder for folder in folders if folder not in own)
    raise errors.I3dError(f"{root / stray}: beside {', '.join(own)} this must be one of {', '.join(SPLITS)}")
  if own and options is not None:
    raise errors.I3dError(f"{root} is split already, into {', '.join(own)}; fractions, seed and group do not apply")
  options = FolderSplit() if options is None else options
  rows = []
  for path in videos:
    relative = pathlib.PurePath(path).relative_to(root)
    parts = relative.parts[1:] if own else relative.parts
    if len(parts) < 2:
      raise errors.I3dError(f"{path}: the video is not in the folder of a class")
    if _UNWRITABLE.search(str(relative)):
      raise errors.I3dError(f"{path!a}: the name has a control character or is not UTF-8; rename the file")
    clip_id = relative.with_suffix("").as_posix()
    split = relative.parts[0] if own else options.split_of(clip_id)
    rows.append(annotations_lib.Row(path, split, clip_id, str(relative), parts[0]))
  classes = sorted({label for base in (own or [""]) for label in _subfolders(root / base)})
  if empty := set(classes) - {row.label for row in rows}:
    raise errors.I3dError(f"{root}: the class {min(empty)} has no video; remove its folder or fill it")
  return _collect("folder", tuple(classes), rows, root, lambda clip: clip)


def _load_tfds(spec: str, name: str, root: pathlib.Path) -> Dataset:
  listing = tfds_videos.list_examples(name, root)
  splits = {
    split: tuple(Clip(f"{split}/{i:06}", path, label=label) for i, (path, label) in enumerate(examples))
    for split, examples in listing.splits.items()
  }
  return Dataset(spec, listing.classes, splits, {split: () for split in splits})


def _collect(
  name: str,
  classes: tuple[str, ...],
  rows: Iterable[annotations_lib.Row],
  root: pathlib.Path,
  locate: Callable[[Clip], Clip | None],
) -> Dataset:
  """Divides the clips of the rows into those that `locate` finds and those that it does not."""
  places = {}
  present: dict[str, list[Clip]] = {}
  missing: dict[str, list[Clip]] = {}
  for row in rows:
    if row.id in places:
      raise errors.I3dError(f"{row.where}: the clip {row.id} is also at {places[row.id]}")
    places[row.id] = row.where
    clip = Clip(row.id, str(root / row.file), row.start, row.end, row.label)
    found = locate(clip)
    for clips in (present, missing):
      clips.setdefault(row.split, [])
    (missing if found is None else present)[row.split].append(clip if found is None else found)
  if not any(present.values()):
    raise errors.I3dError(f"{root}: of the {len(places)} clips that {name} lists none is here")
  order = [split for split in SPLITS if split in present]
  return Dataset(name, classes, *({split: tuple(clips[split]) for split in order} for clips in (present, missing)))


class _Files:
  """The videos below a folder by their names without ending."""

  def __init__(self, root: pathlib.Path, key: Callable[[str], str] = str):
    self._key = key
    self._paths: dict[str, list[str]] = {}
    for path in _find_videos(root):
      self._paths.setdefault(key(pathlib.PurePath(path).stem), []).append(path)

  def locate(self, clip: Clip, name: str) -> Clip | None:
    """The clip with the path of the video `name`; None if there is none, I3dError if there are several."""
    paths = self._paths.get(self._key(name), ())
    if len(paths) > 1:
      raise errors.I3dError(f"{paths[0]} and {paths[1]} could both be the clip {clip.id}; keep one of them")
    return dataclasses.replace(clip, path=paths[0]) if paths else None


def _find_videos(root: pathlib.Path) -> list[str]:
  """The videos below a folder, sorted by their parts; I3dError if there are none."""
  if not root.is_dir():
    raise errors.I3dError(f"{root}: there is no such folder of videos")
  videos = list(_walk(os.fspath(root), ()))
  if not videos:
    raise errors.I3dError(f"{root}: the folder holds no video ({' '.join(sorted(decode.VIDEO_SUFFIXES))})")
  return videos


def _walk(folder: str, ancestors: tuple[str, ...]) -> Iterator[str]:
  """Follows links, as class folders often are, but none back to where it came from; skips hidden files."""
  real = os.path.realpath(folder)
  if real in ancestors:
    return
  for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
    if entry.name.startswith("."):
      continue
    if entry.is_dir():
      yield from _walk(entry.path, (*ancestors, real))
    elif os.path.splitext(entry.name)[1].lower() in decode.VIDEO_SUFFIXES and entry.is_file():
      yield entry.path


def _subfolders(folder: pathlib.Path) -> list[str]:
  return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
