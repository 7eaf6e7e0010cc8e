"""Arrays that grow, in memory and on disk."""

import io
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf.features import array_file


class ArrayFileTest(parameterized.TestCase):
  @parameterized.parameters(2**20, 100)  # bytes kept in memory: all, or next to none
  def test_it_is_the_concatenation(self, in_memory):
    pieces = [np.arange(6 * n, dtype=np.float32).reshape(n, 2, 3) + n for n in (1, 0, 4, 7)]
    expected = np.concatenate(pieces)
    self.enter_context(mock.patch.object(array_file, "_IN_MEMORY", in_memory))
    self.enter_context(mock.patch.object(array_file, "_PIECE", 64))
    with array_file.ArrayFile() as array:
      for piece in pieces:
        array.append(piece)
      self.assertEqual(array.shape, (12, 2, 3))
      np.testing.assert_array_equal(array.load(), expected)
      for shape in (None, (12, 6)):
        file = io.BytesIO()
        array.write_npy(file, shape)
        file.seek(0)
        loaded = np.load(file)
        self.assertEqual(loaded.dtype, np.float32)
        np.testing.assert_array_equal(loaded, expected.reshape(shape or expected.shape))
      array.append(pieces[0])  # reading does not end it
      np.testing.assert_array_equal(array.load(), np.concatenate([expected, pieces[0]]))

  def test_nothing(self):
    with array_file.ArrayFile() as array:
      self.assertEqual(array.shape, (0,))
      self.assertEqual(array.load().shape, (0,))

  def test_rows_that_do_not_fit_are_refused(self):
    with array_file.ArrayFile() as array:
      array.append(np.zeros([2, 3], np.float32))
      with self.assertRaisesRegex(ValueError, r"rows are float32 \(4,\); those before were float32 \(3,\)"):
        array.append(np.zeros([2, 4], np.float32))
      with self.assertRaisesRegex(ValueError, "rows are float64"):
        array.append(np.zeros([2, 3]))
      with self.assertRaisesRegex(ValueError, r"shape is \(5,\)"):
        array.write_npy(io.BytesIO(), (5,))


if __name__ == "__main__":
  absltest.main()
