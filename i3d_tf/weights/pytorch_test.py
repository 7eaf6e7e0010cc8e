"""I3D's weights as state dicts of its two PyTorch ports and back, bit for bit.

What torch itself wrote is read where it is installed; containers_test has files made without it.
"""

import functools
import importlib.util
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import containers
from i3d_tf.weights import pytorch
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

# Some names of the ports' own state dicts with what they are, in the release.
_NAMES = {
  "pytorch_i3d": {
    "Conv3d_1a_7x7.conv3d.weight": "Conv3d_1a_7x7/conv_3d/w",
    "Conv3d_2c_3x3.bn.running_var": "Conv3d_2c_3x3/batch_norm/moving_variance",
    "Mixed_3b.b0.bn.bias": "Mixed_3b/Branch_0/Conv3d_0a_1x1/batch_norm/beta",
    "Mixed_4f.b1a.conv3d.weight": "Mixed_4f/Branch_1/Conv3d_0a_1x1/conv_3d/w",
    "Mixed_5b.b2b.bn.running_mean": "Mixed_5b/Branch_2/Conv3d_0a_3x3/batch_norm/moving_mean",
    "Mixed_5c.b3b.conv3d.weight": "Mixed_5c/Branch_3/Conv3d_0b_1x1/conv_3d/w",
    "logits.conv3d.bias": "Logits/Conv3d_0c_1x1/conv_3d/b",
  },
  "kinetics_i3d_pytorch": {
    "conv3d_1a_7x7.conv3d.weight": "Conv3d_1a_7x7/conv_3d/w",
    "conv3d_2c_3x3.batch3d.running_var": "Conv3d_2c_3x3/batch_norm/moving_variance",
    "mixed_3b.branch_0.batch3d.bias": "Mixed_3b/Branch_0/Conv3d_0a_1x1/batch_norm/beta",
    "mixed_4f.branch_1.0.conv3d.weight": "Mixed_4f/Branch_1/Conv3d_0a_1x1/conv_3d/w",
    "mixed_5b.branch_2.1.batch3d.running_mean": "Mixed_5b/Branch_2/Conv3d_0a_3x3/batch_norm/moving_mean",
    "mixed_5c.branch_3.1.conv3d.weight": "Mixed_5c/Branch_3/Conv3d_0b_1x1/conv_3d/w",
    "conv3d_0c_1x1.conv3d.bias": "Logits/Conv3d_0c_1x1/conv_3d/b",
  },
}
_HAS_TORCH = importlib.util.find_spec("torch") is not None


@functools.cache
def _values(in_channels=3, num_classes=400) -> dict[str, np.ndarray]:
  shapes = spec.variable_shapes(in_channels=in_channels, num_classes=num_classes)
  return {name: testing.golden_values(name, shape) for name, shape in shapes.items()}


