"""PyTorch's residual networks read as ours: names, kernels, and the logits that PyTorch itself gave."""

import importlib.util
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.models import resnet
from i3d_tf.models import resnet_spec as spec
from i3d_tf.weights import pytorch
from i3d_tf.weights import pytorch_resnet
from i3d_tf.weights import release
from i3d_tf.weights import saved

# Names of the projects' own state dicts with what they are here.
_NAMES = {
    "torchvision's networks of clips": ("r2plus1d_18", {
        "stem.0.weight": "stem/spatial/conv_3d/w",
        "stem.4.running_var": "stem/temporal/batch_norm/moving_variance",
        "layer1.1.conv2.0.0.weight": "layer1_1/conv2/spatial/conv_3d/w",
        "layer3.0.conv1.0.1.bias": "layer3_0/conv1/spatial/batch_norm/beta",
        "layer3.0.conv1.0.3.weight": "layer3_0/conv1/temporal/conv_3d/w",
        "layer3.0.conv1.1.weight": "layer3_0/conv1/temporal/batch_norm/gamma",
        "layer4.0.downsample.0.weight": "layer4_0/downsample/conv_3d/w",
        "layer4.0.downsample.1.running_mean": "layer4_0/downsample/batch_norm/moving_mean",
        "fc.bias": "Logits/conv_3d/b",
    }),
    "torchvision's networks of images": ("resnet_50", {
        "conv1.weight": "stem/conv_3d/w",
        "bn1.bias": "stem/batch_norm/beta",
        "layer1.0.conv3.weight": "layer1_0/conv3/conv_3d/w",
        "layer1.0.bn3.weight": "layer1_0/conv3/batch_norm/gamma",
        "layer2.0.downsample.1.weight": "layer2_0/downsample/batch_norm/gamma",
    }),
    "pytorch-resnet3d": ("i3d_r50_caffe2_non_local", {
        "conv1.weight": "stem/conv_3d/w",
        "layer2.1.bn3.weight": "layer2_1/conv3/batch_norm/gamma",
        "layer2.1.nl.phi.bias": "layer2_1_non_local/phi/conv_3d/b",
        "layer3.5.nl.out.weight": "layer3_5_non_local/out/conv_3d/w",
        "layer3.5.nl.bn.bias": "layer3_5_non_local/out/batch_norm/beta",
    }),
    "SlowFast": ("i3d_r50_non_local", {
        "s1.pathway0_stem.bn.weight": "stem/batch_norm/gamma",
        "s2.pathway0_res0.branch1.weight": "layer1_0/downsample/conv_3d/w",
        "s2.pathway0_res0.branch1_bn.bias": "layer1_0/downsample/batch_norm/beta",
        "s5.pathway0_res2.branch2.c_bn.running_mean": "layer4_2/conv3/batch_norm/moving_mean",
        "s4.pathway0_nonlocal5.conv_theta.bias": "layer3_5_non_local/theta/conv_3d/b",
        "s4.pathway0_nonlocal5.norm.weight": "layer3_5_non_local/out/batch_norm/gamma",
        "head.projection.weight": "Logits/conv_3d/w",
    }),
    "PyTorchVideo": ("i3d_r50", {
        "blocks.0.norm.running_var": "stem/batch_norm/moving_variance",
        "blocks.1.res_blocks.0.branch1_norm.weight": "layer1_0/downsample/batch_norm/gamma",
        "blocks.3.res_blocks.3.branch2.conv_a.weight": "layer2_3/conv1/conv_3d/w",
        "blocks.5.res_blocks.0.branch1_conv.weight": "layer4_0/downsample/conv_3d/w",
        "blocks.6.proj.bias": "Logits/conv_3d/b",
    }),
    "MMAction2": ("i3d_r50_32x2", {
        "backbone.conv1.conv.weight": "stem/conv_3d/w",
        "backbone.layer3.0.downsample.bn.bias": "layer3_0/downsample/batch_norm/beta",
        "backbone.layer4.2.conv3.bn.weight": "layer4_2/conv3/batch_norm/gamma",
        "cls_head.fc_cls.weight": "Logits/conv_3d/w",
    }),
    "temporal-shift-module": ("tsm_r50", {
        "base_model.bn1.weight": "stem/batch_norm/gamma",
        "base_model.layer2.1.conv1.net.weight": "layer2_1/conv1/conv_3d/w",
        "base_model.layer2.1.bn1.weight": "layer2_1/conv1/batch_norm/gamma",
        "new_fc.weight": "Logits/conv_3d/w",
    }),
    "MMAction2, shifted": ("tsm_r50", {
        "backbone.layer2.1.conv1.conv.net.weight": "layer2_1/conv1/conv_3d/w",
        "backbone.layer2.1.conv2.conv.weight": "layer2_1/conv2/conv_3d/w",
    }),
}  # fmt: skip
_FLAT = ("torchvision's networks of images", "MMAction2, shifted", "temporal-shift-module")  # without an axis of time
_PARTS = {
    "w": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var",
}  # fmt: skip
# The first three logits and the norm of all, which torchvision 0.29.1 and pytorchvideo 0.1.5 give with torch 2.14.1 and
# the code of GowthamGottimukkala/I3D_Feature_Extraction_resnet with torch 2.13.0, for the goldens' weights and a clip.
_LOGITS = {
  "mc3_18": (-21.29191, -18.24804, -16.01594, 660.782),
  "r2plus1d_18": (-7.725139, -38.11228, -12.29597, 1015.103),
  "resnet_50": (-653.4919, -2371.894, -1334.264, 70832.06),
  "i3d_r50": (-986.0319, -1559.848, -2038.671, 94758.13),
  "i3d_r50_caffe2": (145.8764, 278.9177, -1426.056, 28047.91),
  "i3d_r50_caffe2_non_local": (-73525.54, 143333.6, 6476.306, 4259647.0),
}


