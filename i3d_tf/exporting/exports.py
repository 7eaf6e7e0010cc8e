"""Exporting networks for other programs: as graphs in float32 with files that describe them, or their weights alone.

Graphs are SavedModels, TensorFlow Lite (LiteRT) models or ONNX models. TensorFlow Lite models have built-in operations
only; ONNX models are made by tf2onnx, which is in the extra `onnx`.
"""

from collections.abc import Iterator, Mapping
import contextlib
import io
import logging
import os
import pathlib
import tempfile

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.exporting import config as config_lib
from i3d_tf.exporting import saved_model
from i3d_tf.exporting import signatures as signatures_lib
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.models import units
from i3d_tf.weights import pytorch
from i3d_tf.weights import pytorch_inception
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

_OPSET = 18  # of 2022: current runtimes have it, and tf2onnx 1.17 supports it


def _to_onnx(signature: signatures_lib.Signature) -> bytes:
  """Converts to an ONNX model whose inputs and outputs have the names of the signature; open axes stay open."""
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
    # Loops become models that no runtime can load.
    onnx.checker.check_model(model, full_check=True)
  except Exception as error:  # both raise errors of many types
    raise errors.I3dError(f"tf2onnx cannot convert this network: {saved_model.reason(error)}") from None
  given = [tensor.op.name for tensor in frozen.inputs]
  _rename(model.graph, dict(zip([*inputs, *outputs], [*given, *signature.function.structured_outputs], strict=True)))
  return model.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Suppresses what tf2onnx prints, and TensorFlow's warnings about functions that it calls."""
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


def _to_tflite(signature: signatures_lib.Signature) -> bytes:
  """Converts to a model with the signature 'serving_default'; all axes of the inputs must be fixed.

  TensorFlow Lite has 3D convolutions but no 3D pools, which become 2D pools.
  """
  try:
    frozen = saved_model.with_2d_pools(saved_model.freeze(signature.function))
    outputs = signature.function.structured_outputs
    apply = lambda **inputs: dict(zip(outputs, frozen(**inputs), strict=True))
    named = tf.function(apply, autograph=False).get_concrete_function(**signature.inputs)
    # Through a file, since from a function the converter does not always keep the signature.
    with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
      saved_model.save(tf.Module(), folder, {signatures_lib.DEFAULT: named})
      return tf.lite.TFLiteConverter.from_saved_model(folder).convert()
  except Exception as error:  # the converter raises errors of many types
    reason = saved_model.reason(error)
    raise errors.I3dError(f"TensorFlow Lite's converter cannot convert this network: {reason}") from None


_CONVERTERS = {"tflite": _to_tflite, "onnx": _to_onnx}


def write_graph(folder: pathlib.Path, checkpoints: tuple[str, ...], config: config_lib.GraphConfig) -> list[str]:
  """Exports one network, or two whose logits are added, to an empty folder.

  Args:
    folder: to write to.
    checkpoints: one, or two of RGB and flow.
    config: how they are exported.

  Returns:
    Lines of text that say what was written.

  Raises:
    I3dError: if the networks do not go together or do not take such clips, or if the converter fails.
    CheckpointError, DownloadError: as `saved.load`.
    OSError: if the folder cannot be written.
  """
  classifier = classifier_lib.Classifier(checkpoints, average_space=config.average_space)
  if config.fold_batch_norm:
    _fold_batch_norm(classifier)
  specs = _specs(classifier, config)
  signatures = signatures_lib.make(classifier, specs, config.endpoints)
  if config.format == "saved_model":
    assets = signatures_lib.describe(classifier, signatures)
    saved_model.write(folder, classifier, specs, signatures, assets)
  else:
    signatures = {signatures_lib.DEFAULT: signatures[signatures_lib.DEFAULT]}
    (folder / f"model.{config.format}").write_bytes(_CONVERTERS[config.format](signatures[signatures_lib.DEFAULT]))
    for name, content in signatures_lib.describe(classifier, signatures).items():
      (folder / name).write_bytes(content)
  return [_title(classifier), *_table(signatures)]


def _fold_batch_norm(classifier: classifier_lib.Classifier) -> None:
  """Folds all batch norms that follow a convolution into kernels and biases, except those within an LSTM."""
  for network in classifier.networks.values():
    for module in network.model.submodules:
      if isinstance(module, units.Unit3D):
        module.fold_batch_norm()


def _specs(classifier: classifier_lib.Classifier, config: config_lib.GraphConfig) -> signatures_lib.Specs:
  if config.format != "tflite":
    return signatures_lib.clip_specs(classifier, num_frames=config.num_frames, size=config.size)
  clip = classifier.preprocess
  if len(classifier.networks) > 1 and (config.num_frames is None or config.size is None):
    raise errors.I3dError("format is tflite, which fixes the clips; for two networks give num_frames and size")
  num_frames, size = config.num_frames or clip.num_frames, config.size or clip.crop
  return signatures_lib.clip_specs(classifier, num_frames=num_frames, size=size, batch=1)


def _title(classifier: classifier_lib.Classifier) -> str:
  networks = classifier.networks.values()
  names = " and ".join(f"{network.info.model} for {network.info.stream}" for network in networks)
  variables = [variable for network in networks for variable in network.model.variables]
  number = sum(variable.shape.num_elements() for variable in variables)
  return f"{names}, {len(variables)} variables with {number:,} values"


def _table(signatures: Mapping[str, signatures_lib.Signature]) -> list[str]:
  """Returns a line per signature: its inputs and outputs."""
  show = lambda tensors: ", ".join(f"{name} {_shape(tensor)}" for name, tensor in tensors.items())
  rows = [(name, show(each.inputs), show(each.function.structured_outputs)) for name, each in signatures.items()]
  widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
  return [f"  {name:{widths[0]}}  {inputs:{widths[1]}}  {outputs}" for name, inputs, outputs in rows]


def _shape(tensor: tf.Tensor | tf.TensorSpec) -> str:
  return f"[{', '.join('?' if extent is None else str(extent) for extent in tensor.shape)}]"


def write_weights(folder: pathlib.Path, name_or_path: str | os.PathLike, config: config_lib.WeightsConfig) -> str:
  """Writes the weights, and the list of the class names, to an empty folder.

  Args:
    folder: to write to.
    name_or_path: the network, as `saved.load` takes it.
    config: how it is exported.

  Returns:
    What was written, in a few words.

  Raises:
    I3dError: if the format is not for this network.
    CheckpointError, DownloadError: as `saved.load`, and if the files cannot be written.
    OSError: likewise.
  """
  if config.format in config_lib.PYTORCH_FORMATS:
    pytorch.import_torch()  # fails at once if it is not installed
  values, info = saved.read(name_or_path)
  if config.format != "network" and info.model != "i3d":
    raise errors.I3dError(f"{name_or_path} is a network {info.model}; the format {config.format} is for i3d only")
  if config.format == "network":
    saved.save_values(folder, values, info)
  elif config.format == "release":
    tensorflow1.write_release(folder / "model.ckpt", values, tensorflow1.LAYOUTS[config.layout or info.stream])
  else:
    pytorch.write(folder / "model.pt", pytorch_inception.to_torch(values, pytorch_inception.I3D_LAYOUTS[config.format]))
  for name, content in signatures_lib.class_list(info.classes).items():
    (folder / name).write_bytes(content)
  number = sum(value.size for value in values.values())
  return f"{info.model} for {info.stream}, {len(values)} variables with {number:,} values"
