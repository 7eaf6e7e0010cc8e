"""The signatures of an exported network: what each is called with and returns.

The files that tell whoever uses an exported network what it is: its classes, and what it expects.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import json
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import provenance
from i3d_tf.exporting import classifier as classifier_lib
from i3d_tf.input import clip_config
from i3d_tf.input import ops
from i3d_tf.input import sampling
from i3d_tf.models import base
from i3d_tf.video import decode
from i3d_tf.weights import saved

DEFAULT = "serving_default"
PROBABILITIES = "probabilities"
STEP_LOGITS = "step_logits"
# A name that ends in _bytes, so that TensorFlow Serving takes base64 over HTTP (tensorflow/serving, g3doc/api_rest.md).
JPEG, JPEG_INPUT = "jpeg", "jpeg_bytes"
# Of deepmind/i3d-kinetics-400/1 as its users call it (tensorflow/docs, hub/tutorials/action_recognition_with_tf_hub):
# signatures['default'](clips)['default'] are logits. It takes values as they are: users who give it black frames as -1
# (google-research/google-research, frechet_video_distance) print the logits that the network has for -1, and the
# tutorial gives it [0, 1].
HUB, HUB_INPUT, HUB_OUTPUT = "default", "rgb_input", "default"


@dataclasses.dataclass(frozen=True)
class Signature:
  """One signature.

  Attributes:
    what: it returns, in a few words.
    inputs: what it is called with, by name.
    apply: from the inputs by name to the outputs by name.
  """

  what: str
  inputs: Mapping[str, tf.TensorSpec]
  apply: Callable[..., dict[str, tf.Tensor]]

  @functools.cached_property
  def function(self) -> tf.types.experimental.ConcreteFunction:
    """The signature, traced."""
    return tf.function(lambda **inputs: self.apply(**inputs), autograph=False).get_concrete_function(**self.inputs)


def make(
  classifier: classifier_lib.Classifier, specs: classifier_lib.Specs, endpoints: Iterable[str] = ()
) -> dict[str, Signature]:
  """All signatures of a network by name: for its logits, which is the default one, and whatever else it can do.

  Args:
    classifier: the network or networks.
    specs: the clips it takes by stream.
    endpoints: those that get a signature of their own.

  Raises:
    I3dError: for an endpoint that it does not have.
  """
  logits = lambda clips: classifier(clips)[base.LOGITS]
  probabilities = lambda clips: {PROBABILITIES: tf.nn.softmax(logits(clips))}
  of_clips = lambda what, output: Signature(what, specs, lambda **clips: output(clips))
  signatures = {
    DEFAULT: of_clips("logits", lambda clips: {"logits": logits(clips)}),
    PROBABILITIES: of_clips("probabilities of the classes", probabilities),
  }
  available = tf.function(classifier, autograph=False).get_concrete_function(dict(specs)).structured_outputs
  if base.STEP_LOGITS in available:
    step_logits = lambda clips: {STEP_LOGITS: classifier(clips)[base.STEP_LOGITS]}
    signatures[STEP_LOGITS] = of_clips("logits of each step in time", step_logits)
  for name in endpoints:
    if name not in available:
      raise errors.I3dError(f"--endpoints has {name}; there are {', '.join(available)}")
    signatures[name] = of_clips(f"endpoint {name}", lambda clips, name=name: {name: classifier(clips)[name]})
  if classifier.streams == ("rgb",):
    signatures |= _of_rgb(classifier, specs["rgb"], logits, probabilities)
  return signatures


def _of_rgb(classifier: classifier_lib.Classifier, spec: tf.TensorSpec, logits, probabilities) -> dict[str, Signature]:
  """The signatures that networks of frames have."""
  images = tf.TensorSpec(spec.shape[:2], tf.string, name=JPEG_INPUT)
  crop = spec.shape[2] or classifier.infos[0].preprocess.crop
  decode = lambda images: {"rgb": decode_frames(images, max(crop, classifier.infos[0].preprocess.short_side), crop)}
  hub_spec = tf.TensorSpec(spec.shape, spec.dtype, name=HUB_INPUT)
  return {
    JPEG: Signature(
      "probabilities of the classes, of frames as JPEG images",
      {JPEG_INPUT: images},
      lambda **inputs: probabilities(decode(inputs[JPEG_INPUT])),
    ),
    HUB: Signature(
      "logits, as deepmind/i3d-kinetics-400/1 is called",
      {HUB_INPUT: hub_spec},
      lambda **inputs: {HUB_OUTPUT: logits({"rgb": inputs[HUB_INPUT]})},
    ),
  }


def decode_frames(images: tf.Tensor, short_side: int, crop: int) -> tf.Tensor:
  """Clips `[B, T, crop, crop, 3]` in [-1, 1] of frames, string `[B, T]`, as the network's were in training.

  The frames of a clip, JPEG or PNG, are of one size; they are resized to a shorter side of `short_side`, and their
  centre is taken.
  """

  def decode(frames: tf.Tensor) -> tf.Tensor:
    size = sampling.image_size(frames[0])
    resized = sampling.resized_size(size, short_side)
    window = tf.constant([crop, crop])
    offset = (resized - crop) // 2
    return sampling.decode_rgb(frames, size=size, resized=resized, offset=offset, window=window)

  clips = tf.map_fn(decode, images, fn_output_signature=tf.TensorSpec([None, crop, crop, 3], tf.uint8))
  return ops.scale_rgb(tf.ensure_shape(clips, [None, images.shape[1], crop, crop, 3]))


CLASSES = "classes.txt"
INPUT = "input.json"
_VALUES = {
  "rgb": "red, green, blue: byte / 127.5 - 1",
  "flow": "TV-L1 optical flow, x then y, in pixels per frame, cut off at +-20, / 20",
}


def class_list(classes: tuple[str, ...]) -> dict[str, bytes]:
  """The file of the classes' names, a line each in index order; none if they have no names."""
  return {CLASSES: "".join(f"{name}\n" for name in classes).encode()} if classes else {}


