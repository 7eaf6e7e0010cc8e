"""Loading and writing the five released layouts, whole or not at all."""

import filecmp
import functools
import os
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.models import inception
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import release
from i3d_tf.weights import tensorflow1

KERNEL = "Conv3d_1a_7x7/conv_3d/w"
MEAN = "Mixed_4d/Branch_2/Conv3d_0b_3x3/batch_norm/moving_mean"


def _random_arrays(name):
  """Random tensors under the names and in the shapes of the released checkpoint `name`."""
  return {tensor: testing.golden_values(tensor, shape) for tensor, (shape, _) in manifests.load(name).tensors.items()}


class LayoutTest(parameterized.TestCase):
  @parameterized.parameters(*manifests.NAMES)
  def test_loads_to_the_last_bit_and_is_written_back_equal(self, name):
    folder = pathlib.Path(self.create_tempdir().full_path)
    arrays = _random_arrays(name)
    tensorflow1.write(folder / "in", arrays)
    entry = manifests.load(name)
    model = inception.InceptionI3d(num_classes=entry.num_classes)
    loaded = release.load_checkpoint(model, folder / "in")
    self.assertEqual(loaded.stream, entry.stream)
    self.assertLen(loaded.momentum, 116 if name.endswith("kin600") else 0)
    variables = release.named_variables(model)
    self.assertLen(variables, 230)
    prefix = tensorflow1.LAYOUTS[entry.stream].prefix
    for variable_name, variable in variables.items():
      stored = arrays[prefix + variable_name]
      np.testing.assert_array_equal(variable.numpy(), stored.reshape(variable.shape), err_msg=variable_name)
    release.save_release_checkpoint(model, folder / "out", stream=entry.stream, momentum=loaded.momentum)
    for suffix in (tensorflow1.INDEX_SUFFIX, tensorflow1.DATA_SUFFIX):
      self.assertTrue(filecmp.cmp(folder / f"in{suffix}", folder / f"out{suffix}", shallow=False), suffix)
    self.assertEqual(os.path.getsize(folder / f"out{tensorflow1.DATA_SUFFIX}"), entry.data_bytes)


@functools.cache
def _built():
  """A network that nothing changes, since loading is refused."""
  model = inception.InceptionI3d()
  model.build(3)
  return model


@functools.cache
def _values():
  return {
    f"RGB/inception_i3d/{name}": testing.golden_values(name, variable.shape.as_list())
    for name, variable in release.named_variables(_built()).items()
  }


class StrictnessTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.arrays = dict(_values())

  def _refused(self, pattern, arrays=None, damage=None, model=None):
    """Asserts that loading fails with `pattern` and leaves the model as it was."""
    prefix = self.folder / "model.ckpt"
    tensorflow1.write(prefix, self.arrays if arrays is None else arrays)
    if damage is not None:
      damage(prefix)
    model = model or _built()
    before = {name: variable.numpy() for name, variable in release.named_variables(model).items()}
    with self.assertRaisesRegex(errors.CheckpointError, pattern) as caught:
      release.load_checkpoint(model, prefix)
    self.assertNotIn("\n", str(caught.exception))
    for name, variable in release.named_variables(model).items():
      np.testing.assert_array_equal(variable.numpy(), before[name], err_msg=name)

  def test_missing(self):
    del self.arrays[f"RGB/inception_i3d/{MEAN}"]
    self._refused(f"1 missing: {MEAN}$")

  def test_unmatched(self):
    self.arrays["RGB/inception_i3d/Mixed_6a/w"] = np.zeros(3, np.float32)
    self.arrays["elsewhere"] = np.zeros(3, np.float32)
    self._refused("2 unmatched: Mixed_6a/w, elsewhere$|2 unmatched: elsewhere, Mixed_6a/w$")

  def test_a_slot_of_no_variable(self):
    self.arrays["RGB/inception_i3d/Mixed_6a/w/Momentum"] = np.zeros(3, np.float32)
    self._refused("1 unmatched: Mixed_6a/w/Momentum$")

  def test_misshapen(self):
    name = f"RGB/inception_i3d/{KERNEL}"
    self.arrays[name] = self.arrays[name].transpose(3, 0, 1, 2, 4)
    self._refused("1 misshapen: " + KERNEL + r" \(3, 7, 7, 7, 64\) for \(7, 7, 7, 3, 64\)")

  def test_another_type(self):
    name = f"RGB/inception_i3d/{MEAN}"
    self.arrays[name] = self.arrays[name].astype(np.float64)
    self._refused("1 misshapen: " + MEAN + r" float64 \(64,\) for \(64,\)")

  def test_several_kinds_are_all_listed(self):
    del self.arrays[f"RGB/inception_i3d/{MEAN}"]
    self.arrays["RGB/inception_i3d/x"] = np.zeros(3, np.float32)
    self._refused(f"1 missing: {MEAN}; 1 unmatched: x$")

  def test_flipped_byte(self):
    def flip(prefix):
      data = pathlib.Path(f"{prefix}{tensorflow1.DATA_SUFFIX}")
      content = bytearray(data.read_bytes())
      content[5] ^= 1  # the first tensor, in order of names
      data.write_bytes(content)

    self._refused("1 damaged: RGB/inception_i3d/Conv3d_1a_7x7/batch_norm/beta ", damage=flip)

  def test_truncated_data(self):
    def truncate(prefix):
      os.truncate(f"{prefix}{tensorflow1.DATA_SUFFIX}", 50_818_176 - 1)

    last = "RGB/inception_i3d/Mixed_5c/Branch_3/Conv3d_0b_1x1/conv_3d/w"
    self._refused(f"1 damaged: {last} ", damage=truncate)

  def test_truncated_index(self):
    self._refused(
      r"model.ckpt.index: this is not the index of a checkpoint, or it is damaged",
      damage=lambda prefix: os.truncate(f"{prefix}{tensorflow1.INDEX_SUFFIX}", 1000),
    )

  def test_missing_data_file(self):
    self._refused("damaged", damage=lambda prefix: os.unlink(f"{prefix}{tensorflow1.DATA_SUFFIX}"))

  def test_another_network(self):
    self._refused("is not an I3D checkpoint.* it begins with conv/w$", arrays={"conv/w": np.zeros(3, np.float32)})

  def test_other_channels(self):
    model = inception.InceptionI3d()
    model.build(2)
    self._refused(r"1 misshapen: " + KERNEL + r" \(7, 7, 7, 3, 64\) for \(7, 7, 7, 2, 64\)", model=model)

  def test_nothing_there(self):
    message = "there is no checkpoint at /nowhere: give the folder of a run .* the prefix .*rgb_imagenet"
    with self.assertRaisesRegex(errors.CheckpointError, message):
      release.load_checkpoint(inception.InceptionI3d(), "/nowhere")

  def test_a_new_head_is_kept_only_when_asked(self):
    model = inception.InceptionI3d(num_classes=7)
    model.build(3)
    self._refused(r"2 misshapen: Logits/.*/b \(400,\) for \(7,\).*ask for a new head \(new_head=True\)", model=model)
    variables = release.named_variables(model)
    head = variables["Logits/Conv3d_0c_1x1/conv_3d/w"].numpy()
    release.load_checkpoint(model, self.folder, new_head=True)
    np.testing.assert_array_equal(variables["Logits/Conv3d_0c_1x1/conv_3d/w"].numpy(), head)
    np.testing.assert_array_equal(variables[KERNEL].numpy(), self.arrays[f"RGB/inception_i3d/{KERNEL}"])

  def test_a_network_cut_early_takes_its_part(self):
    tensorflow1.write(self.folder / "model.ckpt", self.arrays)
    model = inception.InceptionI3d(final_endpoint="Mixed_3b")
    release.load_checkpoint(model, self.folder)
    variables = release.named_variables(model)
    self.assertLen(variables, 9 * 4)
    for name, variable in variables.items():
      np.testing.assert_array_equal(variable.numpy(), self.arrays[f"RGB/inception_i3d/{name}"])

  def test_a_model_named_otherwise_or_inside_another_scope(self):
    tensorflow1.write(self.folder / "model.ckpt", self.arrays)
    with tf.name_scope("outer"):
      model = inception.InceptionI3d(name="rgb")
    release.load_checkpoint(model, self.folder)
    kernel = release.named_variables(model)[KERNEL]
    self.assertEqual(kernel.name, f"outer/rgb/{KERNEL}:0")
    np.testing.assert_array_equal(kernel.numpy(), self.arrays[f"RGB/inception_i3d/{KERNEL}"])

  def test_bad_saves(self):
    with self.assertRaisesRegex(ValueError, "stream is 'RGB'; allowed are rgb, flow, rgb600"):
      release.save_release_checkpoint(inception.InceptionI3d(), self.folder / "x", stream="RGB")
    with self.assertRaisesRegex(ValueError, "has no variables yet"):
      release.save_release_checkpoint(inception.InceptionI3d(), self.folder / "x", stream="rgb")
    model = inception.InceptionI3d(width_multiplier=0.05)
    model.build(3)
    with self.assertRaisesRegex(ValueError, "slots of no variable: x"):
      release.save_release_checkpoint(model, self.folder / "x", stream="rgb", momentum={"x": np.zeros(1)})
    (self.folder / "file").write_text("")
    with self.assertRaisesRegex(errors.CheckpointError, "cannot write the checkpoint .*file/x: "):
      release.save_release_checkpoint(model, self.folder / "file" / "x", stream="rgb")
    self.assertEqual(os.listdir(self.folder), ["file"])


if __name__ == "__main__":
  absltest.main()
