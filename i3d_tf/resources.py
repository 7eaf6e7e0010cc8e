"""What the package comes with, and what it runs on: packaged files, versions, the machine, worker processes.

Of many tasks over worker processes, one that kills its worker costs that task only.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import datetime
import importlib.metadata
import multiprocessing
from multiprocessing import connection
import os
import pathlib
import platform
import shlex
import signal
import sys
import threading
from typing import Any

import i3d_tf
from i3d_tf import cli
from i3d_tf import errors

_PACKAGE = pathlib.Path(__file__).resolve().parent
_PACKAGES = (
    "tensorflow", "dm-sonnet", "numpy", "opencv-contrib-python-headless", "scikit-learn", "matplotlib",
)  # fmt: skip
VERSIONS = ("python", "i3d_tf", *_PACKAGES)  # the names in `provenance` whose values are versions


def path(folder: str, name: str = "") -> pathlib.Path:
  """Returns the path of a packaged file.

  An installed package holds the folders inside itself; in a source tree they are beside it.

  Args:
    folder: 'data' or 'checkpoints'.
    name: Name of the file; by default the folder itself is meant.
  """
  inside = _PACKAGE / "assets" / folder
  return (inside if inside.is_dir() else _PACKAGE.parent / folder) / name


def class_list(name: str) -> tuple[str, ...]:
  """Returns the class names of a list in the data folder, in index order.

  Args:
    name: Name of the list, for example 'ucf101' or 'kinetics_400'.

  Raises:
    I3dError: If there is no list of that name.
  """
  files = {file.stem: file for file in sorted(path("data").glob("*.txt"))}
  if name not in files:
    raise errors.I3dError(f"there is no class list {name!r}; there are {', '.join(files)}")
  return tuple(files[name].read_text(encoding="utf-8").splitlines())


def class_names(num_classes: int) -> tuple[str, ...]:
  """Returns the class names of Kinetics in the index order of the release.

  Args:
    num_classes: 400, 600 or 700.

  Raises:
    I3dError: If there is no list of so many classes.
  """
  return class_list(f"kinetics_{num_classes}")


def provenance() -> dict[str, str]:
  """Returns 'command', 'date', 'machine', 'system' of this process, and of `VERSIONS` those that are installed."""
  rows = {
    "command": shlex.join(["python", "-m", f"i3d_tf.{cli.program()}", *sys.argv[1:]]),
    "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    "machine": machine(),
    "system": platform.platform(),
    "python": platform.python_version(),
    "i3d_tf": i3d_tf.__version__,
  }
  for package in _PACKAGES:
    try:
      rows[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      pass  # some are wanted for a few options only
  return rows


def machine() -> str:
  """Returns processor model and number of cores available."""
  model = platform.processor() or platform.machine()
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
  except (OSError, StopIteration):
    pass
  return f"{model}, {available_cores()} cores"


_TRIES = 2  # a worker may also die of what others do, such as a lack of memory


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a task: `value`, or the `error` in one sentence."""

  task: Any
  value: Any = None
  error: str | None = None


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


def _end_with_parent() -> None:
  """Ends this process when the one that started it has ended, even by a signal that lets it do nothing more."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    connection.wait([parent.sentinel])
    os._exit(1)


def available_cores() -> int:
  """Returns the number of processors that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
