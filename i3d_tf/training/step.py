"""One step of optimisation on all replicas: loss, gradients, their sum over the replicas, and the move.

Training on two data sets at once: each has classes of its own in one classifier, and the losses are added.

Two-Stream ConvNets (Simonyan and Zisserman, arXiv 1406.2199, section 4): two softmax layers on the same features, each
with its own loss on the videos of its own data set.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import NamedTuple

import tensorflow as tf

from i3d_tf.input import pipeline
from i3d_tf.models import base
from i3d_tf.training import config
from i3d_tf.training import optimizers


class Outcome(NamedTuple):
  """What a batch gave, summed over its clips of weight 1 on all replicas; or, of a step, over its batches.

  Attributes:
    loss: cross-entropy, without weight decay.
    correct: clips whose class has the largest logit.
    count: clips.
    is_finite: 1 if the loss and all gradients were finite; otherwise nothing was moved.
    stop: how many replicas' workers asked to stop.
  """

  loss: float
  correct: float
  count: float
  is_finite: float = 0.0
  stop: float = 0.0


class Step:
  """Trains a network by batches of the pipeline; the same code for one device and for many.

  Create it inside the strategy's scope. Every call is made on all replicas, with a per-replica batch.
  """

  def __init__(
    self,
    model: base.Network,
    optimizer: optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
    optimization: config.Optimization,
    *,
    streams: Sequence[str],
    batch_size: int,
    tasks: Sequence[int] | None = None,
  ):
    """Describes the step.

    Args:
      model: built, with its units frozen that shall be.
      optimizer: with slots for all of the model's trainable variables.
      strategy: where the variables are.
      optimization: the rest of the recipe; the rate is given to each step.
      streams: the clip's keys in a batch: 'rgb', 'flow' or both.
      batch_size: clips per replica and batch.
      tasks: how many of the classes each data set has, if there are several, whose mean losses are added.
    """
    self._model = model
    self._optimizer = optimizer
    self._strategy = strategy
    self._options = optimization
    self._streams = tuple(streams)
    self._tasks = tuple(tasks or (model.num_classes,))
    self._global_batch = batch_size * strategy.num_replicas_in_sync * optimization.accumulation_steps
    self._sums = self._make_sums() if optimization.accumulation_steps > 1 else None
    jit = {"on": True, "off": False, "auto": _has_gpu() and not optimization.sync_batch_norm}[optimization.jit_compile]
    function = functools.partial(tf.function, autograph=False)  # no branch here depends on a tensor
    self._gradients = function(self._loss_and_gradients, jit_compile=True) if jit else self._loss_and_gradients
    self._accumulate = function(self._accumulate_everywhere)
    self._apply = function(self._apply_everywhere)

  def accumulate(self, batch: Mapping[str, tf.Tensor], *, loss_scale: float = 1.0) -> Outcome:
    """Adds a batch's gradients to those of this step."""
    return Outcome(*self._accumulate(batch, tf.constant(loss_scale, tf.float32)).numpy().tolist())

  def apply(
    self, batch: Mapping[str, tf.Tensor], *, rate: float, step: int, loss_scale: float = 1.0, stop: bool = False
  ) -> Outcome:
    """Ends a step with its last batch: moves the variables, unless something is not finite.

    Args:
      batch: as `pipeline.train_batches` gives it, distributed.
      rate: the learning rate.
      step: 0 for the first.
      loss_scale: the factor on the loss that keeps float16 gradients from vanishing.
      stop: this worker wants to stop; the sum over the workers comes back.
    """
    numbers = (tf.constant(value, tf.float32) for value in (rate, loss_scale, stop))
    return Outcome(*self._apply(batch, tf.constant(step, tf.int64), *numbers).numpy().tolist())

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
    if self._sums is not None:
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
    if self._sums is not None:
      for total in sums:
        total.assign(tf.zeros_like(total))
    totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat([own_sums, [stop]], axis=0))
    return tf.stack([*tf.unstack(totals[:3]), tf.cast(is_finite, tf.float32), totals[3]])

  def _loss_and_gradients(self, batch, loss_scale) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """(loss, correct, count) of this replica's clips, and the gradients of its share of the step's mean loss."""
    variables = self._model.trained_variables
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(variables)
      keep_prob = 1 - self._options.dropout
      clip = base.clip_of(pipeline.scaled(batch), self._streams)
      logits, endpoints = self._model(clip, True, keep_prob, dropout_seeds=batch["seed"])
      sums = clip_sums(
        logits, batch, self._options.label_smoothing, trained=endpoints[self._model.LOSS], tasks=self._tasks
      )
      scaled = sums[0] * (loss_scale * len(self._tasks) / self._global_batch)
    gradients = tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return sums, gradients

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


def clip_sums(
  logits: tf.Tensor,
  batch: Mapping[str, tf.Tensor],
  label_smoothing: float = 0.0,
  *,
  trained: tf.Tensor | None = None,
  tasks: Sequence[int] = (0,),
) -> tf.Tensor:
  """(cross-entropy, clips whose class has the largest logit, clips), `[3]`, each clip by its weight.

  The cross-entropy is that of `trained`, if the network is trained by other logits than its output. `tasks` are the
  numbers of classes of several data sets; see `step.own_logits`.
  """
  own = lambda values: own_logits(values, batch["label"], tasks)
  trained = own(logits if trained is None else trained)
  logits = own(logits)
  weight = batch["weight"]
  hits = tf.cast(tf.equal(tf.argmax(logits, 1, tf.int32), batch["label"]), tf.float32)
  losses = cross_entropy(trained, batch["label"], label_smoothing)
  return tf.stack([tf.reduce_sum(values) for values in (losses * weight, hits * weight, weight)])


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
  """Softmax cross-entropy of each clip, `[B]`.

  Args:
    logits: `[B, classes]`, float32, or `[B, steps, classes]`, over whose cross-entropies the mean is taken.
    labels: `[B]`, integers.
    label_smoothing: this much of the target's probability is spread over all classes evenly (arXiv 1512.00567).
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


def _update_if(variable, is_wanted, update, *arguments):
  return tf.cond(is_wanted, lambda: tf.group(update(variable, *arguments)), tf.no_op)


def _has_gpu() -> bool:
  return bool(tf.config.list_logical_devices("GPU"))


_NEVER = -1e9  # a logit of no probability


def own_logits(logits: tf.Tensor, labels: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
  """The logits of which only the classes of each clip's own data set can have a probability.

  Args:
    logits: `[B, classes]` or `[B, steps, classes]`: the classes of the first data set, then those of the next.
    labels: `[B]`, indices of all classes.
    sizes: how many classes each data set has.
  """
  if len(sizes) == 1:
    return logits
  task_of = tf.repeat(tf.range(len(sizes)), sizes)
  is_own = tf.equal(task_of[tf.newaxis], tf.gather(task_of, labels)[:, tf.newaxis])
  if logits.shape.rank == 3:
    is_own = is_own[:, tf.newaxis]
  return tf.where(is_own, logits, _NEVER)


def merge(datasets: Sequence[tf.data.Dataset], sizes: Sequence[int]) -> tf.data.Dataset:
  """Batches that hold a batch of each data set one after the other, with labels as `own_logits` takes them."""
  if len(datasets) == 1:
    return datasets[0]

  def join(*batches):
    first, parts = 0, []
    for batch, size in zip(batches, sizes, strict=True):
      parts.append({**batch, "label": batch["label"] + first})
      first += size
    return {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}

  return tf.data.Dataset.zip(tuple(datasets)).map(join)
