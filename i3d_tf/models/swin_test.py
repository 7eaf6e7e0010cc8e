"""Swin transformers: windows, inflation from images, stochastic depth."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf.models import batch_norm
from i3d_tf.models import inflation
from i3d_tf.models import swin
from i3d_tf.models import zoo
from i3d_tf.weights import initialization
from i3d_tf.weights import release
from i3d_tf.weights import saved

_SMALL = {"num_heads": 2, "depths": (2, 2), "width_multiplier": 0.125}


def _network(*, window=(2, 2, 2), patch=(2, 4, 4), **options) -> swin.SwinTransformer:
  network = swin.SwinTransformer(5, window=window, patch=patch, **{**_SMALL, **options})
  network.build(3)
  return network


def _fill(network) -> None:
  rng = np.random.default_rng(3)
  for variable in network.variables:
    variable.assign(rng.normal(0, 0.3, variable.shape))


def _clip(*shape: int) -> np.ndarray:
  return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def _counts(name: str) -> tuple[int, int]:
  """Trained values, and multiply-adds of a clip of training, by arithmetic on the arguments of an entry."""
  entry = zoo.get(name)
  depths, heads = entry.arguments["depths"], entry.arguments["num_heads"]
  window, patch = (entry.arguments.get(key, default) for key, default in (("window", (8, 7, 7)), ("patch", (2, 4, 4))))
  width, places = 32 * heads, entry.training["num_frames"] // patch[0] * 56 * 56
  of_patch = 3 * math.prod(patch)
  values, products = width * (of_patch + 3), places * width * of_patch
  for stage, depth in enumerate(depths):
    if stage:
      values += 8 * width + 8 * width**2
      products += places // 4 * 8 * width**2
      width, heads, places = 2 * width, 2 * heads, places // 4
    values += depth * (12 * width**2 + 13 * width + heads * math.prod(2 * extent - 1 for extent in window))
    products += depth * places * (12 * width**2 + 2 * width * math.prod(window))
  return values + 2 * width + 400 * (width + 1), products + 400 * width


class TableTest(parameterized.TestCase):
  @parameterized.parameters(*swin.MODELS)
  def test_parameters_and_multiply_adds(self, name):
    values, products = _counts(name)
    self.assertEqual(values, zoo.get(name).parameters["rgb"])
    self.assertAlmostEqual(products / 1e9, zoo.get(name).giga_multiply_adds["rgb"], delta=0.005)

  def test_counts_are_torchvision_s(self):
    found = [zoo.get(f"video_swin_{size}").parameters["rgb"] for size in "tsb"]
    self.assertEqual(found, [28_158_070, 49_816_678, 88_048_984])
    # torchvision counts a clip of 16 frames, half of one of training, and sums to a thousandth.
    for size, giga in (("t", 43.882), ("s", 82.841), ("b", 140.667)):
      self.assertAlmostEqual(_counts(f"video_swin_{size}")[1] / 2e9, giga, delta=1e-3)
    # Its networks of images have 1000 classes.
    found = [
      zoo.get(f"swin_{size}").parameters["rgb"] + 600 * (width + 1) for size, width in zip("tsb", (768, 768, 1024))
    ]
    self.assertEqual(found, [28_288_354, 49_606_258, 87_768_224])


class WindowsTest(parameterized.TestCase):
  def test_index_counts_offsets(self):
    index = swin.relative_position_index((2, 1, 3))
    self.assertEqual(index.shape, (6, 6))
    # Of 3 x 1 x 5 offsets: of a place to itself the middle one, of the first to the last the first.
    np.testing.assert_array_equal(np.diag(index), [7] * 6)
    self.assertEqual((index[0, 5], index[5, 0], index[0, 1]), (0, 14, 6))

  def test_a_place_sees_its_window_and_in_a_shifted_block_the_neighbours(self):
    attention = swin.WindowAttention(2, (2, 2, 2), is_shifted=False, name="plain")
    shifted = swin.WindowAttention(2, (2, 2, 2), is_shifted=True, name="shifted")
    clip = _clip(1, 4, 4, 4, 8)
    for unit in (attention, shifted):
      unit.build(8)
      _fill(unit)
    seen = {}
    for name, unit in (("plain", attention), ("shifted", shifted)):
      changed = clip.copy()
      changed[0, 1, 1, 1] += 1
      difference = np.abs(unit(changed).numpy() - unit(clip).numpy()).max(-1)[0]
      seen[name] = {tuple(place) for place in np.argwhere(difference > 1e-5)}
    corners = lambda first: {(t, y, x) for t in first for y in first for x in first}
    self.assertEqual(seen["plain"], corners((0, 1)))
    self.assertEqual(seen["shifted"], corners((1, 2)))

  def test_places_that_the_shift_brings_together_do_not_see_each_other(self):
    unit = swin.WindowAttention(2, (2, 2, 2), is_shifted=True, name="shifted")
    unit.build(8)
    _fill(unit)
    clip = _clip(1, 4, 4, 4, 8)
    changed = clip.copy()
    changed[0, 0, 0, 0] += 1
    difference = np.abs(unit(changed).numpy() - unit(clip).numpy()).max(-1)[0]
    self.assertEqual([tuple(place) for place in np.argwhere(difference > 1e-5)], [(0, 0, 0)])

  def test_open_axes_give_the_same(self):
    network = _network(window=(2, 3, 3))
    _fill(network)
    call = tf.function(lambda clip: network(clip)[0], input_signature=[tf.TensorSpec([None, None, None, None, 3])])
    for shape in ((2, 7, 33, 40, 3), (1, 2, 8, 8, 3), (1, 9, 16, 20, 3)):
      clip = _clip(*shape)
      np.testing.assert_allclose(call(clip), network(clip)[0], atol=1e-5)

  def test_shapes_are_those_documented(self):
    _, endpoints = _network()(_clip(2, 5, 30, 36, 3))
    shapes = {name: tuple(value.shape) for name, value in endpoints.items()}
    expected = {
      "patch_embed": (2, 3, 8, 9, 8), "layer1_0": (2, 3, 8, 9, 8), "layer1_1": (2, 3, 8, 9, 8),
      "merge1": (2, 3, 4, 5, 16), "layer2_0": (2, 3, 4, 5, 16), "layer2_1": (2, 3, 4, 5, 16), "norm": (2, 3, 4, 5, 16),
      "PooledFeatures": (2, 16), "Logits": (2, 5),
    }  # fmt: skip
    self.assertEqual(shapes, expected)

  def test_only_images_can_be_run_in_chunks(self):
    with self.assertRaisesRegex(errors.I3dError, "the windows of attention before it begin where the clip does"):
      _network().time_layers("norm")
    self.assertEqual(_network().time_layers("patch_embed")[0].stride, 2)
    self.assertEqual(_network(window=(1, 2, 2), patch=(1, 4, 4)).time_layers("norm"), ())


class InflationTest(parameterized.TestCase):
  @parameterized.parameters("mean", "center")
  def test_a_still_video_has_the_logits_of_its_frame(self, mode):
    image, video = _network(window=(1, 2, 2), patch=(1, 4, 4)), _network()
    _fill(image)
    values = {name: variable.numpy() for name, variable in release.named_variables(image).items()}
    shapes = {name: tuple(variable.shape) for name, variable in release.named_variables(video).items()}
    inflated = inflation.inflate_to(values, shapes, mode=mode)
    self.assertEqual(inflated["layer1_0/attention/relative_position_bias_table"].shape, (3 * 9, 2))
    head = {name: value for name, value in values.items() if release.is_head(name)}
    release.assign(video, inflated | head, "inflated")
    frame = _clip(2, 1, 16, 24, 3)
    expected = image(frame)[0].numpy()
    # Of 8 frames, 4 steps: two windows; of 4 and 2 one. Of 6 the zeros that fill the second window are attended to.
    for frames in (8, 4, 2):
      np.testing.assert_allclose(video(np.repeat(frame, frames, 1))[0], expected, atol=1e-5)
    self.assertGreater(np.abs(video(np.repeat(frame, 6, 1))[0] - expected).max(), 1e-3)
    self.assertGreater(np.abs(video(_clip(2, 8, 16, 24, 3))[0] - expected).max(), 1e-3)

  def test_training_starts_from_the_network_of_images(self):
    folder = self.create_tempdir().full_path
    small = {"stream": "rgb", "width_multiplier": 0.125, "crop": 32, "short_side": 32}
    info = saved.make_info(model="swin_t", num_classes=7, num_frames=1, **small)
    image = saved.make_model(info)
    saved.save(folder, image, info)
    target = saved.make_info(model="video_swin_t", num_classes=3, num_frames=4, **small)
    video = saved.make_model(target)
    notes = initialization.initialize(video, target, folder)
    self.assertRegex(notes[0], "a network swin_t, inflated; the rest is new")
    old, new = release.named_variables(image), release.named_variables(video)
    kernel = new["patch_embed/conv_3d/w"].numpy()
    np.testing.assert_allclose(kernel, np.repeat(old["patch_embed/conv_3d/w"].numpy() / 2, 2, 0), atol=1e-7)
    table = "layer3_5/attention/relative_position_bias_table"
    np.testing.assert_array_equal(new[table], np.tile(old[table].numpy(), (15, 1)))


class DropPathTest(absltest.TestCase):
  def test_a_seed_decides_which_clips_lose_a_branch_and_inference_loses_none(self):
    network = _network(drop_path=0.6)
    _fill(network)
    clip, seeds = np.repeat(_clip(1, 4, 16, 16, 3), 8, 0), tf.constant([[index, 0] for index in range(8)])
    plain = network(clip)[0].numpy()
    np.testing.assert_allclose(plain, np.repeat(plain[:1], 8, 0), atol=1e-5)
    first, again = (network(clip, True, dropout_seeds=seeds)[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    self.assertGreater(np.ptp(first[:, 0]), 1e-3)
    alone = network(clip[3:5], True, dropout_seeds=seeds[3:5])[0].numpy()
    np.testing.assert_allclose(alone, first[3:5], atol=1e-5)
    network.freeze(".")
    np.testing.assert_allclose(network(clip, True, dropout_seeds=seeds)[0], plain, atol=1e-5)

  def test_the_mean_is_kept(self):
    statistics = batch_norm.BatchStatistics()
    kept = statistics.drop_clips(tf.ones([4000, 1, 1, 1, 2]), 0.25, layer=1).numpy()
    self.assertEqual(set(np.unique(kept.round(4))), {0.0, np.float32(1.3333)})
    self.assertAlmostEqual(kept.mean(), 1, delta=0.05)
    np.testing.assert_array_equal(kept, statistics.drop_clips(tf.ones([4000, 1, 1, 1, 2]), 0.25, layer=1))

  def test_gradients_do_not_change_when_activations_are_computed_again(self):
    gradients = []
    for recompute in (False, True):
      network = _network(drop_path=0.5, recompute=recompute)
      _fill(network)
      with tf.GradientTape() as tape:
        loss = tf.reduce_sum(
          network(_clip(3, 4, 16, 16, 3), True, dropout_seeds=tf.constant([[1, 2], [3, 4], [5, 6]]))[0]
        )
      gradients.append(
        [each.numpy() for each in map(tf.convert_to_tensor, tape.gradient(loss, network.trainable_variables))]
      )
    for one, other in zip(*gradients, strict=True):
      np.testing.assert_allclose(one, other, atol=1e-4)

  def test_rates_grow_to_the_last_block_and_must_be_below_1(self):
    with self.assertRaisesRegex(ValueError, "drop_path is 1; it must be at least 0 and less than 1"):
      _network(drop_path=1)
    self.assertEqual(zoo.get("video_swin_b").arguments["drop_path"], 0.3)


if __name__ == "__main__":
  absltest.main()
