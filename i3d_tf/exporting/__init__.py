"""Writes networks and weights for other programs; here, how. Imports no TensorFlow."""

import dataclasses

from i3d_tf import fields

GRAPH_FORMATS = ("saved_model", "tflite", "onnx")
PYTORCH_FORMATS = ("pytorch_i3d", "kinetics_i3d_pytorch")  # see `pytorch.I3D_LAYOUTS`
PYTORCH_SUFFIXES = (".pt", ".pth")  # of a state dict that is written as that very file
WEIGHT_FORMATS = ("network", "release", *PYTORCH_FORMATS)
RELEASE_LAYOUTS = ("rgb", "flow", "rgb600")  # see `tensorflow1.LAYOUTS`


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphConfig:
  """How networks are exported as a graph.

  Attributes:
    format: What is written. A TensorFlow Lite model has all axes fixed.
    endpoints: Endpoints that get a signature of their own in a SavedModel, such as Mixed_4f,PooledFeatures.
    num_frames: Number of frames of the clips; None: any that the network takes.
    size: Height and width of the clips in pixels; None: any that the network takes.
    average_space: Take clips of any height and width, and average I3D's logits over space.
    fold_batch_norm: Fold batch norm into the convolutions of a SavedModel, for inference only.
  """

  format: str = fields.option("saved_model", choices=GRAPH_FORMATS)
  endpoints: tuple[str, ...] = ()
  num_frames: int | None = fields.option(None, least=1)
  size: int | None = fields.option(None, least=1)
  average_space: bool = False
  fold_batch_norm: bool = False

  def __post_init__(self):
    fields.check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsConfig:
  """How the weights of a network are exported.

  Attributes:
    format: Layout of the file.
    layout: Which of the layouts of google-deepmind/kinetics-i3d the format 'release' has; rgb600 is that of
      rgb_scratch_kin600. None: that of the network's stream.
  """

  format: str = fields.option("network", choices=WEIGHT_FORMATS)
  layout: str | None = fields.option(None, choices=RELEASE_LAYOUTS)

  def __post_init__(self):
    fields.check(self)
