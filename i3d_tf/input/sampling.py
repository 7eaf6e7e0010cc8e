"""Which frames of a video a clip takes: arithmetic in TensorFlow, of numbers only.

Decoding windows of encoded images, resized if need be, in TensorFlow.

Only the window is decoded where the format allows it (JPEG), and the result is that of decoding the whole image,
resizing it and cutting out the window.
"""

from collections.abc import Callable

import tensorflow as tf

from i3d_tf.input import ops


def last_start(available: tf.Tensor, num_frames: int, stride: int, flow_stack: int = 1) -> tf.Tensor:
  """The last start that leaves enough of the `available` frames, or flows; 0 for a video that is too short.

  The last of the `num_frames` positions needs `flow_stack` of them.
  """
  return tf.maximum(available - ((num_frames - 1) * stride + flow_stack), 0)


def random_start(last: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
  """One of 0 to `last`, all alike; `draw` is in [0, 1)."""
  return tf.minimum(tf.cast(draw * tf.cast(last + 1, tf.float32), tf.int32), last)  # the product may be rounded up


def jitter_start(start: tf.Tensor, last: tf.Tensor, draw: tf.Tensor, most: int) -> tf.Tensor:
  """The start moved by one of -`most` to `most`, all alike, but not beyond 0 and `last`."""
  return tf.clip_by_value(start + random_start(tf.constant(2 * most), draw) - most, 0, last)


def uniform_starts(last: tf.Tensor, num_clips: int) -> tf.Tensor:
  """The starts int32 `[num_clips]` of clips at equal distances from 0 to `last`; of one clip, the middle."""
  if num_clips == 1:
    return tf.expand_dims(last // 2, 0)
  return tf.range(num_clips) * last // (num_clips - 1)


def take(start: tf.Tensor, available: tf.Tensor, num_frames: int | tf.Tensor, stride: int) -> tf.Tensor:
  """The numbers of the frames, int32 `[num_frames]`: each `stride`-th from `start` on of the video, which is looped."""
  return (start + stride * tf.range(num_frames)) % available


def shuffled_segments(num_frames: int, num_segments: int, seed: tf.Tensor) -> tf.Tensor:
  """The places int32 `[num_frames]` of the frames of a clip whose segments, as long as can be alike, change places."""
  segments = [index * num_segments // num_frames for index in range(num_frames)]
  keys = tf.random.stateless_uniform([num_segments], seed)
  return tf.argsort(tf.gather(keys, segments), stable=True)


# The DCT of all other decoders, among them OpenCV: same bytes. TensorFlow's default is faster by a few per cent only.
_DCT = "INTEGER_ACCURATE"
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG"


def image_size(image: tf.Tensor) -> tf.Tensor:
  """(height, width) int32 `[2]` that the header of a JPEG or PNG image tells."""
  return tf.cond(_is_jpeg(image), lambda: tf.io.extract_jpeg_shape(image)[:2], lambda: _png_size(image))


def resized_size(size: tf.Tensor, short_side: tf.Tensor) -> tf.Tensor:
  """(height, width) int32 `[2]` after resizing the shorter side to `short_side`, rounded as `decode.resize` does."""
  size = tf.cast(size, tf.float64)
  return tf.cast(tf.round(size * tf.cast(short_side, tf.float64) / tf.reduce_min(size)), tf.int32)


def decode_rgb(
  images: tf.Tensor, *, size: tf.Tensor, resized: tf.Tensor, offset: tf.Tensor, window: tf.Tensor
) -> tf.Tensor:
  """RGB windows, uint8 `[T, h, w, 3]`, rounded after resizing, as prepared frames are.

  Args:
    images: string `[T]`: encoded images of one size.
    size: their (height, width).
    resized: the (height, width) they are resized to, bilinearly, with half-pixel centres and without antialiasing.
    offset: (top, left) of the window in the resized image.
    window: its (height, width).
  """
  convert = lambda values: values if values.dtype == tf.uint8 else ops.to_bytes(values)
  return _decode(images, 3, convert, size=size, resized=resized, offset=offset, window=window)


def decode_flow(
  images: tf.Tensor, *, bound: tf.Tensor, size: tf.Tensor, resized: tf.Tensor, offset: tf.Tensor, window: tf.Tensor
) -> tf.Tensor:
  """Flow windows, float32 `[T, h, w, 2]` in [-1, 1]; resizing rescales the motion, too. See `decode_rgb`.

  Args:
    images: encoded flow, red x and green y.
    bound: see `ops.scale_flow`.
    size, resized, offset, window: see `decode_rgb`.
  """
  factors = tf.cast((resized / size)[::-1], tf.float32)
  convert = lambda values: ops.scale_flow(values, bound=bound, factors=factors)
  return _decode(images, 2, convert, size=size, resized=resized, offset=offset, window=window)


def decode_jpeg(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
  """The box (top, left, height, width) of a JPEG image as libjpeg decodes it, uint8 `[h, w, 3]`."""
  return tf.image.decode_and_crop_jpeg(image, box, channels=3, dct_method=_DCT)


def _decode(
  images: tf.Tensor,
  channels: int,
  convert: Callable[[tf.Tensor], tf.Tensor],
  *,
  size: tf.Tensor,
  resized: tf.Tensor,
  offset: tf.Tensor,
  window: tf.Tensor,
) -> tf.Tensor:
  """Decodes, resizes if need be, and converts the first `channels` channels."""
  is_kept = tf.reduce_all(tf.equal(size, resized))
  scale = tf.cast(resized, tf.float64) / tf.cast(size, tf.float64)
  # The pixels that bilinear interpolation of the window reads: half-pixel centres, and the next one.
  lowest = lambda places: tf.cast(tf.floor((tf.cast(places, tf.float64) + 0.5) / scale - 0.5), tf.int32)
  first = tf.where(is_kept, offset, tf.maximum(lowest(offset), 0))
  end = tf.where(is_kept, offset + window, tf.minimum(lowest(offset + window - 1) + 2, size))
  decoded = _decode_windows(images, channels, first, end - first, size)

  def resize() -> tf.Tensor:
    return tf.raw_ops.ScaleAndTranslate(
      images=decoded,
      size=window,
      scale=tf.cast(scale, tf.float32),
      translation=tf.cast(tf.cast(first, tf.float64) * scale - tf.cast(offset, tf.float64), tf.float32),
      kernel_type="triangle",  # of one pixel's radius without antialiasing: bilinear
      antialias=False,
    )

  return tf.cond(is_kept, lambda: convert(decoded), lambda: convert(resize()))


def _decode_windows(
  images: tf.Tensor, channels: int, offset: tf.Tensor, window: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
  """The window of each image as it is stored, uint8 `[T, h, w, channels]`."""
  (top, left), (height, width) = tf.unstack(offset), tf.unstack(window)
  # Colour is stored at half the resolution; libjpeg interpolates it, but not beyond the columns it is asked for, so a
  # column more on either side makes the window's columns those of the whole image.
  start, end = tf.maximum(left - 1, 0), tf.minimum(left + width + 1, size[1])
  box = tf.stack([top, start, height, end - start])
  is_jpeg = _is_jpeg(images[0])

  def from_jpeg(image: tf.Tensor) -> tf.Tensor:
    return decode_jpeg(image, box)[:, left - start : left - start + width, :channels]

  def from_png(image: tf.Tensor) -> tf.Tensor:
    whole = tf.io.decode_png(image, channels=3)
    tf.debugging.Assert(tf.reduce_all(tf.equal(tf.shape(whole)[:2], size)), ["the images have several sizes"])
    return whole[top : top + height, left : left + width, :channels]

  return tf.map_fn(
    lambda image: tf.cond(is_jpeg, lambda: from_jpeg(image), lambda: from_png(image)),
    images,
    fn_output_signature=tf.TensorSpec([None, None, channels], tf.uint8),
  )


def _is_jpeg(image: tf.Tensor) -> tf.Tensor:
  return tf.strings.substr(image, 0, len(_JPEG_MAGIC)) == _JPEG_MAGIC


def _png_size(image: tf.Tensor) -> tf.Tensor:
  tf.debugging.Assert(tf.strings.substr(image, 0, len(_PNG_MAGIC)) == _PNG_MAGIC, ["this is neither JPEG nor PNG"])
  # Width and height are the first two fields of the first chunk, big-endian.
  header = tf.io.decode_raw(tf.strings.substr(image, 16, 8), tf.int32, little_endian=False)
  return tf.ensure_shape(header, [2])[::-1]
