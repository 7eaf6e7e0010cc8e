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

from i3d_tf import errors
from i3d_tf.models import resnet_spec as spec
from i3d_tf.weights import bundle

_COUNTER = ".num_batches_tracked"  # of PyTorch's batch norm, of use for cumulative averages only
_BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_BLOCK = re.compile(r"layer(\d)_(\d+)(_non_local)?/(\w+)(?:/(\w+))?")


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a project names what its networks have.

  Attributes:
    architectures: the project's networks, keys of `resnet_spec.ARCHITECTURES`.
    names: from a unit's name to those of its convolution and its batch norm.
    has_time: whether kernels have a time axis.
  """

  architectures: tuple[str, ...]
  names: Callable[[str], tuple[str, str]]
  has_time: bool = True


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
    "torchvision's networks of images": Layout(("resnet_50",), _torchvision_image, has_time=False),
    "SlowFast": Layout(("i3d_r50", "i3d_r50_non_local", "c2d_r50"), _slowfast),
    "PyTorchVideo": Layout(("i3d_r50", "c2d_r50"), _pytorchvideo),
    "MMAction2": Layout(("i3d_r50_32x2",), _mmaction2),
    "MMAction2, shifted": Layout(("tsm_r50",), _mmaction2_shift, has_time=False),
    "temporal-shift-module": Layout(("tsm_r50",), _temporal_shift_module, has_time=False),
}


def recognises(arrays: Mapping[str, np.ndarray]) -> bool:
  """Whether a state dict is of one of the layouts, by the name of its first kernel."""
  return any(f"{layout.names('stem')[0]}.weight" in arrays for layout in LAYOUTS.values())


def from_torch(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> tuple[str, dict[str, np.ndarray]]:
  """The architecture of a state dict, and its variables by our names; `path` is its file, for messages.

  Raises:
    CheckpointError: if it is of no architecture: listing what is missing, unmatched or misshapen in the one that it is
      nearest to.
  """
  arrays = {name: array for name, array in arrays.items() if not name.endswith(_COUNTER)}
  attempts = []
  for layout in LAYOUTS.values():
    for architecture in layout.architectures:
      values, problems = _convert(arrays, layout, spec.ARCHITECTURES[architecture])
      if not any(problems.values()):
        return architecture, values
      attempts.append((sum(map(len, problems.values())), architecture, problems))
  if not recognises(arrays):
    some = ", ".join(list(arrays)[:3])
    raise errors.CheckpointError(f"{path} is of none of {', '.join(LAYOUTS)}; its names begin with {some}")
  _, nearest, problems = min(attempts, key=lambda attempt: attempt[0])
  bundle.raise_for(problems, f"{path} is no network of ours, and nearest to {nearest}")
  raise AssertionError("there are problems, so that the line above raises")


def _convert(
    arrays: Mapping[str, np.ndarray], layout: Layout, architecture: spec.Architecture
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
  """The variables, and what is missing, unmatched and misshapen."""
  theirs = _their_names(layout, architecture)
  values = {own: _to_ours(own, arrays[name]) for own, name in theirs.items() if name in arrays}
  biases = _fold_biases(arrays, layout, architecture, values)
  shapes = spec.variable_shapes(architecture, **_sizes(values))
  return values, {
      "missing": [name for name in theirs.values() if name not in arrays],
      "unmatched": sorted(set(arrays) - set(theirs.values()) - biases),
      "misshapen": [
          f"{theirs[own]} {arrays[theirs[own]].shape}" for own, value in values.items() if value.shape != shapes[own]
      ],
  }


def _their_names(layout: Layout, architecture: spec.Architecture) -> dict[str, str]:
  names = {}
  for unit in spec.units(architecture):
    conv, norm = layout.names(unit.name)
    names[f"{unit.name}/conv_3d/w"] = f"{conv}.weight"
    if unit.batch_norm:
      names |= {f"{unit.name}/batch_norm/{own}": f"{norm}.{their}" for their, own in _BATCH_NORM.items()}
    else:
      names[f"{unit.name}/conv_3d/b"] = f"{conv}.bias"
  return names


def _to_ours(name: str, array: np.ndarray) -> np.ndarray:
  """A kernel of any rank as `[kt, kh, kw, Cin, Cout]`; vectors stay."""
  if not name.endswith("/w"):
    return array
  kernel = array.transpose(*range(2, array.ndim), 1, 0)
  return kernel.reshape((1,) * (5 - kernel.ndim) + kernel.shape)


def _fold_biases(
    arrays: Mapping[str, np.ndarray],
    layout: Layout,
    architecture: spec.Architecture,
    values: dict[str, np.ndarray],
) -> set[str]:
  """Subtracts biases before batch norm from moving means; returns their names."""
  folded = set()
  for unit in spec.units(architecture):
    bias, mean = f"{layout.names(unit.name)[0]}.bias", f"{unit.name}/batch_norm/moving_mean"
    if bias in arrays and mean in values:
      values[mean] = values[mean] - arrays[bias]
      folded.add(bias)
  return folded


def _sizes(values: Mapping[str, np.ndarray]) -> dict[str, int]:
  """What a network of the family may have any number of: channels in, and classes."""
  kernels = [values[name] for name in ("stem/conv_3d/w", "stem/spatial/conv_3d/w") if name in values]
  bias = values.get(f"{spec.LOGITS}/conv_3d/b")
  return {"in_channels": kernels[0].shape[-2] if kernels else 3, "num_classes": 400 if bias is None else bias.size}
