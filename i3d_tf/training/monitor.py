"""What a run tells while it goes: a progress bar, lines of metrics.jsonl, and TensorBoard."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import time

import numpy as np
import tensorflow as tf
import tqdm

METRICS = "metrics.jsonl"
_FRAMES_SHOWN = 8  # of a clip, in TensorBoard


class Monitor:
  """Sums what the steps give, and tells it every `log_every` steps; a silent one for workers that are not the chief."""

  def __init__(self, folder: pathlib.Path | None, *, first_step: int, num_steps: int, log_every: int):
    """`folder`: the run's; None for silence. `first_step`: steps done before."""
    self._folder = folder
    self._log_every = log_every
    self._bar = tqdm.tqdm(
      total=num_steps, initial=first_step, unit="step", disable=None if folder else True, dynamic_ncols=True
    )
    self._writer = tf.summary.create_file_writer(os.fspath(folder)) if folder else tf.summary.create_noop_writer()
    if folder:
      _drop_lines_after(folder / METRICS, first_step)
    self._reset()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._bar.close()
    self._writer.close()

  def _reset(self) -> None:
    self._loss = self._correct = self._count = self._wait = 0.0
    self._since = time.perf_counter()

  def step(self, step: int, *, loss: float, correct: float, count: float, rate: float, wait: float) -> None:
    """Takes a step's sums over its clips and the seconds that it waited for them; `step` counts steps done."""
    self._loss += loss
    self._correct += correct
    self._count += count
    self._wait += wait
    self._bar.update()
    if step % self._log_every and step != self._bar.total:
      return
    seconds = time.perf_counter() - self._since
    clips = max(self._count, 1)
    values = {
      "loss": self._loss / clips,
      "accuracy": self._correct / clips,
      "rate": rate,
      "clips_per_second": self._count / seconds,
      "input_wait": self._wait / seconds,
    }
    self._bar.set_postfix(
      loss=f"{values['loss']:.3f}", acc=f"{values['accuracy']:.2f}", rate=f"{rate:g}", refresh=False
    )
    self.write(step, values)
    self._reset()

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes values of a step to metrics.jsonl and TensorBoard."""
    if self._folder is None:
      return
    with open(self._folder / METRICS, "a", encoding="utf-8") as file:
      file.write(json.dumps({"step": step, **values}) + "\n")
    with self._writer.as_default(step):
      for name, value in values.items():
        tf.summary.scalar(name, value)

  def clips(self, step: int, stream: str, clips: np.ndarray) -> None:
    """Shows the frames of augmented clips `[B, T, H, W, C]` in [-1, 1] in TensorBoard, a strip for each.

    Stacked flow `[B, T, H, W, 2L]` is shown flow by flow.
    """
    if self._folder is None:
      return
    with self._writer.as_default(step):
      tf.summary.image(f"clips/{stream}", np.stack([_strip(clip, stream) for clip in clips]), max_outputs=len(clips))

  def say(self, text: str) -> None:
    """Prints a line, beside the bar."""
    if self._folder is not None:
      tqdm.tqdm.write(text)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time of the body out of the rates."""
    start = time.perf_counter()
    yield
    self._since += time.perf_counter() - start


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
  """The lines of a metrics.jsonl that are whole; a run that was killed may have left one that is not."""
  lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
  return [json.loads(line) for line in lines if line.endswith("\n")]
