"""The output folder: what is kept, what is not done again, and what is refused."""

import hashlib
import json
import os
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
    self.folder.put({"input": name, "id": name, "outputs": outputs} | more)

  def _manifest(self):
    return [json.loads(line) for line in self.folder.manifest.read_text().splitlines()]

  def test_the_manifest_has_every_input_once_in_the_order_of_their_names(self):
    for name in ("b", "c"):
      self._put(name)
    self.folder.finish()
    self._put("a")
    self.folder.put({"input": "b", "id": "b", "error": "later"})
    self.assertEqual([entry["input"] for entry in self._manifest()], ["b", "c"])
    self.assertEqual(self.folder.entries()[results.key("b")]["error"], "later")  # before it is in the manifest
    self.folder.finish()
    self.assertEqual([entry["input"] for entry in self._manifest()], ["a", "b", "c"])
    self.assertEqual(self._manifest()[1], {"input": "b", "id": "b", "error": "later"})
    self.assertEmpty(list(self.folder.work.glob("*.json")))
    before = self.folder.manifest.stat().st_mtime_ns
    self.folder.finish()
    self.assertEqual(self.folder.manifest.stat().st_mtime_ns, before)

  def test_checksums_are_those_of_the_files(self):
    self._put("a")
    (output,) = self.folder.entries()[results.key("a")]["outputs"]
    path = self.folder.path / "a.npy"
    content = path.read_bytes()
    facts = {"bytes": len(content), "changed": path.stat().st_mtime_ns, "sha256": hashlib.sha256(content).hexdigest()}
    self.assertEqual(output, {"path": "a.npy", "shape": [3], **facts})

  def test_what_is_done(self):
    self._put("a")
    self.folder.put({"input": "b", "id": "b", "error": "bad"})
    done = {entry["input"]: entry for entry in self.folder.entries().values()}
    content = results.FileContent("nowhere")
    self.assertTrue(self.folder.is_done(done["a"], content, retry_failures=True))
    self.assertTrue(self.folder.is_done(done["b"], content))
    self.assertFalse(self.folder.is_done(done["b"], content, retry_failures=True))
    self.assertFalse(self.folder.is_done(done.get("c"), content))
    (self.folder.path / "a.npy").unlink()
    self.assertFalse(self.folder.is_done(done["a"], content))

  def test_outputs_that_are_cut_or_changed_are_not_done(self):
    path = self.folder.path / "a.npy"
    for change, is_done in (
      (lambda content: content, True),
      (lambda content: content[:-8], False),
      (lambda content: content[:-1] + b"\1", False),
    ):
      self._put("a")
      (entry,) = self.folder.entries().values()
      path.write_bytes(change(path.read_bytes()))
      os.utime(path, ns=(1, 1))  # as a copy without times
      self.assertEqual(self.folder.is_done(entry, results.FileContent("nowhere")), is_done)
      del entry["outputs"][0]["bytes"], entry["outputs"][0]["changed"]  # as of earlier versions
      self.assertEqual(self.folder.is_done(entry, results.FileContent("nowhere")), is_done)

  def test_inputs_that_were_replaced_are_not_done(self):
    video = self.folder.path / "v.mp4"
    now = results.FileContent(video)
    for content in (b"one", b"two", b"longer"):
      video.write_bytes(content)
      self._put("v", content=now.facts())
      (entry,) = self.folder.entries().values()
      os.utime(video, ns=(1, 1))
      self.assertTrue(self.folder.is_done(entry, now))
      video.write_bytes(b"TWO")
      self.assertFalse(self.folder.is_done(entry, now))
      self.assertFalse(self.folder.is_done({"input": "v", "error": "bad", "content": entry["content"]}, now))
    missing = {"input": "w", "error": "there is no such file", "content": results.FileContent("nowhere").facts()}
    self.assertTrue(self.folder.is_done(missing, results.FileContent("nowhere")))
    self.assertFalse(self.folder.is_done(missing, now))

  def test_all_spellings_of_a_path_are_one_input(self):
    (self.folder.path / "link").symlink_to(self.folder.path)
    names = [os.fspath(self.folder.path / way / "v.mp4") for way in ("", "link", "link/../out/.")]
    names.append(os.path.relpath(names[0]))
    for name in names:
      self._put("v", input=name)
    self.assertLen(self.folder.entries(), 1)
    self.folder.finish()
    self.assertLen(self._manifest(), 1)

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
