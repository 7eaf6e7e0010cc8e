"""Metrics small enough to be computed by hand, scikit-learn's where they are equal, the table and the JSON."""

import json

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from sklearn import metrics as sklearn_metrics

from i3d_tf import errors
from i3d_tf.evaluation import metrics

# Labels and predictions: 0→0, 0→1, 1→1, 2→0, 2→2; class 3 has no videos.
_PROBABILITIES = np.array(
  [
    [0.7, 0.1, 0.1, 0.1],
    [0.3, 0.4, 0.2, 0.1],
    [0.2, 0.5, 0.2, 0.1],
    [0.6, 0.25, 0.05, 0.1],
    [0.0, 0.1, 0.8, 0.1],
  ]
)
_LABELS = np.array([0, 0, 1, 2, 2])
_RGB = np.log(np.array([[1, 2, 7], [4, 4, 2]], np.float32) / 10)
_FLOW = np.log(np.array([[6, 3, 1], [1, 5, 4]], np.float32) / 10)


def _measure(probabilities: np.ndarray, labels: np.ndarray) -> metrics.Metrics:
  with np.errstate(divide="ignore"):
    return metrics.measure(probabilities, labels, log_probabilities=np.log(probabilities))


class MeasureTest(parameterized.TestCase):
  def test_by_hand(self):
    measured = _measure(_PROBABILITIES, _LABELS)
    self.assertEqual(measured.num_videos, 5)
    self.assertEqual(measured.top1, 3 / 5)
    np.testing.assert_allclose(measured.mean_per_class, (1 / 2 + 1 + 1 / 2) / 3)
    np.testing.assert_allclose(measured.cross_entropy, -np.log([0.7, 0.3, 0.5, 0.05, 0.8]).mean())
    np.testing.assert_array_equal(measured.confusion, [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(measured.accuracy_at, [3 / 5, 4 / 5, 4 / 5, 1])

  def test_top5_needs_five_classes(self):
    self.assertIsNone(_measure(_PROBABILITIES, _LABELS).top5)
    self.assertEqual(_measure(np.full((1, 5), 0.2), np.array([4])).top5, 1.0)
    scores = np.array([[6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1]])
    measured = metrics.measure(scores, np.array([4, 5]), log_probabilities=None)
    self.assertEqual((measured.top1, measured.top5), (0.0, 0.5))

  def test_of_equal_scores_the_lower_index_is_first(self):
    scores = np.array([[1.0, 2, 2], [1.0, 2, 2]])
    np.testing.assert_array_equal(metrics._label_ranks(scores, np.array([1, 2])), [0, 1])
    measured = metrics.measure(scores, np.array([1, 2]), log_probabilities=None)
    self.assertEqual(measured.top1, 0.5)
    np.testing.assert_array_equal(measured.confusion, [[0, 0, 0], [0, 1, 0], [0, 1, 0]])

  def test_confusion_and_top1_agree(self):
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 4, (200, 6)).astype(float), rng.integers(0, 6, 200)
    measured = metrics.measure(scores, labels, log_probabilities=None)
    self.assertEqual(measured.confusion.trace() / 200, measured.top1)
    self.assertEqual(measured.confusion.sum(), 200)
    self.assertEqual(measured.accuracy_at[-1], 1)

  def test_equal_to_scikit_learn(self):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((200, 7)), rng.integers(0, 6, 200)  # without ties; class 6 has no videos
    scores = metrics.from_logits(logits)
    measured = metrics.measure(scores.scores, labels, log_probabilities=scores.log_probabilities)
    for k in range(1, 8):
      expected = sklearn_metrics.top_k_accuracy_score(labels, logits, k=k, labels=np.arange(7)) if k < 7 else 1.0
      self.assertAlmostEqual(measured.accuracy_at[k - 1], expected, places=12)
    probabilities = np.exp(scores.log_probabilities)
    expected = sklearn_metrics.log_loss(labels, probabilities, labels=np.arange(7))
    self.assertAlmostEqual(measured.cross_entropy, expected, places=12)
    recalls = metrics.per_class(measured.confusion)
    self.assertAlmostEqual(measured.mean_per_class, np.nanmean(recalls), places=12)
    self.assertTrue(np.isnan(recalls[6]))

  def test_scores_that_are_no_probabilities(self):
    measured = metrics.measure(np.array([[-np.inf, 3, 2]]), np.array([0]), log_probabilities=None)
    self.assertIsNone(measured.cross_entropy)
    self.assertIsNone(measured.calibration)
    np.testing.assert_array_equal(measured.accuracy_at, [0, 0, 1])

  @parameterized.parameters(([],), ([0],), ([0, 4],), ([-1, 0],))
  def test_what_cannot_be_measured(self, labels):
    scores = np.zeros((2 if labels else 0, 4))
    with self.assertRaises(ValueError):
      metrics.measure(scores, np.array(labels, int), log_probabilities=None)


class DetailsTest(absltest.TestCase):
  def test_margins(self):
    np.testing.assert_allclose(metrics.margins(_PROBABILITIES, _LABELS), [0.6, -0.1, 0.3, -0.55, 0.7])

  def test_per_class_is_nan_without_videos(self):
    np.testing.assert_array_equal(metrics.per_class(np.array([[3, 1, 0], [0, 0, 0], [1, 1, 2]])), [0.75, np.nan, 0.5])

  def test_most_confused(self):
    confusion = np.array([[9, 1, 2], [2, 9, 0], [3, 0, 9]])
    self.assertEqual(metrics.most_confused(confusion), [(2, 0, 3), (0, 2, 2), (1, 0, 2), (0, 1, 1)])

  def test_calibration_by_hand(self):
    confidence = np.array([0.05, 0.91, 0.99, 1.0, 0.45])
    calibration = metrics._calibrate(confidence, np.array([False, True, True, False, True]))
    np.testing.assert_array_equal(calibration.counts, [1, 0, 0, 0, 1, 0, 0, 0, 0, 3])
    np.testing.assert_allclose(calibration.accuracy[[0, 4, 9]], [0, 1, 2 / 3])
    np.testing.assert_allclose(calibration.confidence[[0, 4, 9]], [0.05, 0.45, 2.9 / 3])
    self.assertTrue(np.isnan(calibration.accuracy[1:4]).all())
    np.testing.assert_allclose(calibration.expected_error, (0.05 + 0.55 + 0.9) / 5)


_THREE_LABELS = np.array([0, 1, 1])


def _measure_logits(logits: np.ndarray) -> metrics.Metrics:
  scores = metrics.from_logits(logits)
  return metrics.measure(scores.scores, _THREE_LABELS, log_probabilities=scores.log_probabilities)


_THREE = _measure_logits(np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])))


