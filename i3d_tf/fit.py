"""Makes a network of a folder of videos. See `--help`."""

import shlex

from absl import flags

from i3d_tf import cli
from i3d_tf import fitting
from i3d_tf.models import preprocess

USAGE = """Makes a network and its report of your videos, one folder a class, in one command.

  python -m i3d_tf.fit --videos=my_videos --output=runs/mine

my_videos/waving/a.mp4 is of the class waving; folders train, val and test (in any spelling) above the classes are kept
apart as they are. In place of a folder, a CSV file of path,label, perhaps with the columns split and group.

Each video is looked at once by a released network (--rgb_checkpoint), and a classifier is fitted on what that gives.
The accuracy is that of clips that were not trained on, in folds; clips that were cut from one recording are kept
together where their names tell (v_Run_g07_c02, seq03), or as --split_group says. It is printed beside what a
classifier gets that sees nothing but the sizes and lengths of the files.

The output is a run as train makes one, and all programs take it as a checkpoint:
  python -m i3d_tf.classify --video=new.mp4 --rgb_checkpoint=runs/mine

The run also holds report.html, one file with the accuracy and what it is worth, labels to look at, and clips that look
alike; report.json; and predictions.csv. A run can be stopped or killed at any moment: started again with the same flags
it goes on, and ends with the same result; with another split, or more videos, it does only what is new. Videos that
cannot be read are named and left out; the exit status is 1 then.

--streams=rgb,flow makes a second network, of optical flow, in runs/mine/flow, and also tells the accuracy of both
together. It starts from --flow_checkpoint, or else from the RGB weights, which know nothing of flow. An RGB run that is
there goes on with flow alone.

--streams=rgb,audio (or rgb,flow,audio) also listens: a linear classifier of the sound's log-mel spectrogram is a stream
of its own, in runs/mine/audio, which evaluate takes with records that have audio. No trained network of sound is used.

--depth=mixed_5 or all goes on to train the last blocks, or all of the network, from there; that takes from minutes to
hours. Every setting that is chosen for it is printed with its reason, and has a flag."""

_TRAINING = ("batch_size", "num_steps", "learning_rate", "num_frames")

FLAGS = flags.FLAGS
cli.define_flags(fitting.FitConfig, group="Data and results", names=("videos", "output"), required=("videos", "output"))
cli.define_flags(
    fitting.FitConfig, group="Network",
    names=("streams", "rgb_checkpoint", "flow_checkpoint", "flow", "flow_params", "precision"),
    unset={"rgb_checkpoint": "rgb_imagenet or rgb_scratch", "flow_checkpoint": "flow_imagenet, or RGB's"},
)  # fmt: skip
cli.define_device_flags()
cli.define_flags(
    fitting.FitConfig, group="Split and report",
    names=(
        "protocol", "num_folds", "split_group", "split_block", "split_scenes", "precision_wanted", "seed",
        "retry_failures",
    ),
    unset={"split_group": "guessed", "split_block": "no blocks"},
)  # fmt: skip
cli.define_flags(
    fitting.FitConfig, group="Training", names=("depth", *_TRAINING), unset=dict.fromkeys(_TRAINING, "chosen")
)  # fmt: skip


def main(arguments: list[str]) -> int:
  """Fits as the flags say, and prints what was found."""
  del arguments
  config = cli.from_flags(fitting.FitConfig)
  cli.import_tensorflow()
  import tqdm

  from i3d_tf.fitting import fitter
  from i3d_tf.video import decode

  with decode.isolated():
    found = fitter.fit(config, progress=True, say=lambda message: tqdm.tqdm.write(cli.as_flags(message)))
  words = {stream: f"--{stream}_checkpoint={shlex.quote(str(path))}" for stream, path in found.networks.items()}
  networks = " ".join(word for stream, word in words.items() if stream != preprocess.AUDIO)
  streams = {"rgb": "", "flow": " --streams=flow"}.get("+".join(config.networks), " --streams=joint")
  print(f"To use it: python -m i3d_tf.classify --video=VIDEO{streams} {networks}")
  if preprocess.AUDIO in words:
    print(f"With sound: python -m i3d_tf.evaluate --records=RECORDS --output=DIR {networks} {words[preprocess.AUDIO]}")
  print(found.report_path)
  if found.failures:
    return cli.fail(f"videos that could not be used: {len(found.failures)}; {found.report_path.name} names them")
  return 0


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
