"""Which features are taken of a video, the output profiles (formats of files), and the presets (published protocols).

A profile is one entry of `PROFILES`: a layout with its defaults. A preset is one entry of `PRESETS`: a profile and all
that a published set of features was made with, except for the weights and the method of optical flow. Imports no
TensorFlow.
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
from i3d_tf.flow import codec
from i3d_tf.input import clip_config
from i3d_tf.models import preprocess

if TYPE_CHECKING:
  from i3d_tf.features import extraction
  from i3d_tf.features import results

ALL = 0  # the window of the whole video
LOGITS, STEP_LOGITS = "Logits", "StepLogits"  # of a clip, and of each of its steps
PREDICTIONS = ("csv", "json")
POOLED_FEATURES = "PooledFeatures"  # what a network gives its classifier; every network has it

CROPS = (1, 5, 10)
# Orders of ten crops; of five, the first five. 0 to 4 are top left, top right, bottom left, bottom right and centre;
# 5 to 9 their mirror images. The top left of the mirrored image is the mirror image of the top right, 6.
CROP_ORDERS: Mapping[str, tuple[int, ...]] = types.MappingProxyType({
    "evaluation": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "ten_crop": (0, 1, 2, 3, 4, 6, 5, 8, 7, 9),  # pytorch/vision:torchvision/transforms/functional.py, ten_crop
    # AadSah/pytorch-i3d-feature-extraction:extract_features.py, which writes CMCS's files
    "centre_third": (0, 1, 4, 2, 3, 6, 5, 9, 8, 7),
    "centre_first": (4, 0, 1, 2, 3, 9, 6, 5, 8, 7),  # Roc-Ng/XDVioDet:README.md
})  # fmt: skip
POOLINGS = ("none", "space", "space_time")
RESIZES = ("opencv", "pillow", "lanczos")  # of frames
RGB_INPUTS = ("network", "plain")
CENTRES = ("down", "even")
TAILS = ("drop", "pad", "loop", "short")  # what becomes of the frames at the end that do not fill a window
_LATER = (
  "allow_damaged",
  "preset",
  "offset",
  "frame_size",
  "resize",
  "rgb_input",
  "flow_bytes",
  "centre",
  "stride",
  "predictions",
  "top_k",
  "frame_rate",
  "flow_bound",
  *inference.FIELDS,
)


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


def _bmt(features: "extraction.Features") -> "results.Files":
  """STEM_rgb.npy and STEM_flow.npy float32 `[N, 1024]` (v-iashin/BMT:README.md, sample/)."""
  return {f"{_stem(features)}_{stream}.npy": _vectors(features, stream)[:, 0] for stream in features.arrays}


def _xd_violence(features: "extraction.Features") -> "results.Files":
  """STEM__0.npy, STEM__1.npy, ...: a file a crop, float32 `[N, 1024]`; of two streams in folders rgb/ and flow/.

  (Roc-Ng/XDVioDet:list/rgb.list; its README.)
  """
  found: dict[str, np.ndarray] = {}
  for stream in features.arrays:
    folder = f"{stream}/" if len(features.arrays) > 1 else ""
    vectors = _vectors(features, stream)
    found |= {f"{folder}{_stem(features)}__{crop}.npy": vectors[:, crop] for crop in range(vectors.shape[1])}
  return found


def _deepmil(features: "extraction.Features") -> "results.Files":
  """STEM.npy float32 `[N, crops, 1024]`, of two streams 2048, RGB, then flow (Roc-Ng/DeepMIL:list/ucf-i3d.list)."""
  return {f"{_stem(features)}.npy": _concatenated(features)}


def _rtfm(features: "extraction.Features") -> "results.Files":
  """ID_i3d.npy float32 `[N, 10, 1024]`, of two streams `[N, 10, 2048]`, RGB, then flow.

  (tianyu0207/RTFM:dataset.py, list/ucf-i3d.list; their own 2048 values are of a ResNet-50.)
  """
  return {f"{_stem(features)}_i3d.npy": _concatenated(features)}


_COMMON: Mapping[str, Any] = types.MappingProxyType({
    "streams": ("rgb",), "endpoints": (POOLED_FEATURES,), "pooling": "space_time", "window": 64, "hop": None,
    "tail": "drop", "crops": 1, "crop_order": "centre_third",
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
    "ours": Profile(_ours, {"window": None, "tail": "pad", "crop_order": "evaluation"}),
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
    "bmt": Profile(_bmt, {"streams": _BOTH, "tail": "short"}, ("pooling", "crops")),
    "xd_violence": Profile(_xd_violence, {"window": 16, "crops": 5, "crop_order": "centre_first"}, ("pooling",)),
    "deepmil": Profile(_deepmil, {"window": 16, "crops": 10}, ("pooling",)),
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Preset:
  """How a published set of features was made.

  Attributes:
    profile: Layout of its files.
    source: Where the protocol is stated, as repository:path.
    own: Options that differ from the profile's defaults, by the names of `FeatureConfig`.
    networks: Networks that it is of, by the names of the zoo.
    note: What the files do not share with the published ones, or how the sources differ; may be empty.
  """

  profile: str
  source: str
  own: Mapping[str, Any]
  networks: tuple[str, ...] = ("i3d",)
  note: str = ""

  @property
  def options(self) -> dict[str, Any]:
    """All its options by the names of `FeatureConfig`, except for its own name."""
    return {**PROFILES[self.profile].defaults, "fps": 25.0, **self.own, "profile": self.profile}


_R50 = ("i3d_r50_caffe2", "i3d_r50_caffe2_non_local", "i3d_r50", "i3d_r50_non_local", "i3d_r50_32x2")
_RTFM = Preset(
    "rtfm", "tianyu0207/RTFM:README.md, option.py; Tushar-N/pytorch-resnet3d:utils/gtransforms.py",
    {"fps": 0.0, "crop_order": "ten_crop", "centre": "even", "stride": 1}, _R50,
)  # fmt: skip
PRESETS: Mapping[str, Preset] = types.MappingProxyType({
    "video_features": Preset(
        "video_features", "v-iashin/video_features:models/i3d/extract_i3d.py, docs/models/i3d.md",
        {"fps": 0.0, "resize": "pillow", "flow_bytes": "around_128"}, note="flow there is RAFT's or PWC-Net's",
    ),
    "bmt": Preset(
        "bmt", "v-iashin/BMT:README.md", {"resize": "pillow", "flow_bytes": "around_128"},
        note="flow there is PWC-Net's; a last window of fewer frames than the network takes is filled up",
    ),
    # Snippet n has frames 4n to 4n + 15, its middle at 4n + 8
    "thumos14_actionformer": Preset(
        "actionformer", "happyharrycn/actionformer_release:README.md; "
        "sming256/OpenTAD:configs/_base_/datasets/thumos-14/features_i3d_pad.py", {"fps": 0.0},
    ),
    "anet_actionformer": Preset("actionformer", "happyharrycn/actionformer_release:README.md", {"hop": 16}),
    # Its frames are 340x256, whatever the video's aspect.
    "cmcs": Preset(
        "cmcs", "Finspire13/CMCS-Temporal-Action-Localization:utils.py; "
        "Finspire13/pytorch-i3d-feature-extraction:extract_features.py", {"frame_size": (340, 256)},
    ),
    "rtfm_ucf": _RTFM,
    "rtfm_shanghaitech": _RTFM,
    "mgfn_ucf": dataclasses.replace(_RTFM, source="carolchenyx/MGFN.:option.py; as RTFM's"),
    # Pillow's ANTIALIAS is Lanczos. It feeds RGB in [-1, 1] to a network that was trained with mean and deviation, and
    # 16 frames one after the other, as RTFM does, to one that was trained on every second.
    "gowthamg": Preset(
        "deepmil", "GowthamGottimukkala/I3D_Feature_Extraction_resnet:extract_features.py",
        {"fps": 0.0, "frame_size": (340, 256), "resize": "lanczos", "rgb_input": "plain", "stride": 1}, _R50,
    ),
    "xd_violence": Preset("xd_violence", "Roc-Ng/XDVioDet:README.md, option.py, list/rgb.list", {"fps": 24.0}),
    "ucf_crime_deepmil": Preset("deepmil", "Roc-Ng/DeepMIL:README.md, list/ucf-i3d.list", {"fps": 0.0}),
    "pytorch_i3d": Preset(
        "pytorch_i3d", "piergiaj/pytorch-i3d:extract_features.py, videotransforms.py", {"fps": 24.0, "centre": "even"},
    ),
    "wlasl": Preset(
        "actionformer", "dxli94/WLASL:code/I3D/datasets/nslt_dataset.py",
        {"streams": ("rgb",), "window": 64, "hop": 64, "tail": "pad"},
        note="training there takes 64 frames from a random place; these are all of a video, one after the other",
    ),
    "bsl1k": Preset("actionformer", "gulvarol/bsl1k:opts.py", {"streams": ("rgb",), "window": 16, "hop": 8}),
})  # fmt: skip


def from_preset(name: str, **given: Any) -> "FeatureConfig":
  """Returns the options of a preset.

  Args:
    name: One of `PRESETS`.
    **given: Fields of `FeatureConfig` that take the place of the preset's.

  Raises:
    I3dError: If there is no such preset, or the options do not go together.
  """
  if name not in PRESETS:
    raise errors.I3dError(f"preset is {name!r}; allowed are {', '.join(PRESETS)}")
  return FeatureConfig(**{**PRESETS[name].options, **given, "preset": name})


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
  """`[N, crops, channels]` of the one endpoint."""
  (array,) = features.arrays[stream].values()
  values = array.load()
  if values.ndim == 1:  # there is no window
    return values
  if values.ndim != 3:
    raise errors.I3dError(f"features of shape {values.shape[2:]} are no vectors")
  return values


def _concatenated(features: "extraction.Features") -> np.ndarray:
  return np.concatenate([_vectors(features, stream) for stream in features.arrays], axis=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConfig(inference.InferenceConfig, flow.FlowConfig):
  """What is taken of each video.

  Attributes:
    profile: Format of the files, and the defaults that go with it.
    preset: Published protocol that the other options are of; None: none.
    rgb_checkpoint: RGB weights: a released name, a path, or a run of train.
    flow_checkpoint: Flow weights: a released name, a path, or a run of train.
    joint_checkpoint: Weights of a network of both streams at once: a path or a run of train.
    streams: Streams to take: rgb, flow or both.
    endpoints: Endpoints of the network, separated by commas. All profiles but ours have one.
    predictions: Also write the best classes of each window, with their times, as a file of this kind; None: no file.
    top_k: Classes of each window in that file.
    pooling: Average nothing, over space, or over space and a window's time.
    window: Frames of a window after resampling, or all: the whole video in exact chunks.
    hop: Frames from one window to the next.
    stride: Frames from one that the network sees to the next, within a window; None: as it was trained.
    offset: Number of the first window's first frame.
    tail: Frames at the end that fill no window: leave out, fill up with the last frame, or with the video from its
      beginning, or take as a shorter window.
    crops: 1: the centre; 5: the corners, too; 10: and their mirror images.
    crop_order: Order of the crops: top left and right, bottom left and right, centre, and their mirror images likewise
      (evaluation), or those of the mirrored image (ten_crop), the centre third or first. None: the profile's.
    fps: Frames per second to resample videos to; 0: each video's own rate.
    frame_rate: Frames per second of folders of images and of .npy clips, which state none.
    flow_bound: Pixels per frame that the largest byte of folders' images of flow stands for.
    allow_damaged: Take what there is of damaged or incomplete videos, and leave out jumps of their clocks.
    short_side: Pixels of the frames' shorter side.
    frame_size: Width and height in pixels that frames are resized to, in place of short_side; their aspect is not kept.
    rgb_input: RGB as the network was trained on it, or plain, in [-1, 1], whatever that was.
    flow_bytes: What becomes of flow that is computed: nothing, or bytes and back, truncated, rounded to the nearest
      (of which zero is 127.5), or around byte 128.
    centre: Where half a pixel is left over, the central crop begins at the lower number, or at the even one.
    resize: Bilinear as OpenCV does it, or with antialiasing as Pillow does, bilinear (pillow) or Lanczos.
    crop: Pixels of the side of the square crop.
    batch: Windows that the network takes at once. The features do not depend on it beyond rounding.
    chunk: With a window of all, frames from one pass to the next; more are faster and need more memory.
    threads: Threads for optical flow.
  """

  profile: str = fields.option("ours", choices=tuple(PROFILES))
  preset: str | None = fields.option(None, choices=tuple(PRESETS))
  rgb_checkpoint: str = "rgb_imagenet"
  flow_checkpoint: str = "flow_imagenet"
  joint_checkpoint: str | None = None
  streams: tuple[str, ...] = fields.option(("rgb",), choices=clip_config.STREAMS)
  endpoints: tuple[str, ...] = (POOLED_FEATURES,)
  predictions: str | None = fields.option(None, choices=PREDICTIONS)
  top_k: int = fields.option(5, least=1)
  pooling: str = fields.option("space_time", choices=POOLINGS)
  window: int | None = fields.option(None, least=0)
  hop: int | None = fields.option(None, least=1)
  stride: int | None = fields.option(None, least=1)
  offset: int = fields.option(0, least=0)
  tail: str = fields.option("pad", choices=TAILS)
  crops: int = 1
  crop_order: str | None = fields.option(None, choices=tuple(CROP_ORDERS))
  fps: float = fields.option(25.0, least=0)
  frame_rate: float = fields.option(preprocess.FRAME_RATE, above=0, below=float("inf"))
  flow_bound: float = fields.option(20.0, above=0)
  allow_damaged: bool = False
  short_side: int | None = fields.option(None, least=16)
  frame_size: tuple[int, ...] = fields.option((), least=16)
  resize: str = fields.option("opencv", choices=RESIZES)
  flow_bytes: str = fields.option("none", choices=codec.BYTES)
  centre: str = fields.option("down", choices=CENTRES)
  rgb_input: str = fields.option("network", choices=RGB_INPUTS)
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
    self._check_preset()
    if self.crop_order is None:
      object.__setattr__(self, "crop_order", PROFILES[self.profile].defaults["crop_order"])
    if self.frame_size and (len(self.frame_size) != 2 or self.short_side is not None):
      given = "x".join(map(str, self.frame_size))
      raise errors.I3dError(f"frame_size is {given}; it is a width and a height, and takes the place of short_side")
    if self.tail == "short" and self.pooling != "space_time":
      raise errors.I3dError(f"tail is short, but with pooling={self.pooling} all windows have the same number of steps")
    if self.window == ALL and self.offset:
      raise errors.I3dError(f"offset is {self.offset}, but with window=all the video is taken from its beginning")
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
  def of_predictions(self) -> str | None:
    """Endpoint that the predictions are of, if there are any."""
    return None if self.predictions is None else STEP_LOGITS if self.window == ALL else LOGITS

  @property
  def computed(self) -> tuple[str, ...]:
    """All endpoints that networks compute: those of the files, and that of the predictions."""
    more = () if self.of_predictions is None else (self.of_predictions,)
    return tuple(dict.fromkeys((*self.endpoints, *more)))

  @property
  def order(self) -> tuple[int, ...]:
    """Numbers of the crops in their order, see `CROP_ORDERS`."""
    assert self.crop_order is not None
    return (4,) if self.crops == 1 else CROP_ORDERS[self.crop_order][: self.crops]

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
    # Folders of earlier versions do not state what came later.
    left_out |= set(_LATER) - set(fields.changes(self, _LATER))
    if self.crop_order == PROFILES[self.profile].defaults["crop_order"]:  # nor this
      left_out.add("crop_order")
    if self.flow_method == flow.DEFAULT or "flow" not in self.streams:  # nor this
      left_out |= {"flow", "flow_params"}
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

  def _check_preset(self) -> None:
    if self.preset is None:
      return
    networks, default = PRESETS[self.preset].networks, type(self).rgb_checkpoint
    if networks != ("i3d",) and self.joint_checkpoint is None and self.rgb_checkpoint == default:
      raise errors.I3dError(
        f"the preset {self.preset} is of {' or '.join(networks)}, whose weights are not downloaded; give rgb_checkpoint"
      )


def _word(name: str, value: Any) -> str:
  return "all" if name == "window" and value == ALL else str(value)
