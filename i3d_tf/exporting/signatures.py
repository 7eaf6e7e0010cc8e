"""The signatures of an exported network, and the files that describe it: its classes, and the clips it expects."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import json
from typing import Any, TypeAlias

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.input import ops
from i3d_tf.models import base

Specs: TypeAlias = Mapping[str, tf.TensorSpec]  # of clips by stream

DEFAULT = "serving_default"
PROBABILITIES = "probabilities"
STEP_LOGITS = "step_logits"
# The name ends in _bytes, so that TensorFlow Serving takes base64 over HTTP (tensorflow/serving, g3doc/api_rest.md).
JPEG, JPEG_INPUT = "jpeg", "jpeg_bytes"
# The interface of deepmind/i3d-kinetics-400/1 (tensorflow/docs, hub/tutorials/action_recognition_with_tf_hub):
# signatures['default'](clips)['default'] are logits. It does not rescale its input: users who pass black frames as -1
# (google-research/google-research, frechet_video_distance) print the logits that the network has for -1, and the
# tutorial passes [0, 1].
HUB, HUB_INPUT, HUB_OUTPUT = "default", "rgb_input", "default"


@dataclasses.dataclass(frozen=True)
class Signature:
  """A signature.

  Attributes:
    what: what it returns, in a few words.
    inputs: specifications of its inputs, by name.
    apply: maps inputs, as keyword arguments, to outputs by name.
  """

  what: str
  inputs: Mapping[str, tf.TensorSpec]
  apply: Callable[..., dict[str, tf.Tensor]]

  @functools.cached_property
  def function(self) -> tf.types.experimental.ConcreteFunction:
    """The traced signature."""
    return tf.function(lambda **inputs: self.apply(**inputs), autograph=False).get_concrete_function(**self.inputs)


def clip_specs(
  classifier: classifier_lib.Classifier,
  *,
  num_frames: int | None = None,
  size: int | None = None,
  batch: int | None = None,
) -> Specs:
  """Returns the clips, by stream, that networks take, with as many open axes as they allow.

  Args:
    classifier: one network, or two.
    num_frames, size: number of frames, and height and width; None: open, or what the network takes.
    batch: clips in a batch; None: open.

  Raises:
    I3dError: if a network does not take so many frames, or that size.
  """
  specs: dict[str, tf.TensorSpec] = {}
  for network in classifier.networks.values():
    clip = network.info.preprocess
    frames, side = num_frames or clip.num_frames, size or clip.crop
    network.check(_shapes(network, frames, side))
    any_frames = num_frames is None and _takes(network, 2 * frames, side)
    any_size = size is None and all(_takes(network, frames, each) for each in (side // 2, 2 * side))
    shapes = _shapes(network, None if any_frames else frames, None if any_size else side, batch)
    specs |= {stream: tf.TensorSpec(shape, tf.float32, name=stream) for stream, shape in shapes.items()}
  return specs


def _shapes(
  network: classifier_lib.LoadedNetwork, num_frames: int | None, size: int | None, batch: int | None = 1
) -> dict[str, list[int | None]]:
  return {stream: [batch, num_frames, size, size, channels] for stream, channels in network.info.channels.items()}


def _takes(network: classifier_lib.LoadedNetwork, num_frames: int, size: int) -> bool:
  try:
    network.check(_shapes(network, num_frames, size))
  except errors.I3dError:
    return False
  return True


def make(classifier: classifier_lib.Classifier, specs: Specs, endpoints: Iterable[str] = ()) -> dict[str, Signature]:
  """Returns the signatures of a network by name: the default, for its logits, and those for whatever else it returns.

  Args:
    classifier: the network, or two.
    specs: the clips it takes, by stream.
    endpoints: the endpoints that get a signature of their own.

  Raises:
    I3dError: for an endpoint that the network does not have.
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
      raise errors.I3dError(f"endpoints has {name}; there are {', '.join(available)}")
    signatures[name] = of_clips(f"endpoint {name}", lambda clips, name=name: {name: classifier(clips)[name]})
  if classifier.streams == ("rgb",):
    signatures |= _of_rgb(classifier, specs["rgb"], logits, probabilities)
  return signatures


