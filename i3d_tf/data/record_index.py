"""The records of one split of a data set: where each of them is, and in which order training takes them.

Nothing but the records' headers is read. The order is arithmetic: the record of a place in it follows from the place,
so that going on in the middle costs nothing.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import struct

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import stores
from i3d_tf import workdir
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.weights import hub

_SHARD = re.compile(r"(?P<split>.+)-(?P<index>\d{5,})-of-(?P<count>\d{5,})")  # ours, MediaSequence's and DMVR's
_GZIP, _GZIP_SUFFIX = b"\x1f\x8b", ".gz"
_EXAMPLES, _EPOCHS = 0, 1  # what a seed is for


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
    """Returns the serialized record.

    Raises:
      I3dError: if it is damaged.
    """
    if self.damage:
      raise errors.I3dError(f"{self}: {self.damage}")
    with open(self.path, "rb") as file:
      file.seek(self.offset)
      content, checksum = file.read(self.length), file.read(4)
    if shards.checksum(content) != checksum:
      raise errors.I3dError(f"{self}: its checksum is wrong, it was damaged after it was written")
    return content

  def load(self) -> records.Record:
    """Returns the record.

    Raises:
      I3dError: if it is damaged or none of ours, MediaSequence's or DMVR's.
    """
    content = self.read()
    try:
      return records.deserialize(content)
    except errors.I3dError as error:
      raise errors.I3dError(f"{self}: {error}") from None


def mirrored(path: str | os.PathLike) -> pathlib.Path:
  """Returns the folder of records, or the file; of one in an object store its copy in the cache, brought up to date.

  TensorFlow's operations, which read records from any place of a file, know no stores; so the cache must have room.

  Args:
    path: The folder, or one file.

  Raises:
    I3dError: If it cannot be fetched.
  """
  if not stores.is_remote(path):
    return pathlib.Path(path)
  given = stores.StorePath(path)
  found = [file for file in given.find(maxdepth=1) if _is_records(file.name) or file.name == shards.INFO]
  is_file = not found and given.is_file()
  if not (found or is_file):
    raise errors.I3dError(f"{path}: there is no such file, nor a folder that holds TFRecords, in the store")
  folder = hub.cache_dir().joinpath("stores", *(given.parent if is_file else given).parts)
  with workdir.locked(folder, wait=True):
    for file in found or [given]:
      copy, stamp = folder / file.name, folder / f".{file.name}.json"
      facts = json.dumps(file.facts())
      if not (copy.exists() and stamp.exists() and stamp.read_text() == facts):
        with stores.fetched(file) as fetched, workdir.replacing(copy) as target, open(fetched, "rb") as content:
          shutil.copyfileobj(content, target)
        stamp.write_text(facts)
    if not is_file:
      names = {file.name for file in found}
      stores.remove([copy for copy in folder.glob("[!.]*") if copy.name not in names])
  return folder / given.name if is_file else folder


def find_files(path: str | os.PathLike) -> list[pathlib.Path]:
  """Returns the files named NAME.tfrecord or NAME-00000-of-00010 of a folder, sorted; or the file itself.

  Those that end in .gz are among them; `scan` says what to do with them.

  Args:
    path: the folder, or one file.

  Raises:
    I3dError: if there is none.
  """
  path = mirrored(path)
  if not path.exists():
    raise errors.I3dError(f"{path}: there is no such file or folder")
  if not path.is_dir():
    files.check_regular(path)
    return [path]
  found = [file for file in path.iterdir() if _is_records(file.name)]
  if not found:
    raise errors.I3dError(f"{path}: the folder holds no TFRecords (NAME.tfrecord or NAME-00000-of-00010)")
  return sorted(found)


def _is_records(name: str) -> bool:
  name = name.removesuffix(_GZIP_SUFFIX)
  return name.endswith(".tfrecord") or _SHARD.fullmatch(name) is not None


def split_of(file: pathlib.Path) -> str:
  """Returns the split in the name of a file of records: what stands before -00000-of-00010, or all of it.

  Args:
    file: path of the file.
  """
  name = file.name.removesuffix(_GZIP_SUFFIX).removesuffix(".tfrecord")
  match = _SHARD.fullmatch(name)
  return match["split"] if match else name


def scan(path: pathlib.Path) -> Iterator[Entry]:
  """Yields the places of a file's records by their headers alone; the last one may be damaged.

  TensorFlow's own reader stops at the first damaged record, and takes a cut within a header for the file's end.

  Args:
    path: of the file.

  Yields:
    The places in order.

  Raises:
    I3dError: if the file is compressed.
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
      if header.startswith(_GZIP) and shards.checksum(header[:8]) != header[8:]:
        name = path.name.removesuffix(_GZIP_SUFFIX)
        raise errors.I3dError(
          f"{path}: the file is compressed, and records are read from any place of a file; decompress it first, with "
          f"zcat -f {path.name} > {name}{'.tfrecord' * (name == path.name)}"
        )
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


