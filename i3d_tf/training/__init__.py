"""What a training run is, as frozen data. The fields are the flags of `train`; nothing here imports TensorFlow."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf.input import clip_config
from i3d_tf.models import preprocess
from i3d_tf.models import zoo

# Fields of `TrainClips` whose defaults are those of the network.
CLIPS_OF_THE_NETWORK = ("num_frames", "frame_stride", "segment_frames", "flow_stack", "short_side", "crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
  """How weights are trained. Defaults are the release's for Kinetics where it states them (README of kinetics-i3d).

  Attributes:
    accumulation_steps: Number of batches whose gradients are added up for one step.
    optimizer: 'momentum' is SGD as TensorFlow 1 defines it (a = momentum * a + g; w -= rate * a), 'adam' is Adam.
    learning_rate: Learning rate of every schedule but 'piecewise'.
    momentum: Momentum of the optimizer 'momentum'.
    schedule: Learning-rate schedule. 'piecewise' takes `rates` between `rate_boundaries`; 'cosine' falls to 0 at the
      last step; 'plateau' multiplies the rate by `plateau_factor` when the validation loss has not improved for
      `plateau_patience` validations.
    rate_boundaries: For 'piecewise', steps after which the rate changes.
    rates: For 'piecewise', learning rates, one more than boundaries.
    warmup_steps: Number of steps over which the rate rises linearly from 0.
    plateau_patience: For 'plateau', validations without a lower loss before the rate drops.
    plateau_factor: For 'plateau', factor on the rate.
    weight_decay: L2 decay, as the factor with which each trained convolution kernel (and no offset or bias) is added
      to its gradient.
    clip_norm: Largest global norm of the gradients, to which larger ones are scaled; 0: no limit.
    label_smoothing: Probability that is spread evenly over all classes.
    dropout: Dropout rate before the classifier.
    spatial_dropout: Drop whole channels.
    freeze: Regular expression of units that are not trained and whose batch norm stands still, matched from the
      beginning of their names: '(?!Logits)' for all but the classifier, '(?!(rgb|flow)/Logits)' for those of
      two_stream, 'Conv3d|Mixed_[34]' for the lower part, '(?!conv1).*batch_norm' for TSN's partial batch norm: all but
      the first.
    unfreeze_step: Step from which nothing is frozen; 0: never.
    sync_batch_norm: Compute batch statistics over all replicas together; otherwise each over its own batch, as the
      release did.
    batch_norm_decay: Decay of the moving statistics. After n steps 0.999^n of their initial values is left, so that
      runs of a few hundred steps want 0.9 to 0.99.
    precision: Type of convolutions and activations; 'float16' scales the loss.
    jit_compile: Compile the step with XLA; 'auto': on GPUs only.
    recompute: Compute activations again in the backward pass instead of keeping them, which saves memory.
  """

  accumulation_steps: int = fields.option(1, least=1)
  optimizer: str = fields.option("momentum", choices=("momentum", "adam"))
  learning_rate: float = fields.option(0.1, above=0)
  momentum: float = fields.option(0.9, least=0, below=1)
  schedule: str = fields.option("constant", choices=("constant", "piecewise", "cosine", "plateau"))
  rate_boundaries: tuple[int, ...] = fields.option((), least=1)
  rates: tuple[float, ...] = fields.option((), above=0)
  warmup_steps: int = fields.option(0, least=0)
  plateau_patience: int = fields.option(3, least=1)
  plateau_factor: float = fields.option(0.1, above=0, below=1)
  weight_decay: float = fields.option(1e-7, least=0)
  clip_norm: float = fields.option(0.0, least=0)
  label_smoothing: float = fields.option(0.0, least=0, below=1)
  dropout: float = fields.option(0.5, least=0, below=1)
  spatial_dropout: bool = False
  freeze: str = ""
  unfreeze_step: int = fields.option(0, least=0)
  sync_batch_norm: bool = False
  batch_norm_decay: float = fields.option(0.999, least=0, below=1)
  precision: str = fields.option("float32", choices=("float32", "bfloat16", "float16"))
  jit_compile: str = fields.option("auto", choices=("auto", "on", "off"))
  recompute: bool = False

  def __post_init__(self):
    fields.check(self)
    self._check_schedule()
    try:
      re.compile(self.freeze)
    except re.error as error:
      raise errors.I3dError(f"freeze is {self.freeze!r}, which is no regular expression: {error}") from None
    if self.unfreeze_step and not self.freeze:
      raise errors.I3dError(f"unfreeze_step is {self.unfreeze_step}, but freeze is not given: nothing is frozen")
    if self.jit_compile == "on" and self.sync_batch_norm:
      raise errors.I3dError("jit_compile cannot be on with sync_batch_norm, which talks to other devices; drop one")

  def _check_schedule(self):
    is_piecewise = self.schedule == "piecewise"
    if is_piecewise and (not self.rates or len(self.rates) != len(self.rate_boundaries) + 1):
      raise errors.I3dError(
        f"the schedule 'piecewise' needs one more of rates than of rate_boundaries; got {len(self.rates)} and "
        f"{len(self.rate_boundaries)}"
      )
    if not is_piecewise and (self.rates or self.rate_boundaries):
      raise errors.I3dError(f"rates and rate_boundaries are for the schedule 'piecewise', not {self.schedule!r}")
    if any(step >= following for step, following in zip(self.rate_boundaries, self.rate_boundaries[1:])):
      raise errors.I3dError(f"rate_boundaries is {','.join(map(str, self.rate_boundaries))}; steps must increase")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """What is trained on what, and how it is kept.

  Attributes:
    records: Folder of TFRecords from prepare_dataset.
    output: Folder of the run; a run that is there goes on.
    model: Name of the network; python -m i3d_tf.models lists them.
    stream: Stream to train; 'joint' is both at once, in one network.
    split: Split to train on.
    class_list: Class names of records that come without dataset.json: a file with one a line, in the order of the
      labels, or the name of a list in data/, such as ucf101.
    second_records: Records of another data set to train on at the same time: half of every batch, with classes of its
      own, and the two losses added. What is kept is the network with the classes of `records`.
    second_split: Split of `second_records`.
    validation_split: Split that is measured every `validate_every` steps and at the end; none by default.
    initial_checkpoint: Weights to start from: the name of a released checkpoint, a path, or the folder of a run. The
      classifier is new where the classes differ; a flow network takes the mean of an RGB network's first kernel.
      inception_v1 is TF-slim's, from ImageNet: the networks that hold it start from it, and i3d and s3d from it
      inflated. A PyTorch state dict (.pt, .pth, .pyth) of a network of the zoo, too; from torchvision's resnet50 start
      those that hold resnet_50.
    teacher: Trained network, as of `initial_checkpoint`, that is imitated on the same clips and not trained, such as
      one of flow by one of RGB; the records must hold its streams, too.
    distill: What of the teacher is imitated, by the mean squared difference: 'mars', the features before the classifier
      (Crasto et al., CVPR 2019); 'logits' (D3D, arXiv 1812.08249).
    distill_weight: Factor of that difference in the loss, beside the cross-entropy; by default 50 of 'mars' and 1 of
      'logits'.
    objective: What is trained for: 'classification', by the labels; 'contrastive', without labels, which two clips of
      a batch are of one video (SimCLR's loss, two clips at random times as CVRL). The network is kept without a
      classifier, to start others from.
    temperature: Of 'contrastive', what the cosines are divided by.
    rescale_first_kernel: Multiply that mean by 3 / channels, so that equal inputs keep their response.
    width_multiplier: Width multiplier of every layer.
    average_space: Take any crop, and average the logits over space.
    top_segments: Of TSN, average for each class the highest scores of so many segments (1: the maximum); 0: of all.
    num_steps: Last step.
    batch_size: Clips per replica and batch.
    num_logical_cpus: Number of replicas on shares of the CPU, for tests; 0: one on each GPU, or one on the CPU.
    data_service: Address of a tf.data service, grpc://HOST:PORT.
    data_shards: Number of groups of files that each batch draws from evenly; 0: one a worker.
    seed: Seed of the weights, the order of the clips, their augmentation, and dropout.
    deterministic: Give the same bits each time, at some cost.
    save_every: Steps between checkpoints from which the run can go on.
    keep_checkpoints: Number of these checkpoints that are kept.
    validate_every: Steps between validations; 0: at the end only.
    log_every: Steps between lines of metrics.jsonl and points in TensorBoard.
    profile_steps: First and last step to profile for TensorBoard, such as 10,20.
    allow_unreadable: Number of records that may be unreadable; they count for nothing.
  """

  records: str
  output: str
  model: str = fields.option("i3d", choices=zoo.NAMES)
  stream: str = fields.option("rgb", choices=tuple(preprocess.STREAMS_OF))
  split: str = "train"
  class_list: str = ""
  second_records: str = ""
  second_split: str = "train"
  validation_split: str = ""
  initial_checkpoint: str = ""
  teacher: str = ""
  distill: str = fields.option("mars", choices=("mars", "logits"))
  distill_weight: float | None = fields.option(None, above=0)
  objective: str = fields.option("classification", choices=("classification", "contrastive"))
  temperature: float = fields.option(0.1, above=0)
  rescale_first_kernel: bool = False
  width_multiplier: float = fields.option(1.0, above=0)
  average_space: bool = False
  top_segments: int = fields.option(0, least=0)
  num_steps: int = fields.option(least=1)
  batch_size: int = fields.option(6, least=1)
  num_logical_cpus: int = fields.option(0, least=0)
  data_service: str = ""
  data_shards: int = fields.option(0, least=0)
  seed: int = 0
  deterministic: bool = False
  save_every: int = fields.option(500, least=1)
  keep_checkpoints: int = fields.option(3, least=1)
  validate_every: int = fields.option(0, least=0)
  log_every: int = fields.option(10, least=1)
  profile_steps: tuple[int, ...] = fields.option((), least=1)
  allow_unreadable: int = fields.option(0, least=0)

  def __post_init__(self):
    fields.check(self)
    for name in ("records", "output"):
      if not getattr(self, name):
        raise errors.I3dError(f"{name} is empty; it must be a folder")
    zoo.check_stream(self.model, self.stream)
    for name in ("average_space", "top_segments"):
      if getattr(self, name) and name not in zoo.get(self.model).options:
        raise errors.I3dError(f"{name} is not an option of {self.model}; leave it off")
    if self.distill_weight is not None and not self.teacher:
      raise errors.I3dError(f"distill_weight is {self.distill_weight:g}, but there is no teacher")
    if self.second_records and self.teacher:
      raise errors.I3dError("teacher is for one data set; drop it or second_records")
    if self.objective == "contrastive":
      self._check_contrastive()
    if self.second_records and self.batch_size % 2:
      raise errors.I3dError(f"batch_size is {self.batch_size}; with second_records it must be even")
    if self.profile_steps and (len(self.profile_steps) != 2 or self.profile_steps[0] > self.profile_steps[1]):
      steps = ",".join(map(str, self.profile_steps))
      raise errors.I3dError(f"profile_steps is {steps}; it must be the first and the last step, as 10,20")
    if self.rescale_first_kernel and (self.stream == "rgb" or not self.initial_checkpoint):
      raise errors.I3dError("rescale_first_kernel is for a stream of flow with an initial_checkpoint of RGB")

  def _check_contrastive(self):
    for name in ("teacher", "second_records", "top_segments"):
      if getattr(self, name):
        raise errors.I3dError(f"{name} is about classes, which the objective contrastive does not learn; drop one")
    if self.batch_size % 2 or self.batch_size < 4:
      raise errors.I3dError(
        f"batch_size is {self.batch_size}; with the objective contrastive it must be even and at least 4, two clips of "
        "each of two videos"
      )


def make_clips(model: str, stream: str, given: Mapping[str, Any]) -> clip_config.TrainClips:
  """Returns the clips that a network is trained on.

  Args:
    model: Name of the network.
    stream: 'rgb', 'flow' or 'joint'.
    given: Fields of `TrainClips` that are to differ from what the network takes by default.

  Raises:
    I3dError: if the fields do not fit.
  """
  own = zoo.training_clips(model, stream)
  return clip_config.TrainClips(**{**own, "streams": preprocess.STREAMS_OF[stream], **given})
