"""Batch norm as the release used it: plain moving averages, and a training mode that is cheap and can be synchronised.

Sonnet 1's BatchNorm (deepmind/sonnet v1.1-v1.36): offset without scale, biased variance, averages that start at 0
and 1 and are not debiased. Sonnet 2's own BatchNorm differs in all of these and would lose loaded statistics at the
first update.
"""

from collections.abc import Callable
from typing import Any

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import base

EPSILON = 1e-3
DECAY = 0.999


class BatchNorm(snt.Module):
  """The variables of y = gamma * (x - mean) / sqrt(variance + epsilon) + beta, each of shape (C,).

  The Inception family has no gamma, which is then 1; residual networks have one.

  Attributes:
    frozen: use the moving statistics in training mode, too, and do not train.
  """

  def __init__(
    self,
    *,
    with_scale: bool = False,
    initial_scale: float = 1.0,
    epsilon: float = EPSILON,
    name: str = "batch_norm",
  ):
    """Describes it: whether there is a gamma, where that starts, and epsilon."""
    super().__init__(name=name)
    self._initial_scale = initial_scale if with_scale else None
    self.epsilon = epsilon
    self.gamma = None
    self.frozen = False

  @snt.once
  def build(self, channels: int) -> None:
    """Creates `beta` and, if asked for, `gamma` (trained) and the moving statistics (not trained).

    Args:
      channels: C.
    """
    self.beta = tf.Variable(tf.zeros([channels]), name="beta")
    if self._initial_scale is not None:
      self.gamma = tf.Variable(tf.fill([channels], self._initial_scale), name="gamma")
    self.moving_mean = moving_average(tf.zeros([channels]), "moving_mean")
    self.moving_variance = moving_average(tf.ones([channels]), "moving_variance")

  def moving_affine(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Folds the moving statistics into an affine map.

    Returns:
      (scale, offset), each (C,), such that normalizing with the moving statistics is scale * x + offset.
    """
    scale = tf.math.rsqrt(self.moving_variance + self.epsilon)
    if self.gamma is not None:
      scale *= self.gamma
    return scale, self.beta - self.moving_mean * scale

  def move_averages(self, mean: tf.Tensor, variance: tf.Tensor, decay: float = DECAY) -> None:
    """Moves the averages towards a batch's statistics: average = decay * average + (1 - decay) * value.

    Args:
      mean, variance: of the batch, (C,) each.
      decay: see above.
    """
    for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
      average.assign_sub((average - value) * (1 - decay))


def moving_average(value: tf.Tensor, name: str) -> tf.Variable:
  """Returns a new moving statistic, a variable that is not trained.

  Under a `tf.distribute` strategy every replica moves averages of its own; reading and saving take their mean.

  Args:
    value: at the start.
    name: of the variable.
  """
  # Keyword arguments by name, since a strategy replaces the constructor.
  return tf.Variable(
    value,
    trainable=False,
    name=name,
    synchronization=tf.VariableSynchronization.ON_READ,
    aggregation=tf.VariableAggregation.MEAN,
  )


class BatchStatistics:
  """The means and variances of one batch at every batch norm that a forward pass in training mode meets.

  They are taken once: a part of the network that is computed a second time, for its gradient, finds those of the
  first time, and the same clips left out. So only `move_averages`, at the end of the pass, moves the averages.
  """

  def __init__(self, *, synchronized: bool = False, decay: float = DECAY, dropout_seeds: tf.Tensor | None = None):
    """With `synchronized` the batch is that of all replicas, each of which must hold as many clips.

    `dropout_seeds` `[B, 2]`, a seed for each clip, alone determine what `drop_clips` leaves out; None: drawn anew.
    """
    self._dropout_seeds = dropout_seeds
    self._kept: dict[int, tf.Tensor] = {}  # by layer
    self._synchronized = synchronized
    self._decay = decay
    self._moments: dict[BatchNorm, tuple[tf.Tensor, tf.Tensor]] = {}  # by batch norm
    self._sources: dict[Any, tuple[BatchNorm, tf.Tensor]] = {}  # by output, what was normalised and by which batch norm

  def normalize(self, batch_norm: BatchNorm, inputs: tf.Tensor, *, relu: bool = True) -> tf.Tensor:
    """Returns `[B, T, H, W, C]`, normalized with this batch's statistics.

    Args:
      batch_norm: the layer.
      inputs: `[B, T, H, W, C]`.
      relu: apply ReLU, too.
    """
    if batch_norm not in self._moments:
      self._moments[batch_norm] = self._take(tf.stop_gradient(inputs))
    outputs = self._apply(batch_norm, inputs, inputs, relu=relu)
    if relu and batch_norm.gamma is None:
      self._sources[outputs.ref()] = batch_norm, inputs
    return outputs

  def max_pool(self, pool: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
    """Returns `pool(inputs)`, in less time and memory if the inputs come from `normalize`, without a gamma.

    Normalization and ReLU never decrease, so that the largest value stays the largest: they can follow the pool, whose
    outputs are fewer. The unpooled ones are then needed by nobody, and a `tf.function` does not compute them. (A gamma
    may become negative.)

    Args:
      pool: the pool.
      inputs: `[B, T, H, W, C]`.
    """
    if inputs.ref() not in self._sources:
      return pool(inputs)
    batch_norm, source = self._sources[inputs.ref()]
    return self._apply(batch_norm, source, pool(source), relu=True)

  def drop_clips(self, net: tf.Tensor, rate: float, *, layer: int) -> tf.Tensor:
    """Returns `[B, T, H, W, C]` with all values of a clip set to 0 at this rate, and others divided by 1 - rate.

    Args:
      net: the values, `[B, T, H, W, C]`.
      rate: in [0, 1).
      layer: tells apart the places of a network where this is done.
    """
    if layer not in self._kept:
      ones = tf.ones([tf.shape(net)[0], 1, 1, 1, 1])
      self._kept[layer] = base.dropout(ones, 1 - rate, self._dropout_seeds, layer=layer)
    return net * tf.cast(self._kept[layer], net.dtype)

  def move_averages(self) -> None:
    """Moves the averages of every batch norm met towards this batch's statistics."""
    for batch_norm, moments in self._moments.items():
      batch_norm.move_averages(*moments, self._decay)

  def _take(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Not the fused operation: its float32 sums put the statistics of a 16-frame clip off by 2e-5, these by 1e-7,
    # and it returns the unbiased variance.
    inputs = tf.cast(inputs, tf.float32)
    count = _num_positions(inputs)
    mean = self._mean_over_replicas(_sum(inputs) / count)
    return mean, self._mean_over_replicas(_sum(tf.math.squared_difference(inputs, mean)) / count)

  def _mean_over_replicas(self, value: tf.Tensor) -> tf.Tensor:
    if not self._synchronized:
      return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)

  def _apply(self, batch_norm: BatchNorm, source: tf.Tensor, inputs: tf.Tensor, *, relu: bool) -> tf.Tensor:
    """Normalises `inputs`, made from `source` whose statistics are used; the gradient flows through these, too.

    One operation to the tape, which keeps `source` and `inputs` only. The gradient that automatic differentiation finds
    takes twice as long and keeps three arrays of this size.
    """
    mean, variance = self._moments[batch_norm]
    epsilon, has_scale = batch_norm.epsilon, batch_norm.gamma is not None

    @tf.custom_gradient
    def apply(source, inputs, gamma, beta):
      one, zero = tf.ones_like(beta), tf.zeros_like(beta)

      def gradient(upstream):
        with tf.control_dependencies([upstream]):  # or else the first normalised inputs would be kept for now
          again = tf.identity(inputs)
        g = upstream
        if relu:
          outputs = _normalize(again, mean, variance, epsilon, gamma, beta)
          g = tf.raw_ops.ReluGrad(gradients=upstream, features=outputs)
        g = tf.cast(g, tf.float32)
        beta_gradient = _sum(g)
        # With y = (x - mean) / sqrt(variance + epsilon), gamma's gradient is the sum of g * y.
        if relu and not has_scale:
          gamma_gradient = _sum(g * tf.cast(outputs, tf.float32)) - beta * beta_gradient
        else:
          y = _normalize(again, mean, variance, epsilon, one, zero)
          gamma_gradient = _sum(g * tf.cast(y, tf.float32))
        # dx = gamma * (g - mean(g) - y * mean(g * y)) / sqrt(variance + epsilon).
        sums = tf.stack([beta_gradient, gamma_gradient])
        mean_g, mean_gy = tf.unstack(self._mean_over_replicas(sums / _num_positions(source)))
        scale = gamma * tf.math.rsqrt(variance + epsilon)
        through_statistics = _normalize(source, mean, variance, epsilon, -scale * mean_gy, -scale * mean_g)
        return through_statistics, tf.cast(scale * g, inputs.dtype), gamma_gradient, beta_gradient

      outputs = _normalize(inputs, mean, variance, epsilon, gamma, beta)
      return tf.nn.relu(outputs) if relu else outputs, gradient

    beta = tf.convert_to_tensor(batch_norm.beta)
    gamma = tf.convert_to_tensor(batch_norm.gamma) if has_scale else tf.ones_like(beta)
    return apply(source, inputs, gamma, beta)


def _num_positions(values: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.size(values) / tf.shape(values)[-1], tf.float32)


def _sum(values: tf.Tensor) -> tf.Tensor:
  """The sum over `[B, T, H, W]`, (C,)."""
  # In two steps, which takes half the time on a CPU and is ten times as accurate.
  return tf.reduce_sum(tf.reduce_sum(values, [2, 3]), [0, 1])


def _normalize(inputs, mean, variance, epsilon, scale, offset) -> tf.Tensor:
  """scale * (inputs - mean) / sqrt(variance + epsilon) + offset, in the type of the inputs and computed in float32."""
  # oneDNN has a fast program for 16 channels and their multiples in every type, and for multiples of 4 in float32. The
  # one for others, such as X3D's 54 and R(2+1)D's 45 and 230, takes 2 to 50 times as long as what is done here instead.
  channels = inputs.shape[-1]
  values = inputs if channels % 16 == 0 else tf.cast(inputs, tf.float32)
  if channels % 4 > 0:
    return tf.cast((values - mean) * (scale * tf.math.rsqrt(variance + epsilon)) + offset, inputs.dtype)
  outputs = tf.raw_ops.FusedBatchNormV3(
    x=tf.reshape(values, [-1, 1, 1, channels]),  # quicker than with 5 axes, and as quick as with maps of many places
    scale=scale,
    offset=offset,
    mean=mean,
    variance=variance,
    epsilon=epsilon,
    is_training=False,
  )
  return tf.reshape(tf.cast(outputs.y, inputs.dtype), tf.shape(inputs))