@dataclasses.dataclass(frozen=True)
class Source:
  """A split's records, counted from 0 through its files in order.

  Attributes:
    path: the folder or file.
    split: its name.
    files: of TFRecords, sorted; absolute paths.
    entries: the place of each record.
    classes: names in the order of the labels; () if unknown.
    dataset: the data set's name; '' if unknown.
    flow_method: what computed the flow, see `flow.FlowConfig.flow_method`; '' if there is none or that is not stated.
  """

  path: pathlib.Path
  split: str
  files: tuple[pathlib.Path, ...]
  entries: tuple[Entry, ...]
  classes: tuple[str, ...] = ()
  dataset: str = ""
  flow_method: str = ""

  @property
  def num_records(self) -> int:
    """The number of records."""
    return len(self.entries)

  def first_image(self) -> bytes | None:
    """Returns an encoded frame, or flow field, of the first record that can be read; None if none can."""
    record = _first_record(self.entries)
    return None if record is None else next(iter((*record.frames, *record.flow_frames)), None)

  def shard(self, index: int, num_shards: int) -> np.ndarray:
    """Returns the numbers of the records of every `num_shards`-th file, int64 `[records]`.

    Args:
      index: of the first of these files.
      num_shards: distance of the files.

    Raises:
      I3dError: if there are none: `num_shards` is larger than the number of files that hold records.
    """
    files = set(self.files[index::num_shards])
    found = [number for number, entry in enumerate(self.entries) if entry.path in files]
    if not found:
      raise errors.I3dError(
        f"{self.path}: {self.split} has {len(self.files)} files of records, too few for {num_shards} shards; prepare "
        "the data set with a smaller clips_per_shard, or train with fewer replicas"
      )
    return np.array(found, np.int64)


def open_source(path: str | os.PathLike, split: str, *, streams: Sequence[str], classes: Sequence[str] = ()) -> Source:
  """Returns the records of a split.

  Args:
    path: a folder of TFRecords, or one file.
    split: as in the files' names, 'train' in train-00000-of-00010.tfrecord.
    streams: that the records are to hold, of `shards.STREAMS`; see `clip_config.stored`.
    classes: names in the order of the labels, for records that come without; those that have names must have these.

  Raises:
    I3dError: if there are no such files, some are missing, a file is torn, the data set is not complete, or it does not
      hold the streams.
  """
  path = mirrored(path)
  by_split: dict[str, list[pathlib.Path]] = {}
  for file in find_files(path):
    by_split.setdefault(split_of(file), []).append(file.absolute())
  if split not in by_split:
    raise errors.I3dError(f"{path}: there is no split {split!r}; there are {', '.join(sorted(by_split))}")
  files = tuple(by_split[split])
  _check_count(files)
  info = _read_info(path, split)
  entries = tuple(entry for file in files for entry in scan(file))
  for entry in entries:
    if entry.damage:
      raise errors.I3dError(f"{entry}: {entry.damage}; prepare the data set again")
  if not entries:
    raise errors.I3dError(f"{path}: {split} holds no records")
  if info.written not in (None, len(entries)):
    raise errors.I3dError(f"{path}: {split} has {len(entries)} records; {shards.INFO} says {info.written}")
  held = info.streams or _streams_of(entries)
  for stream in streams:
    if held and stream not in held:
      how = "with backward_flow" if stream == "backward_flow" else "that has it"
      raise errors.I3dError(f"{path}: the data set has no {stream}, only {', '.join(held)}; prepare one {how}")
  if classes and info.classes and tuple(classes) != info.classes:
    raise errors.I3dError(f"{path}: {shards.INFO} has other classes than the class list, or in another order")
  first = None if info.streams else _first_record(entries)
  method = info.flow_method if first is None else first.flow_method
  return Source(path, split, files, entries, info.classes or tuple(classes), info.dataset, method)


class Places:
  """Where the records are, as tensors for a graph."""

  def __init__(self, source: Source):
    numbers = {file: number for number, file in enumerate(source.files)}
    self._files = tf.constant([os.fsencode(file) for file in source.files])
    self._file = tf.constant([numbers[entry.path] for entry in source.entries], tf.int32)
    self._number = tf.constant([entry.number for entry in source.entries], tf.int32)
    # A record begins with its length and the length's checksum, which `Entry.offset` has passed.
    self._offset = tf.constant([entry.offset - 12 for entry in source.entries], tf.int64)

  def read(self, record: tf.Tensor) -> tf.Tensor:
    """Returns a serialized record, a scalar string; the graph fails if its checksum is wrong.

    Args:
      record: its number, a scalar.
    """
    dataset = tf.raw_ops.TFRecordDatasetV2(
      filenames=[self._path(record)],
      compression_type="",
      buffer_size=tf.constant(0, tf.int64),
      byte_offsets=[self._offset[record]],
    )
    found = tf.data.experimental.from_variant(dataset, tf.TensorSpec([], tf.string))
    return found.take(1).get_single_element()

  def describe(self, record: tf.Tensor) -> tf.Tensor:
    """Returns 'FILE, record NUMBER', as `Entry` is printed, as a scalar string.

    Args:
      record: its number, a scalar.
    """
    return tf.strings.join([self._path(record), ", record ", tf.strings.as_string(self._number[record])])

  def _path(self, record: tf.Tensor) -> tf.Tensor:
    return self._files[self._file[record]]


