"""Data sets of videos: UCF-101, HMDB-51, Kinetics, a folder of one's own, or TFDS.

A data set is a subclass of `Source` here, and nothing else: `load` and the help of prepare_dataset know all of them.
The order of the clips is that of the official lists, or sorted; it never depends on the file system.
"""

import abc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import csv
import dataclasses
import logging
import os
import pathlib
import re
from typing import ClassVar

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import resources
from i3d_tf import stores
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import tfds_videos
from i3d_tf.video import archives
from i3d_tf.video import listing
from i3d_tf.video import stills

_Paths = pathlib.Path | str | os.PathLike | None
_NAMED_CLASSES = 10  # that a warning names
_SPELLINGS: Mapping[str, str] = {  # without case, of folders that hold folders
  "training": "train", "valid": "val", "validate": "val", "validation": "val", "testing": "test",
} | {split: split for split in clips_lib.SPLITS}  # fmt: skip


class Source(abc.ABC):
  """A data set, or several of one kind. A subclass without abstract methods is known from its definition on.

  Attributes:
    names: what the data sets are called.
    arguments: what may stand behind the name and a colon, for example the number of an official split; empty: nothing.
    help: one clause about what is read, for the help of prepare_dataset.
    has_annotations: whether there are lists that may lie elsewhere than the videos.
    takes_split: whether `clips.FolderSplit` is for it.
  """

  known: ClassVar[list["Source"]] = []
  names: tuple[str, ...] = ()
  arguments: tuple[str, ...] = ()
  help = ""
  has_annotations = False
  takes_split = False

  def __init_subclass__(cls, **options):
    super().__init_subclass__(**options)
    if cls.names:
      Source.known.append(cls())

  @property
  def specs(self) -> list[str]:
    """What stands for the data sets, for people: 'ucf101:1|2|3'."""
    return [f"{name}:{'|'.join(self.arguments)}" if self.arguments else name for name in self.names]

  def accepts(self, spec: str) -> bool:
    """Returns whether `spec` is one of these data sets.

    Args:
      spec: NAME or NAME:ARGUMENT.
    """
    name, colon, argument = spec.partition(":")
    return name in self.names and (argument in self.arguments if self.arguments else not colon)

  @abc.abstractmethod
  def load(
    self, spec: str, root: pathlib.Path, annotations: _Paths, folder_split: clips_lib.FolderSplit | None
  ) -> clips_lib.Dataset:
    """Returns the data set: lists the clips and finds their files; see the function `load`.

    Args:
      spec: one that is accepted.
      root: the folder of the videos.
      annotations: None unless `has_annotations`.
      folder_split: None unless `takes_split`.
    """


def specs() -> list[str]:
  """Returns what `load` takes, for people: 'ucf101:1|2|3' and so on."""
  return [spec for source in Source.known for spec in source.specs]


def load(
  spec: str,
  root: str | os.PathLike,
  *,
  annotations: str | os.PathLike | None = None,
  folder_split: clips_lib.FolderSplit | None = None,
) -> clips_lib.Dataset:
  """Returns a data set: its clips and where their files are.

  Args:
    spec: the data set, see `specs`.
    root: the folder of the videos, which may be at any depth below it; for TFDS the data_dir.
    annotations: the folder of the official lists, for Kinetics also one CSV file; see the data sets' `rows` for where
      they are found by default.
    folder_split: only for 'folder' without sub-folders train, val and test; the default is `clips.FolderSplit()`.

  Raises:
    I3dError: if there is no such data set, an option is not for it, a list is missing or a line of it is wrong, two
      files could be one clip, or no clip has a file.
  """
  source = next((source for source in Source.known if source.accepts(spec)), None)
  if folder_split is not None and not (source and source.takes_split):
    raise errors.I3dError(f"the dataset {spec} has splits of its own; fractions, seed and group are for 'folder'")
  if source is None:
    raise errors.I3dError(f"there is no dataset {spec!r}; there are {', '.join(specs())}")
  if annotations is not None and not source.has_annotations:
    raise errors.I3dError(f"annotations are given, but the dataset {spec} has none")
  return source.load(spec, stores.as_path(root), annotations, folder_split)


