"""Tests of listing: what is a video, what is left out and named, and links."""

import os
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from i3d_tf import errors
from i3d_tf.video import listing


class ListingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name).resolve()

  def _make(self, *names: str, content: bytes = b"") -> None:
    for name in names:
      (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
      (self.folder / name).write_bytes(content)

  def _videos(self, root: pathlib.Path | None = None) -> list[str]:
    root = root or self.folder
    return [path.relative_to(root).as_posix() for path in listing.list_folder(root).videos]

  def test_endings_at_any_depth(self):
    self._make("b.mp4", "a.AVI", "sub/deep/c.mkv", "x.3gp", "x.m2ts", "x.mts", "x.VOB", "sub.mp4/d.mov")
    expected = ["a.AVI", "b.mp4", "sub/deep/c.mkv", "sub.mp4/d.mov", "x.3gp", "x.VOB", "x.m2ts", "x.mts"]
    self.assertEqual(self._videos(), expected)

  @parameterized.parameters(
    (b"\x00\x00\x00\x20ftypisom", True),
    (b"\x00\x00\x00\x20ftypM4A ", False),
    (b"\x00\x00\x00\x20ftypavif", False),
    (b"\x00\x00\x00\x08wide", True),
    (b"RIFF\x00\x00\x00\x00AVI LIST", True),
    (b"RIFF\x00\x00\x00\x00WAVEfmt ", False),
    (b"\x1aE\xdf\xa3", True),
    (b"OggS" + bytes(24) + b"\x80theora", True),
    (b"OggS" + bytes(24) + b"OpusHead", False),
    ((b"G" + bytes(187)) * 6, True),
    ((bytes(4) + b"G" + bytes(187)) * 6, True),
    (b"Good morning" * 100, False),
    (b"\x00\x00\x01\xba", True),
    (b"", False),
  )
  def test_content(self, content, expected):
    self._make("clip", content=content)
    self.assertEqual(listing.is_video(self.folder / "clip"), expected)

  def test_a_gif_must_be_animated(self):
    pictures = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 200, 90)]
    pictures[0].save(self.folder / "still.gif")
    pictures[0].save(self.folder / "moving.gif", save_all=True, append_images=pictures[1:])
    self.assertEqual(self._videos(), ["moving.gif"])

  def test_what_is_not_used_is_counted_and_named_once(self):
    self._make("a.mp4", "._a.mp4", ".hidden.avi", ".DS_Store", "labels.txt", "b.csv", "c.json", "d.npy", "strange")
    (self.folder / "gone.mp4").symlink_to("nowhere")
    with self.assertLogs("i3d_tf.video.listing") as logs:
      listing.list_folder(self.folder)
    message = (
      f"{self.folder}: not used: 2 hidden files (._a.mp4, .hidden.avi); 1 link to nothing (gone.mp4); "
      "5 files that are no videos (b.csv, c.json, d.npy, ...)"
    )
    self.assertEqual([record.getMessage() for record in logs.records], [message])

  def test_nothing_is_said_where_all_is_used(self):
    self._make("a.mp4", ".DS_Store", "synthetic.json")  # which make_synthetic leaves with its clips
    with self.assertNoLogs("i3d_tf.video.listing"):
      self.assertEqual(self._videos(), ["a.mp4"])

  def test_linked_folders_are_followed_once(self):
    self._make("root/a/v.mp4", "elsewhere/w.mp4")
    root = self.folder / "root"
    (root / "0 to a").symlink_to("a")  # listed under its own path
    (root / "a" / "loop").symlink_to(root)
    (root / "one").symlink_to(self.folder / "elsewhere")
    (root / "two").symlink_to(self.folder / "elsewhere")
    self.assertEqual(self._videos(root), ["a/v.mp4", "one/w.mp4"])

  def test_a_linked_video_is_one(self):
    self._make("root/a.mp4", "b")
    (self.folder / "root" / "l.mp4").symlink_to(self.folder / "b")
    self.assertEqual(self._videos(self.folder / "root"), ["a.mp4", "l.mp4"])

  def test_a_folder_that_cannot_be_read_is_named(self):
    self._make("a.mp4", "closed/b.mp4")
    scandir = os.scandir

    def refuse(path):
      if pathlib.Path(path).name == "closed":
        raise PermissionError(13, "Permission denied", os.fspath(path))
      return scandir(path)

    with absltest.mock.patch.object(os, "scandir", refuse), self.assertLogs("i3d_tf.video.listing") as logs:
      self.assertEqual(self._videos(), ["a.mp4"])
    self.assertIn("1 folder that cannot be read (closed)", logs.output[0])

  def test_further_endings(self):
    self._make("a.mp4", "b.npy")
    self.assertLen(listing.list_folder(self.folder, more=(".npy",)).videos, 2)

  def test_no_video(self):
    self._make("notes.txt", "._a.mp4")
    with self.assertRaisesRegex(
      errors.VideoError, "the folder holds no video .*; it has 1 hidden file .*1 file that is no video .notes"
    ):
      listing.list_folder(self.folder)
    with self.assertRaisesRegex(errors.VideoError, "there is no such folder of videos"):
      listing.list_folder(self.folder / "none")


if __name__ == "__main__":
  absltest.main()
