import json
import pathlib
import re
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.weights import initialization
from i3d_tf.weights import release
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

_INFO = saved.make_info(
    stream="rgb", num_classes=3, classes=("a", "b", "c"), width_multiplier=0.05, average_space=True, num_frames=16,
    short_side=72, crop=64, dataset="made", step=7,
)  # fmt: skip


def _model(info):
  model = saved.make_model(info)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, variable.shape.as_list()))
  return model


def _values(model):
  return {name: variable.numpy() for name, variable in release.named_variables(model).items()}


class SavedTest(parameterized.TestCase):
  def test_what_is_saved_is_loaded_by_the_folder_of_the_network_or_of_the_run(self):
    run = pathlib.Path(self.create_tempdir())
    saved.save(run / "best", _model(_INFO), _INFO)
    for path in (run, run / "best"):
      model, info = saved.load(path)
      self.assertEqual(info, _INFO)
      for name, value in _values(model).items():
        np.testing.assert_array_equal(value, testing.golden_values(name, value.shape), name)

  def test_a_later_one_takes_the_place_of_an_earlier(self):
    folder = pathlib.Path(self.create_tempdir())
    for step in (7, 14):
      saved.save(folder, _model(_INFO), testing.change_info(_INFO, step=step))
    names = sorted(file.name for file in folder.iterdir())
    self.assertEqual(names, ["model-14.data-00000-of-00001", "model-14.index", "model.json"])
    self.assertEqual(saved.load(folder)[1].step, 14)

  def test_one_that_cannot_be_written_leaves_the_earlier(self):
    folder = pathlib.Path(self.create_tempdir())
    saved.save(folder, _model(_INFO), _INFO)
    with mock.patch.object(tensorflow1.os, "replace", side_effect=OSError(28, "No space left on device")):
      with self.assertRaisesRegex(errors.CheckpointError, "No space left"):
        saved.save(folder, _model(_INFO), testing.change_info(_INFO, step=8))
    self.assertEqual(saved.load(folder)[1].step, 7)

  @parameterized.parameters("{", "[]", '{"checkpoint": 3}', '{"checkpoint": "model-7", "stream": "rgb"}')
  def test_a_model_json_of_others_is_refused(self, text):
    folder = pathlib.Path(self.create_tempdir())
    (folder / "model.json").write_text(text)
    with self.assertRaisesRegex(errors.CheckpointError, "not what train writes"):
      saved.load(folder)

  @parameterized.parameters(
    ({"num_classes": "three"}, "num_classes is 'three'; it must be a whole number, at least 0"),
    ({"stream": "depth"}, "stream is 'depth'; i3d takes rgb or flow"),
    ({"crop": 300}, "crop is 300; it must be at most short_side, 256"),
    ({"model": "i3dd"}, "model is 'i3dd'; did you mean i3d?"),
  )
  def test_a_model_json_with_a_wrong_value_is_named(self, changes, sentence):
    folder = pathlib.Path(self.create_tempdir())
    content = {"checkpoint": "model", "model": "i3d", "stream": "rgb", "num_classes": 3, "classes": []}
    (folder / "model.json").write_text(json.dumps({**content, **changes}))
    with self.assertRaisesRegex(errors.CheckpointError, f"model.json: {re.escape(sentence)}"):
      saved.find(folder)

  def test_a_run_without_a_network_says_when_there_will_be_one(self):
    folder = pathlib.Path(self.create_tempdir())
    (folder / "checkpoints").mkdir()
    with self.assertRaisesRegex(errors.CheckpointError, "no network yet"):
      saved.load(folder)

  def test_a_checkpoint_without_info_is_described_by_its_shapes(self):
    folder = pathlib.Path(self.create_tempdir())
    model = saved.make_model(saved.make_info(stream="flow", num_classes=400))
    release.save_release_checkpoint(model, folder / "model.ckpt", stream="flow")
    info = saved.load(folder)[1]
    self.assertEqual((info.stream, info.num_classes, info.classes[0]), ("flow", 400, "abseiling"))

  def test_a_checkpoint_without_info_or_head_is_refused(self):
    folder = pathlib.Path(self.create_tempdir())
    tensorflow1.write(folder / "model.ckpt", {f"RGB/inception_i3d/{release.FIRST_KERNEL}": np.zeros([7, 7, 7, 3, 64])})
    with self.assertRaisesRegex(errors.CheckpointError, "is not whole: it has no Logits/Conv3d_0c_1x1/conv_3d/b"):
      saved.load(folder)


