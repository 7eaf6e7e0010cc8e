"""Extracts features from videos. See `--help`."""

import functools
import sys

from absl import flags
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import inference
from i3d_tf import resources
from i3d_tf import runners
from i3d_tf import workers
from i3d_tf.features import profiles
from i3d_tf.input import clip_config
from i3d_tf.models import inception_spec as spec

_ENDPOINTS = (*spec.ENDPOINTS, spec.POOLED_FEATURES, spec.STEP_LOGITS)


def _presets() -> str:
  """A line a preset: what differs from what the flags do by default."""
  lines = []
  for name, preset in profiles.PRESETS.items():
    options = preset.options
    rate = f"{options['fps']:g} fps" if options["fps"] else "own rate"
    hop = options["window"] if options["hop"] is None else options["hop"]
    windows = "whole video" if options["window"] == profiles.ALL else f"{options['window']}/{hop} {options['tail']}"
    network = "" if preset.networks == ("i3d",) else f", {preset.networks[0]}"
    streams, crops = "+".join(options["streams"]), options["crops"]
    lines.append(f"  {name:22}{rate}, {windows}, {streams}, crops {crops}{network}, files of {preset.profile}")
  return "\n".join(lines)


USAGE = f"""Extracts features from videos: what a trained network computes on the way to its classes.

  python -m i3d_tf.extract_features --input=videos --output=features --rgb_checkpoint=rgb_scratch

--input takes videos, folders (searched with their sub-folders) and folders of records of prepare_dataset. A folder of
numbered images (img_00001.jpg), perhaps with flow (flow_x_00001.jpg, flow_y_00001.jpg; or u/ and v/), is a video of
--frame_rate, and so is a .npy file of frames. Tar and zip files of videos are taken as folders are; --input=@FILE is a
list of paths. A video is resampled to --fps and cut into windows, each of which is run by itself; --window=all runs all
of it, exactly as one pass would, in memory that does not grow with its length. Flow is computed from the frames
(--flow), or comes from the record or the folder. With flow a video of N frames has N - 1 positions, for RGB, too, if
both are taken.

Profiles, that is which files are written, and the flags that they set if these are not given:
  ours            ID-STREAM-ENDPOINT.npz: features, timestamps and what they are of
  video_features  STEM_rgb.npy, STEM_flow.npy [N, 1024], STEM_fps.npy, STEM_timestamps_ms.npy
                  --streams=rgb,flow --window=64 --tail=drop
  pytorch_i3d     ID.npy [N, 1, 1, 1024]; of two streams rgb/ID.npy, flow/ID.npy     --window=all
  cmcs            ID-rgb.npz, ID-flow.npz: feature [crops, N, 1024], frame_cnt, video_name
                  --streams=rgb,flow --window=16 --tail=drop
  actionformer    ID.npy [N, 2048]: RGB, then flow     --streams=rgb,flow --window=16 --hop=4 --tail=drop
  rtfm            ID_i3d.npy [N, 10, 1024]             --window=16 --crops=10 --tail=drop
  bmt             STEM_rgb.npy, STEM_flow.npy [N, 1024]     --streams=rgb,flow --window=64 --tail=short
  xd_violence     STEM__0.npy ... STEM__4.npy [N, 1024], a file a crop     --window=16 --crops=5
  deepmil         STEM.npy [N, 10, 1024]               --window=16 --crops=10 --tail=drop
The layouts are those of the projects of these names, and so are the defaults except for --fps (0: the video's own).

--preset=NAME takes all of a published protocol: layout, rate, windows, resizing, crops and their order. Flags that are
given win. What it cannot know are the weights, and the method of optical flow, which is TV-L1 here.
{_presets()}

--predictions=csv (or json) also writes ID-predictions.csv: the --top_k best classes of each window, with its start and
end in seconds, their probabilities and logits, for each stream and for both added.

The output holds manifest.jsonl, a line an input: its files with their shapes and checksums, the seconds it took, or why
it could not be used. Such inputs are named, too, and the exit status is 1. A run can be stopped or killed at any
moment; started again it goes on with what is left, within a video, too. On several machines, give each --num_shards and
its --shard, with one --output for all; or a --runner for a cluster: Apache Beam (pip install '.[beam]'), Dask
('.[dask]') or Slurm, whose workers must see --input and --output under the same paths.

Endpoints of I3D: {", ".join(_ENDPOINTS[:3])}, ..., {", ".join(_ENDPOINTS[-4:])}. Every
network has PooledFeatures, what it gives its classifier, and Logits; an unknown name is answered with its list."""

