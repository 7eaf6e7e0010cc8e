"""What the networks are computed on: GPU or CPU, its memory, and the type of numbers that is fastest there."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import ctypes
import functools
import json
import os
import pathlib
import sys
import sysconfig
import tempfile
import time
from typing import Any

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import workdir

GPU_MEMORY = ("growth", "all")  # or a number of MB
# Features of x86 processors that multiply matrices of short numbers, best first, by their names in /proc/cpuinfo.
_MATRIX_UNITS = {
  "amx_bf16": "AMX bfloat16", "amx_int8": "AMX int8", "amx_fp16": "AMX float16",
  "avx512_bf16": "AVX-512 bfloat16", "avx512_vnni": "AVX-512 int8",
}  # fmt: skip
# Types of device; DEFAULT is whichever the tensors are on, with shapes and the like in the memory of the CPU.
_ON_GPU = ("GPU", "DEFAULT")
_WORTH = 1.1  # a type of less precision must be so many times as fast to be taken
_HOPELESS = 4  # as many times float32's time on one frame need no measurement on more
_FRAMES = (1, 8)
_ROUNDS = 3


@contextlib.contextmanager
def tensorflow_in_silence() -> Iterator[None]:
  """Keeps TensorFlow, which the body imports, from logging about itself; what it says is shown if the body fails.

  It logs to file descriptor 2, in part before its own level setting takes effect. A level that the user has set stays.

  Yields:
    Nothing.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  sys.stderr.flush()
  original = os.dup(2)
  with tempfile.TemporaryFile() as kept:
    os.dup2(kept.fileno(), 2)
    try:
      yield
    except Exception:  # not an interruption, which is no reason to read them
      kept.seek(0)
      os.write(original, kept.read())
      raise
    finally:
      os.dup2(original, 2)
      os.close(original)


def use_gpu_memory(policy: str) -> None:
  """Says how much of a GPU's memory TensorFlow takes; call it before TensorFlow computes anything.

  Args:
    policy: 'growth': what is needed, more and more; 'all': all of it at once; or the MB to take of each GPU at most.

  Raises:
    I3dError: If it is none of these, or TensorFlow has begun to compute.
  """
  import tensorflow as tf

  if policy not in GPU_MEMORY and not (policy.isdecimal() and int(policy) > 0):
    raise errors.I3dError(f"gpu_memory is {policy!r}; it is growth, all, or a number of MB")
  try:
    for gpu in tf.config.list_physical_devices("GPU"):
      if policy == "growth":
        tf.config.experimental.set_memory_growth(gpu, True)
      elif policy != "all":
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=int(policy))
        tf.config.set_logical_device_configuration(gpu, [limit])
  except RuntimeError as error:
    raise errors.I3dError(f"gpu_memory cannot be {policy} any more: {errors.first_line(error)}") from None


def describe() -> str:
  """Returns on what TensorFlow computes: 'GPU: 2 x NVIDIA H200', or 'CPU: MODEL, 2 cores, with AMX bfloat16'."""
  import tensorflow as tf

  names = [
    tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    for gpu in tf.config.list_physical_devices("GPU")
  ]
  if names:
    return "GPU: " + " and ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
  units = matrix_units()
  return f"CPU: {resources.machine()}" + (f", with {', '.join(units)}" if units else "")


def matrix_units() -> tuple[str, ...]:
  """Returns what this processor has to multiply matrices of bfloat16, float16 or int8, such as 'AMX bfloat16'."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
  except OSError:
    return ()
  flags = next((line.split() for line in lines if line.startswith("flags")), [])
  return tuple(text for name, text in _MATRIX_UNITS.items() if name in flags)


def driver() -> str:
  """Returns the version of NVIDIA's driver, or 'none'."""
  try:
    text = pathlib.Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
  except OSError:
    return "none"
  return text.partition("Module")[2].split()[0] if "Module" in text else errors.first_line(ValueError(text))


def unused_gpu() -> str | None:
  """Returns a sentence where the machine has an NVIDIA GPU that TensorFlow cannot use: why, and how it could."""
  import tensorflow as tf

  is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
  if not has_nvidia_gpu() or is_hidden or tf.config.list_physical_devices("GPU"):
    return None
  if not tf.test.is_built_with_cuda():
    reason = "is a build without CUDA"
  else:
    missing = missing_libraries()
    reason = f"does not find {', '.join(missing)}" if missing else "does not find a driver of its version of CUDA"
  return (
    f"this machine has an NVIDIA GPU, but TensorFlow {tf.__version__} cannot use it, since it {reason}; the CPU does "
    "the work. To mend it: pip install 'tensorflow[and-cuda]'"
  )


def has_nvidia_gpu() -> bool:
  """Returns whether the system lists an NVIDIA GPU, whether or not it can be used."""
  return any(pathlib.Path("/dev").glob("nvidia[0-9]*"))


def missing_libraries() -> list[str]:
  """Returns the names of the libraries of CUDA that this TensorFlow wants and that are not found."""
  import tensorflow as tf

  build = tf.sysconfig.get_build_info()
  names = ["libcuda.so.1 (the driver)"]
  if "cuda_version" in build:
    major = build["cuda_version"].partition(".")[0]
    names += [f"libcudart.so.{major}", f"libcublas.so.{major}"]
  if "cudnn_version" in build:
    names.append(f"libcudnn.so.{build['cudnn_version'].partition('.')[0]}")
  return [name for name in names if not _is_found(name.split()[0])]


