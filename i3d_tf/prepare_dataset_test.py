"""The whole way from videos to records, in real processes: errors, interruptions, and equal bytes."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from absl.testing import absltest
import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf.data import inspection
from i3d_tf.data import records

_LABELS = ("jump", "run")


def _write_video(path: pathlib.Path, seed: int, num_frames: int = 12) -> None:
  rng = np.random.default_rng(seed)
  texture = cv2.GaussianBlur(rng.uniform(0, 255, (80, 120, 3)), (0, 0), 2).astype(np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
  for t in range(num_frames):
    writer.write(np.ascontiguousarray(texture[8 : 8 + 48, 2 * t : 2 * t + 64]))
  writer.release()


def _make_videos(folder: pathlib.Path, count: int) -> None:
  """`count` videos in train/CLASS and one in test/CLASS for each class."""
  for index in range(count):
    _write_video(folder / "train" / _LABELS[index % 2] / f"v{index:02}.avi", index)
  for label in _LABELS:
    _write_video(folder / "test" / label / "t.avi", 1000 + len(label))


def _flags(videos, output, *flags):
  fixed = ("--dataset=folder", "--short_side=48", "--clips_per_shard=4")
  return [*fixed, f"--videos={videos}", f"--output={output}", *flags]


def _run(videos, output, *flags):
  return testing.run_main("prepare_dataset", *_flags(videos, output, *flags))


def _start(videos, output, *flags):
  command = [sys.executable, "-m", "i3d_tf.prepare_dataset", *_flags(videos, output, *flags)]
  return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _records(folder: pathlib.Path, split: str) -> list[records.Record]:
  paths = [str(path) for path in sorted(folder.glob(f"{split}-*.tfrecord"))]
  return [records.deserialize(example.numpy()) for example in tf.data.TFRecordDataset(paths)]


class PrepareDatasetTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.videos = self.folder / "videos"
    self.output = self.folder / "records"

  def _assert_fails(self, done, message):
    self.assertEqual(done.status, 1, done.stdout + done.stderr)
    self.assertIn(message, done.stderr)
    self.assertNotIn("Traceback", done.stderr)

  def test_killed_again_and_again_it_ends_in_the_same_bytes(self):
    _make_videos(self.videos, 16)
    rng = np.random.default_rng(0)
    for _ in range(testing.NUM_KILLS):
      process = _start(self.videos, self.output, "--num_workers=2")
      goal = self._progress() + rng.integers(0, 4)
      while process.poll() is None and self._progress() < goal:
        time.sleep(0.002)
      time.sleep(rng.uniform(0, 0.02))
      process.send_signal(signal.SIGKILL)
      process.wait()
    done = _run(self.videos, self.output, "--num_workers=2")
    self.assertEqual(done.status, 0, done.stderr)
    undisturbed = _run(self.videos, self.folder / "again", "--num_workers=1")
    self.assertEqual(undisturbed.status, 0, undisturbed.stderr)
    self.assertEqual(_files(self.output), _files(self.folder / "again"))
    train = _records(self.output, "train")
    self.assertCountEqual([r.id for r in train], [f"train/{_LABELS[i % 2]}/v{i:02}" for i in range(16)])
    third = _run(self.videos, self.output)
    self.assertEqual((third.status, third.stdout), (0, done.stdout))

  def _progress(self) -> int:
    """Records that are safe: finished shards count as four."""
    pieces = len(list(self.output.glob(".work/*/[0-9]*.tfrecord")))
    return pieces + 4 * len(list(self.output.glob("*.tfrecord")))

  def test_failures_are_named_and_the_counts_add_up(self):
    _make_videos(self.videos, 5)
    broken = self.videos / "train" / "run"
    (broken / "empty.avi").write_bytes(b"")
    (broken / "text.mp4").write_text("no video")
    shutil.copy(testing.shared("clips/broken/corrupted.mp4"), broken / "corrupted.mp4")
    done = _run(self.videos, self.output, "--streams=rgb")
    self._assert_fails(done, "3 videos failed, more than --max_failures=0; the rest is done")
    info = json.loads((self.output / "dataset.json").read_text())
    self.assertTrue(info["complete"])
    self.assertEqual(info["splits"]["train"], {"listed": 8, "written": 5, "failed": 3, "missing": 0, "shards": 2})
    rows = [line.split("\t") for line in (self.output / "failures.tsv").read_text().splitlines()[1:]]
    reasons = {row[1]: row[3] for row in rows}
    self.assertIn("the file is empty", reasons["train/run/empty"])
    self.assertIn("not a video", reasons["train/run/text"])
    self.assertRegex(reasons["train/run/corrupted"], "28 of 50 frames.*; --allow_damaged takes ")
    self.assertLen(_records(self.output, "train"), 5)
    again = _run(self.videos, self.output, "--streams=rgb", "--max_failures=3")
    self.assertEqual(again.status, 0, again.stderr)
    self.assertIn("3 failed in earlier runs; --retry_failures tries them again\n", again.stdout)
    self.assertNotIn("earlier runs", done.stdout)
    for index, name in enumerate(("empty.avi", "text.mp4", "corrupted.mp4")):
      _write_video(broken / "mended.avi", index)
      os.replace(broken / "mended.avi", broken / name)
    mended = _run(self.videos, self.output, "--streams=rgb", "--retry_failures")
    self.assertEqual(mended.status, 0, mended.stderr)
    self.assertEqual(_run(self.videos, self.folder / "again", "--streams=rgb").status, 0)
    self.assertEqual(_files(self.output), _files(self.folder / "again"))

  def test_damaged_videos_are_salvaged_and_listed(self):
    _make_videos(self.videos, 2)
    shutil.copy(testing.shared("clips/broken/corrupted.mp4"), self.videos / "train" / "run" / "corrupted.mp4")
    done = _run(self.videos, self.output, "--streams=rgb", "--allow_damaged")
    self.assertEqual(done.status, 0, done.stderr)
    rows = [line.split("\t") for line in (self.output / "notes.tsv").read_text().splitlines()[1:]]
    self.assertEqual([row[1] for row in rows], ["train/run/corrupted"])
    self.assertRegex(rows[0][3], "^damaged: only [0-9]+ of 50 frames can be decoded; after frame 28")
    (record,) = [record for record in _records(self.output, "train") if record.id == "train/run/corrupted"]
    self.assertEqual(record.notes, (rows[0][3],))
    self.assertTrue(json.loads((self.output / "dataset.json").read_text())["parameters"]["allow_damaged"])

  def test_other_parameters_are_refused_with_the_difference(self):
    _make_videos(self.videos, 2)
    self.assertEqual(_run(self.videos, self.output, "--streams=rgb").status, 0)
    before = _files(self.output)
    done = _run(self.videos, self.output, "--streams=rgb", "--fps=10")
    self._assert_fails(done, "made with other parameters (fps was 25.0, is 10.0)")
    _write_video(self.videos / "train" / "run" / "new.avi", 99)
    self._assert_fails(_run(self.videos, self.output, "--streams=rgb"), "list_of_clips was")
    self.assertEqual(_files(self.output), before)

  def test_backward_flow(self):
    _make_videos(self.videos, 2)
    flags = ("--backward_flow", "--flow_format=jpeg")
    done = _run(self.videos, self.output, *flags)
    self.assertEqual(done.status, 0, done.stderr)
    plain = self.folder / "plain"
    self.assertEqual(_run(self.videos, plain, *flags[1:]).status, 0)
    for record, other in zip(_records(self.output, "train"), _records(plain, "train"), strict=True):
      self.assertLen(record.backward_flow_frames, 11)
      without = dataclasses.replace(record, backward_flow_frames=(), backward_flow_timestamps=())
      self.assertEqual(without, other)
      for images, expected in ((record.flow_frames, -2), (record.backward_flow_frames, 2)):
        red = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[10:-10, 10:-10, 2] for image in images]
        self.assertAlmostEqual((np.mean(red) / 255 - 0.5) * 40, expected, delta=0.3)  # pixels to the right
    info = json.loads((self.output / "dataset.json").read_text())
    self.assertEqual(info["parameters"]["streams"], ["rgb", "flow", "backward_flow"])
    self.assertEqual(json.loads((plain / "dataset.json").read_text())["parameters"]["streams"], ["rgb", "flow"])
    self._assert_fails(
      _run(self.videos, plain, *flags),
      "(streams was ['rgb', 'flow'], is ['rgb', 'flow', 'backward_flow'])",
    )
    self.assertEmpty(list(inspection.Verifier(self.output).problems()))

  def test_a_full_disk_loses_nothing(self):
    _make_videos(self.videos, 12)
    self.output.mkdir()
    mounted = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(self.output)], capture_output=True, check=False
    )
    if mounted.returncode:
      self.skipTest("a small file system cannot be mounted here")
    self.addCleanup(subprocess.run, ["umount", str(self.output)], check=True)
    self._assert_fails(_run(self.videos, self.output), "No space left on device")
    self.assertTrue(all(r.frames for r in _records(self.output, "train")))
    subprocess.run(["mount", "-o", "remount,size=64m", str(self.output)], check=True)
    done = _run(self.videos, self.output)
    self.assertEqual(done.status, 0, done.stderr)
    self.assertEqual(_run(self.videos, self.folder / "again").status, 0)
    self.assertEqual(_files(self.output), _files(self.folder / "again"))

  def test_two_at_once_are_kept_apart(self):
    _make_videos(self.videos, 12)
    first = _start(self.videos, self.output)
    while not (self.output / "dataset.json").exists():
      time.sleep(0.01)
    self._assert_fails(_run(self.videos, self.output), "another process is working in it")
    self.assertEqual(first.wait(), 0)

  def test_bad_flags(self):
    _make_videos(self.videos, 2)
    os.makedirs(self.folder / "empty")
    for flags, message in (
      (("--output=",), "--output is needed"),
      (("--videos=/no/folder",), "/no/folder: there is no such folder of videos"),
      ((f"--videos={self.folder}/empty",), "the folder holds no video"),
      (("--dataset=ucf102",), "there is no dataset 'ucf102'"),
      (("--streams=rgb", "--backward_flow"), "--backward_flow is stored beside flow; it needs --streams with flow"),
      (("--streams=audio",), "--streams=audio; allowed are rgb, flow and rgb,flow, each also with audio"),
      (("--fractions=0.5,0.5",), "it takes three numbers"),
      (("word",), "unexpected argument 'word'"),
    ):
      with self.subTest(message):
        self._assert_fails(_run(self.videos, self.output, *flags), message)
    self.assertFalse(self.output.exists())


if __name__ == "__main__":
  absltest.main()
