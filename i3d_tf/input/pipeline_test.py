"""The pipeline on ramps: each pixel of a made record tells the record, the frame, the row and the column."""

import json
import pathlib
import signal
import socket
import time

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.data import records
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.input import pipeline

_CLASSES = ("bob", "fall", "spin")
_SIZE = (24, 32)  # height, width of the made frames
_SMALL = {"num_frames": 4, "short_side": 24, "crop": 16}


def _png(image: np.ndarray) -> bytes:
  return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def _frame(time: int) -> np.ndarray:
  """Red is 10 times the time, green 5 times the row, blue 5 times the column."""
  rows, columns = np.meshgrid(*map(np.arange, _SIZE), indexing="ij")
  return np.stack([np.full(_SIZE, 10 * time), 5 * rows, 5 * columns], axis=-1).astype(np.uint8)


def _flow(time: int) -> np.ndarray:
  """x (red) is 10 times the time, y (green) 5 times the column."""
  columns = np.broadcast_to(5 * np.arange(_SIZE[1]), _SIZE)
  return np.stack([np.full(_SIZE, 10 * time), columns, np.zeros(_SIZE)], axis=-1).astype(np.uint8)


def _record(name: str, num_frames: int = 12, *, label: int = 1, streams=("rgb", "flow"), **changes) -> records.Record:
  frames = tuple(_png(_frame(time)) for time in range(num_frames)) if "rgb" in streams else ()
  flow = tuple(_png(_flow(time)) for time in range(num_frames - 1)) if "flow" in streams else ()
  values = {
      "id": name, "dataset": "ramps", "labels": (_CLASSES[label],), "label_indices": (label,), "image_format": "PNG",
      "frames": frames, "timestamps": tuple(range(len(frames))), "flow_format": "PNG", "flow_bound": 20.0,
      "flow_frames": flow, "flow_timestamps": tuple(range(len(flow))),
  }  # fmt: skip
  return records.Record(**{**values, **changes})


def _bytes(rgb: np.ndarray) -> np.ndarray:
  return np.rint((np.asarray(rgb) + 1) * 127.5).astype(int)


