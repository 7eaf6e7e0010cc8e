"""A trunk, which is rows of units one after the other, and the network of a trunk and a head.

In training a trunk can be computed again for its gradient, in place of storing its activations.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import receptive_field
from i3d_tf.models import units


class TrunkNetwork(base.Network):
  """Rows one after the other, then a head: the mean over all positions, dropout and the classifier.

  The constructor of such a network fills `_trunk`, rows by the names of their endpoints, and `_head`, the units between
  mean and dropout; a network with another head overrides `_classify`. It takes clips of any length and size unless its
  `check` says otherwise.

  Endpoints are the rows', 'PooledFeatures' `[B, C]`, which is the mean, those of `_head`, and 'Logits' `[B, classes]`.

  Attributes:
    final_endpoint: the endpoint that is the output.
  """

  final_endpoint = base.LOGITS

  def __init__(
    self,
    num_classes: int = 400,
    *,
    width_multiplier: float = 1.0,
    spatial_dropout: bool = False,
    sync_batch_norm: bool = False,
    batch_norm_decay: float = batch_norm.DECAY,
    recompute: bool = False,
    compute_dtype: str = "float32",
    name: str | None = None,
  ):
    """Describes the network; variables are created by the first call or by `build`.

    Args:
      num_classes: number of logits.
      spatial_dropout: keep or drop a channel at all positions of a clip alike; where the head has one position left, as
        after a mean, dropout does that anyway.
      width_multiplier, sync_batch_norm, batch_norm_decay, recompute, compute_dtype: see `inception.InceptionI3d`.
      name: of the module.

    Raises:
      ValueError: for an argument out of range.
    """
    super().__init__(name=name)
    base.check_common(num_classes, width_multiplier, compute_dtype)
    self.num_classes = num_classes
    self.width_multiplier = width_multiplier
    self._statistics: dict[str, Any] = {"synchronized": sync_batch_norm, "decay": batch_norm_decay}
    self._spatial_dropout = spatial_dropout
    self._recompute = recompute
    self._compute_dtype = tf.as_dtype(compute_dtype)
    self._trunk: dict[str, units.Unit] = {}
    self._head: dict[str, units.Unit] = {}
    self._classifier: Any = self._make_classifier() if self.has_head else None

  @property
  def endpoint_names(self) -> tuple[str, ...]:
    """The names of the endpoints that a call returns, in order: the rows', then the head's."""
    return (*self._trunk, *(self._head_endpoints() if self.has_head else ()))

  def _head_endpoints(self) -> tuple[str, ...]:
    """The names of what `_classify` returns."""
    return (base.POOLED_FEATURES, *self._head, base.LOGITS)

  def time_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    """Returns the layers along time that lead to a row; see `base.Network.time_layers`.

    Args:
      endpoint: one of the rows.

    Raises:
      I3dError: for an endpoint of the head, which averages over time; for a row that depends on the whole clip, because
        a gate or an attention block comes before it.
    """
    layers: tuple[receptive_field.Layer, ...] = ()
    for name, module in self._trunk.items():
      try:
        layers += module.time_layers
      except errors.I3dError as error:
        raise base.not_in_chunks(endpoint, str(error)) from None
      if name == endpoint:
        return layers
    raise base.not_in_chunks(endpoint, f"only {', '.join(self._trunk)} have steps in time")

  def _build(self, in_channels: int) -> None:
    channels = in_channels
    for module in (*self._trunk.values(), *self._head.values()):
      channels = module.build(channels)
    if self._classifier is not None:
      self._classifier.build(channels)

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
      clip: `[B, T, H, W, C]` floating point in [-1, 1], cast to `compute_dtype`.
      is_training: use, and move the averages to, the batch's statistics instead of the moving ones.
      dropout_keep_prob: probability of keeping a pooled feature, in (0, 1]. As in I3D's release it acts whether or not
        `is_training`.
      dropout_seeds: integers `[B, 2]`, a seed for each clip, which alone determines its dropout, however clips are
        divided into batches.

    Returns:
      `(output, endpoints)`: the final endpoint, and every endpoint up to it by name.

    Raises:
      ValueError: for a clip or an argument that does not fit.
    """
    base.check_keep_prob(dropout_keep_prob)
    clip = base.to_tensors(clip)
    self.check(clip)
    self.build(clip.shape[-1])
    seeded = {**self._statistics, "dropout_seeds": dropout_seeds}
    statistics = batch_norm.BatchStatistics(**seeded) if is_training else None
    net = tf.cast(self._normalized(clip), self._compute_dtype)
    endpoints = apply(self._trunk, net, statistics, recompute=self._recompute)
    if self.has_head:
      drop = functools.partial(
        base.dropout, keep_prob=dropout_keep_prob, seeds=dropout_seeds, whole_channels=self._spatial_dropout
      )
      endpoints |= self._classify(_last(endpoints), statistics, drop)
    if statistics is not None:
      statistics.move_averages()
    return endpoints[self.final_endpoint], endpoints

  def _classify(
    self, net: tf.Tensor, statistics: batch_norm.BatchStatistics | None, drop: Callable[..., tf.Tensor]
  ) -> dict[str, tf.Tensor]:
    """The endpoints of the head; `drop(net, layer=0)` is the dropout that the call asks for."""
    net = pooled = tf.reduce_mean(tf.cast(net, tf.float32), [1, 2, 3], keepdims=True)
    endpoints = {base.POOLED_FEATURES: tf.squeeze(pooled, [1, 2, 3])}
    for name, module in self._head.items():
      net = endpoints[name] = module(net, statistics)
    return endpoints | {base.LOGITS: tf.squeeze(self._classifier(drop(net)), [1, 2, 3])}

  def _make_classifier(self) -> units.Unit:
    return units.classifier(self.num_classes, name=base.LOGITS)

  def _width(self, channels: int) -> int:
    """A width times the width multiplier; at least 4."""
    return max(4, round(channels * self.width_multiplier))


