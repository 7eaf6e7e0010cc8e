"""A linear classifier on features: its strength by cross-validation, its calibration, and its accuracy's worth."""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import optimize
from scipy import special
from scipy import stats
from sklearn import ensemble
from sklearn import linear_model
import threadpoolctl

from i3d_tf import errors
from i3d_tf.fitting import splits

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse weights of the L2 penalty, C of scikit-learn
_INNER_FOLDS, _FEW_FOLDS, _MANY_CLIPS = 5, 2, 1000  # of that many clips, two folds tell as much in a third of the time
_ABSENT = 20.0  # so far below the lowest bias is that of a class that was not trained, in nats
_TEMPERATURES = (0.2, 5.0)
_LEAST_ACCEPTED = 5  # predictions that a threshold must leave


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
  """A classifier: logits are features @ kernel + bias.

  Attributes:
    kernel: float64 `[channels, classes]`.
    bias: float64 `[classes]`.
    strength: Inverse weight of the penalty that was chosen; NaN where there were too few clips to choose.
    temperature: By what the logits were divided so that probabilities are calibrated; 1 likewise.
    losses: Cross-entropy in nats of the inner folds by strength.
  """

  kernel: np.ndarray
  bias: np.ndarray
  strength: float
  temperature: float
  losses: dict[float, float]

  def logits(self, features: np.ndarray) -> np.ndarray:
    """Returns logits `[N, classes]`.

    Args:
      features: `[N, channels]`.
    """
    return features.astype(np.float64) @ self.kernel + self.bias


@threadpoolctl.threadpool_limits.wrap(limits=1)  # small matrices; and the same sums on every machine
def fit(
  features: np.ndarray,
  labels: Sequence[int] | np.ndarray,
  groups: Sequence[str],
  *,
  num_classes: int,
  strengths: Sequence[float] = STRENGTHS,
  seed: int = 0,
) -> Head:
  """Fits a classifier; the strength of the penalty and the temperature are those that are best on inner folds.

  The classes count equally, however many clips they have.

  Args:
    features: `[N, channels]`.
    labels: Class index of each clip; at least two classes.
    groups: Group of each clip; none is on both sides of an inner fold.
    num_classes: Number of classes, with those without clips here, which get the lowest logits.
    strengths: Strengths to choose from.
    seed: Of the inner folds.

  Returns:
    The classifier, calibrated.

  Raises:
    I3dError: If there are clips of one class only.
  """
  labels = np.asarray(labels)
  if len(np.unique(labels)) < 2:
    raise errors.I3dError("there are clips of one class to train on; a classifier needs two")
  losses: dict[float, float] = {}
  held: dict[float, np.ndarray] = {}
  tested = np.zeros(len(labels), bool)
  if len(set(groups)) > 1:
    names = [str(index) for index in range(num_classes)]
    num_folds = _INNER_FOLDS if len(labels) <= _MANY_CLIPS else _FEW_FOLDS
    plan = splits.plan(labels.tolist(), names, groups, num_folds=num_folds, protocol="k_fold", seed=seed)
    folds = [fold for fold in plan.folds if len(np.unique(labels[list(fold.train)])) > 1]
    held = {strength: np.zeros((len(labels), num_classes)) for strength in strengths}
    for train, test in ((list(fold.train), list(fold.test)) for fold in folds):
      tested[test] = True
      for strength, (kernel, bias) in _solve(features[train], labels[train], num_classes, strengths).items():
        held[strength][test] = features[test] @ kernel + bias
    if tested.any():
      losses = {strength: _loss(logits[tested], labels[tested]) for strength, logits in held.items()}
  if not losses:  # one group, or one group a class
    kernel, bias = _solve(features, labels, num_classes, [strengths[-2]])[strengths[-2]]
    return Head(kernel, bias, math.nan, 1.0, {})
  best = min(losses, key=lambda strength: (round(losses[strength], 9), strength))
  temperature = _temperature(held[best][tested], labels[tested])
  kernel, bias = _solve(features, labels, num_classes, [best])[best]
  return Head(kernel / temperature, bias / temperature, best, temperature, losses)


