"""Anomaly detection from weak labels: when something unusual happens, learnt from which videos have it at all.

Here, how a network is trained. Imports no TensorFlow.
"""

import dataclasses

from i3d_tf import fields

METHODS = ("sultani", "rtfm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingConfig:
  """How a network that scores the rows of a video's features is trained on videos with and without anomalies.

  Attributes:
    method: 'sultani': three layers on each row, and the largest score of a video with anomalies shall be above that of
      one without (arXiv 1801.04264). 'rtfm': a network over time, whose features shall be long where the anomaly is
      (arXiv 2101.10030).
    num_segments: Segments of equal length that a video has in training, whose rows are averaged.
    num_steps: Number of steps.
    batch_size: Videos with anomalies in a batch, and as many without.
    learning_rate: Learning rate of Adam.
    weight_decay: L2 decay of kernels.
    dropout: Dropout rate between the layers.
    smoothness: Weight of the squared differences of neighbouring scores of videos with anomalies.
    sparsity: Weight of the scores of videos with anomalies.
    top_k: Of rtfm: segments with the longest features, over which a video's score and length are averaged.
    margin: Of rtfm: length that the features of an anomaly shall reach.
    magnitude: Of rtfm: weight of the loss of the lengths.
    seed: Seed of the weights, the batches and dropout.
  """

  method: str = fields.option("sultani", choices=METHODS)
  num_segments: int = fields.option(32, least=2)
  num_steps: int = fields.option(1000, least=1)
  batch_size: int = fields.option(30, least=1)
  learning_rate: float = fields.option(1e-3, above=0)
  weight_decay: float = fields.option(1e-3, least=0)
  dropout: float = fields.option(0.6, least=0, below=1)
  smoothness: float = fields.option(8e-5, least=0)
  sparsity: float = fields.option(8e-5, least=0)
  top_k: int = fields.option(3, least=1)
  margin: float = fields.option(100.0, above=0)
  magnitude: float = fields.option(1e-4, least=0)
  seed: int = fields.option(0, least=0)

  def __post_init__(self):
    fields.check(self)
