"""Networks on disk: the weights as a checkpoint in the release's layout, and beside them what the network is.

A folder holds `model.json` and the checkpoint that it names. A new network is written beside the old one and takes its
place when `model.json` does, so that a reader finds one of them whole at any moment.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf.input import clip_config
from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import inflation
from i3d_tf.models import preprocess as preprocess_lib
from i3d_tf.models import zoo
from i3d_tf.weights import bundle
from i3d_tf.weights import hub
from i3d_tf.weights import pytorch
from i3d_tf.weights import pytorch_networks
from i3d_tf.weights import release
from i3d_tf.weights import slim
from i3d_tf.weights import slim_archive

INFO = "model.json"
BEST = "best"  # the folder of a run's best network


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
  """What one needs to know to use a network.

  Attributes:
    model: its name in the zoo.
    stream: 'rgb', 'flow', or 'joint' for both at once.
    num_classes, classes: how many, and their names in index order; no names if they are not known. 0 classes: weights
      without a classifier, to start from.
    width_multiplier, average_space: as the network's constructor takes them.
    preprocess: the clips that it was trained on.
    dataset, step: what it was trained on, and for how many steps; None if that is not known.
  """

  model: str = "i3d"
  stream: str
  num_classes: int
  classes: tuple[str, ...] = ()
  width_multiplier: float = 1.0
  average_space: bool = False
  preprocess: preprocess_lib.Preprocess = preprocess_lib.Preprocess()
  dataset: str = ""
  step: int | None = None

  @property
  def streams(self) -> tuple[str, ...]:
    """The streams of a clip."""
    return clip_config.STREAMS_OF[self.stream]

  def get(self, name: str) -> Any:
    """Returns the field `name` of this, or of `preprocess`."""
    return getattr(self if hasattr(self, name) else self.preprocess, name)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Classes in index order; numbered where their names are not known."""
    return self.classes or tuple(f"class {index}" for index in range(self.num_classes))

  @property
  def channels(self) -> dict[str, int]:
    """Channels of a clip by stream."""
    stacked = {"rgb": 1, "flow": self.preprocess.flow_stack}
    return {stream: clip_config.CHANNELS[stream] * stacked[stream] for stream in self.streams}

  @property
  def in_channels(self) -> int | dict[str, int]:
    """Channels of a clip, by stream if there are two."""
    return self.channels if len(self.streams) > 1 else self.channels[self.stream]


def make_info(**fields: Any) -> ModelInfo:
  """Returns a `ModelInfo` from its fields and those of its `Preprocess`, given side by side."""
  names = {field.name for field in dataclasses.fields(preprocess_lib.Preprocess)}
  own = {name: value for name, value in fields.items() if name in names}
  others = {name: value for name, value in fields.items() if name not in names}
  return ModelInfo(**others, preprocess=preprocess_lib.Preprocess(**own))


def make_model(info: ModelInfo, **options: Any) -> base.Network:
  """The network that `info` describes, built, with new weights; `options` are further arguments of its constructor.

  Raises:
    I3dError: for a network that the zoo does not have, or a stream that it does not take.
    ValueError: for an argument out of range.
  """
  zoo.check_stream(info.model, info.stream)
  entry = zoo.get(info.model)
  own = {name: info.get(name) for name in entry.options}
  model = entry.make(info.num_classes, width_multiplier=info.width_multiplier, **own, **options)
  model.build(info.in_channels)
  return model


def save(folder: str | os.PathLike, model: base.Network, info: ModelInfo) -> None:
  """Writes the network; one that is in the folder already stays until this one is whole.

  Of a classifier with more classes than `info` has the first are kept.

  Raises:
    CheckpointError, OSError: if the files cannot be written.
  """
  values = {name: each.numpy() for name, each in release.named_variables(model).items()}
  heads = {name: value[..., : info.num_classes] for name, value in values.items() if release.is_head(name)}
  save_values(folder, values | heads, info)


def save_values(folder: str | os.PathLike, values: Mapping[str, np.ndarray], info: ModelInfo) -> None:
  """Writes a network from its variables by names without the module's; see `save`."""
  folder = pathlib.Path(folder)
  name = "model" if info.step is None else f"model-{info.step}"
  release.write(folder / name, values, _layout(info))
  with workdir.replacing(folder / INFO) as file:
    file.write(json.dumps({"checkpoint": name, **dataclasses.asdict(info)}, indent=2).encode() + b"\n")
  for old in folder.glob("model*"):
    if old.suffix in (bundle.INDEX_SUFFIX, bundle.DATA_SUFFIX) and old.stem != name:
      old.unlink()


