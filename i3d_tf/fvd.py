"""Measures the Frechet Video Distance between two sets of videos. See `--help`."""

import contextlib
import json
import sys
from typing import Any

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf.frechet import distance

USAGE = """Measures the Frechet Video Distance (FVD) between two sets of videos: how far apart they are in the logits of
I3D. It is 0 for equal sets; for generated videos lower is better.

  python -m i3d_tf.fvd --real=FOLDER --generated=FOLDER

A set is a folder (searched with its sub-folders) of videos, of folders of numbered images (img_00001.jpg) or of .npy
arrays, a tar or zip file of videos, @FILE, a list of paths, or one such file. Arrays are uint8, 0 to 255, RGB: [frames,
height, width, 3], or [videos, frames, height, width, 3]. From each video one clip of --num_frames consecutive frames is
taken, from a place drawn by --seed and the file's name. The sets need not have the same size.

The set that others are compared with needs to be done only once:
  python -m i3d_tf.fvd --real=FOLDER --save_stats=real.npz
  python -m i3d_tf.fvd --real=real.npz --generated=FOLDER

Frames are resized to 224x224 whatever their shape, and the embedding is rgb_scratch's 400 logits, as in the published
metric. Figures are comparable only for the same weights, resizing, frames in a clip and number of clips, so these are
printed, too. Fewer clips give a larger figure. With --flow_checkpoint there is a second figure of the optical flow, for
which nothing is published.

The interval is where the distance of as many other clips is expected (95 %). It is found by resampling both sets: the
quantiles of the resampled distances, moved down by what repeated clips add to them on average.

Videos that cannot be used are named, up to 20 here and all of them by --json, and the exit status is 1; the figure is
then of the others."""

_NAMED_FAILURES = 20  # on stderr
FLAGS = flags.FLAGS
with cli.group_of("Sets of videos"):
  flags.DEFINE_string("real", None, "The reference: a folder or file, or an .npz of --save_stats.", required=True)
  flags.DEFINE_string("generated", None, "What is measured: the same. It may be left out with --save_stats.")
with cli.group_of("Networks"):
  flags.DEFINE_string("rgb_checkpoint", distance.CHECKPOINT, "RGB weights; others do not give the published FVD.")
  flags.DEFINE_string("flow_checkpoint", None, "Also measure the flow, by these weights: a released name or a path.")
cli.define_flags(distance.FvdConfig, group="Clips", unset={"fps": "each video's own", "max_clips": "all"})
cli.define_device_flags()
with cli.group_of("Output"):
  flags.DEFINE_string("save_stats", None, "Write the statistics of --real to this .npz.")
  flags.DEFINE_string("json", None, "Also write the figures to this file.")


def main(arguments: list[str]) -> int:
  del arguments
  _check_flags()
  cli.import_tensorflow()
  failures: list[str] = []
  with workdir.replacing(FLAGS.json) if FLAGS.json else contextlib.nullcontext() as file:
    result = _run(failures)
    if file is not None:
      file.write(json.dumps({**_to_json(result), "failures": failures}, indent=2).encode() + b"\n")
  return int(any(result.failed.values()))


def _check_flags() -> None:
  if not FLAGS.generated and not FLAGS.save_stats:
    raise errors.I3dError("--generated is missing; only with --save_stats it may be")
  if not FLAGS.generated and FLAGS.json:
    raise errors.I3dError("--json is for the figures, and without --generated there are none")
  for name in ("flow", "flow_params"):
    if FLAGS[name].present and FLAGS.flow_checkpoint is None:
      raise errors.I3dError(f"--{name} is for the distance of flow; give --flow_checkpoint, too")
  if all((FLAGS[name].value or "").lower().endswith(".npz") for name in ("real", "generated")):
    names = ("num_frames", "fps", "max_clips", "batch", "frame_rate", "allow_damaged")
    for name in ("rgb_checkpoint", "flow_checkpoint", *names):
      if FLAGS[name].present:
        raise errors.I3dError(f"--{name} is for videos, but --real and --generated are statistics already")


