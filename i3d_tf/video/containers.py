"""Opens video files with PyAV: which stream is the video, how its frames are turned, and where its file should end."""

import array
from collections.abc import Iterator
import contextlib
import dataclasses
import fractions
import os
import re
import struct
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
import numpy as np

from i3d_tf import errors
from i3d_tf import files

FRAME_RATE = 25.0  # frames per second of the release's clips (paper, section 2.4)
MAX_PIXELS = 1 << 26  # of a frame; 8K video has half as many
MAX_ASPECT = 32  # longer side of a frame, divided by the shorter one, which is what resizing looks at
MAX_GAP = 10.0  # seconds without a frame; a longer gap is taken for a clock that jumps
_MAX_RATE = 1000.0  # frames per second; a shorter interval is taken for a clock that stands
# What FFmpeg takes for videos and is none: pictures, text as a terminal shows it, lists of other files, bare pixels.
_NO_VIDEOS = frozenset("adf bin concat dash hls idf rawvideo tty xbin".split())
_STILL_SUFFIX = "_pipe"  # of FFmpeg's names for files that are one picture
# Containers whose header may state the length of what was recorded, and the name that it has there.
_STATES_LENGTH = {"matroska": b"\x44\x89", "flv": b"duration", "asf": b""}
_HEAD = 1 << 16  # bytes
# The identifiers of ASF's header and of the object in it that states the file's size.
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_COVERS = (
  av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails | av.stream.Disposition.still_image
)


