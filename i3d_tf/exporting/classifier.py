"""What is exported: a trained network, or two of different streams whose logits are added, and the clips they take."""

from collections.abc import Mapping, Sequence
import os

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import base
from i3d_tf.models import units
from i3d_tf.weights import saved

Clips = Mapping[str, tf.Tensor]
Specs = Mapping[str, tf.TensorSpec]


class Classifier:
  """Trained networks at inference, called with clips by stream.

  Attributes:
    models, infos: the networks, one or two, and what they are.
    streams: of its clips.
    num_classes, classes: how many, and their names, none if they are not known.
  """

  def __init__(self, checkpoints: Sequence[str | os.PathLike], *, average_space: bool = False):
    """Loads the networks.

    Args:
      checkpoints: one, or two of different streams and the same classes, each as `saved.load` takes it.
      average_space: see `saved.load`.

    Raises:
      I3dError: if they do not go together.
      CheckpointError, DownloadError: as `saved.load`.
    """
    loaded = [saved.load(checkpoint, average_space=average_space) for checkpoint in checkpoints]
    self.models = [model for model, _ in loaded]
    self.infos = [info for _, info in loaded]
    _check_streams(checkpoints, self.infos)
    _check_classes(checkpoints, self.infos)
    self.streams = tuple(stream for info in self.infos for stream in info.streams)
    self.num_classes = self.infos[0].num_classes
    self.classes = next((info.classes for info in self.infos if info.classes), ())

  @property
  def variables(self) -> list[tf.Variable]:
    return [variable for model in self.models for variable in model.variables]

  @property
  def trainable_variables(self) -> list[tf.Variable]:
    return [variable for model in self.models for variable in model.trainable_variables]

  def fold_batch_norm(self) -> None:
    """Puts all batch norms that follow a convolution into kernels and biases; the networks then are for inference only.

    Those within a ConvNet+LSTM's LSTM stay.
    """
    for model in self.models:
      for module in model.submodules:
        if isinstance(module, units.Unit3D):
          module.fold_batch_norm()

  def __call__(self, clips: Clips) -> dict[str, tf.Tensor]:
    """All endpoints, 'Logits' among them; those of two networks behind 'rgb/' and 'flow/'.

    Args:
      clips: `[B, T, H, W, C]` by stream.
    """
    results = [
      model(base.clip_of(clips, info.streams), is_training=False) for model, info in zip(self.models, self.infos)
    ]
    if len(results) == 1:
      logits, endpoints = results[0]
      return {**endpoints, base.LOGITS: logits}
    named = {
      f"{stream}/{name}": value
      for stream, (_, endpoints) in zip(self.streams, results, strict=True)
      for name, value in endpoints.items()
    }
    # As the release joins its streams (google-deepmind/kinetics-i3d, evaluate_sample.py).
    return {**named, base.LOGITS: tf.add_n([logits for logits, _ in results])}

  def specs(self, *, num_frames: int | None = None, size: int | None = None, batch: int | None = None) -> Specs:
    """The clips that it takes, by stream: as many of their axes open as the networks allow.

    Args:
      num_frames, size: the number of frames, and height and width; None: open, or what the network takes.
      batch: clips at once; None: open.

    Raises:
      I3dError: if a network does not take so many frames, or that size.
    """
    return {
      stream: tf.TensorSpec([batch, *shape], tf.float32, name=stream)
      for model, info in zip(self.models, self.infos, strict=True)
      for stream, shape in _clip_shapes(model, info, num_frames, size).items()
    }

  def least_frames(self, stream: str) -> int:
    """The fewest frames that the network of a stream takes."""
    index = next(index for index, info in enumerate(self.infos) if stream in info.streams)
    model, info = self.models[index], self.infos[index]
    clip = info.preprocess
    return next((n for n in range(1, clip.num_frames) if _takes(model, info, n, clip.crop)), clip.num_frames)


def _check_streams(checkpoints: Sequence[str | os.PathLike], infos: Sequence[saved.ModelInfo]) -> None:
  streams = [info.stream for info in infos]
  if len(streams) > 1 and sorted(streams) != ["flow", "rgb"]:
    given = " and ".join(f"{checkpoint} of {stream}" for checkpoint, stream in zip(checkpoints, streams))
    raise errors.I3dError(f"{given}: to be joined there must be one network of rgb and one of flow")


def _check_classes(checkpoints: Sequence[str | os.PathLike], infos: Sequence[saved.ModelInfo]) -> None:
  first, last = infos[0], infos[-1]
  if first.num_classes != last.num_classes:
    given = f"{first.num_classes} classes and {last.num_classes}"
  elif first.classes and last.classes and first.classes != last.classes:
    given = "classes of other names or in another order"
  else:
    return
  raise errors.I3dError(f"{' and '.join(map(str, checkpoints))} have {given}; their logits cannot be added")


def _clip_shapes(
  model: base.Network, info: saved.ModelInfo, num_frames: int | None, size: int | None
) -> dict[str, list[int | None]]:
  """[frames, height, width, channels] by stream."""
  clip = info.preprocess
  given = (num_frames or clip.num_frames, size or clip.crop)
  problem = _problem(model, info, *given)
  if problem is not None:
    raise errors.I3dError(f"clips of {given[0]} frames of {given[1]}x{given[1]} do not fit {info.model}: {problem}")
  if num_frames is None and not _takes(model, info, 2 * info.preprocess.num_frames, given[1]):
    num_frames = info.preprocess.num_frames
  if size is None and not all(_takes(model, info, given[0], side) for side in (clip.crop // 2, 2 * clip.crop)):
    size = info.preprocess.crop
  return {stream: [num_frames, size, size, channels] for stream, channels in info.channels.items()}


def _takes(model: base.Network, info: saved.ModelInfo, num_frames: int, size: int) -> bool:
  return _problem(model, info, num_frames, size) is None


def _problem(model: base.Network, info: saved.ModelInfo, num_frames: int, size: int) -> str | None:
  """Why a network does not take such clips; None if it does."""
  specs = {
    stream: tf.TensorSpec([1, num_frames, size, size, channels], tf.float32)
    for stream, channels in info.channels.items()
  }
  try:
    model.check(base.clip_of(specs, info.streams))
  except ValueError as error:
    return str(error)
  return None
