"""I3dFeatures against the network that it takes its endpoints from."""

import functools
import pathlib
import tempfile
import textwrap

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.features import networks
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import release
from i3d_tf.weights import saved

_INFO = saved.make_info(stream="rgb", num_classes=3, width_multiplier=0.05, average_space=True, dataset="made")
_ENDPOINTS = (*spec.ENDPOINTS, spec.POOLED_FEATURES, spec.STEP_LOGITS)
_FOLDER = tempfile.TemporaryDirectory()  # deleted when the process ends


@functools.cache
def _checkpoint(seed="", **changes):
  """A network on disk, the same for the same arguments."""
  info = testing.change_info(_INFO, **changes)
  model = saved.make_model(info)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(seed + name, variable.shape.as_list()))
  path = pathlib.Path(tempfile.mkdtemp(dir=_FOLDER.name))
  saved.save(path, model, info)
  return path


def _clips(batch=2, frames=16, side=32):
  return np.random.default_rng(0).uniform(-1, 1, [batch, frames, side, side, 3]).astype(np.float32)


@functools.cache
def _expected(batch=2, frames=16, seed=""):
  """All endpoints of `_clips(batch, frames)` as the whole network gives them."""
  model, info = saved.load(_checkpoint(seed))
  cut = saved.make_model(info, final_endpoint="Predictions")
  release.assign(cut, {name: value.numpy() for name, value in release.named_variables(model).items()}, "model")
  return {name: value.numpy() for name, value in cut(_clips(batch, frames))[1].items()}


