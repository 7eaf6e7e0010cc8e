"""From a clip's video to its record: frames at a fixed rate as JPEG, their flow as images, the sound's spectrogram."""

import os

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import flow
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.flow import codec
from i3d_tf.video import decode
from i3d_tf.video import stills

_DEFAULT = shards.RecordConfig()
_PNG_LEVEL = 6  # of zlib; 9 takes ten times as long for 9 % fewer bytes
_FLOW_JPEG_QUALITY = 100  # MediaSequence's


def make_record(
  clip: clips_lib.Clip,
  *,
  dataset: str,
  classes: tuple[str, ...],
  settings: shards.RecordConfig = _DEFAULT,
  root: str | os.PathLike | None = None,
) -> records.Record:
  """Returns a clip's record: decodes it, computes its flow on this thread, and encodes both.

  Args:
    clip: what to read.
    dataset: the data set's name.
    classes: names in the order of their indices.
    settings: how.
    root: the folder that the record's path is relative to; None: the path is kept as it is.

  Raises:
    VideoError: if the video cannot be read whole, or has too few frames for flow.
    I3dError: if the label is none of `classes`.
  """
  if clip.label is not None and clip.label not in classes:
    raise errors.I3dError(f"{clip.id}: the label {clip.label!r} is not in the class list")
  notes: list[str] = []
  images, size = _encode(clip, settings, notes)
  has_sound = "audio" in settings.streams
  log_mel = clips_lib.log_mel(clip, allow_damaged=settings.allow_damaged).ravel().tolist() if has_sound else ()
  rgb_images, flow_images, backward_images = (images[stream] for stream in records.IMAGES)
  times = [round(1_000_000 * step / settings.fps) for step in range(max(len(rgb_images), len(flow_images)))]
  start = round(1_000_000 * (clip.start or 0))
  return records.Record(
    id=clip.id,
    dataset=dataset,
    path=clip.path if root is None else clips_lib.relative_path(clip, root),
    notes=tuple(notes),
    labels=(clip.label,) if clip.label is not None else (),
    label_indices=(classes.index(clip.label),) if clip.label is not None else (),
    start=start,
    end=start + round(1_000_000 * (len(times) + ("rgb" not in settings.streams)) / settings.fps),
    frame_rate=float(settings.fps),
    height=size[0],
    width=size[1],
    frames=tuple(rgb_images),
    timestamps=tuple(times[: len(rgb_images)]),
    flow_format=settings.flow_format.upper() if flow_images else "",
    flow_bound=float(settings.flow_bound) if flow_images else 0.0,
    flow_rounding=settings.flow_rounding if flow_images else "",
    flow_method=settings.flow_method if flow_images and settings.flow_method != flow.DEFAULT else "",
    flow_frames=tuple(flow_images),
    flow_timestamps=tuple(times[: len(flow_images)]),
    backward_flow_frames=tuple(backward_images),
    backward_flow_timestamps=tuple(times[: len(backward_images)]),
    log_mel=tuple(log_mel),
  )


def _encode(
  clip: clips_lib.Clip, settings: shards.RecordConfig, notes: list[str]
) -> tuple[dict[str, list[bytes]], tuple[int, int]]:
  """The encoded images of a clip by stream, one frame in memory at a time, and the frames' (height, width)."""
  images: dict[str, list[bytes]] = {stream: [] for stream in records.IMAGES}
  previous = None
  given = stills.open_with_flow(clip.path, settings.frame_rate, settings.fps) if "flow" in settings.streams else None
  if given is not None and not len(given.frames) and "rgb" not in settings.streams:
    return _flow_of_images(given, settings)
  estimator = settings.flow_estimator(threads=1) if "flow" in settings.streams and given is None else None
  frames = clips_lib.iter_frames(
    clip,
    fps=settings.fps,
    short_side=settings.short_side,
    allow_damaged=settings.allow_damaged,
    note=notes.append,
    frame_rate=settings.frame_rate,
  )
  for frame in frames:
    if "rgb" in settings.streams:
      images["rgb"].append(encode_rgb(frame, settings.jpeg_quality))
    if estimator is not None and previous is not None:
      images["flow"].append(encode_flow(estimator.between(previous, frame), settings))
      if "backward_flow" in settings.streams:
        images["backward_flow"].append(encode_flow(estimator.between(frame, previous), settings))
    previous = frame
  if given is not None:
    images["flow"] = _flow_of_images(given, settings)[0]["flow"]
  if "flow" in settings.streams and not images["flow"]:
    raise errors.VideoError(f"{clip.path}: the video has one frame only, and so no flow")
  return images, frame.shape[:2]


def _flow_of_images(
  given: stills.Stills, settings: shards.RecordConfig
) -> tuple[dict[str, list[bytes]], tuple[int, int]]:
  """As `_encode`, of the flow that a folder has: its bytes, unless they are to be resized."""
  if "backward_flow" in settings.streams:
    raise errors.VideoError(f"{given.path}: the folder has no backward flow")
  images: dict[str, list[bytes]] = {stream: [] for stream in records.IMAGES}
  for index in range(len(given.x)):
    values = given.flow(index)
    height, width = decode.Resize(settings.short_side).shape(*values.shape[:2])
    if (height, width) != values.shape[:2]:
      field = codec.decode_resized(values, height, width, bound=settings.flow_bound)
      values = codec.encode(field, bound=settings.flow_bound, rounding=settings.flow_rounding)
    images["flow"].append(_encode_values(values, settings))
  return images, (height, width)


def encode_rgb(frame: np.ndarray, quality: int) -> bytes:
  """Returns an RGB frame as the bytes of a JPEG file.

  Args:
    frame: uint8 `[H, W, 3]`.
    quality: 1 to 100.
  """
  return _imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_flow(field: np.ndarray, settings: shards.RecordConfig) -> bytes:
  """Returns one flow field as the bytes of an image file: red x, green y, blue 0.

  Args:
    field: `[H, W, 2]`, pixels per frame.
    settings: format, bound and rounding.
  """
  return _encode_values(codec.encode(field, bound=settings.flow_bound, rounding=settings.flow_rounding), settings)


def _encode_values(values: np.ndarray, settings: shards.RecordConfig) -> bytes:
  image = codec.to_image(values)
  bgr = np.ascontiguousarray(image[..., ::-1])
  if settings.flow_format == "png":
    return _imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
  full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
  return _imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _FLOW_JPEG_QUALITY, *full_chroma])


def _imencode(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
  encoded, content = cv2.imencode(suffix, image, options)
  if not encoded:
    raise errors.VideoError(f"OpenCV cannot encode an image of shape {image.shape} as {suffix}")
  return content.tobytes()
