"""Writing files so that a reader sees the old one or the new one whole, never a part; and folders made so."""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import tempfile
from typing import Any, BinaryIO

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
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a folder to fill; it becomes `path`, where there must be nothing or an empty folder, if the body succeeds.

  Raises:
    I3dError: if `path` is a file, or a folder that holds something.
    OSError: if it cannot be written.
  """
  target = pathlib.Path(os.path.realpath(path))
  if target.exists() and not target.is_dir():
    raise errors.I3dError(f"{path} is a file; name a folder to write to")
  held = sorted(os.listdir(target)) if target.exists() else []
  if held:
    raise errors.I3dError(f"{path} holds {held[0]} already; name a new or an empty folder to write to")
  made = [parent for parent in target.parents if not parent.exists()]
  target.parent.mkdir(parents=True, exist_ok=True)
  try:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as staging:
      complete = pathlib.Path(staging, target.name)
      complete.mkdir()
      yield complete
      complete.rename(target)
  except BaseException as error:
    for parent in made:
      with contextlib.suppress(OSError):
        parent.rmdir()
    if isinstance(error, OSError) and str(error.filename).startswith(os.path.join(target.parent, f".{target.name}.")):
      raise OSError(error.errno, error.strerror, os.fspath(path)) from None  # a temporary name would tell nothing
    raise


@contextlib.contextmanager
def locked(folder: str | os.PathLike, *, wait: bool = False) -> Iterator[None]:
  """Keeps other processes of ours out of the folder, which is made if it is not there.

  Args:
    folder: where the lock is.
    wait: until another process that is at work in it has ended.

  Raises:
    I3dError: if another process is at work in it, unless `wait`.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / LOCK, "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      raise errors.I3dError(f"{folder}: another process is writing here; wait for it or stop it") from None
    yield


def check_parameters(folder: str | os.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
  """Compares how a folder was made with how it is to be gone on with; both of what JSON holds.

  Raises:
    I3dError: naming every difference.
  """
  new = json.loads(json.dumps(new))  # tuples become lists, as in what was read
  names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
  if names:
    listed = "; ".join(f"{name} was {old.get(name)}, is {new.get(name)}" for name in names)
    raise errors.I3dError(f"{folder} was made with other parameters ({listed}); choose another folder or remove it")