class TrainingOrder:
  """The endless order of the records in training: in every epoch each shard's records once, newly permuted.

  A batch holds equally many records of every shard, shard by shard. Place p of the order is in batch p // batch_size.
  """

  def __init__(self, source: Source, *, batch_size: int, num_shards: int, seed: int):
    """Prepares the order.

    Args:
      source: the records.
      batch_size: clips of all replicas together.
      num_shards: into which the files are divided, one for each replica.
      seed: of the permutations and of all that is drawn for clips.

    Raises:
      I3dError: if there are too few files or `num_shards` does not divide `batch_size`.
    """
    if num_shards < 1 or batch_size < 1 or batch_size % num_shards:
      raise errors.I3dError(f"batch_size is {batch_size}; it must be a multiple of the {num_shards} shards")
    members = [source.shard(index, num_shards) for index in range(num_shards)]
    self._per_shard = batch_size // num_shards
    self._num_shards = num_shards
    self._seed = tf.constant(seed, tf.int64)
    self._members = tf.constant(np.concatenate(members))
    self._counts = tf.constant([len(numbers) for numbers in members], tf.int64)
    self._firsts = tf.cumsum(self._counts, exclusive=True)

  def record(self, place: tf.Tensor) -> tf.Tensor:
    """Returns the number of the record at a place, int64.

    Args:
      place: counted from 0 through all epochs, int64.
    """
    shard, turn = self._shard_and_turn(place)
    count = self._counts[shard]
    epoch = turn // count
    key = tf.random.stateless_uniform([3], self._key(_EPOCHS, epoch * self._num_shards + shard), None, None, tf.uint32)
    # Permutes by a block cipher, so that one index alone can be had.
    index = tf.raw_ops.RandomIndexShuffle(index=turn % count, seed=key, max_index=count - 1, rounds=4)
    return self._members[self._firsts[shard] + index]

  def seed(self, place: tf.Tensor) -> tf.Tensor:
    """Returns the seed, int32 `[2]`, of all that is drawn for the clip at a place, whatever the size of the batches.

    Args:
      place: counted from 0 through all epochs, int64.
    """
    shard, turn = self._shard_and_turn(place)
    return tf.random.stateless_uniform([2], self._key(_EXAMPLES, turn * self._num_shards + shard), None, None, tf.int32)

  def _shard_and_turn(self, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The shard of a place, and how many records it has given before."""
    batch_size = self._per_shard * self._num_shards
    batch, within = place // batch_size, place % batch_size
    shard = within // self._per_shard
    return shard, batch * self._per_shard + within % self._per_shard

  def _key(self, purpose: int, number: tf.Tensor) -> tf.Tensor:
    return tf.random.fold_in(tf.stack([self._seed, tf.constant(purpose, tf.int64)]), number)


@dataclasses.dataclass(frozen=True)
class _Info:
  """What dataset.json says of a split; nothing where there is none."""

  classes: tuple[str, ...] = ()
  dataset: str = ""
  streams: tuple[str, ...] = ()
  written: int | None = None
  flow_method: str = ""


def _read_info(path: pathlib.Path, split: str) -> _Info:
  if not (path / shards.INFO).exists():
    return _Info()
  folder = shards.Folder(path, ())
  folder.read_info()  # explains a damaged file
  try:
    about = folder.describe()
    streams, written = about.streams, about.count(split, "written") if about.complete else None
  except errors.I3dError:
    raise errors.I3dError(f"{path / shards.INFO}: this is not what prepare_dataset writes for {split}") from None
  if not about.complete:
    raise errors.I3dError(f"{path}: the data set is not complete; start prepare_dataset again with the same flags")
  return _Info(about.classes, about.name, streams, written, about.flow_method)


def _check_count(files: Sequence[pathlib.Path]) -> None:
  """Raises I3dError if not all files are there that their own names tell of."""
  matches = [_SHARD.fullmatch(file.name.removesuffix(".tfrecord")) for file in files]
  counts = {int(match["count"]) for match in matches if match}
  if counts and (len(counts) > 1 or counts != {len(files)}):
    told = " or ".join(map(str, sorted(counts)))
    raise errors.I3dError(f"{files[0].parent}: there are {len(files)} files such as {files[0].name}, not {told}")


def _streams_of(entries: Sequence[Entry]) -> tuple[str, ...]:
  """The streams of the first record that can be read; () if none can."""
  record = _first_record(entries)
  held = {**records.IMAGES, "audio": "log_mel"}
  return tuple(stream for stream, attribute in held.items() if record and getattr(record, attribute))


def _first_record(entries: Sequence[Entry]) -> records.Record | None:
  for entry in entries:
    with contextlib.suppress(errors.I3dError):
      return entry.load()
  return None
