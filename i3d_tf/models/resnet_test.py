"""The residual networks against their tables, and what holds exactly of their parts."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import resnet
from i3d_tf.models import resnet_spec as spec
from i3d_tf.models import units
from i3d_tf.weights import release

_SMALL = {"width_multiplier": 0.1}


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _fill(module) -> None:
  for name, variable in release.named_variables(module).items():
    variable.assign(testing.golden_values(name, variable.shape.as_list()))


def _made(architecture: str, **options) -> resnet.ResNet:
  model = resnet.ResNet(5, architecture=architecture, **_SMALL, **options)
  model.build(3)
  _fill(model)
  return model


class ResNetTest(parameterized.TestCase):
  @parameterized.parameters(*spec.ARCHITECTURES)
  def test_variables_are_the_table_s(self, name):
    model = resnet.ResNet(5, architecture=name, **_SMALL)
    with tf.Graph().as_default():  # where variables take neither time nor memory
      model.build(2)
    shapes = {each: tuple(variable.shape) for each, variable in release.named_variables(model).items()}
    sizes = {"in_channels": 2, "num_classes": 5, **_SMALL}
    self.assertEqual(shapes, spec.variable_shapes(spec.ARCHITECTURES[name], **sizes))
    trained = sum(variable.shape.num_elements() for variable in model.trainable_variables)
    self.assertEqual(trained, testing.num_trained(spec.variable_shapes(spec.ARCHITECTURES[name], **sizes)))

  @parameterized.parameters(
    ("r3d_18", {"stem": (16, 56), "layer1_1": (16, 56), "layer2_1": (8, 28), "layer4_1": (2, 7)}),
    ("mc3_18", {"stem": (16, 56), "layer2_0": (16, 28), "layer4_1": (16, 7)}),
    ("rmc3_18", {"layer1_1": (16, 56), "layer2_0": (8, 28), "layer4_1": (2, 7)}),
    ("r2plus1d_34", {"layer1_2": (16, 56), "layer3_5": (4, 14), "layer4_2": (2, 7)}),
    ("i3d_r50", {"stem": (16, 56), "pool1": (16, 28), "layer1_2": (16, 28), "pool2": (8, 28), "layer4_2": (8, 4)}),
    ("i3d_r50_32x2", {"stem": (8, 56), "pool1": (4, 28), "pool2": (2, 28), "layer2_0": (2, 14), "layer4_2": (2, 4)}),
    ("i3d_r50_caffe2", {"stem": (8, 56), "pool1": (4, 27), "layer2_0": (2, 14), "layer4_2": (2, 4)}),
    ("tsm_r50", {"pool1": (16, 28), "layer4_2": (16, 4)}),
  )
  def test_steps_and_sizes(self, name, expected):
    model = resnet.ResNet(5, architecture=name, **_SMALL)
    with tf.Graph().as_default():
      _, endpoints = model(tf.zeros([1, 16, 112, 112, 3]))
    shapes = {each: tuple(endpoints[each].shape[1:3]) for each in expected}
    self.assertEqual(shapes, expected)
    self.assertEqual([row.name for row in spec.rows(model.architecture)], [each for each in model._trunk])

  def test_a_block_whose_last_scale_is_zero_passes_on_its_input(self):
    model = resnet.ResNet(5, architecture="i3d_r50", **_SMALL)
    _, endpoints = model(_noise(1, 4, 32, 32, 3))
    self.assertGreater(np.abs(endpoints["layer2_0"]).max(), 1e-3)
    np.testing.assert_array_equal(endpoints["layer2_3"], endpoints["layer2_0"])

  def test_every_variable_learns(self):
    self.enter_context(mock.patch.dict(spec.NUM_BLOCKS, {18: (2, 1)}))
    model = _made("r2plus1d_18", recompute=True)

    @functools.partial(tf.function, autograph=False)
    def gradients(clip):
      with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(clip, is_training=True)[0][:, 0] ** 2)
      return tape.gradient(loss, model.trainable_variables)

    found = gradients(_noise(2, 4, 32, 32, 3))
    names = [variable.name for variable, each in zip(model.trainable_variables, found) if not np.abs(each).max()]
    self.assertEmpty(names)

  def test_kernels_start_by_what_they_give(self):
    tf.random.set_seed(0)
    model = resnet.ResNet(5, architecture="r3d_18", width_multiplier=0.5)
    model.build(3)
    kernel = release.named_variables(model)["layer3_0/conv1/conv_3d/w"]
    self.assertEqual(kernel.shape, (3, 3, 3, 64, 128))
    self.assertAlmostEqual(float(tf.math.reduce_std(kernel)) / np.sqrt(2 / (27 * 128)), 1, delta=0.01)

  def test_unknown_architecture(self):
    with self.assertRaisesRegex(ValueError, "architecture is 'r3d_50'; allowed are r3d_18, mc3_18"):
      resnet.ResNet(architecture="r3d_50")


class NonLocalTest(parameterized.TestCase):
  @parameterized.parameters(*resnet.MODES)
  def test_zero_scale_changes_nothing_and_any_other_does(self, mode):
    block, clip = resnet.NonLocal(6, mode=mode, name="block"), tf.constant(_noise(2, 3, 4, 6, 6))
    block.build(6)
    np.testing.assert_array_equal(block(clip), clip)
    _fill(block)
    self.assertGreater(np.abs(block(clip) - clip).max(), 0.01)

  @parameterized.parameters(*resnet.MODES)
  def test_is_the_paper_s_sum(self, mode):
    block, clip = resnet.NonLocal(6, mode=mode, name="block"), _noise(2, 3, 4, 6, 6)
    block.build(6)
    _fill(block)
    values = release.named_variables(block)
    values = {name: value.numpy().astype(np.float64) for name, value in values.items()}
    embed = lambda name, x: x @ values[f"{name}/conv_3d/w"][0, 0, 0] + values[f"{name}/conv_3d/b"]
    pooled = clip.reshape(2, 3, 2, 2, 3, 2, 6).max((3, 5)).reshape(2, -1, 6)
    places = clip.reshape(2, -1, 6)
    if mode == "gaussian":
      products = places @ pooled.transpose(0, 2, 1)
    else:
      products = embed("theta", places) @ embed("phi", pooled).transpose(0, 2, 1)
    if mode == "softmax":
      products /= np.sqrt(3)
    weights = products / products.shape[-1] if mode == "dot_product" else np.exp(products)
    if mode != "dot_product":
      weights /= weights.sum(-1, keepdims=True)
    out = (weights @ embed("g", pooled)) @ values["out/conv_3d/w"][0, 0, 0]
    norm = {name: values[f"out/batch_norm/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    out = (out - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3) * norm["gamma"] + norm["beta"]
    np.testing.assert_allclose(block(tf.constant(clip)), clip + out.reshape(clip.shape), atol=1e-5)

  def test_network_with_zero_scales_equals_the_one_without(self):
    plain, with_blocks = _made("i3d_r50"), _made("i3d_r50_non_local")
    for name, variable in release.named_variables(with_blocks).items():
      if name.endswith("out/batch_norm/gamma") or name.endswith("out/batch_norm/beta"):
        variable.assign(tf.zeros_like(variable))
    clip = _noise(1, 4, 32, 32, 3)
    np.testing.assert_array_equal(with_blocks(clip)[0], plain(clip)[0])

  def test_every_variable_learns(self):
    block, clip = resnet.NonLocal(6, name="block"), tf.constant(_noise(2, 3, 4, 6, 6))
    block.build(6)
    _fill(block)
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(block(clip)[..., 0] ** 2)
    variables = block.trainable_variables
    pairs = zip(variables, tape.gradient(loss, variables))
    stuck = [variable.name for variable, gradient in pairs if np.abs(gradient).max() < 1e-5]
    # What is added to all products alike changes no softmax, and so no bias of phi's.
    self.assertEqual(stuck, ["block/phi/conv_3d/b:0"])

  def test_unknown_mode(self):
    with self.assertRaisesRegex(ValueError, "mode is 'mean'; allowed are softmax, gaussian, dot_product"):
      resnet.NonLocal(4, mode="mean", name="block")


class TemporalShiftTest(absltest.TestCase):
  def test_moves_the_channels_it_should(self):
    # The value is 100 times the step plus the channel.
    clip = np.zeros([1, 4, 2, 3, 19], np.float32) + 100 * np.arange(1, 5).reshape(1, 4, 1, 1, 1) + np.arange(19)
    moved = resnet.TemporalShift(8)(tf.constant(clip)).numpy()
    np.testing.assert_array_equal(moved[:, :-1, ..., :2], clip[:, 1:, ..., :2])
    np.testing.assert_array_equal(moved[:, 1:, ..., 2:4], clip[:, :-1, ..., 2:4])
    np.testing.assert_array_equal(moved[..., 4:], clip[..., 4:])
    self.assertEqual(np.abs(moved[:, -1, ..., :2]).max(), 0)
    self.assertEqual(np.abs(moved[:, 0, ..., 2:4]).max(), 0)

  def test_of_one_step_nothing_comes_from_elsewhere(self):
    clip = tf.constant(_noise(2, 1, 3, 3, 16))
    moved = resnet.TemporalShift(8)(clip)
    np.testing.assert_array_equal(moved[..., :4], np.zeros([2, 1, 3, 3, 4]))
    np.testing.assert_array_equal(moved[..., 4:], clip[..., 4:])

  def test_in_the_network_it_is_in_the_branch_only(self):
    shifted, flat = (_made(name)._trunk["layer2_1"] for name in ("tsm_r50", "resnet_50"))
    net = moved = tf.constant(_noise(1, 3, 4, 4, shifted._branch[-1].batch_norm.beta.shape[0]))
    for unit in (resnet.TemporalShift(8), *flat._branch):
      moved = unit(moved)
    np.testing.assert_array_equal(shifted(net), tf.nn.relu(net + moved))
    self.assertGreater(np.abs(shifted(net) - flat(net)).max(), 0.01)


class ResidualTest(absltest.TestCase):
  def test_widths_must_agree(self):
    block = resnet.Residual(lambda: ([units.Unit3D(4, (1, 1, 1), name="conv1")], None), name="block")
    with self.assertRaisesRegex(ValueError, "block: the branch has 4 channels, what it is added to 3"):
      block.build(3)


if __name__ == "__main__":
  absltest.main()
