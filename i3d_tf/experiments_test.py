"""The command line of experiments."""

import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import testing

_RESULTS = {
    "small": {
        "seed0": {
            "rgb": {"command": "train", "recipe": [], "seconds": 12.0},
            "evaluation": {
                "command": "evaluate", "machine": "Abacus", "tensorflow": "2.21.0", "date": "2026-11-21T14:00:00",
                "results": {"rgb": {"videos": 8, "top1": 0.625}},
            },
        }
    }
}  # fmt: skip


class ExperimentsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.table = self.folder / "table.json"
    content = {"title": "Toys", "records": ["r"], "seeds": [0], "rows": [{"name": "small", "rgb": "rgb.flags"}]}
    self.table.write_text(json.dumps(content))
    (self.folder / "rgb.flags").write_text("--stream=rgb\n")

  def _run(self, *flags: str) -> testing.Finished:
    return testing.run_main("experiments", *flags)

  @parameterized.parameters(
    ([], "--table is needed; see --help"),
    (["--table=TABLE"], "give --data and --output to run the table, --render to write its page, or all of them"),
    (["--table=TABLE", "--data=x"], "give --data and --output to run the table"),
    (["--table=TABLE", "--output=x", "--render=y"], "give --data and --output to run the table"),
    (["--table=none.json", "--render=y"], "none.json: No such file or directory"),
    (["--table=TABLE", "--data=none", "--output=none"], "none/r: no such folder of records"),
    (["--table=TABLE", "--render=y", "--only=large"], "only: TABLE has no 'large'; it has small"),
  )
  def test_errors_are_one_sentence(self, flags, sentence):
    done = self._run(*(flag.replace("TABLE", str(self.table)) for flag in flags))
    self.assertEqual(done.status, 1)
    self.assertStartsWith(done.stderr, f"experiments: error: {sentence.replace('TABLE', str(self.table))}")
    self.assertEqual(done.stderr.count("\n"), 1)

  def test_failed_training_ends_it(self):
    (self.folder / "r").mkdir()
    done = self._run(f"--table={self.table}", f"--data={self.folder}", f"--output={self.folder / 'runs'}")
    self.assertEqual(done.status, 1)
    self.assertIn(f"--output={self.folder}/runs/small/seed0/rgb --seed=0", done.stdout)
    self.assertIn("experiments: error: i3d_tf.train ended with status 1, see above", done.stderr)
    self.assertFalse((self.folder / "results.json").exists())

  def test_render_writes_what_was_run_into_the_page(self):
    (self.folder / "results.json").write_text(json.dumps(_RESULTS))
    page = self.folder / "RESULTS.md"
    page.write_text("# Results\n")
    done = self._run(f"--table={self.table}", f"--render={page}")
    self.assertEqual((done.status, done.stderr), (0, ""))
    self.assertStartsWith(page.read_text(), "# Results\n\n<!-- experiments/")
    self.assertIn("| small | seed0 | 62.50 % (5 of 8) | – | – | 12 |\n", page.read_text())


if __name__ == "__main__":
  absltest.main()
