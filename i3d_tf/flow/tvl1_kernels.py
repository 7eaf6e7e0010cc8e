"""Compiled kernels that solve one level of the pyramid of TV-L1 optical flow: iteration and median filter.

The functions keep no state, release the interpreter lock and follow one thread; callers give each thread its own
arrays. See `tvl1_filters` for the layout of the arrays.

The median of the 25 values around each pixel is found by minima and maxima that vectorise along a row. Sorting each
column of five values serves all five windows that the column belongs to. From five sorted columns the median takes 86
further minima and maxima. The sequence was found by pruning a sorting network for as long as it still selected the 13th
of 25 values on all 6^5 ways to fill sorted columns with zeros and ones, which by the zero-one principle proves it for
all numbers (Knuth, The Art of Computer Programming, volume 3, section 5.3.4).
"""

import math

import numpy as np

from i3d_tf.flow import tvl1_filters

_ZERO = np.float32(0)
_ONE = np.float32(1)
# Unsigned, because Numba then leaves out the test for negative indices, which would keep the vectoriser
# from seeing that neighbours are neighbours.
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_at = tvl1_filters.plane_at


@tvl1_filters.compiled
def _smaller(a, b):
  return a if a < b else b


@tvl1_filters.compiled
def _larger(a, b):
  return b if a < b else a


@tvl1_filters.compiled
def _order(a, b):
  return (a if a < b else b), (b if a < b else a)


@tvl1_filters.compiled
def _sort_columns(row0, row1, row2, row3, row4, columns, rank0, rank1, rank2, rank3, rank4):
  """Sorts the five values of each column, one from each row, all given by their addresses: the smallest to `rank0`."""
  tvl1_filters.no_alias()
  row0, row1, row2, row3, row4 = _at(row0), _at(row1), _at(row2), _at(row3), _at(row4)
  rank0, rank1, rank2, rank3, rank4 = _at(rank0), _at(rank1), _at(rank2), _at(rank3), _at(rank4)
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


@tvl1_filters.compiled
def _median_row(rank0, rank1, rank2, rank3, rank4, columns, out):
  """Writes the median of the sorted columns x..x+4 to `out[x]` for each x; all rows are given by their addresses."""
  tvl1_filters.no_alias()
  rank0, rank1, rank2, rank3, rank4, out = _at(rank0), _at(rank1), _at(rank2), _at(rank3), _at(rank4), _at(out)
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


# ---------------------------------------------------------------------------------------------------
# Warping


@tvl1_filters.compiled
def _linearise(image, source, f, subpixels):
  """Warps the second image by the flow and linearises the brightness difference there."""
  height, width = image.shape
  pitch = tvl1_filters.row_pitch(width)
  taps = np.empty((8, width), np.float32)
  corner = np.empty(width, np.uint64)
  sampled = np.empty(tvl1_filters.CHANNELS * width, np.float32)
  at = tvl1_filters.address
  u, v, grad_x, grad_y, inv_grad, residual = f.u, f.v, f.grad_x, f.grad_y, f.inv_grad, f.residual
  for y in range(height):
    start = tvl1_filters.row_start(y, width)
    at_u, at_v = at(u, start), at(v, start)
    tvl1_filters.locate(at_u, at_v, y, height, width, subpixels, taps, corner)
    tvl1_filters.gather(source, pitch, taps, corner, width, sampled)
    tvl1_filters.linearise_row(
      at(image, y * width),
      at(sampled, 0),
      at_u,
      at_v,
      at(grad_x, start),
      at(grad_y, start),
      at(inv_grad, start),
      at(residual, start),
      width,
    )


# ---------------------------------------------------------------------------------------------------
# Median


