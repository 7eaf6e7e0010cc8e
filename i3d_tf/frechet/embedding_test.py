"""FVD: the clips, the published embedding, and what it says of real clips."""

import collections
from collections.abc import Callable
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.frechet import distance
from i3d_tf.frechet import embedding as embedding_lib
from i3d_tf.weights import release
from i3d_tf.weights import saved


def save_tiny_network(folder: pathlib.Path, stream: str = "rgb", seed: int = 0) -> None:
  """A network of five classes with made weights."""
  info = saved.make_info(stream=stream, num_classes=5, width_multiplier=0.05)
  model = saved.make_model(info)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(f"{seed}/{name}", tuple(variable.shape)))
  saved.save(folder, model, info)


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
    return [source.name for source in embedding_lib.list_sources(root, embedding_lib.Options(**options))]

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
    with self.assertRaisesRegex(errors.I3dError, "has 20 videos, fewer than --max_clips=21"):
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
      window, total = embedding_lib.random_window(iter(range(12)), 4, rng)
      self.assertEqual(total, 12)
      self.assertEqual(window, list(range(window[0], window[0] + 4)))
      counts[window[0]] += 1
    self.assertEqual(sorted(counts), list(range(9)))
    self.assertLess(sum((count - 200) ** 2 / 200 for count in counts.values()), 20)  # chi-squared of 8 degrees: 99 %

  def test_too_few_frames_and_just_enough(self):
    rng = np.random.default_rng(0)
    self.assertEqual(embedding_lib.random_window(iter(range(3)), 4, rng), (None, 3))
    self.assertEqual(embedding_lib.random_window(iter(range(4)), 4, rng), ([0, 1, 2, 3], 4))
    self.assertEqual(embedding_lib.random_window(iter(()), 4, rng), (None, 0))

  def test_video_at_its_own_rate_and_at_another(self):
    path = self.folder / "gray.avi"
    write_video(path, 24)
    source = embedding_lib.Source("gray.avi", path)
    read = lambda **options: gray_levels(embedding_lib.read_clip(source, embedding_lib.Options(**options)))
    self.assertEqual(read(num_frames=24), list(range(24)))
    self.assertEqual(read(num_frames=12, fps=5), list(range(0, 24, 2)))
    self.assertEqual(embedding_lib.read_clip(source, embedding_lib.Options()).shape, (16, 32, 48, 3))
    start = read(num_frames=9)[0]
    self.assertEqual(read(num_frames=9), list(range(start, start + 9)))

  def test_start_is_of_seed_and_name(self):
    array = np.arange(200, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones((4, 6, 3), np.uint8)
    path = self.folder / "many.npy"
    np.save(path, np.stack([array, array]))
    start = lambda index, seed: embedding_lib.read_clip(
      embedding_lib.list_sources(path, embedding_lib.Options())[index], embedding_lib.Options(seed=seed)
    )[0, 0, 0, 0]
    self.assertEqual(start(0, 0), start(0, 0))
    self.assertLen({start(0, 0), start(1, 0), start(0, 1), start(1, 1)}, 4)
    clip = embedding_lib.read_clip(
      embedding_lib.list_sources(path, embedding_lib.Options())[1], embedding_lib.Options()
    )
    np.testing.assert_array_equal(clip, array[clip[0, 0, 0, 0] :][:16])

  @parameterized.named_parameters(
    ("short", _array((2, 15, 4, 4, 3), np.uint8), r"x.npy\[0\]: the video has 15 frames; the clips are of 16"),
    ("of_floats", _array((16, 4, 4, 3), np.float64), r"the array is float64 \[16, 4, 4, 3\]; it must be uint8"),
    ("gray", _array((16, 4, 4, 1), np.uint8), r"the array is uint8 \[16, 4, 4, 1\]; it must be uint8"),
    ("flat", _array((16, 3), np.uint8), r"the array is uint8 \[16, 3\]; it must be uint8"),
    ("text", lambda path: path.write_text("no array"), "not an array in NumPy's .npy format"),
    ("empty", lambda path: path.touch(), "not an array in NumPy's .npy format"),
    ("archive", _write_archive, "this is an .npz archive; it must be uint8"),
  )
  def test_bad_array(self, write, sentence):
    path = self.folder / "x.npy"
    write(path)
    source = embedding_lib.list_sources(path, embedding_lib.Options())[0]
    with self.assertRaisesRegex(errors.I3dError, f"^{path}.*") as raised:
      embedding_lib.read_clip(source, embedding_lib.Options())
    self.assertRegex(str(raised.exception), sentence)

  def test_short_video(self):
    path = self.folder / "gray.avi"
    write_video(path, 12)
    with self.assertRaisesRegex(errors.I3dError, "gray.avi: the video has 12 frames; .* of 16"):
      embedding_lib.read_clip(embedding_lib.Source("gray.avi", path), embedding_lib.Options())


class ResizeTest(absltest.TestCase):
  def test_is_the_rule_of_tensorflow_1(self):
    columns = np.arange(112, dtype=np.uint8)
    rows = np.arange(448) // 2
    frames = np.zeros((2, 448, 112, 3), np.uint8)
    frames[0, :, :, 0] = 2 * columns
    frames[1, :, :, 1] = rows[:, np.newaxis]
    resized = embedding_lib.resize(frames).numpy()
    # Pixel i of the result is at i * 112 / 224 and i * 448 / 224: half-pixel centres would give -0.25 and 0.5 at 0.
    across = np.minimum(np.arange(224), 222)
    np.testing.assert_array_equal(resized[0, :, :, 0], np.broadcast_to(across, (224, 224)))
    np.testing.assert_array_equal(resized[1, :, :, 1], np.broadcast_to(np.arange(224)[:, np.newaxis], (224, 224)))
    self.assertEqual(resized[0, :, :, 1:].max(), 0)


class EmbeddingTest(FolderTestCase):
  def _embedding(self, stream="rgb"):
    save_tiny_network(self.folder / stream, stream)
    return embedding_lib.Embedding(self.folder / stream, stream)

  def test_input_is_in_minus_one_to_one(self):
    frames = np.array([0, 51, 255], np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones((4, 6, 3), np.uint8)
    clip = self._embedding().prepare(frames)
    self.assertEqual(clip.shape, (3, 224, 224, 3))
    np.testing.assert_allclose(clip[:, 7, 9, 1], [-1, -0.6, 1], atol=1e-6)

  def test_flow_of_the_resized_frames(self):
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (112, 140, 3)).astype(np.uint8), (0, 0), 3)
    noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    frames = np.stack([noise[:, 2 * time : 112 + 2 * time] for time in range(3)])  # to the left, 4 px at 224
    clip = self._embedding("flow").prepare(frames)
    self.assertEqual((clip.shape, clip.dtype), ((2, 224, 224, 2), np.float32))
    np.testing.assert_allclose(np.median(clip, axis=(0, 1, 2)), [-4 / 20, 0], atol=0.01)

  def test_batches_do_not_matter_and_order_stays(self):
    embedding = self._embedding()
    np.save(self.folder / "x.npy", np.random.default_rng(0).integers(0, 255, (5, 9, 8, 8, 3), np.uint8))
    options = embedding_lib.Options(num_frames=9)
    sources = embedding_lib.list_sources(self.folder / "x.npy", options)
    embed = lambda batch: embedding_lib.embed(sources, [embedding], options, batch=batch, on_failure=self.fail)["rgb"]
    alone, pairs, together = embed(1), embed(2), embed(8)
    self.assertEqual(alone.shape, (5, 5))
    self.assertGreater(np.ptp(alone, axis=0).min(), 0.01)
    np.testing.assert_allclose(pairs, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    last = embedding(embedding.prepare(np.load(self.folder / "x.npy")[4])[np.newaxis])
    np.testing.assert_allclose(alone[4:], last, rtol=1e-5, atol=1e-5)

  def test_videos_that_fail_are_named_and_the_others_used(self):
    (self.folder / "set").mkdir()
    for name, frames in (("a", 9), ("b", 8), ("d", 9)):
      np.save(self.folder / "set" / f"{name}.npy", np.full((frames, 4, 4, 3), ord(name), np.uint8))
    (self.folder / "set" / "c.mp4").write_text("no video")
    options = embedding_lib.Options(num_frames=9)
    named = []
    embedding = self._embedding()
    features = embedding_lib.embed(
      embedding_lib.list_sources(self.folder / "set", options), [embedding], options, batch=8, on_failure=named.append
    )
    self.assertLen(named, 2)
    self.assertRegex(named[0], "set/b.npy: the video has 8 frames; the clips are of 9, see --num_frames$")
    self.assertRegex(named[1], "set/c.mp4: this is not a video")
    clips = [embedding.prepare(np.full((9, 4, 4, 3), ord(name), np.uint8)) for name in "ad"]
    np.testing.assert_allclose(features["rgb"], embedding(np.stack(clips)), rtol=1e-5, atol=1e-5)

  def test_no_video_can_be_used(self):
    embedding = self._embedding()
    np.save(self.folder / "x.npy", np.zeros((2, 8, 4, 4, 3), np.uint8))
    options = embedding_lib.Options(num_frames=9)
    sources = embedding_lib.list_sources(self.folder / "x.npy", options)
    features = embedding_lib.embed(sources, [embedding], options, batch=8, on_failure=lambda message: None)
    self.assertEqual(features["rgb"].shape, (0, 5))

  def test_network_of_another_stream(self):
    save_tiny_network(self.folder / "flow", "flow")
    with self.assertRaisesRegex(errors.I3dError, "is a network i3d of stream flow; FVD needs an i3d of stream rgb"):
      embedding_lib.Embedding(self.folder / "flow")

  def test_other_weights_have_another_digest(self):
    digests = []
    for seed in (0, 1, 0):
      save_tiny_network(self.folder / "rgb", seed=seed)
      digests.append(embedding_lib.Embedding(self.folder / "rgb").weights)
    self.assertEqual(digests[0], digests[2])
    self.assertNotEqual(digests[0], digests[1])


class FactsTest(parameterized.TestCase):
  FACTS = {"weights": {"rgb": "01", "flow": "02"}, "resize": embedding_lib.RESIZE, "num_frames": 16, "fps": None}

  def test_agreeing(self):
    embedding_lib.check_comparable(self.FACTS, self.FACTS, path="a.npz")
    embedding_lib.check_comparable(self.FACTS, self.FACTS | {"weights": {"rgb": "01"}}, path="a.npz")

  @parameterized.parameters(
    ({"weights": {"rgb": "03", "flow": "02"}}, "a.npz is of other rgb weights: their CRC-32 is 03, not 01"),
    ({"weights": {"rgb": "01"}}, "a.npz has no statistics of flow; make them again with --flow_checkpoint"),
    ({"num_frames": 15}, "a.npz cannot be compared: its num_frames is 15, not 16"),
    ({"fps": 25.0}, "a.npz cannot be compared: its fps is 25.0, not None"),
    ({"resize": "bicubic"}, "a.npz cannot be compared: its resize is bicubic"),
  )
  def test_disagreeing(self, difference, sentence):
    with self.assertRaisesRegex(errors.I3dError, f"^{sentence}"):
      embedding_lib.check_comparable(self.FACTS | difference, self.FACTS, path="a.npz")

  @parameterized.parameters((9, ("rgb",)), (10, ("rgb", "flow")))
  def test_enough_frames(self, num_frames, streams):
    embedding_lib.check_frames(embedding_lib.Options(num_frames=num_frames), streams)
    with self.assertRaisesRegex(errors.I3dError, f"clips for {streams[-1]} need at least {num_frames}"):
      embedding_lib.check_frames(embedding_lib.Options(num_frames=num_frames - 1), streams[-1:])


class PublishedTest(absltest.TestCase):
  """With the network of the published metric."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.embedding = embedding_lib.Embedding("rgb_scratch")

  def _gaussian(self, clips):
    return distance.fit(np.concatenate([self.embedding(self.embedding.prepare(clip)[np.newaxis]) for clip in clips]))

  def test_black_against_white(self):
    black, white = (self._gaussian([np.full((15, 64, 64, 3), value, np.uint8)] * 2) for value in (0, 255))
    measured = distance.distance(black, white)
    self.assertAlmostEqual(measured.mean_term, 133.909, delta=1e-3)
    self.assertAlmostEqual(measured.covariance_term, 0, delta=1e-6)

  def test_weights_are_the_published(self):
    self.assertEqual(self.embedding.weights, embedding_lib.PUBLISHED_WEIGHTS)

  def test_noise_on_real_clips_increases_it(self):
    names = ("Diving/v_Diving_g02_c02", "JavelinThrow/v_JavelinThrow_g05_c05", "Biking/v_Biking_g05_c02")
    paths = [testing.shared(f"clips/ucf101/{name}.avi") for name in names]
    clips = [
      embedding_lib.read_clip(embedding_lib.Source(path.name, path), embedding_lib.Options(num_frames=9))
      for path in paths
    ]
    noise = np.random.default_rng(0).standard_normal((len(clips), *clips[0].shape))
    noisy = lambda level: np.clip(np.rint(np.stack(clips) + level * noise), 0, 255).astype(np.uint8)
    reference = self._gaussian(clips)
    figures = [distance.distance(reference, self._gaussian(noisy(level))).total for level in (0, 8, 24, 72)]
    self.assertLess(abs(figures[0]), 1e-3)
    self.assertEqual(figures, sorted(figures))
    self.assertGreater(np.diff(figures).min(), 1, figures)


if __name__ == "__main__":
  absltest.main()
