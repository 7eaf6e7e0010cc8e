"""One video after the other into an output folder; a video that cannot be used is an entry, and the rest goes on."""

from collections.abc import Callable
import functools
import os
import time

from i3d_tf import errors
from i3d_tf.features import config
from i3d_tf.features import extraction
from i3d_tf.features import profiles
from i3d_tf.features import results
from i3d_tf.features import sources


def extract(
  source: sources.Source,
  extractor: extraction.Extractor,
  folder: results.Folder,
  *,
  on_frames: Callable[[int, int], None] = lambda done, total: None,
) -> results.Entry:
  """Takes a video's features, writes its files, and keeps and returns its entry; see `Extractor.extract`."""
  start = time.monotonic()
  entry = {"input": source.name, "id": source.id}
  try:
    with extractor.extract(source, on_frames=on_frames) as features:
      outputs = folder.write(profiles.LAYOUTS[extractor.options.profile](features))
      entry |= {"outputs": outputs, "frames": features.num_positions, "fps": features.fps}
    entry["seconds"] = round(time.monotonic() - start, 3)
  except errors.I3dError as error:
    entry["error"] = str(error)
  except OSError as error:
    if error.filename is None or os.fspath(error.filename) != source.path:
      raise  # it is the output that cannot be written: no reason to go on
    entry["error"] = errors.describe_os_error(error)
  folder.put(entry)
  return entry


def extract_in_worker(source: sources.Source, *, options: config.Options, output: str) -> str:
  """The same in a process that may not have the networks yet; returns the video's name."""
  return extract(source, _extractor(options), results.Folder(output))["input"]


@functools.cache
def _extractor(options: config.Options) -> extraction.Extractor:
  return extraction.Extractor(options)
