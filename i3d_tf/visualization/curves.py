"""Logits over time: of the steps of a network, or of overlapping clips, and the times that they stand for."""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np
from scipy import special

from i3d_tf import errors
from i3d_tf import flow as flow_lib
from i3d_tf.flow import codec
from i3d_tf.inference import chunks
from i3d_tf.inference import classification
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.input import ops
from i3d_tf.models import base
from i3d_tf.models import preprocess
from i3d_tf.models import receptive_field
from i3d_tf.video import decode
from i3d_tf.visualization import source

Layers = Sequence[receptive_field.Layer]

_CHUNK = 256  # frames from one pass of the network to the next: a Kinetics clip is one pass
_HOPS = 4  # windows per length of a window


@dataclasses.dataclass(frozen=True)
class Curve:
  """The logits of one network over time.

  Attributes:
    times: seconds of the steps or windows, `[steps]`, rising.
    logits: `[steps, classes]`.
    field: seconds of video that a step or window sees.
    hop: seconds between two windows; None: these are steps of the network, of one pass over the whole video.
    features: what the network gives its classifier at each step, `[steps, channels]`, if asked for.
  """

  times: np.ndarray
  logits: np.ndarray
  field: float
  hop: float | None = None
  features: np.ndarray | None = None

  def at(self, times: np.ndarray) -> np.ndarray:
    """Returns logits `[N, classes]`, linear between steps; before the first and after the last they are constant.

    Args:
      times: seconds `[N]`.
    """
    if len(self.times) == 1:
      return np.repeat(self.logits, len(times), axis=0)
    left = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, len(self.times) - 2)
    share = np.clip((times - self.times[left]) / (self.times[left + 1] - self.times[left]), 0, 1)[:, np.newaxis]
    return (1 - share) * self.logits[left] + share * self.logits[left + 1]

  @property
  def mean(self) -> np.ndarray:
    """The logits of the whole video, `[classes]`: the mean over the steps, which is that of one pass, or windows."""
    return self.logits.mean(axis=0)

  def seen(self, time: float) -> tuple[float, float]:
    """Returns the first and the last second on which a value depends.

    Args:
      time: Seconds of the value.
    """
    nearest = self.times[np.abs(self.times - time).argmin()]
    return nearest - self.field / 2, nearest + self.field / 2


def compute(
  network: classifier_lib.LoadedNetwork,
  video: source.Video,
  store: source.FlowStore,
  *,
  estimator: flow_lib.Estimator | None = None,
  progress: bool = False,
  has_features: bool = False,
) -> Curve:
  """Returns the logits of a network over a video of any length, of the centre crop that it was trained on.

  A network whose steps in time depend on their own frames only, as I3D's do, gives the logits of each step, exactly as
  one pass over the whole video would. Others are applied to overlapping clips of their own length, four to a length.

  Args:
    network: the network.
    video: the video.
    store: keeps the flow that is computed, for pictures.
    estimator: computes the flow; None: TV-L1.
    progress: show progress on stderr.
    has_features: return the features, too.

  Raises:
    VideoError: if the video cannot be read, or is too short.
    I3dError: if a logit is not finite.
  """
  bar = lambda things, name, total: source.progress_bar(things, name, total, shown=progress)
  flow: Iterator[np.ndarray] = iter(())
  if "flow" in network.streams:
    flow = store.keep(bar(video.flow(estimator), "flow", video.num_frames - 1))
  frames = bar(video.frames(), "rgb", video.num_frames) if network.streams == ("rgb",) else video.frames()
  layers = step_layers(network)
  if layers is None:
    return _of_windows(network, video, frames, flow, has_features)
  return _of_steps(network, video, layers, flow if network.info.stream == "flow" else frames, has_features)


def step_layers(network: classifier_lib.LoadedNetwork) -> Layers | None:
  """Returns the layers along time that lead to the logits of a step; None if a step depends on the whole clip.

  Args:
    network: The network.
  """
  is_plain = len(network.streams) == 1 and network.info.preprocess.flow_stack == 1
  if not is_plain or base.STEP_LOGITS not in network.model.endpoint_names:
    return None
  try:
    return network.model.time_layers(base.STEP_LOGITS)
  except errors.I3dError:
    return None


def least_frames(network: classifier_lib.LoadedNetwork, layers: Layers | None) -> int:
  """Returns the fewest frames of a video from which steps can be computed; of windows, see `source.windows`.

  Args:
    network: the network.
    layers: along time to its steps; None: there are windows.
  """
  clip, steps = network.info.preprocess, 1
  while layers is not None and not receptive_field.num_steps(layers, steps):
    steps += 1
  span = clip.flow_stack if layers is None else (steps - 1) * clip.frame_stride + 1
  return span + ("flow" in network.streams)


