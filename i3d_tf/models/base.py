"""What every network of the zoo is and does: the base class, an entry of the zoo, and what the families share."""

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import re
from typing import Any, TypeAlias

import sonnet as snt
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import inception_spec
from i3d_tf.models import receptive_field

LOGITS, STEP_LOGITS = inception_spec.LOGITS, inception_spec.STEP_LOGITS
POOLED_FEATURES = inception_spec.POOLED_FEATURES
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
STREAMS = ("rgb", "flow")
# A shorter side of 256 pixels, of which 224 x 224 are seen.
FULL_SIZE: Mapping[str, int] = {"short_side": 256, "crop": 224}
TABLE_3 = "Carreira and Zisserman, arXiv 1705.07750, table 3"  # the source of five entries of the zoo

Clip: TypeAlias = tf.Tensor | Mapping[str, tf.Tensor]  # of one stream, or by stream


class Network(snt.Module):
  """A classifier of clips.

  It is called with a clip `[B, T, H, W, C]`, floating point in [-1, 1], or, if it takes both streams, with a mapping of
  'rgb' and 'flow' to such clips. It returns `(output, endpoints)`: logits `[B, classes]`, and values by name, of which
  every network with a head has 'Logits', the same, and 'PooledFeatures', float32 `[B, C]` or `[B, steps, C]`, from
  which they are made; where there are logits at every step these are 'StepLogits', `[B, steps, classes]`.

  Attributes:
    LOSS: the endpoint whose softmax cross-entropy is trained: 'Logits' `[B, classes]`, or 'StepLogits'
      `[B, steps, classes]`, whose cross-entropies are averaged over the steps.
    MIN_BATCH: clips that a training batch must have: 2 where batch norm sees one position of each clip.
    num_classes: number of logits.
    in_channels: C, by stream if there are two; None before `build`.
    rgb_mean, rgb_std: mean and standard deviation with which RGB in [0, 1] is normalized, one number or one a channel,
      as the published weights want it; the network does this to clips of three channels. None: RGB stays in [-1, 1].
  """

  LOSS = LOGITS
  MIN_BATCH = 1
  num_classes: int
  in_channels: int | Mapping[str, int] | None = None
  rgb_mean: float | tuple[float, float, float] | None = None
  rgb_std: float | tuple[float, float, float] | None = None

  @property
  def has_head(self) -> bool:
    """Whether the network goes on to its logits."""
    return True

  @property
  @abc.abstractmethod
  def endpoint_names(self) -> tuple[str, ...]:
    """The names of the endpoints that a call returns, in order; known before the network is built."""

  def build(self, in_channels: int | Mapping[str, int]) -> None:
    """Creates all variables; does nothing the second time.

    Args:
      in_channels: of the clips, by stream if there are two.

    Raises:
      ValueError: if the network was built for other numbers of channels.
    """
    if self.in_channels is None:
      with tf.init_scope():
        self._build(in_channels)
      self.in_channels = in_channels
    elif self.in_channels != in_channels:
      raise ValueError(f"clip has {in_channels} channels; {self.name} was built for {self.in_channels}")

  @abc.abstractmethod
  def _build(self, in_channels: Any) -> None:
    """Creates the variables of all parts."""

  @abc.abstractmethod
  def time_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    """Returns the layers along time that lead from the clip to an endpoint.

    Each step of such an endpoint is the same function of the frames in its receptive field, so that a long video can be
    run in chunks (`inference.chunks`) with exactly the values of a single pass.

    Args:
      endpoint: one of `endpoint_names`.

    Raises:
      I3dError: for an endpoint that has no steps in time, or whose steps depend on the whole clip; says why.
    """

  @property
  def trained_variables(self) -> tuple[tf.Variable, ...]:
    """The trainable variables without those of frozen units: what a training step watches and updates."""
    return trained(self)

  def freeze(self, pattern: str | None) -> None:
    """Makes the units whose name matches `pattern` act in training as at inference, and no others.

    A frozen unit uses its moving statistics, and its variables are not among `trained_variables`; if only those are
    watched on the tape, nothing is computed for a frozen lower part of the network. Functions traced before stay as
    they were. Of the parts of units, their batch norms can be frozen alone.

    Args:
      pattern: a regular expression that matches at the beginning of a unit's name, for example
        'Mixed_4b/Branch_0/Conv3d_0a_1x1' or 'Logits/Conv3d_0c_1x1', or of a part's, as 'Mixed_4b/.*batch_norm'; None
        thaws all.

    Raises:
      ValueError: if it is no regular expression, or matches no unit.
    """
    name_of = lambda part: part.name_scope.name.removeprefix(self.name_scope.name).rstrip("/")
    named = {name_of(part): part for part in self.submodules if hasattr(part, "frozen")}
    try:
      frozen = {name for name in named if pattern is not None and re.match(pattern, name)}
    except re.error as error:
      raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    if pattern is not None and not frozen:
      raise ValueError(
        f"{pattern!r} matches the beginning of no unit's name; names are {', '.join(map(name_of, _units(self)))}"
      )
    for name, part in named.items():
      part.frozen = name in frozen

  def check(self, clip: Clip | tf.TensorSpec | Mapping[str, tf.TensorSpec]) -> None:
    """Checks that the network can take a clip, as far as its shape is known.

    Args:
      clip: the clip, or its specification; by stream if there are two.

    Raises:
      ValueError: if it does not fit.
    """
    check_clip(clip)

  def _normalized(self, clip: tf.Tensor) -> tf.Tensor:
    if self.rgb_mean is None or clip.shape[-1] != 3:
      return clip
    mean, std = (tf.constant(value, clip.dtype) for value in (self.rgb_mean, self.rgb_std))
    return (clip * 0.5 + 0.5 - mean) / std


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """What the zoo knows of one network.

  Attributes:
    title: in a few words.
    constructor: the class.
    arguments: of the constructor, that make of the class this network and no other of its family.
    streams: what it can be trained on: 'rgb', 'flow', or 'joint' for both at once.
    options: arguments of the constructor, beside those that all have, by the names of `saved.ModelInfo`.
    first_unit: name of the unit whose convolution sees the clip; '{stream}' stands for the stream.
    trunk: prefix of the names of the image network that it contains or is inflated from, '{stream}' standing for the
      stream; None if there is none.
    base: the name of that image network.
    training: the clips of its training, by the names of `clip_config.TrainClips`.
    test: protocol and number of clips or frames of its test, by the names of `clip_config.EvalClips`; the clips are
      those of training.
    parameters: trained values by stream, for 400 classes.
    giga_multiply_adds: of one training clip, forward, by stream. One multiplication with its addition counts 1, those
      on padding included; biases, batch norm, pools and gates between units are not counted.
    accuracies: published top-1 accuracy in percent on Kinetics-400, by what it started from ('scratch', 'imagenet', or
      'unknown' if its source does not say) and by stream; of the paper's networks on the test set, of later ones on the
      validation set.
    source: of architecture and accuracies.
  """

  title: str
  constructor: type[Network]
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  streams: tuple[str, ...]
  options: tuple[str, ...] = ()
  first_unit: str
  trunk: str | None = None
  base: str = "inception_v1"
  training: Mapping[str, Any]
  test: Mapping[str, Any]
  parameters: Mapping[str, int]
  giga_multiply_adds: Mapping[str, float]
  accuracies: Mapping[str, Mapping[str, float]]
  source: str

  @property
  def first_kernels(self) -> tuple[str, ...]:
    """The names, without the network's, of the kernels that see the clip, of whichever stream."""
    return tuple(dict.fromkeys(f"{self.first_unit.format(stream=stream)}/conv_3d/w" for stream in STREAMS))

  def make(self, num_classes: int, **options: Any) -> Network:
    """Returns the network, not yet built.

    Args:
      num_classes: number of logits.
      **options: further arguments of its constructor.

    Raises:
      ValueError: for an argument out of range.
    """
    return self.constructor(num_classes, **self.arguments, **options)


