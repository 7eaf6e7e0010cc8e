"""The wheel holds what an installed package needs, and no tests."""

import pathlib
import subprocess
import sys
import tempfile
import zipfile

from absl.testing import absltest

_ROOT = pathlib.Path(__file__).resolve().parents[1]


class WheelTest(absltest.TestCase):
  def test_contents(self):
    if not (_ROOT / ".git").exists():
      self.skipTest("this is not a checkout of the project")
    with tempfile.TemporaryDirectory() as folder:
      # From a copy: building leaves folders behind.
      listing = ["git", "ls-files", "-co", "--exclude-standard"]
      files = subprocess.run(listing, cwd=_ROOT, capture_output=True, text=True, check=True)
      for name in files.stdout.splitlines():
        if (_ROOT / name).is_file():
          target = pathlib.Path(folder, "tree", name)
          target.parent.mkdir(parents=True, exist_ok=True)
          target.write_bytes((_ROOT / name).read_bytes())
      command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}"]
      command.append(f"{folder}/tree")
      done = subprocess.run(command, capture_output=True, text=True, check=False)
      self.assertEqual(done.returncode, 0, done.stderr)
      with zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        scripts = next(wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    modules = {path.relative_to(_ROOT).as_posix() for path in _ROOT.glob("i3d_tf/**/*.py")}
    tests = {name for name in modules if name.endswith(("_test.py", "/testing.py", "/conftest.py"))}
    self.assertEqual({name for name in names if name.endswith(".py")}, modules - tests)
    for folder in ("data", "checkpoints"):
      wanted = {f"i3d_tf/assets/{folder}/{path.name}" for path in (_ROOT / folder).iterdir() if path.name != "BUILD"}
      self.assertEqual({name for name in names if name.startswith(f"i3d_tf/assets/{folder}/")}, wanted)
    places = [*_ROOT.glob("i3d_tf/*.py"), *_ROOT.glob("i3d_tf/*/__main__.py")]
    mains = {path.relative_to(_ROOT / "i3d_tf") for path in places if 'if __name__ == "__main__"' in path.read_text()}
    mains = {".".join(path.with_suffix("").parts) for path in mains if not path.stem.endswith("_test")}
    mains.remove("__main__")  # which lists the others
    self.assertEqual(
      {line for line in scripts.splitlines() if " = " in line},
      {f"i3d_{name.removesuffix('.__main__')} = i3d_tf.{name}:run" for name in mains},
    )


if __name__ == "__main__":
  absltest.main()
