"""Tests of the fvd program, with tiny networks of made weights."""

import contextlib
import importlib.util
import json
import os
import pathlib
import tempfile
import unittest
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import flow as flow_lib
from i3d_tf import testing
from i3d_tf.frechet import distance


class FvdTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.networks = pathlib.Path(folder.name)
    for stream in ("rgb", "flow"):
      testing.write_network(cls.networks / stream, stream=stream, num_classes=5, classes=())

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    noise = np.random.default_rng(0).integers(0, 256, (7, 10, 8, 8, 3), np.uint8)
    for name, clips in (("real", noise[:3]), ("generated", noise[3:] // 2)):
      (self.folder / name).mkdir()
      np.save(self.folder / name / "clips.npy", clips)

  def _run(self, *, has_made_flow: bool = False, **given) -> testing.Finished:
    """Runs the program; paths are in the test's folder."""
    paths = {"real", "generated", "save_stats", "json"}
    given = {name: os.fspath(self.folder / value) if name in paths else value for name, value in given.items()}
    defaults = {"num_frames": 10, "resamples": 5, "rgb_checkpoint": os.fspath(self.networks / "rgb")}
    if all(str(given.get(name)).endswith(".npz") for name in ("real", "generated")):
      defaults = {"resamples": 5}  # the others are for videos
    made = lambda _, frames: iter(np.diff(frames[..., :2].astype(np.float32), axis=0) / 10)
    words = [f"--{name}={value}" for name, value in {**defaults, **given}.items() if value is not None]
    with mock.patch.object(flow_lib.Estimator, "iterate", made) if has_made_flow else contextlib.nullcontext():
      return testing.run_main("fvd", *words)

  def _assert_refused(self, sentence: str, **given) -> None:
    done = self._run(**given)
    self.assertEqual((done.status, done.stdout), (1, ""))
    self.assertRegex(done.stderr, f"^fvd: error: .*{sentence}")
    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

  def assert_same(self, figures: dict, expected: dict) -> None:
    """The same up to the order in which a network adds."""
    for name in ("distance", "mean_term", "covariance_term"):
      self.assertAlmostEqual(figures[name], expected[name], places=5, msg=name)
    for name in ("low", "high", "excess"):
      self.assertAlmostEqual(figures["interval"][name], expected["interval"][name], places=5, msg=name)

  def _report(self) -> dict:
    return json.loads((self.folder / "out.json").read_text())

  def test_prints_the_figure_and_what_it_depends_on(self):
    status, output, _ = self._run(real="real", generated="generated", json="out.json")
    self.assertEqual(status, 0)
    report = self._report()
    figures = report["fvd"]["rgb"]
    self.assertGreater(figures["mean_term"], 0.01)
    self.assertAlmostEqual(figures["distance"], figures["mean_term"] + figures["covariance_term"], places=12)
    interval = figures["interval"]
    weights = report["weights"]["rgb"]
    self.assertEqual(
      output,
      f"FVD: {figures['distance']:.3f}\n"
      f"  of the means {figures['mean_term']:.3f}, of the covariances {figures['covariance_term']:.3f}\n"
      f"  95 % interval {interval['low']:.3f} to {interval['high']:.3f} (5 resamples)\n"
      "comparable only with figures of the same:\n"
      f"  rgb weights: CRC-32 {weights}, not the published embedding\n"
      "  resizing: bilinear to 224x224, aspect ratio not kept, corners not aligned, no half-pixel centres\n"
      "  frames in a clip: 10, at each video's own rate\n"
      "  clips: 3 real, 4 generated\n"
      "protocol tf_reference, for figures of google-research's program for as many clips of as many frames at the same "
      "rate\n",
    )
    self.assertEqual(report["clips"], {"real": 3, "generated": 4})
    self.assertEqual(report["failed"], {"real": 0, "generated": 0})

  def test_set_against_itself_without_interval(self):
    status, output, _ = self._run(real="real", generated="real", resamples=0, json="out.json")
    self.assertEqual(status, 0)
    self.assertLess(abs(self._report()["fvd"]["rgb"]["distance"]), 1e-3)
    self.assertIsNone(self._report()["fvd"]["rgb"]["interval"])
    self.assertNotIn("interval", output)

  def test_saved_statistics_give_the_same(self):
    self._run(real="real", generated="generated", json="out.json")
    at_once = self._report()["fvd"]["rgb"]
    status, output, _ = self._run(real="real", save_stats="real.npz")
    self.assertEqual(status, 0)
    self.assertStartsWith(output, "  rgb weights")
    self.assertIn("  clips: 3 real\n", output)
    self._run(real="real.npz", generated="generated", json="out.json")
    self.assert_same(self._report()["fvd"]["rgb"], at_once)
    self._run(real="generated", save_stats="generated.npz")
    status, output, _ = self._run(real="real.npz", generated="generated.npz", json="out.json")
    self.assertEqual(status, 0)
    self.assert_same(self._report()["fvd"]["rgb"], at_once)
    self.assertIn("frames in a clip: 10", output)

  def test_protocol_of_stylegan_v_and_measures(self):
    clips = np.random.default_rng(1).integers(0, 256, (5, 16, 8, 8, 3), np.uint8).transpose(0, 4, 1, 2, 3) / 255
    for name in ("real", "generated"):
      np.save(self.folder / name / "clips.npy", clips.astype(np.float32))
    given = {"real": "real", "generated": "generated", "protocol": "stylegan_v", "value_range": "0_1"}
    status, output, _ = self._run(
      **given, num_frames=16, cache=self.folder / "cache.db", measures="kvd,precision_recall", json="out.json"
    )
    self.assertEqual(status, 0, output)
    self.assertRegex(output, "\n  KVD: -?[0-9.e-]+ [+]- [0-9.e-]+\n  precision: 1.000\n  recall: 1.000\n")
    self.assertIn(
      "  resizing: bilinear to 224x224, aspect ratio not kept, half-pixel centres, no antialiasing\n", output
    )
    self.assertIn("\nprotocol fvd2048_16f, for figures of StyleGAN-V's program under this name", output)
    self.assertIn(
      "\n  known difference: for 8 black against 8 white clips of 30 frames its network gave 151.25", output
    )
    self.assertIn("\nremark: real has 5 clips, fvd2048_16f takes 2048; fewer clips give a larger figure\n", output)
    self.assertEqual(self._report()["protocol"]["max_clips"], 2048)
    self.assertEqual(self._report()["fvd"]["rgb"]["precision"], 1.0)

  def test_several_generators_and_a_plot(self):
    for step in (100, 20):
      np.save(self.folder / f"step_{step}.npy", np.full((3, 10, 8, 8, 3), step, np.uint8))
    generated = ",".join(os.fspath(self.folder / f"step_{step}.npy") for step in (100, 20))
    status, output, _ = self._run(real="real", generated=generated, plot=self.folder / "fvd.png", json="out.json")
    self.assertEqual(status, 0)
    first, second, third, *_ = output.splitlines()
    self.assertEqual(first.split(), ["set", "FVD", "95", "%", "interval"])
    shown = {line.split()[0]: float(line.split()[1]) for line in (second, third)}
    self.assertEqual(sorted(shown, key=shown.get), list(shown))
    results = self._report()["results"]
    self.assertEqual({name: round(each["fvd"]["rgb"]["distance"], 3) for name, each in results.items()}, shown)
    self.assertIn("  clips: 3 real, 3 step_100.npy, 3 step_20.npy\n", output)
    self.assertEqual((self.folder / "fvd.png").read_bytes()[:4], b"\x89PNG")

  def test_by_length(self):
    given = {"real": "real", "generated": "generated", "num_frames": None, "resamples": 0, "lengths": "9,10"}
    status, output, _ = self._run(**given, json="out.json", plot=self.folder / "fvd.png")
    self.assertEqual(status, 0)
    title, nine, ten, *rest = output.splitlines()
    self.assertEqual(title.split(), ["set", "FVD"])
    self.assertStartsWith(nine, "first 9 frames")
    self.assertStartsWith(ten, "first 10 frames")
    self.assertIn("  frames in a clip: 9, 10, at each video's own rate", rest)
    self.assertIn("  clips: 3 real, 4 generated", rest)
    self._run(real="real", generated="generated", resamples=0, json="out.json")
    self.assertEqual(float(ten.split()[-1]), round(self._report()["fvd"]["rgb"]["distance"], 3))

  def test_both_streams(self):
    given = {"real": "real", "generated": "generated", "max_clips": 2, "json": "out.json"}
    self._run(**given)
    alone = self._report()["fvd"]["rgb"]
    # The real flow takes long, and has its test in frechet/embedding_test.py.
    flow = os.fspath(self.networks / "flow")
    status, output, _ = self._run(**given, has_made_flow=True, flow_checkpoint=flow, save_stats="real.npz")
    self.assertEqual(status, 0)
    figures = self._report()["fvd"]
    self.assertEqual(list(figures), ["rgb", "flow"])
    self.assert_same(figures["rgb"], alone)
    self.assertGreater(figures["flow"]["distance"], 0)
    self.assertIn(f"\nflow FVD: {figures['flow']['distance']:.3f}\n", output)
    self.assertEqual(list(distance.load(self.folder / "real.npz")[0]), ["rgb", "flow"])

  def test_broken_videos_are_named_and_the_rest_is_done(self):
    (self.folder / "generated" / "broken.mp4").write_text("no video")
    (self.folder / "generated" / "cut.npy").write_bytes((self.folder / "real" / "clips.npy").read_bytes()[:900])
    np.save(self.folder / "generated" / "none.npy", np.zeros((0, 10, 8, 8, 3), np.uint8))
    status, output, complaints = self._run(real="real", generated="generated", save_stats="real.npz", json="out.json")
    self.assertEqual(status, 1)
    self.assertRegex(complaints, "error: .*generated/broken.mp4: this is not a video")
    self.assertRegex(complaints, "error: .*generated/cut.npy: this is not an array .* of which it has 772")
    self.assertRegex(
      complaints, r"error: .*generated/none.npy: the array holds no video, its shape is \(0, 10, 8, 8, 3"
    )
    self.assertIn("  clips: 3 real, 4 generated\n", output)
    self.assertEndsWith(output, "\nvideos of --generated that could not be used: 3\n")
    self.assertEqual(complaints.count("error:"), 1, complaints)
    self.assertEqual(self._report()["failed"], {"real": 0, "generated": 3})

  @unittest.skipUnless(importlib.util.find_spec("apache_beam"), "Apache Beam is not installed")
  def test_the_workers_of_a_runner_give_the_same_to_the_last_digit(self):
    for name, numbers in (("a", range(5)), ("b", range(5, 9))):
      (self.folder / name).mkdir()
      for number in numbers:
        testing.write_moving_video(self.folder / name / f"{number}.avi", seed=number, num_frames=12)
    (self.folder / "b" / "6.avi").write_text("no video")
    given = {"real": "a", "generated": "b", "batch": 2, "resamples": 0, "json": "out.json"}
    self.assertEqual(self._run(**given).status, 1)
    expected = self._report()
    work = os.fspath(self.folder / "work")
    found = self._run(**given, runner="DirectRunner", work=work)
    self.assertIn("b/6.avi: this is not a video", found.stderr)
    for name in ("fvd", "clips", "failed", "failures", "weights"):
      self.assertEqual(self._report()[name], expected[name], name)
    held = sorted(path.name for path in (self.folder / "work").glob("*.npz"))
    self.assertLen(held, 5)
    with mock.patch("i3d_tf.frechet.distribution._embed", side_effect=AssertionError("it is there")):
      self._run(**given, runner="DirectRunner", work=work)
    self.assertEqual(self._report()["fvd"], expected["fvd"])
    self._assert_refused("--work is for a --runner other than local", real="a", generated="b", work=work)
    self._assert_refused(
      "the workers of a runner take videos", real="real", generated="b", runner="DirectRunner", work=work
    )

  def test_saved_statistics_remember_what_failed(self):
    (self.folder / "real" / "broken.mp4").write_text("no video")
    self.assertEqual(self._run(real="real", save_stats="real.npz").status, 1)
    status, output, _ = self._run(real="real.npz", generated="generated")
    self.assertEqual(status, 1)
    self.assertIn("videos of --real that could not be used: 1\n", output)

  def test_too_few_are_left(self):
    np.save(self.folder / "one.npy", np.zeros((10, 8, 8, 3), np.uint8))
    self._assert_refused(
      "one.npy: FVD needs at least 2 videos that can be used, and of its 1 it has 1", real="one.npy", save_stats="a.npz"
    )
    self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["generated", "one.npy", "real"])

  def test_statistics_of_other_clips_are_refused_at_once(self):
    self._run(real="real", save_stats="real.npz", num_frames=9)
    (self.folder / "generated" / "clips.npy").write_text("is not read")
    given = {"real": "real.npz", "generated": "generated"}
    self._assert_refused("real.npz cannot be compared: its num_frames is 9, not 10", **given)
    flow = os.fspath(self.networks / "flow")
    self._assert_refused("real.npz has no statistics of flow", **given, flow_checkpoint=flow)

  @parameterized.parameters(
    ({}, "--real is needed; see --help"),
    ({"real": "real"}, "--generated is missing; only with --save_stats it may be"),
    ({"real": "real", "save_stats": "a.npz", "json": "a.json"}, "--json is for the figures"),
    ({"real": "real", "generated": "generated", "resamples": 1}, "resamples is 1; an interval needs at least 2"),
    ({"real": "a.npz", "save_stats": "b.npz"}, "real is statistics already"),
    ({"real": "real", "save_stats": "stats"}, "stats; the file's name must end in .npz"),
    ({"real": "a.npz", "generated": "b.npz", "num_frames": 12}, "--num_frames is for videos, but --real and"),
    ({"real": "real", "generated": "generated", "plot": "a.png"}, "--plot needs several sets of --generated"),
    ({"real": "real", "generated": "generated", "lengths": "9,x"}, "--lengths=9,x; it takes whole numbers"),
    ({"real": "real", "generated": "generated", "lengths": "9"}, "--num_frames does not go with --lengths"),
    ({"real": "real", "generated": "generated", "measures": "fid"}, "measures is fid; allowed are kvd, fvd_infinity"),
    ({"real": "real", "generated": "generated", "protocol": "x"}, "protocol is x; it is none of tf_reference, fvd2048"),
    ({"real": "none", "generated": "generated"}, "none: there is no such file or folder"),
    ({"real": "real", "generated": "generated", "max_clips": 4}, "real has 3 videos, fewer than max_clips, 4"),
    ({"real": "real", "generated": "generated", "num_frames": 9, "flow_checkpoint": "x"}, "flow need at least 10"),
  )
  def test_flags_that_do_not_go_together(self, given, sentence):
    self._assert_refused(sentence, **given)

  def test_folder_that_cannot_be_written_is_found_before_the_work(self):
    (self.folder / "real" / "clips.npy").write_text("is not read")
    self._assert_refused(
      "none/real.npz: its folder does not exist; make it first", real="real", save_stats="none/real.npz"
    )


if __name__ == "__main__":
  absltest.main()
