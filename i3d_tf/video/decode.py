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

Folders of numbered images and arrays are read as videos of a stated rate, see `stills`. Videos in tar and zip files are
read as such files are, see `archives`.

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
from PIL import Image

from i3d_tf import errors
from i3d_tf import stores
from i3d_tf import workers
from i3d_tf.video import archives
from i3d_tf.video import containers
from i3d_tf.video import frames as frames_lib
from i3d_tf.video import listing
from i3d_tf.video import stills

FRAME_RATE = containers.FRAME_RATE
SHORT_SIDE = 256  # pixels; crops of 224 are taken from it (paper, section 2.4)
VIDEO_SUFFIXES = listing.VIDEO_SUFFIXES

_Item = TypeVar("_Item")
_PILLOW = {"pillow": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}
_elsewhere = workers.Streams()
_num_isolated = 0  # bodies of `isolated` that run now, perhaps in several threads


@contextlib.contextmanager
def isolated(*, patience: float | None = None) -> Iterator[None]:
  """Has videos decoded in other processes during the body, so that one that kills its decoder is a VideoError.

  A program that calls it must be one that can be imported (`if __name__ == "__main__"`), see `multiprocessing`.

  Args:
    patience: Seconds after which a process of which no frame comes is ended, a VideoError, too; None: any time.

  Yields:
    Nothing.
  """
  global _num_isolated
  before = _elsewhere.patience
  _num_isolated += 1
  _elsewhere.patience = patience
  try:
    yield
  finally:
    _num_isolated -= 1
    _elsewhere.patience = before


@contextlib.contextmanager
def running(function: Callable[..., Generator], path: str | os.PathLike, **options: Any) -> Iterator[Generator]:
  """Runs a generator that decodes a file, in another process within `isolated`; the end of the body closes it.

  Args:
    function: Of a module, called with the path of a file and the options.
    path: Path of the video, perhaps in an archive or a store.
    **options: For the function.

  Yields:
    The generator.
  """
  with archives.as_file(path) as file:
    if _num_isolated and not stills.is_stills(file):
      items = _elsewhere.iterate(os.fspath(path), function, file, **options)
    else:
      items = function(file, **options)
    with contextlib.closing(items):
      yield items


@dataclasses.dataclass(frozen=True)
class Resize:
  """How frames are resized.

  Attributes:
    short_side: Pixels of the shorter side; None: the size is kept.
    size: Width and height in pixels, in place of short_side; empty: as short_side says.
    method: 'opencv' is bilinear without antialiasing, and rounds the longer side. 'pillow' is bilinear with
      antialiasing, and truncates it, as torchvision's Resize of a picture; 'lanczos' likewise.
  """

  short_side: int | None = SHORT_SIDE
  size: tuple[int, ...] = ()
  method: str = "opencv"

  def shape(self, height: int, width: int) -> tuple[int, int]:
    """Returns the height and width of resized frames.

    Args:
      height: Of the frames, in pixels.
      width: Of the frames, in pixels.
    """
    if self.size:
      return self.size[1], self.size[0]
    if self.short_side is None or min(height, width) == self.short_side:
      return height, width
    longer, shorter = max(height, width), min(height, width)
    is_rounded = self.method == "opencv"
    long_side = round(longer * (self.short_side / shorter)) if is_rounded else self.short_side * longer // shorter
    return (long_side, self.short_side) if width < height else (self.short_side, long_side)

  def frame(self, images: stills.Stills, number: int) -> np.ndarray:
    """Returns a frame of a folder resized; projects that resize by Pillow decode by it, too.

    Args:
      images: The folder.
      number: Of the frame.

    Raises:
      VideoError: If the image cannot be decoded.
    """
    return self(images.frame(number, by_pillow=self.method in _PILLOW))

  def __call__(self, frame: np.ndarray) -> np.ndarray:
    """Returns a frame resized, `[H', W', C]`; the same array if its size is right.

    Args:
      frame: `[H, W, C]`; for Pillow uint8 of three channels.
    """
    height, width = self.shape(*frame.shape[:2])
    if (height, width) == frame.shape[:2]:
      return frame
    if self.method == "opencv":
      return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(frame).resize((width, height), _PILLOW[self.method]))


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


