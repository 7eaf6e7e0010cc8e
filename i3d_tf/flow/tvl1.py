"""TV-L1 optical flow: the algorithm, parameters and defaults of OpenCV's DualTVL1, several times faster.

The method is that of Zach, Pock and Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow"
(DAGM 2007), explained in full by Sanchez, Meinhardt-Llopis and Facciolo, "TV-L1 Optical Flow Estimation"
(IPOL 2013). Where they leave a choice we follow opencv_contrib:modules/optflow/src/tvl1flow.cpp, CPU
branch, because the published I3D flow was computed with it by way of MediaPipe.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import math
import pathlib
import threading
import types

import numpy as np

from i3d_tf import flow as flow_lib
from i3d_tf.flow import tvl1_filters
from i3d_tf.flow import tvl1_kernels

# The methods of `flow.METHODS` by engine.
ENGINES = types.MappingProxyType({"numba": "tvl1", "opencv": "tvl1_opencv", "tensorflow": "tvl1_tensorflow"})

MIN_LEVEL = 16  # pixels: the pyramid ends before a side gets shorter
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


def check_size(height: int, width: int) -> None:
  """Checks the size of frames.

  Args:
    height: in pixels.
    width: in pixels.

  Raises:
    ValueError: a side is shorter than 3 pixels.
  """
  if min(height, width) < _MIN_SIDE:
    raise ValueError(f"frames of {height} x {width} pixels; allowed are sides from {_MIN_SIDE} pixels")


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
    check_size(height, width)
    _check_kernels()
    self._params = params
    shapes = level_shapes(height, width, params)
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


_checking = threading.RLock()
_is_checked = False


def _check_kernels() -> None:
  """Computes a small flow once in a process, so that kernels whose code on disk is damaged are compiled anew."""
  global _is_checked
  with _checking:
    if _is_checked:
      return
    _is_checked = True
    frame = np.zeros((2 * MIN_LEVEL, 2 * MIN_LEVEL), np.uint8)  # of several levels, so that all kernels are called
    try:
      TvL1(*frame.shape).flow(frame, frame)
    except Exception:  # whatever unpickling a damaged file raises
      for kernel in (tvl1_filters.resize, tvl1_kernels.solve_level):
        for path in pathlib.Path(kernel.stats.cache_path).glob("tvl1_*.nb[ci]"):
          path.unlink(missing_ok=True)


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
    engine: "numba"; "opencv" (which needs the opencv-contrib package, warps by its own version's rule and agrees with
      "numba" about as well as with itself when its optimised code is switched off); or "tensorflow", for GPUs.
    threads: number of threads, shared out over pairs of frames by "numba" and within a pair by
      "opencv"; None: one per available processor. "numba" returns the same bits for any number.
    on_pair: called with (pairs done, pairs in all) after each pair.

  Raises:
    ValueError: `frames` are of another type, shape or size, or an argument is not one of those allowed.
    ImportError: engine "opencv" without opencv-contrib.
  """
  if engine not in ENGINES:
    raise ValueError(f"engine = {engine!r}; allowed are {', '.join(ENGINES)}")
  return flow_lib.optical_flow(frames, ENGINES[engine], params=params, threads=threads, on_pair=on_pair)


def level_shapes(height: int, width: int, params: TvL1Params) -> Sequence[tuple[int, int]]:
  """Returns the sizes of the pyramid's levels, finest first.

  Args:
    height: of the frames, in pixels.
    width: of the frames, in pixels.
    params: see `TvL1Params`.
  """
  shapes = [(height, width)]
  while len(shapes) < params.nscales:
    height, width = round(height * params.scale_step), round(width * params.scale_step)
    if min(height, width) < MIN_LEVEL:
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
