"""Between the variables of our networks and PyTorch's state dicts, given what each is called there."""

from collections.abc import Mapping

import numpy as np

from i3d_tf.weights import bundle

# By the last part of our name, that of the module of PyTorch's; the kernel's and the bias' module is the convolution.
VECTORS: Mapping[str, str] = {
    "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
COUNTER = ".num_batches_tracked"  # of PyTorch's batch norm, of use for cumulative averages only
FROM_TORCH = (2, 3, 4, 1, 0)  # [Cout, Cin, kt, kh, kw] to [kt, kh, kw, Cin, Cout]


def convert(
  arrays: Mapping[str, np.ndarray], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, np.ndarray]:
  """Our variables from a state dict.

  Args:
    arrays: the state dict.
    names: PyTorch's name of each of our variables.
    shapes: of our variables.
    what: the beginning of a message, for example 'made.pth is not of S3D'.

  Raises:
    CheckpointError: listing what is missing, unmatched or misshapen.
  """
  own = {name: array for name, array in arrays.items() if not name.endswith(COUNTER)}
  wanted = set(names.values())
  bundle.raise_for({"missing": sorted(wanted - set(own)), "unmatched": sorted(set(own) - wanted)}, what)
  values = {name: _ours(own[theirs], shapes[name]) for name, theirs in names.items()}
  misshapen = [
    f"{names[name]} {value.dtype} {own[names[name]].shape} for {shapes[name]}"
    for name, value in values.items()
    if value.dtype != np.float32 or value.shape != shapes[name]
  ]
  bundle.raise_for({"misshapen": misshapen}, what)
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