def _times(rgb: np.ndarray) -> list[int]:
  """The frames `[..., T, H, W, 3]` was taken from."""
  return (_bytes(rgb)[..., 0, 0, 0] // 10).tolist()


def _flow_bytes(flow: np.ndarray) -> np.ndarray:
  return np.rint((np.asarray(flow) + 1) * 127.5).astype(int)


class PipelineTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def write(self, *files: list[records.Record | bytes], split: str = "train") -> None:
    for index, content in enumerate(files):
      path = self.folder / f"{split}-{index:05}-of-{len(files):05}.tfrecord"
      with tf.io.TFRecordWriter(str(path)) as writer:
        for record in content:
          writer.write(record if isinstance(record, bytes) else records.serialize(record))

  def write_ramps(self, *sizes: int) -> None:
    self.write(*([_record(f"{file}/{number}", label=number % 3) for number in range(size)]
                 for file, size in enumerate(sizes)))  # fmt: skip

  def source(self, streams=("rgb",), split="train"):
    return pipeline.open_source(self.folder, split, streams=streams)

  def batches(self, count: int, *, streams=("rgb",), seed=1, batch_size=2, options=None, **more) -> list[dict]:
    clips = clip_config.TrainClips(**{"streams": streams, **_SMALL, **(options or {})})
    dataset = pipeline.train_batches(self.source(streams), clips, batch_size=batch_size, seed=seed, **more)
    return list(dataset.take(count).map(pipeline.scaled).as_numpy_iterator())

  def assert_same(self, actual: list[dict], expected: list[dict]) -> None:
    self.assertLen(actual, len(expected))
    for one, other in zip(actual, expected):
      self.assertEqual(one.keys(), other.keys())
      for name in one:
        np.testing.assert_array_equal(one[name], other[name], name)


class TrainBatchesTest(PipelineTest):
  def test_one_clip(self):
    self.write([_record("only", label=2)])
    (batch,) = self.batches(1, streams=("rgb", "flow"), batch_size=1, options={"flip": False})
    self.assertEqual({name: (value.shape, value.dtype.name) for name, value in batch.items()}, {
        "rgb": ((1, 4, 16, 16, 3), "float32"), "flow": ((1, 4, 16, 16, 2), "float32"), "label": ((1,), "int32"),
        "id": ((1,), "object"), "weight": ((1,), "float32"), "error": ((1,), "object"), "seed": ((1, 2), "int32"),
    })  # fmt: skip
    self.assertEqual((batch["label"][0], batch["id"][0], batch["weight"][0], batch["error"][0]), (2, b"only", 1, b""))
    red, green, blue = np.moveaxis(_bytes(batch["rgb"][0]), -1, 0)
    start, top, left = red[0, 0, 0] // 10, green[0, 0, 0] // 5, blue[0, 0, 0] // 5
    t, row, column = np.meshgrid(np.arange(4), np.arange(16), np.arange(16), indexing="ij")
    np.testing.assert_array_equal(red, 10 * (start + t))
    np.testing.assert_array_equal(green, 5 * (top + row))
    np.testing.assert_array_equal(blue, 5 * (left + column))
    x, y = np.moveaxis(_flow_bytes(batch["flow"][0]), -1, 0)
    np.testing.assert_array_equal(x, red)
    np.testing.assert_array_equal(y, blue)

  def test_draws_cover_all_starts_crops_and_flips_and_streams_stay_in_step(self):
    self.write([_record("only")])
    drawn = set()
    for batch in self.batches(60, streams=("rgb", "flow"), batch_size=4):
      for rgb, flow in zip(_bytes(batch["rgb"]), _flow_bytes(batch["flow"])):
        start, top, left = rgb[0, 0, 0, 0] // 10, rgb[0, 0, 0, 1] // 5, rgb[0, 0, :, 2].min() // 5
        is_flipped = rgb[0, 0, 0, 2] > rgb[0, 0, 1, 2]
        drawn.add(("start", start)), drawn.add(("top", top)), drawn.add(("left", left)), drawn.add(is_flipped)
        sign = -1 if is_flipped else 1
        np.testing.assert_array_equal(flow[..., 1], rgb[..., 2])
        np.testing.assert_array_equal(flow[..., 0], rgb[..., 0] if sign > 0 else 255 - rgb[..., 0])
        np.testing.assert_array_equal(rgb[:, 0, 0, 0] // 10, start + np.arange(4))
        np.testing.assert_array_equal(np.diff(rgb[..., 2], axis=-1), 5 * sign)
    # 11 flows: starts 0 to 7.
    expected = {("start", s) for s in range(8)} | {("top", t) for t in range(9)} | {("left", c) for c in range(17)}
    self.assertEqual(drawn, expected | {True, False})

  def test_rgb_alone_has_one_start_more(self):
    self.write([_record("only")])
    starts = {_times(clip)[0] for batch in self.batches(30, batch_size=4) for clip in batch["rgb"]}
    self.assertEqual(starts, set(range(9)))

  @parameterized.parameters(
    (12, {"frame_stride": 3}, [(s, s + 3, s + 6, s + 9) for s in range(3)]),
    (3, {"num_frames": 8}, [(0, 1, 2, 0, 1, 2, 0, 1)]),
    (5, {"num_frames": 5, "frame_stride": 2}, [(0, 2, 4, 1, 3)]),
    (1, {}, [(0, 0, 0, 0)]),
  )
  def test_stride_and_loops(self, num_frames, options, expected):
    self.write([_record("only", num_frames)])
    taken = {tuple(_times(clip)) for batch in self.batches(12, options=options) for clip in batch["rgb"]}
    self.assertEqual(taken, set(expected))

  def test_frames_are_bytes_until_they_are_scaled(self):
    self.write([_record("only")])
    (batch,) = pipeline.train_batches(self.source(), clip_config.TrainClips(**_SMALL), batch_size=1, seed=1).take(1)
    self.assertEqual(batch["rgb"].dtype, tf.uint8)
    scaled = pipeline.scaled(batch)
    np.testing.assert_allclose(scaled["rgb"], batch["rgb"].numpy() / 127.5 - 1, atol=1e-6)
    self.assertIs(pipeline.scaled(scaled)["rgb"], scaled["rgb"])

  @parameterized.parameters((("rgb", "flow"),), (("flow",),))
  def test_enlarging_is_said(self, streams):
    self.write([_record("a", streams=streams)])
    source = self.source(streams)
    with self.assertLogs("i3d_tf", "WARNING") as logs:
      pipeline.warn_of_enlarging(source, clip_config.TrainClips(streams=streams, short_side=25, crop=16))
    self.assertIn("the frames are stored as 32x24 and enlarged to a short_side of 25", logs.output[0])
    with self.assertNoLogs("i3d_tf"):
      pipeline.warn_of_enlarging(source, clip_config.TrainClips(streams=streams, short_side=24, crop=16))

  def test_flow_without_rgb(self):
    self.write([_record("only", 7, streams=("flow",))])
    (batch,) = self.batches(1, streams=("flow",), batch_size=1, options={"num_frames": 6, "flip": False})
    self.assertNotIn("rgb", batch)
    self.assertEqual((_flow_bytes(batch["flow"])[0, :, 0, 0, 0] // 10).tolist(), [0, 1, 2, 3, 4, 5])

  def test_flow_of_other_bounds(self):
    bounds = {b"ten": 10.0, b"forty": 40.0, b"unknown": 0.0}  # MediaSequence does not say, and has 20
    self.write([_record(name.decode(), 2, streams=("flow",), flow_bound=bound) for name, bound in bounds.items()])
    (batch,) = self.batches(1, streams=("flow",), batch_size=3, options={"flip": False})
    for name, flow in zip(batch["id"], batch["flow"]):
      expected = {b"ten": -0.5, b"forty": -1, b"unknown": -1}[name]  # byte 0 is -bound
      np.testing.assert_allclose(flow[..., 0], expected, rtol=0, atol=1e-6)
      slope = {b"ten": 10, b"forty": 40, b"unknown": 20}[name] / 20 * 2 / 255 * 5
      near_zero = np.abs(flow[0, 0, :, 1]) < 0.9
      np.testing.assert_allclose(np.diff(flow[0, 0, near_zero, 1]), slope, rtol=0, atol=1e-5)

  def test_resizing_makes_motion_longer(self):
    self.write([_record("only", 2, streams=("rgb", "flow"), flow_bound=10.0)])
    options = {"short_side": 36, "num_frames": 1, "flip": False}
    (batch,) = self.batches(1, streams=("rgb", "flow"), batch_size=1, options=options)
    np.testing.assert_allclose(batch["flow"][..., 0], -0.75, atol=1e-6)
    columns = _bytes(batch["rgb"])[0, 0, 0, :, 2]
    np.testing.assert_allclose(np.diff(columns), 5 / 1.5, atol=1)
    self.assertAlmostEqual((columns[-1] - columns[0]) / 15, 5 / 1.5, delta=0.1)

  def test_scale_jitter(self):
    self.write([_record("only")])
    slopes = []
    for batch in self.batches(20, batch_size=4, options={"scale_jitter": (0.5, 2.0), "flip": False}):
      columns = _bytes(batch["rgb"])[:, 0, 0, :, 2]
      slopes += ((columns[:, 14] - columns[:, 1]) / 13 / 5).tolist()
    # The short side is at least the crop: 16 of 24. Frames of 24 are widened to 12 (so 16) to 48 rows.
    self.assertBetween(min(slopes), 0.46, 0.6)
    self.assertBetween(max(slopes), 1.4, 1.53)

  def test_temporal_jitter_stays_within_the_video(self):
    self.write([_record("only")])
    plain = [_times(batch["rgb"][0])[0] for batch in self.batches(40, batch_size=1)]
    moved = [_times(batch["rgb"][0])[0] for batch in self.batches(40, batch_size=1, options={"temporal_jitter": 2})]
    moves = np.subtract(moved, plain)
    self.assertEqual(set(moves.tolist()), {-2, -1, 0, 1, 2})
    self.assertBetween(min(moved), 0, 1)
    self.assertBetween(max(moved), 7, 8)

  def test_segment_shuffle_is_the_same_for_both_streams(self):
    self.write([_record("only", 9)])
    options = {"num_frames": 8, "segment_shuffle": 1.0, "num_segments": 4, "flip": False}
    orders = set()
    for batch in self.batches(30, streams=("rgb", "flow"), batch_size=1, options=options):
      times = _times(batch["rgb"][0])
      self.assertEqual((_flow_bytes(batch["flow"])[0, :, 0, 0, 0] // 10).tolist(), times)
      pairs = [tuple(times[i : i + 2]) for i in range(0, 8, 2)]
      self.assertEqual(sorted(pairs), [(0, 1), (2, 3), (4, 5), (6, 7)])
      orders.add(tuple(pairs))
    self.assertGreater(len(orders), 10)
    options["segment_shuffle"] = 0.25
    taken = [_times(batch["rgb"][0]) for batch in self.batches(80, batch_size=1, options=options)]
    self.assertBetween(sum(times != sorted(times) for times in taken), 8, 32)  # 19 on average

  def test_frame_dropout_is_the_same_for_both_streams(self):
    self.write([_record("only", 9)])
    options = {"num_frames": 8, "frame_dropout": 0.5, "flip": False}
    num_dropped = 0
    for batch in self.batches(20, streams=("rgb", "flow"), batch_size=1, options=options):
      rgb, flow = _bytes(batch["rgb"][0]), batch["flow"][0]
      dropped = np.ptp(rgb[..., 1], axis=(1, 2)) == 0
      num_dropped += dropped.sum()
      np.testing.assert_array_equal(np.abs(flow).max(axis=(1, 2, 3)) == 0, dropped)
      np.testing.assert_array_equal(rgb[dropped][..., 0], 35)  # the mean of the times 0 to 7
      np.testing.assert_array_equal(rgb[~dropped][:, 0, 0, 0], 10 * np.flatnonzero(~dropped))
    self.assertBetween(num_dropped, 50, 110)

  def test_photometric_jitter_changes_rgb_only(self):
    self.write([_record("only")])
    both = ("rgb", "flow")
    plain = self.batches(4, streams=both)
    jittered = self.batches(4, streams=both, options={"photometric_jitter": 1.0})
    for one, other in zip(plain, jittered):
      np.testing.assert_array_equal(one["flow"], other["flow"])
      self.assertGreater(np.abs(one["rgb"] - other["rgb"]).max(), 0.02)
      self.assertLessEqual(np.abs(other["rgb"]).max(), 1)

  def test_an_option_leaves_the_other_draws_alone(self):
    self.write_ramps(3)
    # These are on, but can change nothing.
    options = {"segment_shuffle": 1e-9, "frame_dropout": 1e-9, "scale_jitter": (1.0, 1.0 + 1e-9)}
    self.assert_same(self.batches(3, options=options), self.batches(3))


class OrderTest(PipelineTest):
  def test_same_seed_same_batches_however_often(self):
    self.write_ramps(5, 4)
    options = {"scale_jitter": (0.8, 1.2), "photometric_jitter": 0.5, "segment_shuffle": 0.5, "temporal_jitter": 1}
    run = lambda seed: self.batches(8, streams=("rgb", "flow"), seed=seed, options=options)
    first = run(1)
    for _ in range(2):
      self.assert_same(run(1), first)
    self.assertNotEqual([b["id"].tolist() for b in run(2)], [b["id"].tolist() for b in first])

  def test_resumed_is_uninterrupted(self):
    self.write_ramps(3, 2)
    whole = self.batches(9)
    for first_batch in (1, 4, 7):
      self.assert_same(self.batches(9 - first_batch, first_batch=first_batch), whole[first_batch:])

  def test_far_batches_cost_nothing(self):
    self.write_ramps(3)
    self.assertLen(self.batches(1, first_batch=10**9), 1)

  def test_epochs_have_every_record_once_and_other_draws(self):
    self.write_ramps(3, 3)
    batches = self.batches(9)
    ids = [name for batch in batches for name in batch["id"]]
    for epoch in range(3):
      self.assertLen(set(ids[6 * epoch : 6 * epoch + 6]), 6)
    self.assertLen({tuple(seed) for batch in batches for seed in batch["seed"].tolist()}, 18)

  def test_shards_interleave(self):
    self.write_ramps(3, 4, 2, 1)
    both = self.batches(6, batch_size=4, shards=(0, 1), num_shards=2)
    parts = [self.batches(6, batch_size=4, shards=(shard,), num_shards=2) for shard in range(2)]
    joined = [{name: np.concatenate([one[name], other[name]]) for name in one} for one, other in zip(*parts)]
    self.assert_same(joined, both)
    for batch in both:
      self.assertEqual([int(name[:1]) % 2 for name in batch["id"]], [0, 0, 1, 1])
    swapped = self.batches(1, batch_size=4, shards=(1, 0), num_shards=2)
    self.assertEqual([int(name[:1]) % 2 for name in swapped[0]["id"]], [1, 1, 0, 0])

  @parameterized.parameters(
    ({"shards": (2,), "num_shards": 2}, r"shards are \(2,\); they must be different ones of 0 to 1"),
    ({"shards": (0, 0), "num_shards": 2}, r"shards are \(0, 0\);"),
    ({"shards": ()}, r"shards are \(\);"),
    ({"batch_size": 3, "num_shards": 2}, "batch_size is 3; it must be a multiple of the 2 shards"),
    ({"batch_size": 3, "num_shards": 3, "shards": (2,)}, "train has 2 files of records, too few for 3 shards"),
    ({"data_service": "localhost:5000"}, "data_service is 'localhost:5000'; it must be grpc://HOST:PORT"),
    ({"data_service": "grpc://localhost:x"}, "data_service is 'grpc://localhost:x'; it must be"),
    ({"data_service": "grpc://127.0.0.1:1"}, "grpc://127.0.0.1:1 cannot be reached: Connection refused"),
  )
  def test_bad_arguments(self, options, message):
    self.write_ramps(3, 3)
    with self.assertRaisesRegex(errors.I3dError, message):
      self.batches(1, **options)

  def test_data_service_makes_every_batch_once(self):
    self.write_ramps(3, 2)
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target
    workers = []
    # They ask the dispatcher for work until they are gone, and so must go first.
    self.addCleanup(lambda dispatcher: workers.clear(), dispatcher)
    for _ in range(2):
      config = service.WorkerConfig(dispatcher_address=address.partition("://")[2], heartbeat_interval_ms=200)
      workers.append(service.WorkerServer(config))
    both = ("rgb", "flow")
    local = {batch["seed"].tobytes(): batch for batch in self.batches(40, streams=both, first_batch=3)}
    served = self.batches(10, streams=both, first_batch=3, data_service=address)
    self.assertLen({batch["seed"].tobytes() for batch in served}, 10)
    self.assert_same(served, [local[batch["seed"].tobytes()] for batch in served])


class ServiceInProcessesTest(PipelineTest):
  """A dispatcher and two workers of a tf.data service, started as the manual says."""

  def start(self, server: str, config: str, **values: object) -> testing.Program:
    given = ", ".join(f"{name}={value!r}" for name, value in values.items())
    code = f"from tensorflow.data.experimental.service import *; {server}({config}({given})).join()"
    process = testing.Program(code, folder=self.folder)
    self.addCleanup(process.finish)
    self.addCleanup(lambda: process.poll() is None and process.send_signal(signal.SIGKILL))
    while not self.is_open(port := values["port"]):
      self.assertIsNone(process.poll(), f"{server} ended before it was at port {port}")
      time.sleep(0.05)
    return process

  def is_open(self, port: int) -> bool:
    with socket.socket() as tried:
      return tried.connect_ex(("127.0.0.1", port)) == 0

  def start_dispatcher(self, port: int) -> testing.Program:
    work_dir = str(self.folder / "dispatcher")
    return self.start("DispatchServer", "DispatcherConfig", port=port, work_dir=work_dir, fault_tolerant_mode=True)

  def test_lost_processes_lose_what_they_had_begun_and_double_nothing(self):
    self.write_ramps(3, 2)
    ports = []
    for _ in range(3):
      with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        ports.append(found.getsockname()[1])
    dispatcher = self.start_dispatcher(ports[0])
    where = f"localhost:{ports[0]}"
    workers = [
      self.start(
        "WorkerServer", "WorkerConfig", dispatcher_address=where, worker_address=f"localhost:{port}", port=port
      )
      for port in ports[1:]
    ]
    local = {batch["seed"].tobytes(): number for number, batch in enumerate(self.batches(400))}
    clips = clip_config.TrainClips(streams=("rgb",), **_SMALL)
    made = pipeline.train_batches(
      self.source(), clips, batch_size=2, seed=1, data_service=f"grpc://localhost:{ports[0]}"
    ).as_numpy_iterator()
    numbers = [local[next(made)["seed"].tobytes()] for _ in range(40)]
    workers[0].send_signal(signal.SIGKILL)
    numbers += [local[next(made)["seed"].tobytes()] for _ in range(40)]
    dispatcher.send_signal(signal.SIGKILL)
    while dispatcher.poll() is None:
      time.sleep(0.05)
    self.start_dispatcher(ports[0])
    numbers += [local[next(made)["seed"].tobytes()] for _ in range(80)]
    self.assertLen(set(numbers), 160)
    lost = set(range(max(numbers) + 1)) - set(numbers)
    self.assertLessEqual(len(lost), 64)  # what two workers had begun; it does not grow with what follows


class UnusableRecordsTest(PipelineTest):
  def errors(self, streams=("rgb",), batch_size=1) -> dict[str, dict]:
    """The examples of one epoch by the record's number in its file, whole ones under their id."""
    found = {}
    for batch in self.batches(self.source(streams).num_records // batch_size, streams=streams, batch_size=batch_size):
      for index in range(batch_size):
        example = {name: value[index] for name, value in batch.items()}
        found[example["error"].decode().rpartition(", record ")[2] or example["id"].decode()] = example
    return found

  def write_info(self, classes=_CLASSES) -> None:
    count = self.source().num_records
    info = {"parameters": {"streams": ["rgb", "flow"]}, "complete": True, "splits": {"train": {"written": count}}}
    (self.folder / "dataset.json").write_text(json.dumps({**info, "classes": classes, "name": "ramps"}))

  def assert_unusable(self, example, label_text=b"") -> None:
    self.assertEqual((example["weight"], example["label"]), (0, 0))
    for stream in {"rgb", "flow"} & example.keys():
      self.assertEqual(np.abs(example[stream]).max(), 0)

  def test_each_reason(self):
    text = b"no image"
    flow = (_png(_flow(0)), _png(_flow(1)))
    three = {"timestamps": (0, 1, 2), "flow_frames": flow, "flow_timestamps": (0, 1)}
    self.write([
        _record("good"),
        b"\xff\xff no SequenceExample",
        _record("few", frames=(), timestamps=()),
        _record("text", frames=(text,) * 12),
        _record("torn", frames=(_png(_frame(0)), _png(_frame(1))[:60], _png(_frame(2))), **three),
        _record("no flow", streams=("rgb",)),
        _record("unlabelled", labels=(), label_indices=()),
        _record("range", label_indices=(3,)),
        _record("name", labels=("spin",)),
        _record("size", frames=(_png(_frame(0)), _png(_frame(1)[:, :-1]), _png(_frame(2))), **three),
    ])  # fmt: skip
    self.write_info()
    found = self.errors(streams=("rgb", "flow"))
    self.assertEqual(sorted(found), [
        "1: it is no SequenceExample of a clip",
        "2: it has no RGB frames",
        "3: an image of it cannot be decoded, has another size, or is too large or too narrow",
        "4: an image of it cannot be decoded, has another size, or is too large or too narrow",
        "5: it has no flow",
        "6: it has no label",
        "7: its label is 3, out of the range of the 3 classes",
        "8: its label 1 is 'spin', in the class list 'fall'",
        "9: an image of it cannot be decoded, has another size, or is too large or too narrow",
        "good",
    ])  # fmt: skip
    self.assertEqual((found["good"]["weight"], found["good"]["label"]), (1, 1))
    del found["good"]
    for example in found.values():
      self.assert_unusable(example)
    self.assertEqual(found["5: it has no flow"]["id"], b"no flow")
    path = self.folder / "train-00000-of-00001.tfrecord"
    self.assertEqual(found["5: it has no flow"]["error"].decode(), f"{path}, record 5: it has no flow")

  def test_rgb_does_without_flow(self):
    self.write([_record("a"), _record("b", streams=("rgb",))])
    self.assertEqual([e["weight"] for e in self.errors().values()], [1, 1])

  def test_flipped_byte(self):
    self.write_ramps(3)
    entries = self.source().entries
    content = bytearray(entries[1].path.read_bytes())
    content[entries[1].offset + 100] ^= 1
    entries[1].path.write_bytes(content)
    found = self.errors()
    self.assertEqual(set(found), {"0/0", "0/2", "1: " + pipeline._DAMAGED})
    self.assert_unusable(found["1: " + pipeline._DAMAGED])

  def test_good_clips_beside_a_bad_one_are_untouched(self):
    self.write([_record("a"), _record("b", frames=(b"x",) * 12)])
    (batch,) = self.batches(1)
    good = batch["id"].tolist().index(b"a")
    self.assertEqual(batch["weight"].tolist(), [1, 0] if good == 0 else [0, 1])
    self.assertEqual(np.abs(batch["rgb"][1 - good]).max(), 0)
    self.assertEqual(set(np.diff(_times(batch["rgb"][good])).tolist()), {1})

  def test_without_class_list(self):
    self.write([_record("a", label_indices=(399,)), _record("b", label_indices=(-1,))])
    found = self.errors()
    self.assertEqual(found["a"]["label"], 399)
    self.assertIn("1: its label is negative", found)


class CenterClipsTest(PipelineTest):
  def clips(self, **options):
    clips = clip_config.TrainClips(streams=("rgb", "flow"), **_SMALL)
    batches = pipeline.center_clips(self.source(clips.streams), clips, **options)
    return list(batches.map(pipeline.scaled).as_numpy_iterator())

  def test_middle(self):
    self.write([_record("a"), _record("b", 3)])
    (batch,) = self.clips(batch_size=2)
    self.assertEqual(_times(batch["rgb"]), [[3, 4, 5, 6], [0, 1, 0, 1]])  # of 11 and 2 flows
    self.assertEqual((_flow_bytes(batch["flow"])[:, :, 0, 0, 0] // 10).tolist(), [[3, 4, 5, 6], [0, 1, 0, 1]])
    np.testing.assert_array_equal(_bytes(batch["rgb"])[:, :, 0, 0, 1:], np.broadcast_to([20, 40], (2, 4, 2)))

  def test_every_record_once_and_equally_many_batches(self):
    self.write_ramps(3, 1, 2)
    whole = self.clips(batch_size=4)
    self.assertEqual([batch["weight"].tolist() for batch in whole], [[1, 1, 1, 1], [1, 1, 0, 0]])
    self.assertEqual(whole[1]["id"].tolist(), [b"2/0", b"2/1", b"", b""])
    self.assertEqual(whole[1]["error"].tolist(), [b""] * 4)
    self.assertEqual(np.abs(whole[1]["rgb"][2:]).max(), 0)
    parts = [self.clips(batch_size=4, shards=(shard,), num_shards=2) for shard in range(2)]
    ids = [[batch["id"].tolist() for batch in part] for part in parts]
    self.assertEqual(ids[0], [[b"0/0", b"0/2"], [b"2/0", b""]])
    self.assertEqual(ids[1], [[b"0/1", b"1/0"], [b"2/1", b""]])

  def test_unusable_record(self):
    self.write([_record("a"), _record("b", streams=("rgb",))])
    (batch,) = self.clips(batch_size=2)
    self.assertEqual(batch["weight"].tolist(), [1, 0])
    self.assertEndsWith(batch["error"][1].decode(), "record 1: it has no flow")


class EvalVideosTest(PipelineTest):
  def videos(self, *, skip=(), streams=("rgb", "flow"), **options):
    clips = clip_config.EvalClips(streams=streams, short_side=24, crop=16, **options)
    return list(pipeline.eval_videos(self.source(streams), clips, skip=skip).map(pipeline.scaled).as_numpy_iterator())

  def test_release(self):
    self.write([_record("a"), _record("b", 3), _record("c", 2, frames=(b"x",) * 2)])
    a, b, c = self.videos(max_frames=11, min_frames=5)
    self.assertEqual(_times(a["rgb"]), [list(range(11))])
    self.assertEqual((_flow_bytes(a["flow"])[..., 0, 0, 0] // 10).tolist(), [list(range(11))])
    self.assertEqual(_bytes(a["rgb"])[0, 0, 0, 0].tolist(), [0, 20, 40])
    self.assertEqual(_times(b["rgb"]), [[0, 1, 2, 0, 1]])
    self.assertEqual((_flow_bytes(b["flow"])[..., 0, 0, 0] // 10).tolist(), [[0, 1, 0, 1, 0]])
    self.assertEqual((c["rgb"].shape, c["flow"].shape, c["weight"]), ((1, 0, 16, 16, 3), (1, 0, 16, 16, 2), 0))
    self.assertIn("record 2: an image", c["error"].decode())
    self.assertEqual([v["record"] for v in (a, b, c)], [0, 1, 2])

  def test_release_takes_one_frame_more_than_flows(self):
    self.write([_record("a")])
    (a,) = self.videos()
    self.assertEqual((a["rgb"].shape, a["flow"].shape), ((1, 12, 16, 16, 3), (1, 11, 16, 16, 2)))
    (strided,) = self.videos(frame_stride=4, min_frames=1)
    self.assertEqual(_times(strided["rgb"]), [[0, 4, 8]])
    self.assertEqual((_flow_bytes(strided["flow"])[..., 0, 0, 0] // 10).tolist(), [[0, 4, 8]])

  def test_uniform_clips(self):
    self.write([_record("a")])
    (a,) = self.videos(protocol="clips", num_clips=3, num_frames=4, flip=True)
    expected = [[0, 1, 2, 3], [3, 4, 5, 6], [7, 8, 9, 10]]  # of 11 flows
    self.assertEqual(_times(a["rgb"]), expected * 2)
    flow = _flow_bytes(a["flow"])
    self.assertEqual((flow[:3, :, 0, 0, 0] // 10).tolist(), expected)
    np.testing.assert_array_equal(flow[3:, ..., 0], 255 - flow[:3, ..., 0])
    np.testing.assert_array_equal(flow[3:, ..., 1], flow[:3, :, :, ::-1, 1])
    np.testing.assert_array_equal(a["rgb"][3:], a["rgb"][:3, :, :, ::-1])

  def test_ten_crop(self):
    self.write([_record("a")])
    (a,) = self.videos(protocol="ten_crop", num_frames=4)
    self.assertEqual(a["rgb"].shape, (10, 4, 16, 16, 3))
    self.assertEqual(_times(a["rgb"]), [[3, 4, 5, 6]] * 10)
    corners = [[0, 0], [0, 16], [8, 0], [8, 16], [4, 8]]  # of 24x32
    self.assertEqual((_bytes(a["rgb"])[:5, 0, 0, 0, 1:] // 5).tolist(), corners)
    np.testing.assert_array_equal(a["rgb"][5:], a["rgb"][:5, :, :, ::-1])
    np.testing.assert_array_equal(_flow_bytes(a["flow"])[5:, ..., 0], 255 - _flow_bytes(a["flow"])[:5, ..., 0])

  def test_three_crops_of_clips_at_equal_distances(self):
    self.write([_record("a")])
    (a,) = self.videos(protocol="three_crops", num_frames=4, num_clips=2)
    self.assertEqual(a["rgb"].shape, (6, 4, 24, 24, 3))
    (clips,) = self.videos(protocol="clips", num_frames=4, num_clips=2)
    self.assertEqual(_times(a["rgb"]), _times(clips["rgb"]) * 3)
    corners = [[0, 0]] * 2 + [[0, 4]] * 2 + [[0, 8]] * 2  # of 24x32
    self.assertEqual((_bytes(a["rgb"])[:, 0, 0, 0, 1:] // 5).tolist(), corners)
    self.assertEqual(a["flow"].shape, (6, 4, 24, 24, 2))

  def test_skipping(self):
    self.write_ramps(3, 2)
    self.assertEqual([video["id"] for video in self.videos(skip={1, 3})], [b"0/0", b"0/2", b"1/1"])
    self.assertEqual(self.videos(skip=range(5)), [])


class StepsTest(parameterized.TestCase):
  def test_training(self):
    self.assertEqual(pipeline.steps(clip_config.TrainClips()), [
        "read the record and check its checksum",
        "parse the record",
        "check label and streams",
        "draw the random numbers of the clip",
        "random start among those that leave enough frames",
        "take 64 frames, every 1; loop short videos",
        "resize to short side 256",
        "random crop of 224x224",
        "decode the crop of the frames taken",
        "mirror with probability 0.5; the flow's x is negated",
        "RGB to [-1, 1]",
    ])  # fmt: skip

  def test_each_option_adds_its_step(self):
    plain = pipeline.steps(clip_config.TrainClips(flip=False))
    for options, name in (
      ({"temporal_jitter": 3}, "move the start by up to 3 frames"),
      ({"segment_shuffle": 0.05}, "shuffle 4 segments with probability 0.05"),
      ({"scale_jitter": (0.8, 1.2)}, "resize to short side 256 times 0.8 to 1.2, drawn"),
      ({"photometric_jitter": 0.5}, "change the colours of the clip with strength 0.5"),
      ({"frame_dropout": 0.1}, "drop frames with probability 0.1"),
    ):
      new = [step for step in pipeline.steps(clip_config.TrainClips(flip=False, **options)) if step not in plain]
      self.assertEqual(new, [name])
    self.assertNotIn("RGB to [-1, 1]", pipeline.steps(clip_config.TrainClips(streams=("flow",))))

  @parameterized.parameters(
      ("release", "one view"), ("clips", "views of 64 frames"), ("ten_crop", "add the mirror image of each view"),
      ("three_crops", "crops of 256x256: both ends, centre"),
  )  # fmt: skip
  def test_evaluation(self, protocol, expected):
    steps = pipeline.steps(clip_config.EvalClips(protocol=protocol))
    self.assertTrue(any(step.startswith(expected) for step in steps), steps)
    self.assertIn("decode", steps[steps.index("resize to short side 256") + 1 + (protocol in ("release", "clips"))])

  def test_frames_are_taken_before_they_are_decoded(self):
    for make, clips in (
        (clip_steps.training, clip_config.TrainClips()), (clip_steps.evaluation, clip_config.EvalClips())
    ):  # fmt: skip
      names = [step.name.split()[0] for step in make(clips)]
      self.assertLess(names.index("take"), names.index("decode"))


if __name__ == "__main__":
  absltest.main()
