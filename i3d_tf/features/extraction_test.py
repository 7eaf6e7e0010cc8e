"""Features of whole videos against the network itself, applied to the frames that the windows are of."""

import dataclasses
import functools
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.features import extraction
from i3d_tf.features import networks
from i3d_tf.features import profiles
from i3d_tf.features import sources as sources_lib
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.models import zoo
from i3d_tf.video import decode
from i3d_tf.weights import release
from i3d_tf.weights import saved

_FOLDER = tempfile.TemporaryDirectory()  # deleted when the process ends
_CROP = 32
_NETWORK = dict(average_space=True, short_side=36, crop=_CROP)


@functools.cache
def _checkpoint(stream):
  path = pathlib.Path(_FOLDER.name) / stream
  testing.write_network(path, stream=stream, **_NETWORK)
  return str(path)


@functools.cache
def _video(num_frames):
  path = pathlib.Path(_FOLDER.name) / f"{num_frames}.avi"
  testing.write_moving_video(path, seed=num_frames, num_frames=num_frames)
  return sources_lib.Source(str(path), path.stem, str(path))


@functools.cache
def _inputs(stream, num_frames, pairs=False):
  """The network's input, whole frames `[T, H, W, C]` in [-1, 1]."""
  frames = decode.read_video(_video(num_frames).path, short_side=36)
  if stream == "flow":
    return codec.scale(tvl1.tvl1_flow(frames))
  return (2 * frames[: len(frames) - pairs].astype(np.float32) / 255 - 1).astype(np.float32)


@functools.cache
def _network(stream, endpoints):
  return networks.I3dFeatures(_checkpoint(stream), endpoints)


