"""Videos as bags of feature rows: lists of videos, files of features, and the truth about frames.

Features are read as this project writes them (`STEM-rgb-PooledFeatures.npz`), as RTFM and its successors have them
(`STEM_i3d.npy`, `[N, crops, D]`), as XD-Violence has them (`STEM__0.npy`, a file a crop), and as text, a row a line
(`STEM_c3d.txt`, WaqasSultani/AnomalyDetectionCVPR2018). Imports no TensorFlow.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
import re
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import files

HOP = 16  # frames from one row to the next of files that do not state it, as all published sets have it
_KEYS = ("features", "feature")
_SUFFIX = re.compile(r"(?:[_-](?P<stream>rgb|flow)(?:-\w+)?|_i3d|_c3d|__(?P<crop>\d+))?\.(?:npy|npz|txt)")
_NORMAL = re.compile(r"normal|label_A", re.IGNORECASE)  # in the names of UCF-Crime's and XD-Violence's quiet videos
_FACTS = ("endpoint", "pooling", "window", "hop", "tail", "crops", "checkpoint", "stream", "fps")  # of our own files


@dataclasses.dataclass(frozen=True, eq=False)
class Bag:
  """The features of one video.

  Attributes:
    name: As the list has it.
    features: float32 `[crops, N, D]`.
    is_abnormal: Whether something unusual happens in it; None: not known.
    num_frames: Number of its frames.
    hop: Frames from one row to the next; None: rows share the frames evenly.
    facts: How the features were taken, of files of this project.
  """

  name: str
  features: np.ndarray
  is_abnormal: bool | None
  num_frames: int
  hop: int | None
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def segments(self, count: int) -> np.ndarray:
    """Returns rows of unit length, averaged over equal parts of the video: float32 `[crops, count, D]`.

    A video of fewer rows has some of them several times (Video_Features/Save_C3DFeatures_32Segments.m).

    Args:
      count: Number of parts.
    """
    rows = self.unit_rows()
    bounds = np.linspace(0, rows.shape[1], count + 1)
    first = np.minimum(bounds[:-1].astype(int), rows.shape[1] - 1)
    last = np.maximum(bounds[1:].astype(int), first + 1)
    return np.stack([rows[:, start:end].mean(1) for start, end in zip(first, last)], axis=1)

  def unit_rows(self) -> np.ndarray:
    """Returns the features divided by their Euclidean length, float32 `[crops, N, D]`."""
    return self.features / np.maximum(np.linalg.norm(self.features, axis=-1, keepdims=True), 1e-12)

  def of_frames(self, scores: np.ndarray) -> np.ndarray:
    """Returns the score of each frame, `[num_frames]`.

    Args:
      scores: Of each row, `[N]`.
    """
    frames = np.arange(self.num_frames)
    rows = frames // self.hop if self.hop else frames * len(scores) // self.num_frames
    return scores[np.minimum(rows, len(scores) - 1)]


def read_list(path: str | os.PathLike) -> list[tuple[str, bool, int | None]]:
  """Returns names of videos, whether each has an anomaly, and numbers of frames.

  Args:
    path: Text with a video a line: its name, such as 'Abuse/Abuse001_x264.mp4', and, if wanted, its label, 1 with and 0
      without anomaly, and its number of frames. Without a label names with 'Normal' or 'label_A' have none, as in
      UCF-Crime and XD-Violence.

  Raises:
    I3dError: If a line is another, or a name comes twice.
    OSError: If it cannot be read.
  """
  found, names = [], set()
  for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines(), start=1):
    words = line.split()
    if not words:
      continue
    name, *others = words
    if len(others) > 2 or not all(word.isdigit() for word in others) or (others and others[0] not in ("0", "1")):
      raise errors.I3dError(f"{path}, line {number}: this is not 'NAME', 'NAME 0' or 'NAME 1', then a count of frames")
    if name in names:
      raise errors.I3dError(f"{path}, line {number}: {name} comes twice")
    names.add(name)
    is_abnormal = others[0] == "1" if others else not _NORMAL.search(name)
    found.append((name, is_abnormal, int(others[1]) if len(others) > 1 else None))
  if not found:
    raise errors.I3dError(f"{path} names no video")
  return found


def read_bags(folder: str | os.PathLike, list_path: str | os.PathLike) -> list[Bag]:
  """Returns the features of the videos of a list.

  Args:
    folder: Folder of files of features, with folders in it or without.
    list_path: As `read_list` takes it.

  Raises:
    I3dError: If there are no features of a video, or they cannot be used; names the file.
    OSError: If something cannot be read.
  """
  index = _index(folder)
  bags = [
    _read(name, _files_of(name, index, folder), is_abnormal, num_frames)
    for name, is_abnormal, num_frames in read_list(list_path)
  ]
  widths = {bag.features.shape[-1]: bag.name for bag in bags}
  if len(widths) > 1:
    sizes = ", ".join(f"{width} of {name}" for width, name in widths.items())
    raise errors.I3dError(f"{folder}: all features must have as many values a row; there are {sizes}")
  return bags


def read_bag(path: str | os.PathLike) -> Bag:
  """Returns the features of one file.

  Args:
    path: A file of features.

  Raises:
    I3dError: If it cannot be used.
    OSError: If it cannot be read.
  """
  return _read(pathlib.Path(path).stem, [pathlib.Path(path)], None, None)


def from_array(name: str | os.PathLike, array: np.ndarray, facts: Mapping[str, Any]) -> Bag:
  """Returns the bag of features that are in memory.

  Args:
    name: The video.
    array: `[N, D]`, or of several crops `[N, crops, D]`.
    facts: What a file of this project says beside the features.

  Raises:
    I3dError: If they cannot be used.
  """
  return _bag(os.fspath(name), _checked(array, name), None, None, facts)


def _index(folder: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
  """The files of features by the names of their videos, without an ending."""
  if not pathlib.Path(folder).is_dir():
    raise errors.I3dError(f"{folder} is no folder of features")
  index: dict[str, list[pathlib.Path]] = {}
  for path in sorted(pathlib.Path(folder).rglob("*")):
    for cut in range(len(path.name)):
      if _SUFFIX.fullmatch(path.name, cut) and path.is_file():
        index.setdefault(path.name[:cut], []).append(path)
  return index


def _files_of(name: str, index: Mapping[str, list[pathlib.Path]], folder: str | os.PathLike) -> list[pathlib.Path]:
  base = pathlib.PurePosixPath(name).name
  for stem in (base, base.rpartition(".")[0]):
    if stem in index:
      return index[stem]
  raise errors.I3dError(f"{folder} has no features of {name}: no {base.rpartition('.')[0] or base}.npy, .npz or .txt")


def _read(name: str, paths: Sequence[pathlib.Path], is_abnormal: bool | None, num_frames: int | None) -> Bag:
  arrays: list[np.ndarray] = []
  facts: dict[str, Any] = {}
  kinds: set[str] = set()
  for path in paths:
    array, facts = _read_file(path)
    found = next(match for cut in range(len(path.name)) if (match := _SUFFIX.fullmatch(path.name, cut)))
    kinds.add("crop" if found["crop"] else "stream" if found["stream"] else "one")
    arrays.append(array)
  if len(paths) > 1 and (len(kinds) > 1 or kinds == {"one"}):
    raise errors.I3dError(f"{name} has several files of features: {', '.join(map(str, paths))}; keep one")
  rows = min(array.shape[1] for array in arrays)
  if kinds == {"crop"} and len({array.shape for array in arrays}) > 1:
    raise errors.I3dError(f"{name}: the crops' features differ in shape")
  features = np.concatenate([array[:, :rows] for array in arrays], 0 if kinds == {"crop"} else -1)
  return _bag(name, features, is_abnormal, num_frames, facts)


def _bag(
  name: str, features: np.ndarray, is_abnormal: bool | None, num_frames: int | None, facts: Mapping[str, Any]
) -> Bag:
  hop = int(facts.get("hop", HOP)) if num_frames is None or "hop" in facts else None
  frames = num_frames or int(facts.get("num_frames", 0)) or features.shape[1] * HOP
  return Bag(name, features, is_abnormal, frames, hop, {key: facts[key] for key in _FACTS if key in facts})


def _read_file(path: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
  """float32 `[crops, N, D]` and what else a file of this project says."""
  facts: dict[str, Any] = {}
  if path.suffix == ".txt":
    with files.guarded(path, "text with numbers"):
      array = np.loadtxt(path, dtype=np.float32, ndmin=2)
  elif path.suffix == ".npy":
    array = files.read_array(path)
  else:
    content = files.read_arrays(path)
    key = next((key for key in _KEYS if key in content), None)
    if key is None:
      raise errors.I3dError(f"{path} has neither {' nor '.join(_KEYS)}")
    array = content.pop(key)
    facts = {name: value.item() for name, value in content.items() if value.ndim == 0}
  return _checked(array, path), facts


def _checked(array: np.ndarray, name: str | os.PathLike) -> np.ndarray:
  """float32 `[crops, N, D]` of `[N, D]` or `[N, crops, D]`."""
  if array.ndim == 2:
    array = array[:, np.newaxis]
  if array.ndim != 3 or not array.size or array.dtype.kind not in "fiu":
    raise errors.I3dError(
      f"{name} has values {array.dtype} {array.shape}; wanted are [rows, values] or [rows, crops, values]"
    )
  array = np.swapaxes(array, 0, 1).astype(np.float32)
  if not np.isfinite(array).all():
    raise errors.I3dError(f"{name} has values that are not finite")
  return array


def read_truth(path: str | os.PathLike, bags: Sequence[Bag]) -> list[np.ndarray]:
  """Returns for each video whether something unusual happens at each frame, bool `[num_frames]`.

  Args:
    path: UCF-Crime's annotation: lines of name, class and two intervals of frames, -1 for none; or an .npy of 0 and 1
      for all frames of all videos in the list's order, as RTFM has it.
    bags: The videos.

  Raises:
    I3dError: If it is neither, or does not fit the videos.
    OSError: If it cannot be read.
  """
  if os.fspath(path).endswith(".npy"):
    flat = files.read_array(path).reshape(-1)
    total = sum(bag.num_frames for bag in bags)
    if len(flat) != total:
      raise errors.I3dError(f"{path} has {len(flat)} frames; the videos of the list have {total}")
    return np.split(flat.astype(bool), np.cumsum([bag.num_frames for bag in bags])[:-1])
  intervals = _read_intervals(path)
  truth = []
  for bag in bags:
    base = pathlib.PurePosixPath(bag.name).name
    found = intervals.get(base) or intervals.get(base.rpartition(".")[0])
    if found is None:
      raise errors.I3dError(f"{path} has no line of {bag.name}")
    frames = np.arange(bag.num_frames)
    truth.append(np.any([(frames >= start) & (frames < end) & (start >= 0) for start, end in found], axis=0))
  return truth


def _read_intervals(path: str | os.PathLike) -> dict[str, list[tuple[int, int]]]:
  intervals: dict[str, list[tuple[int, int]]] = {}
  for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines(), start=1):
    words = line.split()
    if not words:
      continue
    try:
      name, _, *bounds = words
      numbers = [int(bound) for bound in bounds]
      if len(numbers) != 4:
        raise ValueError
    except ValueError:
      raise errors.I3dError(f"{path}, line {number}: this is not a name, a class and four numbers of frames") from None
    found = [(numbers[0], numbers[1]), (numbers[2], numbers[3])]
    intervals[name] = intervals[name.rpartition(".")[0]] = found
  return intervals
