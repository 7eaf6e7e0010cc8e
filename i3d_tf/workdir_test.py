"""Output folders and files: who may work in them, and that a reader sees the old content or the new one."""

import errno
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from unittest import mock
import urllib.error

from absl.testing import absltest
from absl.testing import parameterized
import filelock

from i3d_tf import errors
from i3d_tf import workdir


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
    with workdir.replacing(self.path) as file:
      file.write(b"new")
    self.assertEqual(self.path.read_bytes(), b"new")
    self.assertEqual(self._names(), ["out.json"])

  def test_readers_see_the_old_content_until_the_end(self):
    self.path.write_bytes(b"old content")
    with workdir.replacing(self.path) as file:
      file.write(b"new")
      file.flush()
      self.assertEqual(self.path.read_bytes(), b"old content")
    self.assertEqual(self.path.read_bytes(), b"new")
    self.assertEqual(self._names(), ["out.json"])

  @parameterized.parameters(RuntimeError, KeyboardInterrupt, errors.I3dError)
  def test_an_exception_leaves_the_old_content(self, exception):
    self.path.write_bytes(b"old content")
    with self.assertRaisesRegex(exception, "stop"):
      with workdir.replacing(self.path) as file:
        file.write(b"half of the n")
        raise exception("stop")
    self.assertEqual(self.path.read_bytes(), b"old content")
    self.assertEqual(self._names(), ["out.json"])

  def test_an_exception_leaves_no_file_where_there_was_none(self):
    with self.assertRaises(RuntimeError):
      with workdir.replacing(self.path):
        raise RuntimeError
    self.assertEqual(self._names(), [])

  def test_permissions_follow_the_umask(self):
    script = "from i3d_tf import workdir\nwith workdir.replacing('new') as file: file.write(b'x')"
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(workdir.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], cwd=self.folder, env=environment, umask=0o027, check=True)
    self.assertEqual((self.folder / "new").stat().st_mode & 0o777, 0o640)

  def test_a_relative_path(self):
    before = os.getcwd()
    self.addCleanup(os.chdir, before)
    os.chdir(self.folder)
    with workdir.replacing("out.json") as file:
      file.write(b"new")
    self.assertEqual(self.path.read_bytes(), b"new")

  def test_a_link_stays_and_its_target_is_replaced(self):
    (self.folder / "target").write_bytes(b"old")
    self.path.symlink_to("target")
    with workdir.replacing(self.path) as file:
      file.write(b"new")
    self.assertTrue(self.path.is_symlink())
    self.assertEqual((self.folder / "target").read_bytes(), b"new")

  def test_two_at_once_the_last_one_wins_whole(self):
    with workdir.replacing(self.path) as first:
      with workdir.replacing(self.path) as second:
        second.write(b"second")
      first.write(b"first")
    self.assertEqual(self.path.read_bytes(), b"first")
    self.assertEqual(self._names(), ["out.json"])

  def _refused_before_the_body(self, path, number: int) -> None:
    with self.assertRaises(OSError) as caught:
      with workdir.replacing(path):
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
      with workdir.replacing(self.path) as file:
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
      with workdir.replacing(self.path):
        open(self.folder / "another")
    self.assertEqual(caught.exception.filename, os.fspath(self.folder / "another"))

  @parameterized.parameters(io.UnsupportedOperation("not readable"), urllib.error.URLError("no route"))
  def test_an_error_of_the_body_without_number_stays_as_it_is(self, error):
    with self.assertRaises(OSError) as caught:
      with workdir.replacing(self.path):
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
    with workdir.new_folder(self.folder / name) as folder:
      (folder / "file").write_bytes(b"1")
      self.assertFalse((self.folder / name / "file").exists())
    self.assertEqual((self.folder / name / "file").read_bytes(), b"1")
    self.assertEmpty([path for path in self.folder.rglob(".*")])

  @parameterized.parameters("new", "a/b/new", "old")
  def test_a_failure_leaves_nothing(self, name):
    (self.folder / "old").mkdir()
    with self.assertRaises(ZeroDivisionError):
      with workdir.new_folder(self.folder / name) as folder:
        (folder / "file").write_bytes(b"1")
        raise ZeroDivisionError
    self.assertEqual([path.name for path in self.folder.rglob("*")], ["old"])

  def test_an_error_names_the_folder_that_was_asked_for(self):
    with self.assertRaises(OSError) as caught:
      with workdir.new_folder("/proc/new"):
        self.fail("the body must not run")
    self.assertEqual(caught.exception.filename, "/proc/new")

  def test_what_is_there_is_kept(self):
    (self.folder / "file").write_bytes(b"1")
    for path, sentence in ((self.folder, "holds file already"), (self.folder / "file", "is a file; name a folder")):
      with self.assertRaisesRegex(errors.I3dError, sentence):
        with workdir.new_folder(path):
          self.fail("the body must not run")
    self.assertEqual((self.folder / "file").read_bytes(), b"1")


