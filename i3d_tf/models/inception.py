"""The trunk loop of the Inception family, and InceptionI3d."""

from collections.abc import Mapping
import functools
import re

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import recomputation
from i3d_tf.models import units

MIN_FRAMES = 9  # fewer leave one time step to a pool that spans two
SQUEEZABLE_SIDES = (193, 224)  # sides that five strides of 2 take to 7, which the head pools to 1
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


class InceptionI3d(snt.Module):
  """Two-Stream Inflated 3D ConvNet of one stream: Inception-v1 with temporal kernels.

  The network of "Quo Vadis, Action Recognition?" (arXiv 1705.07750) as google-deepmind/kinetics-i3d i3d.py
  defines it, with the release's interface, endpoint names, 230 variables (116 trained) and paddings.

  RGB clips have 3 channels in [-1, 1]; flow clips 2 channels (x, y), +-20 pixels per frame scaled to [-1, 1];
  both at 25 frames per second. The number of channels is fixed by the first call, or by `build`.
  """

  VALID_ENDPOINTS = spec.ENDPOINTS

  def __init__(
      self,
      num_classes: int = 400,
      spatial_squeeze: bool = True,
      final_endpoint: str = "Logits",
      name: str = "inception_i3d",
      *,
      width_multiplier: float = 1.0,
      average_space: bool = False,
      spatial_dropout: bool = False,
      sync_batch_norm: bool = False,
      batch_norm_decay: float = batch_norm.DECAY,
      recompute: bool = False,
      compute_dtype: str = "float32",
  ):
    """Describes the network; variables are created by the first call or by `build`.

    Under a `tf.distribute` strategy call `build` in its scope, and the network in its replicas.

    Args:
      num_classes: number of logits.
      spatial_squeeze: drop the spatial axes of the logits, which must then have size 1.
      final_endpoint: the last endpoint to build, one of `VALID_ENDPOINTS`; it is also the output.
      name: name of the module, the first part of its variables' names.
      width_multiplier: multiplies every width but the classes' (small networks for tests).
      average_space: accept any height and width: pool at most 7x7 and average the logits over space
        instead of squeezing. Needs `spatial_squeeze`.
      spatial_dropout: drop whole channels of the pooled features, at all times and places of a clip.
      sync_batch_norm: in training take the batch's statistics over all replicas of the `tf.distribute` strategy.
      batch_norm_decay: of the moving statistics; the release's by default.
      recompute: in training store the outputs of the trunk's max pools only, and compute what lies between again for
        the gradient: saves memory, costs time. Use it in a `tf.function`.
      compute_dtype: the type of the trunk's activations, one of 'float32', 'bfloat16' and 'float16'. Variables,
        statistics, the head and all gradients of variables are float32 whatever it is.

    Raises:
      ValueError: for an unknown endpoint or an argument out of range.
    """
    super().__init__(name=name)
    if final_endpoint not in self.VALID_ENDPOINTS:
      raise ValueError(f"final_endpoint is {final_endpoint!r}; allowed are {', '.join(self.VALID_ENDPOINTS)}")
    if num_classes < 1:
      raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
    if not width_multiplier > 0:
      raise ValueError(f"width_multiplier is {width_multiplier}; it must be positive")
    if average_space and not spatial_squeeze:
      raise ValueError("average_space=True removes the spatial axes and needs spatial_squeeze=True")
    if compute_dtype not in COMPUTE_DTYPES:
      raise ValueError(f"compute_dtype is {compute_dtype!r}; allowed are {', '.join(COMPUTE_DTYPES)}")
    self.num_classes = num_classes
    self.final_endpoint = final_endpoint
    self.width_multiplier = width_multiplier
    self.in_channels = None
    self._spatial_squeeze = spatial_squeeze
    self._average_space = average_space
    self._spatial_dropout = spatial_dropout
    self._sync_batch_norm = sync_batch_norm
    self._batch_norm_decay = batch_norm_decay
    self._recompute = recompute
    self._compute_dtype = tf.as_dtype(compute_dtype)
    self._trunk = {}
    for row in spec.ROWS:
      endpoint = spec.endpoint_name(row)
      self._trunk[endpoint] = _make_row(spec.scale_channels(row, width_multiplier), spec.I3D)
      if endpoint == final_endpoint:
        break
    self._parts = _split_after_pools(self._trunk)
    self._head = _make_head(num_classes) if self.has_head else None

  @property
  def has_head(self) -> bool:
    """Whether the network goes on to its logits."""
    return self.final_endpoint in (spec.LOGITS, spec.PREDICTIONS)

  @property
  def trained_variables(self) -> tuple[tf.Variable, ...]:
    """The trainable variables less those of frozen units: what a training step watches and moves."""
    return _trained(self)

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

  def build(self, in_channels: int) -> None:
    """Creates all variables for clips of `in_channels` channels; does nothing the second time.

    Raises:
      ValueError: if the network was built for another number of channels.
    """
    if self.in_channels is None:
      channels = in_channels
      with tf.init_scope():
        for module in self._trunk.values():
          channels = module.build(channels)
        if self._head is not None:
          self._head.build(channels)
      self.in_channels = in_channels
    elif self.in_channels != in_channels:
      raise ValueError(f"clip has {in_channels} channels; {self.name} was built for {self.in_channels}")

  def __call__(
      self,
      clip: tf.Tensor,
      is_training: bool = False,
      dropout_keep_prob: float = 1.0,
      *,
      dropout_seeds: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
    """Applies the network.

    Args:
      clip: `[B, T, H, W, C]` floating point in [-1, 1], cast to `compute_dtype`. To reach the logits T must be at least
        9, and H and W 193 to 224 unless `spatial_squeeze=False` (then at least 193) or `average_space=True`.
      is_training: use, and move the averages to, the batch's statistics instead of the moving ones.
      dropout_keep_prob: probability of keeping a pooled feature, in (0, 1]. As in the release it acts
        whether or not `is_training`.
      dropout_seeds: integers `[B, 2]`, a seed for each clip, of which alone its dropout is then a function,
        not of how clips are divided into batches.

    Returns:
      `(output, endpoints)`: the final endpoint, and every endpoint up to it by name. 'Logits' and
      'Predictions' are averaged over time, `[B, classes]` or, without squeezing, `[B, h, w, classes]`.
      Beside the release's names there are 'PooledFeatures' `[B, T' - 1, 1024]` and 'StepLogits'
      `[B, T' - 1, classes]`, before averaging (with their spatial axes if not squeezed).

    Raises:
      ValueError: for a clip or an argument that does not fit, as the release does.
    """
    clip = tf.convert_to_tensor(clip)
    self._check(clip, dropout_keep_prob)
    self.build(clip.shape[-1])
    statistics = self._make_statistics() if is_training else None
    endpoints = {}
    net = tf.cast(clip, self._compute_dtype)
    for part in self._parts if self._recompute and is_training else [self._trunk]:
      apply = functools.partial(_apply_rows, part, statistics=statistics)
      if self._recompute and is_training:
        variables = [variable for module in part.values() for variable in _trained(module)]
        output = recomputation.recomputed(lambda net, apply=apply: _last(apply(net)), net, variables)
        # A tf.function leaves out those of them that nobody asks for.
        endpoints |= apply(net) | {list(part)[-1]: output}
      else:
        endpoints |= apply(net)
      net = _last(endpoints)
    if statistics is not None:
      statistics.move_averages()
    if self._head is not None:
      endpoints |= self._classify(tf.cast(net, tf.float32), dropout_keep_prob, dropout_seeds)
    return endpoints[self.final_endpoint], endpoints

  def _make_statistics(self) -> batch_norm.BatchStatistics:
    return batch_norm.BatchStatistics(synchronized=self._sync_batch_norm, decay=self._batch_norm_decay)

  def _classify(
      self, net: tf.Tensor, dropout_keep_prob: float, dropout_seeds: tf.Tensor | None = None
  ) -> dict[str, tf.Tensor]:
    pooled = _average_pool(net, shrink_to_fit=self._average_space)
    if dropout_keep_prob < 1:
      pooled = _dropout(pooled, dropout_keep_prob, dropout_seeds, whole_channels=self._spatial_dropout)
    step_logits = self._head(pooled)
    if self._average_space:
      pooled, step_logits = (tf.reduce_mean(x, [2, 3]) for x in (pooled, step_logits))
    elif self._spatial_squeeze:
      pooled, step_logits = (tf.squeeze(x, [2, 3]) for x in (pooled, step_logits))
    endpoints = {spec.LOGITS: tf.reduce_mean(step_logits, axis=1)}
    if self.final_endpoint == spec.PREDICTIONS:
      endpoints[spec.PREDICTIONS] = tf.nn.softmax(endpoints[spec.LOGITS])
    return endpoints | {spec.POOLED_FEATURES: pooled, spec.STEP_LOGITS: step_logits}

  def _check(self, clip: tf.Tensor, dropout_keep_prob: float) -> None:
    if not 0 < dropout_keep_prob <= 1:
      raise ValueError(f"dropout_keep_prob is {dropout_keep_prob}; it must be in (0, 1]")
    if clip.shape.rank != 5 or clip.shape[-1] is None:
      raise ValueError(f"clip has shape {clip.shape}; it must be [batch, frames, height, width, channels]")
    if clip.dtype.is_integer:
      raise ValueError(f"clip has type {clip.dtype.name}; it must be floating point, scaled to [-1, 1]")
    if not self.has_head:
      return
    frames, *sides = clip.shape[1:4]
    if frames is not None and frames < MIN_FRAMES:
      raise ValueError(f"clip has {frames} frames; {self.final_endpoint} needs at least {MIN_FRAMES}")
    if self._average_space:
      return
    low, high = SQUEEZABLE_SIDES
    for axis, side in zip(("height", "width"), sides, strict=True):
      if side is None:
        continue
      if side < low or (side > high and self._spatial_squeeze):
        allowed = f"{low} to {high}" if self._spatial_squeeze else f"at least {low}"
        raise ValueError(f"clip has {axis} {side}; {self.final_endpoint} needs {allowed}, or average_space=True")


def _make_head(num_classes: int) -> snt.Module:
  make_units = lambda: [units.Unit3D(num_classes, (1, 1, 1), use_batch_norm=False, name=spec.conv_name(spec.HEAD_CONV))]
  return units.Chain(make_units, name=spec.LOGITS)


def _average_pool(net: tf.Tensor, *, shrink_to_fit: bool) -> tf.Tensor:
  """The head's VALID 2x7x7 average pool, on request no larger than the map."""
  time, *sides = spec.HEAD_POOL
  if net.shape[1] is None:
    # A pool over too few steps is empty, not an error, and its mean NaN.
    message = f"clip has too few frames; Logits needs at least {MIN_FRAMES}"
    with tf.control_dependencies([tf.debugging.assert_greater_equal(tf.shape(net)[1], time, message)]):
      net = tf.identity(net)
  if shrink_to_fit:
    sides = [min(side, extent or side) for side, extent in zip(sides, net.shape[2:4], strict=True)]
  return tf.nn.avg_pool3d(net, [time, *sides], 1, "VALID")


def _dropout(net: tf.Tensor, keep_prob: float, seeds: tf.Tensor | None, *, whole_channels: bool) -> tf.Tensor:
  """Keeps values of `[B, T, H, W, C]` with probability `keep_prob`, divided by it, each or by whole channels."""
  batch, *shape = tf.unstack(tf.shape(net))
  if whole_channels:
    shape[:-1] = 1, 1, 1
  if seeds is None:
    noise = tf.random.uniform([batch, *shape])
  else:
    draw = lambda seed: tf.random.stateless_uniform(shape, seed)
    noise = tf.map_fn(draw, tf.convert_to_tensor(seeds), fn_output_signature=tf.float32)
  return tf.where(noise < keep_prob, net / keep_prob, 0)


def _split_after_pools(trunk: Mapping[str, snt.Module]) -> list[dict[str, snt.Module]]:
  parts = [{}]
  for endpoint, module in trunk.items():
    parts[-1][endpoint] = module
    if isinstance(module, units.MaxPool3D):
      parts.append({})
  return [part for part in parts if part]


def _apply_rows(rows: Mapping[str, snt.Module], net: tf.Tensor, *, statistics) -> dict[str, tf.Tensor]:
  """The output of every row by its endpoint's name, in order."""
  endpoints = {}
  for endpoint, module in rows.items():
    net = endpoints[endpoint] = module(net, statistics)
  return endpoints


def _last(endpoints: Mapping[str, tf.Tensor]) -> tf.Tensor:
  return list(endpoints.values())[-1]


def _units(module: snt.Module) -> list[units.Unit3D]:
  return [inner for inner in (module, *module.submodules) if isinstance(inner, units.Unit3D)]


def _trained(module: snt.Module) -> tuple[tf.Variable, ...]:
  """Trainable variables of `module` that are in no frozen unit, in the order of `module.trainable_variables`."""
  frozen = {variable.ref() for unit in _units(module) if unit.frozen for variable in unit.variables}
  return tuple(variable for variable in module.trainable_variables if variable.ref() not in frozen)


def _make_row(row: spec.Row, policy: spec.TemporalPolicy, owner: str | None = None) -> snt.Module:
  """The module of one row; `owner` names the Mixed row that a branch's row stands in."""
  if isinstance(row, spec.Mixed):
    make_chain = lambda index, rows: units.Chain(
        lambda: [_make_row(inner, policy, row.name) for inner in rows], name=f"Branch_{index}"
    )
    make_branches = lambda: [make_chain(index, rows) for index, rows in enumerate(row.branches())]
    return units.Concat(make_branches, name=spec.endpoint_name(row))
  kernel = (spec.temporal_kernel(row, policy, owner or row.name), row.kernel, row.kernel)
  stride = (1 if owner else policy.strides.get(row.name, 1), row.stride, row.stride)
  if isinstance(row, spec.Pool):
    return units.MaxPool3D(kernel, stride, name=spec.endpoint_name(row))
  return units.Unit3D(row.channels, kernel, stride, name=spec.endpoint_name(row))