@tvl1_filters.compiled
def _filter_median(plane, filtered, height, width):
  """Writes the 5 x 5 median of `plane` to `filtered`; pixels of the edge are repeated beyond it."""
  columns, left = tvl1_filters.padded_width(width), tvl1_filters.LANES
  ranked = np.zeros((5, tvl1_filters.row_stride(width)), np.float32)  # finite from the start, surplus columns included
  at = tvl1_filters.address
  for y in range(height):
    _sort_columns(
      at(plane, tvl1_filters.row_start(max(y - 2, 0), width)),
      at(plane, tvl1_filters.row_start(max(y - 1, 0), width)),
      at(plane, tvl1_filters.row_start(y, width)),
      at(plane, tvl1_filters.row_start(min(y + 1, height - 1), width)),
      at(plane, tvl1_filters.row_start(min(y + 2, height - 1), width)),
      columns,
      *_ranks(ranked, left),
    )
    for rank in range(5):
      ranked[rank, left - 2] = ranked[rank, left - 1] = ranked[rank, left]
      ranked[rank, left + width] = ranked[rank, left + width + 1] = ranked[rank, left + width - 1]
    _median_row(*_ranks(ranked, left - 2), columns, at(filtered, tvl1_filters.row_start(y, width)))


@tvl1_filters.compiled
def _ranks(ranked, column):
  """The addresses of a column in the five rows of `ranked`."""
  at, size = tvl1_filters.address, ranked.shape[1]
  return (
    at(ranked, column),
    at(ranked, size + column),
    at(ranked, 2 * size + column),
    at(ranked, 3 * size + column),
    at(ranked, 4 * size + column),
  )


# ---------------------------------------------------------------------------------------------------
# Iteration


@tvl1_filters.compiled
def _iterate_row(
  u, v, pux, puy, pvx, pvy, grad_x, grad_y, inv_grad, residual, inside, above, row, columns, theta, threshold, tau_theta
):
  """One iteration for the flow of a row and, one row behind, for the dual variables of the row above it.

  Planes are given by their addresses; `above` and `row` are offsets of column 0 in them. The dual variables of a row
  need the new flow of the next row, which is at hand here in registers; so one sweep over the image reads and writes
  every plane once. Offsets are unsigned because Numba then omits the test for negative indices.

  Returns:
    the sum of squared changes of the flow over the columns where `inside` is 1.
  """
  tvl1_filters.no_alias()
  u, v, pux, puy, pvx, pvy = _at(u), _at(v), _at(pux), _at(puy), _at(pvx), _at(pvy)
  grad_x, grad_y, inv_grad, residual, inside = _at(grad_x), _at(grad_y), _at(inv_grad), _at(residual), _at(inside)
  change = _ZERO
  left = row - np.uint64(1)
  right = above + np.uint64(1)
  for x in range(columns):
    here, up = row + x, above + x
    old_u, old_v = u[here], v[here]
    up_u, up_v = u[up], v[up]
    up_puy, up_pvy = puy[up], pvy[up]
    # The three cases of the thresholding step are one clamped step along the gradient.
    step = -inv_grad[here] * (residual[here] + grad_x[here] * old_u + grad_y[here] * old_v)
    step = step if step < threshold else threshold
    step = step if step > -threshold else -threshold
    new_u = old_u + step * grad_x[here] + theta * (pux[here] - pux[left + x] + puy[here] - up_puy)
    new_v = old_v + step * grad_y[here] + theta * (pvx[here] - pvx[left + x] + pvy[here] - up_pvy)
    u[here], v[here] = new_u, new_v
    delta_u, delta_v = new_u - old_u, new_v - old_v
    change += inside[x] * (delta_u * delta_u + delta_v * delta_v)

    ux, uy = u[right + x] - up_u, new_u - up_u
    vx, vy = v[right + x] - up_v, new_v - up_v
    norm_u = _ONE + tau_theta * math.sqrt(ux * ux + uy * uy)
    norm_v = _ONE + tau_theta * math.sqrt(vx * vx + vy * vy)
    inverse = _ONE / (norm_u * norm_v)  # one division for both
    inv_u, inv_v = inverse * norm_v, inverse * norm_u
    pux[up] = inv_u * (pux[up] + tau_theta * ux)
    puy[up] = inv_u * (up_puy + tau_theta * uy)
    pvx[up] = inv_v * (pvx[up] + tau_theta * vx)
    pvy[up] = inv_v * (up_pvy + tau_theta * vy)
  return change


