"""An S3 server in a process: the same bytes as on a file system, runs that go on, and what is said when it fails."""

from concurrent import futures
import contextlib
import importlib.util
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

from absl.testing import absltest
import numpy as np

from i3d_tf import errors
from i3d_tf import runners
from i3d_tf import stores
from i3d_tf import testing
from i3d_tf import workdir
from i3d_tf.data import record_index

_IS_INSTALLED = all(map(importlib.util.find_spec, ("s3fs", "moto", "flask")))
_SERVER = "import sys; from moto.server import main; main(sys.argv[1:])"
_VARIABLES = {
  "AWS_ACCESS_KEY_ID": "key",
  "AWS_SECRET_ACCESS_KEY": "secret",
  "AWS_DEFAULT_REGION": "us-east-1",
  "AWS_EC2_METADATA_DISABLED": "true",
  "AWS_MAX_ATTEMPTS": "1",
  "AWS_CONFIG_FILE": "/dev/null",
  "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


class PathTest(absltest.TestCase):
  def test_only_paths_of_stores_are_remote(self):
    for path in ("s3://b/k", "s3:/b/k", pathlib.Path("s3://b/k"), "gs://b", stores.StorePath("s3://b/k")):
      self.assertTrue(stores.is_remote(path), path)
    for path in ("k.mp4", "/b/k", "rtsp://camera/1", "https://host/k.mp4", "s3", "s3://", "./s3://b/k"):
      self.assertFalse(stores.is_remote(path), path)
    self.assertEqual(str(stores.as_path(pathlib.Path("s3://b/k")) / "a.mp4"), "s3://b/k/a.mp4")
    self.assertEqual(str(stores.as_path("s3://b/k/a.mp4").relative_to("s3://b/k")), "a.mp4")

  def test_what_is_written_to_file_systems_only_says_so(self):
    for make in (lambda path: workdir.Workdir(path, "info.json"), lambda path: workdir.new_folder(path).__enter__()):
      with self.assertRaisesRegex(
        errors.I3dError, "^gs://b/out: this is written to file systems only, .* local folder"
      ):
        make("gs://b/out")

  def test_a_missing_package_is_named(self):
    with mock.patch.dict(sys.modules, {"fsspec": None}):
      with self.assertRaisesRegex(errors.I3dError, r"^s3://b/k: object stores need fsspec .*pip install '.\[s3\]'"):
        stores.as_path("s3://b/k").exists()


class _Proxy:
  """Passes connections on to a port, and cuts each when it has answered with `most` bytes."""

  def __init__(self, port: int, most: int):
    self._port, self._most, self.cuts = port, most, 0
    self._server = socket.create_server(("127.0.0.1", 0))
    self.port = self._server.getsockname()[1]
    threading.Thread(target=self._accept, daemon=True).start()

  def close(self) -> None:
    self._server.close()

  def _accept(self) -> None:
    with contextlib.suppress(OSError):
      while True:
        client, _ = self._server.accept()
        server = socket.create_connection(("127.0.0.1", self._port))
        for pair in ((client, server, None), (server, client, self._most)):
          threading.Thread(target=self._pass, args=pair, daemon=True).start()

  def _pass(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
    with contextlib.suppress(OSError):
      while piece := source.recv(4096):
        target.sendall(piece if most is None else piece[:most])
        if most is not None and (most := most - len(piece)) <= 0:
          self.cuts += 1
          break
    for each in (source, target):
      with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


@unittest.skipUnless(_IS_INSTALLED, "s3fs or moto's server is not installed")
class ServerTest(absltest.TestCase):
  """Each test has a bucket of its own on a server that all share."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    with socket.socket() as found:
      found.bind(("127.0.0.1", 0))
      cls.port = found.getsockname()[1]
    command = [sys.executable, "-c", _SERVER, "-H", "127.0.0.1", "-p", str(cls.port)]
    cls._server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cls.addClassCleanup(cls._server.wait)
    cls.addClassCleanup(cls._server.kill)
    for _ in range(600):
      with socket.socket() as tried:
        if tried.connect_ex(("127.0.0.1", cls.port)) == 0:
          return
      time.sleep(0.1)
    raise RuntimeError("the S3 server did not start")

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.enterContext(mock.patch.dict(os.environ, _VARIABLES, I3D_CACHE=str(self.folder / "cache")))
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(self.folder)
    self._connect(self.port)
    self.bucket = f"{self.id().rpartition('.')[2].replace('_', '-')[:50]}"
    self.system.mkdir(self.bucket)
    for number in range(6):
      path = self.folder / "videos" / ("left", "right")[number % 2] / f"v{number}.avi"
      path.parent.mkdir(parents=True, exist_ok=True)
      testing.write_moving_video(path, seed=number, num_frames=10 + number)
    (self.folder / "videos" / "left" / "bad.avi").write_text("no video")
    self.system.put(str(self.folder / "videos"), f"{self.bucket}/videos", recursive=True)

  def _connect(self, port: int, **variables: str) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    os.environ.update(variables, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    self.system = s3fs.S3FileSystem(use_listings_cache=False)

  def _in_store(self, name: str) -> dict[str, bytes]:
    """The files below a name, without those that prove to whom a run belongs."""
    found = self.system.find(f"{self.bucket}/{name}")
    return {path.removeprefix(f"{self.bucket}/{name}/"): self.system.cat_file(path) for path in found}

  def _on_disk(self, name: str) -> dict[str, bytes]:
    folder = self.folder / name
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != workdir.LOCK]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}

  def _prepare(self, videos: str, output: str, *words: str) -> testing.Finished:
    return testing.run_main(
        "prepare_dataset", "--dataset=folder", f"--videos={videos}", f"--output={output}", "--streams=rgb",
        "--short_side=32", "--clips_per_shard=2", "--fractions=1,0,0",
        *(words if any("--runner" in word for word in words) else ("--num_workers=1", *words)),
    )  # fmt: skip

  def _extract(self, inputs: str, output: str, *words: str) -> testing.Finished:
    if not (self.folder / "net").exists():
      testing.write_network(self.folder / "net", short_side=32, crop=32)
    return testing.run_main(
        "extract_features", f"--input={inputs}", f"--output={output}", "--rgb_checkpoint=net", "--window=9",
        "--tail=pad", *words,
    )  # fmt: skip

  def test_records_have_the_bytes_of_those_on_disk_and_a_folder_of_them_goes_on(self):
    url = f"s3://{self.bucket}"
    expected = self._prepare("videos", "records")
    found = self._prepare(f"{url}/videos", f"{url}/records")
    self.assertEqual((expected.status, found.status), (1, 1))
    self.assertIn("1 videos failed, more than --max_failures=0", found.stderr)
    self.assertEqual(found.stdout.replace(f"{url}/", ""), expected.stdout)
    here, there = self._on_disk("records"), self._in_store("records")
    self.assertIn("left/bad", here["failures.tsv"].decode())
    self.assertEqual({name: content.replace(f"{url}/".encode(), b"") for name, content in there.items()}, here)
    source = record_index.open_source(f"{url}/records", "train", streams=["rgb"])
    local = record_index.open_source(self.folder / "records", "train", streams=["rgb"])
    self.assertEqual([entry.read() for entry in source.entries], [entry.read() for entry in local.entries])
    with mock.patch.object(stores.StorePath, "download", side_effect=AssertionError):  # they are there already
      record_index.open_source(f"{url}/records", "train", streams=["rgb"])
    finished = self._prepare(f"{url}/videos", f"{url}/records", "--jpeg_quality=50")
    self.assertIn("was made with other parameters", finished.stderr)
    self.system.put_file(str(self.folder / "videos/left/v0.avi"), f"{self.bucket}/videos/left/bad.avi")
    finished = self._prepare(f"{url}/videos", f"{url}/records", "--retry_failures")
    self.assertEqual(finished.status, 0, finished.stderr)
    after = self._in_store("records")
    self.assertEqual(after["failures.tsv"].decode().count("\n"), 1)
    self.assertEqual([name for name in after if ".work" in name], [])
    self.assertLen([name for name in there if name.endswith(".tfrecord") and there[name] != after[name]], 1)
    again = record_index.open_source(f"{url}/records", "train", streams=["rgb"])
    self.assertEqual(again.num_records, source.num_records + 1)

  def test_features_have_the_bytes_of_those_on_disk_and_a_run_goes_on(self):
    url = f"s3://{self.bucket}"
    expected = self._extract("videos", "features")
    found = self._extract(f"{url}/videos", f"{url}/features")
    self.assertEqual(
      found.stdout.splitlines()[0], expected.stdout.splitlines()[0].replace("features in ", f"features in {url}/")
    )
    arrays = lambda files: {name: content for name, content in files.items() if name.endswith(".npz")}
    here, there = self._on_disk("features"), self._in_store("features")
    self.assertLen(arrays(here), 6)
    self.assertEqual(arrays(there).keys(), arrays(here).keys())
    for name, content in arrays(here).items():
      one, other = (np.load(io.BytesIO(each))["features"] for each in (content, there[name]))
      np.testing.assert_array_equal(one, other, name)
    entries = [json.loads(line) for line in there["manifest.jsonl"].splitlines()]
    self.assertEqual([entry["id"] for entry in entries if "error" in entry], ["left/bad"])
    self.assertIn("not a video", next(entry["error"] for entry in entries if "error" in entry))
    self.system.rm_file(f"{self.bucket}/features/right/v1-rgb-PooledFeatures.npz")
    with mock.patch.object(stores, "fetched", wraps=stores.fetched) as fetched:
      self._extract(f"{url}/videos", f"{url}/features")
    paths = {os.fspath(call.args[0]) for call in fetched.call_args_list}
    self.assertEqual({path for path in paths if path.endswith(".avi")}, {f"{url}/videos/right/v1.avi"})
    self.assertEqual(arrays(self._in_store("features")), arrays(there))

  @unittest.skipUnless(importlib.util.find_spec("apache_beam"), "Apache Beam is not installed")
  def test_the_workers_of_a_runner_read_and_write_there(self):
    url = f"s3://{self.bucket}"
    found = self._prepare(f"{url}/videos", f"{url}/records", "--max_failures=1", "--runner=DirectRunner")
    self.assertEqual(found.status, 0, found.stderr)
    written = record_index.open_source(f"{url}/records", "train", streams=["rgb"])
    self.assertEqual(written.num_records, 6)
    runners.create("FlinkRunner", [], paths=[("output", f"{url}/records")])

  def test_what_the_store_refuses_is_one_sentence(self):
    url = f"s3://{self.bucket}"
    for videos, output, message in (
      ("s3://no-such-bucket/videos", "out", "s3://no-such-bucket/videos: the folder holds no video"),
      ("videos", "s3://no-such-bucket/out", "s3://no-such-bucket/out/dataset.json: there is no such file or bucket"),
    ):
      with self.subTest(message):
        self._assert_sentence(self._prepare(videos, output), message)
    with socket.socket() as unused:
      unused.bind(("127.0.0.1", 0))
      self._connect(unused.getsockname()[1])
      self._assert_sentence(
        self._prepare(f"{url}/videos", "out"),
        "s3://.*/videos: the object store refuses it or cannot be reached: Could not connect",
      )
    self._connect(self.port, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    self._assert_sentence(
      self._prepare(f"{url}/videos", "out"),
      "s3://.*/videos: the object store refuses it .*: Unable to locate credentials",
    )
    self._assert_sentence(
      self._extract("videos", f"{url}/out"), "s3://.*/out: the object store .*: Unable to locate credentials"
    )

  def _assert_sentence(self, finished: testing.Finished, message: str) -> None:
    self.assertEqual(finished.status, 1)
    self.assertNotIn("Traceback", finished.stderr)
    self.assertRegex(finished.stderr.strip().splitlines()[-1], message)

  def test_connections_that_are_cut_go_on_or_leave_nothing_torn(self):
    content = np.random.default_rng(0).bytes(300_000)
    self.system.pipe_file(f"{self.bucket}/big.bin", content)
    path = stores.StorePath(f"s3://{self.bucket}/big.bin")
    for most, is_whole in ((100_000, True), (20_000, False)):  # s3fs reads on from where it was cut, up to five times
      with self.subTest(most=most):
        proxy = _Proxy(self.port, most)
        self.addCleanup(proxy.close)
        self._connect(proxy.port)
        failing = (
          contextlib.nullcontext() if is_whole else self.assertRaisesRegex(errors.StoreError, "^s3://.*/big.bin: ")
        )
        with failing, stores.fetched(path) as copy:
          self.assertTrue(is_whole)
          self.assertEqual(pathlib.Path(copy).read_bytes(), content)
        self.assertGreaterEqual(proxy.cuts, 2)
        self.assertEqual(stores._fetched, {})

  def test_a_file_is_fetched_once_and_several_at_the_same_time(self):
    paths = [stores.StorePath(f"s3://{self.bucket}/{name}.bin") for name in ("one", "other")]
    for path in paths:
      self.system.pipe_file(str(path), path.name.encode())
    both, download = threading.Barrier(2, timeout=60), stores.StorePath.download
    calls: list[str] = []

    def downloaded(source: stores.StorePath, target: str) -> None:
      calls.append(source.name)
      both.wait()  # which passes only where two are fetched at the same time
      download(source, target)

    def read(path: stores.StorePath) -> bytes:
      with stores.fetched(path) as copy:
        ended.wait()
        return pathlib.Path(copy).read_bytes()

    ended = threading.Barrier(4, timeout=60)
    with (
      mock.patch.object(stores.StorePath, "download", downloaded),
      futures.ThreadPoolExecutor(max_workers=4) as pool,
    ):
      found = list(pool.map(read, paths * 2))
    self.assertEqual(found, [path.name.encode() for path in paths * 2])
    self.assertCountEqual(calls, ["one.bin", "other.bin"])
    self.assertEqual(stores._fetched, {})

  def test_an_upload_that_is_interrupted_leaves_what_was_there(self):
    path = stores.as_path(f"s3://{self.bucket}/file.bin")
    with workdir.replacing(path) as file:
      file.write(b"first")
    with self.assertRaisesRegex(ZeroDivisionError, "stop"), workdir.replacing(path) as file:
      file.write(b"second")
      raise ZeroDivisionError("stop")
    self.assertEqual(path.read_bytes(), b"first")
    with socket.socket() as unused:
      unused.bind(("127.0.0.1", 0))
      self._connect(unused.getsockname()[1])
      with self.assertRaises(errors.StoreError), workdir.replacing(path) as file:
        file.write(b"third")
    self._connect(self.port)
    self.assertEqual(path.read_bytes(), b"first")


if __name__ == "__main__":
  absltest.main()
