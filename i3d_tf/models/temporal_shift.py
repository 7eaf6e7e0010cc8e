"""Temporal shift: some channels of every frame come from the frame after it or before it (arXiv 1811.08383)."""

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm


@snt.allow_empty_variables
class TemporalShift(snt.Module):
  """Moves an Nth of the channels one step back in time and as many one step ahead; `fold` is N.

  Of C channels the first C // N are those of the next step, the next C // N those of the step before, and the rest
  stay; what lies beyond the clip is 0 (mit-han-lab/temporal-shift-module, ops/temporal_shift.py). It has no variables.
  """

  def __init__(self, fold: int = 8, *, name: str = "shift"):
    super().__init__(name=name)
    self._fold = fold

  def build(self, in_channels: int) -> int:
    return in_channels

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    moved = inputs.shape[-1] // self._fold
    later, earlier, same = tf.split(inputs, [moved, moved, -1], axis=-1)
    later = tf.pad(later[:, 1:], [(0, 0), (0, 1), (0, 0), (0, 0), (0, 0)])
    earlier = tf.pad(earlier[:, :-1], [(0, 0), (1, 0), (0, 0), (0, 0), (0, 0)])
    return tf.concat([later, earlier, same], axis=-1)
