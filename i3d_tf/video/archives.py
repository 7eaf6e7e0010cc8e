"""Videos inside tar and zip files, such as WebDataset's shards: `shard-000000.tar/000017.mp4` is the path of one.

A video is copied to a temporary file while it is read, piece by piece, so that memory does not grow with it, and under
a name of our own, so that no name in an archive decides what is written where.
"""

from collections.abc import Collection, Iterator
import contextlib
import functools
import os
import pathlib
import re
import tarfile
import tempfile
from typing import Any
import zipfile
import zlib

from i3d_tf import errors
from i3d_tf import stores

SUFFIXES = (".tar", ".zip")
_INSIDE = re.compile(r"\.(?:tar|zip)(?=/.)", re.IGNORECASE)
_PIECE = 1 << 20  # bytes copied at once
_MAX_RATIO = 100  # of a video's bytes to those that it takes in a zip; videos are compressed already
_LABEL_SUFFIXES = (".cls", ".label")  # of the file beside a video that names its class (webdataset)
_LONGEST_LABEL = 1000  # bytes
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def is_archive(path: str | os.PathLike) -> bool:
  """Returns whether a path is that of a tar or zip file.

  Args:
    path: The path.
  """
  return os.fspath(path).lower().endswith(SUFFIXES) and os.path.isfile(path)


def split(path: str | os.PathLike) -> tuple[str, str] | None:
  """Returns the archive and the member of a path that leads into an archive; None for any other path.

  Args:
    path: The path.
  """
  text = os.fspath(path)
  for found in _INSIDE.finditer(text):
    if os.path.isfile(text[: found.end()]):
      return text[: found.end()], text[found.end() + 1 :]
  return None


def exists(path: str | os.PathLike) -> bool:
  """Returns whether there is a file or folder, or the archive that a path leads into; of a store it may be.

  Args:
    path: The path.
  """
  return os.path.exists(path) or stores.is_remote(path) or split(path) is not None


def members(archive: str | os.PathLike, suffixes: Collection[str]) -> list[pathlib.Path]:
  """Returns the paths of an archive's videos, sorted.

  Args:
    archive: The file.
    suffixes: How their names end, in lower case.

  Raises:
    VideoError: If it is damaged or compressed as a whole, or has names that lead out of it.
    OSError: If it cannot be read.
  """
  is_wanted = lambda name: pathlib.PurePath(name).suffix.lower() in suffixes and not _is_hidden(name)
  return [pathlib.Path(archive, name) for name in sorted(_sizes(archive)) if is_wanted(name)]


def facts(path: str | os.PathLike) -> dict[str, int]:
  """Returns what tells a video in an archive from another one under the same path.

  Args:
    path: The path, see `split`.

  Returns:
    Its `bytes`, and of the archive `archive_bytes` and `archive_changed`, in nanoseconds since 1970.
  """
  archive, member = split(path) or (os.fspath(path), "")
  status = os.stat(archive)
  return {
    "bytes": _sizes(archive).get(member, 0),
    "archive_bytes": status.st_size,
    "archive_changed": status.st_mtime_ns,
  }


def label(path: str | os.PathLike) -> str | None:
  """Returns the class that a WebDataset states beside a video, in the file KEY.cls; None if it states none.

  Args:
    path: The path of the video in the archive.

  Raises:
    VideoError: If the archive is damaged.
    OSError: If it cannot be read.
  """
  found = split(path)
  if found is None:
    return None
  archive, member = found
  folder, _, name = member.rpartition("/")
  key = f"{folder}/{name.partition('.')[0]}".lstrip("/")  # of all files of an example
  for suffix in _LABEL_SUFFIXES:
    if _sizes(archive).get(key + suffix, _LONGEST_LABEL + 1) <= _LONGEST_LABEL:
      with _opened(archive, key + suffix) as file:
        return file.read(_LONGEST_LABEL).decode("utf-8", "replace").strip() or None
  return None


