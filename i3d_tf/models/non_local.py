"""Non-local blocks: every place of a clip sees every other (arXiv 1711.07971)."""

from collections.abc import Mapping
from typing import Any

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm as norm
from i3d_tf.models import units

# How much a place is worth to another: softmax of the scaled product of their embeddings (the paper's embedded
# Gaussian), softmax of the product of the places themselves (Gaussian), or the embeddings' product over their number.
MODES = ("softmax", "gaussian", "dot_product")
_POINT = (1, 1, 1)
_POOL = (1, 2, 2)


class NonLocal(snt.Module):
  """Adds to `[B, T, H, W, C]` what all places, seen at half the resolution, are worth to each place.

  theta, phi and g are 1x1x1 convolutions with bias to C/2 channels; phi and g follow a 1x2x2 max pool; another
  convolution takes the weighted mean of g back to C channels, and its batch norm's scale starts at 0, so that at first
  the block changes nothing (SlowFast, slowfast/models/nonlocal_helper.py; the Gaussian, which that does not have, lacks
  theta and phi).

  Attributes:
    ends_part: see `resnet.Residual`.
  """

  ends_part = True

  def __init__(self, channels: int, *, mode: str = "softmax", batch_norm: Mapping[str, Any] | None = None, name: str):
    """Describes the block.

    Args:
      channels: C.
      mode: one of `MODES`.
      batch_norm: arguments of `batch_norm.BatchNorm`, beside its scale.
      name: of the module.
    """
    super().__init__(name=name)
    if mode not in MODES:
      raise ValueError(f"mode is {mode!r}; allowed are {', '.join(MODES)}")
    self._mode = mode
    self._pool = units.MaxPool3D(_POOL, _POOL, padding="VALID", name="pool")
    inner = max(1, channels // 2)
    embedding = lambda name: units.Unit3D(inner, _POINT, use_batch_norm=False, activation="none", name=name)
    self._theta, self._phi = (None, None) if mode == "gaussian" else (embedding("theta"), embedding("phi"))
    self._g = embedding("g")
    zero = {**(batch_norm or {}), "with_scale": True, "initial_scale": 0.0}
    self._out = units.Unit3D(channels, _POINT, batch_norm=zero, activation="none", name="out")

  def build(self, in_channels: int) -> int:
    for unit in filter(None, (self._theta, self._phi, self._g)):
      inner = unit.build(in_channels)
    return self._out.build(inner)

  def __call__(self, inputs: tf.Tensor, statistics: norm.BatchStatistics | None = None) -> tf.Tensor:
    pooled = self._pool(inputs)
    queries = _flat(inputs if self._theta is None else self._theta(inputs))
    keys = _flat(pooled if self._phi is None else self._phi(pooled))
    mean = self._weights(queries, keys) @ _flat(self._g(pooled))
    mean = tf.reshape(mean, tf.concat([tf.shape(inputs)[:4], [mean.shape[-1]]], 0))
    return inputs + self._out(mean, statistics)

  def _weights(self, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """`[B, N, M]` of `[B, N, C]` and `[B, M, C]`."""
    if self._mode == "softmax":
      queries *= tf.constant(queries.shape[-1] ** -0.5, queries.dtype)
    products = tf.matmul(queries, keys, transpose_b=True)
    if self._mode == "dot_product":
      return products / tf.cast(tf.shape(keys)[1], products.dtype)
    return tf.cast(tf.nn.softmax(tf.cast(products, tf.float32)), products.dtype)


def _flat(net: tf.Tensor) -> tf.Tensor:
  """`[B, T, H, W, C]` as `[B, T * H * W, C]`."""
  batch, *places, channels = tf.unstack(tf.shape(net))
  del channels
  return tf.reshape(net, [batch, tf.reduce_prod(places), net.shape[-1]])
