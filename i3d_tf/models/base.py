"""What training, evaluation and files ask of every network.

Saving memory in training: a part of the network is computed again for its gradient.
"""

from collections.abc import Callable, Mapping, Sequence
import re

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import inception_spec

LOGITS, STEP_LOGITS = inception_spec.LOGITS, inception_spec.STEP_LOGITS
POOLED_FEATURES = inception_spec.POOLED_FEATURES
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


class Network(snt.Module):
  """A classifier of clips.

  It is called with a clip `[B, T, H, W, C]`, floating point in [-1, 1], or, if it takes both streams, with a mapping of
  'rgb' and 'flow' to such clips; and returns `(output, endpoints)`, of which the output is logits `[B, classes]`.

  Attributes:
    LOSS: the endpoint whose softmax cross-entropy is trained: 'Logits' `[B, classes]`, or 'StepLogits'
      `[B, steps, classes]`, whose cross-entropies are averaged over the steps.
    MIN_BATCH: clips that a batch must have in training: 2 where batch norm sees one place and time of each clip.
    has_head: whether the network goes on to its logits.
    num_classes: number of logits.
    in_channels: C, by stream if there are two; None before `build`.
    rgb_mean, rgb_std: what its published weights want RGB in [0, 1] less and divided by, a number or one a channel;
      the network does this to clips of three channels. None: RGB is taken as it comes, in [-1, 1].
  """

  LOSS = LOGITS
  MIN_BATCH = 1
  has_head = True
  num_classes: int
  in_channels: int | Mapping[str, int] | None = None
  rgb_mean: float | tuple[float, float, float] | None = None
  rgb_std: float | tuple[float, float, float] | None = None

  @property
  def trained_variables(self) -> tuple[tf.Variable, ...]:
    """The trainable variables less those of frozen units: what a training step watches and moves."""
    return trained(self)

  def freeze(self, pattern: str | None) -> None:
    """Makes the units whose name matches `pattern` act in training as at inference, and no others.

    A frozen unit uses its moving statistics and its variables are not among `trained_variables`; watch only those
    on the tape, and nothing is computed for a frozen lower part of the network. Functions traced before stay as they
    were.

    Args:
      pattern: a regular expression that matches at the beginning of a unit's name, for example
        'Mixed_4b/Branch_0/Conv3d_0a_1x1' or 'Logits/Conv3d_0c_1x1'; None thaws all.

    Raises:
      ValueError: if it is no regular expression, or matches no unit.
    """
    named = {unit.name_scope.name.removeprefix(self.name_scope.name).rstrip("/"): unit for unit in _units(self)}
    try:
      frozen = {name for name in named if pattern is not None and re.match(pattern, name)}
    except re.error as error:
      raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    if pattern is not None and not frozen:
      raise ValueError(f"{pattern!r} matches the beginning of no unit's name; names are {', '.join(named)}")
    for name, unit in named.items():
      unit.frozen = name in frozen

  def check(self, clip: tf.Tensor | tf.TensorSpec | Mapping[str, tf.Tensor | tf.TensorSpec]) -> None:
    """Raises ValueError for a clip, or what will be one, that does not fit, as far as its shape is known."""
    check_clip(clip)

  def _normalized(self, clip: tf.Tensor) -> tf.Tensor:
    if self.rgb_mean is None or clip.shape[-1] != 3:
      return clip
    mean, std = (tf.constant(value, clip.dtype) for value in (self.rgb_mean, self.rgb_std))
    return (clip * 0.5 + 0.5 - mean) / std

  def _check_channels(self, channels: int | Mapping[str, int]) -> bool:
    """Whether the network is still to be built for `channels`; an error if it was built for others."""
    if self.in_channels is not None and self.in_channels != channels:
      raise ValueError(f"clip has {channels} channels; {self.name} was built for {self.in_channels}")
    return self.in_channels is None


def clip_of(batch: Mapping[str, tf.Tensor], streams: Sequence[str]) -> tf.Tensor | dict[str, tf.Tensor]:
  """What a network of these streams is called with: the batch's clip, or its clips by stream."""
  return batch[streams[0]] if len(streams) == 1 else {stream: batch[stream] for stream in streams}


