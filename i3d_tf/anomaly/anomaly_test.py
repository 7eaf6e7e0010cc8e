"""Anomaly detection: files, training on two bags, evaluators, and the program."""

import json
import os
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import anomaly
from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.anomaly import bags as bags_lib
from i3d_tf.anomaly import ranking
from i3d_tf.anomaly import scores as scores_lib


def _rows(seed: int, *, num_rows: int = 40, unusual: slice | None = None, num_values: int = 16) -> np.ndarray:
  """Features of which the first half is large, or the second where something unusual happens."""
  rows = np.random.default_rng(seed).uniform(0, 0.4, (num_rows, num_values)).astype(np.float32)
  rows[:, : num_values // 2] += 1
  if unusual is not None:
    rows[unusual] = rows[unusual, ::-1]
  return rows


def _bag(seed: int, unusual: slice | None = None) -> bags_lib.Bag:
  return bags_lib.Bag(str(seed), _rows(seed, unusual=unusual)[np.newaxis], unusual is not None, 640, 16)


class BagsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())

  def test_layouts(self):
    rows = _rows(1, num_rows=5)
    np.save(self.folder / "plain.npy", rows)
    np.save(self.folder / "ten_i3d.npy", np.stack([rows] * 10, 1))
    np.savetxt(self.folder / "text_c3d.txt", rows)
    for crop in range(5):
      np.save(self.folder / f"crops__{crop}.npy", rows + crop)
    for stream, name in (("rgb", "PooledFeatures"), ("flow", "PooledFeatures")):
      facts = {"hop": np.int64(8), "num_frames": np.int64(45), "fps": np.float64(25)}
      np.savez(self.folder / f"ours-{stream}-{name}.npz", features=rows, **facts)
    (self.folder / "list").write_text("a/plain.mp4\nten.mp4 1\ntext.mp4 0 100\ncrops.mp4\nNormal_1.mp4\n")
    np.save(self.folder / "Normal_1.npy", rows)
    plain, ten, text, crops, normal = bags_lib.read_bags(self.folder, self.folder / "list")
    self.assertEqual(
      [bag.features.shape for bag in (plain, ten, text, crops)], [(1, 5, 16), (10, 5, 16), (1, 5, 16), (5, 5, 16)]
    )
    self.assertEqual([bag.is_abnormal for bag in (plain, ten, text, crops, normal)], [True, True, False, True, False])
    self.assertEqual([(bag.num_frames, bag.hop) for bag in (plain, text)], [(80, 16), (100, None)])
    np.testing.assert_array_equal(crops.features[3, :, 0], rows[:, 0] + 3)
    (self.folder / "list").write_text("ours.mp4\n")
    (ours,) = bags_lib.read_bags(self.folder, self.folder / "list")
    self.assertEqual((ours.features.shape, ours.num_frames, ours.hop), ((1, 5, 32), 45, 8))

  def test_frames_have_their_row_s_score(self):
    scores = np.arange(5.0)
    bag = bags_lib.Bag("a", np.zeros([1, 5, 2], np.float32), None, 45, 8)
    np.testing.assert_array_equal(bag.of_frames(scores), [*np.repeat(np.arange(4.0), 8), *[4] * 13])
    even = bags_lib.Bag("a", np.zeros([1, 5, 2], np.float32), None, 10, None)
    np.testing.assert_array_equal(even.of_frames(scores), np.repeat(scores, 2))

  def test_segments_are_means_of_rows_of_unit_length(self):
    rows = _rows(3, num_rows=6)
    bag = bags_lib.Bag("a", rows[np.newaxis], None, 96, 16)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(bag.segments(3)[0], unit.reshape(3, 2, -1).mean(1), atol=1e-6)
    np.testing.assert_allclose(bag.segments(12)[0], np.repeat(unit, 2, 0), atol=1e-6)

  @parameterized.parameters(
    ("b.mp4\n", "has no features of b.mp4: no b.npy, .npz or .txt"),
    ("a.mp4 2\n", r"list, line 1: this is not 'NAME', 'NAME 0' or 'NAME 1'"),
    ("a.mp4\na.mp4\n", "line 2: a.mp4 comes twice"),
    ("\n", "names no video"),
    ("flat.mp4\n", r"flat.npy has values float32 \(5,\); wanted are"),
    ("nan.mp4\n", "nan.npy has values that are not finite"),
    ("a.mp4\nwide.mp4\n", "all features must have as many values a row; there are 16 of a.mp4, 3 of wide.mp4"),
    ("two.mp4\n", "two.mp4 has several files of features"),
  )
  def test_what_cannot_be_read_is_said(self, names, sentence):
    arrays = {"a": _rows(1), "flat": np.zeros(5, np.float32), "nan": np.full((2, 2), np.nan), "wide": np.zeros((2, 3))}
    for name, array in (arrays | {"two": _rows(1), "two_i3d": _rows(1)}).items():
      np.save(self.folder / f"{name}.npy", array)
    (self.folder / "list").write_text(names)
    with self.assertRaisesRegex(errors.I3dError, sentence):
      bags_lib.read_bags(self.folder, self.folder / "list")


