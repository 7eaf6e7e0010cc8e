"""The network's endpoints for your own graph: in tf.data, in a tf.function, in Keras, under a gradient tape.

    import tensorflow as tf
    from i3d_tf.inference import endpoints

    features = endpoints.I3dFeatures("rgb_imagenet", endpoints=["Mixed_4f", "PooledFeatures"])
    pooled = lambda clips: features(clips)["PooledFeatures"]
    clips = tf.random.uniform([2, 16, 224, 224, 3], -1, 1)  # yours: RGB in [-1, 1], at 25 frames per second
    print({name: value.shape for name, value in features(clips).items()})  # [2, 4, 14, 14, 832] and [2, 1, 1024]
    dataset = tf.data.Dataset.from_tensors(clips).map(pooled)
    layers = [tf.keras.layers.Lambda(pooled), tf.keras.layers.Flatten(), tf.keras.layers.Dense(5)]
    classifier = tf.keras.Sequential([tf.keras.Input(clips.shape[1:]), *layers])
    print(classifier(clips).shape)  # [2, 5]

Keras trains the layers around a Lambda and leaves the network's own variables as they are. To train these, too, take
the gradient of `features.trainable_variables` with a tape of your own.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import tensorflow as tf

from i3d_tf.inference import classifier
from i3d_tf.models import base


class I3dFeatures(tf.Module):
  """A trained network that returns some of its endpoints; of I3D only the rows that they need are built and run.

  It acts as at inference, with moving statistics in batch norm and without dropout, and gradients pass through it to
  the clips and to its variables. Each new shape of clips is traced once; for clips of many lengths wrap it in a
  `tf.function` whose `input_signature` leaves batch and frames open.

  Attributes:
    endpoints: The names asked for, each once.
    info: What the network is and was trained on, a `saved.ModelInfo`.
    weights: CRC-32 of the variables that the endpoints need, as eight hexadecimal digits.
  """

  def __init__(
    self,
    checkpoint: str | os.PathLike,
    endpoints: Sequence[str] = (base.POOLED_FEATURES,),
    *,
    average_space: bool = False,
    name: str | None = None,
  ):
    """Loads the network.

    Args:
      checkpoint: A released checkpoint's name, such as 'rgb_imagenet' or 'flow_imagenet', a path of one in the
        release's layout, or the folder of a training run.
      endpoints: Names of the network's endpoints, such as 'Mixed_5c', 'PooledFeatures' or 'Logits'.
      average_space: Whether an I3D takes clips of any height and width to the logits, too, whose steps are then
        averaged over space. Clips of 193 to 224 pixels give the same with and without. A network that was trained so
        always does.
      name: Name of the module.

    Raises:
      I3dError: For an endpoint that the network does not have.
      CheckpointError, DownloadError: If the checkpoint cannot be loaded.
    """
    super().__init__(name=name)
    self.endpoints = tuple(dict.fromkeys(endpoints))
    self._network = classifier.LoadedNetwork(checkpoint, endpoints, average_space=average_space)
    self.info = self._network.info
    self.weights = self._network.weights
    # As functions, in which what no endpoint needs any more is freed on the way.
    self._apply = tf.function(self._run, autograph=False)
    self._apply_gradient = tf.function(self._gradient, autograph=False)

  def __call__(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the endpoints of clips, by name.

    Args:
      clips: Floating point `[B, T, H, W, C]` in [-1, 1] at the network's frame rate, which for I3D is 25: RGB
        `[..., 3]`, or flow `[..., 2]`, +-20 pixels per frame scaled to [-1, 1]; of a network of both streams a mapping
        of both. The head of an I3D needs 9 frames and, without `average_space`, 193 to 224 pixels.

    Returns:
      float32; of the trunk `[B, T', H', W', channels]`, of an I3D's 'PooledFeatures' and 'StepLogits'
      `[B, T', channels]`, and of 'Logits' and 'Predictions', which are averaged over time, `[B, classes]`.

    Raises:
      ValueError: If the clips do not fit.
    """
    clips = base.to_tensors(clips)
    self._network.model.check(clips)
    return self._run_eagerly(clips) if tf.executing_eagerly() else self._run(clips)

  def _run(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    return self._network(clips)

  def _run_eagerly(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    """Runs the network as a function, and computes it again for its gradient in one function.

    TensorFlow's own CPU kernel of the 3D max pool's gradient, which an eager tape would use, gives each of several
    equal maxima the whole gradient; in a function that holds pool and gradient another takes its place.
    """

    parts = [clips[stream] for stream in self.info.streams] if isinstance(clips, Mapping) else [clips]

    @tf.custom_gradient
    def apply(*inputs):
      given = inputs[: len(parts)]
      gradient = lambda *upstream, variables=(): (self._apply_gradient(given, upstream), [None] * len(variables))
      return tuple(self._apply(self._join(given)).values()), gradient

    values = apply(*parts, *map(tf.convert_to_tensor, self.trainable_variables))
    return dict(zip(self.endpoints, values, strict=True))

  def _join(self, parts: Sequence[tf.Tensor]) -> Any:
    return parts[0] if len(parts) == 1 else dict(zip(self.info.streams, parts, strict=True))

  def _gradient(self, parts: Sequence[tf.Tensor], upstream: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
      tape.watch(parts)
      values = tuple(self._run(self._join(parts)).values())
    return tape.gradient(values, [*parts, *self.trainable_variables], upstream)
