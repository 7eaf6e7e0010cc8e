"""Pure functions from encoded images to clips, in TensorFlow: which frames, decoding, crops, flips, and colours.

Only the window of an image that a clip takes is decoded where the format allows it (upright JPEG); the result is that
of decoding the whole image, turning it upright, resizing it and cutting out the window. Functions on frames take arrays
as well as tensors.
"""

from collections.abc import Callable

import tensorflow as tf

from i3d_tf.data import records
from i3d_tf.flow import codec

CROP = 224  # pixels; side of the network's input (paper, section 2.4)
# DMVR's, at strength 1.
_BRIGHTNESS = 32 / 255
_CONTRAST = 0.4
_SATURATION = 0.4
_HUE = 0.2
# The DCT of all other decoders, among them OpenCV: same bytes. TensorFlow's default is faster by a few per cent only.
_DCT = "INTEGER_ACCURATE"
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG"


def center_crop(frames: tf.Tensor, size: int = CROP) -> tf.Tensor:
  """Returns the central `size` x `size` pixels of `[..., H, W, C]`.

  Args:
    frames: Frames, at least as large.
    size: Pixels of the side of the square.

  Raises:
    ValueError: if the frames are smaller.
  """
  height, width = frames.shape[-3:-1]
  if min(height, width) < size:
    raise ValueError(f"frames are {width}x{height} pixels; a crop needs at least {size}x{size}")
  top, left = (height - size) // 2, (width - size) // 2
  return frames[..., top : top + size, left : left + size, :]


def scale_rgb(frames: tf.Tensor) -> tf.Tensor:
  """Returns frames as float32 in [-1, 1] (google-deepmind/kinetics-i3d README).

  Args:
    frames: uint8, 0 to 255.

  Raises:
    ValueError: for another type.
  """
  frames = tf.convert_to_tensor(frames)
  if frames.dtype != tf.uint8:
    raise ValueError(f"frames have type {frames.dtype.name}; RGB frames are uint8")
  # Not tf.quantization.dequantize, which gives the same bits in one pass, but not on a GPU.
  return tf.cast(frames, tf.float32) * (2 / 255) - 1.0


def scale_resized_rgb(frames: tf.Tensor) -> tf.Tensor:
  """Returns frames that were resized without rounding in [-1, 1], as the published embedding of FVD takes them.

  Args:
    frames: floating point, 0 to 255.
  """
  return 2 * frames / 255 - 1


def to_input(stream: str, frames: tf.Tensor) -> tf.Tensor:
  """Returns frames of a stream as a network takes them, float32 in [-1, 1].

  Args:
    stream: 'rgb' or 'flow'.
    frames: RGB as uint8; flow as `codec.scale` gives it, which is left as it is.
  """
  return scale_rgb(frames) if stream == "rgb" else tf.convert_to_tensor(frames)


def scale_flow(
  values: tf.Tensor, *, bound: float | tf.Tensor = codec.BOUND, factors: tuple[float, float] | tf.Tensor = (1.0, 1.0)
) -> tf.Tensor:
  """Returns the input of a network, float32 in [-1, 1], from flow as bytes `[..., 2]`, cut off at +-20 pixels a frame.

  Args:
    values: 0 to 255, also between the bytes, after resizing.
    bound: Pixels per frame that 255 stands for; see `codec.encode`.
    factors: Factors by which resizing has made the frames wider and higher, and so the motion longer.
  """
  slope = tf.cast(factors, tf.float32) * (bound / codec.BOUND)
  scaled = _for_rows(tf.cast(values, tf.float32), lambda rows, repeat: rows * repeat(slope * (2 / 255)) - repeat(slope))
  return tf.clip_by_value(scaled, -1, 1)


def flip_rgb(frames: tf.Tensor) -> tf.Tensor:
  """Returns the mirror image of frames.

  Args:
    frames: `[..., H, W, C]`.
  """
  shape = tf.shape(frames)
  return tf.reshape(tf.reverse(tf.reshape(frames, [-1, *tf.unstack(shape[-2:])]), axis=[1]), shape)  # rank 3 is fast


