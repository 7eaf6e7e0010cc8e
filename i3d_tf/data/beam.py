"""Work on a cluster, or on this machine, through Apache Beam (the extra `beam`).

Only names travel through Beam: the tasks stand in a file, and what comes of them is written by the workers. So the
folder of both, like that of the inputs, must be visible to the launcher and to all workers under the same path: on a
network file system, or on one machine.
"""

from collections.abc import Callable, Iterable, Sequence
import contextlib
import functools
import io
import logging
import os
import pathlib
import pickle
import traceback
from typing import Any

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.data import shards

RUNNERS = ("DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner")

# Beam's own DirectRunner would first download another runner, Prism, as a binary, and end here where it cannot.
_CLASSES = {"DirectRunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner"}
_WITH_JOB_SERVER = ("FlinkRunner", "SparkRunner")  # whose options Beam's Python side does not know


def new_pipeline(runner: str, options: Sequence[str], *, paths: Iterable[tuple[str, str]] = (), quiet: bool = False):
  """Returns an empty `beam.Pipeline`.

  Args:
    runner: one of `RUNNERS`.
    options: Beam's and the runner's flags, each as '--name=value' or '--name'.
    paths: those that the workers are to see, each behind its name for messages.
    quiet: keep back what Beam logs with DirectRunner; clusters log how far they are.

  Raises:
    I3dError: if Beam or the runner is not installed, an option is wrong, or a path means nothing to another machine.
  """
  for name, path in paths:
    if runner != "DirectRunner" and not os.path.isabs(path):
      raise errors.I3dError(f"{name} is {path}; the workers of {runner} need an absolute path")
  if runner == "DirectRunner" and quiet:
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
  beam = _import_beam()
  _check_options(runner, options)
  try:
    return beam.Pipeline(runner=_CLASSES.get(runner, runner), argv=list(options))
  except (ImportError, ValueError) as error:
    raise errors.I3dError(f"Apache Beam cannot set up {runner}: {' '.join(str(error).split())}") from error


def spread(pipeline, listing: pathlib.Path, tasks: Iterable[Any]):
  """Returns a `beam.PCollection` of tasks, which the workers read from a file.

  The graph of the pipeline has a path only: Dataflow takes no graph above 10 MB, and Kinetics has 650,000 clips.

  Args:
    pipeline: from `new_pipeline`.
    listing: the file, which is written here and must be visible to all workers.
    tasks: what can be pickled.
  """
  beam = _import_beam()
  listing.parent.mkdir(parents=True, exist_ok=True)
  with workdir.replacing(listing) as file:
    pickle.dump(list(tasks), file)
  return (
    pipeline
    | "Listing" >> beam.Create([str(listing)])
    | "Tasks" >> beam.FlatMap(_read_tasks)
    | "Spread" >> beam.Reshuffle()
  )


def wait(pipeline) -> None:
  """Runs the pipeline to its end.

  Args:
    pipeline: with its steps.

  Raises:
    I3dError: if it fails.
  """
  try:
    pipeline.run().wait_until_finish()
  except Exception as error:
    # Beam has logged the traceback; the last line of its own exception is the worker's.
    reason = traceback.format_exception_only(error)[-1].strip().splitlines()[-1].removeprefix("RuntimeError: ")
    raise errors.I3dError(f"the Beam pipeline failed: {reason}; start again to go on with what is left") from error


def check_done(left: int, total: int, what: str, folder: str | os.PathLike) -> None:
  """Checks that all results have come to the folder when the pipeline has ended.

  Args:
    left: number of tasks whose results are not there.
    total: number of tasks.
    what: the tasks, for the message.
    folder: where the results should be.

  Raises:
    I3dError: if any is missing.
  """
  if left:
    raise errors.I3dError(
      f"the Beam pipeline ended, but {left} of {total} {what} are not in {folder}; do all its workers see this "
      "folder under this path?"
    )


def _read_tasks(listing: str) -> list[Any]:
  return pickle.loads(pathlib.Path(listing).read_bytes())


def _check_options(runner: str, options: Sequence[str]) -> None:
  from apache_beam.options import pipeline_options

  for option in options:
    if not option.startswith("--") or option.partition("=")[0] == "--runner":
      raise errors.I3dError(f"the Beam option {option!r} must have the form --NAME=VALUE, and name no runner")
  parsed = pipeline_options.PipelineOptions(list(options))
  try:
    with contextlib.redirect_stderr(io.StringIO()) as said, _no_warnings():
      known = parsed.get_all_options()
      everything = parsed.get_all_options(retain_unknown_options=True)
  except SystemExit:
    raise errors.I3dError(f"Beam's options: {said.getvalue().strip().rpartition('error: ')[2]}") from None
  if runner not in _WITH_JOB_SERVER and (unknown := sorted(set(everything) - set(known))):
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


def prepare_records(pipeline, folder: shards.Folder, make: Callable[[shards.Task], bytes | shards.Made]) -> None:
  """Does what is left to do in `folder` on the workers of `pipeline`, and waits for it.

  The workers put records into the output folder with the code of the local runner (`shards.Folder`), so that both write
  the same bytes, either goes on where the other stopped, and a worker holds one record in memory at a time. A record
  that cannot be made for an I3dError or OSError is its clip's failure, as in `workers.run`. Any other exception, and
  the death of a worker, is the runner's to retry; if it gives up, what was done stays.

  Args:
    pipeline: from `new_pipeline`.
    folder: claimed by the caller.
    make: makes the serialized record of a clip; is pickled.

  Raises:
    I3dError: if the pipeline fails, or its workers wrote elsewhere.
  """
  tasks = folder.tasks()
  folder.finish_shards()
  if not tasks:
    return
  _build(pipeline, folder, tasks, make)
  wait(pipeline)
  check_done(len(folder.tasks()), len(tasks), "clips", folder.path)
  folder.finish_shards()


def _build(
  pipeline, folder: shards.Folder, tasks: Iterable[shards.Task], make: Callable[[shards.Task], bytes | shards.Made]
) -> None:
  """Adds the steps: clips, spread over the workers -> their pieces in the work folder -> shards.

  Beam's TFRecord IO (`apache-beam[tfrecord]`) has no part in this: it would itself choose the order of the records and
  which of them share a file. `shards.frame` makes the bytes, as ever.
  """
  import apache_beam as beam

  output = str(folder.path)
  clips = [(task, folder.num_clips(task.shard)) for task in tasks]
  _ = (
    spread(pipeline, folder.work / "tasks.pickle", clips)
    | "Make" >> beam.MapTuple(functools.partial(_make_piece, output=output, make=make))
    | "Shard" >> beam.GroupByKey()
    | "Assemble" >> beam.MapTuple(functools.partial(_assemble, output=output))
  )


def _make_piece(
  task: shards.Task, num_clips: int, *, output: str, make: Callable[[shards.Task], bytes | shards.Made]
) -> tuple[str, int]:
  """Keeps the record of a clip, or why there is none; returns its shard's name and number of clips."""
  record = failure = None
  try:
    record = make(task)
  except errors.I3dError as error:
    failure = str(error)
  except OSError as error:
    failure = errors.describe_os_error(error)
  shards.Folder(output, ()).put(task, record, failure)
  return task.shard, num_clips


def _assemble(name: str, nums_clips: Iterable[int], *, output: str) -> None:
  """Makes a shard when all its clips are there; a runner may do this twice, and at the same time."""
  shards.Folder(output, ()).assemble(name, next(iter(nums_clips)))
