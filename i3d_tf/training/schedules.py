"""Learning rates as functions of the step, which counts from 0."""

import bisect
import math

from i3d_tf.training import options as options_lib


def rate(optimization: options_lib.Optimization, step: int, *, num_steps: int, num_drops: int = 0) -> float:
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
