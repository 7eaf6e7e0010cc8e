"""Forms of checkpoints: however a file is named and wrapped, its weights are loaded to the last bit, or refused."""

import functools
import pathlib
import pickle
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import containers
from i3d_tf.weights import pytorch
from i3d_tf.weights import saved
from i3d_tf.weights import tensorflow1

_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


@functools.cache
def _values() -> dict[str, np.ndarray]:
  shapes = spec.variable_shapes(in_channels=2)
  return {name: testing.golden_values(name, shape) for name, shape in shapes.items()}


@functools.cache
def _state() -> dict[str, np.ndarray]:
  return pytorch.to_torch(_values(), pytorch.I3D_LAYOUTS["pytorch_i3d"])


def _prefixed(prefix: str) -> dict[str, np.ndarray]:
  return {prefix + name: array for name, array in _state().items()}


def _edit_pickle(path: pathlib.Path, edit) -> None:
  """Rewrites the pickle of a file that `containers.write_torch` wrote."""
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  members["archive/data.pkl"] = edit(members["archive/data.pkl"])
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in members.items():
      archive.writestr(name, content)


def _with_parameters(pickled: bytes) -> bytes:
  """Wraps every tensor in what nn.Parameter is pickled as."""
  begin, end = b"ctorch._utils\n_rebuild_parameter\n(", b"ccollections\nOrderedDict\n)RtR"
  return pickled.replace(_TENSOR, begin + _TENSOR).replace(end, end + b"\x89ccollections\nOrderedDict\n)RtR")


