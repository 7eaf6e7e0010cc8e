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
from i3d_tf import files
from i3d_tf import resources
from i3d_tf.models import inception
from i3d_tf.models import inflation
from i3d_tf.video import clip_options
from i3d_tf.weights import bundle
from i3d_tf.weights import manifest as manifests
from i3d_tf.weights import release

INFO = "model.json"
BEST = "best"  # the folder of a run's best network


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
  """What one needs to know to use a network.

  Attributes:
    stream: 'rgb' or 'flow'.
    num_classes, classes: how many, and their names in index order; no names if they are not known.
    width_multiplier, average_space: as `InceptionI3d` takes them.
    num_frames, frame_stride, short_side, crop: the clips that it was trained on, in frames and pixels.
    dataset, step: what it was trained on, and for how many steps; None if that is not known.
  """

  stream: str
  num_classes: int
  classes: tuple[str, ...] = ()
  width_multiplier: float = 1.0
  average_space: bool = False
  num_frames: int = 64
  frame_stride: int = 1
  short_side: int = 256
  crop: int = 224
  dataset: str = ""
  step: int | None = None


def make_model(info: ModelInfo, **options: Any) -> inception.InceptionI3d:
  """The network that `info` describes, with new weights; `options` are further arguments of its constructor."""
  model = inception.InceptionI3d(
      info.num_classes, width_multiplier=info.width_multiplier, average_space=info.average_space, **options
  )
  model.build(clip_options.CHANNELS[info.stream])
  return model


def save(folder: str | os.PathLike, model: inception.InceptionI3d, info: ModelInfo) -> None:
  """Writes the network; one that is in the folder already stays until this one is whole.

  Raises:
    CheckpointError, OSError: if the files cannot be written.
  """
  folder = pathlib.Path(folder)
  name = "model" if info.step is None else f"model-{info.step}"
  release.save_release_checkpoint(model, folder / name, stream=info.stream)
  with files.replacing(folder / INFO) as file:
    file.write(json.dumps({"checkpoint": name, **dataclasses.asdict(info)}, indent=2).encode() + b"\n")
  for old in folder.glob("model*"):
    if old.suffix in (bundle.INDEX_SUFFIX, bundle.DATA_SUFFIX) and old.stem != name:
      old.unlink()


def load(name_or_path: str | os.PathLike) -> tuple[inception.InceptionI3d, ModelInfo]:
  """Loads a network and what it is.

  Args:
    name_or_path: a released checkpoint's name, a checkpoint in the release's layout (a prefix, one of its files, or a
      folder with model.ckpt), or the folder of a training run, which means its best network.

  Raises:
    CheckpointError, DownloadError: as `release.load_checkpoint`, or for a model.json that cannot be read.
  """
  info, checkpoint = find(name_or_path)
  loaded, values = release.read(checkpoint)
  if info is None:
    info = _describe(loaded, values)
  model = make_model(info)
  release.assign(model, values, loaded.prefix)
  return model, info


def initialize(
    model: inception.InceptionI3d,
    info: ModelInfo,
    name_or_path: str | os.PathLike,
    *,
    rescale_first_kernel: bool = False,
) -> list[str]:
  """Starts a network from another's weights.

  The classifier stays new when the classes differ, and a flow network takes the mean of an RGB network's first kernel
  over its inputs (see `inflation.adapt_in_channels`).

  Returns:
    What was done beyond copying, one sentence each.

  Raises:
    CheckpointError, DownloadError: as `load`.
  """
  other, checkpoint = find(name_or_path)
  loaded, values = release.read(checkpoint)
  other = other or _describe(loaded, values)
  notes = []
  new_head = other.num_classes != info.num_classes or (
      bool(other.classes) and bool(info.classes) and other.classes != info.classes
  )
  if new_head:
    notes.append(f"The classifier is new: {name_or_path} has {other.num_classes} classes of its own.")
  channels = clip_options.CHANNELS[info.stream]
  kernel = values.get(release.FIRST_KERNEL)
  if kernel is not None and kernel.ndim == 5 and kernel.shape[-2] != channels:
    values[release.FIRST_KERNEL] = inflation.adapt_in_channels(kernel, channels, rescale=rescale_first_kernel)
    scaled = f", times {kernel.shape[-2]}/{channels}" if rescale_first_kernel else ""
    notes.append(f"The first kernel is the mean of {name_or_path}'s over its {kernel.shape[-2]} inputs{scaled}.")
  release.assign(model, values, loaded.prefix, new_head=new_head)
  return notes


def find(name_or_path: str | os.PathLike) -> tuple[ModelInfo | None, str]:
  """The network's info, None if it has none, and the path or name of its checkpoint.

  Raises:
    CheckpointError: if a model.json is there and cannot be read.
  """
  path = pathlib.Path(name_or_path)
  for folder in (path, path / BEST):
    if name_or_path not in manifests.NAMES and (folder / INFO).is_file():
      content = _read_info(folder / INFO)
      checkpoint = content.pop("checkpoint")
      try:
        info = ModelInfo(**{**content, "classes": tuple(content["classes"])})
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


def _describe(loaded: release.LoadedCheckpoint, values: Mapping[str, np.ndarray]) -> ModelInfo:
  """The info of a checkpoint that comes without: one of the release, or in its layout."""
  kernel, bias = values.get(release.FIRST_KERNEL), values.get(release.HEAD_BIAS)
  missing = [name for name in (release.FIRST_KERNEL, release.HEAD_BIAS) if name not in values]
  if missing:
    raise errors.CheckpointError(f"checkpoint {loaded.prefix} is not whole: it has no {missing[0]}")
  channels = kernel.shape[-2]
  streams = [stream for stream, number in clip_options.CHANNELS.items() if number == channels]
  if not streams:
    raise errors.CheckpointError(f"checkpoint {loaded.prefix} is for clips of {channels} channels; allowed are 3 and 2")
  try:
    classes = resources.class_names(bias.size)
  except errors.I3dError:
    classes = ()
  return ModelInfo(stream=streams[0], num_classes=bias.size, classes=classes)
