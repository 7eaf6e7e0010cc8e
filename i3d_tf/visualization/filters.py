"""The filters of a network's first layer over time, as in Figure 4 of "Quo Vadis, Action Recognition?".

Gray is a weight of zero. The filters of RGB are coloured by their weights of red, green and blue; those of flow are two
gray pictures, one of the x and one of the y of the motion that they answer to.
"""

from collections.abc import Sequence
import dataclasses
import io
import math
import os

import cv2
import numpy as np
from PIL import Image

from i3d_tf import errors
from i3d_tf.visualization import canvas
from i3d_tf.weights import saved

SCALES = ("filter", "checkpoint")
_TILE, _ANIMATED_TILE = 35, 49  # pixels of a filter, about: as many for each weight
_GAP = 2  # pixels between filters
_BETWEEN = 18  # pixels between grids
_RAMP = (90, 10)  # pixels of the legend
_SECONDS = 0.35  # of a step in the animation
_LAST_SECONDS = 0.9  # of the last, so that one sees where it begins again
_COMPONENTS = {"rgb": (("colour", slice(0, 3)),), "flow": (("flow x", slice(0, 1)), ("flow y", slice(1, 2)))}


@dataclasses.dataclass(frozen=True)
class Filters:
  """The first layer of one stream of a network.

  Attributes:
    checkpoint: where it is from, as the user named it.
    layer: the layer's name.
    stream: 'rgb' or 'flow'.
    kernel: its weights float32 `[steps, h, w, channels, N]`, of 3 channels, or 2, x and y.
  """

  checkpoint: str
  layer: str
  stream: str
  kernel: np.ndarray


