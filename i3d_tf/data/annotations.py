"""The official lists of UCF-101, HMDB-51 and Kinetics as rows. What they list need not be there: see `datasets`."""

from collections.abc import Iterator, Mapping
import csv
import os
import pathlib
import re
from typing import NamedTuple

from i3d_tf import errors
from i3d_tf import resources

SPLITS = ("train", "val", "test")

_UCF101_LINE = re.compile(r"(?P<label>[^/\s]+)/(?P<name>[^/\s]+)\.avi(?:\s+(?P<number>\d+))?")
_HMDB51_LINE = re.compile(r"(?P<name>[^/]+)\.avi\s+(?P<use>[012])")
_HMDB51_SPLITS = {"1": "train", "2": "test"}  # 0: not used in this split
_COLUMNS = ("youtube_id", "time_start", "time_end", "split")
_OPTIONAL_COLUMNS = ("label", "is_cc")
_KINETICS_SPLITS = {name: name for name in SPLITS} | {"validate": "val"}
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_SECONDS = re.compile(r"[0-9]{1,6}")  # as many digits as the names of trimmed files have room for


class Row(NamedTuple):
  """One clip as it is listed.

  Attributes:
    where: FILE:LINE.
    split: one of `SPLITS`.
    id: differs from that of all other clips.
    file: where the video is expected, below the folder of the videos.
    label: a class name; None: unlabelled.
    start: seconds into the source; None: from its beginning.
    end: seconds into the source; None: to its end.
  """

  where: str
  split: str
  id: str
  file: str
  label: str | None = None
  start: float | None = None
  end: float | None = None


def read_ucf101(number: int, root: pathlib.Path, given: str | os.PathLike | None = None) -> list[Row]:
  """The rows of UCF-101's split 1, 2 or 3, training clips first.

  Args:
    number: of the split.
    root: the folder of the videos; the lists are in `ucfTrainTestlist` in it or beside it, or in itself.
    given: the folder of the lists, if they are elsewhere.

  Raises:
    I3dError: if a list is missing, or a line is wrong.
  """
  lists = {split: f"{split}list{number:02}.txt" for split in ("train", "test")}
  folder = _find_folder("ucfTrainTestlist", lists["train"], root, given)
  return [row for split, name in lists.items() for row in _ucf101_rows(folder / name, split)]


def read_hmdb51(number: int, root: pathlib.Path, given: str | os.PathLike | None = None) -> list[Row]:
  """The rows of HMDB-51's split 1, 2 or 3, by class, without unused clips; see `read_ucf101`.

  By default the lists are in `testTrainMulti_7030_splits`.
  """
  lists = {label: f"{label}_test_split{number}.txt" for label in resources.class_list("hmdb51")}
  folder = _find_folder("testTrainMulti_7030_splits", next(iter(lists.values())), root, given)
  return [row for label, name in lists.items() for row in _hmdb51_rows(folder / name, label)]


def read_kinetics(num_classes: int, root: pathlib.Path, given: str | os.PathLike | None = None) -> list[Row]:
  """The rows of Kinetics CSV files, by file name; clips of the test split may be unlabelled.

  Args:
    num_classes: 400, 600 or 700.
    root: the folder of the videos; the CSV files are in `annotations` in it, or in itself.
    given: one CSV file or a folder of them, if they are elsewhere.

  Raises:
    I3dError: if there is no CSV file, or a line is wrong.
  """
  classes = frozenset(resources.class_list(f"kinetics_{num_classes}"))
  return [row for file in _csv_files(root, given) for row in _kinetics_rows(file, classes)]


def _find_folder(name: str, needed: str, root: pathlib.Path, given: str | os.PathLike | None) -> pathlib.Path:
  folders = [root / name, root, root.absolute().parent / name] if given is None else [pathlib.Path(given)]
  for folder in folders:
    if (folder / needed).exists():
      return folder
  raise errors.I3dError(f"the official list {needed} is not in {' or '.join(map(str, folders))}")


def _csv_files(root: pathlib.Path, given: str | os.PathLike | None) -> list[pathlib.Path]:
  places = [root / "annotations", root] if given is None else [pathlib.Path(given)]
  for place in places:
    files = sorted(place.glob("*.csv")) if place.is_dir() else [place] * (given is not None)
    if files:
      return files
  raise errors.I3dError(f"there is no CSV file of Kinetics annotations in {' or '.join(map(str, places))}")


