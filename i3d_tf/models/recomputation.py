"""Saving memory in training: a part of the network is computed again for its gradient."""

from collections.abc import Callable, Sequence

import tensorflow as tf


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
