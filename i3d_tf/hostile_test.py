"""Inputs that are made to end a run: each is used or named by every program, and the others are done."""

import json
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import numpy as np

from i3d_tf import testing
from i3d_tf import workers
from i3d_tf.video import decode

# What a process that decodes runs at its start: a decoder that dies, as FFmpeg might, in the middle of some videos.
_DYING_DECODER = """
import os, signal
from i3d_tf.video import frames
whole = frames.timed_frames
def timed_frames(path, **options):
  for number, frame in enumerate(whole(path, **options)):
    if number == 5 and "deadly" in os.fspath(path):
      os.kill(os.getpid(), signal.SIGSEGV)
    yield frame
frames.timed_frames = timed_frames
"""


class VideosTest(absltest.TestCase):
  """Videos of which one ends its decoder's process."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.videos = self.folder / "videos"
    self.videos.mkdir()
    for number, name in enumerate(("a", "b_deadly", "c", "d")):
      testing.write_moving_video(self.videos / f"{name}.avi", seed=number, num_frames=20)
    testing.write_network(self.folder / "rgb")
    (self.folder / "sitecustomize.py").write_text(_DYING_DECODER)
    path = os.pathsep.join([os.fspath(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    self.enter_context(mock.patch.dict(os.environ, PYTHONPATH=path))
    self.enter_context(mock.patch.object(decode, "_elsewhere", workers.Streams()))

  def _run(self, program: str, *words: str) -> testing.Finished:
    done = testing.run_main(program, f"--rgb_checkpoint={self.folder / 'rgb'}", *words)
    self.assertEqual(done.status, 1, done.stderr)
    died = f"{program}: error: {self.videos / 'b_deadly.avi'}: the process that read it died (SIGSEGV)"
    self.assertEqual([line for line in done.stderr.splitlines() if "error" in line], [died])
    return done

  def test_classify(self):
    done = self._run("classify", f"--video={self.videos}", f"--json={self.folder / 'out.json'}")
    self.assertIn("3 of 4 videos classified, 1 failed", done.stdout)
    results = json.loads((self.folder / "out.json").read_text())["results"]
    self.assertEqual([pathlib.Path(each["input"]).stem for each in results if "error" not in each], ["a", "c", "d"])

  def test_extract_features(self):
    done = self._run("extract_features", f"--input={self.videos}", f"--output={self.folder / 'out'}", "--window=16")
    self.assertIn("3 of 4 videos have features", done.stdout)
    self.assertLen(list((self.folder / "out").glob("*.npz")), 3)

  def test_fvd(self):
    made = self.folder / "made.npy"
    np.save(made, np.zeros((2, 10, 8, 8, 3), np.uint8))
    done = self._run("fvd", f"--real={self.videos}", f"--generated={made}", "--num_frames=10", "--resamples=0")
    self.assertIn("clips: 3 real", done.stdout)


if __name__ == "__main__":
  absltest.main()
