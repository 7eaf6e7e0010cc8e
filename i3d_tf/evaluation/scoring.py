"""Scores as they come, kept in a file from time to time so that an evaluation can go on after it was killed.

One stream's logits of every video of a split, by whatever views the pipeline cuts; resumable.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import time
from typing import Any
import zlib

import numpy as np
import tensorflow as tf
import tqdm

from i3d_tf import errors
from i3d_tf.evaluation import config
from i3d_tf.evaluation import network as network_lib
from i3d_tf.evaluation import scores as scores_lib
from i3d_tf.input import clip_config
from i3d_tf.input import pipeline


class Tally:
  """The scores so far, in memory and in a file of the output folder."""

  def __init__(self, stream: str, classes: tuple[str, ...], made_with: Mapping[str, Any], folder: str | os.PathLike):
    self._empty = scores_lib.Scores(
      stream=stream,
      ids=(),
      labels=np.zeros(0, np.int32),
      logits=np.zeros((0, len(classes)), np.float32),
      numbers=np.zeros(0, np.int32),
      classes=classes,
      made_with=made_with,
    )
    self._final = pathlib.Path(folder) / f"scores_{stream}.npz"
    self._partial = self._final.with_suffix(".partial.npz")
    self._rows = []  # (id, label, logits, number)
    self._failures = []

  @property
  def numbers(self) -> list[int]:
    """The numbers of the records dealt with."""
    return [row[-1] for row in self._rows] + [failure["number"] for failure in self._failures]

  def finished(self) -> scores_lib.Scores | None:
    """The finished scores, if they are in the folder; I3dError if they were made otherwise."""
    return self._load(self._final) if self._final.exists() else None

  def resume(self) -> None:
    """Takes over what an earlier call left; I3dError if it was made otherwise."""
    if self._partial.exists():
      found = self._load(self._partial)
      self._rows = list(zip(found.ids, found.labels.tolist(), found.logits, found.numbers.tolist()))
      self._failures = list(found.failures)

  def add(self, video: Mapping[str, tf.Tensor], network: network_lib.Network) -> None:
    """Evaluates one element of `pipeline.eval_videos`."""
    name, reason = (video[key].numpy().decode(errors="surrogateescape") for key in ("id", "error"))
    number = int(video["record"])
    if not reason:
      try:
        logits = network.logits(video)
      except errors.I3dError as error:
        reason = str(error)
    if reason:
      self._failures.append({"number": number, "id": name, "reason": reason})
      tqdm.tqdm.write(f"failed: {name or number}: {reason}")
      return
    if not np.isfinite(logits).all():
      raise errors.I3dError(f"{name}: the logits of {network.name} are not finite; check its weights")
    self._rows.append((name, int(video["label"]), logits, number))

  def scores(self) -> scores_lib.Scores:
    """The scores so far."""
    if not self._rows:
      return dataclasses.replace(self._empty, failures=tuple(self._failures))
    ids, labels, logits, numbers = zip(*self._rows)
    return dataclasses.replace(
      self._empty,
      ids=ids,
      labels=np.array(labels, np.int32),
      logits=np.stack(logits),
      numbers=np.array(numbers, np.int32),
      failures=tuple(self._failures),
    )

  def save(self) -> None:
    """Keeps the scores so far."""
    scores_lib.save(self._partial, self.scores())

  def finish(self, num_records: int) -> scores_lib.Scores:
    """Checks that each record was dealt with once, and writes the scores, unless there are none."""
    scores = self.scores()
    check_complete(scores, num_records)
    if not self._rows:
      self._partial.unlink(missing_ok=True)
      raise errors.I3dError("no video could be evaluated; see the failures above")
    scores_lib.save(self._final, scores)
    self._partial.unlink(missing_ok=True)
    return scores

  def _load(self, path: pathlib.Path) -> scores_lib.Scores:
    found = scores_lib.load(path)
    old = {**found.made_with, "classes": found.classes}
    new = {**self._empty.made_with, "classes": self._empty.classes}
    # The same weights may be called by another path.
    names = [name for name in {**old, **new} if name != "checkpoint"]
    if differing := [name for name in names if old.get(name) != new.get(name)]:
      listed = "; ".join(f"{name} was {old.get(name)}, is {new.get(name)}" for name in differing)
      raise errors.I3dError(f"{path} was made otherwise ({listed}); choose another --output or remove it")
    return found


def check_complete(scores: scores_lib.Scores, num_records: int) -> None:
  """Asserts that every record of the split was evaluated, or failed, exactly once; I3dError if not."""
  split = scores.made_with["split"]
  if repeated := scores_lib.repeated_ids(scores.ids):
    raise errors.I3dError(
      f"{split} has {len(repeated)} ids more than once ({scores_lib.some(repeated)}); every video must count once"
    )
  numbers = [*scores.numbers.tolist(), *(failure["number"] for failure in scores.failures)]
  if sorted(numbers) != list(range(num_records)):
    missing = [str(number) for number in sorted(set(range(num_records)) - set(numbers))]
    named = f", never {scores_lib.some(missing)}" if missing else ""
    raise errors.I3dError(
      f"{split} has {num_records} records, but {len(scores.ids)} were evaluated and {len(scores.failures)} failed"
      f"{named}"
    )


def describe(network: network_lib.Network, source: pipeline.Source, clips: clip_config.EvalClips) -> dict[str, Any]:
  """What scores depend on, in plain values: other values, other scores."""
  places = [(entry.path.name, entry.offset, entry.length) for entry in source.entries]
  return {
    "checkpoint": network.name,
    "weights": network.fingerprint(),
    "step": network.info.step,
    "trained_on": network.info.dataset,
    "dataset": source.dataset,
    "split": source.split,
    "num_records": source.num_records,
    "records": f"{zlib.crc32(repr(places).encode()):08x}",
    "protocol": protocol(clips),
  }


def protocol(clips: clip_config.EvalClips) -> dict[str, Any]:
  """The options that the protocol uses; those about stacks of flow, where there are any."""
  left_out = {"streams", "frame_rate"} | config.unused(clips.protocol)
  if clips.flow_stack == 1:
    left_out |= {"flow_stack", "flow_stacking"}
  if not clips.subtract_mean_flow:
    left_out.add("subtract_mean_flow")
  return {name: value for name, value in dataclasses.asdict(clips).items() if name not in left_out}


def evaluate(
  network: network_lib.Network,
  source: pipeline.Source,
  clips: clip_config.EvalClips,
  folder: str | os.PathLike,
  *,
  save_seconds: float = 20.0,
) -> scores_lib.Scores:
  """Evaluates every video of the source once and writes `scores_STREAM.npz`.

  What is done is kept every `save_seconds`; called again, the work goes on there. A record that cannot be read is
  among the scores' `failures`.

  Raises:
    I3dError: if the folder holds scores made otherwise; if logits are not finite; if a video came twice or never.
  """
  classes = network_lib.match_classes(network, source)
  tally = Tally(network.stream, classes, describe(network, source, clips), folder)
  if (finished := tally.finished()) is not None:
    return finished
  tally.resume()
  videos = pipeline.eval_videos(source, clips, skip=tally.numbers)
  saved_at = time.monotonic()
  with tqdm.tqdm(
    videos, network.stream, total=source.num_records, initial=len(tally.numbers), unit="video", disable=None
  ) as bar:
    for video in bar:
      tally.add(pipeline.scaled(video), network)
      if time.monotonic() - saved_at >= save_seconds:
        tally.save()
        saved_at = time.monotonic()
  return tally.finish(source.num_records)
