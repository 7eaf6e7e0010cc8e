"""What the release printed for its sample video, and how far a run is from it.

The sample is 79 frames of UCF-101 v_CricketShot_g04_c01. Sources: google-deepmind/kinetics-i3d out/ at 0667e889
(ImageNet) and at the initial commit 6da69a33 (scratch; later commits repeat the ImageNet files under those names).
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from i3d_tf import errors

TOLERANCE = 1e-3  # absolute, on logits and their norm; the release's own two runs differ by 2e-5 in the norm


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


def find(checkpoints: Sequence[str], stream: str) -> Run:
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


def compare(run: Run, logits: np.ndarray, class_names: Sequence[str]) -> tuple[list[str], float]:
  """Sets published figures beside computed ones.

  Args:
    run: The published run.
    logits: `[classes]`.
    class_names: In index order.

  Returns:
    Lines to print, and the largest absolute difference.
  """
  rows = [("norm of logits", run.norm, float(np.linalg.norm(logits)))]
  rows += [(name, logit, float(logits[class_names.index(name)])) for name, logit in run.logits.items()]
  lines = [f"{'':30} {'published':>11} {'here':>11} {'difference':>11}"]
  lines += [f"{name:30} {published:11.6f} {here:11.6f} {here - published:+11.6f}" for name, published, here in rows]
  return lines, max(abs(here - published) for _, published, here in rows)
