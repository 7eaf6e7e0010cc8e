"""Pictures of class activation: a video of it, and a contact sheet."""

from collections.abc import Callable
import pathlib

import cv2
import matplotlib
import numpy as np

from i3d_tf.evaluation import classification
from i3d_tf.video import canvas
from i3d_tf.video import decode
from i3d_tf.visualization import activation as activation_lib
from i3d_tf.visualization import panels
from i3d_tf.visualization import source

_MAP = "RdYlBu_r"  # blue to red; its middle, for a logit of 0, is not seen
_STRONGEST = 0.8  # how much of the colour covers the frame where the logit is the largest
_COLORS = "red speaks for the class, blue against it"
_BAR = (14, 56)  # pixels of the colour bar and of its numbers
_PAGE, _PICTURE_HEIGHT = 1000, 400  # pixels of the video's width, and of its pictures' height at most
_TILE_HEIGHT = 150  # pixels, on the sheet
_GAP = 8
_TIMELINE_HEIGHT = 130


class Painter:
  """Draws one activation: what speaks for the class is red, what speaks against it blue, in one scale."""

  def __init__(self, activation: activation_lib.Activation, store: source.FlowStore | None = None):
    """`store` has the flow that the network took, if it took flow; then that is shown beside."""
    self.activation, self._store = activation, store
    self.largest = max(float(np.abs(activation.values).max()), 1e-6)

  def beside(self, index: int, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the network saw at a frame, and the frame in gray with the logits laid over it, RGB uint8 `[H, W, 3]`."""
    seen = frame if self._store is None else self._store.draw(min(index, len(self._store) - 1))
    return self._cut(seen), self.overlay(self._cut(frame), self.activation.at(index / decode.FRAME_RATE))

  def overlay(self, frame: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """A frame in gray, covered by colour the more the farther from 0 the logits `[H, W]` are."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., np.newaxis].astype(np.float32)
    level = logits / self.largest
    color = 255 * matplotlib.colormaps[_MAP]((1 + level) / 2)[..., :3]
    share = _STRONGEST * np.abs(level)[..., np.newaxis]
    return np.rint((1 - share) * gray + share * color).astype(np.uint8)

  def bar(self, height: int) -> np.ndarray:
    """The scale of the colours, over middle gray, with numbers."""
    levels = np.linspace(self.largest, -self.largest, height, dtype=np.float32)[:, np.newaxis]
    gray = np.full((height, _BAR[0], 3), 128, np.uint8)
    bar = canvas.rim(self.overlay(gray, np.broadcast_to(levels, gray.shape[:2])))
    numbers = np.full((height, _BAR[1], 3), canvas.PAPER, np.uint8)
    for share in (0, 0.25, 0.5, 0.75, 1):
      value = (1 - 2 * share) * self.largest
      words = canvas.text(f"{value:+.1f}".replace("-", "−") if value else "0", canvas.FAINT, size=12, height=16)
      top = round(share * (height - 16))
      numbers[top : top + 16, 4 : 4 + words.shape[1]] = words
    return canvas.beside([bar, numbers])

  def facts(self) -> str:
    """The class's logit for the whole video, and how good that is."""
    logits, index = self.activation.logits, self.activation.index
    probability = classification.softmax(logits)[index]
    place = 1 + int((logits > logits[index]).sum())
    return f"whole video: logit {logits[index]:.2f}, probability {probability:.3f}, place {place} of {len(logits)}"

  def _cut(self, image: np.ndarray) -> np.ndarray:
    height, width = self.activation.size
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def draw_video(
  painter: Painter, write: Callable[[np.ndarray], None], *, progress: source.Progress = source.silently
) -> None:
  """Draws all frames, each with the logit's curve beneath it; `write` takes them."""
  activation = painter.activation
  inner = _PAGE - 2 * canvas.MARGIN
  over_time = activation.over_time
  margin = max(0.08 * float(np.ptp(over_time)), 0.1)
  timeline = panels.Timeline(
      activation.times, over_time[:, np.newaxis], panels.PALETTE[:1], seconds=activation.video.seconds,
      size=(inner, _TIMELINE_HEIGHT), limits=(over_time.min() - margin, over_time.max() + margin),
  )  # fmt: skip
  size = {"width": (inner - sum(_BAR) - 2 * _GAP) // 2, "height": _PICTURE_HEIGHT}
  for index, frame in enumerate(progress(activation.video.frames(), "drawing", activation.video.num_frames)):
    time = index / decode.FRAME_RATE
    pictures = [panels.fit(each, **size) for each in painter.beside(index, frame)]
    clock = canvas.text(f"{time:.2f} of {activation.video.seconds:.2f} s", size=16, height=28)
    title = panels.apart(_title(activation, inner - clock.shape[1] - 20), clock, width=inner)
    words = canvas.text("logit, mean over space", canvas.FAINT, size=12)
    lines = [
      title,
      canvas.text(f"{painter.facts()}; {_COLORS}", canvas.FAINT, max_width=inner),
      canvas.beside([*pictures, painter.bar(pictures[0].shape[0])], _GAP),
      words,
      timeline.at(time, (time, time)),
    ]
    write(canvas.border(canvas.stack(lines, 4), *[canvas.MARGIN] * 4))


def contact_sheet(painter: Painter, *, columns: int = 8) -> np.ndarray:
  """Some frames at equal distances in time, above each the logits laid over it, RGB uint8 `[H, W, 3]`."""
  activation = painter.activation
  steps = set(np.rint(np.linspace(0, activation.video.num_frames - 1, columns)).astype(int).tolist())
  drawn = []
  for index, frame in enumerate(activation.video.frames()):
    if index in steps:
      pair = [panels.fit(each, width=10 * _TILE_HEIGHT, height=_TILE_HEIGHT) for each in painter.beside(index, frame)]
      drawn.append(canvas.stack([*pair, canvas.text(f"{index / decode.FRAME_RATE:.2f} s", canvas.FAINT)], 4))
  rows = canvas.beside([*drawn, painter.bar(2 * _TILE_HEIGHT + 4)], 4)
  title, facts = _title(activation, rows.shape[1]), canvas.text(f"{painter.facts()}; {_COLORS}", canvas.FAINT)
  return canvas.border(canvas.stack([title, facts, rows], 4), *[canvas.MARGIN] * 4)


def _title(activation: activation_lib.Activation, width: int) -> np.ndarray:
  name = canvas.text(activation.name, bold=True, size=16, height=28)
  video = pathlib.Path(activation.video.path).name
  words = canvas.text(video, canvas.FAINT, size=14, height=28, max_width=max(width - name.shape[1] - 12, 40))
  return canvas.beside([name, words], 12)
