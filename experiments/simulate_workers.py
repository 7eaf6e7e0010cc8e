#!/usr/bin/env python3
"""Predicts how long a run on many workers takes, from the seconds that videos took in a run before.

  python experiments/simulate_workers.py FEATURES/manifest.jsonl --workers=1,16,256 --videos=240000 --start=30

Workers take one video after the other from a queue. The seconds of each are drawn, with --seed, from those that the
manifest of extract_features states; without --videos each of its videos is done once, in its order. With a probability
of --loss a worker is lost in the middle of a video: another one takes its place after --start seconds, and the video is
done again. A fraction --slow of the workers takes --factor times as long.
"""

import argparse
from collections.abc import Sequence
import heapq
import json
import pathlib
import random


def makespan(
  seconds: Sequence[float],
  num_workers: int,
  *,
  start: float = 0.0,
  loss: float = 0.0,
  slow: float = 0.0,
  factor: float = 1.0,
  seed: int = 0,
) -> tuple[float, float]:
  """Returns the seconds until the last video is done, and the share of the workers' time in which they had one.

  Args:
    seconds: Of each video, in the order in which they are given out.
    num_workers: Number of workers.
    start: Seconds until a worker can begin.
    loss: Probability that a worker is lost in a video, at a moment drawn evenly.
    slow: Fraction of the workers that are slow.
    factor: How many times as long these take.
    seed: Of all that is drawn.
  """
  rng = random.Random(seed)
  num_slow = round(slow * num_workers)
  free = [(start, number) for number in range(num_workers)]
  busy = end = 0.0
  waiting = list(reversed(seconds))
  while waiting:
    now, worker = heapq.heappop(free)
    taken = waiting.pop() * (factor if worker < num_slow else 1.0)
    if rng.random() < loss:
      part = rng.random()
      waiting.append(taken / (factor if worker < num_slow else 1.0))
      heapq.heappush(free, (now + part * taken + start, worker))
      continue
    busy += taken
    end = max(end, now + taken)
    heapq.heappush(free, (now + taken, worker))
  return end, busy / (end * num_workers) if end else 1.0


def read_seconds(manifest: pathlib.Path) -> list[float]:
  """Returns the seconds of the videos that a manifest of extract_features states.

  Args:
    manifest: The file.
  """
  entries = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
  return [entry["seconds"] for entry in entries if "seconds" in entry]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("manifest", type=pathlib.Path)
  parser.add_argument("--workers", default="1,2,16,256", help="numbers of workers")
  parser.add_argument("--videos", type=int, help="number of videos; default: those of the manifest")
  for name, default in (("start", 0.0), ("loss", 0.0), ("slow", 0.0), ("factor", 1.0)):
    parser.add_argument(f"--{name}", type=float, default=default)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  seconds = read_seconds(args.manifest)
  if (
    not seconds or not 0 <= args.loss < 1 or not all(each.isdecimal() and int(each) for each in args.workers.split(","))
  ):
    parser.error("it takes a manifest with seconds, a loss below 1, and numbers of workers from 1")
  if args.videos is not None:
    seconds = random.Random(args.seed).choices(seconds, k=args.videos)
  options = {name: getattr(args, name) for name in ("start", "loss", "slow", "factor", "seed")}
  print(f"{len(seconds)} videos of {sum(seconds) / len(seconds):.3f} s on average, {max(seconds):.3f} s at most")
  for number in map(int, args.workers.split(",")):
    end, share = makespan(seconds, number, **options)
    print(f"{number:5} workers: {end:12.1f} s = {end / 3600:8.2f} h; busy {100 * share:.1f} % of the time")


if __name__ == "__main__":
  main()
