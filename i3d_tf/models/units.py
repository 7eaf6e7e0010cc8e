"""The building units: convolution, and convolution with batch norm and ReLU, pools, and how they are put together.

Data layout is NDHWC, `[B, T, H, W, C]`. Units compute in the type of their inputs and own float32 variables, which
carry the 2017 release's names, so that a checkpoint loader is a lookup.

Every unit is called with its inputs and, in training mode, the `BatchStatistics` of the pass; without them it uses
moving statistics.
"""

from collections.abc import Mapping
import math
from typing import Any

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm as norm
from i3d_tf.models import channelwise as channelwise_lib

TEMPORAL_PADDINGS = ("zeros", "edge")
# 'SAME', 'VALID', or what is put both before and after (time, height, width), as PyTorch's networks have it.
Padding = str | tuple[int, int, int]
ACTIVATIONS = {"relu": tf.nn.relu, "swish": tf.nn.swish, "sigmoid": tf.nn.sigmoid, "none": tf.identity}


class Conv3D(snt.Module):
  """A 3D convolution that owns `w` `[kt, kh, kw, Cin, Cout]` and perhaps a bias `b`.

  A channel-wise one, of which every channel out sees the channel in of the same number and no other, owns `w`
  `[kt, kh, kw, C]`.

  Weights start, if nothing else is asked for, as Sonnet's default: truncated normal with standard deviation
  1/sqrt(fan in); biases at 0.

  Attributes:
    frozen: not to be trained.
  """

  def __init__(
    self,
    channels: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    *,
    with_bias: bool = False,
    padding: Padding = "SAME",
    temporal_padding: str = "zeros",
    channelwise: bool = False,
    initializer: snt.initializers.Initializer | None = None,
    name: str = "conv_3d",
  ):
    """Describes the convolution.

    Args:
      channels: out.
      kernel, stride: (time, height, width).
      with_bias: add `b`.
      padding: 'SAME', 'VALID', or how much on both sides of (time, height, width).
      temporal_padding: what padding puts before the first and after the last frame: 'zeros', or by 'edge' these
        frames again.
      channelwise: convolve every channel by itself; there are as many in as out.
      initializer: of `w`.
      name: of the module.

    Raises:
      ValueError: for an unknown padding, or if a channel-wise convolution is to pad by a length not known yet.
    """
    super().__init__(name=name)
    if temporal_padding not in TEMPORAL_PADDINGS:
      raise ValueError(f"temporal_padding is {temporal_padding!r}; allowed are {', '.join(TEMPORAL_PADDINGS)}")
    self._channels = channels
    self._kernel = tuple(kernel)
    self._stride = tuple(stride)
    self._with_bias = with_bias
    self._channelwise = channelwise
    self._padding = _simplest(padding, self._kernel, self._stride)
    if channelwise and (temporal_padding == "edge" or (self._padding == "SAME" and max(self._stride) > 1)):
      raise ValueError(f"a channel-wise convolution of stride {self._stride} takes padding by zeros, in numbers")
    self._initializer = initializer
    self._repeats_edges = temporal_padding == "edge" and self._padding != "VALID" and self._kernel[0] > 1
    self.frozen = False

  @snt.once
  def build(self, in_channels: int) -> None:
    """Creates the variables for inputs of `in_channels` channels."""
    if self._channelwise and in_channels != self._channels:
      raise ValueError(f"{self.name} is channel-wise, from {in_channels} to {self._channels} channels; give as many")
    shape = (*self._kernel, self._channels) if self._channelwise else (*self._kernel, in_channels, self._channels)
    fan_in = math.prod(shape[:-1])
    initializer = self._initializer or snt.initializers.TruncatedNormal(stddev=fan_in**-0.5)
    self.w = tf.Variable(initializer(shape, tf.float32), name="w")
    if self._with_bias:
      self.b = tf.Variable(tf.zeros([self._channels]), name="b")

  def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
    outputs = self.convolve(inputs, self.w)
    return tf.nn.bias_add(outputs, tf.cast(self.b, outputs.dtype)) if self._with_bias else outputs

  def scale_and_shift(self, scale: tf.Tensor, offset: tf.Tensor) -> None:
    """Makes its output, as it was without a bias, scale * output + offset, (C,) each: changes `w` and sets `b`."""
    self.w.assign(self.w * scale)
    with self.name_scope:
      self.b = tf.Variable(offset, name="b")
    self._with_bias = True

  def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with `kernel` in place of `w`, which has its shape."""
    padding = self._padding
    if self._channelwise:
      return channelwise_lib.convolve(inputs, tf.cast(kernel, inputs.dtype), self._stride, self._pads())
    if self._repeats_edges:
      inputs, padding = self._pad(inputs), "VALID"
    elif not isinstance(padding, str):
      inputs, padding = tf.pad(inputs, _both_sides(padding)), "VALID"
    return tf.nn.conv3d(inputs, tf.cast(kernel, inputs.dtype), (1, *self._stride, 1), padding)

  def _pads(self) -> list[tuple[int, int]]:
    """Padding (before, after) by axis, which for 'SAME' at a stride of 1 is known beforehand."""
    if self._padding == "SAME":
      return [((extent - 1) // 2, extent // 2) for extent in self._kernel]
    return [(extent, extent) for extent in ((0, 0, 0) if self._padding == "VALID" else self._padding)]

  def _pad(self, inputs: tf.Tensor) -> tf.Tensor:
    """Pads by hand, in time with the outermost frames."""
    extents = tf.unstack(tf.shape(inputs)[1:4])
    if isinstance(self._padding, str):
      (before, after), *space = map(_same, extents, self._kernel, self._stride)
    else:
      (before, after), *space = ((extent, extent) for extent in self._padding)
    frames = tf.clip_by_value(tf.range(-before, extents[0] + after), 0, extents[0] - 1)
    return tf.pad(tf.gather(inputs, frames, axis=1), [(0, 0), (0, 0), *space, (0, 0)])


class Unit3D(snt.Module):
  """Convolution, batch norm, ReLU; or, with `use_batch_norm=False`, convolution and bias, and another activation.

  With moving statistics the normalisation is folded into the kernel and a bias at every call: scaling the
  kernel costs a fraction of scaling the activations, and convolution, bias and ReLU become one operation.

  Attributes:
    frozen: use moving statistics in training mode, too.
  """

  def __init__(
    self,
    channels: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    *,
    use_batch_norm: bool = True,
    batch_norm: Mapping[str, Any] | None = None,
    activation: str = "relu",
    name: str,
    **convolution: Any,
  ):
    """Describes the unit.

    Args:
      channels, kernel, stride: of the convolution.
      use_batch_norm: if not, the convolution has a bias unless `with_bias=False`.
      batch_norm: arguments of `batch_norm.BatchNorm`, if they are not the Inception family's.
      activation: one of `ACTIVATIONS`.
      name: of the module.
      **convolution: further arguments of `Conv3D`.
    """
    super().__init__(name=name)
    if activation not in ACTIVATIONS:
      raise ValueError(f"activation is {activation!r}; allowed are {', '.join(ACTIVATIONS)}")
    self._channels = channels
    self._activation = activation
    self.conv_3d = Conv3D(channels, kernel, stride, **{"with_bias": not use_batch_norm, **convolution})
    self.batch_norm = norm.BatchNorm(**(batch_norm or {})) if use_batch_norm else None
    self.frozen = False

  def build(self, in_channels: int) -> int:
    """Creates the variables and returns the number of channels out."""
    self.conv_3d.build(in_channels)
    if self.batch_norm is not None:
      self.batch_norm.build(self._channels)
    return self._channels

  def fold_batch_norm(self) -> None:
    """Puts the batch norm with its moving statistics into kernel and bias, for good; without one, does nothing."""
    if self.batch_norm is not None:
      self.conv_3d.scale_and_shift(*self.batch_norm.moving_affine())
      self.batch_norm = None

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    activate = ACTIVATIONS[self._activation]
    if self.batch_norm is None:
      return activate(self.conv_3d(inputs))
    if statistics is not None and not self.frozen:
      has_relu = self._activation == "relu"
      outputs = statistics.normalize(self.batch_norm, self.conv_3d(inputs), relu=has_relu)
      return outputs if has_relu else activate(outputs)
    scale, offset = self.batch_norm.moving_affine()
    outputs = self.conv_3d.convolve(inputs, self.conv_3d.w * scale)
    return activate(tf.nn.bias_add(outputs, tf.cast(offset, outputs.dtype)))


def classifier(num_classes: int, *, name: str) -> Unit3D:
  """The unit that makes logits of features: a 1x1x1 convolution with a bias."""
  return Unit3D(num_classes, (1, 1, 1), use_batch_norm=False, activation="none", name=name)


@snt.allow_empty_variables
class MaxPool3D(snt.Module):
  """Max pooling, whose padding counts as minus infinity.

  Attributes:
    ends_part: its output is stored for the gradient if the rest is computed again, see `trunk.apply`.
  """

  ends_part = True

  def __init__(
    self, kernel: tuple[int, int, int], stride: tuple[int, int, int], *, padding: Padding = "SAME", name: str
  ):
    super().__init__(name=name)
    self._kernel = tuple(kernel)
    self._stride = tuple(stride)
    self._padding = _simplest(padding, self._kernel, self._stride)

  def build(self, in_channels: int) -> int:
    return in_channels

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    return self._pool(inputs) if statistics is None else statistics.max_pool(self._pool, inputs)

  def _pool(self, inputs: tf.Tensor) -> tf.Tensor:
    padding = self._padding
    if not isinstance(padding, str):
      inputs, padding = tf.pad(inputs, _both_sides(padding), constant_values=inputs.dtype.min), "VALID"
    return tf.nn.max_pool3d(inputs, self._kernel, self._stride, padding)


class Chain(snt.Module):
  """Units applied one after the other under a name scope of their own."""

  def __init__(self, make_units, *, name: str):
    super().__init__(name=name)
    self._units = make_units()

  def build(self, in_channels: int) -> int:
    for unit in self._units:
      in_channels = unit.build(in_channels)
    return in_channels

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    for unit in self._units:
      inputs = unit(inputs, statistics)
    return inputs


class Concat(snt.Module):
  """Branches applied to the same input, concatenated on channels."""

  def __init__(self, make_branches, *, name: str):
    super().__init__(name=name)
    self._branches = make_branches()

  def build(self, in_channels: int) -> int:
    return sum(branch.build(in_channels) for branch in self._branches)

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    return tf.concat([branch(inputs, statistics) for branch in self._branches], axis=-1)


class Gate(snt.Module):
  """The inputs times what units make of their mean over all times and places, in float32; then an activation."""

  def __init__(self, make_units, *, activation: str = "none", name: str):
    super().__init__(name=name)
    self._units = make_units()
    self._activate = ACTIVATIONS[activation]

  def build(self, in_channels: int) -> int:
    channels = in_channels
    for unit in self._units:
      channels = unit.build(channels)
    return in_channels

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    gates = tf.reduce_mean(tf.cast(inputs, tf.float32), [1, 2, 3], keepdims=True)
    for unit in self._units:
      gates = unit(gates, statistics)
    return self._activate(inputs * tf.cast(gates, inputs.dtype))


def _simplest(padding: Padding, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Padding:
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


def _both_sides(padding: tuple[int, int, int]) -> list[tuple[int, int]]:
  return [(0, 0), *((extent, extent) for extent in padding), (0, 0)]
