"""Videos in tar and zip files are read as files are, and archives that would do harm are refused."""

import io
import os
import pathlib
import tarfile
import tempfile
import tracemalloc
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.data import datasets
from i3d_tf.features import sources
from i3d_tf.frechet import clips
from i3d_tf.frechet import protocols
from i3d_tf.video import archives
from i3d_tf.video import decode
from i3d_tf.video import listing


def _write_tar(path, content):
  with tarfile.open(path, "w") as archive:
    for name, data in content.items():
      entry = tarfile.TarInfo(name)
      entry.size = len(data)
      archive.addfile(entry, io.BytesIO(data))


def _write_zip(path, content):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, data in content.items():
      archive.writestr(name, data)


class ArchivesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.made = pathlib.Path(cls.enter_context(tempfile.TemporaryDirectory())) / "v.avi"
    testing.write_moving_video(cls.made, seed=1, num_frames=9)
    cls.video = cls.made.read_bytes()

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def _shard(self, suffix, content):
    path = self.folder / f"shard-000000{suffix}"
    (_write_tar if suffix == ".tar" else _write_zip)(path, content)
    return path

  @parameterized.parameters(".tar", ".zip")
  def test_read_as_the_file(self, suffix):
    content = {"b/000001.avi": self.video, "000000.avi": self.video, "000000.cls": b"3", ".x.avi": b"", "a.txt": b"no"}
    shard = self._shard(suffix, content)
    names = [f"{shard}/000000.avi", f"{shard}/b/000001.avi"]
    self.assertEqual([str(path) for path in decode.list_videos([shard])], names)
    self.assertEqual([str(path) for path in listing.list_folder(self.folder).videos], names)
    expected = decode.read_video(self.made, short_side=None)
    for isolated in (False, True):
      with decode.isolated() if isolated else tempfile.TemporaryDirectory():
        np.testing.assert_array_equal(decode.read_video(names[1], short_side=None), expected)
    self.assertEqual(decode.probe(names[1]), decode.probe(self.made))
    self.assertEqual(decode.count_frames(names[1]), 9)
    self.assertEqual([source.id for source in sources.list_sources([shard])], ["000000", "b/000001"])
    self.assertEqual([source.id for source in sources.list_sources([names[1]])], ["000001"])
    reader = self._reader(num_frames=9)
    found = [reader.read(source) for source in reader.sources(shard)]
    self.assertLen(found, 2)
    np.testing.assert_array_equal(found[0][0], expected)

  def _reader(self, **options):
    config = protocols.FvdConfig(**options)
    return clips.ClipReader(protocols.resolve(config), config, "real")

  def test_a_list_of_paths(self):
    shard = self._shard(".tar", {"x.avi": self.video})
    (self.folder / "list.txt").write_text(f"{shard}\n{self.made}\n\n")
    found = listing.list_folder(f"@{self.folder / 'list.txt'}").videos
    self.assertEqual([str(path) for path in found], [f"{shard}/x.avi", str(self.made)])
    named = [source.name for source in self._reader().sources(f"@{self.folder / 'list.txt'}")]
    self.assertEqual(named, [f"{shard}/x.avi", str(self.made)])

  def test_classes_of_a_data_set(self):
    os.makedirs(self.folder / "set")
    _write_tar(
      self.folder / "set/0.tar", {"0.avi": self.video, "0.cls": b"run\n", "1.avi": self.video, "1.cls": b"hop"}
    )
    _write_zip(self.folder / "set/1.zip", {"hop/2.avi": self.video})
    loaded = datasets.load("folder", str(self.folder / "set"))
    self.assertEqual(loaded.classes, ("hop", "run"))
    clips = {clip.id: clip.label for each in loaded.splits.values() for clip in each}
    self.assertEqual(clips, {"0.tar/0": "run", "0.tar/1": "hop", "1.zip/hop/2": "hop"})
    loaded = datasets.load("folder", str(self.folder / "set/1.zip"))
    self.assertEqual([clip.id for each in loaded.splits.values() for clip in each], ["hop/2"])
    (self.folder / "list").write_text(f"{self.folder}/set/1.zip/hop/2.avi\n")
    loaded = datasets.load("folder", f"@{self.folder / 'list'}")
    self.assertEqual([clip.label for each in loaded.splits.values() for clip in each], ["hop"])

  def test_another_shard_under_the_name_is_noticed(self):
    shard = self._shard(".tar", {"x.avi": self.video})
    (source,) = sources.list_sources([shard])
    facts = source.content.facts()
    self.assertEqual(facts["bytes"], len(self.video))
    self.assertTrue(source.content.is_as(facts))
    self._shard(".tar", {"x.avi": self.video + b"more"})
    self.assertFalse(source.content.is_as(facts))

  def _refused(self, path, message):
    with self.assertRaisesRegex(errors.VideoError, message) as caught:
      for video in decode.list_videos([path]):
        decode.read_video(video)
    self.assertNotIn("\n", str(caught.exception))
    self.assertIn(str(path), str(caught.exception))

  @parameterized.product(suffix=(".tar", ".zip"), name=("../../evil.avi", "/tmp/evil.avi", "a/../../evil.avi"))
  def test_a_name_that_leads_out(self, suffix, name):
    self._refused(self._shard(suffix, {name: self.video}), "a path that leads out of the archive")

  def test_a_bomb(self):
    content = {"x.avi": bytes(50_000_000)}
    bomb = self._shard(".zip", content)
    del content
    tracemalloc.start()
    self._refused(bomb, "x.avi would grow from .* to 50,000,000 bytes")
    self.assertLess(tracemalloc.get_traced_memory()[1], 5_000_000)
    tracemalloc.stop()

  def test_a_large_member_takes_no_memory(self):
    shard = self._shard(".tar", {"x.avi": bytes(30_000_000)})
    tracemalloc.start()
    self._refused(shard, "x.avi: this is not a video")
    self.assertLess(tracemalloc.get_traced_memory()[1], 8_000_000)
    tracemalloc.stop()

  @parameterized.parameters(".tar", ".zip")
  def test_damaged(self, suffix):
    shard = self._shard(suffix, {"x.avi": self.video, "y.avi": self.video})
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    self._refused(shard, "this is no whole")
    (self.folder / "v.avi").write_bytes(self.video)
    self.assertLen(listing.list_folder(self.folder).videos, 1)  # with a warning
    shard.write_bytes(b"")
    self._refused(shard, "this is no whole|holds no video")

  def test_a_flipped_bit_in_a_zip(self):
    shard = self._shard(".zip", {"x.avi": self.video})
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    self._refused(shard, "the archive is damaged here")

  def test_what_is_not_there(self):
    shard = self._shard(".tar", {"x.txt": b"text"})
    self._refused(shard, "the archive holds no video")
    with self.assertRaisesRegex(errors.VideoError, "there is no such file in the archive"):
      decode.read_video(shard / "y.avi")
    with tarfile.open(self.folder / "z.tar", "w:gz") as archive:
      archive.add(self.made, "x.avi")
    self._refused(self.folder / "z.tar", "no whole tar file that is not compressed")

  def test_a_link_in_a_tar_is_no_video(self):
    path = self.folder / "l.tar"
    with tarfile.open(path, "w") as archive:
      entry = tarfile.TarInfo("x.avi")
      entry.type, entry.linkname = tarfile.SYMTYPE, str(self.made)
      archive.addfile(entry)
    self._refused(path, "the archive holds no video")
    self.assertEqual(archives.split(path / "x.avi"), (str(path), "x.avi"))


if __name__ == "__main__":
  absltest.main()
