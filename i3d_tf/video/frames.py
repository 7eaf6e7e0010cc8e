"""The decoded frames of a video file with their times, and whether the file was whole."""

from collections.abc import Callable, Generator, Iterator
import contextlib
import functools
import logging
import os

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
import numpy as np

from i3d_tf import errors
from i3d_tf.video import containers
from i3d_tf.video import deinterlace

NOT_SQUARE = "pixels are {} and were kept as stored"
HIGH_DYNAMIC_RANGE = "the picture is HDR ({}) and was not tone-mapped, so that colours are flat"
OTHER_MATRIX = "the display matrix turns by no multiple of 90 degrees and was not applied"
SALVAGED = "damaged: {}"

_HDR = {16: "PQ", 18: "HLG"}  # transfer functions (ITU-T H.273)
_MISSING_FRAMES = 2  # packets without a frame, as packed Xvid has them
_MISSING_FRACTION = 0.05
_HIDDEN_PACKETS = frozenset(("vp8", "vp9", "av1"))  # codecs with packets that are never shown
_HOLE = 4096  # bytes between two packets; what containers put there is shorter, or stands at the ends
_RETRIES = 100  # reads past damage in a row
_FINDINGS = 3  # that a message names
_SEQUENTIAL = ("matroska", "flv")  # containers whose packets follow one another without an index
_TIMED = (*_SEQUENTIAL, "asf")  # containers that may state their length, see `containers.stated_seconds`


class MonotonicClock:
  """Timestamps from 0 on, with the containers' quirks repaired.

  Packed Xvid files begin late and report an earlier time for their last frame; others may repeat a time. A timestamp
  that is missing or does not move on is replaced by one duration after the one before.
  """

  def __init__(self, duration: Callable[[], float]):
    """Starts the clock.

    Args:
      duration: Returns the seconds of a frame; called when it is needed first.
    """
    self._duration = functools.cache(duration)
    self._first: float | None = None
    self._last: float | None = None

  def next(self, reported: float | None) -> float:
    """Returns the time of the next frame.

    Args:
      reported: Its timestamp in seconds, or None.
    """
    if self._last is None:
      self._first, self._last = reported, 0.0
      return 0.0
    if self._first is None and reported is not None:
      self._first = reported - self._last - self._duration()
    time = None if reported is None or self._first is None else reported - self._first
    self._last = time if time is not None and time > self._last else self._last + self._duration()
    return self._last

  def skip(self, time: float, last: float) -> float:
    """Takes back a time that is too late, and puts one duration after the one before in its place.

    Args:
      time: What `next` returned.
      last: What it returned before.

    Returns:
      The time in its place.
    """
    self._last = last + self._duration()
    if self._first is not None:
      self._first += time - self._last
    return self._last


class Converter:
  """Converts decoded frames to RGB, as they are to be shown."""

  def __init__(self) -> None:
    """Prepares for one video."""
    self._turn: tuple[bool, bool, bool] | None = None
    self._reformatter = av.video.reformatter.VideoReformatter()

  def __call__(self, frame: VideoFrame) -> np.ndarray:
    """Converts a frame.

    Args:
      frame: The frame, of any pixel format.

    Returns:
      RGB uint8 `[H, W, 3]`, turned as the video's display matrix says.
    """
    if self._turn is None:
      self._turn = containers.orientation(frame) or (False, False, False)
    # With these flags swscale gives the bytes that OpenCV's VideoCapture gave. On several threads it would wait for
    # them longer than they save: beside a busy decoder a frame of 320x240 took six times as long on two.
    rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
    return containers.turn(rgb.to_ndarray(), self._turn)


def timed_frames(
  path: str | os.PathLike, *, allow_damaged: bool = False, note: Callable[[str], None] | None = None
) -> Generator[tuple[float, VideoFrame]]:
  """Yields decoded frames in the order in which they are shown, and checks at the end that the file was whole.

  Interlaced frames are deinterlaced, each into one frame. A file is damaged if a packet does not decode, if it ends
  before its index or its outermost elements do, or if part of it is missing from the middle. Without `allow_damaged`
  nothing is yielded from the first frame on that does not decode whole.

  Args:
    path: Path of the video.
    allow_damaged: Whether to go on after damage and to leave out gaps of more than `containers.MAX_GAP` seconds.
      Decoding is on one thread then, so that what comes of it does not depend on the machine.
    note: Called once with each remark on what is done with the frames. None: remarks are logged, each once a file.

  Yields:
    (Seconds since the first frame, the frame), all of one size.

  Raises:
    VideoError: If the file cannot be opened, holds no frames, has frames of several sizes, is damaged, or its clock
      jumps.
  """
  note = functools.partial(log_remark, os.fspath(path)) if note is None else note
  with containers.opened(path) as (container, stream):
    reader = _Reader(path, container, stream, allow_damaged)
    clock = MonotonicClock(lambda: 1 / containers.scan(path).frame_rate)
    last, count = 0.0, 0
    with contextlib.closing(deinterlace.deinterlaced(reader.frames(), note)) as frames:
      for reported, frame in frames:
        time = clock.next(reported)
        if time - last > containers.MAX_GAP:
          time = _close_gap(reader, clock, time, last)
        if not count:
          _remark(frame, stream, note)
        count += 1
        yield time, frame
        last = time
    reader.check_end()
    reader.conclude(count, note)


