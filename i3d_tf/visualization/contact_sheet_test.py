"""Where frames and flow stand on a sheet, and in which colours."""

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf.data import prepare
from i3d_tf.data import records
from i3d_tf.data import shards
from i3d_tf.flow import codec
from i3d_tf.visualization import contact_sheet

_SETTINGS = shards.RecordConfig()
_HEIGHT, _WIDTH = 32, 48


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
    sheet = contact_sheet.draw([_record(motion=(5, 0))], columns=4, tile_height=_HEIGHT)
    frames, flows = _tiles(sheet, 4)
    for step, tile in enumerate(frames):
      self.assertLess(np.abs(tile.astype(int) - 40 * step).max(), 4)
    expected = codec.draw(np.float32([[[5, 0]]]), full_scale=5)[0, 0]
    for tile in flows:
      self.assertLess(np.abs(tile.astype(int) - expected).max(), 12)
    np.testing.assert_array_equal(sheet[:, -4:], 255)

  def test_steps_are_spread_over_the_time(self):
    frames, _ = _tiles(contact_sheet.draw([_record()], columns=2, tile_height=_HEIGHT), 2)
    self.assertLess(np.abs(frames[0].astype(int)).max(), 4)
    self.assertLess(np.abs(frames[1].astype(int) - 120).max(), 4)
    self.assertLen(_tiles(contact_sheet.draw([_record()], columns=9, tile_height=_HEIGHT), 4), 2)

  def test_standing_is_white_though_truncated(self):
    _, flows = _tiles(contact_sheet.draw([_record()], columns=4, tile_height=_HEIGHT), 4)
    self.assertGreater(np.min(flows), 252)

  def test_one_stream_alone(self):
    both = _record(motion=(0, 4))
    flowless = records.Record(id="a", dataset="d", frames=both.frames, timestamps=both.timestamps)
    self.assertLen(_tiles(contact_sheet.draw([flowless], columns=5, tile_height=_HEIGHT), 5), 1)
    frameless = records.Record(id="a", dataset="d", flow_frames=both.flow_frames)  # a reader of others' records
    (flows,) = _tiles(contact_sheet.draw([frameless], columns=4, tile_height=_HEIGHT), 4)
    expected = codec.draw(np.float32([[[0, 4]]]), full_scale=4)[0, 0]
    self.assertLess(np.abs(flows[0].astype(int) - expected).max(), 12)

  def test_images_alone_are_those_of_the_sheet(self):
    sheet = contact_sheet.draw([_record(motion=(5, 0))], columns=4, tile_height=_HEIGHT)
    images = contact_sheet.draw_images(_record(motion=(5, 0)), columns=4, tile_height=_HEIGHT)
    self.assertEqual(images.shape, (2 * _HEIGHT + 8, 4 * (_WIDTH + 4), 3))
    top = 16 + 2 * 22  # margin and caption
    np.testing.assert_array_equal(images, sheet[top : top + images.shape[0], 16 : 16 + images.shape[1]])

  def test_several_records_and_long_names(self):
    one = contact_sheet.draw([_record()], columns=4, tile_height=_HEIGHT)
    wide = contact_sheet.draw([_record(), _record(label="long name " * 20)], columns=4, tile_height=_HEIGHT)
    self.assertEqual(wide.shape[0] - 16, 2 * (one.shape[0] - 16))
    self.assertGreater(wide.shape[1], 1000)
    self.assertTrue((wide[:, -12:] == 255).all())
    self.assertFalse((wide[:, -60:-12] == 255).all())

  def test_captions_differ(self):
    sheets = [contact_sheet.draw([_record(label=label)], columns=4, tile_height=_HEIGHT) for label in ("run", "nur")]
    top = slice(16, 38)
    self.assertFalse(np.array_equal(sheets[0][top], sheets[1][top]))
    np.testing.assert_array_equal(sheets[0][38:], sheets[1][38:])
    self.assertEqual(sheets[0].dtype, np.uint8)

  def test_what_cannot_be_drawn(self):
    with self.assertRaisesRegex(errors.I3dError, "^empty: the record holds neither frames nor flow$"):
      contact_sheet.draw([records.Record(id="empty", dataset="d")])
    torn = records.Record(id="torn", dataset="d", frames=(cv2.imencode(".jpg", np.zeros((9, 9)))[1].tobytes()[:-9],))
    with self.assertRaisesRegex(errors.I3dError, "^torn: an image cannot be decoded$"):
      contact_sheet.draw([torn])


if __name__ == "__main__":
  absltest.main()
