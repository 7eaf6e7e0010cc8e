"""The files that come with the package: class lists and checkpoint manifests."""

import pathlib

from i3d_tf import errors

_PACKAGE = pathlib.Path(__file__).resolve().parent


def path(folder: str, name: str = "") -> pathlib.Path:
  """The path of a packaged file; `folder` is 'data' or 'checkpoints'.

  An installed package holds both folders inside itself; in a source tree they stand beside it.
  """
  inside = _PACKAGE / folder
  return (inside if inside.is_dir() else _PACKAGE.parent / folder) / name


def class_names(num_classes: int) -> tuple[str, ...]:
  """The Kinetics class names in the index order of the release, for 400, 600 or 700 classes.

  Raises:
    I3dError: if there is no Kinetics list of that length.
  """
  file = path("data", f"kinetics_{num_classes}.txt")
  if not file.exists():
    raise errors.I3dError(
        f"there is no Kinetics class list of {num_classes} names; there are lists of 400, 600 and 700"
    )
  return tuple(file.read_text(encoding="utf-8").splitlines())
