"""Whether the gradient of max pooling is right on this device."""

import tensorflow as tf


def max_pool_gradient_is_right(dtype: str = "float32") -> bool:
  """Whether equal maxima in a window share its gradient in place of each getting all of it.

  TensorFlow's own CPU kernel of the 3D pool's gradient gets this wrong; the oneDNN, CUDA and XLA ones are right.
  ReLUs make ties common, so that a network trained with the wrong one is taught something else. Checks the kernel
  that a `tf.function` uses here, on two overlapping windows of ones.

  Args:
    dtype: the type that the network computes in.
  """

  @tf.function
  def total_gradient(inputs):  # an argument, not a constant, which would be folded by the CPU's kernel
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      outputs = tf.nn.max_pool3d(inputs, 3, 2, "SAME")
    return tf.reduce_sum(tape.gradient(outputs, inputs))

  outputs = 2 * 2 * 2 * 8
  return int(total_gradient(tf.ones([1, 4, 4, 4, 8], dtype))) == outputs
