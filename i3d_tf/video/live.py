"""Frames of a source that goes on while it is read: a camera, an address, a pipe, or a file played in real time.

A thread reads, and the frames wait in a ring. Where they are not taken in time the oldest are dropped, and counted.
"""

import collections
from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import re
import stat
import sys
import threading
import time
from typing import Any

import av
from av.video.frame import VideoFrame
import numpy as np

from i3d_tf import errors
from i3d_tf.video import containers
from i3d_tf.video import decode
from i3d_tf.video import frames as frames_lib

_FILE_ENDS = 2.0  # seconds without growth after which a file has ended
_KEY_FRAMES = 10.0  # seconds within which there is a frame that does not need those before
_POLL = 0.2  # seconds between looks at whether anybody still wants frames


@dataclasses.dataclass(frozen=True)
class Frame:
  """A frame of a live source.

  Attributes:
    number: Its place on the grid of the frame rate, from the source's first frame on; a dropped frame's is left out.
    image: uint8 `[H, W, 3]` RGB.
    arrived: When it had been decoded, by `time.monotonic`.
  """

  number: int
  image: np.ndarray
  arrived: float


class LiveSource:
  """Reads a source in a thread of its own, from the start to the end of a body of `with`.

  Attributes:
    name: The source.
    received: Frames of the grid that came.
    dropped: Those of them that were not taken in time.
  """

  def __init__(
    self,
    source: str,
    *,
    fps: float = decode.FRAME_RATE,
    resize: decode.Resize,
    capacity: int = 50,
    stall: float = 10.0,
  ):
    """States what is read; `with` begins it.

    Args:
      source: Number of a camera, an address such as rtsp://…, '-' for the standard input, or the path of a pipe or of
        a file, which is played in real time and may still be growing.
      fps: Frames per second to take, by the source's own times.
      resize: How frames are resized.
      capacity: Frames that wait, at most.
      stall: Seconds without a frame after which reading fails.
    """
    self.name, self.received, self.dropped = source, 0, 0
    self._fps, self._resize, self._stall = fps, resize, stall
    self._waiting: collections.deque[Frame] = collections.deque()
    self._capacity = capacity
    self._changed = threading.Condition()
    self._is_done = self._is_stopped = False
    self._error: Exception | None = None

  def __enter__(self) -> "LiveSource":
    threading.Thread(target=self._work, daemon=True).start()  # a daemon: nothing interrupts a read that waits
    return self

  def __exit__(self, *_: object) -> None:
    self._is_stopped = True

  @property
  def waiting(self) -> int:
    """Frames that wait to be taken."""
    return len(self._waiting)

  def frames(self) -> Iterator[Frame]:
    """Yields the frames as they come, until the source ends.

    Raises:
      VideoError: If the source cannot be opened, is damaged, or no frame comes for too long, or of another size.
    """
    while (frame := self._next()) is not None:
      yield frame

  def _next(self) -> Frame | None:
    with self._changed:
      if not self._changed.wait_for(lambda: self._waiting or self._is_done, timeout=self._stall):
        raise self._stalled()
      if self._waiting:
        return self._waiting.popleft()
    if self._error is not None:
      raise self._error
    return None

  def _stalled(self) -> errors.VideoError:
    return errors.VideoError(
      f"{self.name}: no frame has come for {self._stall:g} s; see whether it still sends, or allow a longer stall"
    )

  def _work(self) -> None:
    try:
      for frame in self._read():
        with self._changed:
          self.received += 1
          if len(self._waiting) == self._capacity:
            self._waiting.popleft()
            self.dropped += 1
          self._waiting.append(frame)
          self._changed.notify()
        if self._is_stopped:
          return
    except (errors.I3dError, OSError) as error:
      self._error = error
    except av.error.ExitError:  # FFmpeg's own time was up
      self._error = self._stalled()
    except av.FFmpegError as error:
      self._error = errors.VideoError(f"{self.name}: the source broke off ({error.strerror})")
    finally:
      with self._changed:
        self._is_done = True
        self._changed.notify()

  def _read(self) -> Iterator[Frame]:
    convert, clock = frames_lib.Converter(), frames_lib.MonotonicClock(lambda: 1 / self._fps)
    is_file = _is_file(self.name)
    start, last, size = 0.0, -1, None
    for frame in _grown(self.name, self._stall) if is_file else _decoded(self.name, self._stall):
      size = size or (frame.width, frame.height)
      if size != (frame.width, frame.height):
        before = "x".join(map(str, size))
        raise errors.VideoError(
          f"{self.name}: the frames changed from {before} to {frame.width}x{frame.height} pixels; start anew"
        )
      at = clock.next(frame.time)
      start = start or time.monotonic()
      while is_file and (ahead := start + at - time.monotonic()) > 0 and not self._is_stopped:
        time.sleep(min(ahead, _POLL))
      number = round(at * self._fps)
      if number > last:  # sources with more frames a second lose some here
        last = number
        yield Frame(number, self._resize(convert(frame)), time.monotonic())
    if last < 0:
      raise errors.VideoError(f"{self.name}: the source ended without a frame")


