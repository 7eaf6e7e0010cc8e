"""Tests of decode: real clips, made ones of known times, and every kind of file that is no sound video.

Kinds of files that failed in the field are in `formats_test.py`.

Made videos carry the number of each frame as eight stripes, black or white, so that what was decoded can be read off.
"""

from collections.abc import Iterator, Sequence
import contextlib
import fractions
import os
import pathlib
import tempfile
import tracemalloc
from typing import NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import av
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.video import decode
from i3d_tf.video import frames as frames_lib

_STRIPES = 8
_SIZE = (128, 64)  # width, height


class Clip(NamedTuple):
  """A real clip: its frame rate, the packets it holds, the frames they give, and those it gives at 25 per second."""

  path: str
  rate: float
  packets: int
  decoded: int
  resampled: int


NTSC = 30000 / 1001
CLIPS = (
  Clip("ucf101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", 25, 164, 164, 164),
  Clip("ucf101/Biking/v_Biking_g05_c02.avi", NTSC, 201, 201, 168),
  Clip("ucf101/Diving/v_Diving_g02_c02.avi", NTSC, 151, 151, 126),
  Clip("ucf101/Diving/v_Diving_g03_c07.avi", NTSC, 103, 103, 86),
  Clip("ucf101/Diving/v_Diving_g04_c04.avi", NTSC, 285, 285, 238),
  Clip("ucf101/Diving/v_Diving_g16_c04.avi", NTSC, 111, 111, 93),
  Clip("ucf101/Diving/v_Diving_g20_c04.avi", NTSC, 151, 151, 126),
  Clip("ucf101/JavelinThrow/v_JavelinThrow_g05_c05.avi", 25, 81, 81, 81),
  Clip("ucf101/JavelinThrow/v_JavelinThrow_g21_c03.avi", 25, 60, 60, 60),
  Clip("ucf101/JavelinThrow/v_JavelinThrow_g22_c01.avi", 25, 56, 56, 56),
  Clip("ucf101/JavelinThrow/v_JavelinThrow_g23_c04.avi", 25, 136, 136, 136),
  Clip("ucf101/JavelinThrow/v_JavelinThrow_g24_c01.avi", 25, 91, 91, 91),
  Clip("ucf101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi", NTSC, 240, 240, 200),
  Clip("hmdb51/cartwheel/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi", 30, 84, 83, 69),
  Clip("hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi", 30, 49, 48, 40),
  Clip("kinetics/R6llTwEh07w.mp4", 30, 303, 303, 253),
  Clip("kinetics/flipping_a_pancake.mkv", 30, 310, 310, 258),
  Clip("broken/unordered.mov", 32, 4, 4, 3),
  Clip("broken/video_0.mov", 30, 3, 3, 3),
  Clip("broken/video_90.mov", 30, 3, 3, 3),
)


def nearest(times: Sequence[float], fps: float) -> list[int]:
  """For each grid point the index of the frame nearest in time, by comparing with all; the later of two."""
  times = np.asarray(times)
  indices = []
  for step in range(int(np.ceil(times[-1] * fps + 0.5 - 1e-6))):
    distances = np.abs(times - step / fps)
    indices.append(int(np.flatnonzero(distances <= distances.min() + 1e-8)[-1]))
  return indices


def read_raw(path: os.PathLike) -> tuple[list[np.ndarray], list[float]]:
  """All frames as PyAV gives them in order, in RGB, and their seconds from the first; AVI has decoding times only."""
  with av.open(os.fspath(path), metadata_errors="ignore") as container:
    decoded = list(container.decode(video=0))
    unit = container.streams.video[0].time_base
    is_avi = container.format.name == "avi"
  ticks = [frame.dts if is_avi else frame.pts for frame in decoded]
  if is_avi:  # what is flushed at the end has none
    ticks = [ticks[0] + i if tick is None else tick for i, tick in enumerate(ticks)]
  return [frame.to_ndarray(format="rgb24") for frame in decoded], [float((tick - ticks[0]) * unit) for tick in ticks]


def read_opencv(path: os.PathLike) -> list[np.ndarray]:
  """All frames as OpenCV gives them, in RGB."""
  capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
  frames = []
  while True:
    decoded, frame = capture.read()
    if not decoded:
      return frames
    frames.append(frame[..., ::-1])


