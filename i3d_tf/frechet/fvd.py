"""Frechet Video Distance (Unterthiner et al., "Towards Accurate Generative Models of Video", arXiv 1812.01717).

The distance between sets of videos, by a protocol that says which clips are taken of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import logging
import os
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import flow as flow_lib
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf import workers
from i3d_tf.frechet import accumulator
from i3d_tf.frechet import arrays
from i3d_tf.frechet import clips as clips_lib
from i3d_tf.frechet import distance
from i3d_tf.frechet import distribution
from i3d_tf.frechet import embedding
from i3d_tf.frechet import measures
from i3d_tf.frechet import protocols

_REAL, _GENERATED = protocols.SETS
_STATISTICS_SUFFIX = ".npz"
_BATCHES_AHEAD = 2  # that are decoded while the network works
_log = logging.getLogger(__name__)
_Sums = dict[str, distance.FeatureSums]


def fvd(
  real: clips_lib.Videos,
  generated: clips_lib.Videos | None,
  *,
  protocol: str | os.PathLike | protocols.Protocol = protocols.FvdConfig.protocol,
  checkpoint: embedding.Checkpoint | Mapping[str, embedding.Checkpoint] = protocols.CHECKPOINT,
  save_stats: str | os.PathLike | None = None,
  cache: str | os.PathLike | None = None,
  progress: bool = False,
  on_failure: Callable[[str], None] = lambda message: None,
  work: distribution.Work | None = None,
  **options: Any,
) -> measures.FvdResult:
  """Returns the Frechet Video Distances between two sets of videos, their intervals, and what they depend on.

  A set is a folder, searched with its sub-folders, of videos (also GIF), of folders of numbered images or of .npy
  files; one such file, or an .npz or HDF5 file of arrays; an array `[N, T, H, W, 3]` of NumPy, TensorFlow or PyTorch,
  or in another layout; an iterable of clips or batches of them, such as a tf.data.Dataset or a DataLoader, of which a
  few batches are held at a time; or an .npz file that an earlier call wrote to `save_stats`.

  Args:
    real: the reference set.
    generated: the set that is compared with it; None to save the statistics of `real` only.
    protocol: which clips are taken: a name of `protocols.PROTOCOLS`, a JSON file, or a protocol of your own.
    checkpoint: the RGB network, of which others than the default do not give the published distance; or networks by
      stream, 'rgb' and 'flow', for a distance of each.
    save_stats: an .npz file for the statistics of `real`.
    cache: a file that keeps embeddings by the content of their clips, so that a call that was killed goes on.
    progress: whether to show progress bars on stderr.
    on_failure: called with a sentence for each video that cannot be used; the distance is that of the others.
    work: has the workers of a runner embed the videos, with the same digits; None: this process does it.
    **options: other fields of `protocols.FvdConfig`, such as num_frames, max_clips, value_range or measures.

  Raises:
    I3dError: if a set has fewer than two clips, options do not go together, or statistics are of other clips or
      weights.
    OSError: if a file cannot be read or written.
  """
  sets = {} if generated is None else {_GENERATED: generated}
  how: dict[str, Any] = {
      "checkpoint": checkpoint, "save_stats": save_stats, "cache": cache, "progress": progress, "work": work,
  }  # fmt: skip
  run = _Run(real, sets, protocol=protocol, on_failure=on_failure, **how, **options)
  return run.results()[_GENERATED] if sets else run.of_real()


def compare_generators(
  real: clips_lib.Videos, generated: Mapping[str, clips_lib.Videos], **options: Any
) -> dict[str, measures.FvdResult]:
  """Returns the distance of each of several sets from one reference, which is embedded once.

  Args:
    real: the reference set.
    generated: the sets by name, such as checkpoints of a training.
    **options: arguments of `fvd`.

  Raises:
    I3dError: as `fvd`.
    OSError: as `fvd`.
  """
  if not generated:
    raise errors.I3dError("there is no generated set to compare")
  return _Run(real, generated, **options).results()


def fvd_by_length(
  real: clips_lib.Videos, generated: clips_lib.Videos, lengths: Sequence[int], **options: Any
) -> dict[int, measures.FvdResult]:
  """Returns the distance of the first T frames of all videos for several T.

  Such curves are those of JunyaoHu/common_metrics_on_video_quality with only_final=False.

  Args:
    real: the reference set; no iterable, since it is read for each T.
    generated: the set that is compared with it.
    lengths: numbers of frames.
    **options: arguments of `fvd` except num_frames and start.

  Raises:
    I3dError: as `fvd`.
    OSError: as `fvd`.
  """
  found, embedder = {}, None
  for length in lengths:
    run = _Run(real, {_GENERATED: generated}, **options, num_frames=length, start="first", embedder=embedder)
    found[length], embedder = run.results()[_GENERATED], run.embedder
  return found


class _Run:
  """One reference and any number of sets to compare with it."""

  def __init__(
    self,
    real: clips_lib.Videos,
    generated: Mapping[str, clips_lib.Videos],
    *,
    protocol: str | os.PathLike | protocols.Protocol = protocols.FvdConfig.protocol,
    checkpoint: embedding.Checkpoint | Mapping[str, embedding.Checkpoint] = protocols.CHECKPOINT,
    save_stats: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    progress: bool = False,
    on_failure: Callable[[str], None] = lambda message: None,
    embedder: embedding.Embedder | None = None,
    work: distribution.Work | None = None,
    **options: Any,
  ):
    own = protocol if isinstance(protocol, protocols.Protocol) else None
    self._config = _config({**options, **({} if own else {"protocol": os.fspath(str(protocol))})})
    self._protocol = protocols.resolve(self._config, own)
    if _REAL in generated:
      raise errors.I3dError(f"a generated set is called {_REAL}, as the reference; give it another name")
    self._sets = {_REAL: real, **generated}
    if save_stats is not None:
      _check_save(real, save_stats)
    elif not generated:
      raise errors.I3dError("generated is missing; only with save_stats it may be")
    if work is not None and cache is not None:
      raise errors.I3dError("cache is for embeddings that are computed here; those of a runner stay in its folder")
    self._save_stats, self._progress, self._on_failure, self._work = save_stats, progress, on_failure, work
    self._loaded = {name: distance.load(path) for name, path in self._paths().items() if arrays.is_statistics(path)}
    self._readers = {name: self._reader(name) for name in self._sets if name not in self._loaded}
    # Whatever is wrong with the names of files is found before anything is embedded.
    self._sources = {name: reader.sources(self._sets[name]) for name, reader in self._readers.items()}
    self._failed = {name: facts.get("failed", 0) for name, (_, facts) in self._loaded.items()}
    self._remarks: list[str] = []
    self.embedder = embedder or embedding.Embedder(
      checkpoint,
      batch=self._config.batch,
      flow_config=self._config,
      resize_rule=self._protocol.resize,
      cache=cache,
    )
    self._facts = self._start()
    for name, (_, theirs) in self._loaded.items():
      _check_comparable(theirs, self._facts, path=self._paths()[name])

  def _paths(self) -> dict[str, str]:
    return {name: os.fspath(each) for name, each in self._sets.items() if isinstance(each, (str, os.PathLike))}

  def _reader(self, name: str) -> clips_lib.ClipReader:
    return clips_lib.ClipReader(self._protocol, self._config, _REAL if name == _REAL else _GENERATED)

  def _start(self) -> dict[str, Any]:
    """What must agree for distances to be comparable, beside the numbers of clips; for JSON."""
    if not self._readers:  # no network is needed, and the streams are those of the statistics
      facts = next(facts for name, (_, facts) in self._loaded.items() if name != _REAL)
      self._protocol = _protocol_of(facts, self._protocol)
      names = ("weights", "resize", "num_frames", "fps", *({"flow", "frame_step"} & set(facts)))
      return {name: facts[name] for name in names}
    embedding.check_frames(self._protocol.num_frames, self.embedder.streams)
    weights = {stream: network.weights for stream, network in self.embedder.embeddings.items()}
    facts = {"weights": weights, "resize": protocols.RESIZES[self._protocol.resize]}
    facts |= {name: getattr(self._protocol, name) for name in ("num_frames", "fps", "frame_step")}
    if "flow" in weights and self._config.flow_method != flow_lib.DEFAULT:
      facts["flow"] = self._config.flow_method
    return facts

  def of_real(self) -> measures.FvdResult:
    """Saves the statistics of the reference, and returns a result without a distance."""
    sums = self._sums(_REAL)
    return self._complete(
      measures.FvdResult(
        distances={}, intervals={}, clips={_REAL: _count(sums)}, failed={}, weights={}, num_frames=None
      ),
      _REAL,
    )

  def results(self) -> dict[str, measures.FvdResult]:
    """Returns the result of each generated set."""
    real, found = self._sums(_REAL), {}
    for name in self._sets:
      if name != _REAL:
        sums = self._sums(name)
        how: dict[str, Any] = {"num_frames": self._facts["num_frames"], "progress": self._progress}
        weights = self._facts["weights"]
        result = accumulator.result(real, sums, weights, self._protocol, self._config, **how)
        found[name] = self._complete(result, name)
    return found

  def _complete(self, result: measures.FvdResult, name: str) -> measures.FvdResult:
    failed = {_REAL: self._failed[_REAL]}
    if name != _REAL:
      failed[_GENERATED] = self._failed[name]
    remarks = [*self._remarks, *_few(result.clips, self._protocol)]
    known = {each: self._facts[each] for each in ("weights", "num_frames", "flow") if each in self._facts}
    return dataclasses.replace(
      result, failed=failed, protocol=self._protocol, remarks=tuple(remarks), seed=self._config.seed, **known
    )

  def _sums(self, name: str) -> _Sums:
    """The embeddings of a set by stream; those of the reference are saved, if that is wanted."""
    sums = {stream: distance.FeatureSums(keep=True) for stream in self._facts["weights"]}
    if name in self._loaded:
      for stream, each in sums.items():
        each.update(self._loaded[name][0][stream])
      return sums
    path = self._save_stats if name == _REAL else None
    with contextlib.nullcontext() if path is None else workdir.replacing(path) as file:
      self._failed[name] = self._embed(name, sums)
      if file is not None:
        more = {"failed": self._failed[name], "seed": self._config.seed, "protocol": self._protocol.facts()}
        features = {stream: _kept(each) for stream, each in sums.items()}
        distance.save(file, features, {**self._facts, **more, "made_by": resources.provenance()})
    return sums

  def _embed(self, name: str, sums: _Sums) -> int:
    """Adds the clips of each video that can be used; returns the number of the others."""
    reader, failures = self._readers[name], list[str]()

    def fail(message: str) -> None:
      failures.append(message)
      self._on_failure(message)

    parts = self._embedded_here(name, fail) if self._work is None else self._embedded_by(self._work, name, fail)
    for part in parts:
      for stream, features in part.items():
        sums[stream].update(features)
    for remark in reader.summary(name):
      _log.warning("%s", remark)
      self._remarks.append(remark)
    if (good := _count(sums)) < 2:
      where = self._paths().get(name, name)
      reason = f" ({failures[0]})" if failures else ""
      has = f"of its {good + len(failures)} it has {good}"
      raise errors.I3dError(f"{where}: FVD needs at least 2 videos that can be used, and {has}{reason}")
    return len(failures)

  def _embedded_here(self, name: str, fail: Callable[[str], None]) -> Iterator[dict[str, np.ndarray]]:
    """Yields the embeddings of a set by stream, batch by batch."""
    size = self._config.batch
    with workers.Bar(self._sources[name], name, unit="video", is_shown=self._progress) as bar:
      groups = distribution.groups(bar, size)
      batches = (batch for group in groups for batch in distribution.batches(group, self._readers[name], size, fail))
      with workers.ahead(batches, depth=_BATCHES_AHEAD) as ahead:
        for batch in ahead:
          yield self.embedder.embed(batch)

  def _embedded_by(
    self, work: distribution.Work, name: str, fail: Callable[[str], None]
  ) -> Iterator[dict[str, np.ndarray]]:
    """The same from the workers of a runner."""
    checkpoints = tuple((stream, os.fspath(path)) for stream, path in self.embedder.checkpoints.items())
    recipe = distribution.Recipe(self._protocol, self._config, _REAL if name == _REAL else _GENERATED, checkpoints)
    for part, facts in distribution.embed(work, list(self._sources[name]), recipe, self._facts["weights"]):
      self._readers[name].remarks.update(facts["remarks"])
      for message in facts["failures"]:
        fail(message)
      yield part


def _config(options: Mapping[str, Any]) -> protocols.FvdConfig:
  known = [field.name for field in dataclasses.fields(protocols.FvdConfig)]
  if unknown := sorted(set(options) - set(known)):
    raise errors.I3dError(f"there is no option {unknown[0]}; there are {', '.join(sorted(known))}")
  return protocols.FvdConfig(**{**options, "flow_params": tuple(options.get("flow_params", ()))})


def _protocol_of(facts: Mapping[str, Any], named: protocols.Protocol) -> protocols.Protocol:
  """The protocol of statistics; earlier versions stored what differed from the reference's."""
  if isinstance(stored := facts.get("protocol"), dict):
    known = {field.name for field in dataclasses.fields(protocols.Protocol)}
    base = protocols.PROTOCOLS.get(stored.get("name", ""), protocols.Protocol())
    return dataclasses.replace(base, **{name: value for name, value in stored.items() if name in known})
  return dataclasses.replace(named, num_frames=facts["num_frames"], fps=facts["fps"])


