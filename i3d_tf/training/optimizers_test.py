from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import training
from i3d_tf.training import optimizers


class SchedulesTest(parameterized.TestCase):
  def test_piecewise_changes_when_a_boundary_s_steps_are_done(self):
    rates = [optimizers._piecewise(step, (2, 4), (0.1, 0.01, 0.001)) for step in range(6)]
    self.assertEqual(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])

  def test_cosine_falls_from_one_to_zero_after_the_warm_up(self):
    values = [optimizers._cosine(step, 12, 4) for step in (4, 6, 8, 10, 12, 13)]
    for value, expected in zip(values, (1, 0.8535534, 0.5, 0.1464466, 0, 0), strict=True):
      self.assertAlmostEqual(value, expected, places=6)

  def test_warm_up_is_linear(self):
    self.assertEqual([optimizers._warm_up(step, 4) for step in range(6)], [0.25, 0.5, 0.75, 1, 1, 1])
    self.assertEqual(optimizers._warm_up(0, 0), 1)

  @parameterized.parameters(
    ({"schedule": "constant"}, 0.2),
    ({"schedule": "constant", "warmup_steps": 16}, 0.1),
    ({"schedule": "cosine"}, 0.2 * 0.1464466),
    ({"schedule": "plateau"}, 0.2 * 0.25),
    ({"schedule": "piecewise", "rate_boundaries": (7,), "rates": (0.3, 0.4)}, 0.4),
    ({"schedule": "piecewise", "rate_boundaries": (8,), "rates": (0.3, 0.4), "warmup_steps": 16}, 0.15),
  )
  def test_the_rate_of_step_7(self, settings, expected):
    optimization = training.OptimizationConfig(learning_rate=0.2, plateau_factor=0.5, **settings)
    num_steps = 7 / 0.75  # three quarters of the way
    self.assertAlmostEqual(optimizers.rate(optimization, 7, num_steps=num_steps, num_drops=2), expected, places=6)


class PlateauTest(absltest.TestCase):
  def test_it_drops_after_its_patience_and_starts_to_wait_anew(self):
    plateau = optimizers.Plateau(2)
    dropped = [plateau.update(loss) for loss in (1.0, 0.5, 0.4999, 0.6, 0.6, 0.4, 0.4, 0.4)]
    self.assertEqual(dropped, [False, False, False, True, False, False, False, True])
    self.assertEqual(plateau.num_drops, 2)

  def test_its_state_goes_on(self):
    plateau, other = optimizers.Plateau(2), optimizers.Plateau(2)
    plateau.update(1.0)
    plateau.update(1.0)
    other.restore(plateau.state())
    self.assertTrue(other.update(1.0))
    self.assertEqual(other.num_drops, 1)


if __name__ == "__main__":
  absltest.main()


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
    optimizer = optimizers._Momentum([variable], 0.5)
    # The accumulator is 2, then 0.5 * 2 + 1 = 2, whatever the rates.
    np.testing.assert_allclose(_move(optimizer, variable, [(2.0, 0.1), (1.0, 0.01)]), [0.8, 0.78], rtol=1e-6)

  def test_momentum_equals_tensorflow_1_s(self):
    rng = np.random.default_rng(0)
    moves = [(float(g), float(r)) for g, r in zip(rng.normal(size=5), rng.uniform(0.01, 0.1, 5), strict=True)]
    variable, other = tf.Variable([1.0], name="w"), tf.Variable([1.0], name="other")
    ours = _move(optimizers._Momentum([variable], 0.9), variable, moves)
    rate = tf.Variable(0.0)
    theirs = tf.compat.v1.train.MomentumOptimizer(lambda: rate, 0.9)
    for index, (gradient, value) in enumerate(moves):
      rate.assign(value)
      theirs.apply_gradients([(tf.constant([gradient]), other)])
      self.assertAlmostEqual(ours[index], float(other[0]), places=6)

  def test_adam_moves_by_the_rate_at_first(self):
    variable = tf.Variable([1.0], name="w")
    values = _move(optimizers._Adam([variable]), variable, [(3.0, 0.1), (3.0, 0.1)])
    np.testing.assert_allclose(values, [0.9, 0.8], rtol=1e-5)

  def test_adam_equals_its_definition(self):
    variable = tf.Variable([1.0], name="w")
    gradients = [0.5, -1.5, 0.1]
    values = _move(optimizers._Adam([variable]), variable, [(gradient, 0.01) for gradient in gradients])
    w, m, v = 1.0, 0.0, 0.0
    for count, (gradient, value) in enumerate(zip(gradients, values, strict=True), start=1):
      m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
      w -= 0.01 * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
      self.assertAlmostEqual(value, w, places=5)

  def test_variables_of_one_name_are_refused(self):
    with self.assertRaisesRegex(ValueError, "same name"):
      optimizers.make(training.OptimizationConfig(), [tf.Variable([1.0], name="w"), tf.Variable([1.0], name="w")])


if __name__ == "__main__":
  absltest.main()
