"""PyTorch's weights of any network that is read: which one they are of, and its variables by our names."""

from collections.abc import Mapping
import os

import numpy as np

from i3d_tf.weights import pytorch_inception
from i3d_tf.weights import pytorch_resnet

# Each finds by its names which network of its family a state dict is of. X3D comes before other networks of the same
# projects, whose first kernel is called as one of its own.
_FAMILIES = (pytorch_resnet, pytorch_inception, pytorch_resnet)


def from_torch(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> tuple[str, dict[str, np.ndarray]]:
  """The network's name in the zoo, and its variables, from a state dict; `path` is its file, for messages.

  Raises:
    CheckpointError: if it is of no network (then by I3D's), or listing what is missing, unmatched or misshapen.
  """
  for family in _FAMILIES:
    model = family.find(arrays, path)
    if model is not None:
      return model, family.from_torch(arrays, model, path)
  return "i3d", pytorch_inception.i3d_from_torch(arrays, path)
