"""Videos into frames at a fixed rate, streaming.

Frames are placed on the output grid by their timestamps, as MediaSequence's resampler does: the frame nearest to each
grid point from time 0 on, the later one of two equally near, gaps filled by the last frame
(google/mediapipe PacketResamplerCalculator).
"""

from collections.abc import Iterable, Iterator
import dataclasses
import itertools
import os
import pathlib
from typing import Any

import cv2
import numpy as np

from i3d_tf import errors

FRAME_RATE = 25.0  # frames per second of the release's clips (paper, section 2.4)
SHORT_SIDE = 256  # pixels; crops of 224 are taken from it (paper, section 2.4)
VIDEO_SUFFIXES = frozenset(".avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split())
# Containers may declare a frame or two more than they hold (packed Xvid) or estimate the count from the duration.
_MISSING_FRAMES = 2
_MISSING_FRACTION = 0.05
_RETRIES = 100  # damaged frames in a row that are looked past


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a container declares: average frame rate, frames (0 if unknown), and size after rotation in pixels."""

  frame_rate: float
  num_frames: int
  width: int
  height: int


def probe(path: str | os.PathLike) -> VideoInfo:
  """Returns what a video's container declares.

  Args:
    path: of the video.

  Raises:
    VideoError: if the file is missing, empty, or no video.
  """
  capture = _open(path)
  try:
    return _info(capture)
  finally:
    capture.release()


def count_frames(path: str | os.PathLike, *, fps: float = FRAME_RATE) -> int:
  """Counts the frames that `iter_frames` yields, by a pass that decodes the video but converts and keeps no frame.

  No header tells it: frames are placed by their timestamps, and containers declare frames that they do not hold.

  Args:
    path: of the video.
    fps: frames per second.

  Returns:
    The number of frames.

  Raises:
    VideoError: as `iter_frames`, but for frames of several sizes, which are not looked at.
  """
  _check_rate(fps)
  count = 0
  for _ in _resample(_timed_frames(path, retrieve=False), fps):
    count += 1
  return count


def iter_frames(
  path: str | os.PathLike, *, fps: float = FRAME_RATE, short_side: int | None = SHORT_SIDE
) -> Iterator[np.ndarray]:
  """Yields the video's RGB frames one at a time, at `fps` frames per second.

  Args:
    path: any file that OpenCV's FFmpeg can decode. Rotation is applied.
    fps: frames per second of the result.
    short_side: pixels of the shorter side after bilinear resizing; None: the size is kept.

  Yields:
    Frames, uint8 `[H, W, 3]`.

  Raises:
    VideoError: if the file cannot be opened, holds no frames, or ends well before the length it declares. The last
      is found out only after the frames it does hold.
  """
  _check_rate(fps)
  if short_side is not None and short_side < 1:
    raise ValueError(f"short_side is {short_side}; it must be at least 1")
  source = None
  for frame in _resample(_timed_frames(path), fps):
    if frame is not source:  # a repeated frame is converted once
      converted, source = resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), short_side), frame
    yield converted


def read_video(
  path: str | os.PathLike,
  fps: float = FRAME_RATE,
  short_side: int | None = SHORT_SIDE,
  *,
  max_frames: int | None = None,
) -> np.ndarray:
  """Reads a video as RGB frames; see `iter_frames`.

  Args:
    path: any file that OpenCV's FFmpeg can decode.
    fps: frames per second of the result.
    short_side: pixels of its shorter side, or None to keep the size.
    max_frames: stop after so many frames; what follows is neither decoded nor checked.

  Returns:
    uint8 `[T, H, W, 3]`.

  Raises:
    VideoError: as `iter_frames`.
  """
  if max_frames is not None and max_frames < 1:
    raise ValueError(f"max_frames is {max_frames}; it must be at least 1")
  frames = list(itertools.islice(iter_frames(path, fps=fps, short_side=short_side), max_frames))
  return np.stack(frames)


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
  """Expands folders into the videos below them.

  Args:
    paths: of folders and videos.

  Returns:
    The videos of each folder, by file name ending, sorted; other paths stay as they are.

  Raises:
    VideoError: if a folder holds no video, or a path is empty.
  """
  videos = []
  for path in paths:
    if not os.fspath(path):  # pathlib would take it for the current folder
      raise errors.VideoError("the list of videos has an empty path; is there a comma too many?")
    path = pathlib.Path(path)
    if not path.is_dir():
      videos.append(path)
      continue
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file())
    if not found:
      raise errors.VideoError(f"{path}: the folder holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})")
    videos += found
  return videos


def _check_rate(fps: float) -> None:
  if not 0 < fps < float("inf"):
    raise ValueError(f"fps is {fps}; it must be positive and finite")


def _open(path: str | os.PathLike) -> cv2.VideoCapture:
  path = os.fspath(path)
  if not os.path.exists(path):
    raise errors.VideoError(f"{path}: there is no such file")
  if os.path.isdir(path):
    raise errors.VideoError(f"{path}: this is a folder, not a video")
  with open(path, "rb") as file:  # says if it may not be read
    if not file.read(1):
      raise errors.VideoError(f"{path}: the file is empty")
  # FFmpeg would take 'a:b.mp4' for an address, hence the absolute path; OpenCV crashes on a name that is not UTF-8
  # unless it comes as bytes.
  name: Any = os.fsencode(os.path.abspath(path))  # which its type stubs do not know
  capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
  if not capture.isOpened():
    raise errors.VideoError(f"{path}: this is not a video that OpenCV can open, or its header is damaged")
  return capture


def _info(capture: cv2.VideoCapture) -> VideoInfo:
  declared = capture.get(cv2.CAP_PROP_FRAME_COUNT)
  rate = capture.get(cv2.CAP_PROP_FPS)
  return VideoInfo(
    frame_rate=rate if np.isfinite(rate) and rate > 0 else FRAME_RATE,
    num_frames=max(0, int(declared)),
    width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
    height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
  )


def _timed_frames(path: str | os.PathLike, *, retrieve: bool = True) -> Iterator[tuple[float, np.ndarray]]:
  """Yields (seconds since the first frame, BGR frame) and checks at the end that the file was whole.

  Unless `retrieve`, the frames are decoded only, and one empty array stands for each.
  """
  nothing = np.empty((0, 0, 3), np.uint8)
  capture = _open(path)
  try:
    info = _info(capture)
    count = num_gaps = 0
    duration = 1 / info.frame_rate
    times = _MonotonicClock(duration)
    last = 0.0
    while True:
      decoded, frame = capture.read() if retrieve else (capture.grab(), nothing)
      if not decoded:
        break
      count += 1
      if retrieve and frame.shape[:2] != (info.height, info.width):
        raise errors.VideoError(
          f"{path}: frame {count} has {frame.shape[1]}x{frame.shape[0]} pixels, the video {info.width}x{info.height}"
        )
      time = times.next(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
      num_gaps += time - last > 1.5 * duration
      last = time
      yield time, frame
    # Reading ends at a damaged frame as it does at the file's end, but there frames follow it.
    resumes = any(capture.grab() for _ in range(_RETRIES))
  finally:
    capture.release()
  if not count:
    raise errors.VideoError(f"{path}: no frame can be decoded")
  if resumes or _is_incomplete(info, count, last + duration, num_gaps):
    raise errors.VideoError(
      f"{path}: only {count} of {info.num_frames or 'its'} frames can be decoded; the video is damaged or incomplete"
    )


def _is_incomplete(info: VideoInfo, count: int, seconds: float, num_gaps: int) -> bool:
  """Whether a video of `count` frames, ending at `seconds`, lacks more of what it declares than healthy ones do.

  Containers that hold no count (Matroska, MPEG-TS, FLV, ASF) declare duration times nominal rate, more than a video of
  variable rate has. Such a video reaches its end and has many intervals longer than nominal; where a few long gaps
  account for all that is missing, it was lost.
  """
  allowed = max(_MISSING_FRAMES, _MISSING_FRACTION * info.num_frames)
  if count >= info.num_frames - allowed:
    return False
  reaches_end = seconds >= (info.num_frames - allowed) / info.frame_rate
  return not reaches_end or num_gaps <= _MISSING_FRACTION * count


class _MonotonicClock:
  """Timestamps from 0 on, with the containers' quirks repaired.

  Packed Xvid files begin at two frame durations and report 0 for their last frame; others may repeat a time. A
  timestamp that does not move on is replaced by one duration after the one before.
  """

  def __init__(self, duration: float):
    self._duration = duration
    self._first: float | None = None
    self._last = 0.0

  def next(self, reported: float) -> float:
    if self._first is None:
      self._first = reported
      return 0.0
    time = reported - self._first
    self._last = time if time > self._last else self._last + self._duration
    return self._last


def _resample(timed_frames: Iterator[tuple[float, np.ndarray]], fps: float) -> Iterator[np.ndarray]:
  """Yields for each k the frame nearest to k/fps; of two equally near, the later one."""
  step = 0
  last: tuple[float, np.ndarray] | None = None
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
