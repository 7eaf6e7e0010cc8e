"""Stages that run at the same time: an iterator's work in a thread of its own."""

from collections.abc import Iterable, Iterator
import contextlib
import queue
import threading
from typing import Any, TypeVar

Item = TypeVar("Item")

_WAIT = 0.1  # seconds between looks at whether anybody still wants the items


@contextlib.contextmanager
def ahead(items: Iterable[Item], *, depth: int) -> Iterator[Iterator[Item]]:
  """Gives the same items, made by a thread that is up to `depth` of them ahead; an error comes in its place, too.

  At the end of the body the thread has ended, and `items`, if it is a generator, is closed.
  """
  made: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
  stopped = threading.Event()

  def put(kind: str, value: Any) -> bool:
    while not stopped.is_set():
      with contextlib.suppress(queue.Full):
        made.put((kind, value), timeout=_WAIT)
        return True
    return False

  def work() -> None:
    try:
      if all(put("item", item) for item in items):
        put("end", None)
    except BaseException as error:
      put("error", error)
    finally:
      if hasattr(items, "close"):
        items.close()

  def take() -> Iterator[Item]:
    while True:
      kind, value = made.get()
      if kind == "error":
        raise value
      if kind == "end":
        return
      yield value

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  try:
    yield take()
  finally:
    stopped.set()
    thread.join()
