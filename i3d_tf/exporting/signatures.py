"""The signatures of an exported network, and the files that describe it: its classes, and the clips it expects."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import json
from typing import Any, TypeAlias

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf.exporting import model_card
from i3d_tf.flow import codec
from i3d_tf.inference import classification
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.inference import saved_model_network
from i3d_tf.input import ops
from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import preprocess

Specs: TypeAlias = Mapping[str, tf.TensorSpec]  # of clips by stream

DEFAULT = "serving_default"
PROBABILITIES = "probabilities"
STEP_LOGITS = "step_logits"
# The name ends in _bytes, so that TensorFlow Serving takes base64 over HTTP (tensorflow/serving, g3doc/api_rest.md).
JPEG, JPEG_INPUT = "jpeg", "jpeg_bytes"
FRAMES = "frames"
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


def of_frames(classifier: classifier_lib.Classifier, specs: Specs) -> dict[str, Signature]:
  """Returns the signature that takes frames and computes their flow, by its name.

  Args:
    classifier: networks with flow among their streams.
    specs: the clips they take, by stream.

  Raises:
    I3dError: if no network takes flow, one takes other flow than a field at each frame, their clips are not cut from
      the same frames, or the flow that they were trained on is not TV-L1, which alone can be computed in a graph.
  """
  infos = [network.info for network in classifier.networks.values()]
  clip = classification.check_together(infos).preprocess
  if "flow" not in classifier.streams:
    raise errors.I3dError("with_flow is for networks of flow; give one, or two of rgb and flow")
  for name, plain in preprocess.CONSECUTIVE.items():
    if other := [info.get(name) for info in infos if info.get(name) != plain]:
      raise errors.I3dError(f"with_flow is for networks with a {name} of {plain}; this one has {other[0]}")
  params = classifier.flow_config().flow_params_of("tvl1")

  def apply(frames: tf.Tensor) -> dict[str, tf.Tensor]:
    clips = clips_of_frames(frames, clip, classifier.streams, params)
    taken = {stream: _looped(clips[stream], specs[stream].shape[1]) for stream in classifier.streams}
    found = classifier(taken)
    own = {f"{stream}_logits": found.get(f"{stream}/{base.LOGITS}") for stream in classifier.streams}
    logits = {"logits": found[base.LOGITS], PROBABILITIES: tf.nn.softmax(found[base.LOGITS])}
    return logits | {name: value for name, value in own.items() if value is not None}

  what = "logits and probabilities of frames of videos, with their flow"
  spec = tf.TensorSpec([None, None, None, None, 3], tf.uint8, name=FRAMES)
  return {FRAMES: Signature(what, {FRAMES: spec}, apply)}


def clips_of_frames(
  frames: tf.Tensor, clip: preprocess.Preprocess, streams: Iterable[str], params: Any
) -> dict[str, tf.Tensor]:
  """Returns clips `[B, T, crop, crop, C]` in [-1, 1] by stream; of flow `[B, T - 1, crop, crop, 2]`.

  Args:
    frames: RGB frames of videos, uint8 `[B, T, H, W, 3]`.
    clip: how they are resized and cropped.
    streams: of 'rgb' and 'flow'.
    params: parameters of the flow, a `tvl1.TvL1Params`; the flow is computed of whole frames.
  """
  from i3d_tf.flow import tvl1_graph  # loads Numba

  shape = tf.shape(frames)
  size = ops.resized_size(shape[2:4], clip.short_side)
  flat = tf.reshape(frames, [shape[0] * shape[1], shape[2], shape[3], 3])
  spec = tf.TensorSpec([None, None, 3], tf.uint8)
  resized = tf.cond(
    tf.reduce_all(size == shape[2:4]),
    lambda: flat,
    lambda: tf.map_fn(lambda frame: ops.resize_rgb(frame, size), flat, fn_output_signature=spec),
  )
  top, left = tf.unstack((size - clip.crop) // 2)
  cut = lambda images: tf.ensure_shape(
    images[:, top : top + clip.crop, left : left + clip.crop], [None, clip.crop, clip.crop, images.shape[-1]]
  )
  whole = lambda images, count: tf.reshape(images, [shape[0], count, clip.crop, clip.crop, images.shape[-1]])
  found = {}
  if "rgb" in streams:
    found["rgb"] = ops.scale_rgb(whole(cut(resized), shape[1]))
  if "flow" in streams:
    gray = tf.reshape(tvl1_graph.to_gray(resized), [shape[0], shape[1], size[0], size[1]])
    pairs = [tf.reshape(each, [-1, size[0], size[1]]) for each in (gray[:, :-1], gray[:, 1:])]
    fields = _flow_in_groups(pairs[0], pairs[1], functools.partial(tvl1_graph.flow, params=params))
    found["flow"] = whole(tf.clip_by_value(cut(fields) / codec.BOUND, -1, 1), shape[1] - 1)
  return found


def _flow_in_groups(previous: tf.Tensor, following: tf.Tensor, compute: Callable) -> tf.Tensor:
  """The flow of pairs `[N, H, W]`, a few at once to bound the memory; the last few are filled up without motion."""
  shape = tf.shape(previous)
  missing = -shape[0] % _PAIRS
  grouped = lambda images: tf.reshape(tf.pad(images, [[0, missing], [0, 0], [0, 0]]), [-1, _PAIRS, shape[1], shape[2]])
  fields = tf.map_fn(
      lambda pair: compute(*pair), (grouped(previous), grouped(following)),
      fn_output_signature=tf.TensorSpec([_PAIRS, None, None, 2], tf.float32), parallel_iterations=1,
  )  # fmt: skip
  return tf.reshape(fields, [-1, shape[1], shape[2], 2])[: shape[0]]


def _looped(clips: tf.Tensor, num_frames: int | None) -> tf.Tensor:
  """The first frames of clips, looped if there are fewer; None: all, and as many as I3D needs at least."""
  count = tf.shape(clips)[1]
  wanted = tf.maximum(count, inception.MIN_FRAMES) if num_frames is None else num_frames
  taken = tf.gather(clips, tf.range(wanted) % count, axis=1)
  return tf.ensure_shape(taken, [None, num_frames, *clips.shape[2:]])


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


_PAIRS = 8  # of frames whose flow is computed at once
_CLASSES_FILE, _INPUT_FILE = saved_model_network.CLASSES_FILE, saved_model_network.INPUT_FILE  # which reads them
_NETWORK_FIELDS = ("model", "stream", "dataset", "step", "width_multiplier", "average_space", "flow_method")
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
  content: dict[str, Any] = {
    "networks": [
      {"checkpoint": each.checkpoint} | {name: each.info.get(name) for name in _NETWORK_FIELDS} for each in networks
    ],
    "num_classes": classifier.num_classes,
    "classes": _CLASSES_FILE if classifier.classes else None,
    "streams": {stream: _describe_stream(network, stream) for network in networks for stream in network.streams},
    "signatures": {name: _describe_signature(signature) for name, signature in signatures.items()},
    "made_by": resources.provenance(),
  }
  card = model_card.write(classifier, content["streams"]).encode()
  described = {_INPUT_FILE: json.dumps(content, indent=2).encode() + b"\n", model_card.FILE: card}
  return class_list(classifier.classes) | described


def _describe_stream(network: classifier_lib.LoadedNetwork, stream: str) -> dict[str, Any]:
  """Describes the clips of a stream; 'trained_on' has the fields of the `Preprocess` of training, segments if any."""
  clip = network.info.preprocess
  trained_on = dataclasses.asdict(clip)
  if not clip.segment_frames:
    del trained_on["segment_frames"]
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