def probe(path: str | os.PathLike, *, frame_rate: float = FRAME_RATE) -> VideoInfo:
  """Returns what a video holds. Its packets are all read, its first frame only is decoded.

  Args:
    path: of the video.
    frame_rate: frames per second of folders of images and of arrays, which state none.

  Returns:
    Frame rate, number of frames, and size.

  Raises:
    VideoError: if the file is missing, empty, no video, or no frame can be decoded.
  """
  if stills.is_stills(path):
    images = stills.open_stills(path)
    height, width = (images.frame(0) if len(images.frames) else images.flow(0)).shape[:2]
    return VideoInfo(frame_rate, images.num_frames, width, height)
  with running(_probe, path) as found:
    return next(found)


def _probe(path: str | os.PathLike) -> Generator[VideoInfo]:
  scanned = containers.scan(path)
  with contextlib.closing(frames_lib.timed_frames(path, allow_damaged=True, note=_ignore)) as frames:
    _, frame = next(frames)
  transposed, _, _ = containers.orientation(frame) or (False, False, False)
  width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
  yield VideoInfo(scanned.frame_rate, scanned.num_packets, width, height)


def count_frames(
  path: str | os.PathLike,
  *,
  fps: float = FRAME_RATE,
  allow_damaged: bool = False,
  frame_rate: float = FRAME_RATE,
) -> int:
  """Counts the frames that `iter_frames` yields, by a pass that decodes the video but converts and keeps no frame.

  No header tells it: frames are placed by their timestamps, and containers declare frames that they do not hold.

  Args:
    path: of the video.
    fps: frames per second.
    allow_damaged: as in `iter_frames`.
    frame_rate: as in `iter_frames`.

  Returns:
    The number of frames.

  Raises:
    VideoError: as `iter_frames`.
  """
  _check_rate(fps)
  if stills.is_stills(path):
    return sum(1 for _ in _resample(_numbers(stills.open_stills(path), frame_rate), fps))
  with running(_count, path, fps=fps, allow_damaged=allow_damaged) as found:
    return next(found)


def _count(path: str | os.PathLike, *, fps: float, allow_damaged: bool) -> Generator[int]:
  times = ((time, None) for time, _ in frames_lib.timed_frames(path, allow_damaged=allow_damaged, note=_ignore))
  yield sum(1 for _ in _resample(times, fps))


def iter_frames(
  path: str | os.PathLike,
  *,
  fps: float = FRAME_RATE,
  short_side: int | None | Resize = SHORT_SIDE,
  allow_damaged: bool = False,
  note: Callable[[str], None] | None = None,
  frame_rate: float = FRAME_RATE,
) -> Iterator[np.ndarray]:
  """Yields the video's RGB frames one at a time, at `fps` frames per second.

  Args:
    path: any file that FFmpeg can decode, also one in a tar or zip file (`shard.tar/000017.mp4`), a folder of numbered
      images, or a .npy file of frames. Interlaced frames are
      deinterlaced, rotation and mirroring are applied, and pixels that are not square are kept as stored.
    fps: frames per second of the result.
    short_side: pixels of the shorter side after bilinear resizing, or another rule; None: the size is kept.
    allow_damaged: take what there is of a damaged or incomplete video, and leave out gaps of more than
      `containers.MAX_GAP` seconds.
    note: called with each remark on what was done, one sentence, for the metadata of what is made of the frames: that
      the video was deinterlaced, salvaged, is HDR, or has pixels that are not square. None: they are logged.
    frame_rate: frames per second of folders of images and of arrays, which state none.

  Yields:
    Frames, uint8 `[H, W, 3]`.

  Raises:
    VideoError: if the file cannot be opened, holds no frames, is damaged, or its clock jumps by more than
      `containers.MAX_GAP` seconds. Damage is found out only after the frames before it.
  """
  _check_rate(fps)
  if not isinstance(short_side, Resize):
    if short_side is not None and short_side < 1:
      raise ValueError(f"short_side is {short_side}; it must be at least 1")
    short_side = Resize(short_side)
  if stills.is_stills(path):
    yield from _iter_stills(path, fps, short_side, frame_rate)
    return
  note = functools.partial(frames_lib.log_remark, os.fspath(path)) if note is None else note
  with running(_iter, path, fps=fps, to_size=short_side, allow_damaged=allow_damaged) as found:
    for each in found:
      if isinstance(each, str):
        note(each)
      else:
        yield each


