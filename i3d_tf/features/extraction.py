"""From a video to the features of its windows, or of all of it in exact chunks, while it is being decoded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import itertools
import operator
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf.features import array_file
from i3d_tf.features import config
from i3d_tf.features import networks as networks_lib
from i3d_tf.features import sources
from i3d_tf.features import windows
from i3d_tf.inference import chunks
from i3d_tf.models import receptive_field

Arrays = dict[str, dict[str, array_file.ArrayFile]]
Layers = tuple[receptive_field.Layer, ...]


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
    layers: by endpoint the layers along time that lead to it; None if it has no steps of its own in time.
    stride: frames from one position of a clip to the next.
  """

  source: sources.Source
  options: config.FeatureConfig
  fps: float
  num_positions: int
  arrays: Mapping[str, Mapping[str, array_file.ArrayFile]]
  checkpoints: Mapping[str, str]
  weights: Mapping[str, str]
  layers: Mapping[str, Layers | None]
  stride: int

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
      middles = self._middles(endpoint, self.num_positions)
      return np.atleast_1d(middles) / self.fps
    starts = options.step * np.arange(self.num_windows)
    return np.add.outer(starts, self._middles(endpoint, options.num_frames)) / self.fps

  def window_ends(self) -> np.ndarray:
    """The number of the first frame behind each window, int64 `[N]`."""
    return self.options.step * np.arange(self.num_windows) + self.options.window

  def _middles(self, endpoint: str, num_frames: int) -> np.ndarray | float:
    return _middles(self.layers[endpoint], num_frames, self.stride, self.options.pooling)

  def _indices(self) -> np.ndarray:
    options = self.options
    return windows.indices(self.num_positions, window=options.window, hop=options.step, tail=options.tail)


