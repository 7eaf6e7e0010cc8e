"""Median of the 25 values around each pixel, by minima and maxima that vectorise along a row.

Sorting each column of five values serves all five windows that the column belongs to. From five sorted
columns the median takes 86 further minima and maxima. The sequence was found by pruning a sorting network
for as long as it still selected the 13th of 25 values on all 6^5 ways to fill sorted columns with zeros
and ones, which by the zero-one principle proves it for all numbers (Knuth, The Art of Computer
Programming, volume 3, section 5.3.4).

Compiled kernels that resample images: pyramid, derivatives, warping by a flow field.

The functions keep no state, release the interpreter lock and follow one thread. Images are C-contiguous
float32 arrays [H, W].
"""

import math

import numpy as np

from i3d_tf.flow.tvl1_kernels import blend_window
from i3d_tf.flow.tvl1_kernels import compiled
from i3d_tf.flow.tvl1_kernels import no_alias

# Unsigned, because Numba then leaves out the test for negative indices, which would keep the vectoriser
# from seeing that neighbours are neighbours.
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


@compiled
def _smaller(a, b):
  return a if a < b else b


@compiled
def _larger(a, b):
  return b if a < b else a


@compiled
def _order(a, b):
  return (a if a < b else b), (b if a < b else a)


@compiled
def sort_columns(row0, row1, row2, row3, row4, columns, ranked, start):
  """Sorts the five values of each column, one from each row: the smallest go to `ranked[0]`.

  Args:
    row0..row4: [>= columns] float32.
    columns: number of columns to sort.
    ranked: five arrays [>= columns] float32, written.
  """
  _sort_columns(
    row0,
    row1,
    row2,
    row3,
    row4,
    columns,
    ranked[0, start:],
    ranked[1, start:],
    ranked[2, start:],
    ranked[3, start:],
    ranked[4, start:],
  )


@compiled
def _sort_columns(row0, row1, row2, row3, row4, columns, rank0, rank1, rank2, rank3, rank4):
  no_alias()
  for x in range(np.uint64(columns)):
    a, b, c, d, e = row0[x], row1[x], row2[x], row3[x], row4[x]
    a, b = _order(a, b)
    d, e = _order(d, e)
    c, e = _order(c, e)
    c, d = _order(c, d)
    a, d = _order(a, d)
    a, c = _order(a, c)
    b, e = _order(b, e)
    b, d = _order(b, d)
    b, c = _order(b, c)
    rank0[x], rank1[x], rank2[x], rank3[x], rank4[x] = a, b, c, d, e


@compiled
def median_row(ranked, start, columns, out):
  """Writes the median of sorted columns x..x+4 to `out[x]`, for x in 0..columns-1.

  Args:
    ranked: five arrays [>= columns + 4] float32, as `sort_columns` fills them.
    columns: number of medians.
    out: [>= columns] float32, written.
  """
  _median_row(
    ranked[0, start:], ranked[1, start:], ranked[2, start:], ranked[3, start:], ranked[4, start:], columns, out
  )


@compiled
def _median_row(rank0, rank1, rank2, rank3, rank4, columns, out):
  no_alias()
  for x in range(np.uint64(columns)):
    a0, b0, c0, d0, e0 = rank0[x], rank0[x + _1], rank0[x + _2], rank0[x + _3], rank0[x + _4]
    a1, b1, c1, d1, e1 = rank1[x], rank1[x + _1], rank1[x + _2], rank1[x + _3], rank1[x + _4]
    a2, b2, c2, d2, e2 = rank2[x], rank2[x + _1], rank2[x + _2], rank2[x + _3], rank2[x + _4]
    a3, b3, c3, d3, e3 = rank3[x], rank3[x + _1], rank3[x + _2], rank3[x + _3], rank3[x + _4]
    a4, b4, c4, d4, e4 = rank4[x], rank4[x + _1], rank4[x + _2], rank4[x + _3], rank4[x + _4]
    a4, d4 = _order(a4, d4)
    a1, e1 = _order(a1, e1)
    b1, c1 = _order(b1, c1)
    b1 = _larger(a1, b1)
    b2, e2 = _order(b2, e2)
    a2, c2 = _order(a2, c2)
    b1, d1 = _order(b1, d1)
    d4 = _smaller(d4, c4)
    c2, e2 = _order(c2, e2)
    a4, d4 = _order(a4, d4)
    c2, d2 = _order(c2, d2)
    c0, a0 = _order(c0, a0)
    b3, d3 = _order(b3, d3)
    b4, a4 = _order(b4, a4)
    c3, a3 = _order(c3, a3)
    d0, b0 = _order(d0, b0)
    a4 = _smaller(a4, e2)
    d1, e1 = _order(d1, e1)
    a3 = _smaller(a3, d3)
    a2, c2 = _order(a2, c2)
    c0 = _larger(b0, c0)
    b3, e3 = _order(b3, e3)
    a3, c3 = _order(a3, c3)
    d4 = _smaller(d4, e4)
    a3, b3 = _order(a3, b3)
    a4 = _smaller(a4, d4)
    d0 = _larger(a0, d0)
    c3 = _smaller(c3, e3)
    b2, c2 = _order(b2, c2)
    b3, c3 = _order(b3, c3)
    c1, d1 = _order(c1, d1)
    d0, c0 = _order(d0, c0)
    c0, e0 = _order(c0, e0)
    d1, e1 = _order(d1, e1)
    c2, d2 = _order(c2, d2)
    b2 = _larger(c0, b2)
    b3 = _smaller(b3, e1)
    d1 = _smaller(d1, c3)
    a4, b4 = _order(a4, b4)
    a3 = _larger(a2, a3)
    d1 = _smaller(d1, b4)
    b2 = _larger(a3, b2)
    a4, b3 = _order(a4, b3)
    e0, c2 = _order(e0, c2)
    c1 = _larger(b2, c1)
    b3 = _smaller(b3, c2)
    e0 = _larger(a4, e0)
    c1 = _larger(b1, c1)
    d0 = _larger(c1, d0)
    d0, b3 = _order(d0, b3)
    b3, e0 = _order(b3, e0)
    e0 = _smaller(e0, d1)
    b3 = _smaller(b3, d2)
    e0 = _larger(d0, e0)
    e0 = _larger(b3, e0)
    out[x] = e0


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
