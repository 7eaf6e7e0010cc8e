"""What exported networks take and return, for a network of each kind, against the networks themselves."""

import json
import pathlib
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import exporting
from i3d_tf import testing
from i3d_tf.exporting import exports
from i3d_tf.exporting import exports_test
from i3d_tf.exporting import signatures
from i3d_tf.inference import classification
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.input import ops
from i3d_tf.models import zoo
from i3d_tf.video import decode

# The first, which is the smallest.
_ONE_OF_EACH_KIND = tuple({zoo.get(name).constructor: name for name in reversed(zoo.NAMES)}.values())
# In a process that can import TensorFlow only.
_OF_FRAMES = (
  exports_test._BARE
  + """
import numpy as np
folder = sys.argv[1]
frames = tf.constant(np.load(f"{folder}/frames.npy"))
found = tf.saved_model.load(f"{folder}/exported").signatures["frames"](frames=frames)
np.savez(f"{folder}/found.npz", **found)
print([name for name in ("i3d_tf", "sonnet", "cv2", "numba") if name in sys.modules])
"""
)
_SMALL = {"average_space": True, "num_frames": 16, "short_side": 72, "crop": 64}


def _fields(model: str) -> dict:
  """A small version of a network of the zoo: both streams if it takes them, few frames, small ones."""
  entry = zoo.get(model)
  stream = entry.streams[-1]
  frames = {"num_frames": min(16, entry.training["num_frames"]), "short_side": 72, "crop": 64}
  stack = {"flow_stack": 2} if stream != "rgb" and "flow_stack" in entry.training else {}
  return {"model": model, "stream": stream, "average_space": "average_space" in entry.options, **frames, **stack}


def _clips(specs: signatures.Specs, frames: int, height: int, width: int) -> dict[str, tf.Tensor]:
  """Two clips, of the given extents where the specs leave them open."""
  given = (2, frames, height, width, None)
  shapes = {
    stream: [one if one is not None else two for one, two in zip(spec.shape, given)] for stream, spec in specs.items()
  }
  return {stream: tf.random.stateless_uniform(shape, [0, shape[-1]], -1, 1) for stream, shape in shapes.items()}


class SignaturesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _classifier(self, *networks: dict, **options) -> classifier_lib.Classifier:
    folders = [self.folder / str(index) for index in range(len(networks))]
    for folder, fields in zip(folders, networks):
      testing.write_network(folder, **fields)
    return classifier_lib.Classifier(folders, **options)

  @parameterized.parameters(*_ONE_OF_EACH_KIND)
  def test_logits_are_the_network_s_for_clips_of_any_shape_it_takes(self, model):
    classifier = self._classifier(_fields(model))
    specs = signatures.clip_specs(classifier)
    logits = signatures.make(classifier, specs)[signatures.DEFAULT].function
    self.assertTrue(all(spec.shape[0] is None for spec in specs.values()))
    for extents in ((classifier.preprocess.num_frames, 64, 64), (19, 80, 48)):
      clips = _clips(specs, *extents)
      (network,) = classifier.networks.values()
      expected = network.model(clips if len(clips) > 1 else next(iter(clips.values())))[0]
      self.assertLess(testing.relative_error(logits(**clips)["logits"], expected), 1e-5)

  def test_axes_are_open_where_the_network_allows_it(self):
    shape = lambda *networks, **options: {
      stream: spec.shape.as_list()
      for stream, spec in signatures.clip_specs(self._classifier(*networks), **options).items()
    }
    i3d = {"rgb": [None, None, 224, 224, 3]}
    self.assertEqual(shape({}), i3d)
    self.assertEqual(shape({**_SMALL, "stream": "flow"}), {"flow": [None, None, None, None, 2]})
    self.assertEqual(shape({"model": "c3d", "num_frames": 8, "crop": 48}), {"rgb": [None, 8, 48, 48, 3]})
    self.assertEqual(shape(_SMALL, num_frames=9, size=32, batch=1), {"rgb": [1, 9, 32, 32, 3]})
    self.assertEqual(shape({}, {"stream": "flow"}), {**i3d, "flow": [None, None, 224, 224, 2]})

  def test_what_a_network_does_not_take_is_refused(self):
    classifier = self._classifier({})
    for options, sentence in (
      ({"num_frames": 8}, "0 does not take these clips: clip has 8 frames; Logits needs at least 9"),
      ({"size": 256}, "0 does not take these clips: clip has height 256; Logits needs 193 to 224"),
    ):
      with self.assertRaisesRegex(errors.I3dError, sentence):
        signatures.clip_specs(classifier, **options)
    description = json.loads(signatures.describe(classifier, {})["input.json"])
    self.assertEqual(description["streams"]["rgb"]["least_frames"], 9)
    with self.assertRaisesRegex(errors.I3dError, "no choice of average_space"):
      self._classifier({"model": "c3d", "num_frames": 8, "crop": 48}, average_space=True)

  def test_there_are_signatures_for_all_that_a_network_of_rgb_returns(self):
    classifier = self._classifier(_SMALL)
    made = signatures.make(classifier, signatures.clip_specs(classifier), ["Mixed_3c", "PooledFeatures"])
    clips = _clips(signatures.clip_specs(classifier), 17, 64, 64)
    results = {name: each.function(clips["rgb"]) for name, each in made.items() if name != signatures.JPEG}
    expected = classifier(clips)
    wanted = {
      ("serving_default", "logits"): expected["Logits"],
      ("probabilities", "probabilities"): tf.nn.softmax(expected["Logits"]),
      ("step_logits", "step_logits"): expected["StepLogits"],
      ("default", "default"): expected["Logits"],
      ("Mixed_3c", "Mixed_3c"): expected["Mixed_3c"],
      ("PooledFeatures", "PooledFeatures"): expected["PooledFeatures"],
    }
    self.assertCountEqual([(name, output) for name, outputs in results.items() for output in outputs], wanted)
    for (name, output), value in wanted.items():
      self.assertLess(testing.relative_error(results[name][output], value), 1e-5, name)
    with self.assertRaisesRegex(errors.I3dError, "endpoints has Mixed_3d; there are Conv3d_1a_7x7, "):
      signatures.make(classifier, signatures.clip_specs(classifier), ["Mixed_3d"])

  def test_two_networks_add_their_logits(self):
    classifier = self._classifier(_SMALL, {**_SMALL, "stream": "flow", "num_frames": 32})
    made = signatures.make(classifier, signatures.clip_specs(classifier), ["flow/Mixed_3c"])
    self.assertCountEqual(made, ["serving_default", "probabilities", "flow/Mixed_3c"])
    clips = _clips(signatures.clip_specs(classifier), 16, 64, 64)
    apart = [network.model(clips[stream]) for stream, network in classifier.networks.items()]
    logits = made["serving_default"].function(**clips)["logits"]
    np.testing.assert_allclose(logits, apart[0][0] + apart[1][0], atol=1e-5)
    features = made["flow/Mixed_3c"].function(**clips)["flow/Mixed_3c"]
    self.assertLess(testing.relative_error(features, apart[1][1]["Mixed_3c"]), 1e-5)

  def test_networks_that_do_not_go_together_are_refused(self):
    flow = {**_SMALL, "stream": "flow"}
    for second, sentence in (
      (_SMALL, "there must be one of rgb and one of flow"),
      ({**flow, "num_classes": 2, "classes": ("a", "b")}, "have 3 classes and 2"),
      ({**flow, "classes": ("a", "b", "c")}, "have classes of other names"),
    ):
      with self.assertRaisesRegex(errors.I3dError, sentence):
        self._classifier(_SMALL, second)
    self.assertEqual(self._classifier(_SMALL, {**flow, "classes": ()}).classes, ("down", "right", "still"))

  def test_frames_as_jpeg_are_prepared_as_those_of_videos(self):
    rng = np.random.default_rng(0)
    noise = lambda height, width: cv2.blur(rng.integers(0, 255, [height, width, 3], np.uint8), (5, 5))
    clips = [[noise(72, 100) for _ in range(3)], [noise(150, 110) for _ in range(3)]]
    encode = lambda frame: cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    images = [[encode(frame) for frame in clip] for clip in clips]
    decoded = [[cv2.imdecode(np.frombuffer(each, np.uint8), 1)[..., ::-1] for each in clip] for clip in images]
    expected = [ops.center_crop(np.stack([decode.resize(frame, 72) for frame in clip]), 64) for clip in decoded]
    actual = signatures.decode_frames(tf.constant(images), 72, 64).numpy()
    np.testing.assert_array_equal(actual[0], ops.scale_rgb(expected[0]))
    np.testing.assert_allclose(actual[1], ops.scale_rgb(expected[1]), atol=1.01 * 2 / 255)  # OpenCV rounds otherwise

  def test_probabilities_of_jpeg_images_are_those_of_the_clip(self):
    classifier = self._classifier({**_SMALL, "num_frames": 9})
    jpeg = signatures.make(classifier, signatures.clip_specs(classifier))[signatures.JPEG]
    frames = np.random.default_rng(0).integers(0, 255, [9, 72, 72, 3], np.uint8)
    images = tf.constant([[tf.io.encode_jpeg(frame).numpy() for frame in frames]])
    clip = signatures.decode_frames(images, 72, 64)
    expected = tf.nn.softmax(classifier({"rgb": clip})["Logits"])
    np.testing.assert_allclose(jpeg.function(jpeg_bytes=images)["probabilities"], expected, atol=1e-6)