class TrainingTest(parameterized.TestCase):
  @parameterized.parameters(*anomaly.METHODS)
  def test_two_videos_with_and_two_without_are_told_apart(self, method):
    bags = [_bag(1, slice(8, 14)), _bag(2, slice(30, 36)), _bag(3), _bag(4)]
    config = anomaly.RankingConfig(method=method, num_steps=60, batch_size=2, margin=2.0)
    losses = []
    ranker = ranking.train(bags, config, on_step=lambda step, loss: losses.append(loss))
    self.assertLess(losses[-1], losses[0] / 2)
    scores = [ranker.score(bag) for bag in bags]
    self.assertGreater(min(score.max() for score in scores[:2]), max(score.max() for score in scores[2:]) + 0.5)
    unseen = _bag(5, slice(17, 25))
    truth = np.zeros(640, bool)
    truth[17 * 16 : 25 * 16] = True
    self.assertGreater(scores_lib.measure([unseen.of_frames(ranker.score(unseen))], [truth])["auc"], 0.95)
    folder = self.create_tempdir().full_path
    ranker.save(folder)
    np.testing.assert_array_equal(ranking.load(folder).score(unseen), ranker.score(unseen))

  def test_losses_are_those_of_the_papers(self):
    abnormal, normal = [[0.1, 0.9, 0.2], [0.3, 0.3, 0.6]], [[0.2, 0.1, 0.0], [0.5, 0.1, 0.1]]
    scores = tf.constant([*abnormal, *normal])
    config = anomaly.RankingConfig(smoothness=0.5, sparsity=0.25)
    hinge = np.mean([1 - 0.9 + 0.2, 1 - 0.9 + 0.5, 1 - 0.6 + 0.2, 1 - 0.6 + 0.5])
    smooth, sparse = np.mean([0.64 + 0.49, 0.09]), np.mean([1.2, 1.2])
    self.assertAlmostEqual(float(ranking.loss_of(config, scores, scores, 1)), hinge + 0.5 * smooth + 0.25 * sparse, 5)
    rtfm = anomaly.RankingConfig(method="rtfm", smoothness=0, sparsity=0, top_k=1, margin=10.0, magnitude=0.5)
    lengths = tf.constant([[1.0, 2.0, 6.0], [8.0, 1.0, 1.0], [3.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
    entropy = -np.mean(np.log([0.2, 0.3, 1 - 0.2, 1 - 0.1]))
    magnitude = np.mean([(4 + 3) ** 2, (2 + 2) ** 2])
    self.assertAlmostEqual(float(ranking.loss_of(rtfm, scores, lengths, 1)), entropy + 0.5 * magnitude, 4)

  def test_crops_are_averaged(self):
    scores = tf.random.stateless_uniform([8, 5], (1, 2))
    config = anomaly.RankingConfig()
    mean = tf.reduce_mean(tf.reshape(scores, [4, 2, 5]), 1)
    self.assertAlmostEqual(
      float(ranking.loss_of(config, scores, scores, 2)), float(ranking.loss_of(config, mean, mean, 1)), 6
    )

  @parameterized.parameters(
    ([_bag(1, slice(1, 2))], "training needs videos with and without anomalies; there are 1 and 0"),
    (
      [_bag(1, slice(1, 2)), bags_lib.Bag("b", np.zeros([5, 9, 16], np.float32), False, 9, 16)],
      "as many crops; there are 1 and 5",
    ),
  )  # fmt: skip
  def test_what_cannot_be_trained_on(self, bags, sentence):
    with self.assertRaisesRegex(errors.I3dError, sentence):
      ranking.train(bags, anomaly.RankingConfig(num_steps=1))


class ScoresTest(absltest.TestCase):
  def test_area_of_a_curve(self):
    self.assertAlmostEqual(scores_lib.area([0, 0.5, 1], [0, 1, 1]), 0.75)
    self.assertAlmostEqual(scores_lib.area([1, 0.5, 0], [1, 1, 0]), 0.75)

  def test_measures_by_hand(self):
    found = scores_lib.measure(
      [np.array([0.1, 0.4]), np.array([0.35, 0.8])], [np.array([0, 0], bool), np.array([1, 1], bool)]
    )
    self.assertAlmostEqual(found["auc"], 0.75)
    self.assertAlmostEqual(found["ap"], 0.5 * 1 + 0.5 * 2 / 3)
    with self.assertRaisesRegex(errors.I3dError, "none of the 2 frames are anomalous"):
      scores_lib.measure([np.zeros(2)], [np.zeros(2, bool)])

  def test_alerts(self):
    scores = np.zeros(100)
    scores[10:20], scores[22:30], scores[80:] = 0.7, 0.9, 0.6
    alerts = scores_lib.find_alerts(scores, 10, threshold=0.6, join=0.5)
    self.assertEqual(alerts, [scores_lib.Alert(1.0, 3.0, 0.9, 2.2), scores_lib.Alert(8.0, 10.0, 0.6, 8.0)])
    self.assertEqual(scores_lib.find_alerts(scores, 10, threshold=0.95), [])


class PublishedTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.shared = testing.shared("anomaly")

  def test_area_of_the_published_curve(self):
    from scipy import io

    curve = io.loadmat(self.shared / "6_C3D_Final_L1L2.mat")
    self.assertAlmostEqual(scores_lib.area(curve["X"], curve["Y"]), 0.75411735, places=8)

  def test_published_features_train(self):
    folder = pathlib.Path(self.create_tempdir())
    names = ["Explosion008_x264", "RoadAccidents022_x264", "Shoplifting028_x264", "Normal_Videos_006_x264"]
    (folder / "list").write_text("".join(f"{name}.mp4 {int('Normal' not in name)} 4000\n" for name in names))
    bags = bags_lib.read_bags(self.shared, folder / "list")
    self.assertEqual(
      [(bag.features.shape, bag.is_abnormal) for bag in bags[2:]], [((1, 32, 4096), True), ((1, 32, 4096), False)]
    )
    ranker = ranking.train(bags, anomaly.RankingConfig(num_steps=25, batch_size=3))
    highest = [float(ranker.score(bag).max()) for bag in bags]
    self.assertGreater(min(highest[:3]), highest[3])
    truth = bags_lib.read_truth(self.shared / "Temporal_Anomaly_Annotation.txt", bags)
    self.assertEqual([each.any() for each in truth], [True, True, True, False])

  def test_lists_and_truth_are_read(self):
    found = bags_lib.read_list(self.shared / "Anomaly_Train.txt")
    self.assertEqual((len(found), sum(is_abnormal for _, is_abnormal, _ in found)), (1610, 810))
    bag = bags_lib.Bag("all", np.zeros([1, 142912 // 16, 2], np.float32), None, 142912, 16)
    (truth,) = bags_lib.read_truth(self.shared / "shanghaitech_gt.npy", [bag])
    self.assertEqual(truth.shape, (142912,))
    with self.assertRaisesRegex(errors.I3dError, "has 142912 frames; the videos of the list have 285824"):
      bags_lib.read_truth(self.shared / "shanghaitech_gt.npy", [bag, bag])


class ProgramTest(absltest.TestCase):
  def test_train_test_and_timeline(self):
    folder = pathlib.Path(self.create_tempdir())
    annotation = []
    for seed, unusual in ((1, slice(8, 14)), (2, slice(30, 36)), (3, None), (4, None)):
      np.save(folder / f"video{seed}.npy", _rows(seed, unusual=unusual))
      bounds = (unusual.start * 16, unusual.stop * 16) if unusual else (-1, -1)
      annotation.append(f"video{seed}.mp4  Some  {bounds[0]}  {bounds[1]}  -1  -1\n")
    (folder / "list.txt").write_text("".join(f"video{seed}.mp4 {int(seed < 3)}\n" for seed in (1, 2, 3, 4)))
    (folder / "truth.txt").write_text("".join(annotation))
    given = [f"--features={folder}", f"--list={folder}/list.txt"]
    run = os.fspath(folder / "run")
    done = testing.run_main("anomaly", "train", *given, f"--output={run}", "--num_steps=60", "--batch_size=2")
    self.assertEqual((done.status, done.stderr), (0, ""))
    self.assertIn("is trained on 2 videos with anomalies and 2 without", done.stdout)
    done = testing.run_main(
      "anomaly", "test", run, *given, f"--annotation={folder}/truth.txt", f"--output={folder}/report.json"
    )
    self.assertEqual(done.status, 0, done.stderr)
    report = json.loads((folder / "report.json").read_text())
    self.assertGreater(report["auc"], 0.95)
    self.assertIn(f"4 videos, 2560 frames: AUC {report['auc']:.4f}, AP {report['ap']:.4f}", done.stdout)
    testing.write_moving_video(folder / "clip.mp4", seed=1, num_frames=20)
    output = folder / "shown.mp4"
    np.save(folder / "clip.npy", _rows(7, num_rows=2, unusual=slice(1, 2)))
    done = testing.run_main(
        "anomaly", "timeline", run, os.fspath(folder / "clip.mp4"), f"--features={folder}/clip.npy",
        f"--output={output}",
    )  # fmt: skip
    self.assertEqual(done.status, 0, done.stderr)
    alerts = json.loads(output.with_suffix(".json").read_text())["alerts"]
    self.assertEqual([(alert["start"], alert["end"]) for alert in alerts], [(0.64, 1.28)])
    self.assertGreater(output.stat().st_size, 1000)

  def test_what_is_wrong_is_said(self):
    for arguments, sentence in (
        ([], "say what to do: train, test, timeline; got nothing"),
        (["test"], "test takes one network; got none"),
        (["test", "run", "--num_steps=3"], "--num_steps is for train, not for test"),
        (["train"], "train needs --features and --list and --output"),
        (["test", "nothing", "--features=a", "--list=b", "--annotation=c"], "nothing has no anomaly.json"),
    ):  # fmt: skip
      done = testing.run_main("anomaly", *arguments)
      self.assertEqual(done.status, 1)
      self.assertIn(sentence, done.stderr)


if __name__ == "__main__":
  absltest.main()
