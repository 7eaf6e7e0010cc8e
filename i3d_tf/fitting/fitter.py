"""From labelled videos to a network and its report: facts of the files, features, a classifier, and its worth."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import os
import pathlib
import time
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import fitting
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf import workers
from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics as metrics_lib
from i3d_tf.evaluation import sound
from i3d_tf.features import extraction
from i3d_tf.features import profiles
from i3d_tf.features import results
from i3d_tf.features import sources
from i3d_tf.fitting import checks
from i3d_tf.fitting import deepen
from i3d_tf.fitting import linear
from i3d_tf.fitting import report
from i3d_tf.fitting import samples as samples_lib
from i3d_tf.fitting import splits
from i3d_tf.models import preprocess
from i3d_tf.video import sound as sound_lib
from i3d_tf.weights import hub
from i3d_tf.weights import initialization
from i3d_tf.weights import release
from i3d_tf.weights import saved

INFO = "fit.json"
_KEPT = ("rgb_checkpoint", "precision")  # of what features are; all else may differ when a run goes on
_RELEASED = {"rgb": ("rgb_imagenet", "rgb_scratch"), "flow": ("flow_imagenet", "flow_scratch")}
_SOUND = "its sound, statistics of a log-mel spectrogram"  # in place of a checkpoint
_FLOW_START = "flow_start"  # folder of the network of flow that was made of the one of RGB


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
  """What was fitted, and how good it is.

  Attributes:
    output: Folder of the run.
    networks: Folders of the networks by stream, which every program takes as checkpoints: `output` of RGB, or `flow` in
      it; and `audio` of the classifier of sound, which `evaluate` takes.
    metrics: Of the clips that were tested: 'facts', what a classifier gets that sees only the files' sizes and lengths;
      'rgb', 'flow' and 'audio', each alone, and all together, for example 'rgb+flow'; and 'rgb tuned' and the like, the
      networks that were trained on from there. The last is what is kept.
    interval: 95 % interval of the last one's accuracy.
    warnings: Sentences that a user should know.
    failures: Videos that could not be used, each with the reason.
    report_path: The page.
  """

  output: pathlib.Path
  networks: Mapping[str, pathlib.Path]
  metrics: Mapping[str, metrics_lib.Metrics]
  interval: tuple[float, float]
  warnings: tuple[str, ...]
  failures: Mapping[str, str]
  report_path: pathlib.Path


def fit(
  config: fitting.FitConfig | None = None,
  *,
  progress: bool = False,
  say: Callable[[str], None] = lambda message: None,
  **options: Any,
) -> FitResult:
  """Makes a network and its report of a folder of videos, one sub-folder a class; a run that was stopped goes on.

  Args:
    config: What to fit.
    progress: Whether to show progress bars on stderr.
    say: Called with a line about what is done and found, as it is.
    **options: In place of `config`, the fields of `FitConfig`.

  Returns:
    How good the network is, and what should be known of the videos.

  Raises:
    I3dError: If the videos, the network or the options do not go together, or the folder holds another run.
    TypeError: For an option that is no field of `FitConfig`, or for options beside `config`.
  """
  if config is not None and options:
    raise TypeError(f"give config or its fields, not both; there is also {next(iter(options))}")
  config = fitting.FitConfig(**options) if config is None else config
  listed = samples_lib.load(config.videos)
  folder = workdir.Workdir(config.output, INFO)
  parameters = {**dataclasses.asdict(config), "videos": os.path.abspath(config.videos)}
  parameters["rgb_checkpoint"] = _checkpoint(config, folder)
  free = set(parameters) - set(_KEPT)
  with folder.claim(parameters, about={"made_by": resources.provenance()}, free=free, paths=_KEPT[:1]):
    return _Fit(config, parameters["rgb_checkpoint"], progress, say).run(listed)


def _checkpoint(config: fitting.FitConfig, folder: workdir.Workdir) -> str:
  """The weights to start from: those given, or those that the run began with, whatever was downloaded since."""
  if config.rgb_checkpoint is not None:
    return config.rgb_checkpoint
  if (folder.path / INFO).is_file():
    return folder.read_info()["parameters"]["rgb_checkpoint"]
  return _downloaded("rgb") or _RELEASED["rgb"][0]


def _downloaded(stream: str) -> str | None:
  return next((name for name in _RELEASED[stream] if hub.is_cached(name)), None)


class _Fit:
  """A run in progress."""

  def __init__(
    self,
    config: fitting.FitConfig,
    checkpoint: str,
    progress: bool,
    say: Callable[[str], None],
  ):
    self._config, self._rgb_checkpoint = config, checkpoint
    self._progress, self._say = progress, say
    self._folder = pathlib.Path(config.output)
    self._warnings: list[str] = []
    self._failures: dict[str, str] = {}

  def run(self, listed: samples_lib.Samples) -> FitResult:
    """Does all of it."""
    config, begin = self._config, time.monotonic()
    checkpoints = {stream: self._checkpoint(stream) for stream in config.networks}
    networks = " and ".join(checkpoints.values())
    self._say(f"{config.videos}: {len(listed)} videos of {len(listed.classes)} classes; network {networks}")
    if checkpoints.get("flow") == os.fspath(self._folder / _FLOW_START):
      self._say(f"Flow starts from the weights of {self._rgb_checkpoint}, since no network of flow was named")
    extractors = {stream: self._extractor(stream, checkpoint) for stream, checkpoint in checkpoints.items()}
    first = extractors[config.networks[0]]
    clip = first.networks[config.networks[0]].info.preprocess
    samples, facts = self._read(listed, clip.frame_rate)
    samples, facts, features = self._take_features(samples, facts, extractors)
    samples = self._drop_empty_classes(samples)
    has_sound = preprocess.AUDIO in config.streams
    if has_sound:
      features[preprocess.AUDIO] = self._hear(samples, facts)
    pairs = checks.find_pairs(facts)
    grouping, plan = self._plan(samples, pairs)
    self._warn(*plan.warnings)
    crossing = checks.across(pairs, plan)
    self._warn(checks.describe_leak(crossing, samples))
    self._warn(*checks.warn(samples, facts, num_frames=clip.num_frames))
    measured = self._measure(samples, facts, features, grouping, plan)
    heads = {
      stream: self._fit_head(samples, each, grouping, _kept_fold(plan, samples)) for stream, each in features.items()
    }
    homes = {stream: self._folder if stream == "rgb" else self._folder / stream for stream in heads}
    for stream, head in heads.items():
      if stream == preprocess.AUDIO:
        numbers = {"kernel": head.kernel, "bias": head.bias}
        sound.SoundClassifier(**numbers, classes=samples.classes, dataset=samples.name).save(homes[stream])
        continue
      if config.depth == "head":
        self._write(homes[stream] / saved.BEST, stream, checkpoints[stream], head, samples)
    if config.depth != "head":
      tuned = {
        stream: self._deepen(
          samples, facts, features[stream], grouping, plan, stream, checkpoints[stream], homes[stream],
          precision=first.options.precision,
        ) for stream in config.networks
      }  # fmt: skip
      heard = {preprocess.AUDIO: measured[preprocess.AUDIO]} if has_sound else {}
      new = {name: logits for name, logits in _with_sum(tuned | heard).items() if name not in heard}
      measured |= {figures.tuned(name): logits for name, logits in new.items()}
    sources_of = checkpoints | ({preprocess.AUDIO: _SOUND} if has_sound else {})
    outcome = report.Outcome(
        config=config, samples=samples, facts=facts, grouping=grouping, plan=plan, pairs=pairs, crossing=crossing,
        measured=measured, heads=heads, warnings=tuple(self._warnings), failures=self._failures,
        checkpoints=sources_of, precision=first.options.precision, seconds=time.monotonic() - begin,
    )  # fmt: skip
    if text := outcome.about_facts():
      self._warn(text)
      outcome = dataclasses.replace(outcome, warnings=tuple(self._warnings))
    path = report.write(outcome)
    for line in report.summary(outcome):
      self._say(line)
    return FitResult(
        output=self._folder, networks=homes, metrics=outcome.metrics, interval=outcome.interval,
        warnings=outcome.warnings, failures=self._failures, report_path=path,
    )  # fmt: skip

  def _checkpoint(self, stream: str) -> str:
    """The weights of a stream to start from."""
    config, made = self._config, self._folder / _FLOW_START
    if stream == "rgb":
      return self._rgb_checkpoint
    if config.flow_checkpoint is not None:
      return config.flow_checkpoint
    if not made.exists():
      if (name := _downloaded(stream)) is not None:
        return name
      initialization.write_for_flow(self._rgb_checkpoint, made, flow_method=config.flow_method)
    return os.fspath(made)

  def _extractor(self, stream: str, checkpoint: str) -> extraction.Extractor:
    """The network of a stream, ready to make features of whole videos."""
    config = self._config
    options: dict[str, Any] = {"streams": (stream,), f"{stream}_checkpoint": checkpoint}
    if stream == "flow":
      options |= {"flow": config.flow, "flow_params": config.flow_params}
    return extraction.Extractor(profiles.FeatureConfig(window=profiles.ALL, precision=config.precision, **options))

  def _warn(self, *messages: str) -> None:
    """Keeps and says what a user should know."""
    for message in filter(None, messages):
      self._warnings.append(message)
      self._say(f"Warning: {message}")

  def _fail(self, path: str, reason: str) -> None:
    self._failures[path] = reason.partition("; allow_damaged=True")[0]  # there is no such choice here
    self._say(f"Not used: {self._failures[path]}")

  def _read(self, listed: samples_lib.Samples, fps: float) -> tuple[samples_lib.Samples, list[samples_lib.Facts]]:
    """The videos that can be read, and what their files tell."""
    with workers.Bar(total=len(listed), unit="video", desc="Looking at files", is_shown=self._progress) as bar:
      with_sound = preprocess.AUDIO in self._config.streams
      found = samples_lib.read_facts(listed, self._folder / "facts", fps=fps, with_sound=with_sound, done=bar.update)
    for path, each in zip(listed.paths, found, strict=True):
      if isinstance(each, str):
        self._fail(path, each)
    used = [index for index, each in enumerate(found) if not isinstance(each, str)]
    return listed.take(used), [each for each in found if not isinstance(each, str)]

  def _take_features(
    self,
    samples: samples_lib.Samples,
    facts: list[samples_lib.Facts],
    extractors: Mapping[str, extraction.Extractor],
  ) -> tuple[samples_lib.Samples, list[samples_lib.Facts], dict[str, np.ndarray]]:
    """The videos that all networks take, and by stream the features of each `[N, channels]`."""
    found = {stream: self._extract(samples, facts, stream, each) for stream, each in extractors.items()}
    used = [index for index in range(len(samples)) if all(index in each for each in found.values())]
    if not used:
      raise errors.I3dError(
        f"none of the {len(self._failures)} videos can be used; {next(iter(self._failures.values()))}"
      )
    features = {stream: np.stack([each[index] for index in used]) for stream, each in found.items()}
    return samples.take(used), [facts[index] for index in used], features

  def _extract(
    self,
    samples: samples_lib.Samples,
    facts: list[samples_lib.Facts],
    stream: str,
    extractor: extraction.Extractor,
  ) -> dict[int, np.ndarray]:
    """The features `[channels]` of a stream, of the videos that its network takes, by their indices."""
    listed = [sources.Source(path, name, path) for path, name in zip(samples.paths, samples.ids, strict=True)]
    sources.check_ids(listed, lambda source: source.id)
    kept = results.Folder(self._folder / "features" / stream, part="fit")
    with kept.claim(extractor.meaning):
      todo = kept.left(listed, retry_failures=self._config.retry_failures)
      frames = [facts[index].num_frames for index in todo]
      total = sum(each.num_frames for each in facts)
      there = len(listed) - len(todo)
      kept_of = f"; those of {there} more are there already" if there else ""
      self._say(f"Computing features of {stream} of {len(todo)} videos, {sum(frames):,} frames{kept_of}")
      times = []
      with workers.Bar(total=total, initial=total - sum(frames), unit="frame", is_shown=self._progress) as bar:
        for number, index in enumerate(todo):
          start = time.monotonic()
          extraction.extract(listed[index], extractor, kept)
          times.append(time.monotonic() - start)
          bar.update(frames[number])
          if number == 1 and len(todo) > 3:  # the first one compiles
            self._say(f"Time to go: about {_duration(times[1] / max(frames[1], 1) * sum(frames[2:]))} on this machine")
      kept.finish()
      entries = kept.entries()
      found = [entries[each.key] for each in listed]
      for source, entry in zip(listed, found, strict=True):
        if "error" in entry:
          self._fail(source.path, entry["error"])
      return {
        index: _features(kept.path / entry["outputs"][0]["path"])
        for index, entry in enumerate(found)
        if "error" not in entry
      }

  def _drop_empty_classes(self, samples: samples_lib.Samples) -> samples_lib.Samples:
    """The same videos without the classes of which there is none."""
    used = sorted(set(samples.labels))
    if len(used) == len(samples.classes):
      return samples
    gone = [name for number, name in enumerate(samples.classes) if number not in used]
    self._warn(f"no video can be used of {', '.join(gone)}, so that the network does not have the class")
    labels = tuple(used.index(label) for label in samples.labels)
    return dataclasses.replace(samples, classes=tuple(samples.classes[number] for number in used), labels=labels)

  def _hear(self, samples: samples_lib.Samples, facts: list[samples_lib.Facts]) -> np.ndarray:
    """What is told by the sound of each video, `[N, channels]`; NaN of those without."""
    heard = [index for index, each in enumerate(facts) if len(each.sound)]
    classes = {samples.labels[index] for index in heard}
    if len(classes) < 2:
      raise errors.I3dError(
        f"streams has audio, but {len(heard)} of {len(samples)} videos have sound, and a classifier needs two classes"
      )
    if len(heard) < len(samples):
      without = [name for label, name in enumerate(samples.classes) if label not in classes]
      known = f", none of {', '.join(without)}, which is taken for excluded where there is sound" if without else ""
      self._warn(f"{len(samples) - len(heard)} of {len(samples)} videos have no sound{known}")
    features = np.full((len(samples), sound_lib.NUM_STATISTICS), np.nan)
    for index in heard:
      features[index] = facts[index].sound
    return features

  def _plan(self, samples: samples_lib.Samples, pairs: list[checks.Pair]) -> tuple[splits.Grouping, splits.Plan]:
    """Which clips belong together, and the folds."""
    config = self._config
    if config.split_block is not None:
      grouping = splits.blocks(samples.ids, config.split_block)
    elif samples.groups and config.split_group is None:
      count = len(set(samples.groups))
      grouping = splits.Grouping(samples.groups, count < len(samples), f"{count} groups as the list states them")
    else:
      grouping = splits.group(samples.ids, config.split_group)
    if config.split_scenes:
      grouping = splits.join(grouping, [(pair.one, pair.other) for pair in pairs])
    protocol = (
      "holdout" if config.depth != "head" and config.protocol == "auto" and not samples.splits else config.protocol
    )
    plan = splits.plan(
        samples.labels, samples.classes, grouping.groups, protocol=protocol, num_folds=config.num_folds,
        seed=config.seed, given=samples.splits,
    )  # fmt: skip
    self._say(f"Split: {plan.protocol}, {len(plan.folds)} fold{'s'[: len(plan.folds) > 1]}; {grouping.note}")
    return grouping, plan

  def _write(
    self, folder: pathlib.Path, stream: str, checkpoint: str, head: linear.Head, samples: samples_lib.Samples
  ) -> None:
    """Writes the network of a stream with a classifier."""
    save(folder, checkpoint, head, samples, flow_method=self._config.flow_method if stream == "flow" else "")

  def _deepen(
    self,
    samples: samples_lib.Samples,
    facts: list[samples_lib.Facts],
    features: np.ndarray,
    grouping: splits.Grouping,
    plan: splits.Plan,
    stream: str,
    checkpoint: str,
    home: pathlib.Path,
    *,
    precision: str,
  ) -> np.ndarray:
    """Trains a network from the classifier of each fold, puts the one that is kept in its home, and returns scores."""
    logits = np.full((len(samples), len(samples.classes)), np.nan)
    kept = _kept_fold(plan, samples)
    folds = [*plan.folds, *([] if kept in plan.folds else [kept])]
    heads = [self._fit_head(samples, features, grouping, fold) for fold in folds]  # before hours of training
    for number, (fold, head) in enumerate(zip(folds, heads, strict=True), start=1):
      if len(folds) > 1:
        self._say(f"Training {stream}, {number} of {len(folds)}: {fold.name}")
      network, logits[list(fold.test)] = deepen.train(
          self._config, stream, samples, facts, fold, checkpoint,
          functools.partial(self._write, stream=stream, checkpoint=checkpoint, head=head, samples=samples),
          precision=precision, progress=self._progress, say=self._say if number == 1 else lambda message: None,
      )  # fmt: skip
    saved.save_values(home / saved.BEST, *saved.read(network))
    return logits

  def _measure(
    self,
    samples: samples_lib.Samples,
    facts: list[samples_lib.Facts],
    features: Mapping[str, np.ndarray],
    grouping: splits.Grouping,
    plan: splits.Plan,
  ) -> dict[str, np.ndarray]:
    """Scores `[N, classes]` of clips that a fold tests, by 'facts', stream, and their sum; NaN of the others."""
    self._say(f"Fitting {(len(plan.folds) + 1) * len(features)} classifiers")
    numbers = np.array([each.numbers() for each in facts])
    size = len(samples.classes)
    by_stream = {
      stream: linear.cross_validate(
        each, samples.labels, grouping.groups, plan, num_classes=size, seed=self._config.seed
      )
      for stream, each in features.items()
    }
    facts_alone = linear.guess_from_facts(numbers, samples.labels, plan, num_classes=size)
    return {figures.FACTS: facts_alone, **_with_sum(by_stream)}

  def _fit_head(
    self, samples: samples_lib.Samples, features: np.ndarray, grouping: splits.Grouping, fold: splits.Fold
  ) -> linear.Head:
    """The classifier of the clips to train on."""
    used = [index for index in fold.train if np.isfinite(features[index]).all()]  # sound may be missing
    return linear.fit(
        features[used], [samples.labels[i] for i in used], [grouping.groups[i] for i in used],
        num_classes=len(samples.classes), seed=self._config.seed,
    )  # fmt: skip


def _kept_fold(plan: splits.Plan, samples: samples_lib.Samples) -> splits.Fold:
  """What the network that is kept is trained on: all clips, or those to train on where some are set apart for good."""
  if plan.protocol in ("k_fold", "leave_one_group_out"):
    return splits.Fold("all clips, to be kept", tuple(range(len(samples))), ())
  return plan.folds[0]


def _with_sum(logits: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The logits of the streams, and of several also their sum, which is how programs take networks together."""
  return {**logits, **({"+".join(logits): np.sum(list(logits.values()), axis=0)} if len(logits) > 1 else {})}


