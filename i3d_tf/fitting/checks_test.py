"""Videos that look alike, across a split's border or not, and what else a user is told."""

import dataclasses

from absl.testing import absltest
import numpy as np

from i3d_tf.fitting import checks
from i3d_tf.fitting import samples as samples_lib
from i3d_tf.fitting import splits


def _facts(seed: int, *, mover: int = 0, digest: str = "", num_frames: int = 80) -> samples_lib.Facts:
  """Those of a video of a scene that the seed draws, before which a small bright square moves."""
  scene = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).repeat(16, axis=0).repeat(16, axis=1)
  frames = np.stack([scene.astype(np.uint8)] * samples_lib.NUM_KEPT)
  for time, frame in enumerate(frames if mover else ()):
    place = (mover * 7 + time * 9) % 70
    frame[place : place + 20, place : place + 20] = 250
  return samples_lib.Facts(128, 96, 25.0, num_frames, 1000, digest, frames, np.zeros(0))


def _samples(labels, *, classes=("a", "b")) -> samples_lib.Samples:
  ids = tuple(f"{classes[label]}/{number}" for number, label in enumerate(labels))
  return samples_lib.Samples("set", classes, ids, ids, tuple(labels))


class PairTest(absltest.TestCase):
  def test_kinds(self):
    facts = [_facts(0, digest="x"), _facts(0, digest="x"), _facts(0, mover=1), _facts(1), _facts(2)]
    darker = dataclasses.replace(facts[3], frames=(facts[3].frames // 2).astype(np.uint8))
    found = checks.find_pairs([*facts, darker])
    kinds = {(pair.one, pair.other): pair.kind for pair in found}
    self.assertEqual(kinds, {(0, 1): "copy", (0, 2): "same scene", (1, 2): "same scene", (3, 5): "same frames"})

  def test_across(self):
    pairs = [checks.Pair(0, 1, "copy", 1.0), checks.Pair(2, 3, "same scene", 0.96)]
    samples = _samples([0, 0, 1, 1])
    together = splits.plan(samples.labels, samples.classes, ["x", "x", "y", "z"], num_folds=3)
    self.assertEqual(checks.across(pairs, together), pairs[1:])
    text = checks.describe_leak(pairs[1:], samples)
    self.assertStartsWith(
      text, "2 of 4 clips (50 %) have a twin on the other side of a split (1 same scene: b/2 and b/3)"
    )
    self.assertEqual(checks.describe_leak([], samples), "")


class WarnTest(absltest.TestCase):
  def test_what_is_told(self):
    samples = _samples([0] * 9 + [1] * 2)
    facts = [_facts(number, digest=str(number), num_frames=80 if number else 30) for number in range(10)]
    facts.append(_facts(20, digest="3"))
    unequal, few, short, twice = checks.warn(samples, facts, num_frames=64)
    self.assertIn("a has 9 clips, b 2", unequal)
    self.assertIn("fewer than five clips of b", few)
    self.assertIn("1 of 11 clips are shorter than the 64 frames", short)
    self.assertIn("1 videos are there twice with two labels (a/3 and b/10)", twice)

  def test_nothing_to_tell(self):
    samples = _samples([0, 1] * 5)
    facts = [_facts(number, digest=str(number)) for number in range(10)]
    self.assertEqual(checks.warn(samples, facts, num_frames=64), [])


if __name__ == "__main__":
  absltest.main()
