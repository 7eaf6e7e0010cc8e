"""Pins what users and other programs rely on: flags, files, numbers and the public names.

The suite knows the package only through its programs (`python -m i3d_tf.NAME`), the names of `i3d_tf.__all__` and the
files that they write, so that it passes unchanged however the modules behind them are arranged.

What is expected is in testdata/: expected.json, expected.npz, and inputs that version 0.1.0 made: videos, records of
them, and the folder of a training run. Three kinds of pins say how much of a value holds on every machine:

  `pin`         exactly equal: names, shapes, flags, and bytes that come from integer arithmetic alone.
  `pin_array`   equal within a stated tolerance: whatever floating point or a codec takes part in.
  `pin_digest`  the bytes of the same, exactly, but only on the processor and with the library versions of `_MACHINE`.
                Elsewhere only the tolerance of the accompanying `pin_array` holds.

After an intended change, I3D_TF_RECORD_PINS=1 python -m i3d_tf.compatibility_test writes both expected.* files anew.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

import i3d_tf

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_DATA = _ROOT / "i3d_tf" / "testdata"
_CLASSES = ["rise", "slide", "spin"]
# The small clips of testdata/records and the networks that go with them.
_CLIPS = {"num_frames": 9, "short_side": 32, "crop": 32}
# So small a rate and norm keep rounding errors small for 20 steps. What is learnt shows in offsets, which start at 0.
_TRAIN = (
  "--records=records", "--stream=rgb", "--width_multiplier=0.02", "--average_space", "--crop=32", "--short_side=32",
  "--num_frames=9", "--batch_size=3", "--deterministic", "--batch_norm_decay=0.9", "--learning_rate=1e-5",
  "--clip_norm=1",
)  # fmt: skip
_PREPARE = ("--dataset=folder", "--short_side=32", "--jpeg_quality=60", "--clips_per_shard=2")
_LAYOUTS = {"rgb": ("RGB/inception_i3d/", 1), "flow": ("Flow/inception_i3d/", 1), "rgb600": ("", 5)}
_PROFILES = ("ours", "video_features", "pytorch_i3d", "cmcs", "actionformer", "rtfm")
_HAS_TORCH = importlib.util.find_spec("torch") is not None

# Imports TensorFlow once, then runs each program in a fork of itself, as `python -m` would: each has flags of its own.
_SERVER = """
import json, os, runpy, sys
import tensorflow
for line in sys.stdin:
  name, arguments, folder, log = json.loads(line)
  child = os.fork()
  if not child:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(output, 1), os.dup2(output, 2)
    os.chdir(folder)
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    sys.exit()
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# Prints what each program, in a fork, accepts: [program, {flag: [default, choices or None]}, the program's own flags].
_FLAGS_PROGRAM = """
import io, json, os, runpy, sys
from absl import app, flags
for name in sys.argv[1:]:
  if not os.fork():
    sys.argv, original, sys.stdout = [name, "--help"], sys.stdout, io.StringIO()
    try:
      runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit:
      pass
    rows = {flag: [flags.FLAGS[flag].default, getattr(flags.FLAGS[flag].parser, "enum_values", None)]
            for flag in flags.FLAGS}
    path = name.replace(".", os.sep) + ".py"  # absl knows a program by its file
    by_module = flags.FLAGS.key_flags_by_module_dict()
    own = [flag.name for module in by_module if module.endswith(path) for flag in by_module[module]]
    print(json.dumps([name, rows, own], default=str), file=original, flush=True)
    os._exit(0)
  os.wait()
"""


def _machine() -> str:
  """What the last bits of floating point depend on."""
  packages = ("tensorflow", "numpy", "opencv-contrib-python-headless", "av", "numba", "llvmlite")
  versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
  except OSError:
    lines = []
  processor = sorted({line for line in lines if line.startswith(("model name", "flags"))})
  digest = hashlib.sha256("".join(processor).encode()).hexdigest()[:8]
  return "; ".join([f"{platform.machine()} {digest}", f"{os.cpu_count()} cores", platform.python_version(), *versions])


