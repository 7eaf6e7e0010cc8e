"""The index of records and their order: partitions, permutations, and folders that are not as they should be."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.data import record_index
from i3d_tf.data import records


class FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def write(self, *sizes: int, split: str = "train", streams=("rgb", "flow")) -> None:
    """Files with so many records each; ids are FILE/NUMBER."""
    for index, size in enumerate(sizes):
      path = self.folder / f"{split}-{index:05}-of-{len(sizes):05}.tfrecord"
      with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(size):
          writer.write(self.record(f"{index}/{number}", streams))

  def record(self, name: str, streams) -> bytes:
    frames = {"frames": (b"a", b"b"), "timestamps": (0, 1)} if "rgb" in streams else {}
    flow = {"flow_frames": (b"c",), "flow_timestamps": (0,)} if "flow" in streams else {}
    return records.serialize(records.Record(id=name, dataset="d", **frames, **flow))

  def write_info(self, **changes) -> None:
    info = {
        "parameters": {"streams": ["rgb", "flow"]}, "complete": True, "splits": {"train": {"written": 7}},
        "classes": ["a", "b"], "name": "made",
    }  # fmt: skip
    (self.folder / "dataset.json").write_text(json.dumps({**info, **changes}))

  def open(self, split="train", streams=("rgb",)):
    return record_index.open_source(self.folder, split, streams=streams)


class SourceTest(FolderTest):
  def test_records_and_files(self):
    self.write(3, 0, 4)
    self.write(2, split="test")
    self.write_info()
    source = self.open()
    self.assertEqual((source.split, source.num_records, len(source.files)), ("train", 7, 3))
    self.assertEqual((source.classes, source.dataset), (("a", "b"), "made"))
    ids = [entry.load().id for entry in source.entries]
    self.assertEqual(ids, ["0/0", "0/1", "0/2", "2/0", "2/1", "2/2", "2/3"])
    self.assertTrue(all(file.is_absolute() for file in source.files))

  def test_compressed_files_are_named(self):
    for name in ("train-00000-of-00001.tfrecord.gz", "train-00000-of-00001"):
      path = self.folder / name
      with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        writer.write(self.record("a", ("rgb",)))
      with self.assertRaisesRegex(
        errors.I3dError, f"^{path}: the file is compressed, .* zcat -f {name} > train-00000-of-00001.tfrecord$"
      ):
        self.open()
      path.unlink()

  def test_a_class_list_for_records_without(self):
    self.write(2)
    self.assertEqual(record_index.open_source(self.folder, "train", streams=(), classes=("a", "b")).classes, ("a", "b"))
    self.write_info(splits={"train": {"written": 2}})
    record_index.open_source(self.folder, "train", streams=(), classes=("a", "b"))
    with self.assertRaisesRegex(errors.I3dError, "dataset.json has other classes than the class list, or in another"):
      record_index.open_source(self.folder, "train", streams=(), classes=("b", "a"))

  def test_without_dataset_json(self):
    self.write(2)
    self.assertEqual((self.open().classes, self.open().num_records), ((), 2))
    file = next(self.folder.iterdir())
    self.assertEqual(record_index.open_source(file, "train", streams=("flow",)).num_records, 2)

  def test_split_of(self):
    for name, split in (
        ("train-00000-of-00010.tfrecord", "train"), ("a-b-00000-of-00010", "a-b"), ("val.tfrecord", "val")
    ):  # fmt: skip
      self.assertEqual(record_index.split_of(pathlib.Path("folder") / name), split)

  def test_shards_are_every_nth_file(self):
    self.write(3, 1, 0, 2)
    source = self.open()
    self.assertEqual(source.shard(0, 1).tolist(), [0, 1, 2, 3, 4, 5])
    self.assertEqual([source.shard(i, 2).tolist() for i in range(2)], [[0, 1, 2], [3, 4, 5]])
    with self.assertRaisesRegex(errors.I3dError, "train has 4 files of records, too few for 4 shards"):
      source.shard(2, 4)

  def test_reading(self):
    self.write(2, 1)
    source = self.open()
    places = record_index.Places(source)
    read = tf.function(places.read)
    for number, entry in enumerate(source.entries):
      self.assertEqual(read(tf.constant(number, tf.int64)), entry.read())
      self.assertEqual(places.describe(number).numpy().decode(), str(entry))

  def test_bad_folders(self):
    def fails(message, **options):
      with self.assertRaisesRegex(errors.I3dError, message):
        self.open(**options)

    fails("the folder holds no TFRecords")
    self.write(3, 4)
    self.write(2, split="test", streams=("rgb",))
    fails("there is no split 'val'; there are test, train", split="val")
    fails("the data set has no flow, only rgb", split="test", streams=("rgb", "flow"))
    self.write_info(complete=False)
    fails("the data set is not complete; start prepare_dataset again with the same flags")
    self.write_info(splits={"train": {"written": 8}})
    fails("train has 7 records; dataset.json says 8")
    self.write_info(splits={})
    fails("dataset.json: this is not what prepare_dataset writes for train")
    self.write_info(parameters={"streams": ["flow"]})
    fails("the data set has no rgb, only flow")
    self.write_info()
    self.open(streams=("rgb", "flow"))
    whole = (self.folder / "train-00001-of-00002.tfrecord").read_bytes()
    (self.folder / "train-00001-of-00002.tfrecord").write_bytes(whole[:-3])
    fails("train-00001-of-00002.tfrecord, record 3: the file ends within it")
    (self.folder / "train-00001-of-00002.tfrecord").unlink()
    fails("there are 1 files such as train-00000-of-00002.tfrecord, not 2")

  def test_backward_flow_is_asked_for_by_name(self):
    self.write(1)
    fails = lambda: self.assertRaisesRegex(errors.I3dError, "no backward_flow, only rgb, flow; .* with backward_flow$")
    with fails():
      self.open(streams=("flow", "backward_flow"))
    self.write_info(splits={"train": {"written": 1}})
    with fails():
      self.open(streams=("flow", "backward_flow"))
    self.write_info(splits={"train": {"written": 1}}, parameters={"streams": ["rgb", "flow", "backward_flow"]})
    self.assertEqual(self.open(streams=("flow", "backward_flow")).num_records, 1)

  def test_no_records(self):
    self.write(0)
    with self.assertRaisesRegex(errors.I3dError, "train holds no records"):
      self.open()


class TrainingOrderTest(FolderTest):
  def order(self, *, places: int, **options) -> list[int]:
    order = record_index.TrainingOrder(self.open(), **{"batch_size": 1, "num_shards": 1, "seed": 5, **options})
    return tf.map_fn(order.record, tf.range(places, dtype=tf.int64)).numpy().tolist()

  @parameterized.parameters(1, 2, 3, 8, 21)
  def test_epochs_are_permutations(self, size):
    self.write(size)
    order = np.reshape(self.order(places=6 * size), [6, size])
    np.testing.assert_array_equal(np.sort(order, axis=1), np.broadcast_to(np.arange(size), (6, size)))
    if size > 3:
      self.assertLen({tuple(epoch) for epoch in order}, 6)

  def test_every_record_comes_at_every_place(self):
    self.write(4)
    order = np.reshape(self.order(places=4 * 400), [400, 4])
    counts = np.array([[np.sum(order[:, place] == record) for place in range(4)] for record in range(4)])
    # 100 on average; the standard deviation is 8.7.
    self.assertBetween(counts.min(), 65, 100)
    self.assertBetween(counts.max(), 100, 135)

  def test_every_batch_has_equal_parts_of_all_shards(self):
    self.write(3, 5, 2)  # shard 0 has records 0, 1, 2, 8, 9; shard 1 has 3 to 7
    batches = np.reshape(self.order(places=10 * 4, batch_size=4, num_shards=2), [10, 2, 2])
    np.testing.assert_array_equal(np.isin(batches, [0, 1, 2, 8, 9]), np.broadcast_to([[[True], [False]]], (10, 2, 2)))
    for shard, members in enumerate(([0, 1, 2, 8, 9], [3, 4, 5, 6, 7])):
      epochs = batches[:, shard].reshape(4, 5)
      np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(members, (4, 5)))

  def test_shards_of_unequal_size_have_epochs_of_their_own(self):
    self.write(2, 3)
    batches = np.reshape(self.order(places=2 * 6, batch_size=2, num_shards=2), [6, 2])
    np.testing.assert_array_equal(np.sort(batches[:, 0].reshape(3, 2), axis=1), np.broadcast_to([0, 1], (3, 2)))
    np.testing.assert_array_equal(np.sort(batches[:, 1].reshape(2, 3), axis=1), np.broadcast_to([2, 3, 4], (2, 3)))

  def test_seed_decides(self):
    self.write(12)
    self.assertEqual(self.order(places=24), self.order(places=24))
    self.assertNotEqual(self.order(places=24), self.order(places=24, seed=6))

  def test_seeds_of_examples(self):
    self.write(2)
    seeds = lambda seed: tf.map_fn(
        record_index.TrainingOrder(self.open(), batch_size=1, num_shards=1, seed=seed).seed,
        tf.range(50, dtype=tf.int64), fn_output_signature=tf.TensorSpec([2], tf.int32),
    ).numpy()  # fmt: skip
    np.testing.assert_array_equal(seeds(3), seeds(3))
    self.assertLen({tuple(row) for row in np.concatenate([seeds(3), seeds(4)])}, 100)

  def test_larger_batches_hold_the_same_clips_with_the_same_seeds(self):
    self.write(3, 4)
    draws = []
    for batch_size in (2, 4):
      order = record_index.TrainingOrder(self.open(), batch_size=batch_size, num_shards=2, seed=5)
      draws.append({
          (int(order.record(place)), *order.seed(place).numpy().tolist()) for place in tf.range(12, dtype=tf.int64)
      })  # fmt: skip
    self.assertLen(draws[0], 12)
    self.assertEqual(*draws)

  @parameterized.parameters((3, 2), (0, 1), (4, 0))
  def test_batch_must_be_divisible(self, batch_size, num_shards):
    self.write(2, 2)
    with self.assertRaisesRegex(errors.I3dError, f"batch_size is {batch_size}; it must be a multiple of"):
      self.order(places=1, batch_size=batch_size, num_shards=num_shards)


if __name__ == "__main__":
  absltest.main()
