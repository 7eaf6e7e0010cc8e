"""The steps from a record to a clip, named and in order; what is applied is what is listed.

A step is a function on a dictionary of tensors, which it adds to. All draws are made once a clip, from its seed, and
are shared by both streams.
"""

from collections.abc import Callable
import functools
import types
from typing import Any, NamedTuple

import tensorflow as tf

from i3d_tf.data import records
from i3d_tf.flow import codec
from i3d_tf.flow import stacks
from i3d_tf.input import clip_config
from i3d_tf.input import ops
from i3d_tf.video import containers

State = dict[str, Any]
DECODE = "decode the crop of the frames taken"
# The place of each draw among a clip's random numbers, so that an option does not change the draws of others.
_DRAWS = types.MappingProxyType(
  {name: i for i, name in enumerate(("start", "jitter", "scale", "top", "left", "flip", "shuffle"))}
)
_SEGMENTS, _COLORS, _DROPOUT, _STARTS = 1, 2, 3, 4  # what needs more than one number has a seed of its own


class Step(NamedTuple):
  """A named function from state to state."""

  name: str
  apply: Callable[[State], State]


def training(clips: clip_config.TrainClips) -> list[Step]:
  """Returns the steps of a clip drawn at random.

  The first needs 'parsed' (`records.parse`) and 'seed' (int32 `[2]`). The last leaves 'rgb', uint8
  `[T, crop, crop, 3]`, and 'flow', float32 `[T, crop, crop, 2L]` in [-1, 1], or [-2, 2] where means are subtracted.

  Args:
    clips: Clips to draw.
  """
  low, high = clips.scale_jitter
  chance = f"with probability {clips.segment_shuffle:g}"
  found = [
    Step("draw the random numbers of the clip", _draw),
    Step(f"random start{_where(clips)} among those that leave enough frames", functools.partial(_random_start, clips)),
  ]
  if clips.temporal_jitter:
    jitter = functools.partial(_jitter_start, clips)
    found.append(Step(f"move the start by up to {clips.temporal_jitter} frames", jitter))
  found.append(_take_step(clips))
  if clips.segment_shuffle:
    shuffle = functools.partial(_shuffle_segments, clips)
    found.append(Step(f"shuffle {clips.num_segments} segments {chance}", shuffle))
  found += _take_stacks_steps(clips)
  if clips.scale_jitter == (1, 1):
    found.append(_size_step(clips))
  else:
    scale = functools.partial(_jitter_size, clips)
    found.append(Step(f"resize to short side {clips.short_side} times {low:g} to {high:g}, drawn", scale))
  crop = Step(f"random crop of {clips.crop}x{clips.crop}", functools.partial(_random_crop, clips))
  found += [crop, *_decode_steps(clips)]
  if clips.flip:
    found.append(Step("mirror with probability 0.5; the flow's x is negated", functools.partial(_flip, clips)))
  if clips.photometric_jitter:
    colors = functools.partial(_jitter_colors, clips)
    found.append(Step(f"change the colours of the clip with strength {clips.photometric_jitter:g}", colors))
  if clips.frame_dropout:
    drop = functools.partial(_drop_frames, clips)
    found.append(Step(f"drop frames with probability {clips.frame_dropout:g}", drop))
  return found


def center(clips: clip_config.TrainClips) -> list[Step]:
  """Returns the steps of the clip in the middle of a video, and of its frames, without any draw; see `training`.

  Args:
    clips: Clips of training.
  """
  return [
    Step(f"start in the middle{_where(clips)}", functools.partial(_uniform_starts, clips, 1)),
    _take_step(clips),
    *_take_stacks_steps(clips),
    _size_step(clips),
    *_center_crop_steps(clips),
  ]


