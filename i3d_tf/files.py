"""Reads JSON and NumPy's arrays from files that may be damaged, or made to do harm.

Each reader either returns what it is asked for or raises one sentence that names the file. What a file states about
its own size is compared with the file before memory is allocated, and nothing in a file is run.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import stat
import textwrap
from typing import Any, BinaryIO, IO
import zipfile

import numpy as np

from i3d_tf import errors
from i3d_tf import stores

_MAX_JSON_BYTES = 1 << 28  # a manifest of a million videos has about as many
_MAX_HEADER = 10_000  # characters of an array's description, as NumPy's own limit
_MAX_MEMBERS = 100_000  # of an archive
_MAX_ARCHIVE_BYTES = 1 << 34  # of an archive's content when unpacked
_MAX_DEFLATION = 1032  # the most that deflate can shrink data (zlib.net/zlib_tech.html)
_SLACK_BYTES = 1 << 12
_ARRAY, _ARCHIVE = "an array in NumPy's .npy format", "an archive in NumPy's .npz format"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@contextlib.contextmanager
def guarded(path: str | os.PathLike, what: str, error: type[errors.I3dError] = errors.I3dError) -> Iterator[None]:
  """Turns whatever a parser raises in the body into one sentence.

  Args:
    path: File that is read.
    what: What it should be, for example 'a state dict of PyTorch'.
    error: Class of the error.

  Yields:
    Nothing.

  Raises:
    I3dError: Of the class `error`, if the body raises anything; an I3dError is passed on.
  """
  try:
    yield
  except errors.I3dError:
    raise
  # Parsers of damaged files raise what happens to go wrong in them, such as TokenError, NotImplementedError, struct's
  # and zlib's errors, AssertionError, RecursionError or MemoryError. This is the only place that catches them all.
  except Exception as failure:
    raise error(f"{path}: this is not {what}, or it is damaged{_reason(failure)}") from None


def check_regular(path: str | os.PathLike) -> None:
  """Refuses what only waits to be read, or cannot be read twice, such as a named pipe, a socket or a terminal.

  Args:
    path: The file; a folder or what is not there is left to whoever opens it.

  Raises:
    I3dError: If it is something else than a file.
  """
  with contextlib.suppress(OSError):
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
      raise errors.I3dError(f"{path}: this is a pipe or a device, not a file; write its content to a file first")


def opened(path: str | os.PathLike) -> BinaryIO:
  """Returns a regular file, open for reading bytes; one of an object store is copied to a temporary file.

  Args:
    path: The file.

  Raises:
    I3dError: If it is no regular file.
    OSError: If it cannot be read.
  """
  if stores.is_remote(path):
    with stores.fetched(path) as copy:
      return open(copy, "rb")  # which outlives its name
  check_regular(path)
  return open(path, "rb")


def printable(text: Any, width: int = 160) -> str:
  """Returns a text from a file for a message: one line, shortened, without what a terminal cannot show.

  Args:
    text: The text, or a value that is shown as `str` does.
    width: Number of characters at most.
  """
  clean = "".join(letter if letter.isprintable() else " " for letter in str(text)[: 4 * width])
  return textwrap.shorten(clean, width, placeholder=" ...")


def _reason(failure: Exception) -> str:
  """What a parser says in parentheses, or nothing where it would mislead."""
  text = printable(str(failure).partition("\n")[0])
  # NumPy advises to let the file run code, or to raise its limit; a KeyError says a name only.
  is_bad_advice = any(word in text for word in ("pickle", "max_header_size", "weights_only"))
  return "" if not text or is_bad_advice or isinstance(failure, LookupError) else f" ({text})"


def read_paths(path: str | os.PathLike) -> list[str]:
  """Returns the paths in a text file, one a line; empty lines are none.

  Args:
    path: The file.

  Raises:
    OSError: If it cannot be read.
  """
  lines = pathlib.Path(path).read_text(errors="surrogateescape").splitlines()
  return [line.strip() for line in lines if line.strip()]


def read_json(path: str | os.PathLike, what: str = "JSON") -> Any:
  """Returns the value in a JSON file.

  Args:
    path: The file.
    what: What it should be, for the message.

  Raises:
    I3dError: If it is no JSON, too large, or holds NaN or infinite numbers.
    OSError: If it cannot be read.
  """
  with opened(path) as file:
    content = read_bounded(file, _MAX_JSON_BYTES + 1)
  return parse_json(content, path, what)


def parse_json(content: bytes | str, where: str | os.PathLike, what: str = "JSON", *, finite: bool = True) -> Any:
  """Returns the value of a JSON text.

  Args:
    content: The text.
    where: Where it stands, for the message.
    what: What it should be, for the message.
    finite: Whether to refuse NaN and infinite numbers.

  Raises:
    I3dError: As `read_json`.
  """
  if len(content) > _MAX_JSON_BYTES:
    raise errors.I3dError(f"{where}: this is not {what}: it has more than {_MAX_JSON_BYTES >> 20} MiB")
  with guarded(where, what):
    if not finite:
      return json.loads(content)
    return json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)


def _refuse_constant(name: str) -> float:
  raise ValueError(f"it holds {name}, which is no number")


def _finite(text: str) -> float:
  if not math.isfinite(value := float(text)):
    raise ValueError(f"it holds {text}, which is too large a number")
  return value


@dataclasses.dataclass(frozen=True)
class _Header:
  """What an array's file says of it, after its first `offset` bytes."""

  dtype: np.dtype
  shape: tuple[int, ...]
  order: Any  # 'C' or 'F'
  offset: int

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def read_array(path: str | os.PathLike) -> np.ndarray:
  """Returns the array of numbers or texts in a .npy file.

  Args:
    path: The file.

  Raises:
    I3dError: If it is no such file, or does not hold as much as it states.
    OSError: If it cannot be read.
  """
  with opened(path) as file, guarded(path, _ARRAY):
    _refuse_archive(file, path)
    return _read_array(file, os.fstat(file.fileno()).st_size)


