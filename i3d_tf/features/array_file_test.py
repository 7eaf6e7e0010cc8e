"""Arrays that grow, in memory and on disk."""

import io
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf.features import results


class ArrayFileTest(parameterized.TestCase):
  @parameterized.parameters(2**20, 100)  # bytes kept in memory: all, or next to none
  def test_it_is_the_concatenation(self, in_memory):
    pieces = [np.arange(6 * n, dtype=np.float32).reshape(n, 1, 2, 3) + n for n in (1, 0, 4, 7)]
    expected = np.concatenate(pieces)
    self.enter_context(mock.patch.object(results, "_IN_MEMORY", in_memory))
    self.enter_context(mock.patch.object(results, "_PIECE", 64))
    with results.ArrayFile() as array:
      for piece in pieces:
        array.append(piece)
      self.assertEqual(array.shape, (12, 1, 2, 3))
      np.testing.assert_array_equal(array.load(), expected)
      for written in (array, array.without_axis(1)):
        file = io.BytesIO()
        written.write_npy(file)
        file.seek(0)
        loaded = np.load(file)
        self.assertEqual(loaded.dtype, np.float32)
        np.testing.assert_array_equal(loaded, expected.reshape(written.shape))
      self.assertEqual(loaded.shape, (12, 2, 3))
      array.append(pieces[0])  # reading does not end it
      np.testing.assert_array_equal(array.load(), np.concatenate([expected, pieces[0]]))

  def test_nothing(self):
    with results.ArrayFile() as array:
      self.assertEqual(array.shape, (0,))
      self.assertEqual(array.load().shape, (0,))
      self.assertEqual(array.without_axis(1).shape, (0,))

  def test_rows_that_do_not_fit_are_refused(self):
    with results.ArrayFile() as array:
      array.append(np.zeros([2, 3], np.float32))
      with self.assertRaisesRegex(ValueError, r"rows are float32 \(4,\); those before were float32 \(3,\)"):
        array.append(np.zeros([2, 4], np.float32))
      with self.assertRaisesRegex(ValueError, "rows are float64"):
        array.append(np.zeros([2, 3]))


if __name__ == "__main__":
  absltest.main()
