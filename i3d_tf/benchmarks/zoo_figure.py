"""Published accuracy of the zoo's networks against what they cost here, as a PNG."""

from collections.abc import Sequence

import matplotlib
from matplotlib import transforms
import numpy as np

from i3d_tf.benchmarks import zoo
from i3d_tf.evaluation import figures

_STARTS = {
    "imagenet": ("#2f6fdb", "from ImageNet"), "scratch": ("#e08a1e", "from scratch"),
    "unknown": ("#2b8a6e", "start not said"),
}  # fmt: skip
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a point: to the right, upwards
_AREA = 14.0  # of a million parameters, in square points
_POINTS_PER_INCH = 72


@matplotlib.rc_context(figures.STYLE)
def draw(report: zoo.Report) -> bytes:
  """The networks that have a published accuracy, each with an area in proportion to its parameters."""
  drawing, axes = figures.new(10.6, 5.6)
  rows = [row for row in report.rows if row.accuracy is not None]
  for start, (color, label) in _STARTS.items():
    some = [row for row in rows if row.start == start]
    if some:
      sizes = [(2 * _radius(row)) ** 2 for row in some]
      places = [row.forward_seconds for row in some], [row.accuracy for row in some]
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


def _label(drawing, axes, rows: Sequence[zoo.Row]) -> None:
  """Writes the networks' names beside their points, each at the side where it covers least of what is there."""
  drawing.canvas.draw()  # settles where the axes are
  centers = axes.transData.transform([(row.forward_seconds, row.accuracy) for row in rows])
  radii = [_radius(row) * drawing.dpi / _POINTS_PER_INCH for row in rows]
  taken = [transforms.Bbox([center - radius, center + radius]) for center, radius in zip(centers, radii, strict=True)]
  for row in sorted(rows, key=lambda row: row.accuracy):
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


def _offset(row: zoo.Row, right: int, up: int) -> tuple[float, float]:
  """From the centre of a point to its name, in points."""
  return right * (_radius(row) + 3), up * (_radius(row) + 6)


def _radius(row: zoo.Row) -> float:
  """Of its point, in points."""
  return (_AREA * row.parameters / 1e6) ** 0.5 / 2


def _inside(box: transforms.Bbox, frame: transforms.Bbox) -> bool:
  return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
