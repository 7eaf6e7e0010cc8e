"""Output folders that an interrupted run leaves whole and a later one continues.

`Workdir` is a folder of records, features, made clips or a training run: it is claimed by one process at a time, holds
a JSON file with the parameters that made it, and refuses others. `replacing`, `new_folder`, `locked` and
`check_parameters` are its parts, for whoever writes a single file or a folder that is made in one go.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import errno
import glob
import json
import os
import pathlib
import re
import shutil
import socket
import tempfile
from typing import Any, BinaryIO, cast

import filelock

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import stores

LOCK = ".lock"
WORK = ".work"
_TEMPORARY = ".i3d_tf-partial"  # suffix of files that are being written
# Read once, while no thread can come between.
_UMASK = os.umask(0)
os.umask(_UMASK)


class Workdir:
  """An output folder that one process at a time works in, and a later one goes on with.

  The folder holds `LOCK`, an empty file whose lock the system releases if the process dies; the JSON file `info`; and
  in `WORK` what is needed until the work is done, among it the files that are being written.

  Attributes:
    path: the folder.
    work: the folder of temporary files and of what is kept until all is done; made on demand, removed when empty.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    info: str,
    *,
    section: str | None = "parameters",
    foreign: Iterable[str] = ("*",),
    part: str = "",
    in_stores: bool = False,
  ):
    """Names the folder; nothing is read or written.

    Args:
      path: the folder, which need not exist.
      info: name of the JSON file that says how the folder was made.
      section: the key of `info` under which the parameters are; None if they are all that it holds.
      foreign: patterns of the files that the folder must not hold when there is no `info`.
      part: the share of this process in a folder that several work in at the same time, each on its own part, each
        with a lock and temporary files in `WORK/part`.
      in_stores: whether it may be in an object store, where there are no locks: two processes that work in one folder
        there must write the same.

    Raises:
      I3dError: if the path is empty, which pathlib would take for the current folder, or in a store without `in_stores`
    """
    if not os.fspath(path):
      raise errors.I3dError("the output folder has an empty name")
    if not in_stores:
      _refuse_store(path)
    self.path = stores.as_path(path)
    self.work = self.path / WORK / part
    self._info = self.path / info
    self._section = section
    self._foreign = tuple(foreign)
    self._is_shared = bool(part)

  @contextlib.contextmanager
  def claim(
    self,
    parameters: Mapping[str, Any],
    *,
    about: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    free: Iterable[str] = (),
    paths: Iterable[str] = (),
    compare: bool = True,
  ) -> Iterator[bool]:
    """Locks the folder for the body of `with`, and writes how it is made or compares with what is written.

    Temporary files of a process that was killed are removed.

    Args:
      parameters: that make the folder what it is; of types that JSON has.
      about: what else `info` holds in a new folder, beside `parameters`; only with a section.
      defaults: values of parameters that folders of earlier versions lack.
      free: names of parameters that may change; the last values are kept.
      paths: see `check_parameters`.
      compare: False if what is there may be made anew with other parameters.

    Yields:
      Whether the folder was claimed before and is continued.

    Raises:
      I3dError: if the path is a file, the folder is none of ours, was made with other parameters, or is locked.
      OSError: if the folder cannot be written.
    """
    self._refuse_foreign()  # before a lock file is left in it
    with locked(self.work if self._is_shared else self.path):
      for leftover in self.work.glob(f".*{_TEMPORARY}"):
        leftover.unlink(missing_ok=True)
      try:
        with locked(self.path, wait=True) if self._is_shared else contextlib.nullcontext():
          resumed = self._prepare(json.loads(json.dumps(parameters)), about or {}, defaults or {}, free, paths, compare)
        yield resumed
      finally:
        with contextlib.suppress(OSError):
          self.work.rmdir()

  def _refuse_foreign(self) -> None:
    _refuse_file(self.path)
    if self._info.exists() or not self.path.exists():
      return
    found = sorted(path.name for pattern in self._foreign for path in self.path.glob(pattern))
    if others := [name for name in found if name not in (LOCK, WORK)]:
      raise errors.I3dError(
        f"{self.path} holds {others[0]}, but no {self._info.name} that says how it was made; choose another folder"
      )

  def _prepare(
    self,
    parameters: dict[str, Any],
    about: Mapping[str, Any],
    defaults: Mapping[str, Any],
    free: Iterable[str],
    paths: Iterable[str],
    compare: bool,
  ) -> bool:
    is_there = self._info.exists()
    if is_there and compare:
      info = self.read_info()
      before = info if self._section is None else info[self._section]
      check_parameters(self.path, before, parameters, defaults=defaults, free=free, paths=paths)
      if before == parameters:
        return True
      about = info
    section = {} if self._section is None else {self._section: parameters}
    self.write_info({**section, **about, **section} if section else parameters)
    return is_there and compare

  def read_info(self) -> dict[str, Any]:
    """Returns the content of `info`.

    Raises:
      I3dError: if the file is damaged.
      OSError: if it cannot be read.
    """
    try:
      info = files.read_json(self._info)
      if isinstance(info if self._section is None else info[self._section], dict):
        return info
    except (errors.I3dError, LookupError, TypeError):
      pass
    raise errors.I3dError(f"{self._info}: it is damaged; put a copy back, or choose another folder")

  def write_info(self, info: Mapping[str, Any]) -> None:
    """Replaces the content of `info`, for example by one that says that the work is done.

    Args:
      info: the whole content, the parameters included.
    """
    with self.replacing(self._info) as file:
      file.write(json.dumps(info, indent=2).encode() + b"\n")

  def replacing(self, path: str | os.PathLike) -> contextlib.AbstractContextManager[BinaryIO]:
    """Like the function `replacing`, with the temporary file in `work`, where the next process to claim finds it.

    Args:
      path: a file in the folder.

    Returns:
      A context manager that gives the file to write to.
    """
    self.work.mkdir(parents=True, exist_ok=True)
    return replacing(path, scratch=self.work)


