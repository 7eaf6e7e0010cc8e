"""A still video through an inflated ResNet-50 gives, at every step, what its frame gives through the flat one.

So it does if RGB is normalised alike, which the tests see to; SlowFast's networks have constants of their own.
"""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import testing
from i3d_tf.models import inflation
from i3d_tf.models import resnet
from i3d_tf.models import resnet_spec as spec
from i3d_tf.weights import release

_SIZES = {"num_classes": 5, "width_multiplier": 0.1}


def _values() -> dict[str, np.ndarray]:
  shapes = spec.variable_shapes(spec.ARCHITECTURES["resnet_50"], **_SIZES)
  return {name: testing.golden_values(name, shape) for name, shape in shapes.items()}


def _made(architecture: str, values, **options) -> resnet.ResNet:
  model = resnet.ResNet(architecture=architecture, **_SIZES, **options)
  model.build(3)
  release.assign(model, values, "made", new_head=True, allow_missing=True)
  return model


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
  return spec.variable_shapes(spec.ARCHITECTURES[architecture], **_SIZES)


class ResNetInflationTest(parameterized.TestCase):
  def _errors(self, architecture: str, mode: str, temporal_padding: str) -> dict[str, np.ndarray]:
    """The largest difference at each step of each endpoint of the trunk, relative to the largest value."""
    frame = np.random.default_rng(0).uniform(-1, 1, [1, 1, 48, 64, 3]).astype(np.float32)
    flat = _made("resnet_50", _values())(frame)[1]
    values = inflation.inflate_to(_values(), _shapes(architecture), mode=mode)
    model = _made(architecture, values, temporal_padding=temporal_padding)
    model.rgb_mean, model.rgb_std = (getattr(spec.ARCHITECTURES["resnet_50"], name) for name in ("rgb_mean", "rgb_std"))
    deep = model(np.repeat(frame, 9, axis=1))[1]
    errors, expected = {}, None
    for name, value in deep.items():
      if name == "PooledFeatures":
        break
      expected = flat.get(name, expected)  # a pool over time, or a non-local block, has none of its own
      errors[name] = np.abs(value - expected).max((0, 2, 3, 4)) / np.abs(expected).max()
    return errors

  @parameterized.parameters("i3d_r50", "i3d_r50_32x2", "i3d_r50_non_local", "c2d_r50")
  def test_repeated_edges_keep_every_step(self, architecture):
    errors = self._errors(architecture, "mean", "edge")
    self.assertGreaterEqual(len(errors), 19)
    for name, by_step in errors.items():
      self.assertLess(by_step.max(), 1e-4, name)

  @parameterized.parameters("i3d_r50", "i3d_r50_32x2")
  def test_the_centre_alone_keeps_every_step_in_spite_of_zeros(self, architecture):
    for name, by_step in self._errors(architecture, "center", "zeros").items():
      self.assertLess(by_step.max(), 1e-6, name)

  def test_zeros_change_the_outermost_steps(self):
    errors = self._errors("i3d_r50", "mean", "zeros")
    self.assertGreater(errors["stem"][[0, 1, -2, -1]].min(), 0.05)
    self.assertLess(errors["stem"][2:-2].max(), 1e-4)
    self.assertGreater(errors["layer1_0"][2], 0.01)

  def test_a_factorised_network_has_other_variables(self):
    with self.assertRaisesRegex(ValueError, "the new network has no variables stem/conv_3d/w"):
      inflation.inflate_to(_values(), _shapes("r2plus1d_34"))


if __name__ == "__main__":
  absltest.main()
