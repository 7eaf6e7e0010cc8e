"""Tables of experiments are checked when they are read, and rendered to the letter."""

import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf.evaluation import experiment_tables as tables

_GOOD = {
  "title": "Small things",
  "data": ["python -m i3d_tf.make_synthetic --output=DATA/videos"],
  "records": ["records"],
  "seeds": [0, 1],
  "evaluate": ["--split=test"],
  "rows": [{"name": "small", "rgb": "rgb.flags", "flow": "flow.flags"}],
}
_ROW = _GOOD["rows"][0]


def _evaluation(**top1: float) -> dict:
  results = {name.replace("_", "+"): {"videos": 40, "top1": value} for name, value in top1.items()}
  return {"machine": "Abacus, 2 cores", "tensorflow": "2.21.0", "date": "2026-11-21T14:00:00+00:00", "results": results}


class TablesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name, "toys")
    self.folder.mkdir()
    self.path = self.folder / "table.json"
    for stream in ("rgb", "flow"):
      (self.folder / f"{stream}.flags").write_text(f"# Head: line\n\n  --stream={stream}\n--num_steps=3\n")

  def _load(self, **changes) -> tables.Table:
    self.path.write_text(json.dumps({**_GOOD, **changes}))
    return tables.load(self.path)

  def test_everything_is_read(self):
    table = self._load(evaluate=["--split=val", "--flip"])
    self.assertEqual((table.title, table.data), ("Small things", tuple(_GOOD["data"])))
    self.assertEqual((table.records, table.seeds, table.evaluate), (("records",), (0, 1), ("--split=val", "--flip")))
    self.assertEqual(table.rows, (tables.Row(name="small", recipes={"rgb": "rgb.flags", "flow": "flow.flags"}),))
    self.assertEqual((table.label, table.results_path), ("experiments/toys/table.json", self.folder / "results.json"))

  @parameterized.parameters(
    (["records"], [0], [("records", 0, "seed0")]),
    (["records"], [3, 5], [("records", 3, "seed3"), ("records", 5, "seed5")]),
    (["split1", "split2"], [0], [("split1", 0, "split1"), ("split2", 0, "split2")]),
    (["a", "b"], [1, 2], [("a", 1, "a_seed1"), ("a", 2, "a_seed2"), ("b", 1, "b_seed1"), ("b", 2, "b_seed2")]),
  )
  def test_repeats_are_named_by_what_differs(self, records, seeds, expected):
    repeats = self._load(records=records, seeds=seeds).repeats()
    self.assertEqual(repeats, [tables.Repeat(*values) for values in expected])

  @parameterized.parameters(
    ({"sseds": [0]}, "unknown key 'sseds'; allowed are title, data, records, seeds, evaluate, flags, rows"),
    ({"seeds": []}, "seeds is []; it must be a list of int, and not empty"),
    ({"seeds": ["0"]}, "seeds is ['0']; it must be a list of int, and not empty"),
    ({"seeds": [True]}, "seeds is [True]; it must be a list of int, and not empty"),
    ({"seeds": 0}, "seeds is 0; it must be of type list"),
    ({"seeds": [1, 1]}, "seeds has the same twice: 1, 1"),
    ({"rows": [_ROW, _ROW]}, "rows has the same twice: small, small"),
    ({"rows": [{"name": "x"}]}, "row 'x' names no recipe; give some of rgb, flow, joint"),
    ({"rows": [{"rgb": "rgb.flags"}]}, "name is missing"),
    ({"rows": [{**_ROW, "rgb": "none.flags"}]}, "row 'small': there is no recipe none.flags beside the table"),
    ({"rows": [{**_ROW, "both": "x"}]}, "unknown key 'both'; allowed are name, rgb, flow, joint, flags, published"),
    ({"rows": [{**_ROW, "published": {"rgb": 1.5}}]}, "published and source belong together"),
    ({"rows": [{**_ROW, "published": {"both": 1}, "source": "x"}]}, "it holds numbers for rgb, flow, rgb+flow"),
    ({"rows": [{**_ROW, "published": {"rgb": "1"}, "source": "x"}]}, "it holds numbers for rgb, flow, rgb+flow"),
  )
  def test_bad_table_gets_one_sentence(self, changes, sentence):
    with self.assertRaises(errors.I3dError) as caught:
      self._load(**changes)
    self.assertStartsWith(str(caught.exception), f"{self.path}: ")
    self.assertIn(sentence, str(caught.exception))

  def test_missing_key_and_no_table_at_all(self):
    for text, sentence in (
        (json.dumps({"title": "x"}), "records is missing"), ("[1]", "this is no table of experiments"),
        ("{", "this is no JSON"),
    ):  # fmt: skip
      self.path.write_text(text)
      with self.assertRaisesRegex(errors.I3dError, sentence):
        tables.load(self.path)

  def test_flags_of_a_recipe_are_without_comments(self):
    self.assertEqual(tables.recipe_flags(self.folder / "rgb.flags"), ["--stream=rgb", "--num_steps=3"])

  def test_results_are_kept(self):
    results = tables.Results(self.folder / "results.json")
    results.put("small", "seed0", {"rgb": {"seconds": 1.5}})
    results.put("small", "seed1", {"rgb": {"seconds": 2.5}})
    results.get("small", "seed0")["flow"] = {}  # a copy
    again = tables.Results(self.folder / "results.json")
    self.assertEqual(again.get("small", "seed0"), {"rgb": {"seconds": 1.5}})
    self.assertEqual(again.get("small", "seed1"), {"rgb": {"seconds": 2.5}})
    self.assertEqual(again.get("small", "seed2"), {})

  def test_page_has_runs_means_and_published_figures(self):
    row = {**_ROW, "published": {"rgb": 95.6, "rgb+flow": 98}, "source": "Table 5"}
    table = self._load(rows=[row, {"name": "never", "flow": "flow.flags"}])
    results = tables.Results(table.results_path)
    timed = lambda seconds: {"command": "train", "recipe": [], "seconds": seconds}
    first = {"rgb": timed(61.4), "flow": timed(None), "evaluation": _evaluation(rgb=0.8, flow=0.975, rgb_flow=1.0)}
    second = {"rgb": timed(59.6), "flow": timed(70.0), "evaluation": _evaluation(rgb=0.9, flow=0.95, rgb_flow=0.975)}
    results.put("small", "seed0", first)
    results.put("small", "seed1", second)
    results.put("never", "seed0", {"flow": timed(3.0)})  # trained, not evaluated
    expected = """## Small things

Top-1 accuracy on the videos of the evaluated split, Abacus, 2 cores, TensorFlow 2.21.0, 2026-11-21.

```text
python -m i3d_tf.make_synthetic --output=DATA/videos
python -m i3d_tf.experiments --table=experiments/toys/table.json --data=DATA --output=RUNS
```

| recipe | run | RGB | Flow | RGB+Flow | seconds of training |
|---|---|---|---|---|---|
| small | seed0 | 80.00 % (32 of 40) | 97.50 % (39 of 40) | 100.00 % (40 of 40) | 61 + – |
| small | seed1 | 90.00 % (36 of 40) | 95.00 % (38 of 40) | 97.50 % (39 of 40) | 60 + 70 |
| small | mean of 2 | 85.00 % | 96.25 % | 98.75 % | – |
| small | published: Table 5 | 95.6 % | – | 98.0 % | – |
"""
    self.assertEqual(tables.render(table, results), expected)

  def test_mean_of_some_says_so(self):
    table = self._load()
    results = tables.Results(table.results_path)
    results.put("small", "seed1", {"rgb": {"seconds": 1.0}, "evaluation": _evaluation(rgb=0.5)})
    self.assertIn("| small | mean of 1 of 2 | 50.00 % | – | – | – |\n", tables.render(table, results))

  def test_nothing_run_is_said(self):
    table = self._load()
    self.assertEqual(tables.render(table, tables.Results(table.results_path)), "## Small things\n\nNot run.\n")

  def test_section_takes_its_place_in_the_page_and_leaves_the_rest(self):
    table = self._load()
    page = self.folder / "PAGE.md"
    page.write_text("# By hand\n\nbefore\n")
    tables.insert(page, table, "one\n")
    begin, end = (
      f"<!-- experiments/toys/table.json: {word}, written by python -m i3d_tf.experiments -->"
      for word in ("begin", "end")
    )
    self.assertEqual(page.read_text(), f"# By hand\n\nbefore\n\n{begin}\none\n{end}\n")
    page.write_text(page.read_text() + "\nafter\n")
    tables.insert(page, table, "two\n")
    self.assertEqual(page.read_text(), f"# By hand\n\nbefore\n\n{begin}\ntwo\n{end}\n\nafter\n")

  def test_broken_markers_are_refused(self):
    table = self._load()
    page = self.folder / "PAGE.md"
    page.write_text("")
    tables.insert(page, table, "one\n")
    begin, end = page.read_text().strip().split("\none\n")
    for text in (begin, end, f"{end}\n{begin}", f"{begin}\n{begin}\n{end}"):
      page.write_text(text)
      with self.assertRaisesRegex(errors.I3dError, "marker comments of experiments/toys/table.json are not one pair"):
        tables.insert(page, table, "two\n")
      self.assertEqual(page.read_text(), text)


if __name__ == "__main__":
  absltest.main()
