"""The few things that the kernels need and Numba does not offer.

Compiled kernels that solve one level of the pyramid of TV-L1 optical flow.

The functions keep no state, release the interpreter lock and follow one thread; callers give each thread
its own arrays. Images are C-contiguous float32 arrays [H, W].

A *plane* is a flat float32 array holding an image with a margin: rows -1 to H, and at least one column
more on either side. Rows start on cache lines and are computed in whole vectors. What the columns beyond
W hold is meaningless but finite; column -1 of the dual variables stays 0.
"""

import math
from typing import NamedTuple

from llvmlite import ir
from numba import njit
from numba import types
from numba.extending import intrinsic
import numpy as np

from i3d_tf.flow import tvl1_filters

# Not "nnan" or "ninf": a broken flow field must stay visibly broken.
_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
compiled = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")


@intrinsic
def no_alias(typing_context):
  """Promises that the float32 array arguments of the calling function do not overlap.

  Without the promise the vectoriser must compare the addresses of a dozen arrays before each loop; it
  gives up beyond eight comparisons and leaves scalar code that is eight times slower.
  """
  del typing_context

  def generate(context, builder, signature, arguments):
    del signature, arguments
    for argument in builder.function.args:
      if isinstance(argument.type, ir.PointerType) and argument.type.pointee == ir.FloatType():
        argument.add_attribute("noalias")
    builder.function.attributes.add("noinline")  # inlining would dissolve the promise
    return context.get_dummy_value()

  return types.void(), generate


