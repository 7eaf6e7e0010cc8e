"""TV-L1 optical flow: the algorithm, parameters and defaults of OpenCV's DualTVL1, several times faster.

The method is that of Zach, Pock and Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow"
(DAGM 2007), explained in full by Sanchez, Meinhardt-Llopis and Facciolo, "TV-L1 Optical Flow Estimation"
(IPOL 2013). Where they leave a choice we follow opencv_contrib:modules/optflow/src/tvl1flow.cpp, CPU
branch, because the published I3D flow was computed with it by way of MediaPipe.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import dataclasses
import itertools
import math
import queue
from typing import Any

import cv2
import numpy as np

from i3d_tf import resources
from i3d_tf.flow import tvl1_filters
from i3d_tf.flow import tvl1_kernels

ENGINES = ("numba", "opencv")

_MIN_LEVEL = 16  # pixels: the pyramid ends before a side gets shorter
_MIN_SIDE = 3  # pixels: central differences need that many


def _check(name: str, value: float, is_valid: bool, allowed: str) -> None:
  if not is_valid:
    raise ValueError(f"{name} = {value!r}; allowed are {allowed}")


@dataclasses.dataclass(frozen=True)
class TvL1Params:
  """Parameters of TV-L1 with OpenCV's names and defaults.

  OpenCV's term for changing brightness (gamma, 0 by default) and its initial flow are not offered.
  """

  tau: float = 0.25  # time step of the dual iteration
  lambda_: float = 0.15  # weight of the data term: smaller is smoother
  theta: float = 0.3  # coupling of the data and smoothness terms
  nscales: int = 5  # most levels of the pyramid; fewer where a side would fall under 16 pixels
  warps: int = 5  # linearisations per level
  epsilon: float = 0.01  # pixels: stop when the root mean square change of the flow is no larger
  inner_iterations: int = 30  # at most, between median filters
  outer_iterations: int = 10  # at most, each beginning with a median filter
  scale_step: float = 0.8  # side of a level over that of the next finer one
  median_filtering: int = 5  # side of the filter's window; 1: no filter
  # OpenCV 5 samples the warped image at exact positions (0), OpenCV 4 at multiples of 1/32 pixel (32).
  warp_subpixels: int = 0

  def __post_init__(self):
    for name in ("nscales", "warps", "inner_iterations", "outer_iterations"):
      value = getattr(self, name)
      _check(name, value, isinstance(value, int) and value >= 1, "integers from 1")
    _check("tau", self.tau, 0 < self.tau <= 1, "numbers above 0, at most 1")
    _check("lambda_", self.lambda_, 0 < self.lambda_ < math.inf, "finite numbers above 0")
    _check("theta", self.theta, 0 < self.theta < math.inf, "finite numbers above 0")
    _check("epsilon", self.epsilon, 0 <= self.epsilon < math.inf, "finite numbers from 0")
    _check("scale_step", self.scale_step, 0 < self.scale_step < 1, "numbers between 0 and 1")
    _check("median_filtering", self.median_filtering, self.median_filtering in (1, 5), "1, 5")
    _check("warp_subpixels", self.warp_subpixels, self.warp_subpixels in (0, 32), "0, 32")


class TvL1:
  """Flow between frames of one size, in buffers that are reused from pair to pair.

  Use one instance per thread: it runs on the calling thread and lets others run meanwhile. Results depend
  on the two frames only.

  Attributes:
    counts: for each level, finest first, how many inner and outer iterations the last pair took.
  """

  def __init__(self, height: int, width: int, *, params: TvL1Params = TvL1Params()):
    """Allocates about 100 bytes per pixel; the first call of a process loads or compiles the kernels.

    Args:
      height: of the frames, in pixels.
      width: of the frames, in pixels.
      params: see `TvL1Params`.

    Raises:
      ValueError: a side is shorter than 3 pixels.
    """
    if min(height, width) < _MIN_SIDE:
      raise ValueError(f"frames of {height} x {width} pixels; allowed are sides from {_MIN_SIDE} pixels")
    self._params = params
    shapes = _level_shapes(height, width, params)
    self._scheme = _scheme(params)
    self._fields = _allocate_fields(height, width)
    self._source = np.empty(tvl1_filters.warped_size(height, width), np.float32)
    self._flows = [np.empty((2, *shape), np.float32) for shape in shapes]
    self._pyramids = [[np.empty(shape, np.float32) for shape in shapes] for _ in range(2)]
    self._seen = None  # the frame that the second pyramid was built from
    self.counts: list[tuple[int, int]] = [(0, 0)] * len(shapes)

  def flow(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Returns the flow from `previous` to `following`: [H, W, 2] float32, pixels per frame to the right and downwards.

    Args:
      previous: [H, W] uint8 gray frame.
      following: [H, W] uint8 gray frame, a step later.

    Raises:
      ValueError: a frame has another size or type.
    """
    for frame in (previous, following):
      if frame.shape != self._flows[0].shape[1:] or frame.dtype != np.uint8:
        raise ValueError(f"frame: {frame.dtype} {frame.shape}; allowed is uint8 {self._flows[0].shape[1:]}")
    if self._seen is None or not np.array_equal(previous, self._seen):
      self._build(previous, self._pyramids[1])
    self._pyramids.reverse()
    self._build(following, self._pyramids[1])
    self._seen = following.copy()
    self._solve()
    return np.stack([*self._flows[0]], axis=-1)

  def _build(self, frame: np.ndarray, pyramid: list[np.ndarray]) -> None:
    pyramid[0][...] = frame
    for fine, coarse in itertools.pairwise(pyramid):
      # OpenCV takes the step from the scale, not from the rounded sizes.
      tvl1_filters.resize(fine, coarse, 1 / self._params.scale_step, 1 / self._params.scale_step, np.float32(1))

  def _solve(self) -> None:
    self._flows[-1][...] = 0
    for level in reversed(range(len(self._flows))):
      flow = self._flows[level]
      self.counts[level] = tvl1_kernels.solve_level(
        self._pyramids[0][level], self._pyramids[1][level], flow, self._fields, self._scheme, self._source
      )
      if level > 0:
        finer = self._flows[level - 1]
        step_y, step_x = flow.shape[1] / finer.shape[1], flow.shape[2] / finer.shape[2]
        for component in range(2):
          tvl1_filters.resize(
            flow[component], finer[component], step_y, step_x, np.float32(1 / self._params.scale_step)
          )


