"""Where the replicas of a run are, and what ends a run from outside: signals, too little memory, lost workers."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import json
import os
import signal
import threading
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline


@dataclasses.dataclass(frozen=True)
class Workers:
  """This process among those of the run; `index` 0 is the chief, which writes the run's folder."""

  index: int
  count: int

  @property
  def is_chief(self) -> bool:
    """Whether this process writes the folder of the run."""
    return self.index == 0


def make_strategy(num_logical_cpus: int = 0) -> tuple[tf.distribute.Strategy, Workers]:
  """Returns the strategy for this machine, or with TF_CONFIG for this worker among others, and this process's place.

  Call it before any operation of TensorFlow has run.

  Args:
    num_logical_cpus: Number of replicas on the CPU (of each worker one); 0: one on each GPU, or one on the CPU.

  Raises:
    I3dError: for a TF_CONFIG that cannot be used.
  """
  workers = _read_tf_config()
  if workers is not None:
    # NCCL between GPUs, else a ring; TensorFlow chooses by the devices.
    return tf.distribute.MultiWorkerMirroredStrategy(), workers
  if num_logical_cpus:
    cpus = tf.config.list_physical_devices("CPU")
    if len(tf.config.get_logical_device_configuration(cpus[0]) or ()) != num_logical_cpus:
      tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * num_logical_cpus)
    devices = [f"CPU:{index}" for index in range(num_logical_cpus)]
    return tf.distribute.MirroredStrategy(devices), Workers(0, 1)
  return tf.distribute.MirroredStrategy(), Workers(0, 1)


def _read_tf_config() -> Workers | None:
  """This worker's place by TF_CONFIG, which MultiWorkerMirroredStrategy reads, too; None if it is not set."""
  text = os.environ.get("TF_CONFIG")
  if not text:
    return None
  try:
    config = json.loads(text)
    cluster, task = config["cluster"], config["task"]
    kind, index = task["type"], int(task["index"])
    order = [(name, place) for name in ("chief", "worker") for place in range(len(cluster.get(name, ())))]
    return Workers(order.index((kind, index)), len(order))
  except (ValueError, LookupError, TypeError, AttributeError):
    raise errors.I3dError(
      f'TF_CONFIG is {text!r}; it must be like {{"cluster": {{"worker": ["host1:port", "host2:port"]}}, '
      '"task": {"type": "worker", "index": 0}}, with this worker among those of the cluster'
    ) from None


@contextlib.contextmanager
def on_signals(ask_to_stop: Callable[[signal.Signals], None]) -> Iterator[None]:
  """Makes SIGTERM and SIGINT ask to stop, and do nothing else, while the body runs.

  Python handles signals in the main thread only; in others nothing changes.

  Args:
    ask_to_stop: called with the signal.

  Yields:
    Nothing.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  handler = lambda number, _: ask_to_stop(signal.Signals(number))
  old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, before in old.items():
      signal.signal(number, before)


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """Turns TensorFlow's errors that users can mend into sentences.

  Yields:
    Nothing.

  Raises:
    I3dError: in place of them.
  """
  try:
    yield
  except tf.errors.ResourceExhaustedError as error:
    raise errors.I3dError(
      f"there is too little memory ({errors.first_line(error)}); a smaller batch_size with more "
      "accumulation_steps, or recompute, takes less"
    ) from None
  except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
    raise errors.I3dError(
      f"another worker, or the tf.data service, is gone ({errors.first_line(error)}); start all workers again, "
      "and they go on from the last checkpoint"
    ) from None


def max_pool_gradient_is_right(dtype: str = "float32") -> bool:
  """Returns whether equal maxima in a window share its gradient in place of each getting all of it.

  TensorFlow's own CPU kernel of the 3D pool's gradient gets this wrong; the oneDNN, CUDA and XLA ones are right.
  ReLUs make ties common, so that a network trained with the wrong one is taught something else. Checks the kernel
  that a `tf.function` uses here, on two overlapping windows of ones.

  Args:
    dtype: Type that the network computes in.
  """

  @tf.function
  def total_gradient(inputs):  # an argument, not a constant, which would be folded by the CPU's kernel
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      outputs = tf.nn.max_pool3d(inputs, 3, 2, "SAME")
    return tf.reduce_sum(tape.gradient(outputs, inputs))

  outputs = 2 * 2 * 2 * 8
  return int(total_gradient(tf.ones([1, 4, 4, 4, 8], dtype))) == outputs


class Sources:
  """The records that a run trains on and validates on.

  Attributes:
    training: Sources of every data set; the network is for the classes of the first.
    validation: Source of the validation split, or None.
    sizes: Number of classes of every data set.
  """

  def __init__(
    self, run: training.TrainConfig, clips: clip_config.TrainClips, trained: clip_config.TrainClips | None = None
  ):
    """Opens the records.

    Args:
      run: Folders and splits.
      clips: Clips, which say what the records must hold.
      trained: Those of training, where a teacher sees more of them; None: the same.

    Raises:
      I3dError: if records do not hold what is needed.
    """
    stored = clip_config.stored(clips)
    classes = resources.class_list(run.class_list) if run.class_list else ()
    seen = clip_config.stored(trained or clips)
    self.training = [pipeline.open_source(run.records, run.split, streams=seen, classes=classes)]
    if run.second_records:
      self.training.append(pipeline.open_source(run.second_records, run.second_split, streams=stored))
    self.validation = None
    if run.validation_split:
      self.validation = pipeline.open_source(run.records, run.validation_split, streams=stored, classes=classes)
      if self.validation.classes != self.training[0].classes:
        raise errors.I3dError(f"{self.training[0].path}: the splits have different class lists")
    for source in self.training:
      if not source.classes:
        raise errors.I3dError(
          f"{source.path} has no class list, which prepare_dataset writes, in dataset.json; give one as class_list"
        )
      pipeline.warn_of_enlarging(source, clips)
    self.sizes = [len(source.classes) for source in self.training]

  def __str__(self) -> str:
    return " and ".join(
      f"{source.num_records} {source.split} videos of {size} classes"
      for source, size in zip(self.training, self.sizes, strict=True)
    )


def train_batches(
  sources: Sources,
  run: training.TrainConfig,
  clips: clip_config.TrainClips,
  strategy: tf.distribute.Strategy,
  workers: Workers,
  *,
  first_batch: int,
  views: int = 1,
) -> Iterator:
  """Returns per-replica batches of `pipeline.train_batches`; they are a function of the seed and the position.

  Args:
    sources: Records.
    run: Batch size, seed, and how the work is divided.
    clips: What is taken from each record.
    strategy: Replicas that the batches are for.
    workers: Place of this process among those of the run.
    first_batch: Number of batches of each replica that come before.
    views: Clips of each video, side by side.

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
      data_service=run.data_service or None, views=views,
  )  # fmt: skip
  dataset = lambda _: merge([batches(source) for source in sources.training], sources.sizes)
  return iter(strategy.distribute_datasets_from_function(dataset))


def merge(datasets: Sequence[tf.data.Dataset], sizes: Sequence[int]) -> tf.data.Dataset:
  """Returns batches that hold a batch of each data set one after the other.

  Args:
    datasets: Batches of each data set.
    sizes: Number of classes of each; labels are counted on from one data set to the next: `objectives.own_logits`.
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