def _of_rgb(classifier: classifier_lib.Classifier, spec: tf.TensorSpec, logits, probabilities) -> dict[str, Signature]:
  """Makes the signatures that only networks of RGB have."""
  images = tf.TensorSpec(spec.shape[:2], tf.string, name=JPEG_INPUT)
  crop = spec.shape[2] or classifier.preprocess.crop
  decode = lambda images: {"rgb": decode_frames(images, max(crop, classifier.preprocess.short_side), crop)}
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
  """Returns clips `[B, T, crop, crop, 3]` in [-1, 1], decoded, and resized and cropped as in training.

  Args:
    images: JPEG or PNG images, string `[B, T]`; those of a clip have one size.
    short_side: pixels that the shorter side is resized to.
    crop: pixels of the side of the square in the centre that is kept.
  """

  def decode(frames: tf.Tensor) -> tf.Tensor:
    size = ops.image_size(frames[0])
    resized = ops.resized_size(size, short_side)
    window = tf.constant([crop, crop])
    offset = (resized - crop) // 2
    return ops.decode_rgb(frames, size=size, resized=resized, offset=offset, window=window)

  clips = tf.map_fn(decode, images, fn_output_signature=tf.TensorSpec([None, crop, crop, 3], tf.uint8))
  return ops.scale_rgb(tf.ensure_shape(clips, [None, images.shape[1], crop, crop, 3]))


_CLASSES_FILE = "classes.txt"
_INPUT_FILE = "input.json"
_VALUES = {
  "rgb": "red, green, blue: byte / 127.5 - 1",
  "flow": "TV-L1 optical flow, x then y, in pixels per frame, cut off at +-20, / 20",
}


def class_list(classes: tuple[str, ...]) -> dict[str, bytes]:
  """Returns the file of the class names, a class per line, by its name; nothing if the classes have no names.

  Args:
    classes: names in index order.
  """
  return {_CLASSES_FILE: "".join(f"{name}\n" for name in classes).encode()} if classes else {}


def describe(classifier: classifier_lib.Classifier, signatures: Mapping[str, Signature]) -> dict[str, bytes]:
  """Returns the contents, by name, of the files that describe an exported network.

  Args:
    classifier: the network, or two.
    signatures: as returned by `make`.
  """
  networks = classifier.networks.values()
  content = {
    "networks": [
      {"checkpoint": each.checkpoint} | {name: each.info.get(name) for name in ("model", "stream", "dataset", "step")}
      for each in networks
    ],
    "num_classes": classifier.num_classes,
    "classes": _CLASSES_FILE if classifier.classes else None,
    "streams": {stream: _describe_stream(network, stream) for network in networks for stream in network.streams},
    "signatures": {name: _describe_signature(signature) for name, signature in signatures.items()},
    "made_by": resources.provenance(),
  }
  return {**class_list(classifier.classes), _INPUT_FILE: json.dumps(content, indent=2).encode() + b"\n"}


def _describe_stream(network: classifier_lib.LoadedNetwork, stream: str) -> dict[str, Any]:
  """Describes the clips of a stream; 'trained_on' has the fields of the `Preprocess` of training."""
  clip = network.info.preprocess
  trained_on = dataclasses.asdict(clip)
  frame_rate = trained_on.pop("frame_rate")
  if stream != "flow":
    trained_on = {name: value for name, value in trained_on.items() if "flow" not in name}
  return {
    "layout": "[batch, frames, height, width, channels]",
    "dtype": "float32",
    "range": [-1, 1],
    "values": _VALUES[stream],
    "channels": network.info.channels[stream],
    "frames_per_second": frame_rate,
    "least_frames": next((n for n in range(1, clip.num_frames) if _takes(network, n, clip.crop)), clip.num_frames),
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
