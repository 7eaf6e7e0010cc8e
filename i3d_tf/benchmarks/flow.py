"""Milliseconds per pair of frames of this project's TV-L1 and of OpenCV's, and what ours are spent on."""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import os
import statistics
import time

import cv2
import numpy as np

from i3d_tf import benchmarks
from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import workers
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.flow import tvl1_filters
from i3d_tf.flow import tvl1_kernels
from i3d_tf.video import decode

_ENGINES = ("numba", "opencv")  # that are compared
_SIZE = (340, 256)  # pixels: a Kinetics frame of shorter side 256


@dataclasses.dataclass(frozen=True)
class FlowBenchmark:
  """What to measure.

  Attributes:
    rounds: rounds that are counted.
    video: a video, whose frames are resized to 340x256 pixels.
    images: in place of a video, two image files in their own size.
    first: the first frame of the video to use, at 25 per second.
    pairs: how many consecutive pairs of frames.
  """

  rounds: int
  video: str | None = None
  images: tuple[str, str] | None = None
  first: int = 0
  pairs: int = 4


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Medians of milliseconds per pair with a number of threads; `ratio` is OpenCV's time to ours, as a median, too."""

  threads: int
  milliseconds: float
  opencv_milliseconds: float
  ratio: float


@dataclasses.dataclass(frozen=True)
class FlowReport:
  """What was measured.

  `shares` are the shares of each kernel in the time of one thread: the time of one call times the number of calls.
  End-point differences between our flow and OpenCV's are in pixels. Memory is what one pair adds to the peak of the
  process.
  """

  machine: str
  opencv: str
  source: str
  size: tuple[int, int]
  pairs: int
  comparisons: list[Comparison]
  mean_end_point_difference: float
  percent_within_tenth: float
  shares: dict[str, float]
  nanoseconds_per_pixel_iteration: float
  peak_bytes_of_a_pair: int

  def __str__(self) -> str:
    """The report as lines of text."""
    width, height = self.size
    lines = [
      f"machine         {self.machine}; OpenCV {self.opencv}",
      f"frames          {self.pairs} pairs of {width}x{height} of {os.path.basename(self.source)}",
    ]
    for c in self.comparisons:
      lines.append(
        f"{c.threads} thread{'s' * (c.threads > 1):1}       ours {c.milliseconds:.1f} ms a pair, OpenCV "
        f"{c.opencv_milliseconds:.0f} ms: {c.ratio:.1f} times as fast"
      )
    lines += [
      f"difference      mean {self.mean_end_point_difference:.4f} px, {self.percent_within_tenth:.2f} % of the "
      "pixels within 0.1 px",
      "one thread      " + ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items()),
      f"inner loop      {self.nanoseconds_per_pixel_iteration:.2f} ns per pixel and iteration",
      f"memory          {self.peak_bytes_of_a_pair / 1e6:.0f} MB for one pair",
    ]
    return "\n".join(lines)


def measure(options: FlowBenchmark) -> FlowReport:
  """Returns measurements of both implementations; OpenCV takes one to ten seconds per pair and round.

  Args:
    options: what to measure.

  Raises:
    I3dError: unless there are a video, or two images, with two frames to read.
  """
  if (options.video is None) == (options.images is None):
    raise errors.I3dError("video and images: give one of them")
  frames = _read(options)
  tvl1.tvl1_flow(frames[:2, :32, :32])  # loads or compiles the kernels
  before = benchmarks.peak_memory_bytes()
  tvl1.tvl1_flow(frames[:2])
  peak = benchmarks.peak_memory_bytes() - before
  # OpenCV 4 warps at multiples of 1/32 pixel; equal parameters are those of the OpenCV that is there.
  params = tvl1.TvL1Params(warp_subpixels=32 if cv2.__version__.startswith("4.") else 0)
  difference = codec.end_point_error(*(tvl1.tvl1_flow(frames, params=params, engine=e) for e in _ENGINES))
  comparisons = [_compare(frames, params, threads, options.rounds) for threads in (1, workers.available_cores())]
  shares, per_iteration = _breakdown(frames, params)
  return FlowReport(
    machine=resources.machine(),
    opencv=cv2.__version__,
    source=options.video or " and ".join(options.images or ()),
    size=frames.shape[:0:-1],
    pairs=len(frames) - 1,
    comparisons=comparisons,
    mean_end_point_difference=float(difference.mean()),
    percent_within_tenth=float((difference < 0.1).mean() * 100),
    shares=shares,
    nanoseconds_per_pixel_iteration=per_iteration,
    peak_bytes_of_a_pair=peak,
  )


