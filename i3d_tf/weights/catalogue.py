"""The published checkpoints that can be fetched: what each is, where it comes from and how it is verified.

Imports no TensorFlow; only verifying does.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
import pathlib
import shutil

from i3d_tf import errors
from i3d_tf.models import inception_spec
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import registry
from i3d_tf.weights import slim_archive
from i3d_tf.weights import transfer

NAMES = (*manifests.NAMES, slim_archive.NAME)
RELEASE_URL = "https://raw.githubusercontent.com/google-deepmind/kinetics-i3d/master/data/checkpoints"
INDEX, DATA = FILES = ("model.ckpt.index", "model.ckpt.data-00000-of-00001")  # of the release


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """A published checkpoint: what it is, and how it is brought to a folder.

  Attributes:
    name: one of `NAMES`; its folder in the cache.
    trained_on: the data, in order of training.
    num_classes, num_tensors: of the network.
    num_bytes: to be transferred.
    files: what its folder holds.
    path: what TensorFlow reads, in that folder.
    url, below: where it is published: an address, and what it has to be continued by.
    wanted: what the user should bring if it cannot be had, for the message.
    download: fills a folder from an address, with `below`; raises an I3dError if it cannot, an OSError only where the
      folder cannot be written. So do the following.
    copy: fills a folder from one of the user's.
    rebuild: fills a folder from the package registry; None if that does not have it.
    check: verifies the files in a folder.
  """

  name: str
  trained_on: str
  num_classes: int
  num_tensors: int
  num_bytes: int
  files: tuple[str, ...]
  path: str
  url: str
  below: str
  wanted: str
  download: Callable[[str, pathlib.Path], None]
  copy: Callable[[pathlib.Path, pathlib.Path], None]
  rebuild: Callable[[pathlib.Path], None] | None = None
  check: Callable[[pathlib.Path], None]


def find(name: str) -> Checkpoint:
  """The checkpoint `name`, one of `NAMES`; DownloadError if there is none."""
  if name not in NAMES:
    raise errors.DownloadError(f"there is no published checkpoint {name!r}; there are {', '.join(NAMES)}")
  return _inception_v1() if name == slim_archive.NAME else _released(manifests.load(name))


def has_files(folder: pathlib.Path, files: Sequence[str]) -> bool:
  """Whether all the files are in the folder."""
  return all(os.path.isfile(folder / file) for file in files)


def _released(manifest: manifests.Manifest) -> Checkpoint:
  return Checkpoint(
    name=manifest.name,
    trained_on=manifest.trained_on,
    num_classes=manifest.num_classes,
    num_tensors=len(manifest.tensors),
    num_bytes=manifest.data_bytes,
    files=FILES,
    path="model.ckpt",
    url=RELEASE_URL,
    below=manifest.name,
    wanted=f"its two files model.ckpt.* from {RELEASE_URL}/{manifest.name}",
    download=functools.partial(_download_released, manifest.name),
    copy=functools.partial(_copy_released, manifest.name),
    rebuild=functools.partial(_rebuild, manifest) if manifest.name == registry.NAME else None,
    check=functools.partial(_check_released, manifest),
  )


def _download_released(name: str, address: str, folder: pathlib.Path) -> None:
  for file in FILES:
    transfer.fetch(f"{address}/{file}", folder / file, f"{name} {file}")


def _copy_released(name: str, source_dir: pathlib.Path, folder: pathlib.Path) -> None:
  places = (source_dir / name, source_dir / "data" / "checkpoints" / name, source_dir)
  place = next((place for place in places if has_files(place, FILES)), None)
  if place is None:
    raise errors.DownloadError(f"it holds no {INDEX} and {DATA} of {name}")
  for file in FILES:
    transfer.copy(place / file, folder / file)


def _rebuild(manifest: manifests.Manifest, folder: pathlib.Path) -> None:
  # What a killed process left there is of no use.
  shutil.rmtree(folder)
  folder.mkdir()
  registry.fetch(manifest, folder / "model.ckpt")


def _check_released(manifest: manifests.Manifest, folder: pathlib.Path) -> None:
  """Compares every tensor with the release's."""
  from i3d_tf.weights import bundle  # imports TensorFlow

  size = (folder / DATA).stat().st_size
  if size != manifest.data_bytes:
    raise errors.DownloadError(f"{folder / DATA} has {size} bytes instead of {manifest.data_bytes}")
  bundle.read(os.fspath(folder / "model.ckpt"), manifest)


def _inception_v1() -> Checkpoint:
  variables = inception_spec.variable_shapes(inception_spec.INCEPTION_V1, num_classes=slim_archive.NUM_CLASSES)
  return Checkpoint(
    name=slim_archive.NAME,
    trained_on="ImageNet; 2D, to start others from",
    num_classes=slim_archive.NUM_CLASSES,
    num_tensors=len(variables),
    num_bytes=slim_archive.ARCHIVE_BYTES,
    files=(slim_archive.CHECKPOINT,),
    path=slim_archive.CHECKPOINT,
    url=slim_archive.URL,
    below=slim_archive.ARCHIVE,
    wanted=f"{slim_archive.ARCHIVE} from {slim_archive.URL}",
    download=slim_archive.download,
    copy=slim_archive.copy,
    check=_check_slim,
  )


def _check_slim(folder: pathlib.Path) -> None:
  """Reads every tensor, and compares names and shapes with the network's."""
  from i3d_tf.weights import slim  # imports TensorFlow

  slim.read(folder / slim_archive.CHECKPOINT)
