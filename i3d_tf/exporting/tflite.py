"""A network as a TensorFlow Lite (LiteRT) model, float32, of its built-in operations only."""

import tempfile

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.exporting import freezing
from i3d_tf.exporting import saved_model
from i3d_tf.exporting import signatures as signatures_lib


def convert(signature: signatures_lib.Signature) -> bytes:
  """The model, with `signature` under the name 'serving_default'; all axes of its inputs must be fixed.

  TensorFlow Lite has 3D convolutions but no 3D pools, which become 2D ones.

  Raises:
    I3dError: if the converter does not manage the network.
  """
  try:
    frozen = freezing.with_2d_pools(freezing.freeze(signature.function))
    outputs = signature.function.structured_outputs
    apply = lambda **inputs: dict(zip(outputs, frozen(**inputs), strict=True))
    named = tf.function(apply, autograph=False).get_concrete_function(**signature.inputs)
    # By way of a file, since of a function the converter at times keeps no signature.
    with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
      saved_model.save(tf.Module(), folder, {signatures_lib.DEFAULT: named})
      return tf.lite.TFLiteConverter.from_saved_model(folder).convert()
  except Exception as error:  # the converter raises what it likes
    reason = freezing.reason(error)
    raise errors.I3dError(f"TensorFlow Lite's converter does not manage this network: {reason}") from None
