"""Tests of published: the figures are the release's, and the comparison tells their distance."""

import re

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import special

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf.evaluation import published

NAMES = resources.class_names(400)


def _logits_of(run: published.Run) -> np.ndarray:
  """Logits that have exactly the run's best classes and norm."""
  logits = np.zeros(400)
  others = np.array([name not in run.logits for name in NAMES])
  for name, logit in run.logits.items():
    logits[NAMES.index(name)] = logit
  logits[others] = np.sqrt((run.norm**2 - (logits**2).sum()) / others.sum())
  return logits


class RunsTest(parameterized.TestCase):
  def test_equal_the_specification(self):
    text = testing.shared("SPEC.md").read_text(encoding="utf-8").partition("## 1.10")[2].partition("## 1.11")[0]
    rows = re.findall(r"^\| (joint|rgb|flow) \| ([\d.]+) \| (.*) \|$", text, re.MULTILINE)
    self.assertLen(rows, 6)  # ImageNet first, then scratch
    found = {}
    for i, (stream, norm, classes) in enumerate(rows):
      logits = dict(re.fullmatch(r"(.+?) (\d[\d.]*)( \([\d.e-]+\))?", cell).group(1, 2) for cell in classes.split("; "))
      run = published.Run(float(norm), {name: float(logit) for name, logit in logits.items()})
      found["imagenet" if i < 3 else "scratch", stream] = run
    self.assertEqual(found, dict(published.RUNS))

  @parameterized.parameters(*published.RUNS)
  def test_best_classes_are_kinetics_classes_best_first(self, family, stream):
    run = published.RUNS[family, stream]
    self.assertLen(run.logits, 5)
    self.assertContainsSubset(run.logits, NAMES)
    values = list(run.logits.values())
    self.assertEqual(values, sorted(values, reverse=True))
    self.assertLess(np.linalg.norm(values), run.norm)


class FindTest(parameterized.TestCase):
  @parameterized.parameters(
    (["rgb_imagenet"], "rgb", 87.108871),
    (["flow_imagenet"], "flow", 63.252754),
    (["rgb_imagenet", "flow_imagenet"], "joint", 138.468658),
    (["rgb_scratch"], "rgb", 87.217987),
    (["flow_scratch"], "flow", 85.503799),
    (["rgb_scratch", "flow_scratch"], "joint", 162.726547),
  )
  def test_by_names(self, checkpoints, stream, norm):
    self.assertEqual(published.find(checkpoints, stream).norm, norm)

  @parameterized.parameters(
    (["rgb_imagenet", "flow_scratch"], "joint"),  # of two families
    (["rgb_scratch_kin600"], "rgb"),  # none was published
    (["flow_imagenet"], "rgb"),  # of the other stream
    (["flow_scratch", "rgb_scratch"], "joint"),  # the wrong way round
    (["/tmp/my_scratch"], "rgb"),  # whatever is in it
    (["mine_imagenet"], "rgb"),
  )
  def test_others_are_refused(self, checkpoints, stream):
    with self.assertRaises(errors.I3dError) as caught:
      published.find(checkpoints, stream)
    self.assertStartsWith(str(caught.exception), f"the release published no {stream} figures for {checkpoints[0]}")
    self.assertIn(checkpoints[-1], str(caught.exception))


class CompareTest(parameterized.TestCase):
  @parameterized.parameters(*published.RUNS)
  def test_equal_logits_are_within_tolerance(self, family, stream):
    run = published.RUNS[family, stream]
    lines, difference = published.compare(run, _logits_of(run), NAMES)
    self.assertLess(difference, 1e-9)
    self.assertLen(lines, 7)  # heading, norm, five classes
    self.assertEqual(lines[0].split(), ["published", "here", "difference"])
    for line, (name, figure) in zip(lines[1:], [("norm of logits", run.norm), *run.logits.items()]):
      self.assertEqual(line.split()[:-1], [*name.split(), *[f"{figure:.6f}"] * 2])
      self.assertIn(line.split()[-1], ("+0.000000", "-0.000000"))

  def test_the_farthest_class_counts_with_its_sign(self):
    run = published.RUNS["scratch", "rgb"]
    logits = _logits_of(run)
    logits[NAMES.index("pumping fist")] -= 0.5
    logits[NAMES.index("robot dancing")] += 0.25
    lines, difference = published.compare(run, logits, NAMES)
    self.assertAlmostEqual(difference, 0.5)
    self.assertEqual(lines[3].split(), ["robot", "dancing", "12.693800", "12.943800", "+0.250000"])
    self.assertEqual(lines[4].split(), ["pumping", "fist", "12.332200", "11.832200", "-0.500000"])

  def test_the_norm_counts_too(self):
    run = published.RUNS["imagenet", "rgb"]
    logits = _logits_of(run)
    logits[NAMES.index("abseiling")] += 30  # not among the best published
    _, difference = published.compare(run, logits, NAMES)
    self.assertAlmostEqual(difference, np.linalg.norm(logits) - run.norm)
    self.assertGreater(difference, published.TOLERANCE)

  def test_the_published_probabilities_follow_from_logits_near_them(self):
    # Figures the release printed beside the logits. The other classes' logits are unknown but small.
    for family, stream, expected in (("imagenet", "rgb", 0.9999968), ("scratch", "joint", 0.999958)):
      run = published.RUNS[family, stream]
      logits = np.array([*run.logits.values()])
      self.assertAlmostEqual(special.softmax(logits)[0], expected, delta=2e-5)


if __name__ == "__main__":
  absltest.main()
