from absl.testing import absltest
import numpy as np
import tensorflow as tf

from i3d_tf.training import optimizers
from i3d_tf.training import options


def _move(optimizer, variable, gradients_and_rates):
  """The variable's values after each move."""
  values = []
  for step, (gradient, rate) in enumerate(gradients_and_rates):
    optimizer.update(
      variable, tf.constant([gradient]), tf.constant(rate), tf.constant(step, tf.int64), *optimizer.slots_of(variable)
    )
    values.append(float(variable[0]))
  return values


class OptimizersTest(absltest.TestCase):
  def test_momentum_keeps_the_rate_outside_its_accumulator(self):
    variable = tf.Variable([1.0], name="w")
    optimizer = optimizers.Momentum([variable], 0.5)
    # The accumulator is 2, then 0.5 * 2 + 1 = 2, whatever the rates.
    np.testing.assert_allclose(_move(optimizer, variable, [(2.0, 0.1), (1.0, 0.01)]), [0.8, 0.78], rtol=1e-6)

  def test_momentum_equals_tensorflow_1_s(self):
    rng = np.random.default_rng(0)
    moves = [(float(g), float(r)) for g, r in zip(rng.normal(size=5), rng.uniform(0.01, 0.1, 5), strict=True)]
    variable, other = tf.Variable([1.0], name="w"), tf.Variable([1.0], name="other")
    ours = _move(optimizers.Momentum([variable], 0.9), variable, moves)
    rate = tf.Variable(0.0)
    theirs = tf.compat.v1.train.MomentumOptimizer(lambda: rate, 0.9)
    for index, (gradient, value) in enumerate(moves):
      rate.assign(value)
      theirs.apply_gradients([(tf.constant([gradient]), other)])
      self.assertAlmostEqual(ours[index], float(other[0]), places=6)

  def test_adam_moves_by_the_rate_at_first(self):
    variable = tf.Variable([1.0], name="w")
    values = _move(optimizers.Adam([variable]), variable, [(3.0, 0.1), (3.0, 0.1)])
    np.testing.assert_allclose(values, [0.9, 0.8], rtol=1e-5)

  def test_adam_equals_its_definition(self):
    variable = tf.Variable([1.0], name="w")
    gradients = [0.5, -1.5, 0.1]
    values = _move(optimizers.Adam([variable]), variable, [(gradient, 0.01) for gradient in gradients])
    w, m, v = 1.0, 0.0, 0.0
    for count, (gradient, value) in enumerate(zip(gradients, values, strict=True), start=1):
      m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
      w -= 0.01 * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
      self.assertAlmostEqual(value, w, places=5)

  def test_variables_of_one_name_are_refused(self):
    with self.assertRaisesRegex(ValueError, "same name"):
      optimizers.make(options.Optimization(), [tf.Variable([1.0], name="w"), tf.Variable([1.0], name="w")])


if __name__ == "__main__":
  absltest.main()
