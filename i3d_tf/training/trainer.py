"""The training loop: from options to a trained network in a folder."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import math
import pathlib
import signal
import tempfile
import time

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.models import base
from i3d_tf.models import preprocess
from i3d_tf.training import checkpoints
from i3d_tf.training import config
from i3d_tf.training import distribution
from i3d_tf.training import monitor as monitors
from i3d_tf.training import optimizers
from i3d_tf.training import run_folder
from i3d_tf.training import step
from i3d_tf.training import validation
from i3d_tf.weights import initialization
from i3d_tf.weights import saved


def train(
  run: config.Run,
  optimization: config.Optimization,
  clips: clip_config.TrainClips,
  *,
  flags_text: str = "",
) -> None:
  """Trains a network, or goes on with a run that was interrupted.

  SIGTERM and SIGINT end it after the step at hand with everything saved; after SIGTERM it returns.

  Args:
    run: data, network, folder.
    optimization: the recipe.
    clips: how clips are made of records.
    flags_text: for the run folder's flags.txt.

  Raises:
    I3dError: for options that do not fit the data or the folder, records that cannot be read, a loss that is not
      finite, or a checkpoint that cannot be written. What was saved before stays.
    KeyboardInterrupt: if it was SIGINT, so that what was to follow the training does not.
  """
  strategy, workers = distribution.make_strategy(run.num_logical_cpus)
  if optimization.precision == "float16" and not tf.config.list_logical_devices("GPU"):
    raise errors.I3dError("--precision=float16 needs a GPU: TensorFlow has no max pool of that type for CPUs")
  tf.random.set_seed(run.seed)
  if run.deterministic:
    tf.config.experimental.enable_op_determinism()
  stored = clip_config.stored(clips)
  sources = [pipeline.open_source(run.records, run.split, streams=stored)]
  if run.second_records:
    sources.append(pipeline.open_source(run.second_records, run.second_split, streams=stored))
    if optimization.label_smoothing:
      raise errors.I3dError("--label_smoothing is not for two data sets; drop it or --second_records")
  validation_source = None
  if run.validation_split:
    validation_source = pipeline.open_source(run.records, run.validation_split, streams=stored)
  with contextlib.ExitStack() as stack:
    if workers.is_chief:
      folder = pathlib.Path(run.output)
      stack.enter_context(workdir.locked(folder))
      run_folder.prepare(folder, (run, optimization, clips), flags_text, num_replicas=strategy.num_replicas_in_sync)
    else:
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="i3d_tf.")))
    trainer = Trainer(run, optimization, clips, strategy, workers, folder, sources, validation_source)
    with checkpoints.explained():
      trainer.run()


class Trainer:
  """A run in progress."""

  def __init__(
    self,
    run: config.Run,
    optimization: config.Optimization,
    clips: clip_config.TrainClips,
    strategy: tf.distribute.Strategy,
    workers: distribution.Workers,
    folder: pathlib.Path,
    sources: Sequence[pipeline.Source],
    validation_source: pipeline.Source | None,
  ):
    """Makes network and optimizer, and takes up the newest checkpoint, if there is one.

    `folder` is this worker's. The network is for the first of the sources; others help to train it.
    """
    self._run = run
    self._optimization = optimization
    self._clips = clips
    self._strategy = strategy
    self._workers = workers
    self._folder = folder
    self._sources = sources
    self._tasks = [_num_classes(source) for source in sources]
    source = sources[0]
    self._info = saved.ModelInfo(
        model=run.model, stream=run.stream, num_classes=self._tasks[0], classes=source.classes,
        dataset=source.dataset, width_multiplier=run.width_multiplier, average_space=run.average_space,
        preprocess=preprocess.of(clips),
    )  # fmt: skip
    trained = self._info
    if len(sources) > 1:
      trained = dataclasses.replace(self._info, num_classes=sum(self._tasks), classes=())
    self._progress = checkpoints.Progress()
    self._plateau = optimizers.Plateau(optimization.plateau_patience)
    self._loss_scale = optimizers.LossScale(is_used=optimization.precision == "float16")
    with strategy.scope():
      self._model = saved.make_model(
          trained, compute_dtype=optimization.precision, sync_batch_norm=optimization.sync_batch_norm,
          batch_norm_decay=optimization.batch_norm_decay, spatial_dropout=optimization.spatial_dropout,
          recompute=optimization.recompute,
      )  # fmt: skip
      _check_clip(self._model, self._info, run.batch_size)
      _check_batch(self._model, run, strategy.num_replicas_in_sync if optimization.sync_batch_norm else 1)
      self._optimizer = optimizers.make(optimization, self._model.trainable_variables)
    self._checkpoints = checkpoints.Checkpoints(
        pathlib.Path(run.output), self._progress, workers, keep=run.keep_checkpoints, model=self._model,
        optimizer=self._optimizer,
    )  # fmt: skip
    self._notes = []
    if self._checkpoints.restore():
      self._notes.append(f"Going on from step {self._progress.step} of {run.output}.")
      self._plateau.restore(self._progress.plateau)
      self._loss_scale.restore(self._progress.loss_scale)
    elif run.initial_checkpoint:
      with strategy.scope():
        self._notes += initialization.initialize(
          self._model, trained, run.initial_checkpoint, rescale_first_kernel=run.rescale_first_kernel
        )
    self._validation = None
    if validation_source is not None:
      _check_classes(source, validation_source)
      self._validation = validation.Validation(
          self._model, strategy, validation_source, clips, batch_size=run.batch_size, workers=workers,
          tasks=self._tasks,
      )  # fmt: skip
    self._signal = None  # that asks this worker to stop
    self._stop = False  # all of them
    self._is_profiling = False

  def run(self) -> None:
    """Trains to the last step, or until a signal."""
    run, progress = self._run, self._progress
    if progress.step >= run.num_steps and not progress.is_validation_due:
      print(f"{run.output}: all {run.num_steps} steps are done; more of --num_steps would go on from here")
      return
    with checkpoints.on_signals(self._ask_to_stop), self._monitor() as monitor:
      self._describe(monitor)
      if progress.is_validation_due:
        self._keep(monitor)
      batches = self._batches()
      train_step = self._make_step()
      while progress.step < run.num_steps and not self._stop:
        if 0 < progress.step == self._optimization.unfreeze_step:
          train_step = self._make_step()
        self._profile()
        self._train_step(train_step, batches, monitor)
        self._keep(monitor)
      self._profile(end=True)
    if self._stop and self._workers.is_chief:
      print(f"Stopped at step {progress.step} and saved; the same command goes on from there", flush=True)
    if self._stop and self._signal == signal.SIGINT:
      raise KeyboardInterrupt

  def _train_step(self, train_step: step.Step, batches: Iterator, monitor: monitors.Monitor) -> None:
    """Makes one step, and checks that all went well."""
    progress, accumulation = self._progress, self._optimization.accumulation_steps
    rate = optimizers.rate(
      self._optimization, progress.step, num_steps=self._run.num_steps, num_drops=self._plateau.num_drops
    )
    wait, parts, used = 0.0, [], []
    scale = self._loss_scale.value
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
    outcome = step.Outcome(*map(sum, zip(*parts, strict=True)))
    self._check_readable(used, outcome.count)
    is_loss_finite = math.isfinite(outcome.loss)
    if not (self._loss_scale.update(outcome.is_finite > 0.5) and is_loss_finite):
      what = "a gradient" if is_loss_finite else "the loss"
      raise errors.I3dError(
        f"{what} is not finite at step {progress.step} (rate {rate:g}); clips of the batch: "
        f"{', '.join(self._strings(used, 'id'))}; checkpoints are as they were; a lower --learning_rate, "
        "--clip_norm or --warmup_steps may help"
      )
    if progress.step == 0:
      first = pipeline.scaled({name: self._local(value)[0][:4] for name, value in batch.items()})
      for stream in self._info.streams:
        monitor.clips(0, stream, first[stream].numpy())
    progress.step += 1
    self._stop = outcome.stop > 0
    monitor.step(progress.step, loss=outcome.loss, correct=outcome.correct, count=outcome.count, rate=rate, wait=wait)

  def _keep(self, monitor: monitors.Monitor) -> None:
    """Validates and saves when it is time; who is asked to stop saves first, and validates when the run goes on."""
    run, progress = self._run, self._progress
    is_last = progress.step == run.num_steps
    with monitor.paused():
      is_time = bool(run.validate_every) and progress.step % run.validate_every == 0
      progress.is_validation_due = self._validation is not None and (is_last or is_time)
      is_saved = is_last or self._stop or progress.step % run.save_every == 0
      if progress.is_validation_due or is_saved:
        self._even_out()
      if progress.is_validation_due and not self._stop:
        self._validate(monitor)
      if is_saved or self._stop:
        self._save()
      if is_last and self._validation is None:
        self._save_model()

  def _validate(self, monitor: monitors.Monitor) -> None:
    # Several workers measure together, and so to the end.
    measured = self._validation.measure(lambda: self._signal is not None and self._workers.count == 1)
    if measured is None:
      self._stop = True
      return
    loss, accuracy = measured
    progress = self._progress
    progress.is_validation_due = False
    monitor.write(progress.step, {"validation_loss": loss, "validation_accuracy": accuracy})
    monitor.say(f"step {progress.step}: validation loss {loss:.4f}, accuracy {accuracy:.4f}")
    if self._optimization.schedule == "plateau" and self._plateau.update(loss):
      monitor.say(f"step {progress.step}: the validation loss has saturated; the rate drops")
    if progress.best is None or accuracy >= progress.best:
      progress.best = accuracy
      self._save_model()

  def _save(self) -> None:
    self._progress.plateau = self._plateau.state()
    self._progress.loss_scale = self._loss_scale.state()
    self._checkpoints.save()

  def _save_model(self) -> None:
    """Writes the network for use; all workers form its averages, the chief's folder is the run's."""
    info = dataclasses.replace(self._info, step=self._progress.step)
    try:
      saved.save(self._folder / saved.BEST, self._model, info)
    except OSError as error:
      raise errors.I3dError(f"the network cannot be saved: {errors.describe_os_error(error)}") from None

  @tf.function(autograph=False)
  def _even_out(self) -> None:
    """Gives every replica the mean of the moving statistics over all, so that what is saved is what goes on."""
    if self._strategy.num_replicas_in_sync > 1:
      for variable in self._model.variables:
        if variable.synchronization == tf.VariableSynchronization.ON_READ:
          variable.assign(variable.read_value())

  def _make_step(self) -> step.Step:
    optimization = self._optimization
    is_frozen = optimization.freeze and not 0 < optimization.unfreeze_step <= self._progress.step
    try:
      self._model.freeze(optimization.freeze if is_frozen else None)
    except ValueError as error:
      raise errors.I3dError(f"--freeze: {error}") from None
    if not self._model.trained_variables:
      raise errors.I3dError(f"--freeze={optimization.freeze} leaves nothing of {self._run.model} to train")
    with self._strategy.scope():
      return step.Step(
          self._model, self._optimizer, self._strategy, optimization, streams=self._info.streams,
          batch_size=self._run.batch_size, tasks=self._tasks,
      )  # fmt: skip

  def _batches(self) -> Iterator:
    """Per-replica batches from this step on; they are a function of the seed and the step."""
    run, count = self._run, self._workers.count
    num_shards = run.data_shards or count
    if num_shards % count:
      raise errors.I3dError(f"--data_shards is {num_shards}; it must be a multiple of the {count} workers")
    own = num_shards // count
    shards = tuple(range(self._workers.index * own, (self._workers.index + 1) * own))
    replicas = self._strategy.num_replicas_in_sync // count
    position = self._progress.step * self._optimization.accumulation_steps * replicas
    batches = lambda source: pipeline.train_batches(
        source, self._clips, batch_size=run.batch_size // len(self._sources) * count, seed=run.seed,
        first_batch=position, shards=shards, num_shards=num_shards, data_service=run.data_service or None,
    )  # fmt: skip
    dataset = lambda context: step.merge([batches(source) for source in self._sources], self._tasks)
    return iter(self._strategy.distribute_datasets_from_function(dataset))

  def _check_readable(self, batches: Sequence, count: float) -> None:
    """Names records that could not be read, and stops at too many of them."""
    replicas, accumulation = self._strategy.num_replicas_in_sync, self._optimization.accumulation_steps
    if count == self._run.batch_size * replicas * accumulation:
      return
    known = self._progress.unreadable
    for error in self._strings(batches, "error"):
      if error and error not in known:
        known.append(error)
        if len(known) > self._run.allow_unreadable:
          raise errors.I3dError(
            f"{len(known)} records cannot be used ({'; '.join(known)}); inspect_records tells more, and "
            f"--allow_unreadable={len(known)} would go on without them"
          )

  def _strings(self, batches: Sequence, key: str) -> list[str]:
    return [
      value.decode(errors="backslashreplace")
      for batch in batches
      for part in self._local(batch[key])
      for value in part.numpy().tolist()
    ]

  def _local(self, value) -> Sequence[tf.Tensor]:
    return self._strategy.experimental_local_results(value)

  def _describe(self, monitor: monitors.Monitor) -> None:
    """Says and writes down what is about to happen."""
    if not self._workers.is_chief:
      return
    used = {"training": pipeline.steps(self._clips)}
    run_folder.describe(self._folder, self._model, used)
    replicas = self._strategy.num_replicas_in_sync
    videos = " and ".join(
      f"{source.num_records} {source.split} videos of {size} classes"
      for source, size in zip(self._sources, self._tasks, strict=True)
    )
    monitor.say(
      f"{videos}; batches of "
      f"{self._run.batch_size} clips on {replicas} replica{'s' if replicas > 1 else ''}, "
      f"{self._optimization.accumulation_steps} a step"
    )
    monitor.say(f"Input: {', '.join(used['training'])}")
    for note in self._notes:
      monitor.say(note)
    if not distribution.max_pool_gradient_is_right(self._optimization.precision):
      monitor.say(
        "Warning: the max-pool gradient of this TensorFlow gives tied maxima the whole gradient each; training with "
        "short clips will differ from other machines (is oneDNN switched off by TF_ENABLE_ONEDNN_OPTS=0?)"
      )

  def _profile(self, *, end: bool = False) -> None:
    if not (self._run.profile_steps and self._workers.is_chief):
      return
    first, last = self._run.profile_steps
    if self._progress.step == first and not end:
      tf.profiler.experimental.start(str(self._folder))
      self._is_profiling = True
    elif self._is_profiling and (end or self._progress.step > last):
      tf.profiler.experimental.stop()
      self._is_profiling = False

  def _monitor(self) -> monitors.Monitor:
    folder = self._folder if self._workers.is_chief else None
    return monitors.Monitor(
      folder, first_step=self._progress.step, num_steps=self._run.num_steps, log_every=self._run.log_every
    )

  def _ask_to_stop(self, number: signal.Signals) -> None:
    self._signal = number


def _num_classes(source: pipeline.Source) -> int:
  if not source.classes:
    raise errors.I3dError(f"{source.path} has no class list; prepare_dataset writes one, in dataset.json")
  return len(source.classes)


def _check_clip(model: base.Network, info: saved.ModelInfo, batch_size: int) -> None:
  """Raises I3dError if the network does not take clips of this length and size."""
  clip = info.preprocess
  shape = [batch_size, clip.num_frames, clip.crop, clip.crop]
  specs = {stream: tf.TensorSpec([*shape, number]) for stream, number in info.channels.items()}
  try:
    model.check(base.clip_of(specs, info.streams))
  except ValueError as error:
    raise errors.I3dError(f"the network {info.model} does not take these clips: {error}") from None


def _check_batch(model: base.Network, run: config.Run, num_together: int) -> None:
  """Raises I3dError if the batches of the replicas that are normalised together have too few clips to learn from."""
  if run.batch_size * num_together < model.MIN_BATCH:
    raise errors.I3dError(
      f"--batch_size is {run.batch_size}; {run.model} normalises over the clips of a batch and needs at least "
      f"{model.MIN_BATCH}"
    )


def _check_classes(source: pipeline.Source, other: pipeline.Source) -> None:
  if source.classes != other.classes:
    raise errors.I3dError(f"{source.path}: the splits have different class lists")
