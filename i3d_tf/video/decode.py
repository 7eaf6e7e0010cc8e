"""Videos into frames at a fixed rate, streaming.

Frames are placed on the output grid by their timestamps, as MediaSequence's resampler does: the frame nearest to each
grid point from time 0 on, the later one of two equally near, gaps filled by the last frame
(google/mediapipe PacketResamplerCalculator).

Files are decoded by FFmpeg through PyAV, with the bytes that OpenCV's VideoCapture gives. What a header says about
counts, rates and lengths is an estimate; timestamps are used instead. What is done with special pictures:

* Interlaced frames are deinterlaced, one frame each.
* The display matrix is applied: quarter turns and mirror images.
* Pixels that are not square are kept as stored, as the networks' training data were.
* HDR (PQ, HLG) is converted without tone mapping.

Each of these is a remark, which goes to who asks for it with `note`, and is logged as a warning otherwise.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from typing import Any, TypeVar

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import workers
from i3d_tf.video import containers
from i3d_tf.video import frames as frames_lib
from i3d_tf.video import listing

FRAME_RATE = containers.FRAME_RATE
SHORT_SIDE = 256  # pixels; crops of 224 are taken from it (paper, section 2.4)
VIDEO_SUFFIXES = listing.VIDEO_SUFFIXES

_Item = TypeVar("_Item")
_elsewhere = workers.Streams()
_is_elsewhere = False


@contextlib.contextmanager
def isolated() -> Iterator[None]:
  """Has videos decoded in other processes during the body, so that one that kills its decoder is a VideoError.

  A program that calls it must be one that can be imported (`if __name__ == "__main__"`), see `multiprocessing`.

  Yields:
    Nothing.
  """
  global _is_elsewhere
  before, _is_elsewhere = _is_elsewhere, True
  try:
    yield
  finally:
    _is_elsewhere = before


def _run(function: Callable[..., Generator], path: str | os.PathLike, **options: Any) -> contextlib.closing[Generator]:
  """The items of a generator function of this module, which is closed at the end of the body of `with`."""
  if _is_elsewhere:
    return contextlib.closing(_elsewhere.iterate(os.fspath(path), function, path, **options))
  return contextlib.closing(function(path, **options))


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a video's packets and its first frame tell.

  Attributes:
    frame_rate: Its own frame rate, from the median interval of its timestamps.
    num_frames: Frames that are shown, if every packet decodes into one.
    width: Pixels after rotation.
    height: Pixels after rotation.
  """

  frame_rate: float
  num_frames: int
  width: int
  height: int


def probe(path: str | os.PathLike) -> VideoInfo:
  """Returns what a video holds. Its packets are all read, its first frame only is decoded.

  Args:
    path: of the video.

  Returns:
    Frame rate, number of frames, and size.

  Raises:
    VideoError: if the file is missing, empty, no video, or no frame can be decoded.
  """
  with _run(_probe, path) as found:
    return next(found)


def _probe(path: str | os.PathLike) -> Generator[VideoInfo]:
  scanned = containers.scan(path)
  with contextlib.closing(frames_lib.timed_frames(path, allow_damaged=True, note=_ignore)) as frames:
    _, frame = next(frames)
  transposed, _, _ = containers.orientation(frame) or (False, False, False)
  width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
  yield VideoInfo(scanned.frame_rate, scanned.num_packets, width, height)


def count_frames(path: str | os.PathLike, *, fps: float = FRAME_RATE, allow_damaged: bool = False) -> int:
  """Counts the frames that `iter_frames` yields, by a pass that decodes the video but converts and keeps no frame.

  No header tells it: frames are placed by their timestamps, and containers declare frames that they do not hold.

  Args:
    path: of the video.
    fps: frames per second.
    allow_damaged: as in `iter_frames`.

  Returns:
    The number of frames.

  Raises:
    VideoError: as `iter_frames`.
  """
  _check_rate(fps)
  with _run(_count, path, fps=fps, allow_damaged=allow_damaged) as found:
    return next(found)


def _count(path: str | os.PathLike, *, fps: float, allow_damaged: bool) -> Generator[int]:
  times = ((time, None) for time, _ in frames_lib.timed_frames(path, allow_damaged=allow_damaged, note=_ignore))
  yield sum(1 for _ in _resample(times, fps))


