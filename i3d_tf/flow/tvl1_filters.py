"""Compiled kernels of TV-L1 optical flow that resample images: pyramid, derivatives, warping by a flow field.

Also what all kernels share: the compiler's settings, the few things that Numba does not offer, and the layout of the
planes. The functions keep no state, release the interpreter lock and follow one thread. Images are C-contiguous float32
arrays [H, W].

A *plane* is a flat float32 array holding an image with a margin: rows -1 to H, and at least one column more on either
side. Rows start on cache lines and are computed in whole vectors. What the columns beyond W hold is meaningless but
finite; column -1 of the dual variables stays 0.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

from llvmlite import ir
from numba import carray
from numba import njit
from numba import types
from numba.extending import intrinsic
import numpy as np

# Not "nnan" or "ninf": a broken flow field must stay visibly broken.
_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}


def compiled(function: Callable) -> Any:
  """Has Numba compile a kernel at its first call and keep the code beside this file or in the user's cache folder.

  Where neither can be written, as in a read-only container without a home, the code is for this process only.

  Args:
    function: The kernel.

  Returns:
    What to call in its place.
  """
  compile_with = functools.partial(njit, nogil=True, fastmath=_FAST, error_model="numpy")
  try:
    return compile_with(cache=True)(function)
  except RuntimeError:  # Numba has no place for its cache
    return compile_with(cache=False)(function)


@intrinsic
def no_alias(typing_context):
  """Promises that the float32 array arguments of the calling function do not overlap.

  Without the promise the vectoriser must compare the addresses of a dozen arrays before each loop; it
  gives up beyond eight comparisons and leaves scalar code that is eight times slower.

  Args:
    typing_context: Numba's; the calling kernel passes nothing.

  Returns:
    For Numba: the type of the call and the function that generates its code.
  """
  del typing_context

  def generate(context, builder, signature, arguments):
    del signature, arguments
    for argument in builder.function.args:
      if isinstance(argument.type, ir.PointerType) and argument.type.pointee == ir.FloatType():
        argument.add_attribute("noalias")
    builder.function.attributes.add("noinline")  # inlining would dissolve the promise
    # Without it LLVM uses half of each register on Intel's processors; llvmlite knows no such attribute.
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')
    return context.get_dummy_value()

  return types.void(), generate


@intrinsic
def address(typing_context, array, offset):
  """Returns the address of a value of a float32 array, as the argument of a kernel that is called for each row.

  An array is passed as seven values, which for a dozen planes takes as long as a hundred pixels do.

  Args:
    typing_context: Numba's; the calling kernel passes nothing.
    array: contiguous float32.
    offset: of the value, in floats, not checked.

  Returns:
    For Numba: the type of the call and the function that generates its code.
  """
  del typing_context

  def generate(context, builder, signature, arguments):
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])

  return types.CPointer(types.float32)(array, types.int64), generate


@compiled
def plane_at(start):
  """Returns what is at an `address`, as an array whose bounds are not checked.

  Args:
    start: the address.
  """
  return carray(start, (1,))


@intrinsic
def _blend_window(typing_context, source, at, pitch, weights_x, weights_y, out, to):
  """Weighs a window of 4 x 4 pixels with 4 interleaved channels: writes `out[to:to+4]`, the weighted sum.

  A row of the window is one vector of 16 values. Written as a loop, LLVM vectorises over the windows
  instead and gathers each value singly, five times slower. `source` and `out` are flat float32; `at`, `pitch` and `to`
  uint64 offsets in floats, not checked; the weights tuples of four float32.
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
  """Returns the width rounded up to whole vectors, so that no loop has a scalar remainder.

  Args:
    width: columns of the image.
  """
  return (width + LANES - 1) // LANES * LANES


@compiled
def row_stride(width):
  """Returns the distance, in floats, from one row of a plane to the next.

  Args:
    width: columns of the image.
  """
  return LANES + padded_width(width) + LANES


@compiled
def row_start(y, width):
  """Returns where a row of a plane starts: the offset of its column 0, in floats.

  Args:
    y: the row, -1 to H.
    width: columns of the image.
  """
  return (y + 1) * row_stride(width) + LANES


def plane_size(height, width):
  """Returns the size of a plane in floats.

  Args:
    height: rows of the image.
    width: columns of the image.
  """
  return (height + 2) * row_stride(width)


_BORDER = 4  # zero pixels around the image that is warped: bicubic taps further out are never looked at
CHANNELS = 4  # of the image that is warped: value, x derivative, y derivative, and a zero for alignment