def _is_found(library: str) -> bool:
  """Whether a library can be loaded, or is in one of NVIDIA's packages for Python."""
  if any(pathlib.Path(sysconfig.get_paths()["purelib"], "nvidia").glob(f"*/lib/{library}")):
    return True
  try:
    ctypes.CDLL(library)
  except OSError:
    return False
  return True


def without_gpu_kernel(function: Any) -> list[str]:
  """Returns the operations that have no kernel for GPUs, so that they would run on the CPU: 'TYPE NAME'.

  What there is is told by the registry of this build of TensorFlow, which has the kernels whether or not there is a
  GPU; a build without CUDA has none. The texts of assertions, which wait on the CPU beside the shapes that they are
  about, are not counted.

  Args:
    function: A traced function; those that it calls are looked through, too.
  """
  graph = function.graph.as_graph_def()
  nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
  used = {name.partition(":")[0] for node in nodes if node.op != "Assert" for name in node.input}
  counted = [node for node in nodes if node.op != "Const" or node.name in used]
  return sorted({f"{node.op} {node.name}" for node in counted if not _has_gpu_kernel(node)})


def _has_gpu_kernel(node: Any) -> bool:
  from tensorflow.python.framework import kernels

  found = [each for each in kernels.get_registered_kernels_for_op(node.op).kernel if each.device_type in _ON_GPU]
  return any(all(map(_fits(node), each.constraint)) for each in found)


def _fits(node: Any) -> Callable[[Any], bool]:
  """Whether the node's types are among those of a constraint of a kernel."""

  def fits(constraint: Any) -> bool:
    value = node.attr[constraint.name]
    types = value.list.type or [value.type]
    return set(types) <= {*constraint.allowed_values.list.type, 0}  # 0: not stated

  return fits


def check_precision(precision: str) -> None:
  """Refuses types that TensorFlow cannot compute networks in on this machine.

  Args:
    precision: 'float32', 'bfloat16' or 'float16'; 'int8', which is refused.

  Raises:
    I3dError: If it cannot.
  """
  import tensorflow as tf

  if precision == "int8":
    raise errors.I3dError(
      "precision int8 is computed by OpenVINO and not by TensorFlow: export the network with format openvino, "
      "precision int8 and clips for the calibration, and run that with engine openvino"
    )
  if precision == "float16" and not tf.config.list_physical_devices("GPU"):
    raise errors.I3dError("precision float16 needs a GPU: TensorFlow has no max pool of that type for CPUs")


def fastest_precision(cache: pathlib.Path) -> tuple[str, Mapping[str, float]]:
  """Returns the type in which this machine computes convolutions fastest, and the seconds that each type takes.

  Measures once for each machine and TensorFlow, in a few seconds; another type than float32 must be 1.1 times as fast.

  Args:
    cache: File that keeps what was measured. It is not needed: where it cannot be read, it is measured again.
  """
  import tensorflow as tf

  machine = f"{describe()}, TensorFlow {tf.__version__}"
  seconds = _read(cache).get(machine)
  if seconds is None:
    seconds = _measured()
    with contextlib.suppress(OSError):
      cache.parent.mkdir(parents=True, exist_ok=True)
      with workdir.replacing(cache) as file:
        file.write(json.dumps({**_read(cache), machine: seconds}, indent=2).encode())
  best = min(seconds, key=lambda name: seconds[name] * (1 if name == "float32" else _WORTH))
  return best, seconds


def _read(cache: pathlib.Path) -> dict[str, dict[str, float]]:
  """What was measured, by machine; what is damaged is left out."""
  try:
    content = json.loads(cache.read_bytes())
  except (OSError, ValueError):
    return {}
  return {machine: found for machine, found in content.items() if _is_whole(found)} if isinstance(content, dict) else {}


def _is_whole(found: Any) -> bool:
  is_number = lambda value: isinstance(value, float) and value > 0
  return isinstance(found, dict) and {"float32", "bfloat16"} == set(found) and all(map(is_number, found.values()))


@functools.cache
def _measured() -> dict[str, float]:
  """Seconds of a convolution of I3D's third block on 8 frames, the least of some rounds, with each type in turn.

  On one frame where bfloat16 is much slower, as on processors without AVX-512, which took 30 to 100 times as long.
  """
  for frames in _FRAMES:
    tasks = {name: _convolution(name, frames) for name in ("float32", "bfloat16")}
    for task in tasks.values():
      task()  # which compiles
    rounds = [{name: _seconds(task) for name, task in tasks.items()} for _ in range(_ROUNDS)]
    found = {name: min(each[name] for each in rounds) for name in tasks}
    if found["bfloat16"] > _HOPELESS * found["float32"]:
      break
  return found


def _convolution(dtype: str, frames: int) -> Callable[[], Any]:
  import tensorflow as tf

  inputs = tf.cast(tf.random.stateless_uniform([1, frames, 56, 56, 64], [0, 1], -1, 1), dtype)
  kernel = tf.cast(tf.random.stateless_uniform([3, 3, 3, 64, 192], [0, 2], -0.05, 0.05), dtype)
  function = tf.function(lambda: tf.nn.relu(tf.nn.conv3d(inputs, kernel, [1] * 5, "SAME")), autograph=False)
  return lambda: tf.reduce_max(tf.cast(function(), tf.float32)).numpy()


def _seconds(task: Callable[[], Any]) -> float:
  start = time.perf_counter()
  task()
  return time.perf_counter() - start
