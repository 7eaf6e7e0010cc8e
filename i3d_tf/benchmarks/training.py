"""Speed of training: of its input pipeline alone, and of real training steps, input included."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf

from i3d_tf import benchmarks
from i3d_tf import resources
from i3d_tf import training
from i3d_tf.data import inspection
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.input import clip_config
from i3d_tf.input import clip_steps
from i3d_tf.input import ops
from i3d_tf.input import pipeline
from i3d_tf.models import preprocess
from i3d_tf.models import zoo
from i3d_tf.training import run_folder
from i3d_tf.training import trainer

_SEED = 0


@dataclasses.dataclass(frozen=True)
class InputBenchmark:
  """What to measure: per round, the input of training for `clips` clips of `frames` frames from a split of `records`.

  Attributes:
    rounds: rounds that are counted.
    records, split: the folder of records and its split.
    streams: 'rgb', 'flow' or both.
    frames: per clip.
    short_side, crop: pixels, as training has them.
    clips: per round.
  """

  rounds: int
  records: str
  split: str = "train"
  streams: tuple[str, ...] = ("rgb",)
  frames: int = 64
  short_side: int = 256
  crop: int = 224
  clips: int = 16


@dataclasses.dataclass(frozen=True)
class InputReport:
  """Medians over the rounds; `ratio_to_raw` is the median of the ratios of each round.

  The raw rate is that of decoding the images of the same clips from memory on all cores and nothing else: JPEG images
  within the window of the clip, PNG images whole. A clip of both streams has two images per frame.
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

  def __str__(self) -> str:
    """The report as lines of text."""
    formats = " and ".join(f"{stream} ({name})" for stream, name in self.formats.items())
    return "\n".join([
        f"machine         {self.machine}; TensorFlow {self.tensorflow}",
        f"clips           {self.clips} a round, of {self.frames} frames, {formats}, of {self.split} in {self.records}",
        f"pipeline        {self.clips_per_second:.2f} clips/s, {self.images_per_second:.0f} images/s",
        f"decoding only   {self.raw_images_per_second:.0f} images/s",
        f"ratio           {self.ratio_to_raw:.2f} of the rate of decoding only",
    ])  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Encoded:
  """One stream of a clip: encoded images, string `[T]`, and their window, int32 `[4]`."""

  images: np.ndarray
  box: np.ndarray


def measure_input(options: InputBenchmark) -> InputReport:
  """Returns the clips per second of the input pipeline beside the rate at which the same images are decoded.

  Args:
    options: what to measure.

  Raises:
    I3dError: if the records cannot be used.
  """
  source = pipeline.open_source(options.records, options.split, streams=options.streams)
  clips = clip_config.TrainClips(
    streams=options.streams, num_frames=options.frames, short_side=options.short_side, crop=options.crop
  )
  batches = iter(pipeline.train_batches(source, clips, batch_size=1, seed=_SEED))
  # The pipeline prefetches: the buffers must be as full at the end of a round as at its beginning.
  num_ahead = 2 * resources.available_cores() + 4
  encoded = _encoded_clips(source, clips)
  formats: dict[str, str] = {}

  def raw() -> float:
    for _ in range(num_ahead):
      next(encoded)
    found = list(itertools.islice(encoded, options.clips))
    formats.update({stream: inspection.image_format(found[0][stream].images[0]) for stream in options.streams})
    return sum(_decode_seconds([clip[stream] for clip in found], formats[stream]) for stream in options.streams)

  seconds = benchmarks.in_turn(
    {"pipeline": lambda: _pipeline_seconds(batches, num_ahead, options.clips), "raw": raw}, options.rounds
  )
  num_images = options.clips * options.frames * len(options.streams)
  return InputReport(
    machine=resources.machine(),
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
    ratio_to_raw=benchmarks.median_ratio(seconds["raw"], seconds["pipeline"]),
  )


def _pipeline_seconds(batches: Iterator[dict[str, tf.Tensor]], num_ahead: int, num_clips: int) -> float:
  for _ in range(num_ahead):
    next(batches)
  start = time.perf_counter()
  for _ in range(num_clips):
    next(batches)
  return time.perf_counter() - start


