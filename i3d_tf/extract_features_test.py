"""The program: broken inputs, going on, shards, Beam, and what it refuses.

It runs in a process of its own, since other programs' flags, tested here, too, have the same names.
"""

from concurrent import futures
import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from absl.testing import absltest
from absl.testing import flagsaver
import numpy as np

from i3d_tf import cli
from i3d_tf import testing

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_BROKEN = {
  "corrupted.mp4": "only 28 of 50 frames can be decoded",
  "cut.avi": "frames can be decoded; the video is damaged or incomplete",
  "empty.mp4": "the file is empty",
  "header.avi": "this is not a video that OpenCV can open, or its header is damaged",
  "text.mp4": "this is not a video that OpenCV can open, or its header is damaged",
}


def run_main(*arguments: str) -> tuple[int, str, str]:
  """The exit status of the program, and what it prints."""
  sys.argv = ["extract_features"]
  from i3d_tf import extract_features

  output, complaints = io.StringIO(), io.StringIO()
  saved = flagsaver.save_flag_values()
  try:
    extract_features.FLAGS(["extract_features", *arguments])
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(complaints):
      status = cli._guarded(extract_features.main, [], False)
  finally:
    flagsaver.restore_flag_values(saved)
  return status, output.getvalue(), complaints.getvalue()


