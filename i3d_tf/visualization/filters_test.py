"""Each weight stands where it should, in its colour, and zero is gray."""

import io
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from i3d_tf import errors
from i3d_tf import testing
from i3d_tf.visualization import filters
from i3d_tf.weights import release
from i3d_tf.weights import saved

_GRAY = 128


def _filters(kernel: np.ndarray, stream: str = "rgb") -> filters.Filters:
  return filters.Filters("name", "layer", stream, kernel.astype(np.float32))


def _grids(each: filters.Filters, scale: str = "filter") -> dict[str, list[np.ndarray]]:
  """The pictures of all filters, a pixel for each weight."""
  return dict(filters._grids(each, scale, 1))


class FiltersTest(parameterized.TestCase):
  def test_colours_of_rgb(self):
    kernel = np.zeros((2, 3, 3, 3, 4))
    kernel[0, 0, 1, :, 2] = (0.5, 0, -1)
    kernel[1, 2, 2, :, 3] = (0.1, 0.1, 0.1)
    (first, second) = _grids(_filters(kernel))["colour"]
    self.assertEqual(first.shape, (2 * 3 + 2, 2 * 3 + 2, 3))
    expected = np.full((8, 8, 3), _GRAY)
    expected[3:5] = expected[:, 3:5] = 255  # between the filters
    expected[5, 1] = (191, 128, 0)  # third filter: second row, first column
    np.testing.assert_array_equal(first, expected)
    expected[5, 1], expected[7, 7] = _GRAY, 255
    np.testing.assert_array_equal(second, expected)

  def test_one_scale_for_all_filters(self):
    kernel = np.zeros((1, 1, 1, 3, 4))
    kernel[..., 0], kernel[..., 1] = 2, -1
    (grid,) = _grids(_filters(kernel), "checkpoint")["colour"]
    self.assertEqual([int(grid[y, x, 0]) for y, x in ((0, 0), (0, 3), (3, 0))], [255, 64, _GRAY])
    (grid,) = _grids(_filters(kernel), "filter")["colour"]
    self.assertEqual([int(grid[y, x, 0]) for y, x in ((0, 0), (0, 3), (3, 0))], [255, 0, _GRAY])

  def test_flow_is_two_gray_pictures_in_one_scale(self):
    kernel = np.zeros((1, 1, 1, 2, 1))
    kernel[..., 0, 0], kernel[..., 1, 0] = -0.5, 1
    grids = _grids(_filters(kernel, "flow"))
    self.assertEqual(list(grids), ["flow x", "flow y"])
    self.assertEqual([grid[0][0, 0].tolist() for grid in grids.values()], [[64] * 3, [255] * 3])

  def test_steps_go_from_left_to_right(self):
    kernel = np.zeros((3, 35, 35, 3, 1))
    for step in range(3):
      kernel[step] = step - 1
    picture = filters.draw([_filters(kernel)])
    line = picture[-30, :, 0]
    runs = [int(value) for value, before in zip(line[1:], line) if value != before and value != 255]
    self.assertEqual(runs, [0, _GRAY])  # the third is as white as the paper

  def test_animation(self):
    kernel = np.zeros((3, 49, 49, 3, 1))
    for step in range(3):
      kernel[step] = (step - 1) / 2
    kernel[0, 0, 0] = 1
    still = _filters(np.full((1, 49, 49, 3, 1), 0.2))
    animation = Image.open(io.BytesIO(filters.animate([_filters(kernel), still])))
    self.assertEqual((animation.n_frames, animation.info["loop"]), (3, 0))
    levels, durations = [], []
    for frame in range(3):
      animation.seek(frame)
      picture = np.array(animation.convert("RGB"))
      levels.append(int(picture[-40, 30, 0]))
      durations.append(animation.info["duration"])
    np.testing.assert_allclose(levels, [64, 128, 191], atol=3)
    self.assertEqual(durations, [350, 350, 900])

  def test_unknown_scale(self):
    with self.assertRaisesRegex(errors.I3dError, "^scale is 'log'; allowed are filter, checkpoint$"):
      filters.draw([_filters(np.ones((1, 1, 1, 3, 1)))], scale="log")


class ReadTest(parameterized.TestCase):
  def _save(self, model: str, stream: str, **more) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    info = saved.make_info(model=model, stream=stream, num_classes=3, width_multiplier=0.05, **more)
    network = saved.make_model(info)
    for name, variable in release.named_variables(network).items():
      variable.assign(testing.golden_values(name, tuple(variable.shape)))
    saved.save(folder.name, network, info)
    return pathlib.Path(folder.name), {name: each.numpy() for name, each in release.named_variables(network).items()}

  @parameterized.parameters(
      ("i3d", "rgb", "Conv3d_1a_7x7", (7, 7, 7, 3, 4)), ("i3d", "flow", "Conv3d_1a_7x7", (7, 7, 7, 2, 4)),
      ("c3d", "rgb", "conv1a", (3, 3, 3, 3, 4)), ("inception_v1", "rgb", "Conv2d_1a_7x7", (1, 7, 7, 3, 4)),
  )  # fmt: skip
  def test_networks_of_one_stream(self, model, stream, layer, shape):
    path, variables = self._save(model, stream)
    (found,) = filters.read(path)
    self.assertEqual((found.checkpoint, found.layer, found.stream), (str(path), layer, stream))
    self.assertEqual(found.kernel.shape, shape)
    np.testing.assert_array_equal(found.kernel, variables[f"{layer}/conv_3d/w"])

  def test_a_stack_of_flows_is_steps_in_time(self):
    path, variables = self._save("two_stream", "joint", flow_stack=4)
    flow, rgb = sorted(filters.read(path), key=lambda each: each.stream)
    self.assertEqual((rgb.kernel.shape, flow.kernel.shape), ((1, 7, 7, 3, 4), (4, 7, 7, 2, 4)))
    stacked = variables["flow/Conv2d_1a_7x7/conv_3d/w"]
    np.testing.assert_array_equal(flow.kernel[3, :, :, 1], stacked[0, :, :, 2 * 3 + 1])
    self.assertEqual(filters._steps(flow), [f"flow {number} of 4" for number in range(1, 5)])

  def test_no_network(self):
    with self.assertRaisesRegex(errors.CheckpointError, "there is no checkpoint at"):
      filters.read("none")


if __name__ == "__main__":
  absltest.main()
