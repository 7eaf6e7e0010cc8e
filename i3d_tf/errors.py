"""Errors that a user can cause and mend.

Each message is one sentence that says what is wrong, where, and what to do. Libraries raise them; programs print them
and exit with status 1 (`cli.run`). All are ValueErrors, so that callers who do not know this module can catch them.
"""

import errno
import re
import tempfile


class I3dError(ValueError):
  """Something the user can mend: an input, a path, a checkpoint."""


class VideoError(I3dError):
  """A video file that cannot be read whole, or does not fit the network."""


class CheckpointError(I3dError):
  """A checkpoint that is damaged, incomplete, or of another network."""


class StoreError(I3dError):
  """An object store that cannot be reached, or refuses; the other inputs would fare no better."""


class DownloadError(I3dError):
  """A file that could not be had from any of its sources."""


# What one input can cause; the others can still be done.
OF_INPUT = (I3dError, OSError, MemoryError)


def describe(error: Exception) -> str:
  """Returns what is said of an input that cannot be used.

  Args:
    error: One of `OF_INPUT`.
  """
  if isinstance(error, MemoryError):
    return f"there is not enough memory for it{f' ({error})' if str(error) else ''}"
  return describe_os_error(error, may_be_temporary=True) if isinstance(error, OSError) else str(error)


def naming(name: str, message: str) -> str:
  """Returns a message that names an input, as most do already.

  Args:
    name: Name of the input.
    message: Message on it.
  """
  return message if name in message else f"{name}: {message}"


def describe_os_error(error: OSError, *, may_be_temporary: bool = False) -> str:
  """Returns one clause that says which path failed and why, for example 'out.json: No space left on device'.

  Args:
    error: Error of the operating system.
    may_be_temporary: Whether one without a path may be of a temporary file, of which the place is then named.
  """
  reason = error.strerror or str(error) or type(error).__name__
  if may_be_temporary and error.errno in (errno.ENOSPC, errno.EDQUOT) and not error.filename:
    reason += f"; temporary files are in {tempfile.gettempdir()}, another folder can be given by $TMPDIR"
  return f"{error.filename}: {reason}" if error.filename else reason


def first_line(error: Exception) -> str:
  """Returns the first line of an error of TensorFlow, without the place in its graph.

  Args:
    error: The error.
  """
  text = getattr(error, "message", None) or str(error)
  text = re.sub(r"\{\{\w+ [^}]*\}\}\S*|\[Op:\w+\].*", "", text).strip()
  return text.splitlines()[0].strip() if text else type(error).__name__
