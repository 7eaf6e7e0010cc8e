"""Settings that are chosen for a training, and a training from a fitted classifier."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import numpy as np

import i3d_tf
from i3d_tf import fitting
from i3d_tf import testing
from i3d_tf.data import prepare
from i3d_tf.fitting import deepen
from i3d_tf.models import preprocess
from i3d_tf.training import trainer
from i3d_tf.weights import saved

_GB = 2**30


def _config(**options) -> fitting.FitConfig:
  return fitting.FitConfig(**{"videos": "V", "output": "O", "depth": "all", **options})


class ChooseTest(absltest.TestCase):
  def _choose(self, lengths, *, memory=24 * _GB, **options) -> deepen.Settings:
    clip = preprocess.Preprocess()
    return deepen.choose(_config(**options), clip, lengths, memory=memory, precision="float32")

  def test_by_memory(self):
    of_size = {memory: self._choose([250] * 100, memory=memory * _GB) for memory in (1, 7, 24, 240)}
    batches = {memory: (each.batch_size, each.accumulation_steps) for memory, each in of_size.items()}
    self.assertEqual(batches, {1: (1, 16), 7: (2, 8), 24: (8, 2), 240: (8, 2)})
    self.assertEqual(self._choose([250] * 100, memory=7 * _GB, depth="mixed_5").batch_size, 4)

  def test_by_number_and_length(self):
    self.assertEqual([self._choose([250] * count).num_steps for count in (10, 160, 100_000)], [60, 150, 4000])
    self.assertEqual([self._choose([count] * 9).num_frames for count in (12, 30, 61, 500)], [16, 24, 56, 64])
    self.assertEqual(self._choose([250] * 3).batch_size, 3)

  def test_the_statistics_of_batch_norm_are_those_of_the_trained_weights(self):
    for count, given in ((10, None), (160, None), (100_000, None), (10, 7)):
      found = self._choose([250] * count, num_steps=given)
      self.assertLess(found.batch_norm_decay ** (found.num_steps * found.accumulation_steps), 0.01)
    self.assertEqual(found.batch_norm_decay, 0.5)
    self.assertEqual(self._choose([250] * 100_000, num_steps=50_000).batch_norm_decay, 0.999)

  def test_by_depth(self):
    for depth, freeze in (("all", ""), ("mixed_5", "(?!Mixed_5|Logits)")):
      self.assertEqual(self._choose([250] * 9, depth=depth).freeze, freeze)

  def test_as_given(self):
    found = self._choose([250] * 100, num_steps=7, batch_size=2, learning_rate=0.5, num_frames=9)
    self.assertEqual((found.num_steps, found.batch_size, found.learning_rate, found.num_frames), (7, 2, 0.5, 9))
    self.assertIn("num_steps 7: as given", found.reasons)


class TrainTest(absltest.TestCase):
  def test_goes_on_from_the_classifier(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    testing.write_network(folder / "network", average_space=True, num_frames=9, short_side=36, crop=32)
    for number in range(8):
      place = folder / "videos" / ("left", "right")[number % 2]
      place.mkdir(parents=True, exist_ok=True)
      testing.write_moving_video(place / f"{number}.avi", seed=number, num_frames=12)
    said: list[str] = []
    config = _config(
        videos=str(folder / "videos"), output=str(folder / "run"), rgb_checkpoint=str(folder / "network"),
        precision="float32", streams=("rgb", "flow"), depth="mixed_5", num_steps=2, num_folds=2,
    )  # fmt: skip
    found = i3d_tf.fit(config, say=said.append)
    self.assertEqual(
      list(found.metrics), ["facts", "rgb", "flow", "rgb+flow", "rgb tuned", "flow tuned", "rgb+flow tuned"]
    )
    self.assertEqual({each.num_videos for each in found.metrics.values()}, {4})  # one of two folds
    self.assertIn("Training flow with num_steps 2: as given", said)
    self.assertEqual(found.networks, {"rgb": folder / "run", "flow": folder / "run" / "flow"})
    for stream, network in found.networks.items():
      (head,) = (folder / "run" / deepen.TRAINING / stream).glob(f"*/{deepen.HEAD}")
      before, after = (saved.read(path)[0] for path in (head, network))
      moved = {name for name in before if not np.array_equal(before[name], after[name]) and "moving_" not in name}
      self.assertTrue(all(name.startswith(("Mixed_5", "Logits")) for name in moved))
      self.assertTrue(any(name.startswith("Mixed_5") for name in moved))
      info, _ = saved.find(network)
      self.assertEqual((info.stream, info.classes, info.step), (stream, ("left", "right"), 2))
    for done in (folder / "run" / deepen.TRAINING).glob("*/*/logits.npz"):
      done.unlink()
    with mock.patch.object(deepen, "free_memory", return_value=0):
      again = i3d_tf.fit(config)  # goes on with the batches that it began with
    for name, metrics in found.metrics.items():
      self.assertEqual(again.metrics[name].cross_entropy, metrics.cross_entropy)

    testing.write_moving_video(folder / "videos" / "left" / "8.avi", seed=8, num_frames=12)
    config = dataclasses.replace(config, streams=("rgb",), protocol="k_fold")
    with mock.patch.object(prepare, "make_record", wraps=prepare.make_record) as make_record:
      all_folds = i3d_tf.fit(config, say=said.append)
    make_record.assert_called_once()  # of the new video
    self.assertEqual(all_folds.metrics["rgb tuned"].num_videos, 9)
    self.assertIn("Training rgb, 3 of 3: all clips, to be kept", said)
    self.assertLen(list((folder / "run" / deepen.TRAINING / "rgb").iterdir()), 1 + 3)
    with mock.patch.object(trainer, "train", side_effect=AssertionError("trained again")):
      once_more = i3d_tf.fit(config)
    self.assertEqual(once_more.metrics["rgb tuned"].cross_entropy, all_folds.metrics["rgb tuned"].cross_entropy)


if __name__ == "__main__":
  absltest.main()
