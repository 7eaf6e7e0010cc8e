"""Tests of synthetic: of an action one frame says nothing and motion all, of a look a frame all; files are whole."""

import collections
import functools
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.data import synthetic
from i3d_tf.video import decode

_SMALL = {"num_frames": 5, "size": (32, 40)}
_FEW = {"train": 2, "test": 1}
_MOTIONS = synthetic.CLASSES["motion"]
_LOOKS = synthetic.CLASSES["appearance"]
_FOREGROUND = 0.9  # of a pixel is an object


def render(label: str, seed: int, **settings) -> tuple[np.ndarray, np.ndarray]:
  """Frames, and how much of each pixel is an object."""
  settings = {"num_frames": synthetic.NUM_FRAMES, "size": synthetic.SIZE, "fps": synthetic.FPS} | settings
  frames, shares = zip(*synthetic._render(label, seed, **settings))
  return np.stack(frames), np.stack(shares)


def optical_flow(frames: np.ndarray) -> np.ndarray:
  """DIS optical flow `[T-1, H, W, 2]` in pixels, right and down."""
  engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
  grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
  return np.stack([engine.calc(before, after, None) for before, after in zip(grays, grays[1:])])


def affine_motion(flow: np.ndarray, share: np.ndarray) -> np.ndarray:
  """Fits a motion to each object of a frame; the mean right and down, the root mean squares of turning and growing.

  Turning and growing are of a point 10 pixels from the object's centre.
  """
  count, objects = cv2.connectedComponents((share > _FOREGROUND).astype(np.uint8))
  rows, weights = [], []
  for i in range(1, count):
    down, right = np.nonzero(objects == i)
    if len(down) > 40:
      places = np.column_stack([np.ones(len(down)), right - right.mean(), down - down.mean()])
      (u, v), (u_right, v_right), (u_down, v_down) = np.linalg.lstsq(places, flow[down, right], rcond=None)[0]
      rows.append([u, v, 5 * (v_right - u_down), 5 * (u_right + v_down)])
      weights.append(len(down))
  right, down, _, _ = np.average(rows, axis=0, weights=weights)
  _, _, turn, growth = np.sqrt(np.average(np.square(rows), axis=0, weights=weights))
  return np.array([right, down, turn, growth])


def class_by_flow(frames: np.ndarray, shares: np.ndarray) -> str:
  """The class as optical flow tells it, by rules that a person would write down."""
  motions = np.array([affine_motion(*pair) for pair in zip(optical_flow(frames), shares)])
  right, down, turn, growth = strengths = np.sqrt(np.square(motions).mean(axis=0))
  if strengths.argmax() == 2:
    return "spin"
  if strengths.argmax() == 3:
    return "pulse"
  if min(right, down) > 0.6 * max(right, down):
    return "circle"
  mean_right, mean_down = motions.mean(axis=0)[:2]
  if right > down:
    return "slide" if abs(mean_right) > 0.7 * right else "sway"
  if abs(mean_down) < 0.7 * down:
    return "bob"
  return "fall" if mean_down > 0 else "rise"


@functools.cache
def last_frames(split: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Frames half a swing after the start, of independent tiny clips; their objects; and the class numbers."""
  clips = [(label, number) for label in _MOTIONS for number in range(count)]
  seeds = [synthetic.clip_seed(0, split, *clip) for clip in clips]
  made = [render(label, seed, num_frames=7, size=(32, 32)) for (label, _), seed in zip(clips, seeds)]
  frames, shares = (np.stack([item[i][-1] for item in made]) for i in range(2))
  return frames / 255, shares, np.repeat(np.arange(len(_MOTIONS)), count)


class TemporaryFolderTest(parameterized.TestCase):
  """A test with a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)


