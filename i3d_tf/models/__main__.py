"""Prints the table of networks. See `--help`."""

from typing import TYPE_CHECKING

from absl import flags

from i3d_tf import cli
from i3d_tf.models import zoo

if TYPE_CHECKING:
  from i3d_tf.models import base

USAGE = """Prints every network that --model=NAME means: what it takes, what it costs, what is published of it.

  python -m i3d_tf.models
  python -m i3d_tf.models two_stream c3d

Parameters are trained values for 400 classes. Multiply-adds are of one training clip forward: a multiplication with
its addition counts 1, taps on padding are counted; batch norm, biases and pools are not. Accuracies are top-1 on
Kinetics-400, in percent: of the paper's networks on the test set, of later ones on the validation set; "unsaid" are
those whose source does not say what the network started from."""

FLAGS = flags.FLAGS
_STARTS = {"scratch": "from scratch", "imagenet": "from ImageNet", "unknown": "unsaid"}
_COLUMNS = ("network", "stream", "clip", "test", "parameters", "G multiply-adds", *_STARTS.values())


def main(names: list[str]) -> None:
  """Prints the table."""
  cli.import_tensorflow()  # the zoo's entries need it
  entries = {name: zoo.get(name) for name in names or zoo.NAMES}
  rows = [row for name, entry in entries.items() for row in _rows(name, entry)]
  widths = [max(len(row[index]) for row in (_COLUMNS, *rows)) for index in range(len(_COLUMNS))]
  for row in (_COLUMNS, *rows):
    print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
  print()
  for name, entry in entries.items():
    print(f"{name}: {entry.title}. {entry.source}.")


def _rows(name: str, entry: "base.Entry") -> list[tuple[str, ...]]:
  """A row a stream, and one of joined streams if anything is published of them."""
  rows = [
      (
          name, stream, _clip(entry, stream), _test(entry), f"{entry.parameters[stream]:,}",
          f"{entry.giga_multiply_adds[stream]:.2f}", *_accuracies(entry, stream),
      )
      for stream in entry.streams
  ]  # fmt: skip
  both = _accuracies(entry, "rgb+flow")
  return rows + [(name, "rgb+flow", "", "", "", "", *both)] * any(both)


def _clip(entry: "base.Entry", stream: str) -> str:
  training = entry.training
  frames = f"{training['num_frames']}"
  if training["frame_stride"] > 1:
    frames += f", every {training['frame_stride']}"
  if together := training.get("segment_frames"):
    frames = f"{training['num_frames'] // together} x {together}"
  stack = training.get("flow_stack", 1)
  flows = f" of {stack} flows" if stack > 1 and stream != "rgb" else ""
  return f"{frames}{flows}, {training['crop']}x{training['crop']}"


def _test(entry: "base.Entry") -> str:
  if entry.test["protocol"] == "release":
    return f"all, up to {entry.test['max_frames']}"
  if entry.test["protocol"] == "ten_crop":
    return f"{entry.test['num_frames']} frames x 10 crops"
  count = entry.test["num_clips"]
  crops = " x 3 crops" if entry.test["protocol"] == "three_crops" else ""
  return f"{count} clip{'s' * (count > 1)}{crops}"


def _accuracies(entry: "base.Entry", stream: str) -> tuple[str, ...]:
  found = [entry.accuracies.get(start, {}).get(stream) for start in _STARTS]
  return tuple("" if value is None else f"{value:.1f}" for value in found)


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
