"""What the tables of networks say of each. Imports no TensorFlow."""

from collections.abc import Mapping
import dataclasses
import importlib
from typing import Any

# A shorter side of 256 pixels, of which 224 x 224 are seen.
FULL_SIZE: Mapping[str, int] = {"short_side": 256, "crop": 224}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """One network.

  Attributes:
    title: in a few words.
    constructor: module and class.
    arguments: of the constructor, that make of the class this network and no other of its family.
    streams: what it can be trained on: 'rgb', 'flow', or 'joint' for both at once.
    options: arguments of the constructor, beside those that all have, by the names of `saved.ModelInfo`.
    trunk: what the names of the network of images begin with that it holds or is inflated from, '{stream}' standing for
      the stream; None if there is none.
    base: the name of that network of images.
    training: what a clip of training is, by the names of `clip_config.TrainClips`.
    test: protocol and number of clips or frames of its test, by the names of `clip_config.EvalClips`; the clips are
      those of training.
    parameters: trained values by stream, for 400 classes.
    giga_multiply_adds: of a clip of training, forward, by stream. One multiplication and addition counts 1, those on
      padding included; biases, batch norm, pools and gates between units are not counted.
    accuracies: published top-1 accuracy in percent on Kinetics-400, by what it started from ('scratch', 'imagenet', or
      'unknown' if its source does not say) and by stream; of the paper's networks on the test set, of later ones on the
      validation set.
    source: of architecture and accuracies.
  """

  title: str
  constructor: str
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  streams: tuple[str, ...]
  options: tuple[str, ...] = ()
  trunk: str | None = None
  base: str = "inception_v1"
  training: Mapping[str, Any]
  test: Mapping[str, Any]
  parameters: Mapping[str, int]
  giga_multiply_adds: Mapping[str, float]
  accuracies: Mapping[str, Mapping[str, float]]
  source: str

  def make(self, num_classes: int, **options: Any):
    """The network, not yet built."""
    module, _, name = self.constructor.partition(":")
    return getattr(importlib.import_module(module), name)(num_classes, **self.arguments, **options)
