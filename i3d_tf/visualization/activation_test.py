"""The mean of the positions' logits is the network's logit, and each stands over the pixels that it sees."""

import dataclasses
import functools
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.inference import classifier
from i3d_tf.models import preprocess
from i3d_tf.models import zoo
from i3d_tf.video import encode
from i3d_tf.visualization import activation
from i3d_tf.visualization import pages
from i3d_tf.visualization import source
from i3d_tf.weights import release
from i3d_tf.weights import saved

_CLASSES = ("walk", "run", "long jump")
_FOLDER = tempfile.TemporaryDirectory()  # deleted when the process ends


@functools.cache
def _checkpoint(**changes) -> str:
  """A small network of made weights on disk, the same for the same arguments."""
  info = saved.make_info(
    stream="rgb", num_classes=3, classes=_CLASSES, width_multiplier=0.05, average_space=True, short_side=40, crop=32
  )
  info = testing.change_info(info, **changes)
  model = saved.make_model(info)
  for name, variable in release.named_variables(model).items():
    variable.assign(testing.golden_values(name, tuple(variable.shape)))
  path = tempfile.mkdtemp(dir=_FOLDER.name)
  saved.save(path, model, info)
  return path


@functools.cache
def _network(**changes) -> tuple[classifier.LoadedNetwork, activation.Head]:
  network = classifier.LoadedNetwork(_checkpoint(**changes), average_space=None)
  return network, activation.find_head(network)


@functools.cache
def _video() -> pathlib.Path:
  """34 frames of 40x72 pixels: a square of noise that moves over another."""
  path = pathlib.Path(_FOLDER.name) / "made.mp4"
  noise = np.random.default_rng(0).integers(0, 255, (40, 72, 3), np.uint8)
  with encode.writing(path, fps=25) as write:
    for time in range(34):
      frame = noise // 2
      frame[10:26, time : time + 16] = noise[20:36, 20:36]
      write(frame)
  return path


