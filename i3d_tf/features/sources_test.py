"""Videos and records as sources: their names, and the frames and flow that they give."""

import dataclasses
import itertools
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import inspection
from i3d_tf.data import prepare
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.features import sources
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.inference import classification
from i3d_tf.models import preprocess
from i3d_tf.video import decode
from i3d_tf.visualization import source as source_lib

_OPEN = dict(streams=("rgb", "flow"), pairs=True, fps=25.0, short_side=decode.Resize(36))


class SourcesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def _write_records(self, ids=("train/run/a", "b"), **changes) -> None:
    testing.write_moving_video(self.folder / "v.avi", seed=1, num_frames=6)
    settings = shards.RecordConfig(short_side=36, jpeg_quality=100, **changes)
    made = [
      prepare.make_record(clips_lib.Clip(name, str(self.folder / "v.avi")), dataset="d", classes=(), settings=settings)
      for name in ids
    ]
    (self.folder / "records").mkdir()
    content = b"".join(shards.frame(records.serialize(record)) for record in made)
    (self.folder / "records" / "train-00000-of-00001.tfrecord").write_bytes(content)

  def _positions(self, source, **changes):
    video = sources.open_video(source, **{**_OPEN, **changes})
    return list(video.positions(0)), video

  def test_ids_are_paths_below_the_folder(self):
    (self.folder / "a" / "b").mkdir(parents=True)
    for name in ("a/x.avi", "a/b/x.y.mp4", "z.mkv"):
      (self.folder / name).touch()
    found = sources.list_sources([self.folder, self.folder / "z.mkv", "elsewhere/none.mp4"])
    self.assertEqual([source.id for source in found], ["a/b/x.y", "a/x", "z", "none"])
    self.assertEqual(found[3].name, "elsewhere/none.mp4")
    sources.check_ids(found, lambda source: source.id)
    with self.assertRaisesRegex(errors.I3dError, "x.y.mp4 and .*a/x.avi would have the same output, x; rename one"):
      sources.check_ids(found, lambda source: source.id.rpartition("/")[2][0])

  def test_a_link_has_its_own_name(self):
    (self.folder / "clip.mp4").symlink_to(self.folder / "v.avi")
    (source,) = sources.list_sources([self.folder / "clip.mp4"])
    self.assertEqual(source.id, "clip")

  def test_records_have_their_ids_and_those_that_have_none_their_numbers(self):
    self._write_records(ids=("train/run/a", "../up", "/root"))
    file = self.folder / "records" / "train-00000-of-00001.tfrecord"
    file.write_bytes(file.read_bytes() + b"torn")
    found = sources.list_sources([self.folder / "records"])
    numbered = [f"{file.name}-{number}" for number in (1, 2, 3)]
    self.assertEqual([source.id for source in found], ["train/run/a", *numbered])
    self.assertEqual(found[0].name, f"{file}, record 0")
    bare = file.rename(file.with_suffix(""))  # as MediaSequence names them
    self.assertEqual(sources.list_sources([self.folder / "records"])[0].id, "train/run/a")
    bare.rename(file)
    self.assertEqual(sources.list_sources([file]), found)
    with self.assertRaisesRegex(errors.I3dError, "record 3: the file ends within it"):
      sources.open_video(found[3], **_OPEN)

  @parameterized.parameters((("rgb",), False, 6), (("rgb",), True, 5), (("flow",), True, 5), (("rgb", "flow"), True, 5))
  def test_positions_of_a_video(self, streams, pairs, count):
    testing.write_moving_video(self.folder / "v.avi", seed=1, num_frames=6)
    (source,) = sources.list_sources([self.folder / "v.avi"])
    got, video = self._positions(source, streams=streams, pairs=pairs)
    frames = decode.read_video(self.folder / "v.avi", short_side=36)
    self.assertEqual((len(got), video.fps, video.estimate, video.count()), (count, 25.0, 6, 6))
    self.assertEqual({tuple(position) for position in got}, {streams})
    if "rgb" in streams:
      np.testing.assert_array_equal([position["rgb"] for position in got], frames[:count])
    if "flow" in streams:
      expected = codec.scale(tvl1.tvl1_flow(frames))
      np.testing.assert_array_equal([position["flow"] for position in got], expected)
      inner = expected[:, 8:-8, 8:-8, 0]
      self.assertAlmostEqual(float(np.median(inner)) * 20, -1.5, delta=0.1)  # 2 pixels, times 36 / 48

  def test_other_rates(self):
    testing.write_moving_video(self.folder / "v.avi", seed=1, num_frames=20)
    (source,) = sources.list_sources([self.folder / "v.avi"])
    for fps, count, rate in ((10.0, 9, 10.0), (0.0, 20, 25.0)):
      got, video = self._positions(source, streams=("rgb",), pairs=False, fps=fps)
      self.assertEqual((len(got), video.count(), video.fps), (count, count, rate))

  def test_a_record_gives_what_its_video_gives_to_the_precision_of_its_images(self):
    self._write_records(flow_rounding="nearest")
    source, _ = sources.list_sources([self.folder / "records"])
    got, video = self._positions(source)
    (file,) = sources.list_sources([self.folder / "v.avi"])
    expected, _ = self._positions(file)
    self.assertEqual((len(got), video.count()), (5, 6))
    for position, other in zip(got, expected, strict=True):
      np.testing.assert_allclose(position["flow"], other["flow"], atol=1.01 / 255)
      difference = np.abs(position["rgb"].astype(int) - other["rgb"])
      self.assertLess(difference.mean(), 3)

  def _write_images(self, record, *, names=("img_{:05}.jpg", "flow_x_{:05}.png", "flow_y_{:05}.png")) -> pathlib.Path:
    """The images of a record, byte for byte, as a folder; flow as an image of each axis."""
    folder = self.folder / "images"
    for name in names:
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(record.frames, start=1):
      (folder / names[0].format(number)).write_bytes(image)
    for number, image in enumerate(record.flow_frames, start=1):
      values = inspection.decode_image(image)
      for axis, name in enumerate(names[1:]):
        Image.fromarray(values[..., axis]).save(folder / name.format(number))
    return folder

  @parameterized.parameters(
    (("img_{:05}.jpg", "flow_x_{:05}.png", "flow_y_{:05}.png"),), (("frame{:06}.jpg", "u/{:04}.png", "v/{:04}.png"),)
  )
  def test_a_folder_of_images_gives_what_their_record_gives(self, names):
    self._write_records()
    of_record, _ = sources.list_sources([self.folder / "records"])
    folder = self._write_images(of_record.entry.load(), names=names)
    (of_images,) = sources.list_sources([folder])
    self.assertEqual((of_images.id, of_images.path), ("images", str(folder)))
    for side, streams in itertools.product((36, 24), (("rgb",), ("flow",), ("rgb", "flow"))):
      changes = {"short_side": decode.Resize(side), "streams": streams, "pairs": "flow" in streams}
      expected, _ = self._positions(of_record, **changes)
      got, video = self._positions(of_images, **changes)
      self.assertEqual((len(got), video.count(), video.fps), (len(expected), 6, 25.0))
      for one, other in zip(got, expected, strict=True):
        self.assertEqual(list(one), list(other))
        for stream, values in one.items():
          np.testing.assert_array_equal(values, other[stream])
    with self.assertRaisesRegex(errors.VideoError, "flow is of 25 frames per second, not 12; take fps=0, or frame_"):
      sources.open_video(of_images, **{**_OPEN, "fps": 12.0})
    facts = of_images.content.facts()
    self.assertTrue(of_images.content.is_as(facts))
    (folder / names[0].format(6)).write_bytes(b"")
    self.assertFalse(of_images.content.is_as(facts))

  def test_records_of_a_folder_of_images_hold_its_flow(self):
    self._write_records()
    record = sources.list_sources([self.folder / "records"])[0].entry.load()
    folder = self._write_images(record)
    settings = shards.RecordConfig(short_side=36)
    made = prepare.make_record(clips_lib.Clip("a", str(folder)), dataset="d", classes=(), settings=settings)
    self.assertEqual((len(made.frames), len(made.flow_frames)), (6, 5))
    for one, other in zip(made.flow_frames, record.flow_frames, strict=True):
      np.testing.assert_array_equal(inspection.decode_image(one), inspection.decode_image(other))
    for image in folder.glob("img*"):
      image.unlink()
    alone = shards.RecordConfig(short_side=36, streams=("flow",))
    made = prepare.make_record(clips_lib.Clip("a", str(folder)), dataset="d", classes=(), settings=alone)
    self.assertEqual((len(made.frames), made.flow_frames, made.width), (0, record.flow_frames, 48))

  def test_classes_and_pictures_are_of_the_folders_flow(self):
    self._write_records()
    record = sources.list_sources([self.folder / "records"])[0].entry.load()
    folder = self._write_images(record)
    expected = np.stack([
      codec.decode(np.ascontiguousarray(inspection.decode_image(image)[..., :2])) for image in record.flow_frames
    ])  # fmt: skip
    drawn = source_lib.survey(folder, preprocess.Preprocess(short_side=36, crop=32))
    np.testing.assert_array_equal(np.stack(list(drawn.flow())), expected)
    for _ in range(2):  # with frames, and without
      video = classification.Video(folder, short_side=36)
      self.assertEqual((video.num_frames, video.size), (6, (36, 48)))
      found = video.read({"flow": np.array([4, 0, 4])})["flow"]
      np.testing.assert_array_equal(found, codec.scale(expected[[4, 0, 4]]))
      for image in folder.glob("img*"):
        image.unlink()

  def test_flow_is_computed_where_a_record_has_none(self):
    self._write_records(streams=("rgb",))
    source, _ = sources.list_sources([self.folder / "records"])
    got, _ = self._positions(source)
    expected = codec.scale(tvl1.tvl1_flow(np.stack([position["rgb"] for position in got])))
    np.testing.assert_array_equal([position["flow"] for position in got[:4]], expected)

  def test_a_records_flow_is_resized_with_its_frames(self):
    self._write_records()
    source, _ = sources.list_sources([self.folder / "records"])
    whole, half = (self._positions(source, short_side=decode.Resize(side))[0][2] for side in (36, 18))
    self.assertEqual((half["rgb"].shape, half["flow"].shape), ((18, 24, 3), (18, 24, 2)))
    medians = [float(np.median(position["flow"][..., 0])) for position in (whole, half)]
    self.assertAlmostEqual(medians[1], medians[0] / 2, delta=0.01)
    self.assertLess(medians[0], -0.05)

  @parameterized.parameters(
    ((), 0.0, 25.0), ((), 12.5, 12.5), (range(0, 600_000, 100_000), 0.0, 10.0), (range(6), 0.0, None),
    ((0,) * 6, 12.5, 12.5), ((0,) * 6, 0.0, None), (range(0, 600_000, 100_000), 25.0, None),
  )  # fmt: skip
  def test_the_rate_of_records_that_state_none(self, times, fps, expected):
    """As DMVR's: from their timestamps, or what is asked for."""
    self._write_records(ids=("a",))
    (source,) = sources.list_sources([self.folder / "records"])
    record = source.entry.load()
    changed = {} if expected == 25 else {"frame_rate": 0.0, "timestamps": tuple(times)}
    record = dataclasses.replace(record, **changed, flow_timestamps=())
    with mock.patch.object(record_index.Entry, "load", return_value=record):
      if expected is None:
        with self.assertRaisesRegex(errors.I3dError, "the record (states neither its frame rate|has 1.* frames per s)"):
          sources.open_video(source, **{**_OPEN, "fps": fps})
      else:
        self.assertEqual(sources.open_video(source, **{**_OPEN, "fps": fps}).fps, expected)

  @parameterized.parameters(
    (("flow",), dict(streams=("rgb",)), "record 0: the record has no frames; take streams=flow"),
    (("rgb",), dict(fps=30.0), "record 0: the record has 25 frames per second, not 30; take fps=25"),
  )
  def test_what_a_record_cannot_give_is_refused(self, streams, changes, message):
    self._write_records(streams=streams)
    source, _ = sources.list_sources([self.folder / "records"])
    with self.assertRaisesRegex(errors.I3dError, message):
      sources.open_video(source, **{**_OPEN, **changes})

  def test_videos_beside_records_are_taken_too(self):
    self._write_records()
    folder = self.folder / "records"
    for name in ("dataset.json", "notes.txt"):
      (folder / name).touch()
    record = os.fspath(folder / "train-00000-of-00001.tfrecord")
    self.assertEqual([source.path for source in sources.list_sources([folder])], [record] * 2)
    (folder / "sub").mkdir()
    (folder / "sub" / "v.avi").touch()
    with self.assertLogs(level="WARNING") as logs:
      found = sources.list_sources([folder])
    self.assertEqual([source.path for source in found], [record, record, os.fspath(folder / "sub" / "v.avi")])
    self.assertEndsWith(logs.output[0], f"{folder}: not used: 1 file that is no video (notes.txt)")

  def test_the_id_of_a_record_names_its_files_if_it_can(self):
    (self.folder / "records").mkdir()
    path = self.folder / "records" / "train.tfrecord"
    good, bad = (
      ("x", "x" * 180, "ä" * 90, "x/" * 400 + "x"),
      ("x" * 181, "ä" * 91, "x" * 20_000, "a\0b", "..", "a//b", ""),
    )
    made = [records.Record(id=name, dataset="d") for name in (*good, "x/" * 500 + "x", *bad)]
    path.write_bytes(b"".join(shards.frame(records.serialize(record)) for record in made))
    found = [source.id for source in sources.list_sources([path])]
    self.assertEqual(found, [*good, *(f"train.tfrecord-{number}" for number in range(4, 12))])


if __name__ == "__main__":
  absltest.main()
