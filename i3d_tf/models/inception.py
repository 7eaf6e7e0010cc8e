"""The networks of the Inception-v1 family: InceptionI3d, and InceptionV1, which sees every frame by itself.

They differ in their `spec.Architecture`; more of them, and S3D, are in `s3d`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import receptive_field
from i3d_tf.models import trunk
from i3d_tf.models import units

MIN_FRAMES, SQUEEZABLE_SIDES = spec.I3D.clip_limits  # 9, for fewer leave one step to a pool that spans two


def _plain_convolution(
  row: spec.Conv, architecture: spec.Architecture, owner: str, *, is_last: bool, **options: Any
) -> units.Unit:
  """The unit of a convolution row; raises a ValueError for an architecture with separable convolutions or gates."""
  del is_last
  if spec.is_separable(row, architecture, owner) or owner in architecture.gated:
    raise ValueError(f"{options['name']} is separable or has a gate; build this architecture with s3d.S3D")
  return units.Unit3D(row.channels, **options)


class Inception(trunk.TrunkNetwork):
  """A network of the family, by its architecture; see `InceptionI3d` and `InceptionV1`.

  Called with a clip it takes T of at least 9 frames to reach the logits, and H and W 193 to 224 unless
  `spatial_squeeze=False` (then at least 193) or `average_space=True`; of other architectures see
  `spec.Architecture.clip_limits`.

  'Logits' and 'Predictions' are averaged over time, `[B, classes]` or, without squeezing, `[B, h, w, classes]`. Beside
  the release's names there are the endpoints 'PooledFeatures' `[B, T' - 1, 1024]` and 'StepLogits'
  `[B, T' - 1, classes]`, before averaging (with their spatial axes if not squeezed).

  Attributes:
    ARCHITECTURE: the architecture unless the constructor is given another.
    make_convolution: makes the unit of a convolution row, see `_plain_convolution`.
    architecture: the architecture.
    out_channels: of the trunk.
  """

  ARCHITECTURE: spec.Architecture = spec.I3D
  make_convolution: Callable[..., units.Unit] = staticmethod(_plain_convolution)

  def __init__(
    self,
    num_classes: int = 400,
    spatial_squeeze: bool = True,
    final_endpoint: str = spec.LOGITS,
    name: str | None = None,
    *,
    architecture: spec.Architecture | None = None,
    width_multiplier: float = 1.0,
    average_space: bool = False,
    spatial_dropout: bool = False,
    temporal_padding: str = "zeros",
    sync_batch_norm: bool = False,
    batch_norm_decay: float = batch_norm.DECAY,
    recompute: bool = False,
    compute_dtype: str = "float32",
  ):
    """Describes the network; variables are created by the first call or by `build`.

    Under a `tf.distribute` strategy call `build` in its scope, and the network in its replicas.

    Args:
      num_classes: number of logits.
      spatial_squeeze: drop the spatial axes of the logits, which must then have size 1.
      final_endpoint: the last endpoint to build, one of `spec.endpoints(architecture)`; it is also the output.
      name: name of the module, the first part of its variables' names.
      architecture: which member of the family it is; by default the class's `ARCHITECTURE`.
      width_multiplier: width multiplier of every layer but the classifier (small networks for tests).
      average_space: accept any height and width: pool at most 7x7 and average the logits over space
        instead of squeezing. Needs `spatial_squeeze`.
      spatial_dropout: drop whole channels of the pooled features, at all times and places of a clip.
      temporal_padding: what convolutions find before the first and after the last frame: 'zeros', as in the release, or
        with 'edge' these frames again, so that a network inflated from 2D returns for a still video what the 2D network
        returns for its frame, at every step.
      sync_batch_norm: in training take the batch's statistics over all replicas of the `tf.distribute` strategy.
      batch_norm_decay: of the moving statistics; the release's by default.
      recompute: in training store the outputs of the trunk's max pools only, and compute what lies between again for
        the gradient: saves memory, costs time. Use it in a `tf.function`.
      compute_dtype: the type of the trunk's activations, one of 'float32', 'bfloat16' and 'float16'. Variables,
        statistics, the head and all gradients of variables are always float32.

    Raises:
      ValueError: for an unknown endpoint or an argument out of range.
    """
    self.architecture = self.ARCHITECTURE if architecture is None else architecture
    self.rgb_mean, self.rgb_std = self.architecture.rgb_mean, self.architecture.rgb_std
    allowed = spec.endpoints(self.architecture)
    if final_endpoint not in allowed:
      raise ValueError(f"final_endpoint is {final_endpoint!r}; allowed are {', '.join(allowed)}")
    if average_space and not spatial_squeeze:
      raise ValueError("average_space=True removes the spatial axes and needs spatial_squeeze=True")
    if self.architecture.symmetric_padding and temporal_padding != "zeros":
      raise ValueError(f"temporal_padding is {temporal_padding!r}; with symmetric padding it can only be 'zeros'")
    self.final_endpoint = final_endpoint
    super().__init__(
        num_classes, width_multiplier=width_multiplier, sync_batch_norm=sync_batch_norm,
        spatial_dropout=spatial_dropout, batch_norm_decay=batch_norm_decay, recompute=recompute,
        compute_dtype=compute_dtype, name=name,
    )  # fmt: skip
    self._clip_limits = self.architecture.clip_limits
    self._spatial_squeeze = spatial_squeeze
    self._average_space = average_space
    self.out_channels = 0
    for row in self.architecture.rows:
      endpoint = spec.endpoint_name(row, self.architecture)
      scaled = spec.scale_channels(row, width_multiplier)
      self._trunk[endpoint] = _make_row(scaled, self.architecture, temporal_padding, self.make_convolution)
      self.out_channels = spec.out_channels(scaled, self.out_channels)
      if endpoint == final_endpoint:
        break

  @property
  def has_head(self) -> bool:
    """Whether the network goes on to its logits."""
    return self.final_endpoint in (spec.LOGITS, spec.PREDICTIONS)

  def _head_endpoints(self) -> tuple[str, ...]:
    predictions = (spec.PREDICTIONS,) if self.final_endpoint == spec.PREDICTIONS else ()
    return (spec.LOGITS, *predictions, spec.POOLED_FEATURES, spec.STEP_LOGITS)

  def time_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    """Returns the layers along time that lead to an endpoint; see `base.Network.time_layers`.

    Args:
      endpoint: one of the trunk, or 'PooledFeatures' or 'StepLogits'.

    Raises:
      I3dError: for one that is averaged over time, or that gates come before.
    """
    return spec.time_layers(endpoint, self.architecture)

  def check(self, clip: Any) -> None:
    """Checks that the network can take a clip; see `base.Network.check`.

    Args:
      clip: the clip, or its specification.

    Raises:
      ValueError: if it does not fit.
    """
    base.check_clip(clip)
    if not self.has_head:
      return
    frames, *sides = clip.shape[1:4]
    min_frames, (low, high) = self._clip_limits
    if frames is not None and frames < min_frames:
      raise ValueError(f"clip has {frames} frames; {self.final_endpoint} needs at least {min_frames}")
    if self._average_space:
      return
    for axis, side in zip(("height", "width"), sides, strict=True):
      if side is None:
        continue
      if side < low or (side > high and self._spatial_squeeze):
        allowed = f"{low} to {high}" if self._spatial_squeeze else f"at least {low}"
        raise ValueError(f"clip has {axis} {side}; {self.final_endpoint} needs {allowed}, or average_space=True")

  def _classify(
    self, net: tf.Tensor, statistics: batch_norm.BatchStatistics | None, drop: Callable[..., tf.Tensor]
  ) -> dict[str, tf.Tensor]:
    pooled = self._average_pool(tf.cast(net, tf.float32))
    step_logits = self._classifier(drop(pooled))
    if self._average_space:
      pooled, step_logits = (tf.reduce_mean(x, [2, 3]) for x in (pooled, step_logits))
    elif self._spatial_squeeze:
      pooled, step_logits = (tf.squeeze(x, [2, 3]) for x in (pooled, step_logits))
    endpoints = {spec.LOGITS: tf.reduce_mean(step_logits, axis=1)}
    if self.final_endpoint == spec.PREDICTIONS:
      endpoints[spec.PREDICTIONS] = tf.nn.softmax(endpoints[spec.LOGITS])
    return endpoints | {spec.POOLED_FEATURES: pooled, spec.STEP_LOGITS: step_logits}

  def _make_classifier(self) -> units.Unit:
    name = self.architecture.head_conv
    make_units = lambda: [units.classifier(self.num_classes, name=name)]
    return units.Chain(make_units, name=spec.LOGITS)

  def _average_pool(self, net: tf.Tensor) -> tf.Tensor:
    """The head's VALID average pool, with `average_space` no larger than the map."""
    time, *sides = self.architecture.head_pool
    if net.shape[1] is None:
      # A pool over too few steps is empty, not an error, and its mean NaN.
      message = f"clip has too few frames; Logits needs at least {self._clip_limits[0]}"
      with tf.control_dependencies([tf.debugging.assert_greater_equal(tf.shape(net)[1], time, message)]):
        net = tf.identity(net)
    if self._average_space and None in net.shape[2:4]:
      return _average_places(tf.nn.avg_pool3d(net, [time, 1, 1], 1, "VALID"), sides)
    if self._average_space:
      sides = [min(side, extent) for side, extent in zip(sides, net.shape[2:4], strict=True)]
    return tf.nn.avg_pool3d(net, [time, *sides], 1, "VALID")


class InceptionI3d(Inception):
  """Two-Stream Inflated 3D ConvNet of one stream: Inception-v1 with temporal kernels.

  The network of "Quo Vadis, Action Recognition?" (arXiv 1705.07750) as google-deepmind/kinetics-i3d i3d.py
  defines it, with the release's interface, endpoint names, 230 variables (116 trained) and paddings.

  RGB clips have 3 channels in [-1, 1]; flow clips 2 channels (x, y), +-20 pixels per frame scaled to [-1, 1];
  both at 25 frames per second. The number of channels is fixed by the first call, or by `build`.

  On a CPU take gradients with tape and network in one `tf.function`: TensorFlow's eager max pool gives the whole
  gradient to each of several tied maxima.
  """

  VALID_ENDPOINTS = spec.ENDPOINTS


class InceptionV1(Inception):
  """Inception-v1 with batch norm of every frame by itself: the paper's 2D ConvNet, and what I3D is inflated from.

  The network of tensorflow/models research/slim/nets/inception_v1.py, with its endpoint names and counts (5,607,184
  values to Mixed_5c, moving statistics included). Kernels have a time axis of size 1, and batch statistics are over
  all frames of all clips. Logits are averaged over the frames. Slim trained it with a `batch_norm_decay` of 0.9997 and
  kept 0.8 of the features by dropout.

  It also takes images `[B, H, W, C]`; then no endpoint has a time axis.
  """

  ARCHITECTURE = spec.INCEPTION_V1

  def __call__(
    self, clip: tf.Tensor, is_training: bool = False, dropout_keep_prob: float = 1.0, **more
  ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
    """Applies the network to clips or images; see `InceptionI3d`."""
    clip = base.to_tensors(clip)
    if not tf.is_tensor(clip) or clip.shape.rank != 4:
      return super().__call__(clip, is_training, dropout_keep_prob, **more)
    output, endpoints = super().__call__(clip[:, tf.newaxis], is_training, dropout_keep_prob, **more)
    squeezed = {
      name: value if name in (spec.LOGITS, spec.PREDICTIONS) else tf.squeeze(value, 1)
      for name, value in endpoints.items()
    }
    return squeezed.get(self.final_endpoint, output), squeezed


def _average_places(net: tf.Tensor, kernel: Sequence[int]) -> tf.Tensor:
  """The mean `[B, T, 1, 1, C]` over the outputs of a VALID average pool of `[B, T, H, W, C]`, no larger than the map.

  For maps whose size is not known in the graph, in which a pool has to be of one size.
  """
  shares = []
  for axis, side in enumerate(kernel, start=2):
    extent = tf.shape(net)[axis]
    side = tf.minimum(side, extent)
    num_pools = extent - side + 1
    place = tf.range(extent)
    # So many of the pools hold a place.
    count = 1 + tf.minimum(tf.minimum(place, extent - 1 - place), tf.minimum(side, num_pools) - 1)
    shares.append(tf.cast(count, net.dtype) / tf.cast(side * num_pools, net.dtype))
  return tf.einsum("bthwc,h,w->btc", net, *shares)[:, :, tf.newaxis, tf.newaxis]


def _make_row(
  row: spec.Row, architecture: spec.Architecture, temporal_padding: str, make_convolution: Callable[..., units.Unit]
) -> units.Unit:
  """The unit of one row."""
  name = spec.endpoint_name(row, architecture)
  make = lambda inner, *, is_last: _make_inner(
    inner, architecture, row.name, temporal_padding, make_convolution, is_last=is_last
  )
  if not isinstance(row, spec.Mixed):
    return make(row, is_last=True)

  def make_branch(index: int, branch: tuple[spec.Conv | spec.Pool, ...]) -> units.Chain:
    make_units = lambda: [make(inner, is_last=inner is branch[-1]) for inner in branch]
    return units.Chain(make_units, name=f"Branch_{index}")

  return units.Concat(lambda: [make_branch(*each) for each in enumerate(row.branches())], name=name)


def _make_inner(
  row: spec.Conv | spec.Pool,
  architecture: spec.Architecture,
  owner: str,
  temporal_padding: str,
  make_convolution: Callable[..., units.Unit],
  *,
  is_last: bool,
) -> units.Unit:
  """The unit of a row that stands in the one named `owner`, or is it; `is_last` if nothing follows in its branch."""
  name = spec.endpoint_name(row, architecture)
  kernel = (spec.temporal_kernel(row, architecture, owner), row.kernel, row.kernel)
  stride = (architecture.strides.get(row.name, 1) if row.name == owner else 1, row.stride, row.stride)
  padding: units.Padding = "SAME"
  if architecture.symmetric_padding:
    padding = tuple((extent - 1) // 2 for extent in kernel)
  if isinstance(row, spec.Pool):
    return units.MaxPool3D(kernel, stride, padding=padding, name=name)
  return make_convolution(
      row, architecture, owner, is_last=is_last, kernel=kernel, stride=stride, padding=padding,
      temporal_padding=temporal_padding, batch_norm={"with_scale": architecture.batch_norm_scale}, name=name,
  )  # fmt: skip


MODELS: Mapping[str, base.Entry] = {
  "i3d": base.Entry(
    title="Inflated 3D ConvNet; streams are trained apart",
    constructor=InceptionI3d,
    streams=("rgb", "flow"),
    options=("average_space",),
    first_unit="Conv3d_1a_7x7",
    trunk="",
    training={"num_frames": 64, "frame_stride": 1, **base.FULL_SIZE},
    test={"protocol": "release", "max_frames": 250, "min_frames": 9},
    parameters={"rgb": 12_689_984, "flow": 12_668_032},
    giga_multiply_adds={"rgb": 111.15, "flow": 102.34},
    accuracies={
      "scratch": {"rgb": 68.4, "flow": 61.5, "rgb+flow": 71.6},
      "imagenet": {"rgb": 71.1, "flow": 63.4, "rgb+flow": 74.2},
    },
    source=base.TABLE_3,
  ),
  "inception_v1": base.Entry(
    title="Inception-v1 with batch norm on every frame by itself; what the others start from",
    constructor=InceptionV1,
    streams=("rgb", "flow"),
    options=("average_space",),
    first_unit="Conv2d_1a_7x7",
    trunk="",
    training={"num_frames": 1, "frame_stride": 1, **base.FULL_SIZE},
    test={"protocol": "clips", "num_clips": 25},
    parameters={"rgb": 6_002_624, "flow": 5_999_488},
    giga_multiply_adds={"rgb": 1.50, "flow": 1.46},
    accuracies={},
    source="tensorflow/models, research/slim/nets/inception_v1.py",
  ),
}
