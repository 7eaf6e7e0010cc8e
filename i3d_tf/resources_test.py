"""Tests of resources: the class lists are the release's, in its order."""

from absl.testing import absltest
from absl.testing import parameterized

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
    with self.assertRaisesRegex(errors.I3dError, f"no Kinetics .* of {num_classes} .*400, 600 and 700"):
      resources.class_names(num_classes)


class PathTest(absltest.TestCase):

  def test_folders_and_files_exist(self):
    self.assertTrue(resources.path("data").is_dir())
    self.assertTrue(resources.path("data", "kinetics_400.txt").is_file())
    self.assertTrue(resources.path("checkpoints").is_dir())


if __name__ == "__main__":
  absltest.main()
