"""Experiments are run once, go on after an interruption, and leave no path of the machine in their results."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from absl.testing import absltest

from i3d_tf import errors
from i3d_tf.evaluation import experiment_runs as runs
from i3d_tf.evaluation import experiment_tables as tables

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
    chosen = runs.choose(table, rows, seeds)
    before = len(machine.commands)
    self.messages = []
    folders = {"data": str(self.root / "data"), "output": str(self.root / "runs")}
    try:
      runs.run(table, chosen, **folders, run_command=machine, on_message=self.messages.append)
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
    self.assertEqual(runs.execute(["python", "-c", "raise SystemExit(7)"]), 7)

  def test_process_is_stopped_with_this_one(self):
    child = (
      "import pathlib, signal, sys, time\n"
      f"path = pathlib.Path({str(self.root / 'child')!r})\n"
      "signal.signal(signal.SIGTERM, lambda *_: sys.exit(path.write_text('stopped') and 0))\n"
      "path.write_text('started')\n"
      "while True: time.sleep(0.02)\n"
    )
    script = f"from i3d_tf.evaluation import experiment_runs as runs\nruns.execute(['python', '-c', {child!r}])\n"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=_ROOT, stderr=subprocess.DEVNULL)
    while not (self.root / "child").exists() or not (self.root / "child").read_text():
      self.assertIsNone(process.poll())
      time.sleep(0.02)
    process.terminate()
    self.assertNotEqual(process.wait(timeout=30), 0)
    self.assertEqual((self.root / "child").read_text(), "stopped")


if __name__ == "__main__":
  absltest.main()
