"""Measures the speed and memory of the parts of this project on this machine. See `--help`."""

import contextlib
import dataclasses
import json
import sys
from typing import Any

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import preprocess
from i3d_tf.models import zoo

USAGE = """Measures speed and memory on this machine, each figure beside a bound measured in the same run.

  python -m i3d_tf.benchmark network     seconds per clip, forward and for a training step, beside the rate of a
                                         matrix product; with --precision beside float32, with --openvino
                                         and --torch beside OpenVINO and PyTorch
  python -m i3d_tf.benchmark flow --video=FILE
                                         milliseconds per pair of frames of our TV-L1 and of OpenCV's, with one thread
                                         and with all, the difference between the two flows, and what our time is
                                         spent on
  python -m i3d_tf.benchmark input --records=FOLDER
                                         clips per second of the input pipeline of training, beside the rate at which
                                         the same frames are decoded and nothing else is done
  python -m i3d_tf.benchmark train --records=FOLDER
                                         seconds and clips per second of training on these records, the share of the
                                         time that is spent waiting for input, and peak memory
  python -m i3d_tf.benchmark extract --video=FILE
                                         seconds of extract_features per second of video, beside each of its stages
                                         (decode, flow, network) alone; with --lengths peak memory for longer videos
  python -m i3d_tf.benchmark zoo --plot=FILE
                                         all networks, each in a process of its own: parameters, multiply-adds, seconds
                                         per clip, clips per second of training, peak memory; and a figure of published
                                         accuracy against seconds per clip
  python -m i3d_tf.benchmark serve --checkpoint=rgb_scratch
                                         requests a second and latencies of the service by number of --clients, beside
                                         the network alone on the same clips

Figures are medians over --rounds rounds; a ratio is the median of the ratios of each round."""

_PRECISIONS = ["float32", "bfloat16", "float16"]
_ENDPOINTS = [*spec.ENDPOINTS, spec.POOLED_FEATURES, spec.STEP_LOGITS]

FLAGS = flags.FLAGS
cli.define_device_flags()
flags.DEFINE_integer("rounds", 7, "Rounds of measurement, after one that is not counted.", lower_bound=1)
flags.DEFINE_enum("model", "i3d", list(zoo.NAMES), "network, train: the network.")
flags.DEFINE_list("models", None, "zoo: the networks. Default: all.")
flags.DEFINE_string("plot", None, "zoo: the PNG file to draw the figure to.")
flags.DEFINE_integer(
  "frames",
  None,
  "network, input, train, serve: frames of a clip; zoo: the most of them. Default: the model's.",
  lower_bound=1,
)
flags.DEFINE_integer("batch", 1, "network, train, zoo: clips in a batch.", lower_bound=1)
flags.DEFINE_enum(
  "stream", "rgb", list(preprocess.STREAMS_OF), "network, train: a stream that the model takes; input, extract: any."
)
flags.DEFINE_enum(
  "precision", "float32", _PRECISIONS, "network, zoo: type of convolutions and activations, measured beside float32."
)
flags.DEFINE_string(
  "torch", None, "network, zoo: a Python interpreter that has torchvision and pytorchvideo, to time theirs, too."
)
flags.DEFINE_string("openvino", None, "network: a Python interpreter that has OpenVINO, to time the same graph there.")
flags.DEFINE_string("video", None, "flow: a video, whose frames are resized to 340x256 pixels; extract: the video.")
flags.DEFINE_list("images", None, "flow: two images to use in place of a video, in their own size.")
flags.DEFINE_integer("first", 0, "flow: the first frame to use, at 25 frames per second.", lower_bound=0)
flags.DEFINE_integer("pairs", 4, "flow: the number of pairs of frames.", lower_bound=1)
flags.DEFINE_string("records", None, "input, train: the folder of records that prepare_dataset made.")
flags.DEFINE_string("split", "train", "input, train: the split of the records.")
flags.DEFINE_integer(
  "short_side",
  None,
  "input, train, extract: pixels of the shorter side before the crop. Default: the model's.",
  lower_bound=1,
)
flags.DEFINE_integer(
    "crop", None, "network, input, train, extract: height and width of a clip in pixels; zoo: the most of them. "
    "Default: the model's.", lower_bound=1
)  # fmt: skip
flags.DEFINE_integer("clips", 16, "input: clips per round.", lower_bound=1)
flags.DEFINE_boolean("recompute", False, "train: save memory by computing activations again for the gradient.")
flags.DEFINE_enum("endpoint", spec.POOLED_FEATURES, _ENDPOINTS, "extract: the features.")
flags.DEFINE_integer("window", 64, "extract: frames of a window; 0: the whole video.", lower_bound=0)
flags.DEFINE_integer("threads", None, "extract: threads for optical flow. Default: one per core.", lower_bound=1)
flags.DEFINE_list("lengths", [], "extract: seconds of videos, made by repeating --video, to measure memory with.")
flags.DEFINE_string("checkpoint", "rgb_scratch", "serve: weights of RGB: a released name, a path, or a run of train.")
flags.DEFINE_list("clients", ["1", "4", "16"], "serve: numbers of clients that ask at the same time.")
flags.DEFINE_integer("requests", 16, "serve: requests of each number of clients in a round.", lower_bound=1)
flags.DEFINE_string("json", None, "The JSON file to write the figures to, too.")


