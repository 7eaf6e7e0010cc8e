"""Looking into TFRecords of clips: all of them verified, alone or as a folder that prepare_dataset made; one in words.

Records, frames and flow images are counted from 0, as `tf.data.TFRecordDataset(path).skip(number)` does.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import itertools
import os
import pathlib

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.video import containers

_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}
_NAMED = 5  # images that one problem names


@dataclasses.dataclass
class Totals:
  """What a split holds. `records` counts those that cannot be read as well, the rest does not. `flows` go both ways."""

  files: int = 0
  records: int = 0
  frames: int = 0
  flows: int = 0
  seconds: float = 0.0
  bytes: int = 0


@dataclasses.dataclass(frozen=True)
class _Info:
  """dataset.json; `splits` and what else is written last is empty before the folder is complete."""

  streams: frozenset[str]
  complete: bool
  name: str = ""
  classes: tuple[str, ...] = ()
  splits: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


class Verifier:
  """Looks through all records of a folder or a file.

  Attributes:
    num_bytes: of all files.
    splits: what was found, by the split in the files' names; grows while `problems` is iterated.
  """

  def __init__(self, path: str | os.PathLike, *, decode: bool = True, num_threads: int = 1):
    """Finds the files.

    Args:
      path: a folder of TFRecords, or one file.
      decode: whether to decode every image.
      num_threads: that decode.

    Raises:
      I3dError: if there are no files.
    """
    self._path = pathlib.Path(path)
    self._folder = shards.Folder(self._path if self._path.is_dir() else self._path.parent, ())
    self._files = record_index.find_files(path)
    self._decode = decode
    self._num_threads = num_threads
    self._info: _Info | None = None
    self._found: dict[str, int] = {}  # records by file
    self._places: dict[str, record_index.Entry] = {}  # by id
    self.num_bytes = sum(file.stat().st_size for file in self._files)
    self.splits: dict[str, Totals] = {}

  def problems(self, progress: Callable[[int], object] = lambda num_bytes: None) -> Iterator[str]:
    """Yields each problem in a line with file, record and id.

    Args:
      progress: is called with the number of bytes of every record.

    Yields:
      The problems, in the order of the files.
    """
    try:
      self._info = _read_info(self._folder)
    except errors.I3dError as error:
      yield str(error)
    with futures.ThreadPoolExecutor(self._num_threads) as pool:
      for file in self._files:
        split = record_index.split_of(file)
        totals = self.splits.setdefault(split, Totals())
        totals.files += 1
        totals.bytes += file.stat().st_size
        self._found[file.name] = 0
        for entry in record_index.scan(file):
          yield from self._entry_problems(entry, totals, pool)
          progress(entry.length + (0 if entry.damage else 16))
    if self._info is not None and self._path.is_dir():
      yield from self._folder_problems(self._info)

  def _entry_problems(self, entry: record_index.Entry, totals: Totals, pool: futures.Executor) -> Iterator[str]:
    if not entry.damage:
      totals.records += 1
      self._found[entry.path.name] += 1
    try:
      record = entry.load()
    except errors.I3dError as error:
      yield str(error)
      return
    totals.frames += len(record.frames)
    totals.flows += len(record.flow_frames) + len(record.backward_flow_frames)
    totals.seconds += _seconds(record)
    first = self._places.setdefault(record.id, entry) if record.id else entry
    name = record.id if record.id.isprintable() else ascii(record.id)
    if first is not entry:
      yield f"{entry} ({name}): {first} has the same id"
    checks = [records.problems(record), _time_problems(record)]
    if self._info is not None:
      checks.append(_info_problems(record, self._info))
    if self._decode:
      checks.append(_image_problems(record, pool))
    for problem in itertools.chain.from_iterable(checks):
      yield f"{entry} ({name or 'without id'}): {problem}"

  def _folder_problems(self, info: _Info) -> Iterator[str]:
    path = self._folder.path / shards.INFO
    if not info.complete:
      yield f"{path}: the data set is not complete; start prepare_dataset again with the same flags"
      return
    listed = set()
    for split, counts in info.splits.items():
      if counts["listed"] != counts["written"] + counts["failed"]:
        sums = f"{counts['listed']} listed, but {counts['written']} written and {counts['failed']} failed"
        yield f"{path}: {split} has {sums}"
      names = [f"{split}-{index:05}-of-{counts['shards']:05}" for index in range(counts["shards"])]
      listed |= {f"{name}.tfrecord" for name in names}
      yield from self._count_problems(split, names, counts["written"])
      for name, what in ((shards.FAILURES, "failed"), (shards.MISSING, "missing")):
        rows = _rows(self._folder.path / name, split)
        if rows != counts[what]:
          yield f"{self._folder.path / name}: {split} has {rows} lines, {shards.INFO} says {counts[what]} {what}"
    for name in sorted(self._found.keys() - listed):
      yield f"{self._folder.path / name}: {shards.INFO} knows no such file"

  def _count_problems(self, split: str, names: list[str], written: int) -> Iterator[str]:
    """Compares the records found with those written, by file if the folder still knows that, else by split."""
    is_even = True
    for name in names:
      found = self._found.get(f"{name}.tfrecord")
      expected = self._written(name)
      if found is None or expected not in (None, found):
        is_even = False
        place = self._folder.path / f"{name}.tfrecord"
        yield f"{place}: the file is missing" if found is None else f"{place}: {found} records of {expected} are there"
    total = self.splits[split].records if split in self.splits else 0
    if is_even and total != written:
      yield f"{self._folder.path}: {split} has {total} records, {shards.INFO} says {written}"

  def _written(self, name: str) -> int | None:
    """How many records a shard was given; None if the folder's hidden notes were not copied with it."""
    try:
      return self._folder.summary(name)["records"]
    except (OSError, ValueError, LookupError, TypeError):
      return None


