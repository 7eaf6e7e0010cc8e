"""The Swin transformers' weights by torchvision's names, against its logits."""

import os
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import exporting
from i3d_tf.exporting import exports
from i3d_tf.models import base
from i3d_tf.models import zoo
from i3d_tf.weights import pytorch
from i3d_tf.weights import pytorch_swin
from i3d_tf.weights import release
from i3d_tf.weights import saved

# Of torchvision 0.29.1 with weights by `_value` and clip by `_clip`: the first four logits, and the norm of all. In 9
# steps of 8x10 patches windows are shifted in time and space, filled up, and, in the upper stages, cut.
_CLIPS = {"video_swin_t": (18, 32, 40), "swin_t": (1, 224, 224)}
_CLASSES = {"video_swin_t": 400, "swin_t": 1000}
_PARAMETERS = {"video_swin_t": 28_158_070, "swin_t": 28_288_354}
_LOGITS = {
  "video_swin_t": (0.312046, -0.0383759, -0.2542039, 0.4596037, 13.1372585),
  "swin_t": (-0.1876318, -0.217737, 0.1894354, -0.2407347, 23.0904350),
}


def _value(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A value for a tensor of PyTorch's, by its name."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if len(shape) > 1:
    values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
  elif name.endswith("weight"):
    values = rng.uniform(0.3, 0.7, shape)
  else:
    values = rng.standard_normal(shape) * 0.1
  return values.astype(np.float32)


def _clip(model: str) -> np.ndarray:
  return np.random.default_rng(5).uniform(-1, 1, (1, *_CLIPS[model], 3)).astype(np.float32)


def _described(model: str, num_classes: int, **options) -> base.Network:
  """A network whose variables have names and shapes, but no values."""
  network = zoo.get(model).make(num_classes, **options)
  with tf.Graph().as_default():
    network.build(3)
  return network


def _state_dict(model: str, num_classes: int) -> dict[str, np.ndarray]:
  """The state dict of torchvision's network with values by its names."""
  variables = release.named_variables(_described(model, num_classes))
  zeros = {name: np.broadcast_to(np.float32(0), variable.shape) for name, variable in variables.items()}
  arrays = pytorch_swin.to_torch(zeros, model)
  is_index = lambda name: name.endswith("relative_position_index")
  return {name: array if is_index(name) else _value(name, array.shape) for name, array in arrays.items()}


class TorchSwinTest(parameterized.TestCase):
  @parameterized.parameters(*_CLIPS)
  def test_logits_are_torchvision_s_and_the_state_dict_comes_back(self, model):
    arrays = _state_dict(model, _CLASSES[model])
    trained = sum(array.size for array in arrays.values() if array.dtype == np.float32)
    self.assertEqual(trained, _PARAMETERS[model])
    found, values = saved.from_state_dict({f"module.{name}": array for name, array in arrays.items()}, "some.pth")
    self.assertEqual(found, model)
    network = zoo.get(model).make(_CLASSES[model])
    network.build(3)
    release.assign(network, values, "some.pth")
    logits = network(_clip(model))[0][0].numpy()
    *first, norm = _LOGITS[model]
    np.testing.assert_allclose(logits[:4], first, atol=1e-5)
    self.assertAlmostEqual(float(np.linalg.norm(logits)), norm, delta=1e-4)
    back = pytorch_swin.to_torch(values, model)
    self.assertEqual(list(map(back.get, ["x"])), [None])
    self.assertCountEqual(back, arrays)
    for name, array in arrays.items():
      np.testing.assert_array_equal(back[name], array, name)

  @parameterized.parameters(*pytorch_swin.MODELS)
  def test_which_it_is(self, model):
    names = release.named_variables(_described(model, 3))
    arrays = {
      pytorch_swin.name_of(name, model): np.broadcast_to(np.float32(0), each.shape) for name, each in names.items()
    }
    self.assertEqual(pytorch_swin.SWIN.find(arrays, "swin.pth"), model)

  def test_names_are_torchvision_s(self):
    some = {
      "patch_embed/conv_3d/b": ("patch_embed.proj.bias", "features.0.0.bias"),
      "patch_embed/norm/gamma": ("patch_embed.norm.weight", "features.0.2.weight"),
      "layer3_5/attention/qkv/conv_3d/w": ("features.4.5.attn.qkv.weight", "features.5.5.attn.qkv.weight"),
      "layer4_0/mlp_1/conv_3d/b": ("features.6.0.mlp.3.bias", "features.7.0.mlp.3.bias"),
      "merge2/reduction/conv_3d/w": ("features.3.reduction.weight", "features.4.reduction.weight"),
      "norm/beta": ("norm.bias", "norm.bias"),
      "Logits/conv_3d/w": ("head.weight", "head.weight"),
    }
    for ours, theirs in some.items():
      self.assertEqual(tuple(pytorch_swin.name_of(ours, model) for model in _CLIPS), theirs)

  def test_what_does_not_fit_is_named(self):
    arrays = _state_dict("swin_t", 3)
    arrays["features.1.0.mlp.3.bias"] = np.zeros(5, np.float32)
    with self.assertRaisesRegex(errors.CheckpointError, r"x.pth is not of swin_t: 1 misshapen: .*mlp.3.bias"):
      saved.from_state_dict(arrays, "x.pth")

  def test_export_writes_a_state_dict_of_torchvision_s_networks_only(self):
    folder = self.create_tempdir().full_path
    info = saved.make_info(model="swin_t", stream="rgb", num_classes=3, num_frames=1)
    values = {name: np.zeros(each.shape, np.float32) for name, each in
              release.named_variables(_described("swin_t", 3)).items()}  # fmt: skip
    saved.save_values(os.path.join(folder, "run"), values, info)
    path = os.path.join(folder, "swin.pt")
    described = exports.write_state_dict(path, os.path.join(folder, "run"), "torchvision")
    self.assertIn("swin_t for rgb", described)
    self.assertIn("features.1.0.attn.relative_position_index", pytorch.read(path))
    with self.assertRaisesRegex(errors.I3dError, "network swin_t; the format pytorch_i3d is for i3d only"):
      exports.write_weights(folder, os.path.join(folder, "run"), exporting.WeightsConfig(format="pytorch_i3d"))

  def test_other_widths_are_refused(self):
    shapes = release.named_variables(_described("swin_t", 3, width_multiplier=0.5))
    values = {name: np.zeros(each.shape, np.float32) for name, each in shapes.items()}
    with self.assertRaisesRegex(errors.CheckpointError, "first stage has 48 channels; torchvision's swin_t has 96"):
      pytorch_swin.to_torch(values, "swin_t")


if __name__ == "__main__":
  absltest.main()