_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_TINY = np.float32(1e-30)
_CUBIC = np.float32(-0.75)  # the free parameter of bicubic interpolation: OpenCV's choice


@compiled
def row_pitch(width):
  """Returns the distance, in floats, from one row of the image that is warped to the next.

  Args:
    width: columns of the image.
  """
  return (width + 2 * _BORDER) * CHANNELS


def warped_size(height, width):
  """Returns the size, in floats, of the image that is warped.

  Args:
    height: rows of the image.
    width: columns of the image.
  """
  return (height + 2 * _BORDER) * row_pitch(width)


# ---------------------------------------------------------------------------------------------------
# Images


@compiled
def resize(image, resized, step_y, step_x, factor):
  """Resamples `image` [H, W] bilinearly, times `factor`, into `resized` [h, w].

  Pixels are centred on half-integers and the border is repeated. Positions are computed in double precision, as
  OpenCV's optimised code does.

  Args:
    image: [H, W] float32.
    resized: [h, w] float32, written.
    step_y: distance in `image`, in rows, of neighbours in `resized`.
    step_x: the same in columns.
    factor: float32, multiplies every value.
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
  """Writes an image and its central differences, interleaved, with a border of zeros.

  Args:
    image: [H, W] float32.
    source: at least `warped_size(H, W)` float32, written.
  """
  height, width = image.shape
  pitch = row_pitch(width)
  margin = _BORDER * CHANNELS
  source[: _BORDER * pitch] = _ZERO
  for y in range(height):
    start = (y + _BORDER) * pitch + margin
    source[start - margin : start] = _ZERO
    _interleave_row(image[max(y - 1, 0)], image[y], image[min(y + 1, height - 1)], source[start:])
    source[start + width * CHANNELS : start + width * CHANNELS + margin] = _ZERO
  source[(height + _BORDER) * pitch : (height + 2 * _BORDER) * pitch] = _ZERO


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
  """Computes where each pixel of a row is read in the warped image, and with which bicubic weights.

  Args:
    u: address of the row's horizontal flow.
    v: address of its vertical flow.
    y: number of the row.
    height: rows of the image.
    width: columns of the image.
    subpixels: see `Scheme`.
    taps: [8, W] float32, written: four horizontal weights, then four vertical ones.
    corner: [W] uint64, written: the offset of the first tap in the interleaved image.
  """
  no_alias()
  u, v = plane_at(u), plane_at(v)
  pitch = row_pitch(width)
  for x in range(np.uint64(width)):
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
    corner[x] = np.uint64((row + _BORDER - 1) * pitch + (column + _BORDER - 1) * CHANNELS)


@compiled
def gather(source, pitch, taps, corner, width, sampled):
  """Interpolates the four channels of the interleaved image at each pixel of a row.

  Args:
    source: the image, as `interleave` writes it.
    pitch: its `row_pitch`.
    taps: weights, as `locate` writes them.
    corner: offsets, as `locate` writes them.
    width: pixels of the row.
    sampled: [W * CHANNELS] float32, written.
  """
  for x in range(width):
    _blend_window(
      source,
      corner[x],
      np.uint64(pitch),
      (taps[0, x], taps[1, x], taps[2, x], taps[3, x]),
      (taps[4, x], taps[5, x], taps[6, x], taps[7, x]),
      sampled,
      np.uint64(CHANNELS * x),
    )


@compiled
def linearise_row(image, sampled, u, v, grad_x, grad_y, inv_grad, residual, width):
  """Computes the coefficients of the data term for a row from the warped second image; rows are given by addresses.

  Args:
    image: the row of the first image.
    sampled: the warped row, as `gather` writes it.
    u: horizontal flow of the row.
    v: vertical flow of the row.
    grad_x: written, as the next three; see `Fields`.
    grad_y: written.
    inv_grad: written.
    residual: written.
    width: pixels of the row.
  """
  no_alias()
  image, sampled, u, v = plane_at(image), plane_at(sampled), plane_at(u), plane_at(v)
  grad_x, grad_y, inv_grad, residual = plane_at(grad_x), plane_at(grad_y), plane_at(inv_grad), plane_at(residual)
  for x in range(np.uint64(width)):
    at = np.uint64(CHANNELS) * x
    value, dx, dy = sampled[at], sampled[at + np.uint64(1)], sampled[at + np.uint64(2)]
    grad_x[x] = dx
    grad_y[x] = dy
    # Where the image is flat grad_x = grad_y = 0 silences this factor; it only has to be finite.
    inv_grad[x] = _ONE / (dx * dx + dy * dy + _TINY)
    residual[x] = value - dx * u[x] - dy * v[x] - image[x]