def to_tensors(clip: tf.Tensor | Mapping[str, tf.Tensor]) -> tf.Tensor | dict[str, tf.Tensor]:
  """A clip, or clips by stream, or arrays of them, as tensors."""
  if isinstance(clip, Mapping):
    return {stream: tf.convert_to_tensor(each) for stream, each in clip.items()}
  return tf.convert_to_tensor(clip)


def check_clip(clip: tf.Tensor | tf.TensorSpec) -> None:
  """Raises ValueError for what is no clip `[B, T, H, W, C]` of floating point numbers."""
  if isinstance(clip, Mapping):
    raise ValueError(f"got clips of {' and '.join(clip)}; this network takes one stream")
  if clip.shape.rank != 5 or clip.shape[-1] is None:
    raise ValueError(f"clip has shape {clip.shape}; it must be [batch, frames, height, width, channels]")
  if clip.dtype.is_integer:
    raise ValueError(f"clip has type {clip.dtype.name}; it must be floating point, scaled to [-1, 1]")


def check_keep_prob(dropout_keep_prob: float) -> None:
  """Raises ValueError unless it is in (0, 1]."""
  if not 0 < dropout_keep_prob <= 1:
    raise ValueError(f"dropout_keep_prob is {dropout_keep_prob}; it must be in (0, 1]")


def check_common(num_classes: int, width_multiplier: float, compute_dtype: str) -> None:
  """Raises ValueError for an argument out of range."""
  if num_classes < 1:
    raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
  if not width_multiplier > 0:
    raise ValueError(f"width_multiplier is {width_multiplier}; it must be positive")
  if compute_dtype not in COMPUTE_DTYPES:
    raise ValueError(f"compute_dtype is {compute_dtype!r}; allowed are {', '.join(COMPUTE_DTYPES)}")


def dropout(
  net: tf.Tensor, keep_prob: float, seeds: tf.Tensor | None, *, whole_channels: bool = False, layer: int = 0
) -> tf.Tensor:
  """Keeps values of `[B, T, H, W, C]` with probability `keep_prob`, divided by it, each or by whole channels.

  Args:
    net: the values.
    keep_prob: 1 keeps all.
    seeds: integers `[B, 2]`, a seed for each clip, of which alone its dropout is then a function.
    whole_channels: a channel is kept or dropped at all times and places alike.
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
    draw = lambda seed: tf.random.stateless_uniform(shape, seed)
    seeds = tf.convert_to_tensor(seeds)
    noise = tf.map_fn(draw, seeds + tf.constant([0, layer], seeds.dtype), fn_output_signature=tf.float32)
  return tf.where(noise < keep_prob, net / keep_prob, 0)


def trained(module: snt.Module) -> tuple[tf.Variable, ...]:
  """Trainable variables of `module` that are in no frozen unit, in the order of `module.trainable_variables`."""
  frozen = {variable.ref() for unit in _units(module) if unit.frozen for variable in unit.variables}
  return tuple(variable for variable in module.trainable_variables if variable.ref() not in frozen)


def _units(module: snt.Module) -> list[snt.Module]:
  """The outermost modules that can be frozen, each as a whole."""
  found = [inner for inner in (module, *module.submodules) if hasattr(inner, "frozen")]
  inner = {id(part) for unit in found for part in unit.submodules}
  return [unit for unit in found if id(unit) not in inner]


def recomputed(
  function: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor, variables: Sequence[tf.Variable]
) -> tf.Tensor:
  """`function(inputs)`, of which the gradient tape keeps `inputs` only.

  Args:
    function: deterministic, and without effects; it may read any variable.
    inputs: its argument.
    variables: what the gradient is taken for, beside `inputs`.
  """

  @tf.custom_gradient
  def apply(inputs, *values):
    del values

    def gradient(upstream, variables=None):
      with tf.control_dependencies([upstream]):  # so that it waits, and is not merged with the first computation
        again = tf.identity(inputs)
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([again, *watched])
        outputs = function(again)
      gradients = tape.gradient(outputs, [again, *watched], upstream)
      return gradients, [None] * len(variables or ())

    return function(inputs), gradient

  watched = list(variables)
  return apply(inputs, *map(tf.convert_to_tensor, watched))
