"""Pictures of the filters of a network's first layer over time, as in Figure 4 of "Quo Vadis, Action Recognition?".

A weight of zero is gray. A filter of RGB is coloured by its weights for red, green and blue; a filter of flow is drawn
as two gray pictures, of its weights for the x and the y of the motion.
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

_SCALES = ("filter", "checkpoint")
_TILE, _ANIMATED_TILE = 35, 49  # pixels of a filter, rounded to a multiple of its weights
_GAP = 2  # pixels between filters
_BETWEEN = 18  # pixels between grids
_RAMP = (90, 10)  # pixels of the legend
_SECONDS = 0.35  # of a step in the animation
_LAST_SECONDS = 0.9  # of the last step, so that the start of the loop is visible
_COMPONENTS = {"rgb": (("colour", slice(0, 3)),), "flow": (("flow x", slice(0, 1)), ("flow y", slice(1, 2)))}


@dataclasses.dataclass(frozen=True)
class Filters:
  """The first layer of one stream of a network.

  Attributes:
    checkpoint: the checkpoint, as the user named it.
    layer: name of the layer.
    stream: 'rgb' or 'flow'.
    kernel: weights, float32 `[steps, h, w, channels, N]`, of 3 channels, or of 2, x and y.
  """

  checkpoint: str
  layer: str
  stream: str
  kernel: np.ndarray


def read(checkpoint: str | os.PathLike) -> list[Filters]:
  """Returns the filters of the first layer of each stream of a network, one entry per stream.

  If a 2D layer takes a stack of L flow fields, these are L steps in time.

  Args:
    checkpoint: as `saved.read` takes it.

  Raises:
    CheckpointError, DownloadError: as `saved.read`; if the network has no first layer that can be drawn.
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
  """Returns all filters at all steps, RGB uint8 `[H, W, 3]`: steps from left to right, networks below each other.

  Args:
    filters: of one network or several.
    scale: which weight has full contrast: the largest of each 'filter' over all its steps, channels and pixels, so that
      the patterns of weak filters are visible, too; or the largest of the 'checkpoint', to compare filters.

  Raises:
    I3dError: if there is no such scale.
  """
  strips = []
  for each in filters:
    rows = []
    for label, grids in _grids(each, scale, _TILE):
      names = [canvas.text(step, canvas.FAINT) for step in _steps(each)]
      columns = [canvas.stack([name, grid]) for name, grid in zip(names, grids, strict=True)]
      rows.append(canvas.stack([canvas.text(label, bold=True), canvas.beside(columns, _BETWEEN)]))
    strips.append(canvas.stack([_caption(each, scale), *rows], 6))
  return canvas.page(strips, 2 * canvas.MARGIN)


def animate(filters: Sequence[Filters], *, scale: str = "filter") -> bytes:
  """Returns a GIF file: all filters as an animation over the steps, networks side by side.

  If a network has fewer steps than another, each of them is shown for longer.

  Args:
    filters, scale: as in `draw`.

  Raises:
    I3dError: as `draw`.
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
  """Draws a network at one step."""
  columns = [canvas.stack([canvas.text(label, bold=True), steps[step]]) for label, steps in grids]
  picture = canvas.beside(columns, _BETWEEN)
  time = canvas.text(_steps(each)[step], size=16, height=28, bold=True)
  return canvas.stack([_caption(each, scale, width=max(picture.shape[1], 300)), time, picture], 4)


def _steps(each: Filters) -> list[str]:
  """Names each step by its distance from the middle frame."""
  count = len(each.kernel)
  if count == 1:
    return ["one frame"]
  if count % 2 == 0:
    return [f"flow {step + 1} of {count}" for step in range(count)]
  middle = count // 2
  return ["t" if step == middle else f"t {'+' if step > middle else '−'} {abs(step - middle)}" for step in range(count)]


def _grids(each: Filters, scale: str, tile: int) -> list[tuple[str, list[np.ndarray]]]:
  """Draws all filters at each step; returns the name and the pictures of each component."""
  full = _full(each, scale)
  pictures = []
  for label, channels in _COMPONENTS[each.stream]:
    weights = each.kernel[..., channels, :] / full  # [steps, h, w, 3 or 1, N]
    levels = np.rint(127.5 + 127.5 * np.clip(weights, -1, 1)).astype(np.uint8)
    levels = np.broadcast_to(levels, (*levels.shape[:3], 3, levels.shape[-1]))
    pictures.append((label, [_grid(np.moveaxis(step, -1, 0), tile) for step in levels]))
  return pictures


def _full(each: Filters, scale: str) -> np.ndarray:
  """Returns the weight that has full contrast for each filter, `[N]`."""
  if scale not in _SCALES:
    raise errors.I3dError(f"scale is {scale!r}; allowed are {', '.join(_SCALES)}")
  largest = np.abs(each.kernel).max(axis=(0, 1, 2, 3))
  if scale == "checkpoint":
    largest = np.full_like(largest, largest.max())
  return np.where(largest > 0, largest, 1)


def _grid(tiles: np.ndarray, side: int) -> np.ndarray:
  """Enlarges filters, uint8 `[N, h, w, 3]`, and lays them in a square, row by row."""
  count, height, width = tiles.shape[:3]
  factor = max(1, round(side / height))
  size = (width * factor, height * factor)
  enlarged = [cv2.resize(tile, size, interpolation=cv2.INTER_NEAREST) for tile in np.ascontiguousarray(tiles)]
  columns = math.ceil(math.sqrt(count))
  rows = [canvas.beside(enlarged[first : first + columns], _GAP) for first in range(0, count, columns)]
  return canvas.stack(rows, _GAP)


def _caption(each: Filters, scale: str, *, width: int | None = None) -> np.ndarray:
  """Draws the names of network and layer, and what the colours mean."""
  steps, height, across, channels, number = each.kernel.shape
  title = canvas.text(each.checkpoint, bold=True, size=16, height=26, max_width=width)
  facts = f"{each.layer}: {number} filters of {across}×{height} pixels, {steps} {'step' if steps == 1 else 'steps'}"
  full = _full(each, scale)
  if scale == "filter":
    contrast = f"each filter's largest weight, {full.min():.2g} to {full.max():.2g}"
  else:
    contrast = f"±{full.max():.3g}, the largest weight"
  ramp = np.broadcast_to(np.linspace(0, 255, _RAMP[0]).astype(np.uint8)[:, np.newaxis], (*_RAMP[::-1], 3))
  ramp = canvas.border(canvas.rim(ramp), top=6, bottom=6)
  legend = canvas.beside([canvas.text("−", canvas.FAINT), ramp, canvas.text("+    gray is 0", canvas.FAINT)], 5)
  lines = [canvas.text(words, canvas.FAINT, max_width=width) for words in (facts, f"full contrast: {contrast}")]
  return canvas.stack([title, *lines, legend])
