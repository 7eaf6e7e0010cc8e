"""Pages drawn for each frame of a video: with what networks say of it over time, or with the activation of a class."""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import cv2
import matplotlib
import numpy as np
from scipy import special

from i3d_tf import flow as flow_lib
from i3d_tf.flow import codec
from i3d_tf.inference import classification
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.models import preprocess
from i3d_tf.video import decode
from i3d_tf.visualization import activation as activation_lib
from i3d_tf.visualization import canvas
from i3d_tf.visualization import curves as curves_lib
from i3d_tf.visualization import source

_SUM = "rgb+flow"
NAMES = {"rgb": "RGB", "flow": "Flow", "joint": "RGB + Flow", _SUM: "RGB + Flow, logits added"}
_WIDTH = 1000  # pixels of the video
_INNER = _WIDTH - 2 * canvas.MARGIN
_PICTURE_HEIGHT = 370  # pixels, at most
_GAP = 8
_LIST = 350  # pixels of the ranking's width
_CURVES = _INNER - _LIST - 3 * _GAP  # pixels of a timeline's width
_POINTS = 1200  # of a curve, at most
_CROP_COLOR = (255, 255, 255)
_MAP = "RdYlBu_r"  # blue to red; its middle, for a logit of 0, is transparent
_STRONGEST = 0.8  # opacity of the colour where the logit is the largest
_COLORS = "red speaks for the class, blue against it"
_BAR = (14, 56)  # pixels of the colour bar and of its numbers
_FRAME_HEIGHT = 400  # pixels, at most
_TILE_HEIGHT = 150  # pixels, on the sheet
_TIMELINE_HEIGHT = 130


@dataclasses.dataclass(frozen=True)
class Annotation:
  """What a network says of a video, or two whose logits are added.

  Attributes:
    name: a key of `NAMES`.
    curves: the logits of each network over time.
  """

  name: str
  curves: tuple[curves_lib.Curve, ...]

  @property
  def mean(self) -> np.ndarray:
    """The logits of the whole video, `[classes]`; see `curves.Curve.mean`."""
    return np.sum([curve.mean for curve in self.curves], axis=0)


def annotate(
  path: str | os.PathLike | source.Video,
  classifier: classifier_lib.Classifier,
  write: Callable[[np.ndarray], None],
  *,
  draw_flow: bool = True,
  top_k: int = 5,
  estimator: flow_lib.Estimator | None = None,
  allow_damaged: bool = False,
  progress: bool = False,
  frame_rate: float = preprocess.FRAME_RATE,
  flow_bound: float = codec.BOUND,
) -> list[Annotation]:
  """Draws the annotated video, frame by frame.

  It has 25 frames per second and shows the frames, with the part that the networks see marked; their flow, coloured;
  and for each network, and for the added logits of two, the probabilities of some classes over the whole time, with a
  line at the current frame, and the best classes there. Memory grows with the video by its logits only; flow is kept
  on disk, about a megabyte per second.

  Args:
    path: the video, or what `source.survey` returned of it.
    classifier: any network, or two of different streams.
    write: takes the frames of the new video, RGB uint8 `[H, W, 3]`; see `encode.writing`.
    draw_flow: show the flow even if no network takes it.
    top_k: classes in a ranking.
    estimator: computes the flow; None: TV-L1.
    allow_damaged: take what there is of a damaged video, see `decode.iter_frames`.
    progress: show progress on stderr.
    frame_rate: frames per second of folders of images and of .npy clips, which state none.
    flow_bound: pixels per frame of the largest byte of folders' images of flow.

  Returns:
    What the networks say, and what they say together.

  Raises:
    I3dError: if clips of the networks cannot be cut from the same frames, or the video cannot be read whole.
  """
  networks = classifier.networks
  clip = classification.check_together([network.info for network in networks.values()]).preprocess
  least = max(curves_lib.least_frames(each, curves_lib.step_layers(each)) for each in networks.values())
  how: dict[str, Any] = {"allow_damaged": allow_damaged, "image_rate": frame_rate, "flow_bound": flow_bound}
  video = source.survey(path, clip, least_frames=least, **how)
  store = source.FlowStore()
  compute = lambda network: curves_lib.compute(network, video, store, estimator=estimator, progress=progress)
  found = tuple(map(compute, networks.values()))
  if draw_flow and "flow" not in classifier.streams:
    flow = source.progress_bar(video.flow(estimator), "flow", video.num_frames - 1, shown=progress)
    for _ in store.keep(flow):
      pass
  annotations = [Annotation(stream, (curve,)) for stream, curve in zip(networks, found)]
  annotations += [Annotation(_SUM, found)] if len(found) > 1 else []
  page = _Page(video, annotations, classifier, store, top_k)
  for index, frame in enumerate(source.progress_bar(video.frames(), "drawing", video.num_frames, shown=progress)):
    write(page.draw(index, frame))
  return annotations


