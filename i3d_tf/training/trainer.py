"""The training loop: from a configuration to a trained network in a folder."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import tempfile
import time
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.models import zoo
from i3d_tf.training import distillation
from i3d_tf.training import distribution
from i3d_tf.training import learner as learner_lib
from i3d_tf.training import objectives
from i3d_tf.training import optimizers
from i3d_tf.training import run_folder
from i3d_tf.training import step as steps
from i3d_tf.weights import saved


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """How a training ended.

  Attributes:
    output: Folder of the run.
    step: Steps done; fewer than `num_steps` if the training was asked to stop, and goes on when it is called again.
    network: Folder of the best network, or of the last one without a validation split; any other function of the
      package takes it as a checkpoint.
    metrics: Values that were measured last of that network: 'validation_loss' and 'validation_accuracy', or without a
      validation split 'loss' and 'accuracy' of the last steps; empty on workers other than the chief.
  """

  output: str
  step: int
  network: str
  metrics: Mapping[str, float]


def train(
  records: str | os.PathLike,
  output: str | os.PathLike,
  *,
  num_steps: int,
  optimization: training.OptimizationConfig | None = None,
  clips: clip_config.TrainClips | Mapping[str, Any] | None = None,
  progress: bool = False,
  flags_text: str = "",
  **options: Any,
) -> TrainResult:
  """Trains a network, or goes on with a run that was interrupted.

  SIGTERM and SIGINT end it after the step at hand with everything saved; after SIGTERM it returns.

  Args:
    records: Folder of TFRecords from prepare_dataset.
    output: Folder of the run.
    num_steps: Last step.
    optimization: How weights are trained; None: the defaults.
    clips: Clips to train on, or the fields of `TrainClips` that are to differ from what the network takes.
    progress: Whether to print what is done, with a bar on stderr.
    flags_text: Content of flags.txt in the folder of the run.
    **options: Further fields of `TrainConfig`, such as `model` and `stream`.

  Returns:
    Where the network is, and how good it is.

  Raises:
    I3dError: for options that do not fit the data or the folder, records that cannot be read, a loss that is not
      finite, or a checkpoint that cannot be written. What was saved before stays.
    KeyboardInterrupt: if it was SIGINT, so that what was to follow the training does not.
  """
  run = training.TrainConfig(records=os.fspath(records), output=os.fspath(output), num_steps=num_steps, **options)
  optimization = training.OptimizationConfig() if optimization is None else optimization
  if not isinstance(clips, clip_config.TrainClips):
    clips = training.make_clips(run.model, run.stream, clips or {})
  zoo.check_segments(run.model, clips.segment_frames)
  strategy, workers = distribution.make_strategy(run.num_logical_cpus)
  if optimization.precision == "float16" and not tf.config.list_logical_devices("GPU"):
    raise errors.I3dError("precision float16 needs a GPU: TensorFlow has no max pool of that type for CPUs")
  if run.second_records and optimization.label_smoothing:
    raise errors.I3dError("label_smoothing is not for two data sets; drop it or second_records")
  if run.objective == "contrastive" and optimization.label_smoothing:
    raise errors.I3dError("label_smoothing is about labels, which the objective contrastive does not use; drop it")
  tf.random.set_seed(run.seed)
  if run.deterministic:
    tf.config.experimental.enable_op_determinism()
  objective = _make_objective(run, optimization)
  seen = objective.clips(clips)
  sources = distribution.Sources(run, clips, seen)
  with contextlib.ExitStack() as stack:
    if workers.is_chief:
      folder = pathlib.Path(run.output)
      replicas = strategy.num_replicas_in_sync
      stack.enter_context(run_folder.claim(folder, (run, optimization, clips), flags_text, num_replicas=replicas))
    else:
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="i3d_tf.")))
    with distribution.explained():
      learner = learner_lib.Learner(run, optimization, clips, strategy, workers, sources, objective)
      parts = (sources, objective, learner)
      trainer = _Trainer(run, optimization, (clips, seen), strategy, workers, folder, parts, progress)
      trainer.run()
    return TrainResult(run.output, trainer.step, os.path.join(run.output, saved.BEST), trainer.metrics())


def _make_objective(run: training.TrainConfig, optimization: training.OptimizationConfig) -> objectives.Classification:
  if run.objective == "contrastive":
    return objectives.Contrastive(run.temperature)
  if run.teacher:
    return distillation.Distillation(run, optimization.label_smoothing)
  return objectives.Classification(optimization.label_smoothing)


class _Trainer:
  """A run in progress."""

  def __init__(
    self,
    run: training.TrainConfig,
    optimization: training.OptimizationConfig,
    clips: tuple[clip_config.TrainClips, clip_config.TrainClips],
    strategy: tf.distribute.Strategy,
    workers: distribution.Workers,
    folder: pathlib.Path,
    parts: tuple[distribution.Sources, objectives.Classification, learner_lib.Learner],
    is_shown: bool,
  ):
    """Makes what measures; `clips` are those of the network, and those of its training; `folder` is this worker's."""
    self._run = run
    self._optimization = optimization
    own_clips, self._clips = clips
    self._strategy = strategy
    self._workers = workers
    self._folder = folder
    self._sources, self._objective, self._learner = parts
    self._is_shown = is_shown and workers.is_chief
    self._progress = self._learner.progress
    self._validation = None
    if self._sources.validation is not None:
      self._validation = steps.Validation(
          self._learner.model, strategy, self._sources.validation, own_clips, batch_size=run.batch_size,
          workers=workers, objective=self._objective,
      )  # fmt: skip
    self._signal: signal.Signals | None = None  # that asks this worker to stop
    self._stop = False  # all of them

  @property
  def step(self) -> int:
    """The number of steps done."""
    return self._progress.step

  def metrics(self) -> dict[str, float]:
    """The metrics of the network that is kept, as `TrainResult` has them."""
    path = self._folder / run_folder.METRICS
    lines = run_folder.read_metrics(path) if path.exists() else []
    names = ("loss", "accuracy") if self._validation is None else ("validation_loss", "validation_accuracy")
    lines = [line for line in lines if names[0] in line]
    if self._validation is not None:
      lines.sort(key=lambda line: (line[names[1]], -line[names[0]]))
    return {name: lines[-1][name] for name in names} if lines else {}

  def run(self) -> None:
    """Trains to the last step, or until a signal."""
    run, progress = self._run, self._progress
    if progress.step >= run.num_steps and not progress.is_validation_due:
      if self._is_shown:
        print(f"{run.output}: all {run.num_steps} steps are done; a larger num_steps would go on from here")
      return
    with distribution.on_signals(self._ask_to_stop), self._monitor() as monitor:
      self._describe(monitor)
      if progress.is_validation_due:
        self._keep(monitor)
      position = progress.step * self._optimization.accumulation_steps
      batches = distribution.train_batches(
        self._sources, run, self._clips, self._strategy, self._workers, first_batch=position,
        views=self._objective.views,
      )  # fmt: skip
      train_step = self._learner.make_step()
      while progress.step < run.num_steps and not self._stop:
        if 0 < progress.step == self._optimization.unfreeze_step:
          train_step = self._learner.make_step()
        monitor.profile(progress.step)
        self._train_step(train_step, batches, monitor)
        self._keep(monitor)
    if not self._stop and self._is_shown and self._workers.is_chief:
      metrics = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.metrics().items())
      print(f"The network is in {self._folder / saved.BEST}: {metrics}", flush=True)
    if self._stop and self._is_shown:
      print(f"Stopped at step {progress.step} and saved; the same command goes on from there", flush=True)
    if self._stop and self._signal == signal.SIGINT:
      raise KeyboardInterrupt

  def _train_step(self, train_step: steps.Step, batches: Iterator, monitor: run_folder.Monitor) -> None:
    """Makes one step, and checks that all went well."""
    progress, accumulation = self._progress, self._optimization.accumulation_steps
    rate = optimizers.rate(
      self._optimization, progress.step, num_steps=self._run.num_steps, num_drops=self._learner.plateau.num_drops
    )
    wait, parts, used = 0.0, [], []
    scale = self._learner.loss_scale.value
    for part in range(accumulation):
      start = time.perf_counter()
      batch = next(batches)
      wait += time.perf_counter() - start
      used.append({key: batch[key] for key in ("id", "error")})
      if part < accumulation - 1:
        parts.append(train_step.accumulate(batch, loss_scale=scale))
      else:
        stop = self._signal is not None
        parts.append(train_step.apply(batch, rate=rate, step=progress.step, loss_scale=scale, stop=stop))
    outcome = steps.Outcome(*map(sum, zip(*parts, strict=True)))
    self._check_readable(used, outcome.num_clips)
    is_loss_finite = math.isfinite(outcome.loss)
    if not (self._learner.loss_scale.update(outcome.is_finite > 0.5) and is_loss_finite):
      what = "a gradient" if is_loss_finite else "the loss"
      raise errors.I3dError(
        f"{what} is not finite at step {progress.step} (rate {rate:g}); clips of the batch: "
        f"{', '.join(distribution.texts(used, 'id', self._strategy))}; checkpoints are as they were; a lower "
        "learning_rate, clip_norm or warmup_steps may help"
      )
    if progress.step == 0:
      local = self._strategy.experimental_local_results
      first = pipeline.scaled({name: local(value)[0][:4] for name, value in batch.items()})
      for stream in self._learner.info.streams:
        monitor.clips(0, stream, first[stream].numpy())
    progress.step += 1
    self._stop = outcome.stop > 0
    monitor.step(
      progress.step,
      loss=outcome.loss,
      correct=outcome.correct,
      count=outcome.num_clips,
      rate=rate,
      wait=wait,
      distance=outcome.distance,
    )

  def _keep(self, monitor: run_folder.Monitor) -> None:
    """Validates and saves when it is time; who is asked to stop saves first, and validates when the run goes on."""
    run, progress = self._run, self._progress
    is_last = progress.step == run.num_steps
    with monitor.paused():
      is_time = bool(run.validate_every) and progress.step % run.validate_every == 0
      progress.is_validation_due = self._validation is not None and (is_last or is_time)
      is_saved = is_last or self._stop or progress.step % run.save_every == 0
      if progress.is_validation_due or is_saved:
        self._learner.even_out()
      if self._validation is not None and progress.is_validation_due and not self._stop:
        self._validate(self._validation, monitor)
      if is_saved or self._stop:
        progress.sums = monitor.sums
        self._learner.save()
      if is_last and self._validation is None:
        self._learner.save_model(self._folder)

  def _validate(self, validation: steps.Validation, monitor: run_folder.Monitor) -> None:
    # Several workers measure together, and so to the end.
    measured = validation.measure(lambda: self._signal is not None and self._workers.count == 1)
    if measured is None:
      self._stop = True
      return
    loss, accuracy = measured
    progress = self._progress
    progress.is_validation_due = False
    monitor.write(progress.step, {"validation_loss": loss, "validation_accuracy": accuracy})
    monitor.say(f"step {progress.step}: validation loss {loss:.4f}, accuracy {accuracy:.4f}")
    if self._optimization.schedule == "plateau" and self._learner.plateau.update(loss):
      monitor.say(f"step {progress.step}: the validation loss has saturated; the rate drops")
    best_loss = math.inf if progress.best_loss is None else progress.best_loss  # of runs of version 0.1
    if progress.best is None or (accuracy, -loss) >= (progress.best, -best_loss):
      progress.best, progress.best_loss = accuracy, loss
      self._learner.save_model(self._folder)

  def _check_readable(self, batches: Sequence, count: float) -> None:
    """Names records that could not be read, and stops at too many of them."""
    replicas, accumulation = self._strategy.num_replicas_in_sync, self._optimization.accumulation_steps
    if count == self._run.batch_size * replicas * accumulation:
      return
    known = self._progress.unreadable
    for error in distribution.texts(batches, "error", self._strategy):
      if error and error not in known:
        known.append(error)
        if len(known) > self._run.allow_unreadable:
          raise errors.I3dError(
            f"{len(known)} records cannot be used ({'; '.join(known)}); inspect_records tells more, and "
            f"with allow_unreadable={len(known)} it would go on without them"
          )

  def _describe(self, monitor: run_folder.Monitor) -> None:
    """Says and writes down what is about to happen."""
    if not self._workers.is_chief:
      return
    used = {"training": pipeline.steps(self._clips)}
    run_folder.describe(self._folder, self._learner.model, used)
    replicas = self._strategy.num_replicas_in_sync
    monitor.say(
      f"{self._sources}; batches of {self._run.batch_size} clips on {replicas} replica{'s' if replicas > 1 else ''}, "
      f"{self._optimization.accumulation_steps} a step"
    )
    monitor.say(f"Input: {', '.join(used['training'])}")
    for note in self._learner.notes:
      monitor.say(note)
    if not distribution.max_pool_gradient_is_right(self._optimization.precision):
      monitor.say(
        "Warning: the max-pool gradient of this TensorFlow gives tied maxima the whole gradient each; training with "
        "short clips will differ from other machines (oneDNN is off by TF_ENABLE_ONEDNN_OPTS=0, or this processor "
        "has no AVX-512, which its bfloat16 needs)"
      )

  def _monitor(self) -> run_folder.Monitor:
    folder = self._folder if self._workers.is_chief else None
    return run_folder.Monitor(
      folder,
      first_step=self._progress.step,
      num_steps=self._run.num_steps,
      log_every=self._run.log_every,
      sums=self._progress.sums,
      is_shown=self._is_shown,
      profile_steps=self._run.profile_steps,
    )

  def _ask_to_stop(self, number: signal.Signals) -> None:
    self._signal = number
