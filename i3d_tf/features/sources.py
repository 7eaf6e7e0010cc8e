"""What features are taken of: video files and records, opened as streams of frames and flow.

Decoding, flow and the network run at the same time, each ahead of the next in a thread of its own.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import flow as flow_lib
from i3d_tf import stores
from i3d_tf import workers
from i3d_tf.data import inspection
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.features import results
from i3d_tf.flow import codec
from i3d_tf.video import archives
from i3d_tf.video import decode
from i3d_tf.video import listing
from i3d_tf.video import stills

Position = dict[str, np.ndarray]

_AHEAD = 32  # decoded frames that wait for their flow
_CONTEXT_TAG = b"\x0a"  # of a SequenceExample's first field, its context (tensorflow/core/example/example.proto)
_LONGEST_VARINT = 10  # bytes
_LONGEST_NAME, _LONGEST_PATH = 180, 1000  # bytes, with room for what stands before and behind an id


@dataclasses.dataclass(frozen=True)
class Source:
  """One video, or what was taken for one.

  Attributes:
    name: Tells it from all others: the path of its file, and of a record its number, too.
    id: Names its output: its path below the folder given, without the file name's ending; of a record, its own id.
    path: Its file.
    entry: Its place, if it is a record.
  """

  name: str
  id: str
  path: str
  entry: record_index.Entry | None = None

  @property
  def key(self) -> str:
    """Finds its entry in the manifest, however its path is spelt."""
    return results.key(self.name)

  @property
  def files(self) -> tuple[str, ...]:
    """Its path, and that of the archive that it is in."""
    return (self.path, *(archives.split(self.path) or ())[:1])

  @property
  def content(self) -> results.Content:
    """What tells this video from another one under the same name."""
    if self.entry is not None:
      return results.FactsContent(functools.partial(_record_facts, self.entry))
    if archives.split(self.path):
      return results.FactsContent(functools.partial(archives.facts, self.path))
    if os.path.isdir(self.path):
      return results.FactsContent(functools.partial(_folder_facts, self.path))
    return results.content_of(self.path)


def _folder_facts(path: str) -> dict[str, Any]:
  """The number of `files` in a folder, their `bytes`, and a checksum of their names, sizes and times, `listing`."""
  found = [(entry.name, entry.stat()) for entry in os.scandir(path) if entry.is_file()]
  lines = sorted(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found)
  digest = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
  return {"files": len(found), "bytes": sum(status.st_size for _, status in found), "listing": digest}


def _record_facts(entry: record_index.Entry) -> dict[str, Any]:
  """The `bytes` of a record and its `crc32c`, masked as in the file."""
  with open(entry.path, "rb") as file:
    file.seek(entry.offset + entry.length)
    return {"bytes": entry.length, "crc32c": file.read(4).hex()}


@dataclasses.dataclass(frozen=True)
class Video:
  """An opened source.

  Attributes:
    fps: Frames per second of what `positions` yields.
    estimate: Estimate of the number of frames, from what the file declares; for progress only.
    count: Counts the frames.
    positions: Yields them, see `iter_positions`, from the one of a number on.
    notes: What was done with the frames, see `decode.iter_frames`; complete when all positions were yielded.
    flow_method: Of a record with flow, what computed it, see `flow.FlowConfig.flow_method`; else ''.
  """

  fps: float
  estimate: int
  count: Callable[[], int]
  positions: Callable[[int], Iterator[Position]]
  notes: dict[str, None] = dataclasses.field(default_factory=dict)
  flow_method: str = ""


def list_sources(inputs: Sequence[str | os.PathLike]) -> list[Source]:
  """Returns the videos that paths stand for, each once.

  Args:
    inputs: Video files, tar and zip files of them, TFRecord files, and folders, of which the records are taken, and the
      videos with those below.

  Raises:
    I3dError: If a folder holds none.
  """
  found: list[Source] = []
  for path in [os.fspath(each) for each in inputs]:
    files = _find_records(path)
    found += [_record_source(entry) for file in files for entry in record_index.scan(file)]
    is_folder = os.path.isdir(path)
    if files and not is_folder:
      continue
    beside = [pathlib.Path(path, name) for name in shards.TEXTS] if files else []
    videos = (
      listing.list_folder(path, used=[*files, *beside]).videos if is_folder and path else decode.list_videos([path])
    )
    is_one = [os.fspath(video) for video in videos] == [os.fspath(stores.as_path(path))]  # or of images
    absolute = lambda each: stores.as_path(each if stores.is_remote(each) else os.path.abspath(each))
    root = absolute(path).parent if is_one else stores.as_path(path)  # a link has a name of its own
    for video in videos:
      name = os.path.relpath(stills.without_suffix(absolute(video) if is_one else video), root)
      found.append(Source(str(video), pathlib.PurePath(name).as_posix(), str(video)))
  return list({source.name: source for source in reversed(found)}.values())[::-1]


def _find_records(path: str) -> list[pathlib.Path]:
  """Returns the TFRecord files that `path` stands for, none if it stands for videos."""
  if os.path.isdir(path) or path.endswith(".tfrecord") or stores.is_remote(path) and listing.holds_videos(path):
    with contextlib.suppress(errors.I3dError):
      return record_index.find_files(path)
  return []


def check_ids(sources: Iterable[Source], name: Callable[[Source], str]) -> None:
  """Refuses videos of which one's files would be overwritten by the other's.

  Args:
    sources: The videos.
    name: What names the files of a video.

  Raises:
    I3dError: If two videos have the same name.
  """
  seen: dict[str, Source] = {}
  for source in sources:
    other = seen.setdefault(name(source), source)
    if other is not source:
      raise errors.I3dError(
        f"{other.name} and {source.name} would have the same output, {name(source)}; rename one, or extract them into "
        "two folders"
      )


def _record_source(entry: record_index.Entry) -> Source:
  name = f"{entry.path.name}-{entry.number}"
  with contextlib.suppress(errors.I3dError, OSError):  # taking its features says why
    found = _read_id(entry)
    if _is_name(found):
      name = found
  return Source(str(entry), name, str(entry.path), entry)


def _is_name(text: str) -> bool:
  """Whether files can be named after a text, within their folder."""
  parts = text.split("/")
  is_short = len(text) <= _LONGEST_PATH and all(len(os.fsencode(part)) <= _LONGEST_NAME for part in parts)
  return is_short and "\0" not in text and not {"", ".."} & set(parts)


def _read_id(entry: record_index.Entry) -> str:
  """A record's id, of which no more than the context is read where that stands first, as in all that we know of."""
  if entry.damage:
    return ""
  with open(entry.path, "rb") as file:
    file.seek(entry.offset)
    head = file.read(1 + _LONGEST_VARINT)
    length, size = _varint(head[1:])
    if head[:1] != _CONTEXT_TAG or size is None or 1 + size + length > entry.length:
      return entry.load().id
    file.seek(entry.offset + 1 + size)
    context = _CONTEXT_TAG + head[1 : 1 + size] + file.read(length)
  return records.deserialize(context).id


