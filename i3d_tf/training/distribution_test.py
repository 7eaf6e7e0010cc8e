import os
import pathlib
import signal

from absl.testing import absltest
from absl.testing import parameterized
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.training import distribution


class InterruptionsTest(parameterized.TestCase):
  @parameterized.parameters(signal.SIGTERM, signal.SIGINT)
  def test_signals_ask_while_the_body_runs(self, number):
    before = signal.getsignal(number)
    asked = []
    with distribution.on_signals(asked.append):
      os.kill(os.getpid(), number)
    self.assertEqual(asked, [number])
    self.assertEqual(signal.getsignal(number), before)

  @parameterized.parameters(
    (tf.errors.ResourceExhaustedError, r"too little memory \(OOM when\); a smaller batch_size"),
    (tf.errors.UnavailableError, r"another worker, .* is gone \(OOM when\); start all workers again"),
  )
  def test_errors_that_users_can_mend_become_sentences(self, kind, sentence):
    with self.assertRaisesRegex(errors.I3dError, sentence), distribution.explained():
      raise kind(None, None, "OOM when\nallocating")

  def test_others_stay(self):
    with self.assertRaises(tf.errors.InternalError), distribution.explained():
      raise tf.errors.InternalError(None, None, "a defect")


class SourcesTest(absltest.TestCase):
  def test_records_without_classes_take_a_list(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    testing.write_records(folder / "records")
    (folder / "records" / "dataset.json").unlink()
    (folder / "classes.txt").write_text("down\nright\nstill\n")
    options = {"records": str(folder / "records"), "output": "out", "num_steps": 1, "validation_split": "test"}
    clips = clip_config.TrainClips(short_side=36, crop=32)
    with self.assertRaisesRegex(errors.I3dError, "records has no class list, .* give one as class_list$"):
      distribution.Sources(training.TrainConfig(**options), clips)
    run = training.TrainConfig(**options, class_list=str(folder / "classes.txt"))
    self.assertEqual(distribution.Sources(run, clips).training[0].classes, ("down", "right", "still"))


if __name__ == "__main__":
  absltest.main()
