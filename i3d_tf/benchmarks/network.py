"""Seconds per clip of a network, beside the rate at which this machine multiplies matrices."""

from collections.abc import Callable
import contextlib
import dataclasses
import inspect
import pathlib
import statistics
import subprocess
import tempfile

import sonnet as snt
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from i3d_tf import benchmarks
from i3d_tf import errors
from i3d_tf import resources
from i3d_tf.models import base
from i3d_tf.models import preprocess
from i3d_tf.training import step as step_lib
from i3d_tf.weights import saved

_CLASSES = 400
_MATRIX = 4096  # large enough that the product's rate no longer grows with it


@dataclasses.dataclass(frozen=True)
class NetworkBenchmark:
  """What to measure.

  Attributes:
    rounds: rounds that are counted.
    batch: clips per batch.
    clip: what a clip is.
    model, stream: a network of the zoo and one of its streams.
    average_space: lets a network that has this option take clips of any height and width.
    openvino: a Python interpreter that has OpenVINO, to time the same graph there; None: OpenVINO is not timed.
  """

  rounds: int
  batch: int
  clip: preprocess.Preprocess
  model: str = "i3d"
  stream: str = "rgb"
  average_space: bool = False
  openvino: str | None = None


@dataclasses.dataclass(frozen=True)
class NetworkReport:
  """Medians over the rounds; a ratio is the median of the ratios of each round.

  The ratio of the forward pass to the matrix product is one of multiply-adds per second: 1 means that the network runs
  at the rate of the product. Memory is the peak of the process in bytes after each stage. Parameters are the trained
  values, for 400 classes.
  """

  machine: str
  tensorflow: str
  model: str
  stream: str
  shape: tuple[int, ...]
  parameters: int
  giga_multiply_adds: float
  matrix_product_gmac_per_second: float
  forward_seconds: float
  forward_ratio_to_matrix_product: float
  forward_peak_bytes: int
  train_seconds: float
  train_ratio_to_forward: float
  train_peak_bytes: int
  openvino_seconds: float | None = None
  forward_ratio_to_openvino: float | None = None

  def __str__(self) -> str:
    """The report as lines of text."""
    clip = "x".join(map(str, self.shape))
    lines = [
      f"machine                {self.machine}; TensorFlow {self.tensorflow}",
      f"network                {self.model}, {self.stream}, {self.parameters / 1e6:.2f} M parameters",
      f"clip                   {clip}, {self.giga_multiply_adds:.2f} G multiply-adds forward",
      f"matrix product         {self.matrix_product_gmac_per_second:.1f} G multiply-adds/s",
      f"forward                {self.forward_seconds:.3f} s, {self.forward_ratio_to_matrix_product:.2f} of the "
      f"matrix product's rate, peak memory {self.forward_peak_bytes / 1e9:.2f} GB",
      f"training step          {self.train_seconds:.3f} s, {self.train_ratio_to_forward:.2f} forward passes, "
      f"peak memory {self.train_peak_bytes / 1e9:.2f} GB",
    ]
    if self.openvino_seconds is not None:
      ratio = self.forward_ratio_to_openvino
      lines.append(f"OpenVINO forward       {self.openvino_seconds:.3f} s; ours takes {ratio:.3f} of its time")
    return "\n".join(lines)


def measure(options: NetworkBenchmark) -> NetworkReport:
  """Returns measurements of a network's forward pass and training step; takes a few seconds per round.

  Args:
    options: what to measure.

  Raises:
    I3dError: if the network does not take such clips, or OpenVINO cannot be run.
  """
  info = saved.ModelInfo(
      model=options.model, stream=options.stream, num_classes=_CLASSES, average_space=options.average_space,
      preprocess=options.clip,
  )  # fmt: skip
  model = saved.make_model(info)
  shapes = _shapes(info, options.batch)
  specs = base.clip_of({stream: tf.TensorSpec(shape) for stream, shape in shapes.items()}, info.streams)
  _check(options, model, specs)
  clips = {s: tf.random.stateless_uniform(shape, seed=[0, 1], minval=-1, maxval=1) for s, shape in shapes.items()}
  clip = base.clip_of(clips, info.streams)
  forward = tf.function(lambda: model(clip)[0]).get_concrete_function()
  train = _train_step(model, clip)
  with _openvino(options.openvino, model, specs) as openvino:
    forward()
    forward_peak = benchmarks.peak_memory_bytes()
    train()
    train_peak = benchmarks.peak_memory_bytes()
    tasks = {"matrix": _waiting(_matrix_product()), "forward": _waiting(forward), "train": _waiting(train)}
    if openvino is not None:
      tasks["openvino"] = openvino
    seconds = benchmarks.in_turn(tasks, options.rounds)
  work = base.multiply_adds(lambda clip: model(clip, is_training=True)[0], specs) / 1e9
  product = _MATRIX**3 / 1e9
  return NetworkReport(
    machine=resources.machine(),
    tensorflow=tf.__version__,
    model=options.model,
    stream=options.stream,
    shape=tuple(shapes[info.streams[-1]]),
    parameters=sum(variable.shape.num_elements() for variable in model.trainable_variables),
    giga_multiply_adds=work,
    matrix_product_gmac_per_second=product / statistics.median(seconds["matrix"]),
    forward_seconds=statistics.median(seconds["forward"]),
    forward_ratio_to_matrix_product=work / product * benchmarks.median_ratio(seconds["matrix"], seconds["forward"]),
    forward_peak_bytes=forward_peak,
    train_seconds=statistics.median(seconds["train"]),
    train_ratio_to_forward=benchmarks.median_ratio(seconds["train"], seconds["forward"]),
    train_peak_bytes=train_peak,
    openvino_seconds=statistics.median(seconds["openvino"]) if openvino else None,
    forward_ratio_to_openvino=benchmarks.median_ratio(seconds["forward"], seconds["openvino"]) if openvino else None,
  )


