"""What clients may do by mistake or on purpose: limits hold, and every answer is a sentence and no defect."""

import base64
from collections.abc import Iterator
import contextlib
import gzip
import http.server
import io
import json
import os
import pathlib
import socket
import tempfile
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import yaml

from i3d_tf import errors
from i3d_tf import serving
from i3d_tf import testing
from i3d_tf.serving import batching
from i3d_tf.serving import downloads
from i3d_tf.serving import guard
from i3d_tf.serving import models
from i3d_tf.serving import server as server_lib
from i3d_tf.serving import testing as serving_testing
from i3d_tf.serving import videos

_ROOT = pathlib.Path(__file__).parent


def _image(width: int, height: int) -> dict[str, str]:
  file = io.BytesIO()
  Image.new("RGB", (width, height)).save(file, "PNG")
  return {"b64": base64.b64encode(file.getvalue()).decode()}


def _header_of_png(width: int, height: int) -> dict[str, str]:
  """An image of a few bytes whose header states a size."""
  content = base64.b64decode(_image(1, 1)["b64"])
  head = content[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
  crc = __import__("zlib").crc32(head[12:29]).to_bytes(4, "big")
  return {"b64": base64.b64encode(head + crc + content[33:]).decode()}


_JPEG = {"signature_name": "jpeg"}
_BODIES = {
  "nothing": b"",
  "no JSON": b"{",
  "no object": b"[1]",
  "not UTF-8": b'{"instances": "\xff"}',
  "deep": b"[" * 100_000,
  "deep inputs": b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}",
  "no inputs": b"{}",
  "both": b'{"inputs": [], "instances": []}',
  "no clips": b'{"instances": []}',
  "unknown key": b'{"instances": [1], "other": 1}',
  "a text": b'{"instances": "abc"}',
  "null": b'{"instances": null}',
  "nulls": b'{"instances": [null]}',
  "texts": b'{"instances": [["a"]]}',
  "ragged": b'{"instances": [[1, [2]], [3]]}',
  "huge number": b'{"instances": [1' + b"0" * 400 + b"]}",
  "many digits": b'{"instances": [' + b"1" * 5000 + b"]}",
  "NaN": b'{"instances": [[[[[NaN, 1, 1]]]]]}',
  "infinite": b'{"inputs": [[[[[1e400, 1, 1]]]]]}',
  "signature": b'{"signature_name": 3, "instances": [1]}',
  "empty axes": b'{"instances": [[[[[]]]]]}',
  "one frame": json.dumps({"instances": np.zeros([1, 1, 32, 32, 3]).tolist()}).encode(),
  "other input": json.dumps({"instances": [{"flow": 1}]}).encode(),
  "long name": json.dumps({"signature_name": "a" * 100_000, "instances": [1]}).encode(),
  "no base64": json.dumps({**_JPEG, "instances": [[{"b64": "?"}]]}).encode(),
  "no image": json.dumps({**_JPEG, "instances": [[{"b64": "aGFsbG8="}]]}).encode(),
  "a number for an image": json.dumps({**_JPEG, "instances": [[1]]}).encode(),
  "100,000 pixels wide": json.dumps({**_JPEG, "instances": [[_header_of_png(100_000, 100_000)] * 16]}).encode(),
  "a line": json.dumps({**_JPEG, "instances": [[_header_of_png(900_000, 1)] * 16]}).encode(),
  "too many images": json.dumps({**_JPEG, "instances": [[_image(8, 8)] * 16] * 16}).encode(),
  "two sizes": json.dumps({**_JPEG, "instances": [[_image(40, 40)] * 15 + [_image(80, 80)]]}).encode(),
  "half an image": json.dumps({**_JPEG, "instances": [[{"b64": _image(64, 64)["b64"][:80]}] * 16]}).encode(),
}


class LimitsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    testing.write_network(cls.folder / "tiny", model="c3d", num_frames=16, short_side=36, crop=32)
    cls.repository = models.Repository([models.parse_source(str(cls.folder / "tiny"))])
    options = {"max_bytes": 1 << 20, "max_seconds": 10.0, "max_pixels": 1_000_000}
    cls.running = cls.enterClassContext(serving_testing.Running(cls.repository, **options))
    cls.clip = {"instances": np.zeros([1, 16, 32, 32, 3]).tolist()}

  def setUp(self):
    super().setUp()
    self.addCleanup(lambda: self.assertEqual(self.running.call("GET", "/healthz")[0], 200))

  def test_bodies(self):
    for name, body in _BODIES.items():
      with self.subTest(name):
        status, answer, _ = self.running.call("POST", "/v1/models/tiny:predict", body)
        self.assertBetween(status, 400, 422, f"{name}: {answer}")
        self.assertEqual(list(answer), ["error"])
        self.assertLess(len(answer["error"]), 500)

  def test_names_of_files_are_no_paths(self):
    video = self.folder / "moving.avi"
    testing.write_moving_video(video, seed=1, num_frames=12)
    temporary = self.folder / "temporary"
    temporary.mkdir()
    self.enterContext(mock.patch.object(tempfile, "tempdir", str(temporary)))
    for name in ("../../etc/passwd", "..\\..\\x.avi", "/etc/passwd", "x" * 500):
      status, answer, _ = self.running.upload(video, name)
      self.assertEqual(status, 200, answer)
      self.assertEqual(answer["name"], name.replace("\\", "/").rpartition("/")[2][:100])
    status, answer, _ = self.running.upload(video, "a\0b.avi")
    self.assertEqual((status, "\0" in answer["name"]), (200, False))
    self.assertEqual(self.running.upload(video, "x" * 100_000)[0], 400)
    self.assertEqual(os.listdir(temporary), [])
    for path in ("/../serve.py", "/%2e%2e/serve.py", "/page/app.js", "/v1/models/..%2f..%2fetc", "/app.js/../../x"):
      self.assertIn(self.running.call("GET", path)[0], (400, 404), path)

  def test_uploads_that_are_no_videos(self):
    contents = {
      "text": b"This is no video.\n" * 100,
      "list": b"ffconcat version 1.0\nfile /etc/passwd\n",
      "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
      "zip": b"PK\x03\x04" + bytes(2000),
      "nothing": b"",
      "zeros": bytes(500_000),
      "picture": base64.b64decode(_image(64, 64)["b64"]),
    }
    for name, content in contents.items():
      path = self.folder / name
      path.write_bytes(content)
      status, answer, _ = self.running.upload(path, f"{name}.mp4")
      self.assertEqual(status, 422, f"{name}: {answer}")
      self.assertStartsWith(answer["error"], f"{name}.mp4: ")
      self.assertNotIn(tempfile.gettempdir(), answer["error"])

  def test_fields_of_the_form(self):
    video = self.folder / "clip.avi"
    testing.write_moving_video(video, seed=1, num_frames=12)
    for fields, status in (
      ({"model": "other"}, 404), ({"output": "x"}, 422), ({"top_k": "0"}, 422), ({"version": "9"}, 404),
      ({"pictures": "1000"}, 422), ({"url": "http://127.0.0.1/"}, 400), ({"version": str(2**70)}, 422),
    ):  # fmt: skip
      self.assertEqual(self.running.upload(video, **fields)[0], status, fields)
    self.assertEqual(self.running.upload(None, model="tiny")[0], 400)
    self.assertEqual(self.running.upload(None, url="http://example.org/a.mp4")[0], 400)

  def test_videos_that_are_too_large_or_long(self):
    import av

    for name, (width, height, frames), reason in (
      ("large", (1920, 1080, 2), "a frame has 1920x1080 pixels; at most 1,000,000 are taken"),
      ("long", (16, 16, 25 * 11), "the video has 11 seconds; at most 10 are taken"),
    ):
      path = self.folder / f"{name}.mp4"
      with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
        for _ in range(frames):
          container.mux(stream.encode(frame))
        container.mux(stream.encode())
      status, answer, _ = self.running.upload(path)
      self.assertEqual((status, answer), (422, {"error": f"clip.mp4: {reason}"}))

  def test_too_many_bytes(self):
    body = b" " * (1 << 20) + b"{}"
    self.assertEqual(self.running.call("POST", "/v1/models/tiny:predict", body)[0], 413)
    with self._connected() as client:  # without a stated length
      client.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
      piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
      with contextlib.suppress(OSError):  # it stops reading
        for _ in range(40):
          client.sendall(piece)
      self.assertStartsWith(client.recv(100), b"HTTP/1.1 413 ")

  def test_slow_clients(self):
    start = time.monotonic()
    patience = {"header_timeout": 1.0, "upload_timeout": 1.0}
    with contextlib.ExitStack() as stack:
      running = stack.enter_context(serving_testing.Running(self.repository, **patience))
      header, silent, body = (stack.enter_context(self._connected(running)) for _ in range(3))
      header.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
      body.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
      self.assertEqual(header.recv(100), b"")
      self.assertEqual(silent.recv(100), b"")
      self.assertStartsWith(body.recv(100), b"HTTP/1.1 408 ")
    self.assertLess(time.monotonic() - start, 30)

  def test_a_refused_body_may_take_its_time(self):
    with mock.patch.object(guard, "_LINGER", 0.5), self._connected() as client:
      head = "POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 4\r\n\r\n"
      client.sendall(head.encode())
      for _ in range(4):
        time.sleep(0.2)
        client.sendall(b"x")
      answer = client.recv(2000)
    self.assertStartsWith(answer, b"HTTP/1.1 403 ")
    self.assertNotIn(b"connection: close", answer.lower())

  def test_other_requests_that_are_refused(self):
    path, call = "/v1/models/tiny:predict", self.running.call
    clip = json.dumps(self.clip).encode()
    self.assertEqual(call("POST", path, gzip.compress(clip), Content_Encoding="gzip")[0], 415)
    self.assertEqual(call("POST", path, clip, Origin="http://evil.example")[0], 403)
    self.assertEqual(call("POST", path, clip, Origin=f"http://127.0.0.1:{self.running.port}")[0], 200)
    self.assertEqual(call("GET", "/v1/models", None, Host="evil.example")[0], 421)
    status, _, headers = call("DELETE", path)
    self.assertEqual((status, headers["x-content-type-options"], headers["allow"]), (405, "nosniff", "POST"))
    with self._connected() as client:
      client.sendall(b"\x16\x03\x01garbage\r\n\r\n")
      self.assertStartsWith(client.recv(100), b"HTTP/1.1 400 ")

  def test_a_token(self):
    file = self.folder / "token"
    file.write_text("s3cret\n")
    token = server_lib.read_token(str(file))
    with serving_testing.Running(self.repository, token=token) as running:
      self.assertEqual(running.call("GET", "/v1/models")[0], 401)
      self.assertEqual(running.call("GET", "/v1/models", None, Authorization="Bearer s3cre")[0], 401)
      self.assertEqual(running.call("GET", "/v1/models", None, Authorization="Bearer s3cret")[0], 200)
      self.assertEqual([running.call("GET", path)[0] for path in ("/", "/healthz", "/metrics")], [200, 200, 401])
    file.write_text("two words")
    with self.assertRaisesRegex(errors.I3dError, "the token must be one word"):
      server_lib.read_token(str(file))

  def test_a_full_queue(self):
    started, release = threading.Event(), threading.Event()

    def slow(**inputs):
      started.set()
      release.wait(30)
      return original(**inputs)

    model = self.repository.get("tiny")
    signature = model.signatures["serving_default"]
    original = signature.function
    changed = {"serving_default": models.ServedSignature(signature.inputs, signature.outputs, slow)}
    with (
      serving_testing.Running(self.repository, queue=2) as running,
      mock.patch.object(models.ServedModel, "signature", lambda self, name: changed["serving_default"]),
    ):
      found = []
      ask = lambda: found.append(running.call("POST", "/v1/models/tiny:predict", self.clip)[0])
      threads = [threading.Thread(target=ask) for _ in range(2)]
      for thread in threads:
        thread.start()
      started.wait(30)
      while running.service.metrics.running._value.get() < 2:
        time.sleep(0.01)
      status, answer, headers = running.call("POST", "/v1/models/tiny:predict", self.clip)
      self.assertEqual((status, headers["retry-after"]), (429, "1"))
      self.assertEqual(answer, {"error": "the service is busy; try again later"})
      release.set()
      for thread in threads:
        thread.join()
      self.assertEqual(found, [200, 200])

  @contextlib.contextmanager
  def _connected(self, running: serving_testing.Running | None = None) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", (running or self.running).port), timeout=30) as client:
      yield client


