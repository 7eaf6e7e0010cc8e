"""What every network of the zoo costs on this machine, in one table and one figure: published accuracy against cost."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import provenance
from i3d_tf import workers
from i3d_tf.models import zoo

_STREAM = "rgb"  # which every network takes
_COLUMNS = (
    "network", "clip", "M parameters", "G multiply-adds", "s/clip", "clips/s trained", "GB, forward", "GB, trained",
    "top-1",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
  """Which networks, and clips of how many frames and pixels at the most; None: as they are trained."""

  models: Sequence[str]
  rounds: int
  batch: int = 1
  max_frames: int | None = None
  max_crop: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
  """One network: medians over the rounds, and the peak memory of a process that did nothing else, in bytes.

  `parameters` are those of 400 classes, `clip` is (frames, height, width). `accuracy` is the best that is published of
  RGB in percent, and `start` what that network was trained from; None if there is none.
  """

  model: str
  clip: tuple[int, int, int]
  parameters: int
  giga_multiply_adds: float
  forward_seconds: float
  forward_peak_bytes: int
  train_clips_per_second: float
  train_peak_bytes: int
  matrix_product_gmac_per_second: float
  accuracy: float | None
  start: str | None


@dataclasses.dataclass(frozen=True)
class Report:
  """What was measured, and of the networks that could not be measured, why."""

  machine: str
  options: Options
  rows: list[Row]
  failures: dict[str, str]


def measure(options: Options) -> Report:
  """Measures one network after the other, each in a process of its own; Ctrl-C ends it with what has been measured."""
  rows, failures = [], {}
  # disable=None: shown only on a terminal.
  for model in tqdm.tqdm(options.models, desc="networks", unit="network", disable=None):
    try:
      rows.append(_row(model, _measure_alone(_network_options(options, model)), options))
    except errors.I3dError as error:
      failures[model] = str(error)
    except KeyboardInterrupt:
      failures |= dict.fromkeys(options.models[len(rows) + len(failures) :], "interrupted")
      break
  return Report(machine=provenance.machine(), options=options, rows=rows, failures=failures)


def describe(report: Report) -> str:
  """The report as lines of text, the cheapest first."""
  lines = [_COLUMNS, *map(_cells, sorted(report.rows, key=lambda row: row.forward_seconds))]
  widths = [max(map(len, column)) for column in zip(*lines)]
  aligned = [
    "  ".join([cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))])
    for cells in lines
  ]
  batch = report.options.batch
  return "\n".join([f"{report.machine}; batches of {batch} clip{'s' * (batch > 1)}", "", *map(str.rstrip, aligned)])


def _measure_alone(options: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of the `network.Report` that a new process makes; I3dError if it cannot, or does not live to."""
  [outcome] = workers.run(_measure, [options], num_workers=1)
  if outcome.error is not None:
    raise errors.I3dError(outcome.error)
  return outcome.value


def _measure(options: Mapping[str, Any]) -> dict[str, Any]:
  cli.import_tensorflow(quiet=True)
  from i3d_tf.benchmarks import network

  return dataclasses.asdict(network.measure(network.Options(**options)))


def _network_options(options: Options, model: str) -> dict[str, Any]:
  """Those of `network.Options`."""
  entry, clip = zoo.get(model), zoo.training_clips(model, _STREAM)
  crop = min(clip["crop"], options.max_crop or clip["crop"])
  return {
    "rounds": options.rounds,
    "batch": options.batch,
    "num_frames": min(clip["num_frames"], options.max_frames or clip["num_frames"]),
    "crop": crop,
    "model": model,
    "stream": _STREAM,
    "average_space": crop < clip["crop"] and "average_space" in entry.options,
  }


def _row(model: str, measured: Mapping[str, Any], options: Options) -> Row:
  accuracies = {start: figures[_STREAM] for start, figures in zoo.get(model).accuracies.items() if _STREAM in figures}
  start = max(accuracies, key=accuracies.get, default=None)
  return Row(
    model=model,
    clip=measured["shape"][1:4],
    parameters=measured["parameters"],
    giga_multiply_adds=measured["giga_multiply_adds"] / options.batch,
    forward_seconds=measured["forward_seconds"] / options.batch,
    forward_peak_bytes=measured["forward_peak_bytes"],
    train_clips_per_second=options.batch / measured["train_seconds"],
    train_peak_bytes=measured["train_peak_bytes"],
    matrix_product_gmac_per_second=measured["matrix_product_gmac_per_second"],
    accuracy=accuracies.get(start),
    start=start,
  )


def _cells(row: Row) -> tuple[str, ...]:
  frames, height, width = row.clip
  return (
      row.model, f"{frames}x{height}x{width}", f"{row.parameters / 1e6:.2f}", f"{row.giga_multiply_adds:.2f}",
      f"{row.forward_seconds:.3f}", f"{row.train_clips_per_second:.3f}", f"{row.forward_peak_bytes / 1e9:.2f}",
      f"{row.train_peak_bytes / 1e9:.2f}", "" if row.accuracy is None else f"{row.accuracy:.1f}",
  )  # fmt: skip
