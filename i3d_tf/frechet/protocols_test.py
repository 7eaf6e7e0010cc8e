"""Protocols: the constants of their sources, changes to them, and those of one's own."""

import dataclasses
import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf.frechet import protocols


class ProtocolsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("tf_reference", 16, 1, None, "tensorflow", True),
    ("stylegan_v", 16, 1, 2048, "half_pixel", False),
    ("fvd2048_16f", 16, 1, 2048, "half_pixel", False),
    ("fvd2048_128f", 128, 1, 2048, "half_pixel", False),
    ("fvd2048_128f_subsample8f", 16, 8, 2048, "half_pixel", False),
  )
  def test_constants_of_the_sources(self, name, num_frames, step, max_clips, resize, unbiased):
    found = protocols.resolve(protocols.FvdConfig(protocol=name))
    self.assertEqual((found.num_frames, found.frame_step, found.max_clips), (num_frames, step, max_clips))
    self.assertEqual((found.resize, found.unbiased), (resize, unbiased))
    self.assertEqual(found.name, "fvd2048_16f" if name == "stylegan_v" else name)
    self.assertEqual("151.25648" in found.difference, max_clips is not None)

  def test_changes_are_in_the_name(self):
    found = protocols.resolve(protocols.FvdConfig(protocol="stylegan_v", num_frames=24, start="random", max_clips=2048))
    self.assertEqual(found.name, "fvd2048_16f, but num_frames 24")
    self.assertEqual((found.generated_start, found.difference), ("random", ""))
    self.assertEqual(found.comparable, "figures of this very protocol")
    reference = protocols.resolve(protocols.FvdConfig(num_frames=24, max_clips=10))
    self.assertEqual((reference.name, reference.num_frames), ("tf_reference", 24))
    other = protocols.resolve(protocols.FvdConfig(resize="half_pixel"))
    self.assertEqual(other.name, "tf_reference, but resize half_pixel")

  def test_own(self):
    own = protocols.Protocol(name="mine", num_frames=20, resize="half_pixel")
    self.assertEqual(protocols.resolve(protocols.FvdConfig(), own), own)
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "mine.json"
      path.write_text(json.dumps(dataclasses.asdict(own)))
      self.assertEqual(protocols.resolve(protocols.FvdConfig(protocol=str(path))), own)
      path.write_text('{"num_frames": 20}')
      self.assertEqual(protocols.resolve(protocols.FvdConfig(protocol=str(path))).name, "mine.json")
      for text, sentence in (
        ('{"frames": 20}', "a protocol has no field frames; its fields are name, num_frames"),
        ("[]", "a protocol has no field .not a JSON object."),
        ("{", "this is not a protocol"),
        ('{"resize": "bicubic"}', "resize is 'bicubic'; allowed are tensorflow, half_pixel"),
      ):
        path.write_text(text)
        with self.assertRaisesRegex(errors.I3dError, sentence):
          protocols.resolve(protocols.FvdConfig(protocol=str(path)))
    with self.assertRaisesRegex(errors.I3dError, "protocol is none; it is none of tf_reference, fvd2048_16f"):
      protocols.resolve(protocols.FvdConfig(protocol="none"))


if __name__ == "__main__":
  absltest.main()
