"""Text, and where pictures stand beside and beneath each other."""

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf.visualization import canvas


def _block(height: int, width: int, value: int) -> np.ndarray:
  return np.full((height, width, 3), value, np.uint8)


class CanvasTest(absltest.TestCase):
  def test_text_is_dark_on_paper_and_as_wide_as_it_needs(self):
    short, long = canvas.text("run"), canvas.text("run and run")
    self.assertEqual((short.shape[0], long.shape[0]), (canvas.LINE, canvas.LINE))
    self.assertGreater(long.shape[1], 2.5 * short.shape[1])
    self.assertLess(short.min(), 100)
    for edge in (short[0], short[-1], short[:, -1]):
      np.testing.assert_array_equal(edge, 255)
    self.assertFalse(np.array_equal(canvas.text("für"), canvas.text("f?r")))

  def test_text_too_long_ends_in_dots(self):
    whole = canvas.text("a long name of a class")
    cut = canvas.text("a long name of a class", max_width=90)
    self.assertBetween(cut.shape[1], 70, 90)
    np.testing.assert_array_equal(cut[:, :50], whole[:, :50])
    np.testing.assert_array_equal(canvas.text("a long name of a class", max_width=whole.shape[1]), whole)

  def test_beneath_and_beside(self):
    a, b = _block(2, 3, 10), _block(4, 1, 20)
    expected = np.full((7, 3), 255)
    expected[:2], expected[3:, 0] = 10, 20
    np.testing.assert_array_equal(canvas.stack([a, b], 1)[..., 0], expected)
    expected = np.full((4, 6), 255)
    expected[:2, :3], expected[:, 5] = 10, 20
    np.testing.assert_array_equal(canvas.beside([a, b], 2)[..., 0], expected)

  def test_a_rim_leaves_the_picture_alone(self):
    image = _block(4, 5, 9)
    rimmed = canvas.rim(image)
    np.testing.assert_array_equal(image, 9)
    np.testing.assert_array_equal(rimmed[1:-1, 1:-1], 9)
    self.assertEqual(int((rimmed == 215).all(-1).sum()), 14)

  def test_wheel_is_white_in_the_middle_and_coloured_at_its_edge(self):
    wheel = canvas.wheel(21).astype(int)
    np.testing.assert_array_equal(wheel[10, 10], 255)
    np.testing.assert_array_equal(wheel[0, 0], 255)
    right, left = wheel[10, 20], wheel[10, 0]
    self.assertGreater(right[0] - right[2], 150)  # motion to the right is red
    self.assertGreater(left[2] - left[0], 150)

  def test_png(self):
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(canvas.png(image), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], image)


if __name__ == "__main__":
  absltest.main()
