"""Trained networks as a service over HTTP, and a page to try them; here, how. Imports no TensorFlow."""

import dataclasses

from i3d_tf import errors
from i3d_tf import fields

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY_HOST = "*"
PIECE = 1 << 16  # bytes that are read or written at once
_MOST_LETTERS = 400  # of a message, which may quote a client's name of 60 MB


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
  """How networks are served.

  Attributes:
    host: Address to listen at. Others than 127.0.0.1 can be reached from other machines; give a token_file then, or put
      a proxy in front.
    port: Port of HTTP; 0 takes a free one.
    grpc_port: Port of TensorFlow Serving's gRPC, which needs tensorflow-serving-api; 0 takes a free one.
    token_file: File with a token that requests must carry as `Authorization: Bearer TOKEN`.
    url_hosts: Hosts from which videos may be fetched by URL, or * for any that is no private address.
    queue: Requests that are received, wait or are computed at the same time; further ones get 429 and may try again.
    max_batch: Clips of different requests that are computed together, at most.
    batch_delay: Seconds that a request waits for others to be computed with.
    video_workers: Videos that are read and computed at the same time.
    max_bytes: Bytes of a request's body.
    max_seconds: Seconds of a video; of frames as images, 25 to a second.
    max_pixels: Pixels of a frame.
    timeout: Seconds in which a request is computed, its wait included.
    upload_timeout: Seconds in which a request's body must have come, and a response be taken.
    header_timeout: Seconds in which a request's header must have come.
    shutdown_timeout: Seconds that running requests are given when the service ends.
    num_versions: Newest versions of an exported network that are served, as TensorFlow Serving's folders number them.
    top_k: Classes in each ranking.
  """

  host: str = "127.0.0.1"
  port: int = fields.option(8500, least=0, most=65535)
  grpc_port: int | None = fields.option(None, least=0, most=65535)
  token_file: str | None = None
  url_hosts: tuple[str, ...] = ()
  queue: int = fields.option(16, least=1)
  max_batch: int = fields.option(8, least=1)
  batch_delay: float = fields.option(0.005, least=0, most=10)
  video_workers: int = fields.option(1, least=1)
  max_bytes: int = fields.option(1 << 26, least=1)
  max_seconds: float = fields.option(60.0, above=0)
  max_pixels: int = fields.option(3840 * 2160, least=1)
  timeout: float = fields.option(120.0, above=0)
  upload_timeout: float = fields.option(120.0, above=0)
  header_timeout: float = fields.option(10.0, above=0)
  shutdown_timeout: float = fields.option(30.0, above=0)
  num_versions: int = fields.option(1, least=1)
  top_k: int = fields.option(5, least=1, most=100)

  def __post_init__(self):
    fields.check(self)

  @property
  def is_local(self) -> bool:
    """Whether only this machine reaches the service."""
    return self.host in LOOPBACK


class Busy(errors.I3dError):
  """There are as many requests as may wait; a later one may be taken."""


class Late(errors.I3dError):
  """A request was not done in its time, or nobody waits for it any more."""


class NotFound(errors.I3dError):
  """There is no such model, version or signature."""


class Unavailable(errors.I3dError):
  """The service ends, or lacks memory at the moment."""


def shorten(sentence: str) -> str:
  """Returns a message that is no longer than a client can be expected to read.

  Args:
    sentence: The message.
  """
  return sentence if len(sentence) <= _MOST_LETTERS else f"{sentence[:_MOST_LETTERS]}…"
