"""Frechet Video Distance (Unterthiner et al., "Towards Accurate Generative Models of Video", arXiv 1812.01717).

Clips of a fixed length, their embedding by I3D, and the distance between two sets of embeddings. The embedding is that
of google-research/frechet_video_distance: all frames resized to 224x224 by TensorFlow 1's bilinear rule, whatever their
shape, and the 400 logits, averaged over time, of the network that is released as rgb_scratch. For flow nothing is
published; ours is the TV-L1 flow of the same resized frames.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any
import zlib

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.input import ops
from i3d_tf.models import inception
from i3d_tf.video import decode
from i3d_tf.weights import release
from i3d_tf.weights import saved

SIDE = 224  # pixels, of google-research/frechet_video_distance
RESIZE = "bilinear to 224x224, aspect ratio not kept, corners not aligned, no half-pixel centres"
PUBLISHED_WEIGHTS = "c1621a70"  # `Embedding.weights` of rgb_scratch, the network of deepmind/i3d-kinetics-400/1
ARRAY_SUFFIX = ".npy"
STATISTICS_SUFFIX = ".npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Which clips are taken.

  Attributes:
    num_frames: of a clip. At least 9, and 10 for flow, of which there is one less than frames.
    fps: frames per second at which videos are read; None: each at its own average rate. Arrays are used as they are.
    max_clips: use so many, drawn by `seed`; None: all.
    seed: draws the start of each clip, too.
  """

  num_frames: int = 16
  fps: float | None = None
  max_clips: int | None = None
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Source:
  """One video: a file, or one of an array's; its name is relative to the set's folder, and draws its clip."""

  name: str
  path: pathlib.Path
  index: int | None = None


class Embedding:
  """The time-averaged logits of clips by a network of one stream."""

  def __init__(self, checkpoint: str | os.PathLike, stream: str = "rgb"):
    """Loads the network; I3dError, beside what `saved.load` raises, if it is no I3D of that stream."""
    self.model, info = saved.load(checkpoint)
    if info.model != "i3d" or info.stream != stream:
      raise errors.I3dError(
        f"{checkpoint} is a network {info.model} of stream {info.stream}; FVD needs an i3d of stream {stream}"
      )
    self.stream = stream
    self.weights = release.checksum(self.model)
    signature = tf.TensorSpec([None, None, SIDE, SIDE, self.model.in_channels], tf.float32)
    self._apply = tf.function(lambda clips: self.model(clips)[0], input_signature=[signature])

  def prepare(self, frames: np.ndarray) -> np.ndarray:
    """The network's input from a clip uint8 `[T, H, W, 3]`: float32 `[T, 224, 224, 3]`; flow `[T - 1, 224, 224, 2]`."""
    resized = resize(frames)
    if self.stream == "rgb":
      return (2 * resized / 255 - 1).numpy()
    return codec.scale(tvl1.tvl1_flow(ops.to_bytes(resized).numpy()))

  def __call__(self, clips: np.ndarray) -> np.ndarray:
    """The logits `[B, classes]` of a batch of `prepare`'s clips."""
    return self._apply(clips).numpy()


def resize(frames: np.ndarray) -> tf.Tensor:
  """Frames `[T, H, W, C]` resized to float32 `[T, 224, 224, C]` by the rule of `RESIZE`; values keep their range."""
  return tf.raw_ops.ResizeBilinear(images=frames, size=[SIDE, SIDE], align_corners=False, half_pixel_centers=False)


def list_sources(root: str | os.PathLike, options: Options) -> list[Source]:
  """The videos that `root` stands for: those below a folder, one file, or all of an array `[N, T, H, W, 3]`.

  Raises:
    I3dError: if there is no such path, or nothing in it, or less than `options.max_clips`.
  """
  root = pathlib.Path(root)
  if root.is_dir():
    suffixes = decode.VIDEO_SUFFIXES | {ARRAY_SUFFIX}
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    if not files:
      raise errors.I3dError(f"{root}: the folder holds no video ({' '.join(sorted(suffixes))})")
    names = [file.relative_to(root).as_posix() for file in files]
  elif root.exists():
    files, names = [root], [root.name]
  else:
    raise errors.I3dError(f"{root}: there is no such file or folder")
  sources = [source for name, file in zip(names, files) for source in _sources(name, file)]
  if options.max_clips is None:
    return sources
  if len(sources) < options.max_clips:
    raise errors.I3dError(f"{root} has {len(sources)} videos, fewer than --max_clips={options.max_clips}")
  drawn = np.random.default_rng(options.seed).permutation(len(sources))[: options.max_clips]
  return [sources[number] for number in sorted(drawn)]


def _sources(name: str, path: pathlib.Path) -> list[Source]:
  if path.suffix.lower() == ARRAY_SUFFIX:
    try:
      array = _open_array(path)
    except (errors.I3dError, OSError):
      return [Source(name, path)]  # reading it says why
    if array.ndim == 5:
      return [Source(f"{name}[{index}]", path, index) for index in range(len(array))]
  return [Source(name, path)]


