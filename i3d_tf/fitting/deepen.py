"""Goes on from a fitted classifier: trains the last blocks of its network, or all of it, with the trainer of `train`.

Every setting is chosen from the number and the length of the videos and from the machine, with a reason. In the folder
of a run, `training/<stream>/<digest>` has what belongs to one training, and `records/<stream>` a record of each video,
which all trainings of the stream take.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

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
_OPTIONS = ("depth", "batch_size", "num_steps", "learning_rate", "num_frames", "seed", "flow_method")
TRAINING, HEAD, _NETWORK, _RECORDS = "training", "head", "network", "records"  # folders


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


def train(
  config: fitting.FitConfig,
  stream: str,
  samples: samples_lib.Samples,
  facts: Sequence[samples_lib.Facts],
  fold: splits.Fold,
  checkpoint: str,
  write_head: Callable[[pathlib.Path], None],
  *,
  precision: str,
  progress: bool,
  say: Callable[[str], None],
) -> tuple[pathlib.Path, np.ndarray]:
  """Trains a network from a classifier, and returns it with its logits of the clips that the fold tests.

  The folder of a training is named after all that it depends on. So other videos, another split and other options have
  a training of their own, and what was begun or done before is taken up where they are the same.

  Args:
    config: The options.
    stream: 'rgb' or 'flow'.
    samples: The videos.
    facts: Of each.
    fold: Clips to train on, and to test.
    checkpoint: The network that the classifier was fitted on.
    write_head: Writes that network with the classifier into a folder.
    precision: Type of convolutions and activations.
    progress: Whether to show progress bars.
    say: Called with a line for everything that is chosen.

  Returns:
    The folder of the run of train, and logits `[len(fold.test), classes]`.

  Raises:
    I3dError: If the network cannot be trained so, or a video not be read.
  """
  sides = {"train": fold.train, "test": fold.test}
  about = lambda index: (samples.ids[index], samples.labels[index], facts[index].digest, facts[index].num_frames)
  videos = {split: [about(index) for index in side] for split, side in sides.items()}
  options = {name: getattr(config, name) for name in _OPTIONS}
  key = _digest([options, precision, checkpoint, samples.name, samples.classes, videos])
  folder = pathlib.Path(config.output) / TRAINING / stream / key
  done = folder / "logits.npz"
  if done.exists():
    return folder / _NETWORK, files.read_arrays(done)["logits"]
  write_head(folder / HEAD)
  values, info = saved.read(folder / HEAD)
  if config.depth == "mixed_5" and not any(name.startswith("Mixed_5") for name in values):
    raise errors.I3dError(f"depth is mixed_5, but {info.model} has no blocks Mixed_5; take all")
  lengths = [facts[index].num_frames for index in fold.train]
  settings = _settle(folder / "settings.json", config, info.preprocess, lengths, precision)
  for reason in settings.reasons:
    say(f"Training {stream} with {reason}")
  chosen = [index for side in sides.values() for index in side]
  divided = [split for split, side in sides.items() for _ in side]
  digests = {samples.ids[index]: facts[index].digest for index in chosen}
  _write_records(config, samples.take(chosen).dataset(divided), digests, folder, info, progress)
  trained = trainer.train(
    folder / _RECORDS, folder / _NETWORK, num_steps=settings.num_steps, batch_size=settings.batch_size,
    model=info.model, stream=info.stream, width_multiplier=info.width_multiplier, average_space=info.average_space,
    initial_checkpoint=os.fspath(folder / HEAD), seed=config.seed, save_every=max(10, settings.num_steps // 20),
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
  logits = np.zeros((len(fold.test), len(samples.classes)))
  if fold.test:
    found = evaluator.evaluate(
      output=os.fspath(folder / "evaluation"), records=os.fspath(folder / _RECORDS), precision=settings.precision,
      checkpoints={stream: os.fspath(folder / _NETWORK)}, progress=progress,
    ).results[stream].predictions  # fmt: skip
    places = {samples.ids[index]: place for place, index in enumerate(fold.test)}
    logits[[places[name] for name in found.ids]] = found.logits
  with workdir.replacing(done) as file:
    np.savez(file, logits=logits)
  shutil.rmtree(folder / _RECORDS)  # those of the videos are kept
  return folder / _NETWORK, logits


def _settle(
  path: pathlib.Path, config: fitting.FitConfig, clip: preprocess.Preprocess, lengths: Sequence[int], precision: str
) -> Settings:
  """The settings that a training began with, however much memory is free now, or new ones."""
  with contextlib.suppress(OSError, errors.I3dError, KeyError, TypeError):
    kept = files.read_json(path, "what fit writes")
    return Settings(**{**kept, "reasons": tuple(kept["reasons"])})
  found = choose(config, clip, lengths, memory=free_memory(), precision=precision)
  with workdir.replacing(path) as file:
    file.write(json.dumps(dataclasses.asdict(found), indent=2).encode())
  return found


def _write_records(
  config: fitting.FitConfig,
  dataset: clips_lib.Dataset,
  digests: Mapping[str, str],
  folder: pathlib.Path,
  info: saved.ModelInfo,
  progress: bool,
) -> None:
  """Writes the videos as records of the network's stream, each taken from where all trainings keep them if it is there.

  Args:
    config: The options.
    dataset: The videos.
    digests: Of the file of each video, by its id.
    folder: Folder of the training.
    info: What the network is.
    progress: Whether to show a progress bar.
  """
  settings = shards.RecordConfig(
      streams=info.streams, fps=info.preprocess.frame_rate, short_side=max(16, info.preprocess.short_side),
      flow=config.flow, flow_params=config.flow_params,
  )  # fmt: skip
  parameters = shards.parameters(dataset, settings, clips_per_shard=_CLIPS_PER_SHARD)
  kept = pathlib.Path(config.output) / _RECORDS / info.stream
  kept.mkdir(parents=True, exist_ok=True)
  of_all = [dataset.name, dataset.classes, dataclasses.asdict(settings)]
  made = shards.Folder(folder / _RECORDS, shards.plan(dataset, _CLIPS_PER_SHARD))
  with made.claim(parameters):
    tasks = made.tasks()
    made.finish_shards()
    for task in tqdm.tqdm(tasks, desc="Records", unit="video", disable=not progress):
      clip = task.clip
      path = kept / f"{_digest([clip.id, clip.path, clip.label, digests[clip.id], of_all])}.record"
      if not path.exists():
        record = prepare.make_record(clip, dataset=dataset.name, classes=dataset.classes, settings=settings)
        with workdir.replacing(path) as file:
          file.write(records.serialize(record))
      made.put(task, path.read_bytes(), None)
      made.finish_shards()
    made.finish(dataset, parameters)


def _digest(values: Any) -> str:
  return hashlib.sha256(json.dumps(values).encode(errors="surrogateescape")).hexdigest()[:16]
