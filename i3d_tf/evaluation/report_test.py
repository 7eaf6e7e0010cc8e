"""The report is one well-formed file that says what was measured."""

import functools
import html.parser
import re

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics

_CLASSES = ("run <fast>", "sit & rest", "lie")
_LABELS = np.array([0, 0, 1, 1, 2])
_VOID = {"meta", "img"}


class _Reader(html.parser.HTMLParser):
  """Collects text, pictures and headings; fails on tags that are not closed in order."""

  def __init__(self, page: str):
    super().__init__()
    self.open, self.texts, self.sources, self.addresses, self.tags = [], [], [], [], []
    self.feed(page)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.sources += [value for name, value in attrs if name == "src"]
    self.addresses += [value for name, value in attrs if name in ("href", "action", "data", "srcset")]
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, tag

  def handle_data(self, data):
    if data.strip() and "style" not in self.open:
      self.texts.append(data.strip())


def _measure(logits: np.ndarray) -> metrics.Metrics:
  scores = metrics.from_logits(logits)
  return metrics.measure(scores.scores, _LABELS, log_probabilities=scores.log_probabilities)


def _about(**changes) -> dict:
  protocol = {"protocol": "clips", "num_clips": 3, "num_frames": 16, "flip": True}
  made_with = {"dataset": "d <1>", "split": "test", "checkpoint": "runs/<rgb>", "protocol": protocol}
  return {
      "command": "evaluate '<x>'", "date": "2026-01-02T03:04:05+00:00", "python": "3.1", "numpy": "2.0",
      "streams": {"rgb": made_with, "flow": made_with}, "fusion": {"method": "logits", "flow_weight": 0.5},
      "failures": [], **changes,
  }  # fmt: skip


@functools.cache
def _usual() -> tuple[str, _Reader]:
  return _render()


def _render(**changes) -> tuple[str, _Reader]:
  rgb = np.eye(3)[[0, 0, 1, 0, 1]]
  flow = 2 * np.eye(3)[[0, 0, 1, 1, 1]]
  picture = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
  clip = figures.Example(
    id="test/<a>", label="lie", margin=-1.0, ranking=(("sit & rest", 0.75), ("lie", 0.2)), picture=picture
  )
  values = {
    "about": _about(),
    "measured": {"rgb": _measure(rgb), "flow": _measure(flow), "rgb+flow": _measure(rgb + flow)},
    "classes": _CLASSES,
    "runs": {},
    "examples": {"best": [], "worst": [clip]},
  }
  page = figures.render(**{**values, **changes})
  return page, _Reader(page)


class ReportTest(absltest.TestCase):
  def test_is_well_formed_and_needs_nothing_else(self):
    page, reader = _usual()
    self.assertEmpty(reader.open)
    self.assertStartsWith(page, "<!DOCTYPE html>")
    self.assertEmpty(reader.addresses)
    self.assertNotIn("script", reader.tags)
    self.assertNotIn("link", reader.tags)
    self.assertNotRegex(page, r"https?:|url\(|@import")
    self.assertLen(reader.sources, 6)  # two curves, three matrices, a clip
    for source in reader.sources:
      self.assertRegex(source, "^data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$")

  def test_names_are_escaped(self):
    page, reader = _usual()
    names = ("run <fast>", "sit & rest", "test/<a>", "runs/<rgb>", "evaluate '<x>'", "RGB+Flow: d <1>, test")
    for name in (*names, "python 3.1, numpy 2.0"):
      self.assertIn(name, reader.texts)
    self.assertNotIn("<fast>", page)

  def test_figures_of_each_stream(self):
    _, reader = _usual()
    start = reader.texts.index("calibration error")
    rows = reader.texts[start + 1 : start + 25]
    self.assertEqual([rows[i : i + 5] for i in (0, 7, 14)], [
        ["RGB", "5", "60.00", "-", "50.00"],
        ["Flow", "5", "80.00", "-", "66.67"],
        ["RGB+Flow", "5", "80.00", "-", "66.67"],
    ])  # fmt: skip
    self.assertIn("5 videos · 3 classes · 3 clips of 16 frames, centre crop, and mirrored · 2026-01-02", reader.texts)
    self.assertIn("RGB+Flow: the streams’ logits added with equal weights.", reader.texts)

  def test_hardest_class_first(self):
    _, reader = _usual()
    texts = reader.texts[reader.texts.index("Classes") :]
    places = [texts.index(name) for name in ("lie", "run <fast>", "sit & rest")]
    self.assertEqual(places, sorted(places))
    self.assertEqual(texts[places[0] : places[0] + 5], ["lie", "1", "0.0", "0.0", "0.0"])
    self.assertEqual(texts[places[2] : places[2] + 5], ["sit & rest", "2", "50.0", "100.0", "100.0"])

  def test_mistakes_are_those_of_the_fusion(self):
    _, reader = _usual()
    start = reader.texts.index("taken for")
    self.assertEqual(reader.texts[start + 2 : start + 5], ["lie", "sit & rest", "1"])

  def test_clips_tell_their_ranking(self):
    page, reader = _usual()
    start = reader.texts.index("Worst")
    self.assertEqual(
      reader.texts[start + 2 : start + 9], ["wrong", "lie", "test/<a>", "sit & rest", "75.0", "lie", "20.0"]
    )
    self.assertIn('<li class="own">lie', page)
    self.assertNotIn("Worst", _render(examples={"best": [], "worst": []})[1].texts)

  def test_sections_that_need_something(self):
    self.assertNotIn("Training", _usual()[1].texts)
    self.assertNotIn("Failures", _usual()[1].texts)
    runs = {"flow": [{"step": 1, "loss": 2.0}]}
    failures = [{"stream": "rgb", "number": 7, "id": "", "reason": "f, record 7: <torn>"}]
    _, reader = _render(runs=runs, about=_about(failures=failures))
    self.assertIn("Training", reader.texts)
    start = reader.texts.index("Failures")
    self.assertEqual(reader.texts[start + 6 : start + 9], ["rgb", "7", "f, record 7: <torn>"])

  def test_other_fusions_in_words(self):
    words = lambda fusion: _render(about=_about(fusion=fusion))[0]
    self.assertIn("probabilities averaged with weights 0.7 and 0.3.", words({"method": "softmax", "flow_weight": 0.3}))
    self.assertIn("a linear SVM on the streams’", words({"method": "svm", "trained_on": ["a", "b"]}))
    three = {"method": "logits", "weights": {"rgb": 0.25, "flow": 0.25, "audio": 0.5}}
    self.assertIn("logits added with weights 0.25, 0.25 and 0.5.", words(three))

  def test_one_stream_alone(self):
    _, reader = _render(measured={"rgb": _measure(np.eye(3)[_LABELS])}, about=_about(fusion=None))
    self.assertEmpty(reader.open)
    self.assertFalse([text for text in reader.texts if re.search("alone|RGB.Flow", text)])
    self.assertIn("There are none.", reader.texts)


if __name__ == "__main__":
  absltest.main()
