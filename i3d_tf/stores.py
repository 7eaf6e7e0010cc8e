"""Files in object stores, named `s3://BUCKET/KEY`, `gs://...` and the like, through fsspec (the extra `s3`).

A store has neither renames nor locks. So a file is fetched whole before it is used, and written by one upload of what
is complete: readers see all of it or nothing. What belongs to the store, such as its address and credentials, is taken
from where its own tools take it, for S3 from AWS_ENDPOINT_URL, AWS_PROFILE, ~/.aws and so on.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import errno
import os
import pathlib
import re
import tempfile
import threading
import typing
from typing import Any

from i3d_tf import errors

SCHEMES = ("s3", "gs", "hdfs", "abfs")
_REMOTE = re.compile(rf"({'|'.join(SCHEMES)}):/+(?=[^/])")  # pathlib leaves one slash of two
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "last_modified")  # what tells a version of a file, by store
_known: dict[str, dict[str, Any]] = {}  # facts of the files that were listed last
_fetched: dict[str, "_Copy"] = {}  # by path, those in use
_lock = threading.Lock()


def is_remote(path: str | os.PathLike) -> bool:
  """Returns whether a path is that of a file or folder in an object store.

  Args:
    path: The path.
  """
  return _REMOTE.match(os.fspath(path)) is not None


def as_path(path: str | os.PathLike) -> pathlib.Path:
  """Returns a path with the methods of `pathlib.Path`, of a store those in `StorePath`.

  Args:
    path: The path.
  """
  return typing.cast(pathlib.Path, StorePath(path)) if is_remote(path) else pathlib.Path(path)


class StorePath(pathlib.PurePosixPath):
  """A file in a store, or what the names of several begin with, which stands for a folder."""

  mkdir = rmdir = staticmethod(lambda **_: None)  # there are no folders to make or remove

  def __str__(self) -> str:
    return _REMOTE.sub(r"\1://", super().__str__(), count=1)

  def __fspath__(self) -> str:
    return str(self)

  def exists(self) -> bool:
    """Returns whether there is such a file or folder."""
    return self._info() is not None

  def is_dir(self) -> bool:
    """Returns whether there are files below it."""
    return (self._info() or {}).get("type") == "directory"

  def is_file(self) -> bool:
    """Returns whether it is a file."""
    return (self._info() or {}).get("type") == "file"

  def facts(self) -> dict[str, Any]:
    """Returns what tells a file from another one of its name: its `bytes`, and its `version`; nothing if it is none."""
    found = _known.get(str(self))
    return _facts(self._info() or {}) if found is None else found

  def read_bytes(self) -> bytes:
    """Returns the content of the file; OSError or StoreError if it cannot be had."""
    return self._call(lambda system, name: system.cat_file(name))

  def glob(self, pattern: str) -> Iterator["StorePath"]:
    """Yields the files below it that fit, as many levels deep as the pattern has parts.

    Args:
      pattern: As of `pathlib.Path.glob`.
    """
    depth = pattern.count("/") + 1
    for path in self.find(maxdepth=depth):
      below = path.relative_to(self)
      if len(below.parts) == depth and below.match(pattern):
        yield path

  def find(self, *, maxdepth: int | None = None) -> list["StorePath"]:
    """Returns the files below it, sorted, and keeps their facts.

    Args:
      maxdepth: How many levels deep; None: all.
    """

    def list_files(system: Any, name: str) -> dict[str, Any]:
      found = system.find(name, maxdepth=maxdepth, detail=True)
      return {each.removeprefix(name.rstrip("/")).lstrip("/"): info for each, info in found.items()}

    try:
      listed = self._call(list_files)
    except FileNotFoundError:
      return []
    found = {self / name: _facts(info) for name, info in listed.items() if name}
    for path in [path for path in _known if path.startswith(f"{self}/")]:
      del _known[path]
    _known.update({str(path): facts for path, facts in found.items()})
    return sorted(found)

  def unlink(self, missing_ok: bool = False) -> None:
    """Removes the file.

    Args:
      missing_ok: Whether it need not be there.
    """
    remove([self], missing_ok=missing_ok)

  def upload(self, path: str | os.PathLike) -> None:
    """Takes over the content of a local file, at once; OSError or StoreError if it cannot.

    Args:
      path: The file.
    """
    _known.pop(str(self), None)
    self._call(lambda system, name: system.put_file(os.fspath(path), name))

  def download(self, path: str | os.PathLike) -> None:
    """Copies the file to a local one; OSError or StoreError if it cannot be had whole.

    Args:
      path: The local file.
    """
    self._call(lambda system, name: system.get_file(name, os.fspath(path)))
    expected, held = self.facts().get("bytes"), os.path.getsize(path)
    if expected not in (None, held):
      raise errors.StoreError(f"{self}: {held:,} of {expected:,} bytes arrived; start again to go on")

  def _info(self) -> dict[str, Any] | None:
    with contextlib.suppress(FileNotFoundError):
      return self._call(lambda system, name: system.info(name))
    return None

  def _call(self, function: Callable[[Any, str], Any]) -> Any:
    """Returns `function(file system, name in it)`, of which all errors are the system's or `StoreError`."""
    try:
      import fsspec

      system, name = fsspec.core.url_to_fs(str(self), use_listings_cache=False)
    except ImportError as error:
      raise errors.I3dError(
        f"{self}: object stores need fsspec and a package for each kind ({error}); for S3 pip install '.[s3]' in a "
        "clone of i3d_tf"
      ) from None
    try:
      return function(system, name)
    except FileNotFoundError:
      raise FileNotFoundError(errno.ENOENT, "there is no such file or bucket in the store", str(self)) from None
    # Stores' libraries raise what they like: errors of botocore, aiohttp, asyncio and the system's.
    except Exception as error:
      if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise
      reason = " ".join(str(error).split()) or type(error).__name__
      raise errors.StoreError(f"{self}: the object store refuses it or cannot be reached: {reason}") from None