def _solve(
  features: np.ndarray, labels: np.ndarray, num_classes: int, strengths: Sequence[float]
) -> dict[float, tuple[np.ndarray, np.ndarray]]:
  """The kernel and the bias of each strength.

  The features are standardised, and turned to the axes that the clips span, of which there are no more than clips: the
  penalty does not change, and what is solved is small.
  """
  features = features.astype(np.float64)
  mean, deviation = features.mean(axis=0), features.std(axis=0)
  deviation = np.where(
    deviation > 1e-6 * max(deviation.max(), 1e-12), deviation, np.inf
  )  # what never changes is left out
  scaled = (features - mean) / deviation
  left, lengths, axes = np.linalg.svd(scaled, full_matrices=False)
  is_used = lengths > 1e-9 * max(lengths[0], 1e-12)
  turned, axes = (left * lengths)[:, is_used], axes[is_used]
  present = np.unique(labels)
  found = {}
  model = linear_model.LogisticRegression(class_weight="balanced", max_iter=2000, tol=1e-5, warm_start=True)
  for strength in sorted(strengths):  # each starts from the one before
    model.set_params(C=strength)
    model.fit(turned if turned.shape[1] else np.zeros((len(labels), 1)), labels)
    weights, offsets = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn has one row for two classes, the difference of their logits
      weights, offsets = np.concatenate([-weights, weights]) / 2, np.concatenate([-offsets, offsets]) / 2
    kernel = np.zeros((features.shape[1], num_classes))
    if turned.shape[1]:
      kernel[:, present] = (weights @ axes).T / deviation[:, np.newaxis]
    bias = np.full(num_classes, offsets.min() - _ABSENT)
    bias[present] = offsets
    bias[present] -= mean @ kernel[:, present]
    absent = np.setdiff1d(np.arange(num_classes), present)
    if len(absent):  # below all others for whatever clip
      kernel[:, absent] = kernel[:, present].mean(axis=1, keepdims=True)
      bias[absent] = bias[present].mean() - _ABSENT
    found[strength] = kernel, bias
  return found


def _loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
  """Cross-entropy averaged over classes, with a little of each label spread, so that nothing gets infinitely sure."""
  logs = special.log_softmax(logits / temperature, axis=1)
  spread = 1 / (len(labels) + 2)
  each = -(1 - spread) * logs[np.arange(len(labels)), labels] - spread * logs.mean(axis=1)
  return float(np.mean([each[labels == label].mean() for label in np.unique(labels)]))


def _temperature(logits: np.ndarray, labels: np.ndarray) -> float:
  bounds = tuple(map(math.log, _TEMPERATURES))
  return math.exp(optimize.minimize_scalar(lambda log: _loss(logits, labels, math.exp(log)), bounds=bounds).x)


@threadpoolctl.threadpool_limits.wrap(limits=1)
def cross_validate(
  features: np.ndarray, labels: Sequence[int], groups: Sequence[str], plan: splits.Plan, *, num_classes: int, seed: int
) -> np.ndarray:
  """Returns the logits of every clip that is tested in a fold, `[N, classes]`; NaN of the others.

  Args:
    features: `[N, channels]`; clips with NaN have none, and get zeros, which tell nothing.
    labels: Class index of each clip.
    groups: Group of each clip.
    plan: The folds; in each one strength and temperature are chosen on its own clips to train on.
    num_classes: Number of classes.
    seed: Of the inner folds.
  """
  numbered = np.asarray(labels)
  logits = np.full((len(labels), num_classes), np.nan)
  is_there = np.isfinite(features).all(axis=1)
  for fold in plan.folds:
    logits[list(fold.test)] = 0.0
    train, test = ([index for index in side if is_there[index]] for side in (fold.train, fold.test))
    present = np.unique(numbered[train])
    if len(present) < 2:
      logits[test] = np.where(np.isin(np.arange(num_classes), present), 0.0, -_ABSENT * len(present))
      continue
    head = fit(features[train], numbered[train], [groups[i] for i in train], num_classes=num_classes, seed=seed)
    logits[test] = head.logits(features[test])
  return logits


