"""A whole evaluation: scores of each stream, their fusion, figures, and the files that tell of it."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from i3d_tf import errors
from i3d_tf import provenance
from i3d_tf import workdir
from i3d_tf.evaluation import config
from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics as metrics_lib
from i3d_tf.evaluation import network as network_lib
from i3d_tf.evaluation import report
from i3d_tf.evaluation import scores as scores_lib
from i3d_tf.evaluation import scoring
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.models import zoo
from i3d_tf.training import monitor
from i3d_tf.weights import saved

BOTH = "rgb+flow"


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """The scores of one row of the table, and what they are worth."""

  scores: scores_lib.Scores
  fused: scores_lib.Fused
  metrics: metrics_lib.Metrics


def run(options: config.Evaluation) -> tuple[dict[str, Outcome], list[dict[str, Any]]]:
  """Does it all and writes scores, results.json and report.html.

  Returns:
    The outcomes by stream, the fusion last, and the records that failed, with their streams.

  Raises:
    I3dError: for whatever does not fit together; what is finished is kept.
  """
  folder = pathlib.Path(options.output)
  with workdir.locked(folder):
    scores = {stream: _scores(options, stream, folder) for stream in options.streams}
    outcomes = {stream: _outcome(each, scores_lib.alone(each.logits)) for stream, each in scores.items()}
    if options.has_fusion:
      rgb, flow = scores_lib.join(scores["rgb"], scores["flow"])
      outcomes[BOTH] = _outcome(rgb, _fuse(options, rgb, flow))
    failures = [{"stream": stream, **failure} for stream, each in scores.items() for failure in each.failures]
    _write(options, folder, outcomes, failures)
  return outcomes, failures


def _scores(options: config.Evaluation, stream: str, folder: pathlib.Path) -> scores_lib.Scores:
  """Of one stream: read, or made."""
  if stream in options.score_files:
    path = options.score_files[stream]
    found = scores_lib.load(path)
    if found.stream != stream:
      raise errors.I3dError(f"--{stream}_scores={path} holds scores of the {found.stream} stream")
    return found
  network = network_lib.Network(options.checkpoints[stream], stream)
  if options.model not in ("", network.info.model):
    name = options.checkpoints[stream]
    raise errors.I3dError(f"{name} is a network {network.info.model}, not --model={options.model}")
  clips = _clips(options, network.info)
  network.compile(clips.crop, None if clips.protocol == "release" else clips.num_frames)
  source = pipeline.open_source(options.records, options.split, streams=clip_config.stored(clips))
  return scoring.evaluate(network, source, clips, folder)


def _clips(options: config.Evaluation, info: saved.ModelInfo) -> clip_config.EvalClips:
  """The options given, and for the rest the network's protocol, and the clips of its training.

  Raises:
    I3dError: for an option that the network's protocol does not use.
  """
  trained = dataclasses.asdict(info.preprocess)
  test = zoo.get(info.model).test
  clips = clip_config.EvalClips(**{**trained, **test, **options.clips, "streams": info.streams})
  if given := sorted(config.unused(clips.protocol) & set(options.clips)):
    raise errors.I3dError(f"--{given[0]} is not used by --protocol={clips.protocol}, which is {info.model}'s")
  return clips


def _fuse(options: config.Evaluation, rgb: scores_lib.Scores, flow: scores_lib.Scores) -> scores_lib.Fused:
  weight = 0.5 if options.flow_weight is None else options.flow_weight
  if options.fusion == "logits":
    return scores_lib.add_logits(rgb.logits, flow.logits, flow_weight=weight)
  if options.fusion == "softmax":
    return scores_lib.average_softmax(rgb.logits, flow.logits, flow_weight=weight)
  training = {each.stream: each for each in map(scores_lib.load, options.svm_train_scores)}
  if len(training) < 2:
    raise errors.I3dError("--svm_train_scores are both of one stream; give one of rgb and one of flow")
  train_rgb, train_flow = scores_lib.join(training["rgb"], training["flow"])
  if train_rgb.classes != rgb.classes:
    raise errors.I3dError(f"--svm_train_scores={','.join(options.svm_train_scores)} are of other classes")
  if shared := sorted(set(train_rgb.ids) & set(rgb.ids)):
    raise errors.I3dError(
      f"--svm_train_scores hold {len(shared)} of the videos that are tested ({scores_lib.some(shared)}); "
      "make them on the training split"
    )
  return scores_lib.LinearSvm(train_rgb.logits, train_flow.logits, train_rgb.labels)(rgb.logits, flow.logits)


def _outcome(scores: scores_lib.Scores, fused: scores_lib.Fused) -> Outcome:
  if not len(scores.labels):
    raise errors.I3dError("no video could be evaluated; see the failures above")
  measured = metrics_lib.measure(fused.scores, scores.labels, log_probabilities=fused.log_probabilities)
  return Outcome(scores, fused, measured)


def _write(
  options: config.Evaluation, folder: pathlib.Path, outcomes: Mapping[str, Outcome], failures: list[dict]
) -> None:
  last = list(outcomes.values())[-1]
  content = {
    **provenance.collect(),
    "streams": {stream: dict(outcomes[stream].scores.made_with) for stream in options.streams},
    "fusion": _describe_fusion(options),
    "classes": last.scores.classes,
    "results": {name: metrics_lib.plain(outcome.metrics, last.scores.classes) for name, outcome in outcomes.items()},
    "failures": failures,
  }
  page = report.render(
    about=content,
    measured={name: outcome.metrics for name, outcome in outcomes.items()},
    classes=last.scores.classes,
    runs=_learning(options),
    examples=_examples(options, last),
  )
  with workdir.replacing(folder / "results.json") as file:
    file.write(json.dumps(content, indent=2, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
  with workdir.replacing(folder / "report.html") as file:
    file.write(page.encode(errors="backslashreplace"))


def _describe_fusion(options: config.Evaluation) -> dict[str, Any] | None:
  if not options.has_fusion:
    return None
  if options.fusion == "svm":
    return {"method": "svm", "trained_on": list(options.svm_train_scores)}
  return {"method": options.fusion, "flow_weight": 0.5 if options.flow_weight is None else options.flow_weight}


def _learning(options: config.Evaluation) -> dict[str, list[dict[str, Any]]]:
  """The lines of metrics.jsonl of every checkpoint that is a run of train."""
  paths = {stream: pathlib.Path(path) / monitor.METRICS for stream, path in options.checkpoints.items()}
  found = {stream: paths[stream] for stream in options.streams if stream in paths and paths[stream].is_file()}
  return {stream: monitor.read_metrics(path) for stream, path in found.items()}


def _examples(options: config.Evaluation, outcome: Outcome) -> dict[str, list[figures.Example]]:
  """The best and worst clips, with pictures where the records are at hand."""
  scores = outcome.scores
  entries = pipeline.open_source(options.records, options.split, streams=()).entries if options.records else ()
  draw = lambda index: figures.draw(entries, scores, index) if entries else b""
  describe = lambda index: figures.describe(scores, outcome.fused, index, draw(index))
  best, worst = figures.choose(outcome.fused.scores, scores.labels, options.num_examples)
  return {"best": [describe(index) for index in best], "worst": [describe(index) for index in worst]}
