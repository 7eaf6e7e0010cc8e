"""Seconds per clip of a network, beside the rate at which this machine multiplies matrices."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import statistics
from typing import Any

import tensorflow as tf

from i3d_tf import benchmarks
from i3d_tf import devices
from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import training
from i3d_tf.benchmarks import peers
from i3d_tf.models import base
from i3d_tf.models import preprocess
from i3d_tf.training import objectives
from i3d_tf.training import optimizers
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
    precision: the type of convolutions and activations; float32 is measured beside another one.
    openvino: a Python interpreter that has OpenVINO, to time the same graph there; None: OpenVINO is not timed.
    torch: a Python interpreter that has torchvision or pytorchvideo, to time the network there if it is in
      `peers.TORCH`, in each of `peers.MODES`; None: it is not timed.
  """

  rounds: int
  batch: int
  clip: preprocess.Preprocess
  model: str = "i3d"
  stream: str = "rgb"
  average_space: bool = False
  precision: str = "float32"
  openvino: str | None = None
  torch: str | None = None


@dataclasses.dataclass(frozen=True)
class NetworkReport:
  """Medians over the rounds; a ratio is the median of the ratios of each round.

  The ratio of the forward pass to the matrix product is one of multiply-adds per second: 1 means that the network runs
  at the rate of the product. Memory is the peak of the process in bytes after each stage. Parameters are the trained
  values, for 400 classes. For another precision than float32 there are how many times as fast as float32 it is, and how
  far logits are from those of float32, as a share of the largest, for random weights.
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
  precision: str = "float32"
  forward_times_as_fast: float | None = None
  train_times_as_fast: float | None = None
  difference: float | None = None
  openvino_seconds: float | None = None
  forward_ratio_to_openvino: float | None = None
  torch_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
  ratios_to_torch: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __str__(self) -> str:
    """The report as lines of text."""
    clip = "x".join(map(str, self.shape))
    lines = [
      f"machine                {self.machine}; TensorFlow {self.tensorflow}",
      f"network                {self.model}, {self.stream}, {self.parameters / 1e6:.2f} M parameters, {self.precision}",
      f"clip                   {clip}, {self.giga_multiply_adds:.2f} G multiply-adds forward",
      f"matrix product         {self.matrix_product_gmac_per_second:.1f} G multiply-adds/s",
      f"forward                {self.forward_seconds:.3f} s, {self.forward_ratio_to_matrix_product:.2f} of the "
      f"matrix product's rate, peak memory {self.forward_peak_bytes / 1e9:.2f} GB",
      f"training step          {self.train_seconds:.3f} s, {self.train_ratio_to_forward:.2f} forward passes, "
      f"peak memory {self.train_peak_bytes / 1e9:.2f} GB",
    ]
    if self.difference is not None:
      lines.append(
        "beside float32         "
        f"{self.forward_times_as_fast:.2f} times as fast forward, {self.train_times_as_fast:.2f} "
        f"in training; logits differ by up to {100 * self.difference:.2f} % of the largest"
      )
    if self.openvino_seconds is not None:
      ratio = self.forward_ratio_to_openvino
      lines.append(f"OpenVINO forward       {self.openvino_seconds:.3f} s; ours takes {ratio:.3f} of its time")
    for task, seconds in self.torch_seconds.items():
      lines.append(f"torch {task:28} {seconds:.3f} s; ours takes {self.ratios_to_torch[task]:.3f} of its time")
    return "\n".join(lines)


def measure(options: NetworkBenchmark) -> NetworkReport:
  """Returns measurements of a network's forward pass and training step; takes a few seconds per round.

  Args:
    options: what to measure.

  Raises:
    I3dError: if the network does not take such clips, or OpenVINO cannot be run.
  """
  devices.check_precision(options.precision)
  info = saved.ModelInfo(
      model=options.model, stream=options.stream, num_classes=_CLASSES, average_space=options.average_space,
      preprocess=options.clip,
  )  # fmt: skip
  model = saved.make_model(info, compute_dtype=options.precision)
  shapes = _shapes(info, options.batch)
  specs = base.clip_of({stream: tf.TensorSpec(shape) for stream, shape in shapes.items()}, info.streams)
  _check(options, model, specs)
  clips = {s: tf.random.stateless_uniform(shape, seed=[0, 1], minval=-1, maxval=1) for s, shape in shapes.items()}
  clip = base.clip_of(clips, info.streams)
  exact = model if options.precision == "float32" else saved.make_model(info)
  with contextlib.ExitStack() as stack:
    others: dict[str, Callable[[], float | None]] = {}
    if options.openvino is not None:
      others["openvino"] = stack.enter_context(peers.openvino(options.openvino, exact, specs, options.precision))
    if options.torch is not None and options.model in peers.TORCH:
      run = stack.enter_context(peers.torch(options.torch, options.model, shapes[info.streams[0]]))
      others |= {f"torch {task}": functools.partial(run, task) for task in _torch_tasks(options.precision)}
    tasks, peaks = _tasks(model, clip)
    if exact is not model:
      tasks |= {f"float32 {name}": task for name, task in _tasks(exact, clip)[0].items()}
    difference = None if exact is model else _difference(exact, model, clip)
    tasks |= others
    seconds = benchmarks.in_turn({"matrix": _waiting(_matrix_product()), **tasks}, options.rounds)
  work = base.multiply_adds(lambda clip: exact(clip, is_training=True)[0], specs) / 1e9
  product = _MATRIX**3 / 1e9
  median = {name: statistics.median(values) for name, values in seconds.items()}
  return NetworkReport(
    machine=resources.machine(),
    tensorflow=tf.__version__,
    model=options.model,
    stream=options.stream,
    shape=tuple(shapes[info.streams[-1]]),
    parameters=sum(variable.shape.num_elements() for variable in model.trainable_variables),
    giga_multiply_adds=work,
    matrix_product_gmac_per_second=product / median["matrix"],
    forward_seconds=median["forward"],
    forward_ratio_to_matrix_product=work / product * benchmarks.median_ratio(seconds["matrix"], seconds["forward"]),
    forward_peak_bytes=peaks["forward"],
    train_seconds=median["train"],
    train_ratio_to_forward=benchmarks.median_ratio(seconds["train"], seconds["forward"]),
    train_peak_bytes=peaks["train"],
    precision=options.precision,
    difference=difference,
    **_beside(seconds),
  )


def _beside(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
  """The fields of a report that compare with float32 and with others, as far as they were measured."""
  found: dict[str, Any] = {}
  for task in ("forward", "train"):
    if f"float32 {task}" in seconds:
      found[f"{task}_times_as_fast"] = benchmarks.median_ratio(seconds[f"float32 {task}"], seconds[task])
  if "openvino" in seconds:
    found["openvino_seconds"] = statistics.median(seconds["openvino"])
    found["forward_ratio_to_openvino"] = benchmarks.median_ratio(seconds["forward"], seconds["openvino"])
  theirs = {name.removeprefix("torch "): each for name, each in seconds.items() if name.startswith("torch ")}
  found["torch_seconds"] = {name: statistics.median(each) for name, each in theirs.items()}
  ours = lambda name: seconds[_ours(name, seconds)]
  found["ratios_to_torch"] = {name: benchmarks.median_ratio(ours(name), each) for name, each in theirs.items()}
  return found


def _ours(task: str, seconds: Mapping[str, list[float]]) -> str:
  """Which of our tasks computes in the type of torch's task 'forward MODE' or 'train MODE'."""
  name, mode = task.split()
  return f"float32 {name}" if mode in peers.MODES["float32"] and f"float32 {name}" in seconds else name


