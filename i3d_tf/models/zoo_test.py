"""The table is true of the networks: counts, goldens, and that recipes and sources are there."""

import dataclasses
import importlib
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.evaluation import experiment_tables
from i3d_tf.models import base
from i3d_tf.models import convnet_lstm
from i3d_tf.models import inception
from i3d_tf.models import inception_spec
from i3d_tf.models import receptive_field
from i3d_tf.models import zoo
from i3d_tf.weights import release
from i3d_tf.weights import saved

_EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
_ALL = [(name, stream) for name in zoo.NAMES for stream in zoo.get(name).streams]
_BY_ARITHMETIC = ("x3d_s", "x3d_m", "x3d_l", "video_swin_s", "video_swin_b", "swin_s", "swin_b")
# Regression values of this project's own, which notice a change and prove nothing: the first three logits and the norm
# of all ten of a small network (`small_info`) with the weights of `testing.golden_values` and the clip of
# `test_golden_output_and_first_kernels`. Values of foreign origin are in inception_test (the 2017 network) and in the
# tests of PyTorch's files.
_REGRESSION_VALUES = {
  ("i3d", "rgb"): (-0.637971, -3.32874, 3.60247, 7.57708),
  ("i3d", "flow"): (-0.740431, -3.52998, 3.84925, 8.10847),
  ("convnet_lstm", "rgb"): (0.0652502, -0.0141073, -0.0384109, 0.337051),
  ("convnet_lstm", "flow"): (0.065021, -0.0120688, -0.0369348, 0.342146),
  ("c3d", "rgb"): (-0.760841, -1.70098, -1.06081, 2.71705),
  ("c3d", "flow"): (-0.835485, -1.84974, -1.11934, 2.89774),
  ("two_stream", "rgb"): (0.711489, 1.12853, 1.08803, 2.42142),
  ("two_stream", "flow"): (-3.13866, 1.57968, -6.73523, 9.05806),
  ("two_stream", "joint"): (-1.20166, 1.27078, -2.83963, 4.3529),
  ("fused_two_stream", "rgb"): (-0.173269, -0.156036, -0.235904, 0.803488),
  ("fused_two_stream", "flow"): (0.284193, -0.0998615, -0.461872, 1.68664),
  ("fused_two_stream", "joint"): (-0.326884, -0.234483, 0.143635, 1.14099),
  ("inception_v1", "rgb"): (1.57618, -1.23454, -0.593235, 3.29196),
  ("inception_v1", "flow"): (1.85845, -1.33653, -0.65966, 3.76277),
  ("i2d", "rgb"): (-1.00727, 0.231842, -0.494982, 4.57437),
  ("i2d", "flow"): (-0.990222, 0.304895, -0.474837, 4.04279),
  ("i3d_bottom_heavy", "rgb"): (-1.67209, -0.905292, -0.0383718, 2.58525),
  ("i3d_bottom_heavy", "flow"): (-1.85931, -0.910817, -0.108917, 2.83215),
  ("i3d_top_heavy", "rgb"): (-1.2938, -0.159664, -1.55951, 5.56125),
  ("i3d_top_heavy", "flow"): (-0.978085, -0.274854, -1.53138, 6.07322),
  ("s3d", "rgb"): (6.40636, -0.144815, -4.00744, 17.4899),
  ("s3d", "flow"): (5.92106, -0.0418166, -3.89174, 16.2712),
  ("s3d_g", "rgb"): (0.00298575, -0.0238032, -0.087571, 0.308348),
  ("s3d_g", "flow"): (0.0029716, -0.0238042, -0.087662, 0.308359),
  ("fast_s3d", "rgb"): (-3.0971, 1.24651, -1.86012, 10.773),
  ("fast_s3d", "flow"): (-3.02223, 1.10342, -2.01196, 10.2333),
  ("s3d_torchvision", "rgb"): (2.30664, -28.1821, 21.7388, 52.604),
  ("s3d_kylemin", "rgb"): (2.67734, 6.09513, 13.0459, 21.8565),
  ("s3d_g_torchvision", "rgb"): (-0.165726, 0.0486066, -0.0916929, 0.245559),
  ("x3d_xs", "rgb"): (237.472, -393.676, -46.1622, 639.166),
  ("x3d_s", "rgb"): (-201.789, -746.478, 460.039, 1739.45),
  ("x3d_m", "rgb"): (-65.4019, 862.163, -1472.12, 2290.02),
  ("x3d_l", "rgb"): (-22269.5, -36938.8, 18376.5, 74638.9),
  ("r3d_18", "rgb"): (12.5858, 5.77627, -13.5825, 38.2587),
  ("mc3_18", "rgb"): (10.552, -14.9911, 48.7952, 87.4719),
  ("rmc3_18", "rgb"): (6.56722, 14.1777, -1.56222, 37.3168),
  ("r2plus1d_18", "rgb"): (15.5211, -2.16535, -52.3009, 78.0004),
  ("r2plus1d_34", "rgb"): (-48.2429, -8.30766, 60.5701, 161.588),
  ("r2plus1d_34", "flow"): (-19.5815, -3.05006, 14.7367, 65.7371),
  ("i3d_r50", "rgb"): (-173.703, 317.033, 614.437, 1108.65),
  ("i3d_r50_non_local", "rgb"): (-42353.1, -18692.8, 22114.5, 147058),
  ("i3d_r50_32x2", "rgb"): (-37.6044, -905.214, 154.852, 1511.68),
  ("i3d_r50_caffe2", "rgb"): (-720.243, -425.975, 435.474, 2378.62),
  ("i3d_r50_caffe2_non_local", "rgb"): (-52936.1, 22693.8, -97641.6, 171016),
  ("c2d_r50", "rgb"): (-575.044, -1544.22, 1604.46, 4340.48),
  ("tsm_r50", "rgb"): (-1440.02, -2091.51, 572.451, 5004.37),
  ("resnet_50", "rgb"): (141.201, -97.9477, 995.679, 1406.99),
  ("video_swin_t", "rgb"): (-0.249498, -0.113812, -0.0562571, 0.388787),
  ("video_swin_s", "rgb"): (0.0132802, -0.296201, -0.122682, 0.683143),
  ("video_swin_b", "rgb"): (0.0603671, -0.130142, -0.34156, 0.67384),
  ("swin_t", "rgb"): (0.110163, 0.282311, -0.217112, 0.708202),
  ("swin_s", "rgb"): (0.100443, 0.112827, 0.0608213, 0.539882),
  ("swin_b", "rgb"): (-0.146492, 0.185115, -0.164055, 0.426518),
  ("bn_inception", "rgb"): (45.8782, -105.318, -92.9504, 291.525),
  ("tsn_bn_inception", "rgb"): (-171.3, 176.67, -35.4269, 855.438),
  ("tsn_bn_inception", "flow"): (-168.843, 169.703, -24.7801, 795.148),
  ("tsn_bn_inception_difference", "rgb"): (96.5606, -89.4997, -131.251, 267.287),
  ("tsn_r50", "rgb"): (-137.016, 2316.01, -659.868, 5616.85),
  ("tsn_r50", "flow"): (-40.8, 1162.26, -343.637, 2847.51),
  ("tsn_r50_difference", "rgb"): (-3712.29, 6074.26, -1177.28, 10595.5),
}


