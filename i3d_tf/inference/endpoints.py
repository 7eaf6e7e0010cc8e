"""The network's endpoints for your own graph: in tf.data, in a tf.function, in Keras, under a gradient tape.

    import tensorflow as tf
    from i3d_tf.inference import endpoints

    features = endpoints.I3dFeatures("rgb_imagenet", endpoints=["Mixed_4f", "PooledFeatures"])
    pooled = lambda clips: features(clips)["PooledFeatures"]
    clips = tf.random.uniform([2, 16, 224, 224, 3], -1, 1)  # yours: RGB / 127.5 - 1, at 25 frames per second
    print({name: value.shape for name, value in features(clips).items()})  # [2, 4, 14, 14, 832] and [2, 1, 1024]
    dataset = tf.data.Dataset.from_tensors(clips).map(pooled)
    layers = [tf.keras.layers.Lambda(pooled), tf.keras.layers.Flatten(), tf.keras.layers.Dense(5)]
    classifier = tf.keras.Sequential([tf.keras.Input(clips.shape[1:]), *layers])
    print(classifier(clips).shape)  # [2, 5]

Keras trains the layers around a Lambda and leaves the network's own variables as they are. To train these, too, take
the gradient of `features.trainable_variables` with a tape of your own.
"""

from collections.abc import Sequence
import dataclasses
import os

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import release
from i3d_tf.weights import saved

_OF_HEAD = (spec.POOLED_FEATURES, spec.STEP_LOGITS)
ENDPOINTS = (*spec.ENDPOINTS, *_OF_HEAD)


class I3dFeatures(tf.Module):
  """A trained I3D network that returns some of its endpoints; only the rows that they need are there and are run.

  It acts as at inference, with moving statistics in batch norm and without dropout, and gradients pass through it to
  the clips and to its variables. Each new shape of clips is traced once; for clips of many lengths wrap it in a
  `tf.function` whose `input_signature` leaves batch and frames open.

  Attributes:
    endpoints: the names asked for, each once.
    info: what the network is and was trained on, a `saved.ModelInfo`.
    weights: the CRC-32 of the variables that the endpoints need, as eight hexadecimal digits.
  """

  def __init__(
    self,
    checkpoint: str | os.PathLike,
    endpoints: Sequence[str] = (spec.POOLED_FEATURES,),
    *,
    average_space: bool = False,
    name: str | None = None,
  ):
    """Loads the network.

    Args:
      checkpoint: as `saved.load` takes it: a released checkpoint's name, such as 'rgb_imagenet' or 'flow_imagenet', a
        path of one in the release's layout, or the folder of a training run.
      endpoints: some of `ENDPOINTS`.
      average_space: take clips of any height and width to the logits, too, whose steps are then averaged over space;
        see `InceptionI3d`. Clips of 193 to 224 pixels give the same with and without. A network that was trained so
        always does.
      name: of the module.

    Raises:
      I3dError: for an unknown endpoint.
      CheckpointError, DownloadError: as `saved.load`; for a network that is not an I3D.
    """
    super().__init__(name=name)
    if isinstance(endpoints, str) or not endpoints or not set(endpoints) <= set(ENDPOINTS):
      raise errors.I3dError(f"endpoints is {endpoints!r}; give a list of some of {', '.join(ENDPOINTS)}")
    values, info = saved.read(checkpoint)
    if info.model != "i3d":
      raise errors.CheckpointError(f"{checkpoint} is a network {info.model}; I3dFeatures takes networks i3d only")
    if not info.num_classes:
      raise errors.CheckpointError(f"{checkpoint} has no classifier yet; training can start from it")
    self.endpoints = tuple(dict.fromkeys(endpoints))
    self.info = dataclasses.replace(info, average_space=average_space or info.average_space)
    self._model = saved.make_model(self.info, final_endpoint=_last(endpoints))
    release.assign(self._model, values, os.fspath(checkpoint))
    self.weights = release.checksum(self._model)
    # As functions, in which what no endpoint needs any more is freed on the way.
    self._apply = tf.function(self._run, autograph=False)
    self._apply_gradient = tf.function(self._gradient, autograph=False)

  def __call__(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    """The endpoints of clips, by name.

    Args:
      clips: floating point `[B, T, H, W, C]` in [-1, 1] at 25 frames per second: RGB `[..., 3]`, or flow `[..., 2]`,
        +-20 pixels per frame scaled to [-1, 1]. Endpoints of the head need 9 frames and, without `average_space`, 193
        to 224 pixels.

    Returns:
      float32; of the trunk `[B, T', H', W', channels]`, 'PooledFeatures' and 'StepLogits' `[B, T', channels]`, 'Logits'
      and 'Predictions', which are averaged over time, `[B, classes]`.

    Raises:
      ValueError: if the clips do not fit.
    """
    clips = tf.convert_to_tensor(clips)
    self._model.check(clips)
    return self._run_eagerly(clips) if tf.executing_eagerly() else self._run(clips)

  def _run(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    _, values = self._model(clips)
    return {name: values[name] for name in self.endpoints}

  def _run_eagerly(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    """The same as a function, computed again for its gradient in one function.

    TensorFlow's own CPU kernel of the 3D max pool's gradient, which an eager tape would use, gives each of several
    equal maxima the whole gradient; in a function that holds pool and gradient another takes its place.
    """

    @tf.custom_gradient
    def apply(clips, *_):
      gradient = lambda *upstream, variables=(): (self._apply_gradient(clips, upstream), [None] * len(variables))
      return tuple(self._apply(clips).values()), gradient

    values = apply(clips, *map(tf.convert_to_tensor, self.trainable_variables))
    return dict(zip(self.endpoints, values, strict=True))

  def _gradient(self, clips: tf.Tensor, upstream: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
      tape.watch(clips)
      values = tuple(self._run(clips).values())
    return tape.gradient(values, [clips, *self.trainable_variables], upstream)


def _last(endpoints: Sequence[str]) -> str:
  """The endpoint that the network has to be run to."""
  needed = {spec.LOGITS if name in _OF_HEAD else name for name in endpoints}
  return max(needed, key=spec.ENDPOINTS.index)
