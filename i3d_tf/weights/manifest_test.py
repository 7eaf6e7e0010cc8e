"""The manifests equal the published index files, and name exactly the network's variables."""

import collections
import json
import math
import os
import re
import struct
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import special
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf.models import inception_spec
from i3d_tf.weights import manifest
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import tensorflow1

# (tensors, float32 values, bytes of data) of the release; values include Momentum slots.
EXPECTED = {
  "rgb_imagenet": (230, 12_704_544, 50_818_176),
  "flow_imagenet": (230, 12_682_592, 50_730_368),
  "rgb_scratch": (230, 12_704_544, 50_818_176),
  "flow_scratch": (230, 12_682_592, 50_730_368),
  "rgb_scratch_kin600": (346, 25_804_528, 103_218_112),
}
SLOT = "/Momentum"
NAMES = resources.class_names(400)


class ManifestTest(parameterized.TestCase):
  @parameterized.parameters(*manifests.NAMES)
  def test_equals_the_published_index(self, name):
    published = json.loads(testing.shared(f"formats/checkpoints/{name}_index.json").read_text())
    expected = {entry["name"]: (tuple(entry["shape"]), entry["crc32c"]) for entry in published}
    self.assertLen(expected, len(published))
    manifest = manifests.load(name)
    self.assertEqual(manifest.tensors, expected)
    self.assertEqual({entry["dtype"] for entry in published}, {"float32"})
    self.assertEqual(manifest.data_bytes, sum(entry["size"] for entry in published))

  @parameterized.parameters(*manifests.NAMES)
  def test_names_and_shapes_are_the_networks(self, name):
    manifest = manifests.load(name)
    layout = tensorflow1.LAYOUTS[manifest.stream]
    in_channels = 2 if "flow" in name else 3
    expected = {}
    for variable, shape in inception_spec.variable_shapes(
      in_channels=in_channels, num_classes=manifest.num_classes
    ).items():
      expected[layout.prefix + variable] = layout.shape(variable, np.zeros(shape, np.bool_))
      if manifest.stream == "rgb600" and testing.is_trained(variable):
        expected[layout.prefix + variable + SLOT] = expected[layout.prefix + variable]
    self.assertEqual({tensor: shape for tensor, (shape, _) in manifest.tensors.items()}, expected)

  @parameterized.parameters(*EXPECTED.items())
  def test_counts(self, name, counts):
    manifest = manifests.load(name)
    values = sum(math.prod(shape) for shape, _ in manifest.tensors.values())
    self.assertEqual((len(manifest.tensors), values, manifest.data_bytes), counts)
    self.assertEqual(manifest.data_bytes, 4 * values)
    self.assertEqual(sum(tensor.endswith(SLOT) for tensor in manifest.tensors), 116 if "kin600" in name else 0)

  def test_each_file_describes_the_checkpoint_it_is_named_after(self):
    self.assertEqual(sorted(EXPECTED), sorted(manifests.NAMES))
    files = {file.stem for file in resources.path("checkpoints").glob("*.json")}
    self.assertEqual(files, set(manifests.NAMES))
    for name in manifests.NAMES:
      manifest = manifests.load(name)
      self.assertEqual(manifest.name, name)
      self.assertEqual(manifest.num_classes, len(resources.class_names(manifest.num_classes)))
      self.assertRegex(manifest.data_git_blob, "^[0-9a-f]{40}$")
    blobs = {manifests.load(name).data_git_blob for name in manifests.NAMES}
    self.assertLen(blobs, len(manifests.NAMES))

  def test_rgb_scratch_can_be_recognised_by_checksums_alone(self):
    checksums = collections.Counter(crc for _, crc in manifests.load("rgb_scratch").tensors.values())
    self.assertEqual({crc: count for crc, count in checksums.items() if count > 1}, {})

  def test_unknown_name(self):
    with self.assertRaisesRegex(errors.DownloadError, "'rgb_scrach'; there are rgb_imagenet, .*, rgb_scratch_kin600"):
      manifests.load("rgb_scrach")


class MaskedCrc32cTest(parameterized.TestCase):
  @parameterized.parameters(
    (b"\0" * 32, 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)
  )  # RFC 3720, B.4
  def test_masks_the_standard_checksum(self, content, crc):
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    self.assertEqual(manifests.masked_crc32c(np.frombuffer(content, np.float32)), (rotated + 0xA282EAD8) % 2**32)

  def test_is_tensorflows(self):
    array = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, "record")
      with tf.io.TFRecordWriter(path) as writer:  # a record ends in the masked checksum of its content
        writer.write(array.tobytes())
      with open(path, "rb") as file:
        (expected,) = struct.unpack("<I", file.read()[-4:])
    self.assertEqual(manifests.masked_crc32c(array), expected)

  def test_of_an_array_that_is_not_contiguous(self):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    self.assertEqual(manifests.masked_crc32c(array.T), manifests.masked_crc32c(np.array(array.T, order="C")))
    self.assertNotEqual(manifests.masked_crc32c(array.T), manifests.masked_crc32c(array))


def _logits_of(run: manifest.Run) -> np.ndarray:
  """Logits that have exactly the run's best classes and norm."""
  logits = np.zeros(400)
  others = np.array([name not in run.logits for name in NAMES])
  for name, logit in run.logits.items():
    logits[NAMES.index(name)] = logit
  logits[others] = np.sqrt((run.norm**2 - (logits**2).sum()) / others.sum())
  return logits


