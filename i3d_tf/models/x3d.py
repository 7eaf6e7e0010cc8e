"""X3D: channel-wise 3D convolutions, gates and swish in slim residual blocks."""

from collections.abc import Callable
import math
from typing import Any

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import resnet
from i3d_tf.models import trunk
from i3d_tf.models import units
from i3d_tf.models import x3d_spec as spec

LIN5 = "lin5"
_POINT = (1, 1, 1)
EPSILON = 1e-5  # of batch norm
_NORM = {"with_scale": True, "epsilon": EPSILON}
_LAST_NORM = {**_NORM, "initial_scale": 0.0}  # a block at first passes on its input


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
      crop: height and width of the clips of training.
      name: of the module.
      **options: see `trunk.TrunkNetwork`.

    Raises:
      ValueError: for an argument out of range.
    """
    if not depth_factor > 0:
      raise ValueError(f"depth_factor is {depth_factor}; it must be positive")
    super().__init__(num_classes, name=name, **options)
    self._window = math.ceil(crop / spec.STRIDE)
    self._trunk["stem"] = _stem(self._width(spec.STEM_WIDTH))
    for block in spec.blocks(depth_factor, width_multiplier=self.width_multiplier):
      self._trunk[block.name] = _residual(block)
    self._trunk["conv5"] = units.Unit3D(block.inner, _POINT, batch_norm=_NORM, name="conv5")
    width = self._width(spec.LIN5_WIDTH)
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


def _stem(channels: int) -> snt.Module:
  """A convolution in space, and a channel-wise one in time."""
  kernel = (spec.STEM_STEPS, 1, 1)
  make_units = lambda: [
      units.Unit3D(
          channels, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1), use_batch_norm=False, with_bias=False, activation="none",
          name="spatial",
      ),
      units.Unit3D(channels, kernel, channelwise=True, batch_norm=_NORM, name="temporal"),
  ]  # fmt: skip
  return units.Chain(make_units, name="stem")


def _residual(block: spec.Block) -> snt.Module:
  def make_units():
    stride = (1, block.stride, block.stride)
    conv1 = units.Unit3D(block.inner, _POINT, batch_norm=_NORM, name="conv1")
    conv2 = units.Unit3D(
        block.inner, (3, 3, 3), stride, padding=_POINT, channelwise=True, batch_norm=_NORM,
        activation="none" if block.squeezed else "swish", name="conv2",
    )  # fmt: skip
    gate = [_gate(block.inner, block.squeezed)] if block.squeezed else []
    conv3 = units.Unit3D(block.channels, _POINT, batch_norm=_LAST_NORM, activation="none", name="conv3")
    shortcut = units.Unit3D(block.channels, _POINT, stride, batch_norm=_NORM, activation="none", name="downsample")
    return [conv1, conv2, *gate, conv3], shortcut if block.stride > 1 else None

  return resnet.Residual(make_units, name=block.name)


def _gate(channels: int, squeezed: int) -> units.Gate:
  """Squeeze and excitation (arXiv 1709.01507), then swish."""
  make_units = lambda: [
    units.Unit3D(squeezed, _POINT, use_batch_norm=False, name="squeeze"),
    units.Unit3D(channels, _POINT, use_batch_norm=False, activation="sigmoid", name="excite"),
  ]
  return units.Gate(make_units, activation="swish", name="gate")
