"""Counts and names of S3D and its relatives, from their rows alone."""

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import testing
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import s3d

_GATES_FROM = "Conv2d_2c_3x3"


def _num_weights(architecture: spec.Architecture) -> int:
  """Of all kernels but the classifier's."""
  return sum(unit.num_weights for unit in spec.units(architecture) if unit.endpoint != spec.LOGITS)


def _num_trained(architecture: spec.Architecture) -> int:
  return testing.num_trained(spec.variable_shapes(architecture))


class S3dTest(parameterized.TestCase):
  @parameterized.parameters(
    (s3d.s3d(first_kernel=7), 7_916_608, 79.29),
    (s3d.s3d(), 7_878_976, 64.18),
    (s3d.s3d(first_kernel=7, separable_stem=True), 7_888_832, 71.91),
    (s3d.s3d(first_gate=_GATES_FROM), 7_878_976 + 1_219_328, 64.18),
    (s3d.s3d(first_kernel=5), 7_878_976 + 2 * 49 * 3 * 64, 71.73),
  )
  def test_weights_and_multiply_adds_of_slim_s_dialect(self, architecture, weights, giga):
    self.assertEqual(_num_weights(architecture), weights)
    head = 7 * 1024 * 400
    counted = (spec.multiply_adds((64, 224, 224), architecture) - head) / 1e9
    self.assertAlmostEqual(counted, giga, delta=0.006)

  def test_parameters_of_torchvision_s_dialect(self):
    self.assertEqual(_num_trained(s3d.s3d_torchvision()), 8_320_048)
    self.assertEqual(_num_trained(s3d.s3d_torchvision(gated=True)), 8_320_048 + 1_219_328)

  def test_gates_follow_the_third_convolution_and_every_branch(self):
    gates = [unit for unit in spec.units(s3d.s3d(first_gate=_GATES_FROM)) if unit.part == spec.GATE]
    self.assertLen(gates, 1 + 9 * 4)
    self.assertEqual(gates[0].name, "Conv2d_2c_3x3/self_gating")
    self.assertEqual([gate.out_channels for gate in gates[1:5]], [64, 128, 32, 32])
    self.assertEqual(gates[-1].name, "Mixed_5c/Branch_3/Conv2d_0b_1x1/self_gating")
    late = [unit for unit in spec.units(s3d.s3d(first_gate="Mixed_5b")) if unit.part == spec.GATE]
    self.assertEqual([gate.name for gate in late], [gate.name for gate in gates[-8:]])

  def test_separable_are_the_3x3_convolutions_from_the_endpoint_named_on(self):
    count = lambda **options: sum(unit.part == spec.TEMPORAL for unit in spec.units(s3d.s3d(**options)))
    self.assertEqual(count(), 1 + 9 * 2)
    self.assertEqual(count(separable_stem=True), 1 + 1 + 9 * 2)
    self.assertEqual(count(first_3d="Mixed_3b"), 9 * 2)
    self.assertEqual(count(first_3d="MaxPool_4a_3x3"), 7 * 2)
    self.assertEqual(count(first_3d="Mixed_5c"), 2)
    self.assertEqual(count(first_3d="Logits"), 0)
    shapes = spec.variable_shapes(s3d.s3d(first_3d="Mixed_5b"))
    self.assertEqual(shapes["Conv2d_1a_7x7/conv_3d/w"], (3, 7, 7, 3, 64))
    self.assertEqual(shapes["Mixed_4f/Branch_2/Conv2d_0b_3x3/conv_3d/w"], (1, 3, 3, 32, 128))
    self.assertNotIn("Mixed_4f/Branch_2/Conv2d_0b_3x3/temporal/conv_3d/w", shapes)
    self.assertEqual(shapes["Mixed_5b/Branch_2/Conv2d_0b_3x3/temporal/conv_3d/w"], (3, 1, 1, 128, 128))
    self.assertEqual(shapes["Mixed_5b/Branch_2/Conv2d_0b_3x3/temporal/conv_3d/b"], (128,))

  def test_padding_on_both_sides_loses_the_last_of_an_odd_number_at_the_fourth_pool(self):
    torchvision, pool = s3d.s3d_torchvision(), spec.Pool("5a_2x2", 2, 2)
    self.assertEqual(spec.output_size((5, 13, 14), pool, torchvision), (2, 6, 7))
    self.assertEqual(spec.output_size((5, 13, 14), pool, s3d.s3d()), (3, 7, 7))
    self.assertEqual(torchvision.clip_limits, (13, (209, 240)))
    self.assertEqual(s3d.s3d().clip_limits, (9, (193, 224)))

  @parameterized.parameters(
    ({"first_kernel": 4}, "first_kernel is 4; allowed are 1, 3, 5, 7"),
    ({"first_3d": "Conv3d_2c_3x3"}, "no endpoint 'Conv3d_2c_3x3'; allowed are Conv2d_1a_7x7, .*Mixed_5c, Logits"),
    ({"first_gate": ""}, "no endpoint ''"),
  )
  def test_what_there_is_not(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      s3d.s3d(**options)


class MixedDepthTest(parameterized.TestCase):
  def test_i2d_is_inception_v1_in_weights_and_costs_what_its_kernels_cost(self):
    self.assertEqual(_num_trained(s3d.I2D), _num_trained(spec.INCEPTION_V1))
    self.assertEqual({unit.kernel[0] for unit in spec.units(s3d.I2D)}, {1})
    head = 7 * 1024 * 400
    self.assertAlmostEqual((spec.multiply_adds((64, 224, 224), s3d.I2D) - head) / 1e9, 36.888, delta=5e-4)

  def test_the_boundary_moves_from_i3d_to_i2d(self):
    names = [spec.endpoint_name(row) for row in spec.ROWS]
    self.assertEqual(s3d.mixed_depth(), spec.I3D)
    self.assertEqual(s3d.mixed_depth(first_3d=names[0]), spec.I3D)
    self.assertEqual(s3d.mixed_depth(last_3d=names[-1]), spec.I3D)
    self.assertEqual(s3d.mixed_depth(first_3d="Logits"), s3d.I2D)
    whole, flat = _num_weights(spec.I3D), _num_weights(s3d.I2D)
    for below, above in zip(names, names[1:]):
      # What the one has in three dimensions, the other has in two.
      bottom, top = s3d.mixed_depth(last_3d=below), s3d.mixed_depth(first_3d=above)
      self.assertEqual(_num_weights(bottom) + _num_weights(top), whole + flat)
      kernels = {unit.endpoint: unit.kernel for unit in spec.units(top)}
      deep = {unit.endpoint: unit.kernel for unit in spec.units()}
      for name, kernel in kernels.items():
        is_deep = name == spec.LOGITS or names.index(name) >= names.index(above)
        self.assertEqual(kernel[0], deep[name][0] if is_deep else 1)

  def test_pools_and_strides_stay(self):
    top = s3d.mixed_depth(first_3d="Mixed_5b")
    self.assertEqual((top.strides, top.kernels), (spec.I3D.strides, spec.I3D.kernels))
    pool, branch_pool = spec.Pool("4a_3x3", 3, 2), spec.Pool("0a_3x3", 3, 1)
    self.assertEqual(spec.temporal_kernel(pool, top, "4a_3x3"), 3)
    self.assertEqual(spec.temporal_kernel(branch_pool, top, "3b"), 3)

  def test_an_end_before_the_beginning(self):
    with self.assertRaisesRegex(ValueError, "last_3d is Mixed_3b, which comes before first_3d, Mixed_4b"):
      s3d.mixed_depth(first_3d="Mixed_4b", last_3d="Mixed_3b")


if __name__ == "__main__":
  absltest.main()
