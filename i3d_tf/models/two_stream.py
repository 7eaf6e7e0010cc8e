"""The paper's Two-Stream network and its 3D-fused variant: a 2D ConvNet a stream, on frames and on stacks of flow."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import receptive_field
from i3d_tf.models import units

_FEATURES = "Mixed_5c"
# Paper, section 2.3: a 3x3x3 convolution with 512 channels, and a 3x3x3 max pool; padding and stride are not given.
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
    if not streams or not set(streams) <= set(base.STREAMS) or len(set(streams)) < len(streams):
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

  @property
  def endpoint_names(self) -> tuple[str, ...]:
    """The names of the endpoints that a call returns, in order: the towers', then the joint ones."""
    towers = [f"{stream}/{name}" for stream, tower in self.towers.items() for name in tower.endpoint_names]
    return (*towers, *self._JOINT_ENDPOINTS)

  def time_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    """The layers of a tower's endpoint; an I3dError for one that is averaged over the positions."""
    stream, _, name = endpoint.partition("/")
    if stream in self.towers and name:
      return self.towers[stream].time_layers(name)
    return self._joint_layers(endpoint)

  def _build(self, in_channels: int | Mapping[str, int]) -> None:
    for stream, channels in self._by_stream(in_channels).items():
      self.towers[stream].build(channels)

  def check(self, clip: base.Clip | tf.TensorSpec | Mapping[str, tf.TensorSpec]) -> None:
    """Checks the clip of each stream; a ValueError if one is missing or does not fit."""
    is_mapping = isinstance(clip, Mapping)
    if is_mapping != (len(self.streams) > 1) or (is_mapping and not set(clip) >= set(self.streams)):
      given = f"clips of {' and '.join(clip)}" if is_mapping else "one clip"
      raise ValueError(f"got {given}; this network takes {' and '.join(self.streams)}")
    for stream, each in self._by_stream(clip).items():
      self.towers[stream].check(each)

  def _by_stream(self, clip: Any | Mapping[str, Any]) -> dict[str, Any]:
    return {stream: clip[stream] if isinstance(clip, Mapping) else clip for stream in self.streams}

  def _clips(self, clip: base.Clip) -> dict[str, tf.Tensor]:
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

  Endpoints are those of the towers behind 'rgb/' and 'flow/'; 'PooledFeatures', those of the towers side by side,
  `[B, T, 1024]` of one stream and `[B, T, 2048]` of both; 'StepLogits' `[B, T, classes]`, the mean of the towers'; and
  'Logits'.
  """

  _JOINT_ENDPOINTS = (base.POOLED_FEATURES, base.STEP_LOGITS, base.LOGITS)

  def __init__(
    self,
    num_classes: int = 400,
    streams: Sequence[str] = base.STREAMS,
    *,
    width_multiplier: float = 1.0,
    name: str | None = None,
    **tower_options,
  ):
    """Describes the network; `tower_options` are further arguments of `inception.InceptionV1`."""
    super().__init__(num_classes, streams, base.LOGITS, width_multiplier, name, tower_options)

  def _joint_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    if endpoint in (base.POOLED_FEATURES, base.STEP_LOGITS):
      return self.towers[self.streams[0]].time_layers(endpoint)
    raise base.not_in_chunks(
      endpoint, f"it is no endpoint at every position (the mean of {base.STEP_LOGITS} is {base.LOGITS})"
    )

  def __call__(
    self,
    clip: base.Clip,
    is_training: bool = False,
    dropout_keep_prob: float = 1.0,
    *,
    dropout_seeds: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
    """Applies the network; see `trunk.TrunkNetwork`."""
    endpoints: dict[str, tf.Tensor] = {}
    logits = []
    for layer, (stream, each) in enumerate(self._clips(clip).items()):
      seeds = None if dropout_seeds is None else dropout_seeds + [0, layer]
      output, found = self.towers[stream](each, is_training, dropout_keep_prob, dropout_seeds=seeds)
      logits.append(output)
      endpoints |= {f"{stream}/{name}": value for name, value in found.items()}
    by_tower = lambda name: [endpoints[f"{stream}/{name}"] for stream in self.streams]
    endpoints[base.POOLED_FEATURES] = tf.concat(by_tower(base.POOLED_FEATURES), -1)
    endpoints[base.STEP_LOGITS] = tf.add_n(by_tower(base.STEP_LOGITS)) / len(logits)
    endpoints[base.LOGITS] = tf.add_n(logits) / len(logits)
    return endpoints[base.LOGITS], endpoints


class FusedTwoStream(_Towers):
  """3D-Fused Two-Stream: the last features of both ConvNets at several positions, joined by a 3D convolution.

  39,755,824 trained values for 400 classes and ten flows a position (the paper says 39M). Clips are
  `[B, T, H, W, 3]` and `[B, T, H, W, 2L]`; the paper has five positions ten frames apart, and so 5x7x7 places. The
  streams' features are concatenated; a convolution with bias and ReLU and a max pool of stride 1, both padded, follow,
  and the mean over all places goes to the classifier. It takes any frame size and number of positions.

  Endpoints are those of the towers behind 'rgb/' and 'flow/', 'Fusion', 'FusionPool', 'PooledFeatures' `[B, 512]`, the
  mean over all places, and 'Logits'.
  """

  _JOINT_ENDPOINTS = ("Fusion", "FusionPool", base.POOLED_FEATURES, base.LOGITS)

  def __init__(
    self,
    num_classes: int = 400,
    streams: Sequence[str] = base.STREAMS,
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

  def _joint_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    if endpoint not in self._JOINT_ENDPOINTS[:2]:
      raise base.not_in_chunks(endpoint, "the features of all positions are averaged for it")
    layers = self.towers[self.streams[0]].time_layers(_FEATURES)
    return layers + (receptive_field.Layer(_FUSION_KERNEL[0]),) * (1 + self._JOINT_ENDPOINTS.index(endpoint))

  def _build(self, in_channels: int | Mapping[str, int]) -> None:
    super()._build(in_channels)
    self._fusion.build(sum(tower.out_channels for tower in self.towers.values()))
    self._classifier.build(self._fusion_channels)

  def __call__(
    self,
    clip: base.Clip,
    is_training: bool = False,
    dropout_keep_prob: float = 1.0,
    *,
    dropout_seeds: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
    """Applies the network; see `trunk.TrunkNetwork`. Dropout acts on the pooled features."""
    base.check_keep_prob(dropout_keep_prob)
    endpoints: dict[str, tf.Tensor] = {}
    features = []
    for stream, each in self._clips(clip).items():
      output, found = self.towers[stream](each, is_training)
      features.append(tf.cast(output, tf.float32))
      endpoints |= {f"{stream}/{name}": value for name, value in found.items()}
    fused = endpoints["Fusion"] = tf.nn.relu(self._fusion(tf.concat(features, axis=-1)))
    pooled = endpoints["FusionPool"] = tf.nn.max_pool3d(fused, _FUSION_KERNEL, 1, "SAME")
    mean = tf.reduce_mean(pooled, [1, 2, 3], keepdims=True)
    endpoints[base.POOLED_FEATURES] = tf.squeeze(mean, [1, 2, 3])
    mean = base.dropout(mean, dropout_keep_prob, dropout_seeds, whole_channels=self._spatial_dropout)
    logits = endpoints[base.LOGITS] = tf.squeeze(self._classifier(mean), [1, 2, 3])
    return logits, endpoints


MODELS: Mapping[str, base.Entry] = {
  "two_stream": base.Entry(
    title="Two-Stream: Inception-v1 on one frame, and on ten flows",
    constructor=TwoStream,
    streams=("rgb", "flow", "joint"),
    options=("streams",),
    first_unit="{stream}/Conv2d_1a_7x7",
    trunk="{stream}/",
    training={"num_frames": 1, "frame_stride": 1, "flow_stack": 10, **base.FULL_SIZE},
    test={"protocol": "clips", "num_clips": 25},
    parameters={"rgb": 6_002_624, "flow": 6_055_936, "joint": 12_058_560},
    giga_multiply_adds={"rgb": 1.50, "flow": 2.17, "joint": 3.66},
    accuracies={
      "scratch": {"rgb": 57.9, "flow": 49.6, "joint": 62.8},
      "imagenet": {"rgb": 62.2, "flow": 52.4, "joint": 65.6},
    },
    source=base.TABLE_3,
  ),
  "fused_two_stream": base.Entry(
    title="3D-Fused Two-Stream: five frames and their flow, joined by a 3D convolution",
    constructor=FusedTwoStream,
    streams=("rgb", "flow", "joint"),
    options=("streams",),
    first_unit="{stream}/Conv2d_1a_7x7",
    trunk="{stream}/",
    training={"num_frames": 5, "frame_stride": 10, "flow_stack": 10, **base.FULL_SIZE},
    test={"protocol": "clips", "num_clips": 5},
    parameters={"rgb": 19_954_112, "flow": 20_007_424, "joint": 39_755_824},
    giga_multiply_adds={"rgb": 10.96, "flow": 14.30, "joint": 25.25},
    accuracies={"scratch": {"joint": 62.7}, "imagenet": {"joint": 67.2}},
    source=base.TABLE_3,
  ),
}
