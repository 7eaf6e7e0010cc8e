"""A folder of TFRecord shards that grows clip by clip and survives being killed at any moment.

Every finished clip is kept by one rename in a work folder; when all clips of a shard are there, they become the shard
in the order of the plan, by one more rename. So a finished folder has the same bytes whatever the number of workers,
the order in which they finished, and the interruptions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import struct
from typing import Any

import google_crc32c

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import files
from i3d_tf import flow
from i3d_tf import stores
from i3d_tf import workdir
from i3d_tf.data import clips as clips_lib
from i3d_tf.flow import codec
from i3d_tf.video import decode
from i3d_tf.weights import manifest

_SHUFFLE_SEED = 47  # MediaSequence's for Kinetics
INFO = "dataset.json"
FAILURES = "failures.tsv"
MISSING = "missing.tsv"
NOTES = "notes.tsv"  # written if there are any
TEXTS = (INFO, FAILURES, MISSING, NOTES)  # what a folder holds beside its records
STREAMS = ("rgb", "flow", "backward_flow", "audio")
FLOW_FORMATS = ("png", "jpeg")
_NOTES_SUFFIX = ".notes"
_LATER = ("flow_params", "flow_bound", "frame_rate", "allow_damaged")  # options that older folders do not state
# Methods by the names that data sets had for them before there were others; any other method has its own name.
_ENGINES = {"numba": "tvl1", "opencv": "tvl1_opencv"}


@dataclasses.dataclass(frozen=True)
class RecordConfig(flow.FlowConfig):
  """How videos become records.

  Attributes:
    streams: what a record holds: rgb, flow, or both; backward_flow, the flow from each frame to the one before, beside
      flow only; and audio, the log-mel spectrogram of the video's sound where it has any, beside rgb or flow.
    fps: frames per second.
    short_side: pixels of the frames' shorter side.
    jpeg_quality: quality of the RGB frames.
    flow_format: flow images; png keeps the encoded flow exactly, jpeg (4:4:4, quality 100) adds an error of its own.
    flow_rounding: how flow becomes bytes; truncate is MediaSequence's way.
    flow_bound: pixels per frame; larger motion is cut off.
    flow_engine: the earlier name of `flow`: numba is tvl1, opencv is tvl1_opencv.
    frame_rate: frames per second of folders of images and of .npy clips, which state none. Images of flow in such
      folders are taken as they are, coded with flow_bound.
    allow_damaged: take what there is of damaged or incomplete videos, and leave out jumps of their clocks.
  """

  streams: tuple[str, ...] = fields.option(("rgb", "flow"), choices=STREAMS)
  fps: float = fields.option(decode.FRAME_RATE, least=0.1)
  short_side: int = fields.option(decode.SHORT_SIDE, least=16)
  jpeg_quality: int = fields.option(95, least=1, most=100)
  flow_format: str = fields.option("png", choices=FLOW_FORMATS)
  flow_rounding: str = fields.option("truncate", choices=codec.ROUNDINGS)
  flow_bound: float = fields.option(codec.BOUND, above=0)
  flow_engine: str = fields.option("numba", choices=tuple(_ENGINES))
  frame_rate: float = fields.option(decode.FRAME_RATE, above=0, below=float("inf"))
  allow_damaged: bool = False

  def __post_init__(self):
    if self.flow_engine == "opencv":
      if self.flow not in (flow.DEFAULT, "tvl1_opencv"):
        raise errors.I3dError(f"flow_engine is opencv, the earlier name of flow tvl1_opencv, but flow is {self.flow}")
      object.__setattr__(self, "flow", "tvl1_opencv")
    super().__post_init__()
    if not self.streams or len(set(self.streams)) < len(self.streams):
      raise errors.I3dError(f"streams are {', '.join(self.streams) or 'none'}; allowed are {', '.join(STREAMS)}")
    if "backward_flow" in self.streams and "flow" not in self.streams:
      raise errors.I3dError(f"streams are {', '.join(self.streams)}; backward flow is stored beside flow only")
    if self.streams == ("audio",):
      raise errors.I3dError("streams are audio; sound is stored beside rgb or flow only")
    # In one order, since that in which they are given must not make two folders differ.
    object.__setattr__(self, "streams", tuple(stream for stream in STREAMS if stream in self.streams))


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of records to be: `name` without suffix, its split, and its clips in order."""

  name: str
  split: str
  clips: tuple[clips_lib.Clip, ...]


@dataclasses.dataclass(frozen=True)
class Made:
  """A clip's serialized `record`, and the `notes` on it that the folder is to list."""

  record: bytes
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
  """One clip's place: the `index`-th of `shard`."""

  shard: str
  index: int
  clip: clips_lib.Clip