class IdentityTest(parameterized.TestCase):
  @parameterized.parameters((16, 224, 224), (33, 200, 224), (9, 32, 32), (24, 256, 340))
  def test_weighted_mean_of_the_positions_is_the_logit(self, frames, height, width):
    network, head = _network()
    model, _ = saved.load(_checkpoint())  # averages over space, for 193 to 224 pixels what the release does
    clip = np.random.default_rng(0).uniform(-1, 1, [1, frames, height, width, 3]).astype(np.float32)
    positions = activation.position_logits(network, head, clip).numpy()[0].astype(np.float64)
    self.assertEqual(positions.shape[1:3], (-(-height // 32), -(-width // 32)))
    share = activation.weights(head, *positions.shape[:3])
    np.testing.assert_allclose(np.einsum("tyx,tyxc->c", share, positions), model(clip)[0][0], rtol=0, atol=1e-5)
    # And not by chance: positions differ by much more.
    self.assertGreater(np.ptp(positions[..., 0]), 1e-2)

  @parameterized.parameters(
    ("inception_v1", 5, 70), ("s3d", 17, 70), ("s3d_torchvision", 17, 70), ("i3d_bottom_heavy", 17, 64),
    ("r2plus1d_18", 9, 70), ("mc3_18", 8, 50), ("i3d_r50", 8, 70), ("i3d_r50_32x2", 16, 64), ("c2d_r50", 8, 64),
  )  # fmt: skip
  def test_of_other_networks_too(self, model, frames, side):
    network, head = _network(model=model, average_space="average_space" in zoo.get(model).options)
    clip = np.random.default_rng(0).uniform(-1, 1, [1, frames, side, 64, 3]).astype(np.float32)
    positions = activation.position_logits(network, head, clip).numpy()[0].astype(np.float64)
    self.assertLen(activation.centres(head, side), positions.shape[1])
    mean = np.einsum("tyx,tyxc->c", activation.weights(head, *positions.shape[:3]), positions)
    self.assertLess(testing.relative_error(mean, network.logits(clip)[0]), 1e-4)

  def test_weights(self):
    _, head = _network()
    np.testing.assert_allclose(activation.weights(head, 8, 7, 7)[:, 0, 0] * 49, [1 / 14] + [1 / 7] * 6 + [1 / 14])
    share = activation.weights(head, 2, 8, 11)
    self.assertAlmostEqual(share.sum(), 1)
    np.testing.assert_allclose(share[0, :, 0] / share[0, 0, 0], [1, 2, 2, 2, 2, 2, 2, 1])
    np.testing.assert_allclose(share[0, 0] / share[0, 0, 0], [1, 2, 3, 4, 5, 5, 5, 4, 3, 2, 1])
    np.testing.assert_allclose(activation.weights(head, 2, 1, 3), np.full((2, 1, 3), 1 / 6))


class CentresTest(parameterized.TestCase):
  def test_of_224_pixels(self):
    np.testing.assert_allclose(activation.centres(_network()[1], 224), 23 + 32 * np.arange(7))
    resnet = _network(model="i3d_r50", average_space=False)[1]
    np.testing.assert_allclose(activation.centres(resnet, 224), 32 * np.arange(7))

  @parameterized.parameters("i3d", "r2plus1d_18", "i3d_r50")
  def test_a_pixel_is_seen_most_by_the_position_around_it(self, name):
    # A network whose convolutions are means: what reaches a position from a pixel is its share in the ways there.
    found, _ = saved.find(_checkpoint(model=name, average_space=name == "i3d"))
    info = dataclasses.replace(found)
    model = saved.make_model(info)
    for name, variable in release.named_variables(model).items():
      shape = tuple(variable.shape)
      value = 1 / np.prod(shape[:-1]) if name.endswith("/w") else 1.0 if name.endswith(("variance", "gamma")) else 0.0
      variable.assign(np.full(shape, value, np.float32))
    path = tempfile.mkdtemp(dir=_FOLDER.name)
    saved.save(path, model, info)
    network = classifier.LoadedNetwork(path, average_space=None)
    head = activation.find_head(network)
    middles = activation.centres(head, 160)
    for index in (1, 3):
      clip = np.zeros((1, 9, 160, 160, 3), np.float32)
      background = activation.position_logits(network, head, clip).numpy()[0, 0, :, 2, 0]
      near = round(middles[index])
      clip[:, :, near - 8 : near + 9] = 1
      response = activation.position_logits(network, head, clip).numpy()[0, 0, :, 2, 0] - background
      self.assertEqual(response.argmax(), index)
      neighbours = response[index - 1], response[index + 1]
      self.assertLess(max(neighbours), response[index])


class ComputeTest(parameterized.TestCase):
  @parameterized.parameters(("frame", 40, 72, (2, 3)), ("crop", 32, 32, (1, 1)))
  def test_a_video_in_pieces_is_as_in_one(self, view, height, width, grid):
    network, head = _network()
    found = activation.compute(_video(), network, view=view)
    video = source.survey(_video(), network.info.preprocess)
    frames = np.stack(list(video.frames()))
    top, left = (40 - height) // 2, (72 - width) // 2
    clip = frames[:, top : top + height, left : left + width] / np.float32(127.5) - 1
    whole = activation.position_logits(network, head, clip[np.newaxis]).numpy()[0]
    self.assertEqual(found.index, int(found.logits.argmax()))
    self.assertEqual((found.name, found.size), (_CLASSES[found.index], (height, width)))
    self.assertEqual(found.values.shape, (5, *grid))
    np.testing.assert_allclose(found.values, whole[..., found.index], rtol=0, atol=1e-5)
    model, _ = saved.load(_checkpoint())
    np.testing.assert_allclose(found.logits, model(clip[np.newaxis])[0][0], rtol=0, atol=1e-5)
    share = activation.weights(head, *found.values.shape).sum(axis=(1, 2))
    self.assertAlmostEqual(float(share @ found.over_time), found.logits[found.index], places=5)

  def test_at_a_step_and_a_middle_the_value_is_the_positions(self):
    found = activation.compute(_video(), _network()[0], class_name="Run")
    self.assertEqual((found.index, found.name), (1, "run"))
    pixels = found.at(float(found.times[2]))
    self.assertEqual(pixels.shape, (40, 72))
    middles = np.rint(activation.centres(found.head, 72)).astype(int)
    inside = [index for index, middle in enumerate(middles) if middle < 72]
    row = round(activation.centres(found.head, 40)[0])
    for index in inside:
      self.assertAlmostEqual(float(pixels[row, middles[index]]), float(found.values[2, 0, index]), delta=0.02)

  def test_flow_is_kept_for_pictures(self):
    store = source.FlowStore()
    network, _ = _network(stream="flow")
    found = activation.compute(_video(), network, store=store)
    self.assertLen(store, 33)
    self.assertLen(found.values, 5)

  @parameterized.parameters(
    ("jump", "^there is no class 'jump' among the network's 3; near to it are long jump$"),
    ("rnu", "^there is no class 'rnu' among the network's 3; near to it are run$"),
    ("xyz", "^there is no class 'xyz' among the network's 3$"),
  )
  def test_class_that_there_is_not(self, name, message):
    with self.assertRaisesRegex(errors.I3dError, message):
      activation.compute("none.mp4", _network()[0], class_name=name)

  def test_networks_that_do_not_fit(self):
    for model, size in (("x3d_xs", 32), ("c3d", 48), ("convnet_lstm", 32), ("two_stream", 32)):
      path = _checkpoint(model=model, average_space=False, crop=size, short_side=size, num_frames=8)
      with self.assertRaisesRegex(errors.CheckpointError, f"is a network {model}; class activation is for networks of"):
        activation.compute(_video(), classifier.LoadedNetwork(path))
    for model, reason in (("s3d_g", "Mixed_5c cannot be computed in chunks: .*"), ("i3d_r50_non_local", "layer4_2 .*")):
      with self.assertRaisesRegex(errors.I3dError, reason):
        _network(model=model, average_space="average_space" in zoo.get(model).options)

  def test_a_network_whose_clips_have_a_stride_sees_one_frame_of_so_many(self):
    network, head = _network(model="r2plus1d_18", average_space=False, frame_stride=2)
    found = activation.compute(_video(), network)
    frames = np.stack(list(source.survey(_video(), network.info.preprocess).frames()))[::2]
    clip = frames[np.newaxis] / np.float32(127.5) - 1
    self.assertLess(testing.relative_error(found.logits, network.logits(clip)[0]), 1e-4)
    np.testing.assert_allclose(np.diff(found.times), 2 * 8 / 25)


class PainterTest(absltest.TestCase):
  def _activation(self) -> activation.Activation:
    video = source.survey(_video(), preprocess.Preprocess(short_side=40, crop=40))
    values = np.float32([[[3, 0, -6]], [[0, 0, 0]]])
    logits = np.array([1.0, 2.0, 0.0])
    return activation.Activation(video, _network()[1], None, "walk", np.array([0.0, 1.0]), values, logits, 0)

  def test_colours_cover_the_more_the_farther_from_zero(self):
    painter = pages.Painter(self._activation())
    gray = np.full((1, 5, 3), 100, np.uint8)
    drawn = painter.overlay(gray, np.float32([[6, 3, 0, -3, -6]]))[0].astype(int)
    np.testing.assert_array_equal(drawn[2], 100)
    self.assertGreater(drawn[0, 0] - drawn[0, 2], 80)
    self.assertGreater(drawn[4, 2] - drawn[4, 0], 60)
    distance = np.abs(drawn - 100).sum(axis=1)
    self.assertGreater(distance[0], distance[1])
    self.assertGreater(distance[4], distance[3])
    bar = painter.bar(101)
    np.testing.assert_allclose(bar[50, 5], 128, atol=2)
    self.assertGreater(int(bar[1, 5, 0]) - bar[1, 5, 2], 80)

  def test_pages(self):
    painter = pages.Painter(self._activation())
    self.assertEqual(painter.facts(), "whole video: logit 1.00, probability 0.245, place 2 of 3")
    drawn = []
    pages.draw_activation(painter, drawn.append)
    self.assertLen(drawn, 34)
    self.assertLen({page.shape for page in drawn}, 1)
    self.assertEqual(drawn[0].shape[1], 1000)
    self.assertGreater((drawn[0] != drawn[-1]).any(-1).mean(), 0.1)
    for page in drawn[::11]:
      for edge in (page[:10], page[-10:], page[:, :10], page[:, -10:]):
        np.testing.assert_array_equal(edge, 255)
    sheet = pages.draw_sheet(painter, columns=3)
    tile = 270  # pixels of a tile's width
    self.assertBetween(sheet.shape[1], 3 * tile + 70, 3 * tile + 140)


if __name__ == "__main__":
  absltest.main()
