"""The building units: convolution, and convolution with batch norm and ReLU, pools, and how they are put together.

Data layout is NDHWC, `[B, T, H, W, C]`. Units compute in the type of their inputs and own float32 variables, which
carry the 2017 release's names, so that a checkpoint loader is a lookup.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, TypeAlias

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm as norm
from i3d_tf.models import receptive_field

TEMPORAL_PADDINGS = ("zeros", "edge")
Triple: TypeAlias = tuple[int, ...]  # (time, height, width)
# 'SAME', 'VALID', or what is put both before and after (time, height, width), as PyTorch's networks have it.
Padding: TypeAlias = str | Triple
ACTIVATIONS = {
  "relu": tf.nn.relu, "swish": tf.nn.swish, "gelu": tf.nn.gelu, "sigmoid": tf.nn.sigmoid, "none": tf.identity,
}  # fmt: skip
_FEW_CHANNELS = 4  # of clips
Layers: TypeAlias = tuple[receptive_field.Layer, ...]


class Unit(snt.Module):
  """A part of a network: `unit(inputs, statistics)` with the `BatchStatistics` of a pass in training mode, or None.

  Attributes:
    ends_part: its output is stored for the gradient if the rest is computed again, see `trunk.apply`.
  """

  ends_part = False

  def build(self, in_channels: int) -> int:
    """Creates the variables.

    Args:
      in_channels: of the inputs.

    Returns:
      The number of channels out.
    """
    return self._build(in_channels)

  @property
  def time_layers(self) -> Layers:
    """The layers along time; I3dError, with a clause that says why, if its steps depend on the whole clip."""
    return self._time_layers()

  @abc.abstractmethod
  def _build(self, in_channels: int) -> int:
    """See `build`."""

  @abc.abstractmethod
  def _time_layers(self) -> Layers:
    """See `time_layers`."""

  @abc.abstractmethod
  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    """Applies the unit; without `statistics` batch norm uses the moving ones."""


class Conv3D(snt.Module):
  """A 3D convolution that owns `w` `[kt, kh, kw, Cin, Cout]` and, if asked for, a bias `b`.

  Unless told otherwise, weights start as Sonnet's default, truncated normal with standard deviation 1/sqrt(fan in), and
  biases at 0.

  Attributes:
    frozen: not to be trained.
  """

  def __init__(
    self,
    channels: int,
    kernel: Triple,
    stride: Triple = (1, 1, 1),
    *,
    with_bias: bool = False,
    padding: Padding = "SAME",
    temporal_padding: str = "zeros",
    initializer: snt.initializers.Initializer | None = None,
    name: str = "conv_3d",
  ):
    """Describes the convolution.

    Args:
      channels: out.
      kernel, stride: (time, height, width).
      with_bias: add `b`.
      padding: 'SAME', 'VALID', or how much on both sides of (time, height, width).
      temporal_padding: what padding puts before the first and after the last frame: 'zeros', or with 'edge' these
        frames again.
      initializer: of `w`.
      name: of the module.

    Raises:
      ValueError: for an unknown padding.
    """
    super().__init__(name=name)
    if temporal_padding not in TEMPORAL_PADDINGS:
      raise ValueError(f"temporal_padding is {temporal_padding!r}; allowed are {', '.join(TEMPORAL_PADDINGS)}")
    self._channels = channels
    self._kernel = tuple(kernel)
    self._stride = tuple(stride)
    self._with_bias = with_bias
    self._padding = _simplest(padding, self._kernel, self._stride)
    self._initializer = initializer
    self._repeats_edges = temporal_padding == "edge" and self._padding != "VALID" and self._kernel[0] > 1
    self.frozen = False

  @snt.once
  def build(self, in_channels: int) -> None:
    """Creates the variables.

    Args:
      in_channels: of the inputs.
    """
    shape = self._kernel_shape(in_channels)
    initializer = self._initializer or snt.initializers.TruncatedNormal(stddev=math.prod(shape[:-1]) ** -0.5)
    self.w = tf.Variable(initializer(shape, tf.float32), name="w")
    if self._with_bias:
      self.b = tf.Variable(tf.zeros([self._channels]), name="b")

  def _kernel_shape(self, in_channels: int) -> tuple[int, ...]:
    """The shape of `w`; the product of all but the last axis is the fan in."""
    return (*self._kernel, in_channels, self._channels)

  def __call__(self, inputs: tf.Tensor, *, is_training: bool = False) -> tf.Tensor:
    outputs = self.convolve(inputs, self.w, is_training=is_training)
    return tf.nn.bias_add(outputs, tf.cast(self.b, outputs.dtype)) if self._with_bias else outputs

  @property
  def time_layers(self) -> Layers:
    """Its layer along time."""
    return _along_time(self._kernel, self._stride, self._padding)

  def scale_and_shift(self, scale: tf.Tensor, offset: tf.Tensor) -> None:
    """Changes `w` and sets `b` so that the output becomes scale * output + offset; it must have had no bias.

    Args:
      scale, offset: (C,) each.
    """
    self.w.assign(self.w * scale)
    with self.name_scope:
      self.b = tf.Variable(offset, name="b")
    self._with_bias = True

  def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor, *, is_training: bool = False) -> tf.Tensor:
    """Returns `[B, T', H', W', Cout]`, convolved with another kernel in place of `w`, and without the bias.

    Args:
      inputs: `[B, T, H, W, Cin]`.
      kernel: of the shape of `w`.
      is_training: arrange the computation for the gradient as well, which may cost the forward pass a little.
    """
    padding = self._padding
    if self._repeats_edges:
      inputs, padding = self._pad(inputs), "VALID"
    elif not isinstance(padding, str):
      inputs, padding = tf.pad(inputs, _both_sides(padding)), "VALID"
    kernel, stride = tf.cast(kernel, inputs.dtype), self._stride
    if inputs.dtype == tf.bfloat16:
      if padding == "SAME" and inputs.shape[1] == 1:
        # The others meet padding only. With them oneDNN reads memory that nobody wrote, which may hold no number, where
        # there are 3, 5 or 12 channels.
        middle = (kernel.shape[0] - 1) // 2
        kernel = kernel[middle : middle + 1]
      inputs, kernel, stride = _fill_tiles(inputs, kernel, stride, padding, is_training=is_training)
    return tf.nn.conv3d(inputs, kernel, (1, *stride, 1), padding)

  def _pad(self, inputs: tf.Tensor) -> tf.Tensor:
    """Pads by hand, in time with the outermost frames."""
    extents = tf.unstack(tf.shape(inputs)[1:4])
    if isinstance(self._padding, str):
      (before, after), *space = map(_same, extents, self._kernel, self._stride)
    else:
      (before, after), *space = ((extent, extent) for extent in self._padding)
    frames = tf.clip_by_value(tf.range(-before, extents[0] + after), 0, extents[0] - 1)
    return tf.pad(tf.gather(inputs, frames, axis=1), [(0, 0), (0, 0), *space, (0, 0)])


class Unit3D(Unit):
  """A convolution, then batch norm or a bias, then an activation.

  With moving statistics the normalisation is folded into the kernel and a bias at every call: scaling the
  kernel costs a fraction of scaling the activations, and convolution, bias and ReLU become one operation.

  Attributes:
    frozen: use moving statistics in training mode, too.
  """

  def __init__(
    self,
    channels: int,
    kernel: Triple,
    stride: Triple = (1, 1, 1),
    *,
    use_batch_norm: bool = True,
    batch_norm: Mapping[str, Any] | None = None,
    activation: str = "relu",
    convolution: type[Conv3D] = Conv3D,
    name: str,
    **options: Any,
  ):
    """Describes the unit.

    Args:
      channels, kernel, stride: of the convolution.
      use_batch_norm: if not, the convolution has a bias unless `with_bias=False`.
      batch_norm: arguments of `batch_norm.BatchNorm`, if they are not the Inception family's.
      activation: one of `ACTIVATIONS`.
      convolution: the convolution's class.
      name: of the module.
      **options: further arguments of `convolution`.

    Raises:
      ValueError: for an unknown activation or padding.
    """
    super().__init__(name=name)
    if activation not in ACTIVATIONS:
      raise ValueError(f"activation is {activation!r}; allowed are {', '.join(ACTIVATIONS)}")
    self._channels = channels
    self._activation = activation
    self.conv_3d = convolution(
      channels, kernel, stride, **{"with_bias": not use_batch_norm, "name": "conv_3d", **options}
    )
    self.batch_norm = norm.BatchNorm(**(batch_norm or {})) if use_batch_norm else None
    self.frozen = False

  def _build(self, in_channels: int) -> int:
    self.conv_3d.build(in_channels)
    if self.batch_norm is not None:
      self.batch_norm.build(self._channels)
    return self._channels

  def _time_layers(self) -> Layers:
    return self.conv_3d.time_layers

  def fold_batch_norm(self) -> None:
    """Puts the batch norm with its moving statistics into kernel and bias, for good; without one, does nothing."""
    if self.batch_norm is not None:
      self.conv_3d.scale_and_shift(*self.batch_norm.moving_affine())
      self.batch_norm = None

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    activate = ACTIVATIONS[self._activation]
    if self.batch_norm is None:
      return activate(self.conv_3d(inputs, is_training=statistics is not None))
    if statistics is not None and not self.frozen and not self.batch_norm.frozen:
      has_relu = self._activation == "relu"
      outputs = statistics.normalize(self.batch_norm, self.conv_3d(inputs, is_training=True), relu=has_relu)
      return outputs if has_relu else activate(outputs)
    scale, offset = self.batch_norm.moving_affine()
    outputs = self.conv_3d.convolve(inputs, self.conv_3d.w * scale, is_training=statistics is not None)
    return activate(tf.nn.bias_add(outputs, tf.cast(offset, outputs.dtype)))


def classifier(num_classes: int, *, name: str) -> Unit3D:
  """Returns the unit that makes logits of features: a 1x1x1 convolution with a bias.

  Args:
    num_classes: number of logits.
    name: of the unit.
  """
  return Unit3D(num_classes, (1, 1, 1), use_batch_norm=False, activation="none", name=name)


@snt.allow_empty_variables
class MaxPool3D(Unit):
  """Max pooling, whose padding counts as minus infinity."""

  ends_part = True

  def __init__(self, kernel: Triple, stride: Triple, *, padding: Padding = "SAME", name: str):
    """Describes the pool: `kernel` and `stride` over (time, height, width), and `padding` as `Conv3D` has it."""
    super().__init__(name=name)
    self._kernel = tuple(kernel)
    self._stride = tuple(stride)
    self._padding = _simplest(padding, self._kernel, self._stride)

  def _build(self, in_channels: int) -> int:
    return in_channels

  def _time_layers(self) -> Layers:
    return _along_time(self._kernel, self._stride, self._padding)

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    return self._pool(inputs) if statistics is None else statistics.max_pool(self._pool, inputs)

  def _pool(self, inputs: tf.Tensor) -> tf.Tensor:
    padding = self._padding
    if not isinstance(padding, str):
      inputs, padding = tf.pad(inputs, _both_sides(padding), constant_values=inputs.dtype.min), "VALID"
    return tf.nn.max_pool3d(inputs, self._kernel, self._stride, padding)


class Chain(Unit):
  """Units applied one after the other, under a name scope of their own."""

  def __init__(self, make_units: Callable[[], Sequence[Unit]], *, name: str):
    """Describes the chain; `make_units` is called in its name scope."""
    super().__init__(name=name)
    self._units = make_units()

  def _build(self, in_channels: int) -> int:
    return build_all(self._units, in_channels)

  def _time_layers(self) -> Layers:
    return time_layers_of(self._units)

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    for unit in self._units:
      inputs = unit(inputs, statistics)
    return inputs


class Concat(Unit):
  """Branches applied to the same input, concatenated on channels."""

  def __init__(self, make_branches: Callable[[], Sequence[Unit]], *, name: str):
    """Describes the branches; `make_branches` is called in the module's name scope."""
    super().__init__(name=name)
    self._branches = make_branches()

  def _build(self, in_channels: int) -> int:
    return sum(branch.build(in_channels) for branch in self._branches)

  def _time_layers(self) -> Layers:
    return receptive_field.widest([branch.time_layers for branch in self._branches])

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    return tf.concat([branch(inputs, statistics) for branch in self._branches], axis=-1)


