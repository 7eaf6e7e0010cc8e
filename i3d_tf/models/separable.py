"""The units of S3D and S3D-G: convolutions that are one in space and one in time, and gates.

After arXiv 1712.04851; initial values are those of tensorflow/models, research/slim/nets/s3dg.py and i3d_utils.py.
"""

from typing import Any

import numpy as np
import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm as norm
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import units

_GATE_DEVIATION = 0.01


class ExtendedUnit3D(units.Unit3D):
  """A unit, and under its name what follows it: the temporal half of its convolution, a gate."""

  def __init__(
    self,
    channels: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    *,
    is_separable: bool,
    is_gated: bool,
    temporal_batch_norm: bool = False,
    padding: units.Padding = "SAME",
    name: str,
    **options: Any,
  ):
    """Describes the unit.

    Args:
      channels, kernel, stride, padding: of the whole; if it is separable the first half has those of space, and the
        second those of time, which leaves the number of channels.
      is_separable: the convolution is two, each with an activation.
      is_gated: a gate follows.
      temporal_batch_norm: the second half has batch norm, too; otherwise it has a bias, and starts as the identity.
      name: of the unit.
      **options: of both halves, see `units.Unit3D`.
    """
    whole = {"kernel": kernel, "stride": stride, "padding": padding}
    of_space, of_time = _halves(**whole) if is_separable else (whole, None)
    super().__init__(channels, name=name, **of_space, **options)
    self._followers = []
    if is_separable:
      identity = {} if temporal_batch_norm else {"initializer": CenterIdentity()}
      self.temporal = units.Unit3D(
        channels, use_batch_norm=temporal_batch_norm, name=spec.TEMPORAL_NAME, **of_time, **identity, **options
      )
      self._followers.append(self.temporal)
    if is_gated:
      self.gate = Gate(channels, name=spec.GATE_NAME)
      self._followers.append(self.gate)

  def build(self, in_channels: int) -> int:
    channels = super().build(in_channels)
    for follower in self._followers:
      channels = follower.build(channels)
    return channels

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    statistics = None if self.frozen else statistics
    outputs = super().__call__(inputs, statistics)
    for follower in self._followers:
      outputs = follower(outputs, statistics)
    return outputs


class Gate(snt.Module):
  """Multiplies every channel by a weight of the clip, sigmoid(W mean), the mean being over time and space.

  In float32 whatever the type of its inputs.
  """

  def __init__(self, channels: int, *, name: str):
    super().__init__(name=name)
    initializer = snt.initializers.TruncatedNormal(stddev=_GATE_DEVIATION)
    self.conv_3d = units.Conv3D(channels, (1, 1, 1), initializer=initializer)

  def build(self, in_channels: int) -> int:
    """Creates the variables and returns the number of channels out."""
    self.conv_3d.build(in_channels)
    return in_channels

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    mean = tf.reduce_mean(tf.cast(inputs, tf.float32), [1, 2, 3], keepdims=True)
    return inputs * tf.cast(tf.sigmoid(self.conv_3d(mean)), inputs.dtype)


class CenterIdentity(snt.initializers.Initializer):
  """Of kernels `[kt, 1, 1, C, C]`: each channel of a step is that channel of the same step."""

  def __call__(self, shape, dtype) -> tf.Tensor:
    kernel = np.zeros(shape)
    kernel[(shape[0] - 1) // 2, 0, 0] = np.eye(shape[-1])
    return tf.constant(kernel, dtype)


def _halves(kernel, stride, padding) -> tuple[dict[str, Any], dict[str, Any]]:
  """Kernel, stride and padding of the half in space, and of that in time."""
  space, time = ((1, *kernel[1:]), (1, *stride[1:])), ((kernel[0], 1, 1), (stride[0], 1, 1))
  paddings = (padding, padding) if isinstance(padding, str) else ((0, *padding[1:]), (padding[0], 0, 0))
  return tuple(
    {"kernel": kernel, "stride": stride, "padding": padding}
    for (kernel, stride), padding in zip((space, time), paddings, strict=True)
  )
