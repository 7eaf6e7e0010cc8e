"""Protocols of the Frechet Video Distance: what figures must have in common to be compared. Imports no TensorFlow.

Sources of the constants:

* `tf_reference`: google-research/google-research frechet_video_distance/frechet_video_distance.py (embedding, resizing,
  unbiased covariance by TF-GAN). It says nothing about which clips are taken; 16 frames are what most papers take.
* `fvd2048_*`: universome/stylegan-v src/metrics/metric_main.py (names, numbers of frames and clips),
  frechet_video_distance.py (short videos are left out), metric_utils.py (the first videos in the order of their names,
  one clip of each; covariance over N; generated floats become bytes), src/training/dataset.py (a random offset in real
  videos, none in generated ones). Its network resizes by PyTorch's `interpolate`, which has half-pixel centres.
* The figures of ports: JunyaoHu/common_metrics_on_video_quality README.md and universome/fvd-comparison README.md.
"""

from collections.abc import Mapping
import dataclasses
import os
import types
from typing import Any

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import files
from i3d_tf import flow

FLOW = flow.FlowConfig()  # the default
PUBLISHED_WEIGHTS = "c1621a70"  # CRC-32 of rgb_scratch's, the network of deepmind/i3d-kinetics-400/1
CHECKPOINT = "rgb_scratch"
SETS = ("real", "generated")
MEASURES = ("kvd", "fvd_infinity", "precision_recall")
RESIZES: Mapping[str, str] = types.MappingProxyType(
  {
    "tensorflow": "bilinear to 224x224, aspect ratio not kept, corners not aligned, no half-pixel centres",
    "half_pixel": "bilinear to 224x224, aspect ratio not kept, half-pixel centres, no antialiasing",
  }
)
_PUBLISHED_CLIPS = 2048
_NOT_LIKE_THE_REFERENCE = (
  "for 8 black against 8 white clips of 30 frames its network gave 151.25648, the reference program 151.39244; for "
  "noise both gave 10.13808"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """Which clips are taken of videos, and how they become a figure.

  Attributes:
    name: How it is called beside the figure.
    num_frames: Frames of a clip.
    frame_step: One of so many frames of the video is taken.
    fps: Frames per second at which videos are read; None: each video's own rate.
    max_clips: Clips of each set, at most; None: all.
    clips_per_video: Clips that are taken of each video.
    order: Which videos are left out where there are more than max_clips: 'drawn', or all but the 'first' by name.
    start: Where a clip begins in its video: at a 'random' frame, drawn by seed and name, or at the 'first'.
    generated_start: The same for generated videos.
    resize: How frames become 224x224: 'tensorflow' as TensorFlow 1 does, or 'half_pixel' as PyTorch does.
    unbiased: Whether covariances are over N - 1, and not over N.
    to_bytes: Whether frames of floating point are rounded to bytes first, as when they are stored.
    comparable: What its figures may be compared with.
    difference: By how much a well-known program is off; empty: nothing is known.
  """

  name: str = "own"
  num_frames: int = fields.option(16, least=9)
  frame_step: int = fields.option(1, least=1)
  fps: float | None = fields.option(None, least=0.1)
  max_clips: int | None = fields.option(None, least=2)
  clips_per_video: int = fields.option(1, least=1)
  order: str = fields.option("drawn", choices=("drawn", "first"))
  start: str = fields.option("random", choices=("random", "first"))
  generated_start: str = fields.option("random", choices=("random", "first"))
  resize: str = fields.option("tensorflow", choices=tuple(RESIZES))
  unbiased: bool = True
  to_bytes: bool = False
  comparable: str = "figures of this very protocol"
  difference: str = ""

  def __post_init__(self):
    fields.check(self)

  @property
  def least_frames(self) -> int:
    """Frames that a video must have (universome/stylegan-v src/training/dataset.py counts whole steps)."""
    return self.num_frames * self.frame_step

  def start_of(self, name: str) -> str:
    """Returns where clips begin in the videos of a set.

    Args:
      name: 'real' or 'generated'.
    """
    return self.start if name == SETS[0] else self.generated_start

  def facts(self) -> dict[str, Any]:
    """Returns what makes the clips what they are, as JSON values."""
    rows = dataclasses.asdict(self)
    return {name: rows[name] for name in rows if name not in ("comparable", "difference")}


_STYLEGAN_V = Protocol(
  name="fvd2048_16f",
  max_clips=_PUBLISHED_CLIPS,
  order="first",
  generated_start="first",
  resize="half_pixel",
  unbiased=False,
  to_bytes=True,
  comparable="figures of StyleGAN-V's program under this name, for videos that were cropped and resized as its own",
  difference=_NOT_LIKE_THE_REFERENCE,
)
_ALL = (
  Protocol(
    name="tf_reference",
    comparable="figures of google-research's program for as many clips of as many frames at the same rate",
  ),
  _STYLEGAN_V,
  dataclasses.replace(_STYLEGAN_V, name="fvd2048_128f", num_frames=128),
  dataclasses.replace(_STYLEGAN_V, name="fvd2048_128f_subsample8f", frame_step=8),
)
PROTOCOLS: Mapping[str, Protocol] = types.MappingProxyType(
  {**{protocol.name: protocol for protocol in _ALL}, "stylegan_v": _STYLEGAN_V}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FvdConfig(flow.FlowConfig):
  """Which clips are compared, and how.

  Attributes:
    protocol: Which clips are taken, and how: tf_reference; stylegan_v, which is fvd2048_16f; fvd2048_128f,
      fvd2048_128f_subsample8f; or a JSON file with fields of `frechet.protocols.Protocol`. The eight that follow change
      it.
    num_frames: Frames of a clip; flow needs 10, since it has one field less.
    frame_step: Take one of so many frames of the video.
    fps: Frames per second at which videos are read; arrays are used as they are.
    max_clips: Use so many clips of each set.
    clips_per_video: Clips that are taken of each video.
    order: Which videos are taken where there are more than `max_clips`.
    start: Where a clip begins in its video, real or generated.
    resize: How frames become 224x224: as TensorFlow 1 does, or PyTorch.
    layout: Axes of arrays: N videos, T frames, H, W, C = 3. auto: as their only axis of 3 says.
    value_range: What floating point stands for black and white; bytes are 0 to 255. It must be given for floats.
    seed: Draws the videos, the start of each clip and the resampled sets.
    batch: Clips that the network takes at once.
    resamples: Resampled sets for the interval; 0: no interval.
    measures: Beside FVD: kvd (kernel video distance), fvd_infinity (extrapolated to endless sets), precision_recall.
    frame_rate: Frames per second of folders of images, which state none.
    allow_damaged: Take what there is of damaged or incomplete videos.
  """

  protocol: str = "tf_reference"
  num_frames: int | None = fields.option(None, least=9)
  frame_step: int | None = fields.option(None, least=1)
  fps: float | None = fields.option(None, least=0.1)
  max_clips: int | None = fields.option(None, least=2)
  clips_per_video: int | None = fields.option(None, least=1)
  order: str | None = fields.option(None, choices=("drawn", "first"))
  start: str | None = fields.option(None, choices=("random", "first"))
  resize: str | None = fields.option(None, choices=tuple(RESIZES))
  layout: str = fields.option("auto", choices=("auto", "nthwc", "ncthw", "ntchw"))
  value_range: str | None = fields.option(None, choices=("0_255", "0_1", "minus1_1"))
  seed: int = fields.option(0, least=0)
  batch: int = fields.option(8, least=1)
  resamples: int = fields.option(200, least=0)
  measures: tuple[str, ...] = fields.option((), choices=MEASURES)
  frame_rate: float = fields.option(25.0, above=0, below=float("inf"))
  allow_damaged: bool = False

  def __post_init__(self):
    super().__post_init__()
    if self.resamples == 1:
      raise errors.I3dError("resamples is 1; an interval needs at least 2, and 0 means none")


def resolve(config: FvdConfig, own: Protocol | None = None) -> Protocol:
  """Returns the protocol that options name, with their changes, which its name then states.

  Args:
    config: The options.
    own: A protocol in place of the one that they name.

  Raises:
    I3dError: If there is no such protocol, or the file holds none.
  """
  named = own or _find(config.protocol)
  given = {name: getattr(config, name) for name in _CHANGES if getattr(config, name) is not None}
  if config.start is not None:
    given["generated_start"] = config.start
  changes = {name: value for name, value in given.items() if value != getattr(named, name)}
  if not changes:
    return named
  # The reference does not prescribe which clips are taken; they are stated beside the figure.
  if named.name == "tf_reference" and "resize" not in changes:
    return dataclasses.replace(named, **changes)
  shown = ", ".join(f"{name} {value}" for name, value in changes.items() if name != "generated_start")
  return dataclasses.replace(
    named, **changes, name=f"{named.name}, but {shown}", comparable=Protocol.comparable, difference=""
  )


_CHANGES = ("num_frames", "frame_step", "fps", "max_clips", "clips_per_video", "order", "start", "resize")


def _find(name: str) -> Protocol:
  if name in PROTOCOLS:
    return PROTOCOLS[name]
  if not os.path.isfile(name):
    raise errors.I3dError(f"protocol is {name}; it is none of {', '.join(PROTOCOLS)}, and there is no such file")
  values = files.read_json(name, "a protocol")
  known = [field.name for field in dataclasses.fields(Protocol)]
  unknown = sorted(set(values) - set(known)) if isinstance(values, dict) else ["[not a JSON object]"]
  if unknown:
    raise errors.I3dError(f"{name}: a protocol has no field {unknown[0]}; its fields are {', '.join(known)}")
  return Protocol(**{"name": os.path.basename(name), **values})
