"""A still video through the inflated network gives what its frame gives through Inception-v1; and where it does not.

Values are compared relative to the largest of Inception-v1's at that endpoint.
"""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import inception
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import inflation
from i3d_tf.models import units
from i3d_tf.weights import release

TOLERANCE = 1e-4
# For 128 frames and zeros around them: first and last step whose receptive field lies within the video; worked out from
# kernels, strides and SAME padding, not by the code under test.
CLEAN = {
  "Conv3d_1a_7x7": (1, 61),
  "MaxPool3d_2a_3x3": (1, 61),
  "Conv3d_2b_1x1": (1, 61),
  "Conv3d_2c_3x3": (2, 60),
  "MaxPool3d_3a_3x3": (2, 60),
  "Mixed_3b": (3, 59),
  "Mixed_3c": (4, 58),
  "MaxPool3d_4a_3x3": (2, 28),
  "Mixed_4b": (3, 27),
  "Mixed_4c": (4, 26),
  "Mixed_4d": (5, 25),
  "Mixed_4e": (6, 24),
  "Mixed_4f": (7, 23),
  "MaxPool3d_5a_2x2": (4, 11),
  "Mixed_5b": (5, 10),
  "Mixed_5c": (6, 9),
}


def _values(shapes) -> dict[str, np.ndarray]:
  """Random variables, with batch-norm statistics that are not trivial."""
  return {name: testing.golden_values(name, shape) for name, shape in shapes.items()}


def _image(side: int, channels: int = 3) -> np.ndarray:
  return np.random.default_rng(0).uniform(-1, 1, [1, side, side, channels]).astype(np.float32)


def _still(image: np.ndarray, frames: int) -> np.ndarray:
  return np.repeat(image[:, np.newaxis], frames, axis=1)


def _errors_by_step(actual: np.ndarray, flat: np.ndarray) -> np.ndarray:
  """Of `[1, T, H, W, C]` against `[1, H, W, C]`: the largest difference at each step."""
  actual, flat = np.asarray(actual), np.asarray(flat)
  return np.abs(actual - flat[:, np.newaxis]).max((0, 2, 3, 4)) / np.abs(flat).max()


