"""The Frechet distance: closed forms, singular covariances, intervals and files."""

import io
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf.frechet import distance


def _gaussian(mean, covariance):
  return distance.Gaussian(np.asarray(mean, np.float64), np.linalg.cholesky(covariance).T)


class DistanceTest(parameterized.TestCase):
  @parameterized.parameters(1e-18, 1, 1e18)
  def test_covariances_that_commute(self, scale):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    first, second = scale * rng.uniform(0.1, 9, (2, 7))
    means = scale**0.5 * rng.standard_normal((2, 7))
    measured = distance.distance(
      _gaussian(means[0], basis * first @ basis.T), _gaussian(means[1], basis * second @ basis.T)
    )
    np.testing.assert_allclose(measured.mean_term, ((means[0] - means[1]) ** 2).sum(), rtol=1e-12)
    np.testing.assert_allclose(measured.covariance_term, ((first**0.5 - second**0.5) ** 2).sum(), rtol=1e-11)
    self.assertEqual(measured.total, measured.mean_term + measured.covariance_term)

  def test_covariances_that_do_not_commute(self):
    first, second = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    measured = distance.distance(_gaussian([0, 0], first), _gaussian([3, 4], second))
    product = first @ second
    root_trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))  # of any 2x2 matrix
    self.assertAlmostEqual(measured.mean_term, 25.0, places=12)
    self.assertAlmostEqual(measured.covariance_term, 11 - 2 * root_trace, places=12)

  def test_singular_covariances(self):
    rng = np.random.default_rng(0)
    first, second = 30 * rng.standard_normal((2, 400))
    measured = distance.distance(*(distance.Gaussian(np.zeros(400), each[np.newaxis]) for each in (first, second)))
    expected = first @ first + second @ second - 2 * abs(first @ second)
    np.testing.assert_allclose(measured.covariance_term, expected, rtol=1e-11)

  @parameterized.parameters(3, 20, 900)
  def test_set_against_itself(self, num_clips):
    features = np.random.default_rng(0).normal(5, 30, (num_clips, 400)).astype(np.float32)
    measured = distance.distance(distance.fit(features), distance.fit(features[::-1]))
    self.assertLess(abs(measured.total), 1e-6)

  def test_sets_of_unequal_sizes(self):
    rng = np.random.default_rng(0)
    scales, shift = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -2.0])
    first = rng.standard_normal((40_000, 3))
    second = rng.standard_normal((15_000, 3)) * scales + shift
    forward = distance.distance(distance.fit(first), distance.fit(second))
    self.assertAlmostEqual(forward.mean_term, 4.25, delta=0.15)
    self.assertAlmostEqual(forward.covariance_term, 5.0, delta=0.15)
    self.assertAlmostEqual(distance.distance(distance.fit(second), distance.fit(first)).total, forward.total, places=10)

  def test_different_dimensions(self):
    first, second = (distance.fit(np.eye(size)) for size in (3, 4))
    with self.assertRaisesRegex(errors.I3dError, "3 and 4 values; they must be alike"):
      distance.distance(first, second)


class FitTest(parameterized.TestCase):
  def test_known_values(self):
    fitted = distance.fit(np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]]))
    np.testing.assert_array_equal(fitted.mean, [3, 4])
    np.testing.assert_allclose(fitted.covariance, [[4, 6], [6, 12]], rtol=1e-14)

  @parameterized.parameters(3, 50)
  def test_covariance_is_unbiased(self, num_clips):
    features = np.random.default_rng(0).standard_normal((num_clips, 6))
    np.testing.assert_allclose(distance.fit(features).covariance, np.cov(features.T), atol=1e-14)

  def test_is_in_double_precision(self):
    # In single precision neither the sum nor the square fits.
    features = np.float32(2**23) + np.arange(1000, dtype=np.float32)[:, np.newaxis]
    fitted = distance.fit(features)
    np.testing.assert_array_equal(fitted.mean, [2**23 + 499.5])
    np.testing.assert_allclose(fitted.covariance, [[1000 * 1001 / 12]], rtol=1e-13)

  @parameterized.parameters(0, 1)
  def test_too_few(self, num_clips):
    with self.assertRaisesRegex(errors.I3dError, f"at least 2 clips; there are {num_clips}"):
      distance.fit(np.zeros((num_clips, 4)))

  @parameterized.parameters(np.nan, np.inf)
  def test_not_finite(self, value):
    with self.assertRaisesRegex(errors.I3dError, "not finite"):
      distance.fit(np.array([[0.0], [value]]))


class FeatureSumsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.features = np.random.default_rng(0).normal(50, 3, (40, 6)).astype(np.float32)

  def _sums(self, *batches, keep=False):
    sums = distance.FeatureSums(keep=keep)
    for batch in batches:
      sums.update(batch)
    return sums

  def _assert_fits(self, sums, features):
    found, expected = sums.gaussian(), distance.fit(features)
    self.assertEqual(sums.count, len(features))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-11, atol=1e-12)
    self.assertLess(abs(distance.distance(found, expected).total), 1e-9)

  @parameterized.parameters([[40]], [[1, 39]], [[3, 0, 30, 7]], [[1] * 40])
  def test_batches_do_not_matter(self, sizes):
    batches = np.split(self.features, np.cumsum(sizes)[:-1])
    self._assert_fits(self._sums(*batches), self.features)

  def test_small_covariance_far_from_zero(self):
    features = 2.0**26 + np.arange(1000)[:, np.newaxis] * np.float64([1, 2])
    found = self._sums(*np.split(features, 10)).gaussian()
    np.testing.assert_allclose(found.covariance, 1000 * 1001 / 12 * np.array([[1, 2], [2, 4]]), rtol=1e-12)

  @parameterized.parameters(0, 1, 13, 40)
  def test_merged_parts_are_the_whole(self, split):
    first, second = self._sums(self.features[:split]), self._sums(self.features[split:])
    first.merge(second)
    self._assert_fits(first, self.features)
    self.assertEqual(second.count, 40 - split)

  @parameterized.parameters(False, True)
  def test_state_is_all(self, keep):
    sums = self._sums(self.features[:9], keep=keep)
    again = distance.FeatureSums.from_state(sums.state())
    again.update(self.features[9:])
    self._assert_fits(again, self.features)
    empty = distance.FeatureSums.from_state(self._sums(keep=keep).state())
    empty.update(self.features)
    self._assert_fits(empty, self.features)

  def test_kept_features_give_what_fit_gives_to_the_last_digit(self):
    sums = self._sums(self.features[:9], keep=True)
    sums.merge(self._sums(self.features[9:], keep=True))
    np.testing.assert_array_equal(sums.features, self.features)
    np.testing.assert_array_equal(sums.gaussian().factor, distance.fit(self.features).factor)
    self.assertIsNone(self._sums(self.features).features)

  def test_what_does_not_go_together(self):
    sums = self._sums(self.features)
    with self.assertRaisesRegex(errors.I3dError, "6 and 3 values; they must be alike"):
      sums.update(self.features[:, :3])
    with self.assertRaisesRegex(errors.I3dError, "6 and 3 values; they must be alike"):
      sums.merge(self._sums(self.features[:, :3]))
    with self.assertRaisesRegex(errors.I3dError, "has not kept its features"):
      self._sums(keep=True).merge(sums)
    with self.assertRaisesRegex(errors.I3dError, "not finite"):
      sums.update(np.full((1, 6), np.nan))
    with self.assertRaisesRegex(errors.I3dError, "at least 2 clips; there are 1"):
      self._sums(self.features[:1]).gaussian()


