"""The program: killed and resumed, stopped, out of disk, on two workers, frozen, and with bad input."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import tempfile
import time
from unittest import mock

from absl.testing import absltest
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf import training
from i3d_tf.models import inception_spec
from i3d_tf.training import trainer
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

_SMALL = (
    "--records=records", "--model=c3d", "--width_multiplier=0.05", "--crop=32", "--short_side=36", "--num_frames=4",
    "--batch_size=2", "--learning_rate=0.01", "--log_every=1",
)  # fmt: skip
_I3D = ("--model=i3d", "--average_space", "--num_frames=9")
# The program, slow enough to be caught at a step.
_SLOW = """
import importlib, time
from i3d_tf import cli
train = importlib.import_module("i3d_tf.train")
cli.import_tensorflow(quiet=True)
from i3d_tf.training import run_folder
monitor_step = run_folder.Monitor.step
run_folder.Monitor.step = lambda *a, **b: (time.sleep(0.1), monitor_step(*a, **b))
train.run()
"""


class RunTest(absltest.TestCase):
  """Runs the program in this process, in a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(self.folder)
    testing.write_records(self.folder / "records")

  def _run(self, *flags: str) -> testing.Finished:
    return testing.run_main("train", *_SMALL, *flags)

  def _train(self, *flags: str) -> str:
    """Runs to the end; returns what was printed."""
    finished = self._run(*flags)
    self.assertEqual(finished.status, 0, finished.stderr)
    return finished.stdout

  def _fails(self, *flags: str) -> str:
    """Runs to an error; returns the sentence."""
    finished = self._run(*flags)
    self.assertEqual(finished.status, 1, finished.stderr)
    self.assertNotIn("Traceback", finished.stderr)
    *_, last = finished.stderr.strip().splitlines()
    self.assertRegex(last, "^(-c|train): error: ")
    return last

  def _metrics(self, run: str) -> list[dict]:
    path = self.folder / run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]

  def _wait_for(self, run: str, process: testing.Program, *, steps: int) -> None:
    """Until the process has told of `steps` steps of its own."""
    start = len(self._metrics(run))
    while process.poll() is None and len(self._metrics(run)) < start + steps:
      time.sleep(0.01)

  def _state(self, run: str) -> dict[str, np.ndarray]:
    """Everything in the newest checkpoint, save what is not the same twice."""
    path = tf.train.latest_checkpoint(os.fspath(self.folder / run / "checkpoints"))
    self.assertIsNotNone(path)
    reader = tf.train.load_checkpoint(path)
    names = set(reader.get_variable_to_shape_map()) - set(_BOOKKEEPING)
    return {name: np.asarray(reader.get_tensor(name)) for name in sorted(names)}

  def _assert_same_state(self, run: str, other: str) -> None:
    expected, actual = self._state(other), self._state(run)
    self.assertEqual(actual.keys(), expected.keys())
    for name, value in expected.items():
      np.testing.assert_array_equal(actual[name], value, name)


class ProcessTest(RunTest):
  """Runs the program in processes of its own."""

  def _start(self, *flags: str, program: str = _SLOW, **environment: str) -> testing.Program:
    return testing.Program(program, *_SMALL, *flags, folder=self.folder, environment=environment)

  def _run(self, *flags: str, program: str = _SLOW) -> testing.Finished:
    return self._start(*flags, program=program).finish()


