"""Evaluates networks on a split of a data set: predictions of each stream, their fusion, metrics and the report."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import time
from typing import Any
import zlib

import numpy as np

from i3d_tf import errors
from i3d_tf import evaluation
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf import workers
from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics as metrics_lib
from i3d_tf.evaluation import predictions as predictions_lib
from i3d_tf.evaluation import sound
from i3d_tf.inference import classification
from i3d_tf.inference import classifier
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.models import base
from i3d_tf.models import preprocess
from i3d_tf.training import run_folder
from i3d_tf.video import sound as sound_lib


@dataclasses.dataclass(frozen=True, eq=False)
class StreamResult:
  """The result of one stream or of the fusion of several.

  Attributes:
    predictions: ids, labels and logits of the videos; of a fusion, those of its first stream.
    scores: by which the classes are ranked.
    metrics: of these scores.
  """

  predictions: predictions_lib.Predictions
  scores: metrics_lib.ClassScores
  metrics: metrics_lib.Metrics


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationReport:
  """The outcome of an evaluation.

  Attributes:
    results: by stream, the fusion ('rgb+flow') last.
    failures: records that could not be evaluated: `stream`, `number`, `id` and `reason`.
    output: the folder, with scores_STREAM.npz of every stream that was evaluated from a checkpoint.
  """

  results: Mapping[str, StreamResult]
  failures: tuple[Mapping[str, Any], ...]
  output: pathlib.Path

  @property
  def metrics(self) -> dict[str, metrics_lib.Metrics]:
    """The metrics by stream, those of the fusion last."""
    return {name: result.metrics for name, result in self.results.items()}

  @property
  def results_path(self) -> pathlib.Path:
    """The file with metrics, failures and provenance."""
    return self.output / "results.json"

  @property
  def report_path(self) -> pathlib.Path:
    """The page with metrics, curves, the confusion matrix and clips."""
    return self.output / "report.html"


def evaluate(
  config: evaluation.EvaluationConfig | None = None,
  *,
  progress: bool = False,
  on_failure: Callable[[str], None] = lambda message: None,
  **options: Any,
) -> EvaluationReport:
  """Evaluates streams, or fuses score files, and writes the results to a folder.

  An evaluation that was interrupted is resumed by a call with the same options.

  Args:
    config: what to evaluate.
    progress: whether to show a progress bar on stderr.
    on_failure: called with a sentence for each record that cannot be evaluated; the others are still evaluated.
    **options: in place of `config`, the fields of `EvaluationConfig`.

  Returns:
    Predictions, scores, metrics and failures.

  Raises:
    I3dError: if checkpoints, records and options do not go together; finished predictions are kept.
    TypeError: for an option that is no field of `EvaluationConfig`, or for options beside `config`.
  """
  if config is not None and options:
    raise TypeError(f"give config or its fields, not both; there is also {next(iter(options))}")
  config = evaluation.EvaluationConfig(**options) if config is None else config
  folder = pathlib.Path(config.output)
  with workdir.locked(folder):
    predictions = {stream: _predict(config, stream, progress, on_failure) for stream in config.streams}
    results = {stream: _result(each, metrics_lib.from_logits(each.logits)) for stream, each in predictions.items()}
    if config.fused:
      joined = predictions_lib.join(*(predictions[stream] for stream in config.fused))
      results["+".join(config.fused)] = _result(joined[0], _fuse(config, joined))
    failures = ({"stream": stream, **row} for stream, each in predictions.items() for row in each.failures)
    found = EvaluationReport(results=results, failures=tuple(failures), output=folder)
    _write(config, found)
  return found


def _predict(
  config: evaluation.EvaluationConfig, stream: str, progress: bool, on_failure: Callable[[str], None]
) -> predictions_lib.Predictions:
  """The predictions of one stream, from its score file or its network."""
  if stream in config.score_files:
    path = config.score_files[stream]
    found = predictions_lib.load(path)
    if found.stream != stream:
      raise errors.I3dError(f"{path} was given as scores of {stream}, but it holds scores of {found.stream}")
    return found
  path = config.checkpoints[stream]
  if stream == preprocess.AUDIO:
    return _predict_sound(config, path, on_failure)
  loaded = classifier.Classifier({stream: path}, precision=config.precision, engine=config.engine)
  network = loaded.networks[stream]
  if config.model not in ("", network.info.model):
    raise errors.I3dError(f"{path} is a network {network.info.model}, but model is {config.model}")
  clips = classification.protocol(network.info, **config.clips)
  if given := sorted(evaluation.unused(clips.protocol) & set(config.clips)):
    raise errors.I3dError(
      f"{given[0]} is not used by the protocol {clips.protocol}, which is that of {network.info.model}"
    )
  _check_clips(network, clips)
  assert config.records is not None  # the configuration has checked that checkpoints have records
  source = pipeline.open_source(config.records, config.split, streams=clip_config.stored(clips))
  pipeline.warn_of_enlarging(source, clips)
  classifier.warn_of_flow(network.info, path, source.flow_method)
  return predict(
      network, source, clips, config.output, retry_failures=config.retry_failures, progress=progress,
      on_failure=on_failure,
  )  # fmt: skip


def _predict_sound(
  config: evaluation.EvaluationConfig, path: str, on_failure: Callable[[str], None]
) -> predictions_lib.Predictions:
  """The predictions of a classifier of sound, which takes so little time that it is not resumed."""
  found = sound.load(path)
  assert config.records is not None  # as in `_predict`
  source = pipeline.open_source(config.records, config.split, streams=(preprocess.AUDIO,))
  classes = _match_classes(path, found.classes, found.classes, source)
  about = {"checkpoint": path, "weights": found.weights, "trained_on": found.dataset}
  made_with = {**about, **_describe_records(source), "protocol": {"protocol": "whole"}}
  store = predictions_lib.PredictionStore(preprocess.AUDIO, classes, made_with, config.output)
  for number, entry in enumerate(source.entries):
    name, reason = "", ""
    try:
      record = entry.load()
      name, label = record.id, record.label_indices[0] if record.label_indices else -1
      reason = store.problem(name, label)
    except errors.I3dError as error:
      reason = str(error)
    if reason:
      store.add_failure(number, name, reason)
      on_failure(f"{name or number}: {reason}")
    else:
      spectrogram = np.reshape(np.array(record.log_mel, np.float32), (-1, sound_lib.NUM_BANDS))
      store.add(number, name, label, found.logits(spectrogram))
  return store.finish(source.num_records)


def _check_clips(network: classifier.LoadedNetwork, clips: clip_config.EvalClips) -> None:
  """Compiles the network; I3dError if it does not take such clips."""
  num_frames = None if clips.protocol == "release" else clips.num_frames
  network.check(
    {stream: [None, num_frames, clips.crop, clips.crop, channels] for stream, channels in network.info.channels.items()}
  )
  network.function([base.LOGITS], {stream: (clips.crop, clips.crop) for stream in network.streams})


def _match_classes(
  checkpoint: str, own: tuple[str, ...], named: Sequence[str], source: pipeline.Source
) -> tuple[str, ...]:
  """The classes that the logits and the labels have in common.

  Args:
    checkpoint: For messages.
    own: Names of the checkpoint's classes; empty if they are not known.
    named: The same, numbered in place of that.
    source: The records.
  """
  num_classes, named = len(named), tuple(source.classes) or tuple(named)
  if len(named) != num_classes:
    raise errors.I3dError(
      f"the data set has {len(named)} classes ({predictions_lib.some(named)}), but {checkpoint} tells "
      f"{num_classes} apart; evaluate a network that was trained on these classes"
    )
  if own and own != named:
    index = next(index for index, pair in enumerate(zip(own, named)) if pair[0] != pair[1])
    raise errors.I3dError(
      f"class {index} of the data set is {named[index]!r}, but of {checkpoint} {own[index]!r}; "
      "the classes must be the same, in the same order"
    )
  return named


def predict(
  network: classifier.LoadedNetwork,
  source: pipeline.Source,
  clips: clip_config.EvalClips,
  folder: str | os.PathLike,
  *,
  save_seconds: float = 20.0,
  retry_failures: bool = False,
  progress: bool = False,
  on_failure: Callable[[str], None] = lambda message: None,
) -> predictions_lib.Predictions:
  """Returns the predictions of all videos of a split and the failed records; writes scores_STREAM.npz, or loads it.

  Args:
    network: of the stream.
    source: the records.
    clips: the views of each video.
    folder: for scores_STREAM.npz, and scores_STREAM.partial.npz until it is finished.
    save_seconds: the time between two writes of the unfinished predictions, which a later call resumes.
    retry_failures: whether records that failed in an earlier call are tried again.
    progress: whether to show a progress bar on stderr.
    on_failure: called with a sentence for each record that cannot be evaluated.

  Raises:
    I3dError: if the folder holds predictions made otherwise, logits are not finite, or a record is missing or seen
      twice.
  """
  classes = _match_classes(network.checkpoint, network.info.classes, network.class_names, source)
  store = predictions_lib.PredictionStore(network.info.stream, classes, _describe(network, source, clips), folder)
  if (finished := store.load_finished()) is not None and not (retry_failures and finished.failures):
    return finished
  store.resume(retry_failures=retry_failures)
  videos = pipeline.eval_videos(source, clips, skip=store.numbers)
  saved_at = time.monotonic()
  with workers.Bar(
    videos, network.info.stream, source.num_records, initial=len(store.numbers), unit="video", is_shown=progress
  ) as bar:
    for video in bar:
      _add(store, network, pipeline.scaled(video), on_failure)
      if time.monotonic() - saved_at >= save_seconds:
        store.save()
        saved_at = time.monotonic()
  return store.finish(source.num_records)


def _add(
  store: predictions_lib.PredictionStore,
  network: classifier.LoadedNetwork,
  video: Mapping[str, Any],
  on_failure: Callable[[str], None],
) -> None:
  """Predicts one element of `pipeline.eval_videos`."""
  name, reason = (video[key].numpy().decode(errors="surrogateescape") for key in ("id", "error"))
  number = int(video["record"])
  clips = {stream: video[stream] for stream in network.streams}
  reason = reason or store.problem(name, int(video["label"]))
  if not reason:
    try:
      network.check({stream: clip.shape for stream, clip in clips.items()})
    except errors.I3dError as error:
      reason = str(error)
  if reason:
    store.add_failure(number, name, reason)
    on_failure(f"{name or number}: {reason}")
    return
  try:
    logits = network.logits(clips)
  except errors.I3dError as error:  # they are not finite, which no other video will mend
    raise errors.I3dError(f"{name}: {error}") from None
  store.add(number, name, int(video["label"]), logits.mean(axis=0, dtype=np.float64))


def _describe(
  network: classifier.LoadedNetwork, source: pipeline.Source, clips: clip_config.EvalClips
) -> dict[str, Any]:
  """Everything on which predictions depend, as JSON values."""
  return {
    "checkpoint": network.checkpoint,
    "weights": network.weights,
    **network.computed_by,
    "step": network.info.step,
    "trained_on": network.info.dataset,
    **_describe_records(source),
    "protocol": _describe_protocol(clips),
  }


def _describe_records(source: pipeline.Source) -> dict[str, Any]:
  places = [(entry.path.name, entry.offset, entry.length) for entry in source.entries]
  return {
    "dataset": source.dataset,
    "split": source.split,
    "num_records": source.num_records,
    "records": f"{zlib.crc32(repr(places).encode()):08x}",
  }


def _describe_protocol(clips: clip_config.EvalClips) -> dict[str, Any]:
  """The options that the protocol uses; those about stacks of flow and segments only if there are such."""
  left_out = {"streams", "frame_rate"} | evaluation.unused(clips.protocol)
  if clips.flow_stack == 1:
    left_out |= {"flow_stack", "flow_stacking"}
  left_out |= {name for name in ("segment_frames", "subtract_mean_flow") if not getattr(clips, name)}
  return {name: value for name, value in dataclasses.asdict(clips).items() if name not in left_out}


def _fuse(
  config: evaluation.EvaluationConfig, streams: Sequence[predictions_lib.Predictions]
) -> metrics_lib.ClassScores:
  logits = [each.logits for each in streams]
  if config.fusion == "svm":
    return _train_svm(config, streams[0])(*logits)
  fuse = {"logits": metrics_lib.add_logits, "softmax": metrics_lib.average_softmax}[config.fusion]
  return fuse(*logits, weights=list(config.weights.values()))


def _train_svm(
  config: evaluation.EvaluationConfig, tested: predictions_lib.Predictions
) -> Callable[[np.ndarray, np.ndarray], metrics_lib.ClassScores]:
  training = {each.stream: each for each in map(predictions_lib.load, config.svm_train_scores)}
  if set(training) != set(config.fused):
    raise errors.I3dError(f"svm_train_scores must be one file of {' and one of '.join(config.fused)}")
  joined = predictions_lib.join(*(training[stream] for stream in config.fused))
  if joined[0].classes != tested.classes:
    raise errors.I3dError(f"svm_train_scores ({', '.join(config.svm_train_scores)}) are of other classes")
  if shared := sorted(set(joined[0].ids) & set(tested.ids)):
    raise errors.I3dError(
      f"svm_train_scores hold {len(shared)} of the videos that are tested ({predictions_lib.some(shared)}); "
      "make them on the training split"
    )
  return metrics_lib.train_svm([each.logits for each in joined], joined[0].labels)


def _result(predictions: predictions_lib.Predictions, scores: metrics_lib.ClassScores) -> StreamResult:
  if not len(predictions.labels):
    raise errors.I3dError("no video could be evaluated in all streams")
  measured = metrics_lib.measure(scores.scores, predictions.labels, log_probabilities=scores.log_probabilities)
  return StreamResult(predictions, scores, measured)


def _write(config: evaluation.EvaluationConfig, found: EvaluationReport) -> None:
  """Writes results.json and report.html."""
  last = list(found.results.values())[-1]
  classes = last.predictions.classes
  content = {
    **resources.provenance(),
    "streams": {stream: dict(found.results[stream].predictions.made_with) for stream in config.streams},
    "fusion": _describe_fusion(config),
    "classes": classes,
    "results": {name: metrics_lib.plain(metrics, classes) for name, metrics in found.metrics.items()},
    "failures": list(found.failures),
  }
  page = figures.render(
    about=content,
    measured=found.metrics,
    classes=classes,
    runs=_training_metrics(config),
    examples=_examples(config, last),
  )
  text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
  for path, written in ((found.results_path, text), (found.report_path, page)):
    with workdir.replacing(path) as file:
      file.write(written.encode(errors="backslashreplace"))


def _describe_fusion(config: evaluation.EvaluationConfig) -> dict[str, Any] | None:
  if not config.fused:
    return None
  if config.fusion == "svm":
    return {"method": "svm", "trained_on": list(config.svm_train_scores)}
  weights = config.weights
  if preprocess.AUDIO in weights:
    return {"method": config.fusion, "weights": weights}
  return {"method": config.fusion, "flow_weight": weights["flow"]}


def _training_metrics(config: evaluation.EvaluationConfig) -> dict[str, list[dict[str, Any]]]:
  """The lines of metrics.jsonl of every checkpoint that is a training run."""
  paths = {stream: pathlib.Path(path) / run_folder.METRICS for stream, path in config.checkpoints.items()}
  found = {stream: paths[stream] for stream in config.streams if stream in paths and paths[stream].is_file()}
  return {stream: run_folder.read_metrics(path) for stream, path in found.items()}


def _examples(config: evaluation.EvaluationConfig, result: StreamResult) -> dict[str, list[figures.Example]]:
  """The best and worst clips, with pictures if there are records."""
  predictions, scores = result.predictions, result.scores
  entries = pipeline.open_source(config.records, config.split, streams=()).entries if config.records else ()
  draw = lambda index: figures.draw(entries, predictions, index) if entries else b""
  describe = lambda index: figures.describe(predictions, scores, index, draw(index))
  best, worst = figures.choose(scores.scores, predictions.labels, config.num_examples)
  return {"best": [describe(index) for index in best], "worst": [describe(index) for index in worst]}
