"""Networks that score the rows of a video, and how they are trained on videos of which only one label is known."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
import sonnet as snt
import tensorflow as tf

from i3d_tf import anomaly
from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import files
from i3d_tf import training
from i3d_tf.anomaly import bags as bags_lib
from i3d_tf.training import optimizers

INFO, WEIGHTS = "anomaly.json", "weights.npz"
_EPSILON = 1e-6


class Layers(snt.Module):
  """Layers on each row by itself, with dropout between them: ReLU after the first, then a score in [0, 1].

  (WaqasSultani/AnomalyDetectionCVPR2018, TrainingAnomalyDetector_public.py: 512, 32, 1.)
  """

  def __init__(self, widths: Sequence[int], *, relu_layers: int, dropout: float, name: str = "layers"):
    """Describes them.

    Args:
      widths: values out of each layer but the last.
      relu_layers: how many of them a ReLU follows.
      dropout: rate.
      name: of the module.
    """
    super().__init__(name=name)
    initializer = snt.initializers.VarianceScaling(1.0, mode="fan_avg", distribution="truncated_normal")
    self._layers = [
      snt.Linear(width, w_init=initializer, name=f"linear_{index}") for index, width in enumerate([*widths, 1])
    ]
    self._relu_layers, self._dropout = relu_layers, dropout

  def __call__(self, rows: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
    net = rows
    for index, layer in enumerate(self._layers):
      net = snt.BatchApply(layer)(net)
      if index < len(self._layers) - 1:
        net = tf.nn.relu(net) if index < self._relu_layers else net
        net = _dropout(net, self._dropout, seed, index)
    return tf.nn.sigmoid(net[..., 0])


class Sultani(snt.Module):
  """Scores of each row by itself (arXiv 1801.04264)."""

  def __init__(self, config: anomaly.RankingConfig, num_values: int):
    """Describes the network for rows of `num_values`."""
    super().__init__(name="sultani")
    del num_values
    self._layers = Layers((512, 32), relu_layers=1, dropout=config.dropout)

  def __call__(self, rows: tf.Tensor, seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns scores `[B, N]` and lengths, here the scores again.

    Args:
      rows: `[B, N, D]`.
      seed: of dropout, int32 `[2]`; None: no dropout.
    """
    scores = self._layers(rows, seed)
    return scores, scores


