"""The residual family as data: rows, temporal tables and the arithmetic over them. Imports no TensorFlow.

A network of the family is the *rows* of ResNet-18, -34 or -50 (space and channels, written once; arXiv 1512.03385, with
torchvision's stride on the 3x3 convolutions) combined with an *architecture*: which of them get a temporal kernel or
stride, whether 3D convolutions are factorised, and what stands between blocks. Names, shapes and counts are loops over
the two. All padding is symmetric, (kernel - 1) / 2 on both sides, as in PyTorch.

Sources: torchvision models/video/resnet.py (R3D, MC3, R(2+1)D-18); facebookresearch/VMZ c2/lib/models (rMC3 and
R(2+1)D-34); facebookresearch/SlowFast configs/Kinetics and pytorchvideo models/hub/resnet.py (I3D 8x8, C2D, non-local);
open-mmlab/mmaction2 configs/_base_/models/i3d_r50.py and backbones/resnet3d.py (I3D 32x2); Tushar-N/pytorch-resnet3d
models/resnet.py (Caffe2's I3D 32x2, which facebookresearch/video-nonlocal-net has published weights of);
mit-han-lab/temporal-shift-module ops/temporal_shift.py (TSM).
"""

from collections.abc import Iterator, Mapping
import dataclasses
import types
from typing import Any

from i3d_tf.models import inception_spec

Triple = inception_spec.Triple
LOGITS = inception_spec.LOGITS
SHORTCUT = "downsample"
_POINT = (1, 1, 1)
# Widths of the four stages; from the second on each halves height and width.
_WIDTHS = (64, 128, 256, 512)
NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_EXPANSION = 4  # of a bottleneck: what its output is wider than its 3x3 convolution
_STEM_WIDTH = 64
_STEM_MIDDLE = 45  # of R(2+1)D; not by the rule of `middle_width`


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A member of the family.

  Attributes:
    depth: 18 or 34 (blocks of two 3x3 convolutions) or 50 (bottlenecks).
    stem: temporal kernel and stride of the first convolution.
    pool: temporal stride of the 1x3x3 max pool after it; None: there is no pool.
    pool_is_whole: that pool is 2x3x3 and has no padding.
    halves_time: a 2x1x1 max pool follows the first stage.
    kernels: temporal kernels of each stage's blocks, repeated until there are enough: of all 3x3 convolutions of a
      plain block, and of the first 1x1 convolution of a bottleneck.
    strides: temporal strides of the stages, of their first blocks.
    factorised: convolutions with a temporal kernel are one in space, batch norm, ReLU, and one in time.
    same_middle: the second convolution of a factorised block has the first one's middle width.
    epsilon: of batch norm.
    zero_last_scale: the scale of each branch's last batch norm starts at 0, so that a block at first passes on its
      input.
    non_local: the blocks of each stage, counted from 0, that a non-local block follows, and its mode.
    shift: temporal shift before the first convolution of each branch moves every so manyth of the channels, twice.
    rgb_mean, rgb_std: of RGB in [0, 1], what published weights were trained with.
  """

  depth: int
  stem: tuple[int, int] = (1, 1)
  pool: int | None = None
  pool_is_whole: bool = False
  halves_time: bool = False
  kernels: tuple[tuple[int, ...], ...] = ((1,), (1,), (1,), (1,))
  strides: tuple[int, int, int, int] = (1, 1, 1, 1)
  factorised: bool = False
  same_middle: bool = False
  epsilon: float = 1e-5
  zero_last_scale: bool = False
  non_local: tuple[tuple[int, ...], ...] = ((), (), (), ())
  non_local_mode: str = "softmax"
  shift: int | None = None
  rgb_mean: float | tuple[float, float, float] = (0.485, 0.456, 0.406)
  rgb_std: float | tuple[float, float, float] = (0.229, 0.224, 0.225)


_THREE = ((3,), (3,), (3,), (3,))
_I3D_KERNELS = ((3,), (3, 1), (3, 1), (1, 3))
_KINETICS_RGB = inception_spec.TORCHVISION_RGB
_SLOWFAST: Mapping[str, Any] = {
  "pool": 1, "halves_time": True, "zero_last_scale": True, "rgb_mean": 0.45, "rgb_std": 0.225,
}  # fmt: skip
_CAFFE2: Mapping[str, Any] = {
  "stem": (5, 2), "pool": 2, "pool_is_whole": True, "halves_time": True, "kernels": _I3D_KERNELS,
  "zero_last_scale": True, "rgb_mean": 0.45, "rgb_std": 0.225,
}  # fmt: skip
_FIVE_BLOCKS = ((), (1, 3), (1, 3, 5), ())

ARCHITECTURES: Mapping[str, Architecture] = types.MappingProxyType(
  {
    "r3d_18": Architecture(18, stem=(3, 1), kernels=_THREE, strides=(1, 2, 2, 2), **_KINETICS_RGB),
    "mc3_18": Architecture(18, stem=(3, 1), kernels=((3,), (1,), (1,), (1,)), **_KINETICS_RGB),
    # In time from the third group of layers on, the stem being the first.
    "rmc3_18": Architecture(18, kernels=((1,), (3,), (3,), (3,)), strides=(1, 2, 2, 2), epsilon=1e-3, **_KINETICS_RGB),
    "r2plus1d_18": Architecture(
      18, stem=(3, 1), kernels=_THREE, strides=(1, 2, 2, 2), factorised=True, same_middle=True, **_KINETICS_RGB
    ),
    "r2plus1d_34": Architecture(
      34, stem=(3, 1), kernels=_THREE, strides=(1, 2, 2, 2), factorised=True, epsilon=1e-3, **_KINETICS_RGB
    ),
    "resnet_50": Architecture(50, pool=1),
    "c2d_r50": Architecture(50, **_SLOWFAST),
    "i3d_r50": Architecture(50, stem=(5, 1), kernels=_I3D_KERNELS, **_SLOWFAST),
    "i3d_r50_non_local": Architecture(50, stem=(5, 1), kernels=_I3D_KERNELS, non_local=_FIVE_BLOCKS, **_SLOWFAST),
    "i3d_r50_32x2": Architecture(50, stem=(5, 2), pool=2, halves_time=True, kernels=_I3D_KERNELS),
    "i3d_r50_caffe2": Architecture(50, **_CAFFE2),
    "i3d_r50_caffe2_non_local": Architecture(50, non_local=_FIVE_BLOCKS, **_CAFFE2),
    "tsm_r50": Architecture(50, pool=1, shift=8),
    "tsn_r50": Architecture(50, pool=1),
  }
)


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution with batch norm: kernel and stride over (time, height, width).

  Attributes:
    middle: channels between its parts in space and in time, of which it then consists; None: it is one.
    relu: whether one follows.
  """

  name: str
  kernel: Triple
  stride: Triple
  channels: int
  middle: int | None = None
  relu: bool = True
  zero_scale: bool = False

  @property
  def padding(self) -> Triple:
    """On both sides of (time, height, width)."""
    return _padding(self.kernel)

  def parts(self) -> tuple["Conv", ...]:
    """Returns the convolution itself, or its parts in space and in time."""
    if self.middle is None:
      return (self,)
    (kernel_t, *kernel), (stride_t, *stride) = self.kernel, self.stride
    return (
      Conv("spatial", (1, *kernel), (1, *stride), self.middle),
      Conv("temporal", (kernel_t, 1, 1), (stride_t, 1, 1), self.channels, relu=self.relu, zero_scale=self.zero_scale),
    )


