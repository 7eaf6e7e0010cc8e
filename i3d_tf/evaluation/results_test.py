"""The table's format, and the values for JSON."""

import json

from absl.testing import absltest
import numpy as np

from i3d_tf.evaluation import metrics
from i3d_tf.evaluation import scores

_LABELS = np.array([0, 1, 1])


def _measure(logits: np.ndarray) -> metrics.Metrics:
  fused = scores.alone(logits)
  return metrics.measure(fused.scores, _LABELS, log_probabilities=fused.log_probabilities)


_THREE = _measure(np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])))


class TableTest(absltest.TestCase):
  def test_lines(self):
    six = _measure(np.eye(6)[[0, 1, 2]])
    ranked = metrics.measure(np.eye(3), _LABELS, log_probabilities=None)
    self.assertEqual(
      metrics.table({"rgb": _THREE, "flow": six, "rgb+flow": ranked}).splitlines(),
      [
        "stream     videos    top-1    top-5  mean per class  cross-entropy",
        "rgb             3    66.67        -           75.00         0.7675",
        "flow            3    66.67   100.00           75.00         1.3769",
        "rgb+flow        3    66.67        -           75.00              -",
      ],
    )


class PlainTest(absltest.TestCase):
  def test_values(self):
    plain = metrics.plain(_THREE, ("run", "sit", "lie"))
    self.assertEqual(json.loads(json.dumps(plain, allow_nan=False)), plain)
    self.assertAlmostEqual(plain["cross_entropy"], -np.log(0.5 * 0.25 * 0.8) / 3)
    self.assertEqual((plain["videos"], plain["top1"], plain["top5"]), (3, 2 / 3, None))
    self.assertEqual(
      plain["per_class"],
      [
        {"class": "run", "videos": 1, "right": 1, "accuracy": 1.0},
        {"class": "sit", "videos": 2, "right": 1, "accuracy": 0.5},
        {"class": "lie", "videos": 0, "right": 0, "accuracy": None},
      ],
    )
    self.assertEqual(plain["confused"], [{"class": "sit", "taken_for": "run", "videos": 1}])

  def test_infinite_cross_entropy_is_no_number_of_json(self):
    logs = np.array([[-np.inf, 0.0, -np.inf]] * 3)
    plain = metrics.plain(metrics.measure(logs, _LABELS, log_probabilities=logs), "abc")
    self.assertIsNone(plain["cross_entropy"])
    json.dumps(plain, allow_nan=False)


if __name__ == "__main__":
  absltest.main()
