"""Fusion by hand, and an SVM on scores that a plane separates."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf.evaluation import fusion

_RGB = np.log(np.array([[1, 2, 7], [4, 4, 2]], np.float32) / 10)
_FLOW = np.log(np.array([[6, 3, 1], [1, 5, 4]], np.float32) / 10)


class FusionTest(parameterized.TestCase):
  def test_logits_are_added(self):
    rgb, flow = np.float32([[1, -2, 3.5]]), np.float32([[0.25, 4, -1]])
    fused = fusion.add_logits(rgb, flow)
    np.testing.assert_array_equal(fused.scores, [[1.25, 2, 2.5]])
    np.testing.assert_allclose(np.exp(fused.log_probabilities), [np.exp([1.25, 2, 2.5]) / np.exp([1.25, 2, 2.5]).sum()])

  def test_added_logits_multiply_probabilities(self):
    expected = np.array([[6, 6, 7], [4, 20, 8]]) / np.array([[19], [32]])
    fused = fusion.add_logits(_RGB, _FLOW)
    np.testing.assert_allclose(np.exp(fused.log_probabilities), expected, rtol=1e-6)
    np.testing.assert_array_equal(fused.scores.argmax(axis=1), [2, 1])

  def test_weighted_logits(self):
    rgb, flow = np.float32([[1, 2]]), np.float32([[10, 4]])
    np.testing.assert_allclose(fusion.add_logits(rgb, flow, flow_weight=0.25).scores, [[1.5 + 5, 3 + 2]])
    np.testing.assert_allclose(fusion.add_logits(rgb, flow, flow_weight=0).scores, [[2, 4]])
    np.testing.assert_allclose(fusion.add_logits(rgb, flow, flow_weight=1).scores, [[20, 8]])

  def test_probabilities_are_averaged(self):
    fused = fusion.average_softmax(_RGB, _FLOW)
    np.testing.assert_allclose(np.exp(fused.scores), np.array([[7, 5, 8], [5, 9, 6]]) / 20, rtol=1e-6)
    np.testing.assert_array_equal(fused.scores, fused.log_probabilities)
    weighted = fusion.average_softmax(_RGB, _FLOW, flow_weight=0.2)
    np.testing.assert_allclose(np.exp(weighted.scores[0]), [0.2, 0.22, 0.58], rtol=1e-6)

  @parameterized.parameters((0, 0), (1, 1))
  def test_all_weight_on_one_stream(self, weight, index):
    alone = fusion.from_logits((_RGB, _FLOW)[index]).log_probabilities
    np.testing.assert_allclose(fusion.average_softmax(_RGB, _FLOW, flow_weight=weight).scores, alone, rtol=1e-12)

  def test_fusions_may_disagree(self):
    rgb, flow = np.float32([[10, 0, 8]]), np.float32([[-20, 0.5, 0]])
    self.assertEqual(fusion.add_logits(rgb, flow).scores.argmax(), 2)
    self.assertEqual(fusion.average_softmax(rgb, flow).scores.argmax(), 0)

  @parameterized.parameters(-0.1, 1.1, float("nan"))
  def test_weights_out_of_range(self, weight):
    for fuse in (fusion.add_logits, fusion.average_softmax):
      with self.assertRaisesRegex(errors.I3dError, r"flow_weight is .*; it must be in \[0, 1\]"):
        fuse(_RGB, _FLOW, flow_weight=weight)

  def test_log_softmax_of_large_logits(self):
    logs = fusion.from_logits(np.float32([[1000, 0, -1000]])).log_probabilities
    np.testing.assert_array_equal(logs, [[0, -1000, -2000]])


class LinearSvmTest(absltest.TestCase):
  def test_stacked_scores_have_norm_1_each(self):
    stacked = fusion._stack(_RGB, _FLOW)
    np.testing.assert_allclose(stacked[0, :3], np.array([1, 2, 7]) / np.sqrt(54), rtol=1e-6)
    np.testing.assert_allclose(stacked[1, 3:], np.array([1, 5, 4]) / np.sqrt(42), rtol=1e-6)

  def test_finds_what_neither_stream_alone_knows(self):
    # RGB tells {0, 1} from {2, 3}, flow {0, 2} from {1, 3}; both put it on the lower class of a pair.
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 4
    rgb, flow = rng.normal(0, 0.3, (2, 120, 4)).astype(np.float32)
    rgb[np.arange(120), labels // 2 * 2] += 4
    flow[np.arange(120), labels % 2] += 4
    fused = fusion.train_svm(rgb[:80], flow[:80], labels[:80])(rgb[80:], flow[80:])
    np.testing.assert_array_equal(fused.scores.argmax(axis=1), labels[80:])
    self.assertIsNone(fused.log_probabilities)
    added = fusion.add_logits(rgb[80:], flow[80:]).scores.argmax(axis=1)
    self.assertLess(np.mean(added == labels[80:]), 0.8)

  def test_two_classes_and_classes_never_seen(self):
    rgb = np.float32([[0, 3, 0, 0], [0, 0, 0, 3]] * 10)
    svm = fusion.train_svm(rgb, rgb, np.array([1, 3] * 10))
    scores = svm(rgb[:2], rgb[:2]).scores
    np.testing.assert_array_equal(scores[:, [0, 2]], -np.inf)
    np.testing.assert_array_equal(scores.argmax(axis=1), [1, 3])
    np.testing.assert_array_equal(scores[:, 1], -scores[:, 3])

  def test_one_class_is_too_few(self):
    with self.assertRaisesRegex(errors.I3dError, "at least two classes"):
      fusion.train_svm(_RGB, _FLOW, np.array([1, 1]))


if __name__ == "__main__":
  absltest.main()
