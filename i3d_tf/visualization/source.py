"""A video as networks take it, frame by frame, as often as wanted; and its flow, computed once and kept on disk."""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import os
import tempfile

import numpy as np

from i3d_tf.data import inspection
from i3d_tf.data import prepare
from i3d_tf.data import shards
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.inference import classification
from i3d_tf.video import decode

# Wraps what takes long: of (things to be gone through, what they are, how many) it returns the things.
Progress = Callable[[Iterable, str, int], Iterable]
_SPEED_BIN = 0.05  # pixels per frame, of the histogram from which the scale of the colours is taken
_SPEED_BINS = round(np.hypot(codec.BOUND, codec.BOUND) / _SPEED_BIN) + 1
_SETTINGS = shards.RecordConfig()


def silently(things: Iterable, name: str, total: int) -> Iterable:
  """A `Progress` that shows none."""
  del name, total
  return things


@dataclasses.dataclass(frozen=True)
class Video:
  """A video that was gone through once, to its end, at 25 frames per second.

  Attributes:
    path: the file.
    short_side: pixels of the shorter side that frames are resized to.
    num_frames, height, width: of these.
  """

  path: str
  short_side: int
  num_frames: int
  height: int
  width: int

  @property
  def seconds(self) -> float:
    """How long it lasts."""
    return self.num_frames / decode.FRAME_RATE

  def frames(self) -> Iterator[np.ndarray]:
    """Its RGB frames, uint8 `[H, W, 3]`."""
    return decode.iter_frames(self.path, short_side=self.short_side)

  def flow(self, threads: int | None = None) -> Iterator[np.ndarray]:
    """Its TV-L1 flow, float32 `[H, W, 2]` in pixels per frame, of which there is one less than frames."""
    return tvl1.iter_flow(self.frames(), threads=threads)


def survey(path: str | os.PathLike, *, short_side: int, streams: Iterable[str]) -> Video:
  """Goes through a video and says how long and large it is.

  Raises:
    VideoError: if it cannot be read whole, or is too short for a network of one of the streams.
  """
  count = decode.count_frames(path)
  classification.check_length(path, count, has_flow="flow" in streams)
  height, width = next(decode.iter_frames(path, short_side=short_side)).shape[:2]
  return Video(os.fspath(path), short_side, count, height, width)


class FlowStore:
  """Flow fields in a temporary file, as bytes of +-20 pixels per frame, and the speed that most of them keep below."""

  def __init__(self):
    self._file = tempfile.TemporaryFile()
    self._ends = [0]
    self._counts = np.zeros(_SPEED_BINS, np.int64)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def keep(self, fields: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the fields `[H, W, 2]` again, having stored each."""
    for field in fields:
      self._ends.append(self._ends[-1] + self._file.write(prepare.encode_flow(field, _SETTINGS)))
      speeds = np.linalg.norm(np.clip(field, -codec.BOUND, codec.BOUND), axis=-1)
      self._counts += np.bincount((speeds / _SPEED_BIN).astype(int).ravel(), minlength=_SPEED_BINS)
      yield field

  @property
  def full_scale(self) -> float:
    """The 99th percentile of all speeds, at least 1, in pixels per frame: for `codec.draw`."""
    shares = np.cumsum(self._counts) / max(self._counts.sum(), 1)
    return max(1.0, _SPEED_BIN * float(np.searchsorted(shares, 0.99) + 1))

  def draw(self, index: int) -> np.ndarray:
    """The picture of a field, all in one scale, RGB uint8 `[H, W, 3]`."""
    self._file.seek(self._ends[index])
    content = self._file.read(self._ends[index + 1] - self._ends[index])
    self._file.seek(0, os.SEEK_END)
    field = codec.decode_middle(inspection.decode_image(content)[..., :2])
    return codec.draw(field, full_scale=self.full_scale)
