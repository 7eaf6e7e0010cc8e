"""What the service does, whatever the protocol: predictions in batches, and videos in threads of their own."""

from collections.abc import Mapping
from concurrent import futures
import contextlib
import functools
import os
import shutil
import tempfile
from typing import Any, IO

import numpy as np

from i3d_tf import errors
from i3d_tf import serving
from i3d_tf.serving import batching
from i3d_tf.serving import downloads
from i3d_tf.serving import guard
from i3d_tf.serving import models
from i3d_tf.serving import rest
from i3d_tf.serving import videos


class Service:
  """Networks, and what computes them.

  Attributes:
    config: How networks are served.
    repository: The networks.
    metrics: What is counted.
  """

  def __init__(self, repository: models.Repository, config: serving.ServeConfig):
    """Starts the threads.

    Args:
      repository: The networks.
      config: How they are served.
    """
    self.repository, self.config, self.metrics = repository, config, guard.Metrics()
    self._batcher = batching.Batcher(
      capacity=config.queue, max_batch=config.max_batch, delay=config.batch_delay, on_batch=self.metrics.on_batch
    )
    self.metrics.waiting.set_function(lambda: self._batcher.waiting)
    # Parsing holds the interpreter's lock, so that more threads would not be faster, but take more memory.
    self._parsers = futures.ThreadPoolExecutor(1, "parse")
    self._videos = futures.ThreadPoolExecutor(config.video_workers, "video")
    self._loaders = futures.ThreadPoolExecutor(1, "load")

  def close(self) -> None:
    """Ends the threads after what they do at the moment."""
    for pool in (self._parsers, self._videos, self._loaders):
      pool.shutdown(cancel_futures=True)
    self._batcher.close()

  def submit(
    self, signature: models.ServedSignature, inputs: Mapping[str, np.ndarray], seconds: float | None = None
  ) -> futures.Future:
    """Has a signature computed in a batch.

    Args:
      signature: The signature.
      inputs: Its inputs, checked by it.
      seconds: In which; None: as configured.

    Returns:
      The outputs to come, arrays by name.

    Raises:
      I3dError: If they exceed the limits.
      Busy: If too many wait.
    """
    rest.check(inputs, signature, self.config)
    return self._batcher.submit(signature.function, inputs, seconds=seconds or self.config.timeout)

  def parse(self, body: bytes, name: str, version: int | None) -> futures.Future:
    """Has a predict request read.

    Args:
      body: Its JSON text.
      name: The network's name.
      version: Its version; None: the newest.

    Returns:
      What `rest.parse` returns, to come.
    """
    return self._parsers.submit(lambda: rest.parse(body, self.repository.get(name, version)))

  def analyse(
    self, source: IO[bytes] | str, request: Mapping[str, Any], model: models.ServedModel, watch: videos.Watch
  ) -> futures.Future:
    """Has a video analysed.

    Args:
      source: The file, or a URL.
      request: Fields of `videos.Request`, but its path.
      model: The network.
      watch: Says when to stop.

    Returns:
      What `videos.respond` returns, to come.
    """
    return self._videos.submit(functools.partial(self._analyse, source, dict(request), model, watch))

  def _analyse(
    self, source: IO[bytes] | str, request: dict[str, Any], model: models.ServedModel, watch: videos.Watch
  ) -> Any:
    watch.check()
    # The client's name for the file is no part of any path.
    with tempfile.NamedTemporaryFile(prefix="i3d_tf.", delete=False) as file:
      try:
        if isinstance(source, str):
          request["name"] = downloads.fetch(source, file, self.config, watch)
        else:
          source.seek(0)
          shutil.copyfileobj(source, file, serving.PIECE)
        file.close()
        found = videos.respond(videos.Request(path=file.name, **request), model, self.config, watch)
      finally:
        with contextlib.suppress(OSError):
          os.unlink(file.name)
    if isinstance(found, dict):
      self.metrics.video.inc(found["seconds"])
    return found

  def reload(self, name: str) -> futures.Future:
    """Has a network loaded anew.

    Args:
      name: Its name.

    Returns:
      The versions that are served then, to come.
    """
    return self._loaders.submit(self._reload, name)

  def _reload(self, name: str) -> list[int]:
    try:
      versions = self.repository.reload(name)
    except errors.OF_INPUT as error:
      guard.log("reload failed", model=name, error=errors.describe(error))
      raise
    guard.log("reloaded", model=name, versions=versions)
    return versions