def _lines(file: pathlib.Path) -> Iterator[tuple[str, str]]:
  """Yields (FILE:LINE, text) without line ends and outer blanks, skipping empty lines."""
  try:
    text = file.read_text(encoding="utf-8-sig")
  except FileNotFoundError:
    raise errors.I3dError(f"{file}: there is no such list") from None
  except UnicodeDecodeError:
    raise errors.I3dError(f"{file}: this is not text in UTF-8") from None
  if not text.strip():
    raise errors.I3dError(f"{file}: the list is empty")
  for number, line in enumerate(text.split("\n"), 1):
    if line := line.strip():
      yield f"{file}:{number}", line


def _ucf101_rows(file: pathlib.Path, split: str) -> Iterator[Row]:
  """The class is that of the folder: `HandstandPushups/v_HandStandPushups_g01_c01.avi` has two spellings."""
  numbers = {label: i for i, label in enumerate(resources.class_list("ucf101"), 1)}
  spellings = {label.casefold(): label for label in numbers}
  for where, line in _lines(file):
    match = _UCF101_LINE.fullmatch(line)
    if match is None:
      raise errors.I3dError(f"{where}: {line!r} is not of the form CLASS/NAME.avi or CLASS/NAME.avi NUMBER")
    label = spellings.get(match["label"].casefold(), match["label"])
    _check_label(label, numbers, where)
    if match["number"] is not None and int(match["number"]) != numbers[label]:
      raise errors.I3dError(f"{where}: {label} has the number {match['number']}; it is class {numbers[label]}")
    yield Row(where, split, match["name"], f"{match['label']}/{match['name']}.avi", label)


def _hmdb51_rows(file: pathlib.Path, label: str) -> Iterator[Row]:
  for where, line in _lines(file):
    match = _HMDB51_LINE.fullmatch(line)
    if match is None:
      raise errors.I3dError(f"{where}: {line!r} is not of the form NAME.avi 0|1|2")
    if match["use"] in _HMDB51_SPLITS:
      yield Row(where, _HMDB51_SPLITS[match["use"]], match["name"], f"{label}/{match['name']}.avi", label)


def _kinetics_rows(file: pathlib.Path, classes: frozenset[str]) -> Iterator[Row]:
  lines = ((where, _csv_fields(line, where)) for where, line in _lines(file))
  where, columns = next(lines)
  known = {*_COLUMNS, *_OPTIONAL_COLUMNS}
  if not set(_COLUMNS) <= set(columns) <= known or len(set(columns)) < len(columns):
    allowed = f"{','.join(_COLUMNS)}, perhaps with {' and '.join(_OPTIONAL_COLUMNS)}"
    raise errors.I3dError(f"{where}: the columns are {','.join(columns)}; they must be {allowed}")
  for where, fields in lines:
    if len(fields) != len(columns):
      raise errors.I3dError(f"{where}: there are {len(fields)} fields for {len(columns)} columns")
    row = _kinetics_row(dict(zip(columns, fields, strict=True)), where)
    if row.label is not None or row.split != "test":
      _check_label(row.label or "", classes, where)
    yield row


def _csv_fields(line: str, where: str) -> list[str]:
  try:
    return next(csv.reader([line], strict=True))
  except csv.Error as error:
    raise errors.I3dError(f"{where}: {line!r} is not a line of CSV: {error}") from None


def _kinetics_row(fields: Mapping[str, str], where: str) -> Row:
  """The row of one line; its label is not yet checked."""
  name, start, end, split = (fields[column] for column in _COLUMNS)
  if not _YOUTUBE_ID.fullmatch(name):
    raise errors.I3dError(f"{where}: {name!r} is not a YouTube id of 11 characters")
  if not (_SECONDS.fullmatch(start) and _SECONDS.fullmatch(end) and int(start) < int(end)):
    raise errors.I3dError(f"{where}: {start!r} and {end!r} are not a start and a later end in whole seconds")
  if split not in _KINETICS_SPLITS:
    raise errors.I3dError(f"{where}: the split {split!r} is none of {', '.join(_KINETICS_SPLITS)}")
  label = fields.get("label") or None
  clip_id = f"{name}_{int(start):06}_{int(end):06}"
  file = f"{label}/{clip_id}.mp4" if label else f"{clip_id}.mp4"
  return Row(where, _KINETICS_SPLITS[split], clip_id, file, label, float(start), float(end))


def _check_label(label: str, classes: Mapping[str, int] | frozenset[str], where: str) -> None:
  if label not in classes:
    raise errors.I3dError(f"{where}: the label {label!r} is not among the {len(classes)} classes of the dataset")
