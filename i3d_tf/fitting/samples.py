"""The labelled videos of `fit`: a folder of classes, or a CSV file; and what their files alone tell.

What a file tells (its size, length, rate and bytes, and a few of its frames) is kept in the run's folder, so that a run
that goes on does not decode the videos again.
"""

from collections.abc import Callable, Iterator, Sequence
import csv
import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import workdir
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import datasets
from i3d_tf.features import results
from i3d_tf.video import decode
from i3d_tf.video import sound as sound_lib
from i3d_tf.video import stills

_COLUMNS = ("path", "label", "split", "group")
_SIDE = 96  # pixels of the shorter side of the frames that are kept
NUM_KEPT = 8  # frames of each video that are kept
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Samples:
  """Labelled videos.

  Attributes:
    name: Of the set.
    classes: Names of the classes in index order.
    ids: Id of each video: its path below the folder without the file name's ending.
    paths: Path of each video.
    labels: Class index of each video.
    splits: Split of each video if it came with one, of `clips.SPLITS`; empty otherwise.
    groups: Group of each video if it is stated; empty otherwise.
  """

  name: str
  classes: tuple[str, ...]
  ids: tuple[str, ...]
  paths: tuple[str, ...]
  labels: tuple[int, ...]
  splits: tuple[str, ...] = ()
  groups: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.ids)

  def take(self, chosen: Sequence[int]) -> "Samples":
    """Returns some of the videos, with all classes.

    Args:
      chosen: Indices of the videos.
    """
    names = ("ids", "paths", "labels", "splits", "groups")
    parts: dict[str, Any] = {
      name: tuple(values[i] for i in chosen) if (values := getattr(self, name)) else () for name in names
    }
    return dataclasses.replace(self, **parts)

  def dataset(self, splits: Sequence[str]) -> clips_lib.Dataset:
    """Returns the videos as a data set to make records of.

    Args:
      splits: Split of each video, of `clips.SPLITS`.
    """
    rows = zip(self.ids, self.paths, self.labels, splits, strict=True)
    found: dict[str, list[clips_lib.Clip]] = {split: [] for split in clips_lib.SPLITS if split in splits}
    for name, path, label, split in rows:
      found[split].append(clips_lib.Clip(name, path, label=self.classes[label]))
    clips = {split: tuple(each) for split, each in found.items()}
    return clips_lib.Dataset(self.name, self.classes, clips, {split: () for split in clips})


