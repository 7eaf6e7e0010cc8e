"""A network's endpoints: pooled, of every crop of whole frames; and as they are for a graph of your own.

    import tensorflow as tf
    from i3d_tf.features import networks

    features = networks.I3dFeatures("rgb_imagenet", endpoints=["Mixed_4f", "PooledFeatures"])
    pooled = lambda clips: features(clips)["PooledFeatures"]
    clips = tf.random.uniform([2, 16, 224, 224, 3], -1, 1)  # yours: RGB in [-1, 1], at 25 frames per second
    print({name: value.shape for name, value in features(clips).items()})  # [2, 4, 14, 14, 832] and [2, 1, 1024]
    dataset = tf.data.Dataset.from_tensors(clips).map(pooled)
    layers = [tf.keras.layers.Lambda(pooled), tf.keras.layers.Flatten(), tf.keras.layers.Dense(5)]
    classifier = tf.keras.Sequential([tf.keras.Input(clips.shape[1:]), *layers])
    print(classifier(clips).shape)  # [2, 5]

Keras trains the layers around a Lambda and leaves the network's own variables as they are. To train these, too, take
the gradient of `features.trainable_variables` with a tape of your own.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import math
import os
from typing import Any

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.features import profiles
from i3d_tf.flow import stacks
from i3d_tf.inference import classifier
from i3d_tf.input import ops
from i3d_tf.models import base
from i3d_tf.models import preprocess
from i3d_tf.models import receptive_field
from i3d_tf.video import decode

_FRAMES_AT_ONCE = 256  # of crops of windows; a pass over one window, or chunk, may have more
_DEFAULT_WINDOW = 64  # frames, of networks that take clips of any length at every frame


class FeatureNetwork:
  """A trained network, run on windows of a video's frames.

  Attributes:
    checkpoint: What was loaded.
    weights: CRC-32 of the variables used.
    class_names: Names of its classes in index order.
    precision: Type of its convolutions and activations.
    streams: Streams of its clips.
    info: What the network is.
    short_side: Pixels that the frames' shorter side is resized to, of the options or else of the network's training.
    crop: Pixels of the side of the square crop, likewise.
    resize: How frames are resized before that.
    stride: Frames from one position of a clip to the next, likewise.
    stack: Consecutive flow fields at each position.
  """

  def __init__(self, stream: str, options: profiles.FeatureConfig):
    """Loads the network.

    Args:
      stream: 'rgb', 'flow', or 'joint' for a network of both.
      options: Its checkpoint, endpoints, size, crops and pooling.

    Raises:
      I3dError: If the checkpoint is of another stream or lacks an endpoint, the crop is larger than the frames, or the
        network does not take its clips.
      CheckpointError, DownloadError: If the checkpoint cannot be loaded.
    """
    checkpoint = options.checkpoints[stream]
    # Clips of the size that the head pools to one place have the same features with and without averaging over places.
    loaded = classifier.Classifier(
        {stream: checkpoint}, endpoints=options.computed, average_space=None, precision=options.precision,
        engine=options.engine,
    )  # fmt: skip
    self._network, self.precision = loaded.networks[stream], loaded.precision
    self.checkpoint, self.weights, self.streams = checkpoint, self._network.weights, self._network.streams
    self.info = self._network.info
    self._clip = self.info.preprocess
    self.class_names = loaded.class_names
    self.crop = self._clip.crop if options.crop is None else options.crop
    self.resize = self.resized(options)
    self.short_side = self.resize.short_side
    model = self._network.info.model
    if options.preset is not None and model not in (allowed := profiles.PRESETS[options.preset].networks):
      raise errors.I3dError(f"{checkpoint} is of {model}; the preset {options.preset} is of {' or '.join(allowed)}")
    if self._clip.flow_stacking == "bidirectional":
      raise errors.I3dError(f"{checkpoint} takes bidirectional stacks of flow, which a video does not have")
    self.stride = self._clip.frame_stride if options.stride is None else options.stride
    self.stack = self._clip.flow_stack if "flow" in self.streams else 1
    self._is_plain, self._is_even = options.rgb_input == "plain", options.centre == "even"
    self._names, self._order, self._pooling = options.computed, options.order, options.pooling

  def resized(self, options: profiles.FeatureConfig) -> decode.Resize:
    """Returns how frames are resized for the network's crop, which may be with other options than its own.

    Args:
      options: The size and how it is reached.

    Raises:
      I3dError: If the crop is larger than such frames.
    """
    short_side = self._clip.short_side if options.short_side is None else options.short_side
    shortest, what = (min(options.frame_size), "frame_size") if options.frame_size else (short_side, "short_side")
    if self.crop > shortest:
      raise errors.I3dError(f"crop is {self.crop} pixels; it must be at most {what}, which is {shortest}")
    return decode.Resize(short_side, options.frame_size, options.resize)

  @property
  def window(self) -> int:
    """Frames of a window if none are asked for: 64 where the network takes that, or else those of its clip."""
    takes_any = self.stride == 1 and self._problem(_DEFAULT_WINDOW) is None
    return _DEFAULT_WINDOW if takes_any else self._clip.num_frames * self.stride

  def least_window(self) -> int:
    """Returns the fewest frames, of a window that the network takes, that it takes, too."""
    return next(window for window in itertools.count(1) if self._problem(window) is None)

  def check_window(self, window: int) -> None:
    """Refuses windows that the network does not take.

    Args:
      window: Frames of a window.

    Raises:
      I3dError: If clips of that many frames do not fit the network.
    """
    problem = self._problem(window)
    if problem is not None:
      raise errors.I3dError(f"window is {window} frames, which does not fit {', '.join(self._names)}: {problem}")

  def time_layers(self, endpoint: str) -> tuple[receptive_field.Layer, ...] | None:
    """Returns the layers along time that lead to an endpoint; None if it has no steps of its own in time.

    Args:
      endpoint: Name of the endpoint.
    """
    try:
      return self._network.model.time_layers(endpoint)
    except errors.I3dError:
      return None

  def chunk_layers(self) -> dict[str, tuple[receptive_field.Layer, ...]]:
    """Returns the layers along time that lead to each endpoint, with which a whole video is run chunk by chunk.

    Raises:
      I3dError: If an endpoint depends on the whole clip, or the network takes both streams at once.
    """
    if len(self.streams) > 1:
      raise errors.I3dError(f"window is all, but {self.checkpoint} takes both streams at once; give a number of frames")
    return {name: self._network.model.time_layers(name) for name in self._names}

  def stacked(self, positions: Iterator[Mapping[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Yields the positions of a video with stacks of flow where the network takes them.

    Args:
      positions: By stream, with one flow field each.

    Yields:
      By stream; the last positions, behind which there are too few fields for a stack, are left out.
    """
    if self.stack == 1 and not self._clip.subtract_mean_flow:
      yield from ({stream: position[stream] for stream in self.streams} for position in positions)
      return
    held: list[Mapping[str, np.ndarray]] = []
    for position in positions:
      held.append(position)
      if len(held) == self.stack:
        first = {stream: held[0][stream] for stream in self.streams}
        yield first | {"flow": _stack([each["flow"] for each in held], self._clip)}
        del held[0]

  def __call__(self, clips: Mapping[str, np.ndarray], *, pooling: str | None = None) -> dict[str, np.ndarray]:
    """Returns the endpoints of crops of clips, pooled: by endpoint `[B, crops, ...]`, float32.

    Args:
      clips: Whole frames `[B, T, H, W, C]` by stream, as `stacked` has them, at every position of the clip.
      pooling: In place of the options'.

    Raises:
      I3dError: If the clips do not fit the network, or a feature is not finite.
    """
    pooling = self._pooling if pooling is None else pooling
    crops = [_crops(clip, self.crop, self._order, stream, is_even=self._is_even) for stream, clip in clips.items()]
    found = []
    for parts in zip(*crops, strict=True):
      inputs = dict(zip(clips, parts, strict=True))
      if self._is_plain and "rgb" in inputs:
        inputs["rgb"] = self._before_normalization(inputs["rgb"])
      values = self._network.endpoints(inputs, self._names, frames_at_once=_FRAMES_AT_ONCE)
      found.append({name: pool(value, pooling) for name, value in values.items()})
    return {name: np.stack([each[name] for each in found], axis=1) for name in found[0]}

  def _before_normalization(self, clip: np.ndarray) -> np.ndarray:
    """What the network's own normalization takes to `clip`."""
    model = self._network.model
    if model.rgb_mean is None or model.rgb_std is None:
      return clip
    mean, std = (np.asarray(value, np.float32) for value in (model.rgb_mean, model.rgb_std))
    return 2 * (clip * std + mean) - 1

  def _problem(self, window: int) -> str | None:
    num_frames = math.ceil(window / self.stride)
    channels = self._network.info.channels
    try:
      self._network.check({s: [1, num_frames, self.crop, self.crop, channels[s]] for s in self.streams})
    except errors.I3dError as error:
      return str(error)
    layers = [self.time_layers(name) for name in self._names]
    too_few = [path for path in layers if path is not None and receptive_field.num_steps(path, num_frames) < 1]
    return "it has no step" if too_few else None


