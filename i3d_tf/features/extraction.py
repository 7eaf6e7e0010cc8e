"""From a video to the features of its windows, or of all of it in exact chunks, while it is being decoded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import itertools
import operator

import numpy as np

from i3d_tf import errors
from i3d_tf.features import array_file
from i3d_tf.features import config
from i3d_tf.features import networks as networks_lib
from i3d_tf.features import sources
from i3d_tf.features import windows
from i3d_tf.inference import chunks
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import receptive_field

Arrays = dict[str, dict[str, array_file.ArrayFile]]


@dataclasses.dataclass(frozen=True)
class Features:
  """What was taken of one video.

  Attributes:
    source: the video.
    options: how.
    fps: frames per second after resampling.
    num_positions: frames, or flows, that were seen.
    arrays: by stream and endpoint `[N, crops, ...]`, of N windows; of all of a video N steps.
    checkpoints, weights: by stream, the checkpoint's name and the checksum of its variables.
  """

  source: sources.Source
  options: config.Options
  fps: float
  num_positions: int
  arrays: Mapping[str, Mapping[str, array_file.ArrayFile]]
  checkpoints: Mapping[str, str]
  weights: Mapping[str, str]

  @property
  def num_windows(self) -> int:
    """How many windows there are, without a look at the arrays."""
    if self.options.window == config.ALL:
      return 1
    return len(self._indices())

  def timestamps(self, endpoint: str) -> np.ndarray:
    """Seconds into the video of the middle of what the endpoint's values see, padding counted: float64.

    `[N]`, or `[N, steps]` of windows whose steps are kept apart.
    """
    options = self.options
    if options.window == config.ALL:
      middles = _middles(endpoint, self.num_positions, options.pooling)
      return np.atleast_1d(middles) / self.fps
    starts = options.step * np.arange(self.num_windows)
    return np.add.outer(starts, _middles(endpoint, options.window, options.pooling)) / self.fps

  def window_ends(self) -> np.ndarray:
    """The number of the first frame behind each window, int64 `[N]`."""
    return self.options.step * np.arange(self.num_windows) + self.options.window

  def _indices(self) -> np.ndarray:
    options = self.options
    return windows.indices(self.num_positions, window=options.window, hop=options.step, tail=options.tail)


def _middles(endpoint: str, num_frames: int, pooling: str) -> np.ndarray | float:
  """Frames from the first to the middle of an endpoint's steps, `[steps]`, or of the clip if they are averaged."""
  if pooling == "space_time" or endpoint != config.steps_endpoint(endpoint):
    return (num_frames - 1) / 2
  layers = spec.time_layers(endpoint)
  first, end = receptive_field.seen(layers, (0, 1), num_frames)
  steps = np.arange(receptive_field.num_steps(layers, num_frames))
  return (first + end - 1) / 2 + receptive_field.stride(layers) * steps


