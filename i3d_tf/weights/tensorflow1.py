"""TensorFlow checkpoints as named arrays, in any layout that the project reads: the I3D release's and TF-slim's.

The release's layouts differ in the prefix of the names and in the shape of batch-norm vectors; the Kinetics-600 one
also holds the optimizer's Momentum slots (google-deepmind/kinetics-i3d data/checkpoints). In TF-slim's layout of
Inception-v1 the names begin with InceptionV1/ and kernels have no time axis (tensorflow/models
research/slim/nets/inception_v1.py); the checkpoint that slim publishes is a single file, TensorFlow's older format,
which is read like the newer one.
"""

from collections.abc import Mapping
import dataclasses
import math
import os
import pathlib
import re
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import workdir
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import containers
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import sources

INDEX_SUFFIX = ".index"
DATA_SUFFIX = ".data-00000-of-00001"
_SAVED_MODEL = "variables/variables"  # prefix of the checkpoint in a SavedModel
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # end of the keys in checkpoints of objects
_SAVE_COUNTER = "save_counter"  # of tf.train.Checkpoint itself
_STRING = tf.string.as_datatype_enum
_MAX_OLD_BYTES = 1 << 34
_MOST_NAMED = 5
_SLOT = "/Momentum"
_FIRST_KERNEL = "Conv3d_1a_7x7/conv_3d/w"
_SLIM_KERNEL, _SLIM_BIAS = "InceptionV1/Conv2d_1a_7x7/weights", "InceptionV1/Logits/Conv2d_0c_1x1/biases"
# What training with slim writes beside the variables: counters, and what slim's optimizers keep for each of them.
_SLIM_COUNTERS = ("global_step", "beta1_power", "beta2_power")
_SLIM_SLOT = re.compile(r"/(Adadelta|Adagrad|Adam|ExponentialMovingAverage|Ftrl|Momentum|RMSProp)(_\d)?$")


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a released checkpoint names its variables, and the rank of its batch-norm vectors."""

  prefix: str
  vector_rank: int

  def shape(self, name: str, array: np.ndarray) -> tuple[int, ...]:
    """Returns the shape in which this layout stores a variable.

    Args:
      name: Name of the variable.
      array: Its value; a batch-norm vector may have any rank.
    """
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
  """What was read from a checkpoint beside the variables.

  Attributes:
    prefix: Path of the files without '.index'.
    stream: Layout found, a key of `LAYOUTS`.
    momentum: The optimizer's slots by variable name, for layouts that have them.
  """

  prefix: str
  stream: str
  momentum: Mapping[str, np.ndarray]


def find_prefix(path: str | os.PathLike) -> str:
  """Returns the prefix, the path without '.index', of the checkpoint that a path means.

  Args:
    path: A checkpoint's prefix, one of its two files, or a folder that holds model.ckpt, TensorFlow's list of
      checkpoints, or a SavedModel.

  Raises:
    CheckpointError: If there is no checkpoint.
  """
  path = os.fspath(path)
  if (prefix := next(iter(_prefixes(path, "model.ckpt", _SAVED_MODEL)), None)) is not None:
    return prefix
  raise errors.CheckpointError(
    f"there is no checkpoint at {path}: give the folder of a run of train, the prefix of a TensorFlow checkpoint "
    f"(the path without {INDEX_SUFFIX}), a PyTorch file, or one of {', '.join(manifests.NAMES)}, "
    f"{sources.INCEPTION_V1}"
  )


def read(prefix: str, manifest: manifests.Manifest | None = None) -> dict[str, np.ndarray]:
  """Returns every tensor of a checkpoint by name; TensorFlow compares each with the checksum in the index.

  Args:
    prefix: Path of the checkpoint without '.index'.
    manifest: Names, shapes and checksums that the checkpoint must also have.

  Raises:
    CheckpointError: If tensors are damaged, missing, extra or misshapen; all are listed.
  """
  if os.path.isfile(f"{prefix}{INDEX_SUFFIX}"):
    places = containers.read_index(prefix)
    names = [name for name, place in places.items() if place.dtype != _STRING]
    get = lambda name: _read_tensor(prefix, name, places[name])
  else:  # a file of the older format
    names = _names(prefix)
    get = tf.train.load_checkpoint(prefix).get_tensor
  arrays, damaged = {}, []
  for name in names:
    try:
      arrays[name] = get(name)
    except Exception as error:  # as in `files.guarded`: TensorFlow's readers and NumPy raise many kinds
      damaged.append(f"{name} ({errors.first_line(error)})")
  problems = {"damaged": damaged, "not finite": _infinite(arrays)}
  if manifest is not None:
    read_or_damaged = set(names)
    problems["missing"] = [name for name in manifest.tensors if name not in read_or_damaged]
    problems["not in the release"] = [name for name in names if name not in manifest.tensors]
    problems["different from the release"] = [
      name for name in arrays if name in manifest.tensors and not _equals(arrays[name], *manifest.tensors[name])
    ]
  raise_for(problems, f"checkpoint {prefix} is not sound")
  return _by_full_name(prefix, arrays)


def check_finite(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
  """Checks that weights have neither NaN nor infinite values, which a network's answers need not show.

  Args:
    arrays: The weights by name.
    path: Their file, for the message.

  Raises:
    CheckpointError: If they have; the tensors are named.
  """
  raise_for({"not finite": _infinite(arrays)}, f"{path} is not sound")


def _infinite(arrays: Mapping[str, np.ndarray]) -> list[str]:
  return [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]


def _read_tensor(prefix: str, name: str, place: containers.Place) -> np.ndarray:
  """Reads a tensor of a checkpoint; short floating-point numbers become float32."""
  dtype = tf.dtypes.as_dtype(place.dtype)
  if not (dtype.is_floating or dtype.is_integer or dtype.is_bool) or dtype.is_quantized:
    raise ValueError(f"it is of type {dtype.name}")
  if not place.is_sliced and math.prod(place.shape) * dtype.size != place.size:
    raise ValueError(f"its shape {place.shape} does not fit its {place.size} bytes")
  if place.is_sliced:  # one of several parts, which TensorFlow puts together
    if math.prod(place.shape) * dtype.size > os.path.getsize(place.path):
      raise ValueError(f"its shape {place.shape} is larger than the file")
    array = tf.train.load_checkpoint(prefix).get_tensor(name)
  else:
    array = np.frombuffer(place.read(), dtype.as_numpy_dtype).reshape(place.shape)
  return array.astype(np.float32) if dtype in (tf.float16, tf.bfloat16) else array


def _by_full_name(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Names the variables of a checkpoint of objects, such as that in a SavedModel, as they were called."""
  if not any(name.endswith(_VALUE) for name in arrays):
    return arrays
  graph = _read_graph(prefix)
  found: dict[str, np.ndarray] = {}
  for node in graph.nodes:
    for attribute in node.attributes:
      key, name = attribute.checkpoint_key, attribute.full_name
      if key in arrays and name and name != _SAVE_COUNTER:
        if name in found:
          raise errors.CheckpointError(f"{prefix} holds several networks; give the checkpoint of one")
        found[name] = arrays[key]
  return found or arrays


