"""Tests of cli: exit codes, one line an error, and silence while TensorFlow is imported."""

import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import parameterized

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_MAIN = """
import os
import sys
from i3d_tf import cli
from i3d_tf import errors

def main(arguments):
  {body}

cli.run(main, usage="Says what it is for.", takes_arguments={takes_arguments})
"""


class CliTest(parameterized.TestCase):
  """Runs small mains in processes of their own; none needs the real TensorFlow."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def _run(self, body: str, *words: str, takes_arguments: bool = False) -> subprocess.CompletedProcess:
    main = self.folder / "mymain.py"
    main.write_text(_MAIN.format(body=body, takes_arguments=takes_arguments))
    search = os.pathsep.join([os.fspath(self.folder), os.fspath(_ROOT)])
    environment = os.environ | {"PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
      [sys.executable, main, *words], capture_output=True, text=True, env=environment, cwd=self.folder, timeout=60
    )

  def _assert_fails(self, done: subprocess.CompletedProcess, sentence: str) -> None:
    self.assertEqual(done.returncode, 1)
    self.assertEqual(done.stderr, f"mymain: error: {sentence}\n")

  @parameterized.parameters(("return None", 0), ("pass", 0), ("return 0", 0), ("return 1", 1), ("return 3", 3))
  def test_exit_status_is_mains(self, body, status):
    done = self._run(body)
    self.assertEqual((done.returncode, done.stdout, done.stderr), (status, "", ""))

  @parameterized.parameters(
    ("raise errors.I3dError('mend this')", "mend this"),
    ("raise errors.VideoError('mend that')", "mend that"),
    ("open('none/a.txt')", "none/a.txt: No such file or directory"),
    ("raise OSError(28, 'No space left on device')", "No space left on device"),
    ("raise OSError('odd')", "odd"),
    ("raise TimeoutError", "TimeoutError"),
    ("raise KeyboardInterrupt", "interrupted"),
  )
  def test_errors_are_sentences(self, body, sentence):
    self._assert_fails(self._run(body), sentence)

  def test_a_reader_who_has_enough_ends_it_in_silence(self):
    main = self.folder / "mymain.py"
    main.write_text(_MAIN.format(body="print('a line\\n' * 100_000)", takes_arguments=False))
    environment = os.environ | {"PYTHONPATH": os.fspath(_ROOT)}
    with subprocess.Popen(
      [sys.executable, main], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
      self.assertEqual(process.stdout.readline(), b"a line\n")
      process.stdout.close()
      self.assertEqual(process.stderr.read(), b"")
    self.assertEqual(process.returncode, 1)

  def test_defects_of_ours_keep_their_traceback(self):
    done = self._run("raise ValueError('a defect')")
    self.assertEqual(done.returncode, 1)
    self.assertIn("Traceback", done.stderr)
    self.assertIn("ValueError: a defect", done.stderr)

  def test_words_are_refused_unless_taken(self):
    body = "print(arguments)"
    self._assert_fails(
      self._run(body, "clip.mp4", "b"), "unexpected argument 'clip.mp4'; flags are written --name=value, see --help"
    )
    self.assertEqual(self._run(body, "clip.mp4", "b", takes_arguments=True).stdout, "['clip.mp4', 'b']\n")
    self.assertEqual(self._run(body, takes_arguments=True).stdout, "[]\n")

  def test_unknown_flag(self):
    done = self._run("print('ran')", "--bogus=1")
    self._assert_fails(done, "unknown flag --bogus; see --help")
    self.assertEqual(done.stdout, "")

  def test_help_shows_the_usage(self):
    done = self._run("print('ran')", "--help")
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    self.assertIn("Says what it is for.", done.stdout)
    self.assertNotIn("ran\n", done.stdout)

  def test_any_path_can_be_printed(self):
    done = self._run("print(os.fsdecode(b'\\xff.mp4'), 'd\\u00fcr')")
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    self.assertStartsWith(done.stdout, "\\udcff.mp4 ")

  def _fake_tensorflow(self, code: str) -> None:
    (self.folder / "tensorflow.py").write_text(f"import os\n{code}\n")

  def test_tensorflow_is_imported_in_silence(self):
    self._fake_tensorflow("os.write(2, b'chatter\\n'); level = os.environ.get('TF_CPP_MIN_LOG_LEVEL')")
    body = "cli.import_tensorflow(); import tensorflow; print(tensorflow.level); print('ours', file=sys.stderr)"
    done = self._run(body)
    self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "3\n", "ours\n"))

  @parameterized.parameters("-v=1", "--verbosity=1")
  def test_tensorflow_may_speak_when_asked(self, flag):
    self._fake_tensorflow("os.write(2, b'chatter\\n'); level = os.environ.get('TF_CPP_MIN_LOG_LEVEL')")
    done = self._run("cli.import_tensorflow(); import tensorflow; print(tensorflow.level)", flag)
    self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "None\n", "chatter\n"))

  def test_what_tensorflow_said_is_shown_if_it_fails(self):
    self._fake_tensorflow("os.write(2, b'no such library\\n'); raise ImportError('broken')")
    done = self._run("cli.import_tensorflow()")
    self.assertEqual(done.returncode, 1)
    self.assertStartsWith(done.stderr, "no such library\n")
    self.assertIn("ImportError: broken", done.stderr)


if __name__ == "__main__":
  absltest.main()
