"""PyTorch's files of weights as named arrays. They need torch, the extra `torch`; nothing else here does."""

from collections.abc import Mapping
import os
import pickle
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import files

SUFFIXES = (".pt", ".pth", ".pyth")
_WRAPPERS = ("state_dict", "model_state")  # under which training scripts keep the weights beside other things
_PARALLEL = "module."  # what DataParallel puts before every name


def is_torch(path: str | os.PathLike) -> bool:
  """Whether `read` is the one to read it."""
  return os.fspath(path).endswith(SUFFIXES) and os.path.isfile(path)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a state dict, alone in its file or beside other things, with or without DataParallel's prefix.

  Only tensors are unpickled, so that a file cannot run code.

  Raises:
    I3dError: if torch is not installed.
    CheckpointError: if it is no such file.
    OSError: if it cannot be read.
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

  Raises:
    I3dError: if torch is not installed.
    OSError: if it cannot be written.
  """
  torch = import_torch()
  tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
  with files.replacing(path) as file:
    torch.save(tensors, file)


def import_torch() -> Any:
  """The module torch; I3dError if it is not installed."""
  try:
    import torch
  except ImportError as error:
    raise errors.I3dError(f"PyTorch's files need torch ({error}): pip install 'i3d_tf[torch]'") from None
  return torch