@contextlib.contextmanager
def locked(
  folder: str | os.PathLike, *, name: str = LOCK, wait: bool = False, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
  """Keeps other processes that lock the same folder out of it; makes it if it does not exist.

  Args:
    folder: where the lock file is.
    name: of the lock file, which stays.
    wait: whether to wait until a process that holds the lock has ended.
    on_wait: is called once if there is a need to wait.

  Yields:
    Nothing.

  Raises:
    I3dError: if `folder` is a file, or another process holds the lock, unless `wait`.
    OSError: if the folder or the lock file cannot be made.
  """
  if stores.is_remote(folder):
    yield
    return
  folder = pathlib.Path(folder)
  _refuse_file(folder)
  folder.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(folder / name)
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    if not wait:
      raise errors.I3dError(f"{folder}: another process is working in it; wait for it or stop it") from None
    on_wait()
    lock.acquire()
  except (OSError, NotImplementedError) as error:
    if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
      raise
    raise errors.I3dError(
      f"{folder}: its file system cannot lock files ({error}), so that two processes could work there at once; choose "
      "a folder on another one, or mount it with locks"
    ) from None
  try:
    yield
  finally:
    lock.release()


def _refuse_store(path: str | os.PathLike) -> None:
  if stores.is_remote(path):
    raise errors.I3dError(f"{path}: this is written to file systems only, not to object stores; choose a local folder")


def _refuse_file(folder: pathlib.Path) -> None:
  if folder.exists() and not folder.is_dir():
    raise errors.I3dError(f"{folder}: this is a file, not a folder")


def check_parameters(
  where: str | os.PathLike,
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  *,
  defaults: Mapping[str, Any] | None = None,
  free: Iterable[str] = (),
  paths: Iterable[str] = (),
) -> None:
  """Compares the parameters that a folder or file was made with with those that it is to be continued with.

  Args:
    where: names the folder or file in the message.
    old: parameters as they were read from JSON.
    new: parameters of now, of types that JSON has.
    defaults: values of parameters that came later and are not in `old`; without one, the value was None.
    free: names that are not compared.
    paths: names of paths, of which all spellings are the same.

  Raises:
    I3dError: naming every parameter that differs, its value there and now.
  """
  old, new = ({**json.loads(json.dumps(values))} for values in ({**(defaults or {}), **old}, new))
  skipped = set(free) | {name for name in paths if same_path(old.get(name), new.get(name))}
  names = [name for name in {**old, **new} if name not in skipped and old.get(name) != new.get(name)]
  if names:
    listed = "; ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names)
    raise errors.I3dError(f"{where} was made with other parameters ({listed}); choose another folder or remove it")


def same_path(one: Any, other: Any) -> bool:
  """Returns whether two texts name one file or folder, which need not exist.

  Args:
    one: A path, or a value that is none.
    other: The same.
  """
  if not (isinstance(one, str) and isinstance(other, str) and one and other):
    return False
  return os.path.realpath(one) == os.path.realpath(other)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, scratch: str | os.PathLike | None = None) -> Iterator[BinaryIO]:
  """Opens a temporary file that takes the place of `path` if the body succeeds, so that no reader sees a part of it.

  The temporary file is made at once, so that a folder that cannot be written is found out before the work. A link is
  followed, as `open` does. In an object store the file is put in place by one upload.

  Args:
    path: the file to write or replace.
    scratch: folder of the temporary file, on the file system of `path`; None: the folder of `path`.

  Yields:
    The temporary file, open for writing bytes.

  Raises:
    OSError: naming `path`, if it cannot be written.
  """
  if stores.is_remote(path):
    with tempfile.NamedTemporaryFile(prefix="i3d_tf-") as file:
      yield cast(BinaryIO, file)
      file.flush()
      stores.StorePath(path).upload(file.name)
    return
  target = pathlib.Path(os.path.realpath(path))
  if target.is_dir():
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
  if target.exists() and not target.is_file():  # a device such as /dev/null must not be replaced
    raise OSError(errno.EINVAL, "this is not a regular file", os.fspath(path))
  folder = target.parent if scratch is None else pathlib.Path(scratch)
  if not folder.exists():
    raise FileNotFoundError(errno.ENOENT, "its folder does not exist; make it first", os.fspath(path))
  prefix = f".{target.name[:32]}."  # the whole could be too long with what comes behind
  _remove_leftovers(folder, prefix)
  prefix += _owner()
  try:
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=_TEMPORARY)
    try:
      with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.chmod(temporary, 0o666 & ~_UMASK)
      os.replace(temporary, target)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
      raise
  except OSError as error:
    # A temporary name, or none, would tell the user nothing.
    hidden = error.filename is None or str(error.filename).startswith(os.path.join(folder, prefix))
    if hidden and error.errno is not None:
      raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    raise


