"""Tests of files: the old content or the new one, never a part, and no leftovers."""

import errno
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.error

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf import files


class ReplacingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.path = self.folder / "out.json"

  def _names(self) -> list[str]:
    return sorted(os.listdir(self.folder))

  def test_writes_a_new_file_and_nothing_else(self):
    with files.replacing(self.path) as file:
      file.write(b"new")
    self.assertEqual(self.path.read_bytes(), b"new")
    self.assertEqual(self._names(), ["out.json"])

  def test_readers_see_the_old_content_until_the_end(self):
    self.path.write_bytes(b"old content")
    with files.replacing(self.path) as file:
      file.write(b"new")
      file.flush()
      self.assertEqual(self.path.read_bytes(), b"old content")
    self.assertEqual(self.path.read_bytes(), b"new")
    self.assertEqual(self._names(), ["out.json"])

  @parameterized.parameters(RuntimeError, KeyboardInterrupt, errors.I3dError)
  def test_an_exception_leaves_the_old_content(self, exception):
    self.path.write_bytes(b"old content")
    with self.assertRaisesRegex(exception, "stop"):
      with files.replacing(self.path) as file:
        file.write(b"half of the n")
        raise exception("stop")
    self.assertEqual(self.path.read_bytes(), b"old content")
    self.assertEqual(self._names(), ["out.json"])

  def test_an_exception_leaves_no_file_where_there_was_none(self):
    with self.assertRaises(RuntimeError):
      with files.replacing(self.path):
        raise RuntimeError
    self.assertEqual(self._names(), [])

  def test_permissions_follow_the_umask(self):
    script = "from i3d_tf import files\nwith files.replacing('new') as file: file.write(b'x')"
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(files.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], cwd=self.folder, env=environment, umask=0o027, check=True)
    self.assertEqual((self.folder / "new").stat().st_mode & 0o777, 0o640)

  def test_a_relative_path(self):
    before = os.getcwd()
    self.addCleanup(os.chdir, before)
    os.chdir(self.folder)
    with files.replacing("out.json") as file:
      file.write(b"new")
    self.assertEqual(self.path.read_bytes(), b"new")

  def test_a_link_stays_and_its_target_is_replaced(self):
    (self.folder / "target").write_bytes(b"old")
    self.path.symlink_to("target")
    with files.replacing(self.path) as file:
      file.write(b"new")
    self.assertTrue(self.path.is_symlink())
    self.assertEqual((self.folder / "target").read_bytes(), b"new")

  def test_two_at_once_the_last_one_wins_whole(self):
    with files.replacing(self.path) as first:
      with files.replacing(self.path) as second:
        second.write(b"second")
      first.write(b"first")
    self.assertEqual(self.path.read_bytes(), b"first")
    self.assertEqual(self._names(), ["out.json"])

  def _refused_before_the_body(self, path, number: int) -> None:
    with self.assertRaises(OSError) as caught:
      with files.replacing(path):
        self.fail("the body must not begin")
    self.assertEqual(caught.exception.errno, number)
    self.assertEqual(caught.exception.filename, os.fspath(path))

  def test_a_missing_folder_is_found_out_before_the_work(self):
    self._refused_before_the_body(self.folder / "none" / "out.json", errno.ENOENT)

  def test_a_file_as_folder_is_found_out_before_the_work(self):
    self.path.write_bytes(b"old")
    self._refused_before_the_body(self.path / "out.json", errno.ENOTDIR)

  def test_a_folder_as_target_is_found_out_before_the_work(self):
    self._refused_before_the_body(self.folder, errno.EISDIR)
    self._refused_before_the_body("", errno.EISDIR)

  def test_a_device_is_not_replaced(self):
    self._refused_before_the_body("/dev/null", errno.EINVAL)
    self.assertTrue(pathlib.Path("/dev/null").is_char_device())

  def test_an_unwritable_folder_is_found_out_before_the_work(self):
    if os.geteuid():
      self.folder.chmod(0o555)
      self.addCleanup(self.folder.chmod, 0o755)
      self._refused_before_the_body(self.path, errno.EACCES)
    else:  # root may write whatever the permissions; a read-only file system stops it
      self._mount("ro,size=64k")
      self._refused_before_the_body(self.path, errno.EROFS)

  def test_a_full_disk_is_named_and_leaves_the_old_content(self):
    self._mount("size=64k")
    self.path.write_bytes(b"old content")
    with self.assertRaises(OSError) as caught:
      with files.replacing(self.path) as file:
        file.write(b"x" * (1 << 17))
    self.assertEqual(errors.describe_os_error(caught.exception), f"{self.path}: {os.strerror(errno.ENOSPC)}")
    self.assertEqual(self.path.read_bytes(), b"old content")
    self.assertEqual(self._names(), ["out.json"])

  def _mount(self, options: str) -> None:
    """Mounts a small file system at the test's folder."""
    try:
      done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], capture_output=True, text=True, check=False
      )
    except FileNotFoundError:
      self.skipTest("there is no mount command")
    if done.returncode:
      self.skipTest(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    self.addCleanup(subprocess.run, ["umount", self.folder], check=True)

  def test_an_error_of_the_body_keeps_its_own_path(self):
    with self.assertRaises(FileNotFoundError) as caught:
      with files.replacing(self.path):
        open(self.folder / "another")
    self.assertEqual(caught.exception.filename, os.fspath(self.folder / "another"))

  @parameterized.parameters(io.UnsupportedOperation("not readable"), urllib.error.URLError("no route"))
  def test_an_error_of_the_body_without_number_stays_as_it_is(self, error):
    with self.assertRaises(OSError) as caught:
      with files.replacing(self.path):
        raise error
    self.assertIs(caught.exception, error)


class NewFolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  @parameterized.parameters("new", "old", "a/b/new", "link")
  def test_appears_when_it_is_complete(self, name):
    (self.folder / "old").mkdir()
    (self.folder / "link").symlink_to(self.folder / "old")
    with files.new_folder(self.folder / name) as folder:
      (folder / "file").write_bytes(b"1")
      self.assertFalse((self.folder / name / "file").exists())
    self.assertEqual((self.folder / name / "file").read_bytes(), b"1")
    self.assertEmpty([path for path in self.folder.rglob(".*")])

  @parameterized.parameters("new", "a/b/new", "old")
  def test_a_failure_leaves_nothing(self, name):
    (self.folder / "old").mkdir()
    with self.assertRaises(ZeroDivisionError):
      with files.new_folder(self.folder / name) as folder:
        (folder / "file").write_bytes(b"1")
        raise ZeroDivisionError
    self.assertEqual([path.name for path in self.folder.rglob("*")], ["old"])

  def test_an_error_names_the_folder_that_was_asked_for(self):
    with self.assertRaises(OSError) as caught:
      with files.new_folder("/proc/new"):
        self.fail("the body must not run")
    self.assertEqual(caught.exception.filename, "/proc/new")

  def test_what_is_there_is_kept(self):
    (self.folder / "file").write_bytes(b"1")
    for path, sentence in ((self.folder, "holds file already"), (self.folder / "file", "is a file; name a folder")):
      with self.assertRaisesRegex(errors.I3dError, sentence):
        with files.new_folder(path):
          self.fail("the body must not run")
    self.assertEqual((self.folder / "file").read_bytes(), b"1")


class LockedTest(absltest.TestCase):
  def test_others_are_kept_out_or_wait(self):
    with tempfile.TemporaryDirectory() as folder:
      entered = []

      def work() -> None:
        with files.locked(folder, wait=True):
          entered.append("other")

      other = threading.Thread(target=work)
      with files.locked(folder):
        with self.assertRaisesRegex(errors.I3dError, f"{folder}: another process is writing here"):
          with files.locked(folder):
            self.fail("the folder is locked")
        other.start()
        other.join(0.1)
        entered.append("this")
      other.join()
      self.assertEqual(entered, ["this", "other"])


if __name__ == "__main__":
  absltest.main()
