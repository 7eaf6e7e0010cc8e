"""The networks that the paper compares (arXiv 1705.07750, tables 1 to 3), and the one that they start from.

Sizes are those of that comparison: 400 classes, 25 frames per second; tests those of table 1 and section 2.
"""

from collections.abc import Mapping

from i3d_tf.models import zoo_entry

_TABLE_3 = "Carreira and Zisserman, arXiv 1705.07750, table 3"

MODELS: Mapping[str, zoo_entry.Entry] = {
  "i3d": zoo_entry.Entry(
    title="Inflated 3D ConvNet; streams are trained apart",
    constructor="i3d_tf.models.inception:InceptionI3d",
    streams=("rgb", "flow"),
    options=("average_space",),
    trunk="",
    training={"num_frames": 64, "frame_stride": 1, **zoo_entry.FULL_SIZE},
    test={"protocol": "release", "max_frames": 250, "min_frames": 9},
    parameters={"rgb": 12_689_984, "flow": 12_668_032},
    giga_multiply_adds={"rgb": 111.15, "flow": 102.34},
    accuracies={
      "scratch": {"rgb": 68.4, "flow": 61.5, "rgb+flow": 71.6},
      "imagenet": {"rgb": 71.1, "flow": 63.4, "rgb+flow": 74.2},
    },
    source=_TABLE_3,
  ),
  "convnet_lstm": zoo_entry.Entry(
    title="ConvNet+LSTM: Inception-v1 on every fifth frame, LSTM with batch norm",
    constructor="i3d_tf.models.convnet_lstm:ConvNetLstm",
    streams=("rgb", "flow"),
    options=("num_frames",),
    trunk="inception_v1/",
    training={"num_frames": 25, "frame_stride": 5, **zoo_entry.FULL_SIZE},
    test={"protocol": "release", "max_frames": 50, "min_frames": 1},
    parameters={"rgb": 8_950_720, "flow": 8_947_584},
    giga_multiply_adds={"rgb": 37.52, "flow": 36.53},
    accuracies={"scratch": {"rgb": 53.9}, "imagenet": {"rgb": 63.3}},
    source=_TABLE_3,
  ),
  "c3d": zoo_entry.Entry(
    title="3D-ConvNet: C3D with batch norm",
    constructor="i3d_tf.models.c3d:C3D",
    streams=("rgb", "flow"),
    options=("num_frames", "crop"),
    training={"num_frames": 16, "frame_stride": 1, "short_side": 128, "crop": 112},
    test={"protocol": "clips", "num_clips": 15},
    parameters={"rgb": 79_634_576, "flow": 79_632_848},
    giga_multiply_adds={"rgb": 19.82, "flow": 19.47},
    accuracies={"scratch": {"rgb": 56.1}},
    source=_TABLE_3,
  ),
  "two_stream": zoo_entry.Entry(
    title="Two-Stream: Inception-v1 on one frame, and on ten flows",
    constructor="i3d_tf.models.two_stream:TwoStream",
    streams=("rgb", "flow", "joint"),
    options=("streams",),
    trunk="{stream}/",
    training={"num_frames": 1, "frame_stride": 1, "flow_stack": 10, **zoo_entry.FULL_SIZE},
    test={"protocol": "clips", "num_clips": 25},
    parameters={"rgb": 6_002_624, "flow": 6_055_936, "joint": 12_058_560},
    giga_multiply_adds={"rgb": 1.50, "flow": 2.17, "joint": 3.66},
    accuracies={
      "scratch": {"rgb": 57.9, "flow": 49.6, "joint": 62.8},
      "imagenet": {"rgb": 62.2, "flow": 52.4, "joint": 65.6},
    },
    source=_TABLE_3,
  ),
  "fused_two_stream": zoo_entry.Entry(
    title="3D-Fused Two-Stream: five frames and their flow, joined by a 3D convolution",
    constructor="i3d_tf.models.two_stream:FusedTwoStream",
    streams=("rgb", "flow", "joint"),
    options=("streams",),
    trunk="{stream}/",
    training={"num_frames": 5, "frame_stride": 10, "flow_stack": 10, **zoo_entry.FULL_SIZE},
    test={"protocol": "clips", "num_clips": 5},
    parameters={"rgb": 19_954_112, "flow": 20_007_424, "joint": 39_755_824},
    giga_multiply_adds={"rgb": 10.96, "flow": 14.30, "joint": 25.25},
    accuracies={"scratch": {"joint": 62.7}, "imagenet": {"joint": 67.2}},
    source=_TABLE_3,
  ),
  "inception_v1": zoo_entry.Entry(
    title="Inception-v1 with batch norm on every frame by itself; what the others start from",
    constructor="i3d_tf.models.inception:InceptionV1",
    streams=("rgb", "flow"),
    options=("average_space",),
    trunk="",
    training={"num_frames": 1, "frame_stride": 1, **zoo_entry.FULL_SIZE},
    test={"protocol": "clips", "num_clips": 25},
    parameters={"rgb": 6_002_624, "flow": 5_999_488},
    giga_multiply_adds={"rgb": 1.50, "flow": 1.46},
    accuracies={},
    source="tensorflow/models, research/slim/nets/inception_v1.py",
  ),
}
