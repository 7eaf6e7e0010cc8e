"""The paper's ConvNet+LSTM: a 2D ConvNet on each frame, and an LSTM with batch norm over the frames."""

from collections.abc import Mapping
from typing import Any

import sonnet as snt
import tensorflow as tf

from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import inception
from i3d_tf.models import receptive_field
from i3d_tf.models import units

HIDDEN_UNITS = 512  # paper, section 2.1
_HIDDEN = "Hidden"
_GAIN = 0.1  # of the normalised sums at the start (Cooijmans et al., arXiv 1603.09025, section 4)
_FORGET_BIAS = 1.0  # the usual start of a forget gate (Jozefowicz et al., 2015)


class ConvNetLstm(base.Network):
  """Inception-v1 on every frame, its features averaged over space, an LSTM of 512 units, a classifier at every step.

  Trained with the cross-entropy at all steps; the output is the last step's logits. 8,945,600 trained values for 400
  classes (the paper says 9M), and 5,120 gains and offsets of the LSTM's batch norm.

  Endpoints are the ConvNet's of every frame, 'PooledFeatures' `[B, T, 1024]`, 'Hidden' `[B, T, 512]`, 'StepLogits'
  `[B, T, classes]` and 'Logits', those of the last step. It takes any frame size and, at test, any number of frames.
  """

  LOSS = base.STEP_LOGITS
  MIN_BATCH = 2

  def __init__(
    self,
    num_classes: int = 400,
    *,
    num_frames: int = 25,
    width_multiplier: float = 1.0,
    spatial_dropout: bool = False,
    recurrent_batch_norm: bool = True,
    sync_batch_norm: bool = False,
    batch_norm_decay: float = batch_norm.DECAY,
    name: str | None = None,
    **tower_options,
  ):
    """Describes the network; variables are created by the first call or by `build`.

    Args:
      num_classes: number of logits.
      num_frames: most frames of a training clip; so many steps have statistics of their own (paper, table 1: 25).
      recurrent_batch_norm: normalise inside the LSTM, too.
      width_multiplier, spatial_dropout, sync_batch_norm, batch_norm_decay: see `inception.InceptionI3d`.
      name: of the module.
      **tower_options: further arguments of `inception.InceptionV1`.
    """
    super().__init__(name=name)
    self.num_classes = num_classes
    self._spatial_dropout = spatial_dropout
    statistics: dict[str, Any] = {"sync_batch_norm": sync_batch_norm, "batch_norm_decay": batch_norm_decay}
    self.convnet = inception.InceptionV1(
        num_classes, final_endpoint="Mixed_5c", name="inception_v1", width_multiplier=width_multiplier, **statistics,
        **tower_options,
    )  # fmt: skip
    hidden = max(4, round(HIDDEN_UNITS * width_multiplier))
    self._lstm = BatchNormLstm(hidden, num_frames, use_batch_norm=recurrent_batch_norm, **statistics)
    self._classifier = units.classifier(num_classes, name=base.LOGITS)

  @property
  def endpoint_names(self) -> tuple[str, ...]:
    """The names of the endpoints that a call returns, in order."""
    return (*self.convnet.endpoint_names, base.POOLED_FEATURES, _HIDDEN, base.STEP_LOGITS, base.LOGITS)

  def time_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...]:
    """Returns the layers along time that lead to an endpoint before the LSTM; see `base.Network.time_layers`.

    Args:
      endpoint: one of the ConvNet's, or 'PooledFeatures'.

    Raises:
      I3dError: for any other.
    """
    if endpoint in (base.POOLED_FEATURES, *self.convnet.endpoint_names):
      in_convnet = self.convnet.final_endpoint if endpoint == base.POOLED_FEATURES else endpoint
      return self.convnet.time_layers(in_convnet)
    raise base.not_in_chunks(endpoint, "the LSTM carries its state from the first frame to the last")

  def _build(self, in_channels: int) -> None:
    self.convnet.build(in_channels)
    self._lstm.build(self.convnet.out_channels)
    self._classifier.build(self._lstm.hidden)

  def __call__(
    self,
    clip: tf.Tensor,
    is_training: bool = False,
    dropout_keep_prob: float = 1.0,
    *,
    dropout_seeds: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
    """Applies the network; see `trunk.TrunkNetwork`. Dropout acts on the pooled features."""
    base.check_keep_prob(dropout_keep_prob)
    clip = base.to_tensors(clip)
    self.check(clip)
    self.build(clip.shape[-1])
    features, endpoints = self.convnet(clip, is_training)
    pooled = tf.reduce_mean(tf.cast(features, tf.float32), [2, 3], keepdims=True)
    dropped = base.dropout(pooled, dropout_keep_prob, dropout_seeds, whole_channels=self._spatial_dropout)
    hidden = self._lstm(tf.squeeze(dropped, [2, 3]), is_training)
    step_logits = tf.squeeze(self._classifier(hidden[:, :, tf.newaxis, tf.newaxis]), [2, 3])
    logits = step_logits[:, -1]
    named = {base.POOLED_FEATURES: tf.squeeze(pooled, [2, 3]), _HIDDEN: hidden}
    return logits, {**endpoints, **named, base.STEP_LOGITS: step_logits, base.LOGITS: logits}


class BatchNormLstm(snt.Module):
  """An LSTM whose sums of inputs, sums of hidden units, and cell are normalized over the batch, step by step.

  Recurrent batch norm (Cooijmans et al., arXiv 1603.09025): the three are normalized separately, each with a gain that
  starts at 0.1, and with moving statistics of every step; steps beyond the last of these use its statistics.

  Attributes:
    hidden: the number of its units.
    frozen: use moving statistics in training, too, and do not train.
  """

  def __init__(
    self,
    hidden: int,
    num_steps: int,
    *,
    use_batch_norm: bool = True,
    sync_batch_norm: bool = False,
    batch_norm_decay: float = batch_norm.DECAY,
    name: str = "lstm",
  ):
    """Describes it: `hidden` units, and statistics of `num_steps` steps."""
    super().__init__(name=name)
    self.hidden = hidden
    self._num_steps = num_steps
    self._use_batch_norm = use_batch_norm
    self._synchronized = sync_batch_norm
    self._decay = batch_norm_decay
    self.frozen = False

  @snt.once
  def build(self, in_channels: int) -> None:
    """Creates the variables.

    Args:
      in_channels: of the inputs.
    """
    hidden = self.hidden
    matrix = lambda rows: snt.initializers.TruncatedNormal(stddev=rows**-0.5)([rows, 4 * hidden], tf.float32)
    # Named w, as kernels are, for these are what weight decay is for. Gates: input, forget, cell, output.
    with tf.name_scope("input"):
      self.input_w = tf.Variable(matrix(in_channels), name="w")
    with tf.name_scope("hidden"):
      self.hidden_w = tf.Variable(matrix(hidden), name="w")
    forget = tf.repeat(tf.constant([0.0, _FORGET_BIAS, 0.0, 0.0]), hidden)
    self.b = tf.Variable(forget, name="b")
    widths = {"input": 4 * hidden, "hidden": 4 * hidden, "cell": hidden} if self._use_batch_norm else {}
    self.norms = {
      name: _StepNorm(width, self._num_steps, with_offset=name == "cell", name=f"{name}_norm")
      for name, width in widths.items()
    }

  def __call__(self, inputs: tf.Tensor, is_training: bool = False) -> tf.Tensor:
    """The hidden units at all steps, `[B, T, hidden]`, of `[B, T, C]`.

    Raises:
      ValueError: in training, for an unknown number of steps, or more of them than have statistics.
    """
    is_training = is_training and not self.frozen
    sums = tf.transpose(tf.matmul(inputs, self.input_w), [1, 0, 2])  # by step
    start = tf.zeros([tf.shape(inputs)[0], self.hidden])
    if is_training:
      return self._train(inputs.shape[1], sums, (start, start))
    count = tf.shape(sums)[0]

    def body(step, state, outputs):
      state = self._step(state, sums[step], lambda norm, _: norm.moving(step))
      return step + 1, state, outputs.write(step, state[0])

    loop = (0, (start, start), tf.TensorArray(tf.float32, size=count))
    _, _, outputs = tf.while_loop(lambda step, *_: step < count, body, loop)
    return tf.transpose(tf.ensure_shape(outputs.stack(), [inputs.shape[1], None, self.hidden]), [1, 0, 2])

  def _train(self, num_steps: int | None, sums: tf.Tensor, state: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """All steps with the batch's statistics, towards which the moving ones are moved."""
    if num_steps is None or num_steps > self._num_steps:
      raise ValueError(f"clip has {num_steps} frames; this network is trained with at most {self._num_steps}")
    moments: dict[_StepNorm, list[tuple[tf.Tensor, tf.Tensor]]] = {norm: [] for norm in self.norms.values()}

    def take(norm, values):
      moments[norm].append(self._batch_moments(values))
      return moments[norm][-1]

    outputs = []
    for step in range(num_steps):
      state = self._step(state, sums[step], take)
      outputs.append(state[0])
    for norm, taken in moments.items():
      norm.move_averages(taken, self._decay)
    return tf.stack(outputs, axis=1)

  def _step(self, state: tuple[tf.Tensor, tf.Tensor], sums: tf.Tensor, moments) -> tuple[tf.Tensor, tf.Tensor]:
    """(hidden, cell) of the next step; `moments(norm, values)` gives mean and variance to normalise with."""

    def normalize(name: str, values: tf.Tensor) -> tf.Tensor:
      norm = self.norms.get(name)
      return values if norm is None else norm.normalize(values, *moments(norm, values))

    hidden, cell = state
    gates = normalize("input", sums) + normalize("hidden", tf.matmul(hidden, self.hidden_w)) + self.b
    enter, forget, candidate, leave = tf.split(gates, 4, axis=-1)
    cell = tf.sigmoid(forget) * cell + tf.sigmoid(enter) * tf.tanh(candidate)
    return tf.sigmoid(leave) * tf.tanh(normalize("cell", cell)), cell

  def _batch_moments(self, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mean = self._mean_over_replicas(tf.reduce_mean(values, axis=0))
    return mean, self._mean_over_replicas(tf.reduce_mean(tf.math.squared_difference(values, mean), axis=0))

  def _mean_over_replicas(self, value: tf.Tensor) -> tf.Tensor:
    if not self._synchronized:
      return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


class _StepNorm(snt.Module):
  """Gain, perhaps an offset, and moving statistics `[steps, C]` that start at 0 and 1."""

  def __init__(self, channels: int, num_steps: int, *, with_offset: bool, name: str):
    super().__init__(name=name)
    self.gamma = tf.Variable(tf.fill([channels], _GAIN), name="gamma")
    self.beta = tf.Variable(tf.zeros([channels]), name="beta") if with_offset else None
    self.moving_mean = batch_norm.moving_average(tf.zeros([num_steps, channels]), "moving_mean")
    self.moving_variance = batch_norm.moving_average(tf.ones([num_steps, channels]), "moving_variance")

  def normalize(self, values: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    return tf.nn.batch_normalization(values, mean, variance, self.beta, self.gamma, batch_norm.EPSILON)

  def moving(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The moving statistics of a step, or of the last one."""
    step = tf.minimum(step, self.moving_mean.shape[0] - 1)
    return self.moving_mean[step], self.moving_variance[step]

  def move_averages(self, moments: list[tuple[tf.Tensor, tf.Tensor]], decay: float) -> None:
    """Moves those of the first steps towards a batch's; later ones towards the last of them."""
    for average, values in zip((self.moving_mean, self.moving_variance), zip(*moments, strict=True), strict=True):
      missing = average.shape[0] - len(values)
      average.assign_sub((average - tf.stack([*values, *values[-1:] * missing])) * (1 - decay))


MODELS: Mapping[str, base.Entry] = {
  "convnet_lstm": base.Entry(
    title="ConvNet+LSTM: Inception-v1 on every fifth frame, LSTM with batch norm",
    constructor=ConvNetLstm,
    streams=("rgb", "flow"),
    options=("num_frames",),
    first_unit="inception_v1/Conv2d_1a_7x7",
    trunk="inception_v1/",
    training={"num_frames": 25, "frame_stride": 5, **base.FULL_SIZE},
    test={"protocol": "release", "max_frames": 50, "min_frames": 1},
    parameters={"rgb": 8_950_720, "flow": 8_947_584},
    giga_multiply_adds={"rgb": 37.52, "flow": 36.53},
    accuracies={"scratch": {"rgb": 53.9}, "imagenet": {"rgb": 63.3}},
    source=base.TABLE_3,
  )
}
