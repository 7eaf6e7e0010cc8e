"""Networks on disk: one way to load each, and a format of our own, a checkpoint and beside it what the network is.

A folder of that format holds `model.json` and the checkpoint that it names, in the release's layout. A new network is
written beside the old one and takes its place when `model.json` does, so that a reader finds one of them whole at any
moment.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import files
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf.models import base
from i3d_tf.models import preprocess as preprocess_lib
from i3d_tf.models import zoo
from i3d_tf.weights import hub
from i3d_tf.weights import pytorch
from i3d_tf.weights import pytorch_resnet
from i3d_tf.weights import pytorch_swin
from i3d_tf.weights import release
from i3d_tf.weights import sources
from i3d_tf.weights import tensorflow1

INFO = "model.json"
OPENVINO_MODEL, OPENVINO_SUFFIX = "model.xml", ".xml"  # beside it in place of a checkpoint, see `exporting.openvino`
# The most that a model.json may state, so that a damaged one does not ask for all memory.
_MOST = {
  "num_classes": 1_000_000,
  "width_multiplier": 16,
  "frame_rate": 1_000_000,
  "num_frames": 100_000,
  "frame_stride": 100_000,
  "segment_frames": 100_000,
  "top_segments": 100_000,
  "flow_stack": 1_000,
  "short_side": 16_384,
  "crop": 16_384,
}
BEST = "best"  # the folder of a run's best network
# The first that recognizes a state dict converts it. X3D comes before other networks of the same projects, whose first
# kernel has the name of one of X3D's; I3D takes whatever is left, and says what is wrong with it.
_TORCH_FAMILIES = (
  pytorch_resnet.X3D,
  pytorch.S3D,
  pytorch.BN_INCEPTION,
  pytorch_swin.SWIN,
  pytorch_resnet.RESNET,
  pytorch.I3D,
)
_SHOWN_CLASSES = 3


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ModelInfo:
  """What one needs to know to use a network.

  Attributes:
    model: Name in the zoo.
    stream: 'rgb', 'flow', or 'joint' for both at once.
    num_classes: Number of classes; 0 for weights without a classifier, to start others from.
    classes: Names of the classes in index order; empty if they are not known.
    width_multiplier: As the network's constructor takes it.
    average_space: As the network's constructor takes it.
    top_segments: As the network's constructor takes it, see `tsn.SegmentNetwork`.
    preprocess: The transform from a video to the clips that the network was trained on.
    dataset: What it was trained on; empty if that is not known.
    step: Number of steps that it was trained for; None if that is not known.
    flow_method: Optical flow that it was trained on, see `flow.FlowConfig.flow_method`; '' of networks of RGB, and of
      those that state none, which means TV-L1.
  """

  model: str = "i3d"
  stream: str
  num_classes: int = fields.option(least=0)
  classes: tuple[str, ...] = ()
  width_multiplier: float = fields.option(1.0, above=0)
  average_space: bool = False
  top_segments: int = fields.option(0, least=0)
  preprocess: preprocess_lib.Preprocess = preprocess_lib.Preprocess()
  dataset: str = ""
  step: int | None = fields.option(None, least=0)
  flow_method: str = ""

  def __repr__(self) -> str:
    """As that of any dataclass, but of hundreds of classes the first ones only."""
    shown = {field.name: repr(getattr(self, field.name)) for field in dataclasses.fields(self)}
    if len(self.classes) > _SHOWN_CLASSES:
      first = ", ".join(map(repr, self.classes[:_SHOWN_CLASSES]))
      shown["classes"] = f"({first}, ... of {len(self.classes)})"
    return f"ModelInfo({', '.join(f'{name}={value}' for name, value in shown.items())})"

  @property
  def streams(self) -> tuple[str, ...]:
    """The streams of a clip."""
    return preprocess_lib.STREAMS_OF[self.stream]

  def get(self, name: str) -> Any:
    """Returns a field of this, or of `preprocess`.

    Args:
      name: Name of the field.
    """
    return getattr(self if hasattr(self, name) else self.preprocess, name)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Classes in index order; numbered where their names are not known."""
    return self.classes or tuple(f"class {index}" for index in range(self.num_classes))

  @property
  def channels(self) -> dict[str, int]:
    """Channels of a clip by stream."""
    stacked = {"rgb": 1, "flow": self.preprocess.flow_stack}
    return {stream: preprocess_lib.CHANNELS[stream] * stacked[stream] for stream in self.streams}

  @property
  def in_channels(self) -> int | dict[str, int]:
    """Channels of a clip, by stream if there are two."""
    return self.channels if len(self.streams) > 1 else self.channels[self.stream]


