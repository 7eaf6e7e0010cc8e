"""Tests of classification: arithmetic by hand, files that are no clips, and a narrow network."""

import io
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import av
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.flow import tvl1
from i3d_tf.inference import classification
from i3d_tf.models import inception
from i3d_tf.video import decode
from i3d_tf.weights import saved


class RankTest(parameterized.TestCase):
  def test_softmax_by_hand(self):
    probabilities = classification.softmax(np.log([1, 2, 3, 4]).astype(np.float32))
    self.assertEqual(probabilities.dtype, np.float64)
    np.testing.assert_allclose(probabilities, [0.1, 0.2, 0.3, 0.4], rtol=0, atol=1e-7)

  def test_softmax_of_large_logits(self):
    np.testing.assert_array_equal(classification.softmax(np.array([1e4, -1e4, 1e4], np.float32)), [0.5, 0, 0.5])
    np.testing.assert_allclose(classification.softmax(np.full(400, -1e30)), 1 / 400)

  def test_best_first(self):
    logits = np.log(np.array([2, 4, 1, 3], np.float32))
    predictions = classification.rank(logits, "abcd", 3)
    self.assertEqual([prediction.label for prediction in predictions], ["b", "d", "a"])
    self.assertEqual([prediction.index for prediction in predictions], [1, 3, 0])
    self.assertEqual([prediction.logit for prediction in predictions], [float(logits[i]) for i in (1, 3, 0)])
    np.testing.assert_allclose([prediction.probability for prediction in predictions], [0.4, 0.3, 0.2], atol=1e-7)

  def test_plain_numbers_for_json(self):
    (prediction,) = classification.rank(np.zeros(1, np.float32), ["a"], 1)
    self.assertEqual(prediction, classification.Prediction("a", 0, 0.0, 1.0))
    self.assertEqual([type(value) for value in vars(prediction).values()], [str, int, float, float])

  def test_of_equals_the_first(self):
    predictions = classification.rank(np.array([1, 5, 5, 5, 1]), "abcde", 4)
    self.assertEqual("".join(prediction.label for prediction in predictions), "bcda")

  @parameterized.parameters((1, 1), (3, 3), (4, 4), (400, 4))
  def test_no_more_than_there_are(self, top_k, expected):
    self.assertLen(classification.rank(np.arange(4), "abcd", top_k), expected)