def _open_array(path: pathlib.Path) -> np.ndarray:
  """An array `[T, H, W, 3]` or `[N, T, H, W, 3]` of bytes, left in its file."""
  try:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except (ValueError, EOFError) as error:
    raise errors.I3dError(f"{path}: this is not an array in NumPy's .npy format: {error}") from None
  if not isinstance(array, np.ndarray) or array.ndim not in (4, 5) or array.shape[-1] != 3 or array.dtype != np.uint8:
    is_array = isinstance(array, np.ndarray)
    given = f"the array is {array.dtype} {list(array.shape)}" if is_array else "this is an .npz archive"
    raise errors.I3dError(
      f"{path}: {given}; it must be uint8, 0 to 255, [frames, height, width, 3] or [videos, frames, height, width, 3]"
    )
  return array


def read_clip(source: Source, options: Options) -> np.ndarray:
  """A clip of consecutive frames, uint8 `[num_frames, H, W, 3]`, from a random place of the video.

  Raises:
    I3dError: if the video cannot be read to its end, or is too short.
  """
  if source.path.suffix.lower() == ARRAY_SUFFIX:
    array = _open_array(source.path)
    frames = iter(array if source.index is None else array[source.index])
  else:
    fps = decode.probe(source.path).frame_rate if options.fps is None else options.fps
    frames = decode.iter_frames(source.path, fps=fps, short_side=None)
  rng = np.random.default_rng([options.seed, zlib.crc32(os.fsencode(source.name))])
  window, total = random_window(frames, options.num_frames, rng)
  if window is None:
    place = "" if source.index is None else f"[{source.index}]"
    raise errors.I3dError(
      f"{source.path}{place}: the video has {total} frames; the clips are of {options.num_frames}, see --num_frames"
    )
  return np.stack(window)


def random_window(
  frames: Iterator[np.ndarray], num_frames: int, rng: np.random.Generator
) -> tuple[list[np.ndarray] | None, int]:
  """One of all runs of `num_frames` frames, each as likely, and the number of frames; None if they are fewer.

  How many there are is known at the end only, and only two runs are held: the k-th replaces the one that is chosen so
  far with probability 1/k.
  """
  recent = collections.deque(maxlen=num_frames)
  chosen, total = None, 0
  for total, frame in enumerate(frames, start=1):
    recent.append(frame)
    run = total - num_frames + 1
    if run >= 1 and rng.integers(run) == 0:
      chosen = list(recent)
  return chosen, total


def embed(
  sources: Iterable[Source],
  embeddings: Sequence[Embedding],
  options: Options,
  *,
  batch: int,
  on_failure: Callable[[str], None],
) -> dict[str, np.ndarray]:
  """The features float32 `[clips, classes]` of a clip of each video, by stream.

  Args:
    sources: the videos.
    embeddings: the networks, of different streams.
    options: which clips.
    batch: clips that a network takes at once; the features do not depend on it beyond rounding.
    on_failure: called with a sentence for each video that cannot be used, which is then left out.
  """
  features = {each.stream: [np.empty((0, each.model.num_classes), np.float32)] for each in embeddings}
  for clips in _batches(_read_all(sources, options, on_failure), batch):
    for embedding in embeddings:
      features[embedding.stream].append(embedding(np.stack([embedding.prepare(clip) for clip in clips])))
  return {stream: np.concatenate(batches) for stream, batches in features.items()}


def _read_all(sources: Iterable[Source], options: Options, on_failure: Callable[[str], None]) -> Iterator[np.ndarray]:
  for source in sources:
    try:
      clip = read_clip(source, options)
    except errors.I3dError as error:
      on_failure(str(error))
    except OSError as error:
      on_failure(errors.describe_os_error(error))
    else:
      yield clip


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
  batch = []
  for item in items:
    batch.append(item)
    if len(batch) == size:
      yield batch
      batch = []
  if batch:
    yield batch


def check_frames(options: Options, streams: Iterable[str]) -> None:
  """Raises I3dError if the clips are too short for a network."""
  for stream in streams:
    least = inception.MIN_FRAMES + (stream == "flow")
    if options.num_frames < least:
      raise errors.I3dError(f"--num_frames={options.num_frames}; clips for {stream} need at least {least}")


def facts(embeddings: Sequence[Embedding], options: Options) -> dict[str, Any]:
  """What must agree for distances to be comparable, beside the numbers of clips; for JSON."""
  weights = {embedding.stream: embedding.weights for embedding in embeddings}
  return {"weights": weights, "resize": RESIZE, "num_frames": options.num_frames, "fps": options.fps}


def check_comparable(first: Mapping[str, Any], second: Mapping[str, Any], *, path: str | os.PathLike) -> None:
  """Raises I3dError unless the facts `first`, of the statistics at `path`, agree with `second` for its streams."""
  for stream, weights in second["weights"].items():
    has = first.get("weights", {}).get(stream)
    if has is None:
      raise errors.I3dError(f"{path} has no statistics of {stream}; make them again with --{stream}_checkpoint")
    if has != weights:
      raise errors.I3dError(f"{path} is of other {stream} weights: their CRC-32 is {has}, not {weights}")
  for name in ("resize", "num_frames", "fps"):
    if first.get(name) != second[name]:
      raise errors.I3dError(f"{path} cannot be compared: its {name} is {first.get(name)}, not {second[name]}")
