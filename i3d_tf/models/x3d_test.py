"""X3D beside a definition of its parts in NumPy, and what holds of its shapes, windows and gradients."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import base
from i3d_tf.models import x3d
from i3d_tf.weights import release

_SMALL = {"width_multiplier": 0.2, "depth_factor": 1.0}
# AutoGraph would take several times as long as the tracing itself, for branches that depend on no tensor.
_function = functools.partial(tf.function, autograph=False)


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@functools.cache
def _filled() -> x3d.X3D:
  """A network that several tests call and none changes."""
  return _made()


def _made(**options) -> x3d.X3D:
  model = x3d.X3D(5, **{"crop": 64, **_SMALL, **options})
  model.build(3)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, variable.shape.as_list()))
  return model


def _normalised(net: np.ndarray, values, unit: str) -> np.ndarray:
  norm = {name: values[f"{unit}/batch_norm/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")}
  return (net - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-5) * norm["gamma"] + norm["beta"]


def _sigmoid(net: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-net))


class X3DTest(parameterized.TestCase):
  def test_steps_and_sizes(self):
    model = x3d.X3D(5, **_SMALL)
    with tf.Graph().as_default():
      _, endpoints = model(tf.zeros([1, 6, 224, 224, 3]))
    sides = {"stem": 112, "layer1_0": 56, "layer2_0": 28, "layer2_1": 28, "layer3_4": 14, "layer4_2": 7, "conv5": 7}
    self.assertEqual(
      {name: tuple(endpoints[name].shape[1:4]) for name in sides},
      {name: (6, side, side) for name, side in sides.items()},
    )
    blocks = [block.name for block in x3d.blocks(1.0)]
    self.assertCountEqual(endpoints, ["stem", *blocks, "conv5", base.POOLED_FEATURES, x3d.LIN5, base.LOGITS])

  @parameterized.parameters(("layer2_0", "layer1_0"), ("layer2_1", "layer2_0"))
  def test_a_block_is_its_definition(self, name, before):
    model = _filled()
    _, endpoints = model(_noise(2, 3, 64, 64, 3))
    values = {each: value.numpy().astype(np.float64) for each, value in release.named_variables(model).items()}
    conv = lambda net, unit: net @ values[f"{name}/{unit}/conv_3d/w"][0, 0, 0]
    has_gate = name.endswith("_0")
    step = 2 if has_gate else 1
    inputs = endpoints[before].numpy().astype(np.float64)
    net = np.maximum(_normalised(conv(inputs, "conv1"), values, f"{name}/conv1"), 0)
    padded = np.pad(net, [(0, 0), (1, 1), (1, 1), (1, 1), (0, 0)])
    side = inputs.shape[2] // step
    net = sum(
      padded[:, t : t + 3, y : y + step * side : step, x : x + step * side : step]
      * values[f"{name}/conv2/conv_3d/w"][t, y, x]
      for t, y, x in np.ndindex(3, 3, 3)
    )
    net = _normalised(net, values, f"{name}/conv2")
    if has_gate:
      squeezed = conv(net.mean((1, 2, 3), keepdims=True), "gate/squeeze") + values[f"{name}/gate/squeeze/conv_3d/b"]
      net *= _sigmoid(conv(np.maximum(squeezed, 0), "gate/excite") + values[f"{name}/gate/excite/conv_3d/b"])
    net *= _sigmoid(net)
    net = _normalised(conv(net, "conv3"), values, f"{name}/conv3")
    if has_gate:
      inputs = _normalised(conv(inputs[:, :, ::2, ::2], "downsample"), values, f"{name}/downsample")
    np.testing.assert_allclose(endpoints[name], np.maximum(inputs + net, 0), rtol=1e-4, atol=1e-4)

  def test_a_fresh_block_passes_on_its_input(self):
    _, endpoints = x3d.X3D(5, crop=32, **_SMALL)(_noise(1, 2, 32, 32, 3))
    self.assertGreater(np.abs(endpoints["layer3_0"]).max(), 1e-3)
    np.testing.assert_array_equal(endpoints["layer3_4"], endpoints["layer3_0"])

  def test_head_has_a_window_as_large_as_a_clip_of_training(self):
    model = _filled()  # 64 pixels are a map of 2 x 2
    _, endpoints = model(_noise(1, 2, 96, 70, 3))
    values = release.named_variables(model)
    features = endpoints["conv5"].numpy().astype(np.float64).mean(1)
    self.assertEqual(features.shape[1:3], (3, 3))
    logits = []
    for top, left in np.ndindex(2, 2):
      window = features[:, top : top + 2, left : left + 2].mean((1, 2))
      hidden = np.maximum(window @ values["lin5/conv_3d/w"][0, 0, 0], 0)
      np.testing.assert_allclose(endpoints[x3d.LIN5][:, 0, top, left], hidden, rtol=1e-4, atol=1e-4)
      logits.append(hidden @ values["Logits/conv_3d/w"][0, 0, 0] + values["Logits/conv_3d/b"])
    np.testing.assert_allclose(endpoints[base.LOGITS], np.mean(logits, 0), rtol=1e-4, atol=1e-4)
    self.assertEqual(endpoints[base.POOLED_FEATURES].shape, (1, features.shape[-1]))

  def test_spatial_dropout_drops_a_channel_in_all_windows_alike(self):
    clip, seeds = _noise(1, 2, 96, 70, 3), tf.constant([[1, 2]])
    model = _made(spatial_dropout=True)
    lin5 = model(clip)[1][x3d.LIN5]
    kept = base.dropout(tf.ones([1, 1, 1, 1, lin5.shape[-1]]), 0.5, seeds)
    self.assertEqual(set(kept.numpy().ravel()), {0.0, 2.0})
    values = release.named_variables(model)
    expected = tf.reduce_mean(lin5 * kept, [1, 2, 3]) @ values["Logits/conv_3d/w"][0, 0, 0] + values["Logits/conv_3d/b"]
    logits = model(clip, dropout_keep_prob=0.5, dropout_seeds=seeds)[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    self.assertGreater(np.abs(logits - _filled()(clip, dropout_keep_prob=0.5, dropout_seeds=seeds)[0]).max(), 1e-3)

  def test_clips_of_unknown_or_small_size(self):
    model, clip = _filled(), _noise(2, 3, 96, 96, 3)
    function = _function(lambda clip: model(clip)[0], input_signature=[tf.TensorSpec([None] * 4 + [3])])
    np.testing.assert_allclose(function(clip), model(clip)[0], rtol=1e-4, atol=1e-4)
    self.assertTrue(np.isfinite(model(_noise(1, 1, 20, 20, 3))[0]).all())

  def test_every_variable_learns_also_when_activations_are_computed_twice(self):
    clip, found = _noise(2, 3, 64, 64, 3), []
    # Blocks with a step, and with and without a gate.
    self.enter_context(mock.patch.object(x3d, "STAGES", x3d.STAGES[:2]))
    for recompute in (False, True):
      model = _made(recompute=recompute)

      @_function
      def gradients(clip, model=model):
        with tf.GradientTape() as tape:
          loss = tf.reduce_sum(model(clip, is_training=True)[0][:, 0] ** 2)
        return tape.gradient(loss, model.trainable_variables)

      found.append([gradient.numpy() for gradient in gradients(clip)])
    for variable, plain, again in zip(model.trainable_variables, *found, strict=True):
      self.assertGreater(np.abs(plain).max(), 0, variable.name)
      np.testing.assert_allclose(again, plain, atol=1e-4 * np.abs(plain).max())

  def test_depth_is_checked(self):
    with self.assertRaisesRegex(ValueError, "depth_factor is 0; it must be positive"):
      x3d.X3D(depth_factor=0)


class GateTest(absltest.TestCase):
  def test_it_weighs_channels_of_a_clip(self):
    gate = x3d.SqueezeExcitation(2, 2, name="gate")
    self.assertEqual(gate.build(2), 2)
    weights = {"squeeze": [[1, 0], [0, 1]], "excite": [[0, -1], [1, 0]]}
    for name, variable in release.named_variables(gate).items():
      if name.endswith("/w"):
        variable.assign(np.float32(weights[name.split("/")[0]]).reshape(1, 1, 1, 2, 2))
    clip = np.zeros([1, 1, 1, 2, 2], np.float32) + np.float32([[1, 2], [3, 6]])  # means 2 and 4
    scaled = np.float64([[1, 2], [3, 6]]) / (1 + np.exp([-4, 2]))
    np.testing.assert_allclose(gate(tf.constant(clip))[0, 0, 0], scaled / (1 + np.exp(-scaled)), rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
