"""Where steps are in time, and logits between them."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import testing
from i3d_tf.inference import classification
from i3d_tf.inference import classifier
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import receptive_field
from i3d_tf.visualization import curves
from i3d_tf.visualization import source


class StepTimesTest(parameterized.TestCase):
  @parameterized.parameters((64, 7), (250, 31), (9, 1), (79, 9))
  def test_steps_of_the_head_are_eight_frames_apart_and_around_the_middle(self, num_frames, steps):
    times = curves.step_times(spec.time_layers("StepLogits"), num_frames)
    self.assertLen(times, steps)
    np.testing.assert_allclose(np.diff(times), 8 / 25)
    self.assertLess(abs(times.mean() - (num_frames - 1) / 2 / 25), 4 / 25)

  def test_first_layer_of_64_frames_by_hand(self):
    # Kernel 7, stride 2, 2 places before: step i sees frames 2i - 2 to 2i + 4, whose middle is 2i + 1.
    np.testing.assert_allclose(curves.step_times(spec.time_layers("Conv3d_1a_7x7"), 64), (2 * np.arange(32) + 1) / 25)

  def test_flow_is_between_its_frames(self):
    rgb, flow = (curves.step_times(spec.time_layers("Mixed_5c"), 40, stream=stream) for stream in ("rgb", "flow"))
    np.testing.assert_allclose(flow - rgb, 0.5 / 25)


class CurveTest(absltest.TestCase):
  def test_lines_between_steps_and_the_nearest_beyond(self):
    curve = curves.Curve(np.array([1.0, 2.0, 3.0]), np.array([[0.0, 5.0], [4.0, 5.0], [2.0, -1.0]]), field=4.0)
    values = curve.at(np.array([0.0, 1.0, 1.25, 2.0, 2.5, 3.0, 9.0]))
    np.testing.assert_allclose(values[:, 0], [0, 0, 1, 4, 3, 2, 2])
    np.testing.assert_allclose(values[:, 1], [5, 5, 5, 5, 2, -1, -1])
    np.testing.assert_allclose(curve.mean, [2, 3])
    self.assertEqual(curve.seen(2.4), (0.0, 4.0))

  def test_one_step(self):
    curve = curves.Curve(np.array([0.3]), np.array([[1.0, 2.0]]), field=1.0)
    np.testing.assert_array_equal(curve.at(np.array([0.0, 5.0])), [[1, 2], [1, 2]])

  def test_logits_of_streams_are_added_before_the_softmax(self):
    rng = np.random.default_rng(0)
    rgb, flow = (curves.Curve(np.array([0.0, 1.0]), rng.normal(size=(2, 3)), field=1.0) for _ in range(2))
    (joint,) = curves.probabilities([rgb, flow], np.array([0.5]))
    logits = (rgb.logits + flow.logits).mean(axis=0)
    np.testing.assert_allclose(joint, np.exp(logits) / np.exp(logits).sum())


class ComputeTest(parameterized.TestCase):
  """Curves of a network of each kind over a made video of 45 frames."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    testing.write_moving_video(self.folder / "made.avi", seed=0, num_frames=45)

  def _network(self, **fields) -> classifier.LoadedNetwork:
    testing.write_network(self.folder / "network", **{"short_side": 48, "crop": 32, **fields})
    return classifier.LoadedNetwork(self.folder / "network")

  def _compute(self, network: classifier.LoadedNetwork) -> curves.Curve:
    least = curves.least_frames(network, curves.step_layers(network))
    video = source.survey(self.folder / "made.avi", network.info.preprocess, least_frames=least)
    return curves.compute(network, video, source.FlowStore())

  @parameterized.parameters("i3d", "s3d")
  def test_steps_are_those_of_one_pass(self, model):
    network = self._network(model=model, average_space=True)
    curve = self._compute(network)
    self.assertIsNone(curve.hop)
    video = classification.Video(self.folder / "made.avi", short_side=48)
    clips = classification.read_views(video, classification.protocol(network.info))
    np.testing.assert_allclose(curve.logits, network.endpoints(clips, ["StepLogits"])["StepLogits"][0], rtol=1e-4)
    np.testing.assert_allclose(curve.mean, network.logits(clips)[0], rtol=1e-4)
    layers = network.model.time_layers("StepLogits")
    first, end = receptive_field.seen(layers, (3, 4), 45)
    np.testing.assert_allclose(curve.seen(curve.times[3]), ((first - 0.5) / 25, (end - 0.5) / 25))

  @parameterized.parameters(
    ("r2plus1d_18", "rgb", {"num_frames": 8, "frame_stride": 2}, 15, 3),
    ("c3d", "rgb", {"num_frames": 16}, 16, 4),
    ("convnet_lstm", "rgb", {"num_frames": 5, "frame_stride": 5}, 21, 5),
    ("two_stream", "flow", {"num_frames": 1, "flow_stack": 10}, 10, 2),
    ("fused_two_stream", "joint", {"num_frames": 2, "frame_stride": 3, "flow_stack": 10}, 13, 3),
    ("s3d_g", "rgb", {"num_frames": 64, "average_space": True}, 45, 16),
  )
  def test_windows_are_clips_of_the_networks_own(self, model, stream, fields, length, hop):
    size = {"crop": 48} if model == "c3d" else {}
    network = self._network(model=model, stream=stream, **fields, **size)
    curve = self._compute(network)
    self.assertAlmostEqual(curve.hop, hop / 25)
    self.assertAlmostEqual(curve.field, length / 25)
    clips = classification.protocol(network.info, protocol="clips", num_clips=2, flip=False)
    ends = network.logits(
      classification.read_views(classification.Video(self.folder / "made.avi", short_side=48), clips)
    )
    first_and_last = curve.logits[[0, -1]]
    np.testing.assert_allclose(first_and_last, ends, rtol=1e-4, atol=1e-5)
    offset = 0.5 if stream == "flow" else 0
    count = 45 - (stream != "rgb")
    last = max(count - length, 0) if length < 45 else 0
    np.testing.assert_allclose(curve.times[[0, -1]], [((length - 1) / 2 + each + offset) / 25 for each in (0, last)])


if __name__ == "__main__":
  absltest.main()
