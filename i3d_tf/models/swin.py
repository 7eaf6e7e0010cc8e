"""Swin transformers of clips (Video Swin, arXiv 2106.13230), and of images (arXiv 2103.14030), from which they start.

Source of sizes and of every detail: torchvision, models/video/swin_transformer.py and models/swin_transformer.py, whose
weights are read. Accuracies are on Kinetics-400's validation set, for videos at their own rate; records have 25 frames
per second.

Attention is within windows of 8x7x7 patches, in every second block shifted by half a window. A window begins where the
clip does, so that what a step sees depends on its place in the clip: a Video Swin cannot be run over a long video in
chunks. Of images each frame is a clip of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import sonnet as snt
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import base
from i3d_tf.models import batch_norm
from i3d_tf.models import receptive_field
from i3d_tf.models import trunk
from i3d_tf.models import units

WINDOW = (8, 7, 7)  # patches that attend to each other, (time, height, width)
HEAD_WIDTH = 32  # channels of one head of attention, in all stages
BIAS_TABLE = "relative_position_bias_table"
_EPSILON = 1e-5  # of layer norm
_MLP_FACTOR = 4
_MASKED = -100.0  # added to the logits of attention between patches that only the shift has put into one window
_POINT = (1, 1, 1)
_INITIALIZER = snt.initializers.TruncatedNormal(stddev=0.02)
Extent: TypeAlias = int | tf.Tensor


class SwinTransformer(trunk.TrunkNetwork):
  """A Swin transformer for clips of any length and size, or for images, each frame of a clip by itself.

  Endpoints are 'patch_embed' `[B, T / 2, H / 4, W / 4, C]` (T, of images), rounded up, where C is 96 or 128;
  'layer1_0', 'layer1_1' of the same shape, 'merge1' with half of height and width, rounded up, and 2 C channels,
  'layer2_0', ..., 'merge3', 'layer4_0', 'layer4_1', 'norm' `[B, T / 2, H / 32, W / 32, 8 C]`, 'PooledFeatures'
  `[B, 8 C]` and 'Logits' `[B, classes]`.
  """

  rgb_mean = (0.485, 0.456, 0.406)
  rgb_std = (0.229, 0.224, 0.225)

  def __init__(
    self,
    num_classes: int = 400,
    *,
    num_heads: int = 3,
    depths: Sequence[int] = (2, 2, 6, 2),
    window: units.Triple = WINDOW,
    patch: units.Triple = (2, 4, 4),
    drop_path: float = 0.1,
    name: str | None = None,
    **options: Any,
  ):
    """Describes the network.

    Args:
      num_classes: number of logits.
      num_heads: heads of attention in the first stage; every stage doubles them, and has 32 channels a head.
      depths: blocks of each stage.
      window: patches that attend to each other, (time, height, width).
      patch: size of a patch in pixels, (time, height, width).
      drop_path: rate at which the branches of the last block are left out of a training step (stochastic depth, arXiv
        1603.09382); it grows from 0 at the first block.
      name: of the module.
      **options: see `trunk.TrunkNetwork`.

    Raises:
      ValueError: for an argument out of range.
    """
    if not 0 <= drop_path < 1:
      raise ValueError(f"drop_path is {drop_path}; it must be at least 0 and less than 1")
    super().__init__(num_classes, name=name, **options)
    width, number, last = self._width(HEAD_WIDTH) * num_heads, 0, sum(depths) - 1
    self._trunk["patch_embed"] = PatchEmbedding(width, patch, name="patch_embed")
    for stage, depth in enumerate(depths, start=1):
      for index in range(depth):
        rate = drop_path * number / max(1, last)
        name = f"layer{stage}_{index}"
        self._trunk[name] = Block(
          num_heads, window, is_shifted=index % 2 == 1, drop_path=rate, number=number, name=name
        )
        number += 1
      if stage < len(depths):
        self._trunk[f"merge{stage}"] = PatchMerging(name=f"merge{stage}")
        num_heads *= 2
    self._trunk["norm"] = LayerNorm(name="norm")


class LayerNorm(units.Unit):
  """Normalizes the channels of every position by their own mean and variance, in float32 (arXiv 1607.06450).

  Attributes:
    frozen: not to be trained.
  """

  def __init__(self, *, name: str):
    """Describes it: epsilon is 1e-5, and there are a scale and an offset."""
    super().__init__(name=name)
    self.frozen = False

  def _build(self, in_channels: int) -> int:
    self.gamma = tf.Variable(tf.ones([in_channels]), name="gamma")
    self.beta = tf.Variable(tf.zeros([in_channels]), name="beta")
    return in_channels

  def _time_layers(self) -> units.Layers:
    return ()

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    net = tf.cast(inputs, tf.float32)
    mean, variance = tf.nn.moments(net, [-1], keepdims=True)
    return tf.cast(tf.nn.batch_normalization(net, mean, variance, self.beta, self.gamma, _EPSILON), inputs.dtype)


class PatchEmbedding(units.Unit):
  """A convolution over patches that do not overlap, and layer norm; zeros fill the last patches.

  Attributes:
    frozen: not to be trained.
  """

  def __init__(self, channels: int, patch: units.Triple, *, name: str):
    """Describes it: channels out, and the size of a patch in (time, height, width)."""
    super().__init__(name=name)
    self._patch = tuple(patch)
    self.conv_3d = units.Conv3D(channels, self._patch, self._patch, with_bias=True, padding="VALID")
    self._norm = LayerNorm(name="norm")
    self.frozen = False

  def _build(self, in_channels: int) -> int:
    self.conv_3d.build(in_channels)
    return self._norm.build(self.conv_3d.w.shape[-1])

  def _time_layers(self) -> units.Layers:
    steps = self._patch[0]
    return () if steps == 1 else (receptive_field.Layer(steps, steps),)

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    return self._norm(self.conv_3d(_fill(inputs, self._patch)))


class PatchMerging(units.Unit):
  """Concatenates the channels of 2x2 positions, and after layer norm makes twice as many as before of four times.

  Attributes:
    frozen: not to be trained.
  """

  def __init__(self, *, name: str):
    """Describes it."""
    super().__init__(name=name)
    self._norm = LayerNorm(name="norm")
    self.frozen = False

  def _build(self, in_channels: int) -> int:
    self._norm.build(4 * in_channels)
    self._reduction = _linear(2 * in_channels, with_bias=False, name="reduction")
    return self._reduction.build(4 * in_channels)

  def _time_layers(self) -> units.Layers:
    return ()

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    net = _fill(inputs, (1, 2, 2))
    corners = [net[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return self._reduction(self._norm(tf.concat(corners, -1)))


class Block(units.Unit):
  """Attention within windows, then two layers at each position, both after layer norm and added to their input.

  Attributes:
    frozen: in training mode no branch is left out, and no variable is to be trained.
  """

  ends_part = True

  def __init__(
    self, num_heads: int, window: units.Triple, *, is_shifted: bool, drop_path: float, number: int, name: str
  ):
    """Describes the block.

    Args:
      num_heads: heads of attention, among which the channels are divided.
      window: patches that attend to each other, (time, height, width).
      is_shifted: whether windows begin half a window later.
      drop_path: rate at which a branch is left out in training mode, of each clip by itself.
      number: tells the blocks of a network apart.
      name: of the module.
    """
    super().__init__(name=name)
    self._drop_path, self._number = drop_path, number
    self._norm1 = LayerNorm(name="norm1")
    self._attention = WindowAttention(num_heads, window, is_shifted=is_shifted, name="attention")
    self._norm2 = LayerNorm(name="norm2")
    self.frozen = False

  def _build(self, in_channels: int) -> int:
    self._mlp = [
      _linear(_MLP_FACTOR * in_channels, activation="gelu", name="mlp_0"), _linear(in_channels, name="mlp_1"),
    ]  # fmt: skip
    return units.build_all([self._norm1, self._attention, self._norm2, *self._mlp], in_channels)

  def _time_layers(self) -> units.Layers:
    return self._attention.time_layers

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    net = inputs + self._drop(self._attention(self._norm1(inputs)), statistics, branch=1)
    expand, contract = self._mlp
    return net + self._drop(contract(expand(self._norm2(net))), statistics, branch=2)

  def _drop(self, net: tf.Tensor, statistics: batch_norm.BatchStatistics | None, *, branch: int) -> tf.Tensor:
    if statistics is None or self.frozen or not self._drop_path:
      return net
    return statistics.drop_clips(net, self._drop_path, layer=2 * self._number + branch)


class WindowAttention(units.Unit):
  """Attention among the positions of a window, with a bias for each offset between two of them.

  A clip that is shorter or smaller than a window is one window, which is not shifted; the last windows are filled with
  zeros, which are attended to as well. Of a smaller window the biases are those at the beginning of the whole one's
  index, as in both sources: those of other offsets if it is narrower in height or width.
  """

  def __init__(self, num_heads: int, window: units.Triple, *, is_shifted: bool, name: str):
    """Describes it; see `Block`."""
    super().__init__(name=name)
    self._num_heads, self._window = num_heads, tuple(window)
    self._shift = tuple(extent // 2 if is_shifted else 0 for extent in window)

  def _build(self, in_channels: int) -> int:
    self._qkv = _linear(3 * in_channels, name="qkv")
    self._project = _linear(in_channels, name="project")
    self._qkv.build(in_channels)
    offsets = np.prod([2 * extent - 1 for extent in self._window])
    self._bias_table = tf.Variable(_INITIALIZER([offsets, self._num_heads], tf.float32), name=BIAS_TABLE)
    return self._project.build(in_channels)

  def _time_layers(self) -> units.Layers:
    if self._window[0] == 1:
      return ()
    raise errors.I3dError("the windows of attention before it begin where the clip does")

  def __call__(self, inputs: tf.Tensor, statistics: batch_norm.BatchStatistics | None = None) -> tf.Tensor:
    extents = _extents(inputs)[1:4]
    window, shift = zip(*map(_fit, extents, self._window, self._shift))
    net = _roll(self._qkv(_fill(inputs, window)), shift)
    filled = _extents(net)[1:4]
    mask = self._mask(filled, window, shift) if any(self._shift) else None
    net = self._attend(_partition(net, filled, window), mask)
    net = _merge(net, filled, window)
    net = _roll(net, [-by for by in shift])
    return self._project(net[:, : extents[0], : extents[1], : extents[2]])

  def _attend(self, net: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """`[windows, N, C]` of queries, keys and values `[windows, N, 3 C]`; `mask` is `[windows of a clip, 1, N, N]`."""
    _, places, channels = _extents(net)
    width = channels // (3 * self._num_heads)
    net = tf.transpose(tf.reshape(net, [-1, places, 3 * self._num_heads, width]), [0, 2, 1, 3])
    queries, keys, values = tf.split(net, 3, axis=1)
    queries *= tf.constant(width**-0.5, net.dtype)
    logits = tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32) + self._biases(places)
    if mask is not None:
      logits = tf.reshape(logits, [-1, tf.shape(mask)[0], self._num_heads, places, places]) + mask
      logits = tf.reshape(logits, [-1, self._num_heads, places, places])
    net = tf.matmul(tf.cast(tf.nn.softmax(logits), net.dtype), values)
    return tf.reshape(tf.transpose(net, [0, 2, 1, 3]), [-1, places, channels // 3])

  def _biases(self, places: Extent) -> tf.Tensor:
    """`[heads, N, N]` for the first N places of a window."""
    index = tf.constant(relative_position_index(self._window))[:places, :places]
    return tf.transpose(tf.gather(self._bias_table, index), [2, 0, 1])

  def _mask(self, filled: Sequence[Extent], window: Sequence[Extent], shift: Sequence[Extent]) -> tf.Tensor:
    """What is added to logits: 0 between places that were in one window before the shift's ends were put together."""
    time, height, width = (_regions(*axis) for axis in zip(filled, window, shift))
    region = (time[:, tf.newaxis, tf.newaxis] * 3 + height[:, tf.newaxis]) * 3 + width
    region = _partition(region[tf.newaxis, ..., tf.newaxis], filled, window)
    return tf.cast(tf.not_equal(region, tf.transpose(region, [0, 2, 1])), tf.float32)[:, tf.newaxis] * _MASKED


