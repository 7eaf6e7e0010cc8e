"""What the tests share. Not part of the installed package."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import io
import json
import math
import multiprocessing
import os
import pathlib
import sys
import tempfile
from typing import Any, NamedTuple
import unittest
from unittest import mock
import zlib

from absl import flags
from absl.testing import flagsaver
import numpy as np

# How often the tests that kill a program do so before it may end.
NUM_KILLS = int(os.environ.get("I3D_TF_KILLS", "4"))
_flags_of_programs: dict[str, list[flags.Flag]] = {}  # by module; two programs may have flags of one name
_networks: dict[str, dict[str, bytes]] = {}  # files of the small networks that were written, which takes a second each
_CLASSES = ("down", "right", "still")
_PROJECT_ROOT = pathlib.Path(__file__).resolve().parents[1]


def shared(path: str = "") -> pathlib.Path:
  """Returns the path of reference material in the folder $I3D_SHARED, or else `../shared` beside the project.

  Call it while a test or its set-up runs: where there is no such folder it skips that test, unless CI=true.

  Args:
    path: Path in the folder.

  Raises:
    unittest.SkipTest: if the folder is absent.
    AssertionError: if the folder is absent with CI=true, or it is there without `path`.
  """
  folder = pathlib.Path(os.environ.get("I3D_SHARED") or _PROJECT_ROOT.parent / "shared")
  if not folder.is_dir():
    reason = f"the reference material is not at {folder} (see $I3D_SHARED)"
    raise AssertionError(reason) if os.environ.get("CI") == "true" else unittest.SkipTest(reason)
  if not (folder / path).exists():
    raise AssertionError(f"the reference material at {folder} has no {path}")
  return folder / path


class Finished(NamedTuple):
  """How a program ended.

  Attributes:
    status: Its exit status.
    stdout, stderr: What it wrote there. What TensorFlow's C++ code writes is not among it.
  """

  status: int
  stdout: str
  stderr: str


class Program:
  """A program in a process of its own, forked from one that has TensorFlow and the trainer imported already.

  It can be killed and asked to stop as any process, and starts in a tenth of a second.
  """

  def __init__(
    self,
    code: str,
    *words: str,
    folder: str | os.PathLike,
    environment: Mapping[str, str] | None = None,
  ):
    """Starts it.

    Args:
      code: Python code, as after `python -c`.
      *words: Its command line.
      folder: Folder that it runs in.
      environment: Variables to add to its environment.
    """
    with tempfile.NamedTemporaryFile(delete=False) as output, tempfile.NamedTemporaryFile(delete=False) as messages:
      self._logs = [pathlib.Path(file.name) for file in (output, messages)]
    arguments = (code, words, os.fspath(folder), dict(environment or {}), list(map(os.fspath, self._logs)))
    with mock.patch.dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", PYTHONPATH=os.fspath(_PROJECT_ROOT)):
      self._process = _fork_server().Process(target=_run_code, args=arguments)
      self._process.start()

  def poll(self) -> int | None:
    """Returns the exit status, or None while it runs."""
    return self._process.exitcode

  def send_signal(self, number: int) -> None:
    """Sends it a signal.

    Args:
      number: The signal.
    """
    os.kill(self._process.pid or 0, number)

  def finish(self) -> Finished:
    """Waits for its end; returns how that was."""
    self._process.join()
    texts = [log.read_text(encoding="utf-8", errors="replace") for log in self._logs]
    for log in self._logs:
      log.unlink()
    return Finished(self._process.exitcode or 0, *texts)


@functools.cache
def _fork_server() -> Any:
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["i3d_tf.training.trainer"])
  return context


def _run_code(
  code: str, words: Sequence[str], folder: str, environment: Mapping[str, str], logs: Sequence[str]
) -> None:
  for number, log in enumerate(logs, 1):
    os.dup2(os.open(log, os.O_WRONLY | os.O_TRUNC), number)
  sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", buffering=1) for number in (1, 2))
  os.environ.update(environment)
  os.chdir(folder)
  sys.argv = ["-c", *words]
  exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def in_own_process(function: Callable, *arguments) -> Any:
  """Returns `function(*arguments)` of a fresh Python process, for what must come before anything else in TensorFlow.

  Args:
    function: Function of a module, by whose name it is found there.
    *arguments: Its arguments, which are pickled, as the result is.
  """
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    return pool.submit(function, *arguments).result()


def run_main(name: str, *words: str | os.PathLike) -> Finished:
  """Runs `python -m i3d_tf.NAME WORDS` in this process, with its flags as given and all else at the defaults.

  The module is imported once, so that its names can be patched. An exception that the program does not turn into a
  sentence is raised here.

  Args:
    name: Name of the program, such as 'train' or 'models'.
    *words: Its command line.

  Returns:
    Exit status, stdout and stderr.
  """
  module_name = f"i3d_tf.{name}"
  if (spec := importlib.util.find_spec(module_name)) and spec.submodule_search_locations:
    module_name += ".__main__"
  stdout, stderr = io.StringIO(), io.StringIO()
  argv = [name, *(os.fspath(word) for word in words)]
  with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), mock.patch.object(sys, "argv", argv):
    with _flags_of(module_name) as module:
      try:
        module.run()
        status = 0
      except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
  return Finished(status, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def _flags_of(module_name: str) -> Iterator[Any]:
  """Imports a program; while the body runs its flags, and those of no other program, are defined."""
  all_flags = flags.FLAGS
  others = _take_flags()
  _flags_of_programs.update(others)
  saved = flagsaver.save_flag_values(all_flags)
  is_imported = module_name in sys.modules
  module = importlib.import_module(module_name)
  if is_imported:
    _put_flags({module_name: _flags_of_programs.get(module_name, ())})
  for flag in _flags_of_programs.get(module_name, ()):
    flag.unparse()
  try:
    yield module
  finally:
    _flags_of_programs.update(_take_flags())
    # The flags that libraries defined meanwhile stay, since those are not imported again.
    flagsaver.restore_flag_values({**flagsaver.save_flag_values(all_flags), **saved}, all_flags)
    _put_flags(others)


def _take_flags() -> dict[str, list[flags.Flag]]:
  """Removes the flags of all programs; returns them by module."""
  found = {name: list(own) for name, own in flags.FLAGS.flags_by_module_dict().items() if name.startswith("i3d_tf.")}
  for own in found.values():
    flags.FLAGS.remove_flag_values([flag.name for flag in own])
  return {name: own for name, own in found.items() if own}


def _put_flags(found: Mapping[str, Sequence[flags.Flag]]) -> None:
  """Defines flags that `_take_flags` removed."""
  for name, own in found.items():
    for flag in own:
      flags.FLAGS[flag.name] = flag
      flags.FLAGS.register_flag_by_module(name, flag)
      flags.FLAGS.register_flag_by_module_id(id(sys.modules[name]), flag)


def write_records(folder: pathlib.Path, streams: tuple[str, ...] = ("rgb", "flow")) -> None:
  """Makes records of noise that moves in three ways: two files of six videos for train, one for test.

  Args:
    folder: Folder to make.
    streams: Streams that dataset.json names.
  """
  from i3d_tf.data import records
  from i3d_tf.data import shards

  folder.mkdir()
  rng = np.random.default_rng(0)
  for split, num_files in (("train", 2), ("test", 1)):
    for index in range(num_files):
      made = [_moving_noise(f"{split}/{index}/{number}", number % 3, rng) for number in range(6)]
      content = b"".join(shards.frame(records.serialize(record)) for record in made)
      (folder / f"{split}-{index:05}-of-{num_files:05}.tfrecord").write_bytes(content)
  splits = {"train": {"written": 12}, "test": {"written": 6}}
  info = {"complete": True, "classes": _CLASSES, "name": "noise", "parameters": {"streams": streams}, "splits": splits}
  (folder / shards.INFO).write_text(json.dumps(info), encoding="utf-8")


def _moving_noise(name: str, label: int, rng: np.random.Generator):
  """A record of 12 frames of 36x48 and their flow, two pixels a frame as the label says."""
  from i3d_tf.data import prepare
  from i3d_tf.data import records
  from i3d_tf.data import shards

  noise = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
  down, right = {0: (2, 0), 1: (0, 2), 2: (0, 0)}[label]
  frames = [np.roll(noise, (down * time, right * time), (0, 1))[:36, :48] for time in range(12)]
  flow = np.broadcast_to(np.array([right, down], np.float32), (36, 48, 2))
  times = tuple(40_000 * time for time in range(12))
  return records.Record(
      id=name, dataset="noise", labels=(_CLASSES[label],), label_indices=(label,), height=36, width=48,
      frames=tuple(prepare.encode_rgb(frame, 95) for frame in frames), timestamps=times,
      flow_format="PNG", flow_bound=20.0, flow_rounding="truncate", flow_timestamps=times[:-1],
      flow_frames=tuple(prepare.encode_flow(flow, shards.RecordConfig()) for _ in range(11)),
  )  # fmt: skip


def write_network(folder: str | os.PathLike, **fields: Any):
  """Saves a tiny network with golden values, as training does.

  Args:
    folder: Folder of the network.
    **fields: Fields of its `saved.ModelInfo`, which is returned.
  """
  from i3d_tf.weights import release
  from i3d_tf.weights import saved

  info = saved.make_info(**{"stream": "rgb", "num_classes": 3, "classes": _CLASSES, "width_multiplier": 0.05, **fields})
  description = repr(info)
  if description not in _networks or pathlib.Path(folder).exists():
    model = saved.make_model(info)
    for name, variable in release.named_variables(model).items():
      variable.assign(golden_values(name, variable.shape.as_list()))
    saved.save(folder, model, info)
    if sum(path.stat().st_size for path in pathlib.Path(folder).iterdir()) < 2**20:
      _networks[description] = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
    return info
  os.makedirs(folder, exist_ok=True)
  for name, content in _networks[description].items():
    pathlib.Path(folder, name).write_bytes(content)
  return info


def change_info(info, **changes: Any):
  """Returns a `saved.ModelInfo` with some fields replaced.

  Args:
    info: Description of a network.
    **changes: Fields, or fields of its `Preprocess`.
  """
  own = {name: changes.pop(name) for name in list(changes) if hasattr(info.preprocess, name)}
  return dataclasses.replace(info, preprocess=dataclasses.replace(info.preprocess, **own), **changes)


def write_moving_video(path: str | os.PathLike, *, seed: int, num_frames: int) -> None:
  """Writes a video of 64x48 at 25 frames per second: a texture that moves two pixels a frame to the left.

  Args:
    path: File to write.
    seed: Seed of the texture.
    num_frames: Number of frames.
  """
  import cv2

  noise = np.random.default_rng(seed).uniform(0, 255, (80, 64 + 2 * num_frames, 3))
  texture = cv2.GaussianBlur(noise, (0, 0), 2).astype(np.uint8)
  writer = cv2.VideoWriter(os.fspath(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
  for time in range(num_frames):
    writer.write(np.ascontiguousarray(texture[8:56, 2 * time : 2 * time + 64]))
  writer.release()


def write_sounding_video(
  path: str | os.PathLike, sound: np.ndarray, *, rate: int = 16_000, seed: int = 0, codec: str = "pcm_s16le"
) -> None:
  """Writes a video of noise, 48x36 at 25 frames per second, as long as its sound.

  Args:
    path: File to write, of a container that takes the codec.
    sound: `[channels, samples]` in [-1, 1].
    rate: Samples per second.
    seed: Seed of the noise.
    codec: Of the sound, by FFmpeg's name.
  """
  import av

  noise = np.random.default_rng(seed)
  with av.open(os.fspath(path), "w") as container:
    video, audio = container.add_stream("mjpeg", rate=25), container.add_stream(codec, rate=rate)
    video.width, video.height, video.pix_fmt = 48, 36, "yuvj420p"
    audio.layout = layout = "stereo" if len(sound) == 2 else "mono"
    for _ in range(round(25 * sound.shape[1] / rate)):
      image = noise.integers(0, 255, (9, 12, 3)).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
      container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
    frame = av.AudioFrame.from_ndarray(np.float32(sound), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    container.mux([*video.encode(None), *audio.encode(frame), *audio.encode(None)])


def write_old_checkpoint(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a checkpoint as TensorFlow did before 0.12, in a single file.

  Args:
    path: File to write.
    arrays: Variables by name.
  """
  import tensorflow as tf

  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    fed = {name: tf.compat.v1.placeholder(array.dtype, array.shape) for name, array in arrays.items()}
    variables = {name: tf.compat.v1.Variable(fed[name], name=name, use_resource=False) for name in arrays}
    session.run(tf.compat.v1.global_variables_initializer(), {fed[name]: array for name, array in arrays.items()})
    saver = tf.compat.v1.train.Saver(variables, write_version=tf.compat.v1.train.SaverDef.V1)
    saver.save(session, os.fspath(path), write_meta_graph=False, write_state=False)


