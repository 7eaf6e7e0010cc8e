"""How well scores fit labels: accuracies, cross-entropy, the confusion matrix and calibration.

Of classes with equal scores that of the lower index is first, as in `classification.rank`.

Results as a table for people and as plain values for JSON.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

TOP_K = 5
NUM_BINS = 10  # of confidence


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
  """Of one stream, or of their fusion; accuracies are fractions in [0, 1].

  Attributes:
    num_videos: how many were measured.
    top1: fraction whose label has the highest score.
    top5: fraction whose label is among the five highest; None with fewer than five classes.
    mean_per_class: mean over the classes that have videos of the fraction recognised of each.
    cross_entropy: mean of -log p(label), in nats; None for scores that are no probabilities.
    confusion: int64 `[classes, classes]`, the number of videos by label (row) and predicted class (column).
    accuracy_at: float64 `[classes]`, the fraction whose label is among the k highest, for k = 1, 2, ...
    calibration: None for scores that are no probabilities.
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
  """What confidence, the probability of the predicted class, is worth; arrays `[NUM_BINS]` over equal bins of [0, 1].

  Attributes:
    counts: videos in each bin.
    confidence, accuracy: means in each bin; NaN where it is empty.
    expected_error: mean over the videos of their bin's |accuracy - confidence|.
  """

  counts: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray
  expected_error: float


def measure(scores: np.ndarray, labels: np.ndarray, *, log_probabilities: np.ndarray | None) -> Metrics:
  """Measures `scores` `[N, classes]` against `labels` `[N]`, integers from 0.

  Args:
    scores: the higher the better; what they mean does not matter.
    labels: at least one.
    log_probabilities: `[N, classes]`, natural logarithms, in the order of the scores; None if there are none.

  Raises:
    ValueError: for no videos, or labels that are no class.
  """
  num_videos, num_classes = scores.shape
  if not num_videos:
    raise ValueError("there are no scores to measure")
  if labels.shape != (num_videos,) or labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(f"labels of shape {labels.shape} in [{labels.min()}, {labels.max()}] for scores {scores.shape}")
  places = label_places(scores, labels)
  accuracy_at = np.cumsum(np.bincount(places, minlength=num_classes)) / num_videos
  predicted = np.argmax(scores, axis=1)
  confusion = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(confusion, (labels, predicted), 1)
  cross_entropy = calibration = None
  if log_probabilities is not None:
    each = np.arange(num_videos)
    cross_entropy = float(-np.mean(log_probabilities[each, labels]))
    calibration = calibrate(np.exp(log_probabilities[each, predicted]), predicted == labels)
  return Metrics(
    num_videos=num_videos,
    top1=float(accuracy_at[0]),
    top5=float(accuracy_at[TOP_K - 1]) if num_classes >= TOP_K else None,
    mean_per_class=float(np.nanmean(per_class(confusion))),
    cross_entropy=cross_entropy,
    confusion=confusion,
    accuracy_at=accuracy_at,
    calibration=calibration,
  )


def label_places(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """How many classes stand before the label's, `[N]`: 0 where the label is predicted."""
  own = np.take_along_axis(scores, labels[:, np.newaxis], axis=1)
  is_lower = np.arange(scores.shape[1]) < labels[:, np.newaxis]
  return np.sum((scores > own) | ((scores == own) & is_lower), axis=1)


def margins(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The label's score less the best other's, `[N]`: negative where another class is predicted."""
  each = np.arange(len(labels))
  others = scores.astype(np.float64)
  others[each, labels] = -np.inf
  return scores[each, labels] - others.max(axis=1)


def per_class(confusion: np.ndarray) -> np.ndarray:
  """The fraction recognised of each class `[classes]`; NaN for a class without videos."""
  counts = confusion.sum(axis=1)
  return np.divide(np.diag(confusion), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def calibrate(confidence: np.ndarray, is_right: np.ndarray) -> Calibration:
  """Compares confidences `[N]` in [0, 1] with whether the predictions were right."""
  bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
  counts = np.bincount(bins, minlength=NUM_BINS)
  mean = lambda values: np.divide(
    np.bincount(bins, weights=values, minlength=NUM_BINS), counts, out=np.full(NUM_BINS, np.nan), where=counts > 0
  )
  accuracy, mean_confidence = mean(is_right), mean(confidence)
  error = np.nansum(counts * np.abs(accuracy - mean_confidence)) / len(confidence)
  return Calibration(counts=counts, confidence=mean_confidence, accuracy=accuracy, expected_error=float(error))


def most_confused(confusion: np.ndarray) -> list[tuple[int, int, int]]:
  """(label, predicted class, videos) of every kind of error, the most frequent first."""
  errors = confusion * ~np.eye(len(confusion), dtype=bool)
  found = [(int(label), int(other), int(errors[label, other])) for label, other in zip(*np.nonzero(errors))]
  return sorted(found, key=lambda error: (-error[2], error[:2]))


COLUMNS = ("videos", "top-1", "top-5", "mean per class", "cross-entropy")
NONE = "-"  # a figure that there is none of


def cells(metrics: Metrics) -> tuple[str, ...]:
  """The figures of `COLUMNS` as text; accuracies in percent."""
  percent = lambda value: NONE if value is None else f"{100 * value:.2f}"
  cross_entropy = NONE if metrics.cross_entropy is None else f"{metrics.cross_entropy:.4f}"
  accuracies = (percent(value) for value in (metrics.top1, metrics.top5, metrics.mean_per_class))
  return (str(metrics.num_videos), *accuracies, cross_entropy)


def table(measured: Mapping[str, Metrics]) -> str:
  """A row a stream, accuracies in percent."""
  rows = [("stream", *COLUMNS), *((stream, *cells(metrics)) for stream, metrics in measured.items())]
  widths = [max(len("rgb+flow"), *(len(row[0]) for row in rows)), *(max(7, len(name)) for name in COLUMNS)]
  lines = [[row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))] for row in rows]
  return "\n".join("  ".join(line) for line in lines)


def plain(metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
  """For JSON; accuracies are fractions, and the confusion matrix is what was right of each class and what was not."""
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
  """JSON knows no infinity; a cross-entropy is infinite where a weight 0 leaves the label no probability."""
  return value if value is not None and math.isfinite(value) else None