def relative_position_index(window: Sequence[int]) -> np.ndarray:
  """Returns the row of the bias table for each pair of places in a window, `[N, N]` int32.

  Args:
    window: (time, height, width), whose product is N.
  """
  places = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1).reshape(-1, len(window))
  index = np.zeros([len(places)] * 2, np.int32)
  for axis, extent in enumerate(window):
    offset = places[:, np.newaxis, axis] - places[np.newaxis, :, axis] + extent - 1
    index = index * (2 * extent - 1) + offset
  return index.astype(np.int32)


def _linear(channels: int, *, with_bias: bool = True, activation: str = "none", name: str) -> units.Unit3D:
  return units.Unit3D(
    channels, _POINT, use_batch_norm=False, with_bias=with_bias, activation=activation, initializer=_INITIALIZER,
    name=name,
  )  # fmt: skip


def _extents(net: tf.Tensor) -> list[Extent]:
  """The shape, as numbers as far as they are known."""
  dynamic = tf.shape(net)
  return [dynamic[axis] if extent is None else extent for axis, extent in enumerate(net.shape)]


def _fit(extent: Extent, window: int, shift: int) -> tuple[Extent, Extent]:
  """Window and shift along an axis of that extent."""
  if isinstance(extent, int):
    return (window, shift) if extent > window else (extent, 0)
  return tf.minimum(extent, window), tf.where(extent > window, shift, 0)


