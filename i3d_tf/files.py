"""Writing files so that a reader sees the old one or the new one whole, never a part."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import tempfile
from typing import BinaryIO

from i3d_tf import errors

LOCK = ".lock"
# Read once, while no thread can come between.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Opens a temporary file beside `path`; it takes the place of `path` if the body succeeds.

  The temporary file is made at once, so that a folder that cannot be written is found out before the work. A link is
  followed, as `open` does.

  Raises:
    OSError: naming `path`, if it cannot be written.
  """
  target = pathlib.Path(os.path.realpath(path))
  if target.is_dir():
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
  if target.exists() and not target.is_file():  # a device such as /dev/null must not be replaced
    raise OSError(errno.EINVAL, "this is not a regular file", os.fspath(path))
  try:
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
      with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.chmod(temporary, 0o666 & ~_UMASK)
      os.replace(temporary, target)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
      raise
  except OSError as error:
    # A temporary name, or none, would tell the user nothing.
    hidden = error.filename is None or str(error.filename).startswith(os.path.join(target.parent, f".{target.name}."))
    if hidden and error.errno is not None:
      raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    raise


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
  """Keeps other processes of ours out of the folder, which is made if it is not there.

  Raises:
    I3dError: if another process is at work in it.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / LOCK, "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.I3dError(f"{folder}: another process is writing here; wait for it or stop it") from None
    yield
