"""Clips from prepared records, with tf.data.

The order of training is arithmetic, not a shuffle buffer: batch k is the same whether the batches before it were read
or not, so that going on at step k needs no saved state. Records that cannot be used come out with weight 0 and a
reason. Only TensorFlow's own ops are in the graphs, so that workers of a tf.data service can run them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import contextlib
import logging
import socket
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.input import ops
from i3d_tf.models import preprocess

open_source = record_index.open_source
Source = record_index.Source

_DTYPES = {"rgb": tf.uint8, "flow": tf.float32}
_ENDLESS = 2**40  # batches
_DAMAGED = "its checksum is wrong, so it was damaged after it was written, or its file cannot be read"
_NO_EXAMPLE = "it is no SequenceExample of a clip"
_NO_IMAGE = "an image of it cannot be decoded, has another size, or is too large or too narrow"
_SCALING = "RGB to [-1, 1]"


def warn_of_enlarging(source: Source, clips: clip_config.TrainClips | clip_config.EvalClips) -> None:
  """Logs it if frames are stored smaller than they are to be, by the size of the first.

  Args:
    source: Records.
    clips: What is taken from them.
  """
  with contextlib.suppress(tf.errors.InvalidArgumentError):  # a damaged image is found out when it is used
    height, width = ops.image_size(source.first_image() or b"").numpy()
    if min(height, width) < clips.short_side:
      logging.getLogger(__name__).warning(
        "%s: the frames are stored as %dx%d and enlarged to a short_side of %d, which adds work and no detail; prepare "
        "larger ones, or make short_side and crop smaller", source.path, width, height, clips.short_side,
      )  # fmt: skip


def train_batches(
  source: Source,
  clips: clip_config.TrainClips,
  *,
  batch_size: int,
  seed: int,
  first_batch: int = 0,
  shards: Sequence[int] = (0,),
  num_shards: int = 1,
  data_service: str | None = None,
  views: int = 1,
) -> tf.data.Dataset:
  """Returns endless batches of clips drawn at random.

  Every shard (every `num_shards`-th file) is gone through in a new order in each epoch. A batch has `batch_size /
  num_shards` examples of every shard, shard by shard; of these the ones of `shards` come out.

  Args:
    source: the records.
    clips: what is taken from each.
    batch_size: examples of a batch over all shards.
    seed: draws the orders and, with its place in the order, all of an example.
    first_batch: begin with this batch, as if those before it had been read.
    shards: the shards to read here.
    num_shards: of all.
    data_service: 'grpc://HOST:PORT' of a tf.data service's dispatcher, whose workers, which must see the files under
      the same absolute paths, do the work. Every batch is made once; with several workers the order varies.
    views: clips of each record, drawn independently, side by side; it divides the examples of a batch.

  Returns:
    Dictionaries: 'rgb' uint8 `[B, T, crop, crop, 3]`, which `scaled` makes what a network takes, and 'flow' float32
    `[B, T, crop, crop, 2L]` in [-1, 1], or in [-2, 2] where means are subtracted, those of `clips.streams`; 'label'
    int32 `[B]`; 'id' string `[B]`; 'weight' float32 `[B]`, 1, or 0 for a record that cannot be used, whose clip is
    zeros and whose label is 0; 'error' string `[B]`: '' or file, record and reason; 'seed' int32 `[B, 2]`.

  Raises:
    I3dError: if the shards do not fit the source or the batch, or the service cannot be reached.
  """
  _check_shards(shards, num_shards)
  if data_service is not None:
    _check_service(data_service)
  batch_size //= views  # records
  order = record_index.TrainingOrder(source, batch_size=batch_size, num_shards=num_shards, seed=seed)
  per_shard = batch_size // num_shards
  within, view = _repeat([shard * per_shard + i for shard in shards for i in range(per_shard)], views)
  seed_of = lambda place, view: order.seed(place) if views == 1 else tf.random.fold_in(order.seed(place), view)
  load = _Loader(source, clips, clip_steps.training(clips))
  dataset = tf.data.Dataset.range(first_batch, first_batch + _ENDLESS)
  dataset = dataset.flat_map(lambda batch: tf.data.Dataset.from_tensor_slices((batch * batch_size + within, view)))
  dataset = _parallel(dataset, lambda place, view: load(order.record(place), seed_of(place, view)))
  dataset = dataset.batch(len(within), drop_remainder=True)
  if data_service is not None:
    service = tf.data.experimental.service
    dynamic = service.distribute(processing_mode=service.ShardingPolicy.DYNAMIC, service=data_service)
    dataset = dataset.apply(dynamic)  # of the range of batches, each goes to one worker
  return _finish(dataset)


def center_clips(
  source: Source,
  clips: clip_config.TrainClips,
  *,
  batch_size: int,
  shards: Sequence[int] = (0,),
  num_shards: int = 1,
  views: int = 1,
) -> tf.data.Dataset:
  """Returns batches of one clip a video, from the middle of its frames and of their area, in the order of the files.

  All shards give as many batches as the largest needs; what is missing is filled up with weight 0, label 0, and '' for
  id and error. See `train_batches` for the rest.

  Args:
    source: Records of the split.
    clips: What is taken from each.
    batch_size: Examples of a batch over all shards.
    shards: Shards to read here; a shard is every `num_shards`-th record.
    num_shards: Number of shards.
    views: Clips of a video, side by side; if there are several they are drawn as in training, the same each time.

  Raises:
    I3dError: if the shards do not fit the batch.
  """
  _check_shards(shards, num_shards)
  if batch_size < 1 or batch_size % num_shards:
    raise errors.I3dError(f"batch_size is {batch_size}; it must be a multiple of the {num_shards} shards")
  members = [range(shard, source.num_records, num_shards) for shard in range(num_shards)]
  per_shard = batch_size // views // num_shards
  num_batches = -(-max(map(len, members)) // per_shard)
  padded = [[*numbers, *[-1] * (num_batches * per_shard - len(numbers))] for numbers in members]
  places = [
    padded[shard][batch * per_shard + i] for batch in range(num_batches) for shard in shards for i in range(per_shard)
  ]
  load = _Loader(source, clips, clip_steps.center(clips) if views == 1 else clip_steps.training(clips))
  seed_of = lambda record, view: tf.cast([record, view], tf.int32) if views > 1 else tf.zeros([2], tf.int32)
  dataset = tf.data.Dataset.from_tensor_slices(_repeat(places, views))
  dataset = _parallel(
    dataset,
    lambda record, view: tf.cond(record < 0, load.padding, lambda: load(record, seed_of(record, view))),
  )
  return _finish(dataset.batch(views * per_shard * len(shards), drop_remainder=True))


def eval_videos(source: Source, clips: clip_config.EvalClips, *, skip: Collection[int] = ()) -> tf.data.Dataset:
  """Returns all videos, one an element, in the order of the files.

  Args:
    source: the records.
    clips: the views of each.
    skip: numbers of records to leave out, for example because they are done.

  Returns:
    Dictionaries as of `train_batches`, without the batch dimension and the seed: 'rgb' `[V, T, crop, crop, 3]` and
    'flow' `[V, T, crop, crop, 2L]` of V views; and 'record', int64, the record's number. For protocol 'release' T is
    the video's, for flow one less; of stacks there are as many as fit, and of RGB as many frames. A record that cannot
    be used has T = 0 there, and zeros otherwise.
  """
  load = _Loader(source, clips, clip_steps.evaluation(clips))
  todo = sorted(set(range(source.num_records)).difference(skip))
  dataset = tf.data.Dataset.from_tensor_slices(tf.constant(todo, tf.int64))

  def views(record: tf.Tensor) -> dict[str, tf.Tensor]:
    loaded = load(record, tf.zeros([2], tf.int32))
    del loaded["seed"]
    return {**loaded, "record": record}

  return _finish(_parallel(dataset, views), prefetch=1)


def scaled(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a batch, or the views of a video, with RGB as float32 in [-1, 1], and zeros for unusable records.

  It is the last step, on the device of the network: on the way there frames are bytes, a quarter of the size.

  Args:
    batch: Batch of `train_batches`, or views of `eval_videos`; what is floating point already stays as it is.
  """
  if "rgb" not in batch or batch["rgb"].dtype != tf.uint8:
    return dict(batch)
  weight = batch["weight"]
  frames = ops.scale_rgb(batch["rgb"])
  factor = tf.reshape(weight, weight.shape.as_list() + [1] * (frames.shape.rank - weight.shape.rank))
  return {**batch, "rgb": tf.cond(tf.reduce_all(weight > 0), lambda: frames, lambda: frames * factor)}