def golden_values(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the value that the goldens' weight rule gives a variable of the release, float32.

  Args:
    name: Name of the variable.
    shape: Its shape.
  """
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith("/w"):
    values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
  elif name.endswith(("moving_variance", "batch_norm/gamma")):
    values = rng.uniform(0.5, 1.5, shape)
  else:
    values = rng.standard_normal(shape) * 0.1
  return values.astype(np.float32)


def is_trained(variable_name: str) -> bool:
  """Returns whether a variable of a network is trained: all are but the moving statistics of batch norm.

  Args:
    variable_name: with or without the network's name in front.
  """
  return not variable_name.endswith(("/moving_mean", "/moving_variance"))


def num_trained(shapes: Mapping[str, tuple[int, ...]]) -> int:
  """Returns the number of trained values.

  Args:
    shapes: of variables by name.
  """
  return sum(math.prod(shape) for name, shape in shapes.items() if is_trained(name))


def golden_noise(seed: str, frames: int, channels: int) -> np.ndarray:
  """Returns the goldens' noise clip `[1, frames, 224, 224, channels]`, float32 in [-1, 1].

  Args:
    seed: Text that the seed is made of.
    frames: Number of frames.
    channels: Number of channels.
  """
  rng = np.random.default_rng(zlib.crc32(seed.encode()))
  return rng.uniform(-1, 1, [1, frames, 224, 224, channels]).astype(np.float32)


def golden_waves(frames: int) -> np.ndarray:
  """Returns the goldens' travelling waves `[1, frames, 224, 224, 3]`, float32 in [-1, 1].

  Args:
    frames: Number of frames.
  """
  t, y, x, c = np.ogrid[:frames, :224, :224, :3]
  return np.sin(0.21 * t + 0.05 * (c + 1) * y + 0.031 * x * (1 + 0.1 * c)).astype(np.float32)[np.newaxis]


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
  """Returns the largest absolute difference, relative to the largest absolute expected value.

  Args:
    actual: What was computed.
    expected: What it should be.
  """
  return float(np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max())
