"""Applying the rows of a trunk one after the other, in training perhaps with recomputation."""

from collections.abc import Mapping
import functools

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import batch_norm
from i3d_tf.models import network
from i3d_tf.models import recomputation
from i3d_tf.models import units


def apply(
    rows: Mapping[str, snt.Module],
    net: tf.Tensor,
    statistics: batch_norm.BatchStatistics | None,
    *,
    recompute: bool = False,
) -> dict[str, tf.Tensor]:
  """The output of every row by its name, in order.

  Args:
    rows: units by name, each of which takes the output of the one before.
    net: the first one's input.
    statistics: of this pass, in training mode; None at inference.
    recompute: in training mode store the outputs of max pools only, and compute what lies between again for the
      gradient.
  """
  if not recompute or statistics is None:
    return _apply(rows, net, statistics=statistics)
  outputs = {}
  for part in _split_after_pools(rows):
    function = functools.partial(_apply, part, statistics=statistics)
    variables = [variable for module in part.values() for variable in network.trained(module)]
    last = recomputation.recomputed(lambda net, function=function: _last(function(net)), net, variables)
    # A tf.function leaves out those of them that nobody asks for.
    outputs |= function(net) | {list(part)[-1]: last}
    net = last
  return outputs


def _apply(rows: Mapping[str, snt.Module], net: tf.Tensor, *, statistics) -> dict[str, tf.Tensor]:
  outputs = {}
  for name, module in rows.items():
    net = outputs[name] = module(net, statistics)
  return outputs


def _split_after_pools(rows: Mapping[str, snt.Module]) -> list[dict[str, snt.Module]]:
  parts = [{}]
  for name, module in rows.items():
    parts[-1][name] = module
    if isinstance(module, units.MaxPool3D):
      parts.append({})
  return [part for part in parts if part]


def _last(outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
  return list(outputs.values())[-1]
