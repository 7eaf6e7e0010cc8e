"""Measures the Frechet Video Distance between two sets of videos. See `--help`."""

import contextlib
import json
import sys

from absl import flags
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import provenance
from i3d_tf import workdir

USAGE = """Measures the Frechet Video Distance (FVD) between two sets of videos: how far apart they are in the logits of
I3D. It is 0 for equal sets; for generated videos lower is better.

  python -m i3d_tf.fvd --real=FOLDER --generated=FOLDER

A set is a folder (searched with its sub-folders) of videos or of .npy arrays, or one such file. Arrays are uint8, 0 to
255, RGB: [frames, height, width, 3], or [videos, frames, height, width, 3]. From each video one clip of --num_frames
consecutive frames is taken, from a place drawn by --seed and the file's name. The sets need not have the same size.

The set that others are compared with needs to be done only once:
  python -m i3d_tf.fvd --real=FOLDER --save_stats=real.npz
  python -m i3d_tf.fvd --real=real.npz --generated=FOLDER

Frames are resized to 224x224 whatever their shape, and the embedding is rgb_scratch's 400 logits, as in the published
metric. Figures are comparable only for the same weights, resizing, frames in a clip and number of clips, so these are
printed, too. Fewer clips give a larger figure. With --flow_checkpoint there is a second figure of the TV-L1 flow, for
which nothing is published.

The interval is that of as many other clips (95 %), by resampling both sets: the quantiles of the resampled distances,
moved down by what repeating clips adds to them on average.

Videos that cannot be used are named, and the exit status is 1; the figure is then of the others."""

FLAGS = flags.FLAGS
flags.DEFINE_string("real", None, "The reference: a folder or file, or an .npz of --save_stats.")
flags.DEFINE_string("generated", None, "What is measured: the same. It may be left out with --save_stats.")
flags.DEFINE_string("save_stats", None, "Write the statistics of --real to this .npz.")
flags.DEFINE_string("rgb_checkpoint", "rgb_scratch", "RGB weights; others than the default are not the published FVD.")
flags.DEFINE_string("flow_checkpoint", None, "Also measure the flow, by these weights: a released name or a path.")
flags.DEFINE_integer("num_frames", 16, "Frames of a clip.", lower_bound=9)
flags.DEFINE_float("fps", None, "Frames per second to read videos at. Default: each video's own.", lower_bound=0.1)
flags.DEFINE_integer("max_clips", None, "Use so many videos of each set, drawn by --seed. Default: all.", lower_bound=2)
flags.DEFINE_integer("seed", 0, "Draws the videos, the clips and the resampling.", lower_bound=0)
flags.DEFINE_integer("batch", 8, "Clips that the network takes at once.", lower_bound=1)
flags.DEFINE_integer("resamples", 200, "Resampled sets for the interval; 0: no interval.", lower_bound=0)
flags.DEFINE_string("json", None, "Also write the figures to this file.")


def main(arguments: list[str]) -> int:
  del arguments
  _check_flags()
  cli.import_tensorflow()
  if FLAGS.json is None:
    return int(_has_failed(_run()))
  with workdir.replacing(FLAGS.json) as file:
    report = _run()
    file.write(json.dumps(report, indent=2).encode() + b"\n")
  return int(_has_failed(report))


def _check_flags() -> None:
  if not FLAGS.real:
    raise errors.I3dError("--real is missing; see --help")
  if not FLAGS.generated and not FLAGS.save_stats:
    raise errors.I3dError("--generated is missing; only with --save_stats it may be")
  if not FLAGS.generated and FLAGS.json:
    raise errors.I3dError("--json is for the figures, and without --generated there are none")
  if FLAGS.resamples == 1:
    raise errors.I3dError("--resamples=1; an interval needs at least 2, and 0 means none")
  is_saved = {name: _is_saved(name) for name in ("real", "generated")}
  if FLAGS.save_stats and is_saved["real"]:
    raise errors.I3dError("--save_stats is for the statistics of videos, but --real is statistics already")
  if FLAGS.save_stats and not _ends(FLAGS.save_stats):
    raise errors.I3dError(f"--save_stats={FLAGS.save_stats}; the file's name must end in .npz")
  if all(is_saved.values()):
    for name in ("rgb_checkpoint", "flow_checkpoint", "num_frames", "fps", "max_clips", "batch"):
      if FLAGS[name].present:
        raise errors.I3dError(f"--{name} is for videos, but --real and --generated are statistics already")


def _is_saved(name: str) -> bool:
  return bool(FLAGS[name].value) and _ends(FLAGS[name].value)


def _ends(path: str) -> bool:
  return path.lower().endswith(".npz")


