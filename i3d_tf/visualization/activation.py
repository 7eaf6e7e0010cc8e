"""Where and when a network sees a class: its logits at each position of Mixed_5c.

The head averages Mixed_5c over 2 steps and 7x7 positions and applies the classifier, which is linear, to the averages.
So the classifier can be applied to each position first and the averages be taken of its logits: every position has a
logit of its own, and the mean of them all, each weighted by how many of the head's windows it is in, is the network's
logit (`weights`). No gradients and no second network are needed, and nothing is approximated.

A crop of 224 pixels has 7x7 positions of equal weight; of n steps the first and the last weigh half. On whole frames
the network is fully convolutional, as with `average_space`: the head's window moves, and positions near the border are
in fewer windows. A position stands for the middle of the pixels that it sees, which with SAME padding is 7.5 pixels
right of and below the middle of its 32x32 pixels; on the way to the frame logits are interpolated linearly.

Pictures of class activation: a video of it, and a contact sheet.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import difflib
import os
import pathlib
import tempfile

import cv2
import matplotlib
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.inference import chunks
from i3d_tf.inference import classifier
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import preprocess
from i3d_tf.models import receptive_field
from i3d_tf.video import decode
from i3d_tf.visualization import annotate
from i3d_tf.visualization import canvas
from i3d_tf.visualization import curves
from i3d_tf.visualization import source
from i3d_tf.weights import release
from i3d_tf.weights import saved

ENDPOINT = "Mixed_5c"
_PIXELS_AT_ONCE = 256 * 224 * 224  # frames times pixels that go through the network from one pass to the next


class PositionNetwork:
  """A network of one stream that gives the logits of all classes at each position of Mixed_5c."""

  def __init__(self, checkpoint: str | os.PathLike, stream: str):
    """Loads it; I3dError, beside what `saved.read` raises, if it is no I3D with a classifier, or of another stream."""
    self.checkpoint, self.stream = os.fspath(checkpoint), stream
    values, info = saved.read(checkpoint)
    if info.model != "i3d":
      raise errors.CheckpointError(f"{checkpoint} is a network {info.model}; class activation is of networks i3d only")
    if not info.num_classes:
      raise errors.CheckpointError(f"{checkpoint} has no classifier yet; training can start from it")
    annotate.check_stream(self.checkpoint, info, stream)
    self.info = info
    self._model = saved.make_model(dataclasses.replace(info, average_space=True))
    release.assign(self._model, values, self.checkpoint)
    signature = tf.TensorSpec([1, None, None, None, preprocess.CHANNELS[stream]])
    self._apply = tf.function(self._run, input_signature=[signature])

  def __call__(self, clips: np.ndarray) -> dict[str, tf.Tensor]:
    """Clips `[1, T, H, W, C]` in [-1, 1] to logits `[1, T', H', W', classes]`, under the name of their endpoint."""
    return self._apply(clips)

  def _run(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    features = self._model(clips)[1][ENDPOINT]
    variables = release.named_variables(self._model)
    kernel = tf.reshape(variables[release.HEAD_KERNEL], [features.shape[-1], self.info.num_classes])
    return {ENDPOINT: tf.tensordot(features, kernel, 1) + variables[release.HEAD_BIAS]}


def weights(steps: int, height: int, width: int) -> np.ndarray:
  """The share of each position in the network's logits, float64 `[steps, height, width]`; their sum is 1.

  Along each axis it is the number of places of the head's window that a position is in, of `spec.I3D.head_pool` or the
  whole axis if that is shorter (which time must not be).
  """
  axes = [_shares(extent, kernel) for extent, kernel in zip((steps, height, width), spec.I3D.head_pool)]
  return np.einsum("t,y,x->tyx", *axes)


def _shares(extent: int, kernel: int) -> np.ndarray:
  kernel = min(kernel, extent)
  counts = np.convolve(np.ones(extent - kernel + 1), np.ones(kernel))
  return counts / counts.sum()


def centres(extent: int) -> np.ndarray:
  """Of the positions of Mixed_5c along a side of `extent` pixels the middles of what they see, in pixels."""
  rows = [(3, 1) if isinstance(row, spec.Mixed) else (row.kernel, row.stride) for row in spec.ROWS]
  path = [receptive_field.Layer(kernel, stride) for kernel, stride in rows]
  count = receptive_field.num_steps(path, extent)
  seen = [receptive_field.seen(path, (index, index + 1), extent) for index in range(count)]
  return np.array([(first + end - 1) / 2 for first, end in seen])


@dataclasses.dataclass(frozen=True)
class Activation:
  """The logits of one class over a video's time and space.

  Attributes:
    video: the video.
    crop: pixels of the side of the central square that the network saw; None: it saw the whole frames.
    name: of the class.
    times: of the steps in seconds, `[steps]`.
    values: the class's logits `[steps, h, w]`.
    logits: those of all classes for the whole video, `[classes]`.
    index: of the class among them.
  """

  video: source.Video
  crop: int | None
  name: str
  times: np.ndarray
  values: np.ndarray
  logits: np.ndarray
  index: int

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of what the network saw, in pixels."""
    return (self.video.height, self.video.width) if self.crop is None else (self.crop, self.crop)

  @property
  def over_time(self) -> np.ndarray:
    """The mean of the class's logits over space, `[steps]`."""
    return np.einsum("tyx,yx->t", self.values, weights(2, *self.values.shape[1:]).sum(axis=0))

  def at(self, time: float) -> np.ndarray:
    """The class's logit at each pixel, float32 `[H, W]`, interpolated linearly in time and space."""
    flat = curves.Curve(self.times, self.values.reshape(len(self.values), -1), field=0.0)
    grid = flat.at(np.array([time]))[0].reshape(self.values.shape[1:]).astype(np.float32)
    height, width = self.size
    y, x = (_places(extent) for extent in (height, width))
    across, down = np.meshgrid(x, y)
    return cv2.remap(grid, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _places(extent: int) -> np.ndarray:
  """Where each pixel is among the positions, float32: 1.5 is in the middle between the second and the third."""
  middles = centres(extent)
  return np.interp(np.arange(extent), middles, np.arange(len(middles))).astype(np.float32)


def find_class(name: str, names: Sequence[str]) -> int:
  """The index of a class; I3dError, with the names that come near, if there is none of that name."""
  folded = {each.casefold(): index for index, each in enumerate(names)}
  key = name.strip().casefold()
  if key in folded:
    return folded[key]
  near = [each for each in folded if key and key in each]
  near += [each for each in difflib.get_close_matches(key, folded, n=5, cutoff=0.5) if each not in near]
  advice = "; near to it are " + ", ".join(names[folded[each]] for each in near[:5]) if near else ""
  raise errors.I3dError(f"there is no class {name!r} among the network's {len(names)}{advice}")


def compute(
  path: str | os.PathLike,
  network: PositionNetwork,
  *,
  class_name: str | None = None,
  view: str = "frame",
  store: source.FlowStore | None = None,
  threads: int | None = None,
  progress: source.Progress = source.silently,
) -> Activation:
  """The activation of a class over a video of any length, in memory that grows by one class's logits only.

  The logits of all classes wait in a temporary file, since only the whole video tells which is best.

  Args:
    path: the video.
    network: of RGB or flow.
    class_name: of its classes; None: the best for the video.
    view: 'frame', the whole frames, or 'crop', the central square that the network was trained on.
    store: keeps the flow that was computed, for pictures.
    threads: for flow; None: one a core.
    progress: is shown what is gone through.

  Raises:
    I3dError: for an unknown class, or if the video cannot be read whole or is too short.
  """
  names = network.info.class_names
  index = None if class_name is None else find_class(class_name, names)
  is_flow = network.stream == "flow"
  video = source.survey(path, short_side=network.info.preprocess.short_side, streams=[network.stream])
  crop = network.info.preprocess.crop if view == "crop" else None
  count = video.num_frames - is_flow
  inputs = progress(video.flow(threads) if is_flow else video.frames(), network.stream, count)
  if is_flow and store is not None:
    inputs = store.keep(inputs)
  clips = (annotate.prepare(each, network.stream, crop)[np.newaxis] for each in inputs)
  side = (crop, crop) if crop is not None else (video.height, video.width)
  with tempfile.TemporaryFile() as file:
    logits = _gather(network, clips, count, side, file)
    share = weights(*logits.shape[:3])
    whole = sum(np.einsum("yx,yxc->c", *each) for each in zip(share, logits))
    if not np.isfinite(whole).all():
      raise errors.I3dError(f"{network.checkpoint}: the network's logits are not finite; check the checkpoint")
    index = int(whole.argmax()) if index is None else index
    values = np.array(logits[..., index])
  times = curves.step_times(ENDPOINT, count, stream=network.stream)
  return Activation(video, crop, names[index], times, values, whole, index)


def _gather(
  network: PositionNetwork, clips: Iterator[np.ndarray], num_frames: int, side: tuple[int, int], file
) -> np.memmap:
  """The logits of all steps and positions, float32 `[steps, h, w, classes]`, in a file."""
  chunk = max(64, _PIXELS_AT_ONCE // (side[0] * side[1]))
  shape = None
  layers = spec.time_layers(ENDPOINT)
  for steps in chunks.extract(network, clips, layers={ENDPOINT: layers}, num_frames=num_frames, chunk=chunk):
    values = steps[ENDPOINT][0]
    shape = (receptive_field.num_steps(layers, num_frames), *values.shape[1:])
    file.write(np.ascontiguousarray(values, np.float32).tobytes())
  file.flush()
  return np.memmap(file, np.float32, mode="r", shape=shape)


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

  def __init__(self, activation: Activation, store: source.FlowStore | None = None):
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
    probability = classifier.softmax(logits)[index]
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
  timeline = canvas.Timeline(
      activation.times, over_time[:, np.newaxis], canvas.PALETTE[:1], seconds=activation.video.seconds,
      size=(inner, _TIMELINE_HEIGHT), limits=(over_time.min() - margin, over_time.max() + margin),
  )  # fmt: skip
  size = {"width": (inner - sum(_BAR) - 2 * _GAP) // 2, "height": _PICTURE_HEIGHT}
  for index, frame in enumerate(progress(activation.video.frames(), "drawing", activation.video.num_frames)):
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
    write(canvas.border(canvas.stack(lines, 4), *[canvas.MARGIN] * 4))


def contact_sheet(painter: Painter, *, columns: int = 8) -> np.ndarray:
  """Some frames at equal distances in time, above each the logits laid over it, RGB uint8 `[H, W, 3]`."""
  activation = painter.activation
  steps = set(np.rint(np.linspace(0, activation.video.num_frames - 1, columns)).astype(int).tolist())
  drawn = []
  for index, frame in enumerate(activation.video.frames()):
    if index in steps:
      pair = [canvas.fit(each, width=10 * _TILE_HEIGHT, height=_TILE_HEIGHT) for each in painter.beside(index, frame)]
      drawn.append(canvas.stack([*pair, canvas.text(f"{index / decode.FRAME_RATE:.2f} s", canvas.FAINT)], 4))
  rows = canvas.beside([*drawn, painter.bar(2 * _TILE_HEIGHT + 4)], 4)
  title, facts = _title(activation, rows.shape[1]), canvas.text(f"{painter.facts()}; {_COLORS}", canvas.FAINT)
  return canvas.border(canvas.stack([title, facts, rows], 4), *[canvas.MARGIN] * 4)


def _title(activation: Activation, width: int) -> np.ndarray:
  name = canvas.text(activation.name, bold=True, size=16, height=28)
  video = pathlib.Path(activation.video.path).name
  words = canvas.text(video, canvas.FAINT, size=14, height=28, max_width=max(width - name.shape[1] - 12, 40))
  return canvas.beside([name, words], 12)
