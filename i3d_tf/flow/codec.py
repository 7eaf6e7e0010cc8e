"""Optical flow as data: the 8-bit codec, scaling, flips and resizing, .flo files, and pictures of it.

Flow is float32 `[..., H, W, 2]`, (x, y) in pixels per frame: right and down are positive.
"""

import functools
import os
import pathlib

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import workdir

BOUND = 20.0  # pixels per frame; larger motion is cut off (paper, section 2.4; google/mediapipe media_sequence)
ROUNDINGS = ("truncate", "nearest")
BYTES = ("none", *ROUNDINGS, "around_128")  # see `through_bytes`
_FLO_MAGIC = b"PIEH"  # the float32 202021.25 (vision.middlebury.edu/flow, README of the evaluation code)
# Colours between red, yellow, green, cyan, blue and magenta, by how well the eye tells them apart
# (Baker et al., "A Database and Evaluation Methodology for Optical Flow", section 4).
_WHEEL_SEGMENTS = (15, 6, 4, 11, 13, 6)


def encode(flow: np.ndarray, *, bound: float = BOUND, rounding: str = "truncate") -> np.ndarray:
  """Returns flow as bytes, uint8 of the same shape.

  'truncate' is MediaSequence's trunc(255 * clip((v + bound) / (2 * bound), 0, 1)), which takes zero to 127 and so to
  -0.078 px; 'nearest' rounds to the nearest byte instead, which takes zero to 128 and halves the largest error.

  Args:
    flow: pixels per frame, `[..., 2]`.
    bound: pixels per frame; larger motion is cut off.
    rounding: one of `ROUNDINGS`.

  Raises:
    ValueError: for an unknown rounding, a bound that is not positive, or flow that is not finite.
  """
  if rounding not in ROUNDINGS:
    raise ValueError(f"rounding is {rounding!r}; allowed are {', '.join(ROUNDINGS)}")
  _check_bound(bound)
  if not np.isfinite(flow).all():
    raise ValueError("flow holds values that are not finite")
  levels = 255 * np.clip((np.asarray(flow, np.float64) + bound) / (2 * bound), 0, 1)
  return (np.rint(levels) if rounding == "nearest" else levels).astype(np.uint8)


def decode(values: np.ndarray, *, bound: float = BOUND) -> np.ndarray:
  """Returns bytes as flow in pixels per frame, float32: (byte / 255 - 0.5) * 2 * bound.

  Args:
    values: uint8, as `encode` returns them.
    bound: that they were encoded with.

  Raises:
    ValueError: if the values are not uint8 or the bound is not positive.
  """
  _check_bound(bound)
  if values.dtype != np.uint8:
    raise ValueError(f"encoded flow has type {values.dtype}; it is uint8")
  return ((values.astype(np.float32) / 255 - np.float32(0.5)) * np.float32(2 * bound)).astype(np.float32)


def decode_middle(values: np.ndarray, *, bound: float = BOUND) -> np.ndarray:
  """Returns float32 flow from truncated bytes: the middle of each byte's bin, so that points at rest are zero.

  Args:
    values: uint8, as `encode` returns them with 'truncate'.
    bound: that they were encoded with.
  """
  return decode(values, bound=bound) + np.float32(bound / 255)


def decode_resized(values: np.ndarray, height: int, width: int, *, bound: float = BOUND) -> np.ndarray:
  """Returns float32 flow `[height, width, 2]` from bytes, in pixels per frame of that size.

  Args:
    values: uint8 `[H, W, 2]`, as `encode` returns them.
    height: Of the result, in pixels.
    width: Of the result, in pixels.
    bound: That they were encoded with.
  """
  field = decode(np.ascontiguousarray(values), bound=bound)
  return field if field.shape[:2] == (height, width) else resize(field, height, width)


def to_image(values: np.ndarray) -> np.ndarray:
  """Returns MediaSequence's image of encoded flow, uint8 `[..., H, W, 3]`: red x, green y, blue 0.

  Args:
    values: uint8 `[..., H, W, 2]`.
  """
  return np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)


def scale(flow: np.ndarray, *, bound: float = BOUND) -> np.ndarray:
  """Returns flow for the network, float32 in [-1, 1]: cut off at +-`bound` and divided by it.

  Args:
    flow: pixels per frame.
    bound: pixels per frame.
  """
  _check_bound(bound)
  return np.clip(np.asarray(flow, np.float32) / np.float32(bound), -1, 1)


