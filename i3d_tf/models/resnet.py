"""The residual networks: R3D, MC3, rMC3, R(2+1)D, I3D-ResNet, C2D, with non-local blocks or temporal shift.

Accuracies are on Kinetics-400's validation set. They were published for videos at their own rate, mostly 30 frames per
second, and torchvision's for 15; here records have 25, of which torchvision's networks take every second frame. Its
frames are resized to 171x128 whatever their form; here to a short side of 128.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sonnet as snt
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import receptive_field
from i3d_tf.models import resnet_spec as spec
from i3d_tf.models import trunk
from i3d_tf.models import units

# Weights of the mean: softmax of the scaled product of two places' embeddings (the paper's embedded Gaussian), softmax
# of the product of the places themselves (Gaussian), or the embeddings' product divided by the number of places.
MODES = ("softmax", "gaussian", "dot_product")
_POINT = (1, 1, 1)
_POOL = (1, 2, 2)


class Residual(units.Unit):
  """ReLU of the sum of a branch of units and the input, or a shortcut's output of the input (arXiv 1512.03385)."""

  ends_part = True

  def __init__(self, make_units: Callable[[], tuple[Sequence[units.Unit], units.Unit | None]], *, name: str):
    """Describes the block.

    Args:
      make_units: makes the branch's units in order, and the shortcut, None if the input itself is added; it is called
        in the block's name scope.
      name: of the module.
    """
    super().__init__(name=name)
    self._branch, self._shortcut = make_units()

  def _build(self, in_channels: int) -> int:
    channels = units.build_all(self._branch, in_channels)
    shortcut = in_channels if self._shortcut is None else self._shortcut.build(in_channels)
    if shortcut != channels:
      raise ValueError(f"{self.name}: the branch has {channels} channels, what it is added to {shortcut}")
    return channels

  def _time_layers(self) -> units.Layers:
    shortcut = () if self._shortcut is None else self._shortcut.time_layers
    return receptive_field.widest([units.time_layers_of(self._branch), shortcut])

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    net = inputs
    for unit in self._branch:
      net = unit(net, statistics)
    return tf.nn.relu(net + (inputs if self._shortcut is None else self._shortcut(inputs, statistics)))


@snt.allow_empty_variables
class TemporalShift(units.Unit):
  """Moves an Nth of the channels one step back in time and as many one step ahead (arXiv 1811.08383); `fold` is N.

  Of C channels the first C // N are those of the next step, the next C // N those of the step before, and the rest
  stay; beyond the clip they are 0 (mit-han-lab/temporal-shift-module, ops/temporal_shift.py). It has no variables.
  """

  def __init__(self, fold: int = 8, *, name: str = "shift"):
    """Describes the shift."""
    super().__init__(name=name)
    self._fold = fold

  def _build(self, in_channels: int) -> int:
    return in_channels

  def _time_layers(self) -> units.Layers:
    return (receptive_field.Layer(3, padding=1),)

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    moved = inputs.shape[-1] // self._fold
    later, earlier, same = tf.split(inputs, [moved, moved, -1], axis=-1)
    later = tf.pad(later[:, 1:], [(0, 0), (0, 1), (0, 0), (0, 0), (0, 0)])
    earlier = tf.pad(earlier[:, :-1], [(0, 0), (1, 0), (0, 0), (0, 0), (0, 0)])
    return tf.concat([later, earlier, same], axis=-1)


