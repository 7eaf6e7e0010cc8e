import json
import pathlib

from absl.testing import absltest
import numpy as np
import tensorflow as tf

from i3d_tf.training import run_folder


class MonitorTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())

  def _lines(self):
    return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

  def _events(self):
    (path,) = self.folder.glob("events*")
    values = [value for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value]
    return {value.tag: value for value in values}

  def test_means_over_the_steps_since_the_last_line(self):
    with run_folder.Monitor(self.folder, first_step=4, num_steps=9, log_every=2) as monitor:
      for step, loss in ((5, 2.0), (6, 4.0), (7, 8.0), (8, 10.0), (9, 5.0)):
        monitor.step(step, loss=loss, correct=1, count=2, rate=0.1, wait=0.0)
      monitor.write(9, {"validation_loss": 0.5})
    lines = self._lines()
    self.assertEqual([line["step"] for line in lines], [6, 8, 9, 9])  # the last step, too
    self.assertEqual([line.get("loss") for line in lines], [1.5, 4.5, 2.5, None])
    self.assertEqual(lines[0]["accuracy"], 0.5)
    self.assertEqual(lines[0]["input_wait"], 0)
    self.assertGreater(lines[0]["clips_per_second"], 0)
    self.assertEqual(tf.make_ndarray(self._events()["loss/validation"].tensor), 0.5)

  def test_the_wait_is_a_share_of_the_time_without_pauses(self):
    clock = iter([0.0, 10.0, 16.0, 20.0, 20.0])  # made; a pause of 6 s; the line at 20 s
    with absltest.mock.patch.object(run_folder.time, "perf_counter", lambda: next(clock)):
      with run_folder.Monitor(self.folder, first_step=0, num_steps=5, log_every=1) as monitor:
        with monitor.paused():
          pass
        monitor.step(1, loss=1, correct=0, count=7, rate=0.1, wait=3.5)
    (line,) = self._lines()
    self.assertEqual((line["input_wait"], line["clips_per_second"]), (0.25, 0.5))

  def test_lines_about_steps_that_are_done_again_go(self):
    path = self.folder / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 5}\n{"step": 6, "los')
    with run_folder.Monitor(self.folder, first_step=4, num_steps=9, log_every=2):
      pass
    self.assertEqual(path.read_text(), '{"step": 2}\n{"step": 4}\n')

  def test_a_line_that_is_not_whole_is_not_read(self):
    path = self.folder / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 6, "los')
    self.assertEqual(run_folder.read_metrics(path), [{"step": 2}])

  def test_pictures_of_clips(self):
    ramp = np.linspace(-1, 1, 16, dtype=np.float32)[:, np.newaxis, np.newaxis, np.newaxis]
    with run_folder.Monitor(self.folder, first_step=0, num_steps=9, log_every=2) as monitor:
      monitor.clips(0, "rgb", np.broadcast_to(ramp, (1, 16, 4, 5, 3)))
    width, height, image = tf.make_ndarray(self._events()["clips/rgb"].tensor)
    self.assertEqual((width, height), (b"40", b"4"))
    shown = tf.io.decode_png(image).numpy()
    np.testing.assert_array_equal(shown[0, ::5, 0], np.rint(np.linspace(0, 255, 16)[[0, 2, 4, 6, 8, 10, 12, 15]]))

  def test_flow_is_shown_in_colours(self):
    still = run_folder._strip(np.zeros((9, 4, 4, 2), np.float32), "flow")
    moving = run_folder._strip(np.ones((9, 4, 4, 2), np.float32), "flow")
    np.testing.assert_array_equal(still, np.full_like(still, 255))
    self.assertLess(moving.min(), 200)

  def test_without_a_folder_it_is_silent(self):
    with run_folder.Monitor(None, first_step=0, num_steps=2, log_every=1) as monitor:
      monitor.step(1, loss=1, correct=0, count=1, rate=0.1, wait=0)
      monitor.clips(0, "rgb", np.zeros((1, 9, 4, 4, 3), np.float32))
    self.assertEmpty(list(self.folder.iterdir()))


if __name__ == "__main__":
  absltest.main()
