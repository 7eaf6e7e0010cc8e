"""The folder of a run: its options, compared when the run goes on, and the metrics that are logged there."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import time

import numpy as np
import tensorflow as tf
import tqdm

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf import workers
from i3d_tf.models import base
from i3d_tf.weights import release

OPTIONS = "options.json"
_CHECKPOINT_FILE = re.compile(r"ckpt-(\d+)\.(?:index|data-\d+-of-\d+)")
METRICS = "metrics.jsonl"
_FRAMES_SHOWN = 8  # of a clip, in TensorBoard
CHECKPOINTS = "checkpoints"  # folder
# What may differ when a run goes on: it changes neither batches nor weights at any step already done.
_FREE = frozenset({
    "output", "num_steps", "save_every", "keep_checkpoints", "log_every", "profile_steps", "allow_unreadable",
    "num_logical_cpus", "data_service", "recompute", "jit_compile",
})  # fmt: skip
_PATHS = ("records", "second_records", "initial_checkpoint")


@contextlib.contextmanager
def claim(folder: pathlib.Path, options: Sequence, flags_text: str, *, num_replicas: int) -> Iterator[None]:
  """Keeps the folder for this process while the body runs; makes it, or checks that the run in it is this one.

  Args:
    folder: Folder of the run.
    options: Dataclasses that together say what the run is.
    flags_text: Content of flags.txt, from which the run can be started again.
    num_replicas: Number of replicas, which multiplies the batch, and so must stay, too.

  Yields:
    Nothing.

  Raises:
    I3dError: if the folder holds something else, or a run with other options, naming every difference.
  """
  new = {name: value for part in options for name, value in dataclasses.asdict(part).items()}
  # Runs of earlier versions lack the options that were added later; these are compared with their defaults.
  known = [field for part in options for field in dataclasses.fields(part)]
  defaults = {field.name: field.default for field in known if field.default is not dataclasses.MISSING}
  steps = checkpoint_steps(folder)
  if steps and steps[-1] > new["num_steps"]:
    raise errors.I3dError(
      f"{folder} stands at step {steps[-1]}, beyond num_steps, {new['num_steps']}; give at least as many, or another "
      "output"
    )
  run = workdir.Workdir(folder, OPTIONS, section=None)
  parameters = {**new, "num_replicas": num_replicas}
  with run.claim(parameters, defaults=defaults, free=_FREE, paths=_PATHS, compare=bool(steps)):
    (folder / "flags.txt").write_text(flags_text, encoding="utf-8")
    rows = "".join(f"{name}\t{value}\n" for name, value in resources.provenance().items())
    (folder / "versions.txt").write_text(rows, encoding="utf-8")
    yield


def describe(folder: pathlib.Path, model: base.Network, steps: Mapping[str, Sequence[str]]) -> None:
  """Writes the table of variables, and the steps that clips go through.

  Args:
    folder: Folder of the run.
    model: Network that is built.
    steps: Names of the steps by what they are for.
  """
  trained = {variable.name for variable in model.trained_variables}
  lines = [
    f"{name}\t{'x'.join(map(str, variable.shape))}\t{'trained' if variable.name in trained else 'not trained'}"
    for name, variable in release.named_variables(model).items()
  ]
  (folder / "variables.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
  rows = [f"{purpose}\t{number}\t{step}" for purpose, names in steps.items() for number, step in enumerate(names)]
  (folder / "input_steps.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


def checkpoint_steps(folder: pathlib.Path) -> list[int]:
  """Lists the checkpoints of a run by their files, since TensorFlow's own list of them may be damaged.

  Args:
    folder: Folder of the run.

  Returns:
    The steps of all checkpoints of which there is a file, in ascending order.
  """
  names = [path.name for path in (folder / CHECKPOINTS).glob("ckpt-*")]
  return sorted({int(found[1]) for name in names if (found := _CHECKPOINT_FILE.fullmatch(name))})


class Monitor:
  """Sums the metrics of the steps, and logs them every `log_every` steps."""

  def __init__(
    self,
    folder: pathlib.Path | None,
    *,
    first_step: int,
    num_steps: int,
    log_every: int,
    sums: Sequence[float] = (),
    is_shown: bool = False,
    profile_steps: tuple[int, ...] = (),
  ):
    """Begins to log.

    Args:
      folder: Folder of metrics.jsonl and of TensorBoard's events; None: nothing is written.
      first_step: Steps done before.
      num_steps: Last step.
      log_every: Steps between two lines.
      sums: `sums` of the run's last monitor, where it goes on between two lines.
      is_shown: Whether lines are printed, and a bar on a terminal.
      profile_steps: First and last step to profile; empty for none.
    """
    self._is_shown = is_shown
    self._profile_steps = profile_steps if folder else ()
    self._is_profiling = False
    self._folder = folder
    self._log_every = log_every
    self._bar = workers.Bar(total=num_steps, initial=first_step, unit="step", is_shown=is_shown, dynamic_ncols=True)
    self._writer = tf.summary.create_file_writer(os.fspath(folder)) if folder else tf.summary.create_noop_writer()
    if folder:
      _drop_lines_after(folder / METRICS, first_step)
    self._reset(sums)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._stop_profiling()
    self._bar.close()
    self._writer.close()

  def _reset(self, sums: Sequence[float] = ()) -> None:
    # Of runs before there were distances there are three.
    self._loss, self._correct, self._count, self._distance = (*sums, 0.0, 0.0, 0.0, 0.0)[:4]
    self._timed = self._wait = 0.0
    self._since = time.perf_counter()

  @property
  def sums(self) -> list[float]:
    """What the next line will be of so far: the sum of the losses, the correct clips, the clips, and the distances."""
    return [self._loss, self._correct, self._count, self._distance]

  def step(
    self, step: int, *, loss: float, correct: float, count: float, rate: float, wait: float, distance: float = 0.0
  ) -> None:
    """Logs a step.

    Args:
      step: Steps done, this one included.
      loss: Sum of the losses of its clips.
      correct: Number of clips that were classified correctly.
      count: Number of clips.
      rate: Learning rate.
      wait: Seconds for which the step waited for its clips.
      distance: Sum of the distances from the teacher, if there is one.
    """
    self._distance += distance
    self._loss += loss
    self._correct += correct
    self._count += count
    self._timed += count
    self._wait += wait
    self._bar.update()
    if step % self._log_every and step != self._bar.total:
      return
    seconds = time.perf_counter() - self._since
    clips = max(self._count, 1)
    values = {
      "loss": self._loss / clips,
      "accuracy": self._correct / clips,
      **({"distance": self._distance / clips} if self._distance else {}),
      "rate": rate,
      "clips_per_second": self._timed / seconds,
      "input_wait": self._wait / seconds,
    }
    self._bar.set_postfix(
      loss=f"{values['loss']:.3f}", acc=f"{values['accuracy']:.2f}", rate=f"{rate:g}", refresh=False
    )
    self.write(step, values)
    self._reset()

  def profile(self, step: int) -> None:
    """Begins or ends to profile; call it before every step.

    Args:
      step: Steps done.
    """
    if self._profile_steps and step == self._profile_steps[0]:
      tf.profiler.experimental.start(str(self._folder))
      self._is_profiling = True
    elif self._profile_steps and step > self._profile_steps[1]:
      self._stop_profiling()

  def _stop_profiling(self) -> None:
    if self._is_profiling:
      tf.profiler.experimental.stop()
      self._is_profiling = False

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes metrics to metrics.jsonl and TensorBoard.

    Args:
      step: Steps done.
      values: Metrics by name.
    """
    if self._folder is None:
      return
    with open(self._folder / METRICS, "a", encoding="utf-8") as file:
      file.write(json.dumps({"step": step, **values}) + "\n")
    with self._writer.as_default(step):
      for name, value in values.items():
        tf.summary.scalar(_tag(name), value)

  def clips(self, step: int, stream: str, clips: np.ndarray) -> None:
    """Shows the frames of augmented clips in TensorBoard, a strip for each.

    Args:
      step: Steps done.
      stream: 'rgb' or 'flow'.
      clips: `[B, T, H, W, C]` in [-1, 1]; stacked flow `[B, T, H, W, 2L]` is shown flow by flow.
    """
    if self._folder is None:
      return
    with self._writer.as_default(step):
      tf.summary.image(f"clips/{stream}", np.stack([_strip(clip, stream) for clip in clips]), max_outputs=len(clips))

  def say(self, text: str) -> None:
    """Prints a line beside the bar, if anything is shown.

    Args:
      text: The line.
    """
    if self._is_shown:
      tqdm.tqdm.write(text)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time of the body out of the rates.

    Yields:
      Nothing.
    """
    start = time.perf_counter()
    yield
    self._since += time.perf_counter() - start


def _tag(name: str) -> str:
  """A metric's name in TensorBoard, where curves that belong together stand together."""
  if name in ("rate", "clips_per_second", "input_wait"):
    return f"training/{name}"
  return f"{name.removeprefix('validation_')}/{'validation' if name.startswith('validation_') else 'training'}"


