"""Checkpoints of Inception-v1 in TF-slim's layout: reading them strictly, and writing them back.

Slim's names begin with InceptionV1/ and its kernels have no time axis (tensorflow/models,
research/slim/nets/inception_v1.py). The checkpoint that it publishes is a single file, TensorFlow's older format, which
is read like the newer one.
"""

from collections.abc import Mapping
import os
import re

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import bundle
from i3d_tf.weights import slim_archive

FIRST_KERNEL = "Conv2d_1a_7x7/conv_3d/w"
HEAD_BIAS = "Logits/Conv2d_0c_1x1/conv_3d/b"
# What training writes beside the variables: counters, and what the optimizers that slim offers keep for each of them.
_COUNTERS = ("global_step", "beta1_power", "beta2_power")
_SLOT = re.compile(r"/(Adadelta|Adagrad|Adam|ExponentialMovingAverage|Ftrl|Momentum|RMSProp)(_\d)?$")


def is_slim(path: str | os.PathLike) -> bool:
  """Whether `read` is the one to read it: by the names in it, or as a checkpoint file of the older format."""
  path = _find(path)
  if path is None or not os.path.isfile(path + bundle.INDEX_SUFFIX):
    return path is not None
  try:
    return _slim_name(FIRST_KERNEL) in _names(path)
  except errors.CheckpointError:
    return False


def read(path: str | os.PathLike, *, width_multiplier: float = 1.0) -> dict[str, np.ndarray]:
  """Reads a checkpoint of Inception-v1 with its classifier; counters and optimizers' slots are left out.

  Args:
    path: a checkpoint file, a prefix, one of its files, or a folder with inception_v1.ckpt or model.ckpt.
    width_multiplier: that of the network.

  Returns:
    230 values by the names of `InceptionV1`'s variables, kernels `[1, kh, kw, Cin, Cout]`.

  Raises:
    CheckpointError: listing every variable that is missing, unmatched, misshapen or damaged.
  """
  given, path = path, _find(path)
  if path is None:
    raise errors.CheckpointError(f"there is no checkpoint of slim's Inception-v1 at {os.fspath(given)}")
  _names(path)  # explains a file that is none
  arrays = bundle.read(path)
  shapes = {_slim_name(name): _slim_shape(name, shape) for name, shape in _shapes(arrays, width_multiplier).items()}
  problems = {
    "missing": [name for name in shapes if name not in arrays],
    "unmatched": [name for name in arrays if name not in shapes and not _is_bookkeeping(name, shapes)],
    "misshapen": [
      f"{name} {array.dtype} {array.shape} for {shapes[name]}"
      for name, array in arrays.items()
      if name in shapes and (array.dtype != np.float32 or array.shape != shapes[name])
    ],
  }
  bundle.raise_for(problems, f"checkpoint {path} is not of slim's Inception-v1")
  own_names = spec.variable_shapes(spec.INCEPTION_V1)
  return {name: _with_time(name, arrays[_slim_name(name)]) for name in own_names}


def write(prefix: str | os.PathLike, values: Mapping[str, np.ndarray]) -> None:
  """Writes an `InceptionV1`'s variables, of any width, under slim's names, in TensorFlow's present format.

  Args:
    prefix: path of the files without `.index`.
    values: by names without the module's, as `read` returns them.

  Raises:
    ValueError: naming the variables that are missing, or that Inception-v1 does not have.
    CheckpointError: if the files cannot be written.
  """
  if others := sorted(set(values) ^ set(spec.variable_shapes(spec.INCEPTION_V1))):
    raise ValueError(f"these are not Inception-v1's variables; missing or unknown are {', '.join(others)}")
  arrays = {_slim_name(name): value.reshape(_slim_shape(name, value.shape)) for name, value in values.items()}
  bundle.write(prefix, arrays)


def _find(path: str | os.PathLike) -> str | None:
  """The prefix or file of the checkpoint that a path means, of either format; None if there is none."""
  path = os.fspath(path)
  places = [path, *(os.path.join(path, name) for name in (slim_archive.CHECKPOINT, "model.ckpt"))]
  stripped = [path.removesuffix(suffix) for suffix in (bundle.INDEX_SUFFIX, bundle.DATA_SUFFIX)]
  prefixes = [place for place in (*places, *stripped) if os.path.isfile(place + bundle.INDEX_SUFFIX)]
  return next(iter([*prefixes, *filter(os.path.isfile, places)]), None)


def _names(path: str) -> set[str]:
  try:
    return set(tf.train.load_checkpoint(path).get_variable_to_shape_map())
  except (tf.errors.OpError, RuntimeError, ValueError, LookupError) as error:
    raise errors.CheckpointError(f"{path} cannot be read as a checkpoint: {errors.first_line(error)}") from None


def _slim_name(name: str) -> str:
  for own, slim in (("conv_3d/w", "weights"), ("conv_3d/b", "biases"), ("batch_norm", "BatchNorm")):
    name = name.replace(own, slim)
  return f"InceptionV1/{name}"


def _slim_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  return shape[1:] if name.endswith("/w") else shape


def _with_time(name: str, array: np.ndarray) -> np.ndarray:
  return array[np.newaxis] if name.endswith("/w") else array


def _shapes(arrays: Mapping[str, np.ndarray], width_multiplier: float) -> dict[str, tuple[int, ...]]:
  """What the network's variables must be, by its first kernel's channels in and its number of classes."""
  kernel, bias = arrays.get(_slim_name(FIRST_KERNEL)), arrays.get(_slim_name(HEAD_BIAS))
  return spec.variable_shapes(
    spec.INCEPTION_V1,
    in_channels=3 if kernel is None or kernel.ndim != 4 else kernel.shape[-2],
    num_classes=slim_archive.NUM_CLASSES if bias is None else bias.size,
    width_multiplier=width_multiplier,
  )


def _is_bookkeeping(name: str, variables: Mapping[str, tuple[int, ...]]) -> bool:
  return name in _COUNTERS or (_SLOT.search(name) is not None and _SLOT.sub("", name) in variables)