class InitializeTest(absltest.TestCase):
  def _start(self, other, info, **options):
    folder = pathlib.Path(self.create_tempdir())
    saved.save(folder, _model(other), other)
    model = saved.make_model(info)
    before = _values(model)
    notes = initialization.initialize(model, info, folder, **options)
    return before, _values(model), notes

  def test_equal_networks_are_copied_whole(self):
    _, after, notes = self._start(_INFO, _INFO)
    self.assertEqual(notes, [])
    for name, value in after.items():
      np.testing.assert_array_equal(value, testing.golden_values(name, value.shape), name)

  def test_s3d_takes_the_spatial_halves_of_inception_v1(self):
    small = {"stream": "rgb", "num_classes": 3, "width_multiplier": 0.05}
    flat = saved.make_info(model="inception_v1", **small)
    before, after, notes = self._start(flat, saved.make_info(model="s3d_g", **small))
    self.assertRegex(notes[0], "The trunk is that of .*inception_v1.*inflated; the rest is new.")
    old = _values(_model(flat))
    for name, value in after.items():
      # Slim's networks spell one name of Mixed_5b differently.
      flat_name = name.replace("Mixed_5b/Branch_2/Conv2d_0b_3x3", "Mixed_5b/Branch_2/Conv2d_0a_3x3")
      if name == "Conv2d_1a_7x7/conv_3d/w":
        np.testing.assert_allclose(value, np.repeat(old[name] / 3, 3, axis=0), rtol=1e-6)
      elif "temporal" in name or "self_gating" in name or name.startswith("Logits"):
        np.testing.assert_array_equal(value, before[name], name)
      else:
        np.testing.assert_array_equal(value, old[flat_name], name)

  def test_other_classes_keep_the_new_classifier(self):
    for num_classes, classes in ((5, ()), (3, ("a", "b", "d"))):
      before, after, notes = self._start(_INFO, testing.change_info(_INFO, num_classes=num_classes, classes=classes))
      self.assertLen(notes, 1)
      for name, value in after.items():
        expected = before[name] if name.startswith("Logits") else testing.golden_values(name, value.shape)
        np.testing.assert_array_equal(value, expected, name)

  def test_a_network_starts_from_the_same_on_other_clips(self):
    info = testing.change_info(_INFO, model="x3d_s", num_frames=13, crop=160, short_side=256)
    before, after, notes = self._start(info, testing.change_info(info, model="x3d_m", num_frames=16, crop=224))
    self.assertEmpty(notes)
    for name, value in after.items():
      np.testing.assert_array_equal(value, testing.golden_values(name, value.shape), name)
      self.assertFalse(np.array_equal(before[name], value), name)

  def test_flow_starts_from_the_mean_of_rgb_s_first_kernel(self):
    info = testing.change_info(_INFO, stream="flow")
    for factor in (1, 1.5):
      _, after, notes = self._start(_INFO, info, rescale_first_kernel=factor != 1)
      kernel = testing.golden_values(release.FIRST_KERNEL, [7, 7, 7, 3, 4])
      mean = factor * kernel.mean(-2, dtype=np.float64)
      self.assertEqual(after[release.FIRST_KERNEL].shape, (7, 7, 7, 2, 4))
      for channel in range(2):
        np.testing.assert_allclose(after[release.FIRST_KERNEL][..., channel, :], mean, rtol=1e-6, atol=1e-8)
      self.assertRegex(notes[0], r"mean of .* over its 3 inputs")

  def test_a_residual_network_starts_from_resnet_50_inflated(self):
    small = {"stream": "rgb", "num_classes": 3, "width_multiplier": 0.05}
    images = saved.make_info(model="resnet_50", **small)
    before, after, notes = self._start(images, saved.make_info(model="i3d_r50_non_local", **small))
    self.assertRegex(notes[0], "The trunk is that of .*, a network resnet_50, inflated; the rest is new.")
    flat = _values(_model(images))
    for name, value in after.items():
      if "non_local" in name or name.startswith("Logits"):
        np.testing.assert_array_equal(value, before[name], name)
      elif value.ndim == 5:
        expected = np.broadcast_to(flat[name] / len(value), value.shape)
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)
      else:
        np.testing.assert_array_equal(value, flat[name], name)
    _, shifted, notes = self._start(images, saved.make_info(model="tsm_r50", **small))
    self.assertRegex(notes[0], "a network resnet_50; the rest is new.")
    np.testing.assert_array_equal(shifted["layer4_2/conv3/conv_3d/w"], flat["layer4_2/conv3/conv_3d/w"])

  def test_a_network_of_another_family_is_refused(self):
    small = {"stream": "rgb", "num_classes": 3, "width_multiplier": 0.05}
    with self.assertRaisesRegex(errors.CheckpointError, "is a network resnet_50 .*; r3d_18 of stream rgb cannot start"):
      self._start(saved.make_info(model="resnet_50", **small), saved.make_info(model="r3d_18", **small))

  def test_another_width_is_refused(self):
    with self.assertRaisesRegex(errors.CheckpointError, "width_multiplier of 0.05, .* one of 0.1: it does not fit$"):
      self._start(_INFO, testing.change_info(_INFO, width_multiplier=0.1))


if __name__ == "__main__":
  absltest.main()
