"""The errors that a user can cause and mend.

Each message is one sentence for a person: what is wrong, where, and what to do. The mains print
it and exit with status 1 (`cli.run`); libraries raise it. All are ValueErrors, so that callers who
know nothing of this module can still catch them.
"""

import re


class I3dError(ValueError):
  """Something the user can mend: an input, a path, a checkpoint."""


class VideoError(I3dError):
  """A video file that cannot be read whole, or does not fit the network."""


class CheckpointError(I3dError):
  """A checkpoint that is damaged, incomplete, or of another network."""


class DownloadError(I3dError):
  """A file that could not be had from any of its sources."""


def describe_os_error(error: OSError) -> str:
  """Says in one clause which path failed and why, for example 'out.json: No space left on device'."""
  reason = error.strerror or str(error) or type(error).__name__
  return f"{error.filename}: {reason}" if error.filename else reason


def first_line(error: Exception) -> str:
  """The first line of an error of TensorFlow's, without the place in its graph."""
  text = getattr(error, "message", None) or str(error)
  text = re.sub(r"\{\{\w+ [^}]*\}\}\S*|\[Op:\w+\].*", "", text).strip()
  return text.splitlines()[0].strip() if text else type(error).__name__
