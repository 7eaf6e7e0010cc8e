"""S3D's weights from its two PyTorch versions' state dicts."""

from collections.abc import Mapping
import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import s3d
from i3d_tf.weights import pytorch
from i3d_tf.weights import saved

# Some names of the versions' own state dicts (torchvision 0.29.1; kylemin/S3D at 539b28a3) with what they are here.
_NAMES = {
  "s3d_torchvision": {
    "features.0.0.0.weight": "Conv2d_1a_7x7/conv_3d/w",
    "features.0.1.1.running_var": "Conv2d_1a_7x7/temporal/batch_norm/moving_variance",
    "features.2.1.weight": "Conv2d_2b_1x1/batch_norm/gamma",
    "features.5.branch0.1.bias": "Mixed_3b/Branch_0/Conv2d_0a_1x1/batch_norm/beta",
    "features.14.branch2.1.0.0.weight": "Mixed_5b/Branch_2/Conv2d_0b_3x3/conv_3d/w",
    "features.15.branch2.1.1.0.weight": "Mixed_5c/Branch_2/Conv2d_0b_3x3/temporal/conv_3d/w",
    "features.12.branch3.1.1.running_mean": "Mixed_4f/Branch_3/Conv2d_0b_1x1/batch_norm/moving_mean",
    "classifier.1.bias": "Logits/Conv2d_0c_1x1/conv_3d/b",
  },
  "s3d_kylemin": {
    "base.0.conv_s.weight": "Conv2d_1a_7x7/conv_3d/w",
    "base.0.bn_t.running_var": "Conv2d_1a_7x7/temporal/batch_norm/moving_variance",
    "base.2.bn.weight": "Conv2d_2b_1x1/batch_norm/gamma",
    "base.5.branch0.0.bn.bias": "Mixed_3b/Branch_0/Conv2d_0a_1x1/batch_norm/beta",
    "base.14.branch2.1.conv_s.weight": "Mixed_5b/Branch_2/Conv2d_0b_3x3/conv_3d/w",
    "base.15.branch2.1.conv_t.weight": "Mixed_5c/Branch_2/Conv2d_0b_3x3/temporal/conv_3d/w",
    "base.12.branch3.1.bn.running_mean": "Mixed_4f/Branch_3/Conv2d_0b_1x1/batch_norm/moving_mean",
    "fc.0.bias": "Logits/Conv2d_0c_1x1/conv_3d/b",
  },
}


@functools.cache
def _values(num_classes: int = 7) -> dict[str, np.ndarray]:
  shapes = spec.variable_shapes(s3d.s3d_torchvision(), num_classes=num_classes)
  return {name: testing.golden_values(name, shape) for name, shape in shapes.items()}


def _arrays(model: str) -> dict[str, np.ndarray]:
  """The state dict that holds `_values`, with the counters of PyTorch's batch norm."""
  names = pytorch.S3D_LAYOUTS[model].names()
  to_torch = lambda value: value.transpose(4, 3, 0, 1, 2) if value.ndim == 5 else value
  arrays = {names[name]: to_torch(value) for name, value in _values().items()}
  counters = [name.replace("running_var", "num_batches_tracked") for name in arrays if name.endswith("running_var")]
  return arrays | dict.fromkeys(counters, np.array(3))


class TorchS3dTest(parameterized.TestCase):
  @parameterized.parameters(*pytorch.S3D_LAYOUTS)
  def test_every_variable_has_its_place(self, model):
    arrays = _arrays(model)
    # 1 + 1 + 1 + 9 * 6 convolutions, of which 1 + 1 + 9 * 2 have a second half; each with a batch norm of five.
    self.assertLen(arrays, (57 + 20) * 6 + 2)
    for theirs, ours in _NAMES[model].items():
      self.assertEqual(pytorch.S3D_LAYOUTS[model].names()[ours], theirs)
    found, values = saved.from_state_dict(arrays, "made.pth")
    self.assertEqual(found, model)
    self.assertEqual(set(values), set(_values()))
    for name, value in _values().items():
      np.testing.assert_array_equal(values[name], value, name)

  @parameterized.parameters(
    ({"fc.0.weight": None}, "is not of s3d_kylemin: 1 missing: fc.0.weight"),
    ({"fc.1.weight": np.zeros(3, np.float32)}, "is not of s3d_kylemin: 1 unmatched: fc.1.weight"),
    ({"base.2.bn.bias": np.zeros(3, np.float32)}, r"1 misshapen: base.2.bn.bias float32 \(3,\) for \(64,\)"),
    ({"base.2.bn.bias": np.zeros(64, np.float16)}, "1 misshapen: base.2.bn.bias float16"),
  )
  def test_what_does_not_fit_is_named(self, changes: Mapping[str, np.ndarray | None], sentence: str):
    arrays = {name: array for name, array in (_arrays("s3d_kylemin") | changes).items() if array is not None}
    with self.assertRaisesRegex(errors.CheckpointError, f"made.pth .*{sentence}"):
      saved.from_state_dict(arrays, "made.pth")


if __name__ == "__main__":
  absltest.main()
