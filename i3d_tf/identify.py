"""Tells how files of features were made. See `--help`."""

from absl import flags

from i3d_tf import cli
from i3d_tf import errors

USAGE = """Tells which protocol made files of features: preset, stream, layer, window, rate, resizing and crop.

  python -m i3d_tf.identify video.mp4 features.npy --rgb_checkpoint=rgb_imagenet --flow_checkpoint=flow_imagenet

The first word is the video, the others are files of its features (.npy, or .npz with features or feature). The number
of rows and their shape leave a few candidates. With weights, the first row of each is computed, and the first --rows
rows of the nearest: the ranking shows the mean cosine and the mean difference, relative to the values. A difference of
at most 0.003 is called the same. Features of one video are alike, whatever made them; so nearly the same is only what
explains half of the rows' variance, and differs by decoding, resizing or the method of optical flow. Otherwise it is
none of these, or the weights are others. Then comes the command that makes the same. The exit status is 0 if every file
is explained (without weights, if there are candidates)."""

FLAGS = flags.FLAGS
flags.DEFINE_string("rgb_checkpoint", None, "RGB weights: a released name or a path. Default: none.")
flags.DEFINE_string("flow_checkpoint", None, "Flow weights, likewise.")
flags.DEFINE_integer("rows", 3, "Rows from the first on that are computed and compared.", lower_bound=1)
flags.DEFINE_integer("show", 10, "Candidates to print.", lower_bound=1)
flags.DEFINE_float("frame_rate", 25.0, "Frames per second of folders of images and of .npy clips.", lower_bound=0.1)
cli.define_device_flags()


def main(arguments: list[str]) -> int:
  """Prints what can be said of each file, and returns whether one is not explained."""
  if len(arguments) < 2:
    raise errors.I3dError("name the video, then one or more files of its features; see --help")
  cli.import_tensorflow()
  from i3d_tf.features import identification

  video, *paths = arguments
  return int(not all([_identify(video, identification.read(path), identification) for path in paths]))


def _identify(video: str, given, identification) -> bool:
  print(given)
  candidates = identification.by_shape(given, video, frame_rate=FLAGS.frame_rate)
  if not candidates:
    print("  none of these: no preset, and no window that is tried, gives so many values of the video")
    return False
  weights = {"rgb": FLAGS.rgb_checkpoint, "flow": FLAGS.flow_checkpoint}
  weights = {stream: path for stream, path in weights.items() if path is not None}
  if not weights:
    _show(candidates)
    print("  by count and shape only; --rgb_checkpoint and --flow_checkpoint tell them apart")
    return True
  ranked = identification.by_values(
    given, video, candidates, weights, num_rows=FLAGS.rows, frame_rate=FLAGS.frame_rate, progress=True
  )
  _show(ranked)
  if left_out := len(candidates) - len(ranked):
    print(f"  {left_out} candidates were not compared: their weights are not given, or one before them is the same")
  verdict = identification.verdict(ranked)
  print(f"  {verdict}")
  if not identification.is_explained(ranked):
    return False
  print(f"  {ranked[0].command(video)}")
  if (crop := ranked[0].crop) is not None and ranked[0].options.crops > 1:
    print(f"  of these the crop number {ranked[0].options.order.index(crop)}, counted from 0")
  return True


def _show(candidates: list) -> None:
  for each in candidates[: FLAGS.show]:
    print(f"  {each}")
  if len(candidates) > FLAGS.show:
    print(f"  and {len(candidates) - FLAGS.show} more")


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
