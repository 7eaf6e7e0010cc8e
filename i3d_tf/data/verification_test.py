"""A sound folder has no problems; each kind of damage is named, with file, record and id, and nothing else is."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import inspection
from i3d_tf.data import prepare
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.flow import codec

_CLASSES = ("jump", "run")
_SPLITS = {"train": ("run/1", "jump/2", "run/3", "jump/4", "run/5"), "test": ("jump/0", "jump/6")}
_MISSING = {"train": ("run/7",), "test": ()}
_FAILED = "jump/2"  # so that there are two records in each of three files
_FILE = "train-00001-of-00002.tfrecord"
_TEST_FILE = "test-00000-of-00001.tfrecord"
_SETTINGS = shards.RecordConfig()


def _record(clip: clips_lib.Clip, num_frames: int = 4, size: tuple[int, int] = (16, 20)) -> records.Record:
  rng = np.random.default_rng(int(clip.id.split("/")[1]))
  times = tuple(40_000 * step for step in range(num_frames))
  frames = [prepare.encode_rgb(rng.integers(0, 256, (*size, 3), np.uint8), 90) for _ in times]
  flows = [prepare.encode_flow(rng.normal(0, 3, (*size, 2)), _SETTINGS) for _ in times[1:]]
  return records.Record(
    id=clip.id,
    dataset="folder",
    labels=(clip.label,),
    label_indices=(_CLASSES.index(clip.label),),
    height=size[0],
    width=size[1],
    frames=tuple(frames),
    timestamps=times,
    flow_format="PNG",
    flow_bound=codec.BOUND,
    flow_rounding="truncate",
    flow_frames=tuple(flows),
    flow_timestamps=times[:-1],
  )


def _make_folder(path: pathlib.Path) -> None:
  clip = lambda name: clips_lib.Clip(name, f"{name}.avi", label=name.split("/")[0])
  present, missing = ({k: tuple(map(clip, names)) for k, names in part.items()} for part in (_SPLITS, _MISSING))
  dataset = clips_lib.Dataset("folder", _CLASSES, present, missing)
  folder = shards.Folder(path, shards.plan(dataset, 3))
  parameters = {"streams": ("rgb", "flow")}
  with folder.claim(parameters):
    for task in folder.tasks():
      is_broken = task.clip.id == _FAILED
      content = None if is_broken else records.serialize(_record(task.clip))
      folder.put(task, content, "it is broken" if is_broken else None)
    folder.finish_shards()
    folder.finish(dataset, parameters)


class VerificationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    _make_folder(self.folder)
    self.path = self.folder / _FILE
    self.entries = list(record_index.scan(self.path))
    self.ids = [entry.load().id for entry in self.entries]

  def _problems(self, path=None, **options) -> list[str]:
    verifier = inspection.Verifier(path or self.folder, **options)
    return [problem.replace(f"{self.folder}/", "") for problem in verifier.problems()]

  def _replace(self, number: int, **changes) -> None:
    """Writes one record of `_FILE` anew, sound but for the changes, which `serialize` might refuse."""
    with mock.patch.object(records, "_check"):
      contents = [records.serialize(dataclasses.replace(entry.load(), **(changes if entry.number == number else {})))
                  for entry in record_index.scan(self.path)]  # fmt: skip
    self.path.write_bytes(b"".join(map(shards.frame, contents)))

  def _edit_info(self, edit: Callable[[dict], object]) -> None:
    path = self.folder / shards.INFO
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))

  def _flip(self, place: int, path: pathlib.Path | None = None) -> None:
    path = self.path if path is None else path
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)

  def _cut(self, size: int) -> None:
    self.path.write_bytes(self.path.read_bytes()[:size])

  def test_a_sound_folder(self):
    for decode in (True, False):
      verifier = inspection.Verifier(self.folder, decode=decode)
      seen = []
      self.assertEmpty(list(verifier.problems(seen.append)))
      sizes = {split: sum(p.stat().st_size for p in self.folder.glob(f"{split}-*")) for split in _SPLITS}
      self.assertEqual(verifier.splits, {
          "train": inspection.Totals(2, 4, 16, 12, 16 / 25, sizes["train"]),
          "test": inspection.Totals(1, 2, 8, 6, 8 / 25, sizes["test"]),
      })  # fmt: skip
      self.assertEqual(sum(seen), verifier.num_bytes)
      self.assertLen(seen, 6)
    self.assertEmpty(self._problems(self.path))
    self.assertEmpty(self._problems(num_threads=3))

  def test_flipped_bytes_are_told_apart(self):
    first, second = self.entries
    self._flip(first.offset + 5)
    self._flip(second.offset + second.length)  # in the checksum itself
    wrong = "its checksum is wrong, it was damaged after it was written"
    self.assertEqual(self._problems(), [f"{_FILE}, record 0: {wrong}", f"{_FILE}, record 1: {wrong}"])

  @parameterized.parameters(0, 7, 8, 11)
  def test_a_damaged_header(self, byte):
    self._flip(byte)
    seen = []
    verifier = inspection.Verifier(self.folder)
    problems = list(verifier.problems(seen.append))
    self.assertEqual(sum(seen), verifier.num_bytes)
    self.assertEqual([problem.replace(f"{self.folder}/", "") for problem in problems], [
        f"{_FILE}, record 0: its length is damaged, and so it and what follows cannot be read; "
        "or this is no TFRecord file",
        f"{_FILE}: 0 records of 2 are there",
    ])  # fmt: skip

  @parameterized.named_parameters(("checksum", 1), ("content", 100), ("header", None))
  def test_a_torn_file(self, cut):
    second = self.entries[1]
    size = second.offset - 3 if cut is None else second.offset + second.length + 4 - cut
    self._cut(size)
    expected = [f"{_FILE}, record 1: the file ends within it", f"{_FILE}: 1 records of 2 are there"]
    self.assertEqual(self._problems(), expected)

  def test_a_file_cut_between_records(self):
    self._cut(self.entries[1].offset - 12)
    self.assertEqual(self._problems(), [f"{_FILE}: 1 records of 2 are there"])
    for note in self.folder.glob(".shards/*"):
      note.unlink()
    self.assertEqual(self._problems(), [f"{self.folder}: train has 3 records, dataset.json says 4"])

  def test_missing_and_strange_files(self):
    (self.folder / "train-00000-of-00002.tfrecord").unlink()
    (self.folder / "train-00000-of-00003.tfrecord").write_bytes(b"")
    self.assertEqual(self._problems(), [
        "train-00000-of-00002.tfrecord: the file is missing",
        "train-00000-of-00003.tfrecord: dataset.json knows no such file",
    ])  # fmt: skip

  @parameterized.named_parameters(
      ("nothing", {"frames": (), "flow_frames": (), "timestamps": (), "flow_timestamps": ()},
       ["it holds neither frames nor flow",
        "it has no rgb, against dataset.json",
        "it has no flow, against dataset.json"]),
      ("rgb_only", {"flow_frames": (), "flow_timestamps": ()}, ["it has no flow, against dataset.json"]),
      ("label", {"labels": ("jmup",)}, None),
      ("index", {"label_indices": (2,)}, ["the label index 2 is not below the 2 classes of dataset.json"]),
      ("negative_index", {"label_indices": (-1,)}, ["the label index -1 is not below the 2 classes of dataset.json"]),
      ("no_index", {"label_indices": ()}, ["1 labels have 0 indices"]),
      ("dataset", {"dataset": "other"}, ["its data set is 'other', not 'folder' as in dataset.json"]),
      ("equal_times", {"timestamps": (0, 40_000, 40_000, 80_000)},
       ["the time of frames does not increase: 40000 microseconds at 2 follow 40000",
        "flow image 2: not at the time of the frame of that number"]),
      ("shifted_flow", {"flow_timestamps": (40_000, 80_000, 120_000)},
       ["flow images 0, 1, 2: not at the time of the frame of that number"]),
      ("too_few_times", {"timestamps": (0, 40_000, 80_000)}, ["4 frames have 3 timestamps"]),
      ("declared_size", {"height": 17}, ["frames 0, 1, 2, 3: 20x16 pixels, not 20x17",
                                         "flow images 0, 1, 2: 20x16 pixels, not 20x17"]),
      ("declared_format", {"image_format": "PNG"},
       ["frames 0, 1, 2, 3: not in the format PNG that the record declares"]),
  )  # fmt: skip
  def test_what_a_record_says(self, changes, expected):
    if expected is None:
      own = _CLASSES.index(self.ids[1].split("/")[0])
      expected = [f"the label is 'jmup', but class {own} of dataset.json is {_CLASSES[own]!r}"]
    self._replace(1, **changes)
    self.assertEqual(self._problems(), [f"{_FILE}, record 1 ({self.ids[1]}): {text}" for text in expected])

  def test_lost_flow(self):
    record = self.entries[0].load()
    self._replace(0, flow_frames=record.flow_frames[1:], flow_timestamps=record.flow_timestamps[:2])
    self.assertEqual(self._problems(), [f"{_FILE}, record 0 ({self.ids[0]}): 4 frames have 2 flow images, not 3"])

  def test_backward_flow(self):
    record = self.entries[0].load()
    place = f"{_FILE}, record 0 ({self.ids[0]})"
    sound = {"backward_flow_frames": record.flow_frames, "backward_flow_timestamps": record.flow_timestamps}
    self._replace(0, **sound)
    self.assertEqual(self._problems(), [f"{place}: it has backward_flow, against dataset.json"])
    self._edit_info(lambda info: info["parameters"].update(streams=["rgb", "flow", "backward_flow"]))
    problems = self._problems()
    self.assertLen(problems, 5)  # of the records without
    reasons = {problem.partition("): ")[2] for problem in problems}
    self.assertEqual(reasons, {"it has no backward_flow, against dataset.json"})
    verifier = inspection.Verifier(self.folder)
    self.assertNotEmpty(list(verifier.problems()))
    self.assertEqual(verifier.splits["train"].flows, 15)
    images = (record.flow_frames[0], record.flow_frames[1][:-30])
    self._replace(0, backward_flow_frames=images, backward_flow_timestamps=(0, 0))
    self.assertEqual([problem for problem in self._problems() if problem.startswith(place)], [
        f"{place}: 3 flow images have 2 backward flow images",
        f"{place}: the time of backward flow images does not increase: 0 microseconds at 1 follow 0",
        f"{place}: backward flow image 1: not at the time of the frame of that number",
        f"{place}: backward flow image 1 cannot be decoded",
    ])  # fmt: skip

  def test_images_that_cannot_be_decoded_or_differ(self):
    record = self.entries[0].load()
    frames, flows = list(record.frames), list(record.flow_frames)
    frames[1], frames[3] = frames[1][:-40], b"no image"
    flows[0] = bytes([*flows[0][:60], flows[0][60] ^ 1, *flows[0][61:]])
    flows[2] = prepare.encode_flow(np.zeros((16, 22, 2)), _SETTINGS)
    self._replace(0, frames=tuple(frames), flow_frames=tuple(flows))
    place = f"{_FILE}, record 0 ({self.ids[0]})"
    self.assertEqual(self._problems(), [
        f"{place}: frames 1, 3 cannot be decoded",
        f"{place}: frame 3: not in the format JPEG that the record declares",
        f"{place}: flow image 0 cannot be decoded",
        f"{place}: flow image 2: 22x16 pixels, not 20x16",
    ])  # fmt: skip
    self.assertEmpty(self._problems(decode=False))

  def test_many_images_are_counted(self):
    content = records.serialize(_record(clips_lib.Clip("jump/0", "", label="jump"), num_frames=12))
    record = dataclasses.replace(records.deserialize(content), frames=(b"x",) * 12, image_format="")
    self.path.write_bytes(shards.frame(records.serialize(record)))
    problems = self._problems(self.path)
    self.assertEqual(problems, [f"{_FILE}, record 0 (jump/0): frames 0, 1, 2, 3, 4 and 7 more cannot be decoded"])

  def test_ids_that_occur_twice(self):
    other = next(record_index.scan(self.folder / _TEST_FILE)).load()
    self._replace(0, id=other.id)
    self.assertEqual(self._problems(), [f"{_FILE}, record 0 ({other.id}): {_TEST_FILE}, record 0 has the same id"])

  def test_all_problems_of_a_folder_are_named(self):
    self._replace(0, id="new\nline", height=9, width=9, label_indices=(7,))
    self._flip(100, self.folder / _TEST_FILE)
    self._edit_info(lambda info: info["splits"]["train"].update(failed=3))
    place = f"{_FILE}, record 0 ('new\\nline')"
    self.assertEqual(self._problems(), [
        f"{_TEST_FILE}, record 0: its checksum is wrong, it was damaged after it was written",
        f"{place}: the label index 7 is not below the 2 classes of dataset.json",
        f"{place}: frames 0, 1, 2, 3: 20x16 pixels, not 9x9",
        f"{place}: flow images 0, 1, 2: 20x16 pixels, not 9x9",
        "dataset.json: train has 5 listed, but 4 written and 3 failed",
        "failures.tsv: train has 1 lines, dataset.json says 3 failed",
    ])  # fmt: skip

  def test_counts_of_the_tables(self):
    (self.folder / "missing.tsv").unlink()
    (self.folder / "failures.tsv").write_text("split\tid\tpath\treason\ntrain\ta\tb\tc\ntrain\td\te\tf\n")
    self.assertEqual(self._problems(), [
        "failures.tsv: train has 2 lines, dataset.json says 1 failed",
        "missing.tsv: train has 0 lines, dataset.json says 1 missing",
    ])  # fmt: skip

  def test_a_folder_that_is_not_complete(self):
    self._edit_info(lambda info: info.update(complete=False))
    self.path.unlink()
    expected = ["dataset.json: the data set is not complete; start prepare_dataset again with the same flags"]
    self.assertEqual(self._problems(), expected)

  def test_dataset_json_that_is_damaged(self):
    path = self.folder / shards.INFO
    for text in ("{", "[]", "{}"):
      path.write_text(text)
      self.assertRegex(self._problems()[0], "^dataset.json: it is damaged; put a copy back")
    path.write_text('{"parameters": {"streams": []}, "complete": true, "splits": {"a": {}}}')
    self.assertEqual(self._problems(), ["dataset.json: this is not what prepare_dataset writes"])

  def test_no_record_of_ours(self):
    self.path.write_bytes(shards.frame(b"text") + shards.frame(b""))
    first, second, *rest = self._problems(self.path)
    self.assertStartsWith(first, f"{_FILE}, record 0: the record is no SequenceExample: ")
    self.assertEqual(second, f"{_FILE}, record 1 (without id): it holds neither frames nor flow")
    self.assertNotEmpty(rest)

  def test_files_of_others_need_no_list(self):
    content = records.serialize(dataclasses.replace(self.entries[0].load(), labels=("swim",), dataset="", id=""))
    alone = pathlib.Path(self.create_tempdir().full_path)
    for index in range(2):
      (alone / f"kinetics_700_train-0000{index}-of-00002").write_bytes(shards.frame(content))
    verifier = inspection.Verifier(alone)
    self.assertEmpty(list(verifier.problems()))
    self.assertEqual(verifier.splits["kinetics_700_train"].records, 2)
    with self.assertRaisesRegex(errors.I3dError, "the folder holds no TFRecords"):
      inspection.Verifier(self.create_tempdir())
    with self.assertRaisesRegex(errors.I3dError, "/no/where: there is no such file or folder"):
      inspection.Verifier("/no/where")


if __name__ == "__main__":
  absltest.main()
