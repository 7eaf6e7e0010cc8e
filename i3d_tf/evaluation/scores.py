"""Score files: every video's logits in one stream, so that streams can be fused later without the networks.

Putting the two streams' logits together.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from typing import Any
import warnings
import zipfile

import numpy as np

from i3d_tf import errors
from i3d_tf import workdir

_NUM_NAMED = 3  # ids in a message


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
  """Of one stream. What is not an array is stored as JSON.

  Attributes:
    stream: 'rgb', 'flow', or 'joint' for a network of both.
    ids: names of the videos.
    labels: int32 `[N]`.
    logits: float32 `[N, classes]`, averaged over time and views.
    numbers: int32 `[N]`, the videos' places among the split's records in the order of files, from 0.
    classes: the names of the classes.
    made_with: checkpoint, records and protocol, by name; plain values.
    failures: records that gave no logits: `number`, `id` ('' if it could not be read) and `reason`.
  """

  stream: str
  ids: tuple[str, ...]
  labels: np.ndarray
  logits: np.ndarray
  numbers: np.ndarray
  classes: tuple[str, ...]
  made_with: Mapping[str, Any]
  failures: tuple[Mapping[str, Any], ...] = ()

  def take(self, chosen: np.ndarray) -> "Scores":
    """The videos `chosen`, integers `[M]`, in this order."""
    arrays = {name: getattr(self, name)[chosen] for name in ("labels", "logits", "numbers")}
    return dataclasses.replace(self, ids=tuple(self.ids[index] for index in chosen), **arrays)


def save(path: str | os.PathLike, scores: Scores) -> None:
  """Writes an .npz file; the same scores give the same bytes."""
  plain = {
    "stream": scores.stream,
    "made_with": dict(scores.made_with),
    "failures": [dict(failure) for failure in scores.failures],
  }
  with workdir.replacing(path) as file:
    np.savez(
      file,
      ids=np.array(scores.ids, np.str_),
      labels=scores.labels.astype(np.int32),
      logits=scores.logits.astype(np.float32),
      numbers=scores.numbers.astype(np.int32),
      classes=np.array(scores.classes, np.str_),
      about=np.array(json.dumps(plain)),
    )


def load(path: str | os.PathLike) -> Scores:
  """Reads what `save` wrote.

  Raises:
    I3dError: if the file is none of these, or is damaged.
  """
  try:
    with np.load(path, allow_pickle=False) as archive:
      arrays = dict(archive)
    plain = json.loads(str(arrays.pop("about")))
    scores = Scores(
      ids=tuple(arrays.pop("ids").tolist()),
      classes=tuple(arrays.pop("classes").tolist()),
      failures=tuple(plain.pop("failures")),
      **arrays,
      **plain,
    )
  except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
    raise errors.I3dError(f"{path}: this is no score file of evaluate, or it is damaged") from None
  count = len(scores.ids)
  if scores.logits.shape != (count, len(scores.classes)) or scores.labels.shape != (count,):
    raise errors.I3dError(
      f"{path}: {count} ids and {len(scores.classes)} classes do not fit logits of shape {scores.logits.shape} "
      f"and labels of shape {scores.labels.shape}"
    )
  if repeated := repeated_ids(scores.ids):
    raise errors.I3dError(f"{path}: {len(repeated)} videos stand in it more than once ({some(repeated)})")
  return scores


def repeated_ids(ids: Sequence[str]) -> list[str]:
  """The ids that stand there more than once."""
  return [name for name, count in collections.Counter(ids).items() if count > 1]


def some(names: Sequence[str]) -> str:
  """The first few names, for a message."""
  return "; ".join(names[:_NUM_NAMED]) + ("; ..." if len(names) > _NUM_NAMED else "")


def join(rgb: Scores, flow: Scores) -> tuple[Scores, Scores]:
  """The videos that both streams have, in the order of `rgb`.

  A video that failed in one stream is left out; any other difference between the streams is an error.

  Raises:
    I3dError: naming what differs: classes, data set, split, ids or labels.
  """
  _check_equal("classes", rgb.classes, flow.classes)
  for name in ("dataset", "split"):
    _check_equal(name, (rgb.made_with.get(name),), (flow.made_with.get(name),))
  places = {name: index for index, name in enumerate(flow.ids)}
  failed = {failure["id"] for failure in (*rgb.failures, *flow.failures)}
  only_rgb = [name for name in rgb.ids if name not in places and name not in failed]
  only_flow = sorted(set(flow.ids) - set(rgb.ids) - failed, key=places.get)
  if only_rgb or only_flow:
    parts = [f"{len(ids)} only in {stream} ({some(ids)})" for stream, ids in (("rgb", only_rgb), ("flow", only_flow))
             if ids]  # fmt: skip
    raise errors.I3dError(f"the streams' videos differ: {', '.join(parts)}; evaluate both on the same records")
  chosen = np.array([index for index, name in enumerate(rgb.ids) if name in places], int)
  rgb, flow = rgb.take(chosen), flow.take(np.array([places[rgb.ids[index]] for index in chosen], int))
  if len(differing := np.flatnonzero(rgb.labels != flow.labels)):
    named = some([f"{rgb.ids[i]}: {rgb.labels[i]} and {flow.labels[i]}" for i in differing])
    raise errors.I3dError(f"the streams' labels differ for {len(differing)} videos ({named})")
  return rgb, flow


def _check_equal(what: str, rgb: Sequence, flow: Sequence) -> None:
  if rgb == flow:
    return
  if len(rgb) != len(flow):
    raise errors.I3dError(f"the streams' {what} differ: rgb has {len(rgb)}, flow {len(flow)}")
  index = next(index for index, pair in enumerate(zip(rgb, flow)) if pair[0] != pair[1])
  which = f" (the first at {index})" if len(rgb) > 1 else ""
  raise errors.I3dError(f"the streams' {what} differ{which}: rgb has {rgb[index]!r}, flow {flow[index]!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class Fused:
  """Scores `[N, classes]`, and log-probabilities `[N, classes]`, None for scores that have none."""

  scores: np.ndarray
  log_probabilities: np.ndarray | None


def alone(logits: np.ndarray) -> Fused:
  """One stream's logits `[N, classes]` as scores."""
  logits = logits.astype(np.float64)
  return Fused(logits, log_softmax(logits))


