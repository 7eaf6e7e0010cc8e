"""Tests of resources: the class lists are the official ones, in their order."""

import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing


class ClassNamesTest(parameterized.TestCase):
  @parameterized.parameters(400, 600, 700)
  def test_equal_the_reference_list(self, num_classes):
    reference = testing.shared(f"formats/kinetics/label_map_k{num_classes}.txt").read_text(encoding="utf-8")
    self.assertEqual(resources.class_names(num_classes), tuple(reference.splitlines()))

  @parameterized.parameters(400, 600, 700)
  def test_as_many_as_promised_and_all_different(self, num_classes):
    names = resources.class_names(num_classes)
    self.assertLen(names, num_classes)
    self.assertLen(set(names), num_classes)
    for name in names:
      self.assertEqual(name, name.strip())
      self.assertNotEmpty(name)

  @parameterized.parameters((400, 0, "abseiling"), (400, 5, "archery"), (400, 399, "zumba"), (700, 699, "zumba"))
  def test_known_places(self, num_classes, index, name):
    self.assertEqual(resources.class_names(num_classes)[index], name)

  @parameterized.parameters(0, 101, 401)
  def test_other_lengths_are_refused(self, num_classes):
    with self.assertRaisesRegex(errors.I3dError, f"no class list 'kinetics_{num_classes}'.* kinetics_400, .*_700"):
      resources.class_names(num_classes)


class ClassListTest(parameterized.TestCase):
  def test_ucf101_is_in_the_order_of_its_official_index(self):
    lines = testing.shared("formats/ucf101/classInd.txt").read_text(encoding="utf-8").splitlines()
    official = {int(number): name for number, name in (line.split() for line in lines if line.strip())}
    self.assertEqual(resources.class_list("ucf101"), tuple(official[number] for number in range(1, 102)))

  def test_hmdb51_has_the_classes_of_the_official_split_files_sorted(self):
    files = testing.shared("formats/hmdb51/testTrainMulti_7030_splits").glob("*_test_split1.txt")
    official = sorted(file.name.removesuffix("_test_split1.txt") for file in files)
    self.assertLen(official, 51)
    self.assertEqual(resources.class_list("hmdb51"), tuple(official))

  def test_kinetics_lists_are_those_of_class_names(self):
    self.assertEqual(resources.class_list("kinetics_600"), resources.class_names(600))

  @parameterized.parameters("ucf", "UCF101", "README", "../data/ucf101", "")
  def test_other_names_are_refused(self, name):
    with self.assertRaisesRegex(errors.I3dError, f"no class list '{name}'; there are hmdb51, .*, ucf101"):
      resources.class_list(name)


class PathTest(absltest.TestCase):
  def test_folders_and_files_exist(self):
    self.assertTrue(resources.path("data").is_dir())
    self.assertTrue(resources.path("data", "kinetics_400.txt").is_file())
    self.assertTrue(resources.path("checkpoints").is_dir())


class ProvenanceTest(absltest.TestCase):
  def test_what_is_told(self):
    with mock.patch.object(sys, "argv", ["/some/where/evaluate.py", "--records=a b"]):
      rows = resources.provenance()
    self.assertEqual(rows["command"], "python -m i3d_tf.evaluate '--records=a b'")
    self.assertRegex(rows["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$")
    self.assertEqual(rows["numpy"], np.__version__)
    self.assertEndsWith(rows["machine"], f", {resources.available_cores()} cores")


if __name__ == "__main__":
  absltest.main()
