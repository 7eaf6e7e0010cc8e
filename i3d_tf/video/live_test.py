"""Live sources: files in real time, growing files, pipes; what stalls, changes its size or is absent."""

import io
import os
import pathlib
import socket
import threading
import time

from absl.testing import absltest
from absl.testing import parameterized
import av
import numpy as np

from i3d_tf import errors
from i3d_tf.video import decode
from i3d_tf.video import live

_KEPT = decode.Resize(None)


def _stream(num_frames: int, *, width: int = 64, height: int = 48) -> bytes:
  """An MPEG transport stream of a moving gray bar, 25 frames a second."""
  file = io.BytesIO()
  with av.open(file, "w", format="mpegts") as container:
    stream = container.add_stream("mpeg1video", rate=25)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    for number in range(num_frames):
      image = np.full((height, width, 3), 40, np.uint8)
      image[:, 2 * number % (width - 8) :][:, :8] = 200
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    container.mux(stream.encode(None))
  return file.getvalue()


def _feed(path: pathlib.Path, parts: list[bytes], pause: float, *, mode: str = "wb") -> None:
  with open(path, mode) as file:
    for part in parts:
      file.write(part)
      file.flush()
      time.sleep(pause)


class LiveSourceTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path) / "live.ts"

  def read(self, source: str | None = None, **options) -> tuple[live.LiveSource, list[live.Frame]]:
    with live.LiveSource(source or os.fspath(self.path), resize=_KEPT, **{"stall": 5.0, **options}) as opened:
      return opened, list(opened.frames())

  def test_a_file_is_played_in_real_time(self):
    self.path.write_bytes(_stream(20))
    source, frames = self.read()
    self.assertEqual([frame.number for frame in frames], list(range(20)))
    self.assertBetween(frames[-1].arrived - frames[0].arrived, 0.7, 5)
    expected = list(decode.iter_frames(self.path, short_side=None))
    np.testing.assert_array_equal([frame.image for frame in frames], expected)
    self.assertEqual((source.received, source.dropped), (20, 0))

  def test_frames_that_are_not_taken_are_dropped_the_oldest_first_and_counted(self):
    self.path.write_bytes(_stream(20))
    with live.LiveSource(os.fspath(self.path), resize=_KEPT, capacity=3) as source:
      frames = source.frames()
      numbers = [next(frames).number]
      time.sleep(3)
      self.assertEqual(source.waiting, 3)
      numbers += [frame.number for frame in frames]
    self.assertEqual(numbers[1:], [17, 18, 19])
    self.assertEqual((source.received, source.dropped), (20, 20 - len(numbers)))

  def test_a_file_that_grows_is_followed(self):
    whole = _stream(30)
    self.path.write_bytes(whole[: len(whole) // 2 // 188 * 188])
    rest = whole[self.path.stat().st_size :]
    threading.Timer(1.2, lambda: _feed(self.path, [rest], 0, mode="ab")).start()
    _, frames = self.read()
    numbers = [frame.number for frame in frames]
    self.assertGreaterEqual(len(numbers), 28)  # one may be lost where the file was cut
    self.assertEqual((numbers[0], numbers[-1]), (0, 29))

  def test_a_pipe_is_read_to_its_end(self):
    os.mkfifo(self.path)
    threading.Thread(target=_feed, args=(self.path, [_stream(12)], 0), daemon=True).start()
    _, frames = self.read()
    self.assertEqual([frame.number for frame in frames], list(range(12)))

  def test_a_source_that_stalls_is_named(self):
    os.mkfifo(self.path)
    threading.Thread(target=_feed, args=(self.path, [_stream(12)], 4), daemon=True).start()
    with self.assertRaisesRegex(errors.VideoError, r"live.ts: no frame has come for 1.5 s; see whether"):
      self.read(stall=1.5)

  def test_an_address_that_stalls_is_named(self):
    with socket.create_server(("127.0.0.1", 0)) as server:

      def serve() -> None:
        with server.accept()[0] as connection:
          connection.sendall(_stream(12))
          time.sleep(5)

      threading.Thread(target=serve, daemon=True).start()
      with self.assertRaisesRegex(errors.VideoError, r"^tcp://127.0.0.1:\d+: no frame has come for 1.5 s"):
        self.read(f"tcp://127.0.0.1:{server.getsockname()[1]}", stall=1.5)

  def test_a_source_whose_frames_change_their_size_is_named(self):
    self.path.write_bytes(_stream(5) + _stream(5, width=96, height=64))
    with self.assertRaisesRegex(
      errors.VideoError, "live.ts: the frames changed from 64x48 to 96x64 pixels; start anew"
    ):
      self.read()

  @parameterized.parameters(
    ("absent.mp4", "absent.mp4: there is no such file, and it is no address"),
    ("99", "99: there is no such camera|99: the source cannot be opened"),
    ("tcp://127.0.0.1:9", "tcp://127.0.0.1:9: the source cannot be opened"),
  )
  def test_a_source_that_is_absent_is_named(self, source, sentence):
    with self.assertRaisesRegex(errors.VideoError, sentence):
      self.read(source)


if __name__ == "__main__":
  absltest.main()