def _time_problems(record: records.Record) -> Iterator[str]:
  """DMVR's records have no times, which is no problem."""
  for what, images, times in (
    ("frames", record.frames, record.timestamps),
    ("flow images", record.flow_frames, record.flow_timestamps),
    ("backward flow images", record.backward_flow_frames, record.backward_flow_timestamps),
  ):
    if times and len(times) != len(images):
      yield f"{len(images)} {what} have {len(times)} timestamps"
    for index, (time, following) in enumerate(itertools.pairwise(times)):
      if following <= time:
        yield f"the time of {what} does not increase: {following} microseconds at {index + 1} follow {time}"
        break
  # Each flow has the time of the first of its two frames, whichever way it goes.
  for what, times in (("flow image", record.flow_timestamps), ("backward flow image", record.backward_flow_timestamps)):
    pairs = zip(record.timestamps, times)
    if shifted := [index for index, (time, other) in enumerate(pairs) if time != other]:
      yield f"{_named(what, shifted)}: not at the time of the frame of that number"


def _info_problems(record: records.Record, info: _Info) -> Iterator[str]:
  for stream, attribute in records.IMAGES.items():
    is_there = bool(getattr(record, attribute))
    if is_there != (stream in info.streams):
      yield f"it has {'' if is_there else 'no '}{stream}, against {shards.INFO}"
  if info.name and record.dataset != info.name:
    yield f"its data set is {record.dataset!r}, not {info.name!r} as in {shards.INFO}"
  if len(record.labels) != len(record.label_indices):
    yield f"{len(record.labels)} labels have {len(record.label_indices)} indices"
  for label, index in zip(record.labels, record.label_indices) if info.classes else ():
    if not 0 <= index < len(info.classes):
      yield f"the label index {index} is not below the {len(info.classes)} classes of {shards.INFO}"
    elif info.classes[index] != label:
      yield f"the label is {label!r}, but class {index} of {shards.INFO} is {info.classes[index]!r}"


def _image_problems(record: records.Record, pool: futures.Executor) -> Iterator[str]:
  declared = (record.height, record.width)
  for what, images, declared_format in (
    ("frame", record.frames, record.image_format),
    ("flow image", record.flow_frames, record.flow_format),
    ("backward flow image", record.backward_flow_frames, record.flow_format),
  ):
    sizes = list(pool.map(_image_size, images))
    if unreadable := [index for index, size in enumerate(sizes) if size is None]:
      yield f"{_named(what, unreadable)} cannot be decoded"
    known = [size for size in sizes if size is not None]
    expected = declared if all(declared) else known[0] if known else None
    odd = [(index, size) for index, size in enumerate(sizes) if size not in (None, expected)]
    if odd and (size := odd[0][1]) and expected:
      where = _named(what, [index for index, _ in odd])
      yield f"{where}: {size[1]}x{size[0]} pixels, not {expected[1]}x{expected[0]}"
    formats = [image_format(image) for image in images]
    if foreign := [index for index, name in enumerate(formats) if declared_format not in ("", name)]:
      yield f"{_named(what, foreign)}: not in the format {declared_format} that the record declares"


def _named(what: str, indices: list[int]) -> str:
  """'frame 3', 'frames 3, 4', 'frames 0, 1, 2, 3, 4 and 95 more'."""
  rest = len(indices) - _NAMED
  listed = ", ".join(map(str, indices[:_NAMED]))
  return f"{what}{'s' if len(indices) > 1 else ''} {listed}" + (f" and {rest} more" if rest > 0 else "")


def _seconds(record: records.Record) -> float:
  steps = max(len(record.frames), len(record.flow_frames) + bool(record.flow_frames))
  return steps / record.rate if record.rate > 0 else 0.0


