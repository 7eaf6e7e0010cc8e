"""The parts of a frame of a visualised video: curves with a cursor, rankings, legends, pictures. No TensorFlow."""

from collections.abc import Sequence

import cv2
from matplotlib import figure
from matplotlib.backends import backend_agg
import numpy as np

from i3d_tf.visualization import canvas

# Okabe and Ito's colours for all kinds of sight, those that can be told apart on white.
PALETTE = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
OTHER = (160, 168, 180)  # classes that have no colour of their own
_SEEN = (238, 241, 246)
_DPI = 100
_LEFT, _RIGHT, _TOP, BELOW_AXES = 34, 22, 8, 24  # pixels of paper around the axes
ROW, _CHIP = 26, 6  # pixels: height of a class in a ranking, width of its colour
_NUMBER = 56  # pixels


class Timeline:
  """Curves over the time of a video, drawn once; `at` puts the cursor on them."""

  def __init__(
    self,
    times: np.ndarray,
    curves: np.ndarray,
    colors: Sequence[tuple[int, int, int]],
    *,
    seconds: float,
    size: tuple[int, int],
    limits: tuple[float, float],
  ):
    """Draws them.

    Args:
      times: seconds `[N]`.
      curves: values `[N, curves]`.
      colors: one RGB colour a curve.
      seconds: how long the video lasts.
      size: width and height in pixels.
      limits: of the vertical axis.
    """
    self._seconds = seconds
    width, height = size
    self._box = (_LEFT, width - _RIGHT)
    drawing = figure.Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas_agg = backend_agg.FigureCanvasAgg(drawing)
    place = (_LEFT / width, BELOW_AXES / height, 1 - (_LEFT + _RIGHT) / width, 1 - (_TOP + BELOW_AXES) / height)
    axes = drawing.add_axes(place)
    for values, color in reversed(list(zip(curves.T, colors, strict=True))):  # the first on top
      axes.plot(times, values, color=np.array(color) / 255, lw=1.8, solid_joinstyle="round")
    ink = np.array(canvas.FAINT) / 255
    axes.set(xlim=(0, seconds), ylim=limits)
    axes.tick_params(labelsize=8, colors=ink, length=3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.grid(color=np.array(canvas.RIM) / 255, lw=0.6)
    axes.set_axisbelow(True)
    canvas_agg.draw()
    self._picture = np.asarray(canvas_agg.buffer_rgba())[..., :3].copy()

  def at(self, time: float, seen: tuple[float, float]) -> np.ndarray:
    """The picture with a line at `time`, and what is `seen` from there shaded."""
    picture = self._picture.copy()
    bottom = picture.shape[0] - BELOW_AXES
    first, last = (self._column(moment) for moment in seen)
    shaded = picture[_TOP:bottom, first : last + 1]
    shaded[:] = np.minimum(shaded, np.uint8(_SEEN))
    cv2.line(picture, (self._column(time), _TOP - 4), (self._column(time), bottom), canvas.INK, 1)
    return picture

  def _column(self, time: float) -> int:
    left, right = self._box
    return round(left + (right - left) * float(np.clip(time / self._seconds, 0, 1)))


def legend(names: Sequence[str], colors: Sequence[tuple[int, int, int]], *, width: int) -> np.ndarray:
  """Names with their colours in as many lines as they need, `width` pixels wide."""
  lines, used = [[]], 0
  for name, color in zip(names, colors, strict=True):
    chip = np.full((10, 16, 3), color, np.uint8)
    entry = canvas.beside([canvas.border(chip, top=6), canvas.text(name, size=12, max_width=width - 40)], 5)
    if used and used + entry.shape[1] > width:
      lines.append([])
      used = 0
    lines[-1].append(entry)
    used += entry.shape[1] + 18
  return canvas.pad(canvas.stack([canvas.beside(line, 18) for line in lines]), width=width)


def ranking(
  names: Sequence[str], probabilities: Sequence[float], colors: Sequence[tuple[int, int, int]], *, width: int
) -> np.ndarray:
  """Classes, best first, each on a bar as long as its probability."""
  rows = []
  for name, probability, color in zip(names, probabilities, colors, strict=True):
    row = np.full((ROW, width, 3), canvas.PAPER, np.uint8)
    row[2:-2, :_CHIP] = color
    length = round((width - _CHIP - _NUMBER) * probability)
    row[2:-2, _CHIP : _CHIP + length] = np.rint(0.7 * 255 + 0.3 * np.array(color))
    text = canvas.text(name, size=14, height=ROW, max_width=width - _CHIP - _NUMBER - 12)
    number = canvas.text(f"{probability:.2f}" if probability >= 0.005 else "<0.01", size=14, height=ROW)
    _lay(row, text, _CHIP + 8)
    _lay(row, number, width - number.shape[1])
    rows.append(row)
  return canvas.stack(rows)


def _lay(picture: np.ndarray, text: np.ndarray, left: int) -> None:
  """Lays text on a picture, so that its paper lets the picture through."""
  place = picture[: text.shape[0], left : left + text.shape[1]]
  place[:] = np.minimum(place, text)


def fit(image: np.ndarray, *, width: int, height: int) -> np.ndarray:
  """The image as large as it can be in `width` x `height` pixels, with a rim."""
  factor = min(width / image.shape[1], height / image.shape[0])
  size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
  return canvas.rim(cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC))


def apart(left: np.ndarray, right: np.ndarray, *, width: int) -> np.ndarray:
  """Two pictures at the ends of a line of `width` pixels."""
  return canvas.beside([canvas.pad(left, width=width - right.shape[1]), right])