def _write_old(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes the format of before PyTorch 1.6, by hand."""
  held: list[np.ndarray] = []
  pickled = containers._pickle(arrays, held)
  # The older format has one more part in what refers to a storage: None.
  for number, array in enumerate(held):
    size = pickle.dumps(array.size, 2)[2:-1]
    place = pickle.dumps(str(number), 2)[2:-1] + pickle.dumps("cpu", 2)[2:-1] + size
    pickled = pickled.replace(place + b"tQ", place + b"NtQ")
  with open(path, "wb") as file:
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
      file.write(pickle.dumps(value, 2))
    file.write(b"\x80\x02" + pickled + b".")
    file.write(pickle.dumps([str(number) for number in range(len(held))], 2))
    for array in held:
      file.write(np.int64(array.size).tobytes() + array.tobytes())


class TorchFormsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _assert_whole(self, path):
    found, info = saved.read(path)
    self.assertEqual((info.model, info.stream, info.num_classes), ("i3d", "flow", 400))
    self.assertCountEqual(found, _values())
    for name, value in _values().items():
      np.testing.assert_array_equal(found[name], value, name)

  @parameterized.named_parameters(
    ("plain_pt", "a.pt", "", ()),
    ("plain_bin", "pytorch_model.bin", "", ()),
    ("no_suffix", "weights", "", ()),
    ("model", "a.pth", "", ("model",)),
    ("model_state_dict", "a.pt", "", ("model_state_dict",)),
    ("state_dict_pth_tar", "a.pth.tar", "module.", ("state_dict",)),
    ("model_state_pyth", "a.pyth", "", ("model_state",)),
    ("both", "a.tar", "", ("model", "state_dict")),
    ("module", "a.pt", "module.", ()),
    ("i3d", "a.pt", "i3d.", ()),
    ("backbone", "a.pt", "backbone.", ("state_dict",)),
    ("model_prefix", "a.ckpt", "model.", ("state_dict",)),
    ("encoder", "a.pt", "encoder.", ()),
    ("two_prefixes", "a.pt", "module.backbone.", ()),
  )
  def test_names_wrappers_and_prefixes(self, file, prefix, wrappers):
    content = _prefixed(prefix)
    for wrapper in reversed(wrappers):
      content = {"epoch": 3, wrapper: content}
    containers.write_torch(self.folder / file, content)
    self._assert_whole(self.folder / file)

  def test_parameters(self):
    containers.write_torch(self.folder / "a.bin", _state())
    _edit_pickle(self.folder / "a.bin", _with_parameters)
    self._assert_whole(self.folder / "a.bin")

  def test_the_older_format(self):
    _write_old(self.folder / "a.pth.tar", {"state_dict": _prefixed("module.")})
    self._assert_whole(self.folder / "a.pth.tar")

  def test_writing_is_deterministic(self):
    for name in ("a", "b"):
      containers.write_torch(self.folder / name, _state())
    self.assertEqual((self.folder / "a").read_bytes(), (self.folder / "b").read_bytes())

  @parameterized.parameters("Half", "BFloat16")
  def test_short_numbers_become_float32(self, kind):
    values = np.array([1.5, -0.25, 3, 0], np.float32)
    stored = values.astype(np.float16) if kind == "Half" else (values.view(np.uint32) >> 16).astype(np.uint16)
    containers.write_torch(self.folder / "a.pt", {"x": stored.view(np.float16)})
    _edit_pickle(self.folder / "a.pt", lambda pickled: pickled.replace(b"HalfStorage", f"{kind}Storage".encode()))
    found = pytorch.read(self.folder / "a.pt")["x"]
    self.assertEqual(found.dtype, np.float32)
    np.testing.assert_array_equal(found, values)

  @parameterized.parameters(
    ((b"_rebuild_tensor_v2", b"_rebuild_qtensor"), "the tensor x is quantized"),
    ((b"_rebuild_tensor_v2", b"_rebuild_sparse_tensor"), "the tensor x is sparse"),
    ((b"_rebuild_tensor_v2", b"_rebuild_meta_tensor_no_storage"), "the tensor x is without values"),
    ((b"_rebuild_tensor_v2", b"_rebuild_nested_tensor"), "the tensor x is of a kind that is not dense"),
    ((b"FloatStorage", b"Float8_e4m3fnStorage"), "the tensor x is of type Float8_e4m3fn"),
    ((b"ccollections\nOrderedDict\n)RtR", b"N}(X\x04\x00\x00\x00conj\x88utR"), "the tensor x is conjugated"),
    ((b"K\x04\x85", b"K\x09\x85"), "the tensor x is larger than its storage"),
    ((b"(X\x07\x00\x00\x00storage", b"(X\x07\x00\x00\x00strange"), "refers to something that is no storage"),
    ((b"ctorch._utils\n_rebuild_tensor_v2", b"cos\nsystem"), "holds no state dict"),
  )
  def test_tensors_that_cannot_be_read_are_named(self, change, sentence):
    containers.write_torch(self.folder / "a.pt", {"x": np.ones(4, np.float32)})
    _edit_pickle(self.folder / "a.pt", lambda pickled: pickled.replace(*change))
    with self.assertRaisesRegex(errors.CheckpointError, f"a.pt:? .*{sentence}") as caught:
      pytorch.read(self.folder / "a.pt")
    self.assertNotIn("\n", str(caught.exception))

  def test_weights_that_are_not_finite_are_named(self):
    containers.write_torch(self.folder / "a.pt", {"x": np.ones(4, np.float32), "y": np.array([1, np.nan], np.float32)})
    with self.assertRaisesRegex(errors.CheckpointError, "1 not finite: y$"):
      pytorch.read(self.folder / "a.pt")

  def test_long_lists_of_names_are_cut(self):
    containers.write_torch(self.folder / "a.pt", {name: _state()[name] for name in list(_state())[:3]})
    with self.assertRaisesRegex(errors.CheckpointError, r"284 missing: ([^,]+, ){4}\S+ and 279 more$") as caught:
      saved.read(self.folder / "a.pt")
    self.assertLess(len(str(caught.exception)), 500)

  def test_the_reference_files_of_others(self):
    for path in sorted(testing.shared("field/checkpoints").iterdir()):
      if path.stem in ("pt_bf16", "pt_param"):
        self.assertEqual({name: array.dtype for name, array in pytorch.read(path).items()}, {"a": np.float32})
      else:
        with self.assertRaises(errors.CheckpointError, msg=path.name):
          pytorch.read(path)


class TensorFlowFormsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.arrays = {f"Flow/inception_i3d/{name}": value for name, value in _values().items()}

  def _assert_whole(self, path):
    found, info = saved.read(path)
    self.assertEqual((info.model, info.stream, info.num_classes), ("i3d", "flow", 400))
    self.assertCountEqual(found, _values())
    for name, value in _values().items():
      np.testing.assert_array_equal(found[name], value, name)

  @parameterized.parameters(("Adam", "Adam_1"), ("Momentum",), ("RMSProp", "RMSProp_1"))
  def test_training_checkpoints_of_tensorflow_1(self, *slots):
    extra = {f"{name}/{slot}": np.zeros_like(value) for name, value in self.arrays.items() for slot in slots}
    extra |= {"global_step": np.array(7, np.int64), "beta1_power": np.array(0.9, np.float32)}
    tensorflow1.write(self.folder / "model.ckpt-7", self.arrays | extra)
    text = 'model_checkpoint_path: "/old/place/model.ckpt-7"\nall_model_checkpoint_paths: "x"\n'
    (self.folder / "checkpoint").write_text(text)
    for path in (self.folder, self.folder / "model.ckpt-7", self.folder / "model.ckpt-7.index"):
      self._assert_whole(path)

  def test_checkpoints_of_objects(self):
    class Scope(tf.Module):
      pass

    module = Scope()
    with tf.name_scope("inception_i3d"):
      module.all = [tf.Variable(value, name=name) for name, value in _values().items()]
    (self.folder / "variables").mkdir()
    tf.train.Checkpoint(variables=module.all).write(str(self.folder / "variables" / "variables"))
    self._assert_whole(self.folder)

  def test_weights_that_are_not_finite_are_named(self):
    name = "Flow/inception_i3d/Conv3d_1a_7x7/batch_norm/beta"
    self.arrays[name] = np.full_like(self.arrays[name], np.inf)
    tensorflow1.write(self.folder / "model.ckpt", self.arrays)
    with self.assertRaisesRegex(errors.CheckpointError, f"1 not finite: {name}$"):
      saved.read(self.folder)

  def test_values_are_tensorflow_s(self):
    values = {
      "half": tf.constant([1.5, 2], tf.float16), "short": tf.constant([1.5, 2], tf.bfloat16),
      "double": tf.constant(3.0, tf.float64), "none": tf.zeros([0, 3]), "flags": tf.constant([True, False]),
    }  # fmt: skip
    tensorflow1.write(self.folder / "a", values)
    found = tensorflow1.read(str(self.folder / "a"))
    reader = tf.train.load_checkpoint(str(self.folder / "a"))
    for name, value in found.items():
      expected = np.asarray(reader.get_tensor(name))
      wanted = np.float32 if name in ("half", "short") else expected.dtype
      self.assertEqual((value.dtype, value.shape), (wanted, expected.shape), name)
      np.testing.assert_array_equal(value, expected.astype(wanted), name)


if __name__ == "__main__":
  absltest.main()