@contextlib.contextmanager
def temporary_folder(parent: str | os.PathLike, name: str) -> Iterator[pathlib.Path]:
  """Makes a hidden folder for the time of the body, and removes those that killed processes left.

  Args:
    parent: Folder to make it in.
    name: Part of its name, by which those that were left are known.

  Yields:
    The folder.

  Raises:
    OSError: If it cannot be made.
  """
  _remove_leftovers(pathlib.Path(parent), f".{name}.")
  with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}.{_owner()}") as folder:
    yield pathlib.Path(folder)


def _owner() -> str:
  """The part of a temporary name that says which process of which machine writes it."""
  return f"{re.sub(r'[^A-Za-z0-9-]', '-', socket.gethostname())[:32]}_{os.getpid()}_"


def _remove_leftovers(folder: pathlib.Path, prefix: str) -> None:
  """Removes temporary files and folders that processes of this machine left there when they were killed."""
  host = _owner().partition("_")[0]
  for path in folder.glob(f"{glob.escape(prefix + host)}_*_*"):
    number = path.name[len(prefix + host) + 1 :].partition("_")[0]
    if number.isdecimal() and int(number) != os.getpid() and not _is_alive(int(number)):
      shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except OSError:
    pass
  return True


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Makes a folder that appears at `path` when the body has succeeded.

  Args:
    path: where there must be nothing, or an empty folder.

  Yields:
    The folder to fill.

  Raises:
    I3dError: if `path` is a file, a folder that holds something, or in an object store.
    OSError: if it cannot be written.
  """
  _refuse_store(path)
  target = pathlib.Path(os.path.realpath(path))
  if target.exists() and not target.is_dir():
    raise errors.I3dError(f"{path} is a file; name a folder to write to")
  held = sorted(os.listdir(target)) if target.exists() else []
  if held:
    raise errors.I3dError(f"{path} holds {held[0]} already; name a new or an empty folder to write to")
  made = [parent for parent in target.parents if not parent.exists()]
  target.parent.mkdir(parents=True, exist_ok=True)
  try:
    with temporary_folder(target.parent, target.name) as staging:
      complete = staging / target.name
      complete.mkdir()
      yield complete
      complete.rename(target)
  except BaseException as error:
    for parent in made:
      with contextlib.suppress(OSError):
        parent.rmdir()
    if isinstance(error, OSError) and str(error.filename).startswith(os.path.join(target.parent, f".{target.name}.")):
      raise OSError(error.errno, error.strerror, os.fspath(path)) from None  # a temporary name would tell nothing
    raise
