"""PyTorch's state dicts: their files as named arrays, and from their names and shapes to our variables.

The files need torch, the extra `torch`; nothing else here does. The names are in pytorch_inception and pytorch_resnet.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
import pickle
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.weights import tensorflow1

SUFFIXES = (".pt", ".pth", ".pyth")
_WRAPPERS = ("state_dict", "model_state")  # under which training scripts keep the weights beside other things
_PARALLEL = "module."  # what DataParallel puts before every name
# PyTorch's names of batch norm's vectors by the last part of ours.
VECTORS: Mapping[str, str] = {
    "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
COUNTER = ".num_batches_tracked"  # of PyTorch's batch norm, used for cumulative averages only
FROM_TORCH = (2, 3, 4, 1, 0)  # [Cout, Cin, kt, kh, kw] to [kt, kh, kw, Cin, Cout]


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
  """Returns whether a file is there and `read` is the one to read it, by its suffix.

  Args:
    path: The file.
  """
  return os.fspath(path).endswith(SUFFIXES) and os.path.isfile(path)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns a state dict, alone in its file or beside other things, with or without DataParallel's prefix.

  Only tensors are unpickled, so that a file cannot run code.

  Args:
    path: The file.

  Raises:
    I3dError: If torch is not installed.
    CheckpointError: If the file holds no state dict.
    OSError: If the file cannot be read.
  """
  torch = import_torch()
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError):
    # What torch says advises to let the file run code.
    raise errors.CheckpointError(
      f"{path} cannot be read as PyTorch's weights: it is damaged or holds more than tensors; save model.state_dict()"
    ) from None
  for wrapper in _WRAPPERS:
    if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
      content = content[wrapper]
  is_state_dict = isinstance(content, Mapping) and all(isinstance(value, torch.Tensor) for value in content.values())
  if not is_state_dict or not content:
    raise errors.CheckpointError(f"{path} holds no state dict of PyTorch; save model.state_dict()")
  return {str(name).removeprefix(_PARALLEL): tensor.numpy() for name, tensor in content.items()}


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a state dict that `load_state_dict` takes.

  Args:
    path: File to write.
    arrays: Arrays by name.

  Raises:
    I3dError: If torch is not installed.
    OSError: If the file cannot be written.
  """
  torch = import_torch()
  tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
  with workdir.replacing(path) as file:
    torch.save(tensors, file)


def import_torch() -> Any:
  """Returns the module torch.

  Raises:
    I3dError: If it is not installed.
  """
  try:
    import torch
  except ImportError as error:
    raise errors.I3dError(f"PyTorch's files need torch ({error}): pip install 'i3d_tf[torch]'") from None
  return torch


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
