"""The 2017 release's checkpoint layouts: strict loading into a model, and writing back.

Layouts differ in the prefix of the names and in the shape of batch-norm vectors; the Kinetics-600 one
also holds the optimizer's Momentum slots (google-deepmind/kinetics-i3d data/checkpoints).
"""

from collections.abc import Mapping
import dataclasses
import os
import zlib

import numpy as np
import sonnet as snt
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import inception_spec
from i3d_tf.weights import bundle
from i3d_tf.weights import hub
from i3d_tf.weights import manifest as manifests

_SLOT = "/Momentum"
FIRST_KERNEL = "Conv3d_1a_7x7/conv_3d/w"
HEAD_KERNEL = "Logits/Conv3d_0c_1x1/conv_3d/w"
HEAD_BIAS = "Logits/Conv3d_0c_1x1/conv_3d/b"


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a released checkpoint names its variables, and the rank of its batch-norm vectors."""

  prefix: str
  vector_rank: int

  def shape(self, name: str, array: np.ndarray) -> tuple[int, ...]:
    """The shape in which this layout stores the variable `name`."""
    if "/batch_norm/" in name:
      return (1,) * (self.vector_rank - 1) + (array.size,)
    return array.shape


LAYOUTS: Mapping[str, Layout] = {
  "rgb": Layout("RGB/inception_i3d/", vector_rank=1),
  "flow": Layout("Flow/inception_i3d/", vector_rank=1),
  "rgb600": Layout("", vector_rank=5),
}
PLAIN = Layout("", vector_rank=1)


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
  """What `load_checkpoint` read.

  Attributes:
    prefix: the files' path without `.index`.
    stream: the layout found, a key of `LAYOUTS`.
    momentum: the optimizer's slots by variable name, for layouts that have them; they are not put anywhere.
  """

  prefix: str
  stream: str
  momentum: Mapping[str, np.ndarray]


def load_checkpoint(model: snt.Module, name_or_path: str | os.PathLike, *, new_head: bool = False) -> LoadedCheckpoint:
  """Loads a checkpoint in any of the release's layouts into `model`, all of it or nothing.

  A model that has not been called yet is built for the checkpoint's number of input channels. A model cut at an
  earlier `final_endpoint` takes the part it has.

  Args:
    model: an `InceptionI3d`.
    name_or_path: a released checkpoint's name, fetched to the cache if it is not there, or a path (a prefix, one of
      its files, or a folder with model.ckpt).
    new_head: keep the model's own classifier, which may have another number of classes.

  Raises:
    CheckpointError: listing every variable that is missing, unmatched, misshapen or damaged; the model is unchanged.
    DownloadError: if a released checkpoint cannot be fetched.
  """
  loaded, values = read(name_or_path)
  assign(model, values, loaded.prefix, new_head=new_head)
  return loaded


def save_release_checkpoint(
  model: snt.Module, prefix: str | os.PathLike, *, stream: str, momentum: Mapping[str, np.ndarray] | None = None
) -> None:
  """Writes the model's variables as a TF1 checkpoint in the release's layout for `stream`.

  Args:
    model: an `InceptionI3d` that has been called, built or loaded.
    prefix: path of the files without `.index`.
    stream: 'rgb', 'flow' or 'rgb600', a key of `LAYOUTS`.
    momentum: optimizer slots by variable name, as `LoadedCheckpoint.momentum` has them, written beside the variables.

  Raises:
    ValueError: for an unknown stream, a model without variables, or a slot of no variable.
    CheckpointError: if the files cannot be written.
  """
  if stream not in LAYOUTS:
    raise ValueError(f"stream is {stream!r}; allowed are {', '.join(LAYOUTS)}")
  if model.in_channels is None:
    raise ValueError(f"{model.name} has no variables yet: call, build or load it first")
  values = {name: variable.numpy() for name, variable in named_variables(model).items()}
  strangers = sorted(set(momentum or ()) - set(values))
  if strangers:
    raise ValueError(f"momentum has slots of no variable: {', '.join(strangers)}")
  slots = {name + _SLOT: value.reshape(values[name].shape) for name, value in (momentum or {}).items()}
  write(prefix, values | slots, LAYOUTS[stream])


def write(prefix: str | os.PathLike, values: Mapping[str, np.ndarray], layout: Layout) -> None:
  """Writes variables, by names without stream prefix, as a checkpoint of a layout; CheckpointError if it cannot be."""
  shaped = {name: value.reshape(layout.shape(name, value)) for name, value in values.items()}
  bundle.write(prefix, {layout.prefix + name: value for name, value in shaped.items()})


def named_variables(model: snt.Module) -> dict[str, tf.Variable]:
  """The model's variables by the release's names, without stream prefix and module name."""
  scope = model.name_scope.name
  return {variable.name.removeprefix(scope).removesuffix(":0"): variable for variable in model.variables}


def checksum(model: snt.Module) -> str:
  """The CRC-32 of all variables' values in the order of their names: tells weights apart, wherever they came from."""
  crc = 0
  for _, variable in sorted(named_variables(model).items()):
    crc = zlib.crc32(variable.numpy().tobytes(), crc)
  return f"{crc:08x}"


