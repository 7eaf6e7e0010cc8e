"""The Inception-v1 family as data: rows, temporal policies and the arithmetic over them. Imports no TensorFlow.

A network of the family is the *rows* of Inception-v1 (space and channels, written once) combined with an *architecture*
(which rows get a temporal kernel or stride, and what things are called). Endpoint names, variable shapes, parameter and
multiply-add counts are loops over the two.

Sources: google-deepmind/kinetics-i3d i3d.py at 0667e889 for names, kernels, strides and channels; the tests compare
every weight shape with the released checkpoints' manifests. Names and head of the 2D network: tensorflow/models
research/slim/nets/inception_v1.py. Architectures of other networks than these two are in `s3d`.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import types
from typing import Any, TypeAlias

from i3d_tf import errors
from i3d_tf.models import receptive_field

Triple: TypeAlias = tuple[int, ...]  # (time, height, width)


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution row: spatial `kernel` and `stride`, `channels` out."""

  name: str
  kernel: int
  stride: int
  channels: int


@dataclasses.dataclass(frozen=True)
class Pool:
  """A max-pooling row: spatial `kernel` and `stride`."""

  name: str
  kernel: int
  stride: int


@dataclasses.dataclass(frozen=True)
class Mixed:
  """An Inception block: channels out of each convolution of its four branches.

  `branch_1` and `branch_2` are (1x1 reduction, 3x3 convolution); `branch_3` is the 1x1 convolution
  after the 3x3 max pool. `branch_2_conv` carries the release's one irregular spelling (Mixed_5b).
  """

  name: str
  branch_0: int
  branch_1: tuple[int, int]
  branch_2: tuple[int, int]
  branch_3: int
  branch_2_conv: str = "0b_3x3"

  def branches(self) -> tuple[tuple[Conv | Pool, ...], ...]:
    """Returns the rows of the four branches, in the order of their concatenation."""
    return (
      (Conv("0a_1x1", 1, 1, self.branch_0),),
      (Conv("0a_1x1", 1, 1, self.branch_1[0]), Conv("0b_3x3", 3, 1, self.branch_1[1])),
      (Conv("0a_1x1", 1, 1, self.branch_2[0]), Conv(self.branch_2_conv, 3, 1, self.branch_2[1])),
      (Pool("0a_3x3", 3, 1), Conv("0b_1x1", 1, 1, self.branch_3)),
    )


Row: TypeAlias = Conv | Pool | Mixed

ROWS: tuple[Row, ...] = (
  Conv("1a_7x7", 7, 2, 64),
  Pool("2a_3x3", 3, 2),
  Conv("2b_1x1", 1, 1, 64),
  Conv("2c_3x3", 3, 1, 192),
  Pool("3a_3x3", 3, 2),
  Mixed("3b", 64, (96, 128), (16, 32), 32),
  Mixed("3c", 128, (128, 192), (32, 96), 64),
  Pool("4a_3x3", 3, 2),
  Mixed("4b", 192, (96, 208), (16, 48), 64),
  Mixed("4c", 160, (112, 224), (24, 64), 64),
  Mixed("4d", 128, (128, 256), (24, 64), 64),
  Mixed("4e", 112, (144, 288), (32, 64), 64),
  Mixed("4f", 256, (160, 320), (32, 128), 128),
  Pool("5a_2x2", 2, 2),
  Mixed("5b", 256, (160, 320), (32, 128), 128, branch_2_conv="0a_3x3"),
  Mixed("5c", 384, (192, 384), (48, 128), 128),
)

