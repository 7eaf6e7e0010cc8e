"""What is said of two sets of embeddings: FVD and, beside it, KVD, the FVD of endless sets, precision and recall.

Everything is in double precision. Imports no TensorFlow.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

import numpy as np
from scipy.spatial import distance as pairs_lib

from i3d_tf import errors
from i3d_tf import flow as flow_lib
from i3d_tf.frechet import distance
from i3d_tf.frechet import protocols

NEIGHBOURS = 3  # Kynkaanniemi et al., arXiv 1904.06991, section 3
_ROWS = 512  # of a matrix of all pairs that are held at once
# FVD of ever larger parts of both sets, from this fraction on. Chong and Forsyth take 15 sizes from a tenth on; a tenth
# of 2,048 clips is too little for 400 dimensions: there the bias is not proportional to 1 / N, as the line supposes.
_LEAST_FRACTION = 0.5
_SIZES = 5
_ORDERS = 3
_GROUPS = 8  # that are left out in turn for the error of the extrapolation


@dataclasses.dataclass(frozen=True)
class Estimate:
  """An estimate.

  Attributes:
    value: the estimate.
    error: its standard error.
  """

  value: float
  error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
  """What was measured beside FVD; None where it was not asked for.

  Attributes:
    kvd: the squared maximum mean discrepancy under the cubic kernel; unbiased, so that it may be negative.
    fvd_infinity: FVD extrapolated to endless sets; unlike FVD it hardly depends on the number of clips.
    precision: the share of generated clips that lie where real ones do.
    recall: the share of real clips that lie where generated ones do.
  """

  kvd: Estimate | None = None
  fvd_infinity: Estimate | None = None
  precision: float | None = None
  recall: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FvdResult:
  """The distance between two sets of clips, and what it depends on.

  Attributes:
    distances: by stream; empty if there were no generated clips.
    intervals: by stream; None without resampling.
    measures: by stream.
    clips: the numbers of 'real' and 'generated' clips.
    failed: the numbers of videos of each set that could not be used.
    weights: CRC-32 by stream.
    protocol: which clips were taken.
    num_frames: of a clip.
    seed: drew clips and resampled sets.
    flow: method and parameters of the optical flow, if there is any.
    remarks: what makes the figure doubtful or not comparable, a sentence each.
  """

  distances: Mapping[str, distance.Distance]
  intervals: Mapping[str, distance.Interval | None]
  clips: Mapping[str, int]
  failed: Mapping[str, int]
  weights: Mapping[str, str]
  num_frames: int | None
  measures: Mapping[str, Measures] = dataclasses.field(default_factory=dict)
  protocol: protocols.Protocol = protocols.PROTOCOLS["tf_reference"]
  seed: int = 0
  flow: str = flow_lib.DEFAULT
  remarks: tuple[str, ...] = ()

  @property
  def fvd(self) -> float:
    """The Frechet Video Distance: that of RGB, or of flow alone."""
    return next(iter(self.distances.values())).total

  @property
  def fps(self) -> float | None:
    """Frames per second at which videos were read; None: each at its own rate."""
    return self.protocol.fps


def measure(
  real: np.ndarray, generated: np.ndarray, *, names: Sequence[str], seed: int = 0, unbiased: bool = True
) -> Measures:
  """Returns some measures of two sets of embeddings.

  Args:
    real: `[N, D]`.
    generated: `[M, D]`.
    names: of `protocols.MEASURES`.
    seed: draws the parts for the extrapolation.
    unbiased: as of `distance.fit`.

  Raises:
    I3dError: if a set is too small for a measure.
  """
  has = lambda name: name in names
  precision, recall = precision_and_recall(real, generated) if has("precision_recall") else (None, None)
  return Measures(
    kvd=kernel_distance(real, generated) if has("kvd") else None,
    fvd_infinity=extrapolate(real, generated, seed=seed, unbiased=unbiased) if has("fvd_infinity") else None,
    precision=precision,
    recall=recall,
  )


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> Estimate:
  """Returns the kernel video distance (KVD): the unbiased squared MMD under the kernel (x.y / D + 1)^3.

  The kernel is that of the kernel inception distance (Binkowski et al., arXiv 1801.01401, section 4) and of KVD
  (songweige/TATS tats/fvd/fvd.py). All pairs are taken, as there; NVlabs/stylegan2-ada-pytorch averages 100 subsets of
  up to 1,000, which estimates the same. The error is the jackknife's: each clip is left out in turn.

  Args:
    real: `[N, D]`.
    generated: `[M, D]`.

  Raises:
    I3dError: if a set has fewer than three vectors.
  """
  x, y = np.asarray(real, np.float64), np.asarray(generated, np.float64)
  _check_count(min(len(x), len(y)), 3, "KVD")
  within_x, within_y = (_kernel_sums(each, each) - _kernel_of_itself(each) for each in (x, y))
  across_x, across_y = _kernel_sums(x, y), _kernel_sums(y, x)
  n, m = len(x), len(y)
  sums = within_x.sum(), within_y.sum(), across_x.sum()
  formula = lambda xx, yy, xy, n, m: xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
  without_x = formula(sums[0] - 2 * within_x, sums[1], sums[2] - across_x, n - 1, m)
  without_y = formula(sums[0], sums[1] - 2 * within_y, sums[2] - across_y, n, m - 1)
  return Estimate(float(formula(*sums, n, m)), float(np.hypot(_jackknife(without_x), _jackknife(without_y))))


def _kernel_sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Of each x the sum of the kernel over all y."""
  rows = [np.sum((x[start : start + _ROWS] @ y.T / x.shape[1] + 1) ** 3, axis=1) for start in range(0, len(x), _ROWS)]
  return np.concatenate(rows)


