"""Measures the Frechet Video Distance between sets of videos. See `--help`."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import sys
from typing import Any

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import runners
from i3d_tf import workdir
from i3d_tf.frechet import distance
from i3d_tf.frechet import protocols

USAGE = """Measures the Frechet Video Distance (FVD) between two sets of videos: how far apart they are in the logits of
I3D. It is 0 for equal sets; for generated videos lower is better.

  python -m i3d_tf.fvd --real=FOLDER --generated=FOLDER

A set is a folder (searched with its sub-folders) of videos, GIFs, folders of numbered images (img_00001.jpg) or .npy
arrays; a tar or zip file of videos; @FILE, a list of paths; one such file; or an .npz or HDF5 file of arrays. An array
is one clip or several: [videos, frames, height, width, 3], or with the colours before, --layout. Its values are bytes,
or floating point in --value_range. The sets need not have the same size, nor fit in memory.

From each video one clip of --num_frames consecutive frames is taken, from a place drawn by --seed and the file's name,
unless --protocol says otherwise. Figures are comparable only for the same protocol, weights and number of clips, so
these are printed, too, and what is known about other programs. Fewer clips give a larger figure.

With --runner the workers of a cluster embed the videos, and leave that in the folder --work: Apache Beam
(pip install '.[beam]'), Dask ('.[dask]') or Slurm. They must see the videos, the checkpoint if it is a path, and --work
under the same paths. The figure is the same to the last digit.

Several generated sets, such as checkpoints of a training, are compared with one reference; --plot draws them against
the last number in their names. --lengths=10,16,24 compares the first frames of all videos, for each of these numbers:
  python -m i3d_tf.fvd --real=FOLDER --generated=step_1000,step_2000,step_3000 --plot=fvd.png

The set that others are compared with needs to be done only once. With --cache a run that was killed goes on:
  python -m i3d_tf.fvd --real=FOLDER --save_stats=real.npz --cache=embeddings.db
  python -m i3d_tf.fvd --real=real.npz --generated=FOLDER --measures=kvd,fvd_infinity,precision_recall

With --flow_checkpoint there is a second figure of the optical flow, for which nothing is published. The interval is
where the distance of as many other clips is expected (95 %). It is found by resampling both sets: the quantiles of the
resampled distances, moved down by what repeated clips add to them on average.

