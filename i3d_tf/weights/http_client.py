"""Bringing one file: from the web, resumed where it broke off, or from a folder of the user's."""

import http.client
import pathlib
import shutil
from typing import BinaryIO
import urllib.error
import urllib.request

import tqdm

from i3d_tf import errors

_TIMEOUT_SECONDS = 20
_BLOCK_BYTES = 1 << 18


def fetch(url: str, path: pathlib.Path, description: str) -> None:
  """Downloads `url` to `path`, unless that is there.

  What has come stands in PATH.part. A broken transfer is resumed from there for as long as attempts bring more, and
  then by the next call.

  Args:
    url: http, https or any other address that urllib opens.
    path: of the file to write.
    description: its name in the progress bar.

  Raises:
    DownloadError: if the server cannot be reached or does not send the whole.
    OSError: if the file cannot be written.
  """
  if path.exists():
    return
  part = path.with_name(f"{path.name}.part")
  while True:
    have = size(part)
    try:
      _attempt(url, part, have, description)
      break
    except errors.DownloadError:
      if size(part) <= have:
        raise
  part.rename(path)


def copy(source: pathlib.Path, path: pathlib.Path) -> None:
  """Copies a file.

  Raises:
    DownloadError: if the source cannot be opened.
    OSError: if the copy cannot be written.
  """
  with open_source(source) as file, open(path, "wb") as target:
    shutil.copyfileobj(file, target, _BLOCK_BYTES)


def open_source(path: pathlib.Path) -> BinaryIO:
  """Opens a file of the user's; DownloadError if it cannot be."""
  try:
    return open(path, "rb")
  except OSError as error:
    raise errors.DownloadError(errors.describe_os_error(error)) from None


def size(path: pathlib.Path) -> int:
  """Bytes of a file, 0 if it is not there."""
  return path.stat().st_size if path.exists() else 0


def _attempt(url: str, part: pathlib.Path, have: int, description: str) -> None:
  """Downloads to `part`, which has `have` bytes, what it lacks, or everything if the server does no parts."""
  with _open(url, have) as response:
    if response.status != http.client.PARTIAL_CONTENT:
      have = 0
    length = response.headers["Content-Length"]
    total = None if length is None else have + int(length)
    # disable=None: shown only on a terminal.
    bar = tqdm.tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=description, disable=None)
    with open(part, "ab" if have else "wb") as file, bar:
      while block := _read(response):
        file.write(block)
        bar.update(len(block))
  if total is not None and size(part) < total:
    raise errors.DownloadError(f"the transfer broke off at {size(part)} of {total} bytes; start again to resume it")


def _open(url: str, have: int) -> http.client.HTTPResponse:
  try:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    error.close()
    if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      return _open(url, 0)
    raise errors.DownloadError(f"the server answered {error.code} {error.reason} for {url}") from None
  except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of a malformed address
    raise errors.DownloadError(f"the server cannot be reached ({getattr(error, 'reason', error)})") from None


def _read(response: http.client.HTTPResponse) -> bytes:
  try:
    return response.read1(_BLOCK_BYTES)  # what has come; `read` would lose it if the rest does not
  except (OSError, http.client.HTTPException) as error:
    raise errors.DownloadError(f"the transfer broke off ({error}); start again to resume it") from None