class FramesTest(absltest.TestCase):
  """The signature that takes frames and computes their flow."""

  def test_logits_without_this_project_are_those_of_classify(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    for stream in ("rgb", "flow"):
      testing.write_network(folder / stream, stream=stream, **_SMALL)
    testing.write_moving_video(folder / "a.avi", seed=1, num_frames=12)
    checkpoints = {stream: folder / stream for stream in ("rgb", "flow")}
    expected = classification.classify(folder / "a.avi", checkpoints).logits
    config = exporting.GraphConfig(with_flow=True)
    (folder / "exported").mkdir()
    lines = exports.write_graph(folder / "exported", tuple(map(str, checkpoints.values())), config)
    self.assertTrue(any(line.split()[:1] == ["frames"] for line in lines))
    frames = decode.read_video(folder / "a.avi", short_side=None)[np.newaxis]
    self.assertEqual(frames.shape, (1, 12, 48, 64, 3))
    np.save(folder / "frames.npy", frames)
    done = subprocess.run(
      [sys.executable, "-c", _OF_FRAMES, folder], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    self.assertEqual((done.returncode, done.stdout), (0, "[]\n"), done.stderr[-2000:])
    found = np.load(folder / "found.npz")
    np.testing.assert_allclose(found["logits"][0], expected, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], tf.nn.softmax(found["logits"]), atol=1e-6)
    np.testing.assert_allclose(found["rgb_logits"] + found["flow_logits"], found["logits"], atol=1e-5)

  def test_what_it_cannot_be_made_of(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    testing.write_network(folder / "rgb", **_SMALL)
    testing.write_network(folder / "dis", stream="flow", flow_method="dis", **_SMALL)
    for name, message in (
      ("rgb", "with_flow is for networks of flow"),
      ("dis", "flow is dis; here it can be tvl1 only"),
    ):
      classifier = classifier_lib.Classifier(folder / name)
      with self.assertRaisesRegex(errors.I3dError, message):
        signatures.of_frames(classifier, signatures.clip_specs(classifier))


if __name__ == "__main__":
  absltest.main()
