"""Plans, pieces and shards, without videos."""

import dataclasses
import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import shards


def _dataset(**counts):
  splits = {
    split: tuple(clips_lib.Clip(f"{split}/{i}", f"/videos/{split}/{i}.avi", label="a") for i in range(count))
    for split, count in counts.items()
  }
  return clips_lib.Dataset("made", ("a",), splits, {split: () for split in splits})


class PlanTest(parameterized.TestCase):
  @parameterized.parameters((10, 3, [2, 3, 2, 3]), (9, 3, [3, 3, 3]), (2, 5, [2]), (0, 5, []))
  def test_every_clip_is_in_one_shard(self, count, clips_per_shard, sizes):
    dataset = _dataset(train=count)
    plan = shards.plan(dataset, clips_per_shard)
    self.assertEqual([len(shard.clips) for shard in plan], sizes)
    self.assertCountEqual([clip for shard in plan for clip in shard.clips], dataset.splits["train"])
    self.assertEqual([shard.name for shard in plan], [f"train-{i:05}-of-{len(sizes):05}" for i in range(len(sizes))])

  def test_order_is_shuffled_the_same_each_time_and_for_each_split_by_itself(self):
    first = shards.plan(_dataset(train=50, test=5), 100)
    self.assertEqual(first, shards.plan(_dataset(train=50, test=5), 100))
    self.assertEqual(first[0], shards.plan(_dataset(train=50), 100)[0])
    self.assertNotEqual([clip.id for clip in first[0].clips], [f"train/{i}" for i in range(50)])

  def test_the_digest_tells_lists_apart_but_not_places(self):
    dataset = _dataset(train=3)
    moved = [dataclasses.replace(clip, path="/elsewhere") for clip in dataset.splits["train"]]
    renamed = [dataclasses.replace(clip, label=None) for clip in dataset.splits["train"]]
    digest = shards._listing_digest(dataset)
    self.assertEqual(digest, shards._listing_digest(dataclasses.replace(dataset, splits={"train": tuple(moved)})))
    self.assertNotEqual(digest, shards._listing_digest(dataclasses.replace(dataset, splits={"train": tuple(renamed)})))


class FolderTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    temporary = tempfile.TemporaryDirectory()
    self.addCleanup(temporary.cleanup)
    self.path = pathlib.Path(temporary.name) / "records"
    self.dataset = _dataset(train=5, test=1)
    self.parameters = {"fps": 25.0, "streams": ("rgb",)}

  def _folder(self):
    return shards.Folder(self.path, shards.plan(self.dataset, 3))

  def _record(self, task):
    return f"record of {task.clip.id}".encode()

  def _read(self, name):
    return [r.numpy() for r in tf.data.TFRecordDataset(str(self.path / f"{name}.tfrecord"))]

  def test_shards_are_what_tensorflow_reads_in_the_order_of_the_plan(self):
    folder = self._folder()
    with folder.claim(self.parameters):
      tasks = folder.tasks()
      self.assertLen(tasks, 6)
      for task in reversed(tasks):  # whatever the order in which they end
        folder.put(task, self._record(task), None)
        folder.finish_shards()
      self.assertEmpty(folder.finish(self.dataset, self.parameters))
    for shard in shards.plan(self.dataset, 3):
      self.assertEqual(self._read(shard.name), [f"record of {clip.id}".encode() for clip in shard.clips])
    self.assertFalse((self.path / ".work").exists())

  def test_a_later_start_asks_only_for_what_is_left(self):
    folder = self._folder()
    with folder.claim(self.parameters):
      tasks = folder.tasks()
      for task in (tasks[0], tasks[-1]):
        folder.put(task, self._record(task), None)
    again = self._folder()
    self.assertEqual(again.tasks(), tasks[1:-1])

  def test_failures_are_counted_and_listed(self):
    folder = self._folder()
    with folder.claim(self.parameters):
      for task in folder.tasks():
        bad = task.clip.id == "train/3"
        folder.put(task, None if bad else self._record(task), "torn\tin\ntwo" if bad else None)
      folder.finish_shards()
      failures = folder.finish(self.dataset, self.parameters)
    self.assertEqual([failure["id"] for failure in failures], ["train/3"])
    info = folder.read_info()
    self.assertEqual(info["splits"]["train"], {"listed": 5, "written": 4, "failed": 1, "missing": 0, "shards": 2})
    self.assertEqual(
      (self.path / "failures.tsv").read_text(),
      "split\tid\tpath\treason\ntrain\ttrain/3\t/videos/train/3.avi\ttorn in two\n",
    )

  def test_notes_are_listed_and_survive_failures_that_are_tried_again(self):
    folder = self._folder()
    with folder.claim(self.parameters):
      for task in folder.tasks():
        bad = task.clip.id == "train/3"
        notes = ("deinterlaced", "HDR") if task.clip.id in ("train/0", "train/1") else ()
        folder.put(task, None if bad else shards.Made(self._record(task), notes), "torn" if bad else None)
      folder.finish_shards()
      folder.finish(self.dataset, self.parameters)
      listed = (self.path / "notes.tsv").read_text()
      lines = [f"train\ttrain/{number}\t/videos/train/{number}.avi\tdeinterlaced; HDR" for number in (0, 1)]
      self.assertCountEqual(listed.splitlines(), ["split\tid\tpath\tnotes", *lines])
      again = self._folder()
      again.reopen_failures()
      (task,) = again.tasks()
      again.put(task, shards.Made(self._record(task)), None)
      again.finish_shards()
      again.finish(self.dataset, self.parameters)
    self.assertEqual((self.path / "notes.tsv").read_text(), listed)

  def test_reopened_failures_are_asked_for_again_and_nothing_else_is(self):
    folder = self._folder()
    with folder.claim(self.parameters):
      for task in folder.tasks():
        bad = task.clip.id == "train/3"
        folder.put(task, None if bad else self._record(task), "torn" if bad else None)
      folder.finish_shards()
      folder.finish(self.dataset, self.parameters)
      again = self._folder()
      again.reopen_failures()
      (task,) = again.tasks()
      self.assertEqual(task.clip.id, "train/3")
      again.put(task, self._record(task), None)
      again.finish_shards()
      self.assertEmpty(again.finish(self.dataset, self.parameters))
    for shard in shards.plan(self.dataset, 3):
      self.assertEqual(self._read(shard.name), [f"record of {clip.id}".encode() for clip in shard.clips])

  def test_counts_that_do_not_add_up_are_an_error(self):
    folder = self._folder()
    with folder.claim(self.parameters):
      for task in folder.tasks():
        folder.put(task, self._record(task), None)
      folder.finish_shards()
      summary = next((self.path / ".shards").glob("train-*.json"))
      summary.write_text(json.dumps({"records": 0, "failures": []}))
      with self.assertRaisesRegex(errors.I3dError, "train lists 5 clips, but [0-9] are written and 0 failed"):
        folder.finish(self.dataset, self.parameters)

  def _refused(self, parameters, sentence: str) -> None:
    with self.assertRaisesRegex(errors.I3dError, sentence):
      with self._folder().claim(parameters):
        self.fail("it must be refused")

  def test_parameters_are_compared(self):
    for resumed in (False, True):
      with self._folder().claim(self.parameters) as found:
        self.assertEqual(found, resumed)
    other = {"fps": 10, "streams": ["rgb"], "quality": 3}
    self._refused(other, r"\(fps was 25.0, is 10; quality was None, is 3\)")

  def test_strange_records_are_not_taken_over(self):
    self.path.mkdir()
    (self.path / "x.tfrecord").write_bytes(b"")
    self._refused(self.parameters, "holds x.tfrecord, but no dataset.json that says how it was made")

  def test_one_process_at_a_time(self):
    with self._folder().claim(self.parameters):
      self._refused(self.parameters, "another process is working in it")


if __name__ == "__main__":
  absltest.main()