def _matrix_product() -> Callable[[], tf.Tensor]:
  a, b = (tf.random.stateless_normal([_MATRIX, _MATRIX], seed=[seed, 0]) for seed in (2, 3))
  return tf.function(lambda: tf.matmul(a, b)).get_concrete_function()


def _shapes(info: saved.ModelInfo, batch: int) -> dict[str, list[int]]:
  clip = info.preprocess
  return {stream: [batch, clip.num_frames, clip.crop, clip.crop, number] for stream, number in info.channels.items()}


def _check(options: NetworkBenchmark, model: base.Network, specs) -> None:
  try:
    model.check(specs)
  except ValueError as error:
    raise errors.I3dError(f"{options.model} does not take these clips: {error}") from None
  if options.openvino is not None and isinstance(specs, dict):
    raise errors.I3dError(f"openvino is for networks of one stream; {options.model} takes {' and '.join(specs)}")


def _train_step(model: base.Network, clip) -> Callable[[], tf.Tensor]:
  labels = tf.range(tf.nest.flatten(clip)[0].shape[0]) % model.num_classes
  optimizer = snt.optimizers.Momentum(learning_rate=1e-3, momentum=0.9)

  @tf.function
  def step() -> tf.Tensor:
    with tf.GradientTape() as tape:
      _, endpoints = model(clip, is_training=True, dropout_keep_prob=0.5)
      loss = tf.reduce_mean(step_lib.cross_entropy(endpoints[model.LOSS], labels))
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, variables), variables)
    return loss

  return step


def _waiting(function: Callable[[], tf.Tensor]) -> Callable[[], None]:
  """Wraps `function` to wait for its value, since on a GPU a call returns before the value is there."""

  def task() -> None:
    outputs = function()
    tf.nest.map_structure(lambda tensor: tensor.numpy(), outputs)

  return task


@contextlib.contextmanager
def _openvino(interpreter: str | None, model: base.Network, spec: tf.TensorSpec):
  """Yields a task that runs the same graph in OpenVINO in another process and returns the seconds of the run."""
  if interpreter is None:
    yield None
    return
  function = tf.function(lambda clip: model(clip)[0]).get_concrete_function(spec)
  frozen = convert_to_constants.convert_variables_to_constants_v2(function)
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
    graph = pathlib.Path(folder) / "graph.pb"
    graph.write_bytes(frozen.graph.as_graph_def().SerializeToString())
    program = f"{inspect.getsource(_run_openvino)}\n_run_openvino()"
    command = [interpreter, "-c", program, str(graph), *map(str, spec.shape)]
    try:
      process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
      raise errors.I3dError(f"openvino is {interpreter}, which cannot be started: {error.strerror}") from None

    requests, replies = process.stdin, process.stdout
    assert requests is not None and replies is not None  # since both are pipes

    def task() -> float:
      try:
        requests.write("run\n")
        requests.flush()
        return float(replies.readline())
      except (OSError, ValueError):
        raise errors.I3dError(
          f"openvino is {interpreter}, which ended; does it have OpenVINO? See its message above"
        ) from None

    with process:
      yield task
      requests.close()


def _run_openvino() -> None:
  """Runs the graph of the first argument once per line of standard input, and prints the seconds that each run took.

  The other arguments are the extents of the clip. Only the source of this function is given to an interpreter that has
  openvino and numpy and that need not have TensorFlow, so it uses nothing of this module.
  """
  import sys
  import time

  import numpy as np
  import openvino

  graph, *shape = sys.argv[1:]
  core = openvino.Core()
  # Some processors would otherwise compute in bfloat16.
  compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
  request = compiled.create_infer_request()
  clip = np.random.default_rng(0).uniform(-1, 1, list(map(int, shape))).astype(np.float32)
  for _ in sys.stdin:
    start = time.perf_counter()
    request.infer([clip])
    print(time.perf_counter() - start, flush=True)