def _few(clips: Mapping[str, int], protocol: protocols.Protocol) -> Iterator[str]:
  """What is said of sets that are smaller than the protocol's."""
  for name, count in clips.items():
    if protocol.max_clips is not None and count < protocol.max_clips:
      yield f"{name} has {count} clips, {protocol.name} takes {protocol.max_clips}; fewer clips give a larger figure"


def _count(sums: _Sums) -> int:
  return next(iter(sums.values())).count


def _kept(sums: distance.FeatureSums) -> np.ndarray:
  features = sums.features
  assert features is not None
  return features


def _check_save(real: clips_lib.Videos, save_stats: str | os.PathLike) -> None:
  if isinstance(real, (str, os.PathLike)) and arrays.is_statistics(real):
    raise errors.I3dError("save_stats is for the statistics of videos, but real is statistics already")
  if not os.fspath(save_stats).lower().endswith(_STATISTICS_SUFFIX):
    raise errors.I3dError(f"save_stats is {save_stats}; the file's name must end in {_STATISTICS_SUFFIX}")


def _check_comparable(first: Mapping[str, Any], second: Mapping[str, Any], *, path: str | os.PathLike) -> None:
  """Raises I3dError unless the facts `first`, of the statistics at `path`, agree with `second` for its streams."""
  for stream, weights in second["weights"].items():
    has = first.get("weights", {}).get(stream)
    if has is None:
      raise errors.I3dError(f"{path} has no statistics of {stream}; make them again with a checkpoint of {stream}")
    if has != weights:
      raise errors.I3dError(f"{path} is of other {stream} weights: their CRC-32 is {has}, not {weights}")
  names = ("resize", "num_frames", "fps", "frame_step", *(("flow",) if "flow" in second["weights"] else ()))
  for name in names:
    default = {"flow": flow_lib.DEFAULT, "frame_step": 1}.get(name)
    if (theirs := first.get(name, default)) != (ours := second.get(name, default)):
      raise errors.I3dError(f"{path} cannot be compared: its {name} is {theirs}, not {ours}")
