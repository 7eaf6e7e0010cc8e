"""I3D's nearest relatives: less of it in three dimensions, separable convolutions, gates (arXiv 1712.04851).

S3D comes in two dialects: that of tensorflow/models research/slim/nets/s3dg.py, from which and i3d_utils.py initial
values are taken, and that of torchvision and of kylemin/S3D.

Where the paper is silent, we choose: temporal kernels of the bottom-heavy network end, and those of the top-heavy one
begin, at the third of the four max pools, in the middle of the trunk; those of the fast S3D begin with its last two
blocks. The paper's accuracies are given as others quote them.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

import numpy as np
import sonnet as snt
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import inception
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import units

FIRST_KERNELS = (1, 3, 5, 7)
_STEM = spec.ROWS[0].name


def mixed_depth(*, first_3d: str | None = None, last_3d: str | None = None) -> spec.Architecture:
  """Returns I3D with temporal kernels in a part only; elsewhere convolutions are 1 x k x k, pools and strides stay.

  Args:
    first_3d: endpoint at which temporal kernels begin: a top-heavy network. None: at the first; 'Logits': nowhere.
    last_3d: endpoint with which they end: a bottom-heavy network. None: with the last.

  Raises:
    ValueError: for an endpoint that I3D does not have, or an end that comes before the beginning.
  """
  names = [*(spec.endpoint_name(row) for row in spec.ROWS), spec.LOGITS]
  first, last = _index(names, first_3d, 0), _index(names, last_3d, len(names) - 1)
  if last < first:
    raise ValueError(f"last_3d is {last_3d}, which comes before first_3d, {first_3d}")
  return dataclasses.replace(spec.I3D, flat=frozenset(_outside(first, last)))


# Every frame by itself, except for the pools.
I2D = dataclasses.replace(spec.I3D, flat=frozenset(row.name for row in spec.ROWS))


def s3d(
  *,
  first_kernel: int = 3,
  separable_stem: bool = False,
  first_3d: str = "Conv2d_2c_3x3",
  first_gate: str | None = None,
) -> spec.Architecture:
  """Returns S3D in the dialect of slim: a temporal convolution has a bias, no batch norm, and starts as the identity.

  Args:
    first_kernel: temporal extent of the first convolution, one of `FIRST_KERNELS`; 7 in the paper, 3 in slim.
    separable_stem: the first convolution, too, is one in space and one in time; slim has none of that kind.
    first_3d: endpoint, beyond the first, at which temporal kernels begin: the later, the lighter. 'Logits': nowhere.
    first_gate: endpoint at which gates begin, 'Conv2d_2c_3x3' in S3D-G; None: there are none.

  Raises:
    ValueError: for another kernel, or an endpoint that S3D does not have.
  """
  if first_kernel not in FIRST_KERNELS:
    raise ValueError(f"first_kernel is {first_kernel}; allowed are {', '.join(map(str, FIRST_KERNELS))}")
  plain = spec.Architecture(
    kernels={**spec.I3D.kernels, _STEM: first_kernel},
    strides=spec.I3D.strides,
    regular_names=True,
    conv_prefix="Conv2d",
    pool_prefix="MaxPool",
  )
  names = [*(spec.endpoint_name(row, plain) for row in spec.ROWS), spec.LOGITS]
  last = len(names) - 1
  gated = () if first_gate is None else _convolutions(spec.ROWS[_index(names, first_gate, 0) :])
  return dataclasses.replace(
    plain,
    flat=frozenset(_outside(_index(names, first_3d, 0), last)) - {_STEM},
    separable=frozenset(_convolutions(spec.ROWS)) | ({_STEM} if separable_stem else set()),
    gated=frozenset(gated),
  )


def s3d_torchvision(*, gated: bool = False, normalizes: bool = True) -> spec.Architecture:
  """Returns S3D in the dialect of torchvision and kylemin/S3D.

  Both halves of every separable convolution, of which the first is one, have batch norm with a gamma; padding is the
  same on both sides.

  Args:
    gated: with the gates of S3D-G, which neither of the two has.
    normalizes: normalize pixels as torchvision does; kylemin/S3D takes them in [-1, 1].
  """
  slim = s3d(first_kernel=7, separable_stem=True, first_gate="Conv2d_2c_3x3" if gated else None)
  return dataclasses.replace(
    slim,
    temporal_batch_norm=True,
    batch_norm_scale=True,
    symmetric_padding=True,
    **(spec.TORCHVISION_RGB if normalizes else {}),
  )


def _index(names: list[str], name: str | None, default: int) -> int:
  if name is None:
    return default
  if name not in names:
    raise ValueError(f"there is no endpoint {name!r}; allowed are {', '.join(names)}")
  return names.index(name)


def _convolutions(rows: Iterable[spec.Row]) -> list[str]:
  """Names of the rows that have a convolution wider than 1x1, but for the first row."""
  wide = lambda row: isinstance(row, spec.Mixed) or (isinstance(row, spec.Conv) and row.kernel > 1)
  return [row.name for row in rows if wide(row) and row.name != _STEM]


def _outside(first: int, last: int) -> list[str]:
  return [row.name for index, row in enumerate(spec.ROWS) if not first <= index <= last]


_GATE_DEVIATION = 0.01


class ExtendedUnit3D(units.Unit3D):
  """A unit, and under its name what follows it: the temporal half of its convolution, a gate."""

  def __init__(
    self,
    channels: int,
    kernel: units.Triple,
    stride: units.Triple = (1, 1, 1),
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
    of_space: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
    of_time: dict[str, Any] = {}
    if is_separable:
      of_space, of_time = _halves(kernel, stride, padding)
    super().__init__(channels, name=name, **of_space, **options)
    self._followers: list[units.Unit] = []
    if is_separable:
      if not temporal_batch_norm:
        of_time["initializer"] = CenterIdentity()
      self.temporal = units.Unit3D(
        channels, use_batch_norm=temporal_batch_norm, name=spec.TEMPORAL_NAME, **of_time, **options
      )
      self._followers.append(self.temporal)
    if is_gated:
      self.gate = Gate(channels, name=spec.GATE_NAME)
      self._followers.append(self.gate)

  def _build(self, in_channels: int) -> int:
    return units.build_all(self._followers, super()._build(in_channels))

  def _time_layers(self) -> units.Layers:
    return super()._time_layers() + units.time_layers_of(self._followers)

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    statistics = None if self.frozen else statistics
    outputs = super().__call__(inputs, statistics)
    for follower in self._followers:
      outputs = follower(outputs, statistics)
    return outputs


class Gate(units.Unit):
  """Multiplies every channel by a weight of the clip, sigmoid(W mean) in float32; the mean is over all positions."""

  def __init__(self, channels: int, *, name: str):
    """Describes the gate of `channels` channels."""
    super().__init__(name=name)
    initializer = snt.initializers.TruncatedNormal(stddev=_GATE_DEVIATION)
    self.conv_3d = units.Conv3D(channels, (1, 1, 1), initializer=initializer)

  def _build(self, in_channels: int) -> int:
    self.conv_3d.build(in_channels)
    return in_channels

  def _time_layers(self) -> units.Layers:
    raise errors.I3dError("a gate before it averages over the whole clip")

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    mean = tf.reduce_mean(tf.cast(inputs, tf.float32), [1, 2, 3], keepdims=True)
    return inputs * tf.cast(tf.sigmoid(self.conv_3d(mean)), inputs.dtype)


class CenterIdentity(snt.initializers.Initializer):
  """For kernels `[kt, 1, 1, C, C]`: each channel of a step is that channel of the same step."""

  def __call__(self, shape, dtype) -> tf.Tensor:
    kernel = np.zeros(shape)
    kernel[(shape[0] - 1) // 2, 0, 0] = np.eye(shape[-1])
    return tf.constant(kernel, dtype)


def _halves(
  kernel: units.Triple, stride: units.Triple, padding: units.Padding
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Kernel, stride and padding of the half in space, and of that in time."""
  in_space, in_time = (padding, padding) if isinstance(padding, str) else ((0, *padding[1:]), (padding[0], 0, 0))
  return (
    {"kernel": (1, *kernel[1:]), "stride": (1, *stride[1:]), "padding": in_space},
    {"kernel": (kernel[0], 1, 1), "stride": (stride[0], 1, 1), "padding": in_time},
  )


