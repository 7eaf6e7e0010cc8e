"""Metrics of classification: accuracies, cross-entropy, the confusion matrix and calibration; as a table and as JSON.

scikit-learn computes the confusion matrix and the recalls. Three metrics are our own because scikit-learn's differ:
`top_k_accuracy_score` ranks the higher of two classes with equal scores first, and we the lower, as argmax and
`classification.rank` do; `log_loss` takes probabilities and clips them, and we take their logarithms, which are exact
where a probability is too small for a float; `calibration_curve` leaves out empty bins and does not give counts.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any
import warnings

import numpy as np
from scipy import special
from sklearn import exceptions
from sklearn import metrics as sklearn_metrics
from sklearn import svm

from i3d_tf import errors

_TOP_K = 5
_NUM_BINS = 10  # of confidence


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
  """The metrics of one stream or of the fusion of two; accuracies are fractions in [0, 1].

  Attributes:
    num_videos: the number of videos measured.
    top1: the fraction of videos whose label has the highest score.
    top5: the fraction whose label has one of the five highest scores; None with fewer than five classes.
    mean_per_class: the recall of each class that has videos, averaged over these classes.
    cross_entropy: the mean of -log p(label), in nats; None for scores without probabilities.
    confusion: int64 `[classes, classes]`, the number of videos by label (row) and predicted class (column).
    accuracy_at: float64 `[classes]`, the top-k accuracy for k = 1, 2, ...
    calibration: None for scores without probabilities.
  """

  num_videos: int
  top1: float
  top5: float | None
  mean_per_class: float
  cross_entropy: float | None
  confusion: np.ndarray
  accuracy_at: np.ndarray
  calibration: "Calibration | None"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
  """Accuracy against confidence, the probability of the predicted class; arrays `[10]` over equal bins of [0, 1].

  Attributes:
    counts: the number of videos in each bin.
    confidence: the mean confidence in each bin; NaN for an empty bin.
    accuracy: the accuracy in each bin; NaN for an empty bin.
    expected_error: the expected calibration error, which is |accuracy - confidence| averaged over the videos.
  """

  counts: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray
  expected_error: float


def measure(scores: np.ndarray, labels: np.ndarray, *, log_probabilities: np.ndarray | None) -> Metrics:
  """Returns all metrics of a set of videos.

  Args:
    scores: `[N, classes]`; a higher score is a better one, whatever its unit.
    labels: `[N]`, class indices; at least one.
    log_probabilities: `[N, classes]`, natural logarithms, ordered as the scores are; None if there are none.

  Raises:
    ValueError: if there are no videos, or a label is not a class index.
  """
  num_videos, num_classes = scores.shape
  if not num_videos:
    raise ValueError("there are no scores to measure")
  if labels.shape != (num_videos,) or labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(f"labels of shape {labels.shape} in [{labels.min()}, {labels.max()}] for scores {scores.shape}")
  accuracy_at = np.cumsum(np.bincount(_label_ranks(scores, labels), minlength=num_classes)) / num_videos
  predicted = np.argmax(scores, axis=1)
  confusion = sklearn_metrics.confusion_matrix(labels, predicted, labels=np.arange(num_classes))
  cross_entropy = calibration = None
  if log_probabilities is not None:
    each = np.arange(num_videos)
    cross_entropy = float(-np.mean(log_probabilities[each, labels]))
    calibration = _calibrate(np.exp(log_probabilities[each, predicted]), predicted == labels)
  return Metrics(
    num_videos=num_videos,
    top1=float(accuracy_at[0]),
    top5=float(accuracy_at[_TOP_K - 1]) if num_classes >= _TOP_K else None,
    mean_per_class=float(sklearn_metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro")),
    cross_entropy=cross_entropy,
    confusion=confusion,
    accuracy_at=accuracy_at,
    calibration=calibration,
  )


def _label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The number of classes ranked before the label, `[N]`: 0 where the label is predicted."""
  own = np.take_along_axis(scores, labels[:, np.newaxis], axis=1)
  is_lower = np.arange(scores.shape[1]) < labels[:, np.newaxis]
  return np.sum((scores > own) | ((scores == own) & is_lower), axis=1)


