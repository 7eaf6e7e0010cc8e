"""Finds videos, be they files or folders of images, below folders, in archives and in lists, for all programs."""

from collections.abc import Collection, Iterator
import dataclasses
import logging
import os
import pathlib
import stat

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import stores
from i3d_tf.video import archives
from i3d_tf.video import stills

VIDEO_SUFFIXES = frozenset(
  ".3g2 .3gp .asf .avi .divx .f4v .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)
# Files that often lie beside videos; they are not opened to see what they are.
_OTHER_SUFFIXES = frozenset(
  ".aac .avif .bmp .csv .flac .gz .h5 .heic .jpeg .jpg .json .jsonl .log .m4a .md .mka .mp3 .npy .npz .ogg .opus .part "
  ".pdf .pickle .pkl .png .pt .py .sh .srt .tar .tfrecord .tif .tiff .tsv .txt .vtt .wav .weba .webp .xls .xlsx .xml "
  ".yaml .yml .zip".split()
)
MADE_CLIPS = "synthetic.json"  # beside clips that `data.synthetic` made; it needs no word
_HEAD = 4096  # bytes that are read to tell what a file is
_NAMED = 3  # files of each kind that a message names
# Why files are not used, with the words for one of them and for several.
_NO_VIDEO, _HIDDEN, _DANGLING, _CLOSED = "no video", "hidden", "links to nothing", "folders that cannot be read"
_BROKEN = "archives that cannot be read"
_WORDS = {
  _NO_VIDEO: ("file that is no video", "files that are no videos"),
  _HIDDEN: ("hidden file", "hidden files"),
  _DANGLING: ("link to nothing", "links to nothing"),
  _CLOSED: ("folder that cannot be read", "folders that cannot be read"),
  _BROKEN: ("archive that cannot be read", "archives that cannot be read"),
}

# What video files begin with. ISO files (MP4, MOV, 3GP), RIFF, Ogg, GIF and MPEG-TS need a closer look.
_MAGIC = (
  b"\x1aE\xdf\xa3",  # Matroska, WebM
  b"FLV\x01",
  b"0&\xb2u\x8ef\xcf\x11",  # ASF, WMV
  b"\x00\x00\x01\xba",  # MPEG program stream, VOB
  b"\x00\x00\x01\xb3",  # MPEG-1 and MPEG-2 video
  b"DKIF",  # IVF
  b"YUV4MPEG2",
  b".RMF",
  b"\x06\x0e+4\x02\x05\x01\x01",  # MXF
  b"nut/multimedia container",
)
_ISO_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free"))
_NO_VIDEO_BRANDS = (b"M4A", b"M4B", b"avif", b"avis", b"heic", b"heix", b"mif1")
_TRANSPORT_PACKETS = ((0, 188), (4, 192), (0, 204))  # offset of the sync byte, and bytes of a packet


@dataclasses.dataclass(frozen=True)
class Listing:
  """The files below a folder.

  Attributes:
    videos: Paths of the videos, sorted by their parts.
    unused: By kind, such as 'no video', the paths that are not among them.
  """

  videos: tuple[pathlib.Path, ...]
  unused: dict[str, tuple[pathlib.Path, ...]]

  def describe_unused(self) -> str:
    """Returns one clause that counts and names what is not used; empty if all is."""
    parts = []
    for kind, paths in self.unused.items():
      names = ", ".join(path.name for path in paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")
      parts.append(f"{len(paths)} {_WORDS[kind][len(paths) > 1]} ({names})")
    return "; ".join(parts)


def is_list(path: str | os.PathLike) -> bool:
  """Returns whether a path is '@' and that of a list of paths.

  Args:
    path: The path; a file or folder whose name begins with '@' is none.
  """
  return os.fspath(path).startswith("@") and not os.path.exists(path)


def holds_videos(path: str | os.PathLike) -> bool:
  """Returns whether a path is that of a folder or an archive, in which videos may be, and not that of a video.

  Args:
    path: The path.
  """
  if stores.is_remote(path):
    return pathlib.PurePath(path).suffix.lower() not in VIDEO_SUFFIXES
  return os.path.isdir(path) or archives.is_archive(path)


def list_folder(root: str | os.PathLike, *, more: Collection[str] = (), used: Collection[pathlib.Path] = ()) -> Listing:
  """Lists the videos at any depth below a folder or in an archive, and logs one line about what is not used.

  Files with the endings in `VIDEO_SUFFIXES` are taken; files of unknown endings, or none, are videos if they begin as
  videos do. So are folders of numbered images, unless there are videos beside these, and .npy files that hold frames
  (see `stills`), and the videos in tar and zip files (see `archives`). A linked folder is followed unless what it leads
  to is listed already. Hidden files, among them the `._x` that macOS leaves, links to nothing, and folders that cannot
  be read are left out.

  Args:
    root: The folder, also in an object store, where names tell what videos are; a tar or zip file; or '@' and the path
      of a text file of paths, one a line.
    more: Further file name endings to take, in lower case.
    used: Files below it that are used otherwise: they are neither videos nor unused, and a folder that has nothing else
      to use is no error.

  Returns:
    The videos and what is not used.

  Raises:
    VideoError: If there is no such folder, it cannot be read, or it holds nothing to use.
  """
  if is_list(root):
    paths = files.read_paths(os.fspath(root)[1:])
    lists = [list_folder(path).videos if holds_videos(path) else (stores.as_path(path),) for path in paths]
    return Listing(tuple(dict.fromkeys(video for each in lists for video in each)), {})
  root = stores.as_path(root)
  if not holds_videos(root):
    raise errors.VideoError(f"{root}: there is no such folder of videos")
  videos: list[pathlib.Path] = []
  unused: dict[str, list[pathlib.Path]] = {}
  entries = _of_store if stores.is_remote(root) else _walk if root.is_dir() else _classify
  for path, kind in entries(root, VIDEO_SUFFIXES | frozenset(more)):
    if path not in used:
      (videos if kind is None else unused.setdefault(kind, [])).append(path)
  listing = Listing(tuple(sorted(videos)), {kind: tuple(sorted(paths)) for kind, paths in sorted(unused.items())})
  if not videos and not used:
    rest = f"; it has {listing.describe_unused()}" if unused else ""
    endings = " ".join(sorted(VIDEO_SUFFIXES | frozenset(more)))
    what = "folder" if stores.is_remote(root) or root.is_dir() else "archive"
    raise errors.VideoError(f"{root}: the {what} holds no video ({endings}){rest}")
  if unused and videos:
    logging.getLogger(__name__).warning("%s: not used: %s", root, listing.describe_unused())
  return listing


def is_video(path: str | os.PathLike) -> bool:
  """Returns whether a file begins as video files do; a GIF must be animated.

  Args:
    path: Path of the file. One that cannot be read is none.
  """
  try:
    with open(path, "rb") as file:
      head = file.read(_HEAD)
      if head.startswith((b"GIF87a", b"GIF89a")):
        return (head + file.read()).count(b"\x21\xf9\x04") > 1  # a graphic control extension before each picture
  except OSError:
    return False
  if head[4:8] in _ISO_BOXES:
    return not (head[4:8] == b"ftyp" and head[8:12].startswith(_NO_VIDEO_BRANDS))
  if head.startswith(b"OggS"):
    return b"theora" in head or b"video" in head
  if head.startswith(b"RIFF"):
    return head[8:12] == b"AVI "
  return head.startswith(_MAGIC) or _is_transport_stream(head)


def _is_transport_stream(head: bytes) -> bool:
  """Whether sync bytes stand where they should, in what is no text."""
  is_text = min(head, default=9) >= 9
  return not is_text and any(
    len(head) > start + 4 * size and all(head[start + size * i] == 0x47 for i in range(5))
    for start, size in _TRANSPORT_PACKETS
  )


def _of_store(root: pathlib.Path, suffixes: frozenset[str]) -> Iterator[tuple[pathlib.Path, str | None]]:
  """As `_walk`, of a folder in an object store."""
  for path in stores.StorePath(root).find():
    is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    kind = _HIDDEN if is_hidden else None if path.suffix.lower() in suffixes else _NO_VIDEO
    yield stores.as_path(path), kind


def _walk(root: pathlib.Path, suffixes: frozenset[str]) -> Iterator[tuple[pathlib.Path, str | None]]:
  """Yields the files below a folder, each with why it is not used, or None if it is a video."""
  seen: set[str] = set()
  folders, links = [root], list[pathlib.Path]()
  while folders or links:
    # A folder is listed under its own path, and under that of a link only if it has no other.
    folder = folders.pop() if folders else links.pop(0)
    real = os.path.realpath(folder)
    if real in seen:
      continue
    seen.add(real)
    try:
      entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
      if folder == root:
        raise errors.VideoError(f"{root}: the folder cannot be read: {error.strerror}") from None
      yield folder, _CLOSED
      continue
    images = _image_video(folder, entries, suffixes)
    if images and not stills.is_second_axis(folder):
      yield folder, None
    for entry in entries:
      path = folder / entry.name
      if entry.name in images:
        continue
      if not entry.name.startswith(".") and entry.is_dir():
        (links if entry.is_symlink() else folders).append(path)
      else:
        try:
          yield from _classify(path, suffixes)
        except errors.VideoError:  # naming the file itself says why
          yield path, _BROKEN


def _image_video(folder: pathlib.Path, entries: list[os.DirEntry], suffixes: frozenset[str]) -> frozenset[str]:
  """The names of the images, and of the two folders of flow, of which a folder is the video; empty if it is none."""
  names = [entry.name for entry in entries]
  subfolders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
  pair = frozenset(stills.axes(folder, subfolders) or ())
  if any(pathlib.PurePath(name).suffix.lower() in suffixes - {stills.ARRAY_SUFFIX} for name in names):
    return frozenset()
  images = frozenset(name for name in names if stills.is_image(name)) if stills.is_folder(names) else frozenset()
  return images | pair


def _classify(path: pathlib.Path, suffixes: frozenset[str]) -> Iterator[tuple[pathlib.Path, str | None]]:
  suffix = path.suffix.lower()
  if path.name.startswith("."):
    if path.is_dir() or suffix in suffixes or path.name.startswith("._"):
      yield path, _HIDDEN
    return
  try:
    mode = path.stat().st_mode
  except OSError:
    yield path, _DANGLING
    return
  if suffix in archives.SUFFIXES and stat.S_ISREG(mode):
    found = archives.members(path, suffixes - {stills.ARRAY_SUFFIX})
    yield from ((member, None) for member in found)
    if not found:
      yield path, "no video"
    return
  if suffix == stills.ARRAY_SUFFIX:
    begins_so = stills.is_array
  else:
    begins_so = is_video if suffix not in _OTHER_SUFFIXES else lambda path: False
  if stat.S_ISREG(mode) and (suffix in suffixes or begins_so(path)):
    yield path, None
  elif path.name != MADE_CLIPS:
    yield path, _NO_VIDEO
