"""Inception-v1 trained on ImageNet as TF-slim publishes it: an archive that holds one checkpoint file.

The address is that of tensorflow/models research/slim/README.md. Slim publishes no checksum; size and SHA-256 are those
that openvinotoolkit/open_model_zoo has on record (models/public/googlenet-v1-tf/model.yml at 00a4830e).
Imports no TensorFlow.
"""

import hashlib
import io
import pathlib
import posixpath
import shutil
import tarfile

from i3d_tf import errors
from i3d_tf.weights import http_client

NAME = "inception_v1"
URL = "http://download.tensorflow.org/models"
ARCHIVE = "inception_v1_2016_08_28.tar.gz"
ARCHIVE_BYTES = 24_642_554
ARCHIVE_SHA256 = "7a620c430fcaba8f8f716241f5148c4c47c035cce4e49ef02cfbe6cd1adf96a6"
CHECKPOINT = "inception_v1.ckpt"  # a single file, as TensorFlow wrote checkpoints before 0.12
NUM_CLASSES = 1001  # the first is the background


def download(address: str, folder: pathlib.Path) -> None:
  """Brings the checkpoint to `folder` from the archive's address.

  Raises:
    DownloadError: if the archive cannot be had whole, or is another one, which is removed then.
    OSError: if the folder cannot be written.
  """
  archive = folder / ARCHIVE
  http_client.fetch(address, archive, ARCHIVE)
  try:
    _unpack(archive, folder)
  except errors.DownloadError:
    archive.unlink()
    raise


def copy(source_dir: pathlib.Path, folder: pathlib.Path) -> None:
  """Brings the checkpoint to `folder` from a folder of the user's: out of the archive, or as it is if unpacked.

  Raises:
    DownloadError: if it is not there, or not the published one.
    OSError: if the folder cannot be written.
  """
  for place in (source_dir / NAME, source_dir):
    if (place / ARCHIVE).is_file():
      return _unpack(place / ARCHIVE, folder)
    if (place / CHECKPOINT).is_file():
      return http_client.copy(place / CHECKPOINT, folder / CHECKPOINT)
  raise errors.DownloadError(f"it holds no {ARCHIVE}, nor {CHECKPOINT} unpacked")


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the archive's checkpoint, and nothing else that it may hold, to `folder`."""
  if (size := http_client.size(archive)) != ARCHIVE_BYTES:
    raise errors.DownloadError(f"{archive} has {size} bytes instead of {ARCHIVE_BYTES}")
  with http_client.open_source(archive) as source:
    content = source.read()
  if (sha256 := hashlib.sha256(content).hexdigest()) != ARCHIVE_SHA256:
    raise errors.DownloadError(f"{archive} is not the one published: its sha256 is {sha256}, not {ARCHIVE_SHA256}")
  with tarfile.open(fileobj=io.BytesIO(content)) as members:
    member = next((each for each in members if each.isfile() and posixpath.basename(each.name) == CHECKPOINT), None)
    if member is None:
      raise errors.DownloadError(f"{archive} holds no {CHECKPOINT}")
    with members.extractfile(member) as checkpoint, open(folder / CHECKPOINT, "wb") as file:
      shutil.copyfileobj(checkpoint, file)
