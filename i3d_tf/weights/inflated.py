"""A network folder with I3D's weights inflated from those of Inception-v1, for training to start from."""

import dataclasses
import os

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.input import clip_config
from i3d_tf.models import inflation
from i3d_tf.models import preprocess
from i3d_tf.weights import release
from i3d_tf.weights import saved

_SOURCE = "inception_v1"  # the network that can be inflated, by its name in the zoo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inflation:
  """How to inflate.

  Attributes:
    stream: of the new network, 'rgb' or 'flow'; None: that of the old one. If the old one sees other channels, the
      first kernel is its mean over them, see `inflation.adapt_in_channels`.
    mode: see `inflation.inflate_kernel`.
    rescale_first_kernel: keep the response to inputs that are equal in all channels.
  """

  stream: str | None = None
  mode: str = "mean"
  rescale_first_kernel: bool = False


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write` has written."""

  stream: str
  num_variables: int
  num_values: int


def write(name_or_path: str, folder: str | os.PathLike, options: Inflation) -> Written:
  """Inflates a network and writes it, without a classifier, to a folder that appears when it is complete.

  Args:
    name_or_path: an Inception-v1: the name 'inception_v1', a checkpoint in TF-slim's layout, or a run of train.
    folder: a new or empty one.
    options: how.

  Raises:
    I3dError: if the folder holds something, the network is another one, or an option is of no use for it.
    CheckpointError, DownloadError: as `saved.read`.
    OSError: if the folder cannot be written.
  """
  with workdir.new_folder(folder) as staging:
    values, info = saved.read(name_or_path)
    if info.model != _SOURCE:
      raise errors.I3dError(f"{name_or_path} is a network {info.model}; only {_SOURCE} can be inflated")
    inflated = inflation.inflate(values, mode=options.mode)
    stream = options.stream or info.stream
    kernel, channels = inflated[release.FIRST_KERNEL], clip_config.CHANNELS[stream]
    if kernel.shape[-2] != channels:
      rescale = options.rescale_first_kernel
      inflated[release.FIRST_KERNEL] = inflation.adapt_in_channels(kernel, channels, rescale=rescale)
    elif options.rescale_first_kernel:
      raise errors.I3dError(
        f"--rescale_first_kernel is for other channels, but {name_or_path} has the {channels} of {stream} already"
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
  return Written(stream, len(inflated), sum(value.size for value in inflated.values()))