def _run() -> dict:
  """Does what the flags say, prints the result, and returns it for JSON."""
  from i3d_tf.frechet import distance as distance_lib
  from i3d_tf.frechet import embedding

  options = cli.from_flags(embedding.Options)
  names = [name for name in ("real", "generated") if FLAGS[name].value]
  loaded = {name: distance_lib.load(FLAGS[name].value) for name in names if _is_saved(name)}
  features = {name: values for name, (values, _) in loaded.items()}
  facts = {name: facts for name, (_, facts) in loaded.items()}
  sources = {name: embedding.list_sources(FLAGS[name].value, options) for name in names if name not in loaded}
  embeddings = _load_embeddings(options) if sources else []
  wanted = embedding.facts(embeddings, options) if sources else facts["generated"]
  for name in loaded:
    embedding.check_comparable(facts[name], wanted, path=FLAGS[name].value)
  for name in sources:
    saving = bool(FLAGS.save_stats) and name == "real"
    with workdir.replacing(FLAGS.save_stats) if saving else contextlib.nullcontext() as file:
      features[name], num_failed = _embed(name, sources[name], embeddings, options)
      facts[name] = {**wanted, "failed": num_failed}
      if saving:
        distance_lib.save(file, features[name], {**facts[name], "seed": FLAGS.seed, "made_by": provenance.collect()})
  report = {
    "clips": {name: len(next(iter(features[name].values()))) for name in names},
    "failed": {name: facts[name].get("failed", 0) for name in names},
    **{name: wanted[name] for name in ("weights", "resize", "num_frames", "fps")},
    "seed": FLAGS.seed,
  }
  if FLAGS.generated:
    figures = {stream: _compare(*(features[name][stream] for name in names)) for stream in wanted["weights"]}
    report = {"fvd": figures, **report, "made_by": provenance.collect()}
  print("\n".join(_describe(report)))
  return report


def _load_embeddings(options) -> list:
  from i3d_tf.frechet import embedding

  checkpoints = {"rgb": FLAGS.rgb_checkpoint, "flow": FLAGS.flow_checkpoint}
  checkpoints = {stream: checkpoint for stream, checkpoint in checkpoints.items() if checkpoint is not None}
  embedding.check_frames(options, checkpoints)
  return [embedding.Embedding(checkpoint, stream) for stream, checkpoint in checkpoints.items()]


def _embed(name: str, sources: list, embeddings: list, options) -> tuple[dict, int]:
  """The features of a set by stream, and the number of its videos that could not be used."""
  from i3d_tf.frechet import embedding

  failures = []

  def fail(message: str) -> None:
    failures.append(message)
    tqdm.tqdm.write(f"{cli.program()}: error: {message}", file=sys.stderr)

  with tqdm.tqdm(sources, desc=name, unit="video", disable=None) as bar:
    features = embedding.embed(bar, embeddings, options, batch=FLAGS.batch, on_failure=fail)
  if len(sources) - len(failures) < 2:
    good = len(sources) - len(failures)
    raise errors.I3dError(f"{FLAGS[name].value}: of its {len(sources)} videos {good} can be used; FVD needs 2 at least")
  return features, len(failures)


def _compare(real, generated) -> dict:
  """The distance between two sets of features, and its interval."""
  from i3d_tf.frechet import distance as distance_lib

  distance = distance_lib.distance(distance_lib.fit(real), distance_lib.fit(generated))
  terms = {"mean_term": distance.mean_term, "covariance_term": distance.covariance_term}
  result = {"distance": distance.total, **terms, "interval": None}
  if FLAGS.resamples:
    with tqdm.tqdm(total=FLAGS.resamples, desc="interval", unit="resample", disable=None) as bar:
      interval = distance_lib.bootstrap(
        real, generated, num_resamples=FLAGS.resamples, seed=FLAGS.seed, on_resample=bar.update
      )
    result["interval"] = {
        "low": interval.low, "high": interval.high, "confidence": distance_lib.CONFIDENCE,
        "resamples": FLAGS.resamples, "excess": interval.excess,
    }  # fmt: skip
  return result


def _describe(report: dict) -> list[str]:
  """What is printed: the figures, and what they depend on."""
  from i3d_tf.frechet import embedding

  lines = []
  for stream, figures in report.get("fvd", {}).items():
    lines.append(f"{'FVD' if stream == 'rgb' else 'flow FVD'}: {figures['distance']:.3f}")
    lines.append(f"  of the means {figures['mean_term']:.3f}, of the covariances {figures['covariance_term']:.3f}")
    if interval := figures["interval"]:
      share = f"{100 * interval['confidence']:g} % interval"
      lines.append(f"  {share} {interval['low']:.3f} to {interval['high']:.3f} ({interval['resamples']} resamples)")
  if lines:
    lines.append("comparable only with figures of the same:")
  for stream, weights in report["weights"].items():
    published = {True: "rgb_scratch, the published embedding", False: "not the published embedding"}
    lines.append(f"  {stream} weights: CRC-32 {weights}, {published[weights == embedding.PUBLISHED_WEIGHTS]}")
  rate = "each video's own rate" if report["fps"] is None else f"{report['fps']:g} frames per second"
  lines.append(f"  resizing: {report['resize']}")
  lines.append(f"  frames in a clip: {report['num_frames']}, at {rate}")
  lines.append("  clips: " + ", ".join(f"{number} {name}" for name, number in report["clips"].items()))
  for name, number in report["failed"].items():
    if number:
      lines.append(f"videos of --{name} that could not be used: {number}")
  return lines


def _has_failed(report: dict) -> bool:
  return any(report["failed"].values())


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
