"""S3D's weights from the state dicts of its PyTorch versions: torchvision's, and kylemin/S3D (model.py)."""

from collections.abc import Mapping
import dataclasses
import os

import numpy as np

from i3d_tf.models import inception_spec as spec
from i3d_tf.models import s3d_spec
from i3d_tf.weights import torch_names

_ARCHITECTURE = s3d_spec.s3d_torchvision()
_ENDPOINTS = spec.endpoints(_ARCHITECTURE)
_NUM_CLASSES = 400  # as published, for a message about a state dict without a classifier


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a version names what the network has; both number the rows, pools included, and the layers of branches.

  Attributes:
    trunk: what rows are found under.
    classifier: the name of that convolution.
    branch_0: what stands behind 'branch0', whose only layer has no number in torchvision's.
    parts: convolution and batch norm of a unit or a half of one, by `spec.PARTS`.
  """

  trunk: str
  classifier: str
  branch_0: str
  parts: Mapping[str, tuple[str, str]]

  def unit(self, unit: spec.Unit) -> str:
    """The module of a unit of the trunk, for example 'features.5.branch1.1'."""
    block, *inner = unit.name.removesuffix(f"/{spec.TEMPORAL_NAME}").split("/")
    row = f"{self.trunk}.{_ENDPOINTS.index(block)}"
    if not inner:
      return row
    branch, layer = int(inner[0].removeprefix("Branch_")), inner[1]
    if branch == 0:
      return f"{row}.branch0{self.branch_0}"
    # In branch 3 the pool comes first.
    return f"{row}.branch{branch}.{int(branch == 3 or layer.endswith('3x3'))}"

  def names(self) -> dict[str, str]:
    """The names of all variables by ours."""
    found = {}
    for unit in spec.units(_ARCHITECTURE):
      if unit.endpoint == spec.LOGITS:
        conv, module = self.classifier, ""
      else:
        conv, module = (f"{self.unit(unit)}.{part}" for part in self.parts[unit.part])
      found[f"{unit.name}/conv_3d/w"] = f"{conv}.weight"
      for vector in spec.vectors(unit, _ARCHITECTURE):
        last = vector.rpartition("/")[-1]
        found[f"{unit.name}/{vector}"] = f"{module}.{torch_names.VECTORS[last]}" if module else f"{conv}.bias"
    return found


# By the names of the networks in the zoo.
LAYOUTS: Mapping[str, Layout] = {
    "s3d_torchvision": Layout(
        "features", "classifier.1", "",
        {spec.WHOLE: ("0", "1"), spec.SPATIAL: ("0.0", "0.1"), spec.TEMPORAL: ("1.0", "1.1")},
    ),
    "s3d_kylemin": Layout(
        "base", "fc.0", ".0",
        {spec.WHOLE: ("conv", "bn"), spec.SPATIAL: ("conv_s", "bn_s"), spec.TEMPORAL: ("conv_t", "bn_t")},
    ),
}  # fmt: skip


def find(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
  """The zoo's name of the network that a state dict is of, by the name of its first kernel; None if it is no S3D."""
  del path
  first = f"{next(spec.units(_ARCHITECTURE)).name}/conv_3d/w"
  return next((model for model, layout in LAYOUTS.items() if layout.names()[first] in arrays), None)


def from_torch(arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The variables by our names, from a state dict of the network `model`; `path` is its file, for messages.

  Raises:
    CheckpointError: listing what is missing, unmatched or misshapen.
  """
  layout = LAYOUTS[model]
  bias = arrays.get(f"{layout.classifier}.bias")
  shapes = spec.variable_shapes(_ARCHITECTURE, num_classes=_NUM_CLASSES if bias is None else bias.size)
  return torch_names.convert(arrays, layout.names(), shapes, f"{path} is not of {model}")
