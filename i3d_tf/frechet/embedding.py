"""The embedding of the Frechet Video Distance, of batches of clips and in a graph.

The embedding is that of google-research/frechet_video_distance: all frames resized to 224x224 by TensorFlow 1's
bilinear rule, whatever their shape, and the 400 logits, averaged over time, of the network that is released as
rgb_scratch, always in float32. For flow nothing is published; ours is the TV-L1 flow of the same resized frames.
"""

from collections.abc import Iterable, Mapping, Sequence
import os
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import flow
from i3d_tf.flow import codec
from i3d_tf.frechet import cache as cache_lib
from i3d_tf.frechet import protocols
from i3d_tf.inference import classifier
from i3d_tf.input import ops
from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import preprocess

_SIDE = 224  # pixels, of google-research/frechet_video_distance

Checkpoint: TypeAlias = str | os.PathLike


class FvdEmbedding:
  """The time-averaged logits of clips by an I3D of one stream.

  Attributes:
    stream: 'rgb' or 'flow'.
    weights: CRC-32 of the weights, which tells them from others.
    num_features: the number of logits.
  """

  def __init__(
    self,
    checkpoint: Checkpoint = protocols.CHECKPOINT,
    stream: str = "rgb",
    *,
    flow_config: flow.FlowConfig = protocols.FLOW,
    resize_rule: str = protocols.Protocol.resize,
  ):
    """Loads the network.

    Args:
      checkpoint: a released checkpoint's name or a path.
      stream: 'rgb' or 'flow'.
      flow_config: which flow is computed.
      resize_rule: 'tensorflow' or 'half_pixel', see `protocols.RESIZES`.

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
    self._resize_rule = resize_rule
    self.meaning = " ".join([self.weights, resize_rule, flow_config.flow_method if stream == "flow" else stream])
    self._apply = network.function([base.LOGITS], {stream: (_SIDE, _SIDE)})

  def prepare(self, frames: np.ndarray) -> np.ndarray:
    """Returns a clip as float32 in [-1, 1]: RGB `[T, 224, 224, 3]`, or flow `[T - 1, 224, 224, 2]`.

    Args:
      frames: uint8, or floating point from 0 to 255, `[T, H, W, 3]`.
    """
    resized = resize(frames, self._resize_rule)
    if self._estimator is None:
      return ops.scale_resized_rgb(resized).numpy()
    return codec.scale(np.stack(list(self._estimator.iterate(ops.to_bytes(resized).numpy()))))

  def __call__(self, clips: np.ndarray) -> np.ndarray:
    """Returns the logits of a batch, float32 `[B, classes]`.

    Args:
      clips: `[B, T, 224, 224, C]`, made by `prepare`.
    """
    return self._apply({self.stream: clips})[base.LOGITS].numpy()

  def logits(self, videos: tf.Tensor) -> tf.Tensor:
    """Returns the logits of RGB clips as a tensor, float32 `[B, classes]`, for `tf.function`; gradients pass through.

    Args:
      videos: `[B, T, H, W, 3]`, uint8 or floating point from 0 to 255.

    Raises:
      I3dError: if the network is one of flow, which no graph computes here.
    """
    if self._estimator is not None:
      raise errors.I3dError("logits takes RGB; the flow of a batch is computed by prepare, outside of a graph")
    videos = tf.convert_to_tensor(videos)
    shape = tf.shape(videos)
    frames = tf.reshape(videos, tf.concat([[-1], shape[2:]], axis=0))
    scaled = ops.scale_resized_rgb(resize(frames, self._resize_rule))
    return self._apply({self.stream: tf.reshape(scaled, [shape[0], shape[1], _SIDE, _SIDE, 3])})[base.LOGITS]


def resize(frames: np.ndarray | tf.Tensor, rule: str = protocols.Protocol.resize) -> tf.Tensor:
  """Returns frames resized by a rule of `protocols.RESIZES`, float32 `[T, 224, 224, C]` in their own range.

  Args:
    frames: `[T, H, W, C]`.
    rule: 'tensorflow' or 'half_pixel'.
  """
  is_half_pixel = rule == "half_pixel"
  return tf.raw_ops.ResizeBilinear(
    images=frames, size=[_SIDE, _SIDE], align_corners=False, half_pixel_centers=is_half_pixel
  )


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


class Embedder:
  """The networks of one or two streams, loaded when they are needed, and the embeddings of batches of clips.

  Attributes:
    batch: clips that a network takes at once.
    checkpoints: names or paths by stream.
    weights: CRC-32 by stream, as far as it is known.
  """

  def __init__(
    self,
    checkpoint: Checkpoint | Mapping[str, Checkpoint] = protocols.CHECKPOINT,
    *,
    batch: int = protocols.FvdConfig.batch,
    flow_config: flow.FlowConfig = protocols.FLOW,
    resize_rule: str = protocols.Protocol.resize,
    cache: str | os.PathLike | None = None,
  ):
    """Loads nothing.

    Args:
      checkpoint: the RGB network, or networks by stream, 'rgb' and 'flow'.
      batch: clips that a network takes at once.
      flow_config: which flow is computed.
      resize_rule: how frames are resized.
      cache: a file that keeps embeddings by the content of their clips; what is there is not computed again.

    Raises:
      I3dError: if there is no checkpoint, or one of another stream, or the cache cannot be used.
    """
    self.checkpoints = dict(checkpoint) if isinstance(checkpoint, Mapping) else {"rgb": checkpoint}
    if not self.checkpoints or not set(self.checkpoints) <= set(preprocess.STREAMS):
      raise errors.I3dError(f"checkpoint is of {', '.join(self.checkpoints) or 'no stream'}; give rgb, flow or both")
    self.batch, self.weights = batch, dict[str, str]()
    self._flow_config, self._resize_rule = flow_config, resize_rule
    self._cache = None if cache is None else cache_lib.EmbeddingCache(cache)
    self._embeddings: dict[str, FvdEmbedding] | None = None

  @property
  def streams(self) -> tuple[str, ...]:
    """'rgb', 'flow' or both."""
    return tuple(self.checkpoints)

  @property
  def embeddings(self) -> dict[str, FvdEmbedding]:
    """The networks by stream; I3dError if they cannot be loaded or are not those of the clips before."""
    if self._embeddings is None:
      how: dict[str, Any] = {"flow_config": self._flow_config, "resize_rule": self._resize_rule}
      found = {stream: FvdEmbedding(path, stream, **how) for stream, path in self.checkpoints.items()}
      self.check_weights({stream: embedding.weights for stream, embedding in found.items()})
      self._embeddings = found
    return self._embeddings

  def embed(self, clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the embeddings of a batch by stream, float32 `[B, D]`.

    Args:
      clips: uint8 or float32 from 0 to 255, `[T, H, W, 3]` of one T.

    Raises:
      I3dError: if the networks cannot be loaded or the cache cannot be used.
    """
    return {stream: self._embed(network, clips) for stream, network in self.embeddings.items()}

  def _embed(self, network: FvdEmbedding, clips: Sequence[np.ndarray]) -> np.ndarray:
    if self._cache is None:
      return network(np.stack([network.prepare(clip) for clip in clips]))
    # A batch is taken from the cache as a whole, since the last digits of an embedding depend on its batch.
    keys = [cache_lib.key(clip, network.meaning) for clip in clips]
    found = self._cache.get(keys)
    if found is None:
      found = network(np.stack([network.prepare(clip) for clip in clips]))
      self._cache.put(keys, found)
    return found

  def check_weights(self, weights: Mapping[str, str]) -> None:
    """Notes the weights by which clips were embedded.

    Args:
      weights: CRC-32 by stream.

    Raises:
      I3dError: if others are known.
    """
    for stream, value in weights.items():
      if self.weights.setdefault(stream, value) != value:
        raise errors.I3dError(
          f"the clips of {stream} were embedded by other weights: CRC-32 {self.weights[stream]}, not {value}"
        )