class BootstrapTest(parameterized.TestCase):
  def _sets(self, seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((40, 3)), rng.standard_normal((60, 3)) + shift

  def _figure(self, sets):
    return distance.distance(*map(distance.fit, sets)).total

  def test_spread_is_that_of_other_sets(self):
    figures = [self._figure(self._sets(seed)) for seed in range(1, 600)]
    intervals = [distance.bootstrap(*self._sets(seed), num_resamples=100, seed=0) for seed in range(10)]
    widths = [interval.high - interval.low for interval in intervals]
    low, high = np.quantile(figures, [0.025, 0.975])
    self.assertAlmostEqual(np.mean(widths) / (high - low), 1.0, delta=0.2)
    held = [interval.low < np.mean(figures) < interval.high for interval in intervals]
    self.assertGreaterEqual(sum(held), 8)

  def test_confidence_and_calls(self):
    sets, calls = self._sets(), []
    narrow, wide = (
      distance.bootstrap(*sets, num_resamples=60, seed=3, confidence=share, on_resample=lambda: calls.append(1))
      for share in (0.5, 0.9)
    )
    self.assertLen(calls, 120)
    self.assertLess(wide.low, narrow.low)
    self.assertGreater(wide.high, narrow.high)
    self.assertEqual(wide.excess, narrow.excess)
    self.assertGreater(wide.excess, 0)
    self.assertBetween(self._figure(sets), narrow.low, narrow.high)

  def test_seed_decides(self):
    sets = self._sets()
    first, again, other = (distance.bootstrap(*sets, num_resamples=20, seed=seed) for seed in (1, 1, 2))
    self.assertEqual(first, again)
    self.assertNotEqual(first, other)

  def test_is_never_negative(self):
    features = self._sets()[0]
    interval = distance.bootstrap(features, features, num_resamples=50, seed=0)
    self.assertEqual(interval.low, 0.0)
    self.assertGreater(interval.high, 0.0)

  @parameterized.parameters(({"num_resamples": 1}, "num_resamples is 1"), ({"confidence": 1.0}, "confidence is 1.0"))
  def test_numbers_out_of_range(self, given, sentence):
    with self.assertRaisesRegex(ValueError, sentence):
      distance.bootstrap(*self._sets(), **({"num_resamples": 5, "seed": 0} | given))


class FileTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.path = pathlib.Path(folder.name) / "set.npz"
    rng = np.random.default_rng(0)
    self.features = {stream: rng.standard_normal((6, size), np.float32) for stream, size in (("rgb", 4), ("flow", 3))}

  def _save(self, **more):
    file = io.BytesIO()
    distance.save(file, self.features | more, {"num_frames": 16, "fps": None})
    self.path.write_bytes(file.getvalue())

  def _assert_refused(self):
    with self.assertRaisesRegex(errors.I3dError, f"^{self.path}: these are not statistics that fvd wrote"):
      distance.load(self.path)

  def test_what_is_saved_is_loaded(self):
    self._save()
    features, facts = distance.load(self.path)
    self.assertEqual(facts, {"num_frames": 16, "fps": None})
    self.assertEqual(list(features), ["rgb", "flow"])
    for stream, values in self.features.items():
      np.testing.assert_array_equal(features[stream], values)
      self.assertEqual(features[stream].dtype, np.float32)

  def test_other_programs_find_mean_and_covariance(self):
    self._save()
    with np.load(self.path) as archive:
      np.testing.assert_allclose(archive["rgb_mean"], self.features["rgb"].mean(0), atol=1e-7)
      np.testing.assert_allclose(archive["flow_covariance"], np.cov(self.features["flow"].T), atol=1e-7)

  @parameterized.parameters(0, 1, 100, -100)
  def test_cut_off(self, num_bytes):
    self._save()
    self.path.write_bytes(self.path.read_bytes()[:num_bytes])
    self._assert_refused()

  def test_damaged(self):
    self._save()
    content = bytearray(self.path.read_bytes())
    place = content.index(self.features["rgb"].tobytes())
    content[place] ^= 1
    self.path.write_bytes(content)
    self._assert_refused()

  def test_sets_of_different_sizes(self):
    self._save(flow=np.zeros((5, 3), np.float32))
    self._assert_refused()

  @parameterized.named_parameters(
    ("archive_of_something_else", lambda file: np.savez(file, mean=np.zeros(3))),
    ("array", lambda file: np.save(file, np.zeros(3))),
    ("text", lambda file: file.write(b"mean: 3")),
    ("pickled", lambda file: np.savez(file, facts=np.array({"a": 1}, dtype=object))),
    ("no_features", lambda file: np.savez(file, facts=np.array("{}"))),
    ("facts_without_names", lambda file: np.savez(file, facts=np.array("3"), rgb_features=np.zeros((2, 3)))),
    ("features_of_one_clip", lambda file: np.savez(file, facts=np.array("{}"), rgb_features=np.zeros(3))),
    ("features_that_are_words", lambda file: np.savez(file, facts=np.array("{}"), rgb_features=np.array([["a"]]))),
  )
  def test_other_file(self, write):
    with open(self.path, "wb") as file:
      write(file)
    self._assert_refused()


if __name__ == "__main__":
  absltest.main()
