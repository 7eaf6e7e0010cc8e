"""The output folder: what is kept, what is not done again, and what is refused."""

import hashlib
import json
import pathlib
import tempfile

from absl.testing import absltest
import numpy as np

from i3d_tf import errors
from i3d_tf.features import results


class FolderTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = results.Folder(pathlib.Path(folder.name) / "out")
    self._claim({"window": 64, "streams": ("rgb",)})

  def _claim(self, parameters, **about):
    with self.folder.claim(parameters, about=about):
      pass

  def _put(self, name, **more):
    outputs = self.folder.write({f"{name}.npy": np.arange(3)})
    self.folder.put({"input": name, "id": name, "outputs": outputs, **more})

  def _manifest(self):
    return [json.loads(line) for line in self.folder.manifest.read_text().splitlines()]

  def test_the_manifest_has_every_input_once_in_the_order_of_their_names(self):
    for name in ("b", "c"):
      self._put(name)
    self.folder.finish()
    self._put("a")
    self.folder.put({"input": "b", "id": "b", "error": "later"})
    self.assertEqual([entry["input"] for entry in self._manifest()], ["b", "c"])
    self.assertEqual(self.folder.entries()["b"]["error"], "later")  # before it is in the manifest
    self.folder.finish()
    self.assertEqual([entry["input"] for entry in self._manifest()], ["a", "b", "c"])
    self.assertEqual(self._manifest()[1], {"input": "b", "id": "b", "error": "later"})
    self.assertEmpty(list(self.folder.work.glob("*.json")))
    before = self.folder.manifest.stat().st_mtime_ns
    self.folder.finish()
    self.assertEqual(self.folder.manifest.stat().st_mtime_ns, before)

  def test_checksums_are_those_of_the_files(self):
    self._put("a")
    (output,) = self.folder.entries()["a"]["outputs"]
    content = (self.folder.path / "a.npy").read_bytes()
    self.assertEqual(output, {"path": "a.npy", "shape": [3], "sha256": hashlib.sha256(content).hexdigest()})

  def test_what_is_done(self):
    self._put("a")
    self.folder.put({"input": "b", "id": "b", "error": "bad"})
    done = self.folder.entries()
    self.assertTrue(self.folder.is_done(done["a"], retry_failures=True))
    self.assertTrue(self.folder.is_done(done["b"]))
    self.assertFalse(self.folder.is_done(done["b"], retry_failures=True))
    self.assertFalse(self.folder.is_done(done.get("c")))
    (self.folder.path / "a.npy").unlink()
    self.assertFalse(self.folder.is_done(done["a"]))

  def test_other_parameters_are_refused(self):
    self._claim({"window": 64, "streams": ("rgb",)}, date="tomorrow")
    with self.assertRaisesRegex(errors.I3dError, r"made with other parameters \(window was 64, is 16; hop was None"):
      self._claim({"window": 16, "streams": ["rgb"], "hop": 4})

  def test_folders_that_are_not_ours_are_refused(self):
    (self.folder.path / results.INFO).write_text("[]")
    with self.assertRaisesRegex(errors.I3dError, "extraction.json: it is damaged; put a copy back"):
      self._claim({})
    (self.folder.path / results.INFO).unlink()
    self.folder.manifest.write_text('{"input": "a"}\n{}\n')
    with self.assertRaisesRegex(errors.I3dError, "holds manifest.jsonl, but no extraction.json"):
      self._claim({})
    with self.assertRaisesRegex(errors.I3dError, "manifest.jsonl: line 2 is not what extract_features writes"):
      self.folder.entries()


if __name__ == "__main__":
  absltest.main()