class TableTest(absltest.TestCase):
  def test_lines(self):
    six = _measure_logits(np.eye(6)[[0, 1, 2]])
    ranked = metrics.measure(np.eye(3), _THREE_LABELS, log_probabilities=None)
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
    plain = metrics.plain(metrics.measure(logs, _THREE_LABELS, log_probabilities=logs), "abc")
    self.assertIsNone(plain["cross_entropy"])
    json.dumps(plain, allow_nan=False)


class FusionTest(parameterized.TestCase):
  def test_logits_are_added(self):
    rgb, flow = np.float32([[1, -2, 3.5]]), np.float32([[0.25, 4, -1]])
    fused = metrics.add_logits(rgb, flow)
    np.testing.assert_array_equal(fused.scores, [[1.25, 2, 2.5]])
    np.testing.assert_allclose(np.exp(fused.log_probabilities), [np.exp([1.25, 2, 2.5]) / np.exp([1.25, 2, 2.5]).sum()])

  def test_added_logits_multiply_probabilities(self):
    expected = np.array([[6, 6, 7], [4, 20, 8]]) / np.array([[19], [32]])
    fused = metrics.add_logits(_RGB, _FLOW)
    np.testing.assert_allclose(np.exp(fused.log_probabilities), expected, rtol=1e-6)
    np.testing.assert_array_equal(fused.scores.argmax(axis=1), [2, 1])

  def test_weighted_logits(self):
    rgb, flow = np.float32([[1, 2]]), np.float32([[10, 4]])
    np.testing.assert_allclose(metrics.add_logits(rgb, flow, weights=(0.75, 0.25)).scores, [[1.5 + 5, 3 + 2]])
    np.testing.assert_allclose(metrics.add_logits(rgb, flow, weights=(1, 0)).scores, [[2, 4]])
    np.testing.assert_allclose(metrics.add_logits(rgb, flow, weights=(0, 1)).scores, [[20, 8]])

  def test_probabilities_are_averaged(self):
    fused = metrics.average_softmax(_RGB, _FLOW)
    np.testing.assert_allclose(np.exp(fused.scores), np.array([[7, 5, 8], [5, 9, 6]]) / 20, rtol=1e-6)
    np.testing.assert_array_equal(fused.scores, fused.log_probabilities)
    weighted = metrics.average_softmax(_RGB, _FLOW, weights=(0.8, 0.2))
    np.testing.assert_allclose(np.exp(weighted.scores[0]), [0.2, 0.22, 0.58], rtol=1e-6)

  @parameterized.parameters((0, 0), (1, 1))
  def test_all_weight_on_one_stream(self, weight, index):
    alone = metrics.from_logits((_RGB, _FLOW)[index]).log_probabilities
    np.testing.assert_allclose(
      metrics.average_softmax(_RGB, _FLOW, weights=(1 - weight, weight)).scores, alone, rtol=1e-12
    )

  def test_fusions_may_disagree(self):
    rgb, flow = np.float32([[10, 0, 8]]), np.float32([[-20, 0.5, 0]])
    self.assertEqual(metrics.add_logits(rgb, flow).scores.argmax(), 2)
    self.assertEqual(metrics.average_softmax(rgb, flow).scores.argmax(), 0)

  def test_three_streams(self):
    np.testing.assert_allclose(metrics.add_logits(_RGB, _FLOW, _RGB).scores, 2 * _RGB + _FLOW, rtol=1e-6)
    halves = metrics.average_softmax(_RGB, _FLOW, _RGB, weights=(0.25, 0.5, 0.25)).scores
    np.testing.assert_allclose(halves, metrics.average_softmax(_RGB, _FLOW).scores, rtol=1e-9)

  @parameterized.parameters((-0.1, 1.1), (1.1, 0), (float("nan"), 1))
  def test_weights_out_of_range(self, *weights):
    for fuse in (metrics.add_logits, metrics.average_softmax):
      with self.assertRaisesRegex(errors.I3dError, "weights are .*; they must be at least 0 and add up to 1"):
        fuse(_RGB, _FLOW, weights=weights)

  def test_log_softmax_of_large_logits(self):
    logs = metrics.from_logits(np.float32([[1000, 0, -1000]])).log_probabilities
    np.testing.assert_array_equal(logs, [[0, -1000, -2000]])