def _convolution(
  row: spec.Conv, architecture: spec.Architecture, owner: str, *, is_last: bool, **options: Any
) -> units.Unit:
  """As `inception.plain_convolution`, with the temporal halves and gates of the architecture."""
  is_separable = spec.is_separable(row, architecture, owner)
  is_gated = is_last and owner in architecture.gated
  if not is_separable and not is_gated:
    return units.Unit3D(row.channels, **options)
  return ExtendedUnit3D(
      row.channels, is_separable=is_separable, is_gated=is_gated,
      temporal_batch_norm=architecture.temporal_batch_norm, **options,
  )  # fmt: skip


class S3D(inception.Inception):
  """Inception-v1 whose temporal convolutions are units of their own, behind the spatial ones; with gates S3D-G.

  The network of "Rethinking Spatiotemporal Feature Learning" (arXiv 1712.04851) as tensorflow/models
  research/slim/nets/s3dg.py defines it, with its endpoint names and defaults: a first kernel 3 x 7 x 7, and temporal
  kernels from Conv2d_2c_3x3 on, which start as the identity. `s3d` makes architectures with other first kernels,
  temporal kernels in fewer rows, and gates; `s3d_torchvision` that of torchvision.

  It takes what `InceptionI3d` takes, and has its head.
  """

  ARCHITECTURE = s3d()
  make_convolution = staticmethod(_convolution)


_PAPER = "Xie et al., arXiv 1712.04851"
_SLIM = f"{_PAPER}, as tensorflow/models research/slim/nets/s3dg.py has it"
_GATES = "Conv2d_2c_3x3"

