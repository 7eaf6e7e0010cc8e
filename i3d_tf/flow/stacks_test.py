"""Stacks by hand, and along paths that are known."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf.flow import codec
from i3d_tf.flow import stacks as stacks_lib
from i3d_tf.input import ops


def _fields(num_flows: int, size: tuple[int, int] = (9, 12), seed: int = 0) -> np.ndarray:
  """Smooth motion of up to 3 pixels, in units of 20 pixels, float32 `[L, H, W, 2]`."""
  rows, columns = np.mgrid[: size[0], : size[1]]
  rng = np.random.default_rng(seed)
  waves = [np.sin(a * rows + b * columns + c) for a, b, c in rng.uniform(0.1, 0.5, (2 * num_flows, 3))]
  return np.reshape(waves, (num_flows, 2, *size)).transpose(0, 2, 3, 1).astype(np.float32) * 3 / 20


def _channels(stack: np.ndarray) -> np.ndarray:
  """Stacks `[..., 2L]` as `[..., L, 2]`."""
  return np.reshape(stack, (*np.shape(stack)[:-1], -1, 2))


class OrderTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, "plain", [0], [0]),
    (4, "plain", [0, 1, 2, 3], [0, 0, 0, 0]),
    (3, "trajectory", [0, 1, 2], [0, 0, 0]),
    # Frames 0 to 6, in the middle 3: forward 3 to 4, 4 to 5, 5 to 6, backward 3 to 2, 2 to 1, 1 to 0.
    (6, "bidirectional", [3, 4, 5, 2, 1, 0], [0, 0, 0, 1, 1, 1]),
    (2, "bidirectional", [1, 0], [0, 1]),
  )
  def test_order(self, flow_stack, stacking, numbers, is_backward):
    self.assertEqual(stacks_lib.order(flow_stack, stacking), (numbers, is_backward))


class PlainTest(absltest.TestCase):
  def test_by_hand(self):
    first = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]  # [1, 3, 2]
    second = [[[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]]
    expected = [[[1, 2, 10, 20], [3, 4, 30, 40], [5, 6, 50, 60]]]
    np.testing.assert_array_equal(stacks_lib.plain([first, second]), expected)

  def test_leading_dimensions(self):
    fields = np.arange(4 * 2 * 3 * 2 * 2 * 2, dtype=np.float32).reshape(4, 2, 3, 2, 2, 2)
    stack = stacks_lib.plain(tf.unstack(fields)).numpy()
    self.assertEqual(stack.shape, (2, 3, 2, 2, 8))
    for k in range(4):
      np.testing.assert_array_equal(stack[..., 2 * k], fields[k, ..., 0])
      np.testing.assert_array_equal(stack[..., 2 * k + 1], fields[k, ..., 1])


class TrajectoryTest(parameterized.TestCase):
  def test_by_hand(self):
    right = np.zeros((2, 4, 2), np.float32) + np.array([1, 0], np.float32)  # a pixel to the right
    half_down = np.zeros((2, 4, 2), np.float32) + np.array([0, 0.5], np.float32)
    values = np.zeros((2, 4, 2), np.float32)
    values[..., 0] = [[0, 1, 2, 3], [10, 11, 12, 13]]
    stack = _channels(stacks_lib.trajectory([each / codec.BOUND for each in (right, half_down, values)]))
    np.testing.assert_array_equal(stack[..., 0, :] * 20, right)
    np.testing.assert_array_equal(stack[..., 1, :] * 20, half_down)
    # The last column and the lower row go no farther.
    np.testing.assert_allclose(stack[..., 2, 0] * 20, [[6, 7, 8, 8], [11, 12, 13, 13]], rtol=0, atol=1e-5)

  @parameterized.parameters(([-7.0, -9.0], (0, 0)), ([7.0, 9.0], (-1, -1)), ([-7.0, 9.0], (-1, 0)))
  def test_beyond_the_border_is_the_border(self, motion, corner):
    fields = np.stack([np.zeros((5, 6, 2)) + motion, 20 * _fields(1, (5, 6))[0]]).astype(np.float32) / 20
    stack = _channels(stacks_lib.trajectory(fields))
    np.testing.assert_array_equal(stack[..., 1, :], np.broadcast_to(fields[1][corner], (5, 6, 2)))

  def test_rotation(self):
    """Of a rotation by 0.1 a frame, flow k is that of the point turned k times; without following it is always one."""
    angle, side, num_flows = 0.1, 41, 10
    rows, columns = np.mgrid[:side, :side] - side // 2
    points = columns + 1j * rows
    turned = points * (np.exp(1j * angle) - 1)
    field = np.stack([turned.real, turned.imag], axis=-1).astype(np.float32) / codec.BOUND
    stacks = {
      make: _channels(make([field] * num_flows)) * codec.BOUND for make in (stacks_lib.trajectory, stacks_lib.plain)
    }
    inside = np.abs(points) < side // 2  # these never leave the field
    for k in range(num_flows):
      expected = points * np.exp(1j * angle * k) * (np.exp(1j * angle) - 1)
      errors = {make: np.abs(stack[..., k, 0] + 1j * stack[..., k, 1] - expected) for make, stack in stacks.items()}
      self.assertLess(errors[stacks_lib.trajectory][inside].max(), 1e-4)
      off = 2 * np.sin(angle * k / 2) * np.abs(expected)  # the chord between the two directions
      np.testing.assert_allclose(errors[stacks_lib.plain], off, rtol=0, atol=1e-5)
    self.assertGreater(errors[stacks_lib.plain].max(), 2)  # pixels

  def test_the_path_is_that_of_the_motion_before_means_were_subtracted(self):
    fields = _fields(5)
    residual, means = stacks_lib.subtract_means(tf.constant(fields))
    self.assertGreater(np.abs(means).max() * 20, 0.3)
    stack = _channels(stacks_lib.trajectory(residual, means))
    expected = _channels(stacks_lib.trajectory(fields)) - means.numpy()
    np.testing.assert_allclose(stack, expected, rtol=0, atol=1e-6)
    self.assertGreater(np.abs(expected - _channels(stacks_lib.trajectory(residual))).max(), 0.01)

  def test_leading_dimensions(self):
    fields = np.stack([_fields(4, seed=seed) for seed in range(6)], axis=1).reshape(4, 2, 3, 9, 12, 2)
    means = fields.mean(axis=(-3, -2))
    stack = stacks_lib.trajectory(fields, means).numpy()
    self.assertEqual(stack.shape, (2, 3, 9, 12, 8))
    for i, j in np.ndindex(2, 3):
      alone = stacks_lib.trajectory(fields[:, i, j], means[:, i, j])
      np.testing.assert_allclose(stack[i, j], alone, rtol=0, atol=1e-6)

  def test_same_in_a_graph_of_unknown_sizes(self):
    spec = tf.TensorSpec([None, None, None, 2], tf.float32)
    inside = tf.function(lambda *fields: stacks_lib.trajectory(fields), input_signature=[spec] * 4)
    fields = np.stack([_fields(4, seed=seed) for seed in range(2)], axis=1)
    np.testing.assert_allclose(inside(*fields), stacks_lib.trajectory(fields), rtol=0, atol=1e-6)

  def test_mirrored_before_or_after_is_the_same(self):
    fields = _fields(5)
    before = stacks_lib.trajectory(ops.flip_flow(fields))
    after = ops.flip_flow(stacks_lib.trajectory(fields))
    np.testing.assert_allclose(before, after, rtol=0, atol=1e-5)


class SubtractMeansTest(absltest.TestCase):
  def test_each_field_has_its_own(self):
    fields = _fields(3)
    residual, means = stacks_lib.subtract_means(tf.constant(fields))
    self.assertEqual(means.shape, (3, 2))
    for field, left, mean in zip(fields, residual.numpy(), means.numpy()):
      np.testing.assert_allclose(mean, field.reshape(-1, 2).mean(axis=0), rtol=0, atol=1e-6)
      np.testing.assert_allclose(left + mean, field, rtol=0, atol=1e-6)

  def test_a_panning_camera(self):
    pan, own = np.array([3, -2]), np.array([-4, 6])
    field = np.zeros((20, 30, 2)) + pan
    still, _ = stacks_lib.subtract_means(tf.constant(field / 20))
    np.testing.assert_allclose(still, 0, rtol=0, atol=1e-6)
    field[5:8, 10:14] += own  # 2 % of the area
    moving, _ = stacks_lib.subtract_means(tf.constant(field / 20))
    expected = np.zeros((20, 30, 2)) - 0.02 * own
    expected[5:8, 10:14] += own
    np.testing.assert_allclose(moving * 20, expected, rtol=0, atol=1e-6)


if __name__ == "__main__":
  absltest.main()
