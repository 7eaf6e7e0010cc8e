"""Where the figures put their colours."""

import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import cv2
from matplotlib import colors
import numpy as np

from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics
from i3d_tf.evaluation import scores

_LABELS = np.arange(40) % 4


def _measure(share_right: float) -> metrics.Metrics:
  shift = np.arange(40) >= share_right * 40
  fused = scores.alone(3 * np.eye(4)[(_LABELS + shift) % 4])
  return metrics.measure(fused.scores, _LABELS, log_probabilities=fused.log_probabilities)


def _pixels(picture: bytes, stream: str) -> np.ndarray:
  """Places (row, column) from 0 to 1 of the pixels of a stream's colour, `[N, 2]`."""
  image = cv2.cvtColor(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
  color = np.array(colors.to_rgb(figures.COLORS[stream])) * 255
  return np.argwhere(np.abs(image - color).max(axis=-1) < 6) / image.shape[:2]


class FiguresTest(parameterized.TestCase):
  def test_accuracy_curves_rise_with_accuracy(self):
    picture = figures.accuracy_curves({"rgb": _measure(0.25), "flow": _measure(0.75)})
    middle = lambda stream: np.median([row for row, column in _pixels(picture, stream) if column < 0.5])
    self.assertLess(middle("flow"), middle("rgb"))
    self.assertEmpty(_pixels(picture, "rgb+flow"))

  def test_reliability_is_of_streams_with_probabilities(self):
    ranked = metrics.measure(np.eye(4)[_LABELS], _LABELS, log_probabilities=None)
    picture = figures.reliability({"rgb": _measure(1), "rgb+flow": ranked})
    self.assertNotEmpty(_pixels(picture, "rgb"))
    self.assertEmpty(_pixels(picture, "rgb+flow"))

  def test_learning_curves_of_the_runs_there_are(self):
    lines = [{"step": 10 * i, "loss": 2 / i, "accuracy": 0.1 * i, "rate": 1} for i in range(1, 5)]
    lines.insert(2, {"step": 25, "validation_loss": 1.0, "validation_accuracy": 0.5})
    picture = figures.learning_curves({"flow": lines})
    columns = _pixels(picture, "flow")[:, 1]
    self.assertLess(columns.min(), 0.5)
    self.assertGreater(columns.max(), 0.5)
    self.assertEmpty(_pixels(picture, "rgb"))

  @parameterized.parameters(2, 8, 25, 70)
  def test_confusion_has_its_diagonal(self, count):
    names = [f"a class of long name {index}" for index in range(count)]
    right = _pixels(figures.confusion(5 * np.eye(count, dtype=int), names, "flow"), "flow")
    wrong = _pixels(figures.confusion(5 * np.eye(count, dtype=int)[::-1], names, "flow"), "flow")
    self.assertGreater(np.corrcoef(right.T)[0, 1], 0.7)
    self.assertLess(np.corrcoef(wrong.T)[0, 1], -0.7)

  def test_same_bytes(self):
    self.assertEqual(*(figures.accuracy_curves({"rgb": _measure(0.5)}) for _ in range(2)))

  def test_no_global_state(self):
    script = "import sys; from i3d_tf.evaluation import figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    self.assertEqual(subprocess.run([sys.executable, "-c", script], check=False).returncode, 0)


if __name__ == "__main__":
  absltest.main()
