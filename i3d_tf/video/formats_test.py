"""Tests of kinds of files that failed in the field: each is read rightly, or refused in one sentence that names it.

Made videos show numbered frames, see decode_test. Field files are those of `field/README.md` in the shared material.
"""

import fractions
import functools
import os
import pathlib
import struct

from absl.testing import absltest
from absl.testing import parameterized
import av
import numpy as np
from PIL import Image

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.video import containers
from i3d_tf.video import decode
from i3d_tf.video import decode_test
from i3d_tf.video import deinterlace
from i3d_tf.video import frames as frames_lib

_SIZE = (128, 64)  # width, height
_INTERLACED = {"flags": "+ilme+ildct"}
_KEYS = {"bf": "0", "g": "10", "sc_threshold": "0"}  # every tenth frame is a key frame, and no other


def ramp(shift: int, *, height: int = _SIZE[1], width: int = _SIZE[0]) -> np.ndarray:
  """A picture whose brightness goes up and down from left to right, moved to the right by `shift` pixels."""
  x = (np.arange(width) - shift) % 64
  return np.broadcast_to((40 + 5 * np.minimum(x, 64 - x)).astype(np.uint8)[None, :, None], (height, width, 3)).copy()


def write(
  path: os.PathLike, frames: list[np.ndarray], *, codec: str = "libx264", pix_fmt: str = "yuv420p", rate: int = 25,
  interlaced: bool = False, options: dict[str, str] | None = None, **fields,
) -> None:  # fmt: skip
  """Writes frames at a constant rate; `fields` are of the codec context."""
  with av.open(os.fspath(path), "w") as container:
    given = {**(_INTERLACED if interlaced else {}), **(options or {})}
    stream = container.add_stream(codec, rate=rate, options=given)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = pix_fmt
    stream.codec_context.bit_rate = 4_000_000
    for name, value in fields.items():
      setattr(stream.codec_context, name, value)
    for index, picture in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
      frame.pts, frame.time_base = index, fractions.Fraction(1, rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def field_frames(count: int) -> list[np.ndarray]:
  """Frames of two fields each, the bottom one first: even rows show the ramp two pixels further than odd rows."""
  made = []
  for index in range(count):
    frame = ramp(4 * index)
    frame[::2] = ramp(4 * index + 2)[::2]
    made.append(frame)
  return made


class FormatsTest(decode_test.TemporaryFolderTest):
  def _read(self, path: os.PathLike, fps: float = 25, **options) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    return decode.read_video(path, fps, None, note=notes.append, **options), notes

  def _assert_refused(self, path: os.PathLike, sentence: str) -> None:
    with self.assertRaises(errors.VideoError) as caught:
      decode.read_video(path, short_side=None)
    message = str(caught.exception)
    self.assertStartsWith(message, f"{path}: ")
    self.assertRegex(message, sentence)
    self.assertNotRegex(message, r"\n|--\w")


class InterlacedTest(FormatsTest):
  @parameterized.parameters(("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.mpg", "mpeg2video"), ("a.ts", "mpeg2video"))
  def test_every_frame_is_made_whole(self, name, codec):
    write(self.folder / name, field_frames(12), codec=codec, interlaced=True)
    frames, notes = self._read(self.folder / name)
    self.assertEqual(notes, [deinterlace.DEINTERLACED])
    self.assertLen(frames, 12)
    for index in range(1, 11):
      # The picture of the first field, without the comb that its two fields make: 10 of 255 between rows.
      difference = np.abs(frames[index].astype(int) - ramp(4 * index))
      self.assertLess(difference.mean(), 3)
      comb = np.abs(frames[index, 1:, 8:-8].astype(int) - frames[index, :-1, 8:-8]).mean()
      self.assertLess(comb, 2)

  def test_partly_interlaced(self):
    write(self.folder / "a.m2v", [ramp(4 * i) for i in range(8)], codec="mpeg2video")
    write(self.folder / "b.m2v", field_frames(8), codec="mpeg2video", interlaced=True)
    (self.folder / "c.m2v").write_bytes(b"".join((self.folder / name).read_bytes() for name in ("a.m2v", "b.m2v")))
    frames, notes = self._read(self.folder / "c.m2v")
    self.assertEqual(notes, [deinterlace.DEINTERLACED])
    self.assertLen(frames, 16)
    alone, notes = self._read(self.folder / "a.m2v")
    self.assertEqual(notes, [])
    np.testing.assert_array_equal(frames[:8], alone)

  def test_a_single_interlaced_frame(self):
    write(self.folder / "a.mkv", field_frames(1), interlaced=True)
    frames, _ = self._read(self.folder / "a.mkv")
    self.assertLen(frames, 1)

  def test_field_file(self):
    frames, notes = self._read(testing.shared("field/int_640.mp4"), 30)
    self.assertEqual(notes, [deinterlace.DEINTERLACED, frames_lib.NOT_SQUARE.format("255:256")])
    self.assertEqual(frames.shape, (60, 480, 640, 3))
    source = decode.read_video(testing.shared("clips/kinetics/R6llTwEh07w.mp4"), 30, 480, max_frames=60)
    for index in (0, 20, 59):
      expected = decode.cv2.resize(source[index], (640, 480))
      self.assertLess(np.abs(frames[index].astype(int) - expected).mean(), 4)


class HealthyTest(FormatsTest):
  """Healthy videos whose headers promise more than is shown."""

  def _write_with_edit_list(self, path: pathlib.Path, first: int, count: int) -> None:
    """40 frames of which an edit list shows `count` from number `first` on."""
    write(path, [decode_test.numbered_frame(i) for i in range(40)], options={"bf": "0", "g": "5"})
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 12  # behind version, flags and the number of entries
    media_unit = struct.unpack(">I", content[content.index(b"mdhd") + 16 :][:4])[0]
    movie_unit = struct.unpack(">I", content[content.index(b"mvhd") + 16 :][:4])[0]
    content[place : place + 8] = struct.pack(">Ii", count * movie_unit // 25, first * media_unit // 25)
    path.write_bytes(content)

  @parameterized.parameters((10, 30), (7, 20), (0, 25))
  def test_edit_list(self, first, count):
    self._write_with_edit_list(self.folder / "a.mp4", first, count)
    self.assertEqual(decode_test.numbers(self.folder / "a.mp4"), list(range(first, first + count)))
    self.assertEqual(decode.probe(self.folder / "a.mp4").num_frames, count)

  def test_sound_longer_than_the_picture(self):
    path = self.folder / "a.mkv"
    with av.open(os.fspath(path), "w") as container:
      video = container.add_stream("libx264", rate=25, options={"bf": "0"})
      video.height, video.width, video.pix_fmt = 64, 128, "yuv420p"
      audio = container.add_stream("aac", rate=16000, layout="mono")
      for index in range(20):
        container.mux(video.encode(av.VideoFrame.from_ndarray(decode_test.numbered_frame(index), format="rgb24")))
      container.mux(video.encode())
      for index in range(40):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 1024 * index
        container.mux(audio.encode(frame))
      container.mux(audio.encode())
    self.assertEqual(decode_test.numbers(path), list(range(20)))

  @parameterized.parameters(("wmv2", False), ("wmv2", True), ("msmpeg4v3", True))
  def test_asf_whose_header_states_its_length(self, codec, has_sound):
    path = self.folder / "a.wmv"
    with av.open(os.fspath(path), "w") as container:
      video = container.add_stream(codec, rate=25)
      video.height, video.width, video.pix_fmt = 64, 128, "yuv420p"
      audio = container.add_stream("aac", rate=16000, layout="mono") if has_sound else None
      for index in range(40):
        container.mux(video.encode(av.VideoFrame.from_ndarray(decode_test.numbered_frame(index), format="rgb24")))
      container.mux(video.encode())
      for index in range(25 if has_sound else 0):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 1024 * index
        container.mux(audio.encode(frame))
      if has_sound:
        container.mux(audio.encode())
    self.assertEqual(decode_test.numbers(path), list(range(40)))
    content = path.read_bytes()
    (self.folder / "b.wmv").write_bytes(content[: len(content) * 6 // 10])
    # The cut is behind the last frame of some: then it is the size in the header that tells.
    self._assert_refused(self.folder / "b.wmv", f"damaged or incomplete .*{codec} in asf.*of the .* bytes")

  def test_packets_before_the_first_key_frame_are_left_out(self):
    write(self.folder / "a.ts", [decode_test.numbered_frame(i) for i in range(40)], options=_KEYS)
    with av.open(os.fspath(self.folder / "a.ts")) as source:
      packets = [packet for packet in source.demux(video=0) if packet.size]
      with av.open(os.fspath(self.folder / "b.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in packets[5:]:
          packet.stream = stream
          target.mux(packet)
    self.assertEqual(decode_test.numbers(self.folder / "b.ts"), list(range(10, 40)))

  def _write_two(self, name: str, *, is_cover: bool) -> pathlib.Path:
    """A picture of 64x64, first, and a video of 128x64."""
    path = self.folder / name
    with av.open(os.fspath(path), "w") as container:
      other = container.add_stream("mjpeg" if is_cover else "libx264", rate=25)
      other.height, other.width, other.pix_fmt = 64, 64, "yuvj420p" if is_cover else "yuv420p"
      video = container.add_stream("libx264", rate=25, options={"bf": "0"})
      video.height, video.width, video.pix_fmt = 64, 128, "yuv420p"
      if is_cover:
        other.disposition = av.stream.Disposition.attached_pic
      else:
        video.disposition = av.stream.Disposition.default
      small = np.full((64, 64, 3), 200, np.uint8)
      for index in range(12):
        if not (is_cover and index):
          container.mux(other.encode(av.VideoFrame.from_ndarray(small, format="rgb24")))
        container.mux(video.encode(av.VideoFrame.from_ndarray(decode_test.numbered_frame(index), format="rgb24")))
      for stream in (other, video):
        container.mux(stream.encode())
    return path

  def test_cover_art_is_no_video(self):
    self.assertEqual(decode_test.numbers(self._write_two("a.mp4", is_cover=True)), list(range(12)))

  def test_of_two_videos_the_default_one(self):
    self.assertEqual(decode_test.numbers(self._write_two("a.mkv", is_cover=False)), list(range(12)))

  @parameterized.parameters(("field/cut_copy.mp4", 122, 103), ("field/audio_longer.mkv", 122, 102))
  def test_field_files(self, path, decoded, resampled):
    file = testing.shared(path)
    self.assertLen(list(frames_lib.timed_frames(file)), decoded)
    self.assertEqual(decode.count_frames(file), resampled)

  def test_an_edit_list_shows_what_it_should(self):
    frames = decode.read_video(testing.shared("field/cut_copy.mp4"), 30, None, max_frames=100)
    source = decode.read_video(testing.shared("clips/kinetics/R6llTwEh07w.mp4"), 30, None)
    np.testing.assert_array_equal(frames, source[90:190])


class ClocksTest(FormatsTest):
  @parameterized.parameters(("libvpx", "a.webm", 21.0), ("libx264", "a.mkv", 30.0), ("libx264", "a.mp4", 24000 / 1001))
  def test_own_rate_is_that_of_the_timestamps(self, codec, name, rate):
    times = [index / rate for index in range(60)]
    decode_test.write_video(self.folder / name, times, codec=codec, rate=1000)
    self.assertAlmostEqual(decode.probe(self.folder / name).frame_rate, rate, delta=0.02)
    self.assertEqual(decode_test.numbers(self.folder / name), decode_test.nearest(times, 25))

  def test_a_single_frame_has_a_rate(self):
    decode_test.write_video(self.folder / "a.mp4", [0])
    self.assertEqual(decode.probe(self.folder / "a.mp4"), decode.VideoInfo(25, 1, 128, 64))

  @parameterized.parameters(("a.mp4", 36000), ("a.mkv", 10**6), ("a.mkv", 11))
  def test_a_clock_that_jumps(self, name, jump):
    times = [index / 25 + jump * (index >= 10) for index in range(20)]
    decode_test.write_video(self.folder / name, times)
    self._assert_refused(self.folder / name, rf"the clock jumps by {jump}.0 s after 0.36 s.*10 s .*allow_damaged=True")
    frames, notes = self._read(self.folder / name, allow_damaged=True)
    self.assertEqual(list(map(decode_test.read_number, frames)), list(range(20)))
    self.assertEqual(notes, [f"damaged: 20 of 20 frames can be decoded; the clock jumps by {jump}.0 s after 0.36 s"])
    self.assertEqual(decode.count_frames(self.folder / name, allow_damaged=True), 20)

  def test_a_pause_below_the_limit_is_filled(self):
    decode_test.write_video(self.folder / "a.mkv", [0, 0.04, 9.04, 9.08])
    self.assertEqual(decode_test.numbers(self.folder / "a.mkv", 1), [0] + 4 * [1] + 5 * [2])
    self.assertEqual(containers.MAX_GAP, 10)

  @parameterized.parameters(("field/clockjump.mp4", 99), ("field/attacks/timebomb.avi", 56))
  def test_field_files(self, path, resampled):
    file = testing.shared(path)
    self._assert_refused(file, "the clock jumps by")
    self.assertEqual(decode.count_frames(file, allow_damaged=True), resampled)


class DisplayTest(FormatsTest):
  def _turned(self, matrix: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A video as stored, and as it is read with the matrix (a, b, c, d) in its track header."""
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:32, :64], picture[32:, :64] = (220, 20, 20), (20, 20, 220)
    write(self.folder / "a.mp4", [picture] * 2)
    one = 1 << 16
    plain = np.array([one, 0, 0, 0, one], ">i4").tobytes()
    a, b, c, d = (value * one for value in matrix)
    head, mark, track = (self.folder / "a.mp4").read_bytes().partition(b"tkhd")
    changed = track.replace(plain, np.array([a, b, 0, c, d], ">i4").tobytes(), 1)
    (self.folder / "b.mp4").write_bytes(head + mark + changed)
    return tuple(decode.read_video(self.folder / name, short_side=None) for name in ("a.mp4", "b.mp4"))

  @parameterized.named_parameters(
    ("clockwise", (0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    ("half_turn", (-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    ("anticlockwise", (0, -1, 1, 0), np.rot90),
    ("mirrored", (-1, 0, 0, 1), np.fliplr),
    ("upside_down", (1, 0, 0, -1), np.flipud),
    ("transposed", (0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
    ("other_diagonal", (0, -1, -1, 0), lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
  )
  def test_matrix(self, matrix, expected):
    stored, shown = self._turned(matrix)
    for before, after in zip(stored, shown, strict=True):
      np.testing.assert_array_equal(after, expected(before))
    info = decode.probe(self.folder / "b.mp4")
    self.assertEqual((info.height, info.width), shown.shape[1:3])

  def test_other_angles_are_said(self):
    picture = ramp(0)
    write(self.folder / "a.mp4", [picture] * 2)
    content = (self.folder / "a.mp4").read_bytes()
    plain = np.array([1 << 16, 0, 0, 0, 1 << 16], ">i4").tobytes()
    head, mark, track = content.partition(b"tkhd")
    turned = track.replace(plain, np.array([46341, 46341, 0, -46341, 46341], ">i4").tobytes(), 1)
    (self.folder / "b.mp4").write_bytes(head + mark + turned)
    frames, notes = self._read(self.folder / "b.mp4")
    self.assertEqual(notes, [frames_lib.OTHER_MATRIX])
    self.assertEqual(frames.shape, (2, 64, 128, 3))

  def test_field_file(self):
    frames = decode.read_video(testing.shared("field/mirror.mp4"), 30, None)
    source = decode.read_video(testing.shared("clips/kinetics/R6llTwEh07w.mp4"), 30, None, max_frames=60)
    self.assertLess(np.abs(frames.astype(int) - source[:, :, ::-1]).mean(), 4)

  def test_pixels_that_are_not_square_stay_as_stored(self):
    write(self.folder / "a.mp4", [ramp(0)] * 2, sample_aspect_ratio=fractions.Fraction(16, 11))
    frames, notes = self._read(self.folder / "a.mp4")
    self.assertEqual(frames.shape, (2, 64, 128, 3))
    self.assertEqual(notes, ["pixels are 16:11 and were kept as stored"])

  @parameterized.parameters((16, "PQ"), (18, "HLG"))
  def test_hdr_is_said(self, curve, name):
    write(self.folder / "a.mp4", [ramp(0)] * 2, pix_fmt="yuv420p10le", color_trc=curve)
    with self.assertLogs("i3d_tf.video.frames") as logs:
      for _ in range(2):
        decode.read_video(self.folder / "a.mp4")
      _, notes = self._read(self.folder / "a.mp4")
    self.assertEqual(notes, [frames_lib.HIGH_DYNAMIC_RANGE.format(name)])
    self.assertLen(logs.records, 1)

  @parameterized.parameters(
    ("a.mkv", "libx264", "yuv420p10le"),
    ("a.mkv", "libx264", "yuv444p"),
    ("a.mkv", "libx265", "yuv420p10le"),
    ("a.mov", "prores_ks", "yuv422p10le"),
    ("a.mkv", "ffv1", "gray"),
    ("a.webm", "libvpx-vp9", "yuv420p"),
    ("a.mkv", "libsvtav1", "yuv420p10le"),
    ("a.avi", "mjpeg", "yuvj420p"),
    ("a.3gp", "mpeg4", "yuv420p"),
    ("a.m2ts", "libx264", "yuv420p"),
    ("a.vob", "mpeg2video", "yuv420p"),
  )
  def test_codecs_and_pixel_formats(self, name, codec, pix_fmt):
    if codec not in av.codecs_available:
      self.skipTest(f"this FFmpeg has no encoder {codec}")
    options = {"libsvtav1": {"preset": "10"}, "libx265": {"x265-params": "log-level=none"}}
    written = functools.partial(write, codec=codec, pix_fmt=pix_fmt, options=options.get(codec))
    # SVT-AV1, where it may, gives the thread that encodes, and all that this starts, precedence over every other.
    run = testing.in_own_process if codec == "libsvtav1" else lambda function, *arguments: function(*arguments)
    run(written, self.folder / name, [ramp(4 * i) for i in range(6)])
    frames = decode.read_video(self.folder / name, short_side=None)
    self.assertLen(frames, 6)
    for index, frame in enumerate(frames):
      self.assertLess(np.abs(frame.astype(int) - ramp(4 * index)).mean(), 3)

  def test_av1_of_the_field(self):
    frames = decode.read_video(testing.shared("field/av1.mp4"), 30, None)
    source = decode.read_video(testing.shared("clips/kinetics/R6llTwEh07w.mp4"), 30, None, max_frames=120)
    self.assertLess(np.abs(frames.astype(int) - source).mean(), 5)


class NoVideoTest(FormatsTest):
  @parameterized.parameters("a.jpg", "a.png", "a.bmp", "a.webp", "picture", "a.mp4")
  def test_a_picture(self, name):
    kind = name.rpartition(".")[2].replace("jpg", "jpeg") if "." in name and name != "a.mp4" else "jpeg"
    Image.fromarray(ramp(0)).save(self.folder / name, kind)
    self._assert_refused(self.folder / name, "this is a single picture .*, not a video")

  def test_an_animated_gif_is_a_video(self):
    pictures = [Image.fromarray(np.full((32, 32, 3), value, np.uint8)) for value in (0, 120, 240)]
    pictures[0].save(self.folder / "clip", "GIF", save_all=True, append_images=pictures[1:], duration=40)
    frames = decode.read_video(self.folder / "clip", short_side=None)
    np.testing.assert_array_equal(frames[:, 16, 16, 0], [0, 120, 240])

  def test_lists_of_other_files_are_not_followed(self):
    write(self.folder / "a.ts", [ramp(0)] * 4)
    (self.folder / "a.ffconcat").write_text("ffconcat version 1.0\nfile a.ts\n")
    (self.folder / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
    self._assert_refused(self.folder / "a.ffconcat", "not a video")
    self._assert_refused(self.folder / "a.m3u8", "not a video")

  def test_text_is_no_picture_of_a_terminal(self):
    (self.folder / "notes.txt").write_text("This is no video.\n" * 20)
    self._assert_refused(self.folder / "notes.txt", "this is not a video")

  def test_a_codec_without_decoder_is_named(self):
    write(self.folder / "a.mp4", [ramp(0)] * 4)
    (self.folder / "b.mp4").write_bytes((self.folder / "a.mp4").read_bytes().replace(b"avc1", b"zzzz"))
    self._assert_refused(self.folder / "b.mp4", "the video's codec is zzzz, for which this FFmpeg has no decoder")


class SalvageTest(FormatsTest):
  def _damaged(self) -> pathlib.Path:
    """Forty numbered frames, every tenth a key frame, of which number 15 is overwritten."""
    write(self.folder / "a.mp4", [decode_test.numbered_frame(i) for i in range(40)], options=_KEYS)
    with av.open(os.fspath(self.folder / "a.mp4")) as container:
      packets = [packet for packet in container.demux(video=0) if packet.size]
    content = bytearray((self.folder / "a.mp4").read_bytes())
    content[packets[15].pos : packets[15].pos + packets[15].size] = bytes(packets[15].size)
    (self.folder / "b.mp4").write_bytes(content)
    return self.folder / "b.mp4"

  def test_what_precedes_damage_comes_first(self):
    path = self._damaged()
    with self.assertRaisesRegex(
      errors.VideoError,
      r"only 15 of 40 frames can be decoded; the video is damaged .*\(h264 in mov\): after frame 15 a",
    ):
      decode.read_video(path)
    frames = decode.read_video(path, short_side=None, max_frames=14)
    np.testing.assert_array_equal(frames, decode.read_video(self.folder / "a.mp4", short_side=None, max_frames=14))

  def test_what_there_is(self):
    frames, notes = self._read(self._damaged(), allow_damaged=True)
    whole = decode.read_video(self.folder / "a.mp4", short_side=None)
    self.assertLen(frames, 40)  # what is lost is filled with the frame before
    np.testing.assert_array_equal(frames[:15], whole[:15])
    np.testing.assert_array_equal(frames[20:], whole[20:])
    self.assertLen(notes, 1)
    self.assertStartsWith(notes[0], "damaged: only 39 of 40 frames can be decoded; after frame 15 a packet does not")

  def test_a_healthy_video_is_the_same(self):
    write(self.folder / "a.mp4", [ramp(i) for i in range(12)])
    frames, notes = self._read(self.folder / "a.mp4", allow_damaged=True)
    self.assertEqual(notes, [])
    np.testing.assert_array_equal(frames, decode.read_video(self.folder / "a.mp4", short_side=None))

  def test_cut_off(self):
    decode_test.write_video(self.folder / "a.mp4", [i / 25 for i in range(50)], movflags="faststart")
    content = (self.folder / "a.mp4").read_bytes()
    (self.folder / "b.mp4").write_bytes(content[: len(content) * 2 // 3])
    self._assert_refused(self.folder / "b.mp4", r"the file has [\d,]+ of the [\d,]+ bytes that it should have")
    frames, notes = self._read(self.folder / "b.mp4", allow_damaged=True)
    self.assertBetween(len(frames), 10, 45)
    self.assertEqual(list(map(decode_test.read_number, frames[:8])), list(range(8)))
    self.assertStartsWith(notes[0], "damaged: only ")

  def test_corrupted_clip(self):
    file = testing.shared("clips/broken/corrupted.mp4")
    frames, notes = self._read(file, allow_damaged=True)
    self.assertGreater(len(frames), 28 * 2.5)
    self.assertStartsWith(notes[0], "damaged: only ")


if __name__ == "__main__":
  absltest.main()
