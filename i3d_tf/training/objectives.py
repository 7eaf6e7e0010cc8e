"""What a network is trained for: the classes that the labels tell, or, without labels, which clips are of one video.

A network can be trained on two data sets at once, as Two-Stream ConvNets (Simonyan and Zisserman, arXiv 1406.2199,
section 4): each has classes of its own in one classifier, with a softmax of their own, and the losses are added.
"""

from collections.abc import Mapping, Sequence

import sonnet as snt
import tensorflow as tf

from i3d_tf.input import clip_config
from i3d_tf.models import base
from i3d_tf.weights import saved

_NEVER = -1e9  # a logit of no probability
_PROJECTED = 128  # values of a projection (SimCLR, appendix B.9; CVRL, section 3.2)


class Classification:
  """The cross-entropy of the labels; and what every objective has.

  Attributes:
    views: Clips of each video in a batch, side by side.
    has_classes: Whether the network that is kept has a classifier.
    head: What is trained beside the network and not kept with it, once `load` was called; None: nothing.
  """

  views = 1
  has_classes = True
  head: snt.Module | None = None

  def __init__(self, label_smoothing: float = 0.0):
    """Takes the share of the target's probability that is spread evenly over all classes in training."""
    self._label_smoothing = label_smoothing
    self._sizes: Sequence[int] = (0,)

  def clips(self, clips: clip_config.TrainClips) -> clip_config.TrainClips:
    """Returns the clips that are read for training.

    Args:
      clips: Clips of the network.
    """
    return clips

  def load(self, info: saved.ModelInfo, sizes: Sequence[int]) -> None:
    """Makes what there is beside the network; call it in the strategy's scope.

    Args:
      info: The network that is trained.
      sizes: Number of classes of every data set.

    Raises:
      I3dError: If the network does not fit.
    """
    del info
    self._sizes = tuple(sizes)

  def notes(self, flow_method: str) -> list[str]:
    """Returns sentences to be told before training.

    Args:
      flow_method: Flow of the records.
    """
    del flow_method
    return []

  def __call__(
    self, logits: tf.Tensor, endpoints: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor], loss: str | None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what a network's output is worth, summed over clips.

    Args:
      logits: `[B, classes]`.
      endpoints: Those of the network.
      batch: Scaled clips that it saw, with 'label' and 'weight', `[B]`.
      loss: The endpoint that is trained (`base.Network.LOSS`); None if this is no training.

    Returns:
      The loss to descend; and loss, number of clips that were told right, number of clips, and distance from a
      teacher, `[4]`, each clip by its weight.
    """
    own = lambda values: own_logits(values, batch["label"], self._sizes)
    losses = cross_entropy(
      own(endpoints[loss] if loss else logits), batch["label"], self._label_smoothing if loss else 0.0
    )
    hits = tf.equal(tf.argmax(own(logits), 1, tf.int32), batch["label"])
    sums = _sums(losses, hits, batch["weight"])
    return sums[0] * len(self._sizes), sums


class Contrastive(Classification):
  """Two clips of a video are to be told from those of other videos: pre-training that uses no labels.

  The loss is SimCLR's NT-Xent (Chen et al., ICML 2020): the cross-entropy of finding the other clip of the same video
  among all other clips, by the cosines of their projections over a temperature. Both clips are drawn at random times
  with crops and flips of their own, as CVRL has it (Qian et al., CVPR 2021). A projection is made of the features
  before the classifier, averaged over steps, by two layers that are trained with the network and not kept with it. The
  other clips are those of the replica's own batch: more replicas do not give more of them.
  """

  views = 2
  has_classes = False

  def __init__(self, temperature: float):
    """Takes what the cosines are divided by."""
    super().__init__()
    self._temperature = temperature

  def load(self, info: saved.ModelInfo, sizes: Sequence[int]) -> None:
    """Makes the projection; see `Classification.load`.

    Args:
      info: The network that is trained.
      sizes: Not used.
    """
    del sizes
    width = feature_width(info)
    self.head = self._project = snt.nets.MLP((width, _PROJECTED), name="projection")
    self._project(tf.zeros([1, width]))

  def notes(self, flow_method: str) -> list[str]:
    """Returns sentences to be told before training.

    Args:
      flow_method: Not used.
    """
    del flow_method
    return [
      "The labels are not used: accuracy is that of finding the other clip of a video, and no classifier is kept."
    ]

  def __call__(
    self, logits: tf.Tensor, endpoints: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor], loss: str | None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the loss and the sums of the clips; see `Classification`.

    Args:
      logits: Not used.
      endpoints: 'PooledFeatures' is used.
      batch: 'weight' `[B]` is used; clips 2k and 2k + 1 are of one video.
      loss: Not used.
    """
    del logits, loss
    features = endpoints[base.POOLED_FEATURES]
    projected = self._project(tf.reduce_mean(features, 1) if features.shape.rank == 3 else features)
    sums = _sums(*nt_xent(projected, batch["weight"], self._temperature))
    return sums[0], sums


