"""Whole evaluations of tiny networks on records of one-coloured frames."""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import evaluation
from i3d_tf import testing
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.evaluation import evaluator
from i3d_tf.evaluation import predictions as predictions_lib
from i3d_tf.evaluation import sound
from i3d_tf.flow import codec
from i3d_tf.weights import release
from i3d_tf.weights import saved

_CLASSES = ("dark", "light", "striped")
_SIDE, _FRAMES = 32, 12


def make_records(folder: pathlib.Path) -> None:
  """Two files for test and one for train, with two videos a class each; the classes are told by the pixels."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  for split, num_files in (("train", 1), ("test", 2)):
    made = [_record(f"{split}/{index}", index % 3, rng) for index in range(6)]
    for index in range(num_files):
      content = b"".join(shards.frame(records.serialize(record)) for record in made[index::num_files])
      (folder / f"{split}-{index:05}-of-{num_files:05}.tfrecord").write_bytes(content)
  write_info(folder, _CLASSES)


def write_info(folder: pathlib.Path, classes: tuple[str, ...]) -> None:
  info = {"complete": True, "classes": classes, "name": "shades", "parameters": {"streams": ["rgb", "flow"]}}
  info["splits"] = {"test": {"written": 6}, "train": {"written": 6}}
  (folder / shards.INFO).write_text(json.dumps(info), encoding="utf-8")


def _record(name: str, label: int, rng: np.random.Generator) -> records.Record:
  frames = rng.integers(0, 60, (_FRAMES, _SIDE, _SIDE, 3)).astype(np.uint8)
  frames += np.uint8(160 * (label == 1))
  frames[:, ::4] += np.uint8(180 * (label == 2))
  fields = rng.normal(0, 1, (_FRAMES - 1, _SIDE, _SIDE, 2)).astype(np.float32) + 6 * (label - 1)
  times = tuple(40_000 * step for step in range(_FRAMES))
  return records.Record(
      id=name, dataset="shades", labels=(_CLASSES[label],), label_indices=(label,), height=_SIDE, width=_SIDE,
      frames=tuple(prepare.encode_rgb(frame, 95) for frame in frames), timestamps=times,
      flow_format="PNG", flow_bound=codec.BOUND, flow_rounding="truncate", flow_timestamps=times[:-1],
      flow_frames=tuple(prepare.encode_flow(field, shards.RecordConfig()) for field in fields),
  )  # fmt: skip


def make_run(folder: pathlib.Path, stream: str, classes: tuple[str, ...] = _CLASSES) -> None:
  """The folder of a run with a network of made weights."""
  info = saved.make_info(
      stream=stream, num_classes=len(classes), classes=classes, width_multiplier=0.05, average_space=True,
      num_frames=9, short_side=_SIDE, crop=_SIDE, dataset="shades", step=7,
  )  # fmt: skip
  (folder / saved.BEST).mkdir(parents=True)
  model = saved.make_model(info)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, tuple(variable.shape)))
  saved.save(folder / saved.BEST, model, info)
  line = {"step": 5, "loss": 1.5, "accuracy": 0.5}
  (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")


def _expected_logits(folder: pathlib.Path, stream: str) -> dict[str, np.ndarray]:
  """By id, of the network called eagerly on all frames or flows."""
  model, _ = saved.load(folder / stream)
  found = {}
  for path in sorted((folder / "records").glob("test-*")):
    for serialized in tf.data.TFRecordDataset(str(path)):
      record = records.deserialize(serialized.numpy())
      images = record.frames if stream == "rgb" else record.flow_frames
      decode = lambda image: tf.io.decode_jpeg(image, dct_method="INTEGER_ACCURATE")  # PNG, too
      pixels = np.stack([decode(image).numpy() for image in images]).astype(np.float64)
      clip = pixels / 127.5 - 1 if stream == "rgb" else (pixels[..., :2] / 255 - 0.5) * 2
      found[record.id] = model(clip[np.newaxis].astype(np.float32))[0][0].numpy()
  return found


class EvaluatorTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    make_records(cls.folder / "records")
    for stream in ("rgb", "flow"):
      make_run(cls.folder / stream, stream)
    cls.both = {"rgb": str(cls.folder / "rgb"), "flow": str(cls.folder / "flow")}
    cls.report = evaluator.evaluate(cls.config("both", checkpoints=cls.both))
    cls.found = cls.report.results
    cls.results = json.loads((cls.folder / "both" / "results.json").read_text(encoding="utf-8"))
    cls.files = {stream: str(cls.folder / "both" / f"scores_{stream}.npz") for stream in cls.both}

  @classmethod
  def config(cls, output: str, **values) -> evaluation.EvaluationConfig:
    records_of = {} if "records" in values else {"records": str(cls.folder / "records")}
    return evaluation.EvaluationConfig(output=str(cls.folder / output), **records_of, **values)

  def _assert_refused(self, sentence: str, output: str, **values) -> None:
    with self.assertRaisesRegex(errors.I3dError, sentence) as caught:
      evaluator.evaluate(self.config(output, **values))
    self.assertNotIn("\n", str(caught.exception))
    self.assertFalse((self.folder / output / "results.json").exists())

  def test_logits_are_the_networks(self):
    for stream in ("rgb", "flow"):
      scores = predictions_lib.load(self.files[stream])
      expected = _expected_logits(self.folder, stream)
      self.assertEqual(set(scores.ids), set(expected))
      self.assertEqual(scores.ids, ("test/0", "test/2", "test/4", "test/1", "test/3", "test/5"))
      np.testing.assert_array_equal(scores.labels, [0, 2, 1, 1, 0, 2])
      np.testing.assert_array_equal(scores.numbers, range(6))
      np.testing.assert_allclose(scores.logits, [expected[name] for name in scores.ids], rtol=0, atol=1e-4)
      self.assertGreater(np.ptp(scores.logits, axis=0).min(), 1e-2)

  def test_sound_is_a_third_stream(self):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(256, 3)), rng.normal(size=3)
    made = sound.SoundClassifier(kernel=kernel, bias=bias, classes=_CLASSES, dataset="shades")
    made.save(self.folder / "audio")
    spectrograms = {f"test/{number}": rng.normal(size=(25 - 5 * number, 64)).astype(np.float32) for number in range(6)}
    heard = self.folder / "heard"
    heard.mkdir()
    for path in (self.folder / "records").glob("test-*"):
      content = b""
      for serialized in tf.data.TFRecordDataset(str(path)):
        record = records.deserialize(serialized.numpy())
        values = tuple(spectrograms[record.id].ravel().tolist())
        content += shards.frame(records.serialize(dataclasses.replace(record, log_mel=values)))
      (heard / path.name).write_bytes(content)
    info = json.loads((self.folder / "records" / shards.INFO).read_text(encoding="utf-8"))
    info["parameters"]["streams"].append("audio")
    (heard / shards.INFO).write_text(json.dumps(info), encoding="utf-8")
    checkpoints = {"audio": str(self.folder / "audio")}
    report = evaluator.evaluate(
      self.config("three", records=str(heard), checkpoints=checkpoints, score_files=self.files, audio_weight=0.5)
    )
    self.assertEqual(list(report.results), ["rgb", "flow", "audio", "rgb+flow+audio"])
    alone = predictions_lib.load(self.folder / "three" / "scores_audio.npz")
    for name, logits in zip(alone.ids, alone.logits, strict=True):
      expected = np.zeros(3)
      if len(values := spectrograms[name]):
        changes = np.diff(values, axis=0)
        parts = (values.mean(axis=0), values.std(axis=0), changes.mean(axis=0), changes.std(axis=0))
        expected = np.concatenate(parts) @ kernel + bias
      np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    both = self.found["rgb+flow"].scores.scores
    np.testing.assert_allclose(report.results["rgb+flow+audio"].scores.scores, 0.75 * both + 1.5 * alone.logits)
    page = report.report_path.read_text(encoding="utf-8")
    self.assertIn("RGB+Flow+Sound: the streams’ logits added with weights 0.25, 0.25 and 0.5.", page)
    self._assert_refused(
      "the data set has no audio, only rgb, flow; prepare one that has it", "x", checkpoints=checkpoints
    )
    checkpoints = {"audio": str(self.folder / "rgb")}
    self._assert_refused("there is no classifier of sound", "x", records=str(heard), checkpoints=checkpoints)

  def test_fusion_adds_logits(self):
    rgb, flow_scores = (
      predictions_lib.load(self.files[stream]).logits.astype(np.float64) for stream in ("rgb", "flow")
    )
    self.assertEqual(list(self.found), ["rgb", "flow", "rgb+flow"])
    np.testing.assert_allclose(self.found["rgb+flow"].scores.scores, rgb + flow_scores, rtol=1e-12)

  def test_results_say_what_was_found(self):
    self.assertEqual(self.report.failures, ())
    for name, result in self.found.items():
      self.assertEqual(self.results["results"][name]["top1"], result.metrics.top1)
      self.assertEqual(self.results["results"][name]["videos"], 6)
    self.assertEqual(self.results["streams"]["flow"]["checkpoint"], self.both["flow"])
    self.assertEqual(self.results["streams"]["rgb"]["protocol"]["crop"], _SIDE)
    self.assertEqual(self.results["fusion"], {"method": "logits", "flow_weight": 0.5})

  def test_report_is_there_with_clips_and_curves_of_training(self):
    page = (self.folder / "both" / "report.html").read_text(encoding="utf-8")
    self.assertEqual(page.count("data:image/jpeg"), 6)
    for words in ("<h2>Training</h2>", "<h1>RGB+Flow: shades, test</h1>"):
      self.assertEqual(page.count(words), 1, words)

  def test_files_are_fused_without_networks(self):
    found = evaluator.evaluate(self.config("files", records=None, score_files=self.files)).results
    np.testing.assert_array_equal(found["rgb+flow"].scores.scores, self.found["rgb+flow"].scores.scores)
    page = (self.folder / "files" / "report.html").read_text(encoding="utf-8")
    self.assertEqual(page.count("data:image/jpeg"), 0)
    self.assertFalse((self.folder / "files" / "scores_rgb.npz").exists())

  def test_softmax_and_weights(self):
    found = evaluator.evaluate(
      self.config("softmax", records=None, score_files=self.files, fusion="softmax", flow_weight=0.25)
    ).results
    alone = [np.exp(found[stream].scores.log_probabilities) for stream in ("rgb", "flow")]
    np.testing.assert_allclose(np.exp(found["rgb+flow"].scores.scores), 0.75 * alone[0] + 0.25 * alone[1], rtol=1e-9)

  def test_svm_of_the_training_split(self):
    evaluator.evaluate(self.config("train", checkpoints=self.both, split="train"))
    trained = tuple(str(self.folder / "train" / f"scores_{stream}.npz") for stream in ("flow", "rgb"))
    found = evaluator.evaluate(
      self.config("svm", records=None, score_files=self.files, fusion="svm", svm_train_scores=trained)
    ).results
    self.assertIsNone(found["rgb+flow"].metrics.cross_entropy)
    rows = json.loads((self.folder / "svm" / "results.json").read_text(encoding="utf-8"))["results"]
    self.assertIsNone(rows["rgb+flow"]["cross_entropy"])
    self.assertIsNotNone(rows["rgb"]["cross_entropy"])
    same = {"score_files": self.files, "fusion": "svm", "records": None}
    self._assert_refused("hold 6 of the videos that are tested .test/0; ", "a", **same,
                         svm_train_scores=tuple(self.files.values()))  # fmt: skip
    self._assert_refused("must be one file of rgb and one of flow", "b", **same, svm_train_scores=trained[:1] * 2)

  @parameterized.parameters(
    ({"protocol": "clips", "num_clips": 3, "flip": True}, 9),
    ({"protocol": "ten_crop", "short_side": 40, "num_frames": 10}, 10),
  )
  def test_other_protocols(self, clips, num_frames):
    found = evaluator.evaluate(
      self.config(f"protocol_{num_frames}", checkpoints={"rgb": self.both["rgb"]}, clips=clips)
    ).results
    made_with = found["rgb"].predictions.made_with["protocol"]
    self.assertEqual(made_with["num_frames"], num_frames)
    self.assertGreater(np.abs(found["rgb"].predictions.logits - self.found["rgb"].predictions.logits).max(), 1e-4)

  def test_a_torn_image_is_named_and_the_rest_is_done(self):
    torn = self.folder / "torn"
    shutil.copytree(self.folder / "records", torn)
    path = torn / "test-00000-of-00002.tfrecord"
    made = [records.deserialize(each.numpy()) for each in tf.data.TFRecordDataset(str(path))]
    values = {name: getattr(made[1], name) for name in made[1].__dataclass_fields__}
    made[1] = records.Record(**{**values, "flow_frames": (made[1].flow_frames[0][:50], *made[1].flow_frames[1:])})
    path.write_bytes(b"".join(shards.frame(records.serialize(record)) for record in made))
    report = evaluator.evaluate(self.config("torn_out", checkpoints=self.both, records=str(torn)))
    found, failures = report.results, report.failures
    self.assertEqual([(row["stream"], row["number"], row["id"]) for row in failures], [("flow", 1, "test/2")])
    self.assertIn(f"{path}, record 1: ", failures[0]["reason"])
    self.assertEqual([result.metrics.num_videos for result in found.values()], [6, 5, 5])
    kept = [0, 2, 3, 4, 5]
    np.testing.assert_allclose(
      found["rgb+flow"].scores.scores, self.found["rgb+flow"].scores.scores[kept], rtol=0, atol=1e-5
    )

  def test_what_does_not_fit(self):
    self._assert_refused("takes clips of the stream flow; give it as the checkpoint of flow", "c",
                         checkpoints={"rgb": self.both["flow"]})  # fmt: skip
    self._assert_refused("is a network i3d, but model is c3d", "b", checkpoints=self.both, model="c3d")
    self._assert_refused("num_clips is not used by the protocol release, which is that of i3d", "g",
                         checkpoints=self.both, clips={"num_clips": 3})  # fmt: skip
    self._assert_refused(".*scores_rgb.npz was given as scores of flow, but it holds scores of rgb", "d",
                         score_files={"flow": self.files["rgb"]}, records=None)  # fmt: skip
    self._assert_refused("there is no split 'val'; there are test, train", "e", checkpoints=self.both, split="val")
    self._assert_refused("there is no such file or folder", "f", checkpoints=self.both, records="nowhere")

  def test_records_of_other_classes(self):
    other = self.folder / "other"
    shutil.copytree(self.folder / "records", other)
    write_info(other, ("dark", "bright", "striped"))
    self._assert_refused("class 1 of the data set is 'bright', but of .* 'light'; the classes must be the same", "g",
                         checkpoints=self.both, records=str(other))  # fmt: skip

  def test_scores_of_other_records(self):
    swapped = self.folder / "swapped"
    swapped.mkdir()
    write_info(swapped, _CLASSES)
    for index in range(2):
      source = self.folder / "records" / f"test-{index:05}-of-00002.tfrecord"
      os.link(source, swapped / f"test-{1 - index:05}-of-00002.tfrecord")
    self._assert_refused("the scores are of other records", "h", score_files=self.files, records=str(swapped))


if __name__ == "__main__":
  absltest.main()