def main(arguments: list[str]) -> int:
  """Measures what the first argument names, and prints the report; status 1 if a network could not be measured."""
  subjects = {
      "network": _network, "flow": _flow, "input": _input, "train": _train, "extract": _extract, "zoo": _zoo,
      "serve": _serve,
  }  # fmt: skip
  if len(arguments) != 1 or arguments[0] not in subjects:
    given = " ".join(arguments) or "nothing"
    raise errors.I3dError(f"say what to measure: {', '.join(subjects)}; got {given}")
  measure = subjects[arguments[0]]
  with contextlib.ExitStack() as stack:
    # Opened before the work, so that a file that cannot be written is reported at once.
    file = stack.enter_context(workdir.replacing(FLAGS.json)) if FLAGS.json is not None else None
    report = measure()
    if file is not None:
      file.write(json.dumps(dataclasses.asdict(report), indent=2).encode() + b"\n")
  if arguments[0] != "zoo":  # which has printed its report already
    print(report)
  return int(bool(getattr(report, "failures", None)))


def _given(**values: Any) -> dict[str, Any]:
  """Returns the values that are not None."""
  return {name: value for name, value in values.items() if value is not None}


def _clip(**given: Any) -> preprocess.Preprocess:
  """Returns the clip of the model's training, with what the flags and `given` change of it."""
  cli.import_tensorflow()  # the zoo's entries need it
  zoo.check_stream(FLAGS.model, FLAGS.stream)
  given |= _given(num_frames=FLAGS.frames, short_side=FLAGS.short_side, crop=FLAGS.crop)
  return dataclasses.replace(zoo.preprocess(FLAGS.model, FLAGS.stream), **given)


def _records() -> str:
  if not FLAGS.records:
    raise errors.I3dError("--records is missing: the folder of records that prepare_dataset made")
  return FLAGS.records


def _network():
  clip = _clip(**({"short_side": FLAGS.crop} if FLAGS.crop else {}))  # whatever the size, since no video is resized
  from i3d_tf.benchmarks import network

  options = network.NetworkBenchmark(
      rounds=FLAGS.rounds, model=FLAGS.model, stream=FLAGS.stream, batch=FLAGS.batch, clip=clip,
      precision=FLAGS.precision, openvino=FLAGS.openvino, torch=FLAGS.torch,
  )  # fmt: skip
  return network.measure(options)


def _flow():
  from i3d_tf.benchmarks import flow

  if (FLAGS.video is None) == (FLAGS.images is None):
    raise errors.I3dError("give --video, or two --images")
  if FLAGS.images is not None and len(FLAGS.images) != 2:
    raise errors.I3dError(f"--images takes two files, not {len(FLAGS.images)}")
  return flow.measure(cli.from_flags(flow.FlowBenchmark))


def _train():
  records, clip = _records(), _clip()
  from i3d_tf.benchmarks import training

  options = training.TrainingBenchmark(
      rounds=FLAGS.rounds, records=records, split=FLAGS.split, model=FLAGS.model, stream=FLAGS.stream, clip=clip,
      batch=FLAGS.batch, recompute=FLAGS.recompute,
  )  # fmt: skip
  return training.measure_training(options)


def _zoo():
  cli.import_tensorflow()  # the zoo's entries need it
  models = list(zoo.NAMES) if FLAGS.models is None else FLAGS.models
  for model in models:
    zoo.get(model)
  from i3d_tf.benchmarks import comparison

  options = comparison.ZooBenchmark(
      models=models, rounds=FLAGS.rounds, batch=FLAGS.batch, max_frames=FLAGS.frames, max_crop=FLAGS.crop,
      precision=FLAGS.precision, torch=FLAGS.torch,
  )  # fmt: skip
  with workdir.replacing(FLAGS.plot) if FLAGS.plot else contextlib.nullcontext() as plot:
    report = comparison.measure(options)
    print(report)
    if plot is not None:
      plot.write(comparison.draw(report))
  for model, reason in report.failures.items():
    print(f"{model} could not be measured: {reason}", file=sys.stderr)
  return report


def _input():
  records = _records()
  cli.import_tensorflow()
  from i3d_tf.benchmarks import training

  given = _given(frames=FLAGS.frames, short_side=FLAGS.short_side, crop=FLAGS.crop)
  options = training.InputBenchmark(
      rounds=FLAGS.rounds, records=records, split=FLAGS.split, streams=preprocess.STREAMS_OF[FLAGS.stream],
      clips=FLAGS.clips, **given,
  )  # fmt: skip
  return training.measure_input(options)


def _extract():
  if not FLAGS.video:
    raise errors.I3dError("--video is missing: the video whose features are extracted")
  try:
    lengths = tuple(map(float, FLAGS.lengths))
  except ValueError:
    raise errors.I3dError(f"--lengths={','.join(FLAGS.lengths)}; it takes numbers of seconds, as 60,1200") from None
  cli.import_tensorflow()
  from i3d_tf.benchmarks import extract

  options = extract.ExtractionBenchmark(
      rounds=FLAGS.rounds, video=FLAGS.video, streams=preprocess.STREAMS_OF[FLAGS.stream], endpoint=FLAGS.endpoint,
      window=FLAGS.window, threads=FLAGS.threads, lengths=lengths,
      **_given(short_side=FLAGS.short_side, crop=FLAGS.crop),
  )  # fmt: skip
  return extract.measure(options)


def _serve():
  if not all(each.isdecimal() and int(each) for each in FLAGS.clients) or not FLAGS.clients:
    raise errors.I3dError(f"--clients={','.join(FLAGS.clients)}; it takes whole numbers from 1, as 1,16")
  cli.import_tensorflow()
  from i3d_tf.benchmarks import serving

  options = serving.ServeBenchmark(
      rounds=FLAGS.rounds, checkpoint=FLAGS.checkpoint, clients=tuple(map(int, FLAGS.clients)), frames=FLAGS.frames,
      requests=FLAGS.requests,
  )  # fmt: skip
  return serving.measure(options)


def run() -> None:
  """Runs the program; the console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
