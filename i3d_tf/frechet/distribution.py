"""Embeddings of a set, computed by the workers of a runner; a task is as many videos as a network takes clips."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import threading
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import runners
from i3d_tf import workdir
from i3d_tf.features import results
from i3d_tf.frechet import clips as clips_lib
from i3d_tf.frechet import embedding
from i3d_tf.frechet import protocols
from i3d_tf.video import decode

_INFO, _FACTS = "embeddings.json", "facts"


@dataclasses.dataclass(frozen=True)
class Work:
  """Where a set is embedded.

  Attributes:
    runner: From `runners.create`.
    folder: A folder that the workers see under this path; embeddings stay there, and are not computed again.
  """

  runner: runners.Runner
  folder: str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How clips are taken and embedded; is pickled to the workers."""

  protocol: protocols.Protocol
  config: protocols.FvdConfig
  set_name: str
  checkpoints: tuple[tuple[str, str], ...]


def groups(sources: Iterable[clips_lib.Source], size: int) -> Iterator[tuple[clips_lib.Source, ...]]:
  """Yields the videos whose clips are embedded together, wherever that is done.

  The last digits of an embedding depend on its batch; so batches do not reach over videos that one worker has.

  Args:
    sources: The videos.
    size: Their number in a group.
  """
  iterator = iter(sources)
  while group := tuple(itertools.islice(iterator, size)):
    yield group


def batches(
  group: Sequence[clips_lib.Source], reader: clips_lib.ClipReader, size: int, on_failure: Callable[[str], None]
) -> Iterator[list[np.ndarray]]:
  """Yields batches of the clips of a group's videos that can be used.

  Args:
    group: The videos.
    reader: Takes the clips.
    size: Clips that a network takes at once.
    on_failure: Called with a sentence for each video that cannot be used.
  """
  batch: list[np.ndarray] = []
  for source in group:
    try:
      clips = reader.read(source)
    except errors.StoreError:
      raise
    except errors.OF_INPUT as error:
      on_failure(errors.naming(source.where, errors.describe(error)))
      continue
    for clip in clips:
      batch.append(clip)
      if len(batch) == size:
        yield batch
        batch = []
  if batch:
    yield batch


def embed(
  work: Work, sources: Sequence[clips_lib.Source], recipe: Recipe, meaning: Any
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
  """Yields the embeddings of a set, group by group, after the workers have made those that are not there.

  Args:
    work: Where.
    sources: The videos, each a file or a folder of images.
    recipe: How.
    meaning: What the embeddings depend on beside the recipe and the videos; for JSON.

  Yields:
    Of each group the embeddings by stream, float32 `[clips, D]`, and its 'failures', a sentence a video, and 'remarks'.

  Raises:
    I3dError: If videos are arrays, or the runner fails.
  """
  if any(source.path is None for source in sources):
    raise errors.I3dError("the workers of a runner take videos and folders of images; arrays are embedded here only")
  how = dataclasses.asdict(dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, resamples=0)))
  videos = [(source.name, source.draws, results.content_of(str(source.path)).facts()) for source in sources]
  digest = hashlib.sha256(json.dumps([how, meaning, videos], default=str).encode()).hexdigest()[:16]
  folder = workdir.Workdir(work.folder, _INFO, section=None, foreign=("*",), in_stores=True)
  named = {folder.path / f"{digest}-{n:06}.npz": group for n, group in enumerate(groups(sources, recipe.config.batch))}

  def left() -> list[tuple[str, Sequence[clips_lib.Source]]]:
    held = set(folder.path.glob("*.npz"))
    return [(str(path), group) for path, group in named.items() if path not in held]

  with folder.claim({"what": "embeddings of fvd"}):
    task = functools.partial(_embed, recipe=recipe)
    runners.finish(work.runner, task, left, work=folder.work, unit="group of videos", folder=folder.path)
    for path in named:
      arrays = files.read_arrays(path)
      facts = files.read_facts(arrays, _FACTS, path)
      yield arrays, facts


def _embed(task: tuple[str, Sequence[clips_lib.Source]], *, recipe: Recipe) -> None:
  path, group = task
  with _loading:
    embedder = _embedder(recipe)
  reader, failures = clips_lib.ClipReader(recipe.protocol, recipe.config, recipe.set_name), list[str]()
  with decode.isolated():
    done = [embedder.embed(batch) for batch in batches(group, reader, recipe.config.batch, failures.append)]
  arrays = {stream: np.concatenate([each[stream] for each in done]) for stream in embedder.streams} if done else {}
  facts = json.dumps({"failures": failures, "remarks": reader.remarks})
  with workdir.replacing(path) as file:
    np.savez(file, allow_pickle=False, **arrays, **{_FACTS: np.array(facts)})


_loading = threading.Lock()


@functools.cache
def _embedder(recipe: Recipe) -> embedding.Embedder:
  config, rule = recipe.config, recipe.protocol.resize
  return embedding.Embedder(dict(recipe.checkpoints), batch=config.batch, flow_config=config, resize_rule=rule)
