"""Turns a data set of videos into TFRecords with frames and optical flow. See `--help`."""

import functools

from absl import flags
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import runners
from i3d_tf import workers
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import datasets
from i3d_tf.data import distribution
from i3d_tf.data import shards

_DATASETS = "\n".join(f"  {', '.join(source.specs):40}  {source.help}" for source in datasets.Source.known)
USAGE = f"""Turns a data set of videos into TFRecords: frames at 25 per second as JPEG, and their optical flow.

  python -m i3d_tf.prepare_dataset --dataset=ucf101:1 --videos=UCF-101 --annotations=ucfTrainTestlist --output=records
  python -m i3d_tf.prepare_dataset --dataset=folder --videos=my_videos --output=records    (one sub-folder a class)

--dataset is one of

{_DATASETS}

A video can also be a folder of numbered images (img_00001.jpg) or a .npy file of frames, of --frame_rate. Flow that
such a folder has (flow_x_00001.jpg, flow_y_00001.jpg; or u/ and v/) is taken as it is.

The output holds SPLIT-NNNNN-of-NNNNN.tfrecord with MediaSequence SequenceExamples, dataset.json (how it was made, the
classes, the counts), failures.tsv (videos that could not be used, and why), missing.tsv (listed videos without a
file) and, if there are such, notes.tsv (videos that were deinterlaced or salvaged, are HDR, or have pixels that are
not square).

It can be stopped or killed at any moment: start it again with the same flags and it goes on after the last finished
video. The result has the same bytes whatever the number of workers and interruptions. The exit status is 1 if more than
--max_failures videos failed.

With --runner a cluster does the same work: Apache Beam (pip install '.[beam]'), Dask ('.[dask]') or Slurm. All its
workers need this project, and must see --videos and --output under the same paths. The bytes are the same, and one
runner goes on where another stopped. data/README.md has the commands."""

FLAGS = flags.FLAGS
with cli.group_of("Input and output"):
  flags.DEFINE_string("dataset", None, f"What the videos are: {', '.join(datasets.specs())}.")
  flags.DEFINE_string("videos", None, "Folder of the videos, an archive, or @FILE, a list; for tfds: its data_dir.")
  flags.DEFINE_string("annotations", None, "Folder of the official lists; for Kinetics it may be one CSV file.")
  flags.DEFINE_string("output", None, "Folder for the records; made if it does not exist.")
with cli.group_of("Records"):
  flags.DEFINE_list(
    "streams", ["rgb", "flow"], "What to store: rgb, flow or both; with audio, also the spectrogram of the sound."
  )
  flags.DEFINE_bool(
    "backward_flow", False, "Store the flow from each frame to the one before, too, for --flow_stacking=bidirectional."
  )
cli.define_flags(shards.RecordConfig, group="Records", exclude=("streams",))
with cli.group_of("Records"):
  flags.DEFINE_integer("clips_per_shard", 32, "Videos in one file, at most.", lower_bound=1)
with cli.group_of("Data set 'folder' without split folders"):
  flags.DEFINE_list("fractions", None, "Fractions of train, val and test. Default: 0.8,0.1,0.1.")
  flags.DEFINE_integer("split_seed", 0, "Seed of the division into splits.")
  flags.DEFINE_string(
    "split_group", None, "Regular expression; clips in whose ids it finds the same text stay together."
  )
with cli.group_of("Work"):
  flags.DEFINE_integer(
    "num_workers", None, "With the local runner: processes, of one thread each. Default: the cores.", lower_bound=1
  )
  flags.DEFINE_bool("retry_failures", False, "Try again the videos that failed when this folder was made.")
  flags.DEFINE_integer("max_failures", 0, "Videos that may fail before the exit status says so.", lower_bound=0)
cli.define_runner_flags(runners.NAMES, group="Work")
for _name in ("dataset", "videos", "output"):
  flags.register_validator(_name, bool, message=f"--{_name} is needed")


