"""What is written can be read again, and nothing torn is left behind."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf.video import decode
from i3d_tf.video import encode


class EncodeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.path = pathlib.Path(folder.name) / "made.mp4"

  @parameterized.parameters((48, 64, 25), (33, 45, 10))
  def test_frames_come_back(self, height, width, fps):
    ramp = np.linspace(0, 60, width)[:, np.newaxis] + (20, 90, 150)
    frames = [np.rint(ramp + 6 * time).astype(np.uint8)[np.newaxis].repeat(height, axis=0) for time in range(7)]
    with encode.writing(self.path, fps=fps) as write:
      for frame in frames:
        write(frame)
    info = decode.probe(self.path)
    self.assertEqual((info.frame_rate, info.num_frames), (fps, 7))
    self.assertEqual((info.height, info.width), (height + height % 2, width + width % 2))
    read = list(decode.iter_frames(self.path, fps=fps, short_side=None))
    for frame, wanted in zip(read, frames, strict=True):
      self.assertLess(np.abs(frame[:height, :width].astype(int) - wanted).max(), 9)

  def test_what_fails_leaves_the_old_file(self):
    self.path.write_bytes(b"old")
    with self.assertRaisesRegex(ValueError, "^a frame has 64x50 pixels; those before it 64x48$"):
      with encode.writing(self.path, fps=25) as write:
        for height in (48, 50):
          write(np.zeros((height, 64, 3), np.uint8))
    self.assertEqual(self.path.read_bytes(), b"old")
    with self.assertRaises(KeyError):
      with encode.writing(self.path, fps=25):
        raise KeyError
    self.assertEqual([path.name for path in self.path.parent.iterdir()], ["made.mp4"])

  def test_names_that_cannot_be_written(self):
    with self.assertRaisesRegex(errors.I3dError, r"^a\.avi: the video's name must end in \.mp4$"):
      with encode.writing("a.avi", fps=25):
        pass
    with self.assertRaises(FileNotFoundError):
      with encode.writing(self.path.parent / "none" / "a.mp4", fps=25):
        pass


if __name__ == "__main__":
  absltest.main()
