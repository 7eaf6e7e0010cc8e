"""Networks as a SavedModel that needs nothing but TensorFlow to be loaded."""

from collections.abc import Callable, Mapping
import os
import pathlib
import tempfile

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.exporting import classifier as classifier_lib
from i3d_tf.exporting import signatures as signatures_lib


def write(
  folder: str | os.PathLike,
  classifier: classifier_lib.Classifier,
  specs: classifier_lib.Specs,
  signatures: Mapping[str, signatures_lib.Signature],
  assets: Mapping[str, bytes],
) -> None:
  """Writes the SavedModel.

  Loaded, it has `signatures`, and is itself called with a clip, or clips by stream, for the logits, as Keras' layers
  of TensorFlow Hub do; `variables` and `trainable_variables` are for training it further, which networks with
  channel-wise convolutions (X3D) do not allow: their gradient stays behind.

  Args:
    folder: to write to.
    classifier: the network or networks.
    specs: the clips it takes by stream.
    signatures: what `signatures.make` returned.
    assets: files that go with it, by name.

  Raises:
    I3dError: if it cannot be written.
  """
  functions = {name: signature.function for name, signature in signatures.items()}
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as scratch:
    module = tf.train.Checkpoint(
      variables=classifier.variables,
      trainable_variables=classifier.trainable_variables,
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
  functions: Mapping[str, tf.types.experimental.ConcreteFunction],
) -> None:
  """`tf.saved_model.save`, which cannot save gradients of our own that hold a variable's value."""
  options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
  tf.saved_model.save(module, os.fspath(folder), signatures=dict(functions), options=options)


def _asset(path: pathlib.Path, content: bytes) -> tf.saved_model.Asset:
  path.write_bytes(content)
  return tf.saved_model.Asset(os.fspath(path))


def _call(classifier: classifier_lib.Classifier, specs: classifier_lib.Specs) -> Callable[..., tf.Tensor]:
  by_stream = lambda clips: clips if len(classifier.streams) > 1 else {classifier.streams[0]: clips}
  signature = dict(specs) if len(specs) > 1 else specs[classifier.streams[0]]
  call = tf.function(lambda clips: classifier(by_stream(clips))["Logits"], input_signature=[signature], autograph=False)
  call.get_concrete_function()
  return call
