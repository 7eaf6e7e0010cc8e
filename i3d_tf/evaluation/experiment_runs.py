"""Running a table of experiments: trainings and evaluations as processes of their own, one after the other."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.evaluation import experiment_tables as tables

# What `evaluate` tells of itself that is kept.
_PROVENANCE = ("date", "machine", "system", "python", "i3d_tf", "tensorflow", "dm-sonnet", "numpy")
_FIGURES = ("videos", "top1", "top5", "mean_per_class", "cross_entropy")

RunCommand = Callable[[Sequence[str]], int]


@dataclasses.dataclass(frozen=True)
class Places:
  """Where things are, or the names that stand for it in results."""

  recipes: str
  data: str
  runs: str


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A row of a table, once."""

  table: tables.Table
  row: tables.Row
  repeat: tables.Repeat

  def train(self, stream: str, places: Places) -> list[str]:
    """The command that trains a stream."""
    recipe = os.path.normpath(f"{places.recipes}/{self.row.recipes[stream]}")
    flags = [
      flag.replace("{stream}", stream).replace("{runs}", places.runs) for flag in (*self.table.flags, *self.row.flags)
    ]
    return [
        "python", "-m", "i3d_tf.train", f"--flagfile={recipe}",
        f"--records={places.data}/{self.repeat.records}", f"--output={self.folder(places)}/{stream}",
        f"--seed={self.repeat.seed}", *flags,
    ]  # fmt: skip

  def evaluate(self, places: Places) -> list[str]:
    """The command that evaluates its streams together."""
    checkpoints = [f"--{stream}_checkpoint={self.folder(places)}/{stream}" for stream in self.row.recipes]
    return [
        "python", "-m", "i3d_tf.evaluate", f"--records={places.data}/{self.repeat.records}", *checkpoints,
        f"--output={self.folder(places)}/evaluation", *self.table.evaluate,
    ]  # fmt: skip

  def folder(self, places: Places) -> str:
    return f"{places.runs}/{self.row.name}/{self.repeat.name}"


def choose(table: tables.Table, rows: Sequence[str], seeds: Sequence[str]) -> list[Experiment]:
  """The experiments of a table, those of some rows and seeds if any are named.

  Raises:
    I3dError: for a row or a seed that the table does not have.
  """
  for what, given, known in (("only", rows, [row.name for row in table.rows]), ("seeds", seeds, table.seeds)):
    known = [str(value) for value in known]
    if unknown := [value for value in given if value not in known]:
      raise errors.I3dError(f"--{what}: {table.path} has no {unknown[0]!r}; it has {', '.join(known)}")
  return [
    Experiment(table, row, repeat)
    for row in table.rows
    for repeat in table.repeats()
    if (not rows or row.name in rows) and (not seeds or str(repeat.seed) in seeds)
  ]


def run(
  table: tables.Table, experiments: Sequence[Experiment], *, data: str, output: str, run_command: RunCommand
) -> None:
  """Makes what is not done yet of the experiments.

  Args:
    table: theirs; its results are kept beside it.
    experiments: see `choose`.
    data: folder with the folders of records.
    output: folder for the runs.
    run_command: runs a command and returns its status: `execute`.

  Raises:
    I3dError: if a command fails; what was done before is kept.
  """
  for name in sorted({experiment.repeat.records for experiment in experiments}):
    if not pathlib.Path(data, name).is_dir():
      raise errors.I3dError(f"{pathlib.Path(data, name)}: no such folder of records; {table.path} says how it is made")
  places = Places(str(table.path.parent), data, output)
  with workdir.locked(output):
    results = tables.Results(table.results_path)
    left = []
    for experiment in experiments:
      wanted, entry = _wanted(experiment), results.get(experiment.row.name, experiment.repeat.name)
      current = {key: entry[key] for key, what in wanted.items() if key in entry and what.items() <= entry[key].items()}
      if current.keys() != wanted.keys():
        left.append((experiment, wanted, current))
    if num_done := len(experiments) - len(left):
      print(
        f"{num_done} of {len(experiments)} experiments are done: {table.results_path} has what came out. Remove that "
        "file, or their entries, to run them again.",
        flush=True,
      )
    for experiment, wanted, current in left:
      for entry in _steps(experiment, wanted, current, places, run_command):
        results.put(experiment.row.name, experiment.repeat.name, entry)


def _wanted(experiment: Experiment) -> dict[str, dict]:
  """By stream, and 'evaluation', what is to be run."""
  names = Places(f"experiments/{experiment.table.path.resolve().parent.name}", "DATA", "RUNS")
  return {
    stream: {
      "command": shlex.join(experiment.train(stream, names)),
      "recipe": tables.recipe_flags(experiment.table.path.parent / recipe),
    }
    for stream, recipe in experiment.row.recipes.items()
  } | {"evaluation": {"command": shlex.join(experiment.evaluate(names))}}


def _steps(
  experiment: Experiment, wanted: dict[str, dict], current: dict[str, dict], places: Places, run_command: RunCommand
) -> Iterator[dict]:
  """Does what `current` lacks of `wanted`, and gives what it has become after each training and the evaluation."""
  folder = pathlib.Path(experiment.folder(places))
  current.pop("evaluation", None)
  for stream in experiment.row.recipes:
    if stream not in current or not _is_finished(folder / stream):
      seconds = _train(experiment.train(stream, places), folder / stream, run_command)
      current[stream] = {**wanted[stream], "seconds": seconds}
      yield current
  _check(experiment.evaluate(places), run_command)
  yield {**current, "evaluation": {**wanted["evaluation"], **_outcome(folder / "evaluation" / "results.json")}}


def _train(command: Sequence[str], folder: pathlib.Path, run_command: RunCommand) -> float | None:
  """Runs a training; the seconds that its process took, None if it was a part of the training only."""
  is_whole = not folder.exists()
  start = time.perf_counter()
  _check(command, run_command)
  if not _is_finished(folder):
    raise errors.I3dError(f"{folder}: the training was stopped before its last step; the same command goes on")
  return round(time.perf_counter() - start, 1) if is_whole else None


def _is_finished(folder: pathlib.Path) -> bool:
  """Whether a run of train has saved its last step."""
  options = folder / "options.json"
  if not options.is_file():
    return False
  num_steps = json.loads(options.read_text(encoding="utf-8"))["num_steps"]
  return (folder / "checkpoints" / f"ckpt-{num_steps}.index").exists()


def _outcome(path: pathlib.Path) -> dict:
  """What is kept of an evaluation's results.json: no paths."""
  content = json.loads(path.read_text(encoding="utf-8"))
  figures = {name: {key: measured[key] for key in _FIGURES} for name, measured in content["results"].items()}
  return {**{key: content[key] for key in _PROVENANCE}, "results": figures}


def _check(command: Sequence[str], run_command: RunCommand) -> None:
  print(shlex.join(command), flush=True)
  if status := run_command(command):
    raise errors.I3dError(f"{command[2]} ended with status {status}, see above; what was done before is kept")


def execute(command: Sequence[str]) -> int:
  """Runs a command of ours with this Python; a signal that ends this process stops it first."""
  handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    with subprocess.Popen([sys.executable, *command[1:]]) as process:
      try:
        return process.wait()
      except KeyboardInterrupt:
        process.terminate()  # train saves and ends
        process.wait()
        raise
  finally:
    signal.signal(signal.SIGTERM, handler)
