"""The clips of a set: its videos, whatever they are given as, and the frames that are taken of each."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import functools
import operator
import os
import pathlib
from typing import Any, TypeAlias
import zlib

import numpy as np

from i3d_tf import errors
from i3d_tf.frechet import arrays
from i3d_tf.frechet import protocols
from i3d_tf.video import archives
from i3d_tf.video import decode
from i3d_tf.video import listing
from i3d_tf.video import stills

# A folder or file; an array of a set; or an iterable of clips or batches of them.
Videos: TypeAlias = str | os.PathLike | np.ndarray | Iterable[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """One video.

  Attributes:
    name: relative to the set; draws its clips.
    where: names it in messages.
    path: a video, or a folder of images; None if it is an array.
    read: returns the array `[T, H, W, 3]` of frames.
    draws: numbers of the clips to take.
  """

  name: str
  where: str
  path: pathlib.Path | None = None
  read: Callable[[], np.ndarray] | None = None
  draws: tuple[int, ...] = (0,)


class ClipReader:
  """Takes the clips of a set by a protocol.

  Attributes:
    remarks: how often each remark was made on a video, such as that it was deinterlaced.
    format: what arrays are made clips by.
  """

  def __init__(self, protocol: protocols.Protocol, config: protocols.FvdConfig, set_name: str):
    """Reads nothing.

    Args:
      protocol: which clips are taken.
      config: how videos and arrays are read, and the seed.
      set_name: 'real', or 'generated'.
    """
    self._protocol, self._config = protocol, config
    self._start = protocol.start_of(set_name)
    self.format = arrays.ClipFormat(config.layout, config.value_range, protocol.to_bytes)
    self.remarks: collections.Counter[str] = collections.Counter()
    # Sources of one file follow each other, and an archive may have to be unpacked.
    self._opened = functools.lru_cache(maxsize=1)(arrays.open_file)

  def sources(self, videos: Videos) -> list[Source] | Iterator[Source]:
    """Returns the videos of a set: those below a folder, in one file, of an array, or of an iterable as they come.

    Args:
      videos: the set.

    Raises:
      I3dError: if there is no such path, nothing in it, or less than max_clips.
    """
    if isinstance(videos, (str, os.PathLike)):
      where = os.fspath(videos)
      found = [source for name, path in _list_files(pathlib.Path(videos)) for source in self._of_file(name, path)]
    elif hasattr(videos, "shape"):
      where, array = "the array", to_numpy(videos, "the videos")
      self.format.axes(array, "the videos")
      found = list(self._of_array("", "array", array if array.ndim == 5 else array[np.newaxis]))
    else:
      return self._of_items(videos)
    return self._chosen(found, where)

  def read(self, source: Source) -> list[np.ndarray]:
    """Returns the clips of a video, uint8 or float32 from 0 to 255, `[num_frames, H, W, 3]`.

    Args:
      source: one of `sources`.

    Raises:
      I3dError: if the video cannot be read to its end, is too short, or its values are out of range.
      OSError: if the file cannot be read.
    """
    if source.read is not None:
      array = source.read()
      clips, total = self._of_known(source, len(array), lambda indices: array[indices])
    elif stills.is_stills(str(source.path)) and self._protocol.fps is None:
      images = stills.open_stills(str(source.path))
      count = len(images.frames)
      clips, total = self._of_known(source, count, lambda indices: [images.frame(index) for index in indices])
    else:
      clips, total = self._of_stream(source, self._frames(source))
    if any(clip is None for clip in clips):
      least = self._protocol.least_frames
      what = "num_frames" if self._protocol.frame_step == 1 else "num_frames times frame_step"
      if self._start == "first" and len(source.draws) > 1 and total >= least:
        what, least = "the clips that are taken of it", least * len(source.draws)
      raise errors.I3dError(f"{source.where}: the video has {total} frames, fewer than {what}, {least}")
    return [self.format.to_clip(np.stack(list(clip)), source.where) for clip in clips if clip is not None]

  def summary(self, set_name: str) -> list[str]:
    """Returns a sentence for each kind of remark on the videos of the set.

    Args:
      set_name: names the set.
    """
    found = [f"{set_name}: of {count} videos: {text}" for text, count in self.remarks.items()]
    return found + [f"{set_name}: {doubt}" for doubt in [self.format.doubt()] if doubt]

  def _frames(self, source: Source) -> Iterator[np.ndarray]:
    config, path = self._config, str(source.path)
    fps = self._protocol.fps or decode.probe(path, frame_rate=config.frame_rate).frame_rate
    note = lambda text: self.remarks.update([text])
    how: dict[str, Any] = {"allow_damaged": config.allow_damaged, "frame_rate": config.frame_rate, "note": note}
    return decode.iter_frames(path, fps=fps, short_side=None, **how)

  def _of_known(
    self, source: Source, total: int, frames: Callable[[range], Iterable[np.ndarray]]
  ) -> tuple[list[Iterable[np.ndarray] | None], int]:
    """The clips of a video whose number of frames is known: only their frames are read."""
    span, step = self._span, self._protocol.frame_step
    runs = range(1, total - span + 2) if total >= self._protocol.least_frames else range(0)
    starts: dict[int, int] = {}
    for draw, choose in zip(source.draws, self._choosers(source)):
      for run in runs:
        if choose(run):
          starts[draw] = run - 1
    clip = lambda start: frames(range(start, start + span, step))
    return [clip(starts[draw]) if draw in starts else None for draw in source.draws], total

  def _of_stream(self, source: Source, frames: Iterator[np.ndarray]) -> tuple[list[Iterable[np.ndarray] | None], int]:
    """The clips of a video whose number of frames is known at its end only; of each only one run of frames is held."""
    span, least = self._span, self._protocol.least_frames
    choosers = self._choosers(source)
    enough = least * (max(source.draws) + 1) if self._start == "first" else None
    recent: collections.deque[np.ndarray] = collections.deque(maxlen=span)
    chosen: list[Iterable[np.ndarray] | None] = [None] * len(choosers)
    total = 0
    for total, frame in enumerate(frames, start=1):
      recent.append(frame)
      for index, choose in enumerate(choosers) if total >= span else ():
        if choose(total - span + 1):
          chosen[index] = list(recent)[:: self._protocol.frame_step]
      if total == enough:
        break
    return (chosen if total >= least else [None]), total

  @property
  def _span(self) -> int:
    """Frames from the first to the last of a clip."""
    return (self._protocol.num_frames - 1) * self._protocol.frame_step + 1

  def _choosers(self, source: Source) -> list[Callable[[int], bool]]:
    """For each clip a function that is asked of every run of frames, numbered from 1; the last one it takes counts.

    At random, the k-th run replaces the one that is chosen so far with probability 1 / k, so that each is as likely.
    """
    if self._start == "first":
      return [functools.partial(operator.eq, draw * self._protocol.least_frames + 1) for draw in source.draws]
    crc = zlib.crc32(os.fsencode(source.name))
    seeds = [[self._config.seed, crc, draw] if draw else [self._config.seed, crc] for draw in source.draws]
    return [functools.partial(_is_chosen, np.random.default_rng(seed)) for seed in seeds]

  def _of_file(self, name: str, path: pathlib.Path) -> Iterator[Source]:
    suffix = path.suffix.lower()
    if suffix not in arrays.SUFFIXES or path.is_dir():
      yield Source(name, str(path), path)
      return
    try:
      found = self._opened(path)
      if not found:
        raise errors.I3dError(f"{path}: the file holds no array")
      for member, array in found.items():
        inside = f"{name}/{member}" if member else name
        where = f"{path}/{member}" if member else str(path)
        self.format.axes(array, where)
        read = lambda member=member: self._opened(path)[member]
        if len(array.shape) == 4:
          yield Source(inside, where, read=functools.partial(self._video, read, None, where))
        elif not len(array.shape) or not array.shape[0]:
          raise errors.I3dError(f"{where}: the array holds no video, its shape is {tuple(array.shape)}")
        else:
          for index in range(array.shape[0]):
            one = functools.partial(self._video, read, index, where)
            yield Source(f"{inside}[{index}]", f"{where}[{index}]", read=one)
    except (errors.I3dError, OSError) as error:
      yield Source(name, str(path), read=functools.partial(_fail, error))

  def _of_array(self, name: str, where: str, array: np.ndarray) -> Iterator[Source]:
    for index in range(len(array)):
      yield Source(
        f"{name}[{index}]", f"{where}[{index}]", read=functools.partial(self._video, lambda: array, index, where)
      )

  def _video(self, read: Callable[[], Any], index: int | None, where: str) -> np.ndarray:
    """One video of an array with its axes in our order; the frames that are not used are not read if it is mapped."""
    array = read()
    axes = self.format.axes(array, where)
    if index is None:
      return np.asarray(array[:]).transpose(axes) if not isinstance(array, np.ndarray) else array.transpose(axes)
    return array[index].transpose([axis - 1 for axis in axes[1:]])

  def _of_items(self, items: Iterable[Any]) -> Iterator[Source]:
    """The clips of an iterable, as they come, until there are max_clips."""
    draws = tuple(range(self._protocol.clips_per_video))
    left, number = self._protocol.max_clips, 0
    for item in items:
      array = to_numpy(_video_of(item), f"[{number}]")
      self.format.axes(array, f"[{number}]")
      for source in self._of_array("", "dataset", array if array.ndim == 5 else array[np.newaxis]):
        if left is not None and left <= 0:
          return
        taken = draws if left is None else draws[:left]
        yield dataclasses.replace(source, name=f"[{number}]", where=f"dataset[{number}]", draws=taken)
        number += 1
        left = None if left is None else left - len(taken)

  def _chosen(self, sources: list[Source], where: str) -> list[Source]:
    """The videos of which clips are taken, each with the numbers of its clips."""
    per_video, most = self._protocol.clips_per_video, self._protocol.max_clips
    if most is None:
      return [dataclasses.replace(source, draws=tuple(range(per_video))) for source in sources]
    if self._config.max_clips is not None and len(sources) * per_video < most:
      each = f" of {per_video} clips" if per_video > 1 else ""
      raise errors.I3dError(f"{where} has {len(sources)} videos{each}, fewer than max_clips, {most}")
    rng = np.random.default_rng(self._config.seed)
    order = range(len(sources)) if self._protocol.order == "first" else rng.permutation(len(sources))
    pairs = [(number, draw) for draw in range(per_video) for number in order][:most]  # first one clip of each video
    draws: dict[int, list[int]] = {}
    for number, draw in pairs:
      draws.setdefault(int(number), []).append(draw)
    return [dataclasses.replace(sources[number], draws=tuple(draws[number])) for number in sorted(draws)]


def to_numpy(value: Any, where: str) -> np.ndarray:
  """Returns an array, or a tensor of another library, as a NumPy array.

  Args:
    value: of NumPy, TensorFlow, PyTorch (on the CPU, without gradient) or whatever NumPy takes.
    where: names it in the message.

  Raises:
    I3dError: if it cannot be one.
  """
  try:
    return np.asarray(value)
  except (TypeError, ValueError, RuntimeError) as error:
    raise errors.I3dError(f"{where}: this cannot become a NumPy array ({errors.first_line(error)})") from None


def _video_of(item: Any) -> Any:
  """The video in an item of a data set: the item, what it has under 'video', or the first of a tuple."""
  if isinstance(item, Mapping):
    if "video" not in item:
      raise errors.I3dError(f"an item of the data set has {', '.join(map(str, item))}, but no 'video'")
    return item["video"]
  return item[0] if isinstance(item, tuple) else item


def _is_chosen(rng: np.random.Generator, run: int) -> bool:
  return rng.integers(run) == 0


def _fail(error: Exception) -> np.ndarray:
  raise error


def _list_files(root: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
  is_list = listing.is_list(root)
  if not (is_list or listing.holds_videos(root)):
    if not archives.exists(root):
      raise errors.I3dError(f"{root}: there is no such file or folder")
    return [(root.name, root)]
  try:
    found = listing.list_folder(root, more=(stills.ARRAY_SUFFIX,)).videos
  except errors.VideoError:  # archives count where there is nothing else, since what lies beside videos may be anything
    found = listing.list_folder(root, more=arrays.SUFFIXES).videos
  return [(file.as_posix() if is_list else file.relative_to(root).as_posix(), file) for file in found]
