"""Computes requests one batch after the other: those that wait for the same function are computed together."""

from collections.abc import Callable, Mapping
from concurrent import futures
import dataclasses
import queue
import threading
import time
from typing import Any

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import serving

Arrays = Mapping[str, np.ndarray]
_FRAMES_AT_ONCE = 250  # of all clips of a batch, as `classifier.LoadedNetwork.endpoints` has it


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
  """A request: what is computed of which inputs, and where the result goes."""

  function: Callable[..., Mapping[str, tf.Tensor]]
  inputs: Arrays
  until: float  # on the monotonic clock
  future: futures.Future

  @property
  def count(self) -> int:
    """Clips."""
    return len(next(iter(self.inputs.values())))

  @property
  def kind(self) -> tuple:
    """What is equal of tasks that can be computed together."""
    return self.function, tuple((name, each.dtype.str, each.shape[1:]) for name, each in sorted(self.inputs.items()))


class Batcher:
  """One thread that computes, and a queue of bounded length before it."""

  def __init__(
    self,
    *,
    capacity: int,
    max_batch: int,
    delay: float,
    on_batch: Callable[[int, float], None] = lambda count, seconds: None,
  ):
    """Starts the thread.

    Args:
      capacity: Requests that may wait.
      max_batch: Clips that are computed together, at most.
      delay: Seconds that a request waits for others.
      on_batch: Called with the clips of a batch and the seconds that it took.
    """
    self._queue: queue.Queue[_Task | None] = queue.Queue(capacity)
    self._held: list[_Task] = []
    self._max_batch, self._delay, self._on_batch = max_batch, delay, on_batch
    self._thread = threading.Thread(target=self._serve, name="batches", daemon=True)
    self._thread.start()

  @property
  def waiting(self) -> int:
    """Requests that wait."""
    return self._queue.qsize() + len(self._held)

  def submit(self, function: Callable[..., Mapping[str, Any]], inputs: Arrays, *, seconds: float) -> futures.Future:
    """Has a function of clips computed.

    Args:
      function: Takes inputs by name as keyword arguments, whose first axis is that of clips, and returns outputs by
        name, likewise. Requests for the same function are computed together if their clips are of one shape.
      inputs: The arrays.
      seconds: After which the result is not wanted any more.

    Returns:
      The outputs to come, numpy arrays by name.

    Raises:
      Busy: If the queue is full.
    """
    task = _Task(function, inputs, time.monotonic() + seconds, futures.Future())
    try:
      self._queue.put_nowait(task)
    except queue.Full:
      raise serving.Busy("the service is busy; try again later") from None
    return task.future

  def close(self) -> None:
    """Ends the thread after what it computes at the moment."""
    self._queue.put(None)
    self._thread.join()

  def _serve(self) -> None:
    while (batch := self._next()) is not None:
      batch = [task for task in batch if self._is_wanted(task)]
      if batch:
        self._compute(batch)

  def _next(self) -> list[_Task] | None:
    """The tasks to compute together: the one that waits longest, and others of its kind."""
    first = self._held.pop(0) if self._held else self._queue.get()
    if first is None:
      return None
    batch, count = [first], first.count
    most = min(self._max_batch, _batch_of(first.inputs))
    until = time.monotonic() + self._delay
    for task in list(self._held):
      if task.kind == first.kind and count + task.count <= most:
        self._held.remove(task)
        batch.append(task)
        count += task.count
    while count < most and not self._held:
      try:
        following = self._queue.get(timeout=max(0.0, until - time.monotonic()))
      except queue.Empty:
        break
      if following is None:
        self._queue.put(None)  # for the next turn
        break
      if following.kind == first.kind and count + following.count <= most:
        batch.append(following)
        count += following.count
      else:
        self._held.append(following)
    return batch

  def _is_wanted(self, task: _Task) -> bool:
    if not task.future.set_running_or_notify_cancel():
      return False
    if time.monotonic() > task.until:
      task.future.set_exception(serving.Late("the request waited longer than it may; try again later"))
      return False
    return True

  def _compute(self, batch: list[_Task]) -> None:
    start = time.monotonic()
    try:
      together = {name: np.concatenate([task.inputs[name] for task in batch]) for name in batch[0].inputs}
      outputs = _run(batch[0].function, together, max(task.until for task in batch))
    except Exception as error:
      if len(batch) > 1:  # one of them may have spoilt it for all
        for task in batch:
          self._compute([task])
      else:
        batch[0].future.set_exception(_described(error))
      return
    self._on_batch(sum(task.count for task in batch), time.monotonic() - start)
    first = 0
    for task in batch:
      task.future.set_result({name: value[first : first + task.count] for name, value in outputs.items()})
      first += task.count


def _batch_of(inputs: Arrays) -> int:
  """How many clips are computed at once, so that memory is bounded."""
  frames = max((each.shape[1] for each in inputs.values() if each.ndim > 1), default=1)
  return max(1, _FRAMES_AT_ONCE // max(1, frames))


def _run(function: Callable[..., Mapping[str, tf.Tensor]], inputs: Arrays, until: float) -> dict[str, np.ndarray]:
  step, count = _batch_of(inputs), len(next(iter(inputs.values())))
  parts = []
  for start in range(0, count, step):
    if time.monotonic() > until:
      raise serving.Late("the request takes longer than it may; send fewer or shorter clips")
    found = function(**{name: tf.constant(each[start : start + step]) for name, each in inputs.items()})
    parts.append({name: value.numpy() for name, value in found.items()})
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _described(error: Exception) -> Exception:
  """An error of TensorFlow as one sentence."""
  if isinstance(error, tf.errors.ResourceExhaustedError | MemoryError):
    return serving.Unavailable("there is not enough memory for these clips at the moment; send fewer or shorter ones")
  if isinstance(error, tf.errors.OpError | ValueError) and not isinstance(error, errors.I3dError):
    return errors.I3dError(f"the network does not take these clips: {errors.first_line(error)[:300]}")
  return error
