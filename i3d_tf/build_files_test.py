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
    self._write("i3d_tf/testing.py", "import numpy\nfrom i3d_tf.models import net\n")
    self._write("i3d_tf/run.py", "def main():\n  from i3d_tf.models import net\nif __name__ == '__main__':\n  main()\n")
    self._write("i3d_tf/run_test.py", "import absl\nCOMMAND = ['python', '-m', 'i3d_tf.run']\n")
    self._write("i3d_tf/models/__init__.py", "")
    self._write("i3d_tf/models/net.py", "import sonnet as snt\nimport numpy as np\nfrom i3d_tf import errors\n")
    self._write("i3d_tf/models/net_test.py", "from absl.testing import absltest\nfrom i3d_tf.models import net\n")
    self._write("i3d_tf/models/spec_test.py", "import i3d_tf.errors\nimport cv2\n")
    self._write("i3d_tf/models/page.html.jinja", "")
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

  def test_a_package_is_a_library_its_tests_and_their_suite(self):
    expected = """# Derived from the Python files: after adding a file or an import, run .ci/build_files.py --write.

load("@pypi//:requirements.bzl", "requirement")
load("@rules_python//python:defs.bzl", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

py_library(
    name = "models",
    srcs = glob(["*.py"], exclude = ["*_test.py"]),
    data = glob(["*.jinja"]),
    deps = [
        "//i3d_tf:core",
        requirement("dm-sonnet"),
        requirement("numpy"),
    ],
)

[
    py_test(
        name = test[:-3],
        srcs = [test],
        deps = [
            ":models",
            requirement("absl-py"),
            requirement("opencv-contrib-python-headless"),
        ],
    )
    for test in glob(["*_test.py"])
]

test_suite(name = "tests")
"""
    self.assertEqual(self.script.build_files(self.root)["i3d_tf/models/BUILD"], expected)

  def test_the_root_has_a_core_programs_and_what_tests_share(self):
    text = self.script.build_files(self.root)["i3d_tf/BUILD"]
    core, library, testing, programs, tests = text.split("\n\n")[3:8]
    self.assertIn('srcs = [\n        "__init__.py",\n        "errors.py",\n    ]', core)
    self.assertIn('deps = [\n        ":core",\n        "//i3d_tf/models",\n    ]', library)
    self.assertIn('deps = ["//i3d_tf/models"]', testing)  # which brings numpy
    self.assertIn('deps = [\n            "//i3d_tf/models",\n        ]', programs)
    self.assertIn('for main in [\n        "run",\n    ]', programs)
    self.assertIn('":run",\n            requirement("absl-py"),', tests)

  def test_new_import_is_named(self):
    self._replace("i3d_tf/models/net.py", "import numpy as np", "import numpy as np\nimport tensorflow as tf")
    self._assert_named('i3d_tf/models/BUILD: +         requirement("tensorflow"),')

  def test_another_text_is_named(self):
    self._replace("i3d_tf/models/BUILD", '        "//i3d_tf:core",\n', "")
    self._assert_named('i3d_tf/models/BUILD: +         "//i3d_tf:core",')

  def test_packages_in_a_circle_are_an_error(self):
    self._write("i3d_tf/errors.py", "from i3d_tf.models import net\n")
    with self.assertRaisesRegex(self.script.BuildError, "in a circle: .*//i3d_tf/models <- //i3d_tf:core"):
      self._assert_named()

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
