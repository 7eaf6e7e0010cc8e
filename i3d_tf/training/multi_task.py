"""Training on two data sets at once: each has classes of its own in one classifier, and the losses are added.

Two-Stream ConvNets (Simonyan and Zisserman, arXiv 1406.2199, section 4): two softmax layers on the same features, each
with its own loss on the videos of its own data set.
"""

from collections.abc import Sequence

import tensorflow as tf

_NEVER = -1e9  # a logit of no probability


def own_logits(logits: tf.Tensor, labels: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
  """The logits of which only the classes of each clip's own data set can have a probability.

  Args:
    logits: `[B, classes]` or `[B, steps, classes]`: the classes of the first data set, then those of the next.
    labels: `[B]`, indices of all classes.
    sizes: how many classes each data set has.
  """
  if len(sizes) == 1:
    return logits
  task_of = tf.repeat(tf.range(len(sizes)), sizes)
  is_own = tf.equal(task_of[tf.newaxis], tf.gather(task_of, labels)[:, tf.newaxis])
  if logits.shape.rank == 3:
    is_own = is_own[:, tf.newaxis]
  return tf.where(is_own, logits, _NEVER)


def merge(datasets: Sequence[tf.data.Dataset], sizes: Sequence[int]) -> tf.data.Dataset:
  """Batches that hold a batch of each data set one after the other, with labels as `own_logits` takes them."""
  if len(datasets) == 1:
    return datasets[0]

  def join(*batches):
    first, parts = 0, []
    for batch, size in zip(batches, sizes, strict=True):
      parts.append({**batch, "label": batch["label"] + first})
      first += size
    return {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}

  return tf.data.Dataset.zip(tuple(datasets)).map(join)