Videos that cannot be used are counted, the first ones named, and all of them by --json, and the exit status is 1; the
figure is then of the others."""

_NAMED_FAILURES = 3  # on stderr
_UNSET = {
  **dict.fromkeys(("num_frames", "frame_step", "clips_per_video", "order", "start", "resize"), "the protocol's"),
  "fps": "each video's own",
  "max_clips": "all, or the protocol's",
  "value_range": "there are no floats",
}
FLAGS = flags.FLAGS
with cli.group_of("Sets of videos"):
  flags.DEFINE_string("real", None, "The reference: a folder or file, or an .npz of --save_stats.", required=True)
  cli.define_paths("generated", "What is measured: the same, or several. It may be left out with --save_stats.")
with cli.group_of("Networks"):
  flags.DEFINE_string("rgb_checkpoint", protocols.CHECKPOINT, "RGB weights; others do not give the published FVD.")
  flags.DEFINE_string("flow_checkpoint", None, "Also measure the flow, by these weights: a released name or a path.")
cli.define_flags(protocols.FvdConfig, group="Clips", unset=_UNSET)
with cli.group_of("Clips"):
  flags.DEFINE_alias("range", "value_range")
  flags.DEFINE_list("lengths", [], "Measure the first so many frames of all videos, for each of these numbers.")
cli.define_device_flags()
with cli.group_of("Output"):
  flags.DEFINE_string("cache", None, "Keep embeddings in this file, and take those that it has.")
  flags.DEFINE_string("save_stats", None, "Write the statistics of --real to this .npz.")
  flags.DEFINE_string("json", None, "Also write the figures to this file.")
  flags.DEFINE_string("plot", None, "Draw the distance of several sets against the number in their names: a PNG.")


with cli.group_of("Running"):
  flags.DEFINE_string("work", None, "With --runner: the folder of the embeddings, made if it is not there.")
cli.define_runner_flags(runners.NAMES, group="Running")


def main(arguments: list[str]) -> int:
  del arguments
  names = _names()
  _check_flags()
  cli.import_tensorflow()
  failures: list[str] = []
  with workdir.replacing(FLAGS.json) if FLAGS.json else contextlib.nullcontext() as file:
    results = _run(names, failures)
    if file is not None:
      file.write(json.dumps({**_to_json(results), "failures": failures}, indent=2).encode() + b"\n")
  if FLAGS.plot:
    _plot(results)
  return int(any(any(result.failed.values()) for result in results.values()))


def _names() -> dict[str, str]:
  """The generated sets by name: 'generated' if it is one, else what their paths differ in."""
  paths = FLAGS.generated or []
  if len(paths) == 1:
    return {"generated": paths[0]}
  short = [os.path.basename(os.path.normpath(path)) for path in paths]
  names = short if len(set(short)) == len(short) else paths
  if len(set(names)) < len(names) or "real" in names:
    raise errors.I3dError("--generated names a set twice, or one called real; give every set once, by another name")
  return dict(zip(names, paths))


def _check_flags() -> None:
  from i3d_tf.frechet import arrays

  if not FLAGS.generated and not FLAGS.save_stats:
    raise errors.I3dError("--generated is missing; only with --save_stats it may be")
  if not FLAGS.generated and FLAGS.json:
    raise errors.I3dError("--json is for the figures, and without --generated there are none")
  if FLAGS.lengths:
    _check_lengths()
  elif FLAGS.plot and len(FLAGS.generated or ()) < 2:
    raise errors.I3dError("--plot needs several sets of --generated, or --lengths")
  elif FLAGS.plot and (without := [name for name in _names() if not re.search(r"\d", name)]):
    raise errors.I3dError(f"--plot needs numbers in the names of the sets; {without[0]} has none")
  if (FLAGS.runner == runners.LOCAL) != (FLAGS.work is None):
    raise errors.I3dError(
      "--work is for a --runner other than local, which needs it: the folder of what its workers do"
    )
  if FLAGS.work is not None and (FLAGS.lengths or FLAGS.cache):
    raise errors.I3dError(f"--{'lengths' if FLAGS.lengths else 'cache'} does not go with --runner")
  for name in ("flow", "flow_params"):
    if FLAGS[name].present and FLAGS.flow_checkpoint is None:
      raise errors.I3dError(f"--{name} is for the distance of flow; give --flow_checkpoint, too")
  if FLAGS.generated and all(arrays.is_statistics(path) for path in (FLAGS.real, *FLAGS.generated)):
    names = ("num_frames", "frame_step", "fps", "max_clips", "clips_per_video", "batch", "frame_rate", "allow_damaged")
    for name in ("rgb_checkpoint", "flow_checkpoint", "cache", "layout", "value_range", *names):
      if FLAGS[name].present:
        raise errors.I3dError(f"--{name} is for videos, but --real and --generated are statistics already")


def _check_lengths() -> None:
  if not all(each.isdecimal() for each in FLAGS.lengths):
    raise errors.I3dError(f"--lengths={','.join(FLAGS.lengths)}; it takes whole numbers separated by commas")
  if len(FLAGS.generated or ()) != 1:
    raise errors.I3dError("--lengths is for one set of --generated")
  for name in ("num_frames", "start", "save_stats"):
    if FLAGS[name].present:
      raise errors.I3dError(f"--{name} does not go with --lengths, which takes the first frames of each video")


def _run(names: dict[str, str], failures: list[str]) -> dict[str, Any]:
  """Does what the flags say and prints the results; adds the videos that cannot be used to `failures`."""
  from i3d_tf.frechet import distribution
  from i3d_tf.frechet import fvd
  from i3d_tf.video import decode

  paths = [("real", FLAGS.real), *names.items(), ("work", FLAGS.work or "")]
  runner = runners.create(FLAGS.runner, cli.runner_options(), paths=paths, quiet=cli.is_quiet())
  checkpoints = {"rgb": FLAGS.rgb_checkpoint, "flow": FLAGS.flow_checkpoint}
  how = {
    "checkpoint": {stream: path for stream, path in checkpoints.items() if path is not None},
    "save_stats": FLAGS.save_stats,
    "cache": FLAGS.cache,
    "progress": True,
    "work": None if runner is None else distribution.Work(runner, FLAGS.work),
    "on_failure": lambda message: failures.append(cli.as_flags(message)),
    **cli.flag_values(protocols.FvdConfig),
  }
  with decode.isolated():
    if FLAGS.lengths:
      lengths = sorted(map(int, FLAGS.lengths))
      curve = fvd.fvd_by_length(FLAGS.real, names["generated"], lengths, **how)
      results = {f"first {length} frames": result for length, result in curve.items()}
    elif names:
      results = fvd.compare_generators(FLAGS.real, names, **how)
    else:
      results = {"": fvd.fvd(FLAGS.real, None, **how)}
  if failures:
    named = "; ".join(failures[:_NAMED_FAILURES])
    rest = len(failures) - _NAMED_FAILURES
    rest_of = "" if rest <= 0 else f"; and {rest} more, which {'--json' if FLAGS.json else 'with --json it'} lists"
    count = f"{len(failures)} videos cannot be used: " if len(failures) > 1 else ""
    print(f"{cli.program()}: error: {count}{named}{rest_of}", file=sys.stderr)
  print("\n".join(_describe(results)))
  return results


def _to_json(results: dict[str, Any]) -> dict[str, Any]:
  found = {name: _one_to_json(result) for name, result in results.items()}
  about = {"made_by": resources.provenance()}
  return {**next(iter(found.values())), **about} if len(found) == 1 else {"results": found, **about}


def _one_to_json(result: Any) -> dict[str, Any]:
  return {
    "fvd": {stream: _figures(result, stream) for stream in result.distances},
    "clips": dict(result.clips),
    "failed": dict(result.failed),
    "weights": dict(result.weights),
    "resize": protocols.RESIZES[result.protocol.resize],
    "num_frames": result.num_frames,
    "fps": result.fps,
    "seed": result.seed,
    "protocol": dataclasses.asdict(result.protocol),
    "remarks": list(result.remarks),
    **({"flow": result.flow} if "flow" in result.weights else {}),
  }


def _figures(result: Any, stream: str) -> dict[str, Any]:
  found, interval = result.distances[stream], result.intervals[stream]
  figures = {"distance": found.total, "mean_term": found.mean_term, "covariance_term": found.covariance_term}
  if stream in result.measures:
    figures |= {name: value for name, value in dataclasses.asdict(result.measures[stream]).items() if value is not None}
  if interval is None:
    return {**figures, "interval": None}
  ends = {"low": interval.low, "high": interval.high, "confidence": distance.CONFIDENCE}
  return {**figures, "interval": {**ends, "resamples": FLAGS.resamples, "excess": interval.excess}}


def _describe(results: dict[str, Any]) -> list[str]:
  """The lines to print: the figures, a table if there are several sets, and what they depend on."""
  *_, last = results.values()
  if len(results) > 1:
    lines = _table(results)
  else:
    lines = [line for stream in last.distances for line in _describe_stream(last, stream)]
  if lines:
    lines.append("comparable only with figures of the same:")
  for stream, weights in last.weights.items():
    published = {True: "rgb_scratch, the published embedding", False: "not the published embedding"}
    lines.append(f"  {stream} weights: CRC-32 {weights}, {published[weights == protocols.PUBLISHED_WEIGHTS]}")
  rate = "each video's own rate" if last.fps is None else f"{last.fps:g} frames per second"
  step = "" if last.protocol.frame_step == 1 else f", one of {last.protocol.frame_step}"
  lines.append(f"  resizing: {protocols.RESIZES[last.protocol.resize]}")
  frames = ", ".join(dict.fromkeys(str(result.num_frames) for result in results.values()))
  lines.append(f"  frames in a clip: {frames}{step}, at {rate}")
  sets = {"generated": last} if FLAGS.lengths else results
  numbers = {"real": last.clips["real"], **{name: r.clips["generated"] for name, r in sets.items() if r.distances}}
  lines.append("  clips: " + ", ".join(f"{number} {name}" for name, number in numbers.items()))
  if "flow" in last.weights:
    lines.append(f"  optical flow: {last.flow}")
  lines.append(f"protocol {last.protocol.name}, for {last.protocol.comparable}")
  if last.protocol.difference:
    lines.append(f"  known difference: {last.protocol.difference}")
  lines += [f"remark: {remark}" for remark in dict.fromkeys(each for r in results.values() for each in r.remarks)]
  failed = {"real": last.failed["real"], **{name: r.failed.get("generated", 0) for name, r in sets.items()}}
  spelt = lambda name: f"--{name}" if name in protocols.SETS else name
  lines += [f"videos of {spelt(name)} that could not be used: {number}" for name, number in failed.items() if number]
  return lines


def _shown(value: float) -> str:
  return f"{round(value, 3) + 0.0:.3f}"  # no minus before 0


def _describe_stream(result: Any, stream: str) -> list[str]:
  found, measures = result.distances[stream], result.measures.get(stream)
  lines = [f"{'FVD' if stream == 'rgb' else 'flow FVD'}: {_shown(found.total)}"]
  lines.append(f"  of the means {_shown(found.mean_term)}, of the covariances {_shown(found.covariance_term)}")
  if interval := result.intervals[stream]:
    share = f"{100 * distance.CONFIDENCE:g} % interval"
    lines.append(f"  {share} {_shown(interval.low)} to {_shown(interval.high)} ({FLAGS.resamples} resamples)")
  return lines + [f"  {name}: {text}" for name, text in _measured(measures).items()]


def _measured(measures: Any) -> dict[str, str]:
  """What was measured beside FVD, by title."""
  if measures is None:
    return {}
  with_error = lambda estimate: f"{estimate.value:.4g} +- {estimate.error:.2g}"
  rows = {"FVD of endless sets": measures.fvd_infinity, "KVD": measures.kvd}
  found = {name: with_error(estimate) for name, estimate in rows.items() if estimate is not None}
  shares = {"precision": measures.precision, "recall": measures.recall}
  return found | {name: f"{value:.3f}" for name, value in shares.items() if value is not None}


def _table(results: dict[str, Any]) -> list[str]:
  """A line for each stream and generated set, the nearest first, or length."""
  rows = []
  for stream in next(iter(results.values())).distances:
    nearest_first = sorted((result.distances[stream].total, name) for name, result in results.items())
    for name in results if FLAGS.lengths else [name for _, name in nearest_first]:
      result = results[name]
      interval, title = result.intervals[stream], "FVD" if stream == "rgb" else "flow FVD"
      row = {"set": name, title: _shown(result.distances[stream].total)}
      if interval:
        row[f"{100 * distance.CONFIDENCE:g} % interval"] = f"{_shown(interval.low)} to {_shown(interval.high)}"
      rows.append(row | _measured(result.measures.get(stream)))
  lines: list[str] = []
  for titles, alike in itertools.groupby(rows, key=list):
    cells = [titles, *([row[title] for title in titles] for row in alike)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines += ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
  return lines


def _plot(results: dict[str, Any]) -> None:
  """Draws the distances against the last number in the names of the sets."""
  from i3d_tf.evaluation import figures

  drawing, axes = figures.new(6.4, 3.6)
  at = {name: int(re.findall(r"\d+", name)[-1]) for name in results}
  names = sorted(results, key=at.__getitem__)
  for stream in next(iter(results.values())).distances:
    color, steps = figures.COLORS[stream], [at[name] for name in names]
    axes.plot(steps, [results[name].distances[stream].total for name in names], "o-", color=color, ms=4, lw=1.8,
              label="FVD" if stream == "rgb" else "flow FVD")  # fmt: skip
    ends = [results[name].intervals[stream] for name in names]
    if all(ends):
      axes.fill_between(steps, [each.low for each in ends], [each.high for each in ends], color=color, alpha=0.15, lw=0)
  axes.set(
    xlabel="frames" if FLAGS.lengths else "number in the name of the set", ylabel="distance from the real videos"
  )
  axes.set_ylim(bottom=0)
  axes.legend(frameon=False)
  with workdir.replacing(FLAGS.plot) as file:
    file.write(figures.png(drawing))
  print(FLAGS.plot)


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
