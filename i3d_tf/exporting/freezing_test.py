"""3D pools as 2D ones: the same values, and none left."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf.exporting import freezing

_SHAPE = (2, 5, 8, 9, 3)


class FreezingTest(parameterized.TestCase):
  @parameterized.product(
    pool=[tf.nn.max_pool3d, tf.nn.avg_pool3d],
    window=[((2, 3, 3), (2, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (1, 2, 2)), ((2, 7, 5), (1, 1, 1))],
    padding=["SAME", "VALID"],
  )
  def test_pools_give_the_same(self, pool, window, padding):
    bias = tf.Variable(np.linspace(-1, 1, 3), dtype=tf.float32)
    function = tf.function(lambda clip: {"pooled": pool(clip - bias, *window, padding) * bias})
    function = function.get_concrete_function(tf.TensorSpec(_SHAPE))
    changed = freezing.with_2d_pools(freezing.freeze(function))
    kinds = [operation.type for operation in changed.graph.get_operations()]
    self.assertEqual(kinds.count("MaxPool3D") + kinds.count("AvgPool3D"), 0)
    self.assertEqual(kinds.count("MaxPool") + kinds.count("AvgPool"), 2)
    clip = tf.constant(np.random.default_rng(0).normal(size=_SHAPE) - 3, tf.float32)  # below the padding's 0
    np.testing.assert_allclose(changed(clip)[0], function(clip)["pooled"], atol=1e-5)


if __name__ == "__main__":
  absltest.main()
