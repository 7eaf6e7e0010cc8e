"""Files that are damaged or made to do harm: each of many mutants is read or refused in one sentence, within bounds."""

from collections.abc import Callable, Iterator
import io
import json
import os
import pathlib
import random
import re
import struct
import tracemalloc
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import google_crc32c
import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import testing
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.evaluation import predictions
from i3d_tf.frechet import arrays
from i3d_tf.frechet import distance
from i3d_tf.inference import classification
from i3d_tf.weights import containers
from i3d_tf.weights import manifest
from i3d_tf.weights import pytorch
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

# 100 mutants each in every run of the tests; more are tried by hand: I3D_TF_MUTANTS=2000.
_NUM_MUTANTS = int(os.environ.get("I3D_TF_MUTANTS", "100"))
_BASE_BYTES = 8 << 20  # that reading any file may take beside twice its size
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
_CODE_RAN = "/tmp/i3d_tf_files_test_code_ran"
_PAYLOAD = f"cos\nsystem\n(Vtouch {_CODE_RAN}\ntR.".encode()


def _open_videos(path: pathlib.Path) -> None:
  for array in arrays.open_file(path).values():
    arrays.ClipFormat().axes(array, str(path))
    np.asarray(array[-1:])


def _mutate(content: bytes, rng: random.Random) -> bytes:
  """Flips, cuts or splices bytes, or sets a number to an extreme."""
  data = bytearray(content)
  for _ in range(rng.choice((1, 1, 2, 5))):
    place = rng.randrange(len(data)) if data else 0
    kind = rng.choice(("flip", "flip", "cut", "splice", "extreme", "digits", "payload"))
    if kind == "flip" and data:
      data[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
      del data[place : place + rng.choice((1, 4, 100, len(data)))]
    elif kind == "splice":
      start = rng.randrange(len(content))
      data[place:place] = content[start : start + rng.choice((1, 8, 200))]
    elif kind == "extreme":
      width = rng.choice((1, 2, 4, 8))
      data[place : place + width] = (rng.choice(_EXTREMES) % 256**width).to_bytes(width, rng.choice(("little", "big")))
    elif kind == "digits":  # of a shape, or a number in JSON
      numbers = list(re.finditer(rb"\d+", data))
      if numbers:
        found = rng.choice(numbers)
        data[found.start() : found.end()] = rng.choice((b"-1", b"0", b"1e999", b"99999999999999", b"NaN", b"[" * 3000))
    elif kind == "payload" and rng.random() < 0.3:
      data[place:place] = _PAYLOAD
  return bytes(data)


def _mutate_zip(content: bytes, rng: random.Random) -> bytes:
  """Mutates an archive, or a member so that its checksum is right."""
  if rng.random() < 0.4:
    return _mutate(content, rng)
  target = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
    members = source.infolist()
    chosen = rng.choice(members) if rng.random() < 0.5 else members[0]
    for member in members:
      value = source.read(member)
      value = _mutate(value, rng) if member is chosen else value
      archive.writestr(member.filename, value, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
  return target.getvalue()


def _mutate_table(content: bytes, rng: random.Random) -> bytes:
  """Mutates an index, or an entry of it so that the block's checksum is right."""
  if rng.random() < 0.3:
    return _mutate(content, rng)
  stream = io.BytesIO(content[-48:])
  _, _, offset, size = (containers._varint(stream) for _ in range(4))
  if rng.random() < 0.8:  # not of the table's own index
    place = io.BytesIO(dict(containers._entries(content, offset, size)).popitem()[1])
    offset, size = containers._varint(place), containers._varint(place)
  block = _mutate(content[offset : offset + size], rng)
  block = (block + bytes(size))[:size] + b"\0"
  crc = struct.pack("<I", manifest.mask(google_crc32c.value(block)))
  return content[:offset] + block + crc + content[offset + size + 5 :]


def _mutate_record(content: bytes, rng: random.Random) -> bytes:
  """Mutates a file of one record, or the record so that its checksums are right."""
  return _mutate(content, rng) if rng.random() < 0.3 else shards.frame(_mutate(content[12:-4], rng))


class FuzzTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    pathlib.Path(_CODE_RAN).unlink(missing_ok=True)

  def _check(self, path: pathlib.Path, mutate: Callable, *readers: Callable) -> None:
    """Reads mutants of the file, which must end in a value or in one sentence."""
    content, rng = path.read_bytes(), random.Random(5)
    for read in readers:
      read(path)  # what is not damaged is read; modules are imported
    read_count, refused = 0, 0
    for number in range(_NUM_MUTANTS):
      mutant = mutate(content, rng)
      path.write_bytes(mutant)
      for read in readers:
        tracemalloc.start()
        try:
          read(path)
          read_count += 1
        except errors.I3dError as error:
          refused += 1
          self.assertNotIn("\n", str(error), number)
          self.assertLess(len(str(error)), 1200, number)
          self.assertNotIn("allow_pickle", str(error))
        finally:
          peak = tracemalloc.get_traced_memory()[1]
          tracemalloc.stop()
        self.assertLess(peak, 2 * len(mutant) + _BASE_BYTES, number)
    path.write_bytes(content)
    self.assertFalse(os.path.exists(_CODE_RAN))
    print(f"{self.id().rpartition('.')[-1]}: {read_count} read, {refused} refused, 0 other")

  def test_npy(self):
    path = self.folder / "a.npy"
    np.save(path, np.zeros([1, 4, 6, 6, 3], np.float32))
    self._check(path, _mutate, classification.read_npy_clip, files.read_array)

  def test_npy_of_videos(self):
    path = self.folder / "a.npy"
    np.save(path, np.zeros([2, 4, 6, 6, 3], np.uint8))
    self._check(path, _mutate, _open_videos)

  def test_npz_of_videos(self):
    path = self.folder / "a.npz"
    np.savez(path, np.zeros([2, 4, 6, 6, 3], np.uint8), np.ones([4, 6, 6, 3], np.uint8))
    self._check(path, _mutate_zip, _open_videos)

  def test_npz_of_scores(self):
    path = self.folder / "scores.npz"
    scores = predictions.Predictions(
        stream="rgb", ids=("a", "b"), classes=("c", "d"), labels=np.zeros(2, np.int32), numbers=np.arange(2),
        logits=np.zeros([2, 2], np.float32), made_with={"split": "x"},
    )  # fmt: skip
    predictions.save(path, scores)
    self._check(path, _mutate_zip, predictions.load)

  def test_npz_of_statistics(self):
    path = self.folder / "stats.npz"
    with open(path, "wb") as file:
      distance.save(file, {"rgb": np.random.default_rng(3).normal(size=[8, 5]).astype(np.float32)}, {"weights": {}})
    self._check(path, _mutate_zip, distance.load)

  def test_pt(self):
    path = self.folder / "a.pt"
    arrays = {"a.weight": np.ones([4, 3], np.float32), "a.bias": np.zeros(4, np.float32), "n": np.array(3)}
    containers.write_torch(path, {"state_dict": arrays, "epoch": 3})
    self._check(path, _mutate_zip, pytorch.read)

  def test_model_json(self):
    path = self.folder / saved.INFO
    info = saved.make_info(stream="rgb", num_classes=3, classes=("a", "b", "c"), width_multiplier=0.05, step=7)
    saved.save(self.folder, saved.make_model(info), info)
    self._check(path, _mutate, lambda path: saved.find(path.parent))

  def test_tfrecord(self):
    path = self.folder / "test.tfrecord"
    record = records.Record(
      frames=(b"1", b"2"), timestamps=(0, 40000), id="a", dataset="d", labels=("x",), label_indices=(0,)
    )
    path.write_bytes(shards.frame(records.serialize(record)))
    self._check(path, _mutate_record, lambda path: [entry.load() for entry in record_index.scan(path)])

  @parameterized.parameters((tensorflow1.INDEX_SUFFIX, _mutate_table), (tensorflow1.DATA_SUFFIX, _mutate))
  def test_checkpoint(self, suffix, mutate):
    arrays = {name: np.ones(shape, np.float32) for name, shape in {"a/w": [3, 4], "b/b": [4], "c": []}.items()}
    tensorflow1.write(self.folder / "a", arrays)
    self._check(self.folder / f"a{suffix}", mutate, lambda path: tensorflow1.read(str(self.folder / "a")))


class ArraysTest(parameterized.TestCase):
  def _arrays(self) -> Iterator[np.ndarray]:
    yield np.arange(24).reshape(2, 3, 4)
    yield np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3))
    yield np.array(["a", "bü", ""])
    yield np.array(3.5, np.float16)
    yield np.zeros([0, 3], np.uint8)

  def test_arrays_are_numpy_s(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    for array in self._arrays():
      np.save(folder / "a.npy", array)
      np.savez(folder / "a.npz", x=array)
      np.savez_compressed(folder / "b.npz", x=array)
      found = [files.read_array(folder / "a.npy"), files.map_array(folder / "a.npy")]
      found += [files.read_arrays(folder / name)["x"] for name in ("a.npz", "b.npz")]
      for each in found:
        self.assertEqual((each.dtype, each.shape), (array.dtype, array.shape))
        np.testing.assert_array_equal(each, array)

  @parameterized.parameters(
    (np.array([{"a": 1}], object), "of type object, neither numbers nor texts"),
    (np.zeros(2, [("a", "f4")]), "neither numbers nor texts"),
    (np.zeros(2, "V0"), "neither numbers nor texts"),
  )
  def test_other_arrays_are_refused(self, array, sentence):
    path = pathlib.Path(self.create_tempdir().full_path) / "a.npy"
    np.save(path, array)
    with self.assertRaisesRegex(errors.I3dError, sentence):
      files.read_array(path)

  def test_a_member_that_would_unpack_to_more_than_it_can_hold(self):
    path = pathlib.Path(self.create_tempdir().full_path) / "a.npz"
    np.savez_compressed(path, x=np.zeros(1 << 20))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 0xF0000000)
    path.write_bytes(content)
    with self.assertRaisesRegex(errors.I3dError, "x.npy states 4,026,531,840 bytes, more than it can hold"):
      files.read_arrays(path)

  def test_the_reference_files_of_others(self):
    for path in sorted(testing.shared("field/arrays").iterdir()):
      readers = (predictions.load, distance.load) if path.suffix == ".npz" else (_open_videos, files.read_array)
      for read in readers:
        if (path.name, read) == ("scores_html.npz", predictions.load):  # which is one of ours
          read(path)
        else:
          with self.assertRaises(errors.I3dError, msg=path.name) as caught:
            read(path)
          self.assertNotIn("\n", str(caught.exception))


