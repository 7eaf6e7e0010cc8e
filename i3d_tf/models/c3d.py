"""The paper's 3D-ConvNet: C3D with batch norm."""

from collections.abc import Callable, Mapping
import math
from typing import Any

import tensorflow as tf

from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import receptive_field
from i3d_tf.models import trunk
from i3d_tf.models import units

# facebookarchive/C3D, conv3d_sport1m prototxt: channels of the 3x3x3 convolutions between the pools, and the widths of
# the two fully connected layers. The first pool strides over time, too (paper, section 2.2; in C3D it does not).
_CONVOLUTIONS = (("1a", 64), ("2a", 128), ("3a", 256), ("3b", 256), ("4a", 512), ("4b", 512), ("5a", 512), ("5b", 512))
_LAST_OF_STAGE = ("1a", "2a", "3b", "4b", "5b")
_FULLY_CONNECTED = (("fc6", 4096), ("fc7", 4096))
_NUM_POOLS = len(_LAST_OF_STAGE)


class C3D(trunk.TrunkNetwork):
  """Eight 3x3x3 convolutions, five 2x2x2 max pools and two fully connected layers, for clips of one length and size.

  79,634,576 trained values for 16 frames of 112x112 and 400 classes (the paper says 79M): every convolution and fully
  connected layer has batch norm and ReLU and no bias, and all pools are padded, so that 4x4 places reach fc6. Dropout
  acts on fc6 and fc7.

  Endpoints are named as in C3D: conv1a, pool1, ..., pool5, fc6, fc7; beside them 'PooledFeatures' `[B, 4096]`, which is
  fc7, and 'Logits'.
  """

  MIN_BATCH = 2

  def __init__(
    self, num_classes: int = 400, *, num_frames: int = 16, crop: int = 112, name: str | None = None, **options: Any
  ):
    """Describes the network.

    Args:
      num_classes: number of logits.
      num_frames: frames of a clip.
      crop: height and width of a clip.
      name: of the module.
      **options: see `trunk.TrunkNetwork`.

    Raises:
      ValueError: for an argument out of range.
    """
    super().__init__(num_classes, name=name, **options)
    self._clip_shape = num_frames, crop, crop
    for name, channels in _CONVOLUTIONS:
      self._trunk[f"conv{name}"] = units.Unit3D(self._width(channels), (3, 3, 3), name=f"conv{name}")
      if name in _LAST_OF_STAGE:
        pool = f"pool{name[0]}"
        self._trunk[pool] = units.MaxPool3D((2, 2, 2), (2, 2, 2), name=pool)
    kernel = tuple(math.ceil(extent / 2**_NUM_POOLS) for extent in self._clip_shape)
    for name, channels in _FULLY_CONNECTED:
      self._head[name] = units.Unit3D(self._width(channels), kernel, padding="VALID", name=name)
      kernel = 1, 1, 1

  def time_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    """Refuses every endpoint, since the fully connected layers see the whole clip, whose length is fixed.

    Args:
      endpoint: any.

    Returns:
      Nothing.

    Raises:
      I3dError: always.
    """
    raise base.not_in_chunks(endpoint, f"this network takes clips of {self._clip_shape[0]} frames only")

  def _head_endpoints(self) -> tuple[str, ...]:
    return (*self._head, base.POOLED_FEATURES, base.LOGITS)

  def check(self, clip: Any) -> None:
    """Checks that the network can take a clip.

    Args:
      clip: the clip, or its specification.

    Raises:
      ValueError: for a clip of another number of frames or size.
    """
    super().check(clip)
    if not clip.shape[1:4].is_compatible_with(self._clip_shape):
      frames, height, width = clip.shape[1:4]
      wanted, side, _ = self._clip_shape
      raise ValueError(
        f"clip has {frames} frames of {height}x{width}; this network takes {wanted} frames of {side}x{side}"
      )

  def _classify(
    self, net: tf.Tensor, statistics: batch_norm.BatchStatistics | None, drop: Callable[..., tf.Tensor]
  ) -> dict[str, tf.Tensor]:
    endpoints = {}
    for layer, (name, module) in enumerate(self._head.items()):
      net = endpoints[name] = module(net, statistics)
      net = drop(net, layer=layer)
    endpoints[base.POOLED_FEATURES] = tf.squeeze(tf.cast(endpoints[_FULLY_CONNECTED[-1][0]], tf.float32), [1, 2, 3])
    return endpoints | {base.LOGITS: tf.squeeze(self._classifier(tf.cast(net, tf.float32)), [1, 2, 3])}


MODELS: Mapping[str, base.Entry] = {
  "c3d": base.Entry(
    title="3D-ConvNet: C3D with batch norm",
    constructor=C3D,
    streams=("rgb", "flow"),
    options=("num_frames", "crop"),
    first_unit="conv1a",
    training={"num_frames": 16, "frame_stride": 1, "short_side": 128, "crop": 112},
    test={"protocol": "clips", "num_clips": 15},
    parameters={"rgb": 79_634_576, "flow": 79_632_848},
    giga_multiply_adds={"rgb": 19.82, "flow": 19.47},
    accuracies={"scratch": {"rgb": 56.1}},
    source=base.TABLE_3,
  )
}
