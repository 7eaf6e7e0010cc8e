"""The options of `fit`. Imports no TensorFlow."""

import dataclasses

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import flow
from i3d_tf import inference
from i3d_tf.fitting import splits
from i3d_tf.models import preprocess

DEPTHS = ("head", "mixed_5", "all")
STREAMS = (*preprocess.STREAMS, preprocess.AUDIO)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig(inference.InferenceConfig, flow.FlowConfig):
  """How a folder of videos becomes a network.

  Attributes:
    videos: Folder with a sub-folder of videos for each class, perhaps below train, val and test; or a CSV file of
      path,label, perhaps with the columns split and group.
    output: Folder of the run; one that is there goes on.
    rgb_checkpoint: RGB weights to start from: a released name, a path, or a run of train. None: rgb_imagenet or
      rgb_scratch, whichever has been downloaded, or else rgb_imagenet.
    flow_checkpoint: Flow weights to start from, likewise. None: flow_imagenet or flow_scratch, whichever has been
      downloaded, or else the RGB weights, with the mean of their first kernel over its inputs.
    streams: Streams that networks are made of: rgb, flow, or both, whose logits are added; and audio, a classifier of
      the sound's spectrogram, whose logits are added, too. A video without sound tells nothing by it.
    depth: What is trained: the classifier alone (head), which takes the time of looking at each video once; or after it
      also the last blocks of an I3D (mixed_5), or all of a network (all).
    protocol: How the accuracy is measured. k_fold: each clip is tested once, by a classifier of the other folds;
      leave_one_group_out: the same with each group as a fold; holdout: one fold is tested; auto: by the folders train,
      val and test where there are any, or else k_fold, and holdout if the depth is not head. The network that is kept
      has seen all clips with k_fold and leave_one_group_out, or else those to train on. What the depth says is trained
      for every fold, and for what is kept.
    num_folds: Folds of k_fold; of holdout, one of so many is tested.
    split_group: Regular expression; clips in whose ids (paths without endings) it finds the same text are never on both
      sides of a split. none: every clip by itself. None: guessed from the names.
    split_block: Keep clips together whose numbers in their names are among so many that follow each other; None: no.
    split_scenes: Also keep clips together that look alike, so that none is tested that was as good as trained on.
    precision_wanted: Accuracy that predictions above the suggested threshold are to have.
    seed: Seed of the folds, and of training.
    batch_size: Clips of a batch in training; None: chosen by the memory.
    num_steps: Steps of training; None: chosen by the number of clips.
    learning_rate: Rate of training; None: chosen by the depth.
    num_frames: Frames of a clip in training; None: chosen by the lengths of the videos.
    retry_failures: Try again the videos that could not be read in an earlier run.
  """

  videos: str
  output: str
  rgb_checkpoint: str | None = None
  flow_checkpoint: str | None = None
  streams: tuple[str, ...] = fields.option(("rgb",), choices=STREAMS)
  depth: str = fields.option("head", choices=DEPTHS)
  protocol: str = fields.option("auto", choices=splits.PROTOCOLS)
  num_folds: int = fields.option(5, least=2, most=100)
  split_group: str | None = None
  split_block: int | None = fields.option(None, least=1)
  split_scenes: bool = False
  precision_wanted: float = fields.option(0.95, above=0, below=1)
  seed: int = 0
  batch_size: int | None = fields.option(None, least=1)
  num_steps: int | None = fields.option(None, least=1)
  learning_rate: float | None = fields.option(None, above=0)
  num_frames: int | None = fields.option(None, least=9)
  retry_failures: bool = False
  precision: str = fields.option("auto", choices=inference.PRECISIONS)

  def __post_init__(self):
    super().__post_init__()
    flow.FlowConfig.__post_init__(self)
    if not self.streams:
      raise errors.I3dError(f"streams is empty; allowed are {', '.join(STREAMS)}")
    object.__setattr__(self, "streams", tuple(each for each in STREAMS if each in self.streams))
    if not self.networks:
      raise errors.I3dError("streams is audio; a run needs rgb or flow, beside which sound is taken")
    if "flow" not in self.streams:
      for name, default in (("flow_checkpoint", None), ("flow", flow.DEFAULT), ("flow_params", ())):
        if getattr(self, name) != default:
          streams = ",".join(self.streams)
          raise errors.I3dError(f"{name} is for the stream of flow, but streams is {streams}; it takes rgb,flow")
    for name in ("videos", "output"):
      if not getattr(self, name):
        raise errors.I3dError(f"{name} is empty; it must be a path")
    given = [name for name in ("batch_size", "num_steps", "learning_rate", "num_frames") if getattr(self, name)]
    if given and self.depth == "head":
      raise errors.I3dError(f"{given[0]} is for training; with depth=head only a classifier is fitted")
    if self.split_block is not None and self.split_group is not None:
      raise errors.I3dError("split_block and split_group both say what stays together; give one of them")
    if self.engine != "tensorflow":
      raise errors.I3dError(f"engine is {self.engine}; the features that a network is fitted on are TensorFlow's")

  @property
  def networks(self) -> tuple[str, ...]:
    """The streams that have a network."""
    return tuple(stream for stream in self.streams if stream != preprocess.AUDIO)