# As I3D; and as torchvision measures, 128 frames at 15 frames per second, for which every other of 25 stands.
_LIKE_I3D: Mapping[str, Any] = {
  "streams": ("rgb", "flow"),
  "options": ("average_space",),
  "first_unit": "Conv3d_1a_7x7",
  "trunk": "",
  "training": {"num_frames": 64, "frame_stride": 1, **base.FULL_SIZE},
  "test": {"protocol": "release", "max_frames": 250, "min_frames": 9},
}
_SLIM_S3D: Mapping[str, Any] = {**_LIKE_I3D, "first_unit": "Conv2d_1a_7x7"}
_LIKE_TORCHVISION: Mapping[str, Any] = {
  **_SLIM_S3D,
  "streams": ("rgb",),
  "training": {"num_frames": 128, "frame_stride": 2, **base.FULL_SIZE},
  "test": {"protocol": "clips", "num_clips": 1},
}
MODELS: Mapping[str, base.Entry] = {
  "i2d": base.Entry(
    title="I3D without temporal kernels, but for its pools",
    constructor=inception.InceptionI3d,
    arguments={"architecture": I2D},
    **_LIKE_I3D,
    parameters={"rgb": 6_002_624, "flow": 5_999_488},
    giga_multiply_adds={"rgb": 36.89, "flow": 35.63},
    accuracies={},
    source=_PAPER,
  ),
  "i3d_bottom_heavy": base.Entry(
    title="I3D whose temporal kernels end with Mixed_3c",
    constructor=inception.InceptionI3d,
    arguments={"architecture": mixed_depth(last_3d="Mixed_3c")},
    **_LIKE_I3D,
    parameters={"rgb": 7_008_320, "flow": 6_986_368},
    giga_multiply_adds={"rgb": 100.01, "flow": 91.20},
    accuracies={},
    source=_PAPER,
  ),
  "i3d_top_heavy": base.Entry(
    title="I3D whose temporal kernels begin with Mixed_4b",
    constructor=inception.InceptionI3d,
    arguments={"architecture": mixed_depth(first_3d="Mixed_4b")},
    **_LIKE_I3D,
    parameters={"rgb": 11_684_288, "flow": 11_681_152},
    giga_multiply_adds={"rgb": 48.03, "flow": 46.77},
    accuracies={},
    source=_PAPER,
  ),
  "s3d": base.Entry(
    title="S3D: I3D with separable convolutions, in slim's dialect",
    constructor=S3D,
    **_SLIM_S3D,
    parameters={"rgb": 8_299_520, "flow": 8_290_112},
    giga_multiply_adds={"rgb": 64.18, "flow": 60.41},
    accuracies={"unknown": {"rgb": 72.2}},
    source=f"{_SLIM}; accuracy: the authors', by the README of kylemin/S3D",
  ),
  "s3d_g": base.Entry(
    title="S3D-G: S3D with gates, in slim's dialect",
    constructor=S3D,
    arguments={"architecture": s3d(first_gate=_GATES)},
    **_SLIM_S3D,
    parameters={"rgb": 9_518_848, "flow": 9_509_440},
    giga_multiply_adds={"rgb": 64.18, "flow": 60.41},
    accuracies={"unknown": {"rgb": 74.7}},
    source=f"{_SLIM}; accuracy: the authors', as Bertasius et al. quote it (arXiv 2102.05095)",
  ),
  "fast_s3d": base.Entry(
    title="Fast S3D: S3D whose temporal kernels begin with Mixed_5b",
    constructor=S3D,
    arguments={"architecture": s3d(first_kernel=1, first_3d="Mixed_5b")},
    **_SLIM_S3D,
    parameters={"rgb": 6_851_456, "flow": 6_848_320},
    giga_multiply_adds={"rgb": 37.22, "flow": 35.96},
    accuracies={},
    source=_SLIM,
  ),
  "s3d_torchvision": base.Entry(
    title="S3D in torchvision's dialect: the first convolution separable, two batch norms, symmetric padding",
    constructor=S3D,
    arguments={"architecture": s3d_torchvision()},
    **_LIKE_TORCHVISION,
    parameters={"rgb": 8_320_048},
    giga_multiply_adds={"rgb": 143.83},
    accuracies={"scratch": {"rgb": 68.4}},
    source="torchvision/models/video/s3d.py; accuracy: of its weights KINETICS400_V1",
  ),
  "s3d_kylemin": base.Entry(
    title="S3D as in torchvision, with pixels in [-1, 1]",
    constructor=S3D,
    arguments={"architecture": s3d_torchvision(normalizes=False)},
    **_LIKE_TORCHVISION,
    parameters={"rgb": 8_320_048},
    giga_multiply_adds={"rgb": 143.83},
    accuracies={},
    source="kylemin/S3D model.py and main.py, whose README says 72.1 %",
  ),
  "s3d_g_torchvision": base.Entry(
    title="S3D-G in torchvision's dialect, of which nobody publishes weights",
    constructor=S3D,
    arguments={"architecture": s3d_torchvision(gated=True)},
    **_LIKE_TORCHVISION,
    parameters={"rgb": 9_539_376},
    giga_multiply_adds={"rgb": 143.83},
    accuracies={},
    source=f"{_PAPER}, and torchvision/models/video/s3d.py",
  ),
}
