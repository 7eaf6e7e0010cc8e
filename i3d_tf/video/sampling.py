"""Which frames of a video a clip takes: arithmetic in TensorFlow, of numbers only."""

import tensorflow as tf


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