class I3dFeaturesTest(parameterized.TestCase):
  @parameterized.parameters(
      (["Conv3d_1a_7x7"],), (["Mixed_5c", "Mixed_3c"],), (["MaxPool3d_4a_3x3"],), (["PooledFeatures"],),
      (["StepLogits", "Mixed_4f", "Logits"],), (["Predictions", "Logits"],), (_ENDPOINTS,),
  )  # fmt: skip
  def test_they_are_the_networks(self, names):
    values = networks.I3dFeatures(_checkpoint(), names)(_clips())
    self.assertEqual(tuple(values), tuple(names))
    expected = _expected()
    for name in names:
      self.assertEqual(values[name].shape, expected[name].shape)
      np.testing.assert_allclose(values[name], expected[name], rtol=0, atol=1e-5, err_msg=name)

  def test_an_endpoint_asked_for_twice_is_given_once(self):
    features = networks.I3dFeatures(_checkpoint(), ["Mixed_3c", "Conv3d_1a_7x7", "Mixed_3c"])
    self.assertEqual(tuple(features(_clips())), ("Mixed_3c", "Conv3d_1a_7x7"))

  def test_every_endpoint_of_the_network_is_offered(self):
    self.assertCountEqual(_ENDPOINTS, _expected(1, 9))

  @parameterized.parameters(
      (["Mixed_3c", "Conv3d_1a_7x7"], "Mixed_3c"), (["MaxPool3d_5a_2x2"], "MaxPool3d_5a_2x2"),
      (["Mixed_3c", "PooledFeatures"], "Logits"), (["StepLogits"], "Logits"), (["Predictions"], "Logits"),
  )  # fmt: skip
  def test_only_the_rows_needed_are_there_and_are_run(self, names, last):
    features = networks.I3dFeatures(_checkpoint(), names)
    rows = spec.ENDPOINTS[: spec.ENDPOINTS.index(last) + 1]
    wanted = [name for name in spec.variable_shapes() if name.split("/")[0] in rows]
    self.assertLen(features.variables, len(wanted))
    function = tf.function(features).get_concrete_function(tf.TensorSpec([1, 9, 32, 32, 3]))
    kinds = [operation.type for operation in function.graph.get_operations()]
    self.assertEqual(kinds.count("Conv3D"), sum(unit.endpoint in rows for unit in spec.units()))

  def test_in_tf_data(self):
    features = networks.I3dFeatures(_checkpoint(), ["Mixed_3c"])
    dataset = tf.data.Dataset.from_tensor_slices(_clips(3)).batch(2).map(features, tf.data.AUTOTUNE)
    values = np.concatenate([batch["Mixed_3c"] for batch in dataset])
    np.testing.assert_allclose(values, _expected(3)["Mixed_3c"], rtol=0, atol=1e-5)

  def test_in_a_function_of_open_lengths(self):
    features = networks.I3dFeatures(_checkpoint(), ["StepLogits"])
    signature = [tf.TensorSpec([None, None, 32, 32, 3], tf.float32)]
    function = tf.function(lambda clips: features(clips)["StepLogits"], input_signature=signature)
    for frames in (9, 24):
      clips = _clips(1, frames)
      np.testing.assert_allclose(function(clips), _expected(1, frames)["StepLogits"], rtol=0, atol=1e-5)

  def test_in_keras_the_layers_around_it_are_trained(self):
    features = networks.I3dFeatures(_checkpoint(), ["PooledFeatures"])
    inputs = tf.keras.Input([16, 32, 32, 3])
    pooled = tf.keras.layers.Lambda(lambda clips: features(clips)["PooledFeatures"])(inputs)
    self.assertEqual(tuple(pooled.shape), (None, 1, _expected()["PooledFeatures"].shape[-1]))
    outputs = tf.keras.layers.Dense(1, kernel_initializer="zeros")(tf.keras.layers.Flatten()(pooled))
    model = tf.keras.Model(inputs, outputs)
    model.compile(tf.keras.optimizers.SGD(0.1), "mse")
    before = [variable.numpy() for variable in features.variables]
    losses = model.fit(_clips(), np.float32([[0], [1]]), epochs=20, verbose=0).history["loss"]
    self.assertAlmostEqual(losses[0], 0.5, places=4)
    self.assertLess(losses[-1], 0.4)
    for old, variable in zip(before, features.variables, strict=True):
      np.testing.assert_array_equal(old, variable)

  def test_gradients_are_the_networks(self):
    features = networks.I3dFeatures(_checkpoint(), ["Logits"])
    model = saved.load(_checkpoint())[0]
    self.assertLen(features.trainable_variables, len(model.trainable_variables))
    clips = tf.constant(_clips())

    def gradients(network, variables, clips):  # of an argument, for what comes of constants is folded by other kernels
      with tf.GradientTape() as tape:
        tape.watch(clips)
        loss = tf.reduce_sum(network(clips)[:, 1])
      return tape.gradient(loss, [clips, *variables])

    whole = functools.partial(gradients, lambda clips: model(clips)[0], model.trainable_variables)
    expected = tf.function(whole, autograph=False)(clips)
    got = gradients(lambda clips: features(clips)["Logits"], features.trainable_variables, clips)
    for one, other in zip(got, expected, strict=True):
      self.assertGreater(np.abs(other).max(), 0)
      self.assertLess(testing.relative_error(one, other), 1e-4)
    # Along the gradient the logit rises as it says.
    step = 1e-3 * got[0] / tf.norm(got[0])
    rise = tf.reduce_sum((features(clips + step)["Logits"] - features(clips - step)["Logits"])[:, 1])
    np.testing.assert_allclose(rise, 2e-3 * tf.norm(got[0]), rtol=0.05)

  def test_gradients_of_one_endpoint_of_several(self):
    features = networks.I3dFeatures(_checkpoint(), ["Mixed_3b", "PooledFeatures"])
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(features(_clips())["PooledFeatures"])
    got = tape.gradient(loss, features.trainable_variables)
    for variable, one in zip(features.trainable_variables, got, strict=True):
      if "Logits" in variable.name:
        self.assertIsNone(one)
      else:
        self.assertGreater(np.abs(one).max(), 0, variable.name)

  def test_two_know_nothing_of_each_other(self):
    one, other = (networks.I3dFeatures(_checkpoint(seed), ["Logits"]) for seed in ("", "another "))
    self.assertEmpty({v.ref() for v in one.variables} & {v.ref() for v in other.variables})
    for seed, features in (("", one), ("another ", other)):
      np.testing.assert_allclose(features(_clips())["Logits"], _expected(seed=seed)["Logits"], rtol=0, atol=1e-5)

  def test_clips_of_any_size_if_asked_for(self):
    path = _checkpoint(average_space=False)
    with self.assertRaisesRegex(ValueError, "height 32; Logits needs 193 to 224, or average_space=True"):
      networks.I3dFeatures(path, ["StepLogits"])(_clips())
    features = networks.I3dFeatures(path, ["StepLogits"], average_space=True)
    np.testing.assert_allclose(features(_clips())["StepLogits"], _expected()["StepLogits"], rtol=0, atol=1e-5)
    self.assertTrue(features.info.average_space)
    self.assertTrue(networks.I3dFeatures(_checkpoint(), ["StepLogits"]).info.average_space)

  def test_clips_that_do_not_fit_are_refused(self):
    features = networks.I3dFeatures(_checkpoint(), ["StepLogits"])
    for clips, message in (
      (_clips(1, 8), "8 frames; Logits needs at least 9"),
      (_clips().astype(np.uint8), "scaled to"),
      (_clips()[0], r"must be \[batch, frames"),
      (_clips()[..., :2], "clip has 2 channels; .* was built for 3"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        features(clips)

  @parameterized.parameters((["Mixed_5d"],), ("Mixed_5c",), ([],), (["Mixed_5c", "M"],))
  def test_unknown_endpoints_are_refused(self, names):
    with self.assertRaisesRegex(
      errors.I3dError, "^endpoints is .*; .* is a network i3d, which has Conv3d_1a_7x7.*StepLogits"
    ):
      networks.I3dFeatures(_checkpoint(), names)

  def test_another_network(self):
    path = _checkpoint(model="r3d_18", average_space=False, num_frames=4, crop=32)
    features = networks.I3dFeatures(path, ["PooledFeatures", "Logits"])
    clips = _clips(1, 4)
    logits, expected = saved.load(path)[0](tf.constant(clips))
    values = features(clips)
    self.assertEqual(list(values), ["PooledFeatures", "Logits"])
    np.testing.assert_allclose(values["Logits"], logits, rtol=0, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_allclose(values["PooledFeatures"], expected["PooledFeatures"], rtol=1e-4, atol=1e-5)

  def test_the_documented_example_runs(self):
    example = networks.__doc__.split("\n\n", 1)[1].split("\n\nKeras trains")[0]
    example = textwrap.dedent(example)
    lines = [line for line in example.splitlines() if line]
    self.assertLen(lines, 10)
    self.assertEqual(example.count('"rgb_imagenet"'), 1)
    path = _checkpoint(average_space=False)
    names = {}
    exec(example.replace('"rgb_imagenet"', repr(str(path))), names)
    width = names["pooled"](names["clips"]).shape[-1]
    values = names["features"](names["clips"])
    self.assertEqual([list(value.shape)[:-1] for value in values.values()], [[2, 4, 14, 14], [2, 1]])
    self.assertEqual([batch.shape for batch in names["dataset"]], [(2, 1, width)])
    self.assertEqual(names["classifier"](names["clips"]).shape, (2, 5))
    channels = {row.name: spec.out_channels(row, 0) for row in spec.ROWS}
    self.assertIn(f"[2, 4, 14, 14, {channels['4f']}] and [2, 1, {channels['5c']}]", example)


if __name__ == "__main__":
  absltest.main()
