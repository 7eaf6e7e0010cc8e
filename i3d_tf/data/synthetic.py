"""A data set of made action clips, see `drawing`, as video files in folders of splits and classes."""

from collections.abc import Mapping
import errno
import hashlib
import os
import pathlib
import tempfile
import types

import cv2
import numpy as np
import tqdm

from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import drawing
from i3d_tf.video import decode

CLIPS_PER_CLASS = types.MappingProxyType({"train": 20, "test": 5})
SUFFIX = ".avi"
SETTINGS_FILE = "synthetic.json"  # what a folder of clips was made with

_JPEG_QUALITY = 95


def write_dataset(
  folder: str | os.PathLike,
  *,
  differ_in: str = drawing.MOTION,
  clips_per_class: Mapping[str, int] = CLIPS_PER_CLASS,
  seed: int = 0,
  num_frames: int = drawing.NUM_FRAMES,
  size: tuple[int, int] = drawing.SIZE,
  fps: int = drawing.FPS,
  progress: bool = False,
) -> list[pathlib.Path]:
  """Writes clips as `folder/<split>/<class>/<split>_<class>_<number>.avi` (Motion JPEG).

  A clip depends on the seed, its split, class and number only. Sound clips that are already there are kept, so that a
  second call finishes what an interrupted one began.

  Args:
    folder: made if it is not there.
    differ_in: whose classes, of `drawing.CLASSES`.
    clips_per_class: how many clips each class has in each split, of `clips.SPLITS`.
    seed: another one gives another data set.
    num_frames: frames of each clip.
    size: height and width in pixels.
    fps: frames per second.
    progress: whether to show a progress bar on stderr if that is a terminal.

  Returns:
    The paths of all clips.

  Raises:
    I3dError: if an argument is out of bounds, or the folder holds clips that were made with others, or other videos.
    OSError: if a file cannot be written.
  """
  drawing.check(num_frames=num_frames, size=size, fps=fps, seed=seed)
  _check_counts(clips_per_class)
  if differ_in not in drawing.CLASSES:
    raise errors.I3dError(f"differ_in is {differ_in!r}; allowed are {', '.join(drawing.CLASSES)}")
  output = workdir.Workdir(folder, SETTINGS_FILE, section=None, foreign=clips_lib.SPLITS)
  clips = [
    (split, label, number)
    for split in clips_lib.SPLITS
    for label in drawing.CLASSES[differ_in]
    for number in range(clips_per_class.get(split, 0))
  ]
  paths = [clip_path(folder, *clip) for clip in clips]
  with output.claim(_settings(differ_in, clips_per_class, seed, num_frames, size, fps)):
    for clip, path in zip(tqdm.tqdm(clips, unit="clip", disable=None if progress else True), paths):
      if not _is_sound(path, num_frames, size, fps):
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = drawing.render_clip(clip[1], seed=clip_seed(seed, *clip), num_frames=num_frames, size=size, fps=fps)
        with output.replacing(path) as file:
          file.write(_encode(frames, fps))
  return paths


def clip_path(folder: str | os.PathLike, split: str, label: str, number: int) -> pathlib.Path:
  """Returns where `write_dataset` writes a clip; the file's name alone is unique in the data set.

  Args:
    folder: of the data set.
    split: of `clips.SPLITS`.
    label: the clip's class.
    number: of the clip in its split and class, from 0.
  """
  return pathlib.Path(folder, split, label, f"{split}_{label}_{number:04d}{SUFFIX}")


def clip_seed(seed: int, split: str, label: str, number: int) -> int:
  """Returns the seed with which `drawing.render_clip` makes a clip of a data set.

  Args:
    seed: of the data set.
    split: of the clip.
    label: its class.
    number: of the clip in its split and class, from 0.
  """
  return int.from_bytes(hashlib.sha256(f"{seed} {split} {label} {number}".encode()).digest()[:8], "big")


def _check_counts(clips_per_class: Mapping[str, int]) -> None:
  if unknown := sorted(set(clips_per_class) - set(clips_lib.SPLITS)):
    raise errors.I3dError(f"clips_per_class has the split {unknown[0]!r}; the splits are {', '.join(clips_lib.SPLITS)}")
  counts = dict(clips_per_class)
  if not any(counts.values()) or min(counts.values()) < 0:
    raise errors.I3dError(f"clips_per_class is {counts}; counts must be at least 0, and one of them more")


def _settings(
  differ_in: str, clips_per_class: Mapping[str, int], seed: int, num_frames: int, size: tuple[int, int], fps: int
) -> dict[str, int | str]:
  counts = {f"{split}_clips": clips_per_class.get(split, 0) for split in clips_lib.SPLITS}
  return {
    **counts,
    "differ_in": differ_in,
    "seed": seed,
    "num_frames": num_frames,
    "height": size[0],
    "width": size[1],
    "fps": fps,
    "drawing_version": drawing.VERSION,
  }


def _is_sound(path: pathlib.Path, num_frames: int, size: tuple[int, int], fps: int) -> bool:
  """Whether there is a video of this length and size that decodes to its end."""
  try:
    return path.exists() and decode.read_video(path, fps=fps, short_side=None).shape == (num_frames, *size, 3)
  except errors.VideoError:
    return False


def _encode(frames: np.ndarray, fps: int) -> bytes:
  """Motion JPEG: each frame stands for itself, so that compression knows nothing of motion either.

  OpenCV encodes it itself, on any number of threads to the same bytes, and sharper than FFmpeg does its MPEG-4.
  """
  with tempfile.TemporaryDirectory() as scratch:
    draft = pathlib.Path(scratch, f"clip{SUFFIX}")
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(
      os.fspath(draft), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height)
    )
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, _JPEG_QUALITY)
    for frame in frames:
      writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    if not _is_sound(draft, len(frames), (height, width), fps):  # OpenCV does not say so
      raise OSError(errno.EIO, "OpenCV could not write the clip; is there space left?", scratch)
    return draft.read_bytes()
