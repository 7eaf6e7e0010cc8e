"""The videos of a set, the clips that are taken from them, and the function fvd on all kinds of sets."""

import collections
from collections.abc import Callable
import contextlib
import io
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf.frechet import distance
from i3d_tf.frechet import embedding as embedding_lib
from i3d_tf.frechet import embedding_test
from i3d_tf.frechet import fvd


def write_video(path: pathlib.Path, num_frames: int) -> None:
  """A video of 10 gray frames a second, each brighter by 4 than the one before."""
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
  for number in range(num_frames):
    writer.write(np.full((32, 48, 3), 4 * number, np.uint8))
  writer.release()


def gray_levels(clip: np.ndarray) -> list[int]:
  """The frames' numbers in `write_video`'s video."""
  return np.rint(clip.mean((1, 2, 3)) / 4).astype(int).tolist()


def _array(shape: tuple[int, ...], dtype: type) -> Callable[[pathlib.Path], None]:
  return lambda path: np.save(path, np.zeros(shape, dtype))


def _write_archive(path: pathlib.Path) -> None:
  with path.open("wb") as file:
    np.savez(file, clip=np.zeros(3))


class FolderTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)


class SourcesTest(FolderTestCase):
  def _names(self, root, **options):
    return [source.name for source in fvd.list_sources(root, protocols.FvdConfig(**options))]

  def test_folder_file_and_array(self):
    (self.folder / "b").mkdir()
    for name in ("b/z.MP4", "c.avi", "notes.txt"):
      (self.folder / name).touch()
    np.save(self.folder / "a.npy", np.zeros((3, 9, 4, 4, 3), np.uint8))
    np.save(self.folder / "d.npy", np.zeros((9, 4, 4, 3), np.uint8))
    self.assertEqual(self._names(self.folder), ["a.npy[0]", "a.npy[1]", "a.npy[2]", "b/z.MP4", "c.avi", "d.npy"])
    self.assertEqual(self._names(self.folder / "a.npy"), ["a.npy[0]", "a.npy[1]", "a.npy[2]"])
    self.assertEqual(self._names(self.folder / "c.avi"), ["c.avi"])

  def test_max_clips_are_drawn(self):
    for number in range(20):
      (self.folder / f"{number:02}.mp4").touch()
    drawn = [self._names(self.folder, max_clips=8, seed=seed) for seed in (0, 0, 1)]
    self.assertEqual(drawn[0], drawn[1])
    self.assertNotEqual(drawn[0], drawn[2])
    for names in drawn:
      self.assertLen(set(names), 8)
      self.assertEqual(names, sorted(names))
    self.assertLen(self._names(self.folder, max_clips=20), 20)
    with self.assertRaisesRegex(errors.I3dError, "has 20 videos, fewer than max_clips, 21"):
      self._names(self.folder, max_clips=21)

  def test_nothing_there(self):
    with self.assertRaisesRegex(errors.I3dError, "none: there is no such file or folder"):
      self._names(self.folder / "none")
    with self.assertRaisesRegex(errors.I3dError, "the folder holds no video .* .npy "):
      self._names(self.folder)


