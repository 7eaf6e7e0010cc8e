"""The benchmark's main, on the smallest clip; figures are checked for sense, never for size."""

import json
import pathlib
import sys
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import benchmarks
from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.benchmarks import comparison
from i3d_tf.benchmarks import network
from i3d_tf.benchmarks import peers
from i3d_tf.data import records


def _doubles() -> None:
  """Runs in another interpreter, in place of a peer."""
  import sys

  sys.stderr = open("/dev/null", "w", encoding="utf-8")
  for line in sys.stdin:
    print(2 * float(line), flush=True)


def _run(*arguments):
  return testing.run_main("benchmark", *arguments)


class BenchmarkTest(parameterized.TestCase):
  def test_network(self):
    with tempfile.TemporaryDirectory() as folder:
      output = pathlib.Path(folder) / "report.json"
      small = ("--model=two_stream", "--stream=flow", "--frames=2", "--crop=64", "--rounds=1", "--precision=bfloat16")
      done = _run("network", *small, f"--json={output}")
      self.assertEqual(done.status, 0, done.stderr)
      report = json.loads(output.read_text())
    self.assertEqual(report["shape"], [1, 2, 64, 64, 20])
    self.assertGreater(report["train_seconds"], report["forward_seconds"])
    self.assertGreater(report["forward_seconds"], 0)
    self.assertGreaterEqual(report["train_peak_bytes"], report["forward_peak_bytes"])
    # One round: the ratios are those of its figures.
    self.assertAlmostEqual(report["train_ratio_to_forward"], report["train_seconds"] / report["forward_seconds"])
    rate = report["giga_multiply_adds"] / report["forward_seconds"]
    self.assertAlmostEqual(report["forward_ratio_to_matrix_product"], rate / report["matrix_product_gmac_per_second"])
    self.assertIsNone(report["openvino_seconds"])
    self.assertEqual(report["precision"], "bfloat16")
    self.assertGreater(min(report["forward_times_as_fast"], report["train_times_as_fast"]), 0)
    self.assertGreater(report["difference"], 1e-5)
    self.assertLess(report["difference"], 0.1)
    self.assertIn("training step", done.stdout)
    self.assertIn("logits differ by up to", done.stdout)

  def test_torch_is_compared_with_what_computes_in_the_same_type(self):
    seconds = {
        "forward": [1.0, 1.0], "train": [3.0, 3.0], "float32 forward": [2.0, 4.0], "float32 train": [6.0, 6.0],
        "torch forward plain": [4.0, 4.0], "torch train autocast": [4.0, 4.0],
    }  # fmt: skip
    found = network._beside(seconds)
    self.assertEqual((found["forward_times_as_fast"], found["train_times_as_fast"]), (3.0, 2.0))
    self.assertEqual(found["torch_seconds"], {"forward plain": 4.0, "train autocast": 4.0})
    self.assertEqual(found["ratios_to_torch"], {"forward plain": 0.75, "train autocast": 0.75})
    exact = {"forward": [1.0], "train": [3.0], "torch forward plain": [2.0]}
    self.assertEqual(network._beside(exact)["ratios_to_torch"], {"forward plain": 0.5})

  def test_a_peer_answers_each_line_with_seconds(self):
    with peers._started("torch", sys.executable, _doubles, ["x"]) as run:
      self.assertEqual((run("1.5"), run("2")), (3.0, 4.0))
    with peers._started("torch", sys.executable, _doubles, ["x"]) as run:
      with self.assertRaisesRegex(errors.I3dError, "which ended; does it have torch"):
        run("no number")

  def test_flow(self):
    clip = testing.shared("clips/ucf101/Biking/v_Biking_g05_c02.avi")
    with tempfile.TemporaryDirectory() as folder:
      output = pathlib.Path(folder) / "report.json"
      done = _run("flow", f"--video={clip}", "--pairs=1", "--rounds=1", f"--json={output}")
      self.assertEqual(done.status, 0, done.stderr)
      report = json.loads(output.read_text())
    self.assertEqual((report["size"], report["pairs"]), ([340, 256], 1))
    self.assertLess(report["mean_end_point_difference"], 0.05)
    self.assertGreater(report["percent_within_tenth"], 95)
    self.assertAlmostEqual(sum(report["shares"].values()), 1)
    for compared in report["comparisons"]:
      self.assertAlmostEqual(compared["ratio"], compared["opencv_milliseconds"] / compared["milliseconds"], places=6)
    self.assertIn("times as fast", done.stdout)

  def test_serve(self):
    with tempfile.TemporaryDirectory() as folder:
      network, output = pathlib.Path(folder, "network"), pathlib.Path(folder, "report.json")
      testing.write_network(network, model="c3d", num_frames=16, short_side=36, crop=32)
      done = _run("serve", f"--checkpoint={network}", "--clients=1,3", "--requests=6", "--rounds=1", f"--json={output}")
      self.assertEqual(done.status, 0, done.stderr)
      report = json.loads(output.read_text())
    self.assertLess(report["difference"], 1e-6)
    self.assertEqual((report["shape"], report["clients"]), ([16, 36, 48], [1, 3]))
    for rate, ratio, (middle, high, highest) in zip(report["throughput"], report["ratio"], report["milliseconds"]):
      self.assertAlmostEqual(ratio, rate / report["alone"], places=6)
      self.assertBetween(middle, 0.1, high)
      self.assertLessEqual(high, highest)
    self.assertIn("requests/s", done.stdout)

  def test_input(self):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    jpeg, png = (cv2.imencode(suffix, image)[1].tobytes() for suffix in (".jpg", ".png"))
    record = records.Record(
        id="noise", dataset="noise", labels=("a",), label_indices=(0,), frames=(jpeg,) * 12, timestamps=(0,) * 12,
        flow_format="PNG", flow_bound=20.0, flow_frames=(png,) * 11, flow_timestamps=(0,) * 11,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
      with tf.io.TFRecordWriter(f"{folder}/val-00000-of-00001.tfrecord") as writer:
        writer.write(records.serialize(record))
      output = pathlib.Path(folder) / "report.json"
      small = ("--split=val", "--frames=9", "--short_side=40", "--crop=32", "--clips=2", "--rounds=1")
      done = _run("input", f"--records={folder}", "--stream=joint", *small, f"--json={output}")
      self.assertEqual(done.status, 0, done.stderr)
      report = json.loads(output.read_text())
    self.assertEqual((report["streams"], report["formats"]), (["rgb", "flow"], {"rgb": "JPEG", "flow": "PNG"}))
    self.assertAlmostEqual(report["images_per_second"], report["clips_per_second"] * 2 * 9)
    self.assertAlmostEqual(report["ratio_to_raw"], report["images_per_second"] / report["raw_images_per_second"])
    self.assertIn("clips/s", done.stdout)

  def test_extract(self):
    with tempfile.TemporaryDirectory() as folder:
      testing.write_moving_video(f"{folder}/v.avi", seed=0, num_frames=18)
      output = pathlib.Path(folder) / "report.json"
      small = ("--short_side=36", "--crop=32", "--window=9", "--endpoint=Mixed_3c", "--rounds=1", "--lengths=1")
      done = _run("extract", f"--video={folder}/v.avi", "--stream=joint", *small, f"--json={output}")
      self.assertEqual(done.status, 0, done.stderr)
      report = json.loads(output.read_text())
    self.assertEqual((report["frames"], report["video_seconds"], report["streams"]), (18, 0.72, ["rgb", "flow"]))
    stages = report["stages"]
    self.assertEqual(list(stages), ["decode", "flow", "network"])
    self.assertAlmostEqual(report["ratio_to_largest"], report["end_to_end"] / max(stages.values()))
    self.assertAlmostEqual(report["ratio_to_sum"], report["end_to_end"] / sum(stages.values()))
    self.assertAlmostEqual(report["ratio_to_flow"], report["end_to_end"] / stages["flow"])
    self.assertGreater(report["end_to_end"], 0)
    self.assertGreater(report["peak_bytes"]["1"], 2**28)
    self.assertIn("of the flow alone", done.stdout)

  def test_zoo(self):
    with tempfile.TemporaryDirectory() as folder:
      output, plot = pathlib.Path(folder) / "report.json", pathlib.Path(folder) / "plot.png"
      small = ("--models=two_stream,i3d", "--frames=8", "--crop=32", "--rounds=1")
      done = _run("zoo", *small, f"--json={output}", f"--plot={plot}")
      report = json.loads(output.read_text())
      image = cv2.imread(str(plot))
    # The network that does not take such clips is named, and the other measured all the same.
    self.assertEqual(done.status, 1, done.stderr)
    self.assertEqual(list(report["failures"]), ["i3d"])
    self.assertIn("i3d could not be measured: i3d does not take these clips: clip has 8 frames", done.stderr)
    self.assertNotIn("Traceback", done.stderr)
    [row] = report["rows"]
    self.assertEqual((row["model"], row["clip"], row["parameters"]), ("two_stream", [1, 32, 32], 6_002_624))
    self.assertEqual((row["accuracy"], row["start"]), (62.2, "imagenet"))
    self.assertGreater(1 / row["train_clips_per_second"], row["forward_seconds"])
    self.assertGreaterEqual(row["train_peak_bytes"], row["forward_peak_bytes"])
    self.assertIn("two_stream  1x32x32", done.stdout)
    blue = (image[..., 0] > image[..., 2] + 60).sum()  # the point, of a network that started from ImageNet
    self.assertGreater(blue, 100)

  def test_zoo_that_is_interrupted_tells_what_it_has(self):
    figures = {
        "shape": (1, 64, 224, 224, 3), "parameters": 1, "giga_multiply_adds": 1.0, "forward_seconds": 1.0,
        "forward_peak_bytes": 1, "train_seconds": 3.0, "train_peak_bytes": 1, "matrix_product_gmac_per_second": 1.0,
    }  # fmt: skip
    outcomes = [figures, errors.I3dError("no memory"), KeyboardInterrupt]
    with mock.patch.object(comparison, "_measure_alone", side_effect=outcomes):
      report = comparison.measure(comparison.ZooBenchmark(models=["i3d", "i2d", "s3d", "c3d"], rounds=1))
    self.assertEqual([row.model for row in report.rows], ["i3d"])
    self.assertEqual(report.failures, {"i2d": "no memory", "s3d": "interrupted", "c3d": "interrupted"})

  @parameterized.parameters(
    (("speed",), "say what to measure: network, flow, input, train, extract, zoo, serve; got speed"),
    ((), "say what to measure: network, flow, input, train, extract, zoo, serve; got nothing"),
    (
      ("network", "--openvino=/no/python", "--frames=9"),
      "openvino is /no/python, which cannot be started: No such file",
    ),
    (
      ("network", "--torch=/no/python", "--model=mc3_18", "--frames=4", "--crop=32"),
      "torch is /no/python, which cannot be started: No such file",
    ),
    (("network", "--precision=float16", "--crop=64", "--model=two_stream"), "precision float16 needs a GPU"),
    (("network", "--stream=joint"), "stream is 'joint'; i3d takes rgb or flow; train its streams apart"),
    (("network", "--crop=112"), "i3d does not take these clips: clip has height 112"),
    (("zoo", "--models=resnet"), "model is 'resnet'; did you mean resnet_50"),
    (("flow",), "give --video, or two --images"),
    (("input",), "--records is missing: the folder of records that prepare_dataset made"),
    (("input", "--records=/no/folder"), "/no/folder: there is no such file or folder"),
    (("extract",), "--video is missing: the video whose features are extracted"),
    (("extract", "--video=v.avi", "--lengths=long"), "--lengths=long; it takes numbers of seconds"),
    (("flow", "--images=a.png"), "--images takes two files, not 1"),
    (("flow", "--images=a.png,b.png"), "a.png and b.png: these are not two images"),
    (("network", "--json=/no/folder/x.json"), "/no/folder/x.json: its folder does not exist; make it first"),
  )
  def test_one_sentence_for_a_bad_call(self, arguments, message):
    done = _run(*arguments)
    self.assertEqual(done.status, 1)
    self.assertIn(message, done.stderr)
    self.assertNotIn("Traceback", done.stderr)


class TimingTest(absltest.TestCase):
  def test_tasks_take_turns_and_the_first_round_does_not_count(self):
    calls = []
    figures = iter([100.0, 1.0, 2.0])
    tasks = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b") or next(figures)}
    seconds = benchmarks.in_turn(tasks, rounds=2)
    self.assertEqual(calls, ["a", "b"] * 3)
    self.assertEqual(seconds["b"], [1.0, 2.0])
    self.assertLen(seconds["a"], 2)

  def test_median_ratio_is_taken_round_by_round(self):
    self.assertEqual(benchmarks.median_ratio([2, 30, 4], [1, 10, 1]), 3)


if __name__ == "__main__":
  absltest.main()
