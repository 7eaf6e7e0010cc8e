"""Pure functions on clips: cropping and scaling of values."""

import numpy as np

CROP = 224  # pixels; side of the network's input (paper, section 2.4)


def center_crop(frames: np.ndarray, size: int = CROP) -> np.ndarray:
  """The central `size` x `size` pixels of `[..., H, W, C]`.

  Raises:
    ValueError: if the frames are smaller.
  """
  height, width = frames.shape[-3:-1]
  if min(height, width) < size:
    raise ValueError(f"frames are {width}x{height} pixels; a crop needs at least {size}x{size}")
  top, left = (height - size) // 2, (width - size) // 2
  return frames[..., top : top + size, left : left + size, :]


def scale_rgb(frames: np.ndarray) -> np.ndarray:
  """uint8 values 0 to 255 as float32 in [-1, 1] (google-deepmind/kinetics-i3d README)."""
  if frames.dtype != np.uint8:
    raise ValueError(f"frames have type {frames.dtype}; RGB frames are uint8")
  return frames.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