def flip_flow(flow: tf.Tensor) -> tf.Tensor:
  """Returns the flow of the mirrored frames: mirrored, with the x of every flow negated.

  Args:
    flow: `[..., H, W, 2L]`.
  """
  signs = tf.tile([-1.0, 1.0], [tf.shape(flow)[-1] // 2])
  return _for_rows(flip_rgb(flow), lambda rows, repeat: rows * repeat(signs))


def jitter_colors(frames: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
  """Returns uint8 `[T, H, W, 3]` with brightness, saturation, contrast and hue of all frames changed alike.

  Args:
    frames: uint8 `[T, H, W, 3]`.
    seed: int32 `[2]`; draws the four changes.
    strength: at 1: brightness +-32/255, saturation and contrast times 0.6 to 1.4, hue +-0.2.
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
  """Returns the nearest bytes.

  Args:
    values: Of any range; cut off at 0 and 255.
  """
  return tf.saturate_cast(tf.round(values), tf.uint8)


def drop_rgb(frames: tf.Tensor, dropped: tf.Tensor) -> tf.Tensor:
  """Returns frames of which some are replaced by the mean colour of the clip.

  Args:
    frames: uint8 `[T, H, W, 3]`.
    dropped: Which ones, bool `[T]`.
  """
  mean = to_bytes(tf.reduce_mean(tf.cast(frames, tf.float32), axis=[0, 1, 2]))
  return tf.where(dropped[:, tf.newaxis, tf.newaxis, tf.newaxis], mean, frames)


def drop_flow(flow: tf.Tensor, dropped: tf.Tensor) -> tf.Tensor:
  """Returns flow of which some fields are replaced by no motion.

  Args:
    flow: float32 `[T, H, W, 2L]`.
    dropped: Which ones, bool `[T]`.
  """
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


def last_start(available: tf.Tensor, num_frames: int, stride: int, flow_stack: int = 1) -> tf.Tensor:
  """Returns the last start that leaves enough frames; 0 for a video that is too short.

  Args:
    available: Frames, or flows, of the video.
    num_frames: Positions of the clip.
    stride: Frames from one position to the next.
    flow_stack: Frames, or flows, that each position needs.
  """
  return tf.maximum(available - ((num_frames - 1) * stride + flow_stack), 0)


def random_start(last: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
  """Returns one of 0 to `last`, all equally probable.

  Args:
    last: The last start.
    draw: Random number in [0, 1).
  """
  return tf.minimum(tf.cast(draw * tf.cast(last + 1, tf.float32), tf.int32), last)  # the product may be rounded up


def jitter_start(start: tf.Tensor, last: tf.Tensor, draw: tf.Tensor, most: int) -> tf.Tensor:
  """Returns the start moved by up to `most` frames, all shifts equally probable, but not beyond 0 and `last`.

  Args:
    start: The start.
    last: The last start.
    draw: Random number in [0, 1).
    most: Largest shift, either way.
  """
  return tf.clip_by_value(start + random_start(tf.constant(2 * most), draw) - most, 0, last)


def uniform_starts(last: tf.Tensor, num_clips: int) -> tf.Tensor:
  """Returns the starts, int32 `[num_clips]`, of clips at equal distances from 0 to `last`; of one clip, the middle.

  Args:
    last: The last start.
    num_clips: Number of clips.
  """
  if num_clips == 1:
    return tf.expand_dims(last // 2, 0)
  return tf.range(num_clips) * last // (num_clips - 1)


def segment_starts(last: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
  """Returns a start in each of the equal segments of 0 to `last`, int32 `[K]`.

  With places of 0.5 these are the starts that yjxiong/tsn-pytorch dataset.py takes at test.

  Args:
    last: The last start.
    places: From the beginning, 0, to the end, 1, of each segment, in [0, 1), `[K]`.
  """
  count = tf.size(places)
  position = (
    (tf.cast(tf.range(count), tf.float32) + places) * tf.cast(last + 1, tf.float32) / tf.cast(count, tf.float32)
  )
  return tf.minimum(tf.cast(position, tf.int32), last)  # the product may be rounded up


def take(start: tf.Tensor, available: tf.Tensor, num_frames: int | tf.Tensor, stride: int) -> tf.Tensor:
  """Returns the numbers of the frames of a clip, int32 `[num_frames]`, or of K parts of one, `[K * num_frames]`.

  Args:
    start: The first frame, of each part `[K]`.
    available: Frames of the video, which is looped.
    num_frames: Positions of the clip, or of a part.
    stride: Frames from one position to the next.
  """
  return tf.reshape((tf.expand_dims(start, -1) + stride * tf.range(num_frames)) % available, [-1])


def shuffled_segments(num_frames: int, num_segments: int, seed: tf.Tensor) -> tf.Tensor:
  """Returns the new order of the frames of a clip whose segments are shuffled, int32 `[num_frames]`.

  Args:
    num_frames: Positions of the clip.
    num_segments: Segments, whose lengths differ by one at most.
    seed: int32 `[2]`; draws the order.
  """
  segments = [index * num_segments // num_frames for index in range(num_frames)]
  keys = tf.random.stateless_uniform([num_segments], seed)
  return tf.argsort(tf.gather(keys, segments), stable=True)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)  # traced once, of many operations
def image_size(image: tf.Tensor) -> tf.Tensor:
  """Returns (height, width), int32 `[2]`, from the header of an image, when it is upright.

  Args:
    image: Encoded JPEG or PNG, string.
  """
  size = tf.cond(_is_jpeg(image), lambda: tf.io.extract_jpeg_shape(image)[:2], lambda: _png_size(image))
  return tf.where(records.orientation(image) >= 5, size[::-1], size)


def resized_size(size: tf.Tensor, short_side: tf.Tensor) -> tf.Tensor:
  """Returns (height, width), int32 `[2]`, after resizing the shorter side, rounded as `decode.resize` does.

  Args:
    size: (height, width) before.
    short_side: Pixels of the shorter side after it.
  """
  size = tf.cast(size, tf.float64)
  return tf.cast(tf.round(size * tf.cast(short_side, tf.float64) / tf.reduce_min(size)), tf.int32)


def resize_rgb(frames: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
  """Returns frames resized bilinearly, uint8 `[..., h, w, 3]`, with the bytes that `decode.resize` gives.

  Args:
    frames: uint8 `[..., H, W, 3]`.
    size: (height, width) after it.
  """
  # OpenCV has weights of 11 bits, rounded, and cuts off bits of the sum over columns before that over rows
  # (opencv/opencv modules/imgproc/src/resize.cpp, HResizeLinear and VResizeLinear of bytes).
  values = tf.cast(frames, tf.int64)
  left, right, before, after = _brackets(size[1], tf.shape(frames)[-2], is_vertical=False)
  column = lambda weight: weight[:, tf.newaxis]
  values = tf.gather(values, left, axis=-2) * column(before) + tf.gather(values, right, axis=-2) * column(after)
  top, bottom, before, after = _brackets(size[0], tf.shape(frames)[-3], is_vertical=True)
  row = lambda weight: weight[:, tf.newaxis, tf.newaxis]
  values //= 16
  low = tf.gather(values, top, axis=-3) * row(before) // 65536
  high = tf.gather(values, bottom, axis=-3) * row(after) // 65536
  return tf.cast((low + high + 2) // 4, tf.uint8)


def _brackets(count: tf.Tensor, size: tf.Tensor, *, is_vertical: bool) -> tuple[tf.Tensor, ...]:
  """The samples before and after each of `count` positions, and their weights in units of 1/2048."""
  step = 1 / (tf.cast(count, tf.float64) / tf.cast(size, tf.float64))
  position = tf.cast((tf.range(tf.cast(count, tf.float64), dtype=tf.float64) + 0.5) * step - 0.5, tf.float32)
  before = tf.floor(position)
  fraction = position - before
  before = tf.cast(before, tf.int32)
  if not is_vertical:  # between rows OpenCV keeps the fraction beyond the border, and takes the border twice
    fraction = tf.where((before >= 0) & (before < size - 1), fraction, 0.0)
  places = (tf.clip_by_value(each, 0, size - 1) for each in (before, before + 1))
  return *places, *(tf.cast(tf.round(weight * 2048), tf.int64) for weight in (1 - fraction, fraction))


def decode_rgb(
  images: tf.Tensor, *, size: tf.Tensor, resized: tf.Tensor, offset: tf.Tensor, window: tf.Tensor
) -> tf.Tensor:
  """Returns RGB windows, uint8 `[T, h, w, 3]`, rounded after resizing, as prepared frames are.

  Args:
    images: Encoded images of one size, string `[T]`.
    size: Their (height, width).
    resized: (height, width) they are resized to, bilinearly, with half-pixel centres and without antialiasing.
    offset: (top, left) of the window in the resized image.
    window: Its (height, width).
  """
  convert = lambda values: values if values.dtype == tf.uint8 else to_bytes(values)
  return _decode(images, 3, convert, size=size, resized=resized, offset=offset, window=window)


def decode_flow(
  images: tf.Tensor, *, bound: tf.Tensor, size: tf.Tensor, resized: tf.Tensor, offset: tf.Tensor, window: tf.Tensor
) -> tf.Tensor:
  """Returns flow windows, float32 `[T, h, w, 2]` in [-1, 1]; resizing rescales the motion, too. See `decode_rgb`.

  Args:
    images: Encoded flow, red x and green y, string `[T]`.
    bound: Pixels per frame that 255 stands for; see `scale_flow`.
    size, resized, offset, window: See `decode_rgb`.
  """
  factors = tf.cast((resized / size)[::-1], tf.float32)
  convert = lambda values: scale_flow(values, bound=bound, factors=factors)
  return _decode(images, 2, convert, size=size, resized=resized, offset=offset, window=window)


def decode_jpeg(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
  """Returns a box of an image as libjpeg decodes it, uint8 `[h, w, 3]`.

  Args:
    image: Encoded JPEG, string.
    box: (top, left, height, width).
  """
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
  orientation = records.orientation(images[0])
  has_windows = _is_jpeg(images[0]) & (orientation == 1)

  def in_window(image: tf.Tensor) -> tf.Tensor:
    return decode_jpeg(image, box)[:, left - start : left - start + width, :channels]

  def whole(image: tf.Tensor) -> tf.Tensor:
    is_alike = tf.reduce_all(tf.equal(image_size(image), size))
    with tf.control_dependencies([tf.debugging.Assert(is_alike, ["the images have several sizes"])]):
      stored = tf.io.decode_jpeg(tf.identity(image), channels=3, dct_method=_DCT)  # of PNG, too
    return records.upright(stored, orientation)[top : top + height, left : left + width, :channels]

  return tf.map_fn(
    lambda image: tf.cond(has_windows, lambda: in_window(image), lambda: whole(image)),
    images,
    fn_output_signature=tf.TensorSpec([None, None, channels], tf.uint8),
  )


def _is_jpeg(image: tf.Tensor) -> tf.Tensor:
  return tf.strings.substr(image, 0, len(_JPEG_MAGIC)) == _JPEG_MAGIC


def _png_size(image: tf.Tensor) -> tf.Tensor:
  is_png = tf.strings.substr(image, 0, len(_PNG_MAGIC)) == _PNG_MAGIC
  tf.debugging.Assert(is_png & (tf.strings.length(image) >= 24), ["this is neither JPEG nor PNG"])
  # Width and height are the first two fields of the first chunk, big-endian. What is too short is padded, since the
  # error of substr would print its bytes, which Python cannot decode.
  size = tf.strings.substr(tf.strings.join([image, "\0" * 24]), 16, 8)
  return tf.ensure_shape(tf.io.decode_raw(size, tf.int32, little_endian=False), [2])[::-1]