class BatcherTest(absltest.TestCase):
  def test_batches(self):
    sizes, blocked = [], threading.Event()

    def double(x):
      blocked.wait(10)
      sizes.append(len(x))
      if (x.numpy() < 0).any():
        raise ValueError("negative\nand more")
      return {"y": 2 * x}

    batcher = batching.Batcher(capacity=8, max_batch=4, delay=0.0)
    self.addCleanup(batcher.close)
    first = batcher.submit(double, {"x": np.array([[0.0]])}, seconds=10)
    while batcher.waiting:
      time.sleep(0.001)
    later = [batcher.submit(double, {"x": np.array([[float(each)]])}, seconds=10) for each in (1, 2, -3)]
    other = batcher.submit(double, {"x": np.array([[4.0, 5.0]])}, seconds=10)
    late = batcher.submit(double, {"x": np.array([[6.0]])}, seconds=0)
    gone = batcher.submit(double, {"x": np.array([[7.0]])}, seconds=10)
    gone.cancel()
    for _ in range(2):
      batcher.submit(double, {"x": np.zeros((1, 3))}, seconds=10)
    with self.assertRaisesRegex(serving.Busy, "busy"):
      batcher.submit(double, {"x": np.array([[8.0]])}, seconds=10)
    blocked.set()
    self.assertEqual(first.result()["y"].tolist(), [[0]])
    self.assertEqual([each.result()["y"].tolist() for each in later[:2]], [[[2]], [[4]]])
    with self.assertRaisesRegex(errors.I3dError, "^the network does not take these clips: negative$"):
      later[2].result()
    self.assertEqual(other.result()["y"].tolist(), [[8, 10]])
    with self.assertRaises(serving.Late):
      late.result()
    self.assertEqual(sizes[:2], [1, 3])  # those of one shape together; then each alone, since one fails
    self.assertEqual(sizes[2:5], [1, 1, 1])


class DownloadTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=cls.web.serve_forever, daemon=True).start()
    cls.addClassCleanup(cls.web.server_close)
    cls.addClassCleanup(cls.web.shutdown)
    cls.site = f"127.0.0.1:{cls.web.server_port}"

  def _fetch(self, url: str, *hosts: str) -> tuple[str, bytes]:
    file = io.BytesIO()
    config = serving.ServeConfig(url_hosts=hosts, max_bytes=1000)
    return downloads.fetch(url, file, config, videos.Watch(10)), file.getvalue()

  def test_a_host_that_was_named(self):
    self.assertEqual(self._fetch(f"http://{self.site}/a%20b.mp4?x=1", "127.0.0.1"), ("a b.mp4", b"/a%20b.mp4?x=1"))

  @parameterized.parameters(
    "http://127.0.0.1:{port}/a", "http://localhost:{port}/a", "http://[::1]:{port}/", "http://0.0.0.0:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/", "http://2130706433:{port}/", "http://0x7f.1:{port}/", "http://127.1:{port}/",
    "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://192.168.1.1/", "http://[fe80::1]/",
    "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://224.0.0.1/",
  )  # fmt: skip
  def test_private_addresses(self, url):
    with self.assertRaisesRegex(errors.I3dError, "private addresses|there is no host"):
      self._fetch(url.format(port=self.web.server_port), "*")

  @parameterized.parameters(
    "file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "//127.0.0.1/", "", "http://", "http:///a",
    "http://user:password@127.0.0.1/", "http://127.0.0.1:99999/", "http://127.0.0.1/\r\nX: y", "http://[::1",
    "/etc/passwd",
  )  # fmt: skip
  def test_other_urls(self, url):
    with self.assertRaisesRegex(errors.I3dError, "the URL|not taken|malformed"):
      self._fetch(url, "127.0.0.1")

  def test_other_hosts_redirects_and_too_much(self):
    with self.assertRaisesRegex(errors.I3dError, "fetches no videos from that host"):
      self._fetch(f"http://{self.site}/a", "example.org")
    with self.assertRaisesRegex(errors.I3dError, "fetches no videos by URL"):
      self._fetch(f"http://{self.site}/a")
    with self.assertRaisesRegex(errors.I3dError, "status 302; redirects are not followed"):
      self._fetch(f"http://{self.site}/redirect", "127.0.0.1")
    with self.assertRaisesRegex(errors.I3dError, "more than 1,000 bytes"):
      self._fetch(f"http://{self.site}/large", "127.0.0.1")


class _Site(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    self.send_response(302 if self.path == "/redirect" else 200)
    self.send_header("Location", "http://127.0.0.1/secret")
    self.end_headers()
    with contextlib.suppress(OSError):
      self.wfile.write(b"x" * 100_000 if self.path == "/large" else self.path.encode())

  def log_message(self, *arguments):
    pass


class FilesTest(absltest.TestCase):
  def test_the_page_needs_nothing_from_elsewhere(self):
    for name in ("index.html", "app.js", "style.css"):
      text = (_ROOT / "page" / name).read_text().replace("http://www.w3.org/2000/svg", "")
      self.assertNotRegex(text, r"https?:|//[a-z]+\.|@import|url\(", name)

  def test_docker(self):
    compose = yaml.safe_load((_ROOT / "docker" / "compose.yaml").read_text())
    service = compose["services"]["serving"]
    self.assertStartsWith(service["image"], "tensorflow/serving:")
    self.assertIn("--model_base_path=/models/i3d", service["command"])
    self.assertTrue(all(port.startswith("127.0.0.1:") for port in service["ports"]))
    lines = [line for line in (_ROOT / "docker" / "Dockerfile").read_text().splitlines() if line[:1] not in ("#", "")]
    self.assertEqual([line.split()[0] for line in lines], ["FROM", "ARG", "ENV", "COPY", "EXPOSE"])
    self.assertEqual(lines[0].split()[1], service["image"])


if __name__ == "__main__":
  absltest.main()
