"""A stream's trained network, applied to the views of a video."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.evaluation import predictions
from i3d_tf.input import pipeline
from i3d_tf.models import base
from i3d_tf.weights import release
from i3d_tf.weights import saved

FRAMES_AT_ONCE = 250  # of all views together; bounds the memory by that of the release's one pass


class Network:
  """A stream's network with its weights, to be compiled for views of any number and length."""

  def __init__(self, name_or_path: str, stream: str):
    """Loads it; see `saved.load` for what that raises.

    Args:
      name_or_path: as `saved.load` takes it.
      stream: 'rgb', 'flow', or 'joint' for a network of both.

    Raises:
      I3dError: if the checkpoint is of the other stream.
    """
    self.model, self.info = saved.load(name_or_path)
    self.name, self.stream = name_or_path, stream
    saved.check_stream(self.info, name_or_path, stream)

  def compile(self, crop: int, num_frames: int | None = None) -> None:
    """Makes it ready for views of `crop` pixels' side; I3dError if they, of `num_frames` if given, do not fit it."""
    channels = self.info.in_channels if self.stream == "joint" else {self.stream: self.info.in_channels}
    specs = {each: tf.TensorSpec([None, None, crop, crop, number], tf.float32) for each, number in channels.items()}
    # Without AutoGraph, whose errors are pages long.
    apply = lambda views: self.model(base.clip_of(views, self.info.streams), is_training=False)[0]
    self._apply = tf.function(apply, input_signature=[specs], autograph=False)
    views = {each: tf.TensorSpec([None, num_frames, *spec.shape[2:]], spec.dtype) for each, spec in specs.items()}
    try:
      self.model.check(base.clip_of(views, self.info.streams))
      self._apply.get_concrete_function()
    except ValueError as error:
      given = f"--crop={crop}" + (f" with {num_frames} frames" if num_frames else "")
      raise errors.I3dError(f"{given} does not fit {self.name}: {error}") from None

  def logits(self, video: Mapping[str, tf.Tensor]) -> np.ndarray:
    """The logits `[classes]`, float32, of a video: their mean over its views.

    Args:
      video: views `[V, T, H, W, C]` in [-1, 1] of each of the network's streams.

    Raises:
      I3dError: if the views do not fit the network.
    """
    views = {stream: video[stream] for stream in self.info.streams}
    try:
      self.model.check(base.clip_of(views, self.info.streams))
    except ValueError as error:
      raise errors.I3dError(str(error)) from None
    num_views, num_frames = views[self.info.streams[0]].shape[:2]
    step = max(1, FRAMES_AT_ONCE // num_frames)
    cut = lambda start: {stream: each[start : start + step] for stream, each in views.items()}
    parts = [self._apply(cut(start)).numpy() for start in range(0, num_views, step)]
    return np.concatenate(parts).mean(axis=0, dtype=np.float64).astype(np.float32)

  def fingerprint(self) -> str:
    """Tells these weights from others, wherever they came from."""
    return release.checksum(self.model)


def match_classes(network: Network, source: pipeline.Source) -> tuple[str, ...]:
  """The classes that the network's logits and the data set's labels have in common; numbered if nobody names them.

  Raises:
    I3dError: if they differ.
  """
  own, theirs = tuple(network.info.classes), tuple(source.classes)
  named = theirs or own or tuple(f"class {index}" for index in range(network.model.num_classes))
  if len(named) != network.model.num_classes:
    raise errors.I3dError(
      f"the data set has {len(named)} classes ({predictions.some(named)}), but {network.name} tells "
      f"{network.model.num_classes} apart; evaluate a network that was trained on these classes"
    )
  if own and own != named:
    index = next(index for index, pair in enumerate(zip(own, named)) if pair[0] != pair[1])
    raise errors.I3dError(
      f"class {index} of the data set is {named[index]!r}, but of {network.name} {own[index]!r}; "
      "the classes must be the same, in the same order"
    )
  return named