def _iter(path: str | os.PathLike, *, fps: float, to_size: Resize, allow_damaged: bool) -> Generator[np.ndarray | str]:
  """Yields the frames, and the remarks between them."""
  convert = frames_lib.Converter()
  source = None
  remarks: list[str] = []
  for frame in _resample(frames_lib.timed_frames(path, allow_damaged=allow_damaged, note=remarks.append), fps):
    yield from remarks
    remarks.clear()
    if frame is not source:  # a repeated frame is converted once
      converted, source = to_size(convert(frame)), frame
    yield converted
  yield from remarks


def _iter_stills(path: str | os.PathLike, fps: float, to_size: Resize, frame_rate: float) -> Iterator[np.ndarray]:
  images, source = stills.open_stills(path), None
  if not len(images.frames):
    raise errors.VideoError(f"{path}: the folder holds images of optical flow only, and no frames")
  for number in _resample(_numbers(images, frame_rate), fps):
    if number != source:
      converted, source = to_size.frame(images, number), number
    yield converted


def _numbers(images: stills.Stills, frame_rate: float) -> Iterator[tuple[float, int]]:
  _check_rate(frame_rate)
  return ((number / frame_rate, number) for number in range(images.num_frames))


def read_video(
  path: str | os.PathLike,
  fps: float = FRAME_RATE,
  short_side: int | None = SHORT_SIDE,
  *,
  max_frames: int | None = None,
  allow_damaged: bool = False,
  note: Callable[[str], None] | None = None,
  frame_rate: float = FRAME_RATE,
) -> np.ndarray:
  """Reads a video as RGB frames; see `iter_frames`.

  Args:
    path: as in `iter_frames`.
    fps: frames per second of the result.
    short_side: pixels of its shorter side, or None to keep the size.
    max_frames: stop after so many frames; what follows is neither decoded nor checked.
    allow_damaged: as in `iter_frames`.
    note: as in `iter_frames`.
    frame_rate: as in `iter_frames`.

  Returns:
    uint8 `[T, H, W, 3]`.

  Raises:
    VideoError: as `iter_frames`.
  """
  if max_frames is not None and max_frames < 1:
    raise ValueError(f"max_frames is {max_frames}; it must be at least 1")
  options: dict[str, Any] = {"allow_damaged": allow_damaged, "note": note, "frame_rate": frame_rate}
  frames = iter_frames(path, fps=fps, short_side=short_side, **options)
  return np.stack(list(itertools.islice(frames, max_frames)))


def resize(frame: np.ndarray, short_side: int | None = SHORT_SIDE) -> np.ndarray:
  """Resizes a frame bilinearly so that its shorter side has a given length.

  Args:
    frame: `[H, W, C]`.
    short_side: pixels; None: the frame is returned as it is.

  Returns:
    `[H', W', C]`.
  """
  return Resize(short_side)(frame)


def list_videos(paths: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
  """Expands folders and archives into the videos in them; `listing.list_folder` says which those are.

  Args:
    paths: of folders, tar and zip files, and videos.

  Returns:
    The videos of each folder, sorted; other paths stay as they are.

  Raises:
    VideoError: if a folder or archive holds no video or cannot be read, or a path is empty.
  """
  videos: list[pathlib.Path] = []
  for path in paths:
    if not os.fspath(path):  # pathlib would take it for the current folder
      raise errors.VideoError("the list of videos has an empty path; is there a comma too many?")
    videos += listing.list_folder(path).videos if listing.holds_videos(path) else [stores.as_path(path)]
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
