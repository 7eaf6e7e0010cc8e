"""What every request passes: limits, the token, headers for browsers, and its line in the log and the metrics."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
import contextlib
import hmac
import json
import logging
import sys
import time
from typing import Any
import urllib.parse

import prometheus_client
from starlette import exceptions

from i3d_tf import serving

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_log = logging.getLogger("i3d_tf.serving")
_OPEN = ("/", "/app.js", "/style.css", "/healthz")  # without a token
_LINGER = 2.0  # seconds without a byte after which the rest of a refused body is no longer waited for
_HEADERS = {
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-store",
  "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
  "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Metrics:
  """What is counted, for Prometheus."""

  def __init__(self) -> None:
    """Starts at zero."""
    self.registry = prometheus_client.CollectorRegistry()
    self.requests = prometheus_client.Counter("i3d_requests", "Requests.", ["route", "status"], registry=self.registry)
    self.seconds = prometheus_client.Histogram(
      "i3d_request_seconds", "Seconds of requests.", ["route"], registry=self.registry
    )
    self.running = prometheus_client.Gauge(
      "i3d_requests_running", "Requests that are received or computed.", registry=self.registry
    )
    self.waiting = prometheus_client.Gauge(
      "i3d_requests_waiting", "Requests that wait for the network.", registry=self.registry
    )
    self.batch = prometheus_client.Histogram(
      "i3d_batch_clips", "Clips that were computed together.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
    )
    self.network = prometheus_client.Counter(
      "i3d_network_seconds", "Seconds in which batches were computed.", registry=self.registry
    )
    self.video = prometheus_client.Counter(
      "i3d_video_seconds", "Seconds of videos that were analysed.", registry=self.registry
    )

  def on_batch(self, count: int, seconds: float) -> None:
    """Counts a batch.

    Args:
      count: Its clips.
      seconds: How long it took.
    """
    self.batch.observe(count)
    self.network.inc(seconds)

  def text(self) -> bytes:
    """Returns all of it in Prometheus' text format."""
    return prometheus_client.generate_latest(self.registry)


