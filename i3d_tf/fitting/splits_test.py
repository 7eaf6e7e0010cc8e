"""Groups, folds, and that no class is missing without a word."""

import collections
import random

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf.fitting import splits


class GroupTest(parameterized.TestCase):
  @parameterized.parameters(
    (["Run/v_Run_g01_c01", "Run/v_Run_g01_c02", "Fall/v_Fall_g01_c01"], ["v_run_g01", "v_run_g01", "v_fall_g01"]),
    (["a/set1_000_seq01", "b/set1_009_seq01", "a/set1_005_seq02"], ["seq01", "seq01", "seq02"]),
    (["x/person03_walk_d1", "x/person03_run_d2", "x/person12_walk_d1"], ["person03", "person03", "person12"]),
    (["a/abcdefghijk_000001_000011", "a/abcdefghijk_000020_000030", "b/bbcdefghijk_000001_000011"],
     ["abcdefghijk", "abcdefghijk", "bbcdefghijk"]),
    (["w/Film_wave_f_nm_np1_fr_med_26", "w/Film_wave_f_nm_np1_fr_med_27", "w/Other_run_u_cm_np1_ba_goo_1"],
     ["film", "film", "other"]),
    (["a/S001C001P003R001A001", "b/S001C001P003R001A002", "a/S001C001P004R001A001"], ["p003", "p003", "p004"]),
  )  # fmt: skip
  def test_guess(self, ids, wanted):
    found = splits.group(ids, None)
    self.assertEqual(list(found.groups), wanted)
    self.assertTrue(found.is_given)
    self.assertIn("guessed from the names", found.note)

  @parameterized.parameters(None, "none")
  def test_every_clip_by_itself(self, pattern):
    ids = ["a/one", "a/two", "b/holiday_seqel"]
    found = splits.group(ids, pattern)
    self.assertEqual((list(found.groups), found.is_given), (ids, False))

  def test_expression(self):
    found = splits.group(["a/x1_t1", "b/x1_t2", "a/x2_t1"], r"/(x\d)_")
    self.assertEqual(found.groups, ("x1", "x1", "x2"))
    with self.assertRaisesRegex(errors.I3dError, "is not found in the clip a/y"):
      splits.group(["a/x1", "a/y"], r"x\d")
    with self.assertRaisesRegex(errors.I3dError, "which is no regular expression"):
      splits.group(["a/x1"], "(")

  def test_blocks(self):
    ids = ["a/x1.5_7", "b/y2", "a/x3", "b/y10", "a/x11v"]
    self.assertEqual(splits.blocks(ids, 2).groups, ("from 7", "from 2", "from 2", "from 7", "from 11"))
    with self.assertRaisesRegex(errors.I3dError, "a/x has no number in its name"):
      splits.blocks(["a/x"], 2)

  def test_join(self):
    grouping = splits.group(["a", "b", "c", "d", "e"], "none")
    self.assertEqual(splits.join(grouping, [(3, 1), (1, 4)]).groups, ("a", "b", "c", "b", "b"))
    self.assertIs(splits.join(grouping, []), grouping)


