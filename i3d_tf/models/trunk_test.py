"""Trunks in parts, and the network of trunk and pooled head."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import trunk
from i3d_tf.models import units
from i3d_tf.weights import release


class _Tiny(trunk.TrunkNetwork):
  """Two convolutions about a pool, and a unit between mean and dropout."""

  def __init__(self, num_classes: int, **options):
    super().__init__(num_classes, name="tiny", **options)
    self._trunk["a"] = units.Unit3D(self._width(8), (3, 3, 3), name="a")
    self._trunk["pool"] = units.MaxPool3D((1, 2, 2), (1, 2, 2), name="pool")
    self._trunk["b"] = units.Unit3D(self._width(16), (1, 3, 3), name="b")
    self._head["c"] = units.Unit3D(self._width(12), (1, 1, 1), name="c")


def _clip(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def _made(**options) -> _Tiny:
  model = _Tiny(5, **options)
  model.build(3)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, variable.shape.as_list()))
  return model


class TrunkNetworkTest(parameterized.TestCase):
  def test_head_is_mean_units_dropout_classifier(self):
    model, clip = _made(), _clip(2, 3, 8, 10, 3)
    logits, endpoints = model(clip)
    self.assertEqual(list(endpoints), ["a", "pool", "b", base.POOLED_FEATURES, "c", base.LOGITS])
    values = release.named_variables(model)
    pooled = endpoints["b"].numpy().mean((1, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(endpoints[base.POOLED_FEATURES], pooled, atol=1e-6)
    hidden = pooled @ values["c/conv_3d/w"][0, 0, 0] - values["c/batch_norm/moving_mean"]
    hidden = hidden / np.sqrt(values["c/batch_norm/moving_variance"] + 1e-3) + values["c/batch_norm/beta"]
    expected = np.maximum(hidden, 0) @ values["Logits/conv_3d/w"][0, 0, 0] + values["Logits/conv_3d/b"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)

  def test_dropout_is_of_what_the_classifier_sees(self):
    model, clip, seeds = _made(), _clip(2, 3, 8, 10, 3), tf.constant([[1, 2], [3, 4]])
    endpoints = model(clip)[1]
    dropped = base.dropout(endpoints["c"], 0.5, seeds)[:, 0, 0, 0]
    values = release.named_variables(model)
    expected = dropped @ values["Logits/conv_3d/w"][0, 0, 0] + values["Logits/conv_3d/b"]
    np.testing.assert_allclose(model(clip, False, 0.5, dropout_seeds=seeds)[0], expected, atol=1e-5)

  def test_recomputing_changes_no_gradient(self):
    clip, gradients = _clip(2, 3, 8, 10, 3), []
    for recompute in (False, True):
      model = _made(recompute=recompute, batch_norm_decay=0.9)

      @tf.function
      def step(clip, model=model):
        with tf.GradientTape() as tape:
          loss = tf.reduce_sum(model(clip, is_training=True)[0] ** 2)
        return tape.gradient(loss, model.trainable_variables)

      gradients.append([gradient.numpy() for gradient in step(clip)])
      mean = release.named_variables(model)["b/batch_norm/moving_mean"].numpy()
      moved = testing.golden_values("b/batch_norm/moving_mean", mean.shape)
      self.assertGreater(np.abs(mean - moved).max(), 1e-3)
    for plain, again in zip(*gradients, strict=True):
      np.testing.assert_allclose(again, plain, atol=1e-5 * np.abs(plain).max())

  def test_rgb_alone_is_normalised(self):
    plain, wanting = _made(), _made()
    wanting.rgb_mean, wanting.rgb_std = (0.4, 0.5, 0.6), 0.25
    clip = _clip(1, 3, 8, 10, 3)
    normalized = ((clip + 1) / 2 - [0.4, 0.5, 0.6]) / 0.25
    self.assertGreater(np.abs(wanting(clip)[0] - plain(clip)[0]).max(), 1e-3)
    np.testing.assert_allclose(wanting(clip)[0], plain(normalized.astype(np.float32))[0], atol=1e-5)
    flow = _clip(1, 3, 8, 10, 2)
    np.testing.assert_array_equal(wanting._normalized(tf.constant(flow)), flow)

  @parameterized.parameters(
    ({"compute_dtype": "int8"}, "compute_dtype is 'int8'"), ({"width_multiplier": 0}, "width_multiplier is 0")
  )
  def test_options_are_checked(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _Tiny(5, **options)

  def test_other_channels_and_other_clips(self):
    model = _made()
    with self.assertRaisesRegex(ValueError, "clip has 2 channels"):
      model(_clip(1, 3, 8, 10, 2))
    for network_of_one in (model, inception.InceptionV1(5, width_multiplier=0.05)):
      with self.assertRaisesRegex(ValueError, "this network takes one stream"):
        network_of_one({"rgb": _clip(1, 3, 8, 10, 3)})


if __name__ == "__main__":
  absltest.main()
