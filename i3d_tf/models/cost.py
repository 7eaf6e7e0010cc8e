"""Multiply-adds of any network, counted in its graph."""

from collections.abc import Callable
import math

import tensorflow as tf


def multiply_adds(function: Callable, *arguments: tf.TensorSpec | dict[str, tf.TensorSpec]) -> int:
  """Multiply-adds of `function` applied to tensors of known shapes.

  One multiplication with its addition counts 1; taps on padding are counted; only convolutions and matrix products
  are, not biases, batch norm, pools and what else works on single values.

  Raises:
    ValueError: for an operation whose shape is not known, or a loop, whose length is not.
  """
  graph = tf.function(function, autograph=False).get_concrete_function(*arguments).graph
  loops = [op.name for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
  if loops:
    raise ValueError(f"cannot count what is computed in a loop: {', '.join(loops)}")
  return sum(map(_cost, graph.get_operations()))


def _cost(op: tf.Operation) -> int:
  if op.type in ("Conv2D", "Conv3D"):
    *taps, _ = op.inputs[1].shape
    return _size(op) * math.prod(taps)
  if op.type == "DepthwiseConv2dNative":
    height, width, _, _ = op.inputs[1].shape
    return _size(op) * height * width
  if op.type in ("MatMul", "BatchMatMulV2"):
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return _size(op) * op.inputs[0].shape[-2 if transposed else -1]
  return 0


def _size(op: tf.Operation) -> int:
  shape = op.outputs[0].shape
  if not shape.is_fully_defined():
    raise ValueError(f"the shape of {op.name} is not known: {shape}")
  return shape.num_elements()