def evaluation(clips: clip_config.EvalClips) -> list[Step]:
  """Returns the steps of all views: 'rgb' uint8 `[V, T, crop, crop, 3]`, 'flow' float32 `[V, T, crop, crop, 2L]`.

  They take a record's 'parsed' or, run eagerly, a 'video' with `count(stream)`, `size`, the height and width of its
  frames, and `read(numbers)`, which returns frames uint8 and flow float32 in [-1, 1] by stream.

  Args:
    clips: Views of a video.
  """
  size = [*_take_stacks_steps(clips), _size_step(clips)]
  whole = [Step("decode the frames taken", functools.partial(_decode_whole, clips.streams)), *_field_steps(clips)]
  spread = functools.partial(_uniform_starts, clips, clips.num_clips)
  starts = Step(f"{clips.num_clips} starts at equal distances", spread)
  views = Step(f"views of {clips.num_frames} frames", functools.partial(_divide_views, clips))
  if clips.protocol == "release":
    taken = f"take the first {clips.max_frames} frames, every {clips.frame_stride}; loop up to {clips.min_frames}"
    first = Step(taken, functools.partial(_take_all, clips))
    found = [first, *size, *_center_crop_steps(clips), Step("one view", functools.partial(_one_view, clips))]
  elif clips.protocol == "clips":
    found = [starts, _take_step(clips), *size, *_center_crop_steps(clips), views]
  elif clips.protocol == "three_crops":
    places = functools.partial(_crops, clips, ((0, 0), (0.5, 0.5), (1, 1)))
    crops = Step(f"crops of {clips.crop}x{clips.crop}: both ends, centre", places)
    found = [starts, _take_step(clips), *size, *whole, crops, views]
  else:
    places = functools.partial(_crops, clips, ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)))
    crops = Step(f"crops of {clips.crop}x{clips.crop}: four corners, centre", places)
    middle = Step(f"start in the middle{_where(clips)}", functools.partial(_uniform_starts, clips, 1))
    found = [middle, _take_step(clips), *size, *whole, crops]
  if clips.flip or clips.protocol == "ten_crop":
    found.append(Step("add the mirror image of each view; the flow's x is negated", functools.partial(_mirror, clips)))
  return found


def _where(clips: clip_config.TrainClips | clip_config.EvalClips) -> str:
  return f" of each of {clips.num_frames // clips.segment_frames} segments" if clips.segment_frames else ""


def _take_step(clips: clip_config.TrainClips | clip_config.EvalClips) -> Step:
  name = f"take {clips.num_frames} frames, every {clips.frame_stride}; loop short videos"
  return Step(name, functools.partial(_take, clips))


def _take_stacks_steps(clips: clip_config.TrainClips | clip_config.EvalClips) -> list[Step]:
  if clips.flow_stack == 1:
    return []
  return [Step(f"take {clips.flow_stack} flows at each position", functools.partial(_take_stacks, clips))]


def _size_step(clips: clip_config.TrainClips | clip_config.EvalClips) -> Step:
  return Step(f"resize to short side {clips.short_side}", functools.partial(_fixed_size, clips))


def _center_crop_steps(clips: clip_config.TrainClips | clip_config.EvalClips) -> list[Step]:
  crop = Step(f"centre crop of {clips.crop}x{clips.crop}", functools.partial(_center_crop, clips))
  return [crop, *_decode_steps(clips)]


def _decode_steps(clips: clip_config.TrainClips | clip_config.EvalClips) -> list[Step]:
  """Decoding of the crop, and what becomes of flow; where this depends on the whole field, flow is cropped last."""
  found = [Step(DECODE, functools.partial(_decode, clips.streams)), *_field_steps(clips)]
  if not clips.subtract_mean_flow and clips.flow_stacking != "trajectory":
    return found
  cut = Step("crop the flow", functools.partial(_cut_flow, clips))
  return [Step("keep flow whole for now", _widen_flow), *found, cut]


def _field_steps(clips: clip_config.TrainClips | clip_config.EvalClips) -> list[Step]:
  """What is done with flow fields."""
  found = []
  if clips.subtract_mean_flow:
    found.append(Step("subtract each flow field's mean", _subtract_means))
  if clips.flow_stack > 1:
    name = f"stack the {clips.flow_stack} flows of a position, {clips.flow_stacking}"
    found.append(Step(name, functools.partial(_stack, clips)))
  return found


def _images(state: State, stream: str) -> tf.Tensor:
  return state["parsed"][records.IMAGES[stream]]


def _count(state: State, stream: str) -> tf.Tensor:
  """The number of frames, or flow fields, of a record, or of the video that takes its place."""
  return tf.size(_images(state, stream)) if "video" not in state else tf.constant(state["video"].count(stream))