def step_times(layers: Layers, num_frames: int, *, stream: str = "rgb", frame_stride: int = 1) -> np.ndarray:
  """Returns the times of steps in seconds `[steps]`: the middle of the frames that each sees.

  Frame k is at k / 25 s; a flow field is half a frame later than the first of its two frames.

  Args:
    layers: along time, to the steps.
    num_frames: frames, or flow fields, that the network is given.
    stream: 'rgb' or 'flow'.
    frame_stride: the network is given one of so many.
  """
  count = receptive_field.num_steps(layers, num_frames)
  seen = [receptive_field.seen(layers, (i, i + 1), num_frames) for i in range(count)]
  offset = 0.5 if stream == "flow" else 0.0
  return np.array([frame_stride * (first + end - 1) / 2 + offset for first, end in seen]) / decode.FRAME_RATE


def prepare(image: np.ndarray, stream: str, clip: preprocess.Preprocess, crop: int | None) -> np.ndarray:
  """Returns one image scaled and cropped for a network, float32 in [-1, 1].

  Args:
    image: a frame uint8 `[H, W, 3]`, or a flow field `[H, W, 2]` in pixels per frame.
    stream: 'rgb' or 'flow'.
    clip: how the network's clips are made.
    crop: pixels of the square in the centre that is kept; None: all.
  """
  if stream == "flow":
    image = codec.scale(image)
    if clip.subtract_mean_flow:
      image = image - image.mean(axis=(0, 1))
  image = image if crop is None else ops.center_crop(image, crop)
  return ops.scale_rgb(image).numpy() if stream == "rgb" else image


def probabilities(curves: Sequence[Curve], times: np.ndarray) -> np.ndarray:
  """Returns the softmax of the added logits of several streams, `[N, classes]`.

  Args:
    curves: the streams.
    times: seconds `[N]`.
  """
  return special.softmax(sum((curve.at(times) for curve in curves[1:]), start=curves[0].at(times)), axis=-1)


def _of_steps(
  network: classifier_lib.LoadedNetwork,
  video: source.Video,
  layers: Layers,
  images: Iterator[np.ndarray],
  has_features: bool,
) -> Curve:
  """Computes the logits of all steps, chunk by chunk."""
  stream, clip = network.info.stream, network.info.preprocess
  names = [base.STEP_LOGITS, base.POOLED_FEATURES][: 1 + has_features]  # which have the same steps
  strided = (image for index, image in enumerate(images) if index % clip.frame_stride == 0)
  count = -(-(video.num_frames - (stream == "flow")) // clip.frame_stride)
  clips = (prepare(image, stream, clip, clip.crop)[np.newaxis] for image in strided)
  function = network.function(names, {stream: (clip.crop, clip.crop)})
  apply = lambda clip: function({stream: clip})
  steps = list(chunks.extract(apply, clips, layers=dict.fromkeys(names, layers), num_frames=count, chunk=_CHUNK))
  logits, *features = [np.concatenate([each[name][0] for each in steps]) for name in names]
  if not np.isfinite(logits).all():
    raise errors.I3dError(f"{network.checkpoint}: the network's logits are not finite; check the checkpoint")
  first, end = receptive_field.seen(layers, (0, 1), count)
  times = step_times(layers, count, stream=stream, frame_stride=clip.frame_stride)
  field = ((end - first - 1) * clip.frame_stride + 1) / decode.FRAME_RATE
  return Curve(times, logits, field, features=features[0].reshape(len(logits), -1) if features else None)


def _of_windows(
  network: classifier_lib.LoadedNetwork,
  video: source.Video,
  frames: Iterator[np.ndarray],
  flow: Iterator[np.ndarray],
  has_features: bool,
) -> Curve:
  """Computes the logits of overlapping clips, each at its middle."""
  clips = classification.protocol(network.info, protocol="clips", num_clips=1, flip=False)
  span = (clips.num_frames - 1) * clips.frame_stride + clips.flow_stack
  hop = max(1, span // _HOPS)
  names = [base.LOGITS, base.POOLED_FEATURES][: 1 + has_features]
  starts, found = [], []
  for start, clip in source.windows(video, clips, hop=hop, frames=frames, flow=flow):
    starts.append(start)
    found.append(network.endpoints(clip, names))
  for _ in flow:  # ends its progress bar
    pass
  length = min(span, video.num_frames)
  offset = 0.5 if network.info.stream == "flow" else 0.0
  times = (np.array(starts) + (length - 1) / 2 + offset) / decode.FRAME_RATE
  logits, *features = [np.concatenate([each[name] for each in found]) for name in names]
  pooled = features[0].reshape(len(logits), -1) if features else None
  return Curve(times, logits, length / decode.FRAME_RATE, hop / decode.FRAME_RATE, pooled)
