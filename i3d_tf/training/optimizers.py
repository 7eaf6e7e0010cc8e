"""Learning-rate schedules, loss scaling, and the optimizers Momentum and Adam as TensorFlow 1 defines them.

Sonnet's optimizers refuse MirroredStrategy, and Keras' momentum keeps the rate inside its accumulator, where a drop of
the rate takes effect late; the release was trained with tf.train.MomentumOptimizer. The arithmetic is TensorFlow's own
operations, one for each variable, under any distribution strategy.
"""

import bisect
from collections.abc import Sequence
import math

import tensorflow as tf

from i3d_tf import training


def rate(optimization: training.OptimizationConfig, step: int, *, num_steps: int, num_drops: int = 0) -> float:
  """Returns the learning rate of a step.

  Args:
    optimization: Schedule and rates.
    step: Number of the step; 0 for the first.
    num_steps: Number of steps of the run, where the cosine reaches 0.
    num_drops: Number of times that the plateau has dropped the rate so far.
  """
  match optimization.schedule:
    case "piecewise":
      value = _piecewise(step, optimization.rate_boundaries, optimization.rates)
    case "cosine":
      value = optimization.learning_rate * _cosine(step, num_steps, optimization.warmup_steps)
    case "plateau":
      value = optimization.learning_rate * optimization.plateau_factor**num_drops
    case _:
      value = optimization.learning_rate
  return value * _warm_up(step, optimization.warmup_steps)


def _piecewise(step: int, boundaries: tuple[int, ...], rates: tuple[float, ...]) -> float:
  """Returns rates[0] for the first boundaries[0] steps, and so on; boundaries[i] steps precede rates[i + 1]."""
  return rates[bisect.bisect_right(boundaries, step)]


def _cosine(step: int, num_steps: int, warmup_steps: int = 0) -> float:
  """Falls from 1 when the warm-up ends to 0 at `num_steps` (arXiv 1608.03983, without restarts)."""
  progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
  return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0), 1)))


def _warm_up(step: int, warmup_steps: int) -> float:
  """Rises from 1 / warmup_steps to 1."""
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
    """Takes the loss of a validation.

    Args:
      loss: Mean loss.

    Returns:
      Whether the rate drops now.
    """
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
    """Returns what `restore` takes, of types that JSON has."""
    return [self.num_drops, self._best, self._waited]

  def restore(self, state: list) -> None:
    """Goes on from a state.

    Args:
      state: What `state` returned.
    """
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
    """Takes the outcome of a step.

    Args:
      is_finite: Whether all its gradients were finite.

    Returns:
      Whether training can go on; it cannot if gradients overflow without any scaling.
    """
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
    """Returns what `restore` takes, of types that JSON has."""
    return [self.value, self._good_steps]

  def restore(self, state: list) -> None:
    """Goes on from a state.

    Args:
      state: What `state` returned.
    """
    self.value, self._good_steps = state


_ADAM_BETA_1, _ADAM_BETA_2, _ADAM_EPSILON = 0.9, 0.999, 1e-8  # tf.train.AdamOptimizer's defaults (arXiv 1412.6980)


class Optimizer(tf.Module):
  """Keeps slots for every variable, and updates variables by gradients.

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
    """Returns the slots of a variable, in the order of the arguments of `update`.

    Args:
      variable: One of those that the optimizer was made for.
    """
    return [slots[self._positions[variable.name]] for slots in self.slots]

  def update(self, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, step: tf.Tensor, *slots: tf.Variable):
    """Updates one variable on one device.

    Args:
      variable: The variable.
      gradient: Its gradient.
      rate: Learning rate.
      step: Number of the step; 0 for the first.
      *slots: Slots of the variable.

    Returns:
      The operation.
    """
    raise NotImplementedError


class _Momentum(Optimizer):
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


class _Adam(Optimizer):
  """Adam with bias correction."""

  num_slots = 2

  def update(self, variable, gradient, rate, step, first_moment, second_moment):
    count = tf.cast(step + 1, tf.float32)
    return tf.raw_ops.ResourceApplyAdam(
        var=variable.handle, m=first_moment.handle, v=second_moment.handle, beta1_power=_ADAM_BETA_1**count,
        beta2_power=_ADAM_BETA_2**count, lr=rate, beta1=_ADAM_BETA_1, beta2=_ADAM_BETA_2, epsilon=_ADAM_EPSILON,
        grad=gradient,
    )  # fmt: skip


def make(optimization: training.OptimizationConfig, variables: Sequence[tf.Variable]) -> Optimizer:
  """Returns the optimizer that the configuration names.

  Args:
    optimization: Name and settings of the optimizer.
    variables: Variables to update.
  """
  if optimization.optimizer == "adam":
    return _Adam(variables)
  return _Momentum(variables, optimization.momentum)


def _zeros_like(variable: tf.Variable) -> tf.Variable:
  return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
