"""The interface to all methods of flow: the same frames by each, their parameters, what is stated about them."""

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import flow
from i3d_tf import testing
from i3d_tf.flow import codec


def _frames(height: int, width: int, shift: int) -> np.ndarray:
  """Three RGB frames `[3, H, W, 3]` of a smooth texture, each shifted to the right."""
  noise = np.random.default_rng(0).standard_normal((height, width + 4 * shift))
  smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
  gray = (127.5 + 127.5 * smooth / np.abs(smooth).max()).astype(np.uint8)
  views = [gray[:, 2 * shift - step * shift :][:, :width] for step in range(3)]
  return np.repeat(np.stack(views)[..., np.newaxis], 3, axis=-1)


class EstimatorTest(parameterized.TestCase):
  @parameterized.parameters("tvl1", "dis")
  def test_a_shift_is_found_by_whole_arrays_streams_and_pairs(self, method):
    frames = _frames(64, 80, 2)
    fields = flow.optical_flow(frames, method, threads=2)
    self.assertEqual((fields.shape, fields.dtype), ((2, 64, 80, 2), np.float32))
    inside = fields[:, 8:-8, 8:-8].reshape(-1, 2)
    np.testing.assert_allclose(np.median(inside, axis=0), (2, 0), atol=0.1)
    estimator = flow.Estimator(method, threads=1)
    np.testing.assert_array_equal(np.stack(list(estimator.iterate(iter(frames)))), fields)
    np.testing.assert_array_equal(estimator.between(frames[1], frames[2]), fields[1])

  def test_presets_of_dis_differ_and_a_wrong_one_is_named(self):
    frames = _frames(64, 80, 2)
    medium, fast = (flow.optical_flow(frames, "dis", preset=preset) for preset in ("medium", "fast"))
    np.testing.assert_array_equal(medium, flow.optical_flow(frames, "dis"))
    self.assertGreater(codec.end_point_error(medium, fast).max(), 1e-3)
    with self.assertRaisesRegex(errors.I3dError, "preset is 'slow'; allowed are ultrafast, fast, medium"):
      flow.optical_flow(frames, "dis", preset="slow")
    with self.assertRaisesRegex(errors.I3dError, "dis has no parameter 'warps'; it has preset"):
      flow.optical_flow(frames, "dis", warps=3)
    with self.assertRaisesRegex(ValueError, "frames of 8 x 80 pixels; dis allows sides from 12"):
      flow.optical_flow(frames[:, :8], "dis")

  def test_end_point_errors_of_dis_are_the_known_ones(self):
    folder = testing.shared("flow")
    frames = np.stack([cv2.imread(str(folder / f"RubberWhale{number}.png"))[..., ::-1] for number in (1, 2)])
    truth = codec.read_flo(folder / "RubberWhale.flo")
    known = np.abs(truth).max(-1) < 1e9
    for preset, expected in (("medium", 0.226), ("fast", 0.440), ("ultrafast", 0.537)):
      field = flow.optical_flow(frames, "dis", preset=preset)[0]
      self.assertAlmostEqual(codec.end_point_error(field, truth)[known].mean(), expected, delta=0.003, msg=preset)

  def test_frames_of_two_sizes_are_refused(self):
    frames = _frames(32, 40, 1)
    with self.assertRaisesRegex(ValueError, r"a frame is uint8 \(32, 39\); allowed is uint8 \(32, 40\)"):
      list(flow.Estimator(threads=1).iterate([frames[0], frames[1][:, 1:]]))


class FlowConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ("tvl1", (), "tvl1"),
    ("tvl1", ("warps=5", "tau=0.25"), "tvl1"),
    ("tvl1_opencv", ("tau=0.1", "warps=3"), "tvl1_opencv tau=0.1 warps=3"),
    ("dis", ("preset=fast",), "dis preset=fast"),
    ("raft_small", ("updates=20",), "raft_small updates=20"),
  )
  def test_text_states_what_differs_from_the_defaults_and_is_read_back(self, method, params, text):
    config = flow.FlowConfig(flow=method, flow_params=params)
    self.assertEqual(config.flow_method, text)
    self.assertEqual(flow.FlowConfig.from_method(text), config)

  @parameterized.parameters(
    ("dis", "preset", "flow_params has 'preset'; it takes name=value, with the parameters preset"),
    ("tvl1", "warps=many", "flow_params has 'warps=many'"),
    ("tvl1", "tau=7", "flow_params: tau = 7.0; allowed are numbers above 0, at most 1"),
    ("dis", "speed=1", "flow_params: dis has no parameter 'speed'"),
  )
  def test_wrong_parameters_are_named(self, method, item, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      flow.FlowConfig(flow=method, flow_params=(item,))

  @parameterized.parameters(
    ("", "tvl1", True), ("", "tvl1_opencv", True), ("tvl1", "dis", False), ("dis", "dis preset=fast", False),
    ("tvl1 warps=3", "tvl1_tensorflow warps=3", True),
  )  # fmt: skip
  def test_other_flow_than_that_of_training_is_noticed(self, trained, given, is_same):
    sentence = flow.difference(trained, given)
    self.assertEqual(sentence == "", is_same)
    if not is_same:
      self.assertIn(f"trained on optical flow by {trained or 'tvl1'} and is given that by {given}", sentence)


if __name__ == "__main__":
  absltest.main()
