"""Tables of experiments: what is to be run, as a small JSON file; running it; what came out of it.

A table lies beside the recipes that it names (experiments/<dataset>/table.json), and its results beside it:

  {
    "title": "a heading",
    "data": ["commands that make the records, below a folder DATA"],
    "records": ["split1", "split2"],      folders of records below DATA: each experiment is made with every one
    "seeds": [0, 1],                      and with every seed
    "evaluate": ["--split=test"],         flags of evaluate
    "flags": ["--num_steps=5000"],        flags of every training, after its recipe's
    "rows": [
      {"name": "full_ft", "rgb": "i3d_rgb_full_ft.flags", "flow": "i3d_flow_full_ft.flags",
       "published": {"rgb": 95.6, "flow": 96.7, "rgb+flow": 98.0}, "source": "Table 5"}
    ]
  }

A row trains one stream or two, and with "joint" a network of both streams at once, whose figures then stand under
RGB+Flow. Its own "flags" come after the table's; in both {stream} stands for the stream, and {runs} for the folder of
all runs, where a training may start from another row's. Published figures are top-1 accuracies in percent, to stand
beside the mean.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import time
from typing import Any, TypeAlias

from i3d_tf import errors
from i3d_tf import evaluation as evaluation_lib
from i3d_tf import fields
from i3d_tf import files
from i3d_tf import workdir
from i3d_tf import workers
from i3d_tf.models import preprocess

_STREAMS = tuple(preprocess.STREAMS_OF)
_COLUMNS = {"rgb": "RGB", "flow": "Flow", evaluation_lib.FUSED: "RGB+Flow"}
_KEYS = {
    "title": str, "data": list, "records": list, "seeds": list, "evaluate": list, "flags": list, "rows": list,
}  # fmt: skip
_LISTS = ("data", "records", "seeds", "evaluate", "flags")
_OPTIONAL = {"data", "evaluate", "flags"}
_ROW_KEYS = {"name": str, **dict.fromkeys(_STREAMS, str), "flags": list, "published": dict, "source": str}
_NONE = "–"
# Kept from results.json of an evaluation.
_PROVENANCE = ("date", "machine", "system", "python", "i3d_tf", "tensorflow", "dm-sonnet", "numpy")
_FIGURES = ("videos", "top1", "top5", "mean_per_class", "cross_entropy")

RunCommand: TypeAlias = Callable[[Sequence[str]], int]
RunStep: TypeAlias = Callable[[Sequence[str]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A row of a table: networks that are trained and evaluated together.

  Attributes:
    name: unique in the table.
    recipes: by stream, the file name of the recipe.
    flags: of the training of every stream, after the table's.
    published: top-1 accuracies in percent by stream.
    source: where these are from.
  """

  name: str
  recipes: Mapping[str, str]
  flags: tuple[str, ...] = ()
  published: Mapping[str, float] = dataclasses.field(default_factory=dict)
  source: str = ""


@dataclasses.dataclass(frozen=True)
class Repeat:
  """One repetition of a row.

  Attributes:
    records: the name of the folder of records.
    seed: of the training.
    name: of the two together.
  """

  records: str
  seed: int
  name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of experiments; the fields are those of its file, see the module."""

  path: pathlib.Path
  title: str
  data: tuple[str, ...]
  records: tuple[str, ...]
  seeds: tuple[int, ...]
  evaluate: tuple[str, ...]
  flags: tuple[str, ...]
  rows: tuple[Row, ...]

  @property
  def label(self) -> str:
    """The table's path in the project."""
    return f"experiments/{self.path.resolve().parent.name}/{self.path.name}"

  @property
  def results_path(self) -> pathlib.Path:
    """The file of results: results2.json beside table2.json."""
    return self.path.with_name(f"results{self.path.stem.removeprefix('table')}.json")

  def repeats(self) -> list[Repeat]:
    """Returns every folder of records with every seed, named by what differs."""
    by_seed = len(self.seeds) > 1 or len(self.records) == 1
    by_records = len(self.records) > 1
    name = lambda records, seed: "_".join([records] * by_records + [f"seed{seed}"] * by_seed)
    return [Repeat(records, seed, name(records, seed)) for records in self.records for seed in self.seeds]


def load(path: str | os.PathLike) -> Table:
  """Returns a table, read from its file.

  Args:
    path: its JSON file.

  Raises:
    I3dError: if the file is not a table, a key is unknown or missing, a recipe does not exist, or names are equal.
    OSError: if the file cannot be read.
  """
  path = pathlib.Path(path)
  content = files.read_json(path)
  _check_keys(content, _KEYS, required=set(_KEYS) - _OPTIONAL, where=f"{path}")
  for name, kind in {**dict.fromkeys(_LISTS, str), "seeds": int, "rows": dict}.items():
    values = content.get(name, [])
    if any(type(value) is not kind for value in values) or (not values and name in ("records", "seeds", "rows")):
      raise errors.I3dError(f"{path}: {name} is {values!r}; it must be a list of {kind.__name__}, and not empty")
  rows = tuple(_row(path, row) for row in content["rows"])
  for name, values in (("records", content["records"]), ("seeds", content["seeds"]), ("rows", [r.name for r in rows])):
    if len(set(values)) < len(values):
      raise errors.I3dError(f"{path}: {name} has the same twice: {', '.join(map(str, values))}")
  lists = {name: tuple(content.get(name, ())) for name in _LISTS}
  return Table(path=path, title=content["title"], rows=rows, **lists)


