"""Optical flow by one of `METHODS`: `optical_flow` of frames, `Estimator` of streams of them, `FlowConfig` in programs.

Modules of the package compute it, encode, stack and draw it. Numba and TensorFlow are loaded when they are needed.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import contextlib
import dataclasses
import functools
import itertools
import queue
import threading
import types
from typing import Any, TypeAlias

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import workers

# Maps N + 1 consecutive frames of one size to their flow, float32 `[N, H, W, 2]`.
Solver: TypeAlias = Callable[[list[np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Method:
  """How flow is computed.

  Attributes:
    parameters: Returns the dataclass of its parameters; called when they are needed, since that may load a library.
    open: Takes height, width, parameters and threads, and returns a solver, which keeps its buffers.
    takes_rgb: Whether the solver takes RGB, `[H, W, 3]`, rather than gray, `[H, W]`.
    pairs: Pairs of frames that the solver takes at once.
    is_shared_out: Whether pairs are shared out over threads, with a solver each; others use threads within a pair.
    engine_of: The method of which it is another implementation, with the same parameters; '' for none.
  """

  parameters: Callable[[], type]
  open: Callable[[int, int, Any, int], Solver]
  takes_rgb: bool = False
  pairs: int = 1
  is_shared_out: bool = False
  engine_of: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisParams:
  """Parameters of dense inverse search (Kroeger et al., arXiv 1603.03590), as OpenCV's DISOpticalFlow has it.

  Attributes:
    preset: OpenCV's settings, from fast to accurate: ultrafast, fast or medium.
  """

  preset: str = fields.option("medium", choices=("ultrafast", "fast", "medium"))

  def __post_init__(self):
    fields.check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RaftParams:
  """Parameters of RAFT-small.

  Attributes:
    updates: How often the flow is refined; its authors test with 12 to 32.
    weights: Its weights: raft_small, which are the published ones, or a file of PyTorch's.
  """

  updates: int = fields.option(12, least=1, most=1000)
  weights: str = "raft_small"

  def __post_init__(self):
    fields.check(self)


def _tvl1_params() -> type:
  from i3d_tf.flow import tvl1  # loads Numba

  return tvl1.TvL1Params


def _open_tvl1(height: int, width: int, params: Any, threads: int) -> Solver:
  del threads
  from i3d_tf.flow import tvl1  # loads Numba

  solver = tvl1.TvL1(height, width, params=params)
  return lambda frames: solver.flow(*frames)[np.newaxis]


_opencv_lock = threading.Lock()


@contextlib.contextmanager
def _opencv_threads(threads: int) -> Iterator[None]:
  """Gives OpenCV so many threads, a setting of the whole process, which therefore has one such body at a time."""
  with _opencv_lock:
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
      yield
    finally:
      cv2.setNumThreads(before)


def _open_tvl1_opencv(height: int, width: int, params: Any, threads: int) -> Solver:
  del height, width
  if not hasattr(cv2, "optflow"):
    raise ImportError(
      "TV-L1 by OpenCV needs cv2.optflow: install opencv-contrib-python-headless in place of opencv-python"
    )
  if params.warp_subpixels and not cv2.__version__.startswith("4."):
    raise ValueError(f"warp_subpixels = {params.warp_subpixels}: OpenCV {cv2.__version__} cannot; allowed is 0")
  optflow: Any = cv2.optflow  # its type stubs are incomplete
  # One object for each size: it lowers its own number of scales for small frames, and keeps it.
  solver = optflow.DualTVL1OpticalFlow_create(
      params.tau, params.lambda_, params.theta, params.nscales, params.warps, params.epsilon,
      params.inner_iterations, params.outer_iterations, params.scale_step, 0, params.median_filtering,
  )  # fmt: skip

  def solve(frames: list[np.ndarray]) -> np.ndarray:
    with _opencv_threads(threads):
      return solver.calc(*frames, None)[np.newaxis]

  return solve


def _open_tvl1_tensorflow(height: int, width: int, params: Any, threads: int) -> Solver:
  del threads
  from i3d_tf.flow import tvl1_graph  # loads TensorFlow

  compute = tvl1_graph.compiled(params, height, width)
  return lambda frames: compute(np.stack(frames[:-1]), np.stack(frames[1:])).numpy()


_SMALLEST_OF_DIS = 12  # pixels: a side that OpenCV's coarsest level, with its patches of 8, still fits in


def _open_dis(height: int, width: int, params: DisParams, threads: int) -> Solver:
  del threads
  if min(height, width) < _SMALLEST_OF_DIS:
    raise ValueError(f"frames of {height} x {width} pixels; dis allows sides from {_SMALLEST_OF_DIS} pixels")
  opencv: Any = cv2  # its type stubs are incomplete
  solver = opencv.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{params.preset.upper()}"))

  def solve(frames: list[np.ndarray]) -> np.ndarray:
    with _opencv_threads(1):  # with more, each searches a stripe of its own, and the flow depends on their number
      return solver.calc(*frames, None)[np.newaxis]

  return solve


def _open_raft(height: int, width: int, params: RaftParams, threads: int) -> Solver:
  del height, width, threads
  from i3d_tf.flow import raft  # loads TensorFlow

  return functools.partial(raft.load(params.weights).flow, updates=params.updates)


METHODS: Mapping[str, Method] = types.MappingProxyType({
  "tvl1": Method(_tvl1_params, _open_tvl1, is_shared_out=True),
  "tvl1_opencv": Method(_tvl1_params, _open_tvl1_opencv, engine_of="tvl1"),
  "tvl1_tensorflow": Method(_tvl1_params, _open_tvl1_tensorflow, pairs=8, engine_of="tvl1"),
  "dis": Method(lambda: DisParams, _open_dis),
  "raft_small": Method(lambda: RaftParams, _open_raft, takes_rgb=True, pairs=16),
})  # fmt: skip
DEFAULT = "tvl1"


class Estimator:
  """Optical flow by one method, in buffers that are kept from pair to pair and from call to call.

  The flow of a pair depends on its two frames only, and not on the number of threads.
  """

  def __init__(self, method: str = DEFAULT, *, threads: int | None = None, params: Any = None, **options: Any):
    """Chooses the method; its first call loads what it needs.

    Args:
      method: One of `METHODS`.
      threads: Number of threads; None: one per available processor. Methods in TensorFlow use TensorFlow's.
      params: The method's parameters, an instance of its dataclass; None: the defaults.
      **options: Parameters by name, in place of `params`, such as preset='fast' of 'dis'.

    Raises:
      I3dError: If there is no such method, or it has no such parameter or value.
      ValueError: If another argument is not one of those allowed.
    """
    if method not in METHODS:
      raise errors.I3dError(f"method is {method!r}; allowed are {', '.join(METHODS)}")
    if threads is not None and threads < 1:
      raise ValueError(f"threads = {threads!r}; allowed are None and integers from 1")
    self._method = METHODS[method]
    self._threads = workers.available_cores() if threads is None else threads
    if params is not None and options:
      raise errors.I3dError(f"{next(iter(options))} is given beside params; give one or the other")
    self._params = _make_params(method, options) if params is None else params
    self._solvers: dict[tuple[int, ...], queue.SimpleQueue[Solver]] = collections.defaultdict(queue.SimpleQueue)

  @property
  def at_once(self) -> int:
    """Pairs that as many threads may compute at once; 1 of methods that use threads within a pair."""
    return self._threads if self._method.is_shared_out else 1

  def iterate(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the flow from each frame to the next, float32 `[H, W, 2]`: x to the right, y downwards, in pixels.

    The frames of twice as many pairs as there are threads are held at most, or those that the method takes at once.

    Args:
      frames: `[H, W]` gray or `[H, W, 3]` RGB, uint8, one after the other, of one size.

    Yields:
      The flow.

    Raises:
      ValueError: If a frame has another type or size.
    """
    groups = _groups((self._converted(frame) for frame in frames), self._method.pairs)
    if self.at_once == 1:
      yield from itertools.chain.from_iterable(map(self._solve, groups))
      return
    with futures.ThreadPoolExecutor(self._threads) as pool:
      submit = lambda count: (pool.submit(self._solve, group) for group in itertools.islice(groups, count))
      begun = collections.deque(submit(2 * self._threads))
      while begun:
        found = begun.popleft().result()
        begun.extend(submit(1))
        yield from found

  def between(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Returns the flow from one frame to another, on this thread: float32 `[H, W, 2]`.

    Args:
      previous: `[H, W]` gray or `[H, W, 3]` RGB, uint8.
      following: Likewise, a step later.

    Raises:
      ValueError: As `iterate`.
    """
    (group,) = _groups(map(self._converted, (previous, following)), 1)
    return self._solve(group)[0]

  def _converted(self, frame: np.ndarray) -> np.ndarray:
    """The frame as the method takes it."""
    if frame.dtype != np.uint8 or not (frame.ndim == 2 or frame.ndim == 3 and frame.shape[-1] == 3):
      raise ValueError(f"a frame is {frame.dtype} {frame.shape}; allowed are uint8 [H, W] and [H, W, 3]")
    if self._method.takes_rgb == (frame.ndim == 3):
      return frame
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB if self._method.takes_rgb else cv2.COLOR_RGB2GRAY)

  def _solve(self, frames: list[np.ndarray]) -> np.ndarray:
    """The flow of consecutive frames, by a solver that no other thread uses."""
    solvers = self._solvers[frames[0].shape]
    try:
      solver = solvers.get_nowait()
    except queue.Empty:
      height, width = frames[0].shape[:2]
      solver = self._method.open(height, width, self._params, self._threads)
    found = solver(frames)
    solvers.put(solver)
    return found


def _groups(frames: Iterator[np.ndarray], pairs: int) -> Iterator[list[np.ndarray]]:
  """Yields so many pairs of consecutive frames at once, as one frame more; the last frame is the next group's first."""
  group = list(itertools.islice(frames, 1))
  while more := list(itertools.islice(frames, pairs)):
    group += more
    if other := [frame.shape for frame in group if frame.shape != group[0].shape]:
      raise ValueError(f"a frame is uint8 {other[0]}; allowed is uint8 {group[0].shape}")
    yield group
    group = group[-1:]


def _make_params(method: str, options: Mapping[str, Any]) -> Any:
  cls = METHODS[method].parameters()
  names = [field.name for field in dataclasses.fields(cls)]
  if unknown := [name for name in options if name not in names]:
    raise errors.I3dError(f"{method} has no parameter {unknown[0]!r}; it has {', '.join(names)}")
  return cls(**options)


def optical_flow(
  frames: np.ndarray,
  method: str = DEFAULT,
  *,
  threads: int | None = None,
  on_pair: Callable[[int, int], None] | None = None,
  **options: Any,
) -> np.ndarray:
  """Returns the motion to the next frame in pixels, x to the right and y downwards, float32 `[T-1, H, W, 2]`.

  The default is TV-L1, on whose flow the published networks were trained: it is the most accurate of these where
  motions are small and at boundaries, which matters more for actions than large motions do (Sevilla-Lara et al.,
  arXiv 1712.08416). Its first call on a machine compiles it, which takes longer than the flow of a short video.

  Args:
    frames: uint8 `[T, H, W, 3]` RGB or `[T, H, W]` gray.
    method: one of `METHODS`: 'tvl1' (by Numba), 'tvl1_opencv' (by OpenCV's DualTVL1, many times slower),
      'tvl1_tensorflow' (as a graph, for GPUs), 'dis' (dense inverse search by OpenCV, the fastest) or 'raft_small'.
    threads: see `Estimator`.
    on_pair: is called with (pairs done, pairs in all) after each pair of frames.
    **options: the method's parameters, or `params`, an instance of its dataclass: see `tvl1.TvL1Params`, `DisParams`
      and `RaftParams`.

  Raises:
    I3dError: if there is no such method, or it has no such parameter.
    ValueError: if the frames are of another type, shape or size, or an option is not one of those allowed.
    ImportError: if a library is missing that the method needs.
  """
  estimator = Estimator(method, threads=threads, **options)
  is_rgb = frames.ndim == 4 and frames.shape[-1] == 3
  if frames.dtype != np.uint8 or not (is_rgb or frames.ndim == 3) or len(frames) < 1:
    raise ValueError(f"frames: {frames.dtype} {frames.shape}; allowed are uint8 [T, H, W] and [T, H, W, 3], T from 1")
  flow = np.empty((len(frames) - 1, *frames.shape[1:3], 2), np.float32)
  for pair, field in enumerate(estimator.iterate(frames)):
    flow[pair] = field
    if on_pair is not None:
      on_pair(pair + 1, len(flow))
  return flow


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowConfig:
  """Which optical flow is computed.

  Attributes:
    flow: Method of optical flow. A network should see the one that it was trained on; the published ones know tvl1.
    flow_params: Parameters of the method where they differ from its defaults, as name=value, such as preset=fast of
      dis, updates=20 of raft_small, or warps=3 of tvl1.
  """

  flow: str = fields.option(DEFAULT, choices=tuple(METHODS))
  flow_params: tuple[str, ...] = ()

  def __post_init__(self):
    fields.check(self)
    if self.flow_params:
      params = self._make_params()
      changed = [each.name for each in dataclasses.fields(params) if getattr(params, each.name) != each.default]
      object.__setattr__(self, "flow_params", tuple(f"{name}={getattr(params, name)}" for name in changed))

  @property
  def flow_method(self) -> str:
    """Method and parameters in one text, such as 'dis preset=fast', which `from_method` takes."""
    return " ".join([self.flow, *self.flow_params])

  @staticmethod
  def from_method(text: str) -> "FlowConfig":
    """Returns the configuration that a text of `flow_method` states.

    Args:
      text: The text; '' of what was made before methods were stated, which is TV-L1.

    Raises:
      I3dError: If it states none that is known.
    """
    method, *params = text.split() or [DEFAULT]
    return FlowConfig(flow=method, flow_params=tuple(params))

  def flow_estimator(self, threads: int | None = None) -> Estimator:
    """Returns what computes the flow.

    Args:
      threads: See `Estimator`.
    """
    return Estimator(self.flow, threads=threads, params=self._make_params())

  def flow_params_of(self, method: str) -> Any:
    """Returns the parameters of a method, an instance of its dataclass.

    Args:
      method: The method that is wanted.

    Raises:
      I3dError: If this is another method.
    """
    if method not in (self.flow, METHODS[self.flow].engine_of):
      raise errors.I3dError(f"flow is {self.flow}; here it can be {method} only")
    return self._make_params()

  def _make_params(self) -> Any:
    kinds = fields.kinds(METHODS[self.flow].parameters())
    values = {}
    for item in self.flow_params:
      name, equals, text = item.partition("=")
      of = kinds[name].of if name in kinds else str
      try:
        values[name] = of(text)
      except ValueError:
        equals = ""
      if not equals or text.split() != [text]:
        raise errors.I3dError(f"flow_params has {item!r}; it takes name=value, with the parameters {', '.join(kinds)}")
    try:
      return _make_params(self.flow, values)
    except ValueError as error:
      raise errors.I3dError(f"flow_params: {error}") from None


def difference(trained: str, given: str) -> str:
  """Returns a sentence if a network trained on one flow is given another one; '' if they are the same.

  Args:
    trained: Method and parameters of the flow that it was trained on, see `FlowConfig.flow_method`; '' means TV-L1.
    given: The same of what it is given. Engines of one method give the same flow.
  """
  names = [_common_name(text) for text in (trained, given)]
  if names[0] == names[1]:
    return ""
  return f"the network was trained on optical flow by {names[0]} and is given that by {names[1]}; accuracy may suffer"


def _common_name(text: str) -> str:
  method, *params = text.split() or [DEFAULT]
  engine_of = METHODS[method].engine_of if method in METHODS else ""
  return " ".join([engine_of or method, *params])