class TemporaryFolderTest(parameterized.TestCase):
  """A test with a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)


class ReadNpyClipTest(TemporaryFolderTest):
  @parameterized.parameters("float32", "float64", "float16", ">f4")
  def test_values_and_type(self, dtype):
    clip = np.linspace(-1, 1, 2 * 3 * 4 * 2).reshape(1, 2, 3, 4, 2).astype(dtype)
    np.save(self.folder / "a.npy", clip)
    read = classification.read_npy_clip(self.folder / "a.npy")
    self.assertEqual(read.dtype, np.float32)
    np.testing.assert_array_equal(read, clip[0].astype(np.float32))

  @parameterized.named_parameters(
    ("no_batch", np.zeros((9, 4, 4, 3)), r"shape \(9, 4, 4, 3\); it must be \[1, frames"),
    ("batch_of_two", np.zeros((2, 9, 4, 4, 3)), r"shape \(2, 9, 4, 4, 3\); it must be \[1, frames"),
    ("scalar", np.zeros(()), r"shape \(\); it must be \[1, frames"),
    ("bytes", np.zeros((1, 9, 4, 4, 3), np.uint8), r"floating point in \[-1, 1\]"),
    ("not_scaled", np.full((1, 9, 4, 4, 3), 255.0), r"floating point in \[-1, 1\]"),
    ("a_little_too_low", np.full((1, 9, 4, 4, 3), -1.001), r"floating point in \[-1, 1\]"),
    ("nan", np.full((1, 9, 4, 4, 3), np.nan), r"floating point in \[-1, 1\]"),
    ("infinite", np.full((1, 9, 4, 4, 3), -np.inf), r"floating point in \[-1, 1\]"),
    ("complex", np.zeros((1, 9, 4, 4, 3), complex), r"floating point in \[-1, 1\]"),
  )
  def test_arrays_that_are_no_clips(self, array, sentence):
    np.save(self.folder / "a.npy", array)
    self._assert_refused(sentence)

  def _assert_refused(self, sentence: str) -> None:
    with self.assertRaises(errors.I3dError) as caught:
      classification.read_npy_clip(self.folder / "a.npy")
    self.assertStartsWith(str(caught.exception), f"{self.folder / 'a.npy'}: ")
    self.assertRegex(str(caught.exception), sentence)
    self.assertNotIn("\n", str(caught.exception))

  def test_no_frames_are_left_to_the_network_to_refuse(self):
    np.save(self.folder / "a.npy", np.zeros((1, 0, 4, 4, 3)))
    self.assertEqual(classification.read_npy_clip(self.folder / "a.npy").shape, (0, 4, 4, 3))

  @parameterized.named_parameters(
    ("text", b"hello\n" * 100, "not an array in NumPy's .npy format"),
    ("empty", b"", "not an array in NumPy's .npy format"),
    ("zip_begun", b"PK\x03\x04 and so on", "not an array in NumPy's .npy format"),
    ("magic_only", b"\x93NUMPY", "not an array in NumPy's .npy format"),
  )
  def test_files_that_are_no_arrays(self, content, sentence):
    (self.folder / "a.npy").write_bytes(content)
    self._assert_refused(sentence)

  def test_cut_off(self):
    np.save(self.folder / "a.npy", np.zeros((1, 9, 4, 4, 3)))
    content = (self.folder / "a.npy").read_bytes()
    (self.folder / "a.npy").write_bytes(content[:-8])
    self._assert_refused("not an array in NumPy's .npy format")

  def test_larger_than_memory(self):
    header = io.BytesIO()
    shape = (1, 10**9, 224, 224, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    (self.folder / "a.npy").write_bytes(header.getvalue())
    self._assert_refused("not an array in NumPy's .npy format")

  def test_archive(self):
    np.savez(self.folder / "a.npz", rgb=np.zeros((1, 9, 4, 4, 3)))
    os.rename(self.folder / "a.npz", self.folder / "a.npy")
    self._assert_refused("this is an .npz archive")

  def test_pickles_are_not_loaded(self):
    array = np.empty(1, object)
    array[0] = {"a": 1}
    np.save(self.folder / "a.npy", array, allow_pickle=True)
    self._assert_refused("not an array in NumPy's .npy format")

  def test_missing_file_is_named(self):
    with self.assertRaises(FileNotFoundError) as caught:
      classification.read_npy_clip(self.folder / "a.npy")
    self.assertEqual(caught.exception.filename, os.fspath(self.folder / "a.npy"))


def _write_video(path: pathlib.Path, num_frames: int, *, rate: int = 25, size: tuple[int, int] = (96, 64)) -> None:
  """A gray video that becomes lighter with every frame."""
  with av.open(os.fspath(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=rate)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.bit_rate = 4_000_000
    for i in range(num_frames):
      picture = np.full((size[1], size[0], 3), 40 + 8 * i, np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode())


class ReadVideoClipsTest(TemporaryFolderTest):
  def test_shape_range_and_values(self):
    _write_video(self.folder / "a.mp4", 12)
    clip = classification.read_video_clips(self.folder / "a.mp4")["rgb"]
    self.assertEqual(clip.shape, (12, 224, 224, 3))
    self.assertEqual(clip.dtype, np.float32)
    expected = (40 + 8 * np.arange(12)) * 2 / 255 - 1
    np.testing.assert_allclose(clip.mean(axis=(1, 2, 3)), expected, rtol=0, atol=0.03)

  def test_is_the_centre_of_the_frames_with_shorter_side_256(self):
    _write_video(self.folder / "a.mp4", 9)
    frames = decode.read_video(self.folder / "a.mp4")
    self.assertEqual(frames.shape, (9, 256, 384, 3))
    expected = frames[:, 16:240, 80:304].astype(np.float64) / 127.5 - 1
    clip = classification.read_video_clips(self.folder / "a.mp4")["rgb"]
    np.testing.assert_allclose(clip, expected, rtol=0, atol=1e-6)

  def test_max_frames(self):
    _write_video(self.folder / "a.mp4", 12)
    whole = classification.read_video_clips(self.folder / "a.mp4")["rgb"]
    part = classification.read_video_clips(self.folder / "a.mp4", max_frames=10)["rgb"]
    np.testing.assert_array_equal(part, whole[:10])

  def test_flow_is_that_of_the_whole_frames_scaled_and_cropped(self):
    _write_video(self.folder / "a.mp4", 12)
    calls = []
    clips = classification.read_video_clips(
      self.folder / "a.mp4", ("rgb", "flow"), max_frames=10, on_flow=lambda *counts: calls.append(counts)
    )
    self.assertEqual(clips["rgb"].shape, (10, 224, 224, 3))
    frames = decode.read_video(self.folder / "a.mp4", max_frames=11)
    expected = np.clip(tvl1.tvl1_flow(frames)[:, 16:240, 80:304] / 20, -1, 1)
    np.testing.assert_allclose(clips["flow"], expected, rtol=0, atol=1e-6)
    self.assertEqual(calls, [(done, 10) for done in range(1, 11)])

  def test_flow_needs_one_frame_more(self):
    _write_video(self.folder / "a.mp4", 9)
    with self.assertRaisesRegex(errors.VideoError, "has 9 frames at 25 .*needs at least 10"):
      classification.read_video_clips(self.folder / "a.mp4", ("flow",))

  @parameterized.parameters((8, 25, 8), (16, 50, 8), (4, 12, 7))
  def test_too_short_at_25_frames_per_second(self, num_frames, rate, left):
    _write_video(self.folder / "a.mp4", num_frames, rate=rate)
    with self.assertRaisesRegex(
      errors.VideoError, f"^{self.folder / 'a.mp4'}: the video has {left} frames at 25 .*needs at least 9"
    ):
      classification.read_video_clips(self.folder / "a.mp4")["rgb"]

  def test_nine_frames_are_enough(self):
    _write_video(self.folder / "a.mp4", 9)
    self.assertLen(classification.read_video_clips(self.folder / "a.mp4")["rgb"], 9)


class StreamClassifierTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    tf.random.set_seed(7)
    cls.model = inception.InceptionI3d(num_classes=5, width_multiplier=0.125)
    cls.model.build(2)
    info = saved.make_info(stream="flow", num_classes=5, width_multiplier=0.125)
    with mock.patch.object(classification.saved, "load", return_value=(cls.model, info)) as load:
      cls.classifier = classification.StreamClassifier("some/checkpoint")
    load.assert_called_once_with("some/checkpoint")

  @parameterized.parameters(9, 17)
  def test_logits_are_the_networks_for_any_length(self, num_frames):
    clip = np.random.default_rng(num_frames).uniform(-1, 1, (num_frames, 224, 224, 2)).astype(np.float32)
    logits = self.classifier.logits(clip)
    expected, _ = self.model(tf.constant(clip[np.newaxis]), is_training=False)
    self.assertEqual(logits.shape, (5,))
    self.assertGreater(np.ptp(expected), 1e-3)  # not all the same
    np.testing.assert_allclose(logits, expected[0], rtol=0, atol=1e-4 * np.abs(expected).max())

  @parameterized.parameters(
    ((9, 224, 224, 3), r"shape \(9, 224, 224, 3\); this network takes \[frames, 224, 224, 2\]"),
    ((9, 256, 224, 2), r"shape \(9, 256, 224, 2\); this network takes"),
    ((224, 224, 2), r"shape \(224, 224, 2\); this network takes"),
    ((8, 224, 224, 2), "the clip has 8 frames; the network needs at least 9"),
    ((0, 224, 224, 2), "the clip has 0 frames; the network needs at least 9"),
  )
  def test_clips_that_do_not_fit(self, shape, sentence):
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self.classifier.logits(np.zeros(shape, np.float32))

  def test_another_network(self):
    info = saved.make_info(model="c3d", stream="rgb", num_classes=5)
    with mock.patch.object(classification.saved, "load", return_value=(None, info)):
      with self.assertRaisesRegex(errors.I3dError, "^runs/a is a network c3d; only i3d .* use evaluate$"):
        classification.StreamClassifier("runs/a")

  def test_logits_that_are_no_numbers(self):
    (bias,) = (variable for variable in self.model.variables if variable.name.endswith("Conv3d_0c_1x1/conv_3d/b:0"))
    self.addCleanup(bias.assign, bias.numpy())
    bias.assign([0, 0, np.nan, 0, 0])
    with self.assertRaisesRegex(errors.I3dError, "logits are not finite"):
      self.classifier.logits(np.zeros((9, 224, 224, 2), np.float32))


if __name__ == "__main__":
  absltest.main()
