"""Where the work on many videos is done: on this machine, or on a cluster through Apache Beam, Dask or Slurm.

A runner calls one function on many tasks, which leaves its results in the output folder. So this folder, like that of
the inputs, must be visible to the launcher and to all workers under the same path: on a network file system, in an
object store, or on one machine. What is done when a worker, the scheduler or the launcher is lost stays, and any runner
goes on with the rest.
"""

from collections.abc import Callable, Iterable, Sequence
import importlib
import os
import pathlib
from typing import Any, Protocol

from i3d_tf import errors
from i3d_tf import stores

LOCAL = "local"
OF_BEAM = ("DirectRunner", "PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner")
NAMES = (LOCAL, *OF_BEAM, "dask", "slurm")
_ON_THIS_MACHINE = ("DirectRunner",)
_TRIES = 3  # of what was left when a runner ended; a runner that gets nowhere is not tried again


class Runner(Protocol):
  """Calls a function on tasks somewhere else."""

  def run(self, function: Callable[[Any], Any], tasks: Sequence[Any], *, work: pathlib.Path, unit: str) -> None:
    """Calls `function(task)` for every task, in any order, and waits for the end.

    A task may be done twice, also at the same time, where a worker is lost.

    Args:
      function: A function of a module, or a `functools.partial` of one; it, its arguments and the tasks are pickled.
      tasks: What it is called on.
      work: A folder for the runner's own files, visible to all workers.
      unit: What a task is, for the progress bar.

    Raises:
      I3dError: If it cannot be done.
    """


def create(
  name: str, options: Sequence[str], *, paths: Iterable[tuple[str, str]] = (), quiet: bool = False
) -> Runner | None:
  """Returns a runner, or None for 'local', whose work is the caller's.

  Args:
    name: One of `NAMES`.
    options: The runner's own options, each as '--name=value' or '--name'.
    paths: Those that the workers are to see, each behind its name for messages.
    quiet: Whether to keep back what Beam logs with DirectRunner; clusters log how far they are.

  Raises:
    I3dError: If the runner's library is not installed, an option is wrong, or a path means nothing to another machine.
  """
  if name == LOCAL:
    if options:
      raise errors.I3dError(f"runner_option is {options[0]}, but the local runner has no options; name another runner")
    return None
  for what, path in paths:
    if name not in _ON_THIS_MACHINE and not (os.path.isabs(path) or stores.is_remote(path)):
      raise errors.I3dError(f"{what} is {path}; the workers of {name} need an absolute path")
  for option in options:
    if not option.startswith("--") or option.partition("=")[0] == "--runner":
      raise errors.I3dError(f"the option {option!r} of {name} must have the form --NAME=VALUE, and name no runner")
  # Imported here: each has its library, and a program needs one of them at most.
  module = importlib.import_module("i3d_tf.runners.beam" if name in OF_BEAM else f"i3d_tf.runners.{name}")
  return module.create(name, options, quiet=quiet)


def finish(
  runner: Runner,
  function: Callable[[Any], Any],
  left: Callable[[], Sequence[Any]],
  *,
  work: pathlib.Path,
  unit: str,
  folder: str | os.PathLike,
) -> None:
  """Has a runner do what is left, again if workers were lost, until nothing is.

  Args:
    runner: From `create`.
    function: See `Runner.run`.
    left: Returns the tasks whose results are not in the folder.
    work: See `Runner.run`.
    unit: See `Runner.run`.
    folder: Where the results should be, for the message.

  Raises:
    I3dError: If the runner fails and has done nothing since its last failure, or its workers wrote elsewhere.
  """
  tasks = left()
  for number in range(_TRIES):
    if not tasks:
      return
    before, failure = len(tasks), None
    try:
      runner.run(function, tasks, work=work, unit=unit)
    except errors.I3dError as error:
      failure = error
    tasks = left()
    is_stuck = len(tasks) == before or number == _TRIES - 1
    if failure is not None and tasks and is_stuck:
      raise failure
  if tasks:
    raise errors.I3dError(
      f"the runner ended, but {len(tasks)} {unit}s are not in {folder}; do all its workers see this folder under this "
      "path?"
    )
