"""A run's state on disk, to go on from exactly: weights, slots, step, schedule.

What ends a run from outside: signals, a lack of memory, and other processes that are gone.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
import pathlib
import shutil
import signal
import tempfile

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.training import distribution

FOLDER = "checkpoints"


class Progress(tf.train.experimental.PythonState):
  """What is to be remembered beside variables.

  The order of the clips is a function of the seed and the step, so the step is also the position of the input.

  Attributes:
    step: steps done.
    best: the best validation accuracy so far, None before the first validation.
    plateau: state of `optimizers.Plateau`.
    loss_scale: state of `LossScale`.
    is_validation_due: whether this step is still to be validated.
    unreadable: the records that could not be read, with their reasons.
  """

  def __init__(self):
    super().__init__()
    self.step = 0
    self.best = None
    self.plateau = None
    self.loss_scale = None
    self.is_validation_due = False
    self.unreadable = []

  def serialize(self) -> str:
    return json.dumps({name: getattr(self, name) for name in self._names()})

  def deserialize(self, text: str) -> None:
    for name, value in json.loads(text).items():
      setattr(self, name, value)

  def _names(self) -> list[str]:
    return [name for name in vars(self) if not name.startswith("_")]


def last_step(folder: pathlib.Path) -> int | None:
  """The step of a run's newest state; None if it has none."""
  latest = tf.train.latest_checkpoint(os.fspath(folder / FOLDER))
  return None if latest is None else int(latest.rpartition("-")[2])


class Checkpoints:
  """Saves and restores a run's state; a save that fails leaves the ones before as they were."""

  def __init__(
    self, folder: pathlib.Path, progress: Progress, workers: distribution.Workers, *, keep: int, **parts: tf.Module
  ):
    """`parts` are what is saved beside `progress`; every worker must take part in saving and restoring."""
    self._progress = progress
    self._checkpoint = tf.train.Checkpoint(progress=progress, **parts)
    self._folder = folder / FOLDER
    # All workers save, since averages over replicas are formed then, but the chief's files alone are kept.
    self._scratch = None if workers.is_chief else tempfile.TemporaryDirectory(prefix="i3d_tf.")
    place = self._folder if workers.is_chief else pathlib.Path(self._scratch.name)
    self._manager = tf.train.CheckpointManager(self._checkpoint, os.fspath(place), max_to_keep=keep)

  def restore(self) -> bool:
    """Takes up the newest state; says whether there was one.

    Raises:
      CheckpointError: if it is damaged or of another network.
    """
    latest = tf.train.latest_checkpoint(os.fspath(self._folder))
    if latest is None:
      return False
    try:
      status = self._checkpoint.restore(latest)
      status.assert_existing_objects_matched()
      status.assert_consumed()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
      raise errors.CheckpointError(
        f"{latest} cannot be restored: {errors.first_line(error)}; remove it to go on from the one before"
      ) from None
    return True

  def save(self) -> None:
    """Writes the state as it is.

    Raises:
      CheckpointError: if it cannot be written; what was there before stays.
    """
    step = self._progress.step
    try:
      self._manager.save(checkpoint_number=step)
    except (tf.errors.OpError, OSError) as error:
      for part in pathlib.Path(self._manager.directory).glob(f"ckpt-{step}[._]*"):
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
      last = self._manager.latest_checkpoint
      left = f"{last} is whole and the run can go on from it" if last else "there is none before it"
      raise errors.CheckpointError(
        f"the checkpoint of step {step} cannot be written to {self._folder}: {errors.first_line(error)}; {left}"
      ) from None


@contextlib.contextmanager
def on_signals(ask_to_stop: Callable[[signal.Signals], None]) -> Iterator[None]:
  """SIGTERM and SIGINT ask to stop, and do nothing else, while the body runs."""
  handler = lambda number, _: ask_to_stop(signal.Signals(number))
  old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """Turns TensorFlow's errors that users can mend into sentences.

  Raises:
    I3dError: in place of them.
  """
  try:
    yield
  except tf.errors.ResourceExhaustedError as error:
    raise errors.I3dError(
      f"there is too little memory ({errors.first_line(error)}); a smaller --batch_size with more "
      "--accumulation_steps, or --recompute, takes less"
    ) from None
  except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
    raise errors.I3dError(
      f"another worker, or the tf.data service, is gone ({errors.first_line(error)}); start all workers again, "
      "and they go on from the last checkpoint"
    ) from None
