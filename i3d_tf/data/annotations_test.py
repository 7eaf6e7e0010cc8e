"""Tests of the lists of data sets: the official files row by row, and every way in which a line can be wrong."""

import csv
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf.data import clips
from i3d_tf.data import datasets

_NOWHERE = pathlib.Path("/nowhere")
_HEADER = "label,youtube_id,time_start,time_end,split"


def read_ucf101(number, root, given=None):
  return datasets._Ucf101().rows(f"ucf101:{number}", root, given)


def read_hmdb51(number, root, given=None):
  return datasets._Hmdb51().rows(f"hmdb51:{number}", root, given)


def read_kinetics(num_classes, root, given=None):
  return datasets._Kinetics().rows(f"kinetics{num_classes}", root, given)


def count(rows: list[clips.Row]) -> dict[str, int]:
  counts = {}
  for row in rows:
    counts[row.split] = counts.get(row.split, 0) + 1
  return counts


class AnnotationsTestCase(parameterized.TestCase):
  """A test with a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def write(self, name: str, content: str | bytes) -> pathlib.Path:
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class Ucf101Test(AnnotationsTestCase):
  @parameterized.parameters((1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696))
  def test_official_splits(self, number, train, test):
    rows = read_ucf101(number, _NOWHERE, testing.shared("formats/ucf101"))
    self.assertEqual(count(rows), {"train": train, "test": test})
    self.assertLen({row.id for row in rows}, 13320)
    self.assertEqual({row.label for row in rows}, set(resources.class_list("ucf101")))
    groups = {split: {row.id.rsplit("_", 1)[0] for row in rows if row.split == split} for split in ("train", "test")}
    self.assertLen(groups["train"] | groups["test"], 101 * 25)
    self.assertEmpty(groups["train"] & groups["test"])

  def test_first_and_last_rows_and_the_class_of_two_spellings(self):
    folder = testing.shared("formats/ucf101")
    rows = read_ucf101(1, _NOWHERE, folder)
    name = "v_ApplyEyeMakeup_g08_c01"
    where = f"{folder}/trainlist01.txt:1"
    self.assertEqual(rows[0], (where, "train", name, f"ApplyEyeMakeup/{name}.avi", "ApplyEyeMakeup", None, None))
    self.assertEqual(rows[-1].file, "YoYo/v_YoYo_g07_c04.avi")
    self.assertEqual(rows[-1].where, f"{folder}/testlist01.txt:3783")
    handstands = [row for row in rows if row.label == "HandstandPushups"]
    self.assertLen(handstands, 128)
    for row in handstands:
      self.assertRegex(row.file, r"^HandstandPushups/v_HandStandPushups_g\d\d_c\d\d\.avi$")

  def test_the_other_spelling_of_the_folder_is_the_same_class(self):
    self.write("trainlist01.txt", "HandStandPushups/v_HandStandPushups_g08_c01.avi 37\r\n")
    self.write("testlist01.txt", "Diving/v_Diving_g01_c01.avi 26\r\n\r\n")
    rows = read_ucf101(1, self.folder)
    self.assertEqual([row.label for row in rows], ["HandstandPushups", "Diving"])

  @parameterized.named_parameters(
    ("no_class", "v_Diving_g01_c01.avi", "'v_Diving_g01_c01.avi' is not of the form CLASS/NAME.avi"),
    ("cut_off", "Diving/v_Div", "'Diving/v_Div' is not of the form"),
    ("other_class", "Flying/v_Flying_g01_c01.avi 1", "the label 'Flying' is not among the 101 classes"),
    ("wrong_number", "Diving/v_Diving_g01_c01.avi 2", "Diving has the number 2; it is class 26"),
  )
  def test_a_wrong_line_is_named(self, line, sentence):
    self.write("testlist02.txt", "Diving/v_Diving_g01_c01.avi\r\n")
    file = self.write("trainlist02.txt", f"Diving/v_Diving_g01_c01.avi 26\r\n\r\n{line}\r\n")
    with self.assertRaisesRegex(errors.I3dError, f"^{file}:3: {sentence}"):
      read_ucf101(2, self.folder)

  def test_lists_are_found_in_the_videos_folder_and_beside_it(self):
    line = "Diving/v_Diving_g01_c01.avi 26\n"
    for place in ("ucfTrainTestlist", "UCF-101", "UCF-101/ucfTrainTestlist"):  # the last goes before the others
      self.write(f"{place}/trainlist01.txt", line)
      self.write(f"{place}/testlist01.txt", line)
      rows = read_ucf101(1, self.folder / "UCF-101")
      self.assertEqual(rows[0].where, f"{self.folder / place}/trainlist01.txt:1")

  def test_missing_and_unreadable_lists(self):
    with self.assertRaisesRegex(errors.I3dError, "^the official list trainlist03.txt is not in /a/ucfTrainTestlist or"):
      read_ucf101(3, pathlib.Path("/a"))
    with self.assertRaisesRegex(errors.I3dError, f"^the official list trainlist03.txt is not in {self.folder}$"):
      read_ucf101(3, pathlib.Path("/a"), self.folder)
    self.write("trainlist03.txt", "Diving/v_Diving_g01_c01.avi 26\n")
    with self.assertRaisesRegex(errors.I3dError, f"^{self.folder}/testlist03.txt: there is no such list$"):
      read_ucf101(3, self.folder)
    self.write("testlist03.txt", "\r\n")
    with self.assertRaisesRegex(errors.I3dError, f"^{self.folder}/testlist03.txt: the list is empty$"):
      read_ucf101(3, self.folder)
    self.write("testlist03.txt", b"Diving/v_Div\xe9.avi\n")
    with self.assertRaisesRegex(errors.I3dError, f"^{self.folder}/testlist03.txt: this is not text in UTF-8$"):
      read_ucf101(3, self.folder)


class Hmdb51Test(AnnotationsTestCase):
  @parameterized.parameters(1, 2, 3)
  def test_official_splits(self, number):
    rows = read_hmdb51(number, _NOWHERE, testing.shared("formats/hmdb51/testTrainMulti_7030_splits"))
    self.assertEqual(count(rows), {"train": 3570, "test": 1530})
    self.assertLen({row.id for row in rows}, 5100)
    for label in resources.class_list("hmdb51"):
      self.assertEqual(count([row for row in rows if row.label == label]), {"train": 70, "test": 30})

  def test_names_with_odd_characters_are_kept_and_trailing_blanks_are_not(self):
    rows = read_hmdb51(1, testing.shared("formats/hmdb51"))
    row = next(row for row in rows if row.label == "cartwheel")
    self.assertEqual(row.id, "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0")
    self.assertEqual(row.file, f"cartwheel/{row.id}.avi")
    self.assertEqual(row.split, "train")
    self.assertEndsWith(row.where, "/cartwheel_test_split1.txt:1")

  def test_an_unused_video_is_no_row(self):
    lists = testing.shared("formats/hmdb51/testTrainMulti_7030_splits")
    uses = dict(line.split() for line in (lists / "wave_test_split1.txt").read_text().splitlines())
    ids = {row.id for row in read_hmdb51(1, _NOWHERE, lists)}
    self.assertEqual({use for use in uses.values()}, {"0", "1", "2"})
    for name, use in uses.items():
      self.assertEqual(name.removesuffix(".avi") in ids, use != "0", name)

  @parameterized.parameters("a.avi 3 ", "a.avi", "a.avi 1 2", "wave/a.avi 1", "a.mp4 1")
  def test_a_wrong_line_is_named(self, line):
    for label in resources.class_list("hmdb51"):
      self.write(f"{label}_test_split2.txt", f"{label}_0.avi 1 \n{line if label == 'wave' else ''}\n")
    sentence = f"^{self.folder}/wave_test_split2.txt:2: '{line.strip()}' is not of the form NAME.avi 0|1|2$"
    with self.assertRaisesRegex(errors.I3dError, sentence.replace("|", r"\|")):
      read_hmdb51(2, self.folder)

  def test_the_list_of_one_class_is_missing(self):
    self.write("brush_hair_test_split1.txt", "a.avi 1\n")
    with self.assertRaisesRegex(errors.I3dError, f"^{self.folder}/cartwheel_test_split1.txt: there is no such list$"):
      read_hmdb51(1, self.folder)


class KineticsTest(AnnotationsTestCase):
  @parameterized.parameters((400, 200, 199), (600, 200, 199))
  def test_official_files(self, num_classes, num_val, num_test):
    files = {split: f"formats/kinetics/kinetics-{num_classes}_{split}.head200.csv" for split in ("val", "test")}
    val = read_kinetics(num_classes, _NOWHERE, testing.shared(files["val"]))
    self.assertEqual(count(val), {"val": num_val})
    with testing.shared(files["val"]).open(newline="") as file:
      for row, fields in zip(val, csv.DictReader(file), strict=True):
        self.assertEqual(row.label, fields["label"])
        self.assertEqual((row.start, row.end), (float(fields["time_start"]), float(fields["time_end"])))
        self.assertEqual(row.id[:11], fields["youtube_id"])
    test = read_kinetics(num_classes, _NOWHERE, testing.shared(files["test"]))
    self.assertEqual(count(test), {"test": num_test})
    self.assertEqual({row.label for row in test}, {None})

  def test_rows_of_the_official_files(self):
    val = testing.shared("formats/kinetics/kinetics-400_val.head200.csv")
    rows = {row.id: row for row in read_kinetics(400, _NOWHERE, val)}
    file = "air drumming/--nQbRBEz2s_000104_000114.mp4"
    row = rows["--nQbRBEz2s_000104_000114"]
    self.assertEqual(row[1:], ("val", "--nQbRBEz2s_000104_000114", file, "air drumming", 104.0, 114.0))
    self.assertRegex(row.where, rf"^{val}:\d+$")
    test = testing.shared("formats/kinetics/kinetics-400_test.head200.csv")
    where, *row = read_kinetics(400, _NOWHERE, test)[0]
    name = "--6bJUbfpnQ_000017_000027"
    self.assertEqual((where, row), (f"{test}:2", ["test", name, f"{name}.mp4", None, 17.0, 27.0]))

  def test_quotes_byte_order_marks_and_crlf(self):
    first = '"massaging person\'s head",abcdefghijk,0,10,validate'
    second = 'zumba,"abcdefghij-",9,11,train'
    file = self.write("a.csv", f"\ufeff{_HEADER}\r\n{first}\r\n{second}")
    rows = read_kinetics(700, _NOWHERE, file)
    self.assertEqual([row.label for row in rows], ["massaging person's head", "zumba"])
    self.assertEqual([row.split for row in rows], ["val", "train"])
    self.assertEqual([row.id for row in rows], ["abcdefghijk_000000_000010", "abcdefghij-_000009_000011"])

  @parameterized.named_parameters(
    ("label_with_comma", '"zumba, fast",abcdefghijk,0,10,train', "the label 'zumba, fast' is not among the 400 cl"),
    ("label_with_quotes", '"the ""zumba""",abcdefghijk,0,10,val', "the label 'the \"zumba\"' is not among"),
    ("no_label", ",abcdefghijk,0,10,train", "the label '' is not among"),
    ("label_of_700", "abseiling (indoors),abcdefghijk,0,10,val", "the label 'abseiling .indoors.' is not among"),
    ("spreadsheet", "zumba,#NAME?,0,10,train", "'#NAME.' is not a YouTube id of 11 characters"),
    ("too_few", "zumba,abcdefghijk,0,10", "there are 4 fields for 5 columns"),
    ("unquoted_comma", "zumba, fast,abcdefghijk,0,10,train", "there are 6 fields for 5 columns"),
    ("open_quote", '"zumba,abcdefghijk,0,10,train', ".* is not a line of CSV: "),
    ("no_time", "zumba,abcdefghijk,,10,train", "'' and '10' are not a start and a later end"),
    ("reversed", "zumba,abcdefghijk,10,0,train", "'10' and '0' are not a start and a later end"),
    ("equal", "zumba,abcdefghijk,10,10,train", "'10' and '10' are not a start and a later end"),
    ("fraction", "zumba,abcdefghijk,0.5,10,train", "'0.5' and '10' are not .* whole seconds"),
    ("split", "zumba,abcdefghijk,0,10,dev", "the split 'dev' is none of train, val, test"),
  )
  def test_a_wrong_line_is_named(self, line, sentence):
    file = self.write("a.csv", f"{_HEADER}\nzumba,abcdefghijk,1,11,train\n{line}\n")
    with self.assertRaisesRegex(errors.I3dError, f"^{file}:3: {sentence}"):
      read_kinetics(400, _NOWHERE, file)

  @parameterized.parameters(
      "lable,youtube_id,time_start,time_end,split", "zumba,abcdefghijk,0,10,train", "youtube_id,time_start,time_end",
      "label,label,youtube_id,time_start,time_end,split",
  )  # fmt: skip
  def test_wrong_columns(self, header):
    file = self.write("a.csv", f"{header}\n")
    with self.assertRaisesRegex(errors.I3dError, f"^{file}:1: the columns are {header}; they must be youtube_id,"):
      read_kinetics(400, _NOWHERE, file)

  def test_an_unlabelled_row_is_for_the_test_split_only(self):
    file = self.write("a.csv", f"{_HEADER}\n,abcdefghijk,0,10,test\n")
    self.assertIsNone(read_kinetics(400, _NOWHERE, file)[0].label)
    file = self.write("a.csv", "youtube_id,time_start,time_end,split\nabcdefghijk,0,10,train\n")
    with self.assertRaisesRegex(errors.I3dError, f"^{file}:2: the label '' is not among"):
      read_kinetics(400, _NOWHERE, file)

  def test_files_are_found_and_read_by_name(self):
    with self.assertRaisesRegex(errors.I3dError, f"no CSV file .* in {self.folder}/annotations or {self.folder}$"):
      read_kinetics(400, self.folder)
    for letter in "hdbgacfe":
      self.write(f"{letter}.csv", f"{_HEADER}\nzumba,abcdefghij{letter},0,10,val\n")
    self.assertEqual([row.id[10] for row in read_kinetics(400, self.folder)], list("abcdefgh"))
    self.write("annotations/test.csv", f"{_HEADER}\nzumba,abcdefghijm,0,10,test\n")
    self.assertEqual([row.split for row in read_kinetics(400, self.folder)], ["test"])
    self.assertEqual(count(read_kinetics(400, _NOWHERE, self.folder)), {"val": 8})
    with self.assertRaisesRegex(errors.I3dError, "^/nowhere/a.csv: there is no such list$"):
      read_kinetics(400, self.folder, "/nowhere/a.csv")


if __name__ == "__main__":
  absltest.main()
