"""Frames into a video file: H.264 in MP4, which players, browsers and slides take."""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib

import av
import numpy as np

from i3d_tf import errors
from i3d_tf import workdir

_SUFFIX = ".mp4"
_QUALITY = {"crf": "18", "preset": "veryfast"}  # of x264: hard to tell from what was drawn


@contextlib.contextmanager
def writing(path: str | os.PathLike, *, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
  """Opens a video file that takes its place when the body of `with` ends well.

  All frames must have one size. H.264 wants even sides: a last row or column is repeated where there is an odd one.

  Args:
    path: ends in .mp4.
    fps: frames per second, rounded.

  Yields:
    A function that appends an RGB frame, uint8 `[H, W, 3]`.

  Raises:
    I3dError: for another ending.
    OSError: naming `path`, if it cannot be written.
  """
  if pathlib.Path(path).suffix.lower() != _SUFFIX:
    raise errors.I3dError(f"{path}: the video's name must end in {_SUFFIX}")
  with workdir.replacing(path) as file, av.open(file, "w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=round(fps), options=_QUALITY)
    stream.pix_fmt = "yuv420p"

    def write(image: np.ndarray) -> None:
      height, width = image.shape[:2]
      image = np.pad(image, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
      if not stream.codec_context.is_open:
        stream.height, stream.width = image.shape[:2]
      elif image.shape[:2] != (stream.height, stream.width):  # it would be resized without a word
        raise ValueError(f"a frame has {width}x{height} pixels; those before it {stream.width}x{stream.height}")
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

    yield write
    container.mux(stream.encode())
