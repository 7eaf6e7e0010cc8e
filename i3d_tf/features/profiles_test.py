"""The files of each profile, read as the code of its users reads them, for videos of several lengths."""

import contextlib
import json
import math
import os
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.features import extraction
from i3d_tf.features import profiles
from i3d_tf.features import results
from i3d_tf.features import sources as sources_lib
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import receptive_field
from i3d_tf.video import decode

_LAYERS = {"PooledFeatures": spec.time_layers("PooledFeatures")}


class ProfilesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.stack = self.enter_context(contextlib.ExitStack())

  def _write(self, profile, num_positions, *, video="some/v_1", fps=25.0, **changes):
    """Writes the files of made features, whose value tells stream, window and crop: 1000, 10 and 1 times their numbers.

    Returns:
      The features.
    """
    given = {**profiles.PROFILES[profile].defaults, **({"window": 64} if profile == "ours" else {}), **changes}
    options = profiles.FeatureConfig(profile=profile, **given)
    if options.window == profiles.ALL:
      count = receptive_field.num_steps(spec.time_layers("PooledFeatures"), num_positions)
    else:
      count = len(extraction.window_indices(num_positions, window=options.window, hop=options.step, tail=options.tail))
    arrays = {}
    for number, stream in enumerate(options.streams):
      array = self.stack.enter_context(results.ArrayFile())
      values = 1000 * number + 10 * np.arange(count)[:, np.newaxis] + np.arange(options.crops)
      if count:
        array.append(np.repeat(values[..., np.newaxis], 1024, axis=2).astype(np.float32))
      arrays[stream] = {"PooledFeatures": array}
    source = sources_lib.Source(f"/videos/{video}.mp4", video, f"/videos/{video}.mp4")
    names = {stream: f"{stream}_imagenet" for stream in options.streams}
    features = extraction.Features(source, options, fps, num_positions, arrays, names, names, _LAYERS, 1)
    contents = profiles.PROFILES[profile].files(features)
    self.outputs = results.Folder(self.folder).write(contents)
    self.assertCountEqual(
      [output["path"] for output in self.outputs],
      [os.path.relpath(file, self.folder) for file in self.folder.rglob("*") if file.is_file()],
    )
    return features

  def test_ours(self):
    self._write("ours", 150, streams=("rgb", "flow"), hop=50)
    for number, stream in enumerate(("rgb", "flow")):
      with np.load(self.folder / f"some/v_1-{stream}-PooledFeatures.npz", allow_pickle=False) as file:
        self.assertEqual((file["features"].shape, file["features"].dtype), ((3, 1024), np.float32))
        np.testing.assert_array_equal(file["features"][:, 7], 1000 * number + np.array([0, 10, 20]))
        np.testing.assert_allclose(file["timestamps"], (np.array([0, 50, 100]) + 31.5) / 25)
        self.assertEqual((float(file["fps"]), int(file["num_frames"])), (25.0, 150))
        self.assertEqual((str(file["endpoint"]), str(file["stream"])), ("PooledFeatures", stream))
        self.assertEqual((str(file["checkpoint"]), str(file["tail"])), (f"{stream}_imagenet", "pad"))
        self.assertIn("tensorflow", json.loads(str(file["versions"])))

  def test_ours_keeps_crops_apart_if_there_are_several(self):
    self._write("ours", 128, crops=5)
    with np.load(self.folder / "some/v_1-rgb-PooledFeatures.npz") as file:
      np.testing.assert_array_equal(file["features"][..., 0], [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]])

  # Of F frames there are F - 1 positions; a stack of 64 needs 65 frames, and the next one begins 64 on.
  @parameterized.parameters((64, 0), (65, 1), (128, 1), (129, 2), (194, 3), (1000, 15))
  def test_video_features(self, num_frames, count):
    self.assertEqual(sum(start + 65 <= num_frames for start in range(0, num_frames, 64)), count)
    self._write("video_features", num_frames - 1, fps=29.97)
    loaded = {key: np.load(self.folder / f"v_1_{key}.npy") for key in ("rgb", "flow", "fps", "timestamps_ms")}
    for number, stream in enumerate(("rgb", "flow")):
      self.assertEqual(loaded[stream].dtype, np.float64)
      self.assertEqual(loaded[stream].shape, (count, 1024) if count else (0,))
      np.testing.assert_array_equal(loaded[stream][..., :1].ravel(), 1000 * number + 10 * np.arange(count))
    self.assertEqual((loaded["fps"].shape, float(loaded["fps"])), ((), 29.97))
    self.assertEqual(loaded["timestamps_ms"].dtype, np.float64)
    np.testing.assert_allclose(loaded["timestamps_ms"], 64 * (1 + np.arange(count)) / 29.97 * 1000)

  def test_video_features_with_another_step(self):
    self._write("video_features", 99, streams=("rgb",), window=24, hop=10)
    self.assertEqual(np.load(self.folder / "v_1_rgb.npy").shape, (8, 1024))
    np.testing.assert_allclose(np.load(self.folder / "v_1_timestamps_ms.npy")[:2], [24 * 40, 34 * 40])

  @parameterized.parameters((9, 1), (16, 1), (17, 2), (64, 7), (79, 9), (250, 31))
  def test_pytorch_i3d(self, num_frames, count):
    self._write("pytorch_i3d", num_frames)
    feat = np.load(os.path.join(self.folder, "v_1.npy"))
    self.assertEqual((feat.shape, feat.dtype), ((count, 1, 1, 1024), np.float32))
    np.testing.assert_array_equal(feat[:, 0, 0, 3], 10 * np.arange(count))

  def test_pytorch_i3d_of_two_streams_is_a_folder_for_each(self):
    self._write("pytorch_i3d", 64, streams=("rgb", "flow"))
    self.assertEqual(np.load(self.folder / "flow" / "v_1.npy")[2, 0, 0, 0], 1020)
    self.assertEqual(np.load(self.folder / "rgb" / "v_1.npy")[2, 0, 0, 0], 20)

  # `range(clipped_length // frequency + 1)` chunks of 16, with clipped_length = frame_cnt - 16.
  @parameterized.parameters((17, 4, 1), (20, 4, 2), (111, 4, 24), (31, 16, 1), (32, 16, 2), (250, 16, 15))
  def test_cmcs(self, num_frames, hop, count):
    self.assertEqual((num_frames - 16) // hop + 1, count)
    self._write("cmcs", num_frames, hop=hop)
    lengths = set()
    for number, stream in enumerate(("rgb", "flow")):
      feature_data = np.load(os.path.join(self.folder, f"v_1-{stream}.npz"))
      frame_cnt = feature_data["frame_cnt"].item()
      feature = feature_data["feature"]
      self.assertEqual((frame_cnt, feature_data["video_name"].item()), (num_frames, "v_1"))
      self.assertEqual((feature.shape, feature.dtype), ((1, count, 1024), np.float32))
      np.testing.assert_array_equal(feature[0, :, 5], 1000 * number + 10 * np.arange(count))
      lengths.add((frame_cnt, feature.shape[1]))
    self.assertLen(lengths, 1)

  def test_cmcs_of_ten_crops_has_the_order_of_its_extractor(self):
    self._write("cmcs", 40, crops=10, streams=("rgb",))
    feature = np.load(self.folder / "v_1-rgb.npz")["feature"]
    self.assertEqual(feature.shape, (10, 2, 1024))
    np.testing.assert_array_equal(feature[:, 0, 0], np.arange(10))
    # 0 to 4: corners top left and right, bottom left and right, centre; their mirror images from 5 on. The mirrored
    # image's top left corner shows our top right one.
    order = profiles.FeatureConfig(profile="cmcs", **{**profiles.PROFILES["cmcs"].defaults, "crops": 10}).order
    self.assertEqual(order, (0, 1, 4, 2, 3, 6, 5, 9, 8, 7))

  @parameterized.parameters((16, 1), (19, 1), (20, 2), (500, 122))
  def test_actionformer(self, num_frames, count):
    self._write("actionformer", num_frames)
    feats = np.load(os.path.join(self.folder, "v_1" + ".npy")).astype(np.float32)
    self.assertEqual(feats.shape, (count, 2048))
    np.testing.assert_array_equal(feats[:, 1023], 10 * np.arange(count))
    np.testing.assert_array_equal(feats[:, 1024], 1000 + 10 * np.arange(count))
    self.assertEqual(np.ascontiguousarray(feats.transpose()).shape, (2048, count))

  @parameterized.parameters((("rgb",), 1024), (("rgb", "flow"), 2048))
  def test_rtfm(self, streams, size):
    self._write("rtfm", 50, streams=streams)
    features = np.array(np.load(self.folder / "v_1_i3d.npy", allow_pickle=True), dtype=np.float32)
    self.assertEqual(features.shape, (3, 10, size))
    self.assertEqual(_options("rtfm").order, (0, 1, 4, 2, 3, 6, 5, 9, 8, 7))
    features = features.transpose(1, 0, 2)
    np.testing.assert_array_equal(features[:, 2, 0], 20 + np.arange(10))

  def test_the_same_features_are_the_same_bytes(self):
    digests = []
    for _ in range(2):
      self._write("ours", 70)
      digests.append([output["sha256"] for output in self.outputs])
      self.assertEqual([output["shape"] for output in self.outputs], [[2, 1024]])
      (self.folder / self.outputs[0]["path"]).unlink()
    self.assertEqual(*digests)

  def test_outputs_have_the_shapes_of_the_files(self):
    self._write("cmcs", 40)
    self.assertEqual([output["shape"] for output in self.outputs], [[1, 2, 1024]] * 2)


def _options(profile="ours", **changes):
  return profiles.FeatureConfig(profile=profile, **{**profiles.PROFILES[profile].defaults, **changes})


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters(*profiles.PROFILES)
  def test_every_profile_allows_its_own_defaults(self, profile):
    options = _options(profile)
    self.assertEqual(options.meaning()["window"], profiles.PROFILES[profile].defaults["window"])
    self.assertEqual(options.needs_pairs, "flow" in options.streams)

  def test_the_checkpoint_of_a_joint_network_takes_both_streams(self):
    options = _options(joint_checkpoint="runs/joint")
    self.assertEqual((options.checkpoints, options.streams), ({"joint": "runs/joint"}, ("rgb", "flow")))
    self.assertEqual(_options(streams=("flow",)).checkpoints, {"flow": "flow_imagenet"})

  def test_streams_have_one_order_and_repetitions_count_once(self):
    options = _options(streams=("flow", "rgb", "flow"), endpoints=("Mixed_5c", "Mixed_3c", "Mixed_5c"))
    self.assertEqual(options.streams, ("rgb", "flow"))
    self.assertEqual(options.endpoints, ("Mixed_5c", "Mixed_3c"))

  def test_the_hop_is_the_window_unless_given(self):
    self.assertEqual((_options(window=20).step, _options(window=20, hop=3).step), (20, 3))
    self.assertEqual(_options("actionformer").step, 4)

  @parameterized.parameters((64, 1), (16, 4), (100, 1), (9, 7))
  def test_a_batch_has_about_64_frames(self, window, batch):
    self.assertEqual(_options(window=window).num_batch, batch)
    self.assertEqual(_options(window=window, batch=3).num_batch, 3)

  def test_rgb_of_video_features_has_pairs_as_its_flow(self):
    self.assertTrue(_options("video_features", streams=("rgb",)).needs_pairs)
    self.assertFalse(_options("cmcs", streams=("rgb",)).needs_pairs)

  def test_how_it_is_computed_has_no_meaning(self):
    one, other = (_options(batch=batch, chunk=64, threads=batch, rgb_checkpoint=str(batch)) for batch in (1, 2))
    self.assertEqual(one.meaning(), other.meaning())
    self.assertNotEqual(one.meaning(), _options(tail="loop").meaning())

  @parameterized.parameters(
    ("ours", dict(streams=("rgb", "depth")), "streams is rgb,depth; allowed are rgb, flow"),
    ("ours", dict(streams=()), "streams is empty; name at least one"),
    ("ours", dict(endpoints=()), "endpoints is empty; name at least one"),
    ("ours", dict(pooling="time"), "pooling is 'time'; allowed are none, space, space_time"),
    ("ours", dict(crops=3), "crops is 3; allowed are 1, 5, 10"),
    ("ours", dict(tail="keep"), "tail is 'keep'; allowed are drop, pad, loop"),
    ("ours", dict(hop=0), "hop is 0; it must be a whole number, at least 1"),
    ("ours", dict(window=0, hop=4), "hop is 4, but with window=all there is one window"),
    ("pytorch_i3d", dict(window=64), "the profile pytorch_i3d has window=all, not 64; leave it out"),
    ("rtfm", dict(crops=1), "the profile rtfm has crops=10, not 1"),
    ("video_features", dict(tail="pad"), "the profile video_features has tail=drop, not pad"),
    ("video_features", dict(hop=66), "hop is 66 and window 64, but video_features leaves no frames"),
    ("cmcs", dict(endpoints=("Mixed_5c", "Logits")), "the profile cmcs has one endpoint, not Mixed_5c,Logits"),
  )
  def test_what_cannot_be_is_refused(self, profile, changes, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      _options(profile, **changes)


# Rows of N frames at the preset's rate, written out from the sources; see the table of presets.
_chunks = lambda window, hop, pairs: lambda n: max((n - pairs - window) // hop + 1, 0)
_COUNTS = {
  "video_features": lambda n: max((n - 1) // 64, 0),
  "bmt": lambda n: math.ceil((n - 1) / 64),  # with flow; of RGB alone ceil(n / 64)
  "thumos14_actionformer": _chunks(16, 4, 1),
  "anet_actionformer": lambda n: (n - 1) // 16,
  "cmcs": _chunks(16, 16, 1),
  "rtfm_ucf": lambda n: n // 16,
  "rtfm_shanghaitech": lambda n: n // 16,
  "mgfn_ucf": lambda n: n // 16,
  "gowthamg": _chunks(16, 16, 0),
  "xd_violence": lambda n: n // 16,
  "ucf_crime_deepmil": lambda n: n // 16,
  "pytorch_i3d": lambda n: max(math.ceil(n / 8) - 1, 0),
  "wlasl": lambda n: math.ceil(n / 64),
  "bsl1k": _chunks(16, 8, 0),
}


def _preset(name, **given):
  brought = {"rgb_checkpoint": "r50.pth"} if profiles.PRESETS[name].networks != ("i3d",) else {}
  return profiles.from_preset(name, **brought, **given)


class PresetsTest(parameterized.TestCase):
  def test_every_preset_has_a_formula(self):
    self.assertEqual(set(_COUNTS), set(profiles.PRESETS))

  @parameterized.parameters(*_COUNTS)
  def test_rows_of_1_to_200_frames(self, name):
    lengths = range(1, 201)
    got = [extraction.num_rows(_preset(name), length) for length in lengths]
    self.assertEqual(got, [_COUNTS[name](length) for length in lengths])

  def test_rows_of_bmts_rgb_alone(self):
    got = [extraction.num_rows(_preset("bmt", streams=("rgb",)), length) for length in range(1, 201)]
    self.assertEqual(got, [math.ceil(length / 64) for length in range(1, 201)])

  def test_rows_of_bmts_published_sample(self):
    folder = testing.shared("features/bmt")
    options = _preset("bmt")
    num_frames = decode.count_frames(folder / "women_long_jump.mp4", fps=options.fps)
    self.assertEqual(num_frames, 877)
    for stream in options.streams:
      published = np.load(folder / f"women_long_jump_{stream}.npy")
      self.assertEqual((extraction.num_rows(options, num_frames), 1024), published.shape)
      self.assertEqual(published.dtype, np.float32)

  @parameterized.parameters(
    ("rtfm_ucf", (0, 1, 2, 3, 4, 6, 5, 8, 7, 9)),
    ("gowthamg", (0, 1, 4, 2, 3, 6, 5, 9, 8, 7)),
    ("xd_violence", (4, 0, 1, 2, 3)),
    ("bmt", (4,)),
  )
  def test_order_of_crops(self, name, order):
    self.assertEqual(_preset(name).order, order)

  def test_given_options_take_the_place_of_the_presets(self):
    options = _preset("xd_violence", crops=10, fps=25)
    self.assertEqual((options.crops, options.fps, options.window, options.profile), (10, 25.0, 16, "xd_violence"))
    self.assertEqual(options.meaning()["preset"], "xd_violence")
    self.assertNotIn("preset", _options("cmcs").meaning())

  def test_weights_that_are_not_released_must_be_given(self):
    with self.assertRaisesRegex(errors.I3dError, "the preset mgfn_ucf is of i3d_r50_caffe2 or .*; give rgb_checkpoint"):
      profiles.from_preset("mgfn_ucf")
    with self.assertRaisesRegex(errors.I3dError, "preset is 'bert'; allowed are video_features, bmt, "):
      profiles.from_preset("bert")

  def test_a_file_a_crop(self):
    with results.ArrayFile() as array:
      array.append(np.tile(np.arange(5, dtype=np.float32)[:, np.newaxis], (3, 1, 1024)))
      source = sources_lib.Source("v.mp4", "some/v", "v.mp4")
      names, arrays = {"rgb": "rgb_imagenet"}, {"rgb": {"PooledFeatures": array}}
      features = extraction.Features(source, _preset("xd_violence"), 24.0, 50, arrays, names, names, _LAYERS, 1)
      found = profiles.PROFILES["xd_violence"].files(features)
    self.assertEqual(list(found), [f"v__{crop}.npy" for crop in range(5)])
    for crop, values in enumerate(found.values()):
      np.testing.assert_array_equal(values, np.full([3, 1024], crop, np.float32))


if __name__ == "__main__":
  absltest.main()
