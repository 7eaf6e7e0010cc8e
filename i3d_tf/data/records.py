"""Clips as MediaSequence SequenceExamples: one schema from which writer and parser follow.

Keys are those of google/mediapipe media_sequence, so that its readers and DMVR's read these records and we read theirs.
Two sources differ in the key of the label's text: MediaSequence writes `clip/label/string`, DMVR expects
`clip/label/text`; both are written and either is read. What MediaSequence has no key for (how flow became bytes) stands
under `FORWARD_FLOW/encoding/`, for backward flow, too; what was done with special videos under `clip/notes`.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import types
from typing import Any

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.video import sound

_FLOW = "FORWARD_FLOW/"
_BACKWARD_FLOW = "BACKWARD_FLOW/"
_LARGEST = 100_000  # frames per second, and pixels per frame
# The attribute of `Record` that holds the encoded images of each stream.
IMAGES = types.MappingProxyType({"rgb": "frames", "flow": "flow_frames", "backward_flow": "backward_flow_frames"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
  """One clip as it is stored; what was read and not there is '', 0 or (), whatever the default here.

  Attributes:
    id: names the clip within its data set.
    dataset: the data set's name.
    path: the video's path below the data set's folder.
    notes: what was done with the video's frames, see `decode.iter_frames`: deinterlaced, salvaged, HDR and so on.
    labels: class names, none for an unlabelled clip; `label_indices` are their indices.
    start, end: microseconds in the original video.
    frame_rate: frames per second; kept as float32, as `flow_bound` is.
    height, width: of the frames, in pixels.
    image_format: of the frames, 'JPEG' or 'PNG'.
    frames: encoded RGB images; `timestamps` are their times in microseconds from the clip's start.
    flow_frames: encoded flow images (red x, green y), the flow from each frame to the next.
    flow_timestamps: microseconds; a flow has the time of its first frame.
    flow_format, flow_bound, flow_rounding: how flow was encoded; see `codec.encode`.
    flow_method: what computed the flow, see `flow.FlowConfig.flow_method`; '' is TV-L1 with OpenCV's defaults, which
      records stated no method for before there were others.
    backward_flow_frames: encoded like the flow, as many, each the flow of the same two frames from the later to the
      earlier one. `backward_flow_timestamps` are those of the flow (google/mediapipe tvl1_optical_flow_calculator).
    log_mel: spectrogram of the clip's sound, see `sound.log_mel`, the values of one step after those of another.
  """

  id: str
  dataset: str
  path: str = ""
  notes: tuple[str, ...] = ()
  labels: tuple[str, ...] = ()
  label_indices: tuple[int, ...] = ()
  start: int = 0
  end: int = 0
  frame_rate: float = 25.0
  height: int = 0
  width: int = 0
  image_format: str = "JPEG"
  frames: tuple[bytes, ...] = ()
  timestamps: tuple[int, ...] = ()
  flow_format: str = ""
  flow_bound: float = 0.0
  flow_rounding: str = ""
  flow_method: str = ""
  flow_frames: tuple[bytes, ...] = ()
  flow_timestamps: tuple[int, ...] = ()
  backward_flow_frames: tuple[bytes, ...] = ()
  backward_flow_timestamps: tuple[int, ...] = ()
  log_mel: tuple[float, ...] = ()

  @property
  def rate(self) -> float:
    """Frames per second: as stated, or from the median interval of the timestamps, or 0 if neither tells."""
    if self.frame_rate > 0:
      return self.frame_rate
    intervals = np.diff(self.timestamps or self.flow_timestamps)
    median = float(np.median(intervals)) if len(intervals) else 0.0
    return round(1e6 / median, 3) if median >= _SHORTEST_INTERVAL else 0.0


@dataclasses.dataclass(frozen=True)
class Field:
  """Where an attribute of `Record` is stored.

  Attributes:
    attribute: its name in `Record`.
    keys: it is written under all of them and read from the first that holds a value.
    is_sequence: one value a frame (a feature list) rather than one value or list a clip.
    width: values a frame of a sequence.
  """

  attribute: str
  keys: tuple[str, ...]
  is_sequence: bool = False
  width: int = 1


SCHEMA: tuple[Field, ...] = (
  Field("id", ("example/id",)),
  Field("dataset", ("example/dataset_name",)),
  Field("path", ("clip/data_path",)),
  Field("notes", ("clip/notes",)),
  Field("labels", ("clip/label/string", "clip/label/text")),
  Field("label_indices", ("clip/label/index",)),
  Field("start", ("clip/start/timestamp",)),
  Field("end", ("clip/end/timestamp",)),
  Field("frame_rate", ("image/frame_rate",)),
  Field("height", ("image/height",)),
  Field("width", ("image/width",)),
  Field("image_format", ("image/format",)),
  Field("frames", ("image/encoded",), is_sequence=True),
  Field("timestamps", ("image/timestamp",), is_sequence=True),
  Field("flow_format", (f"{_FLOW}image/format",)),
  Field("flow_bound", (f"{_FLOW}encoding/bound",)),
  Field("flow_rounding", (f"{_FLOW}encoding/rounding",)),
  Field("flow_method", (f"{_FLOW}encoding/method",)),
  Field("flow_frames", (f"{_FLOW}image/encoded",), is_sequence=True),
  Field("flow_timestamps", (f"{_FLOW}image/timestamp",), is_sequence=True),
  Field("backward_flow_frames", (f"{_BACKWARD_FLOW}image/encoded",), is_sequence=True),
  Field("backward_flow_timestamps", (f"{_BACKWARD_FLOW}image/timestamp",), is_sequence=True),
  Field("log_mel", ("LOG_MEL/feature/floats",), is_sequence=True, width=sound.NUM_BANDS),
)
_SHORTEST_INTERVAL = 1000  # microseconds; timestamps that are closer count something else
_EXIF = b"Exif\0\0"
_EXIF_PLACES = (6, 24)  # in a JPEG: behind its first marker, or behind JFIF's segment
_EXIF_HEAD = 2048  # bytes of an image among which its orientation stands, if it has one
_ORIENTATION = 0x0112  # the tag of it
_TYPES = {field.name: field.type for field in dataclasses.fields(Record)}
_DTYPES = {int: tf.int64, float: tf.float32, str: tf.string, bytes: tf.string}


def serialize(record: Record) -> bytes:
  """Returns the bytes of a record as a SequenceExample, the same for the same record.

  Args:
    record: the record.

  Raises:
    ValueError: if frames, flow and their timestamps do not fit together, or labels and their indices.
  """
  _check(record)
  example = tf.train.SequenceExample()
  for field in SCHEMA:
    if not _is_stored(record, field):
      continue
    values = _as_list(getattr(record, field.attribute))
    for key in field.keys:
      if field.is_sequence:
        steps = [_feature(values[at : at + field.width], field) for at in range(0, len(values), field.width)]
        example.feature_lists.feature_list[key].feature.extend(steps)
      else:
        example.context.feature[key].CopyFrom(_feature(values, field))
  return example.SerializeToString(deterministic=True)


def deserialize(serialized: bytes) -> Record:
  """Returns the record of a SequenceExample of ours, MediaSequence's or DMVR's, read in Python.

  Args:
    serialized: the bytes.

  Raises:
    I3dError: if it is no SequenceExample, or has values of another type, or not one a frame where there must be.
  """
  example = to_example(serialized)
  values: dict[str, Any] = {}
  for field in SCHEMA:
    found = [_values(example, field, key) for key in field.keys]  # all, since `parse` fails on any wrong type
    value: Any = next(filter(None, found), ())
    if not _is_tuple(field.attribute):
      value = value[0] if value else _element_type(field.attribute)()
    values[field.attribute] = value
  return Record(**values)


def to_example(serialized: bytes) -> tf.train.SequenceExample:
  """Returns the parsed message of a SequenceExample of any keys.

  Args:
    serialized: the bytes.

  Raises:
    I3dError: if it is none.
  """
  try:
    return tf.train.SequenceExample.FromString(serialized)
  except Exception as error:  # protobuf's implementations differ in the class they raise
    raise errors.I3dError(f"the record is no SequenceExample: {error}") from None


def checks(values: Mapping[str, Any]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
  """Yields what can be wrong with a record beside its label and its images, in Python or in a graph.

  Args:
    values: The numbers of images by stream, `frame_rate`, `flow_bound`, and `has_nul`, whether the id has a character
      of that name; Python's or scalar tensors. A rate or bound that is not stated is 0.

  Yields:
    Whether it is so, and the parts of the sentence, texts and numbers.
  """
  frames, flows, backward = (values[stream] for stream in IMAGES)
  yield (frames == 0) & (flows == 0), ("it holds neither frames nor flow",)
  is_odd = (frames > 0) & (flows > 0) & (flows != frames - 1)
  yield is_odd, (frames, " frames have ", flows, " flow images, not ", frames - 1)
  yield (backward != 0) & (backward != flows), (flows, " flow images have ", backward, " backward flow images")
  for name, what in (("frame_rate", "its frames per second are "), ("flow_bound", "its flow's bound is ")):
    value = values[name]
    is_odd = (value < 0) | (value > _LARGEST) | (value != value)
    yield is_odd, (what, value, f", not a number from 0 to {_LARGEST:,}")
  yield values["has_nul"], ("its id holds a NUL character",)


def problems(record: Record) -> list[str]:
  """Returns what is wrong with a record beside its label and its images, each in a clause.

  Args:
    record: What was read.
  """
  values = {
    **{stream: len(getattr(record, images)) for stream, images in IMAGES.items()},
    "frame_rate": record.frame_rate,
    "flow_bound": record.flow_bound,
    "has_nul": "\0" in record.id,
  }
  return ["".join(map(str, parts)) for is_so, parts in checks(values) if is_so]


def first_problem(parsed: Mapping[str, tf.Tensor]) -> tf.Tensor:
  """Returns the first of `problems` in a graph, a scalar string; '' if there is none.

  Args:
    parsed: As `parse` returns it.
  """
  values = {
    **{stream: tf.size(parsed[images]) for stream, images in IMAGES.items()},
    "frame_rate": parsed["frame_rate"],
    "flow_bound": parsed["flow_bound"],
    "has_nul": tf.strings.length(tf.strings.regex_replace(parsed["id"], r"\x00", "")) < tf.strings.length(parsed["id"]),
  }
  found = tf.constant("")
  as_text = lambda part: tf.strings.as_string(part, shortest=part.dtype.is_floating)
  for is_so, parts in reversed(list(checks(values))):
    texts = [part if isinstance(part, str) else as_text(part) for part in parts]
    found = tf.where(is_so, tf.strings.join(texts), found)
  return found


def _parsing_specs() -> tuple[dict[str, tf.io.VarLenFeature], dict[str, tf.io.FixedLenSequenceFeature]]:
  """Returns what `tf.io.parse_single_sequence_example` needs: the context's features and the sequences'."""
  context, sequence = {}, {}
  for field in SCHEMA:
    dtype = _DTYPES[_element_type(field.attribute)]
    for key in field.keys:
      if field.is_sequence:
        shape = [field.width] if field.width > 1 else []
        sequence[key] = tf.io.FixedLenSequenceFeature(shape, dtype, allow_missing=True)
      else:
        context[key] = tf.io.VarLenFeature(dtype)
  return context, sequence


def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
  """Parses one serialized record in a TensorFlow graph.

  Args:
    serialized: a scalar string.

  Returns:
    By attribute of `Record`: vectors for `labels`, `label_indices` and everything stored once a frame, scalars for the
    rest (absent ones are empty strings or 0). Images stay encoded. The spectrogram is `[steps, bands]`.
  """
  context, sequence = tf.io.parse_single_sequence_example(serialized, *_parsing_specs())
  parsed = {}
  for field in SCHEMA:
    if field.is_sequence:
      parsed[field.attribute] = sequence[field.keys[0]]
      continue
    values = [tf.sparse.to_dense(context[key]) for key in field.keys]
    value = values[0]
    for other in values[1:]:
      value = tf.cond(tf.size(value) > 0, lambda value=value: value, lambda other=other: other)
    if not _is_tuple(field.attribute):
      value = tf.concat([value, tf.zeros([1], value.dtype)], axis=0)[0]  # a string's zero is ''
    parsed[field.attribute] = value
  return parsed


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)  # traced once, of many operations
def orientation(image: tf.Tensor) -> tf.Tensor:
  """Returns how the pixels of an image are to be turned, as cameras write it into JPEGs: 1 to 8, an int32 scalar.

  Args:
    image: Encoded image, string; of one without Exif data the orientation is 1, upright.
  """
  head = tf.strings.join([tf.strings.substr(image, 0, 32), "\0" * 32])  # as long as all places
  found = [tf.strings.substr(head, place, len(_EXIF)) == _EXIF for place in _EXIF_PLACES]
  starts = [tf.where(is_there, place + len(_EXIF), 0) for is_there, place in zip(found, _EXIF_PLACES, strict=True)]
  return tf.cond(tf.reduce_any(found), lambda: _read_orientation(image, tf.reduce_max(starts)), lambda: 1)


def _read_orientation(image: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
  """The orientation in the first folder of the TIFF file that begins at `start`; 1 if there is none."""
  head = tf.cast(tf.io.decode_raw(image, tf.uint8, fixed_length=_EXIF_HEAD), tf.int32)
  at = lambda places: tf.gather(head, tf.clip_by_value(places, 0, _EXIF_HEAD - 1))
  is_little = at(start) == ord("I")

  def number(place: tf.Tensor, size: int) -> tf.Tensor:
    found = [at(place + i) for i in range(size)]
    little, big = (sum(byte * (1 << 8 * i) for i, byte in enumerate(order)) for order in (found, found[::-1]))
    return tf.where(is_little, little, big)

  folder = start + number(start + 4, 4)
  entries = tf.range(_EXIF_HEAD // 12)
  places = folder + 2 + 12 * entries
  is_wanted = (number(places, 2) == _ORIENTATION) & (entries < number(folder, 2))
  value = tf.reduce_max(tf.where(is_wanted, number(places + 8, 2), 1))
  return tf.where(value <= 8, value, 1)


def upright(pixels: tf.Tensor, how: tf.Tensor) -> tf.Tensor:
  """Returns an image turned as its orientation says.

  Args:
    pixels: `[H, W, C]` as stored.
    how: The orientation.
  """
  flips = tf.stack([tf.reduce_any(how == [3, 4, 7, 8]), tf.reduce_any(how == [2, 3, 6, 7]), False])
  turned = tf.cond(how >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
  return tf.raw_ops.Reverse(tensor=turned, dims=flips)


def _check(record: Record) -> None:
  if len(record.frames) != len(record.timestamps):
    raise ValueError(f"{record.id}: {len(record.frames)} frames have {len(record.timestamps)} timestamps")
  if len(record.flow_frames) != len(record.flow_timestamps):
    raise ValueError(f"{record.id}: {len(record.flow_frames)} flows have {len(record.flow_timestamps)} timestamps")
  if len(record.log_mel) % sound.NUM_BANDS:
    raise ValueError(f"{record.id}: {len(record.log_mel)} values of sound are no number of steps of {sound.NUM_BANDS}")
  if record.frames and record.flow_frames and len(record.flow_frames) != len(record.frames) - 1:
    raise ValueError(f"{record.id}: {len(record.frames)} frames have {len(record.flow_frames)} flows, not one fewer")
  num_backward = len(record.backward_flow_frames)
  if num_backward != len(record.backward_flow_timestamps):
    times = len(record.backward_flow_timestamps)
    raise ValueError(f"{record.id}: {num_backward} backward flows have {times} timestamps")
  if num_backward not in (0, len(record.flow_frames)):
    raise ValueError(f"{record.id}: {len(record.flow_frames)} flows have {num_backward} backward flows")
  if len(record.labels) != len(record.label_indices):
    raise ValueError(f"{record.id}: {len(record.labels)} labels have {len(record.label_indices)} indices")


def _is_stored(record: Record, field: Field) -> bool:
  """Whether the field says something: without flow, flow's description does not; without RGB, its format."""
  if field.attribute == "flow_method":
    return bool(record.flow_frames and record.flow_method)
  if field.attribute.startswith("flow_"):
    return bool(record.flow_frames)
  if field.attribute == "image_format":
    return bool(record.frames)
  return getattr(record, field.attribute) != ()


