"""Many tasks: how far they are, and worker processes, where a task that kills its worker costs that task only.

`run` spreads tasks over processes, `call` does one in a process; `Streams` makes the items of one generator after the
other in a process, `ahead` in a thread.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
import contextlib
import ctypes
import dataclasses
import math
import multiprocessing
from multiprocessing import connection
import os
import pickle
import queue
import signal
import sys
import threading
import time
from typing import Any, TypeVar

import tqdm

from i3d_tf import errors

# Loaded here, since between fork and exec little is safe.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LINE_EVERY = 60  # seconds between the lines of a bar that is on no terminal
_TRIES = 2  # a worker may also die of what others do, such as a lack of memory
Item = TypeVar("Item")
_WAIT = 0.1  # seconds between looks at whether anybody still wants the items of a thread
_AHEAD = 8  # items that a process makes before they are asked for


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

  What the function raises of `errors.OF_INPUT` is its task's outcome; so is the death of its worker, after a second
  try. A `StoreError`, and any other exception, which is a defect, is raised here.

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


def call(function: Callable[[Any], Any], task: Any) -> Outcome:
  """Returns the outcome of `function(task)` in another process, which is kept for the next call of the function.

  Args:
    function: As of `run`.
    task: The task.

  Returns:
    The outcome, as of `run`.

  Raises:
    StoreError: As the function does.
    RuntimeError: If the function has a defect.
  """
  key = pickle.dumps(function)
  with _lock:
    for other in _free.keys() - {key}:
      for worker in _free.pop(other):
        worker.stop()
    waiting = _free.setdefault(key, [])
    found = waiting.pop() if waiting else None
  worker = found or _Worker(multiprocessing.get_context("spawn"), function)
  worker.take(task)
  is_whole = False
  try:
    while (outcome := worker.finish()) is None:
      pass  # its second try
    is_whole = True
    return outcome
  finally:
    if is_whole:
      with _lock:
        _free.setdefault(key, []).append(worker)
    else:
      worker.stop()


_lock = threading.Lock()
_free: dict[bytes, list["_Worker"]] = {}  # of `call`, by pickled function
_END = object()


class _Worker:
  """A process, its end of a pipe, and the task it has."""

  def __init__(self, context, function: Callable[[Any], Any]):
    self._context = context
    self._function = function
    self._start()

  def _start(self) -> None:
    self.process, self.pipe = _start(self._context, _serve, self._function)
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
    if isinstance(defect, errors.StoreError):
      raise defect
    if defect is not None:
      raise RuntimeError(f"a worker failed on {self._task}:\n{defect.rstrip()}")
    return Outcome(self._task, value, error)

  def _died(self) -> Outcome | None:
    cause = _cause_of_death(self.process)
    task, tries = self._task, self._tries
    self.pipe.close()
    self._start()
    self._task, self._tries = task, tries
    if tries < _TRIES:
      self._send()
      return None
    return Outcome(task, error=f"the worker process died ({cause}), {_TRIES} times")

  def stop(self) -> None:
    self.pipe.close()
    self.process.terminate()
    self.process.join()


def _start(context, serve: Callable, *arguments: Any) -> tuple[Any, connection.Connection]:
  """Starts a process that runs `serve(its end of a pipe, *arguments)`; returns it and the other end."""
  pipe, child = context.Pipe()
  process = context.Process(target=serve, args=(child, *arguments), daemon=True)
  with _children_allowed():
    process.start()
  child.close()
  return process, pipe


@contextlib.contextmanager
def _children_allowed() -> Iterator[None]:
  """Lets a daemonic process, as Dask's workers are, have children; ours end by themselves when it is gone."""
  config = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # there is no public way
  is_daemon = config.pop("daemon", None)
  try:
    yield
  finally:
    if is_daemon is not None:
      config["daemon"] = is_daemon


