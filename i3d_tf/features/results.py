"""The output folder of an extraction: files of features, and manifest.jsonl, which says what became of every input.

A video's files are put in place one by one, each whole, and after them, by one more rename, a piece of the manifest in
a work folder. So a process can be killed at any moment, and several can work in one folder at the same time.
"""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import json
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.features import profiles

INFO = "extraction.json"
MANIFEST = "manifest.jsonl"
_WORK = ".work"
_PIECE = 2**20  # bytes read at once

Entry = dict[str, Any]


class Folder:
  """An output folder.

  An entry of its manifest has the `input` and its `id`, and either `outputs` (of each file its `path`, `shape` and
  `sha256`), `frames`, `fps` and the `seconds` that it took, or the `error` in one sentence.
  """

  def __init__(self, path: str | os.PathLike, *, part: str = ""):
    """Names the folder.

    Args:
      path: The folder; `claim` makes it.
      part: Name of the share of it that this process works on, if several share it.
    """
    self._workdir = workdir.Workdir(path, INFO, foreign=(MANIFEST,), part=part)
    self.path = self._workdir.path
    self.work = self.path / _WORK
    self.manifest = self.path / MANIFEST

  @property
  def own_work(self) -> pathlib.Path:
    """The folder for temporary files of this process's share."""
    return self._workdir.work

  @contextlib.contextmanager
  def claim(self, parameters: Mapping[str, Any], made_by: Mapping[str, Any]) -> Iterator[None]:
    """Keeps the folder, or this process's share of it, for the body; see `workdir.Workdir.claim`.

    Args:
      parameters: What the features depend on.
      made_by: Versions, which are written down with them.

    Yields:
      Nothing.

    Raises:
      I3dError: If another process works on it, or the folder was made with other parameters.
    """
    with self._workdir.claim(parameters, about={"made_by": made_by}):
      yield

  def entries(self) -> dict[str, Entry]:
    """The entries of all inputs done so far, by input."""
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
    for piece in sorted(self.work.glob("*.json")):
      entry = json.loads(piece.read_text(encoding="utf-8"))
      found[entry["input"]] = entry
    return found

  def is_done(self, entry: Entry | None, *, retry_failures: bool = False) -> bool:
    """Whether an input need not be done (again): its files are there, or it has failed and shall not be tried again."""
    if entry is None:
      return False
    if "error" in entry:
      return not retry_failures
    return all((self.path / output["path"]).is_file() for output in entry["outputs"])

  def put(self, entry: Entry) -> None:
    """Keeps an entry."""
    self.work.mkdir(exist_ok=True)
    with workdir.replacing(self.work / f"{_digest(entry['input'])}.json") as file:
      file.write(json.dumps(entry).encode())

  def write(self, contents: profiles.Files) -> list[dict[str, Any]]:
    """Writes a video's files; returns the manifest's `outputs`."""
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
      pieces = sorted(self.work.glob("*.json"))
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


def _write_npz(file, arrays: Mapping[str, Any]) -> None:
  """An .npz as `np.savez` writes it, of arrays and of what writes itself; the same arrays give the same bytes."""
  with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
    for name, array in arrays.items():
      with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        if hasattr(array, "write_npy"):
          array.write_npy(member)
        else:
          np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
