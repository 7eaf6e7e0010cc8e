"""What the package comes with, and what it runs on: packaged files, versions, the machine."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import sys

import i3d_tf
from i3d_tf import errors
from i3d_tf import workers

_PACKAGE = pathlib.Path(__file__).resolve().parent
_PACKAGES = (
    "tensorflow", "dm-sonnet", "numpy", "opencv-contrib-python-headless", "scikit-learn", "matplotlib",
)  # fmt: skip
VERSIONS = ("python", "i3d_tf", *_PACKAGES)  # the names in `provenance` whose values are versions


def path(folder: str, name: str = "") -> pathlib.Path:
  """Returns the path of a packaged file.

  An installed package holds the folders inside itself; in a source tree they are beside it.

  Args:
    folder: 'data' or 'checkpoints'.
    name: Name of the file; by default the folder itself is meant.
  """
  inside = _PACKAGE / "assets" / folder
  return (inside if inside.is_dir() else _PACKAGE.parent / folder) / name


def class_list(name: str) -> tuple[str, ...]:
  """Returns the class names of a list, in index order.

  Args:
    name: Name of a list in the data folder, for example 'ucf101' or 'kinetics_400', or the path of a file with one name
      a line.

  Raises:
    I3dError: If there is no such list, or a file has an empty line or a name twice.
  """
  known = {file.stem: file for file in sorted(path("data").glob("*.txt"))}
  if name not in known and not os.path.isfile(name):
    raise errors.I3dError(f"there is no class list {name!r}; it must be a file, or one of {', '.join(known)}")
  try:
    names = tuple(known.get(name, pathlib.Path(name)).read_text(encoding="utf-8-sig").splitlines())
  except UnicodeDecodeError:
    raise errors.I3dError(f"{name}: this is not text in UTF-8") from None
  if "" in names or len(set(names)) < len(names) or not names:
    raise errors.I3dError(f"{name}: the class list must have a name on each line, and none twice")
  return names


def class_names(num_classes: int) -> tuple[str, ...]:
  """Returns the class names of Kinetics in the index order of the release.

  Args:
    num_classes: 400, 600 or 700.

  Raises:
    I3dError: If there is no list of so many classes.
  """
  return class_list(f"kinetics_{num_classes}")


def provenance() -> dict[str, str]:
  """Returns 'command', 'date', 'machine', 'system' of this process, and of `VERSIONS` those that are installed."""
  rows = {
    "command": _command(),
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


def _command() -> str:
  """The command line of this process: a program of ours, a console script, or someone's own program."""
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  if spec is not None:
    start = ["python", "-m", spec.name.removesuffix(".__main__")]
  else:
    start = ["python", sys.argv[0]] if sys.argv[0].endswith(".py") else [os.path.basename(sys.argv[0])]
  return shlex.join([*start, *sys.argv[1:]])


def machine() -> str:
  """Returns processor model and number of cores available."""
  model = platform.processor() or platform.machine()
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
  except (OSError, StopIteration):
    pass
  return f"{model}, {workers.available_cores()} cores"
