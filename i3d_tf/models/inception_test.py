"""InceptionI3d: the release's interface, its goldens, and small networks."""

import collections
import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import inception
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import release

# What two correct float32 implementations reach (golden/README.md), relative to the largest value.
TOLERANCE = 1e-4
# AutoGraph would take several times as long as the tracing itself, for branches that depend on no tensor.
_function = functools.partial(tf.function, autograph=False)
# All pools and three of the Mixed rows, where the whole network would only take longer.
_FEW_ROWS = tuple(row for row in spec.ROWS if row.name not in ("3b", "3c", "4b", "4c", "4d", "4e"))


def _golden_model(stream, channels):
  model = inception.InceptionI3d(final_endpoint="Predictions")
  model.build(channels)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(f"{stream}/inception_i3d/{name}", variable.shape.as_list()))
  return model


def _sampled(golden, key, tensor):
  return np.asarray(tensor).ravel()[golden[f"{key}/flat_index"]]


class GoldenTest(parameterized.TestCase):
  def _check_endpoints(self, model, clip, case, names):
    golden = np.load(testing.shared("golden/kinetics_i3d_forward.npz"))
    _, endpoints = _function(model)(clip)
    self.assertEqual(tuple(endpoints)[: len(names)], names)
    for name in names:
      key = f"{case}/{name}"
      self.assertEqual(tuple(endpoints[name].shape), tuple(golden[f"{key}/shape"]), name)
      error = testing.relative_error(_sampled(golden, key, endpoints[name]), golden[f"{key}/value"])
      self.assertLess(error, TOLERANCE, name)
      np.testing.assert_allclose(np.linalg.norm(endpoints[name]), golden[f"{key}/l2norm"], rtol=TOLERANCE, err_msg=name)
    self.assertLess(testing.relative_error(endpoints["Logits"], golden[f"{case}/Logits"]), TOLERANCE)

  @parameterized.parameters(("RGB", 16, 3), ("Flow", 25, 2))
  def test_forward_with_random_weights(self, stream, frames, channels):
    clip = testing.golden_noise(f"input/{stream}/{frames}", frames, channels)
    self._check_endpoints(
      _golden_model(stream, channels), clip, f"random/{stream}/{frames}", inception.InceptionI3d.VALID_ENDPOINTS
    )

  def test_forward_with_the_released_weights(self):
    model = inception.InceptionI3d(final_endpoint="Predictions")
    release.load_checkpoint(model, "rgb_scratch")
    self._check_endpoints(
      model, testing.golden_waves(64), "rgb_scratch/waves/64", inception.InceptionI3d.VALID_ENDPOINTS
    )
    # What users of TF-Hub's deepmind/i3d-kinetics-400/1 print for 15 black frames.
    logits = model(tf.fill([1, 15, 224, 224, 3], -1.0))[1]["Logits"][0]
    np.testing.assert_allclose(logits[:3], [0.74221, 2.82973, 0.39994], atol=1e-5)
    np.testing.assert_allclose(logits[-3:], [-0.38092, 0.65540, -1.40211], atol=1e-5)


