from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf.training import config


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"optimizer": "sgd"}, "--optimizer is 'sgd'; allowed are momentum, adam"),
    ({"learning_rate": 0}, r"--learning_rate is 0; it must be in \(0, inf\]"),
    ({"dropout": 1.0}, r"--dropout is 1.0; it must be in \[0, 1\)"),
    ({"accumulation_steps": 0}, "--accumulation_steps is 0"),
    ({"schedule": "piecewise", "rates": (0.1,), "rate_boundaries": (5,)}, "one more of --rates .* got 1 and 1"),
    ({"schedule": "piecewise"}, "one more of --rates"),
    ({"schedule": "cosine", "rates": (0.1,)}, "are for --schedule=piecewise, not cosine"),
    ({"schedule": "piecewise", "rates": (1, 1, 1), "rate_boundaries": (5, 5)}, "must be positive and increase"),
    ({"schedule": "piecewise", "rates": (1, 0), "rate_boundaries": (5,)}, "rates must be positive"),
    ({"freeze": "("}, "is no regular expression"),
    ({"unfreeze_step": 5}, "--freeze is not"),
    ({"jit_compile": "on", "sync_batch_norm": True}, "drop one"),
  )
  def test_what_cannot_be_is_said_in_a_sentence(self, settings, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      config.Optimization(**settings)

  @parameterized.parameters(
    ({"records": ""}, "--records is needed"),
    ({"stream": "joint"}, "stream is 'joint'; i3d takes rgb or flow; train its streams apart"),
    ({"model": "i4d"}, "model is 'i4d'; did you mean i3d\\? There are i3d, "),
    ({"model": "c3d", "average_space": True}, "--average_space is not an option of c3d"),
    ({"second_records": "more", "batch_size": 3}, "--batch_size is 3; with --second_records it must be even"),
    ({"batch_size": 0}, "--batch_size is 0"),
    ({"profile_steps": (5,)}, "give the first and the last step"),
    ({"rescale_first_kernel": True}, "is for a stream of flow"),
  )
  def test_runs(self, settings, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      config.Run(**{"records": "r", "output": "o", "num_steps": 1, **settings})


if __name__ == "__main__":
  absltest.main()
