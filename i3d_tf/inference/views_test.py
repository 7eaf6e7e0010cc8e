"""Views of video files: the release's one pass by hand, and other protocols as records give them."""

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
from i3d_tf.data import records
from i3d_tf.flow import tvl1
from i3d_tf.inference import views
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.video import decode


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
    video = views.Video(self.folder / "a.mp4", max_frames=max_frames + ("flow" in streams), progress=progress)
    return views.read(video, clip_config.EvalClips(streams=streams, max_frames=max_frames))

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
    with mock.patch.object(views.tqdm, "tqdm") as bar:
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
    got = views.read(views.Video(path, short_side=40), clips)["rgb"]
    frames = decode.read_video(path, short_side=40)
    images = [tf.io.encode_png(frame).numpy() for frame in frames]
    state = {"parsed": {records.IMAGES["rgb"]: tf.constant(images)}}
    for step in clip_steps.evaluation(clips):
      state = step.apply(state)
    np.testing.assert_allclose(got, state["rgb"].numpy() / 127.5 - 1, rtol=0, atol=1e-6)


if __name__ == "__main__":
  absltest.main()
