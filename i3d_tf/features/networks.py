"""A stream's network, which gives the pooled endpoints of every crop of whole frames."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.features import config
from i3d_tf.features import windows
from i3d_tf.flow import codec
from i3d_tf.inference import endpoints as endpoints_lib
from i3d_tf.input import ops
from i3d_tf.weights import saved

_FRAMES_AT_ONCE = 256  # of crops of windows; a pass over one window, or chunk, may have more


class StreamNetwork:
  """A network with its weights, compiled for windows of any number and length.

  Attributes:
    stream: 'rgb' or 'flow'.
    checkpoint: what was loaded.
    weights: the CRC-32 of the variables used.
    short_side, crop: in pixels, those of the options or else of the network's training.
  """

  def __init__(self, stream: str, options: config.Options):
    """Loads it; see `I3dFeatures` for what that raises.

    Raises:
      I3dError: if the checkpoint is of the other stream, or the crop is larger than the frames.
    """
    self.stream = stream
    self.checkpoint = getattr(options, f"{stream}_checkpoint")
    # Clips of the size that the head pools to one place have the same features with and without averaging over places.
    features = endpoints_lib.I3dFeatures(self.checkpoint, options.endpoints, average_space=True)
    info = features.info
    saved.check_stream(info, self.checkpoint, stream)
    self.weights = features.weights
    self.short_side = info.preprocess.short_side if options.short_side is None else options.short_side
    self.crop = info.preprocess.crop if options.crop is None else options.crop
    if self.crop > self.short_side:
      raise errors.I3dError(f"crop is {self.crop} pixels; it must be at most short_side, which is {self.short_side}")
    self._crops, self._pooling = options.crops, options.pooling
    dtype, scale = {"rgb": (tf.uint8, ops.scale_rgb), "flow": (tf.float32, tf.identity)}[stream]
    signature = tf.TensorSpec([None, None, self.crop, self.crop, info.in_channels], dtype)
    self._apply = tf.function(lambda clips: features(scale(clips)), input_signature=[signature], autograph=False)

  def __call__(self, clips: np.ndarray, *, pooling: str | None = None) -> dict[str, np.ndarray]:
    """The endpoints of crops of clips, pooled.

    Args:
      clips: whole frames `[B, T, H, W, C]` as positions have them.
      pooling: in place of the options'.

    Returns:
      By endpoint `[B, crops, ...]`, float32.

    Raises:
      I3dError: if a feature is not finite.
    """
    pooling = self._pooling if pooling is None else pooling
    batch = max(1, _FRAMES_AT_ONCE // clips.shape[1])
    found = []
    for view in views(clips, self.crop, self._crops, self.stream):
      parts = [self._pooled(view[start : start + batch], pooling) for start in range(0, len(view), batch)]
      found.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    values = {name: np.stack([view[name] for view in found], axis=1) for name in found[0]}
    for name, value in values.items():
      if not np.isfinite(value).all():
        raise errors.I3dError(f"{name} of {self.checkpoint} is not finite; check the checkpoint's values")
    return values

  def _pooled(self, clips: np.ndarray, pooling: str) -> dict[str, np.ndarray]:
    return {name: windows.pool(value.numpy(), pooling) for name, value in self._apply(clips).items()}


def views(clips: np.ndarray, crop: int, num_crops: int, stream: str) -> Iterator[np.ndarray]:
  """Yields the crops `[B, T, crop, crop, C]` of whole frames `[B, T, H, W, C]`, in the order of `clip_steps`.

  1: the centre. 5: top left and right, bottom left and right, centre. 10: these, and the mirror image of each, in which
  the x of flow is negated.
  """
  height, width = (side - crop for side in clips.shape[2:4])
  centre = (height // 2, width // 2)
  places = [centre] if num_crops == 1 else [(0, 0), (0, width), (height, 0), (height, width), centre]
  for mirrored in (False, True)[: 2 if num_crops == 10 else 1]:
    for top, left in places:
      view = clips[:, :, top : top + crop, left : left + crop]
      if mirrored:
        view = codec.flip_left_right(view) if stream == "flow" else view[..., ::-1, :]
      yield view
