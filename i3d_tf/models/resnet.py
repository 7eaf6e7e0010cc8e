"""The residual networks: R3D, MC3, rMC3, R(2+1)D, I3D-ResNet, C2D, with non-local blocks or temporal shift."""

from typing import Any

import sonnet as snt

from i3d_tf.models import non_local
from i3d_tf.models import residual
from i3d_tf.models import resnet_spec as spec
from i3d_tf.models import temporal_shift
from i3d_tf.models import trunk
from i3d_tf.models import units

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
    shift = [] if architecture.shift is None else [temporal_shift.TemporalShift(architecture.shift)]
    return [*shift, *map(make, row.branch)], None if row.shortcut is None else make(row.shortcut)

  return residual.Residual(make_units, name=row.name)


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
