"""Exporting the weights of a network in the layouts of other programs."""

import os
import pathlib

from i3d_tf import errors
from i3d_tf.exporting import signatures
from i3d_tf.weights import pytorch
from i3d_tf.weights import pytorch_inception
from i3d_tf.weights import release
from i3d_tf.weights import saved

_NETWORK, _RELEASE = "network", "release"
FORMATS = (_NETWORK, _RELEASE, *pytorch_inception.I3D_LAYOUTS)
_RELEASE_FILE, _TORCH_FILE = "model.ckpt", "model.pt"


def write(folder: pathlib.Path, name_or_path: str | os.PathLike, form: str, *, layout: str | None = None) -> str:
  """Writes the weights, and the list of the class names, to an empty folder.

  Args:
    folder: to write to.
    name_or_path: the network, as `saved.load` takes it.
    form: one of `FORMATS`.
    layout: for 'release', one of `release.LAYOUTS`; None: that of the network's stream.

  Returns:
    What was written, in a few words.

  Raises:
    I3dError: if the format is not for this network.
    CheckpointError, DownloadError: as `saved.load`, and if the files cannot be written.
    OSError: likewise.
  """
  if form in pytorch_inception.I3D_LAYOUTS:
    pytorch.import_torch()  # fails at once if it is not installed
  values, info = saved.read(name_or_path)
  if form != _NETWORK and info.model != "i3d":
    raise errors.I3dError(f"{name_or_path} is a network {info.model}; the format {form} is for i3d only")
  if form == _NETWORK:
    saved.save_values(folder, values, info)
  elif form == _RELEASE:
    release.write(folder / _RELEASE_FILE, values, release.LAYOUTS[layout or info.stream])
  else:
    pytorch.write(folder / _TORCH_FILE, pytorch_inception.to_torch(values, pytorch_inception.I3D_LAYOUTS[form]))
  for name, content in signatures.class_list(info.classes).items():
    (folder / name).write_bytes(content)
  number = sum(value.size for value in values.values())
  return f"{info.model} for {info.stream}, {len(values)} variables with {number:,} values"
