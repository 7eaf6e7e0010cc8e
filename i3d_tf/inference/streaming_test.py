"""Predictions of live sources: equal to those of the same windows, late or cheaper where the machine is too slow."""

import json
import os
import pathlib
import time
from unittest import mock

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import flow
from i3d_tf import inference
from i3d_tf import testing
from i3d_tf.flow import codec
from i3d_tf.inference import classifier
from i3d_tf.inference import streaming
from i3d_tf.input import ops
from i3d_tf.video import decode
from i3d_tf.video import live

_SIDE = 48
_WINDOW, _HOP = 16, 8


def _noise(seed: int = 0) -> np.ndarray:
  """A smooth texture, uint8 `[64, 80, 3]`."""
  noise = np.random.default_rng(seed).integers(0, 256, (64, 80, 3), np.uint8)
  return cv2.GaussianBlur(noise, (0, 0), 3)


class FollowerTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.checkpoints = {stream: os.fspath(self.folder / stream) for stream in ("rgb", "flow")}
    for stream, path in self.checkpoints.items():
      testing.write_network(path, stream=stream, average_space=True, short_side=_SIDE, crop=_SIDE)
    self.video = os.fspath(self.folder / "video.avi")
    testing.write_moving_video(self.video, seed=0, num_frames=40)
    self.config = inference.StreamConfig(window=_WINDOW, hop=_HOP, stall=20)

  def _expected(self, networks: classifier.Classifier, start: int) -> np.ndarray:
    frames = decode.read_video(self.video, short_side=_SIDE)[start : start + _WINDOW + 1]
    field = codec.scale(flow.optical_flow(frames))
    clips = {"rgb": ops.center_crop(frames[:-1], _SIDE), "flow": ops.center_crop(field, _SIDE)}
    return networks.logits({s: ops.to_input(s, clip).numpy()[np.newaxis] for s, clip in clips.items()})[0]

  def test_each_window_has_the_logits_of_its_clips(self):
    networks = classifier.Classifier(self.checkpoints)
    follower = streaming.Follower(networks, self.config, top_k=2)
    found = list(follower.follow(self.video))
    self.assertEqual([(each.start, each.end) for each in found], [(0, 0.64), (0.32, 0.96), (0.64, 1.28)])
    for each in found:
      expected = self._expected(networks, round(each.start * 25))
      np.testing.assert_allclose(each.logits, expected, atol=1e-4 * np.abs(expected).max())
      self.assertEqual(each.predictions[0].index, expected.argmax())
      self.assertGreater(each.latency, 0)
    summary = follower.summary()
    self.assertRegex(summary, r"^40 of 40 frames in .* s, .* a second; 0 dropped\n3 windows of 16 frames classified, 0")
    self.assertIn("50% of each window were in the one before and are run again, since the padding", summary)
    self.assertIn("flow: 100% at scale 1", summary)

  def test_the_program_prints_lines_and_writes_lines_of_json(self):
    lines = self.folder / "lines.json"
    done = testing.run_main(
      "classify", f"--follow={self.video}", "--streams=rgb", f"--rgb_checkpoint={self.checkpoints['rgb']}",
      "--precision=float32", f"--window={_WINDOW}", f"--hop={_WINDOW}", "--top_k=1", f"--json={lines}",
    )  # fmt: skip
    self.assertEqual(done.status, 0, done.stderr)
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    self.assertEqual([(each["start"], each["end"]) for each in written], [(0, 0.64), (0.64, 1.28)])
    best = written[0]["predictions"][0]
    self.assertRegex(
      done.stdout, rf"^0.00-0.64 s: {best['probability']:.3f} {best['label']} \(latency .* s\)\n0.64-1.28"
    )
    self.assertRegex(done.stderr, "40 of 40 frames in ")

  def test_what_is_for_following_or_for_videos_only_is_named(self):
    for words, sentence in (
      (["--follow=x", "--max_frames=20"], "--max_frames is for whole videos, not for --follow"),
      (["--video=x", "--hop=3"], "--hop is for --follow"),
      (["--follow=x", "--video=y"], "give either --video, --follow, or arrays"),
    ):
      done = testing.run_main("classify", *words)
      self.assertEqual((done.status, done.stdout), (1, ""))
      self.assertIn(sentence, done.stderr)

  def test_windows_that_come_too_fast_are_left_out_and_counted(self):
    networks = classifier.Classifier(self.checkpoints["rgb"])
    follower = streaming.Follower(networks, inference.StreamConfig(window=_WINDOW, hop=1, stall=20))
    compute, slow = networks.logits, lambda clips: (time.sleep(0.3), compute(clips))[1]
    with mock.patch.object(networks, "logits", slow):
      found = list(follower.follow(self.video))
    self.assertEqual(found[-1].end, 1.6)  # the newest is kept
    self.assertEqual(len(found) + follower.late, 40 - _WINDOW + 1)
    self.assertGreater(follower.late, 0)

  def test_flow_across_a_gap_is_shared_out(self):
    follower = streaming.Follower(classifier.Classifier(self.checkpoints), self.config)
    frames = [live.Frame(number, np.roll(_noise(), number, axis=1), 0.0) for number in (0, 1, 4)]
    with mock.patch.object(follower, "_source") as source:
      source.frames.return_value, source.waiting = iter(frames), 0
      positions = list(follower._positions())
    self.assertEqual([number for number, *_ in positions], [0, 1, 2, 3])
    for _, _, position in positions:
      self.assertAlmostEqual(float(np.median(position["flow"][..., 0])) * codec.BOUND, 1, delta=0.1)

  def test_what_came_before_an_error_is_taken(self):
    follower = streaming.Follower(classifier.Classifier(self.checkpoints), self.config, threads=3)

    def frames():
      yield from (live.Frame(number, _noise(number), 0.0) for number in range(6))
      raise errors.VideoError("it broke off")

    found = []
    with mock.patch.object(follower, "_source") as source, self.assertRaisesRegex(errors.VideoError, "it broke off"):
      source.frames.return_value, source.waiting = frames(), 0
      for number, *_ in follower._positions():
        found.append(number)
    self.assertEqual(found, [0, 1, 2, 3, 4])

  def test_other_clips_are_refused(self):
    path = os.fspath(self.folder / "stacked")
    testing.write_network(path, average_space=True, short_side=_SIDE, crop=_SIDE, frame_stride=2)
    with self.assertRaisesRegex(errors.I3dError, "stacked takes other clips than frame after frame with its flow"):
      streaming.Follower(classifier.Classifier(path), self.config)


