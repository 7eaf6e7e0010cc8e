"""Runs a table of experiments and writes down what came out. See `--help`."""

import functools

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf.evaluation import experiment_tables as tables

USAGE = """Runs the trainings and evaluations of a table of experiments, one after the other.

  python -m i3d_tf.experiments --table=experiments/synthetic/table.json --data=DATA --output=RUNS
  python -m i3d_tf.experiments --table=experiments/synthetic/table.json --render=experiments/RESULTS.md

DATA holds the folders of records that the table names (it says how they are made). RUNS gets a folder for each row and
repeat of the table, with the runs of train in rgb/ and flow/ and the report of evaluate in evaluation/. Figures,
commands, seconds, machine and versions go to results.json beside the table. What is done is not done again: the same
command goes on after an interruption. A recipe that has changed is run anew, once its old run is out of the way."""

FLAGS = flags.FLAGS
flags.DEFINE_string(
  "table",
  None,
  "The table, a JSON file; i3d_tf/evaluation/experiment_tables.py says what is in it.",
  required=True,
)
flags.DEFINE_string("data", None, "Folder with the table's folders of records.")
flags.DEFINE_string("output", None, "Folder for the runs; made if it is not there.")
flags.DEFINE_list("only", [], "Rows to run; all by default.")
flags.DEFINE_list("seeds", [], "Seeds to run, among the table's; all by default.")
flags.DEFINE_string("render", None, "Page of Markdown to write the table's section to, after what there is to run.")


def main(arguments: list[str]) -> None:
  del arguments
  if bool(FLAGS.data) != bool(FLAGS.output) or not (FLAGS.data or FLAGS.render):
    raise errors.I3dError("give --data and --output to run the table, --render to write its page, or all of them")
  table = tables.load(FLAGS.table)
  chosen = tables.choose(table, FLAGS.only, FLAGS.seeds)
  say = functools.partial(print, flush=True)
  if FLAGS.data:
    tables.run(table, chosen, data=FLAGS.data, output=FLAGS.output, run_command=tables.execute, on_message=say)
  if FLAGS.render:
    tables.insert(FLAGS.render, table, tables.render(table, tables.Results(table.results_path)))


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