def _read_graph(prefix: str) -> Any:
  """Reads which objects a checkpoint is of: a scalar text after its length and that number's checksum."""
  path = f"{prefix}{INDEX_SUFFIX}"
  with files.guarded(path, "the index of a checkpoint", errors.CheckpointError):
    place = containers.read_index(prefix)["_CHECKPOINTABLE_OBJECT_GRAPH"]
    with open(place.path, "rb") as file:
      file.seek(place.offset)
      content = file.read(min(place.size, os.path.getsize(place.path)))
    start = next(index for index, byte in enumerate(content[:10]) if byte < 128) + 1 + 4
    return trackable_object_graph_pb2.TrackableObjectGraph.FromString(content[start:])


def write(prefix: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a checkpoint whose files appear only when complete, sorted by name as TF1's Saver does.

  Args:
    prefix: Path of the files without '.index'.
    arrays: Tensors by name.

  Raises:
    CheckpointError: If the files cannot be written.
  """
  prefix = pathlib.Path(prefix)
  names = sorted(arrays)
  try:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with workdir.temporary_folder(prefix.parent, "checkpoint") as folder:
      staged = os.path.join(folder, "checkpoint")
      tf.raw_ops.SaveV2(
        prefix=staged,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
      )
      for suffix in (DATA_SUFFIX, INDEX_SUFFIX):
        os.replace(staged + suffix, os.fspath(prefix) + suffix)
  except OSError as error:
    raise errors.CheckpointError(f"cannot write the checkpoint {prefix}: {errors.describe_os_error(error)}") from None
  except tf.errors.OpError as error:
    raise errors.CheckpointError(f"cannot write the checkpoint {prefix}: {errors.first_line(error)}") from None


def read_release(
  prefix: str, manifest: manifests.Manifest | None = None
) -> tuple[LoadedCheckpoint, dict[str, np.ndarray]]:
  """Returns what a checkpoint of I3D is, and its variables by names without the stream's prefix.

  Args:
    prefix: Path of the checkpoint without '.index'.
    manifest: Names, shapes and checksums that the checkpoint must also have.

  Raises:
    CheckpointError: If it is damaged, or in none of the layouts.
  """
  arrays = read(prefix, manifest)
  for stream, layout in _layouts_of(arrays).items():
    if layout.prefix + _FIRST_KERNEL in arrays:
      # A name without the layout's prefix keeps its full name, and so is reported as unmatched.
      stripped = {name.removeprefix(layout.prefix): array for name, array in arrays.items()}
      slots = {name.removesuffix(_SLOT): array for name, array in stripped.items() if name.endswith(_SLOT)}
      values = {name: array for name, array in stripped.items() if not name.endswith(_SLOT)}
      values = {name: array for name, array in values.items() if not _is_bookkeeping(name, values)}
      strangers = [name + _SLOT for name in slots if name not in values]
      raise_for({"unmatched": strangers}, f"checkpoint {prefix} has slots of no variable")
      return LoadedCheckpoint(prefix, stream, slots), values
  some = ", ".join(files.printable(name, 80) for name in list(arrays)[:3])
  raise errors.CheckpointError(
    f"{prefix} is not an I3D checkpoint of the release's layouts: no name ends in {_FIRST_KERNEL}; it begins with "
    f"{some}"
  )


def _layouts_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Layout]:
  """The release's layouts, and for I3D within other scopes, as in SavedModels, that of the stream with their prefix."""
  found = [name for name in arrays if name.endswith(f"/{_FIRST_KERNEL}")]
  if len(found) != 1 or any(found[0] == layout.prefix + _FIRST_KERNEL for layout in LAYOUTS.values()):
    return dict(LAYOUTS)
  stream = "flow" if arrays[found[0]].shape[-2:-1] == (2,) else "rgb"
  return {**LAYOUTS, stream: Layout(found[0].removesuffix(_FIRST_KERNEL), vector_rank=1)}


def write_release(
  prefix: str | os.PathLike,
  values: Mapping[str, np.ndarray],
  layout: Layout,
  momentum: Mapping[str, np.ndarray] | None = None,
) -> None:
  """Writes variables in one of the release's layouts.

  Args:
    prefix: Path of the files without '.index'.
    values: Variables by names without the stream's prefix.
    layout: A value of `LAYOUTS`, or `PLAIN`.
    momentum: Optimizer slots by variable name, written beside the variables.

  Raises:
    ValueError: If there is a slot of no variable.
    CheckpointError: If the files cannot be written.
  """
  momentum = momentum or {}
  if strangers := sorted(set(momentum) - set(values)):
    raise ValueError(f"momentum has slots of no variable: {', '.join(strangers)}")
  arrays = {**values, **{name + _SLOT: value.reshape(values[name].shape) for name, value in momentum.items()}}
  write(prefix, {layout.prefix + name: value.reshape(layout.shape(name, value)) for name, value in arrays.items()})


def is_slim(path: str | os.PathLike) -> bool:
  """Returns whether `read_slim` is the one to read a checkpoint: by the names in it, or as a file of the older format.

  Args:
    path: As `read_slim` takes it.
  """
  found = _find_slim(path)
  if found is None or not os.path.isfile(found + INDEX_SUFFIX):
    return found is not None
  try:
    return _SLIM_KERNEL in _names(found)
  except errors.CheckpointError:
    return False


def read_slim(path: str | os.PathLike, *, width_multiplier: float = 1.0) -> dict[str, np.ndarray]:
  """Reads a checkpoint of Inception-v1 with its classifier; counters and optimizers' slots are left out.

  Args:
    path: A checkpoint file, a prefix, one of its files, or a folder with inception_v1.ckpt or model.ckpt.
    width_multiplier: Width of the network.

  Returns:
    230 values by the names of `InceptionV1`'s variables, kernels `[1, kh, kw, Cin, Cout]`.

  Raises:
    CheckpointError: If variables are missing, unmatched, misshapen or damaged; all are listed.
  """
  found = _find_slim(path)
  if found is None:
    raise errors.CheckpointError(f"there is no checkpoint of slim's Inception-v1 at {os.fspath(path)}")
  _names(found)  # explains a file that is no checkpoint
  arrays = read(found)
  kernel, bias = arrays.get(_SLIM_KERNEL), arrays.get(_SLIM_BIAS)
  own_shapes = spec.variable_shapes(
    spec.INCEPTION_V1,
    in_channels=3 if kernel is None or kernel.ndim != 4 else kernel.shape[-2],
    num_classes=sources.SLIM_CLASSES if bias is None else bias.size,
    width_multiplier=width_multiplier,
  )
  shapes = {_slim_name(name): _slim_shape(name, shape) for name, shape in own_shapes.items()}
  problems = {
    "missing": [name for name in shapes if name not in arrays],
    "unmatched": [name for name in arrays if name not in shapes and not _is_bookkeeping(name, shapes)],
    "misshapen": [
      f"{name} {array.dtype} {array.shape} for {shapes[name]}"
      for name, array in arrays.items()
      if name in shapes and (array.dtype != np.float32 or array.shape != shapes[name])
    ],
  }
  raise_for(problems, f"checkpoint {found} is not of slim's Inception-v1")
  return {name: arrays[_slim_name(name)].reshape(shape) for name, shape in own_shapes.items()}


def write_slim(prefix: str | os.PathLike, values: Mapping[str, np.ndarray]) -> None:
  """Writes an `InceptionV1`'s variables, of any width, under slim's names, in TensorFlow's present format.

  Args:
    prefix: Path of the files without '.index'.
    values: Variables as `read_slim` returns them.

  Raises:
    ValueError: If variables are missing, or Inception-v1 does not have them; all are listed.
    CheckpointError: If the files cannot be written.
  """
  if others := sorted(set(values) ^ set(spec.variable_shapes(spec.INCEPTION_V1))):
    raise ValueError(f"these are not Inception-v1's variables; missing or unknown are {', '.join(others)}")
  write(prefix, {_slim_name(name): value.reshape(_slim_shape(name, value.shape)) for name, value in values.items()})


def raise_for(problems: Mapping[str, list[str]], what: str, advice: str = "") -> None:
  """Raises an error if there is any problem.

  Args:
    problems: Names by the kind of problem, for example 'missing'.
    what: Beginning of the message.
    advice: End of the message.

  Raises:
    CheckpointError: If there is a problem; of each kind the first are listed.
  """
  found = [f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names]
  if found:
    raise errors.CheckpointError(f"{what}: {'; '.join(found)}{advice}")


def _some(names: list[str]) -> str:
  """The first names of a list that may be long, and how many there are beside them."""
  listed = ", ".join(files.printable(name, 200) for name in names[:_MOST_NAMED])
  return listed + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")


def _prefixes(path: str, *files: str) -> list[str]:
  """The checkpoints with an index that a path may mean: itself, one of `files` in it, or what its suffix belongs to."""
  places = [path, *(os.path.join(path, file) for file in files)]
  if listed := _listed(path):
    places.append(listed)
  places += [path.removesuffix(suffix) for suffix in (INDEX_SUFFIX, DATA_SUFFIX) if path.endswith(suffix)]
  return [place for place in places if os.path.isfile(place + INDEX_SUFFIX)]


def _listed(folder: str) -> str:
  """The newest checkpoint by the file `checkpoint` that TensorFlow keeps in a folder; '' if there is none."""
  try:
    with open(os.path.join(folder, "checkpoint"), "rb") as file:
      text = files.read_bounded(file, 1 << 20).decode("utf-8", "replace")
  except (OSError, ValueError):
    return ""
  match = re.search(r'^model_checkpoint_path: "([^"\\\0]+)"', text, re.MULTILINE)
  # A folder that was moved lists the paths that it had.
  return os.path.join(folder, os.path.basename(match[1])) if match else ""


def _find_slim(path: str | os.PathLike) -> str | None:
  """The prefix or file of the checkpoint that a path means, of either format; None if there is none."""
  path, files = os.fspath(path), (sources.SLIM_CHECKPOINT, "model.ckpt")
  places = [path, *(os.path.join(path, file) for file in files)]
  return next(iter([*_prefixes(path, *files), *filter(os.path.isfile, places)]), None)


def _names(prefix: str, what: str = "") -> list[str]:
  """The names of a checkpoint's tensors, sorted; `what` is the file in the error's message, the prefix by default."""
  try:
    if os.path.isfile(f"{prefix}{INDEX_SUFFIX}"):
      return list(containers.read_index(prefix))
    with files.opened(prefix) as file:  # TensorFlow reads no more of it than it has
      if file.seek(0, os.SEEK_END) > _MAX_OLD_BYTES:
        raise ValueError("it is too large for the older format")
    return sorted(tf.train.load_checkpoint(prefix).get_variable_to_shape_map())
  except errors.CheckpointError:
    raise
  except Exception as error:  # as in `files.guarded`: TensorFlow raises many kinds
    reason = errors.first_line(error)
    raise errors.CheckpointError(f"{what or prefix} cannot be read as a checkpoint: {reason}") from None


def _equals(array: np.ndarray, shape: tuple[int, ...], masked_crc: int) -> bool:
  return array.dtype == np.float32 and array.shape == shape and manifests.masked_crc32c(array) == masked_crc


def _slim_name(name: str) -> str:
  for own, slim in (("conv_3d/w", "weights"), ("conv_3d/b", "biases"), ("batch_norm", "BatchNorm")):
    name = name.replace(own, slim)
  return f"InceptionV1/{name}"


def _slim_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  return shape[1:] if name.endswith("/w") else shape


def _is_bookkeeping(name: str, variables: Mapping[str, Any]) -> bool:
  return name in _SLIM_COUNTERS or (_SLIM_SLOT.search(name) is not None and _SLIM_SLOT.sub("", name) in variables)
