"""X3D as data: stages, and the rules for depths and widths (arXiv 2004.04730). Imports no TensorFlow.

Source: facebookresearch/SlowFast, slowfast/models (X3D, X3DStem, X3DTransform, SE, X3DHead) and configs/Kinetics/X3D_*.
"""

from collections.abc import Iterator
import dataclasses
import math

STRIDE = 32  # of space, from the clip to the last stage; time is never divided
STEM_WIDTH = 24  # 12, times the width factor 2 that all four networks have
STEM_STEPS = 5  # temporal kernel of the stem
LIN5_WIDTH = 2048
# Blocks at a depth factor of 1, and channels between blocks at a width factor of 2. Each stage halves height and width.
STAGES = ((1, 24), (2, 48), (5, 96), (3, 192))
_INNER = 2.25  # channels within a block, as a multiple of those between blocks
_SQUEEZE = 1 / 16
_DIVISOR = 8


@dataclasses.dataclass(frozen=True)
class Block:
  """A residual block: 1x1x1 to `inner` channels, 3x3x3 channel-wise, gate, swish, 1x1x1 to `channels`.

  Attributes:
    name: such as 'layer1_0', of stage and block.
    stride: of height and width in the 3x3x3 convolution, and in the shortcut, which there is if it is not 1.
    squeezed: channels between the two layers of the gate; None: there is no gate.
  """

  name: str
  channels: int
  inner: int
  stride: int
  squeezed: int | None


def blocks(depth_factor: float, *, width_multiplier: float = 1.0) -> Iterator[Block]:
  """The blocks in order: of each stage the depth times the factor, rounded up, of which every second has a gate.

  Args:
    depth_factor: 2.2 of XS, S and M; 5 of L.
    width_multiplier: multiplies the channels between blocks, rounded, at least 4 (small networks for tests).
  """
  for stage, (depth, width) in enumerate(STAGES, start=1):
    channels = max(4, round(width * width_multiplier))
    inner = inner_width(channels)
    for index in range(math.ceil(depth * depth_factor)):
      squeezed = None if index % 2 else round_width(inner * _SQUEEZE)
      yield Block(f"layer{stage}_{index}", channels, inner, 1 if index else 2, squeezed)


def inner_width(channels: int) -> int:
  """Channels within a block, and those of conv5 behind the last, rounded down."""
  return int(_INNER * channels)


def round_width(width: float) -> int:
  """The nearest multiple of 8, at least 8; the next one if that took away more than a tenth."""
  rounded = max(_DIVISOR, int(width + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
  return rounded + _DIVISOR if rounded < 0.9 * width else rounded
