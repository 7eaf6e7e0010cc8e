"""Median of the 25 values around each pixel, by minima and maxima that vectorise along a row.

Sorting each column of five values serves all five windows that the column belongs to. From five sorted
columns the median takes 86 further minima and maxima. The sequence was found by pruning a sorting network
for as long as it still selected the 13th of 25 values on all 6^5 ways to fill sorted columns with zeros
and ones, which by the zero-one principle proves it for all numbers (Knuth, The Art of Computer
Programming, volume 3, section 5.3.4).
"""

import numpy as np

from i3d_tf.video.tvl1_numba import compiled
from i3d_tf.video.tvl1_numba import no_alias

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
