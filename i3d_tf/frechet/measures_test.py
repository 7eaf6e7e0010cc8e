"""KVD, the FVD of endless sets, precision and recall, against their definitions and known truths."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf.frechet import distance
from i3d_tf.frechet import measures


def _sets(seed=0, n=30, m=40, size=5, shift=0.5):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((n, size)).astype(np.float32), (rng.standard_normal((m, size)) + shift).astype(np.float32)


class KernelDistanceTest(parameterized.TestCase):
  def test_double_loop(self):
    real, generated = _sets(n=11, m=7)
    kernel = lambda x, y: (float(np.float64(x) @ np.float64(y)) / len(x) + 1) ** 3

    def mmd(real, generated):
      within = lambda each: (
        sum(kernel(x, y) for i, x in enumerate(each) for j, y in enumerate(each) if i != j)
        / len(each)
        / (len(each) - 1)
      )
      across = sum(kernel(x, y) for x in real for y in generated) / len(real) / len(generated)
      return within(real) + within(generated) - 2 * across

    found = measures.kernel_distance(real, generated)
    self.assertAlmostEqual(found.value, mmd(real, generated), places=12)
    leave_one = lambda each: [np.delete(each, index, axis=0) for index in range(len(each))]
    of_real = np.array([mmd(each, generated) for each in leave_one(real)])
    of_generated = np.array([mmd(real, each) for each in leave_one(generated)])
    variance = sum((len(each) - 1) / len(each) * ((each - each.mean()) ** 2).sum() for each in (of_real, of_generated))
    self.assertAlmostEqual(found.error, variance**0.5, places=12)

  def test_blocks_do_not_matter(self):
    real, generated = _sets(n=1200, m=700)
    found = measures.kernel_distance(real, generated)
    x, y = (np.asarray(each, np.float64) for each in (real, generated))
    kernel = lambda x, y: (x @ y.T / 5 + 1) ** 3
    within = lambda k: (k.sum() - np.trace(k)) / len(k) / (len(k) - 1)
    expected = within(kernel(x, x)) + within(kernel(y, y)) - 2 * kernel(x, y).mean()
    self.assertAlmostEqual(found.value, expected, places=10)

  def test_error_is_the_spread_of_other_sets_and_there_is_no_bias(self):
    found = [measures.kernel_distance(*_sets(seed, shift=0.0)) for seed in range(300)]
    values = np.array([each.value for each in found])
    self.assertLess(abs(values.mean()), 3 * values.std() / len(values) ** 0.5)
    shifted = [measures.kernel_distance(*_sets(seed)) for seed in range(300)]
    spread = np.std([each.value for each in shifted])
    self.assertAlmostEqual(np.mean([each.error for each in shifted]) / spread, 1, delta=0.15)

  def test_too_few(self):
    with self.assertRaisesRegex(errors.I3dError, "KVD needs at least 3 clips of each set; one has 2"):
      measures.kernel_distance(*_sets(n=2))


class ExtrapolateTest(absltest.TestCase):
  def test_covers_the_truth_of_known_gaussians(self):
    # FVD of N(0, 1) and N(mean, 2) in 12 dimensions is |mean|^2 + 12 (sqrt(2) - 1)^2.
    truth = 4 + 12 * (2**0.5 - 1) ** 2
    found, plain = [], []
    for seed in range(20):
      rng = np.random.default_rng(seed)
      real, generated = rng.standard_normal((200, 12)), 2**0.5 * rng.standard_normal((160, 12))
      generated[:, 0] += 2
      found.append(measures.extrapolate(real, generated, seed=seed))
      plain.append(distance.distance(distance.fit(real), distance.fit(generated)).total)
    self.assertGreater(np.mean(plain) - truth, 0.5)  # the bias that is to go
    bias = np.mean([each.value for each in found]) - truth
    self.assertLess(abs(bias), 0.3, bias)
    held = [abs(each.value - truth) < 1.96 * each.error for each in found]
    self.assertGreaterEqual(sum(held), 17)
    spread = np.std([each.value for each in found])
    self.assertBetween(np.mean([each.error for each in found]) / spread, 0.6, 1.7)

  def test_seed_decides_and_too_few(self):
    values = [measures.extrapolate(*_sets(), seed=seed).value for seed in (1, 1, 2)]
    self.assertEqual(values[0], values[1])
    self.assertNotEqual(values[0], values[2])
    with self.assertRaisesRegex(errors.I3dError, "fvd_infinity needs at least 16 clips of each set; one has 15"):
      measures.extrapolate(*_sets(n=15))


class PrecisionAndRecallTest(absltest.TestCase):
  def test_on_a_line(self):
    real = np.array([[0.0], [1], [2], [3], [10]])  # 3rd neighbours at 3, 2, 2, 3, 9
    generated = np.array([[1.5], [6.0], [-4.0], [0.5]])  # 3rd neighbours at 5.5, 10, 10, 5.5
    precision, recall = measures.precision_and_recall(real, generated)
    self.assertEqual(precision, 3 / 4)  # -4 is 4 away from 0, which reaches 3
    self.assertEqual(recall, 1.0)
    precision, recall = measures.precision_and_recall(real, generated, neighbours=1)
    # Real reach: 1, 1, 1, 1, 7; generated: 1, 4.5, 4.5, 1.
    self.assertEqual((precision, recall), (3 / 4, 1.0))

  def test_a_part_of_the_real_clips(self):
    rng = np.random.default_rng(0)
    real = rng.standard_normal((900, 4)) + np.where(np.arange(900) % 2, 50, 0)[:, np.newaxis]
    generated = rng.standard_normal((400, 4))  # of one of the two modes
    precision, recall = measures.precision_and_recall(real, generated)
    self.assertGreater(precision, 0.8)
    self.assertBetween(recall, 0.35, 0.5)
    self.assertEqual(measures.precision_and_recall(real, real), (1.0, 1.0))
    with self.assertRaisesRegex(errors.I3dError, "precision_recall needs at least 4 clips of each set; one has 3"):
      measures.precision_and_recall(real[:3], generated)


if __name__ == "__main__":
  absltest.main()