def pool(features: np.ndarray, pooling: str) -> np.ndarray:
  """Returns the mean of features `[B, steps, h, w, channels]` over space or over space and time.

  What has fewer axes is averaged over those it has: `[B, steps, channels]` over the steps, by 'space_time' only, and
  `[B, channels]` over none.

  Args:
    features: Of a trunk's or a head's endpoint.
    pooling: 'none'; 'space', which leaves `[B, steps, channels]`; or 'space_time', which leaves `[B, channels]`.
  """
  first = {"none": features.ndim, "space": 2, "space_time": 1}[pooling]
  return features.mean(axis=tuple(range(first, features.ndim - 1)))


def _crops(
  clips: np.ndarray, size: int, order: Sequence[int], stream: str, *, is_even: bool = False
) -> Iterator[np.ndarray]:
  """Yields the crops of whole frames `[B, T, H, W, C]` as a network takes them; numbers: `profiles.CROP_ORDERS`."""
  height, width = (side - size for side in clips.shape[2:4])
  centre = (round(height / 2), round(width / 2)) if is_even else (height // 2, width // 2)
  places = [(0, 0), (0, width), (height, 0), (height, width), centre]
  flip = ops.flip_rgb if stream == "rgb" else ops.flip_flow
  for number in order:
    top, left = places[number % 5]
    crop = np.ascontiguousarray(clips[:, :, top : top + size, left : left + size])
    yield ops.to_input(stream, flip(crop) if number >= 5 else crop).numpy()


def _stack(fields: list[np.ndarray], clip: preprocess.Preprocess) -> np.ndarray:
  """One position's stack `[H, W, 2L]` of consecutive fields `[H, W, 2]`."""
  tensors: Any = tf.stack(fields)
  means = None
  if clip.subtract_mean_flow:
    tensors, means = stacks.subtract_means(tensors)
  parts = tf.unstack(tensors)
  if clip.flow_stacking == "trajectory":
    return stacks.trajectory(parts, None if means is None else tf.unstack(means)).numpy()
  return stacks.plain(parts).numpy()


class I3dFeatures(tf.Module):
  """A trained network that returns some of its endpoints; of I3D only the rows that they need are built and run.

  It acts as at inference, with moving statistics in batch norm and without dropout, and gradients pass through it to
  the clips and to its variables. Each new shape of clips is traced once; for clips of many lengths wrap it in a
  `tf.function` whose `input_signature` leaves batch and frames open.

  Attributes:
    endpoints: The names asked for, each once.
    info: What the network is and was trained on, a `saved.ModelInfo`.
    weights: CRC-32 of the variables that the endpoints need, as eight hexadecimal digits.
  """

  def __init__(
    self,
    checkpoint: str | os.PathLike,
    endpoints: Sequence[str] = (base.POOLED_FEATURES,),
    *,
    average_space: bool = False,
    name: str | None = None,
  ):
    """Loads the network.

    Args:
      checkpoint: A released checkpoint's name, such as 'rgb_imagenet' or 'flow_imagenet', a path of one in the
        release's layout, or the folder of a training run.
      endpoints: Names of the network's endpoints, such as 'Mixed_5c', 'PooledFeatures' or 'Logits'.
      average_space: Whether an I3D takes clips of any height and width to the logits, too, whose steps are then
        averaged over space. Clips of 193 to 224 pixels give the same with and without. A network that was trained so
        always does.
      name: Name of the module.

    Raises:
      I3dError: For an endpoint that the network does not have.
      CheckpointError, DownloadError: If the checkpoint cannot be loaded.
    """
    super().__init__(name=name)
    self.endpoints = tuple(dict.fromkeys(endpoints))
    self._network = classifier.LoadedNetwork(checkpoint, endpoints, average_space=average_space)
    self.info = self._network.info
    self.weights = self._network.weights
    # As functions, in which what no endpoint needs any more is freed on the way.
    self._apply = tf.function(self._run, autograph=False)
    self._apply_gradient = tf.function(self._gradient, autograph=False)

  def __call__(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the endpoints of clips, by name.

    Args:
      clips: Floating point `[B, T, H, W, C]` in [-1, 1] at the network's frame rate, which for I3D is 25: RGB
        `[..., 3]`, or flow `[..., 2]`, +-20 pixels per frame scaled to [-1, 1]; of a network of both streams a mapping
        of both. The head of an I3D needs 9 frames and, without `average_space`, 193 to 224 pixels.

    Returns:
      float32; of the trunk `[B, T', H', W', channels]`, of an I3D's 'PooledFeatures' and 'StepLogits'
      `[B, T', channels]`, and of 'Logits' and 'Predictions', which are averaged over time, `[B, classes]`.

    Raises:
      ValueError: If the clips do not fit.
    """
    clips = base.to_tensors(clips)
    self._network.model.check(clips)
    return self._run_eagerly(clips) if tf.executing_eagerly() else self._run(clips)

  def _run(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    return self._network(clips)

  def _run_eagerly(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
    """Runs the network as a function, and computes it again for its gradient in one function.

    TensorFlow's own CPU kernel of the 3D max pool's gradient, which an eager tape would use, gives each of several
    equal maxima the whole gradient; in a function that holds pool and gradient another takes its place.
    """

    parts = [clips[stream] for stream in self.info.streams] if isinstance(clips, Mapping) else [clips]

    @tf.custom_gradient
    def apply(*inputs):
      given = inputs[: len(parts)]
      gradient = lambda *upstream, variables=(): (self._apply_gradient(given, upstream), [None] * len(variables))
      return tuple(self._apply(self._join(given)).values()), gradient

    values = apply(*parts, *map(tf.convert_to_tensor, self.trainable_variables))
    return dict(zip(self.endpoints, values, strict=True))

  def _join(self, parts: Sequence[tf.Tensor]) -> Any:
    return parts[0] if len(parts) == 1 else dict(zip(self.info.streams, parts, strict=True))

  def _gradient(self, parts: Sequence[tf.Tensor], upstream: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
      tape.watch(parts)
      values = tuple(self._run(self._join(parts)).values())
    return tape.gradient(values, [*parts, *self.trainable_variables], upstream)