def clip_of(batch: Mapping[str, Any], streams: Sequence[str]) -> Any:
  """Returns what a network is called with.

  Args:
    batch: clips, or their specifications, by stream.
    streams: those of the network; of a single one its clip is returned, of two a mapping.
  """
  return batch[streams[0]] if len(streams) == 1 else {stream: batch[stream] for stream in streams}


def to_tensors(clip: Any) -> Clip:
  """Returns a clip, or clips by stream, as tensors.

  Args:
    clip: tensors or arrays.
  """
  if isinstance(clip, Mapping):
    return {stream: tf.convert_to_tensor(each) for stream, each in clip.items()}
  return tf.convert_to_tensor(clip)


def not_in_chunks(endpoint: str, reason: str) -> errors.I3dError:
  """Returns the error of `Network.time_layers`.

  Args:
    endpoint: whose steps depend on more than their own frames.
    reason: why, a clause.
  """
  return errors.I3dError(f"{endpoint} cannot be computed in chunks: {reason}")


def check_clip(clip: Clip | tf.TensorSpec | Mapping[str, tf.TensorSpec]) -> None:
  """Checks for a clip of one stream, `[B, T, H, W, C]`, of floating-point numbers.

  Args:
    clip: the clip, or its specification.

  Raises:
    ValueError: if it is anything else.
  """
  if isinstance(clip, Mapping):
    raise ValueError(f"got clips of {' and '.join(clip)}; this network takes one stream")
  if clip.shape.rank != 5 or clip.shape[-1] is None:
    raise ValueError(f"clip has shape {clip.shape}; it must be [batch, frames, height, width, channels]")
  if clip.dtype.is_integer:
    raise ValueError(f"clip has type {clip.dtype.name}; it must be floating point, scaled to [-1, 1]")


