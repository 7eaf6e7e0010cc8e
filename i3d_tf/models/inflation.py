"""Carrying weights from one network to another: from two dimensions to three, and to other inputs."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from i3d_tf import fields
from i3d_tf.models import inception_spec as spec

MODES = ("mean", "center")
_BATCH_NORM = ("beta", "moving_mean", "moving_variance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InflationConfig:
  """How Inception-v1 is inflated to I3D.

  Attributes:
    stream: Stream of the new network. If it has other input channels than the old network's, each gets the mean of the
      first kernel over the old ones. None: the stream of the old network.
    mode: How a kernel gets N steps in time. mean: each step is the old kernel divided by N, as in the paper. center:
      the middle step is the old kernel, the others are 0.
    rescale_first_kernel: If the input channels differ: multiply the first kernel by their old number divided by the
      new one, so that its response to inputs that are equal in all channels stays.
  """

  stream: str | None = fields.option(None, choices=("rgb", "flow"))
  mode: str = fields.option("mean", choices=MODES)
  rescale_first_kernel: bool = False

  def __post_init__(self):
    fields.check(self)


def inflate(
  values: Mapping[str, np.ndarray], architecture: spec.Architecture = spec.I3D, *, mode: str = "mean"
) -> dict[str, np.ndarray]:
  """Makes I3D's variables from those of Inception-v1, all but the classifier's, which is new for videos.

  Kernels are inflated by `inflate_kernel`, batch-norm vectors copied. So, with moving statistics, I3D returns for a
  still video what Inception-v1 returns for its frame: by 'mean' (arXiv 1705.07750, section 2.4) at the steps whose
  receptive field lies within the video, or at all with temporal_padding='edge'; by 'center' at all.

  Of other architectures the temporal halves of convolutions, and gates, stay new. Without gates the same is true of
  them, if temporal halves start as the identity.

  Args:
    values: those of an `InceptionV1` of any width and number of channels, by names without the module's.
    architecture: of the new network.
    mode: one of `MODES`.

  Returns:
    228 values by the new network's names, for instance 'Conv3d_1a_7x7/conv_3d/w'.

  Raises:
    ValueError: for another mode, or naming the variables that are missing, and those that Inception-v1 does not have.
  """
  missing = [name for name in spec.variable_shapes(spec.INCEPTION_V1) if name not in values and not _is_head(name)]
  strangers = [name for name in values if name not in spec.variable_shapes(spec.INCEPTION_V1)]
  if missing or strangers:
    raise ValueError(f"these are not Inception-v1's variables: missing are {missing}, and unknown {strangers}")
  inflated = {}
  deep_units = (unit for unit in spec.units(architecture) if unit.part in (spec.WHOLE, spec.SPATIAL))
  for flat, deep in zip(spec.units(spec.INCEPTION_V1), deep_units, strict=True):
    if deep.batch_norm:
      steps = deep.kernel[0]
      inflated[f"{deep.name}/conv_3d/w"] = inflate_kernel(values[f"{flat.name}/conv_3d/w"], steps, mode=mode)
      inflated |= {f"{deep.name}/batch_norm/{name}": values[f"{flat.name}/batch_norm/{name}"] for name in _BATCH_NORM}
  return inflated


def inflate_to(
  values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, mode: str = "mean"
) -> dict[str, np.ndarray]:
  """Returns the variables of an image network, inflated to a video network's that has the same names.

  Kernels are inflated by `inflate_kernel` to the steps that they have there, tables of Swin's biases for offsets in
  space are repeated for each offset in time, and vectors copied; the classifier's are left out.

  Args:
    values: by names without the module's.
    shapes: of the new network's variables.
    mode: one of `MODES`.

  Raises:
    ValueError: for another mode; naming variables that the new network does not have.
  """
  trunk = {name: value for name, value in values.items() if not _is_head(name)}
  if strangers := [name for name in trunk if name not in shapes]:
    raise ValueError(f"the new network has no variables {', '.join(strangers[:3])}")
  inflated = {
    5: lambda value, length: inflate_kernel(value, length, mode=mode),
    2: lambda value, length: np.tile(value, (length // len(value), 1)),
    1: lambda value, length: value,
  }
  return {name: inflated[value.ndim](value, shapes[name][0]) for name, value in trunk.items()}


def inflate_kernel(kernel: np.ndarray, steps: int, *, mode: str = "mean") -> np.ndarray:
  """Returns a kernel `[steps, kh, kw, Cin, Cout]`, of its dtype, made from one of a single step in time.

  Args:
    kernel: `[1, kh, kw, Cin, Cout]`.
    steps: N, at least 1.
    mode: 'mean': each step is the kernel divided by N. 'center': step floor((N - 1) / 2), the one that SAME padding
      puts on the output's own step, is the kernel, and the others are 0; of an even N it is the earlier of the middle
      two.

  Raises:
    ValueError: for a kernel that has a temporal extent already, or another mode.
  """
  if kernel.ndim != 5 or kernel.shape[0] != 1:
    raise ValueError(f"kernel has shape {kernel.shape}; it must be [1, height, width, channels in, channels out]")
  if mode not in MODES:
    raise ValueError(f"mode is {mode!r}; allowed are {', '.join(MODES)}")
  weights = np.full(steps, 1 / steps) if mode == "mean" else np.arange(steps) == (steps - 1) // 2
  return (weights.reshape(-1, 1, 1, 1, 1) * kernel).astype(kernel.dtype)


def adapt_in_channels(kernel: np.ndarray, in_channels: int, *, rescale: bool = False) -> np.ndarray:
  """Returns a first kernel `[..., in_channels, Cout]`, of its dtype: the mean over its inputs, repeated.

  The rule is that of Temporal Segment Networks (yjxiong/tsn-pytorch, cross-modality initialisation); the I3D release
  does not say how its flow networks were started.

  Args:
    kernel: `[..., Cin, Cout]`.
    in_channels: the new Cin.
    rescale: multiply by (old Cin) / (new Cin), so that equal inputs keep their response.
  """
  mean = kernel.mean(axis=-2, keepdims=True, dtype=np.float64)
  if rescale:
    mean *= kernel.shape[-2] / in_channels
  return np.repeat(mean, in_channels, axis=-2).astype(kernel.dtype)


def _is_head(name: str) -> bool:
  return name.startswith(f"{spec.LOGITS}/")
