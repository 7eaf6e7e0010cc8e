"""Exporting networks for other programs: as graphs in float32 with files that describe them, or their weights alone.

Graphs are SavedModels, TensorFlow Lite (LiteRT) models or ONNX models. TensorFlow Lite models have built-in operations
only; ONNX models are made by tf2onnx, which is in the extra `onnx`.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import io
import logging
import os
import pathlib
import tempfile
import textwrap
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from i3d_tf import errors
from i3d_tf import exporting
from i3d_tf.exporting import openvino
from i3d_tf.exporting import signatures as signatures_lib
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.models import units
from i3d_tf.weights import pytorch
from i3d_tf.weights import pytorch_swin
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

_OPSET = 18  # of 2022: current runtimes have it, and tf2onnx 1.17 supports it
_TORCHVISION = "torchvision"  # the format of Swin transformers
_POOLS = {"MaxPool3D": tf.nn.max_pool2d, "AvgPool3D": tf.nn.avg_pool2d}
ConcreteFunction: TypeAlias = tf.types.experimental.ConcreteFunction


def _to_onnx(signature: signatures_lib.Signature) -> bytes:
  """Converts to an ONNX model whose inputs and outputs have the names of the signature; open axes stay open."""
  try:
    import onnx
    import tf2onnx
  except ImportError as error:
    raise errors.I3dError(f"ONNX needs tf2onnx ({error}): pip install '.[onnx]' in a clone of i3d_tf") from None
  frozen = freeze(signature.function)
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
    raise errors.I3dError(f"tf2onnx cannot convert this network: {_reason(error)}") from None
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
    frozen = with_2d_pools(freeze(signature.function))
    outputs = signature.function.structured_outputs
    apply = lambda **inputs: dict(zip(outputs, frozen(**inputs), strict=True))
    named = tf.function(apply, autograph=False).get_concrete_function(**signature.inputs)
    # Through a file, since from a function the converter does not always keep the signature.
    with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
      _save(tf.Module(), folder, {signatures_lib.DEFAULT: named})
      return tf.lite.TFLiteConverter.from_saved_model(folder).convert()
  except Exception as error:  # the converter raises errors of many types
    raise errors.I3dError(f"TensorFlow Lite's converter cannot convert this network: {_reason(error)}") from None


_CONVERTERS = {"tflite": _to_tflite, "onnx": _to_onnx}


def write_graph(folder: pathlib.Path, checkpoints: tuple[str, ...], config: exporting.GraphConfig) -> list[str]:
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
  precision = "float32" if config.precision == "int8" else config.precision  # which is made from that
  classifier = classifier_lib.Classifier(checkpoints, average_space=config.average_space, precision=precision)
  if config.fold_batch_norm:
    _fold_batch_norm(classifier)
  specs = _specs(classifier, config)
  signatures = signatures_lib.make(classifier, specs, config.endpoints)
  if config.with_flow:
    signatures |= signatures_lib.of_frames(classifier, specs)
  lines = []
  if config.format == "saved_model":
    assets = signatures_lib.describe(classifier, signatures)
    _write(folder, classifier, specs, signatures, assets)
  else:
    signatures = {signatures_lib.DEFAULT: signatures[signatures_lib.DEFAULT]}
    if config.format == "openvino":
      lines = openvino.write(folder, classifier, specs, config)
    else:
      (folder / f"model.{config.format}").write_bytes(_CONVERTERS[config.format](signatures[signatures_lib.DEFAULT]))
    for name, content in signatures_lib.describe(classifier, signatures).items():
      (folder / name).write_bytes(content)
  return [_title(classifier), *_table(signatures), *lines]


def _fold_batch_norm(classifier: classifier_lib.Classifier) -> None:
  """Folds all batch norms that follow a convolution into kernels and biases, except those within an LSTM."""
  for network in classifier.networks.values():
    for module in network.model.submodules:
      if isinstance(module, units.Unit3D):
        module.fold_batch_norm()


def _specs(classifier: classifier_lib.Classifier, config: exporting.GraphConfig) -> signatures_lib.Specs:
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


def write_weights(folder: pathlib.Path, name_or_path: str | os.PathLike, config: exporting.WeightsConfig) -> str:
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
  values, info = _read_weights(name_or_path, config.format)
  if config.format == "network":
    saved.save_values(folder, values, info)
  elif config.format == "release":
    tensorflow1.write_release(folder / "model.ckpt", values, tensorflow1.LAYOUTS[config.layout or info.stream])
  else:
    pytorch.write(folder / "model.pt", _state_dict(values, info, config.format))
  for name, content in signatures_lib.class_list(info.classes).items():
    (folder / name).write_bytes(content)
  return _describe_weights(values, info)


def write_state_dict(path: str | os.PathLike, name_or_path: str | os.PathLike, layout: str) -> str:
  """Writes the weights of a network to a file of PyTorch's.

  Args:
    path: the file.
    name_or_path: the network, as `saved.load` takes it.
    layout: one of `exporting.PYTORCH_FORMATS`.

  Returns:
    What was written, in a few words.

  Raises:
    I3dError: if the format is not for this network.
    CheckpointError, DownloadError: as `saved.load`.
    OSError: if the file cannot be written.
  """
  values, info = _read_weights(name_or_path, layout)
  pytorch.write(path, _state_dict(values, info, layout))
  return _describe_weights(values, info)


def _read_weights(name_or_path: str | os.PathLike, layout: str) -> tuple[Mapping[str, np.ndarray], saved.ModelInfo]:
  values, info = saved.read(name_or_path)
  takes = pytorch_swin.MODELS if layout == _TORCHVISION else ("i3d",)
  if layout != "network" and info.model not in takes:
    names = ", ".join(takes)
    raise errors.I3dError(f"{name_or_path} is a network {info.model}; the format {layout} is for {names} only")
  return values, info


def _state_dict(values: Mapping[str, np.ndarray], info: saved.ModelInfo, layout: str) -> dict[str, np.ndarray]:
  if layout == _TORCHVISION:
    return pytorch_swin.to_torch(values, info.model)
  return pytorch.to_torch(values, pytorch.I3D_LAYOUTS[layout])


def _describe_weights(values: Mapping[str, np.ndarray], info: saved.ModelInfo) -> str:
  number = sum(value.size for value in values.values())
  return f"{info.model} for {info.stream}, {len(values)} variables with {number:,} values"


def freeze(function: ConcreteFunction) -> ConcreteFunction:
  """Returns the function with the current values of its variables as constants.

  Args:
    function: a traced function.
  """
  return convert_to_constants.convert_variables_to_constants_v2(function)


def with_2d_pools(function: ConcreteFunction) -> ConcreteFunction:
  """Replaces each 3D pool by two 2D pools, over space and then over time, which give the same values, padding included.

  Args:
    function: a frozen function, of which all shapes are known.

  Returns:
    The function without 3D pools, for runtimes that do not have them.
  """
  graph = function.graph.as_graph_def()
  nodes = {node.name: node for node in graph.node}
  for operation in function.graph.get_operations():
    if operation.type in _POOLS:
      node = nodes.pop(operation.name)
      nodes |= {new.name: new for new in _pool_2d(operation, node.input[0])}
  del graph.node[:]
  graph.node.extend(nodes.values())
  imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
  names = lambda tensors: [imported.graph.get_tensor_by_name(tensor.name) for tensor in tensors]
  return imported.prune(names(function.inputs), names(function.outputs))


def _reason(error: Exception) -> str:
  """The start of the first line of a converter's error."""
  return textwrap.shorten(errors.first_line(error), 200, placeholder=" ...")