class RenderTest(parameterized.TestCase):
  def test_shape_and_type(self):
    clip = synthetic.render_clip("bob", seed=0, num_frames=3, size=(33, 70))
    self.assertEqual(clip.shape, (3, 33, 70, 3))
    self.assertEqual(clip.dtype, np.uint8)
    self.assertEqual(synthetic.render_clip("bob", seed=0).shape, (40, 72, 96, 3))

  @parameterized.parameters(*_MOTIONS)
  def test_same_seed_same_pixels_and_another_seed_others(self, label):
    clip = synthetic.render_clip(label, seed=7, **_SMALL)
    np.testing.assert_array_equal(synthetic.render_clip(label, seed=7, **_SMALL), clip)
    np.testing.assert_array_equal(synthetic.render_clip(label, seed=7, **_SMALL | {"num_frames": 3}), clip[:3])
    self.assertGreater(np.abs(synthetic.render_clip(label, seed=8, **_SMALL).astype(int) - clip).mean(), 20)

  def test_classes_of_one_seed_begin_alike_and_go_on_differently(self):
    clips = np.stack([synthetic.render_clip(label, seed=3, num_frames=9) for label in _MOTIONS]).astype(int)
    np.testing.assert_array_equal(clips[:, 0], np.broadcast_to(clips[:1, 0], clips[:, 0].shape))
    for i, j in zip(*np.triu_indices(len(clips), 1)):
      self.assertGreater(np.abs(clips[i, 8] - clips[j, 8]).mean(), 3, (_MOTIONS[i], _MOTIONS[j]))

  @parameterized.parameters(*_MOTIONS)
  def test_frame_rate_changes_no_speed(self, label):
    usual = synthetic.render_clip(label, seed=5, num_frames=4)
    np.testing.assert_array_equal(synthetic.render_clip(label, seed=5, num_frames=7, fps=50)[::2], usual)

  @parameterized.parameters("slide", "spin", "pulse")
  def test_size_changes_neither_places_nor_motion(self, label):
    small, large = (render(label, 2, num_frames=12, size=size)[1] for size in ((72, 96), (144, 192)))
    shrunk = np.stack([cv2.resize(share, (96, 72), interpolation=cv2.INTER_AREA) for share in large])
    self.assertLess(np.abs(shrunk - small).mean(), 0.01)
    self.assertGreater(np.abs(small[6] - small[0]).mean(), 0.05)

  def test_what_leaves_comes_in_at_the_other_side(self):
    _, shares = render("slide", 4, num_frames=60)
    covered = shares.sum(axis=(1, 2))
    np.testing.assert_allclose(covered, covered[0], rtol=2e-3)
    self.assertGreater(shares[:, :, 0].max(), 0.99)

  @parameterized.parameters(
    (dict(label="jump"), "label is 'jump'; the classes are bob, circle, "),
    (dict(num_frames=0), "num_frames is 0; it must be a whole number of at least 1"),
    (dict(fps=0), "fps is 0; it must be"),
    (dict(fps=12.5), "fps is 12.5; it must be a whole number"),
    (dict(seed=-1), "seed is -1; it must be"),
    (dict(size=(16, 64)), r"size is \(16, 64\); it must be height and width of at least 32 pixels"),
    (dict(size=(64, 64, 3)), r"size is \(64, 64, 3\); it must be"),
  )
  def test_impossible_arguments(self, changed, sentence):
    arguments = {"label": "bob", "seed": 0} | changed
    with self.assertRaisesRegex(errors.I3dError, f"^{sentence}"):
      synthetic.render_clip(arguments.pop("label"), **arguments)


class OneFrameTest(parameterized.TestCase):
  """Eight classes: chance is 12.5 %, and 25 % is four standard deviations above it."""

  def _features(self, split: str, count: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    frames, shares, labels = last_frames(split, count)
    if kind == "pixels":
      pictures = np.stack([cv2.resize(frame, (8, 8), interpolation=cv2.INTER_AREA) for frame in frames])
    elif kind == "objects":
      pictures = np.stack([cv2.resize(share, (8, 8), interpolation=cv2.INTER_AREA) for share in shares])
    else:
      statistics = (frames.mean((1, 2)), frames.std((1, 2)), shares.mean((1, 2))[:, None], shares.std((1, 2))[:, None])
      pictures = np.concatenate(statistics, axis=1)
    return pictures.reshape(len(labels), -1), labels

  @parameterized.product(kind=["pixels", "objects", "statistics"], classifier=["nearest_mean", "linear"])
  def test_tells_nothing(self, kind, classifier):
    features, labels = self._features("train", 25, kind)
    unseen, answers = self._features("test", 15, kind)
    spread = features.std(axis=0) + 1e-3
    features, unseen = ((values - features.mean(axis=0)) / spread for values in (features, unseen))
    targets = np.eye(len(_MOTIONS))[labels]
    if classifier == "nearest_mean":
      means = targets.T @ features / targets.sum(axis=0)[:, None]
      scores = -np.linalg.norm(unseen[:, None] - means, axis=-1)
    else:
      ridge = features.T @ features + 30 * np.eye(features.shape[1])
      scores = unseen @ np.linalg.solve(ridge, features.T @ targets)
    self.assertLess((scores.argmax(axis=1) == answers).mean(), 0.25)


class MotionTest(parameterized.TestCase):
  def test_flow_tells_the_class(self):
    wrong = []
    for label in _MOTIONS:
      for number in range(3):
        found = class_by_flow(*render(label, synthetic.clip_seed(0, "test", label, number), num_frames=30))
        if found != label:
          wrong.append((label, number, found))
    self.assertLessEqual(len(wrong), 1, wrong)  # of 24

  @parameterized.parameters(*_MOTIONS)
  def test_tvl1_sees_one_to_three_pixels_on_objects_and_less_on_the_ground(self, label):
    engine = cv2.optflow.DualTVL1OpticalFlow_create()
    of_objects, of_ground = [], []
    for seed in range(6):
      frames, shares = render(label, seed, num_frames=4, size=(64, 64))
      before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames[2:])
      speed = np.linalg.norm(engine.calc(before, after, None), axis=-1)
      of_objects.append(np.percentile(speed[shares[2] > _FOREGROUND], 75))
      of_ground.append(np.median(speed[shares[2] < 0.01]))
    self.assertBetween(np.mean(of_objects), 0.9, 3)
    self.assertBetween(np.mean(of_ground), 0.15, 0.6)


