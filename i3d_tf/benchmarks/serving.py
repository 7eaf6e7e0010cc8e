"""Requests a second and latencies of the service by number of clients, beside the network alone on the same clips."""

import base64
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from i3d_tf import benchmarks
from i3d_tf import errors
from i3d_tf import resources
from i3d_tf.serving import models
from i3d_tf.video import decode

_START = 600  # seconds in which the service must be there
_SIGNATURE = "jpeg"


@dataclasses.dataclass(frozen=True)
class ServeBenchmark:
  """What to measure.

  Attributes:
    rounds: Rounds that are counted.
    checkpoint: The network, of RGB.
    clients: Numbers of clients that ask at the same time.
    frames: Frames of a clip; None: those of the network's training.
    requests: Clips of each number of clients in a round.
    precision: Type of convolutions and activations.
  """

  rounds: int
  checkpoint: str
  clients: tuple[int, ...] = (1, 4, 16)
  frames: int | None = None
  requests: int = 16
  precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class ServeReport:
  """Medians over the rounds; a ratio is the median of those of each round.

  Attributes:
    machine: What it was measured on.
    checkpoint: The network.
    shape: Frames, height and width of the images of a clip.
    alone: Clips a second of the same function, with the images decoded, called one clip after the other.
    clients: Numbers of clients.
    throughput: Requests a second by number of clients.
    ratio: The same, divided by those of the network alone.
    milliseconds: The 50th, 95th and 99th percentile of latencies by number of clients, over all rounds.
    busy: Answers 429, each of which was asked again, by number of clients.
    difference: The largest difference between a probability of the service and of the network alone.
  """

  machine: str
  checkpoint: str
  shape: tuple[int, int, int]
  alone: float
  clients: tuple[int, ...]
  throughput: tuple[float, ...]
  ratio: tuple[float, ...]
  milliseconds: tuple[tuple[float, float, float], ...]
  busy: tuple[int, ...]
  difference: float

  def __str__(self) -> str:
    """The report as lines of text."""
    lines = [
      f"machine      {self.machine}",
      f"network      {self.checkpoint}, clips of {'x'.join(map(str, self.shape))} as JPEG images",
      f"alone        {self.alone:.3f} clips/s",
    ]
    for number, rate, ratio, times, busy in zip(
      self.clients, self.throughput, self.ratio, self.milliseconds, self.busy
    ):
      shown = ", ".join(f"{percent} % {each:.0f} ms" for percent, each in zip((50, 95, 99), times))
      lines.append(f"{number:3} clients  {rate:.3f} requests/s, {ratio:.3f} of the network alone; {shown}; {busy} busy")
    return "\n".join([*lines, f"largest difference of a probability {self.difference:.1e}"])


