"""Pictures put together of pictures and lines of text, on white paper: RGB uint8 `[H, W, 3]`."""

from collections.abc import Sequence
import functools
import math
import pathlib

import cv2
import matplotlib
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from i3d_tf.flow import codec

PAPER = (255, 255, 255)
INK = (36, 48, 63)
FAINT = (107, 119, 135)
RIM = (215, 215, 215)  # around images, since what they show may be white
MARGIN = 16  # pixels
LINE = 22  # pixels of a line of text
_SIZE = 13  # pixels of the font


@functools.lru_cache(maxsize=4096)
def text(
  words: str,
  color: tuple[int, int, int] = INK,
  *,
  bold: bool = False,
  size: int = _SIZE,
  height: int = LINE,
  max_width: int | None = None,
) -> np.ndarray:
  """A line of text on paper, as wide as it needs; beyond `max_width` pixels its end is cut off and told by dots."""
  font = _font(size, bold)
  while max_width is not None and font.getlength(words) > max_width - 2 and words.rstrip("…"):
    words = words.rstrip("…")[:-1].rstrip() + "…"
  image = Image.new("RGB", (math.ceil(font.getlength(words)) + 2, height), PAPER)
  ImageDraw.Draw(image).text((0, height / 2), words, fill=color, font=font, anchor="lm")
  drawn = np.array(image)
  drawn.setflags(write=False)  # the next caller gets the same
  return drawn


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
  """DejaVu Sans, which Matplotlib brings with it, so that text looks alike everywhere."""
  name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
  return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def border(image: np.ndarray, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> np.ndarray:
  """The image with paper around it."""
  return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=PAPER)


def pad(image: np.ndarray, *, height: int | None = None, width: int | None = None) -> np.ndarray:
  """The image with paper beneath it and at its right, up to that size."""
  bottom, right = (max(0, (wanted or 0) - has) for wanted, has in zip((height, width), image.shape))
  return border(image, bottom=bottom, right=right)


def stack(rows: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
  """Images of different widths beneath each other, flush left."""
  width = max(row.shape[1] for row in rows)
  return np.concatenate([pad(border(row, top=gap if number else 0), width=width) for number, row in enumerate(rows)])


def beside(columns: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
  """Images of different heights beside each other, their tops level."""
  height = max(column.shape[0] for column in columns)
  spaced = [border(column, left=gap if number else 0) for number, column in enumerate(columns)]
  return np.concatenate([pad(column, height=height) for column in spaced], axis=1)


def rim(image: np.ndarray, color: tuple[int, int, int] = RIM) -> np.ndarray:
  """A copy of the image with its outermost pixels in one colour."""
  height, width = image.shape[:2]
  return cv2.rectangle(image.copy(), (0, 0), (width - 1, height - 1), color)


def wheel(side: int) -> np.ndarray:
  """The colour that `codec.draw` gives every direction and speed, motion going away from the centre."""
  across = np.linspace(-1, 1, side)
  flow = np.stack(np.meshgrid(across, across), axis=-1)
  is_inside = np.linalg.norm(flow, axis=-1, keepdims=True) <= 1
  return np.where(is_inside, codec.draw(flow, full_scale=1.0), np.uint8(PAPER)).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
  """The image as a PNG file."""
  return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
