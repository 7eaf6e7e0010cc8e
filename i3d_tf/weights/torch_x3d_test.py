"""X3D's weights by the names of two PyTorch projects, against pytorchvideo's own logits."""

import functools
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import zoo
from i3d_tf.weights import pytorch_resnet
from i3d_tf.weights import release

# Of pytorchvideo 0.1.5, create_x3d(input_clip_length=4, input_crop_size=160, head_activation=None), with weights by
# `_value` and clip by `_clip`: the first four logits, and the norm of all 400.
_LOGITS = (-0.20007558, 0.14920749, -0.10797005, -0.31498092)
_NORM = 5.388606


def _value(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A value for a tensor of PyTorch's, by its name."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if len(shape) > 1:
    values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
  elif name.endswith("running_var"):
    values = rng.uniform(0.5, 1.5, shape)
  elif name.endswith("weight"):
    values = rng.uniform(0.3, 0.7, shape)
  else:
    values = rng.standard_normal(shape) * 0.1
  return values.astype(np.float32)


def _clip() -> np.ndarray:
  return np.random.default_rng(5).uniform(-1, 1, (1, 4, 182, 182, 3)).astype(np.float32)


def _made():
  network = zoo.get("x3d_xs").make(400, crop=160)
  network.build(3)
  return network


@functools.cache
def _described(model: str = "x3d_xs", num_classes: int = 400):
  """A network whose variables have names and shapes, but no values."""
  network = zoo.get(model).make(num_classes, crop=160)
  with tf.Graph().as_default():
    network.build(3)
  return network


def _state_dict(network, project: str) -> dict[str, np.ndarray]:
  """The state dict that the project has of the network, with counters, and values by its names."""
  layout, arrays = pytorch_resnet.X3D_LAYOUTS[project], {}
  for own, variable in release.named_variables(network).items():
    name, shape = layout.name(own), tuple(variable.shape)
    if project == "PyTorchVideo" and own.startswith("layer1_0/downsample/batch_norm"):
      continue
    if len(shape) == 4:
      shape = (shape[3], 1, *shape[:3])
    elif len(shape) == 5:
      shape = (shape[4], shape[3], *shape[:3])
    arrays[name] = _value(name, shape[:2] if own == "Logits/conv_3d/w" else shape)
    if name.endswith("running_mean"):
      arrays[name.replace("running_mean", "num_batches_tracked")] = np.int64(7)
  return arrays


class TorchX3DTest(parameterized.TestCase):
  def test_logits_are_pytorchvideo_s(self):
    network = _made()
    arrays = _state_dict(network, "PyTorchVideo")
    trained = [array.size for name, array in arrays.items() if name.endswith(("weight", "bias"))]
    self.assertEqual(sum(trained), 3_794_274)
    model = pytorch_resnet.X3D.find(arrays, "X3D_XS.pyth")
    release.assign(network, pytorch_resnet.X3D.convert(arrays, model, "X3D_XS.pyth"), "X3D_XS.pyth")
    logits = network(_clip())[0][0].numpy()
    np.testing.assert_allclose(logits[:4], _LOGITS, atol=1e-5)
    self.assertAlmostEqual(float(np.linalg.norm(logits)), _NORM, delta=1e-4)

  def test_slowfast_s_names_hold_the_same(self):
    self.assertContainsSubset(
        (
            "s1.pathway0_stem.conv_xy.weight", "s1.pathway0_stem.bn.running_var", "s2.pathway0_res0.branch1_bn.weight",
            "s5.pathway0_res6.branch2.se.fc2.bias", "s3.pathway0_res1.branch2.b_bn.bias", "head.lin_5.weight",
            "head.conv_5_bn.running_mean", "head.projection.bias",
        ),
        arrays := _state_dict(_described(num_classes=9), "SlowFast"),
    )  # fmt: skip
    values = pytorch_resnet.X3D.convert(arrays, "x3d_m", "x3d_m.pyth")
    kernel = arrays["s4.pathway0_res2.branch2.b.weight"]
    np.testing.assert_array_equal(values["layer3_2/conv2/conv_3d/w"][0, 1, 2], kernel[:, 0, 0, 1, 2])
    np.testing.assert_array_equal(values["Logits/conv_3d/w"][0, 0, 0].T, arrays["head.projection.weight"])

  @parameterized.parameters(
    ("x3d_xs", "SlowFast", "/some/x3d_xs.pyth", "x3d_xs"),
    ("x3d_xs", "PyTorchVideo", "X3D_S.pyth", "x3d_s"),
    ("x3d_xs", "PyTorchVideo", "x3d_small.pth", "x3d_m"),
    ("x3d_xs", "PyTorchVideo", "x3d_s/weights.pth", "x3d_m"),
    ("x3d_l", "PyTorchVideo", "x3d_xs.pyth", "x3d_l"),
    ("x3d_l", "SlowFast", "a.pyth", "x3d_l"),
  )
  def test_which_it_is(self, made, project, path, expected):
    layout = pytorch_resnet.X3D_LAYOUTS[project]
    names = [layout.name(own) for own in release.named_variables(_described(made))]
    self.assertEqual(pytorch_resnet.X3D.find(dict.fromkeys(names), path), expected)

  def test_others_are_none_of_it(self):
    # The stems of SlowFast's and pytorchvideo's ResNet-50.
    for name in ("s1.pathway0_stem.conv.weight", "blocks.0.conv.weight", "features.0.0.0.weight"):
      self.assertIsNone(pytorch_resnet.X3D.find({name: np.zeros(1)}, "x3d_s.pyth"))

  def test_what_does_not_fit_is_listed(self):
    arrays = _state_dict(_described(num_classes=3), "SlowFast")
    arrays["s2.pathway0_res0.branch2.a.weight"] = np.zeros([54, 24, 1, 1, 3], np.float32)
    with self.assertRaisesRegex(errors.CheckpointError, r"x.pyth is not of x3d_m: 1 misshapen: .*branch2.a.weight"):
      pytorch_resnet.X3D.convert(arrays, "x3d_m", "x.pyth")
    del arrays["s2.pathway0_res0.branch2.a.weight"]
    with self.assertRaisesRegex(errors.CheckpointError, r"1 missing: s2.pathway0_res0.branch2.a.weight"):
      pytorch_resnet.X3D.convert(arrays, "x3d_m", "x.pyth")


if __name__ == "__main__":
  absltest.main()
