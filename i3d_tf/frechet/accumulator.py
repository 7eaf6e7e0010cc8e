"""The accumulator of two sets of embedded clips, and the figures of such sets."""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import json
import os
from typing import Any

import numpy as np
import tqdm

from i3d_tf import errors
from i3d_tf import flow
from i3d_tf.frechet import arrays
from i3d_tf.frechet import clips as clips_lib
from i3d_tf.frechet import distance as distance_lib
from i3d_tf.frechet import embedding
from i3d_tf.frechet import measures as measures_lib
from i3d_tf.frechet import protocols


class FvdAccumulator:
  """Collects the embeddings of real and of generated clips and computes the distance between them.

  By default neither clips nor embeddings are kept, but their count, mean and covariance in double precision, so that
  memory does not grow. Accumulators of parts of the clips, perhaps of other machines, can be merged.
  """

  def __init__(
    self,
    checkpoint: embedding.Checkpoint | Mapping[str, embedding.Checkpoint] = protocols.CHECKPOINT,
    *,
    protocol: str | protocols.Protocol | None = None,
    batch: int = protocols.FvdConfig.batch,
    keep_features: bool = False,
    flow_config: flow.FlowConfig = protocols.FLOW,
    layout: str = protocols.FvdConfig.layout,
    value_range: str | None = protocols.FvdConfig.value_range,
    cache: str | os.PathLike | None = None,
  ):
    """Starts with no clips; the networks are loaded when the first clips come.

    Args:
      checkpoint: the RGB network, of which others than the default do not give the published FVD; or networks by
        stream, 'rgb' and 'flow', for a distance of each.
      protocol: gives the frames of a clip, the resizing and the covariance; None: those of 'tf_reference', and clips of
        any length.
      batch: clips that a network takes at once.
      keep_features: whether to keep the embeddings, which an interval and other measures need.
      flow_config: which flow is computed.
      layout: see `protocols.FvdConfig`.
      value_range: see there.
      cache: see `embedding.Embedder`.

    Raises:
      I3dError: if there is no checkpoint, or one of another stream, or an option has no such value.
    """
    own = protocol if isinstance(protocol, protocols.Protocol) else None
    named = protocol if isinstance(protocol, str) else protocols.FvdConfig.protocol
    config = protocols.FvdConfig(protocol=named, batch=batch, layout=layout, value_range=value_range)
    self.protocol = protocols.resolve(config, own)
    self._embedder = embedding.Embedder(
      checkpoint, batch=batch, flow_config=flow_config, resize_rule=self.protocol.resize, cache=cache
    )
    self._format = arrays.ClipFormat(layout, value_range, self.protocol.to_bytes)
    self._num_frames = None if protocol is None else self.protocol.num_frames
    self._sums = {
      name: {stream: distance_lib.FeatureSums(keep=keep_features) for stream in self._embedder.streams}
      for name in protocols.SETS
    }

  def update(self, clips: Any, *, real: bool) -> None:
    """Embeds clips and adds them to a set.

    Args:
      clips: `[N, T, H, W, 3]`, or N arrays `[T, H, W, 3]` of any sizes, of NumPy, TensorFlow or PyTorch; or in another
        layout. Bytes from 0 to 255, or floating point in `value_range`.
      real: whether they are real clips, or generated ones.

    Raises:
      I3dError: if an array has another type or shape, its values are out of range, T is too small or not that of the
        clips before, or the networks cannot be loaded.
    """
    found = list(self._clips(clips))
    for start in range(0, len(found), self._embedder.batch):
      batch = found[start : start + self._embedder.batch]
      self._check_frames({len(clip) for clip in batch})
      self.update_features(self._embedder.embed(batch), real=real)

  def _clips(self, clips: Any) -> Iterable[np.ndarray]:
    if len(getattr(clips, "shape", ())) == 5:
      array = clips_lib.to_numpy(clips, "clips")
      array = array.transpose(self._format.axes(array, "clips", ranks=(5,)))
      yield from (self._format.to_clip(clip, f"clips[{index}]") for index, clip in enumerate(array))
      return
    for index, clip in enumerate(clips):
      array = clips_lib.to_numpy(clip, "clips")
      yield self._format.to_clip(array.transpose(self._format.axes(array, "clips", ranks=(4,))), f"clips[{index}]")

  def update_features(self, features: Mapping[str, np.ndarray], *, real: bool) -> None:
    """Adds embeddings that were computed before to a set.

    Args:
      features: by stream `[N, D]`.
      real: whether they are of real clips, or of generated ones.

    Raises:
      I3dError: if a stream is missing, a value is not finite, or D is not that of the clips before.
    """
    if missing := [stream for stream in self._embedder.streams if stream not in features]:
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
    mine, theirs = self._embedder.streams, other._embedder.streams
    if set(mine) != set(theirs):
      raise errors.I3dError(f"the streams differ: {', '.join(mine)} and {', '.join(theirs)}")
    self._check_protocol(other.protocol.facts())
    self._embedder.check_weights(other._embedder.weights)
    if other._num_frames is not None:
      self._check_frames({other._num_frames})
    for name in protocols.SETS:
      for stream, sums in self._sums[name].items():
        sums.merge(other._sums[name][stream])

  def state(self) -> dict[str, np.ndarray]:
    """Returns everything that was collected as arrays by name, for `numpy.savez` and `from_state`."""
    state = {f"weights_{stream}": np.array(weights) for stream, weights in self._embedder.weights.items()}
    state["num_frames"] = np.array(self._num_frames or 0)
    state["protocol"] = np.array(json.dumps(self.protocol.facts()))
    for name, stream in itertools.product(protocols.SETS, self._embedder.streams):
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
    if "protocol" in state:
      accumulator._check_protocol(json.loads(str(state["protocol"])))
    accumulator._num_frames = int(state["num_frames"]) or None
    for name, stream in itertools.product(protocols.SETS, accumulator._embedder.streams):
      prefix = f"{name}_{stream}_"
      found = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
      if not found:
        raise errors.I3dError(f"the state has no statistics of {stream}; name the streams' checkpoints as before")
      accumulator._sums[name][stream] = distance_lib.FeatureSums.from_state(found)
      if f"weights_{stream}" in state:
        accumulator._embedder.check_weights({stream: str(state[f"weights_{stream}"])})
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

  def compute(
    self, *, resamples: int = 0, measures: Sequence[str] = (), seed: int = 0, progress: bool = False
  ) -> measures_lib.FvdResult:
    """Returns the distances between the two sets and what they depend on.

    Args:
      resamples: resampled sets for an interval, which needs the features; 0: no interval.
      measures: what else is measured, of `protocols.MEASURES`; it needs the features.
      seed: draws the resampled sets.
      progress: whether to show a progress bar of the resampling on stderr.

    Raises:
      I3dError: if a set has fewer than two clips, or an interval is asked for without features.
    """
    if resamples or measures:
      self.features(real=True), self.features(real=False)
    real, generated = (self._sums[name] for name in protocols.SETS)
    config = protocols.FvdConfig(resamples=resamples, measures=tuple(measures), seed=seed)
    how: dict[str, Any] = {"num_frames": self._num_frames, "progress": progress}
    return result(real, generated, self._embedder.weights, self.protocol, config, **how)

  def _check_protocol(self, facts: Mapping[str, Any]) -> None:
    mine = self.protocol.facts()  # which clips are taken is not the accumulator's choice
    for name in ("resize", "unbiased", "to_bytes"):
      if mine[name] != facts[name]:
        raise errors.I3dError(f"the protocols differ: {name} is {facts[name]}, not {mine[name]}")

  def _check_frames(self, counts: set[int]) -> None:
    known = counts if self._num_frames is None else counts | {self._num_frames}
    if len(known) > 1:
      raise errors.I3dError(
        f"clips have {' and '.join(map(str, sorted(known)))} frames; FVD compares clips of one length"
      )
    (num_frames,) = known
    embedding.check_frames(num_frames, self._embedder.streams)
    self._num_frames = num_frames


