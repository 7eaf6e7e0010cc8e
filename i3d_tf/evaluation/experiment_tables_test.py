"""Tables of experiments are checked when they are read, and rendered to the letter."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf.evaluation import experiment_tables as tables

_GOOD = {
  "title": "Small things",
  "data": ["python -m i3d_tf.make_synthetic --output=DATA/videos"],
  "records": ["records"],
  "seeds": [0, 1],
  "evaluate": ["--split=test"],
  "rows": [{"name": "small", "rgb": "rgb.flags", "flow": "flow.flags"}],
}
_ROW = _GOOD["rows"][0]
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_TABLE = {
  "title": "Toys",
  "records": ["records"],
  "seeds": [0, 1],
  "evaluate": ["--split=test"],
  "rows": [
    {"name": "pair", "rgb": "rgb.flags", "flow": "flow.flags"},
    {"name": "alone", "flow": "flow.flags"},
  ],
}


def _evaluation(**top1: float) -> dict:
  results = {name.replace("_", "+"): {"videos": 40, "top1": value} for name, value in top1.items()}
  return {"machine": "Abacus, 2 cores", "tensorflow": "2.21.0", "date": "2026-11-21T14:00:00+00:00", "results": results}


class TablesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name, "toys")
    self.folder.mkdir()
    self.path = self.folder / "table.json"
    for stream in ("rgb", "flow"):
      (self.folder / f"{stream}.flags").write_text(f"# Head: line\n\n  --stream={stream}\n--num_steps=3\n")

  def _load(self, **changes) -> tables.Table:
    self.path.write_text(json.dumps({**_GOOD, **changes}))
    return tables.load(self.path)

  def test_everything_is_read(self):
    table = self._load(evaluate=["--split=val", "--flip"])
    self.assertEqual((table.title, table.data), ("Small things", tuple(_GOOD["data"])))
    self.assertEqual((table.records, table.seeds, table.evaluate), (("records",), (0, 1), ("--split=val", "--flip")))
    self.assertEqual(table.rows, (tables.Row(name="small", recipes={"rgb": "rgb.flags", "flow": "flow.flags"}),))
    self.assertEqual((table.label, table.results_path), ("experiments/toys/table.json", self.folder / "results.json"))

  @parameterized.parameters(
    (["records"], [0], [("records", 0, "seed0")]),
    (["records"], [3, 5], [("records", 3, "seed3"), ("records", 5, "seed5")]),
    (["split1", "split2"], [0], [("split1", 0, "split1"), ("split2", 0, "split2")]),
    (["a", "b"], [1, 2], [("a", 1, "a_seed1"), ("a", 2, "a_seed2"), ("b", 1, "b_seed1"), ("b", 2, "b_seed2")]),
  )
  def test_repeats_are_named_by_what_differs(self, records, seeds, expected):
    repeats = self._load(records=records, seeds=seeds).repeats()
    self.assertEqual(repeats, [tables.Repeat(*values) for values in expected])

  @parameterized.parameters(
    ({"sseds": [0]}, "unknown key 'sseds'; allowed are title, data, records, seeds, evaluate, flags, rows"),
    ({"seeds": []}, "seeds is []; it must be a list of int, and not empty"),
    ({"seeds": ["0"]}, "seeds is ['0']; it must be a list of int, and not empty"),
    ({"seeds": [True]}, "seeds is [True]; it must be a list of int, and not empty"),
    ({"seeds": 0}, "seeds is 0; it must be of type list"),
    ({"seeds": [1, 1]}, "seeds has the same twice: 1, 1"),
    ({"rows": [_ROW, _ROW]}, "rows has the same twice: small, small"),
    ({"rows": [{"name": "x"}]}, "row 'x' names no recipe; give some of rgb, flow, joint"),
    ({"rows": [{"rgb": "rgb.flags"}]}, "name is missing"),
    ({"rows": [{**_ROW, "rgb": "none.flags"}]}, "row 'small': there is no recipe none.flags beside the table"),
    ({"rows": [{**_ROW, "both": "x"}]}, "unknown key 'both'; allowed are name, rgb, flow, joint, flags, published"),
    ({"rows": [{**_ROW, "published": {"rgb": 1.5}}]}, "published and source belong together"),
    ({"rows": [{**_ROW, "published": {"both": 1}, "source": "x"}]}, "it holds numbers for rgb, flow, rgb+flow"),
    ({"rows": [{**_ROW, "published": {"rgb": "1"}, "source": "x"}]}, "it holds numbers for rgb, flow, rgb+flow"),
  )
  def test_bad_table_gets_one_sentence(self, changes, sentence):
    with self.assertRaises(errors.I3dError) as caught:
      self._load(**changes)
    self.assertStartsWith(str(caught.exception), f"{self.path}: ")
    self.assertIn(sentence, str(caught.exception))

  def test_missing_key_and_no_table_at_all(self):
    for text, sentence in (
        (json.dumps({"title": "x"}), "records is missing"), ("[1]", "this is no table of experiments"),
        ("{", "this is not JSON"),
    ):  # fmt: skip
      self.path.write_text(text)
      with self.assertRaisesRegex(errors.I3dError, sentence):
        tables.load(self.path)

  def test_flags_of_a_recipe_are_without_comments(self):
    self.assertEqual(tables.recipe_flags(self.folder / "rgb.flags"), ["--stream=rgb", "--num_steps=3"])

  def test_results_are_kept(self):
    results = tables.Results(self.folder / "results.json")
    results.put("small", "seed0", {"rgb": {"seconds": 1.5}})
    results.put("small", "seed1", {"rgb": {"seconds": 2.5}})
    results.get("small", "seed0")["flow"] = {}  # a copy
    again = tables.Results(self.folder / "results.json")
    self.assertEqual(again.get("small", "seed0"), {"rgb": {"seconds": 1.5}})
    self.assertEqual(again.get("small", "seed1"), {"rgb": {"seconds": 2.5}})
    self.assertEqual(again.get("small", "seed2"), {})

  def test_page_has_runs_means_and_published_figures(self):
    row = {**_ROW, "published": {"rgb": 95.6, "rgb+flow": 98}, "source": "Table 5"}
    table = self._load(rows=[row, {"name": "never", "flow": "flow.flags"}])
    results = tables.Results(table.results_path)
    timed = lambda seconds: {"command": "train", "recipe": [], "seconds": seconds}
    first = {"rgb": timed(61.4), "flow": timed(None), "evaluation": _evaluation(rgb=0.8, flow=0.975, rgb_flow=1.0)}
    second = {"rgb": timed(59.6), "flow": timed(70.0), "evaluation": _evaluation(rgb=0.9, flow=0.95, rgb_flow=0.975)}
    results.put("small", "seed0", first)
    results.put("small", "seed1", second)
    results.put("never", "seed0", {"flow": timed(3.0)})  # trained, not evaluated
    expected = """## Small things

