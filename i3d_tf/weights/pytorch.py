"""PyTorch's state dicts: their files as named arrays, and from names and shapes to our variables, here of Inceptions.

The files are read and written without torch, see containers. The names of ResNets are in pytorch_resnet.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
import types

import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import s3d
from i3d_tf.models import tsn
from i3d_tf.weights import containers
from i3d_tf.weights import release
from i3d_tf.weights import tensorflow1

SUFFIXES = (".pt", ".pth", ".pyth")
# Names under which training scripts keep the weights beside other things, and what wrappers put before every name.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
_PREFIXES = ("module.", "_orig_mod.", "i3d.", "backbone.", "model.", "encoder.", "net.", "network.")
_MAX_DEPTH = 3
_PARALLEL = "module."  # what DataParallel puts before every name
# PyTorch's names of batch norm's vectors by the last part of ours.
VECTORS: Mapping[str, str] = {
    "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
COUNTER = ".num_batches_tracked"  # of PyTorch's batch norm, used for cumulative averages only
FROM_TORCH = (2, 3, 4, 1, 0)  # [Cout, Cin, kt, kh, kw] to [kt, kh, kw, Cin, Cout]
KERNEL_TO_TORCH = (4, 3, 0, 1, 2)  # the way back of `pytorch.FROM_TORCH`


@dataclasses.dataclass(frozen=True)
class Family:
  """How the state dicts of a family of networks are read.

  Attributes:
    find: Returns the zoo's name of the network that a state dict with a path is of; None if it is of none.
    convert: Returns the variables by our names, given also that name; raises CheckpointErrors as `pytorch.convert`.
  """

  find: Callable[[Mapping[str, np.ndarray], str | os.PathLike], str | None]
  convert: Callable[[Mapping[str, np.ndarray], str, str | os.PathLike], dict[str, np.ndarray]]


def is_torch(path: str | os.PathLike) -> bool:
  """Returns whether a file is there and `read` is the one to read it, by its content or its suffix.

  Args:
    path: The file.
  """
  return os.path.isfile(path) and (os.fspath(path).endswith(SUFFIXES) or containers.is_torch(path))


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns a state dict, alone in its file or beside other things, with or without DataParallel's prefix.

  Only tensors are rebuilt, so that a file cannot run code; float16 and bfloat16 are converted to float32.

  Args:
    path: The file.

  Raises:
    CheckpointError: If the file holds no state dict, or tensors that cannot be read or are not finite.
    OSError: If the file cannot be read.
  """
  content, file = containers.read_torch(path)
  for _ in range(_MAX_DEPTH):
    wrapped = [content[name] for name in _WRAPPERS if isinstance(content, Mapping) and name in content]
    content = next((value for value in wrapped if isinstance(value, Mapping)), content)
  is_state_dict = isinstance(content, Mapping) and all(
    isinstance(value, containers.Tensor) for value in content.values()
  )
  if not is_state_dict or not content:
    raise errors.CheckpointError(f"{path} holds no state dict of PyTorch; save model.state_dict()")
  arrays = file.load({str(name).removeprefix(_PARALLEL): tensor for name, tensor in content.items()})
  tensorflow1.check_finite(arrays, path)
  return arrays


def strip_prefix(
  arrays: Mapping[str, np.ndarray], is_known: Callable[[Mapping[str, np.ndarray]], bool]
) -> Mapping[str, np.ndarray]:
  """Returns a state dict without a prefix that all its names have, if its names are known then.

  Args:
    arrays: The state dict.
    is_known: Tells whether a network has the names of a state dict.
  """
  found = arrays
  for _ in range(_MAX_DEPTH):
    if is_known(found):
      return found
    prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in found)), None)
    if prefix is None:
      break
    found = {name.removeprefix(prefix): array for name, array in found.items()}
  return arrays