def _close_gap(reader: "_Reader", clock: MonotonicClock, time: float, last: float) -> float:
  jump = f"the clock jumps by {time - last:.1f} s after {last:.2f} s"
  if not reader.allow_damaged:
    raise errors.VideoError(
      f"{reader.path}: {jump}, more than the {containers.MAX_GAP:g} s that are filled ({reader.what}); "
      "allow_damaged=True leaves the gap out, or write the video anew with a steady clock"
    )
  reader.add_damage(jump)
  return clock.skip(time, last)


class _Reader:
  """Demuxes and decodes one video, and keeps account of what is wrong with it."""

  def __init__(self, path: str | os.PathLike, container: InputContainer, stream: VideoStream, allow_damaged: bool):
    self.path, self.allow_damaged = path, allow_damaged
    self.what = containers.describe(container, stream)
    self._container, self._stream = container, stream
    self._damage: list[str] = []
    self._num_packets = self._num_frames = 0  # from the first key frame on
    self._is_interlaced = self._has_failed = self._is_cut = False
    self._first_key: int | None = None  # its tick
    self._end = 0.0  # seconds, of the packets of all streams
    # Audio and video Interchange Format has no presentation times, and what FFmpeg makes of packed frames is wrong.
    self._by_dts = container.format.name == "avi"
    stream.thread_type = "NONE" if allow_damaged else "AUTO"
    if allow_damaged:
      stream.codec_context.thread_count = 1

  def add_damage(self, clause: str) -> None:
    """Keeps what was found wrong; the first findings say enough."""
    if len(self._damage) < _FINDINGS:
      self._damage.append(clause)

  def frames(self) -> Iterator[tuple[float | None, VideoFrame]]:
    """Yields the frames with their timestamps in seconds; without `allow_damaged` up to the first damage."""
    size = None
    for packet in self._packets():
      for frame in self._decode(packet):
        if frame.is_corrupt:
          self.add_damage(f"the frame after {self._num_frames} others is only partly there")
          if not self.allow_damaged:
            return
        self._num_frames += 1
        self._is_interlaced |= frame.interlaced_frame
        if size is None:
          containers.check_size(self.path, frame.width, frame.height)
          size = (frame.width, frame.height)
        if size != (frame.width, frame.height):
          raise errors.VideoError(
            f"{self.path}: frame {self._num_frames} has {frame.width}x{frame.height} pixels, the video "
            f"{size[0]}x{size[1]}"
          )
        yield self._seconds(frame), frame
      if self._has_failed and not self.allow_damaged:
        return

  def check_end(self) -> None:
    """Looks for what is missing, when all is read."""
    stated = containers.stated_seconds(self.path, self._container)
    if missing := containers.missing_bytes(self.path, self._container, self._stream):
      self._is_cut = True
      self.add_damage(f"the file has {missing[0]:,} of the {missing[1]:,} bytes that it should have")
    elif self._end < (1 - _MISSING_FRACTION) * stated - _MISSING_FRAMES / containers.FRAME_RATE:
      self._is_cut = True
      self.add_damage(f"the file ends after {self._end:.2f} of the {stated:.2f} s that its header states")
    expected = self._num_packets // 2 if self._is_interlaced else self._num_packets  # a packet may be a field
    lacking = expected - self._num_frames
    may_hide = self._stream.codec_context.codec.canonical_name in _HIDDEN_PACKETS
    if not self._damage and not may_hide and lacking > max(_MISSING_FRAMES, _MISSING_FRACTION * expected):
      self.add_damage(f"{lacking} packets give no frame")

  def conclude(self, count: int, note: Callable[[str], None]) -> None:
    """Raises, or notes, what was found wrong.

    Args:
      count: Frames that were yielded.
      note: See `timed_frames`.
    """
    clauses = "; ".join(self._damage)
    if not count:
      raise errors.VideoError(f"{self.path}: no frame can be decoded ({self.what})" + f": {clauses}" * bool(clauses))
    if not clauses:
      return
    expected = max(self._expected(), count)
    found = f"{'only ' if count < expected else ''}{count} of {expected} frames can be decoded"
    if not self.allow_damaged:
      raise errors.VideoError(
        f"{self.path}: {found}; the video is damaged or incomplete ({self.what}): {clauses}; allow_damaged=True takes "
        "what there is"
      )
    note(SALVAGED.format(f"{found}; {clauses}"))

  def _expected(self) -> int:
    """The number of frames that the video should have, as far as the file tells."""
    scanned = containers.scan(self.path)
    if not self._is_cut:
      return scanned.num_packets
    stated = containers.stated_seconds(self.path, self._container) * scanned.frame_rate
    return max(scanned.num_packets, scanned.num_declared, round(stated))

  def _packets(self) -> Iterator[Packet | None]:
    """The video's packets, and None at the end for what the decoder has left."""
    name = self._container.format.name
    wanted = () if name.startswith(_TIMED) else (self._stream,)  # all streams, or one
    has_places = name.startswith(_SEQUENTIAL)
    failures = 0
    number = end = 0
    while True:
      try:
        for packet in self._container.demux(*wanted):
          if not packet.size:
            continue
          if not wanted:
            self._check_place(packet, end if has_places else 0)
            end = (packet.pos or 0) + packet.size
          if packet.stream is self._stream:
            number += 1
            failures = 0
            self._count(packet, number)
            if self._damage and not self.allow_damaged:
              break  # the frames before it are still in the decoder
            yield packet
        break
      except av.FFmpegError:
        self.add_damage(f"the container cannot be read after packet {number}")
        failures += 1
        if not self.allow_damaged or failures > _RETRIES:
          break
    yield None

  def _check_place(self, packet: Packet, end: int) -> None:
    """Finds bytes that were skipped, in containers whose packets follow one another, and keeps the time reached."""
    if packet.pts is None:
      return
    time = float(packet.pts * packet.time_base)
    is_far = time - self._end > 0.2  # whatever the stream, time has been lost
    if end and packet.pos is not None and packet.pos - end > _HOLE and is_far:
      self._is_cut = True
      self.add_damage(
        f"{packet.pos - end:,} bytes cannot be read, with what belongs between {self._end:.2f} and {time:.2f} s"
      )
    self._end = max(self._end, time + float((packet.duration or 0) * packet.time_base))

  def _count(self, packet: Packet, number: int) -> None:
    tick = packet.dts if packet.pts is None else packet.pts
    if packet.is_keyframe and self._first_key is None:
      self._first_key = -(2**63) if tick is None else tick
    if packet.is_corrupt:
      self.add_damage(f"packet {number} is not whole")
    # What precedes the first key frame cannot be decoded, in a healthy cut, either.
    if self._first_key is not None and not packet.is_discard and (tick is None or tick >= self._first_key):
      self._num_packets += 1

  def _decode(self, packet: Packet | None) -> list[VideoFrame]:
    found: list[VideoFrame] = []
    for _ in range(_RETRIES if packet is None else 1):  # an error ends what `decode` returns, not what is left
      try:
        found += self._stream.decode(packet)
        break
      except EOFError:
        break
      except av.FFmpegError:
        if self._first_key is not None:
          self.add_damage(f"after frame {self._num_frames} a packet does not decode")
          self._has_failed = True
          if not self.allow_damaged:
            break
    return found

  def _seconds(self, frame: VideoFrame) -> float | None:
    tick = frame.dts if self._by_dts or frame.pts is None else frame.pts
    unit = frame.time_base or self._stream.time_base
    return None if tick is None or unit is None else float(tick * unit)


@functools.lru_cache
def log_remark(path: str, remark: str) -> None:
  """Logs a remark as a warning, unless it was logged already: most programs read a video more than once.

  Args:
    path: The video's.
    remark: What was done with its frames, one sentence.
  """
  logging.getLogger(__name__).warning("%s: %s", path, remark)


def _remark(frame: VideoFrame, stream: VideoStream, note: Callable[[str], None]) -> None:
  """Notes what is special about a video, by its first frame."""
  shape = stream.sample_aspect_ratio
  if shape is not None and shape > 0 and shape != 1:
    note(NOT_SQUARE.format(f"{shape.numerator}:{shape.denominator}"))
  if containers.orientation(frame) is None:
    note(OTHER_MATRIX)
  if curve := _HDR.get(frame.color_trc):
    note(HIGH_DYNAMIC_RANGE.format(curve))
