"""Which features are taken of a video, and the output profiles: formats that other projects read, with their defaults.

A profile is one entry of `PROFILES`. Values are those of our networks, frames and TV-L1 flow: of the other projects it
is the layout, not the numbers. Imports no TensorFlow.
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib.metadata
import json
import platform
import types
from typing import Any, TYPE_CHECKING

import numpy as np

import i3d_tf
from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import flow
from i3d_tf import inference
from i3d_tf.input import clip_config

if TYPE_CHECKING:
  from i3d_tf.features import extraction
  from i3d_tf.features import results

ALL = 0  # the window of the whole video
POOLED_FEATURES = "PooledFeatures"  # what a network gives its classifier; every network has it

# Which of our ten crops are top left and right, centre, bottom left and right of the image, then of its mirror image
# (AadSah/pytorch-i3d-feature-extraction:extract_features.py, which writes CMCS's files). The mirrored image's top left
# is the mirror image of our top right. Of five, the first five.
_MIRRORED_CROPS = (0, 1, 4, 2, 3, 6, 5, 9, 8, 7)
CROPS = (1, 5, 10)
POOLINGS = ("none", "space", "space_time")
TAILS = ("drop", "pad", "loop")  # what becomes of the frames at the end that do not fill a window


def _ours(features: "extraction.Features") -> "results.Files":
  """A file for each stream and endpoint, with what it is: `features` `[N, ...]`, or of several crops `[N, crops, ...]`.

  Beside them `timestamps` in seconds, see `Features.timestamps`; `fps`; `num_frames`, positions seen; `stream`,
  `endpoint`, `pooling`, `window` (0: all), `hop`, `tail`, `crops`; `checkpoint`, `weights`,
  `precision`; and `versions` as JSON.
  Of networks of flow there is `flow`, its method and parameters.
  Of a special video (deinterlaced, salvaged, HDR) there are `notes`.
  """
  options = features.options
  found = {}
  for stream, by_endpoint in features.arrays.items():
    for endpoint, array in by_endpoint.items():
      found[f"{features.source.id}-{stream}-{endpoint}.npz"] = {
        "features": array if options.crops > 1 else array.without_axis(1),
        "timestamps": features.timestamps(endpoint),
        "fps": np.float64(features.fps),
        "num_frames": np.int64(features.num_positions),
        "stream": np.array(stream),
        "endpoint": np.array(endpoint),
        "pooling": np.array(options.pooling),
        "window": np.int64(options.num_frames),
        "hop": np.int64(options.step),
        "tail": np.array(options.tail),
        "crops": np.int64(options.crops),
        "checkpoint": np.array(features.checkpoints[stream]),
        "weights": np.array(features.weights[stream]),
        "precision": np.array(options.precision),
        "versions": np.array(json.dumps(_versions())),
        **({"flow": np.array(features.flow_method)} if stream != "rgb" else {}),
        **({"notes": np.array(features.notes)} if features.notes else {}),
      }
  return found


def _video_features(features: "extraction.Features") -> "results.Files":
  """STEM_rgb.npy and STEM_flow.npy `[N, 1024]`, STEM_fps.npy, a scalar, and STEM_timestamps_ms.npy `[N]`; all float64.

  A window needs one frame more than it has flows, for RGB alone, too, and its time is that of this last frame; without
  a whole window there are empty arrays `[0]` (v-iashin/video_features:models/i3d/extract_i3d.py; names of make_path in
  utils/utils.py; the lists of Python floats that it collects become float64).
  """
  stem = _stem(features)
  found = {}
  for stream in features.arrays:
    vectors = _vectors(features, stream)
    found[f"{stem}_{stream}.npy"] = vectors[:, 0].astype(np.float64) if len(vectors) else np.empty(0)
  found[f"{stem}_fps.npy"] = np.array(features.fps, np.float64)
  found[f"{stem}_timestamps_ms.npy"] = features.window_ends() / features.fps * 1000
  return found


def _pytorch_i3d(features: "extraction.Features") -> "results.Files":
  """ID.npy float32 `[N, 1, 1, 1024]`, all steps of one pass; of two streams in folders rgb/ and flow/.

  (piergiaj/pytorch-i3d:extract_features.py, which saves one stream in the folder that it is given. There videos of more
  than 1600 frames are cut into overlapping pieces whose border steps are wrong, so that it has other counts for them.)
  """
  found = {}
  for stream in features.arrays:
    folder = f"{stream}/" if len(features.arrays) > 1 else ""
    found[f"{folder}{_stem(features)}.npy"] = _vectors(features, stream)[:, :, np.newaxis]
  return found


def _cmcs(features: "extraction.Features") -> "results.Files":
  """ID-rgb.npz and ID-flow.npz: `feature` float32 `[crops, N, 1024]`, `frame_cnt`, `video_name`.

  frame_cnt is the number of positions, the same for both streams, as their reader wants it
  (Finspire13/CMCS-Temporal-Action-Localization:utils.py, __load_features; AadSah/pytorch-i3d-feature-extraction:
  extract_features.py).
  """
  return {
    f"{_stem(features)}-{stream}.npz": {
      "feature": np.swapaxes(_vectors(features, stream), 0, 1),
      "frame_cnt": np.int64(features.num_positions),
      "video_name": np.array(_stem(features)),
    }
    for stream in features.arrays
  }


def _actionformer(features: "extraction.Features") -> "results.Files":
  """ID.npy float32 `[N, 2048]`: RGB, then flow; of one stream its 1024.

  (happyharrycn/actionformer_release:libs/datasets/thumos14.py; their order and RGB alone: issue 60 there.)
  """
  return {f"{_stem(features)}.npy": _concatenated(features)[:, 0]}


def _rtfm(features: "extraction.Features") -> "results.Files":
  """ID_i3d.npy float32 `[N, 10, 1024]`, of two streams `[N, 10, 2048]`, RGB, then flow.

  (tianyu0207/RTFM:dataset.py, list/ucf-i3d.list; their own 2048 values are of a ResNet-50.)
  """
  return {f"{_stem(features)}_i3d.npy": _concatenated(features)}


_COMMON: Mapping[str, Any] = types.MappingProxyType({
    "streams": ("rgb",), "endpoints": (POOLED_FEATURES,), "pooling": "space_time", "window": 64, "hop": None,
    "tail": "drop", "crops": 1,
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Profile:
  """A format of files, and what is taken for it.

  Attributes:
    files: Returns the contents of a video's files by path.
    own: Defaults that differ from those of other profiles, by the names of `FeatureConfig`.
    fixed: Fields of which the format leaves no choice.
  """

  files: Callable[["extraction.Features"], "results.Files"]
  own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  fixed: tuple[str, ...] = ()

  @property
  def defaults(self) -> dict[str, Any]:
    """All defaults by the names of `FeatureConfig`."""
    return {**_COMMON, **self.own}


_BOTH = ("rgb", "flow")
PROFILES: Mapping[str, Profile] = types.MappingProxyType({
    "ours": Profile(_ours, {"window": None, "tail": "pad"}),
    # stack_size 64, step_size 64, both streams (v-iashin/video_features:models/i3d/extract_i3d.py)
    "video_features": Profile(_video_features, {"streams": _BOTH}, ("pooling", "tail", "crops")),
    # A pass over the whole video, all steps of the average pool (piergiaj/pytorch-i3d:extract_features.py)
    "pytorch_i3d": Profile(_pytorch_i3d, {"pooling": "space", "window": ALL}, ("pooling", "window", "crops")),
    # chunk_size 16, --frequency 16; for THUMOS'14 its users take 4 (base_sample_rate of
    # Finspire13/CMCS-Temporal-Action-Localization:configs/thumos-I3D.json)
    "cmcs": Profile(_cmcs, {"streams": _BOTH, "window": 16}, ("pooling",)),
    # 16 frames, every 4 (happyharrycn/actionformer_release:configs/thumos_i3d.yaml)
    "actionformer": Profile(_actionformer, {"streams": _BOTH, "window": 16, "hop": 4}, ("pooling", "crops")),
    # 16 frames without overlap, ten crops (tianyu0207/RTFM issue 2;
    # GowthamGottimukkala/I3D_Feature_Extraction_resnet:extract_features.py)
    "rtfm": Profile(_rtfm, {"window": 16, "crops": 10}, ("pooling", "crops")),
})  # fmt: skip


def output_name(profile: str, source_id: str) -> str:
  """Returns what tells a video's files from another's: its id, or its last part for the formats of a single folder.

  Args:
    profile: Name of the profile.
    source_id: `Source.id`.
  """
  return source_id if profile == "ours" else source_id.rpartition("/")[2]


def _versions() -> dict[str, str]:
  packages = {name: importlib.metadata.version(name) for name in ("tensorflow", "numpy")}
  return {"i3d_tf": i3d_tf.__version__, "python": platform.python_version(), **packages}


def _stem(features: "extraction.Features") -> str:
  return output_name(features.options.profile, features.source.id)


def _vectors(features: "extraction.Features", stream: str) -> np.ndarray:
  """`[N, crops, channels]` of the one endpoint, crops in the other projects' order."""
  (array,) = features.arrays[stream].values()
  values = array.load()
  if values.ndim == 1:  # there is no window
    return values
  if values.ndim != 3:
    raise errors.I3dError(f"features of shape {values.shape[2:]} are no vectors")
  return values[:, list(_MIRRORED_CROPS[: values.shape[1]])] if values.shape[1] > 1 else values