def _info(name: str, stream: str, **more) -> saved.ModelInfo:
  clip = dataclasses.asdict(zoo.preprocess(name, stream))
  return saved.make_info(**{"model": name, "stream": stream, "num_classes": 400, **clip, **more})


def small_info(name: str, stream: str) -> saved.ModelInfo:
  """A network of a tenth of the width, for small clips."""
  num_frames = min(16, zoo.get(name).training["num_frames"])
  num_frames = {"convnet_lstm": 4, "fused_two_stream": 2}.get(name, num_frames)
  num_frames = 12 if name.endswith("_difference") else num_frames
  average = {"average_space": True} if "average_space" in zoo.get(name).options else {}
  return _info(name, stream, num_classes=10, num_frames=num_frames, crop=32, width_multiplier=0.1, **average)


def _specs(info: saved.ModelInfo, batch: int = 1):
  channels = info.in_channels if isinstance(info.in_channels, dict) else {info.stream: info.in_channels}
  shape = [batch, info.preprocess.num_frames, info.preprocess.crop, info.preprocess.crop]
  return base.clip_of({stream: tf.TensorSpec([*shape, count]) for stream, count in channels.items()}, info.streams)


def _num_trained(model: base.Network) -> int:
  return sum(variable.shape.num_elements() for variable in model.trainable_variables)


