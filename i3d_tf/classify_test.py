"""Tests of classify: the real program in processes of its own, with full-size networks of made weights."""

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import flagsaver
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf

import i3d_tf
from i3d_tf import classify
from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf.evaluation import published
from i3d_tf.inference import classification
from i3d_tf.models import inception

_ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = resources.class_names(400)


def _environment(cache: os.PathLike) -> dict[str, str]:
  """The environment of a user who has no checkpoints and no way to them."""
  nowhere = "http://127.0.0.1:9"
  proxies = {name: nowhere for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
  pip = {"PIP_INDEX_URL": nowhere, "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": ""}
  kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy" and name[:4] != "PIP_"}
  return kept | proxies | pip | {"PYTHONPATH": os.fspath(_ROOT), "I3D_CACHE": os.fspath(cache)}


def write_video(path: os.PathLike, num_frames: int, *, first: int = 0) -> None:
  """A video of 25 frames a second: a bright bar that moves over noise."""
  noise = np.random.default_rng(first).integers(0, 128, (48, 64, 3), np.uint8)
  writer = cv2.VideoWriter(os.fspath(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
  for i in range(num_frames):
    frame = noise.copy()
    frame[:, (first + 4 * i) % 56 :][:, :8] = 250
    writer.write(frame)
  writer.release()


class ClassifyTestCase(parameterized.TestCase):
  """Runs the program in a folder of the test's own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def run_classify(self, *words: str) -> subprocess.CompletedProcess:
    return self.run_python("-m", "i3d_tf.classify", *words)

  def run_python(self, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
      [sys.executable, *words],
      capture_output=True,
      text=True,
      env=_environment(self.folder / "cache"),
      cwd=self.folder,
      timeout=300,
    )

  def assert_fails(self, done: subprocess.CompletedProcess, sentence: str, *, output: str = "") -> None:
    """Fails with one line of error that matches `sentence`."""
    self.assertRegex(done.stderr, f"^classify: error: .*{sentence}.*\n$")
    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
    self.assertNotIn("Traceback", done.stdout + done.stderr)
    self.assertEqual(done.stdout, output)
    self.assertEqual(done.returncode, 1)


class QuickTest(ClassifyTestCase):
  def test_importing_the_package_imports_nothing_large(self):
    program = "import sys, i3d_tf; print([name for name in ('tensorflow', 'numpy', 'cv2') if name in sys.modules])"
    done = self.run_python("-c", program)
    self.assertEqual(done.stdout, "[]\n", done.stderr)

  def test_help_of_the_console_script_is_the_same(self):
    script = "import sys; sys.argv[0] = 'bin/i3d_classify'; from i3d_tf import classify; classify.run()"
    of_script = self.run_python("-c", script, "--help").stdout
    of_module = self.run_classify("--help").stdout
    self.assertIn("--rgb_checkpoint", of_script)
    self.assertEqual(of_script.replace("bin/i3d_classify:", ""), of_module.replace(f"{classify.__file__}:", ""))

  def test_defaults_are_those_of_the_library(self):
    flag = classify.FLAGS["max_frames"]
    self.assertEqual(flag.default, classification.MAX_FRAMES)
    self.assertEqual(flag.parser.lower_bound, inception.MIN_FRAMES)


class ErrorsBeforeTheWorkTest(ClassifyTestCase):
  """What is wrong with the flags is said at once, whatever they name."""

  @parameterized.named_parameters(
    ("nothing", [], "give either --video or arrays"),
    ("empty_list", ["--video="], "give either --video or arrays"),
    ("both", ["--video=a.mp4", "--rgb_npy=a.npy"], "give either --video or arrays"),
    ("expect_of_video", ["--video=a.mp4", "--expect=published"], "--expect=published is for the release's sample"),
    ("joint_without_flow", ["--rgb_npy=a.npy", "--streams=joint"], "--streams=joint needs --flow_npy, which"),
    ("joint_without_rgb", ["--flow_npy=a.npy", "--streams=joint"], "needs --rgb_npy, which"),
    ("rgb_of_flow", ["--flow_npy=a.npy", "--streams=rgb"], "--streams=rgb needs --rgb_npy, which"),
    ("unused_npy", ["--rgb_npy=a", "--flow_npy=b", "--streams=rgb"], "--flow_npy is given, but --streams=rgb does"),
    ("unused_flow_checkpoint", ["--video=a", "--flow_checkpoint=b"], "--flow_checkpoint is given, but only the rgb"),
    ("unused_rgb_checkpoint", ["--flow_npy=a", "--rgb_checkpoint=b"], "--rgb_checkpoint is given, but only the flow"),
    ("unused_max_frames", ["--rgb_npy=a", "--max_frames=20"], "--max_frames is for videos"),
    ("unused_threads", ["--video=a.mp4", "--threads=2"], "--threads is for the optical flow of videos"),
    ("word", ["--video=a.mp4", "b.mp4"], "unexpected argument 'b.mp4'"),
    ("expect_of_path", ["--rgb_npy=a", "--rgb_checkpoint=/x/y", "--expect=published"], "no rgb figures for /x/y"),
    (
      "expect_of_600",
      ["--rgb_npy=a", "--rgb_checkpoint=rgb_scratch_kin600", "--expect=published"],
      "no rgb figures for rgb_scratch_kin600",
    ),
    (
      "expect_of_two_families",
      ["--rgb_npy=a", "--flow_npy=b", "--rgb_checkpoint=rgb_scratch", "--expect=published"],
      "no joint figures for rgb_scratch and flow_imagenet",
    ),
    ("folder_without_videos", ["--video=."], "the folder holds no video"),
    ("comma_too_many", ["--video=a.mp4,"], "empty path"),
    ("json_in_missing_folder", ["--video=a.mp4", "--json=none/a.json"], "none/a.json: No such file or directory"),
    ("json_is_a_folder", ["--video=a.mp4", "--json=."], r"(?<= )\.: Is a directory"),
    ("json_is_a_device", ["--video=a.mp4", "--json=/dev/null"], "/dev/null: this is not a regular file"),
  )
  def test_sentence(self, words, sentence):
    self.assert_fails(self.run_classify(*words), sentence)
    self.assertEqual(os.listdir(self.folder), [])

  @parameterized.parameters(
    ("--bogus", "Unknown command line flag 'bogus'"),
    ("--vide=a.mp4", "Unknown command line flag 'vide'"),
    ("--top_k=0", "flag --top_k=0: 0 is not a positive integer"),
    ("--top_k=many", "flag --top_k=many"),
    ("--max_frames=8", "flag --max_frames=8: 8 is not "),
    ("--streams=sound", r"flag --streams=sound: value should be one of <rgb\|flow\|joint>"),
    ("--expect=miracles", "flag --expect=miracles: value should be one of <published>"),
  )
  def test_flags_that_do_not_parse(self, word, sentence):
    done = self.run_classify("--video=a.mp4", word)
    self.assertRegex(done.stderr, f"^FATAL Flags parsing error: {sentence}")
    self.assertEqual(done.stderr.count("error"), 1)
    self.assertNotIn("Traceback", done.stderr)
    self.assertEqual((done.returncode, done.stdout), (1, ""))


class CheckpointErrorsTest(ClassifyTestCase):
  def test_no_checkpoint_of_that_name(self):
    (self.folder / "a.json").write_text("old")
    done = self.run_classify("--video=a.mp4", "--rgb_checkpoint=rgb_imagnet", "--json=a.json")
    self.assert_fails(done, "no checkpoint at rgb_imagnet: .*rgb_imagenet")
    self.assertEqual(os.listdir(self.folder), ["a.json"])
    self.assertEqual((self.folder / "a.json").read_text(), "old")

  def test_not_a_checkpoint(self):
    (self.folder / "model.ckpt.index").write_text("This is no checkpoint.\n" * 10)
    done = self.run_classify("--video=a.mp4", "--rgb_checkpoint=model.ckpt")
    self.assert_fails(done, "model.ckpt.index cannot be read as a checkpoint")

  def test_no_way_to_the_released_checkpoint(self):
    self.assert_fails(self.run_classify("--video=a.mp4"), "rgb_imagenet")


class ClassifyTest(ClassifyTestCase):
  """With networks of made weights, one for each stream, and one with too few classes."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.checkpoints, cls.models = {}, {}
    for stream, channels, num_classes in (("rgb", 3, 400), ("flow", 2, 400), ("few", 2, 7)):
      model = i3d_tf.InceptionI3d(num_classes)
      model.build(channels)
      for variable in model.variables if num_classes == 400 else ():
        variable.assign(testing.golden_values(f"{stream}/{variable.name.removesuffix(':0')}", variable.shape))
      cls.checkpoints[stream] = os.path.join(folder.name, stream)
      i3d_tf.save_release_checkpoint(model, cls.checkpoints[stream], stream="rgb" if stream == "rgb" else "flow")
      cls.models[stream] = model

  def _expected(self, stream: str, clip: np.ndarray) -> np.ndarray:
    return self.models[stream](tf.constant(clip[np.newaxis]))[0][0].numpy()

  def _save_clips(self) -> dict[str, np.ndarray]:
    clips = {}
    for stream, channels in (("rgb", 3), ("flow", 2)):
      clip = np.random.default_rng(channels).uniform(-1, 1, (1, 9, 224, 224, channels)).astype(np.float32)
      np.save(self.folder / f"{stream}.npy", clip)
      clips[stream] = clip[0]
    return clips

  def _assert_result(self, result: dict, name: str, num_frames: int, logits: np.ndarray, top_k: int) -> None:
    """The result in the JSON file is that of `logits`, computed here."""
    tolerance = 1e-4 * np.abs(logits).max()
    self.assertEqual((result["input"], result["frames"]), (name, num_frames))
    self.assertNotIn("error", result)
    self.assertAlmostEqual(result["norm"], np.linalg.norm(logits), delta=20 * tolerance)
    predictions = result["predictions"]
    self.assertLen(predictions, top_k)
    self.assertEqual([p["label"] for p in predictions], [NAMES[p["index"]] for p in predictions])
    got = np.array([p["logit"] for p in predictions])
    np.testing.assert_allclose(got, np.sort(logits)[::-1][:top_k], rtol=0, atol=tolerance)
    np.testing.assert_allclose(got, [logits[p["index"]] for p in predictions], rtol=0, atol=tolerance)
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = [exponentials[p["index"]] / exponentials.sum() for p in predictions]
    np.testing.assert_allclose([p["probability"] for p in predictions], probabilities, rtol=0, atol=2 * tolerance)

  def _assert_printed(self, result: dict, output: str) -> None:
    lines = [f"{result['input']}: {result['frames']} frames", f"Norm of logits: {result['norm']:.6f}"]
    lines += [f"{p['probability']:.7f} {p['logit']:11.6f}  {p['label']}" for p in result["predictions"]]
    self.assertIn("\n".join(lines) + "\n", output)

  def test_several_videos_and_bad_ones_among_them(self):
    strange = os.fsdecode(b"caf\xe9.avi")
    (self.folder / "more").mkdir()
    lengths = {"a b.avi": 12, "long.avi": 30, "more/c.avi": 9, "more/short.avi": 5}
    for i, (name, num_frames) in enumerate(lengths.items()):
      write_video(self.folder / name, num_frames, first=10 * i)
    try:
      os.rename(self.folder / "a b.avi", self.folder / strange)
    except OSError:  # a file system that takes UTF-8 only
      strange = "a b.avi"
    (self.folder / "text.mp4").write_text("This is no video.\n")
    videos = [strange, "text.mp4", "none.mp4", "long.avi", "more"]
    done = self.run_classify(
      f"--video={','.join(videos)}",
      f"--rgb_checkpoint={self.checkpoints['rgb']}",
      "--top_k=3",
      "--max_frames=14",
      "--json=out.json",
    )
    self.assertEqual(done.returncode, 1)
    self.assertEqual(
      [re.match(r"classify: error: (\S+): (\w+ \w+ \w+ \w+)", line).groups() for line in done.stderr.splitlines()],
      [
        ("text.mp4", "this is not a"),
        ("none.mp4", "there is no such"),
        ("more/short.avi", "the video has 5"),
      ],
    )
    saved = json.loads((self.folder / "out.json").read_text())
    self.assertEqual(saved["streams"], {"rgb": self.checkpoints["rgb"]})
    results = {result["input"]: result for result in saved["results"]}
    self.assertEqual(list(results), [strange, "text.mp4", "none.mp4", "long.avi", "more/c.avi", "more/short.avi"])
    for name, num_frames in {strange: 12, "long.avi": 14, "more/c.avi": 9}.items():
      clip = classification.read_video_clips(self.folder / name, max_frames=14)["rgb"]
      self._assert_result(results[name], name, num_frames, self._expected("rgb", clip), top_k=3)
      if name != strange:
        self._assert_printed(results[name], done.stdout)
    bad = ["text.mp4", "none.mp4", "more/short.avi"]
    self.assertEqual([name for name, result in results.items() if "error" in result], bad)
    for name, line in zip(bad, done.stderr.splitlines()):
      self.assertEqual(results[name].keys(), {"input", "error"})
      self.assertEqual(line, f"classify: error: {results[name]['error']}")
    self.assertEndsWith(done.stdout, "\n3 of 6 videos classified, 3 failed\n")

  def test_one_good_video_says_nothing_else(self):
    write_video(self.folder / "a.avi", 12)
    done = self.run_classify("--video=a.avi", f"--rgb_checkpoint={self.checkpoints['rgb']}")
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    heading, norm, *lines = done.stdout.rstrip("\n").split("\n")
    logits = self._expected("rgb", classification.read_video_clips(self.folder / "a.avi")["rgb"])
    self.assertEqual(heading, "a.avi: 12 frames")
    self.assertAlmostEqual(float(norm.removeprefix("Norm of logits: ")), np.linalg.norm(logits), places=2)
    best = np.argsort(-logits)[:5]
    self.assertEqual([line.split("  ")[-1] for line in lines], [NAMES[i] for i in best])
    np.testing.assert_allclose([float(line.split()[1]) for line in lines], logits[best], atol=1e-3)

  def test_joint_adds_the_logits_of_the_arrays(self):
    clips = self._save_clips()
    done = self.run_classify(
      "--streams=joint",
      "--rgb_npy=rgb.npy",
      "--flow_npy=flow.npy",
      f"--rgb_checkpoint={self.checkpoints['rgb']}",
      f"--flow_checkpoint={self.checkpoints['flow']}",
      "--top_k=400",
      "--json=out.json",
    )
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    saved = json.loads((self.folder / "out.json").read_text())
    self.assertEqual(saved["streams"], {stream: self.checkpoints[stream] for stream in ("rgb", "flow")})
    (result,) = saved["results"]
    rgb, flow = (self._expected(stream, clips[stream]) for stream in ("rgb", "flow"))
    self.assertGreater(np.abs(rgb - flow).max(), 0.1 * np.abs(rgb).max())  # neither stream alone would pass
    self._assert_result(result, "rgb.npy and flow.npy", 9, rgb + flow, top_k=400)
    self.assertAlmostEqual(sum(p["probability"] for p in result["predictions"]), 1)
    self._assert_printed(result, done.stdout)

  def test_a_full_disk(self):
    clips = self._save_clips()
    disk = self.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk]
    try:
      mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
      self.skipTest("there is no mount command")
    if mounted.returncode:
      self.skipTest(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    self.addCleanup(subprocess.run, ["umount", disk], check=True)
    done = self.run_classify(
      "--flow_npy=flow.npy", f"--flow_checkpoint={self.checkpoints['flow']}", "--top_k=400", "--json=disk/out.json"
    )
    self.assert_fails(done, "disk/out.json: No space left on device", output=done.stdout)
    best = NAMES[self._expected("flow", clips["flow"]).argmax()]
    self.assertEndsWith(done.stdout.splitlines()[2], f"  {best}")  # what was computed is not lost
    self.assertEqual(os.listdir(disk), [])

  # The next ones need no process of their own: how such an error ends the program is shown above.

  @parameterized.parameters(
    ((1, 8, 224, 224, 2), "the clip has 8 frames; the network needs at least 9"),
    ((1, 9, 224, 224, 3), "the clip has shape (9, 224, 224, 3); this network takes [frames, 224, 224, 2]"),
  )
  def test_arrays_that_do_not_fit(self, shape, sentence):
    flow = os.fspath(self.folder / "flow.npy")
    np.save(flow, np.zeros(shape, np.float32))
    given = {"flow_npy": flow, "flow_checkpoint": self.checkpoints["flow"], "json": os.fspath(self.folder / "out.json")}
    with flagsaver.flagsaver(**given), contextlib.redirect_stderr(io.StringIO()) as output:
      self.assertEqual(classify.main([]), 1)
    self.assertEqual(output.getvalue(), f"{cli.program()}: error: {flow}: {sentence}\n")
    (result,) = json.loads((self.folder / "out.json").read_text())["results"]
    self.assertEqual(result, {"input": flow, "error": f"{flow}: {sentence}"})

  def test_a_checkpoint_of_the_other_stream(self):
    with flagsaver.flagsaver(video=["none.mp4"], rgb_checkpoint=self.checkpoints["flow"]):
      with self.assertRaisesRegex(
        errors.I3dError, f"^checkpoint {self.checkpoints['flow']} is of a network .* 2 channels; the rgb .* has 3$"
      ):
        classify.main([])

  def test_streams_of_different_classes(self):
    checkpoints = {"rgb_checkpoint": self.checkpoints["rgb"], "flow_checkpoint": self.checkpoints["few"]}
    with flagsaver.flagsaver(rgb_npy="none.npy", flow_npy="none.npy", **checkpoints):
      with self.assertRaisesRegex(errors.I3dError, r"do not go together: num_classes is 400 and 7$"):
        classify.main([])


class MeetsTest(parameterized.TestCase):
  """The verdict of --expect=published."""

  @parameterized.parameters(
    (0.0, True, "within 0.001"), (0.0009, True, "within 0.001"), (0.01, False, "NOT within 0.001")
  )
  def test_verdict(self, error, meets, words):
    run = published.Run(5.0, {"zumba": 4.0, "archery": 3.0})
    logits = np.zeros(400)
    logits[[399, 5]] = 4.0 + error, 3.0
    with contextlib.redirect_stdout(io.StringIO()) as output:
      self.assertEqual(classify._meets(run, logits, NAMES), meets)
    self.assertRegex(output.getvalue(), f"\nlargest difference {error:.6f}, {words}\n$")
    self.assertLen(output.getvalue().splitlines(), 5)


if __name__ == "__main__":
  absltest.main()
