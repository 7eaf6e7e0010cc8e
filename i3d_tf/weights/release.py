"""Networks' variables by the names of the 2017 release, and loading and writing its checkpoints of I3D."""

from collections.abc import Mapping
import os
import zlib

import numpy as np
import tensorflow as tf

from i3d_tf.models import base
from i3d_tf.models import inception_spec
from i3d_tf.weights import hub
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import tensorflow1

# Of I3D.
FIRST_KERNEL = "Conv3d_1a_7x7/conv_3d/w"
HEAD_BIAS = "Logits/Conv3d_0c_1x1/conv_3d/b"


def load_checkpoint(
  model: base.Network, name_or_path: str | os.PathLike, *, new_head: bool = False
) -> tensorflow1.LoadedCheckpoint:
  """Loads a checkpoint in any of the release's layouts into an I3D, all of it or nothing.

  A network that has not been called yet is built for the checkpoint's number of input channels. One that is cut at an
  earlier `final_endpoint` takes the part it has.

  Args:
    model: An `InceptionI3d`.
    name_or_path: A released checkpoint's name, fetched to the cache if it is not there, or a path (a prefix, one of
      its files, or a folder with model.ckpt).
    new_head: Whether to keep the network's own classifier, which may have another number of classes.

  Returns:
    What was read beside the variables.

  Raises:
    CheckpointError: If variables are missing, unmatched, misshapen or damaged; all are listed, and the network is
      unchanged.
    DownloadError: If a released checkpoint cannot be fetched.
  """
  loaded, values = read(name_or_path)
  assign(model, values, loaded.prefix, new_head=new_head)
  return loaded


def save_release_checkpoint(
  model: base.Network, prefix: str | os.PathLike, *, stream: str, momentum: Mapping[str, np.ndarray] | None = None
) -> None:
  """Writes an I3D as a TF1 checkpoint in one of the release's layouts.

  Args:
    model: An `InceptionI3d` that has been called, built or loaded.
    prefix: Path of the files without '.index'.
    stream: Layout: 'rgb', 'flow' or 'rgb600', a key of `tensorflow1.LAYOUTS`.
    momentum: Optimizer slots by variable name, as `LoadedCheckpoint.momentum` has them, written beside the variables.

  Raises:
    ValueError: If the stream is unknown, the network has no variables yet, or there is a slot of no variable.
    CheckpointError: If the files cannot be written.
  """
  if stream not in tensorflow1.LAYOUTS:
    raise ValueError(f"stream is {stream!r}; allowed are {', '.join(tensorflow1.LAYOUTS)}")
  if model.in_channels is None:
    raise ValueError(f"{model.name} has no variables yet: call, build or load it first")
  values = {name: variable.numpy() for name, variable in named_variables(model).items()}
  tensorflow1.write_release(prefix, values, tensorflow1.LAYOUTS[stream], momentum)


def read(name_or_path: str | os.PathLike) -> tuple[tensorflow1.LoadedCheckpoint, dict[str, np.ndarray]]:
  """Returns what a checkpoint in any of the release's layouts is, and its variables.

  Args:
    name_or_path: As `load_checkpoint` takes it.

  Raises:
    CheckpointError: If there is no checkpoint, it is damaged, or in none of the layouts.
    DownloadError: If a released checkpoint cannot be fetched.
  """
  if name_or_path in manifests.NAMES:
    name = os.fspath(name_or_path)
    return tensorflow1.read_release(hub.fetch(name), manifests.load(name))
  return tensorflow1.read_release(tensorflow1.find_prefix(name_or_path))


def named_variables(model: base.Network) -> dict[str, tf.Variable]:
  """Returns a network's variables by names without the stream's and the module's, as 'Conv3d_1a_7x7/conv_3d/w'.

  Args:
    model: A network that has been called, built or loaded.
  """
  scope = model.name_scope.name
  return {variable.name.removeprefix(scope).removesuffix(":0"): variable for variable in model.variables}


def variable_shapes(model: base.Network, in_channels: int) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of a network's variables by `named_variables`' names, without memory for the variables.

  Args:
    model: A network that is not built yet, and is of no use after.
    in_channels: Channels of its clips.
  """
  with tf.Graph().as_default():  # where variables have shapes only
    model.build(in_channels)
  return {name: tuple(variable.shape) for name, variable in named_variables(model).items()}


def checksum(model: base.Network) -> str:
  """Returns the CRC-32 of all variables in the order of their names, 8 hexadecimal digits that tell weights apart.

  Args:
    model: A network that has been called, built or loaded.
  """
  crc = 0
  for _, variable in sorted(named_variables(model).items()):
    crc = zlib.crc32(variable.numpy().tobytes(), crc)
  return f"{crc:08x}"


def is_head(name: str) -> bool:
  """Returns whether a variable belongs to a classifier.

  Args:
    name: Name of the variable.
  """
  return inception_spec.LOGITS in name.split("/")


def assign(
  model: base.Network,
  values: Mapping[str, np.ndarray],
  path: str,
  *,
  new_head: bool = False,
  allow_missing: bool = False,
) -> None:
  """Gives a network the values of a checkpoint, all or none.

  An I3D that has not been called yet is built for the checkpoint's number of input channels. One that is cut at an
  earlier `final_endpoint` takes the part it has.

  Args:
    model: The network.
    values: Values by the names of `named_variables`.
    path: Path of the checkpoint, for messages.
    new_head: Whether the network keeps its own classifier, which may have another number of classes.
    allow_missing: Whether variables without a value keep their own.

  Raises:
    CheckpointError: If variables are missing, unmatched or misshapen; all are listed, and the network is unchanged.
  """
  if model.in_channels is None:
    model.build(values[FIRST_KERNEL].shape[-2])
  variables = named_variables(model)
  skipped = set() if model.has_head else set(inception_spec.variable_shapes(model.architecture)) - set(variables)
  if new_head:
    skipped = {name for name in {**values, **variables} if is_head(name)}
  wanted = {name: variable for name, variable in variables.items() if name not in skipped}
  misshapen = [name for name in wanted if name in values and not _fits(values[name], wanted[name].shape)]
  problems = {
    "missing": [name for name in wanted if name not in values and not allow_missing],
    "unmatched": [name for name in values if name not in wanted and name not in skipped],
    "misshapen": [f"{name} {_describe(values[name])} for {tuple(wanted[name].shape)}" for name in misshapen],
  }
  only_head = misshapen and all(map(is_head, misshapen))
  advice = "; to keep the model's own classifier ask for a new head (new_head=True)" if only_head else ""
  tensorflow1.raise_for(problems, f"checkpoint {path} does not fit {model.name}", advice)
  for name, variable in wanted.items():
    if name in values:
      variable.assign(values[name].reshape(variable.shape))


def _fits(array: np.ndarray, shape: tf.TensorShape) -> bool:
  """Whether the shapes are equal, or the array is the same vector with axes of size 1 before it."""
  is_vector = len(shape) == 1 and array.shape == (1,) * (array.ndim - 1) + tuple(shape)
  return array.dtype == np.float32 and (array.shape == tuple(shape) or is_vector)


def _describe(array: np.ndarray) -> str:
  kind = "" if array.dtype == np.float32 else f"{array.dtype} "
  return f"{kind}{array.shape}"
