"""A service in a thread, for tests."""

import http.client
import json
import os
import threading
import time
from typing import Any
import uuid

from i3d_tf import serving
from i3d_tf.serving import models
from i3d_tf.serving import server as server_lib
from i3d_tf.serving import service as service_lib
from i3d_tf.video import decode


class Running:
  """A service that listens at a free port, for the body of `with`."""

  def __init__(self, repository: models.Repository, *, token: str | None = None, **options: Any):
    """Starts it.

    Args:
      repository: What it serves.
      token: As `server.make_server`.
      **options: Fields of `serving.ServeConfig`.
    """
    self.config = serving.ServeConfig(**{"port": 0, "timeout": 300.0, **options})
    self.service = service_lib.Service(repository, self.config)
    self._isolated = decode.isolated(patience=self.config.timeout)
    self._isolated.__enter__()
    self.server = server_lib.make_server(self.service, token)
    listening = server_lib.listen(self.config)
    self.port = listening.getsockname()[1]
    self._thread = threading.Thread(target=self.server.run, args=([listening],), daemon=True)
    self._thread.start()
    while not self.server.started:
      time.sleep(0.01)

  def __enter__(self) -> "Running":
    return self

  def __exit__(self, *error: Any) -> None:
    self.server.should_exit = True
    self._thread.join()
    self.service.close()
    self._isolated.__exit__(None, None, None)

  def connect(self) -> http.client.HTTPConnection:
    """Returns a connection to it."""
    return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

  def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Returns status, body and headers of an answer; JSON is read.

    Args:
      method: Of HTTP.
      path: The address.
      body: Bytes, or an object for JSON.
      **headers: Headers, _ for -.
    """
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = self.connect()
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    found: Any = response.read()
    connection.close()
    if response.headers.get_content_type() == "application/json":
      found = json.loads(found)
    return response.status, found, {name.lower(): value for name, value in response.getheaders()}

  def upload(self, path: str | os.PathLike | None, name: str = "clip.mp4", **fields: Any) -> tuple[int, Any, dict]:
    """Returns the answer to an upload of a video.

    Args:
      path: The file; None: none.
      name: What it is called.
      **fields: Further parts of the form.
    """
    boundary = uuid.uuid4().hex
    parts = [(f'name="{key}"', str(value).encode()) for key, value in fields.items()]
    if path is not None:
      with open(path, "rb") as file:
        parts.append((f'name="file"; filename="{name}"', file.read()))
    lines = [
      f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
      for head, content in parts
    ]
    body = b"".join(lines) + f"--{boundary}--\r\n".encode()
    return self.call("POST", "/v1/videos", body, Content_Type=f"multipart/form-data; boundary={boundary}")
