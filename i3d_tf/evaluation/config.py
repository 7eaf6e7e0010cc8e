"""The configuration of an evaluation. Imports no TensorFlow."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from i3d_tf import errors
from i3d_tf.input import clip_config
from i3d_tf.models import preprocess

FUSED = "rgb+flow"  # the name of two streams' fusion among the results
FUSIONS = ("logits", "softmax", "svm")
# The fields of `EvalClips` about the number and size of clips that each protocol uses.
_USED = {
  "release": ("max_frames", "min_frames", "crop"),
  "clips": ("num_clips", "num_frames", "crop"),
  "ten_crop": ("num_frames", "crop"),
  "three_crops": ("num_clips", "num_frames"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
  """The options of an evaluation, validated at construction.

  Attributes:
    output: the folder for the results.
    records: the folder of TFRecords; may be None if all streams have score files, and clips are not shown then.
    split: the split of the records.
    checkpoints: by stream, or 'joint' for a network of both: a checkpoint as `saved.load` takes it.
    score_files: by stream, scores_STREAM.npz of an earlier evaluation; a stream has a checkpoint or a score file.
    clips: the fields of `clip_config.EvalClips` that are given. The others are those of the network's protocol and
      of its training.
    model: the zoo's name of the network that all checkpoints must be of; '' for any.
    fusion: how two streams are fused, one of `FUSIONS`.
    flow_weight: the weight of flow in [0, 1]; RGB has the rest. None: 0.5.
    svm_train_scores: score files of the training split, one of each stream, for the fusion 'svm'.
    num_examples: the number of best clips in the report, and of worst ones.

  Raises:
    I3dError: if an option is out of range, or options do not go together.
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
    given = {**self.checkpoints, **self.score_files}
    if unknown := sorted(set(given) - set(preprocess.STREAMS_OF)):
      raise errors.I3dError(f"there is no stream {unknown[0]!r}; there are {', '.join(preprocess.STREAMS_OF)}")
    if both := sorted(set(self.checkpoints) & set(self.score_files)):
      raise errors.I3dError(f"{both[0]} has both a checkpoint and a score file; give one of them")
    if not given:
      raise errors.I3dError("no stream is given; give a checkpoint or a score file of rgb, flow or both, or of joint")
    if self.checkpoints and not self.records:
      raise errors.I3dError("records is missing: the folder of TFRecords to evaluate on")
    if self.clips and not self.checkpoints:
      raise errors.I3dError(f"{next(iter(self.clips))} is for a checkpoint; scores were made with their own options")
    self._check_clips()
    self._check_fusion()

  @property
  def streams(self) -> tuple[str, ...]:
    """The streams in the order rgb, flow, joint."""
    return tuple(stream for stream in preprocess.STREAMS_OF if stream in {**self.checkpoints, **self.score_files})

  @property
  def has_fusion(self) -> bool:
    """Whether there are two streams to fuse."""
    return set(clip_config.STREAMS) <= set(self.streams)

  def _check_clips(self) -> None:
    if "protocol" not in self.clips:
      return  # the protocol is the network's own
    protocol = clip_config.EvalClips(protocol=self.clips["protocol"]).protocol
    if given := sorted(unused(protocol) & set(self.clips)):
      raise errors.I3dError(f"{given[0]} is not used by the protocol {protocol}")

  def _check_fusion(self) -> None:
    if self.fusion not in FUSIONS:
      raise errors.I3dError(f"fusion is {self.fusion!r}; allowed are {', '.join(FUSIONS)}")
    if not self.has_fusion and (self.fusion != "logits" or self.flow_weight is not None or self.svm_train_scores):
      raise errors.I3dError(
        f"fusion, flow_weight and svm_train_scores are for two streams; only {self.streams[0]} is given"
      )
    if self.flow_weight is not None and not 0 <= self.flow_weight <= 1:
      raise errors.I3dError(f"flow_weight is {self.flow_weight:g}; it must be in [0, 1]")
    if self.fusion == "svm" and self.flow_weight is not None:
      raise errors.I3dError("flow_weight is not used by the fusion svm, which finds its weights itself")
    if (self.fusion == "svm") != bool(self.svm_train_scores):
      raise errors.I3dError("fusion svm and svm_train_scores, two score files of the training split, belong together")
    if self.svm_train_scores and len(self.svm_train_scores) != 2:
      raise errors.I3dError(
        f"svm_train_scores is {','.join(self.svm_train_scores)}; it takes two files, one of each stream"
      )


def unused(protocol: str) -> set[str]:
  """Returns the fields of `EvalClips` that a protocol does not use.

  Args:
    protocol: one of `clip_config.PROTOCOLS`.

  Returns:
    Names of fields.
  """
  return {name for names in _USED.values() for name in names} - set(_USED[protocol])
