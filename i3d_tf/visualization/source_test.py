"""Flow comes back from its store as it went in, and videos are measured whole."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.flow import codec
from i3d_tf.models import preprocess
from i3d_tf.video import encode
from i3d_tf.visualization import source


class FlowStoreTest(absltest.TestCase):
  def test_fields_are_passed_on_and_drawn_in_one_scale(self):
    rng = np.random.default_rng(0)
    fields = [rng.normal(0, speed, (20, 30, 2)).astype(np.float32) for speed in (4, 1, 0)]
    store = source.FlowStore()
    for given, kept in zip(fields, store.keep(iter(fields)), strict=True):
      self.assertIs(given, kept)
    self.assertLen(store, 3)
    expected = np.percentile(np.linalg.norm(fields, axis=-1), 99)
    self.assertAlmostEqual(store.full_scale, expected, delta=0.1)
    for index in (2, 0, 1):
      difference = np.abs(store.draw(index).astype(int) - codec.draw(fields[index], full_scale=store.full_scale))
      self.assertLess(np.percentile(difference, 99), 12)
    np.testing.assert_array_equal(store.draw(2), 255)

  def test_motion_beyond_the_bound_is_kept_at_it(self):
    store = source.FlowStore()
    for _ in store.keep([np.full((4, 4, 2), 50, np.float32)]):
      pass
    self.assertAlmostEqual(store.full_scale, np.hypot(20, 20), delta=0.1)

  def test_little_motion_is_not_exaggerated(self):
    store = source.FlowStore()
    for _ in store.keep([np.full((4, 4, 2), 0.01, np.float32)]):
      pass
    self.assertEqual(store.full_scale, 1.0)


class SurveyTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.path = pathlib.Path(folder.name) / "made.mp4"

  def _write(self, num_frames: int, fps: float) -> None:
    with encode.writing(self.path, fps=fps) as write:
      for _ in range(num_frames):
        write(np.zeros((40, 60, 3), np.uint8))

  def test_length_at_25_frames_per_second_and_size(self):
    self._write(20, 50)
    video = source.survey(self.path, preprocess.Preprocess(short_side=20, crop=20))
    self.assertBetween(video.num_frames, 10, 11)
    self.assertEqual((video.height, video.width), (20, 30))
    self.assertEqual([frame.shape for frame in video.frames()], [(20, 30, 3)] * video.num_frames)
    self.assertLen(list(video.flow()), video.num_frames - 1)

  def test_what_there_is_of_a_damaged_video(self):
    self.path = self.path.with_suffix(".avi")
    testing.write_moving_video(self.path, seed=0, num_frames=40)
    content = self.path.read_bytes()
    self.path.write_bytes(content[: len(content) // 2])
    clip = preprocess.Preprocess(short_side=20, crop=20)
    with self.assertRaisesRegex(errors.VideoError, "damaged or incomplete"):
      source.survey(self.path, clip)
    video = source.survey(self.path, clip, allow_damaged=True)
    self.assertBetween(video.num_frames, 10, 25)
    self.assertLen(list(video.frames()), video.num_frames)

  @parameterized.parameters((8, 9), (9, 10))
  def test_too_short(self, num_frames, least):
    self._write(num_frames, 25)
    message = f"made.mp4: the video has {num_frames} frames at 25 .*; the network needs at least {least}$"
    with self.assertRaisesRegex(errors.VideoError, message):
      source.survey(self.path, preprocess.Preprocess(short_side=20, crop=20), least_frames=least)


if __name__ == "__main__":
  absltest.main()
