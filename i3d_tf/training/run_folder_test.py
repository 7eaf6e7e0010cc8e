import json
import pathlib

from absl.testing import absltest

from i3d_tf import errors
from i3d_tf import training
from i3d_tf.training import run_folder


class PrepareTest(absltest.TestCase):
  def _prepare(self, folder: pathlib.Path, **changes) -> None:
    run = training.TrainConfig(**{"records": "DATA", "output": str(folder), "num_steps": 3, **changes})
    with run_folder.claim(folder, (run, training.OptimizationConfig()), "--num_steps=3\n", num_replicas=1):
      pass

  def _run_without(self, *names: str) -> pathlib.Path:
    """A folder of a run with a checkpoint, whose options.json lacks some names."""
    folder = pathlib.Path(self.create_tempdir()) / "run"
    self._prepare(folder)
    path = folder / run_folder.OPTIONS
    old = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: value for name, value in old.items() if name not in names}), encoding="utf-8")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "ckpt-1.index").touch()
    return folder

  def test_an_option_that_came_later_had_its_default(self):
    self._prepare(self._run_without("model", "second_records", "rates"))
    with self.assertRaisesRegex(errors.I3dError, r"other parameters \(model was 'i3d', is 'convnet_lstm'\)"):
      self._prepare(self._run_without("model"), model="convnet_lstm")

  def test_what_may_change(self):
    folder = self._run_without()
    self._prepare(folder, num_steps=5, save_every=7)
    with self.assertRaisesRegex(errors.I3dError, r"other parameters \(batch_size was 6, is 5; seed was 0, is 1\)"):
      self._prepare(folder, batch_size=5, seed=1)


if __name__ == "__main__":
  absltest.main()
