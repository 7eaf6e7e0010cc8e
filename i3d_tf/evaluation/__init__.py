"""The configuration of an evaluation. Imports no TensorFlow."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import inference
from i3d_tf.input import clip_config
from i3d_tf.models import preprocess

STREAMS = (*preprocess.STREAMS_OF, preprocess.AUDIO)
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
class EvaluationConfig(inference.InferenceConfig):
  """The options of an evaluation, validated at construction.

  Attributes:
    output: Folder for the results; made if it does not exist.
    records: Folder of TFRecords, as prepare_dataset writes them. Without records, if all streams have score files, no
      clips are shown.
    split: Split to evaluate.
    checkpoints: By stream, or 'joint' for a network of both: a checkpoint as `saved.read` takes it; of 'audio', the
      folder that `fit` writes.
    score_files: By stream, scores_STREAM.npz of an earlier evaluation; a stream has a checkpoint or a score file.
    clips: Fields of `clip_config.EvalClips` that are given. The others are those of the network's protocol and of its
      training.
    model: Name in the zoo of the network that all checkpoints must be of; '' for any.
    fusion: How streams are fused. 'logits': added; 'softmax': probabilities averaged; 'svm': a linear SVM on the
      streams' softmax scores.
    flow_weight: Weight of flow beside RGB; RGB has the rest.
    audio_weight: Weight of sound in the fusion; the others have the rest. None: each stream has the same.
    svm_train_scores: For the fusion 'svm', score files of the training split, one of each stream: RGB.npz,FLOW.npz.
    num_examples: Number of best clips in the report, and of worst ones.
    retry_failures: Try again the records that failed in an earlier evaluation in this folder.
  """

  output: str
  records: str | None = None
  split: str = "test"
  checkpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
  score_files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  clips: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  model: str = ""
  fusion: str = fields.option("logits", choices=FUSIONS)
  flow_weight: float | None = fields.option(None, least=0, most=1)
  audio_weight: float | None = fields.option(None, least=0, most=1)
  svm_train_scores: tuple[str, ...] = ()
  num_examples: int = fields.option(4, least=0)
  retry_failures: bool = False

  def __post_init__(self):
    super().__post_init__()
    given = {**self.checkpoints, **self.score_files}
    if unknown := sorted(set(given) - set(STREAMS)):
      raise errors.I3dError(f"there is no stream {unknown[0]!r}; there are {', '.join(STREAMS)}")
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
    """The streams in the order rgb, flow, joint, audio."""
    return tuple(stream for stream in STREAMS if stream in {**self.checkpoints, **self.score_files})

  @property
  def fused(self) -> tuple[str, ...]:
    """The streams that are fused: RGB, flow and sound, or a network of both streams and sound; () of one alone."""
    apart = tuple(stream for stream in self.streams if stream != "joint")
    fused = self.streams if self.streams == ("joint", preprocess.AUDIO) else apart
    return fused if len(fused) > 1 else ()

  @property
  def weights(self) -> dict[str, float]:
    """The weight of each stream that is fused; they add up to 1."""
    found = dict.fromkeys(self.fused, 1.0)
    if self.flow_weight is not None:
      found |= {"rgb": 2 * (1 - self.flow_weight), "flow": 2 * self.flow_weight}
    if self.audio_weight is not None:
      seen = sum(weight for stream, weight in found.items() if stream != preprocess.AUDIO)
      found = {stream: weight * (1 - self.audio_weight) / seen for stream, weight in found.items()}
      return {**found, preprocess.AUDIO: self.audio_weight}
    return {stream: weight / len(found) for stream, weight in found.items()}

  def _check_clips(self) -> None:
    if "protocol" not in self.clips:
      return  # the protocol is the network's own
    protocol = clip_config.EvalClips(protocol=self.clips["protocol"]).protocol
    if given := sorted(unused(protocol) & set(self.clips)):
      raise errors.I3dError(f"{given[0]} is not used by the protocol {protocol}")

  def _check_fusion(self) -> None:
    if not self.fused and (self.fusion != "logits" or self.flow_weight is not None or self.svm_train_scores):
      raise errors.I3dError(
        f"fusion, flow_weight and svm_train_scores are for two streams; only {self.streams[0]} is given"
      )
    for name, needed in (("flow_weight", preprocess.STREAMS), ("audio_weight", (preprocess.AUDIO,))):
      if getattr(self, name) is None:
        continue
      if not set(needed) <= set(self.fused):
        raise errors.I3dError(f"{name} is for the fusion of {' and '.join(needed)} with another stream")
      if self.fusion == "svm":
        raise errors.I3dError(f"{name} is not used by the fusion svm, which finds its weights itself")
    if (self.fusion == "svm") != bool(self.svm_train_scores):
      raise errors.I3dError("fusion svm and svm_train_scores, score files of the training split, belong together")
    if self.svm_train_scores and len(self.svm_train_scores) != len(self.fused):
      raise errors.I3dError(
        f"svm_train_scores is {','.join(self.svm_train_scores)}; it takes {len(self.fused)} files, one of each stream"
      )


def unused(protocol: str) -> set[str]:
  """Returns the names of the fields of `EvalClips` that a protocol does not use.

  Args:
    protocol: one of `clip_config.PROTOCOLS`.
  """
  return {name for names in _USED.values() for name in names} - set(_USED[protocol])