class _Official(Source):
  """A data set with official lists of clips, one a line. `key` gives what is compared of a file's name."""

  has_annotations = True
  key: Callable[[str], str] = staticmethod(str)

  def load(
    self, spec: str, root: pathlib.Path, annotations: _Paths, folder_split: clips_lib.FolderSplit | None
  ) -> clips_lib.Dataset:
    if annotations is None and stores.is_remote(root):
      raise errors.I3dError(f"{root}: the lists of {spec} are read from file systems; give annotations, a local folder")
    rows = self.rows(spec, root, annotations)
    files = clips_lib.VideoFiles(root, self.key)
    return clips_lib.collect(spec, self.classes(spec), rows, root, lambda clip: self.locate(files, clip))

  @abc.abstractmethod
  def rows(self, spec: str, root: pathlib.Path, given: _Paths = None) -> list[clips_lib.Row]:
    """Reads the lists. What they list need not be there.

    Args:
      spec: one that is accepted.
      root: the folder of the videos, in or near which the lists are found.
      given: where the lists are, if they are elsewhere.

    Returns:
      The rows in order.

    Raises:
      I3dError: if a list is missing, or a line is wrong.
    """

  def classes(self, spec: str) -> tuple[str, ...]:
    """Returns the names of the classes in the order of their indices."""
    return resources.class_list(spec.partition(":")[0])

  def locate(self, files: clips_lib.VideoFiles, clip: clips_lib.Clip) -> clips_lib.Clip | None:
    """Returns the clip with the path of its file, None if there is none."""
    return files.locate(clip, clip.id)


class _Ucf101(_Official):
  """UCF-101's splits 1, 2 and 3; training clips first.

  The lists are in `ucfTrainTestlist` in the folder of the videos or beside it, or in itself. File names are compared
  without case, because copies of the videos spell HandStandPushups in two ways.
  """

  names = ("ucf101",)
  arguments = ("1", "2", "3")
  help = "UCF-101 with the official lists of a split"
  key = staticmethod(str.casefold)
  _LINE = re.compile(r"(?P<label>[^/\s]+)/(?P<name>[^/\s]+)\.avi(?:\s+(?P<number>\d+))?")

  def rows(self, spec: str, root: pathlib.Path, given: _Paths = None) -> list[clips_lib.Row]:
    lists = {split: f"{split}list{int(spec.partition(':')[2]):02}.txt" for split in ("train", "test")}
    folder = _find_folder("ucfTrainTestlist", lists["train"], root, given)
    return [row for split, name in lists.items() for row in self._read(folder / name, split)]

  def _read(self, file: pathlib.Path, split: str) -> Iterator[clips_lib.Row]:
    """The class is that of the folder: `HandstandPushups/v_HandStandPushups_g01_c01.avi` has two spellings."""
    numbers = {label: i for i, label in enumerate(self.classes("ucf101"), 1)}
    spellings = {label.casefold(): label for label in numbers}
    for where, line in _lines(file):
      match = self._LINE.fullmatch(line)
      if match is None:
        raise errors.I3dError(f"{where}: {line!r} is not of the form CLASS/NAME.avi or CLASS/NAME.avi NUMBER")
      label = spellings.get(match["label"].casefold(), match["label"])
      _check_label(label, numbers, where)
      if match["number"] is not None and int(match["number"]) != numbers[label]:
        raise errors.I3dError(f"{where}: {label} has the number {match['number']}; it is class {numbers[label]}")
      yield clips_lib.Row(where, split, match["name"], f"{match['label']}/{match['name']}.avi", label)