class LinearSvmTest(absltest.TestCase):
  def test_stacked_scores_have_norm_1_each(self):
    stacked = metrics._stack(_RGB, _FLOW)
    np.testing.assert_allclose(stacked[0, :3], np.array([1, 2, 7]) / np.sqrt(54), rtol=1e-6)
    np.testing.assert_allclose(stacked[1, 3:], np.array([1, 5, 4]) / np.sqrt(42), rtol=1e-6)

  def test_finds_what_neither_stream_alone_knows(self):
    # RGB tells {0, 1} from {2, 3}, flow {0, 2} from {1, 3}; both put it on the lower class of a pair.
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 4
    rgb, flow = rng.normal(0, 0.3, (2, 120, 4)).astype(np.float32)
    rgb[np.arange(120), labels // 2 * 2] += 4
    flow[np.arange(120), labels % 2] += 4
    fused = metrics.train_svm((rgb[:80], flow[:80]), labels[:80])(rgb[80:], flow[80:])
    np.testing.assert_array_equal(fused.scores.argmax(axis=1), labels[80:])
    self.assertIsNone(fused.log_probabilities)
    added = metrics.add_logits(rgb[80:], flow[80:]).scores.argmax(axis=1)
    self.assertLess(np.mean(added == labels[80:]), 0.8)

  def test_two_classes_and_classes_never_seen(self):
    rgb = np.float32([[0, 3, 0, 0], [0, 0, 0, 3]] * 10)
    svm = metrics.train_svm((rgb, rgb), np.array([1, 3] * 10))
    scores = svm(rgb[:2], rgb[:2]).scores
    np.testing.assert_array_equal(scores[:, [0, 2]], -np.inf)
    np.testing.assert_array_equal(scores.argmax(axis=1), [1, 3])
    np.testing.assert_array_equal(scores[:, 1], -scores[:, 3])

  def test_one_class_is_too_few(self):
    with self.assertRaisesRegex(errors.I3dError, "at least two classes"):
      metrics.train_svm((_RGB, _FLOW), np.array([1, 1]))


if __name__ == "__main__":
  absltest.main()