def numbered_frame(number: int, size: tuple[int, int] = _SIZE) -> np.ndarray:
  """A picture of eight stripes that spell `number`, the highest bit at the left."""
  bits = [number >> (_STRIPES - 1 - i) & 1 for i in range(_STRIPES)]
  stripes = np.repeat(np.array(bits, np.uint8) * 255, size[0] // _STRIPES)
  return np.broadcast_to(stripes[None, :, None], (size[1], size[0], 3)).copy()


def read_number(frame: np.ndarray) -> int:
  means = frame.reshape(frame.shape[0], _STRIPES, -1).mean(axis=(0, 2))
  assert ((means < 50) | (means > 205)).all(), means
  return int("".join(str(int(mean > 127)) for mean in means), 2)


def write_video(
  path: os.PathLike,
  times: Sequence[float],
  *,
  frames: Sequence[np.ndarray] | None = None,
  codec: str = "libx264",
  time_base: fractions.Fraction = fractions.Fraction(1, 1000),
  rate: int = 25,
  **options: str,
) -> None:
  """Writes numbered frames, or `frames`, to be shown at `times` in seconds; the header declares `rate`."""
  frames = [numbered_frame(i) for i in range(len(times))] if frames is None else frames
  with av.open(os.fspath(path), "w", options=options) as container:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = time_base
    stream.codec_context.bit_rate = 4_000_000
    for time, picture in zip(times, frames, strict=True):
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      frame.pts, frame.time_base = round(time / time_base), time_base
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def numbers(path: os.PathLike, fps: float = 25) -> list[int]:
  """The frame numbers of a made video after resampling."""
  return [read_number(frame) for frame in decode.iter_frames(path, fps=fps, short_side=None)]


class TemporaryFolderTest(parameterized.TestCase):
  """A test with a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)


class ResampleTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("nothing", [], ""),
    ("one_frame", [0], "a"),
    ("one_to_one", [0, 1, 2], "abc"),
    ("of_two_equally_near_the_later", [0, 2, 4], "abbcc"),
    ("a_gap_is_filled_by_the_nearest", [0, 5], "aaabbb"),
    ("frames_too_many_are_dropped", [0, 0.25, 0.5, 0.75, 1, 1.25], "ae"),
    ("the_end_is_rounded_down", [0, 1.4], "ab"),
    ("the_end_is_rounded_up", [0, 1.6], "abb"),
    ("first_frame_loses_the_start_to_none", [0, 0.1, 0.2], "a"),
    ("two_far_apart_then_dense", [0, 2.6, 2.8, 3.2], "aabd"),
  )
  def test_one_grid_point_a_second(self, times, expected):
    frames = zip(times, "abcdefgh")
    self.assertEqual("".join(decode._resample(iter(frames), 1)), expected)

  def test_thirty_to_twenty_five_drops_every_sixth(self):
    frames = ((i / 30, i) for i in range(31))
    expected = [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 28, 29, 30]
    self.assertEqual(list(decode._resample(frames, 25)), expected)

  def test_exact_halves_go_to_the_later_frame_whatever_the_rounding(self):
    # Every odd grid point of 25 per second lies in the middle between two frames of 12.5 per second.
    frames = [(i * 0.08, i) for i in range(2000)]
    expected = [(step + 1) // 2 for step in range(3999)]
    self.assertEqual(list(decode._resample(iter(frames), 25)), expected)

  @parameterized.product(seed=[0, 1, 2, 3], fps=[1, 10, 25, NTSC, 60])
  def test_any_times_as_by_comparing_with_all(self, seed, fps):
    times = np.cumsum(np.random.default_rng(seed).exponential(0.05, size=200))
    times -= times[0]
    self.assertEqual(list(decode._resample(zip(times, range(200)), fps)), nearest(times, fps))

  def test_is_lazy(self):
    taken = []

    def source() -> Iterator[tuple[float, int]]:
      for i in range(100):
        taken.append(i)
        yield i / 25, i

    resampled = decode._resample(source(), 25)
    self.assertEqual([next(resampled) for _ in range(3)], [0, 1, 2])
    self.assertLen(taken, 4)


class MonotonicClockTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("plain", [0, 0.5, 1], [0, 0.5, 1]),
    ("begins_at_zero", [3, 3.5, 4], [0, 0.5, 1]),
    ("begins_below_zero", [-1, -0.5, 0], [0, 0.5, 1]),
    ("variable", [0, 0.125, 2], [0, 0.125, 2]),
    ("xvid_late_start_and_zero_at_the_end", [0.5, 0.75, 1, 0], [0, 0.25, 0.5, 0.75]),
    ("a_time_repeated", [0, 0.5, 0.5, 1.5], [0, 0.5, 0.75, 1.5]),
    ("all_zero", [0, 0, 0, 0], [0, 0.25, 0.5, 0.75]),
    ("starts_anew", [0, 0.25, 0.5, 0, 0.25, 0.5], [0, 0.25, 0.5, 0.75, 1, 1.25]),
    ("catches_up", [0, 1, 0.5, 1.25, 2], [0, 1, 1.25, 1.5, 2]),
    ("none_at_all", [None, None, None], [0, 0.25, 0.5]),
    ("some_missing", [5, None, 5.5, None], [0, 0.25, 0.5, 0.75]),
    ("late_first", [None, 8, 8.5], [0, 0.25, 0.75]),
  )
  def test_a_quarter_second_a_frame(self, reported, expected):
    clock = frames_lib.MonotonicClock(lambda: 0.25)
    self.assertEqual([clock.next(time) for time in reported], expected)

  def test_a_gap_that_is_left_out(self):
    clock = frames_lib.MonotonicClock(lambda: 0.25)
    self.assertEqual([clock.next(time) for time in (1, 1.5)], [0, 0.5])
    self.assertEqual(clock.skip(clock.next(1000), 0.5), 0.75)
    self.assertEqual([clock.next(time) for time in (1000.5, 1001, 999)], [1.25, 1.75, 2])


class RealClipsTest(parameterized.TestCase):
  @parameterized.parameters(*CLIPS)
  def test_rate_and_packets(self, path, rate, packets, decoded, resampled):
    del decoded, resampled
    info = decode.probe(testing.shared(f"clips/{path}"))
    self.assertAlmostEqual(info.frame_rate, rate, places=9)
    self.assertEqual(info.num_frames, packets)

  @parameterized.parameters(*CLIPS)
  def test_frames_are_those_nearest_in_time(self, path, rate, packets, decoded, resampled):
    del packets
    file = testing.shared(f"clips/{path}")
    frames, times = read_raw(file)
    self.assertLen(frames, decoded)
    if path.endswith(".avi"):  # of one rate, whatever packed Xvid reports
      times = np.arange(decoded) / rate
    indices = nearest(times, 25)
    self.assertLen(indices, resampled)
    got = list(decode.iter_frames(file, short_side=None))
    self.assertLen(got, resampled)
    self.assertEqual(decode.count_frames(file), resampled)
    is_turned = path.endswith("video_90.mov")
    for frame, index in zip(got, indices):
      np.testing.assert_array_equal(frame, np.rot90(frames[index], -1) if is_turned else frames[index])

  @parameterized.parameters(
    "kinetics/R6llTwEh07w.mp4",
    "kinetics/flipping_a_pancake.mkv",
    "ucf101/Diving/v_Diving_g03_c07.avi",
    "broken/unordered.mov",
    "broken/video_0.mov",
    "broken/video_90.mov",
  )
  def test_another_decoder_agrees(self, path):
    file = testing.shared(f"clips/{path}")
    convert = frames_lib.Converter()
    frames = [convert(frame) for _, frame in frames_lib.timed_frames(file)]
    expected = read_opencv(file)
    self.assertLen(frames, len(expected))
    # All bytes are equal with FFmpeg 8 in both; another may round otherwise.
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, expected)]
    self.assertLess(max(differences), 1.3)

  @parameterized.parameters(
    ("ucf101/JavelinThrow/v_JavelinThrow_g22_c01.avi", (56, 256, 341, 3)),
    ("hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi", (40, 256, 461, 3)),
    ("broken/video_0.mov", (3, 256, 454, 3)),
    ("broken/video_90.mov", (3, 454, 256, 3)),
  )
  def test_shorter_side_is_256(self, path, shape):
    frames = decode.read_video(testing.shared(f"clips/{path}"))
    self.assertEqual(frames.shape, shape)
    self.assertEqual(frames.dtype, np.uint8)

  @parameterized.parameters(("video_0.mov", 568, 320), ("video_90.mov", 320, 568))
  def test_size_is_that_after_rotation(self, name, width, height):
    info = decode.probe(testing.shared(f"clips/broken/{name}"))
    self.assertEqual((info.width, info.height), (width, height))
    frames = decode.read_video(testing.shared(f"clips/broken/{name}"), short_side=None)
    self.assertEqual(frames.shape, (3, height, width, 3))


class MadeVideosTest(TemporaryFolderTest):
  def test_colours_are_red_green_blue(self):
    colours = np.array([[220, 20, 20], [20, 220, 20], [20, 20, 220]], np.uint8)
    frames = [np.broadcast_to(colour, (64, 64, 3)) for colour in colours]
    write_video(self.folder / "a.mp4", [0, 0.04, 0.08], frames=frames)
    video = decode.read_video(self.folder / "a.mp4", short_side=None)
    np.testing.assert_allclose(video.mean(axis=(1, 2)), colours, rtol=0, atol=6)

  def test_rotation_is_applied(self):
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:32, :64] = 255  # the top left quarter
    write_video(self.folder / "a.mp4", [0, 0.04, 0.08], frames=[picture] * 3)
    upright = decode.read_video(self.folder / "a.mp4", short_side=None)
    self.assertEqual(upright.shape, (3, 64, 128, 3))
    np.testing.assert_allclose(upright[:, 8:24, 16:48], 255, atol=10)
    # The track header's matrix, fixed point: to be shown a quarter turn clockwise.
    one = 1 << 16
    plain = np.array([one, 0, 0, 0, one], ">i4").tobytes()
    turned = np.array([0, one, 0, -one, 0], ">i4").tobytes()
    movie, header, track = (self.folder / "a.mp4").read_bytes().partition(b"tkhd")
    (self.folder / "b.mp4").write_bytes(movie + header + track.replace(plain, turned, 1))
    rotated = decode.read_video(self.folder / "b.mp4", short_side=None)
    np.testing.assert_array_equal(rotated, np.rot90(upright, -1, axes=(1, 2)))

  @parameterized.named_parameters(
    ("one_to_one", [0, 0.04, 0.08, 0.12], [0, 1, 2, 3]),
    ("a_tie_goes_to_the_later", [0, 0.02, 0.06, 0.12], [0, 2, 2, 3]),
    ("a_gap_is_filled", [0, 0.04, 0.24, 0.28], [0, 1, 1, 1, 2, 2, 2, 3]),
    ("slow_then_fast", [0, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16], [0, 0, 1, 3, 6]),
    ("first_time_is_the_zero", [5, 5.04, 5.08], [0, 1, 2]),
  )
  def test_variable_rate(self, times, expected):
    write_video(self.folder / "a.mp4", times)
    self.assertEqual(numbers(self.folder / "a.mp4"), expected)

  @parameterized.product(name=["a.mp4", "a.mov", "a.mkv", "a.webm", "a.ts", "a.flv"], seed=[0, 1])
  def test_variable_rate_of_many_containers_is_neither_refused_nor_bent(self, name, seed):
    # Most of these containers declare no count, so that OpenCV makes one of duration and rate.
    steps = np.random.default_rng(seed).choice([17, 33, 50, 100], size=99) / 1000
    times = np.concatenate([[0], np.cumsum(steps)])
    write_video(self.folder / name, times, codec="libvpx" if name == "a.webm" else "libx264")
    self.assertEqual(numbers(self.folder / name), nearest(times, 25))

  def test_a_time_given_twice_gets_its_own_place(self):
    # A millisecond is Matroska's unit: 40.0 and 40.4 are the same. The file declares 25 frames per second.
    write_video(self.folder / "a.mkv", [0, 0.04, 0.0404, 0.12, 0.16], time_base=fractions.Fraction(1, 10000))
    _, seconds = read_raw(self.folder / "a.mkv")
    self.assertEqual(seconds, [0, 0.04, 0.04, 0.12, 0.16])
    self.assertEqual(numbers(self.folder / "a.mkv"), [0, 1, 2, 3, 4])

  @parameterized.parameters((12.5, [0, 2, 4, 6, 8]), (50, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]))
  def test_other_rates(self, fps, expected):
    write_video(self.folder / "a.mp4", [i / 25 for i in range(9)])
    self.assertEqual(numbers(self.folder / "a.mp4", fps), expected)

  def test_max_frames_is_the_beginning(self):
    write_video(self.folder / "a.mp4", [i / 30 for i in range(40)])
    whole = decode.read_video(self.folder / "a.mp4", short_side=None)
    self.assertLen(whole, 33)
    for max_frames in (1, 20, 33, 100):
      part = decode.read_video(self.folder / "a.mp4", short_side=None, max_frames=max_frames)
      np.testing.assert_array_equal(part, whole[:max_frames])

  @parameterized.parameters(
    ((128, 64), 32, (32, 64)),
    ((64, 128), 32, (64, 32)),
    ((128, 64), 64, (64, 128)),
    ((128, 64), 96, (96, 192)),
    ((130, 64), 31, (31, 63)),
    ((128, 64), None, (64, 128)),
    ((64, 64), 256, (256, 256)),
  )
  def test_short_side(self, size, short_side, shape):
    write_video(self.folder / "a.mp4", [0, 0.04], frames=[np.zeros((size[1], size[0], 3), np.uint8)] * 2)
    self.assertEqual(decode.read_video(self.folder / "a.mp4", short_side=short_side).shape, (2, *shape, 3))

  def test_resizing_is_bilinear_between_pixel_centres(self):
    row = np.array([0, 100, 200, 40], np.uint8)
    frame = np.broadcast_to(row[None, :, None], (2, 4, 3)).copy()
    doubled = np.array([0, 25, 75, 125, 175, 160, 80, 40])
    np.testing.assert_array_equal(decode.resize(frame, 4), np.broadcast_to(doubled[None, :, None], (4, 8, 3)))
    self.assertIs(decode.resize(frame, 2), frame)
    self.assertIs(decode.resize(frame, None), frame)

  @parameterized.parameters(dict(fps=0), dict(fps=-25), dict(fps=float("nan")), dict(fps=float("inf")))
  def test_impossible_rates(self, fps):
    with self.assertRaisesRegex(ValueError, f"fps is {fps}"):
      decode.read_video(self.folder / "a.mp4", fps)

  @parameterized.parameters(dict(short_side=0), dict(short_side=-1), dict(max_frames=0), dict(max_frames=-1))
  def test_impossible_sizes(self, **option):
    name, value = option.popitem()
    with self.assertRaisesRegex(ValueError, f"{name} is {value}; it must be at least 1"):
      decode.read_video(self.folder / "a.mp4", **{name: value})

  def test_memory_does_not_grow_with_length(self):
    picture = np.zeros((48, 64, 3), np.uint8)
    peaks = {}
    for seconds in (6, 60):
      path = self.folder / f"{seconds}.mp4"
      write_video(path, [i / 25 for i in range(25 * seconds)], frames=[picture] * (25 * seconds), codec="mpeg4")
      tracemalloc.start()
      self.addCleanup(tracemalloc.stop)
      count = sum(1 for _ in decode.iter_frames(path, short_side=48))
      peaks[seconds] = tracemalloc.get_traced_memory()[1]
      tracemalloc.stop()
      self.assertEqual(count, 25 * seconds)
    self.assertGreater(peaks[6], picture.nbytes)  # else NumPy's memory is not seen
    self.assertLess(peaks[60], peaks[6] + 4 * picture.nbytes)

  @parameterized.parameters(
    "two words.mp4",
    "größe 漢字.mp4",
    os.fsdecode(b"\xff\xfe\xe9.mp4"),
    "12:30.mp4",
    "http:x.mp4",
    "100%d.mp4",
    "-v.mp4",
    "a?b#c&d.mp4",
    "no ending",
  )
  def test_any_name(self, name):
    before = os.getcwd()
    self.addCleanup(os.chdir, before)
    os.chdir(self.folder)
    write_video("plain.mp4", [0, 0.04, 0.08])
    try:
      os.rename("plain.mp4", name)
    except OSError as error:
      self.skipTest(f"this file system takes no such name: {error}")
    self.assertEqual(numbers(name), [0, 1, 2])
    self.assertEqual(numbers(self.folder / name), [0, 1, 2])

  def test_reading_leaves_no_file_open(self):
    write_video(self.folder / "a.mp4", [i / 25 for i in range(20)])
    opened = lambda: [os.readlink(link) for link in pathlib.Path("/proc/self/fd").iterdir() if link.is_symlink()]
    if not os.path.isdir("/proc/self/fd"):
      self.skipTest("open files are counted in /proc")
    decode.read_video(self.folder / "a.mp4", short_side=None, max_frames=3)
    decode.read_video(self.folder / "a.mp4", short_side=None)
    decode.probe(self.folder / "a.mp4")
    self.assertNotIn(os.fspath(self.folder / "a.mp4"), opened())


class BrokenVideosTest(TemporaryFolderTest):
  def _assert_refused(self, path: os.PathLike | str, sentence: str) -> None:
    with self.assertRaises(errors.VideoError) as caught:
      decode.read_video(path, short_side=None)
    message = str(caught.exception)
    self.assertStartsWith(message, f"{path}: ")
    self.assertRegex(message, sentence)
    self.assertNotIn("\n", message)

  def _cut(self, clip: str, part: float) -> pathlib.Path:
    """A copy of the first `part` of a real clip's bytes."""
    content = testing.shared(f"clips/{clip}").read_bytes()
    path = self.folder / f"cut{pathlib.Path(clip).suffix}"
    path.write_bytes(content[: int(len(content) * part)])
    return path

  @parameterized.named_parameters(
    ("text", b"This is no video.\n" * 20, "not a video that FFmpeg can open"),
    ("one_byte", b"x", "not a video that FFmpeg can open"),
    ("zeros", bytes(4096), "not a video that FFmpeg can open"),
    ("empty", b"", "the file is empty"),
  )
  def test_content(self, content, sentence):
    path = self.folder / "a.mp4"
    path.write_bytes(content)
    self._assert_refused(path, sentence)
    with self.assertRaisesRegex(errors.VideoError, sentence):
      decode.probe(path)

  def test_missing(self):
    self._assert_refused(self.folder / "none.mp4", "there is no such file")
    self._assert_refused(self.folder / "none" / "none.mp4", "there is no such file")

  def test_folder(self):
    self._assert_refused(self.folder, "the folder holds no numbered images .such as img_00001.jpg., and so no video")

  def test_link_to_nothing(self):
    (self.folder / "a.mp4").symlink_to("none.mp4")
    self._assert_refused(self.folder / "a.mp4", "there is no such file")

  def test_sound_without_pictures(self):
    path = self.folder / "a.mp4"
    with av.open(os.fspath(path), "w") as container:
      stream = container.add_stream("aac", rate=16000)
      stream.layout = "mono"
      for i in range(20):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 1024 * i
        container.mux(stream.encode(frame))
      container.mux(stream.encode())
    self._assert_refused(path, "this is not a video; it holds audio")

  def test_corrupted(self):
    self._assert_refused(testing.shared("clips/broken/corrupted.mp4"), "only 28 of 50 frames can be decoded; .*damaged")

  @parameterized.parameters(
    ("kinetics/flipping_a_pancake.mkv", 0.3, "only 85 of 311 frames"),
    ("kinetics/flipping_a_pancake.mkv", 0.9, "only 278 of 311 frames"),
    ("ucf101/Diving/v_Diving_g02_c02.avi", 0.3, "only 36 of 151 frames .*packet 37 is not whole"),
    ("ucf101/Diving/v_Diving_g02_c02.avi", 0.9, "only 132 of 151 frames .*packet 133 is not whole"),
    ("kinetics/R6llTwEh07w.mp4", 0.9, "not a video that FFmpeg can open, or its header is damaged"),
  )
  def test_cut_off(self, clip, part, sentence):
    self._assert_refused(self._cut(clip, part), sentence)

  def test_a_few_bytes_short_is_refused(self):
    path = self._cut("kinetics/flipping_a_pancake.mkv", 0.99)
    self._assert_refused(path, "only 307 of 311 .*h264 in matroska.*the file has 431,982 of the 436,346 bytes")

  def test_cut_off_with_the_index_first(self):
    write_video(self.folder / "a.mp4", [i / 25 for i in range(100)], movflags="faststart")
    self.assertEqual(numbers(self.folder / "a.mp4"), list(range(100)))
    content = (self.folder / "a.mp4").read_bytes()
    (self.folder / "b.mp4").write_bytes(content[: len(content) * 2 // 3])
    self._assert_refused(self.folder / "b.mp4", r"only \d\d of 100 frames")

  def test_frames_before_the_damage_come_first(self):
    path = self._cut("kinetics/flipping_a_pancake.mkv", 0.5)
    whole, _ = read_raw(testing.shared("clips/kinetics/flipping_a_pancake.mkv"))
    frames = []
    with self.assertRaisesRegex(errors.VideoError, "only 150 of 311 frames"):
      for frame in decode.iter_frames(path, short_side=None):
        frames.append(frame)
    self.assertGreater(len(frames), 100)
    for frame, index in zip(frames[:100], nearest(np.arange(150) / 30, 25)):
      np.testing.assert_array_equal(frame, whole[index])
    np.testing.assert_array_equal(decode.read_video(path, short_side=None, max_frames=100), frames[:100])

  def test_a_hole_is_damage_and_not_a_slow_scene(self):
    content = bytearray(testing.shared("clips/kinetics/flipping_a_pancake.mkv").read_bytes())
    start, end = len(content) * 2 // 5, len(content) * 7 // 10
    content[start:end] = bytes(end - start)
    (self.folder / "a.mkv").write_bytes(content)
    self._assert_refused(
      self.folder / "a.mkv", "only 118 of 311 frames .*244,720 bytes cannot be read, with what belongs between"
    )

  def test_a_damaged_frame_near_the_end_is_found_though_few_are_missing(self):
    clip = testing.shared("clips/kinetics/R6llTwEh07w.mp4")
    with av.open(os.fspath(clip)) as container:
      packets = [packet for packet in container.demux(video=0) if packet.size]
    content = bytearray(clip.read_bytes())
    for packet in packets[293:295]:
      content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    (self.folder / "a.mp4").write_bytes(content)
    self._assert_refused(self.folder / "a.mp4", r"only 2\d\d of 303 frames")

  def test_an_error_in_use_closes_the_file(self):
    path = self._cut("ucf101/Diving/v_Diving_g02_c02.avi", 0.5)
    with self.assertRaises(errors.VideoError):
      decode.read_video(path)
    if os.path.isdir("/proc/self/fd"):
      opened = [os.readlink(link) for link in pathlib.Path("/proc/self/fd").iterdir() if link.is_symlink()]
      self.assertNotIn(os.fspath(path), opened)


class ListVideosTest(TemporaryFolderTest):
  def test_folders_are_expanded_and_files_kept(self):
    for name in ("b.mp4", "a.AVI", "sub/deep/c.mkv", "sub/notes.txt", ".hidden", "d.npy"):
      (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
      (self.folder / name).touch()
    (self.folder / "folder.mp4").mkdir()
    listed = decode.list_videos(["x/none.bin", self.folder, os.fspath(self.folder / "d.npy")])
    expected = ["a.AVI", "b.mp4", "sub/deep/c.mkv", "d.npy"]
    self.assertEqual(listed, [pathlib.Path("x/none.bin"), *(self.folder / name for name in expected)])

  def test_a_folder_without_videos_is_refused(self):
    (self.folder / "notes.txt").touch()
    with self.assertRaisesRegex(errors.VideoError, f"^{self.folder}: the folder holds no video .*mp4"):
      decode.list_videos([self.folder])

  def test_an_empty_path_is_not_the_current_folder(self):
    with self.assertRaisesRegex(errors.VideoError, "empty path"):
      decode.list_videos(["a.mp4", ""])


class SizesTest(parameterized.TestCase):
  """What would take far more memory than its file explains is refused before it does."""

  @parameterized.parameters(
    (2, 600, "2x600 pixels, one side more than 32 times the other"),
    (600, 2, "600x2 pixels, one side more than 32 times the other"),
    (8200, 8200, "8200x8200 pixels, more than 67,108,864 pixels"),
  )
  def test_oblong_and_huge_frames(self, width, height, sentence):
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, "x.mkv")
      with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        container.mux(stream.encode(av.VideoFrame(width, height, "gray")))
        container.mux(stream.encode())
      for read in (decode.probe, decode.count_frames, lambda path: next(decode.iter_frames(path))):
        with self.assertRaisesRegex(errors.VideoError, f"x.mkv: its frames have {sentence}; scale or crop them"):
          read(path)

  def test_a_named_pipe_is_refused(self):
    with tempfile.TemporaryDirectory() as folder:
      os.mkfifo(os.path.join(folder, "x.mp4"))
      with self.assertRaisesRegex(errors.I3dError, "x.mp4: this is a pipe or a device, not a file"):
        decode.probe(os.path.join(folder, "x.mp4"))

  def test_frames_and_remarks_are_the_same_in_another_process(self):
    path = testing.shared("clips/broken/unordered.mov")
    found = []
    for isolation in (contextlib.nullcontext(), decode.isolated()):
      with isolation:
        notes: list[str] = []
        frames = list(decode.iter_frames(path, allow_damaged=True, note=notes.append))
        found.append((decode.probe(path), decode.count_frames(path), notes, [frame.tobytes() for frame in frames]))
    self.assertEqual(*found)


if __name__ == "__main__":
  absltest.main()
