from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf.training import options
from i3d_tf.training import schedules


class SchedulesTest(parameterized.TestCase):
  def test_piecewise_changes_when_a_boundary_s_steps_are_done(self):
    rates = [schedules.piecewise(step, (2, 4), (0.1, 0.01, 0.001)) for step in range(6)]
    self.assertEqual(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])

  def test_cosine_falls_from_one_to_zero_after_the_warm_up(self):
    values = [schedules.cosine(step, 12, 4) for step in (4, 6, 8, 10, 12, 13)]
    for value, expected in zip(values, (1, 0.8535534, 0.5, 0.1464466, 0, 0), strict=True):
      self.assertAlmostEqual(value, expected, places=6)

  def test_warm_up_is_linear(self):
    self.assertEqual([schedules.warm_up(step, 4) for step in range(6)], [0.25, 0.5, 0.75, 1, 1, 1])
    self.assertEqual(schedules.warm_up(0, 0), 1)

  @parameterized.parameters(
    ({"schedule": "constant"}, 0.2),
    ({"schedule": "constant", "warmup_steps": 16}, 0.1),
    ({"schedule": "cosine"}, 0.2 * 0.1464466),
    ({"schedule": "plateau"}, 0.2 * 0.25),
    ({"schedule": "piecewise", "rate_boundaries": (7,), "rates": (0.3, 0.4)}, 0.4),
    ({"schedule": "piecewise", "rate_boundaries": (8,), "rates": (0.3, 0.4), "warmup_steps": 16}, 0.15),
  )
  def test_the_rate_of_step_7(self, settings, expected):
    optimization = options.Optimization(learning_rate=0.2, plateau_factor=0.5, **settings)
    num_steps = 7 / 0.75  # three quarters of the way
    self.assertAlmostEqual(schedules.rate(optimization, 7, num_steps=num_steps, num_drops=2), expected, places=6)


class PlateauTest(absltest.TestCase):
  def test_it_drops_after_its_patience_and_starts_to_wait_anew(self):
    plateau = schedules.Plateau(2)
    dropped = [plateau.update(loss) for loss in (1.0, 0.5, 0.4999, 0.6, 0.6, 0.4, 0.4, 0.4)]
    self.assertEqual(dropped, [False, False, False, True, False, False, False, True])
    self.assertEqual(plateau.num_drops, 2)

  def test_its_state_goes_on(self):
    plateau, other = schedules.Plateau(2), schedules.Plateau(2)
    plateau.update(1.0)
    plateau.update(1.0)
    other.restore(plateau.state())
    self.assertTrue(other.update(1.0))
    self.assertEqual(other.num_drops, 1)


if __name__ == "__main__":
  absltest.main()