def build_all(units: Sequence[Unit], in_channels: int) -> int:
  """Builds units that are applied one after the other.

  Args:
    units: in their order.
    in_channels: of the inputs of the first.

  Returns:
    The channels out of the last.
  """
  channels = in_channels
  for unit in units:
    channels = unit.build(channels)
  return channels


def time_layers_of(units: Sequence[Unit]) -> Layers:
  """Returns the layers along time of units that are applied one after the other.

  Args:
    units: in their order.

  Raises:
    I3dError: see `Unit.time_layers`.
  """
  return tuple(layer for unit in units for layer in unit.time_layers)


def _along_time(kernel: Triple, stride: Triple, padding: Padding) -> Layers:
  if isinstance(padding, str):
    return (receptive_field.Layer(kernel[0], stride[0], receptive_field.SAME if padding == "SAME" else 0),)
  return (receptive_field.Layer(kernel[0], stride[0], padding[0]),)


def _simplest(padding: Padding, kernel: Triple, stride: Triple) -> Padding:
  """'SAME' or 'VALID' where that is the same as padding both sides, for it needs no copy of the inputs."""
  if isinstance(padding, str):
    return padding
  if not any(padding):
    return "VALID"
  axes = zip(kernel, stride, padding, strict=True)
  is_same = all(step == 1 and extent == 2 * before + 1 for extent, step, before in axes)
  return "SAME" if is_same else tuple(padding)


