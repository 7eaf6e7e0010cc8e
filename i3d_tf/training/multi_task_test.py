from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf.training import distribution
from i3d_tf.training import objectives


class MultiTaskTest(parameterized.TestCase):
  LOGITS = np.array([[1, 3, 2, 9, 5], [8, 7, 0, 2, 4], [0, 1, 6, 3, 3]], np.float32)
  LABELS = np.array([1, 4, 3], np.int32)  # of three classes and of two

  def _expected(self, logits):
    cross_entropy = lambda values, label: np.log(np.exp(values).sum()) - values[label]
    return [cross_entropy(logits[0, :3], 1), cross_entropy(logits[1, 3:], 1), cross_entropy(logits[2, 3:], 0)]

  def test_each_clip_is_one_of_its_own_data_set_s_classes(self):
    own = objectives.own_logits(tf.constant(self.LOGITS), tf.constant(self.LABELS), (3, 2))
    np.testing.assert_allclose(objectives.cross_entropy(own, self.LABELS), self._expected(self.LOGITS), rtol=1e-5)
    np.testing.assert_array_equal(tf.argmax(own, 1), [1, 4, 3])

  def test_at_every_step_too(self):
    both = np.stack([self.LOGITS, self.LOGITS[:, ::-1]], axis=1)
    own = objectives.own_logits(tf.constant(both), tf.constant(self.LABELS), (3, 2))
    expected = np.mean([self._expected(both[:, 0]), self._expected(both[:, 1])], axis=0)
    np.testing.assert_allclose(objectives.cross_entropy(own, self.LABELS), expected, rtol=1e-5)

  def test_the_other_data_set_s_classes_get_no_gradient(self):
    logits = tf.constant(self.LOGITS)
    with tf.GradientTape() as tape:
      tape.watch(logits)
      own = objectives.own_logits(logits, tf.constant(self.LABELS), (3, 2))
      loss = tf.reduce_sum(objectives.cross_entropy(own, self.LABELS))
    gradient = tape.gradient(loss, logits).numpy()
    np.testing.assert_array_equal(gradient[0, 3:], 0)
    np.testing.assert_array_equal(gradient[1:, :3], 0)
    self.assertGreater(np.abs(gradient[0, :3]).min(), 0)

  def test_batches_are_joined_and_labels_counted_on(self):
    make = lambda start, count: tf.data.Dataset.from_tensor_slices(
      {"id": tf.range(start, start + 6), "label": tf.range(6) % count}
    ).batch(2)
    joined = list(distribution.merge([make(0, 3), make(10, 2)], (3, 2)))
    self.assertLen(joined, 3)
    np.testing.assert_array_equal(joined[1]["id"], [2, 3, 12, 13])
    np.testing.assert_array_equal(joined[1]["label"], [2, 0, 3, 4])


if __name__ == "__main__":
  absltest.main()
