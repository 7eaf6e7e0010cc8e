"""The building units on small inputs with known answers."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import batch_norm
from i3d_tf.models import units

# Of the largest output. Matrix units add up in float32 (0.4 %, the result's rounding); without them TensorFlow rounds
# partial sums to bfloat16 as well (2.1 % on Zen 3). A wrong arrangement of the pixels is off by the order of 1.
_BFLOAT16 = 0.04


def _noise(shape, seed=0, scale=1.0):
  return tf.constant(np.random.default_rng(seed).normal(size=shape) * scale, tf.float32)


def _unit(kernel, channels=5, in_channels=3, stride=(1, 1, 1), seed=0, **options):
  unit = units.Unit3D(channels, kernel, stride, name="unit", **options)
  unit.build(in_channels)
  for index, variable in enumerate(unit.variables):
    variable.assign(_noise(variable.shape, seed + index, 0.3))
  unit.batch_norm.moving_variance.assign(tf.random.stateless_uniform([channels], [seed, 9], 0.5, 1.5))
  return unit


def _leave_what_is_no_number():
  """Fills memory that the next operation is given."""
  for _ in [tf.fill([2**exponent], np.nan) for exponent in range(10, 22, 2) for _ in range(16)]:
    pass


class Unit3DTest(parameterized.TestCase):
  def test_inference_is_convolution_then_batch_norm_then_relu(self):
    unit = _unit((3, 3, 3))
    norm = unit.batch_norm
    clip = _noise([2, 4, 6, 5, 3], 7)
    convolved = tf.nn.conv3d(clip, unit.conv_3d.w, [1] * 5, "SAME")
    expected = tf.nn.relu(
      (convolved - norm.moving_mean) / tf.sqrt(norm.moving_variance + batch_norm.EPSILON) + norm.beta
    )
    np.testing.assert_allclose(unit(clip), expected, atol=1e-5)

  @parameterized.parameters(([2, 4, 6, 5, 3],), ([1, 1, 1, 2, 3],))
  def test_training_uses_and_averages_biased_batch_statistics(self, shape):
    unit = _unit((1, 1, 1))
    norm = unit.batch_norm
    old_mean, old_variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    clip = _noise(shape, 7)
    convolved = tf.nn.conv3d(clip, unit.conv_3d.w, [1] * 5, "SAME").numpy().astype(np.float64)
    mean, variance = convolved.mean((0, 1, 2, 3)), convolved.var((0, 1, 2, 3))
    expected = np.maximum((convolved - mean) / np.sqrt(variance + 1e-3) + norm.beta.numpy(), 0)

    @tf.function
    def train(clip):
      statistics = batch_norm.BatchStatistics()
      outputs = unit(clip, statistics)
      statistics.move_averages()
      return outputs

    np.testing.assert_allclose(train(clip), expected, atol=1e-5)
    np.testing.assert_allclose(norm.moving_mean, 0.999 * old_mean + 0.001 * mean, atol=1e-7)
    np.testing.assert_allclose(norm.moving_variance, 0.999 * old_variance + 0.001 * variance, atol=1e-7)

  @parameterized.parameters((3, 3, 3), (1, 1, 1))
  def test_training_gradients_are_those_of_the_definition(self, *kernel):
    unit = _unit(kernel)
    norm = unit.batch_norm
    clip, upstream = _noise([2, 4, 6, 5, 3], 7), _noise([2, 4, 6, 5, 5], 8)

    @tf.function
    def actual(clip):
      with tf.GradientTape() as tape:
        tape.watch(clip)
        outputs = unit(clip, batch_norm.BatchStatistics())
      return tape.gradient(outputs, [clip, unit.conv_3d.w, norm.beta], upstream)

    exact = [tf.cast(value, tf.float64) for value in (clip, unit.conv_3d.w, norm.beta)]
    with tf.GradientTape() as tape:
      tape.watch(exact)
      convolved = tf.nn.conv3d(exact[0], exact[1], [1] * 5, "SAME")
      mean, variance = tf.nn.moments(convolved, [0, 1, 2, 3])
      outputs = tf.nn.relu((convolved - mean) / tf.sqrt(variance + 1e-3) + exact[2])
    expected = tape.gradient(outputs, exact, tf.cast(upstream, tf.float64))
    for value, expectation in zip(actual(clip), expected, strict=True):
      self.assertLess(testing.relative_error(value, expectation.numpy()), 2e-6)

  @parameterized.parameters("relu", "swish", "none")
  def test_a_scale_and_other_activations_act_and_are_trained_by_the_definition(self, activation):
    unit = _unit((1, 3, 3), batch_norm={"with_scale": True, "epsilon": 1e-5}, activation=activation)
    norm, function = unit.batch_norm, units.ACTIVATIONS[activation]
    clip, upstream = _noise([2, 4, 6, 5, 3], 7), _noise([2, 4, 6, 5, 5], 8)

    @tf.function
    def actual(clip):
      with tf.GradientTape() as tape:
        tape.watch(clip)
        outputs = unit(clip, batch_norm.BatchStatistics())
      return outputs, *tape.gradient(outputs, [clip, unit.conv_3d.w, norm.gamma, norm.beta], upstream)

    exact = [tf.cast(value, tf.float64) for value in (clip, unit.conv_3d.w, norm.gamma, norm.beta)]
    with tf.GradientTape() as tape:
      tape.watch(exact)
      convolved = tf.nn.conv3d(exact[0], exact[1], [1] * 5, "SAME")
      mean, variance = tf.nn.moments(convolved, [0, 1, 2, 3])
      outputs = function(exact[2] * (convolved - mean) / tf.sqrt(variance + 1e-5) + exact[3])
    expected = outputs, *tape.gradient(outputs, exact, tf.cast(upstream, tf.float64))
    for value, expectation in zip(actual(clip), expected, strict=True):
      self.assertLess(testing.relative_error(value, expectation.numpy()), 3e-6)
    convolved = tf.nn.conv3d(clip, unit.conv_3d.w, [1] * 5, "SAME")
    inferred = norm.gamma * (convolved - norm.moving_mean) / tf.sqrt(norm.moving_variance + 1e-5) + norm.beta
    np.testing.assert_allclose(unit(clip), function(inferred), atol=1e-5)

  def test_a_max_pool_behind_a_negative_scale_takes_the_largest(self):
    unit = _unit((1, 1, 1), batch_norm={"with_scale": True})
    unit.batch_norm.gamma.assign([-1.0, 1.0, -0.5, 0.0, 2.0])
    pool = units.MaxPool3D((1, 3, 3), (1, 2, 2), name="pool")
    outputs = unit(_noise([2, 4, 6, 5, 3], 7), statistics := batch_norm.BatchStatistics())
    np.testing.assert_array_equal(pool(outputs, statistics), tf.nn.max_pool3d(outputs, (1, 3, 3), (1, 2, 2), "SAME"))

  def test_statistics_are_exact_far_from_zero(self):
    # Sums of squares would lose the variance of values about 100 +- 0.1 in float32.
    statistics = batch_norm.BatchStatistics()
    norm = batch_norm.BatchNorm()
    norm.build(2)
    values = (100 + 0.1 * np.random.default_rng(0).normal(size=[1, 8, 32, 32, 2])).astype(np.float32)
    statistics.normalize(norm, tf.constant(values))
    statistics.move_averages()
    exact = values.astype(np.float64).reshape(-1, 2)
    np.testing.assert_allclose(norm.moving_mean, 0.001 * exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, 0.999 + 0.001 * exact.var(0), rtol=2e-7)

  def test_a_frozen_unit_trains_as_it_infers(self):
    unit = _unit((1, 3, 3))
    unit.frozen = True
    before = [variable.numpy() for variable in unit.variables]
    clip, statistics = _noise([2, 4, 6, 5, 3], 7), batch_norm.BatchStatistics()
    np.testing.assert_array_equal(unit(clip, statistics), unit(clip))
    statistics.move_averages()
    for variable, value in zip(unit.variables, before, strict=True):
      np.testing.assert_array_equal(variable, value)

  @parameterized.product(dtype=["bfloat16", "float16"], is_training=[False, True])
  def test_a_unit_computes_in_the_type_of_its_inputs(self, dtype, is_training):
    unit = _unit((3, 3, 3))
    clip, upstream = _noise([2, 4, 6, 5, 3], 7), _noise([2, 4, 6, 5, 5], 8)

    @tf.function
    def apply(clip):
      with tf.GradientTape() as tape:
        outputs = unit(clip, batch_norm.BatchStatistics() if is_training else None)
      return outputs, tape.gradient(outputs, unit.conv_3d.w, tf.cast(upstream, clip.dtype))

    (outputs, gradient), (expected, exact) = apply(tf.cast(clip, dtype)), apply(clip)
    self.assertEqual((outputs.dtype.name, gradient.dtype.name), (dtype, "float32"))
    tolerance = {"bfloat16": 0.03, "float16": 0.004}[dtype]
    self.assertLess(testing.relative_error(tf.cast(outputs, tf.float32), expected.numpy()), tolerance)
    self.assertLess(np.linalg.norm(gradient - exact), 5 * tolerance * np.linalg.norm(exact))

  @parameterized.parameters(
    ((3, 7, 7), (2, 2, 2), "SAME", 8, 4, 6),
    ((1, 3, 3), (1, 2, 2), "SAME", 8, 2, 6),
    ((1, 5, 5), (1, 2, 2), "SAME", 8, 3, 6),
    ((1, 4, 6), (1, 2, 2), "SAME", 10, 3, 6),
    ((1, 7, 7), (1, 2, 2), (0, 3, 3), 8, 4, 6),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1), 8, 2, 6),
    ((1, 3, 4), (1, 3, 3), "VALID", 9, 2, 9),
    ((1, 5, 5), (1, 4, 4), "SAME", 8, 2, 12),
    # What cannot be joined stays as it was.
    ((3, 7, 7), (2, 2, 2), "SAME", 9, 7, 3),
    ((3, 3, 3), (1, 1, 1), "SAME", 8, 3, 3),
    ((1, 9, 9), (1, 3, 3), "SAME", 9, 3, 9),
  )
  def test_pixels_side_by_side_become_channels_of_an_equal_convolution(
    self, kernel, stride, padding, width, taps, channels
  ):
    convolution = units.Conv3D(5, kernel, stride, padding=padding)
    convolution.build(3)
    clip = tf.cast(_noise([2, 4, 6, width, 3], 7), tf.bfloat16)
    convolution.w.assign(tf.cast(tf.cast(_noise(convolution.w.shape, 8), tf.bfloat16), tf.float32))
    with mock.patch.object(tf.nn, "conv3d", wraps=tf.nn.conv3d) as spied:
      outputs = convolution(clip)
      exact = convolution(tf.cast(clip, tf.float32))
    (joined, joined_kernel, *_), (_, plain_kernel, *_) = (call.args for call in spied.call_args_list)
    self.assertEqual((joined.shape[-1], joined_kernel.shape[2]), (channels, taps))
    self.assertEqual(plain_kernel.shape[2], kernel[2])
    self.assertLess(testing.relative_error(tf.cast(outputs, tf.float32), exact.numpy()), _BFLOAT16)

  @parameterized.parameters(
    ((7, 7, 7), (2, 2, 2), "SAME", (8, 10), (4, 4), 12),
    ((1, 7, 7), (1, 2, 2), (0, 3, 3), (8, 10), (4, 4), 12),
    ((1, 3, 4), (1, 3, 3), "VALID", (6, 9), (1, 2), 27),
    ((1, 5, 3), (1, 4, 2), "SAME", (8, 6), (2, 2), 24),
    ((3, 3, 7), (1, 1, 2), "SAME", (5, 6), (3, 4), 6),
    ((3, 7, 7), (2, 2, 2), "SAME", (9, 10), (7, 4), 6),
  )
  def test_in_training_pixels_of_two_axes_become_channels_and_the_gradient_is_equal(
    self, kernel, stride, padding, size, taps, channels
  ):
    convolution = units.Conv3D(5, kernel, stride, padding=padding)
    convolution.build(3)
    clip = tf.cast(_noise([2, 4, *size, 3], 7), tf.bfloat16)
    convolution.w.assign(tf.cast(tf.cast(_noise(convolution.w.shape, 8), tf.bfloat16), tf.float32))
    with mock.patch.object(tf.nn, "conv3d", wraps=tf.nn.conv3d) as spied, tf.GradientTape(persistent=True) as tape:
      outputs = tf.cast(convolution(clip, is_training=True), tf.float32)
      exact = convolution(tf.cast(clip, tf.float32))
    joined, joined_kernel, *_ = spied.call_args_list[0].args
    self.assertEqual((joined.shape[-1], tuple(joined_kernel.shape[1:3])), (channels, taps))
    self.assertLess(testing.relative_error(outputs, exact.numpy()), _BFLOAT16)
    gradient = tf.cast(tf.cast(_noise(exact.shape, 9), tf.bfloat16), tf.float32)
    found, expected = (tape.gradient(each, convolution.w, gradient) for each in (outputs, exact))
    self.assertLess(testing.relative_error(found, expected.numpy()), _BFLOAT16)

  @parameterized.parameters((3, (1, 1, 1)), (3, (2, 2, 2)), (7, (2, 2, 2)), (4, (1, 1, 1)))
  def test_one_frame_meets_the_middle_of_the_kernel_only(self, extent, stride):
    convolution = units.Conv3D(5, (extent, 3, 3), stride)
    convolution.build(5)
    clip = tf.cast(_noise([2, 1, 14, 14, 5], 7), tf.bfloat16)
    convolution.w.assign(tf.cast(tf.cast(_noise(convolution.w.shape, 8), tf.bfloat16), tf.float32))
    exact = convolution(tf.cast(clip, tf.float32))
    for _ in range(5):
      _leave_what_is_no_number()
      outputs = tf.cast(convolution(clip), tf.float32)
      self.assertLess(testing.relative_error(outputs, exact.numpy()), _BFLOAT16)

  def test_a_fresh_unit_divides_by_the_root_of_one_plus_epsilon(self):
    unit = units.Unit3D(1, (1, 1, 1), name="unit")
    unit.build(1)
    unit.conv_3d.w.assign(tf.ones([1, 1, 1, 1, 1]))
    output = unit(tf.fill([1, 1, 1, 1, 1], 2.0))
    np.testing.assert_allclose(tf.squeeze(output), 2 / np.sqrt(1.001), rtol=1e-6)

  def test_frozen_statistics_pass_the_gradient_through(self):
    unit = _unit((3, 1, 1))
    clip = _noise([1, 4, 2, 2, 3], 3)

    def loss(scale):
      with tf.GradientTape() as tape:
        tape.watch(scale)
        saved = unit.conv_3d.w.numpy()
        unit.conv_3d.w.assign(saved)
        value = tf.reduce_sum(unit(clip * scale))
      return value, tape.gradient(value, [unit.conv_3d.w, unit.batch_norm.beta])

    value, (kernel_gradient, beta_gradient) = loss(tf.constant(1.0))
    step = 1e-2
    kernel = unit.conv_3d.w.numpy()
    bumped = kernel.copy()
    bumped[1, 0, 0, 2, 1] += step
    unit.conv_3d.w.assign(bumped)
    np.testing.assert_allclose((loss(tf.constant(1.0))[0] - value) / step, kernel_gradient[1, 0, 0, 2, 1], rtol=0.05)
    active = tf.reduce_sum(tf.cast(_unit((3, 1, 1))(clip) > 0, tf.float32), [0, 1, 2, 3])
    np.testing.assert_allclose(beta_gradient, active)

  def test_the_classifier_unit_has_a_bias_and_nothing_else(self):
    unit = units.classifier(2, name="unit")
    unit.build(1)
    unit.conv_3d.w.assign(tf.reshape([1.0, -1.0], [1, 1, 1, 1, 2]))
    unit.conv_3d.b.assign([10.0, 1.0])
    logits = unit(tf.fill([1, 1, 1, 1, 1], 3.0), batch_norm.BatchStatistics())
    np.testing.assert_array_equal(tf.squeeze(logits), [13.0, -2.0])
    self.assertEqual([v.name for v in unit.variables], ["unit/conv_3d/b:0", "unit/conv_3d/w:0"])


class PaddingTest(parameterized.TestCase):
  def test_an_impulse_at_frame_0_reaches_the_first_two_steps_of_conv1(self):
    # Window of output i: frames 2i-2 ... 2i+4.
    conv = units.Conv3D(1, (7, 1, 1), (2, 1, 1))
    conv.build(1)
    conv.w.assign(tf.reshape(tf.range(1.0, 8.0), [7, 1, 1, 1, 1]))
    impulse = tf.reshape(tf.one_hot(0, 16), [1, 16, 1, 1, 1])
    np.testing.assert_array_equal(tf.squeeze(conv(impulse)), [3, 1, 0, 0, 0, 0, 0, 0])

  @parameterized.parameters(
    # kernel, stride, length, rising ramp's outputs: even lengths pad behind only, odd ones on both sides
    (3, 2, 8, [2, 4, 6, 7]),
    (3, 2, 7, [1, 3, 5, 6]),
    (2, 2, 7, [1, 3, 5, 6]),
    (2, 2, 8, [1, 3, 5, 7]),
    (3, 1, 4, [1, 2, 3, 3]),
  )
  def test_max_pool(self, kernel, stride, length, expected):
    pool = units.MaxPool3D((kernel, 1, 1), (stride, 1, 1), name="pool")
    ramp = tf.reshape(tf.range(float(length)), [1, length, 1, 1, 1])
    np.testing.assert_array_equal(tf.squeeze(pool(ramp)), expected)

  @parameterized.parameters("SAME", ((1, 1, 1),))
  def test_max_pool_padding_is_minus_infinity(self, padding):
    pool = units.MaxPool3D((3, 3, 3), (1, 1, 1), padding=padding, name="pool")
    negative = tf.fill([1, 2, 2, 2, 1], -5.0)
    np.testing.assert_array_equal(pool(negative), negative)

  def test_padding_on_both_sides_moves_the_windows_of_strided_layers(self):
    # 'SAME' puts nothing before an even length; windows then start at 0, 2, ... in place of -1, 1, ...
    ramp = tf.reshape(tf.range(1.0, 9.0), [1, 8, 1, 1, 1])
    pool = units.MaxPool3D((3, 1, 1), (2, 1, 1), padding=(1, 0, 0), name="pool")
    np.testing.assert_array_equal(tf.squeeze(pool(ramp)), [2, 4, 6, 8])
    conv = units.Conv3D(1, (3, 1, 1), (2, 1, 1), padding=(1, 0, 0))
    conv.build(1)
    conv.w.assign(tf.reshape([1.0, 10.0, 100.0], [3, 1, 1, 1, 1]))
    np.testing.assert_array_equal(tf.squeeze(conv(ramp)), [210, 432, 654, 876])


class FoldingTest(absltest.TestCase):
  def test_a_folded_unit_computes_the_same_without_its_batch_norm(self):
    unit = _unit((3, 3, 3))
    clip = _noise([1, 3, 5, 5, 3])
    expected = unit(clip)
    unit.fold_batch_norm()
    unit.fold_batch_norm()
    np.testing.assert_array_equal(unit(clip), expected)
    self.assertCountEqual([variable.name for variable in unit.variables], ["unit/conv_3d/w:0", "unit/conv_3d/b:0"])

  def test_a_classifier_stays_as_it_is(self):
    unit = units.classifier(4, name="unit")
    unit.build(2)
    clip = tf.random.stateless_uniform([1, 1, 2, 2, 2], [0, 0], -1, 1)
    expected = unit(clip)
    unit.fold_batch_norm()
    np.testing.assert_array_equal(unit(clip), expected)
    self.assertLess(expected.numpy().min(), 0)


if __name__ == "__main__":
  absltest.main()
