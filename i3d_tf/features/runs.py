"""One video after the other into an output folder; a video that cannot be used is an entry, and the rest goes on."""

from collections.abc import Mapping
import dataclasses
import functools
import os
import time
from typing import Any

import numpy as np
import tqdm

from i3d_tf import errors
from i3d_tf.features import config as config_lib
from i3d_tf.features import extraction
from i3d_tf.features import profiles
from i3d_tf.features import results
from i3d_tf.features import sources
from i3d_tf.input import clip_config
from i3d_tf.weights import saved


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFeatures:
  """Features of one video in memory.

  Attributes:
    features: By stream ('rgb', 'flow' or 'joint') and endpoint, float32 `[N, ...]` of N windows, or of several crops
      `[N, crops, ...]`; of a window of all, N steps.
    timestamps: By stream and endpoint, float64 seconds into the video of the middle of what the values see.
    fps: Frames per second after resampling.
    num_frames: Frames, or flow fields, that were seen.
    config: How they were taken.
    notes: What was done with the video's frames, see `decode.iter_frames`.
  """

  features: Mapping[str, Mapping[str, np.ndarray]]
  timestamps: Mapping[str, Mapping[str, np.ndarray]]
  fps: float
  num_frames: int
  config: config_lib.FeatureConfig
  notes: tuple[str, ...] = ()

  def __getitem__(self, stream: str) -> Mapping[str, np.ndarray]:
    return self.features[stream]


def extract_features(
  video: str | os.PathLike,
  checkpoint: str | os.PathLike | Mapping[str, str | os.PathLike] | extraction.Extractor = "rgb_imagenet",
  *,
  progress: bool = False,
  **options: Any,
) -> VideoFeatures:
  """Extracts the features of a video.

  Args:
    video: A video file, or one of records that holds a single video.
    checkpoint: Weights of any network: a released name, a path, or a run of train; by 'rgb' and 'flow' for both; or an
      `Extractor`, which saves loading them for every video.
    progress: Whether to show a progress bar on stderr.
    **options: Fields of `config.FeatureConfig`, such as endpoints, window, hop, crops, pooling and fps. The window can
      be 'all', for the whole video in exact chunks.

  Returns:
    What `extract_features --profile=ours` writes to files.

  Raises:
    VideoError: If the video cannot be read whole, or is too short.
    I3dError: If the options or networks do not fit.
    CheckpointError, DownloadError: If a checkpoint cannot be loaded.
  """
  if isinstance(checkpoint, extraction.Extractor):
    if options:
      raise errors.I3dError(f"{next(iter(options))} is given, but the extractor has its own options")
    extractor = checkpoint
  else:
    extractor = extraction.Extractor(_config(checkpoint, options))
  found = sources.list_sources([video])
  if len(found) != 1:
    raise errors.I3dError(f"{video} holds {len(found)} videos; give one, or use the program extract_features")
  with (
    tqdm.tqdm(unit="frame", disable=not progress) as bar,
    extractor.extract(found[0], on_frames=functools.partial(_show, bar)) as features,
  ):
    many = extractor.options.crops > 1
    arrays = {
      stream: {name: array.load() if many else array.load()[:, 0] for name, array in by_endpoint.items()}
      for stream, by_endpoint in features.arrays.items()
    }
    times = {name: features.timestamps(name) for name in extractor.options.endpoints}
    return VideoFeatures(
      arrays,
      dict.fromkeys(arrays, times),
      features.fps,
      features.num_positions,
      extractor.options,
      features.notes,
    )


def _config(checkpoint: Any, options: dict[str, Any]) -> config_lib.FeatureConfig:
  if options.get("window") == "all":
    options = {**options, "window": config_lib.ALL}
  if not isinstance(checkpoint, Mapping):
    checkpoint = {saved.read(checkpoint)[1].stream: checkpoint}
  named = {f"{stream}_checkpoint": os.fspath(path) for stream, path in checkpoint.items()}
  streams = tuple(checkpoint) if "joint" not in checkpoint else clip_config.STREAMS
  return config_lib.FeatureConfig(**named, **{"streams": streams, **options})


def extract(
  source: sources.Source, extractor: extraction.Extractor, folder: results.Folder, *, bar: tqdm.tqdm | None = None
) -> results.Entry:
  """Extracts a video's features into files. A video that cannot be used is an entry, too.

  Args:
    source: The video.
    extractor: The networks.
    folder: Where the files and the entry go.
    bar: Progress bar to move.

  Returns:
    The entry.

  Raises:
    OSError: If the output cannot be written.
  """
  start = time.monotonic()
  entry: results.Entry = {"input": source.name, "id": source.id}
  try:
    with extractor.extract(source, on_frames=functools.partial(_show, bar)) as features:
      outputs = folder.write(profiles.PROFILES[extractor.options.profile].files(features))
      entry |= {"outputs": outputs, "frames": features.num_positions, "fps": features.fps}
      if features.notes:
        entry["notes"] = list(features.notes)
    entry["seconds"] = round(time.monotonic() - start, 3)
  except errors.I3dError as error:
    entry["error"] = str(error)
  except OSError as error:
    if error.filename is None or os.fspath(error.filename) != source.path:
      raise  # it is the output that cannot be written: no reason to go on
    entry["error"] = errors.describe_os_error(error)
  folder.put(entry)
  return entry


def extract_in_worker(source: sources.Source, *, options: config_lib.FeatureConfig, output: str) -> str:
  """Does the same in a process that may not have the networks yet.

  Args:
    source: The video.
    options: What is taken.
    output: Path of the output folder.

  Returns:
    The video's name.
  """
  return extract(source, _extractor(options), results.Folder(output))["input"]


@functools.cache
def _extractor(options: config_lib.FeatureConfig) -> extraction.Extractor:
  return extraction.Extractor(options)


def _show(bar: tqdm.tqdm | None, done: int, total: int) -> None:
  if bar is not None:
    bar.total = max(done, total)
    bar.update(done - bar.n)
