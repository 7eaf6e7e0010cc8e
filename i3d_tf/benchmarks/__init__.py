"""Speed and memory of the networks and of what feeds them; here, what all of these measurements share."""

from collections.abc import Callable, Mapping
import platform
import resource
import statistics
import time

import tqdm


def in_turn(tasks: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, list[float]]:
  """Returns each task's seconds by round, of tasks that are run in turn, after one round that is not counted.

  Args:
    tasks: by name; a task that measures itself returns its seconds, the others return None and are timed.
    rounds: rounds that are counted.
  """
  seconds: dict[str, list[float]] = {name: [] for name in tasks}
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
  """Returns the median of the ratios of each round.

  Args:
    numerators, denominators: one figure per round.
  """
  return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def peak_memory_bytes(usage: resource.struct_rusage | None = None) -> int:
  """Returns the peak resident memory of a process in bytes.

  Args:
    usage: the resource usage of that process; None: of this one.
  """
  usage = resource.getrusage(resource.RUSAGE_SELF) if usage is None else usage
  return usage.ru_maxrss if platform.system() == "Darwin" else usage.ru_maxrss * 1024
