"""Learning rates as functions of the step, which counts from 0.

The factor on the loss that keeps float16 gradients within their range (Micikevicius et al., arXiv 1710.03740).

Momentum SGD and Adam as TensorFlow 1 defines them, for variables of any distribution strategy.

Sonnet's optimizers refuse MirroredStrategy, and Keras' momentum keeps the rate inside its accumulator, where a drop of
the rate takes effect late; the release was trained with tf.train.MomentumOptimizer. The arithmetic is TensorFlow's own
operations, one for each variable.
"""

import bisect
from collections.abc import Sequence
import math

import tensorflow as tf

from i3d_tf.training import config


def rate(optimization: config.OptimizationConfig, step: int, *, num_steps: int, num_drops: int = 0) -> float:
  """The learning rate of a step.

  Args:
    optimization: schedule and rates.
    step: 0 for the first.
    num_steps: the number of steps of the run, where the cosine reaches 0.
    num_drops: how often the plateau has dropped the rate so far.
  """
  match optimization.schedule:
    case "piecewise":
      value = piecewise(step, optimization.rate_boundaries, optimization.rates)
    case "cosine":
      value = optimization.learning_rate * cosine(step, num_steps, optimization.warmup_steps)
    case "plateau":
      value = optimization.learning_rate * optimization.plateau_factor**num_drops
    case _:
      value = optimization.learning_rate
  return value * warm_up(step, optimization.warmup_steps)


def piecewise(step: int, boundaries: tuple[int, ...], rates: tuple[float, ...]) -> float:
  """rates[0] for the steps before boundaries[0], and so on: `boundaries[i]` steps are done when rates[i + 1] begins."""
  return rates[bisect.bisect_right(boundaries, step)]


def cosine(step: int, num_steps: int, warmup_steps: int = 0) -> float:
  """From 1 when the warm-up ends to 0 at `num_steps` (Loshchilov and Hutter, arXiv 1608.03983, without restarts)."""
  progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
  return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0), 1)))


def warm_up(step: int, warmup_steps: int) -> float:
  """From 1 / warmup_steps up to 1."""
  return min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0


class Plateau:
  """Counts how often a loss has saturated: not been lower by a thousandth than its best for `patience` values.

  The paper drops the rate "when validation loss saturates" without saying how that was judged.
  """

  MIN_IMPROVEMENT = 1e-3

  def __init__(self, patience: int):
    self._patience = patience
    self.num_drops = 0
    self._best = math.inf
    self._waited = 0

  def update(self, loss: float) -> bool:
    """Takes a validation's loss; says whether the rate drops now."""
    if loss < self._best * (1 - self.MIN_IMPROVEMENT):
      self._best, self._waited = loss, 0
      return False
    self._waited += 1
    if self._waited < self._patience:
      return False
    self._waited = 0
    self.num_drops += 1
    return True

  def state(self) -> list:
    return [self.num_drops, self._best, self._waited]

  def restore(self, state: list) -> None:
    self.num_drops, self._best, self._waited = state


_START = 2.0**15
_GROWTH_INTERVAL = 2000  # steps; as in tf.keras and NVIDIA's Apex
_LOWEST = 1.0


class LossScale:
  """Halved after a step whose gradients overflowed, doubled after 2000 that did not; 1 and fixed without float16."""

  def __init__(self, *, is_used: bool):
    self._is_used = is_used
    self.value = _START if is_used else 1.0
    self._good_steps = 0

  def update(self, is_finite: bool) -> bool:
    """Takes a step's outcome; says whether one can go on: not if gradients overflow without any scaling."""
    if is_finite:
      self._good_steps += 1
      if self._is_used and self._good_steps == _GROWTH_INTERVAL:
        self.value, self._good_steps = 2 * self.value, 0
      return True
    if not self._is_used or self.value <= _LOWEST:
      return False
    self.value, self._good_steps = self.value / 2, 0
    return True

  def state(self) -> list:
    return [self.value, self._good_steps]

  def restore(self, state: list) -> None:
    self.value, self._good_steps = state


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


def make(optimization: config.OptimizationConfig, variables: Sequence[tf.Variable]) -> Optimizer:
  """The optimizer that the options name."""
  if optimization.optimizer == "adam":
    return Adam(variables)
  return Momentum(variables, optimization.momentum)


def _zeros_like(variable: tf.Variable) -> tf.Variable:
  return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
