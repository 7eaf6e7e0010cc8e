"""A traced function as a graph of constants, and without the 3D pools that small runtimes do not have."""

from collections.abc import Iterator
import textwrap

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from i3d_tf import errors

_POOLS = {"MaxPool3D": tf.nn.max_pool2d, "AvgPool3D": tf.nn.avg_pool2d}
ConcreteFunction = tf.types.experimental.ConcreteFunction


def freeze(function: ConcreteFunction) -> ConcreteFunction:
  """The same function with the present values of its variables."""
  return convert_to_constants.convert_variables_to_constants_v2(function)


def with_2d_pools(function: ConcreteFunction) -> ConcreteFunction:
  """A frozen function with each 3D pool as two 2D pools, over space and over time; shapes must be known.

  Maxima and means over a box are those over its time of those over its space, padding included.
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
  """What a converter complains of, without the pages that follow."""
  return textwrap.shorten(errors.first_line(error), 200, placeholder=" ...")


def _pool_2d(operation: tf.Operation, source: str) -> Iterator[tf.compat.v1.NodeDef]:
  """The nodes that take the place of a pool over `[B, T, H, W, C]`; the last one has its name."""
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