def through_bytes(flow: np.ndarray, kind: str) -> np.ndarray:
  """Returns flow for the network as it comes back from bytes, which some projects make of it on the way.

  'truncate' and 'nearest' are the roundings of `encode`; 'around_128' takes zero to byte 128 and rounds to the nearest,
  so that what comes back is 1/255 too large on average (v-iashin/video_features:models/transforms.py, ToUInt8).

  Args:
    flow: as `scale` returns it.
    kind: one of `BYTES`; 'none': no bytes are made of it.

  Returns:
    float32 in [-1, 1], for 'around_128' up to 1.004.
  """
  if kind == "none":
    return flow
  if kind == "around_128":
    return (np.rint(128 + np.float32(127.5) * flow) / np.float32(127.5) - 1).astype(np.float32)
  return scale(decode(encode(flow, bound=1.0, rounding=kind), bound=1.0), bound=1.0)


def flip_left_right(flow: np.ndarray) -> np.ndarray:
  """Returns the flow of the mirrored frames, of the same shape and type: mirrored, with x negated.

  Args:
    flow: `[..., H, W, 2]`.
  """
  return flow[..., ::-1, :] * np.array([-1, 1], flow.dtype)


def resize(flow: np.ndarray, height: int, width: int) -> np.ndarray:
  """Returns the flow of the resized frames, float32 `[height, width, 2]`: bilinear, its values scaled alike.

  Args:
    flow: one field `[H, W, 2]`.
    height: of the result, in pixels.
    width: of the result, in pixels.
  """
  factors = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
  return cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * factors


def end_point_error(flow: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Returns the distance between two fields at each pixel, float64 `[..., H, W]`, in pixels per frame.

  Args:
    flow: `[..., H, W, 2]`.
    other: `[..., H, W, 2]`.
  """
  return np.linalg.norm(np.asarray(flow, np.float64) - other, axis=-1)


def read_flo(path: str | os.PathLike) -> np.ndarray:
  """Returns the flow of a Middlebury .flo file, float32 `[H, W, 2]`.

  Args:
    path: of the file.

  Raises:
    I3dError: if the file is no whole .flo file.
  """
  content = pathlib.Path(path).read_bytes()
  if content[:4] != _FLO_MAGIC or len(content) < 12:
    raise errors.I3dError(f"{path}: this is not a .flo file")
  width, height = (int(extent) for extent in np.frombuffer(content, "<i4", count=2, offset=4))
  if min(width, height) < 1 or len(content) != 12 + 8 * width * height:
    raise errors.I3dError(f"{path}: the file has {len(content)} bytes; its header says {width}x{height} vectors")
  return np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)


def write_flo(path: str | os.PathLike, flow: np.ndarray) -> None:
  """Writes a Middlebury .flo file.

  Args:
    path: of the file, which is replaced whole.
    flow: one field `[H, W, 2]`.

  Raises:
    ValueError: if it has another shape.
  """
  if flow.ndim != 3 or flow.shape[-1] != 2:
    raise ValueError(f"flow has shape {flow.shape}; a .flo file holds [height, width, 2]")
  height, width = flow.shape[:2]
  with workdir.replacing(path) as file:
    file.write(_FLO_MAGIC + np.array([width, height], "<i4").tobytes() + np.ascontiguousarray(flow, "<f4").tobytes())


def draw(flow: np.ndarray, *, full_scale: float | None = None) -> np.ndarray:
  """Returns flow as colours, uint8 RGB `[..., H, W, 3]`: hue is the direction, saturation the speed, white no motion.

  Args:
    flow: pixels per frame, `[..., H, W, 2]`.
    full_scale: the speed, in pixels per frame, of a saturated colour; faster motion is darkened. None: the 99th
      percentile of this flow, at least 1.
  """
  flow = np.asarray(flow, np.float32)
  speed = np.linalg.norm(flow, axis=-1)
  if full_scale is None:
    full_scale = max(1.0, float(np.percentile(speed, 99)))
  wheel = _color_wheel()
  angle = np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi  # [-1, 1]
  position = (angle + 1) / 2 * len(wheel)
  low = np.floor(position).astype(int) % len(wheel)
  fraction = (position - np.floor(position))[..., np.newaxis]
  hue = (1 - fraction) * wheel[low] + fraction * wheel[(low + 1) % len(wheel)]
  radius = (speed / full_scale)[..., np.newaxis]
  color = np.where(radius <= 1, 1 - radius * (1 - hue), hue * 0.75)
  return np.rint(255 * color).astype(np.uint8)


@functools.cache
def _color_wheel() -> np.ndarray:
  """Colours around the wheel `[55, 3]` in [0, 1]: one channel rises or falls in each segment."""
  corners = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)], float)
  segments = [
    start + (end - start) * np.arange(steps)[:, np.newaxis] / steps
    for start, end, steps in zip(corners, np.roll(corners, -1, axis=0), _WHEEL_SEGMENTS, strict=True)
  ]
  return np.concatenate(segments)


def _check_bound(bound: float) -> None:
  if not bound > 0:
    raise ValueError(f"bound is {bound}; it must be positive")
