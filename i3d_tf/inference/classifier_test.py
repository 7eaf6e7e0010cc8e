"""Networks at inference: their values, what they do not take, and two that are added."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.inference import classifier
from i3d_tf.weights import release
from i3d_tf.weights import saved


class RgbValuesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    testing.write_network(folder, average_space=True, crop=32, short_side=32)
    cls.network = classifier.Classifier(folder)
    cls.clip = np.random.default_rng(0).uniform(0, 1, (1, 9, 32, 32, 3)).astype(np.float32)

  def test_bytes_as_floating_point(self):
    sentence = r"^the rgb clips have values of 0.* to 25.*; they must be in \[-1, 1\]; for bytes that is x / 127.5 - 1"
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self.network.logits(255 * self.clip)

  def test_a_range_from_0_to_1_is_doubted(self):
    with self.assertLogs("i3d_tf.inference.classifier", "WARNING") as logs:
      self.network.logits(self.clip)
    self.assertRegex(logs.output[0], r"the rgb clips have no value below 0.*; if they are in \[0, 1\], give 2 \* x - 1")
    with self.assertNoLogs("i3d_tf.inference.classifier"):
      self.network.logits(2 * self.clip - 1)
      self.network.logits(0 * self.clip)  # as goldens are


class LoadedNetworkTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    testing.write_network(cls.folder, stream="flow", num_classes=5, classes=())
    cls.model, _ = saved.load(cls.folder)
    cls.network = classifier.LoadedNetwork(cls.folder)

  @parameterized.parameters(9, 17)
  def test_logits_are_the_networks_for_any_length(self, num_frames):
    clip = np.random.default_rng(num_frames).uniform(-1, 1, (2, num_frames, 224, 224, 2)).astype(np.float32)
    logits = self.network.logits(clip)
    expected, _ = self.model(tf.constant(clip), is_training=False)
    self.assertEqual(logits.shape, (2, 5))
    self.assertGreater(np.ptp(expected), 1e-3)  # not all the same
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

  def test_probabilities_and_endpoints(self):
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 9, 224, 224, 2)).astype(np.float32)
    both = classifier.Classifier(self.folder)
    np.testing.assert_allclose(both.probabilities(clip).sum(), 1, rtol=0, atol=1e-12)
    found = both.endpoints(clip, ["Mixed_3b", "Logits"])
    np.testing.assert_array_equal(found["Logits"], both.logits({"flow": clip}))
    expected = self.model(tf.constant(clip), is_training=False)[1]["Mixed_3b"]
    np.testing.assert_allclose(found["Mixed_3b"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())

  @parameterized.parameters(
    ((1, 9, 224, 224, 3), "clip has 3 channels; it must have 2"),
    ((1, 9, 256, 224, 2), "clip has height 256"),
    ((9, 224, 224, 2), "must be \\[batch, frames, height, width, channels\\]"),
    ((1, 8, 224, 224, 2), "clip has 8 frames; Logits needs at least 9"),
    ((1, 0, 224, 224, 2), "clip has 0 frames; Logits needs at least 9"),
  )
  def test_clips_that_do_not_fit(self, shape, sentence):
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self.network.logits(np.zeros(shape, np.float32))

  def test_an_endpoint_that_there_is_not(self):
    sentence = f"^{self.folder} has no endpoint 'Mixed_9z'; there are Conv3d_1a_7x7, "
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self.network.endpoints(np.zeros((1, 9, 224, 224, 2), np.float32), ["Mixed_9z"])
    with self.assertRaisesRegex(errors.I3dError, "^names is 'Logits'; it must be a sequence"):
      self.network.endpoints(np.zeros((1, 9, 224, 224, 2), np.float32), "Logits")

  def test_bytes_are_no_clips(self):
    with self.assertRaisesRegex(errors.I3dError, r"^clips are of type uint8; they must be floating point in \[-1, 1\]"):
      self.network.logits(np.zeros((1, 9, 224, 224, 2), np.uint8))

  @parameterized.parameters((20, "values of 0 to 20; .* for pixels per frame"), (-3, "values of -3 to 0; "))
  def test_values_that_are_surely_others(self, value, sentence):
    clip = np.zeros((1, 9, 224, 224, 2), np.float32)
    clip[0, 0, 0, 0] = value
    with self.assertRaisesRegex(errors.I3dError, f"^the flow clips have {sentence}"):
      self.network.logits(clip)

  @parameterized.parameters([[]], [""], [None])
  def test_no_checkpoint(self, nothing):
    with self.assertRaisesRegex(errors.I3dError, "^checkpoints is .*; give one, or one of rgb and one of flow"):
      classifier.Classifier(nothing)

  def test_logits_that_are_no_numbers(self):
    bias = release.named_variables(self.network.model)[release.HEAD_BIAS]
    self.addCleanup(bias.assign, bias.numpy())
    bias.assign([0, 0, np.nan, 0, 0])
    with self.assertRaisesRegex(errors.I3dError, "logits of .* are not finite"):
      self.network.logits(np.zeros((1, 9, 224, 224, 2), np.float32))


class ClassifierTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def _write(self, name: str, **fields) -> pathlib.Path:
    testing.write_network(self.folder / name, **{"average_space": True, "crop": 32, "short_side": 36, **fields})
    return self.folder / name

  def test_two_networks_are_added(self):
    rgb, flow = self._write("rgb"), self._write("flow", stream="flow")
    clips = {s: np.full((1, 9, 32, 32, c), 0.5, np.float32) for s, c in (("rgb", 3), ("flow", 2))}
    alone = {stream: classifier.Classifier(path).logits(clips) for stream, path in (("rgb", rgb), ("flow", flow))}
    both = classifier.Classifier([flow, rgb])
    np.testing.assert_array_equal(both.logits(clips), alone["rgb"] + alone["flow"])
    values = both({stream: tf.constant(clip) for stream, clip in clips.items()})
    np.testing.assert_allclose(values["Logits"], both.logits(clips), rtol=0, atol=1e-5)
    self.assertIn("flow/Mixed_5c", values)
    with self.assertRaisesRegex(errors.I3dError, "clips are of rgb; flow is needed, too"):
      both.logits({"rgb": clips["rgb"]})

  @parameterized.parameters(
    ({}, "to be joined there must be one of rgb and one of flow"),
    ({"stream": "flow", "num_classes": 4, "classes": ()}, "have 3 classes and 4"),
    ({"stream": "flow", "classes": ("down", "still", "right")}, "classes of other names or in another order"),
  )
  def test_networks_that_do_not_go_together(self, fields, sentence):
    paths = [self._write("one"), self._write("other", **fields)]
    with self.assertRaisesRegex(errors.I3dError, sentence):
      classifier.Classifier(paths)

  def test_a_checkpoint_of_the_other_stream(self):
    with self.assertRaisesRegex(errors.I3dError, "takes clips of the stream rgb"):
      classifier.Classifier({"flow": self._write("rgb")})

  def test_weights_without_a_classifier(self):
    values, info = saved.read(self._write("whole"))
    trunk = {name: value for name, value in values.items() if not release.is_head(name)}
    saved.save_values(self.folder / "trunk", trunk, testing.change_info(info, num_classes=0, classes=()))
    with self.assertRaisesRegex(errors.CheckpointError, "has no classifier yet"):
      classifier.LoadedNetwork(self.folder / "trunk")

  def test_average_space_where_there_is_no_choice(self):
    path = self._write("x3d", model="x3d_xs", average_space=False)
    with self.assertRaisesRegex(errors.I3dError, "x3d_xs, which has no choice of average_space"):
      classifier.LoadedNetwork(path, average_space=True)
    self.assertFalse(classifier.LoadedNetwork(path, average_space=None).info.average_space)


if __name__ == "__main__":
  absltest.main()
