"""Workers that answer, fail, die, and are outlived by their tasks."""

import multiprocessing
import os
import pathlib
import signal
import tempfile
import time

from absl.testing import absltest

from i3d_tf import errors
from i3d_tf import resources


def _work(task):
  """Does what the task says; runs in a worker."""
  action, argument = task
  if action == "square":
    return argument * argument
  if action == "fail":
    raise errors.VideoError(f"{argument}: bad")
  if action == "missing":
    return open(argument)
  if action == "die":
    os.kill(os.getpid(), signal.SIGKILL)
  if action == "die once":
    path = pathlib.Path(argument)
    if not path.exists():
      path.touch()
      os.kill(os.getpid(), signal.SIGSEGV)
    return "second try"
  if action == "exit":
    os._exit(argument)
  raise ZeroDivisionError("a defect")


def _sleep(folder):
  pathlib.Path(folder, str(os.getpid())).touch()
  time.sleep(60)


def _keep_busy(folder):
  list(resources.run(_sleep, [folder] * 2, num_workers=2))


def _is_running(pid: int) -> bool:
  try:
    return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except OSError:
    return False


class WorkersTest(absltest.TestCase):
  def test_every_task_has_one_outcome(self):
    tasks = [("square", n) for n in range(20)]
    outcomes = list(resources.run(_work, tasks, num_workers=3))
    self.assertCountEqual([(o.task, o.value) for o in outcomes], [(t, t[1] ** 2) for t in tasks])

  def test_errors_and_deaths_cost_their_task_only(self):
    with tempfile.TemporaryDirectory() as folder:
      mark = os.path.join(folder, "mark")
      tasks = [("square", 1), ("fail", "x.mp4"), ("die", 0), ("missing", "/no/file"), ("exit", 3), ("die once", mark)]
      tasks += [("square", n) for n in range(2, 6)]
      outcomes = {o.task: o for o in resources.run(_work, tasks, num_workers=2)}
    self.assertLen(outcomes, len(tasks))
    self.assertEqual(outcomes[("fail", "x.mp4")].error, "x.mp4: bad")
    self.assertEqual(outcomes[("missing", "/no/file")].error, "/no/file: No such file or directory")
    self.assertEqual(outcomes[("die", 0)].error, "the worker process died (SIGKILL), 2 times")
    self.assertEqual(outcomes[("exit", 3)].error, "the worker process died (exit status 3), 2 times")
    self.assertEqual(outcomes[("die once", mark)].value, "second try")
    self.assertEqual([outcomes[("square", n)].value for n in range(1, 6)], [1, 4, 9, 16, 25])

  def test_workers_end_when_their_parent_is_killed(self):
    with tempfile.TemporaryDirectory() as folder:
      parent = multiprocessing.get_context("spawn").Process(target=_keep_busy, args=(folder,))
      parent.start()
      while len(os.listdir(folder)) < 2:
        time.sleep(0.01)
      parent.kill()
      parent.join()
      pids = [int(name) for name in os.listdir(folder)]
    deadline = time.monotonic() + 5
    while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
      time.sleep(0.01)
    self.assertEqual([_is_running(pid) for pid in pids], [False, False])

  def test_a_defect_is_raised(self):
    with self.assertRaisesRegex(RuntimeError, "(?s)a worker failed on .*ZeroDivisionError: a defect"):
      list(resources.run(_work, [("defect", 0)], num_workers=1))

  def test_no_task(self):
    self.assertEmpty(list(resources.run(_work, [], num_workers=2)))

  def test_leaving_early_stops_the_workers(self):
    import multiprocessing

    running = resources.run(_work, [("square", n) for n in range(10)], num_workers=2)
    next(running)
    running.close()
    deadline = time.time() + 10
    while multiprocessing.active_children() and time.time() < deadline:
      time.sleep(0.05)
    self.assertEmpty(multiprocessing.active_children())


if __name__ == "__main__":
  absltest.main()
