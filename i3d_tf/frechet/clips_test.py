"""The videos of a set in every form, the clips that are taken of them, and what is refused."""

import collections
from collections.abc import Callable
import itertools
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import h5py
import numpy as np
from PIL import Image

from i3d_tf import errors
from i3d_tf.frechet import arrays
from i3d_tf.frechet import clips as clips_lib
from i3d_tf.frechet import protocols


def write_video(path: pathlib.Path, num_frames: int) -> None:
  """A video of 10 gray frames a second, each brighter by 4 than the one before."""
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
  for number in range(num_frames):
    writer.write(np.full((32, 48, 3), 4 * number, np.uint8))
  writer.release()


def gray_levels(clip: np.ndarray) -> list[int]:
  """The frames' numbers in `write_video`'s video."""
  return np.rint(clip.mean((1, 2, 3)) / 4).astype(int).tolist()


def reader(set_name: str = "real", *, own: protocols.Protocol | None = None, **options) -> clips_lib.ClipReader:
  config = protocols.FvdConfig(**options)
  return clips_lib.ClipReader(protocols.resolve(config, own), config, set_name)


def read(videos, set_name: str = "real", **options) -> list[np.ndarray]:
  """The clips of all videos."""
  of_set = reader(set_name, **options)
  return [clip for source in of_set.sources(videos) for clip in of_set.read(source)]


def ramp(num_frames: int) -> np.ndarray:
  """A video whose frames have their number in all bytes."""
  return np.arange(num_frames, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones((4, 6, 3), np.uint8)


def _array(shape: tuple[int, ...], dtype: type) -> Callable[[pathlib.Path], None]:
  return lambda path: np.save(path, np.zeros(shape, dtype))


def _write_archive(path: pathlib.Path) -> None:
  with path.open("wb") as file:
    np.savez(file, clip=np.zeros(3))


class FolderTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)


class SourcesTest(FolderTestCase):
  def _names(self, root, **options):
    return [source.name for source in reader(**options).sources(root)]

  def test_folder_file_and_array(self):
    (self.folder / "b").mkdir()
    for name in ("b/z.MP4", "c.avi", "notes.txt"):
      (self.folder / name).touch()
    np.save(self.folder / "a.npy", np.zeros((3, 9, 4, 4, 3), np.uint8))
    np.save(self.folder / "d.npy", np.zeros((9, 4, 4, 3), np.uint8))
    np.savez(self.folder / "real.npz", facts=np.array("{}"))  # statistics lie beside videos
    self.assertEqual(self._names(self.folder), ["a.npy[0]", "a.npy[1]", "a.npy[2]", "b/z.MP4", "c.avi", "d.npy"])
    self.assertEqual(self._names(self.folder / "a.npy"), ["a.npy[0]", "a.npy[1]", "a.npy[2]"])
    self.assertEqual(self._names(self.folder / "c.avi"), ["c.avi"])

  def test_archives(self):
    two = np.zeros((2, 9, 4, 4, 3), np.uint8)
    np.savez(self.folder / "a.npz", x=two, y=two[0])
    with h5py.File(self.folder / "b.h5", "w") as file:
      file["x"], file["y"] = two, two[0]
    expected = ["a.npz/x[0]", "a.npz/x[1]", "a.npz/y", "b.h5/x[0]", "b.h5/x[1]", "b.h5/y"]
    self.assertEqual(self._names(self.folder), expected)

  def test_max_clips_are_drawn(self):
    for number in range(20):
      (self.folder / f"{number:02}.mp4").touch()
    drawn = [self._names(self.folder, max_clips=8, seed=seed) for seed in (0, 0, 1)]
    self.assertEqual(drawn[0], drawn[1])
    self.assertNotEqual(drawn[0], drawn[2])
    for names in drawn:
      self.assertLen(set(names), 8)
      self.assertEqual(names, sorted(names))
    self.assertEqual(self._names(self.folder, max_clips=8, order="first"), [f"{number:02}.mp4" for number in range(8)])
    self.assertLen(self._names(self.folder, max_clips=20), 20)
    with self.assertRaisesRegex(errors.I3dError, "has 20 videos, fewer than max_clips, 21"):
      self._names(self.folder, max_clips=21)

  def test_several_clips_of_a_video(self):
    draws = lambda **options: [len(each.draws) for each in reader(**options).sources(np.stack([ramp(60)] * 4))]
    self.assertEqual(draws(clips_per_video=3), [3, 3, 3, 3])
    self.assertEqual(draws(clips_per_video=3, max_clips=6, order="first"), [2, 2, 1, 1])
    self.assertEqual(sorted(draws(clips_per_video=3, max_clips=10)), [2, 2, 3, 3])
    starts = [int(clip[0, 0, 0, 0]) for clip in read(np.stack([ramp(60)] * 2), clips_per_video=5)]
    self.assertGreater(len(set(starts)), 6)
    self.assertEqual(starts[:1], [int(read(np.stack([ramp(60)] * 2))[0][0, 0, 0, 0])])
    firsts = [int(clip[0, 0, 0, 0]) for clip in read(ramp(60), clips_per_video=3, start="first")]
    self.assertEqual(firsts, [0, 16, 32])
    with self.assertRaisesRegex(errors.I3dError, "has 60 frames, fewer than the clips that are taken of it, 64"):
      read(ramp(60), clips_per_video=4, start="first")

  def test_nothing_there(self):
    with self.assertRaisesRegex(errors.I3dError, "none: there is no such file or folder"):
      self._names(self.folder / "none")
    with self.assertRaisesRegex(errors.I3dError, "the folder holds no video .* .npy "):
      self._names(self.folder)


