"""Which features are taken of a video, and what each output profile leaves of the choice. Imports no TensorFlow."""

import dataclasses
from typing import Any

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf.features import profiles
from i3d_tf.input import clip_config

CROPS = (1, 5, 10)
POOLINGS = ("none", "space", "space_time")
TAILS = ("drop", "pad", "loop")  # what becomes of the frames at the end that do not fill a window
ALL = profiles.ALL
POOLED_FEATURES = profiles.POOLED_FEATURES


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConfig:
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

  profile: str = fields.option("ours", choices=tuple(profiles.PROFILES))
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
    fields.check(self)
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
    if not self.allow_damaged:  # folders of today do not state it
      left_out.add("allow_damaged")
    return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}

  def _check_profile(self) -> None:
    profile = profiles.PROFILES[self.profile]
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
