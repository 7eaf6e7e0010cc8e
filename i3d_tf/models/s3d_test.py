"""Separable convolutions and gates alone, and in S3D: against PyTorch's network, and the identities that they keep."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.models import batch_norm
from i3d_tf.models import inception
from i3d_tf.models import inflation
from i3d_tf.models import s3d
from i3d_tf.weights import release

# Of torchvision 0.29.1's s3d() with these weights and this clip: the first logits and the norm of all 400, and of
# some endpoints the mean and the norm.
_TORCHVISION_LOGITS = (33.21688, 15.499933, 24.645409, -28.816097, 589.6557)
_TORCHVISION_ENDPOINTS = {
  "Conv2d_1a_7x7": ((1, 10, 108, 117, 64), 0.7933215, 4276.443),
  "Conv2d_2c_3x3": ((1, 10, 54, 59, 192), 1.485663, 6934.846),
  "MaxPool_4a_3x3": ((1, 5, 14, 15, 480), 4.669562, 5049.861),
  "Mixed_4f": ((1, 5, 14, 15, 832), 8.415539, 15595.81),
  "MaxPool_5a_2x2": ((1, 2, 7, 7, 832), 12.31695, 6037.356),
  "Mixed_5c": ((1, 2, 7, 7, 1024), 12.35989, 7515.189),
}

_SMALL = {"width_multiplier": 0.1, "average_space": True}


def _clip(*shape: int, seed: int = 5) -> np.ndarray:
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _filled(model, in_channels: int = 3):
  """The model or unit with values by the rule of the goldens."""
  model.build(in_channels)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, tuple(variable.shape)))
  return model


def _unit(**options) -> s3d.ExtendedUnit3D:
  return _filled(s3d.ExtendedUnit3D(6, (3, 3, 3), (2, 1, 1), name="unit", **options), in_channels=4)


class ExtendedUnitTest(parameterized.TestCase):
  @parameterized.parameters("SAME", ((1, 1, 1),))
  def test_space_then_time_then_gate(self, padding):
    unit = _unit(is_separable=True, is_gated=True, padding=padding)
    self.assertEqual(
        {name: tuple(variable.shape) for name, variable in release.named_variables(unit).items()},
        {
            "conv_3d/w": (1, 3, 3, 4, 6), "batch_norm/beta": (6,), "batch_norm/moving_mean": (6,),
            "batch_norm/moving_variance": (6,), "temporal/conv_3d/w": (3, 1, 1, 6, 6), "temporal/conv_3d/b": (6,),
            "self_gating/conv_3d/w": (1, 1, 1, 6, 6),
        },
    )  # fmt: skip
    clip = _clip(2, 7, 5, 4, 4)
    norm = unit.batch_norm
    net = tf.nn.conv3d(clip, unit.conv_3d.w, [1] * 5, "SAME")
    net = tf.nn.relu((net - norm.moving_mean) / tf.sqrt(norm.moving_variance + 1e-3) + norm.beta)
    padded = np.pad(net, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    taps = unit.temporal.conv_3d.w.numpy()[:, 0, 0]
    net = np.stack([sum(padded[:, 2 * step + tap] @ taps[tap] for tap in range(3)) for step in range(4)], axis=1)
    net = np.maximum(net + unit.temporal.conv_3d.b, 0)
    gate = 1 / (1 + np.exp(-net.mean((1, 2, 3)) @ unit.gate.conv_3d.w.numpy()[0, 0, 0]))
    self.assertGreater(np.ptp(gate), 0.01)
    np.testing.assert_allclose(unit(clip), net * gate[:, np.newaxis, np.newaxis, np.newaxis], atol=1e-5)

  def test_a_gate_in_half_precision_is_that_of_the_mean_in_single(self):
    gate = _filled(s3d.Gate(6, name="gate"), in_channels=6)
    clip = tf.constant(300 + 100 * _clip(1, 16, 28, 28, 6), tf.float16)  # their sum is beyond float16
    outputs = gate(clip)
    self.assertEqual(outputs.dtype, tf.float16)
    expected = gate(tf.cast(clip, tf.float32))
    self.assertTrue(np.isfinite(expected).all())
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, rtol=2e-3)

  def test_a_frozen_unit_uses_moving_statistics_in_both_halves(self):
    unit = _unit(is_separable=True, is_gated=True, temporal_batch_norm=True, batch_norm={"with_scale": True})
    clip, statistics = _clip(2, 4, 5, 4, 4), batch_norm.BatchStatistics()
    before = unit(clip)
    self.assertGreater(np.abs(unit(clip, batch_norm.BatchStatistics()) - before).max(), 0.1)
    unit.frozen = True
    np.testing.assert_array_equal(unit(clip, statistics), before)

  def test_a_new_temporal_half_changes_nothing(self):
    build = lambda is_separable, kernel: s3d.ExtendedUnit3D(
      6, kernel, is_separable=is_separable, is_gated=False, name="unit"
    )
    whole, halves = build(False, (1, 3, 3)), build(True, (3, 3, 3))
    for unit in (whole, halves):
      unit.build(4)
      unit.conv_3d.w.assign(testing.golden_values("w", (1, 3, 3, 4, 6)))
    clip = _clip(2, 5, 6, 4, 4)
    np.testing.assert_array_equal(halves(clip), whole(clip))


class TorchvisionTest(absltest.TestCase):
  def test_logits_and_endpoints_are_those_of_torchvision_s_network(self):
    model = _filled(s3d.S3D(400, architecture=s3d.s3d_torchvision(), average_space=True))
    clip = _clip(1, 19, 215, 233, 3)  # sizes at which PyTorch's paddings differ from SAME in every row
    logits, endpoints = model(clip)
    found = [*logits[0, :4].numpy().tolist(), float(tf.norm(logits))]
    np.testing.assert_allclose(found, _TORCHVISION_LOGITS, rtol=1e-5, atol=5e-4)
    for name, (shape, mean, norm) in _TORCHVISION_ENDPOINTS.items():
      self.assertEqual(endpoints[name].shape, shape, name)
      np.testing.assert_allclose([tf.reduce_mean(endpoints[name]), tf.norm(endpoints[name])], [mean, norm], rtol=1e-5)

  def test_flow_is_not_normalised(self):
    architecture = s3d.s3d_torchvision()
    build = lambda **options: _filled(
      s3d.S3D(final_endpoint="Conv2d_1a_7x7", width_multiplier=0.1, **options), in_channels=2
    )
    clip = _clip(1, 4, 16, 16, 2)
    plain = build(architecture=s3d.s3d_torchvision(normalizes=False))
    np.testing.assert_array_equal(build(architecture=architecture)(clip)[0], plain(clip)[0])

  def test_repeated_edges_are_for_same_padding_only(self):
    with self.assertRaisesRegex(ValueError, "temporal_padding is 'edge'; with symmetric padding it can only be"):
      s3d.S3D(architecture=s3d.s3d_torchvision(), temporal_padding="edge")


class IdentityTest(parameterized.TestCase):
  @parameterized.parameters(
      (s3d.s3d(first_kernel=1), "mean"), (s3d.s3d(first_kernel=7), "center"),
      (s3d.s3d(first_kernel=5, separable_stem=True), "mean"), (s3d.s3d(first_3d="Mixed_4b"), "center"),
  )  # fmt: skip
  def test_a_still_video_gives_what_inception_v1_gives_at_every_step(self, architecture, mode):
    flat = _filled(inception.InceptionV1(7, **_SMALL))
    deep = s3d.S3D(7, architecture=architecture, **_SMALL)
    deep.build(3)
    values = {name: variable.numpy() for name, variable in release.named_variables(flat).items()}
    inflated = inflation.inflate(values, architecture, mode=mode)
    release.assign(deep, inflated, "made", new_head=True, allow_missing=True)
    image = _clip(1, 32, 32, 3)
    expected = flat(image)[1]
    actual = deep(np.repeat(image[:, np.newaxis], 17, axis=1))[1]
    self.assertEqual(list(actual)[:16], list(expected)[:16])
    for name in list(actual)[:16]:
      wanted = expected[name].numpy()[:, np.newaxis]
      self.assertLess(np.abs(actual[name] - wanted).max() / np.abs(wanted).max(), 1e-5, name)

  def test_top_heavy_with_its_boundary_at_the_end_is_i2d(self):
    """And I2D takes every frame by itself, but for its pools and strides."""
    build = lambda architecture, **options: _filled(inception.InceptionI3d(5, architecture=architecture, **options))
    clip = _clip(2, 9, 32, 32, 3)
    of_end = build(s3d.mixed_depth(first_3d="Logits"), **_SMALL)(clip)[1]
    of_i2d = build(s3d.I2D, **_SMALL)(clip)[1]
    for name, value in of_i2d.items():
      np.testing.assert_array_equal(of_end[name], value, name)
    below = build(s3d.I2D, **{**_SMALL, "final_endpoint": "Conv3d_2c_3x3", "average_space": False})
    for step, frame in enumerate((0, 2, 4, 6, 8)):
      alone = below(clip[:, frame : frame + 1])[0]
      np.testing.assert_allclose(of_i2d["Conv3d_2c_3x3"][:, step : step + 1], alone, atol=1e-5)

  def test_gates_that_are_zero_halve_what_they_follow(self):
    gated = _filled(s3d.S3D(5, architecture=s3d.s3d(first_gate="Mixed_5c"), **_SMALL))
    plain = _filled(s3d.S3D(5, **_SMALL))
    clip = _clip(1, 9, 32, 32, 3)
    for name, variable in release.named_variables(gated).items():
      if "self_gating" in name:
        variable.assign(tf.zeros_like(variable))
    np.testing.assert_allclose(gated(clip)[1]["Mixed_5c"], plain(clip)[1]["Mixed_5c"] / 2, rtol=1e-5, atol=1e-6)


class FrozenTest(absltest.TestCase):
  def test_a_unit_is_frozen_with_all_that_follows_it(self):
    model = s3d.S3D(5, architecture=s3d.s3d(first_gate="Conv2d_2c_3x3"), width_multiplier=0.1)
    model.build(3)
    everything = {variable.ref() for variable in model.trained_variables}
    model.freeze("Mixed_3b/Branch_1/Conv2d_0b_3x3")
    left = {variable.ref() for variable in model.trained_variables}
    names = [reference.deref().name for reference in everything - left]
    scope = f"{model.name}/Mixed_3b/Branch_1/Conv2d_0b_3x3/"
    expected = ("conv_3d/w", "batch_norm/beta", "temporal/conv_3d/w", "temporal/conv_3d/b", "self_gating/conv_3d/w")
    self.assertCountEqual(names, [f"{scope}{name}:0" for name in expected])


if __name__ == "__main__":
  absltest.main()
