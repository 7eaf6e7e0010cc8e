"""One step for every two choices of how it is computed, on batches of the real pipeline, compared with the plain one.

Every pair of choices of two options is tried together (in a dozen steps; the full product would be 384), but those that
are refused: XLA with synchronized batch norm, and float16 on a CPU outside XLA.
"""

import itertools
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import numpy as np
import tensorflow as tf

from i3d_tf import devices
from i3d_tf import testing
from i3d_tf import training
from i3d_tf.models import inception_spec
from i3d_tf.training import distribution
from i3d_tf.training import learner
from i3d_tf.training import step as steps
from i3d_tf.weights import release

_CHOICES = {
  "precision": ("float32", "bfloat16", "float16"),
  "jit_compile": ("off", "on"),
  "accumulation_steps": (1, 2),
  "recompute": (False, True),
  "sync_batch_norm": (False, True),
  "freeze": ("", "Conv3d"),
  "replicas": (1, 2),
  "second": (False, True),
}
_PLAIN = {"precision": "float32", "jit_compile": "off", "recompute": False}  # which change nothing but the rounding
_FEW_ROWS = tuple(row for row in inception_spec.ROWS if row.name in ("1a_7x7", "2a_3x3", "2b_1x1"))
# Of the update of all weights: its difference to the plain step's, relative to its length.
_TOLERANCES = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.2}


def _is_refused(row) -> bool:
  is_compiled = row["jit_compile"] == "on"
  return row["sync_batch_norm"] if is_compiled else row["precision"] == "float16"


def _pairs(row):
  return set(itertools.combinations(row.items(), 2))


def _rows():
  """Rows that together hold every pair of choices that any row holds; the one with most new ones first."""
  rows = [dict(zip(_CHOICES, values)) for values in itertools.product(*_CHOICES.values())]
  rows = [row for row in rows if not _is_refused(row)]
  missing, chosen = set.union(*map(_pairs, rows)), []
  while missing:
    chosen.append(max(rows, key=lambda row: len(_pairs(row) & missing)))
    missing -= _pairs(chosen[-1])
  return chosen


def _steps_of(folder, rows):
  """In a process of its own, since devices are divided at its start: what came of each row and of its plain sibling."""
  two, workers = distribution.make_strategy(2)
  strategies = {1: tf.distribute.MirroredStrategy(["CPU:0"]), 2: two}
  done, batches, found = {}, {}, []
  with mock.patch.object(inception_spec, "ROWS", _FEW_ROWS):
    for row in rows:
      sibling = tuple({**row, **_PLAIN}.items())
      for settings in (sibling, tuple(row.items())):
        if settings not in done:
          done[settings] = _step_of(folder, strategies, workers, batches, **dict(settings))
      found.append((done[tuple(row.items())], done[sibling]))
  return found


def _step_of(folder, strategies, workers, batches, *, replicas, second, **settings):
  """The outcome of a step, whose loss is scaled as a new run's is, how it moved each variable, and what has no kernel.

  `batches` keeps the first two of the pipeline by replicas and data sets, since each pipeline takes seconds.
  """
  strategy = strategies[replicas]
  optimization = training.OptimizationConfig(learning_rate=1e-3, dropout=0.5, **settings)
  run = training.TrainConfig(
      records=str(folder / "records"), output=str(folder / "run"), second_records=str(folder / "more") * second,
      num_steps=1, batch_size=4, width_multiplier=0.05, average_space=True,
  )  # fmt: skip
  clips = training.make_clips("i3d", "rgb", {"num_frames": 9, "crop": 32, "short_side": 36})
  sources = distribution.Sources(run, clips)
  tf.random.set_seed(0)
  learns = learner.Learner(run, optimization, clips, strategy, workers, sources)
  step, scale = learns.make_step(), learns.loss_scale.value
  if (replicas, second) not in batches:
    pipeline = distribution.train_batches(sources, run, clips, strategy, workers, first_batch=0)
    batches[replicas, second] = [next(pipeline) for _ in range(max(_CHOICES["accumulation_steps"]))]
  *firsts, last = batches[replicas, second][: optimization.accumulation_steps]
  before = _values(learns.model)
  parts = [step.accumulate(batch, loss_scale=scale) for batch in firsts]
  parts.append(step.apply(last, rate=1e-3, step=0, loss_scale=scale))
  moved = {name: value - before[name] for name, value in _values(learns.model).items()}
  on_cpu = devices.without_gpu_kernel(step.graph(last)) if tf.test.is_built_with_cuda() else []
  return steps.Outcome(*map(sum, zip(*parts, strict=True))), moved, on_cpu


def _values(model):
  return {name: variable.numpy() for name, variable in release.named_variables(model).items()}


class MatrixTest(absltest.TestCase):
  def test_a_step_is_the_same_however_it_is_computed(self):
    rows = _rows()
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      for records in ("records", "more"):
        testing.write_records(folder / records)
      found = testing.in_own_process(_steps_of, folder, rows)
    for row, ((outcome, moved, on_cpu), (plain_outcome, plain_moved, _)) in zip(rows, found, strict=True):
      with self.subTest(**row):
        self.assertEmpty(on_cpu)  # with a GPU
        tolerance = _TOLERANCES[row["precision"]]
        self.assertEqual((outcome.num_clips, outcome.is_finite), (4 * row["replicas"] * row["accumulation_steps"], 1))
        np.testing.assert_allclose(outcome.loss, plain_outcome.loss, rtol=tolerance / 10)
        trained = [name for name in moved if testing.is_trained(name)]
        for name in trained:
          is_frozen = bool(row["freeze"]) and name.startswith(row["freeze"])
          self.assertEqual(not moved[name].any(), is_frozen, name)
        whole, expected = (np.concatenate([by[name].ravel() for name in trained]) for by in (moved, plain_moved))
        self.assertLess(np.linalg.norm(whole - expected) / np.linalg.norm(expected), tolerance)


if __name__ == "__main__":
  absltest.main()