FLAGS = flags.FLAGS
cli.define_paths("input", "Videos, folders of videos, and folders of records.", default=[], required=True)
flags.DEFINE_string("output", None, "Folder for the features; made if it is not there.", required=True)
cli.define_flags(
  profiles.FeatureConfig, group="Network", names=("rgb_checkpoint", "flow_checkpoint", "joint_checkpoint")
)
cli.define_flags(inference.InferenceConfig, group="Network")
cli.define_device_flags()
_OF_PROFILE = (
    "streams", "endpoints", "pooling", "hop", "tail", "crop_order", "fps", "frame_size", "resize", "rgb_input",
    "flow_bytes", "centre", "stride",
)  # fmt: skip
_UNSET = {**dict.fromkeys(_OF_PROFILE, "the profile's"), "hop": "the window", "profile": "ours, or the preset's"}
_UNSET |= {"fps": "25, or the preset's", "frame_size": "the aspect is kept", "resize": "opencv, or the preset's"}
_UNSET |= {"rgb_input": "network, or the preset's", "flow_bytes": "none, or the preset's"}
_UNSET |= {"centre": "down, or the preset's", "stride": "the network's, or the preset's"}
_TAKEN = (
    "preset", "profile", "streams", "endpoints", "pooling", "hop", "stride", "offset", "tail", "crop_order",
    "predictions", "top_k",
)  # fmt: skip
cli.define_flags(
    profiles.FeatureConfig, group="What is taken", names=_TAKEN,
    unset={name: text for name, text in _UNSET.items() if name in _TAKEN},
)  # fmt: skip
with cli.group_of("What is taken"):
  flags.DEFINE_string(
    "window",
    None,
    "Frames of a window after resampling, or all: the whole video. Default: the profile's, or 64; of networks that "
    "take clips of one length, theirs.",
  )
  flags.DEFINE_enum(
    "crops", None, [str(number) for number in profiles.CROPS],
    "1: the centre; 5: the corners, too; 10: and their mirror images. Default: 1, or the profile's.",
  )  # fmt: skip
cli.define_flags(
    profiles.FeatureConfig, group="Frames",
    names=(
        "fps", "short_side", "frame_size", "resize", "rgb_input", "crop", "centre", "frame_rate",
        "allow_damaged", "flow_bound", "flow_bytes", "flow", "flow_params",
    ),
    unset={"short_side": "the network's", "crop": "the network's"}
    | {name: _UNSET[name] for name in ("fps", "frame_size", "resize", "rgb_input", "flow_bytes", "centre")},
)  # fmt: skip
cli.define_flags(
    profiles.FeatureConfig, group="Running", names=("batch", "chunk", "threads"),
    unset={"batch": "as many as have 64 frames", "threads": "the cores"},
)  # fmt: skip
with cli.group_of("Running"):
  flags.DEFINE_bool("retry_failures", False, "Try again the inputs that failed in earlier runs.")
  flags.DEFINE_integer("num_shards", 1, "Divide the inputs among so many runs.", lower_bound=1)
  flags.DEFINE_integer("shard", 0, "Which of the shards this run does, counted from 0.", lower_bound=0)
cli.define_runner_flags(runners.NAMES, group="Running")


def main(arguments: list[str]) -> int:
  """Extracts the features that the flags ask for, and prints how many videos have them."""
  del arguments
  options = _options()
  cli.import_tensorflow()
  paths = [("output", FLAGS.output), *(("input", path) for path in FLAGS.input)]
  runner = runners.create(FLAGS.runner, cli.runner_options(), paths=paths, quiet=cli.is_quiet())
  from i3d_tf.features import extraction
  from i3d_tf.features import results
  from i3d_tf.features import sources as sources_lib

  sources = sources_lib.list_sources(FLAGS.input)
  sources_lib.check_ids(sources, lambda source: profiles.output_name(options.profile, source.id))
  sources = sources[FLAGS.shard :: FLAGS.num_shards]
  extractor = extraction.Extractor(options)
  folder = results.Folder(FLAGS.output, part=f"shard-{FLAGS.shard:05}-of-{FLAGS.num_shards:05}")
  with folder.claim(extractor.meaning, about={"made_by": resources.provenance()}):
    tasks = [sources[number] for number in folder.left(sources, retry_failures=FLAGS.retry_failures)]
    if tasks and runner is not None:
      _run_elsewhere(runner, tasks, options, folder)
    else:
      _run(tasks, len(sources), extractor, folder)
    folder.finish(wording=cli.as_flags)
    return _report(sources, tasks, folder)


