"""What a training run is, as frozen data. Field names are the flags' names; nothing here imports TensorFlow."""

import dataclasses
import re

from i3d_tf import errors
from i3d_tf.models import zoo

OPTIMIZERS = ("momentum", "adam")
SCHEDULES = ("constant", "piecewise", "cosine", "plateau")
PRECISIONS = ("float32", "bfloat16", "float16")
JIT = ("auto", "on", "off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
  """How weights move. Defaults are the release's for Kinetics where it states them (README of kinetics-i3d).

  Attributes:
    optimizer: 'momentum' is SGD as TensorFlow 1 defines it: a = momentum * a + g; w -= rate * a. 'adam' is Adam.
    learning_rate: the rate of every schedule but 'piecewise'.
    momentum: of the optimizer 'momentum'.
    schedule: 'constant'; 'piecewise' (`rates` between `rate_boundaries`); 'cosine' to 0 at the last step; 'plateau'
      (times `plateau_factor` when the validation loss has not improved for `plateau_patience` validations).
    rate_boundaries: steps; the rate changes after each of them.
    rates: one more than boundaries.
    warmup_steps: the rate rises linearly over so many steps.
    weight_decay: times each trained convolution kernel (and no offset or bias) is added to its gradient.
    clip_norm: gradients of a larger global norm are scaled to it; 0: never.
    label_smoothing: probability given to all classes evenly.
    dropout: rate before the classifier.
    spatial_dropout: drop whole channels.
    accumulation_steps: gradients of so many batches make one step.
    precision: of convolutions and activations; 'float16' scales the loss.
    jit_compile: compile the step with XLA; 'auto' means on GPUs only.
    freeze: regular expression of units that are not trained and whose batch norm stands still, matched from the
      beginning of their names, such as 'Conv3d|Mixed_[34]' or '(?!Logits)'; '' for none.
    unfreeze_step: from this step on nothing is frozen; 0: never.
    recompute: compute activations again in the backward pass instead of keeping them.
    sync_batch_norm: batch statistics of all replicas together; without it of each by itself, as in the release.
    batch_norm_decay: of the moving statistics. After n steps 0.999^n of what they started from is left in them, so that
      runs of a few hundred steps want a smaller one.
  """

  optimizer: str = "momentum"
  learning_rate: float = 0.1
  momentum: float = 0.9
  schedule: str = "constant"
  rate_boundaries: tuple[int, ...] = ()
  rates: tuple[float, ...] = ()
  warmup_steps: int = 0
  plateau_patience: int = 3
  plateau_factor: float = 0.1
  weight_decay: float = 1e-7
  clip_norm: float = 0.0
  label_smoothing: float = 0.0
  dropout: float = 0.5
  spatial_dropout: bool = False
  accumulation_steps: int = 1
  precision: str = "float32"
  jit_compile: str = "auto"
  freeze: str = ""
  unfreeze_step: int = 0
  recompute: bool = False
  sync_batch_norm: bool = False
  batch_norm_decay: float = 0.999

  def __post_init__(self):
    _check_choice("optimizer", self.optimizer, OPTIMIZERS)
    _check_choice("schedule", self.schedule, SCHEDULES)
    _check_choice("precision", self.precision, PRECISIONS)
    _check_choice("jit_compile", self.jit_compile, JIT)
    _check_range("learning_rate", self.learning_rate, 0, float("inf"), above=True)
    _check_range("momentum", self.momentum, 0, 1, below=True)
    _check_range("batch_norm_decay", self.batch_norm_decay, 0, 1, below=True)
    _check_range("plateau_factor", self.plateau_factor, 0, 1, above=True, below=True)
    _check_range("label_smoothing", self.label_smoothing, 0, 1, below=True)
    _check_range("dropout", self.dropout, 0, 1, below=True)
    for name in ("weight_decay", "clip_norm", "warmup_steps", "unfreeze_step"):
      _check_range(name, getattr(self, name), 0, float("inf"))
    for name in ("accumulation_steps", "plateau_patience"):
      _check_range(name, getattr(self, name), 1, float("inf"))
    self._check_schedule()
    self._check_freeze()
    if self.jit_compile == "on" and self.sync_batch_norm:
      raise errors.I3dError("--jit_compile=on cannot compile --sync_batch_norm, which talks to other devices; drop one")

  def _check_schedule(self):
    is_piecewise = self.schedule == "piecewise"
    if is_piecewise and (not self.rates or len(self.rates) != len(self.rate_boundaries) + 1):
      raise errors.I3dError(
        f"--schedule=piecewise needs one more of --rates than of --rate_boundaries; got {len(self.rates)} and "
        f"{len(self.rate_boundaries)}"
      )
    if not is_piecewise and (self.rates or self.rate_boundaries):
      raise errors.I3dError(f"--rates and --rate_boundaries are for --schedule=piecewise, not {self.schedule}")
    if any(not rate > 0 for rate in self.rates):
      raise errors.I3dError(f"--rates is {self.rates}; rates must be positive")
    steps = (0, *self.rate_boundaries)
    if any(step >= following for step, following in zip(steps, steps[1:])):
      raise errors.I3dError(f"--rate_boundaries is {self.rate_boundaries}; boundaries must be positive and increase")

  def _check_freeze(self):
    try:
      re.compile(self.freeze)
    except re.error as error:
      raise errors.I3dError(f"--freeze={self.freeze!r} is no regular expression: {error}") from None
    if self.unfreeze_step and not self.freeze:
      raise errors.I3dError("--unfreeze_step is given, but --freeze is not: nothing is frozen")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """Data, network and keeping of a run.

  Attributes:
    records: folder of TFRecords from prepare_dataset.
    output: the run's folder.
    model: the network's name in the zoo.
    stream: 'rgb', 'flow', or 'joint' for both at once.
    split: to train on.
    second_records: of another data set, which is trained on at the same time: half of every batch, with classes of its
      own, and the two losses added. What is kept is the network with the classes of `records`. '' for none.
    second_split: of it.
    validation_split: measured every `validate_every` steps and at the end; '' for none.
    initial_checkpoint: a released checkpoint's name, a path, or another run's folder; '' to start from scratch.
    rescale_first_kernel: when a flow network starts from RGB weights, multiply its first kernel by 3 / channels.
    width_multiplier: of every layer's width (small networks).
    average_space: take any frame size and average the logits over space.
    batch_size: clips per replica and batch.
    num_steps: the last step.
    seed: of the weights, the order of the clips, their augmentation, and dropout.
    deterministic: bit for bit the same result each time, at some cost.
    num_logical_cpus: replicas on so many shares of this machine's CPU, for tests; 0: all GPUs, or the CPU.
    data_shards: groups of files that each batch draws from evenly; 0: one a worker.
    save_every, keep_checkpoints: steps between checkpoints for resuming, and how many are kept.
    validate_every: steps; 0: only at the end.
    log_every: steps between lines of metrics.jsonl and points in TensorBoard.
    profile_steps: the first and the last step to profile, or nothing.
    data_service: address of a tf.data service, 'grpc://HOST:PORT'; '' for none.
    allow_unreadable: go on if no more than so many records cannot be read; they count for nothing.
  """

  records: str
  output: str
  model: str = "i3d"
  stream: str = "rgb"
  split: str = "train"
  second_records: str = ""
  second_split: str = "train"
  validation_split: str = ""
  initial_checkpoint: str = ""
  rescale_first_kernel: bool = False
  width_multiplier: float = 1.0
  average_space: bool = False
  batch_size: int = 6
  num_steps: int
  seed: int = 0
  deterministic: bool = False
  num_logical_cpus: int = 0
  data_shards: int = 0
  save_every: int = 500
  keep_checkpoints: int = 3
  validate_every: int = 0
  log_every: int = 10
  profile_steps: tuple[int, ...] = ()
  data_service: str = ""
  allow_unreadable: int = 0

  def __post_init__(self):
    for name in ("records", "output"):
      if not getattr(self, name):
        raise errors.I3dError(f"--{name} is needed; see --help")
    zoo.check_stream(self.model, self.stream)
    if self.average_space and "average_space" not in zoo.get(self.model).options:
      raise errors.I3dError(f"--average_space is not an option of {self.model}; leave it off")
    _check_range("width_multiplier", self.width_multiplier, 0, float("inf"), above=True)
    for name in ("batch_size", "num_steps", "save_every", "keep_checkpoints", "log_every"):
      _check_range(name, getattr(self, name), 1, float("inf"))
    if self.second_records and self.batch_size % 2:
      raise errors.I3dError(f"--batch_size is {self.batch_size}; with --second_records it must be even")
    for name in ("num_logical_cpus", "data_shards", "validate_every", "allow_unreadable"):
      _check_range(name, getattr(self, name), 0, float("inf"))
    if self.profile_steps and (len(self.profile_steps) != 2 or not 0 < self.profile_steps[0] <= self.profile_steps[1]):
      raise errors.I3dError(f"--profile_steps is {self.profile_steps}; give the first and the last step, as 10,20")
    if self.rescale_first_kernel and (self.stream == "rgb" or not self.initial_checkpoint):
      raise errors.I3dError("--rescale_first_kernel is for a stream of flow with an --initial_checkpoint of RGB")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise errors.I3dError(f"--{name} is {value!r}; allowed are {', '.join(allowed)}")


def _check_range(name: str, value: float, low: float, high: float, *, above: bool = False, below: bool = False) -> None:
  """`above` and `below`: the limit itself is not allowed."""
  fits_low = value > low if above else value >= low
  fits_high = value < high if below else value <= high
  if not (fits_low and fits_high):
    interval = f"{'(' if above else '['}{low}, {high}{')' if below else ']'}"
    raise errors.I3dError(f"--{name} is {value}; it must be in {interval}")
