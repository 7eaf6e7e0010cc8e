"""Stacks of the flow of videos whose motion is known, from prepare_dataset's work to the pipeline's."""

import pathlib

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf.data import clips as clips_lib
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.flow import tvl1
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline


def _texture(height: int, width: int) -> np.ndarray:
  """Blots of all colours, uint8 `[height, width, 3]`."""
  blots = cv2.GaussianBlur(np.random.default_rng(3).uniform(0, 255, (height, width, 3)), (0, 0), 2)
  return ((blots - blots.min()) / np.ptp(blots) * 255).astype(np.uint8)


class VideoStacksTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def prepare(self, frames: np.ndarray) -> None:
    """Writes a video of these frames, and its record."""
    path = self.folder / "video.avi"
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 100)
    for frame in frames:
      writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    self.clip = clips_lib.Clip("made", str(path), label="a")
    settings = shards.RecordConfig(short_side=height, streams=shards.STREAMS, flow_rounding="nearest")
    record = prepare.make_record(self.clip, dataset="made", classes=("a",), settings=settings)
    (self.folder / "train.tfrecord").write_bytes(shards.frame(records.serialize(record)))

  def stack(self, height: int, **options) -> tuple[np.ndarray, np.ndarray]:
    """The middle frame uint8 `[H, W, 3]` and its stack `[H, W, L, 2]` in pixels, cut to a square."""
    clips = clip_config.TrainClips(streams=("rgb", "flow"), num_frames=1, short_side=height, crop=height, **options)
    source = pipeline.open_source(self.folder, "train", streams=clip_config.stored(clips))
    (batch,) = pipeline.center_clips(source, clips, batch_size=1).map(pipeline.scaled).as_numpy_iterator()
    frame = np.rint((batch["rgb"][0, 0] + 1) * 127.5).astype(np.uint8)
    return frame, 20 * batch["flow"][0, 0].reshape(height, height, clips.flow_stack, 2)

  def test_forward_and_backward(self):
    """A square that moves by (2, 1) over a still ground."""
    ground, square = _texture(48, 64) // 2, _texture(90, 90)[60:84, 60:84]
    frames = np.stack([ground] * 8)
    for time, frame in enumerate(frames):
      frame[8 + time : 32 + time, 12 + 2 * time : 36 + 2 * time] = square
    self.prepare(frames)
    frame, stack = self.stack(48, flow_stack=6, flow_stacking="bidirectional")
    # 6 of 7 flows are taken; the middle one of both starts is 0, so that frame 3 is in the middle.
    read = np.stack(list(clips_lib.iter_frames(self.clip, fps=25, short_side=None)))
    self.assertLess(np.abs(frame.astype(int) - read[3][:, 8:56]).mean(), 4)  # JPEG
    self.assertGreater(np.abs(frame.astype(int) - read[4][:, 8:56]).mean(), 8)
    pairs = [(3, 4), (4, 5), (5, 6), (3, 2), (2, 1), (1, 0)]
    direct = np.stack([tvl1.tvl1_flow(read[list(pair)])[0] for pair in pairs], axis=2)
    np.testing.assert_allclose(stack, direct[:, 8:56], rtol=0, atol=20 / 255 + 1e-4)
    row, column = 8 + 3 + 12, 12 + 2 * 3 + 12 - 8  # the square's middle
    inside = stack[row - 4 : row + 4, column - 4 : column + 4].mean(axis=(0, 1))
    np.testing.assert_allclose(inside, [[2, 1]] * 3 + [[-2, -1]] * 3, rtol=0, atol=0.3)

  def test_a_panning_camera_stands_still(self):
    """All moves by (3, -2), as the camera pans, but a square, which moves by (-1, 1)."""
    scene, square = _texture(140, 190), 255 - _texture(150, 190)[100:120, 100:120]
    frames = np.stack([scene[2 * time : 2 * time + 96, 40 - 3 * time : 40 - 3 * time + 128] for time in range(8)])
    for time, frame in enumerate(frames):
      frame[30 + time : 50 + time, 60 - time : 80 - time] = square
    self.prepare(frames)
    (_, before), (_, after) = (self.stack(96, flow_stack=4, subtract_mean_flow=subtract) for subtract in (False, True))
    np.testing.assert_allclose(np.median(before, axis=(0, 1)), [[3, -2]] * 4, rtol=0, atol=0.1)
    share, own = 20 * 20 / (96 * 128), np.array([-4, 3])  # the square's, of the mean, and against the ground
    np.testing.assert_allclose(np.median(after, axis=(0, 1)), [-share * own] * 4, rtol=0, atol=0.1)
    row, column = 30 + 1 + 10, 60 - 1 + 10 - 16  # the square's middle in frame 1, where the first flow begins
    inside = after[row - 4 : row + 4, column - 4 : column + 4, 0].mean(axis=(0, 1))
    np.testing.assert_allclose(inside, (1 - share) * own, rtol=0, atol=0.2)


if __name__ == "__main__":
  absltest.main()
