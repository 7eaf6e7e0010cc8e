"""Goes on from a fitted classifier: trains the last blocks of its network, or all of it, with the trainer of `train`.

Every setting is chosen from the number and the length of the videos and from the machine, with a reason.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib

import numpy as np
import tqdm

from i3d_tf import errors
from i3d_tf import fitting
from i3d_tf import training
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.evaluation import evaluator
from i3d_tf.fitting import samples as samples_lib
from i3d_tf.fitting import splits
from i3d_tf.models import preprocess
from i3d_tf.training import trainer
from i3d_tf.weights import saved

_FREEZE = {"mixed_5": "(?!Mixed_5|Logits)", "all": ""}
_EPOCHS = {"mixed_5": 8, "all": 15}
_RATES = {"mixed_5": 2e-3, "all": 1e-3}
_CLIP_BYTES = 1.5 * 2**30  # of a clip of 64 frames of 224 pixels in training, measured with an I3D in float32
_AT_ONCE = 16  # clips that a step is to see, over several batches if need be
_LEAST_STEPS, _MOST_STEPS = 60, 4000
_CLIPS_PER_SHARD = 32


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a network is trained.

  Attributes:
    batch_size: Clips of a batch.
    accumulation_steps: Batches of a step.
    num_steps: Steps.
    learning_rate: Rate at its highest.
    num_frames: Frames of a clip.
    precision: Type of convolutions and activations.
    freeze: Units that are not trained.
    reasons: A sentence for each of these.
  """

  batch_size: int
  accumulation_steps: int
  num_steps: int
  learning_rate: float
  num_frames: int
  precision: str
  freeze: str
  reasons: tuple[str, ...]