def make_info(**fields: Any) -> ModelInfo:
  """Returns a `ModelInfo` from its fields and those of its `Preprocess`, given side by side.

  Args:
    **fields: The fields by name.
  """
  names = {field.name for field in dataclasses.fields(preprocess_lib.Preprocess)}
  own = {name: value for name, value in fields.items() if name in names}
  others = {name: value for name, value in fields.items() if name not in names}
  return ModelInfo(**others, preprocess=preprocess_lib.Preprocess(**own))


def make_model(info: ModelInfo, **options: Any) -> base.Network:
  """Returns the network that `info` describes, built, with new weights.

  Args:
    info: The description.
    **options: Further arguments of the network's constructor.

  Raises:
    I3dError: If the zoo has no such network, or it does not take the stream.
    ValueError: If an argument is out of range.
  """
  zoo.check_stream(info.model, info.stream)
  model = outline(info, **options)
  model.build(info.in_channels)
  return model


def outline(info: ModelInfo, **options: Any) -> base.Network:
  """Returns the network that `info` describes, not built: it knows what clips and layers there are, without variables.

  Args:
    info: The description.
    **options: Further arguments of the network's constructor.

  Raises:
    I3dError: If the zoo has no such network.
    ValueError: If an argument is out of range.
  """
  entry = zoo.get(info.model)
  own = {name: info.get(name) for name in entry.options}
  return entry.make(info.num_classes, width_multiplier=info.width_multiplier, **own, **options)


def save(folder: str | os.PathLike, model: base.Network, info: ModelInfo) -> None:
  """Writes a network; one that is in the folder already stays until this one is whole.

  Args:
    folder: Folder to write to.
    model: The network. Of a classifier with more classes than `info` has, the first are kept.
    info: Its description.

  Raises:
    CheckpointError: If the checkpoint cannot be written.
    OSError: If model.json cannot be written.
  """
  values = {name: each.numpy() for name, each in release.named_variables(model).items()}
  heads = {name: value[..., : info.num_classes] for name, value in values.items() if release.is_head(name)}
  if not info.num_classes:
    values, heads = {name: value for name, value in values.items() if name not in heads}, {}
  save_values(folder, values | heads, info)


def save_values(folder: str | os.PathLike, values: Mapping[str, np.ndarray], info: ModelInfo) -> None:
  """Writes a network as `save` does.

  Args:
    folder: Folder to write to.
    values: Its variables by the names of `release.named_variables`.
    info: Its description.

  Raises:
    CheckpointError: If the checkpoint cannot be written.
    OSError: If model.json cannot be written.
  """
  folder = pathlib.Path(folder)
  name = "model" if info.step is None else f"model-{info.step}"
  layout = tensorflow1.LAYOUTS[info.stream] if info.model == "i3d" else tensorflow1.PLAIN
  tensorflow1.write_release(folder / name, values, layout)
  write_info(folder, info, name)
  for old in folder.glob("model*"):
    if old.suffix in (tensorflow1.INDEX_SUFFIX, tensorflow1.DATA_SUFFIX) and old.stem != name:
      old.unlink()


def write_info(folder: str | os.PathLike, info: ModelInfo, checkpoint: str) -> None:
  """Writes model.json.

  Args:
    folder: Folder to write to.
    info: The network's description.
    checkpoint: Name of what holds its weights, in the same folder.

  Raises:
    OSError: If it cannot be written.
  """
  with workdir.replacing(pathlib.Path(folder, INFO)) as file:
    # The fields of the preprocessing stand beside the others, as version 0.1.0 reads and writes them.
    content = {"checkpoint": checkpoint, **dataclasses.asdict(info)}
    content |= content.pop("preprocess")
    for name in ("flow_method", "segment_frames", "top_segments"):
      if not content[name]:  # which earlier versions do not know
        del content[name]
    file.write(json.dumps(content, indent=2).encode() + b"\n")


def load(name_or_path: str | os.PathLike, *, average_space: bool = False) -> tuple[base.Network, ModelInfo]:
  """Returns a network from any checkpoint that the project reads, and what it is.

  Args:
    name_or_path: A published checkpoint's name, which is fetched to the cache if it is not there; the folder of a
      training run, which means its best network; a checkpoint in the release's layout (a prefix, one of its files, or
      a folder with model.ckpt, with TensorFlow's list of checkpoints, or of a SavedModel) or in TF-slim's of
      Inception-v1; or a PyTorch state dict, whatever its file is called.
    average_space: Whether to take clips of any height and width, see `inception.InceptionI3d`, even if the network was
      not trained so.

  Raises:
    I3dError: If the network has no choice of `average_space`.
    CheckpointError: If there is no checkpoint, it is damaged, or it is of no network or of one without a classifier.
    DownloadError: If a published checkpoint cannot be fetched.
  """
  values, info = read(name_or_path)
  if not info.num_classes:
    raise errors.CheckpointError(f"{name_or_path} has no classifier yet; training can start from it")
  if average_space:
    if "average_space" not in zoo.get(info.model).options:
      raise errors.I3dError(f"{name_or_path} is a network {info.model}, which has no choice of average_space")
    info = dataclasses.replace(info, average_space=True)
  model = make_model(info)
  release.assign(model, values, os.fspath(name_or_path))
  return model, info


