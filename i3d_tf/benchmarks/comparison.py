"""What the networks of the zoo cost on this machine: a table, and a figure of published accuracy against cost."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import matplotlib
from matplotlib import transforms
import numpy as np
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import workers
from i3d_tf.evaluation import figures
from i3d_tf.models import zoo

_STREAM = "rgb"  # which every network takes
_COLUMNS = (
    "network", "clip", "M parameters", "G multiply-adds", "s/clip", "clips/s trained", "GB, forward", "GB, trained",
    "top-1",
)  # fmt: skip
_BESIDE_FLOAT32 = ("x float32", "x float32 trained", "logits differ, %")
_COMPARED = ("forward_times_as_fast", "train_times_as_fast", "difference", "torch_seconds", "ratios_to_torch")


@dataclasses.dataclass(frozen=True)
class ZooBenchmark:
  """What to measure.

  Attributes:
    models: names of networks in the zoo.
    rounds: rounds that are counted.
    batch: clips per batch.
    max_frames, max_crop: limits to the frames and pixels of a clip; None: clips are those of training.
    precision, torch: see `network.NetworkBenchmark`.
  """

  models: Sequence[str]
  rounds: int
  batch: int = 1
  max_frames: int | None = None
  max_crop: int | None = None
  precision: str = "float32"
  torch: str | None = None


@dataclasses.dataclass(frozen=True)
class Row:
  """One network: medians over the rounds, and the peak memory in bytes of a process that did nothing else.

  `clip` is (frames, height, width); `parameters` are those for 400 classes. `accuracy` is the best published top-1
  accuracy of RGB in percent, and `start` what that network was trained from; both None if none is published.
  """

  model: str
  clip: tuple[int, int, int]
  parameters: int
  giga_multiply_adds: float
  forward_seconds: float
  forward_peak_bytes: int
  train_clips_per_second: float
  train_peak_bytes: int
  matrix_product_gmac_per_second: float
  accuracy: float | None
  start: str | None
  forward_times_as_fast: float | None = None
  train_times_as_fast: float | None = None
  difference: float | None = None
  torch_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
  ratios_to_torch: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ComparisonReport:
  """What was measured; `failures` tell, by network, why it could not be measured."""

  machine: str
  options: ZooBenchmark
  rows: list[Row]
  failures: dict[str, str]

  def __str__(self) -> str:
    """The report as lines of text, the cheapest first."""
    rows = sorted(self.rows, key=lambda row: row.forward_seconds)
    lines = [_COLUMNS, *map(_cells, rows)]
    if self.options.precision != "float32":
      lines = [(*line, *more) for line, more in zip(lines, [_BESIDE_FLOAT32, *map(_beside_float32, rows)], strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = [
      "  ".join([cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))])
      for cells in lines
    ]
    batch = self.options.batch
    title = f"{self.machine}; batches of {batch} clip{'s' * (batch > 1)}; {self.options.precision}"
    beside = [
      f"{row.model}: torch {task} {seconds:.3f} s; ours takes {row.ratios_to_torch[task]:.3f} of its time"
      for row in rows
      for task, seconds in row.torch_seconds.items()
    ]
    return "\n".join([title, "", *map(str.rstrip, aligned), *([""] if beside else []), *beside])


def measure(options: ZooBenchmark) -> ComparisonReport:
  """Returns measurements of one network after the other, each in its own process; after Ctrl-C, of those done.

  Args:
    options: what to measure.
  """
  rows: list[Row] = []
  failures: dict[str, str] = {}
  # disable=None: shown only on a terminal.
  for model in tqdm.tqdm(options.models, desc="networks", unit="network", disable=None):
    try:
      rows.append(_row(model, _measure_alone(_network_options(options, model)), options))
    except errors.I3dError as error:
      failures[model] = str(error)
    except KeyboardInterrupt:
      failures |= dict.fromkeys(options.models[len(rows) + len(failures) :], "interrupted")
      break
  return ComparisonReport(machine=resources.machine(), options=options, rows=rows, failures=failures)


def _measure_alone(options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of the `network.NetworkReport` of a new process; I3dError if it fails or is killed."""
  [outcome] = workers.run(_measure, [options], num_workers=1)
  if outcome.error is not None:
    raise errors.I3dError(outcome.error)
  return outcome.value


def _measure(options: Mapping[str, Any]) -> dict[str, Any]:
  cli.import_tensorflow(quiet=True)
  from i3d_tf.benchmarks import network

  return dataclasses.asdict(network.measure(network.NetworkBenchmark(**options)))


def _network_options(options: ZooBenchmark, model: str) -> dict[str, Any]:
  """Returns the fields of a `network.NetworkBenchmark`."""
  trained = zoo.preprocess(model, _STREAM)
  crop = min(trained.crop, options.max_crop or trained.crop)
  num_frames = min(trained.num_frames, options.max_frames or trained.num_frames)
  return {
    "rounds": options.rounds,
    "batch": options.batch,
    "clip": dataclasses.replace(trained, num_frames=num_frames, crop=crop),
    "model": model,
    "stream": _STREAM,
    "average_space": crop < trained.crop and "average_space" in zoo.get(model).options,
    "precision": options.precision,
    "torch": options.torch,
  }


