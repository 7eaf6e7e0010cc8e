"""One step of optimization on all replicas, and the validation of the network between steps."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import NamedTuple

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.models import base
from i3d_tf.training import distribution
from i3d_tf.training import objectives
from i3d_tf.training import optimizers


class Outcome(NamedTuple):
  """The result of a batch, summed over its clips of weight 1 on all replicas; or of a step, summed over its batches.

  Attributes:
    loss: that of the objective, without weight decay or a teacher's distance.
    correct: clips that were told right.
    num_clips: clips.
    distance: mean squared difference from the teacher, where there is one.
    is_finite: 1 if the loss and all gradients were finite; otherwise nothing was moved.
    stop: how many replicas' workers asked to stop.
  """

  loss: float
  correct: float
  num_clips: float
  distance: float = 0.0
  is_finite: float = 0.0
  stop: float = 0.0


class Step:
  """Trains a network on batches of the pipeline, with the same code for one device and for many.

  Create it inside the strategy's scope. Every call is made on all replicas, with a per-replica batch.
  """

  def __init__(
    self,
    model: base.Network,
    optimizer: optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
    optimization: training.OptimizationConfig,
    *,
    streams: Sequence[str],
    batch_size: int,
    objective: objectives.Classification | None = None,
  ):
    """Describes the step.

    Args:
      model: Network that is built, with the units frozen that are not to be trained.
      optimizer: Optimizer with slots for all of the model's trainable variables.
      strategy: Strategy in whose scope the variables were made.
      optimization: The rest of the recipe; the rate is given to each step.
      streams: Keys of the clip in a batch: 'rgb', 'flow' or both.
      batch_size: Clips per replica and batch.
      objective: What the model is trained for; None: the classes of one data set.
    """
    self._model = model
    self._objective = objective or objectives.Classification(optimization.label_smoothing)
    self._optimizer = optimizer
    self._strategy = strategy
    self._options = optimization
    self._streams = tuple(streams)
    head = self._objective.head
    self._beside = () if head is None else head.trainable_variables
    self._global_batch = batch_size * strategy.num_replicas_in_sync * optimization.accumulation_steps
    self._sums = self._make_sums() if optimization.accumulation_steps > 1 else {}
    jit = {"on": True, "off": False, "auto": _has_gpu() and not optimization.sync_batch_norm}[optimization.jit_compile]
    function = functools.partial(tf.function, autograph=False)  # no branch here depends on a tensor
    self._gradients = function(self._loss_and_gradients, jit_compile=True) if jit else self._loss_and_gradients
    self._accumulate = function(self._accumulate_everywhere)
    self._apply = function(self._apply_everywhere)

  def accumulate(self, batch: Mapping[str, tf.Tensor], *, loss_scale: float = 1.0) -> Outcome:
    """Returns the sums of a batch, and adds its gradients to those of this step.

    Args:
      batch: Batch of `pipeline.train_batches`, distributed.
      loss_scale: Factor on the loss, see `apply`.
    """
    return Outcome(*self._accumulate(self._numbers(batch), tf.constant(loss_scale, tf.float32)).numpy().tolist())

  def apply(
    self, batch: Mapping[str, tf.Tensor], *, rate: float, step: int, loss_scale: float = 1.0, stop: bool = False
  ) -> Outcome:
    """Ends a step with its last batch: updates the variables, unless something is not finite.

    Args:
      batch: Batch of `pipeline.train_batches`, distributed.
      rate: Learning rate.
      step: Number of the step; 0 for the first.
      loss_scale: Factor on the loss that keeps float16 gradients from vanishing.
      stop: Whether this worker wants to stop; the sum over the workers comes back.

    Returns:
      The sums of this batch, whether all was finite, and how many want to stop.
    """
    numbers = (tf.constant(value, tf.float32) for value in (rate, loss_scale, stop))
    return Outcome(*self._apply(self._numbers(batch), tf.constant(step, tf.int64), *numbers).numpy().tolist())

  def graph(self, batch: Mapping[str, tf.Tensor]) -> tf.types.experimental.ConcreteFunction:
    """Returns what `apply` computes for such a batch, traced.

    Args:
      batch: Batch of `pipeline.train_batches`, distributed.
    """
    number = tf.constant(0, tf.float32)
    return self._apply.get_concrete_function(self._numbers(batch), tf.constant(0, tf.int64), number, number, number)

  def _numbers(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A batch without ids and errors, which neither XLA nor a GPU takes."""
    is_text = lambda value: self._first(value).dtype == tf.string
    return {name: value for name, value in batch.items() if not is_text(value)}

  def _accumulate_everywhere(self, batch, loss_scale):
    return self._first(self._strategy.run(self._accumulate_on_replica, args=(batch, loss_scale)))

  def _apply_everywhere(self, batch, step, rate, loss_scale, stop):
    return self._first(self._strategy.run(self._apply_on_replica, args=(batch, step, rate, loss_scale, stop)))

  def _first(self, value):
    """The value of one replica, where all have the same."""
    return self._strategy.experimental_local_results(value)[0]

  def _accumulate_on_replica(self, batch, loss_scale):
    sums, gradients = self._gradients(batch, loss_scale)
    for total, gradient in zip(self._trained_sums(), gradients, strict=True):
      total.assign_add(gradient)
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)

  def _apply_on_replica(self, batch, step, rate, loss_scale, stop):
    own_sums, gradients = self._gradients(batch, loss_scale)
    if self._sums:
      sums = self._trained_sums()
      gradients = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
    replica = tf.distribute.get_replica_context()
    gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    variables = self._trained_variables()
    gradients = [
      gradient / loss_scale + self._decay(variable) for gradient, variable in zip(gradients, variables, strict=True)
    ]
    norm = tf.linalg.global_norm(gradients)
    is_finite = tf.math.is_finite(norm)
    if self._options.clip_norm:
      factor = self._options.clip_norm / tf.maximum(norm, self._options.clip_norm)
      gradients = [gradient * factor for gradient in gradients]
    replica.merge_call(self._move, args=(gradients, rate, step, is_finite))
    if self._sums:
      for total in sums:
        total.assign(tf.zeros_like(total))
    totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat([own_sums, [stop]], axis=0))
    return tf.stack([*tf.unstack(totals[:-1]), tf.cast(is_finite, tf.float32), totals[-1]])

  def _loss_and_gradients(self, batch, loss_scale) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """(loss, correct, count, distance) of its clips, and the gradients of a replica's share of the step's mean loss."""
    variables = self._trained_variables()
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(variables)
      keep_prob = 1 - self._options.dropout
      scaled = pipeline.scaled(batch)
      clip = base.clip_of(scaled, self._streams)
      logits, endpoints = self._model(clip, True, keep_prob, dropout_seeds=batch["seed"])
      loss, sums = self._objective(logits, endpoints, scaled, self._model.LOSS)
      loss *= loss_scale / self._global_batch
    gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return sums, gradients

  def _decay(self, variable: tf.Variable) -> tf.Tensor | float:
    """The gradient of weight_decay / 2 * |kernel|^2, of convolution kernels alone (slim's regularizer)."""
    is_kernel = variable.name.removesuffix(":0").endswith("/w")
    return self._options.weight_decay * variable if is_kernel and self._options.weight_decay else 0.0

  def _move(self, strategy, gradients, rate, step, is_finite) -> None:
    """Moves the variables of all replicas alike; seen from outside the replicas."""
    # Equal on all replicas, so one of them decides for all.
    is_finite = strategy.experimental_local_results(is_finite)[0]
    for variable, gradient in zip(self._trained_variables(), gradients, strict=True):
      arguments = (gradient, rate, step, *self._optimizer.slots_of(variable))
      strategy.extended.update(variable, _update_if, args=(is_finite, self._optimizer.update, *arguments))

  def _make_sums(self) -> dict[str, tf.Variable]:
    return {
      variable.name: tf.Variable(
        tf.zeros(variable.shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
      )
      for variable in (*self._model.trainable_variables, *self._beside)
    }

  def _trained_sums(self) -> list[tf.Variable]:
    return [self._sums[variable.name] for variable in self._trained_variables()]

  def _trained_variables(self) -> list[tf.Variable]:
    return [*self._model.trained_variables, *self._beside]


class Validation:
  """Measures loss and accuracy on held-out videos, on all replicas: of the centre clip of each, or of several clips.

  With several clips of a video a last batch that is not full makes few comparisons, which is easier.
  """

  def __init__(
    self,
    model: base.Network,
    strategy: tf.distribute.Strategy,
    source: pipeline.Source,
    clips: clip_config.TrainClips,
    *,
    batch_size: int,
    workers: distribution.Workers,
    objective: objectives.Classification,
  ):
    """Prepares the measurement.

    Args:
      model: Network that is built.
      strategy: Strategy in whose scope its variables were made.
      source: Records of the split.
      clips: Clips of training, of which the centre is taken.
      batch_size: Clips per replica.
      workers: Place of this process among those of the run.
      objective: What the model is trained for; of several data sets the first is measured.
    """
    self._model = model
    self._strategy = strategy
    self._source = source
    self._streams = clips.streams
    self._objective = objective
    # As many batches as make whole rounds of the replicas.
    dataset = lambda _: pipeline.center_clips(
        source, clips, batch_size=batch_size * strategy.num_replicas_in_sync, shards=(workers.index,),
        num_shards=workers.count, views=objective.views,
    ).rebatch(batch_size, drop_remainder=True)  # fmt: skip
    self._batches = strategy.distribute_datasets_from_function(dataset)
    self._measure = tf.function(self._measure_everywhere, autograph=False)

  def measure(self, is_stopped: Callable[[], bool] = lambda: False) -> tuple[float, float] | None:
    """Returns mean loss and accuracy over all videos; None if it was stopped.

    Args:
      is_stopped: Called after every batch; True ends the measurement.

    Raises:
      I3dError: if not every video was measured exactly once.
    """
    totals = [0.0, 0.0, 0.0, 0.0]
    for batch in self._batches:
      totals = [total + float(value) for total, value in zip(totals, self._measure(batch), strict=True)]
      if is_stopped():
        return None
    loss, correct, count, _ = totals
    num_videos = count / self._objective.views
    if num_videos != self._source.num_records:
      raise errors.I3dError(
        f"{self._source.num_records - num_videos:.0f} of {self._source.num_records} videos of the split "
        f"{self._source.split} cannot be read; inspect_records names them"
      )
    return loss / count, correct / count

  def _measure_everywhere(self, batch):
    parts = self._strategy.run(self._measure_on_replica, args=(batch,))
    return [self._strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for part in parts]

  def _measure_on_replica(self, batch):
    scaled = pipeline.scaled(batch)
    logits, endpoints = self._model(base.clip_of(scaled, self._streams), is_training=False)
    return tf.unstack(self._objective(logits, endpoints, scaled, None)[1])


def _update_if(variable, is_wanted, update, *arguments):
  return tf.cond(is_wanted, lambda: tf.group(update(variable, *arguments)), tf.no_op)


def _has_gpu() -> bool:
  return bool(tf.config.list_logical_devices("GPU"))
