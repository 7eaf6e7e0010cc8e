from absl.testing import absltest
import numpy as np

from i3d_tf.models import inflation


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
