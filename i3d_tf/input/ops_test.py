"""Tests of ops: ramps with visible answers."""

import io

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
from PIL import ImageOps
import tensorflow as tf

from i3d_tf.data import inspection
from i3d_tf.flow import codec
from i3d_tf.input import ops
from i3d_tf.video import decode


def _ramp(height: int, width: int) -> np.ndarray:
  """`[H, W, 2]` whose value at each pixel is its own (row, column)."""
  return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)


class OrientationTest(parameterized.TestCase):
  """JPEGs that cameras wrote, against Pillow."""

  def _write(self, orientation: int, *, order: bytes = b"MM", maker: str = "") -> bytes:
    image = np.zeros((40, 64, 3), np.uint8)
    image[:8, :16], image[-8:, :16] = (250, 0, 0), (0, 250, 0)
    exif = Image.Exif()
    exif.endian = {b"MM": ">", b"II": "<"}[order]
    exif[0x010F], exif[0x0112] = maker, orientation
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=100, subsampling=0, exif=exif)
    return file.getvalue()

  def _expected(self, image: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(image)))).astype(int)

  @parameterized.product(orientation=tuple(range(1, 9)), order=(b"MM", b"II"))
  def test_windows_are_those_of_the_upright_image(self, orientation, order):
    image = self._write(orientation, order=order, maker="M" * (100 * (orientation % 2)))
    expected = self._expected(image)
    size = ops.image_size(tf.constant(image))
    self.assertEqual(tuple(size.numpy()), expected.shape[:2])
    top, left = 3, 5
    for window in ((30, 20), (16, 33)):
      place = {"size": size, "resized": size, "offset": tf.constant([top, left]), "window": tf.constant(window)}
      found = ops.decode_rgb(tf.constant([image] * 2), **place).numpy()
      wanted = expected[top : top + window[0], left : left + window[1]]
      np.testing.assert_allclose(found, [wanted] * 2, rtol=0, atol=2)
    np.testing.assert_allclose(inspection.decode_image(image), expected, rtol=0, atol=2)

  def test_what_has_none_is_upright(self):
    image = self._write(9)
    for each in (image, image[:14], image[:6] + image[40:], b"", b"\xff\xd8\xff\xe1\0\x20Exif\0\0II" + b"\xff" * 4000):
      self.assertEqual(int(ops.records.orientation(tf.constant(each))), 1)


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
    scaled = ops.scale_rgb(np.arange(256, dtype=np.uint8)).numpy()
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


class ScaleFlowTest(parameterized.TestCase):
  @parameterized.parameters(20.0, 5.0, 32.0)
  def test_equals_the_reference_for_every_byte(self, bound):
    bytes_ = np.stack([np.arange(256), np.arange(255, -1, -1)], axis=-1).astype(np.uint8).reshape(2, 8, 16, 2)
    expected = codec.scale(codec.decode(bytes_, bound=bound))
    scaled = ops.scale_flow(bytes_, bound=tf.constant(bound))
    self.assertEqual(scaled.shape, (2, 8, 16, 2))
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=3e-7)

  def test_ends_and_middle(self):
    scaled = ops.scale_flow(np.array([[[0, 255], [127, 128]]], np.uint8))
    np.testing.assert_allclose(scaled, [[[-1, 1], [-1 / 255, 1 / 255]]], rtol=0, atol=1e-7)

  def test_wider_and_higher(self):
    scaled = ops.scale_flow(np.full((2, 3, 2), 191.25, np.float32), factors=(1.5, 0.5))
    np.testing.assert_allclose(scaled, np.broadcast_to([0.75, 0.25], (2, 3, 2)), atol=1e-6)
    cut = ops.scale_flow(np.full((2, 3, 2), 191.25, np.float32), factors=(3, 1))
    np.testing.assert_allclose(cut, np.broadcast_to([1, 0.5], (2, 3, 2)), atol=1e-6)


