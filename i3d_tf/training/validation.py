"""Loss and accuracy on held-out videos while training: the centre clip of each."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.models import base
from i3d_tf.training import distribution
from i3d_tf.training import step as steps


class Validation:
  """Measures a network on all replicas."""

  def __init__(
    self,
    model: base.Network,
    strategy: tf.distribute.Strategy,
    source: pipeline.Source,
    clips: clip_config.TrainClips,
    *,
    batch_size: int,
    workers: distribution.Workers,
    tasks: Sequence[int],
  ):
    """Describes it; `tasks` are as `step.Step` takes them, of which the first is measured."""
    self._model = model
    self._strategy = strategy
    self._source = source
    self._streams = clips.streams
    self._tasks = tuple(tasks)
    # As many batches as make whole rounds of the replicas.
    dataset = lambda context: pipeline.center_clips(
        source, clips, batch_size=batch_size * strategy.num_replicas_in_sync, shards=(workers.index,),
        num_shards=workers.count,
    ).rebatch(batch_size, drop_remainder=True)  # fmt: skip
    self._batches = strategy.distribute_datasets_from_function(dataset)
    self._measure = tf.function(self._measure_everywhere, autograph=False)

  def measure(self, is_stopped: Callable[[], bool] = lambda: False) -> tuple[float, float] | None:
    """Mean cross-entropy and accuracy over all videos; None if `is_stopped` says so in between.

    Raises:
      I3dError: if not every video was measured exactly once.
    """
    totals = [0.0, 0.0, 0.0]
    for batch in self._batches:
      totals = [total + float(value) for total, value in zip(totals, self._measure(batch), strict=True)]
      if is_stopped():
        return None
    loss, correct, count = totals
    if count != self._source.num_records:
      raise errors.I3dError(
        f"{self._source.num_records - count:.0f} of {self._source.num_records} videos of the split "
        f"{self._source.split} cannot be read; inspect_records names them"
      )
    return loss / count, correct / count

  def _measure_everywhere(self, batch):
    parts = self._strategy.run(self._measure_on_replica, args=(batch,))
    return [self._strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for part in parts]

  def _measure_on_replica(self, batch):
    logits, _ = self._model(base.clip_of(pipeline.scaled(batch), self._streams), is_training=False)
    return tf.unstack(steps.clip_sums(logits, batch, tasks=self._tasks))