def save(
  folder: pathlib.Path, checkpoint: str, head: linear.Head, samples: samples_lib.Samples, *, flow_method: str = ""
) -> None:
  """Writes a network with a new classifier, as train writes one.

  Args:
    folder: Folder to write to.
    checkpoint: The network that the features are of.
    head: The classifier on what that network gives its own.
    samples: Have the classes and the name of the set.
    flow_method: Optical flow that the features are of, see `flow.FlowConfig.flow_method`.

  Raises:
    CheckpointError: If the network's classifier is not a linear one on its features.
  """
  values, info = saved.read(checkpoint)
  names = [name for name in values if release.is_head(name)] or [name for name in _head_names(info)]
  kernels = [name for name in names if name.endswith("/w")]
  biases = [name for name in names if name.endswith("/b")]
  shapes = [values[name].shape for name in kernels if name in values]
  channels, count = head.kernel.shape
  if len(kernels) != 1 or len(biases) != 1 or any(shape[-2] != channels for shape in shapes):
    raise errors.CheckpointError(
      f"{checkpoint} ends in {', '.join(names)}, which is no linear classifier of {channels}"
    )
  ones = [1] * (len(shapes[0]) - 2 if shapes else 3)
  values |= {
    kernels[0]: head.kernel.astype(np.float32).reshape(*ones, channels, count),
    biases[0]: head.bias.astype(np.float32),
  }
  new = dataclasses.replace(
      info, num_classes=count, classes=samples.classes, dataset=samples.name, step=None, flow_method=flow_method
  )  # fmt: skip
  saved.save_values(folder, values, new)


def _head_names(info: saved.ModelInfo) -> list[str]:
  """The names of the classifier's variables of a network that came without one."""
  model = saved.make_model(dataclasses.replace(info, num_classes=2))
  return [name for name in release.named_variables(model) if release.is_head(name)]


def _features(path: pathlib.Path) -> np.ndarray:
  return files.read_arrays(path)["features"].mean(axis=0)


def _duration(seconds: float) -> str:
  return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
