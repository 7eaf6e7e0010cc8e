"""Carrying weights from one network to another: other inputs."""

import numpy as np


def adapt_in_channels(kernel: np.ndarray, in_channels: int, *, rescale: bool = False) -> np.ndarray:
  """The first kernel for another kind of input: the mean over its inputs, repeated.

  The rule is that of Temporal Segment Networks (yjxiong/tsn-pytorch, cross-modality initialisation); the I3D release
  does not say how its flow networks were started.

  Args:
    kernel: `[..., Cin, Cout]`.
    in_channels: the new Cin.
    rescale: multiply by (old Cin) / (new Cin), so that equal inputs keep their response.

  Returns:
    `[..., in_channels, Cout]`, of the kernel's dtype.
  """
  mean = kernel.mean(axis=-2, keepdims=True, dtype=np.float64)
  if rescale:
    mean *= kernel.shape[-2] / in_channels
  return np.repeat(mean, in_channels, axis=-2).astype(kernel.dtype)