def _same(extent: tf.Tensor, kernel: int, stride: int) -> tuple[tf.Tensor, tf.Tensor]:
  """SAME padding by the rule total = max((ceil(n / s) - 1) * s + k - n, 0), half of it, rounded down, before."""
  total = tf.maximum((-(-extent // stride) - 1) * stride + kernel - extent, 0)
  return total // 2, total - total // 2


def _fill_tiles(
  inputs: tf.Tensor, kernel: tf.Tensor, stride: Triple, padding: str, *, is_training: bool
) -> tuple[tf.Tensor, tf.Tensor, Triple]:
  """Inputs, kernel and stride of an equal convolution that is quicker on matrix units, where the inputs are clips.

  These units multiply 32 channels at a time, of which a clip has 3. If the kernel moves by 2 pixels, every 2 pixels
  side by side become one of 6 channels, which is a view; then there are half as many taps. I3D's first layer takes a
  fifth of the time. In training every 2 by 2 pixels become one of 12 channels, which moves them in memory, but halves
  the time of the kernel's gradient.
  """
  if inputs.shape[4] > _FEW_CHANNELS:
    return inputs, kernel, stride
  for axis in (2, 1) if is_training else (2,):  # of the kernel; the inputs have one more before it
    step, extent, size = stride[axis], kernel.shape[axis], inputs.shape[axis + 1]
    if step > 1 and size is not None and size % step == 0:
      before = max(extent - step, 0) // 2 if padding == "SAME" else 0  # zeros before the inputs, in pixels
      lead = -before % step
      zeros = [(0, 0)] * 5
      zeros[axis] = (lead, -(lead + extent) % step)
      kernel = _fold(tf.pad(kernel, zeros), axis, step, channels=3)
      inputs = _fold(inputs, axis + 1, step, channels=4)
      stride = (*stride[:axis], 1, *stride[axis + 1 :])
  return inputs, kernel, stride


def _fold(values: tf.Tensor, axis: int, step: int, *, channels: int) -> tf.Tensor:
  """Puts the channels of every `step` neighbours along an axis, whose extent is known, one after the other."""
  dynamic = tf.shape(values)
  extents = [dynamic[index] if known is None else known for index, known in enumerate(values.shape)]
  neighbours = tf.reshape(values, [*extents[:axis], extents[axis] // step, step, *extents[axis + 1 :]])
  if axis + 1 < channels:  # or else they are side by side in memory
    order = [*range(len(extents) + 1)]
    order.insert(channels, order.pop(axis + 1))
    neighbours = tf.transpose(neighbours, order)
  extents[axis], extents[channels] = extents[axis] // step, extents[channels] * step
  return tf.reshape(neighbours, extents)


def _both_sides(padding: Triple) -> list[tuple[int, int]]:
  return [(0, 0), *((extent, extent) for extent in padding), (0, 0)]