class Extractor:
  """Networks of the options' streams, ready for any number of videos."""

  def __init__(self, options: config.Options):
    """Loads the networks; I3dError if they cannot be, or do not go together."""
    self.options = options
    self.networks = {stream: networks_lib.StreamNetwork(stream, options) for stream in options.streams}
    sides = {network.short_side for network in self.networks.values()}
    if len(sides) > 1:
      given = " and ".join(map(str, sides))
      raise errors.I3dError(f"the networks were trained on frames with a shorter side of {given}; give --short_side")

  @functools.cached_property
  def meaning(self) -> dict:
    """All that the features depend on beside the videos; for JSON."""
    network = next(iter(self.networks.values()))
    return {
      **self.options.meaning(),
      "short_side": network.short_side,
      "crop": {stream: each.crop for stream, each in self.networks.items()},
      "weights": {stream: each.weights for stream, each in self.networks.items()},
    }

  def open(self, source: sources.Source) -> sources.Video:
    """Opens a video; see `sources.open_video`."""
    options = self.options
    return sources.open_video(
        source, streams=options.streams, pairs=options.needs_pairs, fps=options.fps,
        short_side=next(iter(self.networks.values())).short_side, threads=options.threads,
    )  # fmt: skip

  @contextlib.contextmanager
  def extract(
    self,
    source: sources.Source,
    *,
    video: sources.Video | None = None,
    on_frames: Callable[[int, int], None] = lambda done, total: None,
  ) -> Iterator[Features]:
    """Gives the features of a video; their temporary files are removed at the end of the body.

    Args:
      source: the video.
      video: the same, if it has been opened.
      on_frames: called with (frames done, frames in all), the last an estimate, after each pass of the network.

    Raises:
      I3dError, OSError: if the video cannot be read whole, or is too short.
    """
    with contextlib.ExitStack() as stack:
      arrays = {
        stream: {name: stack.enter_context(array_file.ArrayFile()) for name in self.options.endpoints}
        for stream in self.networks
      }
      try:
        video = self.open(source) if video is None else video
        fill = self._fill_whole if self.options.window == config.ALL else self._fill_windows
        num_positions = fill(video, arrays, on_frames)
      except errors.I3dError as error:
        raise error if source.path in str(error) else type(error)(f"{source.name}: {error}") from None
      yield Features(
          source, self.options, video.fps, num_positions, arrays,
          {stream: each.checkpoint for stream, each in self.networks.items()},
          {stream: each.weights for stream, each in self.networks.items()},
      )  # fmt: skip

  def _fill_windows(self, video: sources.Video, arrays: Arrays, on_frames: Callable[[int, int], None]) -> int:
    """Fills the arrays window by window, and returns the number of positions."""
    options = self.options
    counter = _Counter()
    cut = lambda _, frames: windows.cut(frames, window=options.window, hop=options.step, tail=options.tail)
    # As many positions wait as a pass of the network takes, so that the next one need not wait.
    with sources.ahead(video.positions(), depth=options.num_batch * options.window) as positions:
      clips = _by_stream(counter.count(positions), self.networks, cut)
      while batch := list(itertools.islice(clips, options.num_batch)):
        for stream, network in self.networks.items():
          for name, value in network(np.stack([clip[stream] for clip in batch])).items():
            arrays[stream][name].append(value)
        on_frames(counter.value, video.estimate)
    if not any(array.shape[0] for array in arrays[options.streams[0]].values()) and options.profile != "video_features":
      what = "frames" if options.streams == ("rgb",) else "frames with flow"
      raise errors.VideoError(
        f"the video has {counter.value} {what}, fewer than a window of {options.window}; tail=pad or loop fills it up"
      )
    return counter.value

  def _fill_whole(self, video: sources.Video, arrays: Arrays, on_frames: Callable[[int, int], None]) -> int:
    """Fills the arrays with the steps of the whole video, chunk by chunk, and returns the number of positions."""
    options = self.options
    num_positions = video.count() - options.needs_pairs
    means = {stream: {name: _Mean() for name in options.endpoints} for stream in self.networks}
    counter = _Counter()
    pooling = "space" if options.pooling == "space_time" else options.pooling  # over time it is a mean of the chunks

    def cut(stream: str, frames: Iterator[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
      network = self.networks[stream]
      return chunks.extract(
          lambda clips: {name: value[0] for name, value in network(clips, pooling=pooling).items()},
          (frame[np.newaxis] for frame in frames),
          layers={name: spec.time_layers(name) for name in options.endpoints}, num_frames=num_positions,
          chunk=options.chunk,
      )  # fmt: skip

    with sources.ahead(video.positions(), depth=options.chunk) as positions:
      for piece in _by_stream(counter.count(positions), self.networks, cut):
        for stream, values in piece.items():
          for name, value in values.items():
            steps = np.swapaxes(value, 0, 1)  # [steps, crops, ...]
            if options.pooling == "space_time":
              means[stream][name].add(steps)
            else:
              arrays[stream][name].append(steps)
        on_frames(counter.value, num_positions)
    if options.pooling == "space_time":
      for stream, by_name in means.items():
        for name, mean in by_name.items():
          arrays[stream][name].append(mean.value()[np.newaxis])
    return num_positions


class _Counter:
  """Counts what passes."""

  def __init__(self):
    self.value = 0

  def count(self, items: Iterable) -> Iterator:
    for item in items:
      self.value += 1
      yield item


class _Mean:
  """The mean over the first axis of arrays that come one after the other, in double precision."""

  def __init__(self):
    self._sum, self._count = 0.0, 0

  def add(self, rows: np.ndarray) -> None:
    self._sum = self._sum + rows.sum(axis=0, dtype=np.float64)
    self._count += len(rows)

  def value(self) -> np.ndarray:
    return (self._sum / self._count).astype(np.float32)


def _by_stream(
  positions: Iterator[sources.Position],
  streams: Iterable[str],
  cut: Callable[[str, Iterator[np.ndarray]], Iterator],
) -> Iterator[dict]:
  """Yields by stream what `cut` makes of the stream's frames, together.

  The streams are cut alike, so that of the frames that one has seen and another has not there are no more than a piece.
  """
  streams = tuple(streams)
  copies = itertools.tee(positions, len(streams))
  pieces = [cut(stream, map(operator.itemgetter(stream), copy)) for stream, copy in zip(streams, copies, strict=True)]
  for together in zip(*pieces, strict=True):
    yield dict(zip(streams, together, strict=True))