def _available(state: State, streams: tuple[str, ...]) -> tf.Tensor:
  """N frames have N - 1 flows: clips of several streams are taken from as many as the shortest one has."""
  return tf.reduce_min([_count(state, stream) for stream in streams])


def _draw(state: State) -> State:
  numbers = tf.random.stateless_uniform([len(_DRAWS)], state["seed"])
  return {**state, "draws": {name: numbers[i] for name, i in _DRAWS.items()}}


def _last(clips: clip_config.TrainClips | clip_config.EvalClips, state: State) -> tf.Tensor:
  available = _available(state, clip_config.stored(clips))
  return ops.last_start(available, clips.segment_frames or clips.num_frames, clips.frame_stride, clips.flow_stack)


def _random_start(clips: clip_config.TrainClips, state: State) -> State:
  if clips.segment_frames:
    seed = tf.random.fold_in(state["seed"], _STARTS)
    draws = tf.random.stateless_uniform([clips.num_frames // clips.segment_frames], seed)
    return {**state, "starts": [ops.segment_starts(_last(clips, state), draws)]}
  return {**state, "starts": [ops.random_start(_last(clips, state), state["draws"]["start"])]}


def _jitter_start(clips: clip_config.TrainClips, state: State) -> State:
  (start,) = state["starts"]
  draw = state["draws"]["jitter"]
  return {**state, "starts": [ops.jitter_start(start, _last(clips, state), draw, clips.temporal_jitter)]}


def _uniform_starts(clips: clip_config.TrainClips | clip_config.EvalClips, num_clips: int, state: State) -> State:
  """Of segments each clip has a place of its own in every one."""
  last = _last(clips, state)
  if not clips.segment_frames:
    return {**state, "starts": tf.unstack(ops.uniform_starts(last, num_clips))}
  places = [
    tf.fill([clips.num_frames // clips.segment_frames], (index + 0.5) / num_clips) for index in range(num_clips)
  ]
  return {**state, "starts": [ops.segment_starts(last, each) for each in places]}


def _take(clips: clip_config.TrainClips | clip_config.EvalClips, state: State) -> State:
  available = _available(state, clip_config.stored(clips))
  together = clips.segment_frames or clips.num_frames
  taken = [ops.take(start, available, together, clips.frame_stride) for start in state["starts"]]
  return {**state, "taken": dict.fromkeys(clips.streams, tf.concat(taken, axis=0))}


def _take_all(clips: clip_config.EvalClips, state: State) -> State:
  taken = {}
  for stream in clips.streams:
    # The release tests its two networks apart, and RGB has a frame more. Stacks have their frames beside them.
    available = _available(state, (stream,) if clips.flow_stack == 1 else clip_config.stored(clips))
    last = ops.last_start(available, 1, clips.frame_stride, clips.flow_stack)
    count = tf.minimum(last // clips.frame_stride + 1, clips.max_frames)
    taken[stream] = ops.take(0, available, tf.maximum(count, clips.min_frames), clips.frame_stride)
  return {**state, "taken": taken}


def _shuffle_segments(clips: clip_config.TrainClips, state: State) -> State:
  seed = tf.random.fold_in(state["seed"], _SEGMENTS)
  places = ops.shuffled_segments(clips.num_frames, clips.num_segments, seed)
  is_shuffled = state["draws"]["shuffle"] < clips.segment_shuffle
  places = tf.where(is_shuffled, places, tf.range(clips.num_frames))
  return {**state, "taken": {stream: tf.gather(taken, places) for stream, taken in state["taken"].items()}}


def _take_stacks(clips: clip_config.TrainClips | clip_config.EvalClips, state: State) -> State:
  """From the positions to the numbers of their flows and frames; flows that positions share are taken once.

  Backward flows are counted on from the forward ones, and from here on are one list with them.
  """
  available = _available(state, clip_config.stored(clips))
  steps, is_backward = stacks.order(clips.flow_stack, clips.flow_stacking)
  first = state["taken"]["flow"][:, tf.newaxis]
  numbers, places = tf.unique(tf.reshape((first + steps) % available + _count(state, "flow") * is_backward, [-1]))
  taken = {stream: (taken + steps[0]) % available for stream, taken in state["taken"].items()}
  if "video" not in state:
    both = tf.concat([_images(state, stream) for stream in ("flow", clip_config.BACKWARD_FLOW)], axis=0)
    state = {**state, "parsed": {**state["parsed"], records.IMAGES["flow"]: both}}
  places = tf.reshape(places, [-1, clips.flow_stack])
  return {**state, "taken": {**taken, "flow": numbers}, "places": places}


def _sizes(state: State, short_side: int | tf.Tensor) -> State:
  if "video" in state:
    sizes = dict.fromkeys(state["taken"], tf.constant(state["video"].size))
  else:
    sizes = {stream: _checked_size(_images(state, stream)[0]) for stream in state["taken"]}
  resized = {stream: ops.resized_size(size, short_side) for stream, size in sizes.items()}
  return {**state, "sizes": sizes, "resized": resized}


def _checked_size(image: tf.Tensor) -> tf.Tensor:
  """An image's (height, width); fails if it would take too much memory, now or resized."""
  size = ops.image_size(image)
  sides = tf.cast(size, tf.int64)
  shorter, longer = tf.reduce_min(sides), tf.reduce_max(sides)
  is_good = (shorter > 0) & (shorter * longer <= containers.MAX_PIXELS) & (longer <= containers.MAX_ASPECT * shorter)
  with tf.control_dependencies([tf.debugging.Assert(is_good, [size])]):
    return tf.identity(size)


def _fixed_size(clips: clip_config.TrainClips | clip_config.EvalClips, state: State) -> State:
  return _sizes(state, clips.short_side)


def _jitter_size(clips: clip_config.TrainClips, state: State) -> State:
  low, high = clips.scale_jitter
  factor = low + (high - low) * state["draws"]["scale"]
  return _sizes(state, tf.maximum(tf.cast(tf.round(clips.short_side * factor), tf.int32), clips.crop))


def _random_crop(clips: clip_config.TrainClips, state: State) -> State:
  draws = tf.stack([state["draws"]["top"], state["draws"]["left"]])
  offsets = {stream: ops.random_start(size - clips.crop, draws) for stream, size in state["resized"].items()}
  return {**state, "offsets": offsets, "windows": dict.fromkeys(offsets, tf.constant([clips.crop] * 2))}


def _center_crop(clips: clip_config.TrainClips | clip_config.EvalClips, state: State) -> State:
  offsets = {stream: (size - clips.crop) // 2 for stream, size in state["resized"].items()}
  return {**state, "offsets": offsets, "windows": dict.fromkeys(offsets, tf.constant([clips.crop] * 2))}


def _decode_whole(streams: tuple[str, ...], state: State) -> State:
  whole = {**state, "offsets": dict.fromkeys(streams, tf.constant([0, 0])), "windows": state["resized"]}
  return _decode(streams, whole)


def _decode(streams: tuple[str, ...], state: State) -> State:
  if "video" in state:
    frames = state["video"].read({stream: state["taken"][stream].numpy() for stream in streams})
    frames = {stream: tf.convert_to_tensor(values) for stream, values in frames.items()}
    windows = {stream: (state["offsets"][stream], *tf.unstack(state["windows"][stream])) for stream in streams}
    return {**state, **{stream: _window(frames[stream], *windows[stream]) for stream in streams}}
  decoded = {}
  for stream in streams:
    place = {"size": "sizes", "resized": "resized", "offset": "offsets", "window": "windows"}
    place = {name: state[key][stream] for name, key in place.items()}
    images = images_taken(state, stream)
    if stream == "rgb":
      decoded[stream] = ops.decode_rgb(images, **place)
    else:
      decoded[stream] = ops.decode_flow(images, bound=_flow_bound(state["parsed"]), **place)
  return {**state, **decoded}


def images_taken(state: State, stream: str) -> tf.Tensor:
  """Returns the encoded images of the clip, string `[T]`.

  Args:
    state: State in which the frames are taken.
    stream: 'rgb' or 'flow'.
  """
  return tf.gather(_images(state, stream), state["taken"][stream])


def _flow_bound(parsed: dict[str, tf.Tensor]) -> tf.Tensor:
  """The pixels per frame that the largest byte stands for; MediaSequence's records do not say, and have 20."""
  return tf.where(parsed["flow_bound"] > 0, parsed["flow_bound"], codec.BOUND)


_FLIPS = types.MappingProxyType({"rgb": ops.flip_rgb, "flow": ops.flip_flow})


def _widen_flow(state: State) -> State:
  whole = {"offsets": tf.constant([0, 0]), "windows": state["resized"]["flow"]}
  wide = {name: {**state[name], "flow": value} for name, value in whole.items()}
  return {**state, **wide, "flow_offset": state["offsets"]["flow"]}


def _cut_flow(clips: clip_config.TrainClips | clip_config.EvalClips, state: State) -> State:
  return {**state, "flow": _cut(state["flow"], state["flow_offset"], clips.crop)}


def _cut(clip: tf.Tensor, offset: tf.Tensor, size: int) -> tf.Tensor:
  return _window(clip, offset, size, size)


def _window(clip: tf.Tensor, offset: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
  return clip[:, offset[0] : offset[0] + height, offset[1] : offset[1] + width]


def _subtract_means(state: State) -> State:
  fields, means = stacks.subtract_means(state["flow"])
  return {**state, "flow": fields, "flow_means": means}


def _stack(clips: clip_config.TrainClips | clip_config.EvalClips, state: State) -> State:
  places = tf.unstack(state["places"], axis=1)
  each = lambda values: [tf.gather(values, place) for place in places]
  fields = each(state["flow"])
  if clips.flow_stacking != "trajectory":
    return {**state, "flow": stacks.plain(fields)}
  means = each(state["flow_means"]) if clips.subtract_mean_flow else None
  return {**state, "flow": stacks.trajectory(fields, means)}


def _flip(clips: clip_config.TrainClips, state: State) -> State:
  is_flipped = state["draws"]["flip"] < 0.5
  flipped = {}
  for stream in clips.streams:
    clip = state[stream]
    flipped[stream] = tf.cond(is_flipped, functools.partial(_FLIPS[stream], clip), functools.partial(tf.identity, clip))
  return {**state, **flipped}


def _jitter_colors(clips: clip_config.TrainClips, state: State) -> State:
  seed = tf.random.fold_in(state["seed"], _COLORS)
  return {**state, "rgb": ops.jitter_colors(state["rgb"], seed, clips.photometric_jitter)}


def _drop_frames(clips: clip_config.TrainClips, state: State) -> State:
  seed = tf.random.fold_in(state["seed"], _DROPOUT)
  dropped = tf.random.stateless_uniform([clips.num_frames], seed) < clips.frame_dropout
  drops = {"rgb": ops.drop_rgb, "flow": ops.drop_flow}
  return {**state, **{stream: drops[stream](state[stream], dropped) for stream in clips.streams}}


def _one_view(clips: clip_config.EvalClips, state: State) -> State:
  return {**state, **{stream: state[stream][tf.newaxis] for stream in clips.streams}}


def _divide_views(clips: clip_config.EvalClips, state: State) -> State:
  divided = {}
  for stream in clips.streams:
    image = tf.shape(state[stream])[-3:]
    divided[stream] = tf.reshape(state[stream], tf.concat([[-1, clips.num_frames], image], axis=0))
  return {**state, **divided}


def _crops(clips: clip_config.EvalClips, places: tuple[tuple[float, float], ...], state: State) -> State:
  """Crops at places (down, right), from 0 at the beginning to 1 at the end."""
  views = {}
  for stream in clips.streams:
    end = tf.cast(state["resized"][stream] - clips.crop, tf.float32)
    offsets = [tf.cast(end * place, tf.int32) for place in places]
    views[stream] = tf.stack([_cut(state[stream], offset, clips.crop) for offset in offsets])
  return {**state, **views}


def _mirror(clips: clip_config.EvalClips, state: State) -> State:
  mirrored = {s: tf.concat([state[s], _FLIPS[s](state[s])], axis=0) for s in clips.streams}
  return {**state, **mirrored}