def guess_from_facts(numbers: np.ndarray, labels: Sequence[int], plan: splits.Plan, *, num_classes: int) -> np.ndarray:
  """Returns log-probabilities of a classifier that sees what the files are and not what they show.

  A random forest on the size, length, rate and bytes of the files.

  Args:
    numbers: `[N, facts]`.
    labels: Class index of each clip.
    plan: The folds.
    num_classes: Number of classes.

  Returns:
    `[N, classes]`; NaN of clips that no fold tests.
  """
  numbered = np.asarray(labels)
  logs = np.full((len(labels), num_classes), np.nan)
  for fold in plan.folds:
    train, test = list(fold.train), list(fold.test)
    forest = ensemble.RandomForestClassifier(100, random_state=0, class_weight="balanced", min_samples_leaf=2)
    forest.fit(numbers[train], numbered[train])
    shares = np.zeros((len(test), num_classes))
    shares[:, forest.classes_] = forest.predict_proba(numbers[test])
    logs[test] = np.log((shares + 0.01) / (shares + 0.01).sum(axis=1, keepdims=True))
  return logs


def interval(is_right: np.ndarray, groups: Sequence[str]) -> tuple[float, float]:
  """Returns the 95 % interval of an accuracy (Wilson's).

  Clips of a group are right or wrong together, so that they tell less than as many clips by themselves: their number is
  divided by the design effect, the variance of the accuracy over groups to that over clips, if it is above 1.

  Args:
    is_right: `[N]`, whether each clip was recognised.
    groups: Group of each clip.
  """
  count, share = len(is_right), float(np.mean(is_right))
  _, numbers = np.unique(np.array(groups, object).astype(str), return_inverse=True)
  num_groups = numbers.max() + 1
  effect = 1.0
  if 1 < num_groups < count and 0 < share < 1:
    residuals = np.bincount(numbers, weights=np.asarray(is_right) - share)
    by_group = num_groups / (num_groups - 1) * np.sum(residuals**2) / count**2
    effect = max(1.0, by_group / (share * (1 - share) / count))
  found = stats.binomtest(round(share * count), count).proportion_ci(method="wilson") if effect == 1.0 else None
  if found is not None:
    return float(found.low), float(found.high)
  z, number = 1.959964, count / effect
  middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
  half = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / (1 + z**2 / number)
  return middle - half, middle + half


@dataclasses.dataclass(frozen=True)
class Threshold:
  """Above which confidence predictions are as often right as is wanted.

  Attributes:
    confidence: Probability of the best class.
    accuracy: Part of the predictions with at least this confidence that are right.
    share: Part of the clips that have one.
  """

  confidence: float
  accuracy: float
  share: float


def threshold(confidence: np.ndarray, is_right: np.ndarray, *, wanted: float) -> Threshold | None:
  """Returns the lowest confidence above which the accuracy is as wanted; None if there is none.

  Args:
    confidence: `[N]`, probability of each clip's best class.
    is_right: `[N]`, whether it is the label.
    wanted: Accuracy that is wanted.
  """
  order = np.argsort(-confidence, kind="stable")
  accuracy = np.cumsum(is_right[order]) / np.arange(1, len(order) + 1)
  is_last = np.append(confidence[order][:-1] > confidence[order][1:], True)  # of equal confidences
  enough = (accuracy >= wanted) & is_last & (np.arange(1, len(order) + 1) >= min(_LEAST_ACCEPTED, len(order)))
  if not enough.any():
    return None
  last = int(np.flatnonzero(enough)[-1])
  return Threshold(float(confidence[order[last]]), float(accuracy[last]), (last + 1) / len(order))
