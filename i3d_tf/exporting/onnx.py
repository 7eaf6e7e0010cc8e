"""A network as an ONNX model, float32, by tf2onnx, the extra `onnx`."""

from collections.abc import Iterator
import contextlib
import io
import logging

from i3d_tf import errors
from i3d_tf.exporting import freezing
from i3d_tf.exporting import signatures as signatures_lib

_OPSET = 18  # of 2022; runtimes of the last years have it, and tf2onnx 1.17 goes to it


def convert(signature: signatures_lib.Signature) -> bytes:
  """The model, its inputs and outputs named as those of `signature`; open axes stay open.

  Raises:
    I3dError: if tf2onnx is not installed, or does not manage the network.
  """
  try:
    import onnx
    import tf2onnx
  except ImportError as error:
    raise errors.I3dError(f"ONNX needs tf2onnx ({error}): pip install 'i3d_tf[onnx]'") from None
  frozen = freezing.freeze(signature.function)
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
    raise errors.I3dError(f"tf2onnx does not manage this network: {freezing.reason(error)}") from None
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