def _row(model: str, measured: Mapping[str, Any], options: ZooBenchmark) -> Row:
  accuracies = {start: figures[_STREAM] for start, figures in zoo.get(model).accuracies.items() if _STREAM in figures}
  accuracy, start = max(
    ((accuracy, start) for start, accuracy in accuracies.items()), key=lambda pair: pair[0], default=(None, None)
  )
  return Row(
    model=model,
    clip=measured["shape"][1:4],
    parameters=measured["parameters"],
    giga_multiply_adds=measured["giga_multiply_adds"] / options.batch,
    forward_seconds=measured["forward_seconds"] / options.batch,
    forward_peak_bytes=measured["forward_peak_bytes"],
    train_clips_per_second=options.batch / measured["train_seconds"],
    train_peak_bytes=measured["train_peak_bytes"],
    matrix_product_gmac_per_second=measured["matrix_product_gmac_per_second"],
    accuracy=accuracy,
    start=start,
    **{name: measured[name] for name in _COMPARED if name in measured},
  )


def _cells(row: Row) -> tuple[str, ...]:
  frames, height, width = row.clip
  return (
      row.model, f"{frames}x{height}x{width}", f"{row.parameters / 1e6:.2f}", f"{row.giga_multiply_adds:.2f}",
      f"{row.forward_seconds:.3f}", f"{row.train_clips_per_second:.3f}", f"{row.forward_peak_bytes / 1e9:.2f}",
      f"{row.train_peak_bytes / 1e9:.2f}", "" if row.accuracy is None else f"{row.accuracy:.1f}",
  )  # fmt: skip


def _beside_float32(row: Row) -> tuple[str, ...]:
  figures = (row.forward_times_as_fast, row.train_times_as_fast, 100 * (row.difference or 0))
  return tuple(f"{figure:.2f}" for figure in figures)


_STARTS = {
    "imagenet": ("#2f6fdb", "from ImageNet"), "scratch": ("#e08a1e", "from scratch"),
    "unknown": ("#2b8a6e", "start not said"),
}  # fmt: skip
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a point: (right, up)
_AREA = 14.0  # square points of a million parameters
_POINTS_PER_INCH = 72


@matplotlib.rc_context(figures.STYLE)
def draw(report: ComparisonReport) -> bytes:
  """Returns a PNG of published accuracy against measured seconds; a point's area is proportional to the parameters.

  Args:
    report: the measurements.
  """
  drawing, axes = figures.new(10.6, 5.6)
  rows = [row for row in report.rows if row.accuracy is not None]
  for start, (color, label) in _STARTS.items():
    some = [row for row in rows if row.start == start]
    if some:
      sizes = [(2 * _radius(row)) ** 2 for row in some]
      places = [row.forward_seconds for row in some], [row.accuracy or 0 for row in some]
      axes.scatter(*places, s=sizes, color=color, alpha=0.55, edgecolors="white", linewidths=0.8)
      axes.scatter([], [], s=60, color=color, alpha=0.55, label=label)
  axes.set_xscale("log")
  axes.xaxis.set_major_formatter("{x:g}")
  axes.margins(0.08, 0.1)
  axes.set(
      xlabel="seconds per clip, forward, on this machine (tests take one to thirty clips a video)",
      ylabel="top-1 accuracy published, RGB, Kinetics-400, %",
      title=f"{report.machine}; areas are parameters",
  )  # fmt: skip
  if rows:
    drawing.legend(frameon=False, loc="outside upper right", ncols=len(_STARTS))  # where no point can be
    _label(drawing, axes, rows)
  return figures.png(drawing)


def _label(drawing, axes, rows: Sequence[Row]) -> None:
  """Writes the name of each network beside its point, at the side where it covers least of what is drawn."""
  drawing.canvas.draw()  # computes the position of the axes
  centers = axes.transData.transform([(row.forward_seconds, row.accuracy) for row in rows])
  radii = [_radius(row) * drawing.dpi / _POINTS_PER_INCH for row in rows]
  taken = [transforms.Bbox([center - radius, center + radius]) for center, radius in zip(centers, radii, strict=True)]
  for row in sorted(rows, key=lambda row: row.accuracy or 0):
    texts = [
        axes.annotate(
            row.model, (row.forward_seconds, row.accuracy), _offset(row, right, up), textcoords="offset points",
            fontsize=8, ha=("right", "center", "left")[right + 1], va="center",
        )
        for right, up in _SIDES
    ]  # fmt: skip
    boxes = [text.get_window_extent() for text in texts]
    covered = [sum(box.overlaps(other) for other in taken) + (not _inside(box, axes.bbox)) for box in boxes]
    best = int(np.argmin(covered))
    taken.append(boxes[best])
    for index, text in enumerate(texts):
      if index != best:
        text.remove()


def _offset(row: Row, right: int, up: int) -> tuple[float, float]:
  """Returns the offset from the centre of a point to its name, in points."""
  return right * (_radius(row) + 3), up * (_radius(row) + 6)


def _radius(row: Row) -> float:
  """Returns the radius of its point, in points."""
  return (_AREA * row.parameters / 1e6) ** 0.5 / 2


def _inside(box: transforms.Bbox, frame: transforms.Bbox) -> bool:
  return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
