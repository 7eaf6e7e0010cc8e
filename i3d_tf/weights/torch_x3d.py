"""X3D's weights from the state dicts of facebookresearch/SlowFast and of pytorchvideo.

PyTorchVideo's first shortcut has no batch norm; it gets one here that changes nothing at inference.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
import re

import numpy as np

from i3d_tf.models import x3d
from i3d_tf.models import zoo
from i3d_tf.weights import release
from i3d_tf.weights import torch_names

_BLOCK = re.compile(r"layer(\d)_(\d+)/(.+)")
_ONLY_IN_L = "layer1_3/conv1/conv_3d/w"
_FIRST_SHORTCUT = "layer1_0/downsample/batch_norm"


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a project names what the network has.

  Attributes:
    units: names of convolution and batch norm by that of the unit, outside the blocks.
    block: what names in a block begin with, from the numbers of stage and block.
    inner: as `units`, for a block's, without that beginning.
  """

  units: Mapping[str, tuple[str, str]]
  block: Callable[[int, int], str]
  inner: Mapping[str, tuple[str, str]]

  def name(self, variable: str) -> str:
    """The name of a variable from ours."""
    unit, _, last = variable.rsplit("/", 2)
    if place := _BLOCK.fullmatch(unit):
      block = self.block(int(place[1]), int(place[2]))
      conv, norm = (f"{block}.{name}" for name in self.inner[place[3]])
    else:
      conv, norm = self.units[unit]
    return f"{conv}.{'weight' if last == 'w' else 'bias'}" if last in "wb" else f"{norm}.{torch_names.VECTORS[last]}"


LAYOUTS: Mapping[str, Layout] = {
  "SlowFast": Layout(
    units={
      "stem/spatial": ("s1.pathway0_stem.conv_xy", ""),
      "stem/temporal": ("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"),
      "conv5": ("head.conv_5", "head.conv_5_bn"),
      "lin5": ("head.lin_5", ""),
      "Logits": ("head.projection", ""),
    },
    block=lambda stage, index: f"s{stage + 1}.pathway0_res{index}",
    inner={
      "downsample": ("branch1", "branch1_bn"),
      "conv1": ("branch2.a", "branch2.a_bn"),
      "conv2": ("branch2.b", "branch2.b_bn"),
      "gate/squeeze": ("branch2.se.fc1", ""),
      "gate/excite": ("branch2.se.fc2", ""),
      "conv3": ("branch2.c", "branch2.c_bn"),
    },
  ),
  "PyTorchVideo": Layout(
    units={
      # These two are named the wrong way round there.
      "stem/spatial": ("blocks.0.conv.conv_t", ""),
      "stem/temporal": ("blocks.0.conv.conv_xy", "blocks.0.norm"),
      "conv5": ("blocks.5.pool.pre_conv", "blocks.5.pool.pre_norm"),
      "lin5": ("blocks.5.pool.post_conv", ""),
      "Logits": ("blocks.5.proj", ""),
    },
    block=lambda stage, index: f"blocks.{stage}.res_blocks.{index}",
    inner={
      "downsample": ("branch1_conv", "branch1_norm"),
      "conv1": ("branch2.conv_a", "branch2.norm_a"),
      "conv2": ("branch2.conv_b", "branch2.norm_b.0"),
      "gate/squeeze": ("branch2.norm_b.1.block.0", ""),
      "gate/excite": ("branch2.norm_b.1.block.2", ""),
      "conv3": ("branch2.conv_c", "branch2.norm_c"),
    },
  ),
}


def find(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
  """The zoo's name of the network that a state dict is of; None if it is no X3D.

  XS, S and M have the same variables: which of them it is the name of the file says, for example 'x3d_s.pyth'; M if it
  does not.
  """
  layout = _layout(arrays)
  if layout is None:
    return None
  if layout.name(_ONLY_IN_L) in arrays:
    return "x3d_l"
  named = re.search(r"x3d_(xs|s)(?![a-z])", os.path.basename(path).lower())
  return f"x3d_{named[1]}" if named else "x3d_m"


def from_torch(arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The variables by our names, from a state dict of the network `model`; `path` is its file, for messages.

  Raises:
    CheckpointError: listing what is missing, unmatched or misshapen.
  """
  layout = _layout(arrays)
  bias = arrays.get(layout.name("Logits/conv_3d/b"), np.zeros(400))
  network = zoo.get(model).make(bias.size)
  network.build(3)
  shapes = {name: tuple(variable.shape) for name, variable in release.named_variables(network).items()}
  names = {name: layout.name(name) for name in shapes}
  if names[f"{_FIRST_SHORTCUT}/gamma"] not in arrays:
    arrays = {**arrays, **_identity(names, shapes)}
  return torch_names.convert(arrays, names, shapes, f"{path} is not of {model}")


def _layout(arrays: Mapping[str, np.ndarray]) -> Layout | None:
  """The layout that has the stem's kernel in space, by which X3D differs from other networks of the same projects."""
  return next((each for each in LAYOUTS.values() if each.name("stem/spatial/conv_3d/w") in arrays), None)


def _identity(names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """The batch norm of the first shortcut that gives what it gets, by the names of the layout."""
  values = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1 - x3d.EPSILON}
  full = {f"{_FIRST_SHORTCUT}/{name}": value for name, value in values.items()}
  return {names[name]: np.full(shapes[name], value, np.float32) for name, value in full.items()}
