"""Folders of images and arrays as videos: what is one, in which order, and what is wrong with those that are none."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from i3d_tf import errors
from i3d_tf.video import decode
from i3d_tf.video import listing
from i3d_tf.video import stills


def _image(value: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
  return Image.new(mode, size, (value, 255 - value, 7) if mode == "RGB" else value)


class StillsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name).resolve() / "v.1"  # the point is no ending
    self.folder.mkdir()

  def _write(self, pattern: str, numbers=range(1, 6), mode: str = "RGB", size=(40, 30)) -> None:
    for number in numbers:
      path = self.folder / pattern.format(number)
      path.parent.mkdir(parents=True, exist_ok=True)
      _image(10 * number, size, mode).save(path)

  def _videos(self) -> list[str]:
    found = listing.list_folder(self.folder.parent).videos
    return [path.relative_to(self.folder.parent).as_posix() for path in found]

  @parameterized.parameters("img_{:05}.png", "frame{:06}.png", "{}.png", "a b-{:03}.PNG")
  def test_any_pattern_of_numbers(self, pattern):
    self._write(pattern, range(7, 19))  # 9 before 10, though not as texts
    frames = decode.read_video(self.folder, short_side=None)
    np.testing.assert_array_equal(frames[:, 3, 4, 0], 10 * np.arange(7, 19))
    np.testing.assert_array_equal(frames[:, 3, 4, 1], 255 - 10 * np.arange(7, 19))
    self.assertEqual(self._videos(), ["v.1"])
    self.assertEqual(decode.probe(self.folder, frame_rate=12), decode.VideoInfo(12, 12, 40, 30))

  def test_rates(self):
    self._write("img_{:05}.png", range(1, 21))
    for fps, frame_rate, count in ((25, 25, 20), (25, 50, 10), (50, 25, 39)):
      frames = decode.read_video(self.folder, fps=fps, frame_rate=frame_rate, short_side=15)
      self.assertEqual(len(frames), decode.count_frames(self.folder, fps=fps, frame_rate=frame_rate))
      self.assertAlmostEqual(len(frames), count, delta=1)
      self.assertEqual(frames.shape[1:], (15, 20, 3))

  def test_who_resizes_by_pillow_decodes_by_it(self):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    for number in (1, 2):
      Image.fromarray(noise).save(self.folder / f"{number}.jpg", quality=50)
    expected = np.asarray(Image.open(self.folder / "1.jpg"))
    found = {method: next(decode.iter_frames(self.folder, short_side=decode.Resize(30, (), method)))
             for method in ("opencv", "pillow", "lanczos")}  # fmt: skip
    for method in ("pillow", "lanczos"):
      np.testing.assert_array_equal(found[method], expected)
    self.assertGreater(np.abs(found["opencv"].astype(int) - expected).max(), 0)
    (self.folder / "1.jpg").write_bytes((self.folder / "1.jpg").read_bytes()[:500])
    with self.assertRaisesRegex(errors.VideoError, "1.jpg: the image cannot be decoded"):
      next(decode.iter_frames(self.folder, short_side=decode.Resize(30, (), "pillow")))

  def test_an_array_of_frames(self):
    frames = np.random.default_rng(0).integers(0, 256, (6, 30, 40, 3), np.uint8)
    np.save(self.folder / "clip.npy", frames)
    np.save(self.folder / "features.npy", np.zeros([6, 1024], np.float32))
    self.assertEqual(self._videos(), ["v.1/clip.npy"])
    np.testing.assert_array_equal(decode.read_video(self.folder / "clip.npy", short_side=None), frames)
    with self.assertRaisesRegex(errors.VideoError, r"features.npy: the array is float32 \[6, 1024\]; a video is uint8"):
      decode.read_video(self.folder / "features.npy")

  @parameterized.parameters(
    ("flow_x_{:05}.png", "flow_y_{:05}.png"), ("x_{:05}.png", "y_{:05}.png"), ("u/{:05}.png", "v/{:05}.png"),
    ("flow_x/frame{:06}.png", "flow_y/frame{:06}.png"),
  )  # fmt: skip
  def test_flow_beside_frames(self, x, y):
    self._write("img_{:05}.png")
    self._write(x, range(1, 5), "L")
    self._write(y, range(1, 5), "L", (40, 30))
    found = stills.open_stills(self.folder)
    self.assertEqual((len(found.frames), len(found.x), len(found.y)), (5, 4, 4))
    np.testing.assert_array_equal(found.flow(2)[3, 4], [30, 30])
    self.assertEqual(self._videos(), ["v.1"])

  def test_folders_of_axes_above_the_videos(self):
    self._write("u/clip/frame{:06}.png", range(1, 4), "L")
    self._write("v/clip/frame{:06}.png", range(1, 4), "L")
    self.assertEqual(self._videos(), ["v.1/u/clip"])
    found = stills.open_stills(self.folder / "u" / "clip")
    self.assertEqual((found.num_frames, len(found.frames), found.y[0].parent.parent.name), (4, 0, "v"))
    with self.assertRaisesRegex(errors.VideoError, "holds images of optical flow only"):
      decode.read_video(self.folder / "u" / "clip")

  def test_as_many_flows_as_frames(self):
    self._write("img_{:05}.png")
    for axis in "xy":
      self._write(f"flow_{axis}_{{:05}}.png", range(1, 6), "L")
    self.assertLen(stills.open_stills(self.folder).x, 4)

  def _refused(self, message: str) -> None:
    with self.assertRaisesRegex(errors.VideoError, message) as caught:
      decode.read_video(self.folder)
    self.assertIn(str(self.folder), str(caught.exception))

  def test_a_missing_number(self):
    self._write("img_{:05}.png", (1, 2, 5))
    self._refused("2 of the numbered images are missing, between img_00002.png and img_00005.png")

  def test_mixed_sizes(self):
    self._write("img_{:05}.png")
    self._write("img_{:05}.png", (3,), size=(30, 40))
    self._refused("img_00003.png: the image has 30x40 pixels, those before it 40x30")

  def test_x_without_y(self):
    self._write("img_{:05}.png")
    self._write("flow_x_{:05}.png", range(1, 5), "L")
    self._refused("there are images of the flow's x, but none of its y")
    self._write("flow_y_{:05}.png", range(1, 4), "L")
    self._refused("the flow has 4 images of x and 3 of y; number 4 has x only")

  def test_a_corrupt_image(self):
    self._write("img_{:05}.jpg")
    path = self.folder / "img_00004.jpg"
    path.write_bytes(path.read_bytes()[:300])
    self._refused("img_00004.jpg: the image cannot be decoded")

  def test_two_patterns(self):
    self._write("img_{:05}.png")
    self._write("frame{:06}.png")
    self._refused("the images are named in two ways, as .*frame000001.png and img_00001.png")

  def test_one_number_twice(self):
    self._write("img_{:05}.png")
    self._write("img_{}.png", (2,))
    self._refused("img_00002.png and img_2.png have the same number")

  def test_an_empty_folder_and_a_single_image(self):
    self._refused("the folder holds no numbered images .* and so no video")
    with self.assertRaisesRegex(errors.VideoError, "the folder holds no video"):
      self._videos()
    self._write("img_{:05}.png", (1,))
    self._refused("the folder holds a single image, which is no video")
    with self.assertRaisesRegex(
      errors.VideoError, "the folder holds no video .* 1 file that is no video .img_00001.png"
    ):
      self._videos()

  def test_images_beside_videos_are_not_used(self):
    self._write("thumb{:02}.png")
    (self.folder / "a.mp4").touch()
    self.assertEqual(self._videos(), ["v.1/a.mp4"])

  def test_images_are_turned_as_exif_says(self):
    exif = Image.Exif()
    exif[274] = 6
    pixels = np.zeros([30, 40, 3], np.uint8)
    pixels[:15] = 200  # the upper half is the right one after a quarter turn clockwise
    for number in (1, 2):
      Image.fromarray(pixels).save(self.folder / f"{number}.jpg", exif=exif, quality=95)
    frames = decode.read_video(self.folder, short_side=None)
    self.assertEqual(frames.shape, (2, 40, 30, 3))
    np.testing.assert_array_equal(frames[0, 20, [5, 25], 0] > 100, [False, True])


if __name__ == "__main__":
  absltest.main()
