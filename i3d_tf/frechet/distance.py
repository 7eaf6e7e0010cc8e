"""The Frechet distance between two sets of feature vectors, each taken as a Gaussian, in double precision.

NumPy's LAPACK routines do the arithmetic. Imports no TensorFlow.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
from typing import Any, BinaryIO

import numpy as np

from i3d_tf import errors
from i3d_tf import files

CONFIDENCE = 0.95
_FACTS = "facts"
_FEATURES = "_features"


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """A Gaussian given by its mean and a factor of its covariance.

  Attributes:
    mean: float64 `[D]`.
    factor: F, float64 `[K, D]`; the covariance is F'F and may be singular.
  """

  mean: np.ndarray
  factor: np.ndarray

  @property
  def covariance(self) -> np.ndarray:
    """F'F, `[D, D]`."""
    return self.factor.T @ self.factor


@dataclasses.dataclass(frozen=True)
class Distance:
  """A Frechet distance.

  Attributes:
    mean_term: |m1 - m2|^2.
    covariance_term: tr(S1 + S2 - 2 (S1 S2)^1/2).
  """

  mean_term: float
  covariance_term: float

  @property
  def total(self) -> float:
    """The distance, at least 0, below which rounding may take the sum of the terms."""
    return max(0.0, self.mean_term + self.covariance_term)


@dataclasses.dataclass(frozen=True)
class Interval:
  """The interval in which the distance between as many other clips is expected.

  Attributes:
    low: its lower end, at least 0.
    high: its upper end.
    excess: the mean of the resampled sets' distances minus the distance.
  """

  low: float
  high: float
  excess: float


class FeatureSums:
  """Count, mean and covariance of feature vectors that come in batches, perhaps on several machines.

  The covariance is kept as a triangular factor, which a QR decomposition updates: sums of squares, and the root of
  their product in the distance, would lose half of the digits of small distances. The result does not depend on the
  batches beyond rounding.
  """

  def __init__(self, *, keep: bool = False):
    """Starts with no vectors.

    Args:
      keep: whether to keep the vectors themselves, which resampling needs; the Gaussian is then `fit`'s.
    """
    self.count = 0
    self._mean = np.zeros(0)
    self._factor = np.zeros((0, 0))  # R of the centred vectors
    self._kept: list[np.ndarray] | None = [] if keep else None

  @property
  def features(self) -> np.ndarray | None:
    """All vectors `[N, D]`; None if they are not kept."""
    return np.concatenate(self._kept) if self._kept else None

  def update(self, features: np.ndarray) -> None:
    """Adds vectors.

    Args:
      features: `[N, D]`.

    Raises:
      I3dError: if a value is not finite, or D differs from before.
    """
    _check_finite(features)
    self._check_size(features.shape[1])
    if self._kept is not None:
      self._kept.append(np.array(features))
      self.count += len(features)
    elif len(features):
      features = features.astype(np.float64)
      mean = features.mean(axis=0)
      self._combine(len(features), mean, features - mean)

  def merge(self, other: "FeatureSums") -> None:
    """Adds the vectors of another object, for example those of another part of the set.

    Args:
      other: what to add; it is not changed.

    Raises:
      I3dError: if its vectors have another size, or this keeps vectors and the other does not.
    """
    if self._kept is not None and other._kept is None:
      raise errors.I3dError("the other set has not kept its features; keep them on both sides or on neither")
    if other._kept is not None:
      for features in other._kept:
        self.update(features)
    elif other.count:
      self._check_size(len(other._mean))
      self._combine(other.count, other._mean, other._factor)

  def gaussian(self, *, unbiased: bool = True) -> Gaussian:
    """Returns mean and covariance.

    Args:
      unbiased: whether the covariance is over N - 1, and not over N.

    Raises:
      I3dError: for fewer than two vectors.
    """
    if self._kept:
      return fit(np.concatenate(self._kept), unbiased=unbiased)
    _check_count(self.count)
    return Gaussian(self._mean, self._factor / np.sqrt(self.count - unbiased))

  def state(self) -> dict[str, np.ndarray]:
    """Returns everything as arrays: 'features' if they are kept, else 'count', 'mean' and 'factor' of the scatter."""
    if self._kept is not None:
      return {"features": np.concatenate(self._kept) if self._kept else np.zeros((0, 0))}
    return {"count": np.array(self.count), "mean": self._mean.copy(), "factor": self._factor.copy()}

  @classmethod
  def from_state(cls, state: Mapping[str, np.ndarray]) -> "FeatureSums":
    """Returns an object equal to that of which `state` was called.

    Args:
      state: arrays by name.
    """
    sums = cls(keep="features" in state)
    if "features" in state:
      if len(state["features"]):
        sums.update(state["features"])
    else:
      sums.count = int(state["count"])
      sums._mean, sums._factor = (np.array(state[name], np.float64) for name in ("mean", "factor"))
    return sums

  def _check_size(self, size: int) -> None:
    known = self._kept[0].shape[1] if self._kept else len(self._mean)
    if self.count and size != known:
      raise errors.I3dError(f"the features have {known} and {size} values; they must be alike")

  def _combine(self, count: int, mean: np.ndarray, rows: np.ndarray) -> None:
    """Adds vectors by their count, their mean and rows whose squares sum to their scatter (Chan et al. 1979)."""
    if not self.count:
      self._mean, self._factor = np.zeros_like(mean), np.zeros((0, len(mean)))
    total = self.count + count
    shift = mean - self._mean
    between = np.sqrt(self.count * count / total) * shift
    self._factor = _triangular(np.concatenate([self._factor, rows, between[np.newaxis]]))
    self._mean = self._mean + shift * (count / total)
    self.count = total


