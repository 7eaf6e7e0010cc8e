"""Clips per second of the input pipeline alone, beside the rate at which the same frames are decoded."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import os
import statistics
import time

import numpy as np
import tensorflow as tf

from i3d_tf import provenance
from i3d_tf import workers
from i3d_tf.benchmarks import timing
from i3d_tf.data import inspection
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.input import pipeline
from i3d_tf.input import sampling

_SEED = 0


@dataclasses.dataclass(frozen=True)
class Options:
  """What to measure: so many `clips` a round, of `frames` frames, as training takes them from a split's `records`."""

  rounds: int
  records: str
  split: str = "train"
  streams: tuple[str, ...] = ("rgb",)
  frames: int = 64
  short_side: int = 256
  crop: int = 224
  clips: int = 16


@dataclasses.dataclass(frozen=True)
class Report:
  """Medians over the rounds; the ratio is taken round by round.

  The raw rate is that of decoding the frames of the same clips, encoded and in memory, on all cores: JPEG images to the
  clip's window, PNG images whole, and nothing else. A clip of both streams has two images for each of its frames.
  """

  machine: str
  tensorflow: str
  records: str
  split: str
  streams: tuple[str, ...]
  frames: int
  clips: int
  formats: dict[str, str]
  clips_per_second: float
  images_per_second: float
  raw_images_per_second: float
  ratio_to_raw: float


@dataclasses.dataclass(frozen=True)
class _Encoded:
  """One stream of a clip: images string `[T]`, and their window int32 `[4]`."""

  images: np.ndarray
  box: np.ndarray


def measure(options: Options) -> Report:
  """Measures; I3dError if the records cannot be used."""
  source = pipeline.open_source(options.records, options.split, streams=options.streams)
  clips = clip_config.TrainClips(
    streams=options.streams, num_frames=options.frames, short_side=options.short_side, crop=options.crop
  )
  batches = iter(pipeline.train_batches(source, clips, batch_size=1, seed=_SEED))
  # What is made ahead must be as much at the end of a round as at its beginning.
  num_ahead = 2 * workers.available_cores() + 4
  encoded = _encoded_clips(source, clips)
  formats = {}

  def raw() -> float:
    for _ in range(num_ahead):
      next(encoded)
    found = list(itertools.islice(encoded, options.clips))
    formats.update({stream: inspection.image_format(found[0][stream].images[0]) for stream in options.streams})
    return sum(_decode_seconds([clip[stream] for clip in found], formats[stream]) for stream in options.streams)

  seconds = timing.in_turn(
    {"pipeline": lambda: _pipeline_seconds(batches, num_ahead, options.clips), "raw": raw}, options.rounds
  )
  num_images = options.clips * options.frames * len(options.streams)
  return Report(
    machine=provenance.machine(),
    tensorflow=tf.__version__,
    records=os.fspath(options.records),
    split=options.split,
    streams=options.streams,
    frames=options.frames,
    clips=options.clips,
    formats=formats,
    clips_per_second=options.clips / statistics.median(seconds["pipeline"]),
    images_per_second=num_images / statistics.median(seconds["pipeline"]),
    raw_images_per_second=num_images / statistics.median(seconds["raw"]),
    ratio_to_raw=timing.median_ratio(seconds["raw"], seconds["pipeline"]),
  )


def describe(report: Report) -> str:
  """The report as lines of text."""
  formats = " and ".join(f"{stream} ({name})" for stream, name in report.formats.items())
  return "\n".join([
      f"machine         {report.machine}; TensorFlow {report.tensorflow}",
      f"clips           {report.clips} a round, of {report.frames} frames, {formats}, of {report.split} in "
      f"{report.records}",
      f"pipeline        {report.clips_per_second:.2f} clips/s, {report.images_per_second:.0f} images/s",
      f"decoding only   {report.raw_images_per_second:.0f} images/s",
      f"ratio           {report.ratio_to_raw:.2f} of the rate of decoding only",
  ])  # fmt: skip


def _pipeline_seconds(batches: Iterator[dict[str, tf.Tensor]], num_ahead: int, num_clips: int) -> float:
  for _ in range(num_ahead):
    next(batches)
  start = time.perf_counter()
  for _ in range(num_clips):
    next(batches)
  return time.perf_counter() - start


def _encoded_clips(source: record_index.Source, clips: clip_config.TrainClips) -> Iterator[dict[str, _Encoded]]:
  """Yields by stream what the pipeline decodes for its clips, in its order."""
  order = record_index.TrainingOrder(source, batch_size=1, num_shards=1, seed=_SEED)
  places = record_index.Places(source)
  steps = list(itertools.takewhile(lambda step: step.name != clip_steps.DECODE, clip_steps.training(clips)))

  @tf.function(autograph=False)
  def choose(place: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    state = {"parsed": records.parse(places.read(order.record(place))), "seed": order.seed(place)}
    for step in steps:
      state = step.apply(state)
    return {stream: (clip_steps.images_taken(state, stream), _box(state, stream)) for stream in clips.streams}

  for place in itertools.count():
    found = choose(tf.constant(place, tf.int64))
    yield {stream: _Encoded(images.numpy(), box.numpy()) for stream, (images, box) in found.items()}


def _box(state: clip_steps.State, stream: str) -> tf.Tensor:
  """Top, left, height and width of the clip's window; if the frames are resized, all of them."""
  whole = tf.concat([[0, 0], state["sizes"][stream]], axis=0)
  window = tf.concat([state["offsets"][stream], state["windows"][stream]], axis=0)
  return tf.where(tf.reduce_all(tf.equal(state["sizes"][stream], state["resized"][stream])), window, whole)


def _decode_seconds(clips: Sequence[_Encoded], image_format: str) -> float:
  """The time to decode all images on all cores."""
  images = np.concatenate([clip.images for clip in clips])
  boxes = np.repeat([clip.box for clip in clips], [len(clip.images) for clip in clips], axis=0)
  decode = {
    "JPEG": lambda image, box: sampling.decode_jpeg(image, box),
    "PNG": lambda image, box: tf.io.decode_png(image, channels=3),
  }[image_format]
  dataset = tf.data.Dataset.from_tensor_slices((images, boxes))
  dataset = dataset.map(lambda image, box: decode(image, box)[0, 0, 0], num_parallel_calls=workers.available_cores())
  decoded = iter(dataset.batch(len(images)))
  start = time.perf_counter()
  next(decoded)
  return time.perf_counter() - start
