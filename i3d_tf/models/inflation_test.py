from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf.models import inception_spec as spec
from i3d_tf.models import inflation


def _flat_values() -> dict[str, np.ndarray]:
  """Inception-v1's variables of a small width, each filled with a number of its own."""
  shapes = spec.variable_shapes(spec.INCEPTION_V1, num_classes=5, width_multiplier=0.1)
  return {name: np.full(shape, number, np.float32) for number, (name, shape) in enumerate(shapes.items(), start=1)}


class InflateTest(parameterized.TestCase):
  def test_every_variable_but_the_classifier_s_becomes_i3d_s(self):
    inflated = inflation.inflate(_flat_values())
    expected = spec.variable_shapes(spec.I3D, num_classes=5, width_multiplier=0.1)
    for name in ("w", "b"):
      del expected[f"Logits/Conv3d_0c_1x1/conv_3d/{name}"]
    self.assertEqual({name: value.shape for name, value in inflated.items()}, expected)
    self.assertLen(inflated, 57 * 4)
    self.assertEqual({value.dtype for value in inflated.values()}, {np.dtype(np.float32)})

  @parameterized.parameters(
    ("Conv3d_1a_7x7/conv_3d/w", "Conv2d_1a_7x7/conv_3d/w", 7),
    ("Conv3d_2b_1x1/conv_3d/w", "Conv2d_2b_1x1/conv_3d/w", 1),
    ("Conv3d_2c_3x3/conv_3d/w", "Conv2d_2c_3x3/conv_3d/w", 3),
    ("Mixed_4e/Branch_0/Conv3d_0a_1x1/conv_3d/w", "Mixed_4e/Branch_0/Conv2d_0a_1x1/conv_3d/w", 1),
    ("Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w", "Mixed_5b/Branch_2/Conv2d_0a_3x3/conv_3d/w", 3),
    ("Mixed_5c/Branch_2/Conv3d_0b_3x3/conv_3d/w", "Mixed_5c/Branch_2/Conv2d_0b_3x3/conv_3d/w", 3),
  )
  def test_kernels_come_from_their_own_and_keep_their_sum_over_time(self, deep, flat, steps):
    values = _flat_values()
    mean, center = (inflation.inflate(values, mode=mode)[deep] for mode in inflation.MODES)
    self.assertEqual((len(mean), len(center)), (steps, steps))
    np.testing.assert_allclose(mean, np.broadcast_to(values[flat] / steps, mean.shape), rtol=1e-7)
    np.testing.assert_array_equal(center[steps // 2], values[flat][0])
    np.testing.assert_array_equal(center.sum(0), values[flat][0])

  def test_batch_norm_is_copied(self):
    values = _flat_values()
    inflated = inflation.inflate(values)
    for name in ("beta", "moving_mean", "moving_variance"):
      for unit in ("{}_1a_7x7", "Mixed_3b/Branch_3/{}_0b_1x1", "Mixed_5b/Branch_2/{}_0a_3x3"):
        deep, flat = (f"{unit.format(prefix)}/batch_norm/{name}" for prefix in ("Conv3d", "Conv2d"))
        np.testing.assert_array_equal(inflated[deep], values[flat])

  def test_a_trunk_without_classifier_is_inflated_alike(self):
    values = _flat_values()
    trunk = {name: value for name, value in values.items() if "Logits" not in name}
    whole, part = inflation.inflate(values), inflation.inflate(trunk)
    self.assertEqual(list(whole), list(part))
    for name, value in whole.items():
      np.testing.assert_array_equal(value, part[name], name)

  def test_missing_variables_are_named(self):
    values = _flat_values()
    del values["Mixed_4b/Branch_0/Conv2d_0a_1x1/batch_norm/beta"]
    with self.assertRaisesRegex(ValueError, r"missing are \['Mixed_4b/Branch_0/.*/beta'\], and unknown \[\]"):
      inflation.inflate(values)

  def test_unknown_variables_are_named(self):
    with self.assertRaisesRegex(ValueError, r"missing are \[\], and unknown \['Mixed_6a/w'\]"):
      inflation.inflate(_flat_values() | {"Mixed_6a/w": np.zeros(1)})

  def test_unknown_mode(self):
    with self.assertRaisesRegex(ValueError, "mode is 'average'; allowed are mean, center"):
      inflation.inflate(_flat_values(), mode="average")


class InflateKernelTest(parameterized.TestCase):
  @parameterized.parameters(
      (1, "mean", [6]), (2, "mean", [3, 3]), (3, "mean", [2, 2, 2]), (4, "mean", [1.5] * 4),
      (1, "center", [6]), (2, "center", [6, 0]), (3, "center", [0, 6, 0]), (4, "center", [0, 6, 0, 0]),
      (7, "center", [0, 0, 0, 6, 0, 0, 0]),
  )  # fmt: skip
  def test_weights_of_the_steps(self, steps, mode, expected):
    kernel = inflation.inflate_kernel(np.full([1, 1, 1, 1, 1], 6, np.float32), steps, mode=mode)
    self.assertEqual((kernel.shape, kernel.dtype), ((steps, 1, 1, 1, 1), np.float32))
    np.testing.assert_allclose(kernel.ravel(), expected, rtol=1e-7)

  def test_space_and_channels_stay_in_place(self):
    kernel = np.random.default_rng(0).normal(size=(1, 3, 5, 2, 4)).astype(np.float32)
    for step in inflation.inflate_kernel(kernel, 2):
      np.testing.assert_array_equal(step, kernel[0] / 2)

  @parameterized.parameters([[1, 3, 2, 4]], [[3, 3, 3, 2, 4]])
  def test_a_kernel_that_is_not_flat_is_refused(self, shape):
    with self.assertRaisesRegex(ValueError, r"must be \[1, height, width, "):
      inflation.inflate_kernel(np.zeros(shape), 3)


class AdaptInChannelsTest(absltest.TestCase):
  def test_each_new_input_gets_the_mean(self):
    kernel = np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 1, 1, 3, 2)
    adapted = inflation.adapt_in_channels(kernel, 2)
    self.assertEqual((adapted.shape, adapted.dtype), ((2, 1, 1, 2, 2), np.float32))
    np.testing.assert_array_equal(adapted[:, 0, 0], [[[2, 3], [2, 3]], [[8, 9], [8, 9]]])

  def test_rescaled_it_keeps_the_response_to_equal_inputs(self):
    kernel = np.random.default_rng(0).normal(size=(7, 7, 7, 3, 4)).astype(np.float32)
    for channels in (2, 20):
      adapted = inflation.adapt_in_channels(kernel, channels, rescale=True)
      np.testing.assert_allclose(adapted.sum(-2), kernel.sum(-2), rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
  absltest.main()
