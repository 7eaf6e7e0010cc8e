"""A data set of made action clips, as video files: textured objects that move over a slowly panning ground.

The eight classes of actions differ in motion only. All else (shapes, textures, colours, places, sizes, speeds, phases)
is drawn from the seed alone, so that clips of one seed begin with the same frame in all eight classes. What a motion
changes (place on a frame that wraps around, angle, point in the cycle of sizes) starts evenly distributed and stays so:
no single frame tells the class, whichever it is.

Every class is its own mirror image (a slide goes left or right, a spin either way), so that training may flip clips
from left to right. Rise and fall are each other in reverse.

The classes of looks are the counterpart, for networks of images to learn from: they differ in what the objects look
like, in every frame, and the seed draws one of the eight motions, too.

Lengths are in short sides of the frame, times in units of 1/25 s, whatever the size and the frame rate.
"""

from collections.abc import Callable, Iterator, Mapping
import colorsys
import dataclasses
import errno
import hashlib
import math
import os
import pathlib
import tempfile
import types

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf import workers
from i3d_tf.data import clips as clips_lib
from i3d_tf.video import decode
from i3d_tf.video import listing

MOTION, APPEARANCE = "motion", "appearance"  # what classes may differ in
NUM_FRAMES = 40
SIZE = (72, 96)  # height, width; 72 is to a crop of 64 pixels what 256 is to 224
MIN_SIDE = 32  # pixels
FPS = 25
VERSION = 1  # of the drawing; goes up when the same seed gives other pixels
_SUPERSAMPLING = 2  # drawn at so many times the size, then averaged
_OBJECTS_PER_SQUARE = 2  # objects on a square frame
_RADIUS = (0.2, 0.25)
_SWELL = 0.3  # the radius varies by this part, up and down
_SPIN_RADIUS = 0.125  # so far from the centre a spin moves at the clip's speed
_OUTLINE = 0.1  # width of the dark rim, in radii
_LOBES = (2, 3, 4, 5)
_LOBE_STRENGTH = 0.35  # of a look's outline, in mean radii
_WAVE = 0.15  # width of a dark stripe and a light one, in short sides
CLIPS_PER_CLASS = types.MappingProxyType({"train": 20, "test": 5})
SUFFIX = ".avi"
SETTINGS_FILE = listing.MADE_CLIPS  # what a folder of clips was made with

_JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class _Motion:
  """How fast the objects of a clip move if they do: all that the eight motions have in common."""

  speed: float  # mean, per time unit
  period: float  # of what swings
  phase: float  # of the swing at time 0
  sign: int  # left or right, clockwise or not


@dataclasses.dataclass(frozen=True)
class _Change:
  """What has changed since time 0: place (right, down), angle (clockwise), point in the cycle of sizes (radians)."""

  right: float = 0.0
  down: float = 0.0
  angle: float = 0.0
  swell: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Look:
  """What the objects of a class of looks have in common."""

  lobes: int
  pattern: str


@dataclasses.dataclass(frozen=True)
class _Object:
  sprite: np.ndarray  # float32 [S, S, 4], the object at its largest: RGB times opacity, opacity
  place: tuple[float, float]  # right, down, at time 0
  angle: float  # clockwise, at time 0
  swell: float  # point in the cycle of sizes, at time 0


@dataclasses.dataclass(frozen=True)
class _Scene:
  ground: np.ndarray  # float32 [H, W, 3], wraps around
  pan: tuple[float, float]  # right, down, per time unit
  objects: tuple[_Object, ...]
  motion: _Motion
  action: str  # the kind of motion, for a class that leaves it open


def _swing(motion: _Motion, time: float) -> float:
  amplitude = motion.speed * motion.period / 4
  return amplitude * (math.sin(math.tau * time / motion.period + motion.phase) - math.sin(motion.phase))


def _circle(motion: _Motion, time: float) -> _Change:
  radius = motion.speed * motion.period / math.tau
  start, end = motion.phase, motion.phase + motion.sign * math.tau * time / motion.period
  return _Change(right=radius * (math.cos(end) - math.cos(start)), down=radius * (math.sin(end) - math.sin(start)))


