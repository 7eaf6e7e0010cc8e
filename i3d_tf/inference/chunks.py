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
from typing import Any, TypeVar

import numpy as np

from i3d_tf import errors
from i3d_tf.models import receptive_field

Layers = Mapping[str, Sequence[receptive_field.Layer]]  # by endpoint
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A piece of a video to run, and what to keep of it.

  Attributes:
    start, end: The frames with their halo, without `end`.
    steps: By endpoint the steps (first, end) to keep, in the numbering of the whole video.
    kept: By endpoint the same steps in the numbering of the piece.
  """

  start: int
  end: int
  steps: Mapping[str, tuple[int, int]]
  kept: Mapping[str, slice]


def plan(layers: Layers, num_frames: int, *, chunk: int) -> Iterator[Chunk]:
  """Returns pieces of a video, in order, whose kept steps are all steps of some endpoints.

  A piece has at most as many frames more than `chunk` as the widest endpoint's receptive field and twice its stride.

  Args:
    layers: The layers along time that lead to each endpoint that is wanted, see `base.Network.time_layers`.
    num_frames: Frames of the video.
    chunk: Frames from one piece to the next, rounded down to a multiple of the coarsest endpoint's stride.

  Raises:
    I3dError: If an endpoint has no step, or the chunk is shorter than a step.
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


def start(layers: Layers, num_frames: int, *, chunk: int = 64, number: int) -> int:
  """Returns the first frame of a chunk's piece; of one behind the last, the number of frames.

  Args:
    layers: See `plan`.
    num_frames: How many frames there are.
    chunk: See `plan`.
    number: Number of the chunk.
  """
  piece = next(itertools.islice(plan(layers, num_frames, chunk=chunk), number, None), None)
  return num_frames if piece is None else piece.start


def pieces(
  frames: Iterable[_Item], *, layers: Layers, num_frames: int, chunk: int = 64, first: int = 0
) -> Iterator[tuple[list[_Item], Mapping[str, slice]]]:
  """Yields the pieces of a video as soon as their frames have come; the memory needed does not grow with the video.

  Frames in a halo are in more than one piece: of Mixed_5c, chunks of 64 have up to 160 frames, chunks of 256 up to 352.

  Args:
    frames: One after the other, in whatever form.
    layers: See `plan`.
    num_frames: How many frames there are. The padding of the very first step depends on it.
    chunk: See `plan`.
    first: Number of chunks to leave out; the frames begin where the next one's do, see `start`.

  Yields:
    The frames to run, and by endpoint which of their steps to keep; none of an endpoint that has no step in a chunk.

  Raises:
    I3dError: As `plan`; and if there are more or fewer frames than `num_frames`.
  """
  frames, position = iter(frames), start(layers, num_frames, chunk=chunk, number=first)
  held: list[_Item] = []
  for piece in itertools.islice(plan(layers, num_frames, chunk=chunk), first, None):
    held = held[piece.start - position :]
    position = piece.start
    held.extend(itertools.islice(frames, piece.end - position - len(held)))
    if position + len(held) < piece.end:
      raise errors.VideoError(f"the video ended after {position + len(held)} of {num_frames} frames")
    if piece.end == num_frames and next(frames, None) is not None:
      raise errors.VideoError(f"the video has more than the {num_frames} frames that were expected")
    yield held, piece.kept


def extract(
  network: Callable[[np.ndarray], Mapping[str, Any]],
  frames: Iterable[np.ndarray],
  *,
  layers: Layers,
  num_frames: int,
  chunk: int = 64,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the steps of a video's endpoints, in order, as soon as the frames that they see have come.

  Args:
    network: Called with pieces of the video `[B, T, H, W, C]`, returns the endpoints `[B, steps, ...]` by name; best a
      `tf.function` whose `input_signature` leaves the number of frames open.
    frames: `[B, H, W, C]`, of B views of the video, in whatever type and range `network` takes.
    layers: See `plan`.
    num_frames: See `pieces`.
    chunk: See `plan`.

  Yields:
    By endpoint `[B, steps, ...]`, to be concatenated along the steps.

  Raises:
    I3dError: As `pieces`.
  """
  for held, kept in pieces(frames, layers=layers, num_frames=num_frames, chunk=chunk):
    values = network(np.stack(held, axis=1))
    yield {name: np.asarray(values[name])[:, steps] for name, steps in kept.items()}
