"""One step of optimization on all replicas, the losses, and the validation of the network between steps.

A network can be trained on two data sets at once, as Two-Stream ConvNets (Simonyan and Zisserman, arXiv 1406.2199,
section 4): each has classes of its own in one classifier, with a softmax of their own, and the losses are added.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import NamedTuple

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline
from i3d_tf.models import base
from i3d_tf.training import distillation
from i3d_tf.training import distribution
from i3d_tf.training import optimizers

_NEVER = -1e9  # a logit of no probability


class Outcome(NamedTuple):
  """The result of a batch, summed over its clips of weight 1 on all replicas; or of a step, summed over its batches.

  Attributes:
    loss: cross-entropy, without weight decay.
    correct: clips whose class has the largest logit.
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
    tasks: Sequence[int] | None = None,
    teacher: distillation.Teacher | None = None,
  ):
    """Describes the step.

    Args:
      model: Network that is built, with the units frozen that are not to be trained.
      optimizer: Optimizer with slots for all of the model's trainable variables.
      strategy: Strategy in whose scope the variables were made.
      optimization: The rest of the recipe; the rate is given to each step.
      streams: Keys of the clip in a batch: 'rgb', 'flow' or both.
      batch_size: Clips per replica and batch.
      tasks: Number of classes of each data set, if there are several, whose mean losses are added.
      teacher: What the model learns from beside the labels; its streams must be in the batches.
    """
    self._model = model
    self._teacher = teacher
    self._optimizer = optimizer
    self._strategy = strategy
    self._options = optimization
    self._streams = tuple(streams)
    self._tasks = tuple(tasks or (model.num_classes,))
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
    variables = self._model.trained_variables
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
    variables = self._model.trained_variables
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(variables)
      keep_prob = 1 - self._options.dropout
      scaled = pipeline.scaled(batch)
      clip = base.clip_of(scaled, self._streams)
      logits, endpoints = self._model(clip, True, keep_prob, dropout_seeds=batch["seed"])
      sums = _clip_sums(
        logits, batch, self._options.label_smoothing, trained=endpoints[self._model.LOSS], tasks=self._tasks
      )
      loss, distance = sums[0], tf.zeros([])
      if self._teacher is not None:
        distance = tf.reduce_sum(self._teacher.distances(endpoints, scaled) * batch["weight"])
        loss += self._teacher.weight * distance
      loss *= loss_scale * len(self._tasks) / self._global_batch
    gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.concat([sums, [distance]], axis=0), gradients

  def _decay(self, variable: tf.Variable) -> tf.Tensor | float:
    """The gradient of weight_decay / 2 * |kernel|^2, of convolution kernels alone (slim's regularizer)."""
    is_kernel = variable.name.removesuffix(":0").endswith("/w")
    return self._options.weight_decay * variable if is_kernel and self._options.weight_decay else 0.0

  def _move(self, strategy, gradients, rate, step, is_finite) -> None:
    """Moves the variables of all replicas alike; seen from outside the replicas."""
    # Equal on all replicas, so one of them decides for all.
    is_finite = strategy.experimental_local_results(is_finite)[0]
    for variable, gradient in zip(self._model.trained_variables, gradients, strict=True):
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
      for variable in self._model.trainable_variables
    }

  def _trained_sums(self) -> list[tf.Variable]:
    return [self._sums[variable.name] for variable in self._model.trained_variables]


