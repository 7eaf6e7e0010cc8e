"""What was computed of a video outlives the process: passes that are done are not done again, to the same bytes."""

import contextlib
import functools
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import testing
from i3d_tf.features import extraction
from i3d_tf.features import networks
from i3d_tf.features import profiles
from i3d_tf.features import results
from i3d_tf.features import sources

_NUM_FRAMES = 45


class _Killed(Exception):
  """In place of a signal."""


class JournalTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    for stream in ("rgb", "flow"):
      testing.write_network(cls.folder / stream, stream=stream, average_space=True, short_side=36, crop=32)
    testing.write_moving_video(cls.folder / "v.avi", seed=1, num_frames=_NUM_FRAMES)
    (cls.source,) = sources.list_sources([cls.folder / "v.avi"])

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "work" / "v.passes"
    self.calls = 0
    original = networks.FeatureNetwork.__call__

    def count(*args, **kwargs):
      self.calls += 1
      return original(*args, **kwargs)

    self.enter_context(mock.patch.object(networks.FeatureNetwork, "__call__", count))

  def _run(self, extractor, *, passes=None, meaning=None):
    """The arrays and the number of positions, or None if it is ended after some passes."""
    done = 0

    def on_frames(*_):
      nonlocal done
      done += 1
      if done == passes:
        raise _Killed

    journal = results.Journal(self.path, meaning or {"of": "v"})
    with contextlib.suppress(_Killed), extractor.extract(self.source, on_frames=on_frames, journal=journal) as features:
      arrays = {f"{s}/{e}": array.load() for s, each in features.arrays.items() for e, array in each.items()}
      journal.remove()
      return arrays, features.num_positions
    journal.close()
    return None

  @classmethod
  @functools.cache
  def _extractor(cls, **options):
    given = {f"{stream}_checkpoint": str(cls.folder / stream) for stream in ("rgb", "flow")}
    return extraction.Extractor(profiles.FeatureConfig(**{"precision": "float32", "threads": 1, **given, **options}))

  def _assert_equal(self, found, expected):
    self.assertEqual(found[1], expected[1])
    self.assertEqual(found[0].keys(), expected[0].keys())
    for name, array in found[0].items():
      self.assertEqual(array.tobytes(), expected[0][name].tobytes(), name)
      self.assertEqual(array.shape, expected[0][name].shape, name)

  @parameterized.parameters(
    {"window": 16, "hop": 8, "tail": "pad", "batch": 2},
    {"window": 16, "hop": 15, "tail": "loop", "batch": 1, "offset": 3},
    {"window": 16, "hop": 16, "tail": "short", "batch": 1, "streams": ("rgb", "flow"), "predictions": "csv"},
    {"window": profiles.ALL, "chunk": 16, "streams": ("rgb", "flow")},
  )
  def test_no_pass_is_done_twice(self, **options):
    extractor = self._extractor(**options)
    expected = self._run(extractor)
    whole, self.calls = self.calls, 0
    self.assertFalse(self.path.exists())
    self.assertGreaterEqual(whole, 2)
    found = None
    while found is None:
      found = self._run(extractor, passes=1)  # which ends behind each pass
    self._assert_equal(found, expected)
    self.assertEqual(self.calls, whole)

  def test_what_was_half_written_is_done_again(self):
    extractor = self._extractor(window=16, hop=8, batch=1)
    expected = self._run(extractor)
    self._run(extractor, passes=3)
    content = self.path.read_bytes()
    sizes = [len(content) - 1, len(content) - 700, 20, 3, 0]
    for size, most in zip(sizes, (1, 2, 5, 5, 5), strict=True):
      self.path.write_bytes(content[:size])
      self.calls = 0
      self._assert_equal(self._run(extractor), expected)
      self.assertLessEqual(self.calls, 2 + most)
    damaged = bytearray(content)
    damaged[-5] ^= 1
    self.path.write_bytes(damaged)
    self._assert_equal(self._run(extractor), expected)

  def test_of_another_meaning(self):
    extractor = self._extractor(window=16, hop=8, batch=1)
    expected = self._run(extractor)
    self._run(extractor, passes=2)
    self.calls = 0
    self._assert_equal(self._run(extractor, meaning={"of": "another"}), expected)
    self.assertEqual(self.calls, 5)

  def test_the_program_keeps_and_removes_it(self):
    extractor = self._extractor(window=16, hop=8, batch=1)
    folder = results.Folder(self.path.parent / "out")
    folder.path.mkdir(parents=True)
    with mock.patch.object(extraction, "_show", side_effect=[None, None, KeyboardInterrupt]):
      with self.assertRaises(KeyboardInterrupt):
        extraction.extract(self.source, extractor, folder)
    (kept,) = folder.path.rglob("*.passes")
    self.assertGreater(kept.stat().st_size, 1000)
    self.calls = 0
    entry = extraction.extract(self.source, extractor, folder)
    self.assertEqual(self.calls, 5 - 3)
    self.assertEqual([output["shape"] for output in entry["outputs"]], [[5, 50]])
    self.assertEmpty(list(folder.path.rglob("*.passes")))
    np.testing.assert_array_equal(
      np.load(folder.path / entry["outputs"][0]["path"])["features"],
      self._run(extractor)[0]["rgb/PooledFeatures"][:, 0],
    )


if __name__ == "__main__":
  absltest.main()
