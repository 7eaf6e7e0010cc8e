"""Writes networks and weights for other programs; here, how. Imports no TensorFlow."""

import dataclasses

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import inference

GRAPH_FORMATS = ("saved_model", "tflite", "onnx", "openvino")
PYTORCH_FORMATS = ("pytorch_i3d", "kinetics_i3d_pytorch", "torchvision")  # see `pytorch.I3D_LAYOUTS`, `pytorch_swin`
PYTORCH_SUFFIXES = (".pt", ".pth")  # of a state dict that is written as that very file
# Types in which a graph of each format can compute.
PRECISIONS = {
  "saved_model": ("float32", "bfloat16", "float16"), "tflite": ("float32",), "onnx": ("float32",),
  "openvino": ("float32", "int8"),
}  # fmt: skip
WEIGHT_FORMATS = ("network", "release", *PYTORCH_FORMATS)
RELEASE_LAYOUTS = ("rgb", "flow", "rgb600")  # see `tensorflow1.LAYOUTS`


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphConfig:
  """How networks are exported as a graph.

  Attributes:
    format: What is written. A TensorFlow Lite model has all axes fixed.
    endpoints: Endpoints that get a signature of their own in a SavedModel, or are outputs of an OpenVINO model beside
      Logits and PooledFeatures, such as Mixed_4f,Mixed_5c.
    num_frames: Number of frames of the clips; None: any that the network takes.
    size: Height and width of the clips in pixels; None: any that the network takes.
    average_space: Take clips of any height and width, and average I3D's logits over space.
    fold_batch_norm: Fold batch norm into the convolutions of a SavedModel, for inference only.
    precision: Type of convolutions and activations; of a SavedModel also bfloat16 and float16, of an OpenVINO model
      int8, which takes a calibration.
    with_flow: Give a SavedModel of networks of flow the signature frames, which takes frames of videos, computes their
      optical flow in the graph, and returns logits and probabilities.
    calibration: Videos, or folders of videos, from which int8 takes the ranges of activations; one in three of them is
      not used for that, but to compare with float32.
    max_loss: Search for layers that int8 costs most, and keep as many of them in float as needed for features whose
      mean cosine with those of float32, on the videos of the calibration, is at least 1 minus this; None: no search.
  """

  format: str = fields.option("saved_model", choices=GRAPH_FORMATS)
  endpoints: tuple[str, ...] = ()
  num_frames: int | None = fields.option(None, least=1)
  size: int | None = fields.option(None, least=1)
  average_space: bool = False
  fold_batch_norm: bool = False
  precision: str = fields.option("float32", choices=inference.PRECISIONS)
  with_flow: bool = False
  calibration: tuple[str, ...] = ()
  max_loss: float | None = fields.option(None, least=0, below=1)

  def __post_init__(self):
    fields.check(self)
    if self.precision not in PRECISIONS[self.format]:
      raise errors.I3dError(
        f"precision is {self.precision!r}; for the format {self.format} allowed are "
        f"{', '.join(PRECISIONS[self.format])}"
      )
    if self.with_flow and self.format != "saved_model":
      raise errors.I3dError(f"with_flow is for the format saved_model, not {self.format}")
    if self.precision == "int8" and not self.calibration:
      raise errors.I3dError("precision int8 needs a calibration: videos like those that the network will see")
    for name in ("calibration", "max_loss"):
      if getattr(self, name) not in ((), None) and self.precision != "int8":
        raise errors.I3dError(f"{name} is for the precision int8, not {self.precision}")


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
