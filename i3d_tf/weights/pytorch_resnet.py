"""The residual networks' weights in PyTorch projects, X3D's included: the names and shapes of their state dicts.

A unit, for instance 'layer2_0/conv1', is in every layout a convolution and a batch norm of regular names. Kernels are
`[Cout, Cin, kt, kh, kw]`, or without kt in networks of images. A bias before batch norm, which SlowFast's non-local
blocks have, is subtracted from the moving mean, to the same effect.

X3D's are read as facebookresearch/SlowFast and pytorchvideo have them. pytorchvideo's first shortcut has no batch norm;
it gets one here that changes nothing at inference.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
import re

import numpy as np

from i3d_tf import errors
from i3d_tf.models import resnet_spec as spec
from i3d_tf.models import x3d
from i3d_tf.models import zoo
from i3d_tf.weights import pytorch
from i3d_tf.weights import release

# Of non-local blocks, a bias and the moving mean of the batch norm that follows it.
_MEANS = {".conv_out.bias": ".norm.running_mean", ".nl.out.bias": ".nl.bn.running_mean"}
_BLOCK = re.compile(r"layer(\d)_(\d+)(_non_local)?/(\w+)(?:/(\w+))?")


@dataclasses.dataclass(frozen=True)
class _ResNetLayout:
  """How a project names what its networks have.

  Attributes:
    architectures: The project's networks, keys of `resnet_spec.ARCHITECTURES`.
    names: Returns the names of a unit's convolution and batch norm from the unit's.
  """

  architectures: tuple[str, ...]
  names: Callable[[str], tuple[str, str]]


def _torchvision_video(unit: str) -> tuple[str, str]:
  if unit == spec.LOGITS:
    return "fc", ""
  if unit.startswith("stem"):
    first = 3 if unit == "stem/temporal" else 0
    return f"stem.{first}", f"stem.{first + 1}"
  path, conv, part = _place(unit)
  if conv == spec.SHORTCUT:
    return f"{path}.{conv}.0", f"{path}.{conv}.1"
  within = {None: ("0", "1"), "spatial": ("0.0", "0.1"), "temporal": ("0.3", "1")}[part]
  return f"{path}.{conv}.{within[0]}", f"{path}.{conv}.{within[1]}"


def _torchvision_image(unit: str) -> tuple[str, str]:
  if unit in (spec.LOGITS, "stem"):
    return {spec.LOGITS: ("fc", ""), "stem": ("conv1", "bn1")}[unit]
  path, conv, _ = _place(unit)
  if conv == spec.SHORTCUT:
    return f"{path}.{conv}.0", f"{path}.{conv}.1"
  return f"{path}.{conv}", f"{path}.{conv.replace('conv', 'bn')}"


def _pytorch_resnet3d(unit: str) -> tuple[str, str]:
  """As torchvision's networks of images, with non-local blocks (Tushar-N/pytorch-resnet3d:models/resnet.py)."""
  stage, index, non_local, conv, _ = _split(unit) if _BLOCK.fullmatch(unit) else ("",) * 5
  if not non_local:
    return _torchvision_image(unit)
  return f"layer{stage}.{index}.nl.{conv}", f"layer{stage}.{index}.nl.bn"


def _temporal_shift_module(unit: str) -> tuple[str, str]:
  if unit == spec.LOGITS:
    return "new_fc", ""
  conv, norm = _torchvision_image(unit)
  wrapped = ".net" if unit.endswith("/conv1") else ""
  return f"base_model.{conv}{wrapped}", f"base_model.{norm}"


def _mmaction2(unit: str) -> tuple[str, str]:
  if unit == spec.LOGITS:
    return "cls_head.fc_cls", ""
  place = "conv1" if unit == "stem" else ".".join(_place(unit)[:2])
  return f"backbone.{place}.conv", f"backbone.{place}.bn"


def _mmaction2_shift(unit: str) -> tuple[str, str]:
  conv, norm = _mmaction2(unit)
  return (conv.replace(".conv1.conv", ".conv1.conv.net") if unit.endswith("/conv1") else conv), norm


def _slowfast(unit: str) -> tuple[str, str]:
  if unit == spec.LOGITS:
    return "head.projection", ""
  if unit == "stem":
    return "s1.pathway0_stem.conv", "s1.pathway0_stem.bn"
  stage, index, non_local, conv, _ = _split(unit)
  stage = f"s{int(stage) + 1}"
  if non_local:
    return f"{stage}.pathway0_nonlocal{index}.conv_{conv}", f"{stage}.pathway0_nonlocal{index}.norm"
  branch = _letter(conv, shortcut="branch1", others="branch2.{}")
  return f"{stage}.pathway0_res{index}.{branch}", f"{stage}.pathway0_res{index}.{branch}_bn"


