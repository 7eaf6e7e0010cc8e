"""Which frames clips take: small cases by hand, and all cases of small videos."""

import collections

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.input import ops


class _NumberedVideo:
  """Frames that have their number's hundredth as flow."""

  size = (32, 32)

  def __init__(self, num_frames: int):
    self._num_frames = num_frames

  def count(self, stream: str) -> int:
    return self._num_frames

  def read(self, numbers):
    fill = lambda number: np.full([32, 32, 2], number / 100, np.float32)
    return {stream: np.stack([fill(number) for number in each]) for stream, each in numbers.items()}


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

  @parameterized.parameters(
    # last start, place in each segment, starts
    (9, 0.5, [1, 5, 8]),  # int(10 / 3 / 2 + 10 / 3 * i), as yjxiong/tsn-pytorch dataset.py has it at test
    (9, 0.0, [0, 3, 6]),
    (9, 0.999, [3, 6, 9]),
    (1, 0.5, [0, 1, 1]),
    (0, 0.999, [0, 0, 0]),
  )
  def test_segment_starts(self, last, place, expected):
    places = tf.fill([3], np.float32(place))
    self.assertEqual(ops.segment_starts(tf.constant(last), places).numpy().tolist(), expected)
    almost_one = tf.fill([3], np.nextafter(np.float32(1), np.float32(0)))
    self.assertLessEqual(ops.segment_starts(tf.constant(last), almost_one)[-1], last)

  @parameterized.parameters(
    # Of 20 frames, 3 segments of 2 flows, each at 2 positions: starts 0 to 17.
    ("ten_crop", 1, [[3, 4, 9, 10, 15, 16]]),
    ("clips", 2, [[1, 2, 7, 8, 13, 14], [4, 5, 10, 11, 16, 17]]),
  )
  def test_snippets_of_segments(self, protocol, num_clips, expected):
    options = {"num_frames": 6, "segment_frames": 2, "flow_stack": 2, "short_side": 32, "crop": 32}
    clips = clip_config.EvalClips(streams=("flow",), protocol=protocol, num_clips=num_clips, **options)
    state = {"video": _NumberedVideo(20)}
    for step in clip_steps.evaluation(clips):
      state = step.apply(state)
    flow = state["flow"].numpy()[:num_clips, :, 0, 0]
    np.testing.assert_array_equal(flow[..., 0], np.float32(np.array(expected) / 100))
    np.testing.assert_array_equal(flow[..., 2], np.float32((np.array(expected) + 1) / 100))

  def test_training_draws_a_start_in_each_segment(self):
    clips = clip_config.TrainClips(num_frames=3, segment_frames=1, short_side=32, crop=32)
    seen = [set(), set(), set()]
    for seed in range(60):
      state = {"video": _NumberedVideo(11), "seed": tf.constant([seed, 3])}
      for step in clip_steps.training(clips)[:3]:
        state = step.apply(state)
      for found, frame in zip(seen, state["taken"]["rgb"].numpy().tolist(), strict=True):
        found.add(frame)
    self.assertEqual(seen, [{0, 1, 2, 3}, {3, 4, 5, 6, 7}, {7, 8, 9, 10}])

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
