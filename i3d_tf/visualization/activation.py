"""Where and when a network sees a class: its logits at each position of Mixed_5c.

The head averages Mixed_5c over 2 steps and 7x7 positions and applies the classifier, which is linear, to the averages.
So the classifier can be applied to each position first and the averages be taken of its logits: every position has a
logit of its own, and the mean of them all, each weighted by how many of the head's windows it is in, is the network's
logit (`weights`). No gradients and no second network are needed, and nothing is approximated.

A crop of 224 pixels has 7x7 positions of equal weight; of n steps the first and the last weigh half. On whole frames
the network is fully convolutional, as with `average_space`: the head's window moves, and positions near the border are
in fewer windows. A position stands for the middle of the pixels that it sees, which with SAME padding is 7.5 pixels
right of and below the middle of its 32x32 pixels; on the way to the frame logits are interpolated linearly.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import difflib
import os
import tempfile

import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.evaluation import classification
from i3d_tf.features import chunks
from i3d_tf.models import inception_spec as spec
from i3d_tf.video import clip_options
from i3d_tf.visualization import annotate
from i3d_tf.visualization import curves
from i3d_tf.visualization import source
from i3d_tf.weights import release
from i3d_tf.weights import saved

ENDPOINT = "Mixed_5c"
_PIXELS_AT_ONCE = 256 * 224 * 224  # frames times pixels that go through the network from one pass to the next


class PositionNetwork:
  """A network of one stream that gives the logits of all classes at each position of Mixed_5c."""

  def __init__(self, checkpoint: str | os.PathLike, stream: str):
    """Loads it; I3dError, beside what `saved.read` raises, if it is no I3D with a classifier, or of another stream."""
    self.checkpoint, self.stream = os.fspath(checkpoint), stream
    values, info = saved.read(checkpoint)
    if info.model != "i3d":
      raise errors.CheckpointError(f"{checkpoint} is a network {info.model}; class activation is of networks i3d only")
    if not info.num_classes:
      raise errors.CheckpointError(f"{checkpoint} has no classifier yet; train --initial_checkpoint starts from it")
    annotate.check_stream(self.checkpoint, info, stream)
    self.info = info
    self._model = saved.make_model(dataclasses.replace(info, average_space=True))
    release.assign(self._model, values, self.checkpoint)
    signature = tf.TensorSpec([1, None, None, None, clip_options.CHANNELS[stream]])
    self._apply = tf.function(self._run, input_signature=[signature])

  def __call__(self, clips: np.ndarray) -> dict[str, tf.Tensor]:
    """Clips `[1, T, H, W, C]` in [-1, 1] to logits `[1, T', H', W', classes]`, under the name of their endpoint."""
    return self._apply(clips)

  def _run(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    features = self._model(clips)[1][ENDPOINT]
    variables = release.named_variables(self._model)
    kernel = tf.reshape(variables[release.HEAD_KERNEL], [features.shape[-1], self.info.num_classes])
    return {ENDPOINT: tf.tensordot(features, kernel, 1) + variables[release.HEAD_BIAS]}


def weights(steps: int, height: int, width: int) -> np.ndarray:
  """The share of each position in the network's logits, float64 `[steps, height, width]`; their sum is 1.

  Along each axis it is the number of places of the head's window that a position is in, of `spec.I3D.head_pool` or the
  whole axis if that is shorter (which time must not be).
  """
  axes = [_shares(extent, kernel) for extent, kernel in zip((steps, height, width), spec.I3D.head_pool)]
  return np.einsum("t,y,x->tyx", *axes)


def _shares(extent: int, kernel: int) -> np.ndarray:
  kernel = min(kernel, extent)
  counts = np.convolve(np.ones(extent - kernel + 1), np.ones(kernel))
  return counts / counts.sum()


def centres(extent: int) -> np.ndarray:
  """Of the positions of Mixed_5c along a side of `extent` pixels the middles of what they see, in pixels."""
  rows = [(3, 1) if isinstance(row, spec.Mixed) else (row.kernel, row.stride) for row in spec.ROWS]
  path = [chunks.Layer(kernel, stride) for kernel, stride in rows]
  count = extent
  for layer in path:
    count = layer.num_steps(count)
  seen = [chunks.seen(path, (index, index + 1), extent) for index in range(count)]
  return np.array([(first + end - 1) / 2 for first, end in seen])


@dataclasses.dataclass(frozen=True)
class Activation:
  """The logits of one class over a video's time and space.

  Attributes:
    video: the video.
    crop: pixels of the side of the central square that the network saw; None: it saw the whole frames.
    name: of the class.
    times: of the steps in seconds, `[steps]`.
    values: the class's logits `[steps, h, w]`.
    logits: those of all classes for the whole video, `[classes]`.
    index: of the class among them.
  """

  video: source.Video
  crop: int | None
  name: str
  times: np.ndarray
  values: np.ndarray
  logits: np.ndarray
  index: int

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of what the network saw, in pixels."""
    return (self.video.height, self.video.width) if self.crop is None else (self.crop, self.crop)

  @property
  def over_time(self) -> np.ndarray:
    """The mean of the class's logits over space, `[steps]`."""
    return np.einsum("tyx,yx->t", self.values, weights(2, *self.values.shape[1:]).sum(axis=0))

  def at(self, time: float) -> np.ndarray:
    """The class's logit at each pixel, float32 `[H, W]`, interpolated linearly in time and space."""
    flat = curves.Curve(self.times, self.values.reshape(len(self.values), -1), field=0.0)
    grid = flat.at(np.array([time]))[0].reshape(self.values.shape[1:]).astype(np.float32)
    height, width = self.size
    y, x = (_places(extent) for extent in (height, width))
    across, down = np.meshgrid(x, y)
    return cv2.remap(grid, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _places(extent: int) -> np.ndarray:
  """Where each pixel is among the positions, float32: 1.5 is in the middle between the second and the third."""
  middles = centres(extent)
  return np.interp(np.arange(extent), middles, np.arange(len(middles))).astype(np.float32)


def find_class(name: str, names: Sequence[str]) -> int:
  """The index of a class; I3dError, with the names that come near, if there is none of that name."""
  folded = {each.casefold(): index for index, each in enumerate(names)}
  key = name.strip().casefold()
  if key in folded:
    return folded[key]
  near = [each for each in folded if key and key in each]
  near += [each for each in difflib.get_close_matches(key, folded, n=5, cutoff=0.5) if each not in near]
  advice = "; near to it are " + ", ".join(names[folded[each]] for each in near[:5]) if near else ""
  raise errors.I3dError(f"there is no class {name!r} among the network's {len(names)}{advice}")


def compute(
  path: str | os.PathLike,
  network: PositionNetwork,
  *,
  class_name: str | None = None,
  view: str = "frame",
  store: source.FlowStore | None = None,
  threads: int | None = None,
  progress: source.Progress = source.silently,
) -> Activation:
  """The activation of a class over a video of any length, in memory that grows by one class's logits only.

  The logits of all classes wait in a temporary file, since only the whole video tells which is best.

  Args:
    path: the video.
    network: of RGB or flow.
    class_name: of its classes; None: the best for the video.
    view: 'frame', the whole frames, or 'crop', the central square that the network was trained on.
    store: keeps the flow that was computed, for pictures.
    threads: for flow; None: one a core.
    progress: is shown what is gone through.

  Raises:
    I3dError: for an unknown class, or if the video cannot be read whole or is too short.
  """
  names = classification.class_names(network.info)
  index = None if class_name is None else find_class(class_name, names)
  is_flow = network.stream == "flow"
  video = source.survey(path, short_side=network.info.short_side, streams=[network.stream])
  crop = network.info.crop if view == "crop" else None
  count = video.num_frames - is_flow
  inputs = progress(video.flow(threads) if is_flow else video.frames(), network.stream, count)
  if is_flow and store is not None:
    inputs = store.keep(inputs)
  clips = (annotate.prepare(each, network.stream, crop)[np.newaxis] for each in inputs)
  side = (crop, crop) if crop is not None else (video.height, video.width)
  with tempfile.TemporaryFile() as file:
    logits = _gather(network, clips, count, side, file)
    share = weights(*logits.shape[:3])
    whole = sum(np.einsum("yx,yxc->c", *each) for each in zip(share, logits))
    if not np.isfinite(whole).all():
      raise errors.I3dError(f"{network.checkpoint}: the network's logits are not finite; check the checkpoint")
    index = int(whole.argmax()) if index is None else index
    values = np.array(logits[..., index])
  times = curves.step_times(ENDPOINT, count, stream=network.stream)
  return Activation(video, crop, names[index], times, values, whole, index)


def _gather(
  network: PositionNetwork, clips: Iterator[np.ndarray], num_frames: int, side: tuple[int, int], file
) -> np.memmap:
  """The logits of all steps and positions, float32 `[steps, h, w, classes]`, in a file."""
  chunk = max(64, _PIXELS_AT_ONCE // (side[0] * side[1]))
  shape = None
  for steps in chunks.extract(network, clips, endpoints=[ENDPOINT], num_frames=num_frames, chunk=chunk):
    values = steps[ENDPOINT][0]
    shape = (chunks.num_steps(ENDPOINT, num_frames), *values.shape[1:])
    file.write(np.ascontiguousarray(values, np.float32).tobytes())
  file.flush()
  return np.memmap(file, np.float32, mode="r", shape=shape)
