"""Seconds of feature extraction per second of video, beside each of its stages alone; and memory for longer videos."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import benchmarks
from i3d_tf import errors
from i3d_tf import flow
from i3d_tf import resources
from i3d_tf.features import extraction
from i3d_tf.features import profiles
from i3d_tf.features import sources as sources_lib
from i3d_tf.models import preprocess
from i3d_tf.video import decode
from i3d_tf.weights import saved


@dataclasses.dataclass(frozen=True)
class ExtractionBenchmark:
  """What to measure: extraction with I3D networks of random weights, whose cost is that of trained ones.

  Attributes:
    rounds: rounds that are counted.
    video: the video.
    streams: 'rgb', 'flow' or both.
    endpoint: the features.
    window: frames of a window; 0: the whole video.
    short_side, crop: pixels, as the networks have them.
    threads: for optical flow, in its stage alone and in the whole; None: one per core.
    lengths: seconds of videos, made by repeating this one, of which the peak memory is measured.
  """

  rounds: int
  video: str
  streams: tuple[str, ...] = ("rgb",)
  endpoint: str = "PooledFeatures"
  window: int = 64
  short_side: int = 256
  crop: int = 224
  threads: int | None = None
  lengths: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExtractionReport:
  """What was measured.

  Stages are medians over the rounds, in seconds per second of video, each run alone with its input in memory: 'decode',
  'flow' if a stream takes it, and 'network' for all streams. A ratio is the median of the ratios of each round: of the
  whole to the largest stage, to the sum of the stages, and to the flow alone. Peak bytes are those of a process that
  does nothing else, by seconds of video.
  """

  machine: str
  tensorflow: str
  video: str
  streams: tuple[str, ...]
  endpoint: str
  window: int
  frames: int
  crop: int
  video_seconds: float
  stages: dict[str, float]
  end_to_end: float
  ratio_to_largest: float
  ratio_to_sum: float
  ratio_to_flow: float | None
  peak_bytes: dict[str, int]

  def __str__(self) -> str:
    """The report as lines of text."""
    window = "all of the video" if self.window == profiles.ALL else f"windows of {self.window} frames"
    lines = [
      f"machine         {self.machine}; TensorFlow {self.tensorflow}",
      f"video           {self.video_seconds:.2f} s, {self.frames} frames, of {os.path.basename(self.video)}",
      f"features        {self.endpoint} of {' and '.join(self.streams)}, {window}, {self.crop}x{self.crop}",
      *(f"{name:15} {seconds:.3f} s per second of video, alone" for name, seconds in self.stages.items()),
      f"end to end      {self.end_to_end:.3f} s per second of video: {self.ratio_to_largest:.2f} of the largest "
      f"stage, {self.ratio_to_sum:.2f} of their sum",
    ]
    if self.ratio_to_flow is not None:
      lines.append(f"                {self.ratio_to_flow:.2f} of the flow alone")
    lines += [f"peak memory     {peak / 1e6:.0f} MB for {length} s" for length, peak in self.peak_bytes.items()]
    return "\n".join(lines)


def measure(options: ExtractionBenchmark) -> ExtractionReport:
  """Returns measurements of the extraction of features from a video.

  Args:
    options: what to measure.

  Raises:
    I3dError: if the video cannot be used.
  """
  with tempfile.TemporaryDirectory() as folder:
    checkpoints: dict[str, Any] = {
      f"{stream}_checkpoint": _make_network(folder, stream, options) for stream in options.streams
    }
    extractor = extraction.Extractor(
      profiles.FeatureConfig(
        streams=options.streams,
        endpoints=(options.endpoint,),
        window=options.window,
        tail="pad",
        pooling="space",
        threads=options.threads,
        **checkpoints,
      )  # fmt: skip
    )
    source = sources_lib.Source(options.video, "video", options.video)
    frames = list(decode.iter_frames(options.video, short_side=options.short_side))
    tasks = _stages(extractor, options, source, frames)
    seconds = benchmarks.in_turn({**tasks, "end to end": lambda: _run(extractor, source, None)}, options.rounds)
    peaks = {f"{length:g}": _peak_bytes(folder, checkpoints, options, frames, length) for length in options.lengths}
  whole, stages = seconds.pop("end to end"), seconds
  video_seconds = len(frames) / decode.FRAME_RATE
  largest, total = ([function(each) for each in zip(*stages.values(), strict=True)] for function in (max, sum))
  return ExtractionReport(
    machine=resources.machine(),
    tensorflow=tf.__version__,
    video=options.video,
    streams=options.streams,
    endpoint=options.endpoint,
    window=options.window,
    frames=len(frames),
    crop=options.crop,
    video_seconds=video_seconds,
    stages={name: statistics.median(each) / video_seconds for name, each in stages.items()},
    end_to_end=statistics.median(whole) / video_seconds,
    ratio_to_largest=benchmarks.median_ratio(whole, largest),
    ratio_to_sum=benchmarks.median_ratio(whole, total),
    ratio_to_flow=benchmarks.median_ratio(whole, stages["flow"]) if "flow" in stages else None,
    peak_bytes=peaks,
  )


def _make_network(folder: str, stream: str, options: ExtractionBenchmark) -> str:
  """Writes a network with random weights; returns its folder."""
  clip = preprocess.Preprocess(short_side=options.short_side, crop=options.crop)
  info = saved.ModelInfo(stream=stream, num_classes=400, preprocess=clip)
  path = os.path.join(folder, stream)
  os.mkdir(path)
  saved.save(path, saved.make_model(info), info)
  return path


def _stages(
  extractor: extraction.Extractor,
  options: ExtractionBenchmark,
  source: sources_lib.Source,
  frames: Sequence[np.ndarray],
) -> dict[str, Callable[[], None]]:
  """Returns a task for each stage, run alone."""
  stages = {"decode": lambda: _exhaust(decode.iter_frames(options.video, short_side=options.short_side))}
  if "flow" in options.streams:
    stages["flow"] = lambda: _exhaust(flow.Estimator(threads=options.threads).iterate(frames))
  positions = list(sources_lib.iter_positions(iter(frames), streams=options.streams, pairs="flow" in options.streams))
  video = sources_lib.Video(decode.FRAME_RATE, len(frames), lambda: len(frames), lambda first: iter(positions[first:]))
  stages["network"] = lambda: _run(extractor, source, video)
  return stages


def _exhaust(items: Iterator) -> None:
  for _ in items:
    pass


def _run(extractor: extraction.Extractor, source: sources_lib.Source, video: sources_lib.Video | None) -> None:
  with extractor.extract(source, video=video):
    pass


def _peak_bytes(
  folder: str, checkpoints: dict[str, str], options: ExtractionBenchmark, frames: Sequence[np.ndarray], seconds: float
) -> int:
  """Measures the peak memory of a process that extracts features from a video of `seconds`."""
  path = pathlib.Path(folder) / f"{seconds:g}.mp4"
  height, width = frames[0].shape[:2]
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), decode.FRAME_RATE, (width, height))
  for frame in itertools.islice(itertools.cycle(frames), round(seconds * decode.FRAME_RATE)):
    writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
  writer.release()
  window = "all" if options.window == profiles.ALL else str(options.window)
  command = [
      sys.executable, "-m", "i3d_tf.extract_features", f"--input={path}", f"--output={folder}/{seconds:g}",
      f"--streams={','.join(options.streams)}", f"--endpoints={options.endpoint}", f"--window={window}",
      "--pooling=space", *(f"--{name}={value}" for name, value in checkpoints.items()),
  ]  # fmt: skip
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  path.unlink()
  if process.returncode:
    raise errors.I3dError(f"extract_features failed with status {process.returncode} on a video of {seconds:g} s")
  return benchmarks.peak_memory_bytes(usage)
