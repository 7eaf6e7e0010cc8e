"""The files that tell whoever uses an exported network what it is: its classes, and what it expects."""

from collections.abc import Mapping
import json
from typing import Any

from i3d_tf import provenance
from i3d_tf.exporting import classifier as classifier_lib
from i3d_tf.exporting import signatures as signatures_lib
from i3d_tf.video import clip_options
from i3d_tf.video import decode
from i3d_tf.weights import saved

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
  signatures: Mapping[str, signatures_lib.Signature],
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
  """What clips of a stream are to be; 'trained_on' are those of the training, by `saved.CLIP_FIELDS`."""
  trained_on = {name: getattr(info, name) for name in saved.CLIP_FIELDS}
  if stream != "flow":
    trained_on = {name: value for name, value in trained_on.items() if "flow" not in name}
  return {
    "layout": "[batch, frames, height, width, channels]",
    "dtype": "float32",
    "range": [-1, 1],
    "values": _VALUES[stream],
    "channels": clip_options.CHANNELS[stream] * (info.flow_stack if stream == "flow" else 1),
    "frames_per_second": decode.FRAME_RATE,
    "least_frames": classifier.least_frames(stream),
    "trained_on": trained_on,
  }


def _describe_signature(signature: signatures_lib.Signature) -> dict[str, Any]:
  show = lambda tensor: {"dtype": tensor.dtype.name, "shape": tensor.shape.as_list()}
  inputs, outputs = signature.inputs, signature.function.structured_outputs
  return {
    "returns": signature.what,
    "inputs": {name: show(spec) for name, spec in inputs.items()},
    "outputs": {name: show(tensor) for name, tensor in outputs.items()},
  }
