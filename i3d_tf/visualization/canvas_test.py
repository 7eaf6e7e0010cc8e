"""Text, and where pictures stand beside and beneath each other."""

import pathlib
from unittest import mock

from absl.testing import absltest
import cv2
import matplotlib
from matplotlib import font_manager
import numpy as np

from i3d_tf import errors
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.flow import codec
from i3d_tf.visualization import canvas

_SETTINGS = shards.RecordConfig()
_HEIGHT, _WIDTH = 32, 48


def _block(height: int, width: int, value: int) -> np.ndarray:
  return np.full((height, width, 3), value, np.uint8)


_RED, _BLUE = (200, 30, 30), (30, 30, 200)


class CanvasTest(absltest.TestCase):
  def test_text_is_dark_on_paper_and_as_wide_as_it_needs(self):
    short, long = canvas.text("run"), canvas.text("run and run")
    self.assertEqual((short.shape[0], long.shape[0]), (canvas.LINE, canvas.LINE))
    self.assertGreater(long.shape[1], 2.5 * short.shape[1])
    self.assertLess(short.min(), 100)
    for edge in (short[0], short[-1], short[:, -1]):
      np.testing.assert_array_equal(edge, 255)
    self.assertFalse(np.array_equal(canvas.text("für"), canvas.text("f?r")))

  def test_a_script_without_a_font_is_spelled(self):
    own = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    with mock.patch.object(font_manager.fontManager, "ttflist", []):
      canvas.drawable.cache_clear()
      self.assertEqual(canvas.drawable("Läufe ½"), ("Läufe ½", str(own)))
      self.assertEqual(canvas.drawable("跑 ｒｕｎ"), (r"\u8dd1 run", str(own)))
    canvas.drawable.cache_clear()

  def test_a_font_of_the_machine_that_has_all_of_a_text(self):
    stix = font_manager.findfont("STIXNonUnicode")
    letter = chr(min(canvas._characters(stix) - canvas._characters(font_manager.findfont("DejaVu Sans")) - {0}))
    self.assertEqual(canvas.drawable(letter), (letter, stix))
    self.assertEqual(canvas.drawable(letter + "跑")[1], font_manager.findfont("DejaVu Sans"))
    before = canvas.text(letter)
    self.assertLess(before.min(), 100)

  def test_text_too_long_ends_in_dots(self):
    whole = canvas.text("a long name of a class")
    cut = canvas.text("a long name of a class", max_width=90)
    self.assertBetween(cut.shape[1], 70, 90)
    np.testing.assert_array_equal(cut[:, :50], whole[:, :50])
    np.testing.assert_array_equal(canvas.text("a long name of a class", max_width=whole.shape[1]), whole)

  def test_beneath_and_beside(self):
    a, b = _block(2, 3, 10), _block(4, 1, 20)
    expected = np.full((7, 3), 255)
    expected[:2], expected[3:, 0] = 10, 20
    np.testing.assert_array_equal(canvas.stack([a, b], 1)[..., 0], expected)
    expected = np.full((4, 6), 255)
    expected[:2, :3], expected[:, 5] = 10, 20
    np.testing.assert_array_equal(canvas.beside([a, b], 2)[..., 0], expected)

  def test_a_rim_leaves_the_picture_alone(self):
    image = _block(4, 5, 9)
    rimmed = canvas.rim(image)
    np.testing.assert_array_equal(image, 9)
    np.testing.assert_array_equal(rimmed[1:-1, 1:-1], 9)
    self.assertEqual(int((rimmed == 215).all(-1).sum()), 14)

  def test_wheel_is_white_in_the_middle_and_coloured_at_its_edge(self):
    wheel = canvas.wheel(21).astype(int)
    np.testing.assert_array_equal(wheel[10, 10], 255)
    np.testing.assert_array_equal(wheel[0, 0], 255)
    right, left = wheel[10, 20], wheel[10, 0]
    self.assertGreater(right[0] - right[2], 150)  # motion to the right is red
    self.assertGreater(left[2] - left[0], 150)

  def test_png(self):
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(canvas.png(image), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], image)


def _columns(picture: np.ndarray, color: tuple[int, int, int], least: int) -> list[int]:
  """The columns with at least so many pixels of a colour."""
  return np.flatnonzero((picture == color).all(-1).sum(axis=0) >= least).tolist()