def tvl1_flow(
  frames: np.ndarray,
  *,
  params: TvL1Params = TvL1Params(),
  engine: str = "numba",
  threads: int | None = None,
  on_pair: Callable[[int, int], None] | None = None,
) -> np.ndarray:
  """Returns the TV-L1 flow to the next frame, float32 `[T-1, H, W, 2]`, pixels: x to the right, y downwards.

  Args:
    frames: [T, H, W] gray or [T, H, W, 3] RGB, uint8.
    params: see `TvL1Params`.
    engine: "numba", or "opencv" (which needs the opencv-contrib package, warps by its own version's rule
      and agrees with "numba" about as well as with itself when its optimised code is switched off).
    threads: number of threads, shared out over pairs of frames by "numba" and within a pair by
      "opencv"; None: one per available processor. "numba" returns the same bits for any number.
    on_pair: called with (pairs done, pairs in all) after each pair.

  Raises:
    ValueError: `frames` are of another type, shape or size, or an argument is not one of those allowed.
    ImportError: engine "opencv" without opencv-contrib.
  """
  if engine not in ENGINES:
    raise ValueError(f"engine = {engine!r}; allowed are {', '.join(ENGINES)}")
  threads = _check_threads(threads)
  gray = _to_gray(frames)
  flow = np.empty((len(gray) - 1, *gray.shape[1:], 2), np.float32)
  fields = _numba_flow(gray, params, threads) if engine == "numba" else _opencv_flow(gray, params, threads)
  for pair, field in enumerate(fields):
    flow[pair] = field
    if on_pair is not None:
      on_pair(pair + 1, len(flow))
  return flow


def iter_flow(
  frames: Iterable[np.ndarray], *, params: TvL1Params = TvL1Params(), threads: int | None = None
) -> Iterator[np.ndarray]:
  """Returns an iterator over the flow, `[H, W, 2]`, that `tvl1_flow` returns, for videos of any length.

  The frames of twice as many pairs as there are threads are held at most.

  Args:
    frames: [H, W] gray or [H, W, 3] RGB, uint8, one after the other.
    params: see `TvL1Params`.
    threads: as of `tvl1_flow` with "numba".

  Raises:
    ValueError: as `tvl1_flow`.
  """
  threads = _check_threads(threads)
  return _numba_flow((_to_gray(frame[np.newaxis])[0] for frame in frames), params, threads)


def _check_threads(threads: int | None) -> int:
  if threads is not None and threads < 1:
    raise ValueError(f"threads = {threads!r}; allowed are None and integers from 1")
  return resources.available_cores() if threads is None else threads


