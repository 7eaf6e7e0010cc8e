"""Output profiles: the formats that other projects' code reads, with the defaults that go with them.

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

if TYPE_CHECKING:
  from i3d_tf.features import extraction
  from i3d_tf.features import results

ALL = 0  # the window of the whole video
POOLED_FEATURES = "PooledFeatures"  # what a network gives its classifier; every network has it

# Which of our ten crops are top left and right, centre, bottom left and right of the image, then of its mirror image
# (AadSah/pytorch-i3d-feature-extraction:extract_features.py, which writes CMCS's files). The mirrored image's top left
# is the mirror image of our top right. Of five, the first five.
_MIRRORED_CROPS = (0, 1, 4, 2, 3, 6, 5, 9, 8, 7)


def _ours(features: "extraction.Features") -> "results.Files":
  """A file for each stream and endpoint, with what it is: `features` `[N, ...]`, or of several crops `[N, crops, ...]`.

  Beside them `timestamps` in seconds, see `Features.timestamps`; `fps`; `num_frames`, positions seen; `stream`,
  `endpoint`, `pooling`, `window` (0: all), `hop`, `tail`, `crops`; `checkpoint`, `weights`; and `versions` as JSON.
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
        "versions": np.array(json.dumps(_versions())),
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
    own: Defaults that differ from those of other profiles, by the names of `config.FeatureConfig`.
    fixed: Fields of which the format leaves no choice.
  """

  files: Callable[["extraction.Features"], "results.Files"]
  own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  fixed: tuple[str, ...] = ()

  @property
  def defaults(self) -> dict[str, Any]:
    """All defaults by the names of `config.FeatureConfig`."""
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
