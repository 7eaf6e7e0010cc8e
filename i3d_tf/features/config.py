"""Which features are taken of a video, and what each output profile leaves of the choice. Imports no TensorFlow.

The names of the fields are those of the command line's flags.
"""

from collections.abc import Mapping
import dataclasses
import types
from typing import Any

from i3d_tf import errors
from i3d_tf.features import windows
from i3d_tf.input import clip_config
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import receptive_field

CROPS = (1, 5, 10)
ALL = 0  # the window of --window=all
_AVERAGED_OVER_TIME = (spec.LOGITS, spec.PREDICTIONS)
ENDPOINTS = (*spec.ENDPOINTS, spec.POOLED_FEATURES, spec.STEP_LOGITS)

# What a flag means that is not given, by profile; and of these, what the profile's format leaves no choice of.
_COMMON = {
    "streams": ("rgb",), "endpoints": (spec.POOLED_FEATURES,), "pooling": "space_time", "window": 64, "hop": None,
    "tail": "drop", "crops": 1,
}  # fmt: skip
PROFILES: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({
    "ours": {**_COMMON, "tail": "pad"},
    # stack_size 64, step_size 64, both streams (v-iashin/video_features:models/i3d/extract_i3d.py)
    "video_features": {**_COMMON, "streams": ("rgb", "flow")},
    # A pass over the whole video, all steps of the average pool (piergiaj/pytorch-i3d:extract_features.py)
    "pytorch_i3d": {**_COMMON, "pooling": "space", "window": ALL},
    # chunk_size 16, --frequency 16; for THUMOS'14 its users take 4 (base_sample_rate of
    # Finspire13/CMCS-Temporal-Action-Localization:configs/thumos-I3D.json)
    "cmcs": {**_COMMON, "streams": ("rgb", "flow"), "window": 16},
    # 16 frames, every 4 (happyharrycn/actionformer_release:configs/thumos_i3d.yaml)
    "actionformer": {**_COMMON, "streams": ("rgb", "flow"), "window": 16, "hop": 4},
    # 16 frames without overlap, ten crops (tianyu0207/RTFM issue 2;
    # GowthamGottimukkala/I3D_Feature_Extraction_resnet:extract_features.py)
    "rtfm": {**_COMMON, "window": 16, "crops": 10},
})  # fmt: skip
_FIXED: Mapping[str, tuple[str, ...]] = types.MappingProxyType({
    "ours": (),
    "video_features": ("pooling", "tail", "crops"),
    "pytorch_i3d": ("pooling", "window", "crops"),
    "cmcs": ("pooling",),
    "actionformer": ("pooling", "crops"),
    "rtfm": ("pooling", "crops"),
})  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What is taken of each video.

  Attributes:
    profile: the files' format, of `PROFILES`.
    rgb_checkpoint, flow_checkpoint: as `saved.load` takes them.
    streams: of 'rgb' and 'flow'.
    endpoints: of `ENDPOINTS`; for profiles other than 'ours' one.
    pooling: see `windows.pool`.
    window: positions (frames, or flows) of a clip that is run by itself; `ALL`: the whole video, exactly as one pass.
    hop: positions from one window to the next; None: the window.
    tail: see `windows.indices`.
    crops: 1: the centre; 5: the corners, too; 10: and their mirror images.
    fps: frames per second that the video is resampled to; 0: its own average rate.
    short_side: pixels of the frames' shorter side before cropping; None: what the network was trained with.
    crop: pixels of the side of the square; None: what the network was trained with.
    batch: windows that are run at once; None: so many that they have about as many frames as a window of 64. The
      features do not depend on it beyond rounding.
    chunk: with `ALL`, frames from one pass to the next; see `chunks.extract`.
    threads: for optical flow; None: one a core.
  """

  profile: str = "ours"
  rgb_checkpoint: str = "rgb_imagenet"
  flow_checkpoint: str = "flow_imagenet"
  streams: tuple[str, ...] = ("rgb",)
  endpoints: tuple[str, ...] = (spec.POOLED_FEATURES,)
  pooling: str = "space_time"
  window: int = 64
  hop: int | None = None
  tail: str = "pad"
  crops: int = 1
  fps: float = 25.0
  short_side: int | None = None
  crop: int | None = None
  batch: int | None = None
  chunk: int = 128
  threads: int | None = None

  def __post_init__(self):
    object.__setattr__(self, "streams", tuple(dict.fromkeys(self.streams)))
    object.__setattr__(self, "endpoints", tuple(dict.fromkeys(self.endpoints)))
    for name, allowed in (
        ("profile", PROFILES), ("pooling", windows.POOLINGS), ("tail", windows.TAILS), ("crops", CROPS)
    ):  # fmt: skip
      if getattr(self, name) not in allowed:
        raise errors.I3dError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(map(str, allowed))}")
    for name, allowed in (("streams", clip_config.STREAMS), ("endpoints", ENDPOINTS)):
      if not getattr(self, name) or not set(getattr(self, name)) <= set(allowed):
        raise errors.I3dError(f"{name} are {','.join(getattr(self, name))}; allowed are {', '.join(allowed)}")
    object.__setattr__(self, "streams", tuple(stream for stream in clip_config.STREAMS if stream in self.streams))
    self._check_profile()
    self._check_window()

  def _check_profile(self) -> None:
    for name in _FIXED[self.profile]:
      wanted, given = PROFILES[self.profile][name], getattr(self, name)
      if given != wanted:
        raise errors.I3dError(
          f"the profile {self.profile} has {name}={_word(name, wanted)}, not {_word(name, given)}; leave it out, or "
          "take profile=ours"
        )
    if self.profile != "ours" and len(self.endpoints) > 1:
      given = ",".join(self.endpoints)
      raise errors.I3dError(f"the profile {self.profile} has one endpoint, not {given}; name one, or take profile=ours")

  def _check_window(self) -> None:
    if self.window == ALL:
      for name in self.endpoints:
        spec.time_layers(name)  # refuses what has no steps
      if self.hop is not None:
        raise errors.I3dError(f"hop is {self.hop}, but with window=all there is one window")
      return
    windows.indices(0, window=self.window, hop=self.step, tail=self.tail)
    for name in self.endpoints:
      if receptive_field.num_steps(spec.time_layers(steps_endpoint(name)), self.window) < 1:
        raise errors.I3dError(f"window is {self.window} frames, too few for {name}")
    if self.profile == "video_features" and self.step > self.window + 1:
      raise errors.I3dError(
        f"hop is {self.step} and window {self.window}, but video_features leaves no frames between two windows"
      )

  @property
  def step(self) -> int:
    """Positions from one window to the next."""
    return self.window if self.hop is None else self.hop

  @property
  def needs_pairs(self) -> bool:
    """Whether a position is a frame that another one follows, so that there is one less than frames.

    So it is for flow, and with flow for RGB, that both have equally many; and always in video_features.
    """
    return "flow" in self.streams or self.profile == "video_features"

  @property
  def num_batch(self) -> int:
    """Windows that are run at once."""
    return max(1, 64 // self.window) if self.batch is None else self.batch

  def meaning(self) -> dict[str, Any]:
    """What the features depend on, beside the weights and the videos."""
    left_out = ("rgb_checkpoint", "flow_checkpoint", "batch", "chunk", "threads")
    return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}


def steps_endpoint(name: str) -> str:
  """The endpoint that has the steps of `name`: for those averaged over time, of what they are averages."""
  return spec.STEP_LOGITS if name in _AVERAGED_OVER_TIME else name


def _word(name: str, value: Any) -> str:
  return "all" if name == "window" and value == ALL else str(value)
