"""The views of a video file by a network's test protocol, cut as evaluation cuts those of a record."""

from collections.abc import Mapping
import itertools
import os

import numpy as np
import tqdm

from i3d_tf import errors
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.input import ops
from i3d_tf.models import zoo
from i3d_tf.video import decode
from i3d_tf.weights import saved


class Video:
  """The frames of a video file at a network's rate and size, and the TV-L1 flow between them, by number."""

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    frame_rate: float = decode.FRAME_RATE,
    short_side: int = decode.SHORT_SIDE,
    max_frames: int | None = None,
    threads: int | None = None,
    progress: bool = False,
  ):
    """Opens the video.

    Args:
      path: The file.
      frame_rate: Frames per second to resample to.
      short_side: Pixels of the frames' shorter side.
      max_frames: Use so many frames from the start, which are kept in memory, and look no further. None: count all of
        them, and decode the video once more for those that are asked for.
      threads: Threads for optical flow; None: one a core.
      progress: Whether to show a bar on stderr while flow is computed.

    Raises:
      VideoError: If the video cannot be read.
    """
    self.path = os.fspath(path)
    self._open = lambda: decode.iter_frames(path, fps=frame_rate, short_side=short_side)
    self._threads, self._progress = threads, progress
    self._kept = None if max_frames is None else list(itertools.islice(self._open(), max_frames))
    self.num_frames = decode.count_frames(path, fps=frame_rate) if self._kept is None else len(self._kept)
    self.size = (next(self._open()) if self._kept is None else self._kept[0]).shape[:2]

  def count(self, stream: str) -> int:
    """Returns the number of frames, or of flow fields, of which there is one less.

    Args:
      stream: 'rgb' or 'flow'.
    """
    return self.num_frames - (stream == "flow")

  def read(self, numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns frames and flow fields.

    Args:
      numbers: By stream the numbers of its frames or fields, in any order and as often as wanted.

    Returns:
      'rgb' uint8 `[N, H, W, 3]`, 'flow' float32 `[N, H, W, 2]` in [-1, 1].

    Raises:
      VideoError: If the video cannot be read to its end.
    """
    pairs = np.unique(numbers.get("flow", np.array([], int)))
    wanted = {*numbers.get("rgb", np.array([], int)).tolist(), *pairs.tolist(), *(pairs + 1).tolist()}
    source = enumerate(self._open() if self._kept is None else self._kept)
    frames = {index: frame for index, frame in source if index in wanted}
    found = {}
    if "rgb" in numbers:
      found["rgb"] = np.stack([frames[number] for number in numbers["rgb"].tolist()])
    if "flow" in numbers:
      fields = self._flow(frames, pairs)
      found["flow"] = np.stack([fields[number] for number in numbers["flow"].tolist()])
    return found

  def _flow(self, frames: Mapping[int, np.ndarray], pairs: np.ndarray) -> dict[int, np.ndarray]:
    """The scaled flow from each frame of `pairs` to the next, solved run by run of consecutive frames."""
    fields: dict[int, np.ndarray] = {}
    runs = np.split(pairs, np.flatnonzero(np.diff(pairs) > 1) + 1)
    with tqdm.tqdm(total=len(pairs), desc="optical flow", unit="frame", leave=False, disable=not self._progress) as bar:
      for run in runs:
        together = np.stack([frames[number] for number in range(run[0], run[-1] + 2)])
        solved = tvl1.tvl1_flow(together, threads=self._threads, on_pair=lambda *_: bar.update())
        fields.update(zip(run.tolist(), codec.scale(solved)))
    return fields


def protocol(info: saved.ModelInfo, **given: object) -> clip_config.EvalClips:
  """Returns how a network is tested: its paper's protocol on clips as it was trained on.

  Args:
    info: What the network is.
    **given: Fields of `EvalClips` that take the place of the network's own.

  Raises:
    I3dError: If the fields do not fit together.
  """
  trained = {name: getattr(info.preprocess, name) for name in info.preprocess.__dataclass_fields__}
  return clip_config.EvalClips(**{**trained, **zoo.get(info.model).test, **given, "streams": info.streams})


def read(video: Video, clips: clip_config.EvalClips) -> dict[str, np.ndarray]:
  """Returns all views of a video.

  Args:
    video: The video, whose frames have the views' short side.
    clips: The protocol.

  Returns:
    float32 `[V, T, crop, crop, C]` in [-1, 1] by stream.

  Raises:
    I3dError: If the video is too short for the network's protocol, or backward flow is asked for, which records have.
  """
  if clips.flow_stacking == "bidirectional":
    raise errors.I3dError("flow_stacking is bidirectional, which needs backward flow; evaluate records that hold it")
  least = clips.min_frames if clips.protocol == "release" else clips.flow_stack
  least += "flow" in clips.streams
  if video.num_frames < least:
    raise errors.VideoError(
      f"{video.path}: the video has {video.num_frames} frames at {clips.frame_rate:g} frames per second; "
      f"the network needs at least {least}"
    )
  state: clip_steps.State = {"video": video}
  for step in clip_steps.evaluation(clips):
    state = step.apply(state)
  return {stream: ops.to_input(stream, state[stream]).numpy() for stream in clips.streams}
