"""Where features are kept: while they are computed in growing arrays, then in the files of an output folder.

The folder also holds manifest.jsonl, which says what became of every input.

A video's files are put in place one by one, each whole, and after them, by one more rename, a piece of the manifest in
a work folder. So a process can be killed at any moment, and several can work in one folder at the same time.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import copy
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import stat
import struct
import tempfile
from typing import Any, IO, Protocol
import zipfile
import zlib

import numpy as np

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import files
from i3d_tf import stores
from i3d_tf import workdir

INFO = "extraction.json"
MANIFEST = "manifest.jsonl"
_IN_MEMORY = 64 * 2**20  # bytes of an array; a larger one goes to a temporary file
_PIECE = 2**20  # bytes read or copied at once
_PASS = struct.Struct("<QI")  # bytes of a pass in a journal, and their CRC-32

Entry = dict[str, Any]
# By the file's path below the output folder: the array of a .npy, the arrays by key of an .npz, or other bytes.
Files = Mapping[str, "bytes | np.ndarray | Mapping[str, np.ndarray | np.generic | ArrayFile]"]


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


class Journal:
  """The results of the passes over a video that are done, in a file that outlives the process.

  Each pass is its length, a CRC-32, and arrays as an .npz; the first one holds what they are of. What a killed process
  left half written is cut off.
  """

  def __init__(self, path: pathlib.Path, meaning: Mapping[str, Any]):
    """Opens the journal.

    Args:
      path: The file, which may not be there.
      meaning: What the results depend on; those of another meaning are not used. For JSON.
    """
    self._path = path
    self._meaning = np.frombuffer(json.dumps(meaning, sort_keys=True, default=str).encode(), np.uint8)
    self._file: IO[bytes] | None = None

  def passes(self) -> Iterator[dict[str, np.ndarray]]:
    """Yields the arrays of the passes that are done; those that follow are to be appended."""
    self.close()
    if not self._path.exists():
      return
    end = 0
    with open(self._path, "rb") as file:
      for number, arrays in enumerate(_read_passes(file)):
        if number == 0 and not np.array_equal(arrays.get("meaning", np.zeros(0)), self._meaning):
          break
        end = file.tell()
        if number > 0:
          yield arrays
    os.truncate(self._path, end)

  def append(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Appends the results of a pass.

    Args:
      arrays: By name.
    """
    if self._file is None:
      self._path.parent.mkdir(exist_ok=True)
      self._file = open(self._path, "ab")
      if not self._file.tell():
        self._write({"meaning": self._meaning})
    self._write(arrays)

  def close(self) -> None:
    """Closes the file, which stays."""
    if self._file is not None:
      self._file.close()
    self._file = None

  def remove(self) -> None:
    """Removes the file."""
    self.close()
    self._path.unlink(missing_ok=True)

  def _write(self, arrays: Mapping[str, np.ndarray]) -> None:
    assert self._file is not None
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    payload = content.getvalue()
    self._file.write(_PASS.pack(len(payload), zlib.crc32(payload)) + payload)
    self._file.flush()


def _read_passes(file: IO[bytes]) -> Iterator[dict[str, np.ndarray]]:
  """The arrays of the passes in a journal, up to its end or to one that is damaged."""
  while len(head := file.read(_PASS.size)) == _PASS.size:
    length, crc = _PASS.unpack(head)
    if length > os.fstat(file.fileno()).st_size:
      return
    payload = file.read(length)
    if zlib.crc32(payload) != crc or not payload:
      return
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
      yield dict(arrays)


class Content(Protocol):
  """What tells the content of an input or an output from another."""

  def facts(self) -> dict[str, Any]:
    """Returns values for JSON that change with the content."""

  def is_as(self, facts: Mapping[str, Any] | None) -> bool:
    """Returns whether the content is that of which `facts` were written down; None: they were not.

    Args:
      facts: As `facts` returned them.
    """


class Input(Protocol):
  """One of the inputs of a folder."""

  @property
  def key(self) -> str:
    """Finds its entry, see the function `key`."""

  @property
  def content(self) -> Content:
    """What it holds now."""


