"""State dicts of I3D in its two PyTorch ports: each loads strictly into the port's modules, and gives our logits.

The ports' modules are built here again, with their names and shapes (piergiaj/pytorch-i3d, pytorch_i3d.py;
hassony2/kinetics_i3d_pytorch, src/i3dpt.py). This needs torch, and is skipped where it is not installed.
"""

import importlib.util
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf.models import inception_spec as spec
from i3d_tf.weights import pytorch
from i3d_tf.weights import saved


def _make(port: str):
  """The modules of a port, in evaluation mode; called with a clip `[B, C, T, H, W]` they give logits at each step."""
  import torch
  from torch import nn
  from torch.nn import functional

  def same(extent: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-extent // stride) - 1) * stride + kernel - extent, 0)
    return total // 2, total - total // 2

  def pad(x, kernel, stride):
    pairs = [same(*axis) for axis in zip(x.shape[2:], kernel, stride)]
    return functional.pad(x, [side for pair in reversed(pairs) for side in pair])

  class Pool(nn.Module):
    def __init__(self, kernel, stride):
      super().__init__()
      self.kernel, self.stride = kernel, stride

    def forward(self, x):  # what is pooled is not negative, so zeros do for padding
      return functional.max_pool3d(pad(x, self.kernel, self.stride), self.kernel, self.stride)

  class Unit(nn.Module):
    def __init__(self, channels, kernel, stride=(1, 1, 1), norm="bn" if port == "pytorch_i3d" else "batch3d"):
      super().__init__()
      self.kernel, self.stride, self.norm = kernel, stride, norm
      self.conv3d = nn.Conv3d(*channels, kernel, stride, bias=norm is None)
      if norm is not None:
        self.add_module(norm, nn.BatchNorm3d(channels[1], eps=1e-3))

    def forward(self, x):
      x = self.conv3d(pad(x, self.kernel, self.stride))
      return x if self.norm is None else functional.relu(getattr(self, self.norm)(x))

  one, three = (1, 1, 1), (3, 3, 3)

  class MixedOfPytorchI3d(nn.Module):
    def __init__(self, channels, row):
      super().__init__()
      self.b0 = Unit((channels, row.branch_0), one)
      self.b1a, self.b1b = Unit((channels, row.branch_1[0]), one), Unit(row.branch_1, three)
      self.b2a, self.b2b = Unit((channels, row.branch_2[0]), one), Unit(row.branch_2, three)
      self.b3a, self.b3b = Pool(three, one), Unit((channels, row.branch_3), one)

    def forward(self, x):
      branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
      return torch.cat(branches, 1)

  class MixedOfKineticsI3dPytorch(nn.Module):
    def __init__(self, channels, row):
      super().__init__()
      self.branch_0 = Unit((channels, row.branch_0), one)
      self.branch_1 = nn.Sequential(Unit((channels, row.branch_1[0]), one), Unit(row.branch_1, three))
      self.branch_2 = nn.Sequential(Unit((channels, row.branch_2[0]), one), Unit(row.branch_2, three))
      self.branch_3 = nn.Sequential(Pool(three, one), Unit((channels, row.branch_3), one))

    def forward(self, x):
      return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], 1)

  mixed, conv, pool, block, head = {
      "pytorch_i3d": (MixedOfPytorchI3d, "Conv3d_{}", "MaxPool3d_{}", "Mixed_{}", "logits"),
      "kinetics_i3d_pytorch": (
          MixedOfKineticsI3dPytorch, "conv3d_{}", "maxPool3d_{}", "mixed_{}", "conv3d_0c_1x1",
      ),
  }[port]  # fmt: skip
  network, channels = nn.Sequential(), 3
  for row in spec.ROWS:
    time = spec.temporal_kernel(row, spec.I3D, row.name) if not isinstance(row, spec.Mixed) else 0
    stride = (spec.I3D.strides.get(row.name, 1), *[getattr(row, "stride", 1)] * 2)
    if isinstance(row, spec.Conv):
      name, module = conv, Unit((channels, row.channels), (time, row.kernel, row.kernel), stride)
    elif isinstance(row, spec.Pool):
      name, module = pool, Pool((time, row.kernel, row.kernel), stride)
    else:
      name, module = block, mixed(channels, row)
    network.add_module(name.format(row.name), module)
    channels = spec.out_channels(row, channels)
  network.add_module("pool", nn.AvgPool3d((2, 7, 7), 1))
  network.add_module(head, Unit((1024, 400), one, norm=None))
  return network.eval()


@absltest.skipIf(importlib.util.find_spec("torch") is None, "torch is not installed")
class PortsTest(parameterized.TestCase):
  @parameterized.parameters(*pytorch.I3D_LAYOUTS)
  def test_the_released_network_gives_the_same_logits(self, port):
    import torch

    values, _ = saved.read("rgb_scratch")
    path = pathlib.Path(self.create_tempdir().full_path, "model.pt")
    pytorch.write(path, pytorch.to_torch(values, pytorch.I3D_LAYOUTS[port]))
    network = _make(port)
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    clip = np.random.default_rng(0).uniform(-1, 1, [1, 17, 224, 224, 3]).astype(np.float32)
    with torch.no_grad():
      steps = network(torch.from_numpy(clip.transpose(0, 4, 1, 2, 3).copy()))[..., 0, 0].numpy()
    expected = saved.load("rgb_scratch")[0](clip)[1]["StepLogits"].numpy()
    self.assertGreater(np.abs(expected).max(), 1)
    np.testing.assert_allclose(steps.transpose(0, 2, 1), expected, atol=1e-4)


if __name__ == "__main__":
  absltest.main()
