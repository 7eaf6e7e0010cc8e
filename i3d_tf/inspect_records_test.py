"""`python -m i3d_tf.inspect_records` in processes of its own, on a small folder of real records."""

import pathlib
import tempfile

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf import testing
from i3d_tf.data import datasets
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards

_CLASSES = ("jump", "run")


def _write_video(path: pathlib.Path, seed: int, num_frames: int = 6) -> None:
  texture = cv2.GaussianBlur(np.random.default_rng(seed).uniform(0, 255, (80, 120, 3)), (0, 0), 2).astype(np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
  for t in range(num_frames):
    writer.write(np.ascontiguousarray(texture[8:56, 2 * t : 2 * t + 64]))
  writer.release()


def _make_records(videos: pathlib.Path, output: pathlib.Path) -> None:
  """Two splits of two clips, one clip in each file; what prepare_dataset does, in this process."""
  for split in ("test", "train"):
    for index, label in enumerate(_CLASSES):
      _write_video(videos / split / label / "v.avi", index)
  dataset = datasets.load("folder", videos)
  settings = shards.RecordConfig(short_side=48)
  folder = shards.Folder(output, shards.plan(dataset, 1))
  with folder.claim({"streams": settings.streams}):
    for task in folder.tasks():
      record = prepare.make_record(
        task.clip, dataset=dataset.name, classes=dataset.classes, settings=settings, root=videos
      )
      folder.put(task, records.serialize(record), None)
    folder.finish_shards()
    folder.finish(dataset, {"streams": settings.streams})


class InspectRecordsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = pathlib.Path(cls.enter_context(tempfile.TemporaryDirectory()))
    cls.records = root / "records"
    _make_records(root / "videos", cls.records)

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _run(self, *arguments) -> testing.Finished:
    return testing.run_main("inspect_records", *arguments)

  def _assert_fails(self, done, message):
    self.assertEqual(done.status, 1, done.stdout + done.stderr)
    self.assertEqual(done.stderr, f"inspect_records: error: {message}\n")

  def test_sound_folder(self):
    done = self._run(self.records)
    self.assertEqual((done.status, done.stderr), (0, ""))
    rows = [line.split() for line in done.stdout.splitlines()]
    self.assertEqual(rows[0], ["split", "files", "records", "frames", "flow", "images", "seconds", "bytes"])
    for row, split in zip(rows[1:], ("test", "train"), strict=True):
      size = sum(path.stat().st_size for path in self.records.glob(f"{split}-*"))
      self.assertEqual(row, [split, "2", "2", "12", "10", "0.5", f"{size:,}"])
    self.assertLen(set(map(len, done.stdout.splitlines())), 1)

  def test_every_problem_is_a_line(self):
    for path in [*self.records.glob("*.tfrecord"), *self.records.glob("dataset.json")]:
      (self.folder / path.name).write_bytes(path.read_bytes())
    torn, flipped = (self.folder / f"{split}-00000-of-00002.tfrecord" for split in ("test", "train"))
    torn.write_bytes(torn.read_bytes()[:-1])
    flipped.write_bytes(bytes(1000).join([flipped.read_bytes()[:500], flipped.read_bytes()[1500:]]))
    for flag in ("--decode", "--nodecode"):
      done = self._run(self.folder, flag)
      self._assert_fails(done, f"{self.folder}: 3 problems")
      lines = done.stdout.splitlines()
      self.assertEqual(lines[:3], [
          f"{torn}, record 0: the file ends within it",
          f"{flipped}, record 0: its checksum is wrong, it was damaged after it was written",
          f"{self.folder}: test has 1 records, dataset.json says 2",
      ])  # fmt: skip
      self.assertLen(lines, 6)
    self._assert_fails(self._run(torn), f"{torn}: 1 problem")

  def test_show(self):
    done = self._run(self.records, "--show=3", "--id=test/jump/v", "--show=0")
    self.assertEqual((done.status, done.stderr), (0, ""))
    blocks = [block.splitlines() for block in done.stdout.split("\n\n")]
    self.assertLen(blocks, 3)
    self.assertStartsWith(blocks[0][0], f"{self.records}/train-00001-of-00002.tfrecord, record 0: ")
    self.assertStartsWith(blocks[1][0], f"{self.records}/test-0000")
    self.assertIn("example/id                      test/jump/v", blocks[2])
    self.assertIn("clip/label/string               jump", blocks[2])
    self.assertIn("clip/end/timestamp              240000 (0.24 s)", blocks[2])

  def test_contact_sheet(self):
    cases = (
      ((), 4, "4 of 4 records"), (("--sheet_records=2",), 2, "2 of 4 records"), (("--show=1",), 1, "1 record"),
    )  # fmt: skip
    for flags, count, shown in cases:
      path = self.folder / f"{count}.png"
      done = self._run(self.records, f"--contact_sheet={path}", "--sheet_frames=3", *flags)
      picture = cv2.imread(str(path))
      self.assertEqual((done.status, done.stderr), (0, ""))
      self.assertEqual(done.stdout, f"{path}: {shown}, {picture.shape[1]}x{picture.shape[0]} pixels\n")
      self.assertEqual(picture.shape[0], 16 + count * (2 * (128 + 4) + 3 * 22 + 16))

  def test_errors_are_sentences(self):
    for arguments, message in (
      ((), "name one folder of TFRecords, or one file; see --help"),
      (("a", "b"), "name one folder of TFRecords, or one file; see --help"),
      (("/no/where",), "/no/where: there is no such file or folder"),
      ((self.records, "--contact_sheet=a.jpg"), "--contact_sheet=a.jpg; the picture's name must end in .png"),
      ((self.records, "--show=4"), f"{self.records}: there is no record 4; there are 4, counted from 0"),
      ((self.records, "--id=x"), f"{self.records}: none of the 4 ids that can be read is 'x'"),
    ):
      with self.subTest(message):
        self._assert_fails(self._run(*arguments), message)


if __name__ == "__main__":
  absltest.main()
