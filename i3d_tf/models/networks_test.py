"""What is special in the networks that the paper compares I3D with."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import base
from i3d_tf.models import c3d
from i3d_tf.models import convnet_lstm
from i3d_tf.models import inception
from i3d_tf.models import two_stream
from i3d_tf.models import units
from i3d_tf.weights import release

_SMALL = {"width_multiplier": 0.1}


def _clip(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _fill(model) -> None:
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, variable.shape.as_list()))


class InceptionV1Test(absltest.TestCase):
  def test_a_clip_is_its_frames_by_themselves(self):
    model = inception.InceptionV1(5, average_space=True, **_SMALL)
    model.build(3)
    _fill(model)
    clip = _clip(2, 3, 40, 40, 3)
    logits, endpoints = model(clip)
    for time in range(3):
      alone, of_image = model(clip[:, time])
      np.testing.assert_allclose(endpoints["StepLogits"][:, time], alone, atol=1e-5)
      self.assertEqual(of_image["Mixed_4f"].shape, (2, 3, 3, endpoints["Mixed_4f"].shape[-1]))
      np.testing.assert_allclose(endpoints["Mixed_4f"][:, time], of_image["Mixed_4f"], atol=1e-5)
    np.testing.assert_allclose(logits, tf.reduce_mean(endpoints["StepLogits"], 1), atol=1e-6)

  def test_names_and_sizes_are_slim_s(self):
    _, endpoints = inception.InceptionV1(4, **_SMALL)(_clip(1, 224, 224, 3))
    expected = {
        "Conv2d_1a_7x7": 112, "MaxPool_2a_3x3": 56, "Conv2d_2b_1x1": 56, "Conv2d_2c_3x3": 56, "MaxPool_3a_3x3": 28,
        "Mixed_3b": 28, "Mixed_3c": 28, "MaxPool_4a_3x3": 14, "Mixed_4b": 14, "Mixed_4c": 14, "Mixed_4d": 14,
        "Mixed_4e": 14, "Mixed_4f": 14, "MaxPool_5a_2x2": 7, "Mixed_5b": 7, "Mixed_5c": 7,
    }  # fmt: skip
    sizes = {name: value.shape[1] for name, value in endpoints.items() if len(value.shape) == 4}
    self.assertEqual(sizes, expected)


class C3DTest(absltest.TestCase):
  def test_shapes_halve_time_from_the_first_pool_on(self):
    model = c3d.C3D(7, **_SMALL)
    logits, endpoints = model(_clip(1, 16, 112, 112, 3))
    shapes = {name: tuple(value.shape[1:4]) for name, value in endpoints.items() if name.startswith("pool")}
    expected = [(8, 56, 56), (4, 28, 28), (2, 14, 14), (1, 7, 7), (1, 4, 4)]
    self.assertEqual(shapes, {f"pool{number}": shape for number, shape in enumerate(expected, start=1)})
    self.assertEqual((endpoints["fc6"].shape, logits.shape), ((1, 1, 1, 1, 410), (1, 7)))

  def test_every_layer_is_normalised_and_only_the_classifier_has_a_bias(self):
    model = c3d.C3D(7, **_SMALL)
    model.build(3)
    names = [name for name in release.named_variables(model) if name.endswith(("/b", "/beta"))]
    layers = "conv1a conv2a conv3a conv3b conv4a conv4b conv5a conv5b fc6 fc7".split()
    self.assertCountEqual(names, [*(f"{layer}/batch_norm/beta" for layer in layers), "Logits/conv_3d/b"])

  def test_both_layers_drop_by_their_own_draw(self):
    model = c3d.C3D(3, num_frames=2, crop=16, width_multiplier=0.05)
    model.build(3)
    _fill(model)
    clip, seeds = _clip(2, 2, 16, 16, 3), tf.constant([[1, 2], [3, 4]])
    dropped = model(clip, False, 0.5, dropout_seeds=seeds)[0].numpy()
    np.testing.assert_array_equal(dropped, model(clip, False, 0.5, dropout_seeds=seeds)[0])
    self.assertGreater(np.abs(dropped - model(clip)[0]).max(), 1e-3)
    ones = tf.ones([2, 1, 1, 1, 64])
    draws = [base.dropout(ones, 0.5, seeds, layer=layer).numpy() for layer in (0, 1)]
    self.assertGreater(np.abs(draws[0] - draws[1]).max(), 0)


class TwoStreamTest(parameterized.TestCase):
  def test_logits_are_the_mean_of_those_of_the_towers(self):
    model = two_stream.TwoStream(6, **_SMALL)
    clip = {"rgb": _clip(2, 1, 32, 32, 3), "flow": _clip(2, 1, 32, 32, 20, seed=1)}
    model(clip)
    _fill(model)
    logits, endpoints = model(clip)
    mean = (endpoints["rgb/Logits"] + endpoints["flow/Logits"]) / 2
    self.assertGreater(np.abs(endpoints["rgb/Logits"] - endpoints["flow/Logits"]).max(), 0.01)
    np.testing.assert_allclose(logits, mean, atol=1e-6)
    alone = two_stream.TwoStream(6, ("flow",), **_SMALL)
    alone.build(20)
    values = release.named_variables(model)
    for name, variable in release.named_variables(alone).items():
      variable.assign(values[name])
    np.testing.assert_allclose(alone(clip["flow"])[0], endpoints["flow/Logits"], atol=1e-6)

  def test_both_towers_learn_from_the_mean(self):
    model = two_stream.TwoStream(6, **_SMALL)
    clip = {"rgb": _clip(2, 1, 32, 32, 3), "flow": _clip(2, 1, 32, 32, 20, seed=1)}
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(model(clip, is_training=True)[0][:, 0])
    norms = {name: 0.0 for name in model.streams}
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables)):
      norms[variable.name.split("/")[1]] += float(tf.norm(gradient))
    self.assertGreater(min(norms.values()), 0)

  def test_fusion_sees_neighbouring_positions_and_both_streams(self):
    model = two_stream.FusedTwoStream(6, **_SMALL)
    clip = {"rgb": _clip(1, 5, 224, 224, 3), "flow": _clip(1, 5, 224, 224, 20, seed=1)}
    model(clip)
    _fill(model)
    logits, endpoints = model(clip)
    self.assertEqual(endpoints["rgb/Mixed_5c"].shape[1:4], (5, 7, 7))
    features = tf.concat([endpoints["rgb/Mixed_5c"], endpoints["flow/Mixed_5c"]], -1)
    values = release.named_variables(model)
    fused = tf.nn.relu(tf.nn.conv3d(features, values["Fusion/w"], [1] * 5, "SAME") + values["Fusion/b"])
    pooled = tf.reduce_mean(tf.nn.max_pool3d(fused, 3, 1, "SAME"), [1, 2, 3])
    expected = pooled @ values["Logits/conv_3d/w"][0, 0, 0] + values["Logits/conv_3d/b"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

  @parameterized.parameters(((),), (("rgb", "rgb"),), (("depth",),))
  def test_unknown_streams(self, *streams):
    with self.assertRaisesRegex(ValueError, "allowed are rgb, flow, and both"):
      two_stream.TwoStream(6, *streams)


class ConvNetLstmTest(absltest.TestCase):
  def _lstm(self, **options) -> convnet_lstm.BatchNormLstm:
    lstm = convnet_lstm.BatchNormLstm(4, 3, **options)
    lstm.build(5)
    rng = np.random.default_rng(3)
    for variable in lstm.variables:
      if "moving_variance" in variable.name:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
      else:
        variable.assign(rng.normal(size=variable.shape))
    return lstm

  def _reference(self, lstm, inputs: np.ndarray, moments=None) -> np.ndarray:
    """Step by step in NumPy, with moving statistics or the batch's."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    hidden = cell = np.zeros((len(inputs), 4))
    outputs = []

    def normalize(name, values, step):
      if not lstm.norms:
        return values
      norm = lstm.norms[name]
      last = min(step, 2)
      mean, variance = norm.moving_mean.numpy()[last], norm.moving_variance.numpy()[last]
      if moments == "batch":
        mean, variance = values.mean(0), values.var(0)
      offset = 0 if norm.beta is None else norm.beta.numpy()
      return norm.gamma.numpy() * (values - mean) / np.sqrt(variance + 1e-3) + offset

    for step in range(inputs.shape[1]):
      sums = normalize("input", inputs[:, step] @ lstm.input_w.numpy(), step)
      sums = sums + normalize("hidden", hidden @ lstm.hidden_w.numpy(), step) + lstm.b.numpy()
      enter, forget, candidate, leave = np.split(sums, 4, axis=1)
      cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
      hidden = sigmoid(leave) * np.tanh(normalize("cell", cell, step))
      outputs.append(hidden)
    return np.stack(outputs, axis=1)

  def test_inference_is_an_lstm_with_the_statistics_of_each_step_and_then_of_the_last(self):
    inputs = _clip(2, 5, 5)
    lstm = self._lstm()
    np.testing.assert_allclose(lstm(inputs), self._reference(lstm, inputs), atol=1e-5)
    plain = self._lstm(use_batch_norm=False)
    np.testing.assert_allclose(plain(inputs), self._reference(plain, inputs), atol=1e-5)

  def test_training_uses_the_batch_and_moves_the_statistics_of_each_step(self):
    inputs = _clip(6, 2, 5)
    lstm = self._lstm(batch_norm_decay=0.75)
    expected = self._reference(lstm, inputs, "batch")
    before = lstm.norms["input"].moving_mean.numpy()
    np.testing.assert_allclose(lstm(inputs, is_training=True), expected, atol=1e-4)
    means = np.stack([(inputs[:, step] @ lstm.input_w.numpy()).mean(0) for step in (0, 1, 1)])
    np.testing.assert_allclose(lstm.norms["input"].moving_mean, 0.75 * before + 0.25 * means, atol=1e-5)

  def test_gains_start_at_a_tenth_and_the_forget_gate_open(self):
    lstm = convnet_lstm.BatchNormLstm(4, 3)
    lstm.build(5)
    self.assertEqual({float(x) for norm in lstm.norms.values() for x in norm.gamma.numpy()}, {np.float32(0.1).item()})
    np.testing.assert_array_equal(lstm.b, [0] * 4 + [1] * 4 + [0] * 8)

  def test_longer_clips_than_statistics_are_refused_in_training_only(self):
    lstm = self._lstm()
    with self.assertRaisesRegex(ValueError, "clip has 4 frames; this network is trained with at most 3"):
      lstm(_clip(2, 4, 5), is_training=True)
    self.assertEqual(lstm(_clip(2, 4, 5)).shape, (2, 4, 4))

  def test_the_output_is_the_last_step_s_and_all_steps_are_trained(self):
    model = convnet_lstm.ConvNetLstm(6, num_frames=3, **_SMALL)
    clip = _clip(2, 3, 32, 32, 3)
    logits, endpoints = model(clip)
    np.testing.assert_array_equal(logits, endpoints["StepLogits"][:, -1])
    self.assertEqual(endpoints[model.LOSS].shape, (2, 3, 6))
    other = clip.copy()
    other[:, 0] *= -1
    self.assertGreater(np.abs(model(other)[0] - logits).max(), 0)  # the first frame reaches the last step


