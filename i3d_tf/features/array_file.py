"""Arrays that grow along their first axis and may become larger than the memory."""

import math
import tempfile
from typing import BinaryIO

import numpy as np

_IN_MEMORY = 64 * 2**20  # bytes; what is larger goes to a temporary file
_PIECE = 2**20  # bytes copied at once


class ArrayFile:
  """An array `[N, ...]` to which rows are appended; small ones are in memory, large ones in a temporary file.

  Use it in a `with` statement, which removes the file.
  """

  def __init__(self, folder: str | None = None):
    """`folder` is where the temporary file is; None: where the system has its own."""
    self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)
    self._count = 0
    self._row_shape = None
    self.dtype = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._file.close()

  @property
  def shape(self) -> tuple[int, ...]:
    """Before the first rows `(0,)`."""
    return (self._count, *(self._row_shape or ()))

  @property
  def _stored_dtype(self) -> np.dtype:
    return np.dtype(np.float32 if self.dtype is None else self.dtype)

  def append(self, rows: np.ndarray) -> None:
    """Appends `[n, ...]`; ValueError if rows have another shape or type than those before."""
    if self._row_shape is None:
      self._row_shape, self.dtype = rows.shape[1:], rows.dtype
    if (rows.shape[1:], rows.dtype) != (self._row_shape, self.dtype):
      raise ValueError(f"rows are {rows.dtype} {rows.shape[1:]}; those before were {self.dtype} {self._row_shape}")
    self._file.write(np.ascontiguousarray(rows).data)
    self._count += len(rows)

  def load(self) -> np.ndarray:
    """All of it, in memory."""
    self._file.seek(0)
    return np.frombuffer(self._file.read(), self._stored_dtype).reshape(self.shape)

  def write_npy(self, file: BinaryIO, shape: tuple[int, ...] | None = None) -> None:
    """Writes it in NumPy's .npy format, piece by piece, with `shape` (of as many values) in place of its own."""
    shape = self.shape if shape is None else shape
    if math.prod(shape) != math.prod(self.shape):
      raise ValueError(f"shape is {shape}; the array has {self.shape}")
    descr = np.lib.format.dtype_to_descr(self._stored_dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    self._file.seek(0)
    while piece := self._file.read(_PIECE):
      file.write(piece)
