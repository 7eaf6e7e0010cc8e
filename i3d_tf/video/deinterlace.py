"""Interlaced frames, which hold two fields of different times in their odd and even rows, made whole."""

import collections
from collections.abc import Callable, Generator, Iterator
import fractions

import av.filter
from av.video.frame import VideoFrame

DEINTERLACED = "interlaced frames were deinterlaced (bwdif)"
_UNIT = fractions.Fraction(1, 25)  # of the timestamps inside the filter


def deinterlaced(
  frames: Iterator[tuple[float | None, VideoFrame]], note: Callable[[str], None]
) -> Generator[tuple[float | None, VideoFrame]]:
  """Deinterlaces the frames of a video that are interlaced, each into one frame; the others stay as they are.

  Args:
    frames: (Seconds or None, decoded frame), all of one size.
    note: Called with `DEINTERLACED` at the first interlaced frame.

  Yields:
    As many frames, with their times.
  """
  graph: av.filter.Graph | None = None
  times: collections.deque[float | None] = collections.deque()
  for time, frame in frames:
    if graph is None:
      if not frame.interlaced_frame:
        yield time, frame
        continue
      note(DEINTERLACED)
      graph = _filter(frame)
    times.append(time)
    # The filter wants timestamps that go up, and gives each frame half a unit for a second field.
    frame.pts, frame.time_base = len(times), _UNIT
    graph.push(frame)
    yield from _pull(graph, times)
  if graph is not None:
    graph.push(None)
    yield from _pull(graph, times)


def _filter(frame: VideoFrame) -> av.filter.Graph:
  graph = av.filter.Graph()
  source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_UNIT)
  bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
  sink = graph.add("buffersink")
  source.link_to(bwdif)
  bwdif.link_to(sink)
  graph.configure()
  return graph


def _pull(graph: av.filter.Graph, times: collections.deque[float | None]) -> Iterator[tuple[float | None, VideoFrame]]:
  while True:
    try:
      frame = graph.vpull()
    except (BlockingIOError, EOFError):
      return
    yield times.popleft(), frame