def steps(clips: clip_config.TrainClips | clip_config.EvalClips) -> list[str]:
  """Returns the names of the steps that `train_batches` or `eval_videos` and `scaled` apply, in order.

  Args:
    clips: Clips of training, or views of evaluation.
  """
  made = clip_steps.training(clips) if isinstance(clips, clip_config.TrainClips) else clip_steps.evaluation(clips)
  return [*(step.name for step in (*_READING, *made)), *[_SCALING] * ("rgb" in clips.streams)]


class _Loader:
  """From the number of a record to an example, by steps; if any of them fails, to zeros and the reason."""

  def __init__(
    self,
    source: Source,
    clips: clip_config.TrainClips | clip_config.EvalClips,
    steps_of_clip: Sequence[clip_steps.Step],
  ):
    self._places = record_index.Places(source)
    self._classes = source.classes
    self._stored = clip_config.stored(clips)
    self._steps = [*_READING, *steps_of_clip]
    channels = {**preprocess.CHANNELS, "flow": preprocess.CHANNELS["flow"] * clips.flow_stack}
    self._shapes = {stream: [*_shape(clips), channels[stream]] for stream in clips.streams}

  def __call__(self, record: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    only = tf.data.Dataset.from_tensors((record, seed))
    good = only.map(self._load).ignore_errors(log_warning=False)
    return good.concatenate(only.map(self._excuse)).take(1).get_single_element()

  def padding(self) -> dict[str, tf.Tensor]:
    """An example of weight 0 that stands for no record."""
    return self._zeros(tf.zeros([2], tf.int32), "", "")

  def _load(self, record: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    state = {"record": record, "seed": seed, "loader": self}
    for step in self._steps:
      state = step.apply(state)
    streams = {stream: tf.ensure_shape(state[stream], shape) for stream, shape in self._shapes.items()}
    parsed = state["parsed"]
    label = tf.cast(parsed["label_indices"][0], tf.int32)
    return {**streams, "label": label, "id": parsed["id"], "weight": 1.0, "error": "", "seed": seed}

  def _excuse(self, record: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Goes the way again to see how far it leads."""
    only = lambda *values: tf.data.Dataset.from_tensors(values if len(values) > 1 else values[0])
    reasons = (
      only(record)
      .map(self._places.read)
      .ignore_errors(log_warning=False)
      .flat_map(
        lambda serialized: (
          only(serialized)
          .map(self._problem_and_id)
          .ignore_errors(log_warning=False)
          .concatenate(only(tf.constant(_NO_EXAMPLE), tf.constant("")))
          .take(1)
        )
      )
      .concatenate(only(tf.constant(_DAMAGED), tf.constant("")))
      .take(1)
    )
    reason, name = reasons.get_single_element()
    reason = tf.where(reason == "", _NO_IMAGE, reason)
    return self._zeros(seed, name, tf.strings.join([self._places.describe(record), ": ", reason]))

  def _zeros(self, seed: tf.Tensor, name: tf.Tensor, error: tf.Tensor) -> dict[str, tf.Tensor]:
    streams = {
      stream: tf.zeros([extent or 0 for extent in shape], _DTYPES[stream]) for stream, shape in self._shapes.items()
    }
    streams = {stream: tf.ensure_shape(zeros, self._shapes[stream]) for stream, zeros in streams.items()}
    return {**streams, "label": 0, "id": name, "weight": 0.0, "error": error, "seed": seed}

  def _problem_and_id(self, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    parsed = records.parse(serialized)
    return self.problem(parsed), parsed["id"]

  def problem(self, parsed: dict[str, tf.Tensor]) -> tf.Tensor:
    """Why a record that can be parsed cannot be used; '' if it can, as far as that is known without its images."""
    label = tf.concat([parsed["label_indices"], [-1]], axis=0)[0]
    text = tf.concat([parsed["labels"], [""]], axis=0)[0]
    checks = [(tf.size(parsed["label_indices"]) == 0, "it has no label")]
    if self._classes:
      count = len(self._classes)
      name = tf.gather(tf.constant(self._classes), tf.clip_by_value(label, 0, count - 1))
      out = ["its label is ", tf.strings.as_string(label), f", out of the range of the {count} classes"]
      other = ["its label ", tf.strings.as_string(label), " is '", text, "', in the class list '", name, "'"]
      checks.append(((label < 0) | (label >= count), tf.strings.join(out)))
      checks.append(((text != "") & (text != name), tf.strings.join(other)))
    else:
      checks.append((label < 0, "its label is negative"))
    for stream, what in (("rgb", "RGB frames"), ("flow", "flow"), (clip_config.BACKWARD_FLOW, "backward flow")):
      if stream in self._stored:
        checks.append((tf.size(parsed[records.IMAGES[stream]]) == 0, f"it has no {what}"))
    problem = records.first_problem(parsed)
    for is_bad, reason in reversed(checks):
      problem = tf.where(is_bad, reason, problem)
    return problem

  def read(self, state: clip_steps.State) -> clip_steps.State:
    return {**state, "serialized": self._places.read(state["record"])}

  def check(self, state: clip_steps.State) -> clip_steps.State:
    problem = self.problem(state["parsed"])
    with tf.control_dependencies([tf.debugging.Assert(problem == "", [problem])]):
      return {**state, "parsed": {name: tf.identity(value) for name, value in state["parsed"].items()}}


_READING = (
  clip_steps.Step("read the record and check its checksum", lambda state: state["loader"].read(state)),
  clip_steps.Step("parse the record", lambda state: {**state, "parsed": records.parse(state["serialized"])}),
  clip_steps.Step("check label and streams", lambda state: state["loader"].check(state)),
)


def _shape(clips: clip_config.TrainClips | clip_config.EvalClips) -> list[int | None]:
  """The shape of an example's clip or views but for the channels; None: it depends on the video."""
  if isinstance(clips, clip_config.TrainClips):
    return [clips.num_frames, clips.crop, clips.crop]
  views = {"release": 1, "clips": clips.num_clips, "ten_crop": 10, "three_crops": 3 * clips.num_clips}[clips.protocol]
  num_frames = None if clips.protocol == "release" else clips.num_frames
  return [2 * views if clips.flip else views, num_frames, clips.crop, clips.crop]


def _repeat(places: Sequence[int], views: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Each place for every view, and the numbers of the views."""
  return tf.repeat(tf.constant(places, tf.int64), views), tf.tile(tf.range(views, dtype=tf.int64), [len(places)])


def _parallel(dataset: tf.data.Dataset, apply: Callable[..., Any]) -> tf.data.Dataset:
  # There is no Python control flow on tensors to convert, and looking for it takes most of the time to start.
  apply = tf.autograph.experimental.do_not_convert(apply)
  return dataset.map(apply, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _finish(dataset: tf.data.Dataset, *, prefetch: int = 2) -> tf.data.Dataset:
  """Makes what comes next while the last is used."""
  options = tf.data.Options()
  options.deterministic = True
  return dataset.prefetch(prefetch).with_options(options)


def _check_service(address: str) -> None:
  """Raises I3dError if nothing answers at the address; tf.data itself would go on trying for long."""
  try:
    protocol, _, place = address.partition("://")
    host, _, port = place.rpartition(":")
    if protocol != "grpc":
      raise ValueError
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
      pass
  except ValueError:
    raise errors.I3dError(f"data_service is {address!r}; it must be grpc://HOST:PORT") from None
  except OSError as error:
    raise errors.I3dError(f"data_service: {address} cannot be reached: {error.strerror or error}") from None


def _check_shards(shards: Sequence[int], num_shards: int) -> None:
  if not shards or len(set(shards)) < len(shards) or not all(0 <= shard < num_shards for shard in shards):
    raise errors.I3dError(f"shards are {tuple(shards)}; they must be different ones of 0 to {num_shards - 1}")