class PanelsTest(absltest.TestCase):
  def test_timeline(self):
    times = np.linspace(0, 8, 200)
    curves = np.stack([np.full(200, 0.75), np.where(times < 4, 0.0, 0.5)], axis=1)
    timeline = canvas.Timeline(times, curves, [_RED, _BLUE], seconds=8, size=(356, 132), limits=(0, 1))
    picture = timeline.at(2.0, (1.2, 3.0))
    self.assertEqual(picture.shape, (132, 356, 3))
    # The axes are 300 pixels wide and begin at the 34th, 100 high and begin at the 8th.
    self.assertEqual(_columns(picture, canvas.INK, 90), [34 + 75])
    self.assertEqual(_columns(timeline.at(6.0, (6.0, 6.0)), canvas.INK, 90), [34 + 225])
    shaded = _columns(picture, (238, 241, 246), 20)
    self.assertEqual((shaded[0], shaded[-1]), (34 + 45, 34 + 112))
    is_red, is_blue = ((np.abs(picture.astype(int) - color) < 12).all(-1) for color in (_RED, _BLUE))
    self.assertBetween(np.flatnonzero(is_red.sum(axis=1) > 200).mean(), 31.5, 34.5)
    self.assertBetween(np.flatnonzero(is_blue[:, 190:].sum(axis=1) > 100).mean(), 56.5, 59.5)

  def test_ranking(self):
    picture = canvas.ranking(["one", "two"], [1.0, 0.25], [_RED, _BLUE], width=262)
    self.assertEqual(picture.shape, (2 * canvas.ROW, 262, 3))
    for row, (color, length) in enumerate([(_RED, 200), (_BLUE, 50)]):
      line = picture[row * canvas.ROW + 3]  # above the words
      np.testing.assert_array_equal(line[:6], np.broadcast_to(color, (6, 3)))
      light = np.rint(0.7 * 255 + 0.3 * np.array(color))
      np.testing.assert_array_equal(line[6 : 6 + length], np.broadcast_to(light, (length, 3)))
      np.testing.assert_array_equal(line[6 + length :], 255)

  def test_legend_breaks_its_lines(self):
    names = [f"a class with a name {index}" for index in range(5)] + ["long " * 90]
    picture = canvas.legend(names, [_RED, _BLUE] * 3, width=420)
    self.assertEqual(picture.shape, (4 * canvas.LINE, 420, 3))
    for line in np.split(picture, 4):
      self.assertTrue((line == _RED).all(-1).any() or (line == _BLUE).all(-1).any())

  def test_fit_keeps_the_shape(self):
    self.assertEqual(canvas.fit(np.zeros((20, 40, 3), np.uint8), width=100, height=100).shape, (50, 100, 3))
    self.assertEqual(canvas.fit(np.zeros((300, 100, 3), np.uint8), width=100, height=100).shape, (100, 33, 3))


def _record(motion: tuple[float, float] = (0, 0), rounding: str = "truncate", label: str = "run") -> records.Record:
  """Five frames whose grey rises by 40, and uniform flow between them."""
  field = np.broadcast_to(np.float32(motion), (_HEIGHT, _WIDTH, 2))
  settings = shards.RecordConfig(flow_rounding=rounding)
  frames = [prepare.encode_rgb(np.full((_HEIGHT, _WIDTH, 3), 40 * step, np.uint8), 95) for step in range(5)]
  times = tuple(40_000 * step for step in range(5))
  return records.Record(
      id="folder/name", dataset="d", labels=(label,), label_indices=(0,), height=_HEIGHT, width=_WIDTH,
      frames=tuple(frames), timestamps=times, flow_format="PNG", flow_bound=codec.BOUND, flow_rounding=rounding,
      flow_frames=(prepare.encode_flow(field, settings),) * 4, flow_timestamps=times[:-1],
  )  # fmt: skip