class UnitTest(parameterized.TestCase):
  """Each of the 57 units alone."""

  @parameterized.parameters("mean", "center")
  def test_equals_the_flat_convolution_wherever_it_sees_the_video_alone(self, mode):
    rows = {spec.endpoint_name(row): row for row in spec.ROWS}
    checked = 0
    for flat, deep in zip(spec.units(spec.INCEPTION_V1), spec.units(), strict=True):
      if deep.batch_norm:
        strides = spec.I3D.strides.get(rows[deep.endpoint].name, 1), getattr(rows[deep.endpoint], "stride", 1)
        self._check(flat, deep, *strides, mode)
        checked += 1
    self.assertEqual(checked, 57)

  def _check(self, flat, deep, time_stride, stride, mode):
    frames, image = 12, np.abs(_image(6, flat.in_channels))
    kernel = testing.golden_values(f"{flat.name}/w", (*flat.kernel, flat.in_channels, flat.out_channels))
    beta, mean, variance = (
      testing.golden_values(f"{flat.name}/{name}", (flat.out_channels,))
      for name in ("beta", "moving_mean", "moving_variance")
    )
    unit = units.Unit3D(deep.out_channels, deep.kernel, (time_stride, stride, stride), name="unit")
    unit.build(deep.in_channels)
    unit.conv_3d.w.assign(inflation.inflate_kernel(kernel, deep.kernel[0], mode=mode))
    for name, value in (("beta", beta), ("moving_mean", mean), ("moving_variance", variance)):
      getattr(unit.batch_norm, name).assign(value)
    expected = np.asarray(tf.nn.conv2d(image, kernel[0], stride, "SAME"), np.float64)
    expected = np.maximum((expected - mean) / np.sqrt(variance + 1e-3) + beta, 0)
    by_step = _errors_by_step(unit(_still(image, frames)), expected)
    steps = -(-frames // time_stride)
    before = ((steps - 1) * time_stride + deep.kernel[0] - frames) // 2
    first_frame = np.arange(steps) * time_stride - before
    inside = (first_frame >= 0) & (first_frame + deep.kernel[0] <= frames)
    self.assertLess(by_step[inside].max(), TOLERANCE, deep.name)
    self.assertEqual(inside.sum(), {1: frames, 3: frames - 2, 7: 3}[deep.kernel[0]], deep.name)
    if mode == "center":
      self.assertLess(by_step.max(), TOLERANCE, deep.name)
    elif deep.kernel[0] > 1:
      self.assertGreater(by_step[~inside].min(), 100 * TOLERANCE, deep.name)


class TrunkTest(parameterized.TestCase):
  def _outputs(self, *, frames, side, mode="mean", width=1.0, **options) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Every endpoint of the trunk of I3D `[1, T, H, W, C]`, and of Inception-v1 `[1, H, W, C]`, by its name in I3D."""
    flat = inception.InceptionV1(final_endpoint="Mixed_5c", width_multiplier=width)
    deep = inception.InceptionI3d(final_endpoint="Mixed_5c", width_multiplier=width, **options)
    shapes = spec.variable_shapes(spec.INCEPTION_V1, width_multiplier=width)
    values = {name: value for name, value in _values(shapes).items() if not name.startswith("Logits")}
    image = _image(side)
    for model, given in ((flat, values), (deep, inflation.inflate(values, mode=mode))):
      model.build(3)
      release.assign(model, given, "made")
    expected, actual = flat(image)[1], deep(_still(image, frames))[1]
    self.assertLen(actual, 16)
    return {name: (actual[name], expected[flat_name]) for name, flat_name in zip(actual, expected, strict=True)}

  def test_repeated_edges_keep_every_step_of_every_endpoint(self):
    outputs = self._outputs(frames=16, side=64, temporal_padding="edge")
    self.assertEqual([deep.shape[1] for deep, _ in outputs.values()], [8] * 7 + [4] * 6 + [2] * 3)
    for name, (deep, flat) in outputs.items():
      self.assertLess(_errors_by_step(deep, flat).max(), TOLERANCE, name)

  def test_zeros_keep_the_steps_that_do_not_see_them_and_no_others(self):
    outputs = self._outputs(frames=128, side=32)
    self.assertEqual(tuple(outputs), tuple(CLEAN))
    for name, (deep, flat) in outputs.items():
      first, last = CLEAN[name]
      self.assertLess(_errors_by_step(deep, flat)[first : last + 1].max(), TOLERANCE, name)
      # What the outermost tap of each convolution lets through falls to a third from one to the next, in the end to
      # 1e-5: too little to be told from rounding, but the clean steps are rounded alike.
      by_step = _errors_by_step(deep, deep[:, (first + last) // 2])
      self.assertLess(by_step[first : last + 1].max(), 1e-6, name)
      self.assertGreater(min(by_step[first - 1], by_step[last + 1]), 3e-6, name)

  def test_zeros_change_the_first_step_of_the_first_convolution(self):
    by_step = _errors_by_step(*self._outputs(frames=16, side=64, width=0.25)["Conv3d_1a_7x7"])
    self.assertGreater(by_step[0], 0.1)
    self.assertLess(by_step[1:6].max(), TOLERANCE)

  @parameterized.parameters(16, 17)
  def test_the_centre_alone_keeps_every_step_in_spite_of_zeros(self, frames):
    outputs = self._outputs(frames=frames, side=64, mode="center", temporal_padding="zeros")
    for name, (deep, flat) in outputs.items():
      self.assertLess(_errors_by_step(deep, flat).max(), 1e-6, name)


if __name__ == "__main__":
  absltest.main()
