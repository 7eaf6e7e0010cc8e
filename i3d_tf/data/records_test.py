"""The records against TensorFlow's own parser, with the keys that MediaSequence and DMVR publish."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.data import records

_RECORD = records.Record(
  id="train/run/ä",
  dataset="folder",
  path="train/run/ä.avi",
  notes=("deinterlaced", "größer"),
  labels=("run", "jump"),
  label_indices=(7, 2),
  start=1_500_000,
  end=1_620_000,
  frame_rate=12.5,
  height=48,
  width=64,
  image_format="PNG",
  frames=(b"\xff\xd8 one", b"", b"three\x00"),
  timestamps=(0, 40_000, 80_000),
  flow_format="JPEG",
  flow_bound=16.0,
  flow_rounding="nearest",
  flow_method="dis preset=fast",
  flow_frames=(b"first", b"second"),
  flow_timestamps=(0, 40_001),
  backward_flow_frames=(b"first back", b"second back"),
  backward_flow_timestamps=(0, 40_001),
  log_mel=tuple(number / 4 for number in range(128)),
)
_BACKWARD_FIELDS = ("backward_flow_frames", "backward_flow_timestamps")
_FLOW_FIELDS = (
  "flow_format", "flow_bound", "flow_rounding", "flow_method", "flow_frames", "flow_timestamps", *_BACKWARD_FIELDS
)  # fmt: skip
_ONE_VALUE = tf.io.FixedLenSequenceFeature


def _without(record: records.Record, *attributes: str) -> records.Record:
  return dataclasses.replace(record, **{name: type(getattr(record, name))() for name in attributes})


def _example(context: dict[str, list] | None = None, sequences: dict[str, list[list]] | None = None) -> bytes:
  """A SequenceExample by hand: lists of bytes, int or float by key, and lists of such lists."""
  example = tf.train.SequenceExample()
  for key, values in (context or {}).items():
    _fill(example.context.feature[key], values)
  for key, steps in (sequences or {}).items():
    for values in steps:
      _fill(example.feature_lists.feature_list[key].feature.add(), values)
  return example.SerializeToString()


def _fill(feature: tf.train.Feature, values: list) -> None:
  lists = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
  for value in values:
    lists[type(value)].value.append(value)


def _keys(serialized: bytes) -> set[str]:
  example = tf.train.SequenceExample.FromString(serialized)
  return {*example.context.feature, *example.feature_lists.feature_list}


def _parsed(serialized: bytes) -> records.Record:
  """What `parse` gives in a tf.data graph, as a record."""
  dataset = tf.data.Dataset.from_tensors(serialized).map(records.parse)
  values = next(dataset.as_numpy_iterator())

  def plain(name: str, value):
    is_text = name not in records.IMAGES.values()
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) and is_text else value

  def whole(name: str, value):
    is_many = getattr(value, "ndim", 0)
    return tuple(plain(name, item) for item in value.ravel().tolist()) if is_many else plain(name, value)

  return records.Record(**{name: whole(name, value) for name, value in values.items()})


class RecordsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("both", _RECORD),
    ("rgb", _without(_RECORD, *_FLOW_FIELDS)),
    ("without_backward_flow", _without(_RECORD, *_BACKWARD_FIELDS)),
    ("flow", _without(_RECORD, "frames", "timestamps", "image_format")),
    ("unlabelled", _without(_RECORD, "labels", "label_indices")),
    ("names_only", records.Record(id="a", dataset="b", frame_rate=0.0, image_format="")),
    ("path_that_is_no_text", dataclasses.replace(_RECORD, path="run/\udcff\udc80.avi")),
  )
  def test_what_is_written_is_read(self, record):
    serialized = records.serialize(record)
    self.assertEqual(records.deserialize(serialized), record)
    self.assertEqual(_parsed(serialized), record)

  def test_every_attribute_is_in_the_schema_and_set_here(self):
    names = [field.name for field in dataclasses.fields(records.Record)]
    self.assertCountEqual([field.attribute for field in records.SCHEMA], names)
    unset = records.Record(id="", dataset="")
    self.assertEmpty([name for name in names if getattr(_RECORD, name) == getattr(unset, name)])

  def test_what_says_nothing_is_left_out(self):
    keys = _keys(records.serialize(_without(_RECORD, *_FLOW_FIELDS, "labels", "label_indices")))
    self.assertEmpty([key for key in keys if key.startswith(("FORWARD_FLOW/", "BACKWARD_FLOW/", "clip/label/"))])
    keys = _keys(records.serialize(_without(_RECORD, "frames", "timestamps")))
    self.assertEmpty(keys & {"image/encoded", "image/timestamp", "image/format"})
    self.assertContainsSubset({"FORWARD_FLOW/image/encoded", "FORWARD_FLOW/image/format"}, keys)
    self.assertEqual(
      {key for key in keys if key.startswith("BACKWARD_FLOW/")},
      {"BACKWARD_FLOW/image/encoded", "BACKWARD_FLOW/image/timestamp"},
    )
    self.assertEmpty([key for key in _keys(records.serialize(_without(_RECORD, *_BACKWARD_FIELDS))) if "BACK" in key])

  def test_bytes_are_the_same_however_the_record_came_about(self):
    serialized = records.serialize(_RECORD)
    self.assertEqual(records.serialize(records.deserialize(serialized)), serialized)
    integral = dataclasses.replace(_RECORD, frame_rate=25, flow_bound=20)
    floating = dataclasses.replace(_RECORD, frame_rate=25.0, flow_bound=20.0)
    self.assertEqual(records.serialize(integral), records.serialize(floating))

  def test_keys_are_sorted_as_equal_bytes_need(self):
    serialized = records.serialize(_RECORD)
    for is_sequence in (False, True):
      keys = [key for field in records.SCHEMA if field.is_sequence == is_sequence for key in field.keys]
      places = {key: serialized.index(bytes([0x0A, len(key)]) + key.encode()) for key in keys}  # 0x0a: a map's key
      self.assertEqual(sorted(keys, key=places.get), sorted(keys))

  def test_mediasequence_keys_read_our_records(self):
    # The keys and types of google/mediapipe media_sequence, as its Kinetics example parses them.
    context, sequence = tf.io.parse_single_sequence_example(
      records.serialize(_RECORD),
      context_features={
        "example/id": tf.io.FixedLenFeature([], tf.string),
        "example/dataset_name": tf.io.FixedLenFeature([], tf.string),
        "clip/data_path": tf.io.FixedLenFeature([], tf.string),
        "clip/start/timestamp": tf.io.FixedLenFeature([], tf.int64),
        "clip/end/timestamp": tf.io.FixedLenFeature([], tf.int64),
        "clip/label/index": tf.io.FixedLenFeature([2], tf.int64),
        "clip/label/string": tf.io.FixedLenFeature([2], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string),
        "image/height": tf.io.FixedLenFeature([], tf.int64),
        "image/width": tf.io.FixedLenFeature([], tf.int64),
        "image/frame_rate": tf.io.FixedLenFeature([], tf.float32),
        "FORWARD_FLOW/image/format": tf.io.FixedLenFeature([], tf.string),
      },
      sequence_features={
        "image/encoded": _ONE_VALUE([], tf.string),
        "image/timestamp": _ONE_VALUE([], tf.int64),
        "FORWARD_FLOW/image/encoded": _ONE_VALUE([], tf.string),
        "FORWARD_FLOW/image/timestamp": _ONE_VALUE([], tf.int64),
        "BACKWARD_FLOW/image/encoded": _ONE_VALUE([], tf.string),
        "BACKWARD_FLOW/image/timestamp": _ONE_VALUE([], tf.int64),
      },
    )
    self.assertEqual(
      {key: value.numpy().tolist() if value.shape.rank else value.numpy() for key, value in context.items()},
      {
        "example/id": "train/run/ä".encode(),
        "example/dataset_name": b"folder",
        "clip/data_path": "train/run/ä.avi".encode(),
        "clip/start/timestamp": 1_500_000,
        "clip/end/timestamp": 1_620_000,
        "clip/label/index": [7, 2],
        "clip/label/string": [b"run", b"jump"],
        "image/format": b"PNG",
        "image/height": 48,
        "image/width": 64,
        "image/frame_rate": 12.5,
        "FORWARD_FLOW/image/format": b"JPEG",
      },
    )
    self.assertEqual(
      {key: value.numpy().tolist() for key, value in sequence.items()},
      {
        "image/encoded": [b"\xff\xd8 one", b"", b"three\x00"],
        "image/timestamp": [0, 40_000, 80_000],
        "FORWARD_FLOW/image/encoded": [b"first", b"second"],
        "FORWARD_FLOW/image/timestamp": [0, 40_001],
        "BACKWARD_FLOW/image/encoded": [b"first back", b"second back"],
        "BACKWARD_FLOW/image/timestamp": [0, 40_001],
      },
    )

  def test_dmvr_keys_read_our_records(self):
    # The defaults of deepmind/dmvr modalities.add_image and add_label.
    context, sequence = tf.io.parse_single_sequence_example(
      records.serialize(_RECORD),
      context_features={
        "clip/label/index": tf.io.VarLenFeature(tf.int64),
        "clip/label/text": tf.io.VarLenFeature(tf.string),
      },
      sequence_features={"image/encoded": _ONE_VALUE([], tf.string)},
    )
    self.assertEqual(context["clip/label/index"].values.numpy().tolist(), [7, 2])
    self.assertEqual(context["clip/label/text"].values.numpy().tolist(), [b"run", b"jump"])
    self.assertEqual(sequence["image/encoded"].numpy().tolist(), list(_RECORD.frames))

  @parameterized.named_parameters(
      (
          "mediasequence",
          {"example/id": [b"v_7"], "clip/label/string": [b"run"], "clip/label/index": [3], "image/frame_rate": [25.0]},
          {"image/encoded": [[b"x"], [b"y"]], "image/timestamp": [[5], [9]], "FORWARD_FLOW/image/encoded": [[b"f"]]},
          {
              "id": "v_7", "labels": ("run",), "label_indices": (3,), "frame_rate": 25.0, "frames": (b"x", b"y"),
              "timestamps": (5, 9), "flow_frames": (b"f",),
          },
      ),
      (
          "dmvr",
          {"clip/label/text": [b"run"], "clip/label/index": [3], "clip/end/timestamp": [9], "video/filename": [b"v"]},
          {"image/encoded": [[b"x"], [b"y"]], "WAVEFORM/feature/floats": [[0.5, 0.25]]},
          {"labels": ("run",), "label_indices": (3,), "end": 9, "frames": (b"x", b"y")},
      ),
      ("both_texts", {"clip/label/text": [b"no"], "clip/label/string": [b"yes"]}, {}, {"labels": ("yes",)}),
      ("empty_string", {"clip/label/text": [b"yes"], "clip/label/string": []}, {}, {"labels": ("yes",)}),
      ("several_values_of_one", {"image/height": [4, 5], "example/id": [b"a", b"b"]}, {}, {"height": 4, "id": "a"}),
      ("text_that_is_no_utf8", {"example/id": [b"\xff"]}, {}, {"id": "\udcff"}),
      ("nothing", {}, {}, {}),
  )  # fmt: skip
  def test_records_of_others_are_read(self, context, sequences, expected):
    absent = {"id": "", "dataset": "", "frame_rate": 0.0, "image_format": ""}
    serialized = _example(context, sequences)
    self.assertEqual(records.deserialize(serialized), records.Record(**(absent | expected)))
    self.assertEqual(_parsed(serialized), records.Record(**(absent | expected)))

  @parameterized.named_parameters(
    ("context", {"image/height": [b"48"]}, {}, "image/height is of kind bytes_list; it must be int64_list"),
    ("float", {"image/frame_rate": [25]}, {}, "image/frame_rate is of kind int64_list; it must be float_list"),
    ("second_key", {"clip/label/string": [b"a"], "clip/label/text": [1]}, {}, "clip/label/text is of kind int64"),
    ("sequence", {}, {"image/encoded": [[b"a"], [1]]}, "image/encoded is of kind int64_list; it must be bytes_list"),
    ("two_in_a_step", {}, {"image/timestamp": [[0], [1, 2]]}, "image/timestamp has 2 values at step 1; it must have"),
    ("none_in_a_step", {}, {"image/encoded": [[b"a"], []]}, "image/encoded has 0 values at step 1; it must have one"),
  )
  def test_values_of_the_wrong_kind_are_refused_by_both(self, context, sequences, message):
    serialized = _example(context, sequences)
    with self.assertRaisesRegex(errors.I3dError, f"^the record's .*{message}"):
      records.deserialize(serialized)
    with self.assertRaises(tf.errors.InvalidArgumentError):
      records.parse(tf.constant(serialized))

  def test_torn_bytes_are_refused_in_a_sentence(self):
    serialized = records.serialize(_RECORD)
    for size in (1, 10, len(serialized) // 2, len(serialized) - 1):
      with self.assertRaisesRegex(errors.I3dError, "^the record is no SequenceExample: [^\n]+$", msg=size):
        records.deserialize(serialized[:size])
    with self.assertRaises(errors.I3dError):
      records.deserialize(b"no record at all")

  @parameterized.named_parameters(
    ("timestamps", {"timestamps": (0, 1)}, "ä: 3 frames have 2 timestamps"),
    ("flow_timestamps", {"flow_timestamps": (0, 1, 2)}, "ä: 2 flows have 3 timestamps"),
    ("flow", {"flow_frames": (b"a",) * 3, "flow_timestamps": (0, 1, 2)}, "ä: 3 frames have 3 flows, not one fewer"),
    ("backward_timestamps", {"backward_flow_timestamps": (0,)}, "ä: 2 backward flows have 1 timestamps"),
    (
      "backward_flow",
      {"backward_flow_frames": (b"a",), "backward_flow_timestamps": (0,)},
      "ä: 2 flows have 1 backward flows",
    ),
    ("labels", {"label_indices": (7,)}, "ä: 2 labels have 1 indices"),
  )
  def test_what_does_not_fit_together_is_not_written(self, changes, message):
    with self.assertRaisesRegex(ValueError, f"{message}$"):
      records.serialize(dataclasses.replace(_RECORD, **changes))


if __name__ == "__main__":
  absltest.main()