class Rtfm(snt.Module):
  """Scores and lengths of rows that see the others: dilated convolutions over time beside attention (arXiv 2101.10030).

  (tianyu0207/RTFM, model.py; without its batch norm, so that a video's scores are its own.)
  """

  def __init__(self, config: anomaly.RankingConfig, num_values: int):
    """Describes the network for rows of `num_values`."""
    super().__init__(name="rtfm")
    width = max(1, num_values // 4)
    self._dropout = config.dropout
    self._pyramid = [snt.Conv1D(width, 3, rate=rate, padding="SAME", name=f"dilated_{rate}") for rate in (1, 2, 4)]
    self._reduce = snt.Conv1D(width, 1, with_bias=False, name="reduce")
    self._embeddings = [snt.Conv1D(max(1, width // 2), 1, name=name) for name in ("theta", "phi", "g")]
    self._expand = snt.Conv1D(width, 1, w_init=snt.initializers.Zeros(), name="expand")  # at first it adds nothing
    self._fuse = snt.Conv1D(num_values, 3, padding="SAME", with_bias=False, name="fuse")
    self._layers = Layers((512, 128), relu_layers=2, dropout=config.dropout)

  def __call__(self, rows: tf.Tensor, seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns scores `[B, N]` and lengths of features `[B, N]`.

    Args:
      rows: `[B, N, D]`.
      seed: of dropout, int32 `[2]`; None: no dropout.
    """
    parts = [tf.nn.relu(conv(rows)) for conv in self._pyramid]
    net = self._reduce(rows)
    queries, keys, values = (conv(net) for conv in self._embeddings)
    weights = tf.matmul(queries, keys, transpose_b=True) / tf.cast(tf.shape(keys)[1], tf.float32)
    parts.append(net + self._expand(tf.matmul(weights, values)))
    net = rows + tf.nn.relu(self._fuse(tf.concat(parts, -1)))
    net = _dropout(net, self._dropout, seed, 10)
    return self._layers(net, seed), tf.norm(net, axis=-1)


_NETWORKS: Mapping[str, type] = {"sultani": Sultani, "rtfm": Rtfm}


def _dropout(net: tf.Tensor, rate: float, seed: tf.Tensor | None, layer: int) -> tf.Tensor:
  if seed is None or not rate:
    return net
  return tf.nn.experimental.stateless_dropout(net, rate, seed + tf.constant([0, layer], tf.int32))


def loss_of(config: anomaly.RankingConfig, scores: tf.Tensor, lengths: tf.Tensor, crops: int) -> tf.Tensor:
  """Returns the loss of a batch.

  Args:
    config: how the network is trained.
    scores: `[2 B crops, N]`, those of B videos with anomalies, and then those of B without; a video's crops in a row.
    lengths: of features, likewise.
    crops: of each video.
  """
  # Of crops a video has the mean score and length at each segment.
  scores, lengths = (tf.reduce_mean(tf.reshape(each, [-1, crops, each.shape[-1]]), 1) for each in (scores, lengths))
  abnormal, normal = tf.split(scores, 2)
  penalty = config.smoothness * tf.reduce_mean(tf.reduce_sum(tf.square(abnormal[:, 1:] - abnormal[:, :-1]), 1))
  penalty += config.sparsity * tf.reduce_mean(tf.reduce_sum(abnormal, 1))
  if config.method == "sultani":
    # Every video with an anomaly against every one without.
    margin = 1 - tf.reduce_max(abnormal, 1)[:, tf.newaxis] + tf.reduce_max(normal, 1)
    return tf.reduce_mean(tf.nn.relu(margin)) + penalty
  top = tf.math.top_k(lengths, min(config.top_k, lengths.shape[-1]))
  found = tf.clip_by_value(tf.reduce_mean(tf.gather(scores, top.indices, batch_dims=1), 1), _EPSILON, 1 - _EPSILON)
  of_abnormal, of_normal = tf.split(found, 2)
  entropy = -tf.reduce_mean(tf.math.log(of_abnormal) + tf.math.log(1 - of_normal)) / 2
  of_abnormal, of_normal = tf.split(tf.reduce_mean(top.values, 1), 2)
  magnitude = tf.reduce_mean(tf.square(tf.abs(config.margin - of_abnormal) + of_normal))
  return entropy + config.magnitude * magnitude + penalty


@dataclasses.dataclass(frozen=True, eq=False)
class Ranker:
  """A network that scores videos.

  Attributes:
    network: the network.
    config: how it was trained.
    num_values: values of a row of features.
    facts: how the features were taken; empty if that is not known.
  """

  network: Any
  config: anomaly.RankingConfig
  num_values: int
  facts: Mapping[str, Any]

  def score(self, bag: bags_lib.Bag) -> np.ndarray:
    """Returns the score of each row, float32 `[N]` in [0, 1], the mean over crops.

    Args:
      bag: the video.

    Raises:
      I3dError: if its features have another number of values.
    """
    if bag.features.shape[-1] != self.num_values:
      raise errors.I3dError(
        f"{bag.name} has features of {bag.features.shape[-1]} values; the network takes {self.num_values}"
      )
    return self.network(tf.constant(bag.unit_rows()))[0].numpy().mean(0)

  def save(self, folder: str | os.PathLike) -> None:
    """Writes the network to a folder.

    Args:
      folder: an existing folder.

    Raises:
      OSError: if it cannot be written.
    """
    info = {"config": dataclasses.asdict(self.config), "num_values": self.num_values, "facts": dict(self.facts)}
    pathlib.Path(folder, INFO).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    values = {str(index): variable.numpy() for index, variable in enumerate(self.network.trainable_variables)}
    with open(pathlib.Path(folder, WEIGHTS), "wb") as file:
      np.savez(file, **values)


def make(config: anomaly.RankingConfig, num_values: int, facts: Mapping[str, Any]) -> Ranker:
  """Returns a network with new weights.

  Args:
    config: how it will be trained.
    num_values: values of a row of features.
    facts: how the features were taken.
  """
  tf.random.set_seed(config.seed)
  network = _NETWORKS[config.method](config, num_values)
  network(tf.zeros([1, config.num_segments, num_values]))
  return Ranker(network, config, num_values, facts)


def load(folder: str | os.PathLike) -> Ranker:
  """Returns a network that `Ranker.save` wrote.

  Args:
    folder: the folder.

  Raises:
    I3dError: if there is none, or it is damaged.
    OSError: if it cannot be read.
  """
  path = pathlib.Path(folder, INFO)
  if not path.is_file():
    raise errors.I3dError(f"{folder} has no {INFO}: it is no network that anomaly train wrote")
  info = files.read_json(path, "what anomaly train writes")
  if not isinstance(info, dict) or set(info) != {"config", "num_values", "facts"}:
    raise errors.I3dError(f"{path}: this is not what anomaly train writes")
  config = fields.from_json(anomaly.RankingConfig, info["config"], path)
  if not isinstance(info["num_values"], int) or not 0 < info["num_values"] < 2**20:
    raise errors.I3dError(f"{path}: num_values is {info['num_values']!r}; it must be a whole number below 2^20")
  ranker = make(config, info["num_values"], info["facts"])
  values = files.read_arrays(pathlib.Path(folder, WEIGHTS))
  variables = {str(index): variable for index, variable in enumerate(ranker.network.trainable_variables)}
  shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
  if {name: value.shape for name, value in values.items()} != shapes:
    raise errors.I3dError(f"{folder}: {WEIGHTS} does not fit what {INFO} says")
  for name, variable in variables.items():
    variable.assign(values[name])
  return ranker


def train(
  bags: Sequence[bags_lib.Bag],
  config: anomaly.RankingConfig,
  *,
  on_step: Callable[[int, float], None] | None = None,
) -> Ranker:
  """Returns a network trained on videos whose label is known.

  Args:
    bags: the videos.
    config: how it is trained.
    on_step: is called with the number of each step and its loss.

  Raises:
    I3dError: if there are no videos with an anomaly, or none without, or they differ in the number of crops.
  """
  kinds = {kind: [bag for bag in bags if bag.is_abnormal is kind] for kind in (True, False)}
  if not all(kinds.values()):
    raise errors.I3dError(
      f"training needs videos with and without anomalies; there are {len(kinds[True])} and {len(kinds[False])}"
    )
  crops = {bag.features.shape[0] for bag in bags}
  if len(crops) > 1:
    raise errors.I3dError(f"all videos must have as many crops; there are {' and '.join(map(str, sorted(crops)))}")
  ranker = make(config, bags[0].features.shape[-1], bags[0].facts)
  segments = {kind: np.stack([bag.segments(config.num_segments) for bag in found]) for kind, found in kinds.items()}
  step = _make_step(ranker, crops.pop())
  rng = np.random.default_rng(config.seed)
  for number in range(config.num_steps):
    drawn = [segments[kind][_draw(rng, len(segments[kind]), config.batch_size)] for kind in (True, False)]
    rows = np.concatenate(drawn).reshape(-1, *drawn[0].shape[2:])
    loss = float(step(tf.constant(rows), tf.constant([config.seed, number], tf.int32), tf.constant(number)))
    if not np.isfinite(loss):
      raise errors.I3dError(f"the loss is {loss} at step {number + 1}; train with a lower learning_rate")
    if on_step is not None:
      on_step(number + 1, loss)
  return ranker


def _draw(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
  """So many of `count` numbers, all of them as often as any other, but for one."""
  return np.concatenate([rng.permutation(count) for _ in range(-(-size // count))])[:size]


def _make_step(ranker: Ranker, crops: int) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
  config, variables = ranker.config, ranker.network.trainable_variables
  optimizer = optimizers.make(training.OptimizationConfig(optimizer="adam"), variables)

  @tf.function(autograph=False)
  def step(rows: tf.Tensor, seed: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
      scores, lengths = ranker.network(rows, 1000 * seed)
      loss = loss_of(config, scores, lengths, crops)
      kernels = [variable for variable in variables if variable.shape.rank > 1]
      total = loss + config.weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
    for variable, gradient in zip(variables, tape.gradient(total, variables), strict=True):
      optimizer.update(variable, gradient, tf.constant(config.learning_rate), number, *optimizer.slots_of(variable))
    return loss

  return step