def _facts(info: dict[str, Any]) -> dict[str, Any]:
  if info.get("type") != "file":
    return {}
  version = next((str(info[name]).strip('"') for name in _VERSIONS if name in info), "")
  return {"bytes": info["size"], "version": version}


def remove(paths: Iterable[pathlib.Path | StorePath], *, missing_ok: bool = False) -> None:
  """Removes files, of a store all in a few requests.

  Args:
    paths: The files, all of one store or none of any.
    missing_ok: Whether they need not be there.
  """
  remote = [path for path in paths if isinstance(path, StorePath)]
  for path in paths:
    if not isinstance(path, StorePath):
      path.unlink(missing_ok=missing_ok)
  if remote:
    strip = lambda system: [system._strip_protocol(str(path)) for path in remote]
    with contextlib.suppress(*[FileNotFoundError] * missing_ok):
      remote[0]._call(lambda system, name: system.rm(strip(system)))


def read_all(paths: Iterable[pathlib.Path | StorePath]) -> list[bytes]:
  """Returns the contents of small files, of a store by several requests at a time.

  Args:
    paths: The files, all of one store or none of any.
  """
  paths = list(paths)
  if not paths or not isinstance(paths[0], StorePath):
    return [path.read_bytes() for path in paths]
  found = paths[0]._call(lambda system, name: system.cat([system._strip_protocol(str(path)) for path in paths]))
  return [found] if isinstance(found, bytes) else [found[name] for name in found]


class _Copy:
  """A copy of a file of a store, and how many use it."""

  def __init__(self) -> None:
    self.folder = tempfile.TemporaryDirectory(prefix="i3d_tf-")
    self.path: str | None = None  # once it is there
    self.users = 0
    self.lock = threading.Lock()


@contextlib.contextmanager
def fetched(path: str | os.PathLike) -> Iterator[str]:
  """Has a file of a store in a temporary one during the body, and in the same one in bodies within this one.

  Args:
    path: The file in the store.

  Yields:
    The path of the temporary file, with the same ending.

  Raises:
    FileNotFoundError, StoreError: If there is no such file, or it cannot be had whole.
  """
  source = StorePath(path)
  with _lock:
    if str(source) not in _fetched:
      _fetched[str(source)] = _Copy()
    copy = _fetched[str(source)]
    copy.users += 1
  try:
    with copy.lock:  # the first fetches, others that want the same wait for it, and others still do not
      if copy.path is None:
        path = os.path.join(copy.folder.name, f"video{source.suffix}")
        source.download(path)
        copy.path = path
    yield copy.path
  finally:
    with _lock:
      copy.users -= 1
      if not copy.users:
        del _fetched[str(source)]
        copy.folder.cleanup()