def _is_file(source: str) -> bool:
  """Whether the source is a regular file."""
  with contextlib.suppress(OSError):
    return stat.S_ISREG(os.stat(source).st_mode)
  return False


@contextlib.contextmanager
def _opened(source: str, stall: float) -> Iterator[tuple[Any, Any]]:
  """The source's container and its video stream."""
  name, options = _address(source)
  try:
    container = av.open(name, metadata_errors="ignore", timeout=stall, **options)
  except (av.FFmpegError, OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise errors.VideoError(f"{source}: the source cannot be opened ({reason})") from None
  with container:
    if not container.streams.video:
      raise errors.VideoError(f"{source}: the source has no video")
    stream = container.streams.video[0]
    containers.check_size(source, stream.codec_context.width, stream.codec_context.height)
    stream.thread_type = "SLICE"  # threads over frames would hold back as many frames as there are threads
    yield container, stream


def _address(source: str) -> tuple[str, dict[str, Any]]:
  """What FFmpeg calls the source, and the options that it needs."""
  if source.isdecimal():
    if sys.platform == "darwin":
      return source, {"format": "avfoundation", "options": {"framerate": "30"}}
    if sys.platform == "win32":
      return f"video={source}", {"format": "dshow"}
    if not os.path.exists(f"/dev/video{source}"):
      raise errors.VideoError(f"{source}: there is no such camera (/dev/video{source})")
    return f"/dev/video{source}", {"format": "v4l2"}
  if source == "-":
    return "pipe:0", {}
  if re.match(r"\w{2,}://", source):
    return source, {"options": {"rtsp_transport": "tcp"}} if source.startswith("rtsp") else {}
  if not os.path.exists(source):
    raise errors.VideoError(f"{source}: there is no such file, and it is no address, such as rtsp://…, nor a camera")
  return f"file:{pathlib.Path(source).absolute()}", {}


def _decoded(source: str, stall: float, *, after: float | None = None) -> Iterator[VideoFrame]:
  """The decoded frames; those of a file that come after a time."""
  with _opened(source, stall) as (container, stream):
    if after is not None and after > _KEY_FRAMES and stream.time_base:
      with contextlib.suppress(av.FFmpegError):  # then it is read from its start
        container.seek(int((after - _KEY_FRAMES) / stream.time_base), stream=stream)
    for packet in container.demux(stream):
      with contextlib.suppress(av.error.InvalidDataError):  # what a stream begins with, or goes on with after a loss
        for frame in packet.decode():
          if after is None or frame.time is not None and frame.time > after:
            yield frame


def _grown(path: str, stall: float) -> Iterator[VideoFrame]:
  """The decoded frames of a file, which is opened anew at its end as long as it grows."""
  last = None
  while True:
    size = os.path.getsize(path)
    for frame in _decoded(path, stall, after=last):
      last = frame.time if frame.time is not None else last
      yield frame
    deadline = time.monotonic() + _FILE_ENDS
    while os.path.getsize(path) == size:
      if time.monotonic() > deadline or last is None:
        return
      time.sleep(_POLL)
