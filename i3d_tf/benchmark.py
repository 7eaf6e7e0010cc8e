"""Measures this machine. See `--help`."""

import contextlib
import dataclasses
import json
import sys

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.features import config
from i3d_tf.input import clip_config
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import zoo

USAGE = """Measures on this machine, and prints what it measured beside a bound measured in the same run.

  python -m i3d_tf.benchmark network     seconds per clip, forward and one training step, beside the rate of a
                                         matrix product; with --openvino beside OpenVINO, too
  python -m i3d_tf.benchmark flow --video=FILE
                                         milliseconds per pair of our TV-L1 beside OpenCV's, with one thread and
                                         with all, the difference between the two, and where our time goes
  python -m i3d_tf.benchmark input --records=FOLDER
                                         clips per second that the input pipeline makes for training, beside the rate
                                         at which the same frames are decoded and nothing else
  python -m i3d_tf.benchmark train --records=FOLDER
                                         seconds and clips per second of a training on these records, the share of
                                         them that it waits for its input, and its peak memory
  python -m i3d_tf.benchmark extract --video=FILE
                                         seconds per second of video of extract_features, beside its stages (decode,
                                         flow, network) alone; with --lengths its peak memory for longer videos
  python -m i3d_tf.benchmark zoo --plot=FILE
                                         all networks, each in a process of its own: parameters, multiply-adds, seconds
                                         per clip, clips per second of training steps, peak memory; and published
                                         accuracy drawn against the seconds

Figures are medians over --rounds rounds; ratios are taken round by round."""

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 7, "Rounds of measurement after one that does not count.", lower_bound=1)
flags.DEFINE_enum("model", "i3d", list(zoo.MODELS), "network, train: which one.")
flags.DEFINE_list("models", None, "zoo: which ones. Default: all.")
flags.DEFINE_string("plot", None, "zoo: draw to this file, a PNG image.")
flags.DEFINE_integer(
  "frames", None, "network, input, train: frames of the clip; zoo: at the most. Default: the model's.", lower_bound=1
)
flags.DEFINE_integer("batch", 1, "network, train, zoo: clips in a batch.", lower_bound=1)
flags.DEFINE_enum(
  "stream", "rgb", list(clip_config.STREAMS_OF), "network, train: what the model takes; input, extract: any."
)
flags.DEFINE_string("openvino", None, "network: a Python interpreter with OpenVINO, to time the same graph.")
flags.DEFINE_string("video", None, "flow: the video whose frames are used, at 340x256 pixels; extract: the video.")
flags.DEFINE_list("images", None, "flow: two images to use in place of a video, in their own size.")
flags.DEFINE_integer("first", 0, "flow: the first frame to use, at 25 per second.", lower_bound=0)
flags.DEFINE_integer("pairs", 4, "flow: how many pairs of frames.", lower_bound=1)
flags.DEFINE_string("records", None, "input, train: the folder of records that prepare_dataset made.")
flags.DEFINE_string("split", "train", "input, train: the split of them.")
flags.DEFINE_integer(
  "short_side",
  None,
  "input, train, extract: pixels of the shorter side before the crop. Default: the model's.",
  lower_bound=1,
)
flags.DEFINE_integer(
    "crop", None, "network, input, train, extract: height and width of the clip in pixels; zoo: at the most. Default: "
    "the model's.", lower_bound=1
)  # fmt: skip
flags.DEFINE_integer("clips", 16, "input: clips in a round.", lower_bound=1)
flags.DEFINE_boolean("recompute", False, "train: compute activations twice to save memory.")
flags.DEFINE_enum("endpoint", spec.POOLED_FEATURES, list(config.ENDPOINTS), "extract: which features.")
flags.DEFINE_integer("window", 64, "extract: frames of a window; 0: all of the video.", lower_bound=0)
flags.DEFINE_integer("threads", None, "extract: threads for optical flow. Default: the cores.", lower_bound=1)
flags.DEFINE_list("lengths", [], "extract: seconds of videos, made by repeating --video, whose memory is measured.")
flags.DEFINE_string("json", None, "Also write the figures to this file.")


def main(arguments: list[str]) -> int:
  subjects = {
      "network": _network, "flow": _flow, "input": _input, "train": _train, "extract": _extract, "zoo": _zoo,
  }  # fmt: skip
  if len(arguments) != 1 or arguments[0] not in subjects:
    given = " ".join(arguments) or "nothing"
    raise errors.I3dError(f"say what to measure: {', '.join(subjects)}; got {given}")
  measure = subjects[arguments[0]]
  if FLAGS.json is None:
    report = measure()
  else:
    with workdir.replacing(FLAGS.json) as file:
      report = measure()
      file.write(json.dumps(dataclasses.asdict(report), indent=2).encode() + b"\n")
  return int(bool(getattr(report, "failures", None)))


