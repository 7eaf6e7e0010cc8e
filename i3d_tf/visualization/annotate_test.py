"""What an annotated video says is what the networks say, and it shows the video's own frames."""

import functools
import pathlib
import tempfile

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.flow import codec
from i3d_tf.flow import tvl1
from i3d_tf.inference import classifier
from i3d_tf.models import preprocess
from i3d_tf.video import encode
from i3d_tf.visualization import canvas
from i3d_tf.visualization import pages
from i3d_tf.visualization import source
from i3d_tf.weights import release
from i3d_tf.weights import saved

_NUM_FRAMES = 30
_FOLDER = tempfile.TemporaryDirectory()  # deleted when the process ends


@functools.cache
def _checkpoint(stream: str, **changes) -> str:
  """A small network of made weights on disk, the same for the same arguments."""
  info = saved.make_info(
      stream=stream, num_classes=9, classes=tuple(f"class of {number}" for number in range(9)), width_multiplier=0.05,
      average_space=True, short_side=36, crop=32,
  )  # fmt: skip
  info = testing.change_info(info, **changes)
  model = saved.make_model(info)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, tuple(variable.shape)))
  path = tempfile.mkdtemp(dir=_FOLDER.name)
  saved.save(path, model, info)
  return path


@functools.cache
def _video() -> pathlib.Path:
  """Noise of 36x48 pixels that moves two pixels a frame to the right."""
  path = pathlib.Path(_FOLDER.name) / "made.mp4"
  noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
  noise = cv2.resize(noise, (48, 36), interpolation=cv2.INTER_CUBIC)
  with encode.writing(path, fps=25) as write:
    for time in range(_NUM_FRAMES):
      write(np.roll(noise, 2 * time, axis=1))
  return path


@functools.cache
def _annotated(*streams: str, **options):
  networks = classifier.Classifier({stream: _checkpoint(stream) for stream in streams})
  drawn = []
  annotations = pages.annotate(_video(), networks, drawn.append, **options)
  return {each.name: each for each in annotations}, drawn


def _expected(stream: str) -> np.ndarray:
  """The logits of the whole video in one pass."""
  model, _ = saved.load(_checkpoint(stream))
  frames = np.stack(list(source.survey(_video(), preprocess.Preprocess(short_side=36, crop=32)).frames()))
  clip = codec.scale(tvl1.tvl1_flow(frames)) if stream == "flow" else frames / np.float32(127.5) - 1
  return model(clip[np.newaxis, :, 2:34, 8:40])[0].numpy()[0]


class AnnotateTest(absltest.TestCase):
  def test_each_stream_and_their_sum_are_those_of_the_whole_video(self):
    annotations, _ = _annotated("rgb", "flow")
    self.assertEqual(list(annotations), ["rgb", "flow", "rgb+flow"])
    rgb, flow = _expected("rgb"), _expected("flow")
    np.testing.assert_allclose(annotations["rgb"].mean, rgb, rtol=0, atol=1e-5)
    np.testing.assert_allclose(annotations["flow"].mean, flow, rtol=0, atol=1e-5)
    np.testing.assert_allclose(annotations["rgb+flow"].mean, rgb + flow, rtol=0, atol=2e-5)

  def test_pages_show_the_frames_and_the_flow(self):
    _, drawn = _annotated("rgb", "flow")
    self.assertLen(drawn, _NUM_FRAMES)
    self.assertLen({page.shape for page in drawn}, 1)
    frames = list(source.survey(_video(), preprocess.Preprocess(short_side=36, crop=32)).frames())
    left, top = canvas.MARGIN, canvas.MARGIN + 28 + 8  # margin, title and gap
    for time in (0, 17, _NUM_FRAMES - 1):
      shown = drawn[time][top : top + 360, left : left + 480]
      shown = cv2.resize(shown, (48, 36), interpolation=cv2.INTER_AREA).astype(int)
      inside = (slice(5, 31), slice(11, 37))  # of the square that is drawn
      right, wrong = (np.abs(shown - frames[index])[inside].mean() for index in (time, (time + 5) % _NUM_FRAMES))
      self.assertLess(right, 4)
      self.assertGreater(wrong, 5 * right)
    shown = drawn[9][top + 100 : top + 260, left + 480 + 8 + 100 : left + 480 + 8 + 300]
    red, _, blue = np.median(shown.reshape(-1, 3), axis=0)
    self.assertGreater(red - blue, 80)  # motion to the right

  def test_the_cursor_moves_with_the_time(self):
    _, drawn = _annotated("rgb", draw_flow=False)
    for time in (3, 20):
      is_line = (drawn[time][-180:] == canvas.INK).all(-1).sum(axis=0) > 80
      width = 1000 - 2 * canvas.MARGIN - 350 - 24 - 34 - 22  # the axes', less the ranking and the gaps
      self.assertEqual(np.flatnonzero(is_line).tolist(), [canvas.MARGIN + 34 + round(width * time / _NUM_FRAMES)])

  def test_flow_is_drawn_for_rgb_too_unless_it_is_not_wanted(self):
    with_flow, without = _annotated("rgb")[1][9], _annotated("rgb", draw_flow=False)[1][9]
    self.assertTrue((without[100:300, -40:-16] == 255).all())
    self.assertFalse((with_flow[100:300, -40:-16] == 255).all())

  def test_the_best_class_leads_the_ranking_in_its_colour(self):
    annotations, drawn = _annotated("rgb", draw_flow=False)
    self.assertLen(annotations, 1)
    ranking = drawn[15][-(16 + 22 + 8 + 154 + 2) :, -16 - 350 : -16]
    chips = [tuple(color) for color in ranking[:, 2] if tuple(color) in canvas.PALETTE]
    self.assertEqual(chips[0], canvas.PALETTE[0])

  def test_networks_that_do_not_go_together(self):
    networks = classifier.Classifier([_checkpoint("rgb"), _checkpoint("flow", crop=30)])
    with self.assertRaisesRegex(errors.I3dError, "^the checkpoints do not go together: crop is 32 and 30$"):
      pages.annotate(_video(), networks, lambda page: self.fail("nothing is drawn"))

  def test_a_page_of_windows_says_so(self):
    network = classifier.Classifier(_checkpoint("rgb", model="r2plus1d_18", average_space=False, num_frames=4))
    drawn = []
    (annotation,) = pages.annotate(_video(), network, drawn.append, draw_flow=False)
    self.assertLen(drawn, _NUM_FRAMES)
    self.assertLen(annotation.curves[0].times, _NUM_FRAMES - 4 + 1)
    note = canvas.text(
      "probabilities of clips of 0.2 s, one every 0.04 s, at the middle of each; shaded: the 0.2 s of video on which "
      "the values at the line depend",
      canvas.FAINT,
      size=12,
    )
    shown = drawn[0][-canvas.MARGIN - note.shape[0] : -canvas.MARGIN, canvas.MARGIN : canvas.MARGIN + note.shape[1]]
    np.testing.assert_array_equal(shown, note)


if __name__ == "__main__":
  absltest.main()