@contextlib.contextmanager
def as_file(path: str | os.PathLike) -> Iterator[str | os.PathLike]:
  """Has a video in an archive or an object store in a file of its own during the body.

  Args:
    path: A path into an archive, see `split`, in a store, or any other one.

  Yields:
    The path of the temporary file, or the path given. A `VideoError` of the body names the path given.

  Raises:
    VideoError: If there is no such member, or it cannot be read whole.
  """
  if stores.is_remote(path):
    with stores.fetched(path) as copied, _named(copied, path):
      yield copied
    return
  found = split(path)
  if found is None:
    yield path
    return
  archive, member = found
  with tempfile.TemporaryDirectory(prefix="i3d_tf-") as folder:
    # FFmpeg looks at the ending, too.
    copied = os.path.join(folder, f"video{pathlib.PurePath(member).suffix}")
    with _opened(archive, member) as source, open(copied, "wb") as file:
      try:
        while piece := source.read(_PIECE):
          file.write(piece)
      except _DAMAGE as error:
        raise errors.VideoError(f"{path}: the archive is damaged here ({errors.first_line(error)})") from None
    with _named(copied, path):
      yield copied


@contextlib.contextmanager
def _named(copied: str, path: str | os.PathLike) -> Iterator[None]:
  """Puts the name of a video in the place of that of its copy in errors of the body."""
  try:
    yield
  except errors.VideoError as error:
    raise errors.VideoError(str(error).replace(copied, os.fspath(path))) from None


@contextlib.contextmanager
def _opened(archive: str, member: str) -> Iterator[Any]:
  """Opens a member during the body, as a file that can be read."""
  if member not in _sizes(archive):
    raise errors.VideoError(f"{archive}/{member}: there is no such file in the archive")
  with contextlib.ExitStack() as stack:
    try:
      if archive.lower().endswith(".zip"):
        file: Any = stack.enter_context(stack.enter_context(zipfile.ZipFile(archive)).open(member))
      else:
        offset, size = _tar_index(archive, _stamp(archive))[member]
        file = stack.enter_context(_Part(archive, offset, size))
    except _DAMAGE as error:
      raise errors.VideoError(f"{archive}/{member}: it cannot be read ({errors.first_line(error)})") from None
    yield file


class _Part:
  """Some bytes of a file, read one after the other."""

  def __init__(self, path: str, offset: int, size: int):
    self._file, self._left = open(path, "rb"), size
    self._file.seek(offset)

  def __enter__(self) -> "_Part":
    return self

  def __exit__(self, *_: object) -> None:
    self._file.close()

  def read(self, count: int) -> bytes:
    piece = self._file.read(min(count, self._left))
    if len(piece) < min(count, self._left):
      raise EOFError("the file ends before")
    self._left -= len(piece)
    return piece


def _sizes(archive: str | os.PathLike) -> dict[str, int]:
  """The sizes of an archive's files by name."""
  try:
    if os.fspath(archive).lower().endswith(".zip"):
      found = dict(_zip_index(os.fspath(archive), _stamp(archive)))
    else:
      found = {name: size for name, (_, size) in _tar_index(os.fspath(archive), _stamp(archive)).items()}
  except _DAMAGE as error:
    if isinstance(error, errors.I3dError):
      raise
    kind = "zip file" if os.fspath(archive).lower().endswith(".zip") else "tar file that is not compressed"
    raise errors.VideoError(f"{archive}: this is no whole {kind} ({errors.first_line(error)})") from None
  return found


def _stamp(path: str | os.PathLike) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _tar_index(path: str, stamp: tuple[int, int]) -> dict[str, tuple[int, int]]:
  """By name where the bytes of a tar's files are and how many; links and devices are none."""
  found = {}
  with tarfile.open(path, "r:") as archive:
    for each in archive:
      if each.isreg() and not each.issparse():
        _check(path, each.name)
        if each.offset_data + each.size > stamp[0]:
          raise EOFError(f"{each.name} has more bytes than the archive")
        found[each.name.removeprefix("./")] = (each.offset_data, each.size)
  return found


@functools.lru_cache(maxsize=64)
def _zip_index(path: str, stamp: tuple[int, int]) -> dict[str, int]:
  del stamp  # by which it is cached
  found = {}
  with zipfile.ZipFile(path) as archive:
    for each in archive.infolist():
      if not each.is_dir():
        _check(path, each.filename)
        if each.file_size > _MAX_RATIO * each.compress_size + _PIECE:
          raise errors.VideoError(
            f"{path}: {each.filename} would grow from {each.compress_size:,} to {each.file_size:,} bytes, which no "
            "video does; the archive is not used"
          )
        found[each.filename] = each.file_size
  return found


def _check(path: str, name: str) -> None:
  """Refuses names that lead out of the archive."""
  if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\0" in name:
    raise errors.VideoError(f"{path}: it holds {name!a}, a path that leads out of the archive; it is not used")


def _is_hidden(name: str) -> bool:
  return any(part.startswith(".") for part in name.split("/"))
