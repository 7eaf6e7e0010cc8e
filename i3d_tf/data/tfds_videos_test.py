"""Tests of tfds_videos with small datasets that TFDS prepares here: frames, gray frames, video files, no labels."""

import os
import pathlib
import shutil
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from i3d_tf import errors
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import datasets
from i3d_tf.data import tfds_videos
from i3d_tf.video import decode

_CLASSES = ["wave", "jump", "run"]  # not sorted
_NUM_CLIPS = {"train": 7, "test": 3}


def clip(index: int, channels: int = 3) -> np.ndarray:
  """Noise of 3 to 6 frames, uint8 `[T, 24, 32, channels]`; another one for each index."""
  return np.random.default_rng(index).integers(0, 256, [3 + index % 4, 24, 32, channels], np.uint8)


def video_bytes(index: int) -> bytes:
  """An AVI file of 25 frames a second whose brightness tells the index."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "a.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 24))
    for _ in range(5 + index):
      writer.write(np.full([24, 32, 3], 20 * index, np.uint8))
    writer.release()
    return pathlib.Path(path).read_bytes()


class TinyVideos(tfds.core.GeneratorBasedBuilder):
  """Ten clips in each of several forms; keys that are not sorted make TFDS shuffle them."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos = {}  # nothing is downloaded; to look for a list of checksums TFDS needs importlib_resources
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name=name)
    for name in ("frames", "gray", "files", "unlabelled", "images", "deep", "two_videos", "two_labels")
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    label = tfds.features.ClassLabel(names=_CLASSES)
    video = tfds.features.Video(shape=(None, 24, 32, 3))
    features = {
      "frames": {"clip": video, "label": label, "name": tfds.features.Text()},
      "gray": {"video": tfds.features.Video(shape=(None, 24, 32, 1)), "action": label},
      "files": {"video": tfds.features.Tensor(shape=(), dtype=tf.string), "label": label},
      "unlabelled": {"video": video},
      "images": {"image": tfds.features.Image(shape=(24, 32, 3)), "label": label},
      "deep": {"video": tfds.features.Video(shape=(None, 24, 32, 3), dtype=np.uint16), "label": label},
      "two_videos": {"left": video, "right": video},
      "two_labels": {"video": video, "verb": label, "noun": label},
    }[self.builder_config.name]
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager) -> dict:
    del dl_manager
    return {split: self._generate_examples(split) for split in _NUM_CLIPS}

  def _generate_examples(self, split: str):
    for i in range(_NUM_CLIPS[split]):
      index = i + (100 if split == "test" else 0)
      label = -1 if index == 5 else _CLASSES[index % 3]
      yield (
        f"key{index}",
        {
          "frames": {"clip": clip(index), "label": label, "name": str(index)},
          "gray": {"video": clip(index, 1), "action": label},
          "files": {"video": video_bytes(i), "label": label},
          "unlabelled": {"video": clip(index)},
          "images": {"image": clip(index)[0], "label": label},
          "deep": {"video": clip(index).astype(np.uint16), "label": label},
          "two_videos": {"left": clip(index), "right": clip(index)},
          "two_labels": {"video": clip(index), "verb": label, "noun": label},
        }[self.builder_config.name],
      )


class TfdsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enter_context(tempfile.TemporaryDirectory())
    cls.root = pathlib.Path(folder)
    for config in TinyVideos.builder_configs:
      builder = TinyVideos(config=config, data_dir=folder)
      builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=2))

  def load(self, config: str) -> clips_lib.Dataset:
    return datasets.load(f"tfds:tiny_videos/{config}", self.root)

  def originals(self, config: str, split: str) -> list[dict]:
    """The examples as TFDS itself yields them, in the order of the files."""
    builder = TinyVideos(config=config, data_dir=os.fspath(self.root))
    examples = builder.as_dataset(split=split, read_config=tfds.ReadConfig(interleave_cycle_length=1))
    return list(tfds.as_numpy(examples))

  def test_the_listing_is_complete_and_in_order(self):
    dataset = self.load("frames")
    self.assertEqual(dataset.name, "tfds:tiny_videos/frames")
    self.assertEqual(dataset.classes, tuple(_CLASSES))
    self.assertEqual({split: len(clips) for split, clips in dataset.splits.items()}, _NUM_CLIPS)
    self.assertEqual(dataset.missing, {"train": (), "test": ()})
    for split, clips in dataset.splits.items():
      names = [int(example["name"]) for example in self.originals("frames", split)]
      self.assertEqual([one.id for one in clips], [f"{split}/{i:06}" for i in range(len(clips))])
      self.assertEqual([one.label for one in clips], [None if i == 5 else _CLASSES[i % 3] for i in names])
      self.assertEqual(clips[1].path, f"tfds:{self.root}/tiny_videos/frames/1.0.0#{split}/1")
    self.assertEqual(dataset, self.load("frames"))

  def test_every_example_is_read_by_itself_in_any_order(self):
    dataset = self.load("frames")
    seen = []
    for split, clips in dataset.splits.items():
      originals = self.originals("frames", split)
      for i in reversed(range(len(clips))):
        frames = list(clips_lib.iter_frames(clips[i], short_side=None))
        np.testing.assert_array_equal(frames, clip(int(originals[i]["name"])))
        seen.append(int(originals[i]["name"]))
    self.assertEqual(sorted(seen), [*range(7), 100, 101, 102])

  def test_frames_are_resized(self):
    one = self.load("frames").splits["test"][0]
    small = list(clips_lib.iter_frames(one, short_side=12))
    whole = list(clips_lib.iter_frames(one, short_side=None))
    np.testing.assert_array_equal(small, [decode.resize(frame, 12) for frame in whole])
    self.assertEqual(small[0].shape, (12, 16, 3))

  def test_gray_frames_become_rgb(self):
    dataset = self.load("gray")
    self.assertEqual(dataset.classes, tuple(_CLASSES))
    for one, example in zip(dataset.splits["train"], self.originals("gray", "train"), strict=True):
      frames = tfds_videos.read_example(one.path)
      np.testing.assert_array_equal(frames, np.repeat(example["video"], 3, axis=-1))

  def test_video_files_are_decoded(self):
    dataset = self.load("files")
    counts = []
    for one, example in zip(dataset.splits["train"], self.originals("files", "train"), strict=True):
      self.assertEqual(tfds_videos.read_example(one.path), example["video"])
      frames = np.stack(list(clips_lib.iter_frames(one, short_side=12)))
      self.assertEqual(frames.shape[1:], (12, 16, 3))
      self.assertAlmostEqual(float(frames.mean()), 20 * (len(frames) - 5), delta=2)
      counts.append(len(frames))
    self.assertEqual(sorted(counts), [5, 6, 7, 8, 9, 10, 11])
    one = dataset.splits["train"][0]
    self.assertLen(list(clips_lib.iter_frames(one, fps=50, short_side=12)), 2 * counts[0] - 1)

  def test_a_broken_video_file_is_named_by_its_example(self):
    path = self.load("files").splits["train"][2].path
    with absltest.mock.patch.object(tfds_videos, "read_example", return_value=b"no video"):
      with self.assertRaisesRegex(errors.VideoError, f"^{path}: this is not a video"):
        list(clips_lib.iter_frames(clips_lib.Clip("a", path)))

  def test_unlabelled(self):
    dataset = self.load("unlabelled")
    self.assertEqual(dataset.classes, ())
    self.assertEqual({one.label for clips in dataset.splits.values() for one in clips}, {None})
    self.assertLen(dataset.splits["train"], 7)

  @parameterized.parameters(
    ("images", "has 0 video features, not one: "),
    ("two_videos", "has 2 video features, not one: "),
    ("deep", r"the frames are uint16 \(None, 24, 32, 3\); they must be uint8"),
    ("two_labels", "has several class labels: noun, verb$"),
  )
  def test_datasets_that_do_not_fit(self, config, sentence):
    with self.assertRaisesRegex(errors.I3dError, f"^{self.root}/tiny_videos/{config}/1.0.0: .*{sentence}"):
      self.load(config)

  @parameterized.parameters("tiny_videos/none", "tiny_videos/frames:2.0.0", "ucf101/ucf101_1", "none", "a b", "../x")
  def test_not_prepared(self, name):
    with self.assertRaises(errors.I3dError) as caught:
      datasets.load(f"tfds:{name}", self.root)
    command = f"TFDS_DATA_DIR={self.root} tfds build {name}"
    sentence = f"{self.root} holds no prepared TFDS dataset {name}; prepare it with: {command}"
    self.assertEqual(str(caught.exception), sentence)

  def test_an_example_that_is_gone(self):
    path = self.load("frames").splits["test"][0].path
    for place in ("test/3", "val/0"):
      with self.assertRaisesRegex(errors.VideoError, f"#{place}: there is no such example"):
        tfds_videos.read_example(path.replace("test/0", place))

  def test_a_damaged_record(self):
    folder = self.create_tempdir().full_path
    shutil.copytree(self.root, folder, dirs_exist_ok=True)
    clips = datasets.load("tfds:tiny_videos/frames", folder).splits["test"]
    file = max(pathlib.Path(folder).glob("tiny_videos/frames/*/*test*"))
    content = bytearray(file.read_bytes())
    content[-100] ^= 1  # in the last record
    file.write_bytes(content)
    self.assertNotEmpty(list(clips_lib.iter_frames(clips[0])))
    place = f"{folder}/tiny_videos/frames/1.0.0#test"
    with self.assertRaisesRegex(errors.VideoError, rf"^tfds:{place}.2:3.: TFDS cannot read 'clip': .*corrupted rec"):
      list(clips_lib.iter_frames(clips[2]))
    with self.assertRaisesRegex(errors.I3dError, f"^tfds:{place}: TFDS cannot read 'label': .*corrupted record"):
      datasets.load("tfds:tiny_videos/frames", folder)


if __name__ == "__main__":
  absltest.main()
