"""The acceptance kit: with nothing it says what to get, and with stand-ins of a server each check can pass and fail."""

import contextlib
import dataclasses
import functools
import http.server
import json
import os
import pathlib
import re
import tempfile
import threading
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import resources
from i3d_tf import testing
from i3d_tf import verify
from i3d_tf.flow import codec
from i3d_tf.weights import hub
from i3d_tf.weights import manifest
from i3d_tf.weights import release
from i3d_tf.weights import saved
from i3d_tf.weights import scan
from i3d_tf.weights import sources
from i3d_tf.weights import tensorflow1

_WIDTH = 0.05
_WIDTH_OF_FEATURES = 50  # of a network of this width


class _Handler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *_):
    pass


def _clip(channels):
  return np.random.default_rng(channels).uniform(-1, 1, [1, 9, 224, 224, channels]).astype(np.float32)


class VerifyTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.served = cls.root / "served"
    cls.served.mkdir()
    (cls.root / "checkpoints").mkdir()
    for name in ("rgb_imagenet", "rgb_scratch", "flow_scratch", "rgb_scratch_kin600"):
      cls._serve_checkpoint(name, manifest.load(name).stream, manifest.load(name).num_classes)
    for stream, channels in (("rgb", 3), ("flow", 2)):
      np.save(cls.served / scan.CRICKET[stream][0], _clip(channels))
      np.save(
        cls.served / f"women_long_jump_{stream}.npy",
        np.random.default_rng(0).random((1, _WIDTH_OF_FEATURES), np.float32),
      )
    testing.write_moving_video(cls.served / "v.avi", seed=1, num_frames=20)
    (cls.served / "v.avi").rename(cls.served / "women_long_jump.mp4")
    cls._serve_flow()
    for name in verify.FILES:
      if name.endswith((".pth", ".pyth")):
        (cls.served / name).write_bytes(b"no weights")
    handler = functools.partial(_Handler, directory=os.fspath(cls.served))
    server = cls.enterClassContext(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    cls.addClassCleanup(server.shutdown)
    cls.url = f"http://127.0.0.1:{server.server_port}"

  @classmethod
  def _serve_checkpoint(cls, name, stream, num_classes):
    """A narrow network of the release's layout, and its manifest."""
    info = saved.make_info(stream=stream.removesuffix("600"), num_classes=num_classes, width_multiplier=_WIDTH)
    network = saved.make_model(info)
    network.build(info.channels[info.stream])
    prefix = tensorflow1.LAYOUTS[stream].prefix
    shapes = {own: variable.shape.as_list() for own, variable in release.named_variables(network).items()}
    arrays = {f"{prefix}{own}": testing.golden_values(name + own, shape) for own, shape in shapes.items()}
    tensorflow1.write(cls.served / name / "model.ckpt", arrays)
    data = cls.served / name / hub.DATA
    fields = {"name": name, "stream": stream, "num_classes": num_classes, "trained_on": "nothing"}
    fields |= {"data_bytes": data.stat().st_size, "data_git_blob": scan.git_blob(data)}
    fields["tensors"] = {each: (array.shape, manifest.masked_crc32c(array)) for each, array in arrays.items()}
    (cls.root / "checkpoints" / f"{name}.json").write_text(json.dumps(fields))

  @classmethod
  def _serve_flow(cls):
    import cv2

    y, x = np.mgrid[:48, :64]
    for name, shift in (("RubberWhale1.png", 0), ("RubberWhale2.png", 1)):
      image = 127 + 60 * np.sin(0.4 * (x - shift) + 0.2 * y) + 60 * np.sin(0.3 * y)
      cv2.imwrite(os.fspath(cls.served / name), image.astype(np.uint8))
    codec.write_flo(cls.served / "tvl1_flow.flo", np.zeros([48, 64, 2], np.float32))

  def setUp(self):
    super().setUp()
    self.cache = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "cache"
    self.enter_context(mock.patch.dict(os.environ, {"I3D_CACHE": os.fspath(self.cache), "no_proxy": "*"}))
    self.true_checks = list(verify.checks())

  @contextlib.contextmanager
  def _stand_ins(self):
    """Has the files of the server be the published ones."""
    blobs = {name: (url, blob and scan.git_blob(self.served / name)) for name, (url, blob) in verify.FILES.items()}
    narrow = lambda *args: dataclasses.replace(describe(*args), width_multiplier=_WIDTH)
    describe, path = saved._describe, resources.path
    in_root = lambda folder, name="": self.root / folder / name if folder == "checkpoints" else path(folder, name)
    with (
      mock.patch.object(verify, "FILES", blobs),
      mock.patch.object(saved, "_describe", narrow),
      mock.patch.object(resources, "path", in_root),
      mock.patch.object(sources, "download_package", side_effect=errors.DownloadError("closed")),
    ):
      manifest.load.cache_clear()
      yield
    manifest.load.cache_clear()

  def _lines(self, *words, checks=None, status=None):
    table = self.true_checks if checks is None else checks
    with mock.patch.object(verify, "checks", lambda: iter(table)):
      done = testing.run_main("verify", *words)
    lines = done.stdout.splitlines()
    self.assertLen(lines, len(table) + 1, done.stderr)
    if status is not None:
      self.assertEqual(done.status, status, done.stdout)
    return lines

  def test_nothing_is_there(self):
    lines = self._lines(status=1)
    for check, line in zip(self.true_checks, lines):
      self.assertStartsWith(line, f"missing  {check.what} | {check.source} | expected: {check.expected.text} | get: ")
      for name in check.checkpoints:
        self.assertIn(f"python -m i3d_tf.download {name}", line)
      for name in check.files:
        self.assertRegex(line, rf"--folder with https://\S+/{re.escape(name)}")
      self.assertTrue(check.checkpoints or check.files)
    self.assertEqual(lines[-1], f"0 PASS, 0 FAIL, {len(self.true_checks)} missing")
    self.assertEmpty(list(self.cache.rglob("*")))

  @parameterized.parameters(  # of checks that differ in their figures only, one
    (("bytes of rgb_scratch_kin600", "cricket sample, scratch, joint"), 2),
    (("15 black", "FVD"), 2),
    (("bmt", "TV-L1"), 3),
  )
  def test_every_kind_of_check_can_pass_and_fail(self, kinds, count):
    chosen = [each for each in self.true_checks if any(kind in each.what for kind in kinds)]
    self.assertLen(chosen, count)
    with self._stand_ins():
      table = [dataclasses.replace(each, measure=functools.cache(each.measure)) for each in chosen]
      words = ("--fetch", f"--url={self.url}")
      lines = self._lines(*words, checks=table, status=1)
      self.assertEqual([line[:4] for line in lines[:-1]], ["FAIL"] * count, "\n".join(lines))
      kit = verify.Kit(None, True, self.url)
      same = lambda got: verify.Expected("the same", lambda value: value == got)
      table = [dataclasses.replace(each, expected=same(each.measure(kit))) for each in table]
      lines = self._lines(*words, checks=table, status=0)
      self.assertEqual(lines[-1], f"{count} PASS, 0 FAIL, 0 missing")

  def test_figures(self):
    near = verify.near((1.0, 2.0), 0.1)
    self.assertTrue(near.holds((1.05, 1.95)))
    for got in ((1.2, 2.0), (1.0,), (1.0, float("nan"))):
      self.assertFalse(near.holds(got))
    self.assertTrue(verify.equal("a").holds("a"))
    self.assertFalse(verify.equal("a").holds("b"))

  def test_other_bytes_fail(self):
    folder = self.root / "other"
    folder.mkdir()
    (folder / "women_long_jump.mp4").write_bytes((self.served / "women_long_jump.mp4").read_bytes())
    for stream in ("rgb", "flow"):
      np.save(folder / f"women_long_jump_{stream}.npy", np.zeros((14, 1024), np.float32))
    (check,) = [each for each in self.true_checks if "rows of preset bmt" in each.what]
    (line, _) = self._lines(f"--folder={folder}", checks=[check], status=1)
    self.assertIn("women_long_jump.mp4 is not the file published", line)

  def test_weights_of_other_projects(self):
    for name, text in (
      ("X3D_XS.pyth", "x3d_xs, 3,794,322 parameters"),
      ("r3d_18-b3b3357e.pth", "r3d_18, 33,371,472 parameters, b3b3357e"),
    ):
      (check,) = [each for each in self.true_checks if each.files == (name,)]
      self.assertEqual(check.expected.text, text)
      (line, _) = self._lines("--fetch", f"--url={self.url}", checks=[check], status=1)
      self.assertIn(name, line.rpartition("got:")[2])  # the stand-in is no weights
    with mock.patch.object(saved, "load", return_value=(mock.Mock(trainable_variables=[]), mock.Mock(model="r3d_18"))):
      verdict, got = check.run(verify.Kit(None, True, self.url))
    self.assertEqual((verdict, got[:21]), ("FAIL", "r3d_18, 0 parameters,"))

  def test_published_sample(self):
    folder = testing.shared("features/bmt")
    (check,) = [each for each in self.true_checks if "rows of preset bmt" in each.what]
    (line, _) = self._lines(f"--folder={folder}", checks=[check], status=0)
    self.assertStartsWith(line, "PASS")

  def test_words_and_folders_that_are_not_there(self):
    self.assertIn("no check has 'nonsense' in its line", testing.run_main("verify", "nonsense").stderr)
    self.assertIn("there is no such folder", testing.run_main("verify", "--folder=/nowhere").stderr)


if __name__ == "__main__":
  absltest.main()