def read(name_or_path: str | os.PathLike) -> tuple[dict[str, np.ndarray], ModelInfo]:
  """Returns a network's variables by the names of `release.named_variables`, and what the network is.

  Args:
    name_or_path: As `load` takes it; the network may have no classifier.

  Raises:
    CheckpointError: If there is no checkpoint, it is damaged, or it is of no network.
    DownloadError: If a published checkpoint cannot be fetched.
  """
  if os.fspath(name_or_path) == sources.RAFT_SMALL:
    raise errors.CheckpointError(f"{name_or_path} computes optical flow and has no classes; it is a method of flow")
  info, checkpoint = find(name_or_path)
  if info is not None:
    if checkpoint.endswith(OPENVINO_SUFFIX):
      raise errors.CheckpointError(
        f"{name_or_path} was exported to OpenVINO and is no checkpoint; take engine openvino"
      )
    prefix = tensorflow1.find_prefix(checkpoint)
    values = tensorflow1.read_release(prefix)[1] if info.model == "i3d" else tensorflow1.read(prefix)
    _check_sizes(values, info, os.fspath(name_or_path))
    return values, info
  if checkpoint == sources.INCEPTION_V1:
    checkpoint = hub.fetch(checkpoint)
  if pytorch.is_torch(checkpoint):
    model, values = from_state_dict(pytorch.read(checkpoint), checkpoint)
    return values, _describe(checkpoint, values, model)
  if tensorflow1.is_slim(checkpoint):
    values = tensorflow1.read_slim(checkpoint)
    num_classes = values["Logits/Conv2d_0c_1x1/conv_3d/b"].size
    return values, make_info(model="inception_v1", stream="rgb", num_classes=num_classes, num_frames=1)
  loaded, values = release.read(checkpoint)
  return values, _describe(loaded.prefix, values, "i3d")


def find(name_or_path: str | os.PathLike) -> tuple[ModelInfo | None, str]:
  """Returns a network's description (None without a model.json) and its checkpoint's path or name; reads no weights.

  Args:
    name_or_path: As `load` takes it.

  Raises:
    CheckpointError: If a model.json cannot be read, or a training run has no network yet.
  """
  path = pathlib.Path(name_or_path)
  for folder in (path, path / BEST):
    if name_or_path not in hub.NAMES and (folder / INFO).is_file():
      info, checkpoint = _read_info(folder / INFO)
      return info, os.fspath(folder / checkpoint)
  if path.is_dir() and (path / "checkpoints").is_dir():
    raise errors.CheckpointError(f"{path}: this run has no network yet; it writes the first when it validates or ends")
  return None, os.fspath(name_or_path)


