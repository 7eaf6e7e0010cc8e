"""The paper's 3D-ConvNet: C3D with batch norm."""

from collections.abc import Mapping
import math

import tensorflow as tf

from i3d_tf.models import batch_norm
from i3d_tf.models import network
from i3d_tf.models import trunk
from i3d_tf.models import units

# facebookarchive/C3D, conv3d_sport1m prototxt: channels of the 3x3x3 convolutions between the pools, and the widths of
# the two fully connected layers. The first pool strides over time, too (paper, section 2.2; in C3D it does not).
_CONVOLUTIONS = (("1a", 64), ("2a", 128), ("3a", 256), ("3b", 256), ("4a", 512), ("4b", 512), ("5a", 512), ("5b", 512))
_LAST_OF_STAGE = ("1a", "2a", "3b", "4b", "5b")
_FULLY_CONNECTED = (("fc6", 4096), ("fc7", 4096))
_NUM_POOLS = len(_LAST_OF_STAGE)


class C3D(network.Network):
  """Eight 3x3x3 convolutions, five 2x2x2 max pools and two fully connected layers, for clips of one length and size.

  79,634,576 trained values for 16 frames of 112x112 and 400 classes (the paper says 79M): every convolution and fully
  connected layer has batch norm and ReLU and no bias, and all pools are padded, so that 4x4 places reach fc6.

  Endpoints are named as in C3D: conv1a, pool1, ..., pool5, fc6, fc7, and 'Logits'.
  """

  def __init__(
      self,
      num_classes: int = 400,
      *,
      num_frames: int = 16,
      crop: int = 112,
      width_multiplier: float = 1.0,
      spatial_dropout: bool = False,
      sync_batch_norm: bool = False,
      batch_norm_decay: float = batch_norm.DECAY,
      recompute: bool = False,
      compute_dtype: str = "float32",
      name: str | None = None,
  ):
    """Describes the network; variables are created by the first call or by `build`.

    Args:
      num_classes: number of logits.
      num_frames: frames of a clip.
      crop: its height and width.
      spatial_dropout: without effect, since dropout acts where there is one place left.
      width_multiplier, sync_batch_norm, batch_norm_decay, recompute, compute_dtype: see `inception.InceptionI3d`.
      name: of the module.

    Raises:
      ValueError: for an argument out of range.
    """
    super().__init__(name=name)
    del spatial_dropout
    network.check_common(num_classes, width_multiplier, compute_dtype)
    self.num_classes = num_classes
    self._clip_shape = num_frames, crop, crop
    self._statistics = {"synchronized": sync_batch_norm, "decay": batch_norm_decay}
    self._recompute = recompute
    self._compute_dtype = tf.as_dtype(compute_dtype)
    width = lambda channels: max(4, round(channels * width_multiplier))
    self._trunk = {}
    for name, channels in _CONVOLUTIONS:
      self._trunk[f"conv{name}"] = units.Unit3D(width(channels), (3, 3, 3), name=f"conv{name}")
      if name in _LAST_OF_STAGE:
        pool = f"pool{name[0]}"
        self._trunk[pool] = units.MaxPool3D((2, 2, 2), (2, 2, 2), name=pool)
    kernel = tuple(math.ceil(extent / 2**_NUM_POOLS) for extent in self._clip_shape)
    self._fully_connected = {}
    for name, channels in _FULLY_CONNECTED:
      self._fully_connected[name] = units.Unit3D(width(channels), kernel, padding="VALID", name=name)
      kernel = 1, 1, 1
    self._classifier = units.classifier(num_classes, name=network.LOGITS)

  def build(self, in_channels: int) -> None:
    """Creates all variables for clips of `in_channels` channels; does nothing the second time."""
    if self._check_channels(in_channels):
      channels = in_channels
      with tf.init_scope():
        for module in (*self._trunk.values(), *self._fully_connected.values(), self._classifier):
          channels = module.build(channels)
      self.in_channels = in_channels

  def check(self, clip: tf.Tensor | tf.TensorSpec) -> None:
    """Raises ValueError for a clip of another number of frames or size."""
    super().check(clip)
    if not clip.shape[1:4].is_compatible_with(self._clip_shape):
      frames, height, width = clip.shape[1:4]
      wanted, side, _ = self._clip_shape
      raise ValueError(
          f"clip has {frames} frames of {height}x{width}; this network takes {wanted} frames of {side}x{side}"
      )

  def __call__(
      self,
      clip: tf.Tensor,
      is_training: bool = False,
      dropout_keep_prob: float = 1.0,
      *,
      dropout_seeds: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
    """Applies the network to `[B, num_frames, crop, crop, C]`; see `network.Network` and `inception.InceptionI3d`.

    Dropout acts on fc6 and fc7.

    Raises:
      ValueError: for a clip of another size.
    """
    network.check_keep_prob(dropout_keep_prob)
    clip = clip if isinstance(clip, Mapping) else tf.convert_to_tensor(clip)
    self.check(clip)
    self.build(clip.shape[-1])
    statistics = batch_norm.BatchStatistics(**self._statistics) if is_training else None
    endpoints = trunk.apply(
        self._trunk, tf.cast(clip, self._compute_dtype), statistics, recompute=self._recompute
    )
    net = endpoints[list(self._trunk)[-1]]
    for layer, (name, module) in enumerate(self._fully_connected.items()):
      net = endpoints[name] = module(net, statistics)
      net = network.dropout(net, dropout_keep_prob, dropout_seeds, layer=layer)
    if statistics is not None:
      statistics.move_averages()
    logits = endpoints[network.LOGITS] = tf.squeeze(self._classifier(tf.cast(net, tf.float32)), [1, 2, 3])
    return logits, endpoints
