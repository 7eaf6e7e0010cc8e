"""Networks exported to OpenVINO, run there, and refused where they do not fit; in float32, and in int8 by NNCF."""

import importlib.util
import json
import os
import pathlib
import re
import tempfile
import unittest
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import exporting
from i3d_tf import testing
from i3d_tf.exporting import exports
from i3d_tf.exporting import openvino
from i3d_tf.inference import classifier
from i3d_tf.inference import openvino_network
from i3d_tf.models import base

_HAS_OPENVINO = all(importlib.util.find_spec(name) for name in ("openvino", "nncf"))


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"format": "onnx", "precision": "bfloat16"}, "precision is 'bfloat16'; for the format onnx allowed are float32$"),
    ({"precision": "auto"}, "precision is 'auto'; for the format saved_model allowed are float32, bfloat16, float16"),
    ({"format": "openvino", "precision": "int8"}, "precision int8 needs a calibration"),
    ({"format": "openvino", "calibration": ("a.mp4",)}, "calibration is for the precision int8, not float32"),
    ({"format": "openvino", "max_loss": 0.1}, "max_loss is for the precision int8, not float32"),
  )
  def test_what_cannot_be_is_said_in_a_sentence(self, options, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      exporting.GraphConfig(**options)


class OpenvinoTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.net, self.exported = self.folder / "net", self.folder / "exported"
    testing.write_network(self.net, average_space=True, num_frames=9, crop=32, short_side=36)

  @unittest.skipIf(_HAS_OPENVINO, "OpenVINO is installed")
  def test_without_openvino_its_extra_is_named(self):
    with self.assertRaisesRegex(errors.I3dError, r"OpenVINO is not there .*pip install '\.\[openvino\]' in the clone"):
      self._export()

  def test_clips_for_the_calibration_that_cannot_be_read_are_named(self):
    network = classifier.LoadedNetwork(self.net)
    broken = self.folder / "broken.avi"
    broken.write_bytes(b"no video")
    for path in (broken, self.folder / "none.avi"):
      with self.assertRaisesRegex(errors.I3dError, f"^{path}: "):
        openvino._clips(network, path)
      with self.assertRaisesRegex(errors.I3dError, f"^{path}: "):
        openvino._divide([str(path)] * 2)
    with self.assertRaisesRegex(errors.I3dError, "calibration names 1 videos; it takes at least 2"):
      openvino._divide([str(broken)])

  def test_the_reason_of_an_error_is_its_last_line(self):
    for text, reason in (("Exception from a.cpp:1:\nIt is so.\n\n", "It is so."), ("", "RuntimeError")):
      self.assertEqual(openvino_network._reason(RuntimeError(text)), reason)

  def test_makers_are_not_told(self):
    for before in ({"CI": "false"}, {}):
      with mock.patch.dict(os.environ, before, clear=True):
        with openvino._unreported():
          self.assertEqual(os.environ["CI"], "true")
        self.assertEqual(dict(os.environ), before)

  @unittest.skipUnless(_HAS_OPENVINO, "OpenVINO and NNCF are not installed")
  def test_it_computes_what_tensorflow_does(self):
    self._export(endpoints=("Mixed_3b",))
    names = [base.LOGITS, base.POOLED_FEATURES, "Mixed_3b"]
    original = classifier.Classifier(self.net)
    model = classifier.Classifier(self.exported, engine="openvino")
    clips = np.random.default_rng(0).uniform(-1, 1, [2, 16, 40, 40, 3]).astype(np.float32)
    expected, found = original.endpoints(clips, names), model.endpoints(clips, names)
    for name in names:
      self.assertLess(testing.relative_error(found[name], expected[name]), 1e-4, name)
    self.assertEqual((model.class_names, model.weights), (original.class_names, original.weights))
    self.assertEqual(model.networks["rgb"].computed_by, {"engine": "openvino"})
    for wrong, message in (
      (
        lambda: model.endpoints(clips, ["Mixed_4b"]),
        "has no endpoint 'Mixed_4b'; it has Logits, PooledFeatures, Mixed",
      ),
      (lambda: model(clips), "takes no part in TensorFlow's graphs"),
      (lambda: classifier.Classifier(self.exported), "take engine openvino"),
      (lambda: classifier.Classifier(self.net, engine="openvino"), "is no model of OpenVINO"),
      (lambda: classifier.Classifier(self.exported, engine="openvino", precision="int8"), "is not quantized"),
      (lambda: classifier.Classifier({"flow": self.exported}, engine="openvino"), "takes clips of the stream rgb"),
    ):
      with self.assertRaisesRegex(errors.I3dError, message):
        wrong()
    info = self.exported / "model.json"
    stated = info.read_text()
    info.write_text(json.dumps(json.loads(stated) | {"model": "i3d_top_heavy"}))
    with self.assertRaisesRegex(errors.I3dError, "model.xml is i3d for rgb, .* beside it describes i3d_top_heavy for"):
      classifier.Classifier(self.exported, engine="openvino")
    info.write_text(stated)
    (self.exported / "model.xml").write_text("<")
    with self.assertRaisesRegex(errors.I3dError, "model.xml cannot be read by OpenVINO"):
      classifier.Classifier(self.exported, engine="openvino")

  @unittest.skipUnless(_HAS_OPENVINO, "OpenVINO and NNCF are not installed")
  def test_int8_reports_on_videos_that_it_was_not_calibrated_on(self):
    videos = self.folder / "videos"
    videos.mkdir()
    for seed in range(3):
      testing.write_moving_video(videos / f"{seed}.avi", seed=seed, num_frames=12)
    with self.assertRaisesRegex(errors.I3dError, "calibration names 1 videos; it takes at least 2"):
      self._export(precision="int8", calibration=(str(videos / "0.avi"),))
    self._export(precision="int8", calibration=(str(videos),))
    agreement = json.loads((self.exported / "agreement.json").read_text())
    self.assertEqual(agreement["videos"], 1)
    self.assertGreater(agreement["feature_cosine"], 0.9)
    self.assertBetween(agreement["largest_difference"] / agreement["largest_logit"], 1e-6, 0.5)
    self.assertEqual(classifier.Classifier(self.exported, engine="openvino").precision, "int8")
    quantized = openvino_network.import_openvino().Core().read_model(self.exported / "model.xml")
    self.assertNotRegex(" ".join(openvino._logits_layers(quantized)), "fq_")  # no range cuts off the logits

  @unittest.skipUnless(_HAS_OPENVINO, "OpenVINO and NNCF are not installed")
  def test_a_limit_to_the_loss_keeps_layers_in_float(self):
    self.net = self.folder / "c3d"  # of few layers, since each is tried
    testing.write_network(self.net, model="c3d", num_frames=8, crop=32, short_side=36)
    for seed in range(3):
      testing.write_moving_video(self.folder / f"{seed}.avi", seed=seed, num_frames=12)
    videos = tuple(str(self.folder / f"{seed}.avi") for seed in range(3))
    found = [self._export(precision="int8", calibration=videos, max_loss=loss) for loss in (0.9, 1e-9)]
    kept = [int(re.search(r"; (\d+) convolutions stay in float", " ".join(lines))[1]) for lines in found]
    self.assertEqual(kept[0], 1)  # the logits
    self.assertBetween(kept[1], 1, 11)
    # Layers in float are run in float32; where there are matrix units, OpenVINO would run them in bfloat16.
    core = openvino_network.import_openvino().Core()
    quantized = core.read_model(self.exported / "model.xml")
    self._export()
    exact = core.read_model(self.exported / "model.xml")
    in_float32 = mock.Mock()
    in_float32.Core().compile_model = lambda model, device, *_: core.compile_model(model, device, openvino._EXACT)
    held_out = [self.folder / "1.avi"]
    agreement = openvino._compare(in_float32, exact, quantized, classifier.LoadedNetwork(self.net), held_out)
    self.assertAlmostEqual(agreement.feature_cosine, 1, places=6)  # on another video

  def _export(self, **options):
    self.exported.mkdir(exist_ok=True)
    config = exporting.GraphConfig(format="openvino", **options)
    return exports.write_graph(self.exported, (str(self.net),), config)


if __name__ == "__main__":
  absltest.main()
