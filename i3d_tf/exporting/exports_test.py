"""3D pools as 2D ones: the same values, and none left.

Exported SavedModels in processes that have TensorFlow and nothing of this project.

One loads them and calls them; one serves them over gRPC, and this process is its client.
"""

import json
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from i3d_tf import exporting
from i3d_tf import testing
from i3d_tf.exporting import exports
from i3d_tf.inference import classifier as classifier_lib

_SHAPE = (2, 5, 8, 9, 3)


class FreezingTest(parameterized.TestCase):
  @parameterized.product(
    pool=[tf.nn.max_pool3d, tf.nn.avg_pool3d],
    window=[((2, 3, 3), (2, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (1, 2, 2)), ((2, 7, 5), (1, 1, 1))],
    padding=["SAME", "VALID"],
  )
  def test_pools_give_the_same(self, pool, window, padding):
    bias = tf.Variable(np.linspace(-1, 1, 3), dtype=tf.float32)
    function = tf.function(lambda clip: {"pooled": pool(clip - bias, *window, padding) * bias})
    function = function.get_concrete_function(tf.TensorSpec(_SHAPE))
    changed = exports.with_2d_pools(exports.freeze(function))
    kinds = [operation.type for operation in changed.graph.get_operations()]
    self.assertEqual(kinds.count("MaxPool3D") + kinds.count("AvgPool3D"), 0)
    self.assertEqual(kinds.count("MaxPool") + kinds.count("AvgPool"), 2)
    clip = tf.constant(np.random.default_rng(0).normal(size=_SHAPE) - 3, tf.float32)  # below the padding's 0
    np.testing.assert_allclose(changed(clip)[0], function(clip)["pooled"], atol=1e-5)


if __name__ == "__main__":
  absltest.main()

_SMALL = {"average_space": True, "num_frames": 16, "short_side": 72, "crop": 64}
# What each program begins with: of what is installed, this project and what only it needs cannot be imported.
_BARE = """
import sys
class Refusal:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in ("i3d_tf", "sonnet", "cv2", "numba"):
      raise ImportError(f"{name} is not for this process")
sys.meta_path.insert(0, Refusal())
import tensorflow as tf
"""
_LOADER = (
  _BARE
  + """
import numpy as np
folder, clips = sys.argv[1:]
clips = {name: tf.constant(value) for name, value in np.load(clips).items()}
results = {}
for name in ("one", "folded", "two"):
  model = tf.saved_model.load(f"{folder}/{name}")
  inputs = clips if name == "two" else {"rgb": clips["rgb"]}
  results[name] = model.signatures["serving_default"](**inputs)["logits"]
  results[f"{name}/called"] = model(inputs if name == "two" else inputs["rgb"])
  results[f"{name}/variables"] = len(model.variables)
  results[f"{name}/trainable"] = len(model.trainable_variables)
  results[f"{name}/assets"] = sorted(asset.asset_path.numpy() for asset in model.assets)
model = tf.saved_model.load(f"{folder}/one")
results["hub"] = model.signatures["default"](clips["rgb"])["default"]
results["hub/named"] = model.signatures["default"](rgb_input=clips["rgb"])["default"]
layer = tf.keras.layers.TFSMLayer(f"{folder}/one", call_endpoint="serving_default")
results["keras"] = layer(clips["rgb"])["logits"]
image = tf.keras.Input([17, 64, 48, 3])
results["keras/model"] = tf.keras.Model(image, layer(image)["logits"]).predict(clips["rgb"], verbose=0)
with tf.GradientTape() as tape:
  loss = tf.nn.log_softmax(model(clips["rgb"]))[0, 0]
results["gradients"] = [tf.norm(each) for each in tape.gradient(loss, model.trainable_variables)]
try:
  model(clips["rgb"][:, :8])
except tf.errors.InvalidArgumentError as error:
  results["too short"] = str(error)
np.savez(f"{folder}/results.npz", **results)
print([name for name in ("i3d_tf", "sonnet", "cv2", "numba") if name in sys.modules])
"""
)
_KERAS = ("keras", "keras/model")
_SERVER = (
  _BARE
  + """
from concurrent import futures
import grpc
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
  def Predict(self, request, context):
    signature = model.signatures[request.model_spec.signature_name or "serving_default"]
    inputs = {name: tf.constant(tf.make_ndarray(each)) for name, each in request.inputs.items()}
    response = predict_pb2.PredictResponse(model_spec=request.model_spec)
    for name, value in signature(**inputs).items():
      response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    return response

model = tf.saved_model.load(sys.argv[1])
unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]  # as TensorFlow Serving has it
server = grpc.server(futures.ThreadPoolExecutor(1), options=unlimited)
prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""
)


def _start(program: str, folder: pathlib.Path, *words: str) -> subprocess.Popen:
  """A program in a process that finds the installed packages, but not this folder, this project or its flags."""
  command = [sys.executable, "-I", "-c", program, *words]
  environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
  pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
  return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)


class SavedModelTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(absltest.TEST_TMPDIR.value, "saved_model_test")
    cls.rgb, cls.flow = (os.fspath(cls.folder / "networks" / name) for name in ("rgb", "flow"))
    testing.write_network(cls.rgb, **_SMALL)
    testing.write_network(cls.flow, **_SMALL, stream="flow")
    draw = lambda channels: np.random.default_rng(channels).uniform(-1, 1, [2, 17, 64, 48, channels])
    cls.clips = {"rgb": draw(3).astype(np.float32), "flow": draw(2).astype(np.float32)}
    exports.write_graph(cls.folder / "one", (cls.rgb,), exporting.GraphConfig(endpoints=("Mixed_3c",)))

  def test_a_process_that_has_only_tensorflow_computes_the_same(self):
    exports.write_graph(self.folder / "folded", (self.rgb,), exporting.GraphConfig(fold_batch_norm=True))
    exports.write_graph(self.folder / "two", (self.rgb, self.flow), exporting.GraphConfig())
    np.savez(self.folder / "clips.npz", **self.clips)
    with _start(_LOADER, self.folder, os.fspath(self.folder), os.fspath(self.folder / "clips.npz")) as process:
      printed, complaints = process.communicate(timeout=300)
    self.assertEqual((process.returncode, printed), (0, "[]\n"), complaints)
    results = np.load(self.folder / "results.npz")
    expected = {
      name: classifier_lib.Classifier(checkpoints)(self.clips)["Logits"].numpy()
      for name, checkpoints in {"one": [self.rgb], "two": [self.rgb, self.flow]}.items()
    }
    for name in ("one", "one/called", "folded", "folded/called", "two", "two/called", "hub", "hub/named", *_KERAS):
      np.testing.assert_allclose(results[name], expected["two" if "two" in name else "one"], atol=1e-6, err_msg=name)
    numbers = {name: int(results[f"{name}/variables"]) for name in ("one", "folded", "two")}
    self.assertEqual(numbers, {"one": 230, "folded": 2 * 57 + 2, "two": 460})
    self.assertEqual([int(results[f"{name}/trainable"]) for name in ("one", "two")], [116, 232])
    self.assertLen(results["gradients"], 116)
    self.assertGreater(results["gradients"].min(), 0)
    self.assertIn("clip has too few frames; Logits needs at least 9", str(results["too short"]))
    assets = [
      os.fsencode(self.folder / "one" / "assets" / name) for name in ("MODEL_CARD.md", "classes.txt", "input.json")
    ]
    self.assertEqual(list(results["one/assets"]), assets)

  def test_a_client_of_tensorflow_serving_gets_the_same(self):
    classifier = classifier_lib.Classifier([self.rgb])
    expected = classifier(self.clips)
    with _start(_SERVER, self.folder, os.fspath(self.folder / "one")) as process:
      self.addCleanup(process.kill)
      port = process.stdout.readline().strip()
      with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._compare(stub, "", "rgb", "logits", expected["Logits"])
        self._compare(stub, "Mixed_3c", "rgb", "Mixed_3c", expected["Mixed_3c"])
        self._compare(stub, "default", "rgb_input", "default", expected["Logits"])
      process.communicate(timeout=60)
    self.assertEqual(process.returncode, 0)

  def _compare(self, stub, signature: str, name: str, output: str, expected: tf.Tensor) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "i3d", signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(self.clips["rgb"]))
    response = stub.Predict(request, timeout=120, wait_for_ready=True)
    np.testing.assert_allclose(tf.make_ndarray(response.outputs[output]), expected, atol=1e-6, err_msg=signature)

  def test_a_network_with_a_gradient_of_its_own_is_saved_without_it(self):
    testing.write_network(self.folder / "x3d", model="x3d_xs", num_frames=4, short_side=48, crop=48)
    exports.write_graph(self.folder / "exported", (os.fspath(self.folder / "x3d"),), exporting.GraphConfig())
    clip = {"rgb": tf.constant(self.clips["rgb"])}
    actual = tf.saved_model.load(self.folder / "exported").signatures["serving_default"](**clip)["logits"]
    expected = classifier_lib.Classifier([self.folder / "x3d"])(clip)["Logits"]
    self.assertLess(testing.relative_error(actual, expected), 1e-5)

  def test_assets_tell_the_classes_and_what_the_clips_are_to_be(self):
    assets = self.folder / "one" / "assets"
    self.assertEqual((assets / "classes.txt").read_text(), "down\nright\nstill\n")
    card = (assets / "MODEL_CARD.md").read_text()
    for part in ("# i3d (rgb)", "3 classes", "not stated by the checkpoint", "| rgb | red, green, blue", "## Limits"):
      self.assertIn(part, card)
    content = json.loads((assets / "input.json").read_bytes())
    self.assertEqual(content["networks"][0]["checkpoint"], self.rgb)
    stream = content["streams"]["rgb"]
    self.assertEqual((stream["range"], stream["channels"], stream["least_frames"]), ([-1, 1], 3, 9))
    self.assertEqual(stream["trained_on"], {"num_frames": 16, "frame_stride": 1, "short_side": 72, "crop": 64})
    signature = content["signatures"]["Mixed_3c"]
    self.assertEqual(signature["inputs"]["rgb"], {"dtype": "float32", "shape": [None, None, None, None, 3]})
    self.assertEqual(signature["outputs"]["Mixed_3c"]["shape"], [None, None, None, None, 25])


if __name__ == "__main__":
  absltest.main()
