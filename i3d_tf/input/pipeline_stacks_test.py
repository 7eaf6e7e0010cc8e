"""Stacks of flow through the pipeline, against NumPy: frames tell their time and place, flow is smooth noise."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.flow import codec
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.input import pipeline

_SIZE = (24, 32)  # height, width
_CROP = 16
_BOTH = ("rgb", "flow")
_STACKINGS = [
  {"flow_stacking": stacking, "subtract_mean_flow": subtract}
  for stacking in clip_config.FLOW_STACKINGS
  for subtract in (False, True)
]


def _png(image: np.ndarray) -> bytes:
  return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def _frame(time: int) -> bytes:
  """Red is 5 times the time, green 5 times the row, blue 5 times the column."""
  rows, columns = np.mgrid[: _SIZE[0], : _SIZE[1]]
  return _png(np.stack([np.full(_SIZE, 5 * time), 5 * rows, 5 * columns], axis=-1).astype(np.uint8))


def _fields(num_flows: int, seed: int) -> np.ndarray:
  """Smooth motion of some pixels, in pixels per frame, float32 `[N, H, W, 2]`."""
  noise = np.random.default_rng(seed).normal(0, 20, (num_flows, *_SIZE, 2))
  return np.stack([cv2.GaussianBlur(field, (0, 0), 3) for field in noise]).astype(np.float32)


def _encoded(fields: np.ndarray) -> tuple[bytes, ...]:
  return tuple(prepare.encode_flow(field, shards.RecordConfig()) for field in fields)


def _stored(fields: np.ndarray) -> np.ndarray:
  """The flow that is left of fields when they have been bytes, in units of 20 pixels."""
  return codec.decode(codec.encode(fields)) / 20


def _record(name: str, num_frames: int, streams=(*_BOTH, "backward_flow"), **changes) -> records.Record:
  fields = {"flow": _fields(num_frames - 1, 1), "backward_flow": _fields(num_frames - 1, 2)}
  times = tuple(40_000 * time for time in range(num_frames))
  values = {"id": name, "dataset": "noise", "labels": ("a",), "label_indices": (0,), "flow_bound": 20.0}
  if "rgb" in streams:
    values |= {"image_format": "PNG", "frames": tuple(map(_frame, range(num_frames))), "timestamps": times}
  for stream in fields.keys() & set(streams):
    values |= {f"{stream}_frames": _encoded(fields[stream]), f"{stream}_timestamps": times[:-1]}
  return records.Record(**{**values, **changes})


def _bilinear(field: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """The field `[H, W, 2]` at points `[H, W]`, as the sum over all four neighbours."""
  value = np.zeros((*rows.shape, 2))
  for down in (0, 1):
    for right in (0, 1):
      row = np.minimum(np.floor(rows).astype(int) + down, field.shape[0] - 1)
      column = np.minimum(np.floor(columns).astype(int) + right, field.shape[1] - 1)
      weight = np.where(down, rows % 1, 1 - rows % 1) * np.where(right, columns % 1, 1 - columns % 1)
      value += weight[..., np.newaxis] * field[row, column]
  return value


def _expected(num_frames: int, frame: int, num_flows: int, flow_stacking: str, subtract_mean_flow: bool) -> np.ndarray:
  """The stack `[H, W, 2L]` that belongs to a frame of `_record`."""
  count = num_frames - 1
  forward, backward = (_stored(_fields(count, seed)) for seed in (1, 2))
  if flow_stacking == "bidirectional":
    stack = [forward[(frame + k) % count] for k in range(num_flows // 2)]
    stack += [backward[(frame - 1 - k) % count] for k in range(num_flows // 2)]
  else:
    stack = [forward[(frame + k) % count] for k in range(num_flows)]
  means = [field.mean(axis=(0, 1)) for field in stack]
  if flow_stacking == "trajectory":
    rows, columns = np.mgrid[: _SIZE[0], : _SIZE[1]].astype(float)
    for k in range(1, num_flows):
      columns = np.clip(columns + 20 * stack[k - 1][..., 0], 0, _SIZE[1] - 1)
      rows = np.clip(rows + 20 * stack[k - 1][..., 1], 0, _SIZE[0] - 1)
      stack[k] = _bilinear(stack[k], rows, columns)
  if subtract_mean_flow:
    stack = [field - mean for field, mean in zip(stack, means)]
  return np.concatenate(stack, axis=-1)


def _mirrored(stack: np.ndarray) -> np.ndarray:
  return stack[..., ::-1, :] * np.tile([-1, 1], stack.shape[-1] // 2)


def _times(rgb: np.ndarray) -> list:
  """The frames `[..., T, H, W, 3]` was taken from."""
  return (np.rint((rgb[..., 0, 0, 0] + 1) * 127.5).astype(int) // 5).tolist()


class StacksTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def write(self, *content: records.Record) -> None:
    with tf.io.TFRecordWriter(str(self.folder / "train-00000-of-00001.tfrecord")) as writer:
      for record in content:
        writer.write(records.serialize(record))

  def source(self, streams=_BOTH):
    return pipeline.open_source(self.folder, "train", streams=streams)

  def batches(self, count: int, *, batch_size=4, streams=_BOTH, **options) -> list[dict]:
    clips = clip_config.TrainClips(**{"streams": streams, "short_side": _SIZE[0], "crop": _CROP, **options})
    dataset = pipeline.train_batches(self.source(streams), clips, batch_size=batch_size, seed=1)
    return list(dataset.take(count).map(pipeline.scaled).as_numpy_iterator())

  def videos(self, *, streams=_BOTH, **options) -> list[dict]:
    clips = clip_config.EvalClips(streams=streams, short_side=_SIZE[0], crop=_CROP, **options)
    return list(pipeline.eval_videos(self.source(streams), clips).map(pipeline.scaled).as_numpy_iterator())

  def assert_stacks(self, example: dict, expected: dict, num_frames: int, *, num_flows: int = 10) -> None:
    """Compares the flow of clips `[..., T, H, W, 2L]` with that of their RGB, whose pixels tell the place."""
    self.assertEqual(example["weight"].min(), 1, example["error"])
    shape = example["rgb"].shape
    self.assertEqual(example["flow"].shape, (*shape[:-1], 2 * num_flows))
    for place in np.ndindex(shape[:-3]):
      red, rows, columns = np.moveaxis(np.rint((example["rgb"][place] + 1) * 25.5).astype(int), -1, 0)
      stack = _expected(num_frames, red[0, 0], num_flows, **expected)
      is_flipped = columns[0, 0] > columns[0, 1]
      top, left = rows[0, 0], columns[0].min()
      stack = stack[top : top + _CROP, left : left + _CROP]
      np.testing.assert_allclose(
        example["flow"][place], _mirrored(stack) if is_flipped else stack, rtol=0, atol=2e-5, err_msg=str(place)
      )


class TrainTest(StacksTest):
  @parameterized.parameters(_STACKINGS)
  def test_stacks_belong_to_their_frames(self, **options):
    self.write(_record("a", 17))
    starts, flips = set(), set()
    for batch in self.batches(4, num_frames=2, frame_stride=3, flow_stack=10, **options):
      self.assert_stacks(batch, options, 17)
      times = np.array(_times(batch["rgb"]))
      np.testing.assert_array_equal(times[:, 1] - times[:, 0], 3)
      starts |= set(times[:, 0].tolist())
      flips |= set((batch["rgb"][:, 0, 0, 0, 2] > batch["rgb"][:, 0, 0, 1, 2]).tolist())
    first = 5 if options["flow_stacking"] == "bidirectional" else 0
    self.assertEqual(starts, {first, first + 1, first + 2, first + 3})  # 13 of the 16 flows are taken
    self.assertEqual(flips, {True, False})

  def test_the_trajectories_are_not_the_plain_stacks(self):
    stacks = [_expected(17, 2, 10, stacking, False) for stacking in ("plain", "trajectory")]
    self.assertGreater(np.abs(np.subtract(*stacks)).max() * 20, 2)

  @parameterized.parameters("plain", "bidirectional")
  def test_short_videos_are_looped(self, stacking):
    self.write(_record("a", 7))
    options = {"flow_stacking": stacking, "subtract_mean_flow": False}
    (batch,) = self.batches(1, num_frames=3, frame_stride=4, flow_stack=4, **options)
    self.assert_stacks(batch, options, 7, num_flows=4)
    self.assertEqual(_times(batch["rgb"])[0], [0, 4, 2] if stacking == "plain" else [2, 0, 4])  # of 6

  def test_segments_keep_frames_and_stacks_together(self):
    self.write(_record("a", 20))
    options = {"flow_stacking": "plain", "subtract_mean_flow": False}
    orders = set()
    for batch in self.batches(2, num_frames=4, frame_stride=5, flow_stack=4, segment_shuffle=1.0, **options):
      self.assert_stacks(batch, options, 20, num_flows=4)
      orders |= {tuple(times) for times in _times(batch["rgb"])}
    self.assertGreater(len(orders), 3)
    self.assertEqual({tuple(sorted(order)) for order in orders}, {(0, 5, 10, 15)})

  def test_dropped_positions_lose_their_stack(self):
    self.write(_record("a", 20))
    num_dropped = 0
    for batch in self.batches(3, num_frames=5, frame_stride=3, flow_stack=6, frame_dropout=0.4):
      dropped = np.ptp(batch["rgb"][..., 1], axis=(2, 3)) == 0
      np.testing.assert_array_equal(np.abs(batch["flow"]).max(axis=(2, 3, 4)) == 0, dropped)
      num_dropped += dropped.sum()
    self.assertBetween(num_dropped, 10, 40)

  def test_one_flow_without_its_mean(self):
    self.write(_record("a", 12))
    options = {"flow_stacking": "plain", "subtract_mean_flow": True}
    (batch,) = self.batches(1, num_frames=4, **options)
    self.assert_stacks(batch, options, 12, num_flows=1)

  def test_flow_alone(self):
    self.write(_record("a", 15, streams=("flow",)))
    (batch,) = self.batches(1, streams=("flow",), num_frames=1, flow_stack=14, short_side=24, crop=24, flip=False)
    self.assertEqual(batch["flow"].shape, (4, 1, 24, 24, 28))
    stack = _expected(15, 0, 14, "plain", False)
    self.assertTrue(any(np.allclose(batch["flow"][0, 0], stack[:, left : left + 24], atol=2e-5) for left in range(9)))

  def test_flows_that_positions_share_are_taken_once(self):
    clips = clip_config.TrainClips(
      streams=_BOTH, num_frames=5, frame_stride=2, flow_stack=6, flow_stacking="bidirectional"
    )
    state = {"parsed": records.parse(tf.constant(records.serialize(_record("a", 30)))), "seed": tf.constant([1, 2])}
    for step in clip_steps.training(clips):
      if step.name == clip_steps.DECODE:
        break
      state = step.apply(state)
    taken = state["taken"]["flow"].numpy()
    start = state["taken"]["rgb"][0].numpy() - 3
    self.assertCountEqual(taken, [*range(start + 3, start + 14), *range(29 + start, 29 + start + 11)])
    self.assertLen(clip_steps.images_taken(state, "flow"), 22)

  def test_trajectories_are_in_pixels_of_the_resized_frames(self):
    """A rotation by 0.1 in frames of 36 rows that were stored with 24."""
    points = (np.arange(32) - 15.5) + 1j * (np.arange(24) - 11.5)[:, np.newaxis]
    turn = lambda points, times: points * np.exp(0.1j * times) * (np.exp(0.1j) - 1)
    field = np.stack([turn(points, 0).real, turn(points, 0).imag], axis=-1)
    settings = shards.RecordConfig(flow_bound=2.0, flow_rounding="nearest")
    images = (prepare.encode_flow(field, settings),) * 6
    self.write(_record("a", 7, flow_frames=images, flow_bound=2.0))
    options = {"num_frames": 1, "flow_stack": 6, "short_side": 36, "crop": 36, "flip": False}
    (batch,) = self.batches(1, **options, flow_stacking="trajectory")
    (plain,) = self.batches(1, **options)
    for clip, other in zip(batch["flow"], plain["flow"]):
      # The crop has all rows. Where it begins follows from the first flow, whose y rises with the column.
      left = int(np.rint((clip[0, 0, 0, 1] * 20 + np.sin(0.1) * 23.5 + 17.5 * (np.cos(0.1) - 1)) / np.sin(0.1)))
      points = np.arange(left, left + 36) - 23.5 + 1j * (np.arange(36) - 17.5)[:, np.newaxis]
      inside = np.abs(points) < 17
      for k in range(6):
        found = 20 * (clip[0, ..., 2 * k] + 1j * clip[0, ..., 2 * k + 1])
        self.assertLess(np.abs(found - turn(points, k))[inside].max(), 0.05)
      off = 20 * (other[0, ..., 10] + 1j * other[0, ..., 11]) - turn(points, 5)
      self.assertGreater(np.abs(off)[inside].max(), 0.7)


class EvaluationTest(StacksTest):
  @parameterized.parameters(_STACKINGS)
  def test_clips(self, **options):
    self.write(_record("a", 24))
    (video,) = self.videos(
      protocol="clips", num_clips=3, num_frames=2, frame_stride=4, flow_stack=10, flip=True, **options
    )
    self.assertEqual(video["rgb"].shape, (6, 2, _CROP, _CROP, 3))
    self.assert_stacks(video, options, 24)
    first = 5 if options["flow_stacking"] == "bidirectional" else 0
    starts = [[first, first + 4], [first + 4, first + 8], [first + 9, first + 13]]  # 14 of 23 flows a clip
    self.assertEqual(_times(video["rgb"]), starts * 2)

  @parameterized.parameters(_STACKINGS)
  def test_ten_crop(self, **options):
    self.write(_record("a", 24))
    (video,) = self.videos(protocol="ten_crop", num_frames=1, flow_stack=10, **options)
    self.assertEqual(video["flow"].shape, (10, 1, _CROP, _CROP, 20))
    self.assert_stacks(video, options, 24)
    self.assertEqual(_times(video["rgb"]), [[11 if options["flow_stacking"] == "bidirectional" else 6]] * 10)

  @parameterized.parameters(
    (24, {"frame_stride": 4}, [0, 4, 8, 12]),  # 12 + 10 of 23 flows
    (25, {"frame_stride": 4}, [0, 4, 8, 12]),
    (27, {"frame_stride": 4}, [0, 4, 8, 12, 16]),
    (24, {"frame_stride": 4, "max_frames": 3}, [0, 4, 8]),
    (13, {"min_frames": 4}, [0, 1, 2, 3]),
    (7, {"frame_stride": 4, "min_frames": 3}, [0, 4, 2]),  # looped, of 6
  )
  def test_release(self, num_frames, options, times):
    self.write(_record("a", num_frames))
    expected = {"flow_stacking": "trajectory", "subtract_mean_flow": True}
    (video,) = self.videos(**{"min_frames": 1, "flow_stack": 10, **options, **expected})
    self.assertEqual(_times(video["rgb"]), [times])
    self.assert_stacks(video, expected, num_frames)

  def test_center_clips(self):
    self.write(_record("a", 24), _record("b", 17))
    expected = {"flow_stacking": "bidirectional", "subtract_mean_flow": True}
    clips = clip_config.TrainClips(
      streams=_BOTH, num_frames=2, frame_stride=3, flow_stack=10, short_side=24, crop=_CROP, **expected
    )
    (batch,) = pipeline.center_clips(self.source(), clips, batch_size=2).map(pipeline.scaled).as_numpy_iterator()
    self.assertEqual(_times(batch["rgb"]), [[10, 13], [6, 9]])  # 5 + 10 // 2, 5 + 3 // 2
    for index, num_frames in enumerate((24, 17)):
      example = {name: value[index] for name, value in batch.items()}
      self.assert_stacks(example, expected, num_frames)


class UnusableRecordsTest(StacksTest):
  def test_without_backward_flow(self):
    self.write(_record("a", 12), _record("b", 12, streams=_BOTH))
    (batch,) = self.batches(1, batch_size=2, num_frames=1, flow_stack=4, flow_stacking="bidirectional")
    rows = zip(*map(batch.get, ("id", "weight", "error")))
    found = {name: (weight, error.decode()) for name, weight, error in rows}
    path = self.folder / "train-00000-of-00001.tfrecord"
    self.assertEqual(found, {b"a": (1, ""), b"b": (0, f"{path}, record 1: it has no backward flow")})
    (plain,) = self.batches(1, batch_size=2, num_frames=1, flow_stack=4)
    self.assertEqual(plain["weight"].tolist(), [1, 1])

  def test_a_data_set_without_backward_flow(self):
    self.write(_record("a", 12, streams=_BOTH))
    clips = clip_config.TrainClips(streams=_BOTH, flow_stack=4, flow_stacking="bidirectional")
    with self.assertRaisesRegex(
      errors.I3dError, "has no backward_flow, only rgb, flow; prepare one with backward_flow"
    ):
      self.source(clip_config.stored(clips))

  def test_zeros_have_the_shape_of_stacks(self):
    self.write(_record("a", 12, streams=("rgb",)))
    (video,) = self.videos_of_flow(flow_stack=4)
    self.assertEqual((video["flow"].shape, video["weight"]), ((1, 0, _CROP, _CROP, 8), 0))

  def videos_of_flow(self, **options) -> list[dict]:
    clips = clip_config.EvalClips(streams=("flow",), short_side=_SIZE[0], crop=_CROP, **options)
    return list(pipeline.eval_videos(self.source(()), clips).map(pipeline.scaled).as_numpy_iterator())


class StepsTest(absltest.TestCase):
  def test_stacking_is_named(self):
    plain = pipeline.steps(clip_config.TrainClips(streams=_BOTH))
    stacked = pipeline.steps(clip_config.TrainClips(streams=_BOTH, flow_stack=10))
    self.assertEqual([step for step in stacked if step not in plain],
                     ["take 10 flows at each position", "stack the 10 flows of a position, plain"])  # fmt: skip
    self.assertContainsSubset(plain, stacked)
    options = {"flow_stack": 4, "flow_stacking": "trajectory", "subtract_mean_flow": True}
    self.assertEqual(pipeline.steps(clip_config.TrainClips(streams=_BOTH, num_frames=5, frame_stride=10, **options)), [
        "read the record and check its checksum",
        "parse the record",
        "check label and streams",
        "draw the random numbers of the clip",
        "random start among those that leave enough frames",
        "take 5 frames, every 10; loop short videos",
        "take 4 flows at each position",
        "resize to short side 256",
        "random crop of 224x224",
        "keep flow whole for now",
        "decode the crop of the frames taken",
        "subtract each flow field's mean",
        "stack the 4 flows of a position, trajectory",
        "crop the flow",
        "mirror with probability 0.5; the flow's x is negated",
        "RGB to [-1, 1]",
    ])  # fmt: skip


if __name__ == "__main__":
  absltest.main()