def _varint(content: bytes) -> tuple[int, int | None]:
  """The number at the beginning, seven bits a byte, the lowest first, and how many bytes it has; None if no end."""
  value = 0
  for index, byte in enumerate(content):
    value |= (byte & 127) << 7 * index
    if byte < 128:
      return value, index + 1
  return 0, None


def open_video(
  source: Source,
  *,
  streams: Sequence[str],
  pairs: bool,
  fps: float,
  short_side: decode.Resize,
  estimator: flow_lib.Estimator | None = None,
  allow_damaged: bool = False,
  frame_rate: float = decode.FRAME_RATE,
  flow_bound: float = codec.BOUND,
  flow_bytes: str = "none",
) -> Video:
  """Returns the opened source.

  Args:
    source: What to open.
    streams: Streams of the positions, of 'rgb' and 'flow'.
    pairs: Whether to leave out the last frame, which has no flow.
    fps: Frames per second; 0: the video's own rate. A record has a rate, which cannot be changed; one that states none,
      nor times, is taken for one of `fps`.
    short_side: How frames are resized.
    estimator: Computes the optical flow; None: TV-L1.
    allow_damaged: As in `decode.iter_frames`.
    frame_rate: Frames per second of folders of images and of arrays, which state none.
    flow_bound: Pixels per frame of the largest byte of folders' images of flow.
    flow_bytes: What becomes of flow that is computed, see `codec.through_bytes`.

  Raises:
    I3dError: If it is no video, or a record that does not have the streams or has another rate.
  """
  how: dict[str, Any] = {"streams": streams, "pairs": pairs, "estimator": estimator, "flow_bytes": flow_bytes}
  if source.entry is not None:
    record = source.entry.load()
    _check_record(record, source, streams, fps)
    rate = record.rate or fps
    num_frames = len(record.frames) or len(record.flow_frames) + 1
    positions = lambda first: _record_positions(record, source, short_side, first, **how)
    method = (record.flow_method or flow_lib.DEFAULT) if record.flow_frames else ""
    return Video(rate, num_frames, lambda: num_frames, positions, dict.fromkeys(record.notes), method)
  images = stills.open_stills(source.path) if stills.is_stills(source.path) else None
  if images is not None and images.x and "flow" in streams:
    return _open_images(images, streams, fps, frame_rate, flow_bound, short_side)
  info = decode.probe(source.path, frame_rate=frame_rate)
  rate = fps or info.frame_rate
  notes: dict[str, None] = {}
  frames = lambda: decode.iter_frames(
    source.path,
    fps=rate,
    short_side=short_side,
    allow_damaged=allow_damaged,
    note=lambda remark: notes.update({remark: None}),
    frame_rate=frame_rate,
  )
  return Video(
    rate,
    round(info.num_frames / info.frame_rate * rate),
    lambda: decode.count_frames(source.path, fps=rate, allow_damaged=allow_damaged, frame_rate=frame_rate),
    lambda first: iter_positions(_rest(frames(), first), **how),
    notes,
  )


