"""One stream's logits of every video of a split, by whatever views the pipeline cuts; resumable."""

import dataclasses
import os
import time
from typing import Any
import zlib

import tqdm

from i3d_tf.evaluation import network as network_lib
from i3d_tf.evaluation import options
from i3d_tf.evaluation import scores as scores_lib
from i3d_tf.evaluation import tally as tally_lib
from i3d_tf.video import clip_options
from i3d_tf.video import pipeline


def describe(network: network_lib.Network, source: pipeline.Source, clips: clip_options.EvalClips) -> dict[str, Any]:
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


def protocol(clips: clip_options.EvalClips) -> dict[str, Any]:
  """The options that the protocol uses; those about stacks of flow, where there are any."""
  left_out = {"streams"} | options.unused(clips.protocol)
  if clips.flow_stack == 1:
    left_out |= {"flow_stack", "flow_stacking"}
  if not clips.subtract_mean_flow:
    left_out.add("subtract_mean_flow")
  return {name: value for name, value in dataclasses.asdict(clips).items() if name not in left_out}


def evaluate(
  network: network_lib.Network,
  source: pipeline.Source,
  clips: clip_options.EvalClips,
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
  tally = tally_lib.Tally(network.stream, classes, describe(network, source, clips), folder)
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
