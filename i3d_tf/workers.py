"""Many tasks: how far they are, and worker processes, where a task that kills its worker costs that task only."""

from collections.abc import Callable, Iterable, Iterator
import ctypes
import dataclasses
import math
import multiprocessing
from multiprocessing import connection
import os
import signal
import sys
import threading
import time
from typing import Any

import tqdm

from i3d_tf import errors

# Loaded here, since between fork and exec little is safe.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LINE_EVERY = 60  # seconds between the lines of a bar that is on no terminal
_TRIES = 2  # a worker may also die of what others do, such as a lack of memory


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a task: `value`, or the `error` in one sentence."""

  task: Any
  value: Any = None
  error: str | None = None


class Bar(tqdm.tqdm):
  """A progress bar on stderr; where that is no terminal, as in the log of a batch job, a line a minute."""

  def __init__(self, *args: Any, is_shown: bool = True, **options: Any):
    """Begins to show.

    Args:
      *args: As of tqdm.
      is_shown: Whether to show anything.
      **options: As of tqdm.
    """
    self._has_lines = not sys.stderr.isatty()
    self._last_line = time.monotonic()
    if self._has_lines:
      options |= {"mininterval": _LINE_EVERY, "maxinterval": math.inf, "miniters": 1, "leave": False}
    super().__init__(*args, disable=not is_shown, **options)

  def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
    """Shows the state; tqdm calls it.

    Args:
      msg: What to show in its place; '' to remove the bar.
      pos: Line of the bar.

    Returns:
      What tqdm's own returns.
    """
    if not self._has_lines:
      return super().display(msg, pos)
    if time.monotonic() - self._last_line >= _LINE_EVERY:
      self._last_line = time.monotonic()
      print(self._line(), file=sys.stderr, flush=True)
    return None

  def clear(self, nolock: bool = False) -> None:
    """Makes room for other output; tqdm calls it.

    Args:
      nolock: As of tqdm.
    """
    if not self._has_lines:
      super().clear(nolock)

  def _line(self) -> str:
    state = self.format_dict
    size = (lambda number: self.format_sizeof(number)) if self.unit_scale else str
    text = f"{self.desc}: " if self.desc else ""
    text += f"{size(self.n)}{f' of {size(self.total)}' if self.total else ''} {self.unit}s"
    done = self.n - self.initial
    if self.total and done:
      left = state["elapsed"] / done * (self.total - self.n)
      text += f" ({100 * self.n / self.total:.0f} %), {self.format_interval(left)} left"
    elif not done:
      text += f" after {self.format_interval(state['elapsed'])}"
    return f"{text}, {self.postfix}" if self.postfix else text


def run(function: Callable[[Any], Any], tasks: Iterable[Any], *, num_workers: int) -> Iterator[Outcome]:
  """Yields the outcome of `function(task)` for every task, in the order in which they end.

  An I3dError or OSError of the function is its task's outcome; so is the death of its worker, after a second try. Any
  other exception is a defect and is raised here.

  Args:
    function: is pickled to fresh Python processes.
    tasks: are taken from one by one, as workers become free.
    num_workers: at least 1.

  Yields:
    The outcomes.
  """
  tasks = iter(tasks)
  context = multiprocessing.get_context("spawn")
  workers = [_Worker(context, function) for _ in range(num_workers)]
  try:
    busy = [worker for worker in workers if worker.take(next(tasks, _END))]
    while busy:
      ready = connection.wait([end for worker in busy for end in (worker.pipe, worker.process.sentinel)])
      for worker in [worker for worker in busy if worker.pipe in ready or worker.process.sentinel in ready]:
        outcome = worker.finish()
        if outcome is not None:
          yield outcome
          if not worker.take(next(tasks, _END)):
            busy.remove(worker)
  finally:
    for worker in workers:
      worker.stop()


_END = object()


class _Worker:
  """A process, its end of a pipe, and the task it has."""

  def __init__(self, context, function: Callable[[Any], Any]):
    self._context = context
    self._function = function
    self._start()

  def _start(self) -> None:
    self.pipe, child = self._context.Pipe()
    self.process = self._context.Process(target=_serve, args=(child, self._function), daemon=True)
    self.process.start()
    child.close()
    self._tries = 0

  def take(self, task: Any) -> bool:
    """Starts on `task`; says whether there was one."""
    if task is _END:
      return False
    self._task, self._tries = task, 0
    self._send()
    return True

  def _send(self) -> None:
    self._tries += 1
    try:
      self.pipe.send(self._task)
    except OSError:  # it died meanwhile; finish() will find out
      pass

  def finish(self) -> Outcome | None:
    """The outcome of the task, or None if it is being tried again."""
    try:
      value, error, defect = self.pipe.recv()
    except (EOFError, OSError):
      return self._died()
    if defect is not None:
      raise RuntimeError(f"a worker failed on {self._task}:\n{defect}")
    return Outcome(self._task, value, error)

  def _died(self) -> Outcome | None:
    self.process.join()
    task, tries, code = self._task, self._tries, self.process.exitcode
    self.pipe.close()
    self._start()
    self._task, self._tries = task, tries
    if tries < _TRIES:
      self._send()
      return None
    cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return Outcome(task, error=f"the worker process died ({cause}), {_TRIES} times")

  def stop(self) -> None:
    self.pipe.close()
    self.process.terminate()
    self.process.join()


def _serve(pipe: connection.Connection, function: Callable[[Any], Any]) -> None:
  """The worker's side: answers every task until the other side is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
  threading.Thread(target=_end_with_parent, daemon=True).start()
  while True:
    try:
      task = pipe.recv()
    except (EOFError, OSError):
      return
    answer: tuple[Any, str | None, str | None]  # value, error, defect
    try:
      answer = (function(task), None, None)
    except errors.I3dError as error:
      answer = (None, str(error), None)
    except OSError as error:
      answer = (None, errors.describe_os_error(error), None)
    except Exception:
      import traceback

      answer = (None, None, traceback.format_exc())
    try:
      pipe.send(answer)
    except OSError:
      return


def end_with_parent() -> None:
  """Lets the kernel kill this process when the one that started it ends; for a `preexec_fn` of subprocess."""
  if _libc is not None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_parent() -> None:
  """Ends this process when the one that started it has ended, even by a signal that lets it do nothing more."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    connection.wait([parent.sentinel])
    os._exit(1)


def available_cores() -> int:
  """Returns the number of processors that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
