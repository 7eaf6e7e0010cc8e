"""Tests of resources: the class lists are the official ones, in their order."""

import pathlib
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf import workers


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
    with self.assertRaisesRegex(
      errors.I3dError, f"no class list '{name}'; it must be a file, or one of hmdb51, .*, ucf101"
    ):
      resources.class_list(name)

  def test_a_file_of_classes(self):
    path = pathlib.Path(self.create_tempdir().full_path) / "classes.txt"
    path.write_text("\ufefföffnen\nschließen\n", encoding="utf-8")
    self.assertEqual(resources.class_list(str(path)), ("öffnen", "schließen"))
    for content in (b"", b"a\n\nb\n", b"a\na\n"):
      path.write_bytes(content)
      with self.assertRaisesRegex(errors.I3dError, "must have a name on each line, and none twice"):
        resources.class_list(str(path))
    path.write_bytes(b"\xff")
    with self.assertRaisesRegex(errors.I3dError, "this is not text in UTF-8"):
      resources.class_list(str(path))


class PathTest(absltest.TestCase):
  def test_folders_and_files_exist(self):
    self.assertTrue(resources.path("data").is_dir())
    self.assertTrue(resources.path("data", "kinetics_400.txt").is_file())
    self.assertTrue(resources.path("checkpoints").is_dir())


class ProvenanceTest(absltest.TestCase):
  def test_the_command_is_what_was_started(self):
    of_module = mock.Mock(__spec__=mock.Mock())
    of_module.__spec__.name = "i3d_tf.models.__main__"
    for main, program, expected in (
      (of_module, "/x/i3d_tf/models/__main__.py", "python -m i3d_tf.models '--records=a b'"),
      (mock.Mock(__spec__=None), "/x/mine.py", "python /x/mine.py '--records=a b'"),
      (mock.Mock(__spec__=None), "/x/bin/i3d_evaluate", "i3d_evaluate '--records=a b'"),
    ):
      with mock.patch.object(sys, "argv", [program, "--records=a b"]), mock.patch.dict(sys.modules, __main__=main):
        self.assertEqual(resources.provenance()["command"], expected)

  def test_what_is_told(self):
    rows = resources.provenance()
    self.assertRegex(rows["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$")
    self.assertEqual(rows["numpy"], np.__version__)
    self.assertEndsWith(rows["machine"], f", {workers.available_cores()} cores")


if __name__ == "__main__":
  absltest.main()
