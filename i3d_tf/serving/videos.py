"""What is said of one uploaded video: classes over time, features, pictures, an annotated video, a heat map."""

import base64
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
import tempfile
import threading
import time
from typing import Any

import numpy as np
from scipy import special

from i3d_tf import errors
from i3d_tf import flow as flow_lib
from i3d_tf import serving
from i3d_tf.data import prepare
from i3d_tf.flow import codec
from i3d_tf.inference import classification
from i3d_tf.serving import models
from i3d_tf.serving import rest
from i3d_tf.video import decode
from i3d_tf.video import encode
from i3d_tf.visualization import canvas
from i3d_tf.visualization import source

OUTPUTS = {
  "json": "application/json",
  "features": "application/octet-stream",
  "annotated": "video/mp4",
  "activation": "image/png",
}
_SHOWN = 8  # classes whose probabilities are given over the whole time
_PICTURE_SIDE = 128  # pixels of a picture's shorter side
_QUALITY = 85  # of JPEG


class Watch:
  """Says to work in another thread whether its result is still wanted."""

  def __init__(self, seconds: float):
    """Starts the clock.

    Args:
      seconds: Time that the work may take.
    """
    self._until = time.monotonic() + seconds
    self._is_over = threading.Event()

  def cancel(self) -> None:
    """Tells that nobody waits for the result."""
    self._is_over.set()

  def check(self) -> None:
    """Returns if the work is to go on.

    Raises:
      Late: If not.
    """
    if self._is_over.is_set():
      raise serving.Late("nobody waits for the result any more")
    if time.monotonic() > self._until:
      raise serving.Late("the request takes longer than it may; send a shorter video")


@dataclasses.dataclass(frozen=True)
class _Watched(source.Video):
  """A video that is read no longer than its result is wanted, and of which some frames are kept.

  Attributes:
    check: Called before each frame.
    kept: Frames by number; those that are there as keys are kept when they are read.
    remarks: What was done with the frames.
  """

  check: Callable[[], None] = lambda: None
  kept: dict[int, np.ndarray | None] = dataclasses.field(default_factory=dict)
  remarks: list[str] = dataclasses.field(default_factory=list)

  def frames(self) -> Iterator[np.ndarray]:
    """See `source.Video.frames`."""
    note = lambda remark: None if remark in self.remarks else self.remarks.append(remark)
    for number, frame in enumerate(decode.iter_frames(self.path, short_side=self.short_side, note=note)):
      self.check()
      if number in self.kept:
        self.kept[number] = frame
      yield frame


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked of a video.

  Attributes:
    path: The file.
    name: What it is called, for people.
    output: One of `OUTPUTS`.
    top_k: Classes in each ranking.
    has_features: Whether features are added to the JSON.
    num_pictures: Frames, and their flow, that are added to the JSON as pictures.
  """

  path: str
  name: str
  output: str = "json"
  top_k: int = 5
  has_features: bool = False
  num_pictures: int = 0


def respond(request: Request, model: models.ServedModel, config: serving.ServeConfig, watch: Watch) -> Any:
  """Returns what is asked of a video: an object for JSON, or the bytes of a file.

  Args:
    request: What is asked.
    model: The network.
    config: The limits.
    watch: Says when to stop.

  Raises:
    VideoError: If the video cannot be read, is too long or too short, or its frames are too large.
    I3dError: If the network takes no videos, or does not have what is asked.
    Late: If it takes too long.
  """
  if model.classifier is None:
    raise errors.I3dError(f"{model.name} takes arrays only: it is no single network that i3d_tf exported")
  try:
    with contextlib.ExitStack() as stack:
      if request.output == "annotated":
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="i3d_tf."))
        return _annotated(_open(request, model, config, watch), model, request, folder)
      video = _open(request, model, config, watch)
      if request.output == "activation":
        return _activation(video, model)
      return _described(video, model, request)
  except errors.I3dError as error:
    text = str(error).replace(request.path, request.name)
    raise type(error)(text.partition("; allow_damaged=True")[0]) from None


def _open(request: Request, model: models.ServedModel, config: serving.ServeConfig, watch: Watch) -> _Watched:
  """Surveys the video within the limits."""
  from i3d_tf.visualization import curves

  assert model.classifier is not None
  networks = model.classifier.networks
  clip = classification.check_together([network.info for network in networks.values()]).preprocess
  found = decode.probe(request.path)
  rest.check_pixels(request.name, found.width, found.height, config)
  _check_seconds(request.name, found.num_frames / found.frame_rate, config)
  watch.check()
  count = decode.count_frames(request.path)  # which a header cannot tell
  _check_seconds(request.name, count / decode.FRAME_RATE, config)
  watch.check()
  numbers = np.unique(np.linspace(0, count - 1, request.num_pictures).astype(int)).tolist()
  wanted = sorted({each for number in numbers for each in (number, min(number + 1, count - 1))})
  height, width = decode.Resize(clip.short_side).shape(found.height, found.width)
  video = _Watched(
    request.path, clip.short_side, count, height, width, check=watch.check, kept=dict.fromkeys(wanted), remarks=[]
  )
  least = max(curves.least_frames(each, curves.step_layers(each)) for each in networks.values())
  source.survey(video, clip, least_frames=least)
  return video


def _check_seconds(name: str, seconds: float, config: serving.ServeConfig) -> None:
  if seconds > config.max_seconds:
    raise errors.VideoError(f"{name}: the video has {seconds:.0f} seconds; at most {config.max_seconds:g} are taken")


def _described(video: _Watched, model: models.ServedModel, request: Request) -> Any:
  """The classes over time, or the features alone as a .npy file."""
  from i3d_tf.visualization import curves

  assert model.classifier is not None
  networks = model.classifier.networks
  has_features = request.has_features or request.output == "features"
  estimator = model.classifier.flow_config().flow_estimator(None)
  found = [
    curves.compute(network, video, source.FlowStore(), estimator=estimator, has_features=has_features)
    for network in networks.values()
  ]
  if request.output == "features":
    return _npy(found)
  names, first = model.class_names, found[0]
  logits = np.sum([curve.at(first.times) for curve in found], axis=0)
  probabilities = special.softmax(logits.astype(np.float64), axis=-1)
  shown = np.argsort(-probabilities.mean(axis=0), kind="stable")[:_SHOWN]
  whole = np.sum([curve.mean for curve in found], axis=0)
  result = {
    "model": {"name": model.name, "version": model.version},
    "name": request.name,
    "seconds": video.seconds,
    "frames": video.num_frames,
    "frame_rate": decode.FRAME_RATE,
    "whole": _ranked(whole, names, request.top_k),
    "windows": [
      {"time": float(time), **_span(first.seen(time), video), "classes": _ranked(each, names, request.top_k)}
      for time, each in zip(first.times.tolist(), logits)
    ],
    "timeline": {
      "times": first.times.tolist(),
      "classes": [
        {"label": names[index], "index": index, "probabilities": probabilities[:, index].tolist()}
        for index in shown.tolist()
      ],
    },
    "remarks": video.remarks,
  }
  if request.has_features:
    result["features"] = {
      stream: {"times": curve.times.tolist(), "values": curve.features.tolist()}
      for stream, curve in zip(networks, found)
      if curve.features is not None
    }
  if request.num_pictures:
    result["pictures"] = list(itertools.islice(_pictures(video), request.num_pictures))
  return result


def _ranked(logits: np.ndarray, names: tuple[str, ...], top_k: int) -> list[dict[str, Any]]:
  return [dataclasses.asdict(each) for each in classification.rank(logits, names, top_k)]


def _span(seen: tuple[float, float], video: source.Video) -> dict[str, float]:
  return {"start": max(0.0, float(seen[0])), "end": min(video.seconds, float(seen[1]))}


def _npy(found: list[Any]) -> bytes:
  """The features of each step, those of two networks beside one another at the first one's steps."""
  length = min(len(curve.features) for curve in found)
  file = io.BytesIO()
  np.save(file, np.concatenate([curve.features[:length] for curve in found], axis=1))
  return file.getvalue()


