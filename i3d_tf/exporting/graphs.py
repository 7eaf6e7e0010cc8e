"""Networks as graphs for other programs: a SavedModel, TensorFlow Lite or ONNX, with what tells how to use them."""

from collections.abc import Mapping
import dataclasses
import pathlib

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.exporting import classifier as classifier_lib
from i3d_tf.exporting import description
from i3d_tf.exporting import onnx
from i3d_tf.exporting import saved_model
from i3d_tf.exporting import signatures as signatures_lib
from i3d_tf.exporting import tflite

CONVERTERS = {"tflite": tflite.convert, "onnx": onnx.convert}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What is written.

  Attributes:
    format: 'saved_model', 'tflite' or 'onnx'. A TensorFlow Lite model has all axes fixed.
    endpoints: of a SavedModel, those that get a signature.
    num_frames, size: fix the frames, and height and width; None: left open if the network allows it.
    average_space: take any size; see `saved.load`.
    fold_batch_norm: into the convolutions.
  """

  format: str = "saved_model"
  endpoints: tuple[str, ...] = ()
  num_frames: int | None = None
  size: int | None = None
  average_space: bool = False
  fold_batch_norm: bool = False


def write(folder: pathlib.Path, checkpoints: tuple[str, ...], options: Options) -> list[str]:
  """Writes one network, or two whose logits are added, to an empty folder.

  Returns:
    What was written, as lines of text.

  Raises:
    I3dError: if the networks do not go together, or options do not fit them.
    CheckpointError, DownloadError: as `saved.load`.
    OSError: if the folder cannot be written.
  """
  classifier = classifier_lib.Classifier(checkpoints, average_space=options.average_space)
  if options.fold_batch_norm:
    classifier.fold_batch_norm()
  specs = _specs(classifier, options)
  signatures = signatures_lib.make(classifier, specs, options.endpoints)
  if options.format == "saved_model":
    assets = description.describe(classifier, checkpoints, signatures)
    saved_model.write(folder, classifier, specs, signatures, assets)
  else:
    signatures = {signatures_lib.DEFAULT: signatures[signatures_lib.DEFAULT]}
    (folder / f"model.{options.format}").write_bytes(CONVERTERS[options.format](signatures[signatures_lib.DEFAULT]))
    for name, content in description.describe(classifier, checkpoints, signatures).items():
      (folder / name).write_bytes(content)
  return [_title(classifier), *_table(signatures)]


def _specs(classifier: classifier_lib.Classifier, options: Options) -> classifier_lib.Specs:
  if options.format != "tflite":
    return classifier.specs(num_frames=options.num_frames, size=options.size)
  info = classifier.infos[0]
  if len(classifier.infos) > 1 and (options.num_frames is None or options.size is None):
    raise errors.I3dError("--format=tflite fixes the clips; of two networks give --num_frames and --size")
  return classifier.specs(num_frames=options.num_frames or info.num_frames, size=options.size or info.crop, batch=1)


def _title(classifier: classifier_lib.Classifier) -> str:
  networks = " and ".join(f"{info.model} for {info.stream}" for info in classifier.infos)
  number = sum(variable.shape.num_elements() for variable in classifier.variables)
  return f"{networks}, {len(classifier.variables)} variables with {number:,} values"


def _table(signatures: Mapping[str, signatures_lib.Signature]) -> list[str]:
  """A line a signature: what it takes and returns."""
  show = lambda tensors: ", ".join(f"{name} {_shape(tensor)}" for name, tensor in tensors.items())
  rows = [(name, show(each.inputs), show(each.function.structured_outputs)) for name, each in signatures.items()]
  widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
  return [f"  {name:{widths[0]}}  {inputs:{widths[1]}}  {outputs}" for name, inputs, outputs in rows]


def _shape(tensor: tf.Tensor | tf.TensorSpec) -> str:
  return f"[{', '.join('?' if extent is None else str(extent) for extent in tensor.shape)}]"
