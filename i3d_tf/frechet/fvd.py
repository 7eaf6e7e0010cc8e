"""Frechet Video Distance (Unterthiner et al., "Towards Accurate Generative Models of Video", arXiv 1812.01717).

The distance between two sets of videos: one clip of consecutive frames from a random place of each.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
from typing import Any, TypeAlias
import zlib

import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf import workers
from i3d_tf.frechet import distance
from i3d_tf.frechet import embedding
from i3d_tf.video import archives
from i3d_tf.video import decode
from i3d_tf.video import listing

Videos: TypeAlias = str | os.PathLike | np.ndarray
_ARRAY_SUFFIX = ".npy"
_STATISTICS_SUFFIX = ".npz"


@dataclasses.dataclass(frozen=True, eq=False)
class _Source:
  """One video: a file, or one of an array's. Its name, relative to the set's folder, draws its clip."""

  name: str
  path: pathlib.Path
  index: int | None = None
  array: np.ndarray | None = None

  def __str__(self) -> str:
    return f"{self.path}{'' if self.index is None else f'[{self.index}]'}"


def fvd(
  real: Videos,
  generated: Videos | None,
  *,
  checkpoint: embedding.Checkpoint | Mapping[str, embedding.Checkpoint] = distance.CHECKPOINT,
  num_frames: int = distance.FvdConfig.num_frames,
  fps: float | None = distance.FvdConfig.fps,
  max_clips: int | None = distance.FvdConfig.max_clips,
  seed: int = distance.FvdConfig.seed,
  batch: int = distance.FvdConfig.batch,
  resamples: int = distance.FvdConfig.resamples,
  frame_rate: float = distance.FvdConfig.frame_rate,
  allow_damaged: bool = distance.FvdConfig.allow_damaged,
  flow: str = distance.FvdConfig.flow,
  flow_params: Sequence[str] = distance.FvdConfig.flow_params,
  save_stats: str | os.PathLike | None = None,
  progress: bool = False,
  on_failure: Callable[[str], None] = lambda message: None,
) -> distance.FvdResult:
  """Returns the Frechet Video Distances between two sets of videos, their intervals, and what they depend on.

  A set is a folder, searched with its sub-folders, of videos or of .npy arrays; one such file; a NumPy array uint8
  `[N, T, H, W, 3]`; or an .npz file that an earlier call wrote to `save_stats`.

  Args:
    real: the reference set.
    generated: the set that is compared with it; None to save the statistics of `real` only.
    checkpoint: the RGB network, of which others than the default do not give the published distance; or networks by
      stream, 'rgb' and 'flow', for a distance of each.
    num_frames: see `FvdConfig`, as for the nine that follow.
    fps: see there.
    max_clips: see there.
    seed: see there.
    batch: see there.
    resamples: see there.
    frame_rate: see there.
    allow_damaged: see there.
    flow: see there.
    flow_params: see there.
    save_stats: an .npz file for the statistics of `real`.
    progress: whether to show progress bars on stderr.
    on_failure: called with a sentence for each video that cannot be used; the distance is that of the others.

  Raises:
    I3dError: if a set has fewer than two clips, options do not go together, or statistics are of other clips or
      weights.
    OSError: if a file cannot be read or written.
  """
  config = distance.FvdConfig(
      num_frames=num_frames, fps=fps, max_clips=max_clips, seed=seed, batch=batch, resamples=resamples,
      frame_rate=frame_rate, allow_damaged=allow_damaged, flow=flow, flow_params=tuple(flow_params),
  )  # fmt: skip
  given = {"real": real} if generated is None else {"real": real, "generated": generated}
  if save_stats is not None:
    _check_save(real, save_stats)
  elif generated is None:
    raise errors.I3dError("generated is missing; only with save_stats it may be")
  paths = {name: os.fspath(videos) for name, videos in given.items() if not isinstance(videos, np.ndarray)}
  loaded = {name: distance.load(path) for name, path in paths.items() if _is_statistics(path)}
  sources = {name: list_sources(videos, config) for name, videos in given.items() if name not in loaded}
  accumulator, facts = _start(checkpoint, config, loaded["generated"][1] if not sources else None)
  for name, (features, theirs) in loaded.items():
    _check_comparable(theirs, facts, path=paths[name])
    accumulator.update_features(features, real=name == "real")
  failed = {name: theirs.get("failed", 0) for name, (_, theirs) in loaded.items()}
  for name, videos in sources.items():
    path = save_stats if name == "real" else None
    with contextlib.nullcontext() if path is None else workdir.replacing(path) as file:
      failed[name] = _embed(videos, accumulator, config, name, paths.get(name, name), progress, on_failure)
      if file is not None:
        more = {"failed": failed[name], "seed": seed, "made_by": resources.provenance()}
        distance.save(file, accumulator.features(real=True), {**facts, **more})
  dependencies = {name: facts[name] for name in ("weights", "num_frames", "fps", "flow") if name in facts}
  failed = {name: failed[name] for name in given}
  if generated is None:
    clips = {"real": len(sources["real"]) - failed["real"]}
    return distance.FvdResult(distances={}, intervals={}, clips=clips, failed=failed, seed=seed, **dependencies)
  found = accumulator.compute(resamples=config.resamples, seed=seed, progress=progress)
  return dataclasses.replace(found, failed=failed, **dependencies)


def _start(
  checkpoint: embedding.Checkpoint | Mapping[str, embedding.Checkpoint],
  config: distance.FvdConfig,
  facts: Mapping[str, Any] | None,
) -> tuple[embedding.FvdAccumulator, dict[str, Any]]:
  """The accumulator, and what must agree for distances to be comparable, beside the numbers of clips; for JSON.

  These `facts` are given if both sets are saved statistics; no network is needed then, and the streams are theirs.
  """
  if facts is not None:
    unloaded = {stream: f"of CRC-32 {weights}" for stream, weights in facts["weights"].items()}
    accumulator = embedding.FvdAccumulator(unloaded, keep_features=True)
    names = ("weights", "resize", "num_frames", "fps", *({"flow"} & set(facts)))
    return accumulator, {name: facts[name] for name in names}
  accumulator = embedding.FvdAccumulator(checkpoint, batch=config.batch, keep_features=True, flow_config=config)
  embedding.check_frames(config.num_frames, accumulator.streams)
  weights = {stream: network.weights for stream, network in accumulator.embeddings.items()}
  facts = {"weights": weights, "resize": distance.RESIZE, "num_frames": config.num_frames, "fps": config.fps}
  if "flow" in accumulator.streams and config.flow_method != distance.FvdConfig.flow:
    facts["flow"] = config.flow_method
  return accumulator, facts


def _embed(
  sources: list[_Source],
  accumulator: embedding.FvdAccumulator,
  config: distance.FvdConfig,
  name: str,
  where: str,
  progress: bool,
  on_failure: Callable[[str], None],
) -> int:
  """Adds a clip of each video that can be used to the set `name`; returns the number of the others."""
  failures: list[str] = []

  def fail(message: str) -> None:
    failures.append(message)
    on_failure(message)

  with workers.Bar(sources, name, unit="video", is_shown=progress) as bar:
    for clips in _batches(_read_all(bar, config, fail), config.batch):
      accumulator.update(clips, real=name == "real")
  if (good := len(sources) - len(failures)) < 2:
    reason = f" ({failures[0]})" if failures else ""
    has = f"of its {len(sources)} it has {good}"
    raise errors.I3dError(f"{where}: FVD needs at least 2 videos that can be used, and {has}{reason}")
  return len(failures)


def _is_statistics(videos: Videos) -> bool:
  """Whether a set is given as saved statistics, which its suffix .npz says."""
  return not isinstance(videos, np.ndarray) and os.fspath(videos).lower().endswith(_STATISTICS_SUFFIX)


def _check_save(real: Videos, save_stats: str | os.PathLike) -> None:
  if _is_statistics(real):
    raise errors.I3dError("save_stats is for the statistics of videos, but real is statistics already")
  if not _is_statistics(save_stats):
    raise errors.I3dError(f"save_stats is {save_stats}; the file's name must end in {_STATISTICS_SUFFIX}")


def list_sources(videos: Videos, config: distance.FvdConfig) -> list[_Source]:
  """Returns the videos of a set for `read_clip`: those below a folder, one file, or all of an array.

  Args:
    videos: a folder, a file, or an array `[N, T, H, W, 3]`.
    config: has max_clips and seed.

  Raises:
    I3dError: if there is no such path, nothing in it, or less than max_clips.
  """
  if isinstance(videos, np.ndarray):
    embedding.check_array(videos, "the videos")
    where = "the array"
    stacked = videos if videos.ndim == 5 else videos[np.newaxis]
    sources = [_Source(f"[{index}]", pathlib.Path("array"), index, stacked) for index in range(len(stacked))]
  else:
    where = os.fspath(videos)
    sources = [source for name, path in _list_files(pathlib.Path(videos)) for source in _open_source(name, path)]
  if config.max_clips is None:
    return sources
  if len(sources) < config.max_clips:
    raise errors.I3dError(f"{where} has {len(sources)} videos, fewer than max_clips, {config.max_clips}")
  drawn = np.random.default_rng(config.seed).permutation(len(sources))[: config.max_clips]
  return [sources[number] for number in sorted(drawn)]


def _list_files(root: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
  is_list = os.fspath(root).startswith("@")
  if not (is_list or root.is_dir() or archives.is_archive(root)):
    if not (root.exists() or archives.split(root)):
      raise errors.I3dError(f"{root}: there is no such file or folder")
    return [(root.name, root)]
  files = listing.list_folder(root, more=(_ARRAY_SUFFIX,)).videos
  return [(file.as_posix() if is_list else file.relative_to(root).as_posix(), file) for file in files]


def _open_source(name: str, path: pathlib.Path) -> list[_Source]:
  """The videos of a file."""
  if path.suffix.lower() == _ARRAY_SUFFIX:
    try:
      array = _open_array(path)
    except (errors.I3dError, OSError):
      return [_Source(name, path)]  # reading it says why
    if array.ndim == 5 and len(array):
      return [_Source(f"{name}[{index}]", path, index) for index in range(len(array))]
  return [_Source(name, path)]


def _open_array(path: pathlib.Path) -> np.ndarray:
  """An array `[T, H, W, 3]` or `[N, T, H, W, 3]` of bytes, left in its file."""
  array = files.map_array(path)
  embedding.check_array(array, str(path))
  return array


def read_clip(source: _Source, config: distance.FvdConfig) -> np.ndarray:
  """Returns consecutive frames from a random place of a video, uint8 `[num_frames, H, W, 3]`.

  Args:
    source: one of `list_sources`.
    config: has num_frames, fps and seed.

  Raises:
    I3dError: if the video cannot be read to its end, or is too short.
    OSError: if the file cannot be read.
  """
  if source.array is not None or source.path.suffix.lower() == _ARRAY_SUFFIX:
    array = source.array if source.array is not None else _open_array(source.path)
    if array.ndim == 5 and source.index is None:
      raise errors.I3dError(f"{source}: the array holds no video, its shape is {array.shape}")
    frames = iter(array if source.index is None else array[source.index])
  else:
    how: dict[str, Any] = {"allow_damaged": config.allow_damaged, "frame_rate": config.frame_rate}
    fps = config.fps or decode.probe(source.path, frame_rate=config.frame_rate).frame_rate
    frames = decode.iter_frames(source.path, fps=fps, short_side=None, **how)
  rng = np.random.default_rng([config.seed, zlib.crc32(os.fsencode(source.name))])
  window, total = _random_window(frames, config.num_frames, rng)
  if window is None:
    raise errors.I3dError(f"{source}: the video has {total} frames, fewer than num_frames, {config.num_frames}")
  return np.stack(window)


def _random_window(
  frames: Iterator[np.ndarray], num_frames: int, rng: np.random.Generator
) -> tuple[list[np.ndarray] | None, int]:
  """One of all runs of `num_frames` frames, each as likely, and the number of frames; None if they are fewer.

  How many there are is known at the end only, and only two runs are held: the k-th replaces the one that is chosen so
  far with probability 1/k.
  """
  recent: collections.deque[np.ndarray] = collections.deque(maxlen=num_frames)
  chosen, total = None, 0
  for total, frame in enumerate(frames, start=1):
    recent.append(frame)
    run = total - num_frames + 1
    if run >= 1 and rng.integers(run) == 0:
      chosen = list(recent)
  return chosen, total


def _read_all(
  sources: Iterable[_Source], config: distance.FvdConfig, on_failure: Callable[[str], None]
) -> Iterator[np.ndarray]:
  for source in sources:
    try:
      clip = read_clip(source, config)
    except errors.OF_INPUT as error:
      on_failure(errors.naming(str(source), errors.describe(error)))
    else:
      yield clip


def _batches(items: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
  batch: list[np.ndarray] = []
  for item in items:
    batch.append(item)
    if len(batch) == size:
      yield batch
      batch = []
  if batch:
    yield batch


def _check_comparable(first: Mapping[str, Any], second: Mapping[str, Any], *, path: str | os.PathLike) -> None:
  """Raises I3dError unless the facts `first`, of the statistics at `path`, agree with `second` for its streams."""
  for stream, weights in second["weights"].items():
    has = first.get("weights", {}).get(stream)
    if has is None:
      raise errors.I3dError(f"{path} has no statistics of {stream}; make them again with a checkpoint of {stream}")
    if has != weights:
      raise errors.I3dError(f"{path} is of other {stream} weights: their CRC-32 is {has}, not {weights}")
  names = ("resize", "num_frames", "fps", *(("flow",) if "flow" in second["weights"] else ()))
  for name in names:
    default = distance.FvdConfig.flow if name == "flow" else None
    if (theirs := first.get(name, default)) != (ours := second.get(name, default)):
      raise errors.I3dError(f"{path} cannot be compared: its {name} is {theirs}, not {ours}")
