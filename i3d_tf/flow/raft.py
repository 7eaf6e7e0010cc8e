"""RAFT-small, a network that computes optical flow (Teed and Deng, "RAFT", ECCV 2020, arXiv 2003.12039).

Variables have the names of princeton-vl/RAFT's state dict, whose published weights are read as they are.
"""

from collections.abc import Iterator
import functools
import itertools
import math
import os

import numpy as np
import sonnet as snt
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.weights import hub
from i3d_tf.weights import pytorch
from i3d_tf.weights import sources

_HIDDEN, _CONTEXT, _FEATURES = 96, 64, 128  # channels
_LEVELS, _RADIUS = 4, 3  # of the correlations that an update sees
_SIDE = 2 * _RADIUS + 1
_STRIDE = 8  # pixels of the frames to one of the features
_MIN_SIDE = 128  # pixels: the coarsest correlations have two places then
_VOLUME_BYTES = 1 << 28  # up to here all correlations are kept; beyond, those that are looked at are computed
_BLOCK = 2048  # places whose correlations are computed at once
_STAGES = (("layer1", 32, 32, 1), ("layer2", 32, 64, 2), ("layer3", 64, 96, 2))  # name, channels, stride


def _encoder_shapes(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Yields the convolutions of an encoder, (height, width, channels, filters) by name."""
  yield f"{name}.conv1", (7, 7, 3, 32)
  for stage, before, after, stride in _STAGES:
    for block, inputs in enumerate((before, after)):
      path, inner = f"{name}.{stage}.{block}", after // 4
      yield f"{path}.conv1", (1, 1, inputs, inner)
      yield f"{path}.conv2", (3, 3, inner, inner)
      yield f"{path}.conv3", (1, 1, inner, after)
      if block == 0 and stride > 1:
        yield f"{path}.downsample.0", (1, 1, inputs, after)
  yield f"{name}.conv2", (1, 1, _STAGES[-1][2], channels)


# The convolutions (height, width, channels, filters) by name.
_SHAPES: dict[str, tuple[int, ...]] = {
  **dict(_encoder_shapes("fnet", _FEATURES)),
  **dict(_encoder_shapes("cnet", _HIDDEN + _CONTEXT)),
  "update_block.encoder.convc1": (1, 1, _LEVELS * _SIDE**2, 96),
  "update_block.encoder.convf1": (7, 7, 2, 64),
  "update_block.encoder.convf2": (3, 3, 64, 32),
  "update_block.encoder.conv": (3, 3, 128, 80),
  **{f"update_block.gru.conv{gate}": (3, 3, _HIDDEN + _CONTEXT + 82, _HIDDEN) for gate in "zrq"},
  "update_block.flow_head.conv1": (3, 3, _HIDDEN, 128),
  "update_block.flow_head.conv2": (3, 3, 128, 2),
}


class RaftSmall(snt.Module):
  """The network, with random weights until `assign`; in a graph it is differentiable, and trains with what follows it.

  Attributes:
    kernels: `[kh, kw, channels, filters]` by name.
    biases: `[filters]` by name.
  """

  def __init__(self, name: str | None = None):
    """Makes the variables.

    Args:
      name: Name of the module.
    """
    super().__init__(name=name)
    initialize = snt.initializers.VarianceScaling(2.0, mode="fan_out")
    make = lambda path, shape: tf.Variable(initialize(shape, tf.float32), name=path.replace(".", "/"))
    self.kernels = {path: make(path, shape) for path, shape in _SHAPES.items()}
    self.biases = {path: tf.Variable(tf.zeros(shape[-1:]), name=f"{path}/b") for path, shape in _SHAPES.items()}
    self._compiled_features = tf.function(self.features, autograph=False)
    self._compiled_refine = tf.function(self._refine, autograph=False)

  def assign(self, arrays: dict[str, np.ndarray], path: str | os.PathLike) -> None:
    """Gives the variables the values of a state dict.

    Args:
      arrays: The state dict.
      path: Its file, for messages.

    Raises:
      CheckpointError: If it is of another network.
    """
    wanted = {f"{name}.weight": (*shape[:1:-1], *shape[:2]) for name, shape in _SHAPES.items()}
    wanted |= {f"{name}.bias": shape[-1:] for name, shape in _SHAPES.items()}
    wanted = {name: tuple(shape) for name, shape in wanted.items()}
    missing = [name for name in wanted if name not in arrays]
    unknown = [name for name in arrays if name not in wanted]
    misshapen = [name for name in wanted if name in arrays and arrays[name].shape != wanted[name]]
    for what, names in (("lacks", missing), ("also has", unknown), ("has in another shape", misshapen)):
      if names:
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        raise errors.CheckpointError(f"{path} is not of RAFT-small: it {what} {names[0]}{more}")
    for name in _SHAPES:
      self.kernels[name].assign(arrays[f"{name}.weight"].transpose(2, 3, 1, 0))
      self.biases[name].assign(arrays[f"{name}.bias"])

  def __call__(self, previous: tf.Tensor, following: tf.Tensor, *, updates: int | tf.Tensor = 12) -> tf.Tensor:
    """Returns the flow from one frame to another, float32 `[B, H, W, 2]`: x and y in pixels.

    Args:
      previous: RGB frames, float32 `[B, H, W, 3]` in [-1, 1], of 128 pixels at least.
      following: The same, a step later.
      updates: How often the flow is refined.
    """
    return self._refine(previous, self.features(previous), self.features(following), updates)

  def flow(self, frames: list[np.ndarray], *, updates: int = 12) -> np.ndarray:
    """Returns the flow from each frame to the next, float32 `[N, H, W, 2]`, pair by pair, which bounds the memory.

    Args:
      frames: N + 1 frames, RGB uint8 `[H, W, 3]`.
      updates: How often the flow is refined.

    Raises:
      ValueError: If the frames are too small.
    """
    height, width = frames[0].shape[:2]
    if min(height, width) < _MIN_SIDE:
      raise ValueError(f"frames of {height} x {width} pixels; raft_small allows sides from {_MIN_SIDE} pixels")
    scaled = (tf.constant(frame[np.newaxis], tf.float32) / 127.5 - 1 for frame in frames)
    encoded = ((frame, self._compiled_features(frame)) for frame in scaled)
    count = tf.constant(updates)
    return np.concatenate([
      self._compiled_refine(frame, features, following, count).numpy()
      for (frame, features), (_, following) in itertools.pairwise(encoded)
    ])  # fmt: skip

  def features(self, frame: tf.Tensor) -> tf.Tensor:
    """Returns what the frames are compared by, `[B, h, w, 128]`, a place for 8 x 8 pixels.

    Args:
      frame: As in a call.
    """
    return self._encode("fnet", _pad(frame), _normalize)

  def _encode(self, name: str, net: tf.Tensor, norm) -> tf.Tensor:
    net = tf.nn.relu(norm(self._conv(f"{name}.conv1", net, 2)))
    for stage, _, _, stride in _STAGES:
      for block in range(2):
        path, step = f"{name}.{stage}.{block}", stride if block == 0 else 1
        inner = tf.nn.relu(norm(self._conv(f"{path}.conv1", net)))
        inner = tf.nn.relu(norm(self._conv(f"{path}.conv2", inner, step)))
        inner = tf.nn.relu(norm(self._conv(f"{path}.conv3", inner)))
        if step > 1:
          net = norm(self._conv(f"{path}.downsample.0", net, step))
        net = tf.nn.relu(net + inner)
    return self._conv(f"{name}.conv2", net)

  def _conv(self, name: str, net: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """A convolution with PyTorch's padding, which is the same on both sides."""
    kernel = self.kernels[name]
    pad = [[0, 0], *([side // 2] * 2 for side in kernel.shape[:2]), [0, 0]]
    return tf.nn.conv2d(net, kernel, stride, pad) + self.biases[name]

  def _refine(
    self, previous: tf.Tensor, features: tf.Tensor, following: tf.Tensor, updates: int | tf.Tensor
  ) -> tf.Tensor:
    """The flow by repeated updates, from the features of both frames and the context of the first."""
    context = self._encode("cnet", _pad(previous), lambda net: net)
    hidden, context = tf.tanh(context[..., :_HIDDEN]), tf.nn.relu(context[..., _HIDDEN:])
    look_up = _correlations(features, following)
    shape = tf.shape(features)
    rows, columns = tf.meshgrid(tf.range(shape[1]), tf.range(shape[2]), indexing="ij")
    start = tf.cast(tf.stack([columns, rows], -1), tf.float32)

    def update(count, hidden, flow):
      motion = self._encode_motion(look_up(start + tf.stop_gradient(flow)), tf.stop_gradient(flow))
      hidden = self._gate(hidden, tf.concat([context, motion], -1))
      net = tf.nn.relu(self._conv("update_block.flow_head.conv1", hidden))
      return count + 1, hidden, tf.stop_gradient(flow) + self._conv("update_block.flow_head.conv2", net)

    flow = tf.zeros_like(features[..., :2])
    _, _, flow = tf.while_loop(lambda count, *_: count < updates, update, (0, hidden, flow))
    return _enlarge(flow, tf.shape(previous))

  def _encode_motion(self, correlations: tf.Tensor, flow: tf.Tensor) -> tf.Tensor:
    conv = lambda name, net: tf.nn.relu(self._conv(f"update_block.encoder.{name}", net))
    both = tf.concat([conv("convc1", correlations), conv("convf2", conv("convf1", flow))], -1)
    return tf.concat([conv("conv", both), flow], -1)

  def _gate(self, hidden: tf.Tensor, given: tf.Tensor) -> tf.Tensor:
    """A convolutional gated recurrent unit."""
    conv = lambda gate, state: self._conv(f"update_block.gru.conv{gate}", tf.concat([state, given], -1))
    update, reset = tf.sigmoid(conv("z", hidden)), tf.sigmoid(conv("r", hidden))
    return (1 - update) * hidden + update * tf.tanh(conv("q", reset * hidden))


@functools.cache
def load(weights: str) -> RaftSmall:
  """Returns the network with weights, which are loaded once in a process.

  Args:
    weights: 'raft_small', which is fetched to the cache if it is not there, or a file of PyTorch's.

  Raises:
    CheckpointError: If the file is of another network, or damaged.
    DownloadError: If the published weights cannot be had.
    OSError: If the file cannot be read.
  """
  path = hub.fetch(weights) if weights == sources.RAFT_SMALL else weights
  network = RaftSmall()
  network.assign(pytorch.read(path), path)
  return network


def _normalize(net: tf.Tensor) -> tf.Tensor:
  """PyTorch's instance norm: each channel of each frame to mean 0 and variance 1."""
  mean, variance = tf.nn.moments(net, [1, 2], keepdims=True)
  return (net - mean) * tf.math.rsqrt(variance + 1e-5)


def _margins(size: tf.Tensor) -> tf.Tensor:
  """Pixels that are missing to a multiple of the stride before and in all, of a side."""
  missing = -size % _STRIDE
  return missing // 2, missing


def _pad(frame: tf.Tensor) -> tf.Tensor:
  """Repeats the border, half on each side, until the sides are multiples of the stride."""
  shape = tf.shape(frame)
  for axis in (1, 2):
    size = frame.shape[axis] or shape[axis]
    before, missing = _margins(size)
    places = tf.clip_by_value(tf.range(size + missing) - before, 0, size - 1)
    frame = tf.gather(frame, places, axis=axis)
  return frame


def _enlarge(flow: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
  """The flow at the size of the frames: bilinear with aligned corners, without what was added to them."""
  size = _STRIDE * tf.shape(flow)[1:3]
  whole = tf.raw_ops.ResizeBilinear(images=_STRIDE * flow, size=size, align_corners=True)
  (top, _), (left, _) = _margins(shape[1]), _margins(shape[2])
  return whole[:, top : top + shape[1], left : left + shape[2]]


def _correlations(features: tf.Tensor, following: tf.Tensor):
  """Returns what gives for places `[B, h, w, 2]` (x, y) the correlations around them, `[B, h, w, 196]`.

  At each of four levels, of 1, 2, 4 and 8 places, these are the scalar products with 7 x 7 places around the given one,
  between which they are interpolated. The product with the mean of places is the mean of products, so that levels can
  be made of the features. Where there is no place the product is 0.
  """
  shape = tf.shape(features)
  num_places = shape[1] * shape[2]
  own = tf.reshape(features, [shape[0], num_places, _FEATURES]) / math.sqrt(_FEATURES)
  levels = [following]
  for _ in range(_LEVELS - 1):
    levels.append(tf.nn.avg_pool2d(levels[-1], 2, 2, "VALID"))
  known = features.shape[1:3].num_elements()
  # With open sizes only what is looked at is computed, too.
  is_volume = known is not None and 4 * known**2 <= _VOLUME_BYTES
  tables = []
  for level in levels:
    size = tf.shape(level)
    flat = tf.reshape(level, [shape[0], size[1] * size[2], _FEATURES])
    tables.append((tf.matmul(own, flat, transpose_b=True) if is_volume else flat, size[1], size[2]))

  def look_up(places: tf.Tensor) -> tf.Tensor:
    places = tf.reshape(places, [shape[0], num_places, 2])
    found = [_around(places / 2**number, own, *table, is_volume) for number, table in enumerate(tables)]
    joined = tf.concat(found, -1)
    return tf.reshape(joined, [shape[0], shape[1], shape[2], _LEVELS * _SIDE**2])

  return look_up


def _around(
  places: tf.Tensor, own: tf.Tensor, table: tf.Tensor, height: tf.Tensor, width: tf.Tensor, is_volume: bool
) -> tf.Tensor:
  """The correlations around places of one level, `[B, P, 49]`, in which y changes faster than x, as in the release."""
  corner = tf.floor(places)
  taps = tf.range(-_RADIUS, _RADIUS + 2, dtype=tf.int32)
  whole = tf.cast(tf.clip_by_value(corner, -1e6, 1e6), tf.int32)
  x = whole[..., 0, tf.newaxis, tf.newaxis] + taps  # [B, P, 1, 8]
  y = whole[..., 1, tf.newaxis, tf.newaxis] + taps[:, tf.newaxis]
  is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
  indices = tf.clip_by_value(y, 0, height - 1) * width + tf.clip_by_value(x, 0, width - 1)
  shape = tf.shape(indices)
  indices = tf.reshape(indices, [shape[0], shape[1], (_SIDE + 1) ** 2])
  products = tf.gather(table, indices, batch_dims=2) if is_volume else _products(own, table, indices)
  products = tf.where(is_inside, tf.reshape(products, shape), 0.0)
  across, down = tf.split((places - corner)[:, :, tf.newaxis], 2, axis=-1)
  products = (1 - down) * products[:, :, :-1] + down * products[:, :, 1:]
  products = (1 - across) * products[..., :-1] + across * products[..., 1:]
  return tf.reshape(tf.transpose(products, [0, 1, 3, 2]), [shape[0], shape[1], _SIDE**2])


def _products(own: tf.Tensor, table: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
  """The scalar products of each place `[B, P, C]` with its K others in `table`, `[B, P, K]`, block by block."""
  shape = tf.shape(indices)
  missing = -shape[1] % _BLOCK
  count = (shape[1] + missing) // _BLOCK

  def blocks(values: tf.Tensor) -> tf.Tensor:  # [blocks, B, block, ...]
    padded = tf.pad(values, [[0, 0], [0, missing], [0, 0]])
    cut = tf.reshape(padded, [shape[0], count, _BLOCK, values.shape[-1]])
    return tf.transpose(cut, [1, 0, 2, 3])

  def multiply(block: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    return tf.linalg.matvec(tf.gather(table, block[1], batch_dims=1), block[0])

  found = tf.map_fn(multiply, (blocks(own), blocks(indices)), fn_output_signature=tf.float32, parallel_iterations=1)
  joined = tf.reshape(tf.transpose(found, [1, 0, 2, 3]), [shape[0], count * _BLOCK, (_SIDE + 1) ** 2])
  return joined[:, : shape[1]]