def _tiles(sheet: np.ndarray, columns: int) -> list[list[np.ndarray]]:
  """The tiles' inner pixels, by rows, found by their rims."""
  is_rim = (sheet == 215).all(-1)
  tops = np.flatnonzero(is_rim.sum(1) > columns * _WIDTH // 2)[::2]
  lefts = np.flatnonzero(is_rim[tops[0] : tops[0] + _HEIGHT].all(0))[::2]
  assert len(lefts) == columns, lefts
  return [[sheet[top + 1 : top + _HEIGHT - 1, left + 1 : left + _WIDTH - 1] for left in lefts] for top in tops]


class ContactSheetTest(absltest.TestCase):
  def test_frames_stand_above_their_flow(self):
    sheet = canvas.contact_sheet([_record(motion=(5, 0))], columns=4, tile_height=_HEIGHT)
    frames, flows = _tiles(sheet, 4)
    for step, tile in enumerate(frames):
      self.assertLess(np.abs(tile.astype(int) - 40 * step).max(), 4)
    expected = codec.draw(np.float32([[[5, 0]]]), full_scale=5)[0, 0]
    for tile in flows:
      self.assertLess(np.abs(tile.astype(int) - expected).max(), 12)
    np.testing.assert_array_equal(sheet[:, -4:], 255)

  def test_steps_are_spread_over_the_time(self):
    frames, _ = _tiles(canvas.contact_sheet([_record()], columns=2, tile_height=_HEIGHT), 2)
    self.assertLess(np.abs(frames[0].astype(int)).max(), 4)
    self.assertLess(np.abs(frames[1].astype(int) - 120).max(), 4)
    self.assertLen(_tiles(canvas.contact_sheet([_record()], columns=9, tile_height=_HEIGHT), 4), 2)

  def test_standing_is_white_though_truncated(self):
    _, flows = _tiles(canvas.contact_sheet([_record()], columns=4, tile_height=_HEIGHT), 4)
    self.assertGreater(np.min(flows), 252)

  def test_one_stream_alone(self):
    both = _record(motion=(0, 4))
    flowless = records.Record(id="a", dataset="d", frames=both.frames, timestamps=both.timestamps)
    self.assertLen(_tiles(canvas.contact_sheet([flowless], columns=5, tile_height=_HEIGHT), 5), 1)
    frameless = records.Record(id="a", dataset="d", flow_frames=both.flow_frames)  # a reader of others' records
    (flows,) = _tiles(canvas.contact_sheet([frameless], columns=4, tile_height=_HEIGHT), 4)
    expected = codec.draw(np.float32([[[0, 4]]]), full_scale=4)[0, 0]
    self.assertLess(np.abs(flows[0].astype(int) - expected).max(), 12)

  def test_images_alone_are_those_of_the_sheet(self):
    sheet = canvas.contact_sheet([_record(motion=(5, 0))], columns=4, tile_height=_HEIGHT)
    images = canvas.draw_images(_record(motion=(5, 0)), columns=4, tile_height=_HEIGHT)
    self.assertEqual(images.shape, (2 * _HEIGHT + 8, 4 * (_WIDTH + 4), 3))
    top = 16 + 2 * 22  # margin and caption
    np.testing.assert_array_equal(images, sheet[top : top + images.shape[0], 16 : 16 + images.shape[1]])

  def test_several_records_and_long_names(self):
    one = canvas.contact_sheet([_record()], columns=4, tile_height=_HEIGHT)
    wide = canvas.contact_sheet([_record(), _record(label="long name " * 20)], columns=4, tile_height=_HEIGHT)
    self.assertEqual(wide.shape[0] - 16, 2 * (one.shape[0] - 16))
    self.assertGreater(wide.shape[1], 1000)
    self.assertTrue((wide[:, -12:] == 255).all())
    self.assertFalse((wide[:, -60:-12] == 255).all())

  def test_captions_differ(self):
    sheets = [canvas.contact_sheet([_record(label=label)], columns=4, tile_height=_HEIGHT) for label in ("run", "nur")]
    top = slice(16, 38)
    self.assertFalse(np.array_equal(sheets[0][top], sheets[1][top]))
    np.testing.assert_array_equal(sheets[0][38:], sheets[1][38:])
    self.assertEqual(sheets[0].dtype, np.uint8)

  def test_what_cannot_be_drawn(self):
    with self.assertRaisesRegex(errors.I3dError, "^empty: the record holds neither frames nor flow$"):
      canvas.contact_sheet([records.Record(id="empty", dataset="d")])
    torn = records.Record(id="torn", dataset="d", frames=(cv2.imencode(".jpg", np.zeros((9, 9)))[1].tobytes()[:-9],))
    with self.assertRaisesRegex(errors.I3dError, "^torn: an image cannot be decoded$"):
      canvas.contact_sheet([torn])


if __name__ == "__main__":
  absltest.main()
