"""FVD: the published embedding, what it says about real clips, and the accumulator."""

import io
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf

import i3d_tf
from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.frechet import accumulator as accumulator_lib
from i3d_tf.frechet import clips_test
from i3d_tf.frechet import distance
from i3d_tf.frechet import embedding as embedding_lib
from i3d_tf.frechet import fvd
from i3d_tf.frechet import measures
from i3d_tf.frechet import protocols
from i3d_tf.weights import release
from i3d_tf.weights import saved


def save_tiny_network(folder: pathlib.Path, stream: str = "rgb", seed: int = 0) -> None:
  """A network of five classes with made weights."""
  info = saved.make_info(stream=stream, num_classes=5, width_multiplier=0.05)
  model = saved.make_model(info)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(f"{seed}/{name}", tuple(variable.shape)))
  saved.save(folder, model, info)


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

  def test_half_pixel_centres_are_those_of_pytorch(self):
    # interpolate([0, 1, ..., 111], 224, mode="bilinear", align_corners=False): pixel i is at (i + 0.5) / 2 - 0.5.
    frames = np.broadcast_to(np.arange(112, dtype=np.float32)[np.newaxis, np.newaxis, :, np.newaxis], (1, 4, 112, 3))
    resized = embedding_lib.resize(frames, "half_pixel").numpy()
    np.testing.assert_allclose(resized[0, 9, :, 1], np.clip(np.arange(224) / 2 - 0.25, 0, 111), atol=1e-5)


class EmbeddingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def _embedding(self, stream="rgb"):
    save_tiny_network(self.folder / stream, stream)
    return embedding_lib.FvdEmbedding(self.folder / stream, stream)

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

  def test_network_of_another_stream(self):
    save_tiny_network(self.folder / "flow", "flow")
    with self.assertRaisesRegex(errors.I3dError, "is a network i3d of stream flow; FVD needs an i3d of stream rgb"):
      embedding_lib.FvdEmbedding(self.folder / "flow")

  def test_other_weights_have_another_digest(self):
    digests = []
    for seed in (0, 1, 0):
      save_tiny_network(self.folder / "rgb", seed=seed)
      digests.append(embedding_lib.FvdEmbedding(self.folder / "rgb").weights)
    self.assertEqual(digests[0], digests[2])
    self.assertNotEqual(digests[0], digests[1])


class AccumulatorTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.path = pathlib.Path(folder.name)
    save_tiny_network(cls.path / "rgb")
    save_tiny_network(cls.path / "other", seed=1)
    rng = np.random.default_rng(0)
    cls.real, cls.generated = (
      rng.integers(0, 256, (4, 9, 8, 8, 3), np.uint8),
      rng.integers(0, 99, (3, 9, 6, 8, 3), np.uint8),
    )
    cls.whole = cls.accumulate((cls.real, True), (cls.generated, False))

  @classmethod
  def accumulate(cls, *updates, **options):
    accumulator = accumulator_lib.FvdAccumulator(cls.path / "rgb", **options)
    for clips, real in updates:
      accumulator.update(clips, real=real)
    return accumulator

  def _assert_equal(self, result, expected=None):
    expected = expected or self.whole.compute()
    self.assertEqual(result.clips, expected.clips)
    self.assertEqual(result.weights, expected.weights)
    self.assertEqual(result.num_frames, 9)
    self.assertAlmostEqual(result.fvd, expected.fvd, delta=1e-5 * expected.fvd)

  def test_batches_and_order_do_not_matter(self):
    self.assertGreater(self.whole.compute().fvd, 0.01)
    self.assertEqual(self.whole.compute().clips, {"real": 4, "generated": 3})
    mixed = self.accumulate(
      (self.real[:1], True), (list(self.generated), False), (self.real[3:], True), (self.real[1:3], True), batch=1
    )
    self._assert_equal(mixed.compute())

  def test_it_is_the_distance_of_fvd(self):
    result = fvd.fvd(self.real, self.generated, checkpoint=self.path / "rgb", num_frames=9, resamples=0)
    self._assert_equal(self.whole.compute(), result)

  def test_merged_it_is_the_whole(self):
    first = self.accumulate((self.real[:2], True))
    first.merge(self.accumulate((self.real[2:], True), (self.generated, False)))
    self._assert_equal(first.compute())

  @parameterized.parameters(False, True)
  def test_state_goes_through_a_file(self, keep_features):
    first = self.accumulate((self.real[:2], True), (self.generated[:1], False), keep_features=keep_features)
    file = io.BytesIO()
    np.savez(file, **first.state())
    file.seek(0)
    with np.load(file, allow_pickle=False) as state:
      second = accumulator_lib.FvdAccumulator.from_state(state, checkpoint=self.path / "rgb")
    second.update(self.real[2:], real=True)
    second.update(self.generated[1:], real=False)
    self._assert_equal(second.compute())
    if keep_features:
      self.assertIsNotNone(second.compute(resamples=2).intervals["rgb"])

  def test_floats_other_layouts_and_protocols(self):
    floats = self.accumulate(
      (self.real.transpose(0, 4, 1, 2, 3) / np.float32(255), True), (list(self.generated), False), value_range="0_1"
    )
    self.assertEqual(floats.compute().fvd, self.whole.compute().fvd)
    other = self.accumulate((self.real, True), (self.generated, False), protocol=protocols.Protocol(num_frames=9))
    self.assertEqual(other.compute().fvd, self.whole.compute().fvd)
    half_pixel = protocols.Protocol(num_frames=9, resize="half_pixel")
    with self.assertRaisesRegex(errors.I3dError, "the protocols differ: resize is tensorflow, not half_pixel"):
      self.accumulate(protocol=half_pixel).merge(self.whole)
    with self.assertRaisesRegex(errors.I3dError, "the protocols differ: resize is tensorflow, not half_pixel"):
      accumulator_lib.FvdAccumulator.from_state(self.whole.state(), checkpoint=self.path / "rgb", protocol=half_pixel)
    with self.assertRaisesRegex(errors.I3dError, "clips have 9 and 16 frames"):
      self.accumulate((self.real, True), protocol="stylegan_v")

  def test_measures(self):
    kept = self.accumulate((self.real, True), (self.generated, False), keep_features=True)
    found = kept.compute(measures=["kvd"]).measures["rgb"]
    features = [kept.features(real=real)["rgb"] for real in (True, False)]
    self.assertEqual(found.kvd, measures.kernel_distance(*features))
    self.assertIsNone(found.precision)
    with self.assertRaisesRegex(errors.I3dError, "they are kept only with keep_features"):
      self.whole.compute(measures=["kvd"])

  def test_in_a_graph_with_gradients(self):
    network = embedding_lib.FvdEmbedding(self.path / "rgb")
    expected = network(np.stack([network.prepare(clip) for clip in self.real]))
    in_graph = tf.function(lambda videos: network.logits(videos) * 2)
    np.testing.assert_allclose(in_graph(self.real), 2 * expected, rtol=1e-5, atol=1e-5)
    videos = tf.Variable(self.real.astype(np.float32))
    with tf.GradientTape() as tape:
      total = tf.reduce_sum(network.logits(videos))
    self.assertGreater(float(tf.reduce_max(tf.abs(tape.gradient(total, videos)))), 0)

  def test_state_of_other_weights_is_refused(self):
    state = self.accumulate((self.real[:1], True)).state()
    other = accumulator_lib.FvdAccumulator.from_state(state, checkpoint=self.path / "other")
    with self.assertRaisesRegex(errors.I3dError, "the clips of rgb were embedded by other weights: CRC-32 "):
      other.update(self.real, real=True)
    with self.assertRaisesRegex(errors.I3dError, "the state has no statistics of flow"):
      accumulator_lib.FvdAccumulator.from_state(state, checkpoint={"flow": "x"})

  def test_what_cannot_be_added(self):
    accumulator = self.accumulate((self.real[:1], True))
    for clips, sentence in (
      (np.zeros((1, 10, 8, 8, 3), np.uint8), "clips have 9 and 10 frames; FVD compares clips of one length"),
      (
        np.zeros((1, 9, 8, 8, 3), np.float32),
        r"clips\[0\]: the clip is floating point .*; state its range",
      ),
      (np.zeros((9, 8, 8, 3), np.uint8), r"clips: the array is uint8 \[8, 8, 3\]; it must be"),
    ):
      with self.assertRaisesRegex(errors.I3dError, sentence):
        accumulator.update(clips, real=True)
    with self.assertRaisesRegex(errors.I3dError, "num_frames is 8; clips for rgb need at least 9"):
      self.accumulate((self.real[:, :8], True))
    with self.assertRaisesRegex(errors.I3dError, "the streams differ: rgb and flow"):
      accumulator.merge(accumulator_lib.FvdAccumulator({"flow": "x"}))
    with self.assertRaisesRegex(errors.I3dError, "checkpoint is of no stream; give rgb, flow or both"):
      accumulator_lib.FvdAccumulator({})

  def test_what_cannot_be_computed(self):
    with self.assertRaisesRegex(errors.I3dError, "at least 2 clips; there are 0"):
      self.accumulate((self.real, True)).compute()
    with self.assertRaisesRegex(errors.I3dError, "there are no features of real clips; they are kept only with keep_"):
      self.whole.compute(resamples=2)


