"""The program: broken inputs, going on, shards, Beam, and what it refuses."""

import csv
import functools
import importlib.util
import json
import pathlib
import shutil
import tempfile
import unittest
from unittest import mock

from absl.testing import absltest
import numpy as np
from PIL import Image

import i3d_tf
from i3d_tf import testing
from i3d_tf.features import networks

_BROKEN = {
  "corrupted.mp4": "only 28 of 50 frames can be decoded",
  "cut.avi": "frames can be decoded; the video is damaged or incomplete",
  "empty.mp4": "the file is empty",
  "header.avi": "this is not a video that FFmpeg can open, or its header is damaged",
  "text.mp4": "this is not a video that FFmpeg can open, or its header is damaged",
}


def _extract(*words: str) -> testing.Finished:
  return testing.run_main("extract_features", *words)


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
  """The manifest without the seconds that things took, and when files were written."""
  without = lambda values, name: {key: value for key, value in values.items() if key != name}
  entries = [without(json.loads(line), "seconds") for line in (folder / "manifest.jsonl").read_text().splitlines()]
  for entry in entries:
    if "outputs" in entry:
      entry["outputs"] = [without(output, "changed") for output in entry["outputs"]]
  return entries


class ExtractFeaturesTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    for stream in ("rgb", "flow"):
      testing.write_network(cls.folder / stream, stream=stream, average_space=True, short_side=36, crop=32)
    # Programs of equal options share their networks, which are slow to trace.
    cls.enterClassContext(mock.patch.object(networks, "FeatureNetwork", functools.cache(networks.FeatureNetwork)))
    cls.videos = cls.folder / "videos"
    _make_inputs(cls.videos, 9)

  def _run(self, output: str, *flags: str) -> testing.Finished:
    inputs = () if any(flag.startswith("--input=") for flag in flags) else (f"--input={self.videos}",)
    fixed = (f"--rgb_checkpoint={self.folder / 'rgb'}", "--window=16", f"--output={self.folder / output}")
    given = (*inputs, *fixed, *flags)
    return _extract(*given)

  def _output(self, name: str) -> pathlib.Path:
    """An output folder in which all is done."""
    if not (self.folder / name).exists():
      self._run(name)
    return self.folder / name

  def test_damaged_videos_are_salvaged_and_marked(self):
    finished = self._run("salvaged", f"--input={self.videos / 'corrupted.mp4'}", "--allow_damaged")
    self.assertEqual(finished.status, 0, finished.stderr)
    (entry,) = _entries(self.folder / "salvaged")
    self.assertRegex(
      entry["notes"][0], "^damaged: only [0-9]+ of 50 frames can be decoded; after frame 28 a packet does"
    )
    with np.load(self.folder / "salvaged" / entry["outputs"][0]["path"]) as arrays:
      self.assertEqual(arrays["notes"].tolist(), entry["notes"])
    other = self._run("salvaged", f"--input={self.videos / 'corrupted.mp4'}")
    self.assertEqual(other.status, 1)
    self.assertIn("allow_damaged", other.stderr)

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
    self.assertEqual(self._run("few_done", f"--input={videos}")[0], 1)
    after = _files(self.folder / "few_done")
    changed = {name for name in after if after[name] != before.get(name)}
    self.assertEqual(changed, {"v02-rgb-PooledFeatures.npz", "new-rgb-PooledFeatures.npz", "manifest.jsonl"})
    self.assertEqual(after["v02-rgb-PooledFeatures.npz"][1], before["v02-rgb-PooledFeatures.npz"][1])
    complaint = self._run("few_done", f"--input={videos}", "--retry_failures").stderr
    self.assertIn("text.mp4: this is not a video", complaint)
    shutil.copy(videos / "v00.avi", videos / "text.mp4")  # the input has been mended
    status, printed, _ = self._run("few_done", f"--input={videos}")
    self.assertEqual((status, printed), (0, f"7 of 7 videos have features in {self.folder / 'few_done'}, 0 failed\n"))

  def test_other_parameters_are_refused(self):
    output = self._output("plain")
    before = _files(output)
    status, printed, complaints = self._run("plain", "--hop=4")
    self.assertEqual((status, printed), (1, ""))
    self.assertIn("plain was made with other parameters (hop was None, is 4)", complaints)
    self.assertEqual(_files(output), before)

  def test_the_library_gives_the_same_to_the_last_digit(self):
    path = self._output("plain") / "a" / "v08-rgb-PooledFeatures.npz"
    found = i3d_tf.extract_features(self.videos / "a" / "v08.avi", self.folder / "rgb", window=16)
    with np.load(path) as file:
      np.testing.assert_array_equal(found["rgb"]["PooledFeatures"], file["features"])
      np.testing.assert_array_equal(found.timestamps["rgb"]["PooledFeatures"], file["timestamps"])
      self.assertEqual((found.fps, found.num_frames), (float(file["fps"]), int(file["num_frames"])))

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
    status, _, complaints = _extract(*given)
    self.assertEqual(status, 1)
    self.assertIn("v01.avi: the video has 14 frames with flow, fewer than a window of 16; --tail=pad", complaints)
    # One position less than frames, in windows of 16 every 4.
    shapes = {entry["id"]: entry["outputs"][0]["shape"] for entry in _entries(output) if "outputs" in entry}
    self.assertEqual(shapes, {"v03": [1, 100], "v05": [1, 100], "v07": [2, 100]})
    status, _, complaints = _extract(*given, "--window=20")
    self.assertIn("(window was 16, is 20; hop was 4, is None)", complaints)  # the profile's hop is of its own window

  def test_presets_are_what_the_function_gives(self):
    output = self.folder / "bsl1k"
    given = ("--preset=bsl1k", f"--input={self.videos / 'a' / 'v08.avi'}", f"--output={output}")
    status, _, complaints = _extract(*given, f"--rgb_checkpoint={self.folder / 'rgb'}", "--fps=20")
    self.assertEqual((status, complaints), (0, ""))
    found = np.load(output / "v08.npy")
    self.assertEqual(found.shape, (1, 50))  # 22 frames at 25, 18 at 20
    video = self.videos / "a" / "v08.avi"
    features = i3d_tf.extract_features(video, self.folder / "rgb", preset="bsl1k", fps=20)
    np.testing.assert_array_equal(features["rgb"]["PooledFeatures"], found)
    self.assertEqual((features.config.step, features.config.tail), (8, "drop"))

  def test_predictions_are_what_the_network_says_of_each_window(self):
    output = self.folder / "predictions"
    video = self.videos / "a" / "v08.avi"
    finished = self._run("predictions", f"--input={video}", "--predictions=csv", "--top_k=2", "--hop=4")
    self.assertEqual((finished.status, finished.stderr), (0, ""))
    with (output / "v08-predictions.csv").open(newline="") as file:
      rows = list(csv.DictReader(file))
    self.assertLen(rows, 6)  # 22 frames in windows of 16 every 4, the last one filled up, two classes each
    found = i3d_tf.extract_features(video, self.folder / "rgb", window=16, hop=4, endpoints=("Logits",))
    logits = found["rgb"]["Logits"]
    for number, values in enumerate(logits):
      first, second = rows[2 * number : 2 * number + 2]
      self.assertEqual((first["window"], first["rank"], second["rank"]), (str(number), "1", "2"))
      self.assertAlmostEqual(float(first["logit"]), values.max(), places=4)
      self.assertGreaterEqual(float(first["probability"]), float(second["probability"]))
      self.assertEqual((float(first["start"]), float(first["end"])), (0.16 * number, min(0.16 * number + 0.64, 0.88)))
    given = i3d_tf.extract_features(video, self.folder / "rgb", window=16, hop=4, predictions="json", top_k=2)
    self.assertEqual(
      [each["classes"]["rgb"][0]["label"] for each in given.predictions], [r["label"] for r in rows[::2]]
    )
    (entry,) = _entries(output)
    self.assertEqual([each["path"] for each in entry["outputs"]], ["v08-rgb-PooledFeatures.npz", "v08-predictions.csv"])

  def test_a_folder_of_images_is_a_video(self):
    frames = self.folder / "images" / "some.clip"
    frames.mkdir(parents=True)
    for number, frame in enumerate(i3d_tf.read_video(self.videos / "a" / "v00.avi", short_side=None), start=1):
      Image.fromarray(frame).save(frames / f"img_{number:05}.png")
    np.save(self.folder / "images" / "again.npy", i3d_tf.read_video(frames, short_side=None))
    finished = self._run("of_images", f"--input={self.folder / 'images'}")
    self.assertEqual((finished.status, finished.stderr), (0, ""))
    with np.load(self._output("plain") / "a" / "v00-rgb-PooledFeatures.npz") as file:
      expected = file["features"]
    for name in ("some.clip", "again"):
      with np.load(self.folder / "of_images" / f"{name}-rgb-PooledFeatures.npz") as file:
        np.testing.assert_array_equal(file["features"], expected)
    (frames / "img_00003.png").unlink()
    finished = self._run("of_images", f"--input={frames}")
    self.assertEqual(finished.status, 1)
    self.assertIn("1 of the numbered images are missing, between img_00002.png and img_00004.png", finished.stderr)


class RefusalsTest(absltest.TestCase):
  def test_flags_that_do_not_go_together(self):
    for flags, message in (
      (["--output=o"], "--input is needed; see --help"),
      (["--input=v"], "--output is needed; see --help"),
      (["--input=v", "--output=o", "--shard=2", "--num_shards=2"], "--shard=2; shards are counted from 0"),
      (["--input=v", "--output=o", "--window=none"], "--window=none; it is a number of frames, or all"),
      (["--input=v", "--output=o", "--flow_checkpoint=f"], "--flow_checkpoint is given, but --streams=rgb has no"),
      (["--input=v", "--output=o", "--profile=rtfm", "--crops=1"], "the profile rtfm has --crops=10, not 1"),
      (["--input=v", "--output=o", "--preset=rtfm_ucf"], "the preset rtfm_ucf is of i3d_r50_caffe2 or"),
    ):
      with self.subTest(message):
        done = _extract(*flags)
        self.assertEqual((done.status, done.stdout), (1, ""))
        self.assertStartsWith(done.stderr, f"extract_features: error: {message}")
        self.assertLen(done.stderr.splitlines(), 1)


if __name__ == "__main__":
  absltest.main()
