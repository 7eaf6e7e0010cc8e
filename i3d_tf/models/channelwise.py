"""Channel-wise 3D convolution: every channel by a kernel of its own, as X3D has it.

TensorFlow's conv3d knows no groups on a CPU, so each step of the kernel in time is a depthwise 2D convolution of all
frames, and their outputs are added. What automatic differentiation makes of that takes 3 to 5 times as long as the
gradient here, which is convolutions again: TensorFlow's gradient of a depthwise convolution for its input is slow.
"""

from collections.abc import Sequence

import tensorflow as tf

Pads = Sequence[tuple[int, int]]  # zeros before and after, by axis: time, height, width


def convolve(inputs: tf.Tensor, kernel: tf.Tensor, stride: Sequence[int], pads: Pads) -> tf.Tensor:
  """Each channel of `[B, T, H, W, C]` convolved with its own of `[kt, kh, kw, C]`, of the same type.

  Args:
    inputs, kernel: the operands.
    stride: (time, height, width); height's and width's are equal.
    pads: zeros put around the inputs; on each axis fewer than the kernel is long.
  """

  @tf.custom_gradient
  def apply(inputs, kernel):
    def gradient(upstream):
      of_inputs = _input_gradient(tf.shape(inputs), kernel, upstream, stride, pads)
      return of_inputs, _kernel_gradient(inputs, kernel, upstream, stride, pads)

    return _apply(inputs, kernel, stride, pads), gradient

  return apply(inputs, kernel)


def _apply(inputs: tf.Tensor, kernel: tf.Tensor, stride: Sequence[int], pads: Pads) -> tf.Tensor:
  steps = zip(_frames_by_step(inputs, kernel.shape[0], stride[0], pads[0]), tf.unstack(kernel), strict=True)
  options = _options_2d(stride, pads)
  outputs = tf.add_n([
      tf.nn.depthwise_conv2d(frames, step[..., tf.newaxis], options["strides"], options["padding"])
      for frames, step in steps
  ])  # fmt: skip
  return tf.reshape(outputs, [tf.shape(inputs)[0], -1, *_extents(outputs)[1:]])


def _input_gradient(shape: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride, pads: Pads) -> tf.Tensor:
  """The convolution of `upstream`, spread to a stride of 1, with the kernel turned about."""
  turned = []
  for axis, (extent, step, (before, after)) in enumerate(zip(kernel.shape, stride, pads), start=1):
    if step > 1:
      # Where the last window ended depends on the length: as far as it can be, and cut afterwards.
      upstream, after = _spread(upstream, axis, step), 0
    turned.append((extent - 1 - before, extent - 1 - after))
  gradient = _apply(upstream, kernel[::-1, ::-1, ::-1], (1, 1, 1), turned)
  return gradient if max(stride) == 1 else tf.slice(gradient, [0] * 5, shape)


def _kernel_gradient(inputs: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride, pads: Pads) -> tf.Tensor:
  sizes, upstream = [*kernel.shape[1:], 1], _images(upstream)
  return tf.stack([
      tf.squeeze(tf.nn.depthwise_conv2d_backprop_filter(frames, sizes, upstream, **_options_2d(stride, pads)), -1)
      for frames in _frames_by_step(inputs, kernel.shape[0], stride[0], pads[0])
  ])  # fmt: skip


def _frames_by_step(inputs: tf.Tensor, num_steps: int, stride: int, pads: tuple[int, int]) -> list[tf.Tensor]:
  """For each step of a kernel in time the frames, `[B * steps out, H, W, C]`, that it meets at the outputs."""
  num_out = (tf.shape(inputs)[1] + sum(pads) - num_steps) // stride + 1
  flat = tf.reshape(inputs, [*_extents(inputs)[:2], -1])  # padding is quicker with 3 axes than with 5
  flat = tf.pad(flat, [(0, 0), pads, (0, 0)]) if any(pads) else flat
  shape = [-1, *_extents(inputs)[2:]]
  return [tf.reshape(flat[:, step : step + (num_out - 1) * stride + 1 : stride], shape) for step in range(num_steps)]


def _spread(values: tf.Tensor, axis: int, step: int) -> tf.Tensor:
  """Puts `step` - 1 zeros behind every value of an axis."""
  extents = _extents(values)
  flat = tf.reshape(values, [*extents[: axis + 1], -1])
  zeros = [tf.zeros_like(flat)] * (step - 1)
  return tf.reshape(tf.concat([flat, *zeros], -1), [*extents[:axis], step * extents[axis], *extents[axis + 1 :]])


def _options_2d(stride: Sequence[int], pads: Pads) -> dict[str, list]:
  """What the 2D convolution of a frame is told."""
  _, *sides = pads
  return {"strides": [1, *stride[1:], 1], "padding": [(0, 0), *sides, (0, 0)]}


def _images(clip: tf.Tensor) -> tf.Tensor:
  return tf.reshape(clip, [-1, *_extents(clip)[2:]])


def _extents(values: tf.Tensor) -> list[int | tf.Tensor]:
  """The shape, as numbers as far as they are known."""
  dynamic = tf.shape(values)
  return [dynamic[axis] if extent is None else extent for axis, extent in enumerate(values.shape)]
