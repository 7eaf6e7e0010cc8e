"""Where a cursor stands, how long bars are, and that legends keep their width."""

from absl.testing import absltest
import numpy as np

from i3d_tf.visualization import canvas
from i3d_tf.visualization import panels

_RED, _BLUE = (200, 30, 30), (30, 30, 200)


def _columns(picture: np.ndarray, color: tuple[int, int, int], least: int) -> list[int]:
  """The columns with at least so many pixels of a colour."""
  return np.flatnonzero((picture == color).all(-1).sum(axis=0) >= least).tolist()


class PanelsTest(absltest.TestCase):
  def test_timeline(self):
    times = np.linspace(0, 8, 200)
    curves = np.stack([np.full(200, 0.75), np.where(times < 4, 0.0, 0.5)], axis=1)
    timeline = panels.Timeline(times, curves, [_RED, _BLUE], seconds=8, size=(356, 132), limits=(0, 1))
    picture = timeline.at(2.0, (1.2, 3.0))
    self.assertEqual(picture.shape, (132, 356, 3))
    # The axes are 300 pixels wide and begin at the 34th, 100 high and begin at the 8th.
    self.assertEqual(_columns(picture, canvas.INK, 90), [34 + 75])
    self.assertEqual(_columns(timeline.at(6.0, (6.0, 6.0)), canvas.INK, 90), [34 + 225])
    shaded = _columns(picture, (238, 241, 246), 20)
    self.assertEqual((shaded[0], shaded[-1]), (34 + 45, 34 + 112))
    is_red, is_blue = ((np.abs(picture.astype(int) - color) < 12).all(-1) for color in (_RED, _BLUE))
    self.assertBetween(np.flatnonzero(is_red.sum(axis=1) > 200).mean(), 31.5, 34.5)
    self.assertBetween(np.flatnonzero(is_blue[:, 190:].sum(axis=1) > 100).mean(), 56.5, 59.5)

  def test_ranking(self):
    picture = panels.ranking(["one", "two"], [1.0, 0.25], [_RED, _BLUE], width=262)
    self.assertEqual(picture.shape, (2 * panels.ROW, 262, 3))
    for row, (color, length) in enumerate([(_RED, 200), (_BLUE, 50)]):
      line = picture[row * panels.ROW + 3]  # above the words
      np.testing.assert_array_equal(line[:6], np.broadcast_to(color, (6, 3)))
      light = np.rint(0.7 * 255 + 0.3 * np.array(color))
      np.testing.assert_array_equal(line[6 : 6 + length], np.broadcast_to(light, (length, 3)))
      np.testing.assert_array_equal(line[6 + length :], 255)

  def test_legend_breaks_its_lines(self):
    names = [f"a class with a name {index}" for index in range(5)] + ["long " * 90]
    picture = panels.legend(names, [_RED, _BLUE] * 3, width=420)
    self.assertEqual(picture.shape, (4 * canvas.LINE, 420, 3))
    for line in np.split(picture, 4):
      self.assertTrue((line == _RED).all(-1).any() or (line == _BLUE).all(-1).any())

  def test_fit_keeps_the_shape(self):
    self.assertEqual(panels.fit(np.zeros((20, 40, 3), np.uint8), width=100, height=100).shape, (50, 100, 3))
    self.assertEqual(panels.fit(np.zeros((300, 100, 3), np.uint8), width=100, height=100).shape, (100, 33, 3))


if __name__ == "__main__":
  absltest.main()
