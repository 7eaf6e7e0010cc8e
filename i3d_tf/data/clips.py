"""Labelled clips: how a data set lists them, where their files are, and their frames."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import tempfile
from typing import Any, NamedTuple

import numpy as np

from i3d_tf import errors
from i3d_tf import stores
from i3d_tf.data import tfds_videos
from i3d_tf.video import decode
from i3d_tf.video import listing
from i3d_tf.video import sound
from i3d_tf.video import stills

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Clip:
  """One video, or part of it, and its label.

  Attributes:
    id: differs from that of all other clips of the data set.
    path: a file, or an example of a TFDS data set (see `tfds_videos`).
    start: seconds into the file; None: from its beginning.
    end: seconds into the file; None: to its end.
    label: one of the data set's classes; None: unlabelled.
  """

  id: str
  path: str
  start: float | None = None
  end: float | None = None
  label: str | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The clips of a data set, those with a file and those without.

  Attributes:
    name: as it was asked for, for example 'ucf101:1'.
    classes: names in the order of their indices.
    splits: split -> the clips whose files are there.
    missing: split -> those whose files are not, each with the path where it was expected; the same keys.
  """

  name: str
  classes: tuple[str, ...]
  splits: Mapping[str, tuple[Clip, ...]]
  missing: Mapping[str, tuple[Clip, ...]]


class Row(NamedTuple):
  """One clip as it is listed.

  Attributes:
    where: FILE:LINE.
    split: one of `SPLITS`.
    id: differs from that of all other clips.
    file: where the video is expected, below the folder of the videos.
    label: a class name; None: unlabelled.
    start: seconds into the source; None: from its beginning.
    end: seconds into the source; None: to its end.
  """

  where: str
  split: str
  id: str
  file: str
  label: str | None = None
  start: float | None = None
  end: float | None = None


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

  @property
  def used(self) -> tuple[str, ...]:
    """The splits that are to get clips."""
    return tuple(split for split in SPLITS if getattr(self, split))

  def split_of(self, clip_id: str) -> str:
    """Returns the split of a clip.

    Args:
      clip_id: the clip's id.

    Raises:
      I3dError: if the group is not found in the id.
    """
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


def relative_path(clip: Clip, root: str | os.PathLike) -> str:
  """Returns where the clip's video is below a folder.

  Args:
    clip: of a file, or an example of a TFDS data set, whose path is returned as it is.
    root: the folder.

  Returns:
    The path, with slashes.
  """
  if clip.path.startswith(tfds_videos.PREFIX):
    return clip.path
  return pathlib.PurePath(os.path.relpath(stores.as_path(clip.path), stores.as_path(root))).as_posix()


def iter_frames(
  clip: Clip,
  *,
  fps: float = decode.FRAME_RATE,
  short_side: int | None = decode.SHORT_SIDE,
  allow_damaged: bool = False,
  note: Callable[[str], None] | None = None,
  frame_rate: float = decode.FRAME_RATE,
) -> Iterator[np.ndarray]:
  """Yields the clip's RGB frames as `decode.iter_frames` does, from `start` to `end` only.

  What comes before `start` is decoded as well, what follows `end` is not. Where TFDS keeps frames in place of a video
  file, it keeps no times: they are yielded as they are, whatever `fps`.

  Args:
    clip: what to read.
    fps: frames per second.
    short_side: pixels of the frames' shorter side; None: as it is.
    allow_damaged: as in `decode.iter_frames`.
    note: as in `decode.iter_frames`.
    frame_rate: as in `decode.iter_frames`.

  Yields:
    Frames, uint8 `[H, W, 3]`.

  Raises:
    VideoError: as `decode.iter_frames`, or if the video ends before `start`.
  """
  first = 0 if clip.start is None else round(clip.start * fps)
  last = None if clip.end is None else round(clip.end * fps)
  is_empty = True
  options = {"fps": fps, "short_side": short_side, "allow_damaged": allow_damaged, "note": note}
  options["frame_rate"] = frame_rate
  with contextlib.closing(_whole_video(clip.path, **options)) as frames:
    for frame in itertools.islice(frames, first, last):
      is_empty = False
      yield frame
  if is_empty:
    raise errors.VideoError(f"{clip.path}: the video has no frames from {clip.start} to {clip.end} seconds")


