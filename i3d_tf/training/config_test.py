from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf import training
from i3d_tf.inference import classification
from i3d_tf.input import clip_config
from i3d_tf.models import zoo
from i3d_tf.training import trainer
from i3d_tf.weights import saved


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"optimizer": "sgd"}, "optimizer is 'sgd'; allowed are momentum, adam"),
    ({"learning_rate": 0}, "learning_rate is 0; it must be more than 0"),
    ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and less than 1"),
    ({"accumulation_steps": 0}, "accumulation_steps is 0; it must be a whole number, at least 1"),
    ({"schedule": "piecewise", "rates": (0.1,), "rate_boundaries": (5,)}, "one more of rates .* got 1 and 1"),
    ({"schedule": "piecewise"}, "one more of rates"),
    ({"schedule": "cosine", "rates": (0.1,)}, "are for the schedule 'piecewise', not 'cosine'"),
    (
      {"schedule": "piecewise", "rates": (1, 1, 1), "rate_boundaries": (5, 5)},
      "rate_boundaries is 5,5; steps must increase",
    ),
    ({"schedule": "piecewise", "rates": (1, 0), "rate_boundaries": (5,)}, "rates is 1,0; each must be more than 0"),
    ({"freeze": "("}, "is no regular expression"),
    ({"unfreeze_step": 5}, "freeze is not given"),
    ({"jit_compile": "on", "sync_batch_norm": True}, "drop one"),
  )
  def test_what_cannot_be_is_said_in_a_sentence(self, settings, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      training.OptimizationConfig(**settings)

  @parameterized.parameters(
    ({"records": ""}, "records is empty"),
    ({"stream": "joint"}, "joint.* i3d takes rgb or flow; train its streams apart"),
    ({"model": "i4d"}, "model is 'i4d'; allowed are i3d, "),
    ({"model": "c3d", "average_space": True}, "average_space is not an option of c3d"),
    ({"second_records": "more", "batch_size": 3}, "batch_size is 3; with second_records it must be even"),
    ({"batch_size": 0}, "batch_size is 0; it must be a whole number, at least 1"),
    ({"profile_steps": (5,)}, "profile_steps is 5; it must be the first and the last step"),
    ({"rescale_first_kernel": True}, "is for a stream of flow"),
  )
  def test_runs(self, settings, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      training.TrainConfig(**{"records": "r", "output": "o", "num_steps": 1, **settings})

  def test_clips_are_those_of_the_network_unless_given(self):
    clips = training.make_clips("two_stream", "flow", {"crop": 64})
    self.assertEqual((clips.streams, clips.flow_stack, clips.crop, clips.short_side), (("flow",), 10, 64, 256))
    self.assertEqual(training.make_clips("i3d", "rgb", {}), clip_config.TrainClips())

  def test_differences_want_segments_of_their_frames(self):
    zoo.check_segments("tsn_r50", 2)
    with self.assertRaisesRegex(
      errors.I3dError, "segment_frames is 3; tsn_r50_difference sees .* so that it must be 6"
    ):
      trainer.train("r", "o", num_steps=1, model="tsn_r50_difference", clips={"segment_frames": 3})
    info = saved.make_info(model="tsn_r50_difference", stream="rgb", num_classes=2, num_frames=42, segment_frames=6)
    with self.assertRaisesRegex(errors.I3dError, "segment_frames is 0; .* must be 6"):
      classification.protocol(info, segment_frames=0)


if __name__ == "__main__":
  absltest.main()