def main(arguments: list[str]) -> int:
  """Makes the records that the flags describe, and prints the counts; status 1 if too many videos failed."""
  del arguments
  settings = cli.from_flags(shards.RecordConfig, streams=_streams())
  runner = _runner()
  dataset = datasets.load(FLAGS.dataset, FLAGS.videos, annotations=FLAGS.annotations, folder_split=_folder_split())
  plan = shards.plan(dataset, FLAGS.clips_per_shard)
  parameters = shards.parameters(dataset, settings, clips_per_shard=FLAGS.clips_per_shard)
  folder = shards.Folder(FLAGS.output, plan)
  with folder.claim(parameters):
    if FLAGS.retry_failures:
      folder.reopen_failures()
    tasks = folder.tasks()
    make = functools.partial(
      distribution.make_serialized,
      dataset=dataset.name,
      classes=dataset.classes,
      settings=settings,
      root=FLAGS.videos,
      before=functools.partial(cli.import_tensorflow, quiet=cli.is_quiet()),
    )
    if runner is None:
      _run(folder, tasks, sum(len(shard.clips) for shard in plan), make)
    else:
      distribution.prepare_records(runner, folder, make)
    failures = folder.finish(dataset, parameters, wording=cli.as_flags)
  tried = {task.clip.id for task in tasks}
  return _report(folder, failures, sum(failure["id"] not in tried for failure in failures))


def _streams() -> tuple[str, ...]:
  """The streams that the two flags name."""
  allowed = {"rgb", "flow", "audio"}
  if set(FLAGS.streams) <= {"audio"} or not set(FLAGS.streams) <= allowed or len({*FLAGS.streams}) < len(FLAGS.streams):
    raise errors.I3dError(
      f"--streams={','.join(FLAGS.streams)}; allowed are rgb, flow and rgb,flow, each also with audio"
    )
  if FLAGS.backward_flow and "flow" not in FLAGS.streams:
    raise errors.I3dError("--backward_flow is stored beside flow; it needs --streams with flow")
  for name in ("flow", "flow_params"):
    if FLAGS[name].present and "flow" not in FLAGS.streams:
      raise errors.I3dError(f"--{name} is about flow; it needs --streams with flow")
  return (*FLAGS.streams, "backward_flow") if FLAGS.backward_flow else tuple(FLAGS.streams)


def _folder_split() -> clips_lib.FolderSplit | None:
  own = [name for name in ("fractions", "split_seed", "split_group") if FLAGS[name].present]
  if not own:
    return None
  values = {}
  if FLAGS.fractions is not None:
    try:
      train, val, test = map(float, FLAGS.fractions)
    except ValueError:
      given = ",".join(FLAGS.fractions)
      raise errors.I3dError(f"--fractions={given}; it takes three numbers, as 0.8,0.1,0.1") from None
    values = {"train": train, "val": val, "test": test}
  return clips_lib.FolderSplit(**values, seed=FLAGS.split_seed, group=FLAGS.split_group)


def _runner() -> runners.Runner | None:
  """The runner of the flags; None for the local one."""
  if FLAGS.runner != runners.LOCAL and FLAGS.num_workers is not None:
    raise errors.I3dError(f"--num_workers is for the local runner; {FLAGS.runner} has options of its own for this")
  if FLAGS.runner in runners.OF_BEAM:
    cli.import_tensorflow()  # here, where it can be kept quiet
  paths = [(name, FLAGS[name].value) for name in ("videos", "output")]
  return runners.create(FLAGS.runner, cli.runner_options(), paths=paths, quiet=cli.is_quiet())


def _run(folder: shards.Folder, tasks: list[shards.Task], num_clips: int, make) -> None:
  """Does the tasks that are left, on worker processes, with a progress bar."""
  folder.finish_shards()
  num_workers = min(FLAGS.num_workers or workers.available_cores(), len(tasks))
  if not tasks:
    return
  with workers.Bar(total=num_clips, initial=num_clips - len(tasks), unit="video") as bar:
    for outcome in workers.run(make, tasks, num_workers=num_workers):
      folder.put(outcome.task, outcome.value, outcome.error)
      if outcome.error is not None:
        tqdm.tqdm.write(f"failed: {outcome.task.clip.id}: {cli.as_flags(outcome.error)}")
      folder.finish_shards()
      bar.update()


def _report(folder: shards.Folder, failures: list[dict], num_before: int) -> int:
  for split, counts in folder.read_info()["splits"].items():
    numbers = ", ".join(f"{number} {what}" for what, number in counts.items())
    print(f"{split}: {numbers}")
  if (folder.path / shards.NOTES).exists():
    print(f"what was done with special videos: {folder.path / shards.NOTES}")
  if failures:
    print(f"the videos that failed, and why: {folder.path / shards.FAILURES}")
  if num_before:
    print(f"{num_before} failed in earlier runs; --retry_failures tries them again")
  if len(failures) > FLAGS.max_failures:
    return cli.fail(f"{len(failures)} videos failed, more than --max_failures={FLAGS.max_failures}; the rest is done")
  return 0


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
