"""Logits over time, at the moments that the network's steps stand for: arithmetic without TensorFlow."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from i3d_tf.models import inception_spec as spec
from i3d_tf.models import receptive_field
from i3d_tf.video import decode


def step_times(endpoint: str, num_frames: int, *, stream: str = "rgb") -> np.ndarray:
  """When the steps of an endpoint are, in seconds `[steps]`: the middle of the frames that each sees.

  Frame k is at k / 25 s; a flow is half a frame later than the first of its two frames.
  """
  layers = spec.time_layers(endpoint)
  count = receptive_field.num_steps(layers, num_frames)
  seen = [receptive_field.seen(layers, (i, i + 1), num_frames) for i in range(count)]
  offset = 0.5 if stream == "flow" else 0.0
  return np.array([(first + end - 1) / 2 + offset for first, end in seen]) / decode.FRAME_RATE


@dataclasses.dataclass(frozen=True)
class Curve:
  """The logits of one stream over time.

  Attributes:
    times: of the steps, in seconds `[steps]`, rising.
    logits: `[steps, classes]`.
    field: seconds that a step sees.
  """

  times: np.ndarray
  logits: np.ndarray
  field: float

  def at(self, times: np.ndarray) -> np.ndarray:
    """The logits at any times `[N]`, `[N, classes]`: on straight lines between steps, as the nearest step beyond."""
    if len(self.times) == 1:
      return np.repeat(self.logits, len(times), axis=0)
    left = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, len(self.times) - 2)
    share = np.clip((times - self.times[left]) / (self.times[left + 1] - self.times[left]), 0, 1)[:, np.newaxis]
    return (1 - share) * self.logits[left] + share * self.logits[left + 1]

  @property
  def mean(self) -> np.ndarray:
    """The logits of the whole video `[classes]`, as `classify` gives them for one that it sees whole."""
    return self.logits.mean(axis=0)

  def seen(self, time: float) -> tuple[float, float]:
    """The first and the last second on which the value at `time` depends."""
    nearest = self.times[np.abs(self.times - time).argmin()]
    return nearest - self.field / 2, nearest + self.field / 2


def make(logits: np.ndarray, num_frames: int, stream: str) -> Curve:
  """The curve of a clip's StepLogits `[steps, classes]`; `num_frames` frames of RGB, or flows."""
  first, end = receptive_field.seen(spec.time_layers(spec.STEP_LOGITS), (0, 1), num_frames)
  field = (end - first) / decode.FRAME_RATE
  return Curve(step_times(spec.STEP_LOGITS, num_frames, stream=stream), logits, field)


def probabilities(curves: Sequence[Curve], times: np.ndarray) -> np.ndarray:
  """The softmax of the added logits of several streams at `times` `[N]`: `[N, classes]`."""
  logits = sum(curve.at(times) for curve in curves).astype(np.float64)
  exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
  return exponentials / exponentials.sum(axis=1, keepdims=True)
