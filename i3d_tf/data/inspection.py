"""What TFRecord files hold: the places of their records, and a record in words.

Records, frames and flow images are counted from 0, as `tf.data.TFRecordDataset(path).skip(number)` does.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import itertools
import os
import pathlib
import re
import struct

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.data import records
from i3d_tf.data import shards

SHARD = re.compile(r"(?P<split>.+)-(?P<index>\d{5,})-of-(?P<count>\d{5,})")  # ours, MediaSequence's and DMVR's
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}


@dataclasses.dataclass(frozen=True)
class Entry:
  """The place of one record in its file: `length` bytes at `offset`; `damage` says why they cannot be had."""

  path: pathlib.Path
  number: int
  offset: int
  length: int
  damage: str = ""

  def __str__(self):
    return f"{self.path}, record {self.number}"

  def read(self) -> bytes:
    """The serialized record; I3dError if it is damaged."""
    if self.damage:
      raise errors.I3dError(f"{self}: {self.damage}")
    with open(self.path, "rb") as file:
      file.seek(self.offset)
      content, checksum = file.read(self.length), file.read(4)
    if shards.checksum(content) != checksum:
      raise errors.I3dError(f"{self}: its checksum is wrong, it was damaged after it was written")
    return content

  def load(self) -> records.Record:
    """The record; I3dError if it is damaged or none of ours, MediaSequence's or DMVR's."""
    content = self.read()
    try:
      return records.deserialize(content)
    except errors.I3dError as error:
      raise errors.I3dError(f"{self}: {error}") from None


def find_files(path: str | os.PathLike) -> list[pathlib.Path]:
  """The TFRecord files of a folder, sorted, by their names NAME.tfrecord or NAME-00000-of-00010; or the file itself.

  Raises:
    I3dError: if there is none.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise errors.I3dError(f"{path}: there is no such file or folder")
  if not path.is_dir():
    return [path]
  found = [file for file in path.iterdir() if file.suffix == ".tfrecord" or SHARD.fullmatch(file.name)]
  if not found:
    raise errors.I3dError(f"{path}: the folder holds no TFRecords (NAME.tfrecord or NAME-00000-of-00010)")
  return sorted(found)


def split_of(file: pathlib.Path) -> str:
  """The split in the name of a file of records: what stands before -00000-of-00010, or all of it."""
  name = file.name.removesuffix(".tfrecord")
  match = SHARD.fullmatch(name)
  return match["split"] if match else name


def scan(path: pathlib.Path) -> Iterator[Entry]:
  """Yields the places of a file's records by their headers alone; the last one may be damaged.

  TensorFlow's own reader stops at the first damaged record, and takes a cut within a header for the file's end.
  """
  size = path.stat().st_size
  with open(path, "rb") as file:
    offset = 0
    for number in itertools.count():
      if offset == size:
        return
      file.seek(offset)
      header = file.read(12)
      damage = ""
      if len(header) == 12 and shards.checksum(header[:8]) != header[8:]:
        damage = "its length is damaged, and so it and what follows cannot be read; or this is no TFRecord file"
      elif len(header) < 12 or offset + 16 + struct.unpack("<Q", header[:8])[0] > size:
        damage = "the file ends within it"
      if damage:
        yield Entry(path, number, offset, size - offset, damage)
        return
      length = struct.unpack("<Q", header[:8])[0]
      yield Entry(path, number, offset + 12, length)
      offset += 16 + length


def choose(path: str | os.PathLike, numbers: Sequence[int] = (), ids: Sequence[str] = ()) -> list[Entry]:
  """The records of these numbers, counted through all files in order, then those of these ids.

  Raises:
    I3dError: if there is no such record.
  """
  entries = [entry for file in find_files(path) for entry in scan(file)]
  if excess := [number for number in numbers if not 0 <= number < len(entries)]:
    raise errors.I3dError(f"{path}: there is no record {excess[0]}; there are {len(entries)}, counted from 0")
  by_id = {}
  for entry in entries if ids else ():
    with contextlib.suppress(errors.I3dError):  # verification is for naming these
      by_id.setdefault(entry.load().id, entry)
  if unknown := [name for name in ids if name not in by_id]:
    raise errors.I3dError(f"{path}: none of the {len(by_id)} ids that can be read is {unknown[0]!r}")
  return [entries[number] for number in numbers] + [by_id[name] for name in ids]


