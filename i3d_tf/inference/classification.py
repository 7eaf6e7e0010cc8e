"""Classes of videos: what `i3d_tf.classify` and the program of that name do."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import os
from typing import Any

import numpy as np
from scipy import special
import tqdm

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import flow
from i3d_tf.flow import codec
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.input import ops
from i3d_tf.models import inception
from i3d_tf.models import zoo
from i3d_tf.video import decode
from i3d_tf.video import stills
from i3d_tf.weights import saved


class Video:
  """The frames of a video file at a network's rate and size, and the optical flow between them, by number."""

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    frame_rate: float = decode.FRAME_RATE,
    short_side: int = decode.SHORT_SIDE,
    max_frames: int | None = None,
    estimator: flow.Estimator | None = None,
    allow_damaged: bool = False,
    progress: bool = False,
    image_rate: float = decode.FRAME_RATE,
    flow_bound: float = codec.BOUND,
  ):
    """Opens the video.

    Args:
      path: The file, a folder of images, or a .npy file of frames.
      frame_rate: Frames per second to resample to.
      short_side: Pixels of the frames' shorter side.
      max_frames: Use so many frames from the start, which are kept in memory, and look no further. None: count all of
        them, and decode the video once more for those that are asked for.
      estimator: Computes the optical flow; None: TV-L1.
      allow_damaged: As in `decode.iter_frames`.
      progress: Whether to show a bar on stderr while flow is computed.
      image_rate: Frames per second of folders of images and of arrays, which state none.
      flow_bound: Pixels per frame of the largest byte of folders' images of flow, which are taken in place of TV-L1.

    Raises:
      VideoError: If the video cannot be read.
    """
    self.path = os.fspath(path)
    options: dict[str, Any] = {"fps": frame_rate, "allow_damaged": allow_damaged, "frame_rate": image_rate}
    self._stored, self._bound = stills.open_with_flow(path, image_rate, frame_rate), flow_bound
    self._open = lambda: decode.iter_frames(path, short_side=short_side, **options)
    self._estimator, self._progress = estimator or flow.Estimator(), progress
    if self._stored is not None and not len(self._stored.frames):  # flow alone
      self._kept = None
      self.num_frames = min(self._stored.num_frames, max_frames or self._stored.num_frames)
      self.size = decode.Resize(short_side).shape(*self._stored.flow(0).shape[:2])
      return
    self._kept = None if max_frames is None else list(itertools.islice(self._open(), max_frames))
    self.num_frames = decode.count_frames(path, **options) if self._kept is None else len(self._kept)
    self.size = (next(self._open()) if self._kept is None else self._kept[0]).shape[:2]

  def count(self, stream: str) -> int:
    """Returns the number of frames, or of flow fields, of which there is one less.

    Args:
      stream: 'rgb' or 'flow'.
    """
    return self.num_frames - (stream == "flow")

  def read(self, numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns frames and flow fields: 'rgb' uint8 `[N, H, W, 3]`, 'flow' float32 `[N, H, W, 2]` in [-1, 1].

    Args:
      numbers: By stream the numbers of its frames or fields, in any order and as often as wanted.

    Raises:
      VideoError: If the video cannot be read to its end.
    """
    pairs = np.unique(numbers.get("flow", np.array([], int)))
    wanted = {*numbers.get("rgb", np.array([], int)).tolist(), *pairs.tolist(), *(pairs + 1).tolist()}
    frames: dict[int, np.ndarray] = {}
    if "rgb" in numbers or self._stored is None:
      source = enumerate(self._open() if self._kept is None else self._kept)
      frames = {index: frame for index, frame in source if index in wanted}
    found = {}
    if "rgb" in numbers:
      found["rgb"] = np.stack([frames[number] for number in numbers["rgb"].tolist()])
    if "flow" in numbers:
      fields = self._flow(frames, pairs)
      found["flow"] = np.stack([fields[number] for number in numbers["flow"].tolist()])
    return found

  def _flow(self, frames: Mapping[int, np.ndarray], pairs: np.ndarray) -> dict[int, np.ndarray]:
    """The scaled flow from each frame of `pairs` to the next, solved run by run of consecutive frames."""
    fields: dict[int, np.ndarray] = {}
    if self._stored is not None:
      read = lambda number: codec.decode_resized(self._stored.flow(number), *self.size, bound=self._bound)
      return {number: codec.scale(read(number)) for number in pairs.tolist()}
    runs = np.split(pairs, np.flatnonzero(np.diff(pairs) > 1) + 1)
    with tqdm.tqdm(total=len(pairs), desc="optical flow", unit="frame", leave=False, disable=not self._progress) as bar:
      for run in runs:
        together = (frames[number] for number in range(run[0], run[-1] + 2))
        for number, field in zip(run.tolist(), self._estimator.iterate(together), strict=True):
          fields[number] = codec.scale(field)
          bar.update()
    return fields


def protocol(info: saved.ModelInfo, **given: object) -> clip_config.EvalClips:
  """Returns how a network is tested: its paper's protocol on clips as it was trained on.

  Args:
    info: What the network is.
    **given: Fields of `EvalClips` that take the place of the network's own.

  Raises:
    I3dError: If the fields do not fit together.
  """
  trained = {name: getattr(info.preprocess, name) for name in info.preprocess.__dataclass_fields__}
  clips = clip_config.EvalClips(**{**trained, **zoo.get(info.model).test, **given, "streams": info.streams})
  zoo.check_segments(info.model, clips.segment_frames)
  return clips


def read_views(video: Video, clips: clip_config.EvalClips) -> dict[str, np.ndarray]:
  """Returns all views of a video: float32 `[V, T, crop, crop, C]` in [-1, 1] by stream.

  Args:
    video: The video, whose frames have the views' short side.
    clips: The protocol.

  Raises:
    I3dError: If the video is too short for the network's protocol, or backward flow is asked for, which records have.
  """
  if clips.flow_stacking == "bidirectional":
    raise errors.I3dError("flow_stacking is bidirectional, which needs backward flow; evaluate records that hold it")
  least = clips.min_frames if clips.protocol == "release" else clips.flow_stack
  least += "flow" in clips.streams
  if video.num_frames < least:
    raise errors.VideoError(
      f"{video.path}: the video has {video.num_frames} frames at {clips.frame_rate:g} frames per second; "
      f"the network needs at least {least}"
    )
  state: clip_steps.State = {"video": video}
  for step in clip_steps.evaluation(clips):
    state = step.apply(state)
  return {stream: ops.to_input(stream, state[stream]).numpy() for stream in clips.streams}


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One class of a ranking: its name, its index among the logits, its logit and its probability."""

  label: str
  index: int
  logit: float
  probability: float


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
  """What the networks say of one video.

  Attributes:
    input: The video's path, or a name of the array.
    num_frames: Frames, or flow fields, that the first network saw in a view.
    logits: float32 `[classes]`, averaged over views and added over streams.
    predictions: The best classes, best first.
  """

  input: str
  num_frames: int
  logits: np.ndarray = dataclasses.field(repr=False)
  predictions: tuple[Prediction, ...]

  @property
  def norm(self) -> float:
    """Euclidean norm of the logits, which the release's sample program prints."""
    return float(np.linalg.norm(self.logits))

  def as_dict(self) -> dict[str, Any]:
    """Returns plain values for JSON."""
    predictions = [dataclasses.asdict(prediction) for prediction in self.predictions]
    return {"input": self.input, "frames": self.num_frames, "norm": self.norm, "predictions": predictions}


def classify(
  video: str | os.PathLike,
  checkpoint: classifier_lib.Checkpoints | classifier_lib.Classifier = "rgb_imagenet",
  *,
  top_k: int = 5,
  max_frames: int | None = None,
  threads: int | None = None,
  flow_config: flow.FlowConfig | None = None,
  allow_damaged: bool = False,
  progress: bool = False,
  frame_rate: float = decode.FRAME_RATE,
  flow_bound: float = codec.BOUND,
) -> Classification:
  """Returns the logits and the best classes of a video file.

  It is cut into views by each network's own test protocol, which for I3D is one pass over the first ten seconds, and
  the logits are averaged over the views. Optical flow is computed where a network takes it.

  Args:
    video: Path of the video.
    checkpoint: A released checkpoint's name, a path, or the folder of a training run; one of RGB and one of flow, whose
      logits are added; or a `Classifier`, which saves loading it for every video.
    top_k: Number of predictions.
    max_frames: Frames of the video to use, from its start, at the network's rate. None: the protocol's, of I3D 250.
    threads: Threads for optical flow; None: one a core.
    flow_config: Which flow is computed; None: that on which the network was trained. Another one is warned about.
    allow_damaged: Take what there is of a damaged video, see `decode.iter_frames`.
    progress: Whether to show a bar on stderr while flow is computed.
    frame_rate: Frames per second of folders of images and of .npy clips, which state none.
    flow_bound: Pixels per frame of the largest byte of folders' images of flow.

  Raises:
    VideoError: If the video cannot be read or is too short.
    CheckpointError, DownloadError: If a checkpoint cannot be loaded.
    I3dError: If the networks do not go together, or `video` is not one path.
    ValueError: If top_k is not positive.
  """
  if not isinstance(video, (str, os.PathLike)):
    raise errors.I3dError(f"video is a {type(video).__name__}; it is the path of one video, so call this for each")
  if top_k < 1:
    raise ValueError(f"top_k is {top_k}; it must be at least 1")
  networks = checkpoint if isinstance(checkpoint, classifier_lib.Classifier) else classifier_lib.Classifier(checkpoint)
  check_together([network.info for network in networks.networks.values()])
  limit = {} if max_frames is None else {"max_frames": max_frames, "min_frames": min(max_frames, inception.MIN_FRAMES)}
  tests = {stream: protocol(network.info, **limit) for stream, network in networks.networks.items()}
  estimator = networks.flow_config(flow_config).flow_estimator(threads)
  options: dict[str, Any] = {"estimator": estimator, "allow_damaged": allow_damaged, "progress": progress}
  options |= {"image_rate": frame_rate, "flow_bound": flow_bound}
  opened = _open(video, list(tests.values()), max_frames, **options)
  logits, num_frames = [], 0
  for stream, network in networks.networks.items():
    clips = read_views(opened, tests[stream])
    num_frames = num_frames or next(iter(clips.values())).shape[1]
    logits.append(network.logits(clips).mean(axis=0, dtype=np.float64).astype(np.float32))
  return _describe(os.fspath(video), num_frames, sum(logits), networks.class_names, top_k)


def classify_clips(
  clips: Mapping[str, np.ndarray], classifier: classifier_lib.Classifier, *, name: str = "", top_k: int = 5
) -> Classification:
  """Returns the logits and the best classes of a video that is given as the networks' clips.

  Args:
    clips: By stream `[T, H, W, C]`, floating point in [-1, 1], in one pass.
    classifier: The networks.
    name: Name of the input, for the result.
    top_k: Number of predictions.

  Raises:
    I3dError: If the clips do not fit a network.
  """
  logits = classifier.logits({stream: clip[np.newaxis] for stream, clip in clips.items()})[0]
  return _describe(name, len(next(iter(clips.values()))), logits, classifier.class_names, top_k)


def _describe(name: str, num_frames: int, logits: np.ndarray, classes: Sequence[str], top_k: int) -> Classification:
  return Classification(name, num_frames, logits, tuple(rank(logits, classes, top_k)))


def rank(logits: np.ndarray, class_names: Sequence[str], top_k: int) -> list[Prediction]:
  """Returns the best classes, best first; of equals the one with the lower index.

  Args:
    logits: `[classes]`.
    class_names: In index order.
    top_k: How many; fewer if there are fewer classes.
  """
  probabilities = special.softmax(logits.astype(np.float64))
  best = np.argsort(-logits, kind="stable")[:top_k]
  return [Prediction(class_names[i], int(i), float(logits[i]), float(probabilities[i])) for i in best]


def check_together(infos: Sequence[saved.ModelInfo]) -> saved.ModelInfo:
  """Returns the first of several networks, if their clips can be cut from the same frames.

  Args:
    infos: What the networks are.

  Raises:
    I3dError: If their clips are cut differently.
  """
  for name in ("frame_rate", "short_side", "crop"):
    values = [info.get(name) for info in infos]
    if len(set(values)) > 1:
      raise errors.I3dError(f"the checkpoints do not go together: {name} is {' and '.join(map(str, values))}")
  return infos[0]


def read_npy_clip(path: str | os.PathLike) -> np.ndarray:
  """Returns a clip, float32 `[T, H, W, C]` in [-1, 1], from the release's sample, a .npy file with `[1, T, H, W, C]`.

  Args:
    path: The file.

  Raises:
    I3dError: If the file is no such array.
  """
  clip = files.read_array(path)
  if clip.ndim != 5 or clip.shape[0] != 1:
    raise errors.I3dError(f"{path}: the array has shape {clip.shape}; it must be [1, frames, height, width, channels]")
  # Written so that NaN fails, too.
  if not np.issubdtype(clip.dtype, np.floating) or not np.abs(clip).max(initial=0) <= 1 + 1e-6:
    raise errors.I3dError(f"{path}: the values must be floating point in [-1, 1]")
  return clip[0].astype(np.float32)


def _open(
  video: str | os.PathLike, tests: Sequence[clip_config.EvalClips], max_frames: int | None, **options: Any
) -> Video:
  """Opens the video at the tests' size; only its beginning if they look at no more."""
  first = tests[0]
  has_flow = any("flow" in test.streams for test in tests)
  if max_frames is None and all(test.protocol == "release" for test in tests):
    max_frames = max(test.max_frames * test.frame_stride + test.flow_stack - 1 for test in tests)
  return Video(
    video,
    frame_rate=first.frame_rate,
    short_side=first.short_side,
    max_frames=None if max_frames is None else max_frames + has_flow,
    **options,
  )