class TrainTest(ProcessTest):
  def test_killed_and_resumed_it_ends_in_the_same_bits(self):
    num_steps = max(20, 6 * testing.NUM_KILLS)  # more than are done between two kills
    flags = (f"--num_steps={num_steps}", "--save_every=3", "--deterministic", "--validation_split=test",
             "--validate_every=8")  # fmt: skip
    self._train(*flags, "--output=whole")
    rng = random.Random(0)
    for _ in range(testing.NUM_KILLS):
      process = self._start(*flags, "--output=parts")
      self._wait_for("parts", process, steps=rng.randint(1, 5))
      process.send_signal(signal.SIGKILL)
      process.finish()
    output = self._train(*flags, "--output=parts")
    self.assertRegex(output, r"Going on from step \d+ of parts")
    self._assert_same_state("parts", "whole")
    steps = [line["step"] for line in self._metrics("parts") if "loss" in line]
    self.assertEqual(steps, list(range(1, num_steps + 1)))
    losses = [[line["loss"] for line in self._metrics(run) if "loss" in line] for run in ("parts", "whole")]
    self.assertEqual(*losses)
    self.assertEqual(*(saved.find(self.folder / run)[0] for run in ("parts", "whole")))

  def test_told_to_stop_it_saves_and_goes_on_later(self):
    flags = ("--num_steps=24", "--deterministic", "--stream=flow", "--accumulation_steps=2")
    self._train(*flags, "--output=whole")
    process = self._start(*flags, "--output=parts")
    self._wait_for("parts", process, steps=3)
    process.send_signal(signal.SIGTERM)
    finished = process.finish()
    self.assertEqual(finished.status, 0, finished.stderr)
    self.assertRegex(finished.stdout, r"Stopped at step \d+ and saved; the same command goes on from there\n$")
    stopped = json.loads(_progress(self.folder / "parts"))["step"]
    self.assertBetween(stopped, 3, 20)
    process = self._start(*flags, "--output=parts")
    self._wait_for("parts", process, steps=1)
    process.send_signal(signal.SIGINT)  # after which a script does not go on
    finished = process.finish()
    self.assertRegex(finished.stdout, f"Going on from step {stopped}(.|\n)*Stopped at step ")
    self.assertEqual((finished.status, finished.stderr.strip().splitlines()[-1]), (1, "-c: error: interrupted"))
    self._train(*flags, "--output=parts")
    self._assert_same_state("parts", "whole")
    self.assertRegex(self._train(*flags, "--output=parts"), "all 24 steps are done")
    self.assertRegex(
      self._fails(*flags, "--num_steps=3", "--output=parts"), "parts stands at step 24, beyond num_steps, 3; give "
    )

  def test_told_to_stop_while_it_validates_it_saves_and_validates_later(self):
    flags = ("--num_steps=4", "--deterministic", "--validation_split=test", "--validate_every=2")
    self._train(*flags, "--output=whole")
    asked = _SLOW.replace(
      "train.run()",
      "import os, signal\n"
      "from i3d_tf.training import step\n"
      "measure = step.Validation.measure\n"
      "def asked(self, *a):\n"
      "  os.kill(os.getpid(), signal.SIGTERM)\n"
      "  return measure(self, *a)\n"
      "step.Validation.measure = asked\n"
      "train.run()",
    )
    for step in (2, 4):  # the last step, too
      finished = self._run(*flags, "--output=parts", program=asked)
      self.assertEqual(finished.status, 0, finished.stderr)
      self.assertIn(f"Stopped at step {step} and saved", finished.stdout)
      self.assertEmpty([line for line in self._metrics("parts") if line["step"] == step and "validation_loss" in line])
      if step == 2:
        self.assertEmpty(list(self.folder.glob("parts/best/*")))
        self._train(*flags, "--num_steps=3", "--output=parts")
    self._train(*flags, "--output=parts")
    measured = [[line for line in self._metrics(run) if "validation_loss" in line] for run in ("parts", "whole")]
    self.assertEqual([line["step"] for line in measured[1]], [2, 4])
    self.assertEqual([line for line in measured[0] if line["step"] != 3], measured[1])
    self._assert_same_state("parts", "whole")

  def test_a_full_disk_ends_it_and_leaves_the_checkpoint_before(self):
    flags = ("--num_steps=40", "--save_every=4", "--keep_checkpoints=9", "--output=run")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
    slow = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + _SLOW
    patch = slow.replace(
      "train.run()",
      "from i3d_tf.training import learner\n"
      "save, saves = learner.Learner.save, []\n"
      "def limited(self):\n"
      "  saves.append(0)\n"
      f"  if len(saves) == 3:\n    {limit}"
      "  save(self)\n"
      "learner.Learner.save = limited\n"
      "train.run()",
    )
    finished = self._run(*flags, program=patch)
    self.assertEqual(finished.status, 1, finished.stderr)
    self.assertRegex(
      finished.stderr, "the checkpoint of step 12 cannot be written to run/checkpoints: .*ckpt-8 is whole"
    )
    left = sorted({path.stem for path in (self.folder / "run" / "checkpoints").iterdir()})
    self.assertEqual(left, ["checkpoint", "ckpt-4", "ckpt-8"])
    self.assertRegex(self._train(*flags, "--num_steps=10"), "Going on from step 8")

  def test_two_workers_equal_two_replicas_of_one(self):
    # A low rate and few steps, since rounding grows about tenfold with every step of batch norm over so few clips.
    flags = (
        "--num_steps=3", "--batch_size=4", "--learning_rate=0.001", "--sync_batch_norm", "--dropout=0.5",
        "--validation_split=test",
    )  # fmt: skip
    self._train(*flags, "--output=one", "--num_logical_cpus=2", "--data_shards=2")
    cluster = {"worker": [f"127.0.0.1:{_free_port()}" for _ in range(2)]}
    configs = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    workers = [self._start(*flags, "--output=two", TF_CONFIG=config) for config in configs]
    for worker in workers:
      finished = worker.finish()
      self.assertEqual(finished.status, 0, finished.stderr)
    one, two = self._state("one"), self._state("two")
    self.assertEqual(two.keys(), one.keys())
    for name, value in one.items():
      if value.dtype == np.float32:
        np.testing.assert_allclose(two[name], value, rtol=0, atol=1e-3 * np.abs(value).max(), err_msg=name)
    for one, two in zip(self._metrics("one"), self._metrics("two"), strict=True):
      for name in {"loss", "accuracy", "validation_loss", "validation_accuracy"} & one.keys():
        self.assertAlmostEqual(one[name], two[name], places=4)

  def test_a_worker_is_killed_and_all_that_start_again_end_in_the_same_weights(self):
    flags = ("--num_steps=14", "--save_every=3", "--deterministic", "--dropout=0.5", "--validation_split=test")

    def start(output: str) -> list[testing.Program]:
      cluster = {"worker": [f"127.0.0.1:{_free_port()}" for _ in range(2)]}
      configs = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
      return [self._start(*flags, f"--output={output}", TF_CONFIG=config) for config in configs]

    for worker in start("whole"):
      finished = worker.finish()
      self.assertEqual(finished.status, 0, finished.stderr)
    chief, other = start("parts")
    self._wait_for("parts", chief, steps=5)
    other.send_signal(signal.SIGKILL)
    other.finish()
    finished = chief.finish()
    self.assertEqual(finished.status, 1, finished.stderr)
    self.assertRegex(finished.stderr, "another worker, or the tf.data service, is gone .* start all workers again, and")
    outputs = []
    for worker in start("parts"):
      finished = worker.finish()
      self.assertEqual(finished.status, 0, finished.stderr)
      outputs.append(finished.stdout)
    self.assertRegex(outputs[0], r"Going on from step \d+ of parts")
    self._assert_same_state("parts", "whole")
    losses = [
      [(line["step"], line["loss"]) for line in self._metrics(run) if "loss" in line] for run in ("parts", "whole")
    ]
    self.assertEqual(*losses)

  def test_batches_of_a_data_service_and_a_profile(self):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    worker = service.WorkerServer(service.WorkerConfig(dispatcher.target.split("://")[1]))
    self._train("--num_steps=4", "--output=own", "--deterministic")
    self._train(
        "--num_steps=4", "--output=served", "--deterministic", f"--data_service={dispatcher.target}",
        "--profile_steps=2,3",
    )  # fmt: skip
    del worker
    self._assert_same_state("served", "own")
    self.assertNotEmpty(list((self.folder / "served").glob("plugins/profile/*/*.xplane.pb")))

  def test_a_second_data_set_has_classes_of_its_own_and_leaves_none_in_the_network(self):
    testing.write_records(self.folder / "others")
    output = self._train(
      "--num_steps=3", "--output=run", "--second_records=others", "--validation_split=test", "--num_logical_cpus=2"
    )
    self.assertIn("12 train videos of 3 classes and 12 train videos of 3 classes; batches of 2 clips", output)
    state = self._state("run")
    bias = state["model/_classifier/conv_3d/b/.ATTRIBUTES/VARIABLE_VALUE"]
    self.assertEqual(bias.shape, (6,))
    self.assertTrue((bias != 0).all())  # both data sets' classes have learnt
    with open(self.folder / "run" / "best" / "model.json", encoding="utf-8") as file:
      info = json.load(file)
    self.assertEqual((info["num_classes"], info["classes"]), (3, ["down", "right", "still"]))
    values = tensorflow1.read(os.fspath(self.folder / "run" / "best" / info["checkpoint"]))
    (kept,) = [value for name, value in values.items() if name.startswith("Logits") and value.ndim == 1]
    np.testing.assert_array_equal(kept, bias[:3])


