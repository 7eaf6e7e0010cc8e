"""A linear classifier of a clip's sound, the third stream of late fusion.

No trained network of sound is at hand; what is classified are the statistics of a spectrogram, see `sound.statistics`.
"""

import dataclasses
import json
import os
import pathlib
import zlib

import numpy as np

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import files
from i3d_tf import workdir
from i3d_tf.video import sound

FILE = "sound.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _About:
  """What the file says in JSON."""

  classes: tuple[str, ...]
  dataset: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SoundClassifier:
  """A linear classifier.

  Attributes:
    kernel: float64 `[sound.NUM_STATISTICS, classes]`.
    bias: float64 `[classes]`.
    classes: Names of the classes in index order.
    dataset: What it was fitted on.
  """

  kernel: np.ndarray
  bias: np.ndarray
  classes: tuple[str, ...]
  dataset: str

  @property
  def weights(self) -> str:
    """The CRC-32 of its numbers, 8 hexadecimal digits."""
    return f"{zlib.crc32(self.bias.tobytes(), zlib.crc32(self.kernel.tobytes())):08x}"

  def logits(self, spectrogram: np.ndarray) -> np.ndarray:
    """Returns a clip's logits, float64 `[classes]`; zeros, which tell nothing, of a clip without sound.

    Args:
      spectrogram: `[steps, sound.NUM_BANDS]`, see `sound.log_mel`.
    """
    if not len(spectrogram):
      return np.zeros(len(self.classes))
    return sound.statistics(spectrogram).astype(np.float64) @ self.kernel + self.bias

  def save(self, folder: str | os.PathLike) -> None:
    """Writes it to a folder, from which `load` reads it.

    Args:
      folder: Made if it does not exist.

    Raises:
      OSError: If it cannot be written.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"classes": self.classes, "dataset": self.dataset})
    with workdir.replacing(folder / FILE) as file:
      np.savez(file, kernel=self.kernel, bias=self.bias, about=np.array(about))


def load(folder: str | os.PathLike) -> SoundClassifier:
  """Returns the classifier that `fit` made with streams=rgb,audio.

  Args:
    folder: The folder `audio` of the run.

  Raises:
    I3dError: If there is none, or the file is damaged.
    OSError: If it cannot be read.
  """
  path = pathlib.Path(folder) / FILE
  if not path.exists():
    raise errors.I3dError(f"{folder}: there is no classifier of sound ({FILE}); fit makes one with streams=rgb,audio")
  arrays = files.read_arrays(path)
  about = fields.from_json(_About, files.read_facts(arrays, "about", path), path)
  shapes = {"kernel": (sound.NUM_STATISTICS, len(about.classes)), "bias": (len(about.classes),)}
  if {name: (array.shape, array.dtype.kind) for name, array in arrays.items()} != {
    name: (shape, "f") for name, shape in shapes.items()
  } or not all(np.isfinite(array).all() for array in arrays.values()):
    raise errors.I3dError(f"{path}: this is no classifier of sound, or it is damaged")
  return SoundClassifier(**arrays, classes=about.classes, dataset=about.dataset)
