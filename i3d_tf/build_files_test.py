"""The BUILD files agree with the Python files, and the script that says so notices when they do not."""

import importlib.util
import pathlib
import tempfile
import unittest

from absl.testing import absltest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SCRIPT = _ROOT / ".ci" / "build_files.py"


@unittest.skipUnless(_SCRIPT.exists(), "only a source tree has .ci/build_files.py")
class BuildFilesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    spec = importlib.util.spec_from_file_location("build_files", _SCRIPT)
    self.script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(self.script)
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.root = pathlib.Path(folder.name)
    self._write("i3d_tf/__init__.py", "_HOMES = {'Net': 'i3d_tf.models.net'}\n")
    self._write("i3d_tf/errors.py", "import os\n")
    self._write("i3d_tf/lists.py", "from i3d_tf import resources\nresources.path('data', 'names.txt')\n")
    self._write("i3d_tf/resources.py", "def path(folder, name): ...\n")
    self._write("i3d_tf/run.py", "def main():\n  from i3d_tf.models import net\nif __name__ == '__main__':\n  main()\n")
    self._write("i3d_tf/run_test.py", "COMMAND = ['python', '-m', 'i3d_tf.run']\n")
    self._write("i3d_tf/models/__init__.py", "")
    self._write("i3d_tf/models/net.py", "import sonnet as snt\nimport numpy as np\nfrom i3d_tf import errors\n")
    self._write("i3d_tf/models/net_test.py", "from absl.testing import absltest\nfrom i3d_tf.models import net\n")
    self._write("i3d_tf/models/spec_test.py", "import i3d_tf.errors\nimport cv2\n")
    for path, text in self.script.build_files(self.root).items():
      self._write(path, text)

  def _write(self, path: str, text: str) -> None:
    (self.root / path).parent.mkdir(parents=True, exist_ok=True)
    (self.root / path).write_text(text, encoding="utf-8")

  def _replace(self, path: str, old: str, new: str) -> None:
    text = (self.root / path).read_text(encoding="utf-8")
    self.assertIn(old, text)
    self._write(path, text.replace(old, new))

  def _assert_named(self, *lines: str) -> None:
    self.assertSequenceEqual(list(self.script.differences(self.root)), lines)

  def test_this_tree_agrees(self):
    self.assertEmpty(list(self.script.differences(_ROOT)), "run: python3 .ci/build_files.py --write")

  def test_written_files_agree(self):
    self._assert_named()

  def test_package_is_laid_out_as_by_hand(self):
    expected = """# Derived from the Python files: after adding a file or an import, run .ci/build_files.py --write.

load("@pypi//:requirements.bzl", "requirement")
load("@rules_python//python:defs.bzl", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

py_library(
    name = "models",
    srcs = ["__init__.py"],
)

py_library(
    name = "net",
    srcs = ["net.py"],
    deps = [
        "//i3d_tf:errors",
        requirement("dm-sonnet"),
        requirement("numpy"),
    ],
)

py_test(
    name = "net_test",
    size = "medium",
    srcs = ["net_test.py"],
    deps = [
        ":net",
        requirement("absl-py"),
    ],
)

py_test(
    name = "spec_test",
    size = "small",
    srcs = ["spec_test.py"],
    deps = [
        "//i3d_tf:errors",
        requirement("opencv-contrib-python-headless"),
    ],
)
"""
    self.assertEqual(self.script.build_files(self.root)["i3d_tf/models/BUILD"], expected)

  def test_imports_in_functions_strings_and_data_are_dependencies(self):
    text = self.script.build_files(self.root)["i3d_tf/BUILD"]
    blocks = {block.split('"')[1]: block for block in text.split("\n\n") if "name =" in block}
    self.assertIn('deps = ["//i3d_tf/models:net"]', blocks["run"])
    self.assertStartsWith(blocks["run"], "py_binary(")
    self.assertIn('deps = [":run"]', blocks["run_test"])
    self.assertIn('size = "large"', blocks["run_test"])
    self.assertIn('deps = ["//i3d_tf/models:net"]', blocks["i3d_tf"])
    self.assertIn('data = ["//data"]', blocks["lists"])

  def test_module_without_target_is_named(self):
    self._write("i3d_tf/workdir.py", "")
    self._assert_named("i3d_tf/BUILD: files: missing")

  def test_target_without_module_is_named(self):
    (self.root / "i3d_tf/models/spec_test.py").unlink()
    self._assert_named("i3d_tf/models/BUILD: spec_test: no Python file calls for it")

  def test_missing_and_needless_dependencies_are_named(self):
    self._replace("i3d_tf/models/BUILD", '"//i3d_tf:errors",\n        requirement("dm-sonnet")', '"//i3d_tf:extra"')
    self._assert_named(
      'i3d_tf/models/BUILD: net: lacks "//i3d_tf:errors", requirement("dm-sonnet"); has needless "//i3d_tf:extra"'
    )

  def test_new_import_is_named(self):
    self._replace("i3d_tf/models/net.py", "import numpy as np", "import numpy as np\nimport tensorflow as tf")
    self._assert_named('i3d_tf/models/BUILD: net: lacks requirement("tensorflow")')

  def test_other_rule_order_and_blank_lines_are_named(self):
    self._replace("i3d_tf/BUILD", "py_binary(", "py_library(")
    self._replace("i3d_tf/models/BUILD", "\n\n", "\n\n\n")
    self._assert_named(
      "i3d_tf/BUILD: run: differs",
      "i3d_tf/models/BUILD: order or blank lines differ",
    )

  def test_missing_and_stray_build_files_are_named(self):
    (self.root / "i3d_tf/models/BUILD").unlink()
    self._write("i3d_tf/empty/BUILD", "")
    self._assert_named(
      "i3d_tf/empty/BUILD: no Python file is beside it; delete it",
      "i3d_tf/models/BUILD: missing",
    )

  def test_unknown_import_is_an_error_with_its_place(self):
    for statement, name in (
      ("import jax.nn", "jax.nn"),
      ("from i3d_tf.nowhere import thing", "i3d_tf.nowhere"),
      ("from . import net", "."),
    ):
      with self.subTest(statement):
        self._write("i3d_tf/errors.py", f"import os\n{statement}\n")
        with self.assertRaisesRegex(self.script.BuildError, rf"^i3d_tf/errors.py:2: imports {name}, .*DISTRIBUTIONS"):
          self._assert_named()

  def test_file_that_is_not_python_is_an_error_with_its_place(self):
    self._write("i3d_tf/errors.py", "import os\ndef (\n")
    with self.assertRaisesRegex(self.script.BuildError, "^i3d_tf/errors.py:2: "):
      self._assert_named()


if __name__ == "__main__":
  absltest.main()
