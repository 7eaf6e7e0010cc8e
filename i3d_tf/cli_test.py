"""Tests of cli: exit codes, one line an error, and silence while TensorFlow is imported."""

import os
import pathlib
import signal
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
_FLAGS = """
import dataclasses
from absl import flags
from i3d_tf import cli
from i3d_tf import fields

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  \"\"\"Of every type one.

  Attributes:
    records: folder of records.
    num_steps: the last step.
    learning_rate: learning rate.
    rates: rates of `schedule`.
    schedule: how the rate moves.
    streams: streams to use.
    flip: mirror half of the clips.
    crop: pixels.
  \"\"\"

  records: str
  num_steps: int = fields.option(least=1)
  learning_rate: float = fields.option(0.1, above=0)
  rates: tuple[float, ...] = ()
  schedule: str = fields.option("constant", choices=("constant", "cosine"))
  streams: tuple[str, ...] = ("rgb",)
  flip: bool = True
  crop: int = fields.option(224, least=1)

  def __post_init__(self):
    fields.check(self)

cli.define_flags(Config, group="Recipe", defaults={"records": ""}, unset={"crop": "the network's"})
with cli.group_of("Output"):
  flags.DEFINE_string("output", None, "Folder.", required=True)
cli.define_paths("video", "Videos.", default=[])

def main(arguments):
  config = cli.from_flags(Config)
  print(config.num_steps, config.learning_rate, config.rates, config.streams, config.flip, config.crop)
  print("crop" in cli.flag_values(Config), cli.FLAGS.video)

cli.run(main, usage="Says what it is for.")
"""
_GIVEN = ("--records=a", "--output=b", "--num_steps=3")