class NonLocal(units.Unit):
  """Adds to each place of `[B, T, H, W, C]` a weighted mean of all places of the clip (arXiv 1711.07971).

  The others are seen at half the resolution: theta, phi and g are 1x1x1 convolutions with bias to C/2 channels; phi and
  g follow a 1x2x2 max pool; another convolution takes the weighted mean of g back to C channels, and its batch norm's
  scale starts at 0, so that at first the block changes nothing (SlowFast, slowfast/models/nonlocal_helper.py; the
  Gaussian, which that does not have, lacks theta and phi).
  """

  ends_part = True

  def __init__(self, channels: int, *, mode: str = "softmax", epsilon: float = batch_norm.EPSILON, name: str):
    """Describes the block.

    Args:
      channels: C.
      mode: one of `MODES`.
      epsilon: of batch norm.
      name: of the module.

    Raises:
      ValueError: for an unknown mode.
    """
    super().__init__(name=name)
    if mode not in MODES:
      raise ValueError(f"mode is {mode!r}; allowed are {', '.join(MODES)}")
    self._mode = mode
    self._pool = units.MaxPool3D(_POOL, _POOL, padding="VALID", name="pool")
    inner = max(1, channels // 2)
    embedding = lambda name: units.Unit3D(inner, _POINT, use_batch_norm=False, activation="none", name=name)
    self._theta = None if mode == "gaussian" else embedding("theta")
    self._phi = None if mode == "gaussian" else embedding("phi")
    self._g = embedding("g")
    zero = {"epsilon": epsilon, "with_scale": True, "initial_scale": 0.0}
    self._out = units.Unit3D(channels, _POINT, batch_norm=zero, activation="none", name="out")

  def _build(self, in_channels: int) -> int:
    for unit in filter(None, (self._theta, self._phi, self._g)):
      inner = unit.build(in_channels)
    return self._out.build(inner)

  def _time_layers(self) -> units.Layers:
    raise errors.I3dError("a non-local block before it sees the whole clip")

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
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


# All sources start by He's rule (arXiv 1502.01852), from the number of outputs.
_INITIALIZER = snt.initializers.VarianceScaling(2.0, mode="fan_out", distribution="normal")


class ResNet(trunk.TrunkNetwork):
  """A network of `resnet_spec.ARCHITECTURES`, for clips of any length and size.

  Endpoints are 'stem', 'pool1', 'layer1_0', ..., 'pool2' after 'layer1_2', ..., 'layer4_2', with non-local blocks such
  as 'layer2_1_non_local' between them, and those of `trunk.TrunkNetwork`. RGB is normalized as the published weights
  want it.
  """

  def __init__(
    self,
    num_classes: int = 400,
    *,
    architecture: str = "i3d_r50",
    temporal_padding: str = "zeros",
    name: str | None = None,
    **options: Any,
  ):
    """Describes the network.

    Args:
      num_classes: number of logits.
      architecture: a key of `resnet_spec.ARCHITECTURES`.
      temporal_padding: see `inception.InceptionI3d`.
      name: of the module.
      **options: see `trunk.TrunkNetwork`.

    Raises:
      ValueError: for an unknown architecture or an argument out of range.
    """
    if architecture not in spec.ARCHITECTURES:
      raise ValueError(f"architecture is {architecture!r}; allowed are {', '.join(spec.ARCHITECTURES)}")
    super().__init__(num_classes, name=name or architecture, **options)
    self.architecture = spec.ARCHITECTURES[architecture]
    self.rgb_mean, self.rgb_std = self.architecture.rgb_mean, self.architecture.rgb_std
    for row in spec.rows(self.architecture, width_multiplier=self.width_multiplier):
      self._trunk[row.name] = _make_row(row, self.architecture, temporal_padding)


def _make_row(row: spec.Row, architecture: spec.Architecture, temporal_padding: str) -> units.Unit:
  if isinstance(row, spec.Pool):
    return units.MaxPool3D(row.kernel, row.stride, padding=row.padding, name=row.name)
  if isinstance(row, spec.NonLocal):
    return NonLocal(row.channels, mode=architecture.non_local_mode, epsilon=architecture.epsilon, name=row.name)
  if isinstance(row, spec.Conv):
    return _make_conv(row, architecture, temporal_padding)

  def make_units():
    make = lambda conv: _make_conv(conv, architecture, temporal_padding)
    shift = [] if architecture.shift is None else [TemporalShift(architecture.shift)]
    return [*shift, *map(make, row.branch)], None if row.shortcut is None else make(row.shortcut)

  return Residual(make_units, name=row.name)


def _make_conv(conv: spec.Conv, architecture: spec.Architecture, temporal_padding: str) -> units.Unit:
  if conv.middle is not None:
    make_parts = lambda: [_make_conv(part, architecture, temporal_padding) for part in conv.parts()]
    return units.Chain(make_parts, name=conv.name)
  scale = {"with_scale": True, "initial_scale": 0.0 if conv.zero_scale else 1.0}
  return units.Unit3D(
    conv.channels,
    conv.kernel,
    conv.stride,
    batch_norm={"epsilon": architecture.epsilon, **scale},
    activation="relu" if conv.relu else "none",
    padding=conv.padding,
    temporal_padding=temporal_padding,
    initializer=_INITIALIZER,
    name=conv.name,
  )


_VMZ = "Tran et al., arXiv 1711.11248; facebookresearch/VMZ"
_SLOWFAST = "facebookresearch/SlowFast MODEL_ZOO.md (10 clips x 3 crops)"
_CAFFE2 = "facebookresearch/video-nonlocal-net; Tushar-N/pytorch-resnet3d models/resnet.py"
_SMALL = {"short_side": 128, "crop": 112}
_TORCHVISION: Mapping[str, Any] = {
  "training": {"num_frames": 16, "frame_stride": 2, **_SMALL},
  "test": {"protocol": "clips", "num_clips": 5},
  "source": "torchvision models/video/resnet.py, weights KINETICS400_V1 (5 clips)",
}
_FROM_IMAGES: Mapping[str, Any] = {
  "trunk": "",
  "base": "resnet_50",
  "training": {"num_frames": 8, "frame_stride": 8, **base.FULL_SIZE},
  "test": {"protocol": "three_crops", "num_clips": 10},
}
_FROM_IMAGES_32X2: Mapping[str, Any] = {
  **_FROM_IMAGES,
  "training": {"num_frames": 32, "frame_stride": 2, **base.FULL_SIZE},
}


def _entry(architecture: str, **fields: Any) -> base.Entry:
  stem = "stem/spatial" if spec.ARCHITECTURES[architecture].factorised else "stem"
  return base.Entry(
      constructor=ResNet, arguments={"architecture": architecture}, streams=tuple(fields["parameters"]),
      first_unit=stem, **fields,
  )  # fmt: skip


MODELS: Mapping[str, base.Entry] = {
  "r3d_18": _entry(
    "r3d_18",
    title="R3D-18: ResNet-18 with 3x3x3 convolutions",
    **_TORCHVISION,
    parameters={"rgb": 33_371_472},
    giga_multiply_adds={"rgb": 40.70},
    accuracies={"scratch": {"rgb": 63.2}},
  ),
  "mc3_18": _entry(
    "mc3_18",
    title="MC3-18: ResNet-18, in 3D up to its first stage and in 2D above",
    **_TORCHVISION,
    parameters={"rgb": 11_695_440},
    giga_multiply_adds={"rgb": 43.34},
    accuracies={"scratch": {"rgb": 63.96}},
  ),
  "rmc3_18": _entry(
    "rmc3_18",
    title="rMC3-18: ResNet-18, in 2D up to its first stage and in 3D above",
    training={"num_frames": 16, "frame_stride": 1, **_SMALL},
    test={"protocol": "clips", "num_clips": 10},
    parameters={"rgb": 33_057_744},
    giga_multiply_adds={"rgb": 24.95},
    accuracies={},
    source=_VMZ,
  ),
  "r2plus1d_18": _entry(
    "r2plus1d_18",
    title="R(2+1)D-18: ResNet-18, each convolution one in space and one in time",
    **_TORCHVISION,
    parameters={"rgb": 31_505_325},
    giga_multiply_adds={"rgb": 40.52},
    accuracies={"scratch": {"rgb": 67.463}},
  ),
  "r2plus1d_34": _entry(
    "r2plus1d_34",
    title="R(2+1)D-34: ResNet-34, each convolution one in space and one in time; streams are trained apart",
    training={"num_frames": 32, "frame_stride": 1, **_SMALL},
    test={"protocol": "clips", "num_clips": 10},
    parameters={"rgb": 63_697_175, "flow": 63_694_970},
    giga_multiply_adds={"rgb": 152.36, "flow": 152.13},
    accuracies={"scratch": {"rgb": 72.0, "flow": 67.5, "rgb+flow": 73.9}},
    source=_VMZ,
  ),
  "i3d_r50": _entry(
    "i3d_r50",
    title="I3D-ResNet-50, 8 frames: temporal kernels in every second bottleneck",
    **_FROM_IMAGES,
    parameters={"rgb": 28_043_472},
    giga_multiply_adds={"rgb": 28.41},
    accuracies={"scratch": {"rgb": 73.5}},
    source=_SLOWFAST,
  ),
  "i3d_r50_non_local": _entry(
    "i3d_r50_non_local",
    title="I3D-ResNet-50, 8 frames, with five non-local blocks",
    **_FROM_IMAGES,
    parameters={"rgb": 35_397_840},
    giga_multiply_adds={"rgb": 36.54},
    accuracies={"scratch": {"rgb": 74.0}},
    source=_SLOWFAST,
  ),
  "i3d_r50_32x2": _entry(
    "i3d_r50_32x2",
    title="I3D-ResNet-50, 32 frames, of which stem and pools make four steps",
    **_FROM_IMAGES_32X2,
    parameters={"rgb": 28_043_472},
    giga_multiply_adds={"rgb": 33.13},
    accuracies={"imagenet": {"rgb": 73.47}},
    source="open-mmlab/mmaction2 configs/recognition/i3d (10 clips x 3 crops)",
  ),
  "i3d_r50_caffe2": _entry(
    "i3d_r50_caffe2",
    title="I3D-ResNet-50 of video-nonlocal-net, 32 frames, which projects of anomaly detection take",
    **_FROM_IMAGES_32X2,
    parameters={"rgb": 28_043_472},
    giga_multiply_adds={"rgb": 32.83},
    accuracies={},
    source=_CAFFE2,
  ),
  "i3d_r50_caffe2_non_local": _entry(
    "i3d_r50_caffe2_non_local",
    title="the same with five non-local blocks",
    **_FROM_IMAGES_32X2,
    parameters={"rgb": 35_397_840},
    giga_multiply_adds={"rgb": 40.96},
    accuracies={},
    source=_CAFFE2,
  ),
  "c2d_r50": _entry(
    "c2d_r50",
    title="C2D: ResNet-50 on every frame, with a pool over time",
    **_FROM_IMAGES,
    parameters={"rgb": 24_327_632},
    giga_multiply_adds={"rgb": 19.49},
    accuracies={"scratch": {"rgb": 71.46}},
    source="pytorchvideo models/hub/resnet.py",
  ),
  "tsm_r50": _entry(
    "tsm_r50",
    title="TSM-ResNet-50: channels move between neighbouring frames",
    **_FROM_IMAGES,
    parameters={"rgb": 24_327_632},
    giga_multiply_adds={"rgb": 32.70},
    accuracies={"imagenet": {"rgb": 74.1}},
    source="mit-han-lab/temporal-shift-module README.md, dense sampling (10 clips x 3 crops)",
  ),
  "resnet_50": _entry(
    "resnet_50",
    title="ResNet-50 on every frame by itself; what others of the family start from",
    training={"num_frames": 1, "frame_stride": 1, **base.FULL_SIZE},
    test={"protocol": "clips", "num_clips": 25},
    parameters={"rgb": 24_327_632},
    giga_multiply_adds={"rgb": 4.09},
    accuracies={},
    source="torchvision models/resnet.py",
  ),
}