@dataclasses.dataclass(frozen=True)
class Scan:
  """What a video's packets tell, found by reading the file without decoding it.

  Attributes:
    num_packets: Packets that are shown. Packets that an edit list cuts off do not count.
    num_declared: Packets that the header declares, less those that are cut off; 0 if unknown.
    frame_rate: The video's own frame rate: one divided by the median interval between packets that are shown.
  """

  num_packets: int
  num_declared: int
  frame_rate: float


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[InputContainer, VideoStream]]:
  """Opens a video file during the body of `with`.

  Args:
    path: Path of the file.

  Yields:
    The container, and the video stream that FFmpeg would choose. Cover art is no video.

  Raises:
    VideoError: If the file is missing, empty, no video, a single picture, or needs a decoder that FFmpeg lacks; if its
      frames are too large, or too long and narrow.
    OSError: If the file cannot be read.
  """
  with _open(path) as container:
    stream = _video_stream(path, container)
    check_size(path, stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options |= {"max_pixels": str(MAX_PIXELS)}  # whatever the header says
    yield container, stream


def check_size(path: str | os.PathLike, width: int, height: int) -> None:
  """Refuses frames that would take too much memory, as they are or when their shorter side is resized.

  Args:
    path: Path of the video, or what else names it.
    width: Pixels of a row; 0 if unknown.
    height: Number of rows; 0 if unknown.

  Raises:
    VideoError: If they are too large, or too long and narrow.
  """
  if width * height > MAX_PIXELS:
    most = f"more than {MAX_PIXELS:,} pixels"
  elif max(width, height) > MAX_ASPECT * min(width, height) > 0:
    most = f"one side more than {MAX_ASPECT} times the other"
  else:
    return
  raise errors.VideoError(f"{path}: its frames have {width}x{height} pixels, {most}; scale or crop them before")


def describe(container: InputContainer, stream: VideoStream) -> str:
  """Returns codec and container in words, for example 'h264 in matroska'.

  Args:
    container: The container.
    stream: Its video stream.
  """
  return f"{stream.codec_context.codec.canonical_name} in {container.format.name.partition(',')[0]}"


def scan(path: str | os.PathLike) -> Scan:
  """Reads a video's packets without decoding them.

  Args:
    path: Path of the video.

  Returns:
    What they tell.

  Raises:
    VideoError: If the file is no video.
  """
  ticks = array.array("q")
  num_packets = num_cut = 0
  with opened(path) as (container, stream):
    with contextlib.suppress(av.FFmpegError):  # the rest of a damaged file
      for packet in container.demux(stream):
        num_cut += packet.is_discard
        if packet.size and not packet.is_discard:
          num_packets += 1
          tick = packet.dts if packet.pts is None else packet.pts
          if tick is not None:
            ticks.append(tick)
    return Scan(num_packets, max(0, stream.frames - num_cut), _frame_rate(np.array(ticks, np.int64), stream))


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool] | None:
  """Returns how a frame's display matrix wants its stored pixels turned.

  Args:
    frame: A decoded frame.

  Returns:
    Whether to transpose, then to flip horizontally, then vertically; None if the matrix turns by other angles.
  """
  side_data: Any = frame.side_data  # a mapping for its stubs, a sequence when it is iterated
  content = next((bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"), None)
  if content is None:
    return False, False, False
  # The picture's x and y become (a x + c y, b x + d y), in 16.16 fixed point (libavutil/display.h).
  a, b, _, c, d = struct.unpack("=5i", content[:20])
  largest = max(map(abs, (a, b, c, d)))
  is_zero = [abs(value) < 0.01 * largest for value in (a, b, c, d)]
  if is_zero == [False, True, True, False]:
    return False, a < 0, d < 0
  if is_zero == [True, False, False, True]:
    return True, c < 0, b < 0
  return None


def turn(image: np.ndarray, how: tuple[bool, bool, bool]) -> np.ndarray:
  """Turns an image.

  Args:
    image: `[H, W, C]`.
    how: See `orientation`.

  Returns:
    The image, contiguous; the same array if there is nothing to do.
  """
  transposed, flip_x, flip_y = how
  if not any(how):
    return image
  turned = image.swapaxes(0, 1) if transposed else image
  return np.ascontiguousarray(turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def stated_seconds(path: str | os.PathLike, container: InputContainer) -> float:
  """Returns the length that a header states, 0 where it states none; FFmpeg may have estimated one then.

  Args:
    path: Path of the file.
    container: The same, opened.
  """
  marks = [mark for name, mark in _STATES_LENGTH.items() if name in container.format.name.split(",")]
  if container.duration is None or not marks:
    return 0.0
  with open(path, "rb") as file:
    return container.duration / 1e6 if marks[0] in file.read(_HEAD) else 0.0


def missing_bytes(path: str | os.PathLike, container: InputContainer, stream: VideoStream) -> tuple[int, int] | None:
  """Compares the length of a file with what its outermost elements and its index say.

  Args:
    path: Path of the file.
    container: The same, opened.
    stream: Its video stream.

  Returns:
    The bytes that there are and those that there should be; None if nothing is missing.
  """
  size = os.path.getsize(path)
  with open(path, "rb") as file:
    head = file.read(_HEAD)
    if head.startswith(b"\x1aE\xdf\xa3"):
      wanted = _end_of_matroska(head[:64])
    elif head.startswith(_ASF_HEADER):
      wanted = _end_of_asf(head)
    elif head.startswith(b"RIFF"):
      wanted = 8 + struct.unpack("<I", head[4:8])[0]
      wanted = 0 if wanted >= 2**32 - 1 else wanted  # written without going back
    elif container.format.name.startswith("mov"):
      wanted = max(
        _end_of_boxes(file, size), max((entry.pos + entry.size for entry in stream.index_entries), default=0)
      )
    else:
      wanted = 0
  return (size, wanted) if wanted > size else None


def _open(path: str | os.PathLike) -> InputContainer:
  path = os.fspath(path)
  if not os.path.exists(path):
    raise errors.VideoError(f"{path}: there is no such file")
  if os.path.isdir(path):
    raise errors.VideoError(f"{path}: this is a folder, not a video")
  files.check_regular(path)
  with open(path, "rb") as file:  # says if it may not be read
    if not file.read(1):
      raise errors.VideoError(f"{path}: the file is empty")
  # FFmpeg would take 'a:b.mp4' for an address, and lists of addresses for videos.
  name = f"file:{os.path.abspath(path)}"
  try:
    container = av.open(name, metadata_errors="ignore", options={"protocol_whitelist": "file"})
  except (av.FFmpegError, ValueError):
    raise errors.VideoError(f"{path}: this is not a video that FFmpeg can open, or its header is damaged") from None
  kinds = set(container.format.name.split(","))
  if "image2" in kinds or any(kind.endswith(_STILL_SUFFIX) for kind in kinds):
    container.close()
    raise errors.VideoError(f"{path}: this is a single picture ({container.format.name}), not a video")
  if kinds & _NO_VIDEOS:
    container.close()
    raise errors.VideoError(f"{path}: this is not a video; FFmpeg takes it for {container.format.long_name}")
  return container


def _video_stream(path: str | os.PathLike, container: InputContainer) -> VideoStream:
  videos = [stream for stream in container.streams.video if not stream.disposition & _COVERS]
  known = [stream for stream in videos if stream.codec_context is not None]
  best = container.streams.best("video")
  if best in known:
    return best
  if known:
    return max(known, key=lambda stream: stream.codec_context.width * stream.codec_context.height)
  if videos:
    codec = _codec_without_decoder(container, videos[0])
    raise errors.VideoError(f"{path}: the video's codec is {codec}, for which this FFmpeg has no decoder")
  if container.streams.video:
    raise errors.VideoError(f"{path}: this is not a video; its only picture is a cover or a still")
  kinds = ", ".join(sorted({stream.type for stream in container.streams if stream.type})) or "nothing"
  raise errors.VideoError(f"{path}: this is not a video; it holds {kinds}")


def _codec_without_decoder(container: InputContainer, stream: VideoStream) -> str:
  """The name of a codec, or where FFmpeg does not know it the container's code for it."""
  before = av.logging.get_level()
  av.logging.set_level(av.logging.INFO)
  try:
    text = container.dumps_format()  # type: ignore[attr-defined]
  finally:
    av.logging.set_level(before)
  found = re.search(rf"Stream #0:{stream.index}\b.*?: Video: (\w+)(?: \((\w+))?", text)
  if not found:
    return "unknown"
  return found[2] if found[1] == "none" and found[2] else found[1]


def _frame_rate(ticks: np.ndarray, stream: VideoStream) -> float:
  """One divided by the median interval; exactly what the header declares where the two agree within rounding."""
  intervals = np.diff(np.sort(ticks))
  intervals = intervals[intervals > 0]
  declared = [rate for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
  if not len(intervals):
    return float(next((rate for rate in declared if 1 / MAX_GAP <= rate <= _MAX_RATE), FRAME_RATE))
  unit = stream.time_base or fractions.Fraction(1, 1)
  median = np.median(intervals)
  rounding = max(1.0, 0.001 / float(unit))  # of timestamps, to the container's unit or to milliseconds
  # The mean of what differs by rounding only: 33, 33 and 34 ms are 30 frames per second.
  near = intervals[np.abs(intervals - median) <= max(rounding, 0.05 * median)]
  agrees = lambda rate: abs(1 / float(rate * unit) - near.mean()) <= rounding / len(near) + 0.001 * near.mean()
  measured = 1 / float(near.mean() * unit)
  rate = next((float(rate) for rate in declared if agrees(rate)), measured)
  return rate if 1 / MAX_GAP <= rate <= _MAX_RATE else FRAME_RATE


def _end_of_matroska(head: bytes) -> int:
  """Where the segment ends, which holds all but a header; 0 if its size is not stated, as in live recordings."""
  place = 4
  for element in ("header", "segment"):
    if element == "segment":
      if head[place : place + 4] != b"\x18\x53\x80\x67":
        return 0
      place += 4
    length = 9 - head[place].bit_length() if place < len(head) else 9
    if length > 8 or place + length > len(head):
      return 0
    value = int.from_bytes(head[place : place + length], "big") & ((1 << 7 * length) - 1)
    if element == "segment" and value == (1 << 7 * length) - 1:
      return 0
    place += length + value
  return place


def _end_of_asf(head: bytes) -> int:
  """The file's size as its header states it; 0 where it does not, as in live recordings."""
  _, found, properties = head.partition(_ASF_PROPERTIES)
  # Behind the object's own size and the file's identifier stands the size; the lowest flag says that there is none.
  if not found or len(properties) < 76 or properties[72] & 1:
    return 0
  return struct.unpack("<Q", properties[24:32])[0]


def _end_of_boxes(file, size: int) -> int:
  """Where the last of an ISO file's outermost boxes ends."""
  place = 0
  while place + 8 <= size:
    file.seek(place)
    head = file.read(16)
    length, kind = struct.unpack(">I4s", head[:8])
    if not kind.isalnum():  # padding or other bytes behind the boxes
      return 0
    if length == 1 and len(head) == 16:
      length = struct.unpack(">Q", head[8:])[0]
    if length < 8:  # 0: to the end of the file
      return 0
    place += length
  return place
