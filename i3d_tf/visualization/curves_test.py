"""Where steps are in time, and logits between them."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf.models import inception_spec as spec
from i3d_tf.models import receptive_field
from i3d_tf.visualization import curves


class StepTimesTest(parameterized.TestCase):
  @parameterized.parameters((64, 7), (250, 31), (9, 1), (79, 9))
  def test_steps_of_the_head_are_eight_frames_apart_and_around_the_middle(self, num_frames, steps):
    times = curves.step_times("StepLogits", num_frames)
    self.assertLen(times, steps)
    np.testing.assert_allclose(np.diff(times), 8 / 25)
    self.assertLess(abs(times.mean() - (num_frames - 1) / 2 / 25), 4 / 25)

  def test_first_layer_of_64_frames_by_hand(self):
    # Kernel 7, stride 2, 2 places before: step i sees frames 2i - 2 to 2i + 4, whose middle is 2i + 1.
    np.testing.assert_allclose(curves.step_times("Conv3d_1a_7x7", 64), (2 * np.arange(32) + 1) / 25)

  def test_flow_is_between_its_frames(self):
    rgb, flow = (curves.step_times("Mixed_5c", 40, stream=stream) for stream in ("rgb", "flow"))
    np.testing.assert_allclose(flow - rgb, 0.5 / 25)


class CurveTest(absltest.TestCase):
  def test_lines_between_steps_and_the_nearest_beyond(self):
    curve = curves.Curve(np.array([1.0, 2.0, 3.0]), np.array([[0.0, 5.0], [4.0, 5.0], [2.0, -1.0]]), field=4.0)
    values = curve.at(np.array([0.0, 1.0, 1.25, 2.0, 2.5, 3.0, 9.0]))
    np.testing.assert_allclose(values[:, 0], [0, 0, 1, 4, 3, 2, 2])
    np.testing.assert_allclose(values[:, 1], [5, 5, 5, 5, 2, -1, -1])
    np.testing.assert_allclose(curve.mean, [2, 3])
    self.assertEqual(curve.seen(2.4), (0.0, 4.0))

  def test_one_step(self):
    curve = curves.Curve(np.array([0.3]), np.array([[1.0, 2.0]]), field=1.0)
    np.testing.assert_array_equal(curve.at(np.array([0.0, 5.0])), [[1, 2], [1, 2]])

  def test_logits_of_streams_are_added_before_the_softmax(self):
    rng = np.random.default_rng(0)
    rgb, flow = (curves.Curve(np.array([0.0, 1.0]), rng.normal(size=(2, 3)), field=1.0) for _ in range(2))
    (joint,) = curves.probabilities([rgb, flow], np.array([0.5]))
    logits = (rgb.logits + flow.logits).mean(axis=0)
    np.testing.assert_allclose(joint, np.exp(logits) / np.exp(logits).sum())

  def test_a_curve_of_step_logits(self):
    curve = curves.make(np.zeros((7, 5)), 64, "rgb")
    self.assertAlmostEqual(curve.field, 107 / 25)
    first, end = receptive_field.seen(spec.time_layers("StepLogits"), (3, 4), 64)
    np.testing.assert_allclose(curve.seen(curve.times[3]), ((first - 0.5) / 25, (end - 0.5) / 25))


if __name__ == "__main__":
  absltest.main()
