"""The few things that the kernels need and Numba does not offer."""

from llvmlite import ir
from numba import njit
from numba import types
from numba.extending import intrinsic

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
