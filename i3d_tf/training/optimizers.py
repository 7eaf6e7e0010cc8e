"""Momentum SGD and Adam as TensorFlow 1 defines them, for variables of any distribution strategy.

Sonnet's optimizers refuse MirroredStrategy, and Keras' momentum keeps the rate inside its accumulator, where a drop of
the rate takes effect late; the release was trained with tf.train.MomentumOptimizer. The arithmetic is TensorFlow's own
operations, one for each variable.
"""

from collections.abc import Sequence

import tensorflow as tf

from i3d_tf.training import options as options_lib

_ADAM_BETA_1, _ADAM_BETA_2, _ADAM_EPSILON = 0.9, 0.999, 1e-8  # tf.train.AdamOptimizer's defaults (arXiv 1412.6980)


class Optimizer(tf.Module):
  """Keeps slots for every variable, and moves variables by gradients.

  Create it inside the strategy's scope; `update` is for `strategy.extended.update`, variable by variable.
  """

  num_slots: int

  def __init__(self, variables: Sequence[tf.Variable]):
    super().__init__(name="optimizer")
    self.slots = [[_zeros_like(variable) for variable in variables] for _ in range(self.num_slots)]
    self._positions = {variable.name: position for position, variable in enumerate(variables)}
    if len(self._positions) < len(variables):
      raise ValueError("two variables have the same name")

  def slots_of(self, variable: tf.Variable) -> list[tf.Variable]:
    """The variable's slots, in the order of `update`'s arguments."""
    return [slots[self._positions[variable.name]] for slots in self.slots]

  def update(self, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, step: tf.Tensor, *slots: tf.Variable):
    """Moves one variable on one device; `step` is 0 for the first."""
    raise NotImplementedError


class Momentum(Optimizer):
  """a = momentum * a + gradient; variable -= rate * a."""

  num_slots = 1

  def __init__(self, variables: Sequence[tf.Variable], momentum: float):
    super().__init__(variables)
    self._momentum = momentum

  def update(self, variable, gradient, rate, step, accumulator):
    del step
    return tf.raw_ops.ResourceApplyMomentum(
      var=variable.handle, accum=accumulator.handle, lr=rate, grad=gradient, momentum=self._momentum
    )


class Adam(Optimizer):
  """Adam with bias correction."""

  num_slots = 2

  def update(self, variable, gradient, rate, step, first_moment, second_moment):
    count = tf.cast(step + 1, tf.float32)
    return tf.raw_ops.ResourceApplyAdam(
        var=variable.handle, m=first_moment.handle, v=second_moment.handle, beta1_power=_ADAM_BETA_1**count,
        beta2_power=_ADAM_BETA_2**count, lr=rate, beta1=_ADAM_BETA_1, beta2=_ADAM_BETA_2, epsilon=_ADAM_EPSILON,
        grad=gradient,
    )  # fmt: skip


def make(optimization: options_lib.Optimization, variables: Sequence[tf.Variable]) -> Optimizer:
  """The optimizer that the options name."""
  if optimization.optimizer == "adam":
    return Adam(variables)
  return Momentum(variables, optimization.momentum)


def _zeros_like(variable: tf.Variable) -> tf.Variable:
  return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
