"""The service's answers: those of the library, over REST, gRPC and for uploaded videos."""

import base64
import contextlib
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from unittest import mock

from absl.testing import absltest
import cv2
import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from i3d_tf import errors
from i3d_tf import exporting
from i3d_tf import serving
from i3d_tf import testing
from i3d_tf.exporting import exports
from i3d_tf.exporting import signatures
from i3d_tf.inference import classification
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.serving import grpc_service
from i3d_tf.serving import models
from i3d_tf.serving import testing as serving_testing
from i3d_tf.video import decode

# Quick to trace; and one that has steps in time.
_SMALL = {"model": "c3d", "num_frames": 16, "short_side": 36, "crop": 32, "step": 7}
_STEPS = {"average_space": True, "num_frames": 16, "short_side": 48, "crop": 32}
_NOISE = np.random.default_rng(0).uniform(-1, 1, [2, 16, 32, 32, 3]).astype(np.float32)


class ServiceTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.run_folder = cls.folder / "tiny"
    testing.write_network(cls.run_folder, **_SMALL)
    (cls.folder / "exported").mkdir()
    config = exporting.GraphConfig(endpoints=("PooledFeatures",))
    exports.write_graph(cls.folder / "exported" / "3", (str(cls.run_folder),), config)
    cls.classifier = classifier_lib.Classifier(cls.run_folder)
    sources = [models.parse_source(str(cls.run_folder)), models.parse_source(f"saved={cls.folder / 'exported'}")]
    cls.running = cls.enterClassContext(serving_testing.Running(models.Repository(sources)))
    cls.video = cls.folder / "moving.avi"
    testing.write_moving_video(cls.video, seed=1, num_frames=30)

  def test_rest_gives_the_librarys_numbers(self):
    expected = self.classifier.logits(_NOISE)
    for name in ("tiny", "saved"):
      status, rows, _ = self.running.call("POST", f"/v1/models/{name}:predict", {"instances": _NOISE.tolist()})
      self.assertEqual(status, 200, rows)
      np.testing.assert_allclose(rows["predictions"], expected, atol=1e-6, err_msg=name)
      body = {"signature_name": "probabilities", "inputs": {"rgb": _NOISE.tolist()}}
      version = {"tiny": 7, "saved": 3}[name]
      _, columns, _ = self.running.call("POST", f"/v1/models/{name}/versions/{version}:predict", body)
      np.testing.assert_allclose(columns["outputs"], self.classifier.probabilities(_NOISE), atol=1e-6, err_msg=name)
    named = {"instances": [{"rgb": clip.tolist()} for clip in _NOISE]}
    _, rows, _ = self.running.call("POST", "/v1/models/tiny:predict", named)
    np.testing.assert_allclose(rows["predictions"], expected, atol=1e-6)

  def test_frames_as_images(self):
    frames = np.random.default_rng(1).integers(0, 255, [16, 40, 56, 3]).astype(np.uint8)
    images = [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in frames]
    texts = [[{"b64": base64.b64encode(image).decode()} for image in images]]
    body = {"signature_name": "jpeg", "instances": texts}
    _, answer, _ = self.running.call("POST", "/v1/models/tiny:predict", body)
    clip = signatures.decode_frames(tf.constant([images]), 36, 32)
    np.testing.assert_allclose(answer["predictions"], self.classifier.probabilities(clip), atol=1e-6)

  def test_the_manuals_clients(self):
    manual = (pathlib.Path(serving.__file__).parent / "README.md").read_text()
    server, grpc_port = grpc_service.start(_with(self.running.service, grpc_port=0))
    self.addCleanup(lambda: server.stop(None).wait())
    for theirs, ours in (
      ("localhost:8500", f"127.0.0.1:{self.running.port}"), ("localhost:8501", f"127.0.0.1:{grpc_port}"),
      ("rgb_scratch", "tiny"), ("range(64)", "range(16)"), ("[1, 64, 224, 224, 3]", "[1, 16, 32, 32, 3]"),
    ):  # fmt: skip
      self.assertIn(theirs, manual)
      manual = manual.replace(theirs, ours)
    folder = self.folder / "client"
    folder.mkdir()
    for number in range(16):
      cv2.imwrite(str(folder / f"frame{number:03}.jpg"), np.full((40, 50, 3), 8 * number, np.uint8))
    shutil.copy(self.video, folder / "clip.mp4")
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(folder)
    blocks = re.findall(r"```(python|sh) not-run\n(.*?)```", manual, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      for kind, block in blocks:
        if kind == "python":
          exec(compile(block, "README.md", "exec"), {})
    best, whole, logits = printed.getvalue().split("\n", 2)
    self.assertBetween(float(best), 1 / 3, 1)
    self.assertIn("'label': '", whole)
    zeros = self.classifier.logits(np.zeros([1, 16, 32, 32, 3], np.float32))
    np.testing.assert_allclose(np.array(logits.strip(" \n[]").split(), float), zeros[0], rtol=1e-5)
    for line in (line for kind, block in blocks if kind == "sh" for line in block.splitlines()):
      if line.startswith("curl -F") and shutil.which("curl"):
        done = subprocess.run(shlex.split(f"{line} --silent --fail"), capture_output=True, check=True)
        if "-o" not in line:
          self.assertLen(json.loads(done.stdout)["whole"], 3)
    self.assertEqual(np.load(folder / "clip.npy").ndim, 2)

  def test_status_and_metadata(self):
    _, status, _ = self.running.call("GET", "/v1/models/saved")
    self.assertEqual(
      [(each["version"], each["state"]) for each in status["model_version_status"]], [("3", "AVAILABLE")]
    )
    _, metadata, _ = self.running.call("GET", "/v1/models/tiny/versions/7/metadata")
    self.assertEqual(metadata["model_spec"], {"name": "tiny", "signature_name": "", "version": "7"})
    found = metadata["metadata"]["signature_def"]["signature_def"]
    self.assertContainsSubset(["serving_default", "probabilities", "jpeg", "default"], found)
    shape = found["serving_default"]["inputs"]["rgb"]["tensor_shape"]["dim"]
    self.assertEqual([each["size"] for each in shape], ["-1", "16", "32", "32", "3"])
    for path in ("other", "tiny/versions/8", "tiny/versions/8/metadata", "other/metadata"):
      self.assertEqual(self.running.call("GET", f"/v1/models/{path}")[0], 404, path)

  def test_a_killed_decoder_costs_its_request_only(self):
    with mock.patch.object(decode._elsewhere, "_take", _take_dead):
      status, answer, _ = self.running.upload(self.video, "mine.avi")
    self.assertEqual(status, 422)
    self.assertEqual(answer, {"error": "mine.avi: the process that read it died (SIGKILL)"})
    self.assertEqual(self.running.upload(self.video)[0], 200)

  def test_grpc_gives_the_same_numbers(self):
    server, port = grpc_service.start(_with(self.running.service, grpc_port=0), "secret")
    self.addCleanup(lambda: server.stop(None).wait())
    token = (("authorization", "Bearer secret"),)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
      stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
      request = predict_pb2.PredictRequest()
      request.model_spec.name = "tiny"
      request.inputs["rgb"].CopyFrom(tf.make_tensor_proto(_NOISE))
      response = stub.Predict(request, timeout=60, metadata=token)
      logits = tf.make_ndarray(response.outputs["logits"])
      np.testing.assert_allclose(logits, self.classifier.logits(_NOISE), atol=1e-6)
      self.assertEqual(response.model_spec.version.value, 7)
      for change, code in ((None, "UNAUTHENTICATED"), ("other", "NOT_FOUND"), ("rgb", "INVALID_ARGUMENT")):
        if change == "other":
          request.model_spec.name = "other"
        elif change == "rgb":
          request.model_spec.name = "tiny"
          request.inputs["rgb"].tensor_content = b"short"
        with self.assertRaises(grpc.RpcError) as raised:
          stub.Predict(request, timeout=60, metadata=token if change else ())
        self.assertEqual(raised.exception.code().name, code)
      asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
      asked.model_spec.name = "saved"
      found = get_model_metadata_pb2.SignatureDefMap()
      stub.GetModelMetadata(asked, timeout=60, metadata=token).metadata["signature_def"].Unpack(found)
      self.assertEqual(found.signature_def["serving_default"].outputs["logits"].tensor_shape.dim[1].size, 3)
      status_stub = model_service_pb2_grpc.ModelServiceStub(channel)
      state = get_model_status_pb2.GetModelStatusRequest()
      state.model_spec.name = "saved"
      found = status_stub.GetModelStatus(state, timeout=60, metadata=token)
      self.assertEqual([each.version for each in found.model_version_status], [3])

  def test_a_newer_version_is_served_when_it_is_loaded(self):
    folder = self.folder / "reloaded"
    shutil.copytree(self.folder / "exported", folder)
    repository = models.Repository([models.Source("it", (str(folder),))], num_versions=2)
    shutil.copytree(folder / "3", folder / "5")
    self.assertEqual(repository.get("it").version, 3)
    self.assertEqual(repository.reload("it"), [3, 5])
    self.assertEqual(repository.get("it").version, 5)
    (folder / "5" / "saved_model.pb").write_bytes(b"damaged")
    self.assertEqual(repository.reload("it"), [3, 5])  # what is loaded stays
    shutil.copytree(folder / "3", folder / "6")
    (folder / "6" / "saved_model.pb").write_bytes(b"damaged")
    with self.assertRaisesRegex(errors.I3dError, "6 cannot be loaded"):
      repository.reload("it")
    self.assertEqual(repository.get("it").version, 5)
    status, answer, _ = self.running.call("POST", "/v1/models/tiny:reload", b"")
    self.assertEqual((status, answer), (200, {"name": "tiny", "versions": [7]}))

  def test_health_metrics_and_list(self):
    self.assertEqual(self.running.call("GET", "/healthz")[:2], (200, {"status": "ok"}))
    self.running.call("POST", "/v1/models/tiny:predict", {"instances": _NOISE.tolist()})
    text = self.running.call("GET", "/metrics")[1].decode()
    self.assertRegex(text, r'i3d_requests_total\{route="/v1/models/\{name\}:predict",status="200"\} [1-9]')
    self.assertRegex(text, r"i3d_batch_clips_sum [1-9]")
    found = self.running.call("GET", "/v1/models")[1]
    self.assertEqual(
      [(each["name"], each["takes_videos"]) for each in found["models"]], [("tiny", True), ("saved", True)]
    )
    self.assertEqual(found["limits"]["max_seconds"], 60)

  def test_videos_of_a_network_without_steps(self):
    answers = [self.running.upload(self.video, model=name, features="true")[1] for name in ("tiny", "saved")]
    network = self.classifier.networks["rgb"]
    clips = classification.protocol(network.info, protocol="clips", num_clips=1, flip=False)
    first = classification.read_views(classification.Video(self.video, short_side=36, max_frames=16), clips)
    for answer in answers:
      self.assertEqual([round(each["time"], 2) for each in answer["windows"]], [0.3, 0.46, 0.62, 0.78, 0.86])
      logits = {each["index"]: each["logit"] for each in answer["windows"][0]["classes"]}
      np.testing.assert_allclose([logits[index] for index in range(3)], network.logits(first)[0], atol=1e-5)
      np.testing.assert_allclose(
        answer["features"]["rgb"]["values"][0], network.endpoints(first, ["PooledFeatures"])["PooledFeatures"][0],
        rtol=1e-4, atol=1e-5,
      )  # fmt: skip

  def test_a_signal_lets_what_runs_end(self):
    started, release = threading.Event(), threading.Event()
    signature = self.running.service.repository.get("tiny").signature("")

    def slow(**inputs):
      started.set()
      release.wait(30)
      return signature.function(**inputs)

    slowed = models.ServedSignature(signature.inputs, signature.outputs, slow)
    found = []
    with serving_testing.Running(self.running.service.repository) as running:
      with mock.patch.object(models.ServedModel, "signature", return_value=slowed):
        ask = lambda: found.append(running.call("POST", "/v1/models/tiny:predict", {"instances": _NOISE.tolist()})[0])
        thread = threading.Thread(target=ask)
        thread.start()
        started.wait(30)
        running.server.handle_exit(signal.SIGTERM, None)
        release.set()
        thread.join()
      self.assertTrue(running.server.should_exit)
    self.assertEqual(found, [200])


class VideoTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    testing.write_network(cls.folder / "steps", **_STEPS)
    with mock.patch.object(models.signatures_lib, "make", return_value={}):  # which take long to trace
      repository = models.Repository([models.parse_source(str(cls.folder / "steps"))])
    cls.classifier = repository.get().classifier
    cls.running = cls.enterClassContext(serving_testing.Running(repository))
    cls.video = cls.folder / "moving.avi"
    testing.write_moving_video(cls.video, seed=1, num_frames=30)

  def test_classes_are_those_of_classify(self):
    status, answer, _ = self.running.upload(self.video, "a/../../b.avi", features="true", pictures=3)
    self.assertEqual(status, 200, answer)
    self.assertEqual((answer["name"], answer["frames"], answer["seconds"]), ("b.avi", 30, 1.2))
    _compare(self, answer, classification.classify(self.video, self.classifier))
    curves = answer["timeline"]["classes"]
    self.assertLen(curves, 3)
    self.assertLen(answer["windows"], len(answer["timeline"]["times"]))
    np.testing.assert_allclose(np.sum([each["probabilities"] for each in curves], axis=0), 1, atol=1e-6)
    picture = base64.b64decode(answer["pictures"][0]["frame"])
    self.assertEqual(cv2.imdecode(np.frombuffer(picture, np.uint8), 1).shape, (128, 171, 3))
    np.testing.assert_allclose(answer["features"]["rgb"]["values"], self._features(), rtol=1e-4, atol=1e-5)

  def _features(self) -> np.ndarray:
    network = self.classifier.networks["rgb"]
    video = classification.Video(self.video, short_side=48)
    clips = classification.read_views(video, classification.protocol(network.info))
    features = network.endpoints(clips, ["PooledFeatures"])["PooledFeatures"]
    return features.reshape(-1, features.shape[-1])

  def test_features_annotated_video_and_heat_map(self):
    _, content, headers = self.running.upload(self.video, output="features")
    self.assertEqual(headers["content-type"], "application/octet-stream")
    np.testing.assert_allclose(np.load(io.BytesIO(content)), self._features(), rtol=1e-4, atol=1e-5)
    _, content, _ = self.running.upload(self.video, output="annotated")
    (self.folder / "annotated.mp4").write_bytes(content)
    self.assertLen(list(decode.iter_frames(self.folder / "annotated.mp4", short_side=None)), 30)
    _, content, headers = self.running.upload(self.video, output="activation")
    self.assertEqual(headers["content-type"], "image/png")
    self.assertGreater(np.ptp(cv2.imdecode(np.frombuffer(content, np.uint8), 1)), 100)


def _compare(test: absltest.TestCase, answer: dict, expected: classification.Classification) -> None:
  """Compares the best classes of a whole video."""
  test.assertEqual([each["label"] for each in answer["whole"]], [each.label for each in expected.predictions])
  for actual, wanted in zip(answer["whole"], expected.predictions, strict=True):
    test.assertAlmostEqual(actual["logit"], wanted.logit, places=5)
    test.assertAlmostEqual(actual["probability"], wanted.probability, places=6)


def _take_dead():
  """A process for the decoder that is killed before it gives anything."""
  process, pipe = decode.workers._start(
    decode.workers.multiprocessing.get_context("spawn"), decode.workers._serve_streams
  )
  process.kill()
  process.join()
  return process, pipe


def _with(service, **options):
  """The same service with other options."""
  changed = mock.Mock(wraps=service)
  changed.config = serving.ServeConfig(**options)
  changed.repository = service.repository
  return changed


class SourceTest(absltest.TestCase):
  def test_names_and_checkpoints(self):
    parse = models.parse_source
    self.assertEqual(parse("rgb_scratch"), models.Source("rgb_scratch", ("rgb_scratch",)))
    self.assertEqual(parse("two=rgb_imagenet,flow_imagenet"), models.Source("two", ("rgb_imagenet", "flow_imagenet")))
    self.assertEqual(parse("runs/my-run/"), models.Source("my-run", ("runs/my-run/",)))
    for text in ("", "a=", "a=b,c,d", "a b=c", "../x/=y", "a:b=c"):
      with self.assertRaisesRegex(errors.I3dError, "^model is "):
        parse(text)


if __name__ == "__main__":
  absltest.main()
