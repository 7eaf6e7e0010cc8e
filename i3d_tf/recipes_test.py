"""Every recipe parses by the flags of train, says what it is, and is what its source says."""

import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import types

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import testing
from i3d_tf import training
from i3d_tf.evaluation import experiment_tables
from i3d_tf.input import clip_config
from i3d_tf.models import inception
from i3d_tf.models import preprocess
from i3d_tf.models import zoo
from i3d_tf.training import optimizers

_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "experiments"
_RECIPES = {path.relative_to(_FOLDER).as_posix(): path for path in sorted(_FOLDER.glob("*/*.flags"))}
_TABLES = [path.relative_to(_FOLDER).as_posix() for path in sorted(_FOLDER.glob("*/table*.json"))]
_HEADS = ("Command", "Expected", "Source", "Hardware", "Hours", "Measured")
_STREAMS = ("rgb", "flow")
# Top-1 accuracies of the paper (arXiv 1705.07750): RGB, flow, both.
_TABLE_2 = {
    "ucf101": {
        "convnet_lstm": (81.0,), "c3d": (51.6,), "two_stream": (83.6, 85.6, 91.2),
        "fused_two_stream": (83.2, 85.8, 89.3), "i3d": (84.5, 90.6, 93.4),
    },
    "hmdb51": {
        "convnet_lstm": (36.0,), "c3d": (24.3,), "two_stream": (43.2, 56.3, 58.3),
        "fused_two_stream": (49.2, 55.5, 56.8), "i3d": (49.8, 61.9, 66.4),
    },
}  # fmt: skip
# Steps done when the rate changes, and the rates: README of kinetics-i3d.
_RELEASE = {
  "rgb": (115_000, (97_000, 108_000), (0.1, 0.01, 0.001)),
  "flow": (155_000, (97_000, 104_500, 115_000, 140_000, 150_000), (0.1, 0.01, 0.001, 0.1, 0.01, 0.001)),
}
# Row by row, with ImageNet and without; what is not published is left out.
_TABLE_4 = {
    "ucf101": (
        81.0, 54.2, 88.1, 82.6, 91.0, 86.8, 51.6, 76.0, 79.9, 91.2, 83.6, 93.9, 93.3, 94.2,
        93.8, 89.3, 69.5, 94.3, 89.8, 94.2, 91.5, 93.4, 88.8, 97.7, 97.4, 98.0, 97.6,
    ),
    "hmdb51": (
        36.0, 18.3, 50.8, 47.1, 53.4, 49.7, 24.3, 47.0, 49.4, 58.3, 47.1, 66.6, 65.9, 66.6,
        64.3, 56.8, 37.3, 69.9, 64.6, 71.0, 66.5, 66.4, 62.2, 79.7, 78.6, 81.2, 81.3,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What train makes of a recipe."""

  run: training.TrainConfig
  optimization: training.OptimizationConfig
  clips: clip_config.TrainClips


def parse(arguments: list[list[str]]) -> list[Recipe | str]:
  """What train makes of command lines, or the error; for a process of its own, whose flags are train's alone."""
  import sys
  from unittest import mock

  from absl import flags
  from absl.testing import flagsaver

  train = importlib.import_module("i3d_tf.train")
  made = []

  def train_as_told(*, optimization, clips, progress, flags_text, **run):
    del progress, flags_text
    made.append(Recipe(training.TrainConfig(**run), optimization, clips))

  trainer = types.SimpleNamespace(train=train_as_told)
  sys.modules["i3d_tf.training.trainer"] = trainer
  for words in arguments:
    with flagsaver.flagsaver(), mock.patch.object(train.cli, "import_tensorflow"):
      try:
        train.FLAGS(["train", *words])
        train.main([])
      except (flags.Error, ValueError) as error:
        made.append(str(error))
  return made


def parse_evaluation(arguments: list[list[str]]) -> None:
  """Parses flags of evaluate; for a process of its own, too."""
  evaluate = importlib.import_module("i3d_tf.evaluate")
  for words in arguments:
    evaluate.FLAGS(["evaluate", "--output=OUT", *words])


def _header(path: pathlib.Path) -> dict[str, str]:
  """The comment lines of a recipe by what they begin with; lines that are further to the right go on."""
  found = {}
  for line in path.read_text(encoding="utf-8").splitlines():
    if start := re.match(r"# ([A-Z]\w+): +(\S.*)", line):
      key = start[1]
      found[key] = start[2]
    elif line.startswith("#  "):
      found[key] += "\n" + line[1:].strip()
  return found


class RecipesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    given = ["--records=DATA", "--output=RUN"]
    parsed = testing.in_own_process(parse, [[f"--flagfile={path}", *given] for path in _RECIPES.values()])
    cls.recipes = dict(zip(_RECIPES, parsed, strict=True))

  def _recipe(self, name: str) -> Recipe:
    recipe = self.recipes[name]
    self.assertIsInstance(recipe, Recipe, recipe)
    return recipe

  def test_recipes_are_there(self):
    folders = {name.partition("/")[0] for name in _RECIPES}
    others = {"kinetics400", "synthetic", "diving_javelin", "paper_tables", "pretraining"}
    self.assertEqual(folders, {"ucf101", "hmdb51", *others})
    for dataset in ("ucf101", "hmdb51"):
      for stream in _STREAMS:
        for variant in ("original", "fixed", "full_ft"):
          self.assertIn(f"{dataset}/i3d_{stream}_{variant}.flags", _RECIPES)

  @parameterized.parameters(*_RECIPES)
  def test_recipe_parses_and_has_no_paths(self, name):
    recipe = self._recipe(name)
    self.assertIn(f"_{recipe.run.stream}", name)
    self.assertEqual(recipe.clips.streams, preprocess.STREAMS_OF[recipe.run.stream])
    flags = experiment_tables.recipe_flags(_RECIPES[name])
    self.assertEmpty([flag for flag in flags if "/" in flag or re.match("--(records|output|seed|flagfile)", flag)])
    keys = [flag.partition("=")[0].removeprefix("--").removeprefix("no") for flag in flags]
    self.assertLen(set(keys), len(keys))

  @parameterized.parameters(*_RECIPES)
  def test_header_says_what_it_is(self, name):
    header = _header(_RECIPES[name])
    self.assertEqual(tuple(header)[: len(_HEADS)], _HEADS)
    self.assertIn(f"python -m i3d_tf.train --flagfile=experiments/{name} ", header["Command"])
    self.assertLessEqual(max(map(len, _RECIPES[name].read_text(encoding="utf-8").splitlines())), 120)

  @parameterized.parameters(*_RECIPES)
  def test_what_it_freezes_is_in_the_network(self, name):
    recipe = self._recipe(name)
    if not recipe.optimization.freeze:
      return
    if recipe.run.model != "i3d":
      model = zoo.create_model(recipe.run.model, num_classes=2, stream=recipe.run.stream, width_multiplier=0.01)
      model.freeze(recipe.optimization.freeze)
      still = {each.ref() for each in model.trainable_variables} - {each.ref() for each in model.trained_variables}
      norms = [each for each in model.trainable_variables if "/batch_norm/" in each.name]
      self.assertEqual(still, {each.ref() for each in norms if "/conv1_7x7_s2/" not in each.name})
      return
    model = inception.InceptionI3d(2, width_multiplier=0.01, average_space=True)
    model.build(2)
    model.freeze(recipe.optimization.freeze)
    trained = {re.sub(r"^inception_i3d/", "", variable.name).partition("/")[0] for variable in model.trained_variables}
    self.assertEqual(trained, {"Mixed_5b", "Mixed_5c", "Logits"} if "alternative" in name else {"Logits"})

  def test_misspelt_key_is_an_error(self):
    with tempfile.TemporaryDirectory() as folder:
      bad = pathlib.Path(folder, "bad.flags")
      bad.write_text("--num_steps=3\n--learning_rat_e=0.1\n")
      ugly = pathlib.Path(folder, "ugly.flags")
      ugly.write_text("--num_steps=3\n--schedule=piecewise\n--rates=1,fast\n--rate_boundaries=1\n")
      given = ["--records=DATA", "--output=RUN"]
      found = testing.in_own_process(parse, [[f"--flagfile={path}", *given] for path in (bad, ugly)])
    self.assertIn("Unknown command line flag 'learning_rat_e'", found[0])
    self.assertEqual(found[1], "flag --rates=1,fast: it takes numbers separated by commas")

  @parameterized.product(stream=_STREAMS, start=("scratch", "imagenet"))
  def test_schedule_is_the_releases_at_every_boundary(self, stream, start):
    recipe = self._recipe(f"kinetics400/i3d_{stream}_{start}.flags")
    num_steps, boundaries, rates = _RELEASE[stream]
    self.assertEqual(recipe.run.num_steps, num_steps)
    rate = lambda step: optimizers.rate(recipe.optimization, step, num_steps=num_steps)
    for begin, end, expected in zip((0, *boundaries), (*boundaries, num_steps), rates, strict=True):
      # A step counts from 0: that of number `begin` is the first after `begin` steps are done.
      self.assertEqual((rate(begin), rate(begin + 1), rate(end - 1)), (expected,) * 3)

  @parameterized.product(stream=_STREAMS, start=("scratch", "imagenet"))
  def test_recipe_is_the_releases(self, stream, start):
    recipe = self._recipe(f"kinetics400/i3d_{stream}_{start}.flags")
    got = recipe.optimization
    self.assertEqual((got.optimizer, got.momentum, got.weight_decay, got.dropout), ("momentum", 0.9, 1e-7, 0.5))
    self.assertEqual((got.warmup_steps, got.clip_norm, got.freeze, got.sync_batch_norm), (0, 0, "", False))
    checkpoint = "inception_v1" if start == "imagenet" else ""
    self.assertEqual((recipe.run.batch_size, recipe.run.initial_checkpoint), (6, checkpoint))
    self.assertEqual(recipe.run.width_multiplier, 1)
    clips = recipe.clips
    self.assertEqual((clips.num_frames, clips.frame_stride, clips.short_side, clips.crop), (64, 1, 256, 224))
    self.assertTrue(clips.flip)
    plain = clip_config.TrainClips(streams=(stream,))
    self.assertEqual(clips, plain)  # no other augmentation

  @parameterized.product(dataset=("ucf101", "hmdb51"), stream=_STREAMS)
  def test_transfer_starts_where_it_says(self, dataset, stream):
    for variant in ("original", "fixed", "full_ft"):
      recipe = self._recipe(f"{dataset}/i3d_{stream}_{variant}.flags")
      self.assertEqual(recipe.run.initial_checkpoint, "" if variant == "original" else f"{stream}_imagenet")
      self.assertEqual(recipe.optimization.freeze, "(?!Logits)" if variant == "fixed" else "")
      self.assertLessEqual(recipe.run.num_steps, 5000)  # the paper: up to 5k

  @parameterized.parameters(("rgb", 10_000, 3000), ("flow", 20_000, 5000))
  def test_adam_preset_falls_by_ten_in_stairs(self, stream, num_steps, every):
    recipe = self._recipe(f"ucf101/i3d_{stream}_adam.flags")
    self.assertEqual((recipe.optimization.optimizer, recipe.run.num_steps), ("adam", num_steps))
    for step in range(0, num_steps, 250):
      rate = optimizers.rate(recipe.optimization, step, num_steps=num_steps)
      self.assertAlmostEqual(rate / (1e-4 * 0.1 ** (step // every)), 1, places=9)

  @parameterized.parameters(*_TABLES)
  def test_table_is_whole(self, name):
    table = experiment_tables.load(_FOLDER / name)
    for row in table.rows:
      for stream, recipe in row.recipes.items():
        path = (table.path.parent / recipe).resolve().relative_to(_FOLDER.resolve())
        self.assertEqual(self._recipe(path.as_posix()).run.stream, stream)

  @parameterized.parameters(*sorted({pathlib.Path(name).parent.name for name in _TABLES}))
  def test_every_recipe_of_a_folder_is_in_a_table(self, folder):
    tables = [experiment_tables.load(_FOLDER / name) for name in _TABLES if name.startswith(f"{folder}/")]
    used = {recipe for table in tables for row in table.rows for recipe in row.recipes.values()}
    self.assertContainsSubset({path.name for path in (_FOLDER / folder).glob("*.flags")}, used)

  def test_flags_of_tables_are_known_to_train_and_fit_their_recipes(self):
    lines = []
    for name in _TABLES:
      table = experiment_tables.load(_FOLDER / name)
      places = experiment_tables.Places(str(table.path.parent), "DATA", "RUNS")
      for experiment in experiment_tables.choose(table, [], []):
        lines += [experiment.train(stream, places)[3:] for stream in experiment.row.recipes]
    for line, found in zip(lines, testing.in_own_process(parse, lines), strict=True):
      self.assertIsInstance(found, Recipe, f"{line}: {found}")

  def test_every_cell_of_the_paper_s_tables_2_to_4_has_a_row(self):
    rows = {
      name: {row.name: row for row in experiment_tables.load(_FOLDER / f"paper_tables/{name}.json").rows}
      for name in ("table2_ucf101", "table2_hmdb51", "table3", "table4_ucf101", "table4_hmdb51")
    }
    columns = ("rgb", "flow", "rgb+flow")
    for dataset, published in _TABLE_2.items():
      for model, figures in published.items():
        row = rows[f"table2_{dataset}"][f"table2_{dataset}_{model}"]
        self.assertEqual(row.published, dict(zip(columns, figures)))
    for model in ("i3d", "convnet_lstm", "c3d", "two_stream", "fused_two_stream"):
      for start, figures in zoo.get(model).accuracies.items():
        published = rows["table3"][f"table3_{model}_{start}"].published
        self.assertEqual(
          {name.replace("rgb+flow", "joint") for name in published},
          {name.replace("rgb+flow", "joint") for name in figures},
        )
        self.assertEqual(sorted(published.values()), sorted(figures.values()))
    for dataset, published in _TABLE_4.items():
      found = [row.published for row in rows[f"table4_{dataset}"].values()]
      self.assertEqual([value for cell in found for value in cell.values()], list(published))

  def test_flags_of_evaluations_are_known(self):
    tables = [experiment_tables.load(_FOLDER / name) for name in _TABLES]
    testing.in_own_process(parse_evaluation, [list(table.evaluate) for table in tables])

  @parameterized.parameters(*_TABLES)
  def test_results_are_of_these_recipes_and_in_the_page(self, name):
    table = experiment_tables.load(_FOLDER / name)
    if not table.results_path.exists():
      return
    results = experiment_tables.Results(table.results_path)
    section = experiment_tables.render(table, results)
    self.assertIn(section, (_FOLDER / "RESULTS.md").read_text(encoding="utf-8"))
    for row in table.rows:
      for entry in filter(None, (results.get(row.name, repeat.name) for repeat in table.repeats())):
        for stream, recipe in row.recipes.items():
          self.assertEqual(entry[stream]["recipe"], experiment_tables.recipe_flags(table.path.parent / recipe))


class ScriptsTest(absltest.TestCase):
  def test_every_task_of_a_slurm_job_gets_its_place_in_the_cluster(self):
    script = _FOLDER / "train_slurm.sh"
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    programs = {  # in place of Slurm's, as of a job on two machines
      "scontrol": 'test "$*" = "show hostnames n[9-10]" && printf "n9\\nn10\\n"',
      "srun": 'test "$1" = --kill-on-bad-exit=1 && shift && for task in 0 1; do SLURM_PROCID=$task "$@" || exit; done',
      "python": 'echo "$TF_CONFIG"; printf "%s\\n" "$@"',
    }
    for name, body in programs.items():
      (folder / name).write_text(f"#!/bin/bash\n{body}\n")
      (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[9-10]"}
    words = ["--records=my records", "--output=run"]
    done = subprocess.run(["bash", script, *words], env=environment, capture_output=True, text=True, check=False)
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    lines = done.stdout.splitlines()
    self.assertLen(lines, 10)
    for index, (config, *rest) in enumerate((lines[:5], lines[5:])):
      self.assertEqual(rest, ["-m", "i3d_tf.train", *words])
      cluster = {"worker": ["n9:8888", "n10:8888"]}
      self.assertEqual(json.loads(config), {"cluster": cluster, "task": {"type": "worker", "index": index}})
    header = re.findall(r"^#SBATCH (--[a-z-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE)
    self.assertEqual(len(header), script.read_text().count("#SBATCH"))
    self.assertLessEqual({("--nodes", "2"), ("--ntasks-per-node", "1"), ("--gpus-per-node", "4")}, set(header))

  def test_the_simulation_of_many_workers(self):
    spec = importlib.util.spec_from_file_location("simulate_workers", _FOLDER / "simulate_workers.py")
    simulate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulate)
    self.assertEqual(simulate.makespan([1, 1, 1, 3], 1), (6, 1))
    self.assertEqual(simulate.makespan([1, 1, 1, 3], 2), (4, 0.75))  # the long one is begun last
    self.assertEqual(simulate.makespan([3, 1, 1, 1], 2, start=10), (13, 6 / 26))
    self.assertEqual(simulate.makespan([1, 1, 1], 2, slow=0.5, factor=5), (5, 7 / 10))
    even = simulate.makespan([1.0] * 1000, 10)[0]
    lossy = simulate.makespan([1.0] * 1000, 10, loss=0.1, start=2, seed=3)[0]
    self.assertBetween(lossy / even, 1.2, 1.4)  # a ninth of the videos costs half of itself and 2 s more: 1.28
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "manifest.jsonl"
    path.write_text('{"input": "a", "seconds": 2.5}\n{"input": "b", "error": "no video"}\n')
    words = [path, "--workers=1,4", "--videos=8"]
    done = subprocess.run(
      [sys.executable, _FOLDER / "simulate_workers.py", *words], capture_output=True, text=True, check=True
    )
    self.assertRegex(done.stdout, r"8 videos of 2.500 s .*\n +1 workers: +20.0 s (.|\n)* 4 workers: +5.0 s")


if __name__ == "__main__":
  absltest.main()
