"""The function fvd on all kinds of sets, several generators, lengths, and statistics."""

import contextlib
import io
import itertools
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import h5py
import numpy as np
from PIL import Image
from scipy import linalg
import tensorflow as tf

import i3d_tf
from i3d_tf import errors
from i3d_tf.frechet import distance
from i3d_tf.frechet import embedding as embedding_lib
from i3d_tf.frechet import embedding_test
from i3d_tf.frechet import fvd
from i3d_tf.frechet import measures
from i3d_tf.frechet import protocols

_BIASED = protocols.Protocol(name="biased", num_frames=10, unbiased=False)
_RESIZE = protocols.RESIZES["tensorflow"]


_Embedding = embedding_lib.FvdEmbedding


class _Killed(BaseException):
  pass


def _load_once():
  """In place of `FvdEmbedding`: every network is loaded and compiled once."""
  loaded = {}

  def load(checkpoint, stream, *, flow_config, resize_rule):
    key = (checkpoint, stream, resize_rule)
    if key not in loaded:
      loaded[key] = _Embedding(checkpoint, stream, flow_config=flow_config, resize_rule=resize_rule)
    return loaded[key]

  return mock.patch.object(embedding_lib, "FvdEmbedding", load)


class FolderTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)


class FvdTest(FolderTestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.network = pathlib.Path(folder.name)
    embedding_test.save_tiny_network(cls.network)
    patch = _load_once()
    patch.start()
    cls.addClassCleanup(patch.stop)

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

  def test_every_form_of_the_same_clips_gives_the_same_to_the_last_digit(self):
    expected = self._fvd(self.clips[:3], self.clips[3:]).fvd
    generated = self.clips[3:]
    floats = generated / np.float32(127.5) - np.float32(1)
    np.savez(self.folder / "a.npz", generated)
    np.savez_compressed(self.folder / "b.npz", *generated)
    with h5py.File(self.folder / "c.h5", "w") as file:
      file["clips"] = floats.transpose(0, 4, 1, 2, 3)
    for number, clip in enumerate(generated):
      folder = self.folder / "images" / f"{number}"
      folder.mkdir(parents=True)
      for index, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{index:02}.png")
    forms = (
      "a.npz", "b.npz", "c.h5", "images", floats, tf.constant(generated), iter(generated),
      tf.data.Dataset.from_tensor_slices(generated).batch(3), generated.transpose(0, 1, 4, 2, 3),
    )  # fmt: skip
    for form in forms:
      with self.subTest(str(form)[:40]):
        self.assertEqual(self._fvd("real", form, value_range="minus1_1").fvd, expected)

  def test_independent_implementation(self):
    result = self._fvd("real", "generated", resamples=0, save_stats=self.folder / "a.npz", measures=["kvd"])
    real = distance.load(self.folder / "a.npz")[0]["rgb"].astype(np.float64)
    self._fvd("generated", None, save_stats=self.folder / "b.npz")
    generated = distance.load(self.folder / "b.npz")[0]["rgb"].astype(np.float64)
    for unbiased, found in ((True, result), (False, self._fvd("real", "generated", protocol=_BIASED))):
      first, second = (np.cov(each.T, bias=not unbiased) for each in (real, generated))
      root = linalg.sqrtm(first @ second).real
      expected = ((real.mean(0) - generated.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
      self.assertAlmostEqual(found.fvd / expected, 1, delta=1e-6)
    self.assertEqual(result.measures["rgb"].kvd, measures.kernel_distance(real, generated))

  def test_several_generators_and_lengths(self):
    results = i3d_tf.compare_generators(
      self.clips[:3], {"step_1": self.clips[3:], "step_2": self.clips[2:]},
      checkpoint=self.network, num_frames=10, resamples=0,
    )  # fmt: skip
    self.assertEqual(results["step_1"].fvd, self._fvd("real", "generated").fvd)
    self.assertEqual(results["step_2"].clips, {"real": 3, "generated": 5})
    curve = i3d_tf.fvd_by_length(self.clips[:3], self.clips[3:], (9, 10), checkpoint=self.network, resamples=0)
    self.assertEqual(list(curve), [9, 10])
    self.assertEqual(curve[9].fvd, self._fvd(self.clips[:3, :9], self.clips[3:, :9], num_frames=9, resamples=0).fvd)
    self.assertNotEqual(curve[9].fvd, curve[10].fvd)
    with self.assertRaisesRegex(errors.I3dError, "a generated set is called real"):
      i3d_tf.compare_generators(self.clips, {"real": self.clips})

  def test_protocol_of_stylegan_v(self):
    clips = np.random.default_rng(1).integers(0, 256, (4, 20, 8, 8, 3), np.uint8)
    result = self._fvd(clips[:2], clips[2:], protocol="stylegan_v", num_frames=None, resamples=0)
    self.assertEqual((result.protocol.name, result.num_frames), ("fvd2048_16f", 16))
    self.assertRegex(result.remarks[0], "real has 2 clips, fvd2048_16f takes 2048; fewer clips give a larger figure")
    # By hand: the first 16 frames of generated videos, half-pixel centres, covariances over N.
    network = _Embedding(self.network, resize_rule="half_pixel")
    embed = lambda each: distance.fit(network(np.stack([network.prepare(clip) for clip in each])), unbiased=False)
    self._fvd(clips[:2], None, protocol="stylegan_v", num_frames=None, save_stats=self.folder / "a.npz")
    features, facts = distance.load(self.folder / "a.npz")
    self.assertEqual((facts["protocol"]["name"], facts["resize"]), ("fvd2048_16f", protocols.RESIZES["half_pixel"]))
    expected = distance.distance(distance.fit(features["rgb"], unbiased=False), embed(clips[2:, :16])).total
    self.assertAlmostEqual(result.fvd, expected, delta=1e-5 * expected)
    with self.assertRaisesRegex(errors.I3dError, "a.npz cannot be compared: its resize is bilinear"):
      self._fvd("a.npz", clips[2:], num_frames=16)

  def test_a_cache_saves_the_network(self):
    expected = self._fvd("real", "generated", cache=self.folder / "cache.db", batch=2)
    calls = []
    with mock.patch.object(_Embedding, "__call__", lambda *_: calls.append(1)):
      self.assertEqual(self._fvd("real", "generated", cache=self.folder / "cache.db", batch=2), expected)
    self.assertEqual(calls, [])
    with self.assertRaises(_Killed):
      self._fvd_until_killed(cache=self.folder / "other.db", batch=2)
    resumed = self._fvd("real", "generated", cache=self.folder / "other.db", batch=2)
    self.assertEqual(resumed, expected)
    (self.folder / "none.db").write_text("no cache of embeddings, but a text that is long enough to be read as one")
    with self.assertRaisesRegex(errors.I3dError, "none.db: this cache of embeddings cannot be used .*; name another"):
      self._fvd("real", "generated", cache=self.folder / "none.db")

  def _fvd_until_killed(self, **options):
    """Ends while the third batch is embedded."""
    plain, batches = _Embedding.__call__, itertools.count(1)

    def call(network, clips):
      if next(batches) == 3:
        raise _Killed
      return plain(network, clips)

    with mock.patch.object(_Embedding, "__call__", call):
      self._fvd("real", "generated", **options)

  def test_batches_do_not_matter_and_order_stays(self):
    embedding = _Embedding(self.network)
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
    embedding = _Embedding(self.network)
    clips = [embedding.prepare(np.full((10, 4, 4, 3), ord(name), np.uint8)) for name in "ad"]
    features, facts = distance.load(self.folder / "a.npz")
    np.testing.assert_allclose(features["rgb"], embedding(np.stack(clips)), rtol=1e-5, atol=1e-5)
    self.assertEqual(facts["failed"], 2)

  def test_no_video_can_be_used(self):
    sentence = "real: FVD needs at least 2 videos that can be used, and of its 2 it has 0 .*9 frames, fewer than num_fr"
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self._fvd(np.zeros((2, 9, 4, 4, 3), np.uint8), "generated")

  @parameterized.parameters(
    ({"frames": 3}, "there is no option frames; there are allow_damaged, batch"),
    (
      {"real": np.zeros((1, 10, 4, 4, 3), np.uint8)},
      "real: FVD needs at least 2 videos .* and of its 1 it has 1",
    ),
    ({"generated": None}, "generated is missing; only with save_stats it may be"),
    ({"resamples": 1}, "resamples is 1; an interval needs at least 2"),
    ({"num_frames": 8}, "num_frames is 8; it must be a whole number, at least 9"),
    ({"real": "a.npz", "save_stats": "b.npz"}, "real is statistics already"),
    ({"save_stats": "stats"}, "save_stats is stats; the file's name must end in .npz"),
    ({"real": "none"}, "none: there is no such file or folder"),
    ({"max_clips": 4}, "real has 3 videos, fewer than max_clips, 4"),
    (
      {"real": np.zeros((2, 10, 4, 4), np.uint8)},
      "the videos: .* without an axis of 3 colours",
    ),
    ({"checkpoint": {"flow": "x"}, "num_frames": 9}, "num_frames is 9; clips for flow need at least 10"),
    ({"checkpoint": {"depth": "x"}}, "checkpoint is of depth; give rgb, flow or both"),
  )
  def test_options_that_do_not_go_together(self, given, sentence):
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self._fvd(**{"real": "real", "generated": "generated", **given})


class FactsTest(parameterized.TestCase):
  FACTS = {"weights": {"rgb": "01", "flow": "02"}, "resize": _RESIZE, "num_frames": 16, "fps": None}

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
