"""What each released checkpoint must contain: tensor names, shapes and checksums. Imports no TensorFlow."""

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
    name: Its folder in the release.
    stream: Its layout, a key of `tensorflow1.LAYOUTS`.
    num_classes: 400 or 600.
    trained_on: Data, in order of training.
    data_bytes: Size of `model.ckpt.data-00000-of-00001`.
    data_git_blob: Git's id of that file.
    tensors: Shape, and masked CRC32C as TensorFlow stores it, by name; all tensors are float32.
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
  """Returns the manifest of a released checkpoint.

  Args:
    name: One of `NAMES`.

  Raises:
    DownloadError: If there is no checkpoint of that name.
  """
  if name not in NAMES:
    raise errors.DownloadError(f"there is no released checkpoint {name!r}; there are {', '.join(NAMES)}")
  fields = json.loads(resources.path("checkpoints", f"{name}.json").read_text(encoding="utf-8"))
  tensors = {tensor: (tuple(shape), crc) for tensor, (shape, crc) in fields.pop("tensors").items()}
  return Manifest(tensors=tensors, **fields)


def masked_crc32c(array: np.ndarray) -> int:
  """Returns the checksum that the index of a TensorFlow checkpoint stores for an array.

  Args:
    array: The array, whose bytes are taken in C order.
  """
  return mask(google_crc32c.value(array.tobytes()))


def mask(crc: int) -> int:
  """Returns a CRC32C masked as TensorFlow does in checkpoints and TFRecords (tensorflow/core/lib/hash/crc32c.h: Mask).

  Args:
    crc: The checksum.
  """
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