class _Hmdb51(_Official):
  """HMDB-51's splits 1, 2 and 3, by class, without unused clips.

  The lists are in `testTrainMulti_7030_splits` in the folder of the videos or beside it, or in itself.
  """

  names = ("hmdb51",)
  arguments = ("1", "2", "3")
  help = "HMDB-51 with the official lists of a split"
  _LINE = re.compile(r"(?P<name>[^/]+)\.avi\s+(?P<use>[012])")
  _USES: ClassVar[Mapping[str, str]] = {"1": "train", "2": "test"}  # 0: not used in this split

  def rows(self, spec: str, root: pathlib.Path, given: _Paths = None) -> list[clips_lib.Row]:
    number = spec.partition(":")[2]
    lists = {label: f"{label}_test_split{number}.txt" for label in self.classes(spec)}
    folder = _find_folder("testTrainMulti_7030_splits", next(iter(lists.values())), root, given)
    return [row for label, name in lists.items() for row in self._read(folder / name, label)]

  def _read(self, file: pathlib.Path, label: str) -> Iterator[clips_lib.Row]:
    for where, line in _lines(file):
      match = self._LINE.fullmatch(line)
      if match is None:
        raise errors.I3dError(f"{where}: {line!r} is not of the form NAME.avi 0|1|2")
      if match["use"] in self._USES:
        file_name = f"{label}/{match['name']}.avi"
        yield clips_lib.Row(where, self._USES[match["use"]], match["name"], file_name, label)


class _Kinetics(_Official):
  """Kinetics-400, -600 and -700 by their CSV files; clips of the test split may be unlabelled.

  The CSV files are in `annotations` in the folder of the videos, or in itself. A trimmed file, named after id, start
  and end, is preferred to a whole video, named after the id.
  """

  names = ("kinetics400", "kinetics600", "kinetics700")
  help = "the published CSV files, with videos trimmed (ID_000010_000020.mp4) or whole"
  _COLUMNS = ("youtube_id", "time_start", "time_end", "split")
  _OPTIONAL_COLUMNS = ("label", "is_cc")
  _SPLITS: ClassVar[Mapping[str, str]] = {name: name for name in clips_lib.SPLITS} | {"validate": "val"}
  _YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
  _SECONDS = re.compile(r"[0-9]{1,6}")  # as many digits as the names of trimmed files have room for

  def classes(self, spec: str) -> tuple[str, ...]:
    return resources.class_list(spec.replace("kinetics", "kinetics_"))

  def locate(self, files: clips_lib.VideoFiles, clip: clips_lib.Clip) -> clips_lib.Clip | None:
    trimmed = files.locate(dataclasses.replace(clip, start=None, end=None), clip.id)
    return files.locate(clip, clip.id.rsplit("_", 2)[0]) if trimmed is None else trimmed

  def rows(self, spec: str, root: pathlib.Path, given: _Paths = None) -> list[clips_lib.Row]:
    classes = frozenset(self.classes(spec))
    return [row for file in _csv_files(root, given) for row in self._read(file, classes)]

  def _read(self, file: pathlib.Path, classes: frozenset[str]) -> Iterator[clips_lib.Row]:
    lines = ((where, _csv_fields(line, where)) for where, line in _lines(file))
    where, columns = next(lines)
    known = {*self._COLUMNS, *self._OPTIONAL_COLUMNS}
    if not set(self._COLUMNS) <= set(columns) <= known or len(set(columns)) < len(columns):
      allowed = f"{','.join(self._COLUMNS)}, perhaps with {' and '.join(self._OPTIONAL_COLUMNS)}"
      raise errors.I3dError(f"{where}: the columns are {','.join(columns)}; they must be {allowed}")
    for where, fields in lines:
      if len(fields) != len(columns):
        raise errors.I3dError(f"{where}: there are {len(fields)} fields for {len(columns)} columns")
      row = self._row(dict(zip(columns, fields, strict=True)), where)
      if row.label is not None or row.split != "test":
        _check_label(row.label or "", classes, where)
      yield row

  def _row(self, fields: Mapping[str, str], where: str) -> clips_lib.Row:
    """The row of one line; its label is not yet checked."""
    name, start, end, split = (fields[column] for column in self._COLUMNS)
    if not self._YOUTUBE_ID.fullmatch(name):
      raise errors.I3dError(f"{where}: {name!r} is not a YouTube id of 11 characters")
    if not (self._SECONDS.fullmatch(start) and self._SECONDS.fullmatch(end) and int(start) < int(end)):
      raise errors.I3dError(f"{where}: {start!r} and {end!r} are not a start and a later end in whole seconds")
    if split not in self._SPLITS:
      raise errors.I3dError(f"{where}: the split {split!r} is none of {', '.join(self._SPLITS)}")
    label = fields.get("label") or None
    clip_id = f"{name}_{int(start):06}_{int(end):06}"
    file = f"{label}/{clip_id}.mp4" if label else f"{clip_id}.mp4"
    return clips_lib.Row(where, self._SPLITS[split], clip_id, file, label, float(start), float(end))