class RunsTest(parameterized.TestCase):
  def test_equal_the_specification(self):
    text = testing.shared("SPEC.md").read_text(encoding="utf-8").partition("## 1.10")[2].partition("## 1.11")[0]
    rows = re.findall(r"^\| (joint|rgb|flow) \| ([\d.]+) \| (.*) \|$", text, re.MULTILINE)
    self.assertLen(rows, 6)  # ImageNet first, then scratch
    found = {}
    for i, (stream, norm, classes) in enumerate(rows):
      logits = dict(re.fullmatch(r"(.+?) (\d[\d.]*)( \([\d.e-]+\))?", cell).group(1, 2) for cell in classes.split("; "))
      run = manifest.Run(float(norm), {name: float(logit) for name, logit in logits.items()})
      found["imagenet" if i < 3 else "scratch", stream] = run
    self.assertEqual(found, dict(manifest.RUNS))

  @parameterized.parameters(*manifest.RUNS)
  def test_best_classes_are_kinetics_classes_best_first(self, family, stream):
    run = manifest.RUNS[family, stream]
    self.assertLen(run.logits, 5)
    self.assertContainsSubset(run.logits, NAMES)
    values = list(run.logits.values())
    self.assertEqual(values, sorted(values, reverse=True))
    self.assertLess(np.linalg.norm(values), run.norm)


class FindTest(parameterized.TestCase):
  @parameterized.parameters(
    (["rgb_imagenet"], "rgb", 87.108871),
    (["flow_imagenet"], "flow", 63.252754),
    (["rgb_imagenet", "flow_imagenet"], "joint", 138.468658),
    (["rgb_scratch"], "rgb", 87.217987),
    (["flow_scratch"], "flow", 85.503799),
    (["rgb_scratch", "flow_scratch"], "joint", 162.726547),
  )
  def test_by_names(self, checkpoints, stream, norm):
    self.assertEqual(manifest.find_run(checkpoints, stream).norm, norm)

  @parameterized.parameters(
    (["rgb_imagenet", "flow_scratch"], "joint"),  # of two families
    (["rgb_scratch_kin600"], "rgb"),  # none was published
    (["flow_imagenet"], "rgb"),  # of the other stream
    (["flow_scratch", "rgb_scratch"], "joint"),  # the wrong way round
    (["/tmp/my_scratch"], "rgb"),  # whatever is in it
    (["mine_imagenet"], "rgb"),
  )
  def test_others_are_refused(self, checkpoints, stream):
    with self.assertRaises(errors.I3dError) as caught:
      manifest.find_run(checkpoints, stream)
    self.assertStartsWith(str(caught.exception), f"the release published no {stream} figures for {checkpoints[0]}")
    self.assertIn(checkpoints[-1], str(caught.exception))


class CompareTest(parameterized.TestCase):
  @parameterized.parameters(*manifest.RUNS)
  def test_equal_logits_are_within_tolerance(self, family, stream):
    run = manifest.RUNS[family, stream]
    lines, difference = manifest.compare_run(run, _logits_of(run), NAMES)
    self.assertLess(difference, 1e-9)
    self.assertLen(lines, 7)  # heading, norm, five classes
    self.assertEqual(lines[0].split(), ["published", "here", "difference"])
    for line, (name, figure) in zip(lines[1:], [("norm of logits", run.norm), *run.logits.items()]):
      self.assertEqual(line.split()[:-1], [*name.split(), *[f"{figure:.6f}"] * 2])
      self.assertIn(line.split()[-1], ("+0.000000", "-0.000000"))

  def test_the_farthest_class_counts_with_its_sign(self):
    run = manifest.RUNS["scratch", "rgb"]
    logits = _logits_of(run)
    logits[NAMES.index("pumping fist")] -= 0.5
    logits[NAMES.index("robot dancing")] += 0.25
    lines, difference = manifest.compare_run(run, logits, NAMES)
    self.assertAlmostEqual(difference, 0.5)
    self.assertEqual(lines[3].split(), ["robot", "dancing", "12.693800", "12.943800", "+0.250000"])
    self.assertEqual(lines[4].split(), ["pumping", "fist", "12.332200", "11.832200", "-0.500000"])

  def test_the_norm_counts_too(self):
    run = manifest.RUNS["imagenet", "rgb"]
    logits = _logits_of(run)
    logits[NAMES.index("abseiling")] += 30  # not among the best published
    _, difference = manifest.compare_run(run, logits, NAMES)
    self.assertAlmostEqual(difference, np.linalg.norm(logits) - run.norm)
    self.assertGreater(difference, manifest.TOLERANCE)

  def test_the_published_probabilities_follow_from_logits_near_them(self):
    # Figures the release printed beside the logits. The other classes' logits are unknown but small.
    for family, stream, expected in (("imagenet", "rgb", 0.9999968), ("scratch", "joint", 0.999958)):
      run = manifest.RUNS[family, stream]
      logits = np.array([*run.logits.values()])
      self.assertAlmostEqual(special.softmax(logits)[0], expected, delta=2e-5)


if __name__ == "__main__":
  absltest.main()