def load(path: str | os.PathLike) -> Samples:
  """Returns the videos of a folder or of a CSV file; none of them is opened.

  Args:
    path: A folder with a sub-folder for each class, perhaps below train, val and test in any spelling; or a CSV file
      whose lines are a path, from the file's folder on, and a label. A first line may name the columns: path and label,
      and perhaps split (train, val or test) and group.

  Raises:
    I3dError: If there is no such folder or file, a class has no video, or a line is wrong.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return _of_folder(path)
  if not path.exists():
    raise errors.I3dError(f"{path}: there is no such folder of videos, nor CSV file")
  return _of_csv(path)


def _of_folder(root: pathlib.Path) -> Samples:
  own = datasets.split_folders(root)
  everything = None if own else clips_lib.FolderSplit(train=1.0, val=0.0, test=0.0)
  found = datasets.load("folder", root, folder_split=everything)
  numbers = {name: number for number, name in enumerate(found.classes)}
  rows = [(clip, split) for split, clips in found.splits.items() for clip in clips]
  return Samples(
    name=root.resolve().name,
    classes=found.classes,
    ids=tuple(clip.id for clip, _ in rows),
    paths=tuple(clip.path for clip, _ in rows),
    labels=tuple(numbers[clip.label or ""] for clip, _ in rows),
    splits=tuple(split for _, split in rows) if own else (),
  )


def _of_csv(path: pathlib.Path) -> Samples:
  rows = list(_rows(path))
  if not rows:
    raise errors.I3dError(f"{path}: it lists no video; a line is a path and a label, separated by a comma")
  classes = tuple(sorted({row["label"] for row in rows}))
  places: dict[str, str] = {}
  for row in rows:
    if row["id"] in places:
      raise errors.I3dError(f"{row['where']}: the video {row['id']} is also at {places[row['id']]}")
    places[row["id"]] = row["where"]
  column = lambda name: tuple(row[name] for row in rows) if name in rows[0] else ()
  labels = tuple(classes.index(row["label"]) for row in rows)
  return Samples(path.stem, classes, column("id"), column("path"), labels, column("split"), column("group"))


def _rows(path: pathlib.Path) -> Iterator[dict[str, str]]:
  """The lines of a CSV file by column, with `id` and `where`."""
  files.check_regular(path)
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except UnicodeDecodeError:
    raise errors.I3dError(f"{path}: this is not text in UTF-8") from None
  columns: Sequence[str] = _COLUMNS[:2]
  for number, line in enumerate(lines, 1):
    where = f"{path}:{number}"
    try:
      cells = [cell.strip() for cell in next(csv.reader([line], strict=True), [])]
    except csv.Error as error:
      raise errors.I3dError(f"{where}: {files.printable(line, 80)!r} is not a line of CSV: {error}") from None
    if not any(cells):
      continue
    if number == 1 and set(_COLUMNS[:2]) <= set(cells):
      columns = cells
      if unknown := [cell for cell in cells if cell not in _COLUMNS]:
        raise errors.I3dError(f"{where}: there is no column {unknown[0]!r}; there are {', '.join(_COLUMNS)}")
      continue
    if len(cells) != len(columns) or not all(cells):
      raise errors.I3dError(f"{where}: there must be {','.join(columns)}; it is {files.printable(line, 80)!r}")
    row = dict(zip(columns, cells, strict=True))
    if row.get("split", "train") not in clips_lib.SPLITS:
      raise errors.I3dError(f"{where}: the split is {row['split']!r}; allowed are {', '.join(clips_lib.SPLITS)}")
    name = stills.without_suffix(pathlib.Path(row["path"]))
    relative = name.relative_to(name.anchor).as_posix()
    full = os.path.normpath(path.parent / row["path"])
    yield {**row, "id": relative.replace("../", ""), "path": full, "where": where}


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
  """What a video file tells without a network.

  Attributes:
    width, height: Pixels of its frames.
    rate: Its frames per second.
    num_frames: Frames at the network's rate.
    num_bytes: Size of the file.
    digest: SHA-256 of the file; '' of a folder of images.
    frames: `NUM_KEPT` of its frames at equal distances, uint8 `[NUM_KEPT, H, W, 3]`, the shorter side of 96 pixels.
    sound: float32 `[sound.NUM_STATISTICS]`; empty if there is no sound, or it was not asked for.
  """

  width: int
  height: int
  rate: float
  num_frames: int
  num_bytes: int
  digest: str
  frames: np.ndarray
  sound: np.ndarray

  def numbers(self) -> list[float]:
    """Returns what a classifier can take of them: size, shape, length, rate and bytes, most of them as logarithms."""
    values = (self.width, self.height, self.num_frames, self.num_bytes, self.num_bytes / self.num_frames)
    return [*np.log(np.maximum(values, 1)).tolist(), self.width / self.height, self.rate]


def picture(*facts: Facts) -> bytes:
  """Returns frames of videos as JPEG: a row for each video.

  Args:
    *facts: Of the videos.
  """
  rows = [np.concatenate(list(each.frames), axis=1) for each in facts]
  width = max(row.shape[1] for row in rows)
  rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
  image = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
  return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def read_facts(
  samples: Samples, folder: str | os.PathLike, *, fps: float, with_sound: bool, done: Callable[[], object]
) -> list[Facts | str]:
  """Returns the facts of each video, or a sentence why it cannot be read.

  Args:
    samples: The videos.
    folder: Folder where facts are kept, and from which those of videos that have not changed since are taken.
    fps: Frames per second of the network.
    with_sound: Whether to listen to the videos.
    done: Called after each video.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  found: list[Facts | str] = []
  for path in samples.paths:
    try:
      found.append(_facts(path, folder, fps, with_sound))
    except errors.OF_INPUT as error:
      if isinstance(error, OSError) and error.filename is not None and os.fspath(error.filename) != path:
        raise  # the folder cannot be written
      found.append(errors.naming(path, errors.describe(error)))
    done()
  return found


def _facts(path: str, folder: pathlib.Path, fps: float, with_sound: bool) -> Facts:
  """The facts of a video, from the folder if they were kept there."""
  status = os.stat(path)
  key = f"{_VERSION} {results.key(path)} {status.st_size} {status.st_mtime_ns} {fps}{' with sound' * with_sound}"
  kept = folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npz"
  names = [field.name for field in dataclasses.fields(Facts)]
  try:
    arrays = files.read_arrays(kept)
    is_array = lambda name: name in ("frames", "sound")
    values: dict[str, Any] = {name: arrays[name] if is_array(name) else arrays[name].item() for name in names}
    return Facts(**values)
  except (errors.I3dError, OSError, KeyError):
    pass  # there is none yet, or it is damaged
  info = decode.probe(path)
  count, frames = _sample(decode.iter_frames(path, fps=fps, short_side=_SIDE))
  content = results.FileContent(path).facts()
  sound = np.zeros(0, np.float32)
  if with_sound and len(heard := sound_lib.log_mel(path)):
    sound = sound_lib.statistics(heard)
  digest = content.get("sha256", "")
  facts = Facts(info.width, info.height, info.frame_rate, count, status.st_size, digest, frames, sound)
  with workdir.replacing(kept) as file:
    np.savez(file, **{name: getattr(facts, name) for name in names})
  return facts


def _sample(frames: Iterator[np.ndarray]) -> tuple[int, np.ndarray]:
  """The number of frames, and `NUM_KEPT` of them at equal distances; no more than four times as many are held."""
  held: list[np.ndarray] = []
  stride, count = 1, 0
  for frame in frames:
    if count % stride == 0:
      held.append(frame)
    count += 1
    if len(held) == 4 * NUM_KEPT:
      held, stride = held[::2], 2 * stride
  chosen = np.rint(np.linspace(0, len(held) - 1, NUM_KEPT)).astype(int)
  return count, np.stack([held[index] for index in chosen])