def spread(path: str | os.PathLike, count: int) -> list[Entry]:
  """At most `count` records that stand at equal distances in the files; I3dError if there is none."""
  entries = [entry for file in find_files(path) for entry in scan(file) if not entry.damage]
  if not entries:
    raise errors.I3dError(f"{path}: there is no record")
  places = np.linspace(0, len(entries) - 1, min(count, len(entries)))
  return [entries[round(place)] for place in places]


def describe(entry: Entry) -> list[str]:
  """A record in words, a line for each key, known or not: its values, or for many how many and what they are.

  Raises:
    I3dError: if it is damaged or no SequenceExample.
  """
  content = entry.read()
  try:
    example = records.to_example(content)
  except errors.I3dError as error:
    raise errors.I3dError(f"{entry}: {error}") from None
  rows = {key: _words(key, list(_list(feature))) for key, feature in example.context.feature.items()}
  for key, steps in example.feature_lists.feature_list.items():
    rows[key] = _words_of_many(key, [value for feature in steps.feature for value in _list(feature)])
  known = [key for field in records.SCHEMA for key in field.keys if key in rows]
  width = max(map(len, rows), default=0)
  return [f"{key:{width}}  {rows[key]}" for key in [*known, *sorted(rows.keys() - known)]]


def decode_image(image: bytes) -> np.ndarray:
  """An encoded image as RGB uint8 `[H, W, 3]`; I3dError unless it is whole."""
  try:  # OpenCV fills up truncated images in some versions, and prints to stderr
    return tf.io.decode_image(image, channels=3, expand_animations=False).numpy()
  except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
    raise errors.I3dError("an image cannot be decoded") from None


def image_size(image: bytes) -> tuple[int, int] | None:
  """(height, width), None if the image cannot be decoded whole."""
  try:
    return decode_image(image).shape[:2]
  except errors.I3dError:
    return None


def image_format(image: bytes) -> str:
  """'JPEG', 'PNG', or '' for any other."""
  return next((name for magic, name in _MAGIC.items() if image.startswith(magic)), "")


def _list(feature: tf.train.Feature) -> Sequence[bytes | int | float]:
  kind = feature.WhichOneof("kind")
  return getattr(feature, kind).value if kind else ()


def _words(key: str, values: Sequence[bytes | int | float]) -> str:
  return ", ".join(_word(key, value) for value in values) or "no value"


def _word(key: str, value: bytes | int | float) -> str:
  if isinstance(value, float):
    return f"{value:g}"
  if isinstance(value, int):
    return f"{value} ({value / 1e6:g} s)" if key.endswith("timestamp") else str(value)
  text = value.decode(errors="backslashreplace")
  return text if text.isprintable() and len(text) <= 200 else f"{len(value):,} bytes"


def _words_of_many(key: str, values: Sequence[bytes | int | float]) -> str:
  """The number of values, and the first and last of them; of images their sum of bytes, format and size."""
  if values and isinstance(values[0], bytes):
    total = f"{sum(map(len, values)):,} bytes"
    size, kind = image_size(values[0]), image_format(values[0])
    if size is None or not kind:
      return f"{len(values)} values, {total}"
    return f"{len(values)} {kind} images, {total}, the first of {size[1]}x{size[0]} pixels"
  shown = [*values[:3], *values[-1:]] if len(values) > 4 else values
  words = [_word(key, value) for value in shown]
  return f"{len(values)} values: " + ", ".join([*words[:3], "...", *words[3:]] if len(values) > 4 else words)
