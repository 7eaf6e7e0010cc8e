"""Trains a stream on any number of devices. See `--help`."""

import dataclasses

from absl import flags

from i3d_tf import cli
from i3d_tf import training
from i3d_tf.input import clip_config

USAGE = """Trains a network on records from prepare_dataset: one stream of I3D, or --model=NAME.

A small network on small clips, from scratch:
  python -m i3d_tf.train --records=DATA --output=RUN --stream=flow --num_steps=400 \\
      --width_multiplier=0.25 --average_space --crop=64 --short_side=72 --num_frames=16

A recipe is a file of flags; what comes after it wins:
  python -m i3d_tf.train --flagfile=experiments/ucf101/i3d_rgb_full_ft.flags --records=DATA --output=RUN

It runs on all GPUs of this machine, or on the CPU, and with TF_CONFIG on several machines (start the same command on
each). --batch_size counts the clips of one replica. SIGTERM or Ctrl-C ends it after the step at hand, with all saved
and exit status 0 or 1; the same command goes on where it was, with the same batches and weights as if it had never
stopped.

The folder RUN holds best/ (the network, for evaluate, classify and the rest), checkpoints/ (to go on from),
metrics.jsonl and TensorBoard's events, flags.txt, options.json, versions.txt, variables.txt and input_steps.txt."""

_NETWORKS = "that of the network; of i3d "

FLAGS = flags.FLAGS
cli.define_flags(training.TrainConfig, group="Data, network and run", defaults={"records": "", "output": ""})
cli.define_flags(
    clip_config.TrainClips, group="Clips", exclude=("streams", "frame_rate"),
    unset={name: f"{_NETWORKS}{getattr(clip_config.TrainClips(), name)}" for name in training.CLIPS_OF_THE_NETWORK},
)  # fmt: skip
cli.define_flags(training.OptimizationConfig, group="Optimization")
cli.define_device_flags()


def main(arguments: list[str]) -> None:
  """Trains as the flags say."""
  del arguments
  cli.import_tensorflow()  # which the networks' entries need
  run = cli.from_flags(training.TrainConfig)
  optimization = cli.from_flags(training.OptimizationConfig)
  clips = training.make_clips(run.model, run.stream, cli.flag_values(clip_config.TrainClips))
  from i3d_tf.training import trainer

  trainer.train(
    **dataclasses.asdict(run), optimization=optimization, clips=clips, progress=True, flags_text=_flags_text()
  )


def _flags_text() -> str:
  """All flags of this program, in the form of a flagfile."""
  return "".join(f"{flag.serialize()}\n" for flag in FLAGS.get_key_flags_for_module(__name__) if flag.value is not None)


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