def result(
  real: Mapping[str, distance_lib.FeatureSums],
  generated: Mapping[str, distance_lib.FeatureSums],
  weights: Mapping[str, str],
  protocol: protocols.Protocol,
  config: protocols.FvdConfig,
  *,
  num_frames: int | None,
  progress: bool = False,
) -> measures_lib.FvdResult:
  """Returns the distances between two sets of embeddings, and what else the options ask for.

  Args:
    real: sums by stream, with their features if `config` asks for more than the distance.
    generated: the same.
    weights: CRC-32 by stream.
    protocol: gives the covariance.
    config: has resamples, measures and seed.
    num_frames: of a clip.
    progress: whether to show a progress bar of the resampling on stderr.

  Raises:
    I3dError: if a set has too few clips.
  """
  how: dict[str, Any] = {"seed": config.seed, "unbiased": protocol.unbiased}
  distances: dict[str, distance_lib.Distance] = {}
  intervals: dict[str, distance_lib.Interval | None] = dict.fromkeys(real)
  measured: dict[str, measures_lib.Measures] = {}
  for stream, sums in real.items():
    pair = sums, generated[stream]
    distances[stream] = distance_lib.distance(*(each.gaussian(unbiased=protocol.unbiased) for each in pair))
    features: list[Any] = [each.features for each in pair]
    if config.resamples:
      total = config.resamples
      with tqdm.tqdm(total=total, desc="interval", unit="resample", disable=not progress) as bar:
        intervals[stream] = distance_lib.bootstrap(*features, num_resamples=total, on_resample=bar.update, **how)
    if config.measures:
      measured[stream] = measures_lib.measure(*features, names=config.measures, **how)
  return measures_lib.FvdResult(
    distances=distances,
    intervals=intervals,
    measures=measured,
    clips={name: next(iter(sums.values())).count for name, sums in zip(protocols.SETS, (real, generated))},
    failed=dict.fromkeys(protocols.SETS, 0),
    weights=dict(weights),
    protocol=protocol,
    num_frames=num_frames,
    seed=config.seed,
  )


def _name(real: bool) -> str:
  return protocols.SETS[0] if real else protocols.SETS[1]
