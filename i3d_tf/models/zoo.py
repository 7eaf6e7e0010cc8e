"""Every network by name: what it takes, how it is tested, what is published of it. Imports no TensorFlow.

`python -m i3d_tf.models` prints the table, which is put together from one of each family.
"""

from collections.abc import Mapping
import dataclasses
import types
from typing import Any

from i3d_tf import errors
from i3d_tf.models import preprocess as preprocess_lib
from i3d_tf.models import zoo_entry
from i3d_tf.models import zoo_inception
from i3d_tf.models import zoo_paper
from i3d_tf.models import zoo_resnet
from i3d_tf.models import zoo_x3d

_FAMILIES = (zoo_paper.MODELS, zoo_inception.MODELS, zoo_resnet.MODELS, zoo_x3d.MODELS)
MODELS: Mapping[str, zoo_entry.Entry] = types.MappingProxyType(
  {name: entry for family in _FAMILIES for name, entry in family.items()}
)


def get(name: str) -> zoo_entry.Entry:
  """The entry of a network.

  Raises:
    I3dError: if there is none of that name.
  """
  if name not in MODELS:
    raise errors.I3dError(f"--model is {name!r}; there are {', '.join(MODELS)}")
  return MODELS[name]


def differ_in_clips_only(name: str, other: str) -> bool:
  """Whether the two are one network, made for other clips, so that the weights of one fit the other."""
  one, two = get(name), get(other)
  return (one.constructor, dict(one.arguments)) == (two.constructor, dict(two.arguments))


def training_clips(name: str, stream: str) -> dict[str, Any]:
  """What a clip of training is for a network and stream, by the names of `clip_config.TrainClips`."""
  training = get(name).training
  return {key: value for key, value in training.items() if stream != "rgb" or not key.startswith("flow_")}


def preprocess(name: str, stream: str) -> preprocess_lib.Preprocess:
  """Returns the transform from a video to a clip that a network of a stream is trained with."""
  names = {field.name for field in dataclasses.fields(preprocess_lib.Preprocess)}
  training = training_clips(name, stream)
  return preprocess_lib.Preprocess(**{key: value for key, value in training.items() if key in names})


def check_stream(name: str, stream: str) -> None:
  """Raises I3dError if the network cannot take the stream."""
  streams = get(name).streams
  if stream not in streams:
    apart = "; train its streams apart, and evaluate joins them" if stream == "joint" else ""
    raise errors.I3dError(f"--stream={stream}: {name} takes {' or '.join(streams)}{apart}")
