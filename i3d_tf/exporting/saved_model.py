"""Writing a SavedModel that needs nothing but TensorFlow to be loaded; and freezing traced functions for converters."""

from collections.abc import Callable, Iterator, Mapping
import os
import pathlib
import tempfile
import textwrap
from typing import TypeAlias

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from i3d_tf import errors
from i3d_tf.exporting import signatures as signatures_lib
from i3d_tf.inference import classifier as classifier_lib

_POOLS = {"MaxPool3D": tf.nn.max_pool2d, "AvgPool3D": tf.nn.avg_pool2d}
ConcreteFunction: TypeAlias = tf.types.experimental.ConcreteFunction


def freeze(function: ConcreteFunction) -> ConcreteFunction:
  """Replaces variables by constants.

  Args:
    function: a traced function.

  Returns:
    The function with the current values of its variables as constants.
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


def reason(error: Exception) -> str:
  """Shortens the error of a converter.

  Args:
    error: what the converter raised.

  Returns:
    The start of its first line.
  """
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


def write(
  folder: str | os.PathLike,
  classifier: classifier_lib.Classifier,
  specs: signatures_lib.Specs,
  signatures: Mapping[str, signatures_lib.Signature],
  assets: Mapping[str, bytes],
) -> None:
  """Writes the SavedModel.

  The loaded model has `signatures`; called with a clip, or with clips by stream, it returns the logits, as TensorFlow
  Hub's layers for Keras expect. Its `variables` and `trainable_variables` are for training it further, except for
  networks with channel-wise convolutions (X3D), whose gradient is not saved.

  Args:
    folder: to write to.
    classifier: the network, or two.
    specs: the clips it takes, by stream.
    signatures: as returned by `signatures.make`.
    assets: content of further files, by name.

  Raises:
    I3dError: if it cannot be written.
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
      save(module, folder, functions)
    except (tf.errors.OpError, OSError) as error:
      raise errors.I3dError(f"{folder} cannot be written: {errors.first_line(error)}") from None


def save(
  module: tf.train.Checkpoint | tf.Module,
  folder: str | os.PathLike,
  functions: Mapping[str, ConcreteFunction],
) -> None:
  """Calls `tf.saved_model.save` without custom gradients: it cannot save those that capture the value of a variable.

  Args:
    module: what is saved.
    folder: to write to.
    functions: signatures by name.
  """
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
