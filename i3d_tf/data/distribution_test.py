"""Beam's runners write what the local one writes; those of clusters are not tried, but DirectRunner in their place."""

import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import runners
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import distribution
from i3d_tf.data import shards
from i3d_tf.runners import beam

_CLIPS = tuple(clips_lib.Clip(f"clip{i:02}", f"clip{i:02}.avi", label="a") for i in range(10))
_DATASET = clips_lib.Dataset("made", ("a",), {"train": _CLIPS[:8], "test": _CLIPS[8:]}, {"train": (), "test": ()})
_PLAN = shards.plan(_DATASET, 3)


def _make(task: shards.Task, *, diary: str, broken_code: bool = False) -> bytes:
  """A record without a video: clip 3 is a bad one, clip 6 cannot be opened."""
  if broken_code and task.clip.id == "clip05":
    raise ZeroDivisionError("a defect")
  with open(diary, "a") as file:
    print(task.clip.id, file=file)
  if task.clip.id == "clip03":
    raise errors.VideoError("clip03.avi: the file is empty")
  if task.clip.id == "clip06":
    raise PermissionError(13, "Permission denied", "clip06.avi")
  return task.clip.id.encode() * 1000


def _finish_here(folder: shards.Folder, diary: str) -> None:
  """Does the same without Beam."""
  for task in folder.tasks():
    try:
      folder.put(task, _make(task, diary=diary), None)
    except errors.I3dError as error:
      folder.put(task, None, str(error))
    except OSError as error:
      folder.put(task, None, errors.describe_os_error(error))
  folder.finish_shards()


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write_video(path: pathlib.Path, seed: int) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  texture = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), np.uint8)
  texture = cv2.resize(texture, (80, 48), interpolation=cv2.INTER_CUBIC)
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
  for t in range(6):
    writer.write(np.ascontiguousarray(texture[:, t : t + 64]))
  writer.release()


class _BeamTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)


@unittest.skipUnless(importlib.util.find_spec("apache_beam"), "Apache Beam is not installed")
class BeamRunnerTest(_BeamTest):
  def setUp(self):
    super().setUp()
    self.diary = self.folder / "diary"
    here = shards.Folder(self.folder / "here", _PLAN)
    with here.claim({}):
      _finish_here(here, str(self.folder / "other_diary"))
      self.failures = here.finish(_DATASET, {})
    self.expected = _files(here.path)

  def _run(self, **options) -> shards.Folder:
    """Runs the pipeline and finishes the folder; returns it."""
    folder = shards.Folder(self.folder / "beam", _PLAN)
    with folder.claim({}):
      make = functools.partial(_make, diary=str(self.diary), **options)
      distribution.prepare_records(runners.create("DirectRunner", []), folder, make)
      self.assertEqual(folder.finish(_DATASET, {}), self.failures)
    return folder

  def _made(self) -> list[str]:
    return self.diary.read_text().split() if self.diary.exists() else []

  def test_writes_the_same_bytes_and_failures(self):
    folder = self._run()
    self.assertEqual(_files(folder.path), self.expected)
    self.assertEqual(
      {failure["id"]: failure["reason"] for failure in self.failures},
      {"clip03": "clip03.avi: the file is empty", "clip06": "clip06.avi: Permission denied"},
    )
    self.assertCountEqual(self._made(), [clip.id for clip in _CLIPS])

  def test_goes_on_where_the_local_runner_stopped(self):
    started = shards.Folder(self.folder / "beam", _PLAN)
    with started.claim({}):
      tasks = started.tasks()
      done = [task for task in tasks if task.shard == _PLAN[0].name] + tasks[-1:]
      for task in done:
        started.put(task, _make(task, diary=str(self.folder / "other_diary")), None)
      started.finish_shards()
    self.assertTrue((started.path / f"{_PLAN[0].name}.tfrecord").exists())
    folder = self._run()
    self.assertEqual(_files(folder.path), self.expected)
    self.assertCountEqual(self._made(), [task.clip.id for task in tasks if task not in done])

  def test_a_finished_folder_needs_no_pipeline(self):
    self._run()
    self.diary.unlink()
    folder = self._run()
    self.assertEqual(self._made(), [])
    self.assertEqual(_files(folder.path), self.expected)

  def test_after_a_defect_what_was_done_stays(self):
    with self.assertRaisesRegex(errors.I3dError, r"the Beam pipeline failed: ZeroDivisionError: a defect .*; start"):
      self._run(broken_code=True)
    before = self._made()
    self.assertNotIn("clip05", before)
    folder = self._run()
    self.assertEqual(_files(folder.path), self.expected)
    self.assertCountEqual(self._made(), [clip.id for clip in _CLIPS])

  def test_a_shard_may_be_assembled_twice(self):
    self._run()
    for shard in _PLAN:
      distribution._assemble((shard.name, len(shard.clips)), output=str(self.folder / "beam"))
    self.assertEqual(_files(self.folder / "beam"), self.expected)

  def test_a_shard_without_its_clips_is_not_assembled(self):
    folder = shards.Folder(self.folder / "beam", _PLAN)
    with folder.claim({}):
      folder.put(folder.tasks()[0], b"record", None)
      with self.assertRaises(FileNotFoundError):
        distribution._assemble((_PLAN[0].name, 3), output=str(folder.path))
    self.assertEmpty(list(folder.path.glob("*.tfrecord")))

  def test_workers_that_write_elsewhere_are_noticed(self):
    with mock.patch.object(beam, "_read_tasks", lambda listing: []):
      with self.assertRaisesRegex(errors.I3dError, r"but 10 videos are not in .*/beam; do all its workers see"):
        self._run()