def _element_type(attribute: str) -> type:
  annotation: Any = _TYPES[attribute]
  return annotation.__args__[0] if _is_tuple(attribute) else annotation


def _is_tuple(attribute: str) -> bool:
  return hasattr(_TYPES[attribute], "__args__")


def _as_list(value) -> list:
  return list(value) if isinstance(value, tuple) else [value]


def _feature(values: Sequence[Any], field: Field) -> tf.train.Feature:
  match _element_type(field.attribute)():
    case int():
      return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    case float():
      return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    case str():  # a path need not be text
      values = [value.encode(errors="surrogateescape") for value in values]
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _values(example: tf.train.SequenceExample, field: Field, key: str) -> tuple:
  """The values under one of the field's keys; none if it is absent."""
  source = example.feature_lists.feature_list if field.is_sequence else example.context.feature
  if key not in source:
    return ()
  element = _element_type(field.attribute)
  kind = {int: "int64_list", float: "float_list"}.get(element, "bytes_list")
  values = []
  for step, feature in enumerate(source[key].feature if field.is_sequence else [source[key]]):
    if feature.WhichOneof("kind") not in (kind, None):
      raise errors.I3dError(f"the record's {key} is of kind {feature.WhichOneof('kind')}; it must be {kind}")
    found = getattr(feature, kind).value
    if field.is_sequence and len(found) != field.width:
      wanted = field.width if field.width > 1 else "one"
      raise errors.I3dError(f"the record's {key} has {len(found)} values at step {step}; it must have {wanted}")
    values += [value.decode(errors="surrogateescape") if element is str else value for value in found]
  return tuple(values)