class ClipTest(FolderTestCase):
  def test_every_run_is_as_likely(self):
    counts = collections.Counter()
    for seed in range(1800):
      (clip,) = read(ramp(20), num_frames=12, seed=seed)
      np.testing.assert_array_equal(clip, ramp(255)[clip[0, 0, 0, 0] :][:12])
      counts[int(clip[0, 0, 0, 0])] += 1
    self.assertEqual(sorted(counts), list(range(9)))
    self.assertLess(sum((count - 200) ** 2 / 200 for count in counts.values()), 20)  # chi-squared of 8 degrees: 99 %

  @parameterized.parameters({}, {"frame_step": 2}, {"clips_per_video": 3}, {"start": "first"})
  def test_a_stream_gives_what_an_array_gives(self, **options):
    of_set = reader(num_frames=9, **options)
    for seed, total in itertools.product(range(4), (27, 40)):
      of_set = reader(num_frames=9, seed=seed, **options)
      source = next(iter(of_set.sources(ramp(total))))
      known, _ = of_set._of_known(source, total, lambda indices, total=total: list(ramp(total)[indices]))
      streamed, _ = of_set._of_stream(source, iter(ramp(total)))
      np.testing.assert_array_equal(np.stack([np.stack(list(each)) for each in streamed]), np.stack(known))

  def test_steps(self):
    protocol = protocols.PROTOCOLS["fvd2048_128f_subsample8f"]
    (clip,) = read(ramp(128), own=protocol)
    start = int(clip[0, 0, 0, 0])
    self.assertEqual(clip[:, 0, 0, 0].tolist(), list(range(start, start + 121, 8)))
    self.assertLess(start, 8)
    (clip,) = read(ramp(200), "generated", own=protocol)
    self.assertEqual(clip[:, 0, 0, 0].tolist(), list(range(0, 121, 8)))
    with self.assertRaisesRegex(errors.I3dError, "has 127 frames, fewer than num_frames times frame_step, 128"):
      read(ramp(127), own=protocol)

  def test_video_at_its_own_rate_and_at_another(self):
    path = self.folder / "gray.avi"
    write_video(path, 24)
    levels = lambda **options: gray_levels(read(path, **options)[0])
    self.assertEqual(levels(num_frames=24), list(range(24)))
    self.assertEqual(levels(num_frames=12, fps=5), list(range(0, 24, 2)))
    self.assertEqual(read(path)[0].shape, (16, 32, 48, 3))
    start = levels(num_frames=9)[0]
    self.assertEqual(levels(num_frames=9), list(range(start, start + 9)))
    self.assertEqual(levels(num_frames=9, start="first"), list(range(9)))

  def test_start_is_of_seed_and_name(self):
    path = self.folder / "many.npy"
    np.save(path, np.stack([ramp(200), ramp(200)]))
    start = lambda index, seed: int(read(path, seed=seed)[index][0, 0, 0, 0])
    self.assertEqual(start(0, 0), start(0, 0))
    self.assertLen({start(0, 0), start(1, 0), start(0, 1), start(1, 1)}, 4)

  @parameterized.named_parameters(
    ("short", _array((2, 15, 4, 4, 3), np.uint8), r"x.npy\[0\]: the video has 15 frames, fewer than num_frames, 16"),
    ("gray", _array((16, 4, 4, 1), np.uint8), r"has the shape \[16, 4, 4, 1\], without an axis of 3 colours"),
    ("flat", _array((16, 3), np.uint8), r"the array is uint8 \[16, 3\]; it must be \[frames, height"),
    ("truth", _array((16, 4, 4, 3), bool), r"the array is bool \[16, 4, 4, 3\]; it must be"),
    ("empty_set", _array((0, 16, 4, 4, 3), np.uint8), r"the array holds no video, its shape is \(0, 16, 4"),
    ("text", lambda path: path.write_text("no array"), "not an array in NumPy's .npy format"),
    ("empty", lambda path: path.touch(), "not an array in NumPy's .npy format"),
    ("archive", _write_archive, "this is an .npz archive; it must be one array"),
  )
  def test_bad_array(self, write, sentence):
    path = self.folder / "x.npy"
    write(path)
    with self.assertRaisesRegex(errors.I3dError, f"^{path}.*") as raised:
      read(path)
    self.assertRegex(str(raised.exception), sentence)
    self.assertNotIn("\n", str(raised.exception))

  @parameterized.parameters((".npz", "an archive in NumPy's .npz format"), (".h5", "an HDF5 file"))
  def test_damaged_archives(self, suffix, what):
    path = self.folder / f"x{suffix}"
    np.savez(self.folder / "x.npz", clips=np.zeros((2, 9, 4, 4, 3), np.uint8))
    with h5py.File(self.folder / "x.h5", "w") as file:
      file["clips"] = np.zeros((2, 9, 4, 4, 3), np.uint8)
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2):
      path.write_bytes(content[:size])
      with self.assertRaisesRegex(errors.I3dError, f"^{path}: this is not {what}, or it is damaged") as raised:
        read(path, num_frames=9)
      self.assertNotIn("\n", str(raised.exception))

  def test_what_there_is_of_a_damaged_video(self):
    path = self.folder / "gray.avi"
    write_video(path, 40)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    with self.assertRaisesRegex(errors.VideoError, "damaged or incomplete"):
      read(path)
    of_set = reader(allow_damaged=True)
    (clip,) = of_set.read(of_set.sources(path)[0])
    np.testing.assert_array_equal(np.diff(gray_levels(clip)), 1)
    self.assertRegex(of_set.summary("real")[0], "^real: of 1 videos: damaged: only [0-9]+ of 40 frames can be decoded")

  def test_short_video(self):
    path = self.folder / "gray.avi"
    write_video(path, 12)
    with self.assertRaisesRegex(errors.I3dError, "gray.avi: the video has 12 frames, fewer than num_frames, 16"):
      read(path)