def log_mel(clip: Clip, *, allow_damaged: bool = False) -> np.ndarray:
  """Returns the spectrogram of the clip's sound, see `sound.log_mel`; where TFDS keeps frames there is none.

  Args:
    clip: what to read.
    allow_damaged: as in `sound.log_mel`.

  Returns:
    float32 `[steps, sound.NUM_BANDS]`.

  Raises:
    VideoError: as `sound.log_mel`.
  """
  with _opened(clip.path) as video:
    if isinstance(video, np.ndarray):
      return np.zeros((0, sound.NUM_BANDS), np.float32)
    return sound.log_mel(video, start=clip.start, end=clip.end, allow_damaged=allow_damaged)


def _whole_video(path: str, **options: Any) -> Generator[np.ndarray]:
  with _opened(path) as video:
    if isinstance(video, np.ndarray):
      yield from (decode.resize(frame, options["short_side"]) for frame in video)
    else:
      yield from decode.iter_frames(video, **options)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[str | np.ndarray]:
  """The path of a video's file, a temporary one of what TFDS keeps; or the frames that it keeps in its place."""
  video = tfds_videos.read_example(path) if path.startswith(tfds_videos.PREFIX) else path
  if not isinstance(video, bytes):
    yield video
    return
  with tempfile.NamedTemporaryFile() as file:
    file.write(video)
    file.flush()
    try:
      yield file.name
    except errors.VideoError as error:
      raise errors.VideoError(str(error).replace(file.name, path)) from None


def collect(
  name: str,
  classes: tuple[str, ...],
  rows: Iterable[Row],
  root: pathlib.Path,
  locate: Callable[[Clip], Clip | None],
) -> Dataset:
  """Makes a data set of the rows of a list: the clips with a file, and those without.

  Args:
    name: of the data set.
    classes: names in the order of their indices.
    rows: what is listed.
    root: the folder of the videos.
    locate: returns a clip with the path of its file, or None if there is none.

  Returns:
    The data set, its splits in the order of `SPLITS`, and the clips of each in the order of the rows.

  Raises:
    I3dError: if a clip is listed twice, or none of them has a file.
  """
  places: dict[str, str] = {}
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


class VideoFiles:
  """The videos at any depth below a folder, by their names without ending."""

  def __init__(self, root: pathlib.Path, key: Callable[[str], str] = str):
    """Lists the files.

    Args:
      root: the folder.
      key: what is compared of a name; `str.casefold` does not tell upper from lower case.
    """
    self._key = key
    self._paths: dict[str, list[str]] = {}
    for path in find_videos(root):
      self._paths.setdefault(key(stills.without_suffix(path).name), []).append(path)

  def locate(self, clip: Clip, name: str) -> Clip | None:
    """Finds the file of a clip.

    Args:
      clip: whose path is to be that of the file.
      name: of the file, without ending.

    Returns:
      The clip with its path, or None if there is no such file.

    Raises:
      I3dError: if there are several.
    """
    paths = self._paths.get(self._key(name), ())
    if len(paths) > 1:
      raise errors.I3dError(f"{paths[0]} and {paths[1]} could both be the clip {clip.id}; keep one of them")
    return dataclasses.replace(clip, path=paths[0]) if paths else None


def find_videos(root: pathlib.Path) -> list[str]:
  """Lists the videos at any depth below a folder, sorted by the parts of their paths; see `listing.list_folder`.

  Args:
    root: the folder.

  Returns:
    Their paths.

  Raises:
    VideoError: if there are none, or the folder cannot be read.
  """
  return [os.fspath(path) for path in listing.list_folder(root).videos]
