"""The work of `prepare_dataset` on a cluster, or on this machine, through Apache Beam (the extra `beam`).

The workers put records into the output folder with the code of the local runner (`shards.Folder`), so that both write
the same bytes, either goes on where the other stopped, and a worker holds one record in memory at a time.
"""

from collections.abc import Callable, Iterable
import functools

from i3d_tf import errors
from i3d_tf.data import beam as beam_lib
from i3d_tf.data import shards


def run(pipeline, folder: shards.Folder, make: Callable[[shards.Task], bytes]) -> None:
  """Does what is left to do in `folder` on the workers of `pipeline`, and waits for it.

  A record that cannot be made for an I3dError or OSError is its clip's failure, as in `workers.run`. Any other
  exception, and the death of a worker, is the runner's to retry; if it gives up, what was done stays.

  Args:
    pipeline: from `beam.new_pipeline`.
    folder: locked by the caller.
    make: makes the serialized record of a clip; is pickled.

  Raises:
    I3dError: if the pipeline fails, or its workers wrote elsewhere.
  """
  tasks = folder.tasks()
  folder.finish_shards()
  if not tasks:
    return
  _build(pipeline, folder, tasks, make)
  beam_lib.wait(pipeline)
  beam_lib.check_done(len(folder.tasks()), len(tasks), "clips", folder.path)
  folder.finish_shards()


def _build(pipeline, folder: shards.Folder, tasks: Iterable[shards.Task], make: Callable[[shards.Task], bytes]) -> None:
  """Adds the steps: clips, spread over the workers -> their pieces in the work folder -> shards.

  Beam's TFRecord IO (`apache-beam[tfrecord]`) has no part in this: it would itself choose the order of the records and
  which of them share a file. `shards.frame` makes the bytes, as ever.
  """
  import apache_beam as beam

  output = str(folder.path)
  clips = [(task, folder.num_clips(task.shard)) for task in tasks]
  _ = (
    beam_lib.spread(pipeline, folder.work / "tasks.pickle", clips)
    | "Make" >> beam.MapTuple(functools.partial(_make_piece, output=output, make=make))
    | "Shard" >> beam.GroupByKey()
    | "Assemble" >> beam.MapTuple(functools.partial(_assemble, output=output))
  )


def _make_piece(
  task: shards.Task, num_clips: int, *, output: str, make: Callable[[shards.Task], bytes]
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