class InterfaceTest(parameterized.TestCase):
  def _trace(self, model, shape):
    """Output and endpoints in a graph, where variables have a shape and take neither time nor memory."""
    with tf.Graph().as_default():
      return model(tf.zeros(shape))

  @parameterized.parameters((3, 400), (2, 51))
  def test_variables_are_named_as_in_the_release(self, channels, classes):
    model = inception.InceptionI3d(num_classes=classes)
    with tf.Graph().as_default():
      model.build(channels)
    self.assertEqual(
      {variable.name: tuple(variable.shape) for variable in model.variables},
      {
        f"inception_i3d/{name}:0": shape
        for name, shape in spec.variable_shapes(in_channels=channels, num_classes=classes).items()
      },
    )
    self.assertEqual(
      {variable.name for variable in model.trainable_variables},
      {variable.name for variable in model.variables if testing.is_trained(variable.name[:-2])},
    )

  def test_endpoint_shapes_at_full_size(self):
    _, endpoints = self._trace(inception.InceptionI3d(), [2, 64, 224, 224, 3])
    size, channels = (64, 224, 224), 3
    for row in spec.ROWS:
      size, channels = spec.output_size(size, row), spec.out_channels(row, channels)
      self.assertEqual(tuple(endpoints[spec.endpoint_name(row)].shape), (2, *size, channels))
    self.assertEqual(size + (channels,), (8, 7, 7, 1024))
    self.assertEqual(tuple(endpoints["PooledFeatures"].shape), (2, 7, 1024))
    self.assertEqual(tuple(endpoints["StepLogits"].shape), (2, 7, 400))
    self.assertEqual(tuple(endpoints["Logits"].shape), (2, 400))

  def test_without_squeezing_space_stays(self):
    model = inception.InceptionI3d(7, spatial_squeeze=False, final_endpoint="Predictions", width_multiplier=0.1)
    output, endpoints = self._trace(model, [2, 16, 224, 250, 3])
    self.assertEqual(tuple(output.shape), (2, 1, 2, 7))
    self.assertEqual(tuple(endpoints["StepLogits"].shape), (2, 1, 1, 2, 7))

  def test_building_stops_at_the_final_endpoint(self):
    for index, final in enumerate(spec.ENDPOINTS):
      model = inception.InceptionI3d(final_endpoint=final, width_multiplier=0.05)
      released = [name for name in model.endpoint_names if name in spec.ENDPOINTS]
      self.assertEqual(released, list(spec.ENDPOINTS[: index + 1]))

  # Of a convolution, a pool, a Mixed row, the last of the trunk, and the head.
  @parameterized.parameters("Conv3d_1a_7x7", "MaxPool3d_3a_3x3", "Mixed_4b", "Mixed_5c", "Predictions")
  def test_the_final_endpoint_is_the_output(self, final):
    model = inception.InceptionI3d(final_endpoint=final, width_multiplier=0.05)
    output, endpoints = self._trace(model, [1, 9, 224, 224, 3])
    self.assertEqual(tuple(endpoints), model.endpoint_names)
    self.assertIs(output, endpoints[final])
    wanted = {u.name for u in spec.units() if u.endpoint in endpoints}
    self.assertEqual({name.rsplit("/", 2)[0] for name in release.named_variables(model)}, wanted)

  @parameterized.parameters(
    ({"final_endpoint": "Mixed_9z"}, "final_endpoint is 'Mixed_9z'; allowed are Conv3d_1a_7x7, "),
    ({"num_classes": 0}, "num_classes is 0"),
    ({"width_multiplier": 0}, "width_multiplier is 0"),
    ({"average_space": True, "spatial_squeeze": False}, "needs spatial_squeeze=True"),
    ({"compute_dtype": "int8"}, "compute_dtype is 'int8'; allowed are float32, bfloat16, float16"),
  )
  def test_bad_construction(self, arguments, message):
    with self.assertRaisesRegex(ValueError, message):
      inception.InceptionI3d(**arguments)

  @parameterized.parameters(
    ([1, 16, 10, 10, 3], "height 10; Logits needs 193 to 224"),
    ([1, 16, 224, 225, 3], "width 225; Logits needs 193 to 224"),
    ([1, 8, 224, 224, 3], "8 frames; Logits needs at least 9"),
    ([16, 224, 224, 3], r"shape \(16, 224, 224, 3\); it must be \[batch, frames, height, width, channels\]"),
  )
  def test_bad_clips(self, shape, message):
    model = inception.InceptionI3d(width_multiplier=0.05)
    with self.assertRaisesRegex(ValueError, message):
      model(tf.zeros(shape))
    self.assertIsNone(model.in_channels)

  def test_bad_calls(self):
    model = inception.InceptionI3d(width_multiplier=0.05)
    clip = tf.zeros([1, 9, 224, 224, 3])
    for keep in (0.0, -0.1, 1.1):
      with self.assertRaisesRegex(ValueError, r"dropout_keep_prob is .*; it must be in \(0, 1\]"):
        model(clip, dropout_keep_prob=keep)
    with self.assertRaisesRegex(ValueError, "type uint8; it must be floating point"):
      model(tf.cast(clip, tf.uint8))
    model(clip)
    np.testing.assert_array_equal(model(clip.numpy().astype(np.float64))[0], model(clip)[0])
    with self.assertRaisesRegex(ValueError, "2 channels; inception_i3d was built for 3"):
      model(clip[..., :2])

  def test_logit_steps_and_too_few_frames_of_an_unknown_number_which_are_an_error_not_nan(self):
    model = inception.InceptionI3d(5, width_multiplier=0.05)
    apply = _function(
      lambda clip: model(clip)[1][spec.STEP_LOGITS], input_signature=[tf.TensorSpec([1, None, 193, 193, 3])]
    )
    for frames, steps in ((9, 1), (16, 1), (17, 2), (32, 3), (79, 9), (250, 31)):
      logits = apply(tf.zeros([1, frames, 193, 193, 3]))
      self.assertEqual(logits.shape, (1, steps, 5))
      self.assertTrue(np.isfinite(logits).all())
    with self.assertRaisesRegex(tf.errors.InvalidArgumentError, "too few frames"):
      apply(tf.zeros([1, 8, 193, 193, 3]))