def _pictures(video: _Watched) -> Iterator[dict[str, Any]]:
  """Frames and the flow to the next ones, as small JPEG images in base64."""
  for number, frame in video.kept.items():
    following = video.kept.get(number + 1)
    if frame is None or following is None:
      continue
    small = [decode.resize(each, _PICTURE_SIDE) for each in (frame, following)]
    flow = codec.draw(flow_lib.optical_flow(np.stack(small), "dis", preset="fast")[0])
    yield {"time": number / decode.FRAME_RATE, "frame": _jpeg(small[0]), "flow": _jpeg(flow)}


def _jpeg(image: np.ndarray) -> str:
  return base64.b64encode(prepare.encode_rgb(np.ascontiguousarray(image), _QUALITY)).decode()


def _annotated(video: _Watched, model: models.ServedModel, request: Request, folder: str) -> bytes:
  from i3d_tf.visualization import pages

  assert model.classifier is not None
  path = pathlib.Path(folder, "annotated.mp4")
  estimator = model.classifier.flow_config().flow_estimator(None)
  with encode.writing(path, fps=decode.FRAME_RATE) as write:
    pages.annotate(video, model.classifier, write, draw_flow=False, top_k=min(request.top_k, 12), estimator=estimator)
  return path.read_bytes()


def _activation(video: _Watched, model: models.ServedModel) -> bytes:
  from i3d_tf.visualization import activation
  from i3d_tf.visualization import pages

  assert model.classifier is not None
  network = next(iter(model.classifier.networks.values()))
  store = source.FlowStore() if network.info.stream == "flow" else None
  estimator = model.classifier.flow_config().flow_estimator(None)
  found = activation.compute(video, network, view="crop", store=store, estimator=estimator)
  return canvas.png(pages.draw_sheet(pages.Painter(found, store)))


def safe_name(name: str | None) -> str:
  """Returns the last part of a file's name as clients give it, for messages; it is never a path.

  Args:
    name: The name, or None.
  """
  last = os.path.basename((name or "").replace("\\", "/"))
  return "".join(letter for letter in last if letter.isprintable())[:100] or "video"