def check_keep_prob(dropout_keep_prob: float) -> None:
  """Checks a probability of keeping a value.

  Args:
    dropout_keep_prob: in (0, 1].

  Raises:
    ValueError: if it is out of range.
  """
  if not 0 < dropout_keep_prob <= 1:
    raise ValueError(f"dropout_keep_prob is {dropout_keep_prob}; it must be in (0, 1]")


def check_common(num_classes: int, width_multiplier: float, compute_dtype: str) -> None:
  """Checks the constructor's arguments that all networks have.

  Args:
    num_classes: at least 1.
    width_multiplier: positive.
    compute_dtype: one of `COMPUTE_DTYPES`.

  Raises:
    ValueError: for an argument out of range.
  """
  if num_classes < 1:
    raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
  if not width_multiplier > 0:
    raise ValueError(f"width_multiplier is {width_multiplier}; it must be positive")
  if compute_dtype not in COMPUTE_DTYPES:
    raise ValueError(f"compute_dtype is {compute_dtype!r}; allowed are {', '.join(COMPUTE_DTYPES)}")


def dropout(
  net: tf.Tensor, keep_prob: float, seeds: tf.Tensor | None, *, whole_channels: bool = False, layer: int = 0
) -> tf.Tensor:
  """Returns `[B, T, H, W, C]` with values kept with probability `keep_prob`, divided by it, and others set to 0.

  Args:
    net: the values, `[B, T, H, W, C]`.
    keep_prob: 1 keeps all.
    seeds: integers `[B, 2]`, a seed for each clip, which alone determines its dropout; None: drawn anew.
    whole_channels: keep or drop a channel at all times and places alike.
    layer: tells the layers of a network apart, so that they draw different numbers from the same seeds.
  """
  if keep_prob == 1:
    return net
  batch, *shape = tf.unstack(tf.shape(net))
  if whole_channels:
    shape[:-1] = 1, 1, 1
  if seeds is None:
    noise = tf.random.uniform([batch, *shape])
  else:
    draw = lambda seed: _uniform(shape, seed)
    seeds = tf.convert_to_tensor(seeds)
    noise = tf.map_fn(draw, seeds + tf.constant([0, layer], seeds.dtype), fn_output_signature=tf.float32)
  return tf.where(noise < keep_prob, net / keep_prob, 0)


def _uniform(shape: Sequence[int | tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
  """The numbers in [0, 1) of `tf.random.stateless_uniform`, also under XLA, whose own makes others of the same bits."""
  bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox")
  return tf.bitcast(tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(bits, 0x7FFFFF), 0x3F800000), tf.float32) - 1


def trained(module: snt.Module) -> tuple[tf.Variable, ...]:
  """Returns the trainable variables that are in no frozen unit or part, in the order of `module.trainable_variables`.

  Args:
    module: a network or a part of one.
  """
  parts = (part for part in (module, *module.submodules) if getattr(part, "frozen", False))
  frozen = {variable.ref() for part in parts for variable in part.variables}
  return tuple(variable for variable in module.trainable_variables if variable.ref() not in frozen)


def _units(module: snt.Module) -> list[snt.Module]:
  """The outermost modules that can be frozen, each as a whole."""
  found = [inner for inner in (module, *module.submodules) if hasattr(inner, "frozen")]
  inner = {id(part) for unit in found for part in unit.submodules}
  return [unit for unit in found if id(unit) not in inner]


def multiply_adds(function: Callable, *arguments: tf.TensorSpec | Mapping[str, tf.TensorSpec]) -> int:
  """Returns the number of multiply-adds of a function, counted in its graph.

  One multiplication with its addition counts 1; taps on padding are counted. Only convolutions and matrix products are,
  not biases, batch norm, pools and other operations on single values.

  Args:
    function: such as a call of a network.
    *arguments: specifications of its arguments, of known shapes.

  Raises:
    ValueError: for an operation whose shape is not known, or a loop, whose length is not.
  """
  graph = tf.function(function, autograph=False).get_concrete_function(*arguments).graph
  loops = [op.name for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
  if loops:
    raise ValueError(f"cannot count what is computed in a loop: {', '.join(loops)}")
  return sum(map(_multiply_adds, graph.get_operations()))


def _multiply_adds(op: tf.Operation) -> int:
  if op.type in ("Conv2D", "Conv3D"):
    *taps, _ = op.inputs[1].shape
    return _size(op) * math.prod(taps)
  if op.type == "DepthwiseConv2dNative":
    height, width, _, _ = op.inputs[1].shape
    return _size(op) * height * width
  if op.type in ("MatMul", "BatchMatMulV2"):
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return _size(op) * op.inputs[0].shape[-2 if transposed else -1]
  return 0


def _size(op: tf.Operation) -> int:
  shape = op.outputs[0].shape
  if not shape.is_fully_defined():
    raise ValueError(f"the shape of {op.name} is not known: {shape}")
  return shape.num_elements()