def describe(
  classifier: classifier_lib.Classifier,
  checkpoints: tuple[str, ...],
  signatures: Mapping[str, Signature],
) -> dict[str, bytes]:
  """All files that go with an exported network, by name."""
  content = {
    "networks": [
      {"checkpoint": checkpoint} | {name: getattr(info, name) for name in ("model", "stream", "dataset", "step")}
      for checkpoint, info in zip(checkpoints, classifier.infos, strict=True)
    ],
    "num_classes": classifier.num_classes,
    "classes": CLASSES if classifier.classes else None,
    "streams": {
      stream: _describe_stream(classifier, info, stream) for info in classifier.infos for stream in info.streams
    },
    "signatures": {name: _describe_signature(signature) for name, signature in signatures.items()},
    "made_by": provenance.collect(),
  }
  return {**class_list(classifier.classes), INPUT: json.dumps(content, indent=2).encode() + b"\n"}


def _describe_stream(classifier: classifier_lib.Classifier, info: saved.ModelInfo, stream: str) -> dict[str, Any]:
  """What clips of a stream are to be; 'trained_on' are those of the training, by the fields of `Preprocess`."""
  trained_on = dataclasses.asdict(info.preprocess)
  if stream != "flow":
    trained_on = {name: value for name, value in trained_on.items() if "flow" not in name}
  return {
    "layout": "[batch, frames, height, width, channels]",
    "dtype": "float32",
    "range": [-1, 1],
    "values": _VALUES[stream],
    "channels": clip_config.CHANNELS[stream] * (info.preprocess.flow_stack if stream == "flow" else 1),
    "frames_per_second": decode.FRAME_RATE,
    "least_frames": classifier.least_frames(stream),
    "trained_on": trained_on,
  }


def _describe_signature(signature: Signature) -> dict[str, Any]:
  show = lambda tensor: {"dtype": tensor.dtype.name, "shape": tensor.shape.as_list()}
  inputs, outputs = signature.inputs, signature.function.structured_outputs
  return {
    "returns": signature.what,
    "inputs": {name: show(spec) for name, spec in inputs.items()},
    "outputs": {name: show(tensor) for name, tensor in outputs.items()},
  }