class _Pins:
  """The values of expected.json and expected.npz, to read or, when they are recorded, to write."""

  def __init__(self):
    self.recording = os.environ.get("I3D_TF_RECORD_PINS") == "1"
    self.values = json.loads((_DATA / "expected.json").read_text(encoding="utf-8"))
    with np.load(_DATA / "expected.npz") as archive:
      self.arrays = dict(archive)
    self.machine = _machine()

  def save(self) -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(self.values.items())]
    (_DATA / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    np.savez_compressed(_DATA / "expected.npz", **dict(sorted(self.arrays.items())))


class _Server:
  """Runs programs in a temporary folder that holds copies of testdata and two networks, rgb/ and flow/."""

  def __init__(self):
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="compatibility_test."))
    for name in ("videos", "records"):
      shutil.copytree(_DATA / name, self.folder / name)
    shutil.copy(_DATA / "long.mp4", self.folder)
    with tarfile.open(_DATA / "run.tar.xz") as archive:
      archive.extractall(self.folder, filter="data")
    for stream in ("rgb", "flow"):
      _write_network(self.folder / stream, stream)
    # With oneDNN everywhere, since TensorFlow's own kernel divides a max pool's gradient among ties in another way.
    changes = {"PYTHONPATH": os.fspath(_ROOT), "TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    self._process = subprocess.Popen(
      [sys.executable, "-c", _SERVER],
      env=os.environ | changes,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def run(self, name: str, *arguments: str, status: int = 0) -> str:
    """Runs a program and returns what it printed; AssertionError for another exit status."""
    log = self.folder / "log"
    print(json.dumps([f"i3d_tf.{name}", arguments, str(self.folder), str(log)]), file=self._process.stdin, flush=True)
    found = self._process.stdout.readline().strip()
    text = log.read_text(encoding="utf-8", errors="replace")
    if found != str(status):
      raise AssertionError(f"{name} {' '.join(arguments)}: exit status {found}, not {status}\n{text}")
    return text

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()
    shutil.rmtree(self.folder)


@functools.cache
def _pins() -> _Pins:
  return _Pins()


@functools.cache
def _server() -> _Server:
  return _Server()


def tearDownModule():
  if _server.cache_info().currsize:
    _server().close()
    _server.cache_clear()  # this module's classes may be run apart
  if _pins().recording:
    _pins().save()


def _variables(stream: str) -> dict[str, np.ndarray]:
  """Made values of the tiny I3D's variables, by the names of the release without a prefix."""
  found = {}
  for name, shape in _pins().values["variables"].items():
    if stream == "flow" and name == "Conv3d_1a_7x7/conv_3d/w":
      shape = [*shape[:3], 2, shape[4]]
    rng = np.random.default_rng(zlib.crc32(f"{stream}/{name}".encode()))
    if name.endswith("/w"):
      values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
    elif name.endswith("moving_variance"):
      values = rng.uniform(0.5, 1.5, shape)
    else:
      values = rng.standard_normal(shape) * 0.1
    found[name] = values.astype(np.float32)
  return found


def _write_tf1(prefix: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes a checkpoint with TensorFlow's own operation."""
  prefix.parent.mkdir(parents=True, exist_ok=True)
  names = list(arrays)
  tf.raw_ops.SaveV2(
    prefix=os.fspath(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=list(arrays.values())
  )


def _write_network(folder: pathlib.Path, stream: str) -> None:
  """Writes a network as version 0.1.0 did: a checkpoint in the release's layout, and model.json."""
  prefix = _LAYOUTS[stream][0]
  _write_tf1(folder / "model", {prefix + name: value for name, value in _variables(stream).items()})
  info = {
    "checkpoint": "model", "model": "i3d", "stream": stream, "num_classes": 3, "classes": _CLASSES,
    "width_multiplier": 0.02, "average_space": True, **_CLIPS, "frame_stride": 1, "flow_stack": 1,
    "flow_stacking": "plain", "subtract_mean_flow": False, "dataset": "folder", "step": None,
  }  # fmt: skip
  (folder / "model.json").write_text(json.dumps(info), encoding="utf-8")


def _read_tf1(prefix: pathlib.Path) -> dict[str, np.ndarray]:
  reader = tf.train.load_checkpoint(os.fspath(prefix))
  return {name: reader.get_tensor(name) for name in sorted(reader.get_variable_to_shape_map())}


def _in_layout(arrays: dict[str, np.ndarray], layout: str) -> dict[str, np.ndarray]:
  """Variables under the names and in the shapes of one of the release's three layouts."""
  prefix, rank = _LAYOUTS[layout]
  shaped = lambda name, value: value.reshape([1] * (rank - 1) + [-1]) if "/batch_norm/" in name else value
  return {prefix + name: shaped(name, value) for name, value in sorted(arrays.items())}


def _files(folder: pathlib.Path) -> list[str]:
  """The files below a folder that are visible and no TensorBoard events, whose names hold the time."""
  names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
  return sorted(name for name in names if not any(part.startswith((".", "events.")) for part in name.split("/")))


def _digest(folder: pathlib.Path, suffix: str) -> str:
  """A digest of the files with a suffix, names and bytes."""
  digest = hashlib.sha256()
  for name in _files(folder):
    if name.endswith(suffix):
      digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
  return digest.hexdigest()


def _records(folder: pathlib.Path) -> list[tf.train.SequenceExample]:
  paths = sorted(map(os.fspath, folder.glob("*.tfrecord")))
  return [tf.train.SequenceExample.FromString(each.numpy()) for each in tf.data.TFRecordDataset(paths)]


def _without_images(example: tf.train.SequenceExample) -> bytes:
  """The bytes of a record whose images are left out."""
  rest = tf.train.SequenceExample.FromString(example.SerializeToString())
  for name, features in rest.feature_lists.feature_list.items():
    if name.endswith("image/encoded"):
      for feature in features.feature:
        feature.bytes_list.value[0] = b""
  return rest.SerializeToString(deterministic=True)


def _images(example: tf.train.SequenceExample, name: str) -> np.ndarray:
  encoded = example.feature_lists.feature_list[name].feature
  return np.stack([tf.io.decode_image(each.bytes_list.value[0]).numpy() for each in encoded])


def _reduced(value, expected):
  """`value` with those keys only that `expected` has, at all depths."""
  if isinstance(value, dict) and isinstance(expected, dict):
    return {key: _reduced(value.get(key, "(absent)"), each) for key, each in expected.items()}
  if isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
    return [_reduced(*pair) for pair in zip(value, expected)]
  return value


# The preset's and the profile's, which are what they were where none is given.
_OTHER_DEFAULTS = {
  ("extract_features", "fps", None),
  ("extract_features", "profile", None),
  ("fvd", "num_frames", None),
}


def _structure(value, depth: int = 3):
  """A JSON value's keys and types, down to a depth."""
  if isinstance(value, dict):
    return {key: _structure(each, depth - 1) for key, each in sorted(value.items())} if depth else "dict"
  if isinstance(value, list):
    return [_structure(value[0], depth - 1)] if value and depth else "list"
  return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _specs(function) -> dict:
  """Names, types and shapes of a signature's inputs and outputs."""
  shown = lambda specs: {name: [each.dtype.name, each.shape.as_list()] for name, each in sorted(specs.items())}
  return {"inputs": shown(function.structured_input_signature[1]), "outputs": shown(function.structured_outputs)}


class _PinnedTest(parameterized.TestCase):
  """Compares with what is expected, or records it."""

  maxDiff = None

  def pin(self, name: str, value) -> None:
    value = json.loads(json.dumps(value))
    if _pins().recording:
      _pins().values[name] = value
    self.assertEqual(value, _pins().values[name], name)

  def pin_contained(self, name: str, value: dict | list) -> None:
    """As `pin`; later versions may have more keys."""
    value = json.loads(json.dumps(value))
    if _pins().recording:
      _pins().values[name] = value
    expected = _pins().values[name]
    self.assertEqual(_reduced(value, expected), expected, name)

  def pin_array(self, name: str, value, tolerance: float) -> None:
    """`tolerance` is relative to the largest absolute value that is expected."""
    value = np.asarray(value)
    if _pins().recording:
      _pins().arrays[name] = value
    expected = _pins().arrays[name]
    self.assertEqual((value.shape, value.dtype), (expected.shape, expected.dtype), name)
    if expected.size:
      np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)

  def pin_digest(self, name: str, digest: str) -> None:
    if _pins().recording:
      _pins().values.setdefault("digests", {}).setdefault(_pins().machine, {})[name] = digest
    expected = _pins().values["digests"].get(_pins().machine, {})
    self.assertEqual(digest, expected.get(name, digest), f"{name}: other bytes on the machine of the pins")


class ProgramsTest(_PinnedTest):
  def test_every_program_accepts_every_flag(self):
    names = list(_pins().values["flags"])
    done = subprocess.run(
      [sys.executable, "-c", _FLAGS_PROGRAM, *(f"i3d_tf.{name}" for name in names)],
      env=os.environ | {"PYTHONPATH": os.fspath(_ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {}
    for name, rows, own in map(json.loads, done.stdout.splitlines()):
      found[name.removeprefix("i3d_tf.")] = rows
      if _pins().recording:
        _pins().values["flags"][name.removeprefix("i3d_tf.")] = {flag: rows[flag] for flag in sorted(own)}
    self.assertEqual(sum(map(len, _pins().values["flags"].values())), 224, "flags that are pinned")
    problems = []
    for program, rows in _pins().values["flags"].items():
      for flag, (default, choices) in rows.items():
        new_default, new_choices = found.get(program, {}).get(flag, ("(no such flag)", None))
        if new_default != default and (program, flag, new_default) not in _OTHER_DEFAULTS:
          problems.append(f"{program} --{flag}: default {new_default!r}, was {default!r}")
        if choices and new_choices and not set(choices) <= set(new_choices):
          problems.append(f"{program} --{flag}: no longer takes {sorted(set(choices) - set(new_choices))}")
    self.assertEqual(problems, [])

  def test_console_scripts(self):
    if not (_ROOT / "setup.py").exists():
      self.skipTest("this is not a checkout of the project")
    folder = pathlib.Path(self.create_tempdir().full_path)
    command = [sys.executable, "setup.py", "--quiet", "egg_info", f"--egg-base={folder}"]
    subprocess.run(command, cwd=_ROOT, capture_output=True, check=True)
    lines = next(folder.glob("*/entry_points.txt")).read_text(encoding="utf-8").splitlines()
    names = [name.removesuffix(".__main__") for name in _pins().values["flags"]]
    self.assertContainsSubset([f"i3d_{name}" for name in names], [line.partition(" = ")[0] for line in lines])

  def test_public_names(self):
    names = ["I3dFeatures", "InceptionI3d", "load_checkpoint", "read_video", "save_release_checkpoint", "tvl1_flow"]
    self.assertContainsSubset(names, i3d_tf.__all__)
    parameters = {name: inspect.signature(getattr(i3d_tf, name)).parameters.values() for name in names}
    for name, each in parameters.items():
      plain = lambda value: value if value is None or isinstance(value, (bool, int, float, str)) else "(an object)"
      shown = {parameter.name: [str(parameter.kind), plain(parameter.default)] for parameter in each}
      self.pin_contained(f"parameters of {name}", shown)


class RecordsTest(_PinnedTest):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    server = _server()
    cls.folder = server.folder
    size = ("--num_frames=10", "--height=32", "--width=40")
    server.run("make_synthetic", "--output=made", "--train_clips=1", "--test_clips=0", *size)
    for name in _files(cls.folder / "made"):
      if "circle" in name or "sway" in name:
        target = cls.folder / "two" / name
        target.parent.mkdir(parents=True)
        shutil.copy(cls.folder / "made" / name, target)
    server.run("prepare_dataset", "--dataset=folder", "--videos=two", "--output=made_records", "--num_workers=1")
    server.run("prepare_dataset", *_PREPARE, "--videos=videos", "--output=again", "--num_workers=2")

  def test_made_clips(self):
    self.pin("made clips", _files(self.folder / "made"))
    self.pin("made clips: settings", json.loads((self.folder / "made" / "synthetic.json").read_text()))
    clips = [i3d_tf.read_video(path, short_side=None) for path in sorted(self.folder.glob("made/*/*/*.avi"))]
    self.assertEqual({(clip.shape, clip.dtype.name) for clip in clips}, {((10, 32, 40, 3), "uint8")})
    # JPEG's and the colours' arithmetic may differ by a level or two.
    self.pin_array("made clips: means", np.float64([clip.mean((1, 2)) for clip in clips]), 1 / 255)
    self.pin_digest("made clips", _digest(self.folder / "made", ".avi"))

  def test_records_of_made_clips(self):
    self.pin("records of made clips", _files(self.folder / "made_records"))
    self.pin_digest("records of made clips", _digest(self.folder / "made_records", ".tfrecord"))
    found = _records(self.folder / "made_records")
    self.pin(
      "records of made clips: without images", [hashlib.sha256(_without_images(each)).hexdigest() for each in found]
    )
    self.assertEqual({_images(each, "image/encoded").shape for each in found}, {(10, 256, 320, 3)})

  def test_files_are_framed_as_tfrecords_of_deterministic_bytes(self):
    for path in sorted(self.folder.glob("again/*.tfrecord")):
      other = os.fspath(self.folder / "framed.tfrecord")
      with tf.io.TFRecordWriter(other) as writer:
        for raw in tf.data.TFRecordDataset(os.fspath(path)):
          writer.write(raw.numpy())
          example = tf.train.SequenceExample.FromString(raw.numpy())
          self.assertEqual(example.SerializeToString(deterministic=True), raw.numpy())
      self.assertEqual(path.read_bytes(), pathlib.Path(other).read_bytes())

  def test_records_equal_those_of_version_0_1(self):
    """Which one process wrote, and two now."""
    self.assertEqual(_files(self.folder / "again"), _files(_DATA / "records"))
    for name in ("dataset.json", "failures.tsv", "missing.tsv"):
      self.assertEqual((self.folder / "again" / name).read_text(), (_DATA / "records" / name).read_text())
    self.pin_digest("records of videos", _digest(self.folder / "again", ".tfrecord"))
    self.pin_digest("records of videos", _digest(_DATA / "records", ".tfrecord"))
    again, stored = _records(self.folder / "again"), _records(_DATA / "records")
    self.assertLen(stored, 5)
    for one, other in zip(again, stored, strict=True):
      self.assertEqual(_without_images(one), _without_images(other))
      # Elsewhere, a codec may round otherwise, and a flow on the border of two bytes become the other one.
      for name in ("image/encoded", "FORWARD_FLOW/image/encoded"):
        difference = np.abs(_images(one, name).astype(np.int32) - _images(other, name))
        self.assertLess(difference.mean(), 0.5, name)
        self.assertLessEqual(np.quantile(difference, 0.99), 2, name)

  def test_records_of_version_0_1_go_on(self):
    before = _digest(self.folder / "records", "")
    _server().run("prepare_dataset", *_PREPARE, "--videos=videos", "--output=records")
    self.assertEqual(_digest(self.folder / "records", ""), before)
    _server().run("prepare_dataset", *_PREPARE, "--videos=videos", "--output=records", "--fps=10", status=1)
    _server().run("inspect_records", "records")

  def test_videos_and_flow(self):
    frames = i3d_tf.read_video(_DATA / "long.mp4", short_side=32)
    self.assertEqual((frames.shape, frames.dtype), ((70, 32, 40, 3), np.uint8))
    self.pin_array("read_video", frames[::35, ::2, ::2].astype(np.int16), 3 / 255)
    self.assertEqual(i3d_tf.read_video(_DATA / "long.mp4", 12.5, max_frames=9).shape, (9, 256, 320, 3))
    flow = i3d_tf.tvl1_flow(frames[:3])
    self.pin_array("tvl1_flow", flow[:, ::3, ::3], 5e-2)
    self.pin_digest("tvl1_flow", hashlib.sha256(np.asarray(flow).tobytes()).hexdigest())


class CheckpointsTest(_PinnedTest):
  def _load(self, path: pathlib.Path, expected: dict[str, np.ndarray]) -> None:
    """Loads a checkpoint with the public name and compares every variable."""
    model = i3d_tf.InceptionI3d(3, width_multiplier=0.02, average_space=True)
    loaded = i3d_tf.load_checkpoint(model, path)
    self.assertLen(model.variables, len(expected))
    for variable in model.variables:
      name = variable.name.removeprefix(model.name_scope.name).removesuffix(":0")
      np.testing.assert_array_equal(variable.numpy(), expected[name], err_msg=name)
    return model, loaded

  def _assert_equal(self, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    self.assertEqual(
      {name: (value.shape, value.dtype.name) for name, value in found.items()},
      {name: (value.shape, value.dtype.name) for name, value in expected.items()},
    )
    for name, value in expected.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)

  @parameterized.parameters("rgb", "flow", "rgb600")
  def test_layout_of_the_release(self, layout):
    server, stream = _server(), "flow" if layout == "flow" else "rgb"
    output = f"release_{layout}"
    words = [f"--layout={layout}"] if layout == "rgb600" else []
    server.run("export", f"--checkpoint={stream}", f"--output={output}", "--format=release", *words)
    self.pin("files of a release", _files(server.folder / output))
    values = _variables(stream)
    self._assert_equal(_read_tf1(server.folder / output / "model.ckpt"), _in_layout(values, layout))
    model, loaded = self._load(server.folder / output, values)
    self.assertEqual((loaded.stream, loaded.momentum), (layout, {}))
    # The optimizer's slots, which rgb_scratch_kin600 has, are written and read.
    slots = {name: value + 1 for name, value in values.items() if name.endswith(("/w", "/beta"))}
    prefix = server.folder / f"saved_{layout}" / "model.ckpt"
    prefix.parent.mkdir()
    i3d_tf.save_release_checkpoint(model, prefix, stream=layout, momentum=slots)
    both = {**values, **{f"{name}/Momentum": value for name, value in slots.items()}}
    self._assert_equal(_read_tf1(prefix), _in_layout(both, layout))
    found = self._load(prefix, values)[1].momentum
    self._assert_equal({name: value.reshape(slots[name].shape) for name, value in found.items()}, slots)

  def test_network_folder(self):
    server = _server()
    server.run("export", "--checkpoint=flow", "--output=network", "--format=network")
    self.pin("files of a network", _files(server.folder / "network"))
    info = json.loads((server.folder / "network" / "model.json").read_text())
    self.pin_contained("model.json", info)
    self._assert_equal(_read_tf1(server.folder / "network" / "model"), _in_layout(_variables("flow"), "flow"))
    self._load(server.folder / "network" / info["checkpoint"], _variables("flow"))

  @unittest.skipUnless(_HAS_TORCH, "torch is not installed")
  @parameterized.parameters("pytorch_i3d", "kinetics_i3d_pytorch")
  def test_pytorch(self, layout):
    import torch

    server = _server()
    server.run("export", "--checkpoint=rgb", f"--output={layout}", f"--format={layout}")
    state = torch.load(server.folder / layout / "model.pt", weights_only=True)
    self.pin(f"state of {layout}", {name: list(value.shape) for name, value in state.items()})


class SavedModelTest(_PinnedTest):
  def test_signatures_and_outputs(self):
    server = _server()
    for name, checkpoint in (("one", "rgb"), ("two", "rgb,flow")):
      words = ["--endpoints=Mixed_4f"] if name == "one" else []
      server.run("export", f"--checkpoint={checkpoint}", f"--output=graph_{name}", *words)
      folder = server.folder / f"graph_{name}"
      assets = {path.name: path.stat().st_size > 0 for path in folder.glob("assets/*")}
      self.assertTrue(assets.pop("MODEL_CARD.md"))  # which 0.1 did not write
      self.pin(f"assets of {name}", assets)
      self.pin(f"classes of {name}", (folder / "assets" / "classes.txt").read_text().splitlines())
      about = json.loads((folder / "assets" / "input.json").read_text())
      about.pop("made_by")
      for network in about["networks"]:  # what 0.1 did not state
        for key in ("average_space", "flow_method", "width_multiplier"):
          network.pop(key)
      self.pin(f"input.json of {name}", _structure(about))
      self.pin(f"streams of {name}", about["streams"])
      loaded = tf.saved_model.load(os.fspath(folder))
      self.pin(f"signatures of {name}", {key: _specs(each) for key, each in loaded.signatures.items()})
      rng = np.random.default_rng(0)
      clips = {
        stream: tf.constant(rng.uniform(-1, 1, [2, 16, 32, 40, channels]), tf.float32)
        for stream, channels in (("rgb", 3), ("flow", 2))
        if stream in checkpoint
      }
      for key, function in loaded.signatures.items():
        names = function.structured_input_signature[1]
        if set(names) <= set(clips):
          for output, value in function(**clips).items():
            self.pin_array(f"{name} {key} {output}", value.numpy()[..., :8], 1e-4)
      called = loaded(clips if len(clips) > 1 else clips["rgb"])
      self.pin_array(f"{name} called", called.numpy(), 1e-4)
      image = tf.io.encode_png(tf.zeros([32, 32, 3], tf.uint8)).numpy()
      if "jpeg" in loaded.signatures:
        result = loaded.signatures["jpeg"](jpeg_bytes=tf.fill([1, 9], image))
        self.pin_array(f"{name} jpeg", next(iter(result.values())).numpy(), 1e-4)

  def test_features_in_a_graph(self):
    names = ["Mixed_4f", "PooledFeatures", "StepLogits", "Logits", "Predictions"]
    clips = np.random.default_rng(1).uniform(-1, 1, [1, 17, 32, 32, 3]).astype(np.float32)
    features = i3d_tf.I3dFeatures(_server().folder / "rgb", names)
    for name, value in features(clips).items():
      self.pin_array(f"I3dFeatures {name}", value.numpy(), 1e-4)
    self.pin("I3dFeatures", [list(features.endpoints), features.weights])
    model = i3d_tf.InceptionI3d(3, width_multiplier=0.02, average_space=True)
    i3d_tf.load_checkpoint(model, _server().folder / "rgb" / "model")
    logits, endpoints = model(tf.constant(clips), is_training=False)
    self.pin("endpoints", {name: value.shape.as_list() for name, value in endpoints.items()})
    self.pin_array("I3dFeatures Logits", logits.numpy(), 1e-4)


class FeaturesTest(_PinnedTest):
  @parameterized.parameters(*_PROFILES)
  def test_profile(self, profile):
    server = _server()
    both = profile in ("ours", "video_features", "cmcs", "actionformer")
    inputs = "long.mp4,videos/train/spin" if profile in ("ours", "pytorch_i3d") else "long.mp4"
    words = [f"--profile={profile}", "--rgb_checkpoint=rgb", f"--input={inputs}"]
    words += ["--flow_checkpoint=flow"] if both else []
    words += ["--streams=rgb,flow", "--endpoints=PooledFeatures,Logits"] if profile == "ours" else []
    server.run("extract_features", *words, f"--output=features_{profile}")
    folder = server.folder / f"features_{profile}"
    self.pin(f"{profile}: files", _files(folder))
    self.pin(f"{profile}: parameters", json.loads((folder / "extraction.json").read_text())["parameters"])
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    self.pin_contained(f"{profile}: manifest", [_structure(entry) for entry in entries])
    self.pin(f"{profile}: outputs", [[each["path"], each["shape"]] for entry in entries for each in entry["outputs"]])
    for name in _files(folder):
      path = folder / name
      tolerance = 1e-3 if profile in ("pytorch_i3d", "rtfm") or "rgb" in name else 2e-2  # flow differs between machines
      if path.suffix == ".npy":
        self.pin_array(f"{profile} {name}", np.load(path), tolerance)
      elif path.suffix == ".npz":
        with np.load(path) as archive:
          found = dict(archive)
        keys = f"{profile} {name}: keys"
        self.pin_contained(keys, {key: [value.dtype.kind, list(value.shape)] for key, value in found.items()})
        found = _reduced(found, _pins().values[keys])
        for key, value in found.items():
          if value.dtype.kind == "f":
            self.pin_array(f"{profile} {name} {key}", value, tolerance)
          elif key != "versions":
            self.pin(f"{profile} {name} {key}", value.tolist())
    if profile != "ours":  # whose files hold the version
      self.pin_digest(f"features of {profile}", _digest(folder, ".npy") + _digest(folder, "-PooledFeatures.npz"))
    if profile == "ours":  # which goes on, and has nothing left to do
      before = _digest(folder, "")
      server.run("extract_features", *words, f"--output=features_{profile}")
      self.assertEqual(_digest(folder, ""), before)


class EvaluateTest(_PinnedTest):
  def test_results_and_scores(self):
    server = _server()
    words = ["--rgb_checkpoint=run", "--flow_checkpoint=flow", "--records=records"]
    server.run("evaluate", *words, "--output=evaluated")
    folder = server.folder / "evaluated"
    self.pin("evaluate: files", _files(folder))
    results = json.loads((folder / "results.json").read_text())
    self.pin_contained("results.json", _structure(results, 2))
    self.pin("results.json: streams", results["streams"])
    self.pin("results.json: fusion", [results["fusion"], results["classes"], results["failures"]])
    for stream, measured in results["results"].items():
      self.pin_contained(f"results.json: {stream}", _structure(measured))
      for name in ("videos", "top1", "top5", "mean_per_class", "per_class", "confused"):
        self.pin(f"results.json: {stream} {name}", measured[name])
      numbers = [measured[name] for name in ("cross_entropy", "calibration_error")]
      self.pin_array(f"results.json: {stream}", np.float64(numbers), 1e-4)
    for stream in ("rgb", "flow"):
      with np.load(folder / f"scores_{stream}.npz") as archive:
        found = dict(archive)
      self.pin(f"scores: {stream}", {name: [value.dtype.str, list(value.shape)] for name, value in found.items()
                                     if name != "about"})  # fmt: skip
      for name in ("ids", "labels", "numbers", "classes"):
        self.pin(f"scores: {stream} {name}", found[name].tolist())
      self.pin(f"scores: {stream} about", json.loads(str(found["about"])))
      self.pin_array(f"scores: {stream} logits", found["logits"], 1e-4)
    # Scores that were made before are fused without networks, to the same figures.
    scores = [f"--{stream}_scores=evaluated/scores_{stream}.npz" for stream in ("rgb", "flow")]
    server.run("evaluate", *scores, "--output=fused")
    fused = json.loads((server.folder / "fused" / "results.json").read_text())
    self.assertEqual(fused["results"], results["results"])


class TrainTest(_PinnedTest):
  def _weights(self, run: str) -> dict[str, np.ndarray]:
    folder = _server().folder / run / "best"
    return _read_tf1(folder / json.loads((folder / "model.json").read_text())["checkpoint"])

  def _pin_weights(self, name: str, weights: dict[str, np.ndarray], tolerance: float) -> None:
    """Of each variable its mean, root mean square and projection on noise."""
    rng = np.random.default_rng(0)
    rows = []
    for value in weights.values():
      noise = rng.standard_normal(value.shape) / np.sqrt(value.size)
      rows.append([value.mean(), np.sqrt(np.mean(np.square(value))), np.sum(noise * value)])
    shapes = {name: list(value.shape) for name, value in _in_layout(_variables("rgb"), "rgb").items()}
    self.assertEqual({name: list(value.shape) for name, value in weights.items()}, shapes)
    rows = np.float64(rows)
    if _pins().recording:
      _pins().arrays[name] = rows
    difference = np.abs(rows - _pins().arrays[name])
    np.testing.assert_array_less(difference, np.tile(tolerance * _pins().arrays[name][:, 1:2] + 1e-6, 3), name)
    digest = hashlib.sha256(b"".join(value.tobytes() for value in weights.values()))
    self.pin_digest(name, digest.hexdigest())

  def test_twenty_steps_and_ten_twice(self):
    server = _server()
    words = (*_TRAIN, "--num_steps=20", "--save_every=10")
    server.run("train", *words, "--output=straight")
    # The same run as if it had been killed after its checkpoint of step 10.
    ignored = shutil.ignore_patterns("best", "ckpt-20.*")
    shutil.copytree(server.folder / "straight", server.folder / "halves", ignore=ignored)
    checkpoints = os.fspath(server.folder / "halves" / "checkpoints")
    tf.compat.v1.train.update_checkpoint_state(checkpoints, "ckpt-10", ["ckpt-10"])
    metrics = server.folder / "halves" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    server.run("train", *words, "--output=halves")
    self.assertEqual([json.loads(line)["step"] for line in metrics.read_text().splitlines()], [10, 20])
    straight, halves = self._weights("straight"), self._weights("halves")
    self.assertEqual(list(straight), list(halves))
    for name, value in straight.items():
      np.testing.assert_array_equal(halves[name], value, err_msg=name)
    self._pin_weights("weights after 20 steps", straight, 1e-2)
    folder = server.folder / "straight"
    self.pin("run: files", _files(folder))
    self.pin_contained("run: options.json", json.loads((folder / "options.json").read_text()) | {"output": ""})
    self.pin_contained("run: model.json", json.loads((folder / "best" / "model.json").read_text()))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    self.pin("run: metrics.jsonl", [_structure(line) for line in lines])
    self.pin_array("run: losses", np.float64([line["loss"] for line in lines]), 1e-2)
    self.pin("run: variables.txt", hashlib.sha256((folder / "variables.txt").read_bytes()).hexdigest())

  def test_run_of_version_0_1_goes_on(self):
    server = _server()
    shutil.copytree(server.folder / "run", server.folder / "resumed")
    before = (server.folder / "run" / "metrics.jsonl").read_text()
    words = (*_TRAIN, "--log_every=1", "--validation_split=test", "--output=resumed")
    server.run("train", *words, "--num_steps=6", "--learning_rate=0.01", status=1)
    server.run("train", *words, "--num_steps=6")
    text = (server.folder / "resumed" / "metrics.jsonl").read_text()
    self.assertStartsWith(text, before)
    lines = [json.loads(line) for line in text.splitlines()]
    self.pin("resumed: metrics.jsonl", [[line["step"], _structure(line)] for line in lines])
    numbers = [line.get("loss", line.get("validation_loss")) for line in lines]
    self.pin_array("resumed: losses", np.float64(numbers), 1e-2)
    self._pin_weights("weights after resuming", self._weights("resumed"), 1e-2)


class RunOfVersion01Test(_PinnedTest):
  """What version 0.1.0 wrote when it trained is a network wherever a checkpoint is taken."""

  def test_classify(self):
    server = _server()
    words = ("--video=long.mp4,videos/test/rise", "--max_frames=10", "--json=classified.json", "--precision=float32")
    server.run("classify", "--rgb_checkpoint=run", *words)
    found = json.loads((server.folder / "classified.json").read_text())
    self.pin("classify: structure", _structure(found, 5))
    self.pin("classify: streams", found["streams"])
    results = found["results"]
    self.pin("classify: labels", [[each["input"], each["frames"], [row["label"] for row in each["predictions"]]]
                                  for each in results])  # fmt: skip
    logits = [[row["logit"] for row in each["predictions"]] for each in results]
    self.pin_array("classify: logits", np.float64(logits), 1e-3)
    self.pin_array("classify: norms", np.float64([each["norm"] for each in results]), 1e-3)

  def test_extract_and_export(self):
    server = _server()
    server.run("extract_features", "--rgb_checkpoint=run", "--input=records", "--output=features_run", "--window=9")
    self.pin("run: features", _files(server.folder / "features_run"))
    for path in sorted(server.folder.glob("features_run/**/*.npz")):
      with np.load(path) as archive:
        self.pin_array(f"run: {path.relative_to(server.folder).as_posix()}", archive["features"], 1e-3)
    server.run("export", "--checkpoint=run", "--output=run_network", "--format=network")
    info = json.loads((server.folder / "run_network" / "model.json").read_text())
    self.pin_contained("run: model.json of its network", info)


if __name__ == "__main__":
  absltest.main()
