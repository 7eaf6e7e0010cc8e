"""Tests of classification: arithmetic by hand, files that are no clips, and a narrow network."""

import dataclasses
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
from i3d_tf import flow
from i3d_tf import testing
from i3d_tf.data import records
from i3d_tf.flow import tvl1
from i3d_tf.inference import classification
from i3d_tf.inference import classifier
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.models import zoo
from i3d_tf.video import decode


class RankTest(parameterized.TestCase):
  @parameterized.parameters(
    (np.log([4, 3, 2, 1]), [0.4, 0.3, 0.2, 0.1]), ([1e4, 1e4, -1e4], [0.5, 0.5, 0]), ([-1e30] * 4, [0.25] * 4)
  )
  def test_probabilities_by_hand(self, logits, expected):
    predictions = classification.rank(np.float32(logits), "abcd", 4)
    np.testing.assert_allclose([each.probability for each in predictions], expected, rtol=0, atol=1e-7)

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


class ClassifyTest(TemporaryFolderTest):
  """A video through a narrow network of each kind: by its own views, and equal to the network on those views."""

  @parameterized.parameters(
    ("i3d", {"crop": 224}, (1, 12)),
    ("x3d_xs", {"crop": 64, "short_side": 72}, (30, 4)),
    ("r2plus1d_18", {"crop": 64, "short_side": 72}, (5, 16)),
    ("c3d", {}, (15, 16)),
    ("convnet_lstm", {"crop": 224}, (1, 3)),
  )
  def test_every_network(self, model, clip, views_and_frames):
    testing.write_network(self.folder / "net", model=model, **{**_clip_of(model), **clip})
    testing.write_moving_video(self.folder / "a.avi", seed=0, num_frames=12)
    result = classification.classify(self.folder / "a.avi", self.folder / "net", top_k=2)
    network = classifier.LoadedNetwork(self.folder / "net")
    clips = classification.protocol(network.info)
    seen = classification.read_views(classification.Video(self.folder / "a.avi", short_side=clips.short_side), clips)
    self.assertEqual(seen["rgb"].shape[:2], views_and_frames)
    np.testing.assert_allclose(result.logits, network.logits(seen).mean(axis=0), rtol=1e-5)
    self.assertEqual(result.num_frames, views_and_frames[1])
    self.assertEqual(
      [each.label for each in result.predictions],
      [each.label for each in classification.rank(result.logits, network.class_names, 2)],
    )

  def test_two_streams_are_added(self):
    for stream in ("rgb", "flow"):
      testing.write_network(self.folder / stream, stream=stream, average_space=True, crop=32, short_side=36)
    testing.write_moving_video(self.folder / "a.avi", seed=0, num_frames=12)
    both = {stream: self.folder / stream for stream in ("rgb", "flow")}
    alone = [classification.classify(self.folder / "a.avi", path) for path in both.values()]
    self.assertEqual([each.num_frames for each in alone], [12, 11])
    joint = classification.classify(self.folder / "a.avi", both)
    np.testing.assert_array_equal(joint.logits, alone[0].logits + alone[1].logits)

  def test_networks_of_other_sizes_are_refused(self):
    testing.write_network(self.folder / "rgb", average_space=True, crop=32, short_side=36)
    testing.write_network(self.folder / "flow", stream="flow", average_space=True, crop=32, short_side=40)
    both = [self.folder / "rgb", self.folder / "flow"]
    with self.assertRaisesRegex(errors.I3dError, "do not go together: short_side is 36 and 40"):
      classification.classify(self.folder / "a.avi", both)


def _clip_of(model: str) -> dict[str, object]:
  return dataclasses.asdict(zoo.preprocess(model, "rgb"))


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


class ReadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def _read(self, streams=("rgb",), *, max_frames=250, progress=False) -> dict[str, np.ndarray]:
    video = classification.Video(self.folder / "a.mp4", max_frames=max_frames + ("flow" in streams), progress=progress)
    return classification.read_views(video, clip_config.EvalClips(streams=streams, max_frames=max_frames))

  def test_shape_range_and_values(self):
    _write_video(self.folder / "a.mp4", 12)
    clip = self._read()["rgb"]
    self.assertEqual(clip.shape, (1, 12, 224, 224, 3))
    self.assertEqual(clip.dtype, np.float32)
    expected = (40 + 8 * np.arange(12)) * 2 / 255 - 1
    np.testing.assert_allclose(clip[0].mean(axis=(1, 2, 3)), expected, rtol=0, atol=0.03)

  def test_is_the_centre_of_the_frames_with_shorter_side_256(self):
    _write_video(self.folder / "a.mp4", 9)
    frames = decode.read_video(self.folder / "a.mp4")
    self.assertEqual(frames.shape, (9, 256, 384, 3))
    expected = frames[:, 16:240, 80:304].astype(np.float64) / 127.5 - 1
    clip = self._read()["rgb"]
    np.testing.assert_allclose(clip[0], expected, rtol=0, atol=1e-6)

  def test_max_frames(self):
    _write_video(self.folder / "a.mp4", 12)
    whole = self._read()["rgb"]
    part = self._read(max_frames=10)["rgb"]
    np.testing.assert_array_equal(part, whole[:, :10])

  def test_flow_is_that_of_the_whole_frames_scaled_and_cropped(self):
    _write_video(self.folder / "a.mp4", 12)
    with mock.patch.object(classification.tqdm, "tqdm") as bar:
      clips = self._read(("rgb", "flow"), max_frames=10, progress=True)
    self.assertEqual(clips["rgb"].shape, (1, 10, 224, 224, 3))
    frames = decode.read_video(self.folder / "a.mp4", max_frames=11)
    expected = np.clip(tvl1.tvl1_flow(frames)[:, 16:240, 80:304] / 20, -1, 1)
    np.testing.assert_allclose(clips["flow"][0], expected, rtol=0, atol=1e-6)
    self.assertEqual(bar.call_args.kwargs["total"], 10)
    self.assertLen(bar.return_value.__enter__.return_value.update.mock_calls, 10)

  def test_flow_needs_one_frame_more(self):
    _write_video(self.folder / "a.mp4", 9)
    with self.assertRaisesRegex(errors.VideoError, "has 9 frames at 25 .*needs at least 10"):
      self._read(("flow",))

  @parameterized.parameters((8, 25, 8), (16, 50, 8), (4, 12, 7))
  def test_too_short_at_25_frames_per_second(self, num_frames, rate, left):
    _write_video(self.folder / "a.mp4", num_frames, rate=rate)
    with self.assertRaisesRegex(
      errors.VideoError, f"^{self.folder / 'a.mp4'}: the video has {left} frames at 25 .*needs at least 9"
    ):
      self._read()["rgb"]

  def test_nine_frames_are_enough(self):
    _write_video(self.folder / "a.mp4", 9)
    self.assertEqual(self._read()["rgb"].shape[1], 9)


class FlowMethodTest(absltest.TestCase):
  def test_flow_is_that_of_training_unless_another_is_asked_for_which_is_logged(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    testing.write_network(
      folder / "network", stream="flow", flow_method="dis", average_space=True, num_frames=16, short_side=36, crop=32
    )
    testing.write_moving_video(folder / "a.avi", seed=0, num_frames=11)
    networks = classifier.Classifier(folder / "network")
    with self.assertNoLogs("i3d_tf", "WARNING"):
      own = classification.classify(folder / "a.avi", networks).logits
      dis = classification.classify(folder / "a.avi", networks, flow_config=flow.FlowConfig(flow="dis")).logits
    np.testing.assert_array_equal(own, dis)
    with self.assertLogs("i3d_tf", "WARNING") as logged:
      other = classification.classify(folder / "a.avi", networks, flow_config=flow.FlowConfig()).logits
    self.assertGreater(np.abs(own - other).max(), 1e-6)
    self.assertIn("was trained on optical flow by dis and is given that by tvl1", logged.output[0])


class ProtocolsTest(parameterized.TestCase):
  """The views of a video are those that evaluation cuts from a record of the same frames."""

  @parameterized.parameters("release", "clips", "ten_crop", "three_crops")
  def test_views_are_the_records(self, protocol):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    path = pathlib.Path(folder.name) / "a.mp4"
    _write_video(path, 14)
    clips = clip_config.EvalClips(
      protocol=protocol, num_frames=4, frame_stride=2, num_clips=3, short_side=40, crop=32, flip=protocol == "clips"
    )
    got = classification.read_views(classification.Video(path, short_side=40), clips)["rgb"]
    frames = decode.read_video(path, short_side=40)
    images = [tf.io.encode_png(frame).numpy() for frame in frames]
    state = {"parsed": {records.IMAGES["rgb"]: tf.constant(images)}}
    for step in clip_steps.evaluation(clips):
      state = step.apply(state)
    np.testing.assert_allclose(got, state["rgb"].numpy() / 127.5 - 1, rtol=0, atol=1e-6)


if __name__ == "__main__":
  absltest.main()
