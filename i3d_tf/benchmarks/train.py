"""What a step of a real training costs, input included."""

import dataclasses
import json
import pathlib
import statistics
import tempfile

import tensorflow as tf

from i3d_tf import provenance
from i3d_tf.benchmarks import timing
from i3d_tf.input import clip_config
from i3d_tf.input import ops
from i3d_tf.models import zoo
from i3d_tf.training import config
from i3d_tf.training import monitor
from i3d_tf.training import trainer


@dataclasses.dataclass(frozen=True)
class Options:
  """What to train and for how long: `rounds` steps after one that does not count."""

  rounds: int
  records: str
  split: str
  model: str
  stream: str
  frames: int
  frame_stride: int
  flow_stack: int
  short_side: int
  crop: int
  batch: int
  recompute: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
  """Medians over the steps; `input_wait` is the share of a step's time; memory is the process's peak."""

  machine: str
  tensorflow: str
  options: Options
  step_seconds: float
  clips_per_second: float
  input_wait: float
  peak_bytes: int


def measure(options: Options) -> Report:
  """Trains the whole network in a folder that is thrown away.

  Raises:
    I3dError: as `trainer.train`.
  """
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
    run = config.Run(
        records=options.records, output=folder, split=options.split, model=options.model, stream=options.stream,
        batch_size=options.batch,
        num_steps=options.rounds + 1, log_every=1, save_every=options.rounds + 2,
        average_space=options.crop != ops.CROP and "average_space" in zoo.get(options.model).options,
    )  # fmt: skip
    optimization = config.Optimization(learning_rate=1e-3, recompute=options.recompute)
    clips = clip_config.TrainClips(
        streams=clip_config.STREAMS_OF[options.stream], num_frames=options.frames, frame_stride=options.frame_stride,
        flow_stack=options.flow_stack, crop=options.crop, short_side=options.short_side,
    )  # fmt: skip
    trainer.train(run, optimization, clips)
    lines = (pathlib.Path(folder) / monitor.METRICS).read_text(encoding="utf-8").splitlines()[1:]
  steps = [json.loads(line) for line in lines]
  clips_per_second = statistics.median(step["clips_per_second"] for step in steps)
  return Report(
    machine=provenance.machine(),
    tensorflow=tf.__version__,
    options=options,
    step_seconds=options.batch / clips_per_second,
    clips_per_second=clips_per_second,
    input_wait=statistics.median(step["input_wait"] for step in steps),
    peak_bytes=timing.peak_memory_bytes(),
  )


def describe(report: Report) -> str:
  """The report as lines of text."""
  options = report.options
  clip = f"{options.frames} x {options.crop}^2"
  how = ", recomputing" if options.recompute else ""
  return "\n".join(
    [
      f"machine         {report.machine}; TensorFlow {report.tensorflow}",
      f"training        {options.model}, {options.stream}, batches of {options.batch} x {clip}{how}",
      f"step            {report.step_seconds:.3f} s, {report.clips_per_second:.3f} clips/s",
      f"input wait      {100 * report.input_wait:.1f} % of the time",
      f"peak memory     {report.peak_bytes / 1e9:.2f} GB",
    ]
  )
