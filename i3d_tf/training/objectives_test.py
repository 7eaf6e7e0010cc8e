"""Learning without labels: the loss by a double loop, pairs of clips, a run that goes on and is started from."""

import json
import pathlib
import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.models import inception_spec
from i3d_tf.training import objectives
from i3d_tf.training import trainer
from i3d_tf.weights import saved

_CLIP = {"num_frames": 9, "short_side": 36, "crop": 32}
_FEW_ROWS = tuple(row for row in inception_spec.ROWS if row.name in ("1a_7x7", "2a_3x3", "2b_1x1", "3b"))
_CONTRASTIVE = {"records": "r", "output": "o", "num_steps": 1, "objective": "contrastive"}


class LossTest(absltest.TestCase):
  def test_it_is_nt_xent_by_a_double_loop_without_clips_that_cannot_be_used(self):
    rng = np.random.default_rng(0)
    projected = rng.normal(size=(8, 5)).astype(np.float32)
    projected[7] = projected[6] + 0.01  # these two find each other
    weight = np.array([1, 1, 1, 0, 1, 1, 1, 1], np.float32)  # the second video has half a pair
    losses, hits, used = (value.numpy() for value in objectives.nt_xent(projected, weight, 0.2))
    np.testing.assert_array_equal(used, [1, 1, 0, 0, 1, 1, 1, 1])
    cosine = lambda one, two: projected[one] @ projected[two] / np.linalg.norm(projected[[one, two]], axis=1).prod()
    places = [0, 1, 4, 5, 6, 7]
    for place in places:
      total = sum(np.exp(cosine(place, other) / 0.2) for other in places if other != place)
      partner = place + 1 if place % 2 == 0 else place - 1
      self.assertAlmostEqual(losses[place], -np.log(np.exp(cosine(place, partner) / 0.2) / total), places=4)
      best = max((other for other in places if other != place), key=lambda other: cosine(place, other))
      self.assertEqual(hits[place], best == partner)
    self.assertTrue(hits[6] and hits[7])
    self.assertTrue(np.isfinite(losses).all())


class RunTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.object(inception_spec, "ROWS", _FEW_ROWS))
    self._folder = pathlib.Path(self.create_tempdir().full_path)
    testing.write_records(self._folder / "records", streams=("rgb",))

  def _train(self, output: str, **options):
    defaults = {"objective": "contrastive", "num_steps": 6, "batch_size": 8, "validation_split": "test"}
    optimization = training.OptimizationConfig(optimizer="adam", learning_rate=0.01, batch_norm_decay=0.5)
    return trainer.train(
      self._folder / "records", self._folder / output, width_multiplier=0.05, average_space=True, clips=_CLIP, seed=1,
      log_every=1, save_every=3, optimization=optimization,
      **{**defaults, **options},
    )  # fmt: skip

  def test_a_run_learns_goes_on_and_another_one_starts_from_it(self):
    whole = self._train("whole")
    shutil.copytree(self._folder / "whole", self._folder / "parts")
    for file in (self._folder / "parts/checkpoints").glob("ckpt-6*"):
      file.unlink()
    parts = self._train("parts")  # from step 3
    read = lambda run: [json.loads(line) for line in (self._folder / run / "metrics.jsonl").read_text().splitlines()]
    losses = [[line["loss"] for line in read(run) if "loss" in line] for run in ("whole", "parts")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    self.assertLess(losses[0][-1], losses[0][0])
    self.assertLess(losses[0][0], 2 * np.log(7))  # seven other clips
    self.assertAlmostEqual(parts.metrics["validation_loss"], whole.metrics["validation_loss"], places=2)
    self.assertGreater(whole.metrics["validation_accuracy"], 1 / 7)
    values, info = saved.read(whole.network)
    self.assertEqual((info.num_classes, info.classes), (0, ()))
    self.assertEmpty([name for name in values if "Logits" in name or "projection" in name])
    with self.assertRaisesRegex(errors.CheckpointError, "has no classifier yet; training can start from it"):
      saved.load(whole.network)
    options = {"initial_checkpoint": whole.network, "num_steps": 1, "batch_size": 2, "validation_split": ""}
    started = self._train("started", objective="classification", **options)
    found, info = saved.read(started.network)
    self.assertEqual(info.num_classes, 3)
    moved = {name: np.abs(found[name] - value).max() for name, value in values.items() if name.endswith("/w")}
    self.assertLess(max(moved.values()), 0.0101)  # one step of Adam

  def test_clips_of_a_video_stand_side_by_side_and_differ(self):
    clips = clip_config.TrainClips(streams=("rgb",), **_CLIP)
    source = pipeline.open_source(self._folder / "records", "train", streams=("rgb",))
    batches = lambda first, **options: list(
      pipeline.train_batches(source, clips, batch_size=4, seed=3, first_batch=first, **options).take(2)
    )
    both, later, alone = batches(0, views=2), batches(1, views=2), batches(0)
    ids = np.concatenate([batch["id"].numpy() for batch in both])
    np.testing.assert_array_equal(ids[::2], ids[1::2])
    self.assertLen(set(ids.tolist()), 4)
    np.testing.assert_array_equal(ids[::2], alone[0]["id"].numpy())  # in the same order
    rgb = both[1]["rgb"].numpy().astype(int)
    self.assertGreater(np.abs(rgb[0] - rgb[1]).max(), 0)
    np.testing.assert_array_equal(later[0]["rgb"].numpy(), rgb)
    held = [list(pipeline.center_clips(source, clips, batch_size=8, views=2)) for _ in range(2)]
    ids = np.concatenate([batch["id"].numpy() for batch in held[0]])
    np.testing.assert_array_equal(ids[::2], ids[1::2])
    self.assertLen(set(ids.tolist()), 12)
    for one, two in zip(*held, strict=True):
      np.testing.assert_array_equal(one["rgb"].numpy(), two["rgb"].numpy())

  @parameterized.parameters(
    ({"batch_size": 2}, "batch_size is 2; with the objective contrastive it must be even and at least 4, two clips"),
    ({"batch_size": 5}, "batch_size is 5; with the objective contrastive it must be even"),
    ({"teacher": "x"}, "teacher is about classes, which the objective contrastive does not learn; drop one"),
    ({"second_records": "x", "batch_size": 8}, "second_records is about classes"),
    ({"model": "tsn_r50", "top_segments": 2}, "top_segments is about classes"),
    ({"objective": "masked"}, "objective is 'masked'"),
    ({"temperature": 0.0}, "temperature is 0"),
  )
  def test_what_cannot_be_combined_is_refused(self, options, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      training.TrainConfig(**{**_CONTRASTIVE, **options})

  def test_label_smoothing_is_refused(self):
    with self.assertRaisesRegex(errors.I3dError, "label_smoothing is about labels, which the objective contrastive"):
      trainer.train(
        "r", "o", num_steps=1, objective="contrastive", optimization=training.OptimizationConfig(label_smoothing=0.1)
      )


if __name__ == "__main__":
  absltest.main()