class HeadTest(parameterized.TestCase):
  def _steps(self, values):
    """The averaged logit of a network whose Mixed_5c has `values` over time."""
    model = inception.InceptionI3d(1, width_multiplier=0.05, average_space=True)
    model.build(3)
    weights = release.named_variables(model)["Logits/Conv3d_0c_1x1/conv_3d/w"]
    weights.assign(tf.ones_like(weights) / weights.shape[3])
    steps = tf.reshape(tf.constant(values, tf.float32), [1, -1, 1, 1, 1])
    net = tf.broadcast_to(steps, [1, len(values), 7, 7, weights.shape[3]])
    return float(model._classify(net, None, lambda net: net)["Logits"][0, 0])

  def test_end_steps_weigh_half(self):
    self.assertAlmostEqual(self._steps(range(8)), 3.5, places=5)
    self.assertAlmostEqual(self._steps([1, 0, 0, 0, 0, 0, 0, 0]), 1 / 14, places=6)
    self.assertAlmostEqual(self._steps([0, 0, 0, 1, 0, 0, 0, 0]), 1 / 7, places=6)

  def test_average_space_takes_clips_whose_size_the_graph_does_not_know(self):
    model = inception.InceptionI3d(5, width_multiplier=0.05, average_space=True)
    model.build(3)
    apply = lambda clip: {name: model(clip)[1][name] for name in ("PooledFeatures", "Logits")}
    unknown = _function(apply, input_signature=[tf.TensorSpec([None, None, None, None, 3], tf.float32)])
    for frames, height, width in ((9, 32, 224), (17, 64, 250), (10, 300, 64)):
      clip = tf.random.stateless_uniform([1, frames, height, width, 3], [0, frames], -1, 1)
      expected, actual = apply(clip), unknown(clip)
      for name, value in expected.items():
        self.assertLess(testing.relative_error(actual[name], value), 1e-5, name)

  def test_average_space_equals_squeezing_where_both_apply_and_takes_other_sides(self):
    squeezing = inception.InceptionI3d(5, width_multiplier=0.05)
    averaging = inception.InceptionI3d(5, width_multiplier=0.05, average_space=True)
    for model in (squeezing, averaging):
      model.build(3)
      for name, variable in release.named_variables(model).items():
        variable.assign(testing.golden_values(name, variable.shape.as_list()))
    clip = tf.random.stateless_uniform([1, 9, 224, 224, 3], [0, 0], -1, 1)
    np.testing.assert_allclose(averaging(clip)[0], squeezing(clip)[0], rtol=1e-5)
    for side in (64, 250):
      output, endpoints = averaging(clip[:, :, :side, :side])
      self.assertEqual(tuple(output.shape), (1, 5))
      self.assertEqual(tuple(endpoints["StepLogits"].shape), (1, 1, 5))

  def test_dropout_keeps_the_mean_and_acts_on_the_features_only(self):
    tf.random.set_seed(0)
    model = inception.InceptionI3d(5, width_multiplier=0.05, average_space=True)
    clip = tf.random.stateless_uniform([1, 9, 32, 32, 3], [0, 0], -1, 1)
    model.build(3)
    features, expected = self._classified(model, clip, dropout_keep_prob=0.5), 2 * self._classified(model, clip)
    gone = (features == 0) & (expected > 0)
    np.testing.assert_allclose(features[~gone], expected[~gone], rtol=1e-5)
    self.assertBetween(gone.sum() / (expected > 0).sum(), 0.2, 0.8)

  def _classified(self, model, clip, **arguments):
    """What the classifier is given, `[B, T' - 1, C]`: pooled features, of which some may have been dropped."""
    with mock.patch.object(model, "_classifier", wraps=model._classifier) as spied:
      model(clip, **arguments)
    return spied.call_args.args[0].numpy()[:, :, 0, 0]

  def _dropped(self, model, clip, **arguments):
    """Where a network whose pooled features are all positive has dropped them, `[B, T' - 1, C]`."""
    model.build(3)
    variables = release.named_variables(model)
    for name, variable in variables.items():
      if name.startswith("Mixed_5c") and name.endswith("beta"):
        variable.assign(tf.fill(variable.shape, 100.0))
    return self._classified(model, clip, dropout_keep_prob=0.5, **arguments) == 0

  def test_the_dropout_of_a_clip_is_a_function_of_its_seed(self):
    model = inception.InceptionI3d(5, width_multiplier=0.1, average_space=True)
    clips = tf.random.stateless_uniform([3, 32, 32, 32, 3], [0, 0], -1, 1)
    seeds = tf.constant([[1, 2], [1, 3], [1, 2]])
    together = self._dropped(model, clips, dropout_seeds=seeds)
    self.assertBetween(together.mean(), 0.4, 0.6)
    np.testing.assert_array_equal(together[0], together[2])
    self.assertTrue((together[0] != together[1]).any())
    self.assertTrue((together[0, 0] != together[0, 1]).any())
    for index in range(3):
      alone = self._dropped(model, clips[index : index + 1], dropout_seeds=seeds[index : index + 1])
      np.testing.assert_array_equal(alone[0], together[index])

  @parameterized.parameters(([[1, 2], [1, 3]],), (None,))
  def test_spatial_dropout_drops_whole_channels(self, seeds):
    tf.random.set_seed(0)
    model = inception.InceptionI3d(5, width_multiplier=0.1, average_space=True, spatial_dropout=True)
    clips = tf.random.stateless_uniform([2, 32, 32, 32, 3], [0, 0], -1, 1)
    dropped = self._dropped(model, clips, dropout_seeds=seeds)
    self.assertEqual(dropped.shape[1], 3)
    np.testing.assert_array_equal(dropped, np.repeat(dropped[:, :1], 3, axis=1))
    self.assertTrue((dropped[0] != dropped[1]).any())
    self.assertBetween(dropped.mean(), 0.35, 0.65)