def _counts(architecture: inception_spec.Architecture, info: saved.ModelInfo) -> tuple[int, int]:
  """Trained values, and multiply-adds of a clip."""
  sizes = {"in_channels": info.in_channels, "num_classes": info.num_classes, "width_multiplier": info.width_multiplier}
  shapes = inception_spec.variable_shapes(architecture, **sizes)
  return testing.num_trained(shapes), inception_spec.multiply_adds(
    (info.preprocess.num_frames, info.preprocess.crop, info.preprocess.crop), architecture, **sizes
  )


def _shapes(model: base.Network) -> dict[str, tuple[int, ...]]:
  return {each: tuple(variable.shape) for each, variable in release.named_variables(model).items()}


def _filled(name: str, stream: str) -> tuple[base.Network, saved.ModelInfo]:
  """A small network with values by the rule of the goldens."""
  info = small_info(name, stream)
  model = saved.make_model(info)
  for each, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(f"{name}/{each}", variable.shape.as_list()))
  return model, info


class ZooTest(parameterized.TestCase):
  @parameterized.parameters(*zoo.FAMILIES)
  def test_the_table_has_the_networks_of_each_family_s_module(self, family):
    self.assertEqual(set(importlib.import_module(family).MODELS), set(zoo.FAMILIES[family]))

  def test_list_models(self):
    self.assertEqual(zoo.list_models(), list(zoo.NAMES))
    self.assertEqual(zoo.list_models("x3d_?"), ["x3d_s", "x3d_m", "x3d_l"])
    self.assertEqual(zoo.list_models("*two_stream"), ["two_stream", "fused_two_stream"])
    self.assertEqual(zoo.list_models("vit*"), [])

  @parameterized.parameters(
    ("i3d", "flow", {}, 2), ("c3d", "flow", {"crop": 64}, 2), ("two_stream", "flow", {}, 20),
    ("two_stream", "joint", {}, {"rgb": 3, "flow": 20}), ("x3d_xs", "rgb", {}, 3),
  )  # fmt: skip
  def test_create_model(self, name, stream, options, channels):
    model = zoo.create_model(name, num_classes=7, stream=stream, width_multiplier=0.05, **options)
    self.assertIsInstance(model, zoo.get(name).constructor)
    self.assertEqual((model.num_classes, model.in_channels), (7, channels))
    own = {**zoo.training_clips(name, stream), **options}
    info = _info(name, stream, num_classes=7, width_multiplier=0.05, num_frames=own["num_frames"], crop=own["crop"])
    same = saved.make_model(info)
    shapes = lambda network: {each: value.shape for each, value in release.named_variables(network).items()}
    self.assertEqual(shapes(model), shapes(same))
    model.check(_specs(info))

  # Of the larger X3D, which are x3d_xs deeper or on other clips, x3d_spec_test has both by arithmetic on their stages,
  # and of the larger Swin transformers swin_test.
  @parameterized.parameters(*(each for each in _ALL if each[0] not in _BY_ARITHMETIC))
  def test_parameters_and_multiply_adds(self, name, stream):
    info = _info(name, stream)
    if isinstance(zoo.get(name).arguments.get("architecture"), inception_spec.Architecture):
      # Of its rows, which takes no time; that networks are what their rows say is tested for small ones.
      parameters, counted = _counts(zoo.get(name).arguments["architecture"], info)
      self.assertEqual(parameters, zoo.get(name).parameters[stream])
      self.assertAlmostEqual(counted / 1e9, zoo.get(name).giga_multiply_adds[stream], delta=0.005)
      return
    options = {key: info.get(key) for key in zoo.get(name).options}
    model = zoo.get(name).make(info.num_classes, **options)
    is_lstm = name == "convnet_lstm"  # a loop, except in training
    with tf.Graph().as_default():  # where variables take neither time nor memory
      model.build(info.in_channels)
      self.assertEqual(_num_trained(model), zoo.get(name).parameters[stream])
      counted = base.multiply_adds(lambda clip: model(clip, is_training=is_lstm)[0], _specs(info))
    self.assertAlmostEqual(counted / 1e9, zoo.get(name).giga_multiply_adds[stream], delta=0.005)

  def test_parameters_are_those_of_the_paper_s_choices(self):
    streams = zoo.get("i3d").parameters
    self.assertEqual(streams["rgb"] + streams["flow"], 25_358_016)
    self.assertEqual(zoo.get("c3d").parameters["rgb"], 79_634_576)
    self.assertEqual(zoo.get("two_stream").parameters["joint"], 12_058_560)
    self.assertEqual(zoo.get("fused_two_stream").parameters["joint"], 39_755_824)
    plain = convnet_lstm.ConvNetLstm(400, recurrent_batch_norm=False)
    with tf.Graph().as_default():
      plain.build(3)
    self.assertEqual(_num_trained(plain), 8_945_600)
    # Gains of both sums (4 x 512 each), and gain and offset of the cell.
    self.assertEqual(zoo.get("convnet_lstm").parameters["rgb"], 8_945_600 + 2 * 2048 + 2 * 512)

  def test_inception_v1_s_trunk(self):
    model = inception.InceptionV1(final_endpoint="Mixed_5c")
    with tf.Graph().as_default():
      model.build(3)
    self.assertEqual(sum(variable.shape.num_elements() for variable in model.variables), 5_607_184)
    self.assertEqual(_num_trained(model), 5_592_624)
    self.assertLen(model.variables, 228)
    whole = inception.InceptionV1(1001)
    with tf.Graph().as_default():
      whole.build(3)
    self.assertEqual(_num_trained(whole), 6_618_649)

  def test_multiply_adds_are_those_of_the_specification(self):
    architectures = {"i3d": inception_spec.I3D, "inception_v1": inception_spec.INCEPTION_V1}
    for name, architecture in architectures.items():
      frames = zoo.get(name).training["num_frames"]
      counted = inception_spec.multiply_adds((frames, 224, 224), architecture) / 1e9
      self.assertAlmostEqual(counted, zoo.get(name).giga_multiply_adds["rgb"], delta=0.005)

  @parameterized.parameters(*_ALL)
  def test_golden_output_and_first_kernels(self, name, stream):
    model, info = _filled(name, stream)
    shapes = _shapes(model)
    self._check_first_kernels(info, shapes)
    if isinstance(model, inception.Inception):
      sizes = {"in_channels": info.in_channels, "num_classes": 10, "width_multiplier": info.width_multiplier}
      self.assertEqual(shapes, inception_spec.variable_shapes(model.architecture, **sizes))
    rng = np.random.default_rng(5)
    specs = _specs(info, batch=2)
    clip = tf.nest.map_structure(lambda spec: rng.uniform(-1, 1, spec.shape).astype(np.float32), specs)
    logits, endpoints = model(clip)
    np.testing.assert_array_equal(logits, endpoints["Logits"])
    self._check_endpoints(model, clip, endpoints)
    logits = logits.numpy()
    self.assertEqual(logits.shape, (2, 10))
    self.assertGreater(np.abs(logits[0] - logits[1]).max(), 1e-4)
    found = [*logits[1, :3].tolist(), float(np.linalg.norm(logits[1]))]
    np.testing.assert_allclose(found, _REGRESSION_VALUES[name, stream], rtol=1e-3, atol=1e-4)

  def _check_first_kernels(self, info, shapes):
    """They are those that see the clip, and so grow with its channels."""
    entry = zoo.get(info.model)
    options = {key: info.get(key) for key in entry.options}
    model = entry.make(10, width_multiplier=info.width_multiplier, **options)
    model.build(tf.nest.map_structure(lambda channels: channels + 1, info.in_channels))
    others = _shapes(model)
    grown = {each for each, shape in shapes.items() if others[each] != shape}
    self.assertEqual(grown, set(entry.first_kernels) & set(shapes))
    for each in grown:
      per_channel = 5 if info.model.endswith("_difference") else 1
      self.assertEqual(others[each][-2], shapes[each][-2] + per_channel)

  def _check_endpoints(self, model, clip, endpoints):
    """What classify, extract_features and visualize ask of every network."""
    self.assertEqual(tuple(endpoints), model.endpoint_names)
    pooled = endpoints["PooledFeatures"]
    self.assertEqual(pooled.dtype, tf.float32)
    self.assertIn(pooled.shape.rank, (2, 3))
    self.assertEqual(pooled.shape[0], 2)
    if "StepLogits" in endpoints:
      self.assertEqual(endpoints["StepLogits"].shape[:2], pooled.shape[:2])
      self.assertEqual(endpoints["StepLogits"].shape[2], 10)
    frames = (clip["rgb"] if isinstance(clip, dict) else clip).shape[1]
    for name, value in endpoints.items():
      try:
        layers = model.time_layers(name)
      except errors.I3dError as error:
        self.assertRegex(str(error), f"^{name.split('/')[-1]} cannot be computed in chunks[:;] ")
      else:
        self.assertEqual(value.shape[1], receptive_field.num_steps(layers, frames), name)

  @parameterized.parameters(*zoo.NAMES)
  def test_every_network_has_golden_recipe_and_source(self, name):
    entry = zoo.get(name)
    for stream in entry.streams:
      self.assertIn((name, stream), _REGRESSION_VALUES)
    recipes = [experiment_tables.recipe_flags(path) for path in _EXPERIMENTS.glob("*/*.flags")]
    used = {stream: False for stream in entry.streams}
    for recipe in recipes:
      models = [flag.partition("=")[2] for flag in recipe if flag.startswith("--model=")] or ["i3d"]
      streams = [flag.partition("=")[2] for flag in recipe if flag.startswith("--stream=")] or ["rgb"]
      used |= {streams[0]: True} if models == [name] else {}
    self.assertTrue(entry.source)
    published = {stream for figures in entry.accuracies.values() for stream in figures}
    self.assertEqual({stream: used[stream] for stream in entry.streams if stream in published and not used[stream]}, {})

  @parameterized.parameters(
    ("i3d", "joint", "i3d takes rgb or flow; train its streams apart"),
    ("c3d", "joint", "c3d takes rgb or flow"),
    ("i3dd", "rgb", r"^model is 'i3dd'; did you mean i3d\? There are i3d, inception_v1, convnet_lstm, c3d, two_stream"),
    ("alexnet", "rgb", "^model is 'alexnet'; there are i3d, "),
  )
  def test_what_a_network_does_not_take(self, name, stream, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      zoo.check_stream(name, stream)

  @parameterized.parameters(
    ("i3d", "rgb", [1, 8, 224, 224, 3], "clip has 8 frames; Logits needs at least 9"),
    ("i3d", "rgb", [1, 9, 112, 112, 3], "clip has height 112; Logits needs 193 to 224, or average_space"),
    ("c3d", "rgb", [1, 15, 112, 112, 3], "15 frames of 112x112; this network takes 16 frames of 112x112"),
    ("c3d", "rgb", [1, 16, 112, 128, 3], "16 frames of 112x128; this network takes 16 frames of 112x112"),
    ("two_stream", "joint", [1, 1, 64, 64, 3], "got one clip; this network takes rgb and flow"),
    ("convnet_lstm", "rgb", {"rgb": [1, 5, 64, 64, 3], "flow": [1, 5, 64, 64, 2]}, "this network takes one stream"),
  )
  def test_clips_that_do_not_fit(self, name, stream, shape, message):
    spec = {each: tf.TensorSpec(of) for each, of in shape.items()} if isinstance(shape, dict) else tf.TensorSpec(shape)
    model = saved.make_model(_info(name, stream, num_classes=4, width_multiplier=0.05))
    with self.assertRaisesRegex(ValueError, message):
      model.check(spec)


if __name__ == "__main__":
  absltest.main()
