"""A network as an ONNX model, float32, by tf2onnx, the extra `onnx`.

A network as a TensorFlow Lite (LiteRT) model, float32, of its built-in operations only.

Networks as graphs for other programs: a SavedModel, TensorFlow Lite or ONNX, with what tells how to use them.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import io
import logging
import pathlib
import tempfile

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.exporting import classifier as classifier_lib
from i3d_tf.exporting import saved_model
from i3d_tf.exporting import signatures as signatures_lib

_OPSET = 18  # of 2022; runtimes of the last years have it, and tf2onnx 1.17 goes to it


def convert_to_onnx(signature: signatures_lib.Signature) -> bytes:
  """The model, its inputs and outputs named as those of `signature`; open axes stay open.

  Raises:
    I3dError: if tf2onnx is not installed, or does not manage the network.
  """
  try:
    import onnx
    import tf2onnx
  except ImportError as error:
    raise errors.I3dError(f"ONNX needs tf2onnx ({error}): pip install 'i3d_tf[onnx]'") from None
  frozen = saved_model.freeze(signature.function)
  names = lambda tensors: [tensor.name for tensor in tensors]
  inputs, outputs = names(frozen.inputs), names(frozen.outputs)
  try:
    with _quiet():
      model, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(), input_names=inputs, output_names=outputs, opset=_OPSET
      )
    # Of loops it makes models that no runtime loads.
    onnx.checker.check_model(model, full_check=True)
  except Exception as error:  # both raise what they like
    raise errors.I3dError(f"tf2onnx does not manage this network: {saved_model.reason(error)}") from None
  given = [tensor.op.name for tensor in frozen.inputs]
  _rename(model.graph, dict(zip([*inputs, *outputs], [*given, *signature.function.structured_outputs], strict=True)))
  return model.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps back what tf2onnx prints, and TensorFlow's warnings of what it calls."""
  logging.disable(logging.WARNING)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.disable(logging.NOTSET)


def _rename(graph, names: dict[str, str]) -> None:
  """Renames inputs or outputs of an ONNX graph."""
  for value in (*graph.input, *graph.output):
    value.name = names.get(value.name, value.name)
  for node in graph.node:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]


def convert_to_tflite(signature: signatures_lib.Signature) -> bytes:
  """The model, with `signature` under the name 'serving_default'; all axes of its inputs must be fixed.

  TensorFlow Lite has 3D convolutions but no 3D pools, which become 2D ones.

  Raises:
    I3dError: if the converter does not manage the network.
  """
  try:
    frozen = saved_model.with_2d_pools(saved_model.freeze(signature.function))
    outputs = signature.function.structured_outputs
    apply = lambda **inputs: dict(zip(outputs, frozen(**inputs), strict=True))
    named = tf.function(apply, autograph=False).get_concrete_function(**signature.inputs)
    # By way of a file, since of a function the converter at times keeps no signature.
    with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
      saved_model.save(tf.Module(), folder, {signatures_lib.DEFAULT: named})
      return tf.lite.TFLiteConverter.from_saved_model(folder).convert()
  except Exception as error:  # the converter raises what it likes
    reason = saved_model.reason(error)
    raise errors.I3dError(f"TensorFlow Lite's converter does not manage this network: {reason}") from None


CONVERTERS = {"tflite": convert_to_tflite, "onnx": convert_to_onnx}


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
    assets = signatures_lib.describe(classifier, checkpoints, signatures)
    saved_model.write(folder, classifier, specs, signatures, assets)
  else:
    signatures = {signatures_lib.DEFAULT: signatures[signatures_lib.DEFAULT]}
    (folder / f"model.{options.format}").write_bytes(CONVERTERS[options.format](signatures[signatures_lib.DEFAULT]))
    for name, content in signatures_lib.describe(classifier, checkpoints, signatures).items():
      (folder / name).write_bytes(content)
  return [_title(classifier), *_table(signatures)]


def _specs(classifier: classifier_lib.Classifier, options: Options) -> classifier_lib.Specs:
  if options.format != "tflite":
    return classifier.specs(num_frames=options.num_frames, size=options.size)
  clip = classifier.infos[0].preprocess
  if len(classifier.infos) > 1 and (options.num_frames is None or options.size is None):
    raise errors.I3dError("--format=tflite fixes the clips; of two networks give --num_frames and --size")
  return classifier.specs(num_frames=options.num_frames or clip.num_frames, size=options.size or clip.crop, batch=1)


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
