"""`--help` of every program: quick, quiet, and of every flag what it is for."""

import json
import os
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import testing

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_MAINS = sorted(
  path.relative_to(_ROOT).with_suffix("").as_posix().replace("/", ".")
  for path in (*_ROOT.glob("i3d_tf/*.py"), *_ROOT.glob("i3d_tf/*/__main__.py"))
  if not path.stem.endswith("_test") and 'if __name__ == "__main__"' in path.read_text()
)
# These take defaults from the modules that do the work.
_MAY_IMPORT = {
  **dict.fromkeys(
    ("i3d_tf.classify", "i3d_tf.extract_features", "i3d_tf.fit", "i3d_tf.fvd", "i3d_tf.visualize"), ["cv2"]
  ),
  **dict.fromkeys(("i3d_tf.make_synthetic", "i3d_tf.prepare_dataset"), ["cv2", "av"]),
}
_PROGRAM = """
import json, runpy, sys
name = sys.argv[1]
sys.argv = [name, "--help"]
try:
  runpy.run_module(name, run_name="__main__", alter_sys=True)
finally:
  from absl import flags
  imported = [large for large in ("tensorflow", "sonnet", "cv2", "av", "numba", "matplotlib") if large in sys.modules]
  print()
  print(json.dumps([imported, [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]]))
"""


class HelpTest(parameterized.TestCase):
  @parameterized.parameters(_MAINS)
  def test_help(self, name):
    environment = os.environ | {"PYTHONPATH": os.fspath(_ROOT)}
    done = subprocess.run(
      [sys.executable, "-c", _PROGRAM, name], capture_output=True, text=True, env=environment, check=False
    )
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    usage, _, last = done.stdout.rstrip().rpartition("\n")
    imported, defined = json.loads(last)
    self.assertEqual(imported, _MAY_IMPORT.get(name, []))
    self.assertNotIn("None", usage)  # which is how Python says that nothing is given
    shown = re.findall(r"^  --(?:\[no\])?(\w+): [^\s:]", usage, re.MULTILINE)
    self.assertContainsSubset(defined, shown)
    self.assertIn(f"python -m {name.removesuffix('.__main__')}", usage)

  def test_list_of_programs(self):
    finished = testing.run_main("__main__")
    self.assertEqual((finished.status, finished.stderr), (0, ""))
    listed = re.findall(r"^python -m ([\w.]+) +[A-Z]\w+s .*\.$", finished.stdout, re.MULTILINE)
    self.assertEqual(listed, sorted({name.removesuffix(".__main__") for name in _MAINS} - {"i3d_tf"}))

  def test_there_are_programs(self):
    self.assertContainsSubset(["i3d_tf.classify", "i3d_tf.train", "i3d_tf.models.__main__"], _MAINS)


if __name__ == "__main__":
  absltest.main()
