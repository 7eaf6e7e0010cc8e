"""A network's weights alone, in the layouts of other programs."""

import os
import pathlib

from i3d_tf import errors
from i3d_tf.exporting import signatures
from i3d_tf.weights import pytorch
from i3d_tf.weights import pytorch_inception
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

NETWORK, RELEASE = "network", "release"
FORMATS = (NETWORK, RELEASE, *pytorch_inception.I3D_LAYOUTS)
RELEASE_FILE, TORCH_FILE = "model.ckpt", "model.pt"


def write(folder: pathlib.Path, name_or_path: str | os.PathLike, form: str, *, layout: str | None = None) -> str:
  """Writes the weights, and the list of the classes, to an empty folder.

  Args:
    folder: to write to.
    name_or_path: the network, as `saved.load` takes it.
    form: of `FORMATS`.
    layout: of the release's, see `tensorflow1.LAYOUTS`; None: that of the network's stream.

  Returns:
    What was written, in a few words.

  Raises:
    I3dError: if there are no such layouts of this network.
    CheckpointError, DownloadError: as `saved.load`, and if the files cannot be written.
    OSError: likewise.
  """
  if form in pytorch_inception.I3D_LAYOUTS:
    pytorch.import_torch()  # or say at once that it is not there
  values, info = saved.read(name_or_path)
  if form != NETWORK and info.model != "i3d":
    raise errors.I3dError(f"{name_or_path} is a network {info.model}; --format={form} is for i3d")
  if form == NETWORK:
    saved.save_values(folder, values, info)
  elif form == RELEASE:
    tensorflow1.write_release(folder / RELEASE_FILE, values, tensorflow1.LAYOUTS[layout or info.stream])
  else:
    pytorch.write(folder / TORCH_FILE, pytorch_inception.to_torch(values, pytorch_inception.I3D_LAYOUTS[form]))
  for name, content in signatures.class_list(info.classes).items():
    (folder / name).write_bytes(content)
  number = sum(value.size for value in values.values())
  return f"{info.model} for {info.stream}, {len(values)} variables with {number:,} values"
