"""Renders a small labelled data set of made action clips. See `--help`."""

from absl import flags

from i3d_tf import cli
from i3d_tf.data import synthetic

USAGE = f"""Renders a small data set of made action clips, whose classes differ in motion only, as video files.

  python -m i3d_tf.make_synthetic --output=synthetic

The classes are {", ".join(synthetic.CLASSES[synthetic.MOTION])}; one frame tells nothing of them. With
--differ_in=appearance they are looks of the moving objects, which one frame tells:
{", ".join(synthetic.CLASSES[synthetic.APPEARANCE][:5])},
{", ".join(synthetic.CLASSES[synthetic.APPEARANCE][5:])}.

Clips are written to OUTPUT/<split>/<class>/, the layout that --dataset=folder reads. The same flags give the same
clips. What an interrupted call has written is kept by the next."""

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "Folder to write to; it is made if it is not there.", required=True)
flags.DEFINE_enum("differ_in", synthetic.MOTION, list(synthetic.CLASSES), "What the classes differ in.")
flags.DEFINE_integer("seed", 0, "Draws all that does not tell the class; another gives other clips.", lower_bound=0)
flags.DEFINE_integer("train_clips", synthetic.CLIPS_PER_CLASS["train"], "Clips a class for training.", lower_bound=0)
flags.DEFINE_integer("val_clips", 0, "Clips a class for validation.", lower_bound=0)
flags.DEFINE_integer("test_clips", synthetic.CLIPS_PER_CLASS["test"], "Clips a class for testing.", lower_bound=0)
flags.DEFINE_integer("num_frames", synthetic.NUM_FRAMES, "Frames of a clip.", lower_bound=1)
flags.DEFINE_integer("height", synthetic.SIZE[0], "Height of the frames in pixels.", lower_bound=synthetic.MIN_SIDE)
flags.DEFINE_integer("width", synthetic.SIZE[1], "Width of the frames in pixels.", lower_bound=synthetic.MIN_SIDE)
flags.DEFINE_integer("fps", synthetic.FPS, "Frames per second; motion is as fast at any rate.", lower_bound=1)


def main(arguments: list[str]) -> int:
  """Renders the data set that the flags describe, and prints what it holds."""
  del arguments
  counts = {"train": FLAGS.train_clips, "val": FLAGS.val_clips, "test": FLAGS.test_clips}
  paths = synthetic.write_dataset(
    FLAGS.output,
    differ_in=FLAGS.differ_in,
    clips_per_class=counts,
    seed=FLAGS.seed,
    num_frames=FLAGS.num_frames,
    size=(FLAGS.height, FLAGS.width),
    fps=FLAGS.fps,
    progress=True,
  )
  by_split = ", ".join(f"{count} for {split}" for split, count in counts.items() if count)
  num_classes = len(synthetic.CLASSES[FLAGS.differ_in])
  print(f"{FLAGS.output}: {len(paths)} clips of {num_classes} classes; of each class {by_split}")
  return 0


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
