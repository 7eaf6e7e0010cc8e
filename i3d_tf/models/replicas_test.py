"""The network on two replicas beside the whole batch on one, in a process of its own with two logical CPUs."""

import os
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import testing
from i3d_tf.models import inception_spec as spec

_SMALL = {"num_classes": 5, "width_multiplier": 0.05, "average_space": True}
# The whole network would only take longer.
_FEW_ROWS = tuple(row for row in spec.ROWS if row.name in ("1a_7x7", "2a_3x3", "2c_3x3", "5c"))


def _gradients_on_replicas(on_two, **arguments):
  """Loss, gradients and moving statistics after one step: on one device, and on two with half the batch each."""
  import tensorflow as tf  # noqa: I001
  from i3d_tf.models import inception
  from i3d_tf.weights import release

  rng = np.random.default_rng(0)
  # The halves differ, so that statistics of one are not those of the other.
  clips = (rng.normal(size=[4, 9, 24, 20, 3]) * [[[[[0.2]]]], [[[[0.3]]]], [[[[1]]]], [[[[2]]]]]).astype(np.float32)
  weights = rng.normal(size=[4, 5, 6, 5, 1]).astype(np.float32)

  def step(strategy):
    with strategy.scope():
      model = inception.InceptionI3d(final_endpoint="Conv3d_2c_3x3", **_SMALL, **arguments)
      model.build(3)
    variables = release.named_variables(model)
    for name, variable in variables.items():
      variable.assign(testing.golden_values(name, variable.shape.as_list()))

    def on_replica(clips, weights):
      replica = tf.distribute.get_replica_context()
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(model.trained_variables)
        loss = tf.reduce_sum(model(clips, is_training=True)[0] * weights)
      gradients = tape.gradient(loss, model.trained_variables)
      return replica.all_reduce(tf.distribute.ReduceOp.SUM, [loss, *gradients])

    def halves(array):
      parts = tf.split(array, strategy.num_replicas_in_sync)
      own = lambda context: parts[context.replica_id_in_sync_group]
      return strategy.experimental_distribute_values_from_function(own)

    run = lambda: strategy.run(on_replica, (halves(clips), halves(weights)))
    values = tf.function(run, autograph=False)()
    loss, *gradients = (strategy.experimental_local_results(value)[0].numpy() for value in values)
    names = [variable.name for variable in model.trained_variables]
    moved = {name: variable.numpy() for name, variable in variables.items() if not testing.is_trained(name)}
    return {"loss": loss} | dict(zip(names, gradients, strict=True)) | moved

  return step(tf.distribute.get_strategy()), step(on_two)


def _saved_and_loaded_in_scope(strategy, folder):
  """The names and values of a network's variables before it was saved, and of another that was loaded."""
  import tensorflow as tf  # noqa: I001
  from i3d_tf.models import inception
  from i3d_tf.weights import release

  with strategy.scope():
    models = [inception.InceptionI3d(**_SMALL) for _ in range(2)]
    models[0].build(3)
    for name, variable in release.named_variables(models[0]).items():
      variable.assign(testing.golden_values(name, variable.shape.as_list()))
    prefix = os.path.join(folder, "model.ckpt")
    release.save_release_checkpoint(models[0], prefix, stream="rgb")
    release.load_checkpoint(models[1], prefix)
  clip = tf.random.stateless_uniform([1, 9, 24, 20, 3], [0, 1])
  logits = strategy.run(tf.function(lambda: models[1](clip)[0], autograph=False))
  of_replicas = np.stack([value.numpy() for value in strategy.experimental_local_results(logits)])
  values = [{name: v.numpy() for name, v in release.named_variables(model).items()} for model in models]
  return *values, of_replicas, models[0](clip)[0].numpy()


def _found(folder):
  """What all tests compare, from one process, whose start takes longer than the networks."""
  import tensorflow as tf

  cpu = tf.config.list_physical_devices("CPU")[0]
  tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
  # One strategy, since TensorFlow takes the collective operations of a second for those of the first.
  on_two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  synchronized = [
    _gradients_on_replicas(on_two, sync_batch_norm=True, recompute=recompute) for recompute in (False, True)
  ]
  with mock.patch.object(spec, "ROWS", _FEW_ROWS):
    in_scope = _saved_and_loaded_in_scope(on_two, folder)
  return synchronized, _gradients_on_replicas(on_two), in_scope


class ReplicasTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    with tempfile.TemporaryDirectory() as folder:
      cls.synchronized, cls.apart, cls.in_scope = testing.in_own_process(_found, folder)

  @parameterized.parameters(False, True)
  def test_two_synchronized_replicas_equal_one_with_the_whole_batch(self, recompute):
    one, two = self.synchronized[recompute]
    self.assertEqual(one.keys(), two.keys())
    self.assertLen(one, 1 + 3 * 2 + 3 * 2)
    for name, value in one.items():
      self.assertLess(testing.relative_error(two[name], value), 1e-5, name)

  def test_otherwise_each_replica_has_its_own_statistics_and_the_averages_are_their_mean(self):
    one, two = self.apart
    name = "Conv3d_1a_7x7/batch_norm/moving_"
    # The halves have equal means of the first convolution's outputs, within noise, and so the whole's variance is
    # about the mean of theirs; but each is normalised by its own.
    self.assertLess(testing.relative_error(two[name + "mean"], one[name + "mean"]), 1e-5)
    self.assertLess(testing.relative_error(two[name + "variance"], one[name + "variance"]), 1e-2)
    self.assertGreater(testing.relative_error(two["loss"], one["loss"]), 0.05)

  def test_release_checkpoints_are_saved_and_loaded_in_scope(self):
    saved, loaded, of_replicas, logits = self.in_scope
    with mock.patch.object(spec, "ROWS", _FEW_ROWS):
      expected = spec.variable_shapes(num_classes=5, width_multiplier=0.05)
    self.assertEqual({name: value.shape for name, value in loaded.items()}, expected)
    for name, value in saved.items():
      np.testing.assert_array_equal(loaded[name], value, name)
    np.testing.assert_allclose(of_replicas, np.stack([logits, logits]), rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
