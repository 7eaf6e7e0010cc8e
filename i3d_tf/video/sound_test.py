"""The spectrogram beside TensorFlow's, and the sound of files as they are."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.video import decode
from i3d_tf.video import sound


def _tone(frequency: float, seconds: float, rate: int = 16_000, level: float = 0.5) -> np.ndarray:
  return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)[np.newaxis]


class SoundTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / "video.mkv"

  def test_is_that_of_tensorflow(self):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 16_000 * 25).astype(np.float32)  # more than two pieces
    testing.write_sounding_video(self.path, noise[np.newaxis], codec="pcm_f32le")
    magnitudes = tf.abs(tf.signal.stft(noise, 400, 160, 512))
    weights = tf.signal.linear_to_mel_weight_matrix(64, 257, 16_000, 125.0, 7500.0)
    found = sound.log_mel(self.path)
    self.assertEqual(found.shape, (2498, 64))
    np.testing.assert_allclose(sound.mel_weights(), weights, atol=1e-5)
    np.testing.assert_allclose(found, tf.math.log(magnitudes @ weights + 0.01), atol=2e-4)
    parts = [sound.log_mel(self.path, start=start, end=end) for start, end in ((0.5, 3.0), (None, 2.0), (24.0, None))]
    for part, expected in zip(parts, (found[50:298], found[:198], found[2400:]), strict=True):
      np.testing.assert_allclose(part, expected, atol=1e-6)

  @parameterized.parameters((44_100, 1), (48_000, 2), (8_000, 1))
  def test_rates_and_channels(self, rate, channels):
    testing.write_sounding_video(self.path, np.repeat(_tone(1000, 1.0, rate), channels, axis=0), rate=rate)
    found = sound.log_mel(self.path)
    np.testing.assert_allclose(len(found), 98, atol=1)
    edges = np.linspace(1127 * np.log1p(125 / 700), 1127 * np.log1p(7500 / 700), 66)
    expected = np.argmin(np.abs(edges[1:-1] - 1127 * np.log1p(1000 / 700)))
    self.assertEqual(set(found[5:-5].argmax(axis=1)), {expected})
    magnitude = np.exp(found[50]).max()  # half of the windows' sum times the level, shared by two bands
    self.assertBetween(magnitude, 0.25 * 0.5 * 200, 2 * 0.5 * 200)

  def test_statistics(self):
    values = np.float32([[1.0] * 64, [3.0] * 64, [2.0] * 64])
    found = sound.statistics(values)
    np.testing.assert_allclose(found[::64], [2.0, np.sqrt(2 / 3), 0.5, 1.5])
    np.testing.assert_array_equal(sound.statistics(values[:1])[64:], np.zeros(192))

  def test_files_without_sound(self):
    testing.write_moving_video(self.folder / "mute.avi", seed=0, num_frames=5)
    self.assertEqual(sound.log_mel(self.folder / "mute.avi").shape, (0, 64))
    testing.write_sounding_video(self.path, _tone(500, 0.02))
    self.assertEqual(sound.log_mel(self.path).shape, (0, 64))  # less than a window
    np.save(self.folder / "clip.npy", np.zeros((3, 8, 8, 3), np.uint8))
    self.assertEqual(sound.log_mel(self.folder / "clip.npy").shape, (0, 64))
    with self.assertRaisesRegex(errors.VideoError, "there is no such file"):
      sound.log_mel(self.folder / "none.mp4")

  def test_damaged_sound(self):
    testing.write_sounding_video(self.path, _tone(500, 2.0), codec="flac")
    whole = sound.log_mel(self.path)
    content = bytearray(self.path.read_bytes())
    places = [place for place in range(len(content) - 1) if content[place : place + 2] == b"\xff\xf8"]
    self.assertGreater(len(places), 3)
    for place in places[1:3]:
      content[place : place + 12] = b"\x00" * 12  # heads of two of its frames
    self.path.write_bytes(content)
    with self.assertRaisesRegex(errors.VideoError, "video.mkv: its sound is damaged"):
      sound.log_mel(self.path)
    self.assertBetween(len(sound.log_mel(self.path, allow_damaged=True)), 50, len(whole) - 1)

  def test_in_another_process(self):
    testing.write_sounding_video(self.path, _tone(500, 0.5))
    with decode.isolated():
      found = sound.log_mel(self.path)
    np.testing.assert_array_equal(found, sound.log_mel(self.path))


if __name__ == "__main__":
  absltest.main()