def is_i3d(arrays: Mapping[str, np.ndarray]) -> bool:
  """Returns whether a state dict has the first kernel of a port of I3D.

  Args:
    arrays: The state dict.
  """
  return any(layout.name(release.FIRST_KERNEL) in arrays for layout in I3D_LAYOUTS.values())


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a state dict that `load_state_dict` takes.

  Args:
    path: File to write.
    arrays: Arrays by name.

  Raises:
    OSError: If the file cannot be written.
  """
  containers.write_torch(path, arrays)


def convert(
  arrays: Mapping[str, np.ndarray], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, np.ndarray]:
  """Returns our variables by name from a state dict.

  Args:
    arrays: The state dict.
    names: PyTorch's name of each of our variables.
    shapes: Shapes of our variables.
    what: Beginning of an error's message, for example 'made.pth is not of S3D'.

  Raises:
    CheckpointError: If weights are missing, unmatched or misshapen; all are listed.
  """
  own = {name: array for name, array in arrays.items() if not name.endswith(COUNTER)}
  wanted = set(names.values())
  tensorflow1.raise_for({"missing": sorted(wanted - set(own)), "unmatched": sorted(set(own) - wanted)}, what)
  values = {name: _ours(own[theirs], shapes[name]) for name, theirs in names.items()}
  misshapen = [
    f"{names[name]} {value.dtype} {own[names[name]].shape} for {shapes[name]}"
    for name, value in values.items()
    if value.dtype != np.float32 or value.shape != shapes[name]
  ]
  tensorflow1.raise_for({"misshapen": misshapen}, what)
  return values


def prepared(
  arrays: Mapping[str, np.ndarray], means: Mapping[str, str] = types.MappingProxyType({}), *, ignored: str = COUNTER
) -> dict[str, np.ndarray]:
  """Returns a state dict with an axis of time in all kernels, and without biases that batch norm takes away again.

  Args:
    arrays: The state dict.
    means: By the end of such a bias's name that of the moving mean, which is moved by it.
    ignored: End of the names of what is no variable.
  """
  found = {
    name: array[:, :, np.newaxis] if array.ndim == 4 else array
    for name, array in arrays.items()
    if not name.endswith(ignored)
  }
  for bias, mean in means.items():
    for name in [name for name in found if name.endswith(bias)]:
      if (follows := name.removesuffix(bias) + mean) in found:
        found[follows] = found[follows] - found.pop(name)
  return found


def _ours(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The array in the form of `shape`, if it can be brought to it.

  A fully connected layer, `[out, in]`, is a kernel of 1x1x1 for us, and a channel-wise kernel `[C, 1, kt, kh, kw]` is
  `[kt, kh, kw, C]`.
  """
  if array.ndim == 2 and len(shape) == len(FROM_TORCH):
    array = array[..., np.newaxis, np.newaxis, np.newaxis]
  if array.ndim != len(FROM_TORCH):
    return array
  kernel = array.transpose(FROM_TORCH)
  return np.squeeze(kernel, 3) if len(shape) == 4 and kernel.shape[3] == 1 else kernel


@dataclasses.dataclass(frozen=True)
class I3dLayout:
  """How a port of I3D names what the network has.

  Attributes:
    unit: Returns a unit's name from that in the release.
    batch_norm: Name of a unit's batch norm.
  """

  unit: Callable[[str], str]
  batch_norm: str

  def name(self, variable: str) -> str:
    """Returns a variable's name in the state dict.

    Args:
      variable: Its name in the release.
    """
    unit, _, part = variable.rsplit("/", 2)
    parts = {
      "w": "conv3d.weight",
      "b": "conv3d.bias",
      "beta": f"{self.batch_norm}.bias",
      "moving_mean": f"{self.batch_norm}.running_mean",
      "moving_variance": f"{self.batch_norm}.running_var",
    }
    return f"{self.unit(unit)}.{parts[part]}"

  def scale(self, unit: str) -> str:
    """Returns the name of the scale of a unit's batch norm in the state dict.

    Args:
      unit: The unit's name in the release.
    """
    return f"{self.unit(unit)}.{self.batch_norm}.weight"


def _unit_of_pytorch_i3d(name: str) -> str:
  """For example 'Mixed_3b.b1b' of 'Mixed_3b/Branch_1/Conv3d_0b_3x3'; the classifier is 'logits'."""
  block, *inner = name.split("/")
  if len(inner) < 2:
    return "logits" if block == spec.LOGITS else block
  branch, layer = _place(*inner)
  return f"{block}.b{branch}" + ("" if branch == 0 else "ab"[layer])


