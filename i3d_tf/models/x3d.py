"""X3D: channel-wise 3D convolutions, gates and swish in slim residual blocks (arXiv 2004.04730).

Source of stages, depths and widths: facebookresearch/SlowFast, slowfast/models (X3D, X3DStem, X3DTransform, SE,
X3DHead) and configs/Kinetics/X3D_*. Accuracies are on Kinetics-400's validation set, of videos with 30 frames per
second; here records have 25.

In a channel-wise convolution every channel has a kernel of its own. TensorFlow's conv3d has no groups on a CPU, so each
step of the kernel in time is a depthwise 2D convolution of all frames, and their outputs are added. What automatic
differentiation makes of that takes 3 to 5 times as long as the gradient here, which is convolutions again:
TensorFlow's gradient of a depthwise convolution for its input is slow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import resnet
from i3d_tf.models import trunk
from i3d_tf.models import units

STRIDE = 32  # of space, from the clip to the last stage; time is never divided
STEM_WIDTH = 24  # 12, times the width factor 2 that all four networks have
STEM_STEPS = 5  # temporal kernel of the stem
LIN5_WIDTH = 2048
# Blocks at a depth factor of 1, and channels between blocks at a width factor of 2. Each stage halves height and width.
STAGES = ((1, 24), (2, 48), (5, 96), (3, 192))
_INNER = 2.25  # channels within a block, as a multiple of those between blocks
_SQUEEZE = 1 / 16
_DIVISOR = 8
LIN5 = "lin5"
_POINT = (1, 1, 1)
EPSILON = 1e-5  # of batch norm
_NORM = {"with_scale": True, "epsilon": EPSILON}
_LAST_NORM = {**_NORM, "initial_scale": 0.0}  # a block at first passes on its input


@dataclasses.dataclass(frozen=True)
class Block:
  """A residual block: 1x1x1 to `inner` channels, 3x3x3 channel-wise, gate, swish, 1x1x1 to `channels`.

  Attributes:
    name: such as 'layer1_0', of stage and block.
    stride: of height and width in the 3x3x3 convolution, and in the shortcut, which there is if it is not 1.
    squeezed: channels between the two layers of the gate; None: there is no gate.
  """

  name: str
  channels: int
  inner: int
  stride: int
  squeezed: int | None


def blocks(depth_factor: float, *, width_multiplier: float = 1.0) -> Iterator[Block]:
  """Yields the blocks in order: of each stage the depth times the factor, rounded up; every second has a gate.

  Args:
    depth_factor: 2.2 of XS, S and M; 5 of L.
    width_multiplier: of the channels between blocks, rounded, at least 4 (small networks for tests).

  Yields:
    The blocks.
  """
  for stage, (depth, width) in enumerate(STAGES, start=1):
    channels = max(4, round(width * width_multiplier))
    inner = _inner_width(channels)
    for index in range(math.ceil(depth * depth_factor)):
      squeezed = None if index % 2 else round_width(inner * _SQUEEZE)
      yield Block(f"layer{stage}_{index}", channels, inner, 1 if index else 2, squeezed)


def _inner_width(channels: int) -> int:
  """The channels within a block, and those of conv5 behind the last, rounded down."""
  return int(_INNER * channels)


def round_width(width: float) -> int:
  """Returns the nearest multiple of 8, at least 8; the next one if that would take away more than a tenth.

  Args:
    width: number of channels.
  """
  rounded = max(_DIVISOR, int(width + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
  return rounded + _DIVISOR if rounded < 0.9 * width else rounded


class X3D(trunk.TrunkNetwork):
  """X3D (arXiv 2004.04730) of the depth of XS, S and M, or of L, as facebookresearch/SlowFast builds it.

  3,794,322 trained values of XS, S and M, which differ in their clips only, and 6,153,432 of L, for 400 classes;
  pytorchvideo's have 48 fewer, for the first shortcut has no batch norm there.

  Endpoints are 'stem', 'layer1_0', ..., 'conv5', 'PooledFeatures' `[B, 432]`, 'lin5' `[B, 1, h, w, 2048]` and 'Logits'
  `[B, classes]`. Features are averaged over time and over a map of the size that a clip of training has; a larger clip
  has several such windows, h x w, and the mean of their logits is taken.
  """

  rgb_mean = 0.45
  rgb_std = 0.225

  def __init__(
    self,
    num_classes: int = 400,
    *,
    depth_factor: float = 2.2,
    crop: int = 224,
    name: str | None = None,
    **options: Any,
  ):
    """Describes the network.

    Args:
      num_classes: number of logits.
      depth_factor: 2.2 of XS, S and M; 5 of L.
      crop: height and width of training clips.
      name: of the module.
      **options: see `trunk.TrunkNetwork`.

    Raises:
      ValueError: for an argument out of range.
    """
    if not depth_factor > 0:
      raise ValueError(f"depth_factor is {depth_factor}; it must be positive")
    super().__init__(num_classes, name=name, **options)
    self._window = math.ceil(crop / STRIDE)
    self._trunk["stem"] = _stem(self._width(STEM_WIDTH))
    for block in blocks(depth_factor, width_multiplier=self.width_multiplier):
      self._trunk[block.name] = _residual(block)
    self._trunk["conv5"] = units.Unit3D(block.inner, _POINT, batch_norm=_NORM, name="conv5")
    width = self._width(LIN5_WIDTH)
    self._head[LIN5] = units.Unit3D(width, _POINT, use_batch_norm=False, with_bias=False, name=LIN5)

  def _classify(
    self, net: tf.Tensor, statistics: batch_norm.BatchStatistics | None, drop: Callable[..., tf.Tensor]
  ) -> dict[str, tf.Tensor]:
    net = tf.reduce_mean(tf.cast(net, tf.float32), 1, keepdims=True)
    window = [min(self._window, extent or self._window) for extent in net.shape[2:4]]
    pooled = tf.nn.avg_pool3d(net, [1, *window], 1, "VALID")
    lin5 = self._head[LIN5](pooled, statistics)
    average = lambda values: tf.reduce_mean(values, [1, 2, 3])
    logits = average(self._classifier(drop(lin5)))
    return {base.POOLED_FEATURES: average(pooled), LIN5: lin5, base.LOGITS: logits}


def _stem(channels: int) -> units.Unit:
  """A convolution in space, and a channel-wise one in time."""
  kernel = (STEM_STEPS, 1, 1)
  make_units = lambda: [
      units.Unit3D(
          channels, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1), use_batch_norm=False, with_bias=False, activation="none",
          name="spatial",
      ),
      units.Unit3D(channels, kernel, convolution=ChannelwiseConv3D, batch_norm=_NORM, name="temporal"),
  ]  # fmt: skip
  return units.Chain(make_units, name="stem")


def _residual(block: Block) -> units.Unit:
  def make_units():
    stride = (1, block.stride, block.stride)
    conv1 = units.Unit3D(block.inner, _POINT, batch_norm=_NORM, name="conv1")
    conv2 = units.Unit3D(
        block.inner, (3, 3, 3), stride, padding=_POINT, convolution=ChannelwiseConv3D, batch_norm=_NORM,
        activation="none" if block.squeezed else "swish", name="conv2",
    )  # fmt: skip
    gate = [SqueezeExcitation(block.inner, block.squeezed, name="gate")] if block.squeezed else []
    conv3 = units.Unit3D(block.channels, _POINT, batch_norm=_LAST_NORM, activation="none", name="conv3")
    shortcut = units.Unit3D(block.channels, _POINT, stride, batch_norm=_NORM, activation="none", name="downsample")
    return [conv1, conv2, *gate, conv3], shortcut if block.stride > 1 else None

  return resnet.Residual(make_units, name=block.name)


class SqueezeExcitation(units.Unit):
  """Multiplies channels by gates made of their mean over all positions, in float32, then swish (arXiv 1709.01507)."""

  def __init__(self, channels: int, squeezed: int, *, name: str):
    """Describes the layers of the gates: from `channels` to `squeezed` channels, ReLU, and back, sigmoid."""
    super().__init__(name=name)
    self._squeeze = units.Unit3D(squeezed, _POINT, use_batch_norm=False, name="squeeze")
    self._excite = units.Unit3D(channels, _POINT, use_batch_norm=False, activation="sigmoid", name="excite")

  def _build(self, in_channels: int) -> int:
    return units.build_all([self._squeeze, self._excite], in_channels)

  def _time_layers(self) -> units.Layers:
    raise errors.I3dError("a gate before it averages over the whole clip")

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    mean = tf.reduce_mean(tf.cast(inputs, tf.float32), [1, 2, 3], keepdims=True)
    gates = self._excite(self._squeeze(mean))
    return tf.nn.swish(inputs * tf.cast(gates, inputs.dtype))


Pads = Sequence[tuple[int, int]]  # zeros before and after, by axis: time, height, width


class ChannelwiseConv3D(units.Conv3D):
  """A convolution that owns `w` `[kt, kh, kw, C]`: every channel out sees the channel in of the same number only."""

  def __init__(self, channels: int, kernel: units.Triple, *arguments: Any, **options: Any):
    """Describes the convolution; see `units.Conv3D`.

    Args:
      channels: in and out.
      kernel: (time, height, width).
      *arguments: further ones of `units.Conv3D`.
      **options: further ones of `units.Conv3D`.

    Raises:
      ValueError: if it is to pad other than by zeros, or by a length not known yet.
    """
    super().__init__(channels, kernel, *arguments, **options)
    if self._repeats_edges or (self._padding == "SAME" and max(self._stride) > 1):
      raise ValueError(f"a channel-wise convolution of stride {self._stride} takes padding by zeros, in numbers")

  def _kernel_shape(self, in_channels: int) -> tuple[int, ...]:
    if in_channels != self._channels:
      raise ValueError(f"{self.name} is channel-wise, from {in_channels} to {self._channels} channels; give as many")
    return (*self._kernel, self._channels)

  def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor, *, is_training: bool = False) -> tf.Tensor:
    """Returns `[B, T', H', W', C]`, convolved with another kernel in place of `w`, and without the bias.

    Args:
      inputs: `[B, T, H, W, C]`.
      kernel: of the shape of `w`.
      is_training: changes nothing here.
    """
    del is_training
    if isinstance(self._padding, tuple):
      pads = [(extent, extent) for extent in self._padding]
    elif self._padding == "SAME":  # of a stride of 1
      pads = [((extent - 1) // 2, extent // 2) for extent in self._kernel]
    else:
      pads = [(0, 0)] * 3
    return convolve(inputs, tf.cast(kernel, inputs.dtype), self._stride, pads)


def convolve(inputs: tf.Tensor, kernel: tf.Tensor, stride: Sequence[int], pads: Pads) -> tf.Tensor:
  """Returns `[B, T', H', W', C]`: each channel convolved with its own kernel.

  Args:
    inputs: `[B, T, H, W, C]`.
    kernel: `[kt, kh, kw, C]`, of the same type.
    stride: (time, height, width); height's and width's are equal.
    pads: zeros put around the inputs; on each axis fewer than the kernel is long.
  """

  @tf.custom_gradient
  def apply(inputs, kernel):
    def gradient(upstream):
      of_inputs = _input_gradient(tf.shape(inputs), kernel, upstream, stride, pads)
      return of_inputs, _kernel_gradient(inputs, kernel, upstream, stride, pads)

    return _apply(inputs, kernel, stride, pads), gradient

  return apply(inputs, kernel)


def _apply(inputs: tf.Tensor, kernel: tf.Tensor, stride: Sequence[int], pads: Pads) -> tf.Tensor:
  steps = zip(_frames_by_step(inputs, kernel.shape[0], stride[0], pads[0]), tf.unstack(kernel), strict=True)
  options = _options_2d(stride, pads)
  outputs = tf.add_n([
      tf.nn.depthwise_conv2d(frames, step[..., tf.newaxis], options["strides"], options["padding"])
      for frames, step in steps
  ])  # fmt: skip
  return tf.reshape(outputs, [tf.shape(inputs)[0], -1, *_extents(outputs)[1:]])


def _input_gradient(shape: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride, pads: Pads) -> tf.Tensor:
  """The convolution of `upstream`, spread to a stride of 1, with the kernel turned about."""
  turned = []
  for axis, (extent, step, (before, after)) in enumerate(zip(kernel.shape, stride, pads), start=1):
    if step > 1:
      # Where the last window ended depends on the length: as far as it can be, and cut afterwards.
      upstream, after = _spread(upstream, axis, step), 0
    turned.append((extent - 1 - before, extent - 1 - after))
  gradient = _apply(upstream, kernel[::-1, ::-1, ::-1], (1, 1, 1), turned)
  return gradient if max(stride) == 1 else tf.slice(gradient, [0] * 5, shape)


def _kernel_gradient(inputs: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride, pads: Pads) -> tf.Tensor:
  sizes = [*kernel.shape[1:], 1]
  # CPUs have no quick program of it in bfloat16: with the casts it takes half of the time in float32.
  inputs, upstream = tf.cast(inputs, tf.float32), tf.cast(_images(upstream), tf.float32)
  gradients = tf.stack([
      tf.squeeze(tf.nn.depthwise_conv2d_backprop_filter(frames, sizes, upstream, **_options_2d(stride, pads)), -1)
      for frames in _frames_by_step(inputs, kernel.shape[0], stride[0], pads[0])
  ])  # fmt: skip
  return tf.cast(gradients, kernel.dtype)


def _frames_by_step(inputs: tf.Tensor, num_steps: int, stride: int, pads: tuple[int, int]) -> list[tf.Tensor]:
  """For each step of a kernel in time the frames, `[B * steps out, H, W, C]`, that it meets at the outputs."""
  num_out = (tf.shape(inputs)[1] + sum(pads) - num_steps) // stride + 1
  flat = tf.reshape(inputs, [*_extents(inputs)[:2], -1])  # padding is quicker with 3 axes than with 5
  flat = tf.pad(flat, [(0, 0), pads, (0, 0)]) if any(pads) else flat
  shape = [-1, *_extents(inputs)[2:]]
  return [tf.reshape(flat[:, step : step + (num_out - 1) * stride + 1 : stride], shape) for step in range(num_steps)]


def _spread(values: tf.Tensor, axis: int, step: int) -> tf.Tensor:
  """Puts `step` - 1 zeros behind every value of an axis."""
  extents = _extents(values)
  flat = tf.reshape(values, [*extents[: axis + 1], -1])
  zeros = [tf.zeros_like(flat)] * (step - 1)
  return tf.reshape(tf.concat([flat, *zeros], -1), [*extents[:axis], step * extents[axis], *extents[axis + 1 :]])


def _options_2d(stride: Sequence[int], pads: Pads) -> dict[str, list]:
  """Arguments of the 2D convolution of a frame."""
  _, *sides = pads
  return {"strides": [1, *stride[1:], 1], "padding": [(0, 0), *sides, (0, 0)]}


def _images(clip: tf.Tensor) -> tf.Tensor:
  return tf.reshape(clip, [-1, *_extents(clip)[2:]])


def _extents(values: tf.Tensor) -> list[int | tf.Tensor]:
  """The shape, as numbers as far as they are known."""
  dynamic = tf.shape(values)
  return [dynamic[axis] if extent is None else extent for axis, extent in enumerate(values.shape)]


_SOURCE = "Feichtenhofer, arXiv 2004.04730; facebookresearch/SlowFast, configs/Kinetics/X3D_*.yaml (10 clips x 3 crops)"
_SHALLOW, _DEEP = 3_794_322, 6_153_432


def _entry(
  size: str, *, depth_factor: float, training: Mapping[str, int], parameters: int, cost: float, accuracy: float
) -> base.Entry:
  return base.Entry(
    title=f"X3D-{size}: channel-wise 3D convolutions and gates",
    constructor=X3D,
    arguments={"depth_factor": depth_factor},
    streams=("rgb",),
    options=("crop",),
    first_unit="stem/spatial",
    training=training,
    test={"protocol": "three_crops", "num_clips": 10},
    parameters={"rgb": parameters},
    giga_multiply_adds={"rgb": cost},
    accuracies={"scratch": {"rgb": accuracy}},
    source=_SOURCE,
  )


MODELS: Mapping[str, base.Entry] = {
  "x3d_xs": _entry(
    "XS", depth_factor=2.2, training={"num_frames": 4, "frame_stride": 12, "short_side": 182, "crop": 160},
    parameters=_SHALLOW, cost=0.61, accuracy=69.46,
  ),
  "x3d_s": _entry(
    "S", depth_factor=2.2, training={"num_frames": 13, "frame_stride": 6, "short_side": 182, "crop": 160},
    parameters=_SHALLOW, cost=1.96, accuracy=73.50,
  ),
  "x3d_m": _entry(
    "M", depth_factor=2.2, training={"num_frames": 16, "frame_stride": 5, "short_side": 256, "crop": 224},
    parameters=_SHALLOW, cost=4.73, accuracy=76.21,
  ),
  "x3d_l": _entry(
    "L", depth_factor=5.0, training={"num_frames": 16, "frame_stride": 5, "short_side": 356, "crop": 312},
    parameters=_DEEP, cost=18.37, accuracy=77.48,
  ),
}  # fmt: skip
