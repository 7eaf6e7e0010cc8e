"""The residual networks: R3D, MC3, rMC3, R(2+1)D, I3D-ResNet-50, C2D, TSM. Imports no TensorFlow.

Accuracies are on Kinetics-400's validation set. They were published for videos at their own rate, mostly 30 frames
per second, and torchvision's for 15; here records have 25, of which torchvision's networks take every second frame.
Its frames are resized to 171x128 whatever their form; here to a short side of 128.
"""

from collections.abc import Mapping
import types
from typing import Any

from i3d_tf.models import zoo_entry

_VMZ = "Tran et al., arXiv 1711.11248; facebookresearch/VMZ"
_SLOWFAST = "facebookresearch/SlowFast MODEL_ZOO.md (10 clips x 3 crops)"
_SMALL = {"short_side": 128, "crop": 112}
_TORCHVISION: Mapping[str, Any] = {
  "training": {"num_frames": 16, "frame_stride": 2, **_SMALL},
  "test": {"protocol": "clips", "num_clips": 5},
  "source": "torchvision models/video/resnet.py, weights KINETICS400_V1 (5 clips)",
}
_FROM_IMAGES: Mapping[str, Any] = {
  "trunk": "",
  "base": "resnet_50",
  "training": {"num_frames": 8, "frame_stride": 8, **zoo_entry.FULL_SIZE},
  "test": {"protocol": "three_crops", "num_clips": 10},
}


def _entry(architecture: str, **fields: Any) -> zoo_entry.Entry:
  streams = tuple(fields["parameters"])
  return zoo_entry.Entry(
    constructor="i3d_tf.models.resnet:ResNet", arguments={"architecture": architecture}, streams=streams, **fields
  )


MODELS: Mapping[str, zoo_entry.Entry] = types.MappingProxyType(
  {
    "r3d_18": _entry(
      "r3d_18",
      title="R3D-18: ResNet-18 with 3x3x3 convolutions",
      **_TORCHVISION,
      parameters={"rgb": 33_371_472},
      giga_multiply_adds={"rgb": 40.70},
      accuracies={"scratch": {"rgb": 63.2}},
    ),
    "mc3_18": _entry(
      "mc3_18",
      title="MC3-18: ResNet-18, in 3D up to its first stage and in 2D above",
      **_TORCHVISION,
      parameters={"rgb": 11_695_440},
      giga_multiply_adds={"rgb": 43.34},
      accuracies={"scratch": {"rgb": 63.96}},
    ),
    "rmc3_18": _entry(
      "rmc3_18",
      title="rMC3-18: ResNet-18, in 2D up to its first stage and in 3D above",
      training={"num_frames": 16, "frame_stride": 1, **_SMALL},
      test={"protocol": "clips", "num_clips": 10},
      parameters={"rgb": 33_057_744},
      giga_multiply_adds={"rgb": 24.95},
      accuracies={},
      source=_VMZ,
    ),
    "r2plus1d_18": _entry(
      "r2plus1d_18",
      title="R(2+1)D-18: ResNet-18, each convolution one in space and one in time",
      **_TORCHVISION,
      parameters={"rgb": 31_505_325},
      giga_multiply_adds={"rgb": 40.52},
      accuracies={"scratch": {"rgb": 67.463}},
    ),
    "r2plus1d_34": _entry(
      "r2plus1d_34",
      title="R(2+1)D-34: ResNet-34, each convolution one in space and one in time; streams are trained apart",
      training={"num_frames": 32, "frame_stride": 1, **_SMALL},
      test={"protocol": "clips", "num_clips": 10},
      parameters={"rgb": 63_697_175, "flow": 63_694_970},
      giga_multiply_adds={"rgb": 152.36, "flow": 152.13},
      accuracies={"scratch": {"rgb": 72.0, "flow": 67.5, "rgb+flow": 73.9}},
      source=_VMZ,
    ),
    "i3d_r50": _entry(
      "i3d_r50",
      title="I3D-ResNet-50, 8 frames: temporal kernels in every second bottleneck",
      **_FROM_IMAGES,
      parameters={"rgb": 28_043_472},
      giga_multiply_adds={"rgb": 28.41},
      accuracies={"scratch": {"rgb": 73.5}},
      source=_SLOWFAST,
    ),
    "i3d_r50_non_local": _entry(
      "i3d_r50_non_local",
      title="I3D-ResNet-50, 8 frames, with five non-local blocks",
      **_FROM_IMAGES,
      parameters={"rgb": 35_397_840},
      giga_multiply_adds={"rgb": 36.54},
      accuracies={"scratch": {"rgb": 74.0}},
      source=_SLOWFAST,
    ),
    "i3d_r50_32x2": _entry(
      "i3d_r50_32x2",
      title="I3D-ResNet-50, 32 frames, of which stem and pools make four steps",
      **_FROM_IMAGES | {"training": {"num_frames": 32, "frame_stride": 2, **zoo_entry.FULL_SIZE}},
      parameters={"rgb": 28_043_472},
      giga_multiply_adds={"rgb": 33.13},
      accuracies={"imagenet": {"rgb": 73.47}},
      source="open-mmlab/mmaction2 configs/recognition/i3d (10 clips x 3 crops)",
    ),
    "c2d_r50": _entry(
      "c2d_r50",
      title="C2D: ResNet-50 on every frame, with a pool over time",
      **_FROM_IMAGES,
      parameters={"rgb": 24_327_632},
      giga_multiply_adds={"rgb": 19.49},
      accuracies={"scratch": {"rgb": 71.46}},
      source="pytorchvideo models/hub/resnet.py",
    ),
    "tsm_r50": _entry(
      "tsm_r50",
      title="TSM-ResNet-50: channels move between neighbouring frames",
      **_FROM_IMAGES,
      parameters={"rgb": 24_327_632},
      giga_multiply_adds={"rgb": 32.70},
      accuracies={"imagenet": {"rgb": 74.1}},
      source="mit-han-lab/temporal-shift-module README.md, dense sampling (10 clips x 3 crops)",
    ),
    "resnet_50": _entry(
      "resnet_50",
      title="ResNet-50 on every frame by itself; what others of the family start from",
      training={"num_frames": 1, "frame_stride": 1, **zoo_entry.FULL_SIZE},
      test={"protocol": "clips", "num_clips": 25},
      parameters={"rgb": 24_327_632},
      giga_multiply_adds={"rgb": 4.09},
      accuracies={},
      source="torchvision models/resnet.py",
    ),
  }
)