Top-1 accuracy on the videos of the evaluated split, Abacus, 2 cores, TensorFlow 2.21.0, 2026-11-21.

```text
python -m i3d_tf.make_synthetic --output=DATA/videos
python -m i3d_tf.experiments --table=experiments/toys/table.json --data=DATA --output=RUNS
```

| recipe | run | RGB | Flow | RGB+Flow | seconds of training |
|---|---|---|---|---|---|
| small | seed0 | 80.00 % (32 of 40) | 97.50 % (39 of 40) | 100.00 % (40 of 40) | 61 + – |
| small | seed1 | 90.00 % (36 of 40) | 95.00 % (38 of 40) | 97.50 % (39 of 40) | 60 + 70 |
| small | mean of 2 | 85.00 % | 96.25 % | 98.75 % | – |
| small | published: Table 5 | 95.6 % | – | 98.0 % | – |
"""
    self.assertEqual(tables.render(table, results), expected)

  def test_mean_of_some_says_so(self):
    table = self._load()
    results = tables.Results(table.results_path)
    results.put("small", "seed1", {"rgb": {"seconds": 1.0}, "evaluation": _evaluation(rgb=0.5)})
    self.assertIn("| small | mean of 1 of 2 | 50.00 % | – | – | – |\n", tables.render(table, results))

  def test_nothing_run_is_said(self):
    table = self._load()
    self.assertEqual(tables.render(table, tables.Results(table.results_path)), "## Small things\n\nNot run.\n")

  def test_section_takes_its_place_in_the_page_and_leaves_the_rest(self):
    table = self._load()
    page = self.folder / "PAGE.md"
    page.write_text("# By hand\n\nbefore\n")
    tables.insert(page, table, "one\n")
    begin, end = (
      f"<!-- experiments/toys/table.json: {word}, written by python -m i3d_tf.experiments -->"
      for word in ("begin", "end")
    )
    self.assertEqual(page.read_text(), f"# By hand\n\nbefore\n\n{begin}\none\n{end}\n")
    page.write_text(page.read_text() + "\nafter\n")
    tables.insert(page, table, "two\n")
    self.assertEqual(page.read_text(), f"# By hand\n\nbefore\n\n{begin}\ntwo\n{end}\n\nafter\n")

  def test_broken_markers_are_refused(self):
    table = self._load()
    page = self.folder / "PAGE.md"
    page.write_text("")
    tables.insert(page, table, "one\n")
    begin, end = page.read_text().strip().split("\none\n")
    for text in (begin, end, f"{end}\n{begin}", f"{begin}\n{begin}\n{end}"):
      page.write_text(text)
      with self.assertRaisesRegex(errors.I3dError, "marker comments of experiments/toys/table.json are not one pair"):
        tables.insert(page, table, "two\n")
      self.assertEqual(page.read_text(), text)


class Machine:
  """In place of processes: does to the folders what train and evaluate do."""

  def __init__(self):
    self.commands = []
    self.fails = {}  # status by a part of the command
    self.stops_early = False

  def __call__(self, command):
    self.commands.append(" ".join(command))
    for part, status in self.fails.items():
      if part in self.commands[-1]:
        return status
    given = dict(word.removeprefix("--").split("=", 1) for word in command if word.startswith("--"))
    folder = pathlib.Path(given["output"])
    folder.mkdir(parents=True, exist_ok=True)
    if command[2] == "i3d_tf.train":
      (folder / "options.json").write_text('{"num_steps": 3}')
      (folder / "checkpoints").mkdir(exist_ok=True)
      (folder / "checkpoints" / f"ckpt-{2 if self.stops_early else 3}.index").touch()
    else:
      streams = [name.removesuffix("_checkpoint") for name in given if name.endswith("_checkpoint")]
      names = [*streams, *["rgb+flow"] * (len(streams) == 2)]
      figures = dict(videos=4, top1=0.75, top5=None, mean_per_class=0.7, cross_entropy=0.5, per_class=["long"])
      about = dict.fromkeys(
        ("date", "machine", "system", "python", "i3d_tf", "tensorflow", "dm-sonnet", "numpy"), "some"
      )
      content = {**about, "command": f"evaluate {folder}", "results": dict.fromkeys(names, figures)}
      (folder / "results.json").write_text(json.dumps(content))
    return 0


class RunsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.root = pathlib.Path(folder.name)
    self.table_path = self.root / "experiments" / "toys" / "table.json"
    self.table_path.parent.mkdir(parents=True)
    self.table_path.write_text(json.dumps(_TABLE))
    for stream in ("rgb", "flow"):
      (self.table_path.parent / f"{stream}.flags").write_text(f"# Toy\n--stream={stream}\n")
    (self.root / "data" / "records").mkdir(parents=True)

  def _run(self, machine: Machine, rows=(), seeds=()) -> list[str]:
    """Runs the table; the commands, without what is the same in all."""
    table = tables.load(self.table_path)
    chosen = tables.choose(table, rows, seeds)
    before = len(machine.commands)
    self.messages = []
    folders = {"data": str(self.root / "data"), "output": str(self.root / "runs")}
    try:
      tables.run(table, chosen, **folders, run_command=machine, on_message=self.messages.append)
    finally:
      done = [command.replace(str(self.root / "runs"), "RUNS") for command in machine.commands[before:]]
    outputs = [next(word for word in command.split() if word.startswith("--output=")) for command in done]
    return [output.removeprefix("--output=RUNS/") for output in outputs]

  def _entry(self, row: str, repeat: str) -> dict:
    return tables.Results(tables.load(self.table_path).results_path).get(row, repeat)

  def test_all_is_run_in_order(self):
    machine = Machine()
    done = self._run(machine)
    pair = [f"pair/seed{seed}/{what}" for seed in (0, 1) for what in ("rgb", "flow", "evaluation")]
    alone = [f"alone/seed{seed}/{what}" for seed in (0, 1) for what in ("flow", "evaluation")]
    self.assertEqual(done, pair + alone)
    root = str(self.root)
    self.assertEqual(
      machine.commands[1],
      f"python -m i3d_tf.train --flagfile={root}/experiments/toys/flow.flags --records={root}/data/records "
      f"--output={root}/runs/pair/seed0/flow --seed=0",
    )
    self.assertEqual(
      machine.commands[5],
      f"python -m i3d_tf.evaluate --records={root}/data/records --rgb_checkpoint={root}/runs/pair/seed1/rgb "
      f"--flow_checkpoint={root}/runs/pair/seed1/flow --output={root}/runs/pair/seed1/evaluation --split=test",
    )

  def test_results_hold_figures_and_no_paths(self):
    self._run(Machine(), ["pair"], ["1"])
    entry = self._entry("pair", "seed1")
    self.assertEqual(
      entry["flow"]["command"],
      "python -m i3d_tf.train --flagfile=experiments/toys/flow.flags --records=DATA/records "
      "--output=RUNS/pair/seed1/flow --seed=1",
    )
    self.assertEqual(entry["flow"]["recipe"], ["--stream=flow"])
    self.assertBetween(entry["flow"]["seconds"], 0, 5)
    evaluation = entry["evaluation"]
    self.assertEqual(
      evaluation["command"],
      "python -m i3d_tf.evaluate --records=DATA/records --rgb_checkpoint=RUNS/pair/seed1/rgb "
      "--flow_checkpoint=RUNS/pair/seed1/flow --output=RUNS/pair/seed1/evaluation --split=test",
    )
    figures = {"videos": 4, "top1": 0.75, "top5": None, "mean_per_class": 0.7, "cross_entropy": 0.5}
    self.assertEqual(evaluation["results"], dict.fromkeys(("rgb", "flow", "rgb+flow"), figures))
    self.assertEqual(evaluation["machine"], "some")
    self.assertNotIn(str(self.root), self.table_path.with_name("results.json").read_text())
    self.assertEqual(self._entry("pair", "seed0"), {})

  def test_nothing_is_done_twice(self):
    self._run(Machine(), ["pair"])
    self.assertEqual(self._run(Machine(), ["pair"]), [])
    self.assertRegex(self.messages[0], "^2 of 2 experiments are done: .*results.json has what came out. Remove that")
    self.assertLen(self._run(Machine()), 4)
    self.assertStartsWith(self.messages[0], "2 of 4 experiments are done: ")

  def test_goes_on_after_a_failure_and_keeps_what_was_done(self):
    machine = Machine()
    machine.fails = {"pair/seed0/flow --seed": 3}
    with self.assertRaisesRegex(errors.I3dError, "i3d_tf.train ended with status 3"):
      self._run(machine, ["pair"])
    self.assertEqual(set(self._entry("pair", "seed0")), {"rgb"})
    machine.fails = {"i3d_tf.evaluate": 1}
    with self.assertRaisesRegex(errors.I3dError, "i3d_tf.evaluate ended with status 1"):
      self._run(machine, ["pair"])
    self.assertEqual(set(self._entry("pair", "seed0")), {"rgb", "flow"})
    machine.fails = {}
    rest = ["pair/seed0/evaluation", "pair/seed1/rgb", "pair/seed1/flow", "pair/seed1/evaluation"]
    self.assertEqual(self._run(machine, ["pair"]), rest)

  def test_training_in_parts_is_not_timed(self):
    machine = Machine()
    machine.stops_early = True
    with self.assertRaisesRegex(errors.I3dError, "seed0/flow: the training was stopped before its last step"):
      self._run(machine, ["alone"], ["0"])
    self.assertEqual(self._entry("alone", "seed0"), {})
    machine.stops_early = False
    self.assertEqual(self._run(machine, ["alone"], ["0"]), ["alone/seed0/flow", "alone/seed0/evaluation"])
    self.assertIsNone(self._entry("alone", "seed0")["flow"]["seconds"])

  def test_changed_recipe_is_run_anew_with_all_that_follows(self):
    self._run(Machine(), [], ["0"])
    (self.table_path.parent / "rgb.flags").write_text("--stream=rgb\n--num_steps=9\n")
    self.assertEqual(self._run(Machine(), [], ["0"]), ["pair/seed0/rgb", "pair/seed0/evaluation"])
    self.assertEqual(self._entry("pair", "seed0")["rgb"]["recipe"], ["--stream=rgb", "--num_steps=9"])

  def test_old_evaluation_does_not_outlive_its_training(self):
    self._run(Machine(), ["alone"], ["0"])
    (self.table_path.parent / "flow.flags").write_text("--stream=flow\n--num_steps=9\n")
    machine = Machine()
    machine.fails = {"i3d_tf.evaluate": 1}
    with self.assertRaises(errors.I3dError):
      self._run(machine, ["alone"], ["0"])
    self.assertEqual(set(self._entry("alone", "seed0")), {"flow"})

  def test_run_that_is_gone_is_made_again_for_a_new_evaluation(self):
    self._run(Machine(), ["alone"], ["0"])
    shutil.rmtree(self.root / "runs" / "alone")
    self.assertEqual(self._run(Machine(), ["alone"], ["0"]), [])
    self.table_path.write_text(json.dumps({**_TABLE, "evaluate": []}))
    self.assertEqual(self._run(Machine(), ["alone"], ["0"]), ["alone/seed0/flow", "alone/seed0/evaluation"])

  def test_changed_evaluation_is_made_anew_without_training(self):
    self._run(Machine(), ["alone"], ["0"])
    self.table_path.write_text(json.dumps({**_TABLE, "evaluate": ["--split=test", "--num_clips=3"]}))
    self.assertEqual(self._run(Machine(), ["alone"], ["0"]), ["alone/seed0/evaluation"])

  def test_unknown_rows_seeds_and_records_are_named(self):
    for rows, seeds, sentence in (
      (["pears"], [], "only: .*table.json has no 'pears'; it has pair, alone"),
      ([], ["2"], "seeds: .*table.json has no '2'; it has 0, 1"),
    ):
      with self.assertRaisesRegex(errors.I3dError, sentence):
        self._run(Machine(), rows, seeds)
    (self.root / "data" / "records").rmdir()
    with self.assertRaisesRegex(errors.I3dError, "data/records: no such folder of records"):
      self._run(Machine())

  def test_processes_give_their_status(self):
    self.assertEqual(tables.execute(["python", "-c", "raise SystemExit(7)"]), 7)

  def test_process_is_stopped_with_this_one(self):
    child = (
      "import pathlib, signal, sys, time\n"
      f"path = pathlib.Path({str(self.root / 'child')!r})\n"
      "signal.signal(signal.SIGTERM, lambda *_: sys.exit(path.write_text('stopped') and 0))\n"
      "path.write_text('started')\n"
      "while True: time.sleep(0.02)\n"
    )
    script = (
      f"from i3d_tf.evaluation import experiment_tables\nexperiment_tables.execute(['python', '-c', {child!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=_ROOT, stderr=subprocess.DEVNULL)
    while not (self.root / "child").exists() or not (self.root / "child").read_text():
      self.assertIsNone(process.poll())
      time.sleep(0.02)
    process.terminate()
    self.assertNotEqual(process.wait(timeout=30), 0)
    self.assertEqual((self.root / "child").read_text(), "stopped")


if __name__ == "__main__":
  absltest.main()