def _concatenated(features: "extraction.Features") -> np.ndarray:
  return np.concatenate([_vectors(features, stream) for stream in features.arrays], axis=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConfig(inference.InferenceConfig, flow.FlowConfig):
  """What is taken of each video.

  Attributes:
    profile: Format of the files, and the defaults that go with it.
    rgb_checkpoint: RGB weights: a released name, a path, or a run of train.
    flow_checkpoint: Flow weights: a released name, a path, or a run of train.
    joint_checkpoint: Weights of a network of both streams at once: a path or a run of train.
    streams: Streams to take: rgb, flow or both.
    endpoints: Endpoints of the network, separated by commas. All profiles but ours have one.
    pooling: Average nothing, over space, or over space and a window's time.
    window: Frames of a window after resampling, or all: the whole video in exact chunks.
    hop: Frames from one window to the next.
    tail: Frames at the end that fill no window: leave out, fill up with the last frame, or with the video from its
      beginning.
    crops: 1: the centre; 5: the corners, too; 10: and their mirror images.
    fps: Frames per second to resample videos to; 0: each video's own rate.
    allow_damaged: Take what there is of damaged or incomplete videos, and leave out jumps of their clocks.
    short_side: Pixels of the frames' shorter side.
    crop: Pixels of the side of the square crop.
    batch: Windows that the network takes at once. The features do not depend on it beyond rounding.
    chunk: With a window of all, frames from one pass to the next; more are faster and need more memory.
    threads: Threads for optical flow.
  """

  profile: str = fields.option("ours", choices=tuple(PROFILES))
  rgb_checkpoint: str = "rgb_imagenet"
  flow_checkpoint: str = "flow_imagenet"
  joint_checkpoint: str | None = None
  streams: tuple[str, ...] = fields.option(("rgb",), choices=clip_config.STREAMS)
  endpoints: tuple[str, ...] = (POOLED_FEATURES,)
  pooling: str = fields.option("space_time", choices=POOLINGS)
  window: int | None = fields.option(None, least=0)
  hop: int | None = fields.option(None, least=1)
  tail: str = fields.option("pad", choices=TAILS)
  crops: int = 1
  fps: float = fields.option(25.0, least=0)
  allow_damaged: bool = False
  short_side: int | None = fields.option(None, least=16)
  crop: int | None = fields.option(None, least=16)
  batch: int | None = fields.option(None, least=1)
  chunk: int = fields.option(128, least=8)
  threads: int | None = fields.option(None, least=1)

  def __post_init__(self):
    super().__post_init__()
    flow.FlowConfig.__post_init__(self)
    if self.crops not in CROPS:
      raise errors.I3dError(f"crops is {self.crops}; allowed are {', '.join(map(str, CROPS))}")
    for name in ("streams", "endpoints"):
      if not getattr(self, name):
        raise errors.I3dError(f"{name} is empty; name at least one")
      object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
    if self.joint_checkpoint is not None:
      object.__setattr__(self, "streams", clip_config.STREAMS)
    object.__setattr__(self, "streams", tuple(stream for stream in clip_config.STREAMS if stream in self.streams))
    self._check_profile()
    if self.window == ALL and self.hop is not None:
      raise errors.I3dError(f"hop is {self.hop}, but with window=all there is one window")
    if self.window is not None and self.profile == "video_features" and self.step > self.window + 1:
      raise errors.I3dError(
        f"hop is {self.hop} and window {self.window}, but video_features leaves no frames between two windows"
      )

  @property
  def checkpoints(self) -> dict[str, str]:
    """Checkpoints by 'rgb' and 'flow', or 'joint' for a network of both."""
    if self.joint_checkpoint is not None:
      return {"joint": self.joint_checkpoint}
    return {stream: getattr(self, f"{stream}_checkpoint") for stream in self.streams}

  @property
  def num_frames(self) -> int:
    """Frames of a window, once it is known; see `extraction.Extractor`."""
    assert self.window is not None
    return self.window

  @property
  def step(self) -> int:
    """Frames from one window to the next."""
    return self.num_frames if self.hop is None else self.hop

  @property
  def needs_pairs(self) -> bool:
    """Whether a position is a frame that another one follows, so that there is one less than frames.

    So it is for flow, and with flow for RGB, that both have equally many; and always in video_features.
    """
    return "flow" in self.streams or self.profile == "video_features"

  @property
  def num_batch(self) -> int:
    """Windows that are run at once: so many that they have about as many frames as a window of 64."""
    return max(1, 64 // self.num_frames) if self.batch is None else self.batch

  def meaning(self) -> dict[str, Any]:
    """Returns what the features depend on, beside the weights and the videos."""
    left_out = {"rgb_checkpoint", "flow_checkpoint", "joint_checkpoint", "batch", "chunk", "threads"}
    if not self.allow_damaged:  # folders of version 0.1 do not state it
      left_out.add("allow_damaged")
    if self.flow_method == flow.DEFAULT or "flow" not in self.streams:  # nor this
      left_out |= {"flow", "flow_params"}
    left_out |= set(inference.FIELDS) - set(self.changes())
    return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}

  def _check_profile(self) -> None:
    profile = PROFILES[self.profile]
    for name in profile.fixed:
      wanted, given = profile.defaults[name], getattr(self, name)
      if given != wanted:
        raise errors.I3dError(
          f"the profile {self.profile} has {name}={_word(name, wanted)}, not {_word(name, given)}; leave it out, or "
          "take profile=ours"
        )
    if self.profile != "ours" and len(self.endpoints) > 1:
      given = ",".join(self.endpoints)
      raise errors.I3dError(f"the profile {self.profile} has one endpoint, not {given}; name one, or take profile=ours")


def _word(name: str, value: Any) -> str:
  return "all" if name == "window" and value == ALL else str(value)