class ClipTest(FolderTestCase):
  def test_every_run_is_as_likely(self):
    rng = np.random.default_rng(0)
    counts = collections.Counter()
    for _ in range(1800):
      window, total = fvd._random_window(iter(range(12)), 4, rng)
      self.assertEqual(total, 12)
      self.assertEqual(window, list(range(window[0], window[0] + 4)))
      counts[window[0]] += 1
    self.assertEqual(sorted(counts), list(range(9)))
    self.assertLess(sum((count - 200) ** 2 / 200 for count in counts.values()), 20)  # chi-squared of 8 degrees: 99 %

  def test_too_few_frames_and_just_enough(self):
    rng = np.random.default_rng(0)
    self.assertEqual(fvd._random_window(iter(range(3)), 4, rng), (None, 3))
    self.assertEqual(fvd._random_window(iter(range(4)), 4, rng), ([0, 1, 2, 3], 4))
    self.assertEqual(fvd._random_window(iter(()), 4, rng), (None, 0))

  def test_video_at_its_own_rate_and_at_another(self):
    path = self.folder / "gray.avi"
    write_video(path, 24)
    source = fvd._Source("gray.avi", path)
    read = lambda **options: gray_levels(fvd.read_clip(source, protocols.FvdConfig(**options)))
    self.assertEqual(read(num_frames=24), list(range(24)))
    self.assertEqual(read(num_frames=12, fps=5), list(range(0, 24, 2)))
    self.assertEqual(fvd.read_clip(source, protocols.FvdConfig()).shape, (16, 32, 48, 3))
    start = read(num_frames=9)[0]
    self.assertEqual(read(num_frames=9), list(range(start, start + 9)))

  def test_start_is_of_seed_and_name(self):
    array = np.arange(200, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones((4, 6, 3), np.uint8)
    path = self.folder / "many.npy"
    np.save(path, np.stack([array, array]))
    start = lambda index, seed: fvd.read_clip(
      fvd.list_sources(path, protocols.FvdConfig())[index], protocols.FvdConfig(seed=seed)
    )[0, 0, 0, 0]
    self.assertEqual(start(0, 0), start(0, 0))
    self.assertLen({start(0, 0), start(1, 0), start(0, 1), start(1, 1)}, 4)
    clip = fvd.read_clip(fvd.list_sources(path, protocols.FvdConfig())[1], protocols.FvdConfig())
    np.testing.assert_array_equal(clip, array[clip[0, 0, 0, 0] :][:16])

  @parameterized.named_parameters(
    ("short", _array((2, 15, 4, 4, 3), np.uint8), r"x.npy\[0\]: the video has 15 frames, fewer than num_frames, 16"),
    ("of_floats", _array((16, 4, 4, 3), np.float64), r"the array is float64 \[16, 4, 4, 3\]; it must be uint8"),
    ("gray", _array((16, 4, 4, 1), np.uint8), r"the array is uint8 \[16, 4, 4, 1\]; it must be uint8"),
    ("flat", _array((16, 3), np.uint8), r"the array is uint8 \[16, 3\]; it must be uint8"),
    ("text", lambda path: path.write_text("no array"), "not an array in NumPy's .npy format"),
    ("empty", lambda path: path.touch(), "not an array in NumPy's .npy format"),
    ("archive", _write_archive, "this is an .npz archive; it must be one array"),
  )
  def test_bad_array(self, write, sentence):
    path = self.folder / "x.npy"
    write(path)
    source = fvd.list_sources(path, protocols.FvdConfig())[0]
    with self.assertRaisesRegex(errors.I3dError, f"^{path}.*") as raised:
      fvd.read_clip(source, protocols.FvdConfig())
    self.assertRegex(str(raised.exception), sentence)

  def test_what_there_is_of_a_damaged_video(self):
    path = self.folder / "gray.avi"
    write_video(path, 40)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    source = fvd._Source("gray.avi", path)
    with self.assertRaisesRegex(errors.VideoError, "damaged or incomplete"):
      fvd.read_clip(source, protocols.FvdConfig())
    with self.assertLogs("i3d_tf.video.frames", "WARNING") as logs:
      clip = fvd.read_clip(source, protocols.FvdConfig(allow_damaged=True))
    np.testing.assert_array_equal(np.diff(gray_levels(clip)), 1)
    self.assertRegex(logs.output[0], "gray.avi: damaged: only [0-9]+ of 40 frames can be decoded")

  def test_short_video(self):
    path = self.folder / "gray.avi"
    write_video(path, 12)
    with self.assertRaisesRegex(errors.I3dError, "gray.avi: the video has 12 frames, fewer than num_frames, 16"):
      fvd.read_clip(fvd._Source("gray.avi", path), protocols.FvdConfig())


class FvdTest(FolderTestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.network = pathlib.Path(folder.name)
    embedding_test.save_tiny_network(cls.network)

  def setUp(self):
    super().setUp()
    self.clips = np.random.default_rng(0).integers(0, 256, (7, 10, 8, 8, 3), np.uint8)
    for name, clips in (("real", self.clips[:3]), ("generated", self.clips[3:])):
      (self.folder / name).mkdir()
      np.save(self.folder / name / "clips.npy", clips)

  def _fvd(self, real, generated, **options):
    in_folder = lambda videos: self.folder / videos if isinstance(videos, str) else videos
    options = {"num_frames": 10, "resamples": 5, "checkpoint": self.network, **options}
    return fvd.fvd(in_folder(real), in_folder(generated), **options)

  def test_folders_files_arrays_and_statistics_give_the_same(self):
    expected = self._fvd("real", "generated")
    self.assertGreater(expected.fvd, 0.01)
    self.assertEqual(expected.clips, {"real": 3, "generated": 4})
    self.assertEqual(self._fvd(self.clips[:3], self.clips[3:]), expected)
    self.assertEqual(self._fvd("real", None, save_stats=self.folder / "real.npz").distances, {})
    self.assertEqual(self._fvd("real.npz", "generated"), expected)
    self._fvd("generated", None, save_stats=self.folder / "generated.npz")
    for progress in (False, True):  # prints nothing unless asked to
      stdout, stderr = io.StringIO(), io.StringIO()
      with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        self.assertEqual(self._fvd("real.npz", "generated.npz", progress=progress), expected)
      self.assertEqual(stdout.getvalue(), "")
      self.assertEqual("interval: 100%" in stderr.getvalue(), progress)

  def test_batches_do_not_matter_and_order_stays(self):
    embedding = embedding_lib.FvdEmbedding(self.network)
    features = {}
    for batch in (1, 2, 8):
      self._fvd("generated", None, batch=batch, save_stats=self.folder / "a.npz")
      features[batch] = distance.load(self.folder / "a.npz")[0]["rgb"]
    self.assertEqual(features[1].shape, (4, 5))
    self.assertGreater(np.ptp(features[1], axis=0).min(), 0.01)
    np.testing.assert_allclose(features[2], features[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features[8], features[1], rtol=1e-5, atol=1e-5)
    last = embedding(embedding.prepare(self.clips[6])[np.newaxis])
    np.testing.assert_allclose(features[1][3:], last, rtol=1e-5, atol=1e-5)

  def test_videos_that_fail_are_named_and_the_others_used(self):
    (self.folder / "set").mkdir()
    for name, frames in (("a", 10), ("b", 9), ("d", 10)):
      np.save(self.folder / "set" / f"{name}.npy", np.full((frames, 4, 4, 3), ord(name), np.uint8))
    (self.folder / "set" / "c.mp4").write_text("no video")
    named = []
    result = self._fvd("set", None, save_stats=self.folder / "a.npz", on_failure=named.append)
    self.assertLen(named, 2)
    self.assertRegex(named[0], "set/b.npy: the video has 9 frames, fewer than num_frames, 10$")
    self.assertRegex(named[1], "set/c.mp4: this is not a video")
    self.assertEqual((result.clips, result.failed), ({"real": 2}, {"real": 2}))
    embedding = embedding_lib.FvdEmbedding(self.network)
    clips = [embedding.prepare(np.full((10, 4, 4, 3), ord(name), np.uint8)) for name in "ad"]
    features, facts = distance.load(self.folder / "a.npz")
    np.testing.assert_allclose(features["rgb"], embedding(np.stack(clips)), rtol=1e-5, atol=1e-5)
    self.assertEqual(facts["failed"], 2)

  def test_no_video_can_be_used(self):
    sentence = "real: FVD needs at least 2 videos that can be used, and of its 2 it has 0 .*9 frames, fewer than num_fr"
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self._fvd(np.zeros((2, 9, 4, 4, 3), np.uint8), "generated")

  @parameterized.parameters(
    ({"generated": None}, "generated is missing; only with save_stats it may be"),
    ({"resamples": 1}, "resamples is 1; an interval needs at least 2"),
    ({"num_frames": 8}, "num_frames is 8; it must be a whole number, at least 9"),
    ({"real": "a.npz", "save_stats": "b.npz"}, "real is statistics already"),
    ({"save_stats": "stats"}, "save_stats is stats; the file's name must end in .npz"),
    ({"real": "none"}, "none: there is no such file or folder"),
    ({"max_clips": 4}, "real has 3 videos, fewer than max_clips, 4"),
    ({"real": np.zeros((2, 10, 4, 4), np.uint8)}, "the videos: the array is uint8 .2, 10, 4, 4.; it must be uint8"),
    ({"checkpoint": {"flow": "x"}, "num_frames": 9}, "num_frames is 9; clips for flow need at least 10"),
    ({"checkpoint": {"depth": "x"}}, "checkpoint is of depth; give rgb, flow or both"),
  )
  def test_options_that_do_not_go_together(self, given, sentence):
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self._fvd(**{"real": "real", "generated": "generated", **given})


class FactsTest(parameterized.TestCase):
  FACTS = {"weights": {"rgb": "01", "flow": "02"}, "resize": distance.RESIZE, "num_frames": 16, "fps": None}

  def test_agreeing(self):
    fvd._check_comparable(self.FACTS, self.FACTS, path="a.npz")
    fvd._check_comparable(self.FACTS, self.FACTS | {"weights": {"rgb": "01"}}, path="a.npz")

  @parameterized.parameters(
    ({"weights": {"rgb": "03", "flow": "02"}}, "a.npz is of other rgb weights: their CRC-32 is 03, not 01"),
    ({"weights": {"rgb": "01"}}, "a.npz has no statistics of flow; make them again with a checkpoint of flow"),
    ({"num_frames": 15}, "a.npz cannot be compared: its num_frames is 15, not 16"),
    ({"fps": 25.0}, "a.npz cannot be compared: its fps is 25.0, not None"),
    ({"resize": "bicubic"}, "a.npz cannot be compared: its resize is bicubic"),
  )
  def test_disagreeing(self, difference, sentence):
    with self.assertRaisesRegex(errors.I3dError, f"^{sentence}"):
      fvd._check_comparable(self.FACTS | difference, self.FACTS, path="a.npz")


if __name__ == "__main__":
  absltest.main()
