"""The classifier against scikit-learn's own, its calibration, intervals and thresholds, and the baseline of facts."""

import math

from absl.testing import absltest
import numpy as np
from scipy import special
from sklearn import linear_model
from sklearn import preprocessing

from i3d_tf.fitting import linear
from i3d_tf.fitting import splits


def _clusters(num_classes: int, count: int, *, spread: float, seed: int = 0):
  """Features `[N, 6]` and labels of classes around centres of their own."""
  rng = np.random.default_rng(seed)
  labels = np.arange(num_classes * count) % num_classes
  centres = rng.normal(size=(num_classes, 6))
  return centres[labels] + spread * rng.normal(size=(len(labels), 6)) + 3, labels


class HeadTest(absltest.TestCase):
  def test_is_that_of_scikit_learn(self):
    for num_classes in (2, 4):
      features, labels = _clusters(num_classes, 12, spread=1.0)
      head = linear.fit(features, labels, ["one group"] * len(labels), num_classes=num_classes, strengths=[0.1, 1.0])
      scaled = preprocessing.StandardScaler().fit_transform(features)
      model = linear_model.LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(scaled, labels)
      probabilities = special.softmax(head.logits(features), axis=1)
      np.testing.assert_allclose(probabilities, model.predict_proba(scaled), atol=1e-3)
      self.assertTrue(math.isnan(head.strength))

  def test_fewer_clips_than_features(self):
    features, labels = _clusters(2, 4, spread=0.1)
    wide = np.concatenate([features] * 30 + [np.ones((8, 5))], axis=1)
    head = linear.fit(wide, labels, [str(i) for i in range(8)], num_classes=2)
    self.assertEqual(head.kernel.shape, (185, 2))
    np.testing.assert_array_equal(head.logits(wide).argmax(axis=1), labels)
    np.testing.assert_array_equal(head.kernel[180:], 0)  # what never changes

  def test_class_without_clips_is_last(self):
    features, labels = _clusters(3, 6, spread=0.5)
    head = linear.fit(features[labels != 1], labels[labels != 1], ["g", "h"] * 6, num_classes=3)
    np.testing.assert_array_equal(head.logits(features).argmin(axis=1), 1)

  def test_strength_and_temperature(self):
    features, labels = _clusters(3, 20, spread=2.0)
    noise = np.random.default_rng(1).normal(size=(60, 50))
    wide = np.concatenate([features, noise], axis=1)
    head = linear.fit(wide, labels, [str(i) for i in range(60)], num_classes=3)
    self.assertEqual(head.strength, min(head.losses, key=head.losses.get))
    self.assertLess(head.strength, 1.0)  # noise wants a penalty
    plan = splits.plan(labels.tolist(), list("abc"), [str(i) for i in range(60)], num_folds=2)
    logits = linear.cross_validate(wide, labels, [str(i) for i in range(60)], plan, num_classes=3, seed=0)
    confidence = special.softmax(logits, axis=1).max(axis=1)
    self.assertLess(abs(confidence.mean() - np.mean(logits.argmax(axis=1) == labels)), 0.15)

  def test_clips_without_features_tell_nothing(self):
    features, labels = _clusters(3, 10, spread=0.3)
    groups = [str(index) for index in range(30)]
    features[5:11] = np.nan
    plan = splits.plan(labels.tolist(), list("abc"), groups, num_folds=3)
    logits = linear.cross_validate(features, labels.tolist(), groups, plan, num_classes=3, seed=0)
    np.testing.assert_array_equal(logits[5:11], 0)
    is_there = np.isfinite(features).all(axis=1)
    np.testing.assert_array_equal(logits[is_there].argmax(axis=1), labels[is_there])

  def test_groups_stay_together(self):
    # Every group has a feature of its own, which tells the class of the clips that were seen and of no others.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 4)
    labels = groups % 2
    features = np.eye(10)[groups] + 0.01 * rng.normal(size=(40, 10))
    accuracy = {}
    for name, own in (("groups", groups), ("alone", np.arange(40))):
      own = [str(group) for group in own]
      plan = splits.plan(labels.tolist(), ["a", "b"], own, num_folds=2)
      logits = linear.cross_validate(features, labels, own, plan, num_classes=2, seed=0)
      accuracy[name] = np.mean(logits.argmax(axis=1) == labels)
    self.assertEqual(accuracy["alone"], 1.0)
    self.assertLess(accuracy["groups"], 0.65)


class WorthTest(absltest.TestCase):
  def test_interval(self):
    alone = [str(index) for index in range(60)]
    low, high = linear.interval(np.arange(60) < 56, alone)
    self.assertAlmostEqual(low, 0.8407, places=4)  # Wilson's of 56 in 60
    self.assertAlmostEqual(high, 0.9738, places=4)
    together = [str(index // 6) for index in range(60)]
    wide = linear.interval(np.arange(60) < 30, together)
    self.assertAlmostEqual(wide[0], linear.interval(np.arange(10) < 5, alone[:10])[0], delta=0.02)  # as ten clips
    low, high = linear.interval(np.ones(60, bool), together)
    self.assertEqual(high, 1.0)
    self.assertAlmostEqual(low, 0.9398, places=4)

  def test_threshold(self):
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4, 0.3])
    is_right = np.array([1, 1, 1, 1, 0, 1, 0, 0], bool)
    self.assertEqual(linear.threshold(confidence, is_right, wanted=0.8), linear.Threshold(0.5, 5 / 6, 6 / 8))
    self.assertIsNone(linear.threshold(confidence, ~is_right, wanted=0.8))

  def test_facts(self):
    labels = [0, 1] * 20
    plan = splits.plan(labels, ["a", "b"], [str(index) for index in range(40)], num_folds=2)
    rng = np.random.default_rng(0)
    telling = np.stack([np.array(labels) + 0.1 * rng.normal(size=40), rng.normal(size=40)], axis=1)
    for numbers, low, high in ((telling, 0.95, 1.0), (rng.normal(size=(40, 2)), 0.2, 0.75)):
      logs = linear.guess_from_facts(numbers, labels, plan, num_classes=2)
      np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1)
      self.assertBetween(np.mean(logs.argmax(axis=1) == labels), low, high)


if __name__ == "__main__":
  absltest.main()
