"""Contact sheets of records: frames at equal intervals, each above the flow to its next frame."""

from collections.abc import Sequence

import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf.data import inspection
from i3d_tf.data import records
from i3d_tf.flow import codec
from i3d_tf.visualization import canvas

_GAP = 4
_WHEEL = 19  # pixels of the legend's colour wheel


def draw(chosen: Sequence[records.Record], *, columns: int = 8, tile_height: int = 128) -> np.ndarray:
  """Draws a strip with a caption for each record.

  All flow of a record is drawn in one scale, which its caption states; for the colours see `codec.draw`.

  Args:
    chosen: at least one record, each with frames, flow or both.
    columns: the most images in a row.
    tile_height: pixels of an image; its width keeps the aspect ratio.

  Returns:
    RGB uint8 `[H, W, 3]`.

  Raises:
    I3dError: if an image cannot be decoded, or a record has none.
  """
  strips = [canvas.border(_strip(record, columns, tile_height), bottom=canvas.MARGIN) for record in chosen]
  return canvas.border(canvas.stack(strips), canvas.MARGIN, 0, canvas.MARGIN, canvas.MARGIN - _GAP)


def draw_images(record: records.Record, *, columns: int = 8, tile_height: int = 128) -> np.ndarray:
  """Draws the frames and the flow of one record without a caption.

  Args:
    record: with frames, flow or both.
    columns, tile_height: as in `draw`.

  Returns:
    RGB uint8 `[H, W, 3]`.

  Raises:
    I3dError: as `draw`.
  """
  return canvas.stack(_rows(record, columns, tile_height)[0])


def _strip(record: records.Record, columns: int, tile_height: int) -> np.ndarray:
  rows, steps, full_scale = _rows(record, columns, tile_height)
  return canvas.stack([*_caption(record, full_scale), *rows, _times(record, steps, rows[0].shape[1] // len(steps))])


def _rows(record: records.Record, columns: int, tile_height: int) -> tuple[list[np.ndarray], np.ndarray, float | None]:
  """Draws the row of frames and the row of flow; also returns the steps that they show and the scale of the flow."""
  count = len(record.flow_frames) or len(record.frames)  # one flow less than frames
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
    rows.append(_row([codec.draw(flow, full_scale=full_scale) for flow in flows], tile_height))
  return rows, steps, full_scale


def _flow(record: records.Record, step: int) -> np.ndarray:
  """Decodes flow to pixels per frame; truncated bytes to the middle of their bin, so that no motion is white."""
  bound = record.flow_bound if record.flow_bound > 0 else codec.BOUND
  decode = codec.decode if record.flow_rounding == "nearest" else codec.decode_middle
  return decode(inspection.decode_image(record.flow_frames[step])[..., :2], bound=bound)


def _row(images: list[np.ndarray], height: int) -> np.ndarray:
  width = max(1, round(images[0].shape[1] * height / images[0].shape[0]))
  tiles = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
  return np.concatenate([canvas.border(canvas.rim(tile), bottom=_GAP, right=_GAP) for tile in tiles], axis=1)


def _caption(record: records.Record, full_scale: float | None) -> list[np.ndarray]:
  """Draws two lines: label and id; the number of images, and the scale of the flow beside a colour wheel."""
  label = canvas.text(", ".join(record.labels) if record.labels else "no label", canvas.INK, bold=True)
  title = np.concatenate([label, canvas.border(canvas.text(record.id, canvas.FAINT), left=12)], axis=1)
  facts = [f"{len(record.frames)} frames"] if record.frames else []
  facts += [f"{len(record.flow_frames)} flow images"] if record.flow_frames else []
  facts += [f"{record.width}x{record.height} pixels"] if record.width and record.height else []
  if full_scale is None:
    return [title, canvas.text(", ".join(facts), canvas.FAINT)]
  words = canvas.text(", ".join([*facts, f"flow of {full_scale:.1f} pixels per frame in full colour:"]), canvas.FAINT)
  top = (canvas.LINE - _WHEEL) // 2
  wheel = canvas.border(canvas.wheel(_WHEEL), top=top, bottom=canvas.LINE - _WHEEL - top, left=8)
  return [title, np.concatenate([words, wheel], axis=1)]


def _times(record: records.Record, steps: np.ndarray, tile_width: int) -> np.ndarray:
  """Draws the time of each column, or the number of the frame if the record has no times."""
  times = record.timestamps or record.flow_timestamps
  texts = [f"{times[step] / 1e6:.2f} s" if step < len(times) else f"frame {step}" for step in steps]
  cells = [canvas.text(text, canvas.FAINT)[:, :tile_width] for text in texts]
  return np.concatenate([canvas.border(cell, right=tile_width - cell.shape[1]) for cell in cells], axis=1)
