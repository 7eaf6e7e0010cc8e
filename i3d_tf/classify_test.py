"""Tests of classify: its results against the network's own, and what it refuses, in one sentence each."""

import contextlib
import importlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf

import i3d_tf
from i3d_tf import devices
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf.inference import classification
from i3d_tf.models import inception
from i3d_tf.video import decode
from i3d_tf.weights import manifest
from i3d_tf.weights import saved

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
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(self.folder)
    self.enter_context(mock.patch.dict(os.environ, _environment(self.folder / "cache"), clear=True))
    # The figures are float32's, also where another type is faster.
    self.enter_context(mock.patch.object(devices, "fastest_precision", return_value=("float32", {})))

  def run_classify(self, *words: str) -> testing.Finished:
    return testing.run_main("classify", *words)

  def run_python(self, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)

  def assert_fails(self, done: testing.Finished, sentence: str, *, output: str = "") -> None:
    """Fails with one line of error that matches `sentence`."""
    self.assertRegex(done.stderr, f"^classify: error: .*{sentence}.*\n$")
    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
    self.assertEqual(done.stdout, output)
    self.assertEqual(done.status, 1)


class QuickTest(ClassifyTestCase):
  def test_importing_the_package_imports_nothing_large(self):
    program = "import sys, i3d_tf; print([name for name in ('tensorflow', 'numpy', 'cv2') if name in sys.modules])"
    done = self.run_python("-c", program)
    self.assertEqual(done.stdout, "[]\n", done.stderr)

  def test_help_of_the_console_script_is_the_same(self):
    script = "import sys; sys.argv[0] = 'bin/i3d_classify'; from i3d_tf.classify import run; run()"
    of_script = self.run_python("-c", script, "--help").stdout
    of_module = self.run_python("-m", "i3d_tf.classify", "--help").stdout
    self.assertIn("--rgb_checkpoint", of_script)
    self.assertEqual(of_script, of_module)

  def test_limits_are_those_of_the_library(self):
    self.assertIn("of I3D 250. (at least 9; default: 250)", " ".join(self.run_classify("--help").stdout.split()))
    info = saved.make_info(stream="rgb", num_classes=400)
    self.assertEqual((classification.protocol(info).max_frames, inception.MIN_FRAMES), (250, 9))

  def test_a_gpu_that_tensorflow_cannot_use_is_spoken_of(self):
    with mock.patch.object(devices, "has_nvidia_gpu", return_value=True):
      warning = devices.unused_gpu()
    self.assertRegex(warning, "has an NVIDIA GPU, but TensorFlow 2.* cannot use it, since it (does not|is a b)")
    if tf.test.is_built_with_cuda():
      self.assertRegex(warning, r"does not find .*libcuda\.so\.1 \(the driver\).*libcudnn\.so")


class ErrorsBeforeTheWorkTest(ClassifyTestCase):
  """What is wrong with the flags is said at once, whatever they name."""

  @parameterized.named_parameters(
    ("nothing", [], "give either --video, --follow, or arrays"),
    ("empty_list", ["--video="], "give either --video, --follow, or arrays"),
    ("both", ["--video=a.mp4", "--rgb_npy=a.npy"], "give either --video, --follow, or arrays"),
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
    ("unused_allow_damaged", ["--rgb_npy=a", "--allow_damaged"], "--allow_damaged is for videos"),
    ("no_such_video", ["--video=a.mp4,b.mp4", "--rgb_checkpoint=none"], "a.mp4: there is no such file"),
    ("folder_without_videos", ["--video=."], "the folder holds no video"),
    ("comma_too_many", ["--video=a.mp4,"], "empty path"),
    (
      "json_in_missing_folder",
      ["--video=a.mp4", "--json=none/a.json"],
      "none/a.json: its folder does not exist; make it first",
    ),
    ("json_is_a_folder", ["--video=a.mp4", "--json=."], r"(?<= )\.: Is a directory"),
    ("json_is_a_device", ["--video=a.mp4", "--json=/dev/null"], "/dev/null: this is not a regular file"),
  )
  def test_sentence(self, words, sentence):
    self.assert_fails(self.run_classify(*words), sentence)
    self.assertEqual(os.listdir(self.folder), [])

  @parameterized.parameters(
    ("--bogus", "unknown flag --bogus; see --help"),
    ("--vide=a.mp4", "unknown flag --vide; did you mean --video"),
    ("--top_k=0", "--top_k=0: 0 is not a positive integer"),
    ("--top_k=many", "--top_k=many: it must be a whole number"),
    ("--max_frames=8", "--max_frames=8: 8 is not "),
    ("--streams=sound", r"--streams=sound: value should be one of <rgb\|flow\|joint>"),
    ("--expect=miracles", "--expect=miracles: value should be one of <published>"),
  )
  def test_flags_that_do_not_parse(self, word, sentence):
    self.assert_fails(self.run_classify("--video=a.mp4", word), sentence)


