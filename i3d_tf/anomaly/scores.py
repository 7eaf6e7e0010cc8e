"""What scores of frames are worth, and what they say: areas under curves, alerts, and a video that shows them."""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from sklearn import metrics

from i3d_tf import errors
from i3d_tf.models import preprocess
from i3d_tf.visualization import canvas
from i3d_tf.visualization import source

_WIDTH, _HEIGHT, _CURVE, _GAP = 760, 420, 190, 12  # pixels
_POINTS = 800  # of the drawn curve


def area(false_rates: np.ndarray, true_rates: np.ndarray) -> float:
  """Returns the area under a curve by trapezoids.

  Args:
    false_rates: X, increasing or decreasing, `[N]`.
    true_rates: Y, `[N]`.
  """
  return float(metrics.auc(np.ravel(false_rates), np.ravel(true_rates)))


def measure(scores: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[str, float]:
  """Returns 'auc', the area under the receiver operating characteristic over the frames of all videos, and 'ap'.

  The second is the average precision, as scikit-learn computes it: precision at each score, weighted by what recall
  gains there.

  Args:
    scores: Of each video's frames, `[frames]`.
    truth: Whether something unusual happens there, bool `[frames]`.

  Raises:
    I3dError: If all frames are of one kind.
  """
  values, labels = np.concatenate(list(scores)), np.concatenate(list(truth))
  if labels.all() or not labels.any():
    raise errors.I3dError(
      f"{'all' if labels.all() else 'none'} of the {len(labels)} frames are anomalous; both are needed"
    )
  return {
    "auc": float(metrics.roc_auc_score(labels, values)),
    "ap": float(metrics.average_precision_score(labels, values)),
  }


@dataclasses.dataclass(frozen=True)
class Alert:
  """A time in which the score is above the threshold.

  Attributes:
    start, end: in seconds.
    peak: the highest score.
    peak_time: where it is, in seconds.
  """

  start: float
  end: float
  peak: float
  peak_time: float


def find_alerts(scores: np.ndarray, fps: float, *, threshold: float, join: float = 1.0) -> list[Alert]:
  """Returns the times at which scores reach the threshold.

  Args:
    scores: Of each frame, `[frames]`.
    fps: Frames per second.
    threshold: The least score.
    join: Seconds of a pause that two alerts are joined over.
  """
  above = np.flatnonzero(scores >= threshold)
  runs = np.split(above, np.flatnonzero(np.diff(above) > 1 + round(join * fps)) + 1) if len(above) else []
  alerts = []
  for run in runs:
    first, last = int(run[0]), int(run[-1])
    peak = first + int(np.argmax(scores[first : last + 1]))
    start, end, peak_time = (round(frame / fps, 3) for frame in (first, last + 1, peak))
    alerts.append(Alert(start, end, round(float(scores[peak]), 6), peak_time))
  return alerts


def draw(
  path: str | os.PathLike,
  scores: np.ndarray,
  fps: float,
  write: Callable[[np.ndarray], None],
  *,
  threshold: float,
  progress: bool = False,
  **how: Any,
) -> None:
  """Draws a video with the score over its time, a line at the current frame, and a red rim where there is an alert.

  Args:
    path: The video.
    scores: Of each frame at `fps`, `[frames]`.
    fps: Frames per second of the scores.
    write: Takes the frames of the new video at 25 frames per second, RGB uint8 `[H, W, 3]`; see `encode.writing`.
    threshold: The least score of an alert, drawn as a line.
    progress: Whether to show progress on stderr.
    **how: Further arguments of `source.survey`.

  Raises:
    I3dError: If the video cannot be read whole.
  """
  video = source.survey(path, preprocess.Preprocess(short_side=256, crop=224), least_frames=1, **how)
  at = lambda seconds: scores[np.minimum((np.asarray(seconds) * fps).astype(int), len(scores) - 1)]
  times = np.linspace(0, video.seconds, min(_POINTS, 4 * video.num_frames))
  curves = np.stack([at(times), np.full(len(times), threshold)], axis=1)
  colors = [canvas.PALETTE[0], canvas.FAINT]
  timeline = canvas.Timeline(times, curves, colors, seconds=video.seconds, size=(_WIDTH, _CURVE), limits=(0, 1.02))
  legend = canvas.legend(["score", f"threshold {threshold:g}"], colors, width=_WIDTH)
  alerts = find_alerts(scores, fps, threshold=threshold)
  for index, frame in enumerate(source.progress_bar(video.frames(), "drawing", video.num_frames, shown=progress)):
    time = index / preprocess.FRAME_RATE
    score = float(at(time))
    is_alert = any(alert.start <= time < alert.end for alert in alerts)
    picture = canvas.fit(frame, width=_WIDTH, height=_HEIGHT)
    if is_alert:
      picture = _framed(picture)
    name = canvas.text(pathlib.Path(path).name, bold=True, size=16, height=28, max_width=_WIDTH - 260)
    clock = canvas.text(f"score {score:.3f}   {time:.2f} of {video.seconds:.2f} s", size=16, height=28)
    title = canvas.apart(name, clock, width=_WIDTH)
    picture = canvas.border(picture, left=(_WIDTH - picture.shape[1]) // 2)
    write(canvas.page([title, picture, legend, timeline.at(time, (time, time))], _GAP))


def _framed(picture: np.ndarray) -> np.ndarray:
  """The picture with a thick red rim."""
  framed = picture.copy()
  for side in (np.s_[:5], np.s_[-5:], np.s_[:, :5], np.s_[:, -5:]):
    framed[side] = (220, 30, 30)
  return framed