def _unit_of_kinetics_i3d_pytorch(name: str) -> str:
  """For example 'mixed_3b.branch_1.1' of 'Mixed_3b/Branch_1/Conv3d_0b_3x3'; the classifier is 'conv3d_0c_1x1'."""
  block, *inner = name.split("/")
  lower_first = lambda name: name[0].lower() + name[1:]
  if len(inner) < 2:
    return lower_first(inner[0] if inner else block)
  branch, layer = _place(*inner)
  return f"{lower_first(block)}.branch_{branch}" + ("" if branch == 0 else f".{layer}")


def _place(branch: str, conv: str) -> tuple[int, int]:
  """The number of a branch, and that of the layer in it, of which the pool of branch 3 is one."""
  number = int(branch.removeprefix("Branch_"))
  return number, int(number == 3 or conv.endswith("3x3"))


I3D_LAYOUTS: Mapping[str, I3dLayout] = {
  "pytorch_i3d": I3dLayout(_unit_of_pytorch_i3d, "bn"),
  "kinetics_i3d_pytorch": I3dLayout(_unit_of_kinetics_i3d_pytorch, "batch3d"),
}


def to_torch(values: Mapping[str, np.ndarray], layout: I3dLayout) -> dict[str, np.ndarray]:
  """Returns the state dict of a port for an I3D with its classifier.

  Args:
    values: Variables by the release's names.
    layout: The port, a value of `I3D_LAYOUTS`.

  Raises:
    CheckpointError: If variables are missing, unmatched or misshapen; the ports have networks of one width only.
  """
  what = "the network is not one that the ports have"
  _check_names(set(values), set(spec.variable_shapes()), what)
  _check_shapes(values, what)
  arrays = {
    layout.name(name): value.transpose(KERNEL_TO_TORCH) if name.endswith("/w") else value.reshape(-1)
    for name, value in values.items()
  }
  normalized = [unit for unit in spec.units() if unit.batch_norm]
  return arrays | {layout.scale(unit.name): np.ones(unit.out_channels, np.float32) for unit in normalized}


