"""What each released checkpoint contains (tensor names, shapes, checksums), and what it printed. Imports no TensorFlow.

The release printed the classes of a sample video, 79 frames of UCF-101 v_CricketShot_g04_c01. Sources:
google-deepmind/kinetics-i3d out/ at 0667e889 (ImageNet) and at the initial commit 6da69a33 (scratch; later commits
repeat the ImageNet files under those names).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json

import google_crc32c
import numpy as np

from i3d_tf import errors
from i3d_tf import resources

NAMES = ("rgb_imagenet", "flow_imagenet", "rgb_scratch", "flow_scratch", "rgb_scratch_kin600")
TOLERANCE = 1e-3  # absolute, on logits and their norm; the release's own two runs differ by 2e-5 in the norm


@dataclasses.dataclass(frozen=True)
class Manifest:
  """One released checkpoint.

  Attributes:
    name: Its folder in the release.
    stream: Its layout, a key of `tensorflow1.LAYOUTS`.
    num_classes: 400 or 600.
    trained_on: Data, in order of training.
    data_bytes: Size of `model.ckpt.data-00000-of-00001`.
    data_git_blob: Git's id of that file.
    tensors: Shape, and masked CRC32C as TensorFlow stores it, by name; all tensors are float32.
  """

  name: str
  stream: str
  num_classes: int
  trained_on: str
  data_bytes: int
  data_git_blob: str
  tensors: Mapping[str, tuple[tuple[int, ...], int]]


@functools.cache
def load(name: str) -> Manifest:
  """Returns the manifest of a released checkpoint.

  Args:
    name: One of `NAMES`.

  Raises:
    DownloadError: If there is no checkpoint of that name.
  """
  if name not in NAMES:
    raise errors.DownloadError(f"there is no released checkpoint {name!r}; there are {', '.join(NAMES)}")
  fields = json.loads(resources.path("checkpoints", f"{name}.json").read_text(encoding="utf-8"))
  tensors = {tensor: (tuple(shape), crc) for tensor, (shape, crc) in fields.pop("tensors").items()}
  return Manifest(tensors=tensors, **fields)


def masked_crc32c(array: np.ndarray) -> int:
  """Returns the checksum that the index of a TensorFlow checkpoint stores for an array.

  Args:
    array: The array, whose bytes are taken in C order.
  """
  return mask(google_crc32c.value(array.tobytes()))


def mask(crc: int) -> int:
  """Returns a CRC32C masked as TensorFlow does in checkpoints and TFRecords (tensorflow/core/lib/hash/crc32c.h: Mask).

  Args:
    crc: The checksum.
  """
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class Run:
  """Norm of the logits, and the logits of the best classes."""

  norm: float
  logits: Mapping[str, float]


RUNS: Mapping[tuple[str, str], Run] = {
  ("imagenet", "joint"): Run(
    138.468658,
    {
      "playing cricket": 41.813675,
      "hurling (sport)": 21.493977,
      "catching or throwing baseball": 20.134108,
      "catching or throwing softball": 19.225584,
      "hitting baseball": 18.915352,
    },
  ),
  ("imagenet", "rgb"): Run(
    87.108871,
    {
      "playing cricket": 25.856646,
      "playing kickball": 12.330335,
      "catching or throwing baseball": 11.254371,
      "shooting goal (soccer)": 10.883866,
      "catching or throwing softball": 10.393131,
    },
  ),
  ("imagenet", "flow"): Run(
    63.252754,
    {
      "playing cricket": 15.957031,
      "hurling (sport)": 12.808723,
      "playing tennis": 10.527044,
      "playing squash or racquetball": 10.0088,
      "hitting baseball": 9.425033,
    },
  ),
  ("scratch", "joint"): Run(
    162.726547,
    {
      "playing cricket": 34.9155,
      "hurling (sport)": 24.669,
      "hitting baseball": 22.3136,
      "shooting goal (soccer)": 21.9345,
      "catching or throwing baseball": 20.4042,
    },
  ),
  ("scratch", "rgb"): Run(
    87.217987,
    {
      "playing cricket": 19.4886,
      "robot dancing": 12.6938,
      "pumping fist": 12.3322,
      "breakdancing": 11.6732,
      "hurling (sport)": 10.9871,
    },
  ),
  ("scratch", "flow"): Run(
    85.503799,
    {
      "playing cricket": 15.4269,
      "hurling (sport)": 13.6819,
      "hitting baseball": 12.8289,
      "catching or throwing softball": 11.7791,
      "playing squash or racquetball": 11.7047,
    },
  ),
}


def find_run(checkpoints: Sequence[str], stream: str) -> Run:
  """Returns the published run of released checkpoints.

  Args:
    checkpoints: Their names.
    stream: 'rgb', 'flow' or 'joint'.

  Raises:
    I3dError: if the release published none for them.
  """
  streams = ("rgb", "flow") if stream == "joint" else (stream,)
  for (family, run_stream), run in RUNS.items():
    if run_stream == stream and list(checkpoints) == [f"{name}_{family}" for name in streams]:
      return run
  raise errors.I3dError(
    f"the release published no {stream} figures for {' and '.join(checkpoints)}; it did for rgb, flow and joint of "
    "the checkpoints named *_imagenet and *_scratch"
  )


def compare_run(run: Run, logits: np.ndarray, class_names: Sequence[str]) -> tuple[list[str], float]:
  """Returns lines with published figures beside computed ones, and the largest absolute difference.

  Args:
    run: The published run.
    logits: `[classes]`.
    class_names: In index order.
  """
  rows = [("norm of logits", run.norm, float(np.linalg.norm(logits)))]
  rows += [(name, logit, float(logits[class_names.index(name)])) for name, logit in run.logits.items()]
  lines = [f"{'':30} {'published':>11} {'here':>11} {'difference':>11}"]
  lines += [f"{name:30} {published:11.6f} {here:11.6f} {here - published:+11.6f}" for name, published, here in rows]
  return lines, max(abs(here - published) for _, published, here in rows)
