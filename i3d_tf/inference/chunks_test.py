"""Chunks against the single pass of a narrow network, and the arithmetic against numbers worked out by hand."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.inference import chunks
from i3d_tf.models import inception
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import receptive_field
from i3d_tf.models import zoo
from i3d_tf.weights import release

_SIDE = 16
_STEP_ENDPOINTS = (*map(spec.endpoint_name, spec.ROWS), spec.POOLED_FEATURES, spec.STEP_LOGITS)
_ENDPOINTS = ("Mixed_3c", "Mixed_5c", "StepLogits")


@functools.cache
def _network():
  model = inception.InceptionI3d(5, width_multiplier=0.05, average_space=True)
  model.build(3)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, variable.shape.as_list()))
  signature = [tf.TensorSpec([None, None, _SIDE, _SIDE, 3], tf.float32)]
  return tf.function(lambda clips: model(clips)[1], input_signature=signature, autograph=False)


@functools.cache
def _video(num_frames, views=1, side=_SIDE):
  return np.random.default_rng(num_frames).uniform(-1, 1, [views, num_frames, side, side, 3]).astype(np.float32)


@functools.cache
def _whole(num_frames):
  return {name: value.numpy() for name, value in _network()(_video(num_frames)).items()}


def _frames(video):
  return (video[:, index] for index in range(video.shape[1]))


def _layers(*endpoints):
  return {name: spec.time_layers(name) for name in endpoints}


def _seen_frames(endpoint, steps, num_frames):
  return receptive_field.seen(spec.time_layers(endpoint), steps, num_frames)


def _num_steps(endpoint, num_frames):
  return receptive_field.num_steps(spec.time_layers(endpoint), num_frames)


def _stride(endpoint):
  return receptive_field.stride(spec.time_layers(endpoint))


def _extract(video, endpoints, chunk):
  layers = _layers(*endpoints)
  pieces = list(chunks.extract(_network(), _frames(video), layers=layers, num_frames=video.shape[1], chunk=chunk))
  return {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in endpoints}, len(pieces)


class ExtractTest(parameterized.TestCase):
  def _assert_whole(self, values, num_frames):
    for name, value in values.items():
      expected = _whole(num_frames)[name]
      self.assertEqual(value.shape, expected.shape)
      np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5, err_msg=name)

  @parameterized.product(endpoint=_ENDPOINTS, chunk=(64, 120))
  def test_400_frames(self, endpoint, chunk):
    values, num_pieces = _extract(_video(400), [endpoint], chunk)
    self.assertEqual(num_pieces, {64: 7, 120: 4}[chunk])
    self._assert_whole(values, 400)
    # Steps differ from the next by a hundred times the tolerance, so that one in another's place would be seen.
    differences = np.abs(np.diff(values[endpoint], axis=1))
    self.assertGreater(differences.max(axis=(0, *range(2, differences.ndim))).min(), 1e-3)

  @parameterized.product(endpoint=_ENDPOINTS, num_frames=(9, 15, 64, 79, 101, 250, 399))
  def test_lengths(self, endpoint, num_frames):
    self._assert_whole(_extract(_video(num_frames), [endpoint], 64)[0], num_frames)

  @parameterized.parameters(*range(121, 137))
  def test_every_remainder_in_the_smallest_chunks_of_several_endpoints(self, num_frames):
    values, num_pieces = _extract(_video(num_frames), ["Conv3d_1a_7x7", "MaxPool3d_4a_3x3", *_ENDPOINTS], 8)
    self.assertEqual(num_pieces, -(-num_frames // 8))
    self._assert_whole(values, num_frames)

  @parameterized.parameters(*_STEP_ENDPOINTS)
  def test_every_endpoint(self, endpoint):
    self._assert_whole(_extract(_video(101), [endpoint], 24)[0], 101)

  def test_views_side_by_side(self):
    video = _video(79, views=2)
    values, _ = _extract(video, ["Mixed_5c"], 16)
    for view in range(2):
      expected = _network()(video[view : view + 1])["Mixed_5c"][0]
      np.testing.assert_allclose(values["Mixed_5c"][view], expected, rtol=0, atol=1e-5)
    self.assertGreater(np.abs(values["Mixed_5c"][0] - values["Mixed_5c"][1]).max(), 0.01)

  @parameterized.parameters(
    ("Mixed_3c", 64, 64 - 2 + 19), ("Mixed_5c", 64, 64 - 8 + 99), ("StepLogits", 120, 120 - 8 + 107)
  )
  def test_memory_is_bounded_and_steps_come_as_soon_as_they_can(self, endpoint, chunk, most):
    given, lengths = [], []

    def frames():
      for index in range(5000):
        given.append(index)
        yield np.zeros([1, 1, 1, 3], np.float32)

    def network(clips):
      lengths.append(clips.shape[1])
      return {endpoint: np.zeros([1, clips.shape[1]])}

    plan = chunks.plan(_layers(endpoint), 5000, chunk=chunk)
    for piece, _ in zip(
      plan, chunks.extract(network, frames(), layers=_layers(endpoint), num_frames=5000, chunk=chunk), strict=True
    ):
      self.assertLen(given, piece.end)
      needed = _seen_frames(endpoint, piece.steps[endpoint], 5000)[1]
      self.assertLess(piece.end, needed + _stride(endpoint))
    self.assertLen(given, 5000)
    self.assertLess(max(lengths), most + 2 * _stride(endpoint))

  @parameterized.parameters(
    (399, "ended after 399 of 400"), (401, "more than the 400 frames"), (0, "ended after 0 of 400")
  )
  def test_another_number_of_frames_than_expected_is_an_error(self, number, message):
    frames = (np.zeros([1, _SIDE, _SIDE, 3], np.float32) for _ in range(number))
    with self.assertRaisesRegex(errors.VideoError, message):
      list(chunks.extract(_network(), frames, layers=_layers("Mixed_3c"), num_frames=400, chunk=200))


class NetworksTest(parameterized.TestCase):
  @parameterized.parameters(
    "i3d", "i2d", "s3d", "s3d_torchvision", "r3d_18", "r2plus1d_18", "mc3_18", "c2d_r50", "tsm_r50", "i3d_r50_32x2"
  )
  def test_chunks_of_a_network_are_the_whole(self, name):
    average = {"average_space": True} if "average_space" in zoo.get(name).options else {}
    model = zoo.create_model(name, num_classes=5, width_multiplier=0.05, **average)
    for each, variable in release.named_variables(model).items():
      variable.assign(testing.golden_values(each, variable.shape.as_list()))
    side = 2 * _SIDE if name == "s3d_torchvision" else _SIDE
    signature = [tf.TensorSpec([None, None, side, side, 3], tf.float32)]
    network = tf.function(lambda clips: model(clips)[1], input_signature=signature, autograph=False)
    layers = {}
    for endpoint in model.endpoint_names:
      try:
        layers[endpoint] = model.time_layers(endpoint)
      except errors.I3dError as error:
        self.assertRegex(str(error), f"^{endpoint} cannot be computed in chunks")
        self.assertIn(endpoint, ("Logits", "PooledFeatures"))
    self.assertGreater(len(layers), 5)
    coarsest = max(map(receptive_field.stride, layers.values()))
    for num_frames, chunk in ((101, 2 * coarsest), (96 + coarsest // 2, 40)):
      video = _video(num_frames, side=side)
      whole = network(video)
      pieces = list(chunks.extract(network, _frames(video), layers=layers, num_frames=num_frames, chunk=chunk))
      self.assertGreater(len(pieces), 2)
      for endpoint in layers:
        found = np.concatenate([piece[endpoint] for piece in pieces], axis=1)
        self.assertEqual(found.shape, whole[endpoint].shape)
        self.assertLess(testing.relative_error(found, whole[endpoint].numpy()), 1e-5, endpoint)

  @parameterized.parameters(
    ("s3d_g", ["Conv2d_1a_7x7"], "Mixed_3b", "Mixed_3b cannot be computed in chunks: gates before it average over"),
    ("x3d_s", ["stem"], "layer1_0", "layer1_0 cannot be computed in chunks: a gate before it averages over"),
    ("i3d_r50_non_local", ["layer2_1"], "layer2_2", "a non-local block before it sees the whole clip"),
    ("c3d", [], "conv1a", "this network takes clips of 16 frames only"),
    ("convnet_lstm", ["PooledFeatures"], "Hidden", "the LSTM carries its state"),
    ("r3d_18", ["layer4_1"], "PooledFeatures", "only stem, .*, layer4_1 have steps in time"),
    ("two_stream", ["rgb/Mixed_5c", "StepLogits"], "Logits", "the mean of StepLogits"),
    ("fused_two_stream", ["FusionPool"], "PooledFeatures", "the features of all positions are averaged"),
  )  # fmt: skip
  def test_what_depends_on_the_whole_clip_is_refused(self, name, allowed, refused, message):
    info = {"streams": ("rgb",)} if "streams" in zoo.get(name).options else {}
    model = zoo.get(name).make(5, width_multiplier=0.05, **info)
    for endpoint in allowed:
      self.assertGreater(len(model.time_layers(endpoint)), 0)
    with self.assertRaisesRegex(errors.I3dError, message):
      model.time_layers(refused)


class PlanTest(parameterized.TestCase):
  # Receptive field and stride in frames: the kernels' widths added up, each times the stride before it.
  @parameterized.parameters(
      ("Conv3d_1a_7x7", 7, 2), ("MaxPool3d_2a_3x3", 7, 2), ("Conv3d_2c_3x3", 11, 2), ("Mixed_3b", 15, 2),
      ("Mixed_3c", 19, 2), ("MaxPool3d_4a_3x3", 23, 4), ("Mixed_4b", 31, 4), ("Mixed_4f", 63, 4),
      ("MaxPool3d_5a_2x2", 67, 8), ("Mixed_5b", 83, 8), ("Mixed_5c", 99, 8), ("PooledFeatures", 107, 8),
      ("StepLogits", 107, 8),
  )  # fmt: skip
  def test_fields_and_strides(self, endpoint, field, stride):
    first, end = _seen_frames(endpoint, (3, 4), 64)
    self.assertEqual((end - first, _stride(endpoint)), (field, stride))
    self.assertEqual(_seen_frames(endpoint, (3, 6), 64), (first, end + 2 * stride))

  # By hand, from the paddings of the strided layers: the first convolution's 2 or 3, the pools' 0 or 1.
  @parameterized.parameters(
      ("Conv3d_1a_7x7", 64, -2, 5), ("Conv3d_1a_7x7", 79, -3, 4), ("Mixed_5c", 64, -44, 55), ("Mixed_5c", 79, -45, 54),
      ("Mixed_5c", 77, -47, 52), ("StepLogits", 64, -44, 63),
  )  # fmt: skip
  def test_what_the_first_step_sees(self, endpoint, num_frames, first, end):
    self.assertEqual(_seen_frames(endpoint, (0, 1), num_frames), (first, end))

  @parameterized.parameters((8, 0), (9, 1), (16, 1), (32, 3), (64, 7), (79, 9), (128, 15), (250, 31), (256, 31))
  def test_number_of_steps(self, num_frames, steps):
    self.assertEqual(_num_steps("StepLogits", num_frames), steps)
    self.assertEqual(_num_steps("Mixed_5c", num_frames), steps + 1)

  def test_pieces(self):
    first, *_, last = plan = list(chunks.plan(_layers("Mixed_5c"), 400, chunk=70))  # 64 is the multiple of 8 below
    self.assertEqual([piece.steps["Mixed_5c"][0] for piece in plan], [0, 8, 16, 24, 32, 40, 48])
    self.assertEqual((first.start, first.end, first.kept["Mixed_5c"]), (0, 112, slice(0, 8)))  # sees up to 7*8 + 55
    self.assertEqual((plan[1].start, plan[1].end), (16, 176))  # sees from 64 - 44 = 20 up to 175
    self.assertEqual(plan[1].kept["Mixed_5c"], slice(6, 14))
    self.assertEqual((last.start, last.end, last.steps["Mixed_5c"]), (336, 400, (48, 50)))

  def test_layers_lead_to_the_endpoint(self):
    self.assertLen(spec.time_layers("Mixed_5c"), len(spec.ROWS))
    self.assertLen(spec.time_layers("StepLogits"), len(spec.ROWS) + 1)

  @parameterized.parameters(
    (["Mixed_5d"], 64, 64, "Mixed_5d cannot be computed in chunks; take one of Conv3d_1a_7x7, .*StepLogits"),
    (["Mixed_3c", "Logits"], 64, 64, "the mean of StepLogits over its steps is Logits"),
    (["StepLogits", "Mixed_3c"], 8, 64, "8 frames, too few for StepLogits$"),
    (["Mixed_3c"], 0, 64, "0 frames"),
    (["Mixed_3c", "Mixed_4f"], 64, 3, "chunk is 3 frames; it must be at least 4"),
  )
  def test_what_cannot_be_had_is_refused(self, endpoints, num_frames, chunk, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      chunks.plan(_layers(*endpoints), num_frames, chunk=chunk)


if __name__ == "__main__":
  absltest.main()
