"""PyTorch's weights of any network that is read: which one they are of, and its variables by our names."""

from collections.abc import Mapping
import os

import numpy as np

from i3d_tf.weights import torch_i3d
from i3d_tf.weights import torch_resnet
from i3d_tf.weights import torch_s3d

# Each finds by the names in a state dict which network of its family that is of. I3D comes last, and says so if it is
# of none.
_FAMILIES = (torch_resnet, torch_s3d)


def from_torch(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> tuple[str, dict[str, np.ndarray]]:
  """The network's name in the zoo, and its variables, from a state dict; `path` is its file, for messages.

  Raises:
    CheckpointError: if it is of no network, or listing what is missing, unmatched or misshapen.
  """
  for family in _FAMILIES:
    model = family.find(arrays)
    if model is not None:
      return model, family.from_torch(arrays, model, path)
  return "i3d", torch_i3d.from_torch(arrays, path)