def load(name_or_path: str | os.PathLike, *, average_space: bool = False) -> tuple[base.Network, ModelInfo]:
  """Loads a network and what it is.

  Args:
    name_or_path: a released checkpoint's name, a checkpoint in the release's layout (a prefix, one of its files, or a
      folder with model.ckpt) or in slim's of Inception-v1, a PyTorch state dict (see `torch_networks`), or the
      folder of a training run, which means its best network.
    average_space: take clips of any height and width, see `inception.InceptionI3d`, even if it was not trained so.

  Raises:
    I3dError: if the network knows no `average_space`.
    CheckpointError, DownloadError: as `release.load_checkpoint`; for a model.json that cannot be read; for weights
      without a classifier.
  """
  values, info = read(name_or_path)
  if not info.num_classes:
    raise errors.CheckpointError(f"{name_or_path} has no classifier yet; train --initial_checkpoint starts from it")
  if average_space:
    if "average_space" not in zoo.get(info.model).options:
      raise errors.I3dError(f"{name_or_path} is a network {info.model}, which has no choice of average_space")
    info = dataclasses.replace(info, average_space=True)
  model = make_model(info)
  release.assign(model, values, os.fspath(name_or_path))
  return model, info


def check_stream(info: ModelInfo, name_or_path: str | os.PathLike, stream: str) -> None:
  """Raises I3dError if a network that was given as the checkpoint of a stream is of another."""
  if info.stream != stream:
    raise errors.I3dError(
      f"--{stream}_checkpoint={name_or_path} takes clips of the stream {info.stream}; give it as "
      f"--{info.stream}_checkpoint"
    )


def initialize(
  model: base.Network,
  info: ModelInfo,
  name_or_path: str | os.PathLike,
  *,
  rescale_first_kernel: bool = False,
) -> list[str]:
  """Starts a network from another's weights.

  The classifier stays new when the classes differ, and a flow network takes the mean of an RGB network's first kernel
  over its inputs (see `inflation.adapt_in_channels`). A network that holds a network of images, or is it inflated,
  starts from that, too, and the rest of it stays new.

  Returns:
    What was done beyond copying, one sentence each.

  Raises:
    CheckpointError, DownloadError: as `load`, or if the network cannot start from that one.
  """
  values, other = read(name_or_path)
  notes = []
  entry = zoo.get(info.model)
  if other.model != info.model and other.model == entry.base and entry.trunk is not None:
    values = _place_trunk(values, info, model)
    how = ", inflated" if any(value.ndim == 5 and len(value) > 1 for value in values.values()) else ""
    notes.append(f"The trunk is that of {name_or_path}, a network {other.model}{how}; the rest is new.")
    new_head = is_part = True
  elif not zoo.differ_in_clips_only(other.model, info.model) or len(other.streams) != len(info.streams):
    raise errors.CheckpointError(
      f"{name_or_path} is a network {other.model} of stream {other.stream}; {info.model} of stream {info.stream} "
      "cannot start from it"
    )
  else:
    is_part = False
    new_head = other.num_classes != info.num_classes or (
      bool(other.classes) and bool(info.classes) and other.classes != info.classes
    )
    if other.stream != info.stream:
      values = {name.replace(f"{other.stream}/", f"{info.stream}/", 1): value for name, value in values.items()}
    if new_head:
      has = f"{other.num_classes} classes of its own" if other.num_classes else "none"
      notes.append(f"The classifier is new: {name_or_path} has {has}.")
  notes += _adapt_first_kernels(model, info, values, name_or_path, rescale=rescale_first_kernel)
  try:
    release.assign(model, values, os.fspath(name_or_path), new_head=new_head, allow_missing=is_part)
  except errors.CheckpointError:
    if other.width_multiplier == info.width_multiplier:
      raise
    raise errors.CheckpointError(
      f"{name_or_path} has a width_multiplier of {other.width_multiplier:g}, and the network that is to start from "
      f"it one of {info.width_multiplier:g}: it does not fit"
    ) from None
  return notes


def _place_trunk(values: Mapping[str, np.ndarray], info: ModelInfo, model: base.Network) -> dict[str, np.ndarray]:
  """The variables of a network of images under the names that they have in another network, inflated to that."""
  if isinstance(model, inception.Inception):
    return inflation.inflate(values, model.architecture)
  trunk = zoo.get(info.model).trunk
  placed = {
    f"{trunk.format(stream=stream)}{name}": value
    for stream in info.streams
    for name, value in values.items()
    if not release.is_head(name)
  }
  shapes = {name: tuple(variable.shape) for name, variable in release.named_variables(model).items()}
  return inflation.inflate_to(placed, shapes)


