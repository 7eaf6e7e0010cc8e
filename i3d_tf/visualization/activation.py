"""Class activation: the logits of a class at each position and step of the last layer before the head.

A head that averages the last layer over windows and applies a linear classifier to the means can as well apply the
classifier to each position first and average its logits. So every position has logits of its own, and their weighted
mean is the network's logits exactly: a position weighs as much as the number of the head's windows that contain it
(`weights`). Nothing is approximated, and no gradients are needed. I3D's head averages Mixed_5c over 2 steps and 7x7
positions; those of ResNets average layer4 over everything.

Of I3D a crop of 224 pixels has 7x7 positions of equal weight; of n steps the first and the last weigh half. On whole
frames the networks are fully convolutional: the window of the head moves, and positions near the border are in fewer
windows. A position is drawn at the middle of the pixels that it sees, which with SAME padding is 7.5 pixels right of
and below the middle of its 32x32 pixels; between positions logits are interpolated linearly.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import difflib
import math
import os
import tempfile
from typing import Any, IO

import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import flow as flow_lib
from i3d_tf.flow import codec
from i3d_tf.inference import chunks
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.models import inception
from i3d_tf.models import inception_spec
from i3d_tf.models import preprocess
from i3d_tf.models import receptive_field
from i3d_tf.models import resnet
from i3d_tf.models import resnet_spec
from i3d_tf.visualization import curves
from i3d_tf.visualization import source
from i3d_tf.weights import release

_PIXELS_AT_ONCE = 256 * 224 * 224  # frames times pixels from one pass of the network to the next


@dataclasses.dataclass(frozen=True)
class Head:
  """An average pool and a linear classifier over it.

  Attributes:
    endpoint: the layer that it takes.
    pool: (time, height, width) of the average pool, VALID, of stride 1, whose outputs are averaged; (1, 1, 1) is the
      mean of all positions.
    time, space: the layers along time, and along a side of the frames, that lead to the endpoint.
  """

  endpoint: str
  pool: tuple[int, ...]
  time: tuple[receptive_field.Layer, ...]
  space: tuple[receptive_field.Layer, ...]


def find_head(network: classifier_lib.LoadedNetwork) -> Head:
  """Returns the layer and the average pool before a network's classifier.

  Args:
    network: the network.

  Raises:
    CheckpointError: if its head is another one.
    I3dError: if the steps of its last layer depend on the whole clip.
  """
  model = network.model
  pool: tuple[int, ...] = (1, 1, 1)
  if isinstance(model, inception.Inception):
    endpoint = inception_spec.endpoint_name(model.architecture.rows[-1], model.architecture)
    pool, space = model.architecture.head_pool, _inception_layers(model.architecture)
  elif isinstance(model, resnet.ResNet):
    # With symmetric padding (kernel - 1) / 2 the middles are those of kernels of one pixel.
    *_, last = resnet_spec.rows(model.architecture)
    endpoint = last.name
    space = (receptive_field.Layer(1, _resnet_stride(model.architecture), 0),)
  else:
    raise errors.CheckpointError(
      f"{network.checkpoint} is a network {network.info.model}; class activation is for networks of one stream that "
      "end in an average pool and a linear classifier (Inceptions and ResNets)"
    )
  return Head(endpoint, pool, tuple(model.time_layers(endpoint)), space)


def _inception_layers(architecture: inception_spec.Architecture) -> tuple[receptive_field.Layer, ...]:
  rows = [(3, 1) if isinstance(row, inception_spec.Mixed) else (row.kernel, row.stride) for row in architecture.rows]
  padding = lambda kernel: (kernel - 1) // 2 if architecture.symmetric_padding else receptive_field.SAME
  return tuple(receptive_field.Layer(kernel, stride, padding(kernel)) for kernel, stride in rows)


def _resnet_stride(architecture: resnet_spec.Architecture) -> int:
  """Returns the pixels from one position of the last layer to the next."""
  found = []
  for row in resnet_spec.rows(architecture):
    convolutions = row.branch if isinstance(row, resnet_spec.Block) else [row]
    found += [each.stride[1] for each in convolutions if not isinstance(each, resnet_spec.NonLocal)]
  return math.prod(found)


def position_logits(network: classifier_lib.LoadedNetwork, head: Head, clips: tf.Tensor) -> tf.Tensor:
  """Returns the logits at each position of a network's last layer, float32 `[B, T', H', W', classes]`.

  Args:
    network: the network.
    head: of the network.
    clips: `[B, T, H, W, C]` in [-1, 1].
  """
  features = tf.cast(network(clips)[head.endpoint], tf.float32)
  named = release.named_variables(network.model)
  variables = {name[-2:]: variable for name, variable in named.items() if release.is_head(name)}
  kernel = tf.reshape(variables["/w"], [features.shape[-1], network.info.num_classes])
  return tf.tensordot(features, kernel, 1) + variables["/b"]


def weights(head: Head, steps: int, height: int, width: int) -> np.ndarray:
  """Returns each position's share in the network's logits, float64 `[steps, height, width]`, of sum 1.

  Along each axis it is proportional to the number of places of the head's window that contain the position; where the
  axis is shorter than the window, which time must not be, the window is the whole axis.

  Args:
    head: of the network.
    steps, height, width: of the last layer.
  """
  axes = [_shares(extent, kernel) for extent, kernel in zip((steps, height, width), head.pool)]
  return np.einsum("t,y,x->tyx", *axes)


def _shares(extent: int, kernel: int) -> np.ndarray:
  kernel = min(kernel, extent)
  counts = np.convolve(np.ones(extent - kernel + 1), np.ones(kernel))
  return counts / counts.sum()


def centres(head: Head, extent: int) -> np.ndarray:
  """Returns the middle of the pixels, float64, that each position of the last layer sees along a side of the frames.

  Args:
    head: of the network.
    extent: pixels of the side.
  """
  count = receptive_field.num_steps(head.space, extent)
  seen = [receptive_field.seen(head.space, (index, index + 1), extent) for index in range(count)]
  return np.array([(first + end - 1) / 2 for first, end in seen])


@dataclasses.dataclass(frozen=True)
class Activation:
  """The logits of one class over the time and space of a video.

  Attributes:
    video: the video.
    head: of the network.
    crop: pixels of the side of the central square that the network saw; None: it saw whole frames.
    name: of the class.
    times: of the steps in seconds, `[steps]`.
    values: the logits of the class, `[steps, h, w]`.
    logits: those of all classes for the whole video, `[classes]`.
    index: of the class among them.
  """

  video: source.Video
  head: Head
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
    """The mean of the logits over space, `[steps]`."""
    share = weights(self.head, self.head.pool[0], *self.values.shape[1:]).sum(axis=0)
    return np.einsum("tyx,yx->t", self.values, share)

  def at(self, time: float) -> np.ndarray:
    """Returns the logit at each pixel, float32 `[H, W]`, interpolated linearly in time and space.

    Args:
      time: in seconds.
    """
    flat = curves.Curve(self.times, self.values.reshape(len(self.values), -1), field=0.0)
    grid = flat.at(np.array([time]))[0].reshape(self.values.shape[1:]).astype(np.float32)
    height, width = self.size
    y, x = (self._places(extent) for extent in (height, width))
    across, down = np.meshgrid(x, y)
    return cv2.remap(grid, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

  def _places(self, extent: int) -> np.ndarray:
    """Returns where each pixel is among the positions, float32: 1.5 is halfway from the second to the third."""
    middles = centres(self.head, extent)
    return np.interp(np.arange(extent), middles, np.arange(len(middles))).astype(np.float32)


def _find_class(name: str, names: Sequence[str]) -> int:
  """The index of a class, regardless of case; an I3dError names those that are near."""
  folded = {each.casefold(): index for index, each in enumerate(names)}
  key = name.strip().casefold()
  if key in folded:
    return folded[key]
  near = [each for each in folded if key and key in each]
  near += [each for each in difflib.get_close_matches(key, folded, n=5, cutoff=0.5) if each not in near]
  advice = "; near to it are " + ", ".join(names[folded[each]] for each in near[:5]) if near else ""
  raise errors.I3dError(f"there is no class {name!r} among the network's {len(names)}{advice}")


def compute(
  path: str | os.PathLike | source.Video,
  network: classifier_lib.LoadedNetwork,
  *,
  class_name: str | None = None,
  view: str = "frame",
  store: source.FlowStore | None = None,
  estimator: flow_lib.Estimator | None = None,
  allow_damaged: bool = False,
  progress: bool = False,
  frame_rate: float = preprocess.FRAME_RATE,
  flow_bound: float = codec.BOUND,
) -> Activation:
  """Returns the activation of a class over a video of any length, which the network sees as one clip.

  Memory grows by the logits of one class only; those of all classes are kept in a temporary file, since which is best
  is known at the end of the video only. Where the network's clips have a stride, it sees one frame of so many.

  Args:
    path: the video, or what `source.survey` returned of it.
    network: of RGB or flow, with a head as `find_head` wants it; one that is loaded with `average_space`, where it has
      this option.
    class_name: name of the class; None: the best one for the video.
    view: 'frame', the whole frames, or 'crop', the central square that the network was trained on.
    store: keeps the flow that was computed, for pictures.
    estimator: computes the flow; None: TV-L1.
    allow_damaged: take what there is of a damaged video, see `decode.iter_frames`.
    progress: show progress on stderr.
    frame_rate: frames per second of folders of images and of .npy clips, which state none.
    flow_bound: pixels per frame of the largest byte of folders' images of flow.

  Raises:
    I3dError: for a network with another head, an unknown class, or if the video cannot be read whole or is too short.
  """
  head, clip, stream = find_head(network), network.info.preprocess, network.info.stream
  index = None if class_name is None else _find_class(class_name, network.class_names)
  is_flow, stride = stream == "flow", clip.frame_stride
  least = (_least_steps(head) - 1) * stride + 1 + is_flow
  how: dict[str, Any] = {"allow_damaged": allow_damaged, "image_rate": frame_rate, "flow_bound": flow_bound}
  video = source.survey(path, clip, least_frames=least, **how)
  crop = clip.crop if view == "crop" else None
  total = video.num_frames - is_flow
  inputs = source.progress_bar(video.flow(estimator) if is_flow else video.frames(), stream, total, shown=progress)
  if is_flow and store is not None:
    inputs = store.keep(inputs)
  strided = (image for number, image in enumerate(inputs) if number % stride == 0)
  clips = (curves.prepare(each, stream, clip, crop)[np.newaxis] for each in strided)
  count = -(-total // stride)
  side = (crop, crop) if crop is not None else (video.height, video.width)
  with tempfile.TemporaryFile() as file:
    logits = _gather(network, head, clips, count, side, file)
    share = weights(head, *logits.shape[:3])
    whole = np.sum([np.einsum("yx,yxc->c", *each) for each in zip(share, logits)], axis=0)
    if not np.isfinite(whole).all():
      raise errors.I3dError(f"{network.checkpoint}: the network's logits are not finite; check the checkpoint")
    index = int(whole.argmax()) if index is None else index
    values = np.array(logits[..., index])
  times = curves.step_times(head.time, count, stream=stream, frame_stride=stride)
  return Activation(video, head, crop, network.class_names[index], times, values, whole, index)


def _least_steps(head: Head) -> int:
  """Returns the fewest frames, or flow fields, of which the head's window has a place."""
  count = 1
  while receptive_field.num_steps(head.time, count) < head.pool[0]:
    count += 1
  return count


def _gather(
  network: classifier_lib.LoadedNetwork,
  head: Head,
  clips: Iterator[np.ndarray],
  num_frames: int,
  side: tuple[int, int],
  file: IO[bytes],
) -> np.memmap:
  """Computes the logits of all steps and positions, float32 `[steps, h, w, classes]`, in a file."""
  (channels,) = network.info.channels.values()
  signature = [tf.TensorSpec([1, None, None, None, channels])]
  apply = tf.function(
    lambda clips: {head.endpoint: position_logits(network, head, clips)}, input_signature=signature, autograph=False
  )
  chunk = max(64, _PIXELS_AT_ONCE // (side[0] * side[1]))
  shape: tuple[int, ...] = ()
  layers = {head.endpoint: head.time}
  for steps in chunks.extract(apply, clips, layers=layers, num_frames=num_frames, chunk=chunk):
    values = steps[head.endpoint][0]
    shape = (receptive_field.num_steps(head.time, num_frames), *values.shape[1:])
    file.write(np.ascontiguousarray(values, np.float32).tobytes())
  file.flush()
  return np.memmap(file, np.float32, mode="r", shape=shape)