def _network():
  clip = _clip()
  cli.import_tensorflow()
  from i3d_tf.benchmarks import network

  options = network.Options(
      rounds=FLAGS.rounds, model=FLAGS.model, stream=FLAGS.stream, batch=FLAGS.batch, num_frames=clip["num_frames"],
      crop=clip["crop"], flow_stack=clip["flow_stack"], openvino=FLAGS.openvino,
  )  # fmt: skip
  report = network.measure(options)
  print(network.describe(report))
  return report


def _flow():
  from i3d_tf.benchmarks import flow

  if (FLAGS.video is None) == (FLAGS.images is None):
    raise errors.I3dError("give --video, or two --images")
  if FLAGS.images is not None and len(FLAGS.images) != 2:
    raise errors.I3dError(f"--images takes two files, not {len(FLAGS.images)}")
  options = flow.Options(
    rounds=FLAGS.rounds,
    video=FLAGS.video,
    images=None if FLAGS.images is None else tuple(FLAGS.images),
    first=FLAGS.first,
    pairs=FLAGS.pairs,
  )
  report = flow.measure(options)
  print(flow.describe(report))
  return report


def _clip() -> dict[str, int]:
  """What the flags give of the clip, and for the rest what the model is trained on."""
  zoo.check_stream(FLAGS.model, FLAGS.stream)
  given = {"num_frames": FLAGS.frames, "short_side": FLAGS.short_side, "crop": FLAGS.crop}
  given = {name: value for name, value in given.items() if value is not None}
  return {"flow_stack": 1, **zoo.training_clips(FLAGS.model, FLAGS.stream), **given}


def _records() -> str:
  if not FLAGS.records:
    raise errors.I3dError("--records is missing: the folder of records that prepare_dataset made")
  return FLAGS.records


def _train():
  records, clip = _records(), _clip()
  cli.import_tensorflow()
  from i3d_tf.benchmarks import train

  options = train.Options(
      rounds=FLAGS.rounds, records=records, split=FLAGS.split, model=FLAGS.model, stream=FLAGS.stream,
      frames=clip["num_frames"], frame_stride=clip["frame_stride"], flow_stack=clip["flow_stack"],
      short_side=clip["short_side"], crop=clip["crop"], batch=FLAGS.batch, recompute=FLAGS.recompute,
  )  # fmt: skip
  report = train.measure(options)
  print(train.describe(report))
  return report


def _zoo():
  models = list(zoo.MODELS) if FLAGS.models is None else FLAGS.models
  for model in models:
    zoo.get(model)
  from i3d_tf.benchmarks import zoo as zoo_benchmark

  options = zoo_benchmark.Options(
    models=models, rounds=FLAGS.rounds, batch=FLAGS.batch, max_frames=FLAGS.frames, max_crop=FLAGS.crop
  )
  with workdir.replacing(FLAGS.plot) if FLAGS.plot else contextlib.nullcontext() as plot:
    report = zoo_benchmark.measure(options)
    print(zoo_benchmark.describe(report))
    if plot is not None:
      plot.write(zoo_benchmark.draw(report))
  for model, reason in report.failures.items():
    print(f"{model} could not be measured: {reason}", file=sys.stderr)
  return report


def _input():
  records = _records()
  cli.import_tensorflow()
  from i3d_tf.benchmarks import input as input_benchmark

  options = input_benchmark.Options(
    rounds=FLAGS.rounds,
    records=records,
    split=FLAGS.split,
    streams=clip_config.STREAMS_OF[FLAGS.stream],
    frames=64 if FLAGS.frames is None else FLAGS.frames,
    short_side=FLAGS.short_side or 256,
    crop=FLAGS.crop or 224,
    clips=FLAGS.clips,
  )
  report = input_benchmark.measure(options)
  print(input_benchmark.describe(report))
  return report


def _extract():
  if not FLAGS.video:
    raise errors.I3dError("--video is missing: the video whose features are extracted")
  try:
    lengths = tuple(map(float, FLAGS.lengths))
  except ValueError:
    raise errors.I3dError(f"--lengths={','.join(FLAGS.lengths)}; it takes numbers of seconds, as 60,1200") from None
  cli.import_tensorflow()
  from i3d_tf.benchmarks import extract

  options = extract.Options(
      rounds=FLAGS.rounds, video=FLAGS.video, streams=clip_config.STREAMS_OF[FLAGS.stream], endpoint=FLAGS.endpoint,
      window=FLAGS.window, short_side=FLAGS.short_side or 256, crop=FLAGS.crop or 224, threads=FLAGS.threads,
      lengths=lengths,
  )  # fmt: skip
  report = extract.measure(options)
  print(extract.describe(report))
  return report


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
