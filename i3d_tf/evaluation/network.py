"""A stream's trained network, applied to the views of a video."""

import zlib

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.evaluation import scores as scores_lib
from i3d_tf.models import inception
from i3d_tf.video import clip_options
from i3d_tf.video import pipeline
from i3d_tf.weights import saved

FRAMES_AT_ONCE = 250  # of all views together; bounds the memory by that of the release's one pass


class Network:
  """A stream's network with its weights, compiled for views of any number and length."""

  def __init__(self, name_or_path: str, stream: str, *, crop: int | None = None):
    """Loads it; see `saved.load` for what that raises.

    Args:
      name_or_path: as `saved.load` takes it.
      stream: 'rgb' or 'flow'.
      crop: side of the views in pixels; None: as the network was trained.

    Raises:
      I3dError: if the checkpoint is of the other stream, or the crop does not fit it.
    """
    self.model, self.info = saved.load(name_or_path)
    self.name, self.stream = name_or_path, stream
    self.crop = self.info.crop if crop is None else crop
    channels = clip_options.CHANNELS[stream]
    if self.model.in_channels != channels:
      raise errors.I3dError(
          f"--{stream}_checkpoint={name_or_path} takes clips of {self.model.in_channels} channels; those of the "
          f"{stream} stream have {channels}"
      )
    signature = tf.TensorSpec([None, None, self.crop, self.crop, channels], tf.float32)
    # Without AutoGraph, whose errors are pages long.
    apply = lambda views: self.model(views, is_training=False)[0]
    self._apply = tf.function(apply, input_signature=[signature], autograph=False)
    try:
      self._apply.get_concrete_function()
    except ValueError as error:
      raise errors.I3dError(f"--crop={self.crop} does not fit {name_or_path}: {error}") from None

  def logits(self, views: tf.Tensor) -> np.ndarray:
    """The logits `[classes]`, float32, of views `[V, T, H, W, C]` in [-1, 1]: their mean over the views.

    Raises:
      I3dError: if the views have too few frames.
    """
    num_views, num_frames = views.shape[:2]
    if num_frames < inception.MIN_FRAMES:
      raise errors.I3dError(f"it has {num_frames} frames; the network needs at least {inception.MIN_FRAMES}")
    step = max(1, FRAMES_AT_ONCE // num_frames)
    parts = [self._apply(views[start : start + step]).numpy() for start in range(0, num_views, step)]
    return np.concatenate(parts).mean(axis=0, dtype=np.float64).astype(np.float32)

  def fingerprint(self) -> str:
    """Tells these weights from others, wherever they came from."""
    checksum = 0
    for variable in self.model.variables:
      checksum = zlib.crc32(variable.numpy().tobytes(), checksum)
    return f"{checksum:08x}"


def match_classes(network: Network, source: pipeline.Source) -> tuple[str, ...]:
  """The classes that the network's logits and the data set's labels have in common; numbered if nobody names them.

  Raises:
    I3dError: if they differ.
  """
  own, theirs = tuple(network.info.classes), tuple(source.classes)
  named = theirs or own or tuple(f"class {index}" for index in range(network.model.num_classes))
  if len(named) != network.model.num_classes:
    raise errors.I3dError(
        f"the data set has {len(named)} classes ({scores_lib.some(named)}), but {network.name} tells "
        f"{network.model.num_classes} apart; evaluate a network that was trained on these classes"
    )
  if own and own != named:
    index = next(index for index, pair in enumerate(zip(own, named)) if pair[0] != pair[1])
    raise errors.I3dError(
        f"class {index} of the data set is {named[index]!r}, but of {network.name} {own[index]!r}; "
        "the classes must be the same, in the same order"
    )
  return named
