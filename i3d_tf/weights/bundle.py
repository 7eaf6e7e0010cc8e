"""Reading and writing TensorFlow checkpoint files as named arrays, whole or not at all."""

from collections.abc import Mapping
import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.weights import manifest as manifests

INDEX_SUFFIX = ".index"
DATA_SUFFIX = ".data-00000-of-00001"
# What TensorFlow raises for damaged files.
_READ_ERRORS = (tf.errors.OpError, RuntimeError, ValueError, LookupError, MemoryError)


def find_prefix(path: str | os.PathLike) -> str:
  """The checkpoint prefix that `path` means: a prefix, one of its two files, or a folder holding model.ckpt.

  Raises:
    CheckpointError: if there is no checkpoint.
  """
  path = os.fspath(path)
  candidates = [path, os.path.join(path, "model.ckpt")]
  candidates += [path.removesuffix(suffix) for suffix in (INDEX_SUFFIX, DATA_SUFFIX) if path.endswith(suffix)]
  for prefix in candidates:
    if os.path.isfile(prefix + INDEX_SUFFIX):
      return prefix
  raise errors.CheckpointError(
    f"there is no checkpoint at {path}: give the folder of a run of train, the prefix of a TensorFlow checkpoint "
    f"(the path without {INDEX_SUFFIX}), a PyTorch file, or one of {', '.join(manifests.NAMES)}, inception_v1"
  )


def read(prefix: str, manifest: manifests.Manifest | None = None) -> dict[str, np.ndarray]:
  """Reads every tensor; TensorFlow compares each with the checksum in the index.

  Args:
    prefix: path of the checkpoint without `.index`.
    manifest: names, shapes and checksums that the checkpoint must have, too.

  Raises:
    CheckpointError: listing every tensor that is damaged, missing, extra or misshapen.
  """
  try:
    reader = tf.train.load_checkpoint(prefix)
    names = sorted(reader.get_variable_to_shape_map())
  except _READ_ERRORS as error:
    reason = errors.first_line(error)
    raise errors.CheckpointError(f"{prefix}{INDEX_SUFFIX} cannot be read as a checkpoint: {reason}") from None
  arrays, damaged = {}, []
  for name in names:
    try:
      arrays[name] = reader.get_tensor(name)
    except _READ_ERRORS as error:
      damaged.append(f"{name} ({errors.first_line(error)})")
  problems = {"damaged": damaged}
  if manifest is not None:
    read_or_damaged = set(names)
    problems["missing"] = [name for name in manifest.tensors if name not in read_or_damaged]
    problems["not in the release"] = [name for name in names if name not in manifest.tensors]
    problems["different from the release"] = [
      name for name in arrays if name in manifest.tensors and not _equals(arrays[name], *manifest.tensors[name])
    ]
  raise_for(problems, f"checkpoint {prefix} is not sound")
  return arrays


def write(prefix: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes `arrays` as a checkpoint whose files appear only when complete, sorted by name as TF1's Saver does.

  Raises:
    CheckpointError: if the files cannot be written.
  """
  prefix = pathlib.Path(prefix)
  names = sorted(arrays)
  try:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=prefix.parent, prefix=f".{prefix.name}.") as folder:
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


def raise_for(problems: Mapping[str, list[str]], what: str, advice: str = "") -> None:
  """Raises a CheckpointError that lists every problem by kind, if there is any."""
  found = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names]
  if found:
    raise errors.CheckpointError(f"{what}: {'; '.join(found)}{advice}")


def _equals(array: np.ndarray, shape: tuple[int, ...], masked_crc: int) -> bool:
  return array.dtype == np.float32 and array.shape == shape and manifests.masked_crc32c(array) == masked_crc