def _middles(layers: Layers | None, num_frames: int, stride: int, pooling: str) -> np.ndarray | float:
  """Frames from the first to the middle of an endpoint's steps, `[steps]`, or of the clip if they are averaged."""
  if pooling == "space_time" or layers is None:
    return (num_frames - 1) / 2
  count = -(-num_frames // stride)
  first, end = receptive_field.seen(layers, (0, 1), count)
  steps = np.arange(receptive_field.num_steps(layers, count))
  return stride * ((first + end - 1) / 2 + receptive_field.stride(layers) * steps)


class _Counter:
  """Counts what passes."""

  def __init__(self):
    self.value = 0

  def count(self, items: Iterable) -> Iterator:
    for item in items:
      self.value += 1
      yield item


class Extractor:
  """Networks of the options' streams, ready for any number of videos.

  Attributes:
    options: What is taken, with the window's length.
    networks: By 'rgb', 'flow' or 'joint'.
  """

  def __init__(self, options: config.FeatureConfig):
    """Loads the networks.

    Args:
      options: What is taken.

    Raises:
      I3dError: If the networks do not go together, or do not have what is asked for.
      CheckpointError, DownloadError: If a checkpoint cannot be loaded.
    """
    self.networks = {stream: networks_lib.FeatureNetwork(stream, options) for stream in options.checkpoints}
    each = list(self.networks.values())
    for name, what in (("short_side", "frames with a shorter side"), ("stride", "every n-th frame, with an n")):
      values = {getattr(network, name) for network in each}
      if len(values) > 1:
        given = " and ".join(map(str, values))
        raise errors.I3dError(f"the networks were trained on {what} of {given}; give {name}, or take them apart")
    if options.window is None:
      options = dataclasses.replace(options, window=each[0].window)
    self.options = options
    for network in each:
      if options.window == config.ALL:
        network.check_chunks()
      else:
        network.check_window(options.num_frames)

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
      network = next(iter(self.networks.values()))
      yield Features(
          source, self.options, video.fps, num_positions, arrays,
          {stream: each.checkpoint for stream, each in self.networks.items()},
          {stream: each.weights for stream, each in self.networks.items()},
          {name: network.time_layers(name) for name in self.options.endpoints}, network.stride,
      )  # fmt: skip

  def _fill_windows(self, video: sources.Video, arrays: Arrays, on_frames: Callable[[int, int], None]) -> int:
    """Fills the arrays window by window, and returns the number of positions."""
    options = self.options
    counter = _Counter()
    cut = lambda frames: windows.cut(frames, window=options.num_frames, hop=options.step, tail=options.tail)
    # As many positions wait as a pass of the network takes, so that the next one need not wait.
    with sources.ahead(video.positions(), depth=options.num_batch * options.num_frames) as positions:
      clips = _together(self._stacked(positions, counter), cut)
      while batch := list(itertools.islice(clips, options.num_batch)):
        for stream, network in self.networks.items():
          clip = {
            each: np.stack([window[stream, each] for window in batch])[:, :: network.stride] for each in network.streams
          }
          for name, value in network(clip).items():
            arrays[stream][name].append(value)
        on_frames(counter.value, video.estimate)
    is_empty = not any(array.shape[0] for array in next(iter(arrays.values())).values())
    if is_empty and options.profile != "video_features":
      what = "frames" if options.streams == ("rgb",) else "frames with flow"
      fewer = f"the video has {counter.value} {what}, fewer than a window of {options.num_frames}"
      raise errors.VideoError(f"{fewer}; tail=pad or loop fills it up")
    return counter.value

  def _fill_whole(self, video: sources.Video, arrays: Arrays, on_frames: Callable[[int, int], None]) -> int:
    """Fills the arrays with the steps of the whole video, chunk by chunk, and returns the number of positions."""
    options = self.options
    num_positions = video.count() - options.needs_pairs - max(each.stack for each in self.networks.values()) + 1
    means = {stream: {name: _Mean() for name in options.endpoints} for stream in self.networks}
    counter = _Counter()
    pooling = "space" if options.pooling == "space_time" else options.pooling  # over time it is a mean of the chunks

    def cut(stream: str, frames: Iterator[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
      network = self.networks[stream]
      return chunks.extract(
          lambda clips: {name: value[0] for name, value in network({stream: clips}, pooling=pooling).items()},
          (frame[np.newaxis] for frame in itertools.islice(frames, 0, None, network.stride)),
          layers={name: network.time_layers(name) for name in options.endpoints},
          num_frames=-(-num_positions // network.stride), chunk=options.chunk,
      )  # fmt: skip

    with sources.ahead(video.positions(), depth=options.chunk) as positions:
      for piece in _by_stream(self._stacked(positions, counter), self.networks, cut):
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

  def _stacked(self, positions: Iterator[sources.Position], counter: _Counter) -> Iterator[dict]:
    """Yields the positions with the networks' stacks of flow by (network, stream), as long as all have theirs."""
    copies = itertools.tee(positions, len(self.networks))
    each = [network.stacked(copy) for network, copy in zip(self.networks.values(), copies, strict=True)]
    for together in zip(*each):
      yield from counter.count(
        [{(name, stream): frame for name, found in zip(self.networks, together) for stream, frame in found.items()}]
      )


class _Mean:
  """The mean over the first axis of arrays that come one after the other, in double precision."""

  def __init__(self):
    self._sum, self._count = 0.0, 0

  def add(self, rows: np.ndarray) -> None:
    self._sum = self._sum + rows.sum(axis=0, dtype=np.float64)
    self._count += len(rows)

  def value(self) -> np.ndarray:
    return (self._sum / self._count).astype(np.float32)


def _together(
  positions: Iterator[dict[tuple[str, str], np.ndarray]], cut: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]]
) -> Iterator[dict[tuple[str, str], np.ndarray]]:
  """Yields by key what `cut` makes of each key's frames; all are cut alike, so that no more than a piece waits."""
  first = next(positions, None)
  if first is None:
    return
  copies = itertools.tee(itertools.chain([first], positions), len(first))
  pieces = [cut(map(operator.itemgetter(key), copy)) for key, copy in zip(first, copies, strict=True)]
  for together in zip(*pieces, strict=True):
    yield dict(zip(first, together, strict=True))


def _by_stream(
  positions: Iterator[dict[tuple[str, str], np.ndarray]],
  streams: Iterable[str],
  cut: Callable[[str, Iterator[np.ndarray]], Iterator],
) -> Iterator[dict[str, Any]]:
  """Yields by stream what `cut` makes of the stream's frames, together; of the frames no more than a piece waits."""
  streams = tuple(streams)
  copies = itertools.tee(positions, len(streams))
  frames = [map(operator.itemgetter((stream, stream)), copy) for stream, copy in zip(streams, copies, strict=True)]
  pieces = [cut(stream, each) for stream, each in zip(streams, frames, strict=True)]
  for together in zip(*pieces, strict=True):
    yield dict(zip(streams, together, strict=True))
