"""Verifies TFRecords of clips, prints one, or draws some of them. See `--help`."""

import pathlib

from absl import flags
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf import workers

USAGE = """Verifies TFRecords that prepare_dataset wrote, or others with MediaSequence's keys; or shows some of them.

  python -m i3d_tf.inspect_records records                                      (a folder, or one of its files)
  python -m i3d_tf.inspect_records records --show=0
  python -m i3d_tf.inspect_records records --id=Biking/v_Biking_g01_c01 --contact_sheet=biking.png

Verification compares checksums, counts with dataset.json, the images' sizes with each other and with what the record
declares, their times, the lengths of RGB and flow, labels with the class list, and ids with each other; and it decodes
every image. Each problem is a line on standard output that names file, record and id; with any, the exit status is 1.

Records and images are counted from 0."""

FLAGS = flags.FLAGS
flags.DEFINE_bool("decode", True, "Decode every image, most of the work; without, their sizes are not verified either.")
flags.DEFINE_multi_integer("show", [], "Print this record, counted through all files, and verify nothing.")
flags.DEFINE_multi_string("id", [], "Print the record of this id, and verify nothing.")
flags.DEFINE_string(
  "contact_sheet",
  None,
  "Draw the records that --show and --id name, or else some, evenly spread over all, into this PNG file: frames and "
  "coloured flow.",
)
flags.DEFINE_integer("sheet_records", 4, "Records on the picture unless they are named.", lower_bound=1)
flags.DEFINE_integer("sheet_frames", 8, "Frames of each record on the picture, at most.", lower_bound=1)
flags.DEFINE_integer("num_threads", None, "Threads that decode. Default: the cores.", lower_bound=1)


def main(arguments: list[str]) -> int:
  """Verifies, prints or draws records, as the flags say."""
  if len(arguments) != 1:
    raise errors.I3dError("name one folder of TFRecords, or one file; see --help")
  if FLAGS.contact_sheet is not None and pathlib.Path(FLAGS.contact_sheet).suffix.lower() != ".png":
    raise errors.I3dError(f"--contact_sheet={FLAGS.contact_sheet}; the picture's name must end in .png")
  cli.import_tensorflow()
  if FLAGS.contact_sheet is not None:
    return _draw(arguments[0])
  if FLAGS.show or FLAGS.id:
    return _show(arguments[0])
  return _verify(arguments[0])


def _verify(path: str) -> int:
  from i3d_tf.data import inspection

  num_threads = workers.available_cores() if FLAGS.num_threads is None else FLAGS.num_threads
  verifier = inspection.Verifier(path, decode=FLAGS.decode, num_threads=num_threads)
  num_problems = 0
  with tqdm.tqdm(total=verifier.num_bytes, unit="B", unit_scale=True, disable=None) as bar:
    for problem in verifier.problems(bar.update):
      num_problems += 1
      tqdm.tqdm.write(problem)
  _print_totals(verifier.splits)
  if num_problems:
    return cli.fail(f"{path}: {num_problems} problem{'s' if num_problems > 1 else ''}")
  return 0


def _print_totals(splits: dict) -> None:
  rows: list[tuple[str, ...]] = [("split", "files", "records", "frames", "flow images", "seconds", "bytes")]
  for split, totals in splits.items():
    numbers = (totals.files, totals.records, totals.frames, totals.flows, round(totals.seconds, 1), totals.bytes)
    rows.append((split, *(f"{number:,}" for number in numbers)))
  widths = [max(map(len, column)) for column in zip(*rows)]
  for split, *columns in rows:
    print("  ".join([split.ljust(widths[0]), *(text.rjust(width) for text, width in zip(columns, widths[1:]))]))


def _show(path: str) -> int:
  from i3d_tf.data import inspection

  for index, entry in enumerate(inspection.choose(path, FLAGS.show, FLAGS.id)):
    if index:
      print()
    print(f"{entry}: {entry.length:,} bytes", *inspection.describe(entry), sep="\n")
  return 0


def _draw(path: str) -> int:
  from i3d_tf.data import inspection
  from i3d_tf.visualization import canvas

  if FLAGS.show or FLAGS.id:
    entries = inspection.choose(path, FLAGS.show, FLAGS.id)
    shown = f"{len(entries)} record{'s' * (len(entries) > 1)}"
  else:
    entries, total = inspection.spread(path, FLAGS.sheet_records)
    shown = f"{len(entries)} of {total:,} records"
  picture = canvas.contact_sheet([entry.load() for entry in entries], columns=FLAGS.sheet_frames)
  with workdir.replacing(FLAGS.contact_sheet) as file:
    file.write(canvas.png(picture))
  print(f"{FLAGS.contact_sheet}: {shown}, {picture.shape[1]}x{picture.shape[0]} pixels")
  return 0


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
