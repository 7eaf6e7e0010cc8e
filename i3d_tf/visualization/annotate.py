"""A video beside its flow, with what networks of one stream or two say of it over time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib

import cv2
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.flow import codec
from i3d_tf.inference import chunks
from i3d_tf.inference import classification
from i3d_tf.inference import endpoints
from i3d_tf.input import ops
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import preprocess
from i3d_tf.video import decode
from i3d_tf.visualization import canvas
from i3d_tf.visualization import curves as curves_lib
from i3d_tf.visualization import source
from i3d_tf.weights import saved

JOINT = "joint"
NAMES = {"rgb": "RGB", "flow": "Flow", JOINT: "RGB + Flow, logits added"}
_WIDTH = 1000  # pixels of the video
_INNER = _WIDTH - 2 * canvas.MARGIN
_PICTURE_HEIGHT = 370  # pixels, at most
_GAP = 8
_LIST = 350  # pixels of the ranking's width
_CURVES = _INNER - _LIST - 3 * _GAP  # pixels of a timeline's width
_POINTS = 1200  # of a curve, at most
_CHUNK = 256  # frames from one pass of the network to the next: a Kinetics clip is one pass
_CROP_COLOR = (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Annotation:
  """What a network, or two added, say of a video.

  Attributes:
    name: 'rgb', 'flow' or 'joint'.
    curves: the streams' logits over time.
  """

  name: str
  curves: tuple[curves_lib.Curve, ...]

  @property
  def mean(self) -> np.ndarray:
    """The logits of the whole video, `[classes]`."""
    return sum(curve.mean for curve in self.curves)


class StepNetwork:
  """A network of one stream that gives the logits of a video of any length, step by step."""

  def __init__(self, checkpoint: str | os.PathLike, stream: str):
    """Loads it; I3dError, beside what `I3dFeatures` raises, if it is a network of another stream."""
    self.checkpoint, self.stream = os.fspath(checkpoint), stream
    self._features = endpoints.I3dFeatures(checkpoint, [spec.STEP_LOGITS])
    self.info = self._features.info
    check_stream(self.checkpoint, self.info, stream)
    side, channels = self.info.preprocess.crop, preprocess.CHANNELS[stream]
    self._apply = tf.function(self._features, input_signature=[tf.TensorSpec([1, None, side, side, channels])])

  def curve(self, inputs: Iterator[np.ndarray], num_frames: int) -> curves_lib.Curve:
    """Its curve for `num_frames` frames uint8, or fields of flow in pixels per frame, centrally cropped."""
    clips = (prepare(each, self.stream, self.info.preprocess.crop)[np.newaxis] for each in inputs)
    layers = {spec.STEP_LOGITS: spec.time_layers(spec.STEP_LOGITS)}
    steps = chunks.extract(self._apply, clips, layers=layers, num_frames=num_frames, chunk=_CHUNK)
    logits = np.concatenate([each[spec.STEP_LOGITS][0] for each in steps])
    if not np.isfinite(logits).all():
      raise errors.I3dError(f"{self.checkpoint}: the network's logits are not finite; check the checkpoint")
    return curves_lib.make(logits, num_frames, self.stream)


def check_stream(checkpoint: str, info: saved.ModelInfo, stream: str) -> None:
  """Raises I3dError if a network is not of that stream."""
  if info.stream != stream:
    raise errors.I3dError(f"{checkpoint} is a network of stream {info.stream}; one of {stream} is needed")


def prepare(image: np.ndarray, stream: str, crop: int | None) -> np.ndarray:
  """A network's input from one frame uint8 `[H, W, 3]` or one field of flow `[H, W, 2]`; of the whole if no `crop`."""
  if crop is not None:
    image = ops.center_crop(image, crop)
  return ops.scale_rgb(image).numpy() if stream == "rgb" else codec.scale(image)