def _read_info(folder: shards.Folder) -> _Info | None:
  """dataset.json; None if there is none. I3dError if it is not as `shards.Folder` writes it."""
  if not (folder.path / shards.INFO).exists():
    return None
  folder.read_info()  # explains a damaged file
  try:
    about = folder.describe()
    streams = frozenset(about.streams)
    if not about.complete:
      return _Info(streams, complete=False)
    counts = ("listed", "written", "failed", "missing", "shards")
    splits = {split: {what: about.count(split, what) for what in counts} for split in about.splits}
    return _Info(streams, True, about.name, about.classes, splits)
  except errors.I3dError:
    raise errors.I3dError(f"{folder.path / shards.INFO}: this is not what prepare_dataset writes") from None


def _rows(path: pathlib.Path, split: str) -> int:
  """A table's lines for a split; 0 if there is no table."""
  if not path.exists():
    return 0
  lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[1:]
  return sum(line.startswith(f"{split}\t") for line in lines)


def choose(path: str | os.PathLike, numbers: Sequence[int] = (), ids: Sequence[str] = ()) -> list[record_index.Entry]:
  """Returns the records of some numbers, then those of some ids.

  Args:
    path: a folder of TFRecords, or one file.
    numbers: counted through all files in order, from 0.
    ids: of records.

  Raises:
    I3dError: if there is no such record.
  """
  entries = [entry for file in record_index.find_files(path) for entry in record_index.scan(file)]
  if excess := [number for number in numbers if not 0 <= number < len(entries)]:
    raise errors.I3dError(f"{path}: there is no record {excess[0]}; there are {len(entries)}, counted from 0")
  by_id: dict[str, record_index.Entry] = {}
  for entry in entries if ids else ():
    with contextlib.suppress(errors.I3dError):  # verification is for naming these
      by_id.setdefault(entry.load().id, entry)
  if unknown := [name for name in ids if name not in by_id]:
    raise errors.I3dError(f"{path}: none of the {len(by_id)} ids that can be read is {unknown[0]!r}")
  return [entries[number] for number in numbers] + [by_id[name] for name in ids]


def spread(path: str | os.PathLike, count: int) -> tuple[list[record_index.Entry], int]:
  """Returns the places of records at equal distances in the files, and how many records there are.

  Args:
    path: a folder of TFRecords, or one file.
    count: number of records, at most.

  Raises:
    I3dError: if there is none.
  """
  entries = [entry for file in record_index.find_files(path) for entry in record_index.scan(file) if not entry.damage]
  if not entries:
    raise errors.I3dError(f"{path}: there is no record")
  places = np.linspace(0, len(entries) - 1, min(count, len(entries)))
  return [entries[round(place)] for place in places], len(entries)


def describe(entry: record_index.Entry) -> list[str]:
  """Returns a line of words for each key of a record: its values, or for many how many and what they are.

  Args:
    entry: its place.

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
  """Returns an image, decoded and upright: RGB uint8 `[H, W, 3]`.

  Args:
    image: encoded.

  Raises:
    I3dError: unless it is whole, JPEG or PNG, and of a size that videos may have.
  """
  height, width = _stated_size(image)
  containers.check_size("an image", width, height)
  try:  # OpenCV fills up truncated images in some versions, and prints to stderr
    decoded = tf.io.decode_image(image, channels=3, expand_animations=False)
    return records.upright(decoded, records.orientation(image)).numpy()
  except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
    raise errors.I3dError("an image cannot be decoded") from None


def _stated_size(image: bytes) -> tuple[int, int]:
  """(height, width) that the header of an image states; (0, 0) if it has none."""
  if image_format(image) == "PNG":
    return int.from_bytes(image[20:24], "big"), int.from_bytes(image[16:20], "big")
  if image_format(image) == "JPEG":
    with contextlib.suppress(tf.errors.InvalidArgumentError):
      height, width, _ = tf.io.extract_jpeg_shape(image).numpy().tolist()
      return height, width
  return 0, 0


def _image_size(image: bytes) -> tuple[int, int] | None:
  """Returns (height, width) of an encoded image, None if it cannot be decoded whole.

  Args:
    image: encoded.
  """
  try:
    return decode_image(image).shape[:2]
  except errors.I3dError:
    return None


def image_format(image: bytes) -> str:
  """Returns 'JPEG', 'PNG', or '' for any other format.

  Args:
    image: encoded.
  """
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
    total = f"{sum(len(value) for value in values if isinstance(value, bytes)):,} bytes"
    size, kind = _image_size(values[0]), image_format(values[0])
    if size is None or not kind:
      return f"{len(values)} values, {total}"
    return f"{len(values)} {kind} images, {total}, the first of {size[1]}x{size[0]} pixels"
  shown = [*values[:3], *values[-1:]] if len(values) > 4 else values
  words = [_word(key, value) for value in shown]
  return f"{len(values)} values: " + ", ".join([*words[:3], "...", *words[3:]] if len(values) > 4 else words)
