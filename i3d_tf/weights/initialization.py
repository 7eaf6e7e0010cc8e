"""Starting a network from another's weights: in training, or in a folder with an Inception-v1 inflated to I3D."""

from collections.abc import Mapping
import dataclasses
import os

import numpy as np

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import inflation
from i3d_tf.models import preprocess
from i3d_tf.models import zoo
from i3d_tf.weights import release
from i3d_tf.weights import saved

_SOURCE = "inception_v1"  # the network that can be inflated, by its name in the zoo


@dataclasses.dataclass(frozen=True)
class InflatedNetwork:
  """What `write_inflated` has written: the stream, and how many variables and values."""

  stream: str
  num_variables: int
  num_values: int


def write_inflated(
  name_or_path: str | os.PathLike, folder: str | os.PathLike, config: inflation.InflationConfig
) -> InflatedNetwork:
  """Inflates a network and writes it, without a classifier, to a folder that appears when it is complete.

  Args:
    name_or_path: An Inception-v1: the name 'inception_v1', a checkpoint in TF-slim's layout, or a run of train.
    folder: A new or empty folder.
    config: How to inflate.

  Returns:
    What was written.

  Raises:
    I3dError: If the folder holds something, the network is another one, or an option is of no use for it.
    CheckpointError: If the network cannot be read.
    DownloadError: If the network cannot be fetched.
    OSError: If the folder cannot be written.
  """
  with workdir.new_folder(folder) as staging:
    values, info = saved.read(name_or_path)
    if info.model != _SOURCE:
      raise errors.I3dError(f"{name_or_path} is a network {info.model}; only {_SOURCE} can be inflated")
    inflated = inflation.inflate(values, mode=config.mode)
    stream = config.stream or info.stream
    kernel, channels = inflated[release.FIRST_KERNEL], preprocess.CHANNELS[stream]
    if kernel.shape[-2] != channels:
      rescale = config.rescale_first_kernel
      inflated[release.FIRST_KERNEL] = inflation.adapt_in_channels(kernel, channels, rescale=rescale)
    elif config.rescale_first_kernel:
      raise errors.I3dError(
        f"rescale_first_kernel is for other channels, but {name_or_path} has the {channels} of {stream} already"
      )
    new = saved.ModelInfo(
      stream=stream,
      num_classes=0,
      width_multiplier=info.width_multiplier,
      average_space=info.average_space,
      preprocess=preprocess.Preprocess(short_side=info.preprocess.short_side, crop=info.preprocess.crop),
      dataset=info.dataset,
    )
    saved.save_values(staging, inflated, new)
  return InflatedNetwork(stream, len(inflated), sum(value.size for value in inflated.values()))


def write_for_flow(name_or_path: str | os.PathLike, folder: str | os.PathLike, *, flow_method: str = "") -> None:
  """Writes a network of RGB as one of flow, to a folder that appears when it is complete.

  Its first kernel is the mean over the inputs, see `inflation.adapt_in_channels`; all else stays, batch norm, too.

  Args:
    name_or_path: The network of RGB, as `saved.read` takes it.
    folder: A new or empty folder.
    flow_method: Optical flow that it is to be given, see `flow.FlowConfig.flow_method`.

  Raises:
    I3dError: If the folder holds something, or the network takes no flow.
    CheckpointError: If the network cannot be read.
    DownloadError: If the network cannot be fetched.
    OSError: If the folder cannot be written.
  """
  values, info = saved.read(name_or_path)
  saved.check_stream(info, name_or_path, "rgb")
  zoo.check_stream(info.model, "flow")
  new = dataclasses.replace(info, stream="flow", flow_method=flow_method)
  values = {name.replace("rgb/", "flow/", 1): value for name, value in values.items()}
  for name, kernel in saved.first_kernels(values, info.model).items():
    values[name] = inflation.adapt_in_channels(kernel, new.channels["flow"])
  with workdir.new_folder(folder) as staging:
    saved.save_values(staging, values, new)


def initialize(
  model: base.Network,
  info: saved.ModelInfo,
  name_or_path: str | os.PathLike,
  *,
  rescale_first_kernel: bool = False,
) -> list[str]:
  """Returns a sentence for all that was done beyond copying to start a network from another's weights.

  The classifier stays new when the classes differ, and a flow network takes the mean of an RGB network's first kernel
  over its inputs (see `inflation.adapt_in_channels`). A network that holds a network of images, or is it inflated,
  starts from that, too, and the rest of it stays new.

  Args:
    model: The network, built.
    info: What it is.
    name_or_path: The other's checkpoint, as `saved.read` takes it.
    rescale_first_kernel: Whether a first kernel that is averaged keeps the response to inputs that are equal in all
      channels.

  Raises:
    CheckpointError: If the other cannot be read, or the network cannot start from it.
    DownloadError: If the other cannot be fetched.
  """
  values, other = saved.read(name_or_path)
  notes = []
  entry = zoo.get(info.model)
  is_part = other.model != info.model and other.model == entry.base and entry.trunk is not None
  if is_part:
    values = _place_trunk(values, entry.trunk or "", info, model)
    how = ", inflated" if any(value.ndim == 5 and len(value) > 1 for value in values.values()) else ""
    notes.append(f"The trunk is that of {name_or_path}, a network {other.model}{how}; the rest is new.")
    new_head = True
  elif not zoo.differ_in_clips_only(other.model, info.model) or len(other.streams) != len(info.streams):
    raise errors.CheckpointError(
      f"{name_or_path} is a network {other.model} of stream {other.stream}; {info.model} of stream {info.stream} "
      "cannot start from it"
    )
  else:
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


def _place_trunk(
  values: Mapping[str, np.ndarray], trunk: str, info: saved.ModelInfo, model: base.Network
) -> dict[str, np.ndarray]:
  """The variables of a network of images under the names that they have in another network, inflated to that."""
  if isinstance(model, inception.Inception):
    return inflation.inflate(values, model.architecture)
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
  info: saved.ModelInfo,
  values: dict[str, np.ndarray],
  name_or_path: str | os.PathLike,
  *,
  rescale: bool,
) -> list[str]:
  """Makes the kernels that see the clip fit its channels; returns what was done."""
  notes, variables = [], release.named_variables(model)
  for name, kernel in saved.first_kernels(values, info.model).items():
    channels = variables[name].shape[-2] if name in variables else kernel.shape[-2]
    if kernel.shape[-2] != channels:
      values[name] = inflation.adapt_in_channels(kernel, channels, rescale=rescale)
      scaled = f", times {kernel.shape[-2]}/{channels}" if rescale else ""
      notes.append(f"The first kernel is the mean of {name_or_path}'s over its {kernel.shape[-2]} inputs{scaled}.")
  return notes