def _pytorchvideo(unit: str) -> tuple[str, str]:
  if unit == spec.LOGITS:
    return "blocks.6.proj", ""
  if unit == "stem":
    return "blocks.0.conv", "blocks.0.norm"
  stage, index, _, conv, _ = _split(unit)
  # Of its blocks, the second is the pool over time.
  block = f"blocks.{int(stage) + (int(stage) > 1)}.res_blocks.{index}"
  name = lambda kind: f"{block}.{_letter(conv, shortcut=f'branch1_{kind}', others=f'branch2.{kind}_{{}}')}"
  return name("conv"), name("norm")


def _place(unit: str) -> tuple[str, str, str | None]:
  """('layer2.0', 'conv1', 'spatial') of 'layer2_0/conv1/spatial'."""
  stage, index, _, conv, part = _split(unit)
  return f"layer{stage}.{index}", conv, part


def _split(unit: str) -> tuple[str, str, str | None, str, str | None]:
  """('2', '0', None, 'conv1', 'spatial') of 'layer2_0/conv1/spatial'; the third is '_non_local' in such a block."""
  found = _BLOCK.fullmatch(unit)
  if found is None:
    raise ValueError(f"{unit} is no unit of a residual network's blocks")
  stage, index, non_local, conv, part = found.groups()
  return stage, index, non_local, conv, part


def _letter(conv: str, *, shortcut: str, others: str) -> str:
  """For 'conv1', 'conv2', 'conv3' the name `others` with a, b or c."""
  return shortcut if conv == spec.SHORTCUT else others.format("abc"[int(conv[-1]) - 1])


RESNET_LAYOUTS: Mapping[str, _ResNetLayout] = {
  "torchvision's networks of clips": _ResNetLayout(
    ("r3d_18", "mc3_18", "rmc3_18", "r2plus1d_18", "r2plus1d_34"), _torchvision_video
  ),
  "torchvision's networks of images": _ResNetLayout(("resnet_50",), _torchvision_image),
  "pytorch-resnet3d": _ResNetLayout(("i3d_r50_caffe2", "i3d_r50_caffe2_non_local"), _pytorch_resnet3d),
  "SlowFast": _ResNetLayout(("i3d_r50", "i3d_r50_non_local", "c2d_r50"), _slowfast),
  "PyTorchVideo": _ResNetLayout(("i3d_r50", "c2d_r50"), _pytorchvideo),
  "MMAction2": _ResNetLayout(("i3d_r50_32x2", "tsn_r50"), _mmaction2),
  "MMAction2, shifted": _ResNetLayout(("tsm_r50",), _mmaction2_shift),
  "temporal-shift-module": _ResNetLayout(("tsm_r50",), _temporal_shift_module),
}


