"""Prediction files: every video's logits in one stream, so that streams can be fused later without the networks."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import evaluation
from i3d_tf import fields
from i3d_tf import files
from i3d_tf import workdir

_NUM_NAMED = 3  # names in a message


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
  """The predictions of one stream for the videos of a split.

  Attributes:
    stream: 'rgb', 'flow', 'joint' for a network of both, or 'audio'.
    ids: the videos' ids.
    labels: int32 `[N]`, class indices.
    logits: float32 `[N, classes]`, averaged over time and views.
    numbers: int32 `[N]`, the videos' indices among the split's records in the order of files.
    classes: the class names in index order.
    made_with: checkpoint, records and protocol, by name; JSON values.
    failures: records without logits: `number`, `id` ('' if it could not be read) and `reason`.
  """

  stream: str
  ids: tuple[str, ...]
  labels: np.ndarray
  logits: np.ndarray
  numbers: np.ndarray
  classes: tuple[str, ...]
  made_with: Mapping[str, Any]
  failures: tuple[Mapping[str, Any], ...] = ()

  def take(self, chosen: np.ndarray) -> "Predictions":
    """Returns the predictions for some videos, in this order.

    Args:
      chosen: indices `[M]`.
    """
    arrays = {name: getattr(self, name)[chosen] for name in ("labels", "logits", "numbers")}
    return dataclasses.replace(self, ids=tuple(self.ids[index] for index in chosen), **arrays)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _About:
  """What a score file says in JSON."""

  stream: str = fields.option(choices=evaluation.STREAMS)
  made_with: dict[str, Any]
  failures: tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Failure:
  """An element of `failures`."""

  number: int = fields.option(least=0)
  id: str
  reason: str


# Kind of the values of each array of a score file, and number of axes.
_ARRAYS = {"ids": ("U", 1), "classes": ("U", 1), "labels": ("i", 1), "logits": ("f", 2), "numbers": ("i", 1)}


def save(path: str | os.PathLike, predictions: Predictions) -> None:
  """Writes predictions to an .npz file; equal predictions give equal bytes.

  Args:
    path: the file.
    predictions: what to write; values that are not arrays are stored as JSON.

  Raises:
    OSError: if the file cannot be written.
  """
  plain = {
    "stream": predictions.stream,
    "made_with": dict(predictions.made_with),
    "failures": [dict(failure) for failure in predictions.failures],
  }
  with workdir.replacing(path) as file:
    np.savez(
      file,
      ids=np.array(predictions.ids, np.str_),
      labels=predictions.labels.astype(np.int32),
      logits=predictions.logits.astype(np.float32),
      numbers=predictions.numbers.astype(np.int32),
      classes=np.array(predictions.classes, np.str_),
      about=np.array(json.dumps(plain)),
    )


def load(path: str | os.PathLike) -> Predictions:
  """Returns the predictions of a file that `save` wrote.

  Args:
    path: the file.

  Raises:
    I3dError: if it is not such a file, or it is damaged.
    OSError: if it cannot be read.
  """
  damaged = errors.I3dError(f"{path}: this is no score file of evaluate, or it is damaged")
  try:
    arrays = files.read_arrays(path)
    about = fields.from_json(_About, files.read_facts(arrays, "about", path), path)
    failures = tuple(fields.from_json(_Failure, failure, path) for failure in about.failures)
  except errors.I3dError:
    raise damaged from None
  if {name: (array.dtype.kind, array.ndim) for name, array in arrays.items()} != _ARRAYS:
    raise damaged
  predictions = Predictions(
    stream=about.stream,
    made_with=about.made_with,
    failures=tuple(map(dataclasses.asdict, failures)),
    ids=tuple(arrays.pop("ids").tolist()),
    classes=tuple(arrays.pop("classes").tolist()),
    **arrays,
  )
  _check_values(predictions, path)
  if repeated := _repeated_ids(predictions.ids):
    raise errors.I3dError(f"{path}: {len(repeated)} videos are in it more than once ({some(repeated)})")
  return predictions


def _check_values(predictions: Predictions, path: str | os.PathLike) -> None:
  """Raises I3dError unless the arrays of a file go together and hold what can be."""
  count, num_classes = len(predictions.ids), len(predictions.classes)
  labels, numbers, logits = predictions.labels, predictions.numbers, predictions.logits
  if logits.shape != (count, num_classes) or labels.shape != (count,) or numbers.shape != (count,):
    raise errors.I3dError(
      f"{path}: {count} ids and {num_classes} classes do not fit logits of shape {logits.shape} and labels of shape "
      f"{labels.shape}, and record numbers of shape {numbers.shape}"
    )
  if wrong := labels[(labels < 0) | (labels >= num_classes)].tolist():
    raise errors.I3dError(f"{path}: label {wrong[0]} is of none of the {num_classes} classes; evaluate again")
  if (numbers < 0).any() or not np.isfinite(logits).all():
    raise errors.I3dError(f"{path}: it holds negative numbers, or logits that are not finite; evaluate again")
  if wrong := [name for name in predictions.classes if not fields.is_text(name)]:
    raise errors.I3dError(f"{path}: the class name {wrong[0]!r} is no text; evaluate again")


def _repeated_ids(ids: Sequence[str]) -> list[str]:
  """The ids that occur more than once, each once."""
  return [name for name, count in collections.Counter(ids).items() if count > 1]


def some(names: Sequence[str]) -> str:
  """Returns at most three of the names for a message, and an ellipsis if there are more.

  Args:
    names: any number.
  """
  return "; ".join(names[:_NUM_NAMED]) + ("; ..." if len(names) > _NUM_NAMED else "")


def join(*streams: Predictions) -> list[Predictions]:
  """Returns all streams with the same ids: the videos that all have, in the order of the first.

  A video that failed in one stream is left out; any other difference between the streams is an error.

  Args:
    *streams: the predictions of each.

  Raises:
    I3dError: if classes, data set, split, ids or labels differ.
  """
  first, *others = streams
  for other in others:
    _check_pair(first, other)
  places = [{name: index for index, name in enumerate(each.ids)} for each in streams]
  common = [name for name in first.ids if all(name in each for each in places)]
  joined = [each.take(np.array([at[name] for name in common], int)) for each, at in zip(streams, places, strict=True)]
  for other in joined[1:]:
    if len(differing := np.flatnonzero(joined[0].labels != other.labels)):
      named = some([f"{common[i]}: {joined[0].labels[i]} and {other.labels[i]}" for i in differing])
      raise errors.I3dError(f"the streams' labels differ for {len(differing)} videos ({named})")
  return joined


def _check_pair(one: Predictions, other: Predictions) -> None:
  """Raises I3dError unless both are of the same videos, except for those that failed."""
  names = one.stream, other.stream
  _check_equal("classes", names, one.classes, other.classes)
  for name in ("dataset", "split"):
    _check_equal(name, names, (one.made_with.get(name),), (other.made_with.get(name),))
  failed = {failure["id"] for failure in (*one.failures, *other.failures)}
  missed = []
  for stream, own, theirs in ((one.stream, one.ids, set(other.ids)), (other.stream, other.ids, set(one.ids))):
    if ids := [name for name in own if name not in theirs and name not in failed]:
      missed.append(f"{len(ids)} only in {stream} ({some(ids)})")
  if missed:
    raise errors.I3dError(f"the streams' videos differ: {', '.join(missed)}; evaluate both on the same records")


def _check_equal(what: str, streams: tuple[str, str], one: Sequence, other: Sequence) -> None:
  if one == other:
    return
  left, right = streams
  if len(one) != len(other):
    raise errors.I3dError(f"the streams' {what} differ: {left} has {len(one)}, {right} {len(other)}")
  index = next(index for index, pair in enumerate(zip(one, other)) if pair[0] != pair[1])
  which = f" (the first at {index})" if len(one) > 1 else ""
  raise errors.I3dError(f"the streams' {what} differ{which}: {left} has {one[index]!r}, {right} {other[index]!r}")


class PredictionStore:
  """Collects the predictions of one stream, and keeps them in the output folder so that an evaluation can be resumed.

  Unfinished predictions are in scores_STREAM.partial.npz, finished ones in scores_STREAM.npz.
  """

  def __init__(self, stream: str, classes: Sequence[str], made_with: Mapping[str, Any], folder: str | os.PathLike):
    """Starts with no predictions; reads nothing.

    Args:
      stream: one of `evaluation.STREAMS`.
      classes: names in index order.
      made_with: what the predictions depend on; see `Predictions`.
      folder: the output folder.
    """
    self._stream, self._classes, self._made_with = stream, tuple(classes), made_with
    self._final = pathlib.Path(folder) / f"scores_{stream}.npz"
    self._partial = self._final.with_suffix(".partial.npz")
    self._rows: list[tuple[str, int, np.ndarray, int]] = []  # id, label, logits, number
    self._names: set[str] = set()  # ids of the rows
    self._failures: list[Mapping[str, Any]] = []

  @property
  def numbers(self) -> list[int]:
    """The numbers of the records that were evaluated or failed."""
    return [row[-1] for row in self._rows] + [failure["number"] for failure in self._failures]

  def load_finished(self) -> Predictions | None:
    """Returns the finished predictions; None if they are not finished.

    Raises:
      I3dError: if they depend on something else than now, for example on other weights.
    """
    return self._load(self._final) if self._final.exists() else None

  def resume(self, *, retry_failures: bool = False) -> None:
    """Loads the predictions of an interrupted evaluation, if there was one.

    Args:
      retry_failures: whether records that failed are left to be tried again, those of a finished evaluation, too.

    Raises:
      I3dError: if they depend on something else than now, for example on other weights.
    """
    path = self._final if retry_failures and self._final.exists() else self._partial
    if path.exists():
      found = self._load(path)
      self._rows = list(zip(found.ids, found.labels.tolist(), found.logits, found.numbers.tolist()))
      self._names = set(found.ids)
      self._failures = [] if retry_failures else list(found.failures)

  def add(self, number: int, name: str, label: int, logits: np.ndarray) -> None:
    """Adds the prediction for a video.

    Args:
      number: the record's index in the split.
      name: the video's id.
      label: its class index.
      logits: `[classes]`.
    """
    self._rows.append((name, label, logits, number))
    self._names.add(name)

  def problem(self, name: str, label: int) -> str:
    """Returns why a video cannot be added to those before it, '' if it can.

    Args:
      name: the video's id.
      label: its class index.
    """
    if not 0 <= label < len(self._classes):
      return f"its label {label} is of none of the {len(self._classes)} classes"
    if name in self._names:
      return f"its id {name!r} is also that of another record, and every video must count once"
    return ""

  def add_failure(self, number: int, name: str, reason: str) -> None:
    """Adds a record that could not be evaluated.

    Args:
      number: the record's index in the split.
      name: the video's id; '' if it could not be read.
      reason: a sentence.
    """
    self._failures.append({"number": number, "id": name, "reason": reason})

  def save(self) -> None:
    """Writes the unfinished predictions."""
    save(self._partial, self._predictions())

  def finish(self, num_records: int) -> Predictions:
    """Checks that each record was evaluated, or failed, exactly once, and writes the finished predictions.

    Args:
      num_records: in the split.

    Returns:
      The predictions.

    Raises:
      I3dError: if a record is missing or was seen twice, or all of them failed.
    """
    predictions = self._predictions()
    _check_complete(predictions, num_records)
    if not self._rows:
      self._partial.unlink(missing_ok=True)
      reason = self._failures[0]["reason"] if self._failures else "the split is empty"
      raise errors.I3dError(f"no video could be evaluated; the first failed because: {reason}")
    save(self._final, predictions)
    self._partial.unlink(missing_ok=True)
    return predictions

  def _predictions(self) -> Predictions:
    ids, labels, logits, numbers = zip(*self._rows) if self._rows else ((), (), (), ())
    return Predictions(
      stream=self._stream,
      ids=ids,
      labels=np.array(labels, np.int32),
      logits=np.array(logits, np.float32).reshape(-1, len(self._classes)),
      numbers=np.array(numbers, np.int32),
      classes=self._classes,
      made_with=self._made_with,
      failures=tuple(self._failures),
    )

  def _load(self, path: pathlib.Path) -> Predictions:
    found = load(path)
    old = {**found.made_with, "classes": found.classes}
    new = {**self._made_with, "classes": self._classes}
    workdir.check_parameters(path, old, new, free=("checkpoint",))  # the same weights may be reached by another path
    return found


def _check_complete(predictions: Predictions, num_records: int) -> None:
  split = predictions.made_with["split"]
  numbers = [*predictions.numbers.tolist(), *(failure["number"] for failure in predictions.failures)]
  if sorted(numbers) != list(range(num_records)):
    missing = [str(number) for number in sorted(set(range(num_records)) - set(numbers))]
    named = f", never {some(missing)}" if missing else ""
    raise errors.I3dError(
      f"{split} has {num_records} records, but {len(predictions.ids)} were evaluated and "
      f"{len(predictions.failures)} failed{named}"
    )
