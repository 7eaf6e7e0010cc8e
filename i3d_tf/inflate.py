"""Inflates Inception-v1 to I3D. See `--help`."""

from absl import flags

from i3d_tf import cli
from i3d_tf.input import clip_config
from i3d_tf.models import inflation

USAGE = """Inflates the weights of an Inception-v1, a network of images, to I3D's (arXiv 1705.07750, section 2.4).

  python -m i3d_tf.inflate --from=inception_v1 --to=inflated_rgb
  python -m i3d_tf.inflate --from=inception_v1 --to=inflated_flow --stream=flow

The folder then holds I3D without a classifier; train starts from it with --initial_checkpoint=FOLDER and a new
classifier. (By itself, --initial_checkpoint=inception_v1 does the same as --mode=mean.)"""

FLAGS = flags.FLAGS
flags.DEFINE_string(
  "from",
  None,
  "The Inception-v1: the name inception_v1, which is fetched to the cache if it is not there; a checkpoint in "
  "TF-slim's layout; or a run of train --model=inception_v1.",
  required=True,
)
flags.DEFINE_string("to", None, "Folder to write to, a new or an empty one.", required=True)
flags.DEFINE_enum(
  "stream",
  None,
  clip_config.STREAMS,
  "What the new network will see. If that has other channels than the old one's input, each gets the first kernel's "
  "mean over its inputs. Default: what the old one saw.",
)
flags.DEFINE_enum(
  "mode",
  "mean",
  inflation.MODES,
  "mean: each of N steps of a kernel is the old one divided by N (the paper's). center: the middle step is the old "
  "one, the others are 0.",
)
flags.DEFINE_bool(
  "rescale_first_kernel",
  False,
  "With other channels: multiply the first kernel by their old number divided by the new one, so that its response "
  "to equal inputs stays.",
)


def main(arguments: list[str]) -> None:
  del arguments
  cli.import_tensorflow()
  from i3d_tf.weights import initialization

  source, folder, options = FLAGS["from"].value, FLAGS.to, cli.from_flags(initialization.Inflation)
  written = initialization.write_inflated(source, folder, options)
  print(
    f"{folder}: I3D for {written.stream} without a classifier, {written.num_variables} variables with "
    f"{written.num_values} values, inflated from {source} by {options.mode}"
  )


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
