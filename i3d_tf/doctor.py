"""Checks this machine: what computes, whether it computes rightly, and what is slow. See `--help`."""

from collections.abc import Iterator
import os
import time

from i3d_tf import cli
from i3d_tf import devices

USAGE = """Checks on what this machine computes, whether it computes rightly, and says what is slow and why.

  python -m i3d_tf.doctor

It prints the device with its driver and matrix units, the build of TensorFlow, and the time of a convolution in float32
and in bfloat16. Then it checks, in about 20 seconds, the logits of a small network against stored ones, a training step
in either type, the operations of the step that a GPU has no kernel for, and the optical flow of a shifted image. The
exit status is 1 if a check fails."""

# Logits of the network that `_logits` makes, float32; other machines differ by rounding.
_LOGITS = (0.004920, 0.040436, 0.056934)
_TOLERANCE = 1e-3  # of the largest logit
_SHIFT = 2.0  # pixels, of the image whose flow is computed


def main(arguments: list[str]) -> int:
  """Prints what there is, and the checks one by one."""
  del arguments
  cli.import_tensorflow()
  for name, text in _facts():
    print(f"{name:14} {text}")
  failed = 0
  for name, check in {"network": _network, "training": _training, "optical flow": _flow}.items():
    start = time.perf_counter()
    problem = check()
    failed += problem is not None
    print(f"{name:14} {'ok' if problem is None else f'WRONG: {problem}'} ({time.perf_counter() - start:.1f} s)")
  for text in _slow():
    print(f"{'slow':14} {text}")
  return int(failed > 0)


def _facts() -> Iterator[tuple[str, str]]:
  import tensorflow as tf

  from i3d_tf.inference import classifier

  build = tf.sysconfig.get_build_info()
  cuda = f"CUDA {build['cuda_version']}, cuDNN {build['cudnn_version']}" if build.get("is_cuda_build") else "no CUDA"
  yield "device", devices.describe()
  yield "NVIDIA driver", devices.driver()
  yield "matrix units", ", ".join(devices.matrix_units()) or "none"
  yield "TensorFlow", f"{tf.__version__}, {cuda}, oneDNN {'off' if _has_no_onednn() else 'on'}"
  best, seconds = devices.fastest_precision(classifier.measurements())
  times = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
  yield "convolution", f"{times}; --precision=auto takes {best}"


def _has_no_onednn() -> bool:
  return os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0"


def _network() -> str | None:
  """Compares logits with those that other machines have."""
  import numpy as np

  logits = _logits()
  difference = float(np.abs(logits - _LOGITS).max() / np.abs(_LOGITS).max())
  return None if difference < _TOLERANCE else f"logits are {logits.tolist()}, off by {difference:.1g} of the largest"


def _logits():
  """Logits of a narrow I3D with weights and a clip made of waves."""
  import numpy as np
  import tensorflow as tf

  from i3d_tf.models import inception

  model = inception.InceptionI3d(3, width_multiplier=0.125, average_space=True)
  model.build(3)
  for index, variable in enumerate(model.variables):
    count = variable.shape.num_elements()
    values = np.sin(0.7 * np.arange(count) + index).reshape(variable.shape)
    if variable.name.endswith("/w:0"):
      variable.assign(values * np.sqrt(4 / np.prod(variable.shape[:-1])))
    elif variable.name.endswith("moving_variance:0"):
      variable.assign(1 + 0.5 * values)
    else:
      variable.assign(0.1 * values)
  t, y, x, c = np.ogrid[:16, :64, :64, :3]
  clip = np.sin(0.3 * t + 0.2 * (c + 1) * y + 0.1 * x).astype(np.float32)[np.newaxis]
  return tf.function(lambda clip: model(clip)[0], autograph=False)(clip).numpy()[0]


def _training() -> str | None:
  """Takes a training step in either type, and looks for what a GPU would leave to the CPU."""
  import numpy as np
  import tensorflow as tf

  from i3d_tf import training
  from i3d_tf.models import c3d
  from i3d_tf.training import distribution
  from i3d_tf.training import optimizers
  from i3d_tf.training import step as steps

  rng = np.random.default_rng(0)
  batch = {
    "rgb": rng.uniform(-1, 1, [4, 16, 112, 112, 3]).astype(np.float32), "label": np.arange(4, dtype=np.int32) % 3,
    "weight": np.ones(4, np.float32), "seed": np.zeros([4, 2], np.int32),
  }  # fmt: skip
  tensors = {name: tf.constant(value) for name, value in batch.items()}
  for precision in ("float32", "bfloat16"):
    optimization = training.OptimizationConfig(precision=precision, jit_compile="off")
    model = c3d.C3D(3, width_multiplier=0.05, compute_dtype=precision)
    model.build(3)
    optimizer = optimizers.make(optimization, model.trainable_variables)
    strategy = tf.distribute.get_strategy()
    step = steps.Step(model, optimizer, strategy, optimization, streams=("rgb",), batch_size=4)
    if not step.apply(tensors, rate=0.01, step=0).is_finite:
      return f"the gradients of {precision} are not finite"
    on_cpu = devices.without_gpu_kernel(step.graph(tensors)) if tf.test.is_built_with_cuda() else []
    if on_cpu:
      return f"a GPU has no kernel for {', '.join(sorted({each.split()[0] for each in on_cpu}))}"
  if not distribution.max_pool_gradient_is_right():
    return "the max-pool gradient gives tied maxima the whole gradient each"
  return None


def _flow() -> str | None:
  """Computes the flow of a texture that moves to the right."""
  import numpy as np

  from i3d_tf.flow import tvl1

  y, x = np.mgrid[:96, :128]
  shade = lambda x: 127 + 60 * np.sin(0.2 * x + 0.1 * y) + 60 * np.sin(0.13 * y - 0.09 * x)
  frames = np.stack([shade(x), shade(x - _SHIFT)]).astype(np.uint8)
  flow = tvl1.tvl1_flow(frames)[0, 16:-16, 16:-16].reshape(-1, 2)
  median = np.median(flow, axis=0)
  return None if np.abs(median - [_SHIFT, 0]).max() < 0.25 else f"a shift of {_SHIFT:g} pixels is seen as {median}"


def _slow() -> Iterator[str]:
  """What keeps this machine from being faster."""
  import tensorflow as tf

  if warning := devices.unused_gpu():
    yield warning
  elif not tf.config.list_physical_devices("GPU"):
    yield "no GPU: a training step of I3D takes seconds"
    if not any("bfloat16" in unit for unit in devices.matrix_units()):
      yield "no matrix units for bfloat16 (AMX): --precision=bfloat16 is no faster than float32, or slower"
  if _has_no_onednn():
    yield "oneDNN is off by TF_ENABLE_ONEDNN_OPTS=0: convolutions take several times as long"


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
