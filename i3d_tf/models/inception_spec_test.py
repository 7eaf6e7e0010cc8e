"""Arithmetic on the rows, without TensorFlow."""

import json
import math

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import testing
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import manifest


class InceptionSpecTest(parameterized.TestCase):
  def test_endpoints_are_the_releases_in_order(self):
    self.assertEqual(
      spec.ENDPOINTS,
      (
        "Conv3d_1a_7x7",
        "MaxPool3d_2a_3x3",
        "Conv3d_2b_1x1",
        "Conv3d_2c_3x3",
        "MaxPool3d_3a_3x3",
        "Mixed_3b",
        "Mixed_3c",
        "MaxPool3d_4a_3x3",
        "Mixed_4b",
        "Mixed_4c",
        "Mixed_4d",
        "Mixed_4e",
        "Mixed_4f",
        "MaxPool3d_5a_2x2",
        "Mixed_5b",
        "Mixed_5c",
        "Logits",
        "Predictions",
      ),
    )

  @parameterized.parameters(
    (3, 51, 12_332_259, 12_346_819),
    (3, 400, 12_689_984, 12_704_544),
    (3, 600, 12_894_984, 12_909_544),
    (2, 101, 12_361_557, 12_376_117),
    (2, 400, 12_668_032, 12_682_592),
    (2, 700, 12_975_532, 12_990_092),
  )
  def test_parameter_counts(self, channels, classes, trainable, everything):
    shapes = spec.variable_shapes(in_channels=channels, num_classes=classes)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    self.assertEqual(sum(sizes.values()), everything)
    self.assertEqual(sum(size for name, size in sizes.items() if testing.is_trained(name)), trainable)
    self.assertLen(sizes, 230)
    self.assertLen([name for name in sizes if testing.is_trained(name)], 116)

  @parameterized.parameters(*manifest.NAMES)
  def test_names_and_shapes_are_those_of_the_checkpoint(self, name):
    index = json.loads(testing.shared(f"formats/checkpoints/{name}_index.json").read_text())
    stored = {row["name"]: tuple(row["shape"]) for row in index if not row["name"].endswith("/Momentum")}
    kinetics_600 = name.endswith("kin600")
    prefix = "" if kinetics_600 else "Flow/inception_i3d/" if name.startswith("flow") else "RGB/inception_i3d/"
    shapes = spec.variable_shapes(
      in_channels=2 if name.startswith("flow") else 3, num_classes=600 if kinetics_600 else 400
    )
    ones = (1, 1, 1, 1) if kinetics_600 else ()
    expected = {
      prefix + variable: ones + shape if "/batch_norm/" in variable else shape for variable, shape in shapes.items()
    }
    self.assertEqual(stored, expected)

  @parameterized.parameters(
    (3, 64, 224, 111.153),
    (2, 64, 224, 102.341),
    (3, 16, 224, 27.788),
    (3, 250, 224, 434.946),
    (3, 256, 224, 444.614),
  )
  def test_multiply_adds(self, channels, frames, side, giga):
    count = spec.multiply_adds((frames, side, side), in_channels=channels)
    self.assertAlmostEqual(count / 1e9, giga, delta=0.0006)

  def test_multiply_adds_of_one_block(self):
    size, sizes = (64, 224, 224), {}
    for row in spec.ROWS:
      size = sizes[spec.endpoint_name(row)] = spec.output_size(size, row)
    block = sum(u.num_weights for u in spec.units() if u.endpoint == "Mixed_3c") * math.prod(sizes["Mixed_3c"])
    self.assertAlmostEqual(block / 1e9, 20.989, delta=0.0005)
    self.assertEqual(sizes["Mixed_5c"], (8, 7, 7))

  def test_an_architecture_of_unknown_rows_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"unknown rows \['3z'\].*'3b'"):
      spec.Architecture(kernels={"3z": 3})

  def test_width_multiplier_scales_every_width_but_the_classes(self):
    units = list(spec.units(num_classes=7, width_multiplier=0.125))
    self.assertEqual(units[0].out_channels, 8)
    self.assertEqual(units[-1].out_channels, 7)
    self.assertEqual(units[-1].in_channels, 48 + 48 + 16 + 16)
    self.assertEqual(min(unit.out_channels for unit in units[:-1]), 4)


if __name__ == "__main__":
  absltest.main()
