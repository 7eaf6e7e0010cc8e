"""What learns in a run: the network, the optimizer and the state of the schedule, as they are saved and restored."""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.models import base
from i3d_tf.models import preprocess
from i3d_tf.training import distribution
from i3d_tf.training import objectives
from i3d_tf.training import optimizers
from i3d_tf.training import run_folder
from i3d_tf.training import step
from i3d_tf.weights import initialization
from i3d_tf.weights import saved


class Learner:
  """A network in training.

  Attributes:
    info: Description of the network that is kept, with the classes of the first data set, if it has a classifier.
    model: The network that is trained, with the classes of all data sets.
    progress: The state beside the variables.
    plateau: The schedule 'plateau'.
    loss_scale: Factor on the loss.
    notes: Sentences that say what the network started from.
  """

  def __init__(
    self,
    run: training.TrainConfig,
    optimization: training.OptimizationConfig,
    clips: clip_config.TrainClips,
    strategy: tf.distribute.Strategy,
    workers: distribution.Workers,
    sources: distribution.Sources,
    objective: objectives.Classification | None = None,
  ):
    """Makes network and optimizer, and restores the newest checkpoint, if there is one.

    Args:
      run: Network, and what it starts from.
      optimization: Optimizer and schedule.
      clips: Clips that the network takes.
      strategy: Replicas.
      workers: Place of this process among those of the run.
      sources: Records, which say what the classes are.
      objective: What the network is trained for; None: the classes.

    Raises:
      I3dError: if the network does not take such clips or batches, or a checkpoint does not fit.
    """
    self._run = run
    self._optimization = optimization
    self._strategy = strategy
    objective = self._objective = objective or objectives.Classification(optimization.label_smoothing)
    source = sources.training[0]
    self.info = saved.ModelInfo(
        model=run.model, stream=run.stream, num_classes=sources.sizes[0], classes=source.classes,
        dataset=source.dataset, width_multiplier=run.width_multiplier, average_space=run.average_space,
        top_segments=run.top_segments, preprocess=preprocess.of(clips),
        flow_method=source.flow_method if "flow" in clips.streams else "",
    )  # fmt: skip
    trained = self.info
    if len(sources.sizes) > 1:
      trained = dataclasses.replace(self.info, num_classes=sum(sources.sizes), classes=())
    if not objective.has_classes:
      self.info = dataclasses.replace(self.info, num_classes=0, classes=())
    self.progress = Progress()
    self.plateau = optimizers.Plateau(optimization.plateau_patience)
    self.loss_scale = optimizers.LossScale(is_used=optimization.precision == "float16")
    with strategy.scope():
      self.model = saved.make_model(
          trained, compute_dtype=optimization.precision, sync_batch_norm=optimization.sync_batch_norm,
          batch_norm_decay=optimization.batch_norm_decay, spatial_dropout=optimization.spatial_dropout,
          recompute=optimization.recompute,
      )  # fmt: skip
      _check_clip(self.model, self.info, run.batch_size)
      _check_batch(self.model, run, strategy.num_replicas_in_sync if optimization.sync_batch_norm else 1)
      objective.load(trained, sources.sizes)
      beside = {} if objective.head is None else {"head": objective.head}
      variables = [variable for part in (self.model, *beside.values()) for variable in part.trainable_variables]
      self._optimizer = optimizers.make(optimization, variables)
    self._checkpoints = _Checkpoints(
        pathlib.Path(run.output), self.progress, workers, keep=run.keep_checkpoints, model=self.model,
        optimizer=self._optimizer, **beside,
    )  # fmt: skip
    self.notes = objective.notes(source.flow_method)
    if (warnings := self._checkpoints.restore()) is not None:
      self.notes += warnings
      self.notes.append(f"Going on from step {self.progress.step} of {run.output}.")
      self.plateau.restore(self.progress.plateau)
      self.loss_scale.restore(self.progress.loss_scale)
    elif run.initial_checkpoint:
      with strategy.scope():
        self.notes += initialization.initialize(
          self.model, trained, run.initial_checkpoint, rescale_first_kernel=run.rescale_first_kernel
        )

  def save(self) -> None:
    """Writes a checkpoint from which the run can go on; every worker must take part.

    Raises:
      CheckpointError: if it cannot be written; those before stay.
    """
    self.progress.plateau = self.plateau.state()
    self.progress.loss_scale = self.loss_scale.state()
    self._checkpoints.save()

  def save_model(self, folder: pathlib.Path) -> None:
    """Writes the network for use; every worker must take part, since averages over replicas are formed.

    Args:
      folder: Folder of the run of the chief, and temporary ones of the others.

    Raises:
      I3dError: if it cannot be written.
    """
    info = dataclasses.replace(self.info, step=self.progress.step)
    try:
      saved.save(folder / saved.BEST, self.model, info)
    except OSError as error:
      raise errors.I3dError(f"the network cannot be saved: {errors.describe_os_error(error)}") from None

  @tf.function(autograph=False)
  def even_out(self) -> None:
    """Gives every replica the mean of the moving statistics over all, so that what is saved is what goes on."""
    if self._strategy.num_replicas_in_sync > 1:
      for variable in self.model.variables:
        if variable.synchronization == tf.VariableSynchronization.ON_READ:
          variable.assign(variable.read_value())

  def make_step(self) -> step.Step:
    """Returns the training step, with the units frozen that are so at this step.

    Raises:
      I3dError: if that leaves nothing to train.
    """
    optimization = self._optimization
    is_frozen = optimization.freeze and not 0 < optimization.unfreeze_step <= self.progress.step
    try:
      self.model.freeze(optimization.freeze if is_frozen else None)
    except ValueError as error:
      raise errors.I3dError(f"freeze: {error}") from None
    if not self.model.trained_variables:
      raise errors.I3dError(f"freeze is {optimization.freeze!r}; it leaves nothing of {self._run.model} to train")
    with self._strategy.scope():
      return step.Step(
          self.model, self._optimizer, self._strategy, optimization, streams=self.info.streams,
          batch_size=self._run.batch_size, objective=self._objective,
      )  # fmt: skip