HEAD_CONV = "0c_1x1"
LOGITS = "Logits"
PREDICTIONS = "Predictions"
# Offered beside the release's endpoints, under names of ours.
POOLED_FEATURES = "PooledFeatures"
STEP_LOGITS = "StepLogits"


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A member of the family.

  The kernel of a Mixed row is that of its 3x3 convolutions and of its pool; its 1x1 convolutions
  never have one.

  Attributes:
    kernels, strides: temporal ones by row name; a row that is absent has 1.
    flat: rows whose convolutions have no temporal kernel all the same; their pools keep theirs.
    separable: rows whose convolutions, where they have a temporal kernel, are two: one in space, one in time.
    gated: rows with a gate after the last convolution of each branch (of a Conv row: after it).
    temporal_batch_norm: the second halves of separable convolutions have batch norm; otherwise a bias.
    batch_norm_scale: batch norm has a gamma.
    symmetric_padding: as much padding before as after, (kernel - 1) // 2, as PyTorch has it; otherwise SAME.
    regular_names: no block spells a name in a way of its own.
    conv_prefix, pool_prefix: what the names of convolutions and max pools begin with.
    head_pool: (time, height, width) of the head's average pool, VALID, stride 1.
    rgb_mean, rgb_std: see `base.Network`.
  """

  kernels: Mapping[str, int] = dataclasses.field(default_factory=dict)
  strides: Mapping[str, int] = dataclasses.field(default_factory=dict)
  flat: frozenset[str] = frozenset()
  separable: frozenset[str] = frozenset()
  gated: frozenset[str] = frozenset()
  temporal_batch_norm: bool = False
  batch_norm_scale: bool = False
  symmetric_padding: bool = False
  regular_names: bool = False
  conv_prefix: str = "Conv3d"
  pool_prefix: str = "MaxPool3d"
  head_pool: Triple = (2, 7, 7)
  rgb_mean: tuple[float, float, float] | None = None
  rgb_std: tuple[float, float, float] | None = None

  def __post_init__(self):
    known = {row.name for row in ROWS}
    named = {*self.kernels, *self.strides, *self.flat, *self.separable, *self.gated}
    unknown = sorted(named - known)
    if unknown:
      raise ValueError(f"architecture names unknown rows {unknown}; allowed are {sorted(known)}")

  @property
  def rows(self) -> tuple[Row, ...]:
    """The rows as the architecture spells them."""
    if not self.regular_names:
      return ROWS
    regular = Mixed.branch_2_conv
    return tuple(dataclasses.replace(row, branch_2_conv=regular) if isinstance(row, Mixed) else row for row in ROWS)

  @property
  def head_conv(self) -> str:
    """The name of the classifier's convolution."""
    return f"{self.conv_prefix}_{HEAD_CONV}"

  @property
  def clip_limits(self) -> tuple[int, tuple[int, int]]:
    """The fewest frames, and the smallest and largest side, of which the head's pool makes a step and one place."""
    candidates = range(1, 512)
    sizes: dict[int, Triple] = {extent: (extent, extent, extent) for extent in candidates}
    for row in ROWS:
      sizes = {extent: output_size(size, row, self) for extent, size in sizes.items()}
    frames, side, _ = self.head_pool
    least = next(extent for extent in candidates if sizes[extent][0] >= frames)
    sides = [extent for extent in candidates if sizes[extent][1] == side]
    return least, (sides[0], sides[-1])


I3D = Architecture(
  kernels={
    "1a_7x7": 7,
    "2c_3x3": 3,
    "4a_3x3": 3,
    "5a_2x2": 2,
    **{row.name: 3 for row in ROWS if isinstance(row, Mixed)},
  },
  strides={"1a_7x7": 2, "4a_3x3": 2, "5a_2x2": 2},
)
# torchvision's transforms for its video networks.
TORCHVISION_RGB: Mapping[str, Any] = types.MappingProxyType(
  {"rgb_mean": (0.43216, 0.394666, 0.37645), "rgb_std": (0.22803, 0.22145, 0.216989)}
)
# Every frame by itself.
INCEPTION_V1 = Architecture(conv_prefix="Conv2d", pool_prefix="MaxPool", head_pool=(1, 7, 7))


def endpoint_name(row: Row, architecture: Architecture = I3D) -> str:
  """Returns the release's, or slim's, name of a row's output, for example 'Mixed_3b'.

  Args:
    row: the row.
    architecture: of the network.
  """
  prefix = {Conv: architecture.conv_prefix, Pool: architecture.pool_prefix, Mixed: "Mixed"}[type(row)]
  return f"{prefix}_{row.name}"


def endpoints(architecture: Architecture = I3D) -> tuple[str, ...]:
  """Returns the names of all endpoints of the release, or of slim, in order.

  Args:
    architecture: of the network.
  """
  return (*(endpoint_name(row, architecture) for row in ROWS), LOGITS, PREDICTIONS)


ENDPOINTS: tuple[str, ...] = endpoints()


def scale_channels(row: Row, width_multiplier: float) -> Row:
  """Returns a row with every width multiplied and rounded, at least 4 (small networks for tests).

  Args:
    row: the row.
    width_multiplier: the factor.
  """
  if isinstance(row, Pool) or width_multiplier == 1:
    return row
  scale = lambda value: max(4, round(value * width_multiplier))
  if isinstance(row, Conv):
    return dataclasses.replace(row, channels=scale(row.channels))
  return dataclasses.replace(
    row,
    branch_0=scale(row.branch_0),
    branch_1=tuple(map(scale, row.branch_1)),
    branch_2=tuple(map(scale, row.branch_2)),
    branch_3=scale(row.branch_3),
  )


