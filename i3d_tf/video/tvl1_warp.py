"""Compiled kernels that resample images: pyramid, derivatives, warping by a flow field.

The functions keep no state, release the interpreter lock and follow one thread. Images are C-contiguous
float32 arrays [H, W].
"""

import math

import numpy as np

from i3d_tf.video.tvl1_numba import blend_window
from i3d_tf.video.tvl1_numba import compiled
from i3d_tf.video.tvl1_numba import no_alias

BORDER = 4  # zero pixels around the image that is warped: bicubic taps further out are never looked at
CHANNELS = 4  # of the image that is warped: value, x derivative, y derivative, and a zero for alignment

_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_TINY = np.float32(1e-30)
_CUBIC = np.float32(-0.75)  # the free parameter of bicubic interpolation: OpenCV's choice


@compiled
def row_pitch(width):
  """Floats from one row of the image that is warped to the next."""
  return (width + 2 * BORDER) * CHANNELS


def warped_size(height, width):
  """Floats of the image that is warped."""
  return (height + 2 * BORDER) * row_pitch(width)


# ---------------------------------------------------------------------------------------------------
# Images


@compiled
def resize(image, resized, step_y, step_x, factor):
  """Resamples `image` [H, W] bilinearly, times `factor`, into `resized` [h, w].

  A step is the distance in `image` of neighbours in `resized`; pixels are centred on half-integers and
  the border is repeated. Positions are computed in double precision, as OpenCV's optimised code does.
  """
  left, across = _brackets(resized.shape[1], step_x, image.shape[1])
  top, down = _brackets(resized.shape[0], step_y, image.shape[0])
  for y in range(resized.shape[0]):
    upper, lower = image[top[y]], image[min(top[y] + 1, image.shape[0] - 1)]
    _resize_row(upper, lower, down[y], left, across, factor, resized[y])


@compiled
def _brackets(count, step, size):
  """Of `count` positions: the sample before each and the weight of the sample after it."""
  before = np.empty(count, np.int64)
  weight = np.empty(count, np.float32)
  for i in range(count):
    position = (i + 0.5) * step - 0.5
    before[i] = min(max(int(math.floor(position)), 0), size - 1)
    weight[i] = min(max(position - before[i], 0.0), 1.0) if before[i] < size - 1 else 0.0
  return before, weight


@compiled
def _resize_row(upper, lower, down, left, across, factor, out):
  """One row of `resize`, between the rows `upper` and `lower` of the image."""
  for x in range(out.shape[0]):
    at = left[x]
    after = min(at + 1, upper.shape[0] - 1)
    above = upper[at] * (_ONE - across[x]) + upper[after] * across[x]
    below = lower[at] * (_ONE - across[x]) + lower[after] * across[x]
    out[x] = factor * (above * (_ONE - down) + below * down)


@compiled
def interleave(image, source):
  """Writes `image` and its central differences to `source`, with a border of zeros."""
  height, width = image.shape
  pitch = row_pitch(width)
  margin = BORDER * CHANNELS
  source[: BORDER * pitch] = _ZERO
  for y in range(height):
    start = (y + BORDER) * pitch + margin
    source[start - margin : start] = _ZERO
    _interleave_row(image[max(y - 1, 0)], image[y], image[min(y + 1, height - 1)], source[start:])
    source[start + width * CHANNELS : start + width * CHANNELS + margin] = _ZERO
  source[(height + BORDER) * pitch : (height + 2 * BORDER) * pitch] = _ZERO


@compiled
def _interleave_row(above, row, below, out):
  """One row of `interleave`. At the border of the image the differences are half the one-sided ones."""
  no_alias()
  last = row.shape[0] - 1
  for x in range(1, last):
    out[CHANNELS * x] = row[x]
    out[CHANNELS * x + 1] = _HALF * (row[x + 1] - row[x - 1])
    out[CHANNELS * x + 2] = _HALF * (below[x] - above[x])
    out[CHANNELS * x + 3] = _ZERO
  for x, other in ((0, 1), (last, last - 1)):
    out[CHANNELS * x] = row[x]
    out[CHANNELS * x + 1] = _HALF * (row[max(x, other)] - row[min(x, other)])
    out[CHANNELS * x + 2] = _HALF * (below[x] - above[x])
    out[CHANNELS * x + 3] = _ZERO


# ---------------------------------------------------------------------------------------------------
# Warping and linearising


@compiled
def _cubic(t):
  """The four bicubic weights at the fraction `t`; exactly 0, 1, 0, 0 at t = 0."""
  s = _ONE - t
  first = _CUBIC * t * s * s
  last = _CUBIC * s * t * t
  second = ((_CUBIC + np.float32(2)) * t - (_CUBIC + np.float32(3))) * t * t + _ONE
  return first, second, _ONE - first - second - last, last


@compiled
def locate(u, v, y, height, width, subpixels, taps, corner):
  """For each pixel of a row: bicubic weights into `taps` [8, W], offset of its first tap into `corner` [W]."""
  pitch = row_pitch(width)
  for x in range(width):
    across = np.float32(x) + u[x]
    down = np.float32(y) + v[x]
    if subpixels > _ZERO:
      across = np.float32(np.rint(across * subpixels)) / subpixels
      down = np.float32(np.rint(down * subpixels)) / subpixels
    left = np.floor(across)
    top = np.floor(down)
    taps[0, x], taps[1, x], taps[2, x], taps[3, x] = _cubic(across - left)
    taps[4, x], taps[5, x], taps[6, x], taps[7, x] = _cubic(down - top)
    # Beyond these limits all sixteen taps lie in the zero border.
    column = np.int64(min(max(left, np.float32(-3)), np.float32(width + 1)))
    row = np.int64(min(max(top, np.float32(-3)), np.float32(height + 1)))
    corner[x] = np.uint64((row + BORDER - 1) * pitch + (column + BORDER - 1) * CHANNELS)


@compiled
def gather(source, pitch, taps, corner, width, sampled):
  """Interpolates the four channels of `source` at each pixel of a row into `sampled` [W * CHANNELS]."""
  for x in range(width):
    blend_window(
      source,
      corner[x],
      np.uint64(pitch),
      (taps[0, x], taps[1, x], taps[2, x], taps[3, x]),
      (taps[4, x], taps[5, x], taps[6, x], taps[7, x]),
      sampled,
      np.uint64(CHANNELS * x),
    )


@compiled
def linearise_row(image, sampled, u, v, grad_x, grad_y, inv_grad, residual):
  """From the warped second image: the coefficients of the data term at a row of the first image."""
  no_alias()
  for x in range(image.shape[0]):
    value = sampled[CHANNELS * x]
    dx = sampled[CHANNELS * x + 1]
    dy = sampled[CHANNELS * x + 2]
    grad_x[x] = dx
    grad_y[x] = dy
    # Where the image is flat grad_x = grad_y = 0 silences this factor; it only has to be finite.
    inv_grad[x] = _ONE / (dx * dx + dy * dy + _TINY)
    residual[x] = value - dx * u[x] - dy * v[x] - image[x]
