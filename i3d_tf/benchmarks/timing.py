"""Timing several things in turn, so that a machine whose speed drifts drifts for all of them."""

from collections.abc import Callable, Mapping
import platform
import resource
import statistics
import time

import tqdm


def in_turn(tasks: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, list[float]]:
  """Runs every task once per round, after one round that does not count.

  A task returns the seconds it took, if it measures itself; otherwise it is timed.

  Returns:
    Seconds by task, one figure a round.
  """
  seconds = {name: [] for name in tasks}
  with tqdm.tqdm(total=(rounds + 1) * len(tasks), desc="measuring", disable=None, leave=False) as bar:
    for counted in [False] + [True] * rounds:
      for name, task in tasks.items():
        start = time.perf_counter()
        own = task()
        elapsed = time.perf_counter() - start if own is None else own
        if counted:
          seconds[name].append(elapsed)
        bar.update()
  return seconds


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
  """The median of the ratios round by round."""
  return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def peak_memory_bytes() -> int:
  """The largest resident memory this process has had."""
  return max_resident_bytes(resource.getrusage(resource.RUSAGE_SELF))


def max_resident_bytes(usage: resource.struct_rusage) -> int:
  """The largest resident memory of what `usage` is of."""
  return usage.ru_maxrss if platform.system() == "Darwin" else usage.ru_maxrss * 1024