def margins(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns the label's score minus the best other class's, float64 `[N]`: negative where another is predicted.

  Args:
    scores: `[N, classes]`.
    labels: `[N]`, class indices.
  """
  each = np.arange(len(labels))
  others = scores.astype(np.float64)
  others[each, labels] = -np.inf
  return scores[each, labels] - others.max(axis=1)


def per_class(confusion: np.ndarray) -> np.ndarray:
  """Returns the recall of each class, float64 `[classes]`; NaN for a class without videos.

  Args:
    confusion: `[classes, classes]`, with labels as rows.
  """
  counts = confusion.sum(axis=1)
  return np.divide(np.diag(confusion), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _calibrate(confidence: np.ndarray, is_right: np.ndarray) -> Calibration:
  """Bins confidences `[N]` in [0, 1] and compares them with whether each prediction is right."""
  bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
  counts = np.bincount(bins, minlength=_NUM_BINS)
  mean = lambda values: np.divide(
    np.bincount(bins, weights=values, minlength=_NUM_BINS), counts, out=np.full(_NUM_BINS, np.nan), where=counts > 0
  )
  accuracy, mean_confidence = mean(is_right), mean(confidence)
  error = np.nansum(counts * np.abs(accuracy - mean_confidence)) / len(confidence)
  return Calibration(counts=counts, confidence=mean_confidence, accuracy=accuracy, expected_error=float(error))


def most_confused(confusion: np.ndarray) -> list[tuple[int, int, int]]:
  """Returns (label, predicted class, number of videos) of every kind of mistake, the most frequent first.

  Args:
    confusion: `[classes, classes]`, with labels as rows.
  """
  mistakes = confusion * ~np.eye(len(confusion), dtype=bool)
  found = [(int(label), int(other), int(mistakes[label, other])) for label, other in zip(*np.nonzero(mistakes))]
  return sorted(found, key=lambda mistake: (-mistake[2], mistake[:2]))


COLUMNS = ("videos", "top-1", "top-5", "mean per class", "cross-entropy")
NONE = "-"  # for a metric that is not defined


def cells(metrics: Metrics) -> tuple[str, ...]:
  """Returns the metrics of `COLUMNS` as text, accuracies in percent.

  Args:
    metrics: of one stream.
  """
  percent = lambda value: NONE if value is None else f"{100 * value:.2f}"
  cross_entropy = NONE if metrics.cross_entropy is None else f"{metrics.cross_entropy:.4f}"
  accuracies = (percent(value) for value in (metrics.top1, metrics.top5, metrics.mean_per_class))
  return (str(metrics.num_videos), *accuracies, cross_entropy)


def table(measured: Mapping[str, Metrics]) -> str:
  """Returns the lines of a table of metrics with one row a stream, accuracies in percent.

  Args:
    measured: metrics by stream.
  """
  rows = [("stream", *COLUMNS), *((stream, *cells(metrics)) for stream, metrics in measured.items())]
  widths = [max(len("rgb+flow"), *(len(row[0]) for row in rows)), *(max(7, len(name)) for name in COLUMNS)]
  lines = [[row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))] for row in rows]
  return "\n".join("  ".join(line) for line in lines)


def plain(metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
  """Converts metrics for JSON; the confusion matrix becomes the counts of each class and the list of its mistakes.

  Args:
    metrics: of one stream.
    classes: names in index order.

  Returns:
    Plain values; accuracies are fractions in [0, 1].
  """
  counts = metrics.confusion.sum(axis=1)
  right = metrics.confusion.diagonal()
  calibration = metrics.calibration
  return {
    "videos": metrics.num_videos,
    "top1": metrics.top1,
    "top5": metrics.top5,
    "mean_per_class": metrics.mean_per_class,
    "cross_entropy": _finite(metrics.cross_entropy),
    "calibration_error": None if calibration is None else calibration.expected_error,
    "per_class": [
      {"class": name, "videos": int(count), "right": int(good), "accuracy": good / count if count else None}
      for name, count, good in zip(classes, counts, right)
    ],
    "confused": [
      {"class": classes[label], "taken_for": classes[other], "videos": count}
      for label, other, count in most_confused(metrics.confusion)
    ],
  }


def _finite(value: float | None) -> float | None:
  """None for infinity, which JSON lacks; a fusion weight of 0 can leave the label a probability of 0."""
  return value if value is not None and math.isfinite(value) else None


@dataclasses.dataclass(frozen=True, eq=False)
class ClassScores:
  """Scores by which classes are ranked.

  Attributes:
    scores: float64 `[N, classes]`.
    log_probabilities: float64 `[N, classes]`; None for scores that are not probabilities, such as an SVM's.
  """

  scores: np.ndarray
  log_probabilities: np.ndarray | None


def from_logits(logits: np.ndarray) -> ClassScores:
  """Returns logits as scores, in double precision, with the logarithms of their softmax.

  Args:
    logits: `[N, classes]`, of one stream or fused.
  """
  logits = logits.astype(np.float64)
  return ClassScores(logits, special.log_softmax(logits, axis=-1))


def add_logits(*logits: np.ndarray, weights: Sequence[float] | None = None) -> ClassScores:
  """Returns N streams fused by the sum of N w logits, which is the sum of their logits where the weights w are equal.

  The sum is that of google-deepmind/kinetics-i3d evaluate_sample.py; the weights are our addition.

  Args:
    *logits: of each stream, `[N, classes]`.
    weights: of each stream, which add up to 1; None: equal ones.

  Raises:
    I3dError: if a weight is negative, or they do not add up to 1.
  """
  weights = _checked(weights, len(logits))
  parts = [len(logits) * weight * each.astype(np.float64) for weight, each in zip(weights, logits, strict=True)]
  return from_logits(np.sum(parts, axis=0))


def average_softmax(*logits: np.ndarray, weights: Sequence[float] | None = None) -> ClassScores:
  """Returns the weighted mean of the streams' softmax ("averages predictions", arXiv 1705.07750, section 2.5).

  Args:
    *logits: of each stream, `[N, classes]`.
    weights: of each stream, which add up to 1; None: equal ones.

  Raises:
    I3dError: if a weight is negative, or they do not add up to 1.
  """
  weights = _checked(weights, len(logits))
  logs = [special.log_softmax(each.astype(np.float64), axis=-1) for each in logits]
  log_probabilities = special.logsumexp(logs, axis=0, b=np.reshape(weights, (-1, 1, 1)))
  return ClassScores(log_probabilities, log_probabilities)


def train_svm(logits: Sequence[np.ndarray], labels: np.ndarray) -> Callable[..., ClassScores]:
  """Trains a multi-class linear SVM on the streams' stacked L2-normalised softmax scores (arXiv 1406.2199, section 5).

  One class against the rest, by scikit-learn's LinearSVC with C = 1; the paper does not give its C.

  Args:
    logits: of each stream, `[N, classes]` of the training split.
    labels: `[N]`.

  Returns:
    A function of as many streams' logits that returns the signed distances to the classes' planes as scores, -inf for a
    class that the training split lacks.

  Raises:
    I3dError: if the training split has fewer than two classes, or the SVM does not converge.
  """
  if len(np.unique(labels)) < 2:
    raise errors.I3dError("an SVM needs training scores of at least two classes")
  machine = svm.LinearSVC(random_state=0, max_iter=100_000)
  with warnings.catch_warnings():
    warnings.simplefilter("error", exceptions.ConvergenceWarning)
    try:
      machine.fit(_stack(*logits), labels)
    except exceptions.ConvergenceWarning as warning:
      raise errors.I3dError(f"the SVM on the training scores does not converge: {warning}") from None

  def apply(*logits: np.ndarray) -> ClassScores:
    decisions = machine.decision_function(_stack(*logits))
    if decisions.ndim == 1:  # scikit-learn's form for two classes
      decisions = np.stack([-decisions, decisions], axis=1)
    scores = np.full((len(decisions), logits[0].shape[1]), -np.inf)
    scores[:, machine.classes_] = decisions
    return ClassScores(scores, None)

  return apply


def _stack(*logits: np.ndarray) -> np.ndarray:
  """The streams' softmax scores, each of L2 norm 1, side by side: `[N, streams * classes]`."""
  probabilities = [np.exp(special.log_softmax(each.astype(np.float64), axis=-1)) for each in logits]
  return np.concatenate([each / np.linalg.norm(each, axis=1, keepdims=True) for each in probabilities], axis=1)


def _checked(weights: Sequence[float] | None, count: int) -> Sequence[float]:
  """The weights of so many streams."""
  if weights is None:
    return [1 / count] * count
  if not (min(weights) >= 0 and abs(sum(weights) - 1) < 1e-6):
    raise errors.I3dError(f"weights are {', '.join(map(str, weights))}; they must be at least 0 and add up to 1")
  return weights