def _cause_of_death(process) -> str:
  process.join()
  code = process.exitcode
  return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _depend_on_parent() -> None:
  """Leaves it to the parent to stop this process, and ends with it."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


class Streams:
  """Generators that are run in other processes, so that one that kills its process costs its own items only.

  A process is started when there is none that is free, and kept for the generators that follow.

  Attributes:
    patience: Seconds after which a process that makes no item is ended; None: it may take any time.
  """

  def __init__(self) -> None:
    """Starts nothing."""
    self.patience: float | None = None
    self._free: list[tuple[Any, connection.Connection]] = []  # processes and pipes
    self._lock = threading.Lock()

  def iterate(self, what: str, function: Callable[..., Generator], *arguments: Any, **options: Any) -> Generator:
    """Yields the items of `function(*arguments, **options)`, which is run in another process, a few of them ahead.

    Args:
      what: Names what it works on, for the message when its process dies.
      function: A generator function of a module; it, its arguments and its items are pickled.
      *arguments: Its arguments.
      **options: The same, by name.

    Yields:
      The items.

    Raises:
      I3dError, OSError, MemoryError: As the function does.
      VideoError: If its process dies.
      RuntimeError: If the function raises anything else.
    """
    process, pipe = self._take()
    kind = "item"
    try:
      _send(pipe, (_folder(), function, arguments, options))
      while kind == "item":
        kind, value = _receive(process, pipe, what, self.patience)
        if kind == "item":
          yield value
          _send(pipe, _MORE)
      if kind == "error":
        raise value
      if kind == "defect":
        raise RuntimeError(f"{what}: a process failed on it:\n{value}")
    except GeneratorExit:
      _send(pipe, _STOP)
      while kind == "item":
        kind, _ = _receive(process, pipe, what, self.patience)
    finally:
      if kind == "item":  # it may be anywhere
        pipe.close()
        process.terminate()
        process.join()
      else:
        with self._lock:
          self._free.append((process, pipe))

  def _take(self) -> tuple[Any, connection.Connection]:
    while True:
      with self._lock:
        if not self._free:
          break
        process, pipe = self._free.pop()
      if process.is_alive():
        return process, pipe
      pipe.close()
    return _start(multiprocessing.get_context("spawn"), _serve_streams)


@contextlib.contextmanager
def ahead(items: Iterable[Item], *, depth: int) -> Iterator[Iterator[Item]]:
  """Makes items in a thread that is ahead of the body.

  Args:
    items: The items; a generator is closed at the end of the body.
    depth: By how many items the thread may be ahead.

  Yields:
    The same items; an error that making one raises comes in its place.
  """
  made: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
  stopped = threading.Event()

  def put(kind: str, value: Any) -> bool:
    while not stopped.is_set():
      with contextlib.suppress(queue.Full):
        made.put((kind, value), timeout=_WAIT)
        return True
    return False

  def work() -> None:
    try:
      if all(put("item", item) for item in items):
        put("end", None)
    except BaseException as error:
      put("error", error)
    finally:
      if hasattr(items, "close"):
        items.close()

  def take() -> Iterator[Item]:
    while True:
      kind, value = made.get()
      if kind == "error":
        raise value
      if kind == "end":
        return
      yield value

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  try:
    yield take()
  finally:
    stopped.set()
    thread.join()


_MORE, _STOP = "more", "stop"


def _send(pipe: connection.Connection, message: Any) -> None:
  with contextlib.suppress(OSError):  # the other side died; `_receive` will find out
    pipe.send(message)


def _folder() -> str | None:
  with contextlib.suppress(OSError):  # it may be removed
    return os.getcwd()
  return None


def _receive(process, pipe: connection.Connection, what: str, patience: float | None) -> tuple[str, Any]:
  try:
    if not pipe.poll(patience):
      raise errors.VideoError(f"{what}: nothing could be read of it within {patience:g} seconds")
    return pipe.recv()
  except (EOFError, OSError):
    raise errors.VideoError(f"{what}: the process that read it died ({_cause_of_death(process)})") from None


def _serve_streams(pipe: connection.Connection) -> None:
  """The other side of `Streams`: runs one generator after the other until the first side is gone."""
  _depend_on_parent()
  with contextlib.suppress(EOFError, OSError):
    while True:
      message = pipe.recv()
      if message not in (_MORE, _STOP):  # which may come late, when the generator has ended
        pipe.send(_send_items(pipe, *message))


def _send_items(
  pipe: connection.Connection, folder: str | None, function: Callable[..., Generator], arguments: tuple, options: dict
):
  """Sends a generator's items as they are asked for; returns what to send last. Paths are seen from `folder`."""
  num_wanted = _AHEAD
  try:
    if folder is not None:
      os.chdir(folder)
    with contextlib.closing(function(*arguments, **options)) as items:
      for item in items:
        while num_wanted == 0 or pipe.poll():
          if pipe.recv() == _STOP:
            return "end", None
          num_wanted += 1
        pipe.send(("item", item))
        num_wanted -= 1
    return "end", None
  except OSError as error:  # its kinds in libraries cannot all be pickled
    return "error", OSError(error.errno, error.strerror, error.filename)
  except errors.OF_INPUT as error:
    return "error", error
  except Exception:
    import traceback

    return "defect", traceback.format_exc()


def _serve(pipe: connection.Connection, function: Callable[[Any], Any]) -> None:
  """The worker's side: answers every task until the other side is gone."""
  _depend_on_parent()
  while True:
    try:
      task = pipe.recv()
    except (EOFError, OSError):
      return
    answer: tuple[Any, str | None, str | errors.StoreError | None]  # value, error, defect
    try:
      answer = (function(task), None, None)
    except errors.StoreError as error:
      answer = (None, None, error)
    except errors.OF_INPUT as error:
      answer = (None, errors.describe(error), None)
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