def _kernel_of_itself(x: np.ndarray) -> np.ndarray:
  return (np.square(x).sum(axis=1) / x.shape[1] + 1) ** 3


def _jackknife(values: np.ndarray) -> float:
  """The standard error of an estimate, of which these are the values with one part left out in turn (Efron 1982)."""
  count = len(values)
  return float(np.sqrt((count - 1) / count * np.square(values - values.mean()).sum()))


def extrapolate(real: np.ndarray, generated: np.ndarray, *, seed: int = 0, unbiased: bool = True) -> Estimate:
  """Returns FVD extrapolated to endless sets: the line through FVD against 1 / N, at 0.

  The idea is FID's extrapolation (Chong and Forsyth, arXiv 1911.07023; mchong6/FID_IS_infinity score_infinity.py),
  which shrinks the generated set only, since its real one is large. Here both sets shrink alike, so that the bias of
  either is taken away. The error is the jackknife's: each of 8 groups of clips is left out in turn.

  Args:
    real: `[N, D]`.
    generated: `[M, D]`.
    seed: draws the parts.
    unbiased: as of `distance.fit`.

  Raises:
    I3dError: if a set has fewer than 16 vectors.
  """
  _check_count(min(len(real), len(generated)), 2 * _GROUPS, "fvd_infinity")
  rng = np.random.default_rng(seed)
  orders = [[rng.permutation(len(each)) for each in (real, generated)] for _ in range(_ORDERS)]
  without = lambda order, group: order[order % _GROUPS != group]
  pairs = lambda group: [(real[without(x, group)], generated[without(y, group)]) for x, y in orders]
  left_out = [_intercept(pairs(group), unbiased) for group in range(_GROUPS)]
  return Estimate(_intercept(pairs(_GROUPS), unbiased), _jackknife(np.array(left_out)))


def _intercept(shuffled: Sequence[tuple[np.ndarray, np.ndarray]], unbiased: bool) -> float:
  """FVD at 1 / N = 0, by the line through its values of parts of the sets, which come in several orders."""
  fit = lambda features: distance.fit(features, unbiased=unbiased)
  between = lambda x, y: distance.distance(fit(x), fit(y)).total
  points = [(1.0, between(*shuffled[0]))] * len(shuffled)  # the whole sets, whatever their order
  points += [(1 / fraction, between(*parts)) for parts, fraction in _parts(shuffled)]
  inverse, distances = np.array(points).T
  return float(np.polyfit(inverse, distances, 1)[1])


def _parts(
  shuffled: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], float]]:
  """The first part of each pair of sets, of several sizes less than the whole, and its fraction."""
  for x, y in shuffled:
    for fraction in np.linspace(_LEAST_FRACTION, 1, _SIZES)[:-1]:
      yield (x[: round(fraction * len(x))], y[: round(fraction * len(y))]), float(fraction)


def precision_and_recall(
  real: np.ndarray, generated: np.ndarray, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
  """Returns improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

  A set covers the balls around its vectors that reach to the k-th nearest other one; precision is the share of
  generated vectors that the real set covers, recall the share of real ones that the generated set covers.

  Args:
    real: `[N, D]`.
    generated: `[M, D]`.
    neighbours: k.

  Raises:
    I3dError: if a set has no more than `neighbours` vectors.
  """
  x, y = np.asarray(real, np.float64), np.asarray(generated, np.float64)
  _check_count(min(len(x), len(y)), neighbours + 1, "precision_recall")
  return _covered(y, x, neighbours), _covered(x, y, neighbours)


def _covered(probes: np.ndarray, support: np.ndarray, neighbours: int) -> float:
  """The share of probes in a ball of the support; cdist gives 0 for equal vectors, a product of matrices need not."""
  nearest = lambda rows: np.partition(pairs_lib.cdist(rows, support), neighbours, axis=1)[:, neighbours]
  cut = lambda values: (values[start : start + _ROWS] for start in range(0, len(values), _ROWS))
  radii = np.concatenate([nearest(rows) for rows in cut(support)])  # the 0-th nearest is the vector itself
  return float(np.mean(np.concatenate([(pairs_lib.cdist(rows, support) <= radii).any(axis=1) for rows in cut(probes)])))


def _check_count(count: int, least: int, name: str) -> None:
  if count < least:
    raise errors.I3dError(f"{name} needs at least {least} clips of each set; one has {count}")