def _encoded_clips(source: record_index.Source, clips: clip_config.TrainClips) -> Iterator[dict[str, _Encoded]]:
  """Yields the encoded images of each clip by stream, in the order of the pipeline."""
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
  """Returns top, left, height and width of the window of a clip; if its frames are resized, that is the whole frame."""
  whole = tf.concat([[0, 0], state["sizes"][stream]], axis=0)
  window = tf.concat([state["offsets"][stream], state["windows"][stream]], axis=0)
  return tf.where(tf.reduce_all(tf.equal(state["sizes"][stream], state["resized"][stream])), window, whole)


def _decode_seconds(clips: Sequence[_Encoded], image_format: str) -> float:
  """Measures the seconds to decode all images on all cores."""
  images = np.concatenate([clip.images for clip in clips])
  boxes = np.repeat([clip.box for clip in clips], [len(clip.images) for clip in clips], axis=0)
  decode = {
    "JPEG": lambda image, box: ops.decode_jpeg(image, box),
    "PNG": lambda image, box: tf.io.decode_png(image, channels=3),
  }[image_format]
  dataset = tf.data.Dataset.from_tensor_slices((images, boxes))
  dataset = dataset.map(lambda image, box: decode(image, box)[0, 0, 0], num_parallel_calls=resources.available_cores())
  decoded = iter(dataset.batch(len(images)))
  start = time.perf_counter()
  next(decoded)
  return time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class TrainingBenchmark:
  """What to train; `rounds` steps are counted, after one that is not; the rest is as in `config` and `clip_config`."""

  rounds: int
  records: str
  split: str
  model: str
  stream: str
  clip: preprocess.Preprocess
  batch: int
  recompute: bool = False


@dataclasses.dataclass(frozen=True)
class TrainingReport:
  """Medians over the steps; `input_wait` is a share of the time of a step; memory is the peak of the process."""

  machine: str
  tensorflow: str
  options: TrainingBenchmark
  step_seconds: float
  clips_per_second: float
  input_wait: float
  peak_bytes: int

  def __str__(self) -> str:
    """The report as lines of text."""
    options, how = self.options, ", recomputing" if self.options.recompute else ""
    clip = f"{options.clip.num_frames} x {options.clip.crop}^2"
    return "\n".join([
        f"machine         {self.machine}; TensorFlow {self.tensorflow}",
        f"training        {options.model}, {options.stream}, batches of {options.batch} x {clip}{how}",
        f"step            {self.step_seconds:.3f} s, {self.clips_per_second:.3f} clips/s",
        f"input wait      {100 * self.input_wait:.1f} % of the time",
        f"peak memory     {self.peak_bytes / 1e9:.2f} GB",
    ])  # fmt: skip


def measure_training(options: TrainingBenchmark) -> TrainingReport:
  """Returns measurements of training all layers of a network for some steps, in a temporary folder.

  Args:
    options: what to train.

  Raises:
    I3dError: as `trainer.train`.
  """
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
    optimization = training.OptimizationConfig(learning_rate=1e-3, recompute=options.recompute)
    clips = clip_config.TrainClips(streams=preprocess.STREAMS_OF[options.stream], **dataclasses.asdict(options.clip))
    trainer.train(
        options.records, folder, split=options.split, model=options.model, stream=options.stream,
        batch_size=options.batch, num_steps=options.rounds + 1, log_every=1, save_every=options.rounds + 2,
        average_space=options.clip.crop != ops.CROP and "average_space" in zoo.get(options.model).options,
        optimization=optimization, clips=clips,
    )  # fmt: skip
    steps = run_folder.read_metrics(pathlib.Path(folder) / run_folder.METRICS)[1:]
  clips_per_second = statistics.median(step["clips_per_second"] for step in steps)
  return TrainingReport(
    machine=resources.machine(),
    tensorflow=tf.__version__,
    options=options,
    step_seconds=options.batch / clips_per_second,
    clips_per_second=clips_per_second,
    input_wait=statistics.median(step["input_wait"] for step in steps),
    peak_bytes=benchmarks.peak_memory_bytes(),
  )
