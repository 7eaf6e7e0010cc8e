"""Inflates Inception-v1 to I3D. See `--help`."""

from absl import flags

from i3d_tf import cli
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
flags.DEFINE_string("to", None, "Folder to write to, new or empty.", required=True)
cli.define_flags(inflation.InflationConfig, group="Inflation", unset={"stream": "that of the old network"})


def main(arguments: list[str]) -> None:
  """Inflates the network that the flags name, and prints what was written."""
  del arguments
  cli.import_tensorflow()
  from i3d_tf.weights import initialization

  source, folder, config = FLAGS["from"].value, FLAGS["to"].value, cli.from_flags(inflation.InflationConfig)
  written = initialization.write_inflated(source, folder, config)
  print(
    f"{folder}: I3D for {written.stream} without a classifier, {written.num_variables} variables with "
    f"{written.num_values} values, inflated from {source} by {config.mode}"
  )


def run() -> None:
  """Runs the program; the console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