class LookTest(parameterized.TestCase):
  def _object(self, label: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The gray values of the largest whole object of a first frame, and its mask, about its centre."""
    frames, shares = render(label, seed, num_frames=1, size=(144, 192))
    mask = (shares[0] > _FOREGROUND).astype(np.uint8)
    _, objects, boxes, _ = cv2.connectedComponentsWithStats(mask)
    whole = [
        i for i, (left, top, width, height, _) in enumerate(boxes)
        if left > 0 and top > 0 and left + width < 192 and top + height < 144
    ]  # fmt: skip
    self.assertNotEmpty(whole)
    biggest = max(whole, key=lambda i: boxes[i][4])
    return cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY).astype(float), objects == biggest

  def _lobes(self, mask: np.ndarray) -> int:
    """How often the outline waves, by the moments of the object about its centre."""
    down, right = np.nonzero(mask)
    point = (right - right.mean()) + 1j * (down - down.mean())
    waves = [np.abs(np.mean(np.abs(point) ** 2 * np.exp(1j * lobes * np.angle(point)))) for lobes in range(2, 6)]
    return 2 + int(np.argmax(waves))

  def _coherence(self, gray: np.ndarray, mask: np.ndarray) -> float:
    """How alike in direction the edges inside the object are, 0 to 1: the structure tensor's."""
    inside = cv2.erode(mask.astype(np.uint8), np.ones((9, 9))) > 0
    down, right = (part[inside] for part in np.gradient(gray))
    return np.hypot((right**2 - down**2).mean(), 2 * (right * down).mean()) / (right**2 + down**2).mean()

  def test_one_frame_tells_the_look(self):
    patterns = collections.defaultdict(list)
    wrong = []
    for label in _LOOKS:
      pattern, outline = label.split("_")
      for seed in (1, 4, 5):
        gray, mask = self._object(label, seed)
        patterns[pattern].append(self._coherence(gray, mask))
        if self._lobes(mask) != {"peanut": 2, "star": 5}[outline]:
          wrong.append((label, seed))
    self.assertLessEqual(len(wrong), 1, wrong)  # of 24
    self.assertLen(patterns, 4)
    self.assertGreater(min(patterns.pop("striped")), max(map(max, patterns.values())))

  def test_looks_of_one_seed_move_alike_and_seeds_draw_the_motion(self):
    actions = set()
    for seed in range(40):
      scenes = [synthetic._draw_scene(np.random.default_rng(seed), 64, 64, look) for look in synthetic._LOOKS.values()]
      motions = {(scene.action, scene.motion, scene.pan, *(o.place for o in scene.objects)) for scene in scenes}
      self.assertLen(motions, 1)
      actions.add(scenes[0].action)
    self.assertEqual(actions, set(_MOTIONS))

  def test_the_motion_is_that_of_the_action(self):
    seed = 3
    action = synthetic._draw_scene(np.random.default_rng(seed), 64, 64, None).action
    self.assertEqual(class_by_flow(*render("striped_peanut", seed, num_frames=30)), action)


class DatasetTest(TemporaryFolderTest):
  def _write(self, folder: str = "a", **changed) -> list[pathlib.Path]:
    return synthetic.write_dataset(self.folder / folder, **{"clips_per_class": _FEW} | _SMALL | changed)

  def _contents(self, folder: str = "a") -> dict[str, bytes]:
    root = self.folder / folder
    return {os.fspath(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

  def test_layout(self):
    paths = self._write()
    expected = {
      f"{split}/{label}/{split}_{label}_000{number}.avi"
      for split, count in _FEW.items()
      for label in _MOTIONS
      for number in range(count)
    }
    self.assertEqual({os.fspath(path.relative_to(self.folder / "a")) for path in paths}, expected)
    self.assertEqual(set(self._contents()), expected | {synthetic.SETTINGS_FILE, ".lock"})
    self.assertLen({path.name for path in paths}, len(paths))
    self.assertEqual(decode.list_videos([self.folder / "a"]), sorted(paths))

  def test_files_decode_to_the_rendered_frames_and_no_two_are_equal(self):
    settings = {"num_frames": 12, "size": synthetic.SIZE}
    seen = set()
    for path in self._write(seed=4, clips_per_class={"train": 1, "val": 1}, **settings):
      split, label, number = path.stem.split("_")
      frames = synthetic.render_clip(label, seed=synthetic.clip_seed(4, split, label, int(number)), **settings)
      decoded = decode.read_video(path, fps=25, short_side=None)
      self.assertEqual(decoded.shape, frames.shape)
      errors_squared = np.square(decoded.astype(float) - frames).mean(axis=(1, 2, 3))
      self.assertGreater(10 * np.log10(255**2 / errors_squared.max()), 30, path.name)
      self.assertEqual(decode.probe(path).frame_rate, 25)
      seen.add(decoded[0].tobytes())
    self.assertLen(seen, 16)

  @parameterized.parameters(10, 30, 50)
  def test_other_frame_rates(self, fps):
    path = self._write(fps=fps, clips_per_class={"test": 1})[0]
    self.assertEqual(decode.probe(path).frame_rate, fps)
    self.assertLen(decode.read_video(path, fps=fps, short_side=None), 5)

  def test_same_seed_same_bytes_and_another_seed_others(self):
    self._write("a"), self._write("b"), self._write("c", seed=1)
    self.assertEqual(self._contents("a"), self._contents("b"))
    first, other = self._contents("a"), self._contents("c")
    self.assertEqual(first.keys(), other.keys())
    self.assertEqual(set(first.values()) & set(other.values()), {b""})  # the lock file

  def test_only_what_is_missing_or_damaged_is_written_again(self):
    paths = self._write()
    before = self._contents()
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:3000])
    paths[2].write_bytes(b"")
    paths[3].write_bytes(b"this is no video")
    paths[4].write_bytes(self._write("b", num_frames=9)[4].read_bytes())
    times = [path.stat().st_mtime_ns for path in paths[5:]]
    self.assertEqual(self._write(), paths)
    self.assertEqual(self._contents(), before)
    self.assertEqual([path.stat().st_mtime_ns for path in paths[5:]], times)

  def test_an_interrupted_call_is_finished_by_the_next(self):
    self._write("undisturbed")
    calls = 0

    def failing_replace(source, target):
      nonlocal calls
      calls += 1
      if calls % 6 == 0:
        raise KeyboardInterrupt
      rename(source, target)

    rename, interruptions = os.replace, 0
    with mock.patch.object(os, "replace", failing_replace):
      while True:
        try:
          self._write()
        except KeyboardInterrupt:
          interruptions += 1
        else:
          break
    self.assertEqual(interruptions, 4)
    self.assertEqual(self._contents(), self._contents("undisturbed"))

  @parameterized.parameters(
    (dict(seed=1), "seed was 0, is 1"),
    (dict(differ_in="appearance"), "differ_in was 'motion', is 'appearance'"),
    (dict(num_frames=6), "num_frames was 5, is 6"),
    (dict(size=(40, 44), fps=30), "height was 32, is 40; width was 40, is 44; fps was 25, is 30"),
    (dict(clips_per_class={"train": 2, "val": 1}), "val_clips was 0, is 1; test_clips was 1, is 0"),
  )
  def test_other_settings_are_refused(self, changed, sentence):
    self._write()
    before = self._contents()
    with self.assertRaisesRegex(
      errors.I3dError, f"^{self.folder}/a was made with other parameters \\({sentence}\\); choose "
    ):
      self._write(**changed)
    self.assertEqual(self._contents(), before)

  def test_looks(self):
    paths = self._write(differ_in="appearance", clips_per_class={"test": 1})
    self.assertEqual([path.parent.name for path in paths], list(_LOOKS))
    frames = synthetic.render_clip(_LOOKS[0], seed=synthetic.clip_seed(0, "test", _LOOKS[0], 0), **_SMALL)
    decoded = decode.read_video(paths[0], fps=25, short_side=None)
    self.assertLess(np.abs(decoded.astype(float) - frames).mean(), 6)

  @parameterized.parameters(b"", b"{", b"[1]", b"3", b"\xff")
  def test_damaged_settings_are_refused(self, content):
    self._write()
    (self.folder / "a" / synthetic.SETTINGS_FILE).write_bytes(content)
    with self.assertRaisesRegex(errors.I3dError, f"^{self.folder}/a/synthetic.json: it is damaged; put a copy back"):
      self._write()

  def test_settings_that_lack_some_are_refused(self):
    self._write()
    (self.folder / "a" / synthetic.SETTINGS_FILE).write_bytes(b'{"seed": 0}')
    with self.assertRaisesRegex(errors.I3dError, "other parameters .*differ_in was None, is 'motion'"):
      self._write()

  def test_a_folder_of_other_videos_is_refused(self):
    (self.folder / "a" / "test" / "jump").mkdir(parents=True)
    with self.assertRaisesRegex(errors.I3dError, f"^{self.folder}/a holds test, but no synthetic.json that says "):
      self._write()
    self.assertEmpty(self._contents())

  @parameterized.parameters(
    (dict(clips_per_class={"train": 1, "tset": 1}), "clips_per_class has the split 'tset'; the splits are train, "),
    (dict(clips_per_class={}), "clips_per_class is {}; counts must be"),
    (dict(clips_per_class={"train": 0}), "clips_per_class is {'train': 0}; counts must be at least 0"),
    (dict(clips_per_class={"train": 2, "val": -1}), "clips_per_class is {'train': 2, 'val': -1}; counts must be"),
    (dict(size=(8, 8)), r"size is \(8, 8\)"),
    (dict(differ_in="colour"), "differ_in is 'colour'; allowed are motion, appearance"),
    (dict(seed=-1), "seed is -1"),
  )
  def test_impossible_arguments_leave_nothing(self, changed, sentence):
    with self.assertRaisesRegex(errors.I3dError, f"^{sentence}"):
      self._write(**changed)
    self.assertFalse((self.folder / "a").exists())

  def test_impossible_folders(self):
    (self.folder / "file").touch()
    with self.assertRaisesRegex(errors.I3dError, f"^{self.folder}/file: this is a file, not a folder$"):
      self._write("file")
    with self.assertRaisesRegex(errors.I3dError, "^the output folder has an empty name$"):
      synthetic.write_dataset("")

  def test_an_encoder_that_fails_is_an_error_and_leaves_no_clip(self):
    with mock.patch.object(cv2.VideoWriter, "write", lambda *_: None):
      with self.assertRaisesRegex(OSError, "OpenCV could not write the clip"):
        self._write()
    self.assertEqual(set(self._contents()), {synthetic.SETTINGS_FILE, ".lock"})


class MainTest(TemporaryFolderTest):
  def _run(self, *words: str) -> testing.Finished:
    return testing.run_main("make_synthetic", f"--output={self.folder}/a", *words)

  def test_writes_resumes_in_silence_and_refuses_other_settings(self):
    flags = ["--num_frames=5", "--height=32", "--width=40", "--train_clips=1", "--test_clips=0"]
    said = f"{self.folder}/a: 8 clips of 8 classes; of each class 1 for train\n"
    done = self._run(*flags)
    self.assertEqual(tuple(done), (0, said, ""))
    clip = synthetic.clip_path(self.folder / "a", "train", "spin", 0)
    content = clip.read_bytes()
    clip.write_bytes(b"this is no video")
    done = self._run(*flags)
    self.assertEqual(tuple(done), (0, said, ""))
    self.assertEqual(clip.read_bytes(), content)
    done = self._run(*flags, "--seed=3")
    sentence = f"{self.folder}/a was made with other parameters (seed was 0, is 3); choose another folder or remove it"
    self.assertEqual(tuple(done), (1, "", f"make_synthetic: error: {sentence}\n"))

  @parameterized.parameters("--seed=-1", "--width=31", "--differ_in=colour", "--nonsense=1")
  def test_impossible_flags(self, word):
    with self.subTest(word):
      done = self._run(word)
      self.assertEqual((done.status, done.stdout), (1, ""))
      self.assertIn(word[2:].split("=")[0], done.stderr)
      self.assertFalse((self.folder / "a").exists())


if __name__ == "__main__":
  absltest.main()
