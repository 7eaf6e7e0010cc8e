"""Tests of ops: ramps with visible answers."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf.video import ops


def _ramp(height: int, width: int) -> np.ndarray:
  """`[H, W, 2]` whose value at each pixel is its own (row, column)."""
  return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)


class CenterCropTest(parameterized.TestCase):

  @parameterized.parameters(
      # height, width, size, first row, first column: what is left over is halved, an odd pixel stays at the end.
      (256, 340, 224, 16, 58),
      (455, 256, 224, 115, 16),
      (7, 10, 4, 1, 3),
      (6, 6, 5, 0, 0),
      (224, 224, 224, 0, 0),
  )
  def test_takes_the_middle(self, height, width, size, top, left):
    crop = ops.center_crop(_ramp(height, width), size)
    self.assertEqual(crop.shape, (size, size, 2))
    np.testing.assert_array_equal(crop[0, 0], [top, left])
    np.testing.assert_array_equal(crop[-1, -1], [top + size - 1, left + size - 1])

  def test_all_frames_alike_whatever_comes_before(self):
    frame = _ramp(5, 8)
    clips = np.stack([frame + 100 * i for i in range(6)]).reshape(2, 3, 5, 8, 2)
    crops = ops.center_crop(clips, 3)
    self.assertEqual(crops.shape, (2, 3, 3, 3, 2))
    for i, crop in enumerate(crops.reshape(6, 3, 3, 2)):
      np.testing.assert_array_equal(crop, frame[1:4, 2:5] + 100 * i)

  def test_default_is_the_networks_input(self):
    self.assertEqual(ops.center_crop(np.zeros((2, 256, 300, 3))).shape, (2, 224, 224, 3))

  @parameterized.parameters((223, 300, "300x223"), (300, 223, "223x300"))
  def test_too_small_is_refused_with_both_sizes(self, height, width, given):
    with self.assertRaisesRegex(ValueError, f"{given} pixels; a crop needs at least 224x224"):
      ops.center_crop(np.zeros((2, height, width, 3)))


class ScaleRgbTest(parameterized.TestCase):

  def test_every_value(self):
    scaled = ops.scale_rgb(np.arange(256, dtype=np.uint8))
    self.assertEqual(scaled.dtype, np.float32)
    self.assertEqual(scaled[0], -1)
    self.assertEqual(scaled[255], 1)
    self.assertGreater(np.diff(scaled).min(), 0)
    np.testing.assert_allclose(scaled, np.linspace(-1, 1, 256), rtol=0, atol=2e-7)

  def test_keeps_the_shape(self):
    frames = np.full((2, 3, 4, 3), 51, np.uint8)
    np.testing.assert_allclose(ops.scale_rgb(frames), np.full((2, 3, 4, 3), -0.6), rtol=0, atol=1e-7)

  @parameterized.parameters("float32", "int8", "uint16", "bool")
  def test_other_types_are_refused(self, dtype):
    with self.assertRaisesRegex(ValueError, f"type {dtype}; RGB frames are uint8"):
      ops.scale_rgb(np.zeros((1, 2, 2, 3), dtype))


if __name__ == "__main__":
  absltest.main()