class LockedTest(absltest.TestCase):
  def test_others_are_kept_out_or_wait(self):
    with tempfile.TemporaryDirectory() as folder:
      entered = []

      def work() -> None:
        with workdir.locked(folder, wait=True, on_wait=lambda: entered.append("waits")):
          entered.append("other")

      other = threading.Thread(target=work)
      with workdir.locked(folder):
        with self.assertRaisesRegex(errors.I3dError, f"{folder}: another process is working in it"):
          with workdir.locked(folder):
            self.fail("the folder is locked")
        other.start()
        other.join(0.2)
        entered.append("this")
      other.join()
      self.assertEqual(entered, ["waits", "this", "other"])


class WorkdirTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.path = pathlib.Path(folder.name) / "out"

  def _dir(self, **changes) -> workdir.Workdir:
    return workdir.Workdir(self.path, **{"info": "info.json", **changes})

  def _claim(self, parameters, *, section: str | None = "parameters", **changes) -> bool:
    with self._dir(section=section).claim(parameters, **changes) as resumed:
      return resumed

  def _info(self):
    return json.loads((self.path / "info.json").read_bytes())

  def test_a_new_folder_and_one_that_is_continued(self):
    self.assertFalse(self._claim({"fps": 25.0, "streams": ("rgb",)}, about={"complete": False}))
    written = (
      b'{\n  "parameters": {\n    "fps": 25.0,\n    "streams": [\n      "rgb"\n    ]\n  },\n  "complete": false\n}\n'
    )
    self.assertEqual((self.path / "info.json").read_bytes(), written)
    self.assertEqual(sorted(os.listdir(self.path)), [".lock", "info.json"])
    self.assertTrue(self._claim({"streams": ("rgb",), "fps": 25}, about={"complete": None}))
    self.assertEqual((self.path / "info.json").read_bytes(), written)

  def test_an_empty_folder_is_taken(self):
    self.path.mkdir()
    self.assertFalse(self._claim({}))

  def test_spellings_of_a_path_are_one(self):
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    (folder / "records").mkdir()
    (folder / "link").symlink_to("records")
    old = {"records": str(folder / "records"), "checkpoint": "rgb_imagenet", "second": ""}
    link = folder / "link"
    for path in (str(link), f"{folder}/records/", f"{link}/../records", os.path.relpath(link)):
      workdir.check_parameters("run", old, {**old, "records": path}, paths=("records", "checkpoint", "second"))
      with self.assertRaisesRegex(errors.I3dError, "records was"):
        workdir.check_parameters("run", old, {**old, "records": path})
    for name, value in (("records", str(folder)), ("checkpoint", "flow_imagenet"), ("second", ".")):
      with self.assertRaisesRegex(errors.I3dError, f"run was made with other parameters .{name} was"):
        workdir.check_parameters("run", old, {**old, name: value}, paths=("records", "checkpoint", "second"))

  @parameterized.parameters(None, "parameters")
  def test_other_parameters_are_named_each_with_its_value_there_and_now(self, section):
    self._claim({"fps": 25, "kind": "a", "gone": None}, section=section)
    sentence = r"out was made with other parameters \(kind was 'a', is 'b'; new was None, is \[1\]\); choose another"
    with self.assertRaisesRegex(errors.I3dError, sentence):
      self._claim({"fps": 25, "kind": "b", "new": (1,)}, section=section)
    with self.assertRaisesRegex(errors.I3dError, r"\(fps was 25, is None\)"):
      self._claim({"kind": "a"}, section=section)

  @parameterized.parameters(None, "parameters")
  def test_a_parameter_that_came_later_had_its_default(self, section):
    self._claim({"fps": 25}, section=section)
    with self.assertRaisesRegex(errors.I3dError, r"\(bound was \[20, 30\], is 10\)"):
      self._claim({"fps": 25, "bound": 10}, section=section, defaults={"bound": (20, 30)})
    self.assertTrue(self._claim({"fps": 25, "bound": (20, 30)}, section=section, defaults={"bound": (20, 30)}))
    info = self._info() if section is None else self._info()[section]
    self.assertEqual(info, {"fps": 25, "bound": [20, 30]})

  def test_what_may_change_is_kept_as_it_was_last_and_the_rest_stays(self):
    self._claim({"fps": 25, "steps": 3}, about={"made_by": "me"})
    self.assertTrue(self._claim({"fps": 25, "steps": 5}, free=["steps"], about={"made_by": "you"}))
    self.assertEqual(self._info(), {"parameters": {"fps": 25, "steps": 5}, "made_by": "me"})

  def test_a_folder_may_be_made_anew(self):
    self._claim({"fps": 25}, section=None)
    self.assertFalse(self._claim({"rate": 5}, section=None, compare=False))
    self.assertEqual(self._info(), {"rate": 5})

  def test_a_folder_of_others_is_refused_and_left_as_it_is(self):
    self.path.mkdir()
    (self.path / "x.tfrecord").touch()
    self.assertFalse((self.path / "info.json").exists())
    with self.assertRaisesRegex(errors.I3dError, "out holds x.tfrecord, but no info.json that says how it was made"):
      self._claim({})
    self.assertEqual(os.listdir(self.path), ["x.tfrecord"])
    with self._dir(foreign=["*.npy"]).claim({}) as resumed:
      self.assertFalse(resumed)

  def test_a_file_and_an_empty_name_are_refused(self):
    self.path.touch()
    with self.assertRaisesRegex(errors.I3dError, "out: this is a file, not a folder$"):
      self._claim({})
    with self.assertRaisesRegex(errors.I3dError, "^the output folder has an empty name$"):
      workdir.Workdir("", "info.json")

  @parameterized.parameters(b"", b"{", b"[1]", b"3", b'{"parameters": 3}', b"\xff")
  def test_a_damaged_file_is_refused(self, content):
    self._claim({})
    (self.path / "info.json").write_bytes(content)
    with self.assertRaisesRegex(errors.I3dError, "out/info.json: it is damaged; put a copy back"):
      self._claim({})

  def test_one_process_at_a_time(self):
    with self._dir().claim({}):
      with self.assertRaisesRegex(errors.I3dError, "out: another process is working in it; wait for it or stop it"):
        self._claim({})
    self.assertTrue(self._claim({}))

  def test_a_killed_process_leaves_no_lock_and_its_temporary_files_are_removed(self):
    script = (
      "import os, signal, sys\nfrom i3d_tf import workdir\nfolder = workdir.Workdir(sys.argv[1], 'info.json')\n"
      "with folder.claim({}), folder.replacing(folder.path / 'file') as file:\n"
      "  file.write(b'half')\n  file.flush()\n  os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(workdir.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script, self.path], env=environment, check=False)
    (left,) = (self.path / ".work").iterdir()
    self.assertEqual(left.read_bytes(), b"half")
    (self.path / ".work" / "kept.json").touch()
    with self._dir().claim({}):
      self.assertEqual(os.listdir(self.path / ".work"), ["kept.json"])
    self.assertTrue((self.path / ".work" / "kept.json").exists())

  def test_what_killed_processes_left_beside_a_file_is_removed_by_the_next_that_writes_it(self):
    script = (
      "import os, signal, sys\nfrom i3d_tf import workdir\n"
      "with workdir.replacing(sys.argv[1] + '.npz') as file, workdir.new_folder(sys.argv[1]) as folder:\n"
      "  file.write(b'half')\n  (folder / 'part').touch()\n  os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(workdir.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script, self.path], env=environment, check=False)
    parent = self.path.parent
    self.assertLen(os.listdir(parent), 2)
    (parent / f".{self.path.name}.npz.elsewhere_1_x").touch()  # of another machine, whose process may be alive
    file = f"{self.path}.npz"
    with workdir.replacing(file), workdir.replacing(file):  # nor is what this process writes removed
      pass
    with workdir.new_folder(self.path):
      pass
    self.assertCountEqual(os.listdir(parent), [".out.npz.elsewhere_1_x", "out.npz", "out"])

  @parameterized.parameters(OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock"))
  def test_a_file_system_without_locks(self, error):
    with mock.patch.object(filelock.FileLock, "acquire", side_effect=error):
      with self.assertRaisesRegex(errors.I3dError, "out: its file system cannot lock files .*; choose a folder on "):
        self._claim({})

  def test_parts_of_a_folder_are_worked_on_at_the_same_time(self):
    first, second = (self._dir(part=f"part-{number}") for number in (1, 2))
    with first.claim({"fps": 25}), first.replacing(self.path / "file") as file:
      with second.claim({"fps": 25}) as resumed:
        self.assertTrue(resumed)
        with self.assertRaisesRegex(errors.I3dError, "part-1: another process is working in it"):
          with self._dir(part="part-1").claim({"fps": 25}):
            self.fail("this part is locked")
      with self.assertRaisesRegex(errors.I3dError, "fps was 25, is 30"):
        with self._dir(part="part-3").claim({"fps": 30}):
          self.fail("it is made otherwise")
      file.write(b"whole")  # which the others have left alone
    self.assertEqual((self.path / "file").read_bytes(), b"whole")


if __name__ == "__main__":
  absltest.main()