class PaddingTest(parameterized.TestCase):
  @parameterized.product(frames=(4, 5), side=(6, 7), kernel=((3, 3, 3), (7, 7, 7)), stride=((1, 1, 1), (2, 2, 2)))
  def test_edges_are_repeated_in_time_and_zeros_stay_in_space(self, frames, side, kernel, stride):
    conv = units.Conv3D(2, kernel, stride, temporal_padding="edge")
    conv.build(3)
    clip = _clip(1, frames, side, side, 3)
    total = max((-(-frames // stride[0]) - 1) * stride[0] + kernel[0] - frames, 0)
    long = np.pad(clip, [(0, 0), (total // 2, total - total // 2), (0, 0), (0, 0), (0, 0)], mode="edge")
    same = max((-(-side // stride[1]) - 1) * stride[1] + kernel[1] - side, 0)
    space = (same // 2, same - same // 2)
    padded = np.pad(long, [(0, 0), (0, 0), space, space, (0, 0)])
    expected = tf.nn.conv3d(padded, conv.w, [1, *stride, 1], "VALID")
    self.assertEqual(expected.shape[1:4], tuple(-(-extent // by) for extent, by in zip((frames, side, side), stride)))
    np.testing.assert_allclose(conv(clip), expected, atol=1e-5)

  def test_unknown_padding(self):
    with self.assertRaisesRegex(ValueError, "temporal_padding is 'wrap'; allowed are zeros, edge"):
      inception.InceptionI3d(temporal_padding="wrap")


if __name__ == "__main__":
  absltest.main()
