"""Sliding predictions of a live source by networks of RGB and flow, with bounded latency and memory.

Threads work at once: one reads frames, some compute the flow of a pair of frames each, one keeps the last window, and
the caller's runs the networks. Each holds a bounded number of frames. A window is run whole: with zero padding at its
two ends, which every layer along time repeats, each step of an I3D sees an end of a window of 64 frames, so that no
step of one window is one of the next. What two windows share is therefore computed again: 1 - hop / window of all.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import dataclasses
import itertools
import queue
import statistics
import threading
import time
from typing import Any

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import flow as flow_lib
from i3d_tf import inference
from i3d_tf.flow import codec
from i3d_tf.inference import classification
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.input import ops
from i3d_tf.models import preprocess
from i3d_tf.video import decode
from i3d_tf.video import live

_AT_ONCE = 4  # pairs whose flow is computed at once, at most: each delays a window by a frame
_AVERAGED = 64  # pairs of the mean cost: a window's, beside a part of which the networks compute
_SETTLED = 8  # pairs before it is judged whether frames pile up
_PATIENCE = 128  # pairs with time to spare before a step is taken back
_SPARE = 1.2  # times the expected time of a pair that must be allowed for that


@dataclasses.dataclass(frozen=True)
class FlowStep:
  """A way to make flow cheaper.

  Attributes:
    scale: Of the frames' sides.
    cost: Time of a pair, relative to the flow in full (experiments/RESULTS.md, a file followed for five minutes).
    params: Parameters of TV-L1 beside those that are given.
  """

  scale: float
  cost: float
  params: tuple[str, ...] = ()

  def __str__(self) -> str:
    return " ".join([f"scale {self.scale:g}", *self.params])


FLOW_STEPS: tuple[FlowStep, ...] = (
  FlowStep(1, 1),
  FlowStep(0.75, 0.56),
  FlowStep(0.75, 0.34, ("warps=2",)),
  FlowStep(0.5, 0.27),
  FlowStep(0.5, 0.16, ("warps=2",)),
  FlowStep(0.25, 0.08, ("warps=2",)),
)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamPrediction:
  """What the networks say of one window.

  Attributes:
    start, end: Seconds from the source's first frame on.
    latency: Seconds from the arrival of the window's last frame to this prediction.
    logits: float32 `[classes]`, added over streams.
    predictions: The best classes, best first.
    flow_step: Number of the step of `FLOW_STEPS` that the flow is at.
    dropped: Frames dropped so far.
  """

  start: float
  end: float
  latency: float
  logits: np.ndarray = dataclasses.field(repr=False)
  predictions: Sequence[classification.Prediction]
  flow_step: int
  dropped: int

  def __str__(self) -> str:
    """The prediction as a line."""
    best = ", ".join(f"{each.probability:.3f} {each.label}" for each in self.predictions)
    return f"{self.start:.2f}-{self.end:.2f} s: {best} (latency {self.latency:.2f} s)"

  def as_dict(self) -> dict[str, Any]:
    """Returns plain values for JSON."""
    values = {name: round(getattr(self, name), 3) for name in ("start", "end", "latency")}
    best = [dataclasses.asdict(each) for each in self.predictions]
    return {**values, "flow_step": self.flow_step, "dropped": self.dropped, "predictions": best}


class BudgetedFlow:
  """Optical flow that is made cheaper, step by step, while it takes longer than allowed.

  Attributes:
    at_once: How many pairs may be computed at once, by as many threads.
    step: Number of the step of `steps` that it is at.
    steps: `FLOW_STEPS`; of other methods than TV-L1 one for each scale.
    pairs: By step the pairs that were computed so.
  """

  def __init__(self, config: flow_lib.FlowConfig, *, budget: float, threads: int | None = None):
    """Makes an estimator for each step.

    Args:
      config: The method, and its parameters in full.
      budget: Milliseconds allowed for a pair on average, by the clock and divided by the pairs at once; 0: any.
      threads: See `flow.Estimator`; of more than four, four are used.
    """
    self.steps = FLOW_STEPS
    if "tvl1" not in (config.flow, flow_lib.METHODS[config.flow].engine_of):
      by_scale = itertools.groupby(FLOW_STEPS, key=lambda step: step.scale)
      self.steps = tuple(dataclasses.replace(next(steps), params=()) for _, steps in by_scale)
    configs = (dataclasses.replace(config, flow_params=(*config.flow_params, *step.params)) for step in self.steps)
    self._estimators = [each.flow_estimator(threads) for each in configs]
    self.at_once = min(self._estimators[0].at_once, _AT_ONCE)
    self._budget, self.step, self._mean, self._count = budget / 1000, 0, 0.0, 0
    self._lock = threading.Lock()
    self.pairs: collections.Counter[int] = collections.Counter()

  def between(self, previous: np.ndarray, following: np.ndarray, *, is_behind: bool = False) -> np.ndarray:
    """Returns the flow from one frame to another, float32 `[H, W, 2]`, in pixels of the whole frames.

    Args:
      previous: uint8 `[H, W, 3]` RGB.
      following: The same, later.
      is_behind: Whether frames come faster than they are taken, so that the flow must become cheaper, too.
    """
    start, step = time.monotonic(), self.step
    scale = self.steps[step].scale
    height, width = previous.shape[:2]
    if scale < 1:
      size = round(width * scale), round(height * scale)
      previous, following = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (previous, following))
    field = self._estimators[step].between(previous, following)
    if scale < 1:
      factors = np.array([width / field.shape[1], height / field.shape[0]], np.float32)
      field = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) * factors
    with self._lock:
      self.pairs[step] += 1
      if step == self.step:
        self._judge((time.monotonic() - start) / self.at_once, is_behind)
    return field

  def warm_up(self) -> None:
    """Has what each step computes with compiled, before the first frame waits for it."""
    frame = np.zeros([64, 64, 3], np.uint8)
    for estimator in self._estimators:
      estimator.between(frame, frame)

  def _judge(self, seconds: float, is_behind: bool) -> None:
    """Changes the step if the mean cost asks for it."""
    self._count += 1
    self._mean += max(1 / _AVERAGED, 1 / self._count) * (seconds - self._mean)
    if not self._budget or self._count < _SETTLED:
      return
    ratio = self.steps[self.step - 1].cost / self.steps[self.step].cost
    is_slow = self._count >= _AVERAGED and self._mean > self._budget
    has_time = self._count >= _PATIENCE and _SPARE * ratio * self._mean < self._budget
    if (is_slow or is_behind) and self.step + 1 < len(self.steps):
      self.step, self._mean, self._count = self.step + 1, 0.0, 0
    elif has_time and not is_behind and self.step:
      self.step, self._mean, self._count = self.step - 1, 0.0, 0


class Follower:
  """Classifies the last frames of a live source again and again.

  Attributes:
    config: How.
    late: Windows that were left out since the networks were still busy.
    latencies: Seconds of the last thousand predictions.
  """

  def __init__(
    self,
    networks: classifier_lib.Classifier,
    config: inference.StreamConfig,
    *,
    flow_config: flow_lib.FlowConfig | None = None,
    threads: int | None = None,
    top_k: int = 5,
  ):
    """Checks that the networks can be used so.

    Args:
      networks: Networks of RGB, of flow, or of both.
      config: How the source is classified.
      flow_config: As in `classification.classify`.
      threads: As in `classification.classify`.
      top_k: Number of predictions.

    Raises:
      I3dError: If the networks' clips are cut differently, or are no windows of consecutive frames and single flows.
    """
    info = classification.check_together([network.info for network in networks.networks.values()])
    for network in networks.networks.values():
      clip = network.info.preprocess
      if any(getattr(clip, name) != plain for name, plain in preprocess.CONSECUTIVE.items()):
        raise errors.I3dError(f"{network.checkpoint} takes other clips than frame after frame with its flow")
      crop = info.preprocess.crop
      network.check({s: [1, config.window, crop, crop, network.info.channels[s]] for s in network.streams})
    self.config, self._networks, self._top_k = config, networks, top_k
    self._clip = info.preprocess
    self._flow = BudgetedFlow(networks.flow_config(flow_config), budget=config.flow_budget, threads=threads)
    self.late, self.latencies = 0, collections.deque[float](maxlen=1000)
    self._seconds, self._predictions = 0.0, 0
    self._source = live.LiveSource("", resize=decode.Resize())

  def follow(self, source: str) -> Iterator[StreamPrediction]:
    """Yields a prediction for each hop of frames, until the source ends.

    Args:
      source: See `live.LiveSource`.

    Raises:
      VideoError: If the source cannot be opened, stalls, is damaged, or its frames change their size.
    """
    config, clip = self.config, self._clip
    resize = decode.Resize(clip.short_side)
    self._warm_up()
    # One window waits for the networks at most; a newer one takes its place.
    windows: queue.Queue[Any] = queue.Queue(1)
    with live.LiveSource(
      source, fps=clip.frame_rate, resize=resize, capacity=config.buffer, stall=config.stall
    ) as self._source:
      begun = time.monotonic()
      threading.Thread(target=self._cut, args=(windows,), daemon=True).start()
      while (item := windows.get()) is not None:
        if isinstance(item, Exception):
          raise item
        number, arrived, clips = item
        logits = self._networks.logits({stream: value[np.newaxis] for stream, value in clips.items()})[0]
        latency = time.monotonic() - arrived
        self.latencies.append(latency)
        self._predictions, self._seconds = self._predictions + 1, time.monotonic() - begun
        best = classification.rank(logits, self._networks.class_names, self._top_k)
        start, end = ((number + 1 - back) / clip.frame_rate for back in (config.window, 0))
        yield StreamPrediction(start, end, latency, logits, best, self._flow.step, self._source.dropped)
      self._seconds = time.monotonic() - begun

  def summary(self) -> str:
    """Returns what was done so far, in a few lines; '' if no frame came."""
    source, config = self._source, self.config
    if not source.received:
      return ""
    taken = source.received - source.dropped - source.waiting
    lines = [
      f"{taken} of {source.received} frames in {self._seconds:.1f} s, {taken / max(self._seconds, 1e-9):.1f} a second; "
      f"{source.dropped} dropped",
      f"{self._predictions} windows of {config.window} frames classified, {self.late} left out",
    ]
    if config.hop < config.window:
      again = 1 - config.hop / config.window
      lines.append(
        f"{again:.0%} of each window were in the one before and are run again, since the padding at the ends of a "
        "window reaches all of its steps"
      )
    if self.latencies:
      lines.append(f"latency {statistics.median(self.latencies):.2f} s, at most {max(self.latencies):.2f} s")
    if total := sum(self._flow.pairs.values()):
      shares = (f"{n / total:.0%} at {self._flow.steps[step]}" for step, n in sorted(self._flow.pairs.items()))
      lines.append(f"flow: {', '.join(shares)}")
    return "\n".join(lines)

  def _warm_up(self) -> None:
    """Has the networks, and what computes flow, compiled before the first frame waits for them."""
    size, channels = self._clip.crop, {"rgb": 3, "flow": 2}
    blank = {s: np.zeros([1, self.config.window, size, size, channels[s]], np.float32) for s in self._networks.streams}
    self._networks.logits(blank)
    if "flow" in self._networks.streams:
      self._flow.warm_up()

  def _cut(self, windows: queue.Queue) -> None:
    """Puts windows into the queue, then None, or the error that ended it."""
    last: Any = None
    try:
      held: collections.deque[dict[str, np.ndarray]] = collections.deque(maxlen=self.config.window)
      due = self.config.window
      for number, arrived, position in self._positions():
        held.append(position)
        due -= 1
        if due <= 0:
          due = self.config.hop
          self._offer(windows, (number, arrived, self._clips(held)))
    except Exception as error:  # is raised where the windows are taken
      last = error
    windows.put(last)

  def _offer(self, windows: queue.Queue, window: Any) -> None:
    """Puts a window in the place of one that still waits."""
    try:
      windows.put_nowait(window)
      return
    except queue.Full:
      self.late += 1
    try:
      windows.get_nowait()
    except queue.Empty:
      self.late -= 1  # taken just now
    windows.put(window)

  def _positions(self) -> Iterator[tuple[int, float, dict[str, np.ndarray]]]:
    """Yields number, time of arrival and cropped frames: every number of the grid, gaps filled by the frame before.

    The flow across a gap is that between the frames at its ends, shared out evenly.
    """
    frames = self._source.frames()
    if "flow" not in self._networks.streams:
      last = None
      for frame in frames:
        filled = {"rgb": self._crop(frame.image)}
        for number in range(frame.number if last is None else last + 1, frame.number + 1):
          yield number, frame.arrived, filled
        last = frame.number
      return
    with futures.ThreadPoolExecutor(self._flow.at_once) as pool:
      begun = collections.deque[tuple[live.Frame, live.Frame, futures.Future]]()
      problem = None
      try:
        for before, frame in itertools.pairwise(frames):
          is_behind = self._source.waiting > self.config.buffer // 2
          found = pool.submit(self._flow.between, before.image, frame.image, is_behind=is_behind)
          begun.append((before, frame, found))
          while begun and (begun[0][-1].done() or len(begun) > self._flow.at_once):
            yield from self._between(*begun.popleft())
      except errors.VideoError as error:  # what came before it is still taken
        problem = error
      while begun:
        yield from self._between(*begun.popleft())
      if problem is not None:
        raise problem

  def _between(
    self, before: live.Frame, frame: live.Frame, found: futures.Future
  ) -> Iterator[tuple[int, float, dict[str, np.ndarray]]]:
    """The positions from one frame on up to another."""
    steps = min(frame.number - before.number, self.config.window)
    field = self._crop(found.result()) / np.float32(steps)
    position = {"rgb": self._crop(before.image), "flow": codec.scale(field)}
    for number in range(frame.number - steps, frame.number):
      yield number, frame.arrived, {stream: position[stream] for stream in self._networks.streams}

  def _crop(self, frame: np.ndarray) -> np.ndarray:
    return ops.center_crop(frame, self._clip.crop).copy()  # so that the rest can be freed

  def _clips(self, held: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    stacked = {stream: np.stack([position[stream] for position in held]) for stream in self._networks.streams}
    return {stream: ops.to_input(stream, value).numpy() for stream, value in stacked.items()}
