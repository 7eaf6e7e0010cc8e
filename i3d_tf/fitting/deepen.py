"""Goes on from a fitted classifier: trains the last blocks of its network, or all of it, with the trainer of `train`.

Every setting is chosen from the number and the length of the videos and from the machine, with a reason.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib

import numpy as np
import tqdm

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import fitting
from i3d_tf import training
from i3d_tf import workdir
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
_STATISTICS = 10  # times that the moving statistics of batch norm are renewed in a run
_CLIPS_PER_SHARD = 32
HEAD, TRAINING = "head", "training"  # folders of a run, with one for each stream


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
    batch_norm_decay: Decay of the moving statistics of batch norm; the default is that of runs that were begun before
      it was chosen.
  """

  batch_size: int
  accumulation_steps: int
  num_steps: int
  learning_rate: float
  num_frames: int
  precision: str
  freeze: str
  reasons: tuple[str, ...]
  batch_norm_decay: float = 0.999


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
  epochs, together = _EPOCHS[config.depth], batch * accumulation
  reasons.append(f"accumulation_steps {accumulation}: a step sees {together} clips, of {_AT_ONCE} that it is to see")
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
  # With the trainer's 0.999 a run of 60 steps would be tested with the statistics of the weights that it began with.
  decay = round(min(0.999, max(0.5, 1 - _STATISTICS / (num_steps * accumulation))), 4)
  reasons.append(f"batch_norm_decay {decay:g}: the statistics are renewed {_STATISTICS} times in the run")
  return Settings(batch, accumulation, num_steps, rate, num_frames, precision, freeze, tuple(reasons), decay)


def free_memory() -> int:
  """Returns the bytes of memory that programs can take without swapping, of the machine and not of its GPUs."""
  with open("/proc/meminfo", encoding="ascii") as file:
    found = next(line for line in file if line.startswith("MemAvailable:"))
  return 1024 * int(found.split()[1])


def settle(
  path: pathlib.Path, config: fitting.FitConfig, clip: preprocess.Preprocess, lengths: Sequence[int], *, precision: str
) -> Settings:
  """Returns the settings of a run: those that it began with, however much memory is free now, or new ones.

  Args:
    path: File where they are kept, with what they were chosen for; a run with other options or videos gets new ones.
    config: The options.
    clip: Clips that the network was trained on.
    lengths: Frames of each video to train on, at the network's rate.
    precision: Type of convolutions and activations.
  """
  given = {name: getattr(config, name) for name in ("depth", "batch_size", "num_steps", "learning_rate", "num_frames")}
  asked = {**given, "precision": precision, "lengths": list(lengths)}
  with contextlib.suppress(OSError, errors.I3dError, KeyError, TypeError):
    kept = files.read_json(path, "what fit writes")
    if kept["asked"] == asked:
      return Settings(**{**kept["settings"], "reasons": tuple(kept["settings"]["reasons"])})
  found = choose(config, clip, lengths, memory=free_memory(), precision=precision)
  path.parent.mkdir(parents=True, exist_ok=True)
  with workdir.replacing(path) as file:
    file.write(json.dumps({"asked": asked, "settings": dataclasses.asdict(found)}, indent=2).encode())
  return found


def train(
  config: fitting.FitConfig,
  stream: str,
  samples: samples_lib.Samples,
  lengths: Sequence[int],
  plan: splits.Plan,
  *,
  precision: str,
  progress: bool,
  say: Callable[[str], None],
) -> np.ndarray:
  """Trains from a classifier in the folder `head` of the run, and returns the logits of the clips of the first fold.

  The network is in the folder `training`, as train leaves it, and the records in `records`, each below the stream.

  Args:
    config: The options.
    stream: 'rgb' or 'flow'.
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
  head, records_folder = folder / HEAD / stream, folder / "records" / stream
  values, info = saved.read(head)
  if config.depth == "mixed_5" and not any(name.startswith("Mixed_5") for name in values):
    raise errors.I3dError(f"depth is mixed_5, but {info.model} has no blocks Mixed_5; take all")
  kept, own = folder / TRAINING / f"{stream}.json", [lengths[index] for index in fold.train]
  settings = settle(kept, config, info.preprocess, own, precision=precision)
  for reason in settings.reasons:
    say(f"Training {stream} with {reason}")
  divided = ["test" if index in set(fold.test) else "train" for index in range(len(samples))]
  _write_records(config, samples.dataset(divided), records_folder, info, progress)
  trained = trainer.train(
    records_folder, folder / TRAINING / stream, num_steps=settings.num_steps, batch_size=settings.batch_size,
    model=info.model, stream=info.stream, width_multiplier=info.width_multiplier, average_space=info.average_space,
    initial_checkpoint=os.fspath(head), seed=config.seed, save_every=max(10, settings.num_steps // 20),
    deterministic=True, progress=progress,
    optimization=training.OptimizationConfig(
      accumulation_steps=settings.accumulation_steps, learning_rate=settings.learning_rate, schedule="cosine",
      warmup_steps=settings.num_steps // 10, freeze=settings.freeze, precision=settings.precision, clip_norm=10.0,
      batch_norm_decay=settings.batch_norm_decay,
    ),
    clips={"num_frames": settings.num_frames, "frame_stride": info.preprocess.frame_stride,
           "short_side": info.preprocess.short_side, "crop": info.preprocess.crop},
  )  # fmt: skip
  if trained.step < settings.num_steps:
    raise errors.I3dError(f"stopped at step {trained.step} of {settings.num_steps}; the same call goes on from there")
  found = evaluator.evaluate(
    output=os.fspath(folder / "evaluation" / stream), records=os.fspath(records_folder), precision=settings.precision,
    checkpoints={stream: os.fspath(folder / TRAINING / stream)}, progress=progress,
  ).results[stream].predictions  # fmt: skip
  logits = np.full((len(samples), len(samples.classes)), np.nan)
  places = {name: index for index, name in enumerate(samples.ids)}
  logits[[places[name] for name in found.ids]] = found.logits
  return logits


def _write_records(
  config: fitting.FitConfig, dataset: clips_lib.Dataset, folder: pathlib.Path, info: saved.ModelInfo, progress: bool
) -> None:
  """Writes the videos as records of the network's stream; goes on where it was."""
  settings = shards.RecordConfig(
      streams=info.streams, fps=info.preprocess.frame_rate, short_side=max(16, info.preprocess.short_side),
      flow=config.flow, flow_params=config.flow_params,
  )  # fmt: skip
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