def _find_resnet(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
  """Finds the architecture that a state dict is of, or comes nearest to."""
  del path
  own, misfits = pytorch.prepared(arrays, _MEANS), {}
  for layout in _layouts(own):
    for architecture in layout.architectures:
      names, shapes = _names(layout, architecture), _shapes(own, layout, architecture)
      fitting = [name for name, theirs in names.items() if theirs in own and _fits(own[theirs], shapes[name])]
      misfits[architecture] = len(set(own) | set(names.values())) - len(fitting)
  return min(misfits, key=lambda name: misfits[name]) if misfits else None


def _resnet_from_torch(arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
  own = pytorch.prepared(arrays, _MEANS)
  layout = next(layout for layout in _layouts(own) if model in layout.architectures)
  what = f"{path} is of no network of ours, and nearest to {model}"
  return pytorch.convert(own, _names(layout, model), _shapes(own, layout, model), what)


def _layouts(arrays: Mapping[str, np.ndarray]) -> list[_ResNetLayout]:
  """Those in which the first kernel has the name that it has in the state dict."""
  return [layout for layout in RESNET_LAYOUTS.values() if _first_kernel(layout) in arrays]


def _first_kernel(layout: _ResNetLayout) -> str:
  return f"{layout.names('stem')[0]}.weight"


def _names(layout: _ResNetLayout, architecture: str) -> dict[str, str]:
  """The names of all variables by ours."""
  names = {}
  for unit in spec.units(spec.ARCHITECTURES[architecture]):
    conv, norm = layout.names(unit.name)
    names[f"{unit.name}/conv_3d/w"] = f"{conv}.weight"
    if unit.batch_norm:
      vectors = pytorch.VECTORS.items()
      names |= {f"{unit.name}/batch_norm/{vector}": f"{norm}.{theirs}" for vector, theirs in vectors}
    else:
      names[f"{unit.name}/conv_3d/b"] = f"{conv}.bias"
  return names


def _shapes(arrays: Mapping[str, np.ndarray], layout: _ResNetLayout, architecture: str) -> dict[str, tuple[int, ...]]:
  """Of our variables, for the state dict's channels in and number of classes."""
  bias = arrays.get(f"{layout.names(spec.LOGITS)[0]}.bias")
  sizes = {"in_channels": arrays[_first_kernel(layout)].shape[1], "num_classes": 400 if bias is None else bias.size}
  return spec.variable_shapes(spec.ARCHITECTURES[architecture], **sizes)


def _fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
  """Whether an array of theirs is a variable of ours of this shape."""
  return array.shape == ((shape[4], shape[3], *shape[:3])[: array.ndim] if len(shape) == 5 else shape)


RESNET = pytorch.Family(find=_find_resnet, convert=_resnet_from_torch)

_X3D_BLOCK = re.compile(r"layer(\d)_(\d+)/(.+)")
_ONLY_IN_L = "layer1_3/conv1/conv_3d/w"
_FIRST_SHORTCUT = "layer1_0/downsample/batch_norm"


@dataclasses.dataclass(frozen=True)
class _X3dLayout:
  """How a project names what X3D has.

  Attributes:
    units: Names of convolution and batch norm by the unit's, outside the blocks.
    block: Returns the beginning of the names in a block from the numbers of stage and block.
    inner: As `units`, for the units of a block, without that beginning.
  """

  units: Mapping[str, tuple[str, str]]
  block: Callable[[int, int], str]
  inner: Mapping[str, tuple[str, str]]

  def name(self, variable: str) -> str:
    """The name of a variable from ours."""
    unit, _, last = variable.rsplit("/", 2)
    if place := _X3D_BLOCK.fullmatch(unit):
      block = self.block(int(place[1]), int(place[2]))
      conv, norm = (f"{block}.{name}" for name in self.inner[place[3]])
    else:
      conv, norm = self.units[unit]
    return f"{conv}.{'weight' if last == 'w' else 'bias'}" if last in "wb" else f"{norm}.{pytorch.VECTORS[last]}"


X3D_LAYOUTS: Mapping[str, _X3dLayout] = {
  "SlowFast": _X3dLayout(
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
  "PyTorchVideo": _X3dLayout(
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


def _find_x3d(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
  """Finds the X3D by its variables; XS, S and M by the name of the file, for example 'x3d_s.pyth', M by default."""
  layout = _x3d_layout(arrays)
  if layout is None:
    return None
  if layout.name(_ONLY_IN_L) in arrays:
    return "x3d_l"
  named = re.search(r"x3d_(xs|s)(?![a-z])", os.path.basename(path).lower())
  return f"x3d_{named[1]}" if named else "x3d_m"


def _x3d_from_torch(arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
  layout = _x3d_layout(arrays)
  if layout is None:
    raise errors.CheckpointError(f"{path} is not of {model}")
  bias = arrays.get(layout.name("Logits/conv_3d/b"), np.zeros(400))
  network = zoo.get(model).make(bias.size)
  network.build(3)
  shapes = {name: tuple(variable.shape) for name, variable in release.named_variables(network).items()}
  names = {name: layout.name(name) for name in shapes}
  if names[f"{_FIRST_SHORTCUT}/gamma"] not in arrays:
    arrays = {**arrays, **_identity(names, shapes)}
  return pytorch.convert(arrays, names, shapes, f"{path} is not of {model}")


def _x3d_layout(arrays: Mapping[str, np.ndarray]) -> _X3dLayout | None:
  """The layout that has the stem's kernel in space, by which X3D differs from other networks of the same projects."""
  return next((each for each in X3D_LAYOUTS.values() if each.name("stem/spatial/conv_3d/w") in arrays), None)


def _identity(names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """The batch norm of the first shortcut that gives what it gets, by the names of the layout."""
  values = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1 - x3d.EPSILON}
  full = {f"{_FIRST_SHORTCUT}/{name}": value for name, value in values.items()}
  return {names[name]: np.full(shapes[name], value, np.float32) for name, value in full.items()}


X3D = pytorch.Family(find=_find_x3d, convert=_x3d_from_torch)
