"""Stacks of flow, the temporal network's input of the Two-Stream networks, in TensorFlow.

Simonyan and Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos" (arXiv 1406.2199),
section 3: L flow fields `[..., H, W, 2]` become 2L channels `[..., H, W, 2L]`; channel 2k is x, channel 2k + 1 is y of
flow k, counted from 0. Flow is in units of `codec.BOUND` = 20 pixels per frame, as the pipeline makes it.

plain: flow k of every pixel is that of the pixel itself.
trajectory: flow k is read where the motion so far has taken the pixel; see `trajectory`.
bidirectional: L/2 forward flows, then L/2 backward flows; see `order`.
"""

from collections.abc import Sequence

import tensorflow as tf

from i3d_tf.flow import codec


def order(flow_stack: int, stacking: str) -> tuple[list[int], list[int]]:
  """Returns which flows a stack holds, in order.

  The window is of `flow_stack` consecutive pairs of frames; flow k lies between its frames k and k + 1, whichever way
  it goes. A bi-directional stack is about frame t = L/2: it has the forward flows t to t + 1, t + 1 to t + 2 and so on,
  then the backward flows t to t - 1, t - 1 to t - 2 and so on; both lead away from t. (Section 3.1 of the paper tells
  which flows these are, but not the order of the backward ones.)

  Args:
    flow_stack: number of flows L.
    stacking: 'plain', 'trajectory' or 'bidirectional'.

  Returns:
    The flows' numbers within the stack's window, and whether each goes backward, 0 or 1. The first number is also that
    of the stack's frame: the window's first, or t.
  """
  if stacking != "bidirectional":
    return list(range(flow_stack)), [0] * flow_stack
  half = flow_stack // 2
  return [*range(half, flow_stack), *reversed(range(half))], [0] * half + [1] * half


def plain(fields: Sequence[tf.Tensor]) -> tf.Tensor:
  """Returns fields stacked at the same pixel, `[..., H, W, 2L]`: x, y of the first, x, y of the second and so on.

  Args:
    fields: L of them, `[..., H, W, 2]`.
  """
  return tf.concat(fields, axis=-1)


def trajectory(fields: Sequence[tf.Tensor], means: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
  """Stacks fields along the motion: field k is read at p_k, where p_0 = p and p_k = p_(k-1) + flow_(k-1)(p_(k-1)).

  Reading is bilinear; points beyond the border are moved onto it. Motion that was cut off at 20 pixels per frame is
  followed so far only.

  Args:
    fields: L of them, float32 `[..., H, W, 2]`.
    means: `[..., 2]`, what was subtracted from each; the motion is what the fields were before.

  Returns:
    float32 `[..., H, W, 2L]`, in the order of `plain`.
  """
  height, width = tf.unstack(tf.shape(fields[0])[-3:-1])
  right, bottom = tf.cast(width - 1, tf.float32), tf.cast(height - 1, tf.float32)
  columns, rows = tf.meshgrid(tf.range(right + 1), tf.range(bottom + 1))
  stack = [fields[0]]
  for step, field in enumerate(fields[1:]):
    motion = stack[-1] if means is None else stack[-1] + means[step][..., tf.newaxis, tf.newaxis, :]
    columns = tf.clip_by_value(columns + codec.BOUND * motion[..., 0], 0.0, right)
    rows = tf.clip_by_value(rows + codec.BOUND * motion[..., 1], 0.0, bottom)
    stack.append(_read(field, rows, columns))
  return plain(stack)


def subtract_means(fields: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the fields without their mean vectors, and these means `[..., 2]`.

  Args:
    fields: `[..., H, W, 2]`.
  """
  means = tf.reduce_mean(fields, axis=[-3, -2])
  return fields - means[..., tf.newaxis, tf.newaxis, :], means


def _read(field: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
  """Bilinear values `[..., H, W, 2]` of a field `[..., H, W, 2]` at points `[..., H, W]` of it, in pixels."""
  shape = tf.shape(field)
  height, width = shape[-3], shape[-2]
  above, left = tf.floor(rows), tf.floor(columns)
  down, across = (rows - above)[..., tf.newaxis], (columns - left)[..., tf.newaxis]
  above, left = tf.cast(above, tf.int32), tf.cast(left, tf.int32)
  below, right = tf.minimum(above + 1, height - 1), tf.minimum(left + 1, width - 1)
  pixels = tf.reshape(field, tf.concat([shape[:-3], [height * width, shape[-1]]], axis=0))
  at = lambda row, column: tf.gather(pixels, row * width + column, batch_dims=len(field.shape) - 3)
  mix = lambda one, other, share: one + share * (other - one)
  return mix(mix(at(above, left), at(above, right), across), mix(at(below, left), at(below, right), across), down)
