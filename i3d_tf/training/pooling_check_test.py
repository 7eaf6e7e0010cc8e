"""The check of the max pool's gradient."""

import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import tensorflow as tf

from i3d_tf.training import distribution


class MaxPoolGradientTest(parameterized.TestCase):
  def test_it_is_right_in_a_function(self):
    self.assertTrue(distribution.max_pool_gradient_is_right())

  def test_it_is_right_in_bfloat16(self):
    if "avx512" not in pathlib.Path("/proc/cpuinfo").read_text():
      self.skipTest("oneDNN has no bfloat16 without AVX-512, so that the trainer warns")
    self.assertTrue(distribution.max_pool_gradient_is_right("bfloat16"))

  def test_a_gradient_that_gives_every_tied_maximum_all_is_found_out(self):

    @tf.custom_gradient
    def pool(inputs):
      windows = tf.constant([1.0, 1.0, 2.0, 1.0])  # that each of four positions is in
      gradient = tf.einsum("i,j,k->ijk", windows, windows, windows)[tf.newaxis, ..., tf.newaxis]
      return tf.ones([1, 2, 2, 2, 8]), lambda _: gradient * tf.ones_like(inputs)

    with mock.patch.object(tf.nn, "max_pool3d", lambda inputs, *unused: pool(inputs)):
      self.assertFalse(distribution.max_pool_gradient_is_right())


if __name__ == "__main__":
  absltest.main()