def apply(
  rows: Mapping[str, units.Unit],
  net: tf.Tensor,
  statistics: batch_norm.BatchStatistics | None,
  *,
  recompute: bool = False,
) -> dict[str, tf.Tensor]:
  """Applies rows one after the other.

  Args:
    rows: units by name.
    net: the input of the first.
    statistics: of this pass, in training mode; None at inference.
    recompute: in training mode store the outputs of max pools and residual blocks only, and compute what lies between
      again for the gradient.

  Returns:
    The output of every row by its name, in order.
  """
  if not recompute or statistics is None:
    return _apply(rows, net, statistics=statistics)
  outputs: dict[str, tf.Tensor] = {}
  for part in _split(rows):
    variables = [variable for module in part.values() for variable in base.trained(module)]
    last = _recomputed(functools.partial(_apply_to_last, part, statistics=statistics), net, variables)
    # A tf.function leaves out those of them that nobody asks for.
    outputs |= _apply(part, net, statistics=statistics) | {list(part)[-1]: last}
    net = last
  return outputs


def _apply(rows: Mapping[str, units.Unit], net: tf.Tensor, *, statistics) -> dict[str, tf.Tensor]:
  outputs = {}
  for name, module in rows.items():
    net = outputs[name] = module(net, statistics)
  return outputs


def _apply_to_last(rows: Mapping[str, units.Unit], net: tf.Tensor, *, statistics) -> tf.Tensor:
  return _last(_apply(rows, net, statistics=statistics))


def _split(rows: Mapping[str, units.Unit]) -> list[dict[str, units.Unit]]:
  """The rows in parts, whose last outputs are stored."""
  parts: list[dict[str, units.Unit]] = [{}]
  for name, module in rows.items():
    parts[-1][name] = module
    if module.ends_part:
      parts.append({})
  return [part for part in parts if part]


def _last(outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
  return list(outputs.values())[-1]


def _recomputed(
  function: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor, variables: Sequence[tf.Variable]
) -> tf.Tensor:
  """`function(inputs)`, of which the gradient tape keeps `inputs` only.

  `function` must be deterministic and without side effects; `variables` are those that the gradient is taken for.
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
