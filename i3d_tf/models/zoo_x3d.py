"""X3D (arXiv 2004.04730). Imports no TensorFlow.

Accuracies are on Kinetics-400's validation set, of videos with 30 frames per second; here records have 25.
"""

from collections.abc import Mapping
import types

from i3d_tf.models import zoo_entry

_SOURCE = "Feichtenhofer, arXiv 2004.04730; facebookresearch/SlowFast, configs/Kinetics/X3D_*.yaml (10 clips x 3 crops)"
_SHALLOW, _DEEP = 3_794_322, 6_153_432


def _entry(
  size: str, *, depth_factor: float, training: Mapping[str, int], parameters: int, cost: float, accuracy: float
) -> zoo_entry.Entry:
  return zoo_entry.Entry(
    title=f"X3D-{size}: channel-wise 3D convolutions and gates",
    constructor="i3d_tf.models.x3d:X3D",
    arguments={"depth_factor": depth_factor},
    streams=("rgb",),
    options=("crop",),
    training=training,
    test={"protocol": "three_crops", "num_clips": 10},
    parameters={"rgb": parameters},
    giga_multiply_adds={"rgb": cost},
    accuracies={"scratch": {"rgb": accuracy}},
    source=_SOURCE,
  )


MODELS: Mapping[str, zoo_entry.Entry] = types.MappingProxyType({
    "x3d_xs": _entry(
        "XS", depth_factor=2.2, training={"num_frames": 4, "frame_stride": 12, "short_side": 182, "crop": 160},
        parameters=_SHALLOW, cost=0.61, accuracy=69.46,
    ),
    "x3d_s": _entry(
        "S", depth_factor=2.2, training={"num_frames": 13, "frame_stride": 6, "short_side": 182, "crop": 160},
        parameters=_SHALLOW, cost=1.96, accuracy=73.50,
    ),
    "x3d_m": _entry(
        "M", depth_factor=2.2, training={"num_frames": 16, "frame_stride": 5, "short_side": 256, "crop": 224},
        parameters=_SHALLOW, cost=4.73, accuracy=76.21,
    ),
    "x3d_l": _entry(
        "L", depth_factor=5.0, training={"num_frames": 16, "frame_stride": 5, "short_side": 356, "crop": 312},
        parameters=_DEEP, cost=18.37, accuracy=77.48,
    ),
})  # fmt: skip