class ReceptiveFieldTest(absltest.TestCase):
  def test_one_step_of_mixed_5c_sees_99_frames(self):
    model = inception.InceptionI3d(final_endpoint="Mixed_5c", width_multiplier=0.05)
    clip = tf.random.stateless_uniform([1, 112, 16, 16, 3], [0, 0], -1, 1)
    with tf.GradientTape() as tape:
      tape.watch(clip)
      output = tf.reduce_sum(model(clip)[0][:, 7])
    seen = np.flatnonzero(np.abs(tape.gradient(output, clip)).sum((0, 2, 3, 4)))
    self.assertBetween(seen[0], 1, seen[-1])  # not cut by the clip's ends
    self.assertLess(seen[-1], 111)
    self.assertLessEqual(seen[-1] - seen[0] + 1, 99)
    self.assertGreater(seen[-1] - seen[0] + 1, 83)  # the field of Mixed_5b


_CLIPS = tf.random.stateless_uniform([2, 9, 32, 32, 3], [0, 3], -1, 1)


def _filled(rows=_FEW_ROWS, **arguments):
  with mock.patch.object(spec, "ROWS", rows):
    model = inception.InceptionI3d(5, width_multiplier=0.05, average_space=True, **arguments)
    model.build(3)
  _fill(model)
  return model


def _fill(model):
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, variable.shape.as_list()))


def _step(model):
  """A traced step that returns logits and gradients by name, and its graph's numbers of operations by type."""

  def step():
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(model.trained_variables)
      logits, _ = model(_CLIPS, is_training=True, dropout_keep_prob=0.5, dropout_seeds=[[1, 2], [3, 4]])
      loss = tf.reduce_sum(logits[:, 0])
    return logits, tape.gradient(loss, {variable.name: variable for variable in model.trained_variables})

  function = _function(step).get_concrete_function()
  return function, collections.Counter(operation.type for operation in function.graph.get_operations())


@functools.cache
def _traced(recompute):
  """A model with its step and operations, for several tests, which find it with the values of the goldens."""
  model = _filled(recompute=recompute)
  return model, *_step(model)


