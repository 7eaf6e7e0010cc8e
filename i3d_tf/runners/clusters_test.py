"""Dask and Slurm in real processes: the same bytes as here, though a worker is killed; and what they refuse."""

import collections
import contextlib
import functools
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

from absl.testing import absltest

from i3d_tf import errors
from i3d_tf import runners
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import distribution
from i3d_tf.data import shards

_CLIPS = tuple(clips_lib.Clip(f"clip{i:02}", f"clip{i:02}.avi", label="a") for i in range(16))
_DATASET = clips_lib.Dataset("made", ("a",), {"train": _CLIPS}, {"train": ()})
_PLAN = shards.plan(_DATASET, 4)
_ROOT = str(pathlib.Path(__file__).resolve().parents[2])
_SLURM = ("slurmctld", "slurmd", "sbatch", "munged")


def _make(task: shards.Task, *, diary: str, seconds: float, num_workers: int) -> bytes:
  """A record without a video: clip 3 is a bad one, and the last clip kills the process that works on it.

  Every clip first waits until so many workers have begun one, so that no share of the work depends on which of them
  was the first to have imported everything.
  """
  with open(diary, "a") as file:
    print(os.getppid(), task.clip.id, file=file)
  until = time.monotonic() + 120
  while len(_workers(pathlib.Path(diary))) < num_workers and time.monotonic() < until:
    time.sleep(0.05)
  time.sleep(seconds)
  if task.clip.id == "clip03":
    raise errors.VideoError("clip03.avi: the file is empty")
  if task.clip.id == "clip15":
    os.kill(os.getpid(), signal.SIGSEGV)
  return task.clip.id.encode() * 1000


def _workers(diary: pathlib.Path) -> collections.Counter[str]:
  """How many clips each worker process has begun."""
  return collections.Counter(line.split()[0] for line in diary.read_text().splitlines() if " " in line)


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


class _ClusterTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.stack = self.enterContext(contextlib.ExitStack())
    self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
    self.stack.enter_context(mock.patch.dict(os.environ, PYTHONPATH=_ROOT, PYTHONDONTWRITEBYTECODE="1"))
    self.diary = self.folder / "diary"

  def _start(self, *command: str) -> subprocess.Popen:
    log = open(self.folder / "log", "ab")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
    self.stack.callback(_end, process)
    return process

  def _prepare(
    self, runner: runners.Runner | None, output: str, *, seconds: float = 0.0, num_workers: int = 1
  ) -> dict[str, bytes]:
    folder = shards.Folder(self.folder / output, _PLAN)
    make = functools.partial(_make, diary=str(self.diary), seconds=seconds, num_workers=num_workers)
    with folder.claim({}):
      if runner is None:
        for task in folder.tasks():
          distribution._make_piece(task, output=str(folder.path), make=make)
        folder.tasks()
        folder.finish_shards()
      else:
        distribution.prepare_records(runner, folder, make)
      failures = folder.finish(_DATASET, {})
    self.assertEqual(
      {each["id"]: each["reason"] for each in failures},
      {"clip03": "clip03.avi: the file is empty", "clip15": "the worker process died (SIGSEGV), 2 times"},
    )
    return _files(folder.path)

  def _kill_at(self, num_clips: int) -> None:
    """Has another process kill the worker that began first as soon as so many clips are begun."""
    code = (
      "import os, pathlib, signal, sys, time\n"
      "diary = pathlib.Path(sys.argv[1])\n"
      "while not diary.exists() or diary.read_text().count('clip') < int(sys.argv[2]): time.sleep(0.05)\n"
      "parent = int(diary.read_text().split()[0])\n"
      "os.kill(parent, signal.SIGKILL)\n"
    )
    self._start(sys.executable, "-c", code, str(self.diary), str(num_clips))


def _end(process: subprocess.Popen) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)  # with the workers that it started
  process.wait()


