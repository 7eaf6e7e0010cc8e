"""The batches of a run on all replicas, of one data set or of two, and which of their records cannot be read."""

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.training import config
from i3d_tf.training import distribution


class Sources:
  """The records that a run trains on and validates on.

  Attributes:
    training: Sources of every data set; the network is for the classes of the first.
    validation: Source of the validation split, or None.
    sizes: Number of classes of every data set.
  """

  def __init__(self, run: config.TrainConfig, clips: clip_config.TrainClips):
    """Opens the records.

    Args:
      run: Folders and splits.
      clips: Clips, which say what the records must hold.

    Raises:
      I3dError: if records do not hold what is needed.
    """
    stored = clip_config.stored(clips)
    self.training = [pipeline.open_source(run.records, run.split, streams=stored)]
    if run.second_records:
      self.training.append(pipeline.open_source(run.second_records, run.second_split, streams=stored))
    self.validation = None
    if run.validation_split:
      self.validation = pipeline.open_source(run.records, run.validation_split, streams=stored)
      if self.validation.classes != self.training[0].classes:
        raise errors.I3dError(f"{self.training[0].path}: the splits have different class lists")
    for source in self.training:
      if not source.classes:
        raise errors.I3dError(f"{source.path} has no class list; prepare_dataset writes one, in dataset.json")
    self.sizes = [len(source.classes) for source in self.training]

  def __str__(self) -> str:
    return " and ".join(
      f"{source.num_records} {source.split} videos of {size} classes"
      for source, size in zip(self.training, self.sizes, strict=True)
    )


def train_batches(
  sources: Sources,
  run: config.TrainConfig,
  clips: clip_config.TrainClips,
  strategy: tf.distribute.Strategy,
  workers: distribution.Workers,
  *,
  first_batch: int,
) -> Iterator:
  """Returns per-replica batches of `pipeline.train_batches`; they are a function of the seed and the position.

  Args:
    sources: Records.
    run: Batch size, seed, and how the work is divided.
    clips: What is taken from each record.
    strategy: Replicas that the batches are for.
    workers: Place of this process among those of the run.
    first_batch: Number of batches of each replica that come before.

  Raises:
    I3dError: if the records cannot be divided among the workers.
  """
  num_shards = run.data_shards or workers.count
  if num_shards % workers.count:
    raise errors.I3dError(f"data_shards is {num_shards}; it must be a multiple of the {workers.count} workers")
  own = num_shards // workers.count
  batches = lambda source: pipeline.train_batches(
      source, clips, batch_size=run.batch_size // len(sources.training) * workers.count, seed=run.seed,
      first_batch=first_batch * strategy.num_replicas_in_sync // workers.count,
      shards=tuple(range(workers.index * own, (workers.index + 1) * own)), num_shards=num_shards,
      data_service=run.data_service or None,
  )  # fmt: skip
  dataset = lambda _: merge([batches(source) for source in sources.training], sources.sizes)
  return iter(strategy.distribute_datasets_from_function(dataset))


def merge(datasets: Sequence[tf.data.Dataset], sizes: Sequence[int]) -> tf.data.Dataset:
  """Returns batches that hold a batch of each data set one after the other.

  Args:
    datasets: Batches of each data set.
    sizes: Number of classes of each; labels are counted on from one data set to the next, as `step.own_logits` wants.
  """
  if len(datasets) == 1:
    return datasets[0]

  def join(*batches):
    first, parts = 0, []
    for batch, size in zip(batches, sizes, strict=True):
      parts.append({**batch, "label": batch["label"] + first})
      first += size
    return {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}

  return tf.data.Dataset.zip(tuple(datasets)).map(join)


def texts(batches: Sequence[Any], key: str, strategy: tf.distribute.Strategy) -> list[str]:
  """Returns the ids or errors of the examples that this worker has of some batches.

  Args:
    batches: Per-replica batches.
    key: 'id' or 'error'.
    strategy: Strategy of the replicas.
  """
  return [
    value.decode(errors="backslashreplace")
    for batch in batches
    for part in strategy.experimental_local_results(batch[key])
    for value in part.numpy().tolist()
  ]
