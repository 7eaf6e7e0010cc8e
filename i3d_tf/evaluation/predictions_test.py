"""Score files, and the sentences about streams that do not belong together."""

import dataclasses
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf.evaluation import predictions

_CLASSES = ("run", "jump", "sit", "fall")


def _scores(stream="rgb", ids=("a", "b", "c"), labels=(0, 2, 1), **changes) -> predictions.Predictions:
  return predictions.Predictions(
    **{
      "stream": stream,
      "ids": tuple(ids),
      "labels": np.array(labels, np.int32),
      "logits": np.arange(4 * len(ids), dtype=np.float32).reshape(-1, 4) / 7,
      "numbers": np.arange(len(ids), dtype=np.int32),
      "classes": _CLASSES,
      "made_with": {"dataset": "d", "split": "test", "protocol": {"flip": False, "crop": 64}, "step": None},
      **changes,
    }
  )


def _without(scores: predictions.Predictions, name: str) -> predictions.Predictions:
  """`scores` in which the video `name` failed."""
  kept = scores.take(np.array([index for index, other in enumerate(scores.ids) if other != name]))
  return dataclasses.replace(kept, failures=({"number": scores.ids.index(name), "id": name, "reason": "torn"},))


class FileTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.path = pathlib.Path(folder.name) / "scores.npz"

  def test_what_is_written_is_read(self):
    failure = {"number": 3, "id": "", "reason": "the file ends within it"}
    written = _scores(ids=("a", "b/ü", "c\udcff"), failures=(failure,))
    predictions.save(self.path, written)
    read = predictions.load(self.path)
    for field in dataclasses.fields(written):
      old, new = getattr(written, field.name), getattr(read, field.name)
      if isinstance(old, np.ndarray):
        np.testing.assert_array_equal(new, old)
        self.assertEqual(new.dtype, old.dtype)
      else:
        self.assertEqual(new, old)
    first = self.path.read_bytes()
    predictions.save(self.path, read)
    self.assertEqual(self.path.read_bytes(), first)

  def test_no_videos(self):
    empty = _scores(ids=(), labels=())
    predictions.save(self.path, empty)
    self.assertEqual(predictions.load(self.path).logits.shape, (0, 4))

  def test_other_files(self):
    for content in (b"", b"hello", b"PK\x03\x04"):
      self.path.write_bytes(content)
      self._assert_refused("this is no score file of evaluate")
    np.savez(self.path, ids=["a"])
    self._assert_refused("this is no score file of evaluate")

  def test_cut_off(self):
    predictions.save(self.path, _scores())
    self.path.write_bytes(self.path.read_bytes()[:-40])
    self._assert_refused("this is no score file of evaluate, or it is damaged")

  def test_arrays_that_do_not_fit(self):
    predictions.save(self.path, _scores(labels=(0, 1)))
    self._assert_refused("3 ids and 4 classes do not fit logits of shape .3, 4. and labels of shape .2,.")

  def test_a_video_twice(self):
    predictions.save(self.path, _scores(ids=("a", "b", "a")))
    self._assert_refused("1 videos are in it more than once .a.")

  def _assert_refused(self, sentence: str) -> None:
    with self.assertRaisesRegex(errors.I3dError, f"^{self.path}: {sentence}") as caught:
      predictions.load(self.path)
    self.assertNotIn("\n", str(caught.exception))


class JoinTest(parameterized.TestCase):
  def test_other_order(self):
    flow = _scores("flow").take(np.array([2, 0, 1]))
    left, right = predictions.join(_scores(), flow)
    self.assertEqual(left.ids, ("a", "b", "c"))
    self.assertEqual(right.ids, ("a", "b", "c"))
    np.testing.assert_array_equal(right.logits, _scores("flow").logits)
    np.testing.assert_array_equal(right.labels, [0, 2, 1])

  @parameterized.parameters((True, False), (False, True), (True, True))
  def test_what_failed_in_a_stream_is_left_out(self, in_rgb, in_flow):
    rgb, flow = _scores(), _scores("flow")
    left, right = predictions.join(_without(rgb, "b") if in_rgb else rgb, _without(flow, "b") if in_flow else flow)
    self.assertEqual(left.ids, ("a", "c"))
    self.assertEqual(right.ids, ("a", "c"))
    np.testing.assert_array_equal(left.logits, rgb.logits[[0, 2]])
    np.testing.assert_array_equal(right.logits, flow.logits[[0, 2]])
    np.testing.assert_array_equal(right.numbers, [0, 2])

  @parameterized.named_parameters(
      ("ids", {"ids": ("a", "x", "y")},
       r"the streams' videos differ: 2 only in rgb \(b; c\), 2 only in flow \(x; y\); evaluate both on the same"),
      ("one_more", {"ids": ("a", "b", "c", "d"), "labels": (0, 2, 1, 0)},
       r"the streams' videos differ: 1 only in flow \(d\); evaluate"),
      ("many", {"ids": tuple("aefghijb"), "labels": range(8)},
       r"differ: 1 only in rgb \(c\), 6 only in flow \(e; f; g; \.\.\.\); evaluate"),
      ("labels", {"labels": (0, 3, 1)}, r"the streams' labels differ for 1 videos \(b: 2 and 3\)"),
      ("classes", {"classes": ("run", "jump", "lie", "fall")},
       r"the streams' classes differ \(the first at 2\): rgb has 'sit', flow 'lie'"),
      ("number_of_classes", {"classes": ("run", "jump"), "logits": np.zeros((3, 2), np.float32)},
       r"the streams' classes differ: rgb has 4, flow 2"),
      ("data_set", {"made_with": {"dataset": "e", "split": "test"}},
       r"the streams' dataset differ: rgb has 'd', flow 'e'"),
      ("split", {"made_with": {"dataset": "d", "split": "val"}},
       r"the streams' split differ: rgb has 'test', flow 'val"),
  )  # fmt: skip
  def test_streams_that_differ(self, changes, sentence):
    with self.assertRaisesRegex(errors.I3dError, sentence) as caught:
      predictions.join(_scores(), _scores("flow", **changes))
    self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
  absltest.main()