def annotate(
  path: str | os.PathLike,
  networks: Sequence[StepNetwork],
  write: Callable[[np.ndarray], None],
  *,
  draw_flow: bool = True,
  top_k: int = 5,
  threads: int | None = None,
  progress: source.Progress = source.silently,
) -> list[Annotation]:
  """Draws the annotated video, frame by frame.

  It has 25 frames per second, as the networks see it: its frames, with the part that the networks see marked; its flow,
  coloured; for each stream, and for their added logits if there are two, the probabilities of some classes over the
  whole time, with a line at the frame that is shown, and the best classes there. The memory needed grows with the
  video by its logits only; flow waits on disk, about a megabyte a second.

  Args:
    path: the video.
    networks: one, or two of different streams.
    write: takes the frames of the new video, RGB uint8 `[H, W, 3]`; see `encode.writing`.
    draw_flow: show the flow though no network takes it.
    top_k: classes in a ranking.
    threads: for flow; None: one a core.
    progress: is shown what is gone through.

  Returns:
    What the networks said, RGB before flow before both.

  Raises:
    I3dError: if the networks do not go together, or the video cannot be read whole.
  """
  info = classification.check_together([network.info for network in networks])
  streams = [network.stream for network in networks]
  video = source.survey(path, short_side=info.preprocess.short_side, streams=streams)
  store = source.FlowStore()
  found = tuple(_curve(network, video, store, threads, progress) for network in networks)
  if draw_flow and "flow" not in streams:
    for _ in store.keep(progress(video.flow(threads), "flow", video.num_frames - 1)):
      pass
  annotations = [Annotation(stream, (curve,)) for stream, curve in zip(streams, found)]
  annotations += [Annotation(JOINT, found)] if len(found) > 1 else []
  page = _Page(video, annotations, {each.stream: each.checkpoint for each in networks}, info, store, top_k)
  for index, frame in enumerate(progress(video.frames(), "drawing", video.num_frames)):
    write(page.draw(index, frame))
  return annotations


def _curve(
  network: StepNetwork, video: source.Video, store: source.FlowStore, threads: int | None, progress: source.Progress
) -> curves_lib.Curve:
  if network.stream == "rgb":
    return network.curve(progress(video.frames(), "rgb", video.num_frames), video.num_frames)
  count = video.num_frames - 1
  return network.curve(store.keep(progress(video.flow(threads), "flow", count)), count)


class _Page:
  """Draws the frames of the annotated video."""

  def __init__(
    self,
    video: source.Video,
    annotations: Sequence[Annotation],
    checkpoints: Mapping[str, str],
    info: saved.ModelInfo,
    store: source.FlowStore,
    top_k: int,
  ):
    self._video, self._annotations, self._store, self._top_k = video, annotations, store, top_k
    self._checkpoints, self._crop, self._names = checkpoints, info.preprocess.crop, info.class_names
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
    """The page at a frame."""
    time = index / decode.FRAME_RATE
    name = canvas.text(pathlib.Path(self._video.path).name, bold=True, size=16, height=28, max_width=_INNER - 160)
    clock = canvas.text(f"{time:.2f} of {self._video.seconds:.2f} s", size=16, height=28)
    rows = [self._row(each, timeline, time) for each, timeline in zip(self._annotations, self._timelines)]
    seconds = self._annotations[0].curves[0].field
    words = f"probabilities; shaded: the {seconds:.1f} s of video on which the values at the line depend"
    note = canvas.text(words, canvas.FAINT, size=12)
    lines = [canvas.apart(name, clock, width=_INNER), self._pictures(index, frame), self._legend, *rows, note]
    return canvas.border(canvas.stack(lines, _GAP), *[canvas.MARGIN] * 4)

  def _pictures(self, index: int, frame: np.ndarray) -> np.ndarray:
    """The frame, and the flow from it to the next beside it."""
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
    """One stream's curves, and its ranking at `time`."""
    (probabilities,) = curves_lib.probabilities(annotation.curves, np.array([time]))
    best = np.argsort(-probabilities, kind="stable")[: self._top_k]
    colors = [self._colors.get(int(index), canvas.OTHER) for index in best]
    names = [self._names[index] for index in best]
    ranking = canvas.ranking(names, probabilities[best], colors, width=_LIST)
    checkpoint = canvas.text(self._checkpoints.get(annotation.name, ""), canvas.FAINT, max_width=400)
    title = canvas.beside([canvas.text(NAMES[annotation.name], bold=True, size=14), checkpoint], 10)
    curves = timeline.at(time, annotation.curves[0].seen(time))
    return canvas.stack([title, canvas.beside([curves, ranking], 3 * _GAP)])


def _titled(picture: np.ndarray, title: np.ndarray) -> np.ndarray:
  return canvas.stack([picture, title], 2)


def _mark(frame: np.ndarray, crop: int) -> np.ndarray:
  """The frame with a line around the centre that a network sees."""
  top, left = ((extent - crop) // 2 for extent in frame.shape[:2])
  return cv2.rectangle(frame.copy(), (left, top), (left + crop - 1, top + crop - 1), _CROP_COLOR)