@tvl1_filters.compiled
def _iterate(f, s, inside, height, width):
  """One iteration for the whole image in one sweep; returns the sum of squared changes of the flow.

  The first row takes the dual variables above the image, which are 0, from row -1; what `_iterate_row`
  writes there is cleared before the next sweep. Row `height` follows the last one as a copy of it
  without data and with theta = 0, which leaves it as it is and makes the vertical differences 0.
  """
  columns = tvl1_filters.padded_width(width)
  above, last = tvl1_filters.row_start(-1, width), tvl1_filters.row_start(height - 1, width)
  u, v, puy, pvy = f.u, f.v, f.puy, f.pvy
  puy[above : above + columns] = _ZERO
  pvy[above : above + columns] = _ZERO
  at = tvl1_filters.address
  flow, duals = (at(u, 0), at(v, 0)), (at(f.pux, 0), at(puy, 0), at(f.pvx, 0), at(pvy, 0))
  data = at(f.grad_x, 0), at(f.grad_y, 0), at(f.inv_grad, 0), at(f.residual, 0), at(inside, 0)
  change = 0.0
  for y in range(height + 1):
    row = tvl1_filters.row_start(y, width)
    theta = s.theta
    if y == height:
      theta = _ZERO
      u[row : row + columns] = u[last : last + columns]
      v[row : row + columns] = v[last : last + columns]
    change += _iterate_row(
      *flow,
      *duals,
      *data,
      np.uint64(above),
      np.uint64(row),
      np.uint64(columns),
      theta,
      s.threshold,
      s.tau_theta,
    )
    # A copy of the last column makes the horizontal difference there 0.
    u[row + width] = u[row + width - 1]
    v[row + width] = v[row + width - 1]
    above = row
  return change


# ---------------------------------------------------------------------------------------------------
# One level


@tvl1_filters.compiled
def solve_level(previous, following, flow, f, s, source):
  """Improves `flow` from `previous` to `following`, at one level of the pyramid.

  Args:
    previous: [H, W] float32 first image, 0..255.
    following: [H, W] float32 second image.
    flow: [2, H, W] float32, horizontal and vertical, in pixels; start on entry, solution on return.
    f: `Fields` of at least `tvl1_filters.plane_size(H, W)` floats each.
    s: `Scheme`.
    source: at least `tvl1_filters.warped_size(H, W)` floats.

  Returns:
    The number of inner and of outer iterations.
  """
  height, width = previous.shape
  inside = np.zeros(tvl1_filters.padded_width(width), np.float32)
  inside[:width] = _ONE
  tolerance = s.epsilon * s.epsilon * height * width
  _load(flow, f, height, width)
  tvl1_filters.interleave(following, source)
  num_inner, num_outer = 0, 0
  for _ in range(s.num_warps):
    _linearise(previous, source, f, s.subpixels)
    change = np.inf
    outer = 0
    while outer < s.num_outer and change > tolerance:
      if s.use_median:
        _filter_median(f.u, f.filtered_u, height, width)
        _filter_median(f.v, f.filtered_v, height, width)
        f = _swapped(f)
      inner = 0
      while inner < s.num_inner and change > tolerance:
        change = _iterate(f, s, inside, height, width)
        inner += 1
      num_inner += inner
      outer += 1
    num_outer += outer
  for y in range(height):
    start = tvl1_filters.row_start(y, width)
    flow[0, y] = f.u[start : start + width]
    flow[1, y] = f.v[start : start + width]
  return num_inner, num_outer


@tvl1_filters.compiled
def _load(flow, f, height, width):
  """Sets the planes to the flow `flow` and all others that are not written before they are read to 0."""
  end = (height + 2) * tvl1_filters.row_stride(width)
  for plane in (f.u, f.v, f.pux, f.puy, f.pvx, f.pvy, f.grad_x, f.grad_y, f.inv_grad, f.residual):
    plane[:end] = _ZERO
  for y in range(height):
    start = tvl1_filters.row_start(y, width)
    f.u[start : start + width] = flow[0, y]
    f.v[start : start + width] = flow[1, y]


@tvl1_filters.compiled
def _swapped(f):
  """Exchanges the flow and the filtered flow."""
  return tvl1_filters.Fields(
    f.filtered_u, f.filtered_v, f.u, f.v, f.pux, f.puy, f.pvx, f.pvy, f.grad_x, f.grad_y, f.inv_grad, f.residual
  )
