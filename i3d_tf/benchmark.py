"""Measures this machine. See `--help`."""

import dataclasses
import json

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import files
from i3d_tf.video import clip_options

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

Figures are medians over --rounds rounds; ratios are taken round by round."""

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 7, "Rounds of measurement after one that does not count.", lower_bound=1)
flags.DEFINE_integer("frames", 64, "network, input, train: frames of the clip.", lower_bound=9)
flags.DEFINE_integer("size", 224, "network: height and width of the clip in pixels.", lower_bound=193, upper_bound=224)
flags.DEFINE_integer("batch", 1, "network, train: clips in a batch.", lower_bound=1)
flags.DEFINE_enum(
    "stream", "rgb", ["rgb", "flow", "joint"], "network, train: rgb or flow; input: the same, or both."
)
flags.DEFINE_string("openvino", None, "network: a Python interpreter with OpenVINO, to time the same graph.")
flags.DEFINE_string("video", None, "flow: the video whose frames are used, at 340x256 pixels.")
flags.DEFINE_list("images", None, "flow: two images to use in place of a video, in their own size.")
flags.DEFINE_integer("first", 0, "flow: the first frame to use, at 25 per second.", lower_bound=0)
flags.DEFINE_integer("pairs", 4, "flow: how many pairs of frames.", lower_bound=1)
flags.DEFINE_string("records", None, "input, train: the folder of records that prepare_dataset made.")
flags.DEFINE_string("split", "train", "input, train: the split of them.")
flags.DEFINE_integer("short_side", 256, "input, train: pixels of the shorter side before the crop.", lower_bound=1)
flags.DEFINE_integer("crop", 224, "input, train: height and width of the crop in pixels.", lower_bound=1)
flags.DEFINE_integer("clips", 16, "input: clips in a round.", lower_bound=1)
flags.DEFINE_boolean("recompute", False, "train: compute activations twice to save memory.")
flags.DEFINE_string("json", None, "Also write the figures to this file.")


def main(arguments: list[str]) -> int:
  subjects = {"network": _network, "flow": _flow, "input": _input, "train": _train}
  if len(arguments) != 1 or arguments[0] not in subjects:
    given = " ".join(arguments) or "nothing"
    raise errors.I3dError(f"say what to measure: {', '.join(subjects)}; got {given}")
  measure = subjects[arguments[0]]
  if FLAGS.json is None:
    measure()
    return 0
  with files.replacing(FLAGS.json) as file:
    file.write(json.dumps(dataclasses.asdict(measure()), indent=2).encode() + b"\n")
  return 0


def _network():
  _one_stream()
  cli.import_tensorflow()
  from i3d_tf.benchmarks import network

  options = network.Options(
      rounds=FLAGS.rounds,
      shape=(FLAGS.batch, FLAGS.frames, FLAGS.size, FLAGS.size, clip_options.CHANNELS[FLAGS.stream]),
      openvino=FLAGS.openvino,
  )
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


def _one_stream() -> str:
  if FLAGS.stream == "joint":
    raise errors.I3dError("--stream=joint is for input; a network has one stream, rgb or flow")
  return FLAGS.stream


def _records() -> str:
  if not FLAGS.records:
    raise errors.I3dError("--records is missing: the folder of records that prepare_dataset made")
  return FLAGS.records


def _train():
  records, stream = _records(), _one_stream()
  cli.import_tensorflow()
  from i3d_tf.benchmarks import train

  options = train.Options(
      rounds=FLAGS.rounds, records=records, split=FLAGS.split, stream=stream, frames=FLAGS.frames,
      short_side=FLAGS.short_side, crop=FLAGS.crop, batch=FLAGS.batch, recompute=FLAGS.recompute,
  )  # fmt: skip
  report = train.measure(options)
  print(train.describe(report))
  return report


def _input():
  records = _records()
  cli.import_tensorflow()
  from i3d_tf.benchmarks import input as input_benchmark

  options = input_benchmark.Options(
      rounds=FLAGS.rounds,
      records=records,
      split=FLAGS.split,
      streams=("rgb", "flow") if FLAGS.stream == "joint" else (FLAGS.stream,),
      frames=FLAGS.frames,
      short_side=FLAGS.short_side,
      crop=FLAGS.crop,
      clips=FLAGS.clips,
  )
  report = input_benchmark.measure(options)
  print(input_benchmark.describe(report))
  return report


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
