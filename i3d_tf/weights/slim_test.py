"""TF-slim's checkpoints of Inception-v1: names, both file formats, strictness, and the network that they make."""

import os
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.models import inception
from i3d_tf.models import inception_spec
from i3d_tf.weights import release
from i3d_tf.weights import tensorflow1

# Written down from slim's inception_v1.py. Kernel size, channels in and out.
_STEM = {"Conv2d_1a_7x7": (7, 3, 64), "Conv2d_2b_1x1": (1, 64, 64), "Conv2d_2c_3x3": (3, 64, 192)}
# Channels in, and out of each convolution of the four branches.
_BLOCKS = {
  "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
  "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
  "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
  "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
  "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
  "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
  "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
  "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
  "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
_STATISTICS = ("beta", "moving_mean", "moving_variance")
_KERNEL = "InceptionV1/Conv2d_1a_7x7/weights"
_MEAN = "InceptionV1/Mixed_4d/Branch_2/Conv2d_0b_3x3/BatchNorm/moving_mean"


def _units() -> dict[str, tuple[int, int, int]]:
  units = dict(_STEM)
  for block, (inputs, b0, b1a, b1b, b2a, b2b, b3) in _BLOCKS.items():
    units[f"{block}/Branch_0/Conv2d_0a_1x1"] = 1, inputs, b0
    units[f"{block}/Branch_1/Conv2d_0a_1x1"] = 1, inputs, b1a
    units[f"{block}/Branch_1/Conv2d_0b_3x3"] = 3, b1a, b1b
    units[f"{block}/Branch_2/Conv2d_0a_1x1"] = 1, inputs, b2a
    units[f"{block}/Branch_2/Conv2d_{'0a' if block == 'Mixed_5b' else '0b'}_3x3"] = 3, b2a, b2b
    units[f"{block}/Branch_3/Conv2d_0b_1x1"] = 1, inputs, b3
  return units


def _pairs() -> dict[str, tuple[str, tuple[int, ...]]]:
  """Slim's name -> ours, and the shape in slim."""
  pairs = {}
  for unit, (side, inputs, outputs) in _units().items():
    pairs[f"InceptionV1/{unit}/weights"] = f"{unit}/conv_3d/w", (side, side, inputs, outputs)
    for name in _STATISTICS:
      pairs[f"InceptionV1/{unit}/BatchNorm/{name}"] = f"{unit}/batch_norm/{name}", (outputs,)
  head = "Logits/Conv2d_0c_1x1"
  pairs[f"InceptionV1/{head}/weights"] = f"{head}/conv_3d/w", (1, 1, 1024, 1001)
  pairs[f"InceptionV1/{head}/biases"] = f"{head}/conv_3d/b", (1001,)
  return pairs


def _random_arrays() -> dict[str, np.ndarray]:
  """Random variables under slim's names, by the goldens' rule for ours."""
  return {slim_name: testing.golden_values(name, shape) for slim_name, (name, shape) in _pairs().items()}


class FormatTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _check(self, values, arrays):
    pairs = _pairs()
    self.assertLen(pairs, 57 * 4 + 2)
    self.assertCountEqual(values, [name for name, _ in pairs.values()])
    for slim_name, (name, shape) in pairs.items():
      expected = arrays[slim_name].reshape([1, *shape] if name.endswith("/w") else shape)
      self.assertEqual(values[name].dtype, np.float32)
      np.testing.assert_array_equal(values[name], expected, name, strict=True)

  def test_the_single_file_of_old_is_read_to_the_last_bit(self):
    arrays = _random_arrays()
    path = self.folder / "inception_v1.ckpt"
    testing.write_old_checkpoint(path, arrays | {"global_step": np.array(4242, np.int64)})
    self.assertEqual(os.listdir(self.folder), ["inception_v1.ckpt"])
    for given in (path, self.folder):
      self.assertTrue(tensorflow1.is_slim(given))
      self._check(tensorflow1.read_slim(given), arrays)

  def test_the_present_format_is_read_by_any_of_its_names(self):
    arrays = _random_arrays()
    prefix = self.folder / "model.ckpt"
    tensorflow1.write(prefix, arrays)
    for given in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001", self.folder):
      self.assertTrue(tensorflow1.is_slim(given))
      self._check(tensorflow1.read_slim(given), arrays)

  def test_what_is_written_is_in_slim_s_names_and_read_back(self):
    arrays = _random_arrays()
    values = {name: arrays[slim_name] for slim_name, (name, _) in _pairs().items()}
    values = {name: value[np.newaxis] if name.endswith("/w") else value for name, value in values.items()}
    tensorflow1.write_slim(self.folder / "out", values)
    written = tensorflow1.read(os.fspath(self.folder / "out"))
    self.assertCountEqual(written, arrays)
    for name, array in arrays.items():
      np.testing.assert_array_equal(written[name], array, name, strict=True)
    self._check(tensorflow1.read_slim(self.folder / "out"), arrays)

  def test_a_network_of_ours_is_given_back_whole(self):
    model = inception.InceptionV1(num_classes=7, width_multiplier=0.05)
    model.build(2)
    values = {name: variable.numpy() for name, variable in release.named_variables(model).items()}
    tensorflow1.write_slim(self.folder / "out", values)
    self.assertEqual(tensorflow1.read(os.fspath(self.folder / "out"))[_KERNEL].shape, (7, 7, 2, 4))
    again = tensorflow1.read_slim(self.folder / "out", width_multiplier=0.05)
    self.assertCountEqual(again, values)
    for name, value in values.items():
      np.testing.assert_array_equal(again[name], value, name, strict=True)

  @parameterized.parameters("Conv2d", "Conv3d")
  def test_other_networks_are_not_written(self, prefix):
    shapes = inception_spec.variable_shapes(inception_spec.INCEPTION_V1, width_multiplier=0.05)
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    value = values.pop("Conv2d_2b_1x1/batch_norm/beta")
    values[f"{prefix}_2c_3x3/batch_norm/beta"] = value
    added = ", Conv3d_2c_3x3/batch_norm/beta" if prefix == "Conv3d" else ""
    with self.assertRaisesRegex(ValueError, f"missing or unknown are Conv2d_2b_1x1/batch_norm/beta{added}$"):
      tensorflow1.write_slim(self.folder / "out", values)
    self.assertEmpty(os.listdir(self.folder))


class StrictnessTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path) / "made.ckpt"
    self.arrays = {name: np.zeros(shape, np.float32) for name, (_, shape) in _pairs().items()}

  def _refused(self, pattern: str):
    tensorflow1.write(self.path, self.arrays)
    with self.assertRaisesRegex(errors.CheckpointError, pattern) as caught:
      tensorflow1.read_slim(self.path)
    self.assertNotIn("\n", str(caught.exception))

  def test_every_problem_is_listed(self):
    del self.arrays[_MEAN]
    del self.arrays["InceptionV1/Logits/Conv2d_0c_1x1/biases"]
    self.arrays["InceptionV1/Mixed_6a/weights"] = np.zeros(3, np.float32)
    self.arrays["InceptionV1/Conv2d_1a_7x7/biases"] = np.zeros(64, np.float32)
    self.arrays["InceptionV1/Conv2d_2b_1x1/weights"] = np.zeros([64, 64, 1, 1], np.float32)
    self._refused(
      rf"checkpoint {self.path} is not of slim's Inception-v1: "
      rf"2 missing: {_MEAN}, InceptionV1/Logits/Conv2d_0c_1x1/biases; "
      "2 unmatched: InceptionV1/Conv2d_1a_7x7/biases, InceptionV1/Mixed_6a/weights; "
      r"1 misshapen: InceptionV1/Conv2d_2b_1x1/weights float32 \(64, 64, 1, 1\) for \(1, 1, 64, 64\)$"
    )

  @parameterized.parameters(
    (_KERNEL, (7, 7, 3, 65), np.float32, r"float32 \(7, 7, 3, 65\) for \(7, 7, 3, 64\)"),
    (_KERNEL, (147, 64), np.float32, r"float32 \(147, 64\) for \(7, 7, 3, 64\)"),
    (_MEAN, (64,), np.float64, r"float64 \(64,\) for \(64,\)"),
    (_MEAN, (1, 64), np.float32, r"float32 \(1, 64\) for \(64,\)"),
    ("InceptionV1/Logits/Conv2d_0c_1x1/biases", (1000,), np.float32, r"float32 \(1, 1, 1024, 1001\) for .* 1000\)"),
  )
  def test_misshapen(self, name, shape, dtype, message):
    self.arrays[name] = np.zeros(shape, dtype)
    self._refused(f"Inception-v1: 1 misshapen: .*{message}")

  def test_what_training_writes_beside_the_variables_is_left_out(self):
    expected = set(tensorflow1.read_slim(self._written()))
    for counter in ("global_step", "beta1_power", "beta2_power"):
      self.arrays[counter] = np.array(1.0, np.float32)
    for slot in ("Momentum", "RMSProp", "RMSProp_1", "Adam", "Adam_1", "ExponentialMovingAverage"):
      self.arrays[f"{_KERNEL}/{slot}"] = np.ones([7, 7, 3, 64], np.float32)
    values = tensorflow1.read_slim(self._written())
    self.assertEqual(set(values), expected)
    self.assertEqual(np.abs(values["Conv2d_1a_7x7/conv_3d/w"]).max(), 0)

  def _written(self) -> pathlib.Path:
    tensorflow1.write(self.path, self.arrays)
    return self.path

  @parameterized.parameters("InceptionV1/Mixed_6a/weights/Momentum", f"{_KERNEL}/Lion", "InceptionV1/global_step")
  def test_bookkeeping_of_nothing_known_is_refused(self, name):
    self.arrays[name] = np.zeros(3, np.float32)
    self._refused(f"1 unmatched: {name}$")

  def test_another_number_of_classes_is_read(self):
    self.arrays["InceptionV1/Logits/Conv2d_0c_1x1/weights"] = np.ones([1, 1, 1024, 5], np.float32)
    self.arrays["InceptionV1/Logits/Conv2d_0c_1x1/biases"] = np.ones([5], np.float32)
    values = tensorflow1.read_slim(self._written())
    self.assertEqual(values["Logits/Conv2d_0c_1x1/conv_3d/w"].shape, (1, 1, 1, 1024, 5))
    self.assertEqual(values["Logits/Conv2d_0c_1x1/conv_3d/b"].shape, (5,))

  def test_nothing_there(self):
    for path in (self.path, self.path.parent):
      self.assertFalse(tensorflow1.is_slim(path))
      with self.assertRaisesRegex(errors.CheckpointError, f"no checkpoint of slim's Inception-v1 at {path}$"):
        tensorflow1.read_slim(path)

  def test_other_checkpoints_are_not_slim_s(self):
    tensorflow1.write(self.path, {"RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w": np.zeros([7, 7, 7, 3, 64], np.float32)})
    self.assertFalse(tensorflow1.is_slim(self.path))
    self.assertFalse(tensorflow1.is_slim("rgb_scratch"))

  def test_a_file_that_is_no_checkpoint(self):
    self.path.write_bytes(b"<!DOCTYPE html>" * 1000)
    self.assertTrue(tensorflow1.is_slim(self.path))
    message = f"^{self.path} cannot be read as a checkpoint: .*not an sstable"
    with self.assertRaisesRegex(errors.CheckpointError, message):
      tensorflow1.read_slim(self.path)

  def test_a_damaged_file_of_old(self):
    testing.write_old_checkpoint(self.path, _random_arrays())
    content = bytearray(self.path.read_bytes())
    content[len(content) // 2] ^= 1
    self.path.write_bytes(content)
    with self.assertRaisesRegex(errors.CheckpointError, "1 damaged: InceptionV1/"):
      tensorflow1.read_slim(self.path)
    self.path.write_bytes(content[:-1000])
    with self.assertRaisesRegex(errors.CheckpointError, "cannot be read as a checkpoint"):
      tensorflow1.read_slim(self.path)


class ForwardTest(absltest.TestCase):
  def test_the_network_is_slim_s(self):
    """All endpoints, against the layers of slim's inception_v1.py in plain TensorFlow."""
    path = pathlib.Path(self.create_tempdir().full_path) / "inception_v1.ckpt"
    arrays = _random_arrays()
    testing.write_old_checkpoint(path, arrays)
    model = inception.InceptionV1(num_classes=1001)
    model.build(3)
    release.assign(model, tensorflow1.read_slim(path), "made")
    image = testing.golden_noise("slim", 1, 3)[:, 0]
    expected = _forward(arrays, image)
    actual = tf.function(model)(image)[1]
    self.assertLen(expected, 17)
    for name, value in expected.items():
      self.assertEqual(actual[name].shape, value.shape, name)
      self.assertLess(testing.relative_error(actual[name], value.numpy()), 1e-4, name)


def _forward(arrays, net) -> dict[str, tf.Tensor]:
  """Slim's Inception-v1 at inference, from `[B, 224, 224, 3]` to logits `[B, 1001]`."""

  def conv(net, scope, stride=1):
    of = lambda name: arrays[f"InceptionV1/{scope}/{name}"]
    net = tf.nn.conv2d(net, of("weights"), stride, "SAME")
    mean, variance, beta = (of(f"BatchNorm/{name}") for name in ("moving_mean", "moving_variance", "beta"))
    return tf.nn.relu(tf.nn.batch_normalization(net, mean, variance, beta, None, 0.001))

  def mixed(net, scope):
    odd = "Conv2d_0a_3x3" if scope == "Mixed_5b" else "Conv2d_0b_3x3"
    branches = [
      conv(net, f"{scope}/Branch_0/Conv2d_0a_1x1"),
      conv(conv(net, f"{scope}/Branch_1/Conv2d_0a_1x1"), f"{scope}/Branch_1/Conv2d_0b_3x3"),
      conv(conv(net, f"{scope}/Branch_2/Conv2d_0a_1x1"), f"{scope}/Branch_2/{odd}"),
      conv(tf.nn.max_pool2d(net, 3, 1, "SAME"), f"{scope}/Branch_3/Conv2d_0b_1x1"),
    ]
    return tf.concat(branches, 3)

  ends = {}
  net = ends["Conv2d_1a_7x7"] = conv(net, "Conv2d_1a_7x7", 2)
  net = ends["MaxPool_2a_3x3"] = tf.nn.max_pool2d(net, 3, 2, "SAME")
  net = ends["Conv2d_2b_1x1"] = conv(net, "Conv2d_2b_1x1")
  net = ends["Conv2d_2c_3x3"] = conv(net, "Conv2d_2c_3x3")
  net = ends["MaxPool_3a_3x3"] = tf.nn.max_pool2d(net, 3, 2, "SAME")
  pools = {"Mixed_4b": ("MaxPool_4a_3x3", 3), "Mixed_5b": ("MaxPool_5a_2x2", 2)}
  for scope in _BLOCKS:
    if scope in pools:
      name, side = pools[scope]
      net = ends[name] = tf.nn.max_pool2d(net, side, 2, "SAME")
    net = ends[scope] = mixed(net, scope)
  net = tf.nn.avg_pool2d(net, 7, 1, "VALID")
  head = "InceptionV1/Logits/Conv2d_0c_1x1"
  net = tf.nn.conv2d(net, arrays[f"{head}/weights"], 1, "SAME") + arrays[f"{head}/biases"]
  return ends | {"Logits": tf.squeeze(net, [1, 2])}


if __name__ == "__main__":
  absltest.main()
