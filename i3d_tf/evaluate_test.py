"""The program: its table, its files, being killed, and its sentences about bad input."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from absl.testing import absltest
import numpy as np

from i3d_tf import testing
from i3d_tf.evaluation import evaluator_test
from i3d_tf.evaluation import predictions

_ROOT = pathlib.Path(__file__).resolve().parents[1]


class EvaluateTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    evaluator_test.make_records(cls.folder / "records")
    for stream in ("rgb", "flow"):
      evaluator_test.make_run(cls.folder / stream, stream)

  def _flags(self, *words: str) -> list[str]:
    """Flags whose paths, written as =@NAME, are in the test's folder."""
    return [word.replace("=@", f"={self.folder}/") for word in words]

  def _evaluate(self, *words: str) -> testing.Finished:
    return testing.run_main("evaluate", *self._flags(*words))

  def _assert_fails(self, done: testing.Finished, sentence: str) -> None:
    self.assertEqual(done.status, 1, done.stderr)
    self.assertRegex(done.stderr, f"^evaluate: error: .*{sentence}")
    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

  def test_both_streams(self):
    done = self._evaluate("--records=@records", "--rgb_checkpoint=@rgb", "--flow_checkpoint=@flow", "--output=@both")
    self.assertEqual(done.status, 0, done.stderr)
    results = json.loads((self.folder / "both" / "results.json").read_text(encoding="utf-8"))["results"]
    lines = done.stdout.splitlines()
    self.assertEqual(lines[0], "stream     videos    top-1    top-5  mean per class  cross-entropy")
    for line, (name, row) in zip(lines[1:4], results.items(), strict=True):
      figures = [name, "6", f"{100 * row['top1']:.2f}", "-", f"{100 * row['mean_per_class']:.2f}"]
      self.assertEqual(line.split(), [*figures, f"{row['cross_entropy']:.4f}"])
    self.assertEqual(lines[4:], [str(self.folder / "both" / "report.html")])

  def test_killed_it_goes_on_to_the_same_scores(self):
    flags = ("--records=@records", "--rgb_checkpoint=@rgb", "--protocol=clips", "--num_clips=2")
    self.assertEqual(self._evaluate(*flags, "--output=@whole").status, 0)
    # Kept after every video, and slow enough to be killed in the middle.
    script = (
      "import time; from i3d_tf import cli; cli.import_tensorflow(quiet=True)\n"
      "from i3d_tf.evaluate import run; from i3d_tf.evaluation import evaluator\n"
      "evaluator.predict.__kwdefaults__['save_seconds'] = 0.0\n"
      "add = evaluator._add\n"
      "evaluator._add = lambda *a: (time.sleep(1), add(*a))\n"
      "run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *self._flags(*flags, "--output=@parts")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.fspath(_ROOT)},
    )  # fmt: skip
    partial = self.folder / "parts" / "scores_rgb.partial.npz"
    while process.poll() is None and not partial.exists():
      time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    _, messages = process.communicate()
    self.assertEqual(process.returncode, -signal.SIGKILL, messages)
    self.assertLess(len(predictions.load(partial).ids), 6)
    self.assertEqual(self._evaluate(*flags, "--output=@parts").status, 0)
    self.assertFalse(partial.exists())
    whole, parts = (predictions.load(self.folder / name / "scores_rgb.npz") for name in ("whole", "parts"))
    self.assertEqual(parts.ids, whole.ids)
    np.testing.assert_array_equal(parts.logits, whole.logits)
    self.assertEqual(*((self.folder / name / "scores_rgb.npz").read_bytes() for name in ("whole", "parts")))

  def test_bad_input(self):
    records = "--records=@records"
    for sentence, *flags in (
      ("--records is missing", "--rgb_checkpoint=@rgb"),
      ("takes clips of the stream rgb; give it as the checkpoint of rgb", records, "--flow_checkpoint=@rgb"),
    ):
      self._assert_fails(self._evaluate(*flags, "--output=@bad"), sentence)
    self.assertEmpty(list((self.folder / "bad").glob("[!.]*")))


if __name__ == "__main__":
  absltest.main()
