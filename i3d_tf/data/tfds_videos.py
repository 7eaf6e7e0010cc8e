"""Video datasets that TensorFlow Datasets has prepared: what they hold, and single examples of them.

A path `tfds:FOLDER#SPLIT/INDEX` says where an example is; it can be read in any process, in any order. FOLDER is the
prepared dataset with its version, so that no builder code is needed. TensorFlow is imported on first use.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import os

import numpy as np

from i3d_tf import errors

PREFIX = "tfds:"


@dataclasses.dataclass(frozen=True)
class Listing:
  """What a prepared dataset holds.

  Attributes:
    classes: in index order; empty if the examples have no labels.
    splits: split -> for each example, in the order of the files, its path and label (None: unlabelled).
  """

  classes: tuple[str, ...]
  splits: Mapping[str, tuple[tuple[str, str | None], ...]]


def list_examples(name: str, data_dir: str | os.PathLike) -> Listing:
  """Returns the classes and the examples of a prepared data set.

  The labels are read from all records, so that the files are read once; no frame is decoded.

  Args:
    name: NAME[/CONFIG][:VERSION].
    data_dir: the folder of TFDS.

  Raises:
    I3dError: if it is not prepared there, does not hold videos, or a record is damaged.
  """
  from tensorflow_datasets.core import read_only_builder  # tfds.builder asks the network for what is not there

  try:
    builder = read_only_builder.builder_from_files(name, data_dir=os.fspath(data_dir))
  except ValueError as error:  # also DatasetNotFoundError
    raise errors.I3dError(
      f"{data_dir} holds no prepared TFDS dataset {name}; prepare it with: TFDS_DATA_DIR={data_dir} tfds build {name}"
    ) from error
  folder = os.fspath(builder.data_path)
  _video_feature(folder)
  label = _label_feature(folder)
  classes = () if label is None else tuple(builder.info.features[label].names)
  splits = {}
  for split, info in builder.info.splits.items():
    labels = [None] * info.num_examples if label is None else _labels(folder, split, label)
    splits[split] = tuple(
      (f"{PREFIX}{folder}#{split}/{i}", None if index is None or index < 0 else classes[index])
      for i, index in enumerate(labels)
    )
  return Listing(classes, splits)


def read_example(path: str) -> np.ndarray | bytes:
  """Returns an example's frames, uint8 RGB `[T, H, W, 3]`, or the bytes of a video file.

  Args:
    path: as `list_examples` gives it.

  Raises:
    VideoError: if there is no such example, it has no frames, or its record is damaged.
  """
  folder, _, place = path.removeprefix(PREFIX).rpartition("#")
  split, _, index = place.rpartition("/")
  splits = _builder(folder).info.splits
  if split not in splits or int(index) >= splits[split].num_examples:
    raise errors.VideoError(f"{path}: there is no such example; was the dataset prepared anew?")
  (video,) = _read(folder, f"{split}[{index}:{int(index) + 1}]", _video_feature(folder))
  if isinstance(video, bytes):
    return video
  if not len(video):
    raise errors.VideoError(f"{path}: the example has no frames")
  return np.repeat(video, 3, axis=-1) if video.shape[-1] == 1 else video


@functools.lru_cache(maxsize=4)
def _builder(folder: str):
  import tensorflow_datasets as tfds

  return tfds.builder_from_directory(folder)


def _read(folder: str, split: str, feature: str) -> Iterator[np.ndarray | bytes]:
  """Yields one feature of each example in the order of the files; the others are not decoded."""
  import tensorflow as tf
  import tensorflow_datasets as tfds

  examples = _builder(folder).as_dataset(
    split=split,
    decoders=tfds.decode.PartialDecoding({feature: True}),
    read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
  )
  try:
    for example in tfds.as_numpy(examples):
      yield example[feature]
  except tf.errors.OpError as error:
    reason = error.message.splitlines()[0]
    raise errors.VideoError(f"{PREFIX}{folder}#{split}: TFDS cannot read {feature!r}: {reason}") from None


def _labels(folder: str, split: str, feature: str) -> list[int]:
  return [int(index) for index in _read(folder, split, feature)]


def _features(folder: str) -> dict:
  return dict(sorted(_builder(folder).info.features.items()))


def _video_feature(folder: str) -> str:
  """The name of the feature with the frames, or else of a file's bytes, which must be called 'video'."""
  import tensorflow_datasets as tfds

  features = _features(folder)
  names = [name for name, feature in features.items() if isinstance(feature, tfds.features.Video)]
  encoded = features.get("video")
  if not names and isinstance(encoded, tfds.features.Tensor) and encoded.shape == () and encoded.np_dtype == np.object_:
    return "video"
  if len(names) != 1:
    raise errors.I3dError(f"{folder}: the TFDS dataset has {len(names)} video features, not one: {', '.join(features)}")
  video = features[names[0]]
  kind = np.dtype(video.np_dtype).name
  if kind != "uint8" or video.shape[-1] not in (1, 3):
    raise errors.I3dError(f"{folder}: the frames are {kind} {video.shape}; they must be uint8, gray or RGB")
  return names[0]


def _label_feature(folder: str) -> str | None:
  """The name of the class label, 'label' if there are several; None if there is none."""
  import tensorflow_datasets as tfds

  names = [name for name, feature in _features(folder).items() if isinstance(feature, tfds.features.ClassLabel)]
  if len(names) > 1 and "label" not in names:
    raise errors.I3dError(f"{folder}: the TFDS dataset has several class labels: {', '.join(names)}")
  return "label" if "label" in names else next(iter(names), None)