def _adapt_first_kernels(
  model: base.Network,
  info: ModelInfo,
  values: dict[str, np.ndarray],
  name_or_path: str | os.PathLike,
  *,
  rescale: bool,
) -> list[str]:
  """Makes the kernels that see the clip fit its channels; returns what was done."""
  notes, variables = [], release.named_variables(model)
  for name, kernel in first_kernels(values, info.model).items():
    if name not in variables:
      continue
    channels = variables[name].shape[-2]
    if kernel.shape[-2] != channels:
      values[name] = inflation.adapt_in_channels(kernel, channels, rescale=rescale)
      scaled = f", times {kernel.shape[-2]}/{channels}" if rescale else ""
      notes.append(f"The first kernel is the mean of {name_or_path}'s over its {kernel.shape[-2]} inputs{scaled}.")
  return notes


def first_kernels(values: Mapping[str, np.ndarray], model: str) -> dict[str, np.ndarray]:
  """Returns the kernels `[time, height, width, channels, filters]` that see the clip, by name.

  Args:
    values: a network's variables by names without the module's.
    model: the network's name in the zoo.
  """
  return {name: values[name] for name in zoo.get(model).first_kernels if name in values}


def read(name_or_path: str | os.PathLike) -> tuple[dict[str, np.ndarray], ModelInfo]:
  """A network's variables by names without the module's, and what it is.

  Raises:
    CheckpointError, DownloadError: as `load`.
  """
  info, checkpoint = find(name_or_path)
  if info is None and checkpoint == slim_archive.NAME:
    checkpoint = hub.fetch(checkpoint)
  if info is not None and info.model != "i3d":
    return bundle.read(bundle.find_prefix(checkpoint)), info
  if info is None and pytorch.is_torch(checkpoint):
    model, values = pytorch_networks.from_torch(pytorch.read(checkpoint), checkpoint)
    return values, _describe(checkpoint, values, model)
  if info is None and slim.is_slim(checkpoint):
    values = slim.read(checkpoint)
    info = make_info(model="inception_v1", stream="rgb", num_classes=values[slim.HEAD_BIAS].size, num_frames=1)
    return values, info
  loaded, values = release.read(checkpoint)
  return values, info or _describe(loaded.prefix, values)


def _layout(info: ModelInfo) -> release.Layout:
  """Of I3D, the release's; of others, names as they are."""
  return release.LAYOUTS[info.stream] if info.model == "i3d" else release.PLAIN


def find(name_or_path: str | os.PathLike) -> tuple[ModelInfo | None, str]:
  """The network's info, None if it has none, and the path or name of its checkpoint.

  Raises:
    CheckpointError: if a model.json is there and cannot be read.
  """
  path = pathlib.Path(name_or_path)
  for folder in (path, path / BEST):
    if name_or_path not in hub.NAMES and (folder / INFO).is_file():
      content = _read_info(folder / INFO)
      checkpoint = content.pop("checkpoint")
      try:
        if isinstance(content.get("preprocess"), dict):  # files of version 0.1.0 have its fields beside the others
          content |= content.pop("preprocess")
        info = make_info(**{**content, "classes": tuple(content["classes"])})
        zoo.check_stream(info.model, info.stream)
      except (TypeError, LookupError):
        raise errors.CheckpointError(f"{folder / INFO}: this is not what train writes") from None
      return info, os.fspath(folder / checkpoint)
  if path.is_dir() and (path / "checkpoints").is_dir():
    raise errors.CheckpointError(f"{path}: this run has no network yet; it writes the first when it validates or ends")
  return None, os.fspath(name_or_path)


def _read_info(path: pathlib.Path) -> dict:
  try:
    content = json.loads(path.read_bytes())
    if isinstance(content, dict) and isinstance(content.get("checkpoint"), str):
      return content
  except (ValueError, OSError):
    pass
  raise errors.CheckpointError(f"{path}: this is not what train writes")


def _describe(path: str, values: Mapping[str, np.ndarray], model: str = "i3d") -> ModelInfo:
  """The info of a checkpoint that comes without: of I3D in the release's layout, or of any network from PyTorch."""
  missing = [name for name in (release.FIRST_KERNEL, release.HEAD_BIAS) if name not in values]
  if missing and model == "i3d":
    raise errors.CheckpointError(f"checkpoint {path} is not whole: it has no {missing[0]}")
  channels = next(iter(first_kernels(values, model).values())).shape[-2]
  num_classes = next(value.size for name, value in values.items() if release.is_head(name) and name.endswith("/b"))
  streams = [stream for stream, number in clip_config.CHANNELS.items() if number == channels]
  if not streams:
    raise errors.CheckpointError(f"checkpoint {path} is for clips of {channels} channels; allowed are 3 and 2")
  try:
    classes = resources.class_names(num_classes)
  except errors.I3dError:
    classes = ()
  clip = zoo.preprocess(model, streams[0])
  return ModelInfo(model=model, stream=streams[0], num_classes=num_classes, classes=classes, preprocess=clip)
