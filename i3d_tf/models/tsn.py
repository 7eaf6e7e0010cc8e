"""Temporal segment networks: BN-Inception or ResNet-50 on a frame, or on a short stack, of each part of a video.

A video is divided into equal segments, and the scores of one snippet of each are combined (Wang et al., arXiv
1608.00859 and 1705.02953). BN-Inception is Inception-v1 with batch norm and with two 3x3 convolutions in place of a 5x5
one (Ioffe and Szegedy, arXiv 1502.03167). Sources of every size: yjxiong/tsn-pytorch models.py and README.md, and
Cadene/pretrained-models.pytorch bninception.py, whose weights are read.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import receptive_field
from i3d_tf.models import resnet
from i3d_tf.models import trunk
from i3d_tf.models import units

_EPSILON = 1e-5  # of batch norm
_SNIPPET = 6  # frames whose differences are stacked: 5 differences, as there are 5 flows


class SegmentNetwork(trunk.TrunkNetwork):
  """A network of images on every frame, or stack, by itself, whose logits are combined over the segments.

  Endpoints beside the rows are 'PooledFeatures' `[B, K, C]`, the mean over the places of each of K segments,
  'StepLogits' `[B, K, classes]`, and 'Logits' `[B, classes]`.
  """

  def __init__(self, num_classes: int = 400, *, top_segments: int = 0, snippet: int = 1, **options: Any):
    """Describes the network.

    Args:
      num_classes: number of logits.
      top_segments: so many of the segments, those of the highest score for a class, are averaged for its logit: 1 is
        the maximum; 0: all.
      snippet: frames of each segment; of more than one the network sees the differences, side by side as channels.
      **options: of the network of images.

    Raises:
      ValueError: for an argument out of range.
    """
    super().__init__(num_classes, **options)
    if top_segments < 0 or snippet < 1:
      raise ValueError(f"top_segments is {top_segments} and snippet {snippet}; the least are 0 and 1")
    self._top_segments, self._snippet = top_segments, snippet
    if snippet > 1:
      self._trunk = {"differences": Differences(snippet, name="differences"), **self._trunk}

  def _head_endpoints(self) -> tuple[str, ...]:
    return (base.POOLED_FEATURES, base.STEP_LOGITS, base.LOGITS)

  def time_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    """Returns the layers along time that lead to an endpoint; see `base.Network.time_layers`.

    Args:
      endpoint: one of the rows, 'PooledFeatures' or 'StepLogits'.

    Raises:
      I3dError: for 'Logits', which are of all segments.
    """
    in_head = endpoint in (base.POOLED_FEATURES, base.STEP_LOGITS)
    return super().time_layers(list(self._trunk)[-1] if in_head else endpoint)

  def check(self, clip: Any) -> None:
    """Checks that the network can take a clip; see `base.Network.check`.

    Args:
      clip: the clip, or its specification.

    Raises:
      ValueError: if it does not fit.
    """
    super().check(clip)
    if clip.shape[1] is not None and clip.shape[1] < self._snippet:
      raise ValueError(f"clip has {clip.shape[1]} frames; the differences need {self._snippet}")

  def _classify(
    self, net: tf.Tensor, statistics: batch_norm.BatchStatistics | None, drop: Callable[..., tf.Tensor]
  ) -> dict[str, tf.Tensor]:
    pooled = tf.reduce_mean(tf.cast(net, tf.float32), [2, 3], keepdims=True)
    scores = tf.squeeze(self._classifier(drop(pooled)), [2, 3])
    logits = consensus(scores, self._top_segments)
    return {base.POOLED_FEATURES: tf.squeeze(pooled, [2, 3]), base.STEP_LOGITS: scores, base.LOGITS: logits}


def consensus(scores: tf.Tensor, top: int = 0) -> tf.Tensor:
  """Returns the scores of a video, `[B, classes]`.

  Args:
    scores: of its segments, `[B, K, classes]`.
    top: so many of the highest of each class are averaged, or all if there are fewer; 0: all.
  """
  highest = tf.sort(scores, axis=1, direction="DESCENDING")[:, :top] if top else scores
  return tf.reduce_mean(highest, axis=1)


@snt.allow_empty_variables
class Differences(units.Unit):
  """Of every so many frames the differences from each to the next, side by side as channels; a rest is left out.

  `[B, T, H, W, C]` becomes `[B, T / L, H, W, (L - 1) C]` of snippets of L frames. It has no variables.
  """

  def __init__(self, snippet: int, *, name: str):
    """Describes it by the frames of a snippet."""
    super().__init__(name=name)
    self._snippet = snippet

  def _build(self, in_channels: int) -> int:
    return (self._snippet - 1) * in_channels

  def _time_layers(self) -> units.Layers:
    return (receptive_field.Layer(self._snippet, self._snippet, padding=0),)

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    whole = (inputs.shape[1] or tf.shape(inputs)[1]) // self._snippet * self._snippet
    frame = [inputs[:, index : whole : self._snippet] for index in range(self._snippet)]
    return tf.concat([after - before for before, after in zip(frame, frame[1:])], axis=-1)


@snt.allow_empty_variables
class _AveragePool(units.Unit):
  """The mean of 3x3 places, those beyond the borders counted as zeros."""

  def _build(self, in_channels: int) -> int:
    return in_channels

  def _time_layers(self) -> units.Layers:
    return ()

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    padded = tf.pad(inputs, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    return tf.nn.avg_pool3d(padded, (1, 3, 3), 1, "VALID")


class _Block(NamedTuple):
  """Channels out of the convolutions of a block; without `point` and `pool_proj` it halves height and width."""

  name: str
  point: int | None
  single: tuple[int, int]
  double: tuple[int, int]
  pool_proj: int | None
  pools_maximum: bool = False


_BLOCKS = (
  _Block("inception_3a", 64, (64, 64), (64, 96), 32),
  _Block("inception_3b", 64, (64, 96), (64, 96), 64),
  _Block("inception_3c", None, (128, 160), (64, 96), None, pools_maximum=True),
  _Block("inception_4a", 224, (64, 96), (96, 128), 128),
  _Block("inception_4b", 192, (96, 128), (96, 128), 128),
  _Block("inception_4c", 160, (128, 160), (128, 160), 128),
  _Block("inception_4d", 96, (128, 192), (160, 192), 128),
  _Block("inception_4e", None, (128, 192), (192, 256), None, pools_maximum=True),
  _Block("inception_5a", 352, (192, 320), (160, 224), 128),
  _Block("inception_5b", 352, (192, 320), (192, 224), 128, pools_maximum=True),
)


def _conv(width: float, name: str, channels: int, kernel: int = 1, stride: int = 1) -> units.Unit3D:
  half = kernel // 2
  return units.Unit3D(
    max(4, round(channels * width)), (1, kernel, kernel), (1, stride, stride), padding=(0, half, half),
    batch_norm={"with_scale": True, "epsilon": _EPSILON}, name=name,
  )  # fmt: skip


def _branches(conv: Callable[..., units.Unit3D], block: _Block) -> list[units.Unit]:
  stride = 2 if block.pool_proj is None else 1
  first, last = block.single
  inner, outer = block.double
  pool = lambda: (
    units.MaxPool3D((1, 3, 3), (1, stride, stride), name="pool") if block.pools_maximum else _AveragePool(name="pool")
  )
  double = (("3x3_reduce", inner), ("3x3_1", outer, 3), ("3x3_2", outer, 3, stride))
  branches: list[Callable[[], list[units.Unit]]] = [
    lambda: [conv("conv_3x3_reduce", first), conv("conv_3x3", last, 3, stride)],
    lambda: [conv(f"conv_double_{name}", *sizes) for name, *sizes in double],
    lambda: [pool(), *([] if block.pool_proj is None else [conv("conv_pool_proj", block.pool_proj)])],
  ]
  if block.point is not None:
    branches.insert(0, lambda: [conv("conv_1x1", block.point)])
  return [units.Chain(make, name=f"branch_{index}") for index, make in enumerate(branches)]


class BnInception(SegmentNetwork):
  """BN-Inception, for frames of any size of at least 32 pixels.

  Endpoints are 'conv1_7x7_s2', 'pool1_3x3_s2', 'conv2_3x3_reduce', 'conv2_3x3', 'pool2_3x3_s2', 'inception_3a', ...,
  'inception_5b' `[B, K, H / 32, W / 32, 1024]`, and those of `SegmentNetwork`. Its weights want bytes: RGB less the
  mean colour of ImageNet, and flow from -127.5 to 127.5; the network converts clips in [-1, 1]. Pools of an odd number
  of places are padded on both sides, so that crops of any size fit.
  """

  rgb_mean = (128 / 255, 117 / 255, 104 / 255)
  rgb_std = 1 / 255

  def __init__(self, num_classes: int = 400, *, name: str | None = None, **options: Any):
    """Describes the network; `options` are those of `SegmentNetwork` and `trunk.TrunkNetwork`."""
    super().__init__(num_classes, name=name or "bn_inception", **options)
    conv = functools.partial(_conv, self.width_multiplier)
    halve = lambda name: units.MaxPool3D((1, 3, 3), (1, 2, 2), name=name)
    rows = [
      conv("conv1_7x7_s2", 64, 7, 2), halve("pool1_3x3_s2"), conv("conv2_3x3_reduce", 64), conv("conv2_3x3", 192, 3),
      halve("pool2_3x3_s2"),
      *(units.Concat(functools.partial(_branches, conv, block), name=block.name) for block in _BLOCKS),
    ]  # fmt: skip
    self._trunk |= {row.name: row for row in rows}

  def _normalized(self, clip: tf.Tensor) -> tf.Tensor:
    return super()._normalized(clip) if clip.shape[-1] == 3 else clip * 127.5


class TsnResNet(SegmentNetwork, resnet.ResNet):
  """A residual network of images on every segment; see `SegmentNetwork` and `resnet.ResNet`."""


_TSN = "Wang et al., arXiv 1608.00859; yjxiong/tsn-pytorch"
_BN_INCEPTION: Mapping[str, Any] = {"constructor": BnInception, "first_unit": "conv1_7x7_s2"}
_RESNET: Mapping[str, Any] = {"constructor": TsnResNet, "first_unit": "stem"}


def _entry(
  network: Mapping[str, Any], parameters: Mapping[str, int], giga_multiply_adds: Mapping[str, float], **fields: Any
) -> base.Entry:
  """A TSN on frames and flow, or on differences only; its clips are so many segments, each of a snippet."""
  is_bn = network is _BN_INCEPTION
  arguments: dict[str, Any] = {} if is_bn else {"architecture": "tsn_r50"}
  segments, snippet, what = 3, 1, "a frame, or five flows, of each of three segments; streams are trained apart"
  training = {"frame_stride": 1, "flow_stack": 5}
  if "flow" not in parameters:
    segments, snippet, what = 7, _SNIPPET, "the differences between six frames of each of seven segments"
    arguments, training = {**arguments, "snippet": snippet}, {"frame_stride": 1}
  return base.Entry(**{
      "title": f"TSN: {'BN-Inception' if is_bn else 'ResNet-50'} on {what}", **network, "arguments": arguments,
      "streams": tuple(parameters), "options": ("top_segments",), "trunk": "",
      "base": "bn_inception" if is_bn else "resnet_50",
      "training": {"num_frames": segments * snippet, "segment_frames": snippet, **training, **base.FULL_SIZE},
      "test": {"protocol": "ten_crop", "num_frames": 25 * snippet}, "parameters": parameters,
      "giga_multiply_adds": giga_multiply_adds, "accuracies": {}, "source": _TSN, **fields,
  })  # fmt: skip


MODELS: Mapping[str, base.Entry] = {
  "bn_inception": base.Entry(
      title="BN-Inception on every frame by itself; what TSN starts from", **_BN_INCEPTION, streams=("rgb",),
      training={"num_frames": 1, "frame_stride": 1, **base.FULL_SIZE}, test={"protocol": "clips", "num_clips": 25},
      parameters={"rgb": 10_670_224}, giga_multiply_adds={"rgb": 2.03}, accuracies={},
      source="Ioffe and Szegedy, arXiv 1502.03167; Cadene/pretrained-models.pytorch bninception.py",
  ),
  "tsn_bn_inception": _entry(
      _BN_INCEPTION, {"rgb": 10_670_224, "flow": 10_692_176}, {"rgb": 6.10, "flow": 6.92},
      accuracies={"imagenet": {"rgb": 69.1, "flow": 62.1, "rgb+flow": 73.9}},
      source=f"{_TSN}; accuracies: yjxiong.me/others/kinetics_action (25 snippets, streams 1:1)",
  ),
  "tsn_bn_inception_difference": _entry(_BN_INCEPTION, {"rgb": 10_707_856}, {"rgb": 17.53}),
  "tsn_r50": _entry(
      _RESNET, {"rgb": 24_327_632, "flow": 24_349_584}, {"rgb": 12.26, "flow": 13.09},
      accuracies={"imagenet": {"rgb": 70.60}},
      source="open-mmlab/mmaction2 configs/recognition/tsn/tsn_r50_1x1x3_100e_kinetics400_rgb.py (25 frames, 10 crops)",
  ),
  "tsn_r50_difference": _entry(_RESNET, {"rgb": 24_365_264}, {"rgb": 31.92}),
}  # fmt: skip
