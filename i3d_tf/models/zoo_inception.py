"""I3D's nearest relatives: less of it in three dimensions, separable convolutions, gates (arXiv 1712.04851).

Where that paper leaves a choice to us: temporal kernels of the bottom-heavy network end, and those of the top-heavy one
begin, at the third of the four max pools, in the middle of the trunk; those of the fast S3D begin with its last two
blocks. The paper's accuracies are given as others quote them.
"""

from collections.abc import Mapping
from typing import Any

from i3d_tf.models import s3d_spec
from i3d_tf.models import zoo_entry

_PAPER = "Xie et al., arXiv 1712.04851"
_SLIM = f"{_PAPER}, as tensorflow/models research/slim/nets/s3dg.py has it"
_GATES = "Conv2d_2c_3x3"

# As I3D; and as torchvision measures, 128 frames at 15 frames per second, for which every other of 25 stands.
_LIKE_I3D: Mapping[str, Any] = {
  "streams": ("rgb", "flow"),
  "options": ("average_space",),
  "trunk": "",
  "training": {"num_frames": 64, "frame_stride": 1, **zoo_entry.FULL_SIZE},
  "test": {"protocol": "release", "max_frames": 250, "min_frames": 9},
}
_LIKE_TORCHVISION: Mapping[str, Any] = {
  **_LIKE_I3D,
  "streams": ("rgb",),
  "training": {"num_frames": 128, "frame_stride": 2, **zoo_entry.FULL_SIZE},
  "test": {"protocol": "clips", "num_clips": 1},
}
_INFLATED, _S3D = "i3d_tf.models.inception:InceptionI3d", "i3d_tf.models.inception:S3D"

MODELS: Mapping[str, zoo_entry.Entry] = {
  "i2d": zoo_entry.Entry(
    title="I3D without temporal kernels, but for its pools",
    constructor=_INFLATED,
    arguments={"architecture": s3d_spec.I2D},
    **_LIKE_I3D,
    parameters={"rgb": 6_002_624, "flow": 5_999_488},
    giga_multiply_adds={"rgb": 36.89, "flow": 35.63},
    accuracies={},
    source=_PAPER,
  ),
  "i3d_bottom_heavy": zoo_entry.Entry(
    title="I3D whose temporal kernels end with Mixed_3c",
    constructor=_INFLATED,
    arguments={"architecture": s3d_spec.mixed_depth(last_3d="Mixed_3c")},
    **_LIKE_I3D,
    parameters={"rgb": 7_008_320, "flow": 6_986_368},
    giga_multiply_adds={"rgb": 100.01, "flow": 91.20},
    accuracies={},
    source=_PAPER,
  ),
  "i3d_top_heavy": zoo_entry.Entry(
    title="I3D whose temporal kernels begin with Mixed_4b",
    constructor=_INFLATED,
    arguments={"architecture": s3d_spec.mixed_depth(first_3d="Mixed_4b")},
    **_LIKE_I3D,
    parameters={"rgb": 11_684_288, "flow": 11_681_152},
    giga_multiply_adds={"rgb": 48.03, "flow": 46.77},
    accuracies={},
    source=_PAPER,
  ),
  "s3d": zoo_entry.Entry(
    title="S3D: I3D with separable convolutions, in slim's dialect",
    constructor=_S3D,
    **_LIKE_I3D,
    parameters={"rgb": 8_299_520, "flow": 8_290_112},
    giga_multiply_adds={"rgb": 64.18, "flow": 60.41},
    accuracies={"unknown": {"rgb": 72.2}},
    source=f"{_SLIM}; accuracy: the authors', by the README of kylemin/S3D",
  ),
  "s3d_g": zoo_entry.Entry(
    title="S3D-G: S3D with gates, in slim's dialect",
    constructor=_S3D,
    arguments={"architecture": s3d_spec.s3d(first_gate=_GATES)},
    **_LIKE_I3D,
    parameters={"rgb": 9_518_848, "flow": 9_509_440},
    giga_multiply_adds={"rgb": 64.18, "flow": 60.41},
    accuracies={"unknown": {"rgb": 74.7}},
    source=f"{_SLIM}; accuracy: the authors', as Bertasius et al. quote it (arXiv 2102.05095)",
  ),
  "fast_s3d": zoo_entry.Entry(
    title="Fast S3D: S3D whose temporal kernels begin with Mixed_5b",
    constructor=_S3D,
    arguments={"architecture": s3d_spec.s3d(first_kernel=1, first_3d="Mixed_5b")},
    **_LIKE_I3D,
    parameters={"rgb": 6_851_456, "flow": 6_848_320},
    giga_multiply_adds={"rgb": 37.22, "flow": 35.96},
    accuracies={},
    source=_SLIM,
  ),
  "s3d_torchvision": zoo_entry.Entry(
    title="S3D in torchvision's dialect: the first convolution separable, two batch norms, symmetric padding",
    constructor=_S3D,
    arguments={"architecture": s3d_spec.s3d_torchvision()},
    **_LIKE_TORCHVISION,
    parameters={"rgb": 8_320_048},
    giga_multiply_adds={"rgb": 143.83},
    accuracies={"scratch": {"rgb": 68.4}},
    source="torchvision/models/video/s3d.py; accuracy: of its weights KINETICS400_V1",
  ),
  "s3d_kylemin": zoo_entry.Entry(
    title="S3D as in torchvision, with pixels in [-1, 1]",
    constructor=_S3D,
    arguments={"architecture": s3d_spec.s3d_torchvision(normalizes=False)},
    **_LIKE_TORCHVISION,
    parameters={"rgb": 8_320_048},
    giga_multiply_adds={"rgb": 143.83},
    accuracies={},
    source="kylemin/S3D model.py and main.py, whose README says 72.1 %",
  ),
  "s3d_g_torchvision": zoo_entry.Entry(
    title="S3D-G in torchvision's dialect, of which nobody publishes weights",
    constructor=_S3D,
    arguments={"architecture": s3d_spec.s3d_torchvision(gated=True)},
    **_LIKE_TORCHVISION,
    parameters={"rgb": 9_539_376},
    giga_multiply_adds={"rgb": 143.83},
    accuracies={},
    source=f"{_PAPER}, and torchvision/models/video/s3d.py",
  ),
}
