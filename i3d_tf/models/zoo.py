"""Every network by name: what it takes, how it is tested, what is published of it. Imports no TensorFlow.

`python -m i3d_tf.models` prints the table. Sizes are those of the paper's comparison (arXiv 1705.07750, tables 1 to 3):
400 classes, 25 frames per second.
"""

from collections.abc import Mapping
import dataclasses
import importlib
import types
from typing import Any

from i3d_tf import errors

_PAPER = "Carreira and Zisserman, arXiv 1705.07750"
_TABLE_3 = f"{_PAPER}, table 3"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """One network.

  Attributes:
    title: in a few words.
    constructor: module and class.
    streams: what it can be trained on: 'rgb', 'flow', or 'joint' for both at once.
    options: arguments of the constructor, beside those that all have, by the names of `saved.ModelInfo`.
    trunk: what the names of its Inception-v1 begin with, '{stream}' standing for the stream; None if it has none.
    training: what a clip of training is, by the names of `clip_options.TrainClips`.
    test: protocol and number of clips or frames of its test, by the names of `clip_options.EvalClips` (paper, table 1
      and section 2); the clips are those of training.
    parameters: trained values by stream, for 400 classes.
    giga_multiply_adds: of a clip of training, forward, by stream. One multiplication and addition counts 1, those on
      padding included; biases, batch norm, pools and gates between units are not counted.
    accuracies: published top-1 accuracy in percent on the test set of Kinetics-400, by what it started from and by
      stream.
    source: of architecture and accuracies.
  """

  title: str
  constructor: str
  streams: tuple[str, ...]
  options: tuple[str, ...] = ()
  trunk: str | None = None
  training: Mapping[str, Any]
  test: Mapping[str, Any]
  parameters: Mapping[str, int]
  giga_multiply_adds: Mapping[str, float]
  accuracies: Mapping[str, Mapping[str, float]]
  source: str

  def make(self, num_classes: int, **options: Any):
    """The network, not yet built."""
    module, _, name = self.constructor.partition(":")
    return getattr(importlib.import_module(module), name)(num_classes, **options)


_FULL = {"short_side": 256, "crop": 224}

MODELS: Mapping[str, Entry] = types.MappingProxyType({
    "i3d": Entry(
        title="Inflated 3D ConvNet; streams are trained apart",
        constructor="i3d_tf.models.inception:InceptionI3d",
        streams=("rgb", "flow"),
        options=("average_space",),
        trunk="",
        training={"num_frames": 64, "frame_stride": 1, **_FULL},
        test={"protocol": "release", "max_frames": 250, "min_frames": 9},
        parameters={"rgb": 12_689_984, "flow": 12_668_032},
        giga_multiply_adds={"rgb": 111.15, "flow": 102.34},
        accuracies={
            "scratch": {"rgb": 68.4, "flow": 61.5, "rgb+flow": 71.6},
            "imagenet": {"rgb": 71.1, "flow": 63.4, "rgb+flow": 74.2},
        },
        source=_TABLE_3,
    ),
    "convnet_lstm": Entry(
        title="ConvNet+LSTM: Inception-v1 on every fifth frame, LSTM with batch norm",
        constructor="i3d_tf.models.convnet_lstm:ConvNetLstm",
        streams=("rgb", "flow"),
        options=("num_frames",),
        trunk="inception_v1/",
        training={"num_frames": 25, "frame_stride": 5, **_FULL},
        test={"protocol": "release", "max_frames": 50, "min_frames": 1},
        parameters={"rgb": 8_950_720, "flow": 8_947_584},
        giga_multiply_adds={"rgb": 37.52, "flow": 36.53},
        accuracies={"scratch": {"rgb": 53.9}, "imagenet": {"rgb": 63.3}},
        source=_TABLE_3,
    ),
    "c3d": Entry(
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
    "two_stream": Entry(
        title="Two-Stream: Inception-v1 on one frame, and on ten flows",
        constructor="i3d_tf.models.two_stream:TwoStream",
        streams=("rgb", "flow", "joint"),
        options=("streams",),
        trunk="{stream}/",
        training={"num_frames": 1, "frame_stride": 1, "flow_stack": 10, **_FULL},
        test={"protocol": "clips", "num_clips": 25},
        parameters={"rgb": 6_002_624, "flow": 6_055_936, "joint": 12_058_560},
        giga_multiply_adds={"rgb": 1.50, "flow": 2.17, "joint": 3.66},
        accuracies={
            "scratch": {"rgb": 57.9, "flow": 49.6, "joint": 62.8},
            "imagenet": {"rgb": 62.2, "flow": 52.4, "joint": 65.6},
        },
        source=_TABLE_3,
    ),
    "fused_two_stream": Entry(
        title="3D-Fused Two-Stream: five frames and their flow, joined by a 3D convolution",
        constructor="i3d_tf.models.two_stream:FusedTwoStream",
        streams=("rgb", "flow", "joint"),
        options=("streams",),
        trunk="{stream}/",
        training={"num_frames": 5, "frame_stride": 10, "flow_stack": 10, **_FULL},
        test={"protocol": "clips", "num_clips": 5},
        parameters={"rgb": 19_954_112, "flow": 20_007_424, "joint": 39_755_824},
        giga_multiply_adds={"rgb": 10.96, "flow": 14.30, "joint": 25.25},
        accuracies={"scratch": {"joint": 62.7}, "imagenet": {"joint": 67.2}},
        source=_TABLE_3,
    ),
    "inception_v1": Entry(
        title="Inception-v1 with batch norm on every frame by itself; what the others start from",
        constructor="i3d_tf.models.inception:InceptionV1",
        streams=("rgb", "flow"),
        options=("average_space",),
        trunk="",
        training={"num_frames": 1, "frame_stride": 1, **_FULL},
        test={"protocol": "clips", "num_clips": 25},
        parameters={"rgb": 6_002_624, "flow": 5_999_488},
        giga_multiply_adds={"rgb": 1.50, "flow": 1.46},
        accuracies={},
        source="tensorflow/models, research/slim/nets/inception_v1.py",
    ),
})


def get(name: str) -> Entry:
  """The entry of a network.

  Raises:
    I3dError: if there is none of that name.
  """
  if name not in MODELS:
    raise errors.I3dError(f"--model is {name!r}; there are {', '.join(MODELS)}")
  return MODELS[name]


def training_clips(name: str, stream: str) -> dict[str, Any]:
  """What a clip of training is for a network and stream, by the names of `clip_options.TrainClips`."""
  training = get(name).training
  return {key: value for key, value in training.items() if stream != "rgb" or not key.startswith("flow_")}


def check_stream(name: str, stream: str) -> None:
  """Raises I3dError if the network cannot take the stream."""
  streams = get(name).streams
  if stream not in streams:
    apart = "; train its streams apart, and evaluate joins them" if stream == "joint" else ""
    raise errors.I3dError(f"--stream={stream}: {name} takes {' or '.join(streams)}{apart}")