def read(name_or_path: str | os.PathLike) -> tuple[LoadedCheckpoint, dict[str, np.ndarray]]:
  """Reads a checkpoint; returns what it is, and its variables by names without stream prefix.

  Raises:
    CheckpointError, DownloadError: as `load_checkpoint`.
  """
  if name_or_path in manifests.NAMES:
    prefix = hub.fetch(name_or_path)
    arrays = bundle.read(prefix, manifests.load(name_or_path))
  else:
    prefix = bundle.find_prefix(name_or_path)
    arrays = bundle.read(prefix)
  stream, values, momentum = _split(prefix, arrays)
  return LoadedCheckpoint(prefix, stream, momentum), values


def _split(prefix: str, arrays: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Recognises the layout; returns it with the variables and the slots under names without its prefix."""
  for stream, layout in LAYOUTS.items():
    if layout.prefix + FIRST_KERNEL in arrays:
      # A name without the layout's prefix keeps its full name, and so is reported as unmatched.
      stripped = {name.removeprefix(layout.prefix): array for name, array in arrays.items()}
      slots = {name.removesuffix(_SLOT): array for name, array in stripped.items() if name.endswith(_SLOT)}
      values = {name: array for name, array in stripped.items() if not name.endswith(_SLOT)}
      strangers = [name + _SLOT for name in slots if name not in values]
      bundle.raise_for({"unmatched": strangers}, f"checkpoint {prefix} has slots of no variable")
      return stream, values, slots
  some = ", ".join(list(arrays)[:3])
  raise errors.CheckpointError(
    f"{prefix} is not an I3D checkpoint of the release's layouts: no name ends in {FIRST_KERNEL}; it begins with {some}"
  )


def assign(
  model: snt.Module,
  values: Mapping[str, np.ndarray],
  prefix: str,
  *,
  new_head: bool = False,
  allow_missing: bool = False,
) -> None:
  """Gives a model the values that `read` returned, all or none; `prefix` is the checkpoint's, for messages.

  With `allow_missing` variables that have no value keep theirs.

  Raises:
    CheckpointError: as `load_checkpoint`.
  """
  if model.in_channels is None:
    model.build(values[FIRST_KERNEL].shape[-2])
  variables = named_variables(model)
  skipped = set() if model.has_head else _beyond(model, variables)
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
  bundle.raise_for(problems, f"checkpoint {prefix} does not fit {model.name}", advice)
  for name, variable in wanted.items():
    if name not in values:
      continue
    variable.assign(values[name].reshape(variable.shape))


def _beyond(model: snt.Module, variables: Mapping[str, tf.Variable]) -> set[str]:
  """Names of the whole network that a model cut at an earlier endpoint does not have."""
  return set(inception_spec.variable_shapes(model.architecture)) - set(variables)


def is_head(name: str) -> bool:
  """Whether the variable is of a classifier."""
  return inception_spec.LOGITS in name.split("/")


def _fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
  """Equal shapes, or the same vector with axes of size 1 before it."""
  shape = tuple(shape)
  is_vector = len(shape) == 1 and array.shape == (1,) * (array.ndim - 1) + shape
  return array.dtype == np.float32 and (array.shape == shape or is_vector)


def _describe(array: np.ndarray) -> str:
  kind = "" if array.dtype == np.float32 else f"{array.dtype} "
  return f"{kind}{array.shape}"