def _i3d_from_torch(arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Converts a state dict of either port."""
  del model
  layout, what = _find_i3d_layout(arrays, path), f"{path} is not of I3D"
  names = {name: layout.name(name) for name in spec.variable_shapes()}
  scales = {unit.name: layout.scale(unit.name) for unit in spec.units() if unit.batch_norm}
  own = {name: array for name, array in arrays.items() if not name.endswith(COUNTER)}
  _check_names(set(own), {*names.values(), *scales.values()}, what)
  is_kernel = lambda name: name.endswith("/w") and own[names[name]].ndim == 5
  values = {
    name: own[theirs].transpose(FROM_TORCH) if is_kernel(name) else own[theirs] for name, theirs in names.items()
  }
  _check_shapes(values, what)
  for unit, theirs in scales.items():
    if (own[theirs] != 1).any():
      for name in (f"{unit}/conv_3d/w", f"{unit}/batch_norm/moving_mean"):
        values[name] = values[name] * own[theirs]
  return values


def _find_i3d_layout(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> I3dLayout:
  for layout in I3D_LAYOUTS.values():
    if layout.name(release.FIRST_KERNEL) in arrays:
      return layout
  some = ", ".join(files.printable(name, 80) for name in list(arrays)[:3])
  raise errors.CheckpointError(f"{path} is not of I3D in {' or '.join(I3D_LAYOUTS)}; its names begin with {some}")


def _check_names(names: set[str], wanted: set[str], what: str) -> None:
  tensorflow1.raise_for({"missing": sorted(wanted - names), "unmatched": sorted(names - wanted)}, what)


def _check_shapes(values: Mapping[str, np.ndarray], what: str) -> None:
  shapes = spec.variable_shapes(
    in_channels=values[release.FIRST_KERNEL].shape[-2] if values[release.FIRST_KERNEL].ndim == 5 else 3,
    num_classes=values[release.HEAD_BIAS].size,
  )
  fits = lambda array, shape: array.dtype == np.float32 and shape in (array.shape, (array.size,))
  misshapen = [
    f"{name} {array.dtype} {array.shape} for {shapes[name]}"
    for name, array in values.items()
    if not fits(array, shapes[name])
  ]
  tensorflow1.raise_for({"misshapen": misshapen}, what)


I3D = Family(find=lambda arrays, path: "i3d", convert=_i3d_from_torch)


_ARCHITECTURE = s3d.s3d_torchvision()
_ENDPOINTS = spec.endpoints(_ARCHITECTURE)
_NUM_CLASSES = 400  # as published, for a message about a state dict without a classifier


@dataclasses.dataclass(frozen=True)
class _S3dLayout:
  """How a project names what S3D has; both number the rows, pools included, and the layers of branches.

  Attributes:
    trunk: Module that holds the rows.
    classifier: Name of that convolution.
    branch_0: What follows 'branch0', whose only layer has no number in torchvision.
    parts: Convolution and batch norm of a unit or a half of one, by `spec.PARTS`.
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
        found[f"{unit.name}/{vector}"] = f"{module}.{VECTORS[last]}" if module else f"{conv}.bias"
    return found


# By the names of the networks in the zoo.
S3D_LAYOUTS: Mapping[str, _S3dLayout] = {
    "s3d_torchvision": _S3dLayout(
        "features", "classifier.1", "",
        {spec.WHOLE: ("0", "1"), spec.SPATIAL: ("0.0", "0.1"), spec.TEMPORAL: ("1.0", "1.1")},
    ),
    "s3d_kylemin": _S3dLayout(
        "base", "fc.0", ".0",
        {spec.WHOLE: ("conv", "bn"), spec.SPATIAL: ("conv_s", "bn_s"), spec.TEMPORAL: ("conv_t", "bn_t")},
    ),
}  # fmt: skip


def _find_s3d(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
  """Finds the network by the name of its first kernel."""
  del path
  first = f"{next(spec.units(_ARCHITECTURE)).name}/conv_3d/w"
  return next((model for model, layout in S3D_LAYOUTS.items() if layout.names()[first] in arrays), None)


def _s3d_from_torch(arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
  layout = S3D_LAYOUTS[model]
  bias = arrays.get(f"{layout.classifier}.bias")
  shapes = spec.variable_shapes(_ARCHITECTURE, num_classes=_NUM_CLASSES if bias is None else bias.size)
  return convert(arrays, layout.names(), shapes, f"{path} is not of {model}")


S3D = Family(find=_find_s3d, convert=_s3d_from_torch)


_TSN_PREFIX = "base_model."  # of tsn-pytorch, whose classifier is new_fc
_FIRST_OF_BN_INCEPTION = "conv1_7x7_s2/conv_3d/w"


def bn_inception_name(variable: str) -> str:
  """Returns the name of a variable of BN-Inception in Cadene's state dict.

  Args:
    variable: Its name here, for example 'inception_3a/branch_1/conv_3x3_reduce/conv_3d/w'.
  """
  *unit, part, last = variable.split("/")
  if unit == [spec.LOGITS]:
    return f"last_linear.{'weight' if last == 'w' else 'bias'}"
  module = unit[0] if len(unit) == 1 else f"{unit[0]}_{unit[-1].removeprefix('conv_')}"
  return f"{module}.weight" if part == "conv_3d" else f"{module}_bn.{VECTORS[last]}"


def _find_bn_inception(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
  del path
  first = bn_inception_name(_FIRST_OF_BN_INCEPTION)
  return "bn_inception" if first in arrays else "tsn_bn_inception" if f"{_TSN_PREFIX}{first}" in arrays else None


def _bn_inception_from_torch(
  arrays: Mapping[str, np.ndarray], model: str, path: str | os.PathLike
) -> dict[str, np.ndarray]:
  """Converts a state dict whose convolutions have biases before batch norm and, of RGB, take blue first."""
  rename = lambda name: name.removeprefix(_TSN_PREFIX).replace("new_fc.", "last_linear.")
  own = prepared({rename(name): array for name, array in arrays.items()}, {".bias": "_bn.running_mean"})
  kernel, bias = own.get(bn_inception_name(_FIRST_OF_BN_INCEPTION)), own.get("last_linear.bias", np.zeros(400))
  shapes = release.variable_shapes(tsn.BnInception(bias.size), 3 if kernel is None else kernel.shape[1])
  values = convert(own, {name: bn_inception_name(name) for name in shapes}, shapes, f"{path} is not of {model}")
  kernel = values[_FIRST_OF_BN_INCEPTION]
  return values | {_FIRST_OF_BN_INCEPTION: kernel[..., ::-1, :]} if kernel.shape[-2] == 3 else values


BN_INCEPTION = Family(find=_find_bn_inception, convert=_bn_inception_from_torch)