def read(checkpoint: str | os.PathLike) -> list[Filters]:
  """The first layer of each stream of a network.

  A stack of L flows that a 2D layer takes is L steps in time.

  Args:
    checkpoint: as `saved.read` takes it.

  Raises:
    CheckpointError, DownloadError: as `saved.read`; for a network without a first layer that can be drawn.
  """
  values, info = saved.read(checkpoint)
  found = []
  for name, kernel in saved.first_kernels(values, info.model).items():
    steps, height, width, channels, number = kernel.shape
    stream = "rgb" if channels == 3 else "flow"
    if stream == "flow" and (channels % 2 or (channels > 2 and steps > 1)):
      continue
    if channels > 3:
      kernel = kernel.reshape(height, width, channels // 2, 2, number).transpose(2, 0, 1, 3, 4)
    found.append(Filters(os.fspath(checkpoint), name.removesuffix("/conv_3d/w"), stream, kernel))
  if not found:
    raise errors.CheckpointError(
      f"{checkpoint} is a network {info.model}: it has no first layer over RGB or flow that can be drawn"
    )
  return found


def draw(filters: Sequence[Filters], *, scale: str = "filter") -> np.ndarray:
  """All filters at all steps, RGB uint8 `[H, W, 3]`: steps from left to right, networks beneath each other.

  Args:
    filters: of one network or several.
    scale: which weight is black or white, or a colour's full strength: the largest of each 'filter' over all its steps,
      channels and pixels, so that the pattern of weak ones is seen, too; or the largest of the 'checkpoint', so that
      they can be compared.
  """
  strips = []
  for each in filters:
    rows = []
    for label, grids in _grids(each, scale, _TILE):
      names = [canvas.text(step, canvas.FAINT) for step in _steps(each)]
      columns = [canvas.stack([name, grid]) for name, grid in zip(names, grids, strict=True)]
      rows.append(canvas.stack([canvas.text(label, bold=True), canvas.beside(columns, _BETWEEN)]))
    strips.append(canvas.stack([_caption(each, scale), *rows], 6))
  return canvas.border(canvas.stack(strips, 2 * canvas.MARGIN), *[canvas.MARGIN] * 4)


def animate(filters: Sequence[Filters], *, scale: str = "filter") -> bytes:
  """All filters as a GIF that goes through the steps, networks beside each other; see `draw`.

  A network with fewer steps than another shows each of them longer.
  """
  count = max(len(each.kernel) for each in filters)
  drawn = [(each, _grids(each, scale, _ANIMATED_TILE)) for each in filters]
  frames = []
  for frame in range(count):
    columns = [_at(each, grids, frame * len(each.kernel) // count, scale) for each, grids in drawn]
    picture = canvas.border(canvas.beside(columns, 2 * canvas.MARGIN), *[canvas.MARGIN] * 4)
    frames.append(Image.fromarray(picture).quantize(256, kmeans=5, dither=Image.Dither.NONE))
  durations = [round(1000 * _SECONDS)] * (count - 1) + [round(1000 * _LAST_SECONDS)]
  content = io.BytesIO()
  frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=2)
  return content.getvalue()


def _at(each: Filters, grids: list[tuple[str, list[np.ndarray]]], step: int, scale: str) -> np.ndarray:
  """A network at one step."""
  columns = [canvas.stack([canvas.text(label, bold=True), steps[step]]) for label, steps in grids]
  picture = canvas.beside(columns, _BETWEEN)
  time = canvas.text(_steps(each)[step], size=16, height=28, bold=True)
  return canvas.stack([_caption(each, scale, width=max(picture.shape[1], 300)), time, picture], 4)


def _steps(each: Filters) -> list[str]:
  """What each step is, in frames from the middle one."""
  count = len(each.kernel)
  if count == 1:
    return ["one frame"]
  if count % 2 == 0:
    return [f"flow {step + 1} of {count}" for step in range(count)]
  middle = count // 2
  return ["t" if step == middle else f"t {'+' if step > middle else '−'} {abs(step - middle)}" for step in range(count)]


def _grids(each: Filters, scale: str, tile: int) -> list[tuple[str, list[np.ndarray]]]:
  """For each component its name, and a picture of all filters at each step."""
  full = _full(each, scale)
  pictures = []
  for label, channels in _COMPONENTS[each.stream]:
    weights = each.kernel[..., channels, :] / full  # [steps, h, w, 3 or 1, N]
    levels = np.rint(127.5 + 127.5 * np.clip(weights, -1, 1)).astype(np.uint8)
    levels = np.broadcast_to(levels, (*levels.shape[:3], 3, levels.shape[-1]))
    pictures.append((label, [_grid(np.moveaxis(step, -1, 0), tile) for step in levels]))
  return pictures


def _full(each: Filters, scale: str) -> np.ndarray:
  """The weight of full contrast of each filter `[N]`."""
  if scale not in SCALES:
    raise errors.I3dError(f"scale is {scale!r}; allowed are {', '.join(SCALES)}")
  largest = np.abs(each.kernel).max(axis=(0, 1, 2, 3))
  if scale == "checkpoint":
    largest = np.full_like(largest, largest.max())
  return np.where(largest > 0, largest, 1)


def _grid(tiles: np.ndarray, side: int) -> np.ndarray:
  """Filters uint8 `[N, h, w, 3]` enlarged and laid in a square, row by row."""
  count, height, width = tiles.shape[:3]
  factor = max(1, round(side / height))
  size = (width * factor, height * factor)
  tiles = [cv2.resize(tile, size, interpolation=cv2.INTER_NEAREST) for tile in np.ascontiguousarray(tiles)]
  columns = math.ceil(math.sqrt(count))
  rows = [canvas.beside(tiles[first : first + columns], _GAP) for first in range(0, count, columns)]
  return canvas.stack(rows, _GAP)


def _caption(each: Filters, scale: str, *, width: int | None = None) -> np.ndarray:
  """Which layer of which network, and what the colours stand for."""
  steps, height, across, channels, number = each.kernel.shape
  title = canvas.text(each.checkpoint, bold=True, size=16, height=26, max_width=width)
  facts = f"{each.layer}: {number} filters of {across}×{height} pixels, {steps} {'step' if steps == 1 else 'steps'}"
  full = _full(each, scale)
  if scale == "filter":
    full = f"each filter's largest weight, {full.min():.2g} to {full.max():.2g}"
  else:
    full = f"±{full.max():.3g}, the largest weight"
  ramp = np.broadcast_to(np.linspace(0, 255, _RAMP[0]).astype(np.uint8)[:, np.newaxis], (*_RAMP[::-1], 3))
  ramp = canvas.border(canvas.rim(ramp), top=6, bottom=6)
  legend = canvas.beside([canvas.text("−", canvas.FAINT), ramp, canvas.text("+    gray is 0", canvas.FAINT)], 5)
  lines = [canvas.text(words, canvas.FAINT, max_width=width) for words in (facts, f"full contrast: {full}")]
  return canvas.stack([title, *lines, legend])