def _options() -> profiles.FeatureConfig:
  """The options that the flags give, those not given as the profile has them."""
  if FLAGS.shard >= FLAGS.num_shards:
    raise errors.I3dError(f"--shard={FLAGS.shard}; shards are counted from 0, and there are {FLAGS.num_shards}")
  if FLAGS.joint_checkpoint is not None:
    given = [name for name in ("rgb_checkpoint", "flow_checkpoint", "streams") if FLAGS[name].present]
    if given:
      raise errors.I3dError(f"--joint_checkpoint is of both streams at once; leave out --{given[0]}")
  defaults = {} if FLAGS.preset is None else dict(profiles.PRESETS[FLAGS.preset].options)
  defaults["profile"] = FLAGS.profile or defaults.get("profile", "ours")
  defaults = {**profiles.PROFILES[defaults["profile"]].defaults, **defaults}
  streams = FLAGS.streams or defaults["streams"]
  for stream in clip_config.STREAMS:
    if FLAGS[f"{stream}_checkpoint"].present and stream not in streams:
      raise errors.I3dError(f"--{stream}_checkpoint is given, but --streams={','.join(streams)} has no {stream}")
  for name in ("flow", "flow_params"):
    if FLAGS[name].present and "flow" not in streams and FLAGS.joint_checkpoint is None:
      raise errors.I3dError(f"--{name} is given, but --streams={','.join(streams)} has no flow")
  own = {name: FLAGS[name].value for name in _OF_PROFILE}
  own |= {"window": _window(), "crops": None if FLAGS.crops is None else int(FLAGS.crops)}
  own = {name: value for name, value in own.items() if value is not None}
  if FLAGS.hop is None and "window" in own:
    own["hop"] = None  # the profile's is for its own window
  return cli.from_flags(profiles.FeatureConfig, **{**defaults, **own})


def _window() -> int | None:
  if FLAGS.window is None:
    return None
  if FLAGS.window == "all":
    return profiles.ALL
  if not FLAGS.window.isdecimal() or int(FLAGS.window) < 1:
    raise errors.I3dError(f"--window={FLAGS.window}; it is a number of frames, or all")
  return int(FLAGS.window)


def _run(tasks: list, num_sources: int, extractor, folder) -> None:
  """Does what is left to do, with a progress bar over the videos and one over the current one."""
  from i3d_tf.features import extraction
  from i3d_tf.video import decode

  with decode.isolated(), workers.Bar(total=num_sources, initial=num_sources - len(tasks), unit="video") as bar:
    for source in tasks:
      with tqdm.tqdm(desc=source.id, unit="frame", disable=None, leave=False, position=1) as current:
        entry = extraction.extract(source, extractor, folder, bar=current)
      if "error" in entry:
        tqdm.tqdm.write(f"{cli.program()}: error: {cli.as_flags(entry['error'])}", file=sys.stderr)
      bar.update()


def _run_elsewhere(runner: runners.Runner, tasks: list, options: profiles.FeatureConfig, folder) -> None:
  """The same on the workers of a runner."""
  from i3d_tf.features import extraction

  function = functools.partial(extraction.extract_in_worker, options=options, output=FLAGS.output)
  folder.forget([source.key for source in tasks])

  def left() -> list:
    entries = folder.entries()
    return [source for source in tasks if source.key not in entries]

  runners.finish(runner, function, left, work=folder.work, unit="video", folder=folder.path)


def _report(sources: list, tasks: list, folder) -> int:
  entries = folder.entries()
  failed = [source for source in sources if "error" in entries[source.key]]
  before = set(source.name for source in failed) - set(source.name for source in tasks)
  print(f"{len(sources) - len(failed)} of {len(sources)} videos have features in {folder.path}, {len(failed)} failed")
  if before:
    print(f"{len(before)} failed in earlier runs; --retry_failures tries them again, {folder.manifest} says why")
  elif failed:
    print(f"why they failed: {folder.manifest}")
  return int(bool(failed))


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