def _numba_flow(gray: Iterable[np.ndarray], params: TvL1Params, threads: int) -> Iterator[np.ndarray]:
  """Yields the flow of each pair, in order, with a few pairs begun ahead if there are several threads."""
  solvers: queue.SimpleQueue[TvL1] = queue.SimpleQueue()

  def solve(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    try:
      solver = solvers.get_nowait()
    except queue.Empty:
      solver = TvL1(*pair[0].shape, params=params)
    field = solver.flow(*pair)
    solvers.put(solver)
    return field

  pairs = itertools.pairwise(gray)
  if threads == 1:
    yield from map(solve, pairs)
    return
  with futures.ThreadPoolExecutor(threads) as pool:
    begun = collections.deque(pool.submit(solve, pair) for pair in itertools.islice(pairs, 2 * threads))
    while begun:
      field = begun.popleft().result()
      begun.extend(pool.submit(solve, pair) for pair in itertools.islice(pairs, 1))
      yield field


def _opencv_flow(gray: np.ndarray, params: TvL1Params, threads: int) -> Iterator[np.ndarray]:
  """Yields the flow of each pair, in order."""
  if not hasattr(cv2, "optflow"):
    raise ImportError(
      "engine = 'opencv' needs cv2.optflow: install opencv-contrib-python-headless in place of opencv-python"
    )
  if params.warp_subpixels and not cv2.__version__.startswith("4."):
    raise ValueError(f"warp_subpixels = {params.warp_subpixels}: OpenCV {cv2.__version__} cannot; allowed is 0")
  threads_before = cv2.getNumThreads()
  cv2.setNumThreads(threads)
  try:
    # One object per call: it lowers its own number of scales for small frames, and keeps it.
    optflow: Any = cv2.optflow  # its type stubs are incomplete
    solver = optflow.DualTVL1OpticalFlow_create(
      params.tau,
      params.lambda_,
      params.theta,
      params.nscales,
      params.warps,
      params.epsilon,
      params.inner_iterations,
      params.outer_iterations,
      params.scale_step,
      0,
      params.median_filtering,
    )
    for previous, following in itertools.pairwise(gray):
      yield solver.calc(previous, following, None)
  finally:
    cv2.setNumThreads(threads_before)


def _to_gray(frames: np.ndarray) -> np.ndarray:
  """Checks `frames` and returns them as [T, H, W] uint8."""
  is_rgb = frames.ndim == 4 and frames.shape[-1] == 3
  if frames.dtype != np.uint8 or not (is_rgb or frames.ndim == 3) or len(frames) < 1:
    raise ValueError(f"frames: {frames.dtype} {frames.shape}; allowed are uint8 [T, H, W] and [T, H, W, 3], T from 1")
  if not is_rgb:
    return frames
  return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def _level_shapes(height: int, width: int, params: TvL1Params) -> Sequence[tuple[int, int]]:
  """Sizes of the pyramid's levels, finest first."""
  shapes = [(height, width)]
  while len(shapes) < params.nscales:
    height, width = round(height * params.scale_step), round(width * params.scale_step)
    if min(height, width) < _MIN_LEVEL:
      break
    shapes.append((height, width))
  return shapes


def _scheme(params: TvL1Params) -> tvl1_filters.Scheme:
  return tvl1_filters.Scheme(
    tau_theta=np.float32(params.tau / params.theta),
    theta=np.float32(params.theta),
    threshold=np.float32(params.lambda_ * params.theta),
    epsilon=float(params.epsilon),
    num_warps=params.warps,
    num_outer=params.outer_iterations,
    num_inner=params.inner_iterations,
    use_median=params.median_filtering > 1,
    subpixels=np.float32(params.warp_subpixels),
  )


def _allocate_fields(height: int, width: int) -> tvl1_filters.Fields:
  """Allocates the planes, each on a cache line and at another place in its memory page.

  Ten planes are read in step. If they all began at the same place of a page, their rows would compete
  for the same few entries of the first-level cache; that costs about 10 %.
  """
  line, page = tvl1_filters.LANES, 4096 // np.dtype(np.float32).itemsize
  names = tvl1_filters.Fields._fields
  size = tvl1_filters.plane_size(height, width)
  distance = -(-size // page) * page + 7 * line
  store = np.zeros(len(names) * distance + line, np.float32)
  first = -(store.ctypes.data // store.itemsize) % line
  return tvl1_filters.Fields(*(store[first + i * distance :][:size] for i in range(len(names))))