def _expected(stream, clips, endpoint):
  """The endpoint of the centre crop of clips `[B, T, H, W, C]`."""
  top, left = ((side - _CROP) // 2 for side in clips.shape[2:4])
  view = clips[:, :, top : top + _CROP, left : left + _CROP]
  return _network(stream, (endpoint,))(np.ascontiguousarray(view))[endpoint].numpy()


def _options(**changes):
  given = {f"{stream}_checkpoint": _checkpoint(stream) for stream in ("rgb", "flow")}
  return profiles.FeatureConfig(**{"window": 16, "hop": 8, "threads": 1, **given, **changes})


@functools.cache
def _extractor(options):
  return extraction.Extractor(options)


def _extract(num_frames, **changes):
  """The features, and the arrays by (stream, endpoint)."""
  with _extractor(_options(**changes)).extract(_video(num_frames)) as features:
    arrays = {(s, e): array.load() for s, by_endpoint in features.arrays.items() for e, array in by_endpoint.items()}
    return features, arrays


class WindowsTest(parameterized.TestCase):
  @parameterized.parameters(("drop", 1), ("pad", 3), ("loop", 2))
  def test_windows_are_the_networks_of_their_frames(self, tail, batch):
    features, arrays = _extract(45, tail=tail, batch=batch)
    indices = extraction.window_indices(45, window=16, hop=8, tail=tail)
    expected = _expected("rgb", _inputs("rgb", 45)[indices], "PooledFeatures").mean(axis=1)
    self.assertEqual(features.num_positions, 45)
    self.assertLen(indices, {"drop": 4, "pad": 5, "loop": 5}[tail])
    np.testing.assert_allclose(arrays["rgb", "PooledFeatures"][:, 0], expected, atol=1e-5)
    # One in another's place would be seen.
    self.assertGreater(np.abs(np.diff(expected, axis=0)).max(axis=1).min(), 1e-3)
    np.testing.assert_allclose(features.timestamps("PooledFeatures"), (8 * np.arange(len(indices)) + 7.5) / 25)

  @parameterized.parameters(*profiles.POOLINGS)
  def test_poolings_of_several_endpoints(self, pooling):
    names = ("Mixed_3c", "StepLogits", "Logits")
    features, arrays = _extract(33, endpoints=names, pooling=pooling, hop=16, tail="drop")
    clips = _inputs("rgb", 33)[extraction.window_indices(33, window=16, hop=16, tail="drop")]
    for name in names:
      expected = networks.pool(_expected("rgb", clips, name), pooling)
      np.testing.assert_allclose(arrays["rgb", name][:, 0], expected, atol=1e-5)
    # Of Mixed_3c a step every 2 frames, the middle one's first frame half a stride after the first's padding.
    times = features.timestamps("Mixed_3c")
    self.assertEqual(times.shape, {"space_time": (2,)}.get(pooling, (2, 8)))
    if pooling != "space_time":
      np.testing.assert_allclose(np.diff(times, axis=1), 2 / 25)
      np.testing.assert_allclose(np.diff(times, axis=0), 16 / 25)

  def test_both_streams_have_as_many_positions_as_flows(self):
    features, arrays = _extract(34, streams=("rgb", "flow"), tail="drop")
    indices = extraction.window_indices(33, window=16, hop=8, tail="drop")
    self.assertEqual(features.num_positions, 33)
    for stream in ("rgb", "flow"):
      expected = _expected(stream, _inputs(stream, 34, pairs=True)[indices], "PooledFeatures").mean(axis=1)
      np.testing.assert_allclose(arrays[stream, "PooledFeatures"][:, 0], expected, atol=1e-5)

  def test_crops(self):
    for stream in ("rgb", "flow"):
      _, arrays = _extract(17, streams=(stream,), crops=10, tail="drop")
      clips = _inputs(stream, 17)[np.newaxis, :16]
      mirrored = clips[..., ::-1, :] * (np.float32([-1, 1]) if stream == "flow" else 1)
      height, width = clips.shape[2:4]
      corners = ((0, 0), (0, width - _CROP), (height - _CROP, 0), (height - _CROP, width - _CROP))
      places = (*corners, ((height - _CROP) // 2, (width - _CROP) // 2))
      for number, (top, left) in enumerate(places):
        for crop, whole, first in ((number, clips, left), (number + 5, mirrored, width - _CROP - left)):
          view = whole[:, :, top : top + _CROP, first : first + _CROP]
          expected = _network(stream, ("PooledFeatures",))(np.ascontiguousarray(view))["PooledFeatures"].numpy()
          np.testing.assert_allclose(arrays[stream, "PooledFeatures"][0, crop], expected.mean(axis=1)[0], atol=1e-5)

  def test_a_centre_with_half_a_pixel(self):
    columns = np.broadcast_to(np.arange(43, dtype=np.uint8)[:, np.newaxis], (1, 1, 35, 43, 3))
    for is_even, first in ((False, 5), (True, 6)):  # 43 - 32 is 11
      (crop,) = networks._crops(columns, 32, (4,), "rgb", is_even=is_even)
      self.assertEqual(round((crop[0, 0, 0, 0, 0] + 1) * 127.5), first)

  def test_plain_rgb_is_what_a_network_computes_with(self):
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 2, 3, 3, 3)).astype(np.float32)
    for mean, std in ((0.45, 0.225), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))):
      made = networks.FeatureNetwork.__new__(networks.FeatureNetwork)
      made._network = mock.Mock()
      made._network.model.rgb_mean, made._network.model.rgb_std = mean, std
      given = made._before_normalization(clip)
      np.testing.assert_allclose((given * 0.5 + 0.5 - np.array(mean)) / std, clip, atol=1e-6)
      self.assertGreater(np.abs(given - clip).max(), 0.1)

  def test_crops_in_another_order(self):
    ours, theirs = (
      _extract(17, streams=("rgb",), crops=10, tail="drop", crop_order=order)[1]["rgb", "PooledFeatures"]
      for order in ("evaluation", "ten_crop")
    )
    np.testing.assert_allclose(theirs, ours[:, [0, 1, 2, 3, 4, 6, 5, 8, 7, 9]], atol=1e-5)
    self.assertGreater(np.abs(theirs - ours).max(), 1e-3)

  @parameterized.parameters((45, 13), (34, 9))  # the last window has 13 frames, or 2 that are filled up to 9
  def test_a_shorter_last_window_after_an_offset(self, num_frames, least):
    features, arrays = _extract(num_frames, tail="short", hop=16, offset=16, batch=4)
    numbers = np.minimum(np.arange(32, 32 + least), num_frames - 1)
    clips = [_inputs("rgb", num_frames)[np.newaxis, each] for each in (np.arange(16, 32), numbers)]
    expected = [_expected("rgb", clip, "PooledFeatures").mean(axis=1)[0] for clip in clips]
    np.testing.assert_allclose(arrays["rgb", "PooledFeatures"][:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(features.timestamps("PooledFeatures"), np.array([23.5, 39.5]) / 25)

  def test_frames_are_resized_as_asked(self):
    found = {}
    for changes in ({}, {"resize": "pillow"}, {"resize": "lanczos", "frame_size": (50, 40)}):
      found[str(changes)] = _extract(17, tail="drop", **changes)[1]["rgb", "PooledFeatures"][0, 0]
    frames = decode.read_video(_video(17).path, short_side=None)[:16]
    small = [Image.fromarray(frame).resize((50, 40), Image.Resampling.LANCZOS) for frame in frames]
    clip = (2 * np.float32(small) / 255 - 1)[np.newaxis]
    expected = _expected("rgb", clip, "PooledFeatures").mean(axis=1)[0]
    np.testing.assert_allclose(list(found.values())[2], expected, atol=1e-5)
    self.assertGreater(np.abs(np.diff(list(found.values())[:2], axis=0)).max(), 1e-4)
    with self.assertRaisesRegex(errors.I3dError, "crop is 32 pixels; it must be at most frame_size, which is 30"):
      _extract(17, frame_size=(50, 30))

  def test_a_preset_refuses_other_networks(self):
    with self.assertRaisesRegex(errors.I3dError, "rgb is of i3d; the preset rtfm_ucf is of i3d_r50_caffe2 or"):
      extraction.Extractor(profiles.from_preset("rtfm_ucf", rgb_checkpoint=_checkpoint("rgb")))

  def test_five_crops_are_the_first_of_ten(self):
    found = [_extract(17, streams=("rgb",), crops=crops, tail="drop")[1] for crops in (5, 10)]
    five, ten = (arrays["rgb", "PooledFeatures"] for arrays in found)
    self.assertEqual((five.shape[1], ten.shape[1]), (5, 10))
    np.testing.assert_array_equal(five, ten[:, :5])

  def test_a_video_shorter_than_a_window(self):
    with self.assertRaisesRegex(errors.VideoError, "12.avi: the video has 12 frames, fewer than a window of 16; tail="):
      _extract(12, tail="drop", batch=1)
    with self.assertRaisesRegex(errors.VideoError, "the video has 11 frames with flow, fewer"):
      _extract(12, tail="drop", streams=("flow",), crops=10)
    _, arrays = _extract(12, tail="loop", batch=2)
    clips = _inputs("rgb", 12)[np.newaxis, np.arange(16) % 12]
    np.testing.assert_allclose(
      arrays["rgb", "PooledFeatures"][0, 0], _expected("rgb", clips, "PooledFeatures")[0, 0], atol=1e-5
    )

  def test_progress_ends_at_the_end(self):
    seen = []
    with _extractor(_options(tail="loop", batch=2)).extract(_video(45), on_frames=lambda *values: seen.append(values)):
      self.assertEqual(seen, [(24, 45), (40, 45), (45, 45)])


class WholeTest(parameterized.TestCase):
  @parameterized.parameters(
      ("Mixed_3c", "none"), ("Mixed_5c", "none"), ("Mixed_5c", "space"), ("Mixed_5c", "space_time"),
      ("StepLogits", "none"),
  )  # fmt: skip
  def test_chunks_are_the_single_pass(self, endpoint, pooling):
    expected = _expected("rgb", _inputs("rgb", 150)[np.newaxis], endpoint)[0]
    features, arrays = _extract(150, endpoints=(endpoint,), pooling=pooling, window=0, hop=None, chunk=24)
    value = networks.pool(expected[np.newaxis], pooling)
    value = value if pooling == "space_time" else value[0]
    np.testing.assert_allclose(arrays["rgb", endpoint][:, 0], value, atol=1e-5)
    self.assertLen(features.timestamps(endpoint), len(value))
    self.assertGreater(np.abs(np.diff(expected.reshape(len(expected), -1), axis=0)).max(axis=1).min(), 1e-4)

  def test_several_streams_endpoints_and_crops_together(self):
    names = ("Mixed_4b", "PooledFeatures")
    _, arrays = _extract(
      101, streams=("rgb", "flow"), endpoints=names, pooling="space", window=0, hop=None, chunk=40, crops=10
    )
    for stream in ("rgb", "flow"):
      for name in names:
        expected = networks.pool(_expected(stream, _inputs(stream, 101, pairs=True)[np.newaxis], name), "space")[0]
        np.testing.assert_allclose(arrays[stream, name][:, 4], expected, atol=1e-5)
        self.assertGreater(np.abs(arrays[stream, name][:, 9] - expected).max(), 1e-3)

  def test_the_time_of_a_step_is_the_middle_of_what_it_sees(self):
    features, _ = _extract(64, endpoints=("Mixed_5c", "Conv3d_1a_7x7"), pooling="space", window=0, hop=None)
    # By hand, see chunks_test: the first step of Mixed_5c sees frames -44 to 54, that of the convolution -2 to 4.
    np.testing.assert_allclose(features.timestamps("Mixed_5c"), (5 + 8 * np.arange(8)) / 25)
    np.testing.assert_allclose(features.timestamps("Conv3d_1a_7x7"), (1 + 2 * np.arange(32)) / 25)

  def test_too_short_and_changing_videos_are_named(self):
    with self.assertRaisesRegex(errors.VideoError, "8.avi: the video has 8 frames, too few for PooledFeatures"):
      _extract(8, pooling="space", window=0, hop=None)
    with mock.patch.object(decode, "count_frames", lambda *_, **__: 46):
      with self.assertRaisesRegex(errors.VideoError, "45.avi: the video ended after 45 of 46 frames"):
        _extract(45, pooling="space", window=0, hop=None)


_SMALL = {"width_multiplier": 0.05, "crop": 32, "short_side": 36}


class EveryNetworkTest(parameterized.TestCase):
  """Networks beside I3D, by their own clips: stride, number of frames, stacks of flow, both streams at once."""

  def _write(self, model, **fields):
    path = pathlib.Path(_FOLDER.name) / "-".join(map(str, (model, *fields.values())))
    clip = dataclasses.asdict(zoo.preprocess(model, fields.get("stream", "rgb")))
    testing.write_network(path, model=model, **{**clip, **_SMALL, **fields})
    return str(path)

  @parameterized.parameters(
    ("x3d_xs", 48, {}), ("r2plus1d_18", 32, {}), ("s3d", 64, {"average_space": True}), ("i3d_r50", 64, {}),
    ("convnet_lstm", 125, {"average_space": True}), ("tsm_r50", 64, {}), ("resnet_50", 64, {}),
  )  # fmt: skip
  def test_a_window_is_the_networks_clip(self, model, window, fields):
    path = self._write(model, **fields)
    options = profiles.FeatureConfig(rgb_checkpoint=path, endpoints=("PooledFeatures", "Logits"), threads=1)
    extractor = extraction.Extractor(options)
    self.assertEqual(extractor.options.window, window)
    with extractor.extract(_video(45)) as features:
      found = {name: array.load()[:, 0] for name, array in features.arrays["rgb"].items()}
    network, info = saved.load(path)
    indices = extraction.window_indices(45, window=window, hop=window, tail="pad")[:, :: info.preprocess.frame_stride]
    views = _inputs("rgb", 45)[indices][:, :, 2:34, 8:40]
    logits, endpoints = network(tf.constant(np.ascontiguousarray(views)))
    np.testing.assert_allclose(found["Logits"], logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    pooled = networks.pool(endpoints["PooledFeatures"].numpy(), "space_time")
    np.testing.assert_allclose(found["PooledFeatures"], pooled, rtol=1e-4, atol=1e-4 * np.abs(pooled).max())
    self.assertEqual(features.timestamps("Logits").shape, (len(indices),))

  def test_every_frame_of_a_window(self):
    path = self._write("i3d_r50_caffe2")
    options = profiles.FeatureConfig(rgb_checkpoint=path, window=16, tail="drop", stride=1, threads=1)
    with extraction.Extractor(options).extract(_video(45)) as features:
      found = features.arrays["rgb"]["PooledFeatures"].load()[:, 0]
    network, info = saved.load(path)
    self.assertEqual(info.preprocess.frame_stride, 2)
    views = _inputs("rgb", 45)[extraction.window_indices(45, window=16, hop=16, tail="drop")][:, :, 2:34, 8:40]
    pooled = networks.pool(network(tf.constant(np.ascontiguousarray(views)))[1]["PooledFeatures"].numpy(), "space_time")
    np.testing.assert_allclose(found, pooled, rtol=1e-4, atol=1e-4 * np.abs(pooled).max())
    for name in ("rtfm_ucf", "mgfn_ucf", "gowthamg"):
      self.assertEqual(profiles.from_preset(name, rgb_checkpoint=path).stride, 1)

  @parameterized.parameters(("r3d_18", "layer2_1"), ("s3d", "Mixed_4b"))
  def test_whole_videos_in_chunks(self, model, endpoint):
    path = self._write(model, **({"average_space": True} if model == "s3d" else {}))
    options = profiles.FeatureConfig(
      rgb_checkpoint=path, endpoints=(endpoint,), window=profiles.ALL, pooling="space", chunk=16, threads=1
    )
    with extraction.Extractor(options).extract(_video(45)) as features:
      found = features.arrays["rgb"][endpoint].load()[:, 0]
    network, info = saved.load(path)
    clip = _inputs("rgb", 45)[np.newaxis, :: info.preprocess.frame_stride, 2:34, 8:40]
    expected = network(tf.constant(np.ascontiguousarray(clip)))[1][endpoint].numpy().mean(axis=(2, 3))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    self.assertLen(features.timestamps(endpoint), len(expected))

  def test_what_cannot_be_had_in_chunks_is_said(self):
    with self.assertRaisesRegex(errors.I3dError, "cannot be computed in chunks: a gate before it averages over"):
      options = profiles.FeatureConfig(
        rgb_checkpoint=self._write("x3d_xs"), endpoints=("layer1_0",), window=profiles.ALL
      )
      extraction.Extractor(options)

  def test_stacks_of_flow_and_both_streams_at_once(self):
    path = self._write("two_stream", stream="joint", flow_stack=3, num_frames=1)
    options = profiles.FeatureConfig(
      joint_checkpoint=path, endpoints=("Logits",), window=4, hop=4, tail="drop", threads=1
    )
    with extraction.Extractor(options).extract(_video(17)) as features:
      found = features.arrays["joint"]["Logits"].load()[:, 0]
    self.assertEqual(features.num_positions, 14)  # of 16 flow fields, three at each position
    network, _ = saved.load(path)
    flow = _inputs("flow", 17)
    stacked = np.concatenate([flow[start : start + 14] for start in range(3)], axis=-1)
    cut = lambda frames: np.ascontiguousarray(frames[:12].reshape(3, 4, *frames.shape[1:])[:, :, 2:34, 8:40])
    clips = {"rgb": tf.constant(cut(_inputs("rgb", 17)[:14])), "flow": tf.constant(cut(stacked))}
    logits, _ = network(clips)
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())


class ExtractFeaturesTest(absltest.TestCase):
  def test_the_function_gives_what_the_files_hold(self):
    found = extraction.extract_features(
      _video(45).path, {"rgb": _checkpoint("rgb"), "flow": _checkpoint("flow")}, window=16, hop=8, threads=1
    )
    _, arrays = _extract(45, streams=("rgb", "flow"))
    for stream in ("rgb", "flow"):
      np.testing.assert_array_equal(found[stream]["PooledFeatures"], arrays[stream, "PooledFeatures"][:, 0])
      self.assertEqual(found.timestamps[stream]["PooledFeatures"].shape, (5,))
    self.assertEqual((found.num_frames, found.fps), (44, 25.0))
    whole = extraction.extract_features(_video(45).path, _checkpoint("rgb"), window="all", pooling="space")
    self.assertEqual(whole["rgb"]["PooledFeatures"].shape[0], 5)


class ExtractorTest(absltest.TestCase):
  def test_what_does_not_go_together(self):
    for changes, message in (
      (dict(rgb_checkpoint=_checkpoint("flow")), "takes clips of the stream flow; give it as the checkpoint of flow"),
      (dict(crop=40), "crop is 40 pixels; it must be at most short_side, which is 36"),
    ):
      with self.assertRaisesRegex(errors.I3dError, message):
        extraction.Extractor(_options(**changes))

  def test_what_a_network_does_not_give(self):
    for changes, message in (
      (dict(endpoints=("Mixed_6a",)), "is a network i3d, which has Conv3d_1a_7x7, .*StepLogits"),
      (dict(window=8), "window is 8 frames, which does not fit PooledFeatures: .*needs at least 9"),
      (dict(window=0, hop=None, endpoints=("Logits",)), "Logits cannot be computed in chunks"),
    ):
      with self.assertRaisesRegex(errors.I3dError, message):
        extraction.Extractor(_options(**changes))

  def test_features_that_are_not_finite_are_an_error(self):
    path = pathlib.Path(_FOLDER.name) / "nan"
    testing.write_network(path, **_NETWORK)
    network = networks.FeatureNetwork("rgb", _options(rgb_checkpoint=str(path), endpoints=("Logits",)))
    bias = release.named_variables(network._network.model)[release.HEAD_BIAS]
    bias.assign(tf.fill(bias.shape, np.nan))
    with self.assertRaisesRegex(errors.I3dError, "logits of .* are not finite"):
      network({"rgb": np.zeros([1, 16, 36, 48, 3], np.uint8)})

  def test_other_weights_have_another_meaning(self):
    meaning = _extractor(_options()).meaning
    self.assertEqual((meaning["short_side"], meaning["crop"]), (36, {"rgb": 32}))
    path = pathlib.Path(_FOLDER.name) / "other"
    testing.write_network(path, dataset="other", **_NETWORK)
    self.assertEqual(extraction.Extractor(_options(rgb_checkpoint=str(path))).meaning, meaning)
    self.assertNotEqual(extraction.Extractor(_options(endpoints=("Mixed_3c",))).meaning["weights"], meaning["weights"])


if __name__ == "__main__":
  absltest.main()
