"""Tests of the visualize program, with small networks of made weights."""

import os
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np

from i3d_tf import testing
from i3d_tf.video import decode
from i3d_tf.video import encode
from i3d_tf.weights import release
from i3d_tf.weights import saved


class VisualizeTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.made = pathlib.Path(folder.name)
    for stream in ("rgb", "flow"):
      info = saved.make_info(
          stream=stream, num_classes=3, classes=("walk", "run", "jump"), width_multiplier=0.05, average_space=True,
          short_side=36, crop=32,
      )  # fmt: skip
      model = saved.make_model(info)
      for name, variable in release.named_variables(model).items():
        variable.assign(testing.golden_values(name, tuple(variable.shape)))
      saved.save(cls.made / stream, model, info)
    noise = np.random.default_rng(0).integers(0, 255, (36, 48, 3), np.uint8)
    with encode.writing(cls.made / "clip.mp4", fps=25) as write:
      for time in range(12):
        write(np.roll(noise, time, axis=1))

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def _run(self, *arguments: str) -> tuple[int, str, str]:
    """Runs the program in the test's folder; {made} stands for the folder of what was made."""
    before = os.getcwd()
    os.chdir(self.folder)
    try:
      return testing.run_main("visualize", *(argument.format(made=self.made) for argument in arguments))
    finally:
      os.chdir(before)

  def _names(self) -> list[str]:
    return sorted(path.name for path in self.folder.iterdir())

  def test_video(self):
    checkpoints = ("--rgb_checkpoint={made}/rgb", "--flow_checkpoint={made}/flow")
    status, output, complaints = self._run("video", "{made}/clip.mp4", "--streams=joint", *checkpoints, "--top_k=3")
    self.assertEqual(status, 0, complaints)
    lines = output.splitlines()
    self.assertEqual(lines[0::4], ["RGB, whole video:", "Flow, whole video:", "RGB + Flow, logits added, whole video:",
                                   "clip_video.mp4"])  # fmt: skip
    logits = [{line.split()[2]: float(line.split()[1]) for line in lines[first : first + 3]} for first in (1, 5, 9)]
    for name in ("walk", "run", "jump"):
      self.assertAlmostEqual(logits[2][name], logits[0][name] + logits[1][name], places=4)
    self.assertEqual(self._names(), ["clip_video.mp4"])
    self.assertEqual(decode.probe(self.folder / "clip_video.mp4").num_frames, 12)

  def test_video_of_a_network_of_both_streams(self):
    testing.write_network(
        self.folder / "joint", model="fused_two_stream", stream="joint", num_frames=2, flow_stack=3, short_side=36,
        crop=32,
    )  # fmt: skip
    status, output, complaints = self._run("video", "{made}/clip.mp4", "--joint_checkpoint=joint", "--output=v.mp4")
    self.assertEqual(status, 0, complaints)
    self.assertStartsWith(output, "RGB + Flow, whole video:\n")
    self.assertEndsWith(output, "v.mp4\n")

  def test_filters(self):
    status, output, complaints = self._run("filters", "{made}/rgb", "{made}/flow")
    self.assertEqual(status, 0, complaints)
    self.assertEqual(output, "rgb_flow_filters.png\nrgb_flow_filters.gif\n")
    self.assertEqual(self._names(), ["rgb_flow_filters.gif", "rgb_flow_filters.png"])
    both = cv2.imread(self.folder / "rgb_flow_filters.png")
    status, _, complaints = self._run("filters", "{made}/rgb", "--output=one.PNG", "--scale=checkpoint")
    self.assertEqual(status, 0, complaints)
    self.assertGreater(both.shape[0], 2.4 * cv2.imread(self.folder / "one.PNG").shape[0])

  def test_activation(self):
    given = ("activation", "{made}/clip.mp4", "--rgb_checkpoint={made}/rgb", "--class_name=jump")
    status, output, complaints = self._run(*given, "--output=a.png,b.mp4", "--sheet_frames=3")
    self.assertEqual(status, 0, complaints)
    self.assertRegex(output, r"^jump: whole video: logit \S+, probability 0\.\d+, place [123] of 3\na\.png\nb\.mp4\n$")
    self.assertEqual(self._names(), ["a.png", "b.mp4"])
    self.assertEqual(decode.probe(self.folder / "b.mp4").num_frames, 12)

  @parameterized.parameters(
      ((), "say what to draw: video, filters, activation; got nothing"),
      (("film",), "say what to draw: video, filters, activation; got film"),
      (("video",), "video takes one video; got none; see --help"),
      (("activation", "a.mp4", "b.mp4"), "activation takes one video; got a.mp4 b.mp4; see --help"),
      (("filters", "a", "--top_k=3"), "--top_k is for video, not for filters"),
      (("video", "a.mp4", "--output=a.avi"), "--output=a.avi; video writes one .mp4 file"),
      (("filters", "a", "--output=a.png,b.png"), "--output=a.png,b.png; filters writes one .png and one .gif file"),
      (("video", "a.mp4", "--flow_checkpoint=b"), "--flow_checkpoint is given, but --streams=rgb does not use it"),
      (("video", "a.mp4", "--streams=flow", "--nodraw_flow"), "--nodraw_flow is for --streams=rgb; --streams=flow "
       "computes flow anyway"),
      (("video", "a.mp4", "--joint_checkpoint=a", "--rgb_checkpoint=b"), "--rgb_checkpoint is given, but "
       "--joint_checkpoint is in its place"),
      (("activation", "a.mp4", "--streams=joint"), "--streams=joint; activation is of one stream, rgb or flow"),
      (("video", "a.mp4", "--output=none/a.mp4"), "none/a.mp4: its folder does not exist; make it first"),
      (("video", "a.mp4", "--rgb_checkpoint={made}/rgb"), "a.mp4: there is no such file"),
      (("activation", "{made}/clip.mp4", "--rgb_checkpoint={made}/rgb", "--class_name=running"),
       "there is no class 'running' among the network's 3; near to it are run"),
  )  # fmt: skip
  def test_one_sentence_for_a_bad_call(self, arguments, message):
    status, output, complaints = self._run(*arguments)
    self.assertEqual((status, output), (1, ""))
    self.assertTrue(complaints.endswith(f"error: {message}\n"), complaints)
    self.assertEqual(self._names(), [])


if __name__ == "__main__":
  absltest.main()
