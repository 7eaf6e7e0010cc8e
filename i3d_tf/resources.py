"""The files that come with the package: class lists and checkpoint manifests."""

import pathlib

from i3d_tf import errors

_PACKAGE = pathlib.Path(__file__).resolve().parent


def path(folder: str, name: str = "") -> pathlib.Path:
  """The path of a packaged file; `folder` is 'data' or 'checkpoints'.

  An installed package holds both folders inside itself; in a source tree they stand beside it.
  """
  inside = _PACKAGE / "assets" / folder
  return (inside if inside.is_dir() else _PACKAGE.parent / folder) / name


def class_list(name: str) -> tuple[str, ...]:
  """The class names of a list in the data folder in index order, for example of 'ucf101' or 'kinetics_400'.

  Raises:
    I3dError: if there is no list of that name.
  """
  files = {file.stem: file for file in sorted(path("data").glob("*.txt"))}
  if name not in files:
    raise errors.I3dError(f"there is no class list {name!r}; there are {', '.join(files)}")
  return tuple(files[name].read_text(encoding="utf-8").splitlines())


def class_names(num_classes: int) -> tuple[str, ...]:
  """The Kinetics class names in the index order of the release, for 400, 600 or 700 classes; see `class_list`."""
  return class_list(f"kinetics_{num_classes}")
