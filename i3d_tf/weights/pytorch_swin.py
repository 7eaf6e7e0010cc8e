"""The Swin transformers' weights in torchvision: the names of their state dicts, read and written.

Of torchvision's two classes the one of clips has the patch embedding beside its list of stages, the one of images as
the first of them. `relative_position_index`, which follows from the window, is ignored when read, and written.
"""

from collections.abc import Mapping
import os
import re

import numpy as np

from i3d_tf import errors
from i3d_tf.models import swin
from i3d_tf.models import zoo
from i3d_tf.weights import pytorch
from i3d_tf.weights import release

MODELS = tuple(swin.MODELS)
_INDEX = "relative_position_index"
_LAST = {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}
_INNER = {
  "norm1": "norm1", "norm2": "norm2", "attention": "attn", "attention/qkv": "attn.qkv",
  "attention/project": "attn.proj", "mlp_0": "mlp.0", "mlp_1": "mlp.3",
}  # fmt: skip
_STAGE_3 = {"swin": 5, "video_swin": 4}  # number of its blocks in the list of stages


def name_of(variable: str, model: str) -> str:
  """Returns the name of a variable in a state dict of torchvision.

  Args:
    variable: Its name here.
    model: The network, one of `MODELS`.
  """
  unit, _, last = variable.rpartition("/")
  unit, last = unit.removesuffix("/conv_3d"), _LAST.get(last, last)
  is_video = _kind(model) == "video_swin"
  first = 0 if is_video else 1
  if found := re.fullmatch(r"layer(\d)_(\d+)/(.+)", unit):
    return f"features.{2 * int(found[1]) - 2 + first}.{found[2]}.{_INNER[found[3]]}.{last}"
  if found := re.fullmatch(r"merge(\d)/(.+)", unit):
    return f"features.{2 * int(found[1]) - 1 + first}.{found[2]}.{last}"
  if unit.startswith("patch_embed"):
    parts = ("patch_embed.proj", "patch_embed.norm") if is_video else ("features.0.0", "features.0.2")
    return f"{parts[unit.endswith('norm')]}.{last}"
  return f"{unit.replace('Logits', 'head')}.{last}"


def to_torch(values: Mapping[str, np.ndarray], model: str) -> dict[str, np.ndarray]:
  """Returns the state dict that torchvision's network loads.

  Args:
    values: Variables by the names here.
    model: The network, one of `MODELS`.

  Raises:
    CheckpointError: If the network has another width than torchvision's.
  """
  width = swin.HEAD_WIDTH * zoo.get(model).arguments["num_heads"]
  if (found := values["patch_embed/norm/gamma"].size) != width:
    raise errors.CheckpointError(f"the network's first stage has {found} channels; torchvision's {model} has {width}")
  is_video, arrays = _kind(model) == "video_swin", {}
  index = swin.relative_position_index(zoo.get(model).arguments.get("window", swin.WINDOW)).astype(np.int64)
  for name, value in values.items():
    if value.ndim == 5:
      value = value.transpose(pytorch.KERNEL_TO_TORCH)
      is_patch = name.startswith("patch_embed")
      value = value if is_patch and is_video else value[:, :, 0] if is_patch else value[:, :, 0, 0, 0]
    theirs = name_of(name, model)
    arrays[theirs] = value
    if name.endswith(swin.BIAS_TABLE):
      arrays[theirs.replace(swin.BIAS_TABLE, _INDEX)] = index if is_video else index.reshape(-1)
  return arrays


def _kind(model: str) -> str:
  return model.rpartition("_")[0]


def _find(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
  """Finds the network by its first kernel's name, its heads of attention and its number of blocks."""
  del path
  for kind, stage in _STAGE_3.items():
    table = arrays.get(name_of(f"layer1_0/attention/{swin.BIAS_TABLE}", f"{kind}_t"))
    if table is not None and name_of("patch_embed/conv_3d/w", f"{kind}_t") in arrays:
      is_deep = f"features.{stage}.17.norm1.weight" in arrays
      heads = getattr(table, "shape", (0, 0))[-1]
      return f"{kind}_{'b' if heads == 4 else 's' if is_deep else 't'}"
  return None


def _from_torch(arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
  bias = arrays.get(name_of("Logits/conv_3d/b", model), np.zeros(400))
  shapes = release.variable_shapes(zoo.get(model).make(bias.size), 3)
  names = {name: name_of(name, model) for name in shapes}
  own = pytorch.prepared(arrays, ignored=_INDEX)
  return pytorch.convert(own, names, shapes, f"{path} is not of {model}")


SWIN = pytorch.Family(find=_find, convert=_from_torch)