def _values(architecture: str) -> dict[str, np.ndarray]:
  shapes = spec.variable_shapes(spec.ARCHITECTURES[architecture])
  return {name: testing.golden_values(name, shape) for name, shape in shapes.items()}


def _state(layout: str, architecture: str, values=None) -> dict[str, np.ndarray]:
  """A state dict of a network with these values, or of ones without memory, as PyTorch would write it."""
  is_flat, layout = layout in _FLAT, pytorch_resnet.RESNET_LAYOUTS[layout]
  arrays = {}
  for name, shape in spec.variable_shapes(spec.ARCHITECTURES[architecture]).items():
    unit, _, part = name.rsplit("/", 2)
    conv, norm = layout.names(unit)
    value = np.broadcast_to(np.float32(1), shape) if values is None else values[name]
    if part == "w":
      value = value.transpose(4, 3, 0, 1, 2)
      value = value[..., 0, 0, 0] if unit == spec.LOGITS else value[:, :, 0] if is_flat else value
    arrays[f"{conv if part in 'wb' else norm}.{_PARTS[part]}"] = value
    if part == "gamma":
      arrays[f"{norm}.num_batches_tracked"] = np.array(7)
  return arrays


def _clip() -> np.ndarray:
  return np.random.default_rng(1).uniform(-1, 1, [2, 9, 45, 62, 3]).astype(np.float32)


def _logits(architecture: str, values) -> np.ndarray:
  model = resnet.ResNet(architecture=architecture)
  model.build(3)
  release.assign(model, values, "made")
  return model(_clip())[0].numpy()


class TorchResnetTest(parameterized.TestCase):
  @parameterized.parameters(*_NAMES)
  def test_names_are_the_project_s(self, layout):
    architecture, names = _NAMES[layout]
    made = pytorch_resnet._names(pytorch_resnet.RESNET_LAYOUTS[layout], architecture)
    self.assertEqual({theirs: own for own, theirs in made.items() if theirs in names}, names)

  @parameterized.parameters(
    *((layout, each) for layout, found in pytorch_resnet.RESNET_LAYOUTS.items() for each in found.architectures)
  )
  def test_networks_are_told_apart(self, layout, architecture):
    found, values = saved.from_state_dict(_state(layout, architecture), "made.pth")
    self.assertEqual(found, architecture)
    shapes = {name: value.shape for name, value in values.items()}
    self.assertEqual(shapes, spec.variable_shapes(spec.ARCHITECTURES[architecture]))

  def test_values_stand_where_they_did(self):
    values = _values("mc3_18")
    _, found = saved.from_state_dict(_state("torchvision's networks of clips", "mc3_18", values), "made.pth")
    for name, value in values.items():
      np.testing.assert_array_equal(found[name], value, name)

  @parameterized.parameters(
    ("SlowFast", "i3d_r50_non_local", "s3.pathway0_nonlocal1.conv_out.bias"),
    ("pytorch-resnet3d", "i3d_r50_caffe2_non_local", "layer2.1.nl.out.bias"),
  )
  def test_a_bias_before_batch_norm_moves_the_mean(self, layout, architecture, bias):
    state = _state(layout, architecture)
    state[bias] = np.full([512], 0.25, np.float32)
    _, values = saved.from_state_dict(state, "made.pth")
    np.testing.assert_array_equal(values["layer2_1_non_local/out/batch_norm/moving_mean"], np.full([512], 0.75))

  def test_what_is_wrong_is_listed(self):
    state = _state("torchvision's networks of clips", "r3d_18")
    state["layer5.weight"] = state.pop("layer1.1.conv2.0.weight")
    what = "made.pth is of no network of ours, and nearest to r3d_18"
    message = f"(?s){what}.*missing.*layer1.1.conv2.0.weight.*unmatched.*layer5.weight"
    with self.assertRaisesRegex(errors.CheckpointError, message):
      saved.from_state_dict(state, "made.pth")
    state["layer1.1.conv2.0.weight"] = state.pop("layer5.weight")[..., :2]
    message = rf"(?s){what}.*misshapen.*conv2.0.weight .*\(64, 64, 3, 3, 2\)"
    with self.assertRaisesRegex(errors.CheckpointError, message):
      saved.from_state_dict(state, "made.pth")

  @unittest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed")
  def test_a_file_says_what_network_it_is(self):
    state = _state("torchvision's networks of clips", "mc3_18")
    pytorch.write(path := self.create_tempdir().full_path + "/made.pth", state)
    values, info = saved.read(path)
    self.assertEqual((info.model, info.stream, info.num_classes, info.preprocess.crop), ("mc3_18", "rgb", 400, 112))
    self.assertEqual(info.classes[0], "abseiling")
    self.assertLen(values, len(spec.variable_shapes(spec.ARCHITECTURES["mc3_18"])))

  @parameterized.parameters(*_LOGITS)
  def test_logits_are_those_that_pytorch_gave(self, architecture):
    logits = _logits(architecture, _values(architecture))[1]
    found = [*logits[:3].tolist(), float(np.linalg.norm(logits))]
    np.testing.assert_allclose(found, _LOGITS[architecture], rtol=1e-4)


if __name__ == "__main__":
  absltest.main()
