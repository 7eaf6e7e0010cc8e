"""From real videos to records, read back as a pipeline reads them."""

import dataclasses
import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import flow
from i3d_tf import testing
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.video import decode
from i3d_tf.video import sound

_CLASSES = ("Diving", "JavelinThrow")
_SMALL = shards.RecordConfig(short_side=64)


def _clip(start=None, end=0.4):
  path = testing.shared("clips/ucf101/JavelinThrow/v_JavelinThrow_g22_c01.avi")
  return clips_lib.Clip("g22", str(path), start=start, end=end, label="JavelinThrow")


def _make(clip=None, settings=_SMALL, **arguments):
  return prepare.make_record(clip or _clip(), dataset="ucf101:1", classes=_CLASSES, settings=settings, **arguments)


class MakeRecordTest(parameterized.TestCase):
  def test_what_a_pipeline_reads_is_what_the_video_shows(self):
    record = _make()
    frames = decode.read_video(_clip().path, short_side=64, max_frames=10)
    parsed = records.parse(tf.constant(records.serialize(record)))
    images = np.stack([tf.io.decode_jpeg(image).numpy() for image in parsed["frames"]])
    self.assertEqual(images.shape, frames.shape)
    self.assertLess(np.abs(images.astype(int) - frames).mean(), 3)
    np.testing.assert_array_equal(parsed["timestamps"], 40_000 * np.arange(10))
    np.testing.assert_array_equal(parsed["flow_timestamps"], 40_000 * np.arange(9))
    expected = tvl1.tvl1_flow(frames)
    encoded = np.stack([tf.io.decode_png(image).numpy() for image in parsed["flow_frames"]])
    np.testing.assert_array_equal(encoded[..., :2], codec.encode(expected))
    np.testing.assert_array_equal(encoded[..., 2], 0)
    error = np.abs(codec.decode(np.ascontiguousarray(encoded[..., :2])) - np.clip(expected, -20, 20))
    self.assertLessEqual(error.max(), 40 / 255 + 1e-4)

  def test_another_method_of_flow_is_stated_and_the_default_is_not(self):
    settings = dataclasses.replace(_SMALL, flow="dis", flow_params=("preset=fast",))
    record = records.deserialize(records.serialize(_make(settings=settings)))
    self.assertEqual(record.flow_method, "dis preset=fast")
    frames = decode.read_video(_clip().path, short_side=64, max_frames=10)
    expected = flow.optical_flow(frames, "dis", preset="fast")
    encoded = np.stack([tf.io.decode_png(image).numpy() for image in record.flow_frames])
    np.testing.assert_array_equal(encoded[..., :2], codec.encode(expected))
    self.assertNotIn(b"encoding/method", records.serialize(_make()))
    dataset = clips_lib.Dataset("made", ("a",), {"train": (_clip(),)}, {"train": ()})
    for changed, stated, method in (
      ({}, {"flow_engine": "numba"}, "tvl1"),
      ({"flow_engine": "opencv"}, {"flow_engine": "opencv"}, "tvl1_opencv"),
      ({"flow": "tvl1_opencv"}, {"flow_engine": "opencv"}, "tvl1_opencv"),
      ({"flow": "dis"}, {"flow_engine": "dis"}, "dis"),
      (
        {"flow": "dis", "flow_params": ("preset=fast",)},
        {"flow_engine": "dis", "flow_params": ("preset=fast",)},
        "dis preset=fast",
      ),
    ):
      parameters = shards.parameters(dataset, dataclasses.replace(_SMALL, **changed), clips_per_shard=2)
      self.assertEqual({name: value for name, value in parameters.items() if name in ("flow", *stated)}, stated)
      self.assertEqual("flow_params" in parameters, "flow_params" in stated)
      read = json.loads(json.dumps(parameters))
      self.assertEqual(shards.Description(complete=True, parameters=read).flow_method, method)

  def test_backward_flow(self):
    settings = dataclasses.replace(_SMALL, streams=("rgb", "flow", "backward_flow"))
    record, plain = _make(settings=settings), _make()
    self.assertLen(record.backward_flow_frames, 9)
    self.assertEqual(record.backward_flow_timestamps, record.flow_timestamps)
    without = dataclasses.replace(record, backward_flow_frames=(), backward_flow_timestamps=())
    self.assertEqual(without, plain)  # the forward flow does not depend on it
    frames = decode.read_video(_clip().path, short_side=64, max_frames=10)
    expected = tvl1.tvl1_flow(frames[::-1])[::-1]  # of each frame but the first to the one before
    encoded = np.stack([tf.io.decode_png(image).numpy() for image in record.backward_flow_frames])
    np.testing.assert_array_equal(encoded[..., :2], codec.encode(expected))
    forward = tvl1.tvl1_flow(frames)
    fast = np.linalg.norm(forward, axis=-1) > 0.5
    self.assertGreater(fast.mean(), 0.02)
    self.assertLess(np.corrcoef(expected[fast].ravel(), forward[fast].ravel())[0, 1], -0.8)

  def test_context(self):
    record = _make(root=testing.shared("clips"))
    self.assertEqual(record.path, "ucf101/JavelinThrow/v_JavelinThrow_g22_c01.avi")
    self.assertEqual((record.labels, record.label_indices), (("JavelinThrow",), (1,)))
    self.assertEqual((record.height, record.width), (64, 85))
    self.assertEqual((record.start, record.end), (0, 400_000))
    self.assertEqual((record.flow_bound, record.flow_rounding, record.flow_format), (20.0, "truncate", "PNG"))

  def test_a_part_of_the_video(self):
    record = _make(_clip(start=0.2, end=0.6))
    self.assertEqual((record.start, record.end, len(record.frames)), (200_000, 600_000, 10))
    self.assertEqual(record.frames[0], _make().frames[5])

  @parameterized.parameters(("rgb", 10, 0), ("flow", 0, 9))
  def test_one_stream(self, stream, num_frames, num_flows):
    record = _make(settings=dataclasses.replace(_SMALL, streams=(stream,)))
    self.assertLen(record.frames, num_frames)
    self.assertLen(record.flow_frames, num_flows)
    self.assertEqual(record.end, 400_000)

  def test_sound(self):
    video = str(sorted(testing.shared("clips/kinetics").glob("*.mp4"))[0])
    settings = dataclasses.replace(_SMALL, streams=("rgb", "audio"))
    record = _make(clips_lib.Clip("x", video, start=0.5, end=0.9), settings=settings)
    self.assertLen(record.frames, 10)
    found = np.reshape(record.log_mel, (-1, sound.NUM_BANDS))
    np.testing.assert_array_equal(found, sound.log_mel(video)[50:88])
    self.assertEqual(_make(settings=settings).log_mel, ())  # that video has none

  def test_the_same_bytes_each_time(self):
    self.assertEqual(records.serialize(_make()), records.serialize(_make()))

  def test_jpeg_flow_and_rounding(self):
    settings = dataclasses.replace(_SMALL, flow_format="jpeg", flow_rounding="nearest")
    record = _make(settings=settings)
    self.assertEqual((record.flow_format, record.flow_rounding), ("JPEG", "nearest"))
    frames = decode.read_video(_clip().path, short_side=64, max_frames=2)
    image = tf.io.decode_jpeg(record.flow_frames[0], dct_method="INTEGER_ACCURATE").numpy()
    error = codec.decode(np.ascontiguousarray(image[..., :2])) - np.clip(tvl1.tvl1_flow(frames)[0], -20, 20)
    self.assertLess(np.abs(error).mean(), 0.2)

  def test_an_unlabelled_clip(self):
    record = _make(dataclasses.replace(_clip(), label=None))
    self.assertEqual((record.labels, record.label_indices), ((), ()))

  def test_errors(self):
    with self.assertRaisesRegex(errors.I3dError, "g22: the label 'Biking' is not in the class list"):
      _make(dataclasses.replace(_clip(), label="Biking"))
    with self.assertRaisesRegex(errors.VideoError, "the video has one frame only, and so no flow"):
      _make(_clip(end=0.04))
    with tempfile.TemporaryDirectory() as folder:
      empty = pathlib.Path(folder) / "empty.avi"
      empty.write_bytes(b"")
      with self.assertRaisesRegex(errors.VideoError, "empty.avi: the file is empty"):
        _make(clips_lib.Clip("x", str(empty)))
    for arguments, message in (
      ({"streams": ()}, "streams are none; allowed are rgb, flow, backward_flow, audio"),
      ({"streams": ("audio",)}, "streams are audio; sound is stored beside rgb or flow"),
      ({"streams": ("rgb", "backward_flow")}, "streams are rgb, backward_flow; backward flow is stored beside flow"),
      ({"flow_format": "gif"}, "flow_format is 'gif'; allowed are png, jpeg"),
      ({"flow_engine": "x"}, "flow_engine is 'x'; allowed are numba, opencv"),
    ):
      with self.assertRaisesRegex(errors.I3dError, message):
        shards.RecordConfig(**arguments)


if __name__ == "__main__":
  absltest.main()
