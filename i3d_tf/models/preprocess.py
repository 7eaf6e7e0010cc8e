"""How a video becomes the clips that a network takes. Imports no TensorFlow."""

import dataclasses
import types

from i3d_tf import errors
from i3d_tf import fields

FRAME_RATE = 25.0  # frames per second of the release's clips (paper, section 2.4)
CHANNELS = types.MappingProxyType({"rgb": 3, "flow": 2})  # of a frame, and of one flow field
STREAMS = tuple(CHANNELS)
# The streams that a network of each kind takes.
STREAMS_OF = types.MappingProxyType({"rgb": ("rgb",), "flow": ("flow",), "joint": ("rgb", "flow")})
AUDIO = "audio"  # the stream of sound, which no network takes; see `evaluation.sound`
FLOW_STACKINGS = ("plain", "trajectory", "bidirectional")
# Of clips of consecutive frames, each with its flow as it is.
CONSECUTIVE = types.MappingProxyType(
  {"flow_stack": 1, "frame_stride": 1, "segment_frames": 0, "subtract_mean_flow": False}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
  """The transform from a video to a network's clip; it is stored with the weights.

  A video is resampled to `frame_rate`, its frames are resized bilinearly (half-pixel centres, no antialiasing, as
  OpenCV's INTER_LINEAR) and cropped, and both streams are scaled to [-1, 1]: RGB from bytes, flow from +-20 pixels per
  frame. Networks that want RGB normalized otherwise do that themselves (`base.Network.rgb_mean`).

  Attributes:
    frame_rate: Frames per second that videos are resampled to.
    num_frames: Positions of a clip: a frame each, and `flow_stack` flow fields. Shorter videos are looped.
    frame_stride: Distance in frames between two positions.
    segment_frames: Positions that are taken together, one after the other, from each of the equal segments that a video
      is divided into (Wang et al. 2016, arXiv 1608.00859); 0: all from one place.
    flow_stack: Consecutive flow fields that are stacked as channels at each position. I3D takes one, Two-Stream
      networks ten (Simonyan and Zisserman 2014, arXiv 1406.2199).
    flow_stacking: Where the fields of a stack are read: 'plain' at the pixel, 'trajectory'
      along its path, 'bidirectional' half of them forward from the frame and half backward.
    subtract_mean_flow: Whether the mean vector of each flow field is subtracted, which compensates camera motion.
    short_side: Pixels that the shorter side of the frames is resized to (paper, section 2.4: 256).
    crop: Pixels of the side of the square crop (paper, section 2.4: 224).
  """

  frame_rate: float = fields.option(FRAME_RATE, above=0, below=float("inf"))
  num_frames: int = fields.option(64, least=1)
  frame_stride: int = fields.option(1, least=1)
  segment_frames: int = fields.option(0, least=0)
  flow_stack: int = fields.option(1, least=1)
  flow_stacking: str = fields.option("plain", choices=FLOW_STACKINGS)
  subtract_mean_flow: bool = False
  short_side: int = fields.option(256, least=1)
  crop: int = fields.option(224, least=1)

  def __post_init__(self):
    fields.check(self)
    if self.segment_frames and self.num_frames % self.segment_frames:
      raise errors.I3dError(
        f"num_frames is {self.num_frames}; with segment_frames of {self.segment_frames} it must be a multiple of these"
      )
    if self.crop > self.short_side:
      raise errors.I3dError(f"crop is {self.crop}; it must be at most short_side, {self.short_side}")


def of(clips: Preprocess) -> Preprocess:
  """Returns what is stored with the weights: the fields of `Preprocess` of a configuration that has more.

  Args:
    clips: Any configuration derived from `Preprocess`.
  """
  return Preprocess(**{field.name: getattr(clips, field.name) for field in dataclasses.fields(Preprocess)})