def _read(options: FlowBenchmark) -> np.ndarray:
  """Reads the gray frames, uint8 `[pairs + 1, H, W]`."""
  if options.video is None:
    paths = options.images or ()
    images = [image for image in (cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in paths) if image is not None]
    if len(images) != 2:
      raise errors.I3dError(f"{' and '.join(paths)}: these are not two images that OpenCV can read")
    return np.stack(images)
  wanted = itertools.islice(
    decode.iter_frames(options.video, short_side=None), options.first, options.first + options.pairs + 1
  )
  frames = [cv2.cvtColor(cv2.resize(f, _SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for f in wanted]
  if len(frames) < 2:
    raise errors.I3dError(f"{options.video}: there are no two frames from frame {options.first} on")
  return np.stack(frames)


def _compare(frames: np.ndarray, params: tvl1.TvL1Params, threads: int, rounds: int) -> Comparison:
  tasks = {engine: functools.partial(_run, frames, params, engine, threads) for engine in _ENGINES}
  seconds = benchmarks.in_turn(tasks, rounds)
  ours, opencv = (statistics.median(seconds[engine]) * 1000 / (len(frames) - 1) for engine in _ENGINES)
  return Comparison(threads, ours, opencv, benchmarks.median_ratio(seconds["opencv"], seconds["numba"]))


def _run(frames: np.ndarray, params: tvl1.TvL1Params, engine: str, threads: int) -> None:
  tvl1.tvl1_flow(frames, params=params, engine=engine, threads=threads)


def _breakdown(frames: np.ndarray, params: tvl1.TvL1Params) -> tuple[dict[str, float], float]:
  """Measures the share of each kernel in our time, and nanoseconds per pixel and inner iteration."""
  solver = tvl1.TvL1(*frames.shape[1:], params=params)
  totals = dict.fromkeys(("inner loop", "median", "warps", "pyramid", "set-up"), 0.0)
  pixel_iterations = 0
  for previous, following in itertools.pairwise(frames):
    solver.flow(previous, following)
    for level, (num_inner, num_outer) in enumerate(solver.counts):
      pixel_iterations += num_inner * solver._pyramids[0][level].size
      costs = _kernel_seconds(solver, level)
      totals["inner loop"] += num_inner * costs["iterate"]
      totals["median"] += 2 * num_outer * costs["median"]
      totals["warps"] += params.warps * costs["linearise"]
      totals["set-up"] += costs["interleave"] + costs["load"]
      totals["pyramid"] += (2 + 2) * costs["resize"] * (level > 0)
  whole = sum(totals.values())
  shares = {name: seconds / whole for name, seconds in totals.items()}
  return shares, totals["inner loop"] / pixel_iterations * 1e9


def _kernel_seconds(solver: tvl1.TvL1, level: int) -> dict[str, float]:
  """Measures the seconds of one call of each kernel at one level, on the fields that the last pair left."""
  image, level_flow = solver._pyramids[0][level], solver._flows[level]
  height, width = image.shape
  fields, scheme, source = solver._fields, solver._scheme, solver._source
  inside = np.ones(tvl1_filters.padded_width(width), np.float32)
  calls = {
    "load": lambda: tvl1_kernels._load(level_flow, fields, height, width),
    "interleave": lambda: tvl1_filters.interleave(image, source),
    "linearise": lambda: tvl1_kernels._linearise(image, source, fields, scheme.subpixels),
    "median": lambda: tvl1_kernels._filter_median(fields.u, fields.filtered_u, height, width),
    "iterate": lambda: tvl1_kernels._iterate(fields, scheme, inside, height, width),
    "resize": lambda: tvl1_filters.resize(image, level_flow[0].copy(), 1.0, 1.0, np.float32(1)),
  }
  return {name: min(_seconds(call) for _ in range(5)) for name, call in calls.items()}


def _seconds(call: Callable[[], object]) -> float:
  start = time.thread_time()
  call()
  return time.thread_time() - start