def _fill(net: tf.Tensor, multiple: Sequence[Extent]) -> tf.Tensor:
  """Adds zeros behind until time, height and width are multiples of these."""
  missing = [-extent % by for extent, by in zip(_extents(net)[1:4], multiple)]
  if all(isinstance(extent, int) and not extent for extent in missing):
    return net
  return tf.pad(net, [(0, 0), *((0, extent) for extent in missing), (0, 0)])


def _roll(net: tf.Tensor, shift: Sequence[Extent]) -> tf.Tensor:
  """Puts as many positions of each axis, time, height and width, from its beginning to its end, or less than 0 back."""
  for axis, by in enumerate(shift, start=1):
    if not (isinstance(by, int) and by == 0):
      extent = _extents(net)[axis]
      first, rest = tf.split(net, [by % extent, extent - by % extent], axis=axis)
      net = tf.concat([rest, first], axis)
  return net


def _partition(net: tf.Tensor, filled: Sequence[Extent], window: Sequence[Extent]) -> tf.Tensor:
  """`[B * windows, places, C]` of `[B, T, H, W, C]`, in two steps whose transpositions move long runs of memory."""
  channels = net.shape[-1]
  time, height, width = window
  _, rows, columns = (extent // each for extent, each in zip(filled, window))
  net = tf.transpose(tf.reshape(net, [-1, height, columns, width * channels]), [0, 2, 1, 3])
  net = tf.reshape(net, [-1, time, rows * columns, height * width * channels])
  return tf.reshape(tf.transpose(net, [0, 2, 1, 3]), [-1, time * height * width, channels])


def _merge(net: tf.Tensor, filled: Sequence[Extent], window: Sequence[Extent]) -> tf.Tensor:
  """The way back of `_partition`."""
  channels = net.shape[-1]
  time, height, width = window
  _, rows, columns = (extent // each for extent, each in zip(filled, window))
  net = tf.reshape(net, [-1, rows * columns, time, height * width * channels])
  net = tf.reshape(tf.transpose(net, [0, 2, 1, 3]), [-1, columns, height, width * channels])
  return tf.reshape(tf.transpose(net, [0, 2, 1, 3]), [-1, *filled, channels])


def _regions(extent: Extent, window: Extent, shift: Extent) -> tf.Tensor:
  """For each position of a shifted axis 0, or in its last window 1, or 2 if the shift put it there."""
  place = tf.range(extent)
  return tf.cast(place >= extent - window, tf.int32) + tf.cast(place >= extent - shift, tf.int32)


# Rates of stochastic depth are those of SwinTransformer/Video-Swin-Transformer, configs/recognition/swin.
_SIZES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
  "t": ("T", {"num_heads": 3, "depths": (2, 2, 6, 2)}),
  "s": ("S", {"num_heads": 3, "depths": (2, 2, 18, 2)}),
  "b": ("B", {"num_heads": 4, "depths": (2, 2, 18, 2), "drop_path": 0.3}),
}


def _video(size: str, *, parameters: int, cost: float, accuracy: float) -> base.Entry:
  title, arguments = _SIZES[size]
  return base.Entry(
    title=f"Video Swin-{title}: attention in shifted windows of 8x7x7 patches",
    constructor=SwinTransformer,
    arguments=dict(arguments),
    streams=("rgb",),
    first_unit="patch_embed",
    trunk="",
    base=f"swin_{size}",
    training={"num_frames": 32, "frame_stride": 2, **base.FULL_SIZE},
    test={"protocol": "three_crops", "num_clips": 4},
    parameters={"rgb": parameters},
    giga_multiply_adds={"rgb": cost},
    accuracies={"imagenet": {"rgb": accuracy}},
    source="Liu et al., arXiv 2106.13230; torchvision models/video/swin_transformer.py (4 clips x 3 crops)",
  )


def _image(size: str, *, parameters: int, cost: float) -> base.Entry:
  title, arguments = _SIZES[size]
  return base.Entry(
    title=f"Swin-{title} on every frame by itself; what Video Swin-{title} starts from",
    constructor=SwinTransformer,
    arguments={**arguments, "window": (1, 7, 7), "patch": (1, 4, 4)},
    streams=("rgb",),
    first_unit="patch_embed",
    training={"num_frames": 1, "frame_stride": 1, **base.FULL_SIZE},
    test={"protocol": "clips", "num_clips": 25},
    parameters={"rgb": parameters},
    giga_multiply_adds={"rgb": cost},
    accuracies={},
    source="Liu et al., arXiv 2103.14030; torchvision models/swin_transformer.py",
  )


MODELS: Mapping[str, base.Entry] = {
  "video_swin_t": _video("t", parameters=28_158_070, cost=87.76, accuracy=77.715),
  "video_swin_s": _video("s", parameters=49_816_678, cost=165.68, accuracy=79.521),
  "video_swin_b": _video("b", parameters=88_048_984, cost=281.33, accuracy=79.427),
  "swin_t": _image("t", parameters=27_826_954, cost=4.49),
  "swin_s": _image("s", parameters=49_144_858, cost=8.74),
  "swin_b": _image("b", parameters=87_153_224, cost=15.43),
}
