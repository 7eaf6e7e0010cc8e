"""Where the replicas of a run are, and what ends a run from outside: signals, too little memory, lost workers."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import os
import signal
import threading

import tensorflow as tf

from i3d_tf import errors


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
  """Returns the strategy for this machine, or with TF_CONFIG for this worker among others.

  Call it before any operation of TensorFlow has run.

  Args:
    num_logical_cpus: Number of replicas on the CPU (of each worker one); 0: one on each GPU, or one on the CPU.

  Returns:
    The strategy, and the place of this process among those of the run.

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
