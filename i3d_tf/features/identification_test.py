"""Files of features that were made in known ways are told apart, and foreign ones are called so."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

import i3d_tf
from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.features import identification
from i3d_tf.features import profiles

_WIDTH = 50  # of the small network's PooledFeatures


class IdentificationTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    cls.weights = str(cls.folder / "rgb")
    testing.write_network(cls.weights, average_space=True, short_side=36, crop=32)
    cls.video = cls.folder / "v.avi"
    testing.write_moving_video(cls.video, seed=3, num_frames=53)

  def _save(self, values) -> identification.Given:
    np.save(self.folder / "f.npy", values)
    return identification.read(self.folder / "f.npy")

  def _ranked(self, given):
    candidates = identification.by_shape(given, self.video, width=_WIDTH)
    return identification.by_values(given, self.video, candidates, {"rgb": self.weights}, num_rows=2)

  def _features(self, weights=None, **options) -> np.ndarray:
    return i3d_tf.extract_features(self.video, weights or self.weights, **options)["rgb"]["PooledFeatures"]

  def test_a_preset(self):
    ranked = self._ranked(self._save(self._features(preset="bsl1k")))
    best = ranked[0]
    self.assertEqual((best.preset, best.streams, best.options.window, best.options.step), ("bsl1k", ("rgb",), 16, 8))
    self.assertGreater(best.lowest, 0.999999)
    self.assertEqual(identification.verdict(ranked), "the same")
    expected = f"--preset=bsl1k --rgb_checkpoint={self.weights}"
    self.assertEndsWith(best.command("v.avi"), expected)

  def test_windows_of_no_preset(self):
    ranked = self._ranked(self._save(self._features(window=20, hop=10, tail="drop")))
    best = ranked[0].options
    self.assertEqual((ranked[0].preset, best.window, best.step, best.fps or 25.0), (None, 20, 10, 25.0))
    self.assertEqual(identification.verdict(ranked), "the same")
    others = [each.difference for each in ranked if each.options.window != 20]
    self.assertGreater(min(others), identification.SAME)

  def test_one_crop_of_several(self):
    crops = self._features(preset="xd_violence")  # the centre first
    best = self._ranked(self._save(crops[:, 2]))[0]
    self.assertEqual((best.options.window, best.options.step, best.options.fps, best.crop), (16, 16, 24.0, 1))
    ten = self._features(window=16, hop=16, tail="drop", crops=10, crop_order="ten_crop")
    best = self._ranked(self._save(ten))[0]
    self.assertEqual((best.preset, best.options.crop_order), ("ucf_crime_deepmil", "ten_crop"))
    self.assertIn(" --crop_order=ten_crop ", best.command("v.avi"))

  def test_a_crop_of_no_preset(self):
    given = self._save(self._features(window=16, hop=8, tail="drop", crops=5)[:, 2])
    candidates = [identification.Candidate("bsl1k", profiles.from_preset("bsl1k"), ("rgb",))]
    best = identification.by_values(given, self.video, candidates, {"rgb": self.weights}, num_rows=2)[0]
    self.assertEqual((best.options.crops, best.crop), (10, 2))
    self.assertLess(best.difference, 1e-5)

  @parameterized.parameters({"short_side": 32}, {"frame_size": (32, 32), "resize": "pillow"})
  def test_a_size_of_no_preset(self, **size):
    given = self._save(self._features(preset=None, window=16, hop=8, tail="drop", **size))
    candidates = [identification.Candidate("bsl1k", profiles.from_preset("bsl1k"), ("rgb",))]
    too_small, sizes = {"short_side": 24}, ({}, {"short_side": 32}, {"frame_size": (32, 32)})
    with mock.patch.object(identification, "_SIZES", (too_small, *sizes)):
      best = identification.by_values(given, self.video, candidates, {"rgb": self.weights}, num_rows=2)[0]
    self.assertLess(best.difference, 1e-5)
    for name, value in size.items():
      word = ",".join(map(str, value)) if isinstance(value, tuple) else value
      self.assertIn(f" --{name}={word} ", best.command("v.avi"))

  def test_the_mean_of_a_whole_video(self):
    best = self._ranked(self._save(self._features(window="all")))[0]
    self.assertLess(best.difference, 1e-5)
    self.assertEqual(str(best).partition("  ")[2], (
      "(no preset): rgb, PooledFeatures, mean of the whole video, the video's own rate, opencv, crop 4"
    ))  # fmt: skip
    self.assertEndsWith(best.command("v.avi"), f" --window=all --fps=0.0 --rgb_checkpoint={self.weights}")

  def test_a_residual_network(self):
    weights = str(self.folder / "r50")
    testing.write_network(weights, model="i3d_r50_caffe2", short_side=36, crop=32)
    rows = self._features(weights, preset="gowthamg", short_side=None, frame_size=(45, 36), crop=32)
    self.assertEqual(rows.shape[:2], (3, 10))
    wide = self._save(np.pad(rows, [(0, 0), (0, 0), (0, 2048 - rows.shape[2])]))
    found = {each.preset: each for each in identification.by_shape(wide, self.video)}
    self.assertContainsSubset({"gowthamg", "rtfm_ucf"}, found)
    options = dataclasses.replace(found["gowthamg"].options, frame_size=(45, 36), crop=32)
    others = [found[name] for name in found if name not in ("gowthamg", None)]
    candidates = [*others, dataclasses.replace(found["gowthamg"], options=options)]
    (best, *_) = identification.by_values(self._save(rows), self.video, candidates, {"rgb": weights}, num_rows=2)
    self.assertEqual((best.preset, best.options.stride), ("gowthamg", 1))
    self.assertLess(best.difference, 1e-5)
    self.assertEmpty(identification.by_values(wide, self.video, candidates, {"rgb": self.weights}))

  def test_foreign_features(self):
    rows = self._features(preset="bsl1k")
    noise = np.random.default_rng(0).random(rows.shape)
    ranked = self._ranked(self._save(noise))
    self.assertStartsWith(identification.verdict(ranked), "none of these; the nearest has a cosine of ")
    self.assertEqual(identification.by_shape(self._save(np.ones([7, 333])), self.video), [])
    self.assertEqual(identification.verdict([]), "none of these")

  def test_counts_and_shapes_of_the_published_sample(self):
    folder = testing.shared("features/bmt")
    for stream in ("rgb", "flow"):
      given = identification.read(folder / f"women_long_jump_{stream}.npy")
      found = identification.by_shape(given, folder / "women_long_jump.mp4")
      self.assertEqual({each.preset for each in found if each.preset}, {"bmt", "wlasl"})

  @parameterized.parameters(
    (np.zeros([3, 2, 2, 8], np.float32), r"\[3, 2, 2, 8\] is none of"),
    (np.zeros([0, 8], np.float32), r"\[0, 8\] is none of"),
    (np.full([2, 8], np.nan), "not finite"),
  )
  def test_what_is_no_features(self, values, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      self._save(values)

  def test_logits_are_of_windows_only(self):
    found = identification.by_shape(self._save(np.ones([3, 400], np.float32)), self.video)
    self.assertNotEmpty(found)
    self.assertNotIn(profiles.ALL, {each.options.window for each in found})

  def test_layouts(self):
    for shape, expected in (
      ((5, 8), (5, 1, 8)),
      ((5, 1, 1, 8), (5, 1, 8)),
      ((5, 10, 8), (5, 10, 8)),
      ((8,), (1, 1, 8)),
    ):
      self.assertEqual(self._save(np.ones(shape, np.float32)).values.shape, expected)
    np.savez(self.folder / "c.npz", feature=np.ones([10, 5, 8], np.float32))
    self.assertEqual(identification.read(self.folder / "c.npz").values.shape, (5, 10, 8))

  def test_every_preset_is_a_candidate_of_its_own_files(self):
    for name, preset in profiles.PRESETS.items():
      brought = {} if preset.networks == ("i3d",) else {"rgb_checkpoint": "r50.pth"}
      options = profiles.from_preset(name, **brought)
      if options.fps not in (0.0, 25.0):
        continue  # 53 frames at 25
      width = 2048 if preset.networks != ("i3d",) else 1024
      num_rows = identification.extraction.num_rows(options, 53)
      if num_rows:
        given = identification.Given("f", np.ones([num_rows, options.crops, width]))
        found = identification.by_shape(given, self.video)
        self.assertIn(name, {each.preset for each in found}, name)


if __name__ == "__main__":
  absltest.main()
