"""The files that come with the package: class lists and checkpoint manifests."""

import pathlib

from i3d_tf import errors

_PACKAGE = pathlib.Path(__file__).resolve().parent


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
  """Returns the class names of a list in the data folder, in index order.

  Args:
    name: Name of the list, for example 'ucf101' or 'kinetics_400'.

  Raises:
    I3dError: If there is no list of that name.
  """
  files = {file.stem: file for file in sorted(path("data").glob("*.txt"))}
  if name not in files:
    raise errors.I3dError(f"there is no class list {name!r}; there are {', '.join(files)}")
  return tuple(files[name].read_text(encoding="utf-8").splitlines())


def class_names(num_classes: int) -> tuple[str, ...]:
  """Returns the class names of Kinetics in the index order of the release.

  Args:
    num_classes: 400, 600 or 700.

  Raises:
    I3dError: If there is no list of so many classes.
  """
  return class_list(f"kinetics_{num_classes}")
