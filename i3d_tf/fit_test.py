"""The program on folders as newcomers have them, and what becomes of the run."""

import csv
import json
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np

import i3d_tf
from i3d_tf import errors
from i3d_tf import fitting
from i3d_tf import testing
from i3d_tf.fitting import samples as samples_lib
from i3d_tf.weights import saved

_SMALL = {"average_space": True, "num_frames": 9, "short_side": 36, "crop": 32, "width_multiplier": 0.1}
_RECIPES = pathlib.Path(__file__).resolve().parents[1] / "experiments"
_CLASSES = ("Grün, hell", "im Haus/nah", "rot")


def _write_video(path: pathlib.Path, *, color: int, seed: int, num_frames: int = 14) -> None:
  """Writes noise that is bright in one channel."""
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (48, 36))
  for _ in range(num_frames):
    frame = rng.integers(0, 80, (9, 12, 3)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
    frame[..., color] += 120
    writer.write(frame)
  writer.release()


class FitTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    testing.write_network(cls.folder / "network", **_SMALL)
    videos = cls.folder / "my videos"
    for color, (name, count) in enumerate(zip(_CLASSES, (5, 5, 2), strict=True)):
      for number in range(count):
        _write_video(videos / name / f"clip {number}.avi", color=color, seed=10 * color + number)
    shutil.copy(videos / "rot" / "clip 0.avi", videos / "rot" / "same.avi")
    content = (videos / "rot" / "clip 0.avi").read_bytes()
    (videos / "rot" / "broken.avi").write_bytes(content[:300])
    (videos / "rot" / "notes.txt").write_text("no video")
    cls.words = (f"--videos={videos}", f"--rgb_checkpoint={cls.folder / 'network'}", "--precision=float32")
    cls.finished = testing.run_main("fit", *cls.words, f"--output={cls.folder / 'run'}", "--num_folds=3")
    cls.report = json.loads((cls.folder / "run" / "report.json").read_text())

  def test_what_is_said(self):
    self.assertEqual(self.finished.status, 1, self.finished)  # of the broken file
    said = self.finished.stdout + self.finished.stderr
    for text in (
      "14 videos of 3 classes", "broken.avi: this is not a video", "no groups are told by the names",
      "fewer than five clips of rot", "have a twin on the other side of a split (1 copy: rot/clip 0 and rot/same)",
      "--split_scenes keeps them together", "95 % interval", "videos that could not be used: 1",
    ):  # fmt: skip
      self.assertIn(text, said)

  def test_report(self):
    self.assertEqual(self.report["classes"], ["Grün, hell", "im Haus", "rot"])
    self.assertEqual(self.report["videos"], {"Grün, hell": 5, "im Haus": 5, "rot": 3})
    self.assertLen(self.report["failures"], 1)
    results = self.report["results"]
    self.assertEqual([results[name]["videos"] for name in ("facts", "rgb")], [13, 13])
    self.assertGreater(results["rgb"]["top1"], 0.9)  # colours are easy
    self.assertLess(results["facts"]["top1"], 0.9)
    with open(self.folder / "run" / "predictions.csv", encoding="utf-8", newline="") as file:
      rows = list(csv.DictReader(file))
    right = sum(row["label"] == row["predicted"] for row in rows)
    self.assertEqual((len(rows), right / 13), (13, results["rgb"]["top1"]))
    page = (self.folder / "run" / "report.html").read_text()
    for text in ("Grün, hell", "File facts", "How far to trust it", "Clips that look alike", "data:image/jpeg"):
      self.assertIn(text, page)

  def test_is_a_network(self):
    info, _ = saved.find(self.folder / "run")
    self.assertEqual(
      (info.classes, info.preprocess.crop),
      (("Grün, hell", "im Haus", "rot"), 32),
    )
    for number, name in enumerate(("Grün, hell", "im Haus/nah", "rot")):
      video = self.folder / "unseen.avi"
      _write_video(video, color=number, seed=90 + number)
      found = i3d_tf.classify(video, checkpoint=self.folder / "run")
      self.assertEqual(found.predictions[0].label, name.partition("/")[0])

  def test_goes_on(self):
    report = (self.folder / "run" / "report.json").read_text()
    features = sorted((self.folder / "run" / "features").rglob("*.npz"))
    before = [path.stat().st_mtime_ns for path in features]
    weights = {path.name: path.read_bytes() for path in (self.folder / "run" / "best").iterdir()}
    testing.run_main("fit", *self.words, f"--output={self.folder / 'run'}", "--num_folds=3")
    self.assertEqual([path.stat().st_mtime_ns for path in features], before)
    self.assertEqual({path.name: path.read_bytes() for path in (self.folder / "run" / "best").iterdir()}, weights)
    again = json.loads((self.folder / "run" / "report.json").read_text())
    for name in ("results", "folds", "threshold", "warnings", "pairs"):
      self.assertEqual(again[name], json.loads(report)[name])
    kept = i3d_tf.fit(videos=self.folder / "my videos", output=self.folder / "run", precision="float32", num_folds=3)
    self.assertEqual(kept.metrics["rgb"].top1, again["results"]["rgb"]["top1"])  # with the network that it began with
    words = (*self.words[:2], f"--output={self.folder / 'run'}")
    refused = testing.run_main("fit", *words, "--precision=bfloat16")
    self.assertIn("was made with other parameters (precision was 'float32', is 'bfloat16')", refused.stderr)

  def test_two_streams(self):
    run = self.folder / "two"
    shutil.copytree(self.folder / "run", run)  # of RGB, which goes on with flow
    features = {path: path.stat().st_mtime_ns for path in (run / "features" / "rgb").rglob("*.npz")}
    words = (*self.words, f"--output={run}", "--num_folds=3", "--streams=flow,rgb", "--flow=dis")
    said = testing.run_main("fit", *words)
    self.assertIn("Flow starts from the weights of", said.stdout + said.stderr)
    self.assertNotIn("accuracy may suffer", said.stderr)  # since it knows no other flow
    self.assertIn(f"--streams=joint --rgb_checkpoint={run} --flow_checkpoint={run}/flow", said.stdout)
    self.assertEqual({path: path.stat().st_mtime_ns for path in features}, features)
    results = json.loads((run / "report.json").read_text())["results"]
    self.assertEqual(list(results), ["facts", "rgb", "flow", "rgb+flow"])
    self.assertEqual(results["rgb"], self.report["results"]["rgb"])
    kernels = [saved.read(path)[0]["Conv3d_1a_7x7/conv_3d/w"] for path in (self.folder / "network", run / "flow")]
    np.testing.assert_allclose(kernels[1], kernels[0].mean(axis=3, keepdims=True).repeat(2, axis=3), atol=1e-6)
    info, _ = saved.find(run / "flow")
    self.assertEqual((info.stream, info.classes, info.flow_method), ("flow", ("Grün, hell", "im Haus", "rot"), "dis"))
    video = self.folder / "my videos" / "rot" / "clip 1.avi"
    networks = {"rgb": run, "flow": run / "flow"}
    both = i3d_tf.classify(video, checkpoint=networks).logits
    apart = [i3d_tf.classify(video, checkpoint={stream: path}).logits for stream, path in networks.items()]
    np.testing.assert_allclose(both, sum(apart), rtol=1e-3, atol=1e-2)  # of one frame more without flow

  def test_sound(self):
    rng, videos = np.random.default_rng(0), self.folder / "sounding"
    for number in range(12):  # what is heard tells the class, and what is seen does not
      time = np.arange(12_800) / 16_000
      tone = 0.3 * np.sin(2 * np.pi * (400, 2500)[number % 2] * time) + rng.normal(0, 0.02, time.shape)
      path = videos / ("low", "high")[number % 2] / f"{number}.avi"
      path.parent.mkdir(parents=True, exist_ok=True)
      testing.write_sounding_video(path, tone[np.newaxis], seed=number)
    _write_video(videos / "low" / "mute.avi", color=0, seed=99, num_frames=20)
    run = self.folder / "heard"
    words = (f"--videos={videos}", self.words[1], self.words[2], f"--output={run}", "--streams=rgb,audio")
    said = testing.run_main("fit", *words, "--num_folds=3")
    self.assertEqual(said.status, 0, said)
    self.assertIn("1 of 13 videos have no sound", said.stdout + said.stderr)
    self.assertIn(f"--rgb_checkpoint={run} --audio_checkpoint={run}/audio", said.stdout)
    results = json.loads((run / "report.json").read_text())["results"]
    self.assertEqual(list(results), ["facts", "rgb", "audio", "rgb+audio"])
    self.assertGreaterEqual(results["audio"]["top1"], 12 / 13)
    self.assertGreater(results["rgb+audio"]["top1"], results["rgb"]["top1"])
    words = ("--dataset=folder", f"--videos={videos}", f"--output={self.folder / 'records'}", "--streams=rgb,audio")
    made = testing.run_main("prepare_dataset", *words, "--fractions=0,0,1", "--short_side=36", "--num_workers=1")
    self.assertEqual(made.status, 0, made)
    words = (f"--records={self.folder / 'records'}", f"--audio_checkpoint={run / 'audio'}")
    tested = testing.run_main("evaluate", *words, f"--output={self.folder / 'tested'}", "--audio_weight=0.9")
    self.assertIn("audio_weight is for the fusion of audio with another stream", tested.stderr)
    words = (*words, f"--rgb_checkpoint={run}", f"--output={self.folder / 'tested'}", "--audio_weight=0.9")
    tested = testing.run_main("evaluate", *words)
    self.assertRegex(tested.stdout, r"rgb\+audio +13 +(92|100)")

  def test_scenes_of_a_list(self):
    path = self.folder / "list.csv"
    lines = ["path,label,group", '"my videos/Grün, hell/clip 0.avi","a, b",1']
    lines += [f'"my videos/Grün, hell/clip {number}.avi","a, b",{number}' for number in (1, 2)]
    lines += [f"my videos/rot/{name}.avi,c,{number}" for number, name in enumerate(("clip 0", "same", "clip 1"))]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = i3d_tf.fit(
        videos=path, output=self.folder / "of_list", rgb_checkpoint=str(self.folder / "network"), split_scenes=True,
        precision="float32", num_folds=2,
    )  # fmt: skip
    self.assertEqual(found.metrics["rgb"].num_videos, 6)
    self.assertEmpty([text for text in found.warnings if "twin" in text])
    report = json.loads((self.folder / "of_list" / "report.json").read_text())
    self.assertEqual(report["groups"], "3 groups as the list states them; 3 groups became 2 by clips that look alike")

  def test_folders_of_splits(self):
    videos = self.folder / "split"
    for split, number in (("Training", 0), ("Training", 1), ("Testing", 2)):
      for name, source in (("a", "Grün, hell"), ("b", "im Haus/nah")):
        target = videos / split / name / f"{number}.avi"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "my videos" / source / f"clip {number}.avi", target)
    found = samples_lib.load(videos)
    self.assertEqual((found.classes, found.splits), (("a", "b"), ("train",) * 4 + ("test",) * 2))
    result = i3d_tf.fit(
      videos=videos, output=self.folder / "of_folders", rgb_checkpoint=str(self.folder / "network"), precision="float32"
    )
    self.assertEqual((result.metrics["rgb"].num_videos, result.metrics["rgb"].top1), (2, 1.0))

  @parameterized.parameters(sorted(path.relative_to(_RECIPES).as_posix() for path in _RECIPES.glob("*/*.fit")))
  def test_recipe(self, name):
    with mock.patch("i3d_tf.fitting.fitter.fit", side_effect=errors.I3dError("as told")) as told:
      words = (f"--flagfile={_RECIPES / name}", "--videos=V", "--output=O")
      self.assertIn("as told", testing.run_main("fit", *words).stderr)
    self.assertIsInstance(told.call_args.args[0], fitting.FitConfig)
    for head in ("Command", "Data", "Expected", "Source", "Hardware", "Measured"):
      self.assertRegex((_RECIPES / name).read_text(), rf"(?m)^# {head}: +\S")

  def test_refused(self):
    empty = self.folder / "empty"
    empty.mkdir()
    for options, text in (
      ({"videos": empty}, "the folder holds no video"),
      ({"videos": self.folder / "nowhere"}, "there is no such folder of videos, nor CSV file"),
      ({"num_steps": 5}, "num_steps is for training; with depth=head only a classifier is fitted"),
      ({"flow": "dis"}, "flow is for the stream of flow, but streams is rgb"),
    ):
      with self.assertRaisesRegex(errors.I3dError, text):
        i3d_tf.fit(**{"videos": self.folder / "my videos", "output": self.folder / "refused", **options})
    for lines, text in (
      ("a.avi,x\nb.avi", "list.csv:2: there must be path,label"),
      ("path,label,split\na.avi,x,dev", "the split is 'dev'"),
      ("a.avi,x\n./a.avi,y", "the video a is also at"),
      ("path,label,fps\n", "there is no column 'fps'"),
    ):
      path = self.folder / "wrong" / "list.csv"
      path.parent.mkdir(exist_ok=True)
      path.write_text(lines)
      with self.assertRaisesRegex(errors.I3dError, text):
        samples_lib.load(path)


if __name__ == "__main__":
  absltest.main()