@intrinsic
def blend_window(typing_context, source, at, pitch, weights_x, weights_y, out, to):
  """Weighs a window of 4 x 4 pixels with 4 interleaved channels: writes `out[to:to+4]`, the weighted sum.

  A row of the window is one vector of 16 values. Written as a loop, LLVM vectorises over the windows
  instead and gathers each value singly, five times slower.

  Args:
    source: [N] float32, the interleaved image.
    at: uint64, offset of the window's first value; not checked.
    pitch: uint64, floats from one row of the window to the next.
    weights_x, weights_y: tuples of four float32.
    out: [M] float32, written.
    to: uint64, offset in `out`; not checked.
  """
  del typing_context
  quad, row = ir.VectorType(ir.FloatType(), 4), ir.VectorType(ir.FloatType(), 16)

  def lanes(builder, vector, indices):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), list(indices))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

  def address(context, builder, array_type, array, offset, vector_type):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), vector_type.as_pointer())

  def weighted(builder, total, vector, weight):
    product = builder.fmul(vector, weight, flags=("contract",))
    return product if total is None else builder.fadd(total, product, flags=("contract",))

  def generate(context, builder, signature, arguments):
    image, offset, step, across, down, result, target = arguments
    total = None
    for i in range(4):
      pixels = builder.load(address(context, builder, signature.args[0], image, offset, row), align=4)
      weight = builder.insert_element(
        ir.Constant(quad, ir.Undefined), builder.extract_value(down, i), ir.IntType(32)(0)
      )
      total = weighted(builder, total, pixels, lanes(builder, weight, [0] * 16))
      offset = builder.add(offset, step)
    factors = ir.Constant(quad, ir.Undefined)
    for i in range(4):
      factors = builder.insert_element(factors, builder.extract_value(across, i), ir.IntType(32)(i))
    total = builder.fmul(total, lanes(builder, factors, [i // 4 for i in range(16)]))
    half = builder.fadd(lanes(builder, total, range(8)), lanes(builder, total, range(8, 16)))
    total = builder.fadd(lanes(builder, half, range(4)), lanes(builder, half, range(4, 8)))
    builder.store(total, address(context, builder, signature.args[5], result, target, quad), align=4)
    return context.get_dummy_value()

  return types.void(source, at, pitch, weights_x, weights_y, out, to), generate


LANES = 16  # float32 values in a cache line, and in the widest vector register (AVX-512)

_ZERO = np.float32(0)
_ONE = np.float32(1)


class Fields(NamedTuple):
  """The planes of one level."""

  u: np.ndarray  # horizontal flow, pixels
  v: np.ndarray  # vertical flow
  filtered_u: np.ndarray  # the median filter writes here, then the names are swapped
  filtered_v: np.ndarray
  pux: np.ndarray  # dual variable of u, x component
  puy: np.ndarray
  pvx: np.ndarray  # dual variable of v
  pvy: np.ndarray
  grad_x: np.ndarray  # derivatives of the warped second image
  grad_y: np.ndarray
  inv_grad: np.ndarray  # 1 / (grad_x^2 + grad_y^2)
  residual: np.ndarray  # brightness difference, extrapolated to zero flow


class Scheme(NamedTuple):
  """The numbers that the iteration needs."""

  tau_theta: np.float32  # tau / theta
  theta: np.float32
  threshold: np.float32  # lambda * theta
  epsilon: float  # stop when the root mean square change of the flow is smaller
  num_warps: int
  num_outer: int
  num_inner: int
  use_median: bool  # 5 x 5 median of the flow before the inner iterations
  subpixels: np.float32  # warp at multiples of 1/subpixels pixel; 0: anywhere


@compiled
def padded_width(width):
  """Columns that are computed in a row of `width`: whole vectors, so that no loop has a scalar remainder."""
  return (width + LANES - 1) // LANES * LANES


@compiled
def row_stride(width):
  """Floats from one row of a plane to the next."""
  return LANES + padded_width(width) + LANES


@compiled
def row_start(y, width):
  """Offset of column 0 of row `y` (-1 to H) in a plane."""
  return (y + 1) * row_stride(width) + LANES


def plane_size(height, width):
  """Floats of a plane."""
  return (height + 2) * row_stride(width)


# ---------------------------------------------------------------------------------------------------
# Warping


@compiled
def _linearise(image, source, f, subpixels):
  """Warps the second image by the flow and linearises the brightness difference there."""
  height, width = image.shape
  pitch = tvl1_filters.row_pitch(width)
  taps = np.empty((8, width), np.float32)
  corner = np.empty(width, np.uint64)
  sampled = np.empty(tvl1_filters.CHANNELS * width, np.float32)
  for y in range(height):
    start = row_start(y, width)
    u, v = f.u[start : start + width], f.v[start : start + width]
    tvl1_filters.locate(u, v, y, height, width, subpixels, taps, corner)
    tvl1_filters.gather(source, pitch, taps, corner, width, sampled)
    tvl1_filters.linearise_row(
      image[y], sampled, u, v, f.grad_x[start:], f.grad_y[start:], f.inv_grad[start:], f.residual[start:]
    )


# ---------------------------------------------------------------------------------------------------
# Median


@compiled
def _filter_median(plane, filtered, height, width):
  """Writes the 5 x 5 median of `plane` to `filtered`; pixels of the edge are repeated beyond it."""
  columns = padded_width(width)
  ranked = np.zeros((5, row_stride(width)), np.float32)  # finite from the start, surplus columns included
  for y in range(height):
    tvl1_filters.sort_columns(
      plane[row_start(max(y - 2, 0), width) :],
      plane[row_start(max(y - 1, 0), width) :],
      plane[row_start(y, width) :],
      plane[row_start(min(y + 1, height - 1), width) :],
      plane[row_start(min(y + 2, height - 1), width) :],
      columns,
      ranked,
      LANES,
    )
    for rank in range(5):
      ranked[rank, LANES - 2 : LANES] = ranked[rank, LANES]
      ranked[rank, LANES + width : LANES + width + 2] = ranked[rank, LANES + width - 1]
    tvl1_filters.median_row(ranked, LANES - 2, columns, filtered[row_start(y, width) :])


# ---------------------------------------------------------------------------------------------------
# Iteration


@compiled
def _iterate_row(
  u, v, pux, puy, pvx, pvy, grad_x, grad_y, inv_grad, residual, inside, above, row, columns, theta, threshold, tau_theta
):
  """One iteration for the flow of a row and, one row behind, for the dual variables of the row above it.

  `above` and `row` are offsets of column 0 in the planes. The dual variables of a row need the new flow
  of the next row, which is at hand here in registers; so one sweep over the image reads and writes
  every plane once. Offsets are unsigned because Numba then omits the test for negative indices.

  Returns:
    the sum of squared changes of the flow over the columns where `inside` is 1.
  """
  no_alias()
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


@compiled
def _iterate(f, s, inside, height, width):
  """One iteration for the whole image in one sweep; returns the sum of squared changes of the flow.

  The first row takes the dual variables above the image, which are 0, from row -1; what `_iterate_row`
  writes there is cleared before the next sweep. Row `height` follows the last one as a copy of it
  without data and with theta = 0, which leaves it as it is and makes the vertical differences 0.
  """
  columns = padded_width(width)
  above, last = row_start(-1, width), row_start(height - 1, width)
  f.puy[above : above + columns] = _ZERO
  f.pvy[above : above + columns] = _ZERO
  change = 0.0
  for y in range(height + 1):
    row = row_start(y, width)
    theta = s.theta
    if y == height:
      theta = _ZERO
      f.u[row : row + columns] = f.u[last : last + columns]
      f.v[row : row + columns] = f.v[last : last + columns]
    change += _iterate_row(
      f.u,
      f.v,
      f.pux,
      f.puy,
      f.pvx,
      f.pvy,
      f.grad_x,
      f.grad_y,
      f.inv_grad,
      f.residual,
      inside,
      np.uint64(above),
      np.uint64(row),
      np.uint64(columns),
      theta,
      s.threshold,
      s.tau_theta,
    )
    # A copy of the last column makes the horizontal difference there 0.
    f.u[row + width] = f.u[row + width - 1]
    f.v[row + width] = f.v[row + width - 1]
    above = row
  return change


# ---------------------------------------------------------------------------------------------------
# One level


@compiled
def solve_level(previous, following, flow, f, s, source):
  """Improves `flow` from `previous` to `following`, at one level of the pyramid.

  Args:
    previous: [H, W] float32 first image, 0..255.
    following: [H, W] float32 second image.
    flow: [2, H, W] float32, horizontal and vertical, in pixels; start on entry, solution on return.
    f: `Fields` of at least `plane_size(H, W)` floats each.
    s: `Scheme`.
    source: at least `warp.warped_size(H, W)` floats.

  Returns:
    the number of inner and of outer iterations.
  """
  height, width = previous.shape
  inside = np.zeros(padded_width(width), np.float32)
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
    start = row_start(y, width)
    flow[0, y] = f.u[start : start + width]
    flow[1, y] = f.v[start : start + width]
  return num_inner, num_outer


@compiled
def _load(flow, f, height, width):
  """Sets the planes to the flow `flow` and everything else to 0."""
  end = (height + 2) * row_stride(width)
  for plane in f:
    plane[:end] = _ZERO
  for y in range(height):
    start = row_start(y, width)
    f.u[start : start + width] = flow[0, y]
    f.v[start : start + width] = flow[1, y]


@compiled
def _swapped(f):
  """Exchanges the flow and the filtered flow."""
  return Fields(
    f.filtered_u, f.filtered_v, f.u, f.v, f.pux, f.puy, f.pvx, f.pvy, f.grad_x, f.grad_y, f.inv_grad, f.residual
  )