@dataclasses.dataclass(frozen=True)
class Pool:
  """A max pool.

  Attributes:
    is_padded: half of the kernel on both sides; else it has no padding.
  """

  name: str
  kernel: Triple
  stride: Triple
  is_padded: bool = True

  @property
  def padding(self) -> Triple:
    """On both sides of (time, height, width)."""
    return _padding(self.kernel) if self.is_padded else (0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Block:
  """A residual block; without a `shortcut` its input itself is added."""

  name: str
  branch: tuple[Conv, ...]
  shortcut: Conv | None


@dataclasses.dataclass(frozen=True)
class NonLocal:
  """A non-local block."""

  name: str
  channels: int


Row = Conv | Pool | Block | NonLocal


def _padding(kernel: Triple) -> Triple:
  return tuple((extent - 1) // 2 for extent in kernel)


def middle_width(in_channels: int, channels: int) -> int:
  """Returns the channels between the parts of a factorised 3x3x3 convolution, which keep its number of weights.

  Paper, arXiv 1711.11248, section 3.5: floor(27 Cin Cout / (9 Cin + 3 Cout)).

  Args:
    in_channels: Cin.
    channels: Cout.
  """
  return 27 * in_channels * channels // (9 * in_channels + 3 * channels)


def rows(architecture: Architecture, *, width_multiplier: float = 1.0) -> Iterator[Row]:
  """Yields the rows of the trunk in order.

  Args:
    architecture: of the network.
    width_multiplier: of every width, which is rounded, at least 4 (small networks for tests).

  Yields:
    The rows.
  """
  scale = lambda channels: max(4, round(channels * width_multiplier))
  kernel, stride = architecture.stem
  middle = scale(_STEM_MIDDLE) if architecture.factorised else None
  yield Conv("stem", (kernel, 7, 7), (stride, 2, 2), scale(_STEM_WIDTH), middle)
  if architecture.pool is not None:
    is_whole = architecture.pool_is_whole
    yield Pool("pool1", (2 if is_whole else 1, 3, 3), (architecture.pool, 2, 2), not is_whole)
  channels = scale(_STEM_WIDTH)
  for stage, num_blocks in enumerate(NUM_BLOCKS[architecture.depth]):
    for index in range(num_blocks):
      block = _block(architecture, stage, index, channels, scale(_WIDTHS[stage]))
      channels = block.branch[-1].channels
      yield block
      if index in architecture.non_local[stage]:
        yield NonLocal(f"{block.name}_non_local", channels)
    if stage == 0 and architecture.halves_time:
      yield Pool("pool2", (2, 1, 1), (2, 1, 1))


def _block(architecture: Architecture, stage: int, index: int, in_channels: int, width: int) -> Block:
  is_first = index == 0
  kernels = architecture.kernels[stage]
  time, space = (architecture.strides[stage], 2 if stage else 1) if is_first else (1, 1)
  make = _bottleneck if architecture.depth >= 50 else _plain
  branch = make(architecture, kernels[index % len(kernels)], (time, space, space), in_channels, width)
  branch[-1] = dataclasses.replace(branch[-1], relu=False, zero_scale=architecture.zero_last_scale)
  channels = branch[-1].channels
  has_shortcut = is_first and ((time, space) != (1, 1) or channels != in_channels)
  shortcut = Conv(SHORTCUT, _POINT, (time, space, space), channels, relu=False) if has_shortcut else None
  return Block(f"layer{stage + 1}_{index}", tuple(branch), shortcut)


def _plain(architecture: Architecture, kernel: int, stride: Triple, in_channels: int, width: int) -> list[Conv]:
  first = second = None
  if architecture.factorised and kernel > 1:
    first = middle_width(in_channels, width)
    second = first if architecture.same_middle else middle_width(width, width)
  return [
    Conv("conv1", (kernel, 3, 3), stride, width, first),
    Conv("conv2", (kernel, 3, 3), _POINT, width, second),
  ]


def _bottleneck(architecture: Architecture, kernel: int, stride: Triple, in_channels: int, width: int) -> list[Conv]:
  del architecture, in_channels
  return [
    Conv("conv1", (kernel, 1, 1), _POINT, width),
    Conv("conv2", (1, 3, 3), stride, width),
    Conv("conv3", _POINT, _POINT, _EXPANSION * width),
  ]


def units(
  architecture: Architecture, *, in_channels: int = 3, num_classes: int = 400, width_multiplier: float = 1.0
) -> Iterator[inception_spec.Unit]:
  """Yields every convolution in order, the classifier last.

  Args:
    architecture: of the network.
    in_channels: of the clip.
    num_classes: number of logits.
    width_multiplier: see `rows`.

  Yields:
    The convolutions.
  """
  for row in rows(architecture, width_multiplier=width_multiplier):
    if isinstance(row, Conv):
      yield from _parts("", row, row.name, in_channels)
      in_channels = row.channels
    elif isinstance(row, NonLocal):
      yield from _non_local(row, architecture.non_local_mode)
    elif isinstance(row, Block):
      channels = in_channels
      for conv in row.branch:
        yield from _parts(f"{row.name}/", conv, row.name, channels)
        channels = conv.channels
      if row.shortcut is not None:
        yield from _parts(f"{row.name}/", row.shortcut, row.name, in_channels)
      in_channels = channels
  yield inception_spec.Unit(LOGITS, LOGITS, _POINT, in_channels, num_classes, batch_norm=False)


def _parts(path: str, conv: Conv, endpoint: str, in_channels: int) -> Iterator[inception_spec.Unit]:
  for part in conv.parts():
    name = path + conv.name if part is conv else f"{path}{conv.name}/{part.name}"
    yield inception_spec.Unit(endpoint, name, part.kernel, in_channels, part.channels)
    in_channels = part.channels


def _non_local(row: NonLocal, mode: str) -> Iterator[inception_spec.Unit]:
  inner = max(1, row.channels // 2)
  for name in ("g",) if mode == "gaussian" else ("theta", "phi", "g"):
    yield inception_spec.Unit(row.name, f"{row.name}/{name}", _POINT, row.channels, inner, batch_norm=False)
  yield inception_spec.Unit(row.name, f"{row.name}/out", _POINT, inner, row.channels)


def variable_shapes(architecture: Architecture, **sizes: Any) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of all variables by name.

  Args:
    architecture: of the network.
    **sizes: `in_channels`, `num_classes` and `width_multiplier` of `units`.
  """
  shapes: dict[str, tuple[int, ...]] = {}
  for unit in units(architecture, **sizes):
    shapes[f"{unit.name}/conv_3d/w"] = (*unit.kernel, unit.in_channels, unit.out_channels)
    names = ("beta", "gamma", "moving_mean", "moving_variance") if unit.batch_norm else ()
    shapes |= {f"{unit.name}/batch_norm/{name}": (unit.out_channels,) for name in names}
    if not unit.batch_norm:
      shapes[f"{unit.name}/conv_3d/b"] = (unit.out_channels,)
  return shapes