_MOTIONS: dict[str, Callable[[_Motion, float], _Change]] = {
  "bob": lambda motion, time: _Change(down=_swing(motion, time)),
  "circle": _circle,  # round and round, without turning
  "fall": lambda motion, time: _Change(down=motion.speed * time),
  "pulse": lambda motion, time: _Change(swell=math.tau * time / motion.period),
  "rise": lambda motion, time: _Change(down=-motion.speed * time),
  "slide": lambda motion, time: _Change(right=motion.sign * motion.speed * time),
  "spin": lambda motion, time: _Change(angle=motion.sign * motion.speed / _SPIN_RADIUS * time),
  "sway": lambda motion, time: _Change(right=_swing(motion, time)),
}
_BLOTTED = "blotted"
# Of the place (right, down) in a unit of which a dark part and a light one take two pi.
_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "checked": lambda right, down: 1.5 * np.sin(right) * np.sin(down),
  "ringed": lambda right, down: np.sin(np.hypot(right, down)),
  "striped": lambda right, down: np.sin(right),
}
_LOOKS = {
  f"{pattern}_{outline}": _Look(lobes, pattern)
  for pattern in (_BLOTTED, *_PATTERNS)
  for outline, lobes in (("peanut", 2), ("star", 5))
}
CLASSES = types.MappingProxyType({MOTION: tuple(_MOTIONS), APPEARANCE: tuple(_LOOKS)})


def render_clip(
  label: str,
  *,
  seed: int,
  num_frames: int = NUM_FRAMES,
  size: tuple[int, int] = SIZE,
  fps: int = FPS,
) -> np.ndarray:
  """Returns a clip, uint8 RGB `[T, H, W, 3]`: the same pixels with the same arguments, NumPy and OpenCV.

  Args:
    label: one of `CLASSES`.
    seed: draws all but what the label says: the kind of motion, or outline and pattern of the objects. Clips of one
      seed and different motions begin with the same frame; those of different looks move alike.
    num_frames: frames of the clip.
    size: height and width in pixels.
    fps: frames per second. It changes no speed: 1.6 to 2.6 pixels in 1/25 s where the short side is 64.

  Raises:
    I3dError: if an argument is out of bounds.
  """
  check(label=label, num_frames=num_frames, size=size, fps=fps, seed=seed)
  return np.stack([frame for frame, _ in _render(label, seed, num_frames, size, fps)])


def check(*, num_frames: int, size: tuple[int, int], fps: int, seed: int, label: str | None = None) -> None:
  """Checks the arguments of `render_clip`.

  Args:
    num_frames: at least 1.
    size: height and width, each at least `MIN_SIDE`.
    fps: at least 1.
    seed: at least 0.
    label: one of all classes; None: not checked.

  Raises:
    I3dError: naming the argument that is out of bounds.
  """
  labels = [*_MOTIONS, *_LOOKS]
  if label not in (None, *labels):
    raise errors.I3dError(f"label is {label!r}; the classes are {', '.join(labels)}")
  if len(size) != 2 or min(size) < MIN_SIDE:
    raise errors.I3dError(f"size is {tuple(size)}; it must be height and width of at least {MIN_SIDE} pixels")
  for name, value, least in (("num_frames", num_frames, 1), ("fps", fps, 1), ("seed", seed, 0)):
    if value < least or value != int(value):
      raise errors.I3dError(f"{name} is {value}; it must be a whole number of at least {least}")