class FlipTest(absltest.TestCase):
  def test_rgb(self):
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    np.testing.assert_array_equal(ops.flip_rgb(frames), frames[:, :, ::-1])

  def test_flow_is_that_of_the_reference(self):
    flow = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 5, 2)).astype(np.float32)
    flipped = ops.flip_flow(flow)
    np.testing.assert_array_equal(flipped, codec.flip_left_right(flow))
    np.testing.assert_array_equal(flipped[0, 0, 0, 0], [-flow[0, 0, 0, 4, 0], flow[0, 0, 0, 4, 1]])

  def test_x_of_every_flow_of_a_stack_is_negated(self):
    stack = np.random.default_rng(0).uniform(-1, 1, (2, 3, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(ops.flip_flow(stack), stack[:, :, ::-1] * np.float32([-1, 1, -1, 1, -1, 1]))


class JitterColorsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.frames = np.random.default_rng(0).integers(60, 190, (4, 6, 8, 3), np.uint8)

  def test_strength_zero_changes_nothing(self):
    jittered = ops.jitter_colors(self.frames, [1, 2], 0.0).numpy()
    np.testing.assert_allclose(jittered, self.frames.astype(int), atol=1)

  def test_one_change_for_all_frames(self):
    # Equal colours in different frames stay equal, though the frames' own means differ.
    self.frames[:, 0, 0] = [120, 100, 80]
    self.frames[2, 1:] //= 2
    jittered = ops.jitter_colors(self.frames, [5, 0], 1.0).numpy()
    np.testing.assert_array_equal(jittered[:, 0, 0], np.broadcast_to(jittered[0, 0, 0], (4, 3)))
    self.assertGreater(np.abs(jittered[0, 0, 0].astype(int) - [120, 100, 80]).max(), 2)

  def test_seed_draws(self):
    jitter = lambda seed: ops.jitter_colors(self.frames, seed, 1.0).numpy()
    np.testing.assert_array_equal(jitter([1, 2]), jitter([1, 2]))
    self.assertFalse(np.array_equal(jitter([1, 2]), jitter([1, 3])))

  def test_range_of_brightness(self):
    gray = np.full((1, 2, 2, 3), 100, np.uint8)  # neither hue nor saturation nor contrast changes it
    values = [int(ops.jitter_colors(gray, [seed, 0], 1.0)[0, 0, 0, 0]) for seed in range(200)]
    self.assertBetween(min(values), 68, 71)
    self.assertBetween(max(values), 129, 132)


class DropTest(absltest.TestCase):
  def test_rgb_becomes_the_mean_colour(self):
    frames = np.zeros((4, 2, 2, 3), np.uint8)
    frames[1], frames[3] = [40, 80, 120], [200, 80, 0]
    dropped = ops.drop_rgb(frames, tf.constant([True, False, False, True])).numpy()
    np.testing.assert_array_equal(dropped[0], np.broadcast_to([60, 40, 30], (2, 2, 3)))
    np.testing.assert_array_equal(dropped[3], dropped[0])
    np.testing.assert_array_equal(dropped[1:3], frames[1:3])

  def test_flow_becomes_no_motion(self):
    flow = np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2) + 1
    dropped = ops.drop_flow(flow, tf.constant([False, True, False])).numpy()
    np.testing.assert_array_equal(dropped[1], np.zeros((2, 2, 2)))
    np.testing.assert_array_equal(dropped[::2], flow[::2])


class ResizeRgbTest(parameterized.TestCase):
  @parameterized.parameters((48, 64, 72), (90, 160, 64), (64, 64, 32), (50, 31, 16), (32, 40, 32))
  def test_bytes_are_those_of_decode(self, height, width, short_side):
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    expected = np.stack([decode.resize(frame, short_side) for frame in frames])
    size = ops.resized_size(tf.constant([height, width]), short_side)
    np.testing.assert_array_equal(ops.resize_rgb(tf.constant(frames), size), expected)


if __name__ == "__main__":
  absltest.main()