def out_channels(row: Row, in_channels: int) -> int:
  """Returns the number of channels of a row's output.

  Args:
    row: the row.
    in_channels: of its input.
  """
  if isinstance(row, Pool):
    return in_channels
  if isinstance(row, Conv):
    return row.channels
  return row.branch_0 + row.branch_1[1] + row.branch_2[1] + row.branch_3


PARTS = WHOLE, SPATIAL, TEMPORAL, GATE = "whole", "spatial", "temporal", "gate"
TEMPORAL_NAME, GATE_NAME = "temporal", "self_gating"  # what a unit calls them, as slim's s3dg.py does


@dataclasses.dataclass(frozen=True)
class Unit:
  """One convolution of the network, located and sized.

  Attributes:
    endpoint: that it is a part of.
    name: with those of the endpoint and of the branch.
    kernel: (time, height, width).
    in_channels, out_channels: of it.
    batch_norm: whether it has batch norm; what has none has a bias, but for gates.
    part: one of `PARTS`: all of what its row asks for, the spatial or temporal half of it, or a gate behind it.
  """

  endpoint: str
  name: str
  kernel: Triple
  in_channels: int
  out_channels: int
  batch_norm: bool = True
  part: str = WHOLE

  @property
  def num_weights(self) -> int:
    """Number of weights of the kernel."""
    return math.prod(self.kernel) * self.in_channels * self.out_channels


def temporal_kernel(row: Conv | Pool, architecture: Architecture, owner: str) -> int:
  """Returns the temporal kernel of a row, in steps.

  Args:
    row: the row.
    architecture: of the network.
    owner: name of the top-level row that it stands in, or is.
  """
  is_flat = row.kernel == 1 or (isinstance(row, Conv) and owner in architecture.flat)
  return 1 if is_flat else architecture.kernels.get(owner, 1)


def is_separable(row: Conv, architecture: Architecture, owner: str) -> bool:
  """Returns whether a convolution is one in space and one in time.

  Args:
    row: the convolution.
    architecture: of the network.
    owner: name of the top-level row that it stands in, or is.
  """
  return owner in architecture.separable and temporal_kernel(row, architecture, owner) > 1


def vectors(unit: Unit, architecture: Architecture) -> tuple[str, ...]:
  """Returns the names, without the unit's, of the variables that a unit has beside its kernel.

  Args:
    unit: the unit.
    architecture: of the network.
  """
  if not unit.batch_norm:
    return () if unit.part == GATE else ("conv_3d/b",)
  names = ("beta", *(("gamma",) if architecture.batch_norm_scale else ()), "moving_mean", "moving_variance")
  return tuple(f"batch_norm/{name}" for name in names)


def units(
  architecture: Architecture = I3D, *, in_channels: int = 3, num_classes: int = 400, width_multiplier: float = 1.0
) -> Iterator[Unit]:
  """Yields every convolution in order, the classifier of the head last.

  Args:
    architecture: of the network.
    in_channels: of the clip.
    num_classes: number of logits.
    width_multiplier: of every layer but the classifier.

  Yields:
    The convolutions.
  """
  for row in (scale_channels(row, width_multiplier) for row in architecture.rows):
    endpoint = endpoint_name(row, architecture)
    if isinstance(row, Mixed):
      for index, branch in enumerate(row.branches()):
        yield from _branch_units(branch, f"{endpoint}/Branch_{index}/", endpoint, row.name, architecture, in_channels)
    elif isinstance(row, Conv):
      yield from _branch_units((row,), "", endpoint, row.name, architecture, in_channels)
    in_channels = out_channels(row, in_channels)
  head = f"{LOGITS}/{architecture.head_conv}"
  yield Unit(LOGITS, head, (1, 1, 1), in_channels, num_classes, batch_norm=False)


def _branch_units(branch, path, endpoint, owner, architecture, in_channels) -> Iterator[Unit]:
  for row in branch:
    name = f"{path}{architecture.conv_prefix}_{row.name}"
    if isinstance(row, Conv):
      yield from _conv_units(row, name, endpoint, owner, architecture, in_channels)
    in_channels = out_channels(row, in_channels)
  if owner in architecture.gated:
    yield Unit(endpoint, f"{name}/{GATE_NAME}", (1, 1, 1), in_channels, in_channels, batch_norm=False, part=GATE)