class JsonLines(logging.Formatter):
  """Log records as objects of JSON, one a line."""

  def format(self, record: logging.LogRecord) -> str:
    """Returns the line of a record.

    Args:
      record: The record; its attribute `fields` has further entries.
    """
    content = {"time": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
    content |= getattr(record, "fields", {})
    if record.exc_info:
      content["traceback"] = self.formatException(record.exc_info)
    return json.dumps(content)


def log_to_stderr() -> None:
  """Has the service's records, and warnings of all others, written to stderr as lines of JSON."""
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(JsonLines())
  root = logging.getLogger()
  root.handlers[:] = [handler]
  _log.setLevel(logging.INFO)


def log(event: str, **fields: Any) -> None:
  """Writes a line to the log.

  Args:
    event: What happened.
    **fields: Facts of it.
  """
  _log.info(event, extra={"fields": fields})


class Guard:
  """The outermost application (ASGI)."""

  def __init__(self, app: Any, config: serving.ServeConfig, metrics: Metrics, token: str | None = None):
    """Wraps an application.

    Args:
      app: The application.
      config: The limits.
      metrics: Where requests are counted.
      token: What requests must carry; None: nothing.
    """
    self._app, self._config, self._metrics, self._token = app, config, metrics, token
    self._running = 0
    self.is_ending = False

  async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Handles a connection's request; see ASGI.

    Args:
      scope: What is asked.
      receive: Returns the next message of the client.
      send: Takes the next message to it.
    """
    if scope["type"] != "http":
      if scope["type"] == "lifespan":
        await self._app(scope, receive, send)
      return
    exchange = _Exchange(scope, receive, send, self._config)
    takes_work = scope["method"] == "POST"
    start = time.monotonic()
    refusal = self._refusal(exchange, takes_work)
    try:
      if refusal is not None:
        await exchange.refuse(*refusal)
      elif takes_work:
        await self._run(exchange)
      else:
        await self._app(scope, exchange.receive, exchange.send)
    except exceptions.HTTPException as error:  # of `exchange.receive`, where the application did not answer
      if not exchange.status:
        await exchange.refuse(error.status_code, error.detail)
    except (OSError, asyncio.TimeoutError):  # the client went, or takes nothing
      pass
    finally:
      self._note(exchange, time.monotonic() - start)

  async def _run(self, exchange: "_Exchange") -> None:
    self._running += 1
    self._metrics.running.set(self._running)
    try:
      await self._app(exchange.scope, exchange.receive, exchange.send)
    finally:
      self._running -= 1
      self._metrics.running.set(self._running)

  def _refusal(self, exchange: "_Exchange", takes_work: bool) -> tuple[int, str] | None:
    """Status and sentence for a request that is not taken."""
    headers, path = exchange.headers, exchange.scope["path"]
    host = headers.get("host", "")
    if self._config.is_local and urllib.parse.urlsplit(f"//{host}").hostname not in serving.LOOPBACK:
      return 421, "this service is for this machine only; its address is localhost"  # a page elsewhere may be at work
    origin = headers.get("origin")
    if origin is not None and takes_work and urllib.parse.urlsplit(origin).netloc != host:
      return 403, "pages of other sites may not use this service"
    if self._token is not None and path not in _OPEN:
      given = headers.get("authorization", "").removeprefix("Bearer ")
      if not hmac.compare_digest(given.encode(), self._token.encode()):
        return 401, "this service needs a token: Authorization: Bearer TOKEN"
    if headers.get("content-encoding", "identity") != "identity":
      return 415, "compressed bodies are not taken"
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > self._config.max_bytes:
      return 413, f"the request has more than {self._config.max_bytes:,} bytes, which is the most that is taken"
    if takes_work and self.is_ending:
      return 503, "the service ends; try again later"
    if takes_work and self._running >= self._config.queue:
      return 429, "the service is busy; try again later"
    return None

  def _note(self, exchange: "_Exchange", seconds: float) -> None:
    route = getattr(exchange.scope.get("route"), "path", "none")
    status = exchange.status or 499  # the client went before it was answered
    self._metrics.requests.labels(route, str(status)).inc()
    self._metrics.seconds.labels(route).observe(seconds)
    client = exchange.scope.get("client") or ("",)
    log(
        "request", method=exchange.scope["method"], path=exchange.scope["path"][:200], status=status,
        seconds=round(seconds, 4), received=exchange.received, sent=exchange.sent, client=client[0],
    )  # fmt: skip


class _Exchange:
  """One request and its answer, counted and limited."""

  def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, config: serving.ServeConfig):
    self.scope, self._receive, self._send, self._config = scope, receive, send, config
    self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    self.status = self.received = self.sent = 0
    self._is_whole = False
    self._until = time.monotonic() + config.upload_timeout

  async def receive(self) -> Message:
    """The next message; the body must come in time, and have no more bytes than are taken."""
    if self._is_whole:
      return await self._receive()
    try:
      message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
    except asyncio.TimeoutError:
      raise exceptions.HTTPException(408, "the request's body did not come in time") from None
    if message["type"] == "http.request":
      self._is_whole = not message.get("more_body", False)
      self.received += len(message.get("body", b""))
      if self.received > self._config.max_bytes:
        raise exceptions.HTTPException(
          413, f"the request has more than {self._config.max_bytes:,} bytes, which is the most that is taken"
        )
    return message

  async def send(self, message: Message) -> None:
    """Sends a message, with headers for browsers; the client must take it in time."""
    if message["type"] == "http.response.start":
      self.status = message["status"]
      given = {name.lower() for name, _ in message.get("headers", ())}
      own = [(name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in given]
      if self.status in (429, 503):
        own.append((b"retry-after", b"1"))
      message = {**message, "headers": [*message.get("headers", ()), *own]}
    self.sent += len(message.get("body", b""))
    await asyncio.wait_for(self._send(message), self._config.upload_timeout)

  async def refuse(self, status: int, sentence: str) -> None:
    """Answers with an error, after what is left of the body is thrown away: few clients read before they have sent."""
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
      headers.append((b"www-authenticate", b"Bearer"))
    with contextlib.suppress(asyncio.TimeoutError):
      await self._throw_away()
    if not self._is_whole:
      headers.append((b"connection", b"close"))
    await self.send({"type": "http.response.start", "status": status, "headers": headers})
    await self.send({"type": "http.response.body", "body": body})

  async def _throw_away(self) -> None:
    until, most = max(self._until, time.monotonic() + _LINGER), self.received + self._config.max_bytes
    while not self._is_whole and self.received <= most and self.headers.get("expect", "") != "100-continue":
      message = await asyncio.wait_for(self._receive(), min(_LINGER, max(0.0, until - time.monotonic())))
      self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)
      self.received += len(message.get("body", b""))