class TrainingTest(parameterized.TestCase):
  """Options of the training mode, on small networks."""

  def _traced(self, recompute):
    model, step, operations = _traced(recompute)
    self.addCleanup(lambda: (_fill(model), model.freeze(None)))
    return model, step, operations

  def test_recomputation_changes_nothing_but_the_work(self):
    plain, plain_step, plain_operations = self._traced(False)
    recomputing, step, operations = self._traced(True)
    # Once for the output, again for its gradient, and for the endpoints, which are not asked for and so left out.
    self.assertEqual((plain_operations["Conv3D"], operations["Conv3D"]), (22, 22 + 21 + 21))
    self.assertEqual(operations["Conv3DBackpropFilterV2"], plain_operations["Conv3DBackpropFilterV2"])
    (logits, gradients), (expected, expected_gradients) = step(), plain_step()
    np.testing.assert_array_equal(logits, expected)
    self.assertLen(gradients, 44)
    for name, gradient in gradients.items():
      self.assertLess(testing.relative_error(gradient, expected_gradients[name].numpy()), 1e-5, name)
    moved = release.named_variables(plain)
    for name, variable in release.named_variables(recomputing).items():
      np.testing.assert_array_equal(variable, moved[name], name)
      if not testing.is_trained(name):
        self.assertFalse(np.array_equal(variable, testing.golden_values(name, variable.shape.as_list())), name)

  # With recomputation the gradient of the lowest pool is traced, too, but left out when the graph is run.
  @parameterized.parameters((False, 1), (True, 2))
  def test_a_frozen_trunk_costs_no_gradient(self, recompute, num_pools):
    model, _, whole = self._traced(recompute)
    model.freeze("Conv3d|Mixed_[34]")
    self.assertLen(model.trained_variables, 26)
    step, operations = _step(model)
    self.assertEqual((whole["Conv3DBackpropFilterV2"], operations["Conv3DBackpropFilterV2"]), (22, 13))
    self.assertEqual(operations["MaxPool3DGrad"], num_pools)
    _, gradients = step()
    self.assertLen(gradients, 26)
    for name, variable in release.named_variables(model).items():
      golden = testing.golden_values(name, variable.shape.as_list())
      moved = not testing.is_trained(name) and name.startswith("Mixed_5")
      self.assertEqual(not np.array_equal(variable, golden), moved, name)

  def test_freezing_by_name(self):
    model = _filled(spec.ROWS)
    released = lambda: {v.name.removeprefix("inception_i3d/")[:-2] for v in model.trained_variables}
    everything = released()
    self.assertLen(everything, 116)
    model.freeze("Logits/Conv3d_0c_1x1")
    self.assertEqual(everything - released(), {"Logits/Conv3d_0c_1x1/conv_3d/w", "Logits/Conv3d_0c_1x1/conv_3d/b"})
    model.freeze("Mixed_4b/Branch_0/Conv3d_0a_1x1")
    unit = "Mixed_4b/Branch_0/Conv3d_0a_1x1/"
    self.assertEqual(everything - released(), {unit + "conv_3d/w", unit + "batch_norm/beta"})
    model.freeze(".*")
    self.assertEmpty(released())
    np.testing.assert_array_equal(model(_CLIPS, is_training=True)[0], model(_CLIPS)[0])
    model.freeze(None)
    self.assertEqual(released(), everything)

  @parameterized.parameters(
    ("Branch_0", "'Branch_0' matches the beginning of no unit's name; names are Conv3d_1a_7x7, Conv3d_2b_1x1, "),
    ("Mixed_(", r"'Mixed_\(' is not a regular expression"),
  )
  def test_freezing_nothing_is_an_error(self, pattern, message):
    model = _filled(spec.ROWS)
    model.freeze("Conv3d")
    with self.assertRaisesRegex(ValueError, message):
      model.freeze(pattern)
    self.assertLen(model.trained_variables, 116 - 6)

  @parameterized.parameters(("bfloat16", 0.1), ("float16", 0.02))
  def test_other_types_compute_about_the_same(self, dtype, tolerance):
    if dtype == "float16" and not tf.config.list_physical_devices("GPU"):
      self.skipTest("TensorFlow has no 3D max pool of float16 for CPUs")
    exact, model = self._traced(False)[0], _filled(compute_dtype=dtype)
    logits, endpoints = model(_CLIPS)
    self.assertEqual(endpoints["Mixed_5c"].dtype.name, dtype)
    self.assertEqual({v.dtype.name for v in model.variables} | {logits.dtype.name}, {"float32"})
    self.assertLess(testing.relative_error(logits, exact(_CLIPS)[0].numpy()), tolerance)
    self.assertGreater(testing.relative_error(logits, exact(_CLIPS)[0].numpy()), 1e-5)
    _, gradients = _step(model)[0]()
    self.assertLen(gradients, 44)
    self.assertEqual({gradient.dtype.name for gradient in gradients.values()}, {"float32"})
    for name, gradient in gradients.items():
      self.assertTrue(np.isfinite(gradient).all(), name)


if __name__ == "__main__":
  absltest.main()
