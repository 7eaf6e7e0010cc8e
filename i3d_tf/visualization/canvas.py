"""The parts of a page, RGB uint8 `[H, W, 3]` on white paper: text, pictures, curves with a cursor, rankings, legends.

Text is drawn by Pillow, curves by Matplotlib. Contact sheets of records show frames at equal intervals, each above the
flow to its next frame.
"""

from collections.abc import Sequence
import functools
import math
import pathlib
import unicodedata

import cv2
import matplotlib
from matplotlib import figure
from matplotlib import font_manager
from matplotlib import ft2font
from matplotlib.backends import backend_agg
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from i3d_tf import errors
from i3d_tf.data import inspection
from i3d_tf.data import records
from i3d_tf.flow import codec

Color = tuple[int, int, int]  # RGB

PAPER = (255, 255, 255)
INK = (36, 48, 63)
FAINT = (107, 119, 135)
RIM = (215, 215, 215)  # around pictures, since their own border may be white
MARGIN = 16  # pixels
LINE = 22  # pixels of a line of text
# The colours of Okabe and Ito, which can be told apart in all forms of colour vision, and on white.
PALETTE = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
OTHER = (160, 168, 180)  # classes that have no colour of their own
ROW, _CHIP = 26, 6  # pixels: height of a class in a ranking, width of its colour
BELOW_AXES = 24  # pixels of paper under the axes of a timeline
_LEFT, _RIGHT, _TOP = 34, 22, 8  # pixels of paper at their other sides
_SIZE = 13  # pixels of the font
_SEEN = (238, 241, 246)
_DPI = 100
_NUMBER = 56  # pixels of a probability in a ranking
_GAP = 4
_WHEEL = 19  # pixels of the legend's colour wheel


@functools.lru_cache(maxsize=4096)
def text(
  words: str,
  color: Color = INK,
  *,
  bold: bool = False,
  size: int = _SIZE,
  height: int = LINE,
  max_width: int | None = None,
) -> np.ndarray:
  """Returns a line of text as a read-only picture as wide as the text, which is shared by all callers.

  Args:
    words: the text.
    color: of the letters.
    bold: use the bold font.
    size, height: pixels of the font and of the picture.
    max_width: pixels; a longer text is cut and ends in an ellipsis. None: any width.
  """
  words, file = drawable(words, bold=bold)
  font = ImageFont.truetype(file, size)
  while max_width is not None and font.getlength(words) > max_width - 2 and words.rstrip("…"):
    words = words.rstrip("…")[:-1].rstrip() + "…"
  image = Image.new("RGB", (math.ceil(font.getlength(words)) + 2, height), PAPER)
  ImageDraw.Draw(image).text((0, height / 2), words, fill=color, font=font, anchor="lm")
  drawn = np.array(image)
  drawn.setflags(write=False)
  return drawn


@functools.lru_cache(maxsize=4096)
def drawable(words: str, *, bold: bool = False) -> tuple[str, str]:
  """Returns a text as it can be drawn, and the file of the font for it.

  That is DejaVu Sans, which is part of Matplotlib, so that text looks alike on all machines. A text in a script that it
  lacks, such as Chinese, is for a font of this machine that has all of it; where there is none, each character that
  cannot be drawn becomes its compatible form or its code, as in '\\u8dd1'.

  Args:
    words: the text.
    bold: whether the font is bold, if it is DejaVu Sans.
  """
  own = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' * bold}.ttf")
  wanted = frozenset(map(ord, words))
  if wanted <= _characters(str(own)):
    return words, str(own)
  others = sorted({entry.fname for entry in font_manager.fontManager.ttflist})
  if other := next((file for file in others if wanted <= _characters(file)), None):
    return words, other
  has = lambda letters: frozenset(map(ord, letters)) <= _characters(str(own))
  compatible = lambda letter: unicodedata.normalize("NFKD", letter)
  code = lambda letter: letter.encode("ascii", "backslashreplace").decode()
  return "".join(next(filter(has, (letter, compatible(letter))), code(letter)) for letter in words), str(own)