class _Folder(Source):
  """A folder with a sub-folder for each class, below train/, val/ and test/ or split by `clips.FolderSplit`."""

  names = ("folder",)
  help = "one sub-folder a class, below train/, val/ and test/, or split by a seeded hash"
  takes_split = True
  _UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # in a list of one clip a line, in UTF-8

  def load(
    self, spec: str, root: pathlib.Path, annotations: _Paths, folder_split: clips_lib.FolderSplit | None
  ) -> clips_lib.Dataset:
    videos = clips_lib.find_videos(root)
    is_listed = not (stores.is_remote(root) or root.is_dir())
    if is_listed:  # an archive, or a list of paths
      root = pathlib.Path(os.path.commonpath([pathlib.Path(path).parent.parent for path in videos]))
    own = {} if is_listed else split_folders(root)
    if own and folder_split is not None:
      raise errors.I3dError(f"{root} is split already, into {', '.join(own)}; fractions, seed and group do not apply")
    folder_split = clips_lib.FolderSplit() if folder_split is None else folder_split
    rows = list(self._rows(videos, root, own, folder_split))
    folders = {label for base in (own or [""]) for label in _subfolders(root / base)} if not is_listed else set()
    classes = sorted(folders | {row.label for row in rows if row.label})
    if empty := set(classes) - {row.label for row in rows}:
      raise errors.I3dError(f"{root}: the class {min(empty)} has no video; remove its folder or fill it")
    _warn_of_gaps(root, rows, classes, set(own.values()) if own else folder_split.used)
    return clips_lib.collect(spec, tuple(classes), rows, root, lambda clip: clip)

  def _rows(
    self, videos: Iterable[str], root: pathlib.Path, own: Mapping[str, str], folder_split: clips_lib.FolderSplit
  ) -> Iterator[clips_lib.Row]:
    for path in videos:
      relative = stores.as_path(path).relative_to(root)
      parts = relative.parts[1:] if own else relative.parts
      label = archives.label(path)
      parts = (
        (label, *parts)
        if label is not None
        else tuple(each for each in parts if not each.lower().endswith(archives.SUFFIXES))
      )
      if len(parts) < 2:
        raise errors.I3dError(
          f"{path}: the video is not in the folder of a class, nor is there a .cls beside it in an archive"
        )
      if self._UNWRITABLE.search(str(relative)):
        raise errors.I3dError(f"{path!a}: the name has a control character or is not UTF-8; rename the file")
      clip_id = str(stills.without_suffix(path).relative_to(root))
      split = own[relative.parts[0]] if own else folder_split.split_of(clip_id)
      yield clips_lib.Row(path, split, clip_id, str(relative), parts[0])


