"""Arrays of videos: the order of their axes, the range of their values, and the files that hold them.

Files are .npy, .npz (one clip or several in each array) and HDF5. What is in them is left there until it is used.
"""

from collections.abc import Mapping
import dataclasses
import os
import shutil
import struct
import tempfile
import types
from typing import Any
import zipfile

import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf.models import inception_spec

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5")
_HDF5 = (".h5", ".hdf5")
_LEAST_FRAMES = inception_spec.I3D.clip_limits[0]
LAYOUTS = ("nthwc", "ncthw", "ntchw")  # N videos, T frames, H, W, C = 3 colours
_SPAN: Mapping[str, tuple[float, float]] = types.MappingProxyType(
  {"0_255": (0.0, 255.0), "0_1": (0.0, 1.0), "minus1_1": (-1.0, 1.0)}
)
_SLACK = 1e-3  # by which values may lie outside of their range, as a share of it: google-research's own checks allow it
_SNAP = 1e-3  # of a byte: what differs less from one was a byte before it was divided
_LOCAL_HEADER = 30  # bytes of a member's header in a ZIP archive, without its name and extra field
_FACTS = "facts.npy"  # a member of our saved statistics


@dataclasses.dataclass
class ClipFormat:
  """How arrays become clips of bytes, or of floating point from 0 to 255.

  Attributes:
    layout: 'nthwc', 'ncthw', 'ntchw' or 'auto'; of one clip the same without n.
    value_range: of floating point: '0_255', '0_1' or 'minus1_1'; None if there is to be none.
    to_bytes: whether floating point is rounded to bytes, as universome/stylegan-v's metric_utils.py does.
    least, most: the smallest and the largest value of the floats that were seen, in their own range.
  """

  layout: str = "auto"
  value_range: str | None = None
  to_bytes: bool = False
  least: float = np.inf
  most: float = -np.inf

  def axes(self, array: Any, where: str, *, ranks: tuple[int, ...] = (4, 5)) -> tuple[int, ...]:
    """Returns the order of an array's axes in which it is `[T, H, W, 3]` or `[N, T, H, W, 3]`.

    Args:
      array: an array, or what has its shape and type.
      where: names it in the message.
      ranks: 4 if it may be one clip, 5 if it may be several.

    Raises:
      I3dError: if it is no such array, or its layout is ambiguous.
    """
    check_array(array, where, ranks=ranks)
    cut = 5 - len(array.shape)
    names = [name[cut:] for name in (LAYOUTS if self.layout == "auto" else (self.layout,))]
    fitting = [name for name in names if array.shape[name.index("c")] == 3]
    if len(fitting) > 1:  # a network takes no shorter clip
      fitting = [name for name in fitting if array.shape[name.index("t")] >= _LEAST_FRAMES] or fitting
    if len(fitting) == 1:
      return tuple(fitting[0].index(axis) for axis in LAYOUTS[0][cut:])
    shape = f"{where}: the array has the shape {list(array.shape)}, "
    if fitting:
      raise errors.I3dError(f"{shape}which may be {' or '.join(fitting)}; state the layout, such as layout=nthwc")
    raise errors.I3dError(f"{shape}without an axis of 3 colours where layout {' or '.join(names)} has it")

  def to_clip(self, frames: np.ndarray, where: str) -> np.ndarray:
    """Returns frames as uint8, or float32 from 0 to 255.

    Args:
      frames: `[T, H, W, 3]`: integers from 0 to 255, or floating point in `value_range`.
      where: names them in the message.

    Raises:
      I3dError: if the values are outside of their range, not finite, or it is not stated.
    """
    if frames.dtype == np.uint8:
      return frames
    least, most = (float(each) for each in (frames.min(), frames.max()))
    if not np.isfinite([least, most]).all():
      raise errors.I3dError(f"{where}: the clip holds values that are not finite")
    if np.issubdtype(frames.dtype, np.integer):
      if least < 0 or most > 255:
        raise errors.I3dError(f"{where}: the clip has integers from {least:g} to {most:g}; they must be from 0 to 255")
      return frames.astype(np.uint8)
    self._check_range(least, most, where)
    self.least, self.most = min(self.least, least), max(self.most, most)
    low, high = _SPAN[str(self.value_range)]
    values = np.clip((frames.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    if self.to_bytes:  # the added half is that of img * 127.5 + 128
      return np.minimum(np.floor(values + 0.5), 255).astype(np.uint8)
    rounded = np.rint(values)
    return np.where(np.abs(values - rounded) < _SNAP, rounded, values).astype(np.float32)

  def _check_range(self, least: float, most: float, where: str) -> None:
    likely = "minus1_1" if least < 0 and most <= 1.01 else "0_1" if most <= 1.01 else "0_255"
    span = f"values from {least:.4g} to {most:.4g}"
    if self.value_range is None:
      raise errors.I3dError(f"{where}: the clip is floating point with {span}; state its range, value_range={likely}")
    low, high = _SPAN[self.value_range]
    slack = _SLACK * (high - low)
    is_fraction = self.value_range == "0_255" and 0 < most <= 1
    if least < low - slack or most > high + slack or is_fraction:
      raise errors.I3dError(
        f"{where}: value_range is {self.value_range}, but the clip has {span}; did you mean value_range={likely}?"
      )

  def doubt(self) -> str | None:
    """Returns a sentence if the values of all clips together do not look like the range that was stated, or None."""
    if self.value_range == "minus1_1" and 0 <= self.least < self.most:
      return "no value is below 0, although value_range is minus1_1; did you mean value_range=0_1?"
    return None


def check_array(array: Any, where: str, *, ranks: tuple[int, ...] = (4, 5)) -> None:
  """Checks that something is an array of one clip or several.

  Args:
    array: anything.
    where: names it in the message.
    ranks: 4 if it may be one clip, 5 if it may be several.

  Raises:
    I3dError: if it is not.
  """
  is_array = hasattr(array, "shape") and hasattr(array, "dtype")
  if is_array and len(array.shape) in ranks and array.dtype.kind in "uif":
    return
  given = f"the array is {array.dtype} {list(array.shape)}" if is_array else f"this is of type {type(array).__name__}"
  shapes = {4: "[frames, height, width, 3]", 5: "[videos, frames, height, width, 3]"}
  allowed = " or ".join(shapes[rank] for rank in sorted(ranks))
  raise errors.I3dError(f"{where}: {given}; it must be {allowed} of bytes or floating point, or in another layout")


def is_statistics(path: str | os.PathLike) -> bool:
  """Returns whether an .npz file is saved statistics, or no archive of arrays that could be videos.

  Args:
    path: any path.
  """
  if not os.fspath(path).lower().endswith(".npz"):
    return False
  try:
    with files.opened(path) as file, zipfile.ZipFile(file) as archive:
      return _FACTS in archive.namelist() or not archive.namelist()
  except (errors.I3dError, OSError, zipfile.BadZipFile):
    return True


def open_file(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the arrays in a file by name; in an .npy file the name is ''.

  Args:
    path: a file that ends as `SUFFIXES` say.

  Raises:
    I3dError: if it is no such file, or damaged.
    OSError: if it cannot be read.
  """
  suffix = os.path.splitext(path)[1].lower()
  if suffix in _HDF5:
    return _open_hdf5(path)
  return {"": files.map_array(path)} if suffix == ".npy" else _open_npz(path)


def _open_hdf5(path: str | os.PathLike) -> dict[str, Any]:
  import h5py  # which TensorFlow itself needs

  files.check_regular(path)
  found: dict[str, Any] = {}
  with files.guarded(path, "an HDF5 file"):
    # HDF5 may name other files, and filters of its own may be anything; neither is followed.
    file = h5py.File(path, "r")
    for name in sorted(file):
      if file.get(name, getlink=True).__class__ is h5py.HardLink and isinstance(file[name], h5py.Dataset):
        found[name] = _Hdf5Array(file[name])
  return found


class _Hdf5Array:
  """A dataset of HDF5, of which one video is read at a time."""

  def __init__(self, dataset: Any):
    self._dataset = dataset
    self.shape, self.dtype = dataset.shape, dataset.dtype

  def __getitem__(self, index: Any) -> np.ndarray:
    return np.asarray(self._dataset[index])


def _open_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  found = {}
  with files.opened(path) as file, files.guarded(path, "an archive in NumPy's .npz format"):
    with files.open_archive(file) as archive:
      for info in archive.infolist():
        if info.compress_type == zipfile.ZIP_STORED:
          file.seek(info.header_offset)
          names = struct.unpack("<HH", file.read(_LOCAL_HEADER)[-4:])
          start = info.header_offset + _LOCAL_HEADER + sum(names)
          found[info.filename.removesuffix(".npy")] = files.map_member(file, start, info.file_size)
        else:  # unpacked on disk, not in memory
          with tempfile.TemporaryFile() as unpacked, archive.open(info) as member:
            shutil.copyfileobj(member, unpacked)
            found[info.filename.removesuffix(".npy")] = files.map_member(unpacked, 0, info.file_size)
  return found