def fit(features: np.ndarray, *, unbiased: bool = True) -> Gaussian:
  """Returns the Gaussian of feature vectors.

  Args:
    features: `[N, D]`.
    unbiased: whether the covariance is over N - 1 (google-research/frechet_video_distance), and not over N
      (universome/stylegan-v).

  Raises:
    I3dError: for fewer than two vectors, or values that are not finite.
  """
  features = np.asarray(features, np.float64)
  _check_count(len(features))
  _check_finite(features)
  mean = features.mean(axis=0)
  return Gaussian(mean, _triangular(features - mean) / np.sqrt(len(features) - unbiased))


def _triangular(rows: np.ndarray) -> np.ndarray:
  """A triangular R with R'R of the rows' scatter."""
  return np.asarray(np.linalg.qr(rows, mode="r"))


def _check_count(count: int) -> None:
  if count < 2:
    raise errors.I3dError(f"a covariance needs at least 2 clips; there are {count}")


def _check_finite(features: np.ndarray) -> None:
  if not np.isfinite(features).all():
    raise errors.I3dError("some features are not finite; check the checkpoint")


def distance(first: Gaussian, second: Gaussian) -> Distance:
  """Returns the Frechet distance between two Gaussians.

  Args:
    first: one of them.
    second: the other.

  Raises:
    I3dError: if they have different dimensions.
  """
  if first.mean.shape != second.mean.shape:
    raise errors.I3dError(f"the features have {first.mean.size} and {second.mean.size} values; they must be alike")
  # S1 S2 = F1'(F1 F2')F2 has the eigenvalues of (F1 F2')(F1 F2')', so that tr (S1 S2)^1/2 is the sum of the singular
  # values of F1 F2'. This forms neither a square nor a root, which would halve the digits of what is near zero.
  singular_values = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False)
  traces = np.square(first.factor).sum() + np.square(second.factor).sum()
  return Distance(float(np.square(first.mean - second.mean).sum()), float(traces - 2 * singular_values.sum()))


def bootstrap(
  first: np.ndarray,
  second: np.ndarray,
  *,
  num_resamples: int,
  seed: int,
  confidence: float = CONFIDENCE,
  unbiased: bool = True,
  on_resample: Callable[[], None] = lambda: None,
) -> Interval:
  """Returns an interval for the distance between two sets of features, by resampling both.

  A resampled set repeats some vectors and lacks others, which makes every distance larger, so that plain quantiles may
  lie wholly above the distance: of 20 values and 60 and 100 vectors, the quantiles of 95 % never held the distance's
  expectation. They are moved down by the mean excess, which leaves their spread (then they held it in 99 of 100), and
  cut off at 0.

  Args:
    first: `[N, D]`.
    second: `[M, D]`.
    num_resamples: the number of pairs of sets to draw, at least 2.
    seed: of the draws.
    confidence: the share of resampled distances between the interval's ends.
    unbiased: as of `fit`.
    on_resample: called after each pair.

  Raises:
    I3dError: as `fit` and `distance`.
    ValueError: for a number out of range.
  """
  if num_resamples < 2:
    raise ValueError(f"num_resamples is {num_resamples}; it must be at least 2")
  if not 0 < confidence < 1:
    raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
  rng = np.random.default_rng(seed)
  drawn = lambda features: features[rng.integers(len(features), size=len(features))]
  between = lambda one, other: distance(fit(one, unbiased=unbiased), fit(other, unbiased=unbiased)).total
  figure = between(first, second)
  totals = []
  for _ in range(num_resamples):
    totals.append(between(drawn(first), drawn(second)))
    on_resample()
  excess = float(np.mean(totals)) - figure
  low, high = np.quantile(totals, [(1 - confidence) / 2, (1 + confidence) / 2]) - excess
  return Interval(max(0.0, float(low)), float(high), excess)


def save(file: BinaryIO, features: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
  """Writes sets of features to an .npz file.

  For each name it has the arrays NAME_features, which `load` reads, and for other programs NAME_mean and
  NAME_covariance as `fit` computes them.

  Args:
    file: open for writing.
    features: `[N, D]` by name.
    facts: what they are; JSON values.

  Raises:
    I3dError: as `fit`.
  """
  arrays: dict[str, Any] = {_FACTS: np.array(json.dumps(facts))}
  for name, values in features.items():
    gaussian = fit(values)
    arrays |= {name + _FEATURES: values, f"{name}_mean": gaussian.mean, f"{name}_covariance": gaussian.covariance}
  np.savez(file, **arrays)


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns the features by name and the facts of a file that `save` wrote.

  Args:
    path: the file.

  Raises:
    I3dError: if it is not such a file, or it is damaged.
    OSError: if it cannot be read.
  """
  damaged = errors.I3dError(f"{path}: these are not statistics that fvd wrote, or they are damaged")
  try:
    archive = files.read_arrays(path)
    facts = files.read_facts(archive, _FACTS, path)
  except errors.I3dError:
    raise damaged from None
  arrays = {name.removesuffix(_FEATURES): values for name, values in archive.items() if name.endswith(_FEATURES)}
  alike = {values.ndim == 2 and np.issubdtype(values.dtype, np.floating) for values in arrays.values()} == {True}
  if (
    not alike or len({len(values) for values in arrays.values()}) != 1 or not isinstance(facts.get("weights", {}), dict)
  ):
    raise damaged
  if infinite := [name for name, values in arrays.items() if not np.isfinite(values).all()]:
    raise errors.I3dError(f"{path}: the features of {infinite[0]} are not finite; make the statistics again")
  return arrays, facts
