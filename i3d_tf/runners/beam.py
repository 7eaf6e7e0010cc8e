"""Apache Beam (the extra `beam`): its runners on this machine, behind a job service, on Flink, Spark and Dataflow."""

from collections.abc import Callable, Sequence
import contextlib
import io
import logging
import pathlib
import pickle
import traceback
from typing import Any

from i3d_tf import errors
from i3d_tf import stores
from i3d_tf import workdir

# Beam's own DirectRunner would first download another runner, Prism, as a binary, and end here where it cannot.
_CLASSES = {"DirectRunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner"}
_WITH_JOB_SERVER = ("PortableRunner", "FlinkRunner", "SparkRunner")  # whose options Beam's Python side does not know


def create(name: str, options: Sequence[str], *, quiet: bool = False) -> "BeamRunner":
  """Returns a runner of Beam.

  Args:
    name: One of `runners.OF_BEAM`.
    options: Beam's and the runner's flags.
    quiet: Whether to keep back what Beam logs with DirectRunner.

  Raises:
    I3dError: If Beam or the runner is not installed, or an option is wrong.
  """
  if name == "DirectRunner" and quiet:
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
  _import_beam()
  _check_options(name, options)
  runner = BeamRunner(name, options)
  runner.new_pipeline()
  return runner


class BeamRunner:
  """Runs tasks as a Beam pipeline."""

  def __init__(self, name: str, options: Sequence[str]):
    """Starts nothing.

    Args:
      name: One of `runners.OF_BEAM`.
      options: Beam's and the runner's flags.
    """
    self._name, self._options = name, list(options)

  def new_pipeline(self):
    """Returns an empty `beam.Pipeline`.

    Raises:
      I3dError: If Beam cannot set up the runner.
    """
    beam = _import_beam()
    try:
      return beam.Pipeline(runner=_CLASSES.get(self._name, self._name), argv=self._options)
    except (ImportError, ValueError) as error:
      raise errors.I3dError(f"Apache Beam cannot set up {self._name}: {' '.join(str(error).split())}") from error

  def run(self, function: Callable[[Any], Any], tasks: Sequence[Any], *, work: pathlib.Path, unit: str) -> None:
    """Runs the tasks, see `runners.Runner.run`. The unit is not shown: Beam logs how far it is.

    The graph of the pipeline has the path of the tasks only: Dataflow takes no graph above 10 MB, and Kinetics has
    650,000 clips.

    Args:
      function: See `runners.Runner.run`.
      tasks: See `runners.Runner.run`.
      work: See `runners.Runner.run`.
      unit: See `runners.Runner.run`.

    Raises:
      I3dError: If the pipeline fails.
    """
    beam = _import_beam()
    listing = work / "tasks.pickle"
    work.mkdir(parents=True, exist_ok=True)
    with workdir.replacing(listing) as file:
      pickle.dump(list(tasks), file)
    pipeline = self.new_pipeline()
    _ = (
      pipeline
      | "Listing" >> beam.Create([str(listing)])
      | "Tasks" >> beam.FlatMap(_read_tasks)
      | "Spread" >> beam.Reshuffle()
      | "Work" >> beam.Map(function)
    )
    try:
      pipeline.run().wait_until_finish()
    except Exception as error:
      # Beam has logged the traceback; the last line of its own exception is the worker's.
      reason = traceback.format_exception_only(error)[-1].strip().splitlines()[-1].removeprefix("RuntimeError: ")
      raise errors.I3dError(f"the Beam pipeline failed: {reason}; start again to go on with what is left") from error
    finally:
      listing.unlink(missing_ok=True)


def _read_tasks(listing: str) -> list[Any]:
  return pickle.loads(stores.as_path(listing).read_bytes())


def _check_options(name: str, options: Sequence[str]) -> None:
  from apache_beam.options import pipeline_options

  parsed = pipeline_options.PipelineOptions(list(options))
  try:
    with contextlib.redirect_stderr(io.StringIO()) as said, _no_warnings():
      known = parsed.get_all_options()
      everything = parsed.get_all_options(retain_unknown_options=True)
  except SystemExit:
    raise errors.I3dError(f"Beam's options: {said.getvalue().strip().rpartition('error: ')[2]}") from None
  if name not in _WITH_JOB_SERVER and (unknown := sorted(set(everything) - set(known))):
    raise errors.I3dError(f"Beam has no option --{unknown[0]}")


def _import_beam():
  try:
    with _no_warnings():  # of what else could be installed
      import apache_beam
  except ImportError as error:
    raise errors.I3dError(
      f"runners of Beam need Apache Beam ({error}): pip install '.[beam]' in a clone of i3d_tf"
    ) from None
  return apache_beam


@contextlib.contextmanager
def _no_warnings():
  before = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    yield
  finally:
    logging.disable(before)