def iter_frames(
  path: str | os.PathLike,
  *,
  fps: float = FRAME_RATE,
  short_side: int | None = SHORT_SIDE,
  allow_damaged: bool = False,
  note: Callable[[str], None] | None = None,
) -> Iterator[np.ndarray]:
  """Yields the video's RGB frames one at a time, at `fps` frames per second.

  Args:
    path: any file that FFmpeg can decode. Interlaced frames are deinterlaced, rotation and mirroring are applied, and
      pixels that are not square are kept as stored.
    fps: frames per second of the result.
    short_side: pixels of the shorter side after bilinear resizing; None: the size is kept.
    allow_damaged: take what there is of a damaged or incomplete video, and leave out gaps of more than
      `containers.MAX_GAP` seconds.
    note: called with each remark on what was done, one sentence, for the metadata of what is made of the frames: that
      the video was deinterlaced, salvaged, is HDR, or has pixels that are not square. None: they are logged.

  Yields:
    Frames, uint8 `[H, W, 3]`.

  Raises:
    VideoError: if the file cannot be opened, holds no frames, is damaged, or its clock jumps by more than
      `containers.MAX_GAP` seconds. Damage is found out only after the frames before it.
  """
  _check_rate(fps)
  if short_side is not None and short_side < 1:
    raise ValueError(f"short_side is {short_side}; it must be at least 1")
  note = functools.partial(frames_lib.log_remark, os.fspath(path)) if note is None else note
  with _run(_iter, path, fps=fps, short_side=short_side, allow_damaged=allow_damaged) as found:
    for each in found:
      if isinstance(each, str):
        note(each)
      else:
        yield each


def _iter(
  path: str | os.PathLike, *, fps: float, short_side: int | None, allow_damaged: bool
) -> Generator[np.ndarray | str]:
  """Yields the frames, and the remarks between them."""
  convert = frames_lib.Converter()
  source = None
  remarks: list[str] = []
  for frame in _resample(frames_lib.timed_frames(path, allow_damaged=allow_damaged, note=remarks.append), fps):
    yield from remarks
    remarks.clear()
    if frame is not source:  # a repeated frame is converted once
      converted, source = resize(convert(frame), short_side), frame
    yield converted
  yield from remarks


def read_video(
  path: str | os.PathLike,
  fps: float = FRAME_RATE,
  short_side: int | None = SHORT_SIDE,
  *,
  max_frames: int | None = None,
  allow_damaged: bool = False,
  note: Callable[[str], None] | None = None,
) -> np.ndarray:
  """Reads a video as RGB frames; see `iter_frames`.

  Args:
    path: any file that FFmpeg can decode.
    fps: frames per second of the result.
    short_side: pixels of its shorter side, or None to keep the size.
    max_frames: stop after so many frames; what follows is neither decoded nor checked.
    allow_damaged: as in `iter_frames`.
    note: as in `iter_frames`.

  Returns:
    uint8 `[T, H, W, 3]`.

  Raises:
    VideoError: as `iter_frames`.
  """
  if max_frames is not None and max_frames < 1:
    raise ValueError(f"max_frames is {max_frames}; it must be at least 1")
  frames = iter_frames(path, fps=fps, short_side=short_side, allow_damaged=allow_damaged, note=note)
  return np.stack(list(itertools.islice(frames, max_frames)))


def resize(frame: np.ndarray, short_side: int | None = SHORT_SIDE) -> np.ndarray:
  """Resizes a frame bilinearly so that its shorter side has a given length.

  Args:
    frame: `[H, W, C]`.
    short_side: pixels; None: the frame is returned as it is.

  Returns:
    `[H', W', C]`.
  """
  height, width = frame.shape[:2]
  if short_side is None or min(height, width) == short_side:
    return frame
  scale = short_side / min(height, width)
  size = (short_side, round(height * scale)) if width < height else (round(width * scale), short_side)
  return cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)


def list_videos(paths: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
  """Expands folders into the videos below them; `listing.list_folder` says which those are.

  Args:
    paths: of folders and videos.

  Returns:
    The videos of each folder, sorted; other paths stay as they are.

  Raises:
    VideoError: if a folder holds no video or cannot be read, or a path is empty.
  """
  videos: list[pathlib.Path] = []
  for path in paths:
    if not os.fspath(path):  # pathlib would take it for the current folder
      raise errors.VideoError("the list of videos has an empty path; is there a comma too many?")
    path = pathlib.Path(path)
    videos += listing.list_folder(path).videos if path.is_dir() else [path]
  return videos


def _ignore(remark: str) -> None:
  """Takes the remarks of a pass after which the frames are read."""


def _check_rate(fps: float) -> None:
  if not 0 < fps < float("inf"):
    raise ValueError(f"fps is {fps}; it must be positive and finite")


def _resample(timed_frames: Iterator[tuple[float, _Item]], fps: float) -> Iterator[_Item]:
  """Yields for each k the frame nearest to k/fps; of two equally near, the later one."""
  step = 0
  last: tuple[float, _Item] | None = None
  for time, frame in timed_frames:
    if last is not None:
      # The grid points that are nearer to the last frame than to this one. The small term keeps exact halves,
      # which floating point may put on either side, with the later frame.
      boundary = (last[0] + time) / 2 * fps - 1e-6
      while step < boundary:
        yield last[1]
        step += 1
    last = (time, frame)
  if last is not None:
    while step <= last[0] * fps + 0.5 - 1e-6 or step == 0:
      yield last[1]
      step += 1
