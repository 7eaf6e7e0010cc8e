"""Writing files so that a reader sees the old one or the new one whole, never a part."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import tempfile
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Opens a temporary file beside `path`; it takes the place of `path` if the body succeeds.

  The temporary file is made at once, so that a folder that cannot be written is found out before the work.

  Raises:
    OSError: naming `path`, if it cannot be written.
  """
  path = pathlib.Path(path)
  try:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
      with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.chmod(temporary, 0o666 & ~_umask())
      os.replace(temporary, path)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
      raise
  except OSError as error:
    # A temporary name, or none, would tell the user nothing.
    if error.filename is None or str(error.filename).startswith(os.path.join(path.parent, f".{path.name}.")):
      raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
    raise


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask
