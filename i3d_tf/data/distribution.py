"""Records of clips that are made elsewhere than in the launcher: by worker processes, or on a runner's workers."""

from collections.abc import Callable
import functools
import os
from typing import Any

from i3d_tf import runners
from i3d_tf import workers
from i3d_tf.data import shards


def make_serialized(
  task: shards.Task,
  *,
  dataset: str,
  classes: tuple[str, ...],
  settings: shards.RecordConfig,
  root: str | os.PathLike,
  before: Callable[[], Any],
) -> shards.Made:
  """Returns the record of one clip; runs in a worker process.

  Args:
    task: The clip.
    dataset: The data set's name.
    classes: Names in the order of their indices.
    settings: How the record is made.
    root: The folder that the record's path is relative to.
    before: Called first, for example to import TensorFlow without its messages.

  Raises:
    VideoError: If the video cannot be read whole, or has too few frames for flow.
    I3dError: If the label is none of `classes`.
  """
  before()
  import cv2

  from i3d_tf.data import prepare
  from i3d_tf.data import records

  cv2.setNumThreads(1)
  record = prepare.make_record(task.clip, dataset=dataset, classes=classes, settings=settings, root=root)
  return shards.Made(records.serialize(record), record.notes)


def prepare_records(
  runner: runners.Runner, folder: shards.Folder, make: Callable[[shards.Task], bytes | shards.Made]
) -> None:
  """Does what is left to do in a folder on the workers of a runner: first the clips, then the shards.

  The workers put records into the output folder with the code of the local runner (`shards.Folder`), so that both write
  the same bytes, either goes on where the other stopped, and a worker holds one record in memory at a time. A clip that
  cannot be used, or that kills the process that works on it, fails as it does with `workers.run`.

  Args:
    runner: From `runners.create`.
    folder: Claimed by the caller.
    make: Makes the serialized record of a clip; is pickled.

  Raises:
    I3dError: If the runner fails, or its workers wrote elsewhere.
  """
  output = str(folder.path)
  finish = functools.partial(runners.finish, runner, work=folder.work, folder=output)
  finish(functools.partial(_make_piece, output=output, make=make), folder.tasks, unit="video")
  finish(functools.partial(_assemble, output=output), folder.whole_shards, unit="shard")


def _make_piece(task: shards.Task, *, output: str, make: Callable[[shards.Task], bytes | shards.Made]) -> None:
  """Keeps the record of a clip, or why there is none."""
  outcome = workers.call(make, task)
  shards.Folder(output, ()).put(task, outcome.value, outcome.error)


def _assemble(shard: tuple[str, int], *, output: str) -> None:
  """Puts together a shard, given its name and number of clips; a runner may do this twice, and at the same time."""
  shards.Folder(output, ()).assemble(*shard)
