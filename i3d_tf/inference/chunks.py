"""Endpoints of a long video chunk by chunk, with exactly the values of a single pass. Imports no TensorFlow.

A chunk is run with the frames around it that its steps see, its halo, and the steps that the cut disturbs are left out.
All this is arithmetic over the layers along time that lead to an endpoint, which `base.Network.time_layers` returns.

With SAME padding a layer of stride s puts a number of positions in front that depends on its length modulo s. So a
piece of a video is sampled and padded as the whole is, at every layer, if it starts at a multiple of the endpoint's
stride S and is, modulo S, as long as the video. This is why the length of the video must be known before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf.models import receptive_field

Layers = Mapping[str, Sequence[receptive_field.Layer]]  # by endpoint


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A piece of a video to run: frames `start` to `end`, and per endpoint the steps (first, end) to keep of it.

  Attributes:
    start, end: the frames with their halo, without `end`.
    steps: by endpoint, in the numbering of the whole video.
    kept: by endpoint, the same steps in the numbering of the piece.
  """

  start: int
  end: int
  steps: Mapping[str, tuple[int, int]]
  kept: Mapping[str, slice]


def plan(layers: Layers, num_frames: int, *, chunk: int) -> Iterator[Chunk]:
  """Cuts a video into pieces whose kept steps are all steps of some endpoints.

  A piece has at most as many frames more than `chunk` as the widest endpoint's receptive field and twice its stride.

  Args:
    layers: the layers along time that lead to each endpoint that is wanted, see `base.Network.time_layers`.
    num_frames: of the video.
    chunk: frames from one piece to the next, rounded down to a multiple of the coarsest endpoint's stride.

  Returns:
    The pieces in order.

  Raises:
    I3dError: if an endpoint has no step, or the chunk is shorter than a step.
  """
  strides = {name: receptive_field.stride(path) for name, path in layers.items()}
  coarsest = max(strides.values())
  totals = {name: receptive_field.num_steps(path, num_frames) for name, path in layers.items()}
  without = [name for name, total in totals.items() if total < 1]
  if without:
    raise errors.VideoError(f"the video has {num_frames} frames, too few for {', '.join(without)}")
  if chunk < coarsest:
    raise errors.I3dError(f"chunk is {chunk} frames; it must be at least {coarsest}, the stride of the endpoint")
  chunk -= chunk % coarsest
  end_of_steps = max(total * strides[name] for name, total in totals.items())
  of_piece = lambda begin: {name: _steps(strides[name], total, begin, chunk) for name, total in totals.items()}
  return (_piece(layers, of_piece(begin), num_frames) for begin in range(0, end_of_steps, chunk))


def _steps(every: int, total: int, begin: int, chunk: int) -> tuple[int, int]:
  return min(begin // every, total), min((begin + chunk) // every, total)


def _piece(layers: Layers, steps: Mapping[str, tuple[int, int]], num_frames: int) -> Chunk:
  """The shortest piece that has these steps as the whole video has them."""
  strides = {name: receptive_field.stride(path) for name, path in layers.items()}
  coarsest = max(strides.values())
  seen = [receptive_field.seen(layers[name], some, num_frames) for name, some in steps.items() if some[0] < some[1]]
  start = max(min(first for first, _ in seen), 0) // coarsest * coarsest
  end = max(end for _, end in seen)
  end = min(end + (num_frames - end) % coarsest, num_frames)
  # The network computes all endpoints of a piece, so that none may be left without a step.
  while start > 0 and any(receptive_field.num_steps(path, end - start) < 1 for path in layers.values()):
    start -= coarsest
  kept = {name: slice(*(step - start // strides[name] for step in some)) for name, some in steps.items()}
  return Chunk(start, end, steps, kept)


def extract(
  network: Callable[[np.ndarray], Mapping[str, Any]],
  frames: Iterable[np.ndarray],
  *,
  layers: Layers,
  num_frames: int,
  chunk: int = 64,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the steps of a video's endpoints, in order, as soon as the frames that they see have come.

  The memory needed does not grow with the video. Frames in a halo are run more than once: a pass over Mixed_5c with
  chunks of 64 has up to 160 frames, with chunks of 256 up to 352.

  Args:
    network: called with pieces of the video `[B, T, H, W, C]`, returns the endpoints `[B, steps, ...]` by name; best a
      `tf.function` whose `input_signature` leaves the number of frames open.
    frames: one after the other, `[B, H, W, C]`, of B views of the video, in whatever type and range `network` takes.
    layers: the layers along time that lead to each endpoint that is wanted, see `base.Network.time_layers`.
    num_frames: how many frames there are. The padding of the very first step depends on it.
    chunk: frames from one pass to the next, rounded down to a multiple of the coarsest endpoint's stride.

  Yields:
    By endpoint `[B, steps, ...]`, to be concatenated along the steps. Of an endpoint that has no step in a chunk the
    array is empty.

  Raises:
    I3dError: as `plan`; if there are more or fewer frames than `num_frames`.
  """
  frames, position = iter(frames), 0
  buffer: list[np.ndarray] = []
  for piece in plan(layers, num_frames, chunk=chunk):
    del buffer[: piece.start - position]
    position = piece.start
    buffer.extend(itertools.islice(frames, piece.end - position - len(buffer)))
    if position + len(buffer) < piece.end:
      raise errors.VideoError(f"the video ended after {position + len(buffer)} of {num_frames} frames")
    if piece.end == num_frames and next(frames, None) is not None:
      raise errors.VideoError(f"the video has more than the {num_frames} frames that were expected")
    values = network(np.stack(buffer, axis=1))
    yield {name: np.asarray(values[name])[:, kept] for name, kept in piece.kept.items()}