class TorchI3dTest(parameterized.TestCase):
  @parameterized.parameters(*pytorch.I3D_LAYOUTS)
  def test_names_kernels_and_scales_are_the_port_s(self, layout):
    values = _values()
    arrays = pytorch.to_torch(values, pytorch.I3D_LAYOUTS[layout])
    self.assertLen(arrays, 230 + 57)
    for theirs, name in _NAMES[layout].items():
      expected = np.moveaxis(values[name], [4, 3], [0, 1]) if values[name].ndim == 5 else values[name]
      np.testing.assert_array_equal(arrays[theirs], expected, theirs)
    scales = [array for name, array in arrays.items() if name.endswith((".bn.weight", ".batch3d.weight"))]
    self.assertEqual([array.size for array in scales], [unit.out_channels for unit in spec.units() if unit.batch_norm])
    self.assertTrue(all((array == 1).all() for array in scales))

  @parameterized.parameters(*tensorflow1.LAYOUTS)
  def test_from_a_release_layout_through_both_ports_and_back_is_bit_identical(self, stream):
    folder = pathlib.Path(self.create_tempdir().full_path)
    values = _values(in_channels=2 if stream == "flow" else 3, num_classes=600 if stream == "rgb600" else 400)
    tensorflow1.write_release(folder / "first" / "model.ckpt", values, tensorflow1.LAYOUTS[stream])
    ours, _ = saved.read(folder / "first")
    for layout in pytorch.I3D_LAYOUTS.values():
      ours = pytorch.I3D.convert(pytorch.to_torch(ours, layout), "i3d", "made.pt")
    tensorflow1.write_release(folder / "second" / "model.ckpt", ours, tensorflow1.LAYOUTS[stream])
    for suffix in (tensorflow1.INDEX_SUFFIX, tensorflow1.DATA_SUFFIX):
      first, second = ((folder / name / f"model.ckpt{suffix}").read_bytes() for name in ("first", "second"))
      self.assertEqual(first, second)

  def test_a_trained_scale_goes_into_kernel_and_mean(self):
    layout = pytorch.I3D_LAYOUTS["pytorch_i3d"]
    values = _values()
    arrays = pytorch.to_torch(values, layout)
    scale = np.linspace(-0.5, 2, 32).astype(np.float32)
    arrays["Mixed_3b.b2b.bn.weight"] = scale
    arrays["Mixed_3b.b2b.bn.num_batches_tracked"] = np.array(7)
    unit = "Mixed_3b/Branch_2/Conv3d_0b_3x3"
    found = pytorch.I3D.convert(arrays, "i3d", "made.pt")
    changed = [name for name in values if (values[name] != found[name]).any()]
    self.assertCountEqual(changed, [f"{unit}/conv_3d/w", f"{unit}/batch_norm/moving_mean"])
    # Of any response r of the old kernel, scale * (r - mean) / deviation + beta stays, where r becomes scale * r.
    response = np.float32(0.7)
    deviation = np.sqrt(values[f"{unit}/batch_norm/moving_variance"] + np.float32(1e-3))
    expected = scale * (response - values[f"{unit}/batch_norm/moving_mean"]) / deviation
    np.testing.assert_array_equal(found[f"{unit}/conv_3d/w"], values[f"{unit}/conv_3d/w"] * scale)
    actual = (scale * response - found[f"{unit}/batch_norm/moving_mean"]) / deviation
    np.testing.assert_allclose(actual, expected, atol=1e-6)

  @parameterized.parameters(
    ({"Mixed_3b.b0.bn.bias": None}, "is not of I3D: 1 missing: Mixed_3b.b0.bn.bias"),
    ({"fc.weight": np.zeros(3, np.float32)}, "is not of I3D: 1 unmatched: fc.weight"),
    ({"Mixed_3b.b0.bn.bias": np.zeros(3, np.float32)}, r"1 misshapen: \S+/beta float32 \(3,\) for \(64,\)"),
    ({"Mixed_3b.b0.conv3d.weight": np.zeros([64, 192], np.float32)}, r"1 misshapen: \S+/w float32 \(64, 192\) for"),
    ({"Mixed_3b.b0.bn.bias": np.zeros(64, np.float16)}, r"1 misshapen: \S+/beta float16"),
    ({"Conv3d_1a_7x7.conv3d.weight": None}, "is not of I3D in pytorch_i3d or kinetics_i3d_pytorch; its names"),
  )
  def test_what_does_not_fit_is_named(self, changes, sentence):
    arrays = pytorch.to_torch(_values(), pytorch.I3D_LAYOUTS["pytorch_i3d"]) | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with self.assertRaisesRegex(errors.CheckpointError, f"made.pt {sentence}|made.pt is not of I3D: {sentence}"):
      pytorch.I3D.convert(arrays, "i3d", "made.pt")

  def test_a_network_of_another_width_is_refused(self):
    shapes = spec.variable_shapes(width_multiplier=0.05)
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with self.assertRaisesRegex(errors.CheckpointError, "not one that the ports have: .* misshapen"):
      pytorch.to_torch(values, pytorch.I3D_LAYOUTS["pytorch_i3d"])

  @absltest.skipUnless(_HAS_TORCH, "torch is not installed")
  @parameterized.parameters(*pytorch.I3D_LAYOUTS)
  def test_files_are_read_as_networks_however_they_were_saved(self, layout):
    import torch

    folder = pathlib.Path(self.create_tempdir().full_path)
    values = _values(in_channels=2)
    arrays = pytorch.to_torch(values, pytorch.I3D_LAYOUTS[layout])
    pytorch.write(folder / "ours.pt", arrays)
    tensors = {f"module.{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "wrapped.pth")
    torch.save(torch.load(folder / "ours.pt"), folder / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("ours.pt", "wrapped.pth", "old.pt"):
      found, info = saved.read(folder / name)
      self.assertEqual((info.model, info.stream, info.num_classes, len(info.classes)), ("i3d", "flow", 400, 400))
      for key, value in values.items():
        np.testing.assert_array_equal(found[key], value, key)

  def test_files_that_hold_no_state_dict_are_refused(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / "text.pt").write_text("no weights")
    (folder / "empty.pt").write_bytes(b"")
    containers.write_torch(folder / "numbers.pt", {"model": {"epoch": 3}})
    containers.write_torch(folder / "nothing.bin", {})
    sentences = {"text.pt": "this is not a file of", "empty.pt": "this is not a file of"}
    sentences |= dict.fromkeys(("numbers.pt", "nothing.bin"), "holds no state dict of PyTorch")
    for name, sentence in sentences.items():
      with self.assertRaisesRegex(errors.CheckpointError, f"{name}:? {sentence}") as caught:
        saved.read(folder / name)
      self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
  absltest.main()