def from_state_dict(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> tuple[str, dict[str, np.ndarray]]:
  """Returns the name in the zoo of a PyTorch state dict's network, and its variables as `release.named_variables`.

  Args:
    arrays: The state dict.
    path: Its file, for messages, and because X3D-XS, S and M are told apart by its name.

  Raises:
    CheckpointError: If it is of no network that is known, or weights are missing, unmatched or misshapen.
  """
  is_known = lambda arrays: pytorch.is_i3d(arrays) or any(each.find(arrays, path) for each in _TORCH_FAMILIES[:-1])
  arrays = pytorch.strip_prefix(arrays, is_known)
  models = ((family, family.find(arrays, path)) for family in _TORCH_FAMILIES)
  family, model = next((family, model) for family, model in models if model is not None)
  return model, family.convert(arrays, model, path)


def first_kernels(values: Mapping[str, np.ndarray], model: str) -> dict[str, np.ndarray]:
  """Returns the kernels `[time, height, width, channels, filters]` that see the clip, one a stream, by name.

  Args:
    values: A network's variables, as `read` returns them.
    model: The network's name in the zoo.
  """
  return {name: values[name] for name in zoo.get(model).first_kernels if name in values}


def check_stream(info: ModelInfo, name_or_path: str | os.PathLike, stream: str) -> None:
  """Checks that a network takes the stream for which it was given.

  Args:
    info: What the network is.
    name_or_path: Its checkpoint, for the message.
    stream: The stream for which it was given.

  Raises:
    I3dError: If the network takes another stream.
  """
  if info.stream != stream:
    raise errors.I3dError(
      f"the checkpoint of {stream}, {name_or_path}, takes clips of the stream {info.stream}; give it as the checkpoint "
      f"of {info.stream}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Checkpoint:
  """What model.json says beside the network's description."""

  checkpoint: str


def _read_info(path: pathlib.Path) -> tuple[ModelInfo, str]:
  """Returns what a model.json describes, and the name of the checkpoint beside it."""
  try:
    content = files.read_json(path, "what train writes")
    if not isinstance(content, dict) or not {"checkpoint", "stream", "num_classes", "classes"} <= set(content):
      raise errors.I3dError(f"{path}: this is not what train writes")
    names = {field.name for field in dataclasses.fields(preprocess_lib.Preprocess)}
    part = lambda keys: {name: value for name, value in content.items() if name in keys}
    others = part(set(content) - names - {"checkpoint", "preprocess"})
    checkpoint = fields.from_json(_Checkpoint, part({"checkpoint"}), path).checkpoint
    clip = fields.from_json(preprocess_lib.Preprocess, part(names), path, most=_MOST)
    info = dataclasses.replace(fields.from_json(ModelInfo, others, path, most=_MOST), preprocess=clip)
    _check_info(info, checkpoint, path)
  except errors.I3dError as error:
    raise errors.CheckpointError(str(error)) from None
  return info, checkpoint


def _check_info(info: ModelInfo, checkpoint: str, path: pathlib.Path) -> None:
  """Raises I3dError unless the values of a model.json go together."""
  for name, text in (("model", info.model), ("stream", info.stream)):
    if not text.isascii() or len(text) > 100:
      raise errors.I3dError(f"{path}: {name} is {ascii(text[:40])}, which is none that there is")
  try:
    zoo.check_stream(info.model, info.stream)
  except errors.I3dError as error:
    raise errors.I3dError(f"{path}: {error}") from None
  if wrong := [
    text for text in (checkpoint, info.dataset, info.flow_method, *info.classes) if not fields.is_text(text)
  ]:
    raise errors.I3dError(f"{path}: {ascii(wrong[0][:40])} is no text")
  # One of version 0.1.0 may name a path below its folder.
  if not checkpoint or "\0" in checkpoint or len(checkpoint) > 1000 or ".." in checkpoint.split("/"):
    raise errors.I3dError(f"{path}: checkpoint is {files.printable(checkpoint, 60)!r}, which is no file beside it")
  if info.classes and len(info.classes) != info.num_classes:
    raise errors.I3dError(f"{path}: it names {len(info.classes)} classes, but num_classes is {info.num_classes}")


def _check_sizes(values: Mapping[str, np.ndarray], info: ModelInfo, path: str) -> None:
  """Raises CheckpointError if a description states more classes than the weights have, before it is built so."""
  biases = [value.size for name, value in values.items() if release.is_head(name) and name.endswith("/b")]
  if info.num_classes and biases and min(biases) != info.num_classes:
    raise errors.CheckpointError(
      f"{path}: the checkpoint has {min(biases)} classes, but {INFO} says that num_classes is {info.num_classes}"
    )
  largest = max((value.size for value in values.values()), default=0)
  if info.width_multiplier**2 > 4 * largest:
    raise errors.CheckpointError(f"{path}: the checkpoint is not of width_multiplier {info.width_multiplier:g}")


def _describe(path: str, values: Mapping[str, np.ndarray], model: str) -> ModelInfo:
  """The info of a checkpoint that comes without: of I3D in the release's layout, or of any network from PyTorch."""
  missing = [name for name in (release.FIRST_KERNEL, release.HEAD_BIAS) if name not in values]
  if missing and model == "i3d":
    raise errors.CheckpointError(f"checkpoint {path} is not whole: it has no {missing[0]}")
  channels = next(iter(first_kernels(values, model).values())).shape[-2]
  is_bias = lambda name: release.is_head(name) and name.endswith("/b")
  num_classes = next(value.size for name, value in values.items() if is_bias(name))
  stack = zoo.get(model).training.get("flow_stack", 1)
  known = {preprocess_lib.CHANNELS["rgb"]: "rgb", preprocess_lib.CHANNELS["flow"] * stack: "flow"}
  if channels not in known:
    allowed = " and ".join(map(str, known))
    raise errors.CheckpointError(f"checkpoint {path} is for clips of {channels} channels; allowed are {allowed}")
  stream = known[channels]
  try:
    classes = resources.class_names(num_classes)
  except errors.I3dError:
    classes = ()
  clip = zoo.preprocess(model, stream)
  return ModelInfo(model=model, stream=stream, num_classes=num_classes, classes=classes, preprocess=clip)
