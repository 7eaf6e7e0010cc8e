"""What each released checkpoint must contain: tensor names, shapes and checksums."""

from collections.abc import Mapping
import dataclasses
import functools
import json

import google_crc32c
import numpy as np

from i3d_tf import errors
from i3d_tf import resources

NAMES = ("rgb_imagenet", "flow_imagenet", "rgb_scratch", "flow_scratch", "rgb_scratch_kin600")


@dataclasses.dataclass(frozen=True)
class Manifest:
  """One released checkpoint.

  Attributes:
    name: its folder in the release.
    stream: its layout, a key of `release.LAYOUTS`.
    num_classes: 400 or 600.
    trained_on: the data, in order of training.
    data_bytes: size of `model.ckpt.data-00000-of-00001`.
    data_git_blob: git's id of that file.
    tensors: name -> (shape, masked CRC32C as TensorFlow stores it); all are float32.
  """

  name: str
  stream: str
  num_classes: int
  trained_on: str
  data_bytes: int
  data_git_blob: str
  tensors: Mapping[str, tuple[tuple[int, ...], int]]


@functools.cache
def load(name: str) -> Manifest:
  """Reads the manifest of the released checkpoint `name`, one of `NAMES`.

  Raises:
    DownloadError: if there is no checkpoint of that name.
  """
  if name not in NAMES:
    raise errors.DownloadError(f"there is no released checkpoint {name!r}; there are {', '.join(NAMES)}")
  fields = json.loads(resources.path("checkpoints", f"{name}.json").read_text(encoding="utf-8"))
  tensors = {tensor: (tuple(shape), crc) for tensor, (shape, crc) in fields.pop("tensors").items()}
  return Manifest(tensors=tensors, **fields)


def masked_crc32c(array: np.ndarray) -> int:
  """The checksum TensorFlow's checkpoint index stores for `array`."""
  return mask(google_crc32c.value(array.tobytes()))


def mask(crc: int) -> int:
  """A CRC32C as TensorFlow stores it, in checkpoints and TFRecords (tensorflow/core/lib/hash/crc32c.h: Mask)."""
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
