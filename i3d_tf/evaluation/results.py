"""Results as a table for people and as plain values for JSON."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from i3d_tf.evaluation import metrics as metrics_lib

COLUMNS = ("videos", "top-1", "top-5", "mean per class", "cross-entropy")
NONE = "-"  # a figure that there is none of


def cells(metrics: metrics_lib.Metrics) -> tuple[str, ...]:
  """The figures of `COLUMNS` as text; accuracies in percent."""
  percent = lambda value: NONE if value is None else f"{100 * value:.2f}"
  cross_entropy = NONE if metrics.cross_entropy is None else f"{metrics.cross_entropy:.4f}"
  accuracies = (percent(value) for value in (metrics.top1, metrics.top5, metrics.mean_per_class))
  return (str(metrics.num_videos), *accuracies, cross_entropy)


def table(measured: Mapping[str, metrics_lib.Metrics]) -> str:
  """A row a stream, accuracies in percent."""
  rows = [("stream", *COLUMNS), *((stream, *cells(metrics)) for stream, metrics in measured.items())]
  widths = [max(len("rgb+flow"), *(len(row[0]) for row in rows)), *(max(7, len(name)) for name in COLUMNS)]
  lines = [[row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))] for row in rows]
  return "\n".join("  ".join(line) for line in lines)


def plain(metrics: metrics_lib.Metrics, classes: Sequence[str]) -> dict[str, Any]:
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
      for label, other, count in metrics_lib.most_confused(metrics.confusion)
    ],
  }


def _finite(value: float | None) -> float | None:
  """JSON knows no infinity; a cross-entropy is infinite where a weight 0 leaves the label no probability."""
  return value if value is not None and math.isfinite(value) else None