def plan(dataset: clips_lib.Dataset, clips_per_shard: int) -> list[Shard]:
  """Returns the shards of all splits, of equal size in each, shuffled with a fixed seed.

  Args:
    dataset: what is listed.
    clips_per_shard: clips of a shard, at most.
  """
  shards = []
  for split, clips in dataset.splits.items():
    shuffled = list(clips)
    random.Random(f"{_SHUFFLE_SEED}/{split}").shuffle(shuffled)
    count = -(-len(shuffled) // clips_per_shard)
    for index in range(count):
      part = shuffled[index * len(shuffled) // count : (index + 1) * len(shuffled) // count]
      shards.append(Shard(f"{split}-{index:05}-of-{count:05}", split, tuple(part)))
  return shards


def frame(record: bytes) -> bytes:
  """Returns a serialized record as it stands in a TFRecord file, which is nothing but such pieces one after the other.

  Args:
    record: the bytes.
  """
  length = struct.pack("<Q", len(record))
  return b"".join([length, checksum(length), record, checksum(record)])


def checksum(content: bytes) -> bytes:
  """Returns the masked CRC32C that stands behind `content` in a TFRecord file.

  Args:
    content: the bytes.
  """
  return struct.pack("<I", manifest.mask(google_crc32c.value(content)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
  """What dataset.json says; what is written last is empty before the folder is complete.

  Attributes:
    complete: whether all clips are done.
    parameters: how the records were made.
    name: the data set's.
    classes: names in the order of the labels.
    splits: by split the counts of clips that were 'listed', 'written', 'failed' and 'missing', and of 'shards'.
  """

  complete: bool
  parameters: dict[str, Any]
  name: str = ""
  classes: tuple[str, ...] = ()
  splits: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def streams(self) -> tuple[str, ...]:
    """What a record holds."""
    return fields.from_json(_Streams, self.parameters, INFO, has_others=True).streams

  @property
  def flow_method(self) -> str:
    """What computed the flow, see `flow.FlowConfig.flow_method`; '' if there is none."""
    made = fields.from_json(_Streams, self.parameters, INFO, has_others=True)
    method = _ENGINES.get(made.flow_engine, made.flow_engine)
    return " ".join([method, *made.flow_params]) if "flow" in made.streams else ""

  def count(self, split: str, what: str) -> int:
    """Returns one of the counts of a split.

    Args:
      split: its name.
      what: 'written', for example.

    Raises:
      I3dError: if there is none.
    """
    counts = self.splits.get(split)
    number = counts.get(what) if isinstance(counts, dict) else None
    if type(number) is not int or not 0 <= number < 2**63:
      raise errors.I3dError(f"{INFO}: {split} has no count {what}")
    return number


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Streams:
  streams: tuple[str, ...] = fields.option(choices=STREAMS)
  flow_engine: str = "numba"
  flow_params: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Failure:
  """Why a clip has no record."""

  id: str
  path: str
  reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Summary:
  """What became of a shard."""

  records: int = fields.option(least=0)
  failures: tuple[dict[str, Any], ...]
  notes: tuple[dict[str, Any], ...] = ()


class Folder:
  """The output folder: which clips are done, and putting in what comes."""

  def __init__(self, path: str | os.PathLike, shards: Iterable[Shard]):
    self._workdir = workdir.Workdir(path, INFO, foreign=("*.tfrecord",), in_stores=True)
    self.path = self._workdir.path
    self._shards = {shard.name: shard for shard in shards}
    self._left: dict[str, set[int]] = {}  # clips of each unfinished shard that are still to come

  def claim(self, parameters: Mapping[str, Any]) -> contextlib.AbstractContextManager[bool]:
    """Keeps other processes out of the folder during the body of `with`; see `workdir.Workdir.claim`.

    Args:
      parameters: how the records are made; written down, or compared with what is written.

    Returns:
      A context manager that says whether the folder is gone on with.
    """
    return self._workdir.claim(parameters, about={"complete": False})

  def read_info(self) -> dict[str, Any]:
    """Returns the content of dataset.json; see `workdir.Workdir.read_info`."""
    return self._workdir.read_info()

  def describe(self) -> Description:
    """Returns what dataset.json says.

    Raises:
      I3dError: if it is not what `finish` writes.
      OSError: if it cannot be read.
    """
    return fields.from_json(Description, self.read_info(), self.path / INFO, has_others=True)

  def num_clips(self, name: str) -> int:
    """Returns how many clips a shard has.

    Args:
      name: of the shard.
    """
    return len(self._shards[name].clips)

  def tasks(self) -> list[Task]:
    """Returns the clips that are still to do, in order."""
    todo = []
    self._left = {}
    held = {*self.work.glob("*/*"), *self.path.glob("*.tfrecord")}  # one listing, for a store has many clips
    for shard in self._shards.values():
      if self._final(shard.name) in held:
        continue
      left = [i for i in range(len(shard.clips)) if held.isdisjoint(self._pieces(shard.name, i))]
      self._left[shard.name] = set(left)
      todo += [Task(shard.name, i, shard.clips[i]) for i in left]
    return todo

  def put(self, task: Task, record: bytes | Made | None, error: str | None) -> None:
    """Keeps a clip's record, or why there is none.

    Args:
      task: the clip's place.
      record: the serialized record, with its notes or without, or None.
      error: why there is none, or None.
    """
    record_path, failure_path = self._pieces(task.shard, task.index)
    record_path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(record, Made):
      if record.notes:  # first: the record says that the clip is done
        notes = {"id": task.clip.id, "path": task.clip.path, "notes": list(record.notes)}
        self._place(record_path.with_suffix(_NOTES_SUFFIX), json.dumps(notes).encode())
      record = record.record
    if record is not None:
      self._place(record_path, frame(record))
    else:
      failure = {"id": task.clip.id, "path": task.clip.path, "reason": error}
      self._place(failure_path, json.dumps(failure).encode())
    self._left.get(task.shard, set()).discard(task.index)

  def finish_shards(self) -> None:
    """Puts together every shard that has all its clips."""
    for name, num_clips in self.whole_shards():
      self.assemble(name, num_clips)
      del self._left[name]

  def whole_shards(self) -> list[tuple[str, int]]:
    """Returns the shards that have all their clips and are not put together yet, as `assemble` takes them."""
    whole = [name for name, left in self._left.items() if not left and not self._final(name).exists()]
    return [(name, self.num_clips(name)) for name in whole]

  def assemble(self, name: str, num_clips: int) -> None:
    """Puts together a shard, which need not be of this folder's plan, unless that is done already.

    Args:
      name: of the shard.
      num_clips: how many clips it has.

    Raises:
      FileNotFoundError: if one of its clips was not put.
    """
    if self._final(name).exists():
      return
    pieces = [self._pieces(name, index) for index in range(num_clips)]
    written = [record for record, _ in pieces if record.exists()]
    failures = [_read_failure(failure) for record, failure in pieces if not record.exists()]
    summary: dict[str, Any] = {"records": len(written), "failures": failures}
    noted = [piece.with_suffix(_NOTES_SUFFIX) for piece in written]
    if notes := [files.read_json(path) for path in noted if path.exists()]:
      summary["notes"] = notes
    self._summary_path(name).parent.mkdir(exist_ok=True)
    self._place(self._summary_path(name), json.dumps(summary).encode())
    with self._workdir.replacing(self._final(name)) as file:  # last: it says that the shard is done
      for piece in written:
        with files.opened(piece) as source:
          shutil.copyfileobj(source, file)
    self._remove(self.work / name)

  def reopen_failures(self) -> None:
    """Forgets the failures, so that `tasks` has their clips again; what else their shards hold is kept."""
    stores.remove(list(self.work.glob("*/*.failed")))
    for shard in self._shards.values():
      if not self._final(shard.name).exists():
        continue
      failed = {failure["id"] for failure in self.summary(shard.name)["failures"]}
      if failed:
        self._take_apart(shard, [i for i, clip in enumerate(shard.clips) if clip.id not in failed])

  def _take_apart(self, shard: Shard, written: Sequence[int]) -> None:
    """Turns a shard that holds the clips `written` back into pieces; until they are all there it stays."""
    (self.work / shard.name).mkdir(parents=True, exist_ok=True)
    notes = {each["id"]: each for each in self.summary(shard.name).get("notes", ())}
    with files.opened(self._final(shard.name)) as file:
      for index in written:
        header = file.read(12)
        rest = file.read(struct.unpack("<Q", header[:8])[0] + 4)
        if note := notes.get(shard.clips[index].id):
          self._place(self._pieces(shard.name, index)[0].with_suffix(_NOTES_SUFFIX), json.dumps(note).encode())
        self._place(self._pieces(shard.name, index)[0], header + rest)
    self._final(shard.name).unlink()

  def finish(
    self, dataset: clips_lib.Dataset, parameters: Mapping, *, wording: Callable[[str], str] = str
  ) -> list[dict]:
    """Returns the failures (split, id, path, reason); writes them, the missing clips and the counts.

    Args:
      dataset: what is listed.
      parameters: as they were claimed with.
      wording: what a program that has flags makes of a reason, which names parameters, for people to read.

    Raises:
      I3dError: if the counts do not add up.
    """
    splits, failures, notes = {}, [], []
    for split, clips in dataset.splits.items():
      summaries = [self.summary(shard.name) for shard in self._shards.values() if shard.split == split]
      reasons = [failure for summary in summaries for failure in summary["failures"]]
      failed = [{"split": split, **failure, "reason": wording(failure["reason"])} for failure in reasons]
      written = sum(summary["records"] for summary in summaries)
      if written + len(failed) != len(clips):
        raise errors.I3dError(
          f"{self.path}: {split} lists {len(clips)} clips, but {written} are written and {len(failed)} failed"
        )
      counts = {"listed": len(clips), "written": written, "failed": len(failed), "missing": len(dataset.missing[split])}
      splits[split] = {**counts, "shards": len(summaries)}
      failures += failed
      noted = [each for summary in summaries for each in summary.get("notes", ())]
      notes += [(split, each["id"], each["path"], "; ".join(each["notes"])) for each in noted]
    rows = [(f["split"], f["id"], f["path"], f["reason"]) for f in failures]
    self._place(self.path / FAILURES, _table(("split", "id", "path", "reason"), rows))
    if notes:
      self._place(self.path / NOTES, _table(("split", "id", "path", "notes"), notes))
    absent = [(split, clip.id, clip.path) for split, clips in dataset.missing.items() for clip in clips]
    self._place(self.path / MISSING, _table(("split", "id", "path"), absent))
    self._workdir.write_info(
      {"parameters": parameters, "complete": True, "splits": splits, "classes": dataset.classes, "name": dataset.name}
    )
    self._remove(self.work)
    return failures

  @property
  def work(self) -> pathlib.Path:
    """The folder of what is needed until all is finished."""
    return self._workdir.work

  def _final(self, name: str) -> pathlib.Path:
    return self.path / f"{name}.tfrecord"

  def _pieces(self, name: str, index: int) -> tuple[pathlib.Path, pathlib.Path]:
    folder = self.work / name
    return folder / f"{index:06}.tfrecord", folder / f"{index:06}.failed"

  def _summary_path(self, name: str) -> pathlib.Path:
    return self.path / ".shards" / f"{name}.json"

  def summary(self, name: str) -> dict:
    """Returns what became of a finished shard: the number of `records`, its `failures`, and `notes` if there are any.

    Args:
      name: of the shard.

    Raises:
      I3dError: if its file is damaged.
      OSError: if it cannot be read.
    """
    path = self._summary_path(name)
    return dataclasses.asdict(fields.from_json(_Summary, files.read_json(path), path))

  def _remove(self, folder: pathlib.Path) -> None:
    if stores.is_remote(folder):
      stores.remove(stores.StorePath(folder).find(), missing_ok=True)
    else:
      shutil.rmtree(folder, ignore_errors=True)

  def _place(self, path: pathlib.Path, content: bytes) -> None:
    with self._workdir.replacing(path) as file:
      file.write(content)


def _read_failure(path: pathlib.Path) -> dict[str, str]:
  return dataclasses.asdict(fields.from_json(_Failure, files.read_json(path), path))


def parameters(dataset: clips_lib.Dataset, settings: RecordConfig, *, clips_per_shard: int) -> dict[str, Any]:
  """Returns what a folder of records depends on, for `Folder.claim`.

  Args:
    dataset: what is listed.
    settings: how videos become records.
    clips_per_shard: clips of a shard, at most.
  """
  values = dataclasses.asdict(settings)
  names = {method: engine for engine, method in _ENGINES.items()}
  values["flow_engine"] = names.get(values["flow"], values.pop("flow"))
  values.pop("flow", None)
  for name in set(_LATER) - set(fields.changes(settings, _LATER)):
    del values[name]
  return {
    "dataset": dataset.name,
    "clips_per_shard": clips_per_shard,
    **values,
    "list_of_clips": _listing_digest(dataset),
  }


def _listing_digest(dataset: clips_lib.Dataset) -> str:
  """Returns a text that tells one list of clips from another, wherever their files are.

  Args:
    dataset: what is listed.
  """
  rows = [
    [split, clip.id, clip.start, clip.end, clip.label] for split, clips in dataset.splits.items() for clip in clips
  ]
  return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> bytes:
  clean = [[field.replace("\t", " ").replace("\n", " ") for field in row] for row in (header, *rows)]
  return "".join("\t".join(row) + "\n" for row in clean).encode(errors="backslashreplace")