@dataclasses.dataclass(frozen=True)
class FileContent:
  """The content of the file `path`: its size and checksum, which is computed only if the time of change differs."""

  path: str | os.PathLike

  def facts(self) -> dict[str, Any]:
    """Returns `bytes`, `changed`, in nanoseconds since 1970, and `sha256`; nothing if it cannot be read."""
    status = self._status()
    if status is None:
      return {}
    return {"bytes": status.st_size, "changed": status.st_mtime_ns, "sha256": _sha256(self.path)}

  def is_as(self, facts: Mapping[str, Any] | None) -> bool:
    """Returns whether the file holds what it held; what is not among the facts is not compared.

    Args:
      facts: As `facts` returned them.
    """
    status = self._status()
    if facts is None or not facts or status is None:
      return facts is None or (not facts and status is None)
    if facts.get("bytes", status.st_size) != status.st_size:
      return False
    return facts.get("changed") == status.st_mtime_ns or facts.get("sha256") in (None, _sha256(self.path))

  def _status(self) -> os.stat_result | None:
    """What the file system says of it; None unless it is a file that can be read."""
    try:
      status = os.stat(self.path)
    except OSError:
      return None
    return status if stat.S_ISREG(status.st_mode) and os.access(self.path, os.R_OK) else None


@dataclasses.dataclass(frozen=True)
class FactsContent:
  """What tells a content from another: facts that are read anew, and compared.

  Attributes:
    read: Returns the facts.
  """

  read: Callable[[], dict[str, Any]]

  def facts(self) -> dict[str, Any]:
    """Returns the facts."""
    return self.read()

  def is_as(self, facts: Mapping[str, Any] | None) -> bool:
    """Returns whether it is the content of which the facts are; what is not among the facts is not compared.

    Args:
      facts: As `facts` returned them; None if they were not written down.
    """
    now = self.read()
    if not facts or not now:
      return facts is None or not (facts or now)
    return all(facts.get(name, value) == value for name, value in now.items())


def content_of(path: str | os.PathLike) -> Content:
  """Returns the content of a file, of one in a store by its size and version there.

  Args:
    path: The file.
  """
  return FactsContent(stores.StorePath(path).facts) if stores.is_remote(path) else FileContent(path)


