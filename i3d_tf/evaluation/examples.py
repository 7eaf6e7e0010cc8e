"""The clips that a report shows: those recognised best and worst, with frames and coloured flow."""

from collections.abc import Sequence
import dataclasses

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf.evaluation import fusion
from i3d_tf.evaluation import metrics
from i3d_tf.evaluation import scores as scores_lib
from i3d_tf.video import contact_sheet
from i3d_tf.video import inspection

_COLUMNS = 8
_TILE_HEIGHT = 112  # pixels
_JPEG_QUALITY = 90  # photographs as PNG would make the report ten times as large


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """One clip.

  Attributes:
    id, label: of the video.
    margin: the label's score less the best other's.
    ranking: (class, probability) of the best classes, probability None for scores that are none.
    picture: JPEG; empty if the records are not at hand.
  """

  id: str
  label: str
  margin: float
  ranking: tuple[tuple[str, float | None], ...]
  picture: bytes = b""


def choose(scores: np.ndarray, labels: np.ndarray, count: int) -> tuple[list[int], list[int]]:
  """Indices of the `count` videos of the largest margins and of the smallest, at most one of a class in each."""
  order = np.argsort(-metrics.margins(scores, labels), kind="stable").tolist()
  return _one_a_class(order, labels, count), _one_a_class(order[::-1], labels, count)


def describe(scores: scores_lib.Scores, fused: fusion.Fused, index: int, picture: bytes) -> Example:
  """The video `index` in words."""
  best = np.argsort(-fused.scores[index], kind="stable")[:3]
  probability = lambda c: None if fused.log_probabilities is None else float(np.exp(fused.log_probabilities[index, c]))
  return Example(
    id=scores.ids[index],
    label=scores.classes[scores.labels[index]],
    margin=float(metrics.margins(fused.scores[index : index + 1], scores.labels[index : index + 1])[0]),
    ranking=tuple((scores.classes[c], probability(c)) for c in best),
    picture=picture,
  )


def draw(entries: Sequence[inspection.Entry], scores: scores_lib.Scores, index: int) -> bytes:
  """Frames and coloured flow of the video `index`, as JPEG; `entries` are all records of the split, in order.

  Raises:
    I3dError: if these are not the records that the scores are of, or the record cannot be drawn.
  """
  number = int(scores.numbers[index])
  record = entries[number].load() if number < len(entries) else None
  if record is None or record.id != scores.ids[index]:
    where = entries[number] if record else f"the {len(entries)} records"
    raise errors.I3dError(f"{where}: {scores.ids[index]} is not there; --records are not those of the scores")
  picture = contact_sheet.draw_images(record, columns=_COLUMNS, tile_height=_TILE_HEIGHT)
  options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
  return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _one_a_class(order: Sequence[int], labels: np.ndarray, count: int) -> list[int]:
  first = {}
  for index in order:
    first.setdefault(labels[index], index)
  return list(first.values())[:count]
