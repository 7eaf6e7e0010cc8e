"""Pictures of records: frames at equal distances in time, and the flow from each of them beneath it."""

from collections.abc import Sequence

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf.video import flow as flow_lib
from i3d_tf.video import inspection
from i3d_tf.video import records

_PAPER = (255, 255, 255)
_INK = (40, 40, 40)
_FAINT = (130, 130, 130)
_RIM = (215, 215, 215)  # around each image, since flow may be white
_MARGIN = 16
_GAP = 4
_LINE = 22  # pixels of a line of text
_FONT_SCALE = 0.45
_WHEEL = 19  # pixels of the legend's colour wheel


def draw(chosen: Sequence[records.Record], *, columns: int = 8, tile_height: int = 128) -> np.ndarray:
  """Draws a strip for each record, RGB uint8 `[H, W, 3]`.

  The flow of one record has one scale, which its caption tells; `flow.draw` explains the colours.

  Args:
    chosen: at least one record, each with frames, flow or both.
    columns: images in a row, at most.
    tile_height: pixels of one image; the width follows.

  Raises:
    I3dError: if an image cannot be decoded, or a record has none.
  """
  strips = [_border(_strip(record, columns, tile_height), bottom=_MARGIN) for record in chosen]
  return _border(_stack(strips), _MARGIN, 0, _MARGIN, _MARGIN - _GAP)


def draw_images(record: records.Record, *, columns: int = 8, tile_height: int = 128) -> np.ndarray:
  """Draws one record's frames and flow alone, without words, RGB uint8 `[H, W, 3]`; see `draw`."""
  return _stack(_rows(record, columns, tile_height)[0])


def _strip(record: records.Record, columns: int, tile_height: int) -> np.ndarray:
  rows, steps, full_scale = _rows(record, columns, tile_height)
  return _stack([*_caption(record, full_scale), *rows, _times(record, steps, rows[0].shape[1] // len(steps))])


def _rows(
    record: records.Record, columns: int, tile_height: int
) -> tuple[list[np.ndarray], np.ndarray, float | None]:
  """The rows of frames and of flow, the steps that they show, and the flow's scale."""
  count = len(record.flow_frames) or len(record.frames)  # the last frame has no flow
  if not count:
    raise errors.I3dError(f"{record.id}: the record holds neither frames nor flow")
  steps = np.unique(np.rint(np.linspace(0, count - 1, columns)).astype(int))
  try:
    frames = [inspection.decode_image(record.frames[step]) for step in steps] if record.frames else []
    flows = [_flow(record, step) for step in steps] if record.flow_frames else []
  except errors.I3dError as error:
    raise errors.I3dError(f"{record.id}: {error}") from None
  rows = [_row(frames, tile_height)] if frames else []
  full_scale = None
  if flows:
    full_scale = max(1.0, float(np.percentile(np.linalg.norm(flows, axis=-1), 99)))
    rows.append(_row([flow_lib.draw(flow, full_scale=full_scale) for flow in flows], tile_height))
  return rows, steps, full_scale


def _flow(record: records.Record, step: int) -> np.ndarray:
  """Pixels per frame; what was truncated is taken half a step higher, so that standing points are white."""
  bound = record.flow_bound if record.flow_bound > 0 else flow_lib.BOUND
  field = flow_lib.decode(inspection.decode_image(record.flow_frames[step])[..., :2], bound=bound)
  return field if record.flow_rounding == "nearest" else field + np.float32(bound / 255)


def _row(images: list[np.ndarray], height: int) -> np.ndarray:
  width = max(1, round(images[0].shape[1] * height / images[0].shape[0]))
  tiles = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
  for tile in tiles:
    cv2.rectangle(tile, (0, 0), (width - 1, height - 1), _RIM)
  return np.concatenate([_border(tile, bottom=_GAP, right=_GAP) for tile in tiles], axis=1)


def _caption(record: records.Record, full_scale: float | None) -> list[np.ndarray]:
  """Two lines: label and id; what there is of frames, and the flow's scale beside a colour wheel."""
  label = _text(", ".join(record.labels) if record.labels else "no label", _INK, bold=True)
  title = np.concatenate([label, _border(_text(record.id, _FAINT), left=12)], axis=1)
  facts = [f"{len(record.frames)} frames"] if record.frames else []
  facts += [f"{len(record.flow_frames)} flow images"] if record.flow_frames else []
  facts += [f"{record.width}x{record.height} pixels"] if record.width and record.height else []
  if full_scale is None:
    return [title, _text(", ".join(facts), _FAINT)]
  facts = _text(", ".join([*facts, f"flow of {full_scale:.1f} pixels per frame in full colour:"]), _FAINT)
  top = (_LINE - _WHEEL) // 2
  wheel = _border(_wheel(), top=top, bottom=_LINE - _WHEEL - top, left=8)
  return [title, np.concatenate([facts, wheel], axis=1)]


def _wheel() -> np.ndarray:
  """The colour of every direction and speed, motion going away from the centre."""
  across = np.linspace(-1, 1, _WHEEL)
  flow = np.stack(np.meshgrid(across, across), axis=-1)
  is_inside = np.linalg.norm(flow, axis=-1, keepdims=True) <= 1
  return np.where(is_inside, flow_lib.draw(flow, full_scale=1.0), np.uint8(_PAPER)).astype(np.uint8)


def _times(record: records.Record, steps: np.ndarray, tile_width: int) -> np.ndarray:
  """The time beneath each column, or for lack of one the frame's number."""
  times = record.timestamps or record.flow_timestamps
  texts = [f"{times[step] / 1e6:.2f} s" if step < len(times) else f"frame {step}" for step in steps]
  cells = [_text(text, _FAINT)[:, :tile_width] for text in texts]
  return np.concatenate([_border(cell, right=tile_width - cell.shape[1]) for cell in cells], axis=1)


def _text(text: str, color: tuple[int, int, int], *, bold: bool = False) -> np.ndarray:
  """A line of text on paper, as wide as it needs; what is not ASCII becomes '?', since OpenCV's fonts lack it."""
  text = text.encode("ascii", "replace").decode()
  font = cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX
  (width, _), _ = cv2.getTextSize(text, font, _FONT_SCALE, 1)
  line = np.full((_LINE, width + 2, 3), _PAPER, np.uint8)
  return cv2.putText(line, text, (0, _LINE - 7), font, _FONT_SCALE, color, 1, cv2.LINE_AA)


def _stack(rows: list[np.ndarray]) -> np.ndarray:
  """Images of different widths beneath each other, flush left."""
  width = max(row.shape[1] for row in rows)
  return np.concatenate([_border(row, right=width - row.shape[1]) for row in rows])


def _border(image: np.ndarray, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> np.ndarray:
  return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_PAPER)
