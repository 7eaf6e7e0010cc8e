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

Figures are medians over --rounds rounds; ratios are taken round by round."""

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 7, "Rounds of measurement after one that does not count.", lower_bound=1)
flags.DEFINE_integer("frames", 64, "Frames of the clip.", lower_bound=9)
flags.DEFINE_integer("size", 224, "Height and width of the clip in pixels.", lower_bound=193, upper_bound=224)
flags.DEFINE_integer("batch", 1, "Clips in a batch.", lower_bound=1)
flags.DEFINE_enum("stream", "rgb", ["rgb", "flow"], "The stream whose network is measured: 3 or 2 channels.")
flags.DEFINE_string("openvino", None, "A Python interpreter with OpenVINO, whose time for the same graph is measured.")
flags.DEFINE_string("json", None, "Also write the figures to this file.")


def main(arguments: list[str]) -> int:
  if arguments != ["network"]:
    raise errors.I3dError(f"say what to measure: network; got {' '.join(arguments) or 'nothing'}")
  if FLAGS.json is None:
    _measure()
    return 0
  with files.replacing(FLAGS.json) as file:
    file.write(json.dumps(dataclasses.asdict(_measure()), indent=2).encode() + b"\n")
  return 0


def _measure():
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


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
