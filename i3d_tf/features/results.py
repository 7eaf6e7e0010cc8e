"""Where features are kept: while they are computed in growing arrays, then in the files of an output folder.

The folder also holds manifest.jsonl, which says what became of every input.

A video's files are put in place one by one, each whole, and after them, by one more rename, a piece of the manifest in
a work folder. So a process can be killed at any moment, and several can work in one folder at the same time.
"""

from collections.abc import Mapping
import copy
import hashlib
import json
import os
import pathlib
import tempfile
from typing import Any, IO
import zipfile

import numpy as np

from i3d_tf import errors
from i3d_tf import workdir

INFO = "extraction.json"
MANIFEST = "manifest.jsonl"
_IN_MEMORY = 64 * 2**20  # bytes of an array; a larger one goes to a temporary file
_PIECE = 2**20  # bytes read or copied at once

Entry = dict[str, Any]
# By the file's path below the output folder: the array of a .npy, or the arrays by key of an .npz.
Files = Mapping[str, "np.ndarray | Mapping[str, np.ndarray | np.generic | ArrayFile]"]


class ArrayFile:
  """An array `[N, ...]` to which rows are appended; a small one is in memory, a large one in a temporary file.

  Use it in a `with` statement, which removes the file.

  Attributes:
    shape: Of the whole; before the first rows `(0,)`.
    dtype: Of the rows; before the first ones float32.
  """

  def __init__(self) -> None:
    """Makes an empty array."""
    self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)
    self.shape: tuple[int, ...] = (0,)
    self.dtype = np.dtype(np.float32)

  def __enter__(self) -> "ArrayFile":
    return self

  def __exit__(self, *_: object) -> None:
    self._file.close()

  def append(self, rows: np.ndarray) -> None:
    """Appends rows.

    Args:
      rows: `[n, ...]`.

    Raises:
      ValueError: If they have another shape or type than those before.
    """
    if self.shape == (0,):
      self.shape, self.dtype = (0, *rows.shape[1:]), rows.dtype
    if (rows.shape[1:], rows.dtype) != (self.shape[1:], self.dtype):
      raise ValueError(f"rows are {rows.dtype} {rows.shape[1:]}; those before were {self.dtype} {self.shape[1:]}")
    self._file.write(np.ascontiguousarray(rows).data)
    self.shape = (self.shape[0] + len(rows), *self.shape[1:])

  def load(self) -> np.ndarray:
    """Returns all of it, in memory."""
    self._file.seek(0)
    return np.frombuffer(self._file.read(), self.dtype).reshape(self.shape)

  def without_axis(self, axis: int) -> "ArrayFile":
    """Returns the same array, to be read only, without an axis of length 1.

    Args:
      axis: Number of the axis, from 1 on; an array without rows has none.
    """
    other = copy.copy(self)
    other.shape = (*self.shape[:axis], *self.shape[axis + 1 :])
    return other

  def write_npy(self, file: IO[bytes]) -> None:
    """Writes it in NumPy's .npy format, piece by piece.

    Args:
      file: Where to.
    """
    descr = np.lib.format.dtype_to_descr(self.dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": self.shape})
    self._file.seek(0)
    while piece := self._file.read(_PIECE):
      file.write(piece)


class Folder(workdir.Workdir):
  """An output folder.

  An entry of its manifest has the `input` and its `id`, and either `outputs` (of each file its `path`, `shape` and
  `sha256`), `frames`, `fps`, `seconds` that it took, and `notes` of special videos, or the `error` in one sentence.

  Attributes:
    manifest: Path of the manifest.
  """

  def __init__(self, path: str | os.PathLike, *, part: str = ""):
    """Names the folder.

    Args:
      path: The folder; `claim` makes it.
      part: Name of the share of it that this process works on, if several share it.
    """
    super().__init__(path, INFO, foreign=(MANIFEST,), part=part)
    self.manifest = self.path / MANIFEST
    self._pieces = self.path / workdir.WORK  # of the manifest, of all processes

  def entries(self) -> dict[str, Entry]:
    """Returns the entries of all inputs done so far, by input.

    Raises:
      I3dError: If the manifest is not one of ours.
    """
    with workdir.locked(self.path, wait=True):  # or a piece may go into the manifest just now
      return self._entries()

  def _entries(self) -> dict[str, Entry]:
    found = {}
    lines = self.manifest.read_text(encoding="utf-8").splitlines() if self.manifest.exists() else []
    for number, line in enumerate(lines, start=1):
      try:
        entry = json.loads(line)
        found[entry["input"]] = entry
      except (ValueError, LookupError, TypeError):
        raise errors.I3dError(f"{self.manifest}: line {number} is not what extract_features writes") from None
    for piece in sorted(self._pieces.glob("*.json")):
      entry = json.loads(piece.read_text(encoding="utf-8"))
      found[entry["input"]] = entry
    return found

  def is_done(self, entry: Entry | None, *, retry_failures: bool = False) -> bool:
    """Returns whether an input need not be done (again): its files are there, or it has failed before.

    Args:
      entry: The input's entry; None if it has none.
      retry_failures: Whether inputs that have failed are to be tried again.
    """
    if entry is None:
      return False
    if "error" in entry:
      return not retry_failures
    return all((self.path / output["path"]).is_file() for output in entry["outputs"])

  def put(self, entry: Entry) -> None:
    """Keeps an entry in place of an earlier one of its input.

    Args:
      entry: See the class.
    """
    self._pieces.mkdir(exist_ok=True)
    with workdir.replacing(self._pieces / f"{_digest(entry['input'])}.json") as file:
      file.write(json.dumps(entry).encode())

  def write(self, contents: Files) -> list[dict[str, Any]]:
    """Writes a video's files.

    Args:
      contents: What they hold.

    Returns:
      The `outputs` of its entry.
    """
    outputs = []
    for name, content in contents.items():
      path = self.path / name
      path.parent.mkdir(parents=True, exist_ok=True)
      with workdir.replacing(path) as file:
        if isinstance(content, Mapping):
          _write_npz(file, content)
        else:
          np.save(file, content)
      shape = next(iter(content.values())).shape if isinstance(content, Mapping) else content.shape
      outputs.append({"path": name, "shape": list(shape), "sha256": _sha256(path)})
    return outputs

  def finish(self) -> None:
    """Puts the pieces into the manifest, which is in the order of the inputs' names."""
    with workdir.locked(self.path, wait=True):
      pieces = sorted(self._pieces.glob("*.json"))
      entries = self._entries()
      if pieces or not self.manifest.exists():
        with workdir.replacing(self.manifest) as file:
          for name in sorted(entries):
            file.write(json.dumps(entries[name]).encode() + b"\n")
      for piece in pieces:
        piece.unlink()


def _digest(name: str) -> str:
  return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _sha256(path: pathlib.Path) -> str:
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while piece := file.read(_PIECE):
      digest.update(piece)
  return digest.hexdigest()


def _write_npz(file: IO[bytes], arrays: Mapping[str, Any]) -> None:
  """Writes an .npz as `np.savez` does; the same arrays give the same bytes."""
  with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
    for name, array in arrays.items():
      with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        if isinstance(array, ArrayFile):
          array.write_npy(member)
        else:
          np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