@functools.cache
def _characters(file: str) -> frozenset[int]:
  """The characters that a font can draw; none if it cannot be read, has one size only, or boxes for all of them."""
  try:
    font = ft2font.FT2Font(file)
  except (OSError, RuntimeError):
    return frozenset()
  has_letters = font.scalable and "lastresort" not in font.family_name.replace(" ", "").lower()
  return frozenset(font.get_charmap()) if has_letters else frozenset()


def border(image: np.ndarray, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> np.ndarray:
  """Returns a picture with paper around it.

  Args:
    image: the picture.
    top, bottom, left, right: pixels of paper at each side.
  """
  return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=PAPER)


def page(rows: Sequence[np.ndarray], gap: int) -> np.ndarray:
  """Returns the page of some rows, with its margin.

  Args:
    rows: pictures, from top to bottom.
    gap: pixels between them.
  """
  return border(stack(rows, gap), MARGIN, MARGIN, MARGIN, MARGIN)


def _pad(image: np.ndarray, *, height: int | None = None, width: int | None = None) -> np.ndarray:
  """Adds paper at the bottom and the right of a picture, up to a size; a larger picture stays so."""
  bottom, right = (max(0, (wanted or 0) - has) for wanted, has in zip((height, width), image.shape))
  return border(image, bottom=bottom, right=right)


