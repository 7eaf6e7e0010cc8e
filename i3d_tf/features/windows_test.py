"""Windows with visible frame numbers, and pooling of ramps."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf.features import extraction
from i3d_tf.features import networks
from i3d_tf.features import profiles


class WindowsTest(parameterized.TestCase):
  @parameterized.parameters(
    (8, 4, 2, "drop", [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]),
    (9, 4, 4, "drop", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    (3, 4, 1, "drop", []),
    (0, 4, 1, "drop", []),
    (7, 2, 5, "drop", [[0, 1], [5, 6]]),
    (6, 2, 5, "drop", [[0, 1]]),
    (8, 4, 4, "pad", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    (9, 4, 4, "pad", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 8, 8]]),
    (9, 4, 2, "pad", [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 8]]),
    (2, 4, 1, "pad", [[0, 1, 1, 1]]),
    (0, 4, 1, "pad", []),
    (6, 2, 5, "pad", [[0, 1], [5, 5]]),
    (5, 2, 5, "pad", [[0, 1]]),
    (8, 4, 4, "loop", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    (9, 4, 4, "loop", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 0, 1, 2]]),
    (3, 7, 2, "loop", [[0, 1, 2, 0, 1, 2, 0]]),
    (1, 3, 1, "loop", [[0, 0, 0]]),
    (0, 4, 1, "loop", []),
    (6, 2, 5, "loop", [[0, 1], [5, 0]]),
  )
  def test_known_windows(self, num_frames, window, hop, tail, expected):
    got = extraction.window_indices(num_frames, window=window, hop=hop, tail=tail)
    self.assertEqual(got.shape, (len(expected), window))
    self.assertEqual(got.tolist(), expected)

  def test_no_frame_is_lost_unless_it_is_dropped(self):
    for num_frames, window, hop in itertools.product(range(1, 30), range(1, 9), range(1, 9)):
      pad, loop = (extraction.window_indices(num_frames, window=window, hop=hop, tail=tail) for tail in ("pad", "loop"))
      np.testing.assert_array_equal(pad[:, 0], hop * np.arange(len(pad)))
      np.testing.assert_array_equal(pad[:, 0], loop[:, 0])
      between = {frame for frame in range(num_frames) if frame % hop >= window}
      self.assertEqual(set(pad.ravel()) | between, set(range(num_frames)))
      drop = extraction.window_indices(num_frames, window=window, hop=hop, tail="drop")
      np.testing.assert_array_equal(drop, pad[: len(drop)])
      self.assertBetween(len(pad) - len(drop), 0, 1)

  @parameterized.parameters(*profiles.TAILS)
  def test_frames_that_come_one_by_one_are_cut_the_same(self, tail):
    for num_frames, window, hop in itertools.product(range(20), range(1, 8), range(1, 12)):
      frames = (np.full([2], 10 * index) for index in range(num_frames))
      got = list(extraction.cut_windows(frames, window=window, hop=hop, tail=tail))
      expected = extraction.window_indices(num_frames, window=window, hop=hop, tail=tail)
      message = f"{num_frames} frames, window {window}, hop {hop}"
      self.assertLen(got, len(expected), message)
      for one, numbers in zip(got, expected, strict=True):
        numbers = np.unique(numbers) if tail == "short" else numbers
        self.assertLen(one, len(numbers))
        np.testing.assert_array_equal(np.stack(one), np.repeat(10 * numbers[:, np.newaxis], 2, axis=1), message)

  def test_a_window_comes_with_its_last_frame(self):
    given = []
    frames = (given.append(index) or np.zeros([1]) for index in range(100))
    cut = extraction.cut_windows(frames, window=8, hop=4, tail="loop")
    for last in (8, 12, 16):
      next(cut)
      self.assertLen(given, last)

  @parameterized.parameters(
    (-1, 1, "drop", "window is -1"), (1, 0, "drop", "hop is 0"), (1, 1, "keep", "allowed are drop, pad")
  )
  def test_what_makes_no_windows_is_refused(self, window, hop, tail, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      profiles.FeatureConfig(window=window, hop=hop, tail=tail)


class PoolTest(parameterized.TestCase):
  def test_of_maps(self):
    # [B, steps, h, w, channels]
    features = np.arange(2 * 3 * 2 * 4 * 5, dtype=np.float32).reshape(2, 3, 2, 4, 5)
    self.assertIs(networks.pool(features, "none").dtype, features.dtype)
    np.testing.assert_array_equal(networks.pool(features, "none"), features)
    space, both = networks.pool(features, "space"), networks.pool(features, "space_time")
    self.assertEqual((space.shape, both.shape), ((2, 3, 5), (2, 5)))
    # The middle of the 8 places is 3.5 places of 5 channels on; that of the 3 steps one step of 40 values.
    self.assertEqual(space[1, 2, 3], 1 * 120 + 2 * 40 + 17.5 + 3)
    self.assertEqual(both[1, 3], 1 * 120 + 1 * 40 + 17.5 + 3)

  def test_of_what_has_fewer_axes(self):
    steps = np.float32([[[1, 5], [3, 9]]])  # [B, steps, channels]
    np.testing.assert_array_equal(networks.pool(steps, "space"), steps)
    np.testing.assert_array_equal(networks.pool(steps, "space_time"), [[2, 7]])
    for pooling in profiles.POOLINGS:
      np.testing.assert_array_equal(networks.pool(steps[:, 0], pooling), [[1, 5]])

  def test_another_pooling_is_refused(self):
    with self.assertRaisesRegex(errors.I3dError, "pooling is 'time'; allowed are none, space, space_time"):
      profiles.FeatureConfig(pooling="time")


if __name__ == "__main__":
  absltest.main()
