"""The residual networks' weights as PyTorch projects name them: from their state dicts to ours.

A unit, for instance 'layer2_0/conv1', is in every layout a convolution and a batch norm of regular names. Kernels are
`[Cout, Cin, kt, kh, kw]`, or without kt in networks of images. A bias before batch norm, which SlowFast's non-local
blocks have, is subtracted from the moving mean, to the same effect.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
import re

import numpy as np

from i3d_tf.models import resnet_spec as spec
from i3d_tf.weights import torch_names

# Of SlowFast's non-local blocks, a bias and the moving mean of the batch norm that follows it.
_BIAS, _MEAN = ".conv_out.bias", ".norm.running_mean"
_BLOCK = re.compile(r"layer(\d)_(\d+)(_non_local)?/(\w+)(?:/(\w+))?")


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a project names what its networks have.

  Attributes:
    architectures: the project's networks, keys of `resnet_spec.ARCHITECTURES`.
    names: from a unit's name to those of its convolution and its batch norm.
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
  stage, index, non_local, conv, _ = _BLOCK.fullmatch(unit).groups()
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
  stage, index, _, conv, _ = _BLOCK.fullmatch(unit).groups()
  # Of its blocks, the second is the pool over time.
  block = f"blocks.{int(stage) + (int(stage) > 1)}.res_blocks.{index}"
  kinds = ("conv", "norm")
  return tuple(f"{block}.{_letter(conv, shortcut=f'branch1_{kind}', others=f'branch2.{kind}_{{}}')}" for kind in kinds)


def _place(unit: str) -> tuple[str, str, str | None]:
  """('layer2.0', 'conv1', 'spatial') of 'layer2_0/conv1/spatial'."""
  stage, index, _, conv, part = _BLOCK.fullmatch(unit).groups()
  return f"layer{stage}.{index}", conv, part


def _letter(conv: str, *, shortcut: str, others: str) -> str:
  """For 'conv1', 'conv2', 'conv3' the name `others` with a, b or c."""
  return shortcut if conv == spec.SHORTCUT else others.format("abc"[int(conv[-1]) - 1])


LAYOUTS: Mapping[str, Layout] = {
  "torchvision's networks of clips": Layout(
    ("r3d_18", "mc3_18", "rmc3_18", "r2plus1d_18", "r2plus1d_34"), _torchvision_video
  ),
  "torchvision's networks of images": Layout(("resnet_50",), _torchvision_image),
  "SlowFast": Layout(("i3d_r50", "i3d_r50_non_local", "c2d_r50"), _slowfast),
  "PyTorchVideo": Layout(("i3d_r50", "c2d_r50"), _pytorchvideo),
  "MMAction2": Layout(("i3d_r50_32x2",), _mmaction2),
  "MMAction2, shifted": Layout(("tsm_r50",), _mmaction2_shift),
  "temporal-shift-module": Layout(("tsm_r50",), _temporal_shift_module),
}


def find(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
  """The architecture that a state dict is of, or comes nearest to; None if it is in none of the layouts."""
  del path
  own, misfits = _prepared(arrays), {}
  for layout in _layouts(own):
    for architecture in layout.architectures:
      names, shapes = _names(layout, architecture), _shapes(own, layout, architecture)
      fitting = [name for name, theirs in names.items() if theirs in own and _fits(own[theirs], shapes[name])]
      misfits[architecture] = len(set(own) | set(names.values())) - len(fitting)
  return min(misfits, key=misfits.get) if misfits else None


def from_torch(arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The variables by our names, from a state dict of the architecture `model`; `path` is its file, for messages.

  Raises:
    CheckpointError: listing what is missing, unmatched or misshapen.
  """
  own = _prepared(arrays)
  layout = next(layout for layout in _layouts(own) if model in layout.architectures)
  what = f"{path} is of no network of ours, and nearest to {model}"
  return torch_names.convert(own, _names(layout, model), _shapes(own, layout, model), what)


def _layouts(arrays: Mapping[str, np.ndarray]) -> list[Layout]:
  """Those in which the first kernel has the name that it has in the state dict."""
  return [layout for layout in LAYOUTS.values() if _first_kernel(layout) in arrays]


def _first_kernel(layout: Layout) -> str:
  return f"{layout.names('stem')[0]}.weight"


def _names(layout: Layout, architecture: str) -> dict[str, str]:
  """The names of all variables by ours."""
  names = {}
  for unit in spec.units(spec.ARCHITECTURES[architecture]):
    conv, norm = layout.names(unit.name)
    names[f"{unit.name}/conv_3d/w"] = f"{conv}.weight"
    if unit.batch_norm:
      vectors = torch_names.VECTORS.items()
      names |= {f"{unit.name}/batch_norm/{vector}": f"{norm}.{theirs}" for vector, theirs in vectors}
    else:
      names[f"{unit.name}/conv_3d/b"] = f"{conv}.bias"
  return names


def _shapes(arrays: Mapping[str, np.ndarray], layout: Layout, architecture: str) -> dict[str, tuple[int, ...]]:
  """Of our variables, for the state dict's channels in and number of classes."""
  bias = arrays.get(f"{layout.names(spec.LOGITS)[0]}.bias")
  sizes = {"in_channels": arrays[_first_kernel(layout)].shape[1], "num_classes": 400 if bias is None else bias.size}
  return spec.variable_shapes(spec.ARCHITECTURES[architecture], **sizes)


def _fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
  """Whether an array of theirs is a variable of ours of this shape."""
  return array.shape == ((shape[4], shape[3], *shape[:3])[: array.ndim] if len(shape) == 5 else shape)


def _prepared(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The state dict with an axis of time in all kernels, and without counters and biases before batch norm."""
  prepared = {
    name: array[:, :, np.newaxis] if array.ndim == 4 else array
    for name, array in arrays.items()
    if not name.endswith(torch_names.COUNTER)
  }
  for name in [name for name in prepared if name.endswith(_BIAS)]:
    mean = name.removesuffix(_BIAS) + _MEAN
    if mean in prepared:
      prepared[mean] = prepared[mean] - prepared.pop(name)
  return prepared
