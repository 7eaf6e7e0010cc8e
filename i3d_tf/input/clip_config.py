"""What clips are taken from videos, for training and for evaluation. Imports no TensorFlow.

The names of the fields are those of the command lines' flags.
"""

from collections.abc import Sequence
import dataclasses

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf.models import preprocess

STREAMS = preprocess.STREAMS
BACKWARD_FLOW = "backward_flow"  # what records can hold beside the streams
FLOW_STACKINGS = preprocess.FLOW_STACKINGS
PROTOCOLS = ("release", "clips", "ten_crop", "three_crops")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainClips(preprocess.Preprocess):
  """One clip a video, drawn at random. The fields of `Preprocess` say what a clip is; see there.

  All augmentation from `scale_jitter` on is off unless asked for.

  Attributes:
    streams: Streams to take, of `STREAMS`; both are cut alike.
    flip: Mirror every second clip; the x component of mirrored flow is negated.
    scale_jitter: Range of a random factor on `short_side`, such as 0.8,1.2; the result is at least `crop`.
    photometric_jitter: Strength of one change of colours for all frames of a clip; usual is 1: brightness +-32/255,
      contrast and saturation times 0.6 to 1.4, hue +-0.2 (DMVR's figures).
    temporal_jitter: Move the start of a clip by up to so many frames, either way.
    segment_shuffle: Probability that the `num_segments` segments of a clip are shuffled.
    num_segments: Segments that `segment_shuffle` shuffles.
    frame_dropout: Probability that a frame is replaced by the mean colour of the clip, and its flow by no motion.
  """

  streams: tuple[str, ...] = ("rgb",)
  flip: bool = True
  scale_jitter: tuple[float, float] = fields.option((1.0, 1.0), above=0, below=float("inf"))
  photometric_jitter: float = fields.option(0.0, least=0, most=2)
  temporal_jitter: int = fields.option(0, least=0)
  segment_shuffle: float = fields.option(0.0, least=0, most=1)
  num_segments: int = fields.option(4, least=2)
  frame_dropout: float = fields.option(0.0, least=0, most=1)

  def __post_init__(self):
    super().__post_init__()
    object.__setattr__(self, "streams", _streams(self.streams))
    _check_flow(self)
    if self.scale_jitter[0] > self.scale_jitter[1]:
      given = ",".join(map(str, self.scale_jitter))
      raise errors.I3dError(f"scale_jitter is {given}; it must be two positive factors, the smaller one first")
    if self.photometric_jitter and "rgb" not in self.streams:
      raise errors.I3dError(f"photometric_jitter is {self.photometric_jitter}; it changes RGB only, and there is none")
    if self.temporal_jitter and self.segment_frames:
      raise errors.I3dError(
        f"temporal_jitter is {self.temporal_jitter}; with segment_frames every segment's start is drawn anyway"
      )
    if self.segment_shuffle and self.num_segments > self.num_frames:
      raise errors.I3dError(
        f"num_segments is {self.num_segments}; to shuffle, it must be at most the {self.num_frames} frames"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalClips(preprocess.Preprocess):
  """All views of a video whose logits are averaged. The fields of `Preprocess` say what a view is; see there.

  Of 'release', `num_frames` and `segment_frames` are not used, and of stacks of flow it takes those that the video has
  whole, and RGB as many frames. Of 'three_crops', `crop` is always `short_side`.

  Attributes:
    streams: Streams to take, of `STREAMS`.
    protocol: Which views are taken. 'release': one view of the first `max_frames` frames, and of as many flows;
      'clips': `num_clips` clips at equal distances; 'ten_crop': corners and centre of the clip in the middle of the
      video, and their mirror images; 'three_crops': of the same clips as 'clips' squares of the shorter side, at both
      ends and in the middle of the longer one (SlowFast's 30 views, facebookresearch/SlowFast,
      TEST.NUM_SPATIAL_CROPS of 3). The first two take the centre crop.
    max_frames: For 'release', frames of a video, at most; 250 are ten seconds, a Kinetics clip (paper, section 2.4).
    min_frames: For 'release', a video shorter than this is looped up to it; the network needs 9.
    num_clips: For 'clips' and 'three_crops', number of clips.
    flip: Take the mirror image of each view, too.
  """

  streams: tuple[str, ...] = ("rgb",)
  protocol: str = fields.option("release", choices=PROTOCOLS)
  max_frames: int = fields.option(250, least=1)
  min_frames: int = fields.option(9, least=1)
  num_clips: int = fields.option(10, least=1)
  flip: bool = False

  def __post_init__(self):
    if self.protocol == "three_crops":
      object.__setattr__(self, "crop", self.short_side)
    super().__post_init__()
    object.__setattr__(self, "streams", _streams(self.streams))
    _check_flow(self)
    if self.min_frames > self.max_frames:
      raise errors.I3dError(f"max_frames is {self.max_frames}; it must be at least min_frames, {self.min_frames}")
    if self.flip and self.protocol == "ten_crop":
      raise errors.I3dError("flip is on; the ten crops have their mirror images already, so leave it off")


def stored(clips: TrainClips | EvalClips) -> tuple[str, ...]:
  """Returns what records must hold: the streams, and for bi-directional stacks `BACKWARD_FLOW`.

  Args:
    clips: Clips that are made of the records.
  """
  return clips.streams + ((BACKWARD_FLOW,) if clips.flow_stacking == "bidirectional" else ())


def _streams(streams: Sequence[str]) -> tuple[str, ...]:
  """The streams in the one order that is used throughout."""
  if not streams or not set(streams) <= set(STREAMS) or len(set(streams)) < len(streams):
    raise errors.I3dError(f"streams are {', '.join(streams) or 'none'}; allowed are rgb, flow, and both")
  return tuple(stream for stream in STREAMS if stream in streams)


def _check_flow(clips: TrainClips | EvalClips) -> None:
  stack, stacking = clips.flow_stack, clips.flow_stacking
  for name, off in (("flow_stack", 1), ("flow_stacking", "plain"), ("subtract_mean_flow", False)):
    value = getattr(clips, name)
    if value != off and "flow" not in clips.streams:
      raise errors.I3dError(f"{name} is {value}; it is about flow, and there is none")
  if stacking != "plain" and stack == 1:
    raise errors.I3dError(f"flow_stacking is {stacking}; it needs a flow_stack of more than one flow")
  if stacking == "bidirectional" and stack % 2:
    raise errors.I3dError(f"flow_stack is {stack}; of bi-directional stacks half the flows go back, so make it even")