class PrepareDatasetTest(_BeamTest):
  """The program, in real processes."""

  def setUp(self):
    super().setUp()
    for seed in range(4):
      _write_video(self.folder / "videos" / "train" / f"class{seed % 2}" / f"v{seed}.avi", seed)
    (self.folder / "videos" / "train" / "class0" / "text.mp4").write_text("no video")

  def _prepare(self, output: str, *flags: str) -> subprocess.CompletedProcess:
    fixed = ("--dataset=folder", "--videos=videos", "--short_side=48", "--clips_per_shard=2", f"--output={output}")
    command = [sys.executable, "-m", "i3d_tf.prepare_dataset", *fixed, *flags]
    root = str(pathlib.Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

  @unittest.skipUnless(importlib.util.find_spec("apache_beam"), "Apache Beam is not installed")
  def test_every_runner_writes_the_same_bytes(self):
    local = self._prepare("local", "--num_workers=1")
    self.assertIn("1 videos failed, more than --max_failures=0", local.stderr)
    report = [line for line in local.stdout.splitlines() if not line.startswith("failed: ")]
    processes = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    for output, options in (("beam", ()), ("processes", processes)):
      with self.subTest(output):
        done = self._prepare(output, "--runner=DirectRunner", *(f"--beam_option={option}" for option in options))
        self.assertNotIn("Traceback", done.stderr)
        self.assertEqual(done.stderr.splitlines()[-1], local.stderr.splitlines()[-1])
        self.assertEqual(done.stdout.splitlines(), [line.replace("local/", f"{output}/") for line in report])
        self.assertEqual(done.returncode, local.returncode)
        self.assertEqual(_files(self.folder / output), _files(self.folder / "local"))

  def test_flags_that_do_not_go_together(self):
    for flags, message in (
      (("--beam_option=--direct_num_workers=2",), "the local runner has no options; name another runner"),
      (("--runner=DirectRunner", "--num_workers=2"), "--num_workers is for the local runner"),
      (("--runner=FlinkRunner",), "videos is videos; the workers of FlinkRunner need an absolute path"),
    ):
      with self.subTest(message):
        done = self._prepare("output", *flags)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn(message, done.stderr)
        self.assertLen(done.stderr.splitlines(), 1)
    self.assertFalse((self.folder / "output").exists())


if __name__ == "__main__":
  absltest.main()
