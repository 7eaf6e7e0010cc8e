"""What is said of devices, the precision that is chosen, and the operations that a GPU has no kernel for."""

import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import devices
from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.inference import classifier


class PrecisionTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    testing.write_network(self.folder / "net")

  @parameterized.parameters((3.0, "bfloat16"), (1.05, "float32"), (0.5, "float32"))
  def test_auto_takes_what_is_measured_to_be_faster(self, speedup, expected):
    found = {"float32": 1.0, "bfloat16": 1 / speedup}
    cache = self.folder / "new" / "precision.json"
    with mock.patch.object(devices, "_measured", return_value=found) as measured:
      self.assertEqual(devices.fastest_precision(cache), (expected, found))
      self.assertEqual(devices.fastest_precision(cache), (expected, found))
    measured.assert_called_once()

  @parameterized.parameters(b"{", b"[1]", b'{"machine": 3}')
  def test_a_cache_that_is_damaged_or_cannot_be_written_does_no_harm(self, content):
    found = {"float32": 1.0, "bfloat16": 0.5}
    (self.folder / "precision.json").write_bytes(content)
    for cache in (self.folder / "precision.json", pathlib.Path(os.devnull, "precision.json")):
      with mock.patch.object(devices, "_measured", return_value=found):
        self.assertEqual(devices.fastest_precision(cache), ("bfloat16", found))

  def test_a_classifier_computes_in_the_type_that_it_is_told(self):
    clips = np.random.default_rng(0).uniform(-1, 1, [1, 9, 224, 224, 3]).astype(np.float32)
    exact = classifier.Classifier(self.folder / "net")
    with mock.patch.object(devices, "fastest_precision", return_value=("bfloat16", {"float32": 1.0})):
      short = classifier.Classifier(self.folder / "net", precision="auto")
    self.assertEqual((short.precision, short.networks["rgb"].computed_by), ("bfloat16", {"precision": "bfloat16"}))
    self.assertEqual(exact.networks["rgb"].computed_by, {})
    values = [each.endpoints(clips, ["Mixed_3b", "Logits"]) for each in (exact, short)]
    for name in values[0]:
      self.assertEqual(values[1][name].dtype, np.float32)
      self.assertBetween(testing.relative_error(values[1][name], values[0][name]), 1e-5, 0.05)

  @parameterized.parameters(
    ("int4", "tensorflow", "precision is 'int4'; allowed are auto, float32"),
    ("int8", "tensorflow", "precision int8 is computed by OpenVINO"),
    ("float16", "tensorflow", "precision float16 needs a GPU"),
    ("float16", "openvino", "precision float16 is for the engine tensorflow"),
  )
  def test_what_cannot_be_is_said_in_a_sentence(self, precision, engine, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      classifier.Classifier(self.folder / "net", precision=precision, engine=engine)


class UnusedGpuTest(parameterized.TestCase):
  @parameterized.parameters(
    (("libcudnn.so.9",), "since it does not find libcudnn.so.9; the CPU does the work"),
    (
      ("libcuda.so.1", "libcublas.so.12"),
      "since it does not find libcuda.so.1 (the driver), libcublas.so.12; the CPU does the work",
    ),
    ((), "since it does not find a driver of its version of CUDA; the CPU does the work"),
  )
  def test_the_warning_names_what_is_missing(self, missing, reason):
    build = {"cuda_version": "12.5.1", "cudnn_version": "9"}
    with (
      mock.patch.object(pathlib.Path, "glob", return_value=iter([pathlib.Path("/dev/nvidia0")])),
      mock.patch.object(tf.config, "list_physical_devices", return_value=[]),
      mock.patch.object(tf.test, "is_built_with_cuda", return_value=True),
      mock.patch.object(tf.sysconfig, "get_build_info", return_value=build),
      mock.patch.object(devices, "_is_found", lambda name: name not in missing),
      mock.patch.dict(os.environ),
    ):
      os.environ.pop("CUDA_VISIBLE_DEVICES", None)
      self.assertIn(reason, devices.unused_gpu())
      os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
      self.assertIsNone(devices.unused_gpu())

  def test_a_machine_without_a_gpu_is_not_warned_about(self):
    with mock.patch.object(pathlib.Path, "glob", return_value=iter([])):
      self.assertIsNone(devices.unused_gpu())


class KernelsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    if not tf.test.is_built_with_cuda():
      self.skipTest("this TensorFlow is a build without CUDA, which has no kernels for GPUs")

  def test_what_runs_on_the_cpu_alone_is_found(self):
    double = tf.function(lambda x: x * 2)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([3])], autograph=False)
    def function(content, values):
      image = tf.io.decode_jpeg(content)
      return double(tf.cast(image, tf.float32)), tf.numpy_function(np.sin, [values], tf.float32)

    found = {each.split()[0] for each in devices.without_gpu_kernel(function.get_concrete_function())}
    self.assertEqual(found, {"DecodeJpeg", "PyFunc"})

  def test_networks_at_inference_have_none(self):
    with tempfile.TemporaryDirectory() as folder:
      testing.write_network(pathlib.Path(folder, "net"))
      for precision in ("float32", "bfloat16"):
        network = classifier.Classifier(pathlib.Path(folder, "net"), precision=precision).networks["rgb"]
        function = network.function(["PooledFeatures", "Logits"], {"rgb": (224, 224)})
        self.assertEmpty(devices.without_gpu_kernel(function.get_concrete_function()))


class GpuMemoryTest(parameterized.TestCase):
  @parameterized.parameters("some", "0", "-1", "1.5")
  def test_what_is_no_amount_is_refused(self, policy):
    with self.assertRaisesRegex(errors.I3dError, f"gpu_memory is '{policy}'; it is growth, all, or a number of MB"):
      devices.use_gpu_memory(policy)

  @parameterized.parameters(("growth", 1, 0), ("all", 0, 0), ("1000", 0, 1))
  def test_each_gpu_is_configured(self, policy, num_growing, num_limited):
    config = tf.config
    with (
      mock.patch.object(config, "list_physical_devices", return_value=["gpu"]),
      mock.patch.object(config.experimental, "set_memory_growth") as grow,
      mock.patch.object(config, "set_logical_device_configuration") as limit,
    ):
      devices.use_gpu_memory(policy)
    self.assertEqual((grow.call_count, limit.call_count), (num_growing, num_limited))


if __name__ == "__main__":
  absltest.main()