def _make_inputs(folder: pathlib.Path, num_good: int) -> None:
  """Good videos in two folders, and beside them those of `_BROKEN`."""
  for number in range(num_good):
    path = folder / ("a", "b")[number % 2] / f"v{number:02}.avi"
    path.parent.mkdir(parents=True, exist_ok=True)
    testing.write_moving_video(path, seed=number, num_frames=14 + number)
  content = (folder / "a" / "v00.avi").read_bytes()
  shutil.copy(testing.shared("clips/broken/corrupted.mp4"), folder / "corrupted.mp4")
  (folder / "cut.avi").write_bytes(content[: len(content) // 2])
  (folder / "empty.mp4").touch()
  (folder / "header.avi").write_bytes(content[:300])
  (folder / "text.mp4").write_text("no video")


def _files(folder: pathlib.Path) -> dict[str, tuple[int, bytes]]:
  """By path when each file was written, and what it holds."""
  found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
  return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def _entries(folder: pathlib.Path) -> list[dict]:
  """The manifest without the seconds that things took."""
  entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
  return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


class ExtractFeaturesTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls._pool = futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    cls.addClassCleanup(cls._pool.shutdown)
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    for stream in ("rgb", "flow"):
      testing.write_network(cls.folder / stream, stream=stream, average_space=True, short_side=36, crop=32)
    cls.videos = cls.folder / "videos"
    _make_inputs(cls.videos, 9)

  def _run(self, output: str, *flags: str) -> tuple[int, str, str]:
    fixed = (f"--input={self.videos}", f"--rgb_checkpoint={self.folder / 'rgb'}", "--window=16")
    given = (*fixed, f"--output={self.folder / output}", *flags)
    return self._pool.submit(run_main, *given).result()

  def _output(self, name: str) -> pathlib.Path:
    """An output folder in which all is done."""
    if not (self.folder / name).exists():
      self._run(name)
    return self.folder / name

  def test_broken_inputs_are_named_and_a_second_run_does_nothing_more(self):
    missing = self.videos / "missing.avi"
    status, printed, complaints = self._run("first", f"--input={self.videos},{missing}")
    reasons = {**_BROKEN, "missing.avi": "there is no such file"}
    self.assertEqual(status, 1)
    self.assertStartsWith(printed, f"9 of 15 videos have features in {self.folder / 'first'}, 6 failed\n")
    lines = complaints.splitlines()
    self.assertLen(lines, 6)
    for name, reason in reasons.items():
      self.assertTrue(any(f"{self.videos / name}: " in line and reason in line for line in lines), complaints)
    entries = _entries(self.folder / "first")
    self.assertLen(entries, 15)
    self.assertCountEqual([entry["id"] for entry in entries if "error" in entry], [name[:-4] for name in reasons])
    for entry in entries:
      for output in entry.get("outputs", ()):
        with np.load(self.folder / "first" / output["path"]) as file:
          self.assertEqual(file["features"].shape, tuple(output["shape"]))
    before = _files(self.folder / "first")
    status, printed, complaints = self._run("first", f"--input={self.videos},{missing}")
    self.assertEqual((status, complaints), (1, ""))
    self.assertIn("6 failed in earlier runs; --retry_failures tries them again", printed)
    self.assertEqual(_files(self.folder / "first"), before)

  def test_it_goes_on_with_what_is_left_and_tries_failures_again_if_asked(self):
    videos = self.folder / "few"
    shutil.copytree(self.videos / "a", videos)
    (videos / "text.mp4").write_text("no video")
    self.assertEqual(self._run("few_done", f"--input={videos}")[0], 1)
    before = _files(self.folder / "few_done")
    (self.folder / "few_done" / "v02-rgb-PooledFeatures.npz").unlink()
    testing.write_moving_video(videos / "new.avi", seed=1, num_frames=20)
    shutil.copy(videos / "v00.avi", videos / "text.mp4")
    self.assertEqual(self._run("few_done", f"--input={videos}")[0], 1)
    after = _files(self.folder / "few_done")
    changed = {name for name in after if after[name] != before.get(name)}
    self.assertEqual(changed, {"v02-rgb-PooledFeatures.npz", "new-rgb-PooledFeatures.npz", "manifest.jsonl"})
    self.assertEqual(after["v02-rgb-PooledFeatures.npz"][1], before["v02-rgb-PooledFeatures.npz"][1])
    status, printed, _ = self._run("few_done", f"--input={videos}", "--retry_failures")
    self.assertEqual((status, printed), (0, f"7 of 7 videos have features in {self.folder / 'few_done'}, 0 failed\n"))
    self.assertEqual(self._run("few_done", f"--input={videos}")[0], 0)

  def test_other_parameters_are_refused(self):
    output = self._output("plain")
    before = _files(output)
    status, printed, complaints = self._run("plain", "--hop=4")
    self.assertEqual((status, printed), (1, ""))
    self.assertIn("plain was made with other parameters (hop was None, is 4)", complaints)
    self.assertEqual(_files(output), before)

  def test_shards_share_a_folder(self):
    flags = ("--num_shards=2", "--shard=0"), ("--num_shards=2", "--shard=1")
    statuses = [self._run("shards", *each)[0] for each in flags]
    self.assertEqual(statuses, [1, 1])
    self.assertEqual(_entries(self.folder / "shards"), _entries(self._output("plain")))

  @unittest.skipUnless(importlib.util.find_spec("apache_beam"), "Apache Beam is not installed")
  def test_beam_writes_the_same_bytes(self):
    status, printed, complaints = self._run("beam", "--runner=DirectRunner")
    self.assertEqual((status, complaints), (1, ""))
    self.assertIn("9 of 14 videos have features", printed)
    self.assertEqual(_entries(self.folder / "beam"), _entries(self._output("plain")))
    names = {name for name in _files(self.folder / "plain") if name.endswith(".npz")}
    ours, theirs = (_files(self.folder / name) for name in ("plain", "beam"))
    self.assertLen(names, 9)
    self.assertEqual({name: ours[name][1] for name in names}, {name: theirs[name][1] for name in names})

  def test_profiles_set_what_is_not_given(self):
    checkpoints = [f"--{stream}_checkpoint={self.folder / stream}" for stream in ("rgb", "flow")]
    output = self.folder / "actionformer"
    given = ("--profile=actionformer", f"--input={self.videos / 'b'}", f"--output={output}", *checkpoints)
    status, _, complaints = self._pool.submit(run_main, *given).result()
    self.assertEqual(status, 1)
    self.assertIn("v01.avi: the video has 14 frames with flow, fewer than a window of 16; tail=pad", complaints)
    # One position less than frames, in windows of 16 every 4.
    shapes = {entry["id"]: entry["outputs"][0]["shape"] for entry in _entries(output) if "outputs" in entry}
    self.assertEqual(shapes, {"v03": [1, 100], "v05": [1, 100], "v07": [2, 100]})
    status, _, complaints = self._pool.submit(run_main, *given, "--window=20").result()
    self.assertIn("(window was 16, is 20; hop was 4, is None)", complaints)  # the profile's hop is of its own window


class RefusalsTest(absltest.TestCase):
  def test_flags_that_do_not_go_together(self):
    for flags, message in (
      (["--output=o"], "--input is missing; see --help"),
      (["--input=v"], "--output is missing; see --help"),
      (["--input=v", "--output=o", "--shard=2", "--num_shards=2"], "--shard=2; shards are counted from 0"),
      (["--input=v", "--output=o", "--window=none"], "--window=none; it is a number of frames, or all"),
      (["--input=v", "--output=o", "--flow_checkpoint=f"], "--flow_checkpoint is given, but --streams=rgb has no"),
      (["--input=v", "--output=o", "--profile=rtfm", "--crops=1"], "the profile rtfm has crops=10, not 1"),
    ):
      with self.subTest(message):
        done = subprocess.run(
            [sys.executable, "-m", "i3d_tf.extract_features", *flags], capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": os.fspath(_ROOT)},
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertStartsWith(done.stderr, f"extract_features: error: {message}")
        self.assertLen(done.stderr.splitlines(), 1)


if __name__ == "__main__":
  absltest.main()