class FramesTest(parameterized.TestCase):
  @parameterized.parameters((9, ("rgb",)), (10, ("rgb", "flow")))
  def test_enough_frames(self, num_frames, streams):
    embedding_lib.check_frames(num_frames, streams)
    with self.assertRaisesRegex(errors.I3dError, f"clips for {streams[-1]} need at least {num_frames}"):
      embedding_lib.check_frames(num_frames - 1, streams[-1:])


class PublishedTest(absltest.TestCase):
  """With the network of the published metric."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.embedding = embedding_lib.FvdEmbedding("rgb_scratch")

  def _gaussian(self, clips):
    return distance.fit(np.concatenate([self.embedding(self.embedding.prepare(clip)[np.newaxis]) for clip in clips]))

  def test_black_against_white(self):
    black, white = (self._gaussian([np.full((15, 64, 64, 3), value, np.uint8)] * 2) for value in (0, 255))
    measured = distance.distance(black, white)
    self.assertAlmostEqual(measured.mean_term, 133.909, delta=1e-3)
    self.assertAlmostEqual(measured.covariance_term, 0, delta=1e-6)

  def test_black_against_white_by_the_function_and_by_the_accumulator(self):
    black, white = (np.full((2, 15, 64, 64, 3), value, np.uint8) for value in (0, 255))
    result = fvd.fvd(black, white, num_frames=15, resamples=0)
    self.assertEqual(f"{result.fvd:.3f}", "133.909")
    accumulator = accumulator_lib.FvdAccumulator()
    accumulator.update(black[:1], real=True)
    accumulator.update(black[1:], real=True)
    accumulator.update(white, real=False)
    self.assertEqual(f"{accumulator.compute().fvd:.3f}", "133.909")

  def test_published_figure_of_the_reference_program(self):
    # JunyaoHu/common_metrics_on_video_quality README.md: 8 clips of 30 frames of 64x64, zeros against ones. The clips
    # of a set are equal, so that two give the same.
    black, white = (np.full((2, 30, 64, 64, 3), value, np.float32) for value in (0, 1))
    result = i3d_tf.fvd(black, white, num_frames=30, resamples=0, value_range="0_1")
    # The network's float32 differs between processors: 2.5e-7 off on an Intel Xeon, 1.2e-6 on an AMD EPYC.
    self.assertAlmostEqual(result.fvd / 151.39244, 1, delta=1e-5)

  def test_weights_are_the_published(self):
    self.assertEqual(self.embedding.weights, protocols.PUBLISHED_WEIGHTS)

  def test_noise_on_real_clips_increases_it(self):
    names = ("Diving/v_Diving_g02_c02", "JavelinThrow/v_JavelinThrow_g05_c05", "Biking/v_Biking_g05_c02")
    paths = [testing.shared(f"clips/ucf101/{name}.avi") for name in names]
    clips = [clip for path in paths for clip in clips_test.read(path, num_frames=9)]
    noise = np.random.default_rng(0).standard_normal((len(clips), *clips[0].shape))
    noisy = lambda level: np.clip(np.rint(np.stack(clips) + level * noise), 0, 255).astype(np.uint8)
    reference = self._gaussian(clips)
    figures = [distance.distance(reference, self._gaussian(noisy(level))).total for level in (0, 8, 24, 72)]
    self.assertLess(abs(figures[0]), 1e-3)
    self.assertEqual(figures, sorted(figures))
    self.assertGreater(np.diff(figures).min(), 1, figures)


if __name__ == "__main__":
  absltest.main()