def _torch_tasks(precision: str) -> list[str]:
  modes = [mode for dtype in dict.fromkeys(("float32", precision)) for mode in peers.MODES.get(dtype, ())]
  return [f"{task} {mode}" for task in ("forward", "train") for mode in modes]


def _tasks(model: base.Network, clip) -> tuple[dict[str, Callable[[], float | None]], dict[str, int]]:
  """Forward pass and training step, each run once, and the peak memory in bytes after each."""
  forward = tf.function(lambda: model(clip)[0], autograph=False).get_concrete_function()
  tasks: dict[str, Callable[[], float | None]] = {
    "forward": _waiting(forward),
    "train": _waiting(_train_step(model, clip)),
  }
  peaks = {}
  for name, task in tasks.items():
    task()
    peaks[name] = benchmarks.peak_memory_bytes()
  return tasks, peaks


def _difference(exact: base.Network, model: base.Network, clip) -> float:
  """The largest difference of logits over the largest logit, of two networks that get the same weights.

  A scale of batch norm that starts at 0 becomes 1, or else the block would not be seen.
  """
  for variable in exact.trainable_variables:
    if variable.name.endswith("gamma:0"):
      variable.assign(tf.ones_like(variable))
  for variable, value in zip(model.variables, exact.variables, strict=True):
    variable.assign(value)
  expected, found = (tf.function(lambda each=each: each(clip)[0], autograph=False)() for each in (exact, model))
  return float(tf.reduce_max(tf.abs(found - expected)) / tf.reduce_max(tf.abs(expected)))


def _matrix_product() -> Callable[[], tf.Tensor]:
  a, b = (tf.random.stateless_normal([_MATRIX, _MATRIX], seed=[seed, 0]) for seed in (2, 3))
  return tf.function(lambda: tf.matmul(a, b), autograph=False).get_concrete_function()


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
  variables = model.trainable_variables
  optimizer = optimizers.make(training.OptimizationConfig(), variables)

  @tf.function(autograph=False)
  def step() -> tf.Tensor:
    with tf.GradientTape() as tape:
      _, endpoints = model(clip, is_training=True, dropout_keep_prob=0.5)
      loss = tf.reduce_mean(objectives.cross_entropy(endpoints[model.LOSS], labels))
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
      optimizer.update(variable, gradient, 1e-3, 0, *optimizer.slots_of(variable))
    return loss

  return step


def _waiting(function: Callable[[], tf.Tensor]) -> Callable[[], None]:
  """Wraps `function` to wait for its value, since on a GPU a call returns before the value is there."""

  def task() -> None:
    outputs = function()
    tf.nest.map_structure(lambda tensor: tensor.numpy(), outputs)

  return task