@unittest.skipUnless(importlib.util.find_spec("distributed"), "dask.distributed is not installed")
class DaskTest(_ClusterTest):
  def test_both_workers_work_and_one_may_die(self):
    port = _free_port()
    address = f"tcp://127.0.0.1:{port}"
    command = lambda name, *rest: (sys.executable, "-m", f"distributed.cli.dask_{name}", *rest, "--no-dashboard")
    scheduler = self._start(*command("scheduler", f"--port={port}", "--host=127.0.0.1"))
    for _ in range(2):
      self._start(*command("worker", address, "--nthreads=1", f"--local-directory={self.folder}"))
    runner = runners.create("dask", [f"--scheduler={address}"])
    self._wait_for_workers(address)
    expected = self._prepare(None, "here")
    self.diary.unlink()
    self.assertEqual(self._prepare(runner, "dask", seconds=0.5, num_workers=2), expected)
    workers = _workers(self.diary)
    self.assertLen(workers, 2)
    # Idle machines share 8 to 8; a loaded one may hold up either worker for a second or two.
    self.assertGreaterEqual(min(workers.values()), 0.25 * len(_CLIPS))
    self.diary.unlink()
    self._kill_at(6)
    self.assertEqual(self._prepare(runner, "killed", seconds=0.2), expected)
    _end(scheduler)
    with self.assertRaisesRegex(errors.I3dError, f"^the Dask scheduler at {address} cannot be reached "):
      with mock.patch.dict(runner._arguments, timeout=1):
        self._prepare(runner, "lost")
    self.assertEqual(self._prepare(None, "lost"), expected)

  def _wait_for_workers(self, address: str) -> None:
    import distributed

    with distributed.Client(address, timeout=60) as client:
      client.wait_for_workers(2, timeout=60)

  def test_what_it_refuses(self):
    with mock.patch.dict(os.environ, DASK_SCHEDULER_ADDRESS=""):
      for options, message in (
        ([], "needs an option scheduler"),
        (["--shceduler=x"], "the runner dask has no option shceduler; it has scheduler and scheduler_file"),
        (["scheduler=x"], "must have the form --NAME=VALUE"),
      ):
        with self.subTest(message), self.assertRaisesRegex(errors.I3dError, message):
          runners.create("dask", options)
    with mock.patch.dict(sys.modules, distributed=None):
      with self.assertRaisesRegex(errors.I3dError, r"pip install '.\[dask\]' in a clone of i3d_tf"):
        runners.create("dask", [])


@unittest.skipUnless(importlib.util.find_spec("apache_beam"), "Apache Beam is not installed")
class PortableBeamTest(_ClusterTest):
  """A job service and a worker pool, the path that Flink and Spark share with it up to their own translation."""

  def test_writes_the_same_bytes(self):
    jobs, pool = _free_port(), _free_port()
    module = "apache_beam.runners."
    self._start(sys.executable, "-m", f"{module}portability.local_job_service_main", f"--port={jobs}")
    self._start(sys.executable, "-m", f"{module}worker.worker_pool_main", f"--service_port={pool}")
    expected = self._prepare(None, "here")
    for port in (jobs, pool):
      self._wait_for(port)
    environment = ("--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}")
    runner = runners.create("PortableRunner", [f"--job_endpoint=localhost:{jobs}", *environment])
    self.assertEqual(self._prepare(runner, "portable"), expected)

  def _wait_for(self, port: int) -> None:
    for _ in range(600):
      with socket.socket() as tried:
        if tried.connect_ex(("localhost", port)) == 0:
          return
      time.sleep(0.1)
    self.fail((self.folder / "log").read_text()[-2000:])


class SlurmTest(_ClusterTest):
  @unittest.skipUnless(all(map(shutil.which, _SLURM)), "Slurm (Debian's slurm-wlm) is not installed")
  @unittest.skipIf(
    shutil.which("munge") and subprocess.run(["munge", "-n"], capture_output=True).returncode, "no munged"
  )
  def test_two_nodes_work_and_a_job_may_die(self):
    self._start_cluster()
    expected = self._prepare(None, "here")
    for output, number in (("slurm", None), ("killed", 6)):
      with self.subTest(output):
        self.diary.unlink()
        if number is not None:
          self._kill_at(number)
        self.assertEqual(self._prepare(runners.create("slurm", ["--array=0-1"]), output, seconds=0.2), expected)
        self.assertEqual(list((self.folder / output).glob(".work*")), [])
    with self.assertRaisesRegex(errors.I3dError, "^sbatch refuses the job: .*invalid partition.*"):
      self._prepare(runners.create("slurm", ["--partition=none"]), "refused")

  def _start_cluster(self) -> None:
    host = socket.gethostname().partition(".")[0]
    ports = [_free_port() for _ in range(3)]
    nodes = "".join(
      f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i]} CPUs=1 RealMemory=500\n" for i in (1, 2)
    )
    (self.folder / "state").mkdir()
    config = self.folder / "slurm.conf"
    config.write_text(
      f"ClusterName=here\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={ports[0]}\nAuthType=auth/munge\n"
      f"SlurmUser=root\nSlurmdUser=root\nStateSaveLocation={self.folder}/state\nSlurmdSpoolDir={self.folder}/spool-%n\n"
      f"SlurmctldPidFile={self.folder}/ctld.pid\nSlurmdPidFile={self.folder}/slurmd-%n.pid\n"
      "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n"
      f"SelectTypeParameters=CR_Core\nReturnToService=2\nMpiDefault=none\n{nodes}"
      "PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP\n"
    )
    self.stack.enter_context(mock.patch.dict(os.environ, SLURM_CONF=str(config)))
    self._start("slurmctld", "-D")
    for name in ("n1", "n2"):
      self._start("slurmd", "-D", "-N", name)
    for _ in range(60):
      found = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False)
      if found.stdout.split() == ["idle"]:
        return
      time.sleep(1)
    self.fail(f"the cluster did not start: {(self.folder / 'log').read_text()[-2000:]}")

  def test_a_machine_without_slurm(self):
    with mock.patch.dict(os.environ, PATH=""):
      with self.assertRaisesRegex(errors.I3dError, "^sbatch is not found; "):
        runners.create("slurm", [])


if __name__ == "__main__":
  absltest.main()