class FormatTest(FolderTestCase):
  """The same clips in every form are the same bytes."""

  def setUp(self):
    super().setUp()
    self.clips = np.random.default_rng(0).integers(0, 256, (3, 16, 6, 8, 3), np.uint8)

  def _assert_same(self, videos, **options):
    found = np.stack(read(videos, **options))
    np.testing.assert_array_equal(found, self.clips)

  @parameterized.parameters(("ncthw", (0, 4, 1, 2, 3)), ("ntchw", (0, 1, 4, 2, 3)), ("nthwc", (0, 1, 2, 3, 4)))
  def test_layouts(self, layout, axes):
    turned = self.clips.transpose(axes)
    self._assert_same(turned)
    self._assert_same(turned, layout=layout)
    np.save(self.folder / "x.npy", turned)
    self._assert_same(self.folder / "x.npy")
    with h5py.File(self.folder / "x.h5", "w") as file:
      file["clips"] = turned
    self._assert_same(self.folder / "x.h5")
    self._assert_same(iter(turned))
    if layout != "nthwc":
      with self.assertRaisesRegex(errors.I3dError, "without an axis of 3 colours where layout nthwc has it"):
        read(turned, layout="nthwc")

  def test_ambiguous_layout(self):
    clips = np.zeros((2, 16, 3, 8, 3), np.uint8)
    sentence = r"the videos: the array has the shape \[2, 16, 3, 8, 3\], which may be nthwc or ntchw; state the layout"
    with self.assertRaisesRegex(errors.I3dError, sentence):
      read(clips)
    self.assertEqual(read(clips, layout="nthwc")[0].shape, (16, 3, 8, 3))
    self.assertEqual(read(clips, layout="ntchw")[0].shape, (16, 8, 3, 3))
    # No network takes a clip of 3 frames, so that this is not ambiguous.
    self.assertEqual(read(np.zeros((2, 3, 16, 8, 3), np.uint8))[0].shape, (16, 8, 3, 3))

  @parameterized.parameters(np.float32, np.float64)
  def test_ranges(self, dtype):
    values = self.clips.astype(dtype)
    self._assert_same(values, value_range="0_255")
    self._assert_same(values / dtype(255), value_range="0_1")
    self._assert_same(values / dtype(127.5) - dtype(1), value_range="minus1_1")
    self._assert_same(self.clips.astype(np.int64))

  def test_floats_between_bytes_stay(self):
    values = np.full((1, 16, 2, 2, 3), 100.25, np.float32)
    np.testing.assert_array_equal(read(values, value_range="0_255")[0], values[0])
    found = read(values / 127.5 - 1, value_range="minus1_1", protocol="stylegan_v")[0]
    self.assertEqual((found.dtype, found.max(), found.min()), (np.uint8, 100, 100))

  @parameterized.parameters(
    (255.0, {}, "floating point with values from 0 to 255; state its range, value_range=0_255"),
    (1.0, {}, "floating point with values from 0 to 1; state its range, value_range=0_1"),
    (255.0, {"value_range": "0_1"}, "is 0_1, but the clip has values from 0 to 255; did you mean value_range=0_255"),
    (1.0, {"value_range": "0_255"}, "is 0_255, but the clip has values from 0 to 1; did you mean value_range=0_1"),
    (-1.0, {"value_range": "0_1"}, "is 0_1, but the clip has values from -1 to 0; did you mean value_range=minus1_1"),
    (np.nan, {"value_range": "0_1"}, "the clip holds values that are not finite"),
  )
  def test_wrong_range(self, value, options, sentence):
    clips = np.zeros((2, 16, 4, 4, 3), np.float32)
    clips[1, 3, 2] = value
    with self.assertRaisesRegex(errors.I3dError, rf"^array\[1\]: .*{sentence}"):
      of_set = reader(**options)
      of_set.read(of_set.sources(clips)[1])

  def test_doubtful_range(self):
    for videos, is_doubted in (
      (self.clips / 255, True),
      (self.clips / 127.5 - 1, False),
      (np.ones_like(self.clips / 1), False),
    ):
      of_set = reader(value_range="minus1_1")
      for source in of_set.sources(videos):
        of_set.read(source)
      self.assertEqual("value_range=0_1?" in "".join(of_set.summary("real")), is_doubted)

  def test_archives_images_and_iterables(self):
    np.savez(self.folder / "a.npz", self.clips)
    self._assert_same(self.folder / "a.npz")
    np.savez_compressed(self.folder / "b.npz", x=self.clips[0], y=self.clips[1], z=self.clips[2])
    self._assert_same(self.folder / "b.npz")
    for number, clip in enumerate(self.clips):
      (self.folder / "images" / str(number)).mkdir(parents=True)
      for index, frame in enumerate(clip):
        Image.fromarray(frame).save(self.folder / "images" / str(number) / f"{index:03}.png")
    self._assert_same(self.folder / "images")
    self._assert_same(self.folder / "images", fps=25)
    self._assert_same(iter([self.clips[:2], self.clips[2:]]))
    self._assert_same({"video": clip} for clip in self.clips)
    self._assert_same((clip, 0) for clip in self.clips)
    with self.assertRaisesRegex(errors.I3dError, "an item of the data set has image, but no 'video'"):
      read([{"image": 0}])

  def test_gif(self):
    grays = (self.clips[..., :1] // 16 * 16).repeat(3, axis=-1)
    (self.folder / "gifs").mkdir()
    for number, clip in enumerate(grays):
      first, *rest = [Image.fromarray(frame).quantize(16) for frame in clip]
      first.save(self.folder / "gifs" / f"{number}.gif", save_all=True, append_images=rest, duration=40, disposal=1)
    self.clips = np.stack([
      np.stack([np.asarray(Image.fromarray(frame).quantize(16).convert("RGB")) for frame in clip]) for clip in grays
    ])  # fmt: skip
    self._assert_same(self.folder / "gifs")

  def test_iterable_ends_at_max_clips(self):
    taken = itertools.count()
    items = (self.clips[next(taken) % 3] for _ in range(100))
    self.assertLen(read(items, max_clips=5, clips_per_video=2), 5)
    self.assertLess(next(taken), 5)

  def test_what_is_no_array(self):
    with self.assertRaisesRegex(errors.I3dError, r"\[0\]: the array is <U1 \[\]; it must be"):
      read(["a"])
    self.assertFalse(arrays.is_statistics(self.folder / "a.npy"))


if __name__ == "__main__":
  absltest.main()
