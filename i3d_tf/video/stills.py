"""Videos that are no video files: folders of numbered images, of RGB or of optical flow, and arrays of frames.

The images of a video are numbered without gaps and named alike (img_00001.jpg, frame000001.png). Images of flow are
gray, one of x and one of y for each pair of frames: flow_x_00001.jpg and flow_y_00001.jpg, x_ and y_, or equal names in
the folders u/ and v/ (flow_x/ and flow_y/, x/ and y/), which are in the video's folder or above it.
"""

from collections.abc import Collection
import dataclasses
import io
import os
import pathlib
import re

import numpy as np
from PIL import Image

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import stores
from i3d_tf.video import containers

ARRAY_SUFFIX = ".npy"
_IMAGE = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)(?P<suffix>\.(?:jpe?g|png))", re.IGNORECASE)
_AXES = {"u": "v", "x": "y", "flow_x": "flow_y"}  # names of what has x, and of what has y
_AXIS_PREFIX = re.compile(r"(?:flow_?)?([xyuv])[_-]?", re.IGNORECASE)
_EXIF_ORIENTATION = 274
# By the value of the Exif tag: whether to transpose, then to flip horizontally, then vertically.
_TURNS = {
    2: (False, True, False), 3: (False, True, True), 4: (False, False, True), 5: (True, False, False),
    6: (True, True, False), 7: (True, True, True), 8: (True, False, True),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stills:
  """A folder of images, or an array, as a video.

  Attributes:
    path: The folder, or the file of the array.
    frames: Paths of the RGB frames in order; of an array, what is in it.
    x, y: Paths of the images of flow in order, as many of each; empty if there is no flow.
  """

  path: pathlib.Path
  frames: tuple[pathlib.Path, ...] | np.ndarray = ()
  x: tuple[pathlib.Path, ...] = ()
  y: tuple[pathlib.Path, ...] = ()

  @property
  def num_frames(self) -> int:
    """Frames of the video, counted by its flow if it has nothing else."""
    return len(self.frames) or len(self.x) + 1

  def frame(self, index: int, *, by_pillow: bool = False) -> np.ndarray:
    """Returns a frame, RGB uint8 `[H, W, 3]`.

    Args:
      index: Its number, from 0 on.
      by_pillow: See `read_image`.

    Raises:
      VideoError: If the image cannot be decoded.
    """
    if isinstance(self.frames, np.ndarray):
      return np.ascontiguousarray(self.frames[index])
    return _same_size(read_image(self.frames[index], by_pillow=by_pillow), self.frames, index)

  def flow(self, index: int) -> np.ndarray:
    """Returns an encoded flow field, uint8 `[H, W, 2]`.

    Args:
      index: Number of the frame from which it leads to the next.

    Raises:
      VideoError: If an image cannot be decoded.
    """
    x, y = (_same_size(read_image(paths[index], 1), self.x, index) for paths in (self.x, self.y))
    return np.concatenate([x, y], axis=-1)


def is_stills(path: str | os.PathLike) -> bool:
  """Returns whether a path is a folder, or ends as an array does.

  Args:
    path: The path.
  """
  return os.path.isdir(path) or os.fspath(path).lower().endswith(ARRAY_SUFFIX)


def without_suffix(path: str | os.PathLike) -> pathlib.Path:
  """Returns a video's path without the ending of a file's name; that of a folder has none.

  Args:
    path: The video.
  """
  path = stores.as_path(path)
  return path.with_suffix("") if stores.is_remote(path) or not path.is_dir() else path


def is_array(path: str | os.PathLike) -> bool:
  """Returns whether a file holds an array of frames, uint8 `[T, H, W, 3]`.

  Args:
    path: The file.
  """
  try:
    return _problem(files.map_array(path)) is None
  except (errors.I3dError, OSError):
    return False


def is_folder(names: Collection[str]) -> bool:
  """Returns whether the files of a folder may be a video: several of them are numbered images.

  Args:
    names: Names of its files.
  """
  return sum(map(is_image, names)) > 1


def is_image(name: str) -> bool:
  """Returns whether a file is named as a numbered image.

  Args:
    name: Name of the file.
  """
  return _IMAGE.fullmatch(name) is not None and not name.startswith(".")


def axes(folder: str | os.PathLike, subfolders: Collection[str]) -> tuple[str, str] | None:
  """Returns the names of a folder's two folders of flow, if it has both and they hold images.

  Args:
    folder: The folder.
    subfolders: Names of the folders in it.
  """
  for x, y in _AXES.items():
    if {x, y} <= set(subfolders) and all(is_folder(os.listdir(os.path.join(folder, name))) for name in (x, y)):
      return x, y
  return None


def is_second_axis(folder: pathlib.Path) -> bool:
  """Returns whether a folder has the y of the flow of which another one has the x.

  Args:
    folder: The folder.
  """
  return any(_twin(folder, y, x).is_dir() for x, y in _AXES.items() if y in folder.parts[-2:])


def open_stills(path: str | os.PathLike) -> Stills:
  """Returns a folder or an array as a video.

  Args:
    path: The folder, or the .npy file.

  Raises:
    VideoError: If it is none: images are missing, or are named in several ways; or the array is not one of frames.
    OSError: If it cannot be read.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    try:
      array = files.map_array(path)
    except errors.I3dError as error:
      raise errors.VideoError(errors.naming(str(path), str(error))) from None
    if problem := _problem(array):
      raise errors.VideoError(f"{path}: {problem}; a video is uint8 [frames, height, width, 3]")
    return Stills(path, array)
  of_frames, of_axes = _sorted_out(path)
  for x, y in _AXES.items():
    if (path / x).is_dir() and is_folder(os.listdir(path / x)):
      of_axes |= {"x": _only(path / x), "y": _only(path / y) if (path / y).is_dir() else ()}
    elif x in path.parts[-2:] and (len(x) > 1 or _twin(path, x, y).is_dir()):
      of_frames, of_axes = (), {"x": _only(path), "y": _only(_twin(path, x, y)) if _twin(path, x, y).is_dir() else ()}
  return _checked(Stills(path, of_frames, of_axes.get("x", ()), of_axes.get("y", ())))


def open_with_flow(path: str | os.PathLike, frame_rate: float, fps: float) -> Stills | None:
  """Returns a folder of images that has flow; None for any other video.

  Args:
    path: The video.
    frame_rate: Frames per second of the images.
    fps: Frames per second that are wanted, which must be the same, since flow cannot be resampled.

  Raises:
    VideoError: If it is a folder that is no video, or the rates differ.
  """
  found = open_stills(path) if is_stills(path) else None
  if found is None or not found.x:
    return None
  if abs(fps - frame_rate) > 1e-3 * frame_rate:
    raise errors.VideoError(
      f"{path}: the flow is of {frame_rate:g} frames per second, not {fps:g}, and cannot be resampled"
    )
  return found


def read_image(path: pathlib.Path, channels: int = 3, *, by_pillow: bool = False) -> np.ndarray:
  """Returns an image, upright, as images of records are decoded: uint8 `[H, W, channels]`.

  Args:
    path: The file, JPEG or PNG.
    channels: 3 for RGB, 1 for gray.
    by_pillow: Decode RGB as Pillow does, which is slower and more exact: JPEGs differ by up to 13 of 255.

  Raises:
    VideoError: If it cannot be decoded whole, or is too large.
  """
  import tensorflow as tf

  content = path.read_bytes()
  try:
    width, height, turn = _head(content)
    containers.check_size(path, width, height)
    if by_pillow:
      with Image.open(io.BytesIO(content)) as opened:
        image = np.asarray(opened.convert("RGB"))
    else:
      image = tf.io.decode_image(content, channels=channels, expand_animations=False).numpy()
  except (OSError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
    raise errors.VideoError(f"{path}: the image cannot be decoded; it is damaged, or neither JPEG nor PNG") from None
  return containers.turn(image, turn)


def _head(content: bytes) -> tuple[int, int, tuple[bool, bool, bool]]:
  """Width and height that an image's header states, and how it is to be turned; the rest is not read."""
  with Image.open(io.BytesIO(content)) as head:
    return *head.size, _TURNS.get(head.getexif().get(_EXIF_ORIENTATION, 1), (False, False, False))


def _sorted_out(path: pathlib.Path) -> tuple[tuple[pathlib.Path, ...], dict[str, tuple[pathlib.Path, ...]]]:
  """The images in a folder: those of RGB, and those of flow by axis."""
  patterns: dict[tuple[str, str], list[pathlib.Path]] = {}
  for name in sorted(os.listdir(path)):
    match = _IMAGE.fullmatch(name)
    if match and is_image(name):
      patterns.setdefault((match["prefix"], match["suffix"]), []).append(path / name)
  kinds: dict[str, list[tuple[pathlib.Path, ...]]] = {}
  for (prefix, _), paths in patterns.items():
    axis = _AXIS_PREFIX.fullmatch(prefix)
    kind = {"u": "x", "v": "y"}.get(axis[1].lower(), axis[1].lower()) if axis else "rgb"
    kinds.setdefault(kind, []).append(_in_order(paths))
  for several in kinds.values():
    if len(several) > 1:
      names = " and ".join(paths[0].name for paths in several[:2])
      raise errors.VideoError(f"{path}: the images are named in two ways, as {names}; keep those of one video")
  found = {kind: paths[0] for kind, paths in kinds.items()}
  return found.pop("rgb", ()), found


def _only(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """The images in a folder of one axis, however they are named."""
  of_frames, of_axes = _sorted_out(path)
  several = [paths for paths in (of_frames, *of_axes.values()) if paths]
  if len(several) > 1:
    names = " and ".join(paths[0].name for paths in several[:2])
    raise errors.VideoError(f"{path}: the images are named in two ways, as {names}; keep those of one axis")
  return several[0] if several else ()


def _in_order(paths: list[pathlib.Path]) -> tuple[pathlib.Path, ...]:
  by_number: dict[int, pathlib.Path] = {}
  for path in paths:
    other = by_number.setdefault(_number(path), path)
    if other is not path:
      raise errors.VideoError(f"{path.parent}: {other.name} and {path.name} have the same number; keep one of them")
  numbers = sorted(by_number)
  for number, following in zip(numbers, numbers[1:]):
    if following != number + 1:
      between = f"between {by_number[number].name} and {by_number[following].name}"
      raise errors.VideoError(
        f"{by_number[number].parent}: {following - number - 1} of the numbered images are missing, {between}"
      )
  return tuple(by_number[number] for number in numbers)


def _checked(found: Stills) -> Stills:
  path, num_frames, num_x, num_y = found.path, len(found.frames), len(found.x), len(found.y)
  if bool(num_x) != bool(num_y):
    has, lacks = ("x", "y") if num_x else ("y", "x")
    raise errors.VideoError(f"{path}: there are images of the flow's {has}, but none of its {lacks}")
  numbers = [{_number(each) for each in paths} for paths in (found.x, found.y)]
  if alone := numbers[0] ^ numbers[1]:
    has = "x" if min(alone) in numbers[0] else "y"
    raise errors.VideoError(
      f"{path}: the flow has {num_x} images of x and {num_y} of y; number {min(alone)} has {has} only"
    )
  if not num_frames and not num_x:
    raise errors.VideoError(f"{path}: the folder holds no numbered images (such as img_00001.jpg), and so no video")
  if num_frames == 1 and not num_x:
    raise errors.VideoError(f"{path}: the folder holds a single image, which is no video")
  if num_x and num_frames and num_x not in (num_frames, num_frames - 1):
    raise errors.VideoError(f"{path}: there are {num_frames} frames and {num_x} images of each axis of their flow")
  if num_x and num_x == num_frames:  # the last one repeats the one before, or leads nowhere
    return dataclasses.replace(found, x=found.x[:-1], y=found.y[:-1])
  return found


def _problem(array: np.ndarray) -> str | None:
  if array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8 and array.size:
    return None
  return f"the array is {array.dtype} {list(array.shape)}"


def _twin(path: pathlib.Path, name: str, other: str) -> pathlib.Path:
  """The path with `other` in place of the last part that is `name`, of the last two."""
  parts = list(path.parts)
  for index in (-1, -2):
    if len(parts) >= -index and parts[index] == name:
      parts[index] = other
      return pathlib.Path(*parts)
  return path / other


def _number(path: pathlib.Path) -> int:
  match = _IMAGE.fullmatch(path.name)
  assert match is not None
  return int(match["number"])


def _same_size(image: np.ndarray, paths: tuple[pathlib.Path, ...], index: int) -> np.ndarray:
  """The image, if the header of the first one states its size."""
  width, height, (is_transposed, *_) = _head(paths[0].read_bytes())
  if is_transposed:
    width, height = height, width
  if (height, width) != image.shape[:2]:
    raise errors.VideoError(
      f"{paths[index]}: the image has {image.shape[1]}x{image.shape[0]} pixels, those before it {width}x{height}"
    )
  return image
