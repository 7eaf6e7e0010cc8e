"""The embedding of the Frechet Video Distance, and the accumulator of two sets of embedded clips.

The embedding is that of google-research/frechet_video_distance: all frames resized to 224x224 by TensorFlow 1's
bilinear rule, whatever their shape, and the 400 logits, averaged over time, of the network that is released as
rgb_scratch. For flow nothing is published; ours is the TV-L1 flow of the same resized frames.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
import itertools
import os
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tqdm

from i3d_tf import errors
from i3d_tf import flow
from i3d_tf.flow import codec
from i3d_tf.frechet import distance as distance_lib
from i3d_tf.inference import classifier
from i3d_tf.input import ops
from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import preprocess

SETS = ("real", "generated")
_SIDE = 224  # pixels, of google-research/frechet_video_distance

Checkpoint: TypeAlias = str | os.PathLike


class Embedding:
  """The time-averaged logits of clips by an I3D of one stream.

  Attributes:
    stream: 'rgb' or 'flow'.
    weights: CRC-32 of the weights, which tells them from others.
    num_features: the number of logits.
  """

  def __init__(self, checkpoint: Checkpoint, stream: str = "rgb", *, flow_config: flow.FlowConfig = distance_lib.FLOW):
    """Loads the network.

    Args:
      checkpoint: a released checkpoint's name or a path.
      stream: 'rgb' or 'flow'.
      flow_config: which flow is computed.

    Raises:
      I3dError: if the checkpoint cannot be loaded, or is not an I3D of that stream.
    """
    (network,) = classifier.Classifier(checkpoint).networks.values()
    if network.info.model != "i3d" or network.info.stream != stream:
      raise errors.I3dError(
        f"{checkpoint} is a network {network.info.model} of stream {network.info.stream}; "
        f"FVD needs an i3d of stream {stream}"
      )
    self._estimator = flow_config.flow_estimator() if stream == "flow" else None
    classifier.warn_of_flow(network.info, checkpoint, flow_config.flow_method)
    self.stream, self.weights, self.num_features = stream, network.weights, network.info.num_classes
    self._apply = network.function([base.LOGITS], {stream: (_SIDE, _SIDE)})

  def prepare(self, frames: np.ndarray) -> np.ndarray:
    """Returns a clip as float32 in [-1, 1]: RGB `[T, 224, 224, 3]`, or flow `[T - 1, 224, 224, 2]`.

    Args:
      frames: uint8 `[T, H, W, 3]`.
    """
    resized = resize(frames)
    if self._estimator is None:
      return ops.scale_resized_rgb(resized).numpy()
    return codec.scale(np.stack(list(self._estimator.iterate(ops.to_bytes(resized).numpy()))))

  def __call__(self, clips: np.ndarray) -> np.ndarray:
    """Returns the logits of a batch, float32 `[B, classes]`.

    Args:
      clips: `[B, T, 224, 224, C]`, made by `prepare`.
    """
    return self._apply({self.stream: clips})[base.LOGITS].numpy()


def resize(frames: np.ndarray) -> tf.Tensor:
  """Returns frames resized by the rule of `distance.RESIZE`, float32 `[T, 224, 224, C]` in their own range.

  Args:
    frames: `[T, H, W, C]`.
  """
  return tf.raw_ops.ResizeBilinear(images=frames, size=[_SIDE, _SIDE], align_corners=False, half_pixel_centers=False)


def check_array(array: Any, where: str, *, ranks: Collection[int] = (4, 5)) -> None:
  """Checks that an array holds frames.

  Args:
    array: anything.
    where: names it in the message.
    ranks: 4 if it may be one clip, 5 if it may be several.

  Raises:
    I3dError: if it is not uint8 `[T, H, W, 3]` or `[N, T, H, W, 3]`.
  """
  is_array = isinstance(array, np.ndarray)
  if is_array and array.ndim in ranks and array.shape[-1] == 3 and array.dtype == np.uint8:
    return
  given = f"the array is {array.dtype} {list(array.shape)}" if is_array else f"this is of type {type(array).__name__}"
  shapes = {4: "[frames, height, width, 3]", 5: "[videos, frames, height, width, 3]"}
  allowed = " or ".join(shapes[rank] for rank in sorted(ranks))
  raise errors.I3dError(f"{where}: {given}; it must be uint8, 0 to 255, {allowed}")


def check_frames(num_frames: int, streams: Iterable[str]) -> None:
  """Checks that clips are long enough for the networks.

  Args:
    num_frames: of a clip.
    streams: 'rgb', or 'flow', which needs one frame more.

  Raises:
    I3dError: if they are too short.
  """
  for stream in streams:
    least = inception.MIN_FRAMES + (stream == "flow")
    if num_frames < least:
      raise errors.I3dError(f"num_frames is {num_frames}; clips for {stream} need at least {least}")


class FvdAccumulator:
  """Collects the embeddings of real and of generated clips and computes the distance between them.

  By default neither clips nor embeddings are kept, but their count, mean and covariance in double precision, so that
  memory does not grow. Accumulators of parts of the clips, perhaps of other machines, can be merged.
  """

  def __init__(
    self,
    checkpoint: Checkpoint | Mapping[str, Checkpoint] = distance_lib.CHECKPOINT,
    *,
    batch: int = distance_lib.FvdConfig.batch,
    keep_features: bool = False,
    flow_config: flow.FlowConfig = distance_lib.FLOW,
  ):
    """Starts with no clips; the networks are loaded when the first clips come.

    Args:
      checkpoint: the RGB network, of which others than the default do not give the published FVD; or networks by
        stream, 'rgb' and 'flow', for a distance of each.
      batch: clips that a network takes at once.
      keep_features: whether to keep the embeddings, which an interval needs.
      flow_config: which flow is computed.

    Raises:
      I3dError: if there is no checkpoint, or one of another stream.
    """
    self._checkpoints = dict(checkpoint) if isinstance(checkpoint, Mapping) else {"rgb": checkpoint}
    if not self._checkpoints or not set(self._checkpoints) <= set(preprocess.STREAMS):
      raise errors.I3dError(f"checkpoint is of {', '.join(self._checkpoints) or 'no stream'}; give rgb, flow or both")
    self._batch = batch
    self._flow_config = flow_config
    self._embeddings: dict[str, Embedding] | None = None
    self._num_frames: int | None = None
    self._weights: dict[str, str] = {}
    self._sums = {
      name: {stream: distance_lib.FeatureSums(keep=keep_features) for stream in self._checkpoints} for name in SETS
    }

  @property
  def streams(self) -> tuple[str, ...]:
    """'rgb', 'flow' or both."""
    return tuple(self._checkpoints)

  @property
  def embeddings(self) -> dict[str, Embedding]:
    """The networks by stream; I3dError if they cannot be loaded or are not those of the clips before."""
    if self._embeddings is None:
      found = {
        stream: Embedding(path, stream, flow_config=self._flow_config) for stream, path in self._checkpoints.items()
      }
      self._check_weights({stream: embedding.weights for stream, embedding in found.items()})
      self._embeddings = found
    return self._embeddings

  def update(self, clips: np.ndarray | Sequence[np.ndarray], *, real: bool) -> None:
    """Embeds clips and adds them to a set.

    Args:
      clips: uint8 `[N, T, H, W, 3]`, 0 to 255, RGB; or N arrays `[T, H, W, 3]` of any sizes.
      real: whether they are real clips, or generated ones.

    Raises:
      I3dError: if an array has another type or shape, T is too small or not that of the clips before, or the networks
        cannot be loaded.
    """
    for clip in clips:
      check_array(clip, "clips", ranks=(4,))
    for start in range(0, len(clips), self._batch):
      batch = clips[start : start + self._batch]
      self._check_frames({len(clip) for clip in batch})
      features = {s: each(np.stack([each.prepare(clip) for clip in batch])) for s, each in self.embeddings.items()}
      self.update_features(features, real=real)

  def update_features(self, features: Mapping[str, np.ndarray], *, real: bool) -> None:
    """Adds embeddings that were computed before to a set.

    Args:
      features: by stream `[N, D]`.
      real: whether they are of real clips, or of generated ones.

    Raises:
      I3dError: if a stream is missing, a value is not finite, or D is not that of the clips before.
    """
    if missing := [stream for stream in self._checkpoints if stream not in features]:
      raise errors.I3dError(f"there are no features of {missing[0]}")
    for stream, sums in self._sums[_name(real)].items():
      sums.update(features[stream])

  def merge(self, other: "FvdAccumulator") -> None:
    """Adds the clips of another accumulator.

    Args:
      other: what to add; it is not changed.

    Raises:
      I3dError: if it is of other streams, weights or numbers of frames, or does not keep features as this one does.
    """
    if set(other._checkpoints) != set(self._checkpoints):
      raise errors.I3dError(f"the streams differ: {', '.join(self._checkpoints)} and {', '.join(other._checkpoints)}")
    self._check_weights(other._weights)
    if other._num_frames is not None:
      self._check_frames({other._num_frames})
    for name in SETS:
      for stream, sums in self._sums[name].items():
        sums.merge(other._sums[name][stream])

  def state(self) -> dict[str, np.ndarray]:
    """Returns everything that was collected as arrays by name, for `numpy.savez` and `from_state`."""
    state = {f"weights_{stream}": np.array(weights) for stream, weights in self._weights.items()}
    state["num_frames"] = np.array(self._num_frames or 0)
    for name, stream in itertools.product(SETS, self._checkpoints):
      state |= {f"{name}_{stream}_{key}": value for key, value in self._sums[name][stream].state().items()}
    return state

  @classmethod
  def from_state(cls, state: Mapping[str, np.ndarray], **options: Any) -> "FvdAccumulator":
    """Returns an accumulator equal to that of which `state` was called.

    Args:
      state: arrays by name.
      **options: arguments of the constructor, which must name networks of the same weights if more clips are to come.

    Raises:
      I3dError: if the state is not of the streams of `options`.
    """
    accumulator = cls(**options)
    accumulator._num_frames = int(state["num_frames"]) or None
    for name, stream in itertools.product(SETS, accumulator._checkpoints):
      prefix = f"{name}_{stream}_"
      arrays = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
      if not arrays:
        raise errors.I3dError(f"the state has no statistics of {stream}; name the streams' checkpoints as before")
      accumulator._sums[name][stream] = distance_lib.FeatureSums.from_state(arrays)
      if f"weights_{stream}" in state:
        accumulator._weights[stream] = str(state[f"weights_{stream}"])
    return accumulator

  def features(self, *, real: bool) -> dict[str, np.ndarray]:
    """Returns the embeddings of a set, by stream float32 `[N, D]`.

    Args:
      real: whether of the real clips, or of the generated ones.

    Raises:
      I3dError: if they were not kept, or there are none.
    """
    found = {stream: sums.features for stream, sums in self._sums[_name(real)].items()}
    kept = {stream: features for stream, features in found.items() if features is not None}
    if len(kept) < len(found):
      raise errors.I3dError(f"there are no features of {_name(real)} clips; they are kept only with keep_features")
    return kept

  def compute(self, *, resamples: int = 0, seed: int = 0, progress: bool = False) -> distance_lib.FvdResult:
    """Returns the distances between the two sets and what they depend on.

    Args:
      resamples: resampled sets for an interval, which needs the features; 0: no interval.
      seed: draws the resampled sets.
      progress: whether to show a progress bar of the resampling on stderr.

    Raises:
      I3dError: if a set has fewer than two clips, or an interval is asked for without features.
    """
    gaussians = {stream: [self._sums[name][stream].gaussian() for name in SETS] for stream in self._checkpoints}
    intervals: dict[str, distance_lib.Interval | None] = dict.fromkeys(self._checkpoints)
    if resamples:
      real, generated = self.features(real=True), self.features(real=False)
      for stream in self._checkpoints:
        with tqdm.tqdm(total=resamples, desc="interval", unit="resample", disable=not progress) as bar:
          intervals[stream] = distance_lib.bootstrap(
            real[stream], generated[stream], num_resamples=resamples, seed=seed, on_resample=bar.update
          )
    return distance_lib.FvdResult(
      distances={stream: distance_lib.distance(*pair) for stream, pair in gaussians.items()},
      intervals=intervals,
      clips={name: next(iter(self._sums[name].values())).count for name in SETS},
      failed=dict.fromkeys(SETS, 0),
      weights=dict(self._weights),
      num_frames=self._num_frames,
      seed=seed,
    )

  def _check_weights(self, weights: Mapping[str, str]) -> None:
    for stream, value in weights.items():
      if self._weights.setdefault(stream, value) != value:
        raise errors.I3dError(
          f"the clips of {stream} were embedded by other weights: CRC-32 {self._weights[stream]}, not {value}"
        )

  def _check_frames(self, counts: set[int]) -> None:
    known = counts if self._num_frames is None else counts | {self._num_frames}
    if len(known) > 1:
      raise errors.I3dError(
        f"clips have {' and '.join(map(str, sorted(known)))} frames; FVD compares clips of one length"
      )
    (num_frames,) = known
    check_frames(num_frames, self._checkpoints)
    self._num_frames = num_frames


def _name(real: bool) -> str:
  return SETS[0] if real else SETS[1]
