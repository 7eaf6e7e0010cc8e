"""Which clips a report shows, and what it says of them."""

import pathlib
import tempfile

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf.data import inspection
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.evaluation import figures
from i3d_tf.evaluation import scores

_LABELS = np.array([0, 0, 1, 1, 2], np.int32)
_LOGITS = np.float32([[9, 0, 0], [7, 0, 0], [5, 0, 0], [1, 2, 0], [0, 3, 2]])  # margins 9, 7, -5, 1, -1


def _scores() -> scores.Scores:
  return scores.Scores(
      stream="rgb", ids=tuple("abcde"), labels=_LABELS, logits=_LOGITS, numbers=np.arange(5, dtype=np.int32)[::-1],
      classes=("run", "sit", "lie"), made_with={},
  )  # fmt: skip


class ChooseTest(absltest.TestCase):
  def test_one_of_a_class(self):
    self.assertEqual(figures.choose(_LOGITS, _LABELS, 9), ([0, 3, 4], [2, 4, 1]))

  def test_no_more_than_asked_for(self):
    self.assertEqual(figures.choose(_LOGITS, _LABELS, 1), ([0], [2]))
    self.assertEqual(figures.choose(_LOGITS, _LABELS, 0), ([], []))


class DescribeTest(absltest.TestCase):
  def test_words(self):
    example = figures.describe(_scores(), scores.alone(_LOGITS), 4, b"picture")
    self.assertEqual((example.id, example.label, example.margin), ("e", "lie", -1.0))
    self.assertEqual([label for label, _ in example.ranking], ["sit", "lie", "run"])
    expected = np.exp([3, 2, 0]) / np.exp([3, 2, 0]).sum()
    np.testing.assert_allclose([probability for _, probability in example.ranking], expected)
    self.assertEqual(example.picture, b"picture")

  def test_no_probabilities(self):
    example = figures.describe(_scores(), scores.Fused(_LOGITS, None), 0, b"")
    self.assertEqual(example.ranking, (("run", None), ("sit", None), ("lie", None)))


class DrawTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    path = pathlib.Path(folder.name) / "test-00000-of-00001.tfrecord"
    image = lambda number: prepare.encode_rgb(np.full((32, 48, 3), 50 * number, np.uint8), 95)
    made = [
      records.Record(id="edcba"[number], dataset="d", frames=(image(number),) * 2, timestamps=(0, 40_000))
      for number in range(5)
    ]
    path.write_bytes(b"".join(shards.frame(records.serialize(record)) for record in made))
    self.entries = tuple(inspection.scan(path))

  def test_record_is_that_of_the_number(self):
    picture = figures.draw(self.entries, _scores(), 1)  # b is record 3
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    self.assertEqual(image.shape[0], 116)
    self.assertLess(np.abs(image[20:90, 20:140].astype(int) - 150).max(), 6)

  def test_other_records(self):
    with self.assertRaisesRegex(errors.I3dError, "record 4: b is not there; --records are not those of the scores"):
      figures.draw(self.entries[:3] + (self.entries[4], self.entries[3]), _scores(), 1)
    with self.assertRaisesRegex(errors.I3dError, "^the 2 records: b is not there"):
      figures.draw(self.entries[:2], _scores(), 1)


if __name__ == "__main__":
  absltest.main()
