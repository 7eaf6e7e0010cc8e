"""Inputs that are made to end a run: each is used or named by every program, and the others are done."""

import json
import math
import os
import pathlib
import re
import struct
import tempfile
from typing import ClassVar
from unittest import mock
import zlib

from absl.testing import absltest
import numpy as np

from i3d_tf import testing
from i3d_tf import workers
from i3d_tf.data import inspection
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.evaluation import predictions
from i3d_tf.video import decode

# What a process that decodes runs at its start: a decoder that dies, as FFmpeg might, in the middle of some videos.
_DYING_DECODER = """
import os, signal
from i3d_tf.video import frames
whole = frames.timed_frames
def timed_frames(path, **options):
  for number, frame in enumerate(whole(path, **options)):
    if number == 5 and "deadly" in os.fspath(path):
      os.kill(os.getpid(), signal.SIGSEGV)
    yield frame
frames.timed_frames = timed_frames
"""


def _mutant(serialized: bytes, number: int, rng: np.random.Generator) -> bytes:
  """A record of which one thing is changed, and its id, unless that is it."""
  example = records.to_example(serialized)
  context, lists = example.context.feature, example.feature_lists.feature_list
  context["example/id"].bytes_list.value[0] = f"mutant{number}".encode()
  floats = (math.nan, math.inf, -math.inf, -1.0, 1e38, 1e-38)
  rgb, flow = lists["image/encoded"].feature, lists["FORWARD_FLOW/image/encoded"].feature
  images = (b"", b"\xff\xd8\xff", _png(1, 60000), _png(60000, 1), _png(2**31 - 1, 2**31 - 1), _png(0, 0), b"GIF89a")

  def put(feature, value):
    feature.Clear()
    getattr(feature, "float_list" if isinstance(value, float) else "int64_list").value.append(value)

  def end() -> bytes:
    return example.SerializeToString()

  match number % 16:
    case 0:
      put(context["image/frame_rate"], floats[number // 16])
    case 1:
      put(context["FORWARD_FLOW/encoding/bound"], floats[number // 16])
    case 2:
      put(context["FORWARD_FLOW/encoding/bound"], floats[-1 - number // 16])
    case 3:
      put(context["clip/label/index"], (-1, 3, 2**31, -(2**63))[number // 16])
    case 4:
      context["example/id"].bytes_list.value[0] = (b"a\0b", b"x" * 300, b"../up", b"\xff\xfe")[number // 16]
    case 5:
      context["example/id"].bytes_list.value[0] = (b"", b"", b"/", b"a/" * 3000)[number // 16]
    case 6:
      rgb[number // 16].bytes_list.value[0] = images[number // 16]
    case 7:
      flow[number // 16].bytes_list.value[0] = images[3 + number // 16]
    case 8:
      rgb[3].bytes_list.value[0] = images[2 + number // 16]
    case 9:
      del flow[number // 16 + 1 :]
    case 10:
      flow.extend([flow[0]] * (1 + number // 16))
    case 11:
      del rgb[number // 16 :]
    case 12:
      del lists[("image/encoded", "FORWARD_FLOW/image/encoded", "image/timestamp", "image/encoded")[number // 16]]
    case 13:
      put(context[("example/id", "clip/label/string", "image/frame_rate", "clip/start/timestamp")[number // 16]], 7)
    case 14:
      rgb[2].bytes_list.value.append(b"two")
    case 15:
      return bytes(rng.integers(0, 256, 200, np.uint8)) if number < 32 else end()[: number * 40]
  return end()


def _png(width: int, height: int) -> bytes:
  """The beginning of a PNG of a size, black as far as it goes."""
  chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  pixels = zlib.compress(bytes(min((width + 1) * height, 1 << 17)))
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class VideosTest(absltest.TestCase):
  """Videos of which one ends its decoder's process."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.videos = self.folder / "videos"
    self.videos.mkdir()
    for number, name in enumerate(("a", "b_deadly", "c", "d")):
      testing.write_moving_video(self.videos / f"{name}.avi", seed=number, num_frames=20)
    testing.write_network(self.folder / "rgb")
    (self.folder / "sitecustomize.py").write_text(_DYING_DECODER)
    path = os.pathsep.join([os.fspath(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    self.enter_context(mock.patch.dict(os.environ, PYTHONPATH=path))
    self.enter_context(mock.patch.object(decode, "_elsewhere", workers.Streams()))

  def _run(self, program: str, *words: str) -> testing.Finished:
    done = testing.run_main(program, f"--rgb_checkpoint={self.folder / 'rgb'}", *words)
    self.assertEqual(done.status, 1, done.stderr)
    died = f"{program}: error: {self.videos / 'b_deadly.avi'}: the process that read it died (SIGSEGV)"
    self.assertEqual([line for line in done.stderr.splitlines() if "error" in line], [died])
    return done

  def test_classify(self):
    done = self._run("classify", f"--video={self.videos}", f"--json={self.folder / 'out.json'}")
    self.assertIn("3 of 4 videos classified, 1 failed", done.stdout)
    results = json.loads((self.folder / "out.json").read_text())["results"]
    self.assertEqual([pathlib.Path(each["input"]).stem for each in results if "error" not in each], ["a", "c", "d"])

  def test_extract_features(self):
    done = self._run("extract_features", f"--input={self.videos}", f"--output={self.folder / 'out'}", "--window=16")
    self.assertIn("3 of 4 videos have features", done.stdout)
    self.assertLen(list((self.folder / "out").glob("*.npz")), 3)

  def test_fvd(self):
    made = self.folder / "made.npy"
    np.save(made, np.zeros((2, 10, 8, 8, 3), np.uint8))
    done = self._run("fvd", f"--real={self.videos}", f"--generated={made}", "--num_frames=10", "--resamples=0")
    self.assertIn("clips: 3 real", done.stdout)


class FieldTest(absltest.TestCase):
  """Files that broke the programs of others, or earlier ones of ours: each has its frames, or is named."""

  _FRAMES: ClassVar[dict[str, int]] = {"audio_longer": 102, "av1": 100, "cut_copy": 103, "int_640": 50, "mirror": 50}
  _REFUSED = ("clockjump", "timebomb")

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.videos = cls.folder / "videos"
    (cls.videos / "train" / "a").mkdir(parents=True)
    field = testing.shared("field")
    for path in [*field.glob("*.mp4"), *field.glob("*.mkv"), *field.glob("attacks/*.avi")]:
      (cls.videos / "train" / "a" / path.name).symlink_to(path)
    testing.write_network(cls.folder / "rgb", average_space=True, crop=32, short_side=32)

  def _run(self, program: str, *words: str) -> testing.Finished:
    done = testing.run_main(program, *words)
    self.assertEqual(done.status, 1, done.stderr)  # for the two that are refused
    for name in self._REFUSED:
      self.assertRegex(
        done.stdout + done.stderr, rf"{name}\S*: the clock jumps by .*--allow_damaged leaves the gap out"
      )
    return done

  def test_classify(self):
    output = self.folder / "out.json"
    self._run("classify", f"--rgb_checkpoint={self.folder / 'rgb'}", f"--video={self.videos}", f"--json={output}")
    results = json.loads(output.read_text())["results"]
    frames = {pathlib.Path(each["input"]).stem: each.get("frames") for each in results}
    self.assertEqual(frames, self._FRAMES | dict.fromkeys(self._REFUSED))

  def test_prepare_dataset(self):
    output = self.folder / "records"
    words = ("--dataset=folder", f"--videos={self.videos}", f"--output={output}", "--streams=rgb", "--short_side=32")
    self._run("prepare_dataset", *words, "--num_workers=1")
    entries = [entry for path in record_index.find_files(output) for entry in record_index.scan(path)]
    frames = {pathlib.Path(record.path).stem: len(record.frames) for record in (entry.load() for entry in entries)}
    self.assertEqual(frames, self._FRAMES)
    rows = [line.split("\t") for line in (output / "failures.tsv").read_text().splitlines()[1:]]
    self.assertCountEqual([pathlib.Path(row[1]).name for row in rows], self._REFUSED)
    self.assertTrue(all("--allow_damaged" in row[3] for row in rows))

  def test_extract_features(self):
    output = self.folder / "features"
    words = (f"--rgb_checkpoint={self.folder / 'rgb'}", f"--input={self.videos}", f"--output={output}", "--window=16")
    self._run("extract_features", *words)
    entries = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    frames = {pathlib.Path(entry["input"]).stem: entry.get("frames") for entry in entries}
    self.assertEqual(frames, self._FRAMES | dict.fromkeys(self._REFUSED))

  def test_fvd(self):
    np.save(self.folder / "made.npy", np.zeros((2, 10, 8, 8, 3), np.uint8))
    words = (f"--real={self.videos}", f"--generated={self.folder / 'made.npy'}", "--num_frames=10", "--resamples=0")
    done = self._run("fvd", f"--rgb_checkpoint={self.folder / 'rgb'}", *words)
    self.assertIn("clips: 5 real, 2 generated", done.stdout)

  def test_visualize(self):
    for name in ("int_640", "mirror"):
      video, output = self.videos / "train" / "a" / f"{name}.mp4", self.folder / f"{name}.mp4"
      words = (f"--rgb_checkpoint={self.folder / 'rgb'}", f"--output={output}", "--nodraw_flow")
      done = testing.run_main("visualize", "video", video, *words)
      self.assertEqual(done.status, 0, done.stderr)
      self.assertEqual(decode.count_frames(output), self._FRAMES[name])


class RecordsTest(absltest.TestCase):
  """A folder of sound records among which stand 64 that were changed in one field each."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    testing.write_records(cls.folder / "sound")
    sound = [entry.read() for entry in record_index.scan(cls.folder / "sound" / "test-00000-of-00001.tfrecord")]
    rng = np.random.default_rng(0)
    mutants = [_mutant(sound[number % len(sound)], number, rng) for number in range(64)]
    (cls.folder / "records").mkdir()
    cls.path = cls.folder / "records" / "test-00000-of-00001.tfrecord"
    cls.path.write_bytes(b"".join(map(shards.frame, [*mutants, *sound])))
    for stream in ("rgb", "flow"):
      testing.write_network(cls.folder / stream, stream=stream, average_space=True, crop=32, short_side=32)

  def _problems(self) -> dict[int, str]:
    """What inspection finds wrong, by the record's number."""
    found = {}
    for problem in inspection.Verifier(self.path).problems():
      number = int(re.search(r", record (\d+)", problem)[1])
      found[number] = found.get(number, "") + problem
    return found

  def test_evaluate(self):
    output = self.folder / "scores"
    networks = (f"--{stream}_checkpoint={self.folder / stream}" for stream in ("rgb", "flow"))
    done = testing.run_main(
      "evaluate", f"--records={self.path.parent}", "--split=test", f"--output={output}", *networks
    )
    self.assertEqual(done.status, 1, done.stderr)
    self.assertTrue((output / "results.json").exists(), done.stderr)
    failures = json.loads((output / "results.json").read_text())["failures"]
    self.assertIn(f"{len(failures)} records could not be evaluated", done.stderr)
    problems = self._problems()
    for stream in ("rgb", "flow"):
      scores = predictions.load(output / f"scores_{stream}.npz")
      failed = {failure["number"]: failure["reason"] for failure in failures if failure["stream"] == stream}
      self.assertLen(scores.ids, 70 - len(failed))
      self.assertContainsSubset(range(64, 70), scores.numbers.tolist())
      self.assertBetween(len(failed), 32, 64)
      for number in failed.keys() - problems.keys():  # inspection names the rest
        self.assertRegex(failed[number], "its label|its id '' is also")

  def test_extract_features(self):
    output = self.folder / "features"
    words = (f"--input={self.path}", f"--output={output}", f"--rgb_checkpoint={self.folder / 'rgb'}", "--window=12")
    done = testing.run_main("extract_features", *words)
    self.assertEqual(done.status, 1, done.stderr)
    entries = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    self.assertLen(entries, 70)
    failed = {entry["input"]: entry["error"] for entry in entries if "error" in entry}
    self.assertBetween(len(failed), 24, 64)
    problems = self._problems()
    for name, error in failed.items():
      self.assertIn(str(self.path), error)
      self.assertIn(int(name.rpartition(" ")[2]), problems, error)


if __name__ == "__main__":
  absltest.main()
