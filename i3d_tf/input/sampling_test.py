"""Which frames clips take: small cases by hand, and all cases of small videos."""

import collections

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf.input import ops


class SamplingTest(parameterized.TestCase):
  @parameterized.parameters(
    # available, frames, stride, last start
    (10, 4, 1, 6),
    (10, 4, 3, 0),
    (11, 4, 3, 1),
    (4, 4, 1, 0),
    (3, 4, 1, 0),
  )
  def test_last_start(self, available, num_frames, stride, expected):
    last = ops.last_start(available, num_frames, stride)
    self.assertEqual(last, expected)
    if available >= (num_frames - 1) * stride + 1:
      self.assertLess(ops.take(last, available, num_frames, stride)[-1], available)

  @parameterized.parameters(
    # available, positions, stride, flows at each, last start
    (10, 1, 1, 10, 0),
    (12, 1, 1, 10, 2),
    (60, 5, 10, 10, 10),  # 40 + 10 flows
    (14, 3, 2, 4, 6),
    (7, 3, 2, 4, 0),
  )
  def test_last_start_of_stacks(self, available, num_frames, stride, flow_stack, expected):
    last = ops.last_start(available, num_frames, stride, flow_stack)
    self.assertEqual(last, expected)
    fits = [start for start in range(available) if start + (num_frames - 1) * stride + flow_stack <= available]
    self.assertEqual(last, max(fits, default=0))

  def test_random_start(self):
    draws = np.arange(700, dtype=np.float32) / 700
    counts = collections.Counter(ops.random_start(6, draws).numpy().tolist())
    self.assertEqual(counts, dict.fromkeys(range(7), 100))
    almost_one = np.nextafter(np.float32(1), np.float32(0))
    for last in (0, 1, 2, 5):  # 3 times this is 3 in float32
      self.assertEqual(ops.random_start(last, almost_one), last)

  def test_jitter(self):
    draws = np.arange(50, dtype=np.float32) / 50
    moved = ops.jitter_start(5, 9, draws, 2).numpy()
    self.assertEqual(collections.Counter(moved.tolist()), dict.fromkeys(range(3, 8), 10))
    self.assertEqual(set(ops.jitter_start(1, 9, draws, 2).numpy().tolist()), {0, 1, 2, 3})
    self.assertEqual(set(ops.jitter_start(9, 9, draws, 2).numpy().tolist()), {7, 8, 9})
    self.assertEqual(set(ops.jitter_start(0, 0, draws, 2).numpy().tolist()), {0})

  @parameterized.parameters(
      (10, 1, [5]), (9, 1, [4]), (10, 3, [0, 5, 10]), (10, 5, [0, 2, 5, 7, 10]), (0, 3, [0, 0, 0])
  )  # fmt: skip
  def test_uniform_starts(self, last, num_clips, expected):
    self.assertEqual(ops.uniform_starts(last, num_clips).numpy().tolist(), expected)

  @parameterized.parameters(
    (2, 9, 4, 1, [2, 3, 4, 5]),
    (1, 9, 4, 2, [1, 3, 5, 7]),
    (0, 3, 7, 1, [0, 1, 2, 0, 1, 2, 0]),
    (0, 5, 5, 2, [0, 2, 4, 1, 3]),
    (0, 1, 3, 1, [0, 0, 0]),
  )
  def test_take(self, start, available, num_frames, stride, expected):
    self.assertEqual(ops.take(start, available, num_frames, stride).numpy().tolist(), expected)

  def test_segments_change_places_and_stay_whole(self):
    seen = set()  # of 7 frames in 3 segments
    for seed in range(40):
      places = ops.shuffled_segments(7, 3, [seed, 0]).numpy().tolist()
      segments = []
      while places:
        (found,) = [segment for segment in ([0, 1, 2], [3, 4], [5, 6]) if segment[0] == places[0]]
        self.assertEqual(places[: len(found)], found)
        segments.append(tuple(found))
        places = places[len(found) :]
      self.assertLen(set(segments), 3)
      seen.add(tuple(segments))
    self.assertLen(seen, 6)

  def test_same_in_a_graph(self):
    inside = tf.function(lambda seed: ops.shuffled_segments(9, 4, seed))
    for seed in ([1, 2], [3, 4]):
      np.testing.assert_array_equal(inside(tf.constant(seed)), ops.shuffled_segments(9, 4, seed))


if __name__ == "__main__":
  absltest.main()
