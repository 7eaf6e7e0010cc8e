"""Arithmetic on X3D's stages."""

import math

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf.models import x3d as spec
from i3d_tf.models import zoo

_PYTORCHVIDEO = {2.2: 3_794_274, 5.0: 6_153_384}  # of create_x3d, version 0.1.5, for 400 classes


def _convolutions(depth_factor: float, side: int):
  """(places out of a frame, weights, other values that are trained) of every convolution of the trunk."""
  side = math.ceil(side / 2)
  yield side**2, 3 * 9 * spec.STEM_WIDTH, 0
  yield side**2, spec.STEM_STEPS * spec.STEM_WIDTH, 2 * spec.STEM_WIDTH
  width = spec.STEM_WIDTH
  for block in spec.blocks(depth_factor):
    yield side**2, width * block.inner, 2 * block.inner
    side = math.ceil(side / block.stride)
    yield side**2, 27 * block.inner, 2 * block.inner
    yield side**2, block.inner * block.channels, 2 * block.channels
    if block.stride > 1:
      yield side**2, width * block.channels, 2 * block.channels
    width = block.channels
  yield side**2, width * block.inner, 2 * block.inner


def _gates(depth_factor: float):
  """(weights, biases) of every gate."""
  for block in spec.blocks(depth_factor):
    if block.squeezed:
      yield 2 * block.inner * block.squeezed, block.inner + block.squeezed


class X3DSpecTest(parameterized.TestCase):
  @parameterized.parameters((2.2, (3, 5, 11, 7)), (5.0, (5, 10, 25, 15)))
  def test_depths_widths_and_gates(self, depth_factor, depths):
    blocks = list(spec.blocks(depth_factor))
    stages = [[block for block in blocks if block.name.startswith(f"layer{stage}_")] for stage in (1, 2, 3, 4)]
    self.assertEqual(tuple(map(len, stages)), depths)
    self.assertEqual([stage[-1].channels for stage in stages], [24, 48, 96, 192])
    self.assertEqual([stage[-1].inner for stage in stages], [54, 108, 216, 432])
    self.assertEqual([stage[0].squeezed for stage in stages], [8, 8, 16, 32])  # 3.4, 6.8, 13.5 and 27 rounded
    for stage in stages:
      self.assertEqual([block.stride for block in stage], [2] + [1] * (len(stage) - 1))
      self.assertEqual([block.squeezed is None for block in stage], [bool(i % 2) for i in range(len(stage))])

  def test_rounding_takes_away_no_more_than_a_tenth(self):
    self.assertEqual([spec.round_width(width) for width in (1, 11, 12, 19.9, 20, 27)], [8, 16, 16, 24, 24, 24 + 8])

  @parameterized.parameters(2.2, 5.0)
  def test_parameters_are_pytorchvideo_s_and_batch_norm_of_the_first_shortcut(self, depth_factor):
    head = 432 * spec.LIN5_WIDTH + spec.LIN5_WIDTH * 400 + 400
    trunk = sum(weights + others for _, weights, others in _convolutions(depth_factor, 224))
    count = trunk + sum(map(sum, _gates(depth_factor))) + head
    self.assertEqual(count, _PYTORCHVIDEO[depth_factor] + 2 * spec.STEM_WIDTH)
    names = {2.2: ("x3d_xs", "x3d_s", "x3d_m"), 5.0: ("x3d_l",)}[depth_factor]
    for name in names:
      self.assertEqual(zoo.get(name).parameters, {"rgb": count})

  @parameterized.parameters(("x3d_xs", 0.60), ("x3d_s", 1.96), ("x3d_m", 4.73), ("x3d_l", 18.37))
  def test_multiply_adds_are_the_paper_s(self, name, published):
    entry = zoo.get(name)
    depth_factor = entry.arguments["depth_factor"]
    trunk = sum(places * weights for places, weights, _ in _convolutions(depth_factor, entry.training["crop"]))
    once = sum(weights for weights, _ in _gates(depth_factor)) + 432 * spec.LIN5_WIDTH + spec.LIN5_WIDTH * 400
    count = (entry.training["num_frames"] * trunk + once) / 1e9
    self.assertAlmostEqual(count, entry.giga_multiply_adds["rgb"], delta=0.005)
    self.assertAlmostEqual(count, published, delta=0.006)


if __name__ == "__main__":
  absltest.main()
