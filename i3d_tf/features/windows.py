"""Windows of a video's frames, and pooling of their features: arithmetic without TensorFlow."""

from collections.abc import Iterable, Iterator
import itertools

import numpy as np

from i3d_tf import errors

# What becomes of the frames at the end that do not fill a window.
TAILS = ("drop", "pad", "loop")
_FIRST_POOLED_AXIS = {"none": None, "space": 2, "space_time": 1}
POOLINGS = tuple(_FIRST_POOLED_AXIS)


def indices(num_frames: int, *, window: int, hop: int, tail: str) -> np.ndarray:
  """The numbers of the frames of every window of a video, int64 `[N, window]`.

  Window n begins at frame n * hop. 'drop' has only whole windows, (num_frames - window) // hop + 1 of them and none if
  the video is shorter than one. The others go on until the last frame is in a window or, where the hop is longer than
  the window, between two; what is missing in the last 'pad' fills with the last frame, 'loop' with the video again from
  its beginning, as often as it takes.

  Raises:
    I3dError: for a window or hop below 1, or another tail.
  """
  for name, value in (("window", window), ("hop", hop)):
    if value < 1:
      raise errors.I3dError(f"{name} is {value} frames; it must be at least 1")
  if tail not in TAILS:
    raise errors.I3dError(f"tail is {tail!r}; allowed are {', '.join(TAILS)}")
  missing = num_frames - window  # behind the first window
  if tail == "drop":
    count = max(missing // hop + 1, 0)
  else:
    count = min(1 + -(-max(missing, 0) // hop), -(-num_frames // hop))
  frames = hop * np.arange(count)[:, np.newaxis] + np.arange(window)
  return frames % max(num_frames, 1) if tail == "loop" else np.minimum(frames, num_frames - 1)


def cut(frames: Iterable[np.ndarray], *, window: int, hop: int, tail: str) -> Iterator[np.ndarray]:
  """Yields the windows of `indices`, `[window, ...]`, of frames that come one after the other.

  The frames of two windows are held at most, however many there are.

  Args:
    frames: arrays of one shape and type.
    window, hop, tail: as `indices` takes them.

  Raises:
    I3dError: as `indices`.
  """
  indices(0, window=window, hop=hop, tail=tail)  # refuses what is wrong before the first frame
  frames, start = iter(frames), 0
  held = beginning = list(itertools.islice(frames, window))
  while len(held) == window:
    yield np.stack(held)
    start += hop
    for _ in itertools.islice(frames, max(hop - window, 0)):
      pass  # between two windows
    held = [*held[hop:], *itertools.islice(frames, min(hop, window))]
  rest = indices(start + len(held), window=window, hop=hop, tail=tail)[start // hop :]
  for row in rest:
    yield np.stack([held[index - start] if index >= start else beginning[index] for index in row])


def pool(features: np.ndarray, pooling: str) -> np.ndarray:
  """The mean of features `[B, steps, h, w, channels]` over space or over space and time.

  What has fewer axes is averaged over those it has: `[B, steps, channels]` over the steps, by 'space_time' only, and
  `[B, channels]` over none.

  Args:
    features: of a trunk's or a head's endpoint.
    pooling: 'none'; 'space', which leaves `[B, steps, channels]`; or 'space_time', which leaves `[B, channels]`.

  Raises:
    I3dError: for another pooling.
  """
  if pooling not in POOLINGS:
    raise errors.I3dError(f"pooling is {pooling!r}; allowed are {', '.join(POOLINGS)}")
  first = _FIRST_POOLED_AXIS[pooling]
  axes = () if first is None else tuple(range(first, features.ndim - 1))
  return features.mean(axis=axes)