def stack(rows: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
  """Returns pictures of any width below each other, flush left.

  Args:
    rows: pictures, from top to bottom.
    gap: pixels between them.
  """
  width = max(row.shape[1] for row in rows)
  return np.concatenate([_pad(border(row, top=gap if number else 0), width=width) for number, row in enumerate(rows)])


def beside(columns: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
  """Returns pictures of any height side by side, their tops level.

  Args:
    columns: pictures, from left to right.
    gap: pixels between them.
  """
  height = max(column.shape[0] for column in columns)
  spaced = [border(column, left=gap if number else 0) for number, column in enumerate(columns)]
  return np.concatenate([_pad(column, height=height) for column in spaced], axis=1)


def apart(left: np.ndarray, right: np.ndarray, *, width: int) -> np.ndarray:
  """Returns two pictures at the ends of a line.

  Args:
    left, right: the pictures.
    width: pixels of the line.
  """
  return beside([_pad(left, width=width - right.shape[1]), right])


def rim(image: np.ndarray, color: Color = RIM) -> np.ndarray:
  """Returns a copy of a picture with a line of one pixel at the inside of its border.

  Args:
    image: the picture.
    color: of the line.
  """
  height, width = image.shape[:2]
  return cv2.rectangle(image.copy(), (0, 0), (width - 1, height - 1), color)


def fit(image: np.ndarray, *, width: int, height: int) -> np.ndarray:
  """Returns a picture resized to the largest size within limits that keeps its aspect ratio, with its rim.

  Args:
    image: the picture.
    width, height: the limits in pixels.
  """
  factor = min(width / image.shape[1], height / image.shape[0])
  size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
  return rim(cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC))


def wheel(side: int) -> np.ndarray:
  """Returns the legend of flow, a square: the colour of each direction and speed, away from the centre.

  Args:
    side: pixels.
  """
  across = np.linspace(-1, 1, side)
  flow = np.stack(np.meshgrid(across, across), axis=-1)
  is_inside = np.linalg.norm(flow, axis=-1, keepdims=True) <= 1
  return np.where(is_inside, codec.draw(flow, full_scale=1.0), np.uint8(255)).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
  """Returns a picture as the content of a PNG file.

  Args:
    image: the picture.
  """
  return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


class Timeline:
  """Curves over the time of a video, which are drawn once; `at` draws a cursor on them."""

  def __init__(
    self,
    times: np.ndarray,
    curves: np.ndarray,
    colors: Sequence[Color],
    *,
    seconds: float,
    size: tuple[int, int],
    limits: tuple[float, float],
  ):
    """Draws the curves.

    Args:
      times: seconds `[N]`.
      curves: values `[N, curves]`.
      colors: one per curve; the first curve is drawn on top.
      seconds: duration of the video.
      size: width and height in pixels.
      limits: of the vertical axis.
    """
    self._seconds = seconds
    width, height = size
    self._box = (_LEFT, width - _RIGHT)
    drawing = figure.Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = backend_agg.FigureCanvasAgg(drawing)
    place = (_LEFT / width, BELOW_AXES / height, 1 - (_LEFT + _RIGHT) / width, 1 - (_TOP + BELOW_AXES) / height)
    axes = drawing.add_axes(place)
    for values, color in reversed(list(zip(curves.T, colors, strict=True))):
      axes.plot(times, values, color=np.array(color) / 255, lw=1.8, solid_joinstyle="round")
    ink = np.array(FAINT) / 255
    axes.set(xlim=(0, seconds), ylim=limits)
    axes.tick_params(labelsize=8, colors=ink, length=3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.grid(color=np.array(RIM) / 255, lw=0.6)
    axes.set_axisbelow(True)
    canvas.draw()
    self._picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()

  def at(self, time: float, seen: tuple[float, float]) -> np.ndarray:
    """Returns the picture with the cursor.

    Args:
      time: the second at which it stands.
      seen: the first and the last second of what is shaded.
    """
    picture = self._picture.copy()
    bottom = picture.shape[0] - BELOW_AXES
    first, last = (self._column(moment) for moment in seen)
    shaded = picture[_TOP:bottom, first : last + 1]
    shaded[:] = np.minimum(shaded, np.array(_SEEN, np.uint8))
    cv2.line(picture, (self._column(time), _TOP - 4), (self._column(time), bottom), INK, 1)
    return picture

  def _column(self, time: float) -> int:
    left, right = self._box
    return round(left + (right - left) * float(np.clip(time / self._seconds, 0, 1)))


def legend(names: Sequence[str], colors: Sequence[Color], *, width: int) -> np.ndarray:
  """Returns a picture of names with their colours, in as many lines as they need.

  Args:
    names: the names.
    colors: one per name.
    width: pixels.
  """
  lines: list[list[np.ndarray]] = [[]]
  used = 0
  for name, color in zip(names, colors, strict=True):
    chip = np.full((10, 16, 3), color, np.uint8)
    entry = beside([border(chip, top=6), text(name, size=12, max_width=width - 40)], 5)
    if used and used + entry.shape[1] > width:
      lines.append([])
      used = 0
    lines[-1].append(entry)
    used += entry.shape[1] + 18
  return _pad(stack([beside(line, 18) for line in lines]), width=width)


def ranking(names: Sequence[str], probabilities: Sequence[float], colors: Sequence[Color], *, width: int) -> np.ndarray:
  """Returns a picture of classes below each other, each on a bar as long as its probability.

  Args:
    names: of the classes, best first.
    probabilities, colors: one per class.
    width: pixels.
  """
  rows = []
  for name, probability, color in zip(names, probabilities, colors, strict=True):
    row = np.full((ROW, width, 3), PAPER, np.uint8)
    row[2:-2, :_CHIP] = color
    length = round((width - _CHIP - _NUMBER) * probability)
    row[2:-2, _CHIP : _CHIP + length] = np.rint(0.7 * 255 + 0.3 * np.array(color))
    number = text(f"{probability:.2f}" if probability >= 0.005 else "<0.01", size=14, height=ROW)
    _lay(row, text(name, size=14, height=ROW, max_width=width - _CHIP - _NUMBER - 12), _CHIP + 8)
    _lay(row, number, width - number.shape[1])
    rows.append(row)
  return stack(rows)


def _lay(picture: np.ndarray, words: np.ndarray, left: int) -> None:
  """Lays text on a picture, which stays visible between the letters."""
  place = picture[: words.shape[0], left : left + words.shape[1]]
  place[:] = np.minimum(place, words)


def contact_sheet(chosen: Sequence[records.Record], *, columns: int = 8, tile_height: int = 128) -> np.ndarray:
  """Returns a strip with a caption for each record, RGB uint8 `[H, W, 3]`.

  All flow of a record is drawn in one scale, which its caption states; for the colours see `codec.draw`.

  Args:
    chosen: at least one record, each with frames, flow or both.
    columns: the most images in a row.
    tile_height: pixels of an image; its width keeps the aspect ratio.

  Raises:
    I3dError: if an image cannot be decoded, or a record has none.
  """
  strips = [border(_strip(record, columns, tile_height), bottom=MARGIN) for record in chosen]
  return border(stack(strips), MARGIN, 0, MARGIN, MARGIN - _GAP)


def draw_images(record: records.Record, *, columns: int = 8, tile_height: int = 128) -> np.ndarray:
  """Returns the frames and the flow of one record without a caption, RGB uint8 `[H, W, 3]`.

  Args:
    record: with frames, flow or both.
    columns, tile_height: as in `contact_sheet`.

  Raises:
    I3dError: as `contact_sheet`.
  """
  return stack(_rows(record, columns, tile_height)[0])


def _strip(record: records.Record, columns: int, tile_height: int) -> np.ndarray:
  rows, steps, full_scale = _rows(record, columns, tile_height)
  return stack([*_caption(record, full_scale), *rows, _times(record, steps, rows[0].shape[1] // len(steps))])


def _rows(record: records.Record, columns: int, tile_height: int) -> tuple[list[np.ndarray], np.ndarray, float | None]:
  """Draws the row of frames and the row of flow; also returns the steps that they show and the scale of the flow."""
  count = len(record.flow_frames) or len(record.frames)  # one flow less than frames
  if not count:
    raise errors.I3dError(f"{record.id}: the record holds neither frames nor flow")
  steps = np.unique(np.rint(np.linspace(0, count - 1, columns)).astype(int))
  try:
    frames = [inspection.decode_image(record.frames[step]) for step in steps] if record.frames else []
    flows = [_flow(record, step) for step in steps] if record.flow_frames else []
  except errors.I3dError as error:
    raise errors.I3dError(f"{record.id}: {error}") from None
  rows = [_row(frames, tile_height)] if frames else []
  full_scale = None
  if flows:
    full_scale = max(1.0, float(np.percentile(np.linalg.norm(flows, axis=-1), 99)))
    rows.append(_row([codec.draw(flow, full_scale=full_scale) for flow in flows], tile_height))
  return rows, steps, full_scale


def _flow(record: records.Record, step: int) -> np.ndarray:
  """Decodes flow to pixels per frame; truncated bytes to the middle of their bin, so that no motion is white."""
  bound = record.flow_bound if record.flow_bound > 0 else codec.BOUND
  decode = codec.decode if record.flow_rounding == "nearest" else codec.decode_middle
  return decode(inspection.decode_image(record.flow_frames[step])[..., :2], bound=bound)


def _row(images: list[np.ndarray], height: int) -> np.ndarray:
  width = max(1, round(images[0].shape[1] * height / images[0].shape[0]))
  tiles = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
  return np.concatenate([border(rim(tile), bottom=_GAP, right=_GAP) for tile in tiles], axis=1)


def _caption(record: records.Record, full_scale: float | None) -> list[np.ndarray]:
  """Draws two lines: label and id; the number of images, and the scale of the flow beside a colour wheel."""
  label = text(", ".join(record.labels) if record.labels else "no label", INK, bold=True)
  title = np.concatenate([label, border(text(record.id, FAINT), left=12)], axis=1)
  facts = [f"{len(record.frames)} frames"] if record.frames else []
  facts += [f"{len(record.flow_frames)} flow images"] if record.flow_frames else []
  facts += [f"{record.width}x{record.height} pixels"] if record.width and record.height else []
  if full_scale is None:
    return [title, text(", ".join(facts), FAINT)]
  words = text(", ".join([*facts, f"flow of {full_scale:.1f} pixels per frame in full colour:"]), FAINT)
  top = (LINE - _WHEEL) // 2
  legend = border(wheel(_WHEEL), top=top, bottom=LINE - _WHEEL - top, left=8)
  return [title, np.concatenate([words, legend], axis=1)]


def _times(record: records.Record, steps: np.ndarray, tile_width: int) -> np.ndarray:
  """Draws the time of each column, or the number of the frame if the record has no times."""
  times = record.timestamps or record.flow_timestamps
  words = [f"{times[step] / 1e6:.2f} s" if step < len(times) else f"frame {step}" for step in steps]
  cells = [text(each, FAINT)[:, :tile_width] for each in words]
  return np.concatenate([border(cell, right=tile_width - cell.shape[1]) for cell in cells], axis=1)
