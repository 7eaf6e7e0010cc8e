"""Temporal segment networks: consensus, differences, partial batch norm, and the logits that PyTorch gave."""

import zlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import base
from i3d_tf.models import tsn
from i3d_tf.models import zoo
from i3d_tf.weights import pytorch
from i3d_tf.weights import release
from i3d_tf.weights import saved

# What Cadene/pretrained-models.pytorch (8aae3d8, bninception.py) and torchvision 0.29.1 gave for two frames with
# weights by `_value`: the first four logits and the norm of all, of the mean and of the maximum over the frames.
_LOGITS = {
  "mean": (0.125652, -0.38171, 1.465902, -0.881091, 36.85114),
  "max": (0.153555, -0.356075, 1.486827, -0.865923, 36.87565),
  "resnet_50": (0.458944, -7.42694, 7.888462, 6.582067, 90.23474),
}
_BN_INCEPTION_PARAMETERS = 11_295_240  # of that network, 1000 classes; its convolutions have biases before batch norm


def _value(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A value for a tensor of PyTorch's, by its name."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if len(shape) > 1:
    values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
  elif name.endswith(("weight", "running_var")):
    values = rng.uniform(0.3, 0.7, shape)
  else:
    values = rng.standard_normal(shape) * 0.1
  return values.astype(np.float32)


def _state_dict(num_classes: int) -> dict[str, np.ndarray]:
  """The state dict of Cadene's BN-Inception."""
  with tf.Graph().as_default():
    network = tsn.BnInception(num_classes)
    network.build(3)
  arrays = {}
  for name, variable in release.named_variables(network).items():
    theirs, shape = pytorch.bn_inception_name(name), tuple(variable.shape)
    if name.endswith("/w"):
      shape = (shape[4], shape[3]) if name.startswith("Logits") else (shape[4], shape[3], *shape[1:3])
      bias = theirs.replace(".weight", ".bias")
      arrays[bias] = _value(bias, shape[:1])
    arrays[theirs] = _value(theirs, shape)
  return arrays


def _clip(*shape: int) -> np.ndarray:
  return np.random.default_rng(5).uniform(-1, 1, shape).astype(np.float32)


def _small(name: str, channels: int, **options) -> base.Network:
  tf.random.set_seed(3)
  model = zoo.get(name).make(3, width_multiplier=0.05, **options)
  model.build(channels)
  return model


class TsnTest(parameterized.TestCase):
  def test_logits_of_bn_inception_are_pytorch_s(self):
    arrays = _state_dict(1000)
    trained = [array.size for name, array in arrays.items() if "running" not in name]
    self.assertEqual(sum(trained), _BN_INCEPTION_PARAMETERS)
    model, values = saved.from_state_dict({f"module.{name}": array for name, array in arrays.items()}, "some.pth")
    self.assertEqual(model, "bn_inception")
    for top, expected in ((0, "mean"), (1, "max")):
      network = tsn.BnInception(1000, top_segments=top)
      network.build(3)
      release.assign(network, values, "some.pth")
      logits = network(_clip(1, 2, 64, 96, 3))[0][0].numpy()
      found = [*logits[:4].tolist(), float(np.linalg.norm(logits))]
      np.testing.assert_allclose(found, _LOGITS[expected], atol=1e-4)

  def test_logits_of_resnet_50_are_torchvision_s(self):
    network = zoo.get("tsn_r50").make(400)
    network.build(3)
    from i3d_tf.weights import pytorch_resnet

    layout = pytorch_resnet.RESNET_LAYOUTS["torchvision's networks of images"]
    theirs = pytorch_resnet._names(layout, "resnet_50")
    for name, variable in release.named_variables(network).items():
      shape = tuple(variable.shape)
      if name.endswith("/w"):
        flat = (shape[4], shape[3]) if name.startswith("Logits") else (shape[4], shape[3], *shape[1:3])
        value = _value(theirs[name], flat).reshape([shape[4], shape[3], *shape[:3]]).transpose(pytorch.FROM_TORCH)
      else:
        value = _value(theirs[name], shape)
      variable.assign(value)
    logits = network(_clip(1, 2, 64, 96, 3))[0][0].numpy()
    found = [*logits[:4].tolist(), float(np.linalg.norm(logits))]
    np.testing.assert_allclose(found, _LOGITS["resnet_50"], rtol=1e-4)

  def test_state_dicts_of_tsn_pytorch(self):
    arrays = {
      f"base_model.{name}" if not name.startswith("last") else name.replace("last_linear", "new_fc"): array
      for name, array in _state_dict(7).items()
    }
    first = "base_model.conv1_7x7_s2.weight"
    self.assertEqual(saved.from_state_dict(arrays, "x.pth")[0], "tsn_bn_inception")
    arrays[first] = np.repeat(arrays[first][:, :1], 10, axis=1) * np.arange(10, dtype=np.float32)[:, None, None]
    values = saved.from_state_dict(arrays, "x.pth")[1]
    kernel = values["conv1_7x7_s2/conv_3d/w"]
    np.testing.assert_array_equal(kernel[0, :, :, 3], np.moveaxis(arrays[first][:, 3], 0, -1))
    del arrays["base_model.inception_4e_3x3_bn.bias"]
    with self.assertRaisesRegex(
      errors.CheckpointError, "x.pth is not of tsn_bn_inception: 1 missing: inception_4e_3x3"
    ):
      saved.from_state_dict(arrays, "x.pth")

  @parameterized.parameters((0, [3, 4]), (1, [5, 9]), (2, [4, 5]), (5, [3, 4]))
  def test_consensus(self, top, expected):
    scores = tf.constant([[[5.0, 1.0], [1.0, 9.0], [3.0, 1.0], [3.0, 5.0]]])
    if top == 2:
      expected = [4, 7]
    np.testing.assert_array_equal(tsn.consensus(scores, top)[0], expected)

  def test_differences_are_those_within_a_snippet(self):
    frames = tf.reshape(tf.constant([0.0, 1, 3, 10, 14, 19, 7]), [1, 7, 1, 1, 1]) * tf.constant([1.0, 2])
    unit = tsn.Differences(3, name="differences")
    self.assertEqual(unit.build(2), 4)
    found = unit(frames)
    np.testing.assert_array_equal(tf.reshape(found, [2, 4]), [[1, 2, 2, 4], [4, 8, 5, 10]])
    open_length = tf.function(unit.__call__, input_signature=[tf.TensorSpec([None, None, 1, 1, 2])])
    np.testing.assert_array_equal(open_length(frames), found)

  def test_a_still_video_has_no_differences(self):
    model = _small("tsn_bn_inception_difference", 3)
    frame = _clip(1, 1, 32, 32, 3)
    still = model(np.repeat(frame, 12, axis=1))[1]
    np.testing.assert_array_equal(still["differences"], np.zeros([1, 2, 32, 32, 15]))
    self.assertEqual(still["PooledFeatures"].shape[:2], (1, 2))
    with self.assertRaisesRegex(ValueError, "clip has 5 frames; the differences need 6"):
      model(frame[:, [0] * 5])

  def test_partial_batch_norm(self):
    model = _small("tsn_bn_inception", 10)
    model.freeze("(?!conv1).*batch_norm")
    trained = {variable.name for variable in model.trained_variables}
    norms = sorted(name for name in trained if "batch_norm" in name)
    self.assertEqual([name.split("/")[1] for name in norms], ["conv1_7x7_s2", "conv1_7x7_s2"])
    self.assertLen(trained, len(model.trainable_variables) - 2 * 68)
    before = {name: each.numpy() for name, each in release.named_variables(model).items() if "moving" in name}
    model(_clip(2, 3, 32, 32, 10), is_training=True)
    after = release.named_variables(model)
    moved = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    self.assertEqual(moved, {f"conv1_7x7_s2/batch_norm/moving_{what}" for what in ("mean", "variance")})
    model.freeze(None)
    self.assertLen(model.trained_variables, len(model.trainable_variables))

  @parameterized.parameters(("flow", "tsn_bn_inception", 10), ("rgb", "tsn_bn_inception_difference", 15))
  def test_cross_modality_start(self, stream, name, channels):
    folder = self.create_tempdir().full_path
    small = {"num_classes": 3, "width_multiplier": 0.05, "short_side": 32, "crop": 32}
    images = saved.make_info(model="bn_inception", stream="rgb", num_frames=1, **small)
    source = saved.make_model(images)
    saved.save(folder, source, images)
    info = saved.make_info(model=name, stream=stream, num_frames=6, **small, **(
      {"flow_stack": 5} if stream == "flow" else {}))  # fmt: skip
    from i3d_tf.weights import initialization

    model = saved.make_model(info)
    notes = initialization.initialize(model, info, folder)
    self.assertIn("the mean of", notes[-1])
    kernel = release.named_variables(model)["conv1_7x7_s2/conv_3d/w"].numpy()
    mean = release.named_variables(source)["conv1_7x7_s2/conv_3d/w"].numpy().mean(3, keepdims=True)
    np.testing.assert_allclose(kernel, np.repeat(mean, channels, axis=3), atol=1e-7)


if __name__ == "__main__":
  absltest.main()
