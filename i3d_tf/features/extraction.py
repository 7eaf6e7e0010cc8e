"""From videos to the features of their windows, or of all of each in exact chunks, in memory or an output folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import json
import os
import threading
import time
from typing import Any, TypeVar

import numpy as np
import tqdm

from i3d_tf import errors
from i3d_tf import stores
from i3d_tf import workers
from i3d_tf.features import networks as networks_lib
from i3d_tf.features import profiles
from i3d_tf.features import results
from i3d_tf.features import sources
from i3d_tf.inference import chunks
from i3d_tf.inference import classification
from i3d_tf.inference import classifier
from i3d_tf.input import clip_config
from i3d_tf.models import inception_spec
from i3d_tf.models import receptive_field
from i3d_tf.video import decode
from i3d_tf.weights import saved

Arrays = Mapping[str, Mapping[str, results.ArrayFile]]
Layers = Sequence[receptive_field.Layer]
OnFrames = Callable[[int, int], None]
_SEEN = "seen"  # positions that a pass has used, in a journal
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Features:
  """The features of one video.

  Attributes:
    source: The video.
    options: How they were taken.
    fps: Frames per second after resampling.
    num_positions: Frames, or flow fields, that were seen.
    arrays: By stream and endpoint `[N, crops, ...]` of N windows, or of the N steps of a whole video.
    checkpoints, weights: By stream the checkpoint's name and the checksum of its variables.
    layers: By endpoint the layers along time that lead to it; None if it has no steps of its own in time.
    stride: Frames from one position of a clip to the next.
    notes: What was done with the video's frames, see `decode.iter_frames`.
    logits: By stream those of all crops `[N, crops, classes]`, if predictions are asked for.
    class_names: Names of the classes.
    flow_method: What computed the flow, see `flow.FlowConfig.flow_method`.
  """

  source: sources.Source
  options: profiles.FeatureConfig
  fps: float
  num_positions: int
  arrays: Arrays
  checkpoints: Mapping[str, str]
  weights: Mapping[str, str]
  layers: Mapping[str, Layers | None]
  stride: int
  notes: tuple[str, ...] = ()
  logits: Mapping[str, results.ArrayFile] = dataclasses.field(default_factory=dict)
  class_names: Sequence[str] = ()
  flow_method: str = ""

  def predictions(self) -> list[dict[str, Any]]:
    """Returns the best classes of each window, or step of a whole video: their logits are the means of the crops'.

    Returns:
      Of each its `start` and `end` in seconds, and `classes` by stream, best first, each with `label`, `probability`
      and `logit`; of both streams also those of their added logits, 'rgb+flow'.
    """
    logits = {stream: array.load().mean(axis=1) for stream, array in self.logits.items()}
    if len(logits) > 1:
      logits["+".join(logits)] = sum(logits.values())
    starts, ends = self._spans()
    ranked = lambda values: [
      {"label": each.label, "probability": each.probability, "logit": each.logit}
      for each in classification.rank(values, self.class_names, self.options.top_k)
    ]
    return [
      {
        "start": round(float(start), 6),
        "end": round(float(end), 6),
        "classes": {stream: ranked(values[index]) for stream, values in logits.items()},
      }
      for index, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]

  def prediction_file(self, kind: str) -> bytes:
    """Returns the predictions as a file.

    Args:
      kind: 'csv', a line a class, or 'json'.
    """
    rows = self.predictions()
    if kind == "json":
      facts = {"input": self.source.name, "fps": self.fps, "checkpoints": dict(self.checkpoints), "windows": rows}
      return json.dumps(facts, indent=1).encode() + b"\n"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("window", "start", "end", "stream", "rank", "label", "probability", "logit"))
    for number, row in enumerate(rows):
      for stream, classes in row["classes"].items():
        for rank, each in enumerate(classes, start=1):
          values = (each["label"], f"{each['probability']:.6f}", f"{each['logit']:.6f}")
          writer.writerow((number, row["start"], row["end"], stream, rank, *values))
    return text.getvalue().encode()

  def _spans(self) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of each window in seconds, no later than the video's; of a whole video those of its steps."""
    end = (self.options.offset + self.num_positions) / self.fps
    if self.options.window != profiles.ALL:
      ends = self.window_ends()
      return (ends - self.options.num_frames) / self.fps, np.minimum(ends / self.fps, end)
    if self.options.pooling == "space_time":
      return np.zeros(1), np.array([end])
    middles = self.timestamps(profiles.STEP_LOGITS)
    layers = self.layers[profiles.STEP_LOGITS]
    half = self.stride * receptive_field.stride(layers) / 2 / self.fps if layers else 0
    return np.maximum(middles - half, 0), np.minimum(middles + half, end)

  def timestamps(self, endpoint: str) -> np.ndarray:
    """Returns the middle of what each value sees, padding counted, in seconds from the start of the video.

    Args:
      endpoint: Name of the endpoint.

    Returns:
      float64 `[N]`, or `[N, steps]` of windows whose steps are kept apart.
    """
    options = self.options
    if options.window == profiles.ALL:
      return np.atleast_1d(self._middles(endpoint, self.num_positions)) / self.fps
    starts = options.offset + options.step * np.arange(self._num_windows())
    return np.add.outer(starts, self._middles(endpoint, options.num_frames)) / self.fps

  def window_ends(self) -> np.ndarray:
    """Returns the number of the first frame behind each window, int64 `[N]`."""
    options = self.options
    return options.offset + options.step * np.arange(self._num_windows()) + options.num_frames

  def _num_windows(self) -> int:
    options = self.options
    return len(window_indices(self.num_positions, window=options.num_frames, hop=options.step, tail=options.tail))

  def _middles(self, endpoint: str, num_frames: int) -> np.ndarray | float:
    """Frames from the first to the middle of the endpoint's steps, `[steps]`, or of the clip if they are averaged."""
    layers = self.layers[endpoint]
    if self.options.pooling == "space_time" or layers is None:
      return (num_frames - 1) / 2
    count = -(-num_frames // self.stride)
    first, end = receptive_field.seen(layers, (0, 1), count)
    steps = np.arange(receptive_field.num_steps(layers, count))
    return self.stride * ((first + end - 1) / 2 + receptive_field.stride(layers) * steps)


class Extractor:
  """Networks of the options' streams, ready for any number of videos.

  Attributes:
    options: What is taken, with the window's length and the precision that was chosen.
    networks: By 'rgb', 'flow' or 'joint'.
  """

  def __init__(self, options: profiles.FeatureConfig):
    """Loads the networks.

    Args:
      options: What is taken.

    Raises:
      I3dError: If the networks do not go together, or do not have what is asked for.
      CheckpointError, DownloadError: If a checkpoint cannot be loaded.
    """
    self.networks = {stream: networks_lib.FeatureNetwork(stream, options) for stream in options.checkpoints}
    first, *others = self.networks.values()
    for name, what in (("short_side", "frames with a shorter side"), ("stride", "every n-th frame, with an n")):
      values = {getattr(network, name) for network in (first, *others)}
      if len(values) > 1:
        given = " and ".join(map(str, values))
        raise errors.I3dError(f"the networks were trained on {what} of {given}; give {name}, or take them apart")
    self._estimator = options.flow_estimator(options.threads)
    self._warned: set[str] = set()
    window = first.window if options.window is None else options.window
    self.options = dataclasses.replace(options, window=window, precision=first.precision)
    for network in (first, *others):
      if self.options.window == profiles.ALL:
        network.chunk_layers()
      else:
        network.check_window(self.options.num_frames)

  @functools.cached_property
  def _least(self) -> int:
    return max(network.least_window() for network in self.networks.values())

  @functools.cached_property
  def meaning(self) -> dict[str, Any]:
    """All that the features depend on beside the videos; for JSON."""
    return {
      **self.options.meaning(),
      "short_side": next(iter(self.networks.values())).short_side,
      "crop": {stream: each.crop for stream, each in self.networks.items()},
      "weights": {stream: each.weights for stream, each in self.networks.items()},
    }

  @property
  def batching(self) -> tuple[int, int]:
    """Windows and frames of a pass of the networks, which decide its last digits."""
    is_whole = self.options.window == profiles.ALL
    return (1 if is_whole else self.options.num_batch), self.options.chunk

  @contextlib.contextmanager
  def extract(
    self,
    source: sources.Source,
    *,
    video: sources.Video | None = None,
    on_frames: OnFrames = lambda done, total: None,
    journal: results.Journal | None = None,
  ) -> Iterator[Features]:
    """Extracts the features of a video; their temporary files are removed at the end of the body.

    Args:
      source: The video.
      video: The same, if it has been opened.
      on_frames: Called with (frames done, frames in all), the last an estimate, after each pass of the networks.
      journal: Passes that are done are taken from here, and others put here.

    Yields:
      The features.

    Raises:
      I3dError, OSError: If the video cannot be read whole, or is too short.
    """
    options, networks = self.options, self.networks
    with contextlib.ExitStack() as stack:
      arrays = {
        stream: {name: stack.enter_context(results.ArrayFile()) for name in options.computed} for stream in networks
      }
      first = next(iter(networks.values()))
      try:
        video = video or sources.open_video(
            source, streams=options.streams, pairs=options.needs_pairs, fps=options.fps,
            short_side=first.resize,
            estimator=self._estimator, allow_damaged=options.allow_damaged, frame_rate=options.frame_rate,
            flow_bound=options.flow_bound, flow_bytes=options.flow_bytes,
        )  # fmt: skip
        self._warn_of_flow(video.flow_method or options.flow_method)
        fill = self._fill_whole if options.window == profiles.ALL else self._fill_windows
        num_positions = fill(video, arrays, on_frames, journal)
      except errors.I3dError as error:
        raise type(error)(errors.naming(source.path, str(error))) from None
      logits = {stream: each[options.of_predictions] for stream, each in arrays.items() if options.of_predictions}
      kept = {stream: {name: each[name] for name in options.endpoints} for stream, each in arrays.items()}
      yield Features(
          source, options, video.fps, num_positions, kept,
          {stream: each.checkpoint for stream, each in networks.items()},
          {stream: each.weights for stream, each in networks.items()},
          {name: first.time_layers(name) for name in options.computed}, first.stride, tuple(video.notes),
          logits, first.class_names, video.flow_method or options.flow_method,
      )  # fmt: skip

  def _warn_of_flow(self, method: str) -> None:
    """Logs once if networks are given another flow than they were trained on."""
    if method not in self._warned:
      self._warned.add(method)
      for network in self.networks.values():
        classifier.warn_of_flow(network.info, network.checkpoint, method)

  def _fill_windows(
    self, video: sources.Video, arrays: Arrays, on_frames: OnFrames, journal: results.Journal | None
  ) -> int:
    """Fills the arrays window by window, and returns the number of positions."""
    options, size = self.options, self.options.num_frames
    num_done = seen = 0  # windows and positions of an earlier process
    for values in journal.passes() if journal is not None else ():
      num_done, seen = num_done + len(values[_any_of(values)]), int(values[_SEEN])
      _append(arrays, values)
    # What the next window begins with; all of it where a window may also want the video's beginning, or leave gaps.
    can_skip = options.tail != "loop" and options.step <= size
    first = min(num_done * options.step, seen) if can_skip else 0
    # As many positions wait as a pass of the networks takes, so that the next one need not wait.
    with workers.ahead(video.positions(options.offset + first), depth=options.num_batch * size) as ahead:
      positions = _Positions(ahead, self.networks, first)
      how: dict[str, Any] = {"window": size, "hop": options.step, "tail": options.tail}
      windows = cut_windows(positions, **how, first=num_done if can_skip else 0)
      windows = itertools.islice(windows, 0 if can_skip else num_done, None)
      for batch in self._batches(windows):
        values = {}
        for stream, network in self.networks.items():
          clips = {
            each: np.stack([_clip(window[:: network.stride], stream, each) for window in batch])
            for each in network.streams
          }
          values |= {f"{stream}/{name}": value for name, value in network(clips).items()}
        _append(arrays, values)
        if journal is not None:
          journal.append({**values, _SEEN: np.int64(positions.count)})
        on_frames(options.offset + positions.count, video.estimate)
    is_empty = not any(array.shape[0] for array in next(iter(arrays.values())).values())
    if is_empty and options.profile != "video_features":
      what = "frames" if options.streams == ("rgb",) else "frames with flow"
      fewer = f"the video has {positions.count} {what}, fewer than a window of {size}"
      raise errors.VideoError(f"{fewer}; tail=pad or loop fills it up")
    return positions.count

  def _batches(self, windows: Iterator[list[_Item]]) -> Iterator[list[list[_Item]]]:
    """The windows of each pass of the networks.

    A shorter window, which is the last, is a batch of its own, of at least as many frames as the networks take.
    """
    size = self.options.num_frames
    for num_frames, alike in itertools.groupby(windows, key=len):
      missing = max(self._least - num_frames, 0) if num_frames < size else 0
      while batch := [[*window, *window[-1:] * missing] for window in itertools.islice(alike, self.options.num_batch)]:
        yield batch

  def _fill_whole(
    self, video: sources.Video, arrays: Arrays, on_frames: OnFrames, journal: results.Journal | None
  ) -> int:
    """Fills the arrays with the steps of the whole video, chunk by chunk, and returns the number of positions."""
    options, networks = self.options, self.networks
    num_positions = video.count() - options.needs_pairs - max(each.stack for each in networks.values()) + 1
    is_mean = options.pooling == "space_time"  # over time it is the mean of the chunks
    named = {f"{stream}/{name}": (stream, name) for stream in networks for name in options.computed}
    spoken = lambda stream, name: name if len(networks) == 1 else f"{stream}/{name}"  # in messages
    layers = {spoken(s, name): path for s, each in networks.items() for name, path in each.chunk_layers().items()}
    means = {name: _Mean() for name in named}

    def keep(steps: Mapping[str, np.ndarray]) -> None:
      if not is_mean:
        _append(arrays, steps)
      for name in named if is_mean else ():
        means[name].add(steps[name])

    num_done = 0  # chunks of an earlier process
    for steps in journal.passes() if journal is not None else ():
      num_done += 1
      keep(steps)
    stride = next(iter(networks.values())).stride
    num_taken = -(-num_positions // stride)
    first = chunks.start(layers, num_taken, chunk=options.chunk, number=num_done)
    with workers.ahead(video.positions(first * stride), depth=options.chunk) as ahead:
      positions = _Positions(ahead, networks, first * stride)
      taken = itertools.islice(positions, 0, None, stride)
      for held, kept in chunks.pieces(taken, layers=layers, num_frames=num_taken, chunk=options.chunk, first=num_done):
        steps = {}
        for stream, network in networks.items():
          clip = {stream: _clip(held, stream, stream)[np.newaxis]}
          for name, value in network(clip, pooling="space" if is_mean else options.pooling).items():
            steps[f"{stream}/{name}"] = np.swapaxes(value[0], 0, 1)[kept[spoken(stream, name)]]  # [steps, crops, ...]
        keep(steps)
        if journal is not None:
          journal.append(steps)
        on_frames(positions.count, num_positions)
    for each, (stream, name) in named.items() if is_mean else ():
      arrays[stream][name].append(means[each].value())
    return num_positions


class _Mean:
  """The mean of steps `[steps, ...]` over all chunks."""

  def __init__(self) -> None:
    self._sum: Any = 0.0
    self._count = 0

  def add(self, steps: np.ndarray) -> None:
    self._sum += steps.sum(axis=0, dtype=np.float64)
    self._count += len(steps)

  def value(self) -> np.ndarray:
    return (self._sum / self._count).astype(np.float32)[np.newaxis]


def _append(arrays: Arrays, values: Mapping[str, np.ndarray]) -> None:
  """Appends rows by 'STREAM/ENDPOINT'."""
  for stream, by_endpoint in arrays.items():
    for name, array in by_endpoint.items():
      array.append(values[f"{stream}/{name}"])


def _any_of(values: Mapping[str, np.ndarray]) -> str:
  return next(name for name in values if name != _SEEN)


class _Positions:
  """The positions of a video with each network's stack of flow, by (network, stream), counted as they pass."""

  def __init__(
    self, positions: Iterator[sources.Position], networks: Mapping[str, networks_lib.FeatureNetwork], first: int
  ):
    copies = itertools.tee(positions, len(networks))
    self._each = [network.stacked(copy) for network, copy in zip(networks.values(), copies, strict=True)]
    self._names = tuple(networks)
    self.count = first  # with those before the first one

  def __iter__(self) -> Iterator[dict[tuple[str, str], np.ndarray]]:
    for together in zip(*self._each):  # as long as all have theirs
      self.count += 1
      named = zip(self._names, together, strict=True)
      yield {(name, stream): frame for name, found in named for stream, frame in found.items()}


def _clip(positions: Sequence[Mapping[tuple[str, str], np.ndarray]], network: str, stream: str) -> np.ndarray:
  return np.stack([position[network, stream] for position in positions])


def window_indices(num_frames: int, *, window: int, hop: int, tail: str) -> np.ndarray:
  """Returns the numbers of the frames of every window of a video, int64 `[N, window]`.

  Window n begins at frame n * hop. 'drop' has only whole windows, (num_frames - window) // hop + 1 of them and none if
  the video is shorter than one. The others go on until the last frame is in a window or, where the hop is longer than
  the window, between two; what is missing in the last 'pad' fills with the last frame, 'loop' with the video again from
  its beginning, as often as it takes. 'short' has those of 'pad', of which the last then loses what repeats.

  Args:
    num_frames: Frames of the video.
    window: Frames of a window, at least 1.
    hop: Frames from one window to the next, at least 1.
    tail: One of `profiles.TAILS`: what becomes of the frames at the end that do not fill a window.
  """
  missing = num_frames - window  # behind the first window
  if tail == "drop":
    count = max(missing // hop + 1, 0)
  else:
    count = min(1 + -(-max(missing, 0) // hop), -(-num_frames // hop))
  frames = hop * np.arange(count)[:, np.newaxis] + np.arange(window)
  return frames % max(num_frames, 1) if tail == "loop" else np.minimum(frames, num_frames - 1)


def num_rows(options: profiles.FeatureConfig, num_frames: int) -> int:
  """Returns how many values an I3D's endpoint has for a video.

  Args:
    options: What is taken; the window is known.
    num_frames: Frames of the video after resampling.
  """
  num_positions = max(num_frames - options.needs_pairs - options.offset, 0)
  if options.window == profiles.ALL:
    steps = receptive_field.num_steps(inception_spec.time_layers(options.endpoints[0]), num_positions)
    return max(min(steps, 1) if options.pooling == "space_time" else steps, 0)
  return len(window_indices(num_positions, window=options.num_frames, hop=options.step, tail=options.tail))


def cut_windows(frames: Iterable[_Item], *, window: int, hop: int, tail: str, first: int = 0) -> Iterator[list[_Item]]:
  """Yields the windows of `window_indices`, of frames that come one after the other.

  The frames of two windows are held at most, however many there are.

  Args:
    frames: The frames.
    window: See `window_indices`.
    hop: See `window_indices`.
    tail: See `window_indices`; if windows are left out, not 'loop'.
    first: Number of windows to leave out; the frames begin with those of the next one.

  Yields:
    The `window` frames of each window; of the last one fewer, if tail is 'short'.
  """
  frames, start = iter(frames), first * hop
  held = beginning = list(itertools.islice(frames, window))
  while len(held) == window:
    yield held
    start += hop
    for _ in itertools.islice(frames, max(hop - window, 0)):
      pass  # between two windows
    held = [*held[hop:], *itertools.islice(frames, min(hop, window))]
  for row in window_indices(start + len(held), window=window, hop=hop, tail=tail)[start // hop :]:
    row = np.unique(row) if tail == "short" else row
    yield [held[index - start] if index >= start else beginning[index] for index in row]


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFeatures:
  """Features of one video in memory.

  Attributes:
    features: By stream ('rgb', 'flow' or 'joint') and endpoint, float32 `[N, ...]` of N windows, or of several crops
      `[N, crops, ...]`; of a window of all, N steps.
    timestamps: By stream and endpoint, float64 seconds into the video of the middle of what the values see.
    fps: Frames per second after resampling.
    num_frames: Frames, or flow fields, that were seen.
    config: How they were taken.
    notes: What was done with the video's frames, see `decode.iter_frames`.
    predictions: The best classes of each window, see `Features.predictions`, if they are asked for.
  """

  features: Mapping[str, Mapping[str, np.ndarray]]
  timestamps: Mapping[str, Mapping[str, np.ndarray]]
  fps: float
  num_frames: int
  config: profiles.FeatureConfig
  notes: tuple[str, ...] = ()
  predictions: Sequence[Mapping[str, Any]] = ()

  def __getitem__(self, stream: str) -> Mapping[str, np.ndarray]:
    return self.features[stream]


def extract_features(
  video: str | os.PathLike,
  checkpoint: str | os.PathLike | Mapping[str, str | os.PathLike] | Extractor = "rgb_imagenet",
  *,
  progress: bool = False,
  **options: Any,
) -> VideoFeatures:
  """Returns the features of a video, as `extract_features --profile=ours` writes them to files.

  Args:
    video: A video file, or one of records that holds a single video.
    checkpoint: Weights of any network: a released name, a path, or a run of train; by 'rgb' and 'flow' for both; or an
      `Extractor`, which saves loading them for every video.
    progress: Whether to show a progress bar on stderr.
    **options: Fields of `profiles.FeatureConfig`, such as endpoints, window, hop, crops, pooling and fps. The window
      can be 'all', for the whole video in exact chunks. A preset, one of `profiles.PRESETS`, sets those that are not
      given; the streams are the checkpoint's.

  Raises:
    VideoError: If the video cannot be read whole, or is too short.
    I3dError: If the options or networks do not fit.
    CheckpointError, DownloadError: If a checkpoint cannot be loaded.
  """
  if isinstance(checkpoint, Extractor):
    if options:
      raise errors.I3dError(f"{next(iter(options))} is given, but the extractor has its own options")
    extractor = checkpoint
  else:
    extractor = Extractor(_config(checkpoint, options))
  found = sources.list_sources([video])
  if len(found) != 1:
    raise errors.I3dError(f"{video} holds {len(found)} videos; give one, or use the program extract_features")
  with (
    tqdm.tqdm(unit="frame", disable=not progress) as bar,
    extractor.extract(found[0], on_frames=functools.partial(_show, bar)) as features,
  ):
    many = extractor.options.crops > 1
    arrays = {
      stream: {name: array.load() if many else array.load()[:, 0] for name, array in by_endpoint.items()}
      for stream, by_endpoint in features.arrays.items()
    }
    times = {name: features.timestamps(name) for name in extractor.options.endpoints}
    return VideoFeatures(
        arrays, dict.fromkeys(arrays, times), features.fps, features.num_positions, extractor.options, features.notes,
        features.predictions() if features.logits else (),
    )  # fmt: skip


def _config(checkpoint: Any, options: dict[str, Any]) -> profiles.FeatureConfig:
  if options.get("window") == "all":
    options = {**options, "window": profiles.ALL}
  preset = options.pop("preset", None)
  if "window" in options:  # a preset's hop is for its own window
    options = {"hop": None, **options}
  if not isinstance(checkpoint, Mapping):
    checkpoint = {saved.read(checkpoint)[1].stream: checkpoint}
  named = {f"{stream}_checkpoint": os.fspath(path) for stream, path in checkpoint.items()}
  streams = tuple(checkpoint) if "joint" not in checkpoint else clip_config.STREAMS
  given = {**named, "streams": streams, **options}
  return profiles.FeatureConfig(**given) if preset is None else profiles.from_preset(preset, **given)


def extract(
  source: sources.Source, extractor: Extractor, folder: results.Folder, *, bar: tqdm.tqdm | None = None
) -> results.Entry:
  """Returns the entry of a video whose features it extracts into files, also of one that cannot be used.

  Args:
    source: The video.
    extractor: The networks.
    folder: Where the files and the entry go.
    bar: Progress bar to move.

  Raises:
    OSError: If the output cannot be written.
    StoreError: If an object store of either fails.
  """
  start = time.monotonic()
  entry: results.Entry = {"input": source.name, "id": source.id, "content": source.content.facts()}
  journal = folder.journal(source.name, {"content": entry["content"], **extractor.meaning, "batch": extractor.batching})
  held = stores.fetched(source.path) if stores.is_remote(source.path) else contextlib.nullcontext()
  try:
    with held, extractor.extract(source, on_frames=functools.partial(_show, bar), journal=journal) as features:
      options = extractor.options
      files = dict(profiles.PROFILES[options.profile].files(features))
      if options.predictions is not None:
        name = f"{profiles.output_name(options.profile, source.id)}-predictions.{options.predictions}"
        files[name] = features.prediction_file(options.predictions)
      outputs = folder.write(files)
      entry |= {"outputs": outputs, "frames": features.num_positions, "fps": features.fps}
      if features.notes:
        entry["notes"] = list(features.notes)
    entry["seconds"] = round(time.monotonic() - start, 3)
  except errors.StoreError:
    raise
  except errors.OF_INPUT as error:
    if isinstance(error, OSError) and (error.filename is None or os.fspath(error.filename) not in source.files):
      raise  # it is the output that cannot be written: no reason to go on
    entry["error"] = errors.naming(source.path, errors.describe(error))
  finally:
    journal.close()
  folder.put(entry)
  journal.remove()
  return entry


def extract_in_worker(source: sources.Source, *, options: profiles.FeatureConfig, output: str) -> str:
  """Returns the video's name after doing the same in a process that may not have the networks yet.

  Args:
    source: The video.
    options: What is taken.
    output: Path of the output folder.
  """
  with _loading:  # else each thread of the process would load them
    extractor = _extractor(options)
  with decode.isolated():
    return extract(source, extractor, results.Folder(output))["input"]


_loading = threading.Lock()


@functools.cache
def _extractor(options: profiles.FeatureConfig) -> Extractor:
  return Extractor(options)


def _show(bar: tqdm.tqdm | None, done: int, total: int) -> None:
  if bar is not None:
    bar.total = max(done, total)
    bar.update(done - bar.n)