def _conv_units(row, name, endpoint, owner, architecture, in_channels) -> Iterator[Unit]:
  steps, space = temporal_kernel(row, architecture, owner), (row.kernel, row.kernel)
  if not is_separable(row, architecture, owner):
    yield Unit(endpoint, name, (steps, *space), in_channels, row.channels)
    return
  yield Unit(endpoint, name, (1, *space), in_channels, row.channels, part=SPATIAL)
  name, has_norm = f"{name}/{TEMPORAL_NAME}", architecture.temporal_batch_norm
  yield Unit(endpoint, name, (steps, 1, 1), row.channels, row.channels, has_norm, TEMPORAL)


def variable_shapes(architecture: Architecture = I3D, **sizes: Any) -> dict[str, tuple[int, ...]]:
  """Returns all variables' shapes by the release's names without the stream's prefix; batch-norm vectors are (C,).

  Args:
    architecture: of the network.
    **sizes: `in_channels`, `num_classes` and `width_multiplier` of `units`.
  """
  shapes: dict[str, tuple[int, ...]] = {}
  for unit in units(architecture, **sizes):
    shapes[f"{unit.name}/conv_3d/w"] = (*unit.kernel, unit.in_channels, unit.out_channels)
    shapes |= {f"{unit.name}/{vector}": (unit.out_channels,) for vector in vectors(unit, architecture)}
  return shapes


def output_size(size: Triple, row: Row, architecture: Architecture = I3D) -> Triple:
  """Returns (frames, height, width) after a row: ceil(size / stride) if padding is SAME.

  Args:
    size: (frames, height, width) before the row.
    row: the row.
    architecture: of the network.
  """
  if isinstance(row, Mixed):
    return size
  strides = (architecture.strides.get(row.name, 1), row.stride, row.stride)
  kernels = (temporal_kernel(row, architecture, row.name), row.kernel, row.kernel)
  if architecture.symmetric_padding:
    size = tuple(extent + 2 * ((kernel - 1) // 2) - kernel + 1 for extent, kernel in zip(size, kernels, strict=True))
  return tuple(-(-extent // stride) for extent, stride in zip(size, strides, strict=True))


def time_layers(endpoint: str, architecture: Architecture = I3D) -> tuple[receptive_field.Layer, ...]:
  """Returns the layers along time that lead to an endpoint, from the clip on.

  A Mixed row is one layer, since each of its branches has one temporal kernel at most, and the widest counts.

  Args:
    endpoint: one of the rows, 'PooledFeatures' or 'StepLogits'.
    architecture: of the network.

  Raises:
    I3dError: for an endpoint that has no steps in time, or is unknown, or depends on the whole clip.
  """
  found = []
  for row in ROWS:
    if row.name in architecture.gated:
      raise errors.I3dError(f"{endpoint} cannot be computed in chunks: gates before it average over the whole clip")
    kernel = architecture.kernels.get(row.name, 1)
    if not isinstance(row, Mixed):
      kernel = temporal_kernel(row, architecture, row.name)
    padding = (kernel - 1) // 2 if architecture.symmetric_padding else receptive_field.SAME
    found.append(receptive_field.Layer(kernel, architecture.strides.get(row.name, 1), padding))
    if endpoint_name(row, architecture) == endpoint:
      return tuple(found)
  if endpoint in (POOLED_FEATURES, STEP_LOGITS):
    return (*found, receptive_field.Layer(architecture.head_pool[0], padding=0))
  names = (*(endpoint_name(row, architecture) for row in ROWS), POOLED_FEATURES, STEP_LOGITS)
  raise errors.I3dError(
    f"{endpoint} cannot be computed in chunks; take one of {', '.join(names)} (the mean of {STEP_LOGITS} over its "
    f"steps is {LOGITS})"
  )


def multiply_adds(size: Triple, architecture: Architecture = I3D, **sizes: Any) -> int:
  """Returns the number of multiply-adds of one clip.

  One multiply-add counts 1; taps on padding are counted; biases, batch norm and pools are not.

  Args:
    size: (frames, height, width) of the clip.
    architecture: of the network.
    **sizes: `in_channels`, `num_classes` and `width_multiplier` of `units`.
  """
  places: dict[tuple[str, str], Triple] = {}
  for row in architecture.rows:
    endpoint, (frames, _, _) = endpoint_name(row, architecture), size
    size = places[endpoint, WHOLE] = places[endpoint, TEMPORAL] = output_size(size, row, architecture)
    places[endpoint, SPATIAL] = (frames, *size[1:])
    places[endpoint, GATE] = (1, 1, 1)
  pairs = zip(size, architecture.head_pool, strict=True)
  places[LOGITS, WHOLE] = tuple(extent - kernel + 1 for extent, kernel in pairs)
  return sum(unit.num_weights * math.prod(places[unit.endpoint, unit.part]) for unit in units(architecture, **sizes))
