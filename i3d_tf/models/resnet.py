"""The residual block: what a branch of units adds to its input.

Temporal shift: some channels of every frame come from the frame after it or before it (arXiv 1811.08383).

The residual networks: R3D, MC3, rMC3, R(2+1)D, I3D-ResNet, C2D, with non-local blocks or temporal shift.
"""

from collections.abc import Callable
from typing import Any

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm
from i3d_tf.models import non_local
from i3d_tf.models import resnet_spec as spec
from i3d_tf.models import trunk
from i3d_tf.models import units


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


@snt.allow_empty_variables
class TemporalShift(snt.Module):
  """Moves an Nth of the channels one step back in time and as many one step ahead; `fold` is N.

  Of C channels the first C // N are those of the next step, the next C // N those of the step before, and the rest
  stay; what lies beyond the clip is 0 (mit-han-lab/temporal-shift-module, ops/temporal_shift.py). It has no variables.
  """

  def __init__(self, fold: int = 8, *, name: str = "shift"):
    super().__init__(name=name)
    self._fold = fold

  def build(self, in_channels: int) -> int:
    return in_channels

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    moved = inputs.shape[-1] // self._fold
    later, earlier, same = tf.split(inputs, [moved, moved, -1], axis=-1)
    later = tf.pad(later[:, 1:], [(0, 0), (0, 1), (0, 0), (0, 0), (0, 0)])
    earlier = tf.pad(earlier[:, :-1], [(0, 0), (1, 0), (0, 0), (0, 0), (0, 0)])
    return tf.concat([later, earlier, same], axis=-1)


# All sources start by He's rule (arXiv 1502.01852), from the number of outputs.
_INITIALIZER = snt.initializers.VarianceScaling(2.0, mode="fan_out", distribution="normal")


class ResNet(trunk.TrunkNetwork):
  """A network of `resnet_spec.ARCHITECTURES`, for clips of any length and size.

  Endpoints are 'stem', 'pool1', 'layer1_0', ..., 'pool2' after 'layer1_2', ..., 'layer4_2', with non-local blocks such
  as 'layer2_1_non_local' between them, and those of `trunk.TrunkNetwork`. RGB is normalised as the published weights
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


def _make_row(row: spec.Row, architecture: spec.Architecture, temporal_padding: str) -> snt.Module:
  if isinstance(row, spec.Pool):
    return units.MaxPool3D(row.kernel, row.stride, padding=row.padding, name=row.name)
  if isinstance(row, spec.NonLocal):
    epsilon = {"epsilon": architecture.epsilon}
    return non_local.NonLocal(row.channels, mode=architecture.non_local_mode, batch_norm=epsilon, name=row.name)
  if isinstance(row, spec.Conv):
    return _make_conv(row, architecture, temporal_padding)

  def make_units():
    make = lambda conv: _make_conv(conv, architecture, temporal_padding)
    shift = [] if architecture.shift is None else [TemporalShift(architecture.shift)]
    return [*shift, *map(make, row.branch)], None if row.shortcut is None else make(row.shortcut)

  return Residual(make_units, name=row.name)


def _make_conv(conv: spec.Conv, architecture: spec.Architecture, temporal_padding: str) -> snt.Module:
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
