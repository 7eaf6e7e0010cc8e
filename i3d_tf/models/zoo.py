"""Every network by name. Its entry is in its family's module, which alone imports TensorFlow.

A new network is one file here, or one more entry of `MODELS` in its family's, and its name below. `python -m
i3d_tf.models` prints the table.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import fnmatch
import importlib
import types
from typing import Any, TYPE_CHECKING

from i3d_tf import errors
from i3d_tf.models import preprocess as preprocess_lib

if TYPE_CHECKING:
  from i3d_tf.models import base

FAMILIES: Mapping[str, tuple[str, ...]] = types.MappingProxyType({
    "i3d_tf.models.inception": ("i3d", "inception_v1"),
    "i3d_tf.models.convnet_lstm": ("convnet_lstm",),
    "i3d_tf.models.c3d": ("c3d",),
    "i3d_tf.models.two_stream": ("two_stream", "fused_two_stream"),
    "i3d_tf.models.s3d": (
        "i2d", "i3d_bottom_heavy", "i3d_top_heavy", "s3d", "s3d_g", "fast_s3d", "s3d_torchvision", "s3d_kylemin",
        "s3d_g_torchvision",
    ),
    "i3d_tf.models.resnet": (
        "r3d_18", "mc3_18", "rmc3_18", "r2plus1d_18", "r2plus1d_34", "i3d_r50", "i3d_r50_non_local", "i3d_r50_32x2",
        "i3d_r50_caffe2", "i3d_r50_caffe2_non_local", "c2d_r50", "tsm_r50", "resnet_50",
    ),
    "i3d_tf.models.x3d": ("x3d_xs", "x3d_s", "x3d_m", "x3d_l"),
    "i3d_tf.models.swin": ("video_swin_t", "video_swin_s", "video_swin_b", "swin_t", "swin_s", "swin_b"),
    "i3d_tf.models.tsn": (
        "bn_inception", "tsn_bn_inception", "tsn_bn_inception_difference", "tsn_r50", "tsn_r50_difference",
    ),
})  # fmt: skip
NAMES = tuple(name for names in FAMILIES.values() for name in names)


def list_models(pattern: str | None = None) -> list[str]:
  """Returns the names of the networks.

  Args:
    pattern: only those that match it, with `*`, `?` and `[...]` as in file names, for example 's3d*'; None: all.
  """
  return list(NAMES) if pattern is None else fnmatch.filter(NAMES, pattern)


def get(name: str) -> "base.Entry":
  """Returns the entry of a network; imports TensorFlow.

  Args:
    name: one of `NAMES`.

  Raises:
    I3dError: if there is no network of that name; says which is near.
  """
  for family, names in FAMILIES.items():
    if name in names:
      return importlib.import_module(family).MODELS[name]
  near = difflib.get_close_matches(name, NAMES, n=1)
  advice = f"did you mean {near[0]}? There" if near else "there"
  raise errors.I3dError(f"model is {name!r}; {advice} are {', '.join(NAMES)}")


def create_model(name: str, *, num_classes: int = 400, stream: str = "rgb", **options: Any) -> "base.Network":
  """Returns a network with new weights, for the clips that it is trained on.

  Args:
    name: one of `NAMES`.
    num_classes: number of logits.
    stream: 'rgb', 'flow', or 'joint' for both at once where the network takes it.
    **options: further arguments of its constructor, such as `width_multiplier`.

  Raises:
    I3dError: if there is no such network, or it does not take the stream.
    ValueError: for an argument out of range.
  """
  check_stream(name, stream)
  entry = get(name)
  streams = ("rgb", "flow") if stream == "joint" else (stream,)
  channels = {"rgb": 3, "flow": 2 * entry.training.get("flow_stack", 1)}
  own = {key: value for key, value in {**entry.training, "streams": streams}.items() if key in entry.options}
  network = entry.make(num_classes, **{**own, **options})
  network.build(channels[stream] if len(streams) == 1 else channels)
  return network


def differ_in_clips_only(name: str, other: str) -> bool:
  """Returns whether two networks differ only in their clips, so that the weights of one fit the other.

  Args:
    name, other: of `NAMES`.

  Raises:
    I3dError: if there is no network of such a name.
  """
  one, two = get(name), get(other)
  return (one.constructor, dict(one.arguments)) == (two.constructor, dict(two.arguments))


def training_clips(name: str, stream: str) -> dict[str, Any]:
  """Returns the clips that a network is trained on, by the names of `clip_config.TrainClips`.

  Args:
    name: one of `NAMES`.
    stream: 'rgb', 'flow' or 'joint'.

  Raises:
    I3dError: if there is no network of that name.
  """
  training = get(name).training
  return {key: value for key, value in training.items() if stream != "rgb" or not key.startswith("flow_")}


def preprocess(name: str, stream: str) -> preprocess_lib.Preprocess:
  """Returns the transform from a video to a clip that a network is trained with.

  Args:
    name: one of `NAMES`.
    stream: 'rgb', 'flow' or 'joint'.

  Raises:
    I3dError: if there is no network of that name.
  """
  names = {field.name for field in dataclasses.fields(preprocess_lib.Preprocess)}
  training = training_clips(name, stream)
  return preprocess_lib.Preprocess(**{key: value for key, value in training.items() if key in names})


def check_stream(name: str, stream: str) -> None:
  """Checks that a network takes a stream.

  Args:
    name: one of `NAMES`.
    stream: 'rgb', 'flow' or 'joint'.

  Raises:
    I3dError: if it does not, or if there is no network of that name.
  """
  streams = get(name).streams
  if stream not in streams:
    apart = "; train its streams apart, and evaluate joins them" if stream == "joint" else ""
    raise errors.I3dError(f"stream is {stream!r}; {name} takes {' or '.join(streams)}{apart}")


def check_segments(name: str, segment_frames: int) -> None:
  """Checks that a network that sees differences between the frames of a segment is given segments of so many.

  Args:
    name: one of `NAMES`.
    segment_frames: frames that are taken together.

  Raises:
    I3dError: if it is not.
  """
  snippet = get(name).arguments.get("snippet", 1)
  if snippet not in (1, segment_frames):
    raise errors.I3dError(
      f"segment_frames is {segment_frames}; {name} sees the differences between the {snippet} frames of each segment, "
      f"so that it must be {snippet}"
    )
