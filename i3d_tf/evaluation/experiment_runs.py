"""Runs a table of experiments: trainings and evaluations as processes of their own, one after the other."""

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
from typing import TypeAlias

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.evaluation import experiment_tables as tables

# Kept from results.json of an evaluation.
_PROVENANCE = ("date", "machine", "system", "python", "i3d_tf", "tensorflow", "dm-sonnet", "numpy")
_FIGURES = ("videos", "top1", "top5", "mean_per_class", "cross_entropy")

RunCommand: TypeAlias = Callable[[Sequence[str]], int]
RunStep: TypeAlias = Callable[[Sequence[str]], None]


@dataclasses.dataclass(frozen=True)
class Places:
  """The folders of an experiment, or the names that stand for them in results.

  Attributes:
    recipes: has the recipes.
    data: has the folders of records.
    runs: gets the runs.
  """

  recipes: str
  data: str
  runs: str


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One repeat of a row of a table."""

  table: tables.Table
  row: tables.Row
  repeat: tables.Repeat

  def train(self, stream: str, places: Places) -> list[str]:
    """Returns the command that trains a stream.

    Args:
      stream: one of the row's.
      places: the folders.
    """
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
    """Returns the command that evaluates its streams together.

    Args:
      places: the folders.
    """
    checkpoints = [f"--{stream}_checkpoint={self.folder(places)}/{stream}" for stream in self.row.recipes]
    return [
        "python", "-m", "i3d_tf.evaluate", f"--records={places.data}/{self.repeat.records}", *checkpoints,
        f"--output={self.folder(places)}/evaluation", *self.table.evaluate,
    ]  # fmt: skip

  def folder(self, places: Places) -> str:
    """Returns the folder of its runs.

    Args:
      places: the folders.
    """
    return f"{places.runs}/{self.row.name}/{self.repeat.name}"


def choose(table: tables.Table, only: Sequence[str], seeds: Sequence[str]) -> list[Experiment]:
  """Lists the experiments of a table.

  Args:
    table: the table.
    only: names of rows; empty for all.
    seeds: seeds as text; empty for all.

  Returns:
    The experiments of these rows and seeds.

  Raises:
    I3dError: if the table does not have a row or a seed.
  """
  for what, given, known in (("only", only, [row.name for row in table.rows]), ("seeds", seeds, table.seeds)):
    known = [str(value) for value in known]
    if unknown := [value for value in given if value not in known]:
      raise errors.I3dError(f"{what}: {table.path} has no {unknown[0]!r}; it has {', '.join(known)}")
  return [
    Experiment(table, row, repeat)
    for row in table.rows
    for repeat in table.repeats()
    if (not only or row.name in only) and (not seeds or str(repeat.seed) in seeds)
  ]


def run(
  table: tables.Table,
  experiments: Sequence[Experiment],
  *,
  data: str,
  output: str,
  run_command: RunCommand,
  on_message: Callable[[str], None] = lambda message: None,
) -> None:
  """Runs the trainings and evaluations that have no results yet, or other ones.

  Args:
    table: of the experiments; its results are kept beside it.
    experiments: made by `choose`.
    data: the folder with the folders of records.
    output: the folder for the runs.
    run_command: runs a command and returns its status: `execute`.
    on_message: called with each command, and with what was done before.

  Raises:
    I3dError: if there are no records, or a command fails; results so far are kept.
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
      on_message(
        f"{num_done} of {len(experiments)} experiments are done: {table.results_path} has what came out. Remove that "
        "file, or their entries, to run them again."
      )
    for experiment, wanted, current in left:
      announced = lambda command: _check(command, run_command, on_message)
      for entry in _steps(experiment, wanted, current, places, announced):
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
  experiment: Experiment, wanted: dict[str, dict], current: dict[str, dict], places: Places, run_step: RunStep
) -> Iterator[dict]:
  """Runs what `current` lacks of `wanted`; yields `current` after each training and after the evaluation."""
  folder = pathlib.Path(experiment.folder(places))
  current.pop("evaluation", None)
  for stream in experiment.row.recipes:
    if stream not in current or not _is_finished(folder / stream):
      seconds = _train(experiment.train(stream, places), folder / stream, run_step)
      current[stream] = {**wanted[stream], "seconds": seconds}
      yield current
  run_step(experiment.evaluate(places))
  yield {**current, "evaluation": {**wanted["evaluation"], **_outcome(folder / "evaluation" / "results.json")}}


def _train(command: Sequence[str], folder: pathlib.Path, run_step: RunStep) -> float | None:
  """Runs a training; returns the seconds of its process, None if it was only a part of the training."""
  is_whole = not folder.exists()
  start = time.perf_counter()
  run_step(command)
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
  """The part of an evaluation's results.json that is kept: no paths."""
  content = json.loads(path.read_text(encoding="utf-8"))
  figures = {name: {key: measured[key] for key in _FIGURES} for name, measured in content["results"].items()}
  return {**{key: content[key] for key in _PROVENANCE}, "results": figures}


def _check(command: Sequence[str], run_command: RunCommand, on_message: Callable[[str], None]) -> None:
  on_message(shlex.join(command))
  if status := run_command(command):
    raise errors.I3dError(f"{command[2]} ended with status {status}, see above; what was done before is kept")


def execute(command: Sequence[str]) -> int:
  """Runs one of our programs with this Python; a signal that ends this process stops the program first.

  Args:
    command: 'python' and its arguments.

  Returns:
    The exit status.
  """
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
