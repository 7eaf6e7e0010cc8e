"""Programs that are killed at random moments and started again; train and prepare_dataset have such tests of their own.

Nothing is left behind but what an undisturbed run leaves, the results are the same, and no process outlives the program
by more than a second. `I3D_TF_KILLS` sets the number of kills, which is one by default, since each takes a run.
"""

import json
import os
import pathlib
import random
import re
import signal
import tempfile
import time
from typing import Any
import uuid

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import testing

_SMALL = {"average_space": True, "num_frames": 9, "short_side": 36, "crop": 32}
_NUM_KILLS = int(os.environ.get("I3D_TF_KILLS", "1"))
_MARK = "I3D_TF_TEST_OF_KILLS"
_TABLE = {
    "title": "Kills", "records": ["records"], "seeds": [0], "rows": [{"name": "small", "rgb": "rgb.flags"}],
    "flags": ["--num_steps=4", "--save_every=2", "--deterministic", "--learning_rate=0.01"],
    "evaluate": ["--protocol=clips", "--num_clips=1"],
}  # fmt: skip
_RECIPE = "--width_multiplier=0.05 --average_space --num_frames=9 --crop=32 --short_side=36 --batch_size=2"


class KillsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    testing.write_network(cls.folder / "network", **_SMALL)
    testing.write_records(cls.folder / "records")
    (cls.folder / "videos" / "a").mkdir(parents=True)
    for number in range(6):
      testing.write_moving_video(cls.folder / "videos" / "a" / f"{number}.avi", seed=number, num_frames=20)
    for number in range(8):
      place = cls.folder / "labelled" / ("left", "right")[number % 2]
      place.mkdir(parents=True, exist_ok=True)
      testing.write_moving_video(place / f"{number}.avi", seed=number, num_frames=12)
    (cls.folder / "table.json").write_text(json.dumps(_TABLE))
    (cls.folder / "rgb.flags").write_text(_RECIPE.replace(" ", "\n"))

  @parameterized.named_parameters(
    ("evaluate", "evaluate --records=records --rgb_checkpoint=network --output=OUT --protocol=clips --num_clips=2"),
    (
      "extract_features",
      "extract_features --input=videos --output=OUT --rgb_checkpoint=network --window=9 --short_side=36 --crop=32",
    ),
    (
      "fvd",
      "fvd --real=videos --generated=videos --rgb_checkpoint=network --num_frames=9 --batch=2 --resamples=20 "
      "--save_stats=OUT/real.npz --json=OUT/fvd.json",
    ),
    (
      "fit",
      "fit --videos=labelled --output=OUT --rgb_checkpoint=network --num_folds=2 --precision=float32 "
      "--streams=rgb,flow --flow=dis",
    ),
    ("export", "export --checkpoint=network --output=OUT/model"),
    ("experiments", "experiments --table=TABLE --data=. --output=OUT"),
  )
  def test_killed_and_started_again(self, command):
    start = time.monotonic()
    self._finish(command, "whole")
    seconds = time.monotonic() - start
    rng = random.Random(command)
    for _ in range(_NUM_KILLS):
      mark = uuid.uuid4().hex
      process = self._start(command, "parts", mark)
      end = time.monotonic() + rng.uniform(0, seconds)
      while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
      if process.poll() is None:
        process.send_signal(signal.SIGKILL)
      process.finish()
      self._assert_gone(mark)
    self._finish(command, "parts")
    name = command.partition(" ")[0]
    parts, whole = (_content(self.folder / name / output) for output in ("parts", "whole"))
    self.assertCountEqual(parts, whole)
    self.assertEmpty([path for path in whole if parts[path] != whole[path]])
    self.assertEmpty([path.name for path in self.folder.glob(".*")])

  def _start(self, command: str, output: str, mark: str) -> testing.Program:
    name, *words = command.split()
    place = self.folder / name / output
    if name in ("fvd", "export"):
      place.mkdir(parents=True, exist_ok=True)
    table = place / "table.json"
    if name == "experiments" and not table.exists():  # which has its results beside it
      place.mkdir(parents=True)
      for file in ("table.json", "rgb.flags"):
        (place / file).write_bytes((self.folder / file).read_bytes())
    words = [word.replace("TABLE", str(table)).replace("OUT", str(place)) for word in words]
    return testing.Program(
      f"from i3d_tf.{name} import run; run()", *words, folder=self.folder, environment={_MARK: mark}
    )

  def _finish(self, command: str, output: str) -> None:
    finished = self._start(command, output, "").finish()
    # Of export a killed run may have been done, which it says.
    is_done = "export" in command and " already; name a new or an empty folder" in finished.stderr
    self.assertTrue(finished.status == 0 or is_done, finished)

  def _assert_gone(self, mark: str) -> None:
    deadline = time.monotonic() + 1
    while (left := _processes(mark)) and time.monotonic() < deadline:
      time.sleep(0.02)
    self.assertEmpty(left)


def _processes(mark: str) -> list[str]:
  """The processes that were started with the mark in their environment."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      if f"{_MARK}={mark}".encode() in (path / "environ").read_bytes():
        found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    except OSError:  # it has ended, or is another user's
      pass
  return found


def _content(folder: pathlib.Path) -> dict[str, Any]:
  """The files by name: of results their values, of others but their names, since they hold times and commands."""
  content = {}
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    name = re.sub(r"events\.out.*", "events", path.relative_to(folder).as_posix())
    if path.suffix == ".tfrecord" or path.name.startswith("variables.") or path.suffix == ".npy":
      content[name] = path.read_bytes()
    elif path.suffix == ".npz":
      with np.load(path) as arrays:
        content[name] = {key: arrays[key].tolist() for key in arrays if arrays[key].shape}  # no text about the run
    elif path.suffix == ".json":
      found = json.loads(path.read_bytes())
      content[name] = {key: found[key] for key in ("fvd", "results", "classes", "splits") if key in found}
    else:
      content[name] = None
  return content


if __name__ == "__main__":
  absltest.main()
