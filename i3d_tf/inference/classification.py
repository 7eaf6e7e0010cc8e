"""Classifying whole clips with one stream or two."""

from collections.abc import Callable, Sequence
import dataclasses
import os
import zipfile

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.input import ops
from i3d_tf.models import inception
from i3d_tf.video import decode
from i3d_tf.weights import saved

MAX_FRAMES = 250  # ten seconds at 25 frames per second, the length of a Kinetics clip


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One class of a ranking."""

  label: str
  index: int
  logit: float
  probability: float


class StreamClassifier:
  """A network with a checkpoint's weights; gives the time-averaged logits of a clip."""

  def __init__(self, checkpoint: str | os.PathLike):
    """Loads it; I3dError, beside what `saved.load` raises, for a network that is not tested by one pass over a clip."""
    self.model, self.info = saved.load(checkpoint)
    if self.info.model != "i3d":
      raise errors.I3dError(
        f"{checkpoint} is a network {self.info.model}; only i3d classifies videos in one pass, for others make "
        "records with prepare_dataset and use evaluate"
      )
    side = self.info.preprocess.crop
    signature = tf.TensorSpec([1, None, side, side, self.model.in_channels], tf.float32)
    self._apply = tf.function(lambda clip: self.model(clip)[0], input_signature=[signature])

  def logits(self, clip: np.ndarray) -> np.ndarray:
    """The logits `[classes]` of a clip `[T, crop, crop, C]`, float32 in [-1, 1], in one pass.

    Raises:
      I3dError: if the clip does not fit the network.
    """
    wanted = (self.info.preprocess.crop, self.info.preprocess.crop, self.model.in_channels)
    if clip.ndim != 4 or clip.shape[1:] != wanted:
      sizes = ", ".join(map(str, wanted))
      raise errors.I3dError(f"the clip has shape {clip.shape}; this network takes [frames, {sizes}]")
    if len(clip) < inception.MIN_FRAMES:
      raise errors.I3dError(f"the clip has {len(clip)} frames; the network needs at least {inception.MIN_FRAMES}")
    logits = self._apply(clip[np.newaxis]).numpy()[0]
    if not np.isfinite(logits).all():
      raise errors.I3dError("the network's logits are not finite; check the values of the clip and of the checkpoint")
    return logits


def read_video_clips(
  path: str | os.PathLike,
  streams: Sequence[str] = ("rgb",),
  *,
  max_frames: int = MAX_FRAMES,
  short_side: int = decode.SHORT_SIDE,
  crop: int = ops.CROP,
  threads: int | None = None,
  on_flow: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
  """The networks' inputs from a video: 25 fps, resized to a short side, centre crop.

  Args:
    path: a video.
    streams: 'rgb' `[T, crop, crop, 3]`, values in [-1, 1]; 'flow' `[T - 1, crop, crop, 2]`, TV-L1 flow of the whole
      frames, cut off at +-20 pixels per frame and scaled to [-1, 1], in full precision.
    max_frames: use so many frames, or flows, from the video's start.
    short_side, crop: pixels.
    threads: for flow; None: one a core.
    on_flow: called with (flows done, flows in all) after each flow.

  Raises:
    VideoError: if the video cannot be read, or is too short for a network.
  """
  has_flow = "flow" in streams
  frames = decode.read_video(path, max_frames=max_frames + has_flow, short_side=short_side)
  check_length(path, len(frames), has_flow=has_flow)
  clips = {}
  if "rgb" in streams:
    clips["rgb"] = ops.scale_rgb(ops.center_crop(frames[:max_frames], crop)).numpy()
  if has_flow:
    clips["flow"] = codec.scale(ops.center_crop(tvl1.tvl1_flow(frames, threads=threads, on_pair=on_flow), crop))
  return clips


def check_together(infos: Sequence[saved.ModelInfo]) -> saved.ModelInfo:
  """The first of some networks' infos; I3dError if their logits cannot be added, or their clips are cut differently."""
  for name in ("num_classes", "classes", "short_side", "crop"):
    values = [info.get(name) for info in infos]
    if len(set(values)) > 1:
      given = " and ".join(map(str, values))
      raise errors.I3dError(f"the checkpoints do not go together: {name} is {given}")
  return infos[0]


def class_names(info: saved.ModelInfo) -> tuple[str, ...]:
  """A network's classes in index order; numbers if it does not know their names."""
  return info.classes or tuple(f"class {index}" for index in range(info.num_classes))


def check_length(path: str | os.PathLike, num_frames: int, *, has_flow: bool) -> None:
  """Raises VideoError if a video has too few frames for a network, of which flow needs one more."""
  least = inception.MIN_FRAMES + has_flow
  if num_frames < least:
    raise errors.VideoError(
      f"{path}: the video has {num_frames} frames at {decode.FRAME_RATE:g} frames per second; "
      f"the network needs at least {least}"
    )


def read_npy_clip(path: str | os.PathLike) -> np.ndarray:
  """A clip `[T, H, W, C]` in [-1, 1] from a .npy file of the release's sample, `[1, T, H, W, C]`.

  Raises:
    I3dError: if the file is no such array.
  """
  try:
    clip = np.load(path, allow_pickle=False)
  except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
    raise errors.I3dError(f"{path}: this is not an array in NumPy's .npy format: {error}") from None
  if not isinstance(clip, np.ndarray):
    clip.close()
    raise errors.I3dError(f"{path}: this is an .npz archive; give one array in NumPy's .npy format")
  if clip.ndim != 5 or clip.shape[0] != 1:
    raise errors.I3dError(f"{path}: the array has shape {clip.shape}; it must be [1, frames, height, width, channels]")
  # Written so that NaN fails, too.
  if not np.issubdtype(clip.dtype, np.floating) or not np.abs(clip).max(initial=0) <= 1 + 1e-6:
    raise errors.I3dError(f"{path}: the values must be floating point in [-1, 1]")
  return clip[0].astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
  """Probabilities of logits `[classes]`, in double precision."""
  exponentials = np.exp(logits.astype(np.float64) - logits.max())
  return exponentials / exponentials.sum()


def rank(logits: np.ndarray, class_names: Sequence[str], top_k: int) -> list[Prediction]:
  """The `top_k` best classes, best first."""
  probabilities = softmax(logits)
  best = np.argsort(-logits, kind="stable")[:top_k]
  return [Prediction(class_names[i], int(i), float(logits[i]), float(probabilities[i])) for i in best]