def measure(options: ServeBenchmark) -> ServeReport:
  """Starts a service and measures it and the network alone in turn.

  Args:
    options: What to measure.

  Returns:
    The figures.

  Raises:
    I3dError: If the network is not of RGB, or the service does not start or answers with an error.
  """
  served = models.load_checkpoints(models.parse_source(f"alone={options.checkpoint}"), options.precision)
  if served.classifier is None or _SIGNATURE not in served.signatures:
    raise errors.I3dError(f"{options.checkpoint} is no network of RGB, which the service takes as images")
  clip = served.classifier.preprocess
  function = served.signatures[_SIGNATURE].function
  clips = [_images(seed, options.frames or clip.num_frames, clip.short_side) for seed in range(4)]
  alone = lambda images: function(jpeg_bytes=np.array([images], object))["probabilities"].numpy()[0]
  expected = [alone(images) for images in clips]
  with _service(options) as port:
    load = _Load(port, clips, expected)
    tasks: dict[str, Callable[[], None]] = {"alone": functools.partial(_call, alone, clips, options.requests)}
    tasks |= {str(count): functools.partial(load.run, count, options.requests) for count in options.clients}
    seconds = benchmarks.in_turn(tasks, options.rounds)
  rates = [options.requests / statistics.median(seconds[str(count)]) for count in options.clients]
  return ServeReport(
    machine=resources.machine(),
    checkpoint=options.checkpoint,
    shape=(len(clips[0]), clip.short_side, clip.short_side * 4 // 3),
    alone=options.requests / statistics.median(seconds["alone"]),
    clients=options.clients,
    throughput=tuple(rates),
    ratio=tuple(benchmarks.median_ratio(seconds["alone"], seconds[str(count)]) for count in options.clients),
    milliseconds=tuple(load.percentiles(count) for count in options.clients),
    busy=tuple(load.busy[count] for count in options.clients),
    difference=load.difference,
  )


def _call(alone: Callable[[list[bytes]], np.ndarray], clips: Sequence[list[bytes]], requests: int) -> None:
  """Has the network alone compute clips, one after the other."""
  for number in range(requests):
    alone(clips[number % len(clips)])


def _images(seed: int, count: int, side: int) -> list[bytes]:
  """Frames of a texture that moves, as JPEG images."""
  noise = np.random.default_rng(seed).uniform(0, 255, (side, side * 4 // 3 + 2 * count, 3))
  texture = cv2.GaussianBlur(noise, (0, 0), 4).astype(np.uint8)
  frames = [decode.resize(texture[:, 2 * step : 2 * step + side * 4 // 3], None) for step in range(count)]
  return [cv2.imencode(".jpg", np.ascontiguousarray(frame))[1].tobytes() for frame in frames]


@contextlib.contextmanager
def _service(options: ServeBenchmark) -> Iterator[int]:
  """Starts the program in a process of its own; yields its port."""
  command = [sys.executable, "-m", "i3d_tf.serve", f"--model=it={options.checkpoint}", "--port=0"]
  command.append(f"--precision={options.precision}")
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
    log = pathlib.Path(folder, "log")
    with open(log, "wb") as file:
      process = subprocess.Popen(command, stderr=file)
    try:
      yield _port(process, log)
    finally:
      process.terminate()
      process.wait()


def _port(process: subprocess.Popen, log: pathlib.Path) -> int:
  for _ in range(10 * _START):
    for line in log.read_text(encoding="utf-8").splitlines():
      if '"event": "serving"' in line:
        return json.loads(line)["port"]
    if process.poll() is not None:
      break
    time.sleep(0.1)
  raise errors.I3dError(f"the service did not start: {log.read_text(encoding='utf-8').strip()[-300:]}")


class _Load:
  """Clients that ask and compare the answers."""

  def __init__(self, port: int, clips: Sequence[list[bytes]], expected: Sequence[np.ndarray]):
    as_json = lambda images: [[{"b64": base64.b64encode(image).decode()} for image in images]]
    self._bodies = [
      json.dumps({"signature_name": _SIGNATURE, "instances": as_json(images)}).encode() for images in clips
    ]
    self._port, self._expected = port, expected
    self._seconds: dict[int, list[float]] = {}
    self.busy: dict[int, int] = {}
    self.difference = 0.0

  def run(self, clients: int, requests: int) -> None:
    """Has some clients send some requests together."""
    with futures.ThreadPoolExecutor(clients) as pool:
      found = list(pool.map(self._ask, range(requests)))
    self._seconds.setdefault(clients, []).extend(seconds for seconds, _ in found)
    self.busy[clients] = self.busy.get(clients, 0) + sum(busy for _, busy in found)

  def percentiles(self, clients: int) -> tuple[float, float, float]:
    """The 50th, 95th and 99th percentile of latencies in milliseconds."""
    low, middle, high = (1000 * np.percentile(self._seconds[clients], (50, 95, 99))).tolist()
    return low, middle, high

  def _ask(self, number: int) -> tuple[float, int]:
    """Seconds of a request, and how often the service was busy."""
    start, busy = time.perf_counter(), 0
    while True:
      connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_START)
      connection.request("POST", "/v1/models/it:predict", self._bodies[number % len(self._bodies)])
      response = connection.getresponse()
      content = json.loads(response.read())
      connection.close()
      if response.status != 429:
        break
      busy += 1
      time.sleep(float(response.headers["Retry-After"]))
    if response.status != 200:
      raise errors.I3dError(f"the service answered with {response.status}: {content['error']}")
    difference = np.abs(np.array(content["predictions"][0]) - self._expected[number % len(self._expected)]).max()
    self.difference = max(self.difference, float(difference))
    return time.perf_counter() - start, busy
