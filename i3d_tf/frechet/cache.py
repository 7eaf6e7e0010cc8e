"""Embeddings on disk by the content of their clips: what was embedded once is not embedded again, even after a kill."""

from collections.abc import Sequence
import contextlib
import hashlib
import os
import sqlite3

import numpy as np

from i3d_tf import errors

_TABLE = "i3d_tf_embeddings"
_SECONDS = 120  # for which another process may write


class EmbeddingCache:
  """A file of embeddings; several processes may use it at the same time, and one that is killed does it no harm."""

  def __init__(self, path: str | os.PathLike):
    """Opens the file, or makes it.

    Args:
      path: the file, whose folder exists.

    Raises:
      I3dError: if it is another file, damaged, or cannot be written.
    """
    self._path = os.fspath(path)
    with self._connection() as connection:
      connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE} (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

  @contextlib.contextmanager
  def _connection(self):
    try:
      with contextlib.closing(sqlite3.connect(self._path, timeout=_SECONDS)) as connection, connection:
        yield connection
    except sqlite3.Error as error:
      raise errors.I3dError(f"{self._path}: this cache of embeddings cannot be used ({error}); name another") from None

  def get(self, keys: Sequence[bytes]) -> np.ndarray | None:
    """Returns the embeddings of clips, float32 `[B, D]`, or None unless all are there.

    Args:
      keys: of the clips, see `key`.

    Raises:
      I3dError: if the file cannot be read.
    """
    with self._connection() as connection:
      query = f"SELECT value FROM {_TABLE} WHERE key = ?"
      found = [connection.execute(query, (each,)).fetchone() for each in keys]
    values = [np.frombuffer(row[0], "<f4") for row in found if row is not None]
    is_whole = len(values) == len(keys) and len({len(value) for value in values}) == 1
    return np.stack(values).astype(np.float32) if is_whole else None

  def put(self, keys: Sequence[bytes], embeddings: np.ndarray) -> None:
    """Adds embeddings.

    Args:
      keys: of the clips.
      embeddings: float32 `[B, D]`.

    Raises:
      I3dError: if the file cannot be written.
    """
    rows = [(each, row.astype("<f4").tobytes()) for each, row in zip(keys, embeddings, strict=True)]
    with self._connection() as connection:
      connection.executemany(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?)", rows)


def key(clip: np.ndarray, meaning: str) -> bytes:
  """Returns what finds the embedding of a clip: a digest of its values and of how it is embedded.

  Args:
    clip: `[T, H, W, 3]`.
    meaning: weights, resizing and whatever else the embedding depends on.
  """
  digest = hashlib.blake2b(f"{meaning} {clip.dtype} {clip.shape}".encode(), digest_size=20)
  digest.update(np.ascontiguousarray(clip).data)
  return digest.digest()
