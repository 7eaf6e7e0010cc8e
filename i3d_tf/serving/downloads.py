"""Videos by URL: from hosts that were allowed only, and never from private addresses that were not named."""

import http.client
import ipaddress
import socket
import ssl
from typing import IO
import urllib.parse

from i3d_tf import errors
from i3d_tf import serving
from i3d_tf.serving import videos

_PORTS = {"http": 80, "https": 443}
_PATIENCE = 10.0  # seconds for a connection, or for the next bytes


def fetch(url: str, file: IO[bytes], config: serving.ServeConfig, watch: videos.Watch) -> str:
  """Writes what is at a URL to a file. Redirects are not followed.

  The host's address is looked up once, checked, and connected to, so that no second look-up finds another one.

  Args:
    url: The address, http or https.
    file: To write to.
    config: Which hosts are allowed, and how many bytes.
    watch: Says when to stop.

  Returns:
    The last part of the URL's path, as a name.

  Raises:
    I3dError: If the host is not allowed, does not answer, or sends something else or too much.
  """
  parts, port = _checked(url, config)
  host = parts.hostname or ""
  address = _address(host, port, is_named=host in config.url_hosts)
  path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
  try:
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    connection.sock = socket.create_connection((address, port), timeout=_PATIENCE)
    if parts.scheme == "https":
      connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
    try:
      connection.request("GET", path, headers={"User-Agent": "i3d_tf", "Accept-Encoding": "identity"})
      response = connection.getresponse()
      if response.status != 200:
        raise errors.I3dError(f"{host} answers with the status {response.status}; redirects are not followed")
      _copy(response, file, config, watch)
    finally:
      connection.close()
  except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
    if isinstance(error, errors.I3dError):
      raise
    raise errors.I3dError(f"the video cannot be fetched from {host}: {type(error).__name__}") from None
  return videos.safe_name(urllib.parse.unquote(parts.path))


def _checked(url: str, config: serving.ServeConfig) -> tuple[urllib.parse.SplitResult, int]:
  if not config.url_hosts:
    raise errors.I3dError("this service fetches no videos by URL; upload the file")
  try:
    parts = urllib.parse.urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme, 0)
    host = parts.hostname
  except ValueError:
    raise errors.I3dError("the URL is malformed") from None
  if parts.scheme not in _PORTS or not host or parts.username is not None or not url.isascii() or not url.isprintable():
    raise errors.I3dError("the URL must be http://HOST/PATH or https://HOST/PATH, in ASCII, without user and password")
  if host not in config.url_hosts and serving.ANY_HOST not in config.url_hosts:
    raise errors.I3dError("this service fetches no videos from that host; upload the file")
  return parts, port


def _address(host: str, port: int, *, is_named: bool) -> str:
  try:
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
  except (OSError, UnicodeError):
    raise errors.I3dError(f"there is no host {host}") from None
  if not is_named and not all(map(_is_public, found)):
    raise errors.I3dError("this service fetches no videos from private addresses; upload the file")
  return found[0]


def _is_public(text: str) -> bool:
  address = ipaddress.ip_address(text.partition("%")[0])
  inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
  return address.is_global and inner.is_global and not (address.is_multicast or address.is_reserved)


def _copy(
  response: http.client.HTTPResponse, file: IO[bytes], config: serving.ServeConfig, watch: videos.Watch
) -> None:
  count = 0
  while piece := response.read1(serving.PIECE):
    watch.check()
    count += len(piece)
    if count > config.max_bytes:
      raise errors.I3dError(f"the video has more than {config.max_bytes:,} bytes, which is the most that is taken")
    file.write(piece)