def _render(
  label: str, seed: int, num_frames: int, size: tuple[int, int], fps: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields each frame, and where its objects are: float32 `[H, W]`, 0 to 1."""
  height, width = size
  look = _LOOKS.get(label)
  scene = _draw_scene(np.random.default_rng(seed), height * _SUPERSAMPLING, width * _SUPERSAMPLING, look)
  move = _MOTIONS[scene.action if look else label]
  for step in range(num_frames):
    time = step * decode.FRAME_RATE / fps
    canvas = _paint(scene, time, move(scene.motion, time))
    frame = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    yield np.clip(np.rint(frame[..., :3] * 255), 0, 255).astype(np.uint8), frame[..., 3]


def _draw_scene(rng: np.random.Generator, height: int, width: int, look: _Look | None) -> _Scene:
  """Draws all that the seed decides, for frames of `height` x `width` pixels; and how objects look if None is given."""
  side = min(height, width)
  direction, pan_speed = rng.uniform(0, math.tau), rng.uniform(0.003, 0.008)
  motion = _Motion(
    speed=rng.uniform(0.025, 0.04),
    period=rng.uniform(10, 14),
    phase=rng.uniform(0, math.tau),
    sign=rng.choice([-1, 1]),
  )
  number = max(2, round(_OBJECTS_PER_SQUARE * height * width / side**2))
  return _Scene(
    ground=_mixed(_ground_colours(rng), _blots(rng, height, width, 0.12 * side)),
    pan=(pan_speed * math.cos(direction), pan_speed * math.sin(direction)),
    objects=tuple(_draw_object(rng, place, side, look) for place in _places(rng, number, height / side, width / side)),
    motion=motion,
    action=list(_MOTIONS)[rng.integers(len(_MOTIONS))],
  )


def _places(rng: np.random.Generator, number: int, height: float, width: float) -> list[tuple[float, float]]:
  """Places (right, down) far from each other on a frame that wraps around; each is evenly distributed."""
  sides = np.array([width, height])
  places = [rng.uniform(0, sides)]
  while len(places) < number:
    candidates = rng.uniform(0, sides, (64, 2))
    apart = np.abs(candidates[:, None] - np.array(places))
    distances = np.linalg.norm(np.minimum(apart, sides - apart), axis=-1).min(axis=1)
    places.append(candidates[distances.argmax()])
  return [(float(right), float(down)) for right, down in places]


def _ground_colours(rng: np.random.Generator) -> list[tuple[float, float, float]]:
  hue, saturation = rng.uniform(), rng.uniform(0.1, 0.35)
  return [colorsys.hsv_to_rgb(hue, saturation, value) for value in (rng.uniform(0.3, 0.4), rng.uniform(0.65, 0.75))]


def _object_colours(rng: np.random.Generator) -> list[tuple[float, float, float]]:
  hue, other = rng.uniform(), rng.uniform(0.08, 0.3)
  return [
    colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 0.95), rng.uniform(0.45, 0.6)),
    colorsys.hsv_to_rgb((hue + other) % 1, rng.uniform(0.45, 0.75), rng.uniform(0.92, 1)),
  ]


def _blots(rng: np.random.Generator, height: int, width: int, grain: float) -> np.ndarray:
  """Smooth blots, `grain` pixels wide, that wrap around: the second colour's share, float32 `[height, width]`."""
  frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
  (noise,) = rng.spawn(1)  # so that what is drawn later does not depend on the size
  blots = np.zeros((height, width))
  for strength, part in ((1, 1), (0.4, 0.45)):
    spectrum = np.fft.rfft2(noise.standard_normal((height, width)))
    layer = np.fft.irfft2(spectrum * np.exp(-2 * (part * grain * frequency) ** 2), s=(height, width))
    blots = blots + strength * layer / layer.std()
  return (0.5 + 0.5 * np.tanh(1.3 * (blots - blots.mean()) / blots.std())).astype(np.float32)


def _mixed(colours: list[tuple[float, float, float]], share: np.ndarray) -> np.ndarray:
  """The first colour where `share` is 0, the second where it is 1; float32 `[..., 3]`."""
  first, second = np.array(colours, np.float32)
  return first + (second - first) * share[..., None]


def _draw_object(rng: np.random.Generator, place: tuple[float, float], side: int, look: _Look | None) -> _Object:
  pixels = rng.uniform(*_RADIUS) * (1 + _SWELL) * side  # of the largest radius
  texture_side = 2 * math.ceil(pixels + 2)
  colours, share = _object_colours(rng), _blots(rng, texture_side, texture_side, 0.1 * side)
  down, right = np.mgrid[:texture_side, :texture_side] - (texture_side - 1) / 2
  if look and look.pattern != _BLOTTED:
    wave = _PATTERNS[look.pattern](*(math.tau / (_WAVE * side) * place for place in (right, down)))
    share = (0.5 + 0.5 * np.tanh(3 * wave)).astype(np.float32)
  texture = _mixed(colours, share)
  inside = _outline(rng, np.arctan2(down, right), look) * pixels - np.hypot(down, right)  # pixels to the edge
  opacity = np.clip(inside + 0.5, 0, 1)
  rim = np.clip(_OUTLINE * pixels - inside + 0.5, 0, 1)
  colour = texture * (1 - 0.75 * rim[..., None])
  sprite = np.dstack([colour * opacity[..., None], opacity]).astype(np.float32)
  return _Object(sprite=sprite, place=place, angle=rng.uniform(0, math.tau), swell=rng.uniform(0, math.tau))


def _outline(rng: np.random.Generator, angle: np.ndarray, look: _Look | None) -> np.ndarray:
  """The distance of a shape's edge from its centre in the direction `angle`, at most 1; a random shape's if None."""
  lobes = np.array(_LOBES)
  strengths = rng.dirichlet(np.ones(len(lobes))) * rng.uniform(0.15, 0.4)
  if look:
    strengths = np.where(lobes == look.lobes, _LOBE_STRENGTH, 0)
  phases = rng.uniform(0, math.tau, len(lobes))
  wave = lambda at: 1 + (strengths * np.cos(lobes * at[..., None] + phases)).sum(axis=-1)
  return wave(angle) / wave(np.linspace(0, math.tau, 720)).max()


def _paint(scene: _Scene, time: float, change: _Change) -> np.ndarray:
  """The picture at `time`: float32 `[H, W, 4]`, RGB 0 to 1 and where the objects are."""
  height, width = scene.ground.shape[:2]
  side = min(height, width)
  canvas = np.zeros((height, width, 4), np.float32)
  canvas[..., :3] = _shifted(scene.ground, scene.pan[0] * side * time, scene.pan[1] * side * time)
  for drawn in scene.objects:
    right, down = (drawn.place[0] + change.right) * side, (drawn.place[1] + change.down) * side
    left, top = math.floor(right), math.floor(down)
    scale = (1 + _SWELL * math.sin(drawn.swell + change.swell)) / (1 + _SWELL)
    patch = _transformed(drawn.sprite, right - left, down - top, drawn.angle + change.angle, scale)
    reach = len(patch) // 2
    rows = np.arange(top - reach, top + reach) % height  # what leaves at one side comes in at the other
    columns = np.arange(left - reach, left + reach) % width
    place = np.ix_(rows, columns)
    canvas[place] = canvas[place] * (1 - patch[..., 3:]) + patch
  return canvas


def _transformed(sprite: np.ndarray, right: float, down: float, angle: float, scale: float) -> np.ndarray:
  """The sprite turned clockwise and scaled, its centre moved by less than a pixel."""
  side = len(sprite) + 4
  cos, sin = scale * math.cos(angle), scale * math.sin(angle)
  linear = np.array([[cos, -sin], [sin, cos]])
  offset = side / 2 - 0.5 + np.array([right, down]) - linear @ np.full(2, (len(sprite) - 1) / 2)
  return cv2.warpAffine(sprite, np.column_stack([linear, offset]), (side, side), flags=cv2.INTER_LINEAR)


def _shifted(picture: np.ndarray, right: float, down: float) -> np.ndarray:
  """The picture moved, bilinearly; what leaves at one side comes in at the other."""
  left, top = math.floor(right), math.floor(down)
  whole = np.roll(picture, (top, left), axis=(0, 1))
  across = np.float32(right - left)
  moved = whole + across * (np.roll(whole, 1, axis=1) - whole)
  return moved + np.float32(down - top) * (np.roll(moved, 1, axis=0) - moved)


def write_dataset(
  folder: str | os.PathLike,
  *,
  differ_in: str = MOTION,
  clips_per_class: Mapping[str, int] = CLIPS_PER_CLASS,
  seed: int = 0,
  num_frames: int = NUM_FRAMES,
  size: tuple[int, int] = SIZE,
  fps: int = FPS,
  progress: bool = False,
) -> list[pathlib.Path]:
  """Returns the paths of the clips: `folder/<split>/<class>/<split>_<class>_<number>.avi` (Motion JPEG).

  A clip depends on the seed, its split, class and number only. Sound clips that are already there are kept, so that a
  second call finishes what an interrupted one began.

  Args:
    folder: made if it is not there.
    differ_in: whose classes, of `CLASSES`.
    clips_per_class: how many clips each class has in each split, of `clips.SPLITS`.
    seed: another one gives another data set.
    num_frames: frames of each clip.
    size: height and width in pixels.
    fps: frames per second.
    progress: whether to show a progress bar on stderr if that is a terminal.

  Raises:
    I3dError: if an argument is out of bounds, or the folder holds clips that were made with others, or other videos.
    OSError: if a file cannot be written.
  """
  check(num_frames=num_frames, size=size, fps=fps, seed=seed)
  _check_counts(clips_per_class)
  if differ_in not in CLASSES:
    raise errors.I3dError(f"differ_in is {differ_in!r}; allowed are {', '.join(CLASSES)}")
  output = workdir.Workdir(folder, SETTINGS_FILE, section=None, foreign=clips_lib.SPLITS)
  clips = [
    (split, label, number)
    for split in clips_lib.SPLITS
    for label in CLASSES[differ_in]
    for number in range(clips_per_class.get(split, 0))
  ]
  paths = [clip_path(folder, *clip) for clip in clips]
  with output.claim(_settings(differ_in, clips_per_class, seed, num_frames, size, fps)):
    for clip, path in zip(workers.Bar(clips, unit="clip", is_shown=progress), paths):
      if not _is_sound(path, num_frames, size, fps):
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = render_clip(clip[1], seed=clip_seed(seed, *clip), num_frames=num_frames, size=size, fps=fps)
        with output.replacing(path) as file:
          file.write(_encode(frames, fps))
  return paths


def clip_path(folder: str | os.PathLike, split: str, label: str, number: int) -> pathlib.Path:
  """Returns where `write_dataset` writes a clip; the file's name alone is unique in the data set.

  Args:
    folder: of the data set.
    split: of `clips.SPLITS`.
    label: the clip's class.
    number: of the clip in its split and class, from 0.
  """
  return pathlib.Path(folder, split, label, f"{split}_{label}_{number:04d}{SUFFIX}")


def clip_seed(seed: int, split: str, label: str, number: int) -> int:
  """Returns the seed with which `render_clip` makes a clip of a data set.

  Args:
    seed: of the data set.
    split: of the clip.
    label: its class.
    number: of the clip in its split and class, from 0.
  """
  return int.from_bytes(hashlib.sha256(f"{seed} {split} {label} {number}".encode()).digest()[:8], "big")


def _check_counts(clips_per_class: Mapping[str, int]) -> None:
  if unknown := sorted(set(clips_per_class) - set(clips_lib.SPLITS)):
    raise errors.I3dError(f"clips_per_class has the split {unknown[0]!r}; the splits are {', '.join(clips_lib.SPLITS)}")
  counts = dict(clips_per_class)
  if not any(counts.values()) or min(counts.values()) < 0:
    raise errors.I3dError(f"clips_per_class is {counts}; counts must be at least 0, and one of them more")


def _settings(
  differ_in: str, clips_per_class: Mapping[str, int], seed: int, num_frames: int, size: tuple[int, int], fps: int
) -> dict[str, int | str]:
  counts = {f"{split}_clips": clips_per_class.get(split, 0) for split in clips_lib.SPLITS}
  return {
    **counts,
    "differ_in": differ_in,
    "seed": seed,
    "num_frames": num_frames,
    "height": size[0],
    "width": size[1],
    "fps": fps,
    "drawing_version": VERSION,
  }


def _is_sound(path: pathlib.Path, num_frames: int, size: tuple[int, int], fps: int) -> bool:
  """Whether there is a video of this length and size that decodes to its end."""
  try:
    return path.exists() and decode.read_video(path, fps=fps, short_side=None).shape == (num_frames, *size, 3)
  except errors.VideoError:
    return False


def _encode(frames: np.ndarray, fps: int) -> bytes:
  """Motion JPEG: each frame stands for itself, so that compression knows nothing of motion either.

  OpenCV encodes it itself, on any number of threads to the same bytes, and sharper than FFmpeg does its MPEG-4.
  """
  with tempfile.TemporaryDirectory() as scratch:
    draft = pathlib.Path(scratch, f"clip{SUFFIX}")
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(
      os.fspath(draft), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height)
    )
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, _JPEG_QUALITY)
    for frame in frames:
      writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    if not _is_sound(draft, len(frames), (height, width), fps):  # OpenCV does not say so
      raise OSError(errno.EIO, "OpenCV could not write the clip; is there space left?", scratch)
    return draft.read_bytes()
