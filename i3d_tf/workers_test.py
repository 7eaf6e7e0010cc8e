"""Workers that answer, fail, die, and are outlived by their tasks.

Items from another thread: the same, no more ahead than allowed, with their errors, and without leftovers.
"""

import contextlib
import io
import itertools
import multiprocessing
import os
import pathlib
import signal
import tempfile
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf import workers


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
  list(workers.run(_sleep, [folder] * 2, num_workers=2))


def _is_running(pid: int) -> bool:
  try:
    return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except OSError:
    return False


def _count(number, last=None):
  """Yields the process and numbers; then ends, or as `last` says."""
  yield os.getpid()
  yield from range(number)
  if last == "die":
    os.kill(os.getpid(), signal.SIGSEGV)
  if last is not None:
    raise last


class StreamsTest(absltest.TestCase):
  def test_items_and_errors_come_in_order_from_one_process(self):
    streams = workers.Streams()
    first, *items = streams.iterate("x", _count, 100)
    self.assertEqual(items, list(range(100)))
    self.assertNotEqual(first, os.getpid())
    for error in (errors.VideoError("x: bad"), OSError(2, "not there", "x"), MemoryError("1 TiB")):
      found = streams.iterate("x", _count, 20, last=error)
      self.assertEqual([next(found) for _ in range(21)], [first, *range(20)])
      with self.assertRaises(type(error)) as raised:
        next(found)
      self.assertEqual(str(raised.exception), str(error))
    with self.assertRaisesRegex(RuntimeError, "x: a process failed on it:(.|\n)*ZeroDivisionError: a defect"):
      list(streams.iterate("x", _count, 1, last=ZeroDivisionError("a defect")))

  def test_a_generator_can_be_left_and_others_run_beside_it(self):
    streams = workers.Streams()
    left, other = streams.iterate("x", _count, 10**9), streams.iterate("y", _count, 3)
    pid = next(left)
    self.assertNotEqual(next(other), pid)
    self.assertEqual(list(other), [0, 1, 2])
    self.assertEqual([next(left) for _ in range(50)], list(range(50)))
    left.close()
    self.assertEqual([next(streams.iterate("z", _count, 10**9)) for _ in range(3)], [pid] * 3)

  def test_a_death_costs_the_items_of_one_generator(self):
    streams = workers.Streams()
    found = streams.iterate("x.mp4", _count, 3, last="die")
    self.assertEqual(list(itertools.islice(found, 1, 4)), [0, 1, 2])
    with self.assertRaisesRegex(errors.VideoError, "^x.mp4: the process that read it died .SIGSEGV.$"):
      next(found)
    pid, *items = streams.iterate("y", _count, 3)
    self.assertEqual(items, [0, 1, 2])
    os.kill(pid, signal.SIGKILL)  # while it has nothing to do
    streams._free[0][0].join()
    self.assertEqual(list(streams.iterate("z", _count, 3))[1:], [0, 1, 2])


class WorkersTest(absltest.TestCase):
  def test_every_task_has_one_outcome(self):
    tasks = [("square", n) for n in range(20)]
    outcomes = list(workers.run(_work, tasks, num_workers=3))
    self.assertCountEqual([(o.task, o.value) for o in outcomes], [(t, t[1] ** 2) for t in tasks])

  def test_errors_and_deaths_cost_their_task_only(self):
    with tempfile.TemporaryDirectory() as folder:
      mark = os.path.join(folder, "mark")
      tasks = [("square", 1), ("fail", "x.mp4"), ("die", 0), ("missing", "/no/file"), ("exit", 3), ("die once", mark)]
      tasks += [("square", n) for n in range(2, 6)]
      outcomes = {o.task: o for o in workers.run(_work, tasks, num_workers=2)}
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
      list(workers.run(_work, [("defect", 0)], num_workers=1))

  def test_no_task(self):
    self.assertEmpty(list(workers.run(_work, [], num_workers=2)))

  def test_leaving_early_stops_the_workers(self):
    import multiprocessing

    before = set(multiprocessing.active_children())  # those that decode for other tests stay
    running = workers.run(_work, [("square", n) for n in range(10)], num_workers=2)
    next(running)
    running.close()
    deadline = time.time() + 10
    while set(multiprocessing.active_children()) - before and time.time() < deadline:
      time.sleep(0.05)
    self.assertEmpty(set(multiprocessing.active_children()) - before)


class BarTest(absltest.TestCase):
  def test_where_there_is_no_terminal_it_is_a_line_at_intervals(self):
    with mock.patch.object(workers, "_LINE_EVERY", 0), contextlib.redirect_stderr(io.StringIO()) as stderr:
      with workers.Bar(total=4, initial=1, unit="step") as bar:
        bar.refresh()
        bar.update()
        bar.set_postfix(loss=0.5, refresh=False)
        bar.update(2)
      list(workers.Bar(range(3), unit="step", is_shown=False))
    lines = stderr.getvalue().splitlines()
    self.assertRegex(lines[-1], r"^4 of 4 steps \(100 %\), 00:00 left, loss=0.5$")
    self.assertIn("1 of 4 steps after 00:00", lines)
    self.assertIn("2 of 4 steps (50 %), 00:00 left", lines)

  def test_short_work_says_nothing_there(self):
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
      list(workers.Bar(range(3), unit="step"))
    self.assertEqual(stderr.getvalue(), "")


class AheadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.threads = set(threading.enumerate())

  def tearDown(self):
    super().tearDown()
    self.assertContainsSubset(set(threading.enumerate()), self.threads)

  @parameterized.parameters(1, 3, 100)
  def test_the_same_items_in_order(self, depth):
    with workers.ahead(iter(range(50)), depth=depth) as items:
      self.assertEqual(list(items), list(range(50)))

  def test_no_more_than_the_depth_is_made_ahead(self):
    made = []

    def work():
      for number in itertools.count():
        made.append(number)
        yield number

    with workers.ahead(work(), depth=4) as items:
      for wanted in (0, 1, 2):
        self.assertEqual(next(items), wanted)
        self._wait_until(lambda wanted=wanted: len(made) == wanted + 1 + 4 + 1)  # one more is in the thread's hand
        time.sleep(0.01)
        self.assertLen(made, wanted + 6)

  def _wait_until(self, condition) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
      time.sleep(0.001)

  def test_an_error_comes_in_its_place(self):
    def work():
      yield 1
      raise OSError("broken")

    with workers.ahead(work(), depth=5) as items:
      self.assertEqual(next(items), 1)
      with self.assertRaisesRegex(OSError, "broken"):
        next(items)

  def test_what_is_not_wanted_any_more_is_closed(self):
    closed = []

    def work():
      try:
        yield from itertools.count()
      finally:
        closed.append(True)

    with self.assertRaisesRegex(KeyError, "enough"):
      with workers.ahead(work(), depth=2) as items:
        next(items)
        raise KeyError("enough")
    self.assertEqual(closed, [True])


if __name__ == "__main__":
  absltest.main()
