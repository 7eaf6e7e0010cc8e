"""A tiny network: means over views, checkpoints and data sets that do not belong together."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.evaluation import network as network_lib
from i3d_tf.models import inception
from i3d_tf.weights import saved

_CLASSES = ("run", "sit")


class MatchClassesTest(parameterized.TestCase):
  def _match(self, own: tuple[str, ...], theirs: tuple[str, ...], num_classes: int = 2) -> tuple[str, ...]:
    info = saved.make_info(stream="rgb", num_classes=num_classes, classes=own)
    network = mock.Mock(info=info, model=mock.Mock(num_classes=num_classes))
    network.name = "rgb"
    return network_lib.match_classes(network, mock.Mock(classes=theirs))

  def test_whoever_knows_them(self):
    self.assertEqual(self._match(_CLASSES, _CLASSES), _CLASSES)
    self.assertEqual(self._match(_CLASSES, ()), _CLASSES)
    self.assertEqual(self._match((), _CLASSES), _CLASSES)
    self.assertEqual(self._match((), ()), ("class 0", "class 1"))

  def test_differences(self):
    with self.assertRaisesRegex(errors.I3dError, "class 1 of the data set is 'lie', but of rgb 'sit'; the classes"):
      self._match(_CLASSES, ("run", "lie"))
    with self.assertRaisesRegex(errors.I3dError, "has 5 classes .a; b; c; ...., but rgb tells 2 apart"):
      self._match(_CLASSES, tuple("abcde"))
    with self.assertRaisesRegex(errors.I3dError, "has 2 classes .run; sit., but rgb tells 3 apart"):
      self._match((), _CLASSES, num_classes=3)


class NetworkTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    tf.random.set_seed(1)
    cls.model = inception.InceptionI3d(3, width_multiplier=0.05, average_space=True)
    cls.model.build(3)
    info = saved.make_info(stream="rgb", num_classes=3, crop=32)
    cls.loaded = (cls.model, info)
    with mock.patch.object(network_lib.saved, "load", return_value=cls.loaded):
      cls.network = network_lib.Network("runs/a", "rgb")
    cls.network.compile(32)

  @parameterized.parameters((1, 11, 250), (5, 9, 250), (5, 9, 18), (3, 9, 1))
  def test_mean_over_the_views_however_they_are_fed(self, num_views, num_frames, at_once):
    views = np.random.default_rng(0).uniform(-1, 1, (num_views, num_frames, 32, 32, 3)).astype(np.float32)
    expected = np.mean([self.model(view[np.newaxis])[0][0] for view in views], axis=0)
    self.assertGreater(np.ptp(expected), 1e-3)
    with mock.patch.object(network_lib, "FRAMES_AT_ONCE", at_once):
      logits = self.network.logits({"rgb": tf.constant(views)})
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    self.assertEqual(logits.dtype, np.float32)

  def test_too_few_frames(self):
    with self.assertRaisesRegex(errors.I3dError, "^clip has 8 frames; Logits needs at least 9$"):
      self.network.logits({"rgb": tf.zeros([1, 8, 32, 32, 3])})

  def test_the_other_stream(self):
    with mock.patch.object(network_lib.saved, "load", return_value=self.loaded):
      with self.assertRaisesRegex(
        errors.I3dError,
        "^the checkpoint of flow, runs/a, takes clips of the stream rgb; give it as the checkpoint of",
      ):
        network_lib.Network("runs/a", "flow")

  def test_a_crop_that_does_not_fit(self):
    whole = inception.InceptionI3d(3, width_multiplier=0.05)
    whole.build(3)
    with mock.patch.object(network_lib.saved, "load", return_value=(whole, self.loaded[1])):
      with self.assertRaisesRegex(errors.I3dError, "^--crop=64 does not fit runs/a: .*has height 64; .*193 to 224"):
        network_lib.Network("runs/a", "rgb").compile(64)

  def test_a_number_of_frames_that_does_not_fit(self):
    with self.assertRaisesRegex(errors.I3dError, "^--crop=32 with 5 frames does not fit .*: clip has 5 frames; "):
      self.network.compile(32, 5)
    self.network.compile(32, 16)

  def test_fingerprint_is_of_the_weights(self):
    before = self.network.fingerprint()
    self.assertRegex(before, "^[0-9a-f]{8}$")
    variable = self.model.variables[-1]
    value = variable.numpy()
    variable.assign(np.nextafter(value, np.float32(2)))
    self.assertNotEqual(self.network.fingerprint(), before)
    variable.assign(value)
    self.assertEqual(self.network.fingerprint(), before)


if __name__ == "__main__":
  absltest.main()
