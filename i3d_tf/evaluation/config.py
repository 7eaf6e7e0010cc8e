"""What an evaluation is asked for. Imports no TensorFlow."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from i3d_tf import errors
from i3d_tf.input import clip_config

FUSIONS = ("logits", "softmax", "svm")
# What each protocol uses of the fields of `EvalClips` that say how many frames and clips there are, and how large.
USED = {
  "release": ("max_frames", "min_frames", "crop"),
  "clips": ("num_clips", "num_frames", "crop"),
  "ten_crop": ("num_frames", "crop"),
  "three_crops": ("num_clips", "num_frames"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """Checked when it is made.

  Attributes:
    output: folder for the results.
    records, split: the folder of TFRecords and its split; without records there is nothing but score files.
    checkpoints: by stream, or 'joint' for a network of both, what `saved.load` takes.
    score_files: by stream, scores made before; a stream has one or the other.
    clips: fields of `clip_config.EvalClips` that are given; the others are those of the checkpoint, or its defaults.
    model: the zoo's name of the network that all checkpoints must be of; '' for any.
    fusion: how two streams become one, of `FUSIONS`.
    flow_weight: in [0, 1]; 0.5 for equal weights. None: 0.5.
    svm_train_scores: score files of the training split, one of each stream, for the SVM.
    num_examples: best clips in the report, and as many worst ones.
  """

  output: str
  records: str | None = None
  split: str = "test"
  checkpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
  score_files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  clips: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  model: str = ""
  fusion: str = "logits"
  flow_weight: float | None = None
  svm_train_scores: tuple[str, ...] = ()
  num_examples: int = 4

  def __post_init__(self):
    both = sorted(set(self.checkpoints) & set(self.score_files))
    if both:
      raise errors.I3dError(f"give either --{both[0]}_checkpoint or --{both[0]}_scores, not both")
    if not self.streams:
      raise errors.I3dError(
        "give --rgb_checkpoint, --flow_checkpoint or both; or --joint_checkpoint; or --rgb_scores, --flow_scores"
      )
    if self.checkpoints and not self.records:
      raise errors.I3dError("--records is missing: the folder of TFRecords to evaluate on")
    if self.clips and not self.checkpoints:
      raise errors.I3dError(f"--{next(iter(self.clips))} is for a checkpoint; scores were made with their own options")
    self._check_clips()
    self._check_fusion()

  @property
  def streams(self) -> tuple[str, ...]:
    """The streams, rgb first, and a network of both last."""
    return tuple(stream for stream in clip_config.STREAMS_OF if stream in {**self.checkpoints, **self.score_files})

  @property
  def has_fusion(self) -> bool:
    """Whether there are two streams to fuse."""
    return set(clip_config.STREAMS) <= set(self.streams)

  def _check_clips(self) -> None:
    """Refuses what the protocol does not use."""
    if "protocol" not in self.clips:
      return  # it is the network's own
    protocol = clip_config.EvalClips(protocol=self.clips["protocol"]).protocol
    if given := sorted(unused(protocol) & set(self.clips)):
      raise errors.I3dError(f"--{given[0]} is not used by --protocol={protocol}")

  def _check_fusion(self) -> None:
    if self.fusion not in FUSIONS:
      raise errors.I3dError(f"--fusion={self.fusion}; allowed are {', '.join(FUSIONS)}")
    if not self.has_fusion and (self.fusion != "logits" or self.flow_weight is not None or self.svm_train_scores):
      raise errors.I3dError(f"--fusion and its options are for two streams; only {self.streams[0]} is given")
    if self.flow_weight is not None and not 0 <= self.flow_weight <= 1:
      raise errors.I3dError(f"--flow_weight={self.flow_weight:g}; it must be in [0, 1]")
    if self.fusion == "svm" and self.flow_weight is not None:
      raise errors.I3dError("--flow_weight is not used by --fusion=svm, which finds its weights itself")
    if (self.fusion == "svm") != bool(self.svm_train_scores):
      raise errors.I3dError("--fusion=svm and --svm_train_scores=RGB.npz,FLOW.npz belong together")
    if self.svm_train_scores and len(self.svm_train_scores) != 2:
      raise errors.I3dError(
        f"--svm_train_scores={','.join(self.svm_train_scores)}; it takes two files, one of each stream"
      )


def unused(protocol: str) -> set[str]:
  """The fields of `EvalClips` that `protocol` does not use."""
  return {name for names in USED.values() for name in names} - set(USED[protocol])
