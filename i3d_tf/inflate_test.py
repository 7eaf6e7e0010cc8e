"""`python -m i3d_tf.inflate`, its library, and training's start from what they write."""

import os
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import inflation
from i3d_tf.weights import initialization
from i3d_tf.weights import release
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

_INFO = saved.make_info(
    model="inception_v1", stream="rgb", num_classes=3, classes=("a", "b", "c"), width_multiplier=0.05,
    average_space=True, num_frames=1, short_side=72, crop=64, dataset="made", step=7,
)  # fmt: skip
_KERNEL = "Conv3d_1a_7x7/conv_3d/w"


def _flat_values(info=_INFO, channels=3) -> dict[str, np.ndarray]:
  shapes = spec.variable_shapes(
    spec.INCEPTION_V1,
    in_channels=channels,
    num_classes=info.num_classes,
    width_multiplier=info.width_multiplier,
  )
  return {name: testing.golden_values(name, shape) for name, shape in shapes.items()}


class InflatedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.run_folder = os.fspath(self.folder / "run")
    self.to = self.folder / "new" / "trunk"

  def _save(self, info=_INFO, channels=3):
    saved.save_values(self.folder / "run" / "best", _flat_values(info, channels), info)

  def _write(self, **options) -> initialization.InflatedNetwork:
    return initialization.write_inflated(self.run_folder, self.to, inflation.InflationConfig(**options))

  @parameterized.parameters(*inflation.MODES)
  def test_a_run_is_inflated(self, mode):
    self._save()
    written = self._write(mode=mode)
    values, info = saved.read(self.to)
    expected = inflation.inflate(_flat_values(), mode=mode)
    self.assertCountEqual(values, expected)
    for name, value in values.items():
      np.testing.assert_array_equal(value, expected[name], name, strict=True)
    self.assertEqual(written, initialization.InflatedNetwork("rgb", 228, sum(value.size for value in values.values())))
    fields = testing.change_info(_INFO, model="i3d", num_classes=0, classes=(), num_frames=64, step=None)
    self.assertEqual(info, fields)
    self.assertEqual(os.listdir(self.to.parent), ["trunk"])

  @parameterized.parameters((False, 1), (True, 1.5))
  def test_for_flow_the_first_kernel_is_the_mean_over_colours(self, rescale, factor):
    self._save()
    self.assertEqual(self._write(stream="flow", rescale_first_kernel=rescale).stream, "flow")
    values, info = saved.read(self.to)
    self.assertEqual(info.stream, "flow")
    mean = factor * _flat_values()["Conv2d_1a_7x7/conv_3d/w"].mean(-2) / 7
    self.assertEqual(values[_KERNEL].shape, (7, 7, 7, 2, 4))
    for step in range(7):
      for channel in range(2):
        np.testing.assert_allclose(values[_KERNEL][step, :, :, channel], mean[0], rtol=1e-5, atol=1e-8)

  def test_the_stream_of_old_is_kept_and_flow_stays_flow(self):
    self._save(testing.change_info(_INFO, stream="flow"), channels=2)
    self.assertEqual(self._write().stream, "flow")
    expected = inflation.inflate(_flat_values(channels=2))[_KERNEL]
    np.testing.assert_array_equal(saved.read(self.to)[0][_KERNEL], expected)

  def test_training_starts_from_it_with_a_classifier_of_its_own(self):
    self._save()
    self._write()
    info = testing.change_info(_INFO, model="i3d", num_frames=16)
    model = saved.make_model(info)
    before = {name: variable.numpy() for name, variable in release.named_variables(model).items()}
    self.assertNotEmpty(initialization.initialize(model, info, self.to))
    after = {name: variable.numpy() for name, variable in release.named_variables(model).items()}
    expected = inflation.inflate(_flat_values())
    self.assertLen(after, 230)
    for name, value in after.items():
      np.testing.assert_array_equal(value, expected.get(name, before[name]), name)

  def test_it_is_no_whole_network(self):
    self._save()
    self._write()
    with self.assertRaisesRegex(errors.CheckpointError, "has no classifier"):
      saved.load(self.to)

  def test_another_network_is_refused(self):
    info = testing.change_info(_INFO, model="i3d")
    shapes = spec.variable_shapes(num_classes=3, width_multiplier=0.05)
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    saved.save_values(self.run_folder, values, info)
    with self.assertRaisesRegex(errors.I3dError, f"{self.run_folder} is a network i3d; only inception_v1 can be"):
      self._write()
    self.assertFalse(self.to.parent.exists())

  def test_scaling_without_other_channels_is_refused(self):
    self._save()
    with self.assertRaisesRegex(errors.I3dError, "rescale_first_kernel is for other channels, but .* the 3 of rgb"):
      self._write(rescale_first_kernel=True)
    self.assertFalse(self.to.parent.exists())

  def test_nothing_is_overwritten(self):
    self._save()
    self.to.parent.mkdir()
    self.to.write_text("mine")
    with self.assertRaisesRegex(errors.I3dError, f"{self.to} is a file; name a folder"):
      self._write()
    self.assertEqual(self.to.read_text(), "mine")
    self.to.unlink()
    self.to.mkdir()
    self._write()  # an empty folder will do
    before = {file.name: file.read_bytes() for file in self.to.iterdir()}
    with self.assertRaisesRegex(errors.I3dError, f"{self.to} holds model.data-00000-of-00001 already; name a new"):
      self._write(mode="center")
    self.assertEqual({file.name: file.read_bytes() for file in self.to.iterdir()}, before)

  def test_what_is_not_complete_does_not_appear(self):
    self._save()
    with mock.patch.object(saved.workdir.os, "replace", side_effect=OSError(28, "No space left on device")):
      with self.assertRaisesRegex((errors.CheckpointError, OSError), "No space left on device"):
        self._write()
    self.assertFalse(self.to.parent.exists())
    self._write()


