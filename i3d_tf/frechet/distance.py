"""The Frechet distance between two sets of feature vectors, each taken as a Gaussian; in double precision.

NumPy's LAPACK routines do all of it. Imports no TensorFlow.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
from typing import Any, BinaryIO
import zipfile

import numpy as np

from i3d_tf import errors

CONFIDENCE = 0.95
_FACTS = "facts"
_FEATURES = "_features"


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """A mean float64 `[D]`, and a factor F float64 `[K, D]` of the covariance, which is F'F and may be singular."""

  mean: np.ndarray
  factor: np.ndarray

  @property
  def covariance(self) -> np.ndarray:
    return self.factor.T @ self.factor


@dataclasses.dataclass(frozen=True)
class Distance:
  """|m1 - m2|^2 and tr(S1 + S2 - 2 (S1 S2)^1/2), whose sum is the distance."""

  mean_term: float
  covariance_term: float

  @property
  def total(self) -> float:
    return self.mean_term + self.covariance_term


@dataclasses.dataclass(frozen=True)
class Interval:
  """Where the distance of as many other clips is expected, and the mean excess of resampled sets' distances over it."""

  low: float
  high: float
  excess: float


def fit(features: np.ndarray) -> Gaussian:
  """The mean and the unbiased covariance (over N - 1, as google-research/frechet_video_distance) of `[N, D]`.

  Raises:
    I3dError: for fewer than two vectors, or values that are not finite.
  """
  features = np.asarray(features, np.float64)
  if len(features) < 2:
    raise errors.I3dError(f"a covariance needs at least 2 clips; there are {len(features)}")
  if not np.isfinite(features).all():
    raise errors.I3dError("some features are not finite; check the checkpoint")
  mean = features.mean(axis=0)
  return Gaussian(mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1))


def distance(first: Gaussian, second: Gaussian) -> Distance:
  """The Frechet distance of two Gaussians.

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
  on_resample: Callable[[], None] = lambda: None,
) -> Interval:
  """An interval for the distance between two sets of features `[N, D]`, `[M, D]`, by resampling both.

  A resampled set repeats some vectors and lacks others, which makes every distance larger, so that plain quantiles may
  lie wholly above the distance: of 20 values and 60 and 100 vectors, the quantiles of 95 % never held the distance's
  expectation. They are moved down by the mean excess, which leaves their spread (then they held it in 99 of 100), and
  cut off at 0.

  Args:
    num_resamples: how many pairs of sets to draw, at least 2.
    seed: of the draws.
    confidence: the share of resampled distances between the interval's ends.
    on_resample: called after each.

  Raises:
    I3dError: as `fit` and `distance`.
    ValueError: for a number out of range.
  """
  if num_resamples < 2:
    raise ValueError(f"num_resamples is {num_resamples}; it must be at least 2")
  if not 0 < confidence < 1:
    raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
  rng = np.random.default_rng(seed)
  resample = lambda features: fit(features[rng.integers(len(features), size=len(features))])
  figure = distance(fit(first), fit(second)).total
  totals = []
  for _ in range(num_resamples):
    totals.append(distance(resample(first), resample(second)).total)
    on_resample()
  excess = float(np.mean(totals)) - figure
  low, high = np.quantile(totals, [(1 - confidence) / 2, (1 + confidence) / 2]) - excess
  return Interval(max(0.0, float(low)), float(high), excess)


def save(file: BinaryIO, features: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
  """Writes sets of features `[N, D]` by name, and what they are, as an .npz; see `workdir.replacing`.

  For each name it has the arrays NAME_features, which is what `load` reads, and for other programs NAME_mean and
  NAME_covariance as `fit` gives them. `facts` are anything that JSON can say.

  Raises:
    I3dError: as `fit`.
  """
  arrays = {}
  for name, values in features.items():
    gaussian = fit(values)
    arrays |= {name + _FEATURES: values, f"{name}_mean": gaussian.mean, f"{name}_covariance": gaussian.covariance}
  np.savez(file, **{_FACTS: np.array(json.dumps(facts))}, **arrays)


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The features by name and the facts that `save` wrote.

  Raises:
    I3dError: if the file is not one of these.
    OSError: if it cannot be read.
  """
  try:
    with np.load(path, allow_pickle=False) as archive:
      facts = json.loads(archive[_FACTS].item())
      arrays = {name.removesuffix(_FEATURES): archive[name] for name in archive.files if name.endswith(_FEATURES)}
    alike = {values.ndim == 2 and np.issubdtype(values.dtype, np.floating) for values in arrays.values()} == {True}
    if isinstance(facts, dict) and alike and len({len(values) for values in arrays.values()}) == 1:
      return arrays, facts
  # An array file that is no archive has no `with`, and an array of other things no `item`.
  except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
    pass
  raise errors.I3dError(f"{path}: these are not statistics that fvd --save_stats wrote, or they are damaged")