def _run(failures: list[str]) -> distance.FvdResult:
  """Does what the flags say and prints the result; adds the videos that cannot be used to `failures`."""
  import tqdm

  from i3d_tf.frechet import fvd
  from i3d_tf.video import decode

  def complain(message: str) -> None:
    failures.append(message)
    if len(failures) <= _NAMED_FAILURES:
      tqdm.tqdm.write(f"{cli.program()}: error: {cli.as_flags(message)}", file=sys.stderr)
    elif len(failures) == _NAMED_FAILURES + 1:
      rest = "--json lists them all" if FLAGS.json else "with --json they would all be listed"
      tqdm.tqdm.write(f"{cli.program()}: error: further videos cannot be used; {rest}", file=sys.stderr)

  checkpoints = {"rgb": FLAGS.rgb_checkpoint, "flow": FLAGS.flow_checkpoint}
  with decode.isolated():
    result = fvd.fvd(
      FLAGS.real,
      FLAGS.generated or None,
      checkpoint={stream: path for stream, path in checkpoints.items() if path is not None},
      save_stats=FLAGS.save_stats,
      progress=True,
      on_failure=complain,
      **cli.flag_values(distance.FvdConfig),
    )
  print("\n".join(_describe(result)))
  return result


def _to_json(result: distance.FvdResult) -> dict[str, Any]:
  return {
    "fvd": {stream: _figures(result, stream) for stream in result.distances},
    "clips": dict(result.clips),
    "failed": dict(result.failed),
    "weights": dict(result.weights),
    "resize": distance.RESIZE,
    "num_frames": result.num_frames,
    "fps": result.fps,
    "seed": result.seed,
    **({"flow": result.flow} if "flow" in result.weights else {}),
    "made_by": resources.provenance(),
  }


def _figures(result: distance.FvdResult, stream: str) -> dict[str, Any]:
  found, interval = result.distances[stream], result.intervals[stream]
  figures = {"distance": found.total, "mean_term": found.mean_term, "covariance_term": found.covariance_term}
  if interval is None:
    return {**figures, "interval": None}
  ends = {"low": interval.low, "high": interval.high, "confidence": distance.CONFIDENCE}
  return {**figures, "interval": {**ends, "resamples": FLAGS.resamples, "excess": interval.excess}}


def _describe(result: distance.FvdResult) -> list[str]:
  """The lines to print: the figures, and what they depend on."""
  lines = []
  shown = lambda value: f"{round(value, 3) + 0.0:.3f}"  # no minus before 0
  for stream, found in result.distances.items():
    lines.append(f"{'FVD' if stream == 'rgb' else 'flow FVD'}: {shown(found.total)}")
    lines.append(f"  of the means {shown(found.mean_term)}, of the covariances {shown(found.covariance_term)}")
    if interval := result.intervals[stream]:
      share = f"{100 * distance.CONFIDENCE:g} % interval"
      lines.append(f"  {share} {shown(interval.low)} to {shown(interval.high)} ({FLAGS.resamples} resamples)")
  if lines:
    lines.append("comparable only with figures of the same:")
  for stream, weights in result.weights.items():
    published = {True: "rgb_scratch, the published embedding", False: "not the published embedding"}
    lines.append(f"  {stream} weights: CRC-32 {weights}, {published[weights == distance.PUBLISHED_WEIGHTS]}")
  rate = "each video's own rate" if result.fps is None else f"{result.fps:g} frames per second"
  lines.append(f"  resizing: {distance.RESIZE}")
  lines.append(f"  frames in a clip: {result.num_frames}, at {rate}")
  lines.append("  clips: " + ", ".join(f"{number} {name}" for name, number in result.clips.items()))
  if "flow" in result.weights:
    lines.append(f"  optical flow: {result.flow}")
  for name, number in result.failed.items():
    if number:
      lines.append(f"videos of --{name} that could not be used: {number}")
  return lines


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