def _heed_interrupts() -> None:
  """Undoes what a shell does to jobs in the background, which ignore Ctrl-C."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)


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
        [sys.executable, main, *words], capture_output=True, text=True, env=environment, cwd=self.folder, timeout=60,
        preexec_fn=_heed_interrupts,
    )  # fmt: skip

  def _run_flags(self, *words: str) -> subprocess.CompletedProcess:
    (self.folder / "mymain.py").write_text(_FLAGS)
    environment = os.environ | {"PYTHONPATH": os.fspath(_ROOT)}
    command = [sys.executable, "mymain.py", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder, timeout=60)

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
    (  # parameters that are flags here
      "raise errors.I3dError('a=b.mp4 is damaged; give alsologtostderr=True, or v=2 (verbosity=0), not top_k=2')",
      "a=b.mp4 is damaged; give --alsologtostderr, or --v=2 (--verbosity=0), not top_k=2",
    ),
    ("open('none/a.txt')", "none/a.txt: No such file or directory"),
    ("raise OSError(28, 'No space left on device', 'a.txt')", "a.txt: No space left on device"),
    (
      "import tempfile\n  tempfile.tempdir = '/full'\n  raise OSError(28, 'No space left on device')",
      "No space left on device; temporary files are in /full, another folder can be given by $TMPDIR",
    ),
    ("raise OSError('odd')", "odd"),
    ("raise TimeoutError", "TimeoutError"),
    ("raise KeyboardInterrupt", "interrupted"),
    ("raise MemoryError", "there is not enough memory; use a machine that has more"),
    ("raise MemoryError('9 GiB')", "there is not enough memory (9 GiB); use a machine that has more"),
    (
      "sys.modules['tensorflow'] = sys\n  raise type('ResourceExhaustedError', (Exception,), {})"
      "('{{{{function_node __wrapped__}}}} OOM when allocating tensor [Op:Conv3D]')".replace("{{", "{").replace(
        "}}", "}"
      ),
      "there is not enough memory (OOM when allocating tensor); use a machine that has more",
    ),
  )
  def test_errors_are_sentences(self, body, sentence):
    self._assert_fails(self._run(body), sentence)

  def test_sigterm_ends_it_as_an_interruption_does(self):
    body = "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(9)\n  finally:\n    print('cleaned up')"
    done = self._run(f"import os, signal, time\n  {body}")
    self.assertEqual(
      (done.returncode, done.stdout, done.stderr), (143, "cleaned up\n", "mymain: error: ended by SIGTERM\n")
    )

  @parameterized.parameters(">&-", "2>&-", "<&- >&- 2>&-")
  def test_streams_may_be_closed(self, closed):
    main = self.folder / "mymain.py"
    body = "print('x')\n  print('y', file=sys.stderr)\n  file = open('z', 'w')\n  file.write(str(file.fileno()))"
    main.write_text(_MAIN.format(body=body, takes_arguments=False))
    environment = os.environ | {"PYTHONPATH": os.fspath(_ROOT)}
    command = f"'{sys.executable}' '{main}' {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, cwd=self.folder)
    self.assertEqual(done.returncode, 0)
    self.assertEqual(done.stdout, "" if ">&-" in closed.split() else "x\n")
    self.assertEqual(done.stderr, "" if "2>&-" in closed else "y\n")
    self.assertEqual((self.folder / "z").read_text(), "3")  # not a number that output goes to

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

  def test_flags_of_a_dataclass(self):
    self.assertEqual(self._run_flags(*_GIVEN).stdout, "3 0.1 () ('rgb',) True 224\nFalse []\n")
    words = ("--learning_rate=1", "--rates=1,0.5", "--streams=rgb,flow", "--noflip", "--crop=9", "--rates=2")
    done = self._run_flags(*_GIVEN, *words)
    self.assertEqual(done.stdout, "3 1.0 (2.0,) ('rgb', 'flow') False 9\nTrue []\n")

  def test_paths(self):
    (self.folder / "a,b.mp4").touch()
    (self.folder / "list.txt").write_text("c,d.mp4\n\ne.mp4 \n")
    done = self._run_flags(*_GIVEN, "--video=a,b.mp4", "--video=f.mp4,g.mp4", "--video=@list.txt")
    self.assertEndsWith(done.stdout, "False ['a,b.mp4', 'f.mp4', 'g.mp4', 'c,d.mp4', 'e.mp4']\n")
    done = self._run_flags(*_GIVEN, "--video=@none.txt")
    self._assert_fails(done, "--video=@none.txt: none.txt: No such file or directory; see --help")

  @parameterized.parameters(
    ((), "--records is needed; --num_steps is needed; --output is needed; see --help"),
    ((*_GIVEN, "--lr=1"), "unknown flag --lr; did you mean --learning_rate?"),
    ((*_GIVEN, "--epochs=1"), "unknown flag --epochs; did you mean --num_steps?"),
    ((*_GIVEN, "--leaning_rate=1"), "unknown flag --leaning_rate; did you mean --learning_rate?"),
    ((*_GIVEN, "--noflipp"), "unknown flag --noflipp; did you mean --noflip?"),
    ((*_GIVEN, "--show_pred"), "unknown flag --show_pred; python -m i3d_tf.classify prints the classes of a video"),
    ((*_GIVEN, "--num_steps=0"), "--num_steps=0: 0 is not a positive integer; see --help"),
    ((*_GIVEN, "--num_steps=x"), "--num_steps=x: it must be a whole number; see --help"),
    ((*_GIVEN, "--rates=1,x"), "--rates=1,x: it takes numbers separated by commas; see --help"),
    ((*_GIVEN, "--schedule=odd"), "--schedule=odd: value should be one of <constant|cosine>; see --help"),
    (
      (*_GIVEN, "--schedule=cosin"),
      "--schedule=cosin: did you mean cosine? The value should be one of <constant|cosine>; see --help",
    ),
    ((*_GIVEN, "--checkpont=x"), "unknown flag --checkpont; see --help"),
    ((*_GIVEN, "--max_epoch=1"), "unknown flag --max_epoch; did you mean --num_steps?"),
    ((*_GIVEN, "--flagfile=none.flags"), "--flagfile=none.flags: No such file or directory; see --help"),
    ((*_GIVEN, "--noflip=1"), "--noflip=1 does not take an argument; see --help"),
    ((*_GIVEN, "--learning_rate=0"), "learning_rate is 0.0; it must be more than 0"),
  )
  def test_wrong_flags(self, words, sentence):
    self._assert_fails(self._run_flags(*words), sentence)

  def test_help_by_groups(self):
    done = self._run_flags("--help")
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    groups = """Says what it is for.

Required:
  --records: Folder of records.
  --num_steps: The last step. (at least 1)
  --output: Folder.

Recipe:
  --learning_rate: Learning rate. (more than 0; default: 0.1)
  --rates: Rates of --schedule.
  --schedule: How the rate moves. (one of constant, cosine; default: constant)
  --streams: Streams to use. (default: rgb)
  --[no]flip: Mirror half of the clips. (default: true)
  --crop: Pixels. (at least 1; default: the network's)

Flags:
  --video: Videos.
"""
    self.assertStartsWith(done.stdout, groups)

  @parameterized.parameters("--helpfull", "--helpshort")
  def test_other_helps(self, flag):
    done = self._run_flags(flag)
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    self.assertIn("--learning_rate: Learning rate.", done.stdout)

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

  def test_interrupted_while_it_imports_its_modules_it_says_only_that(self):
    (self.folder / "late.py").write_text("import os\nos.kill(os.getpid(), 2)\n")
    main = self.folder / "mymain.py"
    main.write_text("from i3d_tf import cli\nimport late\n")
    environment = os.environ | {"PYTHONPATH": os.fspath(_ROOT)}
    command = [sys.executable, main]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=_heed_interrupts)
    self.assertEqual((done.returncode, done.stderr), (-2, "mymain: error: interrupted\n"))

  def test_interrupted_while_it_imports_tensorflow_it_says_only_that(self):
    self._fake_tensorflow("os.write(2, b'chatter\\n'); os.kill(os.getpid(), 2)")
    self._assert_fails(self._run("cli.import_tensorflow()"), "interrupted")


if __name__ == "__main__":
  absltest.main()