def _pool_2d(operation: tf.Operation, source: str) -> Iterator[tf.compat.v1.NodeDef]:
  """Yields the nodes that replace a pool over `[B, T, H, W, C]`; the last one has its name."""
  pool, name = _POOLS[operation.type], operation.name
  batch, frames, height, width, channels = operation.inputs[0].shape
  result = operation.outputs[0].shape
  (_, *kernel, _), (_, *stride, _) = operation.get_attr("ksize"), operation.get_attr("strides")
  padding = operation.get_attr("padding").decode()
  with tf.Graph().as_default() as graph:
    place = tf.compat.v1.placeholder(operation.inputs[0].dtype, operation.inputs[0].shape, name=f"{name}/clip")
    with tf.name_scope(f"{name}/2d"):
      net = tf.reshape(place, [batch * frames, height, width, channels])
      net = pool(net, kernel[1:], stride[1:], padding)
      net = tf.reshape(net, [batch, frames, result[2] * result[3], channels])
      net = pool(net, [kernel[0], 1], [stride[0], 1], padding)
    tf.reshape(net, result, name=name)
  for node in graph.as_graph_def().node:
    node.input[:] = [source if each == place.op.name else each for each in node.input]
    if node.name != place.op.name:
      yield node


def _write(
  folder: str | os.PathLike,
  classifier: classifier_lib.Classifier,
  specs: signatures_lib.Specs,
  signatures: Mapping[str, signatures_lib.Signature],
  assets: Mapping[str, bytes],
) -> None:
  """Writes the SavedModel to a folder.

  The loaded model has `signatures`; called with a clip, or with clips by stream, it returns the logits, as TensorFlow
  Hub's layers for Keras expect. Its `variables` and `trainable_variables` are for training it further, except for
  networks with channel-wise convolutions (X3D), whose gradient is not saved. `assets` are contents of files by name.
  """
  functions = {name: signature.function for name, signature in signatures.items()}
  models = [network.model for network in classifier.networks.values()]
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as scratch:
    module = tf.train.Checkpoint(
      variables=[variable for model in models for variable in model.variables],
      trainable_variables=[variable for model in models for variable in model.trainable_variables],
      assets=[_asset(pathlib.Path(scratch, name), content) for name, content in assets.items()],
    )
    module.__call__ = _call(classifier, specs)
    try:
      _save(module, folder, functions)
    except (tf.errors.OpError, OSError) as error:
      raise errors.I3dError(f"{folder} cannot be written: {errors.first_line(error)}") from None


def _save(
  module: tf.train.Checkpoint | tf.Module,
  folder: str | os.PathLike,
  functions: Mapping[str, ConcreteFunction],
) -> None:
  """Calls `tf.saved_model.save` without custom gradients: it cannot save those that capture the value of a variable."""
  options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
  tf.saved_model.save(module, os.fspath(folder), signatures=dict(functions), options=options)


def _asset(path: pathlib.Path, content: bytes) -> tf.saved_model.Asset:
  path.write_bytes(content)
  return tf.saved_model.Asset(os.fspath(path))


def _call(classifier: classifier_lib.Classifier, specs: signatures_lib.Specs) -> Callable[..., tf.Tensor]:
  signature = dict(specs) if len(specs) > 1 else specs[classifier.streams[0]]
  call = tf.function(lambda clips: classifier(clips)["Logits"], input_signature=[signature], autograph=False)
  call.get_concrete_function()
  return call