def map_array(path: str | os.PathLike) -> np.ndarray:
  """Returns the array in a .npy file, left there: what is used of it is read then.

  Args:
    path: The file.

  Raises:
    I3dError: As `read_array`.
    OSError: If it cannot be read.
  """
  with opened(path) as file, guarded(path, _ARRAY):
    _refuse_archive(file, path)
    return map_member(file, 0, os.fstat(file.fileno()).st_size)


def map_member(file: BinaryIO, start: int, size: int) -> np.ndarray:
  """Returns an array of an open file, left there.

  Args:
    file: Open for reading.
    start: Where the array begins with its description.
    size: Bytes of it.

  Raises:
    ValueError: If it is none, or larger than its place; call it within `guarded`.
  """
  file.seek(start)
  header = _read_header(file, start + size)
  if not header.nbytes:  # there is nothing to map
    return np.empty(header.shape, header.dtype)
  return np.memmap(file, header.dtype, "r", header.offset, header.shape, header.order)


def read_arrays(path: str | os.PathLike, what: str = _ARCHIVE) -> dict[str, np.ndarray]:
  """Returns the arrays of numbers or texts in an .npz file by name.

  Args:
    path: The file.
    what: What it should be, for the message.

  Raises:
    I3dError: If it is no such file, or does not hold as much as it states.
    OSError: If it cannot be read.
  """
  arrays = {}
  with opened(path) as file, guarded(path, what):
    with open_archive(file) as archive:
      for info in archive.infolist():
        with archive.open(info) as member:
          arrays[info.filename.removesuffix(".npy")] = _read_array(member, info.file_size)
  return arrays


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
  """Returns a ZIP archive whose members state sizes that are possible.

  Args:
    file: Open for reading.

  Raises:
    ValueError: If the members are too many, or larger than what the file can hold.
    Exception: Others of the module zipfile, if it is no such archive; call it within `guarded`.
  """
  size = file.seek(0, os.SEEK_END)
  archive = zipfile.ZipFile(file)
  members = archive.infolist()
  if len(members) > _MAX_MEMBERS or len({member.filename for member in members}) < len(members):
    raise ValueError(f"it has {len(members)} members, or some of one name")
  # The members of an honest archive do not overlap.
  if sum(member.compress_size for member in members) > size:
    raise ValueError("its members state more bytes than it has")
  for member in members:
    is_stored = member.compress_type == zipfile.ZIP_STORED
    if not is_stored and member.compress_type != zipfile.ZIP_DEFLATED:
      raise ValueError("its compression is neither deflate nor none")
    most = member.compress_size * (1 if is_stored else _MAX_DEFLATION) + (0 if is_stored else _SLACK_BYTES)
    if not 0 <= member.file_size <= most:
      raise ValueError(f"{printable(member.filename, 40)} states {member.file_size:,} bytes, more than it can hold")
  if sum(member.file_size for member in members) > _MAX_ARCHIVE_BYTES:
    raise ValueError(f"unpacked, it would have more than {_MAX_ARCHIVE_BYTES >> 30} GiB")
  return archive