class MainTest(parameterized.TestCase):
  def _run(self, *arguments, status=0) -> testing.Finished:
    done = testing.run_main("inflate", *arguments)
    self.assertEqual(done.status, status, done.stderr)
    return done

  def test_a_checkpoint_of_slim_s(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    info = saved.make_info(model="inception_v1", stream="rgb", num_classes=1001)
    tensorflow1.write_slim(folder / "slim.ckpt", _flat_values(info))
    to = folder / "trunk"
    done = self._run(f"--from={folder}/slim.ckpt", f"--to={to}", "--stream=flow", "--mode=center")
    self.assertEqual(done.stderr, "")
    said = f"{to}: I3D for flow without a classifier, 228 variables with 12272592 values, inflated from "
    self.assertEqual(done.stdout, f"{said}{folder}/slim.ckpt by center\n")
    values, info = saved.read(to)
    self.assertEqual(info, saved.make_info(stream="flow", num_classes=0))
    self.assertEqual(sum(value.size for value in values.values()), 12_272_592)

  @parameterized.parameters(
    (["--to=x"], "inflate: error: --from is needed", ""),
    (["--from=/none", "--to=x", "--mode=median"], "inflate: error: --mode=median", "<mean|center>"),
    (["--from=/none", "--to={}/x"], "inflate: error: there is no checkpoint at /none", ""),
  )
  def test_bad_input_gets_a_sentence(self, arguments, begins, contains):
    folder = self.create_tempdir().full_path
    done = self._run(*(each.format(folder) for each in arguments), status=1)
    self.assertStartsWith(done.stderr, begins)
    self.assertIn(contains, done.stderr)
    self.assertNotIn("Traceback", done.stderr)

  def test_help(self):
    done = self._run("--help")
    self.assertStartsWith(done.stdout, "Inflates the weights of an Inception-v1, a network of images, to I3D's")
    for flag in ("from", "to", "stream", "mode", r"\[no\]rescale_first_kernel"):
      self.assertRegex(done.stdout, rf"--{flag}: [A-Z<]\w+")


if __name__ == "__main__":
  absltest.main()
