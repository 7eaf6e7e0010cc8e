"""`python -m i3d_tf.export`, with tiny networks of made weights."""

import os
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized
from ai_edge_litert import interpreter
import numpy as np
import onnxruntime

from i3d_tf import exporting
from i3d_tf import testing
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import pytorch
from i3d_tf.weights import release
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

_SMALL = {"average_space": True, "num_frames": 16, "short_side": 72, "crop": 64}


class FlagsTest(absltest.TestCase):
  def test_choices_are_those_of_the_library(self):
    self.assertEqual(exporting.PYTORCH_FORMATS, (*pytorch.I3D_LAYOUTS, "torchvision"))
    self.assertEqual(exporting.RELEASE_LAYOUTS, tuple(tensorflow1.LAYOUTS))

  def test_defaults_are_those_of_the_library(self):
    shown = testing.run_main("export", "--help")
    self.assertEqual(shown.status, 0)
    self.assertIn(f"default: {exporting.GraphConfig().format}", shown.stdout)


class ExportTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.networks = pathlib.Path(absltest.TEST_TMPDIR.value, "export_test")
    testing.write_network(cls.networks / "rgb", **_SMALL)
    testing.write_network(cls.networks / "flow", **_SMALL, stream="flow")
    testing.write_network(cls.networks / "c3d", model="c3d", num_frames=8, short_side=48, crop=48)
    testing.write_network(cls.networks / "convnet_lstm", model="convnet_lstm", num_frames=5, short_side=48, crop=48)
    values, _ = saved.read(cls.networks / "rgb")
    for layout in tensorflow1.LAYOUTS:
      tensorflow1.write_release(cls.networks / "layouts" / layout / "model.ckpt", values, tensorflow1.LAYOUTS[layout])

  def setUp(self):
    super().setUp()
    self.output = pathlib.Path(self.create_tempdir().full_path, "new", "export")

  def _run(self, *checkpoints: str, **given) -> tuple[str, str]:
    paths = [name if name in release.manifests.NAMES else os.fspath(self.networks / name) for name in checkpoints]
    flags = {"checkpoint": ",".join(paths), "output": self.output, **given}
    done = testing.run_main("export", *(f"--{name}={value}" for name, value in flags.items()))
    return done.stdout, done.stderr.removeprefix("export: error: ").removesuffix("\n")

  def test_prints_what_there_is_and_keeps_what_was_there(self):
    output, error = self._run("rgb", endpoints="Mixed_3c", fold_batch_norm=True)
    self.assertEqual(error, "")
    self.assertEqual(
      [re.sub(" +", " ", line.strip()) for line in output.splitlines()],
      [
        f"{self.output}: saved_model of i3d for rgb, 116 variables with 39,331 values",
        "serving_default rgb [?, ?, ?, ?, 3] logits [?, 3]",
        "probabilities rgb [?, ?, ?, ?, 3] probabilities [?, 3]",
        "step_logits rgb [?, ?, ?, ?, 3] step_logits [?, ?, 3]",
        "Mixed_3c rgb [?, ?, ?, ?, 3] Mixed_3c [?, ?, ?, ?, 25]",
        "jpeg jpeg_bytes [?, ?] probabilities [?, 3]",
        "default rgb_input [?, ?, ?, ?, 3] default [?, 3]",
      ],
    )
    self.assertEqual(sorted(os.listdir(self.output.parent)), ["export"])
    self.assertRegex(self._run("rgb", format="network")[1], "holds assets already; name a new or an empty folder")

  @parameterized.parameters("tflite", "onnx")
  def test_other_runtimes_compute_the_same(self, form):
    output, error = self._run("rgb", "flow", format=form, num_frames=12, size=48)
    self.assertEqual(error, "")
    batch = 1 if form == "tflite" else "?"
    inputs = f"rgb [{batch}, 12, 48, 48, 3], flow [{batch}, 12, 48, 48, 2]"
    self.assertIn(f"serving_default  {inputs}  logits [{batch}, 3]", output)
    self.assertCountEqual(os.listdir(self.output), [f"model.{form}", "classes.txt", "input.json", "MODEL_CARD.md"])
    draw = lambda channels: np.random.default_rng(0).uniform(-1, 1, [1, 12, 48, 48, channels]).astype(np.float32)
    clips = {"rgb": draw(3), "flow": draw(2)}
    path = os.fspath(self.output / f"model.{form}")
    if form == "tflite":
      actual = interpreter.Interpreter(path).get_signature_runner("serving_default")(**clips)["logits"]
    else:
      session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
      (actual,) = session.run(["logits"], clips)
    expected = sum(saved.load(self.networks / stream)[0](clip)[0] for stream, clip in clips.items())
    np.testing.assert_allclose(actual, expected, atol=1e-5)

  @parameterized.parameters("tflite", "onnx")
  def test_a_network_that_a_converter_does_not_manage_is_refused(self, form):
    self.assertRegex(self._run("convnet_lstm", format=form)[1], "cannot convert this network: .*TensorList")
    self.assertFalse(self.output.parent.exists())

  @parameterized.parameters(*tensorflow1.LAYOUTS)
  def test_release_layouts_are_written_as_they_were(self, layout):
    _, error = self._run(f"layouts/{layout}", format="release", layout=layout)
    self.assertEqual(error, "")
    for suffix in (tensorflow1.INDEX_SUFFIX, tensorflow1.DATA_SUFFIX):
      first, second = (folder / f"model.ckpt{suffix}" for folder in (self.networks / "layouts" / layout, self.output))
      self.assertEqual(first.read_bytes(), second.read_bytes())

  def test_a_network_of_ours_is_of_any_kind(self):
    output, error = self._run("c3d", format="network")
    self.assertEqual((error, output.count("c3d for rgb")), ("", 1))
    (values, info), (expected, wanted) = saved.read(self.output), saved.read(self.networks / "c3d")
    self.assertEqual(info, wanted)
    for name, value in expected.items():
      np.testing.assert_array_equal(values[name], value)

  @parameterized.parameters(
    (
      ("rgb",),
      {"format": "release", "size": 64},
      "--size is for .* or onnx or openvino, not",
    ),
    (("rgb",), {"layout": "rgb"}, "--layout is for --format=release, not saved_model"),
    (
      ("rgb",),
      {"format": "onnx", "endpoints": "Mixed_3b"},
      "--endpoints is for .*saved_model or openvino, not onnx",
    ),
    (("rgb", "flow"), {"format": "network"}, "--format=network takes one --checkpoint"),
    (("rgb", "flow", "rgb"), {}, "give one network, or two of rgb and flow"),
    (("c3d",), {"format": "release"}, "is a network c3d; the format release is for i3d only"),
    (("rgb", "flow"), {"format": "tflite"}, "for two networks give num_frames and size"),
    (("nothing",), {}, "there is no checkpoint at .*nothing"),
  )
  def test_what_cannot_be_is_said(self, checkpoints, flags, sentence):
    output, error = self._run(*checkpoints, **flags)
    self.assertRegex(error, sentence)
    self.assertEqual(output, "")
    self.assertFalse(self.output.parent.exists())

  @parameterized.parameters("pytorch_i3d", "kinetics_i3d_pytorch")
  def test_state_dicts_are_read_again_bit_for_bit(self, form):
    values = {name: testing.golden_values(name, shape) for name, shape in spec.variable_shapes().items()}
    first, second, third = (self.output.with_name(name) for name in ("first", "second", "third"))
    tensorflow1.write_release(first / "model.ckpt", values, tensorflow1.LAYOUTS["rgb"])
    self.assertEqual(self._run(first, format=form, output=second)[1], "")
    self.assertEqual(self._run(second / "model.pt", format="release", output=third)[1], "")
    for name in ("model.ckpt.index", "model.ckpt.data-00000-of-00001"):
      self.assertEqual((first / name).read_bytes(), (third / name).read_bytes())
    file = self.output.with_name("i3d.pt")
    self.assertIn("i3d for rgb, 230 variables", self._run(first, format=form, output=file)[0])
    self.assertEqual(file.read_bytes(), (second / "model.pt").read_bytes())
    self.assertRegex(self._run(first, format=form, output=file)[1], "i3d.pt is there already; name a new file")

  def test_a_saved_model_is_a_checkpoint_too(self):
    self.assertEqual(self._run("rgb")[1], "")
    values, info = saved.read(self.output)
    expected, _ = saved.read(self.networks / "rgb")
    self.assertEqual((info.model, info.stream, info.num_classes), ("i3d", "rgb", 3))
    self.assertCountEqual(values, expected)
    for name, value in expected.items():
      np.testing.assert_array_equal(values[name], value, name)


if __name__ == "__main__":
  absltest.main()
