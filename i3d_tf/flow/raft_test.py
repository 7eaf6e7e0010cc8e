"""RAFT-small: the published weights, torchvision's flow with them, and what is refused."""

import os
import pathlib
import shutil
from unittest import mock
import zipfile

from absl.testing import absltest
import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.flow import codec
from i3d_tf.flow import raft
from i3d_tf.weights import containers
from i3d_tf.weights import hub
from i3d_tf.weights import saved


class RaftTest(absltest.TestCase):
  def _load(self) -> raft.RaftSmall:
    return raft.load(str(testing.shared("weights/raft-small.pth")))

  def test_flow_is_torchvision_s(self):
    network = self._load()
    self.assertEqual(sum(np.prod(each.shape) for each in network.trainable_variables), 990_162)
    folder = testing.shared("flow")
    frames = [np.ascontiguousarray(cv2.imread(str(folder / f"RubberWhale{i}.png"))[..., ::-1]) for i in (1, 2)]
    field = network.flow(frames)[0]
    error = codec.end_point_error(field, np.load(testing.shared("golden/raft_small_rubberwhale_12.npy")))
    self.assertLess(error.mean(), 1e-3)
    self.assertLess(error.max(), 1e-2)
    truth = codec.read_flo(folder / "RubberWhale.flo")
    known = np.abs(truth).max(-1) < 1e9
    self.assertAlmostEqual(codec.end_point_error(field, truth)[known].mean(), 0.3199, delta=1e-4)

  def test_correlations_that_are_looked_at_equal_those_of_the_volume(self):
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((2, 17, 16, 128)).astype(np.float32) for _ in range(2))
    places = rng.uniform(-9, 25, (2, 17, 16, 2)).astype(np.float32)
    expected = raft._correlations(tf.constant(first), tf.constant(second))(tf.constant(places)).numpy()
    self.assertEqual(expected.shape, (2, 17, 16, 196))
    # By hand, with y faster than x: the product with the place two to the left and one below, at the first level.
    places[0, 5, 6] = (8, 9)
    product = first[0, 5, 6] @ second[0, 10, 6] / np.sqrt(128)
    open_size = tf.function(
      lambda a, b, c: raft._correlations(a, b)(c),
      input_signature=[tf.TensorSpec([None, None, None, channels]) for channels in (128, 128, 2)],
      autograph=False,
    )
    found = open_size(first, second, places).numpy()
    self.assertAlmostEqual(found[0, 5, 6, 1 * 7 + 4], product, places=4)
    found[0, 5, 6] = expected[0, 5, 6]
    np.testing.assert_allclose(found, expected, atol=1e-5)

  def test_trains_with_what_follows_it(self):
    network = raft.RaftSmall()
    first, second = tf.random.stateless_uniform([2, 1, 128, 130, 3], [0, 1], -1, 1)

    @tf.function(autograph=False)
    def gradients():
      with tf.GradientTape() as tape:
        flow = network(first, second, updates=2)
        loss = tf.reduce_mean(flow**2)
      return flow, tape.gradient(loss, network.trainable_variables)

    flow, found = gradients()
    self.assertEqual(flow.shape, (1, 128, 130, 2))
    for variable, gradient in zip(network.trainable_variables, found, strict=True):
      self.assertIsNotNone(gradient, variable.name)
      self.assertTrue(np.isfinite(gradient).all(), variable.name)

  def test_other_files_and_small_frames_are_refused(self):
    network = raft.RaftSmall()
    arrays = {f"{name}.weight": np.zeros(np.array(shape)[[3, 2, 0, 1]], "f4") for name, shape in raft._SHAPES.items()}
    arrays |= {f"{name}.bias": np.zeros(shape[-1:], np.float32) for name, shape in raft._SHAPES.items()}
    network.assign(arrays, "x.pth")
    first = "fnet.conv1.weight"
    cases = (
      ({name: array for name, array in arrays.items() if name != first}, f"it lacks {first}$"),
      ({**arrays, "fnet.norm1.weight": arrays[first]}, "it also has fnet.norm1.weight"),
      ({**arrays, first: arrays[first][:, :1]}, f"it has in another shape {first}"),
    )
    for wrong, message in cases:
      with self.assertRaisesRegex(errors.CheckpointError, f"^x.pth is not of RAFT-small: {message}"):
        network.assign(wrong, "x.pth")
    path = pathlib.Path(self.create_tempdir().full_path) / "other.pth"
    containers.write_torch(path, {"fc.weight": np.zeros((2, 2), np.float32)})
    with self.assertRaisesRegex(errors.CheckpointError, f"^{path} is not of RAFT-small: it lacks .* and 105 others"):
      raft.load(str(path))
    with self.assertRaisesRegex(ValueError, "frames of 64 x 200 pixels; raft_small allows sides from 128"):
      network.flow([np.zeros((64, 200, 3), np.uint8)] * 2)

  def test_published_weights_are_fetched_from_a_folder_and_others_refused(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    with mock.patch.dict(os.environ, {"I3D_CACHE": str(folder / "cache")}):
      (folder / "raft-small.pth").write_bytes(b"another")
      nowhere = (folder / "nowhere").as_uri()
      with self.assertRaisesRegex(errors.DownloadError, "raft-small.pth is not the one published: its sha256 is"):
        hub.fetch("raft_small", source_dir=folder, url=nowhere)
      source = testing.shared("weights")
      path = hub.fetch("raft_small", source_dir=source, url=nowhere)
      self.assertEqual(pathlib.Path(path).read_bytes(), (source / "raft-small.pth").read_bytes())
      with zipfile.ZipFile(folder / "models.zip", "w") as archive:
        archive.write(path, "models/raft-small.pth")
      shutil.rmtree(folder / "cache")
      path = hub.fetch("raft_small", url=folder.as_uri())
      self.assertEqual(pathlib.Path(path).read_bytes(), (source / "raft-small.pth").read_bytes())
    with self.assertRaisesRegex(errors.CheckpointError, "raft_small computes optical flow and has no classes"):
      saved.read("raft_small")


if __name__ == "__main__":
  absltest.main()
