"""Channel-wise convolution beside the loop that defines it, and its gradient beside the loop's in float64."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import units
from i3d_tf.models import x3d

_CASES = (
  # kernel, stride, pads, clip
  ((3, 3, 3), (1, 1, 1), ((1, 1),) * 3, (2, 4, 6, 5, 3)),
  ((3, 3, 3), (1, 2, 2), ((1, 1),) * 3, (2, 4, 6, 5, 3)),
  ((3, 3, 3), (2, 2, 2), ((1, 1),) * 3, (1, 5, 7, 8, 2)),
  ((5, 1, 1), (1, 1, 1), ((2, 2), (0, 0), (0, 0)), (2, 3, 4, 5, 3)),
  ((3, 1, 1), (1, 2, 2), ((1, 1), (0, 0), (0, 0)), (1, 3, 5, 6, 2)),
  ((2, 3, 2), (1, 1, 1), ((0, 1), (1, 1), (0, 1)), (1, 1, 4, 5, 2)),
  ((2, 2, 2), (3, 3, 3), ((0, 0),) * 3, (1, 8, 7, 6, 2)),
)


def _loop(clip, kernel, stride, pads):
  """The definition; of arrays, or of tensors for their gradient."""
  padded = tf.pad(clip, [(0, 0), *pads, (0, 0)])
  extents = [(length - taps) // step + 1 for length, taps, step in zip(padded.shape[1:4], kernel.shape, stride)]
  total = 0
  for t, y, x in np.ndindex(*kernel.shape[:3]):
    window = [slice(tap, tap + (extent - 1) * step + 1, step) for tap, extent, step in zip((t, y, x), extents, stride)]
    total += padded[:, window[0], window[1], window[2]] * kernel[t, y, x]
  return total


def _arrays(kernel, clip, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=clip).astype(np.float32), rng.normal(size=(*kernel, clip[-1])).astype(np.float32)


class ConvolveTest(parameterized.TestCase):
  @parameterized.parameters(*_CASES)
  def test_output_and_gradients_are_the_loop_s(self, kernel, stride, pads, shape):
    clip, weights = _arrays(kernel, shape)
    exact = [tf.constant(value, tf.float64) for value in (clip, weights)]
    with tf.GradientTape() as tape:
      tape.watch(exact)
      expected = _loop(*exact, stride, pads)
    upstream = np.random.default_rng(1).normal(size=expected.shape)

    def run(clip, weights, upstream):
      with tf.GradientTape() as tape:
        tape.watch([clip, weights])
        outputs = x3d.convolve(clip, weights, stride, pads)
      return outputs, *tape.gradient(outputs, [clip, weights], upstream)

    unknown = [tf.TensorSpec([None] * 4 + [shape[-1]]), tf.TensorSpec(weights.shape), tf.TensorSpec([None] * 5)]
    traced = tf.function(run, input_signature=unknown)
    found = [run(*map(tf.constant, (clip, weights, np.float32(upstream)))), traced(clip, weights, np.float32(upstream))]
    expectations = [expected, *tape.gradient(expected, exact, upstream)]
    for values in found:
      for value, expectation in zip(values, expectations, strict=True):
        self.assertEqual(value.shape, expectation.shape)
        self.assertLess(testing.relative_error(value, expectation.numpy()), 1e-6)

  def test_it_is_the_dense_convolution_with_a_diagonal_kernel(self):
    clip, weights = _arrays((3, 3, 3), (2, 4, 6, 5, 3), seed=2)
    dense = weights[..., np.newaxis] * np.eye(3, dtype=np.float32)
    conv = x3d.ChannelwiseConv3D(3, (3, 3, 3))
    conv.build(3)
    conv.w.assign(weights)
    np.testing.assert_allclose(conv(clip), tf.nn.conv3d(clip, dense, [1] * 5, "SAME"), atol=1e-5)


class UnitTest(parameterized.TestCase):
  @parameterized.parameters((1, (1, 1, 1)), (2, (1, 1, 1)), (1, "VALID"), (1, "SAME"))
  def test_a_unit_folds_its_batch_norm_and_normalises_by_the_batch_s(self, step, padding):
    unit = units.Unit3D(4, (3, 3, 3), (1, step, step), convolution=x3d.ChannelwiseConv3D, padding=padding, name="unit")
    unit.build(4)
    self.assertEqual(unit.conv_3d.w.shape, (3, 3, 3, 4))
    rng = np.random.default_rng(3)
    for variable in unit.variables:
      variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    clip, _ = _arrays((1, 1, 1), (2, 4, 6, 6, 4), seed=4)
    pads = ((0, 0),) * 3 if padding == "VALID" else ((1, 1),) * 3
    convolved = _loop(clip.astype(np.float64), unit.conv_3d.w.numpy().astype(np.float64), (1, step, step), pads)
    norm = unit.batch_norm
    expected = (convolved - norm.moving_mean.numpy()) / np.sqrt(norm.moving_variance.numpy() + 1e-3) + norm.beta.numpy()
    np.testing.assert_allclose(unit(clip), tf.nn.relu(expected), atol=1e-4)

  def test_weights_start_by_the_taps_of_one_channel(self):
    tf.random.set_seed(0)
    conv = x3d.ChannelwiseConv3D(500, (3, 3, 3))
    conv.build(500)
    truncated = 0.88  # standard deviation of a normal cut off at twice its own
    self.assertAlmostEqual(float(tf.math.reduce_std(conv.w)), truncated / math.sqrt(27), delta=0.005)

  def test_what_it_cannot_be(self):
    with self.assertRaisesRegex(ValueError, "conv_3d is channel-wise, from 3 to 4 channels"):
      x3d.ChannelwiseConv3D(4, (3, 3, 3)).build(3)
    with self.assertRaisesRegex(ValueError, r"stride \(1, 2, 2\) takes padding by zeros, in numbers"):
      x3d.ChannelwiseConv3D(4, (3, 3, 3), (1, 2, 2))


if __name__ == "__main__":
  absltest.main()
