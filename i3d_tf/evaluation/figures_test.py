"""Where the plots put their colors, which clips a report shows, and what it says about them."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import cv2
from matplotlib import colors
from matplotlib import pyplot
import numpy as np

from i3d_tf import errors
from i3d_tf.data import prepare
from i3d_tf.data import record_index
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics
from i3d_tf.evaluation import predictions

_FIVE_LABELS = np.array([0, 0, 1, 1, 2], np.int32)
_LOGITS = np.float32([[9, 0, 0], [7, 0, 0], [5, 0, 0], [1, 2, 0], [0, 3, 2]])  # margins 9, 7, -5, 1, -1
_LABELS = np.arange(40) % 4


def _measure(share_right: float) -> metrics.Metrics:
  shift = np.arange(40) >= share_right * 40
  scores = metrics.from_logits(3 * np.eye(4)[(_LABELS + shift) % 4])
  return metrics.measure(scores.scores, _LABELS, log_probabilities=scores.log_probabilities)


def _pixels(picture: bytes, stream: str) -> np.ndarray:
  """Places (row, column) from 0 to 1 of the pixels of a stream's colour, `[N, 2]`."""
  image = cv2.cvtColor(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
  color = np.array(colors.to_rgb(figures.COLORS[stream])) * 255
  return np.argwhere(np.abs(image - color).max(axis=-1) < 6) / image.shape[:2]


class FiguresTest(parameterized.TestCase):
  def test_accuracy_curves_rise_with_accuracy(self):
    picture = figures.accuracy_curves({"rgb": _measure(0.25), "flow": _measure(0.75)})
    middle = lambda stream: np.median([row for row, column in _pixels(picture, stream) if column < 0.5])
    self.assertLess(middle("flow"), middle("rgb"))
    self.assertEmpty(_pixels(picture, "rgb+flow"))

  def test_reliability_is_of_streams_with_probabilities(self):
    ranked = metrics.measure(np.eye(4)[_LABELS], _LABELS, log_probabilities=None)
    picture = figures.reliability({"rgb": _measure(1), "rgb+flow": ranked})
    self.assertNotEmpty(_pixels(picture, "rgb"))
    self.assertEmpty(_pixels(picture, "rgb+flow"))

  def test_learning_curves_of_the_runs_there_are(self):
    lines = [{"step": 10 * i, "loss": 2 / i, "accuracy": 0.1 * i, "rate": 1} for i in range(1, 5)]
    lines.insert(2, {"step": 25, "validation_loss": 1.0, "validation_accuracy": 0.5})
    picture = figures.learning_curves({"flow": lines})
    columns = _pixels(picture, "flow")[:, 1]
    self.assertLess(columns.min(), 0.5)
    self.assertGreater(columns.max(), 0.5)
    self.assertEmpty(_pixels(picture, "rgb"))

  @parameterized.parameters(2, 8, 25, 70)
  def test_confusion_has_its_diagonal(self, count):
    names = [f"a class of long name {index}" for index in range(count)]
    right = _pixels(figures.confusion(5 * np.eye(count, dtype=int), names, "flow"), "flow")
    wrong = _pixels(figures.confusion(5 * np.eye(count, dtype=int)[::-1], names, "flow"), "flow")
    self.assertGreater(np.corrcoef(right.T)[0, 1], 0.7)
    self.assertLess(np.corrcoef(wrong.T)[0, 1], -0.7)

  def test_same_bytes(self):
    self.assertEqual(*(figures.accuracy_curves({"rgb": _measure(0.5)}) for _ in range(2)))

  def test_no_global_state(self):
    figures.accuracy_curves({"rgb": _measure(0.5)})
    figures.confusion(np.eye(4, dtype=int), "abcd", "rgb")
    self.assertEmpty(pyplot.get_fignums())


def _predictions() -> predictions.Predictions:
  return predictions.Predictions(
      stream="rgb", ids=tuple("abcde"), labels=_FIVE_LABELS, logits=_LOGITS, numbers=np.arange(5, dtype=np.int32)[::-1],
      classes=("run", "sit", "lie"), made_with={},
  )  # fmt: skip


class ChooseTest(absltest.TestCase):
  def test_one_of_a_class(self):
    self.assertEqual(figures.choose(_LOGITS, _FIVE_LABELS, 9), ([0, 3, 4], [2, 4, 1]))

  def test_no_more_than_asked_for(self):
    self.assertEqual(figures.choose(_LOGITS, _FIVE_LABELS, 1), ([0], [2]))
    self.assertEqual(figures.choose(_LOGITS, _FIVE_LABELS, 0), ([], []))


class DescribeTest(absltest.TestCase):
  def test_words(self):
    example = figures.describe(_predictions(), metrics.from_logits(_LOGITS), 4, b"picture")
    self.assertEqual((example.id, example.label, example.margin), ("e", "lie", -1.0))
    self.assertEqual([label for label, _ in example.ranking], ["sit", "lie", "run"])
    expected = np.exp([3, 2, 0]) / np.exp([3, 2, 0]).sum()
    np.testing.assert_allclose([probability for _, probability in example.ranking], expected)
    self.assertEqual(example.picture, b"picture")

  def test_no_probabilities(self):
    example = figures.describe(_predictions(), metrics.ClassScores(_LOGITS, None), 0, b"")
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
    self.entries = tuple(record_index.scan(path))

  def test_record_is_that_of_the_number(self):
    picture = figures.draw(self.entries, _predictions(), 1)  # b is record 3
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    self.assertEqual(image.shape[0], 116)
    self.assertLess(np.abs(image[20:90, 20:140].astype(int) - 150).max(), 6)

  def test_other_records(self):
    with self.assertRaisesRegex(errors.I3dError, "record 4: b is not there; the scores are of other records"):
      figures.draw(self.entries[:3] + (self.entries[4], self.entries[3]), _predictions(), 1)
    with self.assertRaisesRegex(errors.I3dError, "^the 2 records: b is not there"):
      figures.draw(self.entries[:2], _predictions(), 1)


if __name__ == "__main__":
  absltest.main()