def add_logits(rgb: np.ndarray, flow: np.ndarray, *, flow_weight: float = 0.5) -> Fused:
  """2 (1 - w) rgb + 2 w flow of logits `[N, classes]`: their sum at w = 0.5.

  The sum is google-deepmind/kinetics-i3d evaluate_sample.py's; the weight w, in [0, 1], is an option beside it.
  """
  _check_weight(flow_weight)
  return alone(2 * (1 - flow_weight) * rgb.astype(np.float64) + 2 * flow_weight * flow.astype(np.float64))


def average_softmax(rgb: np.ndarray, flow: np.ndarray, *, flow_weight: float = 0.5) -> Fused:
  """(1 - w) softmax(rgb) + w softmax(flow) of logits `[N, classes]` ("averages predictions", arXiv 1705.07750, 2.5)."""
  _check_weight(flow_weight)
  with np.errstate(divide="ignore"):  # the logarithm of a weight 0
    logarithms = [np.log(1 - flow_weight) + log_softmax(rgb), np.log(flow_weight) + log_softmax(flow)]
  log_probabilities = np.logaddexp(*logarithms)
  return Fused(log_probabilities, log_probabilities)


class LinearSvm:
  """A multi-class linear SVM on the streams' stacked L2-normalised softmax scores (arXiv 1406.2199, section 5).

  One class against the rest, with scikit-learn's LinearSVC and C = 1; the paper does not give its C.
  """

  def __init__(self, rgb: np.ndarray, flow: np.ndarray, labels: np.ndarray):
    """Trains on logits `[N, classes]` of the training split and labels `[N]`.

    Raises:
      I3dError: if the training split has fewer than two classes, or the SVM does not converge.
    """
    from sklearn import exceptions
    from sklearn import svm

    if len(np.unique(labels)) < 2:
      raise errors.I3dError("an SVM needs training scores of at least two classes")
    self._num_classes = rgb.shape[1]
    self._svm = svm.LinearSVC(random_state=0, max_iter=100_000)
    with warnings.catch_warnings():
      warnings.simplefilter("error", exceptions.ConvergenceWarning)
      try:
        self._svm.fit(stack(rgb, flow), labels)
      except exceptions.ConvergenceWarning as warning:
        raise errors.I3dError(f"the SVM on the training scores does not converge: {warning}") from None

  def __call__(self, rgb: np.ndarray, flow: np.ndarray) -> Fused:
    """The signed distances to the classes' planes; -inf for a class that the training split does not have."""
    decisions = self._svm.decision_function(stack(rgb, flow))
    if decisions.ndim == 1:  # scikit-learn's form for two classes
      decisions = np.stack([-decisions, decisions], axis=1)
    scores = np.full((len(decisions), self._num_classes), -np.inf)
    scores[:, self._svm.classes_] = decisions
    return Fused(scores, None)


def stack(rgb: np.ndarray, flow: np.ndarray) -> np.ndarray:
  """Both streams' softmax scores, each of L2 norm 1, beside each other: `[N, 2 classes]`."""
  probabilities = [np.exp(log_softmax(logits)) for logits in (rgb, flow)]
  return np.concatenate([each / np.linalg.norm(each, axis=1, keepdims=True) for each in probabilities], axis=1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Natural logarithms of the probabilities of logits `[N, classes]`, float64, exact also where they are tiny."""
  shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _check_weight(flow_weight: float) -> None:
  if not 0 <= flow_weight <= 1:
    raise errors.I3dError(f"flow_weight is {flow_weight}; it must be in [0, 1]")
