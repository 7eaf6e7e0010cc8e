"""Measures this machine. See `--help`."""

import dataclasses
import json

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import files

USAGE = """Measures on this machine, and prints what it measured beside a bound measured in the same run.

  python -m i3d_tf.benchmark network     seconds per clip, forward and one training step, beside the rate of a
                                         matrix product; with --openvino beside OpenVINO, too
  python -m i3d_tf.benchmark flow --video=FILE
                                         milliseconds per pair of our TV-L1 beside OpenCV's, with one thread and
                                         with all, the difference between the two, and where our time goes

Figures are medians over --rounds rounds; ratios are taken round by round."""

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 7, "Rounds of measurement after one that does not count.", lower_bound=1)
flags.DEFINE_integer("frames", 64, "network: frames of the clip.", lower_bound=9)
flags.DEFINE_integer("size", 224, "network: height and width of the clip in pixels.", lower_bound=193, upper_bound=224)
flags.DEFINE_integer("batch", 1, "network: clips in a batch.", lower_bound=1)
flags.DEFINE_enum("stream", "rgb", ["rgb", "flow"], "network: the stream: 3 or 2 channels.")
flags.DEFINE_string("openvino", None, "network: a Python interpreter with OpenVINO, to time the same graph.")
flags.DEFINE_string("video", None, "flow: the video whose frames are used, at 340x256 pixels.")
flags.DEFINE_list("images", None, "flow: two images to use in place of a video, in their own size.")
flags.DEFINE_integer("first", 0, "flow: the first frame to use, at 25 per second.", lower_bound=0)
flags.DEFINE_integer("pairs", 4, "flow: how many pairs of frames.", lower_bound=1)
flags.DEFINE_string("json", None, "Also write the figures to this file.")


def main(arguments: list[str]) -> int:
  subjects = {"network": _network, "flow": _flow}
  if len(arguments) != 1 or arguments[0] not in subjects:
    given = " ".join(arguments) or "nothing"
    raise errors.I3dError(f"say what to measure: {' or '.join(subjects)}; got {given}")
  measure = subjects[arguments[0]]
  if FLAGS.json is None:
    measure()
    return 0
  with files.replacing(FLAGS.json) as file:
    file.write(json.dumps(dataclasses.asdict(measure()), indent=2).encode() + b"\n")
  return 0


def _network():
  cli.import_tensorflow()
  from i3d_tf.benchmarks import network

  options = network.Options(
      rounds=FLAGS.rounds,
      shape=(FLAGS.batch, FLAGS.frames, FLAGS.size, FLAGS.size, {"rgb": 3, "flow": 2}[FLAGS.stream]),
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


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