class OptionsTest(RunTest):
  def test_the_folder_of_a_run_of_the_whole_network(self):
    output = self._train(*_I3D, "--num_steps=2", "--output=run", "--validation_split=test")
    self.assertRegex(output, "12 train videos of 3 classes; batches of 2 clips on 1 replica, 1 a step")
    self.assertRegex(output, r"step 2: validation loss \d")
    run = self.folder / "run"
    model, info = saved.load(run)
    self.assertEqual((info.model, info.stream, info.step, info.dataset), ("i3d", "rgb", 2, "noise"))
    self.assertEqual(info.classes, ("down", "right", "still"))
    self.assertLen(model.variables, 230)
    self.assertLen((run / "variables.txt").read_text().splitlines(), 230)
    self.assertIn("mirror with probability 0.5", (run / "input_steps.txt").read_text())
    self.assertIn("tensorflow\t2.", (run / "versions.txt").read_text())
    # flags.txt starts the same run.
    with mock.patch.object(trainer, "train") as train:
      finished = testing.run_main("train", "--flagfile=run/flags.txt", "--output=again")
    self.assertEqual(finished.status, 0, finished.stderr)
    given = train.call_args.kwargs
    again = {**given, **dataclasses.asdict(given["optimization"]), **dataclasses.asdict(given["clips"])}
    options = json.loads((run / "options.json").read_text()) | {"output": "again"}
    self.assertEqual(options.pop("num_replicas"), 1)
    self.assertEqual(json.loads(json.dumps({name: again[name] for name in options})), options)

  def test_what_is_frozen_thaws_at_its_step_and_a_saturated_loss_lowers_the_rate(self):
    flags = (
        "--freeze=(?!Logits)", "--unfreeze_step=2", "--output=run", "--schedule=plateau", "--plateau_patience=1",
        "--learning_rate=1e-9", "--validation_split=test", "--validate_every=1",
    )  # fmt: skip
    moved = []
    for num_steps in (2, 3):
      self._train(*flags, f"--num_steps={num_steps}")
      slots = [value for name, value in self._state("run").items() if name.startswith("optimizer/slots/0/")]
      moved.append(sum(value.any() for value in slots))
    self.assertEqual(moved, [2, len(slots)])
    self.assertGreater(len(slots), 2)
    rates = [line["rate"] for line in self._metrics("run") if "rate" in line]
    np.testing.assert_allclose(rates, [1e-9, 1e-9, 1e-10])  # the first validation has nothing to be compared with

  def test_a_compiled_step_takes_the_batches_of_the_pipeline(self):
    # Of few rows, whose batch norm sees many positions: where it sees two, rounding grows tenfold in every step.
    few = tuple(row for row in inception_spec.ROWS if row.name in ("1a_7x7", "2a_3x3", "3b"))
    for compiled in ("on", "off"):
      with mock.patch.object(inception_spec, "ROWS", few):
        self._train(*_I3D, "--num_steps=20", f"--output={compiled}", f"--jit_compile={compiled}")
    losses = [[line["loss"] for line in self._metrics(run)] for run in ("on", "off")]
    self.assertLen(losses[0], 20)
    np.testing.assert_allclose(*losses, rtol=1e-3)

  def test_the_library_returns_what_it_trained_and_prints_nothing(self):
    run = functools.partial(
        trainer.train, "records", self.folder / "run", model="c3d", width_multiplier=0.05, batch_size=2,
        validation_split="test", clips={"num_frames": 4, "crop": 32, "short_side": 36},
        optimization=training.OptimizationConfig(learning_rate=0.01),
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
      result = run(num_steps=2)
      again = run(num_steps=2)
    self.assertEqual(output.getvalue(), "")
    self.assertEqual((result.step, result.output), (2, os.fspath(self.folder / "run")))
    (measured,) = [line for line in self._metrics("run") if "validation_loss" in line]
    self.assertEqual(result.metrics, {name: measured[name] for name in ("validation_loss", "validation_accuracy")})
    self.assertEqual(saved.load(result.network)[1].step, 2)
    self.assertEqual(again, result)
    with self.assertRaisesRegex(errors.I3dError, "stands at step 2, beyond num_steps, 1"):
      run(num_steps=1)

  def test_a_damaged_run_goes_on_from_the_newest_checkpoint_that_is_whole(self):
    flags = ("--num_steps=4", "--save_every=2", "--keep_checkpoints=9", "--log_every=3", "--dropout=0")
    self._train(*flags, "--output=whole")
    folder = self.folder / "run" / "checkpoints"
    cut = lambda path: path.write_bytes(path.read_bytes()[:-1000])
    for name, damage, first_step in (
      ("checkpoint", pathlib.Path.unlink, 4),
      ("checkpoint", lambda path: path.write_bytes(b"\xff{"), 4),
      ("checkpoint", lambda path: path.write_bytes(b""), 4),
      ("ckpt-4.index", lambda path: path.write_bytes(b"damaged"), 2),
      ("ckpt-4.index", pathlib.Path.unlink, 2),
      ("ckpt-4.data-00000-of-00001", cut, 2),
      ("ckpt-4.data-00000-of-00001", pathlib.Path.unlink, 2),
    ):
      with self.subTest(f"{name}, {first_step}"):
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        shutil.copytree(self.folder / "whole", self.folder / "run")
        damage(folder / name)
        (folder / "ckpt-4_temp").mkdir()  # as a process leaves it that is killed while it saves
        output = self._train(*flags, "--output=run")
        if first_step == 4:
          self.assertIn("all 4 steps are done", output)
        else:
          self.assertRegex(output, r"Warning: \S+ckpt-4 cannot be restored \(.*\); ckpt-2 is the newest that can")
          self.assertIn("Going on from step 2 of run", output)
        losses = [[(line["step"], line["loss"]) for line in self._metrics(run)] for run in ("run", "whole")]
        self.assertEqual([step for step, _ in losses[0]], [3, 4])
        np.testing.assert_allclose(*losses, rtol=1e-4)
        self.assertEmpty(list(folder.glob("*_temp")))
    for path in folder.glob("ckpt-*.index"):
      path.write_bytes(b"damaged")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    self.assertRegex(self._fails(*flags, "--output=run"), "ckpt-4 cannot.*ckpt-2 cannot.*; no other one is there to go")
    self.assertEqual({path: path.read_bytes() for path in folder.iterdir()}, before)
    for content in ("", "[]", '{"a": '):
      (self.folder / "run" / "options.json").write_text(content)
      self.assertRegex(self._fails(*flags, "--output=run"), "run/options.json: it is damaged; put a copy back")

  def test_another_run_s_weights_start_this_one(self):
    self._train("--num_steps=2", "--output=rgb")
    output = self._train("--num_steps=2", "--output=flow", "--stream=flow", "--initial_checkpoint=rgb")
    self.assertIn("The first kernel is the mean of rgb's over its 3 inputs.", output)


class BadInputTest(RunTest):
  """Each is one sentence, and leaves no run behind."""

  def _assert_refused(self, sentence: str, *flags: str) -> None:
    self.assertRegex(self._fails("--num_steps=2", "--output=run", *flags), sentence)
    self.assertEmpty(list(self.folder.glob("run/best/*")) + list(self.folder.glob("run/checkpoints/*")))

  def test_records(self):
    (self.folder / "empty").mkdir()
    self._assert_refused("empty: the folder holds no TFRecords", "--records=empty")
    path = self.folder / "records" / "train-00000-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-9])
    self._assert_refused("train-00000.*record 5", "--records=records")

  def test_streams_and_splits(self):
    testing.write_records(self.folder / "rgb", streams=("rgb",))
    self._assert_refused("flow", "--records=rgb", "--stream=flow")
    self._assert_refused("no split 'val'; there are test, train", "--split=val")
    self._assert_refused("with second_records it must be even", "--second_records=rgb", "--batch_size=3")

  def test_what_a_network_does_not_take(self):
    self._assert_refused("joint.* c3d takes rgb or flow", "--stream=joint")
    self._assert_refused("average_space is not an option of c3d", "--average_space")
    message = "does not take these clips: clip has "
    self._assert_refused(f"{message}8 frames; Logits needs at least 9", *_I3D, "--num_frames=8")
    self._assert_refused(f"{message}height 32; Logits needs 193", *_I3D, "--noaverage_space")

  def test_labels_out_of_range(self):
    info = json.loads((self.folder / "records" / "dataset.json").read_text())
    (self.folder / "records" / "dataset.json").write_text(json.dumps({**info, "classes": ["down", "right"]}))
    self._assert_refused("label is 2, out of the range of the 2 classes", "--learning_rate=1e-6")
    # Unless so many are allowed to be left out.
    self._train("--num_steps=3", "--output=other", "--allow_unreadable=4", "--learning_rate=1e-6")

  def test_what_leaves_nothing_to_learn(self):
    self._assert_refused("freeze is 'conv|fc|Logits'; it leaves nothing of c3d to train", "--freeze=conv|fc|Logits")
    self._assert_refused(
        "batch_size is 1; convnet_lstm normalises over the clips of a batch and needs at least 2",
        "--model=convnet_lstm", "--batch_size=1",
    )  # fmt: skip

  def test_what_is_in_the_way(self):
    self._train("--num_steps=1", "--output=old")
    self.assertRegex(
      self._fails("--num_steps=1", "--output=old", "--seed=3", "--batch_size=3"),
      "old was made with other parameters .*(batch_size was 2, is 3; seed was 0, is 3|seed was 0, is 3)",
    )
    self.assertRegex(
      self._fails("--num_steps=1", "--output=records"),
      "records holds .*, but no options.json that says how it was made",
    )

  def test_checkpoints_of_others(self):
    self._train("--num_steps=1", "--output=old")
    self._assert_refused(
        "old has a width_multiplier of 0.05, and the network that is to start from it one of 0.1: it does not fit$",
        "--initial_checkpoint=old", "--width_multiplier=0.1",
    )  # fmt: skip
    self._assert_refused("no checkpoint at nowhere", "--initial_checkpoint=nowhere")

  def test_a_loss_that_is_not_finite(self):
    flags = ("--num_steps=9", "--output=run", "--save_every=2", "--schedule=piecewise", "--rate_boundaries=3")
    sentence = self._fails(*flags, "--rates=1e-3,1e30")
    self.assertRegex(sentence, r"not finite at step \d .*clips of the batch: train/\d/\d, train/\d/\d; checkpoints")
    values = [value for value in self._state("run").values() if value.dtype == np.float32]
    self.assertTrue(all(np.isfinite(value).all() for value in values))

  def test_flags(self):
    for flag, sentence in (
      ("--learning_rat=1", "unknown flag --learning_rat; did you mean --learning_rate?"),
      ("--lr=1", "unknown flag --lr; did you mean --learning_rate?"),
      ("--crop=0", "--crop=0: 0 is not a positive integer"),
      ("--rates=0.1,x", "--rates=0.1,x: it takes numbers"),
      ("--schedule=piecewise", "one more of rates"),
      ("--precision=float16", "float16 needs a GPU"),
    ):
      self.assertIn(sentence, self._fails("--num_steps=1", "--output=run", flag))
    self.assertFalse((self.folder / "run").exists())


def _free_port() -> int:
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


_PROGRESS = "progress/.ATTRIBUTES/py_state"
_BOOKKEEPING = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE")


def _progress(run: pathlib.Path) -> str:
  return tf.train.load_checkpoint(tf.train.latest_checkpoint(os.fspath(run / "checkpoints"))).get_tensor(_PROGRESS)


if __name__ == "__main__":
  absltest.main()