def _strip(clip: np.ndarray, stream: str) -> np.ndarray:
  """Frames at equal distances side by side, uint8 `[H, n * W, 3]`; flow in colours."""
  from i3d_tf.flow import codec

  if stream == "flow":
    clip = np.concatenate([clip[..., channel : channel + 2] for channel in range(0, clip.shape[-1], 2)])
  steps = np.unique(np.linspace(0, len(clip) - 1, _FRAMES_SHOWN).astype(int))
  if stream == "flow":
    fields = clip[steps] * codec.BOUND
    images = [codec.draw(field, full_scale=max(1.0, float(np.abs(fields).max()))) for field in fields]
  else:
    images = list(np.rint((clip[steps] + 1) * 127.5).astype(np.uint8))
  return np.concatenate(images, axis=1)


def _drop_lines_after(path: pathlib.Path, step: int) -> None:
  """Removes what an interrupted run wrote about steps that are now done again."""
  if not path.exists():
    return
  kept = "".join(json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step)
  if kept != path.read_text(encoding="utf-8"):
    path.write_text(kept, encoding="utf-8")


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
  """Returns the complete lines of a metrics.jsonl; a run that was killed may have left one that is not.

  Args:
    path: The file.

  Raises:
    I3dError: If a complete line is damaged.
    OSError: If the file cannot be read.
  """
  whole, _, _ = path.read_bytes().rpartition(b"\n")
  found = []
  for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
    values = files.parse_json(line, f"{path}: line {number}", "what train writes", finite=False)
    is_number = lambda value: isinstance(value, int | float) or value is None
    if not isinstance(values, dict) or not all(map(is_number, values.values())) or type(values.get("step")) is not int:
      raise errors.I3dError(f"{path}: line {number} is not what train writes; remove it")
    found.append(values)
  return found