def _row(path: pathlib.Path, content: dict) -> Row:
  where = f"{path}: row {content.get('name', content)!r}"
  _check_keys(content, _ROW_KEYS, required={"name"}, where=where)
  recipes = {stream: content[stream] for stream in _STREAMS if stream in content}
  if not recipes:
    raise errors.I3dError(f"{where} names no recipe; give some of {', '.join(_STREAMS)}")
  for recipe in recipes.values():
    if not (path.parent / recipe).is_file():
      raise errors.I3dError(f"{where}: there is no recipe {recipe} beside the table")
  published = content.get("published", {})
  if not set(published) <= set(_COLUMNS) or any(not isinstance(value, int | float) for value in published.values()):
    raise errors.I3dError(f"{where}: published is {published!r}; it holds numbers for {', '.join(_COLUMNS)}")
  if bool(published) != bool(content.get("source")):
    raise errors.I3dError(f"{where}: published and source belong together")
  extra = content.get("flags", [])
  if any(type(flag) is not str for flag in extra):
    raise errors.I3dError(f"{where}: flags is {extra!r}; it must be a list of str")
  return Row(
    name=content["name"], recipes=recipes, flags=tuple(extra), published=published, source=content.get("source", "")
  )


def _check_keys(content: Any, kinds: Mapping[str, type], *, required: set[str], where: str) -> None:
  if not isinstance(content, dict):
    raise errors.I3dError(f"{where}: this is no table of experiments, which is a JSON object")
  if unknown := sorted(set(content) - set(kinds)):
    raise errors.I3dError(f"{where}: unknown key {unknown[0]!r}; allowed are {', '.join(kinds)}")
  if missing := sorted(required - set(content)):
    raise errors.I3dError(f"{where}: {missing[0]} is missing")
  for name, value in content.items():
    if not isinstance(value, kinds[name]):
      raise errors.I3dError(f"{where}: {name} is {value!r}; it must be of type {kinds[name].__name__}")


def recipe_flags(path: pathlib.Path) -> list[str]:
  """Returns the lines of a recipe without comments.

  Args:
    path: of the flagfile.
  """
  lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
  return [line for line in lines if line and not line.startswith("#")]


class Results:
  """The results of a table by row and repeat, written to its file after every training and evaluation."""

  def __init__(self, path: pathlib.Path):
    """Reads the file.

    Args:
      path: of the results; need not exist.

    Raises:
      I3dError: if the file does not hold results.
    """
    self._path = path
    self._entries = files.read_json(path) if path.exists() else {}
    rows = self._entries.values() if isinstance(self._entries, dict) else [None]
    if not all(isinstance(row, dict) and all(isinstance(each, dict) for each in row.values()) for row in rows):
      raise errors.I3dError(f"{path}: these are no results of experiments")

  def get(self, row: str, repeat: str) -> dict[str, Any]:
    """Returns a repeat's results by stream, and 'evaluation', what was run and its outcome; empty if nothing was.

    Args:
      row: name of the row.
      repeat: name of the repeat.
    """
    return dict(self._entries.get(row, {}).get(repeat, {}))

  def put(self, row: str, repeat: str, entry: Mapping[str, Any]) -> None:
    """Replaces the results of one repeat, and writes the file.

    Args:
      row: name of the row.
      repeat: name of the repeat.
      entry: as `get` returns it.
    """
    self._entries.setdefault(row, {})[repeat] = dict(entry)
    with workdir.replacing(self._path) as file:
      file.write(json.dumps(self._entries, indent=2, ensure_ascii=False).encode() + b"\n")


def render(table: Table, results: Results) -> str:
  """Returns results as a section of Markdown with one line a repeat and the means over the repeats.

  Args:
    table: the table.
    results: its results.
  """
  lines: list[str] = []
  places: dict[str, None] = {}  # in order
  for row in table.rows:
    found = {repeat.name: results.get(row.name, repeat.name) for repeat in table.repeats()}
    found = {name: entry for name, entry in found.items() if "evaluation" in entry}
    lines += [_line(row.name, name.replace("_", ", "), _measured(entry)) for name, entry in found.items()]
    if len(table.repeats()) > 1 and found:
      of = "" if len(found) == len(table.repeats()) else f" of {len(table.repeats())}"
      lines.append(_line(row.name, f"mean of {len(found)}{of}", _means(list(found.values()))))
    if found and row.published:
      published = {name: f"{value:.1f} %" for name, value in row.published.items()}
      lines.append(_line(row.name, f"published: {row.source}", published))
    places |= {_place(entry["evaluation"]): None for entry in found.values()}
  if not lines:
    return f"## {table.title}\n\nNot run.\n"
  header = _line("recipe", "run", {**_COLUMNS, "seconds": "seconds of training"})
  made = "\n".join([*table.data, f"python -m i3d_tf.experiments --table={table.label} --data=DATA --output=RUNS"])
  return (
    f"## {table.title}\n\nTop-1 accuracy on the videos of the evaluated split, {'; '.join(places)}.\n\n"
    f"```text\n{made}\n```\n\n" + "\n".join([header, "|---" * header.count("|", 1) + "|", *lines]) + "\n"
  )


