"""A video as networks take it: frames, read as often as needed, windows of them, and flow, which is kept on disk."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import itertools
import os
import tempfile
from typing import Any, TypeVar

import numpy as np

from i3d_tf import errors
from i3d_tf import flow as flow_lib
from i3d_tf import workers
from i3d_tf.data import inspection
from i3d_tf.data import prepare
from i3d_tf.data import shards
from i3d_tf.flow import codec
from i3d_tf.inference import classification
from i3d_tf.input import clip_config
from i3d_tf.models import preprocess
from i3d_tf.video import decode
from i3d_tf.video import stills

_T = TypeVar("_T")
_SPEED_BIN = 0.05  # pixels per frame, of the histogram from which the scale of the colours is taken
_SPEED_BINS = round(np.hypot(codec.BOUND, codec.BOUND) / _SPEED_BIN) + 1
_SETTINGS = shards.RecordConfig()


def progress_bar(things: Iterable[_T], name: str, total: int, *, shown: bool) -> Iterator[_T]:
  """Returns things as they are, and shows a bar on stderr.

  Args:
    things: what is passed on.
    name: what they are.
    total: how many there are.
    shown: whether there is a bar at all.
  """
  return iter(workers.Bar(things, desc=name, total=total, unit="frame", is_shown=shown))


@dataclasses.dataclass(frozen=True)
class Video:
  """A video that was read once, to its end, at 25 frames per second.

  Attributes:
    path: the file.
    short_side: pixels of the shorter side that frames are resized to.
    num_frames, height, width: number and size of these frames.
    allow_damaged: whether what there is of a damaged video is taken.
    image_rate: frames per second of folders of images and of arrays.
    flow_bound: pixels per frame of the largest byte of folders' images of flow.
  """

  path: str
  short_side: int
  num_frames: int
  height: int
  width: int
  allow_damaged: bool = False
  image_rate: float = decode.FRAME_RATE
  flow_bound: float = codec.BOUND

  @property
  def seconds(self) -> float:
    """Its duration."""
    return self.num_frames / decode.FRAME_RATE

  def frames(self) -> Iterator[np.ndarray]:
    """Returns its RGB frames one after the other, uint8 `[H, W, 3]`."""
    how: dict[str, Any] = {"allow_damaged": self.allow_damaged, "frame_rate": self.image_rate}
    return decode.iter_frames(self.path, short_side=self.short_side, **how)

  def flow(self, estimator: flow_lib.Estimator | None = None) -> Iterator[np.ndarray]:
    """Returns its optical flow, one field less than frames, one after the other: float32 `[H, W, 2]`, pixels per frame.

    It is that of the folder, if it has any, or else the estimator's.

    Args:
      estimator: computes it; None: TV-L1.
    """
    images = stills.open_with_flow(self.path, self.image_rate, decode.FRAME_RATE)
    if images is not None:
      fields = map(images.flow, range(len(images.x)))
      return (codec.decode_resized(each, self.height, self.width, bound=self.flow_bound) for each in fields)
    return (estimator or flow_lib.Estimator()).iterate(self.frames())


def survey(
  path: "str | os.PathLike | Video",
  clip: preprocess.Preprocess,
  *,
  least_frames: int = 1,
  allow_damaged: bool = False,
  image_rate: float = decode.FRAME_RATE,
  flow_bound: float = codec.BOUND,
) -> Video:
  """Returns a video, which is read to find its length and size.

  Args:
    path: the file; or a video that was surveyed, which is only checked.
    clip: how the networks' clips are made.
    least_frames: the fewest frames that the networks take, at 25 per second.
    allow_damaged: as in `decode.iter_frames`.
    image_rate: frames per second of folders of images and of arrays, which state none.
    flow_bound: pixels per frame of the largest byte of folders' images of flow.

  Raises:
    VideoError: if it cannot be read whole, or has fewer frames.
    I3dError: if the networks take another rate than that of the pages that are drawn.
  """
  if clip.frame_rate != decode.FRAME_RATE:
    raise errors.I3dError(f"frame_rate is {clip.frame_rate:g}; videos are drawn for networks of {decode.FRAME_RATE:g}")
  if isinstance(path, Video):
    name, count = path.path, path.num_frames
  else:
    name, count = os.fspath(path), decode.count_frames(path, allow_damaged=allow_damaged, frame_rate=image_rate)
  if count < least_frames:
    raise errors.VideoError(
      f"{name}: the video has {count} frames at {decode.FRAME_RATE:g} frames per second; "
      f"the network needs at least {least_frames}"
    )
  if isinstance(path, Video):
    return path
  video = Video(name, clip.short_side, count, 0, 0, allow_damaged, image_rate, flow_bound)
  height, width = next(video.frames()).shape[:2]
  return dataclasses.replace(video, height=height, width=width)


def windows(
  video: Video, clips: clip_config.EvalClips, *, hop: int, flow: Iterable[np.ndarray] = (), frames: Iterable[np.ndarray]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
  """Cuts a video into overlapping clips, in memory for one clip; a video that is shorter than a clip is looped.

  Args:
    video: the video.
    clips: what the clips are: the streams, and the protocol 'clips' with one clip.
    hop: frames from the start of one clip to that of the next; the last one ends with the video.
    flow: its flow fields, in pixels per frame, if clips have flow.
    frames: its frames.

  Yields:
    The number of the first frame, and clips `[1, T, crop, crop, C]` in [-1, 1] by stream.

  Raises:
    VideoError: if the video is too short for a stack of flow.
  """
  has_flow = "flow" in clips.streams
  count = video.num_frames - has_flow
  span = (clips.num_frames - 1) * clips.frame_stride + clips.flow_stack
  last = max(count - span, 0)
  sources = {"flow": iter(flow)} if has_flow else {}
  sources |= {"rgb": iter(frames)} if "rgb" in clips.streams else {}
  kept: dict[str, list[np.ndarray]] = {stream: [] for stream in sources}
  first = 0
  for start in [*range(0, last, hop), last]:
    for stream, images in kept.items():
      del images[: start - first]
      images.extend(itertools.islice(sources[stream], min(start + span, count) - start - len(images)))
    first = start
    yield start, classification.read_views(_Window(video, kept, min(span, count) + has_flow), clips)


class _Window(classification.Video):
  """Some consecutive frames of a video, or flow fields, that are in memory; takes the place of the whole video."""

  def __init__(self, video: Video, kept: Mapping[str, list[np.ndarray]], num_frames: int):
    self.path, self.size, self.num_frames = video.path, (video.height, video.width), num_frames
    self._images = kept

  def read(self, numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """See `classification.Video.read`."""
    found = {stream: np.stack([self._images[stream][number] for number in each]) for stream, each in numbers.items()}
    return {stream: codec.scale(images) if stream == "flow" else images for stream, images in found.items()}


class FlowStore:
  """Flow fields in a temporary file, as bytes of +-20 pixels per frame, and the speed that few of them exceed."""

  def __init__(self):
    self._file = tempfile.TemporaryFile()
    self._ends = [0]
    self._counts = np.zeros(_SPEED_BINS, np.int64)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def keep(self, fields: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Stores fields and passes them on.

    Args:
      fields: `[H, W, 2]` in pixels per frame.

    Yields:
      The fields.
    """
    for field in fields:
      self._ends.append(self._ends[-1] + self._file.write(prepare.encode_flow(field, _SETTINGS)))
      speeds = np.linalg.norm(np.clip(field, -codec.BOUND, codec.BOUND), axis=-1)
      self._counts += np.bincount((speeds / _SPEED_BIN).astype(int).ravel(), minlength=_SPEED_BINS)
      yield field

  @property
  def full_scale(self) -> float:
    """The 99th percentile of all speeds in pixels per frame, at least 1, for `codec.draw`."""
    shares = np.cumsum(self._counts) / max(self._counts.sum(), 1)
    return max(1.0, _SPEED_BIN * float(np.searchsorted(shares, 0.99) + 1))

  def draw(self, index: int) -> np.ndarray:
    """Returns a field drawn in the scale of all of them, RGB uint8 `[H, W, 3]`.

    Args:
      index: number of the field.
    """
    self._file.seek(self._ends[index])
    content = self._file.read(self._ends[index + 1] - self._ends[index])
    self._file.seek(0, os.SEEK_END)
    field = codec.decode_middle(inspection.decode_image(content)[..., :2])
    return codec.draw(field, full_scale=self.full_scale)
