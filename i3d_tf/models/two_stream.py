"""The paper's Two-Stream network and its 3D-fused variant: a 2D ConvNet a stream, on frames and on stacks of flow."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import units

STREAMS = ("rgb", "flow")
_FEATURES = "Mixed_5c"
# Paper, section 2.3: a 3x3x3 convolution with 512 channels, and a 3x3x3 max pool; padding and stride are not told.
_FUSION_CHANNELS, _FUSION_KERNEL = 512, (3, 3, 3)


class _Towers(base.Network):
  """An `InceptionV1` a stream; called with a clip, or, of both streams, with a mapping of clips."""

  def __init__(
    self,
    num_classes: int,
    streams: Sequence[str],
    final_endpoint: str,
    width_multiplier: float,
    name: str | None,
    options: Mapping[str, Any],
  ):
    super().__init__(name=name)
    if not streams or not set(streams) <= set(STREAMS) or len(set(streams)) < len(streams):
      raise ValueError(f"streams are {tuple(streams)}; allowed are rgb, flow, and both")
    self.num_classes = num_classes
    self.streams = tuple(streams)
    self.towers = {
        stream: inception.InceptionV1(
            num_classes, final_endpoint=final_endpoint, name=stream, average_space=True,
            width_multiplier=width_multiplier, **options,
        )
        for stream in self.streams
    }  # fmt: skip

  def build(self, in_channels: int | Mapping[str, int]) -> None:
    """Creates all variables for clips of so many channels, by stream if there are two."""
    if self._check_channels(in_channels):
      for stream, channels in self._by_stream(in_channels).items():
        self.towers[stream].build(channels)
      self._build_rest()
      self.in_channels = in_channels

  def _build_rest(self) -> None:
    """Creates what follows the towers."""

  def check(self, clip: tf.Tensor | Mapping[str, tf.Tensor]) -> None:
    """Raises ValueError unless there is a clip of each stream."""
    is_mapping = isinstance(clip, Mapping)
    if is_mapping != (len(self.streams) > 1) or (is_mapping and not set(clip) >= set(self.streams)):
      given = f"clips of {' and '.join(clip)}" if is_mapping else "one clip"
      raise ValueError(f"got {given}; this network takes {' and '.join(self.streams)}")
    for stream, each in self._by_stream(clip).items():
      self.towers[stream].check(each)

  def _by_stream(self, clip: Any | Mapping[str, Any]) -> dict[str, Any]:
    return {stream: clip[stream] if isinstance(clip, Mapping) else clip for stream in self.streams}

  def _clips(self, clip: tf.Tensor | Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The clips by stream, checked; builds the network."""
    clip = base.to_tensors(clip)
    self.check(clip)
    clips = self._by_stream(clip)
    channels = {stream: each.shape[-1] for stream, each in clips.items()}
    self.build(channels if isinstance(clip, Mapping) else channels[self.streams[0]])
    return clips


class TwoStream(_Towers):
  """An RGB frame and a stack of flow, each through an Inception-v1; their logits are averaged, trained end to end.

  12,058,560 trained values for 400 classes and ten flows (the paper says 12M). RGB clips are `[B, T, H, W, 3]`, flow
  clips `[B, T, H, W, 2L]`, of T positions in the video whose logits are averaged; the paper trains with one and tests
  with 25. It takes any frame size. With one stream it is that ConvNet alone.

  Endpoints are those of the towers behind 'rgb/' and 'flow/', and 'Logits'.
  """

  def __init__(
    self,
    num_classes: int = 400,
    streams: Sequence[str] = STREAMS,
    *,
    width_multiplier: float = 1.0,
    name: str | None = None,
    **tower_options,
  ):
    """Describes the network; `tower_options` are further arguments of `inception.InceptionV1`."""
    super().__init__(num_classes, streams, base.LOGITS, width_multiplier, name, tower_options)

  def __call__(
    self,
    clip: tf.Tensor | Mapping[str, tf.Tensor],
    is_training: bool = False,
    dropout_keep_prob: float = 1.0,
    *,
    dropout_seeds: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
    """Applies the network; see `base.Network` and `trunk.TrunkNetwork`."""
    endpoints, logits = {}, []
    for layer, (stream, each) in enumerate(self._clips(clip).items()):
      seeds = None if dropout_seeds is None else dropout_seeds + [0, layer]
      output, found = self.towers[stream](each, is_training, dropout_keep_prob, dropout_seeds=seeds)
      logits.append(output)
      endpoints |= {f"{stream}/{name}": value for name, value in found.items()}
    endpoints[base.LOGITS] = tf.add_n(logits) / len(logits)
    return endpoints[base.LOGITS], endpoints


class FusedTwoStream(_Towers):
  """3D-Fused Two-Stream: the last features of both ConvNets at several positions, joined by a 3D convolution.

  39,755,824 trained values for 400 classes and ten flows a position (the paper says 39M). Clips are
  `[B, T, H, W, 3]` and `[B, T, H, W, 2L]`; the paper has five positions ten frames apart, and so 5x7x7 places. The
  streams' features are concatenated; a convolution with bias and ReLU and a max pool of stride 1, both padded, follow,
  and the mean over all places goes to the classifier. It takes any frame size and number of positions.

  Endpoints are those of the towers behind 'rgb/' and 'flow/', 'Fusion', 'FusionPool' and 'Logits'.
  """

  def __init__(
    self,
    num_classes: int = 400,
    streams: Sequence[str] = STREAMS,
    *,
    width_multiplier: float = 1.0,
    spatial_dropout: bool = False,
    name: str | None = None,
    **tower_options,
  ):
    """Describes the network; `tower_options` are further arguments of `inception.InceptionV1`."""
    super().__init__(num_classes, streams, _FEATURES, width_multiplier, name, tower_options)
    self._spatial_dropout = spatial_dropout
    self._fusion_channels = max(4, round(_FUSION_CHANNELS * width_multiplier))
    self._fusion = units.Conv3D(self._fusion_channels, _FUSION_KERNEL, with_bias=True, name="Fusion")
    self._classifier = units.classifier(num_classes, name=base.LOGITS)

  def _build_rest(self) -> None:
    channels = sum(tower.out_channels for tower in self.towers.values())
    with tf.init_scope():
      self._fusion.build(channels)
      self._classifier.build(self._fusion_channels)

  def __call__(
    self,
    clip: tf.Tensor | Mapping[str, tf.Tensor],
    is_training: bool = False,
    dropout_keep_prob: float = 1.0,
    *,
    dropout_seeds: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
    """Applies the network; see `base.Network` and `trunk.TrunkNetwork`. Dropout acts on the pooled features."""
    base.check_keep_prob(dropout_keep_prob)
    endpoints, features = {}, []
    for stream, each in self._clips(clip).items():
      output, found = self.towers[stream](each, is_training)
      features.append(tf.cast(output, tf.float32))
      endpoints |= {f"{stream}/{name}": value for name, value in found.items()}
    fused = endpoints["Fusion"] = tf.nn.relu(self._fusion(tf.concat(features, axis=-1)))
    pooled = endpoints["FusionPool"] = tf.nn.max_pool3d(fused, _FUSION_KERNEL, 1, "SAME")
    mean = tf.reduce_mean(pooled, [1, 2, 3], keepdims=True)
    mean = base.dropout(mean, dropout_keep_prob, dropout_seeds, whole_channels=self._spatial_dropout)
    logits = endpoints[base.LOGITS] = tf.squeeze(self._classifier(mean), [1, 2, 3])
    return logits, endpoints