class Validation:
  """Measures loss and accuracy on held-out videos, the centre clip of each, on all replicas."""

  def __init__(
    self,
    model: base.Network,
    strategy: tf.distribute.Strategy,
    source: pipeline.Source,
    clips: clip_config.TrainClips,
    *,
    batch_size: int,
    workers: distribution.Workers,
    tasks: Sequence[int],
  ):
    """Prepares the measurement.

    Args:
      model: Network that is built.
      strategy: Strategy in whose scope its variables were made.
      source: Records of the split.
      clips: Clips of training, of which the centre is taken.
      batch_size: Clips per replica.
      workers: Place of this process among those of the run.
      tasks: Number of classes of each data set as `Step` takes them, of which the first is measured.
    """
    self._model = model
    self._strategy = strategy
    self._source = source
    self._streams = clips.streams
    self._tasks = tuple(tasks)
    # As many batches as make whole rounds of the replicas.
    dataset = lambda _: pipeline.center_clips(
        source, clips, batch_size=batch_size * strategy.num_replicas_in_sync, shards=(workers.index,),
        num_shards=workers.count,
    ).rebatch(batch_size, drop_remainder=True)  # fmt: skip
    self._batches = strategy.distribute_datasets_from_function(dataset)
    self._measure = tf.function(self._measure_everywhere, autograph=False)

  def measure(self, is_stopped: Callable[[], bool] = lambda: False) -> tuple[float, float] | None:
    """Returns mean cross-entropy and accuracy over all videos; None if it was stopped.

    Args:
      is_stopped: Called after every batch; True ends the measurement.

    Raises:
      I3dError: if not every video was measured exactly once.
    """
    totals = [0.0, 0.0, 0.0]
    for batch in self._batches:
      totals = [total + float(value) for total, value in zip(totals, self._measure(batch), strict=True)]
      if is_stopped():
        return None
    loss, correct, count = totals
    if count != self._source.num_records:
      raise errors.I3dError(
        f"{self._source.num_records - count:.0f} of {self._source.num_records} videos of the split "
        f"{self._source.split} cannot be read; inspect_records names them"
      )
    return loss / count, correct / count

  def _measure_everywhere(self, batch):
    parts = self._strategy.run(self._measure_on_replica, args=(batch,))
    return [self._strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for part in parts]

  def _measure_on_replica(self, batch):
    logits, _ = self._model(base.clip_of(pipeline.scaled(batch), self._streams), is_training=False)
    return tf.unstack(_clip_sums(logits, batch, tasks=self._tasks))


def _clip_sums(
  logits: tf.Tensor,
  batch: Mapping[str, tf.Tensor],
  label_smoothing: float = 0.0,
  *,
  trained: tf.Tensor | None = None,
  tasks: Sequence[int] = (0,),
) -> tf.Tensor:
  """(Cross-entropy, clips whose class has the largest logit, clips), `[3]`, each clip by its weight.

  The logits are `[B, classes]` or `[B, steps, classes]`; `trained` those whose cross-entropy is taken, if the network
  is not trained by its output.
  """
  own = lambda values: own_logits(values, batch["label"], tasks)
  trained = own(logits if trained is None else trained)
  logits = own(logits)
  weight = batch["weight"]
  hits = tf.cast(tf.equal(tf.argmax(logits, 1, tf.int32), batch["label"]), tf.float32)
  losses = cross_entropy(trained, batch["label"], label_smoothing)
  return tf.stack([tf.reduce_sum(values) for values in (losses * weight, hits * weight, weight)])


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
  """Returns the softmax cross-entropy of each clip, `[B]`.

  Args:
    logits: `[B, classes]`, float32, or `[B, steps, classes]`, over whose cross-entropies the mean is taken.
    labels: `[B]`, integers.
    label_smoothing: Share of the target's probability that is spread evenly over all classes (arXiv 1512.00567).
  """
  if logits.shape.rank == 3:
    num_steps = tf.shape(logits)[1]
    of_steps = cross_entropy(tf.reshape(logits, [-1, logits.shape[-1]]), tf.repeat(labels, num_steps), label_smoothing)
    return tf.reduce_mean(tf.reshape(of_steps, [-1, num_steps]), axis=1)
  if not label_smoothing:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
  share = label_smoothing / logits.shape[-1]
  targets = tf.one_hot(labels, logits.shape[-1], 1 - label_smoothing + share, share)
  return tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)


def own_logits(logits: tf.Tensor, labels: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
  """Returns the logits with -1e9 for every class that is not of the clip's own data set.

  Args:
    logits: `[B, classes]` or `[B, steps, classes]`: the classes of the first data set, then those of the next.
    labels: `[B]`, indices of all classes.
    sizes: Number of classes of each data set.
  """
  if len(sizes) == 1:
    return logits
  task_of = tf.repeat(tf.range(len(sizes)), sizes)
  is_own = tf.equal(task_of[tf.newaxis], tf.gather(task_of, labels)[:, tf.newaxis])
  if logits.shape.rank == 3:
    is_own = is_own[:, tf.newaxis]
  return tf.where(is_own, logits, _NEVER)


def _update_if(variable, is_wanted, update, *arguments):
  return tf.cond(is_wanted, lambda: tf.group(update(variable, *arguments)), tf.no_op)


def _has_gpu() -> bool:
  return bool(tf.config.list_logical_devices("GPU"))
