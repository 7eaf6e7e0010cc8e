"""Places of records against TensorFlow's own reader, byte by byte, and what is said of a record."""

import pathlib

from absl.testing import absltest
import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.data import inspection
from i3d_tf.data import record_index
from i3d_tf.data import records

_CONTENTS = (b"first", b"", b"the third record")
_IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
_JPEG, _PNG = (cv2.imencode(suffix, _IMAGE)[1].tobytes() for suffix in (".jpg", ".png"))


def _read_by_tensorflow(path: pathlib.Path) -> tuple[list[bytes], bool]:
  """The records up to the first that is damaged, and whether there was one."""
  found = []
  try:
    for content in tf.data.TFRecordDataset(str(path)):
      found.append(content.numpy())
  except tf.errors.DataLossError:
    return found, True
  return found, False


def _read(path: pathlib.Path) -> tuple[list[bytes], bool]:
  found = []
  for entry in record_index.scan(path):
    try:
      found.append(entry.read())
    except errors.I3dError as error:
      assert str(error).startswith(f"{path}, record {len(found)}: "), error
      return found, True
  return found, False


class InspectionTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.path = self._write("a.tfrecord", *_CONTENTS)

  def _write(self, name: str, *contents: bytes) -> pathlib.Path:
    with tf.io.TFRecordWriter(str(self.folder / name)) as writer:
      for content in contents:
        writer.write(content)
    return self.folder / name

  def _write_records(self, name: str, *ids: str) -> pathlib.Path:
    return self._write(name, *(records.serialize(records.Record(id=name, dataset="d")) for name in ids))

  def test_whole_files(self):
    self.assertEqual(_read(self.path), (list(_CONTENTS), False))
    self.assertEqual([entry.number for entry in record_index.scan(self.path)], [0, 1, 2])
    self.assertEqual(_read(self._write("empty.tfrecord")), ([], False))

  def test_every_flipped_byte_is_found_where_tensorflow_finds_it(self):
    whole = self.path.read_bytes()
    for place in range(len(whole)):
      self.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
      found, is_damaged = _read(self.path)
      self.assertTrue(is_damaged, place)
      self.assertEqual((found, is_damaged), _read_by_tensorflow(self.path), place)

  def test_every_cut_is_found_where_tensorflow_finds_it_and_within_headers(self):
    whole = self.path.read_bytes()
    ends = [0, *(entry.offset + entry.length + 4 for entry in record_index.scan(self.path))]
    for size in range(len(whole) + 1):
      self.path.write_bytes(whole[:size])
      count = sum(end <= size for end in ends[1:])
      self.assertEqual(_read(self.path), (list(_CONTENTS[:count]), size not in ends), size)
      damages = [entry.damage for entry in record_index.scan(self.path)]
      self.assertEqual(damages, [""] * count + ["the file ends within it"] * (size not in ends))
      if size - ends[count] not in range(1, 12):  # there TensorFlow sees the end of a sound file
        self.assertEqual(_read(self.path), _read_by_tensorflow(self.path), size)

  def test_records_after_a_flipped_byte_are_read(self):
    content = bytearray(self.path.read_bytes())
    content[12] ^= 1
    self.path.write_bytes(content)
    first, *rest = record_index.scan(self.path)
    with self.assertRaisesRegex(errors.I3dError, "record 0: its checksum is wrong"):
      first.read()
    self.assertEqual([entry.read() for entry in rest], list(_CONTENTS[1:]))

  def test_files(self):
    for name in ("train-00001-of-00002", "b.tfrecord", ".a.tfrecord.x1", "dataset.json", "a-of-b"):
      (self.folder / name).touch()
    names = [path.name for path in record_index.find_files(self.folder)]
    self.assertEqual(names, ["a.tfrecord", "b.tfrecord", "train-00001-of-00002"])
    self.assertEqual(record_index.find_files(self.folder / "dataset.json"), [self.folder / "dataset.json"])
    with self.assertRaisesRegex(errors.I3dError, "nothing: there is no such file or folder$"):
      record_index.find_files(self.folder / "nothing")

  def test_choice(self):
    self.path.unlink()
    a, b = self._write_records("a.tfrecord", "u", "v"), self._write_records("b.tfrecord", "w", "v", "x")
    choose = lambda *args: [(entry.path, entry.number) for entry in inspection.choose(self.folder, *args)]
    self.assertEqual(choose([4, 1, 2]), [(b, 2), (a, 1), (b, 0)])
    self.assertEqual(choose([0], ["x", "v"]), [(a, 0), (b, 2), (a, 1)])
    self.assertEqual(choose(), [])
    for numbers in ([5], [-1]):
      with self.assertRaisesRegex(errors.I3dError, f"there is no record {numbers[0]}; there are 5, counted from 0$"):
        choose(numbers)
    with self.assertRaisesRegex(errors.I3dError, ": none of the 4 ids that can be read is 'y'$"):
      choose([], ["u", "y"])

  def test_choice_passes_damaged_records(self):
    self._write("a.tfrecord", b"damaged", *_CONTENTS[1:2])
    self._write_records("b.tfrecord", "u")
    self.assertEqual(inspection.choose(self.folder, ids=["u"])[0].path.name, "b.tfrecord")

  def test_spread(self):
    self._write_records("b.tfrecord", "u", "v")
    spread = lambda count: [(entry.path.name[0], entry.number) for entry in inspection.spread(self.folder, count)[0]]
    self.assertEqual(spread(3), [("a", 0), ("a", 2), ("b", 1)])
    self.assertEqual(inspection.spread(self.folder, 3)[1], 5)
    self.assertEqual(spread(1), [("a", 0)])
    self.assertEqual(spread(9), [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)])
    self.path.write_bytes(b"torn")
    self.assertEqual(spread(9), [("b", 0), ("b", 1)])
    (self.folder / "b.tfrecord").unlink()
    with self.assertRaisesRegex(errors.I3dError, "there is no record$"):
      spread(1)

  def test_description(self):
    example = tf.train.SequenceExample()
    context, lists = example.context.feature, example.feature_lists.feature_list
    context["clip/label/text"].bytes_list.value.extend([b"run", "h\u00fcpfen".encode()])
    context["clip/start/timestamp"].int64_list.value.append(1_500_000)
    context["image/frame_rate"].float_list.value.append(29.97)
    context["a/foreign/key"].bytes_list.value.append(b"\x00" * 1234)
    context["empty"].int64_list.value.extend([])
    for step in range(6):
      lists["image/encoded"].feature.add().bytes_list.value.append(_JPEG)
      lists["image/timestamp"].feature.add().int64_list.value.append(40_000 * step)
      lists["other"].feature.add().bytes_list.value.append(b"abc")
    lists["few"].feature.add().float_list.value.extend([0.5, 2.0])
    entry = next(record_index.scan(self._write("a.tfrecord", example.SerializeToString())))
    self.assertEqual(inspection.describe(entry), [
        "clip/label/text       run, h\u00fcpfen",
        "clip/start/timestamp  1500000 (1.5 s)",
        "image/frame_rate      29.97",
        f"image/encoded         6 JPEG images, {6 * len(_JPEG):,} bytes, the first of 20x12 pixels",
        "image/timestamp       6 values: 0 (0 s), 40000 (0.04 s), 80000 (0.08 s), ..., 200000 (0.2 s)",
        "a/foreign/key         1,234 bytes",
        "empty                 no value",
        "few                   2 values: 0.5, 2",
        "other                 6 values, 18 bytes",
    ])  # fmt: skip

  def test_description_of_no_record(self):
    entry = next(record_index.scan(self.path))
    with self.assertRaisesRegex(errors.I3dError, f"^{self.path}, record 0: the record is no SequenceExample: "):
      inspection.describe(entry)
    with self.assertRaisesRegex(errors.I3dError, f"^{self.path}, record 0: the record is no SequenceExample: "):
      entry.load()

  def test_images(self):
    np.testing.assert_array_equal(inspection.decode_image(_PNG), _IMAGE[..., ::-1])
    self.assertEqual([inspection._image_size(image) for image in (_JPEG, _PNG)], [(12, 20), (12, 20)])
    self.assertEqual([inspection.image_format(image) for image in (_JPEG, _PNG, b"GIF8", b"")], ["JPEG", "PNG", "", ""])
    gray = cv2.imencode(".png", _IMAGE[..., 0])[1].tobytes()
    self.assertEqual(inspection.decode_image(gray).shape, (12, 20, 3))

  def test_images_that_are_not_whole(self):
    for image in (_JPEG[:-20], _PNG[:-20], _PNG[:60] + bytes([_PNG[60] ^ 1]) + _PNG[61:], b"", b"text", _JPEG[:3]):
      self.assertIsNone(inspection._image_size(image))
      with self.assertRaisesRegex(errors.I3dError, "^an image cannot be decoded$"):
        inspection.decode_image(image)


if __name__ == "__main__":
  absltest.main()