def _refuse_archive(file: BinaryIO, path: str | os.PathLike) -> None:
  if zipfile.is_zipfile(file):
    raise errors.I3dError(f"{path}: this is an .npz archive; it must be one array in NumPy's .npy format")
  file.seek(0)


def _read_header(file: IO[bytes], size: int) -> _Header:
  """Reads an array's description; ValueError if it is of Python's objects, or larger than the `size` of its file."""
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:  # 3.0 is for field names that are not Latin
    raise ValueError(f"its version is {version[0]}.{version[1]}")
  shape, is_fortran, dtype = _HEADERS[version](file, max_header_size=_MAX_HEADER)
  if dtype.kind not in "biufcUS" or not dtype.itemsize:
    raise ValueError(f"its values are of type {printable(dtype, 40)}, neither numbers nor texts")
  if any(extent < 0 for extent in shape) or len(shape) > 32:
    raise ValueError(f"its shape is {printable(shape, 80)}")
  header = _Header(dtype, tuple(map(int, shape)), "F" if is_fortran else "C", file.tell())
  if header.nbytes > size - header.offset:
    held = max(0, size - header.offset)
    raise ValueError(f"its shape {printable(shape, 80)} takes {header.nbytes:,} bytes, of which it has {held:,}")
  return header


def read_bounded(file: BinaryIO, most: int) -> bytes:
  """Returns what is left of a file, or its first bytes.

  Args:
    file: Open for reading.
    most: Number of bytes at most.
  """
  size = os.fstat(file.fileno()).st_size  # a read takes as much memory as it asks for
  return file.read(min(most, size + 1) if size else most)


def read_exactly(file: IO[bytes], count: int) -> np.ndarray:
  """Returns bytes of a file, uint8 `[count]`.

  Args:
    file: Open for reading, at the first of them.
    count: Their number, which was compared with the file's size before.

  Raises:
    ValueError: If the file ends before.
  """
  values = np.empty(count, np.uint8)
  view, done = values.data, 0
  while done < count:
    piece = file.read(min(1 << 18, count - done))
    if not piece:
      raise ValueError(f"it ends after {done:,} of {count:,} bytes")
    view[done : done + len(piece)] = piece
    done += len(piece)
  return values


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
  """Reads an array whose file has `size` bytes."""
  header = _read_header(file, size)
  values = read_exactly(file, header.nbytes)
  array = values.view(header.dtype).reshape(header.shape, order=header.order)
  if header.dtype.kind == "U" and array.size and np.max(array.reshape(-1).view(_points(header.dtype))) > 0x10FFFF:
    raise ValueError("its texts are no Unicode")
  return array


def _points(dtype: np.dtype) -> np.dtype:
  """The type of the code points of texts, in their byte order."""
  return np.dtype(np.uint32).newbyteorder(dtype.byteorder)


def read_facts(arrays: dict[str, np.ndarray], name: str, where: str | os.PathLike) -> dict[str, Any]:
  """Takes a JSON object, stored as a text, out of the arrays of an archive.

  Args:
    arrays: As `read_arrays` returns them; the text is removed.
    name: Name of the text.
    where: Path of the archive, for the message.

  Returns:
    The object.

  Raises:
    I3dError: If there is none.
  """
  text = arrays.pop(name, np.zeros(0))
  if text.shape == () and text.dtype.kind == "U":
    facts = parse_json(str(text), where, "an archive of ours")
    if isinstance(facts, Mapping):
      return dict(facts)
  raise errors.I3dError(f"{where}: it has no description {name!r}; it was not written by this project, or is damaged")