class _Page:
  """Draws the frames of the annotated video."""

  def __init__(
    self,
    video: source.Video,
    annotations: Sequence[Annotation],
    classifier: classifier_lib.Classifier,
    store: source.FlowStore,
    top_k: int,
  ):
    self._video, self._annotations, self._store, self._top_k = video, annotations, store, top_k
    self._checkpoints = {stream: network.checkpoint for stream, network in classifier.networks.items()}
    self._crop, self._names = classifier.preprocess.crop, classifier.class_names
    self._notes = list(dict.fromkeys(_note(each) for each in annotations[-1].curves))
    size = (_CURVES, max(150, canvas.ROW * top_k + canvas.BELOW_AXES))
    times = np.linspace(0, video.seconds, min(_POINTS, 4 * video.num_frames))
    values = [curves_lib.probabilities(each.curves, times) for each in annotations]
    best = np.max([each.mean(axis=0) for each in values], axis=0)
    shown = np.argsort(-best, kind="stable")[: len(canvas.PALETTE)]
    self._colors = {int(index): color for index, color in zip(shown, canvas.PALETTE)}
    self._timelines = [
        canvas.Timeline(
            times, each[:, shown], list(self._colors.values()), seconds=video.seconds, size=size, limits=(0, 1.02)
        )
        for each in values
    ]  # fmt: skip
    names = [self._names[index] for index in self._colors]
    self._legend = canvas.legend(names, list(self._colors.values()), width=_INNER)

  def draw(self, index: int, frame: np.ndarray) -> np.ndarray:
    """Draws the page at a frame."""
    time = index / decode.FRAME_RATE
    name = canvas.text(pathlib.Path(self._video.path).name, bold=True, size=16, height=28, max_width=_INNER - 160)
    clock = canvas.text(f"{time:.2f} of {self._video.seconds:.2f} s", size=16, height=28)
    rows = [self._row(each, timeline, time) for each, timeline in zip(self._annotations, self._timelines)]
    notes = [canvas.text(note, canvas.FAINT, size=12, max_width=_INNER) for note in self._notes]
    title = canvas.apart(name, clock, width=_INNER)
    return canvas.page([title, self._pictures(index, frame), self._legend, *rows, *notes], _GAP)

  def _pictures(self, index: int, frame: np.ndarray) -> np.ndarray:
    """Draws the frame, and the flow from it to the next beside it."""
    has_flow = len(self._store) > 0
    width = (_INNER - _GAP) // 2 if has_flow else _INNER
    size = {"width": width, "height": _PICTURE_HEIGHT}
    words = canvas.text("in the square: what the network sees", canvas.FAINT, size=12)
    columns = [_titled(canvas.fit(_mark(frame, self._crop), **size), words)]
    if has_flow:
      words = canvas.text(f"flow, in full colour {self._store.full_scale:.1f} pixels per frame", canvas.FAINT, size=12)
      wheel = canvas.border(canvas.wheel(18), top=2, left=8)
      picture = canvas.fit(self._store.draw(min(index, len(self._store) - 1)), **size)
      columns.append(_titled(picture, canvas.beside([words, wheel])))
    pictures = canvas.beside(columns, _GAP)
    return canvas.border(pictures, left=(_INNER - pictures.shape[1]) // 2)

  def _row(self, annotation: Annotation, timeline: canvas.Timeline, time: float) -> np.ndarray:
    """Draws the curves of an annotation, and its ranking at `time`."""
    (probabilities,) = curves_lib.probabilities(annotation.curves, np.array([time]))
    best = np.argsort(-probabilities, kind="stable")[: self._top_k]
    colors = [self._colors.get(int(index), canvas.OTHER) for index in best]
    names = [self._names[index] for index in best]
    ranking = canvas.ranking(names, probabilities[best], colors, width=_LIST)
    checkpoint = canvas.text(self._checkpoints.get(annotation.name, ""), canvas.FAINT, max_width=400)
    title = canvas.beside([canvas.text(NAMES[annotation.name], bold=True, size=14), checkpoint], 10)
    curves = timeline.at(time, annotation.curves[0].seen(time))
    return canvas.stack([title, canvas.beside([curves, ranking], 3 * _GAP)])


def _note(curve: curves_lib.Curve) -> str:
  """Explains what a curve shows."""
  seen = f"shaded: the {curve.field:.1f} s of video on which the values at the line depend"
  if curve.hop is None:
    return f"probabilities; {seen}"
  return f"probabilities of clips of {curve.field:.1f} s, one every {curve.hop:.2f} s, at the middle of each; {seen}"


def _titled(picture: np.ndarray, title: np.ndarray) -> np.ndarray:
  return canvas.stack([picture, title], 2)


def _mark(frame: np.ndarray, crop: int) -> np.ndarray:
  """Draws a line around the centre of a frame that the networks see."""
  top, left = ((extent - crop) // 2 for extent in frame.shape[:2])
  return cv2.rectangle(frame.copy(), (left, top), (left + crop - 1, top + crop - 1), _CROP_COLOR)


class Painter:
  """Draws an activation: evidence for the class is red, evidence against it blue, in one scale."""

  def __init__(self, activation: activation_lib.Activation, store: source.FlowStore | None = None):
    """Prepares to draw.

    Args:
      activation: what is drawn.
      store: has the flow if the network took flow, which is then drawn, too.
    """
    self.activation, self._store = activation, store
    self.largest = max(float(np.abs(activation.values).max()), 1e-6)

  def beside(self, index: int, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the network saw at a frame, and the frame in gray with the logits over it, RGB uint8.

    Args:
      index: number of the frame.
      frame: the frame, RGB uint8 `[H, W, 3]`.
    """
    seen = frame if self._store is None else self._store.draw(min(index, len(self._store) - 1))
    return self._cut(seen), self.overlay(self._cut(frame), self.activation.at(index / decode.FRAME_RATE))

  def overlay(self, frame: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns a frame in gray with logits over it, the more opaque the farther from 0, RGB uint8 `[H, W, 3]`.

    Args:
      frame: RGB uint8 `[H, W, 3]`.
      logits: `[H, W]`.
    """
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., np.newaxis].astype(np.float32)
    level = logits / self.largest
    color = 255 * matplotlib.colormaps[_MAP]((1 + level) / 2)[..., :3]
    share = _STRONGEST * np.abs(level)[..., np.newaxis]
    return np.rint((1 - share) * gray + share * color).astype(np.uint8)

  def bar(self, height: int) -> np.ndarray:
    """Returns the scale of the colours, over middle gray, with numbers, RGB uint8 `[height, W, 3]`.

    Args:
      height: pixels.
    """
    levels = np.linspace(self.largest, -self.largest, height, dtype=np.float32)[:, np.newaxis]
    gray = np.full((height, _BAR[0], 3), 128, np.uint8)
    bar = canvas.rim(self.overlay(gray, np.broadcast_to(levels, gray.shape[:2])))
    numbers = np.full((height, _BAR[1], 3), canvas.PAPER, np.uint8)
    for share in (0, 0.25, 0.5, 0.75, 1):
      value = (1 - 2 * share) * self.largest
      number = f"{value:+.1f}" if self.largest < 1000 else f"{value:+.0e}".replace("e+0", "e+")
      words = canvas.text(number.replace("-", "−") if value else "0", canvas.FAINT, size=12, height=16)
      top = round(share * (height - 16))
      numbers[top : top + 16, 4 : 4 + words.shape[1]] = words
    return canvas.beside([bar, numbers])

  def facts(self) -> str:
    """Returns the logit of the class for the whole video, its probability and its rank, in words."""
    logits, index = self.activation.logits, self.activation.index
    probability = special.softmax(logits.astype(np.float64))[index]
    place = 1 + int((logits > logits[index]).sum())
    return f"whole video: logit {logits[index]:.2f}, probability {probability:.3f}, place {place} of {len(logits)}"

  def _cut(self, image: np.ndarray) -> np.ndarray:
    height, width = self.activation.size
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def draw_activation(painter: Painter, write: Callable[[np.ndarray], None], *, progress: bool = False) -> None:
  """Draws all frames, each with the curve of the logit below it.

  Args:
    painter: of the activation.
    write: takes the frames of the new video, RGB uint8 `[H, W, 3]`.
    progress: show progress on stderr.
  """
  activation = painter.activation
  inner = _WIDTH - 2 * canvas.MARGIN
  over_time = activation.over_time
  margin = max(0.08 * float(np.ptp(over_time)), 0.1)
  timeline = canvas.Timeline(
      activation.times, over_time[:, np.newaxis], canvas.PALETTE[:1], seconds=activation.video.seconds,
      size=(inner, _TIMELINE_HEIGHT), limits=(over_time.min() - margin, over_time.max() + margin),
  )  # fmt: skip
  size = {"width": (inner - sum(_BAR) - 2 * _GAP) // 2, "height": _FRAME_HEIGHT}
  frames = source.progress_bar(activation.video.frames(), "drawing", activation.video.num_frames, shown=progress)
  for index, frame in enumerate(frames):
    time = index / decode.FRAME_RATE
    pictures = [canvas.fit(each, **size) for each in painter.beside(index, frame)]
    clock = canvas.text(f"{time:.2f} of {activation.video.seconds:.2f} s", size=16, height=28)
    title = canvas.apart(_title(activation, inner - clock.shape[1] - 20), clock, width=inner)
    words = canvas.text("logit, mean over space", canvas.FAINT, size=12)
    lines = [
      title,
      canvas.text(f"{painter.facts()}; {_COLORS}", canvas.FAINT, max_width=inner),
      canvas.beside([*pictures, painter.bar(pictures[0].shape[0])], _GAP),
      words,
      timeline.at(time, (time, time)),
    ]
    write(canvas.page(lines, 4))


def draw_sheet(painter: Painter, *, columns: int = 8) -> np.ndarray:
  """Returns frames at equal intervals, each above itself with the logits over it, RGB uint8 `[H, W, 3]`.

  Args:
    painter: of the activation.
    columns: number of frames.
  """
  activation = painter.activation
  steps = set(np.rint(np.linspace(0, activation.video.num_frames - 1, columns)).astype(int).tolist())
  drawn = []
  for index, frame in enumerate(activation.video.frames()):
    if index in steps:
      pair = [canvas.fit(each, width=10 * _TILE_HEIGHT, height=_TILE_HEIGHT) for each in painter.beside(index, frame)]
      drawn.append(canvas.stack([*pair, canvas.text(f"{index / decode.FRAME_RATE:.2f} s", canvas.FAINT)], 4))
  rows = canvas.beside([*drawn, painter.bar(2 * _TILE_HEIGHT + 4)], 4)
  title, facts = _title(activation, rows.shape[1]), canvas.text(f"{painter.facts()}; {_COLORS}", canvas.FAINT)
  return canvas.page([title, facts, rows], 4)


def _title(activation: activation_lib.Activation, width: int) -> np.ndarray:
  name = canvas.text(activation.name, bold=True, size=16, height=28)
  video = pathlib.Path(activation.video.path).name
  words = canvas.text(video, canvas.FAINT, size=14, height=28, max_width=max(width - name.shape[1] - 12, 40))
  return canvas.beside([name, words], 12)