def split_folders(root: str | os.PathLike) -> dict[str, str]:
  """Returns the splits by the names of their folders; empty if the folders are those of classes.

  Args:
    root: Folder of the videos. Below it train, val and test may be spelt otherwise: Training, validation, Testing.

  Raises:
    I3dError: If two folders are of one split, or there are others beside them.
  """
  root = pathlib.Path(root)
  folders = _subfolders(root)
  own: dict[str, str] = {}
  for folder in folders:
    split = _SPELLINGS.get(folder.casefold())
    if split is None or folder != split and not _subfolders(root / folder):
      continue
    if split in own.values():
      raise errors.I3dError(f"{root / folder}: there is another folder for the split {split}; keep one of them")
    own[folder] = split
  if own and len(folders) > len(own):
    stray = next(folder for folder in folders if folder not in own)
    raise errors.I3dError(f"{root / stray}: beside {', '.join(own)} this must be one of {', '.join(clips_lib.SPLITS)}")
  return own


class _Tfds(Source):
  """A video data set that TensorFlow Datasets has prepared; see `tfds_videos`."""

  names = ("tfds",)
  arguments = ("NAME[/CONFIG]",)
  help = "a video data set that TensorFlow Datasets has prepared"

  def accepts(self, spec: str) -> bool:
    name, _, argument = spec.partition(":")
    return name in self.names and bool(argument)

  def load(
    self, spec: str, root: pathlib.Path, annotations: _Paths, folder_split: clips_lib.FolderSplit | None
  ) -> clips_lib.Dataset:
    listing = tfds_videos.list_examples(spec.partition(":")[2], root)
    splits = {
      split: tuple(clips_lib.Clip(f"{split}/{i:06}", path, label=label) for i, (path, label) in enumerate(examples))
      for split, examples in listing.splits.items()
    }
    return clips_lib.Dataset(spec, listing.classes, splits, {split: () for split in splits})


def _warn_of_gaps(
  root: pathlib.Path, rows: Iterable[clips_lib.Row], classes: Collection[str], splits: Collection[str]
) -> None:
  """Logs which classes a split has no video of: what is not trained cannot be known, what is not tested is not."""
  found = {(row.split, row.label) for row in rows}
  for split in (split for split in clips_lib.SPLITS if split in splits):
    if gaps := [label for label in classes if (split, label) not in found]:
      names = ", ".join(gaps[:_NAMED_CLASSES]) + ", ..." * (len(gaps) > _NAMED_CLASSES)
      logging.getLogger(__name__).warning(
        "%s: %s has no video of %d of the %d classes (%s)", root, split, len(gaps), len(classes), names
      )


def _find_folder(name: str, needed: str, root: pathlib.Path, given: _Paths) -> pathlib.Path:
  folders = [root / name, root, root.absolute().parent / name] if given is None else [pathlib.Path(given)]
  for folder in folders:
    if (folder / needed).exists():
      return folder
  raise errors.I3dError(f"the official list {needed} is not in {' or '.join(map(str, folders))}")


def _csv_files(root: pathlib.Path, given: _Paths) -> list[pathlib.Path]:
  places = [root / "annotations", root] if given is None else [pathlib.Path(given)]
  for place in places:
    files = sorted(place.glob("*.csv")) if place.is_dir() else [place] * (given is not None)
    if files:
      return files
  raise errors.I3dError(f"there is no CSV file of Kinetics annotations in {' or '.join(map(str, places))}")


def _lines(file: pathlib.Path) -> Iterator[tuple[str, str]]:
  """Yields (FILE:LINE, text) without line ends and outer blanks, skipping empty lines."""
  files.check_regular(file)
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


def _csv_fields(line: str, where: str) -> list[str]:
  try:
    return next(csv.reader([line], strict=True))
  except csv.Error as error:
    raise errors.I3dError(f"{where}: {files.printable(line, 80)!r} is not a line of CSV: {error}") from None


def _check_label(label: str, classes: Collection[str], where: str) -> None:
  if label not in classes:
    shown = files.printable(label, 80)
    raise errors.I3dError(f"{where}: the label {shown!r} is not among the {len(classes)} classes of the dataset")


def _subfolders(folder: pathlib.Path) -> list[str]:
  if stores.is_remote(folder):
    below = [path.relative_to(folder).parts for path in listing.list_folder(folder).videos]
    return sorted({parts[0] for parts in below if len(parts) > 1})
  return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
