"""Other implementations beside ours, each in an interpreter of its own that need not have TensorFlow."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import inspect
import pathlib
import subprocess
import tempfile

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from i3d_tf import errors
from i3d_tf.models import base

_HINTS = {"float32": "f32", "bfloat16": "bf16"}
# Where PyTorch has each network that it has, too; all of 400 classes.
_TORCHVISION, _PYTORCHVIDEO = "torchvision.models.video", "pytorchvideo.models.hub"
TORCH = {
    **{name: f"{_TORCHVISION}.{name}" for name in ("r3d_18", "mc3_18", "r2plus1d_18")},
    "s3d_torchvision": f"{_TORCHVISION}.s3d",
    **{f"video_swin_{size}": f"{_TORCHVISION}.swin3d_{size}" for size in "tsb"},
    **{name: f"{_PYTORCHVIDEO}.{name}" for name in ("x3d_xs", "x3d_s", "x3d_m", "x3d_l", "c2d_r50", "i3d_r50")},
}  # fmt: skip
# What PyTorch is measured in, by the type that it computes in.
MODES = {"float32": ("plain", "channels_last"), "bfloat16": ("autocast", "autocast_channels_last")}


@contextlib.contextmanager
def openvino(
  interpreter: str, model: base.Network, spec: tf.TensorSpec, precision: str
) -> Iterator[Callable[[], float]]:
  """Yields a task that runs the same graph in OpenVINO and returns the seconds of the run.

  Args:
    interpreter: A Python interpreter that has OpenVINO.
    model: The network, which computes in float32.
    spec: The clip.
    precision: The type that OpenVINO may compute in, 'float32' or 'bfloat16'.

  Yields:
    The task.

  Raises:
    I3dError: If the interpreter cannot be started; from the task, if it ended.
  """
  function = tf.function(lambda clip: model(clip)[0], autograph=False).get_concrete_function(spec)
  frozen = convert_to_constants.convert_variables_to_constants_v2(function)
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
    graph = pathlib.Path(folder) / "graph.pb"
    graph.write_bytes(frozen.graph.as_graph_def().SerializeToString())
    arguments = [str(graph), _HINTS[precision], *map(str, spec.shape)]
    with _started("openvino", interpreter, _run_openvino, arguments) as run:
      yield lambda: run("forward")


@contextlib.contextmanager
def torch(interpreter: str, model: str, shape: Sequence[int]) -> Iterator[Callable[[str], float]]:
  """Yields a function from 'forward MODE' or 'train MODE' to the seconds that the network takes in PyTorch.

  Args:
    interpreter: A Python interpreter that has torch, and torchvision or pytorchvideo.
    model: A network in `TORCH`.
    shape: `[B, T, H, W, C]` of the clip.

  Yields:
    The function; the modes are those of `MODES`.

  Raises:
    I3dError: If the interpreter cannot be started; from the function, if it ended.
  """
  batch, *extents, channels = map(str, shape)
  with _started("torch", interpreter, _run_torch, [TORCH[model], batch, channels, *extents]) as run:
    yield run


@contextlib.contextmanager
def _started(
  option: str, interpreter: str, program: Callable[[], None], arguments: Sequence[str]
) -> Iterator[Callable[[str], float]]:
  """Yields a function that sends a line to a program in another interpreter and returns the number that it prints."""
  command = [interpreter, "-c", f"{inspect.getsource(program)}\n{program.__name__}()", *arguments]
  try:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  except OSError as error:
    raise errors.I3dError(f"{option} is {interpreter}, which cannot be started: {error.strerror}") from None
  requests, replies = process.stdin, process.stdout
  assert requests is not None and replies is not None  # since both are pipes

  def run(line: str) -> float:
    try:
      requests.write(f"{line}\n")
      requests.flush()
      return float(replies.readline())
    except (OSError, ValueError):
      raise errors.I3dError(
        f"{option} is {interpreter}, which ended; does it have {option}? See its message above"
      ) from None

  with process:
    yield run
    with contextlib.suppress(OSError):
      requests.close()


def _run_openvino() -> None:
  """Runs the graph of the first argument once per line of standard input, and prints the seconds that each run took.

  The other arguments are the type to compute in and the extents of the clip. Only the source of this function is given
  to an interpreter that has openvino and numpy, so it uses nothing of this module.
  """
  import sys
  import time

  import numpy as np
  import openvino

  graph, hint, *shape = sys.argv[1:]
  core = openvino.Core()
  # Some processors would otherwise compute in bfloat16.
  compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": hint})
  request = compiled.create_infer_request()
  clip = np.random.default_rng(0).uniform(-1, 1, list(map(int, shape))).astype(np.float32)
  for _ in sys.stdin:
    start = time.perf_counter()
    request.infer([clip])
    print(time.perf_counter() - start, flush=True)


def _run_torch() -> None:
  """Runs the network of the first argument, forward or a training step, and prints the seconds of each run.

  The other arguments are the extents of the clip. Only the source of this function is given to an interpreter that has
  torch, and torchvision or pytorchvideo.
  """
  import importlib
  import sys
  import time

  import torch

  name, *shape = sys.argv[1:]
  module, _, function = name.rpartition(".")
  make = getattr(importlib.import_module(module), function)
  clip = torch.empty(list(map(int, shape))).uniform_(-1, 1)
  labels = torch.arange(len(clip)) % 400

  def made(is_channels_last):
    model = make()
    if not is_channels_last:
      return model, clip
    return model.to(memory_format=torch.channels_last_3d), clip.to(memory_format=torch.channels_last_3d)

  networks = {is_channels_last: made(is_channels_last) for is_channels_last in (False, True)}
  optimizers = {key: torch.optim.SGD(each.parameters(), 1e-3, 0.9) for key, (each, _) in networks.items()}

  def forward(model, inputs):
    model.eval()
    with torch.inference_mode():
      model(inputs)

  def train(model, inputs, optimizer):
    model.train()
    loss = torch.nn.functional.cross_entropy(model(inputs).float(), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

  for line in sys.stdin:
    task, mode = line.split()
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in mode):
      model, inputs = networks["channels_last" in mode]
      if task == "forward":
        forward(model, inputs)
      else:
        train(model, inputs, optimizers["channels_last" in mode])
    print(time.perf_counter() - start, flush=True)