def nt_xent(projected: tf.Tensor, weight: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Returns each clip's loss, whether its other clip is the most similar one, and its weight, `[B]`.

  Args:
    projected: Projections `[B, D]`; 2k and 2k + 1 are of one video.
    weight: `[B]`, 1, or 0 for what is no clip: it and the other clip of its video are left out.
    temperature: What cosines are divided by.
  """
  unit = tf.math.l2_normalize(projected, axis=1)
  places = tf.range(tf.shape(unit)[0])
  partners = places + 1 - 2 * (places % 2)
  weight = weight * tf.gather(weight, partners)
  is_other = (weight > 0) & (places[:, tf.newaxis] != places)
  similarities = tf.where(is_other, tf.matmul(unit, unit, transpose_b=True) / temperature, _NEVER)
  return cross_entropy(similarities, partners), tf.equal(tf.argmax(similarities, 1, tf.int32), partners), weight


def _sums(losses: tf.Tensor, hits: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
  """(Losses, hits, clips, no distance), `[4]`, each clip by its weight."""
  found = (losses * weight, tf.cast(hits, tf.float32) * weight, weight, tf.zeros_like(weight))
  return tf.stack([tf.reduce_sum(values) for values in found])


def feature_width(info: saved.ModelInfo) -> int:
  """Returns the channels of 'PooledFeatures', found without computing them.

  Args:
    info: The network.
  """
  shape = [1, info.preprocess.num_frames, info.preprocess.crop, info.preprocess.crop]
  with tf.Graph().as_default():  # where variables have shapes and take no memory
    clips = {stream: tf.zeros([*shape, channels]) for stream, channels in info.channels.items()}
    return saved.make_model(info)(base.clip_of(clips, info.streams))[1][base.POOLED_FEATURES].shape[-1]


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
  """Returns the softmax cross-entropy of each clip, `[B]`.

  Args:
    logits: `[B, classes]`, float32, or `[B, steps, classes]`, over whose cross-entropies the mean is taken.
    labels: `[B]`, integers.
    label_smoothing: Share of the target's probability that is spread evenly over all classes (arXiv 1512.00567).
  """
  if logits.shape.rank == 3:
    num_steps = tf.shape(logits)[1]
    of_steps = cross_entropy(tf.reshape(logits, [-1, logits.shape[-1]]), tf.repeat(labels, num_steps), label_smoothing)
    return tf.reduce_mean(tf.reshape(of_steps, [-1, num_steps]), axis=1)
  if not label_smoothing:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
  share = label_smoothing / logits.shape[-1]
  targets = tf.one_hot(labels, logits.shape[-1], 1 - label_smoothing + share, share)
  return tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)


def own_logits(logits: tf.Tensor, labels: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
  """Returns the logits with -1e9 for every class that is not of the clip's own data set.

  Args:
    logits: `[B, classes]` or `[B, steps, classes]`: the classes of the first data set, then those of the next.
    labels: `[B]`, indices of all classes.
    sizes: Number of classes of each data set.
  """
  if len(sizes) == 1:
    return logits
  task_of = tf.repeat(tf.range(len(sizes)), sizes)
  is_own = tf.equal(task_of[tf.newaxis], tf.gather(task_of, labels)[:, tf.newaxis])
  if logits.shape.rank == 3:
    is_own = is_own[:, tf.newaxis]
  return tf.where(is_own, logits, _NEVER)
