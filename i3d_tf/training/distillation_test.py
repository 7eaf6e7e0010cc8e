"""Learning from a teacher: the distance by hand, where its gradient goes, a run with records, and what is refused."""

import dataclasses
import functools
import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf import training
from i3d_tf.models import inception_spec
from i3d_tf.training import distillation
from i3d_tf.training import optimizers
from i3d_tf.training import step as steps
from i3d_tf.training import trainer
from i3d_tf.weights import saved

_CLIP = {"num_frames": 9, "short_side": 32, "crop": 32}
_TINY = {"width_multiplier": 0.05, "average_space": True}
_FEW_ROWS = tuple(row for row in inception_spec.ROWS if row.name in ("1a_7x7", "2a_3x3", "2b_1x1", "3b"))


class DistillationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.object(inception_spec, "ROWS", _FEW_ROWS))
    self._folder = pathlib.Path(self.create_tempdir().full_path)

  @functools.cached_property
  def _records(self):
    testing.write_records(self._folder / "records")
    return self._folder / "records"

  def _teacher(self, **changes):
    """A network of flow in a folder, whose weights a run has not trained."""
    fields = {"stream": "flow", "num_classes": 3, "classes": ("down", "right", "still"), **_TINY, **_CLIP, **changes}
    info = saved.make_info(**fields)
    tf.random.set_seed(1)
    saved.save(self._folder / "teacher", saved.make_model(info), info)
    return str(self._folder / "teacher")

  def _run(self, output: str, **options):
    return trainer.train(
      self._records, self._folder / output, num_steps=3, batch_size=2, seed=3, log_every=1, clips=_CLIP,
      optimization=training.OptimizationConfig(dropout=0.0, learning_rate=0.05), **{**_TINY, **options},
    )  # fmt: skip

  def _lines(self, output: str):
    return [json.loads(line) for line in (self._folder / output / "metrics.jsonl").read_text().splitlines()]

  @parameterized.parameters(("mars", "PooledFeatures", 50), ("logits", "Logits", 1))
  def test_the_loss_is_cross_entropy_and_the_weighted_distance(self, distill, endpoint, weight):
    run = training.TrainConfig(records="r", output="o", num_steps=1, teacher=self._teacher(), distill=distill)
    teacher = distillation.Distillation(run)
    self.assertEqual(teacher.weight, weight)
    student = dataclasses.replace(teacher.info, stream="rgb")
    teacher.load(student, (3,))
    tf.random.set_seed(2)
    model = saved.make_model(student)
    rng = np.random.default_rng(0)
    batch = {name: rng.uniform(-1, 1, (2, 9, 32, 32, channels)).astype(np.float32)
             for name, channels in (("rgb", 3), ("flow", 2))}  # fmt: skip
    batch |= {"label": np.array([0, 2], np.int32), "weight": np.array([1, 0], np.float32),
              "seed": np.zeros([2, 2], np.int32)}  # fmt: skip
    batch = {name: tf.constant(value) for name, value in batch.items()}
    model.freeze(".*batch_norm")  # so that in training and at inference it gives the same
    values = lambda network, stream: network(batch[stream])[1][endpoint].numpy()
    mean = lambda network, stream: values(network, stream).reshape(2, -1, values(network, stream).shape[-1]).mean(1)
    expected = np.mean((mean(model, "rgb") - mean(teacher._model, "flow"))[0] ** 2)
    optimization = training.OptimizationConfig(dropout=0.0, weight_decay=0.0)
    make = lambda teacher: steps.Step(
      model, optimizers.make(optimization, model.trainable_variables), tf.distribute.get_strategy(), optimization,
      streams=("rgb",), batch_size=2, objective=teacher,
    )  # fmt: skip
    alone, taught = (make(each)._loss_and_gradients(batch, 1.0) for each in (None, teacher))
    np.testing.assert_allclose(taught[0][3], expected, rtol=1e-4)
    np.testing.assert_allclose(taught[0][:3], alone[0][:3], rtol=1e-6)
    self.assertEqual(alone[0][3], 0)
    names = [variable.name.partition("/")[2] for variable in model.trained_variables]
    moved = {name for name, one, two in zip(names, alone[1], taught[1]) if np.abs(one - two).max() > 1e-7}
    heads = {name for name in moved if name.startswith("Logits")}
    self.assertEqual(bool(heads), distill == "logits")  # features do not depend on the classifier
    self.assertNotEmpty(moved - heads)

  def test_a_run_learns_from_it_goes_on_and_needs_no_flow_for_validation(self):
    teacher = self._teacher()
    before = {name: value.copy() for name, value in saved.read(teacher)[0].items()}
    for name, options in (("alone", {}), ("taught", {"teacher": teacher, "validation_split": "test"}),
                          ("again", {"teacher": teacher})):  # fmt: skip
      self._run(name, **options)
    alone, taught, again = map(self._lines, ("alone", "taught", "again"))
    distances = [line["distance"] for line in taught if "distance" in line]
    self.assertLen(distances, 3)
    self.assertEqual(distances, [line["distance"] for line in again if "distance" in line])
    self.assertFalse(any("distance" in line for line in alone))
    self.assertGreater(min(distances), 0)
    self.assertNotEqual([line["loss"] for line in alone][1:], [line["loss"] for line in again][1:])
    for name, value in saved.read(teacher)[0].items():
      np.testing.assert_array_equal(value, before[name])
    self.assertEqual(saved.read(self._folder / "taught")[1].stream, "rgb")

  @parameterized.parameters(
    ({"width_multiplier": 0.2}, {}, "features before its classifier, and the student .*distill by logits"),
    ({"num_classes": 2, "classes": ("down", "up")}, {}, "has 2 classes, and the student 3"),
    ({"classes": ("up", "right", "still")}, {}, "has 3 classes, and the student 3, or they have other names"),
    ({"num_frames": 10}, {}, "takes clips with a num_frames of 10, and the student's have 9; both must see the same"),
    ({}, {"second_records": "x"}, "teacher is for one data set"),
  )
  def test_what_does_not_fit_is_refused(self, teacher, options, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      self._run("refused", teacher=self._teacher(**teacher), **options)

  def test_records_without_flow_are_refused(self):
    testing.write_records(self._folder / "rgb_only", streams=("rgb",))
    with self.assertRaisesRegex(errors.I3dError, "the data set has no flow, only rgb"):
      trainer.train(self._folder / "rgb_only", self._folder / "run", num_steps=1, teacher=self._teacher(), clips=_CLIP)
    with self.assertRaisesRegex(errors.I3dError, "distill_weight is 3, but there is no teacher"):
      self._run("refused", distill_weight=3)


if __name__ == "__main__":
  absltest.main()