class CheckpointErrorsTest(ClassifyTestCase):
  def test_no_checkpoint_of_that_name(self):
    (self.folder / "a.mp4").touch()
    (self.folder / "a.json").write_text("old")
    done = self.run_classify("--video=a.mp4", "--rgb_checkpoint=rgb_imagnet", "--json=a.json")
    self.assert_fails(done, "no checkpoint at rgb_imagnet: .*rgb_imagenet")
    self.assertCountEqual(os.listdir(self.folder), ["a.json", "a.mp4"])
    self.assertEqual((self.folder / "a.json").read_text(), "old")

  def test_not_a_checkpoint(self):
    (self.folder / "a.mp4").touch()
    (self.folder / "model.ckpt.index").write_text("This is no checkpoint.\n" * 10)
    done = self.run_classify("--video=a.mp4", "--rgb_checkpoint=model.ckpt")
    self.assert_fails(done, "model.ckpt.index: this is not the index of a checkpoint")

  def test_no_way_to_the_released_checkpoint(self):
    (self.folder / "a.mp4").touch()
    self.assert_fails(self.run_classify("--video=a.mp4"), "rgb_imagenet")


class ClassifyTest(ClassifyTestCase):
  """With networks of made weights, one for each stream, and one with too few classes."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.checkpoints = {stream: os.path.join(folder.name, stream) for stream in ("rgb", "narrow", "flow", "few")}
    # RGB is a full-size network in the release's layout, which says nothing of the classes.
    model = i3d_tf.InceptionI3d(400)
    model.build(3)
    for variable in model.variables:
      variable.assign(testing.golden_values(f"rgb/{variable.name.removesuffix(':0')}", variable.shape))
    i3d_tf.save_release_checkpoint(model, cls.checkpoints["rgb"], stream="rgb")
    testing.write_network(cls.checkpoints["narrow"], num_classes=400, classes=NAMES)
    testing.write_network(cls.checkpoints["flow"], stream="flow", num_classes=400, classes=NAMES)
    testing.write_network(cls.checkpoints["few"], stream="flow")
    cls.models = {"rgb": model, **{name: saved.load(cls.checkpoints[name])[0] for name in ("narrow", "flow")}}

  def _expected(self, stream: str, clip: np.ndarray) -> np.ndarray:
    return self.models[stream](tf.constant(clip[np.newaxis]))[0][0].numpy()

  def _clip(self, name: str, max_frames: int) -> np.ndarray:
    """The network's clip of a video of 64x48."""
    frames = decode.read_video(self.folder / name, max_frames=max_frames)
    self.assertEqual(frames.shape[1:], (256, 341, 3))
    return (frames[:, 16:240, 58:282].astype(np.float64) * 2 / 255 - 1).astype(np.float32)

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
    self.assertEqual(done.status, 1)
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
      clip = self._clip(name, 14)
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
    done = self.run_python("-m", "i3d_tf.classify", "--video=a.avi", f"--rgb_checkpoint={self.checkpoints['narrow']}")
    self.assertEqual(done.returncode, 0, done.stderr)
    device, precision = done.stderr.splitlines()  # TensorFlow says nothing
    self.assertRegex(device, "^classify: computing on (CPU|GPU): ")
    self.assertRegex(precision, "^classify: --precision=auto takes (float32|bfloat16) .float32 .* s, bfloat16 .* s for")
    heading, norm, *lines = done.stdout.rstrip("\n").split("\n")
    logits = self._expected("narrow", self._clip("a.avi", 12))
    self.assertEqual(heading, "a.avi: 12 frames")
    self.assertAlmostEqual(float(norm.removeprefix("Norm of logits: ")), np.linalg.norm(logits), delta=0.2)
    best = [NAMES.index(line.split("  ")[-1]) for line in lines]
    np.testing.assert_allclose(logits[best], np.sort(logits)[:-6:-1], atol=0.05)
    found = [float(line.split()[1]) for line in lines]
    np.testing.assert_allclose(found, logits[best], atol=1e-3 if "takes float32" in precision else 0.05)

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
    self.assertEqual((done.status, done.stderr), (0, ""))
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

  @parameterized.parameters(
    ((1, 8, 224, 224, 2), "clip has 8 frames; Logits needs at least 9"),
    ((1, 9, 224, 224, 3), "clip has 3 channels; it must have 2"),
    ((1, 9, 256, 224, 2), "clip has height 256"),
  )
  def test_arrays_that_do_not_fit(self, shape, sentence):
    np.save("flow.npy", np.zeros(shape, np.float32))
    checkpoint = self.checkpoints["flow"]
    done = self.run_classify("--flow_npy=flow.npy", f"--flow_checkpoint={checkpoint}", "--json=out.json")
    self.assert_fails(done, f"flow.npy: {checkpoint} does not take these clips: {sentence}")
    (result,) = json.loads((self.folder / "out.json").read_text())["results"]
    self.assertEqual(done.stderr, f"classify: error: {result.pop('error')}\n")
    self.assertEqual(result, {"input": "flow.npy"})

  def test_a_checkpoint_of_the_other_stream(self):
    (self.folder / "a.mp4").touch()
    done = self.run_classify("--video=a.mp4", f"--rgb_checkpoint={self.checkpoints['flow']}")
    self.assert_fails(done, f"{self.checkpoints['flow']}, takes clips of the stream flow")

  def test_streams_of_different_classes(self):
    words = [f"--{stream}_checkpoint={self.checkpoints[name]}" for stream, name in (("rgb", "rgb"), ("flow", "few"))]
    done = self.run_classify("--rgb_npy=none.npy", "--flow_npy=none.npy", *words)
    self.assert_fails(done, "have 400 classes and 3; logits cannot be added")

  def test_the_library_gives_the_same_to_the_last_digit(self):
    write_video(self.folder / "a.avi", 12)
    checkpoint = self.checkpoints["flow"]
    words = ["--streams=flow", f"--flow_checkpoint={checkpoint}", "--top_k=400", "--json=out.json"]
    done = self.run_classify("--video=a.avi", *words)
    self.assertEqual((done.status, done.stderr), (0, ""))
    (result,) = json.loads((self.folder / "out.json").read_text())["results"]
    found = i3d_tf.classify("a.avi", checkpoint, top_k=400)
    self.assertEqual(result, json.loads(json.dumps(found.as_dict())))
    self.assertEqual([each["logit"] for each in result["predictions"]], sorted(map(float, found.logits))[::-1])


class MeetsTest(parameterized.TestCase):
  """The verdict of --expect=published."""

  @parameterized.parameters(
    (0.0, True, "within 0.001"), (0.0009, True, "within 0.001"), (0.01, False, "NOT within 0.001")
  )
  def test_verdict(self, error, meets, words):
    run = manifest.Run(5.0, {"zumba": 4.0, "archery": 3.0})
    logits = np.zeros(400)
    logits[[399, 5]] = 4.0 + error, 3.0
    result = classification.Classification("rgb.npy", 9, logits, ())
    with contextlib.redirect_stdout(io.StringIO()) as output:
      self.assertEqual(importlib.import_module("i3d_tf.classify")._meets(run, result, NAMES), meets)
    self.assertRegex(output.getvalue(), f"\nlargest difference {error:.6f}, {words}\n$")
    self.assertLen(output.getvalue().splitlines(), 5)


if __name__ == "__main__":
  absltest.main()