class BudgetedFlowTest(absltest.TestCase):
  def test_flow_gets_cheaper_as_stated_while_it_takes_too_long(self):
    budgeted = streaming.BudgetedFlow(flow.FlowConfig(), budget=1e-3, threads=1)
    frames = _noise(), np.roll(_noise(), 2, axis=1)
    for number, step in enumerate(streaming.FLOW_STEPS):
      self.assertEqual(budgeted.step, number)
      field = budgeted.between(*frames)
      self.assertEqual(field.shape, (64, 80, 2))
      inside = field[8:-8, 8:-8]
      np.testing.assert_allclose(np.median(inside, axis=(0, 1)), (2, 0), atol=0.15, err_msg=str(step))
      for _ in range(63):
        budgeted.between(*frames)
    self.assertEqual(dict(budgeted.pairs), dict.fromkeys(range(6), 64))

  def test_a_step_is_taken_back_when_there_is_time(self):
    budgeted = streaming.BudgetedFlow(flow.FlowConfig(flow="dis"), budget=1e6)
    self.assertEqual([step.scale for step in budgeted.steps], [1, 0.75, 0.5, 0.25])
    self.assertEqual(str(budgeted.steps[-1]), "scale 0.25")  # of TV-L1 with 2 warps, too
    frames = _noise(), _noise(1)
    for _ in range(8):
      budgeted.between(*frames, is_behind=True)
    self.assertEqual(budgeted.step, 1)
    for _ in range(128):
      budgeted.between(*frames)
    self.assertEqual(budgeted.step, 0)

  def test_without_a_budget_it_stays_in_full(self):
    budgeted = streaming.BudgetedFlow(flow.FlowConfig(flow="dis"), budget=0)
    for _ in range(20):
      budgeted.between(_noise(), _noise(1), is_behind=True)
    self.assertEqual(budgeted.step, 0)


if __name__ == "__main__":
  absltest.main()
