"""Architectures of "Rethinking Spatiotemporal Feature Learning" (arXiv 1712.04851), by the rows of `inception_spec`.

Which rows have temporal kernels, whether these are convolutions of their own, and which rows have gates. Imports no
TensorFlow. S3D comes in two dialects: that of tensorflow/models research/slim/nets/s3dg.py, and that of torchvision
and of kylemin/S3D.
"""

from collections.abc import Iterable
import dataclasses

from i3d_tf.models import inception_spec as spec

FIRST_KERNELS = (1, 3, 5, 7)
_STEM = spec.ROWS[0].name
# torchvision's transforms for its video networks.
_TORCHVISION_RGB = {"rgb_mean": (0.43216, 0.394666, 0.37645), "rgb_std": (0.22803, 0.22145, 0.216989)}


def mixed_depth(*, first_3d: str | None = None, last_3d: str | None = None) -> spec.Architecture:
  """I3D with temporal kernels in a part of it only; elsewhere convolutions are 1 x k x k, pools and strides stay.

  Args:
    first_3d: endpoint at which temporal kernels begin: a top-heavy network. None: at the first; 'Logits': nowhere.
    last_3d: endpoint with which they end: a bottom-heavy network. None: with the last.

  Raises:
    ValueError: for an endpoint that I3D has not, or an end that comes before the beginning.
  """
  names = [*(spec.endpoint_name(row) for row in spec.ROWS), spec.LOGITS]
  first, last = _index(names, first_3d, 0), _index(names, last_3d, len(names) - 1)
  if last < first:
    raise ValueError(f"last_3d is {last_3d}, which comes before first_3d, {first_3d}")
  return dataclasses.replace(spec.I3D, flat=frozenset(_outside(first, last)))


# Every frame by itself, but for the pools.
I2D = dataclasses.replace(spec.I3D, flat=frozenset(row.name for row in spec.ROWS))


def s3d(
  *,
  first_kernel: int = 3,
  separable_stem: bool = False,
  first_3d: str = "Conv2d_2c_3x3",
  first_gate: str | None = None,
) -> spec.Architecture:
  """S3D in the dialect of slim: a temporal convolution has a bias and no batch norm, and starts as the identity.

  Args:
    first_kernel: temporal extent of the first convolution, one of `FIRST_KERNELS`; 7 in the paper, 3 in slim.
    separable_stem: the first convolution, too, is one in space and one in time; slim has none of that kind.
    first_3d: endpoint, beyond the first, at which temporal kernels begin: the later, the lighter. 'Logits': nowhere.
    first_gate: endpoint at which gates begin, 'Conv2d_2c_3x3' in S3D-G; None: there are none.

  Raises:
    ValueError: for another kernel, or an endpoint that S3D has not.
  """
  if first_kernel not in FIRST_KERNELS:
    raise ValueError(f"first_kernel is {first_kernel}; allowed are {', '.join(map(str, FIRST_KERNELS))}")
  base = spec.Architecture(
    kernels={**spec.I3D.kernels, _STEM: first_kernel},
    strides=spec.I3D.strides,
    regular_names=True,
    conv_prefix="Conv2d",
    pool_prefix="MaxPool",
  )
  names = [*(spec.endpoint_name(row, base) for row in spec.ROWS), spec.LOGITS]
  last = len(names) - 1
  gated = () if first_gate is None else _convolutions(spec.ROWS[_index(names, first_gate, 0) :])
  return dataclasses.replace(
    base,
    flat=frozenset(_outside(_index(names, first_3d, 0), last)) - {_STEM},
    separable=frozenset(_convolutions(spec.ROWS)) | ({_STEM} if separable_stem else set()),
    gated=frozenset(gated),
  )


def s3d_torchvision(*, gated: bool = False, normalizes: bool = True) -> spec.Architecture:
  """S3D in the dialect of torchvision and kylemin/S3D.

  Both halves of every separable convolution, of which the first is one, have batch norm with a gamma; padding is the
  same on both sides.

  Args:
    gated: with the gates of S3D-G, which neither of the two has.
    normalizes: normalise pixels as torchvision does; kylemin/S3D takes them in [-1, 1].
  """
  slim = s3d(first_kernel=7, separable_stem=True, first_gate="Conv2d_2c_3x3" if gated else None)
  return dataclasses.replace(
    slim,
    temporal_batch_norm=True,
    batch_norm_scale=True,
    symmetric_padding=True,
    **(_TORCHVISION_RGB if normalizes else {}),
  )


def _index(names: list[str], name: str | None, default: int) -> int:
  if name is None:
    return default
  if name not in names:
    raise ValueError(f"there is no endpoint {name!r}; allowed are {', '.join(names)}")
  return names.index(name)


def _convolutions(rows: Iterable[spec.Row]) -> list[str]:
  """Names of the rows that have a convolution wider than 1x1, but for the first row."""
  wide = lambda row: isinstance(row, spec.Mixed) or (isinstance(row, spec.Conv) and row.kernel > 1)
  return [row.name for row in rows if wide(row) and row.name != _STEM]


def _outside(first: int, last: int) -> list[str]:
  return [row.name for index, row in enumerate(spec.ROWS) if not first <= index <= last]