class Progress(tf.train.experimental.PythonState):
  """The state of a run beside its variables.

  The order of the clips is a function of the seed and the step, so the step is also the position of the input.

  Attributes:
    step: steps done.
    best: the best validation accuracy so far, None before the first validation.
    best_loss: the validation loss of the same step.
    plateau: state of `optimizers.Plateau`.
    loss_scale: state of `optimizers.LossScale`.
    is_validation_due: whether this step is still to be validated.
    unreadable: the records that could not be read, with their reasons.
    sums: `run_folder.Monitor.sums`, of the steps since the last line of the metrics.
  """

  def __init__(self):
    super().__init__()
    self.step = 0
    self.best: float | None = None
    self.best_loss: float | None = None
    self.plateau: Any = None
    self.loss_scale: Any = None
    self.is_validation_due = False
    self.unreadable: list[str] = []
    self.sums: list[float] = []

  def serialize(self) -> str:
    """Returns the state as JSON; TensorFlow calls it on saving."""
    return json.dumps({name: getattr(self, name) for name in self._names()})

  def deserialize(self, text: str) -> None:
    """Takes up the state; TensorFlow calls it on restoring.

    Args:
      text: What `serialize` returned.
    """
    for name, value in json.loads(text).items():
      setattr(self, name, value)

  def _names(self) -> list[str]:
    return [name for name in vars(self) if not name.startswith("_")]


