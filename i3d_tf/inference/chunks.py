"""An endpoint of a long video exactly as one pass would give it, chunk by chunk.

A chunk is run with the frames around it that its steps see, its halo, and the steps that the cut disturbs are left out.
Everything is arithmetic over the rows of the network; nothing here imports TensorFlow.

With SAME padding a layer of stride s puts a number of places before the first that depends on its length modulo s.
So a piece of a video is sampled and padded as the whole is, at every layer, if it starts at a multiple of the
endpoint's stride S and is, modulo S, as long as the video. This is why the length of the video must be known before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf.models import inception_spec as spec

_OF_HEAD = (spec.POOLED_FEATURES, spec.STEP_LOGITS)
_STEP_ENDPOINTS = (*map(spec.endpoint_name, spec.ROWS), *_OF_HEAD)


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer along time: SAME padding if `padded`, or else VALID."""

  kernel: int
  stride: int
  padded: bool = True

  def num_steps(self, length: int) -> int:
    """How many steps it makes of `length`."""
    return -(-length // self.stride) if self.padded else max((length - self.kernel) // self.stride + 1, 0)

  def before(self, length: int) -> int:
    """Places of padding before the first of `length`."""
    if not self.padded:
      return 0
    return max((self.num_steps(length) - 1) * self.stride + self.kernel - length, 0) // 2


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A piece of a video to run: frames `start` to `end`, and per endpoint the steps (first, end) to keep of it.

  Attributes:
    start, end: the frames with their halo; `end` is not in it.
    steps: by endpoint, in the numbering of the whole video.
    kept: by endpoint, the same steps in the numbering of the piece.
  """

  start: int
  end: int
  steps: Mapping[str, tuple[int, int]]
  kept: Mapping[str, slice]


def layers(endpoint: str) -> tuple[Layer, ...]:
  """The layers along time that lead to an endpoint.

  A Mixed row is one, since each of its branches has one kernel in time at most, and the widest counts.

  Raises:
    I3dError: for an endpoint that has no steps in time, or that there is not.
  """
  found = []
  for row in spec.ROWS:
    found.append(Layer(spec.I3D.kernels.get(row.name, 1), spec.I3D.strides.get(row.name, 1)))
    if spec.endpoint_name(row) == endpoint:
      return tuple(found)
  if endpoint in _OF_HEAD:
    return (*found, Layer(spec.I3D.head_pool[0], 1, padded=False))
  raise errors.I3dError(
    f"{endpoint} cannot be had chunk by chunk; take one of {', '.join(_STEP_ENDPOINTS)} (the mean of "
    f"{spec.STEP_LOGITS} over its steps is {spec.LOGITS})"
  )


def stride(endpoint: str) -> int:
  """Frames from one step of an endpoint to the next."""
  return math.prod(layer.stride for layer in layers(endpoint))


def num_steps(endpoint: str, num_frames: int) -> int:
  """How many steps an endpoint has for a clip of `num_frames`."""
  for layer in layers(endpoint):
    num_frames = layer.num_steps(num_frames)
  return num_frames


def seen_frames(endpoint: str, steps: tuple[int, int], num_frames: int) -> tuple[int, int]:
  """The frames (first, end) that the steps (first, end) of an endpoint see in a clip of `num_frames`.

  Those of the padding are counted, so that the first may be negative and the end beyond `num_frames`, and the middle of
  the two is the time of a step.
  """
  return seen(layers(endpoint), steps, num_frames)


def seen(path: Sequence[Layer], steps: tuple[int, int], length: int) -> tuple[int, int]:
  """The places (first, end) that the steps (first, end) behind some layers see of `length`; see `seen_frames`."""
  lengths = list(itertools.accumulate(path, lambda length, layer: layer.num_steps(length), initial=length))
  first, end = steps
  for layer, extent in zip(reversed(path), reversed(lengths[:-1]), strict=True):
    before = layer.before(extent)
    first, end = first * layer.stride - before, (end - 1) * layer.stride - before + layer.kernel
  return first, end


def plan(endpoints: Sequence[str], num_frames: int, *, chunk: int) -> Iterator[Chunk]:
  """The pieces of a video of `num_frames`, in order, whose kept steps are all steps of the endpoints.

  A piece has at most as many frames more than `chunk` as the widest endpoint's receptive field and twice its stride.

  Args:
    endpoints: whose steps are wanted.
    num_frames: of the video.
    chunk: frames from one piece to the next, rounded down to a multiple of the coarsest endpoint's stride.

  Raises:
    I3dError: if an endpoint has no step, or the chunk is shorter than a step.
  """
  coarsest = max(map(stride, endpoints))
  totals = {name: num_steps(name, num_frames) for name in endpoints}
  without = [name for name, total in totals.items() if total < 1]
  if without:
    raise errors.VideoError(f"the video has {num_frames} frames, too few for {', '.join(without)}")
  if chunk < coarsest:
    raise errors.I3dError(f"chunk is {chunk} frames; it must be at least {coarsest}, the stride of the endpoint")
  chunk -= chunk % coarsest
  end_of_steps = max(total * stride(name) for name, total in totals.items())
  return (
    _piece({name: _steps(name, total, begin, chunk) for name, total in totals.items()}, num_frames, coarsest)
    for begin in range(0, end_of_steps, chunk)
  )


def _steps(endpoint: str, total: int, begin: int, chunk: int) -> tuple[int, int]:
  every = stride(endpoint)
  return min(begin // every, total), min((begin + chunk) // every, total)


def _piece(steps: Mapping[str, tuple[int, int]], num_frames: int, coarsest: int) -> Chunk:
  """The shortest piece that gives these steps as the whole video does."""
  seen = [seen_frames(name, some, num_frames) for name, some in steps.items() if some[0] < some[1]]
  start = max(min(first for first, _ in seen), 0) // coarsest * coarsest
  end = max(end for _, end in seen)
  end = min(end + (num_frames - end) % coarsest, num_frames)
  kept = {name: slice(*(step - start // stride(name) for step in some)) for name, some in steps.items()}
  return Chunk(start, end, steps, kept)


def extract(
  network: Callable[[np.ndarray], Mapping[str, Any]],
  frames: Iterable[np.ndarray],
  *,
  endpoints: Sequence[str],
  num_frames: int,
  chunk: int = 64,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the steps of a video's endpoints, in order, as soon as the frames that they see have come.

  The memory needed does not grow with the video. Frames in a halo are run more than once: a pass over Mixed_5c with
  chunks of 64 has up to 160 frames, with chunks of 256 up to 352.

  Args:
    network: called with pieces of the video `[B, T, H, W, C]`, returns the endpoints `[B, steps, ...]` by name: an
      `endpoints.I3dFeatures`, best in a `tf.function` whose `input_signature` leaves the frames open.
    frames: one after the other, `[B, H, W, C]`, of B views of the video, in whatever type and range `network` takes.
    endpoints: of the network; all of those that have steps, which Logits and Predictions have not.
    num_frames: how many frames there are. The padding of the very first step depends on it.
    chunk: frames from one pass to the next, rounded down to a multiple of the coarsest endpoint's stride.

  Yields:
    By endpoint `[B, steps, ...]`, to be concatenated along the steps. Where a chunk has no step of one of several
    endpoints it is empty.

  Raises:
    I3dError: as `plan`; if there are more or fewer frames than `num_frames`.
  """
  frames, buffer, position = iter(frames), [], 0
  for piece in plan(endpoints, num_frames, chunk=chunk):
    del buffer[: piece.start - position]
    position = piece.start
    buffer.extend(itertools.islice(frames, piece.end - position - len(buffer)))
    if position + len(buffer) < piece.end:
      raise errors.VideoError(f"the video ended after {position + len(buffer)} of {num_frames} frames")
    if piece.end == num_frames and next(frames, None) is not None:
      raise errors.VideoError(f"the video has more than the {num_frames} frames that were expected")
    values = network(np.stack(buffer, axis=1))
    yield {name: np.asarray(values[name])[:, kept] for name, kept in piece.kept.items()}
