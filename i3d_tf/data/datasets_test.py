"""Tests of datasets: which files are the listed clips, how folders are split, and what stops a wrong one.

Most trees are made of empty files: a list does not open the videos.
"""

import collections
import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf.data import clips as clips_lib
from i3d_tf.data import datasets
from i3d_tf.video import decode

_HEADER = "label,youtube_id,time_start,time_end,split\n"
_ZUMBA = "abcdefghijk_000007_000017"
_UCF_GROUPS = tuple(f"v_Diving_g{group:02}_c{clip:02}" for group in range(1, 26) for clip in range(1, 5))


def ids(clips: tuple[clips_lib.Clip, ...]) -> list[str]:
  return [clip.id for clip in clips]


class DatasetsTestCase(parameterized.TestCase):
  """A test with a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def touch(self, *names: str) -> None:
    for name in names:
      (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
      (self.folder / name).touch()

  def write_csv(self, *lines: str) -> pathlib.Path:
    (self.folder / "annotations.csv").write_text(_HEADER + "".join(f"{line}\n" for line in lines))
    return self.folder / "annotations.csv"

  def assert_refused(self, sentence: str, spec: str, **options) -> None:
    with self.assertRaisesRegex(errors.I3dError, sentence) as caught:
      datasets.load(spec, self.folder, **options)
    self.assertNotIn("\n", str(caught.exception))


class Ucf101Test(DatasetsTestCase):
  @parameterized.parameters((1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696))
  def test_real_clips_are_found_and_all_others_listed_as_missing(self, number, train, test):
    root = testing.shared("clips/ucf101")
    dataset = datasets.load(f"ucf101:{number}", root, annotations=testing.shared("formats/ucf101"))
    self.assertEqual(dataset.name, f"ucf101:{number}")
    self.assertEqual(dataset.classes, resources.class_list("ucf101"))
    self.assertEqual(list(dataset.splits), ["train", "test"])
    self.assertEqual(list(dataset.missing), ["train", "test"])
    for split, total in (("train", train), ("test", test)):
      self.assertLen(dataset.splits[split] + dataset.missing[split], total)
    found = {clip.path for clips in dataset.splits.values() for clip in clips}
    self.assertEqual(found, {str(path) for path in root.glob("*/*.avi")})
    self.assertLen(found, 13)

  def test_split_1_of_the_real_clips(self):
    root = testing.shared("clips/ucf101")
    dataset = datasets.load("ucf101:1", root, annotations=testing.shared("formats/ucf101"))
    path = root / "Diving" / "v_Diving_g16_c04.avi"
    self.assertEqual(dataset.splits["train"][0], clips_lib.Clip("v_Diving_g16_c04", str(path), None, None, "Diving"))
    self.assertEqual(
      [name for name in ids(dataset.splits["test"]) if "Diving" in name or "Javelin" in name],
      ["v_Diving_g02_c02", "v_Diving_g03_c07", "v_Diving_g04_c04", "v_JavelinThrow_g05_c05"],
    )
    first = dataset.missing["train"][0]
    self.assertEqual(first.path, str(root / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g08_c01.avi"))
    self.assertEqual(first.label, "ApplyEyeMakeup")

  @parameterized.parameters(
    "v_HandStandPushups_g13_c06.avi",
    "v_HandstandPushups_g13_c06.avi",
    "HandstandPushups/v_HandstandPushups_g13_c06.mp4",
    "UCF-101/HandStandPushups/v_HandStandPushups_g13_c06.AVI",
  )
  def test_flat_or_in_any_folder_and_in_either_spelling(self, name):
    self.touch(name)
    dataset = datasets.load("ucf101:2", self.folder, annotations=testing.shared("formats/ucf101"))
    clip = clips_lib.Clip("v_HandStandPushups_g13_c06", str(self.folder / name), label="HandstandPushups")
    self.assertEqual(dataset.splits, {"train": (), "test": (clip,)})

  def test_two_files_for_one_clip(self):
    self.touch("a/v_Diving_g01_c01.avi", "b/v_diving_g01_c01.mp4", "c/v_Nothing_g01_c01.avi", "d/v_Nothing_g01_c01.avi")
    self.assert_refused(
      f"^{self.folder}/a/v_Diving_g01_c01.avi and {self.folder}/b/v_diving_g01_c01.mp4 could both be the clip "
      "v_Diving_g01_c01; keep one of them$",
      "ucf101:1",
      annotations=testing.shared("formats/ucf101"),
    )

  def test_a_clip_listed_twice(self):
    self.touch("v_Diving_g01_c01.avi")
    for name in ("trainlist01.txt", "testlist01.txt"):
      (self.folder / name).write_text("Diving/v_Diving_g01_c01.avi\n")
    self.assert_refused("/testlist01.txt:1: the clip v_Diving_g01_c01 is also at .*/trainlist01.txt:1$", "ucf101:1")

  def test_no_listed_clip_is_there(self):
    annotations = testing.shared("formats/ucf101")
    self.assert_refused(f"^{self.folder}: the folder holds no video ", "ucf101:1", annotations=annotations)
    self.touch("a.avi")
    self.assert_refused("of the 13320 clips that ucf101:1 lists none is here$", "ucf101:1", annotations=annotations)


class Hmdb51Test(DatasetsTestCase):
  @parameterized.parameters(1, 2, 3)
  def test_real_clips(self, number):
    lists = testing.shared("formats/hmdb51/testTrainMulti_7030_splits")
    files = {path.name.removeprefix("hmdb51_"): path for path in testing.shared("clips/hmdb51").glob("*/*.avi")}
    self.assertLen(files, 2)
    for name, path in files.items():  # one has a prefix that its official name has not
      (self.folder / name).symlink_to(path)
    dataset = datasets.load(f"hmdb51:{number}", self.folder, annotations=lists)
    self.assertEqual(dataset.classes, resources.class_list("hmdb51"))
    for split, total, use in (("train", 3570, "1"), ("test", 1530, "2")):
      self.assertLen(dataset.splits[split] + dataset.missing[split], total)
      expected = []
      for label in ("cartwheel", "wave"):
        uses = dict(line.split() for line in (lists / f"{label}_test_split{number}.txt").read_text().splitlines())
        expected += [clips_lib.Clip(name[:-4], str(self.folder / name), label=label) for name in files
                     if uses.get(name) == use]  # fmt: skip
      self.assertEqual(dataset.splits[split], tuple(expected))

  def test_flat_and_order_of_the_lists(self):
    lists = testing.shared("formats/hmdb51/testTrainMulti_7030_splits")
    rows = [line.split() for line in (lists / "wave_test_split1.txt").read_text().splitlines()]
    train = [name for name, use in rows if use == "1"]
    self.touch(*reversed(train))
    dataset = datasets.load("hmdb51:1", self.folder, annotations=lists)
    self.assertEqual([f"{name}.avi" for name in ids(dataset.splits["train"])], train)
    self.assertEqual({clip.label for clip in dataset.splits["train"]}, {"wave"})


class KineticsTest(DatasetsTestCase):
  @parameterized.parameters(
    f"{_ZUMBA}.mp4", f"zumba/{_ZUMBA}.mkv", f"train/zumba/{_ZUMBA}.webm", f"replacement/{_ZUMBA}.avi"
  )
  def test_a_trimmed_file_is_used_whole(self, name):
    self.touch(name, "abcdefghijk.mp4", "abcdefghijk_000008_000018.mp4", f"{_ZUMBA}.txt", f"{_ZUMBA}.mp4.part")
    dataset = datasets.load("kinetics400", self.folder, annotations=self.write_csv("zumba,abcdefghijk,7,17,train"))
    clip = clips_lib.Clip(_ZUMBA, str(self.folder / name), None, None, "zumba")
    self.assertEqual(dataset.splits, {"train": (clip,)})
    self.assertEqual(dataset.missing, {"train": ()})
    self.assertEqual(dataset.classes, resources.class_names(400))

  def test_parts_of_a_whole_video(self):
    self.touch("abcdefghijk.webm")
    rows = ("zumba,abcdefghijk,7,17,train", "yoga,abcdefghijk,20,30,val")
    dataset = datasets.load("kinetics600", self.folder, annotations=self.write_csv(*rows))
    path = str(self.folder / "abcdefghijk.webm")
    self.assertEqual(dataset.splits["train"], (clips_lib.Clip(_ZUMBA, path, 7.0, 17.0, "zumba"),))
    yoga = clips_lib.Clip("abcdefghijk_000020_000030", path, 20.0, 30.0, "yoga")
    self.assertEqual(dataset.splits["val"], (yoga,))

  def test_missing_files_are_listed_with_their_times(self):
    self.touch("zumba/-bcdefghijk_000007_000017.mp4", "zumba/Abcdefghijk_000007_000017.mp4")
    rows = ("zumba,abcdefghijk,7,17,val", "yoga,_bcdefghijk,7,17,train", "zumba,-bcdefghijk,7,17,train")
    dataset = datasets.load("kinetics700", self.folder, annotations=self.write_csv(*rows))
    self.assertEqual(list(dataset.splits), ["train", "val"])
    self.assertEqual({split: ids(clips) for split, clips in dataset.splits.items()},
                     {"train": ["-bcdefghijk_000007_000017"], "val": []})  # fmt: skip
    missing = clips_lib.Clip(_ZUMBA, str(self.folder / "zumba" / f"{_ZUMBA}.mp4"), 7.0, 17.0, "zumba")
    self.assertEqual(dataset.missing["val"], (missing,))
    self.assertEqual(ids(dataset.missing["train"]), ["_bcdefghijk_000007_000017"])

  def test_official_rows_and_their_order(self):
    annotations = testing.shared("formats/kinetics/kinetics-400_val.head200.csv")
    names = [line.split(",")[1] for line in annotations.read_text().splitlines()[1:]]
    self.touch(*(f"{name}.mp4" for name in sorted(names)[::2]))
    dataset = datasets.load("kinetics400", self.folder, annotations=annotations)
    kept = set(sorted(names)[::2])
    self.assertEqual([name[:11] for name in ids(dataset.splits["val"])], [name for name in names if name in kept])
    self.assertLen(dataset.missing["val"], 100)

  def test_unlabelled_test_rows(self):
    annotations = testing.shared("formats/kinetics/kinetics-600_test.head200.csv")
    self.touch("LAcSOxdNrmI_000061_000071.mp4")
    dataset = datasets.load("kinetics600", self.folder, annotations=annotations)
    clip = clips_lib.Clip("LAcSOxdNrmI_000061_000071", str(self.folder / "LAcSOxdNrmI_000061_000071.mp4"))
    self.assertEqual(dataset.splits, {"test": (clip,)})
    self.assertLen(dataset.missing["test"], 198)

  def test_a_row_given_twice(self):
    self.touch(f"{_ZUMBA}.mp4")
    file = self.write_csv("zumba,abcdefghijk,7,17,train", "zumba,abcdefghijk,8,18,train", "yoga,abcdefghijk,7,17,val")
    self.assert_refused(f"^{file}:4: the clip {_ZUMBA} is also at {file}:2$", "kinetics400", annotations=file)

  def test_a_label_of_another_kinetics(self):
    self.touch(f"{_ZUMBA}.mp4")
    file = self.write_csv("acting in play,abcdefghijk,7,17,train")
    self.assertLen(datasets.load("kinetics600", self.folder, annotations=file).splits["train"], 1)
    self.assert_refused(f"^{file}:2: the label 'acting in play' is not among the 400 classes", "kinetics400",
                        annotations=file)  # fmt: skip


class FolderTest(DatasetsTestCase):
  def test_own_splits(self):
    self.touch("val/wave/c.mp4", "train/wave/b.avi", "train/wave/a.mkv", "train/jump/deep/d.mp4", "train/notes.txt")
    self.touch("train/wave/.hidden.mp4", "train/wave/._a.mkv", "train/.cache/e.mp4", "train/wave/f.txt")
    dataset = datasets.load("folder", self.folder)
    self.assertEqual(dataset.name, "folder")
    self.assertEqual(dataset.classes, ("jump", "wave"))
    self.assertEqual(list(dataset.splits), ["train", "val"])
    self.assertEqual(ids(dataset.splits["train"]), ["train/jump/deep/d", "train/wave/a", "train/wave/b"])
    clip = clips_lib.Clip("val/wave/c", str(self.folder / "val/wave/c.mp4"), label="wave")
    self.assertEqual(dataset.splits["val"], (clip,))
    self.assertEqual(dataset.splits["train"][0].label, "jump")
    self.assertEqual(dataset.missing, {"train": (), "val": ()})

  def test_the_hash_gives_the_fractions_and_depends_on_nothing_else(self):
    names = [f"class{i % 3}/clip{i}.mp4" for i in range(1000)]
    self.touch(*names)
    options = clips_lib.FolderSplit(train=0.5, val=0.3, test=0.2, seed=3)
    whole = datasets.load("folder", self.folder, folder_split=options)
    self.assertEqual(list(whole.splits), ["train", "val", "test"])
    for split, fraction in (("train", 0.5), ("val", 0.3), ("test", 0.2)):
      self.assertAlmostEqual(len(whole.splits[split]) / 1000, fraction, delta=0.05)
      self.assertEqual(ids(whole.splits[split]), sorted(ids(whole.splits[split])))
    self.assertLen({clip.id for clips in whole.splits.values() for clip in clips}, 1000)
    for name in names[1::2]:
      (self.folder / name).unlink()
    half = datasets.load("folder", self.folder, folder_split=options)
    for split, clips in half.splits.items():
      self.assertEqual(set(clips), {clip for clip in whole.splits[split] if int(clip.id.partition("clip")[2]) % 2 == 0})

  def test_known_places(self):
    """Fixed: a change would move clips of prepared data sets from training to test."""
    split = clips_lib.FolderSplit()
    places = [split.split_of(f"wave/{i}") for i in range(12)]
    expected = "train train test test val val test val train train val train"
    self.assertEqual(" ".join(places), expected)
    self.assertNotEqual([clips_lib.FolderSplit(seed=1).split_of(f"wave/{i}") for i in range(12)], places)

  def test_another_ending_keeps_the_split(self):
    self.touch(*(f"a/{i}.avi" for i in range(50)))
    before = datasets.load("folder", self.folder)
    for i in range(50):
      (self.folder / f"a/{i}.avi").rename(self.folder / f"a/{i}.mp4")
    after = datasets.load("folder", self.folder)
    self.assertEqual({split: ids(clips) for split, clips in after.splits.items()},
                     {split: ids(clips) for split, clips in before.splits.items()})  # fmt: skip

  def test_groups_stay_together(self):
    self.touch(*(f"Diving/{name}.avi" for name in _UCF_GROUPS))
    options = clips_lib.FolderSplit(train=0.6, val=0.2, test=0.2, group=r"v_.*_g\d+")
    dataset = datasets.load("folder", self.folder, folder_split=options)
    splits = collections.defaultdict(set)
    for split, clips in dataset.splits.items():
      for clip in clips:
        splits[clip.id.rsplit("_", 1)[0]].add(split)
    self.assertLen(splits, 25)
    self.assertEqual({len(of_group) for of_group in splits.values()}, {1})
    self.assertEqual(set().union(*splits.values()), {"train", "val", "test"})
    alone = datasets.load("folder", self.folder, folder_split=clips_lib.FolderSplit(train=0.5, val=0.5, test=0))
    groups = [{name.rsplit("_", 1)[0] for name in ids(alone.splits[split])} for split in ("train", "val")]
    self.assertNotEmpty(groups[0] & groups[1])
    self.touch("Diving/other.avi")
    self.assert_refused("^the group 'v_.*' is not found in the clip Diving/other$", "folder", folder_split=options)

  @parameterized.parameters(
      dict(train=1, val=0, test=0), dict(train=0, val=1, test=0), dict(train=0, val=0, test=1),
      dict(train=0.7, val=0.3, test=0), dict(train=0, val=0.1, test=0.9),
  )  # fmt: skip
  def test_a_fraction_of_nothing_gets_nothing(self, **fractions):
    split = clips_lib.FolderSplit(**fractions)
    used = {split.split_of(str(i)) for i in range(200)}
    self.assertEqual(used, {name for name, fraction in fractions.items() if fraction})

  @parameterized.parameters(
    dict(train=0.9), dict(train=1.1, val=-0.1, test=0), dict(train=float("nan")), dict(train=80, val=10, test=10)
  )
  def test_fractions_that_are_none(self, **fractions):
    with self.assertRaisesRegex(errors.I3dError, "the fractions of train, val and test are .* add up to 1$"):
      clips_lib.FolderSplit(**fractions)

  def test_a_group_that_is_no_expression(self):
    with self.assertRaisesRegex(errors.I3dError, r"the group '\(' is not a regular expression: "):
      clips_lib.FolderSplit(group="(")

  @parameterized.named_parameters(
    ("loose_video", ["wave/a.mp4", "b.mp4"], "/b.mp4: the video is not in the folder of a class, nor is there a .cls"),
    ("loose_in_split", ["train/wave/a.mp4", "train/b.mp4"], "/train/b.mp4: the video is not in the folder of a cl"),
    ("one_id_twice", ["wave/a.mp4", "wave/a.avi"], "/wave/a.mp4: the clip wave/a is also at .*/wave/a.avi$"),
    ("split_and_class", ["train/wave/a.mp4", "wave/a.avi"], "/wave: beside train this must be one of train, val, "),
    ("one_split_twice", ["val/wave/a.mp4", "Valid/wave/b.mp4"], "/val: there is another folder for the split val; "),
    ("empty_class", ["wave/a.mp4", "jump/notes.txt"], ": the class jump has no video; remove its folder or fill it$"),
    ("no_video", ["wave/a.txt"], ": the folder holds no video "),
    ("control_character", ["wave/a\nb.mp4"], r"wave/a\\nb.mp4': the name has a control character"),
    ("not_utf8", ["wave/a\udcff.mp4"], r"wave/a\\udcff.mp4': the name .* is not UTF-8"),
  )
  def test_wrong_folders(self, names, sentence):
    self.touch(*names)
    self.assert_refused(sentence, "folder")

  def test_spellings_of_splits(self):
    self.touch("Train/wave/a.mp4", "Train/jump/b.mp4", "validation/wave/c.mp4", "TESTING/jump/d.mp4")
    dataset = datasets.load("folder", self.folder)
    self.assertEqual(dataset.classes, ("jump", "wave"))
    self.assertEqual({split: ids(clips) for split, clips in dataset.splits.items()}, {
        "train": ["Train/jump/b", "Train/wave/a"], "val": ["validation/wave/c"], "test": ["TESTING/jump/d"],
    })  # fmt: skip

  def test_a_class_may_be_called_training(self):
    self.touch("training/a.mp4", "running/b.mp4")
    self.assertEqual(datasets.load("folder", self.folder).classes, ("running", "training"))

  def test_classes_that_a_split_lacks_are_named(self):
    self.touch("train/wave/a.mp4", "train/jump/b.mp4", "test/wave/c.mp4", "test/fall/d.mp4")
    with self.assertLogs("i3d_tf", "WARNING") as logged:
      datasets.load("folder", self.folder)
    self.assertEqual([record.getMessage() for record in logged.records], [
        f"{self.folder}: train has no video of 1 of the 3 classes (fall)",
        f"{self.folder}: test has no video of 1 of the 3 classes (jump)",
    ])  # fmt: skip

  def test_a_hash_that_leaves_classes_without_test_videos(self):
    self.touch(*(f"class{i:02}/a.mp4" for i in range(12)))
    with self.assertLogs("i3d_tf", "WARNING") as logged:
      datasets.load("folder", self.folder, folder_split=clips_lib.FolderSplit(0, 0, 1))
      datasets.load("folder", self.folder, folder_split=clips_lib.FolderSplit(1 - 1e-9, 0, 1e-9))
    names = ", ".join(f"class{i:02}" for i in range(10))
    (message,) = [record.getMessage() for record in logged.records]
    self.assertEqual(message, f"{self.folder}: test has no video of 12 of the 12 classes ({names}, ...)")

  def test_no_folder(self):
    with self.assertRaisesRegex(errors.I3dError, "^/nowhere: there is no such folder of videos$"):
      datasets.load("folder", "/nowhere")

  def test_links_are_followed_but_not_in_circles(self):
    self.touch("elsewhere/b.mp4", "data/wave/a.mp4")
    (self.folder / "data" / "jump").symlink_to(self.folder / "elsewhere")
    (self.folder / "elsewhere" / "back").symlink_to(self.folder / "data")
    (self.folder / "data" / "wave" / "gone.mp4").symlink_to(self.folder / "none.mp4")
    dataset = datasets.load("folder", self.folder / "data", folder_split=clips_lib.FolderSplit(1, 0, 0))
    self.assertEqual(ids(dataset.splits["train"]), ["jump/b", "wave/a"])

  def test_a_relative_folder(self):
    self.touch("wave/a.mp4")
    before = os.getcwd()
    self.addCleanup(os.chdir, before)
    os.chdir(self.folder)
    (clip,) = sum(datasets.load("folder", ".").splits.values(), ())
    self.assertEqual(clip, clips_lib.Clip("wave/a", "wave/a.mp4", label="wave"))


class LoadTest(DatasetsTestCase):
  def test_a_data_set_is_one_class(self):
    class Flat(datasets.Source):
      names = ("flat",)

      def load(self, spec, root, annotations, folder_split):
        rows = [clips_lib.Row(path, "train", path, path, "a") for path in clips_lib.find_videos(root)]
        return clips_lib.collect(spec, ("a",), rows, root, lambda clip: clip)

    self.addCleanup(lambda: datasets.Source.known.remove(added))
    added = datasets.Source.known[-1]
    self.assertIsInstance(added, Flat)
    self.touch("b.mp4")
    self.assertLen(datasets.load("flat", self.folder).splits["train"], 1)
    self.assertIn("flat", datasets.specs())
    self.assert_refused("there is no dataset 'deep'; there are ucf101:1|2|3, .*, flat$".replace("|", r"\|"), "deep")

  @parameterized.parameters(
      "ucf101", "ucf101:4", "ucf101:", "UCF101:1", "hmdb51:0", "kinetics500", "kinetics400:1", "folder:", "folder:x",
      "tfds", "tfds:", "",
  )  # fmt: skip
  def test_unknown_names(self, spec):
    self.assert_refused(f"^there is no dataset '{spec}'; there are ucf101:1.2.3, .*, folder, tfds:NAME", spec)

  def test_options_that_would_not_be_used(self):
    self.touch("train/wave/a.mp4")
    options = clips_lib.FolderSplit()
    self.assert_refused("^the dataset ucf101:1 has splits of its own; .* 'folder'$", "ucf101:1", folder_split=options)
    self.assert_refused("^the dataset tfds:a has splits of its own", "tfds:a", folder_split=options)
    self.assert_refused("^annotations are given, but the dataset folder has none$", "folder", annotations="a.csv")
    self.assert_refused("^annotations are given, but the dataset tfds:a has none$", "tfds:a", annotations="a.csv")
    self.assert_refused(f"^{self.folder} is split already, into train; ", "folder", folder_split=options)

  def test_tensorflow_is_not_imported(self):
    self.touch("wave/a.mp4")
    program = "import sys; from i3d_tf.data import datasets; datasets.load('folder', sys.argv[1]); print(*sys.modules)"
    root = pathlib.Path(datasets.__file__).parents[2]
    command = [sys.executable, "-c", program, os.fspath(self.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    modules = done.stdout.split()
    self.assertIn("i3d_tf.data.datasets", modules)
    self.assertNotIn("tensorflow", modules)
    self.assertNotIn("tensorflow_datasets", modules)


class IterFramesTest(DatasetsTestCase):
  def setUp(self):
    super().setUp()
    self.path = str(testing.shared("clips/ucf101/JavelinThrow/v_JavelinThrow_g21_c03.avi"))  # 60 frames at 25 a second

  def _frames(self, start: float | None, end: float | None, **options) -> np.ndarray:
    return np.stack(list(clips_lib.iter_frames(clips_lib.Clip("a", self.path, start, end), **options)))

  def test_a_whole_video(self):
    np.testing.assert_array_equal(self._frames(None, None), decode.read_video(self.path))

  @parameterized.parameters((0.4, 1.2, 10, 30), (None, 0.4, 0, 10), (2, None, 50, 60), (2, 100, 50, 60))
  def test_a_part(self, start, end, first, last):
    whole = decode.read_video(self.path, short_side=64)
    np.testing.assert_array_equal(self._frames(start, end, short_side=64), whole[first:last])

  def test_another_rate(self):
    whole = decode.read_video(self.path, 10, 64)
    np.testing.assert_array_equal(self._frames(0.5, 1.0, fps=10, short_side=64), whole[5:10])

  def test_a_part_after_the_end(self):
    with self.assertRaisesRegex(errors.VideoError, f"^{self.path}: the video has no frames from 3.0 to 13.0 seconds$"):
      self._frames(3.0, 13.0)

  def test_what_follows_the_end_is_not_read(self):
    content = testing.shared("clips/kinetics/flipping_a_pancake.mkv").read_bytes()
    self.path = str(self.folder / "a.mkv")
    pathlib.Path(self.path).write_bytes(content[: len(content) // 2])
    self.assertLen(self._frames(0.0, 2.0, short_side=64), 50)
    with self.assertRaisesRegex(errors.VideoError, "damaged or incomplete"):
      self._frames(0.0, 100.0, short_side=64)


if __name__ == "__main__":
  absltest.main()
