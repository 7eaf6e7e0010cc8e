"""Arithmetic on the rows of the residual family; no TensorFlow."""

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import testing
from i3d_tf.models import resnet_spec as spec


def _units(name: str, **sizes):
  return {unit.name: unit for unit in spec.units(spec.ARCHITECTURES[name], **sizes)}


class ResnetSpecTest(parameterized.TestCase):
  @parameterized.parameters(
      ("r3d_18", 33_371_472), ("mc3_18", 11_695_440), ("r2plus1d_18", 31_505_325),  # torchvision's num_params
      ("i3d_r50", 28_043_472),  # pytorchvideo's
      ("i3d_r50_32x2", 28_043_472),
      ("i3d_r50_caffe2", 28_043_472),
      ("i3d_r50_non_local", 35_397_840),  # mmaction2: 35.4M
      ("r2plus1d_34", 63_697_175),  # VMZ: 63.6M
  )  # fmt: skip
  def test_published_parameters(self, name, count):
    self.assertEqual(testing.num_trained(spec.variable_shapes(spec.ARCHITECTURES[name])), count)

  def test_resnet_50_is_that_of_images(self):
    # torchvision's resnet50 has 25,557,032 parameters for 1000 classes.
    for name in ("resnet_50", "tsm_r50", "c2d_r50"):
      self.assertEqual(
        testing.num_trained(spec.variable_shapes(spec.ARCHITECTURES[name], num_classes=1000)), 25_557_032
      )

  def test_rmc3_is_r3d_with_two_groups_of_layers_flat(self):
    saved = 2 * 3 * 7 * 7 * 64 + 4 * 2 * 3 * 3 * 64 * 64  # of three steps two, in the stem and in four convolutions
    counts = [testing.num_trained(spec.variable_shapes(spec.ARCHITECTURES[name])) for name in ("r3d_18", "rmc3_18")]
    self.assertEqual(counts[0] - counts[1], saved)

  def test_middle_widths(self):
    pairs = ((64, 64), (64, 128), (128, 128))
    self.assertEqual([spec.middle_width(*pair) for pair in pairs], [144, 230, 288])
    middle = lambda name, unit: _units(name)[f"{unit}/spatial"].out_channels
    self.assertEqual([middle("r2plus1d_18", f"layer2_0/{conv}") for conv in ("conv1", "conv2")], [230, 230])
    self.assertEqual([middle("r2plus1d_34", f"layer2_0/{conv}") for conv in ("conv1", "conv2")], [230, 288])
    self.assertEqual(middle("r2plus1d_18", "layer2_1/conv1"), 288)
    self.assertEqual(middle("r2plus1d_18", "stem"), 45)

  @parameterized.parameters(
    ("i3d_r50", "333 3131 313131 131"), ("i3d_r50_32x2", "333 3131 313131 131"), ("c2d_r50", "111 1111 111111 111")
  )
  def test_temporal_kernels_of_bottlenecks(self, name, expected):
    found = [str(unit.kernel[0]) for unit in _units(name).values() if unit.name.endswith("/conv1")]
    self.assertEqual("".join(found), expected.replace(" ", ""))
    others = {unit.kernel[0] for unit in _units(name).values() if unit.name.endswith(("/conv2", "/conv3"))}
    self.assertEqual(others, {1})

  def test_strides_of_mixed_networks(self):
    strides = {}
    for name in ("r3d_18", "mc3_18", "rmc3_18"):
      blocks = [row for row in spec.rows(spec.ARCHITECTURES[name]) if isinstance(row, spec.Block)]
      strides[name] = [block.branch[0].stride[0] for block in blocks if block.name.endswith("_0")]
      shortcuts = {block.name: block.shortcut.stride for block in blocks if block.shortcut is not None}
      self.assertEqual(shortcuts, {block.name: block.branch[0].stride for block in blocks if block.name in shortcuts})
      self.assertLen(shortcuts, 3)
    self.assertEqual(strides, {"r3d_18": [1, 2, 2, 2], "mc3_18": [1, 1, 1, 1], "rmc3_18": [1, 2, 2, 2]})

  def test_non_local_blocks_stand_where_slowfast_puts_them(self):
    rows = [row.name for row in spec.rows(spec.ARCHITECTURES["i3d_r50_non_local"])]
    places = [rows[index - 1] for index, name in enumerate(rows) if name.endswith("non_local")]
    self.assertEqual(places, ["layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5"])
    self.assertEqual(rows.index("pool2"), rows.index("layer1_2") + 1)

  def test_small_networks_keep_their_form(self):
    small, large = (_units("r2plus1d_34", width_multiplier=width) for width in (0.1, 1))
    self.assertEqual(list(small), list(large))
    self.assertEqual([unit.kernel for unit in small.values()], [unit.kernel for unit in large.values()])
    self.assertEqual(small["stem/temporal"].out_channels, 6)


if __name__ == "__main__":
  absltest.main()
