"""What ends a run from outside: signals, a lack of memory, and other processes that are gone."""

from collections.abc import Callable, Iterator
import contextlib
import signal

import tensorflow as tf

from i3d_tf import errors


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