class JsonTest(parameterized.TestCase):
  @parameterized.parameters(
    "", "{", "[" * 100_000, '{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', "\udcff", "1" * 5000, "\0"
  )
  def test_what_is_no_json_is_refused(self, text):
    with self.assertRaisesRegex(errors.I3dError, "^x.json: this is not JSON, or it is damaged") as caught:
      files.parse_json(text.encode(errors="surrogateescape"), "x.json")
    self.assertNotIn("\n", str(caught.exception))

  @parameterized.parameters(
    "checkpoint", "model", "stream", "num_classes", "classes", "width_multiplier", "average_space", "step",
    "frame_rate", "num_frames", "frame_stride", "flow_stack", "flow_stacking", "short_side", "crop",
  )  # fmt: skip
  def test_hostile_values_of_model_json(self, name):
    folder = pathlib.Path(self.create_tempdir().full_path)
    content = {"checkpoint": "model", "stream": "rgb", "num_classes": 1, "classes": ["a"]}
    for value in (-1, 10**30, 1e308, "\ud800", "a" * 5000, {}, [[]], [{}], [None], ["\ud800"], "../x", "\0"):
      (folder / saved.INFO).write_text(json.dumps({**content, name: value}))
      with self.assertRaises(errors.CheckpointError, msg=value) as caught:
        saved.find(folder)
      self.assertStartsWith(str(caught.exception), f"{folder / saved.INFO}: ")
      self.assertLess(len(str(caught.exception)), 700)
      self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
  absltest.main()
