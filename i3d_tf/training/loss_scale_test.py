from absl.testing import absltest

from i3d_tf.training import optimizers


class LossScaleTest(absltest.TestCase):
  def test_without_float16_it_is_one_and_an_overflow_is_the_end(self):
    scale = optimizers.LossScale(is_used=False)
    self.assertTrue(all(scale.update(True) for _ in range(2001)))
    self.assertEqual(scale.value, 1)
    self.assertFalse(scale.update(False))

  def test_it_halves_on_overflow_and_doubles_after_2000_good_steps(self):
    scale = optimizers.LossScale(is_used=True)
    self.assertTrue(scale.update(False))
    self.assertEqual(scale.value, 2.0**14)
    for _ in range(1999):
      scale.update(True)
    restored = optimizers.LossScale(is_used=True)
    restored.restore(scale.state())
    self.assertEqual(restored.value, 2.0**14)
    restored.update(True)
    self.assertEqual(restored.value, 2.0**15)

  def test_it_gives_up_when_no_scaling_is_left(self):
    scale = optimizers.LossScale(is_used=True)
    self.assertEqual(sum(scale.update(False) for _ in range(20)), 15)


if __name__ == "__main__":
  absltest.main()
