"""What the options refuse, and what the profiles set."""

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf.features import config
from i3d_tf.features import profiles


def _options(profile="ours", **changes):
  return config.FeatureConfig(profile=profile, **{**profiles.PROFILES[profile].defaults, **changes})


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters(*profiles.PROFILES)
  def test_every_profile_allows_its_own_defaults(self, profile):
    options = _options(profile)
    self.assertEqual(options.meaning()["window"], profiles.PROFILES[profile].defaults["window"])
    self.assertEqual(options.needs_pairs, "flow" in options.streams)

  def test_the_checkpoint_of_a_joint_network_takes_both_streams(self):
    options = _options(joint_checkpoint="runs/joint")
    self.assertEqual((options.checkpoints, options.streams), ({"joint": "runs/joint"}, ("rgb", "flow")))
    self.assertEqual(_options(streams=("flow",)).checkpoints, {"flow": "flow_imagenet"})

  def test_streams_have_one_order_and_repetitions_count_once(self):
    options = _options(streams=("flow", "rgb", "flow"), endpoints=("Mixed_5c", "Mixed_3c", "Mixed_5c"))
    self.assertEqual(options.streams, ("rgb", "flow"))
    self.assertEqual(options.endpoints, ("Mixed_5c", "Mixed_3c"))

  def test_the_hop_is_the_window_unless_given(self):
    self.assertEqual((_options(window=20).step, _options(window=20, hop=3).step), (20, 3))
    self.assertEqual(_options("actionformer").step, 4)

  @parameterized.parameters((64, 1), (16, 4), (100, 1), (9, 7))
  def test_a_batch_has_about_64_frames(self, window, batch):
    self.assertEqual(_options(window=window).num_batch, batch)
    self.assertEqual(_options(window=window, batch=3).num_batch, 3)

  def test_rgb_of_video_features_has_pairs_as_its_flow(self):
    self.assertTrue(_options("video_features", streams=("rgb",)).needs_pairs)
    self.assertFalse(_options("cmcs", streams=("rgb",)).needs_pairs)

  def test_how_it_is_computed_has_no_meaning(self):
    one, other = (_options(batch=batch, chunk=64, threads=batch, rgb_checkpoint=str(batch)) for batch in (1, 2))
    self.assertEqual(one.meaning(), other.meaning())
    self.assertNotEqual(one.meaning(), _options(tail="loop").meaning())

  @parameterized.parameters(
    ("ours", dict(streams=("rgb", "depth")), "streams is rgb,depth; allowed are rgb, flow"),
    ("ours", dict(streams=()), "streams is empty; name at least one"),
    ("ours", dict(endpoints=()), "endpoints is empty; name at least one"),
    ("ours", dict(pooling="time"), "pooling is 'time'; allowed are none, space, space_time"),
    ("ours", dict(crops=3), "crops is 3; allowed are 1, 5, 10"),
    ("ours", dict(tail="keep"), "tail is 'keep'; allowed are drop, pad, loop"),
    ("ours", dict(hop=0), "hop is 0; it must be a whole number, at least 1"),
    ("ours", dict(window=0, hop=4), "hop is 4, but with window=all there is one window"),
    ("pytorch_i3d", dict(window=64), "the profile pytorch_i3d has window=all, not 64; leave it out"),
    ("rtfm", dict(crops=1), "the profile rtfm has crops=10, not 1"),
    ("video_features", dict(tail="pad"), "the profile video_features has tail=drop, not pad"),
    ("video_features", dict(hop=66), "hop is 66 and window 64, but video_features leaves no frames"),
    ("cmcs", dict(endpoints=("Mixed_5c", "Logits")), "the profile cmcs has one endpoint, not Mixed_5c,Logits"),
  )
  def test_what_cannot_be_is_refused(self, profile, changes, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      _options(profile, **changes)


if __name__ == "__main__":
  absltest.main()
