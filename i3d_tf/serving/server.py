"""Runs the service: connections, signals, the order of starting and ending."""

import asyncio
import contextlib
import pathlib
import signal
import socket
import types
from typing import Any

import uvicorn
from uvicorn.protocols.http import h11_impl

from i3d_tf import errors
from i3d_tf import serving
from i3d_tf.serving import app as app_lib
from i3d_tf.serving import guard
from i3d_tf.serving import models
from i3d_tf.serving import service as service_lib
from i3d_tf.video import decode

_CONNECTIONS = 1000  # at the same time
_KEEP_ALIVE = 30  # seconds that a connection may be idle between requests


def run(sources: list[models.Source], config: serving.ServeConfig, *, precision: str = "float32") -> None:
  """Serves networks until SIGTERM or SIGINT, then lets running requests end; SIGHUP loads all networks anew.

  Args:
    sources: The networks.
    config: How they are served.
    precision: Type of convolutions and activations of checkpoints.

  Raises:
    I3dError: If a network cannot be loaded, or the token cannot be used.
    OSError: If the port is taken.
  """
  token = read_token(config.token_file)
  guard.log_to_stderr()
  with contextlib.ExitStack() as stack:
    listening = stack.enter_context(listen(config))  # before networks are loaded
    service = service_lib.Service(
      models.Repository(sources, precision=precision, num_versions=config.num_versions), config
    )
    stack.callback(service.close)
    stack.enter_context(decode.isolated(patience=config.timeout))
    ports = {"port": listening.getsockname()[1]}
    if config.grpc_port is not None:
      from i3d_tf.serving import grpc_service

      grpc_server, ports["grpc_port"] = grpc_service.start(service, token)
      stack.callback(lambda: grpc_server.stop(config.shutdown_timeout).wait())
    server = make_server(service, token)
    guard.log("serving", host=config.host, **ports, models=list(service.repository.names))
    asyncio.run(server.serve(sockets=[listening]))
    guard.log("ended")


def make_server(service: service_lib.Service, token: str | None = None) -> "Server":
  """Returns the HTTP server of a service.

  Args:
    service: The service.
    token: What requests must carry; None: nothing.
  """
  config = service.config
  outer: list[guard.Guard] = []
  app = app_lib.make(service, lambda: not outer[0].is_ending)
  outer.append(guard.Guard(app, config, service.metrics, token))
  protocol = type("_Limited", (_Protocol,), {"patience": config.header_timeout})
  options: Any = {
      "http": protocol, "ws": "none", "lifespan": "off", "log_config": None, "access_log": False,
      "server_header": False, "limit_concurrency": _CONNECTIONS, "timeout_keep_alive": _KEEP_ALIVE,
      "timeout_graceful_shutdown": round(config.shutdown_timeout), "h11_max_incomplete_event_size": 1 << 16,
  }  # fmt: skip
  return Server(uvicorn.Config(outer[0], **options), outer[0], service)


def read_token(path: str | None) -> str | None:
  """Returns the token in a file; None without one.

  Args:
    path: The file, or None.

  Raises:
    I3dError: If it is empty, or has other letters than a header can carry.
    OSError: If it cannot be read.
  """
  if path is None:
    return None
  token = pathlib.Path(path).read_text(encoding="utf-8", errors="replace").strip()
  if not token or not token.isascii() or not token.isprintable() or " " in token:
    raise errors.I3dError(f"{path}: the token must be one word of ASCII letters, digits or signs")
  return token


class Server(uvicorn.Server):
  """A server that ends by itself on signals, and says so to health checks while it does."""

  def __init__(self, config: uvicorn.Config, outer: guard.Guard, service: service_lib.Service):
    """Prepares to serve.

    Args:
      config: As uvicorn takes it.
      outer: The application.
      service: What it serves.
    """
    super().__init__(config)
    self._outer, self._service = outer, service

  def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
    """Begins to end; a second signal ends at once.

    Args:
      sig: The signal.
      frame: Where it came.
    """
    self.force_exit = self.should_exit
    self.should_exit = self._outer.is_ending = True

  async def serve(self, sockets: list[socket.socket] | None = None) -> None:
    """Serves until a signal comes.

    Args:
      sockets: Where to listen.
    """
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in other threads, nor on Windows
      asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_all)
    await super().serve(sockets)

  def _reload_all(self) -> None:
    for name in self._service.repository.names:
      self._service.reload(name)  # which logs how it went


class _Protocol(h11_impl.H11Protocol):
  """HTTP/1.1, of which a request's header must come in time."""

  patience = 10.0

  def connection_made(self, transport: Any) -> None:
    super().connection_made(transport)
    self._expect_header()

  def on_response_complete(self) -> None:
    super().on_response_complete()
    self._expect_header()

  def _expect_header(self) -> None:
    before = self.cycle
    self.loop.call_later(self.patience + (_KEEP_ALIVE if before else 0), self._check_header, before)

  def _check_header(self, before: Any) -> None:
    if self.cycle is before and not self.transport.is_closing():
      self.transport.close()


def listen(config: serving.ServeConfig) -> socket.socket:
  """Returns a socket at the address of a service; asyncio makes it listen.

  Args:
    config: Its host and port.

  Raises:
    I3dError: If that cannot be.
  """
  family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
  listening = socket.socket(family, socket.SOCK_STREAM)
  try:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((config.host, config.port))
  except (OSError, UnicodeError) as error:
    listening.close()
    reason = getattr(error, "strerror", None) or str(error)
    raise errors.I3dError(f"cannot listen at {config.host} port {config.port}: {reason}") from None
  return listening