class Folder(workdir.Workdir):
  """An output folder.

  An entry of its manifest has the `input`, its `id` and its `content`, see `FileContent`; and either `outputs` (of each
  file its `path`, its `shape`, and the same facts), `frames`, `fps`, `seconds` that it took, and `notes` of special
  videos, or the `error` in one sentence.

  Attributes:
    manifest: Path of the manifest.
  """

  def __init__(self, path: str | os.PathLike, *, part: str = ""):
    """Names the folder.

    Args:
      path: The folder; `claim` makes it.
      part: Name of the share of it that this process works on, if several share it.
    """
    super().__init__(path, INFO, foreign=(MANIFEST,), part=part, in_stores=True)
    self.manifest = self.path / MANIFEST
    self._pieces = self.path / workdir.WORK  # of the manifest, of all processes

  def entries(self) -> dict[str, Entry]:
    """Returns the entries of all inputs done so far, by the `key` of the input.

    Raises:
      I3dError: If the manifest is not one of ours.
    """
    with workdir.locked(self.path, wait=True):  # or a piece may go into the manifest just now
      return self._entries()

  def _entries(self) -> dict[str, Entry]:
    found = {}
    lines = self.manifest.read_bytes().splitlines() if self.manifest.exists() else []
    for number, line in enumerate(lines, start=1):
      entry = _parse_entry(line, f"{self.manifest}: line {number}")
      found[key(entry["input"])] = entry
    pieces = sorted(self._pieces.glob("*.json"))
    for piece, content in zip(pieces, stores.read_all(pieces), strict=True):
      entry = _parse_entry(content, f"{piece}: this")
      found[key(entry["input"])] = entry
    return found

  def is_done(self, entry: Entry | None, content: Content, *, retry_failures: bool = False) -> bool:
    """Returns whether an input need not be done (again): it is as it was, and its files are whole, or it has failed.

    Args:
      entry: The input's entry; None if it has none.
      content: The input's, as it is now.
      retry_failures: Whether inputs that have failed are to be tried again.
    """
    if entry is None or not content.is_as(entry.get("content")):
      return False
    if "error" in entry:
      return not retry_failures
    return "outputs" in entry and all(
      content_of(self.path / output["path"]).is_as(output) for output in entry["outputs"]
    )

  def left(self, inputs: Sequence[Input], *, retry_failures: bool = False) -> list[int]:
    """Returns the numbers of the inputs that are to be done.

    Args:
      inputs: All inputs.
      retry_failures: See `is_done`.
    """
    done = self.entries()
    if isinstance(self.path, stores.StorePath):
      self.path.find()  # tells the sizes of all at once
    is_done = lambda each: self.is_done(done.get(each.key), each.content, retry_failures=retry_failures)
    return [number for number, each in enumerate(inputs) if not is_done(each)]

  def put(self, entry: Entry) -> None:
    """Keeps an entry in place of an earlier one of its input.

    Args:
      entry: See the class.
    """
    self._pieces.mkdir(exist_ok=True)
    with workdir.replacing(self._pieces / f"{_digest(key(entry['input']))}.json") as file:
      file.write(json.dumps(entry).encode())

  def journal(self, name: str, meaning: Mapping[str, Any]) -> Journal:
    """Returns the journal of an input, to go on with its features where a killed process was.

    Args:
      name: The input.
      meaning: See `Journal`.
    """
    if stores.is_remote(self.path):  # where no file can grow; a later run on this machine finds it
      digest = _digest(f"{self.path}\n{name}")
      return Journal(pathlib.Path(tempfile.gettempdir(), f"i3d_tf-{digest}.passes"), meaning)
    return Journal(self._pieces / f"{_digest(key(name))}.passes", meaning)

  def write(self, contents: Files) -> list[dict[str, Any]]:
    """Returns the `outputs` of a video's entry, after writing its files.

    Args:
      contents: What they hold.
    """
    outputs = []
    for name, content in contents.items():
      path = self.path / name
      path.parent.mkdir(parents=True, exist_ok=True)
      with workdir.replacing(path) as file:
        if isinstance(content, bytes):
          file.write(content)
        elif isinstance(content, Mapping):
          _write_npz(file, content)
        else:
          np.save(file, content)
      array = next(iter(content.values())) if isinstance(content, Mapping) else content
      shape = {} if isinstance(array, bytes) else {"shape": list(array.shape)}
      outputs.append({"path": name, **shape, **content_of(path).facts()})
    return outputs

  def forget(self, keys: Collection[str]) -> None:
    """Removes the entries of inputs that are to be done again.

    Args:
      keys: The `key` of each input.
    """
    self._merge(unwanted=frozenset(keys))

  def finish(self, *, wording: Callable[[str], str] = str) -> None:
    """Puts the pieces into the manifest, which is in the order of the inputs' names.

    Args:
      wording: What a program that has flags makes of an error, which names parameters, for people to read.
    """
    self._merge(wording=wording)

  def _merge(self, *, unwanted: Collection[str] = (), wording: Callable[[str], str] = str) -> None:
    with workdir.locked(self.path, wait=True):
      pieces = sorted(self._pieces.glob("*.json"))
      entries = self._entries()
      removed = [entries.pop(each) for each in unwanted if each in entries]
      if pieces or removed or not self.manifest.exists():
        with workdir.replacing(self.manifest) as file:
          for entry in sorted(entries.values(), key=lambda entry: entry["input"]):
            if "error" in entry:
              entry = {**entry, "error": wording(entry["error"])}
            file.write(json.dumps(entry).encode() + b"\n")
      stores.remove(pieces)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
  """What is used of an entry."""

  input: str
  outputs: tuple[dict[str, Any], ...] = ()
  error: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Output:
  """What is used of an entry's outputs."""

  path: str


def _parse_entry(content: bytes, where: str) -> Entry:
  """Returns an entry; I3dError if it is none, `where` being the beginning of the sentence."""
  try:
    entry = files.parse_json(content, where)
    for output in fields.from_json(_Entry, entry, where, has_others=True).outputs:
      fields.from_json(_Output, output, where, has_others=True)
    return entry
  except errors.I3dError:
    raise errors.I3dError(f"{where} is not what extract_features writes") from None


def key(name: str) -> str:
  """Returns what all spellings of an input's path have in common.

  Args:
    name: The path, perhaps with more behind it.
  """
  return os.fspath(stores.as_path(name)) if stores.is_remote(name) else os.path.realpath(name)


def _digest(name: str) -> str:
  return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _sha256(path: str | os.PathLike) -> str:
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
