"""The flow codec, its rules and its pictures."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.flow import codec


class CodecTest(parameterized.TestCase):
  @parameterized.parameters(
      ("truncate", -20.0, 0), ("truncate", 0.0, 127), ("truncate", 20.0, 255), ("truncate", 35.0, 255),
      ("truncate", -35.0, 0), ("truncate", 0.0785, 128), ("nearest", 0.0, 128), ("nearest", 0.07, 128),
      ("nearest", -0.09, 127), ("nearest", 19.95, 255),
  )  # fmt: skip
  def test_bytes(self, rounding, value, byte):
    self.assertEqual(codec.encode(np.array([value], np.float32), rounding=rounding)[0], byte)

  def test_zero_decodes_as_documented(self):
    self.assertAlmostEqual(float(codec.decode(np.array([127], np.uint8))[0]), -0.0784, places=4)

  @parameterized.parameters(("truncate", 40 / 255), ("nearest", 20 / 255))
  def test_round_trip_error(self, rounding, largest):
    values = np.linspace(-20, 20, 10_001, dtype=np.float32)
    error = np.abs(codec.decode(codec.encode(values, rounding=rounding)) - values)
    self.assertLessEqual(error.max(), largest + 1e-5)
    self.assertGreater(error.max(), 0.99 * largest)

  def test_every_byte_survives_decoding_and_rounding(self):
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(codec.encode(codec.decode(values), rounding="nearest"), values)

  def test_another_bound(self):
    np.testing.assert_array_equal(codec.encode(np.array([-5.0, 5.0]), bound=5), [0, 255])
    np.testing.assert_allclose(codec.decode(np.array([0, 255], np.uint8), bound=5), [-5, 5])

  def test_image_channels_are_x_y_0(self):
    np.testing.assert_array_equal(codec.to_image(np.array([[[3, 9]]], np.uint8)), [[[3, 9, 0]]])

  def test_scale_cuts_off(self):
    np.testing.assert_allclose(codec.scale(np.array([-30, -10, 0, 20, 21.0])), [-1, -0.5, 0, 1, 1])

  @parameterized.parameters(
    (lambda: codec.encode(np.zeros(2), rounding="floor"), "rounding is 'floor'; allowed are truncate, nearest"),
    (lambda: codec.encode(np.zeros(2), bound=0), "bound is 0; it must be positive"),
    (lambda: codec.encode(np.array([np.nan])), "not finite"),
    (lambda: codec.decode(np.zeros(2)), "type float64; it is uint8"),
  )
  def test_bad_arguments(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


class GeometryTest(absltest.TestCase):
  def test_flip_mirrors_and_negates_x(self):
    field = np.array([[[1, 2], [3, 4]]], np.float32)
    np.testing.assert_array_equal(codec.flip_left_right(field), [[[-3, 4], [-1, 2]]])

  def test_resize_scales_the_values_with_the_pixels(self):
    field = np.broadcast_to(np.array([4, -6], np.float32), (8, 10, 2))
    resized = codec.resize(np.ascontiguousarray(field), 4, 20)
    self.assertEqual(resized.shape, (4, 20, 2))
    np.testing.assert_allclose(resized, np.broadcast_to([8, -3], (4, 20, 2)), rtol=1e-6)

  def test_end_point_error(self):
    np.testing.assert_allclose(codec.end_point_error(np.array([[3.0, 0]]), np.array([[0, 4.0]])), [5])


class FloTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def test_reads_and_writes_back_the_middlebury_file(self):
    path = testing.shared("flow/RubberWhale.flo")
    field = codec.read_flo(path)
    self.assertEqual(field.shape, (388, 584, 2))
    known = np.abs(field).max(-1) < 1e9  # the ground truth marks unknown vectors by 1e9 and more
    self.assertBetween(np.linalg.norm(field[known], axis=-1).max(), 3, 6)
    codec.write_flo(self.folder / "copy.flo", field)
    self.assertEqual((self.folder / "copy.flo").read_bytes(), path.read_bytes())

  def test_broken_files(self):
    good = testing.shared("flow/tvl1_flow.flo").read_bytes()
    cases = ((b"", "not a .flo"), (b"PIEX" + good[4:], "not a .flo"), (good[:-1], "says 584x388 vectors"))
    for content, message in cases:
      (self.folder / "x.flo").write_bytes(content)
      with self.assertRaisesRegex(errors.I3dError, f"x.flo: .*{message}"):
        codec.read_flo(self.folder / "x.flo")


class DrawTest(absltest.TestCase):
  def test_no_motion_is_white_and_directions_differ(self):
    field = np.array([[[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]], np.float32)
    colors = codec.draw(field, full_scale=1)[0]
    np.testing.assert_array_equal(colors[0], [255, 255, 255])
    np.testing.assert_array_equal(colors[1], [255, 0, 0])  # rightwards is red
    self.assertLen({tuple(color) for color in colors}, 5)

  def test_slower_is_paler_and_beyond_full_scale_darker(self):
    pale, full, dark = codec.draw(np.array([[[0.5, 0], [1, 0], [2, 0]]], np.float32), full_scale=1)[0].astype(int)
    np.testing.assert_array_equal(pale, [255, 128, 128])
    np.testing.assert_array_equal(full, [255, 0, 0])
    np.testing.assert_array_equal(dark, [191, 0, 0])


class ThroughBytesTest(absltest.TestCase):
  def test_known_values(self):
    flow = np.array([-1, -0.5, 0, 0.003, 1], np.float32)
    for kind, levels in (
      ("truncate", [0, 63, 127, 127, 255]),
      ("nearest", [0, 64, 128, 128, 255]),
      ("around_128", [0, 64, 128, 128, 256]),
    ):
      expected = np.array(levels) / 127.5 - 1
      np.testing.assert_allclose(codec.through_bytes(flow, kind), expected, atol=1e-6, err_msg=kind)
    self.assertIs(codec.through_bytes(flow, "none"), flow)


if __name__ == "__main__":
  absltest.main()
