"""Optical flow: `optical_flow` computes it by one of `METHODS`; modules of the package encode, stack and draw it."""

from collections.abc import Callable, Mapping
import types
from typing import Any

import numpy as np

from i3d_tf import errors


def _tvl1(engine: str) -> Callable[..., np.ndarray]:
  def compute(frames: np.ndarray, **options: Any) -> np.ndarray:
    from i3d_tf.flow import tvl1  # loads Numba

    return tvl1.tvl1_flow(frames, engine=engine, **options)

  return compute


# By name, what takes `frames`, `threads`, `on_pair` and options of its own, and returns what `optical_flow` does.
METHODS: Mapping[str, Callable[..., np.ndarray]] = types.MappingProxyType({
  "tvl1": _tvl1("numba"),
  "tvl1_opencv": _tvl1("opencv"),
})  # fmt: skip


def optical_flow(
  frames: np.ndarray,
  method: str = "tvl1",
  *,
  threads: int | None = None,
  on_pair: Callable[[int, int], None] | None = None,
  **options: Any,
) -> np.ndarray:
  """Returns the motion to the next frame in pixels, x to the right and y downwards, float32 `[T-1, H, W, 2]`.

  The first call on a machine compiles the solver of 'tvl1', which takes longer than the flow of a short video.

  Args:
    frames: uint8 `[T, H, W, 3]` RGB or `[T, H, W]` gray.
    method: one of `METHODS`: 'tvl1' (by Numba, several times faster) or 'tvl1_opencv' (by OpenCV's DualTVL1).
    threads: number of threads; None: one per available processor.
    on_pair: is called with (pairs done, pairs in all) after each pair of frames.
    **options: the method's own: `params` of both, a `tvl1.TvL1Params`.

  Raises:
    I3dError: if there is no such method.
    ValueError: if the frames are of another type, shape or size, or an option is not one of those allowed.
    ImportError: if a library is missing that the method needs.
  """
  if method not in METHODS:
    raise errors.I3dError(f"method is {method!r}; allowed are {', '.join(METHODS)}")
  return METHODS[method](frames, threads=threads, on_pair=on_pair, **options)