class PlanTest(parameterized.TestCase):
  def test_leave_one_group_out(self):
    plan = splits.plan([0, 1, 0, 1, 0], ["a", "b"], ["s1", "s1", "s2", "s2", "s3"], protocol="leave_one_group_out")
    self.assertEqual([(fold.name, fold.test) for fold in plan.folds], [("s1", (0, 1)), ("s2", (2, 3)), ("s3", (4,))])
    self.assertEqual(plan.folds[2].train, (0, 1, 2, 3))
    self.assertEqual(plan.warnings, ("b: no clip to test in s3, whose accuracy says nothing of it",))

  def test_stratified(self):
    labels = [0] * 50 + [1] * 20 + [2] * 5
    plan = splits.plan(labels, ["a", "b", "c"], [str(index) for index in range(75)])
    for fold in plan.folds:
      self.assertEqual(collections.Counter(labels[index] for index in fold.test), {0: 10, 1: 4, 2: 1})
    self.assertEqual(plan.warnings, ())

  def test_folders(self):
    given = ["train", "train", "val", "test", "test"]
    plan = splits.plan([0, 1, 0, 0, 1], ["a", "b"], list("vwxyz"), given=given)
    self.assertEqual((plan.protocol, plan.folds), ("folders", (splits.Fold("test", (0, 1, 2), (3, 4)),)))
    without = splits.plan([0, 1, 0, 0, 0], ["a", "b"], list("vwxyz"), given=["train", "train", "val", "val", "val"])
    self.assertEqual(without.warnings, ("b: no clip to test in the split (val), whose accuracy says nothing of it",))
    with self.assertRaisesRegex(errors.I3dError, "all clips are in the folder of the split train"):
      splits.plan([0, 1], ["a", "b"], ["x", "y"], given=["train", "train"])
    with self.assertRaisesRegex(errors.I3dError, "the clips are split already"):
      splits.plan([0, 1], ["a", "b"], ["x", "y"], given=["train", "test"], protocol="k_fold")

  def test_refused(self):
    with self.assertRaisesRegex(errors.I3dError, "a classifier needs at least two"):
      splits.plan([1, 1], ["a", "b"], ["x", "y"])
    with self.assertRaisesRegex(errors.I3dError, "all clips are of one group"):
      splits.plan([0, 1], ["a", "b"], ["x", "x"])

  def test_class_of_one_group_is_named(self):
    plan = splits.plan([0, 0, 0, 1, 1], ["many", "few"], ["g1", "g2", "g3", "g4", "g4"], num_folds=4)
    self.assertTrue(any(text.startswith("few: no clip to train on in") for text in plan.warnings), plan.warnings)

  @parameterized.parameters(range(4))
  def test_no_class_is_missing_silently(self, seed):
    rng = random.Random(seed)
    for num_classes in range(2, 21):
      counts = [rng.randint(2, 30) for _ in range(num_classes)]
      labels = [label for label, count in enumerate(counts) for _ in range(count)]
      classes = [f"class {label}" for label in range(num_classes)]
      kind = rng.choice(("alone", "of a class", "shared", "few"))
      number = {"alone": len(labels), "of a class": 4, "shared": 12, "few": 3}[kind]
      groups = [
        f"{label}/{rng.randrange(number)}"
        if kind == "of a class"
        else str(index if kind == "alone" else rng.randrange(number))
        for index, label in enumerate(labels)
      ]
      if len(set(groups)) < 2:
        continue
      for protocol, num_folds in (("k_fold", 2), ("k_fold", 5), ("holdout", 5), ("leave_one_group_out", 5)):
        plan = splits.plan(labels, classes, groups, protocol=protocol, num_folds=num_folds, seed=seed)
        self._check(plan, labels, classes, groups)

  def _check(self, plan, labels, classes, groups):
    everything = set(range(len(labels)))
    tested = [index for fold in plan.folds for index in fold.test]
    self.assertLen(tested, len(set(tested)))
    if plan.protocol != "holdout":
      self.assertEqual(set(tested), everything)
    named = collections.defaultdict(set)
    for text in plan.warnings:
      name, _, rest = text.partition(": no clip to ")
      named[rest.split()[0]].add(name)
    lacking = collections.defaultdict(set)
    for fold in plan.folds:
      self.assertTrue(fold.test and fold.train)
      self.assertEqual({*fold.train, *fold.test}, everything)
      self.assertFalse({groups[index] for index in fold.train} & {groups[index] for index in fold.test})
      for side, indices in (("train", fold.train), ("test", fold.test)):
        lacking[side] |= {classes[label] for label in set(labels) - {labels[index] for index in indices}}
    self.assertEqual((named["train"], named["test"]), (lacking["train"], lacking["test"]))


if __name__ == "__main__":
  absltest.main()
