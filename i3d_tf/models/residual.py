"""The residual block: what a branch of units adds to its input."""

from collections.abc import Callable

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm


class Residual(snt.Module):
  """ReLU of the sum of a branch of units and the input, or of what a shortcut makes of the input (arXiv 1512.03385).

  Attributes:
    ends_part: its output is stored for the gradient if the rest is computed again, see `trunk.apply`.
  """

  ends_part = True

  def __init__(self, make_units: Callable[[], tuple[list[snt.Module], snt.Module | None]], *, name: str):
    """Describes the block.

    Args:
      make_units: makes the branch's units in order, and the shortcut, None if the input itself is added.
      name: of the module.
    """
    super().__init__(name=name)
    self._branch, self._shortcut = make_units()

  def build(self, in_channels: int) -> int:
    """Creates the variables and returns the number of channels out."""
    channels = in_channels
    for unit in self._branch:
      channels = unit.build(channels)
    shortcut = in_channels if self._shortcut is None else self._shortcut.build(in_channels)
    if shortcut != channels:
      raise ValueError(f"{self.name}: the branch has {channels} channels, what it is added to {shortcut}")
    return channels

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    net = inputs
    for unit in self._branch:
      net = unit(net, statistics)
    return tf.nn.relu(net + (inputs if self._shortcut is None else self._shortcut(inputs, statistics)))
