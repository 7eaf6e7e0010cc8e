"""TV-L1 optical flow as a graph of TensorFlow operations: for accelerators, inside networks and in SavedModels.

The algorithm and its parameters are those of `tvl1`, where Numba computes it, which is many times faster on a
processor. All pairs of a batch are computed together; each stops by itself, so that its flow does not depend on the
others. Fields have the layout `[B, 2, H, W]`, x and y along the second axis.
"""

from collections.abc import Callable
import functools
import types
from typing import Any

import numpy as np
import tensorflow as tf

from i3d_tf.flow import tvl1
from i3d_tf.flow import tvl1_kernels

_BORDER = 4  # zero pixels around the image that is warped: taps further out are never looked at
_CUBIC = -0.75  # the free parameter of bicubic interpolation: OpenCV's choice
_FLAT = 1e-12  # squared gradient below which a pixel says nothing about motion
_TINY = 1e-30  # keeps the derivative of a root at 0 finite; too small to change the root


def flow(previous: tf.Tensor, following: tf.Tensor, params: tvl1.TvL1Params) -> tf.Tensor:
  """Returns the flow of pairs of frames, float32 `[B, H, W, 2]`: x and y in pixels.

  Sizes may be open. Gradients pass to the frames, in memory for all iterations.

  Args:
    previous: gray frames `[B, H, W]`, 0 to 255, of 3 pixels at least.
    following: the same, a step later.
    params: see `TvL1Params`.
  """
  pyramids, exist = _pyramid(tf.cast(tf.stack([previous, following]), tf.float32), params)
  # Traced once for all levels, which differ in size only.
  image, field = tf.TensorSpec([None, None, None]), tf.TensorSpec([None, 2, None, None])
  improve = tf.function(
    functools.partial(_solve_level, params=params), input_signature=[image, image, field], autograph=False
  )
  found: Any = None
  for level in reversed(range(len(pyramids))):
    first, second = tf.unstack(pyramids[level], 2)
    start = tf.zeros_like(tf.stack([first, first], 1)) if found is None else _enlarge(found, first, params)
    solve = functools.partial(improve, first, second, start)
    # An open size may be too small for this level, which then has no flow: the next one starts from zero.
    is_there = exist[level]
    found = solve() if is_there is True else tf.cond(is_there, solve, lambda start=start: tf.zeros_like(start))
    found = tf.ensure_shape(found, start.shape)
  return tf.transpose(found, [0, 2, 3, 1])


@functools.cache
def compiled(
  params: tvl1.TvL1Params, height: int, width: int, *, jit_compile: bool = False
) -> Callable[[np.ndarray, np.ndarray], tf.Tensor]:
  """Returns `flow` compiled for frames of a size, uint8 `[B, H, W]`, and any number of pairs.

  Args:
    params: see `TvL1Params`.
    height: of the frames, in pixels.
    width: of the frames, in pixels.
    jit_compile: whether XLA compiles it, anew for each number of pairs.

  Raises:
    ValueError: if a side is shorter than 3 pixels.
  """
  tvl1.check_size(height, width)
  spec = tf.TensorSpec([None, height, width], tf.uint8)
  compute = lambda previous, following: flow(previous, following, params)
  return tf.function(compute, input_signature=[spec, spec], autograph=False, jit_compile=jit_compile)


