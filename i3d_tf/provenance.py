"""What was run, where, when and with which versions, for the files that tell of results."""

import datetime
import importlib.metadata
import platform
import shlex
import sys

import i3d_tf
from i3d_tf import cli
from i3d_tf import workers

_PACKAGES = (
    "tensorflow", "dm-sonnet", "numpy", "opencv-contrib-python-headless", "scikit-learn", "matplotlib",
)  # fmt: skip
VERSIONS = ("python", "i3d_tf", *_PACKAGES)  # the names in `collect` whose values are versions


def collect() -> dict[str, str]:
  """Describes this process.

  Returns:
    'command', 'date', 'machine', 'system', and of `VERSIONS` those that are installed.
  """
  rows = {
    "command": shlex.join(["python", "-m", f"i3d_tf.{cli.program()}", *sys.argv[1:]]),
    "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    "machine": machine(),
    "system": platform.platform(),
    "python": platform.python_version(),
    "i3d_tf": i3d_tf.__version__,
  }
  for package in _PACKAGES:
    try:
      rows[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      pass  # some are wanted for a few options only
  return rows


def machine() -> str:
  """Returns processor model and number of cores available."""
  model = platform.processor() or platform.machine()
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
  except (OSError, StopIteration):
    pass
  return f"{model}, {workers.available_cores()} cores"