def _line(row: str, what: str, cells: Mapping[str, str]) -> str:
  return f"| {' | '.join([row, what, *(cells.get(name, _NONE) for name in (*_COLUMNS, 'seconds'))])} |"


def _measured(entry: Mapping[str, Any]) -> dict[str, str]:
  cells = {}
  for name, figures in _columns(entry).items():
    right = round(figures["top1"] * figures["videos"])
    cells[name] = f"{100 * figures['top1']:.2f} % ({right} of {figures['videos']})"
  seconds = [entry[stream]["seconds"] for stream in _STREAMS if stream in entry]
  # A training that was interrupted has no time of its own.
  cells["seconds"] = " + ".join(_NONE if value is None else f"{value:.0f}" for value in seconds)
  return cells


def _columns(entry: Mapping[str, Any]) -> dict[str, Any]:
  """The figures of an evaluation by column; a joint network's take the place of those of joined streams."""
  results = dict(entry["evaluation"]["results"])
  if "joint" in results:
    results[evaluation_lib.FUSED] = results.pop("joint")
  return results


def _means(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  top1 = {name: [_columns(entry)[name]["top1"] for entry in entries] for name in _columns(entries[0])}
  return {name: f"{100 * statistics.fmean(values):.2f} %" for name, values in top1.items()}


def _place(evaluation: Mapping[str, Any]) -> str:
  return f"{evaluation['machine']}, TensorFlow {evaluation['tensorflow']}, {evaluation['date'][:10]}"


def insert(path: str | os.PathLike, table: Table, text: str) -> None:
  """Writes a table's section between its marker comments in a page, or at the page's end if there are none.

  Args:
    path: the page.
    table: the table.
    text: the section, made by `render`.

  Raises:
    I3dError: if there is only one marker, or one of them twice.
    OSError: if the page cannot be read or written.
  """
  path = pathlib.Path(path)
  begin, end = (f"<!-- {table.label}: {word}, written by python -m i3d_tf.experiments -->" for word in ("begin", "end"))
  page = path.read_text(encoding="utf-8")
  section = f"{begin}\n{text}{end}"
  counts = page.count(begin), page.count(end)
  if counts == (0, 0):
    page = f"{page.rstrip()}\n\n{section}\n"
  elif counts == (1, 1) and page.index(begin) < page.index(end):
    page = page[: page.index(begin)] + section + page[page.index(end) + len(end) :]
  else:
    raise errors.I3dError(f"{path}: the marker comments of {table.label} are not one pair; mend or remove them")
  with workdir.replacing(path) as file:
    file.write(page.encode())


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

  table: Table
  row: Row
  repeat: Repeat

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


def choose(table: Table, only: Sequence[str], seeds: Sequence[str]) -> list[Experiment]:
  """Returns the experiments of some rows and seeds of a table.

  Args:
    table: the table.
    only: names of rows; empty for all.
    seeds: seeds as text; empty for all.

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
  table: Table,
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
    results = Results(table.results_path)
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
      "recipe": recipe_flags(experiment.table.path.parent / recipe),
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
  num_steps = fields.from_json(_Options, files.read_json(options), options, has_others=True).num_steps
  return (folder / "checkpoints" / f"ckpt-{num_steps}.index").exists()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
  """What is used of a training's options.json."""

  num_steps: int = fields.option(least=0)


def _outcome(path: pathlib.Path) -> dict:
  """The part of an evaluation's results.json that is kept: no paths."""
  content = files.read_json(path)
  try:
    figures = {name: {key: measured[key] for key in _FIGURES} for name, measured in content["results"].items()}
    return {**{key: content[key] for key in _PROVENANCE}, "results": figures}
  except (LookupError, TypeError, AttributeError):
    raise errors.I3dError(f"{path}: this is not what evaluate writes") from None


def _check(command: Sequence[str], run_command: RunCommand, on_message: Callable[[str], None]) -> None:
  on_message(shlex.join(command))
  if status := run_command(command):
    raise errors.I3dError(f"{command[2]} ended with status {status}, see above; what was done before is kept")


def execute(command: Sequence[str]) -> int:
  """Runs one of our programs with this Python; a signal that ends this process stops the program first.

  It does not outlive this process, even if that is killed.

  Args:
    command: 'python' and its arguments.

  Returns:
    The exit status.
  """
  handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    with subprocess.Popen([sys.executable, *command[1:]], preexec_fn=workers.end_with_parent) as process:
      try:
        return process.wait()
      except KeyboardInterrupt:
        process.terminate()  # train saves and ends
        process.wait()
        raise
  finally:
    signal.signal(signal.SIGTERM, handler)