def to_gray(frames: tf.Tensor) -> tf.Tensor:
  """Returns frames in gray, uint8 `[...]`, with the values that OpenCV's conversion has.

  Args:
    frames: RGB uint8 `[..., 3]`.
  """
  red, green, blue = tf.unstack(tf.cast(frames, tf.int32), 3, axis=-1)
  return tf.cast((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) // (1 << 15), tf.uint8)


def _pyramid(images: tf.Tensor, params: tvl1.TvL1Params) -> tuple[list[tf.Tensor], list[Any]]:
  """Levels `[2, B, h, w]`, finest first, and whether each is used: a boolean tensor where the size is open."""
  height, width = images.shape[-2:]
  levels, exist = [images], [True]
  if height is not None and width is not None:
    shapes = tvl1.level_shapes(height, width, params)[1:]
    for shape in shapes:
      levels.append(_shrink(levels[-1], tf.constant(shape), params))
    return levels, [True] * len(levels)
  is_used, size = tf.constant(True), tf.shape(images)[-2:]
  for _ in range(params.nscales - 1):
    size = tf.cast(tf.round(tf.cast(size, tf.float64) * params.scale_step), tf.int32)
    is_used &= tf.reduce_min(size) >= tvl1.MIN_LEVEL
    levels.append(_shrink(levels[-1], tf.maximum(size, 1), params))
    exist.append(is_used)
  return levels, exist


def _shrink(images: tf.Tensor, size: tf.Tensor, params: tvl1.TvL1Params) -> tf.Tensor:
  # OpenCV takes the step from the scale, not from the rounded sizes.
  step = tf.constant(1 / params.scale_step, tf.float64)
  return _resize(images, size, (step, step))


def _enlarge(coarse: tf.Tensor, image: tf.Tensor, params: tvl1.TvL1Params) -> tf.Tensor:
  size = tf.shape(image)[-2:]
  steps = tf.cast(tf.shape(coarse)[-2:], tf.float64) / tf.cast(size, tf.float64)
  return _resize(coarse, size, (steps[0], steps[1])) * np.float32(1 / params.scale_step)


def _resize(images: tf.Tensor, size: tf.Tensor, steps: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
  """Resamples `[..., H, W]` bilinearly, with pixels centred on half-integers and the border repeated."""
  known = tf.get_static_value(size)
  for axis in (-1, -2):
    last = tf.shape(images)[axis] - 1
    position = (tf.range(tf.cast(size[axis], tf.float64), dtype=tf.float64) + 0.5) * steps[axis] - 0.5
    before = tf.clip_by_value(tf.cast(tf.floor(position), tf.int32), 0, last)
    weight = tf.clip_by_value(position - tf.cast(before, tf.float64), 0, 1)
    weight = tf.cast(tf.where(before < last, weight, tf.zeros_like(weight)), tf.float32)
    weight = weight if axis == -1 else weight[:, tf.newaxis]
    low, high = (tf.gather(images, each, axis=axis) for each in (before, tf.minimum(before + 1, last)))
    images = low * (1 - weight) + high * weight
  return images if known is None else tf.ensure_shape(images, [*images.shape[:-2], *known])


def _solve_level(first: tf.Tensor, second: tf.Tensor, start: tf.Tensor, params: tvl1.TvL1Params) -> tf.Tensor:
  """Improves the flow `start` `[B, 2, H, W]` from the images `first` to `second` `[B, H, W]`."""
  source = _interleave(second)
  tolerance = tf.cast(tf.size(first[0]), tf.float32) * np.float32(params.epsilon**2)
  zeros = tf.zeros_like(start)

  def warp(flow: tf.Tensor, across: tf.Tensor, down: tf.Tensor) -> tuple[tf.Tensor, ...]:
    iterate = _iteration(first, source, flow, params)
    # The flow, the dual variables, which are kept across warps, and the change of each pair's flow.
    state = (flow, across, down, tf.fill(tf.shape(first)[:1], np.float32(np.inf)))

    def inner(*state: tf.Tensor) -> tuple[tf.Tensor, ...]:
      return _where(state[3] > tolerance, iterate(*state[:3]), state)

    def outer(*state: tf.Tensor) -> tuple[tf.Tensor, ...]:
      if params.median_filtering > 1:
        state = (*_where(state[3] > tolerance, (_median(state[0]),), state[:1]), *state[1:])
      return _repeat(inner, state, params.inner_iterations, tolerance)

    return _repeat(outer, state, params.outer_iterations, tolerance)[:3]

  return tf.while_loop(
      lambda *_: True, warp, (start, zeros, zeros), maximum_iterations=params.warps, parallel_iterations=1
  )[0]  # fmt: skip


def _repeat(body: Callable, state: tuple[tf.Tensor, ...], most: int, tolerance: tf.Tensor) -> tuple[tf.Tensor, ...]:
  """Repeats a step as long as the flow of some pair changes."""
  goes_on = lambda *state: tf.reduce_any(state[3] > tolerance)
  return tf.while_loop(goes_on, body, state, maximum_iterations=most, parallel_iterations=1)


def _where(is_active: tf.Tensor, new: tuple[tf.Tensor, ...], old: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
  """The new state of the pairs that are not done yet, and the old one of the others."""
  spread = lambda value: tf.reshape(is_active, [-1] + [1] * (value.shape.rank - 1))
  return tuple(tf.where(spread(a), a, b) for a, b in zip(new, old, strict=True))


def _iteration(first: tf.Tensor, source: tf.Tensor, flow: tf.Tensor, params: tvl1.TvL1Params) -> Callable:
  """Linearises the data term at a flow; returns one step of the iteration."""
  tau_theta, theta = np.float32(params.tau / params.theta), np.float32(params.theta)
  threshold = np.float32(params.lambda_ * params.theta)
  sampled = _warp(source, flow, params.warp_subpixels)
  gradient = sampled[:, 1:]
  square = tf.reduce_sum(gradient * gradient, 1, keepdims=True)
  is_flat = square < _FLAT
  # Not 1 / square: TensorFlow makes that a reciprocal, which on processors has other last digits at the end of a batch.
  inverse = tf.cast(~is_flat, tf.float32) / tf.where(is_flat, tf.ones_like(square), square)
  residual = (sampled[:, 0] - first)[:, tf.newaxis] - tf.reduce_sum(gradient * flow, 1, keepdims=True)

  left, right = ([[0, 0], [0, 0], [0, 0], each] for each in ([1, 0], [0, 1]))
  above, below = ([[0, 0], [0, 0], each, [0, 0]] for each in ([1, 0], [0, 1]))

  def iterate(flow: tf.Tensor, across: tf.Tensor, down: tf.Tensor) -> tuple[tf.Tensor, ...]:
    # The three cases of the thresholding step are one clamped step along the gradient.
    rho = residual + gradient[:, :1] * flow[:, :1] + gradient[:, 1:] * flow[:, 1:]
    step = tf.clip_by_value(-inverse * rho, -threshold, threshold)
    divergence = across - tf.pad(across[..., :-1], left) + down - tf.pad(down[..., :-1, :], above)
    new = flow + step * gradient + theta * divergence
    change = _sums(tf.square(new - flow))
    # At the last column and row the differences are 0: they are those to a copy.
    x = tf.pad(new[..., 1:] - new[..., :-1], right)
    y = tf.pad(new[..., 1:, :] - new[..., :-1, :], below)
    norm = 1 + tau_theta * tf.sqrt(x * x + y * y + _TINY)
    return new, (across + tau_theta * x) / norm, (down + tau_theta * y) / norm, change

  return iterate


def _sums(values: tf.Tensor) -> tf.Tensor:
  """The sum for each pair, `[B]`, of `[B, 2, H, W]`.

  It decides when a pair is done, and must not depend on how many others there are. Sums over all of a tensor are taken
  in another order than sums over a part of it; the row of zeros makes that of a single pair a sum over a part, too.
  """
  rows = tf.reduce_sum(values, 3)
  rows = tf.reshape(rows, [tf.shape(values)[0], -1])
  return tf.reduce_sum(tf.pad(rows, [[0, 1], [0, 0]]), 1)[:-1]


def _interleave(image: tf.Tensor) -> tf.Tensor:
  """An image and its central differences `[B, H + 8, W + 8, 3]`, and zeros around it; at the border halved."""
  wide = _repeat_border(image, 1)
  x = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) / 2
  y = (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) / 2
  return tf.pad(tf.stack([image, x, y], -1), [[0, 0], [_BORDER, _BORDER], [_BORDER, _BORDER], [0, 0]])


def _repeat_border(values: tf.Tensor, margin: int) -> tf.Tensor:
  """`[..., H, W]` with its border repeated."""
  for axis in (-1, -2):
    size = values.shape[axis] or tf.shape(values)[axis]
    values = tf.gather(values, tf.clip_by_value(tf.range(-margin, size + margin), 0, size - 1), axis=axis)
  return values


def _warp(source: tf.Tensor, flow: tf.Tensor, subpixels: int) -> tf.Tensor:
  """Samples what `_interleave` made at each pixel plus its flow, bicubically: `[B, 3, H, W]`."""
  height, width = flow.shape[2] or tf.shape(flow)[2], flow.shape[3] or tf.shape(flow)[3]
  x = flow[:, 0] + tf.range(tf.cast(width, tf.float32))
  y = flow[:, 1] + tf.range(tf.cast(height, tf.float32))[:, tf.newaxis]
  if subpixels:
    x, y = (tf.round(each * subpixels) / subpixels for each in (x, y))
  left, top = tf.floor(x), tf.floor(y)
  across, down = _cubic(x - left), _cubic(y - top)
  # Beyond these limits all sixteen taps lie in the zeros.
  column = tf.cast(tf.clip_by_value(left, -3.0, tf.cast(width + 1, tf.float32)), tf.int32)
  row = tf.cast(tf.clip_by_value(top, -3.0, tf.cast(height + 1, tf.float32)), tf.int32)
  pitch = width + 2 * _BORDER
  corner = (row + _BORDER - 1) * pitch + column + _BORDER - 1
  flat = tf.reshape(source, [tf.shape(source)[0], (height + 2 * _BORDER) * pitch, 3])
  total: Any = 0.0
  for i, weight in enumerate(across):
    taps = [tf.gather(flat, corner + (j * pitch + i), batch_dims=1) for j in range(4)]
    column_sum = sum(tap * each[..., tf.newaxis] for tap, each in zip(taps, down, strict=True))
    total += weight[..., tf.newaxis] * column_sum
  return tf.transpose(total, [0, 3, 1, 2])


def _cubic(t: tf.Tensor) -> tuple[tf.Tensor, ...]:
  """The four bicubic weights at the fraction `t`; exactly 0, 1, 0, 0 at t = 0."""
  s = 1 - t
  first, last = _CUBIC * t * s * s, _CUBIC * s * t * t
  second = ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1
  return first, second, 1 - first - second - last, last


def _median(values: tf.Tensor) -> tf.Tensor:
  """The median of 5 x 5 places around each of `[B, 2, H, W]`, with the border repeated, by the kernels' own network."""
  height, width = (values.shape[axis] or tf.shape(values)[axis] for axis in (2, 3))
  wide = _repeat_border(values, 2)
  rows = [[wide[:, :, i : i + height]] for i in range(5)]
  ranks: list[list[Any]] = [[None] for _ in range(5)]
  _of_tensors(tvl1_kernels._sort_columns)(*rows, 1, *ranks)
  shifted = [[rank[0][..., i : i + width] for i in range(5)] for rank in ranks]
  out: list[Any] = [None]
  _of_tensors(tvl1_kernels._median_row)(*shifted, 1, out)
  return out[0]


def _of_tensors(kernel: Any) -> Callable:
  """A compiled kernel's Python function, with minima and maxima of tensors in place of those of numbers."""
  smaller, larger = tf.minimum, tf.maximum
  names = {
    "_smaller": smaller,
    "_larger": larger,
    "_order": lambda a, b: (smaller(a, b), larger(a, b)),
    "_at": lambda rows: rows,
    "tvl1_filters": types.SimpleNamespace(no_alias=lambda: None),
  }
  function = kernel.py_func
  return types.FunctionType(function.__code__, function.__globals__ | names)