def _open_images(
  images: stills.Stills, streams: Sequence[str], fps: float, frame_rate: float, bound: float, resize: decode.Resize
) -> Video:
  """A folder with images of flow, whose rate cannot be changed."""
  if fps and abs(fps - frame_rate) > 1e-3 * frame_rate:
    raise errors.VideoError(
      f"{images.path}: the flow is of {frame_rate:g} frames per second, not {fps:g}; take fps=0, or frame_rate={fps:g}"
    )
  if "rgb" in streams and not len(images.frames):
    raise errors.VideoError(f"{images.path}: the folder has images of flow only; take streams=flow")
  frames = lambda first: (resize.frame(images, number) for number in range(first, images.num_frames))
  fields = lambda first: (images.flow(number) for number in range(first, len(images.x)))
  positions = lambda first: _stored_positions(frames(first), fields(first), bound, streams, resize)
  return Video(frame_rate, images.num_frames, lambda: images.num_frames, positions)


def _rest(frames: Iterator[np.ndarray], first: int) -> Iterator[np.ndarray]:
  """The frames from a number on; they are closed with the result."""
  with contextlib.closing(frames):  # type: ignore[type-var]
    yield from itertools.islice(frames, first, None)


def _stored_positions(
  frames: Iterator[np.ndarray],
  fields: Iterator[np.ndarray],
  bound: float,
  streams: Sequence[str],
  resize: decode.Resize,
) -> Iterator[Position]:
  """As `iter_positions`, with flow that is stored as bytes `[H, W, 2]`."""
  for values in fields:
    position = {"flow": codec.scale(codec.decode_resized(values, *resize.shape(*values.shape[:2]), bound=bound))}
    if "rgb" in streams:
      position = {"rgb": next(frames), **position}
    yield position


def iter_positions(
  frames: Iterator[np.ndarray],
  *,
  streams: Sequence[str],
  pairs: bool,
  estimator: flow_lib.Estimator | None = None,
  flow_bytes: str = "none",
) -> Iterator[Position]:
  """Yields frames with the flow to the next one. The frames are decoded in a thread of their own.

  Args:
    frames: uint8 `[H, W, 3]`.
    streams: See `open_video`.
    pairs: See `open_video`; always so with flow.
    estimator: See `open_video`.
    flow_bytes: See `open_video`.

  Yields:
    'rgb', uint8 `[H, W, 3]`, and 'flow', float32 `[H, W, 2]` in [-1, 1].
  """
  if "flow" not in streams:
    following = itertools.pairwise(frames) if pairs else ((frame,) for frame in frames)
    yield from ({"rgb": frame} for frame, *_ in following)
    return
  estimator = estimator or flow_lib.Estimator()
  with workers.ahead(frames, depth=_AHEAD) as decoded:
    waiting: collections.deque[np.ndarray] = collections.deque()
    for field in estimator.iterate(_kept(decoded, waiting)):
      position = {"rgb": waiting.popleft(), "flow": codec.through_bytes(codec.scale(field), flow_bytes)}
      yield {stream: position[stream] for stream in streams}


def _kept(frames: Iterator[np.ndarray], waiting: collections.deque) -> Iterator[np.ndarray]:
  """Yields the frames, and keeps them in `waiting`."""
  for frame in frames:
    waiting.append(frame)
    yield frame


def _check_record(record: records.Record, source: Source, streams: Sequence[str], fps: float) -> None:
  """Raises I3dError if the record cannot give what is asked for."""
  if problems := records.problems(record):
    raise errors.I3dError(f"{source.name}: {problems[0]}")
  rate = record.rate
  if not (rate or fps):
    raise errors.I3dError(f"{source.name}: the record states neither its frame rate nor its times; give fps")
  if rate and fps and abs(fps - rate) > 1e-3 * rate:
    raise errors.I3dError(
      f"{source.name}: the record has {rate:g} frames per second, not {fps:g}; take fps={rate:g}, or prepare others"
    )
  if "rgb" in streams and not record.frames or not (record.frames or record.flow_frames):
    raise errors.I3dError(f"{source.name}: the record has no frames; take streams=flow, or prepare them with rgb")


def _record_positions(
  record: records.Record, source: Source, resize: decode.Resize, first: int, *, streams: Sequence[str], **how: Any
) -> Iterator[Position]:
  """As `iter_positions`, with the record's flow where it has one."""
  frames = (resize(_decode_image(image, source)) for image in record.frames[first:])
  if "flow" not in streams or not record.flow_frames:
    yield from iter_positions(frames, streams=streams, **how)
    return
  fields = (_decode_image(image, source)[..., :2] for image in record.flow_frames[first:])
  yield from _stored_positions(frames, fields, record.flow_bound or codec.BOUND, streams, resize)


def _decode_image(image: bytes, source: Source) -> np.ndarray:
  try:
    return inspection.decode_image(image)
  except errors.I3dError as error:
    raise errors.I3dError(f"{source.name}: {error}") from None