def choose(
  config: fitting.FitConfig, clip: preprocess.Preprocess, lengths: Sequence[int], *, memory: int, precision: str
) -> Settings:
  """Returns the settings for a network and videos, with those that the options give as they are given.

  Args:
    config: The options.
    clip: Clips that the network was trained on.
    lengths: Frames of each video to train on, at the network's rate.
    memory: Bytes that are free.
    precision: Type of convolutions and activations.
  """
  reasons: list[str] = []

  def chosen(name: str, value: float, reason: str) -> float:
    given = getattr(config, name)
    reasons.append(f"{name} {value if given is None else given:g}: {reason if given is None else 'as given'}")
    return value if given is None else given

  typical = int(np.median(lengths)) // clip.frame_stride
  frames = max(16, min(clip.num_frames, typical // 8 * 8)) if clip.num_frames >= 16 else clip.num_frames
  text = f"of the network's {clip.num_frames}, as many eights as half of the videos have"
  num_frames = int(chosen("num_frames", frames, text))
  each = _CLIP_BYTES * num_frames / 64 * (clip.crop / 224) ** 2 * (0.5 if config.depth == "mixed_5" else 1)
  fitting_in = int(0.5 * memory / each)
  text = f"half of the free {memory / 2**30:.0f} GB holds {fitting_in} clips of about {each / 2**30:.1f} GB"
  batch = int(chosen("batch_size", max(1, min(8, fitting_in, len(lengths))), text))
  accumulation = max(1, min(_AT_ONCE, len(lengths)) // batch)
  reasons.append(f"accumulation_steps {accumulation}: a step sees about {_AT_ONCE} clips")
  epochs, together = _EPOCHS[config.depth], batch * accumulation
  steps = min(max(_LEAST_STEPS, -(-epochs * len(lengths) // together)), _MOST_STEPS)
  text = f"{epochs} times each of {len(lengths)} videos, but from {_LEAST_STEPS} to {_MOST_STEPS}"
  num_steps = int(chosen("num_steps", steps, text))
  rate = _RATES[config.depth] * together / _AT_ONCE
  rate = chosen(
    "learning_rate", rate, f"{_RATES[config.depth]:g} for {_AT_ONCE} clips a step, falling to 0 as a cosine"
  )
  reasons.append(f"precision {precision}: as the features were computed")
  freeze = _FREEZE[config.depth]
  reasons.append(f"freeze {freeze or 'nothing'}: depth is {config.depth}")
  return Settings(batch, accumulation, num_steps, rate, num_frames, precision, freeze, tuple(reasons))


def free_memory() -> int:
  """Returns the bytes of memory that are free, of the machine and not of its GPUs."""
  return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def train(
  config: fitting.FitConfig,
  samples: samples_lib.Samples,
  lengths: Sequence[int],
  plan: splits.Plan,
  *,
  precision: str,
  progress: bool,
  say: Callable[[str], None],
) -> np.ndarray:
  """Trains from the classifier in the folder `head` of the run, and returns the logits of the clips of the first fold.

  The network is in the folder `training`, as train leaves it, and the records in `records`.

  Args:
    config: The options.
    samples: The videos.
    lengths: Frames of each at the network's rate.
    plan: Of one fold.
    precision: Type of convolutions and activations.
    progress: Whether to show progress bars.
    say: Called with a line for everything that is chosen.

  Returns:
    `[N, classes]`; NaN of the clips that the fold does not test.

  Raises:
    I3dError: If the network cannot be trained so, or a video not be read.
  """
  folder, fold = pathlib.Path(config.output), plan.folds[0]
  values, info = saved.read(folder / "head")
  if config.depth == "mixed_5" and not any(name.startswith("Mixed_5") for name in values):
    raise errors.I3dError(f"depth is mixed_5, but {info.model} has no blocks Mixed_5; take all")
  settings = choose(
    config, info.preprocess, [lengths[index] for index in fold.train], memory=free_memory(), precision=precision
  )
  for reason in settings.reasons:
    say(f"Training with {reason}")
  divided = ["test" if index in set(fold.test) else "train" for index in range(len(samples))]
  _write_records(samples.dataset(divided), folder / "records", info, progress)
  trained = trainer.train(
    folder / "records", folder / "training", num_steps=settings.num_steps, batch_size=settings.batch_size,
    model=info.model, stream=info.stream, width_multiplier=info.width_multiplier, average_space=info.average_space,
    initial_checkpoint=os.fspath(folder / "head"), seed=config.seed, save_every=max(10, settings.num_steps // 20),
    deterministic=True, progress=progress,
    optimization=training.OptimizationConfig(
      accumulation_steps=settings.accumulation_steps, learning_rate=settings.learning_rate, schedule="cosine",
      warmup_steps=settings.num_steps // 10, freeze=settings.freeze, precision=settings.precision, clip_norm=10.0,
    ),
    clips={"num_frames": settings.num_frames, "frame_stride": info.preprocess.frame_stride,
           "short_side": info.preprocess.short_side, "crop": info.preprocess.crop},
  )  # fmt: skip
  if trained.step < settings.num_steps:
    raise errors.I3dError(f"stopped at step {trained.step} of {settings.num_steps}; the same call goes on from there")
  found = evaluator.evaluate(
    output=os.fspath(folder / "evaluation"), records=os.fspath(folder / "records"), precision=settings.precision,
    checkpoints={info.stream: os.fspath(folder / "training")}, progress=progress,
  ).results[info.stream].predictions  # fmt: skip
  logits = np.full((len(samples), len(samples.classes)), np.nan)
  places = {name: index for index, name in enumerate(samples.ids)}
  logits[[places[name] for name in found.ids]] = found.logits
  return logits


def _write_records(dataset: clips_lib.Dataset, folder: pathlib.Path, info: saved.ModelInfo, progress: bool) -> None:
  """Writes the videos as records of RGB; goes on where it was."""
  settings = shards.RecordConfig(
    streams=("rgb",), fps=info.preprocess.frame_rate, short_side=max(16, info.preprocess.short_side)
  )
  parameters = shards.parameters(dataset, settings, clips_per_shard=_CLIPS_PER_SHARD)
  made = shards.Folder(folder, shards.plan(dataset, _CLIPS_PER_SHARD))
  with made.claim(parameters):
    tasks = made.tasks()
    made.finish_shards()
    for task in tqdm.tqdm(tasks, desc="Records", unit="video", disable=not progress):
      record = prepare.make_record(task.clip, dataset=dataset.name, classes=dataset.classes, settings=settings)
      made.put(task, shards.Made(records.serialize(record), record.notes), None)
      made.finish_shards()
    made.finish(dataset, parameters)
