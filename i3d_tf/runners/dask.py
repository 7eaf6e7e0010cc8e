"""A Dask cluster (the extra `dask`), through `dask.distributed`.

Beam's own runner on Dask is not used: its `Reshuffle` does nothing, so that all tasks would stay on one worker.
"""

from collections.abc import Callable, Iterator, Sequence
import itertools
import logging
import os
import pathlib
from typing import Any

from i3d_tf import errors
from i3d_tf import workers

_AHEAD = 1000  # tasks that the scheduler has at once, which holds each in memory
_CONNECT_SECONDS = 30
_OPTIONS = ("scheduler", "scheduler_file")


def create(name: str, options: Sequence[str], *, quiet: bool = False) -> "DaskRunner":
  """Returns the runner.

  Args:
    name: 'dask'.
    options: '--scheduler=tcp://HOST:8786' or '--scheduler_file=FILE'; without either the address is that of the
      environment variable DASK_SCHEDULER_ADDRESS.
    quiet: Whether to keep back what Dask logs.

  Raises:
    I3dError: If Dask is not installed, or no scheduler is named.
  """
  del name
  if quiet:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
  try:
    import distributed  # noqa: F401
  except ImportError as error:
    raise errors.I3dError(
      f"the runner dask needs dask.distributed ({error}): pip install '.[dask]' in a clone of i3d_tf"
    ) from None
  given = dict(option.removeprefix("--").partition("=")[::2] for option in options)
  if unknown := sorted(set(given) - set(_OPTIONS)):
    raise errors.I3dError(f"the runner dask has no option {unknown[0]}; it has {' and '.join(_OPTIONS)}")
  if not given and not os.environ.get("DASK_SCHEDULER_ADDRESS"):
    raise errors.I3dError(
      "the runner dask needs an option scheduler (tcp://HOST:8786) or scheduler_file (a path), or the environment "
      "variable DASK_SCHEDULER_ADDRESS"
    )
  return DaskRunner(given)


class DaskRunner:
  """Runs tasks on the workers of a Dask scheduler."""

  def __init__(self, options: dict[str, str]):
    """Connects to nothing.

    Args:
      options: See `create`, by name.
    """
    self._where = options.get("scheduler") or options.get("scheduler_file") or os.environ["DASK_SCHEDULER_ADDRESS"]
    key = "scheduler_file" if "scheduler_file" in options else "address"
    self._arguments = {key: self._where, "timeout": _CONNECT_SECONDS}

  def run(self, function: Callable[[Any], Any], tasks: Sequence[Any], *, work: pathlib.Path, unit: str) -> None:
    """Runs the tasks, see `runners.Runner.run`.

    Args:
      function: See `runners.Runner.run`.
      tasks: See `runners.Runner.run`.
      work: Not used.
      unit: See `runners.Runner.run`.

    Raises:
      I3dError: If there is no such scheduler, it is lost, or its workers fail.
    """
    del work
    import distributed
    from distributed import comm

    lost = (OSError, comm.CommClosedError, distributed.client.FutureCancelledError)
    try:
      client = distributed.Client(**self._arguments)
    except (*lost, ValueError) as error:  # of an address that is none
      raise self._out_of_reach(error) from None
    try:
      with client, workers.Bar(total=len(tasks), unit=unit) as bar:
        for future in self._completed(client, function, tasks):
          if future.status != "finished":
            if future.cancelled():
              raise OSError("the connection was lost")
            reason = _last_line(future.exception())
            raise errors.I3dError(f"a worker of Dask failed: {reason}; start again to go on with what is left")
          bar.update()
    except lost as error:
      raise self._out_of_reach(error) from None

  def _out_of_reach(self, error: Exception) -> errors.I3dError:
    return errors.I3dError(
      f"the Dask scheduler at {self._where} cannot be reached ({_last_line(error)}); start it, and start again to "
      "go on with what is left"
    )

  @staticmethod
  def _completed(client, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """Yields the futures as they are done, and sends the next tasks meanwhile."""
    import distributed

    left = iter(tasks)
    # Tasks are pure in effect, but two runs must not share their results.
    submit = lambda count: client.map(function, list(itertools.islice(left, count)), pure=False)
    done = distributed.as_completed(submit(_AHEAD))
    for future in done:
      yield future
      done.update(submit(1))


def _last_line(error: BaseException) -> str:
  text = str(error).strip().splitlines()
  return text[-1] if text else type(error).__name__
