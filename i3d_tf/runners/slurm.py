"""Slurm: an array job that the launcher writes, submits and waits for.

The jobs run this module: `python -m i3d_tf.runners.slurm FOLDER`, where FOLDER has the tasks.
"""

from collections.abc import Callable, Sequence
import contextlib
import os
import pathlib
import pickle
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any

from i3d_tf import errors
from i3d_tf import stores
from i3d_tf import workdir
from i3d_tf import workers

_TASKS, _SCRIPT, _JOB, _DONE = "tasks.pickle", "job.sh", "job.id", "done-"
_NUM_JOBS, _TASKS_OF_JOB = 16, 8  # of the array at most, and tasks of each at least, unless the options say otherwise
_LOOK_SECONDS = 2.0


def create(name: str, options: Sequence[str], *, quiet: bool = False) -> "SlurmRunner":
  """Returns the runner.

  Args:
    name: 'slurm'.
    options: Those of sbatch, such as '--partition=gpu' and '--array=0-63%16'.
    quiet: Not used.

  Raises:
    I3dError: If this machine cannot submit jobs.
  """
  del name, quiet
  if shutil.which("sbatch") is None:
    raise errors.I3dError("sbatch is not found; the runner slurm is started on a machine that submits jobs to Slurm")
  return SlurmRunner(options)


class SlurmRunner:
  """Runs tasks as the jobs of an array."""

  def __init__(self, options: Sequence[str]):
    """Submits nothing.

    Args:
      options: Those of sbatch.
    """
    self._options = list(options)

  def run(self, function: Callable[[Any], Any], tasks: Sequence[Any], *, work: pathlib.Path, unit: str) -> None:
    """Runs the tasks, see `runners.Runner.run`; every job takes each N-th of them.

    Args:
      function: See `runners.Runner.run`.
      tasks: See `runners.Runner.run`.
      work: See `runners.Runner.run`.
      unit: See `runners.Runner.run`.

    Raises:
      I3dError: If sbatch refuses the job, a job fails, or `work` is in an object store.
    """
    if stores.is_remote(work):
      raise errors.I3dError(f"{work}: jobs of Slurm have their script and logs here; take a folder of a file system")
    folder = work / "slurm"
    _cancel(folder)  # of a launcher that was killed
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with workdir.replacing(folder / _TASKS) as file:
      pickle.dump((function, list(tasks)), file)
    with workdir.replacing(folder / _SCRIPT) as file:
      file.write(_script(folder).encode())
    job = self._submit(folder, len(tasks))
    with workdir.replacing(folder / _JOB) as file:
      file.write(job.encode())
    try:
      self._wait(folder, job, len(tasks), unit)
    finally:
      _cancel(folder)
    if logs := _complaints(folder):
      raise errors.I3dError(f"a job of Slurm failed: {logs[0]}; start again to go on with what is left")
    shutil.rmtree(folder, ignore_errors=True)

  def _submit(self, folder: pathlib.Path, num_tasks: int) -> str:
    """Submits the array, and returns its number."""
    num_jobs = min(_NUM_JOBS, -(-num_tasks // _TASKS_OF_JOB))
    fixed = ["--parsable", "--job-name=i3d_tf", f"--array=0-{num_jobs - 1}", "--requeue"]
    command = ["sbatch", *fixed, f"--output={folder}/%a.log", *self._options, str(folder / _SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
      raise errors.I3dError(f"sbatch refuses the job: {reason}")
    return done.stdout.strip().partition(";")[0]

  def _wait(self, folder: pathlib.Path, job: str, num_tasks: int, unit: str) -> None:
    """Shows how many tasks are done until no job is left."""
    with workers.Bar(total=num_tasks, unit=unit) as bar:
      while _is_there(job):
        time.sleep(_LOOK_SECONDS)
        bar.update(sum(path.stat().st_size for path in folder.glob(f"{_DONE}*")) - bar.n)


def _script(folder: pathlib.Path) -> str:
  """The batch script: this Python, with its path, runs the jobs."""
  path = os.pathsep.join(entry for entry in sys.path if entry)
  command = shlex.join([sys.executable, "-m", "i3d_tf.runners.slurm", str(folder)])
  return f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(path)}\nexec {command}\n"


def _is_there(job: str) -> bool:
  """Whether any job of an array waits or runs."""
  command = ["squeue", "--noheader", "--format=%i", f"--jobs={job}"]
  for pause in (1, 5, 30):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
      return bool(done.stdout.strip())
    if "Invalid job id" in done.stderr:  # which Slurm says of jobs that ended a while ago
      return False
    time.sleep(pause)
  reason = " ".join(done.stderr.split())
  raise errors.I3dError(f"Slurm no longer answers ({reason}); start again to go on with what is left")


def _cancel(folder: pathlib.Path) -> None:
  """Ends the array of a folder, if there is one."""
  with contextlib.suppress(OSError):
    job = (folder / _JOB).read_text()
    subprocess.run(["scancel", job], capture_output=True, check=False)


def _complaints(folder: pathlib.Path) -> list[str]:
  """The last line of each job's output that ended with an error."""
  logs = sorted(folder.glob("*.failed"))
  return [log.read_text(errors="replace").strip().splitlines()[-1] for log in logs]


def main(folder: pathlib.Path) -> int:
  """Does the part of the tasks that falls to this job.

  Args:
    folder: Where the launcher put the tasks.

  Returns:
    The exit status.
  """
  index, count = _place()
  try:
    function, tasks = pickle.loads((folder / _TASKS).read_bytes())
    with open(folder / f"{_DONE}{index}", "ab", buffering=0) as done:
      for task in tasks[index::count]:
        function(task)
        done.write(b".")
  except Exception:
    import traceback

    (folder / f"{index}.failed").write_text(traceback.format_exc())
    raise
  return 0


def _place() -> tuple[int, int]:
  """This job's number, from 0, and how many jobs the array has."""
  names = ("ID", "MIN", "STEP", "COUNT")
  number, first, step, count = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in names)
  return (number - first) // max(step, 1), count


if __name__ == "__main__":
  sys.exit(main(pathlib.Path(sys.argv[1])))
