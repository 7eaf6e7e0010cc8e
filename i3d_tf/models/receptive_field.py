"""Receptive fields along one axis, from the layers that lead to an output. Imports no TensorFlow."""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import math

SAME = "SAME"


@dataclasses.dataclass(frozen=True)
class Layer:
  """A convolution or pool along one axis.

  Attributes:
    kernel: positions of its input that a step sees.
    stride: positions from one step to the next.
    padding: `SAME`, TensorFlow's rule, which depends on the length of the input and puts the smaller half in front; or
      the number of positions added at both ends, as PyTorch counts; 0 is TensorFlow's VALID.
  """

  kernel: int
  stride: int = 1
  padding: int | str = SAME

  def num_steps(self, length: int) -> int:
    """Returns the length of the output in steps.

    Args:
      length: of the input.
    """
    if isinstance(self.padding, int):
      return max((length + 2 * self.padding - self.kernel) // self.stride + 1, 0)
    return -(-length // self.stride)

  def before(self, length: int) -> int:
    """Returns the padding in front of an input, in positions.

    Args:
      length: of the input.
    """
    if isinstance(self.padding, int):
      return self.padding
    return max((self.num_steps(length) - 1) * self.stride + self.kernel - length, 0) // 2


def stride(layers: Iterable[Layer]) -> int:
  """Returns the distance, in positions of the input, from one step behind some layers to the next.

  Args:
    layers: in order.
  """
  return math.prod(layer.stride for layer in layers)


def num_steps(layers: Iterable[Layer], length: int) -> int:
  """Returns the length in steps of the output of some layers.

  Args:
    layers: in order.
    length: of the input.
  """
  for layer in layers:
    length = layer.num_steps(length)
  return length


def seen(layers: Sequence[Layer], steps: tuple[int, int], length: int) -> tuple[int, int]:
  """Returns the positions of the input that some steps behind the layers see.

  Args:
    layers: from the input to the steps.
    steps: the first of them and the one after the last.
    length: of the input.

  Returns:
    The first position and the one after the last. Padding counts as positions, so the first may be negative and the end
    greater than `length`, and the middle of the two is where a step is centred.
  """
  lengths = list(itertools.accumulate(layers, lambda length, layer: layer.num_steps(length), initial=length))
  first, end = steps
  for layer, extent in zip(reversed(layers), reversed(lengths[:-1]), strict=True):
    before = layer.before(extent)
    first, end = first * layer.stride - before, (end - 1) * layer.stride - before + layer.kernel
  return first, end


def widest(paths: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
  """Returns the one of several parallel paths whose steps see all that those of the others see.

  Args:
    paths: layers from one input to outputs that are added or concatenated step by step.

  Raises:
    ValueError: if no path contains all others at every length, or their outputs differ in length.
  """
  every = stride(paths[0])
  lengths = range(128 * every, 129 * every)  # any that are longer than the fields, of every remainder
  for path in paths:
    if all(_contains(path, other, length) for other in paths for length in lengths):
      return tuple(path)
  raise ValueError(f"none of these parallel layers sees what the others see, step by step: {paths}")


def _contains(path: Sequence[Layer], other: Sequence[Layer], length: int) -> bool:
  if (stride(path), num_steps(path, length)) != (stride(other), num_steps(other, length)):
    return False
  first, end = seen(path, (0, 1), length)
  inner_first, inner_end = seen(other, (0, 1), length)
  return first <= inner_first and inner_end <= end
