"""The predictions of a stream: means over views, interruptions, no video twice, classes that do not match."""

from collections.abc import Mapping
import dataclasses
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.data import record_index
from i3d_tf.evaluation import evaluator
from i3d_tf.evaluation import predictions
from i3d_tf.inference import classifier
from i3d_tf.input import clip_config
from i3d_tf.weights import saved

_CLASSES = ("run", "sit")
_CLIPS = clip_config.EvalClips(short_side=32, crop=32)


def _source(count: int = 6, **changes) -> record_index.Source:
  entries = tuple(record_index.Entry(pathlib.Path("test"), number, 100 * number, 88) for number in range(count))
  values = {"files": (), "entries": entries, "classes": _CLASSES, "dataset": "d", **changes}
  return record_index.Source(path=pathlib.Path("records"), split="test", **values)


def _video(number: int, *, name: str | None = None, num_frames: int = 9, error: str = "") -> dict[str, tf.Tensor]:
  """What the pipeline gives; the video's number is its pixels' value."""
  return {
    "rgb": tf.fill([1, num_frames, 32, 32, 3], float(number)),
    "label": tf.constant(number % 2),
    "id": tf.constant(f"v{number}" if name is None else name),
    "record": tf.constant(number, tf.int64),
    "error": tf.constant(error),
  }


class _FakeNetwork:
  """Logits (pixel, -pixel), and a count of the calls; raises at the call `fails_at`."""

  checkpoint = "rgb"
  class_names = _CLASSES
  computed_by: dict[str, str] = {}  # the defaults
  streams = ("rgb",)

  def __init__(self, fails_at: int | None = None, weights: str = "1"):
    self.info = saved.make_info(stream="rgb", num_classes=2, classes=_CLASSES, dataset="d")
    self.weights = weights
    self.calls = 0
    self._fails_at = fails_at

  def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
    del shapes

  def logits(self, clips: Mapping[str, tf.Tensor]) -> np.ndarray:
    if self.calls == self._fails_at:
      raise KeyboardInterrupt
    self.calls += 1
    value = float(clips["rgb"][0, 0, 0, 0, 0])
    if not np.isfinite(value):
      raise errors.I3dError("the logits of rgb are not finite")
    return np.float32([[value, -value]])


class PredictTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def _evaluate(self, network, videos=None, *, folder=None, clips=_CLIPS, source=None, save_seconds=0.0, **more):
    videos = [_video(number) for number in range(6)] if videos is None else videos
    give = lambda source, clips, *, skip: [video for video in videos if int(video["record"]) not in skip]
    with mock.patch.object(evaluator.pipeline, "eval_videos", side_effect=give):
      folder = folder or self.folder
      return evaluator.predict(network, source or _source(), clips, folder, save_seconds=save_seconds, **more)

  def test_scores_of_every_video(self):
    scores = self._evaluate(_FakeNetwork())
    self.assertEqual(scores.ids, ("v0", "v1", "v2", "v3", "v4", "v5"))
    np.testing.assert_array_equal(scores.labels, [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(scores.logits[:, 0], range(6))
    np.testing.assert_array_equal(scores.logits[:, 1], -scores.logits[:, 0])
    self.assertEqual(scores.classes, _CLASSES)
    self.assertEqual(scores.made_with["protocol"]["max_frames"], 250)
    self.assertNotIn("num_clips", scores.made_with["protocol"])
    self.assertEqual([path.name for path in self.folder.iterdir()], ["scores_rgb.npz"])
    np.testing.assert_array_equal(predictions.load(self.folder / "scores_rgb.npz").logits, scores.logits)

  @parameterized.parameters(0, 1, 4, 5)
  def test_interrupted_it_goes_on_to_the_same_bytes(self, done):
    (self.folder / "whole").mkdir()
    (self.folder / "parts").mkdir()
    self._evaluate(_FakeNetwork(), folder=self.folder / "whole")
    with self.assertRaises(KeyboardInterrupt):
      self._evaluate(_FakeNetwork(fails_at=done), folder=self.folder / "parts")
    self.assertEqual([path.name for path in (self.folder / "parts").iterdir()], ["scores_rgb.partial.npz"] * bool(done))
    network = _FakeNetwork()
    self._evaluate(network, folder=self.folder / "parts")
    self.assertEqual(network.calls, 6 - done)
    names = [path.name for path in (self.folder / "parts").iterdir()]
    self.assertEqual(names, ["scores_rgb.npz"])
    self.assertEqual(*((self.folder / part / names[0]).read_bytes() for part in ("whole", "parts")))

  def test_failures_are_kept_over_interruptions(self):
    videos = [_video(number, error="test, record 1: torn" if number == 1 else "") for number in range(6)]
    with self.assertRaises(KeyboardInterrupt):
      self._evaluate(_FakeNetwork(fails_at=2), videos)
    network = _FakeNetwork()
    scores = self._evaluate(network, videos)
    self.assertEqual(network.calls, 3)
    self.assertEqual(scores.ids, ("v0", "v2", "v3", "v4", "v5"))
    self.assertEqual(scores.failures, ({"number": 1, "id": "v1", "reason": "test, record 1: torn"},))

  def test_failures_are_tried_again_when_asked(self):
    videos = [_video(number, error="torn" if number == 1 else "") for number in range(6)]
    self._evaluate(_FakeNetwork(), videos)
    network = _FakeNetwork()
    self.assertLen(self._evaluate(network).failures, 1)
    scores = self._evaluate(network, retry_failures=True)
    self.assertEqual((network.calls, scores.failures), (1, ()))
    self.assertCountEqual(scores.ids, [f"v{number}" for number in range(6)])

  def test_no_scores_at_all_are_an_error_and_no_file(self):
    videos = [_video(number, error="torn") for number in range(6)]
    with self.assertRaisesRegex(errors.I3dError, "^no video could be evaluated; the first failed because: torn$"):
      self._evaluate(_FakeNetwork(), videos)
    self.assertEmpty(list(self.folder.iterdir()))

  def test_finished_scores_are_taken_as_they_are(self):
    self._evaluate(_FakeNetwork())
    network = _FakeNetwork(fails_at=0)
    np.testing.assert_array_equal(self._evaluate(network).logits[:, 0], range(6))

  def test_saving_waits(self):
    with self.assertRaises(KeyboardInterrupt):
      self._evaluate(_FakeNetwork(fails_at=5), save_seconds=3600)
    self.assertEmpty(list(self.folder.iterdir()))

  @parameterized.named_parameters(
    ("weights", _FakeNetwork(weights="2"), _CLIPS, _source(), "weights was '1', is '2'"),
    ("flip", _FakeNetwork(), dataclasses.replace(_CLIPS, flip=True), _source(), "protocol was .*False}, is .*True}"),
    ("records", _FakeNetwork(), _CLIPS, _source(7), "num_records was 6, is 7; records was"),
  )
  def test_a_folder_of_other_scores_is_refused(self, network, clips, source, sentence):
    with self.assertRaises(KeyboardInterrupt):
      self._evaluate(_FakeNetwork(fails_at=3))
    for kind in (".partial.npz", ".npz"):
      before = (self.folder / f"scores_rgb{kind}").read_bytes()
      message = rf"scores_rgb{kind} was made with other parameters \({sentence}.*\); choose another folder or remove it"
      with self.assertRaisesRegex(errors.I3dError, message):
        self._evaluate(network, clips=clips, source=source)
      self.assertEqual((self.folder / f"scores_rgb{kind}").read_bytes(), before)
      self._evaluate(_FakeNetwork())

  @parameterized.named_parameters(
    ("twice", [0, 1, 2, 3, 4, 4, 5], "test has 6 records, but 6 were evaluated and 1 failed"),
    ("missing", [0, 1, 3, 4, 5], "test has 6 records, but 5 were evaluated and 0 failed, never 2$"),
    ("one_too_many", [0, 1, 2, 3, 4, 5, 6], "test has 6 records, but 7 were evaluated and 0 failed$"),
  )
  def test_every_record_must_come_once(self, numbers, sentence):
    videos = [_video(number) for number in numbers]
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self._evaluate(_FakeNetwork(), videos)
    self.assertFalse((self.folder / "scores_rgb.npz").exists())

  def test_a_second_record_of_an_id_fails_alone(self):
    found = self._evaluate(_FakeNetwork(), [_video(number, name="v0" if number == 5 else None) for number in range(6)])
    self.assertEqual(found.ids, ("v0", "v1", "v2", "v3", "v4"))
    reason = "its id 'v0' is also that of another record, and every video must count once"
    self.assertEqual(found.failures, ({"number": 5, "id": "v0", "reason": reason},))

  def test_logits_that_are_not_finite_stop_it(self):
    with self.assertRaisesRegex(errors.I3dError, "^v3: the logits of rgb are not finite"):
      self._evaluate(_FakeNetwork(), [_video(n) | ({"rgb": tf.fill([1, 9, 32, 32, 3], np.nan)} if n == 3 else {})
                                      for n in range(6)])  # fmt: skip


class NetworkTest(parameterized.TestCase):
  """With a real network in the place of the fake one."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    testing.write_network(folder.name, average_space=True, crop=32, short_side=32)
    cls.network = classifier.Classifier({"rgb": folder.name}).networks["rgb"]

  def _predict(self, views: np.ndarray) -> predictions.Predictions:
    video = {**_video(0), "rgb": tf.constant(views)}
    with mock.patch.object(evaluator.pipeline, "eval_videos", return_value=[video]):
      with tempfile.TemporaryDirectory() as folder:
        return evaluator.predict(self.network, _source(1, classes=self.network.info.classes), _CLIPS, folder)

  @parameterized.parameters((1, 11, 250), (5, 9, 250), (5, 9, 18), (3, 9, 1))
  def test_mean_over_the_views_however_they_are_fed(self, num_views, num_frames, at_once):
    views = np.random.default_rng(0).uniform(-1, 1, (num_views, num_frames, 32, 32, 3)).astype(np.float32)
    expected = np.mean([self.network.model(view[np.newaxis])[0][0] for view in views], axis=0)
    self.assertGreater(np.ptp(expected), 1e-3)
    with mock.patch.object(classifier, "_FRAMES_AT_ONCE", at_once):
      logits = self._predict(views).logits
    np.testing.assert_allclose(logits, [expected], rtol=0, atol=1e-5)
    self.assertEqual(logits.dtype, np.float32)

  def test_too_few_frames(self):
    with self.assertRaisesRegex(
      errors.I3dError, "the first failed because: .*clip has 8 frames; Logits needs at least 9$"
    ):
      self._predict(np.zeros([1, 8, 32, 32, 3], np.float32))

  def test_clips_that_do_not_fit(self):
    clips = clip_config.EvalClips(protocol="clips", short_side=32, crop=32, num_frames=5)
    with self.assertRaisesRegex(errors.I3dError, "does not take these clips: clip has 5 frames; "):
      evaluator._check_clips(self.network, clips)
    evaluator._check_clips(self.network, dataclasses.replace(clips, num_frames=16))
    with tempfile.TemporaryDirectory() as folder:
      testing.write_network(folder)
      network = classifier.Classifier({"rgb": folder}).networks["rgb"]
      with self.assertRaisesRegex(errors.I3dError, "does not take these clips: .*has height 32; .*193 to 224"):
        evaluator._check_clips(network, _CLIPS)


class MatchClassesTest(parameterized.TestCase):
  def _match(self, own: tuple[str, ...], theirs: tuple[str, ...], num_classes: int = 2) -> tuple[str, ...]:
    info = saved.make_info(stream="rgb", num_classes=num_classes, classes=own)
    return evaluator._match_classes("rgb", own, info.class_names, mock.Mock(classes=theirs))

  def test_whoever_knows_them(self):
    self.assertEqual(self._match(_CLASSES, _CLASSES), _CLASSES)
    self.assertEqual(self._match(_CLASSES, ()), _CLASSES)
    self.assertEqual(self._match((), _CLASSES), _CLASSES)
    self.assertEqual(self._match((), ()), ("class 0", "class 1"))

  def test_differences(self):
    with self.assertRaisesRegex(errors.I3dError, "class 1 of the data set is 'lie', but of rgb 'sit'; the classes"):
      self._match(_CLASSES, ("run", "lie"))
    with self.assertRaisesRegex(errors.I3dError, "has 5 classes .a; b; c; ...., but rgb tells 2 apart"):
      self._match(_CLASSES, tuple("abcde"))
    with self.assertRaisesRegex(errors.I3dError, "has 2 classes .run; sit., but rgb tells 3 apart"):
      self._match((), _CLASSES, num_classes=3)


if __name__ == "__main__":
  absltest.main()
