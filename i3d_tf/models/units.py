"""The building units: convolution, batch norm with plain averages, and both with a ReLU.

Data layout is NDHWC, `[B, T, H, W, C]`, float32. Variables carry the 2017 release's names, so that
a checkpoint loader is a lookup.
"""

import sonnet as snt
import tensorflow as tf

# Sonnet 1's BatchNorm as the release used it (deepmind/sonnet v1.1-v1.36): offset without scale,
# biased variance, averages that start at 0 and 1 and are not debiased. Sonnet 2's own BatchNorm
# differs in all of these and would lose loaded statistics at the first update.
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_DECAY = 0.999


class Conv3D(snt.Module):
  """A SAME-padded 3D convolution that owns `w` `[kt, kh, kw, Cin, Cout]` and perhaps a bias `b`.

  Weights start as Sonnet's default: truncated normal with standard deviation 1/sqrt(fan in); biases at 0.
  """

  def __init__(self, channels: int, kernel: tuple[int, int, int], stride=(1, 1, 1), *, with_bias=False, name="conv_3d"):
    super().__init__(name=name)
    self._channels = channels
    self._kernel = tuple(kernel)
    self._strides = (1, *stride, 1)
    self._with_bias = with_bias

  @snt.once
  def build(self, in_channels: int) -> None:
    """Creates the variables for inputs of `in_channels` channels."""
    shape = (*self._kernel, in_channels, self._channels)
    fan_in = shape[0] * shape[1] * shape[2] * in_channels
    self.w = tf.Variable(snt.initializers.TruncatedNormal(stddev=fan_in**-0.5)(shape, tf.float32), name="w")
    if self._with_bias:
      self.b = tf.Variable(tf.zeros([self._channels]), name="b")

  def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
    outputs = self.convolve(inputs, self.w)
    return tf.nn.bias_add(outputs, self.b) if self._with_bias else outputs

  def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with `kernel` in place of `w`, which has its shape."""
    return tf.nn.conv3d(inputs, kernel, self._strides, "SAME")


class BatchNorm(snt.Module):
  """y = (x - mean) / sqrt(variance + 1e-3) + beta over `[B, T, H, W]`, with plain moving averages."""

  def __init__(self, name: str = "batch_norm"):
    super().__init__(name=name)

  @snt.once
  def build(self, channels: int) -> None:
    """Creates `beta` (trained) and the moving statistics (not trained), each of shape (C,)."""
    self.beta = tf.Variable(tf.zeros([channels]), name="beta")
    self.moving_mean = tf.Variable(tf.zeros([channels]), trainable=False, name="moving_mean")
    self.moving_variance = tf.Variable(tf.ones([channels]), trainable=False, name="moving_variance")

  def normalize_batch(self, inputs: tf.Tensor) -> tf.Tensor:
    """Normalises with the statistics of this batch and moves the averages towards them (decay 0.999)."""
    # Not the fused operation: its float32 sums put the statistics of a 16-frame clip off by 2e-5, these by 1e-7,
    # and it returns the unbiased variance.
    mean, variance = tf.nn.moments(inputs, axes=[0, 1, 2, 3])
    self._move(self.moving_mean, mean)
    self._move(self.moving_variance, variance)
    return tf.nn.batch_normalization(inputs, mean, variance, self.beta, None, BATCH_NORM_EPSILON)

  def moving_affine(self) -> tuple[tf.Tensor, tf.Tensor]:
    """(scale, offset), each (C,), such that normalising with the moving statistics is scale * x + offset."""
    scale = tf.math.rsqrt(self.moving_variance + BATCH_NORM_EPSILON)
    return scale, self.beta - self.moving_mean * scale

  def _move(self, average: tf.Variable, value: tf.Tensor) -> None:
    average.assign_sub((average - value) * (1 - BATCH_NORM_DECAY))


class Unit3D(snt.Module):
  """Convolution, batch norm, ReLU; or, with `use_batch_norm=False`, convolution and bias only (a classifier).

  With moving statistics the normalisation is folded into the kernel and a bias at every call: scaling the
  kernel costs a fraction of scaling the activations, and convolution, bias and ReLU become one operation.
  """

  def __init__(
      self, channels: int, kernel: tuple[int, int, int], stride=(1, 1, 1), *, use_batch_norm: bool = True, name: str
  ):
    super().__init__(name=name)
    self._channels = channels
    self.conv_3d = Conv3D(channels, kernel, stride, with_bias=not use_batch_norm)
    self.batch_norm = BatchNorm() if use_batch_norm else None

  def build(self, in_channels: int) -> int:
    """Creates the variables and returns the number of channels out."""
    self.conv_3d.build(in_channels)
    if self.batch_norm is not None:
      self.batch_norm.build(self._channels)
    return self._channels

  def __call__(self, inputs: tf.Tensor, is_training: bool) -> tf.Tensor:
    if self.batch_norm is None:
      return self.conv_3d(inputs)
    if is_training:
      return tf.nn.relu(self.batch_norm.normalize_batch(self.conv_3d(inputs)))
    scale, offset = self.batch_norm.moving_affine()
    return tf.nn.relu(tf.nn.bias_add(self.conv_3d.convolve(inputs, self.conv_3d.w * scale), offset))


class MaxPool3D(snt.Module):
  """SAME max pooling; padding counts as minus infinity."""

  def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int], *, name: str):
    super().__init__(name=name)
    self._kernel = tuple(kernel)
    self._stride = tuple(stride)

  def build(self, in_channels: int) -> int:
    return in_channels

  def __call__(self, inputs: tf.Tensor, is_training: bool) -> tf.Tensor:
    del is_training
    return tf.nn.max_pool3d(inputs, self._kernel, self._stride, "SAME")


class Chain(snt.Module):
  """Units applied one after the other under a name scope of their own."""

  def __init__(self, make_units, *, name: str):
    super().__init__(name=name)
    self._units = make_units()

  def build(self, in_channels: int) -> int:
    for unit in self._units:
      in_channels = unit.build(in_channels)
    return in_channels

  def __call__(self, inputs: tf.Tensor, is_training: bool) -> tf.Tensor:
    for unit in self._units:
      inputs = unit(inputs, is_training)
    return inputs


class Concat(snt.Module):
  """Branches applied to the same input, concatenated on channels."""

  def __init__(self, make_branches, *, name: str):
    super().__init__(name=name)
    self._branches = make_branches()

  def build(self, in_channels: int) -> int:
    return sum(branch.build(in_channels) for branch in self._branches)

  def __call__(self, inputs: tf.Tensor, is_training: bool) -> tf.Tensor:
    return tf.concat([branch(inputs, is_training) for branch in self._branches], axis=-1)