class _Checkpoints:
  """Saves and restores a run's state; a save that fails leaves the ones before as they were."""

  def __init__(
    self, folder: pathlib.Path, progress: Progress, workers: distribution.Workers, *, keep: int, **parts: tf.Module
  ):
    """`parts` are saved beside `progress`; every worker must take part in saving and restoring."""
    self._progress = progress
    self._checkpoint = tf.train.Checkpoint(progress=progress, **parts)
    self._folder = folder / run_folder.CHECKPOINTS
    for leftover in self._folder.glob("ckpt-*_temp*"):  # of a process that was killed while it saved
      shutil.rmtree(leftover, ignore_errors=True)
    # All workers save, since averages over replicas are formed then, but the chief's files alone are kept.
    self._is_chief = workers.is_chief
    self._place = os.fspath(self._folder)
    if not workers.is_chief:
      self._scratch = tempfile.TemporaryDirectory(prefix="i3d_tf.")
      self._place = self._scratch.name
    self._keep = keep

  def _begin(self, whole: Sequence[int]) -> None:
    """Begins to save after the checkpoints of these steps; TensorFlow's list of them is written anew."""
    if self._is_chief and whole:
      paths = [os.fspath(self._folder / f"ckpt-{step}") for step in whole]
      tf.compat.v1.train.update_checkpoint_state(self._place, paths[-1], paths)
    elif self._is_chief:
      (self._folder / "checkpoint").unlink(missing_ok=True)
    self._manager = tf.train.CheckpointManager(self._checkpoint, self._place, max_to_keep=self._keep)

  def restore(self) -> list[str] | None:
    """Restores the newest checkpoint that can be restored.

    Which ones there are is told by the files and not by TensorFlow's list of them, so that nothing is lost where that
    list is damaged. Checkpoints that are passed over stay until the run saves its own at that step.

    Returns:
      Sentences about those that were passed over, or None if the run has no checkpoint.

    Raises:
      CheckpointError: If there are checkpoints, but none of this network is whole.
    """
    found = run_folder.checkpoint_steps(self._folder.parent)
    notes: list[str] = []
    for number in reversed(range(len(found))):
      path = self._folder / f"ckpt-{found[number]}"
      try:
        status = self._checkpoint.restore(os.fspath(path))
        status.assert_existing_objects_matched()
        status.assert_consumed()
      except Exception as error:  # TensorFlow's readers raise many kinds for bytes that are not theirs
        notes.append(f"{path} cannot be restored ({errors.first_line(error)})")
        continue
      self._begin(found[: number + 1])
      return [f"Warning: {note}; {path.name} is the newest that can" for note in notes]
    if notes:
      raise errors.CheckpointError(f"{'; '.join(notes)}; no other one is there to go on from; give another output")
    self._begin([])
    return None

  def save(self) -> None:
    """Writes a checkpoint of the current state.

    Raises:
      CheckpointError: if it cannot be written; what was there before stays.
    """
    step = self._progress.step
    try:
      self._manager.save(checkpoint_number=step)
    except (tf.errors.OpError, OSError) as error:
      for part in pathlib.Path(self._manager.directory).glob(f"ckpt-{step}[._]*"):
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
      last = self._manager.latest_checkpoint
      left = f"{last} is whole and the run can go on from it" if last else "there is none before it"
      raise errors.CheckpointError(
        f"the checkpoint of step {step} cannot be written to {self._folder}: {errors.first_line(error)}; {left}"
      ) from None


def _check_clip(model: base.Network, info: saved.ModelInfo, batch_size: int) -> None:
  """Raises I3dError if the network does not take clips of this length and size."""
  clip = info.preprocess
  shape = [batch_size, clip.num_frames, clip.crop, clip.crop]
  specs = {stream: tf.TensorSpec([*shape, number]) for stream, number in info.channels.items()}
  try:
    model.check(base.clip_of(specs, info.streams))
  except ValueError as error:
    raise errors.I3dError(f"the network {info.model} does not take these clips: {error}") from None


def _check_batch(model: base.Network, run: training.TrainConfig, num_together: int) -> None:
  """Raises I3dError if the batches of the replicas that are normalised together have too few clips to learn from."""
  if run.batch_size * num_together < model.MIN_BATCH:
    raise errors.I3dError(
      f"batch_size is {run.batch_size}; {run.model} normalises over the clips of a batch and needs at least "
      f"{model.MIN_BATCH}"
    )
