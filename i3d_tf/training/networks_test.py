"""A network of every class learns, trains on replicas, goes on where it was, and is evaluated, by the same code."""

import contextlib
import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import testing
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.models import base
from i3d_tf.models import inception_spec
from i3d_tf.models import preprocess
from i3d_tf.models import resnet_spec
from i3d_tf.models import tsn
from i3d_tf.models import x3d
from i3d_tf.models import zoo
from i3d_tf.training import optimizers
from i3d_tf.training import step as steps
from i3d_tf.weights import release
from i3d_tf.weights import saved

# One of each class, for the others of a class differ in tables alone; with both streams at once where it takes them.
_NAMES = {zoo.get(name).constructor: name for name in reversed(zoo.NAMES)}.values()
_STREAMS = {name: zoo.get(name).streams[-1] for name in _NAMES}
_CLIPS = {
    "i3d": {"num_frames": 9}, "c3d": {"num_frames": 4}, "convnet_lstm": {"num_frames": 3},
    "fused_two_stream": {"num_frames": 2, "flow_stack": 4}, "two_stream": {"num_frames": 1, "flow_stack": 4},
    "inception_v1": {"num_frames": 1}, "s3d": {"num_frames": 9}, "x3d_xs": {"num_frames": 2},
    "r3d_18": {"num_frames": 3},
}  # fmt: skip


def _clip(name: str) -> dict[str, int]:
  """A short clip; of a network that is not listed, three frames or as many as it takes."""
  return _CLIPS.get(name) or {"num_frames": min(3, zoo.get(name).training["num_frames"])}


def _few_rows() -> contextlib.ExitStack:
  """Makes networks short, whose many units take long to build, while it is entered."""
  rows = tuple(row for row in inception_spec.ROWS if row.name in ("1a_7x7", "2a_3x3", "2c_3x3", "5c"))
  stack = contextlib.ExitStack()
  stack.enter_context(mock.patch.object(inception_spec, "ROWS", rows))
  for name in ("video_swin_t", "swin_t"):
    stack.enter_context(mock.patch.dict(zoo.get(name).arguments, depths=(2,)))
  stack.enter_context(mock.patch.object(x3d, "STAGES", x3d.STAGES[:1]))
  stack.enter_context(mock.patch.object(resnet_spec, "NUM_BLOCKS", {18: (1, 1), 50: (1,)}))
  stack.enter_context(mock.patch.object(tsn, "_BLOCKS", tsn._BLOCKS[:1]))
  return stack


def _average(name: str) -> dict[str, bool]:
  return {"average_space": True} if "average_space" in zoo.get(name).options else {}


# Those that differ most in what replicas and evaluation ask of them: two towers for two streams, a loss over all steps
# with statistics for each, and rows one after the other. train_test has I3D.
_TRAINED_TWICE = ("fused_two_stream", "convnet_lstm", "r3d_18")


def train_twice_and_evaluate(folder: pathlib.Path, name: str) -> dict:
  """Trains to step 2 on two replicas, goes on to step 4 and evaluates the run; returns the figures.

  In a process of its own, since devices are divided at its start; of each network, since TensorFlow takes the
  collective operations of a second strategy for those of the first.
  """
  from i3d_tf.evaluation import evaluator
  from i3d_tf.training import trainer

  with _few_rows():
    return _train_twice_and_evaluate(evaluator, trainer, folder, name)


def _train_twice_and_evaluate(evaluator, trainer, folder, name):
  stream = _STREAMS[name]
  clips = clip_config.TrainClips(streams=preprocess.STREAMS_OF[stream], short_side=36, crop=32, **_clip(name))
  for num_steps in (2, 4):
    result = trainer.train(
        folder / "records", folder / "run", model=name, stream=stream, num_steps=num_steps, batch_size=2,
        num_logical_cpus=2, width_multiplier=0.05, log_every=1, clips=clips,
        optimization=training.OptimizationConfig(learning_rate=0.01), **_average(name),
    )  # fmt: skip
    assert result.step == num_steps and list(result.metrics) == ["loss", "accuracy"], result
  report = evaluator.evaluate(
      output=str(folder / "out"), records=str(folder / "records"), checkpoints={stream: str(folder / "run")},
      model=name, num_examples=1,
  )  # fmt: skip
  predictions = report.results[stream].predictions
  return {"videos": len(predictions.ids), "failures": list(report.failures), **predictions.made_with["protocol"]}


class NetworksTest(parameterized.TestCase):
  @parameterized.parameters(*_STREAMS)
  def test_it_overfits_eight_clips_and_then_trains_its_classifier_alone(self, name):
    self.enter_context(_few_rows())
    tf.random.set_seed(0)
    options_of = {"width_multiplier": 0.1, "crop": 32, **_average(name), **_clip(name)}
    info = saved.make_info(model=name, stream=_STREAMS[name], num_classes=4, **options_of)
    model = saved.make_model(info, batch_norm_decay=0.8)
    optimization = training.OptimizationConfig(optimizer="adam", dropout=0.0)
    strategy = tf.distribute.get_strategy()
    optimizer = optimizers.make(optimization, model.trainable_variables)
    make_step = lambda: steps.Step(model, optimizer, strategy, optimization, streams=info.streams, batch_size=8)
    step = make_step()
    rng = np.random.default_rng(0)
    channels = info.in_channels if isinstance(info.in_channels, dict) else {info.stream: info.in_channels}
    clips = {
      stream: rng.uniform(-1, 1, [8, info.preprocess.num_frames, 32, 32, count]).astype(np.float32)
      for stream, count in channels.items()
    }
    batch = {
        **clips, "label": tf.range(8) % 4, "weight": tf.ones([8]), "seed": tf.zeros([8, 2], tf.int32),
    }  # fmt: skip
    first = step.apply(batch, rate=5e-3, step=0)
    self.assertGreater(first.loss / 8, 1.0)
    is_learned = False
    for number in range(1, 80):
      last = step.apply(batch, rate=5e-3, step=number)
      # In inference, too, whose averages come later than the batch's statistics.
      if number % 10 == 9 and last.loss / 8 < 0.1:
        logits = model(base.clip_of(batch, info.streams))[0].numpy()
        is_learned = np.array_equal(logits.argmax(1), batch["label"])
      if is_learned:
        break
    self.assertLess(last.loss / 8, 0.1)
    self.assertTrue(is_learned)
    values = lambda: {key: variable.numpy() for key, variable in release.named_variables(model).items()}
    before = values()
    model.freeze(r"(?!((rgb|flow)/)?Logits)")
    make_step().apply(batch, rate=5e-3, step=80)
    changed = {key for key, value in values().items() if not np.array_equal(value, before[key])}
    self.assertEqual(changed, {key for key in before if "Logits" in key})

  @parameterized.parameters(*_TRAINED_TWICE)
  def test_two_steps_on_two_replicas_then_two_more_then_evaluation(self, name):
    folder = pathlib.Path(self.create_tempdir())
    testing.write_records(folder / "records")
    found = testing.in_own_process(train_twice_and_evaluate, folder, name)
    run = folder / "run"
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    self.assertEqual([json.loads(line)["step"] for line in lines], [1, 2, 3, 4])
    info = json.loads((run / "best" / "model.json").read_text(encoding="utf-8"))
    self.assertEqual((info["model"], info["stream"], info["step"]), (name, _STREAMS[name], 4))
    self.assertEqual((found["videos"], found["failures"]), (6, []))
    test = dict(zoo.get(name).test)
    self.assertEqual({key: found[key] for key in test}, test)


if __name__ == "__main__":
  absltest.main()
