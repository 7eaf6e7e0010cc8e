"""Items from another thread: the same, no more ahead than allowed, with their errors, and without leftovers."""

import itertools
import threading
import time

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf.features import background


class AheadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.threads = set(threading.enumerate())

  def tearDown(self):
    super().tearDown()
    self.assertContainsSubset(set(threading.enumerate()), self.threads)

  @parameterized.parameters(1, 3, 100)
  def test_the_same_items_in_order(self, depth):
    with background.ahead(iter(range(50)), depth=depth) as items:
      self.assertEqual(list(items), list(range(50)))

  def test_no_more_than_the_depth_is_made_ahead(self):
    made = []

    def work():
      for number in itertools.count():
        made.append(number)
        yield number

    with background.ahead(work(), depth=4) as items:
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

    with background.ahead(work(), depth=5) as items:
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
      with background.ahead(work(), depth=2) as items:
        next(items)
        raise KeyError("enough")
    self.assertEqual(closed, [True])


if __name__ == "__main__":
  absltest.main()
