"""Pure functions on clips, in TensorFlow: cropping, scaling of values, flips, and changes of colours and frames.

They take arrays as well as tensors.
"""

from collections.abc import Callable

import tensorflow as tf

from i3d_tf.flow import codec

CROP = 224  # pixels; side of the network's input (paper, section 2.4)
# DMVR's, at strength 1.
_BRIGHTNESS = 32 / 255
_CONTRAST = 0.4
_SATURATION = 0.4
_HUE = 0.2


def center_crop(frames: tf.Tensor, size: int = CROP) -> tf.Tensor:
  """The central `size` x `size` pixels of `[..., H, W, C]`.

  Raises:
    ValueError: if the frames are smaller.
  """
  height, width = frames.shape[-3:-1]
  if min(height, width) < size:
    raise ValueError(f"frames are {width}x{height} pixels; a crop needs at least {size}x{size}")
  top, left = (height - size) // 2, (width - size) // 2
  return frames[..., top : top + size, left : left + size, :]


def scale_rgb(frames: tf.Tensor) -> tf.Tensor:
  """uint8 values 0 to 255 as float32 in [-1, 1] (google-deepmind/kinetics-i3d README)."""
  frames = tf.convert_to_tensor(frames)
  if frames.dtype != tf.uint8:
    raise ValueError(f"frames have type {frames.dtype.name}; RGB frames are uint8")
  # Value times 2 / 255, less 1, in one pass over the memory; written out it takes three.
  return tf.quantization.dequantize(tf.bitcast(frames, tf.quint8), -1.0, 1.0, mode="MIN_COMBINED")


def scale_flow(
  values: tf.Tensor, *, bound: float | tf.Tensor = codec.BOUND, factors: tuple[float, float] | tf.Tensor = (1.0, 1.0)
) -> tf.Tensor:
  """Flow as bytes `[..., 2]` into the network's input, float32 in [-1, 1]: cut off at +-20 pixels per frame.

  Args:
    values: 0 to 255, also between the bytes, after resizing.
    bound: pixels per frame that 255 stands for; see `codec.encode`.
    factors: by which resizing has made the frames wider and higher, and so the motion longer.
  """
  slope = tf.cast(factors, tf.float32) * (bound / codec.BOUND)
  scaled = _for_rows(tf.cast(values, tf.float32), lambda rows, repeat: rows * repeat(slope * (2 / 255)) - repeat(slope))
  return tf.clip_by_value(scaled, -1, 1)


def flip_rgb(frames: tf.Tensor) -> tf.Tensor:
  """The mirror image of `[..., H, W, C]`, left and right exchanged."""
  shape = tf.shape(frames)
  return tf.reshape(tf.reverse(tf.reshape(frames, [-1, *tf.unstack(shape[-2:])]), axis=[1]), shape)  # rank 3 is fast


def flip_flow(flow: tf.Tensor) -> tf.Tensor:
  """The flow `[..., H, W, 2L]` of the mirrored frames: mirrored, with the x of every flow negated."""
  signs = tf.tile([-1.0, 1.0], [tf.shape(flow)[-1] // 2])
  return _for_rows(flip_rgb(flow), lambda rows, repeat: rows * repeat(signs))


def jitter_colors(frames: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
  """Changes brightness, saturation, contrast and hue of all frames alike.

  Args:
    frames: uint8 `[T, H, W, 3]`.
    seed: int32 `[2]`; draws the four changes.
    strength: at 1: brightness +-32/255, saturation and contrast times 0.6 to 1.4, hue +-0.2.

  Returns:
    uint8 `[T, H, W, 3]`.
  """
  shape = tf.shape(frames)
  draws = tf.random.stateless_uniform([4], seed, -strength, strength)
  # One tall image, so that contrast is about the mean of the clip, not of each frame, which would flicker.
  image = tf.reshape(tf.cast(frames, tf.float32) / 255, [-1, shape[2], 3])
  image += draws[0] * _BRIGHTNESS
  image = tf.image.adjust_saturation(image, 1 + draws[1] * _SATURATION)
  image = tf.image.adjust_contrast(image, 1 + draws[2] * _CONTRAST)
  image = tf.image.adjust_hue(image, draws[3] * _HUE)
  return to_bytes(tf.reshape(image, shape) * 255)


def to_bytes(values: tf.Tensor) -> tf.Tensor:
  """The nearest values from 0 to 255 as uint8."""
  return tf.saturate_cast(tf.round(values), tf.uint8)


def drop_rgb(frames: tf.Tensor, dropped: tf.Tensor) -> tf.Tensor:
  """Frames uint8 `[T, H, W, 3]` with the `dropped` ones (bool `[T]`) replaced by the mean colour of the clip."""
  mean = to_bytes(tf.reduce_mean(tf.cast(frames, tf.float32), axis=[0, 1, 2]))
  return tf.where(dropped[:, tf.newaxis, tf.newaxis, tf.newaxis], mean, frames)


def drop_flow(flow: tf.Tensor, dropped: tf.Tensor) -> tf.Tensor:
  """Flow float32 `[T, H, W, 2L]` with the `dropped` ones (bool `[T]`) replaced by no motion."""
  return tf.where(dropped[:, tf.newaxis, tf.newaxis, tf.newaxis], 0.0, flow)


def _for_rows(
  values: tf.Tensor, apply: Callable[[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]], tf.Tensor]
) -> tf.Tensor:
  """Applies to `[..., W, C]` what has a number for each channel.

  Broadcasting over the few channels is ten times as slow as over rows of all values, `[rows, W * C]`; `apply` gets
  these, and a function that repeats the channels' numbers `[C]` for a row.
  """
  shape = tf.shape(values)
  rows = tf.reshape(values, [-1, shape[-2] * shape[-1]])
  return tf.reshape(apply(rows, lambda numbers: tf.tile(numbers, [shape[-2]])), shape)
